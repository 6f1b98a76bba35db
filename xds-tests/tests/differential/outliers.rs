//! Outlier detection: which answers and failures eject a host, for how long, and who feels it.

use crate::case::{
    Act, Case, Kind, Script, With, acts, case, get, http1, late, ok, reply, request, status,
    with_fields,
};

pub fn cases() -> Vec<Case> {
    [
        consecutive(),
        limits(),
        origins(),
        intervals(),
        traffic(),
        matched(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const FLAGS: &str = "@backend::127.0.0.1:@port:backend::health_flags";
const EJECTED: &str = "page @backend::127.0.0.1:@port:backend::health_flags::/failed_outlier_check";
const WELL: &str = "page @backend::127.0.0.1:@port:backend::health_flags::healthy";

/// A cluster with outlier detection, whose page and stats are shown.
fn detected(title: &'static str, settings: &str) -> Case {
    let mut case = case(title)
        .cluster(&format!(
            "outlier_detection: {{ max_ejection_percent: 100, interval: 60s, {settings} }}"
        ))
        .page("/clusters", FLAGS)
        .page("/clusters", "@backend::outlier");
    for stat in [
        "ejections_active",
        "ejections_consecutive_5xx",
        "ejections_detected_consecutive_5xx",
        "ejections_detected_consecutive_gateway_failure",
        "ejections_detected_consecutive_local_origin_failure",
        "ejections_detected_degradation",
        "ejections_detected_failure_percentage",
        "ejections_detected_local_origin_failure_percentage",
        "ejections_detected_local_origin_success_rate",
        "ejections_detected_success_rate",
        "ejections_enforced_consecutive_5xx",
        "ejections_enforced_consecutive_gateway_failure",
        "ejections_enforced_consecutive_local_origin_failure",
        "ejections_enforced_failure_percentage",
        "ejections_enforced_success_rate",
        "ejections_enforced_total",
        "ejections_overflow",
        "ejections_success_rate",
        "ejections_total",
    ] {
        case.stats
            .push(format!("cluster.@backend.outlier_detection.{stat}"));
    }
    case.stats([
        "cluster.@backend.membership_healthy",
        "cluster.@backend.membership_degraded",
        "cluster.@backend.lb_healthy_panic",
    ])
}

/// What the cluster takes for errors.
fn matched() -> Vec<Case> {
    let by = |title, matcher: &str| {
        detected(title, "consecutive_5xx: 1").protocol_options(&format!(
            "explicit_http_config: {{ http_protocol_options: {{}} }}\noutlier_detection: {{ error_matcher: {{ {matcher} }} }}"
        ))
    };
    let bad = "http_response_headers_match: { headers: [{ name: x-bad, present_match: true }] }";
    let is_bad = || reply(with_fields(ok("bad"), "x-bad: 1"));
    vec![
        by("a response that the error matcher takes is an error", bad)
            .reply(is_bad())
            .get("/")
            .shows(["< 200", EJECTED]),
        by("a response that the error matcher leaves is none", bad)
            .reply(reply(status(503, "no")))
            .get("/")
            .shows(["< 503", WELL]),
        by("the error matcher may ask for a status", "http_response_headers_match: { headers: [{ name: \":status\", string_match: { exact: \"404\" } }] }")
            .reply(reply(status(404, "no")))
            .get("/")
            .shows(["< 404", EJECTED]),
        by("an error matcher may combine others", &format!("and_match: {{ rules: [{{ any_match: true }}, {{ not_match: {{ {bad} }} }}] }}"))
            .get("/")
            .shows(["< 200", EJECTED]),
        by("an error matcher does not see the request", "http_request_headers_match: { headers: [{ name: \":method\", present_match: true }] }")
            .reply(reply(status(503, "no")))
            .get("/")
            .shows(["< 503", WELL]),
        by("an error matcher sees the fields of gRPC responses", "http_response_headers_match: { headers: [{ name: grpc-status, string_match: { exact: \"5\" } }] }")
            .reply(reply(with_fields(ok(""), "content-type: application/grpc\ngrpc-status: 5")))
            .send(request("POST", "/").field("content-type", "application/grpc"))
            .shows([EJECTED]),
    ]
}

fn answers(case: Case, statuses: &[u16]) -> Case {
    let replies: Vec<Script> = statuses
        .iter()
        .map(|code| reply(status(*code, "x")))
        .collect();
    let mut case = case.replies(replies);
    for _ in statuses {
        case = case.get("/");
    }
    case.wait(150)
}

fn consecutive() -> Vec<Case> {
    vec![
        answers(detected("five responses of 500 in a row eject a host", ""), &[500; 5]).shows([
            EJECTED,
            "stat cluster.@backend.outlier_detection.ejections_active: 1",
            "stat cluster.@backend.outlier_detection.ejections_enforced_consecutive_5xx: 1",
            "stat cluster.@backend.membership_healthy: 0",
        ]),
        answers(
            detected("a good response between makes the count begin anew", ""),
            &[500, 500, 500, 200, 500, 500, 500],
        )
        .shows([WELL, "stat cluster.@backend.outlier_detection.ejections_active: 0"]),
        answers(
            detected("consecutive_5xx says how many it takes", "consecutive_5xx: 2"),
            &[500, 501],
        )
        .shows([EJECTED]),
        answers(
            detected("failures of gateways are found and not acted upon by default", "consecutive_5xx: 100"),
            &[502, 503, 504, 502, 503],
        )
        .shows([
            WELL,
            "stat cluster.@backend.outlier_detection.ejections_detected_consecutive_gateway_failure: 1",
        ]),
        answers(
            detected(
                "failures of gateways eject if they are to",
                "consecutive_5xx: 100, consecutive_gateway_failure: 2, enforcing_consecutive_gateway_failure: 100",
            ),
            &[503, 503],
        )
        .shows([
            EJECTED,
            "stat cluster.@backend.outlier_detection.ejections_enforced_consecutive_gateway_failure: 1",
        ]),
        answers(
            detected(
                "another error between makes the count of gateway failures begin anew",
                "consecutive_5xx: 100, consecutive_gateway_failure: 2, enforcing_consecutive_gateway_failure: 100",
            ),
            &[503, 500, 503],
        )
        .shows([WELL]),
        answers(
            detected("what is not enforced is counted", "enforcing_consecutive_5xx: 0"),
            &[500; 5],
        )
        .shows([
            WELL,
            "stat cluster.@backend.outlier_detection.ejections_detected_consecutive_5xx: 1",
            "stat cluster.@backend.outlier_detection.ejections_enforced_total: 0",
        ]),
        detected("the status of gRPC stands for that of HTTP", "consecutive_5xx: 2")
            .upstream_http2()
            .reply(reply(with_fields(
                ok(""),
                "content-type: application/grpc\ngrpc-status: 14",
            )))
            .send(request("POST", "/s/m").field("content-type", "application/grpc"))
            .send(request("POST", "/s/m").field("content-type", "application/grpc"))
            .http2()
            .wait(150)
            .shows([EJECTED]),
        detected("attempts that are retried count each", "consecutive_5xx: 3")
            .route("retry_policy: { retry_on: 5xx, num_retries: 2, retry_back_off: { base_interval: 0.001s } }", "")
            .reply(reply(status(500, "")))
            .get("/")
            .wait(150)
            .shows([EJECTED]),
    ]
}

fn limits() -> Vec<Case> {
    vec![
        answers(
            detected(
                "by default no more than a tenth of the hosts is ejected",
                "max_ejection_percent: 10, consecutive_5xx: 1",
            ),
            &[500],
        )
        .shows([
            WELL,
            "stat cluster.@backend.outlier_detection.ejections_overflow: 1",
        ]),
        answers(
            detected(
                "one host may be ejected whatever the share is",
                "max_ejection_percent: 10, consecutive_5xx: 1, always_eject_one_host: true",
            ),
            &[500],
        )
        .shows([EJECTED]),
    ]
}

fn origins() -> Vec<Case> {
    let split = "split_external_local_origin_errors: true, consecutive_local_origin_failure: 2, consecutive_5xx: 3";
    vec![
        detected("connections that fail count like responses of 503", "consecutive_5xx: 2")
            .backend(Kind::Refuse)
            .get("/")
            .get("/")
            .wait(150)
            .shows([EJECTED]),
        detected("responses that break off count like 503", "consecutive_5xx: 2")
            .reply(acts([Act::Reset]))
            .get("/")
            .get("/")
            .wait(150)
            .shows([EJECTED]),
        detected("responses that come too late count like 504", "consecutive_5xx: 2")
            .route("timeout: 0.1s", "")
            .reply(late(500, ""))
            .get("/")
            .get("/")
            .wait(150)
            .shows([EJECTED]),
        detected("attempts that come too late count like 504", "consecutive_5xx: 2")
            .route("retry_policy: { retry_on: 5xx, num_retries: 1, per_try_timeout: 0.1s, retry_back_off: { base_interval: 0.001s } }", "")
            .reply(late(500, ""))
            .get("/")
            .wait(150)
            .shows([EJECTED]),
        detected("with split origins connections that fail count apart", split)
            .backend(Kind::Refuse)
            .get("/")
            .get("/")
            .wait(150)
            .shows([
                EJECTED,
                "stat cluster.@backend.outlier_detection.ejections_enforced_consecutive_local_origin_failure: 1",
            ]),
        detected("with split origins timeouts are failures of the origin", split)
            .route("timeout: 0.1s", "")
            .reply(late(500, ""))
            .get("/")
            .get("/")
            .wait(150)
            .shows(["stat cluster.@backend.outlier_detection.ejections_detected_consecutive_5xx: 0"]),
        answers(
            detected("with split origins responses count for themselves", split),
            &[500, 500, 500],
        )
        .shows(["stat cluster.@backend.outlier_detection.ejections_enforced_consecutive_5xx: 1"]),
        detected("requests that their pool has no room for count nowhere", "consecutive_5xx: 1")
            .cluster("circuit_breakers: { thresholds: [{ max_requests: 0 }] }")
            .get("/")
            .wait(150)
            .shows([WELL, "log flags=UO"]),
        detected("a TCP connection that fails counts", "consecutive_5xx: 1")
            .network("- name: tcp\n  typed_config:\n    \"@type\": \"@net/tcp_proxy.v3.TcpProxy\"\n    stat_prefix: \"@stat\"\n    cluster: @backend\n")
            .access_log("[]")
            .backend(Kind::Refuse)
            .bytes("x")
            .step(crate::case::Step::ReadToEnd)
            .wait(150)
            .logs(0)
            .ends_somehow()
            .shows([EJECTED]),
    ]
}

fn intervals() -> Vec<Case> {
    vec![
        answers(
            detected(
                "an ejection ends after its time",
                "consecutive_5xx: 1, interval: 0.2s, base_ejection_time: 0.3s",
            ),
            &[500],
        )
        .wait(900)
        .shows([
            WELL,
            "stat cluster.@backend.outlier_detection.ejections_enforced_total: 1",
            "stat cluster.@backend.outlier_detection.ejections_active: 0",
        ]),
        answers(
            detected(
                "a share of failures is found in an interval",
                "consecutive_5xx: 100, interval: 1.5s, base_ejection_time: 60s, enforcing_failure_percentage: 100, failure_percentage_minimum_hosts: 1, failure_percentage_request_volume: 4, failure_percentage_threshold: 50, success_rate_minimum_hosts: 10",
            ),
            &[500, 500, 200, 500],
        )
        .wait(3200)
        .shows([
            EJECTED,
            "stat cluster.@backend.outlier_detection.ejections_enforced_failure_percentage: 1",
        ]),
        answers(
            detected(
                "too few requests are no share",
                "consecutive_5xx: 100, interval: 0.5s, enforcing_failure_percentage: 100, failure_percentage_minimum_hosts: 1, failure_percentage_request_volume: 10",
            ),
            &[500, 500],
        )
        .wait(1200)
        .shows([WELL]),
        answers(
            detected(
                "the page shows that there are no success rates",
                "consecutive_5xx: 100",
            ),
            &[200],
        )
        .shows([
            "page @backend::outlier::success_rate_average::-1",
            "page @backend::outlier::success_rate_ejection_threshold::-1",
            "page @backend::outlier::local_origin_success_rate_average::-1",
        ]),
    ]
}

fn traffic() -> Vec<Case> {
    const A: &str = "endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: @port:backend } } }";
    const B: &str = "endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: @port:other } } }";
    let two = |title: &'static str, assignment: &str| {
        case(title)
            .routes("- match: { prefix: / }\n  route: { cluster: custom_@stat }")
            .clusters(&format!(
                "- name: custom_@stat\n  connect_timeout: 1s\n  outlier_detection: {{ max_ejection_percent: 100, interval: 60s, consecutive_5xx: 1 }}\n{}",
                crate::case::indent(assignment, 2)
            ))
            .and_backend("other", http1(reply(ok("other"))))
            .reply(reply(status(500, "bad")))
    };
    let no_panic = "common_lb_config: { healthy_panic_threshold: { value: 0 } }";
    vec![
        two(
            "an ejected host gets no requests",
            &format!("load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{{ {A} }}, {{ {B} }}] }}] }}"),
        )
        .get("/")
        .wait(150)
        .get("/")
        .wait(150)
        .get("/")
        .get("/")
        .get("/")
        .get("/")
        .any_order()
        .stats(["cluster.custom_@stat.membership_healthy"])
        .access_log("[]")
        .logs(0)
        .shows(["stat cluster.custom_@stat.membership_healthy: 1"]),
        two(
            "the next priority takes over from ejected hosts",
            &format!("load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{{ {A} }}] }}, {{ priority: 1, lb_endpoints: [{{ {B} }}] }}] }}"),
        )
        .get("/")
        .wait(150)
        .get("/")
        .shows(["< body bad", "< body other"]),
        detected("an ejected host gets requests in panic", "consecutive_5xx: 1")
            .replies([reply(status(500, "")), reply(ok("hello"))])
            .get("/")
            .wait(150)
            .get("/")
            .shows(["< body hello", "stat cluster.@backend.lb_healthy_panic: 1"]),
        detected("an ejected host gets no requests without panic", "consecutive_5xx: 1")
            .cluster(no_panic)
            .reply(reply(status(500, "")))
            .get("/")
            .wait(150)
            .get("/")
            .shows(["< 503", "log flags=UH"]),
        detected(
            "a health check that succeeds takes an ejection back",
            "consecutive_5xx: 1, base_ejection_time: 60s",
        )
        .cluster("health_checks: [{ timeout: 1s, interval: 60s, no_traffic_interval: 3s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: { path: /hc, expected_statuses: [{ start: 200, end: 600 }] } }]")
        .reply(reply(status(500, "")))
        .get("/")
        .wait(150)
        .shows(["stat cluster.@backend.outlier_detection.ejections_enforced_total: 1"]),
        detected(
            "a response that calls its host degraded makes it so",
            "detect_degraded_hosts: true",
        )
        .reply(reply(with_fields(ok(""), "x-envoy-degraded: true")))
        .get("/")
        .wait(150)
        .shows([
            "page @backend::127.0.0.1:@port:backend::health_flags::/degraded_outlier_detection",
            "stat cluster.@backend.membership_degraded: 1",
            "stat cluster.@backend.outlier_detection.ejections_detected_degradation: 1",
        ]),
        detected(
            "a response that calls its host degraded does not count by itself",
            "consecutive_5xx: 100",
        )
        .reply(reply(with_fields(ok(""), "x-envoy-degraded: true")))
        .send(get("/"))
        .wait(150)
        .shows([WELL]),
    ]
}
