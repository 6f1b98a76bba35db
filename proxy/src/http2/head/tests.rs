use super::super::hpack::{Decoder, Encoder};
use super::*;
use crate::http::{Protocol, RequestHead};

const RULES: HeadRules = HeadRules {
    refuses_obs_text: false,
    max_bytes: 1000,
    max_count: 20,
    underscores: HeadersWithUnderscoresAction::Allow,
};

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/x?y"),
    (":authority", "a"),
];

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut encoder = Encoder::new(4096, true);
    let mut out = Vec::new();
    for (name, value) in fields {
        encoder.field(
            Known::find(name.as_bytes()),
            name.as_bytes(),
            value.as_bytes(),
            &mut out,
        );
    }
    out
}

fn request(rules: &HeadRules, fields: &[(&str, &str)]) -> Decoded<RequestHead> {
    let mut builder = RequestBuilder::new(rules);
    Decoder::default()
        .decode(&block(fields), &mut builder)
        .unwrap();
    builder.finish()
}

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    GET.iter().chain(more).copied().collect()
}

#[test]
fn a_request_keeps_order_joins_cookies_and_takes_host_for_authority() {
    let decoded = request(
        &RULES,
        &[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/a<b>#c"),
            ("host", "h"),
            ("x-a", "1"),
            ("cookie", "a=1"),
            ("x-b", "2"),
            ("cookie", "b=2"),
            ("x-a", "3"),
            ("te", "trailers"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
        ],
    );
    assert_eq!(decoded.flaw, None);
    let head = decoded.head;
    assert_eq!(head.authority(), Some(&b"h"[..]));
    assert_eq!(head.path(), Some(&b"/a<b>#c"[..]));
    let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
    let fields: Vec<_> = head
        .fields
        .iter()
        .map(|(n, v)| format!("{}: {}", text(n), text(v)))
        .collect();
    assert_eq!(
        fields,
        [
            "x-a: 1",
            "cookie: a=1; b=2",
            "x-b: 2",
            "x-a: 3",
            "te: trailers",
            "x-forwarded-for: 1.1.1.1,2.2.2.2"
        ]
    );
}

#[test]
fn fields_that_must_not_be_there_are_found() {
    for field in [
        ("X-A", "1"),
        ("x y", "1"),
        ("x(y", "1"),
        ("", "1"),
        ("x", "a\0b"),
        ("x", "a\nb"),
        ("connection", "close"),
        ("keep-alive", "5"),
        ("te", "gzip"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "x"),
        ("proxy-connection", "x"),
        (":path", "/"),
        (":foo", "1"),
        (":status", "200"),
        ("content-length", "x"),
        ("content-length", "+1"),
        ("host", "a b"),
    ] {
        let flaw = request(&RULES, &with(&[field])).flaw;
        assert_eq!(flaw, Some(Flaw::Field), "{field:?}");
    }
    let late: Vec<_> = [("x", "1")].into_iter().chain(GET).collect();
    assert_eq!(request(&RULES, &late).flaw, Some(Flaw::Field));
    let twice = with(&[("content-length", "1"), ("content-length", "1")]);
    assert_eq!(request(&RULES, &twice).flaw, Some(Flaw::Field));
}

#[test]
fn a_head_without_what_a_message_needs_is_found() {
    for missing in [":method", ":scheme", ":path", ":authority"] {
        let fields: Vec<_> = GET.into_iter().filter(|(n, _)| *n != missing).collect();
        let flaw = request(&RULES, &fields).flaw;
        assert_eq!(flaw, Some(Flaw::Message), "{missing}");
    }
    let path = |path| GET.map(|(n, v)| (n, if n == ":path" { path } else { v }));
    assert_eq!(request(&RULES, &path("*")).flaw, Some(Flaw::Message));
    assert_eq!(request(&RULES, &path("")).flaw, Some(Flaw::Field));
    assert_eq!(request(&RULES, &path("/a b")).flaw, Some(Flaw::Field));
    let flaw = request(&RULES, &with(&[(":protocol", "websocket")])).flaw;
    assert_eq!(
        flaw,
        Some(Flaw::Field).filter(|_| false).or(Some(Flaw::Message))
    );
}

#[test]
fn octets_above_ascii_pass_unless_they_are_refused() {
    let fields = with(&[("x", "caf\u{e9}")]);
    assert_eq!(request(&RULES, &fields).flaw, None);
    let strict = HeadRules {
        refuses_obs_text: true,
        ..RULES
    };
    assert_eq!(request(&strict, &fields).flaw, Some(Flaw::Field));
}

#[test]
fn limits_are_those_of_all_fields() {
    let small = HeadRules {
        max_bytes: 60,
        ..RULES
    };
    assert_eq!(request(&small, &GET).flaw, None);
    let flaw = request(&small, &with(&[("x-a", "0123456789012345678901234")])).flaw;
    assert_eq!(flaw, Some(Flaw::TooLarge));
    let few = HeadRules {
        max_count: 5,
        ..RULES
    };
    assert_eq!(request(&few, &with(&[("x-a", "1")])).flaw, None);
    let flaw = request(&few, &with(&[("x-a", "1"), ("x-a", "2")])).flaw;
    assert_eq!(flaw, Some(Flaw::TooMany));
}

#[test]
fn underscores_are_left_out_or_refused_as_configured() {
    let rules = |underscores| HeadRules {
        underscores,
        ..RULES
    };
    let fields = with(&[("a_b", "1"), ("c", "2")]);
    let dropped = request(&rules(HeadersWithUnderscoresAction::DropHeader), &fields);
    assert_eq!((dropped.flaw, dropped.dropped_underscores), (None, 1));
    assert_eq!(dropped.head.fields.len(), 1);
    let refused = request(&rules(HeadersWithUnderscoresAction::RejectRequest), &fields);
    assert_eq!(refused.flaw, Some(Flaw::Underscore));
}

#[test]
fn responses_need_a_status_and_101_is_none() {
    let response = |fields: &[(&str, &str)]| {
        let mut builder = ResponseBuilder::new(&RULES);
        Decoder::default()
            .decode(&block(fields), &mut builder)
            .unwrap();
        builder.finish()
    };
    let ok = response(&[(":status", "204"), ("content-length", "0"), ("x", "1")]);
    assert_eq!(
        (ok.flaw, ok.head.status, ok.content_length),
        (None, 204, None)
    );
    assert_eq!(ok.head.fields.len(), 1);
    assert_eq!(response(&[("x", "1")]).flaw, Some(Flaw::Message));
    for status in ["101", "20", "2000", "x00", "099"] {
        assert_eq!(response(&[(":status", status)]).flaw, Some(Flaw::Field));
    }
}

#[test]
fn what_concerns_one_connection_is_not_written() {
    let mut head = RequestHead::new(Protocol::Http11, b"GET");
    head.set_authority(b"a:80");
    head.set_path(b"/x?y=z");
    head.set_scheme(b"http");
    for (name, value) in [
        ("connection", "close"),
        ("keep-alive", "5"),
        ("transfer-encoding", "chunked"),
        ("te", "trailers"),
        ("x-a", "1"),
        ("cookie", "a=1; b=2"),
    ] {
        head.fields.append(name, value);
    }
    let mut out = Vec::new();
    encode_request(&head, &mut Encoder::new(4096, true), &mut out);
    let mut builder = RequestBuilder::new(&RULES);
    Decoder::default().decode(&out, &mut builder).unwrap();
    let decoded = builder.finish();
    assert_eq!(decoded.flaw, None);
    assert_eq!(decoded.head.authority(), Some(&b"a:80"[..]));
    let names: Vec<_> = decoded
        .head
        .fields
        .iter()
        .map(|(n, _)| n.to_vec())
        .collect();
    assert_eq!(names, [&b"te"[..], b"x-a", b"cookie"]);
}
