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
    ClientHttp2Settings, Coalesced, Flusher, Keepalive, SendQueue, coalesce, fields_out,
    request_out, response_in, trailers_in,
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
        let (io, flusher) = coalesce(io);
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
        tokio::task::spawn_local(drive(
            Rc::downgrade(&shared),
            connection,
            flusher,
            keepalive,
        ));
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
    connection: Connection<Coalesced, Bytes>,
    flusher: Flusher,
    mut keepalive: Option<Keepalive>,
) {
    let mut connection = Box::pin(connection);
    let mut allowed = 0;
    poll_fn(|cx| {
        let ended = connection.as_mut().poll(cx).is_ready();
        flusher.poll(cx);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Protocol, ResponseHead};
    use crate::http_connection_manager::codec::h2::{
        Http2ProtocolOptions, Http2Settings, KeepaliveSettings, ServerConnection, ServerHttp2Stream,
    };
    use crate::http_connection_manager::codec::{RequestEvent, ServerStream, StreamReset};
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
            let mut server = ServerConnection::new(Io::from(io), Rc::new(settings), 1 << 16);
            while let Some((head, stream)) = poll_fn(|cx| server.poll_accept(cx)).await {
                let (head, end) = head.unwrap();
                if head.path() == Some(b"/goaway") {
                    server.graceful_shutdown();
                }
                tokio::task::spawn_local(serve(head, end, stream));
            }
        });
    }

    async fn connect(io: DuplexStream) -> ClientConnection {
        let settings = ClientHttp2Settings::default();
        ClientConnection::handshake(Io::from(io), Rc::new(settings))
            .await
            .unwrap()
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
            let client = ClientConnection::handshake(Io::from(near), Rc::new(settings))
                .await
                .unwrap();
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
