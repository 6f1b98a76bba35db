//! The parser against what Envoy 1.40 was seen to do, and connections over in-memory pipes.

use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::lines::HeadSearch;
use super::*;
use crate::http::{EndStream, RequestHead, ResponseHead};
use crate::http_connection_manager::codec::{
    ProtocolError, RequestEvent, ServerStream, StreamReset,
};
use crate::net::Io;

/// What a request comes to: the head as an upstream would see it and its framing, or the details of its refusal.
fn judge(raw: &[u8], settings: &Http1Settings) -> Result<Option<(String, Framing)>, &'static str> {
    show(parse_request(raw, settings))
}

fn show(
    parsed: Result<Option<(Request, usize)>, Reject>,
) -> Result<Option<(String, Framing)>, &'static str> {
    let Some((request, _)) = parsed.map_err(Reject::details)? else {
        return Ok(None);
    };
    let mut text = Vec::new();
    request_head(
        &mut text,
        &request.head,
        EndStream::Yes,
        RequestContext {
            tunnel: true,
            fully_qualified: false,
            format: HeaderKeyFormat::LowerCase,
        },
    );
    let text = String::from_utf8_lossy(&text).replace("\r\n", "|");
    Ok(Some((text, request.framing)))
}

fn get(line: &str, fields: &str) -> Vec<u8> {
    format!("{line}\r\nHost: a\r\n{fields}\r\n").into_bytes()
}

/// Requests that Envoy answers by itself, with the details of its log.
fn refused() -> Vec<(Vec<u8>, &'static str)> {
    const CODEC: &str = "http1.codec_error";
    const CHARACTERS: &str = "http1.invalid_characters";
    let line = |line: &str, details| (get(line, ""), details);
    let field = |field: &str, details| (get("GET /x HTTP/1.1", field), details);
    let post = |field: &str, details| (get("POST /x HTTP/1.1", field), details);
    vec![
        line(" GET /x HTTP/1.1", CODEC),
        line("\x16\x03\x01", CODEC),
        line("GET", CODEC),
        line("GET /x", "low_version"),
        line("GET /x HTTP/1.0", "low_version"),
        line("GET /x HTTP/1.2", "low_version"),
        line("GET /x HTTP/2.0", "low_version"),
        line("GET /x http/1.1", CODEC),
        line("GET /x HTTP/1.10", CODEC),
        line("GET /x JUNK", CODEC),
        line("GET /x y HTTP/1.1", CODEC),
        line("G\0T /x y HTTP/1.1", CHARACTERS),
        (get("FOO /x HTTP/1.1", "a: \x01\r\n"), CHARACTERS),
        line("GET /x HTTP/1.1 foo", CODEC),
        line("get /x HTTP/1.1", CODEC),
        line("FOO /x HTTP/1.1", CODEC),
        line("M-SEARCH /x HTTP/1.1", CODEC),
        line("GET /ä HTTP/1.1", CODEC),
        line("GET /a\x01 HTTP/1.1", CHARACTERS),
        line("GET /a\x7f HTTP/1.1", CHARACTERS),
        line("GET abc HTTP/1.1", CODEC),
        line("GET * HTTP/1.1", "http1.invalid_url"),
        line("GET ftp://b.c/p HTTP/1.1", "http1.invalid_scheme"),
        line("GET http://b.c:99999/p HTTP/1.1", "http1.invalid_url"),
        line("GET http://b^c/p HTTP/1.1", CODEC),
        line("CONNECT b HTTP/1.1", "http1.invalid_url"),
        (
            get("CONNECT b:80 HTTP/1.1", "content-length: 5\r\n"),
            "http1.body_disallowed",
        ),
        (
            get("CONNECT b:80 HTTP/1.1", "transfer-encoding: chunked\r\n"),
            "http1.invalid_transfer_encoding",
        ),
        (
            b"GET /x HTTP/1.1\r\nHost: a b\r\n\r\n".to_vec(),
            "http.invalid_authority",
        ),
        (
            b"GET /x HTTP/1.1\r\nHost: a/b\r\n\r\n".to_vec(),
            "http.invalid_authority",
        ),
        field(":path: /z\r\n", CODEC),
        field("foo\r\n", CODEC),
        field("foo : v\r\n", CODEC),
        field("f\"o: v\r\n", CODEC),
        field("f\x01o: v\r\n", CHARACTERS),
        field("foo: v\x01w\r\n", CHARACTERS),
        field("foo: v\x7fw\r\n", CHARACTERS),
        field("foo: v\0w\r\n", CHARACTERS),
        field("\rfoo: a\r\n", CODEC),
        field(
            "connection: 1,2,3,4,5,6,7,8,9,10\r\n",
            "http1.connection_header_rejected",
        ),
        field(
            "connection: x-forwarded-for\r\nx-forwarded-for: 1.2.3.4\r\n",
            "http1.connection_header_rejected",
        ),
        field("connection: :path\r\n", "http1.connection_header_rejected"),
        post("content-length: 3\r\ncontent-length: 3\r\n", CODEC),
        post("content-length: 3,3\r\n", CODEC),
        post("content-length: -3\r\n", CODEC),
        post("content-length: +3\r\n", CODEC),
        post("content-length: \r\n", CODEC),
        post("content-length: 18446744073709551616\r\n", CODEC),
        post(
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "http1.invalid_transfer_encoding",
        ),
        post(
            "transfer-encoding: gzip, chunked\r\n",
            "http1.invalid_transfer_encoding",
        ),
        post("transfer-encoding: \r\n", "http1.invalid_transfer_encoding"),
        post(
            "transfer-encoding: chunked\r\ncontent-length: 3\r\n",
            "http1.content_length_and_chunked_not_allowed",
        ),
        field(
            &(0..100).map(|i| format!("h{i}: x\r\n")).collect::<String>(),
            "http1.too_many_headers",
        ),
        field(
            &format!("h: {}\r\n", "x".repeat(61440)),
            "http1.headers_too_large",
        ),
    ]
}

/// Requests that Envoy takes, as its upstream sees them (`|` ends a line), without the fields that it adds.
fn accepted() -> Vec<(Vec<u8>, &'static str, Framing)> {
    let line = |line: &str, seen| (get(line, ""), seen, Framing::None);
    let field = |field: &str, seen| (get("GET /x HTTP/1.1", field), seen, Framing::None);
    vec![
        line("GET  /x  HTTP/1.1", "GET /x HTTP/1.1|host: a||"),
        line("GET /xHTTP/1.1", "GET /xHTTP/1.1 HTTP/1.1||"),
        line("GET\t/x\tHTTP/1.1 ", "GET /x HTTP/1.1|host: a||"),
        line("GET /x\r HTTP/1.1", "GET /x HTTP/1.1|host: a||"),
        line("MSEARCH /x HTTP/1.1", "MSEARCH /x HTTP/1.1|host: a||"),
        line("OPTIONS * HTTP/1.1", "OPTIONS * HTTP/1.1|host: a||"),
        line(
            "GET http://b.c:81/p?q HTTP/1.1",
            "GET /p?q HTTP/1.1|host: b.c:81||",
        ),
        line("GET HTTP://B.c HTTP/1.1", "GET / HTTP/1.1|host: B.c||"),
        line(
            "GET http://u:p@b.c/p HTTP/1.1",
            "GET /p HTTP/1.1|host: b.c||",
        ),
        (
            b"GET /x HTTP/1.1\nHost: a\n\n".to_vec(),
            "GET /x HTTP/1.1|host: a||",
            Framing::None,
        ),
        (
            b"GET /x HTTP/1.1\r\nHost:\r\n\r\n".to_vec(),
            "GET /x HTTP/1.1|host: ||",
            Framing::None,
        ),
        field("Host: b\r\n", "GET /x HTTP/1.1|host: a,b||"),
        field(
            "X-B: 1\r\nA: 1\r\nx-b: 2\r\n",
            "GET /x HTTP/1.1|host: a|x-b: 1|a: 1|x-b: 2||",
        ),
        field(
            "via: x\r\nb: 1\r\nvia: y\r\n",
            "GET /x HTTP/1.1|host: a|via: x,y|b: 1||",
        ),
        field(
            "foo: \t v\tw \t \r\n",
            "GET /x HTTP/1.1|host: a|foo: v\tw||",
        ),
        field("foo: a\r\n b\r\n", "GET /x HTTP/1.1|host: a|foo: a b||"),
        field("foo: v\rw\r\n", "GET /x HTTP/1.1|host: a|foo: vw||"),
        field(
            "foo: a\r\n  \r\nbar: c\r\n",
            "GET /x HTTP/1.1|host: a|foo: a|bar: c||",
        ),
        field("foo: vä\r\n", "GET /x HTTP/1.1|host: a|foo: vä||"),
        field(
            "connection: foo, bar , te\r\nfoo: 1\r\nbar: 2\r\nte: trailers, gzip\r\n",
            "GET /x HTTP/1.1|host: a|connection: te|te: trailers||",
        ),
        field(
            "connection: upgrade, http2-settings, foo\r\nupgrade: h2c\r\nhttp2-settings: AA\r\nfoo: 1\r\n",
            "GET /x HTTP/1.1|host: a||",
        ),
        (
            get(
                "GET /x HTTP/1.1",
                "connection: upgrade\r\nupgrade: websocket\r\n",
            ),
            "GET /x HTTP/1.1|host: a|connection: upgrade|upgrade: websocket||",
            Framing::Raw,
        ),
        (
            get("CONNECT b:80 HTTP/1.1", "content-length: 0\r\n"),
            "CONNECT b:80 HTTP/1.1|host: b:80||",
            Framing::Raw,
        ),
        (
            get("POST /x HTTP/1.1", "content-length: 0003 \t\r\n"),
            "POST /x HTTP/1.1|host: a|content-length: 0003||",
            Framing::Length(3),
        ),
        (
            get("POST /x HTTP/1.1", "Transfer-Encoding: CHUNKED\r\n"),
            "POST /x HTTP/1.1|host: a||",
            Framing::Chunked,
        ),
    ]
}

#[test]
fn requests_that_envoy_refuses_are_refused_with_its_details() {
    for (raw, details) in refused() {
        let shown = String::from_utf8_lossy(&raw).into_owned();
        let got = judge(&raw, &Http1Settings::default());
        assert_eq!(got, Err(details), "{shown:?}");
    }
}

#[test]
fn requests_that_envoy_takes_reach_the_upstream_as_there() {
    for (raw, seen, framing) in accepted() {
        let shown = String::from_utf8_lossy(&raw).into_owned();
        let got = judge(&raw, &Http1Settings::default());
        assert_eq!(got, Ok(Some((seen.to_owned(), framing))), "{shown:?}");
    }
}

#[test]
fn options_change_what_is_taken() {
    let with = |change: fn(&mut Http1Settings), raw: &[u8]| {
        let mut settings = Http1Settings::default();
        change(&mut settings);
        judge(raw, &settings).map(|ok| ok.map(|(text, _)| text))
    };
    let text = |text: &str| Ok(Some(text.to_owned()));
    assert_eq!(
        with(
            |s| s.options.allow_custom_methods = true,
            &get("FOO /x HTTP/1.1", "")
        ),
        text("FOO /x HTTP/1.1|host: a||")
    );
    assert_eq!(
        with(
            |s| s.options.allow_absolute_url = false,
            &get("GET http://b/x HTTP/1.1", "")
        ),
        text("GET http://b/x HTTP/1.1|host: a||")
    );
    let http10 = |s: &mut Http1Settings| {
        s.options.accept_http_10 = true;
        s.options.default_host_for_http_10 = Some("d".into());
    };
    assert_eq!(
        with(http10, b"GET /x HTTP/1.0\r\n\r\n"),
        text("GET /x HTTP/1.1|host: d||")
    );
    let both = get(
        "POST /x HTTP/1.1",
        "transfer-encoding: chunked\r\ncontent-length: 3\r\n",
    );
    assert_eq!(
        with(|s| s.options.allow_chunked_length = true, &both),
        text("POST /x HTTP/1.1|host: a||")
    );
    let underscore = get("GET /x HTTP/1.1", "a_b: 1\r\nc: 2\r\n");
    assert_eq!(
        with(
            |s| s.headers_with_underscores_action = HeadersWithUnderscoresAction::DropHeader,
            &underscore
        ),
        text("GET /x HTTP/1.1|host: a|c: 2||")
    );
    assert_eq!(
        with(
            |s| s.headers_with_underscores_action = HeadersWithUnderscoresAction::RejectRequest,
            &underscore
        ),
        Err("http1.unexpected_underscore")
    );
}

#[test]
fn a_head_of_exactly_the_limit_is_taken() {
    let fill = 61440 - get("GET /x HTTP/1.1", "h: \r\n").len();
    let head = |fill: usize| get("GET /x HTTP/1.1", &format!("h: {}\r\n", "x".repeat(fill)));
    assert!(matches!(
        judge(&head(fill), &Http1Settings::default()),
        Ok(Some(_))
    ));
    assert_eq!(
        judge(&head(fill + 1), &Http1Settings::default()),
        Err("http1.headers_too_large")
    );
    assert_eq!(
        judge(
            format!("GET /{}", "x".repeat(61440)).as_bytes(),
            &Http1Settings::default()
        ),
        Err("http1.headers_too_large")
    );
}

/// Parses a request that comes in pieces, as a connection does. One answer depends on the pieces, as in Envoy: whether bad
/// characters behind a bad first line are seen.
fn in_pieces(raw: &[u8], cuts: &[usize]) -> Result<Option<(String, Framing)>, &'static str> {
    match all_pieces(raw, cuts) {
        Err("http1.invalid_characters") => Err("http1.codec_error"),
        other => other,
    }
}

fn all_pieces(raw: &[u8], cuts: &[usize]) -> Result<Option<(String, Framing)>, &'static str> {
    let settings = Http1Settings::default();
    let mut search = HeadSearch::default();
    for end in cuts.iter().copied().chain([raw.len()]) {
        let parsed = request::parse(&raw[..end], &mut search, &settings);
        if !matches!(parsed, Ok(None)) {
            return show(parsed);
        }
    }
    Ok(None)
}

fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("GET ".to_owned()),
        Just("POST ".to_owned()),
        Just("/x".to_owned()),
        Just(" HTTP/1.1".to_owned()),
        Just("\r\n".to_owned()),
        Just("\n".to_owned()),
        Just("Host: a\r\n".to_owned()),
        Just("content-length: 3\r\n".to_owned()),
        Just("transfer-encoding: chunked\r\n".to_owned()),
        Just("connection: close, te\r\n".to_owned()),
        Just(": ".to_owned()),
        Just(" ".to_owned()),
        Just("\t".to_owned()),
        Just("\r".to_owned()),
        "[a-z]{1,6}: [ -~]{0,8}\r\n",
        "[\\x00-\\xff]{0,3}",
    ];
    let pieces = proptest::collection::vec(piece, 0..12).prop_map(|p| p.concat().into_bytes());
    prop_oneof![
        pieces.clone(),
        pieces.prop_map(|tail| {
            let mut raw = b"GET /x HTTP/1.1\r\n".to_vec();
            raw.extend(tail);
            raw.extend_from_slice(b"\r\n\r\n");
            raw
        })
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn both_parsers_decide_alike(raw in plausible()) {
        let settings = Http1Settings::default();
        let lenient = request::parse_lenient(&raw, &mut HeadSearch::default(), &settings);
        let length = |p: &Result<Option<(Request, usize)>, Reject>| match p {
            Ok(Some((_, length))) => Some(*length),
            _ => None,
        };
        let both = parse_request(&raw, &settings);
        prop_assert_eq!(length(&both), length(&lenient));
        prop_assert_eq!(show(both), show(lenient));
    }

    #[test]
    fn any_split_of_a_request_gives_the_same_answer(
        raw in plausible(),
        mut cuts in proptest::collection::vec(0usize..120, 0..5),
    ) {
        cuts.iter_mut().for_each(|cut| *cut = (*cut).min(raw.len()));
        cuts.sort_unstable();
        prop_assert_eq!(in_pieces(&raw, &cuts), in_pieces(&raw, &[]));
    }

    #[test]
    fn any_split_of_the_known_cases_gives_the_same_answer(
        which in 0usize..200,
        mut cuts in proptest::collection::vec(0usize..120, 0..5),
    ) {
        let cases: Vec<Vec<u8>> = refused().into_iter().map(|c| c.0)
            .chain(accepted().into_iter().map(|c| c.0)).collect();
        let raw = &cases[which % cases.len()];
        cuts.iter_mut().for_each(|cut| *cut = (*cut).min(raw.len()));
        cuts.sort_unstable();
        prop_assert_eq!(in_pieces(raw, &cuts), in_pieces(raw, &[]));
    }

    #[test]
    fn responses_are_read_alike_by_both_parsers(
        status in "[0-9a]{2,4}",
        tail in "[a-zA-Z: \\r\\n\\t]{0,40}",
    ) {
        let raw = format!("HTTP/1.1 {status} OK\r\n{tail}\r\n\r\n").into_bytes();
        let settings = ClientHttp1Settings::default();
        let to = ResponseTo::default();
        let show = |p: Result<Option<(Response, usize)>, Reject>| {
            p.map(|p| p.map(|(r, n)| (format!("{:?} {:?}", r.head, r.framing), n)))
        };
        let lenient = response::parse_lenient(&raw, &mut HeadSearch::default(), to, &settings);
        prop_assert_eq!(show(parse_response(&raw, to, &settings)), show(lenient));
    }
}

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
