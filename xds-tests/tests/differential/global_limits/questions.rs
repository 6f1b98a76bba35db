//! What the service is asked, and of which routes.

use outrigger_proto::pb::envoy::service::ratelimit::v3::rate_limit_response as pb;
use outrigger_proto::rate_limit::RateLimitResponse;

use super::{RULE, STATS, filter, grpc, limited, ok, over, with_service};
use crate::case::{Case, With, acts, get, pause, request};

/// What the service sees.
pub(super) fn questions() -> Vec<Case> {
    let rules = |title, rules: &str| {
        with_service(title, [ok()])
            .filters(&filter(""))
            .route(&format!("rate_limits: [{rules}]"), "")
    };
    vec![
        limited("a service that says OK lets a request pass", "", [ok()])
            .get("/")
            .stats(STATS)
            .both()
            .shows(["< 200", "stat cluster.@backend.ratelimit.ok: 1"]),
        limited("a service that says OVER_LIMIT refuses it", "", [over()])
            .get("/")
            .stats(STATS)
            .stats(["cluster.@backend.upstream_rq_429", "cluster.@backend.internal.upstream_rq_429", "cluster.@backend.upstream_rq_completed"])
            .both()
            .shows(["< 429", "< x-envoy-ratelimited: true", "log flags=RL", "log details=request_rate_limited"]),
        rules(
            "each rule becomes a descriptor of the question",
            "{ actions: [{ generic_key: { descriptor_key: a, descriptor_value: b } }, { request_headers: { header_name: x-u, descriptor_key: u } }] }, { actions: [{ remote_address: {} }] }, { actions: [{ request_headers: { header_name: x-none, descriptor_key: none } }] }",
        )
        .send(get("/").field("x-u", "eve").field("x-forwarded-for", "203.0.113.7"))
        .shows(["< 200"]),
        rules("no rule, no question", "").get("/").stats(STATS).shows([
            "< 200",
            "stat cluster.@backend.ratelimit.ok is not there",
        ]),
        rules(
            "a limit that the rule brings along is told",
            "{ limit: { dynamic_metadata: { metadata_key: { key: ns, path: [{ key: limit }] } } }, actions: [{ generic_key: { descriptor_value: v } }] }",
        )
        .filters("")
        .get("/")
        .shows(["< 200"]),
        with_service("a limit in metadata is told with its unit", [ok()])
            .filters("
                - name: metadata
                  typed_config: { \"@type\": \"@http/set_metadata.v3.Config\", metadata: [{ metadata_namespace: ns, value: { limit: { requests_per_unit: 42, unit: HOUR } } }] }")
            .filters(&filter(""))
            .route("rate_limits: [{ limit: { dynamic_metadata: { metadata_key: { key: ns, path: [{ key: limit }] } } }, actions: [{ generic_key: { descriptor_value: v } }] }]", "")
            .get("/")
            .shows(["< 200"]),
        limited(
            "a filter takes the rules of its stage",
            "stage: 1",
            [over()],
        )
        .routes("
            - match: { path: /one }
              route: { cluster: @backend, rate_limits: [{ stage: 1, actions: [{ generic_key: { descriptor_value: v } }] }] }
            - match: { prefix: / }
              route: { cluster: @backend, rate_limits: [{ actions: [{ generic_key: { descriptor_value: v } }] }] }")
        .get("/")
        .get("/one")
        .shows(["< 200", "< 429"]),
        limited("external requests only", "request_type: external", [over()])
            .internal()
            .get("/")
            .send(get("/").field("x-forwarded-for", "8.8.8.8"))
            .shows(["< 200", "< 429"]),
        limited("internal requests only", "request_type: internal", [over()])
            .internal()
            .get("/")
            .send(get("/").field("x-forwarded-for", "8.8.8.8"))
            .shows(["< 200", "< 429"]),
        with_service("a disable_key switches a rule off", [over()])
            .filters(&filter(""))
            .route("rate_limits: [{ disable_key: some, actions: [{ generic_key: { descriptor_value: v } }] }]", "")
            .runtime("ratelimit.some.http_filter_enabled", 0)
            .get("/")
            .shows(["< 200"]),
        with_service("a disable_key without a value leaves its rule on", [over()])
            .filters(&filter(""))
            .route("rate_limits: [{ disable_key: other, actions: [{ generic_key: { descriptor_value: v } }] }]", "")
            .get("/")
            .shows(["< 429"]),
        limited(
            "a filter may be switched off",
            "filter_enabled: { default_value: { numerator: 0 } }",
            [over()],
        )
        .get("/")
        .shows(["< 200"]),
        with_service("hits of the filter state are told", [ok()])
            .filters("
                - name: hits
                  typed_config: { \"@type\": \"@http/set_filter_state.v3.Config\", on_request_headers: [{ object_key: envoy.ratelimit.hits_addend, format_string: { text_format_source: { inline_string: \"%REQ(x-cost)%\" } } }] }")
            .filters(&filter(""))
            .route(RULE, "")
            .send(get("/").field("x-cost", "7"))
            .shows(["< 200"]),
        with_service("hits and negative hits of the filter's rules are told", [ok()])
            .filters(&filter("rate_limits: [{ hits_addend: { number: 5 }, actions: [{ generic_key: { descriptor_value: v } }] }, { hits_addend: { format: \"%REQ(x-cost)%\", is_negative_hits: true }, actions: [{ generic_key: { descriptor_value: w } }] }]"))
            .send(get("/").field("x-cost", "3"))
            .shows(["< 200"]),
        with_service("the service is told the metadata of its configuration", [ok()])
            .filters(&filter("").replace(
                "envoy_grpc: { cluster_name: \"@stat-service\" }",
                "envoy_grpc: { cluster_name: \"@stat-service\", authority: limits.example }, initial_metadata: [{ key: x-team, value: red }]",
            ))
            .route(RULE, "")
            .get("/")
            .shows(["> :authority: limits.example", "> x-team: red"]),
        limited("a body waits for the answer", "", [acts([pause(300), grpc(&RateLimitResponse { overall_code: pb::Code::Ok.into(), ..Default::default() })])])
            .send(request("POST", "/").body("something to wait"))
            .both()
            .shows(["< 200", "> body something to wait"]),
    ]
}

pub(super) fn routes() -> Vec<Case> {
    let rule = |value: &str| {
        format!("{{ actions: [{{ generic_key: {{ descriptor_value: {value} }} }}] }}")
    };
    let per_route = |title, of_route: &str, of_host: &str, action: &str| {
        with_service(title, [ok()])
            .filters(&filter(""))
            .vhosts(&format!(
                "- name: vhost\n  domains: [\"*\"]\n  rate_limits: [{of_host}]\n  routes:\n  - match: {{ prefix: / }}\n    route: {{ cluster: @backend{action} }}\n    typed_per_filter_config: {{ global: {{ \"@type\": \"@http/ratelimit.v3.RateLimitPerRoute\", {of_route} }} }}"
            ))
            .get("/")
            .shows(["< 200"])
    };
    let own = format!(", rate_limits: [{}]", rule("own"));
    vec![
        per_route("a route may have a domain of its own", "domain: special", "", &own),
        per_route("a route includes the rules of its virtual host", "vh_rate_limits: INCLUDE", &rule("host"), &own),
        per_route("a route ignores the rules of its virtual host", "vh_rate_limits: IGNORE", &rule("host"), ""),
        per_route("a route without rules has those of its virtual host", "vh_rate_limits: OVERRIDE", &rule("host"), ""),
        per_route("a route with rules does without those of its virtual host", "vh_rate_limits: OVERRIDE", &rule("host"), &own),
        per_route(
            "rules of the filter's configuration for a route stand in the place of the route's",
            &format!("rate_limits: [{}]", rule("per_filter")),
            &rule("host"),
            &own,
        ),
        with_service("rules of the filter stand in the place of the route's", [ok()])
            .filters(&filter(&format!("rate_limits: [{}]", rule("of_filter"))))
            .route(&format!("rate_limits: [{}]", rule("own")), "")
            .get("/")
            .shows(["< 200"]),
        limited("a route that answers by itself is not asked about", "", [over()])
            .routes("- match: { prefix: / }\n  direct_response: { status: 200, body: { inline_string: direct } }")
            .get("/")
            .shows(["< 200", "< body direct"]),
    ]
}

/// Rules for ended streams.
pub(super) fn late() -> Vec<Case> {
    let rule = "{ apply_on_stream_done: true, hits_addend: { format: \"%BYTES_SENT%\" }, actions: [{ generic_key: { descriptor_value: bytes } }] }";
    vec![
        with_service("a rule for ended streams asks when the stream has ended", [over()])
            .filters(&filter(&format!("rate_limits: [{rule}]")))
            .get("/")
            .wait(300)
            .shows(["< 200"]),
        with_service("rules for ended streams and others ask one after the other", [ok(), over()])
            .filters(&filter(&format!("rate_limits: [{rule}, {{ actions: [{{ generic_key: {{ descriptor_value: first }} }}] }}]")))
            .get("/")
            .wait(300)
            .shows(["< 200"]),
        with_service("a rule of a route may be for ended streams", [ok()])
            .filters(&filter(""))
            .route("rate_limits: [{ apply_on_stream_done: true, actions: [{ request_headers: { header_name: x-u, descriptor_key: u } }] }]", "")
            .send(get("/").field("x-u", "eve"))
            .wait(300)
            .shows(["< 200"]),
    ]
}
