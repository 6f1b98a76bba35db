//! One kind of resources on a stream whose responses say all that there is: the state of the world.
//!
//! Without I/O: responses and outcomes in, requests out.

use std::collections::BTreeSet;
use std::sync::Arc;

use outrigger_proto::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use outrigger_proto::pb::google::rpc::Status;

use super::interests::Interests;
use super::resource::{Received, errors_from, received_from, refusal};
use super::{Refused, ResourceKind};

/// What was said so far.
#[derive(Debug)]
pub(super) struct Sotw {
    kind: ResourceKind,
    /// Of the last response that was taken as a whole.
    version: Arc<str>,
    /// Of the last response on this stream.
    nonce: String,
    /// An answer is due; with what was wrong, if anything was.
    answer: Option<Option<Status>>,
    /// What was wanted when the last request was made, by its generation; none: there was none on this stream.
    asked: Option<u64>,
    /// Whether anything was asked for at all, on any stream.
    ever_asked: bool,
    /// The names of the last response, for kinds whose responses are complete.
    known: BTreeSet<Arc<str>>,
}

impl Sotw {
    pub(super) fn new(kind: ResourceKind) -> Self {
        Self {
            kind,
            version: "".into(),
            nonce: String::new(),
            answer: None,
            asked: None,
            ever_asked: false,
            known: BTreeSet::new(),
        }
    }

    /// A stream begins: nothing was said on it.
    pub(super) fn stream_started(&mut self) {
        self.nonce.clear();
        self.answer = None;
        self.asked = None;
    }

    /// The next stream goes to another server, to which the version of this one means nothing.
    pub(super) fn server_changed(&mut self) {
        self.version = "".into();
    }

    /// Whether a request is due.
    pub(super) fn is_due(&self, interests: &Interests) -> bool {
        let changed = match self.asked {
            None => self.ever_asked || !interests.is_empty(),
            Some(asked) => asked != interests.generation(),
        };
        changed || self.answer.is_some()
    }

    /// The request that is due, if one is. It lists all names that are wanted, be it an answer or not.
    pub(super) fn next_request(&mut self, interests: &Interests) -> Option<DiscoveryRequest> {
        if !self.is_due(interests) {
            return None;
        }
        self.asked = Some(interests.generation());
        self.ever_asked = true;
        let names = match interests.is_wildcard() && self.kind.is_complete() {
            // No name at all means all of them.
            true => Vec::new(),
            false => interests.names().iter().map(ToString::to_string).collect(),
        };
        Some(DiscoveryRequest {
            version_info: self.version.to_string(),
            resource_names: names,
            type_url: self.kind.type_url(),
            response_nonce: self.nonce.clone(),
            error_detail: self.answer.take().flatten(),
            ..Default::default()
        })
    }

    /// Takes a response apart. An error refuses it as a whole.
    pub(super) fn receive(
        &mut self,
        response: DiscoveryResponse,
    ) -> Result<Received, Vec<Refused>> {
        let DiscoveryResponse {
            version_info,
            resources,
            // Harmless: marks what a person looks at.
            canary: _,
            type_url: _,
            nonce,
            control_plane: _,
            resource_errors,
        } = response;
        self.nonce = nonce;
        let version: Arc<str> = version_info.into();
        let mut received = received_from(self.kind, resources, &version)?;
        received.version = version;
        received.errors = errors_from(resource_errors);
        if self.kind.is_complete() {
            // Those of heartbeats stay as well.
            let alive = received.lifetimes.iter().map(|(name, _)| name.clone());
            let names: BTreeSet<_> = received.names().chain(alive).collect();
            received.removed = self.known.difference(&names).cloned().collect();
            self.known = names;
        }
        Ok(received)
    }

    /// What is in force though no server has sent it.
    pub(super) fn assume(&mut self, received: &Received) {
        if self.kind.is_complete() {
            self.known = received.names().collect();
        }
    }

    /// What became of the last response: its answer is due.
    pub(super) fn settle(&mut self, version: &Arc<str>, refused: &[Refused]) {
        if refused.is_empty() {
            self.version = version.clone();
        }
        self.answer = Some(refusal(refused));
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::any::pack;
    use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;

    use super::*;
    use crate::xds::Interest;

    fn response(version: &str, nonce: &str, names: &[&str]) -> DiscoveryResponse {
        let cluster = |name: &&str| {
            pack(&Cluster {
                name: name.to_string(),
                ..Default::default()
            })
        };
        DiscoveryResponse {
            version_info: version.to_owned(),
            nonce: nonce.to_owned(),
            type_url: ResourceKind::Cluster.type_url(),
            resources: names.iter().map(cluster).collect(),
            ..Default::default()
        }
    }

    fn wildcard() -> Interests {
        let mut interests = Interests::default();
        interests.add(1, &Interest::Wildcard);
        interests
    }

    #[test]
    fn a_response_is_acknowledged_with_its_version_and_nonce() {
        let (mut state, interests) = (Sotw::new(ResourceKind::Cluster), wildcard());
        let first = state.next_request(&interests).unwrap();
        assert_eq!((&*first.version_info, &*first.response_nonce), ("", ""));
        assert!(state.next_request(&interests).is_none());
        let received = state.receive(response("1", "n", &["a"])).unwrap();
        state.settle(&received.version, &[]);
        let ack = state.next_request(&interests).unwrap();
        assert_eq!((&*ack.version_info, &*ack.response_nonce), ("1", "n"));
        assert_eq!(ack.error_detail, None);
        assert!(state.next_request(&interests).is_none());
    }

    #[test]
    fn a_refused_response_keeps_the_version_and_says_why() {
        let (mut state, interests) = (Sotw::new(ResourceKind::Cluster), wildcard());
        state.next_request(&interests).unwrap();
        let received = state.receive(response("1", "n", &["a"])).unwrap();
        let refused = Refused {
            name: "a".into(),
            reason: "cluster \"a\" / name: bad".into(),
        };
        state.settle(&received.version, &[refused]);
        let nack = state.next_request(&interests).unwrap();
        assert_eq!((&*nack.version_info, &*nack.response_nonce), ("", "n"));
        let detail = nack.error_detail.unwrap();
        assert!(
            detail.message.contains("a: cluster \"a\" / name: bad"),
            "{detail:?}"
        );
    }

    #[test]
    fn what_a_complete_response_leaves_out_is_removed() {
        let mut state = Sotw::new(ResourceKind::Cluster);
        state.receive(response("1", "1", &["a", "b"])).unwrap();
        let received = state.receive(response("2", "2", &["b", "c"])).unwrap();
        assert_eq!(received.removed, ["a".into()]);
        assert_eq!(received.sent.len(), 2);
    }

    #[test]
    fn a_new_stream_asks_again_with_the_version_and_without_the_nonce() {
        let (mut state, interests) = (Sotw::new(ResourceKind::Cluster), wildcard());
        state.next_request(&interests).unwrap();
        let received = state.receive(response("1", "n", &[])).unwrap();
        state.settle(&received.version, &[]);
        state.stream_started();
        let again = state.next_request(&interests).unwrap();
        assert_eq!((&*again.version_info, &*again.response_nonce), ("1", ""));
    }

    #[test]
    fn every_request_lists_all_names_and_the_last_one_to_go_is_told() {
        let mut state = Sotw::new(ResourceKind::Endpoints);
        let mut interests = Interests::default();
        assert!(state.next_request(&interests).is_none());
        interests.add(1, &Interest::name("b"));
        interests.add(2, &Interest::name("a"));
        assert_eq!(
            state.next_request(&interests).unwrap().resource_names,
            ["a", "b"]
        );
        interests.remove(1, &Interest::name("b"));
        assert_eq!(
            state.next_request(&interests).unwrap().resource_names,
            ["a"]
        );
        interests.remove(2, &Interest::name("a"));
        assert_eq!(
            state.next_request(&interests).unwrap().resource_names,
            [""; 0]
        );
        assert!(state.next_request(&interests).is_none());
    }

    #[test]
    fn a_resource_of_another_type_refuses_the_response() {
        let mut state = Sotw::new(ResourceKind::Listener);
        let refused = state.receive(response("1", "n", &["a"])).unwrap_err();
        assert!(refused[0].reason.contains("does not match"), "{refused:?}");
    }
}
