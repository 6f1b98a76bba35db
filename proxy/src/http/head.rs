//! Request and response heads: pseudo headers as bytes beside the fields.

use std::fmt;

use super::Protocol;
use super::fields::{Fields, HeaderName, IllegalField, Span};
use super::syntax::is_value;

/// A request method. Methods that the proxy treats apart have a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the method it is called after")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    /// Any other, kept as text.
    Other,
}

impl Method {
    /// Finds a method by its exact text.
    pub fn from_bytes(text: &[u8]) -> Self {
        match text {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"CONNECT" => Self::Connect,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }
}

/// The head of a request. `Host` and `:authority` are one thing here: `authority`.
#[derive(Clone)]
pub struct RequestHead {
    /// The fields without pseudo headers and without `Host`.
    pub fields: Fields,
    /// The version that the request came with.
    pub version: Protocol,
    method: Method,
    method_text: Span,
    path: Option<Span>,
    authority: Option<Span>,
    scheme: Option<Span>,
    protocol: Option<Span>,
}

/// The head of a response, final or informational.
#[derive(Clone)]
pub struct ResponseHead {
    /// The fields without `:status`.
    pub fields: Fields,
    /// The status code, 100..=999.
    pub status: u16,
}

macro_rules! pseudo {
    ($($get:ident $set:ident $doc:literal;)*) => { $(
        #[doc = $doc]
        pub fn $get(&self) -> Option<&[u8]> {
            self.$get.map(|span| self.fields.bytes(span))
        }
        #[doc = concat!("Replaces it. ", $doc)]
        pub fn $set(&mut self, value: &[u8]) {
            self.$get = Some(self.fields.store(value));
        }
    )* };
}

impl RequestHead {
    /// A head with a method and nothing else.
    pub fn new(version: Protocol, method: &[u8]) -> Self {
        let mut fields = Fields::new();
        let method_text = fields.store(method);
        Self {
            fields,
            version,
            method: Method::from_bytes(method),
            method_text,
            path: None,
            authority: None,
            scheme: None,
            protocol: None,
        }
    }

    /// The method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// How many fields there are, and the bytes of their names and values; the pseudo headers are among them.
    pub fn size(&self) -> (usize, usize) {
        let pseudo = [
            (":method", Some(self.method_bytes())),
            (":path", self.path()),
            (":authority", self.authority()),
            (":scheme", self.scheme()),
            (":protocol", self.protocol()),
        ];
        let pseudo = pseudo
            .iter()
            .filter_map(|(name, value)| Some(name.len() + (*value)?.len()));
        let (count, size) = pseudo.fold((0, 0), |(count, sum), size| (count + 1, sum + size));
        (count + self.fields.len(), size + self.fields.byte_size())
    }

    /// Makes `value` the only value of a field; that of `host` is where the request goes to.
    pub fn set_field(&mut self, name: &HeaderName, value: impl AsRef<[u8]>) {
        match name.as_str() {
            "host" => self.set_authority(value.as_ref()),
            _ => self.fields.set(name, value),
        }
    }

    /// The first field that filters or routes have given it and that no message may carry: its name, and what is wrong with it.
    pub fn first_illegal(&self) -> Option<(&[u8], IllegalField)> {
        let pseudo = [(":authority", self.authority()), (":path", self.path())];
        let illegal = pseudo
            .into_iter()
            .find(|(_, value)| value.is_some_and(|value| !is_value(value)));
        match illegal {
            Some((name, _)) => Some((name.as_bytes(), IllegalField::Value)),
            None => self.fields.first_illegal(),
        }
    }

    /// The method as it was sent.
    pub fn method_bytes(&self) -> &[u8] {
        self.fields.bytes(self.method_text)
    }

    /// Replaces the method.
    pub fn set_method(&mut self, method: &[u8]) {
        self.method = Method::from_bytes(method);
        self.method_text = self.fields.store(method);
    }

    pseudo! {
        path set_path "The request target: path and query. None for CONNECT.";
        authority set_authority "The host that is asked for, with its port if one was sent.";
        scheme set_scheme "`http` or `https`, as the client said it or as the connection is.";
        protocol set_protocol "The protocol of an extended CONNECT (RFC 8441).";
    }

    /// What the client asked for, before the path was rewritten: scheme, authority and `max_path` bytes of the path with its query
    /// at most.
    pub fn original_uri(&self, max_path: usize) -> Vec<u8> {
        let path = self.fields.get(crate::http::Known::EnvoyOriginalPath);
        let path = path.or(self.path()).unwrap_or_default();
        let mut uri = self.scheme().unwrap_or_default().to_vec();
        uri.extend_from_slice(b"://");
        uri.extend_from_slice(self.authority().unwrap_or_default());
        uri.extend_from_slice(&path[..path.len().min(max_path)]);
        uri
    }

    /// The path without query and fragment; empty where there is no path.
    pub fn path_without_query(&self) -> &[u8] {
        let path = self.path().unwrap_or_default();
        path.split(|b| matches!(b, b'?' | b'#'))
            .next()
            .unwrap_or_default()
    }

    /// Takes the path away, as for CONNECT.
    pub fn remove_path(&mut self) {
        self.path = None;
    }

    /// Takes the authority away.
    pub fn remove_authority(&mut self) {
        self.authority = None;
    }

    /// Takes the extended CONNECT protocol away.
    pub fn remove_protocol(&mut self) {
        self.protocol = None;
    }

    /// Whether the request is gRPC by its content type: `application/grpc` or `application/grpc+…`.
    pub fn is_grpc(&self) -> bool {
        is_grpc_content_type(self.fields.get(super::Known::ContentType))
    }
}

impl ResponseHead {
    /// A head with a status and no fields.
    pub fn new(status: u16) -> Self {
        Self {
            fields: Fields::new(),
            status,
        }
    }

    /// 1xx other than 101.
    pub fn is_informational(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// Whether the response is gRPC by its content type.
    pub fn is_grpc(&self) -> bool {
        is_grpc_content_type(self.fields.get(super::Known::ContentType))
    }
}

fn is_grpc_content_type(value: Option<&[u8]>) -> bool {
    value
        .and_then(|v| v.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+"))
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |b: Option<&[u8]>| b.map(|b| String::from_utf8_lossy(b).into_owned());
        f.debug_struct("RequestHead")
            .field("method", &text(Some(self.method_bytes())))
            .field("authority", &text(self.authority()))
            .field("path", &text(self.path()))
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ResponseHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseHead")
            .field("status", &self.status)
            .field("fields", &self.fields)
            .finish()
    }
}
