//! A downstream connection: its codec, its streams one after another or side by side, and its end.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};

use super::codec::h1::{HeadError, Next, ServerConnection as Http1Connection};
use super::codec::h2::{AcceptedStream, ServerConnection as Http2Connection};
use super::codec::ProtocolError;
use super::codec::upgrade::request_from_http2;
use super::config::Timeouts;
use super::manager::Hcm;
use super::premature_resets::EndedStreams;
use super::stream::{HeadTimeout, Stream};
use super::timer::{Timer, nearer};
use crate::http::Protocol;
use crate::http2::driver::STREAMS_PER_TURN;
use crate::http_filters::LocalBoxFuture;
use crate::net::Io;
use crate::network_filters::{Connection, DrainSignal};
use crate::overload::{LoadShedPoint, ScaledTimer};
use crate::stream_info::{ConnectionInfo, StreamInfo};
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::CodecType;

/// Serves a connection to its end. What waits with an idle connection is small: there are many of them.
pub(super) fn serve(hcm: Rc<Hcm>, connection: Connection) -> LocalBoxFuture<'static, ()> {
    let Connection {
        io,
        info,
        drain,
        buffer_limit,
        worker: _,
    } = connection;
    let codec = hcm.config.codec_type;
    let shed = &hcm.worker.server.overload.load_shed;
    let sniffs = codec == CodecType::Auto || shed.is_there(LoadShedPoint::CreateCodec);
    let context = ConnectionContext {
        active: ActiveConnection::new(&hcm, &info),
        expires: expires(&hcm, &info),
        hcm,
        info,
        drain,
        buffer_limit,
    };
    if sniffs {
        let sniffed = Box::pin(serve_sniffed(context, io));
        // What serves the connection takes the place of what has looked at it.
        return Box::pin(async move {
            if let Some(served) = sniffed.await {
                served.await;
            }
        });
    }
    let protocol = match codec {
        CodecType::Http2 => Protocol::Http2,
        CodecType::Auto | CodecType::Http1 | CodecType::Http3 => Protocol::Http11,
    };
    serve_as(protocol, context, io)
}

/// What serves a connection once its first bytes are there. None: they never came, or there is too much to do.
async fn serve_sniffed(context: ConnectionContext, io: Io) -> Option<LocalBoxFuture<'static, ()>> {
    let hcm = &context.hcm;
    let Some((io, found)) = sniff(io, &context.info, hcm.config.timeouts.idle).await else {
        context.active.closed_by_peer();
        return None;
    };
    if sheds(hcm, &context.info, LoadShedPoint::CreateCodec) {
        hcm.config.stats.downstream_rq_overload_close().inc();
        return None;
    }
    let protocol = match hcm.config.codec_type {
        CodecType::Http2 => Protocol::Http2,
        CodecType::Http1 => Protocol::Http11,
        CodecType::Auto | CodecType::Http3 => found,
    };
    Some(serve_as(protocol, context, io))
}

fn serve_as(protocol: Protocol, context: ConnectionContext, io: Io) -> LocalBoxFuture<'static, ()> {
    let of_protocol = ProtocolGuard::new(&context.hcm, protocol);
    if protocol == Protocol::Http2 {
        Box::pin(serve_http2(context, io, of_protocol))
    } else {
        Box::pin(serve_http1(context, io, of_protocol))
    }
}

/// Whether the overload manager turns something away here.
#[inline]
fn sheds(hcm: &Hcm, info: &ConnectionInfo, point: LoadShedPoint) -> bool {
    let worker = &hcm.worker;
    let shed = &worker.server.overload.load_shed;
    shed.sheds(point, || worker.random.next()) && !info.listener.bypass_overload_manager
}

/// What the streams of a connection share.
struct ConnectionContext {
    hcm: Rc<Hcm>,
    info: Rc<ConnectionInfo>,
    drain: Rc<dyn DrainSignal>,
    buffer_limit: usize,
    expires: Option<Age>,
    active: ActiveConnection,
}

/// How old a connection may become: `max_connection_duration`, with its jitter.
#[derive(Debug, Clone, Copy)]
struct Age {
    start: Instant,
    most: Duration,
}

impl Age {
    /// When the connection is old enough, as it is at the moment.
    fn end(self, hcm: &Hcm) -> Instant {
        let overload = &hcm.worker.server.overload;
        overload.end(ScaledTimer::ConnectionMax, self.most, self.start)
    }
}

/// When a connection without streams was so for too long, as it is at the moment.
fn idle_end(hcm: &Hcm, since: Instant) -> Option<Instant> {
    let idle = hcm.config.timeouts.idle?;
    let overload = &hcm.worker.server.overload;
    Some(overload.end(ScaledTimer::ConnectionIdle, idle, since))
}

/// When to look at those two.
fn next_look(hcm: &Hcm, idle: Option<Instant>, max: Option<Instant>) -> Option<Instant> {
    let overload = &hcm.worker.server.overload;
    nearer(
        idle.map(|end| overload.look_at(ScaledTimer::ConnectionIdle, end)),
        max.map(|end| overload.look_at(ScaledTimer::ConnectionMax, end)),
    )
}

fn expires(hcm: &Hcm, info: &ConnectionInfo) -> Option<Age> {
    let timeouts = &hcm.config.timeouts;
    let duration = timeouts.max_connection_duration?;
    let longest = duration.mul_f64(timeouts.max_connection_duration_jitter);
    let jitter = match u64::try_from(longest.as_nanos()) {
        Ok(0) | Err(_) => Duration::ZERO,
        Ok(nanos) => Duration::from_nanos(hcm.worker.random.next() % nanos),
    };
    Some(Age {
        start: info.start,
        most: duration + jitter,
    })
}

/// Why a connection without streams is given up.
#[allow(
    clippy::large_enum_variant,
    reason = "one lives on the stack for a moment; a box would cost each request an allocation"
)]
enum Rest {
    /// A request came.
    Request(Result<Option<(crate::http::RequestHead, crate::http::EndStream)>, HeadError>),
    /// Nothing came for too long.
    IdleTimeout,
    /// The connection is old enough.
    MaxDuration,
    /// The head of a request did not come to its end.
    HeadersTimeout(HeadTimeout),
    /// The listener drains.
    Drain,
}

/// The future holds what it is given as it is: a connection at rest has no room for copies.
fn serve_http1(
    context: ConnectionContext,
    io: Io,
    of_protocol: ProtocolGuard,
) -> impl Future<Output = ()> {
    let hcm = &context.hcm;
    let mut codec = Http1Connection::new(io, hcm.http1.clone(), context.buffer_limit)
        .with_stats(hcm.http1_stats());
    let mut timer = hcm.timers.take();
    let mut draining = None;
    let mut requests = 0u32;
    async move {
        let active = &context.active;
        let mut ended_early;
        let is_gone = loop {
            ended_early = false;
            let mut request = RequestWait {
                context: &context,
                codec: &mut codec,
                timer: &mut timer,
                between: (requests > 0).then_some(&mut draining),
                since: None,
                head_since: None,
            };
            let rest = poll_fn(|cx| request.poll(cx)).await;
            let close = match begin_http1(&context, &mut codec, rest, &mut requests) {
                Begun::Stream(mut stream, is_refused) => {
                    poll_fn(|cx| stream.poll(cx, &mut timer)).await;
                    ended_early = is_refused || stream.has_ended_early();
                    let stats = &context.hcm.config.stats;
                    if is_refused {
                        stats.downstream_rq_response_before_rq_complete().inc();
                        stats.downstream_rq_rx_reset().inc();
                    } else if stream.client_is_gone() {
                        active.closed_by_peer();
                        active.ends_under_request();
                    }
                    stream.closes_connection()
                }
                Begun::Close => break false,
                Begun::Gone(under_request) => {
                    if under_request {
                        active.ends_under_request();
                    }
                    active.closed_by_peer();
                    break true;
                }
            };
            if codec.finish_stream() == Next::Close || close {
                break false;
            }
        };
        let hcm = &context.hcm;
        if !is_gone {
            let closing = close_http1(hcm, &mut codec, &mut timer, ended_early, active);
            Box::pin(closing).await;
        }
        hcm.timers.put(timer);
        drop(codec);
        drop(of_protocol);
    }
}

/// What came of the wait for a request.
enum Begun<'a> {
    /// A stream, begun; and whether the codec refused its request.
    Stream(Box<Stream<&'a mut Http1Connection>>, bool),
    /// The connection has to end.
    Close,
    /// The client has ended it; within the head of a request or not.
    Gone(bool),
}

/// Begins a stream, which the future of the connection holds as a pointer: while it waits for a request it is small.
fn begin_http1<'a>(
    context: &ConnectionContext,
    codec: &'a mut Http1Connection,
    rest: Rest,
    requests: &mut u32,
) -> Begun<'a> {
    let ConnectionContext {
        hcm,
        info,
        drain,
        buffer_limit,
        expires: _,
        active: _,
    } = context;
    let stats = &hcm.config.stats;
    let stream = |codec: &'a mut Http1Connection, head: Option<crate::http::RequestHead>| {
        let head = head.unwrap_or_else(|| crate::http::RequestHead::new(Protocol::Http11, b""));
        let stream_info = begin_stream(hcm, info, head.version);
        Box::new(Stream::new(
            hcm.clone(),
            codec,
            stream_info,
            head,
            *buffer_limit,
        ))
    };
    match rest {
        Rest::Request(Ok(Some(_))) if sheds(hcm, info, LoadShedPoint::Http1Abort) => {
            *requests += 1;
            stats.downstream_rq_overload_close().inc();
            codec.close_after_response();
            let mut stream = stream(codec, None);
            stream.start_refused(&ProtocolError {
                status: 500,
                body: "Internal Server Error".into(),
                details: "overload".into(),
            });
            Begun::Stream(stream, false)
        }
        Rest::Request(Ok(Some((head, end)))) => {
            *requests += 1;
            let mut close = hcm
                .config
                .max_requests_per_connection
                .is_some_and(|max| *requests >= max);
            if close {
                stats.downstream_cx_max_requests_reached().inc();
            }
            if drain.is_draining() {
                stats.downstream_cx_drain_close().inc();
                close = true;
            }
            if close {
                codec.close_after_response();
            }
            let mut stream = stream(codec, Some(head));
            stream.set_close_connection(close, drain);
            stream.start(end);
            Begun::Stream(stream, false)
        }
        Rest::Request(Err(HeadError::Protocol(error, head))) => {
            *requests += 1;
            stats.downstream_cx_protocol_error().inc();
            codec.close_after_response();
            let mut stream = stream(codec, head);
            stream.start_refused(&error);
            Begun::Stream(stream, true)
        }
        Rest::HeadersTimeout(timeout) => {
            match timeout {
                HeadTimeout::Headers => stats.downstream_rq_header_timeout().inc(),
                HeadTimeout::Request => stats.downstream_rq_timeout().inc(),
                HeadTimeout::Idle => stats.downstream_rq_idle_timeout().inc(),
                HeadTimeout::MaxDuration => stats.downstream_rq_max_duration_reached().inc(),
            }
            codec.close_after_response();
            let mut stream = stream(codec, None);
            stream.start_headers_timeout(timeout);
            Begun::Stream(stream, false)
        }
        Rest::IdleTimeout => {
            stats.downstream_cx_idle_timeout().inc();
            Begun::Close
        }
        Rest::MaxDuration => {
            stats.downstream_cx_max_duration_reached().inc();
            Begun::Close
        }
        Rest::Drain => {
            stats.downstream_cx_drain_close().inc();
            Begun::Close
        }
        Rest::Request(Err(HeadError::Closed)) => {
            stream(codec, None).start_gone();
            Begun::Gone(true)
        }
        Rest::Request(Ok(None)) => Begun::Gone(false),
    }
}

/// Waits for the head of the next request, or for a reason to end the connection.
struct RequestWait<'a> {
    context: &'a ConnectionContext,
    codec: &'a mut Http1Connection,
    timer: &'a mut Timer,
    /// Between requests, draining is a reason: this keeps what waits for it, as long as the connection lives.
    between: Option<&'a mut Option<LocalBoxFuture<'static, ()>>>,
    since: Option<Instant>,
    head_since: Option<Instant>,
}

impl RequestWait<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Rest> {
        let ConnectionContext { hcm, drain, .. } = self.context;
        let timeouts = &hcm.config.timeouts;
        if let Poll::Ready(request) = self.codec.poll_head(cx) {
            return Poll::Ready(Rest::Request(request));
        }
        let now = *self.since.get_or_insert_with(Instant::now);
        if self.codec.has_partial_head() {
            self.head_since.get_or_insert_with(Instant::now);
        } else {
            self.codec.give_back_buffers();
            if let Some(draining) = &mut self.between {
                // The next response tells the client if only that: a request may be under way to us.
                let signal = draining.get_or_insert_with(|| drain.closing());
                if signal.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Rest::Drain);
                }
            }
        }
        let head = self
            .head_since
            .and_then(|since| head_deadline(timeouts, since));
        let head_end = head.map(|(deadline, _)| deadline);
        loop {
            let idle = idle_end(hcm, now).filter(|_| self.head_since.is_none());
            let max = self.context.expires.map(|age| age.end(hcm));
            let next = nearer(next_look(hcm, idle, max), head_end);
            if !self.timer.poll(next, cx) {
                return Poll::Pending;
            }
            let now = Instant::now();
            let passed = |deadline: Option<Instant>| deadline.is_some_and(|d| d <= now);
            if let Some((_, timeout)) = head.filter(|(deadline, _)| *deadline <= now) {
                return Poll::Ready(Rest::HeadersTimeout(timeout));
            } else if passed(max) {
                return Poll::Ready(Rest::MaxDuration);
            } else if passed(idle) {
                return Poll::Ready(Rest::IdleTimeout);
            }
        }
    }
}

/// When a head that began at `since` has to be there, and by which of the timeouts.
fn head_deadline(timeouts: &Timeouts, since: Instant) -> Option<(Instant, HeadTimeout)> {
    [
        (timeouts.request_headers, HeadTimeout::Headers),
        (timeouts.request, HeadTimeout::Request),
        (timeouts.stream_idle, HeadTimeout::Idle),
        (timeouts.max_stream_duration, HeadTimeout::MaxDuration),
    ]
    .into_iter()
    .filter_map(|(duration, timeout)| Some((since + duration?, timeout)))
    .min_by_key(|(deadline, _)| *deadline)
}

/// Ends the connection. A client that was answered before it had sent its request gets the chance to close first, so that
/// what it still sends does not make the kernel throw the answer away.
async fn close_http1(
    hcm: &Rc<Hcm>,
    codec: &mut Http1Connection,
    timer: &mut Timer,
    ended_early: bool,
    active: &ActiveConnection,
) {
    let Some(wait) = hcm.config.timeouts.delayed_close else {
        return;
    };
    let mut until = None;
    let closed = poll_fn(|cx| {
        let closed = match ended_early {
            true => codec.poll_wait_for_close(cx),
            false => codec.poll_close(cx),
        };
        if closed.is_ready() {
            return Poll::Ready(true);
        }
        let until = *until.get_or_insert_with(|| Instant::now() + wait);
        match timer.poll(Some(until), cx) {
            true => Poll::Ready(false),
            false => Poll::Pending,
        }
    })
    .await;
    match (ended_early, closed) {
        (false, _) => {}
        (true, true) => active.closed_by_peer(),
        (true, false) => hcm.config.stats.downstream_cx_delayed_close_timeout().inc(),
    }
}

/// The future holds what it is given as it is: a connection at rest has no room for copies.
fn serve_http2(
    context: ConnectionContext,
    io: Io,
    of_protocol: ProtocolGuard,
) -> impl Future<Output = ()> {
    let ConnectionContext {
        hcm,
        drain,
        buffer_limit,
        ..
    } = &context;
    let stats = Some(hcm.http2_stats());
    let mut server = Http2Server {
        codec: Http2Connection::new(io, &hcm.http2, *buffer_limit, stats),
        timer: Timer::default(),
        draining: Some(drain.draining()),
        idle_since: Instant::now(),
        streams: 0,
        of_cycle: 0,
        ended: Rc::default(),
        context,
    };
    async move {
        if poll_fn(|cx| server.poll(cx)).await == Ended::Waits {
            let Http2Server { context, codec, .. } = &mut server;
            Box::pin(close_http2(&context.hcm, codec, &context.active)).await;
        }
        drop(of_protocol);
    }
}

/// A connection of HTTP/2, as its task knows it.
struct Http2Server {
    codec: Http2Connection,
    context: ConnectionContext,
    timer: Timer,
    draining: Option<LocalBoxFuture<'static, ()>>,
    idle_since: Instant,
    /// Streams so far.
    streams: u32,
    /// Streams that were begun since the connection has last waited.
    of_cycle: u64,
    ended: Rc<EndedStreams>,
}

/// How a connection of HTTP/2 goes on after its last stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Not at all.
    AtOnce,
    /// It waits for the client, if we have ended it.
    Waits,
}

impl Http2Server {
    /// Serves the connection. Ready when it has no streams and will have none.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            let next = ready!(self.poll_next(cx));
            let ConnectionContext { hcm, active, .. } = &self.context;
            let config = &hcm.config;
            let drain_timeout = config.timeouts.drain;
            let codec = &mut self.codec;
            match next {
                Accepted::Stream(None) => {
                    if codec.active_streams() > 0 {
                        active.ends_under_request();
                    }
                    return Poll::Ready(Ended::Waits);
                }
                Accepted::Stream(Some(stream)) => {
                    self.streams += 1;
                    self.of_cycle += 1;
                    if sheds(hcm, &self.context.info, LoadShedPoint::Http2GoAway) {
                        codec.announce_goaway();
                    }
                    spawn_http2_stream(&self.context, stream, &self.ended);
                    let max = config.max_requests_per_connection;
                    if max.is_some_and(|limit| self.streams == limit) {
                        config.stats.downstream_cx_max_requests_reached().inc();
                        codec.graceful_shutdown(drain_timeout);
                    }
                }
                Accepted::TooManyResets => {
                    config.stats.downstream_cx_protocol_error().inc();
                    abort_http2(hcm, codec, active);
                    return Poll::Ready(Ended::AtOnce);
                }
                Accepted::Drain => {
                    config.stats.downstream_cx_drain_close().inc();
                    codec.graceful_shutdown(drain_timeout);
                }
                Accepted::Overloaded => codec.graceful_shutdown(drain_timeout),
                Accepted::Deadline => self.deadline(),
            }
        }
    }

    /// One of the deadlines has passed.
    fn deadline(&mut self) {
        let ConnectionContext { hcm, expires, .. } = &self.context;
        let (stats, now) = (&hcm.config.stats, Instant::now());
        let drain_timeout = hcm.config.timeouts.drain;
        if expires.is_some_and(|age| age.end(hcm) <= now) {
            stats.downstream_cx_max_duration_reached().inc();
            self.draining = None;
            return self.codec.graceful_shutdown(drain_timeout);
        }
        if self.codec.active_streams() == 0 {
            if idle_end(hcm, self.idle_since).is_none_or(|end| end > now) {
                // It was only looked at.
                return;
            }
            stats.downstream_cx_idle_timeout().inc();
            self.codec.graceful_shutdown(drain_timeout);
        }
        self.idle_since = now;
    }

    /// Waits for the next stream, or for a reason to have no more.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Accepted> {
        let ConnectionContext { hcm, expires, .. } = &self.context;
        if self.ended.poll_too_many(cx).is_ready() {
            return Poll::Ready(Accepted::TooManyResets);
        }
        let per_cycle = hcm.max_requests_per_io_cycle.get();
        if self.of_cycle >= per_cycle.min(STREAMS_PER_TURN as u64) {
            // The streams that were begun, and other connections, come first.
            self.of_cycle = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Poll::Ready(accepted) = self.codec.poll_accept(cx) {
            return Poll::Ready(Accepted::Stream(accepted));
        }
        self.of_cycle = 0;
        let draining = self.draining.as_mut();
        if draining.is_some_and(|signal| signal.as_mut().poll(cx).is_ready()) {
            self.draining = None;
            return Poll::Ready(Accepted::Drain);
        }
        if self.codec.active_streams() > 0 {
            self.idle_since = Instant::now();
        }
        if self.ended.take_drain() {
            return Poll::Ready(Accepted::Overloaded);
        }
        let idle = idle_end(hcm, self.idle_since);
        let max = expires.filter(|_| self.draining.is_some());
        let max = max.map(|age| age.end(hcm));
        if self.timer.poll(next_look(hcm, idle, max), cx) {
            Poll::Ready(Accepted::Deadline)
        } else {
            Poll::Pending
        }
    }
}

/// Ends a connection whose client resets too many streams.
fn abort_http2(hcm: &Rc<Hcm>, codec: &mut Http2Connection, active: &ActiveConnection) {
    let stats = &hcm.config.stats;
    stats.downstream_rq_too_many_premature_resets().inc();
    if codec.active_streams() > 0 {
        active.ends_under_request();
    }
    codec.abort();
}

/// Ends a connection. Whom we have told that it ends gets the time to read that, and to close first.
async fn close_http2(hcm: &Rc<Hcm>, codec: &mut Http2Connection, active: &ActiveConnection) {
    let stats = &hcm.config.stats;
    if !codec.ended_here() {
        return active.closed_by_peer();
    }
    if codec.keepalive_failed() {
        return;
    }
    if codec.has_failed_by_error() {
        stats.downstream_cx_protocol_error().inc();
    }
    let Some(wait) = hcm.config.timeouts.delayed_close else {
        return;
    };
    if timeout(wait, codec.close()).await.is_ok() {
        active.closed_by_peer();
    } else {
        stats.downstream_cx_delayed_close_timeout().inc();
    }
}

/// What a waiting HTTP/2 connection came across.
#[allow(
    clippy::large_enum_variant,
    reason = "one lives on the stack for a moment; a box would cost each request an allocation"
)]
enum Accepted {
    Stream(Option<AcceptedStream>),
    TooManyResets,
    Drain,
    /// The overload manager wants the connection to end with its streams.
    Overloaded,
    Deadline,
}

fn spawn_http2_stream(
    context: &ConnectionContext,
    (head, codec): AcceptedStream,
    ended: &Rc<EndedStreams>,
) {
    let ConnectionContext { hcm, info, .. } = context;
    let stream_info = begin_stream(hcm, info, Protocol::Http2);
    let (head, begin) = match head {
        Ok((mut head, end)) => {
            request_from_http2(&mut head);
            (head, Ok(end))
        }
        Err(details) => (
            crate::http::RequestHead::new(Protocol::Http2, b""),
            Err(details),
        ),
    };
    let start = stream_info.start;
    let mut stream = Box::new(Stream::new(
        hcm.clone(),
        codec,
        stream_info,
        head,
        context.buffer_limit,
    ));
    stream.set_connection(ended);
    let (hcm, ended) = (hcm.clone(), ended.clone());
    tokio::task::spawn_local(async move {
        match begin {
            Ok(end) => stream.start(end),
            Err(details) => stream.start_reset(details),
        }
        let mut timer = hcm.timers.take();
        poll_fn(|cx| stream.poll(cx, &mut timer)).await;
        hcm.timers.put(timer);
        let answered = !stream.ended_unanswered();
        ended.ended(answered, start, &hcm.premature_resets);
    });
}

/// A stream begins: it is counted, and gets its number.
pub(super) fn begin_stream(
    hcm: &Rc<Hcm>,
    info: &Rc<ConnectionInfo>,
    protocol: Protocol,
) -> StreamInfo {
    let stats = &hcm.config.stats;
    stats.downstream_rq_total().inc();
    stats.downstream_rq_active().inc();
    if protocol.is_http1() {
        stats.downstream_rq_http1_total().inc();
    } else {
        stats.downstream_rq_http2_total().inc();
    }
    StreamInfo::new(info.clone(), hcm.next_stream_id(), Some(protocol))
}

/// What TLS has agreed on, once it has.
fn by_alpn(info: &ConnectionInfo) -> Option<Protocol> {
    match info.tls.get()?.alpn.as_deref()? {
        b"h2" => Some(Protocol::Http2),
        b"http/1.1" | b"http/1.0" => Some(Protocol::Http11),
        _ => None,
    }
}

/// Tells HTTP/2 by its preface from HTTP/1, for `codec_type: AUTO`.
async fn sniff(
    mut io: Io,
    info: &ConnectionInfo,
    idle: Option<Duration>,
) -> Option<(Io, Protocol)> {
    /// As much of the preface as tells, as in Envoy; the codec judges the rest.
    const PREFACE: &[u8] = b"PRI * HTTP/2";
    // With TLS, what a listener filter saw is only what the client offers.
    if let Some(protocol) = info.application_protocols.first().filter(|_| !info.is_tls) {
        match &protocol[..] {
            b"h2" | b"h2c" => return Some((io, Protocol::Http2)),
            b"http/1.1" | b"http/1.0" => return Some((io, Protocol::Http11)),
            _ => {}
        }
    }
    let mut seen = BytesMut::with_capacity(1024);
    let read = async {
        loop {
            let read = io.read_buf(&mut seen).await;
            if let Some(protocol) = by_alpn(info).filter(|_| matches!(read, Ok(1..))) {
                return Some(protocol);
            }
            match read {
                // The beginning of a preface that never came is the beginning of an HTTP/1 head.
                Ok(0) | Err(_) => return (!seen.is_empty()).then_some(Protocol::Http11),
                Ok(_) if seen.len() >= PREFACE.len() || !PREFACE.starts_with(&seen) => {
                    return Some(if seen.starts_with(PREFACE) {
                        Protocol::Http2
                    } else {
                        Protocol::Http11
                    });
                }
                Ok(_) => {}
            }
        }
    };
    let protocol = match idle {
        Some(limit) => timeout(limit, read).await.ok()??,
        None => read.await?,
    };
    Some((io.with_prefix(seen.freeze()), protocol))
}

/// Counts a connection while it lives.
struct ActiveConnection {
    hcm: Rc<Hcm>,
    start: Instant,
    is_tls: bool,
    /// The client closed it, not we.
    remote: Cell<bool>,
    /// It ended before a request on it had.
    busy: Cell<bool>,
}

impl ActiveConnection {
    fn new(hcm: &Rc<Hcm>, info: &ConnectionInfo) -> Self {
        hcm.config.stats.downstream_cx_total().inc();
        hcm.config.stats.downstream_cx_active().inc();
        if info.is_tls {
            hcm.config.stats.downstream_cx_ssl_total().inc();
            hcm.config.stats.downstream_cx_ssl_active().inc();
        }
        Self {
            hcm: hcm.clone(),
            start: info.start,
            is_tls: info.is_tls,
            remote: Cell::new(false),
            busy: Cell::new(false),
        }
    }

    fn closed_by_peer(&self) {
        self.remote.set(true);
    }

    fn ends_under_request(&self) {
        self.busy.set(true);
    }
}

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        let stats = &self.hcm.config.stats;
        stats.downstream_cx_active().dec();
        if self.is_tls {
            stats.downstream_cx_ssl_active().dec();
        }
        stats.downstream_cx_destroy().inc();
        let (all, busy) = if self.remote.get() {
            (
                stats.downstream_cx_destroy_remote(),
                stats.downstream_cx_destroy_remote_active_rq(),
            )
        } else {
            (
                stats.downstream_cx_destroy_local(),
                stats.downstream_cx_destroy_local_active_rq(),
            )
        };
        all.inc();
        if self.busy.get() {
            stats.downstream_cx_destroy_active_rq().inc();
            busy.inc();
        }
        let length = Instant::now() - self.start;
        stats
            .downstream_cx_length_ms()
            .record(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
    }
}

/// Counts a connection of one protocol while it lives.
struct ProtocolGuard {
    hcm: Rc<Hcm>,
    protocol: Protocol,
}

impl ProtocolGuard {
    fn new(hcm: &Rc<Hcm>, protocol: Protocol) -> Self {
        let stats = &hcm.config.stats;
        if protocol.is_http1() {
            stats.downstream_cx_http1_total().inc();
            stats.downstream_cx_http1_active().inc();
        } else {
            stats.downstream_cx_http2_total().inc();
            stats.downstream_cx_http2_active().inc();
        }
        Self {
            hcm: hcm.clone(),
            protocol,
        }
    }
}

impl Drop for ProtocolGuard {
    fn drop(&mut self) {
        let stats = &self.hcm.config.stats;
        if self.protocol.is_http1() {
            stats.downstream_cx_http1_active().dec()
        } else {
            stats.downstream_cx_http2_active().dec()
        }
    }
}
