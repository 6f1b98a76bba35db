//! What policies of gateways become, and what their objects are told.

use std::sync::Arc;

use super::tests::{NoSecrets, json, role, translator};
use super::*;
use crate::model::load_texts;

const POLICIES: &str = include_str!("policy_tests.yaml");
pub(super) const ROUTES: &str = "gateway/default/edge/8080";

fn snapshot(text: &str) -> Snapshot {
    translator(text).snapshot(&role("gateway/default/edge"), &NoSecrets)
}

fn get(snapshot: &Snapshot, kind: ResourceType, name: &str) -> Json {
    json(&snapshot.of(kind)[name], kind)
}

/// The routes of a port, as they are matched.
pub(super) fn routes(snapshot: &Snapshot, name: &str) -> Vec<Json> {
    let table = get(snapshot, ResourceType::Route, name);
    table["virtual_hosts"][0]["routes"]
        .as_array()
        .unwrap()
        .clone()
}

pub(super) fn filters(snapshot: &Snapshot, listener: &str) -> Vec<Json> {
    let listener = get(snapshot, ResourceType::Listener, listener);
    let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager["http_filters"].as_array().unwrap().clone()
}

pub(super) fn names(filters: &[Json]) -> Vec<&str> {
    filters
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect()
}

pub(super) fn told(text: &str) -> Vec<String> {
    let model = load_texts([("a.yaml", text)]).unwrap();
    let world = World::build(&model, "mesh.test", &[], None);
    let failed = world.statuses.iter().flat_map(|status| {
        status
            .conditions
            .iter()
            .filter(|condition| !condition.status)
            .map(|condition| {
                format!(
                    "{} {}: {}: {} {}: {}",
                    status.kind.name(),
                    status.key.name,
                    condition.about,
                    condition.name,
                    condition.reason,
                    condition.message
                )
            })
    });
    failed.collect()
}

/// The world of other texts, all of whose objects need not be fine.
pub(super) fn broken(text: &str) -> Snapshot {
    let model = load_texts([("a.yaml", text)]).unwrap();
    let world = World::build(&model, "mesh.test", &[], None);
    Translator::new(Arc::new(world), None).snapshot(&role("gateway/default/edge"), &NoSecrets)
}

#[test]
fn every_resource_of_a_policy_keeps_the_rules_of_the_api() {
    let snapshot = snapshot(POLICIES);
    for kind in ResourceType::ALL {
        for (name, resource) in snapshot.of(kind) {
            assert!(!resource.body.value.is_empty(), "{name} cannot be encoded");
            let violations = outrigger_proto::validate::check(kind.message(), &resource.body.value);
            assert!(violations.is_empty(), "{name}: {violations:?}");
        }
    }
}

#[test]
fn a_gateway_without_a_policy_has_no_filter_for_it() {
    let (without, _) = POLICIES
        .split_once("---\napiVersion: outrigger.dev/v1alpha1\nkind: GatewayPolicy")
        .unwrap();
    let snapshot = snapshot(without);
    assert_eq!(
        names(&filters(&snapshot, ROUTES)),
        ["envoy.filters.http.fault", "envoy.filters.http.router"]
    );
    assert!(snapshot.of(ResourceType::Extension).is_empty());
}

#[test]
fn filters_stand_in_the_order_in_which_they_decide() {
    let filters = filters(&snapshot(POLICIES), ROUTES);
    assert_eq!(
        names(&filters),
        [
            "outrigger.filters.http.compressor/brotli",
            "outrigger.filters.http.compressor/zstd",
            "outrigger.filters.http.compressor/gzip",
            "envoy.filters.http.cors",
            "envoy.filters.http.fault",
            "envoy.filters.http.api_key_auth",
            "envoy.filters.http.basic_auth",
            "gateway/default/edge/8080/jwt",
            "outrigger.filters.http.ext_authz/default/edge",
            "outrigger.filters.http.ext_authz/default/open",
            "envoy.filters.http.ratelimit",
            "envoy.filters.http.router",
        ]
    );
    // What a route does not ask for asks nothing of it.
    for filter in &filters {
        let name = filter["name"].as_str().unwrap();
        let by_itself = ["cors", "fault", "jwt", "ratelimit", "router"];
        let is_harmless = by_itself.iter().any(|it| name.ends_with(it));
        assert_eq!(filter["disabled"] == true, !is_harmless, "{name}");
    }
}

#[test]
fn paths_of_other_tokens_are_matched_first() {
    let snapshot = snapshot(POLICIES);
    let told: Vec<_> = routes(&snapshot, ROUTES)
        .iter()
        .map(|route| {
            let path = &route["match"]["headers"][0]["string_match"]["safe_regex"]["regex"];
            let jwt = &route["typed_per_filter_config"][format!("{ROUTES}/jwt")];
            let prefix = route["match"]["path_separated_prefix"].clone();
            (prefix, path.clone(), jwt["requirement_name"].clone())
        })
        .collect();
    let text = |text: &str| json!(text);
    assert_eq!(
        told,
        [
            // The rule that has a policy of its own.
            (text("/open"), Json::Null, Json::Null),
            (Json::Null, text("/public/.*|/health([?].*)?"), Json::Null),
            (
                Json::Null,
                text("/both.*"),
                text("all of default/login, default/inside")
            ),
            (
                Json::Null,
                text("/maybe([?].*)?"),
                text("any of default/login, or none")
            ),
            (
                Json::Null,
                Json::Null,
                text("any of default/login, default/partner")
            ),
        ]
    );
    let jwt = get(&snapshot, ResourceType::Extension, &format!("{ROUTES}/jwt"));
    let requirements = &jwt["typed_config"]["requirement_map"];
    assert_eq!(
        requirements["any of default/login, or none"],
        json!({"requires_any": {"requirements": [
            {"provider_name": "default/login"}, {"allow_missing": {}},
        ]}})
    );
    assert_eq!(
        requirements["all of default/login, default/inside"]["requires_all"]["requirements"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn keys_are_fetched_from_services_hosts_and_texts() {
    let snapshot = snapshot(POLICIES);
    let jwt = get(&snapshot, ResourceType::Extension, &format!("{ROUTES}/jwt"));
    let providers = &jwt["typed_config"]["providers"];
    let login = &providers["default/login"];
    assert_eq!(
        login["remote_jwks"]["http_uri"]["cluster"],
        "jwks/https/login.example/443"
    );
    assert_eq!(login["from_headers"][0]["value_prefix"], "T ");
    assert_eq!(login["claim_to_headers"][0]["header_name"], "x-user");
    assert_eq!(providers["default/partner"]["forward"], true);
    assert!(
        providers["default/partner"]["local_jwks"]["inline_string"]
            .as_str()
            .unwrap()
            .contains("AAAA")
    );
    let inside = &providers["default/inside"]["remote_jwks"]["http_uri"];
    assert_eq!(inside["cluster"], "default/shop/80");
    let cluster = get(
        &snapshot,
        ResourceType::Cluster,
        "jwks/https/login.example/443",
    );
    assert_eq!(cluster["type"], "STRICT_DNS");
    let tls = &cluster["transport_socket"]["typed_config"];
    assert_eq!(tls["sni"], "login.example");
    let validation = &tls["common_tls_context"]["combined_validation_context"];
    let roots = &validation["validation_context_sds_secret_config"]["name"];
    let roots = roots.as_str().unwrap();
    assert!(snapshot.of(ResourceType::Secret).contains_key(roots));
}

#[test]
fn limits_are_counted_under_what_the_rate_limit_service_knows() {
    let routes = routes(&snapshot(POLICIES), ROUTES);
    let limits = routes.last().unwrap()["route"]["rate_limits"].clone();
    let all: Vec<Vec<_>> = limits
        .as_array()
        .unwrap()
        .iter()
        .map(|limit| {
            let actions = limit["actions"].as_array().unwrap().iter();
            actions
                .map(|action| {
                    let (kind, action) = action.as_object().unwrap().iter().next().unwrap();
                    let key = action["descriptor_key"].as_str().unwrap_or(kind);
                    (kind.clone(), key.to_owned())
                })
                .collect()
        })
        .collect();
    let action = |kind: &str, key: &str| (kind.to_owned(), key.to_owned());
    assert_eq!(
        all,
        [
            vec![
                action("generic_key", "limit"),
                action("metadata", "claim realm.user"),
                action("request_headers", "header x-client"),
                action("remote_address", "remote_address"),
            ],
            vec![
                action("generic_key", "limit"),
                action("metadata", "claim realm.user"),
                action("header_value_match", "header x-client"),
                action("remote_address", "remote_address"),
            ],
            vec![action("header_value_match", "limit")],
        ]
    );
    let model = load_texts([("a.yaml", POLICIES)]).unwrap();
    let key = Key::new("default", "edge");
    let counted = model.gateway_policies[&key]
        .object
        .spec
        .counted(&key)
        .unwrap();
    assert_eq!(counted.domain, crate::model::LIMITS_DOMAIN);
    let keys: Vec<_> = counted.limits[0]
        .matches
        .iter()
        .map(|one| (one.key.as_str(), one.value.as_deref()))
        .collect();
    assert_eq!(
        keys,
        [
            ("limit", Some("default/edge/0")),
            ("claim realm.user", None),
            ("header x-client", None),
            ("remote_address", None),
        ]
    );
    assert!(counted.limits[1].shadow);
}

#[test]
fn the_nearer_policy_replaces_a_section_as_a_whole() {
    let routes = routes(&snapshot(POLICIES), ROUTES);
    let open = &routes[0];
    let mut configs: Vec<_> = open["typed_per_filter_config"]
        .as_object()
        .unwrap()
        .keys()
        .collect();
    configs.sort();
    // CORS and compression are from the gateway.
    assert_eq!(
        configs,
        [
            "envoy.filters.http.cors",
            "outrigger.filters.http.compressor/brotli",
            "outrigger.filters.http.compressor/gzip",
            "outrigger.filters.http.compressor/zstd",
            "outrigger.filters.http.ext_authz/default/open",
        ]
    );
    assert_eq!(open["route"]["rate_limits"], Json::Null);
    assert_eq!(open["route"]["timeout"], "7s");
    assert_eq!(open["route"]["retry_policy"]["num_retries"], 3);
}

#[test]
fn a_policy_that_refers_to_nothing_lets_nothing_pass() {
    let changes = [
        (
            "anyOf: [login, partner]",
            "anyOf: [nobody]",
            "InvalidProvider: there is no JwtProvider default/nobody",
        ),
        (
            "secrets: [clients]",
            "secrets: [users2]",
            "InvalidSecret: there is no Secret default/users2",
        ),
        (
            "{ann: key-of-ann}",
            "{ann: key-of-bob}",
            "InvalidSecret: Secret clients: bob has the same key as ann",
        ),
        (
            "basicAuth: {secret: users}",
            "basicAuth: {secret: clients}",
            "InvalidSecret: Secret clients: .htpasswd is missing",
        ),
        (
            "ann:{SHA}",
            "ann:{MD5}",
            "InvalidSecret: Secret users: .htpasswd: line 1 is no USER:{SHA}",
        ),
        (
            "grpc: {service: shop, port: 81}",
            "grpc: {service: shop, port: 80}",
            "UnsupportedProtocol: port 80 of Service default/shop is not of HTTP/2",
        ),
        (
            "grpc: {service: shop, port: 81}",
            "grpc: {service: shop, port: 9}",
            "BackendNotFound: Service default/shop has no port 9",
        ),
        (
            "{jwks: {configMap: {name: keys}}, forward: true}",
            "{jwks: {configMap: {name: other}}}",
            "InvalidProvider: there is no JwtProvider default/partner",
        ),
    ];
    for (old, new, expected) in changes {
        assert!(POLICIES.contains(old), "{old}");
        let text = POLICIES.replace(old, new);
        let told = told(&text);
        let expected = format!("GatewayPolicy edge: : ResolvedRefs {expected}");
        assert!(told.iter().any(|it| it.starts_with(&expected)), "{told:?}");
        let routes = routes(&broken(&text), ROUTES);
        let (open, others) = routes.split_first().unwrap();
        // The rule whose policy has another section goes on.
        assert!(open["route"].is_object(), "{new}");
        for route in others {
            assert_eq!(route["direct_response"]["status"], 500, "{new}");
            assert_eq!(route["route"], Json::Null, "{new}");
        }
    }
}

#[test]
fn targets_that_there_are_not_and_conflicts_are_told() {
    let text = format!(
        "{POLICIES}---
apiVersion: outrigger.dev/v1alpha1
kind: GatewayPolicy
metadata: {{name: second}}
spec:
  targetRefs:
  - {{kind: Gateway, name: edge}}
  - {{kind: Gateway, name: edge, sectionName: other}}
  - {{kind: Gateway, name: edge, sectionName: nothing}}
  - {{kind: HTTPRoute, name: nothing}}
  - {{kind: HTTPRoute, name: shop, sectionName: nothing}}
  timeout: 9s
  jwt: {{off: true}}
"
    );
    assert_eq!(
        told(&text),
        [
            "GatewayPolicy second: Gateway edge: Accepted Conflicted: another GatewayPolicy for the same target goes before with jwt, timeout",
            "GatewayPolicy second: Gateway edge: Programmed Conflicted: another GatewayPolicy goes before with all that it says",
            "GatewayPolicy second: Gateway edge/nothing: Accepted TargetNotFound: there is no nothing in Gateway default/edge",
            "GatewayPolicy second: Gateway edge/nothing: Programmed NotAccepted: the target is not there",
            "GatewayPolicy second: HTTPRoute nothing: Accepted TargetNotFound: there is no HTTPRoute default/nothing",
            "GatewayPolicy second: HTTPRoute nothing: Programmed NotAccepted: the target is not there",
            "GatewayPolicy second: HTTPRoute shop/nothing: Accepted TargetNotFound: there is no nothing in HTTPRoute default/shop",
            "GatewayPolicy second: HTTPRoute shop/nothing: Programmed NotAccepted: the target is not there",
        ]
    );
    // A listener is nearer than its gateway.
    let snapshot = broken(&text);
    let timeout = |name: &str| routes(&snapshot, name).last().unwrap()["route"]["timeout"].clone();
    assert_eq!(timeout(ROUTES), "7s");
    assert_eq!(timeout("gateway/default/edge/8081"), "9s");
}

#[test]
fn a_policy_says_for_which_listeners_it_is_in_force() {
    let text = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: outrigger
  addresses: [{value: 127.0.0.1}]
  listeners: [{name: one, port: 80, protocol: HTTP}, {name: two, port: 81, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: edge, sectionName: two}]
  rules: [{name: all, filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: alone}
spec: {parentRefs: [{name: nothing}]}
---
apiVersion: outrigger.dev/v1alpha1
kind: GatewayPolicy
metadata: {name: p}
spec:
  targetRefs:
  - {kind: Gateway, name: edge}
  - {kind: HTTPRoute, name: shop}
  - {kind: HTTPRoute, name: shop, sectionName: all}
  - {kind: HTTPRoute, name: alone}
  timeout: 9s
";
    let programmed = |text: &str| {
        let model = load_texts([("a.yaml", text)]).unwrap();
        let world = World::build(&model, "mesh.test", &[], None);
        let policies = world.statuses.iter();
        let policies = policies.filter(|status| status.kind.name() == "GatewayPolicy");
        let conditions = policies.flat_map(|status| &status.conditions);
        let conditions = conditions.filter(|condition| condition.name == "Programmed");
        conditions
            .map(|it| format!("{}: {} {}: {}", it.about, it.status, it.reason, it.message))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        programmed(text),
        [
            "Gateway edge: true Programmed: for default/edge/one, default/edge/two",
            "HTTPRoute shop: true Programmed: for default/edge/two",
            "HTTPRoute shop/all: true Programmed: for default/edge/two",
            "HTTPRoute alone: false NoGateway: no listener of a gateway has the target",
        ]
    );
    let broken = text.replace("timeout: 9s", "jwt: {anyOf: [nobody]}");
    let told = programmed(&broken);
    let expected = "HTTPRoute shop: false ResolvedRefs: requests are answered with 500: there is no JwtProvider";
    assert!(told[1].starts_with(expected), "{told:?}");
}

#[test]
fn keys_and_passwords_are_not_shown() {
    use outrigger_proto::json::{Style, encoded_to_json};
    let snapshot = snapshot(POLICIES);
    let table = &snapshot.of(ResourceType::Route)[ROUTES];
    let shown = |redact| {
        let style = Style {
            redact,
            ..Style::default()
        };
        encoded_to_json(ResourceType::Route.message(), &table.body.value, style).unwrap()
    };
    for secret in ["key-of-ann", "key-of-bob", "{SHA}"] {
        assert!(shown(false).contains(secret), "{secret}");
        assert!(!shown(true).contains(secret), "{secret}");
    }
}

const OWN_CORS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: outrigger, listeners: [{name: http, port: 8080, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: edge}]
  rules:
  - backendRefs: [{name: web, port: 80}]
    filters:
    - type: CORS
      cors: {allowOrigins: ["https://*.shop.example", "http://*"], allowMethods: ["*"], allowHeaders: [x-a], allowCredentials: true}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
"#;

#[test]
fn the_filter_of_a_route_goes_before_the_policy_of_its_gateway() {
    let policy = "---\napiVersion: outrigger.dev/v1alpha1\nkind: GatewayPolicy\nmetadata: {name: p}\nspec: {targetRefs: [{kind: Gateway, name: edge}], cors: {allowOrigins: ['*']}}\n";
    for text in [OWN_CORS.to_owned(), format!("{OWN_CORS}{policy}")] {
        let snapshot = snapshot(&text);
        let filters = filters(&snapshot, ROUTES);
        assert!(names(&filters).contains(&"envoy.filters.http.cors"));
        let route = &routes(&snapshot, ROUTES)[0];
        let cors = &route["typed_per_filter_config"]["envoy.filters.http.cors"];
        let origins = &cors["allow_origin_string_match"];
        let regex = |index: usize| origins[index]["safe_regex"]["regex"].as_str().unwrap();
        assert_eq!(regex(0), r"https://.+\.shop\.example");
        assert_eq!(regex(1), "http://.+");
        // Browsers that send cookies take `*` for a name.
        assert_eq!(
            cors["allow_methods"],
            "GET,HEAD,POST,PUT,PATCH,DELETE,OPTIONS"
        );
        assert_eq!(cors["allow_headers"], "x-a");
        assert_eq!(cors["allow_credentials"], true);
        assert_eq!(cors["max_age"], "5");
    }
}

#[test]
fn a_filter_of_cors_that_cannot_hold_is_refused() {
    let named = OWN_CORS.replace("allowHeaders: [x-a]", "allowHeaders: ['*']");
    assert_eq!(
        told(&named),
        [
            "HTTPRoute shop: spec.rules[0]: Accepted UnsupportedValue: with `allowCredentials`, headers have to be named: not `*`"
        ]
    );
    let of_service = OWN_CORS.replace(
        "parentRefs: [{name: edge}]",
        "parentRefs: [{kind: Service, group: '', name: web}]",
    );
    let said = told(&of_service);
    assert!(
        said.iter()
            .any(|line| line.contains("the filter CORS is for routes of gateways")),
        "{said:?}"
    );
    let origin = OWN_CORS.replace("\"http://*\"", "shop.example");
    let refused = load_texts([("a.yaml", &*origin)]).unwrap_err();
    let text = format!("{refused:?}");
    assert!(text.contains("filters[0].cors.allowOrigins[1]"), "{text}");
}
