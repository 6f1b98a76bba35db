//! Endpoints that say themselves how they are checked.

use super::custom;
use crate::case::Case;

/// The first endpoint with its own health checks.
fn with_config(config: &str) -> String {
    format!(
        "load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: @port:backend }} }}, health_check_config: {{ {config} }} }} }}] }}] }}"
    )
}

pub fn cases() -> Vec<Case> {
    vec![
        custom(
            "an endpoint is checked at another port",
            &with_config("port_value: @port:other"),
        )
        .logs(0)
        .shows([
            "stat cluster.custom_@stat.membership_healthy: 1",
            "> other connection 1: GET /hc HTTP/1.1",
        ])
        .lacks(["> connection 1*"]),
        custom(
            "an endpoint is checked at another address",
            &with_config(
                "address: { socket_address: { address: 127.0.0.1, port_value: @port:other } }",
            ),
        )
        .logs(0)
        .shows(["> other connection 1: GET /hc HTTP/1.1"]),
        custom(
            "the checks of an endpoint name its own host",
            &with_config("hostname: endpoint.example"),
        )
        .logs(0)
        .shows(["> host: endpoint.example"]),
        custom(
            "an endpoint that is not checked is healthy",
            &with_config("disable_active_health_check: true"),
        )
        .logs(0)
        .shows([
            "stat cluster.custom_@stat.health_check.attempt: 0",
            "stat cluster.custom_@stat.membership_healthy: 1",
        ]),
    ]
}
