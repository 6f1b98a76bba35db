//! An upstream HTTP/2 connection: requests on the streams of [`crate::http2`].
//!
//! Deviations: those of [`crate::http2`].

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Protocol, ResponseHead};
    use crate::http_connection_manager::codec::h2::{ServerConnection, ServerHttp2Stream};
    use crate::http_connection_manager::codec::{RequestEvent, ServerStream, StreamReset};
    use crate::http2::{Http2ProtocolOptions, Http2Settings, KeepaliveSettings};
    use std::future::Future;
    use std::time::Duration;
    use tokio::io::DuplexStream;
    use tokio::task::LocalSet;

    fn request(method: &str) -> RequestHead {
        let mut head = RequestHead::new(Protocol::Http11, method.as_bytes());
        head.set_path(b"/x?y");
        head.set_authority(b"a");
        head.set_scheme(b"http");
        head.fields.append("x-a", "1");
        head
    }

    fn pipe() -> (DuplexStream, DuplexStream) {
        tokio::io::duplex(1 << 20)
    }

    /// A server that hands each of its streams to `serve`.
    fn serve<F: Future<Output = ()> + 'static>(
        io: DuplexStream,
        settings: Http2Settings,
        serve: impl Fn(RequestHead, EndStream, ServerHttp2Stream) -> F + 'static,
    ) {
        tokio::task::spawn_local(async move {
            let mut server = ServerConnection::new(Io::from(io), &settings, 1 << 16, None);
            while let Some((head, stream)) = poll_fn(|cx| server.poll_accept(cx)).await {
                let (head, end) = head.unwrap();
                if head.path() == Some(b"/goaway") {
                    server.graceful_shutdown(Duration::ZERO);
                }
                tokio::task::spawn_local(serve(head, end, stream));
            }
        });
    }

    async fn connect(io: DuplexStream) -> ClientConnection {
        let settings = ClientHttp2Settings::default();
        ClientConnection::start(Io::from(io), Rc::new(settings), None, 100)
    }

    async fn event(stream: &mut ClientStream) -> ResponseEvent {
        poll_fn(|cx| stream.poll_event(cx)).await
    }

    #[tokio::test]
    async fn messages_pass_both_ways_with_1xx_and_trailers() {
        let body = async {
            let (near, far) = pipe();
            serve(
                far,
                Http2Settings::default(),
                |head, end, mut stream| async move {
                    assert_eq!(head.path(), Some(&b"/x?y"[..]));
                    assert_eq!(head.authority(), Some(&b"a"[..]));
                    assert_eq!(head.scheme(), Some(&b"http"[..]));
                    assert_eq!(head.fields.get("x-a"), Some(&b"1"[..]));
                    assert_eq!(end, EndStream::No);
                    stream.send_informational(&ResponseHead::new(103));
                    let mut body = Vec::new();
                    let trailers = loop {
                        match poll_fn(|cx| stream.poll_event(cx)).await {
                            RequestEvent::Data(data, EndStream::No) => {
                                body.extend_from_slice(&data)
                            }
                            RequestEvent::Trailers(trailers) => break trailers,
                            other => panic!("{other:?}"),
                        }
                    };
                    stream.send_head(&ResponseHead::new(200), EndStream::No);
                    stream.send_data(Bytes::from(body), EndStream::No);
                    stream.send_trailers(&trailers);
                    poll_fn(|cx| stream.poll_flush(cx)).await;
                },
            );
            let client = connect(near).await;
            let mut stream = client.new_stream();
            assert_eq!(client.active_streams(), 1);
            stream.send_head(&request("POST"), EndStream::No);
            let sent = vec![b'x'; 300_000];
            stream.send_data(Bytes::from(sent.clone()), EndStream::No);
            let mut trailers = Fields::new();
            trailers.append("t", "v");
            stream.send_trailers(&trailers);
            poll_fn(|cx| stream.poll_flush(cx)).await;
            let first = event(&mut stream).await;
            assert!(matches!(first, ResponseEvent::Informational(head) if head.status == 103));
            let second = event(&mut stream).await;
            assert!(
                matches!(second, ResponseEvent::Head(head, EndStream::No) if head.status == 200)
            );
            let mut got = Vec::new();
            let trailers = loop {
                match event(&mut stream).await {
                    ResponseEvent::Data(data, EndStream::No) => got.extend_from_slice(&data),
                    ResponseEvent::Trailers(trailers) => break trailers,
                    other => panic!("{other:?}"),
                }
            };
            assert!(got == sent);
            assert_eq!(trailers.get("t"), Some(&b"v"[..]));
            drop(stream);
            assert_eq!(client.active_streams(), 0);
            assert_eq!(client.availability(), Availability::Ready);
        };
        LocalSet::new().run_until(body).await;
    }

    #[tokio::test]
    async fn a_reset_reaches_the_other_side() {
        let body = async {
            let (near, far) = pipe();
            let (seen, mut seen_there) = tokio::sync::mpsc::channel(1);
            serve(far, Http2Settings::default(), move |head, _, mut stream| {
                let seen = seen.clone();
                async move {
                    if head.method_bytes() == b"GET" {
                        stream.reset(StreamReset::LocalReset);
                    } else {
                        let event = poll_fn(|cx| stream.poll_event(cx)).await;
                        seen.send(format!("{event:?}")).await.unwrap();
                    }
                }
            });
            let client = connect(near).await;
            let mut stream = client.new_stream();
            stream.send_head(&request("GET"), EndStream::Yes);
            let got = event(&mut stream).await;
            assert!(matches!(
                got,
                ResponseEvent::Reset(ResetReason::RemoteReset)
            ));
            let mut stream = client.new_stream();
            stream.send_head(&request("POST"), EndStream::No);
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            stream.reset();
            drop(stream);
            assert_eq!(seen_there.recv().await.unwrap(), "Reset(RemoteReset)");
            assert_eq!(client.availability(), Availability::Ready);
        };
        LocalSet::new().run_until(body).await;
    }

    #[tokio::test]
    async fn a_goaway_lets_streams_end_and_takes_no_new_ones() {
        let body = async {
            let (near, far) = pipe();
            serve(
                far,
                Http2Settings::default(),
                |_, _, mut stream| async move {
                    stream.send_head(&ResponseHead::new(200), EndStream::Yes);
                },
            );
            let client = connect(near).await;
            let mut stream = client.new_stream();
            let mut head = request("GET");
            head.set_path(b"/goaway");
            stream.send_head(&head, EndStream::Yes);
            let got = event(&mut stream).await;
            assert!(matches!(got, ResponseEvent::Head(head, EndStream::Yes) if head.status == 200));
            poll_fn(|cx| client.poll_gone(cx)).await;
            assert_eq!(client.availability(), Availability::Gone);
            let refused = poll_fn(|cx| client.poll_ready_for_stream(cx)).await;
            assert!(refused.is_err());
        };
        LocalSet::new().run_until(body).await;
    }

    #[tokio::test]
    async fn the_limit_of_the_peer_is_seen_and_a_place_is_waited_for() {
        let body = async {
            let (near, far) = pipe();
            let settings = Http2Settings {
                options: Http2ProtocolOptions {
                    max_concurrent_streams: 1,
                    ..Http2ProtocolOptions::default()
                },
                ..Http2Settings::default()
            };
            serve(far, settings, |_, _, mut stream| async move {
                stream.send_head(&ResponseHead::new(200), EndStream::Yes);
            });
            let client = connect(near).await;
            let mut stream = client.new_stream();
            stream.send_head(&request("GET"), EndStream::Yes);
            event(&mut stream).await;
            assert_eq!(client.max_concurrent_streams(), 1);
            assert_eq!(client.availability(), Availability::Full);
            let waited = poll_fn(|cx| client.poll_ready_for_stream(cx));
            let (ready, ()) = tokio::join!(waited, async {
                tokio::task::yield_now().await;
                drop(stream);
            });
            assert!(ready.is_ok());
        };
        LocalSet::new().run_until(body).await;
    }

    #[tokio::test]
    async fn a_connection_that_ends_breaks_its_streams() {
        let body = async {
            let (near, far) = pipe();
            let client = connect(near).await;
            let mut stream = client.new_stream();
            stream.send_head(&request("GET"), EndStream::Yes);
            tokio::task::yield_now().await;
            drop(far);
            let got = event(&mut stream).await;
            assert!(
                matches!(
                    got,
                    ResponseEvent::Reset(ResetReason::ConnectionTermination)
                ),
                "{got:?}"
            );
            poll_fn(|cx| client.poll_gone(cx)).await;
        };
        LocalSet::new().run_until(body).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_without_answer_ends_the_connection() {
        let body = async {
            // The far end holds the pipe open and says nothing.
            let (near, _far) = pipe();
            let settings = ClientHttp2Settings {
                options: Http2ProtocolOptions {
                    connection_keepalive: Some(KeepaliveSettings {
                        interval: Some(Duration::from_secs(10)),
                        timeout: Duration::from_secs(5),
                        interval_jitter: 0.0,
                        connection_idle_interval: None,
                    }),
                    ..Http2ProtocolOptions::default()
                },
                ..ClientHttp2Settings::default()
            };
            let start = Instant::now();
            let client = ClientConnection::start(Io::from(near), Rc::new(settings), None, 100);
            let mut stream = client.new_stream();
            stream.send_head(&request("GET"), EndStream::Yes);
            let got = event(&mut stream).await;
            assert!(matches!(got, ResponseEvent::Reset(_)));
            assert_eq!(start.elapsed().as_secs(), 15);
            poll_fn(|cx| client.poll_gone(cx)).await;
        };
        LocalSet::new().run_until(body).await;
    }

    #[tokio::test]
    async fn a_slow_reader_stops_the_sender() {
        let body = async {
            let (near, far) = pipe();
            let settings = Http2Settings {
                options: Http2ProtocolOptions {
                    initial_stream_window_size: 65_535,
                    ..Http2ProtocolOptions::default()
                },
                ..Http2Settings::default()
            };
            serve(far, settings, |_, _, mut stream| async move {
                let mut read = 0;
                while read < 3_000_000 {
                    for _ in 0..3 {
                        tokio::task::yield_now().await;
                    }
                    if let RequestEvent::Data(data, _) = poll_fn(|cx| stream.poll_event(cx)).await {
                        read += data.len();
                    }
                }
                stream.send_head(&ResponseHead::new(200), EndStream::Yes);
            });
            let client = connect(near).await;
            let mut stream = client.new_stream();
            stream.send_head(&request("POST"), EndStream::No);
            stream.send_data(Bytes::from(vec![0; 3_000_000]), EndStream::Yes);
            poll_fn(|cx| {
                assert!(stream.poll_ready(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            poll_fn(|cx| stream.poll_flush(cx)).await;
            let got = event(&mut stream).await;
            assert!(matches!(got, ResponseEvent::Head(head, _) if head.status == 200));
        };
        LocalSet::new().run_until(body).await;
    }
}
