//! When a host is asked again, and how often it takes to change what is known of it.

use super::{HTTP, checked_at};
use crate::case::{Act, Case, Script, acts, ok, pause, reply, status, with_fields};

/// What follows on the first check: without traffic a healthy host is asked after `no_traffic_healthy_interval`, any other after
/// `no_traffic_interval`.
pub fn cases() -> Vec<Case> {
    let again_if_healthy = "timeout: 1s, interval: 60s, unhealthy_threshold: 3, healthy_threshold: 2, no_traffic_interval: 60s, no_traffic_healthy_interval: 0.1s";
    let again_if_not = "timeout: 1s, interval: 60s, unhealthy_threshold: 3, healthy_threshold: 2, no_traffic_interval: 0.1s, no_traffic_healthy_interval: 60s";
    let retriable =
        "http_health_check: { path: /hc, retriable_statuses: [{ start: 500, end: 504 }] }";
    let often = "timeout: 1s, interval: 60s, unhealthy_threshold: 3, healthy_threshold: 2, no_traffic_interval: 0.1s";
    let turns = |second: Script| [reply(ok("")), second];
    vec![
        checked_at("one bad answer fails a host whatever the threshold", again_if_healthy, HTTP)
            .replies(turns(reply(status(503, ""))))
            .wait(700)
            .shows([
                "stat cluster.@backend.health_check.attempt: 2",
                "stat cluster.@backend.membership_healthy: 0",
                "page @backend::127.0.0.1:@port:backend::health_flags::/failed_active_hc",
            ]),
        checked_at("one retriable answer fails no host below the threshold", again_if_healthy, retriable)
            .replies(turns(reply(status(503, ""))))
            .wait(700)
            .shows([
                "stat cluster.@backend.health_check.failure: 1",
                "stat cluster.@backend.membership_healthy: 1",
                "page @backend::127.0.0.1:@port:backend::health_flags::healthy",
            ]),
        checked_at("an answer beside the retriable ones fails a host at once", again_if_healthy, retriable)
            .replies(turns(reply(status(404, ""))))
            .wait(700)
            .shows(["stat cluster.@backend.membership_healthy: 0"]),
        checked_at("one lost connection fails no host below the threshold", again_if_healthy, HTTP)
            .replies(turns(acts([Act::Close])))
            .wait(700)
            .shows([
                "stat cluster.@backend.health_check.network_failure: 1",
                "stat cluster.@backend.membership_healthy: 1",
            ]),
        checked_at(
            "as many lost connections as the threshold fail a host",
            "timeout: 20s, interval: 60s, unhealthy_threshold: 2, healthy_threshold: 2, no_traffic_interval: 0.3s, no_traffic_healthy_interval: 0.1s",
            HTTP,
        )
        .replies([
            reply(ok("")),
            acts([Act::Close]),
            acts([Act::Close]),
            acts([pause(20_000)]),
        ])
        .wait(1500)
        .shows([
            "stat cluster.@backend.health_check.attempt: 4",
            "stat cluster.@backend.health_check.network_failure: 2",
            "stat cluster.@backend.membership_healthy: 0",
        ]),
        checked_at("a failed host needs as many good answers as the threshold", again_if_not, HTTP)
            .replies([reply(status(503, "")), reply(ok(""))])
            .wait(900)
            .shows([
                "stat cluster.@backend.health_check.attempt: 3",
                "stat cluster.@backend.health_check.success: 2",
                "stat cluster.@backend.membership_healthy: 1",
                "page @backend::127.0.0.1:@port:backend::health_flags::healthy",
            ]),
        checked_at("a connection is used again", again_if_healthy, HTTP)
            .replies(turns(reply(status(503, ""))))
            .wait(700)
            .shows(["> connection 1: GET /hc HTTP/1.1", "> connection 1: GET /hc HTTP/1.1"])
            .lacks(["> connection 2*"]),
        checked_at(
            "a connection is used once if it says so",
            &format!("{again_if_healthy}, reuse_connection: false"),
            HTTP,
        )
        .replies(turns(reply(status(503, ""))))
        .wait(700)
        .shows(["> connection 2: GET /hc HTTP/1.1"]),
        checked_at("a connection that the host closes is not used again", again_if_healthy, HTTP)
            .replies([
                reply(with_fields(ok(""), "connection: close")),
                reply(status(503, "")),
            ])
            .wait(700)
            .shows(["> connection 2: GET /hc HTTP/1.1", "stat cluster.@backend.health_check.network_failure: 0"]),
        checked_at(
            "no_traffic_interval holds for healthy hosts too where they have none of their own",
            "timeout: 20s, interval: 60s, unhealthy_threshold: 3, healthy_threshold: 2, no_traffic_interval: 0.2s",
            HTTP,
        )
        .replies([reply(ok("")), reply(ok("")), acts([pause(20_000)])])
        .wait(1500)
        .shows([
            "stat cluster.@backend.health_check.attempt: 3",
            "stat cluster.@backend.health_check.success: 2",
        ]),
        // So much of it that the next check is days away; how it is bounded is seen elsewhere.
        checked_at("interval_jitter is added to intervals", &format!("{often}, interval_jitter: 10000000s"), HTTP)
            .wait(1500)
            .shows(["stat cluster.@backend.health_check.attempt: 1"]),
        checked_at(
            "interval_jitter_percent is added to intervals",
            &format!("{often}, interval_jitter_percent: 4000000000"),
            HTTP,
        )
        .wait(1500)
        .shows(["stat cluster.@backend.health_check.attempt: 1"]),
    ]
}
