//! TCP connections for `tcp_proxy`: each is made for one downstream connection.

use std::future::Future;
use std::rc::Rc;

use super::super::circuit_breaker::RoutingPriority;
use super::super::host::HostHandle;
use super::super::worker_clusters::ClusterHandle;
use super::connection::{ConnectionGuard, RequestGuard, UpstreamConnectionInfo};
use super::pending::PendingGuard;
use super::{PoolError, PoolOwner};
use crate::net::Io;
use crate::transport_sockets::UpstreamSocketOptions;

/// A TCP connection to a host. Dropped, it is counted as closed by us unless `guard` was told otherwise.
#[derive(Debug)]
pub struct TcpUpstream {
    /// The bytes.
    pub io: Io,
    /// What is known about it.
    pub info: Rc<UpstreamConnectionInfo>,
    /// Counts bytes, and who closed it.
    pub guard: ConnectionGuard,
    _request: RequestGuard,
}

/// Connects to the host, if circuit breakers allow it.
pub(crate) fn connect_tcp(
    cluster: &Rc<ClusterHandle>,
    host: &Rc<HostHandle>,
    options: Option<Rc<UpstreamSocketOptions>>,
) -> impl Future<Output = Result<TcpUpstream, PoolError>> + 'static {
    let owner = PoolOwner::new(cluster.clone(), host.clone(), RoutingPriority::Default)
        .with_options(options);
    async move {
        let guard = ConnectionGuard::try_new(&owner, false, None).ok_or(PoolError::Overflow)?;
        let pending = PendingGuard::try_new(&owner).ok_or(PoolError::Overflow)?;
        let connected = match owner.connect(&[]).await {
            Ok(connected) => connected,
            Err(error) => {
                guard.failed(&error);
                owner
                    .cluster
                    .info
                    .stats
                    .upstream_rq_pending_failure_eject()
                    .inc();
                return Err(PoolError::Connect(error));
            }
        };
        drop(pending);
        let info = guard.connected(&connected, None);
        let request = RequestGuard::try_new(&owner.cluster, Some(&owner.host), owner.priority)
            .ok_or(PoolError::Overflow)?;
        info.requests.set(1);
        guard.request_started();
        Ok(TcpUpstream {
            io: connected.io,
            info: Rc::new(info),
            guard,
            _request: request,
        })
    }
}
