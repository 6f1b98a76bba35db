use std::time::Duration;

use outrigger_proto::pb::google::protobuf::BoolValue;
use proptest::prelude::*;

use super::super::test_support::{Harness, TestStream, errors};
use super::*;
use crate::stats::Unit;

const CLUSTER: &str = "{name: backend, type: STATIC}";

fn all_methods() -> pb::FilterConfig {
    pb::FilterConfig {
        per_method_stat_specifier: Some(
            pb::filter_config::PerMethodStatSpecifier::StatsForAllMethods(BoolValue {
                value: true,
            }),
        ),
        ..Default::default()
    }
}

fn allowlist() -> pb::FilterConfig {
    pb::FilterConfig {
        per_method_stat_specifier: Some(
            pb::filter_config::PerMethodStatSpecifier::IndividualMethodStatsAllowlist(
                GrpcMethodList {
                    services: vec![Service {
                        name: "pkg.Echo".to_owned(),
                        method_names: vec!["Say".to_owned()],
                    }],
                },
            ),
        ),
        ..Default::default()
    }
}

fn call(harness: &Harness, path: &str) -> TestStream {
    let fields = [(":path", path), ("content-type", "application/grpc")];
    let mut stream = harness.stream_with(&fields);
    assert!(stream.decode_headers(false).is_continue());
    stream
        .response
        .fields
        .append("content-type", "application/grpc");
    stream
}

fn finish(stream: &mut TestStream, status: &str) {
    let mut trailers = Fields::new();
    trailers.append("grpc-status", status);
    stream.encode_trailers(&mut trailers);
}

fn frame(length: usize) -> Vec<u8> {
    let mut out = vec![0];
    out.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
    out.resize(5 + length, b'x');
    out
}

#[test]
fn calls_and_messages_are_counted_by_method() {
    let harness = Harness::with_cluster(&all_methods(), CLUSTER);
    let mut stream = call(&harness, "/pkg.Echo/Say?x=1");
    let body = String::from_utf8([frame(3), frame(0)].concat()).unwrap();
    stream.decode_data(&body, true);
    stream.encode_headers(false);
    stream.encode_data(frame(10), false);
    finish(&mut stream, "0");
    let mut stream = call(&harness, "/pkg.Echo/Say");
    stream.encode_headers(false);
    finish(&mut stream, "14");
    for (name, value) in [
        ("request_message_count", 2),
        ("response_message_count", 1),
        ("0", 1),
        ("14", 1),
        ("success", 1),
        ("failure", 1),
        ("total", 2),
    ] {
        let full = format!("cluster.backend.grpc.pkg.Echo.Say.{name}");
        assert_eq!(harness.stat(&full), value, "{name}");
    }
}

#[test]
fn a_status_in_the_head_counts_when_the_response_is_nothing_but_it() {
    let harness = Harness::with_cluster(&all_methods(), CLUSTER);
    let mut stream = call(&harness, "/pkg.Echo/Say");
    stream.response.fields.append("grpc-status", "7");
    stream.encode_headers(true);
    assert_eq!(harness.stat("cluster.backend.grpc.pkg.Echo.Say.7"), 1);
    assert_eq!(harness.stat("cluster.backend.grpc.pkg.Echo.Say.failure"), 1);
}

#[test]
fn methods_that_are_not_listed_are_counted_without_their_names() {
    let harness = Harness::with_cluster(&allowlist(), CLUSTER);
    for path in ["/pkg.Echo/Say", "/pkg.Echo/Other", "/other.Echo/Say"] {
        finish(&mut call(&harness, path), "0");
    }
    finish(&mut call(&harness, "/not/a/call"), "0");
    assert_eq!(harness.stat("cluster.backend.grpc.pkg.Echo.Say.success"), 1);
    assert_eq!(harness.stat("cluster.backend.grpc.success"), 2);
    let harness = Harness::with_cluster(&pb::FilterConfig::default(), CLUSTER);
    finish(&mut call(&harness, "/pkg.Echo/Say"), "0");
    assert_eq!(harness.stat("cluster.backend.grpc.success"), 1);
}

#[test]
fn dots_of_services_become_underscores_where_configured() {
    let config = pb::FilterConfig {
        replace_dots_in_grpc_service_name: true,
        ..all_methods()
    };
    let harness = Harness::with_cluster(&config, CLUSTER);
    finish(&mut call(&harness, "/pkg.Echo/Say"), "0");
    assert_eq!(harness.stat("cluster.backend.grpc.pkg_Echo.Say.total"), 1);
}

#[test]
fn names_of_methods_cannot_fill_the_memory() {
    let harness = Harness::with_cluster(&all_methods(), CLUSTER);
    for n in 0..1010 {
        finish(&mut call(&harness, &format!("/pkg.Echo/Say{n}")), "0");
    }
    assert_eq!(
        harness.stat("cluster.backend.grpc.pkg.Echo.Say999.total"),
        1
    );
    assert_eq!(harness.stat("cluster.backend.grpc.total"), 10);
}

#[test]
fn what_is_no_grpc_is_not_counted() {
    let harness = Harness::with_cluster(&all_methods(), CLUSTER);
    let mut stream = harness.stream_with(&[(":path", "/pkg.Echo/Say")]);
    stream.decode_headers(false);
    stream.decode_data("xxxxxxxx", true);
    finish(&mut stream, "0");
    assert_eq!(harness.stat("cluster.backend.grpc.pkg.Echo.Say.total"), 0);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_the_upstream_is_recorded_where_configured() {
    let config = pb::FilterConfig {
        enable_upstream_stats: true,
        ..pb::FilterConfig::default()
    };
    let harness = Harness::with_cluster(&config, CLUSTER);
    let mut stream = call(&harness, "/pkg.Echo/Say");
    stream.info.timing.last_upstream_tx_byte = Some(stream.info.start);
    stream.info.timing.last_upstream_rx_byte = Some(stream.info.start + Duration::from_millis(30));
    finish(&mut stream, "0");
    let scope = harness.server.stats.scope("cluster.backend.grpc.");
    let histogram = scope.histogram("upstream_rq_time", Unit::Milliseconds);
    assert_eq!(histogram.get().snapshot().count(), 1);
}

#[test]
fn logs_can_read_the_counts_of_messages() {
    let config = pb::FilterConfig {
        emit_filter_state: true,
        ..pb::FilterConfig::default()
    };
    let harness = Harness::with_cluster(&config, CLUSTER);
    let mut stream = call(&harness, "/pkg.Echo/Say");
    assert!(stream.info.filter_state.get(FILTER_STATE).is_none());
    stream.decode_data(std::str::from_utf8(&frame(1)).unwrap(), true);
    stream.encode_headers(false);
    stream.encode_data([frame(1), frame(2)].concat(), false);
    let object = stream.info.filter_state.get(FILTER_STATE).unwrap();
    assert_eq!(object.serialize_as_string().as_deref(), Some("1,2"));
    assert_eq!(object.field("response_message_count").as_deref(), Some("2"));
    assert_eq!(
        object.serialize_as_json().unwrap().to_string(),
        r#"{"requestMessageCount":"1","responseMessageCount":"2"}"#
    );
}

#[test]
fn an_empty_list_of_methods_is_refused() {
    let mut config = allowlist();
    if let Some(pb::filter_config::PerMethodStatSpecifier::IndividualMethodStatsAllowlist(list)) =
        &mut config.per_method_stat_specifier
    {
        list.services[0].method_names.clear();
    }
    assert_eq!(
        errors(&config),
        [
            "config / individual_method_stats_allowlist / services[0] / method_names: 0 elements: has to have at least 1 elements"
        ]
    );
}

proptest! {
    #[test]
    fn messages_are_counted_wherever_the_body_is_cut(
        lengths in prop::collection::vec(0usize..40, 0..12),
        cuts in prop::collection::vec(1usize..17, 1..60),
    ) {
        let body: Vec<u8> = lengths.iter().flat_map(|length| frame(*length)).collect();
        let mut counter = FrameCounter::default();
        let (mut rest, mut sum) = (&body[..], 0);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            sum += counter.inspect(piece);
            rest = after;
        }
        prop_assert_eq!(sum, lengths.len() as u64);
        prop_assert_eq!(counter.frames, lengths.len() as u64);
    }
}
