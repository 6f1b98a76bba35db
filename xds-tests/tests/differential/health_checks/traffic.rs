//! Who feels it when hosts fail their checks.

use super::{A, B, FLAGS, HTTP, checked, custom};
use crate::case::{Case, case, ok, reply, status, with_fields};

pub fn cases() -> Vec<Case> {
    let two = |health: &str| {
        format!(
            "load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{{ {A} }}, {{ {B} }}] }}] }}\n{health}"
        )
    };
    let no_panic = "common_lb_config: { healthy_panic_threshold: { value: 0 } }";
    let sick = |case: Case| case.reply(reply(status(503, "sick")));
    vec![
        checked("in panic a host that is not healthy gets requests", HTTP)
            .replies([reply(status(503, "")), reply(ok("hello"))])
            .get("/")
            .logs(1)
            .shows(["< 200", "stat cluster.@backend.lb_healthy_panic: 1"]),
        checked("without panic a host that is not healthy gets no requests", HTTP)
            .cluster(no_panic)
            .reply(reply(status(503, "")))
            .get("/")
            .logs(1)
            .shows(["< 503", "log flags=UH", "log details=no_healthy_upstream"]),
        sick(custom("only healthy hosts get requests", &two(no_panic)))
            .get("/")
            .get("/")
            .get("/")
            .shows([
                "< body other",
                "stat cluster.custom_@stat.membership_healthy: 1",
                "page custom_@stat::127.0.0.1:@port:backend::health_flags::/failed_active_hc",
                "page custom_@stat::127.0.0.1:@port:other::health_flags::healthy",
            ])
            .lacks(["< body sick"]),
        sick(custom(
            "the next priority takes over from hosts that are not healthy",
            &format!(
                "load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{{ {A} }}] }}, {{ priority: 1, lb_endpoints: [{{ {B} }}] }}] }}"
            ),
        ))
        .get("/")
        .shows(["< body other"]),
        custom(
            "degraded hosts get requests if no healthy one is left, and that is no panic",
            &format!("load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{{ {A} }}] }}] }}"),
        )
        .reply(reply(with_fields(ok("degraded"), "x-envoy-degraded: 1")))
        .get("/")
        .shows(["< body degraded", "stat cluster.custom_@stat.lb_healthy_panic: 0"]),
        custom(
            "a hashing policy leaves hosts out that are not healthy",
            &two(&format!("lb_policy: RING_HASH\n{no_panic}")),
        )
        .reply(reply(status(503, "sick")))
        .get("/1")
        .get("/2")
        .get("/3")
        .get("/4")
        .shows(["< body other"])
        .lacks(["< body sick"]),
        checked("a response that asks for it fails its host", HTTP)
            .replies([
                reply(ok("")),
                reply(with_fields(
                    ok("hello"),
                    "x-envoy-immediate-health-check-fail: true",
                )),
            ])
            .get("/")
            .wait(300)
            .logs(1)
            .shows([
                "stat cluster.@backend.health_check.passive_failure: 1",
                "stat cluster.@backend.membership_healthy: 0",
                "stat cluster.@backend.membership_excluded: 1",
                "page @backend::127.0.0.1:@port:backend::health_flags::/failed_active_hc/excluded_via_immediate_hc_fail",
            ]),
        case("a response that asks to fail its host changes nothing where hosts are not checked")
            .reply(reply(with_fields(
                ok("hello"),
                "x-envoy-immediate-health-check-fail: true",
            )))
            .get("/")
            .page("/clusters", FLAGS)
            .stats(["cluster.@backend.membership_healthy"])
            .shows([
                "stat cluster.@backend.membership_healthy: 1",
                "< x-envoy-immediate-health-check-fail: true",
            ]),
        checked("a health check of the proxy itself counts hosts that are healthy", HTTP)
            .replies([reply(status(503, ""))])
            .filters(
                "
                - name: health
                  typed_config:
                    \"@type\": \"@http/health_check.v3.HealthCheck\"
                    pass_through_mode: false
                    headers: [{ name: \":path\", string_match: { exact: /ready } }]
                    cluster_min_healthy_percentages: { @backend: { value: 50.0 } }",
            )
            .get("/ready")
            .logs(1)
            .shows(["< 503"]),
    ]
}
