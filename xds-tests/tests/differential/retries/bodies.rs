//! What becomes of the body of a request that is tried again, and of its headers.

use super::{policy, second, unavailable};
use crate::case::{
    Act, Case, Kind, Response, With, case, early, get, late, ok, raw, reply, request, status,
    with_fields,
};

pub(super) fn bodies() -> Vec<Case> {
    let limited = |title, route: &str, around: &str| {
        case(title).route(
            &format!("retry_policy: {{ retry_on: 5xx, {route} }}"),
            around,
        )
    };
    let later = "rate_limited_retry_back_off: { reset_headers: [{ name: retry-after }] }";
    let in_an_instant = || {
        early([Act::Respond(with_fields(
            status(503, "no"),
            "retry-after: 2",
        ))])
    };
    vec![
        limited(
            "a body beyond per_request_buffer_limit_bytes is not sent again",
            "num_retries: 1",
            "per_request_buffer_limit_bytes: 4",
        )
        .replies([unavailable(), second()])
        .send(request("POST", "/").body("12345"))
        .stats([
            "cluster.@backend.retry_or_shadow_abandoned",
            "cluster.@backend.upstream_rq_retry",
        ])
        .both()
        .shows([
            "< 503",
            "log attempts=1",
            "log flags=-",
            "stat cluster.@backend.upstream_rq_retry: 0",
        ]),
        limited(
            "a body of just per_request_buffer_limit_bytes is sent again",
            "num_retries: 1",
            "per_request_buffer_limit_bytes: 5",
        )
        .replies([unavailable(), second()])
        .send(request("POST", "/").body("12345"))
        .stats(["cluster.@backend.retry_or_shadow_abandoned"])
        .shows([
            "< body second",
            "log attempts=2",
            "stat cluster.@backend.retry_or_shadow_abandoned: 0",
        ]),
        limited(
            "request_body_buffer_limit may be above the buffer of the connection",
            "num_retries: 1",
            "request_body_buffer_limit: 100000",
        )
        .listener("per_connection_buffer_limit_bytes: 1024")
        .replies([unavailable(), second()])
        .send(request("POST", "/").body(&"x".repeat(5000)))
        .stats(["cluster.@backend.retry_or_shadow_abandoned"])
        .shows([
            "< body second",
            "log attempts=2",
            "stat cluster.@backend.retry_or_shadow_abandoned: 0",
        ]),
        limited(
            "a body beyond the buffer of the connection is not sent again",
            "num_retries: 1",
            "",
        )
        .listener("per_connection_buffer_limit_bytes: 1024")
        .replies([unavailable(), second()])
        .send(request("POST", "/").body(&"x".repeat(5000)))
        .stats(["cluster.@backend.retry_or_shadow_abandoned"])
        .shows([
            "< 503",
            "log attempts=1",
            "stat cluster.@backend.retry_or_shadow_abandoned: 1",
        ]),
        case("request_body_buffer_limit of the virtual host holds for its routes")
            .vhosts(
                "
                - name: vhost
                  domains: [\"*\"]
                  request_body_buffer_limit: 4
                  retry_policy: { retry_on: 5xx }
                  routes: [{ match: { prefix: / }, route: { cluster: @backend } }]",
            )
            .replies([unavailable(), second()])
            .send(request("POST", "/").body("12345"))
            .stats(["cluster.@backend.retry_or_shadow_abandoned"])
            .shows([
                "< 503",
                "log attempts=1",
                "stat cluster.@backend.retry_or_shadow_abandoned: 1",
            ]),
        limited(
            "a retry begins before the request has ended",
            "num_retries: 1",
            "",
        )
        .replies([early([Act::Respond(status(503, "no"))]), second()])
        .bytes("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab")
        .wait(500)
        .bytes("cd")
        .read()
        .shows(["< body second", "log attempts=2", "> body abcd"]),
        limited(
            "a body that outgrows the limit while a retry waits is 507",
            &format!("num_retries: 1, {later}"),
            "per_request_buffer_limit_bytes: 4",
        )
        .replies([in_an_instant(), second()])
        .bytes("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 20\r\n\r\nab")
        .wait(400)
        .bytes("cdefgh")
        .read()
        .shows([
            "< 507",
            "< body exceeded request buffer limit while retrying upstream",
            "log details=request_payload_exceeded_retry_buffer_limit",
            "log attempts=1",
        ]),
        limited("trailers are sent again as well", "num_retries: 1", "")
            .upstream_http2()
            .replies([unavailable(), second()])
            .send(request("POST", "/").body("x").trailer("x-end", "1"))
            .http2()
            .shows(["< body second", "> trailer x-end: 1", "> trailer x-end: 1"]),
        limited(
            "a body of several pieces is sent again in its order",
            "num_retries: 1",
            "",
        )
        .replies([unavailable(), second()])
        .send(request("POST", "/").body(&"0123456789".repeat(3000)))
        .both()
        .shows(["< body second", "log attempts=2"]),
    ]
}

pub(super) fn headers() -> Vec<Case> {
    let vhost = |title, fields: &str, action: &str| {
        case(title).vhosts(&format!(
            "- name: vhost\n  domains: [\"*\"]\n  {fields}\n  routes: [{{ match: {{ prefix: / }}, route: {{ cluster: @backend, {action} }} }}]"
        ))
    };
    vec![
        vhost(
            "include_is_timeout_retry_header says whether the last attempt took too long",
            "include_is_timeout_retry_header: true",
            "retry_policy: { retry_on: 5xx, num_retries: 2, per_try_timeout: 0.3s }",
        )
        .replies([unavailable(), late(2000, "late"), second()])
        .get("/")
        .shows(["< body second", "> x-envoy-is-timeout-retry: false", "> x-envoy-is-timeout-retry: true"]),
        vhost("a reply of our own says how many attempts there were", "include_attempt_count_in_response: true", "retry_policy: { retry_on: connect-failure, num_retries: 2 }")
            .backend(Kind::Refuse)
            .get("/")
            .shows(["< 503", "< x-envoy-attempt-count: 3", "< body upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote connection failure"]),
        vhost("a response to the first attempt says so", "include_attempt_count_in_response: true", "timeout: 5s")
            .reply(reply(with_fields(ok(""), "x-envoy-attempt-count: 77")))
            .get("/")
            .both()
            .shows(["< x-envoy-attempt-count: 1"]),
        vhost("the upstream is told the attempt whatever the client says", "include_request_attempt_count: true", "timeout: 5s")
            .internal()
            .send(get("/").field("x-envoy-attempt-count", "77"))
            .shows(["> x-envoy-attempt-count: 1"]),
        policy("retriable_request_headers may look at the method", "retry_on: 5xx, retriable_request_headers: [{ name: ':method', string_match: { exact: GET } }]")
            .replies([unavailable(), unavailable(), second()])
            .send(request("POST", "/"))
            .get("/")
            .shows(["< 503", "< body second"]),
        policy("a retry is told what is left of the timeout", "retry_on: 5xx")
            .route("timeout: 5.9s\nretry_policy: { retry_on: 5xx, rate_limited_retry_back_off: { reset_headers: [{ name: retry-after }] } }", "")
            .replies([reply(with_fields(status(503, "no"), "retry-after: 1")), second()])
            .get("/")
            .shows(["> x-envoy-expected-rq-timeout-ms: 6000", "> x-envoy-expected-rq-timeout-ms: 5000"]),
        case("a retry policy of the route takes the place of its virtual host's")
            .vhosts("
                - name: vhost
                  domains: [\"*\"]
                  retry_policy: { retry_on: 5xx, num_retries: 4 }
                  routes: [{ match: { prefix: / }, route: { cluster: @backend, retry_policy: { retry_on: retriable-4xx } } }]")
            .replies([unavailable(), second()])
            .get("/")
            .shows(["< 503", "log attempts=1"]),
        policy("a response of many bytes is tried again without its body", "retry_on: 5xx")
            .replies([reply(Response { chunked: true, ..status(503, &"x".repeat(100_000)) }), second()])
            .get("/")
            .both()
            .shows(["< body second", "log attempts=2"]),
        policy("a head that cannot be read is tried again", "retry_on: reset")
            .replies([raw("what is this\r\n\r\n"), second()])
            .get("/")
            .shows(["< body second", "log attempts=2"]),
    ]
}
