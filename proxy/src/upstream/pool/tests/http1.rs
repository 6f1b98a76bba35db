//! Connections of HTTP/1, and of TCP: used again, waited for, given up.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Waker};

use tokio::io::AsyncReadExt;

use super::super::*;
use super::{Harness, OK, Outcome, exchange, limits, pending, ready, send_get, settings, settle};
use crate::upstream::circuit_breaker::Thresholds;
use crate::upstream::cluster::{ClusterSettings, CommonHttpOptions};
use crate::upstream::host::HostStat;

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
