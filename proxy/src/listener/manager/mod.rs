//! The listeners of the process, on the main thread.
//!
//! A listener of the bootstrap is there for the life of the process. Those of LDS come, change and go: a new one waits for what it
//! needs before it takes the place of the old one, which then drains. Where only filter chains differ, the listener stays and only
//! connections of the chains that are gone drain.

mod draining;
mod dump;
mod lds;
mod managed;
#[cfg(test)]
mod tests;
mod update;
mod worker_links;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::any::pack;
use outrigger_proto::pb::envoy::admin::v3::UpdateFailureState;
use outrigger_proto::pb::envoy::config::listener::v3 as pb;
use tracing::{info, warn};

pub use managed::{BindError, ManagedListener};

use self::managed::Origin;
use self::worker_links::WorkerLinks;
use super::config::Listener;
use super::stats::ListenerManagerStats;
use crate::config::{ConfigPath, Rejected};
use crate::server::{InitManager, ServerContext, WorkerMessage, WorkerSender};
use crate::stream_info::TrafficDirection;
use crate::xds::Subscription;

/// Owns the listeners and their sockets. All copies are one.
#[derive(Clone)]
pub struct ListenerManager(Rc<Manager>);

struct Manager {
    server: Arc<ServerContext>,
    workers: usize,
    stats: ListenerManagerStats,
    drain: Cell<DrainTime>,
    state: RefCell<State>,
}

/// How connections are drained: within `over`, ever more of them or all at once.
#[derive(Clone, Copy)]
struct DrainTime {
    over: Duration,
    gradual: bool,
}

#[derive(Default)]
struct State {
    /// In the order in which they came. Before the workers run, some of them may not be ready yet.
    active: Vec<Rc<ManagedListener>>,
    /// Those that wait for what they need.
    warming: Vec<Warming>,
    /// Those that were removed or replaced, as long as their connections may go on.
    draining: Vec<Rc<ManagedListener>>,
    last_id: u64,
    /// None before the workers run.
    links: Option<WorkerLinks>,
    /// What the start of the process waits for.
    init: Option<InitManager>,
    /// Which listeners were told to stop for good.
    stopped: Option<Stopped>,
    lds: Option<Subscription>,
    lds_version: Arc<str>,
    /// The last update of each listener, where it failed.
    errors: BTreeMap<Arc<str>, UpdateFailureState>,
    /// What failed in the last response.
    last_errors: Vec<UpdateFailureState>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stopped {
    Inbound,
    All,
}

/// A listener that is not ready yet.
struct Warming {
    listener: Rc<ManagedListener>,
    waiting: tokio::task::AbortHandle,
}

impl Drop for Warming {
    fn drop(&mut self) {
        self.waiting.abort();
    }
}

impl ListenerManager {
    /// A manager without listeners, for this many workers.
    pub fn new(server: Arc<ServerContext>, workers: usize) -> Self {
        Self(Rc::new(Manager {
            stats: ListenerManagerStats::new(&server.stats.scope("listener_manager.")),
            server,
            workers,
            drain: Cell::new(DrainTime {
                over: Duration::from_secs(600),
                gradual: true,
            }),
            state: RefCell::default(),
        }))
    }

    /// How long connections of removed or replaced listeners may go on; `gradual`: they are told to end one after the other over
    /// that time. Default 10 min, gradually.
    pub fn set_drain_time(&self, over: Duration, gradual: bool) {
        self.0.drain.set(DrainTime { over, gradual });
    }

    /// Converts a listener of the bootstrap and keeps it. Nothing is bound yet.
    pub fn add(&self, proto: pb::Listener, path: &ConfigPath<'_>) -> Result<(), Rejected> {
        let manager = &*self.0;
        let name = proto.name.clone();
        let taken = |other: &Rc<ManagedListener>| !name.is_empty() && *other.name() == *name;
        if manager.state.borrow().active.iter().any(taken) {
            // As Envoy: the first one of a name stays.
            warn!(
                name,
                "A listener with the name of an earlier one is left out."
            );
            return Ok(());
        }
        let message = pack(&proto);
        let converted = Listener::from_proto(proto, &manager.server, path).and_then(|config| {
            let taken = manager.state.borrow().address_taken(&config);
            match taken {
                None => Ok(config),
                Some((address, other)) => Err(path.field("address").reject(format!(
                    "{address} is the address of listener \"{other}\" already"
                ))),
            }
        });
        let config = match converted {
            Ok(config) => config,
            Err(rejected) => {
                manager.stats.listener_create_failure().inc();
                return Err(rejected);
            }
        };
        let id = manager.state.borrow_mut().next_id();
        let listener =
            ManagedListener::new(id, config, message, Origin::Bootstrap, manager.workers);
        manager.state.borrow_mut().active.push(Rc::new(listener));
        manager.stats.listener_added().inc();
        manager.update_gauges();
        Ok(())
    }

    /// Takes the addresses of all listeners. Every one that cannot be taken is an error.
    pub fn bind(&self) -> Result<(), Vec<BindError>> {
        let active = self.0.state.borrow().active.clone();
        let results = active.iter().map(|listener| listener.bind(self.0.workers));
        let errors: Vec<_> = results.filter_map(Result::err).flatten().collect();
        match errors.is_empty() {
            true => Ok(()),
            false => Err(errors),
        }
    }

    /// Lets the start of the process wait for what the listeners need: for those that are there, and for those that come before
    /// the workers run.
    pub fn wait_in(&self, init: &InitManager) {
        let active = {
            let mut state = self.0.state.borrow_mut();
            state.init = Some(init.clone());
            state.active.clone()
        };
        for listener in active {
            self.0.wait_for(&listener);
        }
    }

    /// Begins to listen and to accept on all workers. From now on listeners may come and go at any time.
    pub fn start_workers(&self, workers: &[WorkerSender]) -> Result<(), BindError> {
        let manager = &*self.0;
        let active = manager.state.borrow().active.clone();
        let mut started = Vec::new();
        for listener in active {
            match listener.listen() {
                Ok(()) => started.push(listener),
                Err(error) if listener.origin == Origin::Bootstrap => return Err(error),
                Err(error) => {
                    warn!(%error, "A listener cannot listen.");
                    manager.stats.listener_create_failure().inc();
                    manager.stats.listener_removed().inc();
                    let mut state = manager.state.borrow_mut();
                    state.active.retain(|other| other.id != listener.id);
                }
            }
        }
        let links = WorkerLinks::new(workers);
        for worker in 0..workers.len() {
            let new = started.iter().map(|listener| listener.for_worker(worker));
            let new = new.collect::<Result<_, _>>()?;
            links.send(worker, WorkerMessage::AddListeners(new));
        }
        for _ in &started {
            let workers = u64::try_from(workers.len()).unwrap_or(u64::MAX);
            manager.stats.listener_create_success().add(workers);
        }
        {
            let mut state = manager.state.borrow_mut();
            state.links = Some(links);
            state.init = None;
        }
        manager.stats.workers_started().set(1);
        manager.update_gauges();
        Ok(())
    }

    /// Closes the sockets of main, so that what workers close is closed. Nothing listens again after that.
    pub fn close_sockets(&self, inbound_only: bool) {
        let manager = &*self.0;
        let closed = {
            let mut state = manager.state.borrow_mut();
            let stopped = match inbound_only {
                true => Stopped::Inbound,
                false => Stopped::All,
            };
            if state.stopped != Some(Stopped::All) {
                state.stopped = Some(stopped);
            }
            state
                .warming
                .retain(|warming| !stopped.includes(&warming.listener.config));
            let active = state.active.iter();
            active
                .filter(|listener| stopped.includes(&listener.config) && listener.close_sockets())
                .count()
        };
        for _ in 0..closed {
            manager.stats.listener_stopped().inc();
        }
        manager.update_gauges();
    }
}

impl Manager {
    /// Lets the start of the process wait for a listener.
    fn wait_for(&self, listener: &Rc<ManagedListener>) {
        let state = self.state.borrow();
        let Some(init) = &state.init else { return };
        if listener.config.init.is_ready() {
            return;
        }
        let target = init.target(format!("Listener-init-target {}", listener.name()));
        let waits_for = listener.config.init.clone();
        tokio::task::spawn_local(async move {
            waits_for.ready().await;
            target.ready();
        });
    }

    fn update_gauges(&self) {
        let state = self.state.borrow();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let stats = &self.stats;
        stats
            .total_listeners_active()
            .set(count(state.active.len()));
        stats
            .total_listeners_warming()
            .set(count(state.warming.len()));
        stats
            .total_listeners_draining()
            .set(count(state.draining.len()));
    }

    /// Starts a listener on the workers, whose sockets listen by then.
    fn add_to_workers(&self, listener: &ManagedListener) -> Result<(), BindError> {
        listener.listen()?;
        let new: Result<Vec<_>, _> = (0..self.workers)
            .map(|worker| listener.for_worker(worker))
            .collect();
        let state = self.state.borrow();
        for (worker, new) in new?.into_iter().enumerate() {
            if let Some(links) = &state.links {
                links.send(worker, WorkerMessage::AddListeners(vec![new]));
            }
        }
        let workers = u64::try_from(self.workers).unwrap_or(u64::MAX);
        self.stats.listener_create_success().add(workers);
        info!(
            listener = listener.name(),
            "A listener accepts connections."
        );
        Ok(())
    }
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

impl Stopped {
    fn includes(self, listener: &Listener) -> bool {
        self == Self::All || listener.identity.traffic_direction == TrafficDirection::Inbound
    }
}
