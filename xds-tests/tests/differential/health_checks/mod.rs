//! Active health checks: what is asked, what is made of the answer, and who feels it.
//!
//! A proxy is ready when each host has been checked once, so that a case begins with what the first check found. Cases in which
//! more follow say by their intervals how many those are.

mod answers;
mod endpoints;
mod logs;
mod protocols;
mod redis;
mod requests;
mod thresholds;
mod traffic;

use crate::case::{Case, case, http1, ok, reply};

pub fn cases() -> Vec<Case> {
    [
        requests::cases(),
        answers::cases(),
        thresholds::cases(),
        endpoints::cases(),
        protocols::cases(),
        traffic::cases(),
        logs::cases(),
        redis::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const FLAGS: &str = "@backend::127.0.0.1:@port:backend::health_flags";

/// A cluster whose hosts are checked, by default no more than once.
fn checked(title: &'static str, check: &str) -> Case {
    checked_at(
        title,
        "timeout: 1s, interval: 60s, unhealthy_threshold: 3, healthy_threshold: 3",
        check,
    )
}

/// The same with other times and thresholds.
fn checked_at(title: &'static str, times: &str, check: &str) -> Case {
    case(title)
        .cluster(&format!("health_checks: [{{ {times}, {check} }}]"))
        .page("/clusters", FLAGS)
        .stats([
            "cluster.@backend.health_check.attempt",
            "cluster.@backend.health_check.success",
            "cluster.@backend.health_check.failure",
            "cluster.@backend.health_check.network_failure",
            "cluster.@backend.health_check.passive_failure",
            "cluster.@backend.health_check.healthy",
            "cluster.@backend.health_check.degraded",
            "cluster.@backend.health_check.verify_cluster",
            "cluster.@backend.membership_healthy",
            "cluster.@backend.membership_degraded",
            "cluster.@backend.membership_excluded",
            "cluster.@backend.membership_total",
            "cluster.@backend.membership_change",
            "cluster.@backend.lb_healthy_panic",
        ])
        .logs(0)
}

const HTTP: &str = "http_health_check: { path: /hc }";

fn healthy(case: Case) -> Case {
    case.shows([
        "stat cluster.@backend.health_check.success: 1",
        "stat cluster.@backend.membership_healthy: 1",
        "page @backend::127.0.0.1:@port:backend::health_flags::healthy",
    ])
}

fn failed(case: Case, flags: &str) -> Case {
    let mut case = case.shows([
        "stat cluster.@backend.health_check.failure: 1",
        "stat cluster.@backend.membership_healthy: 0",
    ]);
    case.shows.push(format!("page {FLAGS}::{flags}"));
    case
}

/// A route to a cluster of this YAML.
fn custom(title: &'static str, yaml: &str) -> Case {
    case(title)
        .routes("- match: { prefix: / }\n  route: { cluster: custom_@stat }")
        .clusters(&format!(
            "- name: custom_@stat\n  connect_timeout: 1s\n  health_checks: [{{ timeout: 1s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {{ path: /hc }} }}]\n{}",
            crate::case::indent(yaml, 2)
        ))
        .and_backend("other", http1(reply(ok("other"))))
        .page("/clusters", "custom_@stat::127.0.0.1:@port:backend::health_flags")
        .page("/clusters", "custom_@stat::127.0.0.1:@port:other::health_flags")
        .stats([
            "cluster.custom_@stat.health_check.attempt",
            "cluster.custom_@stat.health_check.healthy",
            "cluster.custom_@stat.membership_healthy",
            "cluster.custom_@stat.membership_total",
            "cluster.custom_@stat.lb_healthy_panic",
        ])
}

const A: &str =
    "endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: @port:backend } } }";

const B: &str =
    "endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: @port:other } } }";
