//! Where a request is tried again.

use super::unavailable;
use crate::case::{Case, case, http1, ok, reply, status};

/// A cluster with both backends, each given by its place in the list of endpoints and its further fields.
fn two_hosts(title: &'static str, fields: &str, localities: &str) -> Case {
    case(title)
        .routes(&format!(
            "- match: {{ prefix: / }}\n  route: {{ cluster: \"pair_@stat\", retry_policy: {{ retry_on: 5xx, {fields} }} }}"
        ))
        .and_backend("other", http1(reply(status(503, "other"))))
        .clusters(&format!(
            "- name: \"pair_@stat\"\n  connect_timeout: 1s\n  load_assignment:\n    cluster_name: x\n    endpoints:\n{}",
            crate::case::indent(localities, 4)
        ))
        .reply(unavailable())
}

fn host(name: &str) -> String {
    format!(
        "{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: @port:{name} }} }} }} }}"
    )
}

pub(super) fn hosts() -> Vec<Case> {
    let previous_hosts = "retry_host_predicate: [{ name: p, typed_config: { '@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate } }], host_selection_retry_max_attempts: 30";
    let priorities = |frequency: u32| {
        format!(
            "retry_priority: {{ name: p, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, update_frequency: {frequency} }} }}"
        )
    };
    let both = format!("- lb_endpoints: [{}, {}]", host("backend"), host("other"));
    // Five hosts where nobody listens, and a good one: a retry that may go to the five again fails sooner or later.
    let omitting = |title, predicate: &str, label: &str| {
        let dead = (2..7).map(|number| {
            format!(
                "{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.{number}, port_value: 1 }} }} }}, metadata: {{ filter_metadata: {{ envoy.lb: {{ {label} }} }} }} }}"
            )
        });
        let dead = dead.collect::<Vec<_>>().join(", ");
        let case = two_hosts(
            title,
            &format!(
                "retry_host_predicate: [{{ name: p, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.retry.host.{predicate} }} }}], host_selection_retry_max_attempts: 30"
            ),
            &format!("- lb_endpoints: [{dead}, {}]", host("backend")),
        )
        .router("suppress_envoy_headers: true")
        .reply(reply(ok("")))
        .log_format("%RESPONSE_CODE%", "");
        (0..8)
            .fold(case, |case, _| case.get("/"))
            .shows(["< 200"])
            .lacks(["< 503"])
    };
    let by_priority = format!(
        "- {{ priority: 0, lb_endpoints: [{}] }}\n- {{ priority: 1, lb_endpoints: [{}] }}",
        host("backend"),
        host("other")
    );
    vec![
        two_hosts(
            "previous_hosts sends a retry elsewhere",
            previous_hosts,
            &both,
        )
        .log_format("%RESPONSE_FLAGS% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "")
        .reply(reply(status(503, "other")))
        .get("/")
        .any_order()
        .shows([
            "< 503",
            "> connection 1: GET / HTTP/1.1",
            "> other connection 1: GET / HTTP/1.1",
        ])
        .lacks(["> connection 2*", "> other connection 2*"]),
        two_hosts(
            "previous_hosts takes a host again where there is no other",
            &format!("num_retries: 2, {previous_hosts}"),
            &format!("- lb_endpoints: [{}]", host("backend")),
        )
        .get("/")
        .shows(["< 503", "log attempts=3"]),
        omitting(
            "omit_canary_hosts keeps retries off canaries",
            "omit_canary_hosts.v3.OmitCanaryHostsPredicate",
            "canary: true",
        ),
        omitting(
            "omit_host_metadata keeps retries off hosts with those labels",
            "omit_host_metadata.v3.OmitHostMetadataConfig, metadata_match: { filter_metadata: { envoy.lb: { tier: old } } }",
            "tier: old, other: label",
        ),
        two_hosts(
            "previous_priorities sends a retry to the next priority",
            &priorities(1),
            &by_priority,
        )
        .get("/")
        .shows([
            "< 503",
            "< body other",
            "log attempts=2",
            "> connection 1: GET / HTTP/1.1",
            "> other connection 1: GET / HTTP/1.1",
        ]),
        two_hosts(
            "previous_priorities waits for its frequency",
            &format!("num_retries: 2, {}", priorities(2)),
            &by_priority,
        )
        .get("/")
        .shows([
            "< body other",
            "log attempts=3",
            "> connection 1: GET / HTTP/1.1",
        ]),
        two_hosts(
            "previous_priorities begins anew when all were tried",
            &format!("num_retries: 2, {}", priorities(1)),
            &by_priority,
        )
        .get("/")
        .shows(["< body no", "log attempts=3"]),
        two_hosts(
            "of the hosts that were tried the last one is logged",
            &priorities(1),
            &by_priority,
        )
        .log_format("%UPSTREAM_HOSTS_ATTEMPTED% %UPSTREAM_HOST%", "")
        .get("/")
        .shows(["log 127.0.0.1:@port:other 127.0.0.1:@port:other"]),
    ]
}
