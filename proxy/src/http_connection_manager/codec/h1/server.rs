//! A downstream HTTP/1 connection: one request at a time, in the order of their arrival.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::Http1Settings;
use crate::http::{EndStream, Fields, RequestHead, ResponseHead};
use crate::http_connection_manager::codec::{
    ProtocolError, RequestEvent, ServerStream, StreamReset,
};
use crate::net::Io;
use crate::stream_info::BytesMeter;

/// A downstream HTTP/1 connection. It is the [`ServerStream`] of its current request.
///
/// The order of calls: [`Self::poll_head`], then the methods of the stream, then [`Self::finish_stream`] once the response
/// was handed over and flushed, and again. Nothing is read but by `poll_head` and `poll_event`.
pub struct ServerConnection {
    io: Io,
    settings: Rc<Http1Settings>,
    buffer_limit: usize,
}

/// Why there is no next request.
#[derive(Debug)]
pub enum HeadError {
    /// What came is no acceptable request: the answer to give, and the head as far as it could be read. The connection is
    /// now in a stream whose request has ended: the answer is sent on it, and `finish_stream` says whether it goes on.
    Protocol(ProtocolError, Option<RequestHead>),
    /// The client closed or lost the connection within a head.
    Closed,
}

/// What may become of the connection after a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another request may come.
    KeepAlive,
    /// The connection has to be closed.
    Close,
}

impl ServerConnection {
    /// A connection that has not sent anything yet. `buffer_limit`: bytes that may wait to be sent before `poll_ready` waits.
    pub fn new(io: Io, settings: Rc<Http1Settings>, buffer_limit: usize) -> Self {
        Self {
            io,
            settings,
            buffer_limit,
        }
    }

    /// The next request. None: the client closed the connection where it may.
    pub fn poll_head(
        &mut self,
        _cx: &mut Context<'_>,
    ) -> Poll<Result<Option<(RequestHead, EndStream)>, HeadError>> {
        let _ = (&self.settings, self.buffer_limit);
        Poll::Pending
    }

    /// Whether bytes of a next request have come, for `request_headers_timeout` and the idle timeout.
    pub fn has_partial_head(&self) -> bool {
        false
    }

    /// Ends the current stream, after its response was handed over and flushed.
    pub fn finish_stream(&mut self) -> Next {
        Next::Close
    }

    /// Closes the connection after the current response, which says so with `connection: close`. Before `send_head`.
    pub fn close_after_response(&mut self) {}

    /// Sends a FIN after what is queued, then reads (a bounded number of bytes) until the client closes as well.
    /// The caller bounds the time: `delayed_close_timeout`.
    pub fn poll_close(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Gives the buffers of a connection without work back to the worker.
    pub fn give_back_buffers(&mut self) {}

    /// The connection below.
    pub fn io(&self) -> &Io {
        &self.io
    }
}

impl ServerStream for ServerConnection {
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
