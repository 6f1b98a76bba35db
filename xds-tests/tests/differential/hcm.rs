//! What the HTTP connection manager does to every request and response.

use crate::case::{
    Act, Case, Response, Step, With, acts, case, early, get, late, ok, pause, raw, reply, request,
    send, status, with_fields, with_trailers,
};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    [
        server(),
        addresses(),
        envoy_headers(),
        paths(),
        limits(),
        timeouts(),
        connections(),
        messages(),
        local_replies(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn server() -> Vec<Case> {
    let upstream = || reply(with_fields(ok(""), "server: theirs"));
    vec![
        case("the server header of the upstream is overwritten")
            .reply(upstream())
            .get("/")
            .both()
            .shows(["< server: envoy"])
            .lacks(["< server: theirs"]),
        case("APPEND_IF_ABSENT leaves the upstream's server header")
            .hcm("server_header_transformation: APPEND_IF_ABSENT")
            .replies([upstream(), reply(ok(""))])
            .get("/")
            .get("/")
            .shows(["< server: theirs", "< server: envoy"]),
        case("PASS_THROUGH adds no server header")
            .hcm("server_header_transformation: PASS_THROUGH")
            .replies([upstream(), reply(ok(""))])
            .get("/")
            .get("/")
            .shows(["< server: theirs", "< 200", "< 200"])
            .lacks(["< server: envoy"]),
        case("server_name names the server")
            .hcm("server_name: mine")
            .get("/")
            .shows(["< server: mine"]),
        case("via is appended on both ways")
            .hcm("via: proxy-1")
            .send(get("/").field("via", "1.1 other"))
            .reply(reply(with_fields(ok(""), "via: 1.1 theirs")))
            .both()
            .shows(["> via: 1.1 other, proxy-1", "< via: 1.1 theirs, proxy-1"]),
        case("the date of the upstream is kept")
            .reply(reply(with_fields(
                ok(""),
                "date: Sun, 06 Nov 1994 08:49:37 GMT\nx-date: kept",
            )))
            .log_format("%RESP(DATE)%", "")
            .get("/")
            .shows(["log Sun, 06 Nov 1994 08:49:37 GMT"]),
    ]
}

fn addresses() -> Vec<Case> {
    let forwarded = |value: &str| get("/").field("x-forwarded-for", value);
    vec![
        case("without use_remote_address x-forwarded-for is passed on and trusted")
            .send(forwarded("203.0.113.7"))
            .both()
            .shows([
                "> x-forwarded-for: 203.0.113.7",
                "log remote=203.0.113.7",
                "log direct=127.0.0.1",
            ]),
        case("use_remote_address appends the peer and trusts only it")
            .hcm("use_remote_address: true")
            .send(forwarded("203.0.113.7"))
            .get("/")
            .both()
            .shows([
                "> x-forwarded-for: 203.0.113.7,*",
                "log remote=127.0.0.1",
                "log remote=127.0.0.1",
            ]),
        case("skip_xff_append appends nothing")
            .hcm("use_remote_address: true\nskip_xff_append: true")
            .send(forwarded("203.0.113.7"))
            .shows(["> x-forwarded-for: 203.0.113.7", "log remote=127.0.0.1"]),
        case("xff_num_trusted_hops with use_remote_address counts from the right")
            .hcm("use_remote_address: true\nxff_num_trusted_hops: 1")
            .send(forwarded("203.0.113.9, 203.0.113.7"))
            .shows([
                "log remote=203.0.113.7",
                "> x-envoy-external-address: 203.0.113.7",
            ]),
        case("xff_num_trusted_hops without use_remote_address skips addresses")
            .hcm("xff_num_trusted_hops: 1")
            .send(forwarded("203.0.113.9, 203.0.113.7, 203.0.113.8"))
            .shows(["log remote=203.0.113.7"]),
        case("x-forwarded-for that is no address leaves the peer's")
            .send(forwarded("unknown"))
            .shows(["log remote=127.0.0.1", "> x-forwarded-for: unknown"]),
        case("an external client's x-envoy headers are taken away")
            .external()
            .send(
                get("/")
                    .field("x-envoy-upstream-rq-timeout-ms", "100")
                    .field("x-envoy-retry-on", "5xx")
                    .field("x-envoy-max-retries", "3")
                    .field("x-envoy-internal", "true")
                    .field("x-envoy-decorator-operation", "op"),
            )
            .shows([
                "> x-envoy-external-address: 127.0.0.1",
                "> x-envoy-expected-rq-timeout-ms: 15000",
            ])
            .lacks([
                "> x-envoy-retry-on*",
                "> x-envoy-internal*",
                "> x-envoy-max-retries*",
            ]),
        case("an internal client is marked with x-envoy-internal")
            .internal()
            .send(get("/").field("x-envoy-upstream-rq-timeout-ms", "100"))
            .shows([
                "> x-envoy-internal: true",
                "> x-envoy-expected-rq-timeout-ms: 100",
            ])
            .lacks([
                "> x-envoy-external-address*",
                "> x-envoy-upstream-rq-timeout-ms*",
            ]),
        case("internal_only_headers of an external client are removed")
            .external()
            .route_config("internal_only_headers: [x-inner]")
            .send(get("/").field("x-inner", "1"))
            .shows(["< 200"])
            .lacks(["> x-inner*"]),
        case("x-forwarded-client-cert is stripped without TLS")
            .send(get("/").field("x-forwarded-client-cert", "By=a"))
            .shows(["< 200"])
            .lacks(["> x-forwarded-client-cert*"]),
    ]
}

fn envoy_headers() -> Vec<Case> {
    vec![
        case("x-forwarded-proto is set from the connection")
            .get("/")
            .both()
            .shows(["> x-forwarded-proto: http"]),
        case("x-forwarded-proto of an untrusted client is overwritten")
            .hcm("use_remote_address: true")
            .send(get("/").field("x-forwarded-proto", "https"))
            .shows(["> x-forwarded-proto: http"]),
        case("scheme_header_transformation overwrites the scheme")
            .hcm("scheme_header_transformation: { scheme_to_overwrite: https }")
            .upstream_http2()
            .get("/")
            .both()
            .shows(["> :scheme: https", "> x-forwarded-proto: https"]),
        case("match_upstream gives the request the scheme of the connection to the upstream")
            .hcm("scheme_header_transformation: { match_upstream: true }")
            .upstream_http2()
            .send(get("/").field("x-forwarded-proto", "https"))
            .both()
            .shows(["> :scheme: http", "> x-forwarded-proto: https"]),
        case("a request id is made")
            .get("/")
            .shows(["> x-request-id: (uuid)"])
            .lacks(["< x-request-id*"]),
        case("a request id of an internal client is kept")
            .send(get("/").field("x-request-id", "my-own-id"))
            .shows(["> x-request-id: my-own-id"]),
        case("a request id of an edge client is replaced")
            .external()
            .send(get("/").field("x-request-id", "my-own-id"))
            .shows(["> x-request-id: (uuid)"]),
        case("preserve_external_request_id keeps the id of an edge client")
            .external()
            .hcm("preserve_external_request_id: true")
            .send(get("/").field("x-request-id", "my-own-id"))
            .shows(["> x-request-id: my-own-id"]),
        case("generate_request_id false makes no id")
            .hcm("generate_request_id: false")
            .get("/")
            .shows(["< 200"])
            .lacks(["> x-request-id*"]),
        case("always_set_request_id_in_response gives the id back")
            .hcm("always_set_request_id_in_response: true")
            .send(get("/").field("x-request-id", "my-own-id"))
            .shows(["< x-request-id: my-own-id"]),
        case("add_user_agent names the service cluster")
            .hcm("add_user_agent: true")
            .get("/")
            .shows([
                "> user-agent: stories",
                "> x-envoy-downstream-service-cluster: stories",
            ]),
        case("append_x_forwarded_port names the port of the listener")
            .hcm("append_x_forwarded_port: true")
            .get("/")
            .shows(["> x-forwarded-port: @port"]),
        case("x-envoy-upstream-service-time of the upstream is overwritten")
            .reply(reply(with_fields(
                ok(""),
                "x-envoy-upstream-service-time: 99999999",
            )))
            .get("/")
            .shows(["< x-envoy-upstream-service-time: (volatile)"])
            .lacks(["< x-envoy-upstream-service-time: 99999999"]),
    ]
}

fn paths() -> Vec<Case> {
    let slashes = |title, action: &str| {
        case(title)
            .hcm(&format!("path_with_escaped_slashes_action: {action}\nnormalize_path: true\nmerge_slashes: true"))
            .get("/a%2Fb%5cc")
    };
    vec![
        case("without normalize_path the path is passed on as it is")
            .get("/a/../b//c/%7e/.")
            .both()
            .shows(["> connection 1: GET /a/../b//c/%7e/. HTTP/1.1"]),
        case("normalize_path resolves dots and decodes unreserved octets")
            .hcm("normalize_path: true")
            .get("/a/./x/../b/%7Euser/%2e%2e/z?q=/../")
            .both()
            .shows(["> connection 1: GET /a/b/z?q=/../ HTTP/1.1"])
            .lacks(["> x-envoy-original-path*"]),
        case("decoding a path makes no new escapes")
            .hcm("normalize_path: true")
            .raw("GET /a/%%32e%%32e/%2%35%36 HTTP/1.1\r\nhost: a\r\n\r\n")
            .shows(["> connection 1: GET /a/%252e%252e/%25256 HTTP/1.1"]),
        case("normalize_path turns backslashes")
            .hcm("normalize_path: true")
            .raw("GET /a\\b\\..\\c HTTP/1.1\r\nhost: a\r\n\r\n")
            .shows(["> connection 1: GET /a/c HTTP/1.1"]),
        case("normalize_path never climbs above the root")
            .hcm("normalize_path: true")
            .get("/../../a")
            .shows(["> connection 1: GET /a HTTP/1.1"]),
        case("merge_slashes merges slashes in the path and not in the query")
            .hcm("merge_slashes: true")
            .get("//a///b//?x=//")
            .both()
            .shows(["> connection 1: GET /a/b/?x=// HTTP/1.1"]),
        slashes("KEEP_UNCHANGED keeps escaped slashes", "KEEP_UNCHANGED")
            .shows(["> connection 1: GET /a%2Fb%5cc HTTP/1.1"]),
        slashes(
            "REJECT_REQUEST answers escaped slashes with 400",
            "REJECT_REQUEST",
        )
        .shows(["< 400", "log details=path_normalization_failed"]),
        slashes(
            "UNESCAPE_AND_REDIRECT redirects to the clean path",
            "UNESCAPE_AND_REDIRECT",
        )
        .shows([
            "< 307",
            "< location: /a/b/c",
            "log details=path_normalization_failed",
        ])
        .lacks(["> connection*"]),
        slashes(
            "UNESCAPE_AND_FORWARD forwards the clean path",
            "UNESCAPE_AND_FORWARD",
        )
        .shows(["> connection 1: GET /a/b/c HTTP/1.1"]),
        case("a path with a fragment is refused")
            .raw("GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n")
            .shows(["< 400", "log details=path_normalization_failed"]),
        case("strip_any_host_port takes the port from the host")
            .hcm("strip_any_host_port: true")
            .send(get("/").host("example.com:8080"))
            .both()
            .shows(["> host: example.com"]),
        case("strip_matching_host_port leaves another port")
            .hcm("strip_matching_host_port: true")
            .send(get("/").host("example.com:1"))
            .shows(["> host: example.com:1"]),
        case("strip_trailing_host_dot takes the dot from the host")
            .hcm("strip_trailing_host_dot: true")
            .send(get("/").host("example.com."))
            .shows(["> host: example.com"]),
    ]
}

fn limits() -> Vec<Case> {
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

fn timeouts() -> Vec<Case> {
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

fn connections() -> Vec<Case> {
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

fn messages() -> Vec<Case> {
    let websocket =
        "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    let switching =
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    vec![
        case("a body by length is passed both ways")
            .send(request("POST", "/").body("ping"))
            .reply(reply(ok("pong")))
            .both()
            .shows(["> body ping", "< body pong", "log received=4", "log sent=4"]),
        case("a chunked body is passed both ways")
            .send(request("POST", "/").body("ping").chunked())
            .reply(reply(Response { chunked: true, ..ok("pong") }))
            .shows(["> transfer-encoding: chunked", "> body ping", "< transfer-encoding: chunked", "< body pong"]),
        case("a large body streams through")
            .send(request("POST", "/").body(&"abcdefg".repeat(100_000)))
            .reply(reply(ok(&"gfedcba".repeat(100_000))))
            .both()
            .shows(["log received=700000", "log sent=700000", "< 200"]),
        case("request trailers over HTTP/1 are dropped by default")
            .send(request("POST", "/").body("x").trailer("x-t", "1"))
            .shows(["> body x"])
            .lacks(["> trailer*"]),
        case("enable_trailers passes request trailers on")
            .hcm("http_protocol_options: { enable_trailers: true }")
            .protocol_options("explicit_http_config: { http_protocol_options: { enable_trailers: true } }")
            .send(request("POST", "/").body("x").trailer("x-t", "1"))
            .reply(reply(with_trailers(ok("y"), "x-r: 2")))
            .shows(["> trailer x-t: 1", "< trailer x-r: 2"]),
        case("response trailers over HTTP/1 are dropped by default")
            .reply(reply(with_trailers(ok("y"), "x-r: 2")))
            .get("/")
            .shows(["< body y"])
            .lacks(["< trailer*"]),
        case("a response to HEAD keeps its length and has no body")
            .send(request("HEAD", "/"))
            .get("/")
            .both()
            .shows(["< content-length: 5", "log sent=0", "= connection 0: open"]),
        case("204 has no body and no length")
            .reply(reply(status(204, "")))
            .get("/")
            .both()
            .shows(["< 204", "= connection 0: open"])
            .lacks(["< content-length*", "< transfer-encoding*"]),
        case("304 keeps the length it declares")
            .reply(raw("HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\netag: x\r\n\r\n"))
            .get("/")
            .shows(["< 304", "< content-length: 10", "= connection 0: open"]),
        case("a response until close is chunked for the client")
            .reply(acts([send("HTTP/1.1 200 OK\r\n\r\nhello"), Act::Close]))
            .get("/")
            .shows(["< transfer-encoding: chunked", "< body hello", "= connection 0: open"]),
        case("Expect 100-continue is answered by the proxy")
            .bytes("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
            .wait(200)
            .bytes("hi")
            .read()
            .shows(["< 100", "< 200", "> body hi"])
            .lacks(["> expect*"]),
        case("proxy_100_continue leaves the answer to the upstream")
            .hcm("proxy_100_continue: true")
            .replies([early([send("HTTP/1.1 100 Continue\r\nx-mine: 1\r\n\r\n"), pause(300), Act::Respond(ok("done"))])])
            .bytes("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
            .wait(150)
            .bytes("hi")
            .read()
            .shows(["< 100", "< 200", "> expect: 100-continue"]),
        case("103 early hints are passed on")
            .hcm("proxy_100_continue: true")
            .reply(raw("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"))
            .get("/")
            .shows(["< 103", "< link: </a>", "< 200", "< body ok"]),
        case("a websocket upgrade joins both connections")
            .hcm("upgrade_configs: [{ upgrade_type: websocket }]")
            .reply(acts([send(switching), Act::Read(4), send("pong"), Act::Close]))
            .raw(websocket)
            .bytes("ping")
            .step(Step::ReadToEnd)
            .shows(["< 101", "< bytes pong", "> upgrade: websocket", "> body ping", "log code=101"]),
        case("an upgrade without upgrade_configs is 403")
            .raw(websocket)
            .shows(["< 403", "log details=upgrade_failed"])
            .lacks(["> connection*"]),
        case("an upgrade that the upstream declines is an ordinary response")
            .hcm("upgrade_configs: [{ upgrade_type: websocket }]")
            .reply(reply(status(400, "no")))
            .raw(websocket)
            .shows(["< 400", "< body no"]),
        case("upgrade_configs of the route can forbid an upgrade")
            .hcm("upgrade_configs: [{ upgrade_type: websocket }]")
            .route("upgrade_configs: [{ upgrade_type: websocket, enabled: false }]", "")
            .raw(websocket)
            .shows(["< 403"]),
        case("an unknown method is passed on")
            .raw("PURGE / HTTP/1.1\r\nhost: a\r\n\r\n")
            .shows(["< 200", "> connection 1: PURGE / HTTP/1.1"]),
        case("CONNECT without a matching route is 404")
            .raw("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n")
            .shows(["< 404", "log details=route_not_found"]),
        case("an absolute URL gives host and path")
            .raw("GET http://other.example/x?y HTTP/1.1\r\nhost: a\r\n\r\n")
            .shows(["> connection 1: GET /x?y HTTP/1.1", "> host: other.example"]),
        case("a body of a request that was answered early closes the connection")
            .routes("
                - match: { prefix: / }
                  @say(early)")
            .send(request("POST", "/").body("x"))
            .shows(["< body early", "< connection: close"]),
    ]
}

fn local_replies() -> Vec<Case> {
    let nothing = "
        - match: { path: /a }
          @say(a)";
    vec![
        case("body_format formats the body of local replies")
            .hcm("
                local_reply_config:
                  body_format: { text_format_source: { inline_string: \"%LOCAL_REPLY_BODY%:%RESPONSE_CODE%:%REQ(:path)%\" } }")
            .routes(nothing)
            .get("/x")
            .both()
            .shows(["< 404", "< body :404:/x", "< content-type: text/plain"]),
        case("body_format in JSON sets the content type")
            .hcm("
                local_reply_config:
                  body_format: { json_format: { code: \"%RESPONSE_CODE%\", details: \"%RESPONSE_CODE_DETAILS%\" } }")
            .routes(nothing)
            .get("/x")
            .shows(["< content-type: application/json", "< body {\"code\":404,\"details\":\"route_not_found\"}\\n"]),
        case("a mapper changes status, body and headers of the reply that its filter takes")
            .hcm("
                local_reply_config:
                  mappers:
                  - filter: { status_code_filter: { comparison: { op: EQ, value: { default_value: 404, runtime_key: k } } } }
                    status_code: 418
                    body: { inline_string: \"not here\" }
                    headers_to_add: [{ header: { key: x-mapped, value: \"1\" } }]")
            .routes(nothing)
            .get("/x")
            .both()
            .shows(["< 418", "< body not here", "< x-mapped: 1", "log code=418"]),
        case("a mapper can filter by response flag")
            .hcm("
                local_reply_config:
                  mappers:
                  - filter: { response_flag_filter: { flags: [UF] } }
                    status_code: 502")
            .backend(crate::case::Kind::Refuse)
            .get("/x")
            .shows(["< 502", "log flags=UF"]),
        case("responses of the upstream are not mapped")
            .hcm("
                local_reply_config:
                  mappers:
                  - filter: { status_code_filter: { comparison: { op: EQ, value: { default_value: 404, runtime_key: k } } } }
                    status_code: 418")
            .reply(reply(status(404, "theirs")))
            .get("/x")
            .shows(["< 404", "< body theirs"]),
    ]
}
