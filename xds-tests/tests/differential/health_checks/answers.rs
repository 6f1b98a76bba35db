//! What is made of the answer to a check by HTTP.

use super::{HTTP, checked, checked_at, failed, healthy};
use crate::case::{Act, Case, Kind, acts, late, ok, raw, reply, send, status, with_fields};

pub fn cases() -> Vec<Case> {
    let http = |title, fields: &str| {
        checked(
            title,
            &format!("http_health_check: {{ path: /hc, {fields} }}"),
        )
    };
    let text = |body: &str| reply(ok(body));
    vec![
        failed(
            checked("a host that answers 503 is not healthy", HTTP).reply(reply(status(503, ""))),
            "/failed_active_hc",
        ),
        failed(
            checked("an answer other than 200 is not expected", HTTP).reply(reply(status(204, ""))),
            "/failed_active_hc",
        ),
        healthy(
            http(
                "expected_statuses say what is healthy",
                "expected_statuses: [{ start: 404, end: 405 }]",
            )
            .reply(reply(status(404, ""))),
        ),
        failed(
            http(
                "the end of a range of statuses is not expected",
                "expected_statuses: [{ start: 200, end: 204 }]",
            )
            .reply(reply(status(204, ""))),
            "/failed_active_hc",
        ),
        healthy(
            http(
                "pieces of the body are found in their order",
                "receive: [{ text: 6f6e65 }, { binary: dHdv }]",
            )
            .reply(text("xx one, two")),
        ),
        failed(
            http(
                "pieces of the body in another order do not count",
                "receive: [{ text: 6f6e65 }, { binary: dHdv }]",
            )
            .reply(text("two, one")),
            "/failed_active_hc",
        ),
        failed(
            http(
                "no more of the body is looked at than response_buffer_size",
                "receive: [{ text: 6f6e65 }], response_buffer_size: 5",
            )
            .reply(text("xxxxone")),
            "/failed_active_hc",
        ),
        healthy(
            http(
                "without a response_buffer_size all of the body is looked at",
                "receive: [{ text: 6f6e65 }], response_buffer_size: 0",
            )
            .reply(text(&format!("{}one", "x".repeat(3000)))),
        ),
        healthy(
            http(
                "service_name_matcher takes the service that the host says it is",
                "service_name_matcher: { prefix: orders }",
            )
            .reply(reply(with_fields(
                ok(""),
                "x-envoy-upstream-healthchecked-cluster: orders-v2",
            ))),
        )
        .shows(["stat cluster.@backend.health_check.verify_cluster: 1"]),
        failed(
            http(
                "service_name_matcher refuses another service",
                "service_name_matcher: { prefix: orders }",
            )
            .reply(reply(with_fields(
                ok(""),
                "x-envoy-upstream-healthchecked-cluster: carts",
            ))),
            "/failed_active_hc",
        ),
        failed(
            http(
                "service_name_matcher refuses a host that does not say what it is",
                "service_name_matcher: { prefix: orders }",
            ),
            "/failed_active_hc",
        ),
        checked("a host that calls itself degraded is", HTTP)
            .reply(reply(with_fields(ok(""), "x-envoy-degraded: true")))
            .shows([
                "stat cluster.@backend.membership_degraded: 1",
                "stat cluster.@backend.membership_healthy: 0",
                "stat cluster.@backend.health_check.degraded: 1",
                "page @backend::127.0.0.1:@port:backend::health_flags::/degraded_active_hc",
            ]),
        failed(
            checked("a host that asks to be excluded counts nowhere", HTTP).reply(reply(
                with_fields(status(503, ""), "x-envoy-immediate-health-check-fail: true"),
            )),
            "/failed_active_hc/excluded_via_immediate_hc_fail",
        )
        .shows(["stat cluster.@backend.membership_excluded: 1"]),
        failed(
            checked("a host that refuses connections is not healthy", HTTP).backend(Kind::Refuse),
            "/failed_active_hc",
        )
        .shows(["stat cluster.@backend.health_check.network_failure: 1"]),
        failed(
            checked(
                "a host that closes instead of answering is not healthy",
                HTTP,
            )
            .reply(acts([Act::Close])),
            "/failed_active_hc",
        ),
        failed(
            checked("a host that answers rubbish is not healthy", HTTP)
                .reply(acts([send("rubbish\r\n\r\n"), Act::Close])),
            "/failed_active_hc",
        ),
        failed(
            checked_at(
                "a host that does not answer in time is not healthy",
                "timeout: 0.2s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1",
                HTTP,
            )
            .reply(late(600, "late")),
            "/failed_active_hc/active_hc_timeout",
        ),
        failed(
            checked_at(
                "a host whose backlog is full is not healthy",
                "timeout: 0.2s, interval: 60s, unhealthy_threshold: 1, healthy_threshold: 1",
                HTTP,
            )
            .backend(Kind::Deaf),
            "/failed_active_hc/active_hc_timeout",
        ),
        healthy(
            checked("an answer without a length ends with its connection", HTTP)
                .reply(acts([send("HTTP/1.1 200 OK\r\n\r\nhello"), Act::Close])),
        ),
        healthy(
            checked("an informational answer is not the answer", HTTP).reply(raw(
                "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            )),
        ),
    ]
}
