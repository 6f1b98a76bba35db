//! Connection pools of one host on one worker, and the seam between the router and the codecs of upstream connections.
//!
//! A pool belongs to one host, priority and protocol. Requests for which no connection is free wait in its queue, first come,
//! first served, by whichever connection is ready next: a new one, or one that another request has ended with.
//! Stats: `cluster.<name>.upstream_cx_*`, `upstream_rq_{total,active,cancelled,pending_*}`.
//! Deviations: `upstream_cx_{rx,tx}_bytes_buffered` and the flow-control counters stay at zero.

mod connect;
mod connection;
mod events;
pub mod http1;
mod http1_pool;
pub mod http2;
mod http2_pool;
mod pending;
mod raw;
mod stream;
mod tcp;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

pub use connect::{Connected, Connector, SocketConnector, SocketSettings, SourceAddress};
pub use connection::{ConnectionGuard, RequestGuard, RetryGuard, UpstreamConnectionInfo};
pub use events::{ConnectError, PoolError, ResetReason, ResponseEvent};
pub use pending::PendingStream;
pub use raw::RawStream;
pub use stream::{Acquire, ClientStream, Http1Stream, Http2Stream, StreamKind, StreamRequest};
pub use tcp::TcpUpstream;

pub(super) use tcp::connect_tcp;

use http1_pool::Http1Pool;
use http2_pool::Http2Pool;

use super::circuit_breaker::{Resource, RoutingPriority};
use super::cluster::ProtocolChoice;
use super::host::{HostHandle, WorkerHost};
use super::worker_clusters::ClusterHandle;
use crate::http::Protocol;

/// The pools of one host on one worker, each made when first needed.
#[derive(Default)]
pub(super) struct HostPools {
    http1: [OnceCell<Rc<Http1Pool>>; 2],
    http2: [OnceCell<Rc<Http2Pool>>; 2],
}

/// What a pool and all that comes out of it share.
pub(super) struct PoolOwner {
    pub(super) cluster: Rc<ClusterHandle>,
    pub(super) host: Rc<HostHandle>,
    pub(super) priority: RoutingPriority,
}

impl PoolOwner {
    /// Whether a connection has carried `max_requests_per_connection`, which is counted.
    fn has_had_enough(&self, connection: &UpstreamConnectionInfo) -> bool {
        let info = &self.cluster.info;
        let max = info.settings.http.common.max_requests_per_connection;
        let enough = max.is_some_and(|max| connection.requests.get() >= max);
        if enough {
            info.stats.upstream_cx_max_requests().inc();
        }
        enough
    }
}

/// Gets a stream for a request from the right pool of `host`.
pub(super) fn new_http_stream(
    cluster: &Rc<ClusterHandle>,
    host: &WorkerHost,
    request: &StreamRequest,
) -> Acquire {
    if request.kind == StreamKind::RawTcp {
        let connecting = raw::connect_raw(cluster, host.handle());
        return Acquire::Pending(PendingStream::connecting(connecting));
    }
    let protocol = match cluster.info.settings.http.protocol {
        ProtocolChoice::Http1 => Protocol::Http11,
        ProtocolChoice::Http2 => Protocol::Http2,
        ProtocolChoice::UseDownstream => request.downstream_protocol.unwrap_or(Protocol::Http11),
    };
    let slot = request.priority as usize;
    let pools = &host.pools;
    let missing = match protocol {
        Protocol::Http2 => pools.http2[slot].get().is_none(),
        Protocol::Http10 | Protocol::Http11 => pools.http1[slot].get().is_none(),
    };
    if missing && !cluster.has_room(request.priority, Resource::ConnectionPools) {
        cluster.info.stats.upstream_cx_pool_overflow().inc();
        return Acquire::Failed(PoolError::Overflow);
    }
    let owner = || PoolOwner::new(cluster.clone(), host.handle().clone(), request.priority);
    match protocol {
        Protocol::Http2 => pools.http2[slot]
            .get_or_init(|| Http2Pool::new(owner()))
            .new_stream(),
        Protocol::Http10 | Protocol::Http11 => pools.http1[slot]
            .get_or_init(|| Http1Pool::new(owner()))
            .new_stream(),
    }
}

impl HostPools {
    /// Ends idle connections; those in use end with their streams.
    pub(super) fn drain(&self) {
        self.http1
            .iter()
            .filter_map(OnceCell::get)
            .for_each(|pool| pool.drain());
        self.http2
            .iter()
            .filter_map(OnceCell::get)
            .for_each(|pool| pool.drain());
    }
}

impl PoolOwner {
    fn new(cluster: Rc<ClusterHandle>, host: Rc<HostHandle>, priority: RoutingPriority) -> Self {
        cluster.acquire(priority, Resource::ConnectionPools);
        Self {
            cluster,
            host,
            priority,
        }
    }

    /// A new connection to the host, within `connect_timeout`.
    async fn connect(&self) -> Result<Connected, ConnectError> {
        let settings = &self.cluster.info.settings;
        let connecting = self
            .cluster
            .connector
            .connect(&self.host.host, &settings.sockets);
        tokio::time::timeout(settings.connect_timeout, connecting)
            .await
            .unwrap_or(Err(ConnectError::Timeout))
    }

    /// When a connection made at `start` reaches `max_connection_duration`.
    fn expires(&self, start: Instant) -> Option<Instant> {
        let common = &self.cluster.info.settings.http.common;
        let duration = common.max_connection_duration?;
        let jitter = common
            .max_connection_duration_jitter
            .map_or(Duration::ZERO, |share| {
                duration.mul_f64(share * rand::random::<f64>())
            });
        Some(start + duration + jitter)
    }
}

impl Drop for PoolOwner {
    fn drop(&mut self) {
        self.cluster
            .release(self.priority, Resource::ConnectionPools);
    }
}

impl fmt::Debug for HostPools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostPools").finish_non_exhaustive()
    }
}
