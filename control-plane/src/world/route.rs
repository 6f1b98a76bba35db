//! The routes of all kinds in one form, and the listeners and services to which they are attached.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gateway_api::apis::standard::gateways::{
    GatewayListenersAllowedRoutes, GatewayListenersAllowedRoutesNamespacesFrom,
};
use gateway_api::apis::standard::grpcroutes::{GrpcRoute, GrpcRouteRulesMatches};
use gateway_api::apis::standard::httproutes::{
    HttpRouteParentRefs, HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesFilters,
    HttpRouteRulesFiltersCors, HttpRouteRulesFiltersRequestRedirectScheme,
    HttpRouteRulesFiltersType, HttpRouteRulesMatches, HttpRouteRulesMatchesPath,
    HttpRouteRulesMatchesPathType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::gateway::is_permitted;
use super::{Gateway, ListenerMode, Service, Status, port_number};
use crate::model::{CorsSpec, Key, Kind, Model, Origin, parse_duration};

/// A route of any kind. Matches of TLS and TCP routes are empty.
#[derive(Debug, PartialEq)]
pub struct Route {
    /// Its kind.
    pub kind: Kind,
    /// Its key.
    pub key: Key,
    /// The host names; all if empty.
    pub hostnames: Vec<String>,
    /// The rules in their order.
    pub rules: Vec<Rule>,
    pub(super) created: Option<String>,
}

/// A rule of a route.
#[derive(Debug, PartialEq)]
pub struct Rule {
    /// Its name.
    pub name: Option<String>,
    /// Any of them; everything if empty.
    pub matches: Vec<HttpRouteRulesMatches>,
    /// What happens to a request.
    pub filters: Filters,
    /// Where it goes.
    pub backends: Vec<Backend>,
    /// Time for the whole response.
    pub timeout: Option<Duration>,
    /// Time for one attempt.
    pub backend_timeout: Option<Duration>,
}

/// A service that gets a share.
#[derive(Debug, PartialEq)]
pub struct Backend {
    /// Service and port; none if the reference cannot be resolved: its share is answered with 500.
    pub target: Option<(Key, u16)>,
    /// Its share.
    pub weight: u32,
    /// What happens to its requests only.
    pub filters: Filters,
}

/// What happens to a request.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "as in the Gateway API")]
pub struct Filters {
    pub request_headers: HeaderChanges,
    pub response_headers: HeaderChanges,
    pub redirect: Option<Redirect>,
    pub rewrite_host: Option<String>,
    pub rewrite_path: Option<PathRewrite>,
    pub mirrors: Vec<MirrorTo>,
    pub cors: Option<Arc<CorsSpec>>,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the Gateway API")]
pub struct HeaderChanges {
    pub set: Vec<(String, String)>,
    pub add: Vec<(String, String)>,
    pub remove: Vec<String>,
}

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "as in the Gateway API")]
pub struct Redirect {
    pub scheme: Option<&'static str>,
    pub hostname: Option<String>,
    pub port: Option<u16>,
    pub status: u16,
    pub path: Option<PathRewrite>,
}

/// Another path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// In place of the whole.
    Full(String),
    /// In place of what the prefix match matched.
    Prefix(String),
}

/// Where copies go.
#[derive(Clone, Debug, PartialEq)]
pub struct MirrorTo {
    /// Service and port; none if the reference cannot be resolved: no copies.
    pub target: Option<(Key, u16)>,
    /// How many of `denominator`.
    pub numerator: u32,
    /// 100 if not given.
    pub denominator: u32,
}

/// Resolves all routes and attaches them. Those of a listener or service are sorted: the oldest first, then by name.
pub(super) fn attach(
    model: &Model,
    services: &mut BTreeMap<Key, Service>,
    gateways: &mut BTreeMap<Key, Gateway>,
    statuses: &mut Vec<Status>,
) {
    let mut routes = Vec::new();
    for source in sources(model) {
        let mut status = Status::new(source.kind, source.key, source.origin);
        let Some(route) = resolve(model, services, &source, &mut status) else {
            statuses.push(status);
            continue;
        };
        routes.push((Arc::new(route), source.parents, status));
    }
    routes.sort_by(|(a, ..), (b, ..)| {
        let age = |route: &Route| (route.created.is_none(), route.created.clone());
        (age(a), &a.key).cmp(&(age(b), &b.key))
    });
    for (route, parents, mut status) in routes {
        if parents.is_empty() {
            status.fails(
                "",
                "Accepted",
                "NoMatchingParent",
                "there is no `parentRefs`",
            );
        }
        for parent in &parents {
            let namespace = parent.namespace.as_ref().unwrap_or(&route.key.namespace);
            let key = Key::new(namespace, &parent.name);
            let kind = parent.kind.as_deref().unwrap_or("Gateway");
            let about = format!("{kind} {key}");
            let result = match kind {
                "Gateway" => to_gateway(model, gateways, &key, parent, &route),
                "Service" => to_service(services, &key, parent, &route),
                _ => Err(("InvalidKind", "neither a Gateway nor a Service".to_owned())),
            };
            match result {
                Ok(()) => status.holds(&about, "Accepted"),
                Err((reason, message)) => status.fails(&about, "Accepted", reason, message),
            }
        }
        statuses.push(status);
    }
}

/// A route of any kind as an HTTP route.
struct Source<'a> {
    kind: Kind,
    key: &'a Key,
    origin: &'a Origin,
    created: Option<String>,
    hostnames: Vec<String>,
    parents: Vec<HttpRouteParentRefs>,
    rules: Result<Vec<HttpRouteRules>, String>,
}

fn sources(model: &Model) -> impl Iterator<Item = Source<'_>> {
    let http = model.http_routes.iter().map(|(key, stored)| Source {
        kind: Kind::HttpRoute,
        key,
        origin: &stored.origin,
        created: created(&stored.object.metadata),
        hostnames: stored.object.spec.hostnames.clone().unwrap_or_default(),
        parents: stored.object.spec.parent_refs.clone().unwrap_or_default(),
        rules: Ok(stored.object.spec.rules.clone().unwrap_or_default()),
    });
    let grpc = model.grpc_routes.iter().map(|(key, stored)| Source {
        kind: Kind::GrpcRoute,
        key,
        origin: &stored.origin,
        created: created(&stored.object.metadata),
        hostnames: stored.object.spec.hostnames.clone().unwrap_or_default(),
        parents: reshape(&stored.object.spec.parent_refs).unwrap_or_default(),
        rules: grpc_rules(&stored.object),
    });
    let tls = model.tls_routes.iter().map(|(key, stored)| Source {
        kind: Kind::TlsRoute,
        key,
        origin: &stored.origin,
        created: created(&stored.object.metadata),
        hostnames: stored.object.spec.hostnames.clone(),
        parents: reshape(&stored.object.spec.parent_refs).unwrap_or_default(),
        rules: reshape(&stored.object.spec.rules),
    });
    let tcp = model.tcp_routes.iter().map(|(key, stored)| Source {
        kind: Kind::TcpRoute,
        key,
        origin: &stored.origin,
        created: created(&stored.object.metadata),
        hostnames: Vec::new(),
        parents: reshape(&stored.object.spec.parent_refs).unwrap_or_default(),
        rules: reshape(&stored.object.spec.rules),
    });
    http.chain(grpc).chain(tls).chain(tcp)
}

pub(super) fn created(
    metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
) -> Option<String> {
    metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0.to_string())
}

/// The same fields as another type: the Gateway API has a type of its own for each place.
fn reshape<T: DeserializeOwned + Default>(value: &impl Serialize) -> Result<T, String> {
    let value = serde_json::to_value(value).map_err(|error| error.to_string())?;
    if value.is_null() {
        return Ok(T::default());
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn grpc_rules(route: &GrpcRoute) -> Result<Vec<HttpRouteRules>, String> {
    let mut rules = Vec::new();
    for rule in route.spec.rules.iter().flatten() {
        rules.push(HttpRouteRules {
            backend_refs: Some(reshape(&rule.backend_refs)?),
            filters: Some(reshape(&rule.filters)?),
            matches: Some(
                rule.matches
                    .iter()
                    .flatten()
                    .map(grpc_match)
                    .collect::<Result<_, _>>()?,
            ),
            name: rule.name.clone(),
            timeouts: None,
        });
    }
    Ok(rules)
}

/// A gRPC call is a POST to `/service/method`.
fn grpc_match(found: &GrpcRouteRulesMatches) -> Result<HttpRouteRulesMatches, String> {
    let path = match &found.method {
        None => None,
        Some(method) => {
            let is_regex = method
                .r#type
                .as_ref()
                .is_some_and(|kind| format!("{kind:?}") == "RegularExpression");
            let (kind, value) = match (&method.service, &method.method, is_regex) {
                (None, None, _) => {
                    return Err("a method match needs `service` or `method`".to_owned());
                }
                (Some(service), Some(method), false) => (
                    HttpRouteRulesMatchesPathType::Exact,
                    format!("/{service}/{method}"),
                ),
                (Some(service), None, false) => (
                    HttpRouteRulesMatchesPathType::PathPrefix,
                    format!("/{service}"),
                ),
                (None, Some(method), false) => (
                    HttpRouteRulesMatchesPathType::RegularExpression,
                    format!("/[^/]+/{}", escape(method)),
                ),
                (service, method, true) => {
                    let any = "[^/]+".to_owned();
                    let service = service.as_ref().unwrap_or(&any);
                    let method = method.as_ref().unwrap_or(&any);
                    (
                        HttpRouteRulesMatchesPathType::RegularExpression,
                        format!("/{service}/{method}"),
                    )
                }
            };
            Some(HttpRouteRulesMatchesPath {
                r#type: Some(kind),
                value: Some(value),
            })
        }
    };
    Ok(HttpRouteRulesMatches {
        headers: Some(reshape(&found.headers)?),
        method: None,
        path,
        query_params: None,
    })
}

/// A text as a regular expression that matches only it.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn resolve(
    model: &Model,
    services: &BTreeMap<Key, Service>,
    source: &Source<'_>,
    status: &mut Status,
) -> Option<Route> {
    let written = match &source.rules {
        Ok(rules) => rules,
        Err(message) => {
            status.fails("", "Accepted", "UnsupportedValue", message.clone());
            return None;
        }
    };
    let mut resolver = Resolver {
        model,
        services,
        kind: source.kind,
        namespace: &source.key.namespace,
        missing: Vec::new(),
    };
    let mut rules = Vec::new();
    for (index, rule) in written.iter().enumerate() {
        match resolver.rule(rule) {
            Ok(rule) => rules.push(rule),
            Err(message) => {
                let about = format!("spec.rules[{index}]");
                status.fails(&about, "Accepted", "UnsupportedValue", message);
                return None;
            }
        }
    }
    if let Some((reason, _)) = resolver.missing.first() {
        let all: Vec<_> = resolver
            .missing
            .iter()
            .map(|(_, message)| message.as_str())
            .collect();
        status.fails("", "ResolvedRefs", reason, all.join("; "));
    } else {
        status.holds("", "ResolvedRefs");
    }
    Some(Route {
        kind: source.kind,
        key: source.key.clone(),
        hostnames: source.hostnames.clone(),
        rules,
        created: source.created.clone(),
    })
}

struct Resolver<'a> {
    model: &'a Model,
    services: &'a BTreeMap<Key, Service>,
    kind: Kind,
    namespace: &'a str,
    /// References that lead nowhere: reason and message.
    missing: Vec<(&'static str, String)>,
}

impl Resolver<'_> {
    fn rule(&mut self, rule: &HttpRouteRules) -> Result<Rule, String> {
        let filters = self.filters(rule.filters.as_deref().unwrap_or_default())?;
        let is_prefix = |found: &HttpRouteRulesMatches| {
            found.path.as_ref().is_none_or(|path| {
                matches!(
                    path.r#type,
                    None | Some(HttpRouteRulesMatchesPathType::PathPrefix)
                )
            })
        };
        let matches = rule.matches.clone().unwrap_or_default();
        let redirect_path = filters
            .redirect
            .as_ref()
            .and_then(|redirect| redirect.path.as_ref());
        if matches!(
            filters.rewrite_path.as_ref().or(redirect_path),
            Some(PathRewrite::Prefix(_))
        ) && !matches.iter().all(is_prefix)
        {
            return Err("ReplacePrefixMatch needs matches of the type PathPrefix".to_owned());
        }
        let mut backends = Vec::new();
        for backend in rule.backend_refs.iter().flatten() {
            backends.push(self.backend(backend)?);
        }
        let timeouts = rule.timeouts.as_ref();
        let parse = |text: Option<&String>| text.map(|text| parse_duration(text)).transpose();
        Ok(Rule {
            name: rule.name.clone(),
            matches,
            filters,
            backends,
            timeout: parse(timeouts.and_then(|timeouts| timeouts.request.as_ref()))?,
            backend_timeout: parse(
                timeouts.and_then(|timeouts| timeouts.backend_request.as_ref()),
            )?,
        })
    }

    fn backend(&mut self, backend: &HttpRouteRulesBackendRefs) -> Result<Backend, String> {
        let filters: Vec<HttpRouteRulesFilters> = reshape(&backend.filters)?;
        let filters = self.filters(&filters)?;
        if filters.redirect.is_some()
            || filters.rewrite_path.is_some()
            || !filters.mirrors.is_empty()
            || filters.cors.is_some()
        {
            return Err(
                "of a backend's filters, only those of headers and of the host name are supported"
                    .to_owned(),
            );
        }
        Ok(Backend {
            target: self.target(
                backend.group.as_deref(),
                backend.kind.as_deref(),
                backend.namespace.as_deref(),
                &backend.name,
                backend.port,
            ),
            weight: u32::try_from(backend.weight.unwrap_or(1)).unwrap_or_default(),
            filters,
        })
    }

    fn target(
        &mut self,
        group: Option<&str>,
        kind: Option<&str>,
        namespace: Option<&str>,
        name: &str,
        port: Option<i32>,
    ) -> Option<(Key, u16)> {
        let (group, kind) = (group.unwrap_or_default(), kind.unwrap_or("Service"));
        if !group.is_empty() || kind != "Service" {
            self.missing
                .push(("InvalidKind", format!("{group}/{kind} is no Service")));
            return None;
        }
        let key = Key::new(namespace.unwrap_or(self.namespace), name);
        let from = (
            "gateway.networking.k8s.io",
            self.kind.name(),
            self.namespace,
        );
        if !is_permitted(self.model, from, ("", "Service", &key)) {
            let message = format!(
                "no ReferenceGrant in {} permits Service {key}",
                key.namespace
            );
            self.missing.push(("RefNotPermitted", message));
            return None;
        }
        let Some(service) = self.services.get(&key) else {
            self.missing
                .push(("BackendNotFound", format!("there is no Service {key}")));
            return None;
        };
        let port = port.and_then(port_number);
        match port.filter(|port| service.port(*port).is_some()) {
            Some(port) => Some((key, port)),
            None => {
                let message = match port {
                    Some(port) => format!("Service {key} has no port {port}"),
                    None => format!("the reference to Service {key} has no port"),
                };
                self.missing.push(("BackendNotFound", message));
                None
            }
        }
    }

    fn filters(&mut self, written: &[HttpRouteRulesFilters]) -> Result<Filters, String> {
        let mut filters = Filters::default();
        for filter in written {
            match filter.r#type {
                HttpRouteRulesFiltersType::RequestHeaderModifier => {
                    filters.request_headers = changes(&filter.request_header_modifier)?;
                }
                HttpRouteRulesFiltersType::ResponseHeaderModifier => {
                    filters.response_headers = changes(&filter.response_header_modifier)?;
                }
                HttpRouteRulesFiltersType::RequestRedirect => {
                    let redirect = filter
                        .request_redirect
                        .as_ref()
                        .ok_or("no `requestRedirect`")?;
                    filters.redirect = Some(Redirect {
                        scheme: redirect.scheme.as_ref().map(|scheme| match scheme {
                            HttpRouteRulesFiltersRequestRedirectScheme::Http => "http",
                            HttpRouteRulesFiltersRequestRedirectScheme::Https => "https",
                        }),
                        hostname: redirect.hostname.clone(),
                        port: redirect.port.and_then(port_number),
                        status: redirect
                            .status_code
                            .and_then(|status| u16::try_from(status).ok())
                            .unwrap_or(302),
                        path: rewrite(
                            redirect
                                .path
                                .as_ref()
                                .and_then(|path| path.replace_full_path.as_ref()),
                            redirect
                                .path
                                .as_ref()
                                .and_then(|path| path.replace_prefix_match.as_ref()),
                        ),
                    });
                }
                HttpRouteRulesFiltersType::UrlRewrite => {
                    let written = filter.url_rewrite.as_ref().ok_or("no `urlRewrite`")?;
                    filters.rewrite_host.clone_from(&written.hostname);
                    filters.rewrite_path = rewrite(
                        written
                            .path
                            .as_ref()
                            .and_then(|path| path.replace_full_path.as_ref()),
                        written
                            .path
                            .as_ref()
                            .and_then(|path| path.replace_prefix_match.as_ref()),
                    );
                }
                HttpRouteRulesFiltersType::RequestMirror => {
                    let mirror = filter.request_mirror.as_ref().ok_or("no `requestMirror`")?;
                    let to = &mirror.backend_ref;
                    let (numerator, denominator) = match (&mirror.fraction, mirror.percent) {
                        (Some(fraction), _) => {
                            (fraction.numerator, fraction.denominator.unwrap_or(100))
                        }
                        (None, percent) => (percent.unwrap_or(100), 100),
                    };
                    let target = self.target(
                        to.group.as_deref(),
                        to.kind.as_deref(),
                        to.namespace.as_deref(),
                        &to.name,
                        to.port,
                    );
                    filters.mirrors.push(MirrorTo {
                        target,
                        numerator: u32::try_from(numerator).map_err(|_| "a negative fraction")?,
                        denominator: u32::try_from(denominator)
                            .ok()
                            .filter(|denominator| *denominator > 0)
                            .ok_or("the denominator has to be positive")?,
                    });
                }
                HttpRouteRulesFiltersType::ExtensionRef => {
                    return Err("the filter ExtensionRef is not supported".to_owned());
                }
                HttpRouteRulesFiltersType::Cors => {
                    filters.cors = Some(Arc::new(cors(filter.cors.as_ref().ok_or("no `cors`")?)?));
                }
            }
        }
        if filters.redirect.is_some()
            && (filters.rewrite_path.is_some() || filters.rewrite_host.is_some())
        {
            return Err("RequestRedirect and URLRewrite exclude each other".to_owned());
        }
        Ok(filters)
    }
}

/// The filter CORS as the section of a GatewayPolicy. Where cookies are sent, browsers take `*` for a name.
fn cors(written: &HttpRouteRulesFiltersCors) -> Result<CorsSpec, String> {
    let HttpRouteRulesFiltersCors {
        allow_credentials,
        allow_headers,
        allow_methods,
        allow_origins,
        expose_headers,
        max_age,
    } = written;
    let all = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let mut spec = CorsSpec {
        allow_origins: all(allow_origins),
        allow_methods: all(allow_methods),
        allow_headers: all(allow_headers),
        expose_headers: all(expose_headers),
        // The default of the Gateway API.
        max_age: Some(Duration::from_secs(match max_age {
            Some(age) => u64::try_from(*age).map_err(|_| "`maxAge` is negative")?,
            None => 5,
        })),
        allow_credentials: allow_credentials.unwrap_or_default(),
        off: false,
    };
    let is_any = |list: &[String]| list.iter().any(|one| one == "*");
    if spec.allow_credentials {
        if is_any(&spec.allow_headers) || is_any(&spec.expose_headers) {
            return Err("with `allowCredentials`, headers have to be named: not `*`".to_owned());
        }
        if is_any(&spec.allow_methods) {
            let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
            spec.allow_methods = methods.map(str::to_owned).to_vec();
        }
    }
    Ok(spec)
}

fn changes(modifier: &impl Serialize) -> Result<HeaderChanges, String> {
    #[derive(Default, serde::Deserialize)]
    struct Header {
        name: String,
        value: String,
    }
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Changes {
        add: Vec<Header>,
        set: Vec<Header>,
        remove: Vec<String>,
    }
    let changes: Changes = reshape(modifier)?;
    let pairs = |headers: Vec<Header>| {
        headers
            .into_iter()
            .map(|header| (header.name, header.value))
            .collect()
    };
    Ok(HeaderChanges {
        set: pairs(changes.set),
        add: pairs(changes.add),
        remove: changes.remove,
    })
}

fn rewrite(full: Option<&String>, prefix: Option<&String>) -> Option<PathRewrite> {
    full.cloned()
        .map(PathRewrite::Full)
        .or_else(|| prefix.cloned().map(PathRewrite::Prefix))
}

fn to_service(
    services: &mut BTreeMap<Key, Service>,
    key: &Key,
    parent: &HttpRouteParentRefs,
    route: &Arc<Route>,
) -> Result<(), (&'static str, String)> {
    if route.rules.iter().any(|rule| rule.filters.cors.is_some()) {
        let message = "the filter CORS is for routes of gateways, where browsers call";
        return Err(("UnsupportedValue", message.to_owned()));
    }
    if key.namespace != route.key.namespace {
        let message = "a route of a Service has to be in its namespace".to_owned();
        return Err(("NotAllowedByListeners", message));
    }
    let service = services
        .get_mut(key)
        .ok_or_else(|| ("NoMatchingParent", format!("there is no Service {key}")))?;
    if !matches!(route.kind, Kind::HttpRoute | Kind::GrpcRoute) {
        let message = "a Service takes HTTPRoute and GRPCRoute".to_owned();
        return Err(("NotAllowedByListeners", message));
    }
    if parent.port.is_some() || parent.section_name.is_some() {
        let message = "`port` and `sectionName` of a Service are not supported".to_owned();
        return Err(("UnsupportedValue", message));
    }
    service.routes.push(Arc::clone(route));
    Ok(())
}

fn to_gateway(
    model: &Model,
    gateways: &mut BTreeMap<Key, Gateway>,
    key: &Key,
    parent: &HttpRouteParentRefs,
    route: &Arc<Route>,
) -> Result<(), (&'static str, String)> {
    let (gateway, written) = gateways
        .get_mut(key)
        .zip(model.gateways.get(key))
        .ok_or_else(|| {
            (
                "NoMatchingParent",
                format!("there is no Gateway {key} of ours"),
            )
        })?;
    let mut refusal = None;
    let mut is_attached = false;
    for listener in &mut gateway.listeners {
        let is_named = parent
            .section_name
            .as_ref()
            .is_none_or(|name| *name == listener.name);
        let is_port = parent
            .port
            .and_then(port_number)
            .is_none_or(|port| port == listener.port);
        if !is_named
            || !is_port
            || (parent.port.is_some() && parent.port.and_then(port_number).is_none())
        {
            continue;
        }
        let fits = match listener.mode {
            ListenerMode::Http | ListenerMode::Https(_) => {
                matches!(route.kind, Kind::HttpRoute | Kind::GrpcRoute)
            }
            ListenerMode::Passthrough => route.kind == Kind::TlsRoute,
            ListenerMode::TerminateTls(_) | ListenerMode::Tcp => route.kind == Kind::TcpRoute,
        };
        let spec = written
            .object
            .spec
            .listeners
            .iter()
            .find(|spec| spec.name == listener.name);
        let allowed = spec.and_then(|spec| spec.allowed_routes.as_ref());
        if let Err(message) = allows(allowed, key, route).and_then(|()| {
            if fits {
                Ok(())
            } else {
                Err(format!("it takes no {}", route.kind.name()))
            }
        }) {
            refusal = Some((
                "NotAllowedByListeners",
                format!("listener {}: {message}", listener.name),
            ));
            continue;
        }
        let meets = route.hostnames.is_empty()
            || route
                .hostnames
                .iter()
                .any(|hostname| intersect(listener.hostname.as_deref(), hostname).is_some());
        if !meets {
            let message = format!("listener {} has no host name of the route", listener.name);
            refusal = Some(("NoMatchingListenerHostname", message));
            continue;
        }
        listener.routes.push(Arc::clone(route));
        is_attached = true;
    }
    match (is_attached, refusal) {
        (true, _) => Ok(()),
        (false, Some(refusal)) => Err(refusal),
        (false, None) => Err((
            "NoMatchingParent",
            "no listener of this name and port can be used".to_owned(),
        )),
    }
}

fn allows(
    allowed: Option<&GatewayListenersAllowedRoutes>,
    gateway: &Key,
    route: &Route,
) -> Result<(), String> {
    let namespaces = allowed.and_then(|allowed| allowed.namespaces.as_ref());
    match namespaces.and_then(|namespaces| namespaces.from.as_ref()) {
        Some(GatewayListenersAllowedRoutesNamespacesFrom::All) => {}
        Some(GatewayListenersAllowedRoutesNamespacesFrom::Selector) => {
            return Err("allowedRoutes.namespaces.from: Selector is not supported".to_owned());
        }
        Some(GatewayListenersAllowedRoutesNamespacesFrom::Same) | None => {
            if gateway.namespace != route.key.namespace {
                return Err(format!(
                    "it takes routes of the namespace {} only",
                    gateway.namespace
                ));
            }
        }
    }
    let kinds = allowed
        .and_then(|allowed| allowed.kinds.as_deref())
        .unwrap_or_default();
    if kinds.is_empty() || kinds.iter().any(|kind| kind.kind == route.kind.name()) {
        Ok(())
    } else {
        Err(format!("it takes no {}", route.kind.name()))
    }
}

/// The host names that both take: the longer of the two, if one covers the other.
#[must_use]
pub(crate) fn intersect(listener: Option<&str>, route: &str) -> Option<String> {
    let Some(listener) = listener else {
        return Some(route.to_owned());
    };
    if listener == route || covers(listener, route) {
        Some(route.to_owned())
    } else if covers(route, listener) {
        Some(listener.to_owned())
    } else {
        None
    }
}

/// Whether a host name with `*.` covers another, with `*.` or without.
pub(crate) fn covers(wildcard: &str, hostname: &str) -> bool {
    wildcard.strip_prefix('*').is_some_and(|suffix| {
        let rest = hostname.strip_prefix('*').unwrap_or(hostname);
        rest.len() >= suffix.len() && rest.ends_with(suffix) && hostname != suffix
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_meet_where_one_covers_the_other() {
        for (listener, route, met) in [
            (None, "a.b", Some("a.b")),
            (Some("a.b"), "a.b", Some("a.b")),
            (Some("*.b"), "a.b", Some("a.b")),
            (Some("a.b"), "*.b", Some("a.b")),
            (Some("*.b"), "x.a.b", Some("x.a.b")),
            (Some("*.b"), "b", None),
            (Some("*.b"), "*.a.b", Some("*.a.b")),
            (Some("*.a.b"), "*.b", Some("*.a.b")),
            (Some("a.b"), "c.b", None),
            (Some("*.b"), "ab", None),
        ] {
            assert_eq!(
                intersect(listener, route).as_deref(),
                met,
                "{listener:?} {route}"
            );
        }
    }
}
