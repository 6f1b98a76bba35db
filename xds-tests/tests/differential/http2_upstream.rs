//! HTTP/2 servers that answer frame by frame: responses that break the rules, resets, GOAWAY, gRPC, and what is set up on
//! clusters.

use crate::case::{
    Act, Case, Kind, With, case, get, ok, pause, reply, request, status, with_fields, with_trailers,
};
use crate::frames::{
    DATA, END, END_HEADERS, GOAWAY, HEADERS, PADDED, PING, PUSH_PROMISE, RST_STREAM, SETTINGS,
    block, frame,
};

pub fn cases() -> Vec<Case> {
    [good(), bad(), resets(), options(), grpc()]
        .into_iter()
        .flatten()
        .collect()
}

fn head(flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, 1, &block(fields))
}

fn data(flags: u8, text: &str) -> Vec<u8> {
    frame(DATA, flags, 1, text.as_bytes())
}

const OK: [(&str, &str); 1] = [(":status", "200")];

/// A server that answers the first request of a connection with these frames, and then waits.
fn answers(title: &'static str, frames: &[Vec<u8>]) -> Case {
    answers_with(title, frames, "")
}

fn answers_with(title: &'static str, frames: &[Vec<u8>], options: &str) -> Case {
    let acts = vec![
        Act::Send(frame(SETTINGS, 0, 0, &[])),
        Act::Read(24),
        pause(100),
        Act::Send(frames.concat()),
        pause(1500),
        Act::Close,
    ];
    case(title)
        .backend(Kind::Tcp(vec![acts]))
        .protocol_options(&format!(
            "explicit_http_config: {{ http2_protocol_options: {{ {options} }} }}"
        ))
        .get("/")
        .stats([
            "cluster.@backend.upstream_cx_http2_total",
            "cluster.@backend.upstream_cx_protocol_error",
            "cluster.@backend.upstream_rq_rx_reset",
            "cluster.@backend.upstream_rq_tx_reset",
            "cluster.@backend.upstream_rq_completed",
            "cluster.@backend.http2.rx_messaging_error",
            "cluster.@backend.http2.rx_reset",
            "cluster.@backend.http2.tx_reset",
            "cluster.@backend.http2.trailers",
        ])
}

fn good() -> Vec<Case> {
    vec![
        answers(
            "a response comes frame by frame",
            &[head(0, &OK), data(0, "a"), data(END, "b")],
        )
        .shows(["< 200", "< body ab"]),
        answers("a head alone is a response", &[head(END, &OK)]).shows(["< 200"]),
        answers(
            "1xx of an HTTP/2 server come before the response",
            &[head(0, &[(":status", "103")]), head(END, &OK)],
        )
        .shows(["< 200"]),
        answers(
            "padded DATA of a server lose their padding",
            &[head(0, &OK), frame(DATA, PADDED | END, 1, b"\x02ab\0\0")],
        )
        .shows(["< body ab"]),
        answers(
            "trailers of a server end the response",
            &[head(0, &OK), data(0, "a"), head(END, &[("x-t", "1")])],
        )
        .shows(["< body a"]),
        answers(
            "a PING of a server does not disturb",
            &[frame(PING, 0, 0, &[0; 8]), head(END, &OK)],
        )
        .shows(["< 200"]),
        answers(
            "unknown frames of a server are skipped",
            &[
                frame(0x20, 0, 0, b"abc"),
                frame(0x20, 0, 1, b"abc"),
                head(END, &OK),
            ],
        )
        .shows(["< 200"]),
        answers(
            "NO_ERROR behind a whole response does not hurt it",
            &[head(END, &OK), frame(RST_STREAM, 0, 1, &[0; 4])],
        )
        .shows(["< 200"]),
        answers(
            "GOAWAY behind the stream lets it end",
            &[
                frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]),
                head(0, &OK),
                data(END, "x"),
            ],
        )
        .deviates("Envoy counts an error of the protocol when the server closes after GOAWAY")
        .shows(["< body x"]),
    ]
}

fn bad() -> Vec<Case> {
    let bad = |title, frames: &[Vec<u8>]| answers(title, frames).shows(["< 502", "log flags=UPE"]);
    let field = |name, value| [OK[0], (name, value)];
    vec![
        bad("a response without :status", &[head(END, &[("x", "1")])]),
        bad("a :status of letters", &[head(END, &[(":status", "abc")])]),
        bad(
            "a :status of four digits",
            &[head(END, &[(":status", "2000")])],
        ),
        bad("101 over HTTP/2", &[head(0, &[(":status", "101")])]),
        bad(
            "a request's pseudo header in a response",
            &[head(END, &field(":path", "/"))],
        ),
        bad(
            "upper case in a field of a response",
            &[head(END, &field("X-A", "1"))],
        ),
        bad(
            "a line feed in a field of a response",
            &[head(END, &field("x", "a\nb"))],
        ),
        bad(
            "a connection field in a response",
            &[head(END, &field("connection", "close"))],
        ),
        bad(
            "a content-length of letters in a response",
            &[head(END, &field("content-length", "x"))],
        ),
        bad("DATA before the head of a response", &[data(END, "x")]),
        bad(
            "a 1xx that ends the stream",
            &[head(END, &[(":status", "103")])],
        ),
        bad(
            "a response's block that cannot be decoded",
            &[frame(HEADERS, END | END_HEADERS, 1, &[0xff; 8])],
        ),
        bad(
            "a response on stream 0",
            &[frame(HEADERS, END | END_HEADERS, 0, &block(&OK))],
        ),
        bad(
            "a response on a stream that nobody opened",
            &[frame(HEADERS, END | END_HEADERS, 7, &block(&OK))],
        ),
        answers(
            "PUSH_PROMISE of a server",
            &[frame(
                PUSH_PROMISE,
                END_HEADERS,
                1,
                &[&[0, 0, 0, 2], &block(&OK)[..]].concat(),
            )],
        )
        .deviates("Envoy refuses the promised stream alone, though it has forbidden pushes")
        .shows(["< 503", "log flags=UC"]),
        answers(
            "a response shorter than its content-length",
            &[head(0, &field("content-length", "5")), data(END, "abc")],
        )
        .shows(["< 200", "log flags=UPE"]),
        answers(
            "a response longer than its content-length",
            &[head(0, &field("content-length", "2")), data(END, "abc")],
        )
        .shows(["< 200", "log flags=UPE"]),
        answers_with(
            "override_stream_error_on_invalid_http_message keeps the upstream connection",
            &[head(END, &field("X-A", "1"))],
            "override_stream_error_on_invalid_http_message: true",
        )
        .stats(["cluster.@backend.upstream_cx_destroy"])
        .shows(["< 502", "log flags=UPE"]),
    ]
}

fn resets() -> Vec<Case> {
    let reset = |code: u8| frame(RST_STREAM, 0, 1, &[0, 0, 0, code]);
    vec![
        answers("INTERNAL_ERROR of a server is 503", &[reset(2)]).shows(["< 503", "log flags=UR"]),
        answers("ENHANCE_YOUR_CALM of a server is 503", &[reset(11)])
            .shows(["< 503", "log flags=UR"]),
        answers("CANCEL of a server is 503", &[reset(8)]).shows(["< 503", "log flags=UR"]),
        answers("PROTOCOL_ERROR of a server is 502", &[reset(1)]).shows(["< 502"]),
        answers(
            "RST_STREAM inside a body breaks the response",
            &[head(0, &OK), data(0, "ab"), reset(2)],
        )
        .shows(["< 200", "< body ab", "log flags=UR"]),
        answers(
            "GOAWAY before the stream is a refusal",
            &[frame(GOAWAY, 0, 0, &[0; 8])],
        )
        .shows(["< 503"]),
    ]
}

fn options() -> Vec<Case> {
    let large = with_fields(ok("x"), &format!("x-l: {}", "v".repeat(2000)));
    let limited = |title, common: &str| {
        case(title)
            .backend(Kind::Http2(vec![reply(large.clone())]))
            .protocol_options(&format!(
                "common_http_protocol_options: {{ {common} }}\nexplicit_http_config: {{ http2_protocol_options: {{}} }}"
            ))
            .get("/")
            .stats(["cluster.@backend.http2.header_overflow"])
    };
    vec![
        limited(
            "max_response_headers_kb of an HTTP/2 cluster",
            "max_response_headers_kb: 1",
        )
        .shows(["< 503"]),
        limited(
            "max_headers_count of an HTTP/2 cluster",
            "max_headers_count: 1",
        )
        .shows(["< 503"]),
        answers_with(
            "a PING that a server does not answer ends the upstream connection",
            &[],
            "connection_keepalive: { interval: 0.3s, timeout: 0.3s }",
        )
        .stats(["cluster.@backend.http2.keepalive_timeout"])
        .shows(["< 503", "log flags=UC"]),
        answers_with(
            "a connection that was idle is pinged before the next request",
            &[head(0, &OK), data(END, "x")],
            "connection_keepalive: { timeout: 0.3s, connection_idle_interval: 0.2s }",
        )
        .wait(400)
        .get("/")
        .stats(["cluster.@backend.http2.keepalive_timeout"])
        .shows(["< 200", "< 503"]),
    ]
}

fn grpc() -> Vec<Case> {
    let call = |title| {
        let call = request("POST", "/package.Service/Method")
            .field("content-type", "application/grpc")
            .field("te", "trailers")
            .body("\0\0\0\0\x01x");
        case(title).upstream_http2().send(call).http2()
    };
    let with_status = |code: &str| {
        let mut response = with_trailers(ok("\0\0\0\0\x01y"), &format!("grpc-status: {code}"));
        response.fields = vec![("content-type".into(), "application/grpc".into())];
        response
    };
    vec![
        call("gRPC passes with its trailers")
            .reply(reply(with_status("0")))
            .stats(["cluster.@backend.upstream_rq_200"])
            .shows(["< 200", "< trailer grpc-status: 0", "> te: trailers"]),
        call("an error of gRPC in trailers passes")
            .reply(reply(with_status("14")))
            .shows(["< 200", "< trailer grpc-status: 14"]),
        call("trailers of gRPC alone pass")
            .reply(reply(with_fields(
                status(200, ""),
                "content-type: application/grpc\ngrpc-status: 5\ngrpc-message: none",
            )))
            .shows(["< 200", "< grpc-status: 5", "< grpc-message: none"]),
        call("an upstream that is not there is UNAVAILABLE to gRPC")
            .backend(Kind::Refuse)
            .shows(["< 200", "< grpc-status: 14"]),
        call("a timeout is UNAVAILABLE to gRPC")
            .reply(crate::case::late(1500, "late"))
            .route("timeout: 0.2s", "")
            .shows(["< 200", "< grpc-status: 14"]),
        case("no route is UNIMPLEMENTED to gRPC")
            .routes("- match: { prefix: /other }\n  route: { cluster: \"@backend\" }")
            .send(get("/").field("content-type", "application/grpc"))
            .http2()
            .shows(["< 200", "< grpc-status: 12"]),
    ]
}
