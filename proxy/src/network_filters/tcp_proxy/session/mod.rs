//! One proxied connection, from its start to its log.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::TcpProxy;
use super::copy::{Broken, Endpoint, Relay};
use super::hash_policy::HashPolicy;
use super::tunnel::{Tunnel, TunnelError, TunnelingConfig};
use crate::formatter::FormatData;
use crate::net::Io;
use crate::network_filters::Connection;
use crate::overload::LoadShedPoint;
use crate::server::Worker;
use crate::stream_info::{BytesMeter, ResponseFlag, StreamInfo};
use crate::transport_sockets::UpstreamSocketOptions;
use crate::upstream::pool::{ConnectError, PoolError, TcpUpstream, UpstreamConnectionInfo};
use crate::upstream::{
    ClusterId, HostResult, LoadBalancerContext, NamedClusters, WorkerCluster, WorkerHost,
};

/// A connection on its way. Dropped, it counts and logs its end.
struct Session {
    proxy: Rc<TcpProxy>,
    worker: Rc<Worker>,
    info: StreamInfo,
    relay: Relay,
    /// Bytes of tunnels: their requests and answers, and attempts that came to nothing.
    tunnel_bytes: Option<BytesMeter>,
}

/// What a session is connected to.
enum Upstream {
    Tcp(Box<TcpUpstream>),
    Tunnel(Box<Tunnel>),
}

/// Why a session ended.
enum End {
    Closed,
    Broken(Broken),
    Idle,
    MaxDuration,
    Drained,
}

pub(super) async fn serve(proxy: Rc<TcpProxy>, connection: Connection) {
    let Connection {
        mut io,
        info,
        worker,
        drain,
        buffer_limit: _,
    } = connection;
    let start = info.start;
    let mut session = Session {
        info: StreamInfo::new(info, 0, None),
        proxy,
        worker,
        relay: Relay::default(),
        tunnel_bytes: None,
    };
    session.info.start = start;
    session.proxy.config.stats.downstream_cx_total().inc();
    if session.proxy.config.log_on_start {
        session.log("TcpConnectionStart");
    }
    let deadline = session.deadline(start);
    let connecting = Box::pin(session.connect(&mut io));
    let connected = match until(deadline, connecting).await {
        Some(connected) => connected,
        None => return session.end(&End::MaxDuration, &mut io),
    };
    let Some(mut upstream) = connected else {
        return;
    };
    if session.proxy.config.log_on_connected {
        session.log("TcpUpstreamConnected");
    }
    let draining = drain.draining();
    let check_drain = session.proxy.config.check_drain_close;
    let end = {
        let relayed = pin!(async {
            match &mut upstream {
                Upstream::Tcp(upstream) => session.relay(&mut io, &mut upstream.io).await,
                Upstream::Tunnel(tunnel) => session.relay(&mut io, &mut **tunnel).await,
            }
        });
        tokio::select! {
            biased;
            end = until(deadline, relayed) => end.unwrap_or(End::MaxDuration),
            () = draining, if check_drain => End::Drained,
        }
    };
    session.leave(&upstream, &end);
    session.end(&end, &mut io);
}

impl Session {
    fn deadline(&self, start: Instant) -> Option<Instant> {
        let config = &self.proxy.config;
        let duration = config.max_duration?;
        #[allow(
            clippy::cast_precision_loss,
            reason = "a random share needs no more than 52 bits"
        )]
        let share = (self.worker.random.next() >> 12) as f64 / (1u64 << 52) as f64;
        Some(start + duration + duration.mul_f64(config.max_duration_jitter * share))
    }

    /// Counts what the upstream has carried, and tells it how the session ended.
    fn leave(&mut self, upstream: &Upstream, end: &End) {
        let upstream = match upstream {
            Upstream::Tcp(upstream) => upstream,
            Upstream::Tunnel(tunnel) => {
                let bytes = tunnel.bytes();
                let all = self.tunnel_bytes.get_or_insert_default();
                all.wire_received += bytes.wire_received;
                all.wire_sent += bytes.wire_sent;
                return;
            }
        };
        match end {
            End::Broken(Broken::Client(error)) if is_reset(error) => upstream.io.reset_on_close(),
            End::Broken(Broken::Upstream(_)) => upstream.guard.closed_by_peer(),
            End::Closed if self.relay.response.has_ended() => upstream.guard.closed_by_peer(),
            _ => {}
        }
        let relay = &self.relay;
        upstream
            .guard
            .count_bytes(relay.response.bytes, relay.request.bytes);
    }

    /// The upstream connection; none: the reason is in the info, and the client's connection is to be closed.
    async fn connect(&mut self, io: &mut Io) -> Option<Upstream> {
        if self.proxy.config.connect_on_data {
            poll_fn(|cx| io.poll_read_ready(cx)).await;
            self.proxy
                .config
                .stats
                .early_data_received_count_total()
                .inc();
        }
        if self.sheds_connection() {
            self.overloaded();
            return None;
        }
        let Some(cluster) = self.pick_cluster() else {
            self.proxy.config.stats.downstream_cx_no_route().inc();
            self.info.response_flags.set(ResponseFlag::NoClusterFound);
            self.info.downstream_close_reason = Some(Cow::Borrowed("tcp_initializion_failure:3"));
            return None;
        };
        self.info.cluster = Some(cluster.clone());
        loop {
            if self.info.attempt_count >= self.proxy.config.max_connect_attempts {
                let exceeded = cluster.info().stats.upstream_cx_connect_attempts_exceeded();
                exceeded.inc();
                self.info
                    .response_flags
                    .set(ResponseFlag::UpstreamRetryLimitExceeded);
                self.info.downstream_close_reason =
                    Some(Cow::Borrowed("tcp_initializion_failure:0"));
                return None;
            }
            if self.info.attempt_count > 0
                && let Some(backoff) = self.proxy.config.backoff
            {
                let random = self.worker.random.next();
                tokio::time::sleep(backoff.before(self.info.attempt_count, random)).await;
            }
            let Some(host) = cluster.choose_host(&Choice {
                worker: &self.worker,
                hash_policy: self.proxy.config.hash_policy.as_ref(),
                info: &self.info,
            }) else {
                cluster.info().stats.upstream_cx_none_healthy().inc();
                self.info
                    .response_flags
                    .set(ResponseFlag::NoHealthyUpstream);
                self.info.downstream_close_reason =
                    Some(Cow::Borrowed("tcp_initializion_failure:1"));
                return None;
            };
            self.info.attempt_count += 1;
            self.info.upstream_mut().host = Some(host.clone());
            let proxy = self.proxy.clone();
            let connected = match &proxy.config.tunnel {
                None => cluster
                    .connect_tcp(&host, self.socket_options(&cluster))
                    .await
                    .map(|upstream| Upstream::Tcp(Box::new(upstream))),
                Some(tunnel) => match self.open_tunnel(tunnel, &cluster, &host).await {
                    Ok(tunnel) => Ok(Upstream::Tunnel(Box::new(tunnel))),
                    Err(TunnelError::Pool(error)) => Err(error),
                    Err(TunnelError::Reset) => {
                        self.connect_failed(None);
                        continue;
                    }
                    Err(TunnelError::Refused(status)) => {
                        let reason = format!("tunnel_response:{status}").into();
                        self.connect_failed(Some(ConnectError::Failed(reason)));
                        continue;
                    }
                },
            };
            match &connected {
                Ok(_) => cluster.report(&host, HostResult::ConnectSuccessFinal),
                Err(PoolError::Overflow) => {}
                Err(PoolError::Connect(ConnectError::Timeout)) => {
                    cluster.report(&host, HostResult::Timeout(None));
                }
                Err(_) => cluster.report(&host, HostResult::ConnectFailed),
            }
            match connected {
                Ok(upstream) => {
                    self.connected(match &upstream {
                        Upstream::Tcp(upstream) => &upstream.info,
                        Upstream::Tunnel(tunnel) => tunnel.stream().connection_info(),
                    });
                    return Some(upstream);
                }
                Err(PoolError::Overflow) => {
                    self.info.upstream_mut().host = None;
                    self.info.response_flags.set(ResponseFlag::UpstreamOverflow);
                    self.info.downstream_close_reason =
                        Some(Cow::Borrowed("tcp_initializion_failure:2"));
                    return None;
                }
                Err(PoolError::Connect(error)) => self.connect_failed(Some(error)),
                Err(_) => self.connect_failed(None),
            }
        }
    }

    /// Whether the overload manager wants no connection to an upstream.
    fn sheds_connection(&self) -> bool {
        let worker = &self.worker;
        let shed = &worker.server.overload.load_shed;
        let point = LoadShedPoint::TcpProxyUpstreamConnect;
        shed.sheds(point, || worker.random.next())
            && !self.info.connection.listener.bypass_overload_manager
    }

    /// Who is asked before what the client has sent goes on. None: nobody.
    fn gate(&self) -> Option<Rc<Worker>> {
        let shed = &self.worker.server.overload.load_shed;
        let gate = shed.is_there(LoadShedPoint::TcpProxyOnData)
            && !self.info.connection.listener.bypass_overload_manager;
        gate.then(|| self.worker.clone())
    }

    fn overloaded(&mut self) {
        let stats = &self.proxy.config.stats;
        stats.downstream_cx_overload_close().inc();
        let flags = &mut self.info.response_flags;
        flags.set(ResponseFlag::OverloadManagerTerminated);
        self.info.downstream_close_reason = Some(Cow::Borrowed(OVERLOADED));
    }

    fn pick_cluster(&self) -> Option<Rc<WorkerCluster>> {
        let state = self.info.connection.filter_state.borrow();
        let id: ClusterId = match state.get("envoy.tcp_proxy.cluster") {
            Some(object) => {
                let name = object.serialize_as_string()?;
                self.worker.clusters.find(&name)?
            }
            None => self.proxy.config.route.pick(self.worker.random.next()),
        };
        self.worker.clusters.get(id)
    }

    async fn open_tunnel(
        &mut self,
        tunnel: &TunnelingConfig,
        cluster: &Rc<WorkerCluster>,
        host: &Rc<WorkerHost>,
    ) -> Result<Tunnel, TunnelError> {
        let spent = self.tunnel_bytes.get_or_insert_default();
        tunnel
            .open(cluster, host, (&mut self.info, &self.worker.random), spent)
            .await
    }

    fn connected(&mut self, upstream: &UpstreamConnectionInfo) {
        let info = self.info.upstream_mut();
        info.local_address.clone_from(&upstream.local_address);
        info.connection_id = Some(upstream.id);
        info.connect_start = Some(upstream.connect_start);
        info.connect_end = Some(upstream.connect_end);
        info.pool_ready = Some(Instant::now());
        info.tls.clone_from(&upstream.tls);
    }

    fn connect_failed(&mut self, error: Option<ConnectError>) {
        let failed = ResponseFlag::UpstreamConnectionFailure;
        match error {
            // As Envoy: what fails on our side sets no flag.
            Some(ConnectError::Local(reason)) => {
                self.info.upstream_mut().transport_failure_reason = Some(reason);
            }
            Some(ConnectError::Failed(reason)) => {
                self.info.upstream_mut().transport_failure_reason = Some(reason);
                self.info.response_flags.set(failed);
            }
            Some(ConnectError::Timeout) | None => self.info.response_flags.set(failed),
        }
    }

    /// Moves bytes until both sides have ended, one broke, or nothing moved for too long.
    async fn relay(&mut self, client: &mut Io, upstream: &mut impl Endpoint) -> End {
        let config = self.proxy.config.clone();
        let mut idle = config.idle_timeout.map(Timer::new);
        let mut periodic = config.log_interval.map(Timer::new);
        self.relay.request.gate = self.gate();
        poll_fn(|cx| {
            if let Poll::Ready(ended) = self.relay.poll(client, upstream, cx) {
                return Poll::Ready(ended.map_or_else(End::Broken, |()| End::Closed));
            }
            if let Some(timer) = &mut idle
                && timer.poll(cx, self.relay.last_progress())
            {
                return Poll::Ready(End::Idle);
            }
            if let Some(timer) = &mut periodic {
                while timer.poll(cx, None) {
                    self.log("TcpPeriodic");
                    timer.restart();
                }
            }
            Poll::Pending
        })
        .await
    }

    /// What the cluster wants to know of the client for the connection: most often nothing.
    fn socket_options(&self, cluster: &WorkerCluster) -> Option<Rc<UpstreamSocketOptions>> {
        let connection = &self.info.connection;
        let named = || UpstreamSocketOptions::naming_client(connection);
        let names_client = cluster.info().transport.names_client();
        names_client.then(|| Rc::new(named()))
    }

    /// Notes why the session ended. The rest is done when it is dropped.
    fn end(&mut self, end: &End, io: &mut Io) {
        let stats = &self.proxy.config.stats;
        let reason = match end {
            End::Closed | End::Broken(Broken::Client(_)) => return,
            End::Broken(Broken::Upstream(error)) => {
                if is_reset(error) {
                    self.info
                        .response_flags
                        .set(ResponseFlag::UpstreamRemoteReset);
                    io.reset_on_close();
                }
                return;
            }
            End::Broken(Broken::Overloaded) => {
                // What came is counted, though it went nowhere.
                let kept_back = &self.info.connection.bytes_received;
                kept_back.set(kept_back.get() + self.relay.request.unwritten() as u64);
                self.overloaded();
                OVERLOADED
            }
            End::Idle => {
                stats.idle_timeout().inc();
                "tcp_session_idle_timeout"
            }
            End::MaxDuration => {
                stats.max_downstream_connection_duration().inc();
                self.info.response_flags.set(ResponseFlag::DurationTimeout);
                "max_connection_duration_reached"
            }
            End::Drained => {
                stats.downstream_cx_drain_close().inc();
                "drain_close"
            }
        };
        self.info.downstream_close_reason = Some(Cow::Borrowed(reason));
        if let Some(upstream) = &mut self.info.upstream {
            upstream.close_reason = Some(Cow::Borrowed(reason));
        }
    }

    fn log(&mut self, log_type: &'static str) {
        if self.proxy.logs.is_empty() {
            return;
        }
        let (request, response) = (&self.relay.request, &self.relay.response);
        self.info.bytes_received = request.bytes + self.info.connection.bytes_received.get();
        self.info.bytes_sent = response.bytes;
        self.info.dynamic_metadata = self.info.connection.dynamic_metadata.borrow().clone();
        self.info.note_closing_filter();
        self.info.downstream_bytes.wire_received = request.bytes;
        self.info.downstream_bytes.wire_sent = response.bytes;
        let tunnel = self.tunnel_bytes;
        let upstream = &mut self.info.upstream_bytes;
        upstream.wire_received = tunnel.map_or(response.bytes, |bytes| bytes.wire_received);
        upstream.wire_sent = tunnel.map_or(request.bytes, |bytes| bytes.wire_sent);
        self.proxy.logs.log(&FormatData {
            info: &self.info,
            request: None,
            response: None,
            request_trailers: None,
            response_trailers: None,
            local_reply_body: b"",
            log_type,
        });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let stats = &self.proxy.config.stats;
        let (request, response) = (&self.relay.request, &self.relay.response);
        let connection = self.info.connection.clone();
        // What network filters kept back when they closed the connection.
        let kept_back = connection.bytes_received.get();
        stats
            .downstream_cx_rx_bytes_total()
            .add(request.bytes + kept_back);
        stats.downstream_cx_tx_bytes_total().add(response.bytes);
        let (paused, resumed) = (
            stats.downstream_flow_control_paused_reading_total(),
            stats.downstream_flow_control_resumed_reading_total(),
        );
        paused.add(request.paused);
        resumed.add(request.paused);
        let bytes = (request.bytes + kept_back, response.bytes);
        self.log("TcpConnectionEnd");
        connection.bytes_received.set(bytes.0);
        connection.bytes_sent.set(bytes.1);
    }
}

/// What a host is chosen by.
struct Choice<'a> {
    worker: &'a Worker,
    hash_policy: Option<&'a HashPolicy>,
    info: &'a StreamInfo,
}

impl LoadBalancerContext for Choice<'_> {
    fn random(&self) -> u64 {
        self.worker.random.next()
    }
    fn hash_key(&self) -> Option<u64> {
        self.hash_policy?.hash(self.info)
    }
}

/// Why the overload manager ends a connection.
const OVERLOADED: &str = "overload_manager_close";

/// A timer that is set anew only when it fires too early, not on every byte.
struct Timer {
    period: Duration,
    sleep: std::pin::Pin<Box<tokio::time::Sleep>>,
    start: Instant,
}

impl Timer {
    fn new(period: Duration) -> Self {
        let start = Instant::now();
        Self {
            period,
            sleep: Box::pin(sleep_until(start + period)),
            start,
        }
    }

    /// Whether the period has passed since the start, and since `progress`.
    fn poll(&mut self, cx: &mut Context<'_>, progress: Option<Instant>) -> bool {
        while self.sleep.as_mut().poll(cx).is_ready() {
            let due = self.start.max(progress.unwrap_or(self.start)) + self.period;
            if due <= Instant::now() {
                return true;
            }
            self.sleep.as_mut().reset(due);
        }
        false
    }

    fn restart(&mut self) {
        self.start = Instant::now();
        self.sleep.as_mut().reset(self.start + self.period);
    }
}

/// None: the deadline came first.
async fn until<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        None => Some(future.await),
        Some(deadline) => tokio::time::timeout_at(deadline, future).await.ok(),
    }
}

fn is_reset(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::ConnectionReset
}

#[cfg(test)]
mod tests;
