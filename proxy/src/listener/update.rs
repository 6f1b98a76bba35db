//! What a worker does when main has changed a listener that it serves.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::config::Listener;
use super::filter_chain::FilterChain;
use super::handler::{ActiveListener, ConnectionHandler, Generation};

/// What main asks a worker to do with a listener. Those that the worker does not have any more are passed over.
pub enum ListenerCommand {
    /// New connections get other filter chains. The connections of chains that are gone drain, all others stay untouched.
    ReplaceChains {
        /// The number of the listener.
        listener: u64,
        /// The new configuration, which shares the chains that stay with the old one.
        config: Arc<Listener>,
        /// Ever more connections drain over this time. None: all at once.
        gradually: Option<Duration>,
    },
    /// Connections of chains that have drained, and are still there, are closed.
    CloseChains {
        /// The number of the listener.
        listener: u64,
        /// The chains.
        chains: Arc<[Arc<FilterChain>]>,
        /// Dropped when that is done.
        done: mpsc::Sender<()>,
    },
    /// Nothing more is accepted, and the connections drain.
    Drain {
        /// The number of the listener.
        listener: u64,
        /// Another listener goes on with the same sockets, and takes what waits in their queues.
        hand_over: bool,
        /// Ever more connections drain over this time. None: all at once.
        gradually: Option<Duration>,
    },
    /// The listener goes, with the connections that it still has.
    Remove {
        /// The number of the listener.
        listener: u64,
        /// Dropped when that is done.
        done: mpsc::Sender<()>,
    },
}

impl ConnectionHandler {
    /// Does what main asks for.
    pub fn execute(&self, command: ListenerCommand) {
        match command {
            ListenerCommand::ReplaceChains {
                listener,
                config,
                gradually,
            } => {
                if let Some(listener) = self.by_number(listener) {
                    listener.replace_chains(config, gradually);
                }
            }
            ListenerCommand::CloseChains {
                listener,
                chains,
                done,
            } => {
                if let Some(listener) = self.by_number(listener) {
                    listener.close_chains(&chains);
                }
                drop(done);
            }
            ListenerCommand::Drain {
                listener,
                hand_over,
                gradually,
            } => {
                if let Some(listener) = self.by_number(listener) {
                    listener.hand_over.set(hand_over);
                    listener.stop.set();
                    listener.drain(gradually);
                }
            }
            ListenerCommand::Remove { listener, done } => {
                if let Some(listener) = self.by_number(listener) {
                    listener.close();
                }
                let is_other = |known: &Rc<ActiveListener>| known.id != listener;
                self.listeners.borrow_mut().retain(is_other);
                self.check_finished();
                drop(done);
            }
        }
    }

    fn by_number(&self, number: u64) -> Option<Rc<ActiveListener>> {
        self.find(|listener| listener.id == number)
    }
}

impl ActiveListener {
    fn replace_chains(&self, config: Arc<Listener>, gradually: Option<Duration>) {
        let old = self.generation();
        let new = Generation::new(config, &old.chains, &self.worker);
        let stays = |chain: &Arc<FilterChain>| {
            let mut all = new.chains.iter();
            all.any(|new| Arc::ptr_eq(&new.config, chain))
        };
        let mut leaving = self.leaving.borrow_mut();
        for chain in old.chains.iter().filter(|chain| !stays(&chain.config)) {
            match gradually {
                Some(over) => chain.drain.begin_gradually(over),
                None => chain.drain.begin(),
            }
            leaving.push(chain.clone());
        }
        self.current.replace(Rc::new(new));
    }

    fn close_chains(&self, chains: &[Arc<FilterChain>]) {
        let mut closed = Vec::new();
        self.leaving.borrow_mut().retain(|chain| {
            let stays = !chains.iter().any(|gone| Arc::ptr_eq(gone, &chain.config));
            if !stays {
                closed.push(chain.clone());
            }
            stays
        });
        for chain in closed {
            chain.connections.close();
        }
    }

    fn close(&self) {
        self.closed.set(true);
        self.stop.set();
        let leaving = std::mem::take(&mut *self.leaving.borrow_mut());
        for chain in self.generation().chains.iter().chain(&leaving) {
            chain.connections.close();
        }
    }
}

impl fmt::Debug for ListenerCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, listener) = match self {
            Self::ReplaceChains { listener, .. } => ("ReplaceChains", listener),
            Self::CloseChains { listener, .. } => ("CloseChains", listener),
            Self::Drain { listener, .. } => ("Drain", listener),
            Self::Remove { listener, .. } => ("Remove", listener),
        };
        f.debug_tuple(name).field(listener).finish()
    }
}
