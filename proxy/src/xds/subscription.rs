//! Who wants which resources.

use std::fmt;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Refused, ResourceKind, Update, XdsSource};
use crate::stats::Scope;

/// Which resources of a kind a subscription is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interest {
    /// All that the source has for this node.
    Wildcard,
    /// These names.
    Names(Vec<Arc<str>>),
    /// All that the source has for this node, and what it has for it under these names when it is asked.
    WildcardAnd(Vec<Arc<str>>),
}

/// Is told what its source says. All calls are made on main.
pub trait Watcher {
    /// Takes what has changed. Each resource stands for itself: those that are refused are named, the others are in force.
    ///
    /// A resource has changed when its content has: the watcher compares, since only it keeps what it took.
    fn on_update(&self, update: &Update<'_>) -> Result<(), Vec<Refused>>;

    /// Where that is counted which a stream of this subscription alone does; none: with the aggregated stream.
    fn stats_scope(&self) -> Option<Scope> {
        None
    }

    /// Nothing came so far; who waits for this subscription need wait no more. Updates may follow.
    fn on_fetch_failed(&self, why: FetchFailure);
}

/// Why a first answer is not waited for any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchFailure {
    /// `initial_fetch_timeout` has passed.
    Timeout,
    /// The source cannot be reached, or broke off.
    ConnectionFailure,
}

/// The way to the client for whoever converts configuration, on whatever thread. What is asked for before the client runs, it
/// finds when it starts.
pub struct Subscriptions {
    commands: mpsc::UnboundedSender<Command>,
    received: Mutex<Option<mpsc::UnboundedReceiver<Command>>>,
    last: AtomicU64,
}

/// A change of what is asked for. As many as there are changes of configuration.
pub(super) enum Command {
    Subscribe {
        number: u64,
        source: XdsSource,
        kind: ResourceKind,
        interest: Interest,
        watcher: Weak<dyn Watcher + Send + Sync>,
    },
    Change {
        number: u64,
        interest: Interest,
    },
    End {
        number: u64,
    },
}

/// A subscription. It ends when this is dropped.
pub struct Subscription {
    pub(super) number: u64,
    pub(super) commands: mpsc::UnboundedSender<Command>,
}

impl Subscriptions {
    /// Asks for resources for as long as the subscription lives. The watcher is called on main, never before this returns.
    pub fn subscribe(
        &self,
        source: XdsSource,
        kind: ResourceKind,
        interest: Interest,
        watcher: Weak<dyn Watcher + Send + Sync>,
    ) -> Subscription {
        let subscription = self.number();
        subscription.send(Command::Subscribe {
            number: subscription.number,
            source,
            kind,
            interest,
            watcher,
        });
        subscription
    }

    /// A subscription that nobody knows of yet.
    pub(super) fn number(&self) -> Subscription {
        Subscription {
            number: self.last.fetch_add(1, Relaxed),
            commands: self.commands.clone(),
        }
    }

    /// The other end. There is one client: the second one gets none.
    pub(super) fn take(&self) -> Option<mpsc::UnboundedReceiver<Command>> {
        self.received.lock().take()
    }
}

impl Default for Subscriptions {
    #[expect(
        clippy::disallowed_methods,
        reason = "conversions do not wait, and each thing they subscribe to is held by the configuration"
    )]
    fn default() -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        Self {
            commands,
            received: Mutex::new(Some(received)),
            last: AtomicU64::new(0),
        }
    }
}

impl Subscription {
    /// Asks for other resources from now on.
    pub fn set_interest(&self, interest: Interest) {
        self.send(Command::Change {
            number: self.number,
            interest,
        });
    }

    fn send(&self, command: Command) {
        // Without a client (a configuration that is only validated) nobody is asked.
        let _ = self.commands.send(command);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.send(Command::End {
            number: self.number,
        });
    }
}

impl Interest {
    /// One name.
    pub fn name(name: impl Into<Arc<str>>) -> Self {
        Self::Names(vec![name.into()])
    }

    /// Whether a resource is one of those.
    pub fn includes(&self, name: &str) -> bool {
        match self {
            Self::Wildcard | Self::WildcardAnd(_) => true,
            Self::Names(names) => names.iter().any(|known| **known == *name),
        }
    }
}

impl fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriptions").finish_non_exhaustive()
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Subscription").field(&self.number).finish()
    }
}
