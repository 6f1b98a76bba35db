//! RBAC, of connections and of requests. What needs a certificate of the peer is told with TLS (`tests/tls.rs`).

use std::time::Duration;

use crate::case::{Act, Case, Kind, Step, With, case, get, indent, request, send};
use crate::tokens;

pub fn cases() -> Vec<Case> {
    [
        permissions(),
        principals(),
        claims(),
        behind_proxies(),
        logic(),
        actions(),
        shadow(),
        per_route(),
        matchers(),
        connections(),
        connection_rules(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const METADATA: &str = "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% rbac=%DYNAMIC_METADATA(envoy.filters.http.rbac)% common=%DYNAMIC_METADATA(envoy.common)%";

/// A case whose HTTP filter has these fields.
fn filter(title: &'static str, fields: &str) -> Case {
    case(title)
        .filters(&format!(
            "- name: rbac\n  typed_config:\n    \"@type\": \"@http/rbac.v3.RBAC\"\n{}",
            indent(fields, 4)
        ))
        .log_format(METADATA, "")
}

/// One policy called `p one`.
fn rules(action: &str, permission: &str, principal: &str) -> String {
    format!(
        "rules:\n  action: {action}\n  policies:\n    \"p one\": {{ permissions: [ {{ {permission} }} ], principals: [ {{ {principal} }} ] }}\n"
    )
}

/// Denies what has this permission, which `/denied` has and `/` has not.
fn denies(title: &'static str, permission: &str) -> Case {
    filter(title, &rules("DENY", permission, "any: true"))
}

fn denies_principal(title: &'static str, principal: &str) -> Case {
    filter(title, &rules("DENY", "any: true", principal))
}

const DENIED: [&str; 2] = [
    "< body RBAC: access denied",
    "log 403 rbac_access_denied_matched_policy[p_one]*",
];

const UPSTREAM_PORT: &str = "matcher: { name: u, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.rbac.matchers.upstream_ip_port.v3.UpstreamIpPortMatcher, upstream_port_range: { start: 1, end: 65535 } } }";

fn permissions() -> Vec<Case> {
    let set_metadata = "- name: meta\n  typed_config: { \"@type\": \"@http/set_metadata.v3.Config\", metadata: [ { metadata_namespace: ns, value: { tier: gold, deep: { er: 7 } } } ] }";
    vec![
        denies(
            "a URI template is a permission",
            "uri_template: { name: t, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: \"/a/{name}/*\" } }",
        )
        .get("/a/b/c?d=/e")
        .get("/a/b")
        .shows(DENIED)
        .shows(["< 200"]),
        denies("a permission on a header denies", "header: { name: x-who, string_match: { exact: eve } }")
            .send(get("/").field("x-who", "eve"))
            .send(get("/").field("x-who", "bob"))
            .both()
            .shows(DENIED)
            .shows(["< body hello"]),
        denies("of repeated headers one that matches is enough for RBAC", "header: { name: x-who, string_match: { exact: eve } }")
            .send(get("/").field("x-who", "bob").field("x-who", "eve"))
            .shows(DENIED),
        denies("repeated headers are one value for a regex of RBAC", "header: { name: x-who, string_match: { safe_regex: { regex: \"bob,eve\" } } }")
            .send(get("/").field("x-who", "bob").field("x-who", "eve"))
            .shows(["< body hello"]),
        denies("a permission on :method denies", "header: { name: \":method\", string_match: { exact: POST } }")
            .get("/")
            .send(request("POST", "/").body("x"))
            .shows(DENIED)
            .shows(["< body hello"]),
        denies("an inverted header permission denies what lacks the header", "header: { name: x-key, present_match: true, invert_match: true }")
            .get("/")
            .send(get("/").field("x-key", "1"))
            .shows(DENIED)
            .shows(["< body hello"]),
        denies("url_path leaves the query out", "url_path: { path: { exact: /secret } }")
            .get("/secret?x=1")
            .get("/secrets")
            .shows(DENIED)
            .shows(["< body hello"]),
        denies("url_path leaves a fragment out", "url_path: { path: { exact: /secret } }")
            .hcm("path_with_escaped_slashes_action: KEEP_UNCHANGED")
            .get("/secret%23x")
            .shows(["< body hello"]),
        denies("destination_ip is the address that was connected to", "destination_ip: { address_prefix: 127.0.0.1, prefix_len: 32 }")
            .get("/")
            .shows(DENIED),
        denies("destination_port of another port lets requests pass", "destination_port: 1").get("/").shows(["< body hello"]),
        denies("destination_port_range holds its start and not its end", "destination_port_range: { start: 1, end: 65536 }")
            .get("/")
            .shows(DENIED),
        denies("a permission on dynamic metadata denies", "metadata: { filter: ns, path: [ { key: tier } ], value: { string_match: { exact: gold } } }")
            .filters("")
            .get("/")
            .shows(["< body hello"]),
        case("a permission on nested dynamic metadata denies")
            .filters(set_metadata)
            .filters(&format!(
                "- name: rbac\n  typed_config:\n    \"@type\": \"@http/rbac.v3.RBAC\"\n{}",
                indent(&rules("DENY", "metadata: { filter: ns, path: [ { key: deep }, { key: er } ], value: { double_match: { exact: 7 } } }", "any: true"), 4)
            ))
            .log_format(METADATA, "")
            .get("/")
            .shows(DENIED),
        denies("an inverted metadata permission holds where there is none", "metadata: { filter: ns, path: [ { key: tier } ], value: { present_match: true }, invert: true }")
            .get("/")
            .shows(DENIED),
        denies("sourced_metadata can be that of the route", "sourced_metadata: { metadata_source: ROUTE, metadata_matcher: { filter: ns, path: [ { key: tier } ], value: { string_match: { prefix: go } } } }")
            .routes("- match: { prefix: /gold }\n  metadata: { filter_metadata: { ns: { tier: gold } } }\n  route: { cluster: @backend }\n- match: { prefix: / }\n  route: { cluster: @backend }")
            .get("/gold")
            .get("/")
            .shows(DENIED)
            .shows(["< body hello"]),
        denies("without a route there is no metadata that could lack a value", "sourced_metadata: { metadata_source: ROUTE, metadata_matcher: { filter: ns, path: [ { key: tier } ], value: { string_match: { exact: gold } }, invert: true } }")
            .routes("- match: { prefix: /known }\n  route: { cluster: @backend }")
            .get("/")
            .get("/known")
            .shows(["< 404", "log 404 route_not_found*"])
            .shows(DENIED),
        denies("upstream_ip_port holds for no request whose upstream was not resolved", UPSTREAM_PORT)
            .get("/")
            .shows(["< body hello"]),
        denies("upstream_ip_port can be negated", &format!("not_rule: {{ {UPSTREAM_PORT} }}")).get("/").shows(DENIED),
        filter("audit_logging_options decide nothing", "rules:\n  action: DENY\n  policies:\n    \"p one\": { permissions: [ { any: true } ], principals: [ { any: true } ] }\n  audit_logging_options: { audit_condition: ON_DENY_AND_ALLOW, logger_configs: [ { is_optional: true, audit_logger: { name: a, typed_config: { \"@type\": \"@http/router.v3.Router\" } } } ] }")
            .get("/")
            .shows(DENIED),
        filter("checked_condition decides nothing", "rules:\n  action: DENY\n  policies:\n    \"p one\": { permissions: [ { any: true } ], principals: [ { any: true } ], checked_condition: { expr: { id: 1, const_expr: { bool_value: false } } } }")
            .get("/")
            .shows(DENIED),
        denies("without TLS the requested server name is empty", "requested_server_name: { exact: \"\" }").get("/").shows(DENIED),
        denies("a permission by any server name holds without TLS", "requested_server_name: { prefix: a }").get("/").shows(["< body hello"]),
    ]
}

fn principals() -> Vec<Case> {
    let forwarded = |title, principal| {
        denies_principal(title, principal)
            .hcm("use_remote_address: false\nxff_num_trusted_hops: 0")
            .send(get("/").field("x-forwarded-for", "203.0.113.9"))
    };
    vec![
        forwarded("remote_ip is what x-forwarded-for says", "remote_ip: { address_prefix: 203.0.113.0, prefix_len: 24 }").shows(DENIED),
        forwarded("direct_remote_ip is the peer", "direct_remote_ip: { address_prefix: 203.0.113.0, prefix_len: 24 }").shows(["< body hello"]),
        forwarded("source_ip is the peer", "source_ip: { address_prefix: 127.0.0.0, prefix_len: 8 }").shows(DENIED),
        denies_principal("source_ip follows the PROXY protocol, direct_remote_ip does not", "and_ids: { ids: [ { source_ip: { address_prefix: 203.0.113.7, prefix_len: 32 } }, { direct_remote_ip: { address_prefix: 127.0.0.1, prefix_len: 32 } } ] }")
            .listener("listener_filters:\n- name: proxy_protocol\n  typed_config: { \"@type\": \"@listen/proxy_protocol.v3.ProxyProtocol\" }")
            .raw("PROXY TCP4 203.0.113.7 127.0.0.1 4660 80\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .shows(DENIED),
        denies_principal("a plain connection is not authenticated", "authenticated: {}").get("/").shows(["< body hello"]),
        denies_principal("a plain connection has no principal name", "authenticated: { principal_name: { safe_regex: { regex: \".*\" } } }")
            .get("/")
            .shows(["< body hello"]),
        denies_principal("a header principal denies", "header: { name: x-who, string_match: { suffix: ve, ignore_case: true } }")
            .send(get("/").field("x-who", "EVE"))
            .shows(DENIED),
        denies_principal("a url_path principal denies", "url_path: { path: { safe_regex: { regex: \"/a.*\" } } }").get("/abc?d").shows(DENIED),
        denies_principal("a metadata principal without metadata does not hold", "metadata: { filter: ns, path: [ { key: k } ], value: { string_match: { exact: v } } }")
            .get("/")
            .shows(["< body hello"]),
        case("a filter_state principal denies")
            .filters("- name: state\n  typed_config: { \"@type\": \"@http/set_filter_state.v3.Config\", on_request_headers: [ { object_key: who, factory_key: envoy.string, format_string: { text_format_source: { inline_string: \"%REQ(x-who)%\" } } } ] }")
            .filters(&format!(
                "- name: rbac\n  typed_config:\n    \"@type\": \"@http/rbac.v3.RBAC\"\n{}",
                indent(&rules("DENY", "any: true", "filter_state: { key: who, string_match: { exact: eve } }"), 4)
            ))
            .log_format(METADATA, "")
            .send(get("/").field("x-who", "eve"))
            .send(get("/").field("x-who", "bob"))
            .shows(DENIED)
            .shows(["< body hello"]),
        denies_principal("a filter_state principal without the object does not hold", "filter_state: { key: who, string_match: { safe_regex: { regex: \".*\" } } }")
            .get("/")
            .shows(["< body hello"]),
        denies_principal("a sourced_metadata principal can be that of the route", "sourced_metadata: { metadata_source: ROUTE, metadata_matcher: { filter: ns, path: [ { key: tier } ], value: { present_match: true } } }")
            .route("", "metadata: { filter_metadata: { ns: { tier: gold } } }")
            .get("/")
            .shows(DENIED),
    ]
}

/// Allows those whose verified token has this claim.
fn allows_claim(title: &'static str, claim: &str) -> Case {
    let principal = format!(
        "metadata: {{ filter: envoy.filters.http.jwt_authn, path: [{{ key: claims }}, {claim} }}"
    );
    let mut case = filter(title, &rules("ALLOW", "any: true", &principal));
    let jwt = format!(
        "- name: jwt\n  typed_config: {{ \"@type\": \"@http/jwt_authn.v3.JwtAuthentication\", providers: {{ p: {{ issuer: \"https://issuer.example\", \
         local_jwks: {{ inline_string: '{}' }}, payload_in_metadata: claims }} }}, rules: [{{ match: {{ prefix: / }}, requires: {{ requires_any: {{ \
         requirements: [{{ provider_name: p }}, {{ allow_missing: {{}} }}] }} }} }}] }}\n",
        tokens::JWKS
    );
    case.filters = format!("{jwt}{}", case.filters);
    case
}

fn claims() -> Vec<Case> {
    let bearer = |token: &str| get("/").field("authorization", &format!("Bearer {token}"));
    let alice = "{ key: sub }], value: { string_match: { exact: alice } }";
    vec![
        allows_claim("a claim of a token opens the door", alice)
            .send(bearer(tokens::RS256))
            .shows(["< 200", "log 200*"]),
        allows_claim("a claim of another value does not", alice)
            .send(bearer(tokens::BOB))
            .shows(["< 403", "< body RBAC: access denied"]),
        allows_claim("without a token there is no claim", alice)
            .get("/")
            .shows(["< 403", "< body RBAC: access denied"]),
        allows_claim("a forged token does not come as far as its claims", alice)
            .send(bearer(tokens::FORGED))
            .shows(["< 401", "< body Jwt verification fails"]),
        allows_claim(
            "a claim that is missing is not there",
            "{ key: tier }], value: { present_match: true }",
        )
        .send(bearer(tokens::RS256))
        .shows(["< 403"]),
        allows_claim(
            "a claim may be compared the other way round",
            "{ key: sub }], value: { string_match: { exact: bob } }, invert: true",
        )
        .send(bearer(tokens::RS256))
        .shows(["< 200"]),
    ]
}

/// Clients by their addresses, behind proxies that say who they are.
fn behind_proxies() -> Vec<Case> {
    let list = "address_prefix: 10.1.0.0, prefix_len: 16";
    let allows = |title, kind: &str, hcm: &str| {
        filter(
            title,
            &rules("ALLOW", "any: true", &format!("{kind}: {{ {list} }}")),
        )
        .hcm(hcm)
    };
    let trusted = "use_remote_address: true\nxff_num_trusted_hops: 1";
    let from = |value: &str| get("/").field("x-forwarded-for", value);
    vec![
        allows("an address behind a trusted proxy is listed", "remote_ip", trusted)
            .send(from("10.1.2.3"))
            .shows(["< 200"]),
        allows("an address that a client made up is not listed", "remote_ip", trusted)
            .send(from("10.1.2.3, 10.2.2.3"))
            .shows(["< 403"]),
        allows("without a trusted proxy the peer is the client", "remote_ip", "use_remote_address: true")
            .send(from("10.1.2.3"))
            .shows(["< 403"]),
        allows("where the peer is trusted the last address is the client", "remote_ip", "use_remote_address: false")
            .send(from("10.2.2.3, 10.1.2.3"))
            .shows(["< 200"]),
        allows("the direct address is that of the peer, whatever is forwarded", "direct_remote_ip", trusted)
            .send(from("10.1.2.3"))
            .shows(["< 403"]),
        allows(
            "two trusted proxies are counted from the end",
            "remote_ip",
            "use_remote_address: true\nxff_num_trusted_hops: 2",
        )
        .send(from("10.1.2.3, 10.2.2.3"))
        .shows(["< 200"]),
        allows(
            "an address may come in another field",
            "remote_ip",
            "original_ip_detection_extensions: [{ name: x, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig, header_name: x-client-ip } }]",
        )
        .send(get("/").field("x-client-ip", "10.1.9.9"))
        .shows(["< 200"]),
        allows("what is no address is nobody's", "remote_ip", trusted)
            .send(from("10.1.2.300"))
            .shows(["< 403"]),
    ]
}

fn logic() -> Vec<Case> {
    let a = "header: { name: a, present_match: true }";
    let b = "header: { name: b, present_match: true }";
    let send = |case: Case| {
        case.send(get("/1").field("a", "1"))
            .send(get("/2").field("a", "1").field("b", "1"))
            .get("/3")
    };
    vec![
        send(denies("and_rules need all", &format!("and_rules: {{ rules: [ {{ {a} }}, {{ {b} }} ] }}")))
            .shows(DENIED)
            .shows(["> connection 1: GET /1 HTTP/1.1", "> connection 1: GET /3 HTTP/1.1"]),
        send(denies("or_rules need one", &format!("or_rules: {{ rules: [ {{ {a} }}, {{ {b} }} ] }}")))
            .shows(DENIED)
            .shows(["> connection 1: GET /3 HTTP/1.1"])
            .lacks(["> connection 1: GET /1 HTTP/1.1"]),
        send(denies("not_rule turns a rule round", &format!("not_rule: {{ {a} }}")))
            .shows(DENIED)
            .lacks(["> connection 1: GET /3 HTTP/1.1"]),
        send(denies_principal("or_ids need one, and not_id turns one round", &format!("or_ids: {{ ids: [ {{ {b} }}, {{ not_id: {{ {a} }} }} ] }}")))
            .shows(DENIED)
            .shows(["> connection 1: GET /1 HTTP/1.1"])
            .lacks(["> connection 1: GET /2 HTTP/1.1", "> connection 1: GET /3 HTTP/1.1"]),
        send(filter(
            "a policy needs a permission and a principal",
            &rules("DENY", a, b),
        ))
        .shows(DENIED)
        .shows(["> connection 1: GET /1 HTTP/1.1", "> connection 1: GET /3 HTTP/1.1"]),
        filter(
            "of several policies that match the first by name is told",
            "rules:\n  action: DENY\n  policies:\n    zeta: { permissions: [ { any: true } ], principals: [ { any: true } ] }\n    beta: { permissions: [ { any: true } ], principals: [ { any: true } ] }\n    alpha: { permissions: [ { url_path: { path: { prefix: /a } } } ], principals: [ { any: true } ] }",
        )
        .get("/")
        .get("/a")
        .shows(["log 403 rbac_access_denied_matched_policy[beta]*", "log 403 rbac_access_denied_matched_policy[alpha]*"]),
    ]
}

fn actions() -> Vec<Case> {
    let allowed = rules(
        "ALLOW",
        "url_path: { path: { prefix: /open } }",
        "any: true",
    );
    vec![
        filter("ALLOW denies what no policy matches", &allowed)
            .get("/open")
            .get("/closed")
            .both()
            .stats(["http.@stat.rbac.allowed", "http.@stat.rbac.denied"])
            .shows([
                "< body hello",
                "< body RBAC: access denied",
                "log 403 rbac_access_denied_matched_policy[none]*",
                "stat http.@stat.rbac.denied: 1",
            ]),
        filter("rules without policies deny everything", "rules: {}").get("/").shows(["log 403 rbac_access_denied_matched_policy[none]*"]),
        filter("without rules everything is allowed", "")
            .get("/")
            .stats(["http.@stat.rbac.allowed", "http.@stat.rbac.denied"])
            .shows(["< body hello", "log 200 via_upstream rbac=- common=-"]),
        filter("LOG allows all and hints at what matched", &rules("LOG", "url_path: { path: { prefix: /open } }", "any: true"))
            .get("/open")
            .get("/closed")
            .stats(["http.@stat.rbac.allowed", "http.@stat.rbac.denied", "http.@stat.rbac.logged", "http.@stat.rbac.not_logged"])
            .shows(["< body hello", "log 200 via_upstream*"])
            .lacks(["< 403"]),
        filter(
            "rules_stat_prefix stands in stats and metadata",
            &format!("{}rules_stat_prefix: pre_", rules("DENY", "any: true", "any: true")),
        )
        .get("/")
        .stats(["http.@stat.rbac.pre_.denied", "http.@stat.rbac.pre_denied"])
        .shows(DENIED),
        filter(
            "rules_stat_prefix may end with a dot",
            &format!("{}rules_stat_prefix: pre.", rules("DENY", "any: true", "any: true")),
        )
        .get("/")
        .stats(["http.@stat.rbac.pre.denied"])
        .shows(["stat http.@stat.rbac.pre.denied: 1"]),
        filter(
            "track_per_rule_stats counts each policy",
            "track_per_rule_stats: true\nrules:\n  action: DENY\n  policies:\n    one: { permissions: [ { url_path: { path: { prefix: /one } } } ], principals: [ { any: true } ] }\n    two: { permissions: [ { url_path: { path: { prefix: /two } } } ], principals: [ { any: true } ] }\n    three: { permissions: [ { url_path: { path: { prefix: /three } } } ], principals: [ { any: true } ] }",
        )
        .get("/one")
        .get("/two")
        .get("/one")
        .get("/")
        .stats([
            "http.@stat.rbac.policy.one.denied",
            "http.@stat.rbac.policy.two.denied",
            "http.@stat.rbac.policy.three.denied",
            "http.@stat.rbac.policy.one.allowed",
        ])
        .shows(["stat http.@stat.rbac.policy.one.denied: 2", "stat http.@stat.rbac.policy.two.denied: 1"]),
        filter("a denied request with a body is answered at once", &rules("DENY", "any: true", "any: true"))
            .send(request("POST", "/").body("hello"))
            .both()
            .shows(DENIED),
    ]
}

fn shadow() -> Vec<Case> {
    let shadow = rules(
        "DENY",
        "url_path: { path: { prefix: /secret } }",
        "any: true",
    )
    .replace("rules:", "shadow_rules:");
    vec![
        filter("shadow rules deny nothing and are told in metadata", &shadow)
            .get("/secret")
            .get("/")
            .stats(["http.@stat.rbac.shadow_allowed", "http.@stat.rbac.shadow_denied", "http.@stat.rbac.allowed"])
            .shows([
                "< body hello",
                "stat http.@stat.rbac.shadow_denied: 1",
                "stat http.@stat.rbac.shadow_allowed: 1",
                "log 200 via_upstream rbac={\"shadow_effective_policy_id\":\"p one\",\"shadow_engine_result\":\"denied\"} common=-",
            ])
            .lacks(["< 403"]),
        filter("shadow_rules_stat_prefix stands in stats and metadata", &format!("{shadow}shadow_rules_stat_prefix: test_"))
            .get("/secret")
            .stats(["http.@stat.rbac.test_.shadow_denied", "http.@stat.rbac.test_shadow_denied"])
            .shows(["log 200 via_upstream rbac={\"test_shadow_effective_policy_id\":\"p one\",\"test_shadow_engine_result\":\"denied\"} common=-"]),
        filter("shadow rules are asked beside those that are enforced", &format!("{shadow}{}", rules("ALLOW", "any: true", "any: true")))
            .get("/secret")
            .stats(["http.@stat.rbac.shadow_denied", "http.@stat.rbac.allowed"])
            .shows(["< body hello", "stat http.@stat.rbac.shadow_denied: 1", "stat http.@stat.rbac.allowed: 1"]),
        filter("track_per_rule_stats counts shadow policies", &format!("{shadow}track_per_rule_stats: true\nshadow_rules_stat_prefix: s"))
            .get("/secret")
            .stats(["http.@stat.rbac.s.policy.p one.shadow_denied", "http.@stat.rbac.s.policy.p_one.shadow_denied", "http.@stat.rbac.s.shadow_denied"])
            .shows(["stat http.@stat.rbac.s.shadow_denied: 1"]),
        filter(
            "a shadow LOG leaves no hint",
            &rules("LOG", "any: true", "any: true").replace("rules:", "shadow_rules:"),
        )
        .get("/")
        .shows(["log 200 via_upstream rbac={\"shadow_effective_policy_id\":\"p one\",\"shadow_engine_result\":\"allowed\"} common=-"]),
    ]
}

fn per_route() -> Vec<Case> {
    let per_route = |title, rbac: &str| {
        filter(title, &rules("DENY", "any: true", "any: true")).route(
            "",
            &format!("typed_per_filter_config:\n  rbac:\n    \"@type\": \"@http/rbac.v3.RBACPerRoute\"\n{}", indent(rbac, 4)),
        )
    };
    vec![
        per_route("RBACPerRoute without rules switches the filter off", "")
            .get("/")
            .shows(["< body hello", "log 200 via_upstream rbac=- common=-"]),
        per_route(
            "RBACPerRoute takes the place of the rules of the filter",
            &format!(
                "rbac:\n{}",
                indent(
                    &rules("ALLOW", "url_path: { path: { exact: /in } }", "any: true"),
                    2
                )
            ),
        )
        .get("/in")
        .get("/out")
        .stats(["http.@stat.rbac.allowed", "http.@stat.rbac.denied"])
        .shows([
            "< body hello",
            "log 403 rbac_access_denied_matched_policy[none]*",
            "stat http.@stat.rbac.allowed: 1",
        ]),
        per_route(
            "track_per_rule_stats of a route counts its policies with the filter",
            &format!(
                "rbac:\n{}  track_per_rule_stats: true\n  rules_stat_prefix: other",
                indent(
                    &rules("DENY", "any: true", "any: true").replace("p one", "mine"),
                    2
                )
            ),
        )
        .get("/")
        .stats([
            "http.@stat.rbac.policy.mine.denied",
            "http.@stat.rbac.other.policy.mine.denied",
            "http.@stat.rbac.denied",
            "http.@stat.rbac.other.denied",
        ])
        .shows(["log 403 rbac_access_denied_matched_policy[mine]*"]),
        per_route(
            "shadow prefixes of a route stand in its metadata",
            &format!(
                "rbac:\n{}  shadow_rules_stat_prefix: route_",
                indent(
                    &rules("DENY", "any: true", "any: true").replace("rules:", "shadow_rules:"),
                    2
                )
            ),
        )
        .get("/")
        .shows(["< body hello"]),
    ]
}

fn on_match(name: &str, action: &str) -> String {
    format!(
        "action: {{ name: a, typed_config: {{ \"@type\": type.googleapis.com/envoy.config.rbac.v3.Action, name: {name}, action: {action} }} }}"
    )
}

fn by_header(value: &str, on_match: &str) -> String {
    format!(
        "{{ predicate: {{ single_predicate: {{ input: {{ name: h, typed_config: {{ \"@type\": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-who }} }}, value_match: {{ exact: {value} }} }} }}, on_match: {{ {on_match} }} }}"
    )
}

fn matchers() -> Vec<Case> {
    let list = |field: &str, entries: &[String]| {
        format!(
            "{field}: {{ matcher_list: {{ matchers: [ {} ] }} }}\n",
            entries.join(", ")
        )
    };
    let three = [
        by_header("eve", &on_match("no eve", "DENY")),
        by_header("bob", &on_match("yes bob", "ALLOW")),
    ];
    let asked = |case: Case| {
        case.send(get("/eve").field("x-who", "eve"))
            .send(get("/bob").field("x-who", "bob"))
            .get("/nobody")
    };
    let address = "{ predicate: { single_predicate: { input: { name: ip, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.SourceIPInput } }, custom_match: { name: ip, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.matching.input_matchers.ip.v3.Ip, stat_prefix: x, cidr_ranges: [ { address_prefix: 203.0.113.0, prefix_len: 24 } ] } } } }, on_match: { %A } }";
    vec![
        asked(filter("a matcher denies by its actions, and what it does not match", &list("matcher", &three)))
            .stats(["http.@stat.rbac.allowed", "http.@stat.rbac.denied"])
            .shows([
                "> connection 1: GET /bob HTTP/1.1",
                "log 403 rbac_access_denied_matched_policy[no_eve]*",
                "log 403 rbac_access_denied_matched_policy[none]*",
                "stat http.@stat.rbac.denied: 2",
            ]),
        asked(filter(
            "on_no_match of a matcher allows",
            &format!(
                "matcher: {{ matcher_list: {{ matchers: [ {} ] }}, on_no_match: {{ {} }} }}",
                three[0],
                on_match("rest", "ALLOW")
            ),
        ))
        .shows(["> connection 1: GET /nobody HTTP/1.1", "log 403 rbac_access_denied_matched_policy[no_eve]*"]),
        asked(filter(
            "LOG in a matcher allows and hints",
            &list("matcher", &[by_header("eve", &on_match("logs", "LOG")), three[1].clone()]),
        ))
        .shows(["> connection 1: GET /eve HTTP/1.1", "log 200 via_upstream*"]),
        asked(filter("a shadow matcher is told in metadata", &list("shadow_matcher", &three)))
            .stats(["http.@stat.rbac.shadow_allowed", "http.@stat.rbac.shadow_denied"])
            .shows(["stat http.@stat.rbac.shadow_denied: 2", "> connection 1: GET /eve HTTP/1.1"]),
        filter(
            "a matcher goes before rules",
            &format!("{}{}", list("matcher", &three), rules("DENY", "any: true", "any: true")),
        )
        .send(get("/").field("x-who", "bob"))
        .shows(["< body hello"]),
        filter(
            "a matcher by the source address follows the trusted one",
            &list("matcher", &[address.replace("%A", &on_match("them", "ALLOW"))]),
        )
        .hcm("use_remote_address: false")
        .send(get("/").field("x-forwarded-for", "203.0.113.9"))
        .get("/")
        .shows(["log 403*"]),
        filter(
            "a matcher tree chooses by exact value",
            &format!(
                "matcher: {{ matcher_tree: {{ input: {{ name: h, typed_config: {{ \"@type\": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-who }} }}, exact_match_map: {{ map: {{ eve: {{ {} }}, bob: {{ {} }} }} }} }} }}",
                on_match("e", "DENY"),
                on_match("b", "ALLOW")
            ),
        )
        .send(get("/").field("x-who", "eve"))
        .send(get("/").field("x-who", "bob"))
        .shows(["log 403 rbac_access_denied_matched_policy[e]*", "< body hello"]),
        filter("track_per_rule_stats counts the actions of matchers", &format!("{}track_per_rule_stats: true", list("matcher", &[by_header("eve", &on_match("eve", "DENY")), by_header("bob", &on_match("bob", "ALLOW"))])))
            .send(get("/").field("x-who", "eve"))
            .send(get("/").field("x-who", "bob"))
            .stats(["http.@stat.rbac.policy.eve.denied", "http.@stat.rbac.policy.bob.allowed"])
            .shows(["stat http.@stat.rbac.policy.bob.allowed: 1"]),
    ]
}

const LOG: &str = "access_log:
- name: file
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: @log
    log_format: { text_format_source: { inline_string: \"flags=%RESPONSE_FLAGS% in=%BYTES_RECEIVED% closed=%CONNECTION_TERMINATION_DETAILS% rbac=%DYNAMIC_METADATA(envoy.filters.network.rbac)% common=%DYNAMIC_METADATA(envoy.common)%\\n\" } }";

/// A case with a network filter of these fields before a TCP proxy, whose backend answers two pieces of four bytes.
fn connection(title: &'static str, fields: &str) -> Case {
    case(title)
        .network(&format!(
            "- name: rbac\n  typed_config:\n    \"@type\": \"@net/rbac.v3.RBAC\"\n    stat_prefix: \"@stat\"\n{}- name: tcp\n  typed_config:\n    \"@type\": \"@net/tcp_proxy.v3.TcpProxy\"\n    stat_prefix: \"@stat\"\n    cluster: @backend\n{}",
            indent(fields, 4),
            indent(LOG, 4)
        ))
        .access_log("- { name: none }")
        .backend(Kind::Tcp(vec![vec![Act::Read(4), send("pong"), Act::Read(4), send("done")]]))
        .logs(1)
}

fn served(case: Case) -> Case {
    case.bytes("ping")
        .step(Step::ReadBytes(4))
        .bytes("more")
        .step(Step::ReadBytes(4))
        .step(Step::Close)
        .stats([
            "@stat.rbac.allowed",
            "@stat.rbac.denied",
            "@stat.rbac.shadow_allowed",
            "@stat.rbac.shadow_denied",
        ])
}

fn refused(case: Case) -> Case {
    case.bytes("ping")
        .step(Step::ReadToEnd)
        .ends_somehow()
        .stats(["@stat.rbac.allowed", "@stat.rbac.denied"])
        .shows(["= connection 0: closed", "stat @stat.rbac.denied: 1"])
        .lacks(["< bytes*"])
}

fn connections() -> Vec<Case> {
    vec![
        refused(connection("a denied connection is closed", &rules("DENY", "any: true", "any: true")))
            .shows(["log flags=- in=4 closed=rbac_access_denied_matched_policy[p_one]*"]),
        served(connection("an allowed connection is served", &rules("ALLOW", "any: true", "any: true")))
            .shows(["< bytes pongdone", "stat @stat.rbac.allowed: 1"]),
        served(connection("a LOG rule for connections allows and hints", &rules("LOG", "any: true", "any: true")))
            .shows(["< bytes pongdone"]),
        served(connection(
            "shadow rules of connections are told in metadata",
            &format!("{}shadow_rules_stat_prefix: s_", rules("DENY", "any: true", "any: true").replace("rules:", "shadow_rules:")),
        ))
        .stats(["@stat.rbac.s_.shadow_denied", "@stat.rbac.s_shadow_denied"])
        .shows(["< bytes pongdone"]),
        served(connection(
            "CONTINUOUS judges every piece of a connection",
            &format!("{}enforcement_type: CONTINUOUS", rules("ALLOW", "any: true", "any: true")),
        ))
        .shows(["stat @stat.rbac.allowed: 3"]),
        connection(
            "delay_deny keeps a denied connection for a while",
            &format!("{}delay_deny: 0.5s", rules("DENY", "any: true", "any: true")),
        )
        .bytes("ping")
        .step(Step::AwaitClose(Duration::from_millis(200)))
        .logs(0)
        .shows(["= connection 0: open"]),
        connection(
            "delay_deny closes a denied connection in the end",
            &format!("{}delay_deny: 0.2s", rules("DENY", "any: true", "any: true")),
        )
        .bytes("ping")
        .step(Step::AwaitClose(Duration::from_secs(4)))
        .ends_somehow()
        .shows(["= connection 0: closed", "log flags=- in=4 closed=rbac_access_denied_matched_policy[p_one]*"]),
        connection("a connection that sends nothing is judged at its end", &rules("DENY", "any: true", "any: true"))
            .step(Step::AwaitClose(Duration::from_millis(300)))
            .stats(["@stat.rbac.denied"])
            .shows(["= connection 0: open", "log flags=- in=0 closed=rbac_access_denied_matched_policy[p_one]*"]),
        case("the network filter closes connections of HTTP as well")
            .network(&format!(
                "- name: rbac\n  typed_config:\n    \"@type\": \"@net/rbac.v3.RBAC\"\n    stat_prefix: \"@stat\"\n{}{}",
                indent(&rules("DENY", "any: true", "any: true"), 4),
                crate::bootstrap::connection_manager(&case(""))
            ))
            .bytes("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .step(Step::ReadToEnd)
            .ends_somehow()
            .logs(0)
            .shows(["= connection 0: closed"])
            .lacks(["< 403"]),
    ]
}

fn connection_rules() -> Vec<Case> {
    let denied = |title, permission: &str, principal: &str| {
        connection(title, &rules("DENY", permission, principal))
    };
    let any = "any: true";
    let hello = client_hello("api.example");
    let inspected = |case: Case| {
        case.listener("listener_filters:\n- name: tls\n  typed_config: { \"@type\": \"@listen/tls_inspector.v3.TlsInspector\" }")
    };
    let tree = |field: &str, action: &str| {
        format!(
            "{field}: {{ matcher_tree: {{ input: {{ name: p, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.SourceIPInput }} }}, exact_match_map: {{ map: {{ \"127.0.0.1\": {{ {} }} }} }} }} }}\n",
            on_match("home", action)
        )
    };
    vec![
        refused(denied(
            "destination_ip of a connection denies",
            "destination_ip: { address_prefix: 127.0.0.1, prefix_len: 32 }",
            any,
        )),
        refused(denied(
            "a port range of a connection denies",
            "destination_port_range: { start: 1024, end: 65536 }",
            any,
        )),
        refused(denied(
            "source_ip of a connection denies",
            any,
            "source_ip: { address_prefix: 127.0.0.0, prefix_len: 8 }",
        )),
        served(denied(
            "remote_ip of another network lets a connection pass",
            any,
            "remote_ip: { address_prefix: 10.0.0.0, prefix_len: 8 }",
        ))
        .shows(["< bytes pongdone"]),
        served(denied(
            "an unauthenticated connection is not a principal",
            any,
            "authenticated: {}",
        ))
        .shows(["< bytes pongdone"]),
        inspected(connection(
            "requested_server_name denies a connection by its ClientHello",
            &rules("DENY", "requested_server_name: { suffix: .example }", any),
        ))
        .step(Step::Send(hello.clone()))
        .step(Step::ReadToEnd)
        .ends_somehow()
        .stats(["@stat.rbac.denied"])
        .shows(["= connection 0: closed", "stat @stat.rbac.denied: 1"]),
        inspected(connection(
            "another requested_server_name lets a connection pass",
            &rules(
                "DENY",
                "requested_server_name: { exact: other.example }",
                any,
            ),
        ))
        .step(Step::Send(hello))
        .step(Step::ReadBytes(4))
        .step(Step::Close)
        .stats(["@stat.rbac.allowed"])
        .shows(["stat @stat.rbac.allowed: 1"]),
        refused(connection(
            "a matcher denies connections by address",
            &tree("matcher", "DENY"),
        ))
        .shows(["log flags=- in=4 closed=rbac_access_denied_matched_policy[home]*"]),
        served(connection(
            "a shadow matcher of connections is told in metadata",
            &tree("shadow_matcher", "DENY"),
        ))
        .shows(["< bytes pongdone", "stat @stat.rbac.shadow_denied: 1"]),
        refused(connection(
            "a matcher without a match denies connections",
            &tree("matcher", "ALLOW").replace("127.0.0.1", "127.9.9.9"),
        ))
        .shows(["log flags=- in=4 closed=rbac_access_denied_matched_policy[none]*"]),
        refused(denied(
            "and_rules and not_rule work on connections",
            "and_rules: { rules: [ { destination_ip: { address_prefix: 127.0.0.1, prefix_len: 32 } }, { not_rule: { destination_port: 1 } } ] }",
            any,
        )),
    ]
}

/// The smallest ClientHello of TLS 1.2 that asks for this server.
fn client_hello(name: &str) -> Vec<u8> {
    let sized = |bytes: Vec<u8>| {
        let length = u16::try_from(bytes.len()).expect("a short name");
        [length.to_be_bytes().to_vec(), bytes].concat()
    };
    let name = sized([vec![0], sized(name.as_bytes().to_vec())].concat());
    let extensions = sized([vec![0, 0], sized(name)].concat());
    let body = [
        vec![3, 3],
        vec![7; 32],
        vec![0],
        sized(vec![0xc0, 0x2f]),
        vec![1, 0],
        extensions,
    ]
    .concat();
    let handshake = [vec![1, 0], sized(body)].concat();
    [vec![22, 3, 1], sized(handshake)].concat()
}
