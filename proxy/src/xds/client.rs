//! The client: what is asked for, and who is told.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use tokio::sync::mpsc;

use super::subscription::Command;
use super::{
    FetchFailure, Interest, Refused, Resource, ResourceKind, Subscription, Update, Watcher,
    XdsSource,
};
use crate::server::ServerContext;

/// Asks sources for resources and hands out what they answer. Lives on main.
pub struct XdsClient {
    server: Arc<ServerContext>,
    commands: RefCell<Option<mpsc::UnboundedReceiver<Command>>>,
    subscribers: RefCell<BTreeMap<u64, Subscriber>>,
}

/// One subscription, as the client knows it.
struct Subscriber {
    source: XdsSource,
    kind: ResourceKind,
    interest: Interest,
    watcher: WatcherHandle,
}

#[derive(Clone)]
enum WatcherHandle {
    /// Of what may live on any thread.
    Shared(Weak<dyn Watcher + Send + Sync>),
    /// Of what lives on main.
    Main(Rc<dyn Watcher>),
}

impl XdsClient {
    /// The client of the process, without any connection yet.
    pub fn new(server: Arc<ServerContext>) -> Rc<Self> {
        Rc::new(Self {
            commands: RefCell::new(server.xds.take()),
            server,
            subscribers: RefCell::default(),
        })
    }

    /// Asks for resources for whoever lives on main, for as long as the subscription lives.
    pub fn watch(
        &self,
        source: XdsSource,
        kind: ResourceKind,
        interest: Interest,
        watcher: Rc<dyn Watcher>,
    ) -> Subscription {
        let subscription = self.server.xds.number();
        let subscriber = Subscriber {
            source,
            kind,
            interest,
            watcher: WatcherHandle::Main(watcher),
        };
        let mut subscribers = self.subscribers.borrow_mut();
        subscribers.insert(subscription.number, subscriber);
        subscription
    }

    /// Hands resources of a kind to all who asked for them at this source, as if a response had brought them.
    pub fn deliver(
        &self,
        source: &XdsSource,
        kind: ResourceKind,
        version: &str,
        sent: &[Resource],
        removed: &[Arc<str>],
    ) -> Result<(), Vec<Refused>> {
        self.take_commands();
        let version = Arc::from(version);
        let told: Vec<(Interest, WatcherHandle)> = {
            let subscribers = self.subscribers.borrow();
            let concerned = subscribers
                .values()
                .filter(|known| known.kind == kind && known.source == *source);
            concerned
                .map(|known| (known.interest.clone(), known.watcher.clone()))
                .collect()
        };
        let mut refused = Vec::new();
        for (interest, watcher) in told {
            let sent: Vec<Resource> = sent
                .iter()
                .filter(|resource| interest.includes(&resource.name))
                .cloned()
                .collect();
            let removed: Vec<Arc<str>> = removed
                .iter()
                .filter(|name| interest.includes(name))
                .cloned()
                .collect();
            if sent.is_empty() && removed.is_empty() && interest != Interest::Wildcard {
                continue;
            }
            let update = Update {
                version: &version,
                sent: &sent,
                removed: &removed,
            };
            let result = match watcher {
                WatcherHandle::Shared(watcher) => watcher
                    .upgrade()
                    .map_or(Ok(()), |watcher| watcher.on_update(&update)),
                WatcherHandle::Main(watcher) => watcher.on_update(&update),
            };
            if let Err(mut errors) = result {
                refused.append(&mut errors);
            }
        }
        match refused.is_empty() {
            true => Ok(()),
            false => Err(refused),
        }
    }

    /// Tells all who asked for a kind at this source that nothing came, as if the time for it were over.
    pub fn fail(&self, source: &XdsSource, kind: ResourceKind, why: FetchFailure) {
        self.take_commands();
        let told: Vec<WatcherHandle> = {
            let subscribers = self.subscribers.borrow();
            let concerned = subscribers
                .values()
                .filter(|known| known.kind == kind && known.source == *source);
            concerned.map(|known| known.watcher.clone()).collect()
        };
        for watcher in told {
            match watcher {
                WatcherHandle::Shared(watcher) => {
                    if let Some(watcher) = watcher.upgrade() {
                        watcher.on_fetch_failed(why);
                    }
                }
                WatcherHandle::Main(watcher) => watcher.on_fetch_failed(why),
            }
        }
    }

    /// The names that are asked for of a kind, sorted; empty for a wildcard.
    pub fn asked_for(&self, kind: ResourceKind) -> Vec<Arc<str>> {
        self.take_commands();
        let subscribers = self.subscribers.borrow();
        let mut names: Vec<Arc<str>> = subscribers
            .values()
            .filter(|known| known.kind == kind)
            .flat_map(|known| match &known.interest {
                Interest::Wildcard => Vec::new(),
                Interest::Names(names) => names.clone(),
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Takes note of all changes so far.
    fn take_commands(&self) {
        let mut commands = self.commands.borrow_mut();
        let Some(commands) = commands.as_mut() else {
            return;
        };
        while let Ok(command) = commands.try_recv() {
            let mut subscribers = self.subscribers.borrow_mut();
            match command {
                Command::Subscribe {
                    number,
                    source,
                    kind,
                    interest,
                    watcher,
                } => {
                    let subscriber = Subscriber {
                        source,
                        kind,
                        interest,
                        watcher: WatcherHandle::Shared(watcher),
                    };
                    subscribers.insert(number, subscriber);
                }
                Command::Change { number, interest } => {
                    if let Some(known) = subscribers.get_mut(&number) {
                        known.interest = interest;
                    }
                }
                Command::End { number } => {
                    let ended = subscribers.remove(&number);
                    // What a watcher drops may end other subscriptions.
                    drop(subscribers);
                    drop(ended);
                }
            }
        }
    }
}
