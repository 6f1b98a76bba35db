//! The filter over a service that nobody serves, and its parts over answers as they come.

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::filters::http::ext_authz::v3 as pb;
use outrigger_proto::pb::envoy::service::auth::v3 as auth;
use outrigger_proto::pb::google::rpc::Status;

use super::super::test_support::{Harness, errors};
use super::config::BodySettings;
use super::request::ShownBody;
use super::verdict::{Answer, Verdict};
use super::*;

fn grpc_service(timeout_ms: Option<i32>) -> core::GrpcService {
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    core::GrpcService {
        timeout: timeout_ms.map(|ms| outrigger_proto::pb::google::protobuf::Duration {
            seconds: 0,
            nanos: ms * 1_000_000,
        }),
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: "authz".to_owned(),
            ..EnvoyGrpc::default()
        })),
        ..core::GrpcService::default()
    }
}

fn asking(timeout_ms: Option<i32>) -> pb::ExtAuthz {
    pb::ExtAuthz {
        transport_api_version: 2,
        services: Some(pb::ext_authz::Services::GrpcService(grpc_service(
            timeout_ms,
        ))),
        ..pb::ExtAuthz::default()
    }
}

/// Waits for what the filter waits for.
async fn awaited(status: HeadersStatus) {
    match status {
        HeadersStatus::Wait(future) => future.await,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn without_its_service_a_request_is_refused() {
    let config = pb::ExtAuthz {
        status_on_error: Some(outrigger_proto::pb::envoy::r#type::v3::HttpStatus { code: 503 }),
        ..asking(None)
    };
    let harness = Harness::new(&config);
    let mut stream = harness.stream();
    let status = stream.decode_headers(true);
    awaited(status).await;
    let reply = stream.resume_decode().reply();
    assert_eq!((reply.status, &*reply.details), (503, "ext_authz_error"));
    let flag = ResponseFlag::UnauthorizedExternalService;
    assert!(stream.info.response_flags.contains(flag));
    assert_eq!(harness.stat("http.test.ext_authz.error"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_may_let_pass_and_say_so() {
    let config = pb::ExtAuthz {
        failure_mode_allow: true,
        failure_mode_allow_header_add: true,
        stat_prefix: "waf".to_owned(),
        ..asking(Some(10))
    };
    let harness = Harness::new(&config);
    let mut stream = harness.stream();
    let status = stream.decode_headers(true);
    awaited(status).await;
    assert!(stream.resume_decode().is_continue());
    let told = stream
        .request
        .fields
        .get_str("x-envoy-auth-failure-mode-allowed");
    assert_eq!(told, Some("true"));
    assert_eq!(
        harness.stat("http.test.ext_authz.waf.failure_mode_allowed"),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_is_waited_for_up_to_its_limit() {
    let settings = |allow_partial_message| pb::ExtAuthz {
        with_request_body: Some(pb::BufferSettings {
            max_request_bytes: 5,
            allow_partial_message,
            pack_as_bytes: false,
        }),
        ..asking(Some(10))
    };
    let harness = Harness::new(&settings(false));
    let mut stream = harness.stream();
    assert!(matches!(
        stream.decode_headers(false),
        HeadersStatus::StopIteration
    ));
    assert_eq!(stream.effects.buffer_limit, Some(5));
    let status = stream.decode_data("hel", false);
    assert!(matches!(status, DataStatus::StopIterationAndBuffer));
    // The stream answers with 413.
    let status = stream.decode_data("lo!", true);
    assert!(matches!(status, DataStatus::StopIterationAndBuffer));
    let mut stream = harness.stream();
    let _ = stream.decode_headers(false);
    assert!(matches!(
        stream.decode_data("hello", true),
        DataStatus::Wait(_)
    ));
    let mut stream = harness.stream();
    let _ = stream.decode_headers(false);
    let status = stream.decode_trailers(&mut Fields::new());
    assert!(matches!(status, TrailersStatus::Wait(_)));
    let harness = Harness::new(&settings(true));
    let mut stream = harness.stream();
    let _ = stream.decode_headers(false);
    assert_eq!(stream.effects.buffer_limit, None);
    assert!(matches!(
        stream.decode_data("hello!", false),
        DataStatus::Wait(_)
    ));
    let mut stream = harness.stream();
    assert!(matches!(
        stream.decode_headers(true),
        HeadersStatus::Wait(_)
    ));
}

#[test]
fn a_shown_body_ends_at_its_limit() {
    let settings = BodySettings {
        max_request_bytes: 5,
        allow_partial_message: true,
    };
    let shown = |pieces: &[&'static str]| {
        let pieces: Vec<_> = pieces
            .iter()
            .map(|p| Bytes::from_static(p.as_bytes()))
            .collect();
        let body = ShownBody::new(&pieces, settings);
        (String::from_utf8(body.bytes).unwrap(), body.is_partial)
    };
    assert_eq!(shown(&["hel", "lo"]), ("hello".to_owned(), false));
    assert_eq!(shown(&["hel", "lo", "!"]), ("hello".to_owned(), true));
    assert_eq!(shown(&["hello world"]), ("hello".to_owned(), true));
    assert_eq!(shown(&[]), (String::new(), false));
}

fn option(key: &str, value: &str, append: Option<bool>, action: i32) -> core::HeaderValueOption {
    #[allow(deprecated, reason = "services still send append")]
    core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            raw_value: Vec::new(),
        }),
        append: append.map(|value| outrigger_proto::pb::google::protobuf::BoolValue { value }),
        append_action: action,
        keep_empty_value: false,
    }
}

#[test]
fn an_action_that_does_not_exist_is_noticed_and_left_out() {
    let response = auth::CheckResponse {
        http_response: Some(auth::check_response::HttpResponse::OkResponse(
            auth::OkHttpResponse {
                response_headers_to_add: vec![
                    option("a", "1", None, 9),
                    option("b", "2", None, 0),
                    option("c", "3", Some(false), 9),
                ],
                ..auth::OkHttpResponse::default()
            },
        )),
        ..auth::CheckResponse::default()
    };
    let answer = Answer::from_check_response(response);
    assert!(answer.is_unclear);
    let Verdict::Ok(changes) = answer.verdict else {
        panic!("it is not ok");
    };
    let mut fields = Fields::new();
    assert!(changes.response.apply(&mut fields, None).is_ok());
    let names: Vec<_> = fields.iter().map(|(name, _)| name.to_vec()).collect();
    assert_eq!(names, [b"b", b"c"]);
}

#[test]
fn a_denial_with_a_status_that_is_none_is_403() {
    for code in [0, 99, 600] {
        let response = auth::CheckResponse {
            status: Some(Status {
                code: 7,
                ..Status::default()
            }),
            http_response: Some(auth::check_response::HttpResponse::DeniedResponse(
                auth::DeniedHttpResponse {
                    status: Some(outrigger_proto::pb::envoy::r#type::v3::HttpStatus { code }),
                    ..auth::DeniedHttpResponse::default()
                },
            )),
            ..auth::CheckResponse::default()
        };
        let Verdict::Denied(refusal) = Answer::from_check_response(response).verdict else {
            panic!("it is not denied");
        };
        assert_eq!(refusal.status, None, "{code}");
    }
}

#[test]
fn no_field_of_an_answer_ends_its_line() {
    let mut changes = ResponseChanges::default();
    let bad = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
    changes.add = vec![
        bad("x-a", b"a\r\nx-b: c"),
        bad("x a", b"a"),
        bad(":status", b"200"),
    ];
    let mut fields = Fields::new();
    assert!(changes.apply(&mut fields, None).is_ok());
    assert!(fields.is_empty());
}

#[test]
fn what_a_configuration_lacks_or_says_twice_is_named() {
    assert_eq!(
        errors(&pb::ExtAuthz::default()),
        ["config: needs one of grpc_service, http_service"]
    );
    let both = pb::HttpService {
        path_prefix: "/a".to_owned(),
        path_override: "/b".to_owned(),
        ..pb::HttpService::default()
    };
    let config = pb::ExtAuthz {
        services: Some(pb::ext_authz::Services::HttpService(both)),
        ..pb::ExtAuthz::default()
    };
    assert_eq!(
        errors(&config),
        [
            "config / http_service / server_uri: is required",
            "config / http_service: only one of path_prefix and path_override may be set",
        ]
    );
    let route = pb::ExtAuthzPerRoute {
        r#override: Some(pb::ext_authz_per_route::Override::CheckSettings(
            pb::CheckSettings {
                disable_request_body_buffering: true,
                with_request_body: Some(pb::BufferSettings {
                    max_request_bytes: 1,
                    ..pb::BufferSettings::default()
                }),
                ..pb::CheckSettings::default()
            },
        )),
    };
    assert_eq!(
        errors(&route),
        [
            "config / check_settings: only one of disable_request_body_buffering and with_request_body may be set"
        ]
    );
}

#[test]
fn a_response_does_not_become_larger_than_it_may_be() {
    let changes = ResponseChanges {
        add: vec![
            ("a".to_owned(), b"1".to_vec()),
            ("b".to_owned(), b"2".to_vec()),
        ],
        ..ResponseChanges::default()
    };
    let apply = |max_count, max_kb| {
        let mut fields = Fields::new();
        let limits = HeaderLimits { max_count, max_kb };
        changes.apply(&mut fields, Some(limits)).is_ok()
    };
    assert!(apply(3, 1), "the status counts too");
    assert!(!apply(2, 1));
    assert!(!apply(3, 0));
}
