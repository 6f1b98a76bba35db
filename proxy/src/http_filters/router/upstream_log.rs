//! `upstream_log`: a line for each attempt, when it ends.
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
use crate::upstream::pool::ResponseEvent;

/// What is noted of an attempt for its line.
pub(super) struct AttemptLog {
    router: Rc<WorkerRouter>,
    start: Instant,
    start_time: SystemTime,
    request: RequestHead,
    head: Option<ResponseHead>,
    trailers: Option<Fields>,
    received: u64,
    sent: u64,
    flags: ResponseFlags,
}

impl WorkerRouter {
    /// The log of an attempt that begins now; none where attempts are not logged.
    #[inline]
    pub(super) fn attempt_log(self: &Rc<Self>, env: &ChainEnv<'_>) -> Option<Box<AttemptLog>> {
        (!self.upstream_logs.is_empty()).then(|| {
            let info = &env.info;
            Box::new(AttemptLog {
                router: self.clone(),
                start: info.now,
                start_time: info.start_time + (info.now - info.start),
                request: env.request.clone(),
                head: None,
                trailers: None,
                received: 0,
                sent: 0,
                flags: ResponseFlags::default(),
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
            ResponseEvent::Informational(_)
            | ResponseEvent::Metadata(_)
            | ResponseEvent::Reset(_) => {}
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

    /// The attempt has ended.
    pub(super) fn end(self, info: &mut StreamInfo) {
        self.write(info, "UpstreamEnd");
    }

    fn write(&self, info: &mut StreamInfo, log_type: &'static str) {
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
