//! Connections to servers of ours, over pipes.

use super::*;
use crate::codec::h2::{ServerConnection, ServerHttp2Stream};
use crate::codec::{RequestEvent, ServerStream, StreamReset};
use crate::http::{Protocol, ResponseHead};
use crate::http2::{Http2ProtocolOptions, Http2Settings, KeepaliveSettings};
use std::future::Future;
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::task::LocalSet;

fn request(method: &str) -> RequestHead {
    let mut head = RequestHead::new(Protocol::Http11, method.as_bytes());
    head.set_path(b"/x?y");
    head.set_authority(b"a");
    head.set_scheme(b"http");
    head.fields.append("x-a", "1");
    head
}

fn pipe() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(1 << 20)
}

/// A server that hands each of its streams to `serve`.
fn serve<F: Future<Output = ()> + 'static>(
    io: DuplexStream,
    settings: Http2Settings,
    serve: impl Fn(RequestHead, EndStream, ServerHttp2Stream) -> F + 'static,
) {
    tokio::task::spawn_local(async move {
        let mut server = ServerConnection::new(Io::from(io), &settings, 1 << 16, None);
        while let Some((head, stream)) = poll_fn(|cx| server.poll_accept(cx)).await {
            let (head, end) = head.unwrap();
            if head.path() == Some(b"/goaway") {
                server.graceful_shutdown(Duration::ZERO);
            }
            tokio::task::spawn_local(serve(head, end, stream));
        }
    });
}

async fn connect(io: DuplexStream) -> ClientConnection {
    let settings = ClientHttp2Settings::default();
    ClientConnection::start(Io::from(io), Rc::new(settings), None, 100)
}

async fn event(stream: &mut ClientStream) -> ResponseEvent {
    poll_fn(|cx| stream.poll_event(cx)).await
}

#[tokio::test]
async fn messages_pass_both_ways_with_1xx_and_trailers() {
    let body = async {
        let (near, far) = pipe();
        serve(
            far,
            Http2Settings::default(),
            |head, end, mut stream| async move {
                assert_eq!(head.path(), Some(&b"/x?y"[..]));
                assert_eq!(head.authority(), Some(&b"a"[..]));
                assert_eq!(head.scheme(), Some(&b"http"[..]));
                assert_eq!(head.fields.get("x-a"), Some(&b"1"[..]));
                assert_eq!(end, EndStream::No);
                stream.send_informational(&ResponseHead::new(103));
                let mut body = Vec::new();
                let trailers = loop {
                    match poll_fn(|cx| stream.poll_event(cx)).await {
                        RequestEvent::Data(data, EndStream::No) => body.extend_from_slice(&data),
                        RequestEvent::Trailers(trailers) => break trailers,
                        other => panic!("{other:?}"),
                    }
                };
                stream.send_head(&ResponseHead::new(200), EndStream::No);
                stream.send_data(Bytes::from(body), EndStream::No);
                stream.send_trailers(&trailers);
                poll_fn(|cx| stream.poll_flush(cx)).await;
            },
        );
        let client = connect(near).await;
        let mut stream = client.new_stream();
        assert_eq!(client.active_streams(), 1);
        stream.send_head(&request("POST"), EndStream::No);
        let sent = vec![b'x'; 300_000];
        stream.send_data(Bytes::from(sent.clone()), EndStream::No);
        let mut trailers = Fields::new();
        trailers.append("t", "v");
        stream.send_trailers(&trailers);
        poll_fn(|cx| stream.poll_flush(cx)).await;
        let first = event(&mut stream).await;
        assert!(matches!(first, ResponseEvent::Informational(head) if head.status == 103));
        let second = event(&mut stream).await;
        assert!(matches!(second, ResponseEvent::Head(head, EndStream::No) if head.status == 200));
        let mut got = Vec::new();
        let trailers = loop {
            match event(&mut stream).await {
                ResponseEvent::Data(data, EndStream::No) => got.extend_from_slice(&data),
                ResponseEvent::Trailers(trailers) => break trailers,
                other => panic!("{other:?}"),
            }
        };
        assert!(got == sent);
        assert_eq!(trailers.get("t"), Some(&b"v"[..]));
        drop(stream);
        assert_eq!(client.active_streams(), 0);
        assert_eq!(client.availability(), Availability::Ready);
    };
    LocalSet::new().run_until(body).await;
}

#[tokio::test]
async fn a_reset_reaches_the_other_side() {
    let body = async {
        let (near, far) = pipe();
        let (seen, mut seen_there) = tokio::sync::mpsc::channel(1);
        serve(far, Http2Settings::default(), move |head, _, mut stream| {
            let seen = seen.clone();
            async move {
                if head.method_bytes() == b"GET" {
                    stream.reset(StreamReset::LocalReset);
                } else {
                    let event = poll_fn(|cx| stream.poll_event(cx)).await;
                    seen.send(format!("{event:?}")).await.unwrap();
                }
            }
        });
        let client = connect(near).await;
        let mut stream = client.new_stream();
        stream.send_head(&request("GET"), EndStream::Yes);
        let got = event(&mut stream).await;
        assert!(matches!(
            got,
            ResponseEvent::Reset(ResetReason::RemoteReset)
        ));
        let mut stream = client.new_stream();
        stream.send_head(&request("POST"), EndStream::No);
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        stream.reset();
        drop(stream);
        assert_eq!(seen_there.recv().await.unwrap(), "Reset(RemoteReset)");
        assert_eq!(client.availability(), Availability::Ready);
    };
    LocalSet::new().run_until(body).await;
}

#[tokio::test]
async fn a_goaway_lets_streams_end_and_takes_no_new_ones() {
    let body = async {
        let (near, far) = pipe();
        serve(
            far,
            Http2Settings::default(),
            |_, _, mut stream| async move {
                stream.send_head(&ResponseHead::new(200), EndStream::Yes);
            },
        );
        let client = connect(near).await;
        let mut stream = client.new_stream();
        let mut head = request("GET");
        head.set_path(b"/goaway");
        stream.send_head(&head, EndStream::Yes);
        let got = event(&mut stream).await;
        assert!(matches!(got, ResponseEvent::Head(head, EndStream::Yes) if head.status == 200));
        poll_fn(|cx| client.poll_gone(cx)).await;
        assert_eq!(client.availability(), Availability::Gone);
        let refused = poll_fn(|cx| client.poll_ready_for_stream(cx)).await;
        assert!(refused.is_err());
    };
    LocalSet::new().run_until(body).await;
}

#[tokio::test]
async fn the_limit_of_the_peer_is_seen_and_a_place_is_waited_for() {
    let body = async {
        let (near, far) = pipe();
        let settings = Http2Settings {
            options: Http2ProtocolOptions {
                max_concurrent_streams: 1,
                ..Http2ProtocolOptions::default()
            },
            ..Http2Settings::default()
        };
        serve(far, settings, |_, _, mut stream| async move {
            stream.send_head(&ResponseHead::new(200), EndStream::Yes);
        });
        let client = connect(near).await;
        let mut stream = client.new_stream();
        stream.send_head(&request("GET"), EndStream::Yes);
        event(&mut stream).await;
        assert_eq!(client.max_concurrent_streams(), 1);
        assert_eq!(client.availability(), Availability::Full);
        let waited = poll_fn(|cx| client.poll_ready_for_stream(cx));
        let (ready, ()) = tokio::join!(waited, async {
            tokio::task::yield_now().await;
            drop(stream);
        });
        assert!(ready.is_ok());
    };
    LocalSet::new().run_until(body).await;
}

#[tokio::test]
async fn a_connection_that_ends_breaks_its_streams() {
    let body = async {
        let (near, far) = pipe();
        let client = connect(near).await;
        let mut stream = client.new_stream();
        stream.send_head(&request("GET"), EndStream::Yes);
        tokio::task::yield_now().await;
        drop(far);
        let got = event(&mut stream).await;
        assert!(
            matches!(
                got,
                ResponseEvent::Reset(ResetReason::ConnectionTermination)
            ),
            "{got:?}"
        );
        poll_fn(|cx| client.poll_gone(cx)).await;
    };
    LocalSet::new().run_until(body).await;
}

#[tokio::test(start_paused = true)]
async fn a_ping_without_answer_ends_the_connection() {
    let body = async {
        // The far end holds the pipe open and says nothing.
        let (near, _far) = pipe();
        let settings = ClientHttp2Settings {
            options: Http2ProtocolOptions {
                connection_keepalive: Some(KeepaliveSettings {
                    interval: Some(Duration::from_secs(10)),
                    timeout: Duration::from_secs(5),
                    interval_jitter: 0.0,
                    connection_idle_interval: None,
                }),
                ..Http2ProtocolOptions::default()
            },
            ..ClientHttp2Settings::default()
        };
        let start = Instant::now();
        let client = ClientConnection::start(Io::from(near), Rc::new(settings), None, 100);
        let mut stream = client.new_stream();
        stream.send_head(&request("GET"), EndStream::Yes);
        let got = event(&mut stream).await;
        assert!(matches!(got, ResponseEvent::Reset(_)));
        assert_eq!(start.elapsed().as_secs(), 15);
        poll_fn(|cx| client.poll_gone(cx)).await;
    };
    LocalSet::new().run_until(body).await;
}

#[tokio::test]
async fn a_slow_reader_stops_the_sender() {
    let body = async {
        let (near, far) = pipe();
        let settings = Http2Settings {
            options: Http2ProtocolOptions {
                initial_stream_window_size: 65_535,
                ..Http2ProtocolOptions::default()
            },
            ..Http2Settings::default()
        };
        serve(far, settings, |_, _, mut stream| async move {
            let mut read = 0;
            while read < 3_000_000 {
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
                if let RequestEvent::Data(data, _) = poll_fn(|cx| stream.poll_event(cx)).await {
                    read += data.len();
                }
            }
            stream.send_head(&ResponseHead::new(200), EndStream::Yes);
        });
        let client = connect(near).await;
        let mut stream = client.new_stream();
        stream.send_head(&request("POST"), EndStream::No);
        stream.send_data(Bytes::from(vec![0; 3_000_000]), EndStream::Yes);
        poll_fn(|cx| {
            assert!(stream.poll_ready(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| stream.poll_flush(cx)).await;
        let got = event(&mut stream).await;
        assert!(matches!(got, ResponseEvent::Head(head, _) if head.status == 200));
    };
    LocalSet::new().run_until(body).await;
}
