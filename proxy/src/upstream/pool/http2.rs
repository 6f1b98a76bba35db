//! An upstream HTTP/2 connection, over the crate `h2`.
//!
//! Deviations: a request without authority, or with a path that is no URI, cannot be sent: the stream is reset locally.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use tokio::time::Instant;

use super::{ResetReason, ResponseEvent};
use crate::http::{EndStream, Fields, RequestHead};
use crate::http_connection_manager::codec::h2::{
    ClientHttp2Settings, Keepalive, SendQueue, fields_out, request_out, response_in, trailers_in,
};
use crate::net::Io;
use crate::stream_info::BytesMeter;

/// The header of a frame, for the count of bytes on the wire.
const FRAME: u64 = 9;

/// An upstream HTTP/2 connection, shared by its streams and driven by a local task of its own, which lives until the
/// connection ends. When the last handle is dropped it sends GOAWAY, lets the streams end and closes.
#[derive(Clone)]
pub struct ClientConnection {
    shared: Rc<Shared>,
}

struct Shared {
    send: SendRequest<Bytes>,
    settings: Rc<ClientHttp2Settings>,
    active: Cell<usize>,
    gone: Cell<bool>,
    /// Since when no stream is open.
    idle_since: Cell<Instant>,
    ping_wanted: Cell<bool>,
    /// Who waits for a place, or for the end.
    waiting: RefCell<Vec<Waker>>,
    driver: RefCell<Option<Waker>>,
}

/// One stream of a [`ClientConnection`]; the same methods as an HTTP/1 connection. Dropped before its end it is reset.
pub struct ClientStream {
    shared: Rc<Shared>,
    send: Option<SendQueue>,
    response: ResponseState,
    meter: BytesMeter,
}

enum ResponseState {
    /// No request yet.
    None,
    Head(ResponseFuture),
    Body(RecvStream),
    Trailers(RecvStream),
    Complete,
    /// Broken, and not yet said.
    Broken(ResetReason),
}

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
    pub async fn handshake(io: Io, settings: Rc<ClientHttp2Settings>) -> io::Result<Self> {
        let options = &settings.options;
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(options.initial_stream_window_size)
            .initial_connection_window_size(options.initial_connection_window_size)
            .max_concurrent_streams(options.max_concurrent_streams)
            .initial_max_send_streams(options.max_concurrent_streams as usize)
            .header_table_size(options.hpack_table_size)
            .max_header_list_size(settings.max_response_headers_kb.saturating_mul(1024))
            .max_send_buffer_size(settings.buffer_limit.max(64 * 1024));
        let handshake = builder.handshake(io).await;
        let (send, mut connection) = handshake.map_err(|error| {
            error
                .into_io()
                .unwrap_or_else(|| io::ErrorKind::InvalidData.into())
        })?;
        let keepalive = options.connection_keepalive;
        let keepalive = keepalive.and_then(|settings| {
            let pings = connection.ping_pong()?;
            Some(Keepalive::new(pings, settings))
        });
        let shared = Rc::new(Shared {
            send,
            settings,
            active: Cell::new(0),
            gone: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
            ping_wanted: Cell::new(false),
            waiting: RefCell::default(),
            driver: RefCell::default(),
        });
        tokio::task::spawn_local(drive(Rc::downgrade(&shared), connection, keepalive));
        Ok(Self { shared })
    }

    /// Whether a stream may start now.
    pub fn availability(&self) -> Availability {
        if self.shared.gone.get() {
            Availability::Gone
        } else if self.shared.active.get() < self.max_concurrent_streams() {
            Availability::Ready
        } else {
            Availability::Full
        }
    }

    /// Streams that may be open at once: the smaller of `max_concurrent_streams` and what the peer allows.
    pub fn max_concurrent_streams(&self) -> usize {
        let configured = self.shared.settings.options.max_concurrent_streams as usize;
        configured.min(self.shared.send.current_max_send_streams())
    }

    /// Streams that have not ended.
    pub fn active_streams(&self) -> usize {
        self.shared.active.get()
    }

    /// Ready when a stream may start, or with an error when none ever will.
    pub fn poll_ready_for_stream(&self, cx: &mut Context<'_>) -> Poll<Result<(), ResetReason>> {
        match self.availability() {
            Availability::Ready => Poll::Ready(Ok(())),
            Availability::Gone => Poll::Ready(Err(ResetReason::ConnectionTermination)),
            Availability::Full => {
                self.shared.wait(cx);
                Poll::Pending
            }
        }
    }

    /// A new stream. It counts from now on; nothing is sent before its `send_head`.
    pub fn new_stream(&self) -> ClientStream {
        let shared = &self.shared;
        let keepalive = shared.settings.options.connection_keepalive;
        if shared.active.get() == 0
            && let Some(longest) = keepalive.and_then(|k| k.connection_idle_interval)
            && shared.idle_since.get().elapsed() >= longest
        {
            shared.ping_wanted.set(true);
            if let Some(driver) = shared.driver.take() {
                driver.wake();
            }
        }
        shared.active.set(shared.active.get() + 1);
        ClientStream {
            shared: shared.clone(),
            send: None,
            response: ResponseState::None,
            meter: BytesMeter::default(),
        }
    }

    /// Ready when the connection can take no new stream any more: GOAWAY, an error, or the end.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.gone.get() {
            return Poll::Ready(());
        }
        self.shared.wait(cx);
        Poll::Pending
    }

    /// Takes no new streams, and closes when those in flight have ended and the handles are dropped.
    pub fn drain(&self) {
        self.shared.end();
    }
}

impl Shared {
    fn wait(&self, cx: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }

    fn wake(&self) {
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    fn end(&self) {
        if !self.gone.replace(true) {
            self.wake();
        }
    }
}

/// Drives a connection to its end.
async fn drive(
    shared: Weak<Shared>,
    connection: Connection<Io, Bytes>,
    mut keepalive: Option<Keepalive>,
) {
    let mut connection = Box::pin(connection);
    let mut allowed = 0;
    poll_fn(|cx| {
        let ended = connection.as_mut().poll(cx).is_ready();
        let mut dead = false;
        if let Some(keepalive) = &mut keepalive {
            if let Some(shared) = shared.upgrade() {
                if shared.ping_wanted.take() {
                    keepalive.ping();
                }
                *shared.driver.borrow_mut() = Some(cx.waker().clone());
            }
            dead = keepalive.poll_dead(cx).is_ready();
        }
        if let Some(shared) = shared.upgrade() {
            // A clone of the handle tells of GOAWAY, which the connection itself does not.
            let refused = matches!(shared.send.clone().poll_ready(cx), Poll::Ready(Err(_)));
            if ended || dead || refused {
                shared.end();
            }
            let now = shared.send.current_max_send_streams();
            if std::mem::replace(&mut allowed, now) < now {
                shared.wake();
            }
        }
        if ended || dead {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

impl ClientStream {
    /// Begins the request.
    pub fn send_head(&mut self, head: &RequestHead, end: EndStream) {
        let Some((request, bytes)) = request_out(head) else {
            self.response = ResponseState::Broken(ResetReason::LocalReset);
            return;
        };
        // A clone has no stream of its own waiting for a place, so that it may always begin one.
        match self.shared.send.clone().send_request(request, end.is_end()) {
            Ok((response, stream)) => {
                self.meter.header_sent += bytes;
                self.meter.wire_sent += bytes + FRAME;
                self.send = Some(SendQueue::new(stream, end));
                self.response = ResponseState::Head(response);
            }
            Err(error) => self.response = ResponseState::Broken(reset_reason(&error, true)),
        }
    }

    /// Sends a piece of the body.
    pub fn send_data(&mut self, data: Bytes, end: EndStream) {
        if let Some(send) = &mut self.send
            && !send.has_ended()
        {
            self.meter.wire_sent += data.len() as u64 + FRAME;
            send.push(data, end);
        }
    }

    /// Sends the trailers and ends the request.
    pub fn send_trailers(&mut self, trailers: &Fields) {
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

    /// Hands what is queued to the connection, and is ready when less than the buffer limit remains.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(send) = &mut self.send else {
            return Poll::Ready(());
        };
        if send.poll_send(cx).is_pending() && send.queued() > self.shared.settings.buffer_limit {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// Hands what is queued to the connection, and is ready when nothing remains.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send
            .as_mut()
            .map_or(Poll::Ready(()), |send| send.poll_send(cx))
    }

    /// The next event of the response. While the caller does not ask, the peer's window stays closed. After the end it
    /// stays pending.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<ResponseEvent> {
        loop {
            match &mut self.response {
                ResponseState::None | ResponseState::Complete => return Poll::Pending,
                ResponseState::Broken(reason) => {
                    let reason = reason.clone();
                    self.response = ResponseState::Complete;
                    return Poll::Ready(ResponseEvent::Reset(reason));
                }
                ResponseState::Head(future) => {
                    if let Poll::Ready(Some(Ok(response))) = future.poll_informational(cx) {
                        let (head, bytes) = response_in(response.status(), response.headers());
                        self.meter.header_received += bytes;
                        self.meter.wire_received += bytes + FRAME;
                        return Poll::Ready(ResponseEvent::Informational(head));
                    }
                    let response = ready!(Pin::new(future).poll(cx));
                    return Poll::Ready(self.take_head(response));
                }
                ResponseState::Body(body) => match ready!(body.poll_data(cx)) {
                    Some(Ok(data)) => {
                        let _ = body.flow_control().release_capacity(data.len());
                        self.meter.wire_received += data.len() as u64 + FRAME;
                        let end = body.is_end_stream();
                        if end {
                            self.response = ResponseState::Complete;
                        }
                        return Poll::Ready(ResponseEvent::Data(data, end.into()));
                    }
                    Some(Err(error)) => return Poll::Ready(self.broken(&error, false)),
                    None => {
                        let state = std::mem::replace(&mut self.response, ResponseState::Complete);
                        if let ResponseState::Body(body) = state {
                            self.response = ResponseState::Trailers(body);
                        }
                    }
                },
                ResponseState::Trailers(body) => {
                    let trailers = ready!(body.poll_trailers(cx));
                    return Poll::Ready(self.take_trailers(trailers));
                }
            }
        }
    }

    /// Breaks the stream off.
    pub fn reset(&mut self) {
        if let Some(send) = &mut self.send {
            send.reset(Reason::CANCEL);
        }
        self.response = ResponseState::Complete;
    }

    /// Bytes of this stream so far.
    pub fn bytes(&self) -> BytesMeter {
        self.meter
    }

    fn take_head(
        &mut self,
        response: Result<http::Response<RecvStream>, h2::Error>,
    ) -> ResponseEvent {
        let response = match response {
            Ok(response) => response,
            Err(error) => return self.broken(&error, true),
        };
        let (parts, body) = response.into_parts();
        let (head, bytes) = response_in(parts.status, &parts.headers);
        self.meter.header_received += bytes;
        self.meter.wire_received += bytes + FRAME;
        if head.fields.len() > self.shared.settings.max_headers_count as usize {
            self.reset();
            let details = Cow::Borrowed("http2.too_many_headers");
            return ResponseEvent::Reset(ResetReason::ProtocolError(details));
        }
        let end = body.is_end_stream();
        self.response = if end {
            ResponseState::Complete
        } else {
            ResponseState::Body(body)
        };
        ResponseEvent::Head(head, end.into())
    }

    fn take_trailers(
        &mut self,
        trailers: Result<Option<http::HeaderMap>, h2::Error>,
    ) -> ResponseEvent {
        match trailers {
            Ok(Some(map)) => {
                self.response = ResponseState::Complete;
                let (trailers, bytes) = trailers_in(&map);
                self.meter.header_received += bytes;
                self.meter.wire_received += bytes + FRAME;
                ResponseEvent::Trailers(trailers)
            }
            Ok(None) => {
                self.response = ResponseState::Complete;
                ResponseEvent::Data(Bytes::new(), EndStream::Yes)
            }
            Err(error) => self.broken(&error, false),
        }
    }

    fn broken(&mut self, error: &h2::Error, before_head: bool) -> ResponseEvent {
        self.response = ResponseState::Complete;
        ResponseEvent::Reset(reset_reason(error, before_head))
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.active.set(shared.active.get().saturating_sub(1));
        if shared.active.get() == 0 && shared.settings.options.connection_keepalive.is_some() {
            shared.idle_since.set(Instant::now());
        }
        shared.wake();
    }
}

fn reset_reason(error: &h2::Error, before_head: bool) -> ResetReason {
    if error.is_reset() && error.is_remote() {
        if error.reason() == Some(Reason::REFUSED_STREAM) {
            ResetReason::RemoteRefusedStream
        } else {
            ResetReason::RemoteReset
        }
    } else if error.is_go_away() && error.is_remote() {
        // A graceful GOAWAY reaches only the streams behind its last one: those were not processed.
        if before_head && error.reason() == Some(Reason::NO_ERROR) {
            ResetReason::RemoteRefusedStream
        } else {
            ResetReason::ConnectionTermination
        }
    } else if error.is_library() && error.reason().is_some() {
        ResetReason::ProtocolError(Cow::Borrowed("http2.violation.of.messaging.rule"))
    } else {
        ResetReason::ConnectionTermination
    }
}
