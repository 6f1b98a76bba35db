//! Listeners, filter-chain match, listener filters and network filters.

use std::time::Duration;

use crate::case::{Act, Case, Kind, Step, acts, case, get, http1, indent, ok, reply, send};

pub fn cases() -> Vec<Case> {
    [
        tcp_proxy(),
        simple(),
        chains(),
        proxy_protocol(),
        inspectors(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn reading(length: usize) -> Step {
    Step::ReadBytes(length)
}

/// One TCP access-log line per connection.
const LOG: &str = "access_log:
- name: file
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: @log
    log_format: { text_format_source: { inline_string: \"flags=%RESPONSE_FLAGS% in=%BYTES_RECEIVED% out=%BYTES_SENT% cluster=%UPSTREAM_CLUSTER% host=%UPSTREAM_HOST% details=%RESPONSE_CODE_DETAILS% closed=%CONNECTION_TERMINATION_DETAILS% failure=%UPSTREAM_TRANSPORT_FAILURE_REASON% wire=%DOWNSTREAM_WIRE_BYTES_RECEIVED%/%DOWNSTREAM_WIRE_BYTES_SENT%\\n\" } }";

fn proxied(title: &'static str, fields: &str) -> Case {
    let fields = indent(&format!("{fields}\n{LOG}"), 4);
    case(title)
        .network(&format!(
            "- name: tcp\n  typed_config:\n    \"@type\": \"@net/tcp_proxy.v3.TcpProxy\"\n    stat_prefix: \"@stat\"\n{fields}"
        ))
        .access_log("- { name: none }")
        .backend(Kind::Tcp(vec![vec![Act::Read(4), send("pong"), Act::Read(4), send("done")]]))
        .logs(1)
}

fn tcp_proxy() -> Vec<Case> {
    vec![
        proxied("tcp_proxy copies both ways", "cluster: @backend")
            .bytes("ping")
            .step(reading(4))
            .bytes("more")
            .step(reading(4))
            .step(Step::Close)
            .stats([
                "tcp.@stat.downstream_cx_total",
                "tcp.@stat.downstream_cx_rx_bytes_total",
                "cluster.@backend.upstream_cx_total",
            ])
            .shows([
                "< bytes pongdone",
                "> body pingmore",
                "log flags=- in=8 out=8*",
                "stat tcp.@stat.downstream_cx_total: 1",
            ]),
        proxied(
            "tcp_proxy passes a half-close of the client on",
            "cluster: @backend",
        )
        .backend(Kind::Tcp(vec![vec![
            Act::Read(4),
            Act::Read(1),
            send("after"),
            Act::Close,
        ]]))
        .bytes("ping")
        .step(Step::HalfClose)
        .step(Step::ReadToEnd)
        .shows([
            "< bytes after",
            "= connection 0: closed",
            "log flags=- in=4 out=5*",
        ]),
        proxied(
            "tcp_proxy passes a close of the upstream on",
            "cluster: @backend",
        )
        .backend(Kind::Tcp(vec![vec![Act::Read(4), send("bye"), Act::Close]]))
        .bytes("ping")
        .step(Step::ReadToEnd)
        .shows(["< bytes bye", "= connection 0: closed"]),
        proxied(
            "tcp_proxy to a refused upstream closes with UF",
            "cluster: @backend\nmax_connect_attempts: 2",
        )
        .backend(Kind::Refuse)
        .step(Step::ReadToEnd)
        .stats([
            "cluster.@backend.upstream_cx_connect_fail",
            "cluster.@backend.upstream_cx_connect_attempts_exceeded",
        ])
        .shows([
            "log flags=UF,URX*",
            "stat cluster.@backend.upstream_cx_connect_fail: 2",
        ]),
        proxied(
            "tcp_proxy without a cluster closes with NC",
            "cluster: nowhere",
        )
        .step(Step::ReadToEnd)
        .shows(["= connection 0: closed", "log flags=NC*"]),
        proxied(
            "tcp_proxy without a healthy host closes with UH",
            "cluster: empty_@stat",
        )
        .clusters(
            "- { name: empty_@stat, connect_timeout: 1s, load_assignment: { cluster_name: c } }",
        )
        .step(Step::ReadToEnd)
        .shows(["= connection 0: closed", "log flags=UH*"]),
        proxied(
            "idle_timeout of tcp_proxy closes an idle connection",
            "cluster: @backend\nidle_timeout: 0.3s",
        )
        .bytes("ping")
        .step(reading(4))
        .step(Step::AwaitClose(Duration::from_secs(4)))
        .stats(["tcp.@stat.idle_timeout"])
        .shows([
            "< bytes pong",
            "= connection 0: closed",
            "stat tcp.@stat.idle_timeout: 1",
        ]),
        proxied(
            "max_downstream_connection_duration ends a connection",
            "cluster: @backend\nmax_downstream_connection_duration: 0.3s",
        )
        .bytes("ping")
        .step(reading(4))
        .step(Step::AwaitClose(Duration::from_secs(4)))
        .shows(["= connection 0: closed", "log flags=DT*"]),
        proxied(
            "tcp_proxy takes a weighted cluster",
            "weighted_clusters: { clusters: [{ name: @backend, weight: 1 }] }",
        )
        .bytes("ping")
        .step(reading(4))
        .bytes("more")
        .step(reading(4))
        .step(Step::Close)
        .shows([
            "< bytes pongdone",
            "log flags=- in=8 out=8 cluster=@backend*",
        ]),
        proxied(
            "max_connections of the cluster overflows a TCP connection with UO",
            "cluster: @backend",
        )
        .cluster("circuit_breakers: { thresholds: [{ max_connections: 0 }] }")
        .step(Step::ReadToEnd)
        .shows(["= connection 0: closed", "log flags=UO*"]),
        proxied(
            "an upstream that speaks first is heard",
            "cluster: @backend",
        )
        .backend(Kind::Tcp(vec![vec![send("hello"), Act::Close]]))
        .step(Step::ReadToEnd)
        .shows(["< bytes hello"]),
        proxied("an upstream reset reaches the client", "cluster: @backend")
            .backend(Kind::Tcp(vec![vec![Act::Read(4), Act::Reset]]))
            .bytes("ping")
            .step(Step::ReadToEnd)
            .shows(["log flags=UR in=4*"]),
    ]
}

fn simple() -> Vec<Case> {
    let http = |title: &'static str, filter: &str| {
        let manager = crate::bootstrap::connection_manager(&case(""));
        case(title).network(&format!("{filter}\n{manager}"))
    };
    vec![
        case("echo gives back what it gets")
            .network("- name: echo\n  typed_config: { \"@type\": \"@net/echo.v3.Echo\" }")
            .access_log("- { name: none }")
            .bytes("ping")
            .step(reading(4))
            .bytes("more")
            .step(reading(4))
            .logs(0)
            .shows(["< bytes pingmore", "= connection 0: open"]),
        case("echo ends with the client")
            .network("- name: echo\n  typed_config: { \"@type\": \"@net/echo.v3.Echo\" }")
            .access_log("- { name: none }")
            .bytes("last")
            .step(reading(4))
            .step(Step::HalfClose)
            .step(Step::ReadToEnd)
            .logs(0)
            .shows(["< bytes last", "= connection 0: closed"]),
        case("the network filter direct_response answers and closes")
            .network("- name: direct\n  typed_config: { \"@type\": \"@net/direct_response.v3.Config\", response: { inline_string: go away } }")
            .access_log("- { name: none }")
            .step(Step::ReadToEnd)
            .logs(0)
            .shows(["< bytes go away", "= connection 0: closed"]),
        http(
            "connection_limit closes connections over its number",
            "- name: limit\n  typed_config: { \"@type\": \"@net/connection_limit.v3.ConnectionLimit\", stat_prefix: \"@stat\", max_connections: 1 }",
        )
        .get("/")
        .on(1)
        .step(Step::ReadToEnd)
        .stats(["connection_limit.@stat.limited_connections"])
        .logs(1)
        .shows(["< 200", "= connection 0: open", "= connection 1: closed", "stat connection_limit.@stat.limited_connections: 1"]),
        http(
            "connection_limit can delay the close",
            "- name: limit\n  typed_config: { \"@type\": \"@net/connection_limit.v3.ConnectionLimit\", stat_prefix: \"@stat\", max_connections: 1, delay: 0.3s }",
        )
        .get("/")
        .on(1)
        .step(Step::AwaitClose(Duration::from_millis(100)))
        .logs(1)
        .shows(["< 200", "= connection 1: open"]),
        http(
            "connection_limit that is off by runtime_enabled limits nothing",
            "- name: limit\n  typed_config: { \"@type\": \"@net/connection_limit.v3.ConnectionLimit\", stat_prefix: \"@stat\", max_connections: 1, runtime_enabled: { default_value: false, runtime_key: k } }",
        )
        .get("/1")
        .on(1)
        .get("/2")
        .shows(["< 200", "< 200"]),
    ]
}

/// A filter chain that answers with this word.
fn answering(word: &str, matching: &str) -> String {
    format!(
        "- {matching}\n  filters:\n  - name: direct\n    typed_config: {{ \"@type\": \"@net/direct_response.v3.Config\", response: {{ inline_string: {word} }} }}\n"
    )
}

fn chains() -> Vec<Case> {
    let matched = |title, chains: String, default: &str| {
        let default = if default.is_empty() {
            String::new()
        } else {
            format!(
                "default_filter_chain:\n  filters:\n  - name: direct\n    typed_config: {{ \"@type\": \"@net/direct_response.v3.Config\", response: {{ inline_string: {default} }} }}\n"
            )
        };
        case(title)
            .raw_listener(&format!("filter_chains:\n{chains}{default}"))
            .access_log("- { name: none }")
            .step(Step::ReadToEnd)
            .logs(0)
    };
    let both = |a: &str, b: &str| {
        answering("first", &format!("filter_chain_match: {{ {a} }}"))
            + &answering("second", &format!("filter_chain_match: {{ {b} }}"))
    };
    vec![
        matched(
            "the longest prefix of the destination wins",
            both("prefix_ranges: [{ address_prefix: 127.0.0.0, prefix_len: 8 }]", "prefix_ranges: [{ address_prefix: 127.0.0.1, prefix_len: 32 }]"),
            "",
        )
        .shows(["< bytes second"]),
        matched(
            "a source prefix is matched",
            both("source_prefix_ranges: [{ address_prefix: 10.0.0.0, prefix_len: 8 }]", "source_prefix_ranges: [{ address_prefix: 127.0.0.0, prefix_len: 8 }]"),
            "",
        )
        .shows(["< bytes second"]),
        matched("source_type tells local from external connections", both("source_type: EXTERNAL", "source_type: SAME_IP_OR_LOOPBACK"), "")
            .shows(["< bytes second"]),
        matched("direct_source_prefix_ranges match the peer", both("direct_source_prefix_ranges: [{ address_prefix: 10.0.0.0, prefix_len: 8 }]", "direct_source_prefix_ranges: [{ address_prefix: 127.0.0.1, prefix_len: 32 }]"), "")
            .shows(["< bytes second"]),
        matched("a raw connection matches the transport protocol raw_buffer", both("transport_protocol: tls", "transport_protocol: raw_buffer"), "")
            .shows(["< bytes second"]),
        matched("destination prefix comes before source prefix", both("source_prefix_ranges: [{ address_prefix: 127.0.0.1, prefix_len: 32 }]", "prefix_ranges: [{ address_prefix: 127.0.0.1, prefix_len: 32 }]"), "")
            .shows(["< bytes second"]),
        matched("default_filter_chain takes what no chain matches", both("destination_port: 1", "source_ports: [1]"), "default")
            .shows(["< bytes default"]),
        matched("without a chain that matches the connection is closed", both("destination_port: 1", "source_ports: [1]"), "")
            .listener("access_log: [{ name: file, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: @log, log_format: { text_format_source: { inline_string: \"%RESPONSE_FLAGS% %CONNECTION_TERMINATION_DETAILS%\\n\" } } } }]")
            .logs(1)
            .shows(["= connection 0: closed", "log NR *"]),
        case("the access log of the listener has a line for each connection")
            .listener("access_log: [{ name: file, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: @log, log_format: { text_format_source: { inline_string: \"%RESPONSE_FLAGS% %BYTES_RECEIVED% %FILTER_CHAIN_NAME%\\n\" } } } }]")
            .access_log("[]")
            .get("/")
            .step(Step::Close)
            .logs(1)
            .shows(["< 200", "log - *"]),
        case("additional_addresses serve the same chains")
            .listener("additional_addresses: [{ address: { socket_address: { address: 127.0.0.3, port_value: 0 } } }]")
            .log_format("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "")
            .get("/")
            .shows(["< 200", "log 127.0.0.3"]),
    ]
}

fn proxy_protocol() -> Vec<Case> {
    let filtered = |title, fields: &str| {
        case(title).listener(&format!(
            "listener_filters:\n- name: proxy_protocol\n  typed_config: {{ \"@type\": \"@listen/proxy_protocol.v3.ProxyProtocol\", {fields} }}"
        ))
    };
    let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let version_2 =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\x7f\0\0\x01\x12\x34\0\x50".to_vec();
    let both = |head: &[u8]| Step::Send([head, get.as_bytes()].concat());
    vec![
        filtered("PROXY protocol version 1 gives the client's address", "")
            .raw(&format!("PROXY TCP4 203.0.113.7 127.0.0.1 4660 80\r\n{get}"))
            .shows(["< 200", "log remote=203.0.113.7", "log direct=127.0.0.1"]),
        filtered("PROXY protocol version 2 gives the client's address", "")
            .step(both(&version_2))
            .read()
            .shows(["< 200", "log remote=203.0.113.7"]),
        filtered("PROXY UNKNOWN keeps the peer's address", "")
            .raw(&format!("PROXY UNKNOWN\r\n{get}"))
            .shows(["< 200", "log remote=127.0.0.1"]),
        filtered("version 2 LOCAL keeps the peer's address", "")
            .step(both(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"))
            .read()
            .shows(["< 200", "log remote=127.0.0.1"]),
        filtered("a connection without PROXY header is closed", "")
            .bytes(get)
            .step(Step::ReadToEnd)
            .logs(0)
            .ends_somehow()
            .shows(["= connection 0: closed"])
            .lacks(["< bytes*"]),
        filtered("allow_requests_without_proxy_protocol serves both", "allow_requests_without_proxy_protocol: true")
            .raw(get)
            .on(1)
            .raw(&format!("PROXY TCP4 203.0.113.7 127.0.0.1 4660 80\r\n{get}"))
            .shows(["log remote=127.0.0.1", "log remote=203.0.113.7"]),
        filtered("disallowed_versions refuses that version", "disallowed_versions: [V1]")
            .bytes(&format!("PROXY TCP4 203.0.113.7 127.0.0.1 4660 80\r\n{get}"))
            .step(Step::ReadToEnd)
            .logs(0)
            .ends_somehow()
            .shows(["= connection 0: closed"])
            .lacks(["< bytes*"]),
        filtered("a PROXY header in two pieces is put together", "")
            .bytes("PROXY TCP4 203.0.113.7 12")
            .wait(100)
            .raw(&format!("7.0.0.1 4660 80\r\n{get}"))
            .shows(["< 200", "log remote=203.0.113.7"]),
        filtered("the address of the PROXY header chooses the filter chain", "")
            .raw_listener(&format!(
                "filter_chains:\n{}{}",
                answering("other", "filter_chain_match: { source_prefix_ranges: [{ address_prefix: 127.0.0.0, prefix_len: 8 }] }"),
                answering("proxied", "filter_chain_match: { source_prefix_ranges: [{ address_prefix: 203.0.113.0, prefix_len: 24 }] }")
            ))
            .access_log("- { name: none }")
            .bytes("PROXY TCP4 203.0.113.7 127.0.0.1 4660 80\r\n")
            .step(Step::ReadToEnd)
            .logs(0)
            .shows(["< bytes proxied"]),
    ]
}

fn inspectors() -> Vec<Case> {
    let http_inspector = "listener_filters:\n- name: http_inspector\n  typed_config: { \"@type\": \"@listen/http_inspector.v3.HttpInspector\" }";
    let tls_inspector = "- name: tls_inspector\n  typed_config: { \"@type\": \"@listen/tls_inspector.v3.TlsInspector\" }";
    vec![
        case("http_inspector lets chains match on the HTTP version")
            .listener(http_inspector)
            .raw_listener(&format!(
                "filter_chains:\n{}{}",
                answering("other", "filter_chain_match: { application_protocols: [h2c] }"),
                answering("one", "filter_chain_match: { application_protocols: [http/1.1] }")
            ))
            .access_log("- { name: none }")
            .bytes("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .step(reading(3))
            .logs(0)
            .shows(["< bytes one"]),
        case("http_inspector leaves other bytes alone")
            .listener(http_inspector)
            .raw_listener(&format!(
                "filter_chains:\n{}{}",
                answering("http", "filter_chain_match: { application_protocols: [http/1.1, http/1.0, h2c] }"),
                answering("bytes", "filter_chain_match: {}")
            ))
            .access_log("- { name: none }")
            .bytes("\x01\x02\x03\x04\r\n\r\n")
            .step(reading(5))
            .logs(0)
            .shows(["< bytes bytes"]),
        case("tls_inspector passes plain text on")
            .listener(&format!("listener_filters:\n{tls_inspector}"))
            .get("/")
            .shows(["< 200"]),
        case("a listener filter that waits too long closes the connection")
            .listener(&format!("listener_filters_timeout: 0.3s\nlistener_filters:\n{tls_inspector}"))
            .step(Step::AwaitClose(Duration::from_secs(4)))
            .logs(0)
            .shows(["= connection 0: closed"]),
        case("continue_on_listener_filters_timeout goes on without its answer")
            .listener(&format!(
                "listener_filters_timeout: 0.3s\ncontinue_on_listener_filters_timeout: true\nlistener_filters:\n{tls_inspector}"
            ))
            .backend(http1(acts([Act::Respond(ok("x"))])))
            .reply(reply(ok("x")))
            .step(Step::AwaitClose(Duration::from_millis(700)))
            .send(get("/"))
            .shows(["< 200"]),
    ]
}
