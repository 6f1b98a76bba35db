//! Heads between our types and those of the crate `http`, which live at this edge only.

use bytes::BytesMut;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Uri};

use super::settings::Http2Settings;
use crate::http::{Fields, Known, Method, Protocol, RequestHead, ResponseHead};
use crate::http_connection_manager::codec::h1::HeadersWithUnderscoresAction;
use crate::http_connection_manager::codec::inline::{merges_in_request, merges_in_response};

/// Why a request head cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// More fields than allowed.
    TooManyHeaders,
    /// A name with an underscore where they are refused: the stream is reset.
    Underscore,
}

/// A request head that came in.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) head: RequestHead,
    /// Its size as Envoy counts it.
    pub(crate) bytes: u64,
    /// Fields that were left out for the underscore in their name.
    pub(crate) dropped_underscores: u64,
    /// Why it cannot be taken, if so.
    pub(crate) refusal: Option<Refusal>,
}

/// Converts the head of a request that came in.
pub(crate) fn request_in(parts: &http::request::Parts, settings: &Http2Settings) -> Incoming {
    let mut head = RequestHead::new(Protocol::Http2, parts.method.as_str().as_bytes());
    let mut refusal = None;
    let mut bytes = 0u64;
    let mut dropped_underscores = 0;
    let protocol = parts.extensions.get::<h2::ext::Protocol>();
    if let Some(authority) = parts.uri.authority() {
        head.set_authority(authority.as_str().as_bytes());
    }
    if let Some(scheme) = parts.uri.scheme_str() {
        head.set_scheme(scheme.as_bytes());
    }
    if let Some(path) = parts.uri.path_and_query()
        && (head.method() != Method::Connect || protocol.is_some())
    {
        head.set_path(path.as_str().as_bytes());
    }
    if let Some(protocol) = protocol {
        head.set_protocol(protocol.as_str().as_bytes());
    }
    let underscores = settings.headers_with_underscores_action;
    for (name, value) in &parts.headers {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        bytes += (name.len() + value.len()) as u64;
        if underscores != HeadersWithUnderscoresAction::Allow && name.contains(&b'_') {
            if underscores == HeadersWithUnderscoresAction::RejectRequest {
                refusal = Some(Refusal::Underscore);
            } else {
                dropped_underscores += 1;
            }
        } else if name == b"host" {
            if head.authority().is_none() {
                head.set_authority(value);
            }
        } else if name == b"cookie" {
            // Pieces of one cookie header, which HPACK likes better apart.
            head.fields.append_to(Known::Cookie, b"; ", value);
        } else {
            head.fields
                .append_wire_merging(name, value, merges_in_request);
        }
    }
    let pseudo = [head.method_bytes(), head.path().unwrap_or_default()];
    let pseudo = pseudo.iter().map(|text| text.len()).sum::<usize>();
    bytes += (pseudo
        + head.authority().map_or(0, <[u8]>::len)
        + ":method:path:scheme:authority".len()) as u64;
    if head.fields.len() > settings.max_headers_count as usize {
        refusal = refusal.or(Some(Refusal::TooManyHeaders));
    }
    Incoming {
        head,
        bytes,
        dropped_underscores,
        refusal,
    }
}

/// The head of a response that came in, and its size as Envoy counts it.
pub(crate) fn response_in(status: http::StatusCode, headers: &HeaderMap) -> (ResponseHead, u64) {
    let mut head = ResponseHead::new(status.as_u16());
    let mut bytes = ":status200".len() as u64;
    for (name, value) in headers {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        bytes += (name.len() + value.len()) as u64;
        head.fields
            .append_wire_merging(name, value, merges_in_response);
    }
    (head, bytes)
}

/// Trailers that came in, and their size.
pub(crate) fn trailers_in(trailers: &HeaderMap) -> (Fields, u64) {
    let mut fields = Fields::new();
    let mut bytes = 0;
    for (name, value) in trailers {
        bytes += (name.as_str().len() + value.len()) as u64;
        fields.append_wire(name.as_str().as_bytes(), value.as_bytes());
    }
    (fields, bytes)
}

/// A request head to be sent, and its size. None: the crate cannot carry it.
pub(crate) fn request_out(head: &RequestHead) -> Option<(http::Request<()>, u64)> {
    let mut uri = Uri::builder();
    let authority = head.authority().unwrap_or_default();
    let protocol = head.protocol();
    let tunnel = head.method() == Method::Connect && protocol.is_none();
    uri = uri.authority(authority);
    if !tunnel {
        uri = uri
            .scheme(head.scheme().unwrap_or(b"http"))
            .path_and_query(head.path()?);
    }
    let mut request = http::Request::new(());
    *request.version_mut() = http::Version::HTTP_2;
    *request.method_mut() = http::Method::from_bytes(head.method_bytes()).ok()?;
    *request.uri_mut() = uri.build().ok()?;
    if let Some(protocol) = protocol {
        let protocol = std::str::from_utf8(protocol).ok()?;
        let protocol = h2::ext::Protocol::from(protocol);
        request.extensions_mut().insert(protocol);
    }
    let (headers, bytes) = fields_out(&head.fields)?;
    *request.headers_mut() = headers;
    let pseudo = head.path().map_or(0, <[u8]>::len) + authority.len() + head.method_bytes().len();
    Some((request, bytes + pseudo as u64))
}

/// A response head to be sent, and its size. None: the crate cannot carry it.
pub(crate) fn response_out(head: &ResponseHead) -> Option<(http::Response<()>, u64)> {
    let mut response = http::Response::new(());
    *response.version_mut() = http::Version::HTTP_2;
    *response.status_mut() = http::StatusCode::from_u16(head.status).ok()?;
    let (headers, bytes) = fields_out(&head.fields)?;
    *response.headers_mut() = headers;
    Some((response, bytes + ":status200".len() as u64))
}

/// Fields to be sent, without those that concern one connection only, and their size.
pub(crate) fn fields_out(fields: &Fields) -> Option<(HeaderMap, u64)> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    let mut bytes = 0;
    // All values share one allocation.
    let length = fields.iter().map(|(_, value)| value.len()).sum();
    let mut values = BytesMut::with_capacity(length);
    fields
        .iter()
        .for_each(|(_, value)| values.extend_from_slice(value));
    let mut values = values.freeze();
    for (known, name, value) in fields.iter_known() {
        let shared = values.split_to(value.len());
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
        bytes += (name.len() + value.len()) as u64;
        headers.append(
            HeaderName::from_bytes(name).ok()?,
            HeaderValue::from_maybe_shared(shared).ok()?,
        );
    }
    Some((headers, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_headers_stay_behind_and_te_trailers_passes() {
        let mut head = RequestHead::new(Protocol::Http11, b"GET");
        head.set_authority(b"a:80");
        head.set_path(b"/x?y=z");
        head.set_scheme(b"http");
        for (name, value) in [
            ("connection", "close"),
            ("keep-alive", "5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "x"),
            ("te", "trailers"),
            ("x-a", "1"),
        ] {
            head.fields.append(name, value);
        }
        let (request, _) = request_out(&head).unwrap();
        assert_eq!(request.uri(), "http://a:80/x?y=z");
        let names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["te", "x-a"]);
        head.fields.set(Known::Te, "gzip");
        assert!(!request_out(&head).unwrap().0.headers().contains_key("te"));
    }

    #[test]
    fn pieces_of_a_cookie_become_one_and_host_stands_in_for_authority() {
        let request = http::Request::get("/p")
            .header("host", "h")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("x-forwarded-for", "1.1.1.1")
            .header("x-forwarded-for", "2.2.2.2")
            .header("x-b", "1")
            .header("x-b", "2");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let Incoming { head, refusal, .. } = request_in(&parts, &Http2Settings::default());
        assert_eq!(refusal, None);
        assert_eq!(head.authority(), Some(&b"h"[..]));
        assert_eq!(head.fields.get("cookie"), Some(&b"a=1; b=2"[..]));
        let forwarded = head.fields.get("x-forwarded-for");
        assert_eq!(forwarded, Some(&b"1.1.1.1,2.2.2.2"[..]));
        assert_eq!(head.fields.get_all("x-b").count(), 2);
    }
}
