//! Connections of HTTP/2: shared, full, drained.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use tokio::io::DuplexStream;

use super::super::*;
use super::{Harness, pending, ready, send_get};
use crate::upstream::cluster::ClusterSettings;

fn http2(max_concurrent_streams: u32) -> ClusterSettings {
    let mut settings = ClusterSettings::default();
    settings.http.protocol = ProtocolChoice::Http2;
    settings.http.http2.max_concurrent_streams = max_concurrent_streams;
    settings
}

/// Serves HTTP/2 on the peer's end: every request gets 200 without a body. GOAWAY follows the request number `last`.
fn serve_http2(peer: DuplexStream, last: usize) {
    tokio::task::spawn_local(async move {
        let mut connection = h2::server::handshake(peer).await.unwrap();
        let mut served = 0;
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond
                .send_response(http::Response::new(()), true)
                .unwrap();
            served += 1;
            if served == last {
                connection.graceful_shutdown();
            }
        }
    });
}

async fn status(stream: &mut ClientStream) -> Option<u16> {
    send_get(stream);
    next_status(stream).await
}

async fn next_status(stream: &mut ClientStream) -> Option<u16> {
    poll_fn(|cx| stream.poll_flush(cx)).await;
    match poll_fn(|cx| stream.poll_event(cx)).await {
        ResponseEvent::Head(head, _) => Some(head.status),
        _ => None,
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn http2_streams_share_a_connection() {
    let pool = Harness::new(http2(100));
    let (first, second) = (pending(pool.acquire()), pending(pool.acquire()));
    let (mut first, mut second) = (first.await.unwrap(), second.await.unwrap());
    serve_http2(
        pool.connector.peers.borrow_mut().pop_front().unwrap(),
        usize::MAX,
    );
    assert_eq!(status(&mut first).await, Some(200));
    assert_eq!(status(&mut second).await, Some(200));
    assert_eq!(status(&mut ready(pool.acquire())).await, Some(200));
    assert_eq!(pool.connections(), 1);
    assert_eq!(pool.stats.upstream_cx_http2_total().value(), 1);
    assert_eq!(pool.stats.upstream_rq_active().value(), 2);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_full_http2_connection_gets_a_second_beside_it() {
    let pool = Harness::new(http2(1));
    let first = pending(pool.acquire()).await.unwrap();
    let second = pending(pool.acquire()).await.unwrap();
    assert_eq!(pool.connections(), 2);
    drop(first);
    ready(pool.acquire());
    drop(second);
    assert_eq!(pool.connections(), 2);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_waiting_request_gets_the_place_of_an_http2_stream_that_ended() {
    let mut settings = http2(1);
    settings.circuit_breakers.default.max_connections = 1;
    let pool = Harness::new(settings);
    let first = pending(pool.acquire()).await.unwrap();
    let second = pending(pool.acquire());
    drop(first);
    assert!(second.await.is_ok());
    assert_eq!(pool.connections(), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn after_goaway_new_streams_go_elsewhere_and_the_connection_closes() {
    let pool = Harness::new(http2(100));
    let mut first = pending(pool.acquire()).await.unwrap();
    serve_http2(pool.connector.peers.borrow_mut().pop_front().unwrap(), 1);
    assert_eq!(status(&mut first).await, Some(200));
    drop(first);
    tokio::time::sleep(Duration::from_millis(1)).await;
    pending(pool.acquire()).await.unwrap();
    assert_eq!(pool.connections(), 2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(pool.stats.upstream_cx_destroy_remote().value(), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn no_request_is_lost_to_servers_that_say_goaway_again_and_again() {
    let pool = Harness::new(http2(100));
    for _ in 0..30 {
        let mut streams = Vec::new();
        for _ in 0..4 {
            streams.push(match pool.acquire() {
                Acquire::Ready(stream) => stream,
                acquire => pending(acquire).await.unwrap(),
            });
            // A server that ends after two requests, wherever the connection is new.
            while let Some(peer) = pool.connector.peers.borrow_mut().pop_front() {
                serve_http2(peer, 2);
            }
        }
        for stream in &mut streams {
            send_get(stream);
        }
        for stream in &mut streams {
            assert_eq!(next_status(stream).await, Some(200));
        }
    }
    assert!(pool.connections() > 20, "{}", pool.connections());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn before_its_settings_a_peer_gets_a_hundred_streams_and_then_what_it_allows() {
    let pool = Harness::new(http2(1000));
    let mut waiting: Vec<_> = (0..150).map(|_| pending(pool.acquire())).collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut streams = taken(&mut waiting).await;
    assert_eq!((streams.len(), pool.connections()), (100, 1));
    let peer = pool.connector.peers.borrow_mut().pop_front().unwrap();
    tokio::task::spawn_local(async move {
        let mut settings = h2::server::Builder::new();
        let handshake = settings.max_concurrent_streams(120).handshake(peer);
        let mut connection: h2::server::Connection<_, bytes::Bytes> = handshake.await.unwrap();
        while connection.accept().await.is_some() {}
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    streams.extend(taken(&mut waiting).await);
    // The rest has a second connection, which is known to allow as many.
    assert_eq!((streams.len(), pool.connections()), (150, 2));
}

/// Those that have got what they waited for.
async fn taken(waiting: &mut Vec<PendingStream>) -> Vec<ClientStream> {
    let mut streams = Vec::new();
    poll_fn(|cx| {
        waiting.retain_mut(|pending| match Pin::new(pending).poll(cx) {
            Poll::Ready(stream) => {
                streams.push(stream.unwrap());
                false
            }
            Poll::Pending => true,
        });
        Poll::Ready(())
    })
    .await;
    streams
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_idle_http2_connection_is_closed_after_its_timeout() {
    let mut settings = http2(100);
    settings.http.common.idle_timeout = Some(Duration::from_secs(10));
    let pool = Harness::new(settings);
    let mut stream = pending(pool.acquire()).await.unwrap();
    serve_http2(
        pool.connector.peers.borrow_mut().pop_front().unwrap(),
        usize::MAX,
    );
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(status(&mut stream).await, Some(200));
    drop(stream);
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(pool.stats.upstream_cx_active().value(), 1);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(pool.stats.upstream_cx_active().value(), 0);
    assert_eq!(pool.stats.upstream_cx_idle_timeout().value(), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_http2_connection_that_serves_enough_is_drained() {
    let mut settings = http2(100);
    settings.http.common.max_requests_per_connection = Some(1);
    let pool = Harness::new(settings);
    let mut stream = pending(pool.acquire()).await.unwrap();
    serve_http2(
        pool.connector.peers.borrow_mut().pop_front().unwrap(),
        usize::MAX,
    );
    assert_eq!(pool.stats.upstream_cx_max_requests().value(), 1);
    assert_eq!(status(&mut stream).await, Some(200));
    drop(stream);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(pool.stats.upstream_cx_active().value(), 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_clients_protocol_chooses_the_pool_where_it_is_asked_for() {
    let mut settings = http2(100);
    settings.http.protocol = ProtocolChoice::UseDownstream;
    let pool = Harness::new(settings);
    let with = |protocol| StreamRequest {
        downstream_protocol: Some(protocol),
        ..StreamRequest::default()
    };
    let first = pool
        .cluster
        .new_http_stream(&pool.host, &with(Protocol::Http2));
    assert!(matches!(pending(first).await, Ok(ClientStream::Http2(_))));
    let second = pool
        .cluster
        .new_http_stream(&pool.host, &with(Protocol::Http11));
    assert!(matches!(pending(second).await, Ok(ClientStream::Http1(_))));
}
