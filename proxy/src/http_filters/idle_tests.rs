//! What filters promise that say of themselves that they are idle.

use outrigger_proto::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use outrigger_proto::pb::envoy::config::rbac::v3 as rules;
use outrigger_proto::pb::envoy::extensions::filters::common::fault::v3 as common;
use outrigger_proto::pb::envoy::extensions::filters::http as pb;
use outrigger_proto::pb::envoy::r#type::v3::FractionalPercent;
use prost::{Message, Name};

use super::test_support::Harness;
use super::{DataStatus, Effects, TrailersStatus};
use crate::http::Fields;
use crate::stream_info::DynamicMetadata;

fn percent(numerator: u32, runtime_key: &str) -> Option<RuntimeFractionalPercent> {
    Some(RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator,
            denominator: 0,
        }),
        runtime_key: runtime_key.to_owned(),
    })
}

/// Whether the filter says that it is idle. If so, it keeps what that promises on streams that have all that filters look at.
fn is_idle<M: Message + Name>(config: &M) -> bool {
    let harness = Harness::new(config);
    if harness.is_idle {
        for method in ["GET", "POST", "OPTIONS", "CONNECT"] {
            keeps_its_promise(&harness, method, false);
            keeps_its_promise(&harness, method, true);
        }
        assert_eq!(
            harness.counted(),
            Vec::<String>::new(),
            "{}",
            M::full_name()
        );
    }
    harness.is_idle
}

fn keeps_its_promise(harness: &Harness, method: &str, end: bool) {
    let fields = [
        (":method", method),
        ("origin", "http://elsewhere"),
        ("referer", "http://elsewhere/"),
        ("access-control-request-method", "PUT"),
        ("authorization", "Bearer x"),
        ("cookie", "a=b"),
        ("content-type", "application/json"),
        ("x-envoy-fault-delay-request", "1000"),
        ("x-envoy-fault-abort-request", "503"),
        ("x-envoy-fault-throughput-response", "1"),
        ("x-envoy-downstream-service-cluster", "c"),
        ("x-envoy-downstream-service-node", "n"),
    ];
    let mut stream = harness.stream_with(&fields);
    let (request, response) = (stream.request.clone(), stream.response.clone());
    assert!(stream.decode_headers(end).is_continue());
    if !end {
        let status = stream.decode_data("{}", false);
        assert!(matches!(status, DataStatus::Continue));
        let status = stream.decode_trailers(&mut Fields::new());
        assert!(matches!(status, TrailersStatus::Continue));
    }
    assert!(stream.encode_headers(false).is_continue());
    let (status, data) = stream.encode_data("{}", false);
    assert!(matches!(status, DataStatus::Continue) && *data == *b"{}");
    let status = stream.encode_trailers(&mut Fields::new());
    assert!(matches!(status, TrailersStatus::Continue));
    stream.complete();
    let text = |head: &dyn std::fmt::Debug| format!("{head:?}");
    assert_eq!(text(&stream.request), text(&request));
    assert_eq!(text(&stream.response), text(&response));
    assert_eq!(text(&stream.effects), text(&Effects::default()));
    let info = &stream.info;
    assert_eq!(
        text(&info.dynamic_metadata),
        text(&DynamicMetadata::default())
    );
    assert!(info.response_flags.is_empty());
    assert!(info.response_code_details.is_none() && info.override_host.is_none());
}

#[tokio::test]
async fn filters_with_nothing_to_do_are_idle_and_keep_what_that_promises() {
    assert!(is_idle(&pb::cors::v3::Cors {}));
    assert!(is_idle(&pb::rbac::v3::Rbac::default()));
    assert!(is_idle(&pb::fault::v3::HttpFault::default()));
    assert!(is_idle(&pb::set_metadata::v3::Config::default()));
    assert!(is_idle(&pb::set_filter_state::v3::Config::default()));
    assert!(is_idle(
        &pb::stateful_session::v3::StatefulSession::default()
    ));
    assert!(is_idle(&pb::csrf::v3::CsrfPolicy {
        filter_enabled: percent(0, ""),
        shadow_enabled: percent(0, ""),
        ..Default::default()
    }));
    let limit = || pb::local_ratelimit::v3::LocalRateLimit {
        stat_prefix: "p".to_owned(),
        ..Default::default()
    };
    assert!(is_idle(&limit()));
    assert!(is_idle(&pb::local_ratelimit::v3::LocalRateLimit {
        filter_enabled: percent(0, ""),
        filter_enforced: percent(100, ""),
        ..limit()
    }));
    assert!(is_idle(&pb::bandwidth_limit::v3::BandwidthLimit {
        stat_prefix: "p".to_owned(),
        ..Default::default()
    }));
}

#[tokio::test]
async fn filters_that_could_do_something_are_not_idle() {
    let limit = |enabled| pb::local_ratelimit::v3::LocalRateLimit {
        stat_prefix: "p".to_owned(),
        filter_enabled: enabled,
        ..Default::default()
    };
    assert!(!is_idle(&limit(percent(1, ""))));
    // A runtime key may switch it on at any time.
    assert!(!is_idle(&limit(percent(0, "key"))));
    let csrf = |enabled, shadow| pb::csrf::v3::CsrfPolicy {
        filter_enabled: enabled,
        shadow_enabled: shadow,
        ..Default::default()
    };
    assert!(!is_idle(&csrf(percent(0, "key"), None)));
    assert!(!is_idle(&csrf(percent(0, ""), percent(1, ""))));
    let rules = || {
        Some(rules::Rbac {
            action: rules::rbac::Action::Allow.into(),
            ..Default::default()
        })
    };
    assert!(!is_idle(&pb::rbac::v3::Rbac {
        rules: rules(),
        ..Default::default()
    }));
    assert!(!is_idle(&pb::rbac::v3::Rbac {
        shadow_rules: rules(),
        ..Default::default()
    }));
    assert!(!is_idle(&pb::fault::v3::HttpFault {
        abort: Some(pb::fault::v3::FaultAbort {
            error_type: Some(pb::fault::v3::fault_abort::ErrorType::HeaderAbort(
                Default::default()
            )),
            ..Default::default()
        }),
        ..Default::default()
    }));
    assert!(!is_idle(&pb::fault::v3::HttpFault {
        delay: Some(common::FaultDelay {
            fault_delay_secifier: Some(common::fault_delay::FaultDelaySecifier::HeaderDelay(
                Default::default()
            )),
            ..Default::default()
        }),
        ..Default::default()
    }));
    // Counts streams without session.
    assert!(!is_idle(&pb::stateful_session::v3::StatefulSession {
        stat_prefix: "p".to_owned(),
        ..Default::default()
    }));
    assert!(!is_idle(&pb::set_filter_state::v3::Config {
        clear_route_cache: true,
        ..Default::default()
    }));
    // What they do with a response is decided when they see the request.
    assert!(!is_idle(&pb::header_to_metadata::v3::Config::default()));
    assert!(!is_idle(&pb::header_mutation::v3::HeaderMutation::default()));
    // Every request counts as allowed.
    assert!(!is_idle(&pb::jwt_authn::v3::JwtAuthentication::default()));
    assert!(!is_idle(&pb::grpc_web::v3::GrpcWeb {}));
}
