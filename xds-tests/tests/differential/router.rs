//! What the router does with one upstream request: timeouts, retries, resets, and the headers that steer them.

use crate::case::{
    Act, Case, Kind, Response, Step, With, acts, case, early, get, late, ok, pause, raw, reply,
    request, send, status, with_fields,
};

pub fn cases() -> Vec<Case> {
    [timeouts(), retries(), resets(), streaming(), mirrors()]
        .into_iter()
        .flatten()
        .collect()
}

fn timeouts() -> Vec<Case> {
    vec![
        case("a route's timeout is 504 with UT")
            .route("timeout: 0.3s", "")
            .reply(late(3000, "late"))
            .get("/")
            .both()
            .shows([
                "< 504",
                "< body upstream request timeout",
                "log flags=UT",
                "log details=response_timeout",
                "log cluster=@backend",
                "> x-envoy-expected-rq-timeout-ms: 300",
            ]),
        case("a timeout after the response began resets it")
            .route("timeout: 0.3s", "")
            .reply(acts([send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"), pause(3000)]))
            .get("/")
            .both()
            .shows(["< 200", "< body ab", "log flags=UT", "log code=200"]),
        case("a timeout of zero is none")
            .route("timeout: 0s", "")
            .get("/")
            .shows(["< 200"])
            .lacks(["> x-envoy-expected-rq-timeout-ms*"]),
        case("x-envoy-upstream-rq-timeout-ms of an external client does not count")
            .external()
            .reply(late(400, "late"))
            .send(get("/").field("x-envoy-upstream-rq-timeout-ms", "100"))
            .shows(["< body late", "> x-envoy-expected-rq-timeout-ms: 15000"]),
        case("x-envoy-upstream-rq-timeout-ms of an internal client replaces the timeout of the route")
            .internal()
            .reply(late(3000, "late"))
            .send(get("/").field("x-envoy-upstream-rq-timeout-ms", "300"))
            .shows(["< 504", "log flags=UT", "> x-envoy-expected-rq-timeout-ms: 300"])
            .lacks(["> x-envoy-upstream-rq-timeout-ms*"]),
        case("x-envoy-upstream-rq-timeout-alt-response turns 504 into 204")
            .internal()
            .route("timeout: 0.3s", "")
            .reply(late(3000, "late"))
            .send(get("/").field("x-envoy-upstream-rq-timeout-alt-response", "1"))
            .shows(["< 204", "log flags=UT"]),
        case("per_try_timeout without retries is 504")
            .route("retry_policy: { num_retries: 0, retry_on: 5xx, per_try_timeout: 0.3s }", "")
            .reply(late(3000, "late"))
            .get("/")
            .shows(["< 504", "log flags=URX,UT", "log details=upstream_per_try_timeout"]),
        case("per_try_timeout leaves time for another try")
            .route("retry_policy: { num_retries: 1, retry_on: 5xx, per_try_timeout: 0.3s }", "")
            .replies([late(3000, "late"), reply(ok("second"))])
            .get("/")
            .shows(["< 200", "< body second", "log attempts=2", "> x-envoy-expected-rq-timeout-ms: 300"]),
        case("per_try_idle_timeout ends a try that falls silent")
            .route("retry_policy: { num_retries: 0, retry_on: 5xx, per_try_idle_timeout: 0.3s }", "")
            .reply(late(3000, "late"))
            .get("/")
            .shows(["< 504", "log details=upstream_per_try_idle_timeout"]),
        case("max_stream_duration of a route is 504")
            .route("max_stream_duration: { max_stream_duration: 0.3s }", "")
            .reply(late(3000, "late"))
            .get("/")
            .shows(["< 504", "log details=max_duration_timeout"]),
        case("grpc_timeout_header_max lets grpc-timeout set the stream's duration")
            .route("max_stream_duration: { grpc_timeout_header_max: 5s }", "")
            .upstream_http2()
            .reply(late(3000, "late"))
            .send(request("POST", "/s/m").field("content-type", "application/grpc").field("grpc-timeout", "300m"))
            .http2()
            .shows(["< 200", "< grpc-status: 4"]),
        case("suppress_envoy_headers takes the x-envoy headers from both ways")
            .router("suppress_envoy_headers: true")
            .get("/")
            .shows(["< 200"])
            .lacks(["< x-envoy-upstream-service-time*", "> x-envoy-expected-rq-timeout-ms*"]),
    ]
}

fn retries() -> Vec<Case> {
    let refused = || acts([Act::Reset]);
    let unavailable = || reply(status(503, "no"));
    let policy =
        |title, fields: &str| case(title).route(&format!("retry_policy: {{ {fields} }}"), "");
    vec![
        policy("5xx is tried again", "retry_on: 5xx, num_retries: 2")
            .replies([unavailable(), reply(status(500, "no")), reply(ok("third"))])
            .get("/")
            .both()
            .shows(["< 200", "< body third", "log attempts=3", "log flags=-"]),
        policy("retries that run out give the last response with URX", "retry_on: 5xx, num_retries: 1")
            .reply(unavailable())
            .get("/")
            .shows(["< 503", "< body no", "log flags=URX", "log attempts=2", "log details=via_upstream"]),
        policy("the number of retries is one by default", "retry_on: 5xx")
            .reply(unavailable())
            .get("/")
            .shows(["log attempts=2"]),
        policy("gateway-error does not mean 500", "retry_on: gateway-error")
            .replies([reply(status(500, "first")), reply(ok("second"))])
            .get("/")
            .shows(["< 500", "log attempts=1"]),
        policy("retriable-4xx means 409", "retry_on: retriable-4xx")
            .replies([reply(status(409, "first")), reply(ok("second"))])
            .get("/")
            .shows(["< 200", "log attempts=2"]),
        policy("retriable-status-codes means those that are listed", "retry_on: retriable-status-codes, retriable_status_codes: [418]")
            .replies([reply(status(418, "first")), reply(ok("second"))])
            .get("/")
            .shows(["< 200", "log attempts=2"]),
        policy("retriable-headers means responses with those headers", "retry_on: retriable-headers, retriable_headers: [{ name: x-again, present_match: true }]")
            .replies([reply(with_fields(ok("first"), "x-again: 1")), reply(ok("second"))])
            .get("/")
            .shows(["< body second", "log attempts=2"]),
        policy("reset means an upstream that resets before the response", "retry_on: reset")
            .replies([refused(), reply(ok("second"))])
            .get("/")
            .shows(["< body second", "log attempts=2"]),
        policy("connect-failure does not mean a reset of the request", "retry_on: connect-failure")
            .replies([refused(), reply(ok("second"))])
            .get("/")
            .shows(["< 503", "log flags=UC", "log attempts=1"]),
        policy("connect-failure means a refused connect", "retry_on: connect-failure, num_retries: 2")
            .backend(Kind::Refuse)
            .get("/")
            .shows(["< 503", "log flags=URX,UF", "log attempts=3"]),
        policy("a retried request sends its body again", "retry_on: 5xx")
            .replies([unavailable(), reply(ok("second"))])
            .send(request("POST", "/").body("payload"))
            .both()
            .shows(["< body second", "> body payload", "> body payload"]),
        case("x-envoy-retry-on of an internal client asks for retries")
            .internal()
            .replies([unavailable(), reply(ok("second"))])
            .send(get("/").field("x-envoy-retry-on", "5xx").field("x-envoy-max-retries", "2"))
            .shows(["< body second", "log attempts=2"])
            .lacks(["> x-envoy-retry-on*", "> x-envoy-max-retries*"]),
        case("retry_policy of the virtual host stands in for the route's")
            .vhosts("
                - name: vhost
                  domains: [\"*\"]
                  retry_policy: { retry_on: 5xx, num_retries: 2 }
                  routes: [{ match: { prefix: / }, route: { cluster: @backend } }]")
            .reply(unavailable())
            .get("/")
            .shows(["log attempts=3"]),
        case("include_request_attempt_count counts for the upstream")
            .vhosts("
                - name: vhost
                  domains: [\"*\"]
                  include_request_attempt_count: true
                  include_attempt_count_in_response: true
                  retry_policy: { retry_on: 5xx }
                  routes: [{ match: { prefix: / }, route: { cluster: @backend } }]")
            .replies([unavailable(), reply(ok("second"))])
            .get("/")
            .shows(["> x-envoy-attempt-count: 1", "> x-envoy-attempt-count: 2", "< x-envoy-attempt-count: 2"]),
        policy("retriable_request_headers limit retries to such requests", "retry_on: 5xx, retriable_request_headers: [{ name: x-may, present_match: true }]")
            .replies([unavailable(), unavailable(), reply(ok("third"))])
            .get("/")
            .send(get("/").field("x-may", "1"))
            .shows(["< 503", "< 200"]),
        policy("a retry counts in the stats of the cluster", "retry_on: 5xx, num_retries: 1")
            .replies([unavailable(), reply(ok("second"))])
            .get("/")
            .stats(["cluster.@backend.upstream_rq_retry", "cluster.@backend.upstream_rq_retry_success"])
            .shows(["stat cluster.@backend.upstream_rq_retry: 1", "stat cluster.@backend.upstream_rq_retry_success: 1"]),
    ]
}

fn resets() -> Vec<Case> {
    vec![
        case("a refused connect is 503 with UF")
            .backend(Kind::Refuse)
            .get("/")
            .both()
            .shows([
                "< 503",
                "log flags=UF",
                "log details=upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}",
                "< body upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
            ]),
        case("a connect that hangs is 503 with UF after connect_timeout")
            .backend(Kind::Deaf)
            .get("/")
            .shows(["< 503", "log flags=UF", "log details=upstream_reset_before_response_started{connection_timeout}"]),
        case("an upstream that closes before the response is 503 with UC")
            .reply(acts([Act::Close]))
            .get("/")
            .both()
            .shows(["< 503", "log flags=UC", "log details=upstream_reset_before_response_started{connection_termination}"]),
        case("an upstream that resets before the response is 503 with UC")
            .reply(acts([Act::Reset]))
            .get("/")
            .shows(["< 503", "log flags=UC"]),
        case("an upstream that closes inside the head is 502")
            .reply(acts([send("HTTP/1.1 200 OK\r\ncontent-le"), Act::Close]))
            .get("/")
            .shows(["< 502", "log flags=UPE"]),
        case("an upstream that closes inside a body by length breaks the response")
            .reply(acts([send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"), pause(50), Act::Close]))
            .get("/")
            .both()
            .shows(["< 200", "< body ab", "log flags=UPE", "log details=upstream_reset_after_response_started{protocol_error}"]),
        case("an upstream that closes inside a chunked body breaks the response")
            .reply(acts([send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n"), pause(50), Act::Close]))
            .get("/")
            .shows(["< 200", "< body ab", "log flags=UPE", "= connection 0: closed"]),
        case("a chunk size of noise breaks the response")
            .deviates("what came before the break is sent")
            .reply(acts([send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\n"), pause(500)]))
            .get("/")
            .shows(["< 200", "log flags=UPE"]),
        case("a stale pooled connection does not fail the next request")
            .replies([acts([Act::Respond(ok("one")), pause(50), Act::Close]), reply(ok("two"))])
            .get("/1")
            .wait(250)
            .get("/2")
            .shows(["< body one", "< body two", "log attempts=1"]),
        case("a client that closes while the response streams is logged with DC")
            .reply(acts([send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"), pause(1500)]))
            .bytes("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .wait(200)
            .step(Step::Close)
            .logs(1)
            .shows(["log flags=DC", "log code=200", "log details=downstream_remote_disconnect*"]),
    ]
}

fn streaming() -> Vec<Case> {
    vec![
        case("a response before the request has ended is passed on")
            .replies([early([Act::Respond(ok("early"))])])
            .bytes("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab")
            .read()
            .shows(["< 200", "< body early"]),
        case("the body of the request streams before its end")
            .replies([early([
                Act::Read(0),
                pause(100),
                Act::Respond(Response {
                    chunked: true,
                    ..ok("x")
                }),
            ])])
            .bytes("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n")
            .wait(100)
            .bytes("2\r\ncd\r\n0\r\n\r\n")
            .read()
            .shows(["< 200"]),
        case("x-envoy-upstream-service-time is on responses of the upstream only")
            .replies([reply(ok("")), acts([Act::Close])])
            .get("/")
            .get("/")
            .shows([
                "< 200",
                "< 503",
                "< x-envoy-upstream-service-time: (volatile)",
            ]),
        case("an upstream that resets inside a body breaks the response")
            .reply(acts([
                send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"),
                pause(50),
                Act::Reset,
            ]))
            .get("/")
            .shows([
                "< 200",
                "log details=upstream_reset_after_response_started{protocol_error}",
            ]),
        case("HEAD is forwarded as HEAD")
            .send(request("HEAD", "/"))
            .reply(raw("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n"))
            .shows(["> connection 1: HEAD / HTTP/1.1", "< content-length: 500"]),
    ]
}

/// A route with a mirror policy, and the backend of the copies.
fn mirrored(title: &'static str, policy: &str) -> Case {
    let action = format!(
        "host_rewrite_literal: front\nrequest_mirror_policies: [{{ cluster: @shadow{policy} }}]"
    );
    case(title)
        .route(&action, "")
        .and_backend("shadow", Kind::Http1(vec![reply(ok("nobody sees this"))]))
        .any_order()
}

fn mirrors() -> Vec<Case> {
    vec![
        mirrored("a mirrored request goes to both clusters", "")
            .get("/")
            .wait(300)
            .shows(["< body hello", "> host: front", "> host: front-shadow", "> x-envoy-internal: true"]),
        case("a cluster may mirror its requests")
            .route("host_rewrite_literal: front", "")
            .and_backend("shadow", Kind::Http1(vec![reply(ok("nobody sees this"))]))
            .protocol_options("explicit_http_config: { http_protocol_options: {} }\nrequest_mirror_policies: [{ cluster: @shadow }]")
            .any_order()
            .get("/")
            .wait(300)
            .shows(["< body hello", "> host: front", "> host: front-shadow"]),
        case("the mirror policies of a cluster go before those of the route")
            .route("host_rewrite_literal: front\nrequest_mirror_policies: [{ cluster: @other }]", "")
            .and_backend("shadow", Kind::Http1(vec![reply(ok("nobody sees this"))]))
            .and_backend("other", Kind::Http1(vec![reply(ok("nobody asks for this"))]))
            .protocol_options("explicit_http_config: { http_protocol_options: {} }\nrequest_mirror_policies: [{ cluster: @shadow, host_rewrite_literal: of-cluster }]")
            .any_order()
            .get("/")
            .wait(300)
            .shows(["< body hello", "> host: of-cluster"])
            .lacks(["> host: front-shadow"]),
        mirrored("a mirrored request has the body of the request", "")
            .send(request("POST", "/").body("payload"))
            .wait(300)
            .shows(["< body hello", "> body payload", "> body payload"]),
        mirrored("the host of a mirrored request may stay as it is", ", disable_shadow_host_suffix_append: true")
            .get("/")
            .wait(300)
            .shows(["> host: front", "> host: front"])
            .lacks(["> host: front-shadow"]),
        mirrored(
            "a mirrored request may have another host and other fields",
            ", host_rewrite_literal: other, request_headers_mutations: [{ append: { header: { key: x-mirrored, value: '1' } } }]",
        )
        .get("/")
        .wait(300)
        .shows(["> host: front", "> host: other", "> x-mirrored: 1"]),
        mirrored("a fraction of nothing mirrors nothing", ", runtime_fraction: { default_value: { numerator: 0 } }")
            .get("/")
            .wait(300)
            .shows(["< 200", "> host: front"])
            .lacks(["> host: front-shadow"]),
    ]
}
