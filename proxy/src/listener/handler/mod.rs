//! The listeners of one worker: accepting, and the counts around it.

mod accept;
mod places;

use std::cell::{Cell, Ref, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use socket2::Socket;
use tracing::warn;

use super::config::Listener;
use super::connection;
use super::drain::Latch;
use super::filter_chain::{FilterChain, WorkerFilterChain};
use super::stats::WorkerListenerStats;
use crate::access_loggers::AccessLogs;
use crate::net::Address;
use crate::overload::{ConnectionGuard, LoadShedPoint};
use crate::server::{Worker, WorkerMessage, WorkerSender};
use crate::stream_info::{ConnectionInfo, TrafficDirection};

use accept::{ACCEPT_PAUSE, AcceptSocket, AcceptedSocket, accept, canonical};
use places::{BalanceGuard, Places};

pub use accept::Accepted;
pub(super) use places::OpenGuard;

/// All listeners of one worker, and all connections that they accepted.
pub struct ConnectionHandler {
    worker: Rc<Worker>,
    peers: Arc<[WorkerSender]>,
    pub(super) listeners: RefCell<Vec<Rc<ActiveListener>>>,
    connections: Cell<usize>,
    last_connection_id: Cell<u64>,
    /// Set when the last connection has gone while nothing listens any more.
    finished: Latch,
    stopped: Cell<bool>,
}

/// A listener on one worker.
pub(super) struct ActiveListener {
    /// What new connections get.
    pub(super) current: RefCell<Rc<Generation>>,
    /// The chains that no new connection gets any more, as long as they drain.
    pub(super) leaving: RefCell<Vec<Rc<WorkerFilterChain>>>,
    pub(super) stats: WorkerListenerStats,
    pub(super) handler: Rc<ConnectionHandler>,
    pub(super) worker: Rc<Worker>,
    pub(super) id: u64,
    /// Nothing begins here any more.
    pub(super) closed: Cell<bool>,
    /// Another listener goes on with the same sockets.
    pub(super) hand_over: Cell<bool>,
    pub(super) stop: Rc<Latch>,
    open: Arc<AtomicU64>,
    bound: Vec<Address>,
    accepting: Cell<usize>,
    balance: Option<Arc<[AtomicUsize]>>,
}

/// What changes when only the filter chains of a listener do.
pub(super) struct Generation {
    pub(super) config: Arc<Listener>,
    pub(super) chains: Vec<Rc<WorkerFilterChain>>,
    pub(super) access_logs: AccessLogs,
}

/// What a worker needs to run a listener.
#[derive(Debug)]
pub struct NewListener {
    /// A number of its own.
    pub id: u64,
    /// The configuration.
    pub config: Arc<Listener>,
    /// This worker's sockets, listening, each with the address that it is bound to.
    pub sockets: Vec<(Socket, Address)>,
    /// For listeners without sockets as well: the addresses that connections may be meant for.
    pub addresses: Vec<Address>,
    /// How many connections each worker has, where they are balanced.
    pub balance: Option<Arc<[AtomicUsize]>>,
}

impl ConnectionHandler {
    /// The handler of a worker. `peers` are all workers, by index.
    pub fn new(worker: Rc<Worker>, peers: Arc<[WorkerSender]>) -> Rc<Self> {
        Rc::new(Self {
            worker,
            peers,
            listeners: RefCell::default(),
            connections: Cell::new(0),
            last_connection_id: Cell::new(0),
            finished: Latch::default(),
            stopped: Cell::new(false),
        })
    }

    /// Begins to accept connections for a listener.
    pub fn add_listener(self: &Rc<Self>, new: NewListener) -> io::Result<()> {
        let NewListener {
            id,
            config,
            sockets,
            addresses,
            balance,
        } = new;
        let scope = self.worker.server.stats.scope(&format!(
            "listener.{}.worker_{}.",
            config.identity.stat_prefix, self.worker.index
        ));
        let listener = Rc::new(ActiveListener {
            stats: WorkerListenerStats::new(&scope),
            handler: self.clone(),
            worker: self.worker.clone(),
            id,
            closed: Cell::new(false),
            hand_over: Cell::new(false),
            stop: Rc::default(),
            open: config.open_connections.clone(),
            bound: addresses,
            accepting: Cell::new(0),
            balance,
            leaving: RefCell::default(),
            current: RefCell::new(Rc::new(Generation::new(config, &[], &self.worker))),
        });
        self.listeners.borrow_mut().push(listener.clone());
        for (socket, address) in sockets {
            let socket = AcceptSocket::new(socket, &address)?;
            listener.accepting.set(listener.accepting.get() + 1);
            tokio::task::spawn_local(accept(listener.clone(), socket, address));
        }
        Ok(())
    }

    /// Takes a connection that another worker accepted for this one.
    pub fn take_connection(&self, listener: u64, accepted: Accepted) {
        if let Some(listener) = self.find(|active| active.id == listener) {
            listener.start(accepted);
        }
    }

    /// Tells the connections of listeners to end as soon as they can.
    /// `gradually`: ever more of them over this time.
    pub fn drain(&self, inbound_only: bool, gradually: Option<Duration>) {
        self.each(inbound_only, |listener| listener.drain(gradually));
    }

    /// Accepts what waits in the queues, and closes the sockets.
    pub fn stop_listening(&self, inbound_only: bool) {
        self.each(inbound_only, |listener| listener.stop.set());
        if !inbound_only {
            self.stopped.set(true);
            self.check_finished();
        }
    }

    /// Ends when nothing listens any more and the last connection has gone.
    pub async fn finished(&self) {
        self.finished.wait().await;
    }

    pub(super) fn find_by_address(&self, address: &Address) -> Option<Rc<ActiveListener>> {
        let any_address = |bound: &Address| match (bound, address) {
            (Address::Ip(bound), Address::Ip(wanted)) => {
                bound.ip().is_unspecified() && bound.port() == wanted.port()
            }
            _ => false,
        };
        self.find(|listener| listener.bound.contains(address))
            .or_else(|| self.find(|listener| listener.bound.iter().any(any_address)))
    }

    pub(super) fn find(
        &self,
        wanted: impl Fn(&ActiveListener) -> bool,
    ) -> Option<Rc<ActiveListener>> {
        let listeners = self.listeners.borrow();
        listeners.iter().find(|listener| wanted(listener)).cloned()
    }

    fn each(&self, inbound_only: bool, act: impl Fn(&ActiveListener)) {
        for listener in self.listeners.borrow().iter() {
            let direction = listener.config().identity.traffic_direction;
            if !inbound_only || direction == TrafficDirection::Inbound {
                act(listener);
            }
        }
    }

    pub(super) fn check_finished(&self) {
        let accepting = |listener: &Rc<ActiveListener>| listener.accepting.get() > 0;
        if self.stopped.get()
            && self.connections.get() == 0
            && !self.listeners.borrow().iter().any(accepting)
        {
            self.finished.set();
        }
    }

    /// Numbers differ between workers without anything shared.
    fn next_connection_id(&self) -> u64 {
        let next = self.last_connection_id.get() + 1;
        self.last_connection_id.set(next);
        let workers = self.peers.len().max(1) as u64;
        (next - 1) * workers + self.worker.index as u64 + 1
    }
}

impl Generation {
    /// A configuration on a worker. The chains that `known` has stay what they are.
    pub(super) fn new(
        config: Arc<Listener>,
        known: &[Rc<WorkerFilterChain>],
        worker: &Rc<Worker>,
    ) -> Self {
        let chain = |chain: &Arc<FilterChain>| {
            let same = known.iter().find(|old| Arc::ptr_eq(&old.config, chain));
            let made = || Rc::new(chain.on_worker(worker, config.drain_on_modify_only));
            same.cloned().unwrap_or_else(made)
        };
        Self {
            chains: config.chains.iter().map(chain).collect(),
            access_logs: AccessLogs::on_worker(&config.access_logs, worker),
            config,
        }
    }
}

impl ActiveListener {
    /// What new connections get.
    pub(super) fn generation(&self) -> Rc<Generation> {
        self.current.borrow().clone()
    }

    /// The configuration of now.
    pub(super) fn config(&self) -> Ref<'_, Listener> {
        Ref::map(self.current.borrow(), |current| &*current.config)
    }

    /// Tells all of its connections to end, at once or ever more of them over a time.
    pub(super) fn drain(&self, gradually: Option<Duration>) {
        let current = self.generation();
        let leaving = self.leaving.borrow();
        for chain in current.chains.iter().chain(&*leaving) {
            match gradually {
                Some(over) => chain.drain.begin_gradually(over),
                None => chain.drain.begin(),
            }
        }
    }

    /// A connection was accepted here: decides whether, and on which worker, it goes on.
    fn on_accept(self: &Rc<Self>, socket: AcceptedSocket, bound: &Address) {
        let Some(global) = self.admit() else { return };
        let transparent = self.config().sockets.transparent == Some(true);
        let local = match (&socket, bound) {
            (AcceptedSocket::Tcp(stream, _), Address::Ip(address))
                if address.ip().is_unspecified() || transparent =>
            {
                stream
                    .local_addr()
                    .map_or_else(|_| bound.clone(), |address| Address::Ip(canonical(address)))
            }
            _ => bound.clone(),
        };
        let balanced = self.balance.as_ref().map(BalanceGuard::least_loaded);
        let target = balanced
            .as_ref()
            .map_or(self.worker.index, |guard| guard.worker);
        let mut accepted = Accepted {
            socket,
            local,
            places: Places {
                _global: global,
                _worker: balanced,
            },
        };
        match self.handler.peers.get(target) {
            Some(peer) if target != self.worker.index => {
                accepted.socket = match accepted.socket.loosen() {
                    Ok(socket) => socket,
                    Err(error) => return warn!(%error, "An accepted socket cannot be handed over."),
                };
                let message = WorkerMessage::Connection {
                    listener: self.id,
                    accepted,
                };
                // A worker whose queue is full has enough to do already.
                if let Err(error) = peer.try_send(message)
                    && let WorkerMessage::Connection { accepted, .. } = error.into_inner()
                {
                    self.start(accepted);
                }
            }
            _ => self.start(accepted),
        }
    }

    /// Whether a limit closes a new connection at once. Some: it goes on, with its place in the global count if it has one.
    #[allow(
        clippy::option_option,
        reason = "no place is needed where the global count does not matter"
    )]
    fn admit(&self) -> Option<Option<ConnectionGuard>> {
        let listener = &*self.config();
        let overload = &self.worker.server.overload;
        let global = if listener.ignore_global_conn_limit {
            None
        } else {
            let place = overload.connections.try_acquire();
            if place.is_none() {
                listener.stats.downstream_global_cx_overflow().inc();
                return None;
            }
            place
        };
        if !listener.bypass_overload_manager
            && (overload.reject_incoming_connections(self.worker.random.next())
                || overload
                    .load_shed
                    .sheds(LoadShedPoint::TcpListenerAccept, || {
                        self.worker.random.next()
                    }))
        {
            listener.stats.downstream_cx_overload_reject().inc();
            return None;
        }
        if self.open.load(Relaxed) >= listener.connection_limit.get() {
            listener.stats.downstream_cx_overflow().inc();
            return None;
        }
        Some(global)
    }

    fn start(self: &Rc<Self>, accepted: Accepted) {
        let Accepted {
            socket,
            local,
            places,
        } = accepted;
        match socket.into_io() {
            Ok((io, remote)) => {
                let remote = remote.map_or_else(|| local.clone(), Address::Ip);
                let mut info = ConnectionInfo::between(remote, local);
                info.id = self.handler.next_connection_id();
                info.listener = self.config().identity.clone();
                connection::start(OpenGuard::new(self.clone(), places), io, info);
            }
            Err(error) => warn!(%error, "An accepted socket cannot be registered."),
        }
    }

    /// Waits while the overload manager wants connections to stay in the backlog.
    async fn until_accepting(&self) {
        while !self.config().bypass_overload_manager
            && self.worker.server.overload.stop_accepting_connections()
        {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests;
