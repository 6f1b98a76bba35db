//! Requests of an HTTP/1 client: the fast path against the other one, and a whole connection, which has to end.
#![no_main]

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use outrigger::http::{EndStream, ResponseHead};
use outrigger::codec::h1::{
    Http1Settings, Next, ServerConnection, parse_request, parse_request_leniently,
};
use outrigger::codec::{RequestEvent, ServerStream};
use outrigger::net::Io;
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime starts")
});

fuzz_target!(|bytes: &[u8]| {
    let settings = Http1Settings::default();
    if let Ok(Some((request, length))) = parse_request(bytes, &settings) {
        assert!(length <= bytes.len());
        let Ok(Some((other, other_length))) = parse_request_leniently(bytes, &settings) else {
            panic!("only the fast path takes this");
        };
        assert_eq!(length, other_length);
        assert_eq!(format!("{request:?}"), format!("{other:?}"));
    }
    RUNTIME.block_on(serve(bytes, settings));
});

async fn serve(bytes: &[u8], settings: Http1Settings) {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let Ok(()) = client.write_all(bytes.get(..1 << 19).unwrap_or(bytes)).await else {
        return;
    };
    let _ = client.shutdown().await;
    let mut connection = ServerConnection::new(Io::from(server), Rc::new(settings), 1 << 20);
    // Every request takes some bytes.
    for _ in 0..=bytes.len() {
        let Ok(Some((_, end))) = poll_fn(|cx| connection.poll_head(cx)).await else {
            return;
        };
        let mut ended = end == EndStream::Yes;
        while !ended {
            ended = match poll_fn(|cx| connection.poll_event(cx)).await {
                RequestEvent::Data(_, end) => end == EndStream::Yes,
                RequestEvent::Trailers(_) => true,
                // HTTP/1 has none.
                RequestEvent::Metadata(_) => unreachable!("METADATA over HTTP/1"),
                RequestEvent::Reset(_) => return,
            };
        }
        connection.send_head(&ResponseHead::new(200), EndStream::Yes);
        poll_fn(|cx| connection.poll_ready(cx)).await;
        if connection.finish_stream() == Next::Close {
            return;
        }
    }
    panic!("more requests than bytes");
}
