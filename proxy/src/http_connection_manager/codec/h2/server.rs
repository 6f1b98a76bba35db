//! A downstream HTTP/2 connection.

use std::borrow::Cow;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::{Connection, Handshake, SendResponse};
use h2::{Reason, RecvStream};

use super::coalesce::{Coalesced, Flusher, coalesce};
use super::convert::{Incoming, Refusal, fields_out, request_in, response_out, trailers_in};
use super::keepalive::Keepalive;
use super::send::SendQueue;
use super::settings::Http2Settings;
use crate::http::{EndStream, Fields, RequestHead, ResponseHead};
use crate::http_connection_manager::codec::{
    Http2CodecStats, ProtocolError, RequestEvent, ServerStream, StreamReset,
};
use crate::net::Io;
use crate::stream_info::BytesMeter;

/// The header of a frame, for the count of bytes on the wire.
const FRAME: u64 = 9;

/// A downstream HTTP/2 connection. It is driven by [`Self::poll_accept`], which must be polled as long as it has streams;
/// each stream runs in a local task of its own.
pub struct ServerConnection {
    state: State,
    flusher: Flusher,
    settings: Rc<Http2Settings>,
    keepalive: Option<Keepalive>,
    buffer_limit: usize,
    active: Rc<Active>,
    draining: bool,
}

enum State {
    Handshake(Box<Handshake<Coalesced, Bytes>>),
    Open(Box<Connection<Coalesced, Bytes>>),
    Ended,
}

/// One stream of a [`ServerConnection`]. Dropped before its end it is reset.
pub struct ServerHttp2Stream {
    respond: SendResponse<Bytes>,
    body: RecvStream,
    request: RequestState,
    send: Option<SendQueue>,
    head_only: bool,
    buffer_limit: usize,
    meter: BytesMeter,
    active: ActiveStream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestState {
    Body,
    Trailers,
    Complete,
    Broken,
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

impl ServerConnection {
    /// A connection whose preface was not read yet. `buffer_limit`: bytes per stream that may wait to be sent.
    pub fn new(io: Io, settings: Rc<Http2Settings>, buffer_limit: usize) -> Self {
        let options = &settings.options;
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(options.initial_stream_window_size)
            .initial_connection_window_size(options.initial_connection_window_size)
            .max_concurrent_streams(options.max_concurrent_streams)
            .header_table_size(options.hpack_table_size)
            .max_header_list_size(settings.max_request_headers_kb.saturating_mul(1024))
            .max_send_buffer_size(buffer_limit.max(64 * 1024));
        if options.allow_connect {
            builder.enable_connect_protocol();
        }
        let (io, flusher) = coalesce(io);
        Self {
            state: State::Handshake(Box::new(builder.handshake(io))),
            flusher,
            settings,
            keepalive: None,
            buffer_limit,
            active: Rc::default(),
            draining: false,
        }
    }

    /// Counts what is special to the codec in `stats`. Before the first stream.
    pub fn with_stats(mut self, stats: Rc<Http2CodecStats>) -> Self {
        self.active = Rc::new(Active {
            stats: Some(stats),
            ..Active::default()
        });
        self
    }

    /// Drives the connection and gives its next stream. An error belongs to one stream, whose head was refused, and
    /// is the details of that; the stream is to be reset. None: the connection has ended, with all of its streams.
    #[allow(
        clippy::type_complexity,
        reason = "a stream is its head, whether it ended and the rest of it"
    )]
    pub fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<
        Option<(
            Result<(RequestHead, EndStream), &'static str>,
            ServerHttp2Stream,
        )>,
    > {
        loop {
            if let Some(keepalive) = &mut self.keepalive
                && keepalive.poll_dead(cx).is_ready()
            {
                self.active.count(|stats| stats.keepalive_timeout().inc());
                self.state = State::Ended;
                self.keepalive = None;
            }
            let accepted = match &mut self.state {
                State::Ended => return Poll::Ready(None),
                State::Handshake(handshake) => {
                    match Pin::new(&mut **handshake).poll(cx) {
                        Poll::Pending => {
                            self.flusher.poll(cx);
                            return Poll::Pending;
                        }
                        Poll::Ready(Ok(connection)) => self.opened(connection),
                        Poll::Ready(Err(_)) => self.state = State::Ended,
                    }
                    continue;
                }
                State::Open(connection) => connection.poll_accept(cx),
            };
            let Poll::Ready(accepted) = accepted else {
                // All that this wake-up had to say was said.
                self.flusher.poll(cx);
                return Poll::Pending;
            };
            match accepted {
                Some(Ok((request, respond))) => {
                    return Poll::Ready(Some(self.accept(request, respond)));
                }
                Some(Err(_)) | None => {
                    self.flusher.poll(cx);
                    self.keepalive = None;
                    self.state = State::Ended;
                }
            }
        }
    }

    /// Sends GOAWAY: streams in flight end in peace, and `poll_accept` ends after them.
    pub fn graceful_shutdown(&mut self) {
        self.draining = true;
        if let State::Open(connection) = &mut self.state {
            self.active.count(|stats| stats.goaway_sent().inc());
            connection.graceful_shutdown();
        }
    }

    /// Whether the connection has ended.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Streams that have not ended.
    pub fn active_streams(&self) -> usize {
        self.active.streams.get()
    }

    fn opened(&mut self, mut connection: Connection<Coalesced, Bytes>) {
        if let Some(settings) = self.settings.options.connection_keepalive
            && let Some(pings) = connection.ping_pong()
        {
            self.keepalive = Some(Keepalive::new(pings, settings));
        }
        if self.draining {
            connection.graceful_shutdown();
        }
        self.state = State::Open(Box::new(connection));
    }

    #[allow(
        clippy::type_complexity,
        reason = "a stream is its head, whether it ended and the rest of it"
    )]
    fn accept(
        &mut self,
        request: http::Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> (
        Result<(RequestHead, EndStream), &'static str>,
        ServerHttp2Stream,
    ) {
        let (parts, body) = request.into_parts();
        let Incoming {
            head,
            bytes,
            dropped_underscores,
            refusal,
        } = request_in(&parts, &self.settings);
        if dropped_underscores > 0 {
            self.active.count(|stats| {
                let dropped = stats.dropped_headers_with_underscores();
                dropped.add(dropped_underscores);
            });
        }
        if refusal == Some(Refusal::Underscore) {
            let rejected = |stats: &Http2CodecStats| {
                stats.requests_rejected_with_underscores_in_headers().inc();
            };
            self.active.count(rejected);
        }
        let end = EndStream::from(body.is_end_stream());
        let stream = ServerHttp2Stream {
            respond,
            body,
            request: if end.is_end() {
                RequestState::Complete
            } else {
                RequestState::Body
            },
            send: None,
            head_only: parts.method == http::Method::HEAD,
            buffer_limit: self.buffer_limit,
            meter: BytesMeter {
                header_received: bytes,
                wire_received: bytes + FRAME,
                ..BytesMeter::default()
            },
            active: ActiveStream::new(&self.active),
        };
        let result = match refusal {
            None => Ok((head, end)),
            Some(Refusal::TooManyHeaders) => Err("http2.too_many_headers"),
            Some(Refusal::Underscore) => Err("http2.unexpected_underscore"),
        };
        (result, stream)
    }
}

impl ServerHttp2Stream {
    fn broken(&mut self, error: &h2::Error) -> RequestEvent {
        self.request = RequestState::Broken;
        let Self {
            active: ActiveStream(active),
            ..
        } = self;
        if error.is_reset() && error.is_remote() {
            active.count(|stats| stats.rx_reset().inc());
        } else if error.is_reset() && error.is_library() {
            active.count(|stats| stats.rx_messaging_error().inc());
        }
        RequestEvent::Reset(if error.is_reset() && error.is_remote() {
            StreamReset::RemoteReset
        } else if error.is_reset() && error.is_library() {
            StreamReset::ProtocolError(ProtocolError {
                status: 400,
                body: Cow::Borrowed("Bad Request"),
                details: Cow::Borrowed("http2.violation.of.messaging.rule"),
            })
        } else {
            StreamReset::ConnectionTermination
        })
    }
}

impl ServerStream for ServerHttp2Stream {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<RequestEvent> {
        if self.request == RequestState::Body {
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The caller asks only for what it has room for: asking is consuming.
                    let _ = self.body.flow_control().release_capacity(data.len());
                    self.meter.wire_received += data.len() as u64 + FRAME;
                    let end = self.body.is_end_stream();
                    if end {
                        self.request = RequestState::Complete;
                    }
                    return Poll::Ready(RequestEvent::Data(data, end.into()));
                }
                Some(Err(error)) => return Poll::Ready(self.broken(&error)),
                None => self.request = RequestState::Trailers,
            }
        }
        if self.request == RequestState::Trailers {
            return Poll::Ready(match ready!(self.body.poll_trailers(cx)) {
                Ok(Some(map)) => {
                    self.request = RequestState::Complete;
                    let (trailers, bytes) = trailers_in(&map);
                    self.meter.header_received += bytes;
                    self.meter.wire_received += bytes + FRAME;
                    RequestEvent::Trailers(trailers)
                }
                Ok(None) => {
                    self.request = RequestState::Complete;
                    RequestEvent::Data(Bytes::new(), EndStream::Yes)
                }
                Err(error) => self.broken(&error),
            });
        }
        if self.request == RequestState::Broken {
            return Poll::Pending;
        }
        let reset = match &mut self.send {
            Some(send) if send.has_ended() => return Poll::Pending,
            Some(send) => ready!(send.poll_reset(cx)),
            None => ready!(self.respond.poll_reset(cx)),
        };
        self.request = RequestState::Broken;
        Poll::Ready(RequestEvent::Reset(match reset {
            Ok(_) => {
                self.active.0.count(|stats| stats.rx_reset().inc());
                StreamReset::RemoteReset
            }
            Err(_) => StreamReset::ConnectionTermination,
        }))
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(send) = &mut self.send else {
            return Poll::Ready(());
        };
        if send.poll_send(cx).is_pending() && send.queued() > self.buffer_limit {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send
            .as_mut()
            .map_or(Poll::Ready(()), |send| send.poll_send(cx))
    }

    fn send_informational(&mut self, head: &ResponseHead) {
        // 101 does not exist here, and the crate refuses it.
        if self.send.is_some() || head.status == 101 {
            return;
        }
        if let Some((response, bytes)) = response_out(head)
            && self.respond.send_informational(response).is_ok()
        {
            self.meter.header_sent += bytes;
            self.meter.wire_sent += bytes + FRAME;
        }
    }

    fn send_head(&mut self, head: &ResponseHead, end: EndStream) {
        if self.send.is_some() {
            return;
        }
        let Some((response, bytes)) = response_out(head) else {
            self.respond.send_reset(Reason::INTERNAL_ERROR);
            return;
        };
        let end = if self.head_only { EndStream::Yes } else { end };
        if let Ok(stream) = self.respond.send_response(response, end.is_end()) {
            self.meter.header_sent += bytes;
            self.meter.wire_sent += bytes + FRAME;
            self.send = Some(SendQueue::new(stream, end));
        }
    }

    fn send_data(&mut self, data: Bytes, end: EndStream) {
        if let Some(send) = &mut self.send
            && !send.has_ended()
        {
            self.meter.wire_sent += data.len() as u64 + FRAME;
            send.push(data, end);
        }
    }

    fn send_trailers(&mut self, trailers: &Fields) {
        if let Some(send) = &mut self.send
            && !send.has_ended()
        {
            match fields_out(trailers) {
                Some((map, bytes)) => {
                    self.meter.header_sent += bytes;
                    self.meter.wire_sent += bytes + FRAME;
                    send.push_trailers(map);
                }
                None => send.reset(Reason::INTERNAL_ERROR),
            }
        }
    }

    fn reset(&mut self, reason: StreamReset) {
        let reason = match reason {
            StreamReset::ProtocolError(_) => Reason::PROTOCOL_ERROR,
            StreamReset::ConnectError => Reason::CONNECT_ERROR,
            _ => Reason::INTERNAL_ERROR,
        };
        self.active.0.count(|stats| stats.tx_reset().inc());
        self.request = RequestState::Broken;
        match &mut self.send {
            Some(send) => send.reset(reason),
            None => self.respond.send_reset(reason),
        }
    }

    fn upgrade(&mut self) {}

    fn bytes(&self) -> BytesMeter {
        self.meter
    }
}
