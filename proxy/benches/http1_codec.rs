//! What HTTP/1 costs per request without the kernel: `cargo bench --bench http1_codec`.
//!
//! Wanted: parsing and writing a request and its response in at most 1.5 µs together, without an allocation.

use std::future::poll_fn;
use std::hint::black_box;
use std::rc::Rc;

use outrigger::codec::ServerStream;
use outrigger::codec::h1::{
    ClientHttp1Settings, Http1Settings, ResponseTo, ServerConnection, parse_request, parse_response,
};
use outrigger::net::Io;
use outrigger::upstream::pool::ResponseEvent;
use outrigger::upstream::pool::http1::ClientConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const REQUEST: &[u8] = b"GET /some/path?with=query HTTP/1.1\r\n\
    Host: service.example.com:8080\r\nUser-Agent: wrk/4.2.0 (linux; x86_64)\r\nAccept: */*\r\n\
    Accept-Encoding: gzip, deflate\r\nx-request-id: 8f14e45f-ceea-467f-9d1b-1c8f3b2a9d11\r\n\
    x-forwarded-for: 10.1.2.3\r\nauthorization: Bearer abcdefghijklmnopqrstuvwxyz0123456789\r\n\
    x-custom-a: 1\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nserver: backend\r\ncontent-type: text/plain\r\n\
    date: Sat, 21 Nov 2026 02:39:14 GMT\r\ncache-control: no-cache\r\ncontent-length: 1024\r\n\
    x-custom: abc\r\n\r\n";
const ROUNDS: u32 = 200_000;

#[allow(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a benchmark prints its result, and stops where it cannot run"
)]
fn main() {
    let request_settings = Http1Settings::default();
    let per_request = time(|| {
        black_box(parse_request(black_box(REQUEST), &request_settings).is_ok());
    });
    println!("parse a request:  {per_request:7.0} ns");
    let response_settings = ClientHttp1Settings::default();
    let per_response = time(|| {
        let to = ResponseTo::default();
        black_box(parse_response(black_box(RESPONSE), to, &response_settings).is_ok());
    });
    println!("parse a response: {per_response:7.0} ns");
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without drivers needs nothing from the system");
    let through = runtime.block_on(through_both_codecs());
    println!("a request and 1 KiB through both codecs and in-memory pipes: {through:7.0} ns");
}

/// Nanoseconds of one call.
fn time(mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..ROUNDS {
        call();
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS)
}

/// Nanoseconds that the codecs take for one request, the far ends of the pipes not counted.
#[allow(
    clippy::expect_used,
    reason = "both ends are ours: a failure is a bug to be seen"
)]
async fn through_both_codecs() -> f64 {
    let (near, mut downstream) = tokio::io::duplex(1 << 16);
    let mut server = ServerConnection::new(Io::from(near), Rc::default(), 1 << 20);
    let (near, mut upstream) = tokio::io::duplex(1 << 16);
    let mut client = ClientConnection::new(Io::from(near), Rc::default(), 1 << 20);
    let mut response = RESPONSE.to_vec();
    response.resize(RESPONSE.len() + 1024, b'x');
    let mut received = vec![0; 1 << 16];
    let mut spent = std::time::Duration::ZERO;
    for _ in 0..ROUNDS {
        let written = downstream.write_all(REQUEST).await;
        written.expect("the pipe has room");
        let start = Instant::now();
        let head = poll_fn(|cx| server.poll_head(cx)).await;
        let (head, end) = head.expect("it is valid").expect("it is there");
        client.send_head(&head, end);
        poll_fn(|cx| client.poll_flush(cx)).await;
        spent += start.elapsed();
        let came = upstream.read(&mut received).await;
        black_box(came.expect("it is there"));
        let written = upstream.write_all(&response).await;
        written.expect("the pipe has room");
        let start = Instant::now();
        loop {
            match poll_fn(|cx| client.poll_event(cx)).await {
                ResponseEvent::Head(head, end) => server.send_head(&head, end),
                ResponseEvent::Data(data, end) => {
                    server.send_data(data, end);
                    if end.is_end() {
                        break;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        poll_fn(|cx| server.poll_flush(cx)).await;
        server.finish_stream();
        client.give_back_buffers();
        server.give_back_buffers();
        spent += start.elapsed();
        let came = downstream.read(&mut received).await;
        black_box(came.expect("it is there"));
    }
    spent.as_secs_f64() * 1e9 / f64::from(ROUNDS)
}
