use std::collections::HashMap;

use outrigger_proto::pb::envoy::config::route::v3::HeaderMatcher as PbHeaderMatcher;
use outrigger_proto::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use outrigger_proto::pb::envoy::extensions::filters::common::fault::v3 as common;
use outrigger_proto::pb::envoy::extensions::filters::http::fault::v3 as pb;
use outrigger_proto::pb::envoy::r#type::v3::FractionalPercent;
use outrigger_proto::pb::google::protobuf as wkt;
use tokio::time::Instant;

use super::super::test_support::{Harness, errors};
use super::*;

fn percent(numerator: u32) -> Option<FractionalPercent> {
    Some(FractionalPercent {
        numerator,
        denominator: 0,
    })
}

fn delay(millis: i32) -> pb::HttpFault {
    pb::HttpFault {
        delay: Some(common::FaultDelay {
            percentage: percent(100),
            fault_delay_secifier: Some(common::fault_delay::FaultDelaySecifier::FixedDelay(
                wkt::Duration {
                    seconds: 0,
                    nanos: millis * 1_000_000,
                },
            )),
        }),
        ..Default::default()
    }
}

fn abort(error_type: pb::fault_abort::ErrorType) -> pb::HttpFault {
    pb::HttpFault {
        abort: Some(pb::FaultAbort {
            percentage: percent(100),
            response_body: String::new(),
            error_type: Some(error_type),
        }),
        ..Default::default()
    }
}

fn abort_503() -> pb::HttpFault {
    abort(pb::fault_abort::ErrorType::HttpStatus(503))
}

async fn wait(status: HeadersStatus) -> Duration {
    let HeadersStatus::Wait(future) = status else {
        panic!("{status:?}");
    };
    let start = Instant::now();
    future.await;
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_delay_holds_the_request_and_an_abort_may_follow_it() {
    let harness = Harness::new(&pb::HttpFault {
        abort: abort_503().abort,
        ..delay(250)
    });
    let mut stream = harness.stream();
    let waited = wait(stream.decode_headers(true)).await;
    assert_eq!(waited, Duration::from_millis(250));
    assert!(
        stream
            .info
            .response_flags
            .contains(ResponseFlag::DelayInjected)
    );
    assert_eq!(harness.stat("http.test.fault.active_faults"), 1);
    let reply = stream.resume_decode().reply();
    assert_eq!(
        (reply.status, &reply.body[..]),
        (503, &b"fault filter abort"[..])
    );
    assert_eq!(reply.details, "fault_filter_abort");
    assert!(
        stream
            .info
            .response_flags
            .contains(ResponseFlag::FaultInjected)
    );
    stream.complete();
    assert_eq!(harness.stat("http.test.fault.active_faults"), 0);
    assert_eq!(harness.stat("http.test.fault.delays_injected"), 1);
    assert_eq!(harness.stat("http.test.fault.aborts_injected"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_delay_alone_lets_the_request_go_on() {
    let mut stream = Harness::new(&delay(5)).stream();
    wait(stream.decode_headers(true)).await;
    assert!(stream.resume_decode().is_continue());
}

#[test]
fn a_grpc_abort_is_a_200_with_its_status() {
    let config = abort(pb::fault_abort::ErrorType::GrpcStatus(5));
    let reply = Harness::new(&config).stream().decode_headers(true).reply();
    assert_eq!((reply.status, reply.grpc_status), (200, Some(5)));
}

#[tokio::test(start_paused = true)]
async fn requests_bring_their_faults_along() {
    let config = pb::HttpFault {
        delay: Some(common::FaultDelay {
            percentage: percent(100),
            fault_delay_secifier: Some(common::fault_delay::FaultDelaySecifier::HeaderDelay(
                common::fault_delay::HeaderDelay {},
            )),
        }),
        abort: abort(pb::fault_abort::ErrorType::HeaderAbort(
            pb::fault_abort::HeaderAbort {},
        ))
        .abort,
        ..Default::default()
    };
    let harness = Harness::new(&config);
    assert!(harness.stream().decode_headers(true).is_continue());
    let mut stream = harness.stream_with(&[("x-envoy-fault-delay-request", "120")]);
    assert_eq!(wait(stream.decode_headers(true)).await.as_millis(), 120);
    assert!(stream.resume_decode().is_continue());
    for (fields, expected) in [
        (
            &[("x-envoy-fault-abort-request", "418")][..],
            Some((418, None)),
        ),
        (&[("x-envoy-fault-abort-request", "99")][..], None),
        (&[("x-envoy-fault-abort-request", "nope")][..], None),
        (
            &[("x-envoy-fault-abort-grpc-request", "7")][..],
            Some((200, Some(7))),
        ),
        (
            &[
                ("x-envoy-fault-abort-request", "418"),
                ("x-envoy-fault-abort-request-percentage", "0"),
            ][..],
            None,
        ),
    ] {
        let status = harness.stream_with(fields).decode_headers(true);
        let found = match status {
            HeadersStatus::LocalReply(reply) => Some((reply.status, reply.grpc_status)),
            _ => None,
        };
        assert_eq!(found, expected, "{fields:?}");
    }
}

#[test]
fn a_share_of_the_requests_is_aborted_and_runtime_changes_it() {
    let mut config = abort_503();
    config.abort.as_mut().unwrap().percentage = percent(30);
    let harness = Harness::new(&config);
    let aborted = |harness: &Harness| {
        (0..400)
            .filter(|_| !harness.stream().decode_headers(true).is_continue())
            .count()
    };
    let drawn = aborted(&harness);
    assert!((70..=170).contains(&drawn), "{drawn}");
    let set = |key: &str, value: &str| {
        let layer = HashMap::from([(key.to_owned(), value.to_owned())]);
        harness.server.runtime.set_layer("test", layer);
    };
    set("fault.http.abort.abort_percent", "0");
    assert_eq!(aborted(&harness), 0);
    set("fault.http.abort.abort_percent", "100");
    assert_eq!(aborted(&harness), 400);
}

#[test]
fn runtime_values_of_a_downstream_cluster_count_for_it_alone() {
    let harness = Harness::new(&abort_503());
    harness.server.runtime.set_layer(
        "test",
        HashMap::from([(
            "fault.http.web.abort.http_status".to_owned(),
            "429".to_owned(),
        )]),
    );
    let status = |cluster: &str| {
        let fields = [("x-envoy-downstream-service-cluster", cluster)];
        harness
            .stream_with(&fields)
            .decode_headers(true)
            .reply()
            .status
    };
    assert_eq!((status("web"), status("other")), (429, 503));
    assert_eq!(harness.stat("http.test.fault.web.aborts_injected"), 1);
    assert_eq!(harness.stat("http.test.fault.aborts_injected"), 2);
}

#[test]
fn names_of_downstream_clusters_cannot_fill_the_memory() {
    let harness = Harness::new(&abort_503());
    for n in 0..300 {
        let name = format!("cluster-{n}");
        let fields = [("x-envoy-downstream-service-cluster", name.as_str())];
        harness.stream_with(&fields).decode_headers(true).reply();
    }
    assert_eq!(
        harness.stat("http.test.fault.cluster-255.aborts_injected"),
        1
    );
    assert_eq!(
        harness.stat("http.test.fault.cluster-256.aborts_injected"),
        0
    );
    assert_eq!(harness.stat("http.test.fault.aborts_injected"), 300);
}

#[test]
fn no_more_faults_than_allowed_are_active_at_once() {
    let harness = Harness::new(&pb::HttpFault {
        max_active_faults: Some(wkt::UInt32Value { value: 1 }),
        ..abort_503()
    });
    let mut first = harness.stream();
    assert!(!first.decode_headers(true).is_continue());
    assert!(harness.stream().decode_headers(true).is_continue());
    assert_eq!(harness.stat("http.test.fault.faults_overflow"), 1);
    first.complete();
    assert!(!harness.stream().decode_headers(true).is_continue());
}

#[test]
fn only_the_requests_that_are_meant_are_hit() {
    let aborts = |config: &pb::HttpFault, fields: &[(&str, &str)]| {
        !Harness::new(config)
            .stream_with(fields)
            .decode_headers(true)
            .is_continue()
    };
    let to = |cluster: &str| pb::HttpFault {
        upstream_cluster: cluster.to_owned(),
        ..abort_503()
    };
    assert!(aborts(&to("backend"), &[]));
    assert!(!aborts(&to("other"), &[]));
    let nodes = pb::HttpFault {
        downstream_nodes: vec!["node-1".to_owned()],
        ..abort_503()
    };
    assert!(aborts(
        &nodes,
        &[("x-envoy-downstream-service-node", "node-1")]
    ));
    assert!(!aborts(
        &nodes,
        &[("x-envoy-downstream-service-node", "node-2")]
    ));
    assert!(!aborts(&nodes, &[]));
    let headers = pb::HttpFault {
        headers: vec![PbHeaderMatcher {
            name: "x-fault".to_owned(),
            header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
            ..Default::default()
        }],
        ..abort_503()
    };
    assert!(aborts(&headers, &[("x-fault", "")]));
    assert!(!aborts(&headers, &[]));
}

#[test]
fn the_route_takes_the_place_of_the_filter() {
    let config = abort_503();
    let route = abort(pb::fault_abort::ErrorType::HttpStatus(404));
    let harness = Harness::with_route(&config, &route);
    assert_eq!(harness.stream().decode_headers(true).reply().status, 404);
    let none = Harness::with_route(&config, &pb::HttpFault::default());
    assert!(none.stream().decode_headers(true).is_continue());
}

#[test]
fn metadata_and_the_body_of_an_abort_are_as_configured() {
    let mut config = abort_503();
    config.abort.as_mut().unwrap().response_body = "broken".to_owned();
    config.filter_metadata = Some(wkt::Struct {
        fields: HashMap::from([(
            "why".to_owned(),
            wkt::Value {
                kind: Some(wkt::value::Kind::StringValue("drill".to_owned())),
            },
        )]),
    });
    let harness = Harness::new(&config);
    let mut stream = harness.stream();
    assert_eq!(&stream.decode_headers(true).reply().body[..], b"broken");
    let metadata = &stream.info.dynamic_metadata;
    let why = metadata.value("envoy.filters.http.fault", ["why"]);
    assert_eq!(why.and_then(|why| why.as_str()), Some("drill"));
}

#[tokio::test(start_paused = true)]
async fn a_slowed_response_arrives_whole_in_order_and_in_time() {
    let harness = Harness::new(&pb::HttpFault {
        response_rate_limit: Some(common::FaultRateLimit {
            percentage: percent(100),
            limit_type: Some(common::fault_rate_limit::LimitType::FixedLimit(
                common::fault_rate_limit::FixedLimit { limit_kbps: 1 },
            )),
        }),
        ..Default::default()
    });
    let mut stream = harness.stream();
    assert!(stream.decode_headers(true).is_continue());
    assert_eq!(harness.stat("http.test.fault.response_rl_injected"), 1);
    let body: Vec<u8> = (0..=255u8).cycle().take(1024).collect();
    let start = Instant::now();
    let (status, left) = stream.encode_data(&body, true);
    let mut sent = stream.take_injected();
    let mut held = BytesMut::from(&left[..]);
    let mut status = status;
    while let DataStatus::Wait(future) = status {
        future.await;
        status = stream.resume_encode_data(&mut held, EndStream::Yes);
        sent.extend(stream.take_injected());
    }
    assert!(matches!(status, DataStatus::Continue));
    sent.extend_from_slice(&held);
    assert_eq!(sent, body);
    let took = start.elapsed().as_millis();
    assert!((930..=945).contains(&took), "{took}");
}

#[test]
fn what_is_no_fault_is_refused_with_its_path() {
    let config = pb::HttpFault {
        delay: Some(common::FaultDelay::default()),
        abort: Some(pb::FaultAbort {
            error_type: Some(pb::fault_abort::ErrorType::HttpStatus(42)),
            ..Default::default()
        }),
        response_rate_limit: Some(common::FaultRateLimit {
            limit_type: Some(common::fault_rate_limit::LimitType::FixedLimit(
                common::fault_rate_limit::FixedLimit { limit_kbps: 0 },
            )),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(
        errors(&config),
        [
            "config / delay: one of fixed_delay, header_delay has to be set",
            "config / abort / http_status: 42: has to be >= 200 and < 600",
            "config / response_rate_limit / fixed_limit / limit_kbps: 0: has to be >= 1",
        ]
    );
}
