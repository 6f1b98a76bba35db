use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::config::ratelimit::v3 as service;
use outrigger_proto::pb::envoy::config::route::v3 as route_pb;
use outrigger_proto::pb::envoy::extensions::filters::http::ratelimit::v3 as pb;
use outrigger_proto::pb::envoy::service::ratelimit::v3 as rls;
use outrigger_proto::pb::google::protobuf as wkt;
use outrigger_proto::rate_limit::{DescriptorStatus, RateLimit as Limit};
use rls::rate_limit_response::Code;
use rls::rate_limit_response::rate_limit::Unit;
use route_pb::rate_limit::action::{ActionSpecifier, GenericKey};

use super::super::test_support::{Harness, TestStream, errors, forward, virtual_host};
use super::*;
use crate::upstream::ClusterId;

const CLUSTER: &str = "
name: backend
load_assignment: { cluster_name: backend, endpoints: [] }
";

fn config() -> pb::RateLimit {
    let grpc = core::grpc_service::EnvoyGrpc {
        cluster_name: "limits".to_owned(),
        ..Default::default()
    };
    pb::RateLimit {
        domain: "apis".to_owned(),
        rate_limit_service: Some(service::RateLimitServiceConfig {
            grpc_service: Some(core::GrpcService {
                target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(grpc)),
                ..Default::default()
            }),
            transport_api_version: core::ApiVersion::V3.into(),
        }),
        rate_limits: vec![rule("v")],
        ..Default::default()
    }
}

fn rule(value: &str) -> route_pb::RateLimit {
    route_pb::RateLimit {
        actions: vec![route_pb::rate_limit::Action {
            action_specifier: Some(ActionSpecifier::GenericKey(GenericKey {
                descriptor_value: value.to_owned(),
                ..Default::default()
            })),
        }],
        ..Default::default()
    }
}

/// A stream whose route leads to a cluster.
fn stream(harness: &Harness, fields: &[(&str, &str)]) -> TestStream {
    let mut stream = harness.stream_with(fields);
    let id: ClusterId = harness.server.cluster_names.id("backend");
    stream.info.cluster = harness.worker.clusters.get(id);
    stream
}

fn status(code: Code, requests: u32, remaining: u32, reset: i64) -> DescriptorStatus {
    DescriptorStatus {
        code: code.into(),
        current_limit: Some(Limit {
            name: String::new(),
            requests_per_unit: requests,
            unit: Unit::Minute.into(),
            unit_multiplier: None,
        }),
        limit_remaining: remaining,
        duration_until_reset: Some(wkt::Duration {
            seconds: reset,
            nanos: 0,
        }),
    }
}

async fn outcome(harness: &Harness) -> (HeadersStatus, TestStream) {
    let mut stream = stream(harness, &[]);
    let HeadersStatus::Wait(waiting) = stream.decode_headers(true) else {
        panic!("nobody is asked");
    };
    waiting.await;
    let status = stream.resume_decode();
    (status, stream)
}

#[tokio::test(start_paused = true)]
async fn without_a_service_requests_pass_or_not_as_configured() {
    let harness = Harness::with_cluster(&config(), CLUSTER);
    let (status, _) = outcome(&harness).await;
    assert!(status.is_continue());
    let stat = |name: &str| harness.stat(&format!("cluster.backend.ratelimit.{name}"));
    assert_eq!((stat("error"), stat("failure_mode_allowed")), (1, 1));

    let denying = pb::RateLimit {
        failure_mode_deny: true,
        ..config()
    };
    let (status, stream) = outcome(&Harness::with_cluster(&denying, CLUSTER)).await;
    let reply = status.reply();
    assert_eq!(reply.status, 500);
    assert_eq!(reply.details, "rate_limiter_error");
    let flags = &stream.info.response_flags;
    assert!(flags.contains(ResponseFlag::RateLimitServiceError));
}

#[test]
fn nobody_is_asked_without_a_rule_or_a_cluster_or_for_other_requests() {
    let harness = Harness::with_cluster(&config(), CLUSTER);
    assert!(harness.stream().decode_headers(true).is_continue());
    let without_rules = pb::RateLimit {
        rate_limits: Vec::new(),
        ..config()
    };
    let harness = Harness::with_cluster(&without_rules, CLUSTER);
    assert!(stream(&harness, &[]).decode_headers(true).is_continue());
    let internal = pb::RateLimit {
        request_type: "internal".to_owned(),
        ..config()
    };
    let harness = Harness::with_cluster(&internal, CLUSTER);
    assert!(stream(&harness, &[]).decode_headers(true).is_continue());
    let mut of_mesh = stream(&harness, &[("x-envoy-internal", "true")]);
    assert!(matches!(
        of_mesh.decode_headers(true),
        HeadersStatus::Wait(_)
    ));
}

#[test]
fn the_nearest_limit_is_told_unless_its_rule_is_left_out() {
    let statuses = [status(Code::Ok, 10, 5, 30), status(Code::Ok, 7, 2, 40)];
    let told = |shown: [bool; 2]| {
        let mut head = ResponseHead::new(200);
        answer::x_ratelimit(&statuses, |at| shown[at]).apply(&mut head);
        ["limit", "remaining", "reset"].map(|name| {
            let name = format!("x-ratelimit-{name}");
            head.fields.get_str(&*name).unwrap_or("-").to_owned()
        })
    };
    assert_eq!(told([true, true]), ["7, 10;w=60, 7;w=60", "2", "40"]);
    assert_eq!(told([false, true]), ["7, 7;w=60", "2", "40"]);
    assert_eq!(told([true, false]), ["-", "-", "-"]);
}

#[test]
fn clients_come_back_when_the_last_limit_lets_them() {
    assert_eq!(answer::retry_after(&[status(Code::Ok, 1, 1, 90)]), None);
    let over = [
        status(Code::OverLimit, 1, 0, 0),
        status(Code::OverLimit, 1, 0, 20),
        status(Code::Ok, 1, 1, 90),
    ];
    assert_eq!(answer::retry_after(&over), Some(20));
    assert_eq!(answer::retry_after(&over[..1]), Some(1));
}

#[test]
fn fields_that_would_break_a_head_are_left_out() {
    let field = |key: &str, value: &str| core::HeaderValue {
        key: key.to_owned(),
        value: value.to_owned(),
        raw_value: b"raw".to_vec(),
    };
    let mut head = RequestHead::new(crate::http::Protocol::Http11, b"GET");
    let fields = vec![
        field(":path", "/admin"),
        field("x-a", "1\r\nx-b: 2"),
        field("X-Good", "3"),
        field("x-raw", ""),
    ];
    answer::add_to_request(fields, &mut head);
    let left: Vec<_> = head.fields.iter().collect();
    let expected: [(&[u8], &[u8]); 2] = [(b"x-good", b"3"), (b"x-raw", b"")];
    assert_eq!(left, expected);
}

#[test]
fn what_is_wrong_is_refused_with_its_path() {
    let staged = route_pb::RateLimit {
        stage: Some(wkt::UInt32Value { value: 1 }),
        ..rule("v")
    };
    let mut found = errors(&pb::RateLimit {
        rate_limits: vec![staged],
        rate_limit_service: Some(service::RateLimitServiceConfig {
            grpc_service: Some(core::GrpcService {
                target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(
                    core::grpc_service::EnvoyGrpc {
                        cluster_name: "limits".to_owned(),
                        ..Default::default()
                    },
                )),
                initial_metadata: vec![core::HeaderValue {
                    key: ":path".to_owned(),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            transport_api_version: core::ApiVersion::V3.into(),
        }),
        ..config()
    });
    found.sort();
    assert_eq!(
        found,
        [
            "config / rate_limit_service / grpc_service / initial_metadata[0] / key: \":path\" may not be set here: say authority in envoy_grpc",
            "config / rate_limits[0]: 'stage' field and 'disable_key' field are not supported",
        ]
    );
}

#[test]
fn a_route_has_rules_and_a_domain_of_its_own() {
    let asked = |of_route: pb::RateLimitPerRoute| {
        let route = route_pb::Route {
            typed_per_filter_config: super::super::test_support::per_filter(&of_route),
            ..forward()
        };
        let harness = {
            let host = virtual_host(route);
            Harness::with_host(&config(), host)
        };
        let stream = harness.stream();
        let route = stream.info.route.clone().expect("a route was chosen");
        let of_route = super::of_route(&route, harness.slot()).expect("it has a configuration");
        (of_route.domain.to_string(), {
            let mut rules = 0;
            let report = crate::config::ConfigReport::new();
            let path = ConfigPath::root(&report, "config");
            let scope = harness.server.stats.scope("");
            let cx = FactoryContext {
                server: &harness.server,
                scope: &scope,
                init: &crate::server::InitManager::new("test"),
            };
            let config = Config::from_proto(config(), &cx, &path).expect("it is good");
            config.each_rule(&route, Some(of_route), |_| rules += 1);
            rules
        })
    };
    let own = pb::RateLimitPerRoute {
        rate_limits: vec![rule("a"), rule("b")],
        domain: "special".to_owned(),
        ..Default::default()
    };
    assert_eq!(asked(own), ("special".to_owned(), 2));
    assert_eq!(asked(pb::RateLimitPerRoute::default()), (String::new(), 1));
}
