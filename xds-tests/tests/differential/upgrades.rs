//! Upgrades, CONNECT and tunnels, between all protocols.

use crate::case::{
    Act, Case, Kind, Request, Step, With, acts, case, early, ok, pause, raw, reply, request, send,
    status, with_fields,
};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    [
        upgrades(),
        over_http2(),
        connect(),
        terminated(),
        tunnelling(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
const WEBSOCKET: &str =
    "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
const OTHER: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n";
const CONNECT: &str = "CONNECT b:80 HTTP/1.1\r\nhost: b:80\r\n\r\n";
const TUNNEL: &str = "HTTP/1.1 200 OK\r\n\r\n";

fn both(title: &'static str) -> Case {
    case(title).hcm("upgrade_configs: [{ upgrade_type: websocket }, { upgrade_type: other }]")
}

fn upgrades() -> Vec<Case> {
    let granting = || reply_raw(SWITCHING);
    vec![
        both("bytes behind an upgrade wait until it is granted")
            .reply(acts([pause(200), send(SWITCHING), Act::Read(5), send("pong"), Act::Close]))
            .bytes(WEBSOCKET)
            .bytes("early")
            .read()
            .step(Step::ReadToEnd)
            .shows(["< 101", "> body early", "< bytes pong"]),
        both("bytes behind an upgrade that is refused never reach the upstream")
            .reply(reply(status(400, "no")))
            .raw(&format!("{OTHER}GET /evil HTTP/1.1\r\nhost: b\r\n\r\n"))
            .shows(["< 400", "< body no", "< connection: close"])
            .lacks(["> body*", "> connection 1: GET /evil*"]),
        both("a WebSocket handshake that is neither granted nor refused fails")
            .reply(reply(with_fields(status(200, "page"), "x-a: 1")))
            .raw(WEBSOCKET)
            .shows(["< 200", "< x-a: 1", "< content-length: 0", "log details=websocket_handshake_unsuccessful"])
            .lacks(["< body*"]),
        both("another upgrade that is ignored is an ordinary response")
            .reply(reply(status(200, "page")))
            .raw(OTHER)
            .shows(["< 200", "< body page", "log details=via_upstream"]),
        both("101 without the fields of an upgrade grants nothing")
            .reply(raw("HTTP/1.1 101 Switching Protocols\r\n\r\n"))
            .raw(WEBSOCKET)
            .step(Step::AwaitClose(Duration::from_secs(4)))
            .shows(["< 101", "< connection: close", "log code=101", "log flags=-"]),
        both("an upgrade without a route is 404")
            .routes("
                - match: { prefix: /a }
                  route: { cluster: @backend }")
            .raw(WEBSOCKET)
            .shows(["< 404", "log flags=NR", "log details=route_not_found"]),
        both("an upgrade on a route that answers itself is answered")
            .routes("
                - match: { prefix: / }
                  @say(here)")
            .raw(WEBSOCKET)
            .shows(["< 200", "< body here"]),
        case("an upgrade may have filters of its own")
            .hcm("
                upgrade_configs:
                - upgrade_type: websocket
                  filters:
                  - name: mutate
                    typed_config:
                      \"@type\": \"@http/header_mutation.v3.HeaderMutation\"
                      mutations: { request_mutations: [{ append: { header: { key: x-chain, value: upgrade } } }] }
                  - name: router
                    typed_config: { \"@type\": \"@http/router.v3.Router\" }")
            .replies([reply(ok("plain")), reply(status(400, "no"))])
            .get("/")
            .raw(WEBSOCKET)
            .shows(["< body plain", "< 400", "> x-chain: upgrade"]),
        case("a route may allow an upgrade that the connection manager does not know")
            .route("upgrade_configs: [{ upgrade_type: websocket }]", "")
            .reply(granting())
            .raw(WEBSOCKET)
            .shows(["< 101", "> upgrade: websocket"]),
        case("a route may allow an upgrade that is disabled in the connection manager")
            .hcm("upgrade_configs: [{ upgrade_type: websocket, enabled: false }]")
            .route("upgrade_configs: [{ upgrade_type: websocket }]", "")
            .reply(granting())
            .raw(WEBSOCKET)
            .shows(["< 101"]),
        case("ignore_http_11_upgrade makes an upgrade an ordinary request")
            .hcm("
                http_protocol_options: { ignore_http_11_upgrade: [{ exact: websocket }] }
                upgrade_configs: [{ upgrade_type: websocket }]")
            .raw(WEBSOCKET)
            .shows(["< 200", "< body hello", "= connection 0: open"])
            .lacks(["> upgrade*", "> connection: *"]),
        both("ignore_http_11_upgrade leaves the other protocols of a list")
            .hcm("http_protocol_options: { ignore_http_11_upgrade: [{ prefix: h }] }")
            .reply(reply(status(400, "no")))
            .raw("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: hello, other\r\n\r\n")
            .shows(["> upgrade: other", "< 400"]),
        case("an upgrade to h2c is an ordinary request")
            .raw("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAM\r\n\r\n")
            .shows(["< 200", "= connection 0: open"])
            .lacks(["> upgrade*", "> http2-settings*", "> connection: *"]),
        both("the timeout of a route does not end what was upgraded")
            .route("timeout: 0.3s", "")
            .reply(acts([send(SWITCHING), pause(700), send("late"), Act::Close]))
            .raw(WEBSOCKET)
            .step(Step::ReadToEnd)
            .shows(["< 101", "< bytes late"]),
        both("stream_idle_timeout ends what was upgraded")
            .hcm("stream_idle_timeout: 0.3s")
            .reply(acts([send(SWITCHING), pause(2000)]))
            .raw(WEBSOCKET)
            .step(Step::ReadToEnd)
            .shows(["< 101", "log details=stream_idle_timeout"]),
        both("flush_log_on_tunnel_successfully_established logs the upgrade")
            .hcm("access_log_options: { flush_log_on_tunnel_successfully_established: true }")
            .log_format("%ACCESS_LOG_TYPE% %RESPONSE_CODE%", "")
            .reply(acts([send(SWITCHING), pause(100), Act::Close]))
            .raw(WEBSOCKET)
            .step(Step::ReadToEnd)
            .logs(2)
            .shows(["log DownstreamTunnelSuccessfullyEstablished 101", "log DownstreamEnd 101"]),
    ]
}

/// A backend that answers with these bytes and then listens.
fn reply_raw(bytes: &str) -> crate::case::Script {
    acts([send(bytes), pause(300)])
}

/// An extended CONNECT.
fn extended(protocol: &str) -> Request {
    request("CONNECT", "/chat").field(":protocol", protocol)
}

const ALLOW: &str = "http2_protocol_options: { allow_connect: true }";

fn over_http2() -> Vec<Case> {
    let h2 = |title| both(title).hcm(ALLOW).http2();
    vec![
        h2("a WebSocket over HTTP/2 reaches an HTTP/1 upstream")
            .reply(acts([
                send(SWITCHING),
                Act::Read(4),
                send("pong"),
                pause(150),
                Act::Close,
            ]))
            .send(extended("websocket").body("ping"))
            .ends_somehow()
            .shows([
                "> connection 1: GET /chat HTTP/1.1",
                "> upgrade: websocket",
                "> connection: upgrade",
                "> body ping",
                "< 200",
                "log code=101",
            ])
            .lacks(["< upgrade*"]),
        h2("a WebSocket over HTTP/2 reaches an HTTP/2 upstream")
            .upstream_http2()
            .reply(early([Act::Respond(ok("pong")), pause(100)]))
            .send(extended("websocket").body("ping"))
            .shows([
                "> :method: CONNECT",
                "> :protocol: websocket",
                "> :path: /chat",
                "> body ping",
                "< 200",
                "< body pong",
                "log code=101",
            ]),
        both("a WebSocket over HTTP/1 reaches an HTTP/2 upstream")
            .deviates("an upstream stream that is left is reset with CANCEL")
            .upstream_http2()
            .reply(early([Act::Respond(ok("pong")), pause(1000)]))
            .raw(WEBSOCKET)
            .step(Step::ReadBytes(4))
            .step(Step::Close)
            .shows([
                "< 101",
                "< upgrade: websocket",
                "< connection: upgrade",
                "< bytes pong",
                "> :protocol: websocket",
            ])
            .lacks(["> upgrade*"]),
        h2("an HTTP/2 upstream may refuse a WebSocket")
            .upstream_http2()
            .reply(early([Act::Respond(status(403, "no"))]))
            .send(extended("websocket"))
            .shows(["< 403", "< body no", "log code=403"]),
        h2("an HTTP/1 upstream may refuse a WebSocket over HTTP/2")
            .reply(reply(status(403, "no")))
            .send(extended("websocket"))
            .shows(["< 403", "< body no"]),
        case("a WebSocket over HTTP/2 that is not configured is 403")
            .deviates("the connection outlives a refused upgrade")
            .hcm(ALLOW)
            .http2()
            .send(extended("websocket"))
            .shows(["< 403", "log details=upgrade_failed"])
            .lacks(["> *"]),
        h2("connect-udp is no upgrade that anybody takes")
            .deviates("the connection outlives a refused upgrade")
            .send(
                request("CONNECT", "/.well-known/masque/udp/b/80/")
                    .field(":protocol", "connect-udp"),
            )
            .shows(["< 403", "log details=upgrade_failed"]),
        h2("connect-udp with another path is refused")
            .send(extended("connect-udp"))
            .shows([
                "< 404",
                "log details=invalid_path",
                "< body The path is incorrect for CONNECT-UDP",
            ]),
        connecting("CONNECT over HTTP/2 reaches an HTTP/1 upstream")
            .http2()
            .reply(acts([
                send("HTTP/1.1 200 OK\r\n\r\npong"),
                Act::Read(4),
                pause(150),
                Act::Close,
            ]))
            .send(request("CONNECT", "").host("b:80").body("ping"))
            .ends_somehow()
            .shows([
                "> connection 1: CONNECT b:80 HTTP/1.1",
                "> host: b:80",
                "> body ping",
                "< 200",
                "< body pong",
            ]),
        connecting("CONNECT over HTTP/2 reaches an HTTP/2 upstream")
            .http2()
            .upstream_http2()
            .reply(early([Act::Respond(ok("pong")), pause(100)]))
            .send(request("CONNECT", "").host("b:80").body("ping"))
            .shows([
                "> :method: CONNECT",
                "> :authority: b:80",
                "> body ping",
                "< 200",
                "< body pong",
            ])
            .lacks(["> :path*", "> :scheme*", "> :protocol*"]),
        connecting("CONNECT over HTTP/1 reaches an HTTP/2 upstream")
            .deviates("an upstream stream that is left is reset with CANCEL")
            .upstream_http2()
            .reply(early([Act::Respond(ok("pong")), pause(100)]))
            .raw(CONNECT)
            .shows([
                "< 200",
                "< body pong",
                "> :method: CONNECT",
                "> :authority: b:80",
            ])
            .lacks(["> :path*"]),
    ]
}

/// CONNECT is taken and proxied on.
fn connecting(title: &'static str) -> Case {
    case(title)
        .hcm("upgrade_configs: [{ upgrade_type: CONNECT }]")
        .routes(
            "
            - match: { connect_matcher: {} }
              route: { cluster: @backend }
            - match: { prefix: / }
              route: { cluster: @backend }",
        )
}

fn connect() -> Vec<Case> {
    vec![
        connecting("CONNECT is proxied on over HTTP/1")
            .reply(acts([send(TUNNEL), Act::Read(4), send("pong"), Act::Close]))
            .bytes(CONNECT)
            .bytes("ping")
            .read()
            .shows(["> connection 1: CONNECT b:80 HTTP/1.1", "> body ping", "< 200", "< body pong", "log code=200"])
            .lacks(["< transfer-encoding*", "< content-length*", "< connection*"]),
        connecting("bytes behind a CONNECT that is refused never reach the upstream")
            .reply(reply(status(403, "no")))
            .raw(&format!("{CONNECT}GET /evil HTTP/1.1\r\nhost: b\r\n\r\n"))
            .shows(["< 403", "< body no", "< connection: close"])
            .lacks(["> body*"]),
        connecting("a length that an upstream gives to its tunnel means nothing")
            .reply(acts([send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nnot two"), pause(100), Act::Close]))
            .raw(CONNECT)
            .step(Step::AwaitClose(Duration::from_secs(4)))
            .shows(["< 200", "< content-length: 2", "< body no"]),
        case("CONNECT that is not configured is 403")
            .routes("
                - match: { connect_matcher: {} }
                  route: { cluster: @backend }")
            .raw(CONNECT)
            .shows(["< 403", "log details=upgrade_failed"])
            .lacks(["> *"]),
        case("a route may allow CONNECT by itself")
            .routes("
                - match: { connect_matcher: {} }
                  route: { cluster: @backend, upgrade_configs: [{ upgrade_type: CONNECT }] }")
            .reply(acts([send(TUNNEL), send("hello"), pause(100), Act::Close]))
            .raw(CONNECT)
            .shows(["< 200", "< body hello"]),
        connecting("CONNECT keeps its port where ports are taken off")
            .hcm("strip_any_host_port: true")
            .reply(reply(status(403, "no")))
            .raw(CONNECT)
            .shows(["> host: b:80"]),
        connecting("CONNECT with a body is refused")
            .raw("CONNECT b:80 HTTP/1.1\r\nhost: b:80\r\ncontent-length: 2\r\n\r\nhi")
            .shows(["< 400", "log details=http1.body_disallowed"])
            .lacks(["> *"]),
        connecting("CONNECT with a transfer coding is refused")
            .raw("CONNECT b:80 HTTP/1.1\r\nhost: b:80\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")
            .shows(["< 501", "log details=http1.invalid_transfer_encoding"])
            .lacks(["> *"]),
        connecting("CONNECT with a length of zero is taken without it")
            .reply(reply(status(403, "no")))
            .raw("CONNECT b:80 HTTP/1.1\r\nhost: b:80\r\ncontent-length: 0\r\n\r\n")
            .shows(["< 403", "> connection 1: CONNECT b:80 HTTP/1.1"])
            .lacks(["> content-length*"]),
        connecting("a client that ends its side of a tunnel ends it")
            .reply(acts([send(TUNNEL), pause(1500)]))
            .bytes(CONNECT)
            .bytes("ping")
            .wait(200)
            .step(Step::HalfClose)
            .wait(200)
            .logs(1)
            .shows(["log code=200", "log flags=DC", "log received=4"]),
    ]
}

/// CONNECT ends at the proxy.
fn terminating(title: &'static str, config: &str) -> Case {
    case(title).routes(&format!(
        "
        - match: {{ connect_matcher: {{}} }}
          route:
            cluster: @backend
            upgrade_configs: [{{ upgrade_type: CONNECT, connect_config: {config} }}]
        - match: {{ prefix: /post }}
          route:
            cluster: @backend
            upgrade_configs: [{{ upgrade_type: CONNECT, connect_config: {config} }}]
        - match: {{ prefix: / }}
          route: {{ cluster: @backend }}"
    ))
}

fn terminated() -> Vec<Case> {
    let echo = || Kind::Tcp(vec![vec![Act::Read(4), send("pong"), Act::Close]]);
    vec![
        terminating("connect_config ends a CONNECT in a TCP connection", "{}")
            .backend(echo())
            .bytes(CONNECT)
            .bytes("ping")
            .read()
            .shows(["< 200", "< body pong", "> body ping", "log code=200", "log details=via_upstream"]),
        terminating("connect_config ends a CONNECT over HTTP/2 in a TCP connection", "{}")
            .backend(echo())
            .http2()
            .send(request("CONNECT", "").host("b:80").body("ping"))
            .shows(["< 200", "< body pong", "> body ping"]),
        terminating("what the TCP upstream says first reaches the client", "{}")
            .backend(Kind::Tcp(vec![vec![send("hello"), pause(100), Act::Close]]))
            .raw(CONNECT)
            .shows(["< 200", "< body hello"]),
        terminating("a CONNECT that ends at a port where nobody listens is 503", "{}")
            .backend(Kind::Refuse)
            .raw(CONNECT)
            .shows(["< 503", "log flags=UF", "log details=upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"]),
        terminating("allow_post takes a POST for a CONNECT", "{ allow_post: true }")
            .backend(echo())
            .raw("POST /post HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nping\r\n0\r\n\r\n")
            .shows(["< 200", "< body pong", "> body ping", "< transfer-encoding: chunked"]),
        terminating("without allow_post a POST is a POST", "{}")
            .raw("POST /post HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nping")
            .shows(["> connection 1: POST /post HTTP/1.1", "< body hello"]),
    ]
}

/// A TCP proxy that asks for tunnels.
fn tunnel(title: &'static str, config: &str, around: &str) -> Case {
    case(title).network(&format!(
        "
        - name: tcp
          typed_config:
            \"@type\": \"@net/tcp_proxy.v3.TcpProxy\"
            stat_prefix: @stat
            cluster: @backend
            tunneling_config: {config}
            {around}
            access_log:
            - name: file
              typed_config:
                \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
                path: @log
                log_format: {{ text_format_source: {{ inline_string: \"flags=%RESPONSE_FLAGS% rx=%BYTES_RECEIVED% tx=%BYTES_SENT% attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% why=%UPSTREAM_TRANSPORT_FAILURE_REASON%\\n\" }} }}"
    ))
}

fn tunnelling() -> Vec<Case> {
    let granting = || {
        acts([
            send("HTTP/1.1 200 OK\r\nx-a: 1\r\n\r\n"),
            Act::Read(4),
            send("pong"),
            Act::Close,
        ])
    };
    let talk = |case: Case| {
        case.bytes("ping")
            .step(Step::ReadToEnd)
            .ends_somehow()
            .logs(1)
    };
    vec![
        talk(tunnel("tunneling_config asks for a tunnel by CONNECT", "{ hostname: \"h:1\" }", ""))
            .reply(granting())
            .shows(["> connection 1: CONNECT h:1 HTTP/1.1", "> host: h:1", "> body ping", "< bytes pong", "log flags=- rx=4 tx=4*"]),
        talk(tunnel("tunneling_config takes every 2xx for a tunnel", "{ hostname: \"h:1\" }", ""))
            .reply(acts([send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\ncontent-length: 7\r\n\r\nhello"), Act::Read(4), Act::Close]))
            .shows(["< bytes hello", "> body ping"]),
        talk(tunnel("a tunnel that is refused is a connection that failed", "{ hostname: \"h:1\" }", ""))
            .reply(reply(status(403, "no")))
            .shows(["log flags=UF,URX*", "= connection 0: closed"])
            .lacks(["> body*", "< bytes*"]),
        talk(tunnel("max_connect_attempts counts tunnels that are refused", "{ hostname: \"h:1\" }", "max_connect_attempts: 2"))
            .replies([reply(status(403, "no")), granting()])
            .shows(["> connection 2: CONNECT h:1 HTTP/1.1", "< bytes pong"]),
        tunnel("use_post asks for a tunnel by POST", "{ hostname: \"h:1\", use_post: true, post_path: /tunnel }", "")
            .replies([early([send("HTTP/1.1 200 OK\r\n\r\npong"), pause(2000), Act::Close])])
            .bytes("ping")
            .step(Step::ReadBytes(4))
            .step(Step::Close)
            .logs(1)
            .shows(["> connection 1: POST /tunnel HTTP/1.1", "> host: h:1", "> transfer-encoding: chunked", "< bytes pong"]),
        talk(tunnel("hostname and headers_to_add of a tunnel are formatted", "{ hostname: \"%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%:7\", headers_to_add: [{ header: { key: x-from, value: \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\" } }, { header: { key: x-b, value: b } }] }", ""))
            .reply(granting())
            .shows(["> host: 127.0.0.1:*", "> x-from: 127.0.0.1", "> x-b: b"]),
        talk(tunnel("request_id_extension gives a tunnel an id", "{ hostname: \"h:1\", request_id_header: x-tunnel, request_id_extension: { typed_config: { \"@type\": type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig } } }", ""))
            .reply(granting())
            .shows(["> x-tunnel: (uuid)"]),
        talk(tunnel("a tunnel may go over HTTP/2", "{ hostname: \"h:1\" }", ""))
            .upstream_http2()
            .reply(early([Act::Respond(ok("pong")), pause(200)]))
            .access_log("")
            .logs(0)
            .shows(["> :method: CONNECT", "> :authority: h:1", "< bytes pong"])
            .lacks(["> :path*"]),
        talk(tunnel("use_post over HTTP/2 has a path and a scheme", "{ hostname: \"h:1\", use_post: true }", ""))
            .upstream_http2()
            .reply(early([Act::Respond(ok("pong")), pause(200)]))
            .logs(0)
            .shows(["> :method: POST", "> :path: /", "> :scheme: http", "< bytes pong"]),
        talk(tunnel("an upstream that hangs up instead of answering fails the tunnel", "{ hostname: \"h:1\" }", ""))
            .reply(acts([Act::Close]))
            .shows(["log flags=UF,URX*"])
            .lacks(["< bytes*"]),
        tunnel("nothing is read of a client before its tunnel stands", "{ hostname: \"h:1\" }", "")
            .reply(acts([pause(400), send(TUNNEL), Act::Read(4), send("pong"), Act::Close]))
            .bytes("ping")
            .step(Step::ReadToEnd)
            .ends_somehow()
            .logs(1)
            .shows(["> body ping", "< bytes pong"]),
    ]
}
