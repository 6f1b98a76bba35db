//! Peers that behave badly: no stream is left behind, memory stays flat, and the flags say what happened.
//!
//! `ROBUSTNESS_CONNECTIONS` sets the number of idle connections (1,000 by default; 10,000 need a file limit above that).
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod common;

use std::path::Path;
use std::time::Duration;

use outrigger_xds_tests::backend::{Act, Kind, Response, Script};
use outrigger_xds_tests::binaries;
use outrigger_xds_tests::client::{self, Protocol, Step};
use outrigger_xds_tests::observation::difference;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::common::{Running, both, tell};

const MIB: u64 = 1024 * 1024;

fn answering(body: Vec<u8>) -> Kind {
    let response = Response {
        status: 200,
        fields: vec![],
        body,
        trailers: vec![],
        chunked: false,
    };
    Kind::Http1(vec![Script {
        early: false,
        acts: vec![Act::Respond(response)],
    }])
}

async fn no_stream_is_left(running: &Running) {
    running
        .settles("http.ingress.downstream_rq_active", 0)
        .await;
    running
        .settles("http.ingress.downstream_cx_active", 0)
        .await;
    running
        .settles("cluster.backend.upstream_rq_active", 0)
        .await;
}

/// The lines of the access log, in order of their paths.
async fn sorted_log(running: &Running, last: &str) -> Vec<String> {
    running.logs(last).await;
    sleep(Duration::from_millis(200)).await;
    let mut lines: Vec<_> = std::fs::read_to_string(&running.log)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

/// Lets the upstream break off after each byte of a response; gives status and log line of each request.
async fn upstream_breaks(binary: &Path, how: &Act, story: &str) -> Vec<String> {
    let response =
        b"HTTP/1.1 200 OK\r\nx-a: b\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let scripts = (0..response.len())
        .map(|length| {
            let acts = vec![
                Act::Send(response[..length].to_vec()),
                Act::Wait(Duration::from_millis(15)),
                how.clone(),
            ];
            Script { early: false, acts }
        })
        .collect();
    let running = Running::start(binary, story, Kind::Http1(scripts), &[]).await;
    let mut seen = Vec::new();
    for length in 0..response.len() {
        let request = format!("GET /{length:03} HTTP/1.1\r\nhost: a\r\n\r\n");
        let steps = [
            Step::Send(request.into_bytes()),
            Step::Read { to_head: false },
            Step::Close,
        ];
        let transcript = client::play(running.address, Protocol::Http1, &steps).await;
        let message = &transcript.messages[0];
        seen.push(format!("/{length:03} {} {:?}", message.status, message.end));
    }
    seen.extend(sorted_log(&running, &format!("/{:03} ", response.len() - 1)).await);
    no_stream_is_left(&running).await;
    seen
}

#[test]
fn upstream_that_resets_at_any_point_is_reported_as_by_envoy() {
    tell(async {
        let [envoy, outrigger] = both();
        let (envoy, outrigger) = tokio::join!(
            upstream_breaks(&envoy, &Act::Reset, "robustness-reset"),
            upstream_breaks(&outrigger, &Act::Reset, "robustness-reset-2")
        );
        assert_eq!(difference(&envoy, &outrigger), Vec::<String>::new());
    });
}

#[test]
fn upstream_that_closes_at_any_point_is_reported_as_by_envoy() {
    tell(async {
        let [envoy, outrigger] = both();
        let (envoy, outrigger) = tokio::join!(
            upstream_breaks(&envoy, &Act::Close, "robustness-close"),
            upstream_breaks(&outrigger, &Act::Close, "robustness-close-2")
        );
        assert_eq!(difference(&envoy, &outrigger), Vec::<String>::new());
    });
}

/// Closes the client's connection after each byte of a request; gives the log.
async fn client_breaks(binary: &Path, story: &str) -> Vec<String> {
    let running = Running::start(binary, story, answering(b"ok".to_vec()), &[]).await;
    let request =
        b"POST /path HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r";
    for length in 1..request.len() {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(&request[..length]).await.unwrap();
        sleep(Duration::from_millis(15)).await;
    }
    no_stream_is_left(&running).await;
    sorted_log(&running, "DC").await
}

#[test]
fn client_that_closes_at_any_point_of_a_request_is_reported_as_by_envoy() {
    tell(async {
        let [envoy, outrigger] = both();
        let (envoy, outrigger) = tokio::join!(
            client_breaks(&envoy, "robustness-client"),
            client_breaks(&outrigger, "robustness-client-2")
        );
        assert_eq!(difference(&envoy, &outrigger), Vec::<String>::new());
    });
}

#[test]
fn idle_connections_cost_little_and_are_given_back() {
    #[allow(
        clippy::disallowed_methods,
        reason = "the number is set by who runs the story"
    )]
    let count: usize = std::env::var("ROBUSTNESS_CONNECTIONS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(1000);
    tell(async move {
        let outrigger = binaries::outrigger().unwrap();
        let running = Running::start(
            &outrigger,
            "robustness-idle",
            answering(b"ok".to_vec()),
            &[],
        )
        .await;
        let mut connections = Vec::with_capacity(count);
        // The first ones warm up what is allocated once.
        let warm = 50;
        let mut before = 0;
        for number in 0..count + warm {
            let mut stream = TcpStream::connect(running.address).await.unwrap();
            stream
                .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                .await
                .unwrap();
            let mut answer = [0; 1024];
            assert!(stream.read(&mut answer).await.unwrap() > 0);
            connections.push(stream);
            if number + 1 == warm {
                before = running.proxy.resident().unwrap();
            }
        }
        running
            .settles(
                "http.ingress.downstream_cx_active",
                u64::try_from(count + warm).unwrap(),
            )
            .await;
        let each = running.proxy.resident().unwrap().saturating_sub(before)
            / u64::try_from(count).unwrap();
        assert!(each <= 8 * 1024, "{each} bytes for an idle connection");
        drop(connections);
        no_stream_is_left(&running).await;
    });
}

#[test]
fn client_that_reads_slowly_does_not_fill_memory() {
    tell(async {
        let outrigger = binaries::outrigger().unwrap();
        let body: Vec<u8> = (0..32 * MIB)
            .map(|number| u8::try_from(number % 251).unwrap())
            .collect();
        let running =
            Running::start(&outrigger, "robustness-slow", answering(body.clone()), &[]).await;
        let before = running.proxy.resident().unwrap();
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        sleep(Duration::from_millis(1500)).await;
        let grown = running.proxy.resident().unwrap().saturating_sub(before);
        assert!(grown < 8 * MIB, "{grown} bytes more while nobody read");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert!(all.ends_with(&body), "the body came whole");
        no_stream_is_left(&running).await;
    });
}

#[test]
fn memory_is_flat_over_many_short_connections() {
    tell(async {
        let outrigger = binaries::outrigger().unwrap();
        let running = Running::start(
            &outrigger,
            "robustness-churn",
            answering(vec![b'x'; 2000]),
            &[],
        )
        .await;
        let mut resident = Vec::new();
        for _ in 0..4 {
            let clients: Vec<_> = (0..20)
                .map(|_| {
                    let address = running.address;
                    spawn_local(async move {
                        for _ in 0..50 {
                            let mut stream = TcpStream::connect(address).await.unwrap();
                            stream
                                .write_all(
                                    b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
                                )
                                .await
                                .unwrap();
                            let mut all = Vec::new();
                            stream.read_to_end(&mut all).await.unwrap();
                            assert!(all.starts_with(b"HTTP/1.1 200 OK"));
                        }
                    })
                })
                .collect();
            for client in clients {
                client.await.unwrap();
            }
            resident.push(running.proxy.resident().unwrap());
        }
        no_stream_is_left(&running).await;
        let grown = resident[3].saturating_sub(resident[1]);
        assert!(
            grown < 2 * MIB,
            "resident memory after each thousand connections: {resident:?}"
        );
    });
}
