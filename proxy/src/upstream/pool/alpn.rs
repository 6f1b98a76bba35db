//! `auto_config`: the first connection to a host finds out by ALPN which protocol it speaks.
//!
//! Requests that come before that wait here. The connection then belongs to the pool of its protocol, which is the one of all
//! later requests to the host on this worker.

use std::cell::Cell;
use std::rc::Rc;

use super::pending::PendingQueue;
use super::stream::Acquire;
use super::{Connected, PoolError, PoolOwner, PoolSet};
use crate::http::Protocol;

/// What is offered to a host of which nothing is known.
const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];

/// The requests that wait for the first connection to a host.
pub(super) struct Discovery {
    owner: PoolOwner,
    pending: PendingQueue,
    connecting: Cell<bool>,
}

impl Discovery {
    pub(super) fn new(owner: PoolOwner) -> Rc<Self> {
        Rc::new(Self {
            owner,
            pending: PendingQueue::default(),
            connecting: Cell::new(false),
        })
    }

    /// A place in the queue; the first one connects.
    pub(super) fn new_stream(self: &Rc<Self>, pools: &Rc<PoolSet>) -> Acquire {
        let Some(pending) = self.pending.enter(&self.owner) else {
            return Acquire::Failed(PoolError::Overflow);
        };
        if !self.connecting.replace(true) {
            let (discovery, pools) = (self.clone(), pools.clone());
            tokio::task::spawn_local(async move {
                let connected = discovery.owner.connect(BOTH).await;
                discovery.connecting.set(false);
                match connected {
                    Ok(connected) => discovery.found(&pools, connected),
                    Err(error) => {
                        let stats = &discovery.owner.cluster.info.stats;
                        stats.upstream_cx_connect_fail().inc();
                        for waiter in discovery.pending.take_all() {
                            stats.upstream_rq_pending_failure_eject().inc();
                            waiter.resolve(Err(PoolError::Connect(error.clone())));
                        }
                    }
                }
            });
        }
        Acquire::Pending(pending)
    }

    fn found(&self, pools: &Rc<PoolSet>, connected: Connected) {
        let is_h2 = connected
            .tls
            .as_ref()
            .is_some_and(|tls| tls.alpn.as_deref() == Some(b"h2"));
        let protocol = match is_h2 {
            true => Protocol::Http2,
            false => Protocol::Http11,
        };
        let slot = self.owner.priority as usize;
        pools.protocol[slot].set(Some(protocol));
        let owner = || self.owner.another();
        pools.adopt(protocol, slot, owner, connected);
        for waiter in self.pending.take_all() {
            match pools.new_stream(protocol, slot, owner) {
                Acquire::Ready(stream) => waiter.resolve(Ok(stream)),
                Acquire::Failed(error) => waiter.resolve(Err(error)),
                Acquire::Pending(pending) => {
                    tokio::task::spawn_local(async move { waiter.resolve(pending.await) });
                }
            }
        }
    }
}
