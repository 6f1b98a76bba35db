//! A downstream HTTP/2 connection.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::Http2Settings;
use crate::http::{EndStream, Fields, RequestHead, ResponseHead};
use crate::http_connection_manager::codec::{
    ProtocolError, RequestEvent, ServerStream, StreamReset,
};
use crate::net::Io;
use crate::stream_info::BytesMeter;

/// A downstream HTTP/2 connection. It is driven by [`Self::poll_accept`], which must be polled as long as it has streams;
/// each stream runs in a local task of its own.
pub struct ServerConnection {
    _settings: Rc<Http2Settings>,
    _io: Io,
}

/// One stream of a [`ServerConnection`].
pub struct ServerHttp2Stream {}

impl ServerConnection {
    /// A connection whose preface was not read yet. `buffer_limit`: bytes per stream that may wait to be sent.
    pub fn new(io: Io, settings: Rc<Http2Settings>, _buffer_limit: usize) -> Self {
        Self {
            _settings: settings,
            _io: io,
        }
    }

    /// Drives the connection and gives its next stream. An error belongs to one stream: what the codec refused after it
    /// had a head (the answer is to be sent on it). None: the connection has ended, with all of its streams.
    #[allow(
        clippy::type_complexity,
        reason = "a stream is its head, whether it ended and the rest of it"
    )]
    pub fn poll_accept(
        &mut self,
        _cx: &mut Context<'_>,
    ) -> Poll<
        Option<(
            Result<(RequestHead, EndStream), ProtocolError>,
            ServerHttp2Stream,
        )>,
    > {
        Poll::Pending
    }

    /// Sends GOAWAY: streams in flight end in peace, and `poll_accept` ends after them.
    pub fn graceful_shutdown(&mut self) {}

    /// Streams that have not ended.
    pub fn active_streams(&self) -> usize {
        0
    }
}

impl ServerStream for ServerHttp2Stream {
    fn poll_event(&mut self, _cx: &mut Context<'_>) -> Poll<RequestEvent> {
        Poll::Pending
    }

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn send_informational(&mut self, _head: &ResponseHead) {}

    fn send_head(&mut self, _head: &ResponseHead, _end: EndStream) {}

    fn send_data(&mut self, _data: Bytes, _end: EndStream) {}

    fn send_trailers(&mut self, _trailers: &Fields) {}

    fn reset(&mut self, _reason: StreamReset) {}

    fn upgrade(&mut self) {}

    fn bytes(&self) -> BytesMeter {
        BytesMeter::default()
    }
}
