//! Routes: those of gateways and services in the Gateway API's precedence, and those towards a process.
//!
//! Of two matches for one host name goes first: the exact path, then the regular expression, then the longer prefix;
//! then the one with a method, with more headers, with more query parameters; then the older route, the one whose
//! name comes first, the rule and match that come first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use gateway_api::apis::standard::httproutes::{
    HttpRouteRulesMatches, HttpRouteRulesMatchesHeadersType, HttpRouteRulesMatchesPathType,
    HttpRouteRulesMatchesQueryParamsType,
};
use serde_json::{Value as Json, json};

use super::http::{ALLOW, DENY, FAULT, FAULT_TYPE, RBAC_TYPE};
use super::policy::{Used, Variant};
use super::rbac::{self, Layer};
use super::{cluster, cluster_name, duration, load_balancing, resource, typed};
use crate::cache::{Resource, ResourceType};
use crate::model::{Access, Fault, Key, Retries, TrafficPolicySpec};
use crate::world::{
    Backend, Defaults, Filters, GatewayListener, HeaderChanges, Inbound, PathRewrite, Policy,
    Protocol, Redirect, Route, Rule, Service, ServicePort, World, covers, intersect, regex_escape,
};

/// A cluster that there is not: requests to it are answered with 500.
const NOWHERE: &str = "unresolved";

/// The services and ports to which routes send.
pub(super) type Targets = BTreeSet<(Key, u16)>;

/// The routes of those who call a port of a service; none for bytes.
pub(super) fn outbound(
    defaults: &Defaults,
    service: &Service,
    port: &ServicePort,
) -> (Option<Resource>, Targets) {
    let mut maker = Maker {
        defaults,
        policies: &|key| (*key == service.key).then_some(&service.policy),
        listener_port: port.number,
        targets: Targets::new(),
        used: Used::default(),
    };
    let own = (service.key.clone(), port.number);
    maker.targets.insert(own.clone());
    if port.protocol == Protocol::Tcp {
        maker.split(&own, 1, &service.policy);
        return (None, maker.targets);
    }
    let name = cluster_name(&service.key, port.number);
    let mut entries = Vec::new();
    let over = Over {
        parent: Some(&service.policy),
        gateway: None,
    };
    for (order, route) in service.routes.iter().enumerate() {
        for (index, rule) in route.rules.iter().enumerate() {
            maker.rule(rule, (order, index), over, &mut entries);
        }
    }
    if service.routes.is_empty() {
        let rule = Rule {
            name: None,
            matches: Vec::new(),
            filters: Filters::default(),
            backends: vec![Backend {
                target: Some(own),
                weight: 1,
                filters: Filters::default(),
            }],
            timeout: None,
            backend_timeout: None,
        };
        maker.rule(&rule, (0, 0), over, &mut entries);
    }
    let hosts = BTreeMap::from([("*".to_owned(), entries)]);
    let made = table(&name, hosts);
    (Some(made), maker.targets)
}

/// The routes of listeners of a gateway that share a table.
pub(super) fn of_gateway(
    world: &World,
    name: &str,
    listeners: &[&GatewayListener],
    all: &[&GatewayListener],
) -> (Resource, Targets, Used) {
    let port = listeners.first().map_or(80, |listener| listener.port);
    let mut maker = Maker {
        defaults: &world.defaults,
        policies: &|key| world.services.get(key).map(|service| &service.policy),
        listener_port: port,
        targets: Targets::new(),
        used: Used::new(name),
    };
    let mut hosts: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    for listener in listeners {
        let own = listener.hostname.clone().unwrap_or_else(|| "*".to_owned());
        // A host name of a listener without routes is not served by a listener with a wider one.
        hosts.entry(own).or_default();
        if let Some(policy) = &listener.policies.base {
            maker.used.add_listener(policy);
        }
        for (order, route) in listener.routes.iter().enumerate() {
            for hostname in hostnames(listener, route, all) {
                let entries = hosts.entry(hostname).or_default();
                for (index, rule) in route.rules.iter().enumerate() {
                    let over = Over {
                        parent: None,
                        gateway: listener.policies.of(route, rule).map(|policy| &**policy),
                    };
                    maker.rule(rule, (order, index), over, entries);
                }
            }
        }
    }
    (table(name, hosts), maker.targets, maker.used)
}

/// The routes towards the process behind a sidecar, with who may call.
pub(super) fn inbound(name: &str, inbound: &Inbound, trust_domain: &str) -> Resource {
    let mut configs = json!({});
    for (filter, action) in [(DENY, Access::Deny), (ALLOW, Access::Allow)] {
        if let Some(rules) = rbac::rules(&inbound.authorization, action, Layer::Http, trust_domain)
        {
            let per_route = json!({"rbac": {"rules": rules}});
            configs[filter] = typed(&format!("{RBAC_TYPE}.RBACPerRoute"), per_route);
        }
    }
    let route = json!({
        "match": {"prefix": "/"},
        "route": {"cluster": cluster::app_name(inbound), "timeout": "0s"},
        "typed_per_filter_config": configs,
    });
    let table = json!({
        "name": name,
        "virtual_hosts": [{"name": "*", "domains": ["*"], "routes": [route]}],
    });
    resource(ResourceType::Route, name, &table)
}

/// Where the bytes of a rule go, as the part of a TCP proxy that says it.
pub(super) fn tcp_clusters(backends: &[Backend]) -> (Json, Targets) {
    let targets: Targets = backends
        .iter()
        .filter_map(|backend| backend.target.clone())
        .collect();
    let clusters: Vec<_> = backends
        .iter()
        .filter(|backend| backend.weight > 0)
        .map(|backend| json!({"name": name_of(backend.target.as_ref()), "weight": backend.weight}))
        .collect();
    let json = match &clusters[..] {
        [] => json!({"cluster": NOWHERE}),
        [one] => json!({"cluster": one["name"]}),
        _ => json!({"weighted_clusters": {"clusters": clusters}}),
    };
    (json, targets)
}

/// The host names for which a listener serves a route: not those that another listener of the port has more exactly.
fn hostnames(listener: &GatewayListener, route: &Route, all: &[&GatewayListener]) -> Vec<String> {
    let mine = listener.hostname.as_deref();
    let met: Vec<_> = if route.hostnames.is_empty() {
        vec![mine.unwrap_or("*").to_owned()]
    } else {
        route
            .hostnames
            .iter()
            .filter_map(|hostname| intersect(mine, hostname))
            .collect()
    };
    let is_of_other = |hostname: &str| {
        all.iter().any(|other| {
            other.port == listener.port
                && other.hostname.as_deref().is_some_and(|theirs| {
                    let is_narrower = mine.is_none_or(|mine| covers(mine, theirs));
                    other.name != listener.name
                        && is_narrower
                        && (theirs == hostname || covers(theirs, hostname))
                })
        })
    };
    met.into_iter()
        .filter(|hostname| !is_of_other(hostname))
        .collect()
}

struct Entry {
    precedence: Precedence,
    route: Json,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Precedence {
    path: Reverse<(u8, usize)>,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query_params: Reverse<usize>,
    order: (usize, usize),
    /// Of the paths for which a policy makes a difference.
    variant: usize,
}

fn table(name: &str, hosts: BTreeMap<String, Vec<Entry>>) -> Resource {
    let hosts: Vec<_> = hosts
        .into_iter()
        .map(|(hostname, mut entries)| {
            entries.sort_by(|a, b| a.precedence.cmp(&b.precedence));
            let routes: Vec<_> = entries.into_iter().map(|entry| entry.route).collect();
            json!({"name": hostname, "domains": [hostname], "routes": routes})
        })
        .collect();
    let table = json!({
        "name": name,
        "virtual_hosts": hosts,
        "ignore_port_in_host_matching": true,
    });
    resource(ResourceType::Route, name, &table)
}

struct Maker<'a> {
    defaults: &'a Defaults,
    policies: &'a dyn Fn(&Key) -> Option<&'a TrafficPolicySpec>,
    listener_port: u16,
    targets: Targets,
    used: Used,
}

/// What holds for a rule beside what it says.
#[derive(Clone, Copy)]
struct Over<'a> {
    /// The policy of the service that is called, where the routes are its own.
    parent: Option<&'a TrafficPolicySpec>,
    /// The policy of the gateway.
    gateway: Option<&'a Policy>,
}

impl Maker<'_> {
    /// Adds the routes of a rule, one per match.
    fn rule(
        &mut self,
        rule: &Rule,
        order: (usize, usize),
        over: Over<'_>,
        entries: &mut Vec<Entry>,
    ) {
        let everything = [HttpRouteRulesMatches::default()];
        let matches = match &rule.matches[..] {
            [] => &everything[..],
            some => some,
        };
        for found in matches {
            let action = self.action(rule, prefix_of(found), over);
            for (index, variant) in self.used.variants(over.gateway).iter().enumerate() {
                let (mut precedence, matcher) = matcher(found, order);
                precedence.variant = index;
                let mut route = action.clone();
                route["match"] = matcher;
                headers(&mut route, &rule.filters.request_headers, "request");
                headers(&mut route, &rule.filters.response_headers, "response");
                if rule.filters.is_unresolved {
                    refuse(&mut route);
                }
                self.restrict(&mut route, over.gateway, variant);
                if let Some(cors) = &rule.filters.cors {
                    // The route's own goes before the policy's.
                    self.used.apply_cors(cors, &mut route);
                }
                entries.push(Entry { precedence, route });
            }
        }
    }

    /// Applies the policy of a gateway to a route, or to some of its paths.
    fn restrict(&mut self, route: &mut Json, policy: Option<&Policy>, variant: &Variant) {
        let Some(policy) = policy else { return };
        if let Some(paths) = &variant.paths {
            let only = json!({"name": ":path", "string_match": {"safe_regex": {"regex": paths}}});
            match &mut route["match"]["headers"] {
                Json::Array(headers) => headers.push(only),
                none => *none = json!([only]),
            }
        }
        if policy.is_broken {
            refuse(route);
        }
        self.used.apply(policy, variant, route);
    }

    fn action(&mut self, rule: &Rule, prefix: &str, over: Over<'_>) -> Json {
        if let Some(redirect) = &rule.filters.redirect {
            return json!({"redirect": redirect_action(redirect, prefix, self.listener_port)});
        }
        let none = TrafficPolicySpec::default();
        let only = match &rule.backends[..] {
            [
                Backend {
                    target: Some(target),
                    ..
                },
            ] => Some(target),
            _ => None,
        };
        let policy = over
            .parent
            .or_else(|| only.and_then(|(key, _)| (self.policies)(key)))
            .unwrap_or(&none);
        let mut clusters = Vec::new();
        for backend in &rule.backends {
            self.targets.extend(backend.target.clone());
            let shares = match &backend.target {
                Some(target) if only.is_some() => self.split(target, backend.weight, policy),
                target => vec![(name_of(target.as_ref()), backend.weight)],
            };
            for (name, weight) in shares {
                let mut cluster = json!({"name": name, "weight": weight});
                headers(&mut cluster, &backend.filters.request_headers, "request");
                headers(&mut cluster, &backend.filters.response_headers, "response");
                if let Some(host) = &backend.filters.rewrite_host {
                    cluster["host_rewrite_literal"] = json!(host);
                }
                clusters.push(cluster);
            }
        }
        if clusters.iter().all(|cluster| cluster["weight"] == 0) {
            return json!({"direct_response": {"status": 500}});
        }
        let mut action = json!({
            "weighted_clusters": {"clusters": clusters},
            "cluster_not_found_response_code": "INTERNAL_SERVER_ERROR",
            "timeout": duration(
                rule.timeout
                    .or(over.gateway.and_then(|gateway| gateway.timeout))
                    .or(policy.timeout)
                    .unwrap_or(self.defaults.timeout),
            ),
        });
        let of_gateway = over.gateway.and_then(|gateway| gateway.retries.as_ref());
        let of_service = policy.retries.as_ref().or(self.defaults.retries.as_ref());
        if let Some(retries) = of_gateway.or(of_service) {
            action["retry_policy"] = retry_policy(retries, rule);
        } else if let Some(timeout) = rule.backend_timeout {
            action["retry_policy"] =
                json!({"per_try_timeout": duration(timeout), "num_retries": 0});
        }
        // Shares of a canary are all hashed as the first of them that is.
        let backends = rule.backends.iter();
        let targets = backends.filter_map(|backend| backend.target.as_ref());
        let of_targets = targets.filter_map(|(key, _)| (self.policies)(key));
        let hashed = over
            .parent
            .into_iter()
            .chain(of_targets)
            .find_map(|policy| {
                let balancing = policy.load_balancing.as_ref();
                balancing.filter(|balancing| !balancing.hash_by.is_empty())
            });
        if let Some(balancing) = hashed {
            action["hash_policy"] = load_balancing::of_route(balancing);
        }
        if let Some(host) = &rule.filters.rewrite_host {
            action["host_rewrite_literal"] = json!(host);
        }
        if let Some(rewrite) = &rule.filters.rewrite_path {
            rewrite_path(&mut action, rewrite, prefix);
        }
        let mirrors = self.mirrors(rule, only, policy);
        if !mirrors.is_empty() {
            action["request_mirror_policies"] = json!(mirrors);
        }
        let mut route = json!({"route": action});
        if let Some(fault) = &policy.fault {
            route["typed_per_filter_config"] = json!({FAULT: fault_config(fault)});
        }
        route
    }

    /// The clusters of a service's port and their shares.
    fn split(
        &mut self,
        target: &(Key, u16),
        weight: u32,
        policy: &TrafficPolicySpec,
    ) -> Vec<(String, u32)> {
        let (key, port) = target;
        if policy.split.is_empty() {
            return vec![(cluster_name(key, *port), weight)];
        }
        let mut shares = Vec::new();
        for backend in &policy.split {
            let other = (
                Key::new(&key.namespace, &backend.service),
                backend.port.unwrap_or(*port),
            );
            shares.push((cluster_name(&other.0, other.1), backend.weight));
            self.targets.insert(other);
        }
        shares
    }

    fn mirrors(
        &mut self,
        rule: &Rule,
        only: Option<&(Key, u16)>,
        policy: &TrafficPolicySpec,
    ) -> Vec<Json> {
        let mut found = Vec::new();
        let mut add = |(key, port): (Key, u16), numerator: u64, denominator: u64| {
            let fraction = (numerator * 1_000_000 / denominator).min(1_000_000);
            found.push(json!({
                "cluster": cluster_name(&key, port),
                "runtime_fraction": {
                    "default_value": {"numerator": fraction, "denominator": "MILLION"},
                },
            }));
            self.targets.insert((key, port));
        };
        for mirror in &rule.filters.mirrors {
            if let Some(target) = &mirror.target {
                add(
                    target.clone(),
                    mirror.numerator.into(),
                    mirror.denominator.into(),
                );
            }
        }
        if let (Some(mirror), Some((key, port))) = (&policy.mirror, only) {
            let target = (
                Key::new(&key.namespace, &mirror.service),
                mirror.port.unwrap_or(*port),
            );
            add(target, mirror.percent.unwrap_or(100).into(), 100);
        }
        found
    }
}

/// Lets nothing pass.
fn refuse(route: &mut Json) {
    if let Some(whole) = route.as_object_mut() {
        whole.remove("route");
        whole.remove("redirect");
    }
    route["direct_response"] = json!({"status": 500});
}

fn name_of(target: Option<&(Key, u16)>) -> String {
    target.map_or_else(
        || NOWHERE.to_owned(),
        |(key, port)| cluster_name(key, *port),
    )
}

fn prefix_of(found: &HttpRouteRulesMatches) -> &str {
    found
        .path
        .as_ref()
        .and_then(|path| path.value.as_deref())
        .unwrap_or("/")
}

fn matcher(found: &HttpRouteRulesMatches, order: (usize, usize)) -> (Precedence, Json) {
    let value = prefix_of(found);
    let kind = found.path.as_ref().and_then(|path| path.r#type.as_ref());
    let (rank, mut json) = match kind {
        Some(HttpRouteRulesMatchesPathType::Exact) => (3, json!({"path": value})),
        Some(HttpRouteRulesMatchesPathType::RegularExpression) => {
            (2, json!({"safe_regex": {"regex": value}}))
        }
        Some(HttpRouteRulesMatchesPathType::PathPrefix) | None => {
            let prefix = value.trim_end_matches('/');
            if prefix.is_empty() {
                (1, json!({"prefix": "/"}))
            } else {
                (1, json!({"path_separated_prefix": prefix}))
            }
        }
    };
    let mut headers = Vec::new();
    if let Some(method) = &found.method {
        let method = serde_json::to_value(method).unwrap_or_default();
        headers.push(json!({"name": ":method", "string_match": {"exact": method}}));
    }
    for header in found.headers.iter().flatten() {
        let is_regex = header.r#type == Some(HttpRouteRulesMatchesHeadersType::RegularExpression);
        headers.push(
            json!({"name": header.name, "string_match": text_match(&header.value, is_regex)}),
        );
    }
    let mut parameters = Vec::new();
    for parameter in found.query_params.iter().flatten() {
        let is_regex =
            parameter.r#type == Some(HttpRouteRulesMatchesQueryParamsType::RegularExpression);
        parameters.push(json!({
            "name": parameter.name,
            "string_match": text_match(&parameter.value, is_regex),
        }));
    }
    if !headers.is_empty() {
        json["headers"] = json!(headers);
    }
    if !parameters.is_empty() {
        json["query_parameters"] = json!(parameters);
    }
    let precedence = Precedence {
        path: Reverse((rank, value.len())),
        method: Reverse(found.method.is_some()),
        headers: Reverse(found.headers.as_ref().map_or(0, Vec::len)),
        query_params: Reverse(found.query_params.as_ref().map_or(0, Vec::len)),
        order,
        variant: 0,
    };
    (precedence, json)
}

fn text_match(value: &str, is_regex: bool) -> Json {
    if is_regex {
        json!({"safe_regex": {"regex": value}})
    } else {
        json!({"exact": value})
    }
}

fn headers(place: &mut Json, changes: &HeaderChanges, of: &str) {
    let option = |(name, value): &(String, String), action: &str| json!({"header": {"key": name, "value": value.replace('%', "%%")}, "append_action": action});
    let set = changes
        .set
        .iter()
        .map(|pair| option(pair, "OVERWRITE_IF_EXISTS_OR_ADD"));
    let add = changes
        .add
        .iter()
        .map(|pair| option(pair, "APPEND_IF_EXISTS_OR_ADD"));
    let added: Vec<_> = set.chain(add).collect();
    if !added.is_empty() {
        place[format!("{of}_headers_to_add")] = json!(added);
    }
    if !changes.remove.is_empty() {
        place[format!("{of}_headers_to_remove")] = json!(changes.remove);
    }
}

fn redirect_action(redirect: &Redirect, prefix: &str, listener_port: u16) -> Json {
    let code = match redirect.status {
        301 => "MOVED_PERMANENTLY",
        303 => "SEE_OTHER",
        307 => "TEMPORARY_REDIRECT",
        308 => "PERMANENT_REDIRECT",
        _ => "FOUND",
    };
    let mut action = json!({"response_code": code});
    if let Some(scheme) = redirect.scheme {
        action["scheme_redirect"] = json!(scheme);
    }
    if let Some(hostname) = &redirect.hostname {
        action["host_redirect"] = json!(hostname);
    }
    // A client that came to a well-known port names none, and is not to name one afterwards.
    let is_well_known = matches!(listener_port, 80 | 443);
    let port = match (redirect.port, redirect.scheme) {
        (Some(80), Some("http")) | (Some(443), Some("https")) if is_well_known => None,
        (Some(port), _) => Some(port),
        (None, _) if is_well_known => None,
        (None, Some("http")) => Some(80),
        (None, Some(_)) => Some(443),
        (None, None) => None,
    };
    if let Some(port) = port {
        action["port_redirect"] = json!(port);
    }
    match &redirect.path {
        None => {}
        Some(PathRewrite::Full(path)) => action["path_redirect"] = json!(path),
        Some(rewrite @ PathRewrite::Prefix(_)) => rewrite_path(&mut action, rewrite, prefix),
    }
    action
}

fn rewrite_path(action: &mut Json, rewrite: &PathRewrite, prefix: &str) {
    let prefix = prefix.trim_end_matches('/');
    match rewrite {
        PathRewrite::Full(path) => {
            action["regex_rewrite"] = json!({
                "pattern": {"regex": "^[^?]*"},
                "substitution": path.replace('\\', "\\\\"),
            });
        }
        PathRewrite::Prefix(new) => {
            let new = new.trim_end_matches('/');
            if prefix.is_empty() {
                action["prefix_rewrite"] = json!(format!("{new}/"));
            } else if new.is_empty() {
                // What follows the prefix begins with the slash or is nothing.
                action["regex_rewrite"] = json!({
                    "pattern": {"regex": format!("^{}/*", regex_escape(prefix))},
                    "substitution": "/",
                });
            } else {
                action["prefix_rewrite"] = json!(new);
            }
        }
    }
}

fn retry_policy(retries: &Retries, rule: &Rule) -> Json {
    let on: Vec<_> = if retries.on.is_empty() {
        vec!["gateway-error", "connect-failure", "refused-stream"]
    } else {
        retries
            .on
            .iter()
            .map(|condition| condition.name())
            .collect()
    };
    let mut policy = json!({
        "retry_on": on.join(","),
        "num_retries": retries.attempts,
        "retry_host_predicate": [{
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": typed(
                "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
                json!({}),
            ),
        }],
        "host_selection_retry_max_attempts": 5,
    });
    if let Some(timeout) = rule.backend_timeout.or(retries.per_try_timeout) {
        policy["per_try_timeout"] = duration(timeout);
    }
    if let Some(backoff) = &retries.backoff {
        let max = backoff.max.unwrap_or(backoff.base * 10);
        policy["retry_back_off"] =
            json!({"base_interval": duration(backoff.base), "max_interval": duration(max)});
    }
    policy
}

fn fault_config(fault: &Fault) -> Json {
    let percent = |percent: u32| json!({"numerator": percent, "denominator": "HUNDRED"});
    let mut config = json!({});
    if let Some(delay) = &fault.delay {
        config["delay"] =
            json!({"fixed_delay": duration(delay.duration), "percentage": percent(delay.percent)});
    }
    if let Some(abort) = &fault.abort {
        config["abort"] =
            json!({"http_status": abort.status, "percentage": percent(abort.percent)});
    }
    typed(FAULT_TYPE, config)
}
