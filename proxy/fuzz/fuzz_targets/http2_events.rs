//! Sequences of events on a connection between our client and our server: whatever they do, neither breaks the protocol, and
//! what one has sent the other gets, in order and not more.
#![no_main]

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use outrigger::http::{EndStream, Fields, Protocol, RequestHead, ResponseHead};
use outrigger::http2::{
    ClientHttp2Settings, Connection, ConnectionConfig, ErrorCode, Http2ProtocolOptions,
    Http2Settings, Received,
};
use tokio::time::Instant;

const WINDOW: u32 = 65_535;
const STREAMS: u32 = 8;

fuzz_target!(|events: Vec<(u8, u8, u16)>| {
    let mut world = World::new();
    for (kind, which, size) in events {
        world.act(kind, which, usize::from(size));
    }
    world.settle();
});

struct World {
    client: Connection,
    server: Connection,
    /// What is under way to the server and to the client.
    pipes: [BytesMut; 2],
    /// What came out of the pipes and is no whole frame yet.
    inputs: [BytesMut; 2],
    client_streams: BTreeMap<u32, Side>,
    server_streams: BTreeMap<u32, Side>,
}

/// What one end of a stream has sent and received.
#[derive(Default)]
struct Side {
    sent: u64,
    ended: bool,
    head_sent: bool,
    /// It was reset, or let go before its end.
    broken: bool,
    received: u64,
    received_end: bool,
}

impl World {
    fn new() -> Self {
        let options = Http2ProtocolOptions {
            max_concurrent_streams: STREAMS,
            initial_stream_window_size: WINDOW,
            initial_connection_window_size: WINDOW,
            stream_reset_burst: u64::MAX,
            ..Http2ProtocolOptions::default()
        };
        let server = Http2Settings {
            options: options.clone(),
            ..Http2Settings::default()
        };
        let client = ClientHttp2Settings {
            options,
            ..ClientHttp2Settings::default()
        };
        let now = Instant::now();
        Self {
            client: Connection::new(ConnectionConfig::for_client(&client), None, now),
            server: Connection::new(ConnectionConfig::for_server(&server, 1 << 20), None, now),
            pipes: Default::default(),
            inputs: Default::default(),
            client_streams: BTreeMap::new(),
            server_streams: BTreeMap::new(),
        }
    }

    fn act(&mut self, kind: u8, which: u8, size: usize) {
        match kind % 12 {
            0 => self.open(EndStream::from(size.is_multiple_of(2))),
            1 => self.send(true, which, size, false),
            2 => self.send(true, which, size, true),
            3 => self.send(false, which, size, false),
            4 => self.send(false, which, size, true),
            5 => self.transfer(0, size),
            6 => self.transfer(1, size),
            7 => self.take(true, which),
            8 => self.take(false, which),
            9 => self.break_off(size.is_multiple_of(2), which, size.is_multiple_of(3)),
            10 => {
                let side = if which.is_multiple_of(2) { &mut self.client } else { &mut self.server };
                side.send_ping(size as u64);
            }
            _ if size.is_multiple_of(64) => {
                self.server.announce_goaway();
                if size.is_multiple_of(128) {
                    self.server.send_goaway();
                }
            }
            _ => self.trailers(which, size.is_multiple_of(2)),
        }
        self.check_life();
    }

    fn check_life(&self) {
        let Self { client, server, .. } = self;
        assert!(client.is_alive() && server.is_alive(), "{client:?} {server:?}");
    }

    fn open(&mut self, end: EndStream) {
        let live = self.client_streams.values().filter(|side| !side.broken).count();
        if live >= STREAMS as usize * 2 {
            return;
        }
        let mut head = RequestHead::new(Protocol::Http2, b"POST");
        head.set_path(b"/some/path");
        head.set_authority(b"authority");
        head.fields.append("x-number", &live.to_string());
        if let Some(id) = self.client.send_request(&head, end) {
            let side = Side {
                ended: end.is_end(),
                head_sent: true,
                ..Side::default()
            };
            self.client_streams.insert(id, side);
        }
    }

    fn parts(&mut self, is_client: bool) -> (&mut Connection, &mut BTreeMap<u32, Side>) {
        if is_client {
            (&mut self.client, &mut self.client_streams)
        } else {
            (&mut self.server, &mut self.server_streams)
        }
    }

    fn pick(&mut self, is_client: bool, which: u8) -> Option<u32> {
        let (_, streams) = self.parts(is_client);
        let live: Vec<u32> = streams.iter().filter(|(_, side)| !side.broken).map(|(id, _)| *id).collect();
        live.get(usize::from(which) % live.len().max(1)).copied()
    }

    fn send(&mut self, is_client: bool, which: u8, size: usize, end: bool) {
        let Some(id) = self.pick(is_client, which) else { return };
        let (connection, streams) = self.parts(is_client);
        let Some(side) = streams.get_mut(&id) else { return };
        if !side.head_sent {
            connection.send_informational(id, &ResponseHead::new(103));
            connection.send_response(id, &ResponseHead::new(200), EndStream::No);
            side.head_sent = true;
        }
        if side.ended || side.sent > 1 << 20 {
            return;
        }
        connection.send_data(id, pattern(side.sent, size), EndStream::from(end));
        side.sent += size as u64;
        side.ended = end;
    }

    fn trailers(&mut self, which: u8, is_client: bool) {
        let Some(id) = self.pick(is_client, which) else { return };
        let (connection, streams) = self.parts(is_client);
        let Some(side) = streams.get_mut(&id) else { return };
        if side.ended || !side.head_sent {
            return;
        }
        let mut trailers = Fields::new();
        trailers.append("x-end", "1");
        connection.send_trailers(id, &trailers);
        side.ended = true;
    }

    fn break_off(&mut self, is_client: bool, which: u8, release: bool) {
        let Some(id) = self.pick(is_client, which) else { return };
        let (connection, streams) = self.parts(is_client);
        if !release {
            connection.reset(id, ErrorCode::CANCEL);
        }
        connection.release(id);
        if let Some(side) = streams.get_mut(&id) {
            side.broken = true;
        }
    }

    fn transfer(&mut self, to: usize, size: usize) {
        let output = if to == 0 { self.client.take_output() } else { self.server.take_output() };
        self.pipes[to].extend_from_slice(&output);
        let size = (size * 4).min(self.pipes[to].len());
        let bytes = self.pipes[to].split_to(size);
        self.inputs[to].extend_from_slice(&bytes);
        let receiver = if to == 0 { &mut self.server } else { &mut self.client };
        receiver.receive(&mut self.inputs[to], Instant::now());
        assert!(self.inputs[to].len() < 16_384 + 9, "no more than a frame is kept");
        while let Some(accepted) = self.server.accept() {
            assert!(accepted.head.is_ok(), "{accepted:?}");
            self.server_streams.insert(accepted.id, Side::default());
        }
        let streams = self.server_streams.len();
        let open = self.server.open_streams();
        assert!(open <= STREAMS as usize, "{open} of {streams}");
    }

    /// Takes everything that one end of a stream has received.
    fn take(&mut self, is_client: bool, which: u8) {
        if let Some(id) = self.pick(is_client, which) {
            self.take_of(is_client, id);
        }
    }

    fn take_of(&mut self, is_client: bool, id: u32) {
        let cx = Context::from_waker(Waker::noop());
        let (connection, streams) = self.parts(is_client);
        let Some(side) = streams.get_mut(&id) else { return };
        while let Poll::Ready(received) = connection.poll_received(id, &cx) {
            assert!(!side.received_end || matches!(received, Received::Broken(_)), "{received:?}");
            match received {
                Received::Data(data, end) => {
                    assert_eq!(data, pattern(side.received, data.len()));
                    side.received += data.len() as u64;
                    side.received_end = end.is_end();
                }
                Received::Head(_, end) => side.received_end = end.is_end(),
                Received::Trailers(_) => side.received_end = true,
                Received::Informational(_) | Received::Metadata(_) => {}
                Received::Broken(_) => {
                    side.broken = true;
                    connection.release(id);
                    return;
                }
            }
        }
    }

    /// Lets everything that is under way arrive: then whole streams are whole on both sides.
    fn settle(&mut self) {
        let mut calm = 0;
        for _ in 0..4000 {
            self.transfer(0, usize::MAX / 8);
            self.transfer(1, usize::MAX / 8);
            for is_client in [true, false] {
                let ids: Vec<u32> = self.parts(is_client).1.keys().copied().collect();
                for id in ids {
                    if !self.parts(is_client).1[&id].broken {
                        self.take_of(is_client, id);
                    }
                }
            }
            let quiet = self.pipes.iter().all(BytesMut::is_empty);
            calm = if quiet && !self.client.has_output() && !self.server.has_output() { calm + 1 } else { 0 };
            // What a window has held back is output in the next round only.
            if calm == 3 {
                break;
            }
        }
        self.check_life();
        for (id, client) in &self.client_streams {
            let Some(server) = self.server_streams.get(id) else { continue };
            if client.broken || server.broken {
                continue;
            }
            assert_eq!(server.received, client.sent, "stream {id}");
            assert_eq!(client.received, server.sent, "stream {id}");
            if client.ended {
                // An end without any data is told with the head.
                assert!(server.received_end || client.sent == 0, "stream {id}");
            }
            assert_eq!(client.received_end, server.ended, "stream {id}");
        }
    }
}

fn pattern(offset: u64, size: usize) -> Bytes {
    (offset..offset + size as u64).map(|at| (at % 251) as u8).collect()
}
