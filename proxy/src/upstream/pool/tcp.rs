//! TCP connections for `tcp_proxy`: each is made for one downstream connection.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::super::circuit_breaker::RoutingPriority;
use super::super::cluster_handle::ClusterHandle;
use super::super::host::HostHandle;
use super::connection::{ConnectionGuard, RequestGuard, UpstreamConnectionInfo};
use super::pending::PendingGuard;
use super::{PoolError, PoolOwner};
use crate::LocalBoxFuture;
use crate::net::{Io, IoLayer};
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
        if owner.cluster.cluster.sheds_connections() {
            return Err(PoolError::Overflow);
        }
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
        let settings = &owner.cluster.info.settings;
        let io = match settings.close_connections_on_host_health_failure {
            true => until_failure(connected.io, owner.host.failures.clone()),
            false => connected.io,
        };
        Ok(TcpUpstream {
            io,
            info: Rc::new(info),
            guard,
            _request: request,
        })
    }
}

/// A connection that ends when its host fails.
struct UntilFailure {
    below: Io,
    failed: LocalBoxFuture<'static, ()>,
    has_failed: bool,
}

fn until_failure(below: Io, failures: Rc<Notify>) -> Io {
    let failed = Box::pin(async move { failures.notified().await });
    Io::layered(Box::new(UntilFailure {
        below,
        failed,
        has_failed: false,
    }))
}

impl UntilFailure {
    fn poll_failed(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.has_failed {
            self.has_failed = self.failed.as_mut().poll(cx).is_ready();
        }
        self.has_failed
    }
}

impl AsyncRead for UntilFailure {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.poll_failed(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.below).poll_read(cx, buf)
    }
}

impl AsyncWrite for UntilFailure {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.has_failed {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.below).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.below).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.below).poll_shutdown(cx)
    }
}

impl IoLayer for UntilFailure {
    /// A read alone can tell whether the host has failed.
    fn poll_read_ready(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn below(&self) -> &Io {
        &self.below
    }
}

impl fmt::Debug for UntilFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UntilFailure").field(&self.below).finish()
    }
}
