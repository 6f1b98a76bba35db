//! `GatewayPolicy` and `JwtProvider`: what gateways ask of requests, every reference resolved.
//!
//! A section that refers to what cannot be used lets nothing pass: requests that it is for are answered with 500.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::backend_tls::system_roots;
use super::route::created;
use super::{Gateway, Protocol, Route, Rule, Service, Status};
use crate::model::{
    ApiKeysSpec, CallLimit, Compression, CorsSpec, ExtAuthzSpec, GatewayPolicy, JwtProvider,
    JwtProviderSpec, JwtSpec, Key, Kind, Model, PolicyTarget, Retries, Stored, key_set,
    uri_endpoint,
};

/// What holds for a request at a gateway. A part that nobody asked for is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// Something that it needs is not there: nothing passes.
    pub is_broken: bool,
    /// Which tokens are needed.
    pub jwt: Option<Arc<Jwt>>,
    /// Which API keys are.
    pub api_keys: Option<Arc<ApiKeys>>,
    /// Which users may call, as lines of `htpasswd -s`.
    pub basic_auth: Option<Arc<str>>,
    /// Who else is asked.
    pub ext_authz: Option<Arc<ExtAuthz>>,
    /// How often one may call.
    pub rate_limits: Option<Arc<CallLimits>>,
    /// Which pages of other origins may call.
    pub cors: Option<Arc<CorsSpec>>,
    /// How answers are compressed.
    pub compression: Vec<Compression>,
    /// Time for a whole response, where the route says nothing.
    pub timeout: Option<Duration>,
    /// When and how often a request is sent again.
    pub retries: Option<Retries>,
}

/// Which tokens are needed.
#[derive(Debug, PartialEq)]
pub struct Jwt {
    /// All providers that are named, each of which can be used.
    pub providers: BTreeMap<Key, Arc<Provider>>,
    /// What holds for the paths of no rule.
    pub otherwise: Requirement,
    /// Paths for which something else holds. The first one goes.
    pub rules: Vec<(Vec<String>, Requirement)>,
}

/// Which tokens a request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// None.
    Nothing,
    /// One of any of these providers.
    Any(Vec<Key>, Missing),
    /// One of each of these providers.
    All(Vec<Key>, Missing),
}

/// What becomes of a request without any token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// It is denied.
    Denied,
    /// It passes.
    Allowed,
}

/// Who signs tokens.
#[derive(Debug, PartialEq)]
pub struct Provider {
    /// What is written.
    pub spec: JwtProviderSpec,
    /// Its keys.
    pub keys: Keys,
}

/// Where the keys of a provider are.
#[derive(Debug, PartialEq, Eq)]
pub enum Keys {
    /// Here.
    Inline(String),
    /// At the URI of the provider, at a port of a service.
    Service(Key, u16),
    /// At the URI of the provider.
    Host {
        /// A name or an address.
        host: String,
        /// Its port.
        port: u16,
        /// The roots by which it is known, in PEM; none without TLS.
        roots: Option<Arc<str>>,
    },
}

/// Which API keys are good.
#[derive(Debug, PartialEq, Eq)]
pub struct ApiKeys {
    /// What is written.
    pub spec: ApiKeysSpec,
    /// The clients, each once, and their keys.
    pub clients: BTreeMap<String, String>,
}

/// Who is asked whether a request may pass.
#[derive(Debug, PartialEq, Eq)]
pub struct ExtAuthz {
    /// The policy that says so.
    pub policy: Key,
    /// What is written.
    pub spec: ExtAuthzSpec,
    /// Who is asked.
    pub target: (Key, u16),
}

/// How often one may call.
#[derive(Debug, PartialEq, Eq)]
pub struct CallLimits {
    /// The policy that says so.
    pub policy: Key,
    /// The limits.
    pub limits: Vec<CallLimit>,
}

/// The policies of a listener.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policies {
    /// For what nothing else is said.
    pub base: Option<Arc<Policy>>,
    routes: BTreeMap<(Kind, Key, Option<String>), Arc<Policy>>,
}

impl Policies {
    /// What holds for a rule of a route.
    #[must_use]
    pub fn of(&self, route: &Route, rule: &Rule) -> Option<&Arc<Policy>> {
        let place = |section: Option<String>| (route.kind, route.key.clone(), section);
        if self.routes.is_empty() {
            return self.base.as_ref();
        }
        let named = rule.name.clone();
        named
            .and_then(|name| self.routes.get(&place(Some(name))))
            .or_else(|| self.routes.get(&place(None)))
            .or(self.base.as_ref())
    }
}

/// Why something does not hold.
type Problem = (&'static str, String);

/// A section of a policy, as far as it could be resolved.
#[derive(Clone, Debug)]
enum Section<T> {
    Off,
    On(T),
    Broken,
}

/// The sections that are said for a target.
#[derive(Clone, Debug, Default)]
struct Sections {
    jwt: Option<Section<Arc<Jwt>>>,
    api_keys: Option<Section<Arc<ApiKeys>>>,
    basic_auth: Option<Section<Arc<str>>>,
    ext_authz: Option<Section<Arc<ExtAuthz>>>,
    rate_limits: Option<Section<Arc<CallLimits>>>,
    cors: Option<Section<Arc<CorsSpec>>>,
    compression: Option<Vec<Compression>>,
    timeout: Option<Duration>,
    retries: Option<Retries>,
}

impl Sections {
    /// Takes over what is not said here; the names of what is, too.
    fn fill(&mut self, other: &Self) -> Vec<&'static str> {
        fn fill<T: Clone>(
            name: &'static str,
            (mine, other): (&mut Option<T>, &Option<T>),
            taken: &mut Vec<&'static str>,
        ) {
            match (&mine, other) {
                (Some(_), Some(_)) => taken.push(name),
                (None, Some(other)) => *mine = Some(other.clone()),
                (_, None) => {}
            }
        }
        let mut taken = Vec::new();
        let all = &mut taken;
        fill("jwt", (&mut self.jwt, &other.jwt), all);
        fill("apiKeys", (&mut self.api_keys, &other.api_keys), all);
        fill("basicAuth", (&mut self.basic_auth, &other.basic_auth), all);
        fill("extAuthz", (&mut self.ext_authz, &other.ext_authz), all);
        fill(
            "rateLimits",
            (&mut self.rate_limits, &other.rate_limits),
            all,
        );
        fill("cors", (&mut self.cors, &other.cors), all);
        fill(
            "compression",
            (&mut self.compression, &other.compression),
            all,
        );
        fill("timeout", (&mut self.timeout, &other.timeout), all);
        fill("retries", (&mut self.retries, &other.retries), all);
        taken
    }

    /// How many are said.
    fn count(&self) -> usize {
        // What is said twice is taken.
        self.clone().fill(self).len()
    }

    fn policy(&self) -> Policy {
        let mut is_broken = false;
        Policy {
            jwt: on(&self.jwt, &mut is_broken),
            api_keys: on(&self.api_keys, &mut is_broken),
            basic_auth: on(&self.basic_auth, &mut is_broken),
            ext_authz: on(&self.ext_authz, &mut is_broken),
            rate_limits: on(&self.rate_limits, &mut is_broken),
            cors: on(&self.cors, &mut is_broken),
            compression: self.compression.clone().unwrap_or_default(),
            timeout: self.timeout,
            retries: self.retries.clone(),
            is_broken,
        }
    }
}

fn on<T: Clone>(section: &Option<Section<T>>, is_broken: &mut bool) -> Option<T> {
    match section {
        Some(Section::On(value)) => Some(value.clone()),
        Some(Section::Broken) => {
            *is_broken = true;
            None
        }
        Some(Section::Off) | None => None,
    }
}

/// Kind, key and section of a target.
type Place = (Kind, Key, Option<String>);

/// Resolves all policies and sets [`super::GatewayListener::policies`].
pub(super) fn attach(
    model: &Model,
    services: &BTreeMap<Key, Service>,
    gateways: &mut BTreeMap<Key, Gateway>,
    statuses: &mut Vec<Status>,
) {
    let providers = providers(model, services, statuses);
    let mut places: BTreeMap<Place, Sections> = BTreeMap::new();
    let used = Used::of(gateways);
    for (key, stored) in in_order(model) {
        let mut status = Status::new(Kind::GatewayPolicy, key, &stored.origin);
        let mut resolver = Resolver {
            model,
            services,
            providers: &providers,
            policy: key,
            missing: Vec::new(),
        };
        let sections = resolver.sections(&stored.object);
        let broken: Vec<_> = resolver.missing.iter().map(|(_, text)| &**text).collect();
        let broken = broken.join("; ");
        for target in &stored.object.spec.target_refs {
            let about = match &target.section_name {
                Some(section) => format!("{} {}/{section}", target.kind, target.name),
                None => format!("{} {}", target.kind, target.name),
            };
            match place(model, gateways, key, target) {
                Err((reason, message)) => {
                    status.fails(&about, "Accepted", reason, message);
                    status.fails(
                        &about,
                        "Programmed",
                        "NotAccepted",
                        "the target is not there",
                    );
                }
                Ok(place) => {
                    let listeners = used.by(&place);
                    let taken = places.entry(place).or_default().fill(&sections);
                    if taken.is_empty() {
                        status.holds(&about, "Accepted");
                    } else {
                        let message = format!(
                            "another GatewayPolicy for the same target goes before with {}",
                            taken.join(", ")
                        );
                        status.fails(&about, "Accepted", "Conflicted", message);
                    }
                    let is_taken = !taken.is_empty() && taken.len() == sections.count();
                    program(&mut status, &about, listeners, is_taken, &broken);
                }
            }
        }
        match resolver.missing.first() {
            None => status.holds("", "ResolvedRefs"),
            Some((reason, _)) => {
                let all: Vec<_> = resolver.missing.iter().map(|(_, text)| &**text).collect();
                status.fails("", "ResolvedRefs", reason, all.join("; "));
            }
        }
        statuses.push(status);
    }
    if !places.is_empty() {
        for gateway in gateways.values_mut() {
            apply(gateway, &places);
        }
    }
}

/// Which listeners have which targets.
struct Used(BTreeMap<Place, Vec<String>>);

impl Used {
    fn of(gateways: &BTreeMap<Key, Gateway>) -> Self {
        let mut used: BTreeMap<Place, Vec<String>> = BTreeMap::new();
        for (key, gateway) in gateways {
            for listener in &gateway.listeners {
                let name = format!("{key}/{}", listener.name);
                let section = Some(listener.name.clone());
                let mut places = vec![(Kind::Gateway, key.clone(), None)];
                places.push((Kind::Gateway, key.clone(), section));
                for route in &listener.routes {
                    let rules = route.rules.iter().filter_map(|rule| rule.name.clone());
                    let sections = [None].into_iter().chain(rules.map(Some));
                    places.extend(sections.map(|name| (route.kind, route.key.clone(), name)));
                }
                for place in places {
                    used.entry(place).or_default().push(name.clone());
                }
            }
        }
        Self(used)
    }

    /// The listeners that have this target.
    fn by(&self, place: &Place) -> &[String] {
        self.0.get(place).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Says whether a policy is in force for a target: some listener has it, nothing goes before the whole of it, and what it
/// refers to is there.
fn program(status: &mut Status, about: &str, listeners: &[String], is_taken: bool, broken: &str) {
    const NAME: &str = "Programmed";
    if listeners.is_empty() {
        let message = "no listener of a gateway has the target";
        status.fails(about, NAME, "NoGateway", message);
    } else if is_taken {
        let message = "another GatewayPolicy goes before with all that it says";
        status.fails(about, NAME, "Conflicted", message);
    } else if !broken.is_empty() {
        let message = format!("requests are answered with 500: {broken}");
        status.fails(about, NAME, "ResolvedRefs", message);
    } else {
        status.holds_with(about, NAME, format!("for {}", listeners.join(", ")));
    }
}

/// The oldest first, then by namespace and name.
fn in_order(model: &Model) -> Vec<(&Key, &Stored<GatewayPolicy>)> {
    let mut all: Vec<_> = model.gateway_policies.iter().collect();
    all.sort_by_key(|(_, stored)| {
        let created = created(&stored.object.metadata);
        (created.is_none(), created)
    });
    all
}

fn place(
    model: &Model,
    gateways: &BTreeMap<Key, Gateway>,
    policy: &Key,
    target: &PolicyTarget,
) -> Result<Place, Problem> {
    let key = Key::new(&policy.namespace, &target.name);
    let not_found = |what: String| ("TargetNotFound", format!("there is no {what}"));
    let named = |names: Vec<&str>| match target.section_name.as_deref() {
        Some(section) if !names.contains(&section) => {
            Err(not_found(format!("{section} in {} {key}", target.kind)))
        }
        _ => Ok(()),
    };
    let unknown = || not_found(format!("{} {key}", target.kind));
    let kind = match target.kind.as_str() {
        "Gateway" => {
            let gateway = gateways.get(&key).ok_or_else(unknown)?;
            named(gateway.listeners.iter().map(|one| &*one.name).collect())?;
            Kind::Gateway
        }
        "HTTPRoute" => {
            let route = model.http_routes.get(&key).ok_or_else(unknown)?;
            let rules = route.object.spec.rules.iter().flatten();
            named(rules.filter_map(|rule| rule.name.as_deref()).collect())?;
            Kind::HttpRoute
        }
        "GRPCRoute" => {
            let route = model.grpc_routes.get(&key).ok_or_else(unknown)?;
            let rules = route.object.spec.rules.iter().flatten();
            named(rules.filter_map(|rule| rule.name.as_deref()).collect())?;
            Kind::GrpcRoute
        }
        _ => {
            model.ingresses.get(&key).ok_or_else(unknown)?;
            Kind::Ingress
        }
    };
    Ok((kind, key, target.section_name.clone()))
}

fn apply(gateway: &mut Gateway, places: &BTreeMap<Place, Sections>) {
    let of_gateway = places.get(&(Kind::Gateway, gateway.key.clone(), None));
    for listener in &mut gateway.listeners {
        let of_listener = (
            Kind::Gateway,
            gateway.key.clone(),
            Some(listener.name.clone()),
        );
        let farther: Vec<_> = [places.get(&of_listener), of_gateway]
            .into_iter()
            .flatten()
            .collect();
        let join = |nearer: &[&Sections]| {
            let mut all = Sections::default();
            for sections in nearer.iter().chain(&farther) {
                all.fill(sections);
            }
            Arc::new(all.policy())
        };
        listener.policies.base = (!farther.is_empty()).then(|| join(&[]));
        for route in &listener.routes {
            let place =
                |section: Option<&String>| (route.kind, route.key.clone(), section.cloned());
            let of_route = places.get(&place(None));
            if let Some(of_route) = of_route {
                let policies = &mut listener.policies.routes;
                policies.insert(place(None), join(&[of_route]));
            }
            for name in route.rules.iter().filter_map(|rule| rule.name.as_ref()) {
                let place = place(Some(name));
                if let Some(of_rule) = places.get(&place) {
                    let mut nearer = vec![of_rule];
                    nearer.extend(of_route);
                    listener.policies.routes.insert(place, join(&nearer));
                }
            }
        }
    }
}

fn providers(
    model: &Model,
    services: &BTreeMap<Key, Service>,
    statuses: &mut Vec<Status>,
) -> BTreeMap<Key, Arc<Provider>> {
    let mut found = BTreeMap::new();
    for (key, stored) in &model.jwt_providers {
        let mut status = Status::new(Kind::JwtProvider, key, &stored.origin);
        status.holds("", "Accepted");
        match keys(model, services, key, &stored.object) {
            Ok(keys) => {
                status.holds("", "ResolvedRefs");
                let spec = stored.object.spec.clone();
                found.insert(key.clone(), Arc::new(Provider { spec, keys }));
            }
            Err((reason, message)) => status.fails("", "ResolvedRefs", reason, message),
        }
        statuses.push(status);
    }
    found
}

fn keys(
    model: &Model,
    services: &BTreeMap<Key, Service>,
    key: &Key,
    provider: &JwtProvider,
) -> Result<Keys, Problem> {
    let spec = &provider.spec.jwks;
    if let Some(inline) = &spec.inline {
        return Ok(Keys::Inline(inline.clone()));
    }
    if let Some(reference) = &spec.config_map {
        let name = Key::new(&key.namespace, &reference.name);
        let field = reference.key.as_deref().unwrap_or("jwks.json");
        let bad = |what: String| ("InvalidJwks", format!("ConfigMap {name}{what}"));
        let stored = model.config_maps.get(&name);
        let stored = stored.ok_or_else(|| bad(" is not there".to_owned()))?;
        let data = stored.object.data.as_ref();
        let text = data
            .and_then(|data| data.get(field))
            .ok_or_else(|| bad(format!(" has no key {field}")))?;
        key_set(text).map_err(|reason| bad(format!(": {field} {reason}")))?;
        return Ok(Keys::Inline(text.clone()));
    }
    if let Some(reference) = &spec.service {
        let target = (Key::new(&key.namespace, &reference.name), reference.port);
        port_of(services, &target)?;
        return Ok(Keys::Service(target.0, target.1));
    }
    let uri = spec.uri.as_deref().unwrap_or_default();
    let (host, port, is_tls) = uri_endpoint(uri).map_err(|reason| ("InvalidJwks", reason))?;
    let no_roots = || {
        let message = "the control plane's machine has no file of well-known roots";
        ("InvalidJwks", message.to_owned())
    };
    let roots = match is_tls {
        true => Some(system_roots().ok_or_else(no_roots)?),
        false => None,
    };
    Ok(Keys::Host { host, port, roots })
}

/// What is spoken at a port of a service.
fn port_of(services: &BTreeMap<Key, Service>, target: &(Key, u16)) -> Result<Protocol, Problem> {
    let (key, number) = target;
    let not_found = |message: String| ("BackendNotFound", message);
    let service = services
        .get(key)
        .ok_or_else(|| not_found(format!("there is no Service {key}")))?;
    let port = service
        .port(*number)
        .ok_or_else(|| not_found(format!("Service {key} has no port {number}")))?;
    Ok(port.protocol)
}

struct Resolver<'a> {
    model: &'a Model,
    services: &'a BTreeMap<Key, Service>,
    providers: &'a BTreeMap<Key, Arc<Provider>>,
    policy: &'a Key,
    /// References that lead nowhere: reason and message.
    missing: Vec<Problem>,
}

impl Resolver<'_> {
    fn sections(&mut self, policy: &GatewayPolicy) -> Sections {
        let spec = &policy.spec;
        let limits = spec.rate_limits.as_ref().map(|limits| {
            let limits = CallLimits {
                policy: self.policy.clone(),
                limits: limits.clone(),
            };
            Section::On(Arc::new(limits))
        });
        let cors = spec.cors.as_ref().map(|cors| match cors.off {
            true => Section::Off,
            false => Section::On(Arc::new(cors.clone())),
        });
        let jwt = spec.jwt.as_ref();
        let keys = spec.api_keys.as_ref();
        let basic = spec.basic_auth.as_ref();
        let authorizer = spec.ext_authz.as_ref();
        Sections {
            jwt: jwt.map(|jwt| match jwt.off {
                true => Section::Off,
                false => self.section(|it| it.jwt(jwt)),
            }),
            api_keys: keys.map(|keys| match keys.off {
                true => Section::Off,
                false => self.section(|it| it.api_keys(keys)),
            }),
            basic_auth: basic.map(|basic| match &basic.secret {
                None => Section::Off,
                Some(secret) => self.section(|it| it.basic_auth(secret)),
            }),
            ext_authz: authorizer.map(|authorizer| match authorizer.off {
                true => Section::Off,
                false => self.section(|it| it.ext_authz(authorizer)),
            }),
            rate_limits: limits,
            cors,
            compression: spec.compression.clone(),
            timeout: spec.timeout,
            retries: spec.retries.clone(),
        }
    }

    fn section<T>(&mut self, resolve: impl FnOnce(&mut Self) -> Result<T, Problem>) -> Section<T> {
        match resolve(self) {
            Ok(section) => Section::On(section),
            Err(problem) => {
                self.missing.push(problem);
                Section::Broken
            }
        }
    }

    fn jwt(&mut self, spec: &JwtSpec) -> Result<Arc<Jwt>, Problem> {
        let mut used = BTreeMap::new();
        let mut requirement = |any_of: &[String], all_of: &[String], allow_missing: bool| {
            let mut named = Vec::new();
            for name in any_of.iter().chain(all_of) {
                let key = Key::new(&self.policy.namespace, name);
                let provider = self.providers.get(&key).ok_or_else(|| {
                    let message = format!("there is no JwtProvider {key} that can be used");
                    ("InvalidProvider", message)
                })?;
                used.insert(key.clone(), Arc::clone(provider));
                named.push(key);
            }
            let missing = match allow_missing {
                true => Missing::Allowed,
                false => Missing::Denied,
            };
            Ok::<_, Problem>(match (any_of.is_empty(), all_of.is_empty()) {
                (false, _) => Requirement::Any(named, missing),
                (true, false) => Requirement::All(named, missing),
                (true, true) => Requirement::Nothing,
            })
        };
        let otherwise = requirement(&spec.any_of, &spec.all_of, spec.allow_missing)?;
        let mut rules = Vec::new();
        for rule in &spec.rules {
            let wanted = requirement(&rule.any_of, &rule.all_of, rule.allow_missing)?;
            rules.push((rule.paths.clone(), wanted));
        }
        Ok(Arc::new(Jwt {
            providers: used,
            otherwise,
            rules,
        }))
    }

    fn api_keys(&mut self, spec: &ApiKeysSpec) -> Result<Arc<ApiKeys>, Problem> {
        let mut clients = BTreeMap::new();
        let mut seen = BTreeMap::new();
        for name in &spec.secrets {
            for (client, key) in self.opaque(name)? {
                let bad = |what: String| ("InvalidSecret", format!("Secret {name}: {what}"));
                // No value of it may get into the message.
                if key.is_empty() || key.contains(['\n', '\r', '\0']) {
                    return Err(bad(format!("{client} is empty or has more than one line")));
                }
                if let Some(other) = seen.insert(key.clone(), client.clone()) {
                    return Err(bad(format!("{client} has the same key as {other}")));
                }
                if clients.insert(client.clone(), key).is_some() {
                    return Err(bad(format!("{client} is in another Secret, too")));
                }
            }
        }
        if clients.is_empty() {
            return Err(("InvalidSecret", "there is no key in any Secret".to_owned()));
        }
        Ok(Arc::new(ApiKeys {
            spec: spec.clone(),
            clients,
        }))
    }

    fn basic_auth(&mut self, name: &str) -> Result<Arc<str>, Problem> {
        let bad = |what: String| ("InvalidSecret", format!("Secret {name}: {what}"));
        let text = self
            .opaque(name)?
            .remove(".htpasswd")
            .ok_or_else(|| bad(".htpasswd is missing".to_owned()))?;
        let mut users = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            // As Envoy reads them: 28 letters of base64 are a SHA-1.
            let user = line
                .split_once(":{SHA}")
                .filter(|(user, hash)| !user.is_empty() && hash.len() == 28);
            let (user, _) = user
                .ok_or_else(|| bad(format!(".htpasswd: line {} is no USER:{{SHA}}…", index + 1)))?;
            if users.insert(user, ()).is_some() {
                return Err(bad(format!(".htpasswd: {user} is there twice")));
            }
        }
        match users.is_empty() {
            true => Err(bad(".htpasswd has no lines".to_owned())),
            false => Ok(Arc::from(text)),
        }
    }

    /// What is in a secret of the policy's namespace.
    fn opaque(&self, name: &str) -> Result<BTreeMap<String, String>, Problem> {
        let key = Key::new(&self.policy.namespace, name);
        let stored = self
            .model
            .secrets
            .get(&key)
            .ok_or_else(|| ("InvalidSecret", format!("there is no Secret {key}")))?;
        let secret = &stored.object;
        if !super::is_opaque(secret) {
            let message = format!("Secret {key} is not of the type Opaque");
            return Err(("InvalidSecret", message));
        }
        let mut found = BTreeMap::new();
        for (name, bytes) in secret.data.iter().flatten() {
            let text = String::from_utf8(bytes.0.clone())
                .map_err(|_| ("InvalidSecret", format!("Secret {key}: {name} is no text")))?;
            found.insert(name.clone(), text);
        }
        // It goes before `data`, as in Kubernetes.
        for (name, text) in secret.string_data.iter().flatten() {
            found.insert(name.clone(), text.clone());
        }
        Ok(found)
    }

    fn ext_authz(&mut self, spec: &ExtAuthzSpec) -> Result<Arc<ExtAuthz>, Problem> {
        let of_grpc = spec.grpc.as_ref().map(|grpc| (&grpc.service, grpc.port));
        let of_http = spec.http.as_ref().map(|http| (&http.service, http.port));
        let (name, port) = of_grpc
            .or(of_http)
            .ok_or_else(|| ("BackendNotFound", "nobody is named".to_owned()))?;
        let target = (Key::new(&self.policy.namespace, name), port);
        match (port_of(self.services, &target)?, of_grpc) {
            (Protocol::Tcp, _) | (Protocol::Http1, Some(_)) => {
                let wanted = if of_grpc.is_some() { "HTTP/2" } else { "HTTP" };
                let message = format!("port {port} of Service {} is not of {wanted}", target.0);
                Err(("UnsupportedProtocol", message))
            }
            _ => Ok(Arc::new(ExtAuthz {
                policy: self.policy.clone(),
                spec: spec.clone(),
                target,
            })),
        }
    }
}
