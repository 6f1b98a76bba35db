//! All subscriptions of the process, and who is told.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::channel::Channel;
use super::interests::Share;
use super::snapshot::Snapshot;
use super::{FetchFailure, Interest, Refused, ResourceKind, Update, Watcher, XdsLog};
use crate::stats::Scope;

/// The subscriptions, by number.
#[derive(Default)]
pub(super) struct Subscribers {
    all: RefCell<BTreeMap<u64, Subscriber>>,
    /// Until when first answers are waited for.
    deadlines: RefCell<BTreeSet<(Instant, u64)>>,
    /// Rung when a deadline is the next one that was not before.
    pub(super) sooner: Notify,
    /// What stands in for servers that cannot be reached.
    pub(super) snapshot: OnceCell<Rc<Snapshot>>,
    /// What was taken and refused lately.
    pub(super) log: XdsLog,
    /// Whether time runs: it does not before sources are asked.
    running: Cell<bool>,
}

/// One subscription.
pub(super) struct Subscriber {
    pub(super) channel: Rc<Channel>,
    pub(super) kind: ResourceKind,
    pub(super) interest: Interest,
    pub(super) watcher: WatcherHandle,
    pub(super) initial_fetch_timeout: Duration,
    /// None: an answer came, or none is waited for.
    pub(super) deadline: Option<Instant>,
}

#[derive(Clone)]
pub(super) enum WatcherHandle {
    /// Of what may live on any thread.
    Shared(Weak<dyn Watcher + Send + Sync>),
    /// Of what lives on main.
    Main(Rc<dyn Watcher>),
}

impl WatcherHandle {
    fn on_update(&self, update: &Update<'_>) -> Result<(), Vec<Refused>> {
        match self {
            Self::Shared(watcher) => watcher
                .upgrade()
                .map_or(Ok(()), |watcher| watcher.on_update(update)),
            Self::Main(watcher) => watcher.on_update(update),
        }
    }

    fn on_fetch_failed(&self, why: FetchFailure) {
        match self {
            Self::Shared(watcher) => {
                if let Some(watcher) = watcher.upgrade() {
                    watcher.on_fetch_failed(why);
                }
            }
            Self::Main(watcher) => watcher.on_fetch_failed(why),
        }
    }
}

impl Subscribers {
    pub(super) fn insert(&self, number: u64, mut subscriber: Subscriber) {
        if self.running.get() {
            self.start_clock(number, &mut subscriber);
        }
        self.all.borrow_mut().insert(number, subscriber);
    }

    /// Lets go of all. Subscriptions and places hold each other.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *self.all.borrow_mut());
        // One that goes may look at the others.
        drop(all);
    }

    pub(super) fn remove(&self, number: u64) -> Option<Subscriber> {
        let subscriber = self.all.borrow_mut().remove(&number)?;
        if let Some(deadline) = subscriber.deadline {
            self.deadlines.borrow_mut().remove(&(deadline, number));
        }
        Some(subscriber)
    }

    /// Changes what a subscription is about; gives what it was about, with its channel and kind.
    pub(super) fn change(
        &self,
        number: u64,
        interest: &Interest,
    ) -> Option<(Rc<Channel>, ResourceKind, Interest)> {
        let mut all = self.all.borrow_mut();
        let subscriber = all.get_mut(&number)?;
        let old = std::mem::replace(&mut subscriber.interest, interest.clone());
        Some((subscriber.channel.clone(), subscriber.kind, old))
    }

    /// From now on sources are asked, and time runs for first answers.
    pub(super) fn start(&self) {
        self.running.set(true);
        for (number, subscriber) in self.all.borrow_mut().iter_mut() {
            self.start_clock(*number, subscriber);
        }
    }

    fn start_clock(&self, number: u64, subscriber: &mut Subscriber) {
        if !subscriber.initial_fetch_timeout.is_zero() {
            let deadline = Instant::now() + subscriber.initial_fetch_timeout;
            subscriber.deadline = Some(deadline);
            let mut deadlines = self.deadlines.borrow_mut();
            deadlines.insert((deadline, number));
            if deadlines.first() == Some(&(deadline, number)) {
                self.sooner.notify_one();
            }
        }
    }

    /// When somebody's time for a first answer is over next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadlines = self.deadlines.borrow();
        deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Tells those whose time is over.
    pub(super) fn time_out(&self) {
        let now = Instant::now();
        loop {
            let first = self.deadlines.borrow().first().copied();
            let Some((deadline, number)) = first.filter(|(deadline, _)| *deadline <= now) else {
                return;
            };
            self.deadlines.borrow_mut().remove(&(deadline, number));
            let watcher = {
                let mut all = self.all.borrow_mut();
                all.get_mut(&number).map(|subscriber| {
                    subscriber.deadline = None;
                    if let Interest::Names(names) = &subscriber.interest {
                        let channel = &subscriber.channel;
                        channel.with(subscriber.kind, |state| state.ledger.time_out(names));
                    }
                    subscriber.watcher.clone()
                })
            };
            if let Some(watcher) = watcher {
                watcher.on_fetch_failed(FetchFailure::Timeout);
            }
        }
    }

    /// Tells subscriptions their shares of a response. What they refuse is returned, each resource once.
    pub(super) fn tell(&self, version: &Arc<str>, shares: Vec<(u64, Share)>) -> Vec<Refused> {
        let mut refused: Vec<Refused> = Vec::new();
        for (number, share) in shares {
            // One that is told may end another.
            let Some(watcher) = self.answered(number) else {
                continue;
            };
            let update = Update {
                version,
                sent: &share.sent,
                removed: &share.removed,
            };
            for error in watcher.on_update(&update).err().unwrap_or_default() {
                if !refused.contains(&error) {
                    refused.push(error);
                }
            }
        }
        refused
    }

    /// Where the streams of a place count that is asked for one subscription alone.
    pub(super) fn scope(&self, number: u64) -> Option<Scope> {
        let watcher = self.all.borrow().get(&number)?.watcher.clone();
        match watcher {
            WatcherHandle::Shared(watcher) => watcher.upgrade()?.scope(),
            WatcherHandle::Main(watcher) => watcher.scope(),
        }
    }

    /// A subscription has its first answer.
    fn answered(&self, number: u64) -> Option<WatcherHandle> {
        let mut all = self.all.borrow_mut();
        let subscriber = all.get_mut(&number)?;
        if let Some(deadline) = subscriber.deadline.take() {
            self.deadlines.borrow_mut().remove(&(deadline, number));
        }
        Some(subscriber.watcher.clone())
    }

    pub(super) fn connection_failed(&self, numbers: &[u64]) {
        self.fail(numbers, FetchFailure::ConnectionFailure);
    }

    pub(super) fn fail(&self, numbers: &[u64], why: FetchFailure) {
        for number in numbers {
            let all = self.all.borrow();
            let watcher = all.get(number).map(|known| known.watcher.clone());
            drop(all);
            if let Some(watcher) = watcher {
                watcher.on_fetch_failed(why);
            }
        }
    }

    /// The names that are asked for of a kind, sorted.
    pub(super) fn names(&self, kind: ResourceKind) -> Vec<Arc<str>> {
        let all = self.all.borrow();
        let mut names: Vec<Arc<str>> = all
            .values()
            .filter(|known| known.kind == kind)
            .flat_map(|known| match &known.interest {
                Interest::Wildcard => Vec::new(),
                Interest::Names(names) | Interest::WildcardAnd(names) => names.clone(),
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }
}
