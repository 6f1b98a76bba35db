//! What one stream has asked for, has been sent, and has accepted: a state machine without I/O.
//!
//! Pushes go in this order: secrets, clusters, endpoints; then, once the client has accepted those and asked for the
//! endpoints of all clusters, listeners, routes and configurations of filters; then, once all of that is accepted, what is to be removed. So no
//! route leads to a cluster that is not there yet, or not any more. A client that does not accept holds the second
//! group back for [`PATIENCE`] only. Of each type one push is under way at a time, and the next one is made from the
//! newest snapshot: whoever is slow gets fewer pushes, and nothing is queued.
//!
//! A resource is sent when its version is not the one that the client has, and never otherwise, with one exception:
//! endpoints follow their cluster whenever it changes, since Envoy's delta client waits for them then.

mod push;
mod request;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::cache::{Resource, ResourceType, Snapshot, version_of_all};

/// How long listeners and routes wait for a client that does not accept clusters and endpoints.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Which of the two forms of the protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Only what changed.
    Delta,
    /// State of the world: listeners and clusters are sent as a whole.
    Sotw,
}

/// One response to be sent.
#[derive(Debug, PartialEq)]
pub struct Push {
    /// Of which type.
    pub kind: ResourceType,
    /// To be answered with.
    pub nonce: String,
    /// Of all that the client is to have of this type.
    pub version: String,
    /// The resources.
    pub resources: Vec<Arc<Resource>>,
    /// The names of those that are not there (any more). Empty in SotW.
    pub removed: Vec<Arc<str>>,
}

/// A request, of either variant.
#[derive(Debug, Default)]
pub struct Request {
    /// Names to add; in SotW all names.
    pub subscribe: Vec<String>,
    /// Names to take away.
    pub unsubscribe: Vec<String>,
    /// Delta, first request: what the client has.
    pub initial_versions: BTreeMap<String, String>,
    /// SotW: what the client has accepted last.
    pub version: String,
    /// The response that it answers.
    pub nonce: String,
    /// Why the response was refused.
    pub error: Option<String>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It answered nothing.
    None,
    /// The client has accepted a push.
    Accepted,
    /// The client has refused a push, for this reason.
    Refused(String),
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    variant: Variant,
    snapshot: Arc<Snapshot>,
    types: [TypeState; ResourceType::COUNT],
    nonce: u64,
    gate: Option<Instant>,
}

#[derive(Debug, Default)]
struct TypeState {
    is_subscribed: bool,
    is_wildcard: bool,
    names: BTreeSet<Arc<str>>,
    /// By the [`mark_of`] name and version.
    sent: BTreeMap<Arc<str>, u64>,
    /// What was sent, where a response may have to say again what is there no more: SotW, clusters and listeners.
    whole: BTreeMap<Arc<str>, Arc<Resource>>,
    /// Names to be sent: of resources that the client has not or not in this version, and of those that it waits for
    /// and that are not there. Kept by [`Session::touch`], so that a change costs what it changes, not what there is.
    pending: BTreeSet<Arc<str>>,
    /// Names that were sent and that are not there any more.
    gone: BTreeSet<Arc<str>>,
    /// Names that the client knows not to be there.
    absent: BTreeSet<Arc<str>>,
    in_flight: Option<InFlight>,
    last_nonce: String,
    must_answer: bool,
    accepted: Option<String>,
    refused: Option<Refusal>,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    version: String,
    names: Vec<Arc<str>>,
}

/// A push that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Its version.
    pub version: String,
    /// The resources in it.
    pub resources: Vec<String>,
    /// What the client says.
    pub reason: String,
}

/// How far a client is with a type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The type, such as `clusters`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// How many resources it has been sent.
    pub sent: usize,
    /// The version it accepted last.
    pub accepted: Option<String>,
    /// Whether a push waits for its answer.
    pub waiting: bool,
    /// What it refused last, if nothing was accepted since.
    pub refused: Option<Refusal>,
}

impl Session {
    /// A session that has nothing.
    #[must_use]
    pub fn new(variant: Variant, snapshot: Arc<Snapshot>) -> Self {
        Self {
            variant,
            snapshot,
            types: Default::default(),
            nonce: 0,
            gate: None,
        }
    }

    /// What the client is to have from now on.
    pub fn set_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        let before = std::mem::replace(&mut self.snapshot, Arc::clone(&snapshot));
        for kind in ResourceType::ALL {
            if self.types[kind.index()].is_subscribed {
                before.compare(&snapshot, kind, |name| self.touch(kind, name));
            }
        }
    }

    /// Finds out what is to be said of a name: its resource, what was sent of it or who asked for it has changed.
    fn touch(&mut self, kind: ResourceType, name: &Arc<str>) {
        // In SotW only a response of clusters or listeners can say what is not there: it has all that there is.
        let can_say_missing = self.variant == Variant::Delta || kind.has_wildcard();
        let state = &mut self.types[kind.index()];
        let is_named = state.names.contains(name);
        let sent = state.sent.get(name);
        let (is_pending, is_gone) = match (self.snapshot.of(kind).get(name), sent) {
            (Some(resource), sent) => {
                let is_wanted = state.is_wildcard || is_named;
                let is_known = sent.is_some_and(|mark| *mark == resource.mark());
                (is_wanted && !is_known, false)
            }
            (None, Some(_)) => (false, true),
            (None, None) => {
                let is_missing = is_named && !state.absent.contains(name);
                (is_missing && can_say_missing, false)
            }
        };
        for (set, is_in) in [(&mut state.pending, is_pending), (&mut state.gone, is_gone)] {
            if is_in {
                set.insert(Arc::clone(name));
            } else {
                set.remove(name);
            }
        }
    }

    /// [`Self::touch`] for all names of which anything is known.
    fn touch_all(&mut self, kind: ResourceType) {
        let snapshot = Arc::clone(&self.snapshot);
        let state = &mut self.types[kind.index()];
        let mut names: BTreeSet<_> = std::mem::take(&mut state.pending);
        names.append(&mut state.gone);
        names.extend(state.names.iter().cloned());
        names.extend(state.sent.keys().cloned());
        if state.is_wildcard {
            names.extend(snapshot.of(kind).keys().cloned());
        }
        for name in &names {
            self.touch(kind, name);
        }
    }

    /// How far the client is.
    #[must_use]
    pub fn progress(&self) -> Vec<Progress> {
        ResourceType::ALL
            .into_iter()
            .map(|kind| (kind, &self.types[kind.index()]))
            .filter(|(_, state)| state.is_subscribed)
            .map(|(kind, state)| Progress {
                kind: kind.word(),
                sent: state.sent.len(),
                accepted: state.accepted.clone(),
                waiting: state.in_flight.is_some(),
                refused: state.refused.clone(),
            })
            .collect()
    }

    /// Whether a name was asked for before.
    #[must_use]
    pub fn has_asked(&self, kind: ResourceType, name: &str) -> bool {
        self.types[kind.index()].names.contains(name)
    }

    /// Whether there is a resource of this name for the client.
    #[must_use]
    pub fn has(&self, kind: ResourceType, name: &str) -> bool {
        self.snapshot.of(kind).contains_key(name)
    }

    /// When [`Self::next`] has to be asked again, if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.gate
    }

    /// In delta, where nobody compares it, that of all that the client may ask for.
    fn version(&self, kind: ResourceType) -> String {
        match self.variant {
            Variant::Delta => self.snapshot.version(kind),
            Variant::Sotw => version_of_all(self.wanted(kind)),
        }
    }

    /// Whether a response has to have all that there is.
    fn is_whole(&self, kind: ResourceType) -> bool {
        self.variant == Variant::Sotw && kind.has_wildcard()
    }

    /// The resources of the snapshot that the client has asked for.
    fn wanted(&self, kind: ResourceType) -> impl Iterator<Item = &Arc<Resource>> {
        let state = &self.types[kind.index()];
        let all = self.snapshot.of(kind);
        let every = state
            .is_wildcard
            .then(|| all.values())
            .into_iter()
            .flatten();
        let named =
            (!state.is_wildcard).then(|| state.names.iter().filter_map(|name| all.get(name)));
        every.chain(named.into_iter().flatten())
    }
}

impl TypeState {
    fn note_sent(&mut self, resources: &[Arc<Resource>], is_whole: bool) {
        let marks = resources
            .iter()
            .map(|resource| (Arc::clone(&resource.name), resource.mark()));
        if self.sent.is_empty() {
            // At once, which fills the map better.
            self.sent = marks.collect();
        } else {
            self.sent.extend(marks);
        }
        if is_whole {
            let named = resources
                .iter()
                .map(|resource| (Arc::clone(&resource.name), Arc::clone(resource)));
            self.whole.extend(named);
        }
    }
}
