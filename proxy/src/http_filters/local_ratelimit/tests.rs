use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::config::route::v3 as route_pb;
use outrigger_proto::pb::envoy::extensions::common::ratelimit::v3 as common;
use outrigger_proto::pb::envoy::extensions::filters::http::local_ratelimit::v3 as pb;
use outrigger_proto::pb::envoy::r#type::v3 as type_pb;
use outrigger_proto::pb::google::protobuf as wkt;
use route_pb::rate_limit::action::ActionSpecifier;

use super::super::test_support::{Harness, TestStream, errors, forward, virtual_host};
use super::*;
use crate::server::InitManager;

fn always() -> Option<core::RuntimeFractionalPercent> {
    Some(core::RuntimeFractionalPercent {
        default_value: Some(type_pb::FractionalPercent {
            numerator: 100,
            denominator: 0,
        }),
        runtime_key: String::new(),
    })
}

fn bucket(max_tokens: u32, seconds: i64) -> Option<type_pb::TokenBucket> {
    Some(type_pb::TokenBucket {
        max_tokens,
        tokens_per_fill: None,
        fill_interval: Some(wkt::Duration { seconds, nanos: 0 }),
    })
}

fn header(key: &str, value: &str) -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            raw_value: Vec::new(),
        }),
        ..Default::default()
    }
}

fn limit(max_tokens: u32) -> pb::LocalRateLimit {
    pb::LocalRateLimit {
        stat_prefix: "lrl".to_owned(),
        token_bucket: bucket(max_tokens, 10),
        filter_enabled: always(),
        filter_enforced: always(),
        ..Default::default()
    }
}

/// Counts requests under `k=<the header x-k>`.
fn by_header() -> route_pb::RateLimit {
    route_pb::RateLimit {
        actions: vec![route_pb::rate_limit::Action {
            action_specifier: Some(ActionSpecifier::RequestHeaders(
                route_pb::rate_limit::action::RequestHeaders {
                    header_name: "x-k".to_owned(),
                    descriptor_key: "k".to_owned(),
                    skip_if_absent: false,
                },
            )),
        }],
        ..Default::default()
    }
}

fn descriptor(value: &str, max_tokens: u32) -> common::LocalRateLimitDescriptor {
    common::LocalRateLimitDescriptor {
        entries: vec![common::rate_limit_descriptor::Entry {
            key: "k".to_owned(),
            value: value.to_owned(),
        }],
        token_bucket: bucket(max_tokens, 60),
        shadow_mode: false,
    }
}

fn stat(harness: &Harness, name: &str) -> u64 {
    harness.stat(&format!("lrl.http_local_rate_limit.{name}"))
}

fn passes(harness: &Harness, fields: &[(&str, &str)]) -> bool {
    harness
        .stream_with(fields)
        .decode_headers(true)
        .is_continue()
}

fn shown(stream: &mut TestStream) -> Vec<String> {
    stream.encode_headers(true);
    ["limit", "remaining", "reset"]
        .map(|name| {
            let name = format!("x-ratelimit-{name}");
            let value = stream.response.fields.get_str(name.as_str());
            value.unwrap_or("-").to_owned()
        })
        .to_vec()
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_bucket_are_refused_and_told_when_to_come_back() {
    let harness = Harness::new(&pb::LocalRateLimit {
        enable_x_ratelimit_headers: common::XRateLimitHeadersRfcVersion::DraftVersion03.into(),
        enable_retry_after_header: true,
        response_headers_to_add: vec![header("x-lim", "yes")],
        ..limit(2)
    });
    for (remaining, reset) in [("1", "0"), ("0", "10")] {
        let mut stream = harness.stream();
        assert!(stream.decode_headers(true).is_continue());
        assert_eq!(shown(&mut stream), ["2", remaining, reset]);
    }
    let mut stream = harness.stream();
    let reply = stream.decode_headers(true).reply();
    assert_eq!(reply.status, 429);
    assert_eq!(&reply.body[..], b"local_rate_limited");
    assert_eq!(reply.details, "local_rate_limited");
    assert_eq!(reply.header("x-lim"), Some("yes"));
    assert_eq!(reply.header("retry-after"), Some("10"));
    assert_eq!(shown(&mut stream), ["2", "0", "10"]);
    assert!(
        stream
            .info
            .response_flags
            .contains(ResponseFlag::RateLimited)
    );
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(passes(&harness, &[]));
    let counts = ["enabled", "ok", "rate_limited", "enforced", "shadow_mode"];
    assert_eq!(counts.map(|name| stat(&harness, name)), [4, 3, 1, 1, 0]);
}

#[test]
fn status_and_grpc_status_are_as_configured() {
    let refused = |config: &pb::LocalRateLimit| {
        let reply = Harness::new(config).stream().decode_headers(true).reply();
        (
            reply.status,
            reply.grpc_status,
            reply.header("retry-after").is_some(),
        )
    };
    let status = |code| pb::LocalRateLimit {
        status: Some(type_pb::HttpStatus { code }),
        enable_retry_after_header: true,
        ..limit(0)
    };
    assert_eq!(refused(&status(503)), (503, None, false));
    assert_eq!(refused(&status(200)), (429, None, false));
    let grpc = pb::LocalRateLimit {
        rate_limited_as_resource_exhausted: true,
        ..limit(0)
    };
    assert_eq!(refused(&grpc), (429, Some(8), false));
}

#[test]
fn what_is_not_enforced_is_marked_and_passes() {
    let harness = Harness::new(&pb::LocalRateLimit {
        filter_enforced: None,
        request_headers_to_add_when_not_enforced: vec![header("x-m", "limited")],
        ..limit(1)
    });
    assert!(passes(&harness, &[]));
    let mut stream = harness.stream();
    assert!(stream.decode_headers(true).is_continue());
    assert_eq!(stream.request.fields.get_str("x-m"), Some("limited"));
    assert_eq!(
        (stat(&harness, "rate_limited"), stat(&harness, "enforced")),
        (1, 0)
    );
}

#[test]
fn a_filter_that_is_not_enabled_counts_nothing() {
    let harness = Harness::new(&pb::LocalRateLimit {
        filter_enabled: None,
        ..limit(0)
    });
    assert!(passes(&harness, &[]));
    assert_eq!(stat(&harness, "enabled"), 0);
}

#[test]
fn without_a_bucket_everything_passes() {
    let harness = Harness::new(&pb::LocalRateLimit {
        token_bucket: None,
        ..limit(0)
    });
    assert!(passes(&harness, &[]));
    assert_eq!(stat(&harness, "ok"), 1);
}

#[test]
fn a_descriptor_has_a_bucket_of_its_own() {
    let harness = Harness::new(&pb::LocalRateLimit {
        descriptors: vec![descriptor("v", 1)],
        rate_limits: vec![by_header()],
        ..limit(100)
    });
    assert!(passes(&harness, &[("x-k", "v")]));
    assert!(!passes(&harness, &[("x-k", "v")]));
    assert!(passes(&harness, &[("x-k", "w")]));
    assert!(passes(&harness, &[]));
}

#[tokio::test(start_paused = true)]
async fn an_entry_without_value_makes_a_bucket_for_each_and_forgets_the_oldest() {
    let harness = Harness::new(&pb::LocalRateLimit {
        descriptors: vec![descriptor("", 1)],
        rate_limits: vec![by_header()],
        max_dynamic_descriptors: Some(wkt::UInt32Value { value: 2 }),
        ..limit(100)
    });
    for (value, expected, why) in [
        ("a", true, "a is new"),
        ("a", false, "a has had its token"),
        ("b", true, "b is new"),
        ("a", false, "a was used last"),
        ("c", true, "c is new"),
        ("a", false, "a is still there"),
        ("b", true, "b was forgotten"),
    ] {
        assert_eq!(passes(&harness, &[("x-k", value)]), expected, "{why}");
        tokio::time::advance(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_descriptor_in_the_shadow_only_counts_but_the_default_still_refuses() {
    let shadow = |default: u32| {
        Harness::new(&pb::LocalRateLimit {
            descriptors: vec![common::LocalRateLimitDescriptor {
                shadow_mode: true,
                ..descriptor("v", 1)
            }],
            rate_limits: vec![by_header()],
            ..limit(default)
        })
    };
    let harness = shadow(10);
    assert!((0..3).all(|_| passes(&harness, &[("x-k", "v")])));
    let counts = ["ok", "rate_limited", "shadow_mode", "enforced"];
    assert_eq!(counts.map(|name| stat(&harness, name)), [1, 2, 2, 0]);
    let harness = shadow(1);
    assert!(passes(&harness, &[("x-k", "v")]));
    assert!(!passes(&harness, &[("x-k", "v")]));
    assert_eq!(stat(&harness, "shadow_mode"), 0);
}

#[test]
fn the_default_bucket_is_spared_where_configured() {
    let config = |always: bool| pb::LocalRateLimit {
        descriptors: vec![descriptor("v", 100)],
        rate_limits: vec![by_header()],
        always_consume_default_token_bucket: Some(wkt::BoolValue { value: always }),
        ..limit(1)
    };
    for (always, expected) in [(true, false), (false, true)] {
        let harness = Harness::new(&config(always));
        assert!(passes(&harness, &[("x-k", "v")]));
        assert_eq!(passes(&harness, &[("x-k", "v")]), expected);
    }
}

#[test]
fn rules_of_route_and_virtual_host_apply_by_stage_and_option() {
    use common::VhRateLimitsOptions::{self, Ignore, Include, Override};
    let refused = |of_route: Option<u32>, option: VhRateLimitsOptions| {
        let staged = |stage: u32| route_pb::RateLimit {
            stage: Some(wkt::UInt32Value { value: stage }),
            ..by_header()
        };
        let mut route = forward();
        if let (Some(route_pb::route::Action::Route(action)), Some(stage)) =
            (&mut route.action, of_route)
        {
            action.rate_limits = vec![staged(stage)];
        }
        let host = route_pb::VirtualHost {
            rate_limits: vec![staged(1)],
            ..virtual_host(route)
        };
        let config = pb::LocalRateLimit {
            descriptors: vec![descriptor("v", 0)],
            stage: 1,
            vh_rate_limits: option.into(),
            ..limit(100)
        };
        !passes(&Harness::with_host(&config, host), &[("x-k", "v")])
    };
    for (of_route, option, expected) in [
        (Some(1), Ignore, true),
        (Some(2), Ignore, false),
        (None, Ignore, false),
        (None, Override, true),
        (Some(2), Override, false),
        (Some(2), Include, true),
    ] {
        assert_eq!(
            refused(of_route, option),
            expected,
            "{of_route:?} {option:?}"
        );
    }
}

#[test]
fn each_connection_has_its_own_bucket_where_configured() {
    let mut harness = Harness::new(&pb::LocalRateLimit {
        local_rate_limit_per_downstream_connection: true,
        ..limit(1)
    });
    assert!(passes(&harness, &[]));
    assert!(!passes(&harness, &[]));
    let address = harness.connection.remote_address.clone();
    harness.connection = Rc::new(crate::stream_info::ConnectionInfo::between(
        address.clone(),
        address,
    ));
    assert!(passes(&harness, &[]));
}

#[test]
fn a_route_has_its_own_bucket_and_needs_one() {
    let harness = Harness::with_route(&limit(0), &limit(1));
    assert!(passes(&harness, &[]));
    assert!(!passes(&harness, &[]));
    let server = &harness.server;
    let scope = server.stats.scope("");
    let report = crate::config::ConfigReport::new();
    let path = ConfigPath::root(&report, "config");
    let cx = FactoryContext {
        server,
        scope: &scope,
        init: &InitManager::new("test"),
    };
    let without = pb::LocalRateLimit {
        token_bucket: None,
        ..limit(1)
    };
    assert!(LimitConfig::from_proto(without, true, &cx, &path).is_err());
    assert_eq!(
        report.take()[0].to_string(),
        "config / token_bucket: local rate limit token bucket must be set for per filter configs"
    );
}

#[test]
fn what_cannot_be_counted_is_refused_with_its_path() {
    let mut config = pb::LocalRateLimit {
        descriptors: vec![descriptor("v", 1), descriptor("v", 2)],
        local_cluster_rate_limit: Some(common::LocalClusterRateLimit {}),
        rate_limits: vec![route_pb::RateLimit {
            disable_key: "x".to_owned(),
            ..by_header()
        }],
        ..limit(1)
    };
    config.token_bucket.as_mut().unwrap().fill_interval = Some(wkt::Duration {
        seconds: 0,
        nanos: 10_000_000,
    });
    let mut found = errors(&config);
    found.sort();
    found.dedup();
    assert_eq!(
        found,
        [
            "config / descriptors[1]: duplicate descriptor in the local rate descriptor: k=v",
            "config / local_cluster_rate_limit: local_cluster_rate_limit is set but no local cluster name is present",
            "config / rate_limits[0]: 'stage' field and 'disable_key' field are not supported",
            "config / token_bucket / fill_interval: local rate limit token bucket fill timer must be >= 50ms",
        ]
    );
    let against_the_api = pb::LocalRateLimit {
        stat_prefix: String::new(),
        stage: 11,
        ..limit(1)
    };
    let mut found = errors(&against_the_api);
    found.sort();
    assert_eq!(
        found,
        [
            "config / stage: 11: has to be <= 10",
            "config / stat_prefix: \"\": must not be empty",
        ]
    );
}
