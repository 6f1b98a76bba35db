//! How a proxy starts, drains and ends. What Envoy does too is asked of both.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod common;

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::rc::Rc;
use std::time::Duration;

use outrigger_xds_tests::backend::{Act, Kind, Response, Script};
use outrigger_xds_tests::binaries;
use outrigger_xds_tests::client::{self, Protocol, Request, Step, Transcript};
use outrigger_xds_tests::proxy::admin_get;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};

use crate::common::{Running, both, tell};

/// A backend that answers after this time.
fn slow(ms: u64) -> Kind {
    let response = Response {
        status: 200,
        fields: vec![],
        body: b"done".to_vec(),
        trailers: vec![],
        chunked: false,
    };
    let acts = vec![Act::Wait(Duration::from_millis(ms)), Act::Respond(response)];
    Kind::Http1(vec![Script { early: false, acts }])
}

async fn start(binary: &Path, story: &str, backend_ms: u64, flags: &[&str]) -> Running {
    Running::start(
        binary,
        &format!("lifecycle-{story}"),
        slow(backend_ms),
        flags,
    )
    .await
}

fn get(path: &str) -> Step {
    Step::Request(Request {
        method: "GET".into(),
        path: path.into(),
        authority: "example.com".into(),
        fields: vec![],
        body: None,
        trailers: vec![],
        chunked: false,
    })
}

async fn send(address: SocketAddr, protocol: Protocol, path: &str) -> Transcript {
    client::play(address, protocol, &[get(path)]).await
}

fn validate(binary: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary);
    command
        .args(["--mode", "validate", "--use-dynamic-base-id", "-l", "error"])
        .args(arguments);
    command.output().unwrap()
}

#[test]
fn validate_tells_good_from_bad_by_its_exit_code() {
    let good = "{ admin: {} }";
    let bad = "{ static_resources: { clusters: [{ name: c, connect_timeout: soon }] } }";
    for binary in both() {
        let output = validate(&binary, &["--config-yaml", good]);
        assert!(output.status.success(), "{binary:?}: {output:?}");
        let output = validate(&binary, &["--config-yaml", bad]);
        assert_eq!(output.status.code(), Some(1), "{binary:?}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert!(
            said.contains("connect_timeout") || said.contains("soon"),
            "{binary:?}: {said}"
        );
    }
}

#[test]
fn what_follows_two_dashes_is_ignored() {
    for binary in both() {
        let output = validate(
            &binary,
            &["--config-yaml", "{ admin: {} }", "--", "--no-such-flag"],
        );
        assert!(output.status.success(), "{binary:?}: {output:?}");
    }
}

#[test]
fn config_yaml_is_merged_over_the_file() {
    tell(async {
        for binary in both() {
            let merged = [
                "--config-yaml",
                "{ node: { id: from-the-flag, cluster: c } }",
            ];
            let running = start(&binary, "merge", 0, &merged).await;
            let (status, page) = admin_get(running.proxy.admin_address(), "/server_info")
                .await
                .unwrap();
            assert_eq!(status, 200);
            assert!(page.contains("from-the-flag"), "{binary:?}: {page}");
            let answer = send(running.address, Protocol::Http1, "/").await;
            assert_eq!(answer.messages[0].status, 200);
        }
    });
}

#[test]
fn sigusr1_opens_the_access_log_again() {
    tell(async {
        for binary in both() {
            let running = start(&binary, "reopen", 0, &[]).await;
            let log = running.log.clone();
            send(running.address, Protocol::Http1, "/before").await;
            running.logs("/before").await;
            std::fs::rename(&log, log.with_extension("1")).unwrap();
            running.proxy.signal("USR1").unwrap();
            // The line that makes the proxy open the file again may still go to the old one.
            let deadline = Instant::now() + Duration::from_secs(30);
            let reopened =
                || std::fs::read_to_string(&log).is_ok_and(|lines| lines.contains("/after"));
            while !reopened() && Instant::now() < deadline {
                send(running.address, Protocol::Http1, "/after").await;
                sleep(Duration::from_millis(100)).await;
            }
            running.logs("/after").await;
        }
    });
}

#[test]
fn healthcheck_fail_makes_the_proxy_not_ready_and_ok_makes_it_ready() {
    tell(async {
        for binary in both() {
            let running = start(&binary, "health", 0, &[]).await;
            let admin = running.proxy.admin_address();
            assert_eq!(post(admin, "/healthcheck/fail").await, 200);
            assert_eq!(
                admin_get(admin, "/ready").await.unwrap().0,
                503,
                "{binary:?}"
            );
            assert_eq!(post(admin, "/healthcheck/ok").await, 200);
            assert_eq!(
                admin_get(admin, "/ready").await.unwrap().0,
                200,
                "{binary:?}"
            );
        }
    });
}

#[test]
fn drain_listeners_closes_connections_and_stops_accepting() {
    tell(async {
        for binary in both() {
            let running = start(
                &binary,
                "drain",
                0,
                &["--drain-time-s", "1", "--drain-strategy", "immediate"],
            )
            .await;
            assert_eq!(
                post(running.proxy.admin_address(), "/drain_listeners").await,
                200
            );
            let deadline = Instant::now() + Duration::from_secs(30);
            while tokio::net::TcpStream::connect(running.address)
                .await
                .is_ok()
            {
                assert!(Instant::now() < deadline, "{binary:?} still accepts");
                sleep(Duration::from_millis(50)).await;
            }
        }
    });
}

async fn post(address: SocketAddr, path: &str) -> u16 {
    let request = format!("POST {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\n\r\n");
    let steps = [
        Step::Send(request.into_bytes()),
        Step::Read { to_head: false },
    ];
    client::play(address, Protocol::Http1, &steps)
        .await
        .messages[0]
        .status
}

#[test]
fn quitquitquit_ends_the_process() {
    tell(async {
        for binary in both() {
            let mut running = start(&binary, "quit", 0, &[]).await;
            assert_eq!(
                post(running.proxy.admin_address(), "/quitquitquit").await,
                200
            );
            let status = timeout(Duration::from_secs(30), running.proxy.ended())
                .await
                .unwrap()
                .unwrap();
            assert!(status.success(), "{binary:?}: {status}");
        }
    });
}

#[test]
fn sigint_ends_the_process_at_once() {
    tell(async {
        for binary in both() {
            let mut running = start(&binary, "int", 0, &["--drain-time-s", "60"]).await;
            running.proxy.signal("INT").unwrap();
            let status = timeout(Duration::from_secs(30), running.proxy.ended())
                .await
                .unwrap()
                .unwrap();
            assert!(status.success(), "{binary:?}: {status}");
        }
    });
}

// Envoy differs: it ends at once on SIGTERM and leaves draining to whoever sends the signal.
#[test]
fn sigterm_lets_a_request_in_flight_end_and_says_connection_close() {
    tell(async {
        let outrigger = binaries::outrigger().unwrap();
        for (protocol, story) in [(Protocol::Http1, "term1"), (Protocol::Http2, "term2")] {
            let mut running = start(&outrigger, story, 2000, &["--drain-time-s", "20"]).await;
            let address = running.address;
            let request = spawn_local(async move { send(address, protocol, "/slow").await });
            running
                .settles("cluster.backend.upstream_rq_active", 1)
                .await;
            running.proxy.signal("TERM").unwrap();
            let answer = request.await.unwrap();
            assert_eq!(answer.messages[0].status, 200, "{answer:?}");
            assert_eq!(answer.messages[0].body, b"done");
            if protocol == Protocol::Http1 {
                assert_eq!(
                    answer.messages[0].field("connection").as_deref(),
                    Some("close"),
                    "{answer:?}"
                );
            }
            assert_eq!(answer.fates[0].1, "closed", "{answer:?}");
            let status = timeout(Duration::from_secs(30), running.proxy.ended())
                .await
                .unwrap()
                .unwrap();
            assert!(status.success(), "{status}");
        }
    });
}

#[test]
fn no_request_is_lost_while_a_proxy_drains() {
    /// A little less than the drain time, since the clocks differ.
    const DRAIN: Duration = Duration::from_millis(2900);
    tell(async {
        let outrigger = binaries::outrigger().unwrap();
        let running = start(&outrigger, "lossless", 20, &["--drain-time-s", "3"]).await;
        let address = running.address;
        let told = Rc::new(Cell::new(None::<Instant>));
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let told = told.clone();
                // At the end of that time whoever is still there is cut off, as slow as this machine may be.
                let is_over = move || told.get().is_some_and(|at| at.elapsed() > DRAIN);
                spawn_local(async move {
                    let mut answered = 0;
                    while tokio::net::TcpStream::connect(address).await.is_ok() && answered < 200 {
                        let steps: Vec<_> = (0..5).map(|_| get("/")).collect();
                        let answer = client::play(address, Protocol::Http1, &steps).await;
                        for (number, message) in answer.messages.iter().enumerate() {
                            if message.status == 0 {
                                // The listen socket may close on a connection that nobody had accepted yet. But an
                                // accepted connection says when it closes.
                                assert!(number == 0 || is_over(), "{answer:?}");
                                break;
                            }
                            assert_eq!(message.status, 200, "{answer:?}");
                            answered += 1;
                            if message.field("connection").is_some() {
                                break;
                            }
                        }
                    }
                    answered
                })
            })
            .collect();
        sleep(Duration::from_millis(300)).await;
        told.set(Some(Instant::now()));
        running.proxy.signal("TERM").unwrap();
        for client in clients {
            assert!(client.await.unwrap() > 0);
        }
    });
}
