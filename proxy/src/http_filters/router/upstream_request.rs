//! One upstream attempt: from the pool to the end of its response.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::outcome::Failure;
use super::timeouts::Timeouts;
use super::upstream_filters::UpstreamFilters;
use crate::http_connection_manager::filter_chain::ChainEnv;
use crate::stream_info::StreamInfo;
use crate::upstream::pool::{
    Acquire, ClientStream, PendingStream, PoolError, ResetReason, StreamKind, StreamRequest,
};
use crate::upstream::{HostStat, RoutingPriority, WorkerCluster, WorkerHost};

/// An attempt.
pub(super) struct UpstreamRequest {
    state: UpstreamState,
    host: Rc<WorkerHost>,
    per_try: Option<Instant>,
    per_try_idle: Option<Duration>,
    idle: Option<Instant>,
    max_duration: Option<Instant>,
    head_received: bool,
    anything_received: bool,
    /// Set: the stream is `Filtered` once there is one.
    filters: Option<Box<UpstreamFilters>>,
}

enum UpstreamState {
    /// The pool has not given a stream yet.
    Waiting(PendingStream),
    /// The pool refused.
    Refused(PoolError),
    /// The request is sent, the response comes.
    Open(ClientStream),
    /// The same, behind filters.
    Filtered(ClientStream),
    /// Nothing is left.
    Closed,
}

#[allow(
    clippy::boxed_local,
    reason = "it lives in a box; to move it out would copy it"
)]
impl UpstreamRequest {
    /// Asks the pool of `host` for a stream.
    pub(super) fn new(
        cluster: &Rc<WorkerCluster>,
        host: Rc<WorkerHost>,
        env: &mut ChainEnv<'_>,
        priority: RoutingPriority,
        kind: StreamKind,
    ) -> Self {
        let request = StreamRequest {
            downstream_protocol: env.info.protocol,
            priority,
            kind,
        };
        let state = match cluster.new_http_stream(&host, &request) {
            Acquire::Ready(stream) => UpstreamState::Open(stream),
            Acquire::Pending(pending) => UpstreamState::Waiting(pending),
            Acquire::Failed(error) => UpstreamState::Refused(error),
        };
        let info = env.info.upstream_mut();
        // A request that its pool had no room for has met no host.
        if !matches!(state, UpstreamState::Refused(PoolError::Overflow)) {
            info.host = Some(host.clone());
        }
        info.transport_failure_reason = None;
        let max = cluster.info().settings.http.common.max_stream_duration;
        Self {
            state,
            host,
            per_try: None,
            per_try_idle: None,
            idle: None,
            max_duration: max.map(|d| env.info.now + d),
            head_received: false,
            anything_received: false,
            filters: None,
        }
    }

    /// Puts filters before the stream. `stream` gives none from now on.
    pub(super) fn put_filters(&mut self, filters: Box<UpstreamFilters>) {
        self.filters = Some(filters);
        self.state = match std::mem::replace(&mut self.state, UpstreamState::Closed) {
            UpstreamState::Open(stream) => UpstreamState::Filtered(stream),
            other => other,
        };
    }

    /// The filters, if there are any.
    pub(super) fn filters(&mut self) -> Option<&mut UpstreamFilters> {
        self.filters.as_deref_mut()
    }

    /// The filters and the stream behind them, once there is one.
    pub(super) fn filtered(&mut self) -> Option<(&mut ClientStream, &mut UpstreamFilters)> {
        match (&mut self.state, &mut self.filters) {
            (UpstreamState::Filtered(stream), Some(filters)) => Some((stream, filters)),
            _ => None,
        }
    }

    /// The attempt ends: what is left are its filters.
    pub(super) fn take_filters(&mut self) -> Option<Box<UpstreamFilters>> {
        self.filters.take()
    }

    /// The stream, behind filters or not.
    fn any_stream(&self) -> Option<&ClientStream> {
        match &self.state {
            UpstreamState::Open(stream) | UpstreamState::Filtered(stream) => Some(stream),
            UpstreamState::Waiting(_) | UpstreamState::Refused(_) | UpstreamState::Closed => None,
        }
    }

    fn take_stream(&mut self) -> Option<ClientStream> {
        match std::mem::replace(&mut self.state, UpstreamState::Closed) {
            UpstreamState::Open(stream) | UpstreamState::Filtered(stream) => Some(stream),
            UpstreamState::Waiting(_) | UpstreamState::Refused(_) | UpstreamState::Closed => None,
        }
    }

    /// The stream, once there is one and if nothing stands before it.
    pub(super) fn stream(&mut self) -> Option<&mut ClientStream> {
        match &mut self.state {
            UpstreamState::Open(stream) => Some(stream),
            _ => None,
        }
    }

    /// Whether the request was sent and the response has not ended.
    pub(super) fn is_open(&self) -> bool {
        self.any_stream().is_some()
    }

    /// Waits for the pool.
    pub(super) fn poll_connect(
        &mut self,
        cx: &mut Context<'_>,
        info: &mut StreamInfo,
    ) -> Poll<Result<(), ResetReason>> {
        let result = match &mut self.state {
            UpstreamState::Waiting(pending) => match std::pin::Pin::new(pending).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => result,
            },
            UpstreamState::Refused(error) => Err(error.clone()),
            UpstreamState::Open(_) | UpstreamState::Filtered(_) => return Poll::Ready(Ok(())),
            UpstreamState::Closed => return Poll::Pending,
        };
        Poll::Ready(match result {
            Ok(stream) => {
                self.state = match &self.filters {
                    Some(_) => UpstreamState::Filtered(stream),
                    None => UpstreamState::Open(stream),
                };
                Ok(())
            }
            Err(error) => {
                self.state = UpstreamState::Closed;
                let reason = match error {
                    PoolError::Overflow => ResetReason::Overflow,
                    PoolError::Connect(error) => ResetReason::ConnectionFailure(error),
                    PoolError::Terminated => ResetReason::ConnectionTermination,
                };
                if let Some(text) = Failure::Reset(reason.clone()).transport_failure() {
                    info.upstream_mut().transport_failure_reason = Some(text.into());
                }
                Err(reason)
            }
        })
    }

    /// The pool gave a stream: notes what is known of its connection.
    pub(super) fn ready(&mut self, info: &mut StreamInfo) {
        let now = info.now;
        let Some(stream) = self.any_stream() else {
            return;
        };
        let connection = stream.connection_info();
        let upstream = info.upstream.get_or_insert_default();
        upstream.local_address = connection.local_address.clone();
        upstream.connection_id = Some(connection.id);
        upstream.protocol = connection.protocol;
        upstream.pool_ready = Some(now);
        upstream.connect_start = Some(connection.connect_start);
        upstream.connect_end = Some(connection.connect_end);
        info.timing.first_upstream_tx_byte.get_or_insert(now);
        info.timing.last_upstream_tx_byte = Some(now);
    }

    /// Something of the request is sent.
    pub(super) fn body_moves(&mut self, info: &mut StreamInfo) {
        if self.is_open() {
            let now = info.now;
            info.timing.last_upstream_tx_byte = Some(now);
            self.idle = self.per_try_idle.map(|d| now + d);
        }
    }

    /// Something of the response came.
    pub(super) fn received(&mut self, now: Instant, info: &mut StreamInfo) {
        self.anything_received = true;
        self.idle = self.per_try_idle.map(|d| now + d);
        info.timing.first_upstream_rx_byte.get_or_insert(now);
    }

    /// The head of the response goes to the client: from now on only the whole is timed.
    pub(super) fn head_received(&mut self) {
        self.head_received = true;
        self.per_try = None;
    }

    /// Starts the clocks of the attempt: the request has come whole.
    pub(super) fn arm(&mut self, now: Instant, timeouts: &Timeouts) {
        if !self.head_received {
            self.per_try = timeouts.per_try.map(|d| now + d);
        }
        self.per_try_idle = timeouts.per_try_idle;
        self.idle = timeouts.per_try_idle.map(|d| now + d);
    }

    /// The nearest deadline of the attempt.
    pub(super) fn deadline(&self) -> Option<Instant> {
        use crate::http_connection_manager::timer::nearer;
        nearer(nearer(self.per_try, self.idle), self.max_duration)
    }

    /// Which deadline has passed, if one has.
    pub(super) fn expired(&self, now: Instant) -> Option<Failure> {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|d| d <= now);
        if passed(self.per_try) {
            Some(Failure::PerTryTimeout)
        } else if passed(self.idle) {
            Some(Failure::PerTryIdleTimeout)
        } else if passed(self.max_duration) {
            Some(Failure::MaxStreamDuration)
        } else {
            None
        }
    }

    /// Whether the attempt met a pooled connection that its peer had closed before it could have seen the request.
    pub(super) fn was_stale(&self, failure: &Failure) -> bool {
        let Some(stream) = self.any_stream() else {
            return false;
        };
        let broke = matches!(failure, Failure::Reset(ResetReason::ConnectionTermination));
        broke && !self.anything_received && stream.connection_info().reused()
    }

    /// The attempt has failed.
    pub(super) fn fail(mut self: Box<Self>, failure: &Failure, info: &mut StreamInfo) {
        let upstream = info.upstream_mut();
        if let Some(text) = failure.transport_failure() {
            upstream.transport_failure_reason = Some(text.into());
        }
        self.host.count(HostStat::RqError);
        self.complete(info);
        if let Some(mut stream) = self.take_stream() {
            stream.reset(&ResetReason::LocalReset);
        }
    }

    /// Nobody waits for the response.
    pub(super) fn reset(mut self: Box<Self>) {
        if let Some(mut stream) = self.take_stream() {
            stream.reset(&ResetReason::LocalReset);
        }
    }

    /// The response has ended.
    pub(super) fn finish(mut self: Box<Self>, info: &mut StreamInfo) {
        self.host.count(HostStat::RqSuccess);
        self.complete(info);
        if let Some(stream) = self.take_stream() {
            stream.finish();
        }
    }

    fn complete(&mut self, info: &mut StreamInfo) {
        self.meter(info);
        if let Some(mut filters) = self.filters.take() {
            filters.complete(info);
        }
    }

    fn meter(&self, info: &mut StreamInfo) {
        if let Some(stream) = self.any_stream() {
            let bytes = stream.bytes();
            let total = &mut info.upstream_bytes;
            total.header_received += bytes.header_received;
            total.header_sent += bytes.header_sent;
            total.wire_received += bytes.wire_received;
            total.wire_sent += bytes.wire_sent;
        }
    }
}
