//! Requests against backends in memory.

use outrigger_proto::pb::envoy::config::route::v3 as route_pb;
use outrigger_proto::pb::google::protobuf::UInt32Value;

use super::*;
use crate::config::{ConfigPath, ConfigReport};
use crate::http::Protocol;
use crate::upstream::test_support::{Answer, TestWorker};

fn setup() -> (TestWorker, AsyncClient, ClusterId) {
    let test = TestWorker::new(&[("a", "http_protocol_options: {enable_trailers: true}")]);
    let client = AsyncClient::new(test.worker.clone());
    let id = client.find("a").unwrap();
    (test, client, id)
}

fn get() -> RequestHead {
    let mut head = RequestHead::new(Protocol::Http11, b"GET");
    head.set_path(b"/x");
    head.set_authority(b"a");
    head
}

fn retries(on: &str) -> RequestOptions {
    let report = ConfigReport::new();
    let proto = route_pb::RetryPolicy {
        retry_on: on.to_owned(),
        num_retries: Some(UInt32Value { value: 1 }),
        ..Default::default()
    };
    let policy = RetryPolicy::from_proto(proto, &ConfigPath::root(&report, "policy"));
    RequestOptions {
        retry_policy: policy.ok().map(Arc::new),
        ..RequestOptions::default()
    }
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_request_gets_its_whole_response() {
    let (test, client, id) = setup();
    test.backends.respond(200, "x-a: b\r\n", "hello");
    let response = client
        .send(
            id,
            get(),
            Body::Whole(Bytes::new()),
            RequestOptions::default(),
        )
        .await
        .unwrap();
    assert_eq!(
        (response.head.status, &*response.body),
        (200, &b"hello"[..])
    );
    assert_eq!(response.head.fields.get("x-a"), Some(&b"b"[..]));
    let request = test.backends.request().unwrap();
    assert!(
        request.starts_with("GET /x HTTP/1.1\r\nhost: a\r\n")
            && request.contains("x-envoy-internal: true"),
        "{request}"
    );
    for stat in [
        "upstream_rq_total",
        "upstream_rq_completed",
        "upstream_rq_200",
        "internal.upstream_rq_2xx",
        "upstream_cx_total",
    ] {
        assert_eq!(test.stat(&format!("cluster.a.{stat}")), 1, "{stat}");
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn connections_are_used_again() {
    let (test, client, id) = setup();
    for _ in 0..2 {
        test.backends.respond(200, "", "hello");
        client
            .send(
                id,
                get(),
                Body::Whole(Bytes::from_static(b"body")),
                RequestOptions::default(),
            )
            .await
            .unwrap();
    }
    assert_eq!(test.stat("cluster.a.upstream_cx_total"), 1);
    assert!(
        test.backends
            .request()
            .unwrap()
            .ends_with("\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
        "a body without a length is chunked"
    );
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_cluster_that_is_not_there_is_an_error() {
    let (test, client, _) = setup();
    let id = test.server.cluster_names.id("missing");
    let error = client
        .send(
            id,
            get(),
            Body::Whole(Bytes::new()),
            RequestOptions::default(),
        )
        .await
        .unwrap_err();
    assert_eq!(error, ClientError::NoCluster);
    assert_eq!(client.find("never mentioned"), None);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_timeout_ends_the_request() {
    let (test, client, id) = setup();
    test.backends.answer(Answer::Never);
    let start = Instant::now();
    let options = RequestOptions {
        timeout: Some(Duration::from_secs(2)),
        ..RequestOptions::default()
    };
    let error = client
        .send(id, get(), Body::Whole(Bytes::new()), options)
        .await
        .unwrap_err();
    assert_eq!(
        (error, Instant::now() - start),
        (ClientError::Timeout, Duration::from_secs(2))
    );
    for stat in ["upstream_rq_timeout", "upstream_rq_504"] {
        assert_eq!(test.stat(&format!("cluster.a.{stat}")), 1, "{stat}");
    }
    // Over HTTP/1 a request ends with its connection.
    assert_eq!(test.stat("cluster.a.upstream_rq_tx_reset"), 0);
    settle().await;
    assert_eq!(test.backends.closed(), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_response_that_stalls_is_timed_out_as_well() {
    let (test, client, id) = setup();
    test.backends.answer(Answer::With(
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab".into(),
    ));
    let options = RequestOptions {
        timeout: Some(Duration::from_secs(2)),
        ..RequestOptions::default()
    };
    let error = client
        .send(id, get(), Body::Whole(Bytes::new()), options)
        .await
        .unwrap_err();
    assert_eq!(error, ClientError::Timeout);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_dropped_future_breaks_the_request_off() {
    let (test, client, id) = setup();
    test.backends.answer(Answer::Never);
    let sending = client.send(
        id,
        get(),
        Body::Whole(Bytes::new()),
        RequestOptions::default(),
    );
    assert!(
        tokio::time::timeout(Duration::from_secs(1), sending)
            .await
            .is_err()
    );
    settle().await;
    assert_eq!(
        (
            test.stat("cluster.a.upstream_rq_active"),
            test.backends.closed()
        ),
        (0, 1)
    );
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_retry_sends_the_body_again() {
    let (test, client, id) = setup();
    test.backends.respond(503, "", "no");
    test.backends.respond(200, "", "yes");
    let (sender, reader) = body(100);
    assert!(sender.send_data(Bytes::from_static(b"pay"), EndStream::No));
    assert!(sender.send_data(Bytes::from_static(b"load"), EndStream::Yes));
    let response = client
        .send(id, get(), Body::Streamed(reader), retries("5xx"))
        .await
        .unwrap();
    assert_eq!(response.body, "yes");
    for _ in 0..2 {
        assert!(
            test.backends
                .request()
                .unwrap()
                .ends_with("3\r\npay\r\n4\r\nload\r\n0\r\n\r\n")
        );
    }
    assert_eq!(test.stat("cluster.a.upstream_rq_retry_success"), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_reset_is_tried_again_where_the_policy_says_so_and_else_told() {
    let (test, client, id) = setup();
    test.backends.answer(Answer::Close);
    let error = client
        .send(
            id,
            get(),
            Body::Whole(Bytes::new()),
            RequestOptions::default(),
        )
        .await
        .unwrap_err();
    assert_eq!(
        error,
        ClientError::Reset(ResetReason::ConnectionTermination)
    );
    assert_eq!(test.stat("cluster.a.upstream_rq_503"), 1);
    test.backends.answer(Answer::Close);
    test.backends.respond(200, "", "");
    assert!(
        client
            .send(id, get(), Body::Whole(Bytes::new()), retries("reset"))
            .await
            .is_ok()
    );
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_response_beyond_the_limit_is_an_error() {
    let (test, client, id) = setup();
    test.backends.respond(200, "", "12345");
    let options = RequestOptions {
        max_response_bytes: 4,
        ..RequestOptions::default()
    };
    let error = client
        .send(id, get(), Body::Whole(Bytes::new()), options)
        .await
        .unwrap_err();
    assert_eq!(error, ClientError::TooLarge(4));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_streamed_body_is_bounded_and_its_end_matters() {
    let (sender, reader) = body(4);
    assert!(sender.send_data(Bytes::from_static(b"1234"), EndStream::No));
    assert!(!sender.send_data(Bytes::from_static(b"5"), EndStream::No));
    let (test, client, id) = setup();
    test.backends.answer(Answer::Never);
    let sending = client.send(id, get(), Body::Streamed(reader), RequestOptions::default());
    drop(sender);
    assert_eq!(sending.await.unwrap_err(), ClientError::BodyAborted);
    let (sender, reader) = body(4);
    drop(reader);
    assert!(
        !sender.send_data(Bytes::new(), EndStream::Yes),
        "nobody waits for it"
    );
}

/// A gRPC response over HTTP/1, which the codec does not mind.
fn grpc(test: &TestWorker, body: &[u8], trailers: &str) {
    let body = String::from_utf8(body.to_vec()).unwrap();
    let response = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n{trailers}\r\n",
        body.len()
    );
    test.backends.answer(Answer::With(response));
}

async fn call(
    test: &TestWorker,
    client: &AsyncClient,
    id: ClusterId,
    limit: usize,
) -> Result<u32, GrpcError> {
    let mut metadata = Fields::new();
    metadata.append("x-meta", "1");
    let options = RequestOptions {
        timeout: Some(Duration::from_secs(3)),
        ..RequestOptions::default()
    };
    let result = client
        .unary::<u32, u32>(id, ("host", "/s/M"), &metadata, &7, options, limit)
        .await;
    let request = test.backends.request().unwrap();
    for part in [
        "POST /s/M",
        "content-type: application/grpc",
        "te: trailers",
        "grpc-timeout: 3000m",
        "x-meta: 1",
        "\0\0\0\0\u{2}\u{8}\u{7}",
    ] {
        assert!(request.contains(part), "{part:?} is not in {request:?}");
    }
    result
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_unary_call_gives_the_message_or_the_status() {
    let (test, client, id) = setup();
    grpc(&test, b"\0\0\0\0\x02\x08\x2a", "grpc-status: 0\r\n");
    assert_eq!(call(&test, &client, id, 100).await, Ok(42));
    grpc(
        &test,
        b"\0\0\0\0\x02\x08\x2a",
        "grpc-status: 7\r\ngrpc-message: no\r\n",
    );
    assert_eq!(
        call(&test, &client, id, 100).await,
        Err(GrpcError {
            status: 7,
            message: "no".into()
        })
    );
    grpc(&test, b"\0\0\0\0\x02\x08\x2a", "");
    assert_eq!(call(&test, &client, id, 100).await.unwrap_err().status, 13);
    grpc(&test, b"\0\0\0\0\x02\x08\x2a", "grpc-status: 0\r\n");
    assert_eq!(call(&test, &client, id, 1).await.unwrap_err().status, 8);
    test.backends.respond(503, "", "");
    assert_eq!(call(&test, &client, id, 1).await.unwrap_err().status, 14);
}
