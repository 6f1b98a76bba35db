//! Connection pools of one host on one worker, and the seam between the router and the codecs of upstream connections.
//!
//! A pool belongs to one host, priority and protocol. Requests for which no connection is free wait in its queue, first come,
//! first served, by whichever connection is ready next: a new one, or one that another request has ended with.
//! Stats: `cluster.<name>.upstream_cx_*`, `upstream_rq_{total,active,cancelled,pending_*}`.
//! Deviations: `upstream_cx_{rx,tx}_bytes_buffered` and the flow-control counters stay at zero.

mod alpn;
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

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
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

use alpn::Discovery;
use http1_pool::Http1Pool;
use http2_pool::Http2Pool;

use super::circuit_breaker::{Resource, RoutingPriority};
use super::cluster::ProtocolChoice;
use super::cluster_handle::ClusterHandle;
use super::host::{HostHandle, WorkerHost};
use crate::http::Protocol;
use crate::transport_sockets::{UpstreamConnected, UpstreamSocketOptions, UpstreamSocketRequest};

/// The pools of one host on one worker, each made when first needed.
#[derive(Default)]
pub(super) struct HostPools {
    /// Of requests that ask nothing of their connection.
    plain: RefCell<Option<Rc<PoolSet>>>,
    /// Of those that do.
    by_options: RefCell<HashMap<Rc<UpstreamSocketOptions>, Rc<PoolSet>>>,
}

/// The pools of connections that are made in the same way, by priority.
#[derive(Default)]
struct PoolSet {
    http1: [OnceCell<Rc<Http1Pool>>; 2],
    http2: [OnceCell<Rc<Http2Pool>>; 2],
    discovery: [OnceCell<Rc<Discovery>>; 2],
    /// What ALPN has told.
    protocol: [Cell<Option<Protocol>>; 2],
}

/// What a pool and all that comes out of it share.
pub(super) struct PoolOwner {
    pub(super) cluster: Rc<ClusterHandle>,
    pub(super) host: Rc<HostHandle>,
    pub(super) priority: RoutingPriority,
    /// What requests ask of its connections.
    options: Option<Rc<UpstreamSocketOptions>>,
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
        let connecting = raw::connect_raw(cluster, host.handle(), request.options.clone());
        return Acquire::Pending(PendingStream::connecting(connecting));
    }
    let slot = request.priority as usize;
    let pools = match &request.options {
        None => host.pools.plain(),
        Some(options) => host.pools.with_options(options),
    };
    let protocol = match cluster.info.settings.http.protocol {
        ProtocolChoice::Http1 => Some(Protocol::Http11),
        ProtocolChoice::Http2 => Some(Protocol::Http2),
        ProtocolChoice::UseDownstream => {
            Some(request.downstream_protocol.unwrap_or(Protocol::Http11))
        }
        ProtocolChoice::Auto => pools.protocol[slot].get(),
    };
    let missing = match protocol {
        Some(Protocol::Http2) => pools.http2[slot].get().is_none(),
        Some(_) => pools.http1[slot].get().is_none(),
        None => pools.discovery[slot].get().is_none(),
    };
    if missing && !cluster.has_room(request.priority, Resource::ConnectionPools) {
        cluster.info.stats.upstream_cx_pool_overflow().inc();
        return Acquire::Failed(PoolError::Overflow);
    }
    let owner = || {
        PoolOwner::new(cluster.clone(), host.handle().clone(), request.priority)
            .with_options(request.options.clone())
    };
    match protocol {
        Some(protocol) => pools.new_stream(protocol, slot, owner),
        None => pools.discovery[slot]
            .get_or_init(|| Discovery::new(owner()))
            .new_stream(&pools),
    }
}

impl HostPools {
    fn plain(&self) -> Rc<PoolSet> {
        self.plain
            .borrow_mut()
            .get_or_insert_with(Rc::default)
            .clone()
    }

    /// Ends idle connections; those in use end with their streams. What comes later gets new ones.
    pub(super) fn drain(&self) {
        let plain = self.plain.take();
        plain.into_iter().for_each(|pools| pools.drain());
        let others = self.by_options.take();
        others.values().for_each(|pools| pools.drain());
    }

    fn with_options(&self, options: &Rc<UpstreamSocketOptions>) -> Rc<PoolSet> {
        if let Some(pools) = self.by_options.borrow().get(options) {
            return pools.clone();
        }
        if self.by_options.borrow().len() >= MOST_OPTIONS {
            // Clients choose them; those who are still needed are made anew.
            let forgotten = self.by_options.take();
            forgotten.values().for_each(|pools| pools.drain());
        }
        let made = Rc::<PoolSet>::default();
        let mut pools = self.by_options.borrow_mut();
        pools.insert(options.clone(), made.clone());
        made
    }
}

/// How many sets of pools a host has at most.
const MOST_OPTIONS: usize = 256;

impl PoolSet {
    fn new_stream(
        &self,
        protocol: Protocol,
        slot: usize,
        owner: impl FnOnce() -> PoolOwner,
    ) -> Acquire {
        match protocol {
            Protocol::Http2 => self.http2(slot, owner).new_stream(),
            Protocol::Http10 | Protocol::Http11 => self.http1(slot, owner).new_stream(),
        }
    }

    /// Gives a connection that was made already to the pool of its protocol.
    fn adopt(
        &self,
        protocol: Protocol,
        slot: usize,
        owner: impl FnOnce() -> PoolOwner,
        connected: Connected,
    ) {
        match protocol {
            Protocol::Http2 => self.http2(slot, owner).adopt(connected),
            Protocol::Http10 | Protocol::Http11 => self.http1(slot, owner).adopt(connected),
        }
    }

    fn http1(&self, slot: usize, owner: impl FnOnce() -> PoolOwner) -> &Rc<Http1Pool> {
        self.http1[slot].get_or_init(|| Http1Pool::new(owner()))
    }

    fn http2(&self, slot: usize, owner: impl FnOnce() -> PoolOwner) -> &Rc<Http2Pool> {
        self.http2[slot].get_or_init(|| Http2Pool::new(owner()))
    }

    fn drain(&self) {
        let http1 = self.http1.iter().filter_map(OnceCell::get);
        http1.for_each(|pool| pool.drain());
        let http2 = self.http2.iter().filter_map(OnceCell::get);
        http2.for_each(|pool| pool.drain());
    }
}

impl PoolOwner {
    fn new(cluster: Rc<ClusterHandle>, host: Rc<HostHandle>, priority: RoutingPriority) -> Self {
        cluster.acquire(priority, Resource::ConnectionPools);
        Self {
            cluster,
            host,
            priority,
            options: None,
        }
    }

    fn with_options(mut self, options: Option<Rc<UpstreamSocketOptions>>) -> Self {
        self.options = options;
        self
    }

    /// The owner of another pool of connections that are made in the same way.
    fn another(&self) -> Self {
        Self::new(self.cluster.clone(), self.host.clone(), self.priority)
            .with_options(self.options.clone())
    }

    /// A new connection to the host, ready for use, within `connect_timeout`. `alpn`: what is offered where nothing is configured.
    async fn connect(&self, alpn: &[&'static [u8]]) -> Result<Connected, ConnectError> {
        let settings = &self.cluster.info.settings;
        let connecting = self
            .cluster
            .connector
            .connect(&self.host.host, &settings.sockets);
        let transport = &self.cluster.info.transport;
        let Some(socket) = transport.of_host(&self.host.host.metadata) else {
            return tokio::time::timeout(settings.connect_timeout, connecting)
                .await
                .unwrap_or(Err(ConnectError::Timeout));
        };
        let securing = async {
            let connected = connecting.await?;
            let host = &self.host.host;
            let request = UpstreamSocketRequest {
                peer: connected.remote_address.as_ref().unwrap_or(&host.address),
                hostname: &host.hostname,
                options: self.options.as_deref(),
                alpn_fallback: alpn,
            };
            let secured = socket.connect(connected.io, request).await;
            let UpstreamConnected { io, tls } = secured.map_err(ConnectError::Failed)?;
            Ok(Connected {
                io,
                tls,
                ..connected
            })
        };
        tokio::time::timeout(settings.connect_timeout, securing)
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

impl Drop for HostPools {
    fn drop(&mut self) {
        self.drain();
    }
}

impl fmt::Debug for HostPools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostPools").finish_non_exhaustive()
    }
}
