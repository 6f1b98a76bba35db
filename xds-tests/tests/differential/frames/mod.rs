//! What becomes of HTTP/2 frame by frame: heads that break the rules, frames that do, floods, windows, resets.
//!
//! Where Envoy fails h2spec the RFC wins, and there is no case here: WINDOW_UPDATE beyond the largest window, frames on closed
//! streams, numbers of streams that go backwards, PRIORITY on stream 0 or of itself.

mod broken;
mod flow;
mod heads;

use std::time::Duration;

use crate::case::{Case, Downstream, Step, case};

use broken::{broken_frames, broken_settings};
use flow::{answers, bodies, floods, resets, windows};
use heads::{accepted, fields, limits, pseudo_headers};

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
