//! `BackendTLSPolicy`: how the process behind a service is called with TLS of its own.
//!
//! A policy is for gateways and sidecars alike. Endpoints behind a sidecar are called with the mesh's mTLS, which says
//! more; the policy is for the others. A policy that cannot be followed lets nothing through in plain text: the
//! service has no endpoints then, and a request is answered with 503.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, OnceLock};

use gateway_api::apis::standard::backendtlspolicies::{
    BackendTlsPolicy, BackendTlsPolicySpec, BackendTlsPolicyTargetRefs,
    BackendTlsPolicyValidationSubjectAltNamesType as SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::route::created;
use super::{Gateway, Service, Status};
use crate::model::{Key, Kind, Model, Stored};

/// How a port is called with TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendTls {
    /// As it says.
    Valid(Arc<Validation>),
    /// Not at all: a policy says that TLS is needed, and not how in a way that can be followed.
    Broken,
}

/// Whose certificate is good.
#[derive(Debug, PartialEq, Eq)]
pub struct Validation {
    /// The server name that is asked for.
    pub hostname: String,
    /// The names of which the certificate has to have one.
    pub names: Vec<SubjectAltName>,
    /// What identifies the roots among those of a proxy.
    pub roots_name: String,
    /// The roots, in PEM.
    pub roots: Arc<str>,
}

/// A name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectAltName {
    /// A host name, which a wildcard of the certificate may cover.
    Hostname(String),
    /// A URI, as a whole.
    Uri(String),
}

/// Why something does not hold.
type Problem = (&'static str, String);

/// Resolves all policies and sets [`super::ServicePort::tls`].
pub(super) fn apply(
    model: &Model,
    services: &mut BTreeMap<Key, Service>,
    gateways: &BTreeMap<Key, Gateway>,
    statuses: &mut Vec<Status>,
) {
    for (key, stored) in &model.config_maps {
        let mut status = Status::new(Kind::ConfigMap, key, &stored.origin);
        status.holds("", "Accepted");
        statuses.push(status);
    }
    let mut ancestors: BTreeMap<&Key, BTreeSet<&Key>> = BTreeMap::new();
    for gateway in gateways.values() {
        let routes = gateway.listeners.iter().flat_map(|one| &one.routes);
        let backends = routes.flat_map(|route| route.rules.iter().flat_map(|rule| &rule.backends));
        for (service, _) in backends.filter_map(|backend| backend.target.as_ref()) {
            ancestors.entry(service).or_default().insert(&gateway.key);
        }
    }
    let mut taken = Taken::new();
    for (key, stored) in in_order(model) {
        let mut status = Status::new(Kind::BackendTlsPolicy, key, &stored.origin);
        let read = read(model, key, &stored.object.spec);
        let mut about: BTreeMap<String, Option<Problem>> = BTreeMap::new();
        for (index, target) in stored.object.spec.target_refs.iter().enumerate() {
            let service = Key::new(&key.namespace, &target.name);
            let problem = claim(services, &mut taken, key, target).err();
            if problem.is_none() {
                set(
                    services,
                    &taken,
                    &service,
                    target.section_name.as_deref(),
                    &read.tls,
                );
            }
            let problem = problem.or_else(|| read.refused.clone());
            let mut places: Vec<_> = ancestors
                .get(&service)
                .into_iter()
                .flatten()
                .map(|gateway| format!("Gateway {gateway}"))
                .collect();
            if places.is_empty() {
                places.push(match services.contains_key(&service) {
                    true => format!("Service {service}"),
                    false => format!("spec.targetRefs[{index}]"),
                });
            }
            for place in places {
                let known = about.entry(place).or_default();
                *known = known.take().or_else(|| problem.clone());
            }
        }
        for (place, problem) in about {
            match problem {
                None => status.holds(&place, "Accepted"),
                Some((reason, message)) => status.fails(&place, "Accepted", reason, message),
            }
            match &read.unresolved {
                None => status.holds(&place, "ResolvedRefs"),
                Some((reason, message)) => {
                    status.fails(&place, "ResolvedRefs", reason, message.clone());
                }
            }
        }
        statuses.push(status);
    }
}

/// The oldest first, then by namespace and name.
fn in_order(model: &Model) -> Vec<(&Key, &Stored<BackendTlsPolicy>)> {
    let mut all: Vec<_> = model.backend_tls_policies.iter().collect();
    all.sort_by_key(|(_, stored)| {
        let created = created(&stored.object.metadata);
        (created.is_none(), created)
    });
    all
}

/// Which policy has a service, or one of its ports by name.
type Taken = BTreeMap<(Key, Option<String>), Key>;

fn claim(
    services: &BTreeMap<Key, Service>,
    taken: &mut Taken,
    policy: &Key,
    target: &BackendTlsPolicyTargetRefs,
) -> Result<(), Problem> {
    if !target.group.is_empty() || target.kind != "Service" {
        let message = format!("{}/{} is no Service", target.group, target.kind);
        return Err(("InvalidKind", message));
    }
    let key = Key::new(&policy.namespace, &target.name);
    let Some(service) = services.get(&key) else {
        return Err(("TargetNotFound", format!("there is no Service {key}")));
    };
    if let Some(section) = &target.section_name
        && !service
            .ports
            .iter()
            .any(|port| port.name.as_ref() == Some(section))
    {
        let message = format!("Service {key} has no port of the name {section}");
        return Err(("TargetNotFound", message));
    }
    let place = (key, target.section_name.clone());
    if let Some(other) = taken.get(&place) {
        let message = format!("BackendTLSPolicy {other} is for the same target and goes before");
        return Err(("Conflicted", message));
    }
    taken.insert(place, policy.clone());
    Ok(())
}

/// A policy for a port goes before one for the whole service.
fn set(
    services: &mut BTreeMap<Key, Service>,
    taken: &Taken,
    key: &Key,
    section: Option<&str>,
    tls: &BackendTls,
) {
    let Some(service) = services.get_mut(key) else {
        return;
    };
    for port in &mut service.ports {
        let is_meant = match section {
            Some(section) => port.name.as_deref() == Some(section),
            None => port.name.is_none() || !taken.contains_key(&(key.clone(), port.name.clone())),
        };
        if is_meant {
            port.tls = Some(tls.clone());
        }
    }
}

/// What a policy asks for.
struct Read {
    tls: BackendTls,
    /// Why it is not accepted.
    refused: Option<Problem>,
    /// Which references lead nowhere.
    unresolved: Option<Problem>,
}

fn read(model: &Model, key: &Key, spec: &BackendTlsPolicySpec) -> Read {
    let broken = |problem: Problem, unresolved: Option<Problem>| Read {
        tls: BackendTls::Broken,
        refused: Some(problem),
        unresolved,
    };
    if spec
        .options
        .as_ref()
        .is_some_and(|options| !options.is_empty())
    {
        return broken(("Invalid", "`options` are not supported".to_owned()), None);
    }
    let known = spec.validation.well_known_ca_certificates.as_deref();
    let (roots_name, roots, unresolved) = match known.filter(|known| !known.is_empty()) {
        Some("System") => match system_roots() {
            Some(roots) => ("system-roots".to_owned(), roots, None),
            None => {
                let message = "the control plane's machine has no file of well-known roots";
                return broken(("Invalid", message.to_owned()), None);
            }
        },
        Some(other) => {
            let message = format!("wellKnownCACertificates: {other:?} is not System");
            return broken(("Invalid", message), None);
        }
        None => match roots_of(model, key, spec) {
            (roots, unresolved) if roots.is_empty() => {
                let message = "no reference leads to a CA certificate".to_owned();
                return broken(("NoValidCACertificate", message), unresolved);
            }
            (roots, unresolved) => (format!("backend-tls://{key}"), Arc::from(roots), unresolved),
        },
    };
    let names = spec.validation.subject_alt_names.iter().flatten();
    let mut names: Vec<_> = names
        .filter_map(|name| match name.r#type {
            SanType::Hostname => name.hostname.clone().map(SubjectAltName::Hostname),
            SanType::Uri => name.uri.clone().map(SubjectAltName::Uri),
        })
        .collect();
    let hostname = spec.validation.hostname.clone();
    if names.is_empty() {
        names.push(SubjectAltName::Hostname(hostname.clone()));
    }
    Read {
        tls: BackendTls::Valid(Arc::new(Validation {
            hostname,
            names,
            roots_name,
            roots,
        })),
        refused: None,
        unresolved,
    }
}

/// The certificates of all references that lead to some, and what is wrong with the others.
fn roots_of(model: &Model, key: &Key, spec: &BackendTlsPolicySpec) -> (String, Option<Problem>) {
    let mut roots = String::new();
    let mut problems: Vec<Problem> = Vec::new();
    for reference in spec.validation.ca_certificate_refs.iter().flatten() {
        if !reference.group.is_empty() || reference.kind != "ConfigMap" {
            let message = format!("{}/{} is no ConfigMap", reference.group, reference.kind);
            problems.push(("InvalidKind", message));
            continue;
        }
        let name = Key::new(&key.namespace, &reference.name);
        let bad = |what: &str| ("InvalidCACertificateRef", format!("ConfigMap {name}{what}"));
        let Some(stored) = model.config_maps.get(&name) else {
            problems.push(bad(" is not there"));
            continue;
        };
        let data = stored.object.data.as_ref();
        match data.and_then(|data| data.get("ca.crt")) {
            None => problems.push(bad(" has no key ca.crt")),
            Some(text) if !is_certificates(text) => {
                problems.push(bad(": ca.crt is no PEM certificate"))
            }
            Some(text) => {
                roots.push_str(text.trim_end());
                roots.push('\n');
            }
        }
    }
    let problem = problems.first().map(|(reason, _)| {
        let all: Vec<_> = problems.iter().map(|(_, message)| &**message).collect();
        (*reason, all.join("; "))
    });
    (roots, problem)
}

fn is_certificates(text: &str) -> bool {
    let mut store = rustls::RootCertStore::empty();
    let mut found = false;
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        found = certificate.is_ok_and(|certificate| store.add(certificate).is_ok());
        if !found {
            return false;
        }
    }
    found
}

/// The roots that this machine trusts. They are sent to the proxies, so that all trust the same, whatever their
/// machines trust; read once. `SSL_CERT_FILE` names another file, as for OpenSSL; where it is of no use, there are none.
pub(super) fn system_roots() -> Option<Arc<str>> {
    static ROOTS: OnceLock<Option<Arc<str>>> = OnceLock::new();
    const FILES: [&str; 5] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    let read = || {
        if let Some(file) = std::env::var_os("SSL_CERT_FILE") {
            return fs::read_to_string(file).ok().map(Arc::from);
        }
        FILES
            .iter()
            .find_map(|file| fs::read_to_string(file).ok().map(Arc::from))
    };
    ROOTS.get_or_init(read).clone()
}
