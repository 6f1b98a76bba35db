//! A downstream connection of HTTP/1: its requests one after another, what it does between them, and its end.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::super::config::Timeouts;
use super::super::manager::Hcm;
use super::super::stream::{HeadTimeout, Stream};
use super::super::timer::{Timer, nearer};
use super::counted::{ActiveConnection, ProtocolGuard};
use super::lifetime::{idle_end, next_look};
use super::{ConnectionContext, begin_stream, sheds};
use crate::LocalBoxFuture;
use crate::codec::ProtocolError;
use crate::codec::h1::{HeadError, Next, ServerConnection as Http1Connection};
use crate::http::{EndStream, Protocol, RequestHead};
use crate::net::Io;
use crate::overload::LoadShedPoint;

/// The future holds what it is given as it is: a connection at rest has no room for copies.
pub(super) fn serve(
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
            let close = match begin(&context, &mut codec, rest, &mut requests) {
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
            let closing = close(hcm, &mut codec, &mut timer, ended_early, active);
            Box::pin(closing).await;
        }
        hcm.timers.put(timer);
        drop(codec);
        drop(of_protocol);
    }
}

/// Why a connection without streams is given up.
#[allow(
    clippy::large_enum_variant,
    reason = "one lives on the stack for a moment; a box would cost each request an allocation"
)]
enum Rest {
    /// A request came.
    Request(Result<Option<(RequestHead, EndStream)>, HeadError>),
    /// Nothing came for too long.
    IdleTimeout,
    /// The connection is old enough.
    MaxDuration,
    /// The head of a request did not come to its end.
    HeadersTimeout(HeadTimeout),
    /// The listener drains.
    Drain,
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
fn begin<'a>(
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
    let stream = |codec: &'a mut Http1Connection, head: Option<RequestHead>| {
        let head = head.unwrap_or_else(|| RequestHead::new(Protocol::Http11, b""));
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

/// Ends the connection. A client that was answered before it had sent its request gets the chance to close first, so that
/// what it still sends does not make the kernel throw the answer away.
async fn close(
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
