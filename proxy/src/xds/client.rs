//! The client: what is asked for, where, and who is told.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;

use outrigger_proto::pb::envoy::config::core::v3::Node;
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::channel::Channel;
use super::resource::Received;
use super::snapshot::Snapshot;
use super::subscribers::{Subscriber, Subscribers, WatcherHandle};
use super::subscription::Command;
use super::{
    ApiSource, ApiTransport, FetchFailure, Interest, Refused, Resource, ResourceKind,
    ResourceStatus, SourceKind, Subscription, Watcher, XdsLog, XdsSource,
};
use super::{file, grpc, rest};
use crate::server::{ServerContext, Worker};
use crate::stats::Scope;
use crate::upstream::async_client::AsyncClient;

/// Asks sources for resources and hands out what they answer. Lives on main.
pub struct XdsClient {
    pub(super) server: Arc<ServerContext>,
    commands: RefCell<Option<mpsc::UnboundedReceiver<Command>>>,
    subscribers: Rc<Subscribers>,
    /// The aggregated stream.
    ads: Rc<Channel>,
    /// The sources of single subscriptions, by the number of the subscription.
    channels: RefCell<BTreeMap<u64, Rc<Channel>>>,
    running: OnceCell<Running>,
    this: Weak<Self>,
}

/// What it takes to ask.
pub(super) struct Running {
    pub(super) client: AsyncClient,
    pub(super) worker: Rc<Worker>,
    /// Who asks.
    pub(super) node: Node,
    ads: Option<Rc<ApiSource>>,
}

impl XdsClient {
    /// The client of the process, without any connection yet.
    pub fn new(server: Arc<ServerContext>) -> Rc<Self> {
        let subscribers = Rc::new(Subscribers::default());
        Rc::new_cyclic(|this| Self {
            this: this.clone(),
            commands: RefCell::new(server.xds.take()),
            ads: Channel::new(SourceKind::Ads, &subscribers),
            channels: RefCell::default(),
            subscribers,
            server,
            running: OnceCell::new(),
        })
    }

    /// Keeps the last good configuration in this file, which stands in for servers that cannot be reached.
    pub fn keep_snapshot(&self, path: &Path) {
        let snapshot = Rc::new(Snapshot::load(path, &self.server.stats));
        if self.subscribers.snapshot.set(snapshot.clone()).is_ok() {
            let subscribers = self.subscribers.clone();
            tokio::task::spawn_local(snapshot.keep(subscribers));
        }
    }

    /// Has the snapshot stand in at a place that cannot be reached, also for what is asked for in consequence.
    pub(super) fn stand_in(&self, channel: &Channel) {
        while channel.stand_in() {
            self.take_commands();
        }
    }

    /// Begins to ask, over the clusters of `main`. `ads`: where the aggregated stream is.
    pub fn start(&self, main: &Rc<Worker>, node: Node, ads: Option<ApiSource>) {
        let running = Running {
            client: AsyncClient::new(main.clone()),
            worker: main.clone(),
            node,
            ads: ads.map(Rc::new),
        };
        if self.running.set(running).is_err() {
            return;
        }
        self.take_commands();
        self.subscribers.start();
        self.open(&self.ads);
        let channels: Vec<_> = self.channels.borrow().values().cloned().collect();
        channels.iter().for_each(|channel| self.open(channel));
        if let Some(client) = self.this.upgrade() {
            tokio::task::spawn_local(async move { client.run().await });
        }
    }

    /// Asks for resources for whoever lives on main, for as long as the subscription lives.
    pub fn watch(
        &self,
        source: XdsSource,
        kind: ResourceKind,
        interest: Interest,
        watcher: Rc<dyn Watcher>,
    ) -> Subscription {
        let subscription = self.server.xds.number();
        let watcher = WatcherHandle::Main(watcher);
        self.subscribe(subscription.number, source, kind, interest, watcher);
        subscription
    }

    /// Hands resources of a kind to all who asked for them at this source, as if a response had brought them.
    pub fn deliver(
        &self,
        source: &XdsSource,
        kind: ResourceKind,
        version: &str,
        sent: &[Resource],
        removed: &[Arc<str>],
    ) -> Result<(), Vec<Refused>> {
        self.take_commands();
        let received = Received {
            version: version.into(),
            sent: sent.to_vec(),
            removed: removed.to_vec(),
            ..Received::default()
        };
        let mut refused = Vec::new();
        for channel in self.channels_of(source) {
            refused.append(&mut channel.dispatch(kind, &received));
        }
        match refused.is_empty() {
            true => Ok(()),
            false => Err(refused),
        }
    }

    /// Tells all who asked for a kind at this source that nothing came, as if the time for it were over.
    pub fn fail(&self, source: &XdsSource, kind: ResourceKind, why: FetchFailure) {
        self.take_commands();
        for channel in self.channels_of(source) {
            let numbers = channel.with(kind, |state| state.interests.numbers());
            self.subscribers.fail(&numbers, why);
        }
    }

    /// What was taken and refused lately.
    pub fn log(&self) -> &XdsLog {
        &self.subscribers.log
    }

    /// The names that are asked for of a kind, sorted; empty for a wildcard.
    pub fn asked_for(&self, kind: ResourceKind) -> Vec<Arc<str>> {
        self.take_commands();
        self.subscribers.names(kind)
    }

    /// What became of each resource that is asked for, by place and kind.
    pub fn statuses(&self) -> Vec<ResourceStatus> {
        self.take_commands();
        let channels = self.channels.borrow();
        let mut all = self.ads.statuses();
        all.extend(channels.values().flat_map(|channel| channel.statuses()));
        all
    }

    /// The aggregated stream, and all who may be told.
    pub(super) fn aggregated(&self) -> (Rc<Channel>, Rc<Subscribers>) {
        (self.ads.clone(), self.subscribers.clone())
    }

    fn channels_of(&self, source: &XdsSource) -> Vec<Rc<Channel>> {
        match source.kind {
            SourceKind::Ads => vec![self.ads.clone()],
            _ => {
                let channels = self.channels.borrow();
                let of_source = channels
                    .values()
                    .filter(|known| known.source == source.kind);
                of_source.cloned().collect()
            }
        }
    }

    fn subscribe(
        &self,
        number: u64,
        source: XdsSource,
        kind: ResourceKind,
        interest: Interest,
        watcher: WatcherHandle,
    ) {
        let XdsSource {
            kind: place,
            initial_fetch_timeout,
        } = source;
        let channel = match place {
            SourceKind::Ads => self.ads.clone(),
            place => {
                let channel = Channel::new(place, &self.subscribers);
                self.channels.borrow_mut().insert(number, channel.clone());
                channel
            }
        };
        channel.change(kind, |interests| interests.add(number, &interest));
        let subscriber = Subscriber {
            channel: channel.clone(),
            kind,
            interest,
            watcher,
            initial_fetch_timeout,
            deadline: None,
        };
        self.subscribers.insert(number, subscriber);
        if !Rc::ptr_eq(&channel, &self.ads) {
            self.open(&channel);
        }
    }

    /// Begins to ask at a place, if anybody is asked yet.
    fn open(&self, channel: &Rc<Channel>) {
        let (Some(running), Some(client)) = (self.running.get(), self.this.upgrade()) else {
            return;
        };
        let channel = channel.clone();
        match &channel.source {
            SourceKind::Ads => {
                if let Some(source) = running.ads.clone() {
                    tokio::task::spawn_local(async move {
                        grpc::run(&client, &channel, &source, None).await;
                    });
                }
            }
            SourceKind::Path(source) => {
                let source = source.clone();
                tokio::task::spawn_local(
                    async move { file::run(&client, &channel, &source).await },
                );
            }
            SourceKind::Api(source) => {
                let source = source.clone();
                let kind = channel.kinds().first().copied();
                tokio::task::spawn_local(async move {
                    match &source.transport {
                        ApiTransport::Grpc { .. } => {
                            grpc::run(&client, &channel, &source, kind).await;
                        }
                        ApiTransport::Rest { .. } => rest::run(&client, &channel, &source).await,
                    }
                });
            }
        }
    }

    /// Where the streams for a subscription count that has a place for itself.
    pub(super) fn scope_of(&self, number: u64) -> Option<Scope> {
        self.subscribers.scope(number)
    }

    pub(super) fn running(&self) -> Option<&Running> {
        self.running.get()
    }

    /// Waits for subscriptions to come, change and go, and for times to be over.
    async fn run(self: Rc<Self>) {
        loop {
            let deadline = self.subscribers.next_deadline();
            let over = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let command = tokio::select! {
                command = self.next_command() => command,
                () = over => {
                    self.subscribers.time_out();
                    continue;
                }
                () = self.subscribers.sooner.notified() => continue,
            };
            match command {
                Some(command) => self.execute(command),
                None => return,
            }
        }
    }

    async fn next_command(&self) -> Option<Command> {
        poll_fn(|cx| match self.commands.borrow_mut().as_mut() {
            Some(commands) => commands.poll_recv(cx),
            None => Poll::Ready(None),
        })
        .await
    }

    /// Takes note of all changes so far.
    pub(super) fn take_commands(&self) {
        loop {
            let command = {
                let mut commands = self.commands.borrow_mut();
                commands
                    .as_mut()
                    .and_then(|commands| commands.try_recv().ok())
            };
            match command {
                Some(command) => self.execute(command),
                None => return,
            }
        }
    }

    fn execute(&self, command: Command) {
        match command {
            Command::Subscribe {
                number,
                source,
                kind,
                interest,
                watcher,
            } => self.subscribe(
                number,
                source,
                kind,
                interest,
                WatcherHandle::Shared(watcher),
            ),
            Command::Change { number, interest } => {
                if let Some((channel, kind, old)) = self.subscribers.change(number, &interest) {
                    channel.change(kind, |interests| {
                        interests.remove(number, &old);
                        interests.add(number, &interest);
                    });
                    channel.forget(kind, &old);
                }
            }
            Command::End { number } => {
                if let Some(ended) = self.subscribers.remove(number) {
                    ended.channel.change(ended.kind, |interests| {
                        interests.remove(number, &ended.interest)
                    });
                    ended.channel.forget(ended.kind, &ended.interest);
                    if let Some(channel) = self.channels.borrow_mut().remove(&number) {
                        channel.close();
                    }
                }
            }
        }
    }
}

impl Drop for XdsClient {
    fn drop(&mut self) {
        self.subscribers.clear();
    }
}

impl fmt::Debug for XdsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdsClient").finish_non_exhaustive()
    }
}
