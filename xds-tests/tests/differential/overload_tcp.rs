//! Load-shed points of `tcp_proxy`.

use crate::case::{Act, Case, Kind, Step, case, indent, send};
use crate::overload::point;

/// One line per connection.
const LOG: &str = "access_log:
- name: file
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: @log
    log_format: { text_format_source: { inline_string: \"flags=%RESPONSE_FLAGS% in=%BYTES_RECEIVED% out=%BYTES_SENT% cluster=%UPSTREAM_CLUSTER% host=%UPSTREAM_HOST% closed=%DOWNSTREAM_LOCAL_CLOSE_REASON%\\n\" } }";

fn proxied(title: &'static str, name: &str) -> Case {
    let fields = indent(&format!("cluster: @backend\n{LOG}"), 4);
    let case = case(title)
        .network(&format!(
            "- name: tcp\n  typed_config:\n    \"@type\": \"@net/tcp_proxy.v3.TcpProxy\"\n    stat_prefix: \"@stat\"\n{fields}"
        ))
        .access_log("- { name: none }")
        .backend(Kind::Tcp(vec![vec![
            send("first"),
            Act::Read(4),
            send("pong"),
        ]]))
        .logs(1)
        .stats([
            "tcp.@stat.downstream_cx_overload_close",
            "tcp.@stat.downstream_cx_rx_bytes_total",
            "tcp.@stat.downstream_cx_tx_bytes_total",
            "cluster.@backend.upstream_cx_total",
            "cluster.@backend.upstream_cx_tx_bytes_total",
            "cluster.@backend.upstream_cx_destroy_local",
        ]);
    point(case, name)
}

pub fn data() -> Vec<Case> {
    let shed = |title| proxied(title, "tcp_proxy_on_data").step(Step::ReadBytes(5));
    vec![
        shed("tcp_proxy_on_data closes a connection whose client sends something")
            .bytes("ping")
            .step(Step::ReadToEnd)
            .ends_somehow()
            .shows([
                "< bytes first",
                "= connection 0: closed",
                "log flags=OM in=4 out=5*",
                "stat tcp.@stat.downstream_cx_overload_close: 1",
                "stat cluster.@backend.upstream_cx_tx_bytes_total: 0",
            ]),
        shed("tcp_proxy_on_data closes a connection whose client ends its side")
            .step(Step::HalfClose)
            .step(Step::ReadToEnd)
            .shows(["log flags=OM in=0 out=5*"]),
        shed("a tcp_proxy that bypasses the overload manager passes on what is sent")
            .listener(crate::overload::BYPASS)
            .bytes("ping")
            .step(Step::ReadBytes(4))
            .step(Step::Close)
            .shows(["< bytes firstpong", "log flags=- in=4 out=9*"]),
    ]
}

pub fn connect() -> Vec<Case> {
    let shed = |title| proxied(title, "tcp_proxy_upstream_connect");
    vec![
        shed("tcp_proxy_upstream_connect closes a connection before it has an upstream")
            .step(Step::ReadToEnd)
            .shows([
                "= connection 0: closed",
                "log flags=OM in=0 out=0 cluster=- host=- closed=overload_manager_close",
                "stat tcp.@stat.downstream_cx_overload_close: 1",
                "stat cluster.@backend.upstream_cx_total: 0",
            ]),
        shed("a tcp_proxy that bypasses the overload manager connects")
            .listener(crate::overload::BYPASS)
            .step(Step::ReadBytes(5))
            .step(Step::Close)
            .shows(["< bytes first", "log flags=-*"]),
    ]
}
