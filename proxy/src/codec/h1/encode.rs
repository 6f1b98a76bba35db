//! Heads, chunks and trailers as bytes, as Envoy writes them.

use bytes::Bytes;

use super::message::{has_token, parse_length};
use super::settings::HeaderKeyFormat;
use crate::http::{EndStream, Fields, Known, Method, OriginalNames, RequestHead, ResponseHead};
use crate::net::Output;

/// How the body behind an encoded head is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyEncoding {
    /// There is none: data is dropped.
    None,
    /// As it is, with the length that the head has announced.
    Length(u64),
    /// In chunks.
    Chunked,
    /// As it is, up to the end of the connection.
    Raw,
}

/// What decides the framing of a response beside its head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResponseContext {
    /// The request was HTTP/1.0, and so is the response.
    pub(crate) http10: bool,
    /// The request was HEAD.
    pub(crate) to_head: bool,
    /// The request was CONNECT, or asked for an upgrade, and the response grants it.
    pub(crate) tunnel: bool,
    /// The connection closes after the response; written as `connection: close`.
    pub(crate) close: bool,
    /// The client asked HTTP/1.0 to keep the connection.
    pub(crate) keep_alive: bool,
    /// How names are written.
    pub(crate) format: HeaderKeyFormat,
}

/// What decides the form of a request beside its head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestContext {
    /// The request is CONNECT, or asks for an upgrade: its body is raw.
    pub(crate) tunnel: bool,
    /// Writes the whole URL into the first line.
    pub(crate) fully_qualified: bool,
    /// How names are written.
    pub(crate) format: HeaderKeyFormat,
}

/// How the names of one head are written.
#[derive(Clone, Copy)]
enum Names<'a> {
    LowerCase,
    ProperCaseWords,
    Original(&'a OriginalNames),
}

impl<'a> Names<'a> {
    /// A head that remembers the case of its names is written so, whatever the connection's own format is, as in Envoy.
    fn of(fields: &'a Fields, format: HeaderKeyFormat) -> Self {
        match (fields.original_names(), format) {
            (Some(original), _) => Self::Original(original),
            (None, HeaderKeyFormat::ProperCaseWords) => Self::ProperCaseWords,
            (None, HeaderKeyFormat::LowerCase | HeaderKeyFormat::PreserveCase { .. }) => {
                Self::LowerCase
            }
        }
    }
}

/// Writes a response head; gives how its body is written, and the bytes of the fields as Envoy counts them.
pub(crate) fn response_head(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    end: EndStream,
    context: ResponseContext,
) -> (BodyEncoding, u64) {
    let status = head.status;
    out.extend_from_slice(if context.http10 {
        b"HTTP/1.0 "
    } else {
        b"HTTP/1.1 "
    });
    write_decimal(out, u64::from(status));
    out.push(b' ');
    let names = Names::of(&head.fields, context.format);
    let reason = match names {
        Names::Original(OriginalNames {
            reason_phrase: Some(reason),
            ..
        }) => reason,
        _ => reason_phrase(status).as_bytes(),
    };
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
    let fields_start = out.len();
    let length = write_fields(out, &head.fields, names);
    let connection = head.fields.get(Known::Connection);
    if context.close && connection.is_none() {
        write_field(out, b"connection", b"close", names);
    } else if context.keep_alive && connection.is_none() {
        write_field(out, b"connection", b"keep-alive", names);
    }
    let bodiless = status < 200 || matches!(status, 204 | 304);
    let encoding = if context.tunnel {
        BodyEncoding::Raw
    } else if bodiless {
        BodyEncoding::None
    } else if let Some(length) = length {
        BodyEncoding::Length(length)
    } else if end.is_end() && !context.to_head {
        write_field(out, b"content-length", b"0", names);
        BodyEncoding::None
    } else if context.http10 {
        BodyEncoding::Raw
    } else {
        write_field(out, b"transfer-encoding", b"chunked", names);
        BodyEncoding::Chunked
    };
    let counted = (out.len() - fields_start) as u64;
    out.extend_from_slice(b"\r\n");
    let encoding = if context.to_head || (end.is_end() && !context.tunnel) {
        BodyEncoding::None
    } else {
        encoding
    };
    (encoding, counted)
}

/// Writes a 1xx.
pub(crate) fn informational_head(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    format: HeaderKeyFormat,
) -> u64 {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(out, u64::from(head.status));
    out.push(b' ');
    out.extend_from_slice(reason_phrase(head.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    let start = out.len();
    write_fields(out, &head.fields, Names::of(&head.fields, format));
    let counted = (out.len() - start) as u64;
    out.extend_from_slice(b"\r\n");
    counted
}

/// Writes a request head; gives how its body is written, and the bytes of the fields as Envoy counts them.
pub(crate) fn request_head(
    out: &mut Vec<u8>,
    head: &RequestHead,
    end: EndStream,
    context: RequestContext,
) -> (BodyEncoding, u64) {
    let names = Names::of(&head.fields, context.format);
    let connect = head.method() == Method::Connect;
    let authority = head.authority();
    out.extend_from_slice(head.method_bytes());
    out.push(b' ');
    match head.path() {
        Some(path) if !connect => {
            if context.fully_qualified {
                out.extend_from_slice(head.scheme().unwrap_or(b"http"));
                out.extend_from_slice(b"://");
                out.extend_from_slice(authority.unwrap_or_default());
            }
            out.extend_from_slice(path);
        }
        _ => out.extend_from_slice(authority.unwrap_or_default()),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let start = out.len();
    if let Some(authority) = authority {
        write_field(out, b"host", authority, names);
    }
    let length = write_fields(out, &head.fields, names);
    let encoding = if context.tunnel {
        BodyEncoding::Raw
    } else if let Some(length) = length {
        BodyEncoding::Length(length)
    } else if end.is_end() {
        let without_body = matches!(
            head.method(),
            Method::Get | Method::Head | Method::Delete | Method::Trace | Method::Connect
        );
        if !without_body {
            write_field(out, b"content-length", b"0", names);
        }
        BodyEncoding::None
    } else {
        write_field(out, b"transfer-encoding", b"chunked", names);
        BodyEncoding::Chunked
    };
    let counted = (out.len() - start) as u64;
    out.extend_from_slice(b"\r\n");
    (encoding, counted)
}

/// Writes a piece of a chunked body, and what ends the body where it is the last one.
pub(crate) fn chunk(out: &mut Output, data: Bytes, end: EndStream) {
    if !data.is_empty() {
        chunk_start(out.small(), data.len());
        out.push(data);
        out.small().extend_from_slice(b"\r\n");
    }
    if end.is_end() {
        out.small().extend_from_slice(LAST_CHUNK);
    }
}

/// Writes what stands before a chunk of `length` bytes.
fn chunk_start(out: &mut Vec<u8>, length: usize) {
    let mut digits = [0u8; 16];
    let mut at = digits.len();
    let mut rest = length;
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// What ends a chunked body without trailers.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Writes the last chunk with trailers behind it; gives their bytes as Envoy counts them.
pub(crate) fn trailers(out: &mut Vec<u8>, trailers: &Fields) -> u64 {
    out.extend_from_slice(b"0\r\n");
    let start = out.len();
    for (name, value) in trailers.iter() {
        write_field(out, name, value, Names::LowerCase);
    }
    let counted = (out.len() - start) as u64;
    out.extend_from_slice(b"\r\n");
    counted
}

/// Writes all fields but `transfer-encoding`, which is the codec's own; gives the announced length.
fn write_fields(out: &mut Vec<u8>, fields: &Fields, names: Names<'_>) -> Option<u64> {
    let mut length = None;
    if matches!(names, Names::LowerCase) {
        fields.write_lines(out, |known, value| {
            if known == Known::ContentLength {
                length = parse_length(value);
            }
            known == Known::TransferEncoding
        });
        return length;
    }
    for (known, name, value) in fields.iter_known() {
        match known {
            Some(Known::TransferEncoding) => continue,
            Some(Known::ContentLength) => length = parse_length(value),
            _ => {}
        }
        write_field(out, name, value, names);
    }
    length
}

#[inline]
fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8], names: Names<'_>) {
    out.reserve(name.len() + value.len() + 4);
    match names {
        Names::LowerCase => out.extend_from_slice(name),
        Names::ProperCaseWords => write_proper_case(out, name),
        Names::Original(original) => match original.find(name) {
            Some(name) => out.extend_from_slice(name),
            None if original.others_in_proper_case => write_proper_case(out, name),
            None => out.extend_from_slice(name),
        },
    }
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn write_proper_case(out: &mut Vec<u8>, name: &[u8]) {
    let mut starts_word = true;
    for byte in name {
        out.push(if starts_word {
            byte.to_ascii_uppercase()
        } else {
            *byte
        });
        starts_word = !byte.is_ascii_alphanumeric();
    }
}

fn write_decimal(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b"0123456789"[(rest % 10) as usize];
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Whether a response head says that the connection closes.
pub(crate) fn says_close(head: &ResponseHead) -> bool {
    head.fields.contains(Known::Connection)
        && has_token(head.fields.get(Known::Connection), b"close")
}

/// The reason phrase that Envoy writes for a status.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Payload Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Entity",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        510 => "Not Extended",
        511 => "Network Authentication Required",
        599 => "Last Unassigned Server Error Code",
        _ => "Unknown",
    }
}
