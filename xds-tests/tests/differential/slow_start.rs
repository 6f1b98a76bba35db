//! Slow start: a host that becomes well later than another.
//!
//! Only what lets both have the same share can be compared: Envoy begins its schedule at a random place, so how few requests a host
//! gets that is held back differs a little from one start to the next; the story `checked_hosts` counts many. All cases begin at
//! once, since the second host is well 2 s after the proxy has started.

use crate::case::{Case, Kind, case, indent, ok, reply, status};

/// Six requests to two hosts, `old` and `new`, with this policy.
fn late(title: &'static str, policy: &str) -> Case {
    let host = |name| {
        format!(
            "{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: @port:{name} }} }} }} }}"
        )
    };
    let case = case(title)
        .clusters(&format!(
            "- name: c_@stat\n  connect_timeout: 1s\n  load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{}, {}] }}] }}\n  health_checks: [{{ timeout: 1s, interval: 60s, no_traffic_interval: 2s, no_traffic_healthy_interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {{ path: /hc }} }}]\n{}",
            host("backend"),
            host("new"),
            indent(policy, 2)
        ))
        .routes("- match: { prefix: / }\n  route: { cluster: c_@stat }")
        .reply(reply(ok("old")))
        .and_backend("new", Kind::Http1(vec![reply(status(503, "")), reply(ok("new"))]))
        .wait(3_500)
        .any_order()
        .connections_aside()
        .page("/clusters", "c_@stat::127.0.0.1:@port:new::health_flags")
        .stats(["cluster.c_@stat.health_check.attempt"]);
    (0..6).fold(case, |case, _| case.get("/")).shows([
        "page c_@stat::127.0.0.1:@port:new::health_flags::healthy",
        "stat cluster.c_@stat.health_check.attempt: 3",
        "< body old",
    ])
}

fn round_robin(fields: &str) -> String {
    format!("round_robin_lb_config: {{ slow_start_config: {{ {fields} }} }}")
}

pub fn cases() -> Vec<Case> {
    vec![
        late(
            "min_weight_percent is the share that a new host has at least",
            &round_robin("slow_start_window: 1000s, aggression: { default_value: 0.1, runtime_key: a }, min_weight_percent: { value: 100 }"),
        )
        .shows(["< body new"]),
        late(
            "aggression says how fast a new host gets its share",
            &round_robin("slow_start_window: 1000s, aggression: { default_value: 1000, runtime_key: a }, min_weight_percent: { value: 0 }"),
        )
        .shows(["< body new"]),
        late("without slow start a host has all of its share at once", "lb_policy: ROUND_ROBIN")
            .shows(["< body new"]),
    ]
}
