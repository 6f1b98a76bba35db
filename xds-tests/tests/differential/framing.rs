//! Where HTTP/1 messages end: what could be read in two ways, and what becomes of it.

use crate::case::{Act, Case, Step, With, acts, case, get, raw, request, send};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    [
        lengths(),
        codings(),
        chunks(),
        trailers(),
        connections(),
        lines(),
        http10(),
        responses(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const CHUNKS: &str = "2\r\nhi\r\n0\r\n\r\n";

/// A POST with these fields and this after its head.
fn post(fields: &str, rest: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n{rest}")
}

/// Every one of these is refused so, each on a connection of its own, before the upstream sees anything.
fn all_refused(
    title: &'static str,
    requests: impl IntoIterator<Item = String>,
    status: u16,
    details: &str,
) -> Case {
    let case = case(title).lacks(["> *", "< 200"]);
    let case = requests
        .into_iter()
        .enumerate()
        .fold(case, |case, (number, bytes)| case.on(number).raw(&bytes));
    let (status, details) = (format!("< {status}"), format!("log details={details}"));
    case.shows([&status, &details, "log flags=DPE"])
}

fn lengths() -> Vec<Case> {
    let with = |value: &str| post(&format!("content-length: {value}\r\n"), "hi");
    vec![
        all_refused(
            "a content-length with a sign is refused",
            ["+2", "-2", "-0"].map(with),
            400,
            "http1.codec_error",
        ),
        all_refused(
            "a content-length that is more than digits is refused",
            ["2;q", "0x2", "1e1", "2,", ",2", "2, 2"].map(with),
            400,
            "http1.codec_error",
        ),
        all_refused(
            "a content-length beyond 64 bits is refused",
            ["18446744073709551616", "99999999999999999999"].map(with),
            400,
            "http1.codec_error",
        ),
        all_refused(
            "a content-length of nothing is refused",
            [with("")],
            400,
            "http1.codec_error",
        ),
        all_refused(
            "a second content-length is refused even behind a zero",
            [post("content-length: 0\r\ncontent-length: 2\r\n", "hi")],
            400,
            "http1.codec_error",
        ),
        case("leading zeros of a content-length count for nothing")
            .raw(&with("0002"))
            .shows(["< 200", "> body hi", "= connection 0: open"]),
        case("the next request begins right behind a body")
            .raw(&(post("content-length: 2\r\n", "hi") + "GET /next HTTP/1.1\r\nhost: b\r\n\r\n"))
            .read()
            .shows([
                "> body hi",
                "> connection 1: GET /next HTTP/1.1",
                "> host: b",
            ]),
        case("a body with HEAD is read and passed on")
            .raw("HEAD / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi")
            .shows(["> body hi", "> connection 1: HEAD / HTTP/1.1"]),
    ]
}

fn codings() -> Vec<Case> {
    let with = |value: &str| post(&format!("transfer-encoding: {value}\r\n"), CHUNKS);
    vec![
        all_refused(
            "a transfer coding that is not just chunked is 501",
            [
                "identity",
                "gzip, chunked",
                "chunked, identity",
                "chunked;q=1",
                "\"chunked\"",
                ",chunked",
                "xchunked",
            ]
            .map(with),
            501,
            "http1.invalid_transfer_encoding",
        ),
        all_refused(
            "two transfer codings are 501",
            [
                post(
                    "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
                    CHUNKS,
                ),
                post(
                    "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n",
                    CHUNKS,
                ),
            ],
            501,
            "http1.invalid_transfer_encoding",
        ),
        all_refused(
            "chunked beside a length is refused in either order",
            [
                post(
                    "content-length: 2\r\ntransfer-encoding: chunked\r\n",
                    CHUNKS,
                ),
                post(
                    "transfer-encoding: chunked\r\ncontent-length: 2\r\n",
                    CHUNKS,
                ),
            ],
            400,
            "http1.content_length_and_chunked_not_allowed",
        ),
        case("a transfer coding with a bare CR is refused")
            .deviates("Envoy reads it as none and passes the CR on as nothing")
            .raw(&with("chun\rked"))
            .shows(["< 200"]),
        all_refused(
            "a space before the colon of a framing field is refused",
            [
                post("content-length : 2\r\n", "hi"),
                post("transfer-encoding : chunked\r\n", CHUNKS),
            ],
            400,
            "http1.codec_error",
        ),
        case("a folded chunked is chunked")
            .raw(&post("transfer-encoding:\r\n chunked\r\n", CHUNKS))
            .shows(["< 200", "> body hi"]),
        case("an underscore makes another field")
            .raw(&post(
                "transfer_encoding: chunked\r\ncontent-length: 2\r\n",
                "hi",
            ))
            .shows(["< 200", "> body hi", "> transfer_encoding: chunked"]),
        case("GET may be chunked")
            .raw(&format!(
                "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{CHUNKS}"
            ))
            .shows(["> body hi", "> transfer-encoding: chunked"]),
    ]
}

/// Chunks that break the rules, each on a connection of its own: 400 while the request is on its way.
fn bad_chunks(title: &'static str, chunks: &[&str]) -> Case {
    let case = chunks
        .iter()
        .enumerate()
        .fold(case(title), |case, (number, chunks)| {
            case.on(number)
                .raw(&post("transfer-encoding: chunked\r\n", chunks))
        });
    case.lacks(["< 200"]).shows([
        "< 400",
        "< connection: close",
        "log details=http1.codec_error",
        "log flags=DPE",
    ])
}

fn chunks() -> Vec<Case> {
    let good = |title, chunks: &str| {
        case(title)
            .raw(
                &(post("transfer-encoding: chunked\r\n", chunks)
                    + "GET /next HTTP/1.1\r\nhost: b\r\n\r\n"),
            )
            .read()
            .shows(["> body hi", "> connection 1: GET /next HTTP/1.1"])
    };
    vec![
        bad_chunks(
            "a chunk size with a sign or a prefix is refused",
            &[
                "+2\r\nhi\r\n0\r\n\r\n",
                "-2\r\nhi\r\n0\r\n\r\n",
                "0x2\r\nhi\r\n0\r\n\r\n",
            ],
        ),
        bad_chunks(
            "a chunk without a size is refused",
            &[
                "\r\nhi\r\n0\r\n\r\n",
                ";a=b\r\nhi\r\n0\r\n\r\n",
                " 2\r\nhi\r\n0\r\n\r\n",
            ],
        ),
        bad_chunks(
            "a chunk size beyond 64 bits is refused",
            &["fffffffffffffffff\r\nhi\r\n0\r\n\r\n"],
        ),
        bad_chunks(
            "a chunk size that ends in a bare LF is refused",
            &[
                "2\nhi\r\n0\r\n\r\n",
                "2;a\nhi\r\n0\r\n\r\n",
                "2\r\nhi\r\n0\n\n",
            ],
        ),
        bad_chunks(
            "a chunk extension with a bare CR is refused",
            &["2;a\rb\r\nhi\r\n0\r\n\r\n"],
        ),
        good(
            "what stands behind a chunk size is dropped",
            "2 ;x=\"y\"\r\nhi\r\n0;z\r\n\r\n",
        ),
        good("a chunk may end in a bare LF", "2\r\nhi\n0\r\n\r\n"),
        good(
            "zeros before a chunk size count for nothing",
            "0002\r\nhi\r\n000\r\n\r\n",
        ),
        good(
            "the last line of chunks may be a bare LF",
            "2\r\nhi\r\n0\r\n\n",
        ),
    ]
}

fn trailers() -> Vec<Case> {
    const PASSING: &str = "http_protocol_options: { enable_trailers: true }";
    let passing = |title| {
        case(title)
            .hcm(PASSING)
            .protocol_options(&format!("explicit_http_config: {{ {PASSING} }}"))
    };
    let with = |trailers: &str| {
        post(
            "transfer-encoding: chunked\r\n",
            &format!("2\r\nhi\r\n0\r\n{trailers}\r\n"),
        )
    };
    vec![
        bad_chunks("trailers are judged even where nobody gets them", &["2\r\nhi\r\n0\r\nnocolon\r\n\r\n", "2\r\nhi\r\n0\r\nx : 1\r\n\r\n", "2\r\nhi\r\n0\r\n:path: /\r\n\r\n"]),
        case("a control character in a trailer is refused")
            .raw(&with("x: a\0b\r\n"))
            .shows(["< 400", "log details=http1.invalid_characters"]),
        case("trailers are dropped by default")
            .raw(&with("x-t: 1\r\ncontent-length: 5\r\n"))
            .shows(["< 200", "> body hi"])
            .lacks(["> trailer*", "> content-length*"]),
        passing("trailers of a request pass on where both sides take them")
            .raw(&with("X-T: 1\r\nx-t: 2\r\n"))
            .shows(["> trailer x-t: 1", "> trailer x-t: 2", "> body hi"]),
        passing("trailers of a response pass on where both sides take them")
            .reply(raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-R: 1\r\n\r\n"))
            .get("/")
            .shows(["< trailer x-r: 1", "< body ok"]),
        passing("a trailer that looks like framing stays a trailer")
            .raw(&with("content-length: 5\r\ntransfer-encoding: gzip\r\n"))
            .shows(["< 200", "> body hi", "> transfer-encoding: chunked"]),
    ]
}

fn connections() -> Vec<Case> {
    let with = |fields: &str| format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
    vec![
        case("fields that Connection names go no further")
            .raw(&with("connection: x-one, x-two\r\nx-one: 1\r\nx-two: 2\r\nx-three: 3\r\n"))
            .shows(["> x-three: 3"])
            .lacks(["> x-one*", "> x-two*", "> connection: *"]),
        all_refused(
            "Connection must not name who the client is",
            ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", ":path"]
                .map(|name| with(&format!("connection: {name}\r\n"))),
            400,
            "http1.connection_header_rejected",
        ),
        all_refused(
            "Connection must not name too much",
            [with("connection: a, b, c, d, e, f, g, h, i, j\r\n")],
            400,
            "http1.connection_header_rejected",
        ),
        case("te goes no further but for trailers where Connection names it")
            .on(0)
            .raw(&with("connection: te\r\nte: gzip, trailers\r\n"))
            .on(1)
            .raw(&with("connection: te\r\nte: gzip\r\n"))
            .shows(["> te: trailers", "< 200"])
            .lacks(["> te: gzip*"]),
        case("Connection that names content-length takes it away")
            .raw(&with("connection: content-length\r\ncontent-length: 0\r\n"))
            .shows(["< 200", "= connection 0: open"])
            .lacks(["> content-length*"]),
        case("close counts among other tokens and in any case")
            .raw(&with("connection: x-a, Close\r\n"))
            .shows(["< 200", "< connection: close", "= connection 0: closed"]),
        case("proxy-connection close ends the connection")
            .raw(&with("proxy-connection: close\r\n"))
            .shows(["< 200", "= connection 0: closed"])
            .lacks(["> proxy-connection*"]),
        case("what follows a request that closes is not read")
            .raw(&(with("connection: close\r\n") + &with("x-second: 1\r\n")))
            .step(Step::AwaitClose(Duration::from_secs(4)))
            .ends_somehow()
            .shows(["< 200"])
            .lacks(["> x-second*"]),
        case("what follows a refused request is not read")
            .raw(&("BAD\r\n\r\n".to_owned() + &with("x-second: 1\r\n")))
            .step(Step::AwaitClose(Duration::from_secs(4)))
            .ends_somehow()
            .shows(["< 400"])
            .lacks(["> *"]),
        case("a bad request behind a good one is answered after it")
            .raw(&(with("") + "BAD\r\n\r\n"))
            .read()
            .shows(["< 200", "< 400", "log details=http1.codec_error"]),
        case("three pipelined requests are answered in turn")
            .raw("GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\nGET /3 HTTP/1.1\r\nhost: a\r\n\r\n")
            .read()
            .read()
            .shows(["> connection 1: GET /1 HTTP/1.1", "> connection 1: GET /2 HTTP/1.1", "> connection 1: GET /3 HTTP/1.1"]),
    ]
}

fn lines() -> Vec<Case> {
    let line = |line: &str| format!("{line}\r\nhost: a\r\n\r\n");
    vec![
        all_refused(
            "a version that is none is refused",
            [
                "GET / http/1.1",
                "GET / HTTP/1",
                "GET / HTTP/11",
                "GET / HTTP/a.b",
                "GET / HTTP/1.10",
            ]
            .map(line),
            400,
            "http1.codec_error",
        ),
        case("versions below and above 1.1 are 426")
            .on(0)
            .raw(&line("GET / HTTP/1.0"))
            .on(1)
            .raw(&line("GET / HTTP/0.9"))
            .on(2)
            .raw(&line("GET / HTTP/2.0"))
            .shows([
                "< 426",
                "< 426",
                "< 426",
                "log details=low_version",
                "log flags=DPE",
            ])
            .lacks(["> *"]),
        all_refused(
            "a method that nobody knows is refused",
            [
                "FOO / HTTP/1.1",
                "get / HTTP/1.1",
                "TRACK / HTTP/1.1",
                "M-SEARCH / HTTP/1.1",
            ]
            .map(line),
            400,
            "http1.codec_error",
        ),
        case("allow_custom_methods takes any token")
            .hcm("http_protocol_options: { allow_custom_methods: true }")
            .on(0)
            .raw(&line("FOO / HTTP/1.1"))
            .on(1)
            .raw(&line("F@O / HTTP/1.1"))
            .shows(["> connection 1: FOO / HTTP/1.1", "< 200", "< 400"]),
        all_refused(
            "a URL of another scheme than HTTP's is refused",
            ["GET ftp://b/x HTTP/1.1", "GET ws://b/x HTTP/1.1"].map(line),
            400,
            "http1.invalid_scheme",
        ),
        case("the host of an absolute URL wins over the field")
            .raw("GET http://b:81/x?y HTTP/1.1\r\nhost: a\r\n\r\n")
            .shows(["> host: b:81", "> connection 1: GET /x?y HTTP/1.1"])
            .lacks(["> host: a"]),
        case("an absolute URL needs no host field, and may lack a path")
            .raw("GET http://b?q HTTP/1.1\r\n\r\n")
            .shows(["< 404", "log details=absolute_path_rejected"]),
        case("credentials in an absolute URL are dropped")
            .raw("GET http://u:p@b/x HTTP/1.1\r\n\r\n")
            .shows(["> host: b"]),
        all_refused(
            "an absolute URL with a port that is none is refused",
            [
                "GET http://b:99999/ HTTP/1.1",
                "GET http://b:/ HTTP/1.1",
                "GET http://b:x/ HTTP/1.1",
            ]
            .map(line),
            400,
            "http1.invalid_url",
        ),
        all_refused(
            "a folded first field is refused",
            ["GET / HTTP/1.1\r\n x: 1\r\nhost: a\r\n\r\n".to_owned()],
            400,
            "http1.codec_error",
        ),
        all_refused(
            "pseudo headers are no fields",
            [":path: /x", ":authority: b", ": x"]
                .map(|field| format!("GET / HTTP/1.1\r\nhost: a\r\n{field}\r\n\r\n")),
            400,
            "http1.codec_error",
        ),
        case("an endless first line is 431")
            .raw(&format!("GET /{}", "a".repeat(70_000)))
            .shows(["< 431", "log details=http1.headers_too_large"]),
        all_refused(
            "a host with what no host has is refused",
            ["a/b", "a?b", "a#b", "<a>", "a\\b", "a{"]
                .map(|host| format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")),
            400,
            "http.invalid_authority",
        ),
        case("TLS on a port without TLS is refused")
            .step(Step::Send(vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]))
            .read()
            .shows(["< 400", "log details=http1.codec_error"]),
    ]
}

fn http10() -> Vec<Case> {
    let accepting = |title| {
        case(title)
            .hcm("http_protocol_options: { accept_http_10: true, default_host_for_http_10: dflt }")
    };
    vec![
        accepting("HTTP/1.0 is answered with HTTP/1.0 and closed")
            .raw("GET / HTTP/1.0\r\nhost: a\r\n\r\n")
            .shows(["< line HTTP/1.0 200 OK", "< connection: close", "= connection 0: closed", "> connection 1: GET / HTTP/1.1"]),
        accepting("HTTP/1.0 may keep its connection")
            .raw("GET /1 HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n")
            .raw("GET /2 HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n")
            .shows(["< connection: keep-alive", "= connection 0: open", "> connection 1: GET /2 HTTP/1.1"]),
        accepting("HTTP/1.0 without a host gets the default one")
            .raw("GET / HTTP/1.0\r\n\r\n")
            .shows(["> host: dflt"]),
        accepting("a response without length ends an HTTP/1.0 connection")
            .reply(raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"))
            .raw("GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n")
            .shows(["< body ok", "= connection 0: closed"])
            .lacks(["< transfer-encoding*"]),
        accepting("HTTP/1.0 may be chunked for Envoy")
            .raw("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
            .shows(["> body hi"]),
        accepting("HTTP/1.0 that expects 100 gets none")
            .deviates("RFC 9110 forbids a 1xx to HTTP/1.0; Envoy sends it")
            .bytes("POST / HTTP/1.0\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nhi")
            .read()
            .shows(["< 100"]),
    ]
}

/// Responses that Envoy turns into 502, one for each request.
fn bad_responses<const N: usize>(title: &'static str, responses: [&str; N]) -> Case {
    let case = case(title).replies(responses.map(raw));
    let case = (0..N).fold(case, |case, _| case.get("/"));
    case.shows([
        "< 502",
        "log flags=UPE",
        "log details=upstream_reset_before_response_started{protocol_error}",
    ])
    .lacks(["< 200"])
}

/// A response that breaks off after its head.
fn broken_response(title: &'static str, bytes: &str, then: &str) -> Case {
    let case = case(title)
        .reply(acts([
            send(bytes),
            pause(),
            send(then),
            pause(),
            Act::Close,
        ]))
        .get("/")
        .ends_somehow();
    let details = "log details=upstream_reset_after_response_started{protocol_error}";
    case.shows(["< 200", "< body ok", details, "log flags=UPE"])
}

fn pause() -> Act {
    Act::Wait(Duration::from_millis(100))
}

fn responses() -> Vec<Case> {
    vec![
        bad_responses(
            "a response with two lengths is 502",
            [
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
                "HTTP/1.1 200 OK\r\ncontent-length: 2,2\r\n\r\nok",
            ],
        ),
        bad_responses(
            "a response with a length that is no number is 502",
            [
                "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
                "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nok",
                "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nok",
            ],
        ),
        bad_responses(
            "a response with another transfer coding is 502",
            [
                "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok",
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nok",
            ],
        ),
        bad_responses(
            "204 with a body is 502",
            [
                "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok",
                "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            ],
        ),
        bad_responses(
            "a response with what no field has is 502",
            [
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx : 1\r\n\r\nok",
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: a\0b\r\n\r\nok",
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n: x\r\n\r\nok",
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n:status: 500\r\n\r\nok",
            ],
        ),
        broken_response(
            "a chunk size of a response that is no number breaks it off",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
            "zz\r\n",
        ),
        broken_response(
            "a response shorter than its length breaks off",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\no",
            "k",
        ),
        broken_response(
            "chunks without an end break a response off",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
            "",
        ),
        case("304 with a length has no body")
            .replies([
                raw("HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n"),
                raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
            ])
            .get("/1")
            .get("/2")
            .shows(["< 304", "< content-length: 2", "< body ok", "> connection 1: GET /2 HTTP/1.1"]),
        case("what a 304 sends behind its head belongs to nobody")
            .replies([
                raw("HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\nxx"),
                raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
            ])
            .get("/1")
            .get("/2")
            .shows(["< 304", "< body ok", "> connection 2: GET /2 HTTP/1.1"]),
        case("a response to HEAD keeps its length and has no body")
            .reply(raw("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"))
            .send(request("HEAD", "/"))
            .shows(["< content-length: 5", "= connection 0: open"]),
        case("a chunked response to HEAD has no body")
            .reply(raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"))
            .send(request("HEAD", "/"))
            .shows(["< 200", "< transfer-encoding: chunked", "= connection 0: open"]),
        case("a second response that nobody asked for reaches nobody")
            .replies([
                raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"),
                raw("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood"),
            ])
            .get("/1")
            .get("/2")
            .shows(["< body ok", "< body good"])
            .lacks(["< body evil"]),
        case("a folded field of a response is one line for the client")
            .reply(raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: one\r\n two\r\n\r\nok"))
            .get("/")
            .shows(["< x-a: one two"]),
        case("fields that concern one connection only do not reach the client")
            .reply(raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nkeep-alive: timeout=5\r\nproxy-connection: close\r\nconnection: keep-alive\r\n\r\nok"))
            .send(get("/").field("x", "y"))
            .shows(["< body ok"])
            .lacks(["< keep-alive*", "< proxy-connection*", "< connection*"]),
        case("an upstream that closes after its response is used once")
            .replies([
                raw("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n1."),
                raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n2."),
            ])
            .get("/1")
            .get("/2")
            .shows(["< body 1.", "< body 2.", "> connection 2: GET /2 HTTP/1.1"])
            .lacks(["< connection: close"]),
        case("an endless status line is 502")
            .reply(raw(&format!("HTTP/1.1 200 {}", "a".repeat(100_000))))
            .get("/")
            .shows(["< 502", "log flags=UPE"]),
    ]
}
