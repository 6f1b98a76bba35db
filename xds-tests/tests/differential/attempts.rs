//! Timeouts of every kind, what the router's own configuration changes, what is counted, and copies of requests.

use crate::case::{
    Act, Case, Kind, Request, With, acts, case, get, http1, late, ok, pause, reply, request, send,
    status, with_fields, with_trailers,
};

pub fn cases() -> Vec<Case> {
    [
        timeouts(),
        grpc_timeouts(),
        strict(),
        options(),
        counted(),
        copies(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn timeouts() -> Vec<Case> {
    let inside = |title| case(title).internal();
    vec![
        inside("a per-try timeout may be 204 as well")
            .route("retry_policy: { retry_on: connect-failure, per_try_timeout: 0.3s }", "")
            .reply(late(3000, "late"))
            .send(get("/").field("x-envoy-upstream-rq-timeout-alt-response", "0"))
            .page("/clusters", "@backend::127.0.0.1")
            .shows(["< 204", "log flags=UT", "log details=upstream_per_try_timeout", "page @backend::127.0.0.1:@port:backend::rq_error::1"])
            .lacks(["> x-envoy-upstream-rq-timeout-alt-response*"]),
        case("a per-try timeout as long as the timeout does not count")
            .route("timeout: 0.4s\nretry_policy: { retry_on: 5xx, per_try_timeout: 0.4s, num_retries: 3 }", "")
            .reply(late(3000, "late"))
            .get("/")
            .shows(["< 504", "log details=response_timeout", "log attempts=1"]),
        case("a per-try timeout holds where the route has none")
            .route("timeout: 0s\nretry_policy: { retry_on: 5xx, per_try_timeout: 0.3s }", "")
            .reply(late(3000, "late"))
            .get("/")
            .shows(["< 504", "log details=upstream_per_try_timeout", "log attempts=2", "> x-envoy-expected-rq-timeout-ms: 300"]),
        case("a per-try timeout ends with the head of the response")
            .route("retry_policy: { retry_on: 5xx, per_try_timeout: 0.3s }", "")
            .reply(acts([send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab"), pause(700), send("cd")]))
            .get("/")
            .both()
            .shows(["< 200", "< body abcd", "log flags=-"]),
        case("per_try_idle_timeout breaks a response that falls silent")
            .route("retry_policy: { retry_on: 5xx, per_try_idle_timeout: 0.3s }", "")
            .reply(acts([send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab"), pause(1500), send("cd")]))
            .get("/")
            .both()
            .shows(["< 200", "< body ab", "log flags=UT", "log details=upstream_per_try_idle_timeout"]),
        case("per_try_idle_timeout lets a response go on that moves")
            .route("retry_policy: { retry_on: 5xx, per_try_idle_timeout: 0.6s }", "")
            .reply(acts([
                send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na"),
                pause(300),
                send("b"),
                pause(300),
                send("c"),
                pause(300),
                send("d"),
            ]))
            .get("/")
            .shows(["< body abcd", "log flags=-"]),
        inside("x-envoy-upstream-rq-timeout-ms of zero is no timeout")
            .route("timeout: 0.3s", "")
            .reply(late(700, "late"))
            .send(get("/").field("x-envoy-upstream-rq-timeout-ms", "0"))
            .shows(["< body late"])
            .lacks(["> x-envoy-expected-rq-timeout-ms*"]),
        inside("x-envoy-upstream-rq-timeout-ms that is no number does not count")
            .route("timeout: 5s", "")
            .send(get("/").field("x-envoy-upstream-rq-timeout-ms", "soon"))
            .shows(["< 200", "> x-envoy-expected-rq-timeout-ms: 5000"])
            .lacks(["> x-envoy-upstream-rq-timeout-ms*"]),
        case("respect_expected_rq_timeout takes what an earlier proxy says")
            .internal()
            .router("respect_expected_rq_timeout: true")
            .reply(late(3000, "late"))
            .send(get("/").field("x-envoy-expected-rq-timeout-ms", "300"))
            .shows(["< 504", "log flags=UT", "> x-envoy-expected-rq-timeout-ms: 300"]),
        inside("x-envoy-expected-rq-timeout-ms is overwritten by default")
            .route("timeout: 5s", "")
            .send(get("/").field("x-envoy-expected-rq-timeout-ms", "300"))
            .shows(["> x-envoy-expected-rq-timeout-ms: 5000"]),
        case("max_stream_duration of the cluster is 504 with UMSDR")
            .protocol_options("explicit_http_config: { http_protocol_options: {} }\ncommon_http_protocol_options: { max_stream_duration: 0.3s }")
            .reply(late(3000, "late"))
            .get("/")
            .stats(["cluster.@backend.upstream_rq_max_duration_reached", "cluster.@backend.upstream_rq_504"])
            .both()
            .shows(["< 504", "< body upstream max stream duration reached", "log flags=UMSDR", "log details=upstream_max_stream_duration_reached"]),
        case("max_stream_duration of the cluster breaks a response that has begun")
            .protocol_options("explicit_http_config: { http_protocol_options: {} }\ncommon_http_protocol_options: { max_stream_duration: 0.4s }")
            .reply(acts([send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab"), pause(1500)]))
            .get("/")
            .shows(["< 200", "< body ab", "log flags=UMSDR", "log details=upstream_max_stream_duration_reached"]),
        case("max_stream_duration of the cluster may be tried again")
            .route("retry_policy: { retry_on: reset }", "")
            .protocol_options("explicit_http_config: { http_protocol_options: {} }\ncommon_http_protocol_options: { max_stream_duration: 0.4s }")
            .replies([late(3000, "late"), reply(ok("second"))])
            .get("/")
            .shows(["< body second", "log attempts=2"]),
        inside("x-envoy-upstream-stream-duration-ms takes the place of the cluster's limit")
            .reply(late(3000, "late"))
            .send(get("/").field("x-envoy-upstream-stream-duration-ms", "300"))
            .shows(["< 504", "log flags=UMSDR"])
            .lacks(["> x-envoy-upstream-stream-duration-ms*"]),
        case("a route with max_stream_duration has no other timeout")
            .route("timeout: 0.3s\nmax_stream_duration: { max_stream_duration: 0s }", "")
            .reply(late(700, "late"))
            .get("/")
            .shows(["< body late"])
            .lacks(["> x-envoy-expected-rq-timeout-ms*"]),
        case("max_stream_duration of a route takes the place of the manager's")
            .hcm("common_http_protocol_options: { max_stream_duration: 0.3s }")
            .route("max_stream_duration: { max_stream_duration: 5s }", "")
            .reply(late(700, "late"))
            .get("/")
            .shows(["< body late"]),
        case("idle_timeout of a route takes the place of the manager's")
            .hcm("stream_idle_timeout: 10s")
            .route("idle_timeout: 0.3s", "")
            .reply(late(3000, "late"))
            .get("/")
            .both()
            .shows(["< 504", "< body stream timeout", "log flags=SI", "log details=stream_idle_timeout"]),
        case("idle_timeout of zero switches the manager's off")
            .hcm("stream_idle_timeout: 0.3s")
            .route("idle_timeout: 0s", "")
            .reply(late(700, "late"))
            .get("/")
            .shows(["< body late"]),
        case("the timeout of a route begins with the end of the request")
            .route("timeout: 0.6s", "")
            .reply(late(300, "in time"))
            .bytes("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab")
            .wait(900)
            .bytes("cd")
            .read()
            .shows(["< 200", "< body in time"]),
    ]
}

/// A gRPC call that says how long it may take.
fn call(timeout: &str) -> Request {
    request("POST", "/s/m")
        .field("content-type", "application/grpc")
        .field("grpc-timeout", timeout)
}

fn grpc_timeouts() -> Vec<Case> {
    let calls = |title, route: &str| case(title).route(route, "").upstream_http2().http2();
    vec![
        calls(
            "max_grpc_timeout takes the timeout of grpc-timeout",
            "timeout: 9s\nmax_grpc_timeout: 5s",
        )
        .reply(late(3000, "late"))
        .send(call("300m"))
        .shows([
            "< grpc-status: 14",
            "log flags=UT",
            "> grpc-timeout: 300m",
            "> x-envoy-expected-rq-timeout-ms: 300",
        ]),
        calls("max_grpc_timeout caps grpc-timeout", "max_grpc_timeout: 5s")
            .send(call("1H"))
            .shows(["< 200", "> grpc-timeout: 5000m"]),
        calls(
            "max_grpc_timeout holds for a call that says nothing",
            "max_grpc_timeout: 5s",
        )
        .send(request("POST", "/s/m").field("content-type", "application/grpc"))
        .shows(["< 200", "> grpc-timeout: 5000m"]),
        calls(
            "max_grpc_timeout of zero takes any grpc-timeout",
            "max_grpc_timeout: 0s",
        )
        .send(call("7S"))
        .shows(["< 200", "> grpc-timeout: 7000m"]),
        calls(
            "grpc_timeout_offset is taken off grpc-timeout",
            "max_grpc_timeout: 0s\ngrpc_timeout_offset: 2s",
        )
        .send(call("7S"))
        .shows(["< 200", "> grpc-timeout: 5000m"]),
        calls(
            "a grpc_timeout_offset that would leave nothing is not taken off",
            "max_grpc_timeout: 0s\ngrpc_timeout_offset: 7s",
        )
        .send(call("7S"))
        .shows(["< 200", "> grpc-timeout: 7000m"]),
        calls(
            "without max_grpc_timeout grpc-timeout is passed on as it is",
            "timeout: 5s",
        )
        .send(call("7S"))
        .shows([
            "< 200",
            "> grpc-timeout: 7S",
            "> x-envoy-expected-rq-timeout-ms: 5000",
        ]),
        calls(
            "max_grpc_timeout changes nothing for other requests",
            "timeout: 5s\nmax_grpc_timeout: 9s",
        )
        .send(get("/").field("grpc-timeout", "7S"))
        .shows([
            "< 200",
            "> grpc-timeout: 7S",
            "> x-envoy-expected-rq-timeout-ms: 5000",
        ]),
        calls(
            "grpc_timeout_header_offset is taken off the stream's duration",
            "max_stream_duration: { grpc_timeout_header_max: 5s, grpc_timeout_header_offset: 2s }",
        )
        .reply(late(3000, "late"))
        .send(call("2300m"))
        .shows(["< grpc-status: 4"]),
        calls(
            "grpc_timeout_header_max caps the stream's duration",
            "max_stream_duration: { grpc_timeout_header_max: 0.3s }",
        )
        .reply(late(3000, "late"))
        .send(call("7S"))
        .shows(["< grpc-status: 4"]),
        calls(
            "a call without grpc-timeout has the duration of the route",
            "max_stream_duration: { max_stream_duration: 0.3s, grpc_timeout_header_max: 5s }",
        )
        .reply(late(3000, "late"))
        .send(request("POST", "/s/m").field("content-type", "application/grpc"))
        .shows(["< grpc-status: 4"]),
    ]
}

fn strict() -> Vec<Case> {
    let checks = |title, header: &'static str, value: &str| {
        case(title)
            .internal()
            .router(&format!("strict_check_headers: [{header}]"))
            .send(get("/").field(header, value))
    };
    vec![
        checks(
            "strict_check_headers answer 400 to a timeout that is no number",
            "x-envoy-upstream-rq-timeout-ms",
            "soon",
        )
        .both()
        .shows([
            "< 400",
            "< body invalid header 'x-envoy-upstream-rq-timeout-ms' with value 'soon'",
            "log flags=IH",
            "log details=request_headers_failed_strict_check{x-envoy-upstream-rq-timeout-ms}",
        ]),
        checks(
            "strict_check_headers answer 400 to a number of retries that is none",
            "x-envoy-max-retries",
            "-1",
        )
        .shows(["< 400", "log flags=IH"]),
        checks(
            "strict_check_headers answer 400 to a reason that nobody knows",
            "x-envoy-retry-on",
            "5xx,sometimes",
        )
        .shows(["< 400", "log flags=IH"]),
        checks(
            "strict_check_headers answer 400 to a gRPC reason that nobody knows",
            "x-envoy-retry-grpc-on",
            "5xx",
        )
        .shows(["< 400", "log flags=IH"]),
        checks(
            "strict_check_headers let legal values pass",
            "x-envoy-retry-on",
            "5xx, reset",
        )
        .shows(["< 200"]),
        case("a header that is not checked may be anything")
            .internal()
            .router("strict_check_headers: [x-envoy-max-retries]")
            .send(get("/").field("x-envoy-retry-on", "sometimes"))
            .shows(["< 200"]),
    ]
}

fn options() -> Vec<Case> {
    vec![
        case("without dynamic_stats responses are not counted by code")
            .router("dynamic_stats: false")
            .get("/")
            .page("/stats", "cluster.@backend.upstream_rq_200")
            .page("/stats", "cluster.@backend.external.")
            .page("/stats", "cluster.@backend.upstream_rq_completed")
            .shows(["< 200", "page cluster.@backend.upstream_rq_completed: 0"])
            .lacks(["page cluster.@backend.upstream_rq_200*", "page cluster.@backend.external*"]),
        case("suppress_envoy_headers takes x-envoy-overloaded from a reply")
            .router("suppress_envoy_headers: true")
            .cluster("circuit_breakers: { thresholds: [{ max_requests: 0, max_pending_requests: 0, max_connections: 0 }] }")
            .get("/")
            .shows(["< 503", "log flags=UO"])
            .lacks(["< x-envoy-overloaded*"]),
        case("suppress_envoy_headers leaves the path as it was unsaid")
            .router("suppress_envoy_headers: true")
            .route("prefix_rewrite: /new\nhost_rewrite_literal: other", "")
            .get("/old")
            .shows(["< 200"])
            .lacks(["> x-envoy-original-path*", "> x-envoy-original-host*"]),
        case("suppress_grpc_request_failure_code_stats leaves codes of calls out")
            .router("suppress_grpc_request_failure_code_stats: true")
            .upstream_http2()
            .http2()
            .send(request("POST", "/s/m").field("content-type", "application/grpc"))
            .page("/stats", "cluster.@backend.upstream_rq_2")
            .page("/stats", "cluster.@backend.upstream_rq_completed")
            .page("/stats", "cluster.@backend.external.")
            .shows(["page cluster.@backend.upstream_rq_completed: 1"])
            .lacks(["page cluster.@backend.upstream_rq_200*"]),
        case("an upstream says nothing of x-envoy-upstream-service-time itself")
            .reply(reply(with_fields(ok(""), "x-envoy-upstream-service-time: 99999999")))
            .get("/")
            .shows(["< x-envoy-upstream-service-time: (volatile)"]),
        case("x-envoy-overloaded and x-envoy-degraded of an upstream go to the client")
            .reply(reply(with_fields(status(503, ""), "x-envoy-overloaded: 1\nx-envoy-degraded: 1\nx-envoy-ratelimited: 1\nx-envoy-immediate-health-check-fail: 1")))
            .get("/")
            .shows(["< x-envoy-overloaded: 1", "< x-envoy-degraded: 1", "< x-envoy-ratelimited: 1"]),
    ]
}

fn counted() -> Vec<Case> {
    let calls = |title| {
        case(title)
            .upstream_http2()
            .http2()
            .send(request("POST", "/s/m").field("content-type", "application/grpc"))
            .page("/clusters", "@backend::127.0.0.1")
    };
    let call = |fields: &str, trailers: &str| {
        reply(with_trailers(
            with_fields(ok(""), &format!("content-type: application/grpc\n{fields}")),
            trailers,
        ))
    };
    vec![
        case("x-envoy-upstream-alt-stat-name counts below a further name")
            .internal()
            .send(get("/").field("x-envoy-upstream-alt-stat-name", "alt"))
            .page("/stats", "cluster.@backend.alt.")
            .shows([
                "page cluster.@backend.alt.upstream_rq_200: 1",
                "page cluster.@backend.alt.upstream_rq_completed: 1",
                "page cluster.@backend.alt.internal.upstream_rq_2xx: 1",
            ])
            .lacks(["> x-envoy-upstream-alt-stat-name*"]),
        case("x-envoy-upstream-canary counts a response as a canary's")
            .reply(reply(with_fields(ok(""), "x-envoy-upstream-canary: true")))
            .get("/")
            .page("/stats", "cluster.@backend.canary.")
            .shows([
                "page cluster.@backend.canary.upstream_rq_200: 1",
                "< x-envoy-upstream-canary: true",
            ]),
        case("stat_prefix counts the requests of a route below its virtual host")
            .route(
                "retry_policy: { retry_on: 5xx }",
                "stat_prefix: \"route_@stat\"",
            )
            .replies([reply(status(503, "")), reply(ok(""))])
            .get("/")
            .page("/stats", "vhost.vhost.route.route_@stat.")
            .shows([
                "page vhost.vhost.route.route_@stat.upstream_rq_total: 2",
                "page vhost.vhost.route.route_@stat.upstream_rq_retry: 1",
                "page vhost.vhost.route.route_@stat.upstream_rq_retry_success: 1",
                "page vhost.vhost.route.route_@stat.upstream_rq_200: 1",
                "page vhost.vhost.route.route_@stat.upstream_rq_completed: 1",
            ]),
        case("the stats of a route are there before its first request, and count its timeouts")
            .routes(
                "
                - match: { prefix: /slow }
                  stat_prefix: \"slow_@stat\"
                  route: { cluster: @backend, timeout: 0.3s }
                - match: { prefix: / }
                  stat_prefix: \"idle_@stat\"
                  route: { cluster: @backend }",
            )
            .reply(late(2000, ""))
            .get("/slow")
            .page("/stats", "vhost.vhost.route.slow_@stat.")
            .page("/stats", "vhost.vhost.route.idle_@stat.")
            .shows([
                "page vhost.vhost.route.slow_@stat.upstream_rq_timeout: 1",
                "page vhost.vhost.route.slow_@stat.upstream_rq_5xx: 1",
                "page vhost.vhost.route.idle_@stat.upstream_rq_total: 0",
            ]),
        case("timeout_budgets tell how much of its time a request used")
            .cluster("track_cluster_stats: { timeout_budgets: true }")
            .route("retry_policy: { retry_on: 5xx, per_try_timeout: 5s }", "")
            .replies([reply(status(503, "")), reply(ok(""))])
            .get("/")
            .page("/stats", "cluster.@backend.upstream_rq_timeout_budget")
            .shows(["page cluster.@backend.upstream_rq_timeout_budget_percent_used: (histogram)", "page cluster.@backend.upstream_rq_timeout_budget_per_try_percent_used: (histogram)"]),
        case("request_response_sizes tell how large messages are")
            .cluster("track_cluster_stats: { request_response_sizes: true }")
            .get("/")
            .page("/stats", "cluster.@backend.upstream_rq_body")
            .page("/stats", "cluster.@backend.upstream_rq_headers")
            .page("/stats", "cluster.@backend.upstream_rs_")
            .shows([
                "page cluster.@backend.upstream_rq_body_size: (histogram)",
                "page cluster.@backend.upstream_rq_headers_count: (histogram)",
                "page cluster.@backend.upstream_rs_headers_size: (histogram)",
            ]),
        case("a stream that an HTTP/2 upstream resets after its head is UR")
            .upstream_http2()
            .reply(acts([Act::Respond(ok("ab")), pause(100), Act::Reset]))
            .get("/")
            .both()
            .shows(["< 200", "< body ab", "log flags=UR", "log details=upstream_reset_after_response_started{remote_reset}"]),
        case("a 5xx is an error of its host")
            .reply(reply(status(500, "")))
            .get("/")
            .page("/clusters", "@backend::127.0.0.1")
            .shows([
                "page @backend::127.0.0.1:@port:backend::rq_error::1",
                "page @backend::127.0.0.1:@port:backend::rq_success::0",
            ]),
        case("a 4xx is no error of its host")
            .reply(reply(status(404, "")))
            .get("/")
            .page("/clusters", "@backend::127.0.0.1")
            .shows(["page @backend::127.0.0.1:@port:backend::rq_success::1"]),
        case("a timeout is one of its host, and an error")
            .route("timeout: 0.3s", "")
            .reply(late(2000, ""))
            .get("/")
            .page("/clusters", "@backend::127.0.0.1")
            .shows([
                "page @backend::127.0.0.1:@port:backend::rq_timeout::1",
                "page @backend::127.0.0.1:@port:backend::rq_error::1",
            ]),
        case("a refused connect is an error of its host")
            .backend(Kind::Refuse)
            .get("/")
            .page("/clusters", "@backend::127.0.0.1")
            .shows([
                "page @backend::127.0.0.1:@port:backend::rq_error::1",
                "page @backend::127.0.0.1:@port:backend::cx_connect_fail::1",
            ]),
        calls("a call that is unavailable is an error of its host")
            .reply(call("grpc-status: 14", ""))
            .shows(["page @backend::127.0.0.1:@port:backend::rq_error::1"]),
        calls("a call that finds nothing is a success of its host")
            .reply(call("grpc-status: 5", ""))
            .shows(["page @backend::127.0.0.1:@port:backend::rq_success::1"]),
        calls("the trailers of a call say how its host did")
            .reply(call("", "grpc-status: 13"))
            .shows(["page @backend::127.0.0.1:@port:backend::rq_error::1"]),
        calls("a call that ends without trailers is an error of its host")
            .reply(reply(with_fields(
                ok("message"),
                "content-type: application/grpc",
            )))
            .shows(["page @backend::127.0.0.1:@port:backend::rq_error::1"]),
        case("a call that breaks off after its head counts for the manager")
            .upstream_http2()
            .http2()
            .send(request("POST", "/s/m").field("content-type", "application/grpc"))
            .reply(acts([
                Act::Respond(with_fields(ok("m"), "content-type: application/grpc")),
                pause(100),
                Act::Reset,
            ]))
            .stats(["http.@stat.rq_reset_after_downstream_response_started"])
            .shows([
                "< 200",
                "stat http.@stat.rq_reset_after_downstream_response_started: 1",
            ]),
        case("a response that breaks off after its head is no such thing without gRPC")
            .reply(acts([
                send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"),
                pause(100),
                Act::Close,
            ]))
            .get("/")
            .stats(["http.@stat.rq_reset_after_downstream_response_started"])
            .shows([
                "< 200",
                "stat http.@stat.rq_reset_after_downstream_response_started: 0",
            ]),
    ]
}

/// A route with a mirror policy, and the backend of the copies.
fn mirrored(title: &'static str, policies: &str) -> Case {
    case(title)
        .route(&format!("request_mirror_policies: [{policies}]"), "")
        .and_backend("shadow", http1(reply(ok("nobody sees this"))))
        .any_order()
}

/// Names the cluster of copies.
const ADDRESSED: &str = "- name: mutation\n  typed_config: { '@type': '@http/header_mutation.v3.HeaderMutation', mutations: { request_mutations: [{ append: { header: { key: x-copy-to, value: '@shadow' } } }] } }";

fn copies() -> Vec<Case> {
    vec![
        mirrored("cluster_header names the cluster of a copy", "{ cluster_header: x-copy-to }")
            .filters(ADDRESSED)
            .get("/")
            .wait(300)
            .shows(["< body hello", "> shadow connection 1: GET / HTTP/1.1"]),
        mirrored("a cluster_header that is missing copies nothing", "{ cluster_header: x-copy-to }")
            .get("/")
            .wait(300)
            .shows(["< body hello"])
            .lacks(["> shadow connection*"]),
        mirrored("a copy for a cluster that does not exist changes nothing", "{ cluster_header: x-copy-to }")
            .send(get("/").field("x-copy-to", "nobody"))
            .wait(300)
            .shows(["< body hello"])
            .lacks(["> shadow connection*"]),
        mirrored("several policies make several copies", "{ cluster: @shadow }, { cluster: @further }")
            .and_backend("further", http1(reply(ok(""))))
            .get("/")
            .wait(300)
            .shows(["> shadow connection 1: GET / HTTP/1.1", "> further connection 1: GET / HTTP/1.1", "> host: example.com-shadow"]),
        mirrored("a fraction of everything copies everything", "{ cluster: @shadow, runtime_fraction: { runtime_key: no.such.key, default_value: { numerator: 100 } } }")
            .get("/")
            .wait(300)
            .shows(["> host: example.com-shadow"]),
        mirrored("trace_sampled changes nothing without a tracer", "{ cluster: @shadow, trace_sampled: false }")
            .get("/")
            .wait(300)
            .shows(["> host: example.com-shadow"]),
        mirrored("a copy has what the route made of the request", "{ cluster: @shadow }")
            .route("prefix_rewrite: /new\nrequest_mirror_policies: [{ cluster: @shadow }]", "request_headers_to_add: [{ header: { key: x-added, value: a } }]")
            .get("/old")
            .wait(300)
            .shows(["> shadow connection 1: GET /newold HTTP/1.1", "> x-added: a", "> x-envoy-original-path: /old"]),
        mirrored("a copy is made once, whatever is tried again", "{ cluster: @shadow }")
            .route("retry_policy: { retry_on: 5xx }\nrequest_mirror_policies: [{ cluster: @shadow }]", "")
            .replies([reply(status(503, "")), reply(ok("second"))])
            .get("/")
            .wait(300)
            .shows(["< body second", "> shadow connection 1: GET / HTTP/1.1"])
            .lacks(["> shadow connection 2*"]),
        mirrored("a copy is made of a request whose host refuses it", "{ cluster: @shadow }")
            .backend(Kind::Refuse)
            .get("/")
            .wait(300)
            .shows(["< 503", "> shadow connection 1: GET / HTTP/1.1"]),
        mirrored("a copy takes the trailers of its request along", "{ cluster: @shadow }")
            .hcm("http_protocol_options: { enable_trailers: true }")
            .send(request("POST", "/").chunked().body("x").trailer("x-end", "1"))
            .wait(300)
            .shows(["> body x"]),
        mirrored("a copy counts as internal", "{ cluster: @shadow }")
            .get("/")
            .wait(300)
            .page("/stats", "cluster.@shadow.internal.")
            .shows(["page cluster.@shadow.internal.upstream_rq_200: 1"]),
        mirrored("a header of a copy may be taken away or replaced", "{ cluster: @shadow, request_headers_mutations: [{ remove: x-secret }, { append: { header: { key: x-kind, value: copy }, append_action: OVERWRITE_IF_EXISTS_OR_ADD } }] }")
            .send(get("/").field("x-secret", "1").field("x-kind", "real"))
            .wait(300)
            .shows(["> x-secret: 1", "> x-kind: real", "> x-kind: copy"])
            .lacks(["> x-kind: real, copy"]),
        mirrored("policies of the virtual host hold for routes without their own", "{ cluster: @shadow }")
            .vhosts("
                - name: vhost
                  domains: [\"*\"]
                  request_mirror_policies: [{ cluster: @shadow }]
                  routes: [{ match: { prefix: / }, route: { cluster: @backend } }]")
            .get("/")
            .wait(300)
            .shows(["> host: example.com-shadow"]),
    ]
}
