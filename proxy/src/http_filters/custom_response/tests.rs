use outrigger_proto::pb::envoy::extensions::http::custom_response::redirect_policy::v3::RedirectPolicy;
use outrigger_proto::pb::envoy::extensions::http::custom_response::redirect_policy::v3::redirect_policy::RedirectActionSpecifier;
use outrigger_proto::pb::envoy::config::route::v3::RedirectAction;
use outrigger_proto::pb::envoy::config::route::v3::redirect_action::PathRewriteSpecifier;
use outrigger_proto::pb::google::protobuf::UInt32Value;
use outrigger_proto::pb::xds::core::v3::TypedExtensionConfig;
use outrigger_proto::pb::xds::r#type::matcher::v3 as matching;
use prost::{Message, Name};

use outrigger_proto::pb::envoy::extensions::http::custom_response::local_response_policy::v3 as local;

use super::super::test_support::{Harness, any, errors};
use super::*;

/// A configuration that does this about every response.
fn always<M: Message + Name>(action: &M) -> pb::CustomResponse {
    pb::CustomResponse {
        custom_response_matcher: Some(matching::Matcher {
            on_no_match: Some(Box::new(matching::matcher::OnMatch {
                on_match: Some(matching::matcher::on_match::OnMatch::Action(
                    TypedExtensionConfig {
                        name: "action".to_owned(),
                        typed_config: Some(any(action)),
                    },
                )),
                ..Default::default()
            })),
            ..Default::default()
        }),
    }
}

#[test]
fn a_response_is_replaced_by_another_with_its_status() {
    let harness = Harness::new(&always(&local::LocalResponsePolicy::default()));
    let mut stream = harness.stream();
    stream.response.status = 418;
    let reply = stream.encode_headers(false).reply();
    assert_eq!(
        (reply.status, &*reply.details, reply.body.len()),
        (418, "", 0)
    );
    let mut stream = Harness::new(&pb::CustomResponse::default()).stream();
    assert!(stream.encode_headers(false).is_continue());
}

fn redirect(to: RedirectActionSpecifier) -> RedirectPolicy {
    RedirectPolicy {
        redirect_action_specifier: Some(to),
        ..Default::default()
    }
}

#[test]
fn a_redirect_asks_for_something_else_once() {
    let uri = RedirectActionSpecifier::Uri("http://other.com/sorry?a#b".to_owned());
    let policy = RedirectPolicy {
        status_code: Some(UInt32Value { value: 299 }),
        ..redirect(uri)
    };
    let harness = Harness::new(&always(&policy));
    let mut stream = harness.stream();
    stream.response.status = 503;
    // Not where the filter has not seen the request.
    assert!(stream.encode_headers(false).is_continue());
    assert!(stream.decode_headers(true).is_continue());
    let HeadersStatus::Recreate(recreate) = stream.encode_headers(false) else {
        panic!("the stream does not begin anew");
    };
    let head = &recreate.request;
    assert_eq!(head.method_bytes(), b"GET");
    assert_eq!(head.authority(), Some(&b"other.com"[..]));
    assert_eq!(head.path(), Some(&b"/sorry?a"[..]));
    let (name, state) = recreate.state;
    stream.info.filter_state.set(name, state);
    stream.response.status = 404;
    assert!(stream.encode_headers(false).is_continue());
    assert_eq!(stream.response.status, 299);
}

#[test]
fn a_redirect_leads_somewhere() {
    for (to, expected) in [
        (
            RedirectActionSpecifier::Uri("/relative".to_owned()),
            "is no absolute URL",
        ),
        (
            RedirectActionSpecifier::RedirectAction(RedirectAction::default()),
            "At least one of host_redirect and path_redirect",
        ),
        (
            RedirectActionSpecifier::RedirectAction(RedirectAction {
                path_rewrite_specifier: Some(PathRewriteSpecifier::PathRedirect("/a#b".to_owned())),
                ..Default::default()
            }),
            "#fragment is not supported",
        ),
        (
            RedirectActionSpecifier::RedirectAction(RedirectAction {
                path_rewrite_specifier: Some(PathRewriteSpecifier::PrefixRewrite("/a".to_owned())),
                ..Default::default()
            }),
            "prefix_rewrite is not supported",
        ),
    ] {
        let found = errors(&always(&redirect(to)));
        assert!(found[0].contains(expected), "{found:?}");
    }
}
