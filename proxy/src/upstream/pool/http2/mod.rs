//! An upstream HTTP/2 connection: requests on the streams of [`crate::http2`].
//!
//! Deviations: those of [`crate::http2`].

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::time::Instant;

use super::{ResetReason, ResponseEvent};
use crate::http::{EndStream, Fields, RequestHead};
use crate::http2::driver::{Driver, Link};
use crate::http2::{
    Broken, ClientHttp2Settings, Connection, ConnectionConfig, ErrorCode, Http2CodecStats,
    MetadataMap, Received,
};
use crate::net::Io;
use crate::stream_info::BytesMeter;

/// An upstream HTTP/2 connection, shared by its streams and driven by a local task of its own, which lives until the
/// connection ends. When the last handle is dropped it lets the streams end and closes.
#[derive(Clone)]
pub struct ClientConnection {
    owner: Rc<Owner>,
}

/// Ends the connection when nobody can open streams on it any more.
struct Owner(Rc<Shared>);

struct Shared {
    link: Link,
    settings: Rc<ClientHttp2Settings>,
    /// Streams that the peer is taken to allow before it has said so.
    presumed_limit: u32,
    active: Cell<usize>,
    gone: Cell<bool>,
    /// The last handle was dropped.
    unowned: Cell<bool>,
    /// Since when no stream is open.
    idle_since: Cell<Instant>,
    ping_wanted: Cell<bool>,
    /// Who waits for a place, or for the end.
    waiting: RefCell<Vec<Waker>>,
}

/// One stream of a [`ClientConnection`]; the same methods as an HTTP/1 connection. Dropped before its end it is reset.
pub struct ClientStream {
    shared: Rc<Shared>,
    state: State,
}

/// How far a stream has come.
enum State {
    /// No request yet.
    New,
    /// A stream of this number.
    Open(u32),
    /// Broken before it began, and not yet said.
    Broken(ResetReason),
    /// It never began and never will.
    Over,
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
    /// `presumed_limit`: streams that the peer is taken to allow before its SETTINGS are there.
    pub fn start(
        io: Io,
        settings: Rc<ClientHttp2Settings>,
        stats: Option<Rc<Http2CodecStats>>,
        presumed_limit: u32,
    ) -> Self {
        let now = Instant::now();
        let config = ConnectionConfig::for_client(&settings);
        let connection = Connection::new(config, stats.clone(), now);
        let keepalive = settings.options.connection_keepalive;
        let driver = Driver::new(io, connection, keepalive);
        let shared = Rc::new(Shared {
            link: driver.link().clone(),
            settings,
            presumed_limit,
            active: Cell::new(0),
            gone: Cell::new(false),
            unowned: Cell::new(false),
            idle_since: Cell::new(now),
            ping_wanted: Cell::new(false),
            waiting: RefCell::default(),
        });
        tokio::task::spawn_local(drive(shared.clone(), driver, stats));
        let owner = Rc::new(Owner(shared));
        Self { owner }
    }

    /// Whether a stream may start now.
    pub fn availability(&self) -> Availability {
        let Owner(shared) = &*self.owner;
        if shared.gone.get() || !shared.link.with(|c| c.takes_streams()) {
            Availability::Gone
        } else if shared.active.get() < self.max_concurrent_streams() {
            Availability::Ready
        } else {
            Availability::Full
        }
    }

    /// Streams that may be open at once: the smaller of `max_concurrent_streams` and what the peer allows.
    pub fn max_concurrent_streams(&self) -> usize {
        let Owner(shared) = &*self.owner;
        let configured = shared.settings.options.max_concurrent_streams;
        let by_peer = match self.peer_limit() {
            Some(by_peer) => by_peer,
            None => Some(shared.presumed_limit),
        };
        let max = by_peer.map_or(configured, |by_peer| configured.min(by_peer));
        usize::try_from(max).unwrap_or(usize::MAX)
    }

    /// Streams that the peer allows, or that it allows any number; none before its SETTINGS are there.
    pub fn peer_limit(&self) -> Option<Option<u32>> {
        self.owner.0.link.with(|connection| {
            connection
                .has_peer_settings()
                .then(|| connection.peer_max_concurrent_streams())
        })
    }

    /// Streams that have not ended.
    pub fn active_streams(&self) -> usize {
        self.owner.0.active.get()
    }

    /// Ready when a stream may start, or with an error when none ever will.
    pub fn poll_ready_for_stream(&self, cx: &mut Context<'_>) -> Poll<Result<(), ResetReason>> {
        match self.availability() {
            Availability::Ready => Poll::Ready(Ok(())),
            Availability::Gone => Poll::Ready(Err(ResetReason::ConnectionTermination)),
            Availability::Full => {
                self.owner.0.wait(cx);
                Poll::Pending
            }
        }
    }

    /// A new stream. It counts from now on; nothing is sent before its `send_head`.
    pub fn new_stream(&self) -> ClientStream {
        let Owner(shared) = &*self.owner;
        let keepalive = shared.settings.options.connection_keepalive;
        if shared.active.get() == 0
            && let Some(longest) = keepalive.and_then(|k| k.connection_idle_interval)
            && shared.idle_since.get().elapsed() >= longest
        {
            shared.ping_wanted.set(true);
            shared.link.wake_driver();
        }
        shared.active.set(shared.active.get() + 1);
        ClientStream {
            shared: shared.clone(),
            state: State::New,
        }
    }

    /// Ready when the connection can take no new stream any more: GOAWAY, an error, or the end.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Owner(shared) = &*self.owner;
        if shared.gone.get() {
            return Poll::Ready(());
        }
        shared.wait(cx);
        Poll::Pending
    }

    /// Takes no new streams, and closes when those in flight have ended and the handles are dropped.
    pub fn drain(&self) {
        self.owner.0.end();
    }

    /// Whether what the peer sent has broken the connection.
    pub fn has_failed(&self) -> bool {
        self.owner.0.link.with(|c| c.has_failed())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.unowned.set(true);
        self.0.link.wake_driver();
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
async fn drive(shared: Rc<Shared>, mut driver: Driver, stats: Option<Rc<Http2CodecStats>>) {
    let mut settings = (false, None);
    poll_fn(|cx| {
        if shared.ping_wanted.take() {
            driver.ping();
        }
        let ended = driver.poll(cx).is_ready();
        let (takes_streams, of_peer, is_quiet) = shared.link.with(|connection| {
            let is_quiet = connection.open_streams() == 0 && !connection.has_output();
            let allowed = connection.peer_max_concurrent_streams();
            let of_peer = (connection.has_peer_settings(), allowed);
            (connection.takes_streams(), of_peer, is_quiet)
        });
        if ended || !takes_streams {
            shared.end();
        }
        if std::mem::replace(&mut settings, of_peer) != of_peer {
            shared.wake();
        }
        if ended || is_quiet && shared.unowned.get() && shared.active.get() == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    if driver.keepalive_failed()
        && let Some(stats) = stats
    {
        stats.keepalive_timeout().inc();
    }
    driver.shut_down().await;
}

impl ClientStream {
    /// Begins the request.
    pub fn send_head(&mut self, head: &RequestHead, end: EndStream) {
        let id = self.shared.link.with(|c| c.send_request(head, end));
        self.state = match id {
            Some(id) => State::Open(id),
            // It went between the choice of the connection and now: nobody has seen the request.
            None => State::Broken(ResetReason::RemoteRefusedStream),
        };
    }

    /// Sends a piece of the body.
    pub fn send_data(&mut self, data: Bytes, end: EndStream) {
        if let State::Open(id) = self.state {
            self.shared.link.with(|c| c.send_data(id, data, end));
        }
    }

    /// Sends the trailers and ends the request.
    pub fn send_trailers(&mut self, trailers: &Fields) {
        if let State::Open(id) = self.state {
            self.shared.link.with(|c| c.send_trailers(id, trailers));
        }
    }

    /// Sends metadata beside the request.
    pub fn send_metadata(&mut self, map: &MetadataMap) {
        if let State::Open(id) = self.state {
            self.shared.link.with(|c| c.send_metadata(id, map));
        }
    }

    /// Ready when less than the buffer limit remains to be sent.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.shared.settings.buffer_limit;
        self.poll_sent(limit, cx)
    }

    /// Bytes of bodies that could not be sent yet, and that nobody has asked for.
    pub fn held(&self) -> usize {
        match self.state {
            State::Open(id) => self.shared.link.with(|c| c.held(id)),
            State::New | State::Broken(_) | State::Over => 0,
        }
    }

    /// Ready when nothing remains to be sent.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_sent(0, cx)
    }

    fn poll_sent(&mut self, limit: usize, cx: &mut Context<'_>) -> Poll<()> {
        match self.state {
            State::Open(id) => self.shared.link.with(|c| c.poll_sent(id, limit, cx)),
            _ => Poll::Ready(()),
        }
    }

    /// The next event of the response. While the caller does not ask, the peer's window stays closed. After the end it
    /// stays pending.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<ResponseEvent> {
        let id = match &mut self.state {
            State::New | State::Over => return Poll::Pending,
            State::Broken(reason) => {
                let reason = reason.clone();
                self.state = State::Over;
                return Poll::Ready(ResponseEvent::Reset(reason));
            }
            State::Open(id) => *id,
        };
        let received = self.shared.link.with(|c| c.poll_received(id, cx));
        received.map(|received| match received {
            Received::Informational(head) => ResponseEvent::Informational(head),
            Received::Head(head, end) => ResponseEvent::Head(head, end),
            Received::Data(data, end) => ResponseEvent::Data(data, end),
            Received::Trailers(trailers) => ResponseEvent::Trailers(trailers),
            Received::Metadata(map) => ResponseEvent::Metadata(map),
            Received::Broken(broken) => ResponseEvent::Reset(reset_reason(broken)),
        })
    }

    /// Breaks the stream off.
    pub fn reset(&mut self) {
        if let State::Open(id) = self.state {
            self.shared.link.with(|c| c.reset(id, ErrorCode::CANCEL));
        }
    }

    /// Bytes of this stream so far.
    pub fn bytes(&self) -> BytesMeter {
        match self.state {
            State::Open(id) => self.shared.link.with(|c| c.meter(id)),
            _ => BytesMeter::default(),
        }
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        let shared = &self.shared;
        if let State::Open(id) = self.state {
            shared.link.with(|c| c.release(id));
        }
        shared.active.set(shared.active.get().saturating_sub(1));
        if shared.active.get() == 0 {
            if shared.settings.options.connection_keepalive.is_some() {
                shared.idle_since.set(Instant::now());
            }
            if shared.unowned.get() {
                shared.link.wake_driver();
            }
        }
        shared.wake();
    }
}

fn reset_reason(broken: Broken) -> ResetReason {
    match broken {
        Broken::Remote(ErrorCode::PROTOCOL_ERROR) => {
            ResetReason::ProtocolError(Cow::Borrowed("http2.remote_reset"))
        }
        Broken::Remote(_) => ResetReason::RemoteReset,
        Broken::Refused => ResetReason::RemoteRefusedStream,
        Broken::Malformed(details) | Broken::ConnectionError(details) => {
            ResetReason::ProtocolError(Cow::Borrowed(details))
        }
        Broken::ConnectionEnded | Broken::Unanswered | Broken::Forced => {
            ResetReason::ConnectionTermination
        }
    }
}
