//! A conversation with a management server without a connection: what a stream does, for tests and fuzzing.

use std::cell::RefCell;
use std::rc::Rc;

use outrigger_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};

use super::channel::Channel;
use super::subscribers::{Subscriber, Subscribers, WatcherHandle};
use super::{Interest, Refused, ResourceKind, SourceKind, Watcher, XdsClient};

/// Speaks for the proxy on an aggregated stream: responses and wishes in, requests out.
pub struct Conversation {
    channel: Rc<Channel>,
    subscribers: Rc<Subscribers>,
    last: RefCell<u64>,
    /// Whose stream it is, if any client's.
    client: Option<Rc<XdsClient>>,
}

impl Default for Conversation {
    fn default() -> Self {
        let subscribers = Rc::new(Subscribers::default());
        Self {
            channel: Channel::new(SourceKind::Ads, &subscribers),
            subscribers,
            last: RefCell::new(0),
            client: None,
        }
    }
}

impl XdsClient {
    /// Speaks on the aggregated stream of this client, which must not be started. Who wants something subscribes to the client.
    pub fn conversation(self: &Rc<Self>) -> Conversation {
        let (channel, subscribers) = self.aggregated();
        Conversation {
            channel,
            subscribers,
            last: RefCell::new(0),
            client: Some(self.clone()),
        }
    }
}

impl Conversation {
    /// Subscribes; the number ends it.
    pub fn subscribe(
        &self,
        kind: ResourceKind,
        interest: Interest,
        watcher: Rc<dyn Watcher>,
    ) -> u64 {
        let number = {
            let mut last = self.last.borrow_mut();
            *last += 1;
            *last
        };
        self.channel
            .change(kind, |interests| interests.add(number, &interest));
        let subscriber = Subscriber {
            channel: self.channel.clone(),
            kind,
            interest,
            watcher: WatcherHandle::Main(watcher),
            initial_fetch_timeout: std::time::Duration::ZERO,
            deadline: None,
        };
        self.subscribers.insert(number, subscriber);
        number
    }

    /// Ends a subscription.
    pub fn unsubscribe(&self, number: u64) {
        if let Some(ended) = self.subscribers.remove(number) {
            self.channel.change(ended.kind, |interests| {
                interests.remove(number, &ended.interest)
            });
        }
    }

    /// The stream has ended, and another one begins.
    pub fn begin_again(&self) {
        for kind in self.channel.kinds() {
            self.channel.with(kind, |state| {
                state.sotw.stream_started();
                state.delta.stream_started();
            });
        }
    }

    /// A response that says all that there is. None: of a kind that was never asked for; it is not answered.
    pub fn state(&self, response: DiscoveryResponse) -> Option<Vec<Refused>> {
        let kind = self.known(&response.type_url, false)?;
        Some(self.channel.take_state(kind, response).refused)
    }

    /// A response that says what has changed. None: of a kind that was not asked for on this stream; it is not answered.
    pub fn change(&self, response: DeltaDiscoveryResponse) -> Option<Vec<Refused>> {
        let kind = self.known(&response.type_url, true)?;
        Some(self.channel.take_change(kind, response).refused)
    }

    /// The requests that are due, of a stream that is told all states.
    pub fn state_requests(&self) -> Vec<DiscoveryRequest> {
        self.take_commands();
        let mut requests = Vec::new();
        for kind in self.channel.kinds() {
            self.channel.with(kind, |state| {
                while let Some(request) = state.sotw.next_request(&state.interests) {
                    requests.push(request);
                }
            });
        }
        requests
    }

    /// The requests that are due, of a stream that is told changes.
    pub fn change_requests(&self) -> Vec<DeltaDiscoveryRequest> {
        self.take_commands();
        let mut requests = Vec::new();
        for kind in self.channel.kinds() {
            self.channel.with(kind, |state| {
                while let Some(request) = state.delta.next_request(&state.interests) {
                    requests.push(request);
                }
            });
        }
        requests
    }

    /// What was asked for meanwhile.
    fn take_commands(&self) {
        if let Some(client) = &self.client {
            client.take_commands();
        }
    }

    fn known(&self, type_url: &str, delta: bool) -> Option<ResourceKind> {
        self.take_commands();
        ResourceKind::from_type_url(type_url).filter(|kind| self.channel.wants(*kind, delta))
    }
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversation").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use outrigger_proto::any::pack;
    use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
    use outrigger_proto::pb::envoy::service::discovery::v3 as pb;
    use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};

    use super::*;
    use crate::xds::{FetchFailure, Update};

    /// Refuses resources whose name begins with an x.
    struct Picky;

    impl Watcher for Picky {
        fn on_update(&self, update: &Update<'_>) -> Result<(), Vec<Refused>> {
            let bad = update.sent.iter().filter(|sent| sent.name.starts_with('x'));
            let bad: Vec<Refused> = bad
                .map(|sent| Refused {
                    name: sent.name.clone(),
                    reason: "begins with an x".to_owned(),
                })
                .collect();
            match bad.is_empty() {
                true => Ok(()),
                false => Err(bad),
            }
        }

        fn on_fetch_failed(&self, _: FetchFailure) {}
    }

    #[derive(Debug, Clone)]
    enum Step {
        Want(&'static str),
        WantAll,
        /// Ends the subscription that is as old as this.
        Leave(usize),
        Respond(Vec<&'static str>, Vec<&'static str>),
        /// Of a kind that nobody asked for.
        Stray,
        /// Bytes that are no resource.
        Garbage(Vec<u8>),
        Break,
        Ask,
    }

    fn name() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("a"), Just("b"), Just("x"), Just("")]
    }

    fn step() -> impl Strategy<Value = Step> {
        let names = || prop::collection::vec(name(), 0..4);
        prop_oneof![
            name().prop_map(Step::Want),
            Just(Step::WantAll),
            (0..4usize).prop_map(Step::Leave),
            (names(), names()).prop_map(|(sent, removed)| Step::Respond(sent, removed)),
            Just(Step::Stray),
            prop::collection::vec(any::<u8>(), 0..6).prop_map(Step::Garbage),
            Just(Step::Break),
            Just(Step::Ask),
        ]
    }

    /// What a server knows of one stream.
    #[derive(Default)]
    struct Server {
        subscribed: BTreeSet<String>,
        first: bool,
        nonce: u64,
        /// Responses without an answer: their nonce, and whether a refusal is due.
        unanswered: Vec<(String, bool)>,
    }

    const KIND: ResourceKind = ResourceKind::Cluster;

    fn run(steps: Vec<Step>, delta: bool) {
        let talk = Conversation::default();
        let mut server = Server {
            first: true,
            ..Default::default()
        };
        let mut wanted: Vec<(u64, Option<&str>)> = Vec::new();
        for step in steps.into_iter().chain([Step::Ask]) {
            match step {
                Step::Want(name) => {
                    let number = talk.subscribe(KIND, Interest::name(name), Rc::new(Picky));
                    wanted.push((number, Some(name)));
                }
                Step::WantAll => {
                    let number = talk.subscribe(KIND, Interest::Wildcard, Rc::new(Picky));
                    wanted.push((number, None));
                }
                Step::Leave(index) => {
                    if index < wanted.len() {
                        talk.unsubscribe(wanted.remove(index).0);
                    }
                }
                Step::Respond(sent, removed) => {
                    let any = |name: &str| {
                        pack(&Cluster {
                            name: name.to_owned(),
                            ..Default::default()
                        })
                    };
                    let sent = sent.iter().map(|name| (*name, any(name))).collect();
                    respond(&talk, &mut server, delta, sent, &removed);
                }
                Step::Garbage(bytes) => {
                    let mut body = pack(&Cluster::default());
                    body.value = bytes;
                    respond(&talk, &mut server, delta, vec![("a", body)], &[]);
                }
                Step::Stray => {
                    let type_url = ResourceKind::Secret.type_url();
                    let refused = match delta {
                        true => talk.change(DeltaDiscoveryResponse {
                            type_url,
                            ..Default::default()
                        }),
                        false => talk.state(DiscoveryResponse {
                            type_url,
                            ..Default::default()
                        }),
                    };
                    assert_eq!(refused, None);
                }
                Step::Break => {
                    talk.begin_again();
                    server.subscribed.clear();
                    server.unanswered.clear();
                    server.first = true;
                }
                Step::Ask => match delta {
                    true => check_changes(&talk, &mut server, &wanted),
                    false => check_states(&talk, &mut server, &wanted),
                },
            }
        }
    }

    fn respond(
        talk: &Conversation,
        server: &mut Server,
        delta: bool,
        sent: Vec<(&str, outrigger_proto::pb::google::protobuf::Any)>,
        removed: &[&str],
    ) {
        server.nonce += 1;
        let nonce = server.nonce.to_string();
        let type_url = KIND.type_url();
        let refused = match delta {
            true => {
                let resource = |(name, body): (&str, _)| pb::Resource {
                    name: name.to_owned(),
                    version: "1".to_owned(),
                    resource: Some(body),
                    ..Default::default()
                };
                talk.change(DeltaDiscoveryResponse {
                    type_url,
                    nonce: nonce.clone(),
                    resources: sent.into_iter().map(resource).collect(),
                    removed_resources: removed.iter().map(ToString::to_string).collect(),
                    ..Default::default()
                })
            }
            false => talk.state(DiscoveryResponse {
                type_url,
                nonce: nonce.clone(),
                resources: sent.into_iter().map(|(_, body)| body).collect(),
                ..Default::default()
            }),
        };
        if let Some(refused) = refused {
            server.unanswered.push((nonce, !refused.is_empty()));
        }
    }

    /// One request is due for each change and one for each answer; it lists all that is wanted.
    fn check_states(talk: &Conversation, server: &mut Server, wanted: &[(u64, Option<&str>)]) {
        let requests = talk.state_requests();
        assert!(requests.len() <= 1, "{requests:?}");
        let names: BTreeSet<String> = match wanted.iter().any(|(_, name)| name.is_none()) {
            true => BTreeSet::new(),
            false => wanted
                .iter()
                .filter_map(|(_, name)| name.map(ToOwned::to_owned))
                .collect(),
        };
        for request in requests {
            let listed: BTreeSet<String> = request.resource_names.iter().cloned().collect();
            assert_eq!(listed, names);
            // The last response is answered, and with it those before.
            if let Some((nonce, refused)) = server.unanswered.pop() {
                assert_eq!(request.response_nonce, nonce);
                assert_eq!(request.error_detail.is_some(), refused);
            }
            server.unanswered.clear();
        }
        assert!(server.unanswered.is_empty(), "a response has no answer");
        assert!(talk.state_requests().is_empty(), "nothing is said twice");
    }

    /// Each response has its answer, which changes nothing; the server knows what is wanted afterwards.
    fn check_changes(talk: &Conversation, server: &mut Server, wanted: &[(u64, Option<&str>)]) {
        for request in talk.change_requests() {
            let changes = !request.resource_names_subscribe.is_empty()
                || !request.resource_names_unsubscribe.is_empty();
            if request.response_nonce.is_empty() {
                assert!(request.error_detail.is_none());
                if std::mem::take(&mut server.first) && request.resource_names_subscribe.is_empty()
                {
                    server.subscribed.insert("*".to_owned());
                }
                for name in request.resource_names_unsubscribe {
                    assert!(server.subscribed.remove(&name), "{name} was not asked for");
                }
                server.subscribed.extend(request.resource_names_subscribe);
                continue;
            }
            assert!(!changes, "an answer changes what is asked for");
            let (nonce, refused) = server.unanswered.remove(0);
            assert_eq!(request.response_nonce, nonce);
            assert_eq!(request.error_detail.is_some(), refused);
        }
        let mut names: BTreeSet<String> = wanted
            .iter()
            .map(|(_, name)| name.unwrap_or("*").to_owned())
            .collect();
        if server.first {
            names.clear();
        }
        assert_eq!(server.subscribed, names);
        assert!(server.first || server.unanswered.is_empty());
        assert!(talk.change_requests().is_empty(), "nothing is said twice");
    }

    proptest! {
        #[test]
        fn whatever_a_server_of_states_sends_is_answered_once(steps in prop::collection::vec(step(), 0..30)) {
            run(steps, false);
        }

        #[test]
        fn whatever_a_server_of_changes_sends_is_answered_once(steps in prop::collection::vec(step(), 0..30)) {
            run(steps, true);
        }
    }
}
