//! A request's stream on an upstream connection, of either protocol.

use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::super::circuit_breaker::RoutingPriority;
use super::connection::{RequestGuard, UpstreamConnectionInfo};
use super::http1_pool::{Http1Pool, PooledHttp1};
use super::http2_pool::{Http2Pool, PooledHttp2};
use super::pending::PendingStream;
use super::raw::RawStream;
use super::{PoolError, ResetReason, ResponseEvent, http2};
use crate::codec::upgrade::{request_to_http2, response_from_http2};
use crate::http::{EndStream, Fields, Protocol, RequestHead};
use crate::http2::MetadataMap;
use crate::stream_info::BytesMeter;
use crate::transport_sockets::UpstreamSocketOptions;

/// What a request wants of a pool.
#[derive(Debug, Clone, Default)]
pub struct StreamRequest {
    /// What the client spoke: decides with `use_downstream_protocol_config`.
    pub downstream_protocol: Option<Protocol>,
    /// Which circuit breakers and pools it uses.
    pub priority: RoutingPriority,
    /// What kind of stream it wants.
    pub kind: StreamKind,
    /// What it asks of its connection; none: nothing.
    pub options: Option<Rc<UpstreamSocketOptions>>,
}

/// What kind of stream a request wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StreamKind {
    /// One request and one response.
    #[default]
    Message,
    /// It asks for an upgrade or is a CONNECT: it will keep its connection for itself.
    Upgrade,
    /// A CONNECT that ends at the proxy: a TCP connection.
    RawTcp,
}

/// What a pool has for a request.
#[derive(Debug)]
pub enum Acquire {
    /// A stream on a connection that was there.
    Ready(ClientStream),
    /// A place in the queue.
    Pending(PendingStream),
    /// Nothing.
    Failed(PoolError),
}

/// A request's stream. It counts as active until it is dropped; then the connection goes back to its pool if request and response
/// ended as they should, and is closed (HTTP/1) or keeps running without the stream (HTTP/2) if not.
#[derive(Debug)]
pub enum ClientStream {
    /// A whole HTTP/1 connection.
    Http1(Http1Stream),
    /// One stream of an HTTP/2 connection.
    Http2(Http2Stream),
    /// A TCP connection.
    Raw(Box<RawStream>),
}

/// An HTTP/1 connection while a request uses it.
pub struct Http1Stream {
    /// Taken when the stream is dropped.
    connection: Option<Box<PooledHttp1>>,
    pool: Rc<Http1Pool>,
    head_sent: bool,
    response_ended: bool,
    reset: bool,
    _request: RequestGuard,
}

/// A stream of an HTTP/2 connection.
pub struct Http2Stream {
    /// Taken when the stream is dropped.
    stream: Option<Box<http2::ClientStream>>,
    connection: Rc<PooledHttp2>,
    pool: Rc<Http2Pool>,
    /// Reset by one of the sides, and counted.
    was_reset: bool,
    /// The protocol that the request asks for by an extended CONNECT.
    upgrade: Option<Box<[u8]>>,
    _request: RequestGuard,
}

macro_rules! either {
    ($self:expr, $stream:ident => $body:expr) => {
        match $self {
            ClientStream::Http1(Http1Stream {
                connection: Some(connection),
                ..
            }) => {
                let $stream = &mut connection.codec;
                $body
            }
            ClientStream::Http1(_) => unreachable!("the connection is taken by drop alone"),
            ClientStream::Http2(Http2Stream {
                stream: Some(stream),
                ..
            }) => {
                let $stream = stream;
                $body
            }
            ClientStream::Http2(_) => unreachable!("the stream is taken by drop alone"),
            ClientStream::Raw($stream) => $body,
        }
    };
}

impl ClientStream {
    /// Begins the request. Fields that frame the message are the codec's own affair.
    pub fn send_head(&mut self, head: &RequestHead, end: EndStream) {
        if let Self::Http1(stream) = self {
            stream.head_sent = true;
        } else if let Self::Http2(stream) = self
            && let Some((extended, protocol)) = request_to_http2(head)
        {
            stream.upgrade = Some(protocol);
            return either!(self, stream => stream.send_head(&extended, end));
        }
        either!(self, stream => stream.send_head(head, end));
    }

    /// Sends a piece of the body.
    pub fn send_data(&mut self, data: Bytes, end: EndStream) {
        either!(self, stream => stream.send_data(data, end));
    }

    /// Sends the trailers and ends the request.
    pub fn send_trailers(&mut self, trailers: &Fields) {
        either!(self, stream => stream.send_trailers(trailers));
    }

    /// Sends metadata beside the request, where the protocol knows such a thing. After the head.
    pub fn send_metadata(&mut self, map: &MetadataMap) {
        if let Self::Http2(stream) = self
            && let Some(stream) = &mut stream.stream
        {
            stream.send_metadata(map);
        }
    }

    /// Writes what is queued, and is ready when less than the buffer limit remains.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        either!(self, stream => stream.poll_ready(cx))
    }

    /// Bytes that lie here: what could not be sent yet, and what nobody has asked for.
    pub fn held(&self) -> usize {
        match self {
            Self::Http1(stream) => stream.connection.as_ref().map_or(0, |c| c.codec.held()),
            Self::Http2(stream) => stream.stream.as_ref().map_or(0, |stream| stream.held()),
            Self::Raw(stream) => stream.held(),
        }
    }

    /// Writes what is queued, and is ready when nothing remains.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        either!(self, stream => stream.poll_flush(cx))
    }

    /// The next event of the response. While the caller does not ask, nothing is read.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<ResponseEvent> {
        let mut event = either!(self, stream => stream.poll_event(cx));
        if let Poll::Ready(event) = &mut event {
            match self {
                Self::Http1(stream) => stream.saw(event),
                Self::Http2(stream) => stream.saw(event),
                Self::Raw(_) => {}
            }
        }
        event
    }

    /// Says that an upgrade or a tunnel was accepted: from now on both directions carry raw bytes.
    pub fn upgrade(&mut self) {
        match self {
            Self::Http1(stream) => {
                if let Some(connection) = &mut stream.connection {
                    connection.codec.upgrade();
                }
            }
            // A CONNECT stream carries raw bytes in its data frames as it is.
            Self::Http2(_) | Self::Raw(_) => {}
        }
    }

    /// Bytes of this stream so far.
    pub fn bytes(&self) -> BytesMeter {
        match self {
            Self::Http1(stream) => stream
                .connection
                .as_ref()
                .map_or_else(BytesMeter::default, |connection| connection.codec.bytes()),
            Self::Http2(stream) => stream
                .stream
                .as_ref()
                .map_or_else(BytesMeter::default, |stream| stream.bytes()),
            Self::Raw(stream) => stream.bytes(),
        }
    }

    /// Breaks the stream off: RST_STREAM, or the end of an HTTP/1 connection when the stream is dropped.
    pub fn reset(&mut self, _reason: &ResetReason) {
        match self {
            Self::Http1(stream) => stream.reset = true,
            Self::Raw(stream) => stream.reset(),
            Self::Http2(stream) => {
                if !std::mem::replace(&mut stream.was_reset, true) {
                    stream.connection.guard.stats().upstream_rq_tx_reset().inc();
                }
                if let Some(stream) = &mut stream.stream {
                    stream.reset();
                }
            }
        }
    }

    /// The connection below.
    pub fn connection_info(&self) -> &Rc<UpstreamConnectionInfo> {
        match self {
            Self::Http1(Http1Stream {
                connection: Some(connection),
                ..
            }) => &connection.info,
            Self::Http1(_) => unreachable!("the connection is taken by drop alone"),
            Self::Http2(stream) => &stream.connection.info,
            Self::Raw(stream) => stream.info(),
        }
    }

    /// Ends the stream. The same as dropping it.
    pub fn finish(self) {}
}

impl Http1Stream {
    pub(super) fn new(
        connection: Box<PooledHttp1>,
        pool: Rc<Http1Pool>,
        request: RequestGuard,
    ) -> Self {
        connection.guard.request_started();
        connection
            .info
            .requests
            .set(connection.info.requests.get() + 1);
        Self {
            connection: Some(connection),
            pool,
            head_sent: false,
            response_ended: false,
            reset: false,
            _request: request,
        }
    }

    fn saw(&mut self, event: &ResponseEvent) {
        match event {
            ResponseEvent::Reset(reason) => {
                self.reset = true;
                if let Some(connection) = &self.connection {
                    connection.guard.broke_off(reason);
                }
            }
            ResponseEvent::Head(_, EndStream::Yes)
            | ResponseEvent::Data(_, EndStream::Yes)
            | ResponseEvent::Trailers(_) => self.response_ended = true,
            _ => {}
        }
    }
}

impl Drop for Http1Stream {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            if self.head_sent && !self.response_ended {
                connection.guard.ends_under_request();
            }
            // A stream that never began leaves its connection as it was.
            let reusable = !self.reset && (!self.head_sent || connection.codec.is_reusable());
            self.pool.release(connection, reusable);
        }
    }
}

impl Http2Stream {
    pub(super) fn new(
        connection: Rc<PooledHttp2>,
        pool: Rc<Http2Pool>,
        request: RequestGuard,
    ) -> Self {
        connection.guard.request_started();
        connection
            .info
            .requests
            .set(connection.info.requests.get() + 1);
        pool.stats().streams_active().inc();
        Self {
            stream: Some(Box::new(connection.codec.new_stream())),
            connection,
            pool,
            was_reset: false,
            upgrade: None,
            _request: request,
        }
    }
}

impl Http2Stream {
    fn saw(&mut self, event: &mut ResponseEvent) {
        if let (ResponseEvent::Head(head, _), Some(protocol)) = (&mut *event, &self.upgrade) {
            response_from_http2(head, protocol);
        }
        if let ResponseEvent::Reset(reason) = event {
            self.was_reset = true;
            let cluster = self.connection.guard.stats();
            match reason {
                ResetReason::RemoteReset => cluster.upstream_rq_rx_reset().inc(),
                ResetReason::ProtocolError(_) => cluster.upstream_rq_tx_reset().inc(),
                ResetReason::ConnectionTermination => {
                    cluster.upstream_rq_pending_failure_eject().inc();
                }
                _ => {}
            }
            // A stream that breaks the rules on its own is no error of its connection.
            if !matches!(reason, ResetReason::ProtocolError(_))
                || self.connection.codec.has_failed()
            {
                self.connection.guard.broke_off(reason);
            }
        }
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        self.pool.stats().streams_active().dec();
        // The codec has room for another stream only when this one is gone.
        if let Some(stream) = self.stream.take() {
            self.connection.guard.request_ended(stream.bytes());
        }
        self.pool.stream_ended(&self.connection);
    }
}

impl fmt::Debug for Http1Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1Stream").finish_non_exhaustive()
    }
}

impl fmt::Debug for Http2Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Stream").finish_non_exhaustive()
    }
}
