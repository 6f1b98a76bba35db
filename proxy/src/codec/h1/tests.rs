//! The parser against what Envoy 1.40 was seen to do.

use proptest::prelude::*;

use super::lines::HeadSearch;
use super::*;
use crate::http::{EndStream, HeadersWithUnderscoresAction};

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

pub(super) fn get(line: &str, fields: &str) -> Vec<u8> {
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
        post("content-length: 3\r\ncontent-length:\r\n", CODEC),
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
