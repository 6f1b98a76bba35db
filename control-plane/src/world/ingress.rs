//! `Ingress` on the model of `Gateway` and `HTTPRoute`.
//!
//! An `IngressClass` of ours names a `Gateway`. The rules of its Ingresses go to all HTTP and HTTPS listeners of that
//! gateway, after its routes; each host of `tls` is a listener of its own on the ports of the HTTPS listeners.
//!
//! A host name is matched first, then the path. `*.` of an Ingress stands for one label, where that of a route stands
//! for any number: the rules of such a host match the host name, too, and what has more labels gets the rules
//! without a host. What no path matches goes to `defaultBackend`: that of an Ingress which has the host, else that of
//! the oldest which has one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_api::apis::standard::httproutes::{
    HttpRouteRulesMatches, HttpRouteRulesMatchesHeaders, HttpRouteRulesMatchesHeadersType,
    HttpRouteRulesMatchesPath, HttpRouteRulesMatchesPathType,
};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressClass, IngressTLS,
};

use super::route::{Backend, Filters, Route, Rule, covers, created, escape, intersect};
use super::{
    Gateway, GatewayListener, ListenerMode, Policies, Service, Status, TlsSecret, port_number,
};
use crate::model::{Key, Kind, Model, Stored};

/// The `controller` of the ingress classes that are ours.
const CONTROLLER: &str = "outrigger.dev/ingress-controller";

/// The gateways that serve Ingresses.
pub(super) fn serving(model: &Model) -> BTreeSet<Key> {
    model
        .ingress_classes
        .values()
        .filter(|class| is_ours(&class.object))
        .filter_map(|class| gateway_of(&class.object).ok())
        .collect()
}

/// Attaches all Ingresses of our classes to their gateways.
pub(super) fn attach(
    model: &Model,
    secrets: &BTreeMap<Key, Arc<TlsSecret>>,
    services: &BTreeMap<Key, Service>,
    gateways: &mut BTreeMap<Key, Gateway>,
    statuses: &mut Vec<Status>,
) {
    let classes = classes(model, gateways, statuses);
    let mut by_gateway: BTreeMap<Key, Vec<Placed<'_>>> = BTreeMap::new();
    for (key, stored) in in_order(model) {
        let mut status = Status::new(Kind::Ingress, key, &stored.origin);
        match class_of(model, &classes, &stored.object) {
            None => {}
            Some(Ok(gateway)) => {
                let placed = Placed::read(key, &stored.object, services, status);
                by_gateway.entry(gateway).or_default().push(placed);
            }
            Some(Err((reason, message))) => {
                status.fails("", "Accepted", reason, message);
                statuses.push(status);
            }
        }
    }
    for (key, mut placed) in by_gateway {
        if let Some(gateway) = gateways.get_mut(&key) {
            place(model, secrets, gateway, &mut placed);
        }
        statuses.extend(placed.into_iter().map(|placed| placed.status));
    }
}

/// The oldest first, then by name.
fn in_order(model: &Model) -> Vec<(&Key, &Stored<Ingress>)> {
    let mut all: Vec<_> = model.ingresses.iter().collect();
    all.sort_by_key(|(_, stored)| {
        let created = created(&stored.object.metadata);
        (created.is_none(), created)
    });
    all
}

fn is_ours(class: &IngressClass) -> bool {
    let spec = class.spec.as_ref();
    spec.and_then(|spec| spec.controller.as_deref()) == Some(CONTROLLER)
}

/// The gateway that a class names.
fn gateway_of(class: &IngressClass) -> Result<Key, String> {
    let spec = class.spec.as_ref();
    let Some(parameters) = spec.and_then(|spec| spec.parameters.as_ref()) else {
        return Err("`parameters` have to name a Gateway".to_owned());
    };
    let group = parameters.api_group.as_deref().unwrap_or_default();
    if (group, parameters.kind.as_str()) != ("gateway.networking.k8s.io", "Gateway") {
        return Err(format!("{group}/{} is no Gateway", parameters.kind));
    }
    match &parameters.namespace {
        Some(namespace) => Ok(Key::new(namespace, &parameters.name)),
        None => Err("a Gateway has a namespace: `scope: Namespace` is needed".to_owned()),
    }
}

type Classes<'a> = BTreeMap<&'a str, Result<Key, String>>;

fn classes<'a>(
    model: &'a Model,
    gateways: &BTreeMap<Key, Gateway>,
    statuses: &mut Vec<Status>,
) -> Classes<'a> {
    let mut classes = Classes::new();
    for (key, stored) in &model.ingress_classes {
        if !is_ours(&stored.object) {
            continue;
        }
        let found = gateway_of(&stored.object).and_then(|gateway| {
            if gateways.contains_key(&gateway) {
                Ok(gateway)
            } else {
                Err(format!("there is no Gateway {gateway} of ours"))
            }
        });
        let mut status = Status::new(Kind::IngressClass, key, &stored.origin);
        match &found {
            Ok(_) => status.holds("", "Accepted"),
            Err(message) => status.fails("", "Accepted", "InvalidParameters", message),
        }
        statuses.push(status);
        classes.insert(&key.name, found);
    }
    classes
}

/// The gateway of an Ingress; none if it is another controller's.
fn class_of(
    model: &Model,
    classes: &Classes<'_>,
    ingress: &Ingress,
) -> Option<Result<Key, (&'static str, String)>> {
    let named = ingress
        .spec
        .as_ref()
        .and_then(|spec| spec.ingress_class_name.as_deref());
    let annotation = || {
        let annotations = ingress.metadata.annotations.as_ref()?;
        annotations
            .get("kubernetes.io/ingress.class")
            .map(String::as_str)
    };
    let is_default = |class: &IngressClass| {
        let annotations = class.metadata.annotations.as_ref();
        let value =
            annotations.and_then(|all| all.get("ingressclass.kubernetes.io/is-default-class"));
        value.is_some_and(|value| value == "true")
    };
    let default = || {
        let mut all = model.ingress_classes.iter();
        all.find(|(_, class)| is_default(&class.object))
            .map(|(key, _)| key.name.as_str())
    };
    let Some(name) = named.or_else(annotation).or_else(default) else {
        let message = "there is no `ingressClassName`, and no class is the default".to_owned();
        return Some(Err(("NoIngressClass", message)));
    };
    match classes.get(name) {
        Some(Ok(gateway)) => Some(Ok(gateway.clone())),
        Some(Err(message)) => {
            let message = format!("IngressClass {name}: {message}");
            Some(Err(("InvalidParameters", message)))
        }
        None if model.ingress_classes.contains_key(&Key::new("", name)) => None,
        None => {
            let message = format!("there is no IngressClass {name}");
            Some(Err(("InvalidParameters", message)))
        }
    }
}

/// The path of a rule and where it leads.
#[derive(Clone)]
struct PathRule {
    path: HttpRouteRulesMatchesPath,
    target: Option<(Key, u16)>,
}

/// An Ingress on its way to its gateway.
struct Placed<'a> {
    key: &'a Key,
    created: Option<String>,
    /// By host; none for the rules without one.
    hosts: BTreeMap<Option<String>, Vec<PathRule>>,
    default: Option<PathRule>,
    tls: &'a [IngressTLS],
    status: Status,
}

impl<'a> Placed<'a> {
    fn read(
        key: &'a Key,
        ingress: &'a Ingress,
        services: &BTreeMap<Key, Service>,
        mut status: Status,
    ) -> Self {
        let mut missing = Vec::new();
        let mut target = |backend: &IngressBackend| match resolve(services, &key.namespace, backend)
        {
            Ok(target) => Some(target),
            Err(problem) => {
                missing.push(problem);
                None
            }
        };
        let spec = ingress.spec.as_ref();
        let mut hosts: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for rule in spec
            .and_then(|spec| spec.rules.as_deref())
            .unwrap_or_default()
        {
            let host = rule.host.clone().filter(|host| !host.is_empty());
            let paths = hosts.entry(host).or_default();
            for found in rule.http.iter().flat_map(|http| &http.paths) {
                paths.push(PathRule {
                    path: path_match(found),
                    target: target(&found.backend),
                });
            }
        }
        let default = spec.and_then(|spec| spec.default_backend.as_ref());
        let default = default.map(|backend| PathRule {
            path: HttpRouteRulesMatchesPath {
                r#type: Some(HttpRouteRulesMatchesPathType::PathPrefix),
                value: Some("/".to_owned()),
            },
            target: target(backend),
        });
        match missing.first() {
            None => status.holds("", "ResolvedRefs"),
            Some((reason, _)) => {
                let all: Vec<_> = missing.iter().map(|(_, message)| &**message).collect();
                status.fails("", "ResolvedRefs", reason, all.join("; "));
            }
        }
        Self {
            key,
            created: created(&ingress.metadata),
            hosts,
            default,
            tls: spec
                .and_then(|spec| spec.tls.as_deref())
                .unwrap_or_default(),
            status,
        }
    }

    fn route(&self, host: Option<&str>, rules: &[PathRule], labels: Labels) -> Arc<Route> {
        let headers = host
            .and_then(|host| labels.matcher(host))
            .map(|it| vec![it]);
        let rules = rules.iter().map(|rule| Rule {
            name: None,
            matches: vec![HttpRouteRulesMatches {
                path: Some(rule.path.clone()),
                headers: headers.clone(),
                ..HttpRouteRulesMatches::default()
            }],
            filters: Filters::default(),
            backends: vec![Backend {
                target: rule.target.clone(),
                weight: 1,
                filters: Filters::default(),
            }],
            timeout: None,
            backend_timeout: None,
        });
        Arc::new(Route {
            kind: Kind::Ingress,
            key: self.key.clone(),
            hostnames: host.map(str::to_owned).into_iter().collect(),
            rules: rules.collect(),
            created: self.created.clone(),
        })
    }
}

fn path_match(found: &HTTPIngressPath) -> HttpRouteRulesMatchesPath {
    let kind = match found.path_type.as_str() {
        "Exact" => HttpRouteRulesMatchesPathType::Exact,
        // `ImplementationSpecific` is what `Prefix` is.
        _ => HttpRouteRulesMatchesPathType::PathPrefix,
    };
    let path = found.path.as_deref().filter(|path| !path.is_empty());
    HttpRouteRulesMatchesPath {
        r#type: Some(kind),
        value: Some(path.unwrap_or("/").to_owned()),
    }
}

fn resolve(
    services: &BTreeMap<Key, Service>,
    namespace: &str,
    backend: &IngressBackend,
) -> Result<(Key, u16), (&'static str, String)> {
    let Some(service) = &backend.service else {
        let message = "`resource` is not supported, only `service`".to_owned();
        return Err(("InvalidKind", message));
    };
    let key = Key::new(namespace, &service.name);
    let not_found = |message: String| ("BackendNotFound", message);
    let found = services
        .get(&key)
        .ok_or_else(|| not_found(format!("there is no Service {key}")))?;
    let wanted = service.port.as_ref();
    let by_number = wanted.and_then(|port| port.number).and_then(port_number);
    let by_name = wanted.and_then(|port| port.name.as_deref());
    let port = found.ports.iter().find(|port| match (by_number, by_name) {
        (Some(number), _) => port.number == number,
        (None, Some(name)) => port.name.as_deref() == Some(name),
        (None, None) => false,
    });
    let port = port.ok_or_else(|| {
        let wanted = by_number.map(|number| number.to_string());
        let wanted = wanted.or_else(|| by_name.map(str::to_owned));
        let wanted = wanted.unwrap_or_default();
        not_found(format!("Service {key} has no port {wanted}"))
    })?;
    Ok((key, port.number))
}

/// How many labels the `*` of a host stands for.
#[derive(Clone, Copy)]
enum Labels {
    One,
    MoreThanOne,
}

impl Labels {
    /// What a host name has to be beside what its virtual host says; nothing for one without a `*`.
    fn matcher(self, host: &str) -> Option<HttpRouteRulesMatchesHeaders> {
        let rest = host.strip_prefix("*.")?;
        let star = match self {
            Self::One => "[^.:]+",
            Self::MoreThanOne => "[^.:]+([.][^.:]+)+",
        };
        Some(HttpRouteRulesMatchesHeaders {
            name: ":authority".to_owned(),
            r#type: Some(HttpRouteRulesMatchesHeadersType::RegularExpression),
            value: format!("(?i){star}[.]{}(:[0-9]+)?", escape(rest)),
        })
    }
}

/// The routes of all Ingresses of a gateway, those that go first first.
fn routes(placed: &[Placed<'_>]) -> Vec<Arc<Route>> {
    let hosts = hosts_of(placed);
    let is_wildcard = |host: &&str| host.starts_with("*.");
    let wildcards: Vec<_> = hosts
        .iter()
        .filter_map(|host| host.as_deref().filter(is_wildcard))
        .collect();
    let mut found = Vec::new();
    let mut add = |one: &Placed<'_>, host: Option<&str>, rules: &[PathRule]| {
        found.push(one.route(host, rules, Labels::One));
        if host.is_none() {
            let wider = wildcards.iter();
            found.extend(wider.map(|it| one.route(Some(it), rules, Labels::MoreThanOne)));
        }
    };
    for one in placed {
        for (host, rules) in &one.hosts {
            let mut rules = rules.clone();
            rules.extend(one.default.clone());
            add(one, host.as_deref(), &rules);
        }
    }
    // What nobody's own default has taken.
    for one in placed {
        let Some(default) = &one.default else {
            continue;
        };
        for host in hosts.iter().chain([&None]).collect::<BTreeSet<_>>() {
            if !one.hosts.contains_key(host) {
                add(one, host.as_deref(), std::slice::from_ref(default));
            }
        }
    }
    found
}

fn place(
    model: &Model,
    secrets: &BTreeMap<Key, Arc<TlsSecret>>,
    gateway: &mut Gateway,
    placed: &mut [Placed<'_>],
) {
    let ports = https_ports(model, &gateway.key);
    let about = format!("Gateway {}", gateway.key);
    for one in placed.iter_mut() {
        terminate(secrets, &ports, gateway, one);
    }
    let hosts = hosts_of(placed);
    let mut attached = BTreeSet::new();
    for route in routes(placed) {
        for listener in &mut gateway.listeners {
            let is_http = matches!(listener.mode, ListenerMode::Http | ListenerMode::Https(_));
            if is_http && serves(listener, &route, &hosts) {
                listener.routes.push(Arc::clone(&route));
                attached.insert(route.key.clone());
            }
        }
    }
    for one in placed {
        if attached.contains(one.key) {
            one.status.holds(&about, "Accepted");
        } else {
            let message = "no HTTP or HTTPS listener of the Gateway has a host name of the Ingress";
            let reason = "NoMatchingListenerHostname";
            one.status.fails(&about, "Accepted", reason, message);
        }
    }
}

/// Whether a listener serves a route: they have a host name in common that no narrower host of an Ingress has.
fn serves(listener: &GatewayListener, route: &Route, hosts: &BTreeSet<Option<String>>) -> bool {
    let mine = listener.hostname.as_deref();
    let wanted = route.hostnames.first().map(String::as_str);
    let common = match wanted {
        None => mine.map(str::to_owned),
        Some(wanted) => match intersect(mine, wanted) {
            None => return false,
            common => common,
        },
    };
    let Some(common) = common else { return true };
    let mut narrower = hosts.iter().flatten().filter(|host| match wanted {
        None => true,
        // A wildcard covers itself, too.
        Some(wanted) => *host != wanted && covers(wanted, host),
    });
    !narrower.any(|host| *host == common || covers(host, &common))
}

fn hosts_of(placed: &[Placed<'_>]) -> BTreeSet<Option<String>> {
    let hosts = placed.iter().flat_map(|one| one.hosts.keys());
    hosts.cloned().collect()
}

/// The ports of a gateway on which HTTPS is spoken, whatever became of the listeners' own certificates.
fn https_ports(model: &Model, gateway: &Key) -> BTreeSet<u16> {
    let written = model.gateways.get(gateway);
    let listeners = written.map_or(&[][..], |stored| &stored.object.spec.listeners[..]);
    let https = listeners.iter().filter(|one| one.protocol == "HTTPS");
    let alone = https.filter(|one| {
        let mut others = listeners.iter().filter(|other| other.port == one.port);
        others.all(|other| matches!(other.protocol.as_str(), "HTTPS" | "TLS"))
    });
    alone.filter_map(|one| port_number(one.port)).collect()
}

/// Adds a listener for each host of `tls`.
fn terminate(
    secrets: &BTreeMap<Key, Arc<TlsSecret>>,
    ports: &BTreeSet<u16>,
    gateway: &mut Gateway,
    one: &mut Placed<'_>,
) {
    for (index, tls) in one.tls.iter().enumerate() {
        let about = format!("spec.tls[{index}]");
        // Without a secret, the Gateway's own listeners serve the hosts.
        let Some(name) = &tls.secret_name else {
            continue;
        };
        let secret = Key::new(&one.key.namespace, name);
        if !secrets.contains_key(&secret) {
            let message = format!("there is no usable TLS Secret {secret}");
            let reason = "InvalidCertificateRef";
            one.status.fails(&about, "ResolvedRefs", reason, message);
            continue;
        }
        if ports.is_empty() {
            let message = format!("Gateway {} has no listener of HTTPS", gateway.key);
            one.status
                .fails(&about, "Accepted", "PortUnavailable", message);
            continue;
        }
        let named: BTreeSet<Option<String>> = match tls.hosts.as_deref().unwrap_or_default() {
            [] if one.hosts.is_empty() => BTreeSet::from([None]),
            [] => one.hosts.keys().cloned().collect(),
            hosts => hosts.iter().cloned().map(Some).collect(),
        };
        let mut conflicts = Vec::new();
        for (port, host) in ports
            .iter()
            .flat_map(|port| named.iter().map(move |host| (port, host)))
        {
            let mode = ListenerMode::Https(vec![secret.clone()]);
            let mut known = gateway.listeners.iter();
            match known.find(|known| known.port == *port && known.hostname == *host) {
                Some(known) if known.mode == mode => {}
                Some(known) => conflicts.push(format!(
                    "listener {} has {} on port {port}",
                    known.name,
                    host.as_deref().unwrap_or("all host names")
                )),
                None => gateway.listeners.push(GatewayListener {
                    name: format!("ingress/{}", host.as_deref().unwrap_or("*")),
                    port: *port,
                    hostname: host.clone(),
                    mode,
                    routes: Vec::new(),
                    policies: Policies::default(),
                }),
            }
        }
        if conflicts.is_empty() {
            one.status.holds(&about, "Accepted");
        } else {
            let message = conflicts.join("; ");
            one.status
                .fails(&about, "Accepted", "HostnameConflict", message);
        }
    }
}
