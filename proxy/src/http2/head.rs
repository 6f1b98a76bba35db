//! Header blocks straight into heads, with the checks that every message passes, and heads into header blocks.

use super::hpack::{Encoder, FieldSink, Name, NameClass, Pseudo};
use super::options::HeadersWithUnderscoresAction;
use crate::http::{Fields, Known, Method, Protocol, RequestHead, ResponseHead};
use crate::http_connection_manager::codec::inline::{merges_in_request, merges_in_response};

/// What is wrong with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// A field that must not be there, or not so.
    Field,
    /// The fields do not make a message.
    Message,
    /// More bytes than allowed.
    TooLarge,
    /// More fields than allowed.
    TooMany,
    /// A name with an underscore where they are refused.
    Underscore,
}

impl Flaw {
    /// `%RESPONSE_CODE_DETAILS%`.
    pub(super) fn details(self) -> &'static str {
        match self {
            Self::Field => "http2.invalid.header.field",
            Self::Message => "http2.violation.of.messaging.rule",
            Self::TooLarge => "http2.header_list_size_too_large",
            Self::TooMany => "http2.too_many_headers",
            Self::Underscore => "http2.unexpected_underscore",
        }
    }

    /// Whether the peer broke the protocol, and not a limit of ours.
    pub(super) fn is_malformed(self) -> bool {
        matches!(self, Self::Field | Self::Message)
    }
}

/// What heads have to keep to.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadRules {
    pub(super) max_bytes: usize,
    pub(super) max_count: usize,
    pub(super) underscores: HeadersWithUnderscoresAction,
}

/// What is counted and checked while a block is read.
struct Checks<'a> {
    rules: &'a HeadRules,
    flaw: Option<Flaw>,
    bytes: usize,
    count: usize,
    dropped_underscores: u64,
    regular_seen: bool,
    pseudo_seen: u8,
    content_length: Option<u64>,
}

/// What came of a block.
#[derive(Debug)]
pub(super) struct Decoded<T> {
    pub(super) head: T,
    pub(super) flaw: Option<Flaw>,
    pub(super) content_length: Option<u64>,
    pub(super) dropped_underscores: u64,
}

pub(super) struct RequestBuilder<'a> {
    head: RequestHead,
    checks: Checks<'a>,
}

pub(super) struct ResponseBuilder<'a> {
    head: ResponseHead,
    checks: Checks<'a>,
}

pub(super) struct TrailersBuilder<'a> {
    fields: Fields,
    checks: Checks<'a>,
}

/// Reads a block into nothing, for the sake of the table.
pub(super) struct Skipped;

impl FieldSink for Skipped {
    fn field(&mut self, _name: Name<'_>, _value: &[u8]) {}
}

impl<'a> Checks<'a> {
    fn new(rules: &'a HeadRules) -> Self {
        Self {
            rules,
            flaw: None,
            bytes: 0,
            count: 0,
            dropped_underscores: 0,
            regular_seen: false,
            pseudo_seen: 0,
            content_length: None,
        }
    }

    fn fail(&mut self, flaw: Flaw) {
        self.flaw = self.flaw.or(Some(flaw));
    }

    /// Notes a pseudo header. False: it must not be here.
    fn pseudo(&mut self, pseudo: Pseudo) -> bool {
        let bit = 1 << pseudo as u8;
        let fits = !self.regular_seen && self.pseudo_seen & bit == 0;
        self.pseudo_seen |= bit;
        fits
    }

    fn has(&self, pseudo: Pseudo) -> bool {
        self.pseudo_seen & (1 << pseudo as u8) != 0
    }

    /// Checks a regular field. False: it is left out, or the head is lost.
    fn regular(&mut self, name: &[u8], known: Option<Known>, value: &[u8]) -> bool {
        self.regular_seen = true;
        if !is_value(value) {
            self.fail(Flaw::Field);
            return false;
        }
        match known {
            Some(
                Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::TransferEncoding
                | Known::Upgrade,
            ) => {
                self.fail(Flaw::Field);
                return false;
            }
            Some(Known::Te) if !value.eq_ignore_ascii_case(b"trailers") => {
                self.fail(Flaw::Field);
                return false;
            }
            Some(Known::ContentLength) => {
                let length = parse_length(value);
                if length.is_none() || self.content_length.is_some() {
                    self.fail(Flaw::Field);
                    return false;
                }
                self.content_length = length;
            }
            // No known name has an underscore.
            None if self.rules.underscores != HeadersWithUnderscoresAction::Allow
                && name.contains(&b'_') =>
            {
                if self.rules.underscores == HeadersWithUnderscoresAction::RejectRequest {
                    self.fail(Flaw::Underscore);
                } else {
                    self.dropped_underscores += 1;
                }
                return false;
            }
            _ => {}
        }
        true
    }

    /// Counts what was taken. `merged`: it joined another field.
    fn taken(&mut self, bytes: usize, merged: bool) {
        self.bytes += bytes;
        self.count += usize::from(!merged);
        if self.bytes > self.rules.max_bytes {
            self.fail(Flaw::TooLarge);
        } else if self.count > self.rules.max_count {
            self.fail(Flaw::TooMany);
        }
    }
}

impl<'a> RequestBuilder<'a> {
    pub(super) fn new(rules: &'a HeadRules) -> Self {
        Self {
            head: RequestHead::new(Protocol::Http2, b""),
            checks: Checks::new(rules),
        }
    }

    pub(super) fn finish(mut self) -> Decoded<RequestHead> {
        if self.checks.flaw.is_none() && !self.is_message() {
            self.checks.fail(Flaw::Message);
        }
        Decoded {
            head: self.head,
            flaw: self.checks.flaw,
            content_length: self.checks.content_length,
            dropped_underscores: self.checks.dropped_underscores,
        }
    }

    fn is_message(&self) -> bool {
        let Self { head, checks } = self;
        let has_authority = head.authority().is_some();
        if !checks.has(Pseudo::Method) {
            return false;
        }
        let protocol = checks.has(Pseudo::Protocol);
        if head.method() == Method::Connect && !protocol {
            return has_authority && !checks.has(Pseudo::Scheme) && !checks.has(Pseudo::Path);
        }
        let complete = has_authority && checks.has(Pseudo::Scheme) && checks.has(Pseudo::Path);
        if !complete || protocol && head.method() != Method::Connect {
            return false;
        }
        let is_http = head
            .scheme()
            .is_some_and(|s| s.eq_ignore_ascii_case(b"http") || s.eq_ignore_ascii_case(b"https"));
        let path = head.path().unwrap_or_default();
        !is_http || path.starts_with(b"/") || path == b"*" && head.method() == Method::Options
    }

    fn pseudo(&mut self, pseudo: Pseudo, value: &[u8]) {
        let fits = self.checks.pseudo(pseudo)
            && match pseudo {
                Pseudo::Method => !value.is_empty() && value.iter().all(|b| is_token(*b)),
                Pseudo::Scheme => is_scheme(value),
                Pseudo::Authority => is_authority(value),
                Pseudo::Path => !value.is_empty() && value.iter().all(|b| is_path(*b)),
                Pseudo::Protocol => !value.is_empty() && is_value(value),
                Pseudo::Status => false,
            };
        if !fits {
            return self.checks.fail(Flaw::Field);
        }
        match pseudo {
            Pseudo::Method => self.head.set_method(value),
            Pseudo::Scheme => self.head.set_scheme(value),
            Pseudo::Authority => self.head.set_authority(value),
            Pseudo::Path => self.head.set_path(value),
            Pseudo::Protocol => self.head.set_protocol(value),
            Pseudo::Status => {}
        }
    }
}

impl FieldSink for RequestBuilder<'_> {
    fn field(&mut self, name: Name<'_>, value: &[u8]) {
        if self.checks.flaw.is_some() {
            return;
        }
        let size = name.bytes.len() + value.len();
        let known = match name.class {
            NameClass::Pseudo(pseudo) => {
                self.pseudo(pseudo, value);
                return self.checks.taken(size, false);
            }
            NameClass::Invalid => return self.checks.fail(Flaw::Field),
            NameClass::Regular(known) => known,
        };
        if !self.checks.regular(name.bytes, known, value) {
            return;
        }
        match known {
            // Pieces of one cookie header, which HPACK likes better apart.
            Some(Known::Cookie) => {
                let fields = &mut self.head.fields;
                let merged = fields.contains(Known::Cookie);
                fields.append_to(Known::Cookie, b"; ", value);
                self.checks.taken(size, merged);
            }
            Some(Known::Host) => {
                if !is_authority(value) {
                    self.checks.fail(Flaw::Field);
                } else if self.head.authority().is_none() {
                    self.head.set_authority(value);
                    self.checks.taken(size, false);
                }
            }
            _ => {
                let fields = &mut self.head.fields;
                let merged = fields.append_checked(known, name.bytes, value, merges_in_request);
                self.checks.taken(size, merged);
            }
        }
    }
}

impl<'a> ResponseBuilder<'a> {
    pub(super) fn new(rules: &'a HeadRules) -> Self {
        Self {
            head: ResponseHead::new(0),
            checks: Checks::new(rules),
        }
    }

    pub(super) fn finish(mut self) -> Decoded<ResponseHead> {
        if self.checks.flaw.is_none() && !self.checks.has(Pseudo::Status) {
            self.checks.fail(Flaw::Message);
        }
        Decoded {
            head: self.head,
            flaw: self.checks.flaw,
            content_length: self.checks.content_length,
            dropped_underscores: 0,
        }
    }

    fn pseudo(&mut self, pseudo: Pseudo, value: &[u8]) {
        let status = match value {
            [a @ b'1'..=b'9', b, c] if b.is_ascii_digit() && c.is_ascii_digit() => {
                u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
            }
            _ => 0,
        };
        let fits = self.checks.pseudo(pseudo) && pseudo == Pseudo::Status;
        // 101 does not exist in HTTP/2.
        if !fits || status == 0 || status == 101 {
            return self.checks.fail(Flaw::Field);
        }
        self.head.status = status;
    }
}

impl FieldSink for ResponseBuilder<'_> {
    fn field(&mut self, name: Name<'_>, value: &[u8]) {
        if self.checks.flaw.is_some() {
            return;
        }
        let size = name.bytes.len() + value.len();
        let known = match name.class {
            NameClass::Pseudo(pseudo) => {
                self.pseudo(pseudo, value);
                return self.checks.taken(size, false);
            }
            NameClass::Invalid => return self.checks.fail(Flaw::Field),
            NameClass::Regular(known) => known,
        };
        if !self.checks.regular(name.bytes, known, value) {
            return;
        }
        if known == Some(Known::ContentLength) && matches!(self.head.status, 100..200 | 204) {
            if self.head.status == 204 && self.checks.content_length != Some(0) {
                self.checks.fail(Flaw::Field);
            }
            // It says nothing there.
            self.checks.content_length = None;
            return;
        }
        let fields = &mut self.head.fields;
        let merged = fields.append_checked(known, name.bytes, value, merges_in_response);
        self.checks.taken(size, merged);
    }
}

impl<'a> TrailersBuilder<'a> {
    pub(super) fn new(rules: &'a HeadRules) -> Self {
        Self {
            fields: Fields::new(),
            checks: Checks::new(rules),
        }
    }

    pub(super) fn finish(self) -> Decoded<Fields> {
        Decoded {
            head: self.fields,
            flaw: self.checks.flaw,
            content_length: None,
            dropped_underscores: self.checks.dropped_underscores,
        }
    }
}

impl FieldSink for TrailersBuilder<'_> {
    fn field(&mut self, name: Name<'_>, value: &[u8]) {
        if self.checks.flaw.is_some() {
            return;
        }
        let NameClass::Regular(known) = name.class else {
            return self.checks.fail(Flaw::Field);
        };
        if self.checks.regular(name.bytes, known, value) {
            self.fields
                .append_checked(known, name.bytes, value, |_| false);
            self.checks.taken(name.bytes.len() + value.len(), false);
        }
    }
}

/// Writes a request head.
pub(super) fn encode_request(head: &RequestHead, encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.begin(out);
    let protocol = head.protocol();
    let tunnel = head.method() == Method::Connect && protocol.is_none();
    encoder.method(head.method_bytes(), out);
    if !tunnel {
        encoder.scheme(head.scheme().unwrap_or(b"http"), out);
        encoder.path(head.path().unwrap_or(b"/"), out);
    }
    if let Some(authority) = head.authority() {
        encoder.field(None, b":authority", authority, out);
    }
    if let Some(protocol) = protocol {
        encoder.field(None, b":protocol", protocol, out);
    }
    encode_fields(&head.fields, encoder, out);
}

/// Writes a response head.
pub(super) fn encode_response(head: &ResponseHead, encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.begin(out);
    encoder.status(head.status, out);
    encode_fields(&head.fields, encoder, out);
}

/// Writes trailers.
pub(super) fn encode_trailers(fields: &Fields, encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.begin(out);
    encode_fields(fields, encoder, out);
}

/// Writes fields, without those that concern one connection only.
fn encode_fields(fields: &Fields, encoder: &mut Encoder, out: &mut Vec<u8>) {
    for (known, name, value) in fields.iter_known() {
        match known {
            Some(
                Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::TransferEncoding
                | Known::Upgrade
                | Known::Host,
            ) => continue,
            Some(Known::Te) if value != b"trailers" => continue,
            _ => {}
        }
        encoder.field(known, name, value, out);
    }
}

fn is_token(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

fn is_value(value: &[u8]) -> bool {
    // Most values are printable text, for which one pass without branches is enough.
    let odd = value.iter().fold(false, |odd, byte| {
        odd | (*byte < b' ' && *byte != b'\t') | (*byte == 0x7f)
    });
    !odd
}

fn is_path(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}

fn is_scheme(value: &[u8]) -> bool {
    value.first().is_some_and(u8::is_ascii_alphabetic)
        && value
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

fn is_authority(value: &[u8]) -> bool {
    !value.is_empty()
        && value.iter().all(|b| {
            matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'!' | b'$' | b'%' | b'&'..=b'.' | b':' | b';' | b'=' | b'@' | b'[' | b']' | b'_' | b'~')
        })
}

fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::hpack::Decoder;
    use super::*;

    const RULES: HeadRules = HeadRules {
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
}
