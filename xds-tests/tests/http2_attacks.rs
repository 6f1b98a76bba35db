//! HTTP/2 clients that want the proxy to hold or do more than they pay for: its memory stays bounded, it goes on serving others,
//! and its stats say what happened. (The differential story compares fates, flags and stats of each with Envoy's.)
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test stops at what it did not expect, and its numbers are small"
)]

#[allow(dead_code, reason = "this story needs no logs")]
mod common;

use std::time::Duration;

use outrigger_xds_tests::backend::{Act, Kind, Response, Script};
use outrigger_xds_tests::binaries;
use outrigger_xds_tests::client::{self, Protocol, Step};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use crate::common::{Running, tell};

const MIB: u64 = 1024 * 1024;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET http://a/`, by numbers of the static table but for the host.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x01, 1, b'a'];

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, GET)
}

/// Starts a proxy whose backend answers with so many bytes.
async fn start(story: &str, body: u64) -> Running {
    let outrigger = binaries::outrigger().unwrap();
    let response = Response {
        status: 200,
        fields: vec![],
        body: vec![b'x'; body as usize],
        trailers: vec![],
        chunked: false,
    };
    let script = Script {
        early: false,
        acts: vec![Act::Respond(response)],
    };
    Running::start(&outrigger, story, Kind::Http1(vec![script]), &[]).await
}

/// Lets so many connections send these bytes again and again, up to so many MiB each, or until they are closed. Nothing is
/// read, and the connections stay for a while. Gives the bytes by which the proxy grew at most.
async fn flood(running: &Running, connections: usize, mib: u64, start: &[u8], more: &[u8]) -> u64 {
    let before = running.proxy.resident().unwrap();
    let attackers: Vec<_> = (0..connections)
        .map(|_| {
            let (address, start, more) = (running.address, start.to_vec(), more.to_vec());
            spawn_local(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let sent = async {
                    stream.write_all(PREFACE).await?;
                    stream.write_all(&start).await?;
                    let times = mib * MIB / more.len().max(1) as u64;
                    for _ in 0..times.min(100_000) {
                        stream.write_all(&more).await?;
                    }
                    std::io::Result::Ok(())
                };
                // Whom the proxy has closed or reads no more from has nothing more to send.
                let _ = timeout(Duration::from_secs(2), sent).await;
                sleep(Duration::from_secs(1)).await;
            })
        })
        .collect();
    let mut highest = before;
    while !attackers.iter().all(tokio::task::JoinHandle::is_finished) {
        highest = highest.max(running.proxy.resident().unwrap());
        sleep(Duration::from_millis(20)).await;
    }
    highest - before
}

/// Others are served, and of the attackers nothing is left.
async fn recovers(running: &mut Running) {
    let steps = [
        Step::Send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
        Step::Read { to_head: true },
    ];
    let transcript = client::play(running.address, Protocol::Http1, &steps).await;
    assert!(transcript.messages[0].status == 200, "{transcript:?}");
    for gauge in [
        "http.ingress.downstream_rq_active",
        "http2.streams_active",
        "http2.pending_send_bytes",
        "http2.outbound_frames_active",
        "http2.outbound_control_frames_active",
        "cluster.backend.upstream_rq_active",
    ] {
        running.settles(gauge, 0).await;
    }
    assert_eq!(running.proxy.obituary(), None);
}

#[test]
fn streams_reset_at_once_end_their_connections_and_leave_nothing() {
    tell(async {
        let mut running = start("http2-rapid-reset", 10).await;
        let cancel = |id| frame(RST_STREAM, 0, id, &[0, 0, 0, 8]);
        let streams = (0..1000).flat_map(|n| [get(2 * n + 1), cancel(2 * n + 1)].concat());
        let streams: Vec<u8> = streams.collect();
        let grown = flood(&running, 50, 0, &streams, &[]).await;
        // How many of them are read before the first is closed is up to the machine.
        assert!(grown < 32 * MIB, "{grown} bytes more");
        recovers(&mut running).await;
        let ended = running
            .stat("http.ingress.downstream_rq_too_many_premature_resets")
            .await;
        assert!(ended > 0);
    });
}

#[test]
fn header_blocks_without_end_are_not_kept_without_end() {
    tell(async {
        let mut running = start("http2-continuation", 10).await;
        let piece = frame(
            CONTINUATION,
            0,
            1,
            &[&[0, 1, b'a', 0x7f, 0xf1, 0x7e], &vec![b'v'; 16_368][..]].concat(),
        );
        let begin = frame(HEADERS, END_STREAM, 1, GET);
        let grown = flood(&running, 50, 50, &begin, &piece).await;
        assert!(grown < 32 * MIB, "{grown} bytes more");
        recovers(&mut running).await;
    });
}

#[test]
fn answers_that_nobody_reads_are_not_kept_without_end() {
    tell(async {
        for (story, frame, stat) in [
            (
                "http2-settings",
                frame(SETTINGS, 0, 0, &[]),
                "outbound_control_flood",
            ),
            (
                "http2-pings",
                frame(PING, 0, 0, &[0; 8]),
                "outbound_control_flood",
            ),
        ] {
            let mut running = start(story, 10).await;
            let grown = flood(&running, 20, 50, &[], &frame.repeat(1000)).await;
            assert!(grown < 16 * MIB, "{grown} bytes more");
            recovers(&mut running).await;
            let floods = running.stat(&format!("http2.{stat}")).await;
            assert!(floods > 0, "{story}");
        }
    });
}

#[test]
fn small_blocks_that_stand_for_large_heads_are_not_unpacked() {
    tell(async {
        let mut running = start("http2-bomb", 10).await;
        // A value of 4,000 octets that goes into the table, and its number ten thousand times.
        let mut bomb = [
            GET,
            &[0x40, 1, b'x', 0x7f, 0xa1, 0x1e],
            &vec![b'v'; 4000][..],
        ]
        .concat();
        bomb.extend(vec![0x80 | 62; 10_000]);
        let bombs: Vec<u8> = (0..500)
            .flat_map(|n| frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &bomb))
            .collect();
        let grown = flood(&running, 10, 0, &bombs, &[]).await;
        assert!(grown < 32 * MIB, "{grown} bytes more");
        recovers(&mut running).await;
        let large = running.stat("http2.header_list_size_too_large").await;
        assert!(large > 0);
    });
}

#[test]
fn responses_that_nobody_takes_stop_at_the_buffer_limit() {
    tell(async {
        const STREAMS: u32 = 8;
        let requests: Vec<u8> = (0..STREAMS).flat_map(|n| get(2 * n + 1)).collect();
        for (story, window) in [
            ("http2-zero-window", 0u32),
            ("http2-slow-reader", i32::MAX as u32),
        ] {
            let mut running = start(story, 32 * MIB).await;
            let window = [&[0, 4][..], &window.to_be_bytes()].concat();
            let whole = 0x7fff_0000_u32 - 65_535;
            let begin = [
                frame(SETTINGS, 0, 0, &window),
                frame(8, 0, 0, &whole.to_be_bytes()),
                requests.clone(),
            ];
            let grown = flood(&running, 5, 0, &begin.concat(), &[]).await;
            // A MiB for each of 40 streams, where the whole bodies have 1.25 GiB.
            assert!(grown < 120 * MIB, "{story}: {grown} bytes more");
            recovers(&mut running).await;
        }
    });
}
