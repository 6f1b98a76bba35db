//! A downstream HTTP/2 connection.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use crate::codec::{Http2CodecStats, MetadataMap, RequestEvent, ServerStream, StreamReset};
use crate::http::{EndStream, Fields, Method, RequestHead, ResponseHead};
use crate::http2::driver::{Driver, Link, OnRead};
use crate::http2::{
    Accepted, Broken, Connection, ConnectionConfig, ErrorCode, Http2Settings, Received,
};
use crate::net::Io;
use crate::stream_info::BytesMeter;

pub use crate::http2::Refused as RefusedHead;

/// A downstream HTTP/2 connection. It is driven by [`Self::poll_accept`], which must be polled as long as it has streams;
/// each stream runs in a local task of its own.
pub struct ServerConnection {
    driver: Driver,
    buffer_limit: usize,
    active: Rc<Active>,
    /// Until GOAWAY follows its announcement.
    drain: Option<Pin<Box<Sleep>>>,
    end: End,
}

/// How a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Not,
    /// By the peer, or the network.
    Remote,
    /// By us: it was drained, or the peer broke the protocol.
    Local,
}

/// One stream of a [`ServerConnection`]. Dropped before its end it is reset.
pub struct ServerHttp2Stream {
    link: Link,
    id: u32,
    /// The head of the response ends it: the request was HEAD.
    head_only: bool,
    buffer_limit: usize,
    active: ActiveStream,
}

/// What the streams of a connection count.
#[derive(Default)]
struct Active {
    streams: Cell<usize>,
    stats: Option<Rc<Http2CodecStats>>,
}

/// Counts a stream while it lives.
struct ActiveStream(Rc<Active>);

impl ActiveStream {
    fn new(active: &Rc<Active>) -> Self {
        active.streams.set(active.streams.get() + 1);
        active.count(|stats| stats.streams_active().inc());
        Self(active.clone())
    }
}

impl Drop for ActiveStream {
    fn drop(&mut self) {
        let Self(active) = self;
        active.streams.set(active.streams.get().saturating_sub(1));
        active.count(|stats| stats.streams_active().dec());
    }
}

impl Active {
    fn count(&self, count: impl FnOnce(&Http2CodecStats)) {
        if let Some(stats) = &self.stats {
            count(stats);
        }
    }
}

/// A stream as it was opened: its head and whether that was all, or why it was not taken, and the rest of the stream.
pub type AcceptedStream = (
    Result<(RequestHead, EndStream), RefusedHead>,
    ServerHttp2Stream,
);

impl ServerConnection {
    /// A connection whose preface was not read yet. `buffer_limit`: bytes per stream that may wait to be sent.
    pub fn new(
        io: Io,
        settings: &Http2Settings,
        buffer_limit: usize,
        stats: Option<Rc<Http2CodecStats>>,
    ) -> Self {
        let config = ConnectionConfig::for_server(settings, buffer_limit);
        let connection = Connection::new(config, stats.clone(), Instant::now());
        let keepalive = settings.options.connection_keepalive;
        Self {
            driver: Driver::new(io, connection, keepalive),
            buffer_limit,
            active: Rc::new(Active {
                stats,
                ..Active::default()
            }),
            drain: None,
            end: End::Not,
        }
    }

    /// Drives the connection and gives its next stream. None: the connection has ended.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<AcceptedStream>> {
        loop {
            if let Some(accepted) = self.driver.link().with(Connection::accept) {
                return Poll::Ready(Some(self.accepted(accepted)));
            }
            if self.end != End::Not {
                return Poll::Ready(None);
            }
            if let Some(drain) = &mut self.drain
                && drain.as_mut().poll(cx).is_ready()
            {
                self.drain = None;
                self.driver.link().with(Connection::send_goaway);
            }
            if self.driver.poll(cx).is_ready() {
                self.end = if self.driver.keepalive_failed() {
                    self.active.count(|stats| stats.keepalive_timeout().inc());
                    End::Local
                } else if self.driver.link().with(|c| c.has_failed()) {
                    End::Local
                } else {
                    End::Remote
                };
                continue;
            }
            let (is_over, has_more) = self.driver.link().with(|connection| {
                let is_over = connection.is_going_away()
                    && connection.open_streams() == 0
                    && !connection.has_output();
                (is_over, connection.has_accepted())
            });
            if is_over && !has_more && self.active.streams.get() == 0 {
                self.end = End::Local;
            } else if !has_more {
                return Poll::Pending;
            }
        }
    }

    /// Sends GOAWAY twice: streams that come until `drain_timeout` has passed are taken. Streams in flight end in peace, and
    /// `poll_accept` ends after them.
    pub fn graceful_shutdown(&mut self, drain_timeout: Duration) {
        if self.drain.is_none() {
            self.driver.link().with(Connection::announce_goaway);
            self.drain = Some(Box::pin(tokio::time::sleep(drain_timeout)));
            self.driver.link().wake_driver();
        }
    }

    /// Asks this before what has come is looked at.
    pub fn ask_on_read(&mut self, on_read: OnRead) {
        self.driver.ask_on_read(on_read);
    }

    /// Whether the peer has broken the protocol.
    pub fn has_failed(&self) -> bool {
        self.driver
            .link()
            .with(|connection| connection.has_failed())
    }

    /// Whether what the peer has sent is an error of the protocol, and no flood.
    pub fn has_failed_by_error(&self) -> bool {
        self.driver.link().with(|c| c.has_failed_by_error())
    }

    /// Whether we have ended the connection, and not the peer.
    pub fn ended_here(&self) -> bool {
        self.end == End::Local
    }

    /// Whether no answer to a ping came in time.
    pub fn keepalive_failed(&self) -> bool {
        self.driver.keepalive_failed()
    }

    /// Ends the connection without a word, and all of its streams.
    pub fn abort(&mut self) {
        self.driver.link().with(Connection::ended);
        self.end = End::Local;
    }

    /// Waits until the peer has closed its side of a connection that has ended.
    pub async fn close(&mut self) {
        let _ = self.driver.close().await;
    }

    /// Streams whose owners have not let them go.
    pub fn active_streams(&self) -> usize {
        self.active.streams.get()
    }

    fn accepted(&mut self, accepted: Accepted) -> AcceptedStream {
        let Accepted {
            id,
            head,
            dropped_underscores,
        } = accepted;
        if dropped_underscores > 0 {
            self.active.count(|stats| {
                let dropped = stats.dropped_headers_with_underscores();
                dropped.add(dropped_underscores);
            });
        }
        let mut stream = ServerHttp2Stream {
            link: self.driver.link().clone(),
            id,
            head_only: false,
            buffer_limit: self.buffer_limit,
            active: ActiveStream::new(&self.active),
        };
        if let Ok((head, _)) = &head {
            stream.head_only = head.method() == Method::Head;
        }
        (head, stream)
    }
}

impl ServerStream for ServerHttp2Stream {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<RequestEvent> {
        let received = self.link.with(|c| c.poll_received(self.id, cx));
        received.map(|received| match received {
            Received::Data(data, end) => RequestEvent::Data(data, end),
            Received::Trailers(trailers) => RequestEvent::Trailers(trailers),
            Received::Metadata(map) => RequestEvent::Metadata(map),
            Received::Broken(broken) => RequestEvent::Reset(match broken {
                Broken::Remote(_) => StreamReset::RemoteReset,
                Broken::Refused => StreamReset::RemoteRefused,
                Broken::Malformed(details) | Broken::ConnectionError(details) => {
                    StreamReset::CodecError(details)
                }
                Broken::ConnectionEnded => StreamReset::ConnectionTermination,
                Broken::Unanswered => StreamReset::PingTimeout,
                Broken::Forced => StreamReset::ForcedGoaway,
            }),
            // A client sends no responses.
            Received::Informational(_) | Received::Head(..) => {
                RequestEvent::Reset(StreamReset::LocalReset)
            }
        })
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.buffer_limit;
        self.link.with(|c| c.poll_sent(self.id, limit, cx))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.link.with(|c| c.poll_sent(self.id, 0, cx))
    }

    fn send_informational(&mut self, head: &ResponseHead) {
        // 101 does not exist here.
        if head.status != 101 {
            self.link.with(|c| c.send_informational(self.id, head));
        }
    }

    fn send_head(&mut self, head: &ResponseHead, end: EndStream) {
        let end = if self.head_only { EndStream::Yes } else { end };
        self.link.with(|c| c.send_response(self.id, head, end));
    }

    fn send_data(&mut self, data: Bytes, end: EndStream) {
        self.link.with(|c| c.send_data(self.id, data, end));
    }

    fn send_trailers(&mut self, trailers: &Fields) {
        self.link.with(|c| c.send_trailers(self.id, trailers));
    }

    fn send_metadata(&mut self, map: &MetadataMap) {
        self.link.with(|c| c.send_metadata(self.id, map));
    }

    fn reset(&mut self, reason: StreamReset) {
        let code = match reason {
            StreamReset::ProtocolError(_) | StreamReset::CodecError(_) => ErrorCode::PROTOCOL_ERROR,
            StreamReset::ConnectError => ErrorCode::CONNECT_ERROR,
            _ => ErrorCode::INTERNAL_ERROR,
        };
        if reason == StreamReset::FlushTimeout {
            self.active.0.count(|stats| stats.tx_flush_timeout().inc());
        }
        self.link.with(|c| c.reset(self.id, code));
    }

    fn upgrade(&mut self) {}

    fn bytes(&self) -> BytesMeter {
        self.link.with(|c| c.meter(self.id))
    }

    fn held(&self) -> usize {
        self.link.with(|c| c.held(self.id))
    }
}

impl Drop for ServerHttp2Stream {
    fn drop(&mut self) {
        self.link.with(|c| c.release(self.id));
        // A drained connection ends with its last stream.
        if self.active.0.streams.get() == 1 {
            self.link.wake_driver();
        }
    }
}
