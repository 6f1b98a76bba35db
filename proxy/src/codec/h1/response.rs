//! The head of a response from upstream.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::lines::{HeadSearch, check_characters, fields, first_line_parts};
use super::message::{
    Framing, is_persistent, is_upgrade, parse_length, parse_version, place_in, remove_h2c,
};
use super::reject::Reject;
use super::settings::{ClientHttp1Settings, HeaderKeyFormat};
use crate::http::inline::merges_in_response;
use crate::http::{Known, OriginalNames, ResponseHead};

/// A response head that was read, and what follows from it.
#[derive(Debug)]
pub struct Response {
    /// The head.
    pub head: ResponseHead,
    /// What follows the head; `None` for a 1xx other than 101.
    pub framing: Framing,
    /// Whether the peer allows another request on the connection.
    pub persistent: bool,
    /// Bytes of the fields as Envoy counts them.
    pub header_bytes: u64,
}

/// What the response depends on in its request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResponseTo {
    /// HEAD: there is no body.
    pub head: bool,
    /// CONNECT: a 2xx opens a tunnel.
    pub connect: bool,
    /// The request asked for an upgrade.
    pub upgrade: bool,
}

/// Reads a response head from the start of `bytes`; gives it with its length, or nothing while more bytes are needed.
pub(crate) fn parse(
    bytes: &[u8],
    search: &mut HeadSearch,
    to: ResponseTo,
    settings: &ClientHttp1Settings,
) -> Result<Option<(Response, usize)>, Reject> {
    let max_bytes = settings.max_response_headers_kb as usize * 1024;
    if search.is_fresh()
        && let Some((builder, length)) = parse_strict(bytes, settings)
        && length <= max_bytes
    {
        return finish(builder?, to, settings).map(|response| Some((response, length)));
    }
    parse_lenient(bytes, search, to, settings)
}

/// The same without the fast path.
pub(crate) fn parse_lenient(
    bytes: &[u8],
    search: &mut HeadSearch,
    to: ResponseTo,
    settings: &ClientHttp1Settings,
) -> Result<Option<(Response, usize)>, Reject> {
    let Some(first) = bytes.first() else {
        return Ok(None);
    };
    if *first != b'H' {
        return Err(Reject::CodecError);
    }
    let max_bytes = settings.max_response_headers_kb as usize * 1024;
    let visible = bytes.get(..max_bytes).unwrap_or(bytes);
    let end = search.find_end(visible);
    let first_line = search.first_line();
    let (Some(first_line), Some(end)) = (first_line, end) else {
        if let Some(first_line) = first_line {
            parse_first_line(bytes.get(..first_line).unwrap_or_default())?;
        }
        return if visible.len() >= max_bytes {
            Err(Reject::HeadersTooLarge)
        } else {
            Ok(None)
        };
    };
    let first = bytes.get(..first_line).unwrap_or_default();
    let (status, http11) = parse_first_line(first)?;
    let reason = first_line_parts(first).2;
    check_characters(bytes.get(..end).unwrap_or_default())?;
    let mut builder = Builder::new(status, http11, reason, settings);
    let lines = bytes.get(first_line..end).unwrap_or_default();
    fields(lines, |name, value| builder.add(name, value))?;
    finish(builder, to, settings).map(|response| Some((response, end)))
}

fn parse_first_line(line: &[u8]) -> Result<(u16, bool), Reject> {
    let (version, status, _reason) = first_line_parts(line);
    let http11 = parse_version(version).ok_or(Reject::CodecError)?;
    let status = match status {
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
            u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
        }
        _ => return Err(Reject::CodecError),
    };
    Ok((status, http11))
}

fn parse_strict(
    bytes: &[u8],
    settings: &ClientHttp1Settings,
) -> Option<(Result<Builder, Reject>, usize)> {
    let mut headers = [const { MaybeUninit::uninit() }; 128];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, bytes, &mut headers)
        .ok()?;
    let httparse::Status::Complete(length) = parsed else {
        return None;
    };
    let status = response.code.filter(|code| (100..=999).contains(code))?;
    if bytes.first() != Some(&b'H') {
        return None;
    }
    let reason = response.reason.unwrap_or_default().as_bytes();
    let mut builder = Builder::new(status, response.version == Some(1), reason, settings);
    let base = builder.head.fields.load(bytes.get(..length)?);
    for header in response.headers.iter() {
        builder.remember(header.name.as_bytes());
        let name = place_in(bytes, base, header.name.as_bytes());
        if let Err(reject) = builder.add_loaded(name, place_in(bytes, base, header.value)) {
            return Some((Err(reject), length));
        }
    }
    Some((Ok(builder), length))
}

struct Builder {
    head: ResponseHead,
    http11: bool,
    header_bytes: u64,
    max_count: usize,
    original: Option<OriginalNames>,
}

impl Builder {
    fn new(status: u16, http11: bool, reason: &[u8], settings: &ClientHttp1Settings) -> Self {
        let format = settings.options.header_key_format;
        let mut original = format.original_names();
        if let (
            Some(original),
            HeaderKeyFormat::PreserveCase {
                forward_reason_phrase: true,
                ..
            },
        ) = (&mut original, format)
        {
            original.reason_phrase = Some(reason.into()).filter(|_| !reason.is_empty());
        }
        Self {
            original,
            head: ResponseHead::new(status),
            http11,
            header_bytes: 0,
            max_count: settings.max_headers_count as usize,
        }
    }

    fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reject> {
        self.remember(name);
        self.header_bytes += name.len() as u64 + value.len() as u64 + 3;
        self.head
            .fields
            .append_wire_merging(name, value, merges_in_response);
        self.check_count()
    }

    /// As `add`, for a field whose head was loaded.
    #[inline]
    fn add_loaded(&mut self, name: Range<usize>, value: Range<usize>) -> Result<(), Reject> {
        self.header_bytes += name.len() as u64 + value.len() as u64 + 3;
        self.head
            .fields
            .append_loaded(name, value, merges_in_response);
        self.check_count()
    }

    fn remember(&mut self, name: &[u8]) {
        if let Some(original) = &mut self.original {
            original.remember(name);
        }
    }

    fn check_count(&self) -> Result<(), Reject> {
        if self.head.fields.len() > self.max_count {
            return Err(Reject::TooManyHeaders);
        }
        Ok(())
    }
}

fn finish(
    builder: Builder,
    to: ResponseTo,
    settings: &ClientHttp1Settings,
) -> Result<Response, Reject> {
    let Builder {
        mut head,
        http11,
        header_bytes,
        original,
        ..
    } = builder;
    if let Some(original) = original {
        head.fields.set_original_names(original);
    }
    let persistent = is_persistent(!http11, &head.fields);
    let mut raw = head.status == 101 || (to.connect && (200..300).contains(&head.status));
    if to.upgrade && head.fields.contains(Known::Upgrade) && is_upgrade(&head.fields) {
        if head
            .fields
            .get(Known::Upgrade)
            .is_some_and(|value| value.eq_ignore_ascii_case(b"h2c"))
        {
            remove_h2c(&mut head.fields);
        } else {
            raw |= head.status < 200;
        }
    }
    let encoding = head.fields.get(Known::TransferEncoding);
    let encoded = encoding.is_some();
    if encoded {
        let chunked = encoding.is_some_and(|value| value.eq_ignore_ascii_case(b"chunked"));
        if head.fields.contains(Known::ContentLength) {
            if !(chunked && settings.options.allow_chunked_length) {
                return Err(Reject::ContentLengthAndChunked);
            }
            head.fields.remove(Known::ContentLength);
        }
        if !chunked {
            return Err(Reject::InvalidTransferEncoding);
        }
    }
    let length = match head.fields.get(Known::ContentLength) {
        None => None,
        Some(value) => Some(parse_length(value).ok_or(Reject::CodecError)?),
    };
    if head.status < 200 || head.status == 204 {
        if encoded {
            return Err(Reject::TransferEncodingNotAllowed);
        }
        if length.is_some_and(|length| length > 0) {
            return Err(Reject::ContentLengthNotAllowed);
        }
        head.fields.remove(Known::ContentLength);
    }
    let framing = if raw {
        Framing::Raw
    } else if head.status < 200 || to.head || matches!(head.status, 204 | 304) || length == Some(0)
    {
        Framing::None
    } else if encoded {
        Framing::Chunked
    } else {
        length.map_or(Framing::UntilClose, Framing::Length)
    };
    Ok(Response {
        head,
        framing,
        persistent,
        header_bytes,
    })
}
