//! What a check by HTTP asks.

use super::{HTTP, checked, checked_at, healthy};
use crate::case::{Case, Kind, ok, raw, reply};

pub fn cases() -> Vec<Case> {
    let http = |title, fields: &str| {
        checked(
            title,
            &format!("http_health_check: {{ path: /hc, {fields} }}"),
        )
    };
    vec![
        healthy(checked_at(
            "alt_port and event_service mean nothing",
            "timeout: 1s, interval: 60s, unhealthy_threshold: 3, healthy_threshold: 3, alt_port: 1, event_service: { grpc_service: { envoy_grpc: { cluster_name: none } } }",
            HTTP,
        )),
        healthy(checked("a host that answers 200 is healthy", HTTP)).shows([
            "> connection 1: GET /hc HTTP/1.1",
            "> host: @backend",
            "> user-agent: Envoy/HC",
        ]),
        healthy(http(
            "a check names the host that it is told",
            "host: checks.example",
        ))
        .shows(["> host: checks.example"]),
        healthy(http("a check has the method that it is told", "method: OPTIONS"))
            .shows(["> connection 1: OPTIONS /hc HTTP/1.1"]),
        healthy(http("a check by HEAD waits for no body", "method: HEAD"))
            .reply(raw("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n"))
            .shows(["> connection 1: HEAD /hc HTTP/1.1"]),
        healthy(http(
            "a check has the headers that it is told",
            "request_headers_to_add: [{ header: { key: x-check, value: \"%PROTOCOL%\" } }, { header: { key: x-host, value: \"%UPSTREAM_HOST%\" } }], request_headers_to_remove: [user-agent]",
        ))
        .shows(["> x-check: HTTP/1.1", "> x-host: 127.0.0.1:@port:backend"])
        .lacks(["> user-agent*"]),
        healthy(http(
            "a check by POST sends what it is told in hexadecimal",
            "method: POST, send: { text: 70696e67 }",
        ))
        .shows(["> body ping", "> content-length: 4"]),
        healthy(http(
            "a check sends bytes as they are",
            "method: PUT, send: { binary: cGluZw== }",
        ))
        .shows(["> body ping"]),
        healthy(http("a check speaks HTTP/2", "codec_client_type: HTTP2"))
            .backend(Kind::Http2(vec![reply(ok(""))]))
            .shows(["> connection 1: HTTP/2", "> :authority: @backend"]),
    ]
}
