//! Checks by TCP and by gRPC.

use super::{checked, checked_at, failed, healthy};
use crate::case::{
    Act, Case, Kind, Response, Script, acts, ok, pause, reply, send, status, with_fields,
    with_trailers,
};

pub fn cases() -> Vec<Case> {
    [tcp(), grpc()].into_iter().flatten().collect()
}

fn tcp() -> Vec<Case> {
    let spoken = |title, fields: &str, acts: Vec<Act>| {
        checked_at(
            title,
            "timeout: 0.5s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1",
            &format!("tcp_health_check: {{ {fields} }}"),
        )
        .backend(Kind::Tcp(vec![acts]))
    };
    let ping = "send: { text: 70696e67 }, receive: [{ text: 706f6e67 }]";
    vec![
        healthy(checked(
            "a host that takes connections is healthy",
            "tcp_health_check: {}",
        )),
        failed(
            checked(
                "a host that takes no connections is not healthy",
                "tcp_health_check: {}",
            )
            .backend(Kind::Refuse),
            "/failed_active_hc",
        ),
        healthy(spoken(
            "a host that gives the right answer is healthy",
            ping,
            vec![Act::Read(4), send("xpong"), pause(3000)],
        )),
        failed(
            spoken(
                "a host that gives another answer is not healthy",
                ping,
                vec![Act::Read(4), send("wrong"), pause(3000)],
            ),
            "/failed_active_hc/active_hc_timeout",
        ),
        failed(
            spoken(
                "a host that closes before its answer is not healthy",
                ping,
                vec![Act::Read(4), Act::Close],
            ),
            "/failed_active_hc",
        ),
        healthy(spoken(
            "a host that speaks first is listened to",
            "receive: [{ text: 706f6e67 }]",
            vec![send("pong"), pause(3000)],
        )),
        healthy(spoken(
            "a check begins with a PROXY header of version 2",
            &format!("{ping}, proxy_protocol_config: {{ version: V2 }}"),
            vec![Act::Read(20), send("pong"), pause(3000)],
        )),
        spoken(
            "a check that has failed by its connection fails again when that ends",
            ping,
            vec![Act::Read(4), send("pong"), pause(100), Act::Close],
        )
        .wait(600)
        .shows([
            "stat cluster.@backend.health_check.success: 1",
            "stat cluster.@backend.health_check.network_failure: 1",
            "stat cluster.@backend.membership_healthy: 0",
        ]),
    ]
}

/// A message `grpc.health.v1.HealthCheckResponse` with this status.
fn health(status: u8) -> Response {
    let mut response = with_fields(ok(""), "content-type: application/grpc");
    response.body = vec![0, 0, 0, 0, 2, 8, status];
    with_trailers(response, "grpc-status: 0")
}

fn grpc() -> Vec<Case> {
    let call = |title, fields: &str, response: Script| {
        checked(title, &format!("grpc_health_check: {{ {fields} }}"))
            .upstream_http2()
            .backend(Kind::Http2(vec![response]))
    };
    let trailers_only =
        |status: u16, fields: &str| reply(with_fields(self::status(status, ""), fields));
    vec![
        healthy(call("a service that serves is healthy", "", reply(health(1)))).shows([
            "> :path: /grpc.health.v1.Health/Check",
            "> content-type: application/grpc",
            "> te: trailers",
            "> grpc-timeout: 1000m",
            "> user-agent: Envoy/HC",
        ]),
        healthy(call(
            "a check names its service and authority and has metadata",
            "service_name: orders, authority: grpc.example, initial_metadata: [{ header: { key: x-check, value: one } }]",
            reply(health(1)),
        ))
        .shows(["> x-check: one"]),
        failed(
            call("a service that does not serve is not healthy", "", reply(health(2))),
            "/failed_active_hc",
        ),
        failed(
            call(
                "a service that is not known is not healthy",
                "",
                trailers_only(200, "content-type: application/grpc\ngrpc-status: 5"),
            ),
            "/failed_active_hc",
        ),
        failed(
            call("an answer that is no call's is not healthy", "", reply(ok("hello"))),
            "/failed_active_hc",
        ),
        failed(
            call("a call that HTTP answers with 503 is not healthy", "", trailers_only(503, "")),
            "/failed_active_hc",
        ),
        failed(
            call("a call that is reset is not healthy", "", acts([Act::Reset])),
            "/failed_active_hc",
        )
        .shows(["stat cluster.@backend.health_check.network_failure: 1"]),
        failed(
            call(
                "a call without a message is not healthy",
                "",
                reply(with_trailers(
                    with_fields(ok(""), "content-type: application/grpc"),
                    "grpc-status: 0",
                )),
            ),
            "/failed_active_hc",
        ),
    ]
}
