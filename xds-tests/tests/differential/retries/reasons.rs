//! For which reasons a request is tried again, and the headers that ask for it.

use super::{policy, second, unavailable};
use crate::case::{
    Act, Case, Kind, Request, Script, With, acts, case, get, late, ok, pause, reply, request, send,
    status, with_fields, with_trailers,
};

pub(super) fn reasons() -> Vec<Case> {
    let limited = || with_fields(status(503, "limited"), "x-envoy-ratelimited: true");
    let too_early = || reply(status(425, "early"));
    vec![
        policy("gateway-error means 502, 503 and 504", "retry_on: gateway-error, num_retries: 3")
            .replies([reply(status(502, "a")), unavailable(), reply(status(504, "c")), second()])
            .get("/")
            .shows(["< body second", "log attempts=4"]),
        policy("gateway-error means a reset as well", "retry_on: gateway-error")
            .replies([acts([Act::Close]), second()])
            .get("/")
            .shows(["< body second", "log attempts=2"]),
        policy("5xx means a per-try timeout as well", "retry_on: 5xx, per_try_timeout: 0.3s")
            .replies([late(3000, "late"), second()])
            .get("/")
            .both()
            .shows(["< body second", "log attempts=2"]),
        policy("retriable-4xx does not mean 404", "retry_on: retriable-4xx")
            .replies([reply(status(404, "first")), second()])
            .get("/")
            .shows(["< 404", "log attempts=1"]),
        policy("envoy-ratelimited means responses that say they are limited", "retry_on: envoy-ratelimited")
            .replies([reply(limited()), second()])
            .get("/")
            .shows(["< body second", "log attempts=2"]),
        policy("a response that says it is limited is no 5xx", "retry_on: \"5xx,retriable-headers\", retriable_headers: [{ name: x-envoy-ratelimited }]")
            .replies([reply(limited()), second()])
            .get("/")
            .shows(["< 503", "< body limited", "log attempts=1", "log flags=-"]),
        policy("refused-stream means a stream that was refused", "retry_on: refused-stream")
            .upstream_http2()
            .replies([acts([Act::Reset]), second()])
            .get("/")
            .both()
            .shows(["< body second", "log attempts=2"]),
        policy("refused-stream does not mean a connection that ends", "retry_on: refused-stream")
            .replies([acts([Act::Close]), second()])
            .get("/")
            .shows(["< 503", "log flags=UC", "log attempts=1"]),
        case("a refused stream without retries is 503 with UR")
            .upstream_http2()
            .reply(acts([Act::Reset]))
            .get("/")
            .both()
            .shows(["< 503", "log flags=UR", "log details=upstream_reset_before_response_started{remote_refused_stream_reset}"]),
        policy("reset-before-request means a refused connect", "retry_on: reset-before-request, num_retries: 2")
            .backend(Kind::Refuse)
            .get("/")
            .shows(["< 503", "log flags=URX,UF", "log attempts=3"]),
        policy("reset-before-request does not mean a reset after the request", "retry_on: reset-before-request")
            .replies([acts([Act::Close]), second()])
            .get("/")
            .shows(["< 503", "log flags=UC", "log attempts=1"]),
        policy("reset means a refused connect as well", "retry_on: reset")
            .backend(Kind::Refuse)
            .get("/")
            .shows(["< 503", "log flags=URX,UF", "log attempts=2"]),
        policy("connect-failure means a connect that hangs", "retry_on: connect-failure")
            .backend(Kind::Deaf)
            .get("/")
            .shows(["< 503", "log flags=URX,UF", "log attempts=2"]),
        policy("connect-failure does not mean a per-try timeout", "retry_on: connect-failure, per_try_timeout: 0.3s")
            .replies([late(3000, "late"), second()])
            .get("/")
            .shows(["< 504", "log flags=UT", "log attempts=1"]),
        policy("http3-post-connect-failure changes nothing over TCP", "retry_on: http3-post-connect-failure")
            .replies([acts([Act::Close]), second()])
            .get("/")
            .shows(["< 503", "log flags=UC", "log attempts=1"]),
        policy("425 is tried again at once", "retry_on: retriable-status-codes, retriable_status_codes: [425], retry_back_off: { base_interval: 1s }")
            .replies([too_early(), second()])
            .get("/")
            .stats(["cluster.@backend.upstream_rq_retry", "cluster.@backend.upstream_rq_retry_backoff_exponential"])
            .shows(["< body second", "stat cluster.@backend.upstream_rq_retry: 1", "stat cluster.@backend.upstream_rq_retry_backoff_exponential: 0"]),
        policy("425 to what came as early data is for its client", "retry_on: retriable-status-codes, retriable_status_codes: [425]")
            .replies([too_early(), second()])
            .send(get("/").field("early-data", "1"))
            .shows(["< 425", "log attempts=1"]),
        policy("retriable_headers look at values, and at what is not there", "retry_on: retriable-headers, num_retries: 5, retriable_headers: [{ name: x-a, string_match: { exact: again } }, { name: x-b, present_match: true, invert_match: true }]")
            .replies([
                reply(with_fields(ok("1"), "x-a: again\nx-b: 1")),
                reply(with_fields(ok("2"), "x-a: no")),
                reply(with_fields(ok("3"), "x-a: no\nx-b: 1")),
            ])
            .get("/")
            .shows(["< body 3", "log attempts=3"]),
        policy("a response that has begun is not tried again", "retry_on: reset")
            .replies([acts([send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"), pause(50), Act::Close]), second()])
            .get("/")
            .both()
            .shows(["< 200", "< body ab", "log attempts=1"]),
        policy("an attempt behind a 100 is not tried again", "retry_on: \"reset,5xx\"")
            .hcm("proxy_100_continue: true")
            .replies([acts([send("HTTP/1.1 100 Continue\r\n\r\n"), pause(100), Act::Close]), second()])
            .send(request("POST", "/").field("expect", "100-continue").body("x"))
            .read()
            .shows(["< 503", "log attempts=1", "log details=upstream_reset_after_response_started{connection_termination}"]),
        policy("x-envoy-immediate-health-check-fail keeps no response from being tried again", "retry_on: 5xx")
            .replies([reply(with_fields(status(503, "no"), "x-envoy-immediate-health-check-fail: 1")), second()])
            .get("/")
            .shows(["< body second", "log attempts=2"]),
    ]
}

/// A gRPC call.
fn call() -> Request {
    request("POST", "/s/m")
        .field("content-type", "application/grpc")
        .body("x")
}

/// A gRPC response that is nothing but a status.
fn grpc_status(code: u32) -> Script {
    let fields = format!("content-type: application/grpc\ngrpc-status: {code}");
    reply(with_fields(ok(""), &fields))
}

pub(super) fn grpc_reasons() -> Vec<Case> {
    let token = |title, token: &str, code| {
        policy(title, &format!("retry_on: {token}"))
            .upstream_http2()
            .replies([grpc_status(code), grpc_status(0)])
            .send(call())
            .http2()
            .shows(["< 200", "< grpc-status: 0", "log attempts=2"])
    };
    vec![
        token("cancelled means grpc-status 1", "cancelled", 1),
        token(
            "deadline-exceeded means grpc-status 4",
            "deadline-exceeded",
            4,
        ),
        token(
            "resource-exhausted means grpc-status 8",
            "resource-exhausted",
            8,
        ),
        token("internal means grpc-status 13", "internal", 13),
        token("unavailable means grpc-status 14", "unavailable", 14),
        policy(
            "a gRPC reason does not mean another status",
            "retry_on: \"cancelled,unavailable\"",
        )
        .upstream_http2()
        .replies([grpc_status(13), grpc_status(0)])
        .send(call())
        .http2()
        .shows(["< grpc-status: 13", "log attempts=1"]),
        policy(
            "a grpc-status in trailers is not tried again",
            "retry_on: unavailable",
        )
        .upstream_http2()
        .replies([
            reply(with_trailers(
                with_fields(ok("m"), "content-type: application/grpc"),
                "grpc-status: 14",
            )),
            grpc_status(0),
        ])
        .send(call())
        .http2()
        .shows(["< trailer grpc-status: 14", "log attempts=1"]),
        policy(
            "a gRPC reason holds for requests that are no gRPC as well",
            "retry_on: unavailable",
        )
        .replies([reply(with_fields(ok("first"), "grpc-status: 14")), second()])
        .get("/")
        .shows(["< body second", "log attempts=2"]),
        policy("unavailable does not mean 503", "retry_on: unavailable")
            .replies([unavailable(), second()])
            .get("/")
            .shows(["< 503", "log attempts=1"]),
    ]
}

pub(super) fn asked_for() -> Vec<Case> {
    let inside = |title| case(title).internal();
    vec![
        inside("x-envoy-retry-grpc-on asks for gRPC reasons")
            .replies([reply(with_fields(ok("first"), "grpc-status: 14")), second()])
            .send(get("/").field("x-envoy-retry-grpc-on", "unavailable"))
            .shows(["< body second", "log attempts=2"])
            .lacks(["> x-envoy-retry-grpc-on*"]),
        inside("x-envoy-retry-on does not take gRPC reasons")
            .replies([reply(with_fields(ok("first"), "grpc-status: 14")), second()])
            .send(get("/").field("x-envoy-retry-on", "unavailable"))
            .shows(["< body first", "log attempts=1"]),
        inside("x-envoy-retriable-status-codes adds to the codes of the route")
            .route("retry_policy: { retry_on: retriable-status-codes, num_retries: 5, retriable_status_codes: [418] }", "")
            .replies([reply(status(419, "a")), reply(status(418, "b")), second()])
            .send(get("/").field("x-envoy-retriable-status-codes", "419, 420"))
            .shows(["< body second", "log attempts=3"])
            .lacks(["> x-envoy-retriable-status-codes*"]),
        inside("x-envoy-retriable-header-names adds to the headers of the route")
            .route("retry_policy: { retry_on: retriable-headers, num_retries: 5, retriable_headers: [{ name: x-b }] }", "")
            .replies([reply(with_fields(ok("1"), "x-a: 1")), reply(with_fields(ok("2"), "x-b: 1")), second()])
            .send(get("/").field("x-envoy-retriable-header-names", "X-A, x-c"))
            .shows(["< body second", "log attempts=3"])
            .lacks(["> x-envoy-retriable-header-names*"]),
        inside("x-envoy-max-retries takes the place of the route's number")
            .route("retry_policy: { retry_on: 5xx, num_retries: 1 }", "")
            .reply(unavailable())
            .send(get("/").field("x-envoy-max-retries", "3"))
            .shows(["< 503", "log attempts=4", "log flags=URX"]),
        inside("x-envoy-max-retries of zero is no retry")
            .route("retry_policy: { retry_on: 5xx, num_retries: 3 }", "")
            .reply(unavailable())
            .send(get("/").field("x-envoy-max-retries", "0"))
            .shows(["< 503", "log attempts=1", "log flags=URX"]),
        inside("x-envoy-max-retries that is no number does not count")
            .route("retry_policy: { retry_on: 5xx, num_retries: 2 }", "")
            .reply(unavailable())
            .send(get("/").field("x-envoy-max-retries", "many"))
            .shows(["log attempts=3"])
            .lacks(["> x-envoy-max-retries*"]),
        inside("x-envoy-retry-on of nonsense asks for nothing")
            .replies([unavailable(), second()])
            .send(get("/").field("x-envoy-retry-on", "sometimes"))
            .shows(["< 503", "log attempts=1"])
            .lacks(["> x-envoy-retry-on*"]),
        inside("x-envoy-retry-on adds to the reasons of the route")
            .route("retry_policy: { retry_on: retriable-4xx, num_retries: 2 }", "")
            .replies([unavailable(), reply(status(409, "b")), second()])
            .send(get("/").field("x-envoy-retry-on", "5xx"))
            .shows(["< body second", "log attempts=3"]),
        case("x-envoy-retry-on of an external client does not count")
            .external()
            .replies([unavailable(), second()])
            .send(get("/").field("x-envoy-retry-on", "5xx").field("x-envoy-max-retries", "3"))
            .shows(["< 503", "log attempts=1"])
            .lacks(["> x-envoy-retry-on*", "> x-envoy-max-retries*"]),
        inside("x-envoy-upstream-rq-per-try-timeout-ms takes the place of the route's")
            .route("retry_policy: { retry_on: 5xx, per_try_timeout: 5s }", "")
            .replies([late(3000, "late"), second()])
            .send(get("/").field("x-envoy-upstream-rq-per-try-timeout-ms", "300"))
            .shows(["< body second", "log attempts=2", "> x-envoy-expected-rq-timeout-ms: 300"])
            .lacks(["> x-envoy-upstream-rq-per-try-timeout-ms*"]),
    ]
}
