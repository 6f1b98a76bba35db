//! Where requests end: lengths, codings, chunks and trailers.

use super::{CHUNKS, all_refused, post};
use crate::case::{Case, case, raw};

pub(super) fn lengths() -> Vec<Case> {
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

pub(super) fn codings() -> Vec<Case> {
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

pub(super) fn chunks() -> Vec<Case> {
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

pub(super) fn trailers() -> Vec<Case> {
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
