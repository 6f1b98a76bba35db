//! HTTP/2 frames of a client and of a server, in any split: a connection takes them alike however they come, and ends.
#![no_main]

use std::fmt::Write;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use outrigger::http::{EndStream, Protocol, RequestHead, ResponseHead};
use outrigger::http2::{
    ClientHttp2Settings, Connection, ConnectionConfig, Http2Settings, Received,
};
use tokio::time::Instant;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fuzz_target!(|input: (bool, u8, Vec<u8>)| {
    let (is_server, split, bytes) = input;
    let whole = play(is_server, &[&bytes]);
    let pieces: Vec<&[u8]> = bytes.chunks(usize::from(split) + 1).collect();
    assert_eq!(play(is_server, &pieces), whole);
});

/// What came of the bytes, as text. What was answered is in it; where data was cut is not.
fn play(is_server: bool, pieces: &[&[u8]]) -> String {
    let now = Instant::now();
    let config: Rc<ConnectionConfig> = if is_server {
        ConnectionConfig::for_server(&Http2Settings::default(), 1 << 20)
    } else {
        ConnectionConfig::for_client(&ClientHttp2Settings::default())
    };
    let mut connection = Connection::new(config, None, now);
    let mut ids = Vec::new();
    let mut seen = String::new();
    if is_server {
        connection.receive(&mut BytesMut::from(PREFACE), now);
    } else {
        for _ in 0..3 {
            let mut head = RequestHead::new(Protocol::Http2, b"POST");
            head.set_path(b"/");
            head.set_authority(b"a");
            ids.extend(connection.send_request(&head, EndStream::No));
        }
    }
    let mut input = BytesMut::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        connection.receive(&mut input, now);
        assert!(input.len() < 16_384 + 9, "no more than a frame is kept");
        while let Some(accepted) = connection.accept() {
            let _ = writeln!(seen, "{accepted:?}");
            ids.push(accepted.id);
        }
    }
    let cx = Context::from_waker(Waker::noop());
    for id in ids {
        let _ = write!(seen, "{id}:");
        while let Poll::Ready(received) = connection.poll_received(id, &cx) {
            match received {
                Received::Data(data, end) => {
                    let _ = write!(seen, "{data:?}{end:?}");
                }
                other => {
                    let _ = write!(seen, "{other:?}");
                }
            }
        }
        if is_server {
            connection.send_response(id, &ResponseHead::new(200), EndStream::No);
        }
        connection.send_data(id, Bytes::from_static(b"body"), EndStream::Yes);
        connection.release(id);
    }
    let _ = write!(seen, "{:?} {}", connection.take_output(), connection.is_alive());
    assert!(connection.take_output().is_empty());
    seen
}
