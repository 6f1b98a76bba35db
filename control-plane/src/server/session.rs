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

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::cache::{Resource, ResourceType, Resources, Snapshot, mark_of, version_of_all};

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

    /// Takes a request.
    pub fn request(&mut self, kind: ResourceType, request: Request) -> Answer {
        let answer = self.answer(kind, &request);
        match self.variant {
            Variant::Delta => self.delta(kind, request),
            Variant::Sotw => {
                let last = &self.types[kind.index()].last_nonce;
                // Who answers an older push does not know the newest yet.
                if request.nonce.is_empty() || request.nonce == *last {
                    self.sotw(kind, request);
                }
            }
        }
        answer
    }

    fn answer(&mut self, kind: ResourceType, request: &Request) -> Answer {
        let state = &mut self.types[kind.index()];
        let is_answer = state
            .in_flight
            .as_ref()
            .is_some_and(|push| push.nonce == request.nonce);
        let Some(push) = state.in_flight.take_if(|_| is_answer) else {
            return Answer::None;
        };
        match &request.error {
            None => {
                state.accepted = Some(push.version);
                state.refused = None;
                Answer::Accepted
            }
            Some(reason) => {
                state.refused = Some(Refusal {
                    version: push.version,
                    resources: push.names.iter().map(ToString::to_string).collect(),
                    reason: reason.clone(),
                });
                Answer::Refused(reason.clone())
            }
        }
    }

    fn delta(&mut self, kind: ResourceType, request: Request) {
        let snapshot = Arc::clone(&self.snapshot);
        let all = snapshot.of(kind);
        let state = &mut self.types[kind.index()];
        let is_first = !state.is_subscribed;
        if is_first {
            state.is_subscribed = true;
            if request.subscribe.is_empty() && kind.has_wildcard() {
                state.is_wildcard = true;
                state.must_answer = request.initial_versions.is_empty();
            }
            let had = request.initial_versions.into_iter();
            state.sent = had
                .map(|(name, version)| (known(all, &name), mark_of(&name, &version)))
                .collect();
        }
        let mut is_all = is_first;
        let mut touched = Vec::new();
        for name in request.subscribe {
            if name == "*" {
                state.must_answer |= !state.is_wildcard && state.sent.is_empty();
                state.is_wildcard = true;
                is_all = true;
                continue;
            }
            let name = known(all, &name);
            // Who asks again wants to have it again.
            if !is_first {
                state.sent.remove(&name);
            }
            state.absent.remove(&name);
            touched.push(name);
        }
        let names = touched.iter().cloned();
        if state.names.is_empty() {
            // At once, which fills the set better.
            state.names = names.collect();
        } else {
            state.names.extend(names);
        }
        for name in request.unsubscribe {
            if name == "*" {
                state.is_wildcard = false;
                let names = &state.names;
                state.sent.retain(|name, _| names.contains(name));
                state.whole.retain(|name, _| names.contains(name));
                is_all = true;
                continue;
            }
            state.names.remove(name.as_str());
            state.sent.remove(name.as_str());
            state.absent.remove(name.as_str());
            touched.push(name.into());
        }
        if is_all {
            self.touch_all(kind);
        } else {
            for name in &touched {
                self.touch(kind, name);
            }
        }
    }

    fn sotw(&mut self, kind: ResourceType, request: Request) {
        let snapshot = Arc::clone(&self.snapshot);
        let all = snapshot.of(kind);
        let state = &mut self.types[kind.index()];
        let is_first = !state.is_subscribed;
        state.is_subscribed = true;
        let was_wildcard = state.is_wildcard;
        let is_empty = request.subscribe.is_empty();
        state.is_wildcard = request.subscribe.iter().any(|name| name == "*")
            || (is_empty && kind.has_wildcard() && (is_first || was_wildcard));
        let before = std::mem::take(&mut state.names);
        state.names = request
            .subscribe
            .into_iter()
            .filter(|name| name != "*")
            .map(|name| {
                before
                    .get(name.as_str())
                    .cloned()
                    .unwrap_or_else(|| known(all, &name))
            })
            .collect();
        let is_as_before = !is_first && state.is_wildcard == was_wildcard && state.names == before;
        if is_as_before {
            return;
        }
        let names = &state.names;
        state.absent.retain(|name| names.contains(name));
        if !state.is_wildcard {
            state.sent.retain(|name, _| names.contains(name));
            state.whole.retain(|name, _| names.contains(name));
        }
        if is_first {
            state.must_answer = state.is_wildcard;
            if !request.version.is_empty() && request.version == self.version(kind) {
                let known: Vec<_> = self.wanted(kind).cloned().collect();
                let is_whole = self.is_whole(kind);
                let state = &mut self.types[kind.index()];
                state.must_answer = false;
                state.accepted = Some(request.version);
                state.note_sent(&known, is_whole);
            }
        }
        self.touch_all(kind);
    }

    /// The next response, if there is something to say and the client is ready to hear it.
    pub fn next(&mut self, now: Instant) -> Option<Push> {
        for kind in [
            ResourceType::Secret,
            ResourceType::Cluster,
            ResourceType::Endpoints,
        ] {
            if let Some(push) = self.upsert(kind) {
                return Some(push);
            }
        }
        let second = [
            ResourceType::Listener,
            ResourceType::Route,
            ResourceType::Extension,
        ];
        if second.iter().any(|kind| self.has_upsert(*kind)) {
            if self.is_first_group_done() || self.gate.is_some_and(|gate| now >= gate) {
                for kind in second {
                    if let Some(push) = self.upsert(kind) {
                        return Some(push);
                    }
                }
            } else if self.gate.is_none() {
                self.gate = Some(now + PATIENCE);
            }
            return None;
        }
        self.gate = None;
        let is_quiet = self.types.iter().all(|state| state.in_flight.is_none());
        if is_quiet && ResourceType::ALL.iter().all(|kind| !self.has_upsert(*kind)) {
            for kind in [
                ResourceType::Listener,
                ResourceType::Route,
                ResourceType::Extension,
                ResourceType::Cluster,
                ResourceType::Endpoints,
                ResourceType::Secret,
            ] {
                if let Some(push) = self.removal(kind) {
                    return Some(push);
                }
            }
        }
        None
    }

    /// When [`Self::next`] has to be asked again, if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.gate
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

    fn has_upsert(&self, kind: ResourceType) -> bool {
        let state = &self.types[kind.index()];
        state.is_subscribed && (state.must_answer || !state.pending.is_empty())
    }

    fn upsert(&mut self, kind: ResourceType) -> Option<Push> {
        if self.types[kind.index()].in_flight.is_some() || !self.has_upsert(kind) {
            return None;
        }
        let all = self.snapshot.of(kind);
        let (mut changed, mut missing) = (Vec::new(), Vec::new());
        for name in std::mem::take(&mut self.types[kind.index()].pending) {
            match all.get(&name) {
                Some(resource) => changed.push(Arc::clone(resource)),
                None => missing.push(name),
            }
        }
        if kind == ResourceType::Cluster {
            self.resend_endpoints(&changed);
        }
        let mut resources = changed.clone();
        let is_whole = self.is_whole(kind);
        if is_whole {
            // What is to be removed stays until everything else is accepted.
            let state = &self.types[kind.index()];
            let gone = state
                .whole
                .iter()
                .filter(|(name, _)| !self.snapshot.of(kind).contains_key(*name))
                .map(|(_, resource)| Arc::clone(resource));
            resources = self.wanted(kind).cloned().chain(gone).collect();
        }
        let state = &mut self.types[kind.index()];
        state.must_answer = false;
        for resource in &changed {
            state.absent.remove(&resource.name);
        }
        state.note_sent(&changed, is_whole);
        state.absent.extend(missing.iter().cloned());
        if is_whole {
            missing.clear();
        }
        Some(self.push(kind, resources, missing))
    }

    /// Endpoints follow a cluster that has changed.
    fn resend_endpoints(&mut self, clusters: &[Arc<Resource>]) {
        let had: Vec<_> = clusters
            .iter()
            .map(|cluster| Arc::clone(&cluster.name))
            .filter(|name| {
                self.types[ResourceType::Cluster.index()]
                    .sent
                    .contains_key(name)
            })
            .collect();
        let endpoints = &mut self.types[ResourceType::Endpoints.index()];
        for name in &had {
            endpoints.sent.remove(name);
        }
        for name in &had {
            self.touch(ResourceType::Endpoints, name);
        }
    }

    fn removal(&mut self, kind: ResourceType) -> Option<Push> {
        let state = &mut self.types[kind.index()];
        let gone: Vec<_> = std::mem::take(&mut state.gone).into_iter().collect();
        if gone.is_empty() {
            return None;
        }
        for name in &gone {
            state.sent.remove(name);
            state.whole.remove(name);
            if state.names.contains(name) {
                state.absent.insert(Arc::clone(name));
            }
        }
        match self.variant {
            Variant::Delta => Some(self.push(kind, Vec::new(), gone)),
            Variant::Sotw if kind.has_wildcard() => {
                let resources = self.wanted(kind).cloned().collect();
                Some(self.push(kind, resources, Vec::new()))
            }
            // SotW cannot say it: the client finds out by what it does not ask for any more.
            Variant::Sotw => None,
        }
    }

    fn push(
        &mut self,
        kind: ResourceType,
        resources: Vec<Arc<Resource>>,
        removed: Vec<Arc<str>>,
    ) -> Push {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let version = self.version(kind);
        let state = &mut self.types[kind.index()];
        state.last_nonce.clone_from(&nonce);
        state.in_flight = Some(InFlight {
            nonce: nonce.clone(),
            version: version.clone(),
            names: resources
                .iter()
                .map(|resource| Arc::clone(&resource.name))
                .collect(),
        });
        Push {
            kind,
            nonce,
            version,
            resources,
            removed,
        }
    }

    fn is_first_group_done(&self) -> bool {
        let clusters = &self.types[ResourceType::Cluster.index()];
        let endpoints = &self.types[ResourceType::Endpoints.index()];
        let has_asked = |name: &Arc<str>| {
            endpoints.is_wildcard
                || endpoints.names.contains(name)
                || !self.snapshot.of(ResourceType::Endpoints).contains_key(name)
        };
        clusters.in_flight.is_none()
            && endpoints.in_flight.is_none()
            && (!clusters.is_wildcard
                || clusters
                    .sent
                    .keys()
                    .filter(|name| self.snapshot.of(ResourceType::Cluster).contains_key(*name))
                    .all(has_asked))
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

/// A name, in the memory of the resource of this name if there is one.
fn known(all: &Resources, name: &str) -> Arc<str> {
    all.get_key_value(name)
        .map_or_else(|| name.into(), |(name, _)| Arc::clone(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(resources: &[(ResourceType, &str, &str)]) -> Arc<Snapshot> {
        let mut snapshot = Snapshot::default();
        for (kind, name, content) in resources {
            let resource = Resource::new(*kind, name, content.as_bytes().to_vec());
            snapshot.insert(*kind, Arc::new(resource));
        }
        Arc::new(snapshot)
    }

    fn subscribe(names: &[&str]) -> Request {
        Request {
            subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Request::default()
        }
    }

    fn names(push: &Push) -> Vec<&str> {
        push.resources
            .iter()
            .map(|resource| &*resource.name)
            .collect()
    }

    /// A client that takes everything as Envoy does: it asks for the endpoints of each cluster and the routes of each
    /// listener that it is sent, and accepts at once. Gives type, names and removed names of each push.
    fn drain(session: &mut Session) -> Vec<(ResourceType, Vec<String>, Vec<String>)> {
        let mut seen = Vec::new();
        while let Some(push) = session.next(Instant::now()) {
            let sent: Vec<_> = names(&push).iter().map(|name| (*name).to_owned()).collect();
            let follow = match push.kind {
                ResourceType::Cluster => Some(ResourceType::Endpoints),
                ResourceType::Listener => Some(ResourceType::Route),
                _ => None,
            };
            if let Some(kind) = follow {
                let known = session.types[kind.index()].names.clone();
                let all = known.iter().map(|name| name.to_string());
                let fresh = sent
                    .iter()
                    .filter(|name| !known.contains(name.as_str()))
                    .cloned();
                let subscribe: Vec<_> = match session.variant {
                    Variant::Delta => fresh.collect(),
                    Variant::Sotw => all.chain(fresh).collect(),
                };
                let nonce = session.types[kind.index()].last_nonce.clone();
                session.request(
                    kind,
                    Request {
                        subscribe,
                        nonce,
                        ..Request::default()
                    },
                );
            }
            let removed = push.removed.iter().map(|name| name.to_string()).collect();
            seen.push((push.kind, sent, removed));
            let subscribe = match session.variant {
                Variant::Delta => Vec::new(),
                Variant::Sotw => session.types[push.kind.index()]
                    .names
                    .iter()
                    .map(|name| name.to_string())
                    .collect(),
            };
            let request = Request {
                subscribe,
                nonce: push.nonce,
                ..Request::default()
            };
            assert_eq!(session.request(push.kind, request), Answer::Accepted);
            assert!(seen.len() < 50);
        }
        seen
    }

    const MESH: &[(ResourceType, &str, &str)] = &[
        (ResourceType::Cluster, "a", "1"),
        (ResourceType::Endpoints, "a", "1"),
        (ResourceType::Listener, "a", "1"),
        (ResourceType::Route, "a", "1"),
    ];

    fn connected(variant: Variant) -> Session {
        let mut session = Session::new(variant, snapshot(MESH));
        use ResourceType::{Cluster, Endpoints, Listener, Route};
        session.request(Cluster, Request::default());
        session.request(Listener, Request::default());
        let order: Vec<_> = drain(&mut session)
            .into_iter()
            .map(|(kind, ..)| kind)
            .collect();
        assert_eq!(order, [Cluster, Endpoints, Listener, Route]);
        session
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_again_that_did_not_change() {
        for variant in [Variant::Delta, Variant::Sotw] {
            let mut session = connected(variant);
            session.set_snapshot(snapshot(MESH));
            assert_eq!(session.next(Instant::now()), None, "{variant:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_changed_resource_is_sent() {
        for variant in [Variant::Delta, Variant::Sotw] {
            let mut session = connected(variant);
            let mut changed = MESH.to_vec();
            changed[1].2 = "2";
            session.set_snapshot(snapshot(&changed));
            let seen = drain(&mut session);
            assert_eq!(
                seen,
                [(ResourceType::Endpoints, vec!["a".to_owned()], vec![])],
                "{variant:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_follow_a_cluster_that_changed() {
        let mut session = connected(Variant::Delta);
        let mut changed = MESH.to_vec();
        changed[0].2 = "2";
        session.set_snapshot(snapshot(&changed));
        let order: Vec<_> = drain(&mut session)
            .into_iter()
            .map(|(kind, ..)| kind)
            .collect();
        assert_eq!(order, [ResourceType::Cluster, ResourceType::Endpoints]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_new_is_made_before_the_old_is_broken() {
        use ResourceType::{Cluster, Endpoints, Route};
        for variant in [Variant::Delta, Variant::Sotw] {
            let mut session = connected(variant);
            session.set_snapshot(snapshot(&[
                (Cluster, "b", "1"),
                (Endpoints, "b", "1"),
                (ResourceType::Listener, "a", "1"),
                (Route, "a", "to b"),
            ]));
            let seen = drain(&mut session);
            let order: Vec<_> = seen.iter().map(|(kind, ..)| *kind).collect();
            let both = vec!["b".to_owned(), "a".to_owned()];
            if variant == Variant::Delta {
                assert_eq!(order, [Cluster, Endpoints, Route, Cluster, Endpoints]);
                assert_eq!(seen[3].2, ["a"], "the old cluster goes last");
            } else {
                assert_eq!(order, [Cluster, Endpoints, Route, Cluster]);
                assert_eq!(seen[0].1, both, "the old cluster stays");
                assert_eq!(seen[3].1, ["b"], "and goes last");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_comes_again_is_sent_what_changed_only() {
        let old = snapshot(MESH);
        let mut changed = MESH.to_vec();
        changed.push((ResourceType::Cluster, "b", "1"));
        let mut session = Session::new(Variant::Delta, snapshot(&changed));
        let version = |kind: ResourceType| old.of(kind)["a"].version.to_string();
        session.request(
            ResourceType::Cluster,
            Request {
                initial_versions: [("a".to_owned(), version(ResourceType::Cluster))].into(),
                ..Request::default()
            },
        );
        session.request(
            ResourceType::Endpoints,
            Request {
                initial_versions: [("a".to_owned(), version(ResourceType::Endpoints))].into(),
                ..subscribe(&["a"])
            },
        );
        let push = session.next(Instant::now()).unwrap();
        assert_eq!(
            (push.kind, names(&push)),
            (ResourceType::Cluster, vec!["b"])
        );
        assert_eq!(session.next(Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sotw_client_that_comes_again_with_the_same_version_is_sent_nothing() {
        let mut session = Session::new(Variant::Sotw, snapshot(MESH));
        session.request(ResourceType::Cluster, Request::default());
        let version = session.next(Instant::now()).unwrap().version;
        let mut session = Session::new(Variant::Sotw, snapshot(MESH));
        session.request(
            ResourceType::Cluster,
            Request {
                version,
                ..Request::default()
            },
        );
        assert_eq!(session.next(Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_there_is_said_once_to_a_delta_client() {
        let mut session = Session::new(Variant::Delta, snapshot(MESH));
        session.request(ResourceType::Secret, subscribe(&["stolen"]));
        let push = session.next(Instant::now()).unwrap();
        assert_eq!((push.resources.len(), &*push.removed[0]), (0, "stolen"));
        session.request(
            ResourceType::Secret,
            Request {
                nonce: push.nonce,
                ..Request::default()
            },
        );
        assert_eq!(session.next(Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_world_is_answered() {
        for variant in [Variant::Delta, Variant::Sotw] {
            let mut session = Session::new(variant, snapshot(&[]));
            session.request(ResourceType::Listener, Request::default());
            let push = session.next(Instant::now()).unwrap();
            assert_eq!(
                (push.kind, push.resources.len()),
                (ResourceType::Listener, 0)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_resource_is_not_sent_again_until_it_changes() {
        let mut session = Session::new(Variant::Delta, snapshot(MESH));
        session.request(ResourceType::Cluster, Request::default());
        let push = session.next(Instant::now()).unwrap();
        let request = Request {
            nonce: push.nonce,
            error: Some("no such field".to_owned()),
            ..Request::default()
        };
        let answer = session.request(ResourceType::Cluster, request);
        assert_eq!(answer, Answer::Refused("no such field".to_owned()));
        let refused = session.progress()[0].refused.clone().unwrap();
        assert_eq!(
            (refused.resources[0].as_str(), refused.reason.as_str()),
            ("a", "no such field")
        );
        assert_eq!(session.next(Instant::now()), None);
        let mut changed = MESH.to_vec();
        changed[0].2 = "2";
        session.set_snapshot(snapshot(&changed));
        assert_eq!(names(&session.next(Instant::now()).unwrap()), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_gets_the_newest_only() {
        let mut session = Session::new(Variant::Delta, snapshot(MESH));
        session.request(ResourceType::Endpoints, subscribe(&["a"]));
        let first = session.next(Instant::now()).unwrap();
        for content in ["2", "3", "4"] {
            session.set_snapshot(snapshot(&[(ResourceType::Endpoints, "a", content)]));
            assert_eq!(session.next(Instant::now()), None, "one is under way");
        }
        session.request(
            ResourceType::Endpoints,
            Request {
                nonce: first.nonce,
                ..Request::default()
            },
        );
        let second = session.next(Instant::now()).unwrap();
        assert_eq!(second.resources[0].body.value, b"4");
    }

    #[tokio::test(start_paused = true)]
    async fn listeners_wait_for_clusters_but_not_for_ever() {
        let mut session = Session::new(Variant::Delta, snapshot(MESH));
        session.request(ResourceType::Cluster, Request::default());
        session.request(ResourceType::Listener, Request::default());
        assert_eq!(
            session.next(Instant::now()).unwrap().kind,
            ResourceType::Cluster
        );
        assert_eq!(session.next(Instant::now()), None);
        tokio::time::advance(PATIENCE).await;
        assert!(session.deadline().is_some());
        assert_eq!(
            session.next(Instant::now()).unwrap().kind,
            ResourceType::Listener
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_not_there_is_answered_once_where_sotw_can_say_it() {
        let mut session = Session::new(Variant::Sotw, snapshot(MESH));
        session.request(ResourceType::Listener, subscribe(&["nobody"]));
        let push = session.next(Instant::now()).unwrap();
        assert!(push.resources.is_empty() && push.removed.is_empty());
        let accepted = Request {
            nonce: push.nonce,
            version: push.version,
            ..subscribe(&["nobody"])
        };
        session.request(ResourceType::Listener, accepted);
        assert_eq!(session.next(Instant::now()), None);
        session.request(ResourceType::Route, subscribe(&["nobody"]));
        assert_eq!(session.next(Instant::now()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_an_older_push_is_none() {
        let mut session = Session::new(Variant::Sotw, snapshot(MESH));
        session.request(ResourceType::Cluster, Request::default());
        session.next(Instant::now()).unwrap();
        let stale = Request {
            nonce: "0".to_owned(),
            ..Request::default()
        };
        assert_eq!(session.request(ResourceType::Cluster, stale), Answer::None);
        assert!(session.progress()[0].waiting);
    }
}
