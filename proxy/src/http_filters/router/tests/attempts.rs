//! Retries, hedging and redirects, in stopped time.

use super::*;

/// Drives the router for so long, and gives what it said; none if it had nothing to say.
async fn within(h: &mut Harness, millis: u64) -> Option<RouterEvent> {
    tokio::time::timeout(Duration::from_millis(millis), h.next())
        .await
        .ok()
}

const LIMITED: &str = "route: {cluster: backend, timeout: 10s, retry_policy: {retry_on: 5xx, rate_limited_retry_back_off: {reset_headers: [{name: retry-after}]}}}";
const HEDGED: &str = "route: {cluster: backend, hedge_policy: {hedge_on_per_try_timeout: true}, retry_policy: {retry_on: 5xx, per_try_timeout: 0.2s}}";

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_retry_waits_at_least_as_long_as_the_response_says() {
    let mut h = Harness::new("", ChainConfig::default(), LIMITED);
    h.test.backends.respond(503, "retry-after: 4\r\n", "no");
    h.test.backends.respond(200, "", "yes");
    h.send(&[]);
    let start = Instant::now();
    assert_eq!(h.response().await, "200 yes");
    let waited = start.elapsed();
    assert!(waited >= Duration::from_secs(4), "{waited:?}");
    assert!(waited < Duration::from_secs(7), "{waited:?}");
    assert_eq!(h.info.attempt_count, 2);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_timeout_of_the_route_ends_a_wait_without_counting_an_attempt() {
    let mut h = Harness::new("", ChainConfig::default(), LIMITED);
    h.test.backends.respond(503, "retry-after: 60\r\n", "no");
    h.send(&[]);
    assert_eq!(h.response().await, "reply 504 response_timeout");
    assert_eq!(h.info.attempt_count, 1);
    assert_eq!(h.test.stat("cluster.backend.upstream_rq_timeout"), 0);
    assert_eq!(h.test.stat("cluster.backend.upstream_rq_completed"), 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn what_does_not_fit_while_a_retry_waits_is_507() {
    let route = LIMITED.to_owned() + ", per_request_buffer_limit_bytes: 4";
    let mut h = Harness::new("", ChainConfig::default(), &route);
    // The backend of the test answers when it has that much.
    h.request.fields.append("content-length", "2");
    h.test.backends.respond(503, "retry-after: 5\r\n", "no");
    let hh = &mut h;
    hh.router.start(env!(hh), EndStream::No);
    hh.router
        .data(env!(hh), Bytes::from_static(b"ab"), EndStream::No);
    assert!(within(&mut h, 100).await.is_none());
    let hh = &mut h;
    let event = hh
        .router
        .data(env!(hh), Bytes::from_static(b"cde"), EndStream::No);
    match event {
        Some(RouterEvent::LocalReply(reply)) => assert_eq!(
            (reply.status, &*reply.details),
            (507, "request_payload_exceeded_retry_buffer_limit")
        ),
        other => panic!("{other:?}"),
    }
    assert_eq!(h.test.stat("cluster.backend.retry_or_shadow_abandoned"), 1);
    assert!(!h.router.is_active());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_second_attempt_answers_for_a_slow_one_which_is_broken_off() {
    let mut h = Harness::new("", ChainConfig::default(), HEDGED);
    h.test.backends.answer(Answer::Never);
    h.test.backends.respond(200, "", "second");
    h.send(&["body"]);
    assert_eq!(h.response().await, "200 second");
    assert_eq!(h.test.stat("cluster.backend.upstream_rq_active"), 0);
    assert_eq!(
        h.test.stat("cluster.backend.upstream_rq_per_try_timeout"),
        0
    );
    for _ in 0..2 {
        assert!(h.test.backends.request().unwrap().contains("body"));
    }
    tokio::task::yield_now().await;
    assert_eq!(h.test.backends.closed(), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn all_attempts_of_a_hedged_request_end_with_it() {
    let mut h = Harness::new("", ChainConfig::default(), HEDGED);
    h.test.backends.answer(Answer::Never);
    h.test.backends.answer(Answer::Never);
    h.send(&[]);
    assert!(within(&mut h, 1000).await.is_none());
    assert_eq!(h.test.stat("cluster.backend.upstream_rq_active"), 2);
    h.router.abandon();
    assert_eq!(h.test.stat("cluster.backend.upstream_rq_active"), 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_timeout_of_the_route_ends_and_counts_every_attempt() {
    let mut h = Harness::new("", ChainConfig::default(), HEDGED);
    h.test.backends.answer(Answer::Never);
    h.test.backends.answer(Answer::Never);
    h.send(&[]);
    assert_eq!(h.response().await, "reply 504 response_timeout");
    assert_eq!(h.test.stat("cluster.backend.upstream_rq_timeout"), 2);
    assert_eq!(h.test.stat("cluster.backend.upstream_rq_active"), 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_attempt_behind_filters_may_be_slow_as_well() {
    let mut h = Harness::new(&filters(MUTATION), ChainConfig::default(), HEDGED);
    h.test.backends.answer(Answer::Never);
    h.test.backends.respond(200, "", "second");
    h.send(&["body"]);
    assert_eq!(h.response().await, "200 x-out=b second");
    assert_eq!(h.test.stat("cluster.backend.upstream_rq_active"), 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_redirected_request_asks_for_where_it_leads() {
    let route =
        "route: {cluster: backend, internal_redirect_policy: {response_headers_to_copy: [x-new]}}";
    let mut h = Harness::new("", ChainConfig::default(), route);
    h.test.backends.respond(
        302,
        "location: http://elsewhere.com/\r\nx-new: 1\r\n",
        "moved",
    );
    h.send(&["body"]);
    let text = tokio::time::timeout(Duration::from_secs(1), h.response())
        .await
        .unwrap();
    // The test asks no table, so the old route is that of the redirect as well.
    assert!(text.starts_with("Redirected"), "{text}");
    assert_eq!(h.request.authority(), Some(&b"elsewhere.com"[..]));
    assert_eq!(h.request.fields.get("x-new"), Some(&b"1"[..]));
    assert_eq!(
        h.request.fields.get("x-envoy-original-url"),
        Some(&b"http://example.com/"[..])
    );
    assert_eq!(
        h.test
            .stat("cluster.backend.upstream_internal_redirect_succeeded_total"),
        1
    );
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_cluster_under_maintenance_takes_nothing() {
    let mut h = Harness::new("", ChainConfig::default(), FORWARD);
    h.test.server.runtime.set_layer("admin", Default::default());
    h.test.server.runtime.modify_layer(
        "admin",
        [(
            "upstream.maintenance_mode.backend".to_owned(),
            "100".to_owned(),
        )],
    );
    match h.send(&[]) {
        Some(RouterEvent::LocalReply(reply)) => {
            assert_eq!((reply.status, &*reply.details), (503, "maintenance_mode"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        h.test.stat("cluster.backend.upstream_rq_maintenance_mode"),
        1
    );
    assert_eq!(h.test.stat("cluster.backend.upstream_rq_503"), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn use_retry_switches_retries_off() {
    let mut h = Harness::new("", ChainConfig::default(), RETRY);
    h.test.server.runtime.set_layer("admin", Default::default());
    h.test
        .server
        .runtime
        .modify_layer("admin", [("upstream.use_retry".to_owned(), "0".to_owned())]);
    h.test.backends.respond(503, "", "no");
    h.send(&[]);
    assert_eq!(h.response().await, "503 no");
    assert_eq!(h.test.stat("cluster.backend.upstream_rq_retry"), 0);
}
