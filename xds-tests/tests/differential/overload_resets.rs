//! The action `reset_high_memory_stream`. It acts when it becomes stronger or weaker, which a second connection brings about: each
//! case is a theme, since all connections of a process count.

use std::time::Duration;

use crate::case::{Case, Step, ok, reply};
use crate::frames::{DATA, frame, get, post, sends, setting, then};

/// An overload manager that counts connections, of which there may be ten.
pub fn counted(case: Case, fields: &str) -> Case {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/differential");
    case.bootstrap(&format!(
        "overload_manager:\n  refresh_interval: 0.1s\n  resource_monitors:\n  - name: envoy.resource_monitors.injected_resource\n    typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig, filename: \"{folder}/pressure_some.txt\" }}\n  - name: envoy.resource_monitors.global_downstream_max_connections\n    typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig, max_active_downstream_connections: 10 }}\n{}",
        crate::case::indent(fields, 2)
    ))
}

/// `power`: of two, from which on accounts matter. `trigger`: how strongly two connections of ten make the action hold.
fn resetting(case: Case, power: u32, trigger: &str) -> Case {
    counted(
        case,
        &format!(
            "actions:\n- name: envoy.overload_actions.reset_high_memory_stream\n  triggers: [{{ name: envoy.resource_monitors.global_downstream_max_connections, {trigger} }}]\nbuffer_factory_config: {{ minimum_account_to_track_power_of_two: {power} }}"
        ),
    )
    .log_format(
        "flags=%RESPONSE_FLAGS% details=%RESPONSE_CODE_DETAILS% code=%RESPONSE_CODE%",
        "",
    )
    .stats([
        "envoy.overload_actions.reset_high_memory_stream.count",
        "http2.tx_reset",
    ])
}

const IN_FULL: &str = "threshold: { value: 0.2 }";

const BUFFER: &str = "- name: buffer\n  typed_config: { \"@type\": \"@http/buffer.v3.Buffer\", max_request_bytes: 1000000 }";

/// A stream that holds 30,000 bytes of its request.
fn holding(title: &'static str) -> Case {
    let piece = frame(DATA, 0, 1, &[b'x'; 10_000]);
    sends(title, &[&post(&[])[..], &piece, &piece, &piece].concat()).filters(BUFFER)
}

/// Another connection comes, and the first one is looked at again.
fn crowded(case: Case) -> Case {
    let mut case = case
        .on(1)
        .step(Step::ReadFrames(Duration::from_millis(600)));
    // Which protocol a connection has on which nothing comes is nobody's business.
    case.stats.retain(|name| !name.ends_with("cx_http2_total"));
    case
}

pub fn request() -> Vec<Case> {
    let case = crowded(holding(
        "reset_high_memory_stream resets a stream that holds its request",
    ));
    // The connection has streams after it.
    let case = then(case, &get(3)).logs(2);
    vec![resetting(case, 10, IN_FULL).shows([
        "< RST_STREAM 1 INTERNAL_ERROR",
        "< HEADERS 3 200",
        "= connection 0: open",
        "log flags=OM details=overload code=0",
        "stat envoy.overload_actions.reset_high_memory_stream.count: 1",
        "stat http.@stat.downstream_rq_rx_reset: 1",
        "stat http.@stat.downstream_rq_tx_reset: 0",
    ])]
}

pub fn response() -> Vec<Case> {
    let narrow = setting(4, 100);
    let case = crowded(sends(
        "reset_high_memory_stream resets a stream whose client takes nothing",
        &[narrow, get(1)].concat(),
    ))
    .reply(reply(ok(&"x".repeat(4_000_000))))
    .logs(1);
    vec![resetting(case, 10, IN_FULL).shows([
        "< HEADERS 1 200",
        "< RST_STREAM 1 INTERNAL_ERROR",
        "log flags=OM details=overload code=200",
        "stat envoy.overload_actions.reset_high_memory_stream.count: 1",
    ])]
}

pub fn small() -> Vec<Case> {
    let case = crowded(holding(
        "reset_high_memory_stream leaves a stream that holds little",
    ))
    .logs(1);
    vec![resetting(case, 17, IN_FULL).shows([
        "= connection 0: open",
        "stat envoy.overload_actions.reset_high_memory_stream.count: 0",
    ])]
}

pub fn weak() -> Vec<Case> {
    let case = crowded(holding(
        "reset_high_memory_stream leaves all but the largest streams while it is weak",
    ))
    .logs(1);
    let trigger = "scaled: { scaling_threshold: 0.1, saturation_threshold: 0.9 }";
    vec![resetting(case, 13, trigger).shows([
        "= connection 0: open",
        "stat envoy.overload_actions.reset_high_memory_stream.count: 0",
    ])]
}
