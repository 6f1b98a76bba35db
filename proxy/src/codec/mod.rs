//! The seam between a downstream connection's codec and the streams on it: the same for HTTP/1, HTTP/2 and what comes after.

pub mod h1;
pub mod h2;
mod stats;
pub(crate) mod upgrade;

use std::borrow::Cow;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::http::{EndStream, Fields, ResponseHead};
use crate::stream_info::BytesMeter;

pub use crate::http2::{Http2CodecStats, MetadataMap};
pub use stats::Http1CodecStats;

/// One stream as its codec offers it: the rest of the request comes out, the response goes in.
///
/// Sending never blocks and never fails: what cannot be written yet is queued, and `poll_ready` says when the queue is short
/// enough for more. A connection that breaks is an event of the request side.
pub trait ServerStream {
    /// The next event of the request after its head. While the caller does not ask, nothing is read (back-pressure).
    /// After the end of the request it stays pending until the client resets the stream or goes away.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<RequestEvent>;

    /// Writes what is queued, and is ready when less than the buffer limit remains.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Writes what is queued, and is ready when nothing remains.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// The response is complete, and once it is flushed the connection is closed: a codec may send both together.
    fn flush_with_close(&mut self) {}

    /// Sends a 1xx.
    fn send_informational(&mut self, head: &ResponseHead);

    /// Sends the final head. Fields that frame the message are the codec's own affair.
    fn send_head(&mut self, head: &ResponseHead, end: EndStream);

    /// Sends a piece of the body.
    fn send_data(&mut self, data: Bytes, end: EndStream);

    /// Sends the trailers and ends the response.
    fn send_trailers(&mut self, trailers: &Fields);

    /// Sends metadata beside the response, where the protocol knows such a thing.
    fn send_metadata(&mut self, _map: &MetadataMap) {}

    /// Breaks the stream off, as far as the protocol knows such a thing.
    fn reset(&mut self, reason: StreamReset);

    /// Says that an upgrade was accepted for this request: from now on both directions carry raw bytes.
    fn upgrade(&mut self);

    /// Bytes of this stream so far.
    fn bytes(&self) -> BytesMeter;

    /// Bytes of bodies that lie here for this stream, where streams have something of their own.
    fn held(&self) -> usize {
        0
    }
}

impl<S: ServerStream + ?Sized> ServerStream for &mut S {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<RequestEvent> {
        (**self).poll_event(cx)
    }
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_ready(cx)
    }
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_flush(cx)
    }
    fn flush_with_close(&mut self) {
        (**self).flush_with_close();
    }
    fn send_informational(&mut self, head: &ResponseHead) {
        (**self).send_informational(head);
    }
    fn send_head(&mut self, head: &ResponseHead, end: EndStream) {
        (**self).send_head(head, end);
    }
    fn send_data(&mut self, data: Bytes, end: EndStream) {
        (**self).send_data(data, end);
    }
    fn send_trailers(&mut self, trailers: &Fields) {
        (**self).send_trailers(trailers);
    }
    fn send_metadata(&mut self, map: &MetadataMap) {
        (**self).send_metadata(map);
    }
    fn reset(&mut self, reason: StreamReset) {
        (**self).reset(reason);
    }
    fn upgrade(&mut self) {
        (**self).upgrade();
    }
    fn bytes(&self) -> BytesMeter {
        (**self).bytes()
    }
    fn held(&self) -> usize {
        (**self).held()
    }
}

/// One event of a request after its head.
#[derive(Debug)]
pub enum RequestEvent {
    /// A piece of the body.
    Data(Bytes, EndStream),
    /// The trailers; the request ends with them.
    Trailers(Fields),
    /// Metadata beside the request (HTTP/2 with `allow_metadata`).
    Metadata(Box<MetadataMap>),
    /// The stream broke off.
    Reset(StreamReset),
}

/// Why a downstream stream broke off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamReset {
    /// The client closed or lost the connection.
    ConnectionTermination,
    /// The client did not answer a PING in time, and its connection was closed.
    PingTimeout,
    /// The proxy has ended the connection because there is too much to do.
    ForcedGoaway,
    /// The client reset the stream (HTTP/2 RST_STREAM).
    RemoteReset,
    /// The client reset the stream with REFUSED_STREAM.
    RemoteRefused,
    /// The proxy breaks it off.
    LocalReset,
    /// The proxy breaks it off, since the client does not take the rest of its response.
    FlushTimeout,
    /// The proxy breaks a tunnel off whose other end has gone.
    ConnectError,
    /// What the client sent breaks the protocol: the status to answer with, and the details.
    ProtocolError(ProtocolError),
    /// What the client sent breaks the protocol, and no answer is possible: the details.
    CodecError(&'static str),
}

/// A message that its codec refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtocolError {
    /// 400, 413, 426, 431, 501, 505: what Envoy answers where an answer is still possible.
    pub status: u16,
    /// The body of that answer: `Bad Request`.
    pub body: Cow<'static, str>,
    /// `%RESPONSE_CODE_DETAILS%`: `http1.codec_error`.
    pub details: Cow<'static, str>,
}
