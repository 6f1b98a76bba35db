//! The event log of checks.

use super::{A, HTTP, checked_at};
use crate::case::{
    Act, Case, Kind, Script, acts, case, late, ok, pause, reply, send, status, with_fields,
};

pub fn cases() -> Vec<Case> {
    let log = "event_logger: [{ name: file, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink, event_log_path: @log } }]";
    let again = "timeout: 1s, interval: 60s, unhealthy_threshold: 3, healthy_threshold: 2, no_traffic_interval: 60s, no_traffic_healthy_interval: 0.1s";
    let logged = |title, more: &str, lines: usize| {
        checked_at(title, &format!("{again}{more}"), &format!("{HTTP}, {log}"))
            .access_log("[]")
            .digits_aside()
            .logs(lines)
    };
    let one = |title: &'static str, more: &str, replies: Vec<Script>, lines: usize| {
        logged(title, more, lines).replies(replies).wait(700)
    };
    let once = |title, check: &str, lines: usize| {
        checked_at(
            title,
            "timeout: 0.5s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1",
            &format!("{check}, {log}"),
        )
        .access_log("[]")
        .digits_aside()
        .logs(lines)
    };
    vec![
        one(
            "the event log tells that a host becomes healthy and fails",
            "",
            vec![reply(ok("")), reply(status(503, ""))],
            2,
        )
        .shows(["log {\"health_checker_type\":\"HTTP\"*"]),
        one(
            "the event log tells that the first check fails",
            "",
            vec![reply(status(503, ""))],
            1,
        )
        .shows(["log {\"health_checker_type\":\"HTTP\"*"]),
        one(
            "the event log tells of all failures if it is to",
            ", always_log_health_check_failures: true",
            vec![reply(ok("")), acts([Act::Close])],
            2,
        )
        .shows(["log {\"health_checker_type\":\"HTTP\"*"]),
        one(
            "the event log tells of all successes if it is to",
            ", always_log_health_check_success: true",
            vec![reply(ok("")), reply(ok("")), reply(status(503, ""))],
            3,
        )
        .shows(["log {\"health_checker_type\":\"HTTP\"*"]),
        one(
            "the event log tells that a host becomes degraded",
            "",
            vec![
                reply(with_fields(ok(""), "x-envoy-degraded: 1")),
                reply(status(503, "")),
            ],
            3,
        )
        .shows(["log {\"health_checker_type\":\"HTTP\"*"]),
        one(
            "the event log tells that a degraded host is well again",
            "",
            vec![
                reply(with_fields(ok(""), "x-envoy-degraded: 1")),
                reply(ok("")),
                reply(status(503, "")),
            ],
            4,
        )
        .shows(["log *\"no_longer_degraded_host\":{}*"]),
        checked_at(
            "the event log tells that a response has failed its host",
            "timeout: 1s, interval: 60s, unhealthy_threshold: 3, healthy_threshold: 2",
            &format!("{HTTP}, {log}"),
        )
        .access_log("[]")
        .digits_aside()
        .replies([
            reply(ok("")),
            reply(with_fields(ok(""), "x-envoy-immediate-health-check-fail: true")),
        ])
        .get("/")
        .wait(300)
        .logs(2)
        .shows(["log *\"eject_unhealthy_event\":{\"failure_type\":\"PASSIVE\",\"http_status_code\":N}*"]),
        once("the event log tells of failures of the network", HTTP, 2)
            .reply(acts([Act::Close]))
            .shows(["log *\"health_check_failure_event\":{\"failure_type\":\"NETWORK\",\"first_check\":true*"]),
        once("the event log tells of answers that come too late", HTTP, 1)
            .reply(late(2000, ""))
            .shows(["log *\"health_check_failure_event\":{\"failure_type\":\"NETWORK_TIMEOUT\",\"first_check\":true*"]),
        once("the event log tells of checks by TCP", "tcp_health_check: {}", 1)
            .shows(["log {\"health_checker_type\":\"TCP\"*"]),
        once("the event log tells of checks by gRPC", "grpc_health_check: {}", 2)
            .upstream_http2()
            .shows(["log {\"health_checker_type\":\"GRPC\"*"]),
        once(
            "the event log tells of checks of a Redis",
            "custom_health_check: { name: r, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.health_checkers.redis.v3.Redis } }",
            1,
        )
        .backend(Kind::Tcp(vec![vec![Act::Read(14), send("+PONG\r\n"), pause(3000)]]))
        .shows(["log {\"health_checker_type\":\"REDIS\"*"]),
        case("the event log tells where a host is and what is said of it")
            .clusters(&format!(
                "- name: custom_@stat\n  connect_timeout: 1s\n  health_checks: [{{ timeout: 1s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1, {HTTP}, {log} }}]\n  load_assignment: {{ cluster_name: c, endpoints: [{{ locality: {{ region: r, zone: z, sub_zone: s }}, lb_endpoints: [{{ {A}, metadata: {{ filter_metadata: {{ envoy.lb: {{ list: [1, a, true] }} }} }} }}] }}] }}\n"
            ))
            .access_log("[]")
            .digits_aside()
            .logs(1)
            .shows(["log *\"locality\":{\"region\":\"r\",\"zone\":\"z\",\"sub_zone\":\"s\"}*"]),
    ]
}
