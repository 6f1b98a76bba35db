//! What an upstream stream says to the router.

use std::borrow::Cow;

use bytes::Bytes;

use crate::http::{EndStream, Fields, ResponseHead};
use crate::http2::MetadataMap;

/// One event of a response, in the order of the wire.
#[derive(Debug)]
pub enum ResponseEvent {
    /// A 1xx other than 101.
    Informational(ResponseHead),
    /// The final head.
    Head(ResponseHead, EndStream),
    /// A piece of the body.
    Data(Bytes, EndStream),
    /// The trailers; the response ends with them.
    Trailers(Fields),
    /// Metadata beside the response (HTTP/2 with `allow_metadata`).
    Metadata(Box<MetadataMap>),
    /// The stream broke off.
    Reset(ResetReason),
}

/// Why a stream broke off; Envoy's `StreamResetReason`. Its text stands in `%RESPONSE_CODE_DETAILS%` within braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResetReason {
    /// We ended it.
    LocalReset,
    /// The peer reset the stream.
    RemoteReset,
    /// The peer refused the stream: it was not processed.
    RemoteRefusedStream,
    /// The connection could not be made.
    ConnectionFailure(ConnectError),
    /// The connection ended under the stream.
    ConnectionTermination,
    /// A limit of the pool was reached.
    Overflow,
    /// The peer broke the protocol; the codec's details follow (`http1.codec_error`).
    ProtocolError(Cow<'static, str>),
}

/// Why no connection could be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectError {
    /// `connect_timeout` elapsed.
    Timeout,
    /// The peer or the kernel refused; the text goes into `%UPSTREAM_TRANSPORT_FAILURE_REASON%`. Envoy's
    /// `remote_connection_failure`.
    Failed(Box<str>),
    /// The socket could not be made or bound; a text as above. Envoy's `local_connection_failure`.
    Local(Box<str>),
}

/// Why a pool gave no stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolError {
    /// A circuit breaker is open.
    Overflow,
    /// The connection could not be made.
    Connect(ConnectError),
    /// The connection was made and lost before the stream could start.
    Terminated,
}
