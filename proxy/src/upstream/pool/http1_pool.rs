//! The HTTP/1 connections of one host on one worker.
//!
//! Idle connections lie on a stack, so that those not needed stay at its bottom and time out. One task per pool, alive while there
//! are any, notices those that the peer closes and those whose time is up. Taking one costs no system call.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use tokio::time::{Instant, Sleep, sleep_until};

use super::connection::{ConnectionGuard, RequestGuard, UpstreamConnectionInfo};
use super::pending::PendingQueue;
use super::stream::{Acquire, ClientStream, Http1Stream};
use super::{ConnectError, Connected, PoolError, PoolOwner, http1};
use crate::http::Protocol;
use crate::net::Io;

pub(super) struct Http1Pool {
    owner: PoolOwner,
    pending: PendingQueue,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Idle>,
    connecting: usize,
    busy: usize,
    /// Of the task that watches idle connections; none: there is no such task.
    watcher: Option<Waker>,
    /// When that task looks next; none: only when it is woken.
    watched_until: Option<Instant>,
    draining: bool,
}

struct Idle {
    connection: Box<PooledHttp1>,
    /// When it has been idle for too long.
    deadline: Option<Instant>,
}

/// An HTTP/1 connection with what is known about it.
pub(super) struct PooledHttp1 {
    pub(super) codec: http1::ClientConnection,
    pub(super) info: Rc<UpstreamConnectionInfo>,
    pub(super) guard: ConnectionGuard,
    /// When `max_connection_duration` ends.
    expires: Option<Instant>,
}

impl Http1Pool {
    pub(super) fn new(owner: PoolOwner) -> Rc<Self> {
        Rc::new(Self {
            owner,
            pending: PendingQueue::default(),
            state: RefCell::default(),
        })
    }

    /// A stream on an idle connection, or a place in the queue and, if needed, a new connection.
    pub(super) fn new_stream(self: &Rc<Self>) -> Acquire {
        while let Some(mut connection) = self.pop_idle() {
            if connection.is_closed() || connection.is_expired(&self.owner) {
                continue;
            }
            return match self.attach(connection) {
                Ok(stream) => Acquire::Ready(stream),
                Err(error) => Acquire::Failed(error),
            };
        }
        let Some(pending) = self.pending.enter(&self.owner) else {
            return Acquire::Failed(PoolError::Overflow);
        };
        self.connect_if_needed();
        Acquire::Pending(pending)
    }

    /// Takes a connection back from a request.
    pub(super) fn release(self: &Rc<Self>, connection: Box<PooledHttp1>, reusable: bool) {
        connection.guard.request_ended(connection.codec.bytes());
        self.state.borrow_mut().busy -= 1;
        let reusable = reusable
            && !self.state.borrow().draining
            && !self.owner.has_had_enough(&connection.info)
            && !connection.is_expired(&self.owner);
        if reusable {
            self.offer(connection);
        } else {
            drop(connection);
            self.connect_if_needed();
        }
    }

    /// Closes what is idle; what is in use is closed when its request ends.
    pub(super) fn drain(&self) {
        let (idle, watcher) = {
            let mut state = self.state.borrow_mut();
            state.draining = true;
            (std::mem::take(&mut state.idle), state.watcher.take())
        };
        drop(idle);
        if let Some(watcher) = watcher {
            watcher.wake();
        }
    }

    /// Gives a free connection to the request that waits longest, or lays it aside.
    fn offer(self: &Rc<Self>, mut connection: Box<PooledHttp1>) {
        while let Some(waiter) = self.pending.pop() {
            match self.attach(connection) {
                Ok(stream) => return waiter.resolve(Ok(stream)),
                Err(error) => waiter.resolve(Err(error)),
            }
            // The refused connection lies on top of the stack.
            match self.pop_idle() {
                Some(top) => connection = top,
                None => return,
            }
        }
        connection.codec.give_back_buffers();
        self.lay_aside(connection);
    }

    /// Starts a request on the connection; one that circuit breakers refuse leaves the connection idle.
    fn attach(self: &Rc<Self>, connection: Box<PooledHttp1>) -> Result<ClientStream, PoolError> {
        let PoolOwner {
            cluster,
            host,
            priority,
            ..
        } = &self.owner;
        let Some(request) = RequestGuard::try_new(cluster, Some(host), *priority) else {
            self.lay_aside(connection);
            return Err(PoolError::Overflow);
        };
        self.state.borrow_mut().busy += 1;
        Ok(ClientStream::Http1(Http1Stream::new(
            connection,
            self.clone(),
            request,
        )))
    }

    fn pop_idle(&self) -> Option<Box<PooledHttp1>> {
        self.state
            .borrow_mut()
            .idle
            .pop()
            .map(|idle| idle.connection)
    }

    fn lay_aside(self: &Rc<Self>, mut connection: Box<PooledHttp1>) {
        let closed = match &self.state.borrow().watcher {
            Some(watcher) => connection.poll_closed(&mut Context::from_waker(watcher)),
            // The new task looks by itself.
            None => Poll::Pending,
        };
        if closed.is_ready() {
            return;
        }
        let timeout = self.owner.cluster.info.settings.http.common.idle_timeout;
        let idle = Idle {
            deadline: timeout.map(|timeout| Instant::now() + timeout),
            connection,
        };
        let next = idle.next_deadline();
        let mut state = self.state.borrow_mut();
        let too_late =
            next.is_some_and(|next| state.watched_until.is_none_or(|until| next < until));
        state.idle.push(idle);
        match &state.watcher {
            None => {
                drop(state);
                self.watch();
            }
            Some(watcher) if too_late => watcher.wake_by_ref(),
            Some(_) => {}
        }
    }

    /// Starts the task that watches idle connections. It holds no pool alive.
    fn watch(self: &Rc<Self>) {
        self.state.borrow_mut().watcher = Some(Waker::noop().clone());
        let pool = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            let mut timer: Option<Pin<Box<Sleep>>> = None;
            poll_fn(|cx| poll_watch(&pool, &mut timer, cx)).await;
        });
    }

    /// As many connections as requests wait for, as far as circuit breakers allow.
    fn connect_if_needed(self: &Rc<Self>) {
        loop {
            let first = {
                let state = self.state.borrow();
                if self.pending.len() <= state.connecting {
                    return;
                }
                state.connecting + state.busy + state.idle.len() == 0
            };
            if self.owner.cluster.cluster.sheds_connections() {
                return self.pending.refuse_if(first);
            }
            let Some(guard) = ConnectionGuard::try_new(&self.owner, first, Some(Protocol::Http11))
            else {
                return;
            };
            self.state.borrow_mut().connecting += 1;
            let pool = self.clone();
            tokio::task::spawn_local(async move {
                let connected = pool.owner.connect(&[b"http/1.1"]).await;
                pool.state.borrow_mut().connecting -= 1;
                match connected {
                    Ok(connected) => {
                        let info = guard.connected(&connected, Some(Protocol::Http11));
                        let connection = PooledHttp1::new(connected.io, info, guard, &pool.owner);
                        pool.offer_new(Box::new(connection));
                    }
                    Err(error) => {
                        guard.failed(&error);
                        drop(guard);
                        pool.fail(&error);
                    }
                }
            });
        }
    }

    /// Takes a connection that was made elsewhere.
    pub(super) fn adopt(self: &Rc<Self>, connected: Connected) {
        let protocol = Some(Protocol::Http11);
        if let Some(guard) = ConnectionGuard::try_new(&self.owner, true, protocol) {
            let info = guard.connected(&connected, protocol);
            let connection = PooledHttp1::new(connected.io, info, guard, &self.owner);
            self.offer_new(Box::new(connection));
        }
    }

    fn offer_new(self: &Rc<Self>, connection: Box<PooledHttp1>) {
        let draining = self.state.borrow().draining;
        if draining && self.pending.len() == 0 {
            return;
        }
        self.offer(connection);
        if draining {
            self.drain();
        }
    }

    /// Nobody who waits is kept waiting for a host that cannot be reached.
    fn fail(&self, error: &ConnectError) {
        let stats = &self.owner.cluster.info.stats;
        for waiter in self.pending.take_all() {
            stats.upstream_rq_pending_failure_eject().inc();
            waiter.resolve(Err(PoolError::Connect(error.clone())));
        }
    }
}

/// Closes what the peer closed and what is too old. Ready when nothing is left to watch.
fn poll_watch(
    pool: &Weak<Http1Pool>,
    timer: &mut Option<Pin<Box<Sleep>>>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let Some(pool) = pool.upgrade() else {
        return Poll::Ready(());
    };
    loop {
        let now = Instant::now();
        let mut closed = Vec::new();
        let mut state = pool.state.borrow_mut();
        let mut next: Option<Instant> = None;
        for mut idle in std::mem::take(&mut state.idle) {
            if idle.connection.poll_closed(cx).is_ready() || idle.connection.is_expired(&pool.owner)
            {
                closed.push(idle);
            } else if idle.deadline.is_some_and(|deadline| deadline <= now) {
                pool.owner
                    .cluster
                    .info
                    .stats
                    .upstream_cx_idle_timeout()
                    .inc();
                closed.push(idle);
            } else {
                next = [next, idle.next_deadline()].into_iter().flatten().min();
                state.idle.push(idle);
            }
        }
        let done = state.idle.is_empty();
        state.watcher = (!done).then(|| cx.waker().clone());
        state.watched_until = next;
        drop(state);
        drop(closed);
        if done {
            return Poll::Ready(());
        }
        let Some(next) = next else {
            *timer = None;
            return Poll::Pending;
        };
        let sleep = timer.get_or_insert_with(|| Box::pin(sleep_until(next)));
        if sleep.deadline() != next {
            sleep.as_mut().reset(next);
        }
        if sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
    }
}

impl Idle {
    /// When it is to be closed.
    fn next_deadline(&self) -> Option<Instant> {
        [self.deadline, self.connection.expires]
            .into_iter()
            .flatten()
            .min()
    }
}

impl PooledHttp1 {
    fn new(
        io: Io,
        info: UpstreamConnectionInfo,
        guard: ConnectionGuard,
        owner: &PoolOwner,
    ) -> Self {
        let settings = &owner.cluster.info.settings;
        let limit =
            usize::try_from(settings.per_connection_buffer_limit_bytes).unwrap_or(usize::MAX);
        Self {
            codec: http1::ClientConnection::new(io, owner.cluster.http1_settings(), limit),
            expires: owner.expires(info.connect_end),
            info: Rc::new(info),
            guard,
        }
    }

    /// Whether the peer has closed it, as far as the kernel has told us already.
    fn is_closed(&mut self) -> bool {
        self.poll_closed(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let closed = self.codec.poll_idle(cx);
        if closed.is_ready() {
            self.guard.closed_by_peer();
        }
        closed
    }

    fn is_expired(&self, owner: &PoolOwner) -> bool {
        let expired = self
            .expires
            .is_some_and(|expires| expires <= Instant::now());
        if expired {
            owner
                .cluster
                .info
                .stats
                .upstream_cx_max_duration_reached()
                .inc();
        }
        expired
    }
}
