use super::*;
use crate::codec::h1::{Next, ServerConnection};
use crate::codec::{RequestEvent, ServerStream};
use crate::http::{Protocol, ResponseHead};
use proptest::prelude::*;
use std::future::poll_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

fn client(settings: ClientHttp1Settings) -> (ClientConnection, DuplexStream) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let client = ClientConnection::new(Io::from(near), Rc::new(settings), 1 << 20);
    (client, far)
}

fn request(method: &str, fields: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::new(Protocol::Http11, method.as_bytes());
    head.set_path(b"/x");
    head.set_authority(b"a");
    for (name, value) in fields {
        head.fields.append(*name, *value);
    }
    head
}

async fn sent(client: &mut ClientConnection, far: &mut DuplexStream) -> String {
    poll_fn(|cx| client.poll_flush(cx)).await;
    let mut got = vec![0; 4096];
    let n = far.read(&mut got).await.unwrap();
    String::from_utf8_lossy(&got[..n]).replace("\r\n", "|")
}

/// The whole response to a request, as text: `200 [a: b] abc END`.
async fn response(client: &mut ClientConnection) -> String {
    let mut text = String::new();
    let ended = |text: &mut String, end: EndStream| {
        if end.is_end() {
            text.push_str(" END");
        }
        end.is_end()
    };
    loop {
        let done = match poll_fn(|cx| client.poll_event(cx)).await {
            ResponseEvent::Metadata(_) => unreachable!("HTTP/1 has no metadata"),
            ResponseEvent::Informational(head) => {
                text.push_str(&format!("{} ", head.status));
                false
            }
            ResponseEvent::Head(head, end) => {
                text.push_str(&head.status.to_string());
                for (name, value) in head.fields.iter() {
                    let text_of = |b| String::from_utf8_lossy(b).into_owned();
                    text.push_str(&format!(" [{}: {}]", text_of(name), text_of(value)));
                }
                ended(&mut text, end)
            }
            ResponseEvent::Data(data, end) => {
                text.push_str(&format!(" {}", String::from_utf8_lossy(&data)));
                ended(&mut text, end)
            }
            ResponseEvent::Trailers(trailers) => {
                text.push_str(&format!(" {trailers:?} END"));
                true
            }
            ResponseEvent::Reset(reason) => {
                text.push_str(&format!(" {reason:?}"));
                true
            }
        };
        if done {
            return text;
        }
    }
}

#[tokio::test]
async fn requests_are_framed_as_envoy_frames_them() {
    for (method, fields, body, wanted) in [
        ("GET", &[][..], None, "GET /x HTTP/1.1|host: a||"),
        (
            "POST",
            &[],
            None,
            "POST /x HTTP/1.1|host: a|content-length: 0||",
        ),
        (
            "POST",
            &[("content-length", "3")],
            Some("abc"),
            "POST /x HTTP/1.1|host: a|content-length: 3||abc",
        ),
        (
            "POST",
            &[],
            Some("abc"),
            "POST /x HTTP/1.1|host: a|transfer-encoding: chunked||3|abc|0||",
        ),
        (
            "GET",
            &[("connection", "upgrade"), ("upgrade", "w")],
            Some("raw"),
            "GET /x HTTP/1.1|host: a|connection: upgrade|upgrade: w||raw",
        ),
        (
            "CONNECT",
            &[],
            Some("raw"),
            "CONNECT a HTTP/1.1|host: a||raw",
        ),
    ] {
        let (mut client, mut far) = client(ClientHttp1Settings::default());
        client.send_head(&request(method, fields), body.is_none().into());
        if let Some(body) = body {
            client.send_data(Bytes::from_static(body.as_bytes()), EndStream::Yes);
        }
        assert_eq!(sent(&mut client, &mut far).await, wanted);
    }
    let mut settings = ClientHttp1Settings::default();
    settings.options.send_fully_qualified_url = true;
    let (mut client, mut far) = client(settings);
    client.send_head(&request("GET", &[]), EndStream::Yes);
    let got = sent(&mut client, &mut far).await;
    assert_eq!(got, "GET http://a/x HTTP/1.1|host: a||");
}

#[tokio::test]
#[allow(
    clippy::too_many_lines,
    reason = "one table of what Envoy was seen to do"
)]
async fn responses_come_out_as_envoy_reads_them() {
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    let chunked = |body: &str| format!("{OK}transfer-encoding: chunked\r\n\r\n{body}");
    let broken = "ProtocolError(\"http1.codec_error\")";
    let refused = |details: &str| format!(" ProtocolError(\"{details}\")");
    // method, what the upstream sends, whether it closes then, what comes out, whether the connection may be used again
    let cases = vec![
        (
            "GET",
            format!("{OK}content-length: 3\r\n\r\nabc"),
            false,
            "200 [content-length: 3] abc END".to_owned(),
            true,
        ),
        (
            "GET",
            format!("{OK}content-length: 2\r\n\r\nabc"),
            false,
            "200 [content-length: 2] ab END".to_owned(),
            false,
        ),
        (
            "GET",
            format!("{OK}\r\nabc"),
            true,
            "200 abc  END".to_owned(),
            false,
        ),
        (
            "GET",
            format!("{OK}content-length: 5\r\n\r\nabc"),
            true,
            format!("200 [content-length: 5] abc {broken}"),
            false,
        ),
        (
            "GET",
            chunked("3\r\nabc\r\n0\r\n\r\n"),
            false,
            "200 [transfer-encoding: chunked] abc END".to_owned(),
            true,
        ),
        (
            "GET",
            chunked("3\r\nab"),
            true,
            format!("200 [transfer-encoding: chunked] ab {broken}"),
            false,
        ),
        (
            "GET",
            chunked("zz\r\nab"),
            false,
            format!("200 [transfer-encoding: chunked] {broken}"),
            false,
        ),
        (
            "GET",
            format!("{OK}transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n"),
            false,
            refused("http1.content_length_and_chunked_not_allowed"),
            false,
        ),
        (
            "GET",
            format!("{OK}transfer-encoding: gzip\r\n\r\n"),
            false,
            refused("http1.invalid_transfer_encoding"),
            false,
        ),
        ("GET", "X".to_owned(), false, format!(" {broken}"), false),
        (
            "GET",
            String::new(),
            true,
            " ConnectionTermination".to_owned(),
            false,
        ),
        (
            "GET",
            format!("{OK}foo: ba"),
            true,
            format!(" {broken}"),
            false,
        ),
        (
            "GET",
            "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(),
            false,
            "200 [content-length: 0] END".to_owned(),
            false,
        ),
        (
            "GET",
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n".to_owned(),
            false,
            "200 [connection: keep-alive] [content-length: 0] END".to_owned(),
            true,
        ),
        (
            "GET",
            format!("{OK}connection: close\r\ncontent-length: 0\r\n\r\n"),
            false,
            "200 [connection: close] [content-length: 0] END".to_owned(),
            false,
        ),
        (
            "GET",
            "HTTP/2 200 OK\r\n\r\n".to_owned(),
            false,
            format!(" {broken}"),
            false,
        ),
        (
            "GET",
            "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n".to_owned(),
            false,
            "200 [content-length: 0] END".to_owned(),
            true,
        ),
        (
            "GET",
            "HTTP/1.1  200  OK\r\ncontent-length: 0\r\n\r\n".to_owned(),
            false,
            "200 [content-length: 0] END".to_owned(),
            true,
        ),
        (
            "GET",
            "HTTP/1.1 20 OK\r\n\r\n".to_owned(),
            false,
            format!(" {broken}"),
            false,
        ),
        (
            "GET",
            format!("\r\n{OK}\r\n"),
            false,
            format!(" {broken}"),
            false,
        ),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n".to_owned(),
            false,
            "204 END".to_owned(),
            true,
        ),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\n".to_owned(),
            false,
            refused("http1.content_length_not_allowed"),
            false,
        ),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
            false,
            refused("http1.transfer_encoding_not_allowed"),
            false,
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n".to_owned(),
            false,
            "304 [content-length: 3] END".to_owned(),
            true,
        ),
        (
            "HEAD",
            format!("{OK}content-length: 3\r\n\r\n"),
            false,
            "200 [content-length: 3] END".to_owned(),
            true,
        ),
        (
            "GET",
            format!(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n{OK}content-length: 0\r\n\r\n"
            ),
            false,
            "100 103 200 [content-length: 0] END".to_owned(),
            true,
        ),
        (
            "GET",
            format!("{OK}content-length: 3\r\ncontent-length: 3\r\n\r\nabc"),
            false,
            format!(" {broken}"),
            false,
        ),
        (
            "GET",
            format!("{OK}f o: x\r\n\r\n"),
            false,
            format!(" {broken}"),
            false,
        ),
        (
            "GET",
            format!("{OK}foo: \x01\r\n\r\n"),
            false,
            refused("http1.invalid_characters"),
            false,
        ),
        (
            "GET",
            format!(
                "{OK}via: x\r\nset-cookie: 1\r\nvia: y\r\nset-cookie: 2\r\ncontent-length: 0\r\n\r\n"
            ),
            false,
            "200 [via: x,y] [set-cookie: 1] [set-cookie: 2] [content-length: 0] END".to_owned(),
            true,
        ),
    ];
    for (method, wire, close, wanted, reusable) in cases {
        let (mut client, mut far) = client(ClientHttp1Settings::default());
        client.send_head(&request(method, &[]), EndStream::Yes);
        sent(&mut client, &mut far).await;
        far.write_all(wire.as_bytes()).await.unwrap();
        if close {
            far.shutdown().await.unwrap();
        }
        assert_eq!(response(&mut client).await, wanted, "{wire:?}");
        assert_eq!(client.is_reusable(), reusable, "{wire:?}");
    }
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another() {
    let (mut client, mut far) = client(ClientHttp1Settings::default());
    for _ in 0..3 {
        client.send_head(&request("GET", &[]), EndStream::Yes);
        assert!(!client.is_reusable());
        sent(&mut client, &mut far).await;
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        response(&mut client).await;
        assert!(client.is_reusable());
        poll_fn(|cx| {
            assert!(client.poll_idle(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        client.give_back_buffers();
    }
    drop(far);
    poll_fn(|cx| client.poll_idle(cx)).await;
    assert!(!client.is_reusable());
}

#[tokio::test]
async fn a_response_before_the_end_of_the_request_is_passed_on() {
    let (mut client, mut far) = client(ClientHttp1Settings::default());
    client.send_head(&request("POST", &[("content-length", "6")]), EndStream::No);
    client.send_data(Bytes::from_static(b"abc"), EndStream::No);
    sent(&mut client, &mut far).await;
    far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    response(&mut client).await;
    assert!(!client.is_reusable());
    client.send_data(Bytes::from_static(b"def"), EndStream::Yes);
    sent(&mut client, &mut far).await;
    assert!(client.is_reusable());
}

#[tokio::test]
async fn a_tunnel_ends_as_a_whole() {
    for (method, fields, status, wanted) in [
        (
            "CONNECT",
            &[][..],
            "200 OK",
            "200 raw ConnectionTermination",
        ),
        (
            "GET",
            &[("connection", "upgrade"), ("upgrade", "w")],
            "101 Switching Protocols",
            "101 raw ConnectionTermination",
        ),
    ] {
        let (mut client, mut far) = client(ClientHttp1Settings::default());
        client.send_head(&request(method, fields), EndStream::No);
        sent(&mut client, &mut far).await;
        let wire = format!("HTTP/1.1 {status}\r\n\r\nraw");
        far.write_all(wire.as_bytes()).await.unwrap();
        far.shutdown().await.unwrap();
        assert_eq!(response(&mut client).await, wanted);
        assert!(!client.is_reusable());
    }
}

/// Sends one request over a pipe of our own server and client; gives both bodies as the other end got them.
async fn exchange(
    server: &mut ServerConnection,
    client: &mut ClientConnection,
    request_body: &[Vec<u8>],
    response_body: &[Vec<u8>],
    with_length: bool,
) -> (Vec<u8>, Vec<u8>) {
    let length = |pieces: &[Vec<u8>]| pieces.iter().map(Vec::len).sum::<usize>().to_string();
    let asking = async {
        let mut head = request("POST", &[]);
        if with_length {
            head.fields
                .append(Known::ContentLength, length(request_body));
        }
        client.send_head(&head, EndStream::No);
        for piece in request_body {
            client.send_data(Bytes::from(piece.clone()), EndStream::No);
            poll_fn(|cx| client.poll_ready(cx)).await;
        }
        client.send_data(Bytes::new(), EndStream::Yes);
        poll_fn(|cx| client.poll_flush(cx)).await;
        let mut got = Vec::new();
        loop {
            match poll_fn(|cx| client.poll_event(cx)).await {
                ResponseEvent::Head(head, end) => {
                    assert_eq!(head.status, 200);
                    if end.is_end() {
                        break got;
                    }
                }
                ResponseEvent::Data(data, end) => {
                    got.extend_from_slice(&data);
                    if end.is_end() {
                        break got;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    };
    let answering = async {
        let (_, end) = poll_fn(|cx| server.poll_head(cx)).await.unwrap().unwrap();
        let mut got = Vec::new();
        let mut end = end.is_end();
        while !end {
            match poll_fn(|cx| server.poll_event(cx)).await {
                RequestEvent::Data(data, last) => {
                    got.extend_from_slice(&data);
                    end = last.is_end();
                }
                other => panic!("{other:?}"),
            }
        }
        let mut head = ResponseHead::new(200);
        if with_length {
            head.fields
                .append(Known::ContentLength, length(response_body));
        }
        server.send_head(&head, EndStream::No);
        for piece in response_body {
            server.send_data(Bytes::from(piece.clone()), EndStream::No);
            poll_fn(|cx| server.poll_ready(cx)).await;
        }
        server.send_data(Bytes::new(), EndStream::Yes);
        poll_fn(|cx| server.poll_flush(cx)).await;
        assert_eq!(server.finish_stream(), Next::KeepAlive);
        got
    };
    let (response, request) = tokio::join!(asking, answering);
    (request, response)
}

fn body() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let piece = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..20),
        (0usize..40_000, any::<u8>()).prop_map(|(size, byte)| vec![byte; size]),
    ];
    proptest::collection::vec(piece, 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn bodies_pass_between_our_two_ends_whatever_the_pipe_takes(
        messages in proptest::collection::vec((body(), body(), any::<bool>()), 1..4),
        pipe in 1usize..70_000,
        limit in 1usize..100_000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (near, far) = tokio::io::duplex(pipe);
            let mut server = ServerConnection::new(Io::from(far), Rc::default(), limit);
            let mut client = ClientConnection::new(Io::from(near), Rc::default(), limit);
            for (request, response, with_length) in &messages {
                let got =
                    exchange(&mut server, &mut client, request, response, *with_length).await;
                assert!(got == (request.concat(), response.concat()));
                assert!(client.is_reusable());
            }
        });
    }
}

#[tokio::test]
async fn trailers_pass_where_they_are_enabled() {
    let mut settings = ClientHttp1Settings::default();
    settings.options.enable_trailers = true;
    let (mut client, mut far) = client(settings);
    client.send_head(&request("POST", &[]), EndStream::No);
    let mut trailers = Fields::new();
    trailers.append("foo", "bar");
    client.send_trailers(&trailers);
    assert_eq!(
        sent(&mut client, &mut far).await,
        "POST /x HTTP/1.1|host: a|transfer-encoding: chunked||0|foo: bar||"
    );
    far.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(
        response(&mut client).await,
        "200 [transfer-encoding: chunked] {\"a\": \"b\"} END"
    );
    assert!(client.is_reusable());
}
