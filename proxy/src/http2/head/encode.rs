//! Writes heads as blocks.

use crate::http::{Fields, Known, Method, RequestHead, ResponseHead};
use crate::http2::hpack::Encoder;

/// Writes a request head.
pub(in crate::http2) fn encode_request(
    head: &RequestHead,
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) {
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
pub(in crate::http2) fn encode_response(
    head: &ResponseHead,
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) {
    encoder.begin(out);
    encoder.status(head.status, out);
    encode_fields(&head.fields, encoder, out);
}

/// Writes trailers.
pub(in crate::http2) fn encode_trailers(fields: &Fields, encoder: &mut Encoder, out: &mut Vec<u8>) {
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
