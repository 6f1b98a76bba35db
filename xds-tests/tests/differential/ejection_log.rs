//! What the event log of outlier detection tells of each way to find a host out. The file is the process's, so there is one case.

use std::fmt::Write as _;

use crate::case::{Case, Kind, case, http1, ok, reply, status, with_fields};

/// Clusters: what they are called, their hosts, and what finds the first of them out. Rates are those of an interval; of four requests
/// in turn to two hosts either has one in the same interval wherever that ends.
const CLUSTERS: &[(&str, &[&str], &str)] = &[
    ("any", &["backend"], "consecutive_5xx: 4"),
    (
        "quiet",
        &["backend"],
        "consecutive_5xx: 4, enforcing_consecutive_5xx: 0",
    ),
    (
        "gateway",
        &["bad"],
        "consecutive_5xx: 100, consecutive_gateway_failure: 4, enforcing_consecutive_gateway_failure: 100",
    ),
    (
        "local",
        &["deaf"],
        "split_external_local_origin_errors: true, consecutive_local_origin_failure: 4",
    ),
    (
        "rate",
        &["backend", "good"],
        "consecutive_5xx: 100, success_rate_minimum_hosts: 2, success_rate_request_volume: 1, success_rate_stdev_factor: 500",
    ),
    (
        "local_rate",
        &["deaf", "good"],
        "split_external_local_origin_errors: true, consecutive_local_origin_failure: 100, success_rate_minimum_hosts: 2, success_rate_request_volume: 1, success_rate_stdev_factor: 500",
    ),
    (
        "share",
        &["backend", "good"],
        "consecutive_5xx: 100, success_rate_minimum_hosts: 10, enforcing_failure_percentage: 100, failure_percentage_minimum_hosts: 2, failure_percentage_request_volume: 1",
    ),
    (
        "local_share",
        &["deaf", "good"],
        "split_external_local_origin_errors: true, consecutive_local_origin_failure: 100, success_rate_minimum_hosts: 10, enforcing_failure_percentage_local_origin: 100, failure_percentage_minimum_hosts: 2, failure_percentage_request_volume: 1",
    ),
    ("soft", &["soft"], "detect_degraded_hosts: true"),
];

fn host(name: &&str) -> String {
    format!(
        "{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: @port:{name} }} }} }} }}"
    )
}

pub fn cases() -> Vec<Case> {
    let (mut clusters, mut routes) = (String::new(), String::new());
    for (name, hosts, settings) in CLUSTERS {
        let hosts: Vec<_> = hosts.iter().map(host).collect();
        let _ = write!(
            clusters,
            "- name: {name}_@stat\n  connect_timeout: 1s\n  load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{}] }}] }}\n  outlier_detection: {{ max_ejection_percent: 100, interval: 4s, base_ejection_time: 60s, {settings} }}\n",
            hosts.join(", ")
        );
        let _ = writeln!(
            routes,
            "- match: {{ path: /{name} }}\n  route: {{ cluster: {name}_@stat }}"
        );
    }
    let case = case("the event log tells what has found a host out")
        .bootstrap("cluster_manager: { outlier_detection: { event_log_path: \"@log\" } }")
        .access_log("[]")
        .clusters(&clusters)
        .routes(&routes)
        .reply(reply(status(500, "")))
        .and_backend("bad", http1(reply(status(503, ""))))
        .and_backend("deaf", Kind::Refuse)
        .and_backend("good", http1(reply(ok(""))))
        .and_backend(
            "soft",
            http1(reply(with_fields(ok(""), "x-envoy-degraded: 1"))),
        );
    let asked = CLUSTERS.iter().flat_map(|(name, ..)| [*name; 4]);
    let case = asked.fold(case, |case, name| case.get(&format!("/{name}")));
    vec![
        case.wait(9_000)
            .logs(CLUSTERS.len())
            .digits_aside()
            .any_order()
            .connections_aside()
            .shows([
                "log *\"type\":\"CONSECUTIVE_NXX\"*\"enforced\":true*",
                "log *\"type\":\"CONSECUTIVE_NXX\"*\"enforced\":false*",
                "log *\"type\":\"CONSECUTIVE_GATEWAY_FAILURE\"*",
                "log *\"type\":\"CONSECUTIVE_LOCAL_ORIGIN_FAILURE\"*",
                "log *\"type\":\"SUCCESS_RATE\"*",
                "log *\"type\":\"SUCCESS_RATE_LOCAL_ORIGIN\"*",
                "log *\"type\":\"FAILURE_PERCENTAGE\"*",
                "log *\"type\":\"FAILURE_PERCENTAGE_LOCAL_ORIGIN\"*",
            ]),
    ]
}
