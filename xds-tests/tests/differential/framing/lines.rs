//! The lines of a message, and the connections that they end.

use std::time::Duration;

use super::all_refused;
use crate::case::{Case, Step, case, raw};

pub(super) fn connections() -> Vec<Case> {
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

pub(super) fn lines() -> Vec<Case> {
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

pub(super) fn http10() -> Vec<Case> {
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
