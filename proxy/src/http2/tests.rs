//! Whole connections: bytes in, events and bytes out.

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

#[test]
#[allow(
    clippy::too_many_lines,
    reason = "a table of cases is as long as there are cases"
)]
fn each_broken_frame_has_its_end() {
    let stream = |more: Vec<u8>| [get(1, false), more].concat();
    let setting = |id: u16, value: u32| {
        let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
        raw(frame::SETTINGS, 0, 0, &payload)
    };
    let own_parent = [0, 0, 0, 1, 7];
    let told = |code| (Some(code), None, true);
    let silent = (None, None, true);
    let cases: Vec<(&str, Vec<u8>, Fate)> = vec![
        ("DATA on an idle stream", raw(0, 0, 1, b"a"), told(1)),
        ("DATA on stream 0", raw(0, 0, 0, b"a"), told(1)),
        (
            "DATA behind the end",
            [get(1, true), raw(0, 0, 1, b"a")].concat(),
            told(5),
        ),
        (
            "HEADERS behind the end",
            [get(1, true), get(1, true)].concat(),
            told(5),
        ),
        (
            "too much padding of DATA",
            stream(raw(0, 8, 1, b"\x09abc")),
            told(1),
        ),
        (
            "too much padding of HEADERS",
            raw(1, 0xd, 1, b"\xffabc"),
            told(1),
        ),
        (
            "a frame above the limit",
            raw(6, 0, 0, &[0; 16_385]),
            told(6),
        ),
        ("CONTINUATION alone", raw(9, 4, 1, b""), told(1)),
        (
            "a frame among CONTINUATION",
            [raw(1, 1, 1, &block(&GET)), raw(6, 0, 0, &[0; 8])].concat(),
            told(1),
        ),
        (
            "CONTINUATION of another",
            [raw(1, 1, 1, &block(&GET)), raw(9, 4, 3, b"")].concat(),
            told(1),
        ),
        (
            "a broken header block",
            raw(1, 5, 1, b"\xff\xff\xff\xff\xff\xff"),
            told(9),
        ),
        ("HEADERS on stream 0", raw(1, 5, 0, &block(&GET)), silent),
        ("an even stream", get(2, true), silent),
        (
            "a lower stream",
            [get(5, true), get(3, true)].concat(),
            told(5),
        ),
        (
            "HEADERS that depend on themselves",
            raw(1, 0x25, 1, &[&own_parent[..], &block(&GET)].concat()),
            silent,
        ),
        (
            "trailers without end",
            stream(raw(1, 4, 1, &block(&[("x", "y")]))),
            silent,
        ),
        (
            "pseudo headers in trailers",
            stream(raw(1, 5, 1, &block(&[(":path", "/")]))),
            silent,
        ),
        (
            "RST_STREAM on an idle stream",
            raw(3, 0, 1, &[0; 4]),
            silent,
        ),
        (
            "RST_STREAM of three octets",
            stream(raw(3, 0, 1, &[0; 3])),
            told(6),
        ),
        (
            "WINDOW_UPDATE on an idle stream",
            raw(8, 0, 1, &[0, 0, 0, 1]),
            silent,
        ),
        ("WINDOW_UPDATE of nothing", raw(8, 0, 0, &[0; 4]), silent),
        (
            "WINDOW_UPDATE of nothing on a stream",
            stream(raw(8, 0, 1, &[0; 4])),
            silent,
        ),
        (
            "WINDOW_UPDATE beyond the largest of a stream",
            stream(raw(8, 0, 1, &[0x7f, 255, 255, 255])),
            (None, Some(3), false),
        ),
        (
            "WINDOW_UPDATE beyond the largest",
            raw(8, 0, 0, &[0x7f, 255, 255, 255]),
            told(3),
        ),
        (
            "WINDOW_UPDATE of three octets",
            raw(8, 0, 0, &[0; 3]),
            told(6),
        ),
        ("PRIORITY of itself", raw(2, 0, 1, &own_parent), silent),
        ("PRIORITY of three octets", raw(2, 0, 1, &[0; 3]), told(6)),
        ("PING of one octet", raw(6, 0, 0, &[0]), told(6)),
        ("PING on a stream", raw(6, 0, 1, &[0; 8]), silent),
        ("SETTINGS on a stream", raw(4, 0, 1, &[]), silent),
        ("SETTINGS of three octets", raw(4, 0, 0, &[0; 3]), told(6)),
        (
            "SETTINGS with ACK and payload",
            raw(4, 1, 0, &[0; 6]),
            told(6),
        ),
        ("ENABLE_PUSH of 2", setting(2, 2), silent),
        ("a window above the largest", setting(4, 1 << 31), silent),
        ("a frame size below the smallest", setting(5, 1), silent),
        ("PUSH_PROMISE", stream(raw(5, 4, 1, &[0, 0, 0, 2])), silent),
        ("GOAWAY on a stream", raw(7, 0, 1, &[0; 8]), silent),
        (
            "two empty DATA",
            stream([raw(0, 0, 1, b""), raw(0, 0, 1, b"")].concat()),
            silent,
        ),
        (
            "a header block without end",
            [
                raw(1, 1, 1, &block(&GET)),
                raw(9, 0, 1, &[7; 16_384]).repeat(12),
            ]
            .concat(),
            silent,
        ),
        (
            "200 PRIORITY",
            raw(2, 0, 3, &[0, 0, 0, 1, 7]).repeat(200),
            silent,
        ),
        (
            "a body that is too long",
            [
                raw(
                    1,
                    4,
                    1,
                    &block(&[&GET[..], &[("content-length", "1")]].concat()),
                ),
                raw(0, 0, 1, b"ab"),
            ]
            .concat(),
            (None, Some(1), false),
        ),
        (
            "a body that is too short",
            [
                raw(
                    1,
                    4,
                    1,
                    &block(&[&GET[..], &[("content-length", "3")]].concat()),
                ),
                raw(0, 1, 1, b"ab"),
            ]
            .concat(),
            (None, Some(1), false),
        ),
        (
            "an unknown frame",
            [raw(0x1f, 0xff, 9, b"abc"), get(1, true)].concat(),
            (None, None, false),
        ),
        (
            "PRIORITY",
            raw(2, 0, 1, &[0, 0, 0, 3, 7]),
            (None, None, false),
        ),
        (
            "WINDOW_UPDATE on a closed stream",
            [get(1, true), raw(8, 0, 1, &[0, 0, 0, 1])].concat(),
            (None, None, false),
        ),
    ];
    for (title, bytes, wanted) in cases {
        let mut peer = Peer::client_of(&settings());
        peer.send(&bytes);
        assert_eq!(fate(&mut peer), wanted, "{title}");
    }
}

#[test]
fn what_is_no_preface_or_no_settings_is_no_connection() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nXX"] {
        let config = ConnectionConfig::for_server(&settings(), 1);
        let mut connection = Connection::new(config, None, Instant::now());
        connection.receive(&mut BytesMut::from(bytes), Instant::now());
        assert!(connection.has_failed());
    }
    let config = ConnectionConfig::for_server(&settings(), 1);
    let mut connection = Connection::new(config, None, Instant::now());
    // Anything but SETTINGS is no beginning.
    let bytes = [frame::PREFACE, &raw(6, 0, 0, &[0; 8])].concat();
    connection.receive(&mut BytesMut::from(&bytes[..]), Instant::now());
    assert!(connection.has_failed());
}

#[test]
fn a_malformed_head_ends_the_connection_or_its_stream_as_configured() {
    let bad = raw(1, 5, 1, &block(&[&GET[..], &[("X-A", "1")]].concat()));
    let mut peer = Peer::client_of(&settings());
    peer.send(&bad);
    let refused = peer.connection.accept().unwrap().head.unwrap_err();
    assert_eq!(refused.details, "http2.invalid.header.field");
    assert!(refused.is_malformed && peer.connection.has_failed());

    let keeping = Http2Settings {
        stream_error_on_invalid_http_message: true,
        ..settings()
    };
    let mut peer = Peer::client_of(&keeping);
    peer.send(&bad);
    assert!(peer.connection.accept().unwrap().head.is_err());
    assert_eq!(fate(&mut peer), (None, Some(1), false));
    peer.connection.release(1);
    peer.send(&get(3, true));
    assert!(peer.connection.accept().unwrap().head.is_ok());
}

#[test]
fn a_head_above_the_limit_ends_its_stream_and_the_table_stays_right() {
    let small = Http2Settings {
        max_request_headers_kb: 1,
        ..settings()
    };
    let mut peer = Peer::client_of(&small);
    let large = "x".repeat(100);
    let many: Vec<_> = (0..11).map(|_| ("x-l", large.as_str())).collect();
    let mut first = block(&[&GET[..], &many].concat());
    // The last one goes into the table.
    first.extend_from_slice(b"\x40\x03x-k\x01v");
    peer.send(&raw(1, 5, 1, &first));
    let refused = peer.connection.accept().unwrap().head.unwrap_err();
    assert_eq!(refused.details, "http2.header_list_size_too_large");
    assert_eq!(fate(&mut peer), (None, Some(2), false));
    let mut second = block(&GET);
    second.push(0xbe);
    peer.send(&raw(1, 5, 3, &second));
    let (head, _) = peer.connection.accept().unwrap().head.unwrap();
    assert_eq!(head.fields.get("x-k"), Some(&b"v"[..]));
}

#[test]
fn data_waits_for_both_windows() {
    let mut peer = Peer::client_of(&settings());
    let window = [&4u16.to_be_bytes()[..], &10u32.to_be_bytes()].concat();
    peer.send(&[raw(4, 0, 0, &window), get(1, true), get(3, true)].concat());
    peer.frames();
    let sizes = |frames: Vec<Frame>| -> Vec<(u32, usize, u8)> {
        frames
            .into_iter()
            .filter(|f| f.0 == 0)
            .map(|f| (f.2, f.3.len(), f.1))
            .collect()
    };
    for id in [1, 3] {
        let connection = &mut peer.connection;
        connection.send_response(id, &ResponseHead::new(200), EndStream::No);
        connection.send_data(id, Bytes::from(vec![0; 15]), EndStream::Yes);
    }
    assert_eq!(sizes(peer.frames()), [(1, 10, 0), (3, 10, 0)]);
    peer.send(&raw(8, 0, 3, &[0, 0, 0, 3]));
    assert_eq!(sizes(peer.frames()), [(3, 3, 0)]);
    // Settings change windows of streams that are open, below zero too.
    let smaller = [&4u16.to_be_bytes()[..], &5u32.to_be_bytes()].concat();
    peer.send(&[raw(4, 0, 0, &smaller), raw(8, 0, 1, &[0, 0, 0, 5])].concat());
    assert_eq!(sizes(peer.frames()), []);
    peer.send(&raw(8, 0, 1, &[0, 0, 1, 0]));
    assert_eq!(sizes(peer.frames()), [(1, 5, 1)]);
}

#[test]
fn the_window_of_the_connection_is_shared_in_turn() {
    let mut peer = Peer::client_of(&settings());
    let window = [&4u16.to_be_bytes()[..], &1_000_000u32.to_be_bytes()].concat();
    peer.send(&[raw(4, 0, 0, &window), get(1, true), get(3, true)].concat());
    for id in [1, 3] {
        let connection = &mut peer.connection;
        connection.send_response(id, &ResponseHead::new(200), EndStream::No);
        connection.send_data(id, Bytes::from(vec![0; 60_000]), EndStream::Yes);
    }
    let sent = |frames: Vec<Frame>| -> usize {
        frames.iter().filter(|f| f.0 == 0).map(|f| f.3.len()).sum()
    };
    assert_eq!(sent(peer.frames()), 65_535);
    peer.send(&raw(8, 0, 0, &60_000u32.to_be_bytes()));
    assert_eq!(sent(peer.frames()), 120_000 - 65_535);
    assert_eq!(peer.connection.open_streams(), 0);
}

#[test]
fn what_is_read_is_given_back_at_half_a_window_and_not_before() {
    let small = Http2Settings {
        options: Http2ProtocolOptions {
            initial_stream_window_size: 65_535,
            initial_connection_window_size: 65_535,
            ..Http2ProtocolOptions::default()
        },
        ..settings()
    };
    let mut peer = Peer::client_of(&small);
    let data = raw(0, 0, 1, &vec![0; 16_000]);
    peer.send(&[get(1, false), data.repeat(3)].concat());
    assert_eq!(peer.frames(), []);
    assert_eq!(peer.body(1).0.len(), 48_000);
    let updates: Vec<_> = peer
        .frames()
        .iter()
        .map(|f| (f.0, f.2, frame::number(&f.3)))
        .collect();
    assert_eq!(updates, [(8, 1, 48_000), (8, 0, 48_000)]);
    // What comes beyond the window breaks it.
    peer.send(&data.repeat(5));
    assert_eq!(fate(&mut peer), (Some(3), None, true));
}

#[test]
fn data_of_a_stream_that_was_reset_counts_for_the_connection_only() {
    let mut peer = Peer::client_of(&settings());
    peer.send(&get(1, false));
    peer.connection.accept().unwrap().head.unwrap();
    peer.connection.reset(1, ErrorCode::CANCEL);
    peer.connection.release(1);
    assert_eq!(fate(&mut peer), (None, Some(8), false));
    peer.send(&[raw(0, 0, 1, b"late"), raw(1, 5, 1, &block(&[("x", "y")]))].concat());
    assert_eq!(fate(&mut peer), (None, None, false));
    assert_eq!(peer.connection.open_streams(), 0);
}

#[test]
fn streams_above_the_limit_are_refused() {
    let few = Http2Settings {
        options: Http2ProtocolOptions {
            max_concurrent_streams: 1,
            ..Http2ProtocolOptions::default()
        },
        ..settings()
    };
    let mut peer = Peer::client_of(&few);
    peer.send(&[get(1, true), get(3, true)].concat());
    assert_eq!(peer.connection.accept().unwrap().id, 1);
    assert!(peer.connection.accept().is_none());
    assert_eq!(fate(&mut peer), (None, Some(7), false));
    peer.connection
        .send_response(1, &ResponseHead::new(200), EndStream::Yes);
    peer.send(&get(5, true));
    assert_eq!(peer.connection.accept().unwrap().id, 5);
}

#[test]
fn pings_that_are_not_read_are_a_flood() {
    let mut peer = Peer::client_of(&settings());
    let ping = raw(6, 0, 0, &[7; 8]);
    peer.send(&ping.repeat(1000));
    assert!(peer.connection.is_alive());
    assert_eq!(peer.frames().len(), 1000);
    peer.send(&ping.repeat(1001));
    assert!(peer.connection.has_failed());
}

#[test]
fn streams_that_are_reset_again_and_again_end_the_connection() {
    let mut peer = Peer::client_of(&settings());
    for number in 0..1100u32 {
        let id = number * 2 + 1;
        peer.send(&[get(id, true), raw(3, 0, id, &[0, 0, 0, 8])].concat());
        if peer.connection.accept().is_some() {
            peer.connection.release(id);
        }
        peer.frames();
        if peer.connection.has_failed() {
            assert_eq!(number, 1000);
            return;
        }
        if number == 500 {
            // In peace it may go on.
            peer.now += Duration::from_secs(60);
            let mut slow = Peer::client_of(&settings());
            for number in 0..2000u32 {
                let id = number * 2 + 1;
                slow.now += Duration::from_millis(40);
                slow.send(&[get(id, true), raw(3, 0, id, &[0, 0, 0, 8])].concat());
                slow.connection.accept();
                slow.connection.release(id);
            }
            assert!(slow.connection.is_alive());
            peer = Peer::client_of(&settings());
            for number in 0..=1000u32 {
                let id = number * 2 + 1;
                peer.send(&[get(id, true), raw(3, 0, id, &[0, 0, 0, 8])].concat());
            }
            assert!(peer.connection.has_failed());
            return;
        }
    }
    panic!("it never ended");
}

#[test]
fn data_for_a_stream_that_was_let_go_does_not_keep_the_window() {
    let settings = Http2Settings {
        options: Http2ProtocolOptions {
            initial_connection_window_size: 65_535,
            ..Http2ProtocolOptions::default()
        },
        ..settings()
    };
    let mut peer = Peer::client_of(&settings);
    // The client takes no more than ten octets, so that the answer stays while its owner goes.
    peer.send(&raw(frame::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 10]));
    peer.send(&get(1, false));
    let connection = &mut peer.connection;
    connection.send_response(1, &ResponseHead::new(200), EndStream::No);
    connection.send_data(1, Bytes::from_static(&[0; 20]), EndStream::Yes);
    connection.release(1);
    peer.frames();
    peer.send(&raw(frame::DATA, 0, 1, &[0; 16_384]));
    peer.send(&raw(frame::DATA, 0, 1, &[0; 16_384]));
    let updates: Vec<_> = peer.frames().into_iter().map(|f| (f.0, f.2)).collect();
    assert_eq!(updates, [(frame::WINDOW_UPDATE, 0)]);
}

#[test]
fn a_goaway_comes_in_two_steps() {
    let mut peer = Peer::client_of(&settings());
    peer.send(&get(1, false));
    peer.connection.announce_goaway();
    let (_, _, _, payload) = peer.frames().remove(0);
    assert_eq!(frame::number(&payload), 0x7fff_ffff);
    peer.send(&get(3, true));
    peer.connection.send_goaway();
    let (_, _, _, payload) = peer.frames().remove(0);
    assert_eq!(frame::number(&payload), 3);
    peer.send(&get(5, true));
    assert_eq!(peer.connection.accept().unwrap().id, 1);
    assert_eq!(peer.connection.accept().unwrap().id, 3);
    assert!(peer.connection.accept().is_none());
    assert!(peer.connection.is_alive());
}

#[test]
fn a_request_behind_the_goaway_is_ignored_with_its_body_and_trailers() {
    let mut peer = Peer::client_of(&settings());
    peer.send(&get(1, false));
    peer.connection.send_goaway();
    peer.frames();
    let trailers = raw(frame::HEADERS, 5, 3, &block(&[("x-t", "1")]));
    let data = raw(frame::DATA, 0, 3, &[0; 9]);
    peer.send(&[get(3, false), data, trailers].concat());
    assert!(peer.connection.is_alive());
    assert!(peer.frames().is_empty());
    peer.send(&raw(frame::DATA, frame::END_STREAM, 1, b"x"));
    assert_eq!(peer.body(1), (b"x".to_vec(), true));
    // What ends the connection then does not take the GOAWAY back.
    peer.send(&raw(frame::DATA, 0, 5, b"x"));
    let (_, _, _, payload) = peer.frames().remove(0);
    assert_eq!(frame::number(&payload), 1);
}

#[test]
fn nothing_is_said_before_the_preface_of_the_client() {
    let config = ConnectionConfig::for_server(&settings(), 1 << 20);
    let now = Instant::now();
    let mut peer = Peer {
        connection: Connection::new(config, None, now),
        now,
    };
    peer.connection.send_ping(1);
    peer.connection.announce_goaway();
    assert!(peer.frames().is_empty());
    peer.send(&[frame::PREFACE, &raw(frame::SETTINGS, 0, 0, &[])].concat());
    let kinds: Vec<u8> = peer.frames().iter().map(|frame| frame.0).collect();
    assert_eq!(kinds[0], frame::SETTINGS);
    assert!(kinds.contains(&frame::GOAWAY));
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

#[test]
fn gauges_say_what_waits_and_take_it_back() {
    let no_window = [&[0, 4][..], &5u32.to_be_bytes()].concat();
    let bytes = [raw(frame::SETTINGS, 0, 0, &no_window), get(1, true)].concat();
    let (mut peer, stats) = counted(Http2ProtocolOptions::default(), &bytes);
    peer.connection.accept();
    let head = ResponseHead::new(200);
    peer.connection.send_response(1, &head, EndStream::No);
    let body = Bytes::from_static(b"0123456789");
    peer.connection.send_data(1, body, EndStream::Yes);
    peer.connection.say_gauges();
    assert!(stats.outbound_frames_active().value() >= 4);
    // The answers to two SETTINGS.
    assert_eq!(stats.outbound_control_frames_active().value(), 2);
    peer.frames();
    assert_eq!(stats.outbound_frames_active().value(), 0);
    assert_eq!(stats.outbound_control_frames_active().value(), 0);
    assert_eq!(stats.pending_send_bytes().value(), 5);
    drop(peer);
    assert_eq!(stats.pending_send_bytes().value(), 0);
}

#[test]
fn bodies_for_windows_of_nothing_wait_on_their_streams_until_these_go() {
    let no_window = [&[0, 4][..], &0u32.to_be_bytes()].concat();
    let streams: Vec<u8> = (0..100).flat_map(|n| get(2 * n + 1, true)).collect();
    let bytes = [raw(frame::SETTINGS, 0, 0, &no_window), streams].concat();
    let (mut peer, stats) = counted(Http2ProtocolOptions::default(), &bytes);
    let cx = Context::from_waker(Waker::noop());
    while let Some(accepted) = peer.connection.accept() {
        let head = ResponseHead::new(200);
        let id = accepted.id;
        peer.connection.send_response(id, &head, EndStream::No);
        let body = Bytes::from(vec![0; 1000]);
        peer.connection.send_data(id, body, EndStream::No);
        // Who asks before it sends more, has to wait.
        assert!(peer.connection.poll_sent(id, 999, &cx).is_pending());
    }
    peer.frames();
    assert_eq!(stats.pending_send_bytes().value(), 100_000);
    for n in 0..100 {
        peer.connection.reset(2 * n + 1, ErrorCode::INTERNAL_ERROR);
        peer.connection.release(2 * n + 1);
    }
    peer.frames();
    assert_eq!(stats.pending_send_bytes().value(), 0);
    assert_eq!(peer.connection.open_streams(), 0);
}

fn with_metadata() -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        allow_metadata: true,
        max_metadata_size: 1000,
        ..Http2ProtocolOptions::default()
    }
}

fn metadata(last: bool, payload: &[u8]) -> Vec<u8> {
    let flags = if last { frame::END_METADATA } else { 0 };
    raw(frame::METADATA, flags, 1, payload)
}

#[test]
fn metadata_in_pieces_comes_in_its_place_and_goes_out_whole() {
    let map = block(&[("a", "1"), ("b", "2"), ("a", "3")]);
    let bytes = [
        get(1, false),
        metadata(false, &map[..4]),
        metadata(true, &map[4..]),
        raw(frame::DATA, frame::END_STREAM, 1, b"x"),
    ];
    let (mut peer, _) = counted(with_metadata(), &bytes.concat());
    peer.connection.accept();
    let Some(Received::Metadata(map)) = peer.next(1) else {
        panic!("metadata comes first");
    };
    let entries: Vec<_> = map.iter().collect();
    assert_eq!(entries, [(&b"a"[..], &b"1"[..]), (&b"b"[..], &b"2"[..])]);
    assert!(matches!(peer.next(1), Some(Received::Data(..))));
    peer.frames();
    peer.connection.send_metadata(1, &map);
    let sent = peer.frames();
    let [(frame::METADATA, frame::END_METADATA, 1, payload)] = &sent[..] else {
        panic!("{sent:?}");
    };
    let mut read = Vec::new();
    let mut decoder = Decoder::default();
    let decoded = decoder.decode_fields(payload, |n, v| read.push([n.to_vec(), v.to_vec()]));
    assert_eq!(decoded, Ok(()));
    assert_eq!(read, [[b"a", b"1"], [b"b", b"2"]]);
}

#[test]
fn metadata_that_nobody_takes_ends_its_connection() {
    let map = block(&[("a", &"v".repeat(100))]);
    let many = metadata(true, &map).repeat(50);
    let (peer, _) = counted(with_metadata(), &[get(1, false), many].concat());
    assert!(peer.connection.has_failed());
    let few = metadata(true, &map).repeat(30);
    let (mut peer, _) = counted(with_metadata(), &[get(1, false), few.clone()].concat());
    for _ in 0..5 {
        while peer.next(1).is_some() {}
        peer.send(&few);
    }
    assert!(peer.connection.is_alive());
    peer.connection.release(1);
    peer.send(&few);
    assert!(peer.connection.is_alive());
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
fn streams_behind_the_goaway_of_a_server_were_never_looked_at() {
    let mut peer = client();
    let (first, second) = (ask(&mut peer, "GET"), ask(&mut peer, "GET"));
    peer.send(&raw(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
    assert!(!peer.connection.takes_streams());
    assert!(peer.next(first).is_none());
    let unseen = peer.next(second);
    assert!(matches!(unseen, Some(Received::Broken(Broken::Refused))));
    peer.send(&raw(1, 5, 1, &block(&[(":status", "200")])));
    let head = peer.next(first);
    assert!(matches!(head, Some(Received::Head(head, EndStream::Yes)) if head.status == 200));
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

#[test]
fn a_connection_at_rest_is_small() {
    let mut peer = Peer::client_of(&settings());
    peer.send(&get(1, true));
    peer.connection.accept();
    peer.connection
        .send_response(1, &ResponseHead::new(200), EndStream::Yes);
    peer.frames();
    peer.connection.release(1);
    assert!(peer.connection.streams.is_empty());
    assert!(
        size_of::<Connection>() <= 1500,
        "{}",
        size_of::<Connection>()
    );
}

#[test]
fn what_streams_needed_serves_the_next_ones_of_any_connection() {
    let answered = |id| {
        let mut peer = Peer::client_of(&settings());
        peer.send(&get(id, true));
        assert!(peer.connection.streams.capacity() > 0);
        let left = room::rooms();
        peer.connection.accept();
        peer.connection
            .send_response(id, &ResponseHead::new(200), EndStream::Yes);
        peer.connection.release(id);
        assert_eq!(peer.connection.streams.capacity(), 0);
        left
    };
    assert_eq!((answered(1), answered(1)), (0, 0));
    assert_eq!(room::rooms(), 1);
}

/// What a server makes of these bytes, as text.
fn outcome(pieces: &[&[u8]]) -> String {
    let mut peer = Peer::client_of(&settings());
    let mut input = BytesMut::new();
    let mut bodies = std::collections::BTreeMap::<u32, (Vec<u8>, String)>::new();
    let mut heads = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        let now = peer.now;
        peer.connection.receive(&mut input, now);
        while let Some(accepted) = peer.connection.accept() {
            heads.push(format!("{accepted:?}"));
            bodies.entry(accepted.id).or_default();
        }
        for (id, (body, rest)) in &mut bodies {
            while let Some(received) = peer.next(*id) {
                match received {
                    Received::Data(data, end) => {
                        body.extend_from_slice(&data);
                        if end.is_end() {
                            rest.push_str("end");
                        }
                    }
                    other => rest.push_str(&format!("{other:?}")),
                }
            }
        }
    }
    format!("{heads:?} {bodies:?} {:?}", peer.frames())
}

#[test]
fn the_way_the_bytes_are_split_makes_no_difference() {
    let large = block(&[&GET[..], &[("x-l", "0123456789")]].concat());
    let (start, end) = large.split_at(20);
    let bytes = [
        get(1, false),
        raw(0, frame::PADDED, 1, b"\x03hello\0\0\0"),
        raw(6, 0, 0, b"12345678"),
        raw(1, 0, 3, start),
        raw(9, 4, 3, end),
        raw(0, frame::PADDED | frame::END_STREAM, 3, b"\x01bye\0"),
        raw(0, 1, 1, b"world"),
        raw(8, 0, 0, &[0, 0, 0, 9]),
        get(5, true),
        raw(3, 0, 5, &[0, 0, 0, 8]),
        raw(0, 0, 7, b"idle"),
    ]
    .concat();
    let whole = outcome(&[&bytes]);
    assert!(whole.contains("ConnectionError"), "{whole}");
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(outcome(&single), whole);
    for at in 0..bytes.len() {
        let (left, right) = bytes.split_at(at);
        assert_eq!(outcome(&[left, right]), whole, "split at {at}");
    }
}

proptest! {
    #[test]
    fn noise_behind_the_preface_breaks_nothing_but_the_connection(
        pieces in proptest::collection::vec(
            (0u8..12, any::<u8>(), 0u32..8, proptest::collection::vec(any::<u8>(), 0..40)), 0..40),
        cut in 1usize..50,
    ) {
        let bytes: Vec<u8> = pieces
            .iter()
            .flat_map(|(kind, flags, stream, payload)| raw(*kind, *flags, *stream, payload))
            .collect();
        let chunks: Vec<&[u8]> = bytes.chunks(cut).collect();
        prop_assert_eq!(outcome(&chunks), outcome(&[&bytes]));
    }

    #[test]
    fn two_ends_of_ours_understand_each_other(
        bodies in proptest::collection::vec(0usize..200_000, 1..6),
        cut in 1usize..30_000,
        value in "[ -~]{0,200}",
    ) {
        let now = Instant::now();
        let mut near = client();
        let config = ConnectionConfig::for_server(&settings(), 1 << 20);
        let mut far = Peer { connection: Connection::new(config, None, now), now };
        far.send(&[frame::PREFACE, &raw(frame::SETTINGS, 0, 0, &[])].concat());
        let mut ids = Vec::new();
        for size in &bodies {
            let mut head = RequestHead::new(Protocol::Http2, b"POST");
            head.set_path(b"/x");
            head.set_authority(b"a");
            head.fields.append("x-v", value.trim());
            let id = near.connection.send_request(&head, EndStream::No).unwrap();
            near.connection.send_data(id, Bytes::from(vec![1; *size]), EndStream::Yes);
            ids.push(id);
        }
        let mut got = vec![(0usize, false); bodies.len()];
        for _ in 0..200 {
            let out = near.connection.take_output();
            let back = far.connection.take_output();
            if out.is_empty() && back.is_empty() {
                break;
            }
            let mut input = BytesMut::new();
            for chunk in out.chunks(cut) {
                input.extend_from_slice(chunk);
                far.connection.receive(&mut input, now);
            }
            while let Some(accepted) = far.connection.accept() {
                let (head, _) = accepted.head.unwrap();
                prop_assert_eq!(head.fields.get("x-v"), Some(value.trim().as_bytes()));
            }
            for (id, slot) in ids.iter().zip(&mut got) {
                let (body, ended) = far.body(*id);
                slot.0 += body.len();
                slot.1 |= ended;
            }
            near.send(&back);
        }
        let wanted: Vec<_> = bodies.iter().map(|size| (*size, true)).collect();
        prop_assert_eq!(got, wanted);
    }
}

#[test]
fn a_connection_that_is_ended_by_force_looks_at_nothing_more_and_breaks_its_streams() {
    let mut peer = Peer::client_of(&settings());
    peer.send(&get(1, false));
    assert_eq!(peer.connection.accept().unwrap().id, 1);
    peer.connection.go_away_and_end();
    peer.send(&get(3, true));
    let said: Vec<_> = peer.frames().into_iter().map(|f| (f.0, f.3)).collect();
    let goaway = |last: u32| {
        (
            frame::GOAWAY,
            (u64::from(last) << 32).to_be_bytes().to_vec(),
        )
    };
    assert_eq!(said, [goaway(0x7fff_ffff), goaway(1)]);
    let Some(Received::Broken(Broken::Forced)) = peer.next(1) else {
        panic!("the stream goes on");
    };
    assert!(peer.connection.accept().is_none());
    assert!(peer.connection.has_failed() && !peer.connection.has_failed_by_error());
}

#[test]
fn a_connection_that_is_ended_by_force_at_its_beginning_says_its_settings_first() {
    let config = ConnectionConfig::for_server(&settings(), 1 << 20);
    let mut connection = Connection::new(config, None, Instant::now());
    connection.go_away_and_end();
    let said = frames(&connection.take_output());
    let kinds: Vec<_> = said.iter().map(|frame| frame.0).collect();
    assert_eq!(
        kinds,
        [
            frame::SETTINGS,
            frame::WINDOW_UPDATE,
            frame::GOAWAY,
            frame::GOAWAY
        ]
    );
}

#[test]
fn a_stream_holds_what_its_owner_has_not_taken_and_what_could_not_be_sent() {
    let mut peer = Peer::client_of(&settings());
    peer.send(&[get(1, false), raw(frame::DATA, 0, 1, b"hello")].concat());
    assert_eq!(peer.connection.accept().unwrap().id, 1);
    assert_eq!(peer.connection.held(1), 5);
    peer.body(1);
    assert_eq!(peer.connection.held(1), 0);
    let head = ResponseHead::new(200);
    peer.connection.send_response(1, &head, EndStream::No);
    let body = Bytes::from(vec![0; 100_000]);
    peer.connection.send_data(1, body, EndStream::Yes);
    assert_eq!(peer.connection.held(1), 100_000 - 65_535);
    assert_eq!(peer.connection.held(3), 0);
}
