use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outrigger_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use outrigger_proto::pb::envoy::extensions::http::stateful_session as states;
use outrigger_proto::pb::envoy::r#type::http::v3::Cookie;
use outrigger_proto::pb::google::protobuf::Duration;

use super::super::test_support::{Harness, any, errors};
use super::*;

fn session<M: prost::Message + prost::Name>(state: &M) -> pb::StatefulSession {
    pb::StatefulSession {
        session_state: Some(TypedExtensionConfig {
            name: "state".to_owned(),
            typed_config: Some(any(state)),
        }),
        ..Default::default()
    }
}

fn header() -> pb::StatefulSession {
    session(&states::header::v3::HeaderBasedSessionState {
        name: "X-Host".to_owned(),
    })
}

fn cookie(path: &str, ttl: i64) -> pb::StatefulSession {
    session(&states::cookie::v3::CookieBasedSessionState {
        cookie: Some(Cookie {
            name: "sid".to_owned(),
            ttl: Some(Duration {
                seconds: ttl,
                nanos: 0,
            }),
            path: path.to_owned(),
            ..Default::default()
        }),
    })
}

/// The host that a request with these fields is bound to.
fn bound(config: &pb::StatefulSession, fields: &[(&str, &str)]) -> Option<OverrideHost> {
    let mut stream = Harness::new(config).stream_with(fields);
    assert!(stream.decode_headers(true).is_continue());
    stream.info.override_host.map(|host| *host)
}

#[test]
fn a_header_names_the_host() {
    let named = STANDARD.encode("10.0.0.1:80");
    let host = bound(&header(), &[("x-host", &named)]).unwrap();
    assert_eq!((&*host.address, host.strict), ("10.0.0.1:80", false));
    for rubbish in ["", "%%", "\u{1f}", "/w=="] {
        assert!(
            bound(&header(), &[("x-host", rubbish)]).is_none(),
            "{rubbish:?}"
        );
    }
    let strict = pb::StatefulSession {
        strict: true,
        status_on_strict_destination_not_found: 410,
        ..header()
    };
    let host = bound(&strict, &[("x-host", &named)]).unwrap();
    assert_eq!((host.strict, host.strict_status), (true, 410));
}

#[test]
fn a_cookie_counts_below_its_path_and_until_it_expires() {
    let value = |expires: &[u8]| {
        let bytes = [b"\x0a\x0b10.0.0.1:80", expires].concat();
        format!("sid={}", STANDARD.encode(bytes))
    };
    let binds = |config: &pb::StatefulSession, path: &str, cookie: &str| {
        bound(config, &[(":path", path), ("cookie", cookie)]).is_some()
    };
    for (own, path, is) in [
        ("", "/x", true),
        ("/", "/x", true),
        ("/a", "/a", true),
        ("/a", "/a/b", true),
        ("/a", "/a?b", true),
        ("/a", "/ab", false),
        ("/a/", "/a/b", true),
        ("/a/", "/a", false),
    ] {
        assert_eq!(
            binds(&cookie(own, 0), path, &value(b"")),
            is,
            "{own} {path}"
        );
    }
    assert!(
        !binds(&cookie("", 10), "/", &value(b"\x10\x01")),
        "it ended in 1970"
    );
    let late = b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\x7f";
    assert!(binds(&cookie("", 10), "/", &value(late)));
    let plain = format!("sid={}", STANDARD.encode("127.0.0.1:80"));
    assert!(binds(&cookie("", 0), "/", &plain));
}

#[test]
fn an_envelope_is_taken_off_the_request() {
    let config = session(&states::envelope::v3::EnvelopeSessionState {
        header: Some(states::envelope::v3::envelope_session_state::Header {
            name: "x-s".to_owned(),
        }),
    });
    let value = format!(
        "{};UV:{}",
        STANDARD.encode("10.0.0.1:80"),
        STANDARD.encode("mine")
    );
    let harness = Harness::new(&config);
    let mut stream = harness.stream_with(&[("x-s", &value)]);
    let _ = stream.decode_headers(true);
    assert_eq!(stream.request.fields.get_str("x-s"), Some("mine"));
    assert!(stream.info.override_host.is_some());
    let mut stream = harness.stream_with(&[("x-s", "mine")]);
    let _ = stream.decode_headers(true);
    assert_eq!(stream.request.fields.get_str("x-s"), Some("mine"));
    assert!(stream.info.override_host.is_none());
}

#[test]
fn what_is_wrong_is_named() {
    let empty = session(&states::header::v3::HeaderBasedSessionState::default());
    let found = errors(&empty);
    assert!(found.iter().any(|e| e.contains("name")), "{found:?}");
    let unknown = session(&header());
    let found = errors(&unknown);
    assert!(found[0].contains("is not supported here"), "{found:?}");
    let off = pb::StatefulSessionPerRoute {
        r#override: Some(Override::Disabled(false)),
    };
    assert_eq!(errors(&off), ["config / disabled: false: has to be true"]);
}
