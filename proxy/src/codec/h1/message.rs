//! What the parsers of requests and responses have in common.

use std::ops::Range;

use crate::http::{Fields, Known};

/// How the body of a message is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// This many bytes, more than zero.
    Length(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// Everything up to the end of the connection (responses only).
    UntilClose,
    /// The connection is a tunnel from here on: CONNECT, or an upgrade.
    Raw,
}

/// Where a part of `bytes` stands, counted from `base` on. A part has to be a slice of `bytes`.
#[inline]
pub(crate) fn place_in(bytes: &[u8], base: usize, part: &[u8]) -> Range<usize> {
    let start = base + part.as_ptr().addr().wrapping_sub(bytes.as_ptr().addr());
    start..start + part.len()
}

/// The tokens of a comma-separated list, without white space around them and without empty ones.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// Whether a list contains a token, in any case.
pub(crate) fn has_token(value: Option<&[u8]>, wanted: &[u8]) -> bool {
    value.is_some_and(|value| tokens(value).any(|token| token.eq_ignore_ascii_case(wanted)))
}

/// Whether the message asks for an upgrade, or grants one.
pub(crate) fn is_upgrade(fields: &Fields) -> bool {
    fields
        .get(Known::Upgrade)
        .is_some_and(|protocol| !protocol.is_empty())
        && has_token(fields.get(Known::Connection), b"upgrade")
}

/// Whether the connection may be used again after this message, as the sender says it.
pub(crate) fn is_persistent(http10: bool, fields: &Fields) -> bool {
    let connection = fields.get(Known::Connection);
    if http10 && !has_token(connection, b"keep-alive") {
        return false;
    }
    !has_token(connection, b"close") && !has_token(fields.get(Known::ProxyConnection), b"close")
}

/// Removes an upgrade to h2c, which nobody here takes: the message goes on as HTTP/1.
pub(crate) fn remove_h2c(fields: &mut Fields) {
    fields.remove(Known::Upgrade);
    remove_connection_tokens(fields, |token| {
        token.eq_ignore_ascii_case(b"upgrade") || token.eq_ignore_ascii_case(b"http2-settings")
    });
    fields.remove("http2-settings");
}

/// Removes some protocols from `upgrade`; where none is left, the message asks for no upgrade.
pub(crate) fn remove_upgrades(fields: &mut Fields, remove: impl Fn(&[u8]) -> bool) {
    let Some(value) = fields.get(Known::Upgrade) else {
        return;
    };
    let kept: Vec<&[u8]> = tokens(value).filter(|protocol| !remove(protocol)).collect();
    if kept.len() == tokens(value).count() {
        return;
    }
    if kept.is_empty() {
        fields.remove(Known::Upgrade);
        remove_connection_tokens(fields, |token| token.eq_ignore_ascii_case(b"upgrade"));
    } else {
        let kept = kept.join(&b","[..]);
        fields.set(Known::Upgrade, kept);
    }
}

/// Removes some tokens of `connection`, and the field when none is left.
pub(crate) fn remove_connection_tokens(fields: &mut Fields, remove: impl Fn(&[u8]) -> bool) {
    let Some(value) = fields.get(Known::Connection) else {
        return;
    };
    let kept: Vec<&[u8]> = tokens(value).filter(|token| !remove(token)).collect();
    if kept.is_empty() {
        fields.remove(Known::Connection);
    } else {
        let kept = kept.join(&b","[..]);
        fields.set(Known::Connection, kept);
    }
}

/// The value of a `content-length`: digits only, without overflow.
pub(crate) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether this is `HTTP/` and two digits; gives whether it is 1.1.
pub(crate) fn parse_version(version: &[u8]) -> Option<bool> {
    match version {
        b"HTTP/1.1" => Some(true),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Some(false)
        }
        _ => None,
    }
}
