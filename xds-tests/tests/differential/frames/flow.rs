//! Bodies and windows, floods, resets, and answers frame by frame.

use super::{
    CONTINUATION, DATA, END, GET, GOAWAY, HEADERS, PADDED, PING, PRIORITY, RST_STREAM,
    WINDOW_UPDATE, block, frame, get, get_with, post, sends, setting, then,
};
use crate::case::{Act, Case, Script, Step, acts, late, ok, pause, reply, with_fields};

pub(super) fn bodies() -> Vec<Case> {
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

pub(super) fn floods() -> Vec<Case> {
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

pub(super) fn windows() -> Vec<Case> {
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

pub(super) fn resets() -> Vec<Case> {
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

pub(super) fn answers() -> Vec<Case> {
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
