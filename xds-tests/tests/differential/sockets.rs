//! Transport sockets of clusters: the PROXY protocol towards upstreams, and which endpoint gets which socket.

use crate::case::{Act, Case, Kind, Step, case, indent, send};

pub fn cases() -> Vec<Case> {
    [proxy_protocol(), matches()]
        .into_iter()
        .flatten()
        .collect()
}

const LISTEN: &str = "listener_filters:\n- name: proxy_protocol\n  typed_config: { \"@type\": \"@listen/proxy_protocol.v3.ProxyProtocol\", pass_through_tlvs: { match_type: INCLUDE_ALL } }";

/// The socket with this configuration, around plain bytes.
fn socket(config: &str) -> String {
    format!(
        "name: pp\ntyped_config:\n  \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport\n  config: {{ {config} }}\n  transport_socket: {{ name: raw, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer }} }}\n"
    )
}

fn sends(case: Case, config: &str) -> Case {
    case.cluster(&format!(
        "transport_socket:\n{}",
        indent(&socket(config), 2)
    ))
}

/// A TCP proxy to a backend that reads `length` bytes of a header and four more, and answers.
fn tcp(title: &'static str, config: &str, length: usize) -> Case {
    let proxy = "- name: tcp\n  typed_config:\n    \"@type\": \"@net/tcp_proxy.v3.TcpProxy\"\n    stat_prefix: \"@stat\"\n    cluster: @backend\n";
    sends(case(title).network(proxy), config)
        .access_log("- { name: none }")
        .backend(Kind::Tcp(vec![vec![Act::Read(length + 4), send("pong")]]))
        .logs(0)
}

fn answered(case: Case) -> Case {
    case.step(Step::ReadBytes(4))
        .step(Step::Close)
        .shows(["< bytes pong"])
}

const V1: &str = "PROXY TCP4 203.0.113.7 192.0.2.9 4660 80\r\n";

/// A header of version 2 from the same client, with a TLV of type 0xe7.
fn v2() -> Vec<u8> {
    let mut header =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x12\xcb\0\x71\x07\xc0\0\x02\x09\x12\x34\0\x50".to_vec();
    header.extend_from_slice(b"\xe7\0\x03abc");
    header
}

fn proxy_protocol() -> Vec<Case> {
    let http = |title, config, length: usize, reply: &str| {
        sends(case(title), config).backend(Kind::Tcp(vec![vec![Act::Read(length), send(reply)]]))
    };
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let get = |header: &str| format!("{header}GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let both = |head: &[u8]| Step::Send([head, b"ping"].concat());
    vec![
        answered(
            tcp("an upstream gets a PROXY header of version 1 with what the client's said", "version: V1", V1.len())
                .listener(LISTEN)
                .bytes(&format!("{V1}ping")),
        )
        .shows(["> body PROXY TCP4 203.0.113.7 192.0.2.9 4660 80*"]),
        answered(
            tcp("an upstream gets a PROXY header of version 2", "version: V2", 28)
                .listener(LISTEN)
                .step(both(&v2())),
        )
        .shows(["> body *"]),
        answered(
            tcp("TLVs of the client are passed on", "version: V2, pass_through_tlvs: { match_type: INCLUDE_ALL }", 34)
                .listener(LISTEN)
                .step(both(&v2())),
        )
        .shows(["> body *"]),
        answered(
            tcp("TLVs of the client are passed on by type", "version: V2, pass_through_tlvs: { match_type: INCLUDE, tlv_type: [ 1 ] }", 28)
                .listener(LISTEN)
                .step(both(&v2())),
        )
        .shows(["> body *"]),
        answered(
            tcp(
                "TLVs are added before those that are passed on",
                "version: V2, pass_through_tlvs: { match_type: INCLUDE_ALL }, added_tlvs: [ { type: 241, value: eHk= } ]",
                39,
            )
            .listener(LISTEN)
            .step(both(&v2())),
        )
        .shows(["> body *"]),
        answered(
            tcp(
                "a TLV that is added takes the place of the client's",
                "version: V2, pass_through_tlvs: { match_type: INCLUDE_ALL }, added_tlvs: [ { type: 231, value: eHk= } ]",
                33,
            )
            .listener(LISTEN)
            .step(both(&v2())),
        )
        .shows(["> body *"]),
        http("a request goes behind the header of its client", "version: V1", V1.len() + 10, ok)
            .listener(LISTEN)
            .raw(&get(V1))
            .shows(["< body ok", "> body PROXY TCP4 203.0.113.7 192.0.2.9 4660 80*"]),
        http("the header of a request names the peer whatever x-forwarded-for says", "version: V1", 31, ok)
            .hcm("use_remote_address: false")
            .raw("GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 203.0.113.9\r\n\r\n")
            .shows(["< body ok", "> body PROXY TCP4 127.0.0.1 *"]),
        http("clients share no connection that names one of them", "version: V1", V1.len() + 10, ok)
            .listener(LISTEN)
            .raw(&get(V1))
            .on(1)
            .raw(&get("PROXY TCP4 203.0.113.8 192.0.2.9 4660 80\r\n"))
            .on(0)
            .stats(["cluster.@backend.upstream_cx_total"])
            .shows(["stat cluster.@backend.upstream_cx_total: 2"]),
    ]
}

fn matches() -> Vec<Case> {
    let cluster = |metadata: &str| {
        format!(
            "- name: other_@stat\n  connect_timeout: 1s\n  load_assignment:\n    cluster_name: x\n    endpoints:\n    - lb_endpoints:\n      - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: @port:backend }} }} }}\n{}  transport_socket_matches:\n  - name: named\n    match: {{ kind: proxied, size: 2 }}\n    transport_socket:\n{}  - name: rest\n    match: {{}}\n    transport_socket: {{ name: raw, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer }} }}\n",
            metadata,
            indent(&socket("version: V1"), 6)
        )
    };
    let asked = |title, metadata: &str, length: usize| {
        case(title)
            .listener(LISTEN)
            .routes("- match: { prefix: / }\n  route: { cluster: other_@stat }")
            .clusters(&cluster(metadata))
            .backend(Kind::Tcp(vec![vec![
                Act::Read(length),
                send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
            ]]))
            .raw(&format!("{V1}GET / HTTP/1.1\r\nhost: a\r\n\r\n"))
            .stats([
                "cluster.other_@stat.named.total_match_count",
                "cluster.other_@stat.rest.total_match_count",
            ])
    };
    let metadata = |values: &str| {
        format!(
            "        metadata: {{ filter_metadata: {{ envoy.transport_socket_match: {{ {values} }} }} }}\n"
        )
    };
    vec![
        asked(
            "metadata of an endpoint choose its transport socket",
            &metadata("kind: proxied, size: 2, more: true"),
            V1.len() + 10,
        )
        .shows([
            "< body ok",
            "> body PROXY TCP4 203.0.113.7*",
            "stat cluster.other_@stat.named.total_match_count: 1",
        ]),
        asked(
            "an endpoint whose metadata lack a value has the next socket",
            &metadata("kind: proxied"),
            14,
        )
        .shows([
            "< body ok",
            "> body GET / HTTP/1.1*",
            "stat cluster.other_@stat.rest.total_match_count: 1",
        ]),
        asked(
            "an endpoint without metadata has the socket that asks for nothing",
            "",
            14,
        )
        .shows(["< body ok", "> body GET / HTTP/1.1*"]),
        asked(
            "a number is no text in the metadata of an endpoint",
            &metadata("kind: proxied, size: \"2\""),
            14,
        )
        .shows(["< body ok", "> body GET / HTTP/1.1*"]),
    ]
}
