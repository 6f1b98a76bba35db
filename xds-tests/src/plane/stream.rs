//! One gRPC stream, and the server that accepts them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::{Buf, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::shelf::Shelf;
use super::{Answer, Ask, Kind, Resource, Shared, State};

/// The largest window that HTTP/2 allows, less what rounding may add.
const WINDOW: u32 = (1 << 31) - 1;
/// The longest request that is read.
const LONGEST: usize = 64 << 20;

/// An open stream.
pub(super) struct Stream {
    out: SendStream<Bytes>,
    delta: bool,
    last_nonce: u64,
    asked: BTreeMap<Kind, Subscription>,
}

/// What a stream asked for of a kind.
#[derive(Default)]
struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
    /// Versions that the client has, in delta.
    known: BTreeMap<String, String>,
    /// Nonce and version of what was sent.
    sent: Vec<(String, String)>,
}

pub(super) async fn accept(listener: TcpListener, shared: Rc<Shared>) {
    let mut last = 0;
    while let Ok((stream, _)) = listener.accept().await {
        last += 1;
        let _ = stream.set_nodelay(true);
        let task = spawn_local(connection(stream, last, shared.clone()));
        let mut state = shared.state.borrow_mut();
        state.connections.push(task.abort_handle());
    }
}

async fn connection(stream: TcpStream, number: usize, shared: Rc<Shared>) {
    let handshake = h2::server::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake(stream);
    let Ok(mut connection) = handshake.await else {
        return;
    };
    let mut streams = Streams(vec![]);
    while let Some(Ok((request, respond))) = connection.accept().await {
        let task = spawn_local(serve(request, respond, number, shared.clone()));
        streams.0.push(task.abort_handle());
    }
}

/// The tasks of a connection's streams, which end with it.
struct Streams(Vec<tokio::task::AbortHandle>);

impl Drop for Streams {
    fn drop(&mut self) {
        for stream in &self.0 {
            stream.abort();
        }
    }
}

async fn serve(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    connection: usize,
    shared: Rc<Shared>,
) {
    let path = request.uri().path().to_owned();
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .expect("a constant head");
    let Ok(out) = respond.send_response(response, false) else {
        return;
    };
    let stream = Stream {
        out,
        delta: path.contains("/Delta"),
        last_nonce: 0,
        asked: BTreeMap::new(),
    };
    let head = head_of(&request);
    let refused = shared.change(|state| {
        state.opened.push(Instant::now());
        state.heads.push(head);
        state.refusal
    });
    if let Some(status) = refused {
        stream.end(status);
        return;
    }
    let number = shared.change(|state| {
        let number = state.opened.len();
        state.streams.insert(number, stream);
        number
    });
    let seat = Seat {
        stream: number,
        connection,
        kind: Kind::of_path(&path),
        delta: path.contains("/Delta"),
    };
    seat.read(request.into_body(), &shared).await;
    shared.change(|state| state.streams.remove(&number));
}

/// The fields of a stream's head, pseudo fields without their colons.
fn head_of(request: &Request<RecvStream>) -> HeaderMap {
    let mut head = request.headers().clone();
    let uri = request.uri();
    for (name, value) in [
        ("path", Some(uri.path())),
        (
            "authority",
            uri.authority().map(http::uri::Authority::as_str),
        ),
    ] {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            head.insert(name, value);
        }
    }
    head
}

/// Where requests come from.
struct Seat {
    stream: usize,
    connection: usize,
    kind: Option<Kind>,
    delta: bool,
}

impl Seat {
    /// Reads requests until the stream ends.
    async fn read(&self, mut body: RecvStream, shared: &Shared) {
        let mut buffer = BytesMut::new();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            buffer.extend_from_slice(&data);
            while let Some(message) = next_message(&mut buffer) {
                match self.decode(&message) {
                    Ok(ask) => shared.change(|state| state.take(ask)),
                    Err(complaint) => shared.change(|state| state.complaints.push(complaint)),
                }
            }
            if buffer.len() > LONGEST {
                return;
            }
        }
    }

    fn decode(&self, message: &[u8]) -> Result<Ask, String> {
        let wrong = |error: prost::DecodeError| error.to_string();
        let mut ask = if self.delta {
            Ask::of_delta(Message::decode(message).map_err(wrong)?, self.kind)?
        } else {
            Ask::of_world(Message::decode(message).map_err(wrong)?, self.kind)?
        };
        ask.stream = self.stream;
        ask.connection = self.connection;
        ask.aggregated = self.kind.is_none();
        Ok(ask)
    }
}

/// The next gRPC message of a buffer, if it is there as a whole.
fn next_message(buffer: &mut BytesMut) -> Option<Bytes> {
    let head = buffer.get(..5)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let length = usize::try_from(length).expect("64 bits");
    if buffer.len() < 5 + length {
        return None;
    }
    buffer.advance(5);
    Some(buffer.split_to(length).freeze())
}

impl State {
    /// Takes a request, and answers it if there is something to answer with.
    fn take(&mut self, mut ask: Ask) {
        let Self {
            shelves,
            streams,
            asks,
            complaints,
            ..
        } = self;
        if let Some(stream) = streams.get_mut(&ask.stream) {
            let due = stream.note(&mut ask, complaints);
            if due && let Some(shelf) = shelves.get(&ask.kind) {
                stream.answer(ask.kind, shelf, Why::Asked(&ask.names));
            }
        }
        asks.push(ask);
    }
}

/// Why something is sent.
#[derive(Clone, Copy)]
enum Why<'a> {
    /// A shelf has changed.
    Pushed,
    /// A request has come, for these names.
    Asked(&'a [String]),
}

impl Stream {
    pub(super) fn asked_for(&self, kind: Kind) -> bool {
        self.asked.contains_key(&kind)
    }

    pub(super) fn names(&self, kind: Kind) -> Vec<String> {
        let asked = self.asked.get(&kind);
        asked.map_or_else(Vec::new, |asked| asked.names.iter().cloned().collect())
    }

    /// Notes what a request asks for; says whether an answer is due.
    fn note(&mut self, ask: &mut Ask, complaints: &mut Vec<String>) -> bool {
        let first = !self.asked.contains_key(&ask.kind);
        let asked = self.asked.entry(ask.kind).or_default();
        let answered = asked.sent.iter().find(|(nonce, _)| *nonce == ask.nonce);
        ask.answers = answered.map(|(_, version)| version.clone());
        if !ask.nonce.is_empty() && ask.answers.is_none() {
            complaints.push(format!("an unknown nonce: {}", ask.line()));
        }
        if self.delta {
            return asked.note_delta(ask, first);
        }
        let latest = asked.sent.last().map_or("", |(nonce, _)| nonce);
        if !first && ask.nonce != latest {
            return false;
        }
        let names: BTreeSet<String> = ask.names.iter().cloned().collect();
        if first {
            asked.wildcard = names.is_empty() && ask.kind.by_wildcard();
        }
        asked.wildcard |= names.contains("*");
        let due = first || !names.is_subset(&asked.names);
        asked.names = names;
        due
    }

    /// Sends what has changed on a shelf, if it was asked for.
    pub(super) fn push(&mut self, kind: Kind, shelf: &Shelf) {
        if self.asked_for(kind) {
            self.answer(kind, shelf, Why::Pushed);
        }
    }

    /// Sends what was asked for of a shelf. Unasked, that may be nothing at all: all of it is gone then.
    fn answer(&mut self, kind: Kind, shelf: &Shelf, why: Why<'_>) {
        let (Some(version), false) = (&shelf.version, shelf.held) else {
            return;
        };
        let Some(asked) = self.asked.get_mut(&kind) else {
            return;
        };
        let answer = if self.delta {
            asked.difference(kind, version, shelf, why)
        } else {
            let wanted = |resource: &&Resource| asked.wants(resource);
            let resources = shelf.resources.iter().filter(wanted).cloned();
            Answer::new(kind, version, resources)
        };
        let nothing = answer.resources.is_empty() && answer.removed.is_empty();
        let first = asked.sent.is_empty();
        let needless = if self.delta {
            !(first && asked.wildcard)
        } else {
            !(matches!(why, Why::Pushed) || asked.wildcard)
        };
        if !(nothing && needless) {
            self.send(&answer);
        }
    }

    /// Sends an answer; gives its nonce.
    pub(super) fn send(&mut self, answer: &Answer) -> String {
        self.last_nonce += 1;
        let nonce = answer.nonce.clone();
        let nonce = nonce.unwrap_or_else(|| format!("n{}", self.last_nonce));
        if let Some(asked) = self.asked.get_mut(&answer.kind) {
            asked.sent.push((nonce.clone(), answer.version.clone()));
        }
        let bytes = answer.encode(self.delta, &nonce);
        self.send_bytes(&bytes, true);
        nonce
    }

    pub(super) fn send_bytes(&mut self, bytes: &[u8], framed: bool) {
        let mut data = BytesMut::new();
        if framed {
            let length = u32::try_from(bytes.len()).expect("a message has less than 4 GiB");
            data.extend_from_slice(&[0]);
            data.extend_from_slice(&length.to_be_bytes());
        }
        data.extend_from_slice(bytes);
        // A stream that has gone is noticed by who reads from it.
        let _ = self.out.send_data(data.freeze(), false);
    }

    pub(super) fn end(mut self, status: u8) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(u16::from(status)));
        trailers.insert(
            "grpc-message",
            HeaderValue::from_static("as the story says"),
        );
        let _ = self.out.send_trailers(trailers);
    }

    pub(super) fn reset(mut self) {
        self.out.send_reset(Reason::INTERNAL_ERROR);
    }
}

impl Subscription {
    fn wants(&self, resource: &Resource) -> bool {
        self.wildcard
            || self.names.contains(&resource.name)
            || resource
                .aliases
                .iter()
                .any(|alias| self.names.contains(alias))
    }

    fn note_delta(&mut self, ask: &Ask, first: bool) -> bool {
        if first {
            self.known.clone_from(&ask.known);
            self.wildcard = ask.names.is_empty();
        }
        for name in &ask.names {
            self.wildcard |= name == "*";
            if !first {
                self.known.remove(name);
            }
            self.names.insert(name.clone());
        }
        for name in &ask.unsubscribed {
            self.wildcard &= name != "*";
            self.names.remove(name);
            self.known.remove(name);
        }
        first || !ask.names.is_empty()
    }

    /// What the client does not have yet, or has no right to have any more.
    fn difference(&mut self, kind: Kind, version: &str, shelf: &Shelf, why: Why<'_>) -> Answer {
        // The rest of a large subscription is not looked at for a few more names.
        if let (Why::Asked(names), false, true) = (why, self.wildcard, !self.sent.is_empty()) {
            let named = names.iter().filter_map(|name| shelf.named(name));
            let resources: Vec<Resource> = named.cloned().collect();
            for resource in &resources {
                let version = resource.version.clone();
                self.known.insert(resource.name.clone(), version);
            }
            return Answer::new(kind, version, resources);
        }
        let mut resources = Vec::new();
        let mut there = BTreeSet::new();
        for resource in &shelf.resources {
            if !self.wants(resource) {
                continue;
            }
            there.insert(resource.name.as_str());
            if self.known.get(&resource.name) != Some(&resource.version) {
                resources.push(resource.clone());
            }
        }
        let known = self.known.keys();
        let gone = known.filter(|name| !there.contains(name.as_str()));
        let removed: Vec<String> = gone.cloned().collect();
        for name in &removed {
            self.known.remove(name);
        }
        for resource in &resources {
            self.known
                .insert(resource.name.clone(), resource.version.clone());
        }
        Answer {
            removed,
            ..Answer::new(kind, version, resources)
        }
    }
}
