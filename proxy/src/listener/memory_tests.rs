//! What a connection at rest costs: the allocator says what its allocations took, rounded up as it does.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use tikv_jemalloc_ctl::thread::{allocatedp, deallocatedp};
use tokio::task::{LocalSet, yield_now};

use super::handler::Accepted;
use super::tests::{Harness, harness};
use crate::net::Address;

const CHAIN: &str = r#"filter_chains: [{filters: [{name: h, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: h, route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: ok}}}]}]}, http_filters: [{name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}]"#;

/// Connections that are there before those that count, so that what a worker has once is there too.
const BEFORE: usize = 70;
const COUNTED: usize = 100;

/// Bytes that this thread has from the allocator.
fn held() -> u64 {
    let (taken, given) = (allocatedp::read().unwrap(), deallocatedp::read().unwrap());
    taken.get() - given.get()
}

/// A client that has got the answers to `requests`, one after the other; each answer ends as `end` says.
async fn served(harness: &Harness, requests: &[&[u8]], end: &[u8]) -> UnixStream {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let accepted = Accepted::unix(theirs, Address::Pipe("@l".into()));
    harness.handler.take_connection(1, accepted);
    for request in requests {
        ours.write_all(request).unwrap();
        let mut answer = Vec::with_capacity(4096);
        let mut piece = [0; 4096];
        while !answer.ends_with(end) {
            match ours.read(&mut piece) {
                Ok(0) => panic!("closed after {answer:?}"),
                Ok(count) => answer.extend_from_slice(&piece[..count]),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    yield_now().await;
                }
            }
        }
    }
    ours
}

/// Bytes of each of many connections that rest after these requests.
fn bytes_of_each(requests: &[&[u8]], end: &[u8]) -> u64 {
    // A runtime that looks at its sockets after each turn of a task.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(1)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let harness = harness(CHAIN);
        let mut clients = Vec::with_capacity(BEFORE + COUNTED);
        for _ in 0..BEFORE {
            clients.push(served(&harness, requests, end).await);
        }
        let before = held();
        for _ in 0..COUNTED {
            clients.push(served(&harness, requests, end).await);
        }
        (held() - before) / COUNTED as u64
    })
}

#[test]
fn a_connection_of_http1_at_rest_takes_two_kibibytes() {
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let each = bytes_of_each(&[request, request], b"ok");
    assert!((1024..=2048).contains(&each), "{each}");
}

#[test]
fn a_connection_of_http2_at_rest_takes_four_kibibytes_with_its_tables() {
    let head = b"\0\0\x0e\x01\x05\0\0\0\x01\x82\x86\x84\x41\x04idle\x7a\x03abc";
    let mut first =
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0".to_vec();
    first.extend_from_slice(head);
    let mut second = head.to_vec();
    second[8] = 3;
    let each = bytes_of_each(&[&first, &second], b"ok");
    assert!((1024..=4096).contains(&each), "{each}");
}
