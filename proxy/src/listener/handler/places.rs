//! What an open connection holds: a place on its worker, on its listener, and in the process.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::ActiveListener;
use crate::overload::ConnectionGuard;

/// What a connection is counted in beside its listener, from the moment when it is accepted.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Among all connections of the process.
    pub(super) _global: Option<ConnectionGuard>,
    /// Among those of its worker, where connections are balanced.
    pub(super) _worker: Option<BalanceGuard>,
}

#[derive(Debug)]
pub(super) struct BalanceGuard {
    balance: Arc<[AtomicUsize]>,
    pub(super) worker: usize,
}

impl BalanceGuard {
    /// Counts a connection among those of the worker that has the fewest.
    pub(super) fn least_loaded(balance: &Arc<[AtomicUsize]>) -> Self {
        let loads = balance.iter().map(|count| count.load(Relaxed));
        let least = loads.enumerate().min_by_key(|(_, count)| *count);
        let worker = least.map_or(0, |(index, _)| index);
        if let Some(count) = balance.get(worker) {
            count.fetch_add(1, Relaxed);
        }
        Self {
            balance: balance.clone(),
            worker,
        }
    }
}

impl Drop for BalanceGuard {
    fn drop(&mut self) {
        if let Some(count) = self.balance.get(self.worker) {
            count.fetch_sub(1, Relaxed);
        }
    }
}

/// Counts a connection among those of its listener and of its worker.
pub(in crate::listener) struct OpenGuard {
    pub(in crate::listener) listener: Rc<ActiveListener>,
    places: Places,
}

impl OpenGuard {
    pub(super) fn new(listener: Rc<ActiveListener>, places: Places) -> Self {
        listener.open.fetch_add(1, Relaxed);
        let handler = &listener.handler;
        handler.connections.set(handler.connections.get() + 1);
        Self { listener, places }
    }

    /// The same connection, as one of another listener.
    pub(in crate::listener) fn hand_off(mut self, to: Rc<ActiveListener>) -> Self {
        Self::new(to, std::mem::take(&mut self.places))
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.listener.open.fetch_sub(1, Relaxed);
        let handler = &self.listener.handler;
        handler.connections.set(handler.connections.get() - 1);
        handler.check_finished();
    }
}
