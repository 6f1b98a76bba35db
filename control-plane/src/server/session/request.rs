//! What a client asks for and answers.

use std::sync::Arc;

use super::{Answer, Refusal, Request, Session, Variant};
use crate::cache::{ResourceType, Resources, mark_of};

impl Session {
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
}

/// A name, in the memory of the resource of this name if there is one.
fn known(all: &Resources, name: &str) -> Arc<str> {
    all.get_key_value(name)
        .map_or_else(|| name.into(), |(name, _)| Arc::clone(name))
}
