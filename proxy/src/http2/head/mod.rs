//! Header blocks straight into heads, with the checks that every message passes, and heads into header blocks.

mod decode;
mod encode;
mod syntax;
#[cfg(test)]
mod tests;

use super::hpack::{FieldSink, Name, Pseudo};
use crate::http::{HeadersWithUnderscoresAction, Known};

use syntax::parse_length;

use crate::http::syntax::is_value;

pub(super) use decode::{RequestBuilder, ResponseBuilder, TrailersBuilder};
pub(super) use encode::{encode_request, encode_response, encode_trailers};

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
    /// Octets above ASCII in values.
    pub(super) refuses_obs_text: bool,
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
        if !is_value(value) || self.rules.refuses_obs_text && !value.is_ascii() {
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
