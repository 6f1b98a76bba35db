//! Filters with nothing to do by themselves, which a route of a table configures that the stream finds only later.
//!
//! Every stream begins in the scope `a`, whose route configures no filter, and ends in `b`, whose route configures one.

use crate::case::{Case, With, case, get, indent, request};

pub fn cases() -> Vec<Case> {
    [behind(), in_front(), anew(), never()]
        .into_iter()
        .flatten()
        .collect()
}

/// Takes every request to the scope `b`.
pub const LEADS: &str = "
- name: scope
  typed_config:
    \"@type\": \"@http/header_mutation.v3.HeaderMutation\"
    mutations: { request_mutations: [{ append: { header: { key: x-scope, value: b }, append_action: OVERWRITE_IF_EXISTS_OR_ADD } }] }
- name: clear
  typed_config:
    \"@type\": \"@http/set_filter_state.v3.Config\"
    clear_route_cache: true
    on_request_headers: [{ object_key: k, factory_key: envoy.string, format_string: { text_format_source: { inline_string: v } } }]
";

const RBAC: &str = "\"@type\": \"@http/rbac.v3.RBAC\"";
const DENIES: &str = "\"@type\": \"@http/rbac.v3.RBACPerRoute\", rbac: { rules: { action: DENY, policies: { all: { permissions: [{ any: true }], principals: [{ any: true }] } } } }";
const MUTATION: &str = "\"@type\": \"@http/header_mutation.v3.HeaderMutation\"";
const MARKS: &str = "\"@type\": \"@http/header_mutation.v3.HeaderMutationPerRoute\", mutations: { request_mutations: [{ append: { header: { key: x-request, value: m } } }], response_mutations: [{ append: { header: { key: x-response, value: m } } }] }";

const SHARE: &str =
    "\"@type\": \"@http/bandwidth_limit.v3.BandwidthLimit\", stat_prefix: \"@stat\"";

fn filter(config: &str) -> String {
    format!("\n- name: late\n  typed_config: {{ {config} }}\n")
}

/// Streams through these filters; the route of `b` says `config` of the filter `late`.
fn led(title: &'static str, filters: &str, config: &str) -> Case {
    tables(
        title,
        filters,
        "{ header_value_extractor: { name: x-scope, index: 0 } }",
        ["a", "b"],
        ["", ""],
        config,
    )
}

/// `of_routes`: what the action of each route says beside its cluster.
fn tables(
    title: &'static str,
    filters: &str,
    key: &str,
    keys: [&str; 2],
    of_routes: [&str; 2],
    config: &str,
) -> Case {
    let [of_a, of_b] = of_routes;
    let [key_a, key_b] = keys;
    let filters = indent(filters, 4);
    case(title)
        .network(&format!(
            "- name: http
  typed_config:
    \"@type\": \"@net/http_connection_manager.v3.HttpConnectionManager\"
    stat_prefix: \"@stat\"
    access_log:
    - name: file
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
        path: @log
        log_format: {{ text_format_source: {{ inline_string: \"%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS% %DYNAMIC_METADATA(ns:k)%\\n\" }} }}
    scoped_routes:
      name: scopes_@stat
      scope_key_builder: {{ fragments: [{key}] }}
      scoped_route_configurations_list:
        scoped_route_configurations:
        - name: a_@stat
          key: {{ fragments: [{{ string_key: {key_a} }}] }}
          route_configuration: {{ name: a_@stat, virtual_hosts: [{{ name: all, domains: [\"*\"], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: \"@backend\"{of_a} }} }}] }}] }}
        - name: b_@stat
          key: {{ fragments: [{{ string_key: {key_b} }}] }}
          route_configuration: {{ name: b_@stat, virtual_hosts: [{{ name: all, domains: [\"*\"], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: \"@backend\"{of_b} }}, typed_per_filter_config: {{ late: {{ {config} }} }} }}] }}] }}
    http_filters:
{filters}    - name: router
      typed_config: {{ \"@type\": \"@http/router.v3.Router\" }}"
        ))
        .access_log("[{ name: file, log: \"@log\" }]")
}

fn from_a() -> crate::case::Request {
    get("/").field("x-scope", "a")
}

fn behind() -> Vec<Case> {
    let late = |title, config: &str, of_route: &str| {
        led(title, &format!("{LEADS}{}", filter(config)), of_route)
    };
    let limit = "\"@type\": \"@http/local_ratelimit.v3.LocalRateLimit\", stat_prefix: \"@stat\"";
    vec![
        late("rbac forbids what a route forbids that was found later", RBAC, DENIES)
            .send(from_a())
            .page("/stats", "http.@stat.rbac")
            .shows(["< 403", "log 403 rbac_access_denied_matched_policy[all]*", "page http.@stat.rbac.denied: 1"]),
        late("cors marks responses as a route allows that was found later", "\"@type\": \"@http/cors.v3.Cors\"", "\"@type\": \"@http/cors.v3.CorsPolicy\", allow_origin_string_match: [{ exact: http://good }]")
            .send(from_a().field("origin", "http://good"))
            .page("/stats", "http.@stat.cors")
            .shows(["< 200", "< access-control-allow-origin: http://good", "page http.@stat.cors.origin_valid: 1"]),
        late("a fault of a route that was found later is injected", "\"@type\": \"@http/fault.v3.HTTPFault\"", "\"@type\": \"@http/fault.v3.HTTPFault\", abort: { http_status: 418, percentage: { numerator: 100 } }")
            .send(from_a())
            .page("/stats", "http.@stat.fault")
            .shows(["< 418", "log 418 fault_filter_abort FI -", "page http.@stat.fault.aborts_injected: 1"]),
        late("the bucket of a route that was found later limits", limit, &format!("{limit}, filter_enabled: {{ default_value: {{ numerator: 100 }} }}, filter_enforced: {{ default_value: {{ numerator: 100 }} }}, token_bucket: {{ max_tokens: 1, tokens_per_fill: 1, fill_interval: 1000s }}"))
            .send(from_a())
            .send(from_a())
            .shows(["< 200", "< 429", "log 429 local_rate_limited RL -"]),
        late("csrf refuses as a route says that was found later", "\"@type\": \"@http/csrf.v3.CsrfPolicy\", filter_enabled: { default_value: { numerator: 0 } }", "\"@type\": \"@http/csrf.v3.CsrfPolicy\", filter_enabled: { default_value: { numerator: 100 } }")
            .send(request("POST", "/").field("x-scope", "a").field("origin", "http://elsewhere"))
            .page("/stats", "http.@stat.csrf")
            .shows(["< 403", "log 403 csrf_origin_mismatch*", "page http.@stat.csrf.request_invalid: 1"]),
        late("header_mutation changes heads as a route says that was found later", MUTATION, MARKS)
            .send(from_a())
            .shows(["> x-request: m", "< x-response: m"]),
        late("a body passes a filter that was put to work later", MUTATION, MARKS)
            .send(request("POST", "/").field("x-scope", "a").body("the body"))
            .http2()
            .shows(["> x-request: m", "> body the body", "< x-response: m"]),
    ]
}

fn in_front() -> Vec<Case> {
    let late = |title, config: &str, of_route: &str| {
        led(title, &format!("{}{LEADS}", filter(config)), of_route)
    };
    vec![
        late(
            "rbac in front does not ask again for a route that was found later",
            RBAC,
            DENIES,
        )
        .send(from_a())
        .send(get("/").field("x-scope", "b"))
        .page("/stats", "http.@stat.rbac")
        .shows([
            "< 200",
            "log 200 via_upstream - -",
            "< 403",
            "page http.@stat.rbac.denied: 1",
        ]),
        late("header_mutation keeps to the route of the request head", MUTATION, MARKS)
            .send(from_a())
            .send(get("/").field("x-scope", "b"))
            .shows(["< x-response: m", "> x-request: m"]),
        late("the share of a route that was found later holds for the response", SHARE, &format!("{SHARE}, enable_mode: REQUEST_AND_RESPONSE, limit_kbps: 1000"))
            .send(from_a())
            .page("/stats", "@stat.http_bandwidth_limit.request_enabled")
            .page("/stats", "@stat.http_bandwidth_limit.response_enabled")
            .shows(["< 200"]),
        late("header_to_metadata keeps to the route of the request head", "\"@type\": \"@http/header_to_metadata.v3.Config\"", "\"@type\": \"@http/header_to_metadata.v3.Config\", response_rules: [{ header: x-word, on_header_missing: { metadata_namespace: ns, key: k, value: set } }]")
            .send(from_a())
            .send(get("/").field("x-scope", "b"))
            .shows(["log 200 via_upstream - -", "log 200 via_upstream - *set*"]),
    ]
}

fn anew() -> Vec<Case> {
    let authority = "{ header_value_extractor: { name: \":authority\", index: 0 } }";
    let follows = ", internal_redirect_policy: {}";
    let redirect = |title| {
        tables(
            title,
            &filter(RBAC),
            authority,
            ["example.com", "other.com"],
            [follows, ""],
            DENIES,
        )
    };
    vec![
        redirect("rbac forbids what a redirect that is followed leads to in another scope")
            .reply(crate::case::reply(crate::case::with_fields(
                crate::case::status(302, "moved"),
                "location: http://other.com/",
            )))
            .get("/")
            .logs(2)
            .page("/stats", "http.@stat.rbac")
            .shows([
                "< 403",
                "log 302 internal_redirect*",
                "log 403 rbac_access_denied_matched_policy[all]*",
                "page http.@stat.rbac.denied: 1",
            ]),
    ]
}

fn never() -> Vec<Case> {
    let all = [
        ("cors", "Cors", ""),
        (
            "csrf",
            "CsrfPolicy",
            "filter_enabled: { default_value: { numerator: 0 } }",
        ),
        ("fault", "HTTPFault", ""),
        ("rbac", "RBAC", ""),
        (
            "local_ratelimit",
            "LocalRateLimit",
            "stat_prefix: \"@stat\"",
        ),
        ("header_to_metadata", "Config", ""),
        ("header_mutation", "HeaderMutation", ""),
        (
            "bandwidth_limit",
            "BandwidthLimit",
            "stat_prefix: \"@stat\"",
        ),
    ];
    let filters: String = all
        .iter()
        .map(|(name, message, fields)| {
            format!("- name: {name}\n  typed_config: {{ \"@type\": \"@http/{name}.v3.{message}\", {fields} }}\n")
        })
        .collect();
    vec![
        case("filters with nothing to do leave a request, its stats and its details alone")
            .filters(&filters)
            .send(
                request("POST", "/")
                    .field("origin", "http://elsewhere")
                    .field("x-envoy-fault-abort-request", "503")
                    .field("x-envoy-downstream-service-cluster", "c")
                    .body("the body"),
            )
            .both()
            .page("/stats", "http.@stat.rbac")
            .page("/stats", "http.@stat.cors")
            .page("/stats", "http.@stat.csrf")
            .page("/stats", "http.@stat.fault")
            .shows(["< 200", "> body the body", "log details=via_upstream"]),
    ]
}
