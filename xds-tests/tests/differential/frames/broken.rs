//! Frames and settings that break the rules.

use std::time::Duration;

use super::{
    CONTINUATION, DATA, END, END_HEADERS, GET, GOAWAY, HEADERS, PADDED, PING, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, get, post, sends, setting,
};
use crate::case::{Case, Downstream, Step, case};

pub(super) fn broken_frames() -> Vec<Case> {
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

pub(super) fn broken_settings() -> Vec<Case> {
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
