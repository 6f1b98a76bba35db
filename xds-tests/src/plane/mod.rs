//! A control plane that does what a story tells it: the xDS protocol over gRPC streams (aggregated and one for each
//! kind, state of the world and delta) and over REST, all from the same shelves of resources.
//!
//! Left alone it behaves: who asks for what a shelf holds gets it, [`Plane::set`] pushes to all who asked. It can also be
//! told to be silent ([`Plane::hold`]), to answer whatever it likes ([`Plane::send`]), to send bytes that mean nothing
//! ([`Plane::send_bytes`]), to end or reset its streams, to go away and to come back. It speaks HTTP/2 by hand, because a
//! server that is made from the service's definition cannot do most of this.

mod answer;
mod ask;
mod resource;
mod rest;
mod shelf;
mod stream;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::HeaderMap;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle, spawn_local};
use tokio::time::{Instant, timeout};

pub use answer::Answer;
pub use ask::Ask;
pub use resource::{Kind, Resource};

use crate::Error;
use shelf::Shelf;
use stream::Stream;

/// The longest time that a proxy may take to say something, on a machine that does much else.
const SOON: Duration = Duration::from_secs(30);

/// A control plane on ports of its own, which serves on the current local task set. Stops on drop.
pub struct Plane {
    shared: Rc<Shared>,
    address: SocketAddr,
    rest_address: SocketAddr,
    accepting: RefCell<Vec<JoinHandle<()>>>,
}

/// What the tasks of a control plane share.
#[derive(Default)]
struct Shared {
    state: RefCell<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    shelves: BTreeMap<Kind, Shelf>,
    asks: Vec<Ask>,
    streams: BTreeMap<usize, Stream>,
    complaints: Vec<String>,
    opened: Vec<Instant>,
    heads: Vec<HeaderMap>,
    connections: Vec<AbortHandle>,
    refusal: Option<u8>,
    /// Counts versions over all kinds when they are not given.
    last_version: u64,
}

impl Plane {
    /// Starts it with empty shelves: whoever asks waits.
    pub async fn start() -> Result<Self, Error> {
        let grpc = TcpListener::bind("127.0.0.1:0").await?;
        let rest = TcpListener::bind("127.0.0.1:0").await?;
        let plane = Self {
            shared: Rc::default(),
            address: grpc.local_addr()?,
            rest_address: rest.local_addr()?,
            accepting: RefCell::default(),
        };
        plane.accept(grpc, rest);
        Ok(plane)
    }

    /// Where it speaks gRPC.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it speaks REST, over HTTP/1.1.
    pub fn rest_address(&self) -> SocketAddr {
        self.rest_address
    }

    fn accept(&self, grpc: TcpListener, rest: TcpListener) {
        let mut accepting = self.accepting.borrow_mut();
        accepting.push(spawn_local(stream::accept(grpc, self.shared.clone())));
        accepting.push(spawn_local(rest::accept(rest, self.shared.clone())));
    }

    /// Goes away: all connections break, and nobody listens.
    pub fn kill(&self) {
        for task in self.accepting.borrow_mut().drain(..) {
            task.abort();
        }
        let mut state = self.shared.state.borrow_mut();
        for connection in state.connections.drain(..) {
            connection.abort();
        }
        state.streams.clear();
    }

    /// Comes back on the same ports, with the same shelves.
    pub async fn revive(&self) -> Result<(), Error> {
        let grpc = TcpListener::bind(self.address).await?;
        let rest = TcpListener::bind(self.rest_address).await?;
        self.accept(grpc, rest);
        Ok(())
    }

    /// Answers streams from now on with this gRPC status, and nothing else; `None` serves again.
    pub fn refuse(&self, status: Option<u8>) {
        self.shared.state.borrow_mut().refusal = status;
    }

    /// Puts these resources, and no others, on a shelf, and pushes them to all who asked. Gives their version.
    pub fn set(&self, kind: Kind, resources: impl IntoIterator<Item = Resource>) -> String {
        self.shared.change(|state| {
            let version = state.next_version(kind);
            let shelf = state.shelves.entry(kind).or_default();
            shelf.fill(resources.into_iter().collect(), &version);
            state.push(kind);
            version
        })
    }

    /// Adds a resource to a shelf, or replaces the one with its name, and pushes. Gives the version.
    pub fn put(&self, kind: Kind, resource: Resource) -> String {
        self.put_all(kind, [resource])
    }

    /// The same with many in one push.
    pub fn put_all(&self, kind: Kind, resources: impl IntoIterator<Item = Resource>) -> String {
        self.shared.change(|state| {
            let version = state.next_version(kind);
            let shelf = state.shelves.entry(kind).or_default();
            for resource in resources {
                shelf.put(resource, &version);
            }
            state.push(kind);
            version
        })
    }

    /// Takes resources off a shelf, and pushes. Gives the version.
    pub fn remove(&self, kind: Kind, names: &[&str]) -> String {
        self.shared.change(|state| {
            let version = state.next_version(kind);
            let shelf = state.shelves.entry(kind).or_default();
            shelf.remove(names, &version);
            state.push(kind);
            version
        })
    }

    /// Sends everything again that anybody asked for of a kind, changed or not, under a new version.
    pub fn push_again(&self, kind: Kind) -> String {
        self.shared.change(|state| {
            let version = state.next_version(kind);
            let shelf = state.shelves.entry(kind).or_default();
            shelf.renew(&version);
            state.push(kind);
            version
        })
    }

    /// Gives everything of this kind that is put on its shelf this version from now on.
    pub fn fix_version(&self, kind: Kind, version: &str) {
        let mut state = self.shared.state.borrow_mut();
        state.shelves.entry(kind).or_default().fixed = Some(version.into());
    }

    /// Is silent about a kind from now on.
    pub fn hold(&self, kind: Kind) {
        let mut state = self.shared.state.borrow_mut();
        state.shelves.entry(kind).or_default().held = true;
    }

    /// Ends a silence, with an answer to all that was asked meanwhile.
    pub fn release(&self, kind: Kind) {
        self.shared.change(|state| {
            state.shelves.entry(kind).or_default().held = false;
            state.push(kind);
        });
    }

    /// Sends an answer, as it is, on every stream that asked for its kind. Gives the nonce.
    pub fn send(&self, answer: &Answer) -> String {
        let mut state = self.shared.state.borrow_mut();
        let mut nonce = String::new();
        for stream in state.streams.values_mut() {
            if stream.asked_for(answer.kind) {
                nonce = stream.send(answer);
            }
        }
        nonce
    }

    /// Sends bytes on every stream that asked for a kind: framed as one gRPC message, or as they are.
    pub fn send_bytes(&self, kind: Kind, bytes: &[u8], framed: bool) {
        let mut state = self.shared.state.borrow_mut();
        for stream in state.streams.values_mut() {
            if stream.asked_for(kind) {
                stream.send_bytes(bytes, framed);
            }
        }
    }

    /// Ends all streams with this gRPC status.
    pub fn end_streams(&self, status: u8) {
        let streams = std::mem::take(&mut self.shared.state.borrow_mut().streams);
        for stream in streams.into_values() {
            stream.end(status);
        }
    }

    /// Resets all streams.
    pub fn reset_streams(&self) {
        let streams = std::mem::take(&mut self.shared.state.borrow_mut().streams);
        for stream in streams.into_values() {
            stream.reset();
        }
    }

    /// How many streams are open.
    pub fn open_streams(&self) -> usize {
        self.shared.state.borrow().streams.len()
    }

    /// When each stream was opened, those that were refused included.
    pub fn opened(&self) -> Vec<Instant> {
        self.shared.state.borrow().opened.clone()
    }

    /// The heads of all streams, in which `:path` and `:authority` are called `path` and `authority`.
    pub fn heads(&self) -> Vec<HeaderMap> {
        self.shared.state.borrow().heads.clone()
    }

    /// Everything that clients asked of a kind, in order.
    pub fn asks(&self, kind: Kind) -> Vec<Ask> {
        let state = self.shared.state.borrow();
        let asks = state.asks.iter().filter(|ask| ask.kind == kind);
        asks.cloned().collect()
    }

    /// Everything that clients asked, in order.
    pub fn all_asks(&self) -> Vec<Ask> {
        self.shared.state.borrow().asks.clone()
    }

    /// Forgets what was asked, so that a story can go on from here.
    pub fn forget_asks(&self) {
        self.shared.state.borrow_mut().asks.clear();
    }

    /// What clients did that the protocol does not allow.
    pub fn complaints(&self) -> Vec<String> {
        self.shared.state.borrow().complaints.clone()
    }

    /// Waits for the first request that fits; `what` names it when it does not come.
    pub async fn expect(&self, what: &str, fits: impl Fn(&Ask) -> bool) -> Ask {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                if let Some(ask) = self.shared.state.borrow().asks.iter().find(|ask| fits(ask)) {
                    return ask.clone();
                }
                changed.await;
            }
        };
        let found = timeout(SOON, wait).await;
        found.unwrap_or_else(|_| panic!("{what} did not come; what came:\n{}", self.minutes()))
    }

    /// Waits until a response with this version was taken.
    pub async fn acked(&self, kind: Kind, version: &str) -> Ask {
        let what = format!("the ACK of {kind:?} {version:?}");
        let ask = self
            .expect(&what, |ask| {
                ask.kind == kind
                    && !ask.nonce.is_empty()
                    && ask.answers.as_deref() == Some(version)
                    // In the state of the world, the version says what is in force.
                    && (ask.delta || ask.is_nack() || ask.version == version)
            })
            .await;
        assert!(ask.is_ack(), "{what} is a NACK: {:?}", ask.error);
        ask
    }

    /// Waits until a response with this version was refused, and says why.
    pub async fn nacked(&self, kind: Kind, version: &str) -> String {
        let what = format!("the NACK of {kind:?} {version:?}");
        let answers = |ask: &Ask| ask.kind == kind && ask.answers.as_deref() == Some(version);
        let ask = self.expect(&what, answers).await;
        let (_, reason) = ask.error.unwrap_or_else(|| panic!("{what} is an ACK"));
        reason
    }

    /// Waits until exactly these names are subscribed to, over all open streams.
    pub async fn subscribed(&self, kind: Kind, names: &[&str]) {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                if self.subscriptions(kind) == names {
                    return;
                }
                changed.await;
            }
        };
        if timeout(SOON, wait).await.is_err() {
            let now = self.subscriptions(kind);
            panic!(
                "{kind:?}: {now:?} are subscribed to, not {names:?}\n{}",
                self.minutes()
            );
        }
    }

    /// The names that are subscribed to, over all open streams, sorted.
    pub fn subscriptions(&self, kind: Kind) -> Vec<String> {
        let state = self.shared.state.borrow();
        let mut names: Vec<String> = state
            .streams
            .values()
            .flat_map(|stream| stream.names(kind))
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// All that was asked, for people.
    pub fn minutes(&self) -> String {
        let asks = self.all_asks();
        let lines: Vec<String> = asks
            .iter()
            .map(|ask| {
                let reason = ask.error.as_ref().map(|(_, text)| format!(": {text}"));
                format!(
                    "  {} {}{}",
                    ask.stream,
                    ask.line(),
                    reason.unwrap_or_default()
                )
            })
            .collect();
        lines.join("\n")
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Shared {
    /// Changes the state, and wakes who waits.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.borrow_mut());
        self.changed.notify_waiters();
        result
    }
}

impl State {
    fn next_version(&mut self, kind: Kind) -> String {
        if let Some(fixed) = self
            .shelves
            .get(&kind)
            .and_then(|shelf| shelf.fixed.clone())
        {
            return fixed;
        }
        self.last_version += 1;
        self.last_version.to_string()
    }

    fn push(&mut self, kind: Kind) {
        let Self {
            shelves, streams, ..
        } = self;
        if let Some(shelf) = shelves.get(&kind) {
            for stream in streams.values_mut() {
                stream.push(kind, shelf);
            }
        }
    }
}
