use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::http::{EndStream, RequestHead};
use crate::http_filters::LocalBoxFuture;
use crate::net::Address;
use crate::server::{LocalInfo, ServerContext};

use crate::upstream::circuit_breaker::Thresholds;
use crate::upstream::cluster::{
    ClusterInfo, ClusterSettings, ClusterTrafficStats, CommonHttpOptions,
};
use crate::upstream::host::{Host, HostStat};
use crate::upstream::priority_set::{HostGroup, PrioritySet};
use crate::upstream::shared_cluster::Cluster;
use crate::upstream::worker_cluster::WorkerCluster;

/// Connections whose other ends the test holds.
#[derive(Debug, Default)]
struct InMemory {
    /// What comes of the next attempts; then all succeed.
    outcomes: RefCell<VecDeque<Outcome>>,
    peers: RefCell<VecDeque<DuplexStream>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Refused,
    NoAnswer,
}

impl Connector for InMemory {
    fn connect(
        &self,
        _: &Host,
        _: &SocketSettings,
    ) -> LocalBoxFuture<'static, Result<Connected, ConnectError>> {
        match self.outcomes.borrow_mut().pop_front() {
            Some(Outcome::Refused) => {
                let error =
                    ConnectError::Failed("delayed connect error: Connection refused".into());
                Box::pin(async { Err(error) })
            }
            Some(Outcome::NoAnswer) => Box::pin(std::future::pending()),
            None => {
                let (near, far) = tokio::io::duplex(64 * 1024);
                self.peers.borrow_mut().push_back(far);
                let connected = Connected {
                    io: near.into(),
                    local_address: None,
                    remote_address: None,
                    tls: None,
                };
                Box::pin(async { Ok(connected) })
            }
        }
    }
}

struct Harness {
    cluster: Rc<WorkerCluster>,
    host: Rc<WorkerHost>,
    connector: Rc<InMemory>,
    stats: ClusterTrafficStats,
}

impl Harness {
    fn new(settings: ClusterSettings) -> Self {
        let server = ServerContext::new(0, LocalInfo::default());
        let info = ClusterInfo::new(&server, "a", Arc::new(settings));
        let stats = info.stats.clone();
        let address = Address::Ip(SocketAddr::from(([127, 0, 0, 1], 1)));
        let group = HostGroup {
            locality: Arc::default(),
            weight: 0,
            priority: 0,
            hosts: vec![Arc::new(Host::new(address, 0))],
        };
        let hosts = PrioritySet::new([group].into_iter(), 140, false);
        let connector = Rc::new(InMemory::default());
        let cluster = Rc::new(WorkerCluster::new(
            Arc::new(Cluster::new(info, hosts)),
            0,
            connector.clone(),
        ));
        Self {
            host: cluster.choose_host(&AnyHost).unwrap(),
            cluster,
            connector,
            stats,
        }
    }

    fn acquire(&self) -> Acquire {
        self.cluster
            .new_http_stream(&self.host, &StreamRequest::default())
    }

    /// A stream on a new connection, with the peer's end.
    async fn connect(&self) -> (ClientStream, DuplexStream) {
        let stream = pending(self.acquire()).await.unwrap();
        let peer = self.connector.peers.borrow_mut().pop_front().unwrap();
        (stream, peer)
    }

    fn connections(&self) -> u64 {
        self.stats.upstream_cx_total().value()
    }
}

struct AnyHost;
impl crate::upstream::LoadBalancerContext for AnyHost {
    fn random(&self) -> u64 {
        0
    }
}

fn settings(http: CommonHttpOptions) -> ClusterSettings {
    let mut settings = ClusterSettings::default();
    settings.http.common = http;
    settings
}

fn limits(default: Thresholds) -> ClusterSettings {
    let mut settings = ClusterSettings::default();
    settings.circuit_breakers.default = default;
    settings
}

#[track_caller]
fn pending(acquire: Acquire) -> PendingStream {
    match acquire {
        Acquire::Pending(pending) => pending,
        other => panic!("not pending: {other:?}"),
    }
}

#[track_caller]
fn ready(acquire: Acquire) -> ClientStream {
    match acquire {
        Acquire::Ready(stream) => stream,
        other => panic!("not ready: {other:?}"),
    }
}

fn send_get(stream: &mut ClientStream) {
    let mut head = RequestHead::new(Protocol::Http11, b"GET");
    head.set_path(b"/");
    head.set_authority(b"a");
    stream.send_head(&head, EndStream::Yes);
}

/// Reads one request head on the peer's side and answers it.
async fn answer(peer: &mut DuplexStream, response: &str) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        assert_ne!(
            peer.read_buf(&mut request).await.unwrap(),
            0,
            "closed early"
        );
    }
    peer.write_all(response.as_bytes()).await.unwrap();
}

/// A whole exchange on the stream.
async fn exchange(stream: &mut ClientStream, peer: &mut DuplexStream, response: &str) {
    send_get(stream);
    poll_fn(|cx| stream.poll_flush(cx)).await;
    answer(peer, response).await;
    loop {
        match poll_fn(|cx| stream.poll_event(cx)).await {
            ResponseEvent::Head(_, EndStream::Yes)
            | ResponseEvent::Data(_, EndStream::Yes)
            | ResponseEvent::Reset(_) => return,
            _ => {}
        }
    }
}

/// Lets tasks that are ready run.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_connection_is_used_again_when_its_stream_has_ended() {
    let pool = Harness::new(ClusterSettings::default());
    let (mut first, mut peer) = pool.connect().await;
    assert!(!first.connection_info().reused());
    exchange(&mut first, &mut peer, OK).await;
    let id = first.connection_info().id;
    drop(first);
    let mut second = ready(pool.acquire());
    assert_eq!(second.connection_info().id, id);
    assert!(second.connection_info().reused());
    exchange(&mut second, &mut peer, OK).await;
    assert_eq!(pool.connections(), 1);
    assert_eq!(pool.stats.upstream_rq_total().value(), 2);
    assert_eq!(pool.stats.upstream_rq_active().value(), 1);
    assert_eq!(pool.host.stats.get(HostStat::RqActive), 1);
    drop(second);
    assert_eq!(pool.stats.upstream_rq_active().value(), 0);
    assert_eq!(pool.stats.upstream_rq_pending_active().value(), 0);
    assert!(pool.stats.upstream_cx_rx_bytes_total().value() > 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_connection_used_last_is_used_first() {
    let pool = Harness::new(ClusterSettings::default());
    let (mut first, mut first_peer) = pool.connect().await;
    let (mut second, mut second_peer) = pool.connect().await;
    exchange(&mut first, &mut first_peer, OK).await;
    exchange(&mut second, &mut second_peer, OK).await;
    let (a, b) = (first.connection_info().id, second.connection_info().id);
    drop(first);
    drop(second);
    let (c, d) = (ready(pool.acquire()), ready(pool.acquire()));
    assert_eq!([c.connection_info().id, d.connection_info().id], [b, a]);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_connection_whose_stream_was_broken_off_is_closed() {
    let pool = Harness::new(ClusterSettings::default());
    let (mut stream, mut peer) = pool.connect().await;
    send_get(&mut stream);
    poll_fn(|cx| stream.poll_flush(cx)).await;
    stream.reset(&ResetReason::LocalReset);
    drop(stream);
    assert_eq!(pool.stats.upstream_cx_active().value(), 0);
    assert_eq!(
        pool.stats
            .upstream_cx_destroy_local_with_active_rq()
            .value(),
        1
    );
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).await.unwrap();
    pending(pool.acquire());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_stream_that_never_began_leaves_its_connection_to_others() {
    let pool = Harness::new(ClusterSettings::default());
    let (stream, _peer) = pool.connect().await;
    drop(stream);
    ready(pool.acquire());
    assert_eq!(pool.connections(), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_idle_connection_that_its_peer_closes_is_closed_and_not_used() {
    let pool = Harness::new(ClusterSettings::default());
    let (mut stream, mut peer) = pool.connect().await;
    exchange(&mut stream, &mut peer, OK).await;
    drop(stream);
    settle().await;
    assert_eq!(pool.stats.upstream_cx_active().value(), 1);
    drop(peer);
    settle().await;
    assert_eq!(pool.stats.upstream_cx_active().value(), 0);
    assert_eq!(pool.stats.upstream_cx_destroy_remote().value(), 1);
    assert_eq!(pool.stats.upstream_cx_destroy_with_active_rq().value(), 0);
    pending(pool.acquire());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_closed_connection_is_found_even_before_the_watcher_has_run() {
    let pool = Harness::new(ClusterSettings::default());
    let (mut stream, mut peer) = pool.connect().await;
    exchange(&mut stream, &mut peer, OK).await;
    drop(stream);
    drop(peer);
    pending(pool.acquire());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_idle_connection_is_closed_after_its_timeout() {
    let pool = Harness::new(settings(CommonHttpOptions {
        idle_timeout: Some(Duration::from_secs(10)),
        ..CommonHttpOptions::default()
    }));
    let (mut stream, mut peer) = pool.connect().await;
    exchange(&mut stream, &mut peer, OK).await;
    drop(stream);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let mut again = ready(pool.acquire());
    exchange(&mut again, &mut peer, OK).await;
    drop(again);
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(pool.stats.upstream_cx_active().value(), 1);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(pool.stats.upstream_cx_active().value(), 0);
    assert_eq!(pool.stats.upstream_cx_idle_timeout().value(), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_connection_of_full_age_is_closed_though_others_may_rest_longer() {
    let pool = Harness::new(settings(CommonHttpOptions {
        max_connection_duration: Some(Duration::from_secs(10)),
        ..CommonHttpOptions::default()
    }));
    let (mut stream, mut peer) = pool.connect().await;
    exchange(&mut stream, &mut peer, OK).await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(10_100)).await;
    assert_eq!(pool.stats.upstream_cx_active().value(), 0);
    assert_eq!(pool.stats.upstream_cx_max_duration_reached().value(), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_connection_serves_no_more_requests_than_it_may() {
    let pool = Harness::new(settings(CommonHttpOptions {
        max_requests_per_connection: Some(2),
        ..CommonHttpOptions::default()
    }));
    let (mut stream, mut peer) = pool.connect().await;
    exchange(&mut stream, &mut peer, OK).await;
    drop(stream);
    let mut second = ready(pool.acquire());
    exchange(&mut second, &mut peer, OK).await;
    drop(second);
    assert_eq!(pool.stats.upstream_cx_max_requests().value(), 1);
    pending(pool.acquire());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_response_that_closes_ends_the_connection() {
    let pool = Harness::new(ClusterSettings::default());
    let (mut stream, mut peer) = pool.connect().await;
    exchange(
        &mut stream,
        &mut peer,
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    drop(stream);
    assert_eq!(pool.stats.upstream_cx_destroy_local().value(), 1);
    assert_eq!(pool.stats.upstream_cx_destroy_with_active_rq().value(), 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_freed_connection_serves_the_request_that_waits_longest() {
    let pool = Harness::new(limits(Thresholds {
        max_connections: 1,
        ..Thresholds::default()
    }));
    let (mut stream, mut peer) = pool.connect().await;
    let mut first = pending(pool.acquire());
    let mut second = pending(pool.acquire());
    assert_eq!(pool.stats.upstream_cx_overflow().value(), 2);
    assert_eq!(pool.stats.upstream_rq_pending_active().value(), 2);
    exchange(&mut stream, &mut peer, OK).await;
    drop(stream);
    let mut polled = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut second).poll(&mut polled).is_pending());
    let mut stream = (&mut first).await.unwrap();
    exchange(&mut stream, &mut peer, OK).await;
    drop(stream);
    assert!(second.await.is_ok());
    assert_eq!(pool.connections(), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_full_queue_refuses_further_requests() {
    let pool = Harness::new(limits(Thresholds {
        max_connections: 1,
        max_pending_requests: 1,
        ..Thresholds::default()
    }));
    let (_stream, _peer) = pool.connect().await;
    let waiting = pending(pool.acquire());
    assert!(matches!(
        pool.acquire(),
        Acquire::Failed(PoolError::Overflow)
    ));
    assert_eq!(pool.stats.upstream_rq_pending_overflow().value(), 1);
    drop(waiting);
    assert_eq!(pool.stats.upstream_rq_cancelled().value(), 1);
    assert_eq!(pool.stats.upstream_rq_pending_active().value(), 0);
    pending(pool.acquire());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn too_many_requests_overflow_and_leave_the_connection_idle() {
    let pool = Harness::new(limits(Thresholds {
        max_requests: 1,
        ..Thresholds::default()
    }));
    let (mut stream, mut peer) = pool.connect().await;
    exchange(&mut stream, &mut peer, OK).await;
    drop(stream);
    let other = pool.cluster.try_acquire_request(RoutingPriority::Default);
    assert!(other.is_some());
    assert!(matches!(
        pool.acquire(),
        Acquire::Failed(PoolError::Overflow)
    ));
    drop(other);
    ready(pool.acquire());
    assert_eq!(pool.connections(), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_refused_connection_fails_all_who_wait() {
    let pool = Harness::new(ClusterSettings::default());
    pool.connector
        .outcomes
        .borrow_mut()
        .push_back(Outcome::Refused);
    let (first, second) = (pending(pool.acquire()), pending(pool.acquire()));
    assert_eq!(
        first.await.unwrap_err(),
        PoolError::Connect(ConnectError::Failed(
            "delayed connect error: Connection refused".into()
        ))
    );
    assert!(second.await.is_err());
    assert_eq!(pool.stats.upstream_rq_pending_failure_eject().value(), 2);
    assert_eq!(pool.stats.upstream_cx_connect_fail().value(), 1);
    assert_eq!(pool.stats.upstream_rq_total().value(), 0);
    assert_eq!(pool.host.stats.get(HostStat::CxConnectFail), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_connection_that_takes_too_long_fails_after_connect_timeout() {
    let pool = Harness::new(ClusterSettings {
        connect_timeout: Duration::from_millis(250),
        ..ClusterSettings::default()
    });
    pool.connector
        .outcomes
        .borrow_mut()
        .push_back(Outcome::NoAnswer);
    let start = Instant::now();
    let error = pending(pool.acquire()).await.unwrap_err();
    assert_eq!(error, PoolError::Connect(ConnectError::Timeout));
    assert_eq!(start.elapsed(), Duration::from_millis(250));
    assert_eq!(pool.stats.upstream_cx_connect_timeout().value(), 1);
    assert_eq!(pool.stats.upstream_cx_active().value(), 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_host_that_goes_closes_idle_connections_and_lets_busy_ones_finish() {
    let pool = Harness::new(ClusterSettings::default());
    let (mut idle, mut idle_peer) = pool.connect().await;
    exchange(&mut idle, &mut idle_peer, OK).await;
    let (mut busy, mut busy_peer) = pool.connect().await;
    drop(idle);
    pool.host.drain();
    assert_eq!(pool.stats.upstream_cx_active().value(), 1);
    exchange(&mut busy, &mut busy_peer, OK).await;
    drop(busy);
    assert_eq!(pool.stats.upstream_cx_active().value(), 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn priorities_have_connections_of_their_own() {
    let pool = Harness::new(ClusterSettings::default());
    let (mut stream, mut peer) = pool.connect().await;
    exchange(&mut stream, &mut peer, OK).await;
    drop(stream);
    let high = StreamRequest {
        priority: RoutingPriority::High,
        ..StreamRequest::default()
    };
    pending(pool.cluster.new_http_stream(&pool.host, &high));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_tcp_connection_counts_until_it_is_dropped() {
    let pool = Harness::new(limits(Thresholds {
        max_connections: 1,
        ..Thresholds::default()
    }));
    let tcp = pool.cluster.connect_tcp(&pool.host, None).await.unwrap();
    assert_eq!(pool.stats.upstream_cx_active().value(), 1);
    let error = pool
        .cluster
        .connect_tcp(&pool.host, None)
        .await
        .unwrap_err();
    assert_eq!(error, PoolError::Overflow);
    tcp.guard.count_bytes(3, 4);
    drop(tcp);
    assert_eq!(pool.stats.upstream_cx_active().value(), 0);
    assert_eq!(pool.stats.upstream_cx_tx_bytes_total().value(), 4);
    assert!(pool.cluster.connect_tcp(&pool.host, None).await.is_ok());
}

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
