//! The overload manager: what it turns away, and which timeouts it shortens. Each action and load-shed point is a theme, since it
//! holds for the whole process. A file says how much of an injected resource is used: all of it, or some.

use std::time::Duration;

use crate::case::{Case, Step, case, get, late, ok, reply};
use crate::frames;

/// An overload manager whose only resource is used as this file says.
fn manager(case: Case, pressure: &str, fields: &str) -> Case {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/differential");
    case.bootstrap(&format!(
        "overload_manager:\n  refresh_interval: 0.1s\n  resource_monitors:\n  - name: envoy.resource_monitors.injected_resource\n    typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig, filename: \"{folder}/{pressure}.txt\" }}\n{}",
        crate::case::indent(fields, 2)
    ))
    // The resource is looked at soon after the start.
    .wait(400)
}

const TRIGGER: &str =
    "triggers: [{ name: envoy.resource_monitors.injected_resource, threshold: { value: 0.9 } }]";
const SCALED: &str = "triggers: [{ name: envoy.resource_monitors.injected_resource, scaled: { scaling_threshold: 0.5, saturation_threshold: 1.0 } }]";

fn action(case: Case, name: &str) -> Case {
    manager(
        case,
        "pressure_all",
        &format!("actions: [{{ name: envoy.overload_actions.{name}, {TRIGGER} }}]"),
    )
}

pub fn point(case: Case, name: &str) -> Case {
    manager(
        case,
        "pressure_all",
        &format!("loadshed_points: [{{ name: envoy.load_shed_points.{name}, {TRIGGER} }}]"),
    )
}

pub const BYPASS: &str = "bypass_overload_manager: true";

pub fn requests() -> Vec<Case> {
    let stopped = |title| action(case(title), "stop_accepting_requests");
    vec![
        stopped("stop_accepting_requests answers with 503")
            .get("/")
            .stats([
                "http.@stat.downstream_rq_overload_close",
                "cluster.@backend.upstream_rq_total",
            ])
            .shows([
                "< 503",
                "< body envoy overloaded",
                "log details=overload",
                "= connection 0: open",
                "stat http.@stat.downstream_rq_overload_close: 1",
            ])
            .lacks(["< 200"])
            .both(),
        stopped("append_local_overload says who is overloaded")
            .hcm("append_local_overload: true")
            .get("/")
            .shows(["< 503", "< x-envoy-local-overloaded: true"]),
        stopped("a listener that bypasses the overload manager goes on to answer")
            .listener(BYPASS)
            .get("/")
            .shows(["< 200"]),
        stopped("the page of stats shows pressure and action")
            .page("/stats", "overload.envoy.")
            .shows([
                "page overload.envoy.overload_actions.stop_accepting_requests.active: 1",
                "page overload.envoy.overload_actions.stop_accepting_requests.scale_percent: 100",
                "page overload.envoy.resource_monitors.injected_resource.pressure: 100",
            ]),
    ]
}

pub fn keepalive() -> Vec<Case> {
    let disabled = |title| action(case(title), "disable_http_keepalive");
    vec![
        disabled("disable_http_keepalive ends an HTTP/1 connection with its response")
            .get("/")
            .ends_somehow()
            .stats(["http.@stat.downstream_cx_overload_disable_keepalive"])
            .shows([
                "< 200",
                "< connection: close",
                "stat http.@stat.downstream_cx_overload_disable_keepalive: 1",
            ]),
        disabled("disable_http_keepalive drains an HTTP/2 connection")
            .http2()
            .hcm("drain_timeout: 0.1s")
            .get("/")
            .wait(400)
            .stats([
                "http.@stat.downstream_cx_overload_disable_keepalive",
                "http.@stat.downstream_cx_active",
            ])
            .shows([
                "< 200",
                "stat http.@stat.downstream_cx_overload_disable_keepalive: 1",
            ]),
        disabled("a listener that bypasses the overload manager keeps its connections")
            .listener(BYPASS)
            .get("/")
            .get("/")
            .stats(["http.@stat.downstream_cx_total"])
            .shows(["< 200", "stat http.@stat.downstream_cx_total: 1"])
            .lacks(["< connection: close"]),
    ]
}

pub fn connections() -> Vec<Case> {
    let rejected = |title| action(case(title), "reject_incoming_connections");
    vec![
        rejected("reject_incoming_connections closes a connection at once")
            .bytes("")
            .wait(300)
            .stats(["http.@stat.downstream_cx_total"])
            .logs(0)
            .ends_somehow()
            .shows(["stat http.@stat.downstream_cx_total: 0"])
            .lacks(["< 200"]),
        rejected("a listener that bypasses the overload manager takes connections")
            .listener(BYPASS)
            .get("/")
            .shows(["< 200"]),
    ]
}

pub fn accept() -> Vec<Case> {
    vec![
        point(
            case("tcp_listener_accept closes a connection at once"),
            "tcp_listener_accept",
        )
        .bytes("")
        .wait(300)
        .stats([
            "http.@stat.downstream_cx_total",
            "overload.envoy.load_shed_points.tcp_listener_accept.scale_percent",
        ])
        .logs(0)
        .ends_somehow()
        .shows([
            "stat http.@stat.downstream_cx_total: 0",
            "stat overload.envoy.load_shed_points.tcp_listener_accept.scale_percent: 100",
        ]),
    ]
}

pub fn decode() -> Vec<Case> {
    vec![
        point(
            case("http_connection_manager_decode_headers answers with 503"),
            "http_connection_manager_decode_headers",
        )
        // Envoy logs nothing of it.
        .access_log("[]")
        .logs(0)
        .get("/")
        .stats([
            "http.@stat.downstream_rq_overload_close",
            "overload.envoy.load_shed_points.http_connection_manager_decode_headers.shed_load_count",
        ])
        .shows([
            "< 503",
            "< body envoy overloaded",
            "= connection 0: open",
            "stat http.@stat.downstream_rq_overload_close: 1",
            "stat overload.envoy.load_shed_points.http_connection_manager_decode_headers.shed_load_count: 1",
        ]),
    ]
}

pub fn codec() -> Vec<Case> {
    let shed = |title| point(case(title), "hcm_ondata_creating_codec");
    vec![
        shed("hcm_ondata_creating_codec closes a connection when its first bytes come")
            .get("/")
            .stats([
                "http.@stat.downstream_rq_overload_close",
                "http.@stat.downstream_cx_total",
            ])
            .logs(0)
            .ends_somehow()
            .shows(["stat http.@stat.downstream_cx_total: 1"])
            .lacks(["< 200", "< 503"]),
        shed("hcm_ondata_creating_codec closes a connection whose protocol is known")
            .hcm("codec_type: HTTP1")
            .get("/")
            .logs(0)
            .ends_somehow()
            .shows(["< no response", "= connection 0: closed"]),
    ]
}

pub fn abort() -> Vec<Case> {
    vec![
        point(
            case("http1_server_abort_dispatch answers with 500 and closes"),
            "http1_server_abort_dispatch",
        )
        .get("/")
        .ends_somehow()
        .stats([
            "http.@stat.downstream_rq_overload_close",
            "cluster.@backend.upstream_rq_total",
        ])
        .shows([
            "< 500",
            "< body Internal Server Error",
            "log flags=DPE",
            "log details=overload",
            "= connection 0: closed",
            "stat http.@stat.downstream_rq_overload_close: 1",
        ]),
    ]
}

pub fn go_away() -> Vec<Case> {
    vec![
        point(
            case("http2_server_go_away_on_dispatch serves what has come"),
            "http2_server_go_away_on_dispatch",
        )
        .http2()
        .get("/")
        .page("/stats", "http2.goaway_sent")
        .shows(["< 200"]),
        point(
            frames::sends(
                "http2_server_go_away_on_dispatch speaks of the end once, whatever comes",
                &frames::frame(frames::PING, 0, 0, b"12345678"),
            ),
            "http2_server_go_away_on_dispatch",
        )
        .after(400)
        .step(Step::Send(frames::get(1)))
        .step(Step::ReadFrames(Duration::from_millis(400)))
        .shows([
            "< GOAWAY 2147483647 NO_ERROR",
            "< PING ACK 12345678",
            "< HEADERS 1 200",
            "= connection 0: open",
        ]),
    ]
}

pub fn go_away_and_close() -> Vec<Case> {
    let shed = |title, bytes: &[u8]| {
        point(
            frames::sends(title, bytes),
            "http2_server_go_away_and_close_on_dispatch",
        )
        .after(400)
        .logs(0)
        .ends_somehow()
        .shows([
            "< GOAWAY 2147483647 NO_ERROR",
            "< GOAWAY 0 NO_ERROR",
            "= connection 0: closed",
        ])
    };
    vec![
        shed(
            "http2_server_go_away_and_close_on_dispatch ends a connection with its request unread",
            &frames::get(1),
        )
        .lacks(["< HEADERS 1 200"]),
        point(
            frames::sends(
                "a listener that bypasses the overload manager keeps its HTTP/2 connections",
                &frames::get(1),
            ),
            "http2_server_go_away_and_close_on_dispatch",
        )
        .after(400)
        .listener(BYPASS)
        .shows(["< HEADERS 1 200", "= connection 0: open"]),
    ]
}

pub fn pools() -> Vec<Case> {
    // Envoy names no host in its log.
    let shed = |title| {
        point(case(title), "connection_pool_new_connection").log_format(
            "flags=%RESPONSE_FLAGS%\\tdetails=%RESPONSE_CODE_DETAILS%\\tattempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
            "",
        )
    };
    let stats = |case: Case| {
        case.stats([
            "cluster.@backend.upstream_rq_pending_total",
            "cluster.@backend.upstream_rq_cancelled",
            "cluster.@backend.upstream_rq_pending_overflow",
            "cluster.@backend.upstream_rq_pending_active",
            "cluster.@backend.upstream_cx_total",
        ])
    };
    vec![
        stats(shed(
            "connection_pool_new_connection refuses what needs a connection",
        ))
        .get("/")
        .shows([
            "< 503",
            "< x-envoy-overloaded: true",
            "log flags=UO\tdetails=upstream_reset_before_response_started{overflow}\tattempts=1",
            "stat cluster.@backend.upstream_cx_total: 0",
        ])
        .both(),
        stats(shed(
            "connection_pool_new_connection refuses what needs a connection of HTTP/2",
        ))
        .upstream_http2()
        .get("/")
        .shows(["< 503", "log flags=UO*"]),
    ]
}

pub fn router() -> Vec<Case> {
    vec![
        point(
            case("http_downstream_filter_check answers with 503 in place of a request"),
            "http_downstream_filter_check",
        )
        .get("/")
        .stats([
            "http.@stat.rq_overload_local_reply",
            "cluster.@backend.upstream_rq_total",
        ])
        .shows(["< 503", "stat cluster.@backend.upstream_rq_total: 0"]),
    ]
}

fn reduced(case: Case, factors: &str) -> Case {
    manager(
        case,
        "pressure_all",
        &format!(
            "actions: [{{ name: envoy.overload_actions.reduce_timeouts, {TRIGGER}, typed_config: {{ \"@type\": type.googleapis.com/envoy.config.overload.v3.ScaleTimersOverloadActionConfig, timer_scale_factors: [{factors}] }} }}]"
        ),
    )
}

/// A client that takes a hundred bytes of its response and no more.
pub fn flush() -> Vec<Case> {
    let narrow = [frames::setting(4, 100), frames::get(1)].concat();
    let case = frames::sends("reduce_timeouts shortens the flushing of streams", &narrow)
        .hcm("stream_idle_timeout: 600s\nstream_flush_timeout: 600s")
        .reply(reply(ok(&"x".repeat(1_000))));
    vec![
        reduced(
            case,
            "{ timer: HTTP_DOWNSTREAM_STREAM_FLUSH, min_timeout: 0.2s }",
        )
        .after(400)
        .stats([
            "http2.tx_flush_timeout",
            "http.@stat.downstream_rq_idle_timeout",
        ])
        .shows(["< HEADERS 1 200", "< RST_STREAM 1*"]),
    ]
}

/// A client that says nothing where a TLS handshake is waited for.
pub fn handshake() -> Vec<Case> {
    let made = rcgen::generate_simple_self_signed(["example.com".to_owned()])
        .expect("a certificate can be made");
    let inline = |pem: String| pem.replace('\n', "\\n");
    let (chain, key) = (
        inline(made.cert.pem()),
        inline(made.signing_key.serialize_pem()),
    );
    let case = case("reduce_timeouts shortens handshakes").raw_listener(&format!(
        "stat_prefix: \"@stat\"\nfilter_chains:\n- filters:\n  - name: tcp\n    typed_config: {{ \"@type\": \"@net/tcp_proxy.v3.TcpProxy\", stat_prefix: \"@stat\", cluster: @backend }}\n  transport_socket_connect_timeout: 600s\n  transport_socket:\n    name: tls\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n      common_tls_context:\n        tls_certificates:\n        - certificate_chain: {{ inline_string: \"{chain}\" }}\n          private_key: {{ inline_string: \"{key}\" }}\n"
    ));
    vec![
        reduced(
            case,
            "{ timer: TRANSPORT_SOCKET_CONNECT, min_timeout: 0.2s }",
        )
        .access_log("- { name: none }")
        .logs(0)
        .bytes("")
        .step(Step::ReadToEnd)
        .ends_somehow()
        .stats(["listener.@stat.downstream_cx_transport_socket_connect_timeout"])
        .shows([
            "= connection 0: closed",
            "stat listener.@stat.downstream_cx_transport_socket_connect_timeout: 1",
        ]),
    ]
}

pub fn timeouts() -> Vec<Case> {
    let reduced = |title, factors: &str| {
        reduced(case(title), factors).hcm("delayed_close_timeout: 0s\ndrain_timeout: 0.1s")
    };
    const ALL: &str = "{ timer: HTTP_DOWNSTREAM_CONNECTION_IDLE, min_timeout: 0.3s }, { timer: HTTP_DOWNSTREAM_STREAM_IDLE, min_scale: { value: 0.05 } }, { timer: HTTP_DOWNSTREAM_CONNECTION_MAX, min_timeout: 0.3s }";
    vec![
        reduced(
            "reduce_timeouts shortens the idle timeout of connections",
            ALL,
        )
        .get("/")
        .wait(900)
        .stats([
            "http.@stat.downstream_cx_idle_timeout",
            "http.@stat.downstream_cx_active",
        ])
        .shows(["< 200", "stat http.@stat.downstream_cx_idle_timeout: 1"])
        .both(),
        reduced("reduce_timeouts does not make a timeout longer", ALL)
            .hcm("common_http_protocol_options: { idle_timeout: 0.1s }")
            .get("/")
            .wait(600)
            .stats(["http.@stat.downstream_cx_idle_timeout"])
            .shows(["stat http.@stat.downstream_cx_idle_timeout: 1"]),
        reduced("reduce_timeouts shortens the idle timeout of streams", ALL)
            .hcm("stream_idle_timeout: 600s")
            .reply(late(2_000, "late"))
            .get("/")
            .stats(["http.@stat.downstream_rq_idle_timeout"])
            .shows([
                "< 504",
                "log flags=SI",
                "stat http.@stat.downstream_rq_idle_timeout: 1",
            ]),
        reduced("reduce_timeouts shortens how old a connection becomes", ALL)
            .hcm(
                "common_http_protocol_options: { idle_timeout: 0s, max_connection_duration: 600s }",
            )
            .get("/")
            .wait(900)
            .stats(["http.@stat.downstream_cx_max_duration_reached"])
            .shows(["stat http.@stat.downstream_cx_max_duration_reached: 1"]),
    ]
}

pub fn scaled() -> Vec<Case> {
    let half = |title| {
        manager(
            case(title),
            "pressure_some",
            &format!(
                "actions: [{{ name: envoy.overload_actions.reduce_timeouts, {SCALED}, typed_config: {{ \"@type\": type.googleapis.com/envoy.config.overload.v3.ScaleTimersOverloadActionConfig, timer_scale_factors: [{{ timer: HTTP_DOWNSTREAM_CONNECTION_IDLE, min_timeout: 0s }}] }} }}]\nloadshed_points: [{{ name: mine, {SCALED} }}]"
            ),
        )
    };
    vec![
        half("a scaled trigger holds in part")
            .page("/stats", "overload.")
            .shows([
                "page overload.envoy.overload_actions.reduce_timeouts.active: 0",
                "page overload.envoy.overload_actions.reduce_timeouts.scale_percent: 50",
                "page overload.mine.scale_percent: 50",
            ]),
        half("a timeout is shortened in part")
            .hcm("delayed_close_timeout: 0s\ndrain_timeout: 0.1s\ncommon_http_protocol_options: { idle_timeout: 2s }")
            .get("/")
            .wait(500)
            .send(get("/second"))
            .wait(1_500)
            .stats(["http.@stat.downstream_cx_idle_timeout"])
            .shows(["< 200", "stat http.@stat.downstream_cx_idle_timeout: 1"]),
    ]
}
