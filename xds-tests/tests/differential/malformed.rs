//! What becomes of HTTP/1 that breaks the rules, or bends them.

use crate::case::{Act, Case, Step, acts, case, get, late, raw, send};

pub fn cases() -> Vec<Case> {
    [
        refused_lines(),
        refused_fields(),
        refused_framing(),
        accepted(),
        responses(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A request that Envoy answers by itself with 400 and these details, and closes after.
fn refused(title: &'static str, bytes: &str, details: &str) -> Case {
    let details = format!("log details={details}");
    case(title)
        .raw(bytes)
        .shows([
            "< 400",
            "< connection: close",
            "= connection 0: closed",
            "log code=400",
            "log flags=DPE",
            &details,
        ])
        .lacks(["> *"])
}

/// A request that reaches the backend, where this line is seen.
fn passed(title: &'static str, bytes: &str, seen: &str) -> Case {
    case(title)
        .raw(bytes)
        .shows(["< 200", "= connection 0: open", seen])
}

fn refused_lines() -> Vec<Case> {
    vec![
        case("a request line without version is 426")
            .raw("GET /\r\nhost: a\r\n\r\n")
            .shows([
                "< 426",
                "= connection 0: closed",
                "log code=426",
                "log flags=DPE",
                "log details=low_version",
            ]),
        case("a version other than 1.1 is 426")
            .raw("GET / HTTP/1.2\r\nhost: a\r\n\r\n")
            .shows(["< 426", "log details=low_version"]),
        refused(
            "a request line of noise is refused",
            "\x01\x02\x03\r\n\r\n",
            "http1.codec_error",
        ),
        refused(
            "a method of illegal characters is refused",
            "G@T / HTTP/1.1\r\nhost: a\r\n\r\n",
            "http1.codec_error",
        ),
        refused(
            "a control character in the path is refused",
            "GET /\x01 HTTP/1.1\r\nhost: a\r\n\r\n",
            "http1.invalid_characters",
        ),
        refused(
            "a path that does not start with a slash is refused",
            "GET a HTTP/1.1\r\nhost: a\r\n\r\n",
            "http1.codec_error",
        ),
        refused(
            "a space in the path is refused",
            "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
            "http1.codec_error",
        ),
        refused(
            "HTTP/2's preface to an HTTP/1 listener is refused",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "http1.codec_error",
        )
        .hcm("codec_type: HTTP1"),
        case("a request without host is refused by the connection manager")
            .raw("GET / HTTP/1.1\r\n\r\n")
            .shows([
                "< 400",
                "< content-length: 0",
                "= connection 0: closed",
                "log flags=-",
                "log details=missing_host_header",
            ]),
        case("OPTIONS with an asterisk is 404")
            .raw("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n")
            .shows([
                "< 404",
                "= connection 0: open",
                "log details=absolute_path_rejected",
            ]),
        refused(
            "octets above ASCII in the path are refused",
            "GET /\u{e9} HTTP/1.1\r\nhost: a\r\n\r\n",
            "http1.codec_error",
        ),
        refused(
            "an absolute URL without host is refused",
            "GET http:///x HTTP/1.1\r\nhost: a\r\n\r\n",
            "http1.invalid_url",
        ),
        refused(
            "CONNECT without a host is refused",
            "CONNECT / HTTP/1.1\r\nhost: a\r\n\r\n",
            "http1.invalid_url",
        ),
        refused(
            "an asterisk with a method other than OPTIONS is refused",
            "GET * HTTP/1.1\r\nhost: a\r\n\r\n",
            "http1.invalid_url",
        ),
    ]
}

fn refused_fields() -> Vec<Case> {
    vec![
        refused(
            "a field line without colon is refused",
            "GET / HTTP/1.1\r\nhost: a\r\nnocolon\r\n\r\n",
            "http1.codec_error",
        ),
        refused(
            "a space before the colon is refused",
            "GET / HTTP/1.1\r\nhost: a\r\nx : 1\r\n\r\n",
            "http1.codec_error",
        ),
        refused(
            "an empty field name is refused",
            "GET / HTTP/1.1\r\nhost: a\r\n: 1\r\n\r\n",
            "http1.codec_error",
        ),
        refused(
            "an illegal character in a field name is refused",
            "GET / HTTP/1.1\r\nhost: a\r\nx(y: 1\r\n\r\n",
            "http1.codec_error",
        ),
        refused(
            "NUL in a field value is refused",
            "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
            "http1.invalid_characters",
        ),
        refused(
            "a control character in a field value is refused",
            "GET / HTTP/1.1\r\nhost: a\r\nx: a\x01b\r\n\r\n",
            "http1.invalid_characters",
        ),
        refused(
            "an illegal host is refused",
            "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
            "http.invalid_authority",
        ),
        case("a Connection header that names host takes it away")
            .raw("GET / HTTP/1.1\r\nhost: a\r\nconnection: host\r\n\r\n")
            .shows([
                "< 400",
                "= connection 0: closed",
                "log details=missing_host_header",
            ]),
    ]
}

fn refused_framing() -> Vec<Case> {
    vec![
        refused("content-length and chunked together are refused", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "http1.content_length_and_chunked_not_allowed"),
        refused("a content-length that is no number is refused", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n", "http1.codec_error"),
        refused("a negative content-length is refused", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", "http1.codec_error"),
        refused("two different content-lengths are refused", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", "http1.codec_error"),
        refused("the same content-length twice is refused", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nhi", "http1.codec_error"),
        refused("a content-length list is refused", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 1\r\n\r\na", "http1.codec_error"),
        case("chunked that is not the last coding is 501")
            .raw("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n")
            .shows(["< 501", "= connection 0: closed", "log details=http1.invalid_transfer_encoding"]),
        case("a chunk size that is no number is 400 while the request is at the upstream")
            .raw("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n")
            .shows(["< 400", "= connection 0: closed", "log details=http1.codec_error", "log cluster=@backend"]),
        case("what a chunk has beyond its size is skipped")
            .raw("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n")
            .shows(["< 200", "> body a", "= connection 0: open"]),
        case("allow_chunked_length takes chunked and drops the length")
            .hcm("http_protocol_options: { allow_chunked_length: true }")
            .raw("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
            .shows(["< 200", "> body hi", "> transfer-encoding: chunked"])
            .lacks(["> content-length*"]),
        case("stream_error_on_invalid_http_message keeps the connection")
            .hcm("stream_error_on_invalid_http_message: true")
            .raw("GET / HTTP/1.1\r\n\r\n")
            .shows(["< 400", "= connection 0: open"]),
        case("an absolute URL is 404 where allow_absolute_url is false")
            .hcm("http_protocol_options: { allow_absolute_url: false }")
            .raw("GET http://other/x HTTP/1.1\r\nhost: a\r\n\r\n")
            .shows(["< 404", "log details=absolute_path_rejected"]),
        case("an unknown transfer coding is 501")
            .raw("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n")
            .shows(["< 501", "< body Not Implemented", "log code=501"]),
        case("a client that ends its side inside the head is logged with DC")
            .bytes("GET / HTTP/1.1\r\nhost")
            .step(Step::HalfClose)
            .step(Step::ReadToEnd)
            .logs(1)
            .shows(["= connection 0: closed", "log code=0", "log flags=DC", "log details=downstream_remote_disconnect"]),
        case("a client that ends its side after its request gets no answer")
            .reply(late(300, "late"))
            .bytes("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .step(Step::HalfClose)
            .step(Step::ReadToEnd)
            .logs(1)
            .shows(["= connection 0: closed", "log flags=DC", "log code=0"])
            .lacks(["< *"]),
        case("a client that closes inside the body is logged with DC")
            .bytes("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab")
            .wait(150)
            .step(Step::Close)
            .logs(1)
            .shows(["log flags=DC", "log code=0"]),
        case("a client that closes while it waits for the response is logged with DC")
            .reply(late(1000, "late"))
            .bytes("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .wait(150)
            .step(Step::Close)
            .logs(1)
            .shows(["log flags=DC", "log code=0", "log details=downstream_remote_disconnect*"]),
    ]
}

fn accepted() -> Vec<Case> {
    vec![
        passed(
            "two host fields are joined",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
            "> host: a,b",
        ),
        passed(
            "line ends without CR are accepted",
            "GET / HTTP/1.1\nhost: a\nx-a: 1\n\n",
            "> x-a: 1",
        ),
        passed(
            "empty lines before the request are skipped",
            "\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "> host: a",
        ),
        passed(
            "a folded field is accepted",
            "GET / HTTP/1.1\r\nhost: a\r\nx-a: one\r\n two\r\n\r\n",
            "> x-a: one two",
        ),
        passed(
            "blanks around a value are cut",
            "GET / HTTP/1.1\r\nhost: a\r\nx-a: \t 1 \t \r\n\r\n",
            "> x-a: 1",
        ),
        passed(
            "an empty value is accepted",
            "GET / HTTP/1.1\r\nhost: a\r\nx-a:\r\n\r\n",
            "> x-a: ",
        ),
        passed(
            "octets above ASCII in a value are accepted",
            "GET / HTTP/1.1\r\nhost: a\r\nx-a: \u{e9}\r\n\r\n",
            "> x-a: \\xc3\\xa9",
        ),
        passed(
            "a bare CR in a value is dropped",
            "GET / HTTP/1.1\r\nhost: a\r\nx-a: 1\r2\r\n\r\n",
            "> x-a: 12",
        ),
        passed(
            "several blanks in the request line are accepted",
            "GET  /  HTTP/1.1\r\nhost: a\r\n\r\n",
            "> connection 1: GET / HTTP/1.1",
        ),
        passed(
            "a body with GET is accepted",
            "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi",
            "> body hi",
        ),
        passed(
            "chunk extensions are dropped",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n0\r\n\r\n",
            "> body hi",
        ),
        passed(
            "Transfer-Encoding in capitals is understood",
            "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            "> body hi",
        ),
        passed(
            "an empty host is accepted",
            "GET / HTTP/1.1\r\nhost:\r\n\r\n",
            "> host: ",
        ),
    ]
}

/// A response that Envoy turns into 502.
fn bad_response(title: &'static str, bytes: &str) -> Case {
    case(title).reply(raw(bytes)).get("/").shows([
        "< 502",
        "log flags=UPE",
        "log details=upstream_reset_before_response_started{protocol_error}",
    ])
}

fn responses() -> Vec<Case> {
    vec![
        bad_response("a response of noise is 502", "garbage\r\n\r\n"),
        bad_response(
            "a response with an illegal status is 502",
            "HTTP/1.1 abc OK\r\ncontent-length: 0\r\n\r\n",
        ),
        case("a response with a status of two digits is passed on")
            .deviates("a status has three digits; anything else is refused with 502")
            .reply(raw("HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n"))
            .get("/")
            .shows(["< HTTP/1.1 20 Unknown", "log code=20"]),
        bad_response(
            "a response with a bad content-length is 502",
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        ),
        bad_response(
            "a response with content-length and chunked is 502",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        bad_response(
            "a response with a field without colon is 502",
            "HTTP/1.1 200 OK\r\nnocolon\r\ncontent-length: 0\r\n\r\n",
        ),
        case("101 that nobody asked for is passed on")
            .reply(raw("HTTP/1.1 101 Switching Protocols\r\n\r\n"))
            .get("/")
            .shows(["< 101", "log code=101"]),
        case("a response without reason phrase is accepted")
            .reply(raw("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n"))
            .get("/")
            .shows(["< 200", "< line HTTP/1.1 200 OK"]),
        case("the reason phrase of the upstream is not passed on")
            .reply(raw("HTTP/1.1 200 Fine By Me\r\ncontent-length: 0\r\n\r\n"))
            .get("/")
            .shows(["< line HTTP/1.1 200 OK"]),
        case("an HTTP/1.0 response is read until close")
            .reply(acts([send("HTTP/1.0 200 OK\r\n\r\nold"), Act::Close]))
            .get("/")
            .shows(["< 200", "< body old"]),
        case("bytes after the response end the upstream connection")
            .replies([
                raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokEXTRA"),
                raw("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
            ])
            .get("/1")
            .send(get("/2"))
            .shows(["< body ok", "< body ok", "> connection 2: GET /2 HTTP/1.1"]),
    ]
}
