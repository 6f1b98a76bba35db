//! HTTP/2 on either side, and what is special to it.

use crate::case::{
    Act, Case, Kind, Step, With, acts, case, early, get, late, ok, pause, reply, request, status,
    with_fields, with_trailers,
};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    [downstream(), upstream()].into_iter().flatten().collect()
}

fn downstream() -> Vec<Case> {
    vec![
        case("AUTO takes HTTP/2 by its preface").get("/x?y").http2().shows([
            "< 200",
            "log protocol=HTTP/2",
            "> connection 1: GET /x?y HTTP/1.1",
            "> host: example.com",
        ]),
        case("codec_type HTTP2 takes HTTP/2").hcm("codec_type: HTTP2").get("/").http2().shows(["< 200"]),
        case("codec_type HTTP2 closes on HTTP/1")
            .hcm("codec_type: HTTP2")
            .bytes("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .step(Step::ReadToEnd)
            .logs(0)
            .ends_somehow()
            .shows(["= connection 0: closed"])
            .lacks(["< 200"]),
        case("streams share an HTTP/2 connection")
            .get("/1")
            .get("/2")
            .http2()
            .shows(["= connection 0: open", "< 200", "< 200"]),
        case("request trailers of HTTP/2 pass to HTTP/2")
            .upstream_http2()
            .send(request("POST", "/").body("x").trailer("x-t", "1"))
            .http2()
            .shows(["> trailer x-t: 1", "> body x"]),
        case("response trailers of HTTP/2 pass to HTTP/2")
            .upstream_http2()
            .reply(reply(with_trailers(ok("y"), "x-r: 2")))
            .get("/")
            .http2()
            .shows(["< trailer x-r: 2", "< body y"]),
        case("a body of HTTP/2 without length is chunked for HTTP/1")
            .send(request("POST", "/").body("abc"))
            .http2()
            .shows(["> transfer-encoding: chunked", "> body abc"]),
        case("a body of HTTP/2 with length keeps it for HTTP/1")
            .send(request("POST", "/").field("content-length", "3").body("abc"))
            .http2()
            .shows(["> content-length: 3", "> body abc"])
            .lacks(["> transfer-encoding*"]),
        case("cookies of HTTP/2 are joined for HTTP/1")
            .send(get("/").field("cookie", "a=1").field("cookie", "b=2"))
            .http2()
            .shows(["> cookie: a=1; b=2"]),
        case("connection headers of HTTP/1 do not reach HTTP/2")
            .upstream_http2()
            .send(get("/").field("connection", "keep-alive").field("keep-alive", "5").field("proxy-connection", "x"))
            .shows(["> :method: GET"])
            .lacks(["> connection: *", "> keep-alive*", "> proxy-connection*"]),
        case("headers over the limit reset the stream over HTTP/2")
            .hcm("max_request_headers_kb: 1")
            .send(get("/").field("x-large", &"x".repeat(1500)))
            .http2()
            .shows(["< (broken: stream reset, INTERNAL_ERROR)", "log flags=DR", "log details=http2.header_list_size_too_large"]),
        case("more headers than the limit reset the stream over HTTP/2")
            .hcm("common_http_protocol_options: { max_headers_count: 10 }")
            .send((0..12).fold(get("/"), |request, number| request.field(&format!("x-{number}"), "1")))
            .http2()
            .shows(["< (broken: stream reset, INTERNAL_ERROR)", "log details=http2.too_many_headers"]),
        case("headers with underscores reset the stream under REJECT_REQUEST")
            .hcm("common_http_protocol_options: { headers_with_underscores_action: REJECT_REQUEST }")
            .send(get("/").field("a_b", "1"))
            .http2()
            .shows(["< no response", "log details=http2.unexpected_underscore"]),
        case("a response that breaks off resets the stream")
            .reply(acts([crate::case::send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"), pause(50), Act::Close]))
            .get("/")
            .get("/again")
            .http2()
            .shows(["< (broken: stream reset, INTERNAL_ERROR)", "= connection 0: open"]),
        case("max_requests_per_connection sends GOAWAY")
            .hcm("common_http_protocol_options: { max_requests_per_connection: 1 }\ndrain_timeout: 0.1s")
            .get("/")
            .step(Step::AwaitClose(Duration::from_secs(4)))
            .http2()
            .shows(["< 200", "= connection 0: closed"]),
        case("max_connection_duration sends GOAWAY")
            .hcm("common_http_protocol_options: { max_connection_duration: 0.3s }\ndrain_timeout: 0.1s")
            .get("/")
            .step(Step::AwaitClose(Duration::from_secs(4)))
            .http2()
            .shows(["= connection 0: closed"]),
        case("103 of the upstream reaches an HTTP/2 client")
            .hcm("proxy_100_continue: true")
            .replies([early([Act::Respond(with_fields(status(103, ""), "link: </a>")), pause(100), Act::Respond(ok("x"))])])
            .get("/")
            .http2()
            .shows(["< 103", "< link: </a>", "< 200", "< body x"]),
        case("te of HTTP/1 reaches HTTP/2 with trailers only")
            .upstream_http2()
            .send(get("/").field("te", "gzip, trailers"))
            .shows(["> te: trailers"]),
        case("a Host header beside :authority is dropped")
            .send(get("/").field("host", "other"))
            .http2()
            .shows(["> host: example.com"]),
    ]
}

fn upstream() -> Vec<Case> {
    vec![
        case("HTTP/1 goes to an HTTP/2 upstream").upstream_http2().get("/x?y").shows([
            "> :method: GET",
            "> :path: /x?y",
            "> :authority: example.com",
            "> :scheme: http",
            "< transfer-encoding: chunked",
            "< body hello",
        ]),
        case("requests share an HTTP/2 upstream connection")
            .upstream_http2()
            .get("/1")
            .on(1)
            .get("/2")
            .shows(["> connection 1: HTTP/2", "> connection 1: HTTP/2", "> :path: /2"]),
        case("an upstream that refuses the stream is 503 with UR")
            .upstream_http2()
            .reply(acts([Act::Reset]))
            .get("/")
            .both()
            .shows(["< 503", "log flags=UR", "log details=upstream_reset_before_response_started{remote_refused_stream_reset}"]),
        case("refused-stream is tried again")
            .upstream_http2()
            .route("retry_policy: { retry_on: refused-stream }", "")
            .replies([acts([Act::Reset]), reply(ok("second"))])
            .get("/")
            .shows(["< body second", "log attempts=2"]),
        case("an upstream that resets the stream inside the body breaks the response")
            .upstream_http2()
            .reply(acts([Act::Respond(ok("ab")), pause(50), Act::Reset]))
            .get("/")
            .both()
            .shows(["< 200", "< body ab", "log details=upstream_reset_after_response_started{remote_reset}", "log flags=UR"]),
        case("an HTTP/2 upstream that hangs up is 503 with UC")
            .upstream_http2()
            .reply(acts([Act::Close, pause(3000)]))
            .get("/")
            .shows(["< 503", "log flags=UC"]),
        case("a timeout resets the HTTP/2 upstream's stream and keeps its connection")
            .upstream_http2()
            .route("timeout: 0.3s", "")
            .replies([late(1500, "late"), reply(ok("second"))])
            .get("/1")
            .get("/2")
            .shows(["< 504", "< body second", "> connection 1: HTTP/2", "> connection 1: HTTP/2"]),
        case("an HTTP/2 upstream that speaks HTTP/1 is a protocol error")
            .upstream_http2()
            .backend(Kind::Tcp(vec![vec![Act::Read(24), crate::case::send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"), pause(500), Act::Close]]))
            .get("/")
            .shows(["< 502", "log flags=UPE"]),
        case("max_concurrent_streams of the cluster opens more connections")
            .protocol_options("explicit_http_config: { http2_protocol_options: { max_concurrent_streams: 1 } }")
            .backend(Kind::Http2(vec![late(400, "slow")]))
            .bytes("GET /1 HTTP/1.1\r\nhost: a\r\n\r\n")
            .wait(100)
            .on(1)
            .get("/2")
            .on(0)
            .read()
            .shows(["> connection 1: HTTP/2", "> connection 2: HTTP/2"]),
        case("use_downstream_protocol_config sends HTTP/2 upstream for an HTTP/2 client")
            .backend(Kind::Http2(vec![reply(ok("two"))]))
            .protocol_options("use_downstream_protocol_config: { http_protocol_options: {}, http2_protocol_options: {} }")
            .get("/")
            .http2()
            .shows(["< body two", "> connection 1: HTTP/2"]),
        case("an empty response of HTTP/2 ends with its headers")
            .upstream_http2()
            .reply(reply(status(204, "")))
            .get("/")
            .both()
            .shows(["< 204"])
            .lacks(["< body*"]),
        case("a large body passes between HTTP/2 and HTTP/2")
            .upstream_http2()
            .reply(reply(ok(&"gfedcba".repeat(60_000))))
            .send(request("POST", "/").body(&"abcdefg".repeat(60_000)))
            .http2()
            .shows(["log received=420000", "log sent=420000"]),
        case("HEAD over HTTP/2 has no body")
            .upstream_http2()
            .reply(reply(with_fields(status(200, ""), "content-length: 5")))
            .send(request("HEAD", "/"))
            .http2()
            .shows(["< content-length: 5", "< 200"])
            .lacks(["< body*"]),
        case("trailers of an HTTP/2 upstream are dropped for an HTTP/1 client")
            .upstream_http2()
            .reply(reply(with_trailers(ok("y"), "x-r: 2")))
            .get("/")
            .shows(["< body y"])
            .lacks(["< trailer*"]),
    ]
}
