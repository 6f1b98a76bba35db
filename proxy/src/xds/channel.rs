//! One place that is asked for resources, and all who want some of it: the aggregated stream, or the source of one subscription.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::delta::Delta;
use super::interests::Interests;
use super::resource::Received;
use super::sotw::Sotw;
use super::subscribers::Subscribers;
use super::{Refused, ResourceKind, SourceKind};

/// A place that is asked.
pub(super) struct Channel {
    pub(super) source: SourceKind,
    /// In the order in which they were first asked for.
    kinds: RefCell<Vec<(ResourceKind, KindState)>>,
    /// Rung when something else is wanted, or nothing any more.
    pub(super) changed: Notify,
    closed: Cell<bool>,
    subscribers: Rc<Subscribers>,
}

/// One kind of resources at this place.
pub(super) struct KindState {
    pub(super) interests: Interests,
    pub(super) sotw: Sotw,
    pub(super) delta: Delta,
    /// When resources are over that are good for a time only.
    expiries: HashMap<Arc<str>, Instant>,
}

impl KindState {
    fn new(kind: ResourceKind) -> Self {
        Self {
            interests: Interests::default(),
            sotw: Sotw::new(kind),
            delta: Delta::new(kind),
            expiries: HashMap::new(),
        }
    }

    /// Whether something is to be asked or answered.
    pub(super) fn is_due(&self, delta: bool) -> bool {
        match delta {
            true => self.delta.is_due(&self.interests),
            false => self.sotw.is_due(&self.interests),
        }
    }
}

impl Channel {
    pub(super) fn new(source: SourceKind, subscribers: &Rc<Subscribers>) -> Rc<Self> {
        Rc::new(Self {
            source,
            kinds: RefCell::default(),
            changed: Notify::new(),
            closed: Cell::new(false),
            subscribers: subscribers.clone(),
        })
    }

    /// Whether nobody will ask here any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub(super) fn close(&self) {
        self.closed.set(true);
        self.changed.notify_one();
    }

    /// Changes what is wanted of a kind.
    pub(super) fn change<T>(
        &self,
        kind: ResourceKind,
        change: impl FnOnce(&mut Interests) -> T,
    ) -> T {
        let changed = self.with(kind, |state| change(&mut state.interests));
        self.changed.notify_one();
        changed
    }

    /// Looks at a kind; makes it known if it is not.
    pub(super) fn with<T>(&self, kind: ResourceKind, look: impl FnOnce(&mut KindState) -> T) -> T {
        let mut kinds = self.kinds.borrow_mut();
        let index = kinds.iter().position(|(known, _)| *known == kind);
        let index = index.unwrap_or_else(|| {
            kinds.push((kind, KindState::new(kind)));
            kinds.len() - 1
        });
        look(&mut kinds[index].1)
    }

    /// Whether a kind was ever asked for.
    pub(super) fn knows(&self, kind: ResourceKind) -> bool {
        self.kinds.borrow().iter().any(|(known, _)| *known == kind)
    }

    /// The kinds that were asked for, in order.
    pub(super) fn kinds(&self) -> Vec<ResourceKind> {
        self.kinds.borrow().iter().map(|(kind, _)| *kind).collect()
    }

    /// Hands a response to all whom it concerns. What they refuse is returned.
    pub(super) fn dispatch(&self, kind: ResourceKind, received: &Received) -> Vec<Refused> {
        self.note_lifetimes(kind, received);
        let shares = self.with(kind, |state| {
            state.interests.shares(&received.sent, &received.removed)
        });
        self.subscribers.tell(&received.version, shares)
    }

    fn note_lifetimes(&self, kind: ResourceKind, received: &Received) {
        self.with(kind, |state| {
            for (name, lifetime) in &received.lifetimes {
                match lifetime {
                    Some(lifetime) => {
                        let at = Instant::now() + *lifetime;
                        state.expiries.insert(name.clone(), at);
                    }
                    None => drop(state.expiries.remove(name)),
                }
            }
            for name in &received.removed {
                state.expiries.remove(name);
            }
        });
    }

    /// When the next resource is over.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let kinds = self.kinds.borrow();
        let all = kinds.iter().flat_map(|(_, state)| state.expiries.values());
        all.min().copied()
    }

    /// Takes away what is over.
    pub(super) fn expire(&self) {
        let now = Instant::now();
        for kind in self.kinds() {
            let over = self.with(kind, |state| {
                let over = state.expiries.iter().filter(|(_, at)| **at <= now);
                let over: Vec<Arc<str>> = over.map(|(name, _)| name.clone()).collect();
                for name in &over {
                    state.expiries.remove(name);
                }
                over
            });
            if !over.is_empty() {
                tracing::info!(
                    kind = kind.type_name(),
                    ?over,
                    "Resources are over their time to live."
                );
                let received = Received {
                    removed: over,
                    ..Received::default()
                };
                // Nobody can refuse that something is gone.
                self.dispatch(kind, &received);
            }
        }
    }

    /// Tells all who want something here that it cannot be reached.
    pub(super) fn connection_failed(&self) {
        for kind in self.kinds() {
            let numbers = self.with(kind, |state| state.interests.numbers());
            self.subscribers.connection_failed(&numbers);
        }
    }
}
