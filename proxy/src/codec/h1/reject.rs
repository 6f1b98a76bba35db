//! What a message can be refused for: status, body and details as Envoy gives them.

use std::borrow::Cow;

use crate::codec::ProtocolError;

/// Why the parser refuses a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// It is not HTTP/1: `http1.codec_error`.
    CodecError,
    /// A control character stands in the head: `http1.invalid_characters`.
    InvalidCharacters,
    /// The request target is no URL: `http1.invalid_url`.
    InvalidUrl,
    /// The scheme of the target is neither http nor https: `http1.invalid_scheme`.
    InvalidScheme,
    /// The host has characters that no host has: `http.invalid_authority`.
    InvalidAuthority,
    /// The version is not HTTP/1.1: `low_version`.
    LowVersion,
    /// The head is longer than allowed: `http1.headers_too_large`.
    HeadersTooLarge,
    /// The head has more fields than allowed: `http1.too_many_headers`.
    TooManyHeaders,
    /// A name has an underscore and the configuration refuses them: `http1.unexpected_underscore`.
    UnexpectedUnderscore,
    /// CONNECT with a body: `http1.body_disallowed`.
    BodyDisallowed,
    /// Both framings at once: `http1.content_length_and_chunked_not_allowed`.
    ContentLengthAndChunked,
    /// A transfer encoding other than chunked: `http1.invalid_transfer_encoding`.
    InvalidTransferEncoding,
    /// `connection` names what must not be removed: `http1.connection_header_rejected`.
    ConnectionHeaderRejected,
    /// `content-length` in a 1xx or 204: `http1.content_length_not_allowed`.
    ContentLengthNotAllowed,
    /// `transfer-encoding` in a 1xx or 204: `http1.transfer_encoding_not_allowed`.
    TransferEncodingNotAllowed,
}

impl Reject {
    /// `%RESPONSE_CODE_DETAILS%`.
    pub fn details(self) -> &'static str {
        match self {
            Self::CodecError => "http1.codec_error",
            Self::InvalidCharacters => "http1.invalid_characters",
            Self::InvalidUrl => "http1.invalid_url",
            Self::InvalidScheme => "http1.invalid_scheme",
            Self::InvalidAuthority => "http.invalid_authority",
            Self::LowVersion => "low_version",
            Self::HeadersTooLarge => "http1.headers_too_large",
            Self::TooManyHeaders => "http1.too_many_headers",
            Self::UnexpectedUnderscore => "http1.unexpected_underscore",
            Self::BodyDisallowed => "http1.body_disallowed",
            Self::ContentLengthAndChunked => "http1.content_length_and_chunked_not_allowed",
            Self::InvalidTransferEncoding => "http1.invalid_transfer_encoding",
            Self::ConnectionHeaderRejected => "http1.connection_header_rejected",
            Self::ContentLengthNotAllowed => "http1.content_length_not_allowed",
            Self::TransferEncodingNotAllowed => "http1.transfer_encoding_not_allowed",
        }
    }
}

impl From<Reject> for ProtocolError {
    fn from(reject: Reject) -> Self {
        let (status, body) = match reject {
            Reject::LowVersion => (426, "Upgrade Required"),
            Reject::HeadersTooLarge | Reject::TooManyHeaders => {
                (431, "Request Header Fields Too Large")
            }
            Reject::InvalidTransferEncoding => (501, "Not Implemented"),
            _ => (400, "Bad Request"),
        };
        Self {
            status,
            body: Cow::Borrowed(body),
            details: Cow::Borrowed(reject.details()),
        }
    }
}
