//! What becomes of HTTP/2 frame by frame: heads that break the rules, frames that do, floods, windows, resets.
//!
//! Where Envoy fails h2spec the RFC wins, and there is no case here: WINDOW_UPDATE beyond the largest window, frames on closed
//! streams, numbers of streams that go backwards, PRIORITY on stream 0 or of itself.

use std::time::Duration;

use crate::case::{
    Act, Case, Downstream, Script, Step, acts, case, late, ok, pause, reply, with_fields,
    with_trailers,
};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// END_STREAM, or ACK.
pub const END: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

/// What a message with something wrong in its fields gets: the connection is closed without a word.
pub const BAD_FIELD: [&str; 5] = [
    "= connection 0: closed",
    "log code=0",
    "log flags=DPE",
    "log details=http2.invalid.header.field",
    "log method=-",
];

pub fn cases() -> Vec<Case> {
    [
        fields(),
        pseudo_headers(),
        accepted(),
        limits(),
        broken_frames(),
        broken_settings(),
        bodies(),
        floods(),
        windows(),
        resets(),
        answers(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("frames are small")
        .to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Literals without table and Huffman code.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        string(name, &mut out);
        string(value, &mut out);
    }
    out
}

fn string(text: &str, out: &mut Vec<u8>) {
    // One character stands for one octet.
    let length = text.chars().count();
    if length < 127 {
        out.push(u8::try_from(length).expect("it is below 127"));
    } else {
        out.push(127);
        let mut rest = length - 127;
        while rest >= 128 {
            out.push(u8::try_from(rest % 128).expect("it is below 128") | 128);
            rest /= 128;
        }
        out.push(u8::try_from(rest).expect("it is below 128"));
    }
    out.extend(
        text.chars()
            .map(|c| u8::try_from(u32::from(c)).expect("it is an octet")),
    );
}

pub const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "example.com"),
];

pub fn get_with(more: &[(&str, &str)]) -> Vec<u8> {
    frame(
        HEADERS,
        END | END_HEADERS,
        1,
        &block(&[&GET[..], more].concat()),
    )
}

/// A GET in which one pseudo header has another value.
fn get_but(name: &str, value: &str) -> Vec<u8> {
    let fields = GET.map(|(n, v)| (n, if n == name { value } else { v }));
    frame(HEADERS, END | END_HEADERS, 1, &block(&fields))
}

fn get_without(name: &str) -> Vec<u8> {
    let fields: Vec<_> = GET.into_iter().filter(|(n, _)| *n != name).collect();
    frame(HEADERS, END | END_HEADERS, 1, &block(&fields))
}

pub fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END | END_HEADERS, stream, &block(&GET))
}

/// The head of a POST whose body is still to come.
pub fn post(more: &[(&str, &str)]) -> Vec<u8> {
    let fields = GET.map(|(n, v)| (n, if n == ":method" { "POST" } else { v }));
    frame(
        HEADERS,
        END_HEADERS,
        1,
        &block(&[&fields[..], more].concat()),
    )
}

pub fn setting(identifier: u16, value: u32) -> Vec<u8> {
    let payload = [&identifier.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &payload)
}

/// A client that begins with preface and empty settings, sends these bytes and reads what comes.
pub fn sends(title: &'static str, bytes: &[u8]) -> Case {
    let start = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &frame(SETTINGS, 0, 0, &[])[..],
    ]
    .concat();
    let mut case = case(title)
        .hcm("codec_type: HTTP2\ndelayed_close_timeout: 0.05s")
        .step(Step::Send([&start, bytes].concat()))
        .step(Step::ReadFrames(Duration::from_millis(400)));
    case.downstream = Downstream::Frames;
    case.stats([
        "http.@stat.downstream_cx_http2_total",
        "http.@stat.downstream_cx_protocol_error",
        "http.@stat.downstream_rq_total",
        "http.@stat.downstream_rq_rx_reset",
        "http.@stat.downstream_rq_tx_reset",
        "http.@stat.downstream_rq_4xx",
    ])
}

/// More bytes, after what came before was read.
pub fn then(case: Case, bytes: &[u8]) -> Case {
    case.step(Step::Send(bytes.to_vec()))
        .step(Step::ReadFrames(Duration::from_millis(400)))
}

fn fields() -> Vec<Case> {
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

fn pseudo_headers() -> Vec<Case> {
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

fn accepted() -> Vec<Case> {
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

fn limits() -> Vec<Case> {
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

fn broken_frames() -> Vec<Case> {
    let told = |title, bytes: &[u8], code: &str| {
        let goaway = format!("< GOAWAY 0 {code}");
        sends(title, bytes)
            .logs(0)
            .shows([&goaway[..], "= connection 0: closed"])
    };
    let silent = |title, bytes: &[u8]| {
        sends(title, bytes)
            .logs(0)
            .shows(["= connection 0: closed"])
            .lacks(["< GOAWAY*"])
    };
    let on_stream = |bytes: &[u8]| [&post(&[]), bytes].concat();
    let breaks = |title, bytes: &[u8], goaway: &str| {
        let goaway = format!("< GOAWAY 1 {goaway}");
        sends(title, &on_stream(bytes)).shows([
            &goaway[..],
            "= connection 0: closed",
            "log flags=DPE",
            "log method=POST",
        ])
    };
    let breaks_silently = |title, bytes: &[u8]| {
        sends(title, &on_stream(bytes))
            .shows(["= connection 0: closed", "log flags=DPE"])
            .lacks(["< GOAWAY*"])
    };
    vec![
        told(
            "DATA on an idle stream",
            &frame(DATA, 0, 1, b"a"),
            "PROTOCOL_ERROR",
        ),
        told(
            "DATA on stream 0",
            &frame(DATA, 0, 0, b"a"),
            "PROTOCOL_ERROR",
        ),
        told(
            "CONTINUATION without HEADERS",
            &frame(CONTINUATION, END_HEADERS, 1, &[]),
            "PROTOCOL_ERROR",
        ),
        told(
            "HEADERS with too much padding",
            &frame(HEADERS, 0xd, 1, b"\xffabc"),
            "PROTOCOL_ERROR",
        ),
        told(
            "a frame above the largest size",
            &frame(PING, 0, 0, &[0; 16_385]),
            "FRAME_SIZE_ERROR",
        ),
        told(
            "a PING of one octet",
            &frame(PING, 0, 0, &[0]),
            "FRAME_SIZE_ERROR",
        ),
        told(
            "a PRIORITY of three octets",
            &frame(PRIORITY, 0, 1, &[0; 3]),
            "FRAME_SIZE_ERROR",
        ),
        told(
            "a WINDOW_UPDATE of three octets",
            &frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            "FRAME_SIZE_ERROR",
        ),
        silent("HEADERS on stream 0", &get(0)),
        silent("HEADERS on an even stream", &get(2)),
        silent(
            "RST_STREAM on an idle stream",
            &frame(RST_STREAM, 0, 1, &[0; 4]),
        ),
        silent("RST_STREAM on stream 0", &frame(RST_STREAM, 0, 0, &[0; 4])),
        silent(
            "WINDOW_UPDATE on an idle stream",
            &frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
        ),
        silent(
            "WINDOW_UPDATE of nothing",
            &frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
        ),
        silent("a PING on a stream", &frame(PING, 0, 1, &[0; 8])),
        silent("a GOAWAY on a stream", &frame(GOAWAY, 0, 1, &[0; 8])),
        breaks(
            "DATA with too much padding",
            &frame(DATA, PADDED, 1, b"\x09abc"),
            "PROTOCOL_ERROR",
        ),
        breaks(
            "a RST_STREAM of three octets",
            &frame(RST_STREAM, 0, 1, &[0; 3]),
            "FRAME_SIZE_ERROR",
        ),
        breaks(
            "DATA behind the end of its stream",
            &[frame(DATA, END, 1, b"a"), frame(DATA, 0, 1, b"b")].concat(),
            "STREAM_CLOSED",
        ),
        breaks_silently(
            "WINDOW_UPDATE of nothing on a stream",
            &frame(WINDOW_UPDATE, 0, 1, &[0; 4]),
        ),
        breaks_silently(
            "PUSH_PROMISE of a client",
            &frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
        ),
        breaks_silently(
            "trailers without the end of the stream",
            &frame(HEADERS, END_HEADERS, 1, &block(&[("x", "1")])),
        ),
        breaks_silently(
            "a pseudo header in trailers",
            &frame(HEADERS, 5, 1, &block(&[(":path", "/")])),
        ),
        sends(
            "a header block that cannot be decoded",
            &frame(HEADERS, 5, 1, &[0xff; 8]),
        )
        .shows(["< GOAWAY 1 COMPRESSION_ERROR", "= connection 0: closed"]),
        sends("an index beyond the table", &frame(HEADERS, 5, 1, &[0xc0]))
            .shows(["< GOAWAY 1 COMPRESSION_ERROR", "= connection 0: closed"]),
        sends(
            "a table size above the limit",
            &frame(
                HEADERS,
                5,
                1,
                &[&[0x3f, 0xe1, 0xff, 3][..], &block(&GET)].concat(),
            ),
        )
        .shows(["< GOAWAY 1 COMPRESSION_ERROR", "= connection 0: closed"]),
        sends(
            "another frame between HEADERS and CONTINUATION",
            &[
                frame(HEADERS, END, 1, &block(&GET)),
                frame(PING, 0, 0, &[0; 8]),
            ]
            .concat(),
        )
        .shows(["< GOAWAY 1 PROTOCOL_ERROR", "= connection 0: closed"]),
    ]
}

fn broken_settings() -> Vec<Case> {
    let told = |title, bytes: &[u8]| {
        sends(title, bytes)
            .logs(0)
            .shows(["< GOAWAY 0 FRAME_SIZE_ERROR", "= connection 0: closed"])
    };
    let silent = |title, bytes: &[u8]| {
        sends(title, bytes)
            .logs(0)
            .shows(["= connection 0: closed"])
            .lacks(["< GOAWAY*"])
    };
    let mut no_settings = case("a preface without SETTINGS")
        .hcm("codec_type: HTTP2\ndelayed_close_timeout: 0.05s")
        .step(Step::Send(
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &get(1)[..]].concat(),
        ))
        .step(Step::ReadFrames(Duration::from_millis(400)))
        .logs(0)
        .shows(["= connection 0: closed"]);
    no_settings.downstream = Downstream::Frames;
    vec![
        told("SETTINGS of three octets", &frame(SETTINGS, 0, 0, &[0; 3])),
        told(
            "SETTINGS with ACK and payload",
            &frame(SETTINGS, END, 0, &[0; 6]),
        ),
        silent("SETTINGS on a stream", &frame(SETTINGS, 0, 1, &[])),
        silent("ENABLE_PUSH of 2", &setting(2, 2)),
        silent(
            "INITIAL_WINDOW_SIZE above the largest",
            &setting(4, 1 << 31),
        ),
        silent("MAX_FRAME_SIZE below the smallest", &setting(5, 1)),
        silent("MAX_FRAME_SIZE above the largest", &setting(5, 1 << 24)),
        no_settings,
    ]
}

fn bodies() -> Vec<Case> {
    let data = |flags, text: &[u8]| frame(DATA, flags, 1, text);
    vec![
        sends(
            "a body shorter than its content-length resets the stream",
            &[post(&[("content-length", "5")]), data(END, b"abc")].concat(),
        )
        .shows(["< RST_STREAM 1 PROTOCOL_ERROR", "= connection 0: open"]),
        sends(
            "a body longer than its content-length resets the stream",
            &[post(&[("content-length", "2")]), data(END, b"abc")].concat(),
        )
        .shows(["< RST_STREAM 1 PROTOCOL_ERROR", "= connection 0: open"]),
        sends(
            "a content-length without body closes",
            &get_with(&[("content-length", "5")]),
        )
        .shows([
            "= connection 0: closed",
            "log details=http2.violation.of.messaging.rule",
        ]),
        sends(
            "a padded body loses its padding",
            &[post(&[]), frame(DATA, PADDED | END, 1, b"\x02abc\0\0")].concat(),
        )
        .shows(["< HEADERS 1 200", "> body abc"]),
        sends(
            "a body in pieces is one body",
            &[
                post(&[("content-length", "6")]),
                data(0, b"abc"),
                data(END, b"def"),
            ]
            .concat(),
        )
        .shows(["> body abcdef", "> content-length: 6"]),
        sends(
            "an empty DATA ends a body",
            &[post(&[]), data(0, b"abc"), data(END, b"")].concat(),
        )
        .shows(["> body abc"]),
        sends(
            "request trailers end a body",
            &[
                post(&[]),
                data(0, b"abc"),
                frame(HEADERS, 5, 1, &block(&[("x-t", "1")])),
            ]
            .concat(),
        )
        .upstream_http2()
        .shows(["> body abc", "> trailer x-t: 1"]),
        sends(
            "a response before the end of the request resets with NO_ERROR",
            &post(&[]),
        )
        .route("", "direct_response: { status: 200 }")
        .routes("- match: { prefix: / }\n  direct_response: { status: 200 }")
        .shows(["< HEADERS 1 END_STREAM 200", "< RST_STREAM 1 NO_ERROR"]),
    ]
}

fn floods() -> Vec<Case> {
    let priority = frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 7]);
    let update = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
    let empty = frame(DATA, 0, 1, b"");
    let options = |text: &str| format!("http2_protocol_options: {{ {text} }}");
    vec![
        sends(
            "two empty DATA in a row are a flood",
            &[post(&[]), empty.repeat(2)].concat(),
        )
        .stats(["http2.inbound_empty_frames_flood"])
        .shows([
            "= connection 0: closed",
            "log flags=DPE",
            "log details=http2.inbound_empty_frames_flood",
        ]),
        sends(
            "max_consecutive_inbound_frames_with_empty_payload allows more",
            &[post(&[]), empty.repeat(5), frame(DATA, END, 1, b"x")].concat(),
        )
        .hcm(&options(
            "max_consecutive_inbound_frames_with_empty_payload: 5",
        ))
        .shows(["< HEADERS 1 200", "> body x"]),
        sends(
            "empty CONTINUATION are a flood",
            &[
                frame(HEADERS, END, 1, &block(&GET)),
                frame(CONTINUATION, 0, 1, &[]).repeat(2),
            ]
            .concat(),
        )
        .stats(["http2.inbound_empty_frames_flood"])
        .shows([
            "= connection 0: closed",
            "log details=http2.inbound_empty_frames_flood",
        ]),
        sends("PRIORITY again and again is a flood", &priority.repeat(110))
            .logs(0)
            .stats(["http2.inbound_priority_frames_flood"])
            .shows(["= connection 0: closed"]),
        sends(
            "max_inbound_priority_frames_per_stream allows more",
            &[priority.repeat(110), get(1)].concat(),
        )
        .hcm(&options("max_inbound_priority_frames_per_stream: 200"))
        .shows(["< HEADERS 1 200"]),
        sends(
            "WINDOW_UPDATE again and again is a flood",
            &update.repeat(20),
        )
        .logs(0)
        .stats(["http2.inbound_window_update_frames_flood"])
        .shows(["= connection 0: closed"]),
        sends(
            "five WINDOW_UPDATE are none",
            &[update.repeat(5), get(1)].concat(),
        )
        .shows(["< HEADERS 1 200", "= connection 0: open"]),
        sends(
            "a flood ends the streams of its connection",
            &[post(&[]), priority.repeat(300)].concat(),
        )
        .stats(["http2.inbound_priority_frames_flood"])
        .shows([
            "= connection 0: closed",
            "log flags=DPE",
            "log details=codec_error:Too_many_PRIORITY_frames",
        ]),
        sends(
            "max_outbound_control_frames bounds what waits",
            &frame(PING, 0, 0, &[0; 8]).repeat(20),
        )
        .hcm(&options("max_outbound_control_frames: 5"))
        .logs(0)
        .stats(["http2.outbound_control_flood"])
        .shows(["= connection 0: closed"]),
    ]
}

fn windows() -> Vec<Case> {
    let small = setting(4, 5);
    let update = |stream, more: u32| frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
    let answered = |title, bytes: &[u8]| sends(title, bytes).reply(reply(ok("0123456789")));
    vec![
        answered(
            "a small window holds the response back",
            &[small.clone(), get(1)].concat(),
        )
        .logs(0)
        .shows(["< DATA 1 01234", "= connection 0: open"]),
        then(
            answered(
                "WINDOW_UPDATE lets the response go on",
                &[small.clone(), get(1)].concat(),
            ),
            &update(1, 100),
        )
        .shows(["< LAST DATA 1 0123456789"]),
        then(
            answered(
                "SETTINGS let the response go on",
                &[small.clone(), get(1)].concat(),
            ),
            &setting(4, 8),
        )
        .logs(0)
        .shows(["< DATA 1 01234567"]),
        then(
            answered(
                "a window of nothing lets only the head out",
                &[setting(4, 0), get(1)].concat(),
            ),
            &update(1, 10),
        )
        .shows(["< HEADERS 1 200", "< LAST DATA 1 0123456789"]),
        answered(
            "a window of nothing does not hold an empty body back",
            &[setting(4, 0), get(1)].concat(),
        )
        .reply(reply(ok("")))
        .shows(["< HEADERS 1 END_STREAM 200"]),
        then(
            answered(
                "RST_STREAM ends a response that waits",
                &[small, get(1)].concat(),
            ),
            &frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
        )
        .shows(["< DATA 1 01234", "= connection 0: open", "log flags=DR"]),
    ]
}

fn resets() -> Vec<Case> {
    let slow = |title, bytes: &[u8]| sends(title, bytes).reply(late(300, "late"));
    let cancel = frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    vec![
        then(
            slow("RST_STREAM ends its request", &get(1)).reply(late(1500, "late")),
            &cancel,
        )
        .stats(["http2.rx_reset"])
        .shows(["log flags=DR", "= connection 0: open"]),
        then(
            slow("REFUSED_STREAM of a client ends its request", &get(1)).reply(late(1500, "late")),
            &frame(RST_STREAM, 0, 1, &[0, 0, 0, 7]),
        )
        .shows(["log flags=DR"]),
        then(
            slow("RST_STREAM inside a body ends its request", &post(&[])),
            &cancel,
        )
        .shows(["log flags=DR"]),
        then(
            sends("RST_STREAM behind the response is none", &get(1)),
            &cancel,
        )
        .shows(["< HEADERS 1 200", "= connection 0: open", "log flags=-"]),
        then(
            sends(
                "a client that said GOAWAY opens no streams any more",
                &frame(GOAWAY, 0, 0, &[0; 8]),
            ),
            &get(1),
        )
        .logs(0)
        .shows(["= connection 0: open"])
        .lacks(["< HEADERS*"]),
        sends("a client that hangs up ends its request", &get(1))
            .reply(late(1500, "late"))
            .step(Step::HalfClose)
            .shows(["log flags=DC"]),
        sends(
            "a response that breaks off resets with INTERNAL_ERROR",
            &get(1),
        )
        .reply(acts([
            crate::case::send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"),
            pause(50),
            Act::Close,
        ]))
        .shows([
            "< DATA 1 ab",
            "< RST_STREAM 1 INTERNAL_ERROR",
            "= connection 0: open",
        ]),
    ]
}

fn answers() -> Vec<Case> {
    let scripts: [Script; 2] = [late(200, "same"), reply(ok("same"))];
    vec![
        sends(
            "streams that run at once are each answered",
            &[get(1), get(3)].concat(),
        )
        .replies(scripts)
        .logs(2)
        .any_order()
        .shows(["< LAST DATA 1 same", "< LAST DATA 3 same"]),
        sends(
            "a gRPC client gets its error in trailers only",
            &frame(
                HEADERS,
                5,
                1,
                &block(&[&GET[..], &[("content-type", "application/grpc")]].concat()),
            ),
        )
        .routes("- match: { prefix: / }\n  direct_response: { status: 503 }")
        .shows(["< HEADERS 1 END_STREAM 200"]),
        sends(
            "HEAD has no body",
            &frame(
                HEADERS,
                5,
                1,
                &block(&[(":method", "HEAD"), GET[1], GET[2], GET[3]]),
            ),
        )
        .reply(acts([crate::case::send(
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
        )]))
        .shows(["< HEADERS 1 END_STREAM 200"]),
        sends("a large header comes in CONTINUATION", &get(1))
            .reply(reply(with_fields(
                ok("x"),
                &format!("x-l: {}", "a&b#".repeat(6000)),
            )))
            .cluster("per_connection_buffer_limit_bytes: 1048576")
            .shows(["< HEADERS 1 200", "< CONTINUATION 1"]),
    ]
}
