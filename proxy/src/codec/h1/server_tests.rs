//! Connections over in-memory pipes.

use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::tests::get;
use super::*;
use crate::codec::{ProtocolError, RequestEvent, ServerStream, StreamReset};
use crate::http::{EndStream, RequestHead, ResponseHead};
use crate::net::Io;

fn server(settings: Http1Settings) -> (ServerConnection, DuplexStream) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let server = ServerConnection::new(Io::from(near), Rc::new(settings), 1 << 20);
    (server, far)
}

async fn head(server: &mut ServerConnection) -> (RequestHead, EndStream) {
    poll_fn(|cx| server.poll_head(cx)).await.unwrap().unwrap()
}

async fn event(server: &mut ServerConnection) -> RequestEvent {
    poll_fn(|cx| server.poll_event(cx)).await
}

/// Sends a response and gives what the client received of it.
async fn answer(
    server: &mut ServerConnection,
    far: &mut DuplexStream,
    status: u16,
    fields: &[(&str, &str)],
    body: Option<&'static str>,
) -> String {
    let mut response = ResponseHead::new(status);
    for (name, value) in fields {
        response.fields.append(*name, *value);
    }
    server.send_head(&response, body.is_none().into());
    if let Some(body) = body {
        server.send_data(Bytes::from_static(body.as_bytes()), EndStream::Yes);
    }
    poll_fn(|cx| server.poll_flush(cx)).await;
    let mut got = vec![0; 4096];
    let n = far.read(&mut got).await.unwrap();
    String::from_utf8_lossy(&got[..n]).replace("\r\n", "|")
}

#[tokio::test]
async fn responses_are_framed_as_envoy_frames_them() {
    let chunked: &[(&str, &str)] = &[];
    for (method, status, fields, body, wanted) in [
        (
            "GET",
            200,
            &[("content-length", "3")][..],
            Some("abc"),
            "HTTP/1.1 200 OK|content-length: 3||abc",
        ),
        (
            "GET",
            200,
            chunked,
            Some("abc"),
            "HTTP/1.1 200 OK|transfer-encoding: chunked||3|abc|0||",
        ),
        (
            "GET",
            404,
            &[],
            None,
            "HTTP/1.1 404 Not Found|content-length: 0||",
        ),
        ("GET", 204, &[], None, "HTTP/1.1 204 No Content||"),
        (
            "GET",
            304,
            &[("content-length", "3")],
            None,
            "HTTP/1.1 304 Not Modified|content-length: 3||",
        ),
        (
            "HEAD",
            200,
            &[],
            None,
            "HTTP/1.1 200 OK|transfer-encoding: chunked||",
        ),
        (
            "HEAD",
            200,
            &[("content-length", "3")],
            None,
            "HTTP/1.1 200 OK|content-length: 3||",
        ),
        (
            "GET",
            299,
            &[("transfer-encoding", "x"), ("a", "b")],
            None,
            "HTTP/1.1 299 Unknown|a: b|content-length: 0||",
        ),
    ] {
        let (mut server, mut far) = server(Http1Settings::default());
        let line = format!("{method} / HTTP/1.1");
        far.write_all(&get(&line, "")).await.unwrap();
        head(&mut server).await;
        let got = answer(&mut server, &mut far, status, fields, body).await;
        assert_eq!(got, wanted);
        assert_eq!(server.finish_stream(), Next::KeepAlive);
    }
}

#[test]
fn names_can_be_written_in_proper_case_or_as_they_came() {
    let written = |read: HeaderKeyFormat, write: HeaderKeyFormat| {
        let mut settings = Http1Settings::default();
        settings.options.header_key_format = read;
        let raw = b"POST /x HTTP/1.1\r\nHOST: a\r\nx_A-b1C.d-e: 2\r\n\r\n";
        let (mut request, _) = parse_request(raw, &settings).unwrap().unwrap();
        request.head.fields.append("x-added", "3");
        let mut out = Vec::new();
        let context = RequestContext {
            tunnel: false,
            fully_qualified: false,
            format: write,
        };
        request_head(&mut out, &request.head, EndStream::Yes, context);
        let out = String::from_utf8(out).unwrap().replace("\r\n", "|");
        out.split_once('|').unwrap().1.to_owned()
    };
    let preserve = |others_in_proper_case| HeaderKeyFormat::PreserveCase {
        forward_reason_phrase: false,
        others_in_proper_case,
    };
    let lower = HeaderKeyFormat::LowerCase;
    assert_eq!(
        written(lower, HeaderKeyFormat::ProperCaseWords),
        "Host: a|X_A-B1c.D-E: 2|X-Added: 3|Content-Length: 0||"
    );
    assert_eq!(
        written(preserve(false), lower),
        "HOST: a|x_A-b1C.d-e: 2|x-added: 3|content-length: 0||"
    );
    assert_eq!(
        written(preserve(true), lower),
        "HOST: a|x_A-b1C.d-e: 2|X-Added: 3|Content-Length: 0||"
    );
    assert_eq!(
        written(lower, preserve(true)),
        "host: a|x_a-b1c.d-e: 2|x-added: 3|content-length: 0||"
    );
}

#[test]
fn the_reason_phrase_of_the_upstream_is_forwarded_where_that_is_wanted() {
    let mut settings = ClientHttp1Settings::default();
    settings.options.header_key_format = HeaderKeyFormat::PreserveCase {
        forward_reason_phrase: true,
        others_in_proper_case: false,
    };
    for wire in [
        "HTTP/1.1 200 Fine\r\nX-A: 1\r\n\r\n",
        "HTTP/1.1  200 Fine\r\nX-A: 1\r\n\r\n",
    ] {
        let parsed = parse_response(wire.as_bytes(), ResponseTo::default(), &settings);
        let (response, _) = parsed.unwrap().unwrap();
        let mut out = Vec::new();
        let context = encode::ResponseContext {
            http10: false,
            to_head: false,
            tunnel: false,
            close: true,
            keep_alive: false,
            format: HeaderKeyFormat::LowerCase,
        };
        encode::response_head(&mut out, &response.head, EndStream::Yes, context);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 200 Fine\r\nX-A: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
    }
}

#[tokio::test]
async fn http10_responses_keep_to_http10() {
    let mut settings = Http1Settings::default();
    settings.options.accept_http_10 = true;
    for (fields, wanted, next) in [
        ("", "HTTP/1.0 200 OK|connection: close||abc", Next::Close),
        (
            "connection: keep-alive\r\n",
            "HTTP/1.0 200 OK|connection: close||abc",
            Next::Close,
        ),
    ] {
        let (mut server, mut far) = server(settings.clone());
        far.write_all(&get("GET / HTTP/1.0", fields)).await.unwrap();
        head(&mut server).await;
        let got = answer(&mut server, &mut far, 200, &[], Some("abc")).await;
        assert_eq!(got, wanted);
        assert_eq!(server.finish_stream(), next);
    }
    let (mut server, mut far) = server(settings);
    far.write_all(&get("GET / HTTP/1.0", "connection: keep-alive\r\n"))
        .await
        .unwrap();
    head(&mut server).await;
    let got = answer(
        &mut server,
        &mut far,
        200,
        &[("content-length", "3")],
        Some("abc"),
    )
    .await;
    assert_eq!(
        got,
        "HTTP/1.0 200 OK|content-length: 3|connection: keep-alive||abc"
    );
    assert_eq!(server.finish_stream(), Next::KeepAlive);
}

#[tokio::test]
async fn pipelined_requests_are_served_in_turn() {
    let (mut server, mut far) = server(Http1Settings::default());
    let mut raw = get("POST /1 HTTP/1.1", "content-length: 3\r\n");
    raw.extend_from_slice(b"abc");
    raw.extend(get("GET /2 HTTP/1.1", "connection: close\r\n"));
    far.write_all(&raw).await.unwrap();
    assert_eq!(head(&mut server).await.0.path(), Some(&b"/1"[..]));
    assert!(
        matches!(event(&mut server).await, RequestEvent::Data(d, EndStream::Yes) if d == "abc")
    );
    answer(&mut server, &mut far, 200, &[], None).await;
    assert_eq!(server.finish_stream(), Next::KeepAlive);
    assert!(server.has_partial_head());
    assert_eq!(head(&mut server).await.0.path(), Some(&b"/2"[..]));
    let got = answer(&mut server, &mut far, 200, &[], None).await;
    assert_eq!(got, "HTTP/1.1 200 OK|connection: close|content-length: 0||");
    assert_eq!(server.finish_stream(), Next::Close);
}

#[tokio::test]
async fn a_malformed_request_can_be_answered_and_closes() {
    let (mut server, mut far) = server(Http1Settings::default());
    far.write_all(b"GET /x HTTP/1.0\r\n\r\n").await.unwrap();
    let error = poll_fn(|cx| server.poll_head(cx)).await.unwrap_err();
    let HeadError::Protocol(error, None) = error else {
        panic!("{error:?}");
    };
    assert_eq!(
        error,
        ProtocolError {
            status: 426,
            body: "Upgrade Required".into(),
            details: "low_version".into()
        }
    );
    let got = answer(&mut server, &mut far, 426, &[], None).await;
    assert_eq!(
        got,
        "HTTP/1.1 426 Upgrade Required|connection: close|content-length: 0||"
    );
    assert_eq!(server.finish_stream(), Next::Close);
    drop(far.write_all(b"more").await);
    far.shutdown().await.unwrap();
    poll_fn(|cx| server.poll_close(cx)).await;
    assert_eq!(far.read(&mut [0; 10]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_wherever_it_leaves() {
    // Between requests.
    let (mut idle, far) = server(Http1Settings::default());
    drop(far);
    assert!(poll_fn(|cx| idle.poll_head(cx)).await.unwrap().is_none());
    // Within a head.
    let (mut partial, mut far) = server(Http1Settings::default());
    far.write_all(b"GET / HT").await.unwrap();
    drop(far);
    let closed = poll_fn(|cx| partial.poll_head(cx)).await;
    assert!(matches!(closed, Err(HeadError::Closed)));
    // Within a body, and behind it.
    for sent in ["ab", "abc"] {
        let (mut server, mut far) = server(Http1Settings::default());
        let mut raw = get("POST / HTTP/1.1", "content-length: 3\r\n");
        raw.extend_from_slice(sent.as_bytes());
        far.write_all(&raw).await.unwrap();
        drop(far);
        head(&mut server).await;
        assert!(matches!(event(&mut server).await, RequestEvent::Data(..)));
        assert!(matches!(
            event(&mut server).await,
            RequestEvent::Reset(StreamReset::ConnectionTermination)
        ));
        assert_eq!(server.finish_stream(), Next::Close);
    }
}

#[tokio::test]
async fn trailers_pass_where_they_are_enabled_and_are_dropped_elsewhere() {
    let raw = [
        get("POST / HTTP/1.1", "transfer-encoding: chunked\r\n"),
        b"3\r\nabc\r\n0\r\nFoo: bar\r\n\r\n".to_vec(),
    ]
    .concat();
    let mut settings = Http1Settings::default();
    settings.options.enable_trailers = true;
    let (mut enabled, mut far) = server(settings);
    far.write_all(&raw).await.unwrap();
    head(&mut enabled).await;
    assert!(
        matches!(event(&mut enabled).await, RequestEvent::Data(d, EndStream::No) if d == "abc")
    );
    let RequestEvent::Trailers(trailers) = event(&mut enabled).await else {
        panic!("no trailers");
    };
    assert_eq!(trailers.get("foo"), Some(&b"bar"[..]));
    let response = ResponseHead::new(200);
    enabled.send_head(&response, EndStream::No);
    enabled.send_trailers(&trailers);
    poll_fn(|cx| enabled.poll_flush(cx)).await;
    let mut got = [0; 100];
    let n = far.read(&mut got).await.unwrap();
    assert_eq!(
        &got[..n],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nfoo: bar\r\n\r\n"
    );
    assert_eq!(enabled.finish_stream(), Next::KeepAlive);

    let (mut disabled, mut far) = server(Http1Settings::default());
    far.write_all(&raw).await.unwrap();
    head(&mut disabled).await;
    event(&mut disabled).await;
    assert!(
        matches!(event(&mut disabled).await, RequestEvent::Data(d, EndStream::Yes) if d.is_empty())
    );
}

#[tokio::test]
async fn a_response_before_the_end_of_its_request_closes_the_connection() {
    let (mut server, mut far) = server(Http1Settings::default());
    far.write_all(&get("POST / HTTP/1.1", "content-length: 3\r\n"))
        .await
        .unwrap();
    head(&mut server).await;
    let got = answer(&mut server, &mut far, 403, &[], None).await;
    assert_eq!(
        got,
        "HTTP/1.1 403 Forbidden|connection: close|content-length: 0||"
    );
    assert_eq!(server.finish_stream(), Next::Close);
}

#[tokio::test]
async fn an_upgrade_carries_raw_bytes_both_ways() {
    let (mut server, mut far) = server(Http1Settings::default());
    let mut raw = get(
        "GET /ws HTTP/1.1",
        "connection: upgrade\r\nupgrade: websocket\r\n",
    );
    raw.extend_from_slice(b"early");
    far.write_all(&raw).await.unwrap();
    assert_eq!(head(&mut server).await.1, EndStream::No);
    assert!(
        matches!(event(&mut server).await, RequestEvent::Data(d, EndStream::No) if d == "early")
    );
    server.upgrade();
    let got = answer(
        &mut server,
        &mut far,
        101,
        &[("connection", "upgrade"), ("upgrade", "websocket")],
        Some("raw"),
    )
    .await;
    assert_eq!(
        got,
        "HTTP/1.1 101 Switching Protocols|connection: upgrade|upgrade: websocket||raw"
    );
    assert_eq!(server.finish_stream(), Next::Close);
}

#[tokio::test]
async fn a_slow_reader_is_waited_for() {
    let (near, mut far) = tokio::io::duplex(1000);
    let mut server = ServerConnection::new(Io::from(near), Rc::default(), 10_000);
    far.write_all(&get("GET / HTTP/1.1", "")).await.unwrap();
    head(&mut server).await;
    server.send_head(&ResponseHead::new(200), EndStream::No);
    server.send_data(Bytes::from(vec![b'x'; 9000]), EndStream::No);
    poll_fn(|cx| server.poll_ready(cx)).await;
    server.send_data(Bytes::from(vec![b'x'; 9000]), EndStream::Yes);
    poll_fn(|cx| {
        assert!(server.poll_ready(cx).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    let mut got = Vec::new();
    let flush = async {
        poll_fn(|cx| server.poll_flush(cx)).await;
        assert_eq!(server.finish_stream(), Next::KeepAlive);
        drop(server);
    };
    let (_, read) = tokio::join!(flush, far.read_to_end(&mut got));
    read.unwrap();
    assert!(got.ends_with(b"x\r\n0\r\n\r\n"));
}
