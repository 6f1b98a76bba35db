//! Heads of requests that break the rules of HTTP/2, and those that only seem to.

use super::{
    BAD_FIELD, CONTINUATION, END, END_HEADERS, GET, HEADERS, PADDED, PING, PRIORITY, block, frame,
    get, get_but, get_with, get_without, post, sends, setting,
};
use crate::case::{Case, ok, reply, with_trailers};

pub(super) fn fields() -> Vec<Case> {
    let bad = |title, name, value| sends(title, &get_with(&[(name, value)])).shows(BAD_FIELD);
    vec![
        bad("upper case in a field name closes", "X-A", "1"),
        bad("a space in a field name closes", "x a", "1"),
        bad("a delimiter in a field name closes", "x(a", "1"),
        bad("an empty field name closes", "", "1"),
        bad("NUL in a field value closes", "x", "a\0b"),
        bad("a line feed in a field value closes", "x", "a\nb"),
        bad("a carriage return in a field value closes", "x", "a\rb"),
        bad("a control character in a field value closes", "x", "a\x01b"),
        bad("DEL in a field value closes", "x", "a\x7fb"),
        bad("a connection field closes", "connection", "close"),
        bad("a keep-alive field closes", "keep-alive", "5"),
        bad("a proxy-connection field closes", "proxy-connection", "x"),
        bad(
            "a transfer-encoding field closes",
            "transfer-encoding",
            "chunked",
        ),
        bad("an upgrade field closes", "upgrade", "websocket"),
        bad("te other than trailers closes", "te", "gzip"),
        bad(
            "a content-length that is no number closes over HTTP/2",
            "content-length",
            "x",
        ),
        bad("an illegal Host closes over HTTP/2", "host", "a b"),
        sends(
            "two content-lengths close over HTTP/2",
            &get_with(&[("content-length", "0"), ("content-length", "0")]),
        )
        .shows(BAD_FIELD),
        sends(
            "stream_error_on_invalid_http_message resets the stream alone",
            &[get_with(&[("X-A", "1")]), get(3)].concat(),
        )
        .hcm("stream_error_on_invalid_http_message: true")
        .logs(2)
        .shows([
            "< RST_STREAM 1 PROTOCOL_ERROR",
            "< HEADERS 3 200",
            "= connection 0: open",
            "log details=http2.invalid.header.field",
        ]),
        sends(
            "override_stream_error_on_invalid_http_message resets the stream alone",
            &[get_with(&[("X-A", "1")]), get(3)].concat(),
        )
        .hcm("http2_protocol_options: { override_stream_error_on_invalid_http_message: true }")
        .logs(2)
        .shows([
            "< RST_STREAM 1 PROTOCOL_ERROR",
            "< HEADERS 3 200",
            "= connection 0: open",
        ]),
        sends(
            "octets above ASCII pass under disallow_obs_text too",
            &get_with(&[("x", "\u{e9}")]),
        )
        .hcm("http2_protocol_options: { disallow_obs_text: true }")
        .shows(["< HEADERS 1 200", "= connection 0: open"]),
    ]
}

pub(super) fn pseudo_headers() -> Vec<Case> {
    let closes = |title, bytes: Vec<u8>, details: &str| {
        let details = format!("log details={details}");
        sends(title, &bytes).shows([
            "= connection 0: closed",
            "log code=0",
            "log flags=DPE",
            &details,
        ])
    };
    const FIELD: &str = "http2.invalid.header.field";
    const MESSAGE: &str = "http2.violation.of.messaging.rule";
    let late_pseudo = frame(HEADERS, 5, 1, &block(&[&[("x", "1")], &GET[..]].concat()));
    let connect = |more: &[(&str, &str)]| {
        let head = [(":method", "CONNECT"), (":authority", "example.com:80")];
        frame(HEADERS, END_HEADERS, 1, &block(&[&head[..], more].concat()))
    };
    vec![
        closes(
            "a request without :method closes",
            get_without(":method"),
            MESSAGE,
        ),
        closes(
            "a request without :scheme closes",
            get_without(":scheme"),
            MESSAGE,
        ),
        closes(
            "a request without :path closes",
            get_without(":path"),
            MESSAGE,
        ),
        closes(
            "a request without :authority and host closes",
            get_without(":authority"),
            MESSAGE,
        ),
        closes("an empty :path closes", get_but(":path", ""), FIELD),
        closes("a space in :path closes", get_but(":path", "/a b"), FIELD),
        closes(
            "a control character in :path closes",
            get_but(":path", "/a\x01"),
            FIELD,
        ),
        closes(
            "a :path without slash closes",
            get_but(":path", "a"),
            MESSAGE,
        ),
        closes(
            "an asterisk with GET closes over HTTP/2",
            get_but(":path", "*"),
            MESSAGE,
        ),
        closes("an empty :method closes", get_but(":method", ""), FIELD),
        closes(
            "a :method of illegal characters closes",
            get_but(":method", "G@T"),
            FIELD,
        ),
        closes(
            "an illegal :scheme closes",
            get_but(":scheme", "ht tp"),
            FIELD,
        ),
        closes(
            "an illegal :authority closes",
            get_but(":authority", "a b"),
            FIELD,
        ),
        closes(
            "an empty :authority closes",
            get_but(":authority", ""),
            FIELD,
        ),
        closes(
            "the same pseudo header twice closes",
            get_with(&[(":path", "/")]),
            FIELD,
        ),
        closes(
            "an unknown pseudo header closes",
            get_with(&[(":foo", "1")]),
            FIELD,
        ),
        closes(
            ":status in a request closes",
            get_with(&[(":status", "200")]),
            FIELD,
        ),
        closes("a pseudo header behind a field closes", late_pseudo, FIELD),
        closes(
            "CONNECT with :path closes",
            connect(&[(":path", "/"), (":scheme", "http")]),
            MESSAGE,
        ),
        closes(
            ":protocol without CONNECT closes",
            get_with(&[(":protocol", "websocket")]),
            MESSAGE,
        )
        .hcm("http2_protocol_options: { allow_connect: true }"),
    ]
}

pub(super) fn accepted() -> Vec<Case> {
    let passes = |title, bytes: Vec<u8>, seen: &str| {
        sends(title, &bytes).shows(["< HEADERS 1 200", "= connection 0: open", seen])
    };
    vec![
        passes(
            "odd characters in :path pass",
            get_but(":path", "/a<b>`^|{}\"\\"),
            "> connection 1: GET /a<b>`^|{}\"\\ HTTP/1.1",
        ),
        passes(
            "octets above ASCII in a field value pass",
            get_with(&[("x", "a\u{e9}b")]),
            "> connection 1: GET / HTTP/1.1",
        ),
        passes(
            "host stands in for :authority",
            frame(
                HEADERS,
                5,
                1,
                &block(&[&GET[..3], &[("host", "other")]].concat()),
            ),
            "> host: other",
        ),
        passes(
            "te with trailers passes in HTTP/2",
            get_with(&[("te", "trailers")]),
            "> connection 1: GET / HTTP/1.1",
        ),
        passes(
            "a scheme other than http passes",
            get_but(":scheme", "ftp"),
            "> connection 1: GET / HTTP/1.1",
        ),
        passes(
            "padding and priority of HEADERS are skipped",
            {
                let payload = [&[3, 0, 0, 0, 0, 7][..], &block(&GET), &[0; 3]].concat();
                frame(HEADERS, END | END_HEADERS | PADDED | 0x20, 1, &payload)
            },
            "> connection 1: GET / HTTP/1.1",
        ),
        passes(
            "CONTINUATION belongs to its HEADERS",
            {
                let fields = block(&GET);
                let (left, right) = fields.split_at(10);
                [
                    frame(HEADERS, END, 1, left),
                    frame(CONTINUATION, END_HEADERS, 1, right),
                ]
                .concat()
            },
            "> connection 1: GET / HTTP/1.1",
        ),
        passes(
            "unknown frames are skipped",
            [frame(0x1f, 0xff, 0, b"abc"), get(1)].concat(),
            "> connection 1: GET / HTTP/1.1",
        ),
        passes(
            "unknown settings are skipped",
            [setting(0x99, 1), get(1)].concat(),
            "> connection 1: GET / HTTP/1.1",
        ),
        passes(
            "PRIORITY is skipped",
            [frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 7]), get(1)].concat(),
            "> connection 1: GET / HTTP/1.1",
        ),
        passes(
            "a PING is answered before the response",
            [frame(PING, 0, 0, b"12345678"), get(1)].concat(),
            "< PING ACK 12345678",
        ),
        passes(
            "pieces of a cookie are joined",
            get_with(&[("cookie", "a=1"), ("x", "1"), ("cookie", "b=2")]),
            "> cookie: a=1; b=2",
        ),
        sends("a fragment in :path is 400", &get_but(":path", "/a#b")).shows([
            "< HEADERS 1 END_STREAM 400",
            "log details=path_normalization_failed",
        ]),
        sends(
            "OPTIONS with an asterisk is 404 over HTTP/2",
            &frame(
                HEADERS,
                5,
                1,
                &block(&[(":method", "OPTIONS"), GET[1], (":path", "*"), GET[3]]),
            ),
        )
        .shows([
            "< HEADERS 1 END_STREAM 404",
            "log details=absolute_path_rejected",
        ]),
        sends(
            "CONNECT without a route for it is 404",
            &frame(
                HEADERS,
                END_HEADERS,
                1,
                &block(&[(":method", "CONNECT"), (":authority", "example.com:80")]),
            ),
        )
        .shows(["< HEADERS 1 END_STREAM 404", "< RST_STREAM 1 NO_ERROR"]),
        sends(
            "an extended CONNECT is an upgrade",
            &frame(
                HEADERS,
                END_HEADERS,
                1,
                &block(&[
                    (":method", "CONNECT"),
                    GET[1],
                    GET[2],
                    GET[3],
                    (":protocol", "websocket"),
                ]),
            ),
        )
        .hcm("http2_protocol_options: { allow_connect: true }")
        .deviates("Envoy announces the end of the connection with the refusal")
        .shows(["log method=GET", "log details=upgrade_failed"]),
        sends("a response of 204 ends with its head", &get(1))
            .reply(reply(crate::case::status(204, "")))
            .shows(["< HEADERS 1 END_STREAM 204"]),
        sends("trailers of the response end the stream", &get(1))
            .upstream_http2()
            .reply(reply(with_trailers(ok("x"), "x-t: 1")))
            .shows(["< HEADERS 1 END_STREAM trailers or an unknown status"]),
    ]
}

pub(super) fn limits() -> Vec<Case> {
    let large = "x".repeat(3000);
    let many: Vec<(&str, &str)> = (0..30).map(|_| ("x-many", "1")).collect();
    vec![
        sends(
            "a head above the limit resets its stream alone",
            &[get_with(&[("x", &large)]), get(3)].concat(),
        )
        .hcm("max_request_headers_kb: 2")
        .logs(2)
        .stats(["http2.header_overflow"])
        .shows([
            "< RST_STREAM 1 INTERNAL_ERROR",
            "< HEADERS 3 200",
            "log flags=DR",
            "log details=http2.header_list_size_too_large",
        ]),
        sends(
            "more fields than the limit reset their stream alone",
            &[get_with(&many), get(3)].concat(),
        )
        .hcm("common_http_protocol_options: { max_headers_count: 20 }")
        .logs(2)
        .shows([
            "< RST_STREAM 1 INTERNAL_ERROR",
            "< HEADERS 3 200",
            "log details=http2.too_many_headers",
        ]),
        sends(
            "pseudo headers count among the fields",
            &get_with(&many[..17]),
        )
        .hcm("common_http_protocol_options: { max_headers_count: 20 }")
        .shows([
            "< RST_STREAM 1 INTERNAL_ERROR",
            "log details=http2.too_many_headers",
        ]),
        sends(
            "a stream above max_concurrent_streams is refused",
            &[post(&[]), get(3)].concat(),
        )
        .hcm("http2_protocol_options: { max_concurrent_streams: 1 }")
        .logs(0)
        .shows(["< RST_STREAM 3 REFUSED_STREAM", "= connection 0: open"]),
        sends(
            "names with underscores are dropped under DROP_HEADER over HTTP/2",
            &get_with(&[("a_b", "1")]),
        )
        .hcm("common_http_protocol_options: { headers_with_underscores_action: DROP_HEADER }")
        .shows(["< HEADERS 1 200"])
        .lacks(["> a_b*"]),
    ]
}
