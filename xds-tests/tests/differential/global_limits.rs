//! `ratelimit` over HTTP and on connections: what a service is asked, and what becomes of its answers.

use outrigger_proto::pb::envoy::config::core::v3::HeaderValue;
use outrigger_proto::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use outrigger_proto::pb::envoy::service::ratelimit::v3::rate_limit_response as pb;
use outrigger_proto::pb::google::protobuf as wkt;
use outrigger_xds_tests::client::Step;
use prost::Message;

use crate::bootstrap::connection_manager;
use crate::case::{
    Act, Case, Kind, Response, Script, With, acts, case, get, indent, pause, request,
};

pub fn cases() -> Vec<Case> {
    [
        questions(),
        answers(),
        headers(),
        failures(),
        routes(),
        late(),
        connections(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A cluster `@stat-service` over the backend `limiter`.
const SERVICE: &str = "- name: \"@stat-service\"
  connect_timeout: 1s
  typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { http2_protocol_options: {} } } }
  load_assignment: { cluster_name: s, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: @port:limiter } } } }] }] }
";
const ASKS: &str = "rate_limit_service: { transport_api_version: V3, grpc_service: { envoy_grpc: { cluster_name: \"@stat-service\" } } }";
const RULE: &str = "rate_limits: [{ actions: [{ generic_key: { descriptor_value: v } }] }]";
const STATS: [&str; 4] = [
    "cluster.@backend.ratelimit.ok",
    "cluster.@backend.ratelimit.error",
    "cluster.@backend.ratelimit.over_limit",
    "cluster.@backend.ratelimit.failure_mode_allowed",
];

fn filter(fields: &str) -> String {
    let timeout = match fields.contains("timeout:") {
        true => "",
        false => "timeout: 5s\n",
    };
    format!(
        "- name: global\n  typed_config:\n    \"@type\": \"@http/ratelimit.v3.RateLimit\"\n    domain: apis\n    {ASKS}\n{}",
        indent(&format!("{timeout}{fields}"), 4)
    )
}

/// A filter with these fields, a route with one rule, and a service with these scripts.
fn limited(title: &'static str, fields: &str, scripts: impl IntoIterator<Item = Script>) -> Case {
    with_service(title, scripts)
        .filters(&filter(fields))
        .route(RULE, "")
}

fn with_service(title: &'static str, scripts: impl IntoIterator<Item = Script>) -> Case {
    case(title)
        .and_backend("limiter", Kind::Http2(scripts.into_iter().collect()))
        .clusters(SERVICE)
}

fn grpc(message: &RateLimitResponse) -> Act {
    let message = message.encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    Act::Respond(Response {
        status: 200,
        fields: vec![("content-type".into(), "application/grpc".into())],
        body,
        trailers: vec![("grpc-status".into(), "0".into())],
        chunked: false,
    })
}

fn answer(code: pb::Code, change: impl FnOnce(&mut RateLimitResponse)) -> Script {
    let mut message = RateLimitResponse {
        overall_code: code.into(),
        ..Default::default()
    };
    change(&mut message);
    acts([grpc(&message)])
}

fn ok() -> Script {
    answer(pb::Code::Ok, |_| {})
}

fn over() -> Script {
    answer(pb::Code::OverLimit, |_| {})
}

fn field(key: &str, value: &str) -> HeaderValue {
    HeaderValue {
        key: key.into(),
        value: value.into(),
        raw_value: Vec::new(),
    }
}

fn status(
    code: pb::Code,
    (requests, unit, name): (u32, pb::rate_limit::Unit, &str),
    remaining: u32,
    reset: (i64, i32),
) -> pb::DescriptorStatus {
    pb::DescriptorStatus {
        code: code.into(),
        current_limit: Some(pb::RateLimit {
            name: name.into(),
            requests_per_unit: requests,
            unit: unit.into(),
        }),
        limit_remaining: remaining,
        duration_until_reset: Some(wkt::Duration {
            seconds: reset.0,
            nanos: reset.1,
        }),
        quota: None,
    }
}

/// What the service sees.
fn questions() -> Vec<Case> {
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

/// What an answer changes.
fn answers() -> Vec<Case> {
    vec![
        limited(
            "an answer may add fields to the request",
            "",
            [answer(pb::Code::Ok, |m| m.request_headers_to_add = vec![field("x-quota", "gold"), field("X-Twice", "1"), field("x-twice", "2")])],
        )
        .send(get("/").field("x-quota", "mine"))
        .shows(["> x-quota: gold"]),
        limited(
            "an answer may add fields to the response",
            "",
            [answer(pb::Code::Ok, |m| m.response_headers_to_add = vec![field("x-left", "9"), field("x-left", "8")])],
        )
        .get("/")
        .shows(["< x-left: 9", "< x-left: 8"]),
        limited(
            "a refusal has the fields and the body of its answer",
            "",
            [answer(pb::Code::OverLimit, |m| {
                m.response_headers_to_add = vec![field("x-why", "much"), field("content-type", "application/json")];
                m.request_headers_to_add = vec![field("x-no", "1")];
                m.raw_body = b"{\"slow\":\"down\"}".to_vec();
            })],
        )
        .get("/")
        .shows(["< 429", "< content-type: application/json", "< body {\"slow\":\"down\"}"]),
        limited(
            "a refusal has a status and fields of the configuration",
            "rate_limited_status: { code: ServiceUnavailable }\nresponse_headers_to_add: [{ header: { key: x-limited, value: \"%RESPONSE_CODE%\" } }]",
            [over()],
        )
        .get("/")
        .stats(["cluster.@backend.upstream_rq_503"])
        .shows(["< 503"]),
        limited(
            "a status that is no error refuses with 429",
            "rate_limited_status: { code: OK }",
            [over()],
        )
        .get("/")
        .shows(["< 429"]),
        limited(
            "x-envoy-ratelimited may be left out",
            "disable_x_envoy_ratelimited_header: true",
            [over()],
        )
        .get("/")
        .shows(["< 429"])
        .lacks(["< x-envoy-ratelimited*"]),
        limited(
            "what is not enforced passes and is marked",
            "filter_enforced: { default_value: { numerator: 0 } }",
            [over()],
        )
        .get("/")
        .stats(STATS)
        .shows(["< 200", "< x-envoy-ratelimited: true"]),
        limited("gRPC requests are refused as unavailable", "", [over()])
            .send(request("POST", "/").field("content-type", "application/grpc"))
            .http2()
            .shows(["< grpc-status: 14"]),
        limited(
            "gRPC requests are refused as exhausted where it is told",
            "rate_limited_as_resource_exhausted: true",
            [over()],
        )
        .send(request("POST", "/").field("content-type", "application/grpc"))
        .http2()
        .shows(["< grpc-status: 8"]),
        limited(
            "a stat_prefix stands between ratelimit and the name",
            "stat_prefix: mine",
            [ok()],
        )
        .get("/")
        .stats(["cluster.@backend.ratelimit.mine.ok"])
        .shows(["stat cluster.@backend.ratelimit.mine.ok: 1"]),
        limited(
            "metadata of the answer are in the log",
            "",
            [answer(pb::Code::Ok, |m| {
                let value = wkt::Value { kind: Some(wkt::value::Kind::StringValue("gold".into())) };
                m.dynamic_metadata = Some(wkt::Struct { fields: [("tier".to_owned(), value)].into() });
            })],
        )
        .log_format("tier=%DYNAMIC_METADATA(envoy.filters.http.ratelimit:tier)%", "")
        .get("/")
        .shows(["log tier=gold"]),
        limited(
            "metadata of the answer go where they are told",
            "metadata_namespace: quota",
            [answer(pb::Code::OverLimit, |m| {
                let value = wkt::Value { kind: Some(wkt::value::Kind::NumberValue(3.0)) };
                m.dynamic_metadata = Some(wkt::Struct { fields: [("left".to_owned(), value)].into() });
            })],
        )
        .log_format("left=%DYNAMIC_METADATA(quota:left)% old=%DYNAMIC_METADATA(envoy.filters.http.ratelimit)%", "")
        .get("/")
        .shows(["log left=3 old=-"]),
        limited("an answer that says nothing lets pass", "", [answer(pb::Code::Unknown, |_| {})])
            .get("/")
            .stats(STATS)
            .shows(["< 200"]),
    ]
}

/// `x-ratelimit-` and `retry-after`.
fn headers() -> Vec<Case> {
    use pb::rate_limit::Unit;
    let draft = "enable_x_ratelimit_headers: DRAFT_VERSION_03";
    let some = |code: pb::Code| {
        answer(code, |m| {
            m.statuses = vec![
                status(pb::Code::Ok, (10, Unit::Second, "per-ip"), 5, (1, 0)),
                status(code, (1000, Unit::Hour, ""), 2, (1800, 500_000_000)),
            ];
        })
    };
    let two = "rate_limits: [{ actions: [{ generic_key: { descriptor_value: v } }] }, { actions: [{ generic_key: { descriptor_value: w } }] }]";
    vec![
        limited("x-ratelimit headers tell the nearest limit and all policies", draft, [some(pb::Code::Ok)])
            .route(two, "")
            .get("/")
            .shows(["< x-ratelimit-limit: 1000, 10;w=1;name=\"per-ip\", 1000;w=3600", "< x-ratelimit-remaining: 2", "< x-ratelimit-reset: 1800"]),
        limited("x-ratelimit headers stand in a refusal", draft, [some(pb::Code::OverLimit)])
            .route(two, "")
            .get("/")
            .shows(["< 429", "< x-ratelimit-remaining: 2"]),
        limited("without statuses there are no x-ratelimit headers", draft, [ok()])
            .get("/")
            .shows(["< 200"])
            .lacks(["< x-ratelimit*"]),
        limited(
            "nothing is told when the nearest rule is left out",
            draft,
            [some(pb::Code::Ok)],
        )
        .route("rate_limits: [{ actions: [{ generic_key: { descriptor_value: v } }] }, { x_ratelimit_option: \"OFF\", actions: [{ generic_key: { descriptor_value: w } }] }]", "")
        .get("/")
        .shows(["< 200"])
        .lacks(["< x-ratelimit*"]),
        limited(
            "a rule may want x-ratelimit headers that the filter does not",
            "",
            [some(pb::Code::Ok)],
        )
        .route("rate_limits: [{ actions: [{ generic_key: { descriptor_value: v } }] }, { x_ratelimit_option: DRAFT_VERSION_03, actions: [{ generic_key: { descriptor_value: w } }] }]", "")
        .get("/")
        .shows(["< x-ratelimit-limit: 1000*"]),
        limited("a rule that is left out leaves the others in", draft, [some(pb::Code::Ok)])
        .route("rate_limits: [{ x_ratelimit_option: \"OFF\", actions: [{ generic_key: { descriptor_value: v } }] }, { actions: [{ generic_key: { descriptor_value: w } }] }]", "")
        .get("/")
        .shows(["< x-ratelimit-limit: 1000, 1000;w=3600"]),
        limited("a rule that is left out may be far from its limit", draft, [answer(pb::Code::Ok, |m| m.statuses = vec![
                status(pb::Code::Ok, (10, Unit::Second, "per-ip"), 2, (1, 0)),
                status(pb::Code::Ok, (1000, Unit::Hour, ""), 5, (1800, 500_000_000)),
            ])])
        .route("rate_limits: [{ actions: [{ generic_key: { descriptor_value: v } }] }, { x_ratelimit_option: \"OFF\", actions: [{ generic_key: { descriptor_value: w } }] }]", "")
        .get("/")
        .shows(["< x-ratelimit-limit: 10, 10;w=1;name=\"per-ip\""]),
        limited("a rule that wants headers is not heard where another is nearer to its limit", "", [answer(pb::Code::Ok, |m| m.statuses = vec![
                status(pb::Code::Ok, (10, Unit::Second, "per-ip"), 2, (1, 0)),
                status(pb::Code::Ok, (1000, Unit::Hour, ""), 5, (1800, 500_000_000)),
            ])])
        .route("rate_limits: [{ actions: [{ generic_key: { descriptor_value: v } }] }, { x_ratelimit_option: DRAFT_VERSION_03, actions: [{ generic_key: { descriptor_value: w } }] }]", "")
        .get("/")
        .shows(["< 200"])
        .lacks(["< x-ratelimit*"]),
        limited("a rule that is left out hides those that want headers when it is the nearest", "", [some(pb::Code::Ok)])
        .route("rate_limits: [{ x_ratelimit_option: DRAFT_VERSION_03, actions: [{ generic_key: { descriptor_value: v } }] }, { x_ratelimit_option: \"OFF\", actions: [{ generic_key: { descriptor_value: w } }] }]", "")
        .get("/")
        .shows(["< 200"])
        .lacks(["< x-ratelimit*"]),
        limited("the only rule may be left out", draft, [answer(pb::Code::Ok, |m| m.statuses = vec![
                status(pb::Code::Ok, (10, Unit::Second, "per-ip"), 2, (1, 0)),
            ])])
        .route("rate_limits: [{ x_ratelimit_option: \"OFF\", actions: [{ generic_key: { descriptor_value: v } }] }]", "")
        .get("/")
        .shows(["< 200"])
        .lacks(["< x-ratelimit*"]),
        limited("statuses without a descriptor follow the filter", "", [some(pb::Code::Ok)])
        .route("rate_limits: [{ x_ratelimit_option: DRAFT_VERSION_03, actions: [{ generic_key: { descriptor_value: v } }] }]", "")
        .get("/")
        .shows(["< 200"])
        .lacks(["< x-ratelimit*"]),
        limited("descriptors without a status are left out", draft, [answer(pb::Code::Ok, |m| m.statuses = vec![
                status(pb::Code::Ok, (10, Unit::Second, "per-ip"), 2, (1, 0)),
            ])])
        .route(two, "")
        .get("/")
        .shows(["< x-ratelimit-remaining: 2"]),
        limited("more statuses than descriptors", draft, [some(pb::Code::Ok)])
            .get("/")
            .shows(["< 200"]),
        limited(
            "units of weeks, months and years are seconds",
            draft,
            [answer(pb::Code::Ok, |m| {
                m.statuses = vec![
                    status(pb::Code::Ok, (1, Unit::Day, "d"), 1, (1, 0)),
                    status(pb::Code::Ok, (2, Unit::Month, "m"), 2, (2, 0)),
                    status(pb::Code::Ok, (3, Unit::Year, "y"), 3, (3, 0)),
                    status(pb::Code::Ok, (4, Unit::Week, "w"), 4, (4, 0)),
                    status(pb::Code::Ok, (5, Unit::Unknown, "u"), 5, (5, 0)),
                ];
            })],
        )
        .route("rate_limits: [{ actions: [{ generic_key: { descriptor_value: a } }] }, { actions: [{ generic_key: { descriptor_value: b } }] }, { actions: [{ generic_key: { descriptor_value: c } }] }, { actions: [{ generic_key: { descriptor_value: d } }] }, { actions: [{ generic_key: { descriptor_value: e } }] }]", "")
        .get("/")
        .shows(["< x-ratelimit-remaining: 1"]),
        limited("retry-after is the longest wait of what is over its limit", "enable_retry_after_header: true", [some(pb::Code::OverLimit)])
            .route(two, "")
            .get("/")
            .shows(["< 429", "< retry-after: 1800"]),
        limited(
            "a retry-after of the service stands",
            "enable_retry_after_header: true",
            [answer(pb::Code::OverLimit, |m| {
                m.response_headers_to_add = vec![field("Retry-After", "7")];
                m.statuses = vec![status(pb::Code::OverLimit, (1, Unit::Hour, ""), 0, (1800, 0))];
            })],
        )
        .get("/")
        .shows(["< 429", "< retry-after: 7"]),
        limited(
            "retry-after is at least a second",
            "enable_retry_after_header: true",
            [answer(pb::Code::OverLimit, |m| m.statuses = vec![status(pb::Code::OverLimit, (1, Unit::Second, ""), 0, (0, 200_000_000))])],
        )
        .get("/")
        .shows(["< retry-after: 1"]),
    ]
}

/// A service that fails.
fn failures() -> Vec<Case> {
    let deny = "failure_mode_deny: true";
    let refused = |fields: &str| {
        case("a service that nobody runs")
            .and_backend("limiter", Kind::Refuse)
            .clusters(SERVICE)
            .filters(&filter(fields))
            .route(RULE, "")
    };
    let titled = |title, case: Case| Case { title, ..case };
    let error = || {
        acts([Act::Respond(Response {
            status: 200,
            fields: vec![
                ("content-type".into(), "application/grpc".into()),
                ("grpc-status".into(), "13".into()),
            ],
            body: vec![],
            trailers: vec![],
            chunked: false,
        })])
    };
    vec![
        titled("a service that is not there lets requests pass", refused(""))
            .get("/")
            .stats(STATS)
            .shows(["< 200", "stat cluster.@backend.ratelimit.failure_mode_allowed: 1"]),
        titled("a service that is not there refuses where it is told", refused(deny))
            .get("/")
            .stats(STATS)
            .both()
            .shows(["< 500", "log flags=RLSE", "log details=rate_limiter_error"]),
        limited("a service that hangs is waited for as long as its timeout", "timeout: 0.1s\nfailure_mode_deny: true", [acts([pause(5000)])])
            .get("/")
            .stats(STATS)
            .shows(["< 500", "stat cluster.@backend.ratelimit.error: 1"]),
        limited("without a word a service has 20 ms", "timeout: 0.02s", [acts([pause(5000)])])
            .get("/")
            .shows(["< 200"]),
        limited("a service that resets the call has failed", deny, [acts([Act::Reset])])
            .get("/")
            .stats(STATS)
            .shows(["< 500"]),
        limited("a service that dies has failed", deny, [acts([Act::Close])])
            .get("/")
            .shows(["< 500"]),
        limited("a service that answers with a gRPC status has failed", deny, [error()])
            .get("/")
            .shows(["< 500", "log flags=RLSE"]),
        limited(
            "a service that answers rubbish has failed",
            deny,
            [acts([Act::Respond(Response {
                status: 200,
                fields: vec![("content-type".into(), "application/grpc".into())],
                body: vec![0, 0, 0, 0, 3, 0xff, 0xff, 0xff],
                trailers: vec![("grpc-status".into(), "0".into())],
                chunked: false,
            })])],
        )
        .get("/")
        .shows(["< 500"]),
        limited(
            "a service that is full answers with a status of HTTP",
            deny,
            [acts([Act::Respond(Response {
                status: 503,
                fields: vec![],
                body: vec![],
                trailers: vec![],
                chunked: false,
            })])],
        )
        .get("/")
        .stats(STATS)
        .shows(["< 500"]),
        limited("a failure has the status of the configuration", "failure_mode_deny: true\nstatus_on_error: { code: BadGateway }", [error()])
            .get("/")
            .shows(["< 502", "log details=rate_limiter_error"]),
        limited("a failure may answer 200", "failure_mode_deny: true\nstatus_on_error: { code: OK }", [error()])
            .get("/")
            .shows(["< 200", "log details=rate_limiter_error"]),
        limited(
            "a share of failures is refused",
            "failure_mode_deny: true\nfailure_mode_deny_percent: { default_value: { numerator: 0 } }",
            [error()],
        )
        .get("/")
        .shows(["< 200"]),
        limited(
            "a share of failures is refused even where none was to be",
            "failure_mode_deny_percent: { default_value: { numerator: 100 } }",
            [error()],
        )
        .get("/")
        .shows(["< 500"]),
        limited("a client that goes away breaks the question off", "", [acts([pause(4000), grpc(&RateLimitResponse::default())])])
            .bytes("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .wait(1500)
            .step(Step::Close)
            .logs(1)
            .stats(STATS)
            .shows(["log flags=DC"]),
    ]
}

fn routes() -> Vec<Case> {
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
fn late() -> Vec<Case> {
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

/// The filter of connections.
fn connections() -> Vec<Case> {
    let network = |title, fields: &str, scripts: Vec<Script>| {
        let plain = case(title);
        let manager = connection_manager(&plain);
        let timeout = match fields.contains("timeout:") {
            true => "",
            false => "timeout: 5s\n",
        };
        plain
            .and_backend("limiter", Kind::Http2(scripts))
            .clusters(SERVICE)
            .network(&format!(
                "- name: global\n  typed_config:\n    \"@type\": \"@net/ratelimit.v3.RateLimit\"\n    stat_prefix: \"@stat\"\n    domain: tcp\n    {ASKS}\n{}{manager}",
                indent(&format!("{timeout}{fields}"), 4)
            ))
            .stats([
                "ratelimit.@stat.total",
                "ratelimit.@stat.active",
                "ratelimit.@stat.ok",
                "ratelimit.@stat.over_limit",
                "ratelimit.@stat.error",
                "ratelimit.@stat.cx_closed",
                "ratelimit.@stat.failure_mode_allowed",
            ])
    };
    let one = "descriptors: [{ entries: [{ key: a, value: b }] }]";
    vec![
        network("a connection that the service allows is served", one, vec![ok()])
            .get("/")
            .get("/")
            .shows(["< 200", "< 200", "stat ratelimit.@stat.total: 1", "stat ratelimit.@stat.ok: 1"]),
        network("a connection that the service refuses is closed", one, vec![over()])
            .step(Step::ReadToEnd)
            .logs(0)
            .shows(["= connection 0: closed", "stat ratelimit.@stat.cx_closed: 1"]),
        network(
            "values of descriptors may tell of the connection",
            "descriptors: [{ entries: [{ key: from, value: \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\" }, { key: b, value: c }] }, { entries: [{ key: d, value: e }], hits_addend: 3 }]",
            vec![ok()],
        )
        .get("/")
        .shows(["< 200"]),
        network("a connection passes when the service fails", one, vec![acts([Act::Reset])])
            .get("/")
            .shows(["< 200", "stat ratelimit.@stat.failure_mode_allowed: 1"]),
        network(
            "a connection is closed when the service fails, where it is told",
            &format!("{one}\nfailure_mode_deny: true"),
            vec![acts([Act::Reset])],
        )
        .step(Step::ReadToEnd)
        .logs(0)
        .shows(["= connection 0: closed", "stat ratelimit.@stat.error: 1"]),
        network(
            "a service that hangs holds a connection for its timeout",
            &format!("{one}\ntimeout: 0.1s\nfailure_mode_deny: true"),
            vec![acts([pause(5000)])],
        )
        .step(Step::ReadToEnd)
        .logs(0)
        .shows(["= connection 0: closed"]),
        network(
            "what is sent meanwhile waits",
            one,
            vec![acts([pause(300), grpc(&RateLimitResponse::default())])],
        )
        .send(request("POST", "/").body("early"))
        .shows(["< 200", "> body early"]),
    ]
}
