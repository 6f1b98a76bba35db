//! HTTP/1 through the whole data path: what is forwarded can be read in one way only, whatever came in.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod driver;

use driver::{Input, drive};
use outrigger::server::Random;

const REQUESTS: &[&str] = &[
    "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
    "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nx-t: 1\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chun\rked\r\n\r\n0\r\n\r\n",
    "GET /local HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
    "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nGET /evil HTTP/1.1\r\nhost: b\r\n\r\n",
    "CONNECT b:80 HTTP/1.1\r\nhost: b:80\r\n\r\nGET /evil HTTP/1.1\r\nhost: b\r\n\r\n",
    "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
    "GET http://b/x HTTP/1.1\r\nhost: a\r\nx: one\r\n two\r\nexpect: 100-continue\r\n\r\n",
    "HEAD / HTTP/1.1\r\nhost: a\r\nconnection: x, close\r\nx: 1\r\nte: trailers\r\n\r\n",
    "GET / HTTP/1.1\nhost: a\nx: a\rb\n\n",
];

const RESPONSES: &[&str] = &[
    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-r: 1\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nraw",
    "HTTP/1.0 200 OK\r\n\r\nuntil the end",
    "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
    "garbage\r\n\r\n",
    "",
];

const TOKENS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    " ",
    "\t",
    "\0",
    ":",
    ",",
    "chunked",
    "content-length: 3\r\n",
    "0\r\n\r\n",
    "5\r\n",
    "transfer-encoding: ",
    "\u{b}",
    "\r\n ",
    "HTTP/1.1",
    "host: b\r\n",
    "connection: close\r\n",
    "+",
    "ffffffffffffffff\r\n",
    "upgrade: websocket\r\n",
];

/// One to three messages, with some bytes changed.
fn message(random: &Random, from: &[&str]) -> Vec<u8> {
    let pick = |count: usize| usize::try_from(random.next() % count as u64).unwrap();
    let mut bytes = Vec::new();
    for _ in 0..=pick(3) {
        bytes.extend_from_slice(from[pick(from.len())].as_bytes());
    }
    for _ in 0..pick(4) {
        if bytes.is_empty() {
            break;
        }
        let at = pick(bytes.len());
        match pick(4) {
            0 => bytes[at] = u8::try_from(random.next() & 0xff).unwrap(),
            1 => drop(bytes.drain(at..(at + 1 + pick(6)).min(bytes.len()))),
            _ => {
                let token = TOKENS[pick(TOKENS.len())].bytes();
                drop(bytes.splice(at..at, token));
            }
        }
    }
    bytes
}

#[test]
fn what_is_forwarded_can_be_read_in_one_way_only() {
    #[allow(
        clippy::disallowed_methods,
        reason = "a test has no command line of its own"
    )]
    let rounds: u64 = std::env::var("ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1500);
    #[allow(clippy::disallowed_methods, reason = "as above")]
    let seed: u64 = std::env::var("SEED")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    let random = Random::new(seed);
    let mut forwarded = 0;
    for round in 0..rounds {
        let request = message(&random, REQUESTS);
        let response = message(&random, RESPONSES);
        let input = Input {
            options: u8::try_from(random.next() & 0xff).unwrap(),
            step: [1, 7, 64, 4096][usize::try_from(random.next() % 4).unwrap()],
            request: &request,
            response: &response,
        };
        let run = std::panic::catch_unwind(|| drive(&input));
        let Ok(outcome) = run else {
            panic!(
                "round {round}: options {:#x}, step {}\n{:?}\n{:?}",
                input.options,
                input.step,
                String::from_utf8_lossy(&request),
                String::from_utf8_lossy(&response)
            );
        };
        forwarded += outcome.requests;
    }
    assert!(forwarded > 0, "nothing was forwarded at all");
}

#[test]
fn a_plain_request_passes_and_how_it_comes_in_changes_nothing() {
    let answers: Vec<_> = [1, 3, 1000]
        .into_iter()
        .map(|step| {
            let outcome = drive(&Input {
                options: 0,
                step,
                request: REQUESTS[1].as_bytes(),
                response: RESPONSES[0].as_bytes(),
            });
            (outcome.requests, outcome.answer.ends_with(b"\r\n\r\nok"))
        })
        .collect();
    assert_eq!(answers, [(1, true); 3]);
}

#[test]
fn a_request_behind_an_upgrade_that_is_refused_is_never_forwarded() {
    for (options, request) in [(4, REQUESTS[6]), (4, REQUESTS[7])] {
        let outcome = drive(&Input {
            options,
            step: 4096,
            request: request.as_bytes(),
            response: b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno",
        });
        assert_eq!(outcome.requests, 1);
        assert!(outcome.answer.starts_with(b"HTTP/1.1 400"));
    }
}

#[test]
fn the_bytes_of_a_fuzzer_are_options_step_request_and_response() {
    let bytes = [&[4, 0, 0, 3][..], b"reqresponse"].concat();
    let input = Input::from_bytes(&bytes).unwrap();
    assert_eq!((input.options, input.step), (4, 1));
    assert_eq!(
        (input.request, input.response),
        (&b"req"[..], &b"response"[..])
    );
    assert!(Input::from_bytes(b"abc").is_none());
}
