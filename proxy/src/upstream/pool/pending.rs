//! Requests that wait for a connection.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::super::circuit_breaker::{Resource, RoutingPriority};
use super::super::cluster_handle::ClusterHandle;
use super::super::host::{HostHandle, HostStat};
use super::stream::ClientStream;
use super::{PoolError, PoolOwner};
use crate::LocalBoxFuture;

/// The queue of a pool. At most as long as the circuit breaker allows pending requests.
#[derive(Clone, Default)]
pub(super) struct PendingQueue(Rc<RefCell<VecDeque<Rc<Waiter>>>>);

/// A request that waits for its turn. Dropped, it leaves the queue.
pub struct PendingStream(Place);

/// Where a request waits.
enum Place {
    /// In the queue of a pool.
    Queued(Queued),
    /// For a connection of its own.
    Connecting(LocalBoxFuture<'static, Result<ClientStream, PoolError>>),
}

/// A place in the queue of a pool. Dropped, it leaves the queue.
struct Queued {
    waiter: Rc<Waiter>,
    queue: PendingQueue,
}

impl PendingStream {
    /// Waits for a connection that belongs to no pool.
    pub(super) fn connecting(
        connecting: impl Future<Output = Result<ClientStream, PoolError>> + 'static,
    ) -> Self {
        Self(Place::Connecting(Box::pin(connecting)))
    }
}

/// One place in a queue.
pub(super) struct Waiter {
    state: RefCell<State>,
}

enum State {
    Waiting(PendingGuard, Option<Waker>),
    Done(Box<Result<ClientStream, PoolError>>),
    Taken,
}

/// A waiting request in stats and circuit breakers.
pub(super) struct PendingGuard {
    cluster: Rc<ClusterHandle>,
    host: Rc<HostHandle>,
    priority: RoutingPriority,
}

impl PendingQueue {
    /// A place at the end of the queue; none if circuit breakers do not allow it.
    pub(super) fn enter(&self, owner: &PoolOwner) -> Option<PendingStream> {
        let waiter = Rc::new(Waiter {
            state: RefCell::new(State::Waiting(PendingGuard::try_new(owner)?, None)),
        });
        self.0.borrow_mut().push_back(waiter.clone());
        Some(PendingStream(Place::Queued(Queued {
            waiter,
            queue: self.clone(),
        })))
    }

    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// The one whose turn it is.
    pub(super) fn pop(&self) -> Option<Rc<Waiter>> {
        self.0.borrow_mut().pop_front()
    }

    /// No connection is made, since the overload manager turns it away: who waits for one `alone`, and not for one that there is, is
    /// refused.
    #[cold]
    pub(super) fn refuse_if(&self, alone: bool) {
        if !alone {
            return;
        }
        for waiter in self.take_all() {
            if let State::Waiting(guard, _) = &*waiter.state.borrow() {
                guard.cluster.info.stats.upstream_rq_cancelled().inc();
            }
            waiter.resolve(Err(PoolError::Overflow));
        }
    }

    /// All of them, for a pool that has failed. Whoever comes later finds an empty queue.
    pub(super) fn take_all(&self) -> VecDeque<Rc<Waiter>> {
        std::mem::take(&mut *self.0.borrow_mut())
    }
}

impl Waiter {
    /// Gives the request what it waited for.
    pub(super) fn resolve(&self, result: Result<ClientStream, PoolError>) {
        let old = self.state.replace(State::Done(Box::new(result)));
        if let State::Waiting(_, Some(waker)) = old {
            waker.wake();
        }
    }
}

impl Future for PendingStream {
    type Output = Result<ClientStream, PoolError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let queued = match &mut self.0 {
            Place::Queued(queued) => queued,
            Place::Connecting(connecting) => return connecting.as_mut().poll(cx),
        };
        let mut state = queued.waiter.state.borrow_mut();
        if let State::Waiting(_, waker) = &mut *state {
            match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        match std::mem::replace(&mut *state, State::Taken) {
            State::Done(result) => Poll::Ready(*result),
            State::Waiting(..) | State::Taken => Poll::Ready(Err(PoolError::Terminated)),
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let state = self.waiter.state.replace(State::Taken);
        if let State::Waiting(guard, _) = &state {
            guard.cluster.info.stats.upstream_rq_cancelled().inc();
            self.queue
                .0
                .borrow_mut()
                .retain(|waiter| !Rc::ptr_eq(waiter, &self.waiter));
        }
    }
}

impl PendingGuard {
    pub(super) fn try_new(owner: &PoolOwner) -> Option<Self> {
        let PoolOwner {
            cluster,
            host,
            priority,
            ..
        } = owner;
        let stats = &cluster.info.stats;
        if !cluster.has_room(*priority, Resource::PendingRequests) {
            stats.upstream_rq_pending_overflow().inc();
            return None;
        }
        cluster.acquire(*priority, Resource::PendingRequests);
        stats.upstream_rq_pending_total().inc();
        stats.upstream_rq_pending_active().inc();
        host.count(HostStat::RqPendingActive);
        Some(Self {
            cluster: cluster.clone(),
            host: host.clone(),
            priority: *priority,
        })
    }
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        self.cluster.info.stats.upstream_rq_pending_active().dec();
        self.host.uncount(HostStat::RqPendingActive);
        self.cluster
            .release(self.priority, Resource::PendingRequests);
    }
}

impl fmt::Debug for PendingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingStream").finish_non_exhaustive()
    }
}
