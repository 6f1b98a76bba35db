//! Policies of gateways: filters of a connection manager, and what routes say to them.
//!
//! What a policy says is in the routes, and in configurations of filters that come by themselves: neither changes a
//! listener. A filter is there once a policy of the listener needs it.

mod access;
mod answers;
mod ext_authz;
mod jwt;
mod limits;
mod origins;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{Builder, ads, resource, typed};
use crate::cache::{Resource, ResourceType};
use crate::model::{Claims, Compression, CorsSpec, Key};
use crate::world::{ApiKeys, ExtAuthz, Keys, Missing, Policy, Provider, Requirement, regex_escape};
use access::{ADDRESSES, CLAIMED};
use answers::{BANDWIDTH, BODY, ERRORS, compressor, compressor_name};
use jwt::{joined, jwks_cluster, system_roots};
use limits::rate_limits;
use origins::{CORS, CSRF, cors_policy};

const API_KEYS: &str = "envoy.filters.http.api_key_auth";
const BASIC_AUTH: &str = "envoy.filters.http.basic_auth";
const JWT: &str = "envoy.filters.http.jwt_authn";
const EXTENSIONS: &str = "envoy.extensions.filters.http";
/// Where the claims of a good token are, in the metadata of [`JWT`].
const CLAIMS: &str = "claims";
/// Where no route says whose passwords are good, nobody's are: there is no known text with this hash.
const NOBODY: &str = "nobody:{SHA}AAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// What the policies of a connection manager need.
#[derive(Default)]
pub(super) struct Used {
    /// The name of the route table.
    route: String,
    /// Of all filters whose configuration is in routes only: those that some route has.
    filters: BTreeSet<&'static str>,
    has_rate_limits: bool,
    trusted_hops: u32,
    compression: BTreeSet<Compression>,
    providers: BTreeMap<Key, Arc<Provider>>,
    requirements: BTreeMap<String, Json>,
    ext_authz: BTreeMap<Key, Arc<ExtAuthz>>,
}

/// Paths of a route for which something else holds, and what the filter of tokens is told there.
pub(super) struct Variant {
    /// None: all that are left.
    pub(super) paths: Option<String>,
    requirement: Option<String>,
    claims: Claims,
}

impl Used {
    /// Nothing yet, for the connection manager with the routes of this name.
    pub(super) fn new(route: &str) -> Self {
        Self {
            route: route.to_owned(),
            ..Self::default()
        }
    }

    /// The paths of a route between which a policy makes a difference, in the order in which they are to be matched.
    pub(super) fn variants(&mut self, policy: Option<&Policy>) -> Vec<Variant> {
        let Some(jwt) = policy.and_then(|policy| policy.jwt.as_deref()) else {
            return vec![Variant {
                paths: None,
                requirement: None,
                claims: Claims::new(),
            }];
        };
        for (key, provider) in &jwt.providers {
            self.providers.insert(key.clone(), Arc::clone(provider));
        }
        let rules = jwt.rules.iter();
        let rules = rules.map(|(paths, demand)| (Some(paths_regex(paths)), demand));
        rules
            .chain([(None, &jwt.otherwise)])
            .map(|(paths, demand)| Variant {
                paths,
                requirement: self.requirement(&demand.tokens),
                claims: demand.claims.clone(),
            })
            .collect()
    }

    /// Takes over what is said for a whole listener.
    pub(super) fn add_listener(&mut self, policy: &Policy) {
        self.trusted_hops = policy.trusted_hops;
    }

    /// How many proxies are in front of the gateway.
    pub(super) fn trusted_hops(&self) -> u32 {
        self.trusted_hops
    }

    /// The name of a requirement, which says all of it: it never means anything else.
    fn requirement(&mut self, requirement: &Requirement) -> Option<String> {
        let (word, keys, missing) = match requirement {
            Requirement::Nothing => return None,
            Requirement::Any(keys, missing) => ("any", keys, *missing),
            Requirement::All(keys, missing) => ("all", keys, *missing),
        };
        let one = |key: &Key| json!({"provider_name": key.to_string()});
        let mut json = joined(word, keys.iter().map(one).collect());
        let names: Vec<_> = keys.iter().map(ToString::to_string).collect();
        let mut name = format!("{word} of {}", names.join(", "));
        if missing == Missing::Allowed {
            let mut any = match requirement {
                Requirement::Any(..) => keys.iter().map(one).collect(),
                _ => vec![json],
            };
            any.push(json!({"allow_missing": {}}));
            json = joined("any", any);
            name += ", or none";
        }
        self.requirements.insert(name.clone(), json);
        Some(name)
    }

    /// Tells the filter of CORS, in a route, what holds there.
    pub(super) fn apply_cors(&mut self, cors: &CorsSpec, route: &mut Json) {
        self.filters.insert(CORS);
        route["typed_per_filter_config"][CORS] = cors_policy(cors);
    }

    /// Tells the filters, in a route, what the policy says.
    pub(super) fn apply(&mut self, policy: &Policy, variant: &Variant, route: &mut Json) {
        let mut configs = BTreeMap::new();
        if let Some(name) = &variant.requirement {
            let config = json!({"requirement_name": name});
            let message = format!("{EXTENSIONS}.jwt_authn.v3.PerRouteConfig");
            configs.insert(jwt_name(&self.route), typed(&message, config));
        }
        let mut add = |name: &'static str, config: Json| {
            self.filters.insert(name);
            configs.insert(name.to_owned(), config);
        };
        if let Some(addresses) = &policy.addresses {
            add(ADDRESSES, access::addresses(addresses));
        }
        if let Some(csrf) = &policy.csrf {
            add(CSRF, origins::csrf_policy(csrf));
        }
        if let Some(keys) = &policy.api_keys {
            add(API_KEYS, api_keys(keys));
        }
        if let Some(users) = &policy.basic_auth {
            let message = format!("{EXTENSIONS}.basic_auth.v3.BasicAuthPerRoute");
            let config = json!({"users": {"inline_string": &**users}});
            add(BASIC_AUTH, typed(&message, config));
        }
        if !variant.claims.is_empty() {
            add(CLAIMED, access::claims(&variant.claims));
        }
        if let Some(bytes) = policy.max_body_bytes {
            add(BODY, answers::body(bytes));
        }
        if let Some(bandwidth) = &policy.bandwidth {
            add(BANDWIDTH, answers::bandwidth(bandwidth));
        }
        if !policy.errors.is_empty() {
            add(ERRORS, answers::errors(&policy.errors));
        }
        if let Some(authorizer) = &policy.ext_authz {
            let key = authorizer.policy.clone();
            configs.insert(ext_authz_name(&key), ext_authz::per_route(authorizer));
            self.ext_authz.insert(key, Arc::clone(authorizer));
        }
        if let Some(cors) = &policy.cors {
            self.apply_cors(cors, route);
        }
        for algorithm in &policy.compression {
            self.compression.insert(*algorithm);
            let message = format!("{EXTENSIONS}.compressor.v3.CompressorPerRoute");
            let config = json!({"overrides": {"response_direction_config": {}}});
            configs.insert(compressor_name(*algorithm), typed(&message, config));
        }
        for (name, config) in configs {
            route["typed_per_filter_config"][name] = config;
        }
        // A redirect has no action that could have limits.
        if let (Some(limits), Some(action)) = (&policy.rate_limits, route.get_mut("route")) {
            let limits = rate_limits(limits);
            if !limits.is_empty() {
                self.has_rate_limits = true;
                action["rate_limits"] = json!(limits);
            }
        }
    }

    /// Whether the filters decide who may call.
    pub(super) fn has_guards(&self) -> bool {
        self.filters.contains(API_KEYS)
            || self.filters.contains(BASIC_AUTH)
            || !self.providers.is_empty()
            || !self.ext_authz.is_empty()
    }

    /// The filters, in the order of requests.
    pub(super) fn filters(&self, fault: Json) -> Vec<Json> {
        let mut filters: Vec<_> = self
            .compression
            .iter()
            .map(|algorithm| {
                let (message, config) = compressor(*algorithm);
                disabled(&compressor_name(*algorithm), &message, config)
            })
            .collect();
        // What stands in for an answer is for all answers of what is behind.
        self.add(&mut filters, ERRORS, answers::no_errors);
        if self.filters.contains(CORS) {
            let config = typed(&format!("{EXTENSIONS}.cors.v3.Cors"), json!({}));
            filters.push(json!({"name": CORS, "typed_config": config}));
        }
        // Pages of other origins are to see faults, too; callers are to be known before.
        filters.push(fault);
        self.add(&mut filters, ADDRESSES, access::anyone);
        self.add(&mut filters, CSRF, origins::no_csrf_policy);
        self.add(&mut filters, API_KEYS, || {
            let message = format!("{EXTENSIONS}.api_key_auth.v3.ApiKeyAuth");
            (message, json!({}))
        });
        self.add(&mut filters, BASIC_AUTH, || {
            let message = format!("{EXTENSIONS}.basic_auth.v3.BasicAuth");
            (message, json!({"users": {"inline_string": NOBODY}}))
        });
        if !self.providers.is_empty() {
            filters.push(discovered(
                &jwt_name(&self.route),
                "jwt_authn.v3.JwtAuthentication",
            ));
        }
        self.add(&mut filters, CLAIMED, access::anyone);
        for key in self.ext_authz.keys() {
            let name = ext_authz_name(key);
            let mut filter = discovered(&name, "ext_authz.v3.ExtAuthz");
            filter["disabled"] = json!(true);
            filters.push(filter);
        }
        if self.has_rate_limits {
            filters.push(limits::filter());
        }
        self.add(&mut filters, BODY, answers::no_body);
        self.add(&mut filters, BANDWIDTH, answers::no_bandwidth);
        filters
    }

    /// Adds a filter if some route configures it.
    fn add(&self, filters: &mut Vec<Json>, name: &str, config: impl Fn() -> (String, Json)) {
        if self.filters.contains(name) {
            let (message, config) = config();
            filters.push(disabled(name, &message, config));
        }
    }

    /// Adds what the filters need.
    pub(super) fn add_resources(&self, builder: &mut Builder<'_>) {
        if !self.providers.is_empty() {
            builder.add(ResourceType::Extension, self.jwt_authn());
        }
        for provider in self.providers.values() {
            match &provider.keys {
                Keys::Inline(_) => {}
                Keys::Service(key, port) => builder.add_cluster(key, *port),
                Keys::Host { host, port, roots } => {
                    let made = jwks_cluster(host, *port, roots.is_some());
                    builder.add(ResourceType::Cluster, made);
                    if let Some(roots) = roots {
                        builder.add(ResourceType::Secret, system_roots(roots));
                    }
                }
            }
        }
        for (key, authorizer) in &self.ext_authz {
            let name = ext_authz_name(key);
            let message = format!("{EXTENSIONS}.ext_authz.v3.ExtAuthz");
            let config = typed(&message, ext_authz::filter(authorizer));
            let json = json!({"name": name, "typed_config": config});
            builder.add(
                ResourceType::Extension,
                resource(ResourceType::Extension, &name, &json),
            );
            let (service, port) = &authorizer.target;
            builder.add_cluster(service, *port);
        }
    }

    fn jwt_authn(&self) -> Resource {
        let providers: serde_json::Map<_, _> = self
            .providers
            .iter()
            .map(|(key, provider)| (key.to_string(), jwt::provider(provider)))
            .collect();
        let config = json!({"providers": providers, "requirement_map": self.requirements});
        let message = format!("{EXTENSIONS}.jwt_authn.v3.JwtAuthentication");
        let name = jwt_name(&self.route);
        let json = json!({"name": name, "typed_config": typed(&message, config)});
        resource(ResourceType::Extension, &name, &json)
    }
}

fn jwt_name(route: &str) -> String {
    format!("{route}/jwt")
}

fn ext_authz_name(policy: &Key) -> String {
    format!("outrigger.filters.http.ext_authz/{policy}")
}

/// A filter that is asked only where a route configures it.
fn disabled(name: &str, message: &str, config: Json) -> Json {
    json!({"name": name, "disabled": true, "typed_config": typed(message, config)})
}

/// A filter whose configuration comes by itself.
fn discovered(name: &str, message: &str) -> Json {
    json!({
        "name": name,
        "config_discovery": {
            "config_source": ads(),
            "type_urls": [format!("type.googleapis.com/{EXTENSIONS}.{message}")],
        },
    })
}

/// Matches a path of these, with whatever parameters.
fn paths_regex(paths: &[String]) -> String {
    let one = |path: &String| match path.strip_suffix('*') {
        Some(start) => format!("{}.*", regex_escape(start)),
        None => format!("{}([?].*)?", regex_escape(path)),
    };
    let all: Vec<_> = paths.iter().map(one).collect();
    all.join("|")
}

fn api_keys(keys: &ApiKeys) -> Json {
    let spec = &keys.spec;
    let credentials: Vec<_> = keys
        .clients
        .iter()
        .map(|(client, key)| json!({"key": key, "client": client}))
        .collect();
    let mut sources = Vec::new();
    match &spec.from {
        None => sources.push(json!({"header": "x-api-key"})),
        Some(places) => {
            sources.extend(places.headers.iter().map(|it| json!({"header": it})));
            sources.extend(places.params.iter().map(|it| json!({"query": it})));
            sources.extend(places.cookies.iter().map(|it| json!({"cookie": it})));
        }
    }
    let mut forwarding = json!({"hide_credentials": !spec.forward});
    if let Some(header) = &spec.client_header {
        forwarding["header"] = json!(header);
    }
    let message = format!("{EXTENSIONS}.api_key_auth.v3.ApiKeyAuthPerRoute");
    typed(
        &message,
        json!({
            "credentials": credentials,
            "key_sources": sources,
            "allowed_clients": spec.allow_clients,
            "forwarding": forwarding,
        }),
    )
}
