//! One upstream attempt: from the pool to the end of its response.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::outcome::Failure;
use super::timeouts::Timeouts;
use super::upstream_filters::UpstreamFilters;
use super::upstream_log::AttemptLog;
use crate::http_connection_manager::filter_chain::ChainEnv;
use crate::planted::{Fault, is_planted};
use crate::route::SelectedRoute;
use crate::stream_info::{BytesMeter, StreamInfo};
use crate::transport_sockets::UpstreamSocketOptions;
use crate::upstream::cluster::AutoTlsOptions;
use crate::upstream::pool::{
    Acquire, ClientStream, PendingStream, PoolError, ResetReason, ResponseEvent, StreamKind,
    StreamRequest,
};
use crate::upstream::{RoutingPriority, WorkerCluster, WorkerHost};

/// An attempt.
pub(super) struct UpstreamRequest {
    state: UpstreamState,
    host: Rc<WorkerHost>,
    clocks: Clocks,
    head_received: bool,
    /// The attempt took too long, and another one was started beside it.
    retried: bool,
    began: Instant,
    /// Set: the stream is `Filtered` once there is one.
    filters: Option<Box<UpstreamFilters>>,
    /// Set where attempts are logged.
    log: Option<Box<AttemptLog>>,
}

/// When an attempt takes too long.
#[derive(Default)]
struct Clocks {
    /// The request has come whole, and this is how long an attempt may take then, all told and without any progress.
    limits: Option<(Option<Duration>, Option<Duration>)>,
    per_try: Option<Instant>,
    idle: Option<Instant>,
    max_stream_duration: Option<Duration>,
    max_duration: Option<Instant>,
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
    /// Asks the pool of `host` for a stream. `max_stream_duration` takes the place of the cluster's.
    #[allow(
        clippy::too_many_arguments,
        reason = "what an attempt is made of, once"
    )]
    pub(super) fn new(
        cluster: &Rc<WorkerCluster>,
        host: Rc<WorkerHost>,
        env: &mut ChainEnv<'_>,
        priority: RoutingPriority,
        kind: StreamKind,
        max_stream_duration: Option<Duration>,
    ) -> Self {
        let request = StreamRequest {
            downstream_protocol: env.info.protocol,
            priority,
            kind,
            options: socket_options(cluster, env),
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
            clocks: Clocks {
                max_stream_duration: max_stream_duration.or(max).filter(|d| !d.is_zero()),
                ..Clocks::default()
            },
            head_received: false,
            retried: false,
            began: env.info.now,
            filters: None,
            log: None,
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

    /// The stream on which the head was sent, if there is one.
    pub(super) fn begun_stream(&mut self) -> Option<&mut ClientStream> {
        match (&mut self.state, &self.filters) {
            (UpstreamState::Open(stream), _) => Some(stream),
            (UpstreamState::Filtered(stream), Some(filters)) if filters.head_sent => Some(stream),
            _ => None,
        }
    }

    /// The attempt will be logged.
    pub(super) fn set_log(&mut self, log: Option<Box<AttemptLog>>) {
        self.log = log;
    }

    /// Notes an event of the response for the log.
    #[inline]
    pub(super) fn saw(&mut self, event: &ResponseEvent) {
        if let Some(log) = &mut self.log {
            log.saw(event);
        }
    }

    /// Notes bytes of the request body for the log.
    #[inline]
    pub(super) fn sends(&mut self, bytes: u64) {
        if let Some(log) = &mut self.log {
            log.sent(bytes);
        }
    }

    /// The attempt ends: what is left is its log.
    pub(super) fn take_log(&mut self) -> Option<Box<AttemptLog>> {
        self.log.take()
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

    /// Bytes of bodies that filters hold, or that lie with the codec.
    pub(super) fn held(&self) -> usize {
        let filters = self.filters.as_ref().map_or(0, |filters| filters.held());
        filters + self.any_stream().map_or(0, ClientStream::held)
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
        for stats in info.route.iter().flat_map(SelectedRoute::counted).flatten() {
            stats.counters.upstream_rq_total().inc();
        }
        let upstream = info.upstream.get_or_insert_default();
        upstream.local_address = connection.local_address.clone();
        upstream.connection_id = Some(connection.id);
        upstream.protocol = connection.protocol;
        upstream.pool_ready = Some(now);
        upstream.connect_start = Some(connection.connect_start);
        upstream.connect_end = Some(connection.connect_end);
        upstream.tls.clone_from(&connection.tls);
        info.timing.first_upstream_tx_byte.get_or_insert(now);
        info.timing.last_upstream_tx_byte = Some(now);
        self.clocks.max_duration = self.clocks.max_stream_duration.map(|d| now + d);
        self.clocks.start(now);
        if let Some(log) = &self.log {
            log.ready(info);
        }
    }

    /// Something of the request is sent.
    pub(super) fn body_moves(&mut self, info: &mut StreamInfo) {
        if self.is_open() {
            let now = info.now;
            info.timing.last_upstream_tx_byte = Some(now);
        }
    }

    /// Something of the response came.
    pub(super) fn received(&mut self, now: Instant, info: &mut StreamInfo) {
        if let Some((_, Some(idle))) = self.clocks.limits {
            self.clocks.idle = Some(now + idle);
        }
        info.timing.first_upstream_rx_byte.get_or_insert(now);
    }

    /// The head of the response goes to the client: from now on only the whole is timed.
    pub(super) fn head_received(&mut self) {
        self.head_received = true;
        self.clocks.per_try = None;
    }

    /// Whether no head has come that went to the client.
    pub(super) fn awaits_head(&self) -> bool {
        !self.head_received
    }

    /// The request has come whole: the clocks of the attempt run as soon as it has a connection.
    pub(super) fn arm(&mut self, now: Instant, timeouts: &Timeouts) {
        if timeouts.per_try.is_some() || timeouts.per_try_idle.is_some() {
            self.clocks.limits = Some((timeouts.per_try, timeouts.per_try_idle));
            if self.is_open() {
                self.clocks.start(now);
            }
        }
    }

    /// The attempt took too long and goes on beside another one.
    pub(super) fn outlasts(&mut self, retried: bool) {
        self.retried |= retried;
        if let Some(log) = &mut self.log {
            log.failed(&Failure::PerTryTimeout);
        }
        self.clocks.limits = None;
        self.clocks.per_try = None;
        self.clocks.idle = None;
    }

    /// Whether another attempt was started in its place already.
    pub(super) fn was_retried(&self) -> bool {
        self.retried
    }

    /// When the attempt began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// The host that it went to; none if its pool had no room for it.
    pub(super) fn host(&self) -> &Rc<WorkerHost> {
        &self.host
    }

    /// The nearest deadline of the attempt.
    pub(super) fn deadline(&self) -> Option<Instant> {
        use crate::http_connection_manager::timer::nearer;
        let Clocks {
            per_try,
            idle,
            max_duration,
            ..
        } = self.clocks;
        nearer(nearer(per_try, idle), max_duration)
    }

    /// When the attempt is logged while it runs.
    pub(super) fn log_due(&self) -> Option<Instant> {
        self.log.as_ref()?.due()
    }

    /// Logs it, if it is time to.
    pub(super) fn flush_log(&mut self, info: &mut StreamInfo) {
        let bytes = info.upstream_bytes;
        self.meter(&mut info.upstream_bytes);
        if let Some(log) = &mut self.log {
            log.flush(info);
        }
        info.upstream_bytes = bytes;
    }

    /// Which deadline has passed, if one has.
    pub(super) fn expired(&self, now: Instant) -> Option<Failure> {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|d| d <= now);
        if passed(self.clocks.per_try) {
            Some(Failure::PerTryTimeout)
        } else if passed(self.clocks.idle) {
            Some(Failure::PerTryIdleTimeout)
        } else if passed(self.clocks.max_duration) {
            Some(Failure::MaxStreamDuration)
        } else {
            None
        }
    }

    /// The attempt has failed.
    pub(super) fn fail(mut self: Box<Self>, failure: &Failure, info: &mut StreamInfo) {
        if let Some(text) = failure.transport_failure() {
            info.upstream_mut().transport_failure_reason = Some(text.into());
        }
        if let Some(log) = &mut self.log {
            log.failed(failure);
        }
        self.give_up(info);
    }

    /// Nobody waits for the response. Adds the bytes of the attempt to `total`.
    pub(super) fn reset(mut self: Box<Self>, total: &mut BytesMeter) {
        self.meter(total);
        if let Some(mut stream) = self.take_stream() {
            stream.reset(&ResetReason::LocalReset);
            if is_planted(Fault::LeakedCounter) {
                std::mem::forget(stream);
            }
        }
    }

    /// The same, when the attempt is to be told of and metered now.
    pub(super) fn give_up(&mut self, info: &mut StreamInfo) {
        self.complete(info);
        if let Some(mut stream) = self.take_stream() {
            stream.reset(&ResetReason::LocalReset);
        }
    }

    /// The response has ended.
    pub(super) fn finish(mut self: Box<Self>, info: &mut StreamInfo) {
        self.complete(info);
        if let Some(stream) = self.take_stream() {
            stream.finish();
        }
    }

    fn complete(&mut self, info: &mut StreamInfo) {
        self.meter(&mut info.upstream_bytes);
        if let Some(mut filters) = self.filters.take() {
            filters.complete(info);
        }
        if let Some(log) = self.log.take() {
            log.end(info);
        }
    }

    fn meter(&self, total: &mut BytesMeter) {
        if let Some(stream) = self.any_stream() {
            total.add(stream.bytes());
        }
    }
}

impl Clocks {
    /// The attempt has a connection.
    fn start(&mut self, now: Instant) {
        if let Some((per_try, idle)) = self.limits {
            self.per_try = per_try.map(|d| now + d);
            self.idle = idle.map(|d| now + d);
        }
    }
}

/// What the request asks of the TLS of its connection: most often nothing.
fn socket_options(
    cluster: &WorkerCluster,
    env: &ChainEnv<'_>,
) -> Option<Rc<UpstreamSocketOptions>> {
    let info = cluster.info();
    let AutoTlsOptions {
        auto_sni,
        auto_san_validation,
        override_auto_sni_header,
    } = &info.settings.http.tls;
    let names_client = info.transport.names_client();
    let checks_name = (*auto_sni || *auto_san_validation) && info.transport.is_secure();
    if !checks_name && !names_client {
        return None;
    }
    let mut options = match names_client {
        true => UpstreamSocketOptions::naming_client(&env.info.connection),
        false => UpstreamSocketOptions::default(),
    };
    if !checks_name {
        return Some(Rc::new(options));
    }
    let other = match &**override_auto_sni_header {
        "" => None,
        name => env
            .request
            .fields
            .get(name)
            .filter(|value| !value.is_empty()),
    };
    let host = other
        .or_else(|| env.request.authority())
        .and_then(|host| std::str::from_utf8(host_without_port(host)).ok());
    let Some(host) = host else {
        return names_client.then(|| Rc::new(options));
    };
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    let name = || Box::from(host);
    options.server_name = (*auto_sni && !is_address).then(name);
    options.verify_names = auto_san_validation.then(name).into_iter().collect();
    Some(Rc::new(options))
}

/// A host as a name or address alone: `[::1]:80` is `::1`.
fn host_without_port(host: &[u8]) -> &[u8] {
    if let Some(rest) = host.strip_prefix(b"[") {
        let end = rest.iter().position(|byte| *byte == b']');
        return end.and_then(|end| rest.get(..end)).unwrap_or(host);
    }
    let colon = host.iter().rposition(|byte| *byte == b':');
    colon.and_then(|colon| host.get(..colon)).unwrap_or(host)
}
