//! Where responses of an upstream end.

use std::time::Duration;

use crate::case::{Act, Case, With, acts, case, get, raw, request, send};

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

pub(super) fn responses() -> Vec<Case> {
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
