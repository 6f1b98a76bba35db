//! What happens to messages, and the replies of the proxy itself.

use crate::case::{
    Act, Case, Response, Step, With, acts, case, early, get, ok, pause, raw, reply, request, send,
    status, with_fields, with_trailers,
};

pub(super) fn server() -> Vec<Case> {
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

pub(super) fn messages() -> Vec<Case> {
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

pub(super) fn local_replies() -> Vec<Case> {
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
