//! A listener with its sockets.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;

use outrigger_proto::pb::google::protobuf::Any;
use tracing::info;

use super::super::config::Listener;
use super::super::handler::NewListener;
use super::super::socket::BoundAddress;
use crate::net::Address;

/// A listener with its sockets.
pub struct ManagedListener {
    /// Its number on the workers. Listeners that differ in their filter chains only have the same.
    pub id: u64,
    /// The configuration.
    pub config: Arc<Listener>,
    /// When it was taken.
    pub last_updated: SystemTime,
    pub(super) message: Any,
    pub(super) origin: Origin,
    bound: RefCell<Vec<Rc<BoundAddress>>>,
    balance: Option<Arc<[AtomicUsize]>>,
}

/// Where a listener comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// It is there for the life of the process.
    Bootstrap,
    /// It came with this version.
    Lds(Arc<str>),
}

/// An address that could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("listener \"{listener}\": cannot bind '{address}': {source}")]
pub struct BindError {
    listener: String,
    address: String,
    source: io::Error,
}

impl ManagedListener {
    /// A listener without sockets.
    pub(super) fn new(
        id: u64,
        config: Listener,
        message: Any,
        origin: Origin,
        workers: usize,
    ) -> Self {
        let balance = config
            .exact_balance
            .then(|| (0..workers).map(|_| AtomicUsize::new(0)).collect());
        Self {
            id,
            config: Arc::new(config),
            last_updated: SystemTime::now(),
            message,
            origin,
            bound: RefCell::default(),
            balance,
        }
    }

    /// One with the sockets of another one. `same`: it is that one with other filter chains.
    #[must_use]
    pub(super) fn with_sockets_of(self, other: &Self, same: bool) -> Self {
        let (id, balance) = match same {
            true => (other.id, other.balance.clone()),
            false => (self.id, self.balance),
        };
        Self {
            id,
            balance,
            bound: RefCell::new(other.bound.borrow().clone()),
            ..self
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.identity.name
    }

    /// Takes its addresses. Every one that cannot be taken is an error.
    pub(super) fn bind(&self, workers: usize) -> Result<(), Vec<BindError>> {
        if !self.config.bind_to_port {
            return Ok(());
        }
        let mut errors = Vec::new();
        let mut all = self.bound.borrow_mut();
        for address in &self.config.addresses {
            match BoundAddress::bind(address, &self.config.sockets, workers) {
                Ok(bound) => all.push(Rc::new(bound)),
                Err(source) => errors.push(self.error(&address.address, source)),
            }
        }
        match errors.is_empty() {
            true => Ok(()),
            false => Err(errors),
        }
    }

    /// Begins to listen.
    pub(super) fn listen(&self) -> Result<(), BindError> {
        let bound = self.bound.borrow();
        for (bound, address) in bound.iter().zip(&self.config.addresses) {
            bound
                .listen(address, &self.config.sockets)
                .map_err(|source| self.error(&bound.address, source))?;
            info!(listener = self.name(), address = %bound.address, "Listening.");
        }
        Ok(())
    }

    /// Gives its sockets up. False: it had none.
    pub(super) fn close_sockets(&self) -> bool {
        let bound = std::mem::take(&mut *self.bound.borrow_mut());
        !bound.is_empty()
    }

    /// Whether it has sockets, or needs none.
    pub(super) fn is_open(&self) -> bool {
        !self.config.bind_to_port || !self.bound.borrow().is_empty()
    }

    /// Whether the sockets of this listener serve for `other` as well.
    pub(super) fn sockets_fit(&self, other: &Listener) -> bool {
        let own = &*self.config;
        own.bind_to_port == other.bind_to_port
            && own.addresses == other.addresses
            && own.sockets == other.sockets
    }

    /// The addresses it is bound to, or would be.
    pub fn addresses(&self) -> Vec<Address> {
        let bound = self.bound.borrow();
        if bound.is_empty() {
            let configured = self.config.addresses.iter();
            configured.map(|address| address.address.clone()).collect()
        } else {
            bound.iter().map(|bound| bound.address.clone()).collect()
        }
    }

    /// What a worker needs to run it.
    pub(super) fn for_worker(&self, worker: usize) -> Result<NewListener, BindError> {
        let bound = self.bound.borrow();
        let sockets = bound.iter().map(|bound| {
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
            listener: self.name().to_owned(),
            address: address.to_string(),
            source,
        }
    }
}
