//! What a filter says after each call: Envoy's statuses, and `Wait`.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;

use crate::LocalBoxFuture;
use crate::http::{HeaderName, RequestHead};
use crate::stream_info::FilterStateObject;

/// How a head goes on after a filter.
pub enum HeadersStatus {
    /// To the next filter.
    Continue,
    /// It stays here; data is still handed to this filter, and a `Continue` of its data or trailers method lets the head go on.
    StopIteration,
    /// To the next filter, but the stream does not end with it: the filter will inject a body.
    ContinueAndDontEndStream,
    /// It stays here until the stream is resumed, and so does data, buffered up to the limit (413, or 500 for a response).
    StopAllAndBuffer,
    /// As above, but at the limit reading stops instead.
    StopAllAndWatermark,
    /// The filter answers itself. In `encode_headers` it replaces the response.
    LocalReply(LocalReply),
    /// As `StopAllAndWatermark`, until the future ends; then `resume_decode` or `resume_encode` is called.
    Wait(LocalBoxFuture<'static, ()>),
    /// In `encode_headers`: the response is thrown away, and the stream begins anew with another request. Without a route for
    /// it the head goes to the next filter instead, after `on_recreate_refused`; so it does where the request has not come
    /// whole, though the other one takes its place.
    Recreate(Box<Recreate>),
}

/// A request that takes the place of the one that came. Its body is what of that one's the filters hold back, and the router
/// for another attempt.
pub struct Recreate {
    /// Its head.
    pub request: RequestHead,
    /// An object of the filter state by which the filter knows it again, and its name. It should outlive the stream:
    /// `FilterStateObject::is_of_request`.
    pub state: (&'static str, Rc<dyn FilterStateObject>),
}

impl fmt::Debug for Recreate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recreate({:?})", self.request)
    }
}

/// How a piece of a body goes on after a filter.
pub enum DataStatus {
    /// To the next filter, with the head and the data that this filter held back before it.
    Continue,
    /// It stays here, buffered up to the limit: beyond it 413, or 500 for a response.
    StopIterationAndBuffer,
    /// It stays here, buffered; at the limit reading stops until the filter lets go.
    StopIterationAndWatermark,
    /// The filter has taken it; nothing goes on.
    StopIterationNoBuffer,
    /// The filter answers itself.
    LocalReply(LocalReply),
    /// As `StopIterationAndWatermark`, until the future ends; then `resume_decode_data` or `resume_encode_data` is called.
    Wait(LocalBoxFuture<'static, ()>),
}

/// How trailers go on after a filter.
pub enum TrailersStatus {
    /// To the next filter, with all that this filter held back before them.
    Continue,
    /// They stay here until the stream is resumed.
    StopIteration,
    /// The filter answers itself.
    LocalReply(LocalReply),
    /// They stay here until the future ends; then `resume_decode_trailers` is called, and those of a response go on.
    Wait(LocalBoxFuture<'static, ()>),
}

/// An answer of the proxy's own. For gRPC requests it is turned into trailers; `local_reply_config` may rewrite it.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalReply {
    /// The HTTP status.
    pub status: u16,
    /// The body; `text/plain` unless a mapper says otherwise.
    pub body: Bytes,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// Fields of the response; one that stands here twice is sent twice.
    pub headers: Vec<(HeaderName, Bytes)>,
    /// The gRPC status to send to gRPC clients; none: derived from the HTTP status.
    pub grpc_status: Option<u32>,
}

impl LocalReply {
    /// A reply without body.
    pub fn new(status: u16, details: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            body: Bytes::new(),
            details: details.into(),
            headers: Vec::new(),
            grpc_status: None,
        }
    }

    /// The same with a body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// The same with one more field.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: impl Into<Bytes>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

macro_rules! debug_as_name { ($($status:ident { $($variant:ident $(($f:ident))?),* })*) => { $(
    impl fmt::Debug for $status {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(match self { $(Self::$variant { .. } => stringify!($variant)),* })
        }
    }
)* } }
debug_as_name! {
    HeadersStatus { Continue, StopIteration, ContinueAndDontEndStream, StopAllAndBuffer, StopAllAndWatermark, LocalReply, Wait, Recreate }
    DataStatus { Continue, StopIterationAndBuffer, StopIterationAndWatermark, StopIterationNoBuffer, LocalReply, Wait }
    TrailersStatus { Continue, StopIteration, LocalReply, Wait }
}
