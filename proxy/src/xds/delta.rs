//! One kind of resources on a stream whose responses say what has changed.
//!
//! Without I/O: responses and outcomes in, requests out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use outrigger_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use outrigger_proto::pb::google::rpc::Status;

use super::interests::Interests;
use super::resource::{Received, errors_from, received_wrapped, refusal};
use super::{Refused, ResourceKind};

/// What was said so far.
#[derive(Debug)]
pub(super) struct Delta {
    kind: ResourceKind,
    /// What the server knows that we want, on this stream.
    subscribed: BTreeSet<Arc<str>>,
    /// Whether it knows that we want all that there is.
    wildcard: bool,
    /// Nothing was asked on this stream yet.
    first: bool,
    /// The versions are those of another server, which mean nothing to this one.
    foreign: bool,
    /// What is in force, by name.
    versions: BTreeMap<Arc<str>, Arc<str>>,
    /// Answers that are due: the nonce, and what was wrong.
    answers: VecDeque<(String, Option<Status>)>,
    /// The nonce of the response that is being taken.
    nonce: String,
    /// What was wanted when the last request was made.
    asked: Option<u64>,
}

/// The name that stands for all names.
const ALL: &str = "*";

impl Delta {
    pub(super) fn new(kind: ResourceKind) -> Self {
        Self {
            kind,
            subscribed: BTreeSet::new(),
            wildcard: false,
            first: true,
            foreign: false,
            versions: BTreeMap::new(),
            answers: VecDeque::new(),
            nonce: String::new(),
            asked: None,
        }
    }

    /// A stream begins: the server knows nothing of what was said on another.
    pub(super) fn stream_started(&mut self) {
        self.subscribed.clear();
        self.wildcard = false;
        self.first = true;
        self.answers.clear();
        self.asked = None;
    }

    /// The next stream goes to another server.
    pub(super) fn server_changed(&mut self) {
        self.foreign = true;
    }

    /// Whether a request may be due.
    pub(super) fn is_due(&self, interests: &Interests) -> bool {
        if self.first {
            return !interests.is_empty();
        }
        !self.answers.is_empty() || self.asked != Some(interests.generation())
    }

    /// The request that is due, if one is. Answers come first, and carry no change of what is wanted.
    pub(super) fn next_request(&mut self, interests: &Interests) -> Option<DeltaDiscoveryRequest> {
        if !self.first
            && let Some((nonce, error_detail)) = self.answers.pop_front()
        {
            return Some(DeltaDiscoveryRequest {
                type_url: self.kind.type_url(),
                response_nonce: nonce,
                error_detail,
                ..Default::default()
            });
        }
        if self.asked == Some(interests.generation()) || (self.first && interests.is_empty()) {
            return None;
        }
        self.asked = Some(interests.generation());
        let wanted = interests.names();
        let mut subscribe: Vec<String> = wanted
            .difference(&self.subscribed)
            .map(ToString::to_string)
            .collect();
        let mut unsubscribe: Vec<String> = self
            .subscribed
            .difference(&wanted)
            .map(ToString::to_string)
            .collect();
        for name in self.subscribed.difference(&wanted) {
            if !interests.is_wildcard() {
                self.versions.remove(name);
            }
        }
        match (interests.is_wildcard(), self.wildcard) {
            // A first request without a name asks for all.
            (true, false) if !(self.first && subscribe.is_empty()) => {
                subscribe.push(ALL.to_owned())
            }
            (false, true) => unsubscribe.push(ALL.to_owned()),
            _ => {}
        }
        let quiet = subscribe.is_empty() && unsubscribe.is_empty() && !self.first;
        self.wildcard = interests.is_wildcard();
        self.subscribed = wanted;
        if quiet {
            return None;
        }
        let foreign = std::mem::take(&mut self.foreign);
        let versions = match std::mem::take(&mut self.first) && !foreign {
            true => self
                .versions
                .iter()
                .map(|(name, version)| (name.to_string(), version.to_string()))
                .collect(),
            false => Default::default(),
        };
        Some(DeltaDiscoveryRequest {
            type_url: self.kind.type_url(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            initial_resource_versions: versions,
            ..Default::default()
        })
    }

    /// Takes a response apart. An error refuses it as a whole.
    pub(super) fn receive(
        &mut self,
        response: DeltaDiscoveryResponse,
    ) -> Result<Received, Vec<Refused>> {
        let DeltaDiscoveryResponse {
            system_version_info,
            resources,
            type_url: _,
            removed_resources,
            // Of names that carry parameters, which nothing here asks for.
            removed_resource_names: _,
            nonce,
            control_plane: _,
            resource_errors,
        } = response;
        self.nonce = nonce;
        let mut names = BTreeSet::new();
        if let Some(twice) = resources.iter().find(|known| !names.insert(&*known.name)) {
            return Err(vec![Refused {
                name: twice.name.as_str().into(),
                reason: format!(
                    "duplicate name {} found among added/updated resources",
                    twice.name
                ),
            }]);
        }
        if let Some(both) = removed_resources.iter().find(|name| !names.insert(*name)) {
            return Err(vec![Refused {
                name: both.as_str().into(),
                reason: format!(
                    "duplicate name {both} found in the union of added+removed resources"
                ),
            }]);
        }
        let mut received = received_wrapped(self.kind, resources)?;
        received.version = system_version_info.into();
        received.errors = errors_from(resource_errors);
        received.removed = removed_resources.into_iter().map(Into::into).collect();
        Ok(received)
    }

    /// What is in force though no server has sent it on a stream.
    pub(super) fn assume(&mut self, received: &Received) {
        for resource in &received.sent {
            let version = resource.version.clone();
            self.versions.insert(resource.name.clone(), version);
        }
    }

    /// What became of the last response: its answer is due.
    pub(super) fn settle(&mut self, received: Option<&Received>, refused: &[Refused]) {
        if let Some(received) = received {
            for resource in &received.sent {
                if !refused.iter().any(|known| known.name == resource.name) {
                    let version = resource.version.clone();
                    self.versions.insert(resource.name.clone(), version);
                }
            }
            for name in &received.removed {
                self.versions.remove(name);
            }
        }
        let nonce = std::mem::take(&mut self.nonce);
        self.answers.push_back((nonce, refusal(refused)));
    }

    /// Whether responses are to be expected: they were asked for on this stream, or will be. To others there is no answer.
    pub(super) fn is_wanted(&self, interests: &Interests) -> bool {
        !self.first || !interests.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::any::pack;
    use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
    use outrigger_proto::pb::envoy::service::discovery::v3::Resource;

    use super::*;
    use crate::xds::Interest;

    fn response(
        nonce: &str,
        resources: &[(&str, &str)],
        removed: &[&str],
    ) -> DeltaDiscoveryResponse {
        let resource = |(name, version): &(&str, &str)| Resource {
            name: name.to_string(),
            version: version.to_string(),
            resource: Some(pack(&Cluster {
                name: name.to_string(),
                ..Default::default()
            })),
            ..Default::default()
        };
        DeltaDiscoveryResponse {
            nonce: nonce.to_owned(),
            type_url: ResourceKind::Cluster.type_url(),
            resources: resources.iter().map(resource).collect(),
            removed_resources: removed.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }
    }

    fn wildcard() -> Interests {
        let mut interests = Interests::default();
        interests.add(1, &Interest::Wildcard);
        interests
    }

    fn take(state: &mut Delta, response: DeltaDiscoveryResponse, refused: &[Refused]) {
        let received = state.receive(response).unwrap();
        state.settle(Some(&received), refused);
    }

    #[test]
    fn what_nobody_asked_for_on_this_stream_is_not_wanted() {
        let mut state = Delta::new(ResourceKind::Cluster);
        let nothing = Interests::default();
        assert!(!state.is_wanted(&nothing) && state.is_wanted(&wildcard()));
        state.next_request(&wildcard()).unwrap();
        assert!(state.is_wanted(&nothing));
        state.stream_started();
        assert!(!state.is_wanted(&nothing));
    }

    #[test]
    fn an_answer_carries_its_nonce_and_no_change_of_names() {
        let mut state = Delta::new(ResourceKind::Endpoints);
        let mut interests = Interests::default();
        interests.add(1, &Interest::name("a"));
        let first = state.next_request(&interests).unwrap();
        assert_eq!(first.resource_names_subscribe, ["a"]);
        interests.add(2, &Interest::name("b"));
        state.nonce = "n".to_owned();
        state.settle(None, &[]);
        let ack = state.next_request(&interests).unwrap();
        assert_eq!(ack.response_nonce, "n");
        assert!(ack.resource_names_subscribe.is_empty());
        let next = state.next_request(&interests).unwrap();
        assert_eq!(
            (next.resource_names_subscribe, next.response_nonce),
            (vec!["b".to_owned()], String::new())
        );
        interests.remove(1, &Interest::name("a"));
        let next = state.next_request(&interests).unwrap();
        assert_eq!(next.resource_names_unsubscribe, ["a"]);
        assert!(state.next_request(&interests).is_none());
    }

    #[test]
    fn a_wildcard_asks_without_a_name_first_and_by_star_later() {
        let mut state = Delta::new(ResourceKind::Cluster);
        let first = state.next_request(&wildcard()).unwrap();
        assert!(first.resource_names_subscribe.is_empty());
        let mut state = Delta::new(ResourceKind::Cluster);
        let mut interests = Interests::default();
        interests.add(1, &Interest::name("a"));
        state.next_request(&interests).unwrap();
        interests.add(2, &Interest::Wildcard);
        assert_eq!(
            state
                .next_request(&interests)
                .unwrap()
                .resource_names_subscribe,
            ["*"]
        );
        interests.remove(2, &Interest::Wildcard);
        assert_eq!(
            state
                .next_request(&interests)
                .unwrap()
                .resource_names_unsubscribe,
            ["*"]
        );
    }

    #[test]
    fn a_new_stream_tells_the_versions_of_what_is_in_force() {
        let (mut state, interests) = (Delta::new(ResourceKind::Cluster), wildcard());
        state.next_request(&interests).unwrap();
        let refused = Refused {
            name: "b".into(),
            reason: "bad".to_owned(),
        };
        take(
            &mut state,
            response("1", &[("a", "7"), ("b", "8"), ("c", "9")], &[]),
            &[refused],
        );
        take(&mut state, response("2", &[], &["c"]), &[]);
        let nack = state.next_request(&interests).unwrap();
        assert!(nack.error_detail.unwrap().message.contains("b: bad"));
        state.stream_started();
        let again = state.next_request(&interests).unwrap();
        let versions = [("a".to_owned(), "7".to_owned())];
        assert_eq!(again.initial_resource_versions, versions.into());
        state.stream_started();
        state.server_changed();
        let elsewhere = state.next_request(&interests).unwrap();
        assert!(elsewhere.initial_resource_versions.is_empty());
        assert!(
            state.next_request(&interests).is_none(),
            "answers of another stream are void"
        );
    }

    #[test]
    fn a_name_that_comes_twice_refuses_the_response() {
        let mut state = Delta::new(ResourceKind::Cluster);
        let refused = state.receive(response("1", &[("a", "1"), ("a", "2")], &[]));
        assert!(refused.unwrap_err()[0].reason.contains("duplicate name a"));
    }
}
