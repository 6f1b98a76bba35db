//! What every upstream connection counts while it lives.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::super::circuit_breaker::{Resource, RoutingPriority};
use super::super::cluster::ClusterTrafficStats;
use super::super::cluster_handle::ClusterHandle;
use super::super::host::{HostHandle, HostStat};
use super::{PoolOwner, ResetReason};
use crate::http::Protocol;
use crate::net::Address;
use crate::stream_info::{BytesMeter, TlsConnectionInfo};

/// An upstream connection, as its streams see it.
#[derive(Debug)]
pub struct UpstreamConnectionInfo {
    /// A number of its own within the process, as `%UPSTREAM_CONNECTION_ID%` prints it.
    pub id: u64,
    /// Our end.
    pub local_address: Option<Address>,
    /// The peer: one of the addresses of the host.
    pub remote_address: Option<Address>,
    /// What is spoken on it; none on a TCP connection.
    pub protocol: Option<Protocol>,
    /// When connecting began.
    pub connect_start: Instant,
    /// When the connection was there.
    pub connect_end: Instant,
    /// What TLS agreed on; none: it is plain.
    pub tls: Option<Rc<TlsConnectionInfo>>,
    pub(super) requests: Cell<u32>,
}

/// The life of a connection in stats and circuit breakers, from the attempt to connect to the end.
#[derive(Debug)]
pub struct ConnectionGuard {
    cluster: Rc<ClusterHandle>,
    host: Rc<HostHandle>,
    priority: RoutingPriority,
    start: Instant,
    requests: Cell<u32>,
    active: Cell<u32>,
    remote: Cell<bool>,
    /// It ended under a request.
    broken: Cell<bool>,
    http: bool,
}

/// A request in flight, in stats and circuit breakers.
#[derive(Debug)]
pub struct RequestGuard {
    cluster: Rc<ClusterHandle>,
    host: Option<Rc<HostHandle>>,
    priority: RoutingPriority,
}

/// A retry in flight, in the circuit breakers.
#[derive(Debug)]
pub struct RetryGuard {
    cluster: Rc<ClusterHandle>,
    priority: RoutingPriority,
}

impl UpstreamConnectionInfo {
    /// Whether another request used the connection before.
    pub fn reused(&self) -> bool {
        self.requests.get() > 1
    }
}

impl ConnectionGuard {
    /// Counts an attempt to connect, if circuit breakers allow it. `first`: the pool has no other connection; then it may always
    /// have one, since nothing else would ever serve those who wait.
    pub(super) fn try_new(
        owner: &PoolOwner,
        first: bool,
        protocol: Option<Protocol>,
    ) -> Option<Self> {
        let PoolOwner {
            cluster,
            host,
            priority,
            ..
        } = owner;
        let stats = &cluster.info.stats;
        let per_host = cluster
            .info
            .settings
            .circuit_breakers
            .per_host_max_connections[*priority as usize];
        let host_has_room =
            per_host.is_none_or(|max| host.host.stats.get(HostStat::CxActive) < u64::from(max));
        if !host_has_room || !cluster.has_room(*priority, Resource::Connections) {
            stats.upstream_cx_overflow().inc();
            if !first {
                return None;
            }
        }
        cluster.acquire(*priority, Resource::Connections);
        stats.upstream_cx_total().inc();
        stats.upstream_cx_active().inc();
        match protocol {
            Some(Protocol::Http2) => stats.upstream_cx_http2_total().inc(),
            Some(_) => stats.upstream_cx_http1_total().inc(),
            None => {}
        }
        host.count(HostStat::CxTotal);
        host.count(HostStat::CxActive);
        Some(Self {
            cluster: cluster.clone(),
            host: host.clone(),
            priority: *priority,
            start: Instant::now(),
            requests: Cell::new(0),
            active: Cell::new(0),
            remote: Cell::new(false),
            broken: Cell::new(false),
            http: protocol.is_some(),
        })
    }

    /// Counts that the connection is there, and describes it.
    pub(super) fn connected(
        &self,
        connected: &super::Connected,
        protocol: Option<Protocol>,
    ) -> UpstreamConnectionInfo {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let now = Instant::now();
        self.cluster
            .info
            .stats
            .upstream_cx_connect_ms()
            .record(millis(now - self.start));
        UpstreamConnectionInfo {
            id: NEXT_ID.fetch_add(1, Relaxed),
            local_address: connected.local_address.clone(),
            remote_address: connected.remote_address.clone(),
            protocol,
            connect_start: self.start,
            connect_end: now,
            tls: connected.tls.clone(),
            requests: Cell::new(0),
        }
    }

    /// Counts that the connection could not be made.
    pub(super) fn failed(&self, error: &super::ConnectError) {
        let stats = &self.cluster.info.stats;
        match error {
            super::ConnectError::Timeout => stats.upstream_cx_connect_timeout().inc(),
            super::ConnectError::Failed(_) => self.remote.set(true),
            super::ConnectError::Local(text) if text.starts_with("failed to bind") => {
                stats.bind_errors().inc()
            }
            super::ConnectError::Local(_) => {}
        }
        stats.upstream_cx_connect_fail().inc();
        self.host.count(HostStat::CxConnectFail);
    }

    /// What the cluster counts of its traffic.
    pub(super) fn stats(&self) -> &ClusterTrafficStats {
        &self.cluster.info.stats
    }

    /// Requests that have not ended.
    pub(super) fn active_requests(&self) -> u32 {
        self.active.get()
    }

    /// A request begins on the connection.
    pub(super) fn request_started(&self) {
        self.requests.set(self.requests.get() + 1);
        self.active.set(self.active.get() + 1);
    }

    /// A request ended, and used this many bytes.
    pub(super) fn request_ended(&self, bytes: BytesMeter) {
        self.active.set(self.active.get().saturating_sub(1));
        self.count_bytes(bytes.wire_received, bytes.wire_sent);
    }

    /// Adds to `upstream_cx_rx_bytes_total` and `upstream_cx_tx_bytes_total`.
    pub fn count_bytes(&self, received: u64, sent: u64) {
        let stats = &self.cluster.info.stats;
        stats.upstream_cx_rx_bytes_total().add(received);
        stats.upstream_cx_tx_bytes_total().add(sent);
    }

    /// Notes how a stream broke off, where that tells who ended the connection.
    pub(super) fn broke_off(&self, reason: &ResetReason) {
        match reason {
            ResetReason::ConnectionTermination => {
                self.closed_by_peer();
                self.ends_under_request();
            }
            ResetReason::ProtocolError(_) => {
                self.cluster.info.stats.upstream_cx_protocol_error().inc();
            }
            _ => {}
        }
    }

    /// Notes that the connection ends before a request on it has.
    pub(super) fn ends_under_request(&self) {
        self.broken.set(true);
    }

    /// Says that it was the peer who ended the connection.
    pub fn closed_by_peer(&self) {
        self.remote.set(true);
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let stats = &self.cluster.info.stats;
        stats.upstream_cx_active().dec();
        stats.upstream_cx_destroy().inc();
        let busy = self.broken.get() || self.active.get() > 0;
        if busy {
            stats.upstream_cx_destroy_with_active_rq().inc();
        }
        match (self.remote.get(), busy) {
            (true, false) => stats.upstream_cx_destroy_remote().inc(),
            (false, false) => stats.upstream_cx_destroy_local().inc(),
            (true, true) => {
                stats.upstream_cx_destroy_remote().inc();
                stats.upstream_cx_destroy_remote_with_active_rq().inc();
            }
            (false, true) => {
                stats.upstream_cx_destroy_local().inc();
                stats.upstream_cx_destroy_local_with_active_rq().inc();
            }
        }
        stats
            .upstream_cx_length_ms()
            .record(millis(self.start.elapsed()));
        if self.http {
            stats
                .upstream_rq_per_cx()
                .record(u64::from(self.requests.get()));
        }
        self.host.uncount(HostStat::CxActive);
        self.cluster.release(self.priority, Resource::Connections);
    }
}

impl RequestGuard {
    /// Counts a request, if circuit breakers allow it.
    pub(in crate::upstream) fn try_new(
        cluster: &Rc<ClusterHandle>,
        host: Option<&Rc<HostHandle>>,
        priority: RoutingPriority,
    ) -> Option<Self> {
        let stats = &cluster.info.stats;
        if !cluster.has_room(priority, Resource::Requests) {
            stats.upstream_rq_active_overflow().inc();
            return None;
        }
        cluster.acquire(priority, Resource::Requests);
        stats.upstream_rq_total().inc();
        stats.upstream_rq_active().inc();
        if let Some(host) = host {
            host.count(HostStat::RqTotal);
            host.count(HostStat::RqActive);
        }
        Some(Self {
            cluster: cluster.clone(),
            host: host.cloned(),
            priority,
        })
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.cluster.info.stats.upstream_rq_active().dec();
        if let Some(host) = &self.host {
            host.uncount(HostStat::RqActive);
        }
        self.cluster.release(self.priority, Resource::Requests);
    }
}

impl RetryGuard {
    /// Counts a retry, if circuit breakers allow it.
    pub(in crate::upstream) fn try_new(
        cluster: &Rc<ClusterHandle>,
        priority: RoutingPriority,
    ) -> Option<Self> {
        if !cluster.has_room(priority, Resource::Retries) {
            return None;
        }
        cluster.acquire(priority, Resource::Retries);
        Some(Self {
            cluster: cluster.clone(),
            priority,
        })
    }
}

impl Drop for RetryGuard {
    fn drop(&mut self) {
        self.cluster.release(self.priority, Resource::Retries);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
