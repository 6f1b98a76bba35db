//! An upstream HTTP/1 connection.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::ResponseEvent;
use crate::http::{EndStream, Fields, RequestHead};
use crate::http_connection_manager::codec::h1::ClientHttp1Settings;
use crate::net::Io;
use crate::stream_info::BytesMeter;

/// An upstream HTTP/1 connection, driven inline by the stream that holds it.
///
/// The order of calls: `send_head`, the other `send_*` and `poll_event` until the response has ended; then, if
/// [`Self::is_reusable`], [`Self::poll_idle`] while it waits in its pool, and again.
pub struct ClientConnection {
    io: Io,
    settings: Rc<ClientHttp1Settings>,
    buffer_limit: usize,
}

impl ClientConnection {
    /// A connection that has carried no request yet. `buffer_limit`: `per_connection_buffer_limit_bytes`, the bytes that
    /// may wait to be sent before `poll_ready` waits.
    pub fn new(io: Io, settings: Rc<ClientHttp1Settings>, buffer_limit: usize) -> Self {
        Self {
            io,
            settings,
            buffer_limit,
        }
    }

    /// Begins a request. Fields that frame the message are the codec's own affair.
    pub fn send_head(&mut self, _head: &RequestHead, _end: EndStream) {
        let _ = (&self.settings, self.buffer_limit);
    }

    /// Sends a piece of the body.
    pub fn send_data(&mut self, _data: Bytes, _end: EndStream) {}

    /// Sends the trailers and ends the request.
    pub fn send_trailers(&mut self, _trailers: &Fields) {}

    /// Writes what is queued, and is ready when less than the buffer limit remains.
    pub fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Writes what is queued, and is ready when nothing remains.
    pub fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// The next event of the response. While the caller does not ask, nothing is read.
    pub fn poll_event(&mut self, _cx: &mut Context<'_>) -> Poll<ResponseEvent> {
        Poll::Pending
    }

    /// Says that this request asks for an upgrade or a tunnel that was accepted (101, or 2xx to CONNECT): from now on both
    /// directions carry raw bytes. The codec finds this by itself from the response; calling it is allowed, not needed.
    pub fn upgrade(&mut self) {}

    /// Whether both directions ended as they should, so that another request may follow.
    pub fn is_reusable(&self) -> bool {
        false
    }

    /// Ready when an idle connection can no longer be used: the peer closed it, or sent what nobody asked for.
    pub fn poll_idle(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// Gives the buffers of an idle connection back to the worker.
    pub fn give_back_buffers(&mut self) {}

    /// The connection below.
    pub fn io(&self) -> &Io {
        &self.io
    }

    /// Bytes of the current stream so far.
    pub fn bytes(&self) -> BytesMeter {
        BytesMeter::default()
    }
}
