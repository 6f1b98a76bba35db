//! A downstream connection of HTTP/2: its streams side by side, each a task of its own, and its end.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, timeout};

use super::super::manager::Hcm;
use super::super::premature_resets::EndedStreams;
use super::super::stream::Stream;
use super::super::timer::Timer;
use super::counted::{ActiveConnection, ProtocolGuard};
use super::lifetime::{idle_end, next_look};
use super::{ConnectionContext, begin_stream, sheds};
use crate::codec::h2::{AcceptedStream, ServerConnection as Http2Connection};
use crate::codec::upgrade::request_from_http2;
use crate::http::{Protocol, RequestHead};
use crate::http_filters::LocalBoxFuture;
use crate::http2::driver::{OnRead, Reading, STREAMS_PER_TURN};
use crate::net::Io;
use crate::overload::LoadShedPoint;

/// The future holds what it is given as it is: a connection at rest has no room for copies.
pub(super) fn serve(
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
    let mut codec = Http2Connection::new(io, &hcm.http2, *buffer_limit, stats);
    if let Some(on_read) = shedding(&context) {
        codec.ask_on_read(on_read);
    }
    let mut server = Http2Server {
        codec,
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
            Box::pin(close(&context.hcm, codec, &context.active)).await;
        }
        drop(of_protocol);
    }
}

/// What the overload manager makes of a connection on which something comes. None: it never does anything.
fn shedding(context: &ConnectionContext) -> Option<OnRead> {
    let (hcm, info) = (&context.hcm, &context.info);
    let shed = &hcm.worker.server.overload.load_shed;
    let is_there = shed.is_there(LoadShedPoint::Http2GoAway)
        || shed.is_there(LoadShedPoint::Http2GoAwayAndClose);
    if !is_there || info.listener.bypass_overload_manager {
        return None;
    }
    let (hcm, info) = (hcm.clone(), info.clone());
    Some(Box::new(move || {
        if sheds(&hcm, &info, LoadShedPoint::Http2GoAwayAndClose) {
            Reading::Ends
        } else if sheds(&hcm, &info, LoadShedPoint::Http2GoAway) {
            Reading::Warns
        } else {
            Reading::GoesOn
        }
    }))
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
                    spawn_stream(&self.context, stream, &self.ended);
                    let max = config.max_requests_per_connection;
                    if max.is_some_and(|limit| self.streams == limit) {
                        config.stats.downstream_cx_max_requests_reached().inc();
                        codec.graceful_shutdown(drain_timeout);
                    }
                }
                Accepted::TooManyResets => {
                    config.stats.downstream_cx_protocol_error().inc();
                    abort(hcm, codec, active);
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

/// Ends a connection whose client resets too many streams.
fn abort(hcm: &Rc<Hcm>, codec: &mut Http2Connection, active: &ActiveConnection) {
    let stats = &hcm.config.stats;
    stats.downstream_rq_too_many_premature_resets().inc();
    if codec.active_streams() > 0 {
        active.ends_under_request();
    }
    codec.abort();
}

/// Ends a connection. Whom we have told that it ends gets the time to read that, and to close first.
async fn close(hcm: &Rc<Hcm>, codec: &mut Http2Connection, active: &ActiveConnection) {
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

fn spawn_stream(
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
        Err(details) => (RequestHead::new(Protocol::Http2, b""), Err(details)),
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
    if let Some(accounts) = &hcm.worker.accounts {
        stream.set_account(accounts.open());
    }
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
