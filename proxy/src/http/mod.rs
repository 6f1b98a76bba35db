//! Heads, names and bodies: what codecs, filters and the router hand to each other.

mod fields;
mod grpc;
mod head;
pub(crate) mod inline;
mod known;
mod recycle;
pub(crate) mod syntax;
mod underscores;

pub use fields::{Fields, HeaderName, IllegalField, Name, OriginalNames};
pub(crate) use grpc::{grpc_status_of, percent_encode};
pub use head::{Method, RequestHead, ResponseHead};
pub use known::Known;
pub use underscores::HeadersWithUnderscoresAction;

/// Whether what was just handed over was the last of its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndStream {
    /// The direction ended with it.
    Yes,
    /// More follows.
    No,
}

impl EndStream {
    /// True for `Yes`.
    pub fn is_end(self) -> bool {
        self == Self::Yes
    }
}

impl From<bool> for EndStream {
    fn from(end: bool) -> Self {
        if end { Self::Yes } else { Self::No }
    }
}

/// The HTTP version of a connection, as `%PROTOCOL%` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2, on TLS or in clear text.
    Http2,
}

impl Protocol {
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }

    /// Whether it is one of the textual versions.
    pub fn is_http1(self) -> bool {
        self != Self::Http2
    }
}
