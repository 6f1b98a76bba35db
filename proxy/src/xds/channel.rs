//! One place that is asked for resources, and all who want some of it: the aggregated stream, or the source of one subscription.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, DiscoveryResponse,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::delta::Delta;
use super::interests::Interests;
use super::ledger::{Ledger, ResourceStatus};
use super::resource::Received;
use super::sotw::Sotw;
use super::subscribers::Subscribers;
use super::{ApiTransport, Interest, Refused, ResourceKind, SourceKind};

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

/// What became of a response.
pub(super) struct Taken {
    pub(super) version: Arc<str>,
    pub(super) refused: Vec<Refused>,
}

/// One kind of resources at this place.
pub(super) struct KindState {
    pub(super) interests: Interests,
    pub(super) sotw: Sotw,
    pub(super) delta: Delta,
    pub(super) ledger: Ledger,
    /// Whether its server has answered since the start.
    answered: bool,
    /// What was wanted when the snapshot stood in last, by its generation.
    stood_in: Option<u64>,
    /// When resources are over that are good for a time only.
    expiries: HashMap<Arc<str>, Instant>,
}

impl KindState {
    fn new(kind: ResourceKind) -> Self {
        Self {
            interests: Interests::default(),
            sotw: Sotw::new(kind),
            delta: Delta::new(kind),
            ledger: Ledger::new(kind),
            answered: false,
            stood_in: None,
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

    /// Forgets what became of resources that nobody wants any more.
    pub(super) fn forget(&self, kind: ResourceKind, interest: &Interest) {
        if let Interest::Names(names) = interest {
            self.with(kind, |state| state.ledger.forget(names, &state.interests));
        }
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

    /// Whether responses of a kind are taken: it was asked for, and on a stream that says what has changed on this very one.
    pub(super) fn wants(&self, kind: ResourceKind, delta: bool) -> bool {
        let kinds = self.kinds.borrow();
        let mut known = kinds.iter().filter(|(known, _)| *known == kind);
        known.any(|(_, state)| !delta || state.delta.is_wanted(&state.interests))
    }

    /// The kinds that were asked for, in order.
    pub(super) fn kinds(&self) -> Vec<ResourceKind> {
        self.kinds.borrow().iter().map(|(kind, _)| *kind).collect()
    }

    /// Hands a response to all whom it concerns. What they refuse is returned.
    pub(super) fn dispatch(&self, kind: ResourceKind, received: &Received) -> Vec<Refused> {
        let first = self.with(kind, |state| {
            !std::mem::replace(&mut state.answered, true) && state.stood_in.is_none()
        });
        let refused = self.hand_out(kind, received);
        if let (Some(snapshot), Some(place)) = (self.subscribers.snapshot.get(), self.place()) {
            let by_name = self.with(kind, |state| !state.interests.is_wildcard());
            // Others are asked for name by name, and answered so.
            let anew = first && !by_name;
            snapshot.note(&place, kind, received, (&refused, anew));
        }
        refused
    }

    /// Has the snapshot stand in for a server that has not answered yet. True if somebody was told something.
    pub(super) fn stand_in(&self) -> bool {
        let (Some(snapshot), Some(place)) = (self.subscribers.snapshot.get(), self.place()) else {
            return false;
        };
        let mut told = false;
        for kind in self.kinds() {
            let due = self.with(kind, |state| {
                let generation = Some(state.interests.generation());
                let wanted = !state.answered && !state.interests.is_empty();
                wanted && std::mem::replace(&mut state.stood_in, generation) != generation
            });
            let Some(received) = due.then(|| snapshot.stand_in(&place, kind)).flatten() else {
                continue;
            };
            self.with(kind, |state| {
                state.sotw.assume(&received);
                state.delta.assume(&received);
            });
            for Refused { name, reason } in self.hand_out(kind, &received) {
                let kind = kind.type_name();
                tracing::warn!(
                    kind,
                    resource = &*name,
                    reason,
                    "A resource of the snapshot is refused."
                );
            }
            told = true;
        }
        told
    }

    /// What this place is called in the snapshot; none: it needs no one to stand in.
    fn place(&self) -> Option<String> {
        match &self.source {
            SourceKind::Ads => Some("ads".to_owned()),
            SourceKind::Path(_) => None,
            SourceKind::Api(source) => Some(match &source.transport {
                ApiTransport::Grpc { service, .. } => format!("grpc {}", service.service.authority),
                ApiTransport::Rest { cluster_name, .. } => format!("rest {cluster_name}"),
            }),
        }
    }

    fn hand_out(&self, kind: ResourceKind, received: &Received) -> Vec<Refused> {
        self.note_lifetimes(kind, received);
        let shares = self.with(kind, |state| {
            state.interests.shares(&received.sent, &received.removed)
        });
        let refused = self.subscribers.tell(&received.version, shares);
        self.subscribers.log.record(kind, received, &refused);
        self.with(kind, |state| {
            state.ledger.note(received, &refused, &state.interests);
        });
        refused
    }

    /// What became of each resource that is asked for here.
    pub(super) fn statuses(&self) -> Vec<ResourceStatus> {
        let kinds = self.kinds.borrow();
        let all = kinds
            .iter()
            .map(|(_, state)| state.ledger.statuses(&state.interests));
        all.flatten().collect()
    }

    /// Takes a response that says all that there is, up to its answer.
    pub(super) fn take_state(&self, kind: ResourceKind, response: DiscoveryResponse) -> Taken {
        let received = self.with(kind, |state| state.sotw.receive(response));
        let taken = match received {
            Ok(received) => Taken {
                refused: self.dispatch(kind, &received),
                version: received.version,
            },
            Err(refused) => self.refuse(kind, refused),
        };
        self.with(kind, |state| {
            state.sotw.settle(&taken.version, &taken.refused)
        });
        taken
    }

    /// Takes a response that says what has changed, up to its answer.
    pub(super) fn take_change(
        &self,
        kind: ResourceKind,
        response: DeltaDiscoveryResponse,
    ) -> Taken {
        let received = self.with(kind, |state| state.delta.receive(response));
        match received {
            Ok(received) => {
                let refused = self.dispatch(kind, &received);
                self.with(kind, |state| state.delta.settle(Some(&received), &refused));
                Taken {
                    refused,
                    version: received.version,
                }
            }
            Err(refused) => {
                self.with(kind, |state| state.delta.settle(None, &refused));
                self.refuse(kind, refused)
            }
        }
    }

    /// A response was refused before anybody was told of it.
    fn refuse(&self, kind: ResourceKind, refused: Vec<Refused>) -> Taken {
        let nothing = Received::default();
        self.subscribers.log.record(kind, &nothing, &refused);
        self.with(kind, |state| {
            state.ledger.refuse(&refused, &state.interests)
        });
        Taken {
            version: nothing.version,
            refused,
        }
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
