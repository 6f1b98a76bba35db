//! The timeouts of a stream: when to give up, and the answer or reset that comes of it.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::manager::max_stream_duration;
use super::super::timer::{Timer, nearer};
use super::{Half, Stream};
use crate::codec::{ServerStream, StreamReset};
use crate::http_filters::LocalReply;
use crate::overload::{OverloadState, ScaledTimer};
use crate::stream_info::ResponseFlag;

/// What ran out before the head of a request had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http_connection_manager) enum HeadTimeout {
    /// `request_headers_timeout`.
    Headers,
    /// `request_timeout`.
    Request,
    /// `stream_idle_timeout`.
    Idle,
    /// `max_stream_duration`.
    MaxDuration,
}

/// When to give up, as plain instants.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    pub(super) request: Option<Instant>,
    pub(super) max_duration: Option<Instant>,
    pub(super) idle: Option<Instant>,
    pub(super) idle_after: Option<Duration>,
    pub(super) log_flush: Option<Instant>,
    /// Since when the client is to take the rest of its response; none: that is not waited for.
    pub(super) flush: Option<Instant>,
}

impl<S: ServerStream> Stream<S> {
    pub(super) fn poll_deadlines(&mut self, cx: &mut Context<'_>, timer: &mut Timer) -> Poll<()> {
        loop {
            let own = nearer(
                nearer(self.deadlines.request, self.deadlines.max_duration),
                nearer(
                    self.idle_end()
                        .map(|end| self.overload().look_at(ScaledTimer::StreamIdle, end)),
                    self.deadlines.log_flush,
                ),
            );
            let nearest = nearer(own, self.router.deadline());
            if !timer.poll(nearest, cx) {
                return Poll::Pending;
            }
            self.on_deadline(Instant::now());
            if self.record.is_none() {
                return Poll::Ready(());
            }
            // What the deadline caused is carried out by another round.
            cx.waker().wake_by_ref();
        }
    }

    fn on_deadline(&mut self, now: Instant) {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|d| d <= now);
        if passed(self.router.deadline()) {
            let event = self.with_env(|env, s| s.router.on_deadline(now, env));
            if let Some(event) = event {
                self.on_router_event(event);
            }
        } else if passed(self.deadlines.log_flush) {
            self.deadlines.log_flush = self
                .hcm
                .config
                .access_log_options
                .flush_interval
                .map(|d| now + d);
            self.log("DownstreamPeriodic");
        } else if passed(self.deadlines.max_duration) {
            self.deadlines.max_duration = None;
            self.hcm
                .config
                .stats
                .downstream_rq_max_duration_reached()
                .inc();
            self.time_out(
                "downstream duration timeout",
                "max_duration_timeout",
                Some(4),
            );
        } else if passed(self.deadlines.request) {
            self.deadlines.request = None;
            self.hcm.config.stats.downstream_rq_timeout().inc();
            self.time_out("request timeout", "request_overall_timeout", None);
        } else if passed(self.idle_end()) {
            self.deadlines.idle = None;
            self.hcm.config.stats.downstream_rq_idle_timeout().inc();
            self.info()
                .response_flags
                .set(ResponseFlag::StreamIdleTimeout);
            self.time_out("stream timeout", "stream_idle_timeout", None);
        }
    }

    /// An answer if one is still possible, else the stream breaks off. The client is at fault (408) unless it has sent all (504).
    fn time_out(&mut self, body: &'static str, details: &'static str, grpc_status: Option<u32>) {
        if self.response == Half::Start {
            let status = if self.request == Half::Open { 408 } else { 504 };
            let mut reply =
                LocalReply::new(status, details).with_body(Bytes::from_static(body.as_bytes()));
            reply.grpc_status = grpc_status;
            self.local_reply(reply);
        } else {
            self.info().response_code_details = Some(details.into());
            self.break_off(StreamReset::LocalReset);
        }
    }

    /// When the stream will have been idle for too long, as it is at the moment.
    fn idle_end(&self) -> Option<Instant> {
        let (idle, after) = (self.deadlines.idle?, self.deadlines.idle_after?);
        let end = |since| self.overload().end(ScaledTimer::StreamIdle, after, since);
        idle.checked_sub(after).map(end)
    }

    pub(super) fn overload(&self) -> &OverloadState {
        &self.hcm.worker.server.overload
    }

    /// Something moved: the stream is not idle.
    pub(super) fn touch(&mut self) {
        if let Some(after) = self.deadlines.idle_after {
            self.deadlines.idle = self.record.as_ref().map(|record| record.info.now + after);
        }
    }

    pub(super) fn deadlines_of_route(&mut self) {
        let record = self
            .record
            .as_deref_mut()
            .expect("a stream has its record until it ends");
        let Some(route) = &record.info.route else {
            return;
        };
        let start = record.info.start;
        let Some(action) = route.route().forward() else {
            return;
        };
        if let Some(idle) = action.idle_timeout {
            self.deadlines.idle_after = Some(idle).filter(|d| !d.is_zero());
            self.deadlines.idle = self.deadlines.idle_after.map(|d| start + d);
        }
        let of_manager = self.hcm.config.timeouts.max_stream_duration;
        let max = max_stream_duration(action, &mut record.request, of_manager);
        self.deadlines.max_duration = max.map(|d| start + d);
    }
}
