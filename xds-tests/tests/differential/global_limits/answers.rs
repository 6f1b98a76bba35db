//! What becomes of its answers, of their headers, and of those that fail.

use outrigger_proto::pb::envoy::config::core::v3 as wire;
use outrigger_proto::pb::envoy::service::ratelimit::v3::rate_limit_response as pb;
use outrigger_proto::pb::google::protobuf as wkt;
use outrigger_proto::rate_limit::RateLimitResponse;
use outrigger_xds_tests::client::Step;

use super::{RULE, SERVICE, STATS, answer, field, filter, grpc, limited, ok, over, status};
use crate::case::{Act, Case, Kind, Response, With, acts, case, get, pause, request};

/// What an answer changes.
pub(super) fn answers() -> Vec<Case> {
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
            "fields of a name that there is once are joined to those of the request",
            "",
            [answer(pb::Code::Ok, |m| m.request_headers_to_add = vec![field("user-agent", "b"), field("host", "other")])],
        )
        .send(get("/").field("user-agent", "a"))
        .shows(["> user-agent: a,b"]),
        limited(
            "fields of a name that there is once are joined to those of the response",
            "",
            [answer(pb::Code::OverLimit, |m| {
                m.response_headers_to_add = vec![field("content-type", "text/a"), field("content-type", "text/b")];
                m.raw_body = b"slow down".to_vec();
            })],
        )
        .get("/")
        .shows(["< 429", "< content-type: text/a,text/b"]),
        limited(
            "raw bytes of an added field are not looked at",
            "",
            [answer(pb::Code::Ok, |m| {
                let raw = b"raw".to_vec();
                m.response_headers_to_add = vec![wire::HeaderValue { key: "x-raw".into(), value: String::new(), raw_value: raw }];
            })],
        )
        .get("/")
        .shows(["< 200", "< x-raw: "]),
        limited(
            "the refusal of a call keeps its content type",
            "",
            [answer(pb::Code::OverLimit, |m| m.response_headers_to_add = vec![field("content-type", "text/a"), field("x-a", "1")])],
        )
        .send(request("POST", "/").field("content-type", "application/grpc"))
        .http2()
        .shows(["< content-type: application/grpc", "< x-a: 1"]),
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
pub(super) fn headers() -> Vec<Case> {
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
        limited(
            "a policy may be of several units of time",
            draft,
            [answer(pb::Code::Ok, |m| {
                let several = |unit, units| {
                    let mut status = status(pb::Code::Ok, (10, unit, ""), 3, (7, 0));
                    let limit = status.current_limit.as_mut().unwrap();
                    limit.unit_multiplier = Some(wkt::UInt32Value { value: units });
                    status
                };
                m.statuses = vec![several(Unit::Minute, 5), several(Unit::Hour, 0)];
            })],
        )
        .get("/")
        .shows(["< x-ratelimit-limit: 10, 10;w=300, 10;w=3600"]),
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
pub(super) fn failures() -> Vec<Case> {
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
    let unavailable = || {
        acts([Act::Respond(Response {
            status: 200,
            fields: vec![
                ("content-type".into(), "application/grpc".into()),
                ("grpc-status".into(), "14".into()),
            ],
            body: vec![],
            trailers: vec![],
            chunked: false,
        })])
    };
    let mut again = limited(
        "a service is asked again as its retry_policy says",
        deny,
        [unavailable(), ok()],
    );
    again.filters = again.filters.replace(
        "grpc_service: {",
        "grpc_service: { retry_policy: { retry_on: unavailable, retry_back_off: { base_interval: 0.01s } }, initial_metadata: [{ key: x-said, value: \"%REQ(:path)%\" }],",
    );
    vec![
        again
            .get("/a?b=c")
            .stats(STATS)
            .stats(["cluster.@stat-service.upstream_rq_retry"])
            .shows(["< 200", "> x-said: /a?b=c", "stat cluster.@stat-service.upstream_rq_retry: 1"]),
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
            .stats(["cluster.@stat-service.upstream_rq_tx_reset", "cluster.@stat-service.upstream_rq_timeout"])
            .shows([
                "< 500",
                "stat cluster.@backend.ratelimit.error: 1",
                "stat cluster.@stat-service.upstream_rq_tx_reset: 1",
            ]),
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
