//! The HTTP/2 connections of one host on one worker: one, and more while it has as many streams as it may have.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use tokio::time::{Instant, Sleep, sleep_until};

use super::connection::{ConnectionGuard, RequestGuard, UpstreamConnectionInfo};
use super::pending::PendingQueue;
use super::stream::{Acquire, ClientStream, Http2Stream};
use super::{ConnectError, Connected, PoolError, PoolOwner, http2};
use crate::codec::Http2CodecStats;
use crate::http::Protocol;

pub(super) struct Http2Pool {
    owner: PoolOwner,
    pending: PendingQueue,
    state: RefCell<State>,
    /// Streams that the host allows on a connection, as far as is known.
    host_limit: Cell<Option<u32>>,
}

/// What a peer is taken to allow before anything is known: RFC 9113 (section 6.5.2) wants no less of it.
const PRESUMED_LIMIT: u32 = 100;

#[derive(Default)]
struct State {
    connections: Vec<Rc<PooledHttp2>>,
    connecting: usize,
    draining: bool,
}

/// An HTTP/2 connection with what is known about it.
pub(super) struct PooledHttp2 {
    pub(super) codec: http2::ClientConnection,
    pub(super) info: Rc<UpstreamConnectionInfo>,
    pub(super) guard: ConnectionGuard,
    /// When `max_connection_duration` ends.
    expires: Option<Instant>,
    /// Since when it has no stream.
    idle_since: Cell<Option<Instant>>,
    /// Of the task that watches it.
    watcher: RefCell<Option<Waker>>,
}

impl Http2Pool {
    pub(super) fn new(owner: PoolOwner) -> Rc<Self> {
        Rc::new(Self {
            owner,
            pending: PendingQueue::default(),
            state: RefCell::default(),
            host_limit: Cell::new(None),
        })
    }

    /// What the codec of the cluster's connections counts.
    pub(super) fn stats(&self) -> &Http2CodecStats {
        self.owner.cluster.http2_stats()
    }

    /// A stream on a connection that has room, or a place in the queue and, if needed, a new connection.
    pub(super) fn new_stream(self: &Rc<Self>) -> Acquire {
        if let Some(connection) = self.connection_with_room() {
            return match self.attach(&connection) {
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

    /// A stream of the connection ended: there may be room for another.
    pub(super) fn stream_ended(self: &Rc<Self>, connection: &Rc<PooledHttp2>) {
        if connection.guard.active_requests() == 0 {
            connection.idle_since.set(Some(Instant::now()));
            connection.wake_watcher();
        }
        self.serve_pending();
    }

    /// Takes no new streams; connections close when theirs have ended.
    pub(super) fn drain(&self) {
        let connections = {
            let mut state = self.state.borrow_mut();
            state.draining = true;
            std::mem::take(&mut state.connections)
        };
        for connection in connections {
            connection.codec.drain();
            connection.wake_watcher();
        }
    }

    fn serve_pending(self: &Rc<Self>) {
        while self.pending.len() > 0 {
            let Some(connection) = self.connection_with_room() else {
                return self.connect_if_needed();
            };
            if let Some(waiter) = self.pending.pop() {
                waiter.resolve(self.attach(&connection));
            }
        }
    }

    /// The first connection with room for a stream; those that are gone are forgotten.
    fn connection_with_room(&self) -> Option<Rc<PooledHttp2>> {
        let mut gone = Vec::new();
        let mut found = None;
        let mut state = self.state.borrow_mut();
        let mut at = 0;
        while let Some(connection) = state.connections.get(at) {
            match connection.codec.availability() {
                http2::Availability::Ready => {
                    found = Some(connection.clone());
                    break;
                }
                http2::Availability::Full => at += 1,
                http2::Availability::Gone => gone.push(state.connections.remove(at)),
            }
        }
        drop(state);
        drop(gone);
        found
    }

    fn attach(self: &Rc<Self>, connection: &Rc<PooledHttp2>) -> Result<ClientStream, PoolError> {
        let PoolOwner {
            cluster,
            host,
            priority,
            ..
        } = &self.owner;
        let request =
            RequestGuard::try_new(cluster, Some(host), *priority).ok_or(PoolError::Overflow)?;
        connection.idle_since.set(None);
        let stream = Http2Stream::new(connection.clone(), self.clone(), request);
        if self.owner.has_had_enough(&connection.info) {
            self.retire(connection);
        }
        Ok(ClientStream::Http2(stream))
    }

    /// The connection takes no more streams.
    fn retire(&self, connection: &Rc<PooledHttp2>) {
        self.state
            .borrow_mut()
            .connections
            .retain(|other| !Rc::ptr_eq(other, connection));
        connection.codec.drain();
    }

    /// A connection for those who wait beyond what connections under way will carry.
    fn connect_if_needed(self: &Rc<Self>) {
        let first = {
            let state = self.state.borrow();
            let max = &self.owner.cluster.info.settings.http;
            let per_connection = max
                .common
                .max_requests_per_connection
                .unwrap_or(u32::MAX)
                .min(max.http2.max_concurrent_streams);
            let of_host = self.host_limit.get().unwrap_or(u32::MAX);
            let per_connection = usize::try_from(per_connection.min(of_host)).unwrap_or(usize::MAX);
            // Connections whose peers have not said what they allow may soon carry more.
            let unsettled = state.connections.iter().filter_map(|connection| {
                let codec = &connection.codec;
                let room = per_connection.saturating_sub(codec.active_streams());
                codec.peer_limit().is_none().then_some(room)
            });
            let capacity = state
                .connecting
                .saturating_mul(per_connection)
                .saturating_add(unsettled.sum());
            if self.pending.len() <= capacity {
                return;
            }
            state.connecting + state.connections.len() == 0
        };
        if self.owner.cluster.cluster.sheds_connections() {
            return self.pending.refuse_if(first);
        }
        let Some(guard) = ConnectionGuard::try_new(&self.owner, first, Some(Protocol::Http2))
        else {
            return;
        };
        self.make(guard, None);
    }

    /// Takes a connection that was made elsewhere.
    pub(super) fn adopt(self: &Rc<Self>, connected: Connected) {
        let guard = ConnectionGuard::try_new(&self.owner, true, Some(Protocol::Http2));
        if let Some(guard) = guard {
            self.make(guard, Some(connected));
        }
    }

    /// Makes a connection, or makes one of HTTP/2 out of what is there already.
    fn make(self: &Rc<Self>, guard: ConnectionGuard, connected: Option<Connected>) {
        self.state.borrow_mut().connecting += 1;
        let pool = self.clone();
        tokio::task::spawn_local(async move {
            let connected = pool.connect(guard, connected).await;
            pool.state.borrow_mut().connecting -= 1;
            match connected {
                Ok(connection) => {
                    let draining = pool.state.borrow().draining;
                    pool.state.borrow_mut().connections.push(connection.clone());
                    pool.serve_pending();
                    if draining {
                        pool.drain();
                    }
                    let pool = Rc::downgrade(&pool);
                    watch(connection, pool).await;
                }
                Err(error) => pool.fail(&error),
            }
        });
    }

    async fn connect(
        &self,
        guard: ConnectionGuard,
        connected: Option<Connected>,
    ) -> Result<Rc<PooledHttp2>, ConnectError> {
        let result = async {
            let connected = match connected {
                Some(connected) => connected,
                None => self.owner.connect(&[b"h2"]).await?,
            };
            let info = guard.connected(&connected, Some(Protocol::Http2));
            let cluster = &self.owner.cluster;
            let codec = http2::ClientConnection::start(
                connected.io,
                cluster.http2_settings(),
                Some(cluster.http2_stats().clone()),
                self.host_limit.get().unwrap_or(PRESUMED_LIMIT),
            );
            Ok((codec, info))
        }
        .await;
        match result {
            Ok((codec, info)) => Ok(Rc::new(PooledHttp2 {
                codec,
                expires: self.owner.expires(info.connect_end),
                info: Rc::new(info),
                guard,
                idle_since: Cell::new(Some(Instant::now())),
                watcher: RefCell::default(),
            })),
            Err(error) => {
                guard.failed(&error);
                Err(error)
            }
        }
    }

    fn fail(&self, error: &ConnectError) {
        let stats = &self.owner.cluster.info.stats;
        for waiter in self.pending.take_all() {
            stats.upstream_rq_pending_failure_eject().inc();
            waiter.resolve(Err(PoolError::Connect(error.clone())));
        }
    }
}

/// Waits until the connection takes no more streams: because of the peer, its age, or because nothing happens on it.
async fn watch(connection: Rc<PooledHttp2>, pool: Weak<Http2Pool>) {
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    let connection = Cell::new(Some(connection));
    poll_fn(|cx| {
        let Some(current) = connection.take() else {
            return Poll::Ready(());
        };
        let Some(pool) = pool.upgrade() else {
            return Poll::Ready(());
        };
        current.watcher.replace(Some(cx.waker().clone()));
        let polled = poll_watch(&current, &pool, &mut timer, cx);
        if let Some(limit) = current.codec.peer_limit() {
            pool.host_limit.set(limit.or(Some(u32::MAX)));
        }
        if polled.is_pending() {
            connection.set(Some(current));
            // The peer may allow more streams than before.
            pool.serve_pending();
        } else {
            pool.retire(&current);
            pool.serve_pending();
        }
        polled
    })
    .await;
}

fn poll_watch(
    connection: &PooledHttp2,
    pool: &Http2Pool,
    timer: &mut Option<Pin<Box<Sleep>>>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let cluster = &pool.owner.cluster.info;
    if pool.state.borrow().draining {
        return Poll::Ready(());
    }
    if connection.codec.poll_gone(cx).is_ready() {
        connection.guard.closed_by_peer();
        return Poll::Ready(());
    }
    let idle = connection
        .idle_since
        .get()
        .zip(cluster.settings.http.common.idle_timeout)
        .map(|(since, timeout)| since + timeout);
    let Some(next) = [idle, connection.expires].into_iter().flatten().min() else {
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
    if Some(next) == idle {
        cluster.stats.upstream_cx_idle_timeout().inc();
    } else {
        cluster.stats.upstream_cx_max_duration_reached().inc();
    }
    Poll::Ready(())
}

impl PooledHttp2 {
    fn wake_watcher(&self) {
        if let Some(waker) = self.watcher.take() {
            waker.wake();
        }
    }
}
