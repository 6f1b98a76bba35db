//! `upstream_log`: a line for each attempt, when it ends; and how large its messages were, where its cluster counts that.
//!
//! What it says is of the attempt: start, response, flags, body bytes. Head, route and client are those of the request.

use std::rc::Rc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::config::WorkerRouter;
use super::outcome::Failure;
use crate::formatter::FormatData;
use crate::http::{Fields, RequestHead, ResponseHead};
use crate::http_connection_manager::filter_chain::ChainEnv;
use crate::stream_info::{ResponseFlag, ResponseFlags, StreamInfo};
use crate::upstream::WorkerCluster;
use crate::upstream::pool::ResponseEvent;

/// What is noted of an attempt for its line.
pub(super) struct AttemptLog {
    router: Rc<WorkerRouter>,
    start: Instant,
    start_time: SystemTime,
    request: RequestHead,
    head: Option<ResponseHead>,
    trailers: Option<Fields>,
    /// The size of interim heads, in bytes.
    informational: usize,
    received: u64,
    sent: u64,
    flags: ResponseFlags,
    /// When it is logged while it runs, the next time.
    due: Option<Instant>,
    /// Counts sizes.
    cluster: Option<Rc<WorkerCluster>>,
}

impl WorkerRouter {
    /// The log of an attempt that begins now; none where attempts are not logged and their sizes not counted.
    #[inline]
    pub(super) fn attempt_log(
        self: &Rc<Self>,
        env: &ChainEnv<'_>,
        cluster: &Rc<WorkerCluster>,
    ) -> Option<Box<AttemptLog>> {
        let counts_sizes = cluster.info().request_response_size_stats.is_some();
        (counts_sizes || !self.upstream_logs.is_empty()).then(|| {
            let info = &env.info;
            let interval = self.config.upstream_log_flush_interval;
            Box::new(AttemptLog {
                router: self.clone(),
                start: info.now,
                start_time: info.start_time + (info.now - info.start),
                request: env.request.clone(),
                head: None,
                trailers: None,
                informational: 0,
                received: 0,
                sent: 0,
                flags: ResponseFlags::default(),
                due: interval.map(|interval| info.now + interval),
                cluster: counts_sizes.then(|| cluster.clone()),
            })
        })
    }
}

impl AttemptLog {
    /// Notes what the upstream sent.
    pub(super) fn saw(&mut self, event: &ResponseEvent) {
        match event {
            ResponseEvent::Head(head, _) => self.head = Some(head.clone()),
            ResponseEvent::Data(data, _) => self.received += data.len() as u64,
            ResponseEvent::Trailers(trailers) => self.trailers = Some(trailers.clone()),
            ResponseEvent::Informational(head) => {
                self.informational += ":status".len() + 3 + head.fields.byte_size();
            }
            ResponseEvent::Metadata(_) | ResponseEvent::Reset(_) => {}
        }
    }

    /// Notes a piece of the request body.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// Notes why the attempt failed. The end of the whole is no fault of it.
    pub(super) fn failed(&mut self, failure: &Failure) {
        match failure {
            Failure::RouteTimeout => {}
            Failure::PerTryIdleTimeout => self.flags.set(ResponseFlag::StreamIdleTimeout),
            other => self.flags.set(other.flag()),
        }
    }

    /// The attempt has found a connection: that is logged as well, if it is asked for.
    pub(super) fn ready(&self, info: &mut StreamInfo) {
        if self.router.config.log_on_pool_ready {
            self.write(info, "UpstreamPoolReady");
        }
    }

    /// When it is logged while it runs, the next time.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Logs the attempt while it runs, if it is time to.
    pub(super) fn flush(&mut self, info: &mut StreamInfo) {
        let Some(due) = self.due.filter(|due| *due <= info.now) else {
            return;
        };
        let interval = self.router.config.upstream_log_flush_interval;
        self.due = interval.map(|interval| due.max(info.now) + interval);
        self.write(info, "UpstreamPeriodic");
    }

    /// The attempt has ended.
    pub(super) fn end(self, info: &mut StreamInfo) {
        self.count_sizes();
        self.write(info, "UpstreamEnd");
    }

    fn count_sizes(&self) {
        let info = self.cluster.as_ref().map(|cluster| cluster.info());
        let Some(stats) = info.and_then(|info| info.request_response_size_stats.as_ref()) else {
            return;
        };
        let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let (count, size) = self.request.size();
        stats.upstream_rq_headers_size().record(number(size));
        stats.upstream_rq_headers_count().record(number(count));
        stats.upstream_rq_body_size().record(self.sent);
        if let Some(head) = &self.head {
            let status = ":status".len() + 3;
            let size = self.informational + status + head.fields.byte_size();
            stats.upstream_rs_headers_size().record(number(size));
            let count = number(head.fields.len() + 1);
            stats.upstream_rs_headers_count().record(count);
            stats.upstream_rs_body_size().record(self.received);
        }
    }

    fn write(&self, info: &mut StreamInfo, log_type: &'static str) {
        if self.router.upstream_logs.is_empty() {
            return;
        }
        let upstream = info.upstream.take();
        let protocol = upstream.as_ref().and_then(|upstream| upstream.protocol);
        let mut own = StreamInfo::new(info.connection.clone(), info.stream_id, protocol);
        own.start = self.start;
        own.start_time = self.start_time;
        own.now = info.now;
        own.remote_address = info.remote_address.clone();
        own.response_code = self.head.as_ref().map(|head| head.status);
        own.response_flags = self.flags;
        own.bytes_received = self.received;
        own.bytes_sent = self.sent;
        own.upstream_bytes = info.upstream_bytes;
        own.timing = info.timing;
        own.route = info.route.clone();
        own.cluster = info.cluster.clone();
        own.request_id = info.request_id.clone();
        own.health_check = info.health_check;
        own.upstream = upstream;
        self.router.upstream_logs.log(&FormatData {
            info: &own,
            request: Some(&self.request),
            response: self.head.as_ref(),
            request_trailers: None,
            response_trailers: self.trailers.as_ref(),
            local_reply_body: b"",
            log_type,
        });
        info.upstream = own.upstream.take();
    }
}
