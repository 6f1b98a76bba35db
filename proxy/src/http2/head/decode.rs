//! Takes the fields of a block into a head.

use super::syntax::{is_authority, is_path, is_scheme};
use super::{Checks, Decoded, Flaw, HeadRules};
use crate::http::inline::{merges_in_request, merges_in_response};
use crate::http::syntax::{is_token, is_value};
use crate::http::{Fields, Known, Method, Protocol, RequestHead, ResponseHead};
use crate::http2::hpack::{FieldSink, Name, NameClass, Pseudo};

pub(in crate::http2) struct RequestBuilder<'a> {
    head: RequestHead,
    checks: Checks<'a>,
}

pub(in crate::http2) struct ResponseBuilder<'a> {
    head: ResponseHead,
    checks: Checks<'a>,
}

pub(in crate::http2) struct TrailersBuilder<'a> {
    fields: Fields,
    checks: Checks<'a>,
}

impl<'a> RequestBuilder<'a> {
    pub(in crate::http2) fn new(rules: &'a HeadRules) -> Self {
        Self {
            head: RequestHead::new(Protocol::Http2, b""),
            checks: Checks::new(rules),
        }
    }

    pub(in crate::http2) fn finish(mut self) -> Decoded<RequestHead> {
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
    pub(in crate::http2) fn new(rules: &'a HeadRules) -> Self {
        Self {
            head: ResponseHead::new(0),
            checks: Checks::new(rules),
        }
    }

    pub(in crate::http2) fn finish(mut self) -> Decoded<ResponseHead> {
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
    pub(in crate::http2) fn new(rules: &'a HeadRules) -> Self {
        Self {
            fields: Fields::new(),
            checks: Checks::new(rules),
        }
    }

    pub(in crate::http2) fn finish(self) -> Decoded<Fields> {
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
