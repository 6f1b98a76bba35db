//! What main says to its workers.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::listener::{Accepted, ListenerCommand, NewListener};

/// A message to a worker.
#[derive(Debug)]
pub enum WorkerMessage {
    /// Accept connections for these listeners.
    AddListeners(Vec<NewListener>),
    /// A listener has changed.
    Listener(ListenerCommand),
    /// A connection that another worker accepted, where connections are balanced.
    Connection {
        /// The number of its listener.
        listener: u64,
        /// The connection.
        accepted: Accepted,
    },
    /// Connections end as soon as their streams allow.
    Drain {
        /// Only those of listeners for inbound traffic.
        inbound_only: bool,
        /// Not all at once, but ever more of them over this time.
        gradually: Option<Duration>,
    },
    /// No more connections are accepted, but for those that wait already.
    StopListening {
        /// Only listeners for inbound traffic.
        inbound_only: bool,
    },
    /// The worker ends when nothing listens any more and the last connection has gone.
    Finish,
    /// The worker ends at once.
    Exit,
}

/// The way to one worker. Bounded: who sends waits, or does without.
pub type WorkerSender = mpsc::Sender<WorkerMessage>;
