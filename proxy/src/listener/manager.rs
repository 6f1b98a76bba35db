//! The listeners of the process, on the main thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;

use outrigger_proto::pb::envoy::config::listener::v3 as pb;
use tracing::{info, warn};

use super::config::Listener;
use super::handler::NewListener;
use super::socket::BoundAddress;
use super::stats::ListenerManagerStats;
use crate::config::{ConfigPath, Rejected};
use crate::net::Address;
use crate::server::ServerContext;

/// Owns the listeners and their sockets.
pub struct ListenerManager {
    server: Arc<ServerContext>,
    workers: usize,
    listeners: Vec<ManagedListener>,
    stats: ListenerManagerStats,
    last_id: u64,
}

/// A listener with its sockets.
pub struct ManagedListener {
    /// A number of its own.
    pub id: u64,
    /// The configuration in use.
    pub config: Arc<Listener>,
    /// As it came, for `/config_dump`.
    pub proto: pb::Listener,
    /// When it was taken.
    pub last_updated: SystemTime,
    bound: Vec<BoundAddress>,
    balance: Option<Arc<[AtomicUsize]>>,
}

/// An address that could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("listener \"{listener}\": cannot bind '{address}': {source}")]
pub struct BindError {
    listener: String,
    address: String,
    source: io::Error,
}

impl ListenerManager {
    /// A manager without listeners, for this many workers.
    pub fn new(server: Arc<ServerContext>, workers: usize) -> Self {
        Self {
            stats: ListenerManagerStats::new(&server.stats.scope("listener_manager.")),
            server,
            workers,
            listeners: Vec::new(),
            last_id: 0,
        }
    }

    /// Converts a listener and keeps it. Nothing is bound yet.
    pub fn add(&mut self, proto: pb::Listener, path: &ConfigPath<'_>) -> Result<(), Rejected> {
        let taken = |other: &ManagedListener| {
            !proto.name.is_empty() && *other.config.identity.name == *proto.name
        };
        if self.listeners.iter().any(taken) {
            // As Envoy: the first one of a name stays.
            warn!(
                name = proto.name,
                "A listener with the name of an earlier one is left out."
            );
            return Ok(());
        }
        let converted = Listener::from_proto(proto.clone(), &self.server, path)
            .and_then(|config| self.check_addresses(config, path));
        let config = match converted {
            Ok(config) => config,
            Err(rejected) => {
                self.stats.listener_create_failure().inc();
                return Err(rejected);
            }
        };
        self.last_id += 1;
        let balance = config
            .exact_balance
            .then(|| (0..self.workers).map(|_| AtomicUsize::new(0)).collect());
        self.listeners.push(ManagedListener {
            id: self.last_id,
            config: Arc::new(config),
            proto,
            last_updated: SystemTime::now(),
            bound: Vec::new(),
            balance,
        });
        self.stats.listener_added().inc();
        self.stats.total_listeners_warming().inc();
        Ok(())
    }

    /// Takes the addresses of all listeners. Every one that cannot be taken is an error.
    pub fn bind(&mut self) -> Result<(), Vec<BindError>> {
        let mut errors = Vec::new();
        for listener in &mut self.listeners {
            if !listener.config.bind_to_port {
                continue;
            }
            for address in &listener.config.addresses {
                match BoundAddress::bind(address, &listener.config.sockets, self.workers) {
                    Ok(bound) => listener.bound.push(bound),
                    Err(source) => errors.push(BindError {
                        listener: listener.config.identity.name.to_string(),
                        address: address.address.to_string(),
                        source,
                    }),
                }
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    /// Begins to listen, and gives what each worker needs, by its index.
    pub fn listen(&self) -> Result<Vec<Vec<NewListener>>, BindError> {
        for listener in &self.listeners {
            for (bound, address) in listener.bound.iter().zip(&listener.config.addresses) {
                bound
                    .listen(address, &listener.config.sockets)
                    .map_err(|source| listener.error(&bound.address, source))?;
                info!(listener = %listener.config.identity.name, address = %bound.address, "Listening.");
            }
            self.stats
                .listener_create_success()
                .add(self.workers as u64);
            self.stats.total_listeners_warming().dec();
            self.stats.total_listeners_active().inc();
        }
        (0..self.workers)
            .map(|worker| {
                self.listeners
                    .iter()
                    .map(|listener| listener.for_worker(worker))
                    .collect()
            })
            .collect()
    }

    /// Tells that all workers run.
    pub fn workers_started(&self) {
        self.stats.workers_started().set(1);
    }

    /// Closes the sockets of main: what workers close is closed then.
    pub fn close_sockets(&mut self, inbound_only: bool) {
        use crate::stream_info::TrafficDirection::Inbound;
        for listener in &mut self.listeners {
            let inbound = listener.config.identity.traffic_direction == Inbound;
            if (inbound || !inbound_only) && !listener.bound.is_empty() {
                listener.bound.clear();
                self.stats.listener_stopped().inc();
            }
        }
    }

    /// All listeners, in the order in which they came.
    pub fn listeners(&self) -> &[ManagedListener] {
        &self.listeners
    }

    fn check_addresses(
        &self,
        config: Listener,
        path: &ConfigPath<'_>,
    ) -> Result<Listener, Rejected> {
        let fixed = |address: &Address| address.port() != Some(0);
        for address in config.addresses.iter().map(|address| &address.address) {
            let same = |other: &&ManagedListener| {
                let others = &other.config.addresses;
                other.config.bind_to_port && others.iter().any(|other| other.address == *address)
            };
            if config.bind_to_port
                && fixed(address)
                && let Some(other) = self.listeners.iter().find(same)
            {
                return Err(path.field("address").reject(format!(
                    "{address} is the address of listener \"{}\" already",
                    other.config.identity.name
                )));
            }
        }
        Ok(config)
    }
}

impl ManagedListener {
    /// The addresses it is bound to, or would be.
    pub fn addresses(&self) -> Vec<Address> {
        if self.bound.is_empty() {
            let configured = self.config.addresses.iter();
            configured.map(|address| address.address.clone()).collect()
        } else {
            self.bound
                .iter()
                .map(|bound| bound.address.clone())
                .collect()
        }
    }

    fn for_worker(&self, worker: usize) -> Result<NewListener, BindError> {
        let sockets = self.bound.iter().map(|bound| {
            let socket = bound
                .socket_of(worker)
                .map_err(|source| self.error(&bound.address, source))?;
            Ok((socket, bound.address.clone()))
        });
        Ok(NewListener {
            id: self.id,
            config: self.config.clone(),
            sockets: sockets.collect::<Result<_, _>>()?,
            addresses: self.addresses(),
            balance: self.balance.clone(),
        })
    }

    fn error(&self, address: &Address, source: io::Error) -> BindError {
        BindError {
            listener: self.config.identity.name.to_string(),
            address: address.to_string(),
            source,
        }
    }
}
