//! What is to be sent next.

use std::sync::Arc;

use tokio::time::Instant;

use super::{InFlight, PATIENCE, Push, Session, Variant};
use crate::cache::{Resource, ResourceType};

impl Session {
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
