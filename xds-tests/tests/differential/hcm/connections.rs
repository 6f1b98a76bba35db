//! Limits, timeouts and connections.

use std::time::Duration;

use crate::case::{
    Act, Case, Response, Step, With, acts, case, get, late, ok, pause, raw, reply, send,
    with_fields,
};

pub(super) fn limits() -> Vec<Case> {
    let large = "x".repeat(70_000);
    let medium = "x".repeat(1500);
    vec![
        case("headers over 60 KiB are 431")
            .raw(&format!(
                "GET / HTTP/1.1\r\nhost: a\r\nx-large: {large}\r\n\r\n"
            ))
            .shows([
                "< 431",
                "< connection: close",
                "log code=431",
                "log flags=DPE",
            ]),
        case("max_request_headers_kb lowers the limit")
            .hcm("max_request_headers_kb: 1")
            .raw(&format!(
                "GET / HTTP/1.1\r\nhost: a\r\nx-large: {medium}\r\n\r\n"
            ))
            .shows(["< 431"]),
        case("more than 100 request headers are 431")
            .raw(&format!(
                "GET / HTTP/1.1\r\nhost: a\r\n{}\r\n",
                "x-many: 1\r\n".repeat(101)
            ))
            .shows(["< 431", "log details=http1.too_many_headers"]),
        case("max_headers_count raises the limit")
            .hcm("common_http_protocol_options: { max_headers_count: 200 }")
            .raw(&format!(
                "GET / HTTP/1.1\r\nhost: a\r\n{}\r\n",
                "x-many: 1\r\n".repeat(101)
            ))
            .shows(["< 200"]),
        case("more than 100 response headers are a bad upstream response")
            .reply(raw(&format!(
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{}\r\n",
                "x-many: 1\r\n".repeat(101)
            )))
            .get("/")
            .shows(["< 502", "log flags=UPE"]),
        case("headers with underscores are allowed by default")
            .send(get("/").field("a_b", "1"))
            .both()
            .shows(["> a_b: 1"]),
        case("REJECT_REQUEST refuses headers with underscores")
            .hcm(
                "common_http_protocol_options: { headers_with_underscores_action: REJECT_REQUEST }",
            )
            .send(get("/").field("a_b", "1"))
            .shows(["< 400", "log details=http1.unexpected_underscore"]),
        case("DROP_HEADER drops headers with underscores")
            .hcm("common_http_protocol_options: { headers_with_underscores_action: DROP_HEADER }")
            .send(get("/").field("a_b", "1").field("ab", "2"))
            .both()
            .shows(["> ab: 2"])
            .lacks(["> a_b*"]),
    ]
}

pub(super) fn timeouts() -> Vec<Case> {
    let closing = || Step::AwaitClose(Duration::from_secs(4));
    vec![
        case("request_timeout ends a request that does not come with 408")
            .hcm("request_timeout: 0.3s")
            .raw("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab")
            .shows(["< 408", "< body request timeout", "log details=request_overall_timeout", "log flags=-"]),
        case("request_timeout ends slow headers with its own 408")
            .hcm("request_timeout: 0.3s\nrequest_headers_timeout: 2s")
            .raw("GET / HTTP/1.1\r\nhost: a\r\nx-slow")
            .shows(["< 408", "< body request timeout", "log details=request_overall_timeout"]),
        case("stream_idle_timeout ends slow headers with 408")
            .hcm("stream_idle_timeout: 0.3s")
            .raw("GET / HTTP/1.1\r\nhost: a\r\nx-slow")
            .shows(["< 408", "log flags=SI", "log details=stream_idle_timeout"]),
        case("max_stream_duration ends slow headers with 408")
            .hcm("common_http_protocol_options: { max_stream_duration: 0.3s }")
            .raw("GET / HTTP/1.1\r\nhost: a\r\nx-slow")
            .shows(["< 408", "log details=max_duration_timeout"]),
        case("a second request has its own time for its head")
            .hcm("request_headers_timeout: 0.4s")
            .get("/")
            .wait(600)
            .raw("GET / HTTP/1.1\r\nhost: a\r\nx-slow")
            .shows(["< 200", "< 408", "log details=request_header_timeout"]),
        case("request_headers_timeout ends slow headers with 408")
            .hcm("request_headers_timeout: 0.3s")
            .raw("GET / HTTP/1.1\r\nhost: a\r\nx-slow")
            .shows(["< 408", "log details=request_header_timeout"]),
        case("stream_idle_timeout while the upstream thinks is 504")
            .hcm("stream_idle_timeout: 0.3s")
            .reply(late(3000, "late"))
            .get("/")
            .both()
            .shows(["< 504", "< body stream timeout", "log flags=SI", "log details=stream_idle_timeout"]),
        case("stream_idle_timeout while the client sends its body is 408")
            .hcm("stream_idle_timeout: 0.3s")
            .raw("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab")
            .shows(["< 408", "log flags=SI", "log details=stream_idle_timeout"]),
        case("stream_idle_timeout after the response began resets it")
            .hcm("stream_idle_timeout: 0.3s")
            .reply(acts([send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"), pause(3000)]))
            .get("/")
            .shows(["< 200", "< body ab", "log flags=SI", "< (broken: closed)"]),
        case("a route's idle_timeout replaces the one of the connection manager")
            .hcm("stream_idle_timeout: 10s")
            .route("idle_timeout: 0.3s", "")
            .reply(late(3000, "late"))
            .get("/")
            .shows(["< 504", "log details=stream_idle_timeout"]),
        case("max_stream_duration ends a stream with 504")
            .hcm("common_http_protocol_options: { max_stream_duration: 0.3s }")
            .reply(late(3000, "late"))
            .get("/")
            .both()
            .shows(["< 504", "log details=max_duration_timeout", "log flags=-"]),
        case("idle_timeout closes an idle connection")
            .hcm("common_http_protocol_options: { idle_timeout: 0.3s }\ndrain_timeout: 0.1s")
            .get("/")
            .step(closing())
            .both()
            .shows(["< 200", "= connection 0: closed"]),
        case("max_connection_duration closes a connection after its time")
            .hcm("common_http_protocol_options: { max_connection_duration: 0.3s }\ndrain_timeout: 0.1s")
            .get("/")
            .step(closing())
            .shows(["< 200", "= connection 0: closed"]),
    ]
}

pub(super) fn connections() -> Vec<Case> {
    vec![
        case("Connection close of the client is honoured")
            .send(get("/").field("connection", "close"))
            .shows(["< connection: close", "= connection 0: closed"])
            .lacks(["> connection: close"]),
        case("a connection is kept for the next request")
            .get("/1")
            .get("/2")
            .both()
            .shows(["= connection 0: open", "> connection 1: GET /1 HTTP/1.1", "> connection 1: GET /2 HTTP/1.1"]),
        case("Connection close of the upstream ends only its connection")
            .reply(acts([Act::Respond(with_fields(ok("x"), "connection: close")), Act::Close]))
            .get("/1")
            .get("/2")
            .shows(["= connection 0: open", "> connection 1: GET /1 HTTP/1.1", "> connection 2: GET /2 HTTP/1.1"])
            .lacks(["< connection: close"]),
        case("max_requests_per_connection closes after its number")
            .hcm("common_http_protocol_options: { max_requests_per_connection: 2 }")
            .get("/1")
            .get("/2")
            .shows(["< 200", "< 200", "< connection: close", "= connection 0: closed"]),
        case("headers named by Connection are not passed on")
            .send(get("/").field("connection", "x-hop").field("x-hop", "1").field("te", "trailers").field("keep-alive", "5"))
            .shows(["< 200", "> te: trailers"])
            .lacks(["> connection: *", "> x-hop*", "> keep-alive*"]),
        case("pipelined requests are answered in order")
            .replies([late(200, "slow"), reply(ok("fast"))])
            .bytes("GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n")
            .read()
            .read()
            .in_order()
            .shows(["< body slow", "< body fast", "= connection 0: open"]),
        case("HTTP/1.0 is refused with 426")
            .raw("GET / HTTP/1.0\r\nhost: a\r\n\r\n")
            .shows(["< 426", "< connection: close", "= connection 0: closed", "log code=426", "log details=low_version"]),
        case("accept_http_10 serves HTTP/1.0 and closes")
            .hcm("http_protocol_options: { accept_http_10: true }")
            .raw("GET / HTTP/1.0\r\nhost: a\r\n\r\n")
            .shows(["< 200", "= connection 0: closed", "log protocol=HTTP/1.0", "> connection 1: GET / HTTP/1.1"]),
        case("default_host_for_http_10 stands in for a missing host")
            .hcm("http_protocol_options: { accept_http_10: true, default_host_for_http_10: stand.in }")
            .raw("GET / HTTP/1.0\r\n\r\n")
            .shows(["< 200", "> host: stand.in"]),
        case("HTTP/1.0 with keep-alive keeps the connection")
            .hcm("http_protocol_options: { accept_http_10: true }")
            .raw("GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n")
            .shows(["< 200", "< connection: keep-alive", "= connection 0: open"]),
        case("a chunked response to HTTP/1.0 is sent until close")
            .hcm("http_protocol_options: { accept_http_10: true }")
            .reply(reply(Response { chunked: true, ..ok("hello") }))
            .raw("GET / HTTP/1.0\r\nhost: a\r\n\r\n")
            .shows(["< body hello", "= connection 0: closed"])
            .lacks(["< transfer-encoding*"]),
        case("header_key_format proper_case_words capitalises the response")
            .hcm("http_protocol_options: { header_key_format: { proper_case_words: {} } }")
            .get("/")
            .shows(["< Server: envoy", "< Content-Length: 5"]),
    ]
}
