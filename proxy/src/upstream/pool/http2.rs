//! An upstream HTTP/2 connection, over the crate `h2`.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::{ResetReason, ResponseEvent};
use crate::http::{EndStream, Fields, RequestHead};
use crate::http_connection_manager::codec::h2::ClientHttp2Settings;
use crate::net::Io;
use crate::stream_info::BytesMeter;

/// An upstream HTTP/2 connection, shared by its streams and driven by a local task of its own, which lives until the
/// connection ends. When the last handle is dropped it sends GOAWAY, lets the streams end and closes.
#[derive(Clone)]
pub struct ClientConnection {
    _settings: Rc<ClientHttp2Settings>,
}

/// One stream of a [`ClientConnection`]; the same methods as an HTTP/1 connection. Dropped before its end it is reset.
pub struct ClientStream {}

/// Whether a connection can take another stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// A stream may start now.
    Ready,
    /// As many streams are open as the peer or the configuration allows.
    Full,
    /// The connection has ended or will (GOAWAY): no new stream.
    Gone,
}

impl ClientConnection {
    /// Sends preface and settings and starts the task that drives the connection. Must run on a worker's local runtime.
    pub async fn handshake(_io: Io, settings: Rc<ClientHttp2Settings>) -> io::Result<Self> {
        Ok(Self {
            _settings: settings,
        })
    }

    /// Whether a stream may start now.
    pub fn availability(&self) -> Availability {
        Availability::Gone
    }

    /// Streams that may be open at once: the smaller of `max_concurrent_streams` and what the peer allows.
    pub fn max_concurrent_streams(&self) -> usize {
        0
    }

    /// Streams that have not ended.
    pub fn active_streams(&self) -> usize {
        0
    }

    /// Ready when a stream may start, or with an error when none ever will.
    pub fn poll_ready_for_stream(&self, _cx: &mut Context<'_>) -> Poll<Result<(), ResetReason>> {
        Poll::Pending
    }

    /// A new stream. It counts from now on; nothing is sent before its `send_head`.
    pub fn new_stream(&self) -> ClientStream {
        ClientStream {}
    }

    /// Ready when the connection can take no new stream any more: GOAWAY, an error, or the end.
    pub fn poll_gone(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// Takes no new streams, and closes when those in flight have ended.
    pub fn drain(&self) {}
}

impl ClientStream {
    /// Begins the request.
    pub fn send_head(&mut self, _head: &RequestHead, _end: EndStream) {}

    /// Sends a piece of the body.
    pub fn send_data(&mut self, _data: Bytes, _end: EndStream) {}

    /// Sends the trailers and ends the request.
    pub fn send_trailers(&mut self, _trailers: &Fields) {}

    /// Hands what is queued to the connection, and is ready when less than the buffer limit remains.
    pub fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Hands what is queued to the connection, and is ready when nothing remains.
    pub fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// The next event of the response. While the caller does not ask, the peer's window stays closed.
    pub fn poll_event(&mut self, _cx: &mut Context<'_>) -> Poll<ResponseEvent> {
        Poll::Pending
    }

    /// Breaks the stream off.
    pub fn reset(&mut self) {}

    /// Bytes of this stream so far.
    pub fn bytes(&self) -> BytesMeter {
        BytesMeter::default()
    }
}
