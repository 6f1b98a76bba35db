//! Hosts that fail over time: when they are checked again, for how long they are ejected, and what ends with them.

use crate::case::{Act, Case, Kind, Script, acts, case, get, http1, late, ok, reply, status};

pub fn cases() -> Vec<Case> {
    [
        intervals(),
        several(),
        connections(),
        ejections(),
        local_origins(),
        breakers(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A cluster whose second check comes after 2 s, by which time it has had traffic: from then on its intervals count.
fn checked(title: &'static str, times: &str, replies: [Script; 3]) -> Case {
    case(title)
        .cluster(&format!(
            "health_checks: [{{ timeout: 1s, no_traffic_interval: 2s, {times}, http_health_check: {{ path: /hc, retriable_statuses: [{{ start: 500, end: 501 }}] }} }}]"
        ))
        .replies(replies)
        .get("/")
        .wait(3_500)
        .logs(1)
        .stats([
            "cluster.@backend.health_check.attempt",
            "cluster.@backend.health_check.success",
            "cluster.@backend.health_check.failure",
            "cluster.@backend.membership_healthy",
        ])
}

fn well() -> Script {
    reply(ok("well"))
}

fn ill() -> Script {
    reply(status(503, "ill"))
}

const TWICE: &str = "stat cluster.@backend.health_check.attempt: 2";

fn intervals() -> Vec<Case> {
    vec![
        checked(
            "interval says when a healthy host with traffic is checked again",
            "interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1",
            [well(), well(), well()],
        )
        .shows([TWICE, "stat cluster.@backend.membership_healthy: 1"]),
        checked(
            "unhealthy_interval says when a host that is not healthy is checked again",
            "interval: 0.2s, unhealthy_interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1",
            [ill(), well(), ill()],
        )
        .shows([TWICE, "stat cluster.@backend.membership_healthy: 0"]),
        checked(
            "unhealthy_edge_interval says when a host that begins to fail is checked again",
            "interval: 0.2s, unhealthy_interval: 0.2s, unhealthy_edge_interval: 60s, unhealthy_threshold: 3, healthy_threshold: 1",
            [well(), well(), reply(status(500, "hm"))],
        )
        .shows([TWICE, "stat cluster.@backend.health_check.failure: 1", "stat cluster.@backend.membership_healthy: 1"]),
        checked(
            "healthy_edge_interval says when a host that begins to recover is checked again",
            "interval: 0.2s, unhealthy_interval: 0.2s, healthy_edge_interval: 60s, unhealthy_threshold: 1, healthy_threshold: 3",
            [ill(), well(), well()],
        )
        .shows([TWICE, "stat cluster.@backend.health_check.success: 1", "stat cluster.@backend.membership_healthy: 0"]),
        case("no_traffic_healthy_interval says when a healthy host without traffic is checked again")
            .cluster("health_checks: [{ timeout: 1s, interval: 0.2s, no_traffic_interval: 0.2s, no_traffic_healthy_interval: 60s, unhealthy_threshold: 1, healthy_threshold: 2, http_health_check: { path: /hc } }]")
            .replies([ill(), well()])
            .wait(1_500)
            .logs(0)
            .stats(["cluster.@backend.health_check.attempt", "cluster.@backend.membership_healthy"])
            .shows(["stat cluster.@backend.health_check.attempt: 3", "stat cluster.@backend.membership_healthy: 1"]),
    ]
}

fn several() -> Vec<Case> {
    let named = |title: &'static str, checks: &[(&str, &str)]| {
        let times = "timeout: 1s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1";
        let checks: Vec<_> = checks
            .iter()
            .map(|(name, check)| format!("{{ name: {name}, {times}, {check} }}"))
            .collect();
        case(title)
            .cluster(&format!("health_checks: [{}]", checks.join(", ")))
            .page("/clusters", FLAGS)
            .page("/stats", "cluster.@backend.health_check.")
            .stats([
                "cluster.@backend.membership_healthy",
                "cluster.@backend.membership_degraded",
            ])
            .any_order()
            .connections_aside()
            .logs(0)
    };
    const HTTP: &str = "http_health_check: { path: /hc }";
    const TCP: &str = "tcp_health_check: {}";
    vec![
        named(
            "a health check with a name counts below it",
            &[("one", HTTP)],
        )
        .shows([
            "page cluster.@backend.health_check.name.one.attempt: 1",
            "stat cluster.@backend.membership_healthy: 1",
        ]),
        named(
            "a host is healthy when all of several checks say so",
            &[("one", HTTP), ("two", TCP)],
        )
        .shows([
            "page cluster.@backend.health_check.name.one.success: 1",
            "page cluster.@backend.health_check.name.two.success: 1",
            "page cluster.@backend.health_check.healthy: 1",
            "stat cluster.@backend.membership_healthy: 1",
        ]),
        named(
            "a host that one of several checks fails is not healthy",
            &[("one", HTTP), ("two", TCP)],
        )
        .reply(ill())
        .shows([
            "page cluster.@backend.health_check.name.one.failure: 1",
            "page cluster.@backend.health_check.name.two.success: 1",
            "page @backend::127.0.0.1:@port:backend::health_flags::/failed_active_hc",
            "stat cluster.@backend.membership_healthy: 0",
        ]),
        named(
            "a host that one of several checks calls degraded is",
            &[("one", HTTP), ("two", TCP)],
        )
        .reply(reply(crate::case::with_fields(
            ok(""),
            "x-envoy-degraded: true",
        )))
        .shows([
            "page @backend::127.0.0.1:@port:backend::health_flags::/degraded_active_hc",
            "stat cluster.@backend.membership_degraded: 1",
        ]),
    ]
}

/// A TCP connection whose host fails its second check.
fn proxied(title: &'static str, fields: &str) -> Case {
    case(title)
        .cluster(&format!(
            "health_checks: [{{ timeout: 1s, interval: 60s, no_traffic_interval: 2s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {{ path: /hc }} }}]\n{fields}"
        ))
        .network("- name: t\n  typed_config:\n    \"@type\": \"@net/tcp_proxy.v3.TcpProxy\"\n    stat_prefix: \"@stat\"\n    cluster: \"@backend\"")
        .replies([well(), well(), ill()])
        .get("/")
        .wait(3_200)
        .logs(0)
        .ends_somehow()
        .stats(["cluster.@backend.membership_healthy", "tcp.@stat.downstream_cx_total"])
}

fn connections() -> Vec<Case> {
    vec![
        proxied(
            "close_connections_on_host_health_failure ends TCP connections to a host that fails",
            "close_connections_on_host_health_failure: true",
        )
        .shows([
            "< body well",
            "stat cluster.@backend.membership_healthy: 0",
            "= connection 0: closed",
        ]),
        proxied("TCP connections outlive the health of their host", "").shows([
            "< body well",
            "stat cluster.@backend.membership_healthy: 0",
            "= connection 0: open",
        ]),
    ]
}

const FLAGS: &str = "@backend::127.0.0.1:@port:backend::health_flags";

/// A host that is ejected by each response of 500, and looked at ten times a second.
fn ejected(title: &'static str, times: &str) -> Case {
    case(title)
        .cluster(&format!(
            "outlier_detection: {{ max_ejection_percent: 100, interval: 0.2s, consecutive_5xx: 1, {times} }}"
        ))
        .reply(reply(status(500, "broken")))
        .page("/clusters", FLAGS)
        .stats([
            "cluster.@backend.outlier_detection.ejections_active",
            "cluster.@backend.outlier_detection.ejections_enforced_total",
        ])
}

/// Three hosts of which one fails; each gets the third part of the requests.
fn three(title: &'static str, settings: &str, bad: Script) -> Case {
    let hosts: Vec<_> = ["backend", "other", "third"]
        .iter()
        .map(|name| format!("{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: @port:{name} }} }} }} }}"))
        .collect();
    let case = case(title)
        .clusters(&format!(
            "- name: c_@stat\n  connect_timeout: 1s\n  load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{}] }}] }}\n  outlier_detection: {{ max_ejection_percent: 100, interval: 4s, base_ejection_time: 60s, consecutive_5xx: 100, {settings} }}\n",
            hosts.join(", ")
        ))
        .routes("- match: { prefix: / }\n  route: { cluster: c_@stat }")
        .reply(bad)
        .and_backend("other", http1(reply(ok("other"))))
        .and_backend("third", http1(reply(ok("third"))));
    (0..9)
        .fold(case, |case, _| case.get("/"))
        .wait(4_500)
        .any_order()
        .connections_aside()
        .page(
            "/clusters",
            "c_@stat::127.0.0.1:@port:backend::health_flags",
        )
        .stats([
            "cluster.c_@stat.outlier_detection.ejections_enforced_success_rate",
            "cluster.c_@stat.outlier_detection.ejections_detected_success_rate",
            "cluster.c_@stat.outlier_detection.ejections_enforced_failure_percentage",
            "cluster.c_@stat.outlier_detection.ejections_active",
        ])
}

fn ejections() -> Vec<Case> {
    vec![
        // Asked again and again, the host is ejected again as soon as it is back.
        (0..30)
            .fold(
                ejected("each ejection lasts longer than the one before", "base_ejection_time: 0.4s"),
                |case, _| case.get("/").wait(60),
            )
            .access_log("[]")
            .logs(0)
            .connections_aside()
            .shows(["stat cluster.@backend.outlier_detection.ejections_enforced_total: 3"]),
        ejected(
            "an ejection lasts no longer than max_ejection_time",
            "base_ejection_time: 0.4s, max_ejection_time: 0.4s",
        )
        .get("/")
        .wait(900)
        .get("/")
        .wait(900)
        .shows([
            "page @backend::127.0.0.1:@port:backend::health_flags::healthy",
            "stat cluster.@backend.outlier_detection.ejections_enforced_total: 2",
        ]),
        three(
            "a host whose success rate is far below the others is ejected",
            "success_rate_minimum_hosts: 3, success_rate_request_volume: 2, success_rate_stdev_factor: 500",
            reply(status(500, "broken")),
        )
        .shows([
            "stat cluster.c_@stat.outlier_detection.ejections_enforced_success_rate: 1",
            "page c_@stat::127.0.0.1:@port:backend::health_flags::/failed_outlier_check",
        ]),
        three(
            "success rates of fewer hosts than it takes eject none",
            "success_rate_minimum_hosts: 4, success_rate_request_volume: 2, success_rate_stdev_factor: 500",
            reply(status(500, "broken")),
        )
        .shows(["stat cluster.c_@stat.outlier_detection.ejections_active: 0"]),
        three(
            "a success rate that is not enforced is counted",
            "success_rate_minimum_hosts: 3, success_rate_request_volume: 2, success_rate_stdev_factor: 500, enforcing_success_rate: 0",
            reply(status(500, "broken")),
        )
        .shows([
            "stat cluster.c_@stat.outlier_detection.ejections_detected_success_rate: 1",
            "stat cluster.c_@stat.outlier_detection.ejections_active: 0",
        ]),
        three(
            "with split origins a host that breaks off has a success rate of its own",
            "split_external_local_origin_errors: true, consecutive_local_origin_failure: 100, success_rate_minimum_hosts: 3, success_rate_request_volume: 2, success_rate_stdev_factor: 500",
            acts([Act::Close]),
        )
        .stats(["cluster.c_@stat.outlier_detection.ejections_enforced_local_origin_success_rate"])
        .shows(["stat cluster.c_@stat.outlier_detection.ejections_enforced_success_rate: 0"]),
    ]
}

/// With split origins what counts is whether there is a connection: the first of three hosts takes none.
fn local_origins() -> Vec<Case> {
    const SPLIT: &str =
        "split_external_local_origin_errors: true, consecutive_local_origin_failure: 100";
    let split = |title, settings: &str| {
        three(title, &format!("{SPLIT}, {settings}"), well())
            .backend(Kind::Refuse)
            .stats([
                "cluster.c_@stat.outlier_detection.ejections_detected_local_origin_success_rate",
                "cluster.c_@stat.outlier_detection.ejections_enforced_local_origin_success_rate",
                "cluster.c_@stat.outlier_detection.ejections_detected_local_origin_failure_percentage",
                "cluster.c_@stat.outlier_detection.ejections_enforced_local_origin_failure_percentage",
            ])
            .page("/clusters", "c_@stat::outlier::local_origin_success_rate")
            .page("/clusters", "c_@stat::127.0.0.1:@port:backend::local_origin_success_rate")
    };
    const RATE: &str = "success_rate_minimum_hosts: 3, success_rate_request_volume: 2, success_rate_stdev_factor: 500";
    const SHARE: &str = "success_rate_minimum_hosts: 10, failure_percentage_minimum_hosts: 3, failure_percentage_request_volume: 2, failure_percentage_threshold: 50";
    vec![
        split("with split origins a host with few connections has a success rate far below the others", RATE)
            .shows([
                "stat cluster.c_@stat.outlier_detection.ejections_enforced_local_origin_success_rate: 1",
                "stat cluster.c_@stat.outlier_detection.ejections_enforced_success_rate: 0",
                "page c_@stat::127.0.0.1:@port:backend::health_flags::/failed_outlier_check",
            ]),
        split(
            "enforcing_local_origin_success_rate says whether it is ejected for that",
            &format!("{RATE}, enforcing_local_origin_success_rate: 0"),
        )
        .shows([
            "stat cluster.c_@stat.outlier_detection.ejections_detected_local_origin_success_rate: 1",
            "stat cluster.c_@stat.outlier_detection.ejections_active: 0",
        ]),
        split(
            "with split origins a share of connections that fail is found in an interval",
            &format!("{SHARE}, enforcing_failure_percentage_local_origin: 100"),
        )
        .shows([
            "stat cluster.c_@stat.outlier_detection.ejections_enforced_local_origin_failure_percentage: 1",
            "stat cluster.c_@stat.outlier_detection.ejections_enforced_failure_percentage: 0",
            "page c_@stat::127.0.0.1:@port:backend::health_flags::/failed_outlier_check",
        ]),
        split("a share of connections that fail is not acted upon by default", SHARE).shows([
            "stat cluster.c_@stat.outlier_detection.ejections_detected_local_origin_failure_percentage: 1",
            "stat cluster.c_@stat.outlier_detection.ejections_active: 0",
        ]),
    ]
}

fn breakers() -> Vec<Case> {
    vec![
        case("per_host_thresholds limit the connections of each host")
            .cluster("circuit_breakers: { per_host_thresholds: [{ max_connections: 1 }] }")
            .replies([late(400, "one"), reply(ok("two"))])
            .bytes("GET /1 HTTP/1.1\r\nhost: a\r\n\r\n")
            .wait(120)
            .on(1)
            .get("/2")
            .on(0)
            .read()
            .stats(["cluster.@backend.upstream_cx_total"])
            .shows(["< body one", "< body two", "stat cluster.@backend.upstream_cx_total: 1"]),
        case("everything that circuit breakers track is shown")
            .cluster("circuit_breakers: { thresholds: [{ max_connections: 3, max_pending_requests: 4, max_requests: 5, max_retries: 6, track_remaining: true }] }")
            .get("/")
            .page("/stats", "cluster.@backend.circuit_breakers.default.remaining_")
            .shows([
                "page cluster.@backend.circuit_breakers.default.remaining_cx: 2",
                "page cluster.@backend.circuit_breakers.default.remaining_rq: 5",
                "page cluster.@backend.circuit_breakers.default.remaining_retries: 6",
            ]),
        case("a limit that is reached is open")
            .cluster("circuit_breakers: { thresholds: [{ max_connections: 1 }] }")
            .get("/")
            .stats(["cluster.@backend.circuit_breakers.default.cx_open", "cluster.@backend.circuit_breakers.default.rq_open"])
            .shows([
                "stat cluster.@backend.circuit_breakers.default.cx_open: 1",
                "stat cluster.@backend.circuit_breakers.default.rq_open: 0",
            ]),
        case("max_requests counts its overflow by itself")
            .cluster("circuit_breakers: { thresholds: [{ max_requests: 0 }] }")
            .get("/")
            .stats(["cluster.@backend.upstream_rq_active_overflow", "cluster.@backend.upstream_rq_pending_overflow"])
            .shows([
                "< 503",
                "stat cluster.@backend.upstream_rq_active_overflow: 1",
                "stat cluster.@backend.upstream_rq_pending_overflow: 0",
            ]),
    ]
}

/// Ejections in a log of their own. The file is the process's, so there is one case.
pub fn log() -> Vec<Case> {
    vec![
        case("the event log tells of ejections and their ends")
            .bootstrap("cluster_manager: { outlier_detection: { event_log_path: \"@log\" } }")
            .access_log("[]")
            .cluster("outlier_detection: { max_ejection_percent: 100, interval: 0.1s, consecutive_5xx: 1, base_ejection_time: 0.3s, consecutive_gateway_failure: 2, enforcing_consecutive_gateway_failure: 0 }")
            .replies([reply(status(500, "broken"))])
            .send(get("/"))
            .wait(900)
            .logs(2)
            .digits_aside()
            .page("/clusters", FLAGS)
            .shows(["page @backend::127.0.0.1:@port:backend::health_flags::healthy"]),
    ]
}
