//! What is: services with their endpoints, workloads, gateways and routes, every reference resolved.
//!
//! A [`World`] never changes; a change of the input or of the registry makes the next one.

mod backend_tls;
mod gateway;
mod ingress;
mod policy;
mod route;
mod service;
mod status;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::dns::Names;
use crate::model::{
    AuthorizationSpec, Health, Key, Kind, LocalRateLimit, Model, MtlsMode, Retries,
    TrafficPolicySpec,
};
pub use backend_tls::{BackendTls, SubjectAltName, Validation};
pub use policy::{
    ApiKeys, CallLimits, Demand, ExtAuthz, Jwt, Keys, Missing, Policies, Policy, Provider,
    Requirement,
};
pub use route::{Backend, Filters, HeaderChanges, MirrorTo, PathRewrite, Redirect, Route, Rule};
pub(crate) use route::{covers, escape as regex_escape, intersect};
pub use status::{Condition, Status};

/// All of it.
#[derive(Debug)]
pub struct World {
    /// The first part of every identity.
    pub trust_domain: String,
    /// What holds where nothing else is said.
    pub defaults: Defaults,
    /// The services.
    pub services: BTreeMap<Key, Arc<Service>>,
    /// The workloads that have a sidecar.
    pub workloads: BTreeMap<Key, Arc<Workload>>,
    /// The gateways of our class.
    pub gateways: BTreeMap<Key, Arc<Gateway>>,
    /// The TLS secrets.
    pub secrets: BTreeMap<Key, Arc<TlsSecret>>,
    /// What became of each object.
    pub statuses: Vec<Status>,
}

/// What holds where nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "as in the kind MeshDefaults")]
pub struct Defaults {
    pub mtls: MtlsMode,
    pub timeout: Duration,
    pub connect_timeout: Duration,
    pub retries: Option<Retries>,
    pub access_log: Option<String>,
}

/// A service and how it is called.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its key.
    pub key: Key,
    /// `clusterIP`.
    pub address: Option<IpAddr>,
    /// Its ports, each number once.
    pub ports: Vec<ServicePort>,
    /// What its endpoints take.
    pub mtls: MtlsMode,
    /// Its policy, or an empty one.
    pub policy: TrafficPolicySpec,
    /// Who may call it.
    pub authorization: Vec<AuthorizationSpec>,
    /// Routes whose parent is the service, in the order of their precedence.
    pub routes: Vec<Arc<Route>>,
}

impl Service {
    /// The port of this number.
    #[must_use]
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    /// Its name.
    pub name: Option<String>,
    /// Its number.
    pub number: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// Who serves it, in the order of their addresses.
    pub endpoints: Vec<Endpoint>,
    /// The process's own TLS, if it has some.
    pub tls: Option<BackendTls>,
}

/// What is spoken on a port: by `appProtocol`, else by the part of the port's name before a `-`, else HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS of the process's own: `grpc`, `http2`, `h2c`, `kubernetes.io/h2c`.
    Http2,
    /// Bytes: `tcp`, `tls`, `https` and everything unknown in `appProtocol`.
    Tcp,
}

/// Who serves a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Where.
    pub address: SocketAddr,
    /// Whether it takes requests.
    pub health: EndpointHealth,
    /// Its share, from 1.
    pub weight: u32,
    /// Its identity, if it takes mTLS.
    pub identity: Option<String>,
}

/// [`Health`], ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum EndpointHealth {
    Healthy,
    Unhealthy,
    Draining,
}

impl From<Health> for EndpointHealth {
    fn from(health: Health) -> Self {
        match health {
            Health::Healthy => Self::Healthy,
            Health::Unhealthy => Self::Unhealthy,
            Health::Draining => Self::Draining,
        }
    }
}

/// A workload with a sidecar.
#[derive(Debug, PartialEq)]
pub struct Workload {
    /// Its key.
    pub key: Key,
    /// Its SPIFFE identity.
    pub identity: String,
    /// The ports it serves.
    pub inbound: Vec<Inbound>,
    /// The services it calls.
    pub calls: Vec<ResolvedCall>,
}

/// A port that a sidecar serves.
#[derive(Debug, PartialEq)]
pub struct Inbound {
    /// Where the sidecar listens.
    pub listen: SocketAddr,
    /// Where the process does.
    pub app: SocketAddr,
    /// What is spoken.
    pub protocol: Protocol,
    /// What is taken.
    pub mtls: MtlsMode,
    /// Who may call.
    pub authorization: Vec<AuthorizationSpec>,
    /// How often.
    pub rate_limit: Option<LocalRateLimit>,
}

/// A service that a sidecar calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedCall {
    /// The service.
    pub service: Key,
    /// Its port.
    pub port: u16,
    /// Where the sidecar listens; none for what has no sidecar.
    pub listen: Option<SocketAddr>,
}

/// A gateway.
#[derive(Debug, PartialEq)]
pub struct Gateway {
    /// Its key.
    pub key: Key,
    /// Its SPIFFE identity.
    pub identity: String,
    /// Where it listens.
    pub address: IpAddr,
    /// The listeners without a conflict, in their order.
    pub listeners: Vec<GatewayListener>,
}

/// A listener of a gateway.
#[derive(Debug, PartialEq)]
pub struct GatewayListener {
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// The host names it takes; all if not given.
    pub hostname: Option<String>,
    /// What it does.
    pub mode: ListenerMode,
    /// The routes attached, in the order of their precedence.
    pub routes: Vec<Arc<Route>>,
    /// What is asked of requests.
    pub policies: Policies,
}

/// What a listener of a gateway does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerMode {
    /// HTTP.
    Http,
    /// HTTP in TLS, with these secrets.
    Https(Vec<Key>),
    /// TLS that is passed on as it is.
    Passthrough,
    /// TLS with these secrets, and bytes in it.
    TerminateTls(Vec<Key>),
    /// Bytes.
    Tcp,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSecret {
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: String,
}

/// An endpoint that registered itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The service.
    pub service: Key,
    /// The port's number.
    pub port: u16,
    /// Who serves it.
    pub endpoint: Endpoint,
}

/// What is known beside the model.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The endpoints that registered themselves.
    pub registered: &'a [Registered],
    /// The addresses of names.
    pub names: &'a Names,
}

impl World {
    /// Resolves a model without DNS. Services that are as they were in `previous` are the same objects again.
    #[must_use]
    pub fn build(
        model: &Model,
        trust_domain: &str,
        registered: &[Registered],
        previous: Option<&Self>,
    ) -> Self {
        let names = &Names::default();
        Self::build_with(model, trust_domain, Found { registered, names }, previous)
    }

    /// [`Self::build`] with everything that was found beside the model.
    #[must_use]
    pub fn build_with(
        model: &Model,
        trust_domain: &str,
        found: Found<'_>,
        previous: Option<&Self>,
    ) -> Self {
        let mut statuses = Vec::new();
        let defaults = defaults(model, &mut statuses);
        let secrets = secrets(model, &mut statuses);
        for (key, stored) in &model.reference_grants {
            let mut status = Status::new(Kind::ReferenceGrant, key, &stored.origin);
            status.holds("", "Accepted");
            statuses.push(status);
        }
        let mut services =
            service::resolve(model, trust_domain, defaults.mtls, found, &mut statuses);
        let mut gateways = gateway::resolve(model, trust_domain, &secrets, &mut statuses);
        route::attach(model, &mut services, &mut gateways, &mut statuses);
        ingress::attach(model, &secrets, &services, &mut gateways, &mut statuses);
        policy::attach(model, &services, &mut gateways, &mut statuses);
        backend_tls::apply(model, &mut services, &gateways, &mut statuses);
        let services: BTreeMap<_, _> = services
            .into_iter()
            .map(|(key, service)| {
                let known = previous.and_then(|previous| previous.services.get(&key));
                let service = match known.filter(|known| ***known == service) {
                    Some(known) => Arc::clone(known),
                    None => Arc::new(service),
                };
                (key, service)
            })
            .collect();
        let workloads =
            workload::resolve(model, trust_domain, &services, defaults.mtls, &mut statuses);
        let workloads = workloads
            .into_iter()
            .map(|(key, workload)| {
                let known = previous.and_then(|previous| previous.workloads.get(&key));
                let known = known.filter(|known| **known == workload).map(Arc::clone);
                (key, known.unwrap_or(workload))
            })
            .collect();
        unresolved(model, found.names, &mut statuses);
        gateway::finish(&gateways, &mut statuses);
        statuses.sort_by(|a, b| (a.kind, &a.key).cmp(&(b.kind, &b.key)));
        Self {
            trust_domain: trust_domain.to_owned(),
            defaults,
            services,
            workloads,
            gateways: gateways
                .into_iter()
                .map(|(key, gateway)| (key, Arc::new(gateway)))
                .collect(),
            secrets,
            statuses,
        }
    }
}

impl World {
    /// The world of the same model and names after other endpoints of these services have registered themselves: what
    /// [`Self::build_with`] makes of it, for less.
    #[must_use]
    pub fn with_registered(
        &self,
        model: &Model,
        found: Found<'_>,
        services: &BTreeSet<Key>,
    ) -> Self {
        let sources = service::Sources::new(model, &self.trust_domain, found);
        let mut all = self.services.clone();
        for key in services {
            if let Some(known) = all.get_mut(key) {
                let mut service = Service::clone(known);
                sources.update(model, &mut service);
                if **known != service {
                    *known = Arc::new(service);
                }
            }
        }
        Self {
            trust_domain: self.trust_domain.clone(),
            defaults: self.defaults.clone(),
            services: all,
            workloads: self.workloads.clone(),
            gateways: self.gateways.clone(),
            secrets: self.secrets.clone(),
            statuses: self.statuses.clone(),
        }
    }

    /// Whether a workload or a gateway has this identity.
    #[must_use]
    pub fn has_identity(&self, identity: &str) -> bool {
        let mut workloads = self.workloads.values();
        let mut gateways = self.gateways.values();
        workloads.any(|workload| workload.identity == identity)
            || gateways.any(|gateway| gateway.identity == identity)
    }
}

/// The identity of a service account.
fn identity(trust_domain: &str, namespace: &str, service_account: &str) -> String {
    format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
}

/// Says which names cannot be resolved.
fn unresolved(model: &Model, names: &Names, statuses: &mut [Status]) {
    for status in statuses {
        let problems: Vec<String> = match status.kind {
            Kind::Workload => {
                let found = model.workloads.get(&status.key);
                let problem = found.and_then(|it| names.problem(&it.object.spec.address));
                problem.into_iter().collect()
            }
            Kind::Service => {
                let found = model.services.get(&status.key);
                let name = found.and_then(|it| crate::dns::external_name(&it.object));
                name.and_then(|name| names.problem(&name))
                    .into_iter()
                    .collect()
            }
            Kind::EndpointSlice => {
                let found = model.endpoint_slices.get(&status.key).into_iter();
                let endpoints = found.flat_map(|it| &it.object.endpoints);
                let hosts = endpoints.flat_map(|endpoint| &endpoint.addresses);
                hosts
                    .filter_map(|host| names.problem(&host.parse().ok()?))
                    .collect()
            }
            _ => continue,
        };
        if !problems.is_empty() {
            status.fails(
                "addresses",
                "ResolvedRefs",
                "NameNotResolved",
                problems.join("; "),
            );
        }
    }
}

/// The number, where the model has checked that it is a port.
fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok()
}

fn defaults(model: &Model, statuses: &mut Vec<Status>) -> Defaults {
    let mut spec = None;
    for (key, stored) in &model.mesh_defaults {
        let mut status = Status::new(Kind::MeshDefaults, key, &stored.origin);
        status.holds("", "Accepted");
        statuses.push(status);
        spec = Some(stored.object.spec.clone());
    }
    let spec = spec.unwrap_or_default();
    Defaults {
        mtls: spec.mtls.unwrap_or(MtlsMode::Permissive),
        timeout: spec.timeout.unwrap_or(Duration::from_secs(15)),
        connect_timeout: spec.connect_timeout.unwrap_or(Duration::from_secs(5)),
        retries: spec.retries,
        access_log: spec.access_log,
    }
}

fn secrets(model: &Model, statuses: &mut Vec<Status>) -> BTreeMap<Key, Arc<TlsSecret>> {
    let mut secrets = BTreeMap::new();
    for (key, stored) in &model.secrets {
        let mut status = Status::new(Kind::Secret, key, &stored.origin);
        if is_opaque(&stored.object) {
            // Who refers to it says whether it can be used.
            status.holds("", "Accepted");
            statuses.push(status);
            continue;
        }
        match tls_secret(&stored.object) {
            Ok(secret) => {
                status.holds("", "Accepted");
                secrets.insert(key.clone(), Arc::new(secret));
            }
            Err(message) => status.fails("", "Accepted", "InvalidCertificate", message),
        }
        statuses.push(status);
    }
    secrets
}

/// Whether a secret is what its author wants it to be.
fn is_opaque(secret: &k8s_openapi::api::core::v1::Secret) -> bool {
    matches!(secret.type_.as_deref(), None | Some("" | "Opaque"))
}

fn tls_secret(secret: &k8s_openapi::api::core::v1::Secret) -> Result<TlsSecret, String> {
    if secret.type_.as_deref() != Some("kubernetes.io/tls") {
        return Err("only secrets of the types kubernetes.io/tls and Opaque are used".to_owned());
    }
    let field = |name: &str| -> Result<String, String> {
        let plain = secret.string_data.as_ref().and_then(|data| data.get(name));
        let text = match plain {
            Some(text) => text.clone(),
            None => {
                let data = secret.data.as_ref().and_then(|data| data.get(name));
                let bytes = data.ok_or_else(|| format!("{name} is missing"))?.0.clone();
                String::from_utf8(bytes).map_err(|_| format!("{name} is not PEM"))?
            }
        };
        Ok(text)
    };
    let (certificate, key) = (field("tls.crt")?, field("tls.key")?);
    check_pair(&certificate, &key)?;
    Ok(TlsSecret { certificate, key })
}

/// Whether a proxy could use them.
fn check_pair(certificate: &str, key: &str) -> Result<(), String> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("tls.crt: {error}"))?;
    if chain.is_empty() {
        return Err("tls.crt has no certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| format!("tls.key: {error}"))?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
        .map_err(|error| format!("tls.key: {error}"))?;
    rustls::sign::CertifiedKey::new(chain, key)
        .keys_match()
        .map_err(|error| format!("tls.crt and tls.key do not fit: {error}"))
}
