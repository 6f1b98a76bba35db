//! Whole connections: bytes in, events and bytes out.

mod any_bytes;
mod broken;
mod endings;
mod limits;
mod metadata;
mod windows;

use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tokio::time::{Duration, Instant};

use super::frame::{self, FrameHead};
use super::*;
use crate::http::{EndStream, Fields, Known, Protocol, RequestHead, ResponseHead};

/// A peer that speaks in raw frames.
struct Peer {
    connection: Connection,
    now: Instant,
}

/// A frame as it is written down in these tests.
type Frame = (u8, u8, u32, Vec<u8>);

fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let head = FrameHead {
        length: payload.len(),
        kind,
        flags,
        stream,
    };
    [&head.bytes()[..], payload].concat()
}

/// Literals without table and Huffman code.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            out.push(u8::try_from(text.len()).unwrap());
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "a"),
];

fn get(id: u32, end: bool) -> Vec<u8> {
    let end = if end { frame::END_STREAM } else { 0 };
    raw(frame::HEADERS, frame::END_HEADERS | end, id, &block(&GET))
}

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut rest = bytes;
    let mut frames = Vec::new();
    while let Some(head) = FrameHead::read(rest) {
        let end = frame::HEAD + head.length;
        let payload = rest[frame::HEAD..end].to_vec();
        frames.push((head.kind, head.flags, head.stream, payload));
        rest = &rest[end..];
    }
    assert!(rest.is_empty());
    frames
}

fn settings() -> Http2Settings {
    Http2Settings::default()
}

impl Peer {
    /// A server that has got preface and settings, and has said its own.
    fn client_of(settings: &Http2Settings) -> Self {
        let config = ConnectionConfig::for_server(settings, 1 << 20);
        let now = Instant::now();
        let mut peer = Self {
            connection: Connection::new(config, None, now),
            now,
        };
        peer.send(&[frame::PREFACE, &raw(frame::SETTINGS, 0, 0, &[])].concat());
        peer.frames();
        peer
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut input = BytesMut::from(bytes);
        self.connection.receive(&mut input, self.now);
    }

    fn frames(&mut self) -> Vec<Frame> {
        frames(&self.connection.take_output())
    }

    fn next(&mut self, id: u32) -> Option<Received> {
        let cx = Context::from_waker(Waker::noop());
        match self.connection.poll_received(id, &cx) {
            Poll::Ready(received) => Some(received),
            Poll::Pending => None,
        }
    }

    fn body(&mut self, id: u32) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        while let Some(received) = self.next(id) {
            match received {
                Received::Data(data, end) => {
                    body.extend_from_slice(&data);
                    if end.is_end() {
                        return (body, true);
                    }
                }
                Received::Trailers(_) => return (body, true),
                other => panic!("{other:?}"),
            }
        }
        (body, false)
    }
}

/// How a connection takes something: the codes of its GOAWAY and RST_STREAM, and whether it has failed.
type Fate = (Option<u32>, Option<u32>, bool);

fn fate(peer: &mut Peer) -> Fate {
    let (mut goaway, mut reset) = (None, None);
    for (kind, _, _, payload) in peer.frames() {
        match kind {
            frame::GOAWAY => goaway = Some(frame::number(&payload[4..])),
            frame::RST_STREAM => reset = Some(frame::number(&payload)),
            _ => {}
        }
    }
    (goaway, reset, peer.connection.has_failed())
}

#[test]
fn a_request_with_body_and_trailers_comes_in_and_its_answer_goes_out() {
    let mut peer = Peer::client_of(&settings());
    let trailers = raw(frame::HEADERS, 5, 1, &block(&[("x-t", "1")]));
    let padded = raw(frame::DATA, frame::PADDED, 1, b"\x02world\0\0");
    let data = raw(frame::DATA, 0, 1, b"hello ");
    peer.send(&[get(1, false), data, padded, trailers].concat());
    let accepted = peer.connection.accept().unwrap();
    let (head, end) = accepted.head.unwrap();
    assert_eq!((accepted.id, end), (1, EndStream::No));
    assert_eq!(head.authority(), Some(&b"a"[..]));
    let mut body = Vec::new();
    let trailers = loop {
        match peer.next(1).unwrap() {
            Received::Data(data, EndStream::No) => body.extend_from_slice(&data),
            Received::Trailers(trailers) => break trailers,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(body, b"hello world");
    assert_eq!(trailers.get("x-t"), Some(&b"1"[..]));
    let connection = &mut peer.connection;
    connection.send_informational(1, &ResponseHead::new(103));
    connection.send_response(1, &ResponseHead::new(200), EndStream::No);
    connection.send_data(1, Bytes::from_static(b"yes"), EndStream::No);
    let mut fields = Fields::new();
    fields.append(Known::GrpcStatus, "0");
    connection.send_trailers(1, &fields);
    let kinds: Vec<_> = peer.frames().into_iter().map(|f| (f.0, f.1)).collect();
    assert_eq!(kinds, [(1, 4), (1, 4), (0, 0), (1, 5)]);
    assert_eq!(peer.connection.open_streams(), 0);
    peer.connection.release(1);
    assert!(peer.connection.is_alive());
}

/// A server whose client has sent these bytes behind the preface, with its stats.
fn counted(options: Http2ProtocolOptions, bytes: &[u8]) -> (Peer, std::rc::Rc<Http2CodecStats>) {
    let settings = Http2Settings {
        options,
        ..settings()
    };
    let store = crate::stats::Store::new(1);
    let stats = std::rc::Rc::new(Http2CodecStats::new(&store.scope("http2.")));
    let config = ConnectionConfig::for_server(&settings, 1 << 20);
    let now = Instant::now();
    let mut peer = Peer {
        connection: Connection::new(config, Some(stats.clone()), now),
        now,
    };
    peer.send(&[frame::PREFACE, &raw(frame::SETTINGS, 0, 0, &[]), bytes].concat());
    (peer, stats)
}

fn client() -> Peer {
    let config = ConnectionConfig::for_client(&ClientHttp2Settings::default());
    let now = Instant::now();
    let mut peer = Peer {
        connection: Connection::new(config, None, now),
        now,
    };
    assert!(peer.connection.take_output().starts_with(frame::PREFACE));
    peer.send(&raw(frame::SETTINGS, 0, 0, &[]));
    peer.frames();
    peer
}

fn ask(peer: &mut Peer, method: &str) -> u32 {
    let mut head = RequestHead::new(Protocol::Http2, method.as_bytes());
    head.set_path(b"/");
    head.set_authority(b"a");
    let sent = peer.connection.send_request(&head, EndStream::Yes);
    peer.frames();
    sent.unwrap()
}

#[test]
fn responses_come_with_1xx_and_without_body_where_there_is_none() {
    let mut peer = client();
    let id = ask(&mut peer, "HEAD");
    let early = raw(1, 4, id, &block(&[(":status", "103")]));
    let head = raw(
        1,
        5,
        id,
        &block(&[(":status", "200"), ("content-length", "5")]),
    );
    peer.send(&[early, head].concat());
    let first = peer.next(id);
    assert!(matches!(first, Some(Received::Informational(head)) if head.status == 103));
    let second = peer.next(id);
    assert!(matches!(second, Some(Received::Head(_, EndStream::Yes))));
    assert!(peer.connection.is_alive());
}
