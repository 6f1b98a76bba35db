//! HTTP/2 clients that want to cost more than they pay, and METADATA frames.

use crate::case::{Act, Case, Kind, late, pause};
use crate::frames::{
    CONTINUATION, DATA, END, END_HEADERS, GET, HEADERS, RST_STREAM, SETTINGS, block, frame, get,
    post, sends,
};

const METADATA: u8 = 0x4d;
const END_METADATA: u8 = 4;

pub fn cases() -> Vec<Case> {
    [resets(), heads(), answers(), metadata()]
        .into_iter()
        .flatten()
        .collect()
}

/// Streams that are opened and reset at once.
fn rapid_resets(count: u32) -> Vec<u8> {
    let streams = (0..count).map(|number| 2 * number + 1);
    streams
        .flat_map(|id| [get(id), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat())
        .collect()
}

fn resets() -> Vec<Case> {
    // Nobody answers, so that it does not matter when each of them begins.
    let fast = |title, count| {
        let mut case = sends(title, &rapid_resets(count)).backend(Kind::Deaf);
        // How many of them were begun before the end depends on how they were read.
        case.stats.clear();
        case.stats(["http.@stat.downstream_cx_protocol_error"])
    };
    vec![
        fast(
            "half of 500 streams reset unanswered end their connection",
            260,
        )
        .access_log("")
        .logs(0)
        .stats(["http.@stat.downstream_rq_too_many_premature_resets"])
        .shows(["= connection 0: closed"]),
        fast("fewer streams may be reset unanswered", 200)
            .access_log("")
            .logs(0)
            .stats(["http.@stat.downstream_rq_too_many_premature_resets"])
            .shows(["= connection 0: open"]),
        fast("stream_reset_burst ends a connection before that", 20)
            .hcm("http2_protocol_options: { stream_reset_burst: 10, stream_reset_rate: 1 }")
            .access_log("")
            .logs(0)
            .stats(["http.@stat.downstream_rq_too_many_premature_resets"])
            .shows(["= connection 0: closed"]),
    ]
}

fn heads() -> Vec<Case> {
    let pieces = |count, size: usize| {
        let mut bytes = frame(HEADERS, END, 1, &block(&GET));
        for number in 0..count {
            let flags = if number + 1 == count { END_HEADERS } else { 0 };
            let name = format!("x-{number}");
            let piece = block(&[(&*name, &*"v".repeat(size))]);
            bytes.extend(frame(CONTINUATION, flags, 1, &piece));
        }
        bytes
    };
    // A field of 4,000 octets that goes into the table, and then its number again and again.
    let mut bomb = block(&GET);
    bomb.extend_from_slice(&[0x40, 3, b'x', b'-', b'a', 0x7f]);
    // 127 + 0x21 + 0x1e * 128.
    bomb.extend_from_slice(&[0xa1, 0x1e]);
    bomb.extend(std::iter::repeat_n(b'v', 4000));
    bomb.extend(std::iter::repeat_n(0x80 | 62, 1000));
    vec![
        sends("any number of CONTINUATION makes a head", &pieces(60, 3))
            .shows(["< HEADERS 1 200", "> x-59: vvv"]),
        sends(
            "CONTINUATION beyond the largest head reset their stream",
            &pieces(30, 4000),
        )
        .stats(["http2.header_list_size_too_large"])
        .logs(1)
        .shows([
            "< RST_STREAM 1 INTERNAL_ERROR",
            "log details=http2.header_list_size_too_large",
        ]),
        sends(
            "an HPACK bomb is a head that is too large",
            &frame(HEADERS, END | END_HEADERS, 1, &bomb),
        )
        .stats(["http2.header_list_size_too_large"])
        .logs(1)
        .shows(["log details=http2.header_list_size_too_large"]),
    ]
}

fn answers() -> Vec<Case> {
    let options = |text: &str| format!("http2_protocol_options: {{ {text} }}");
    vec![
        sends(
            "SETTINGS again and again are a flood of their answers",
            &frame(SETTINGS, 0, 0, &[]).repeat(20),
        )
        .hcm(&options("max_outbound_control_frames: 5"))
        .logs(0)
        .stats(["http2.outbound_control_flood"])
        .shows(["= connection 0: closed"]),
        sends(
            "streams that are refused are a flood of RST_STREAM",
            &(0..40).flat_map(|n| get(2 * n + 1)).collect::<Vec<_>>(),
        )
        .reply(late(1500, "late"))
        .hcm(&options(
            "max_outbound_control_frames: 5, max_concurrent_streams: 1",
        ))
        .stats(["http2.outbound_control_flood"])
        .shows(["= connection 0: closed", "log flags=DPE"]),
    ]
}

fn metadata() -> Vec<Case> {
    let small = frame(METADATA, END_METADATA, 1, &block(&[("key", "value")]));
    let with_body = |metadata: &[u8]| {
        let end = frame(DATA, END, 1, b"x");
        [&post(&[]), metadata, &end].concat()
    };
    let allowed = |title, metadata: &[u8]| {
        sends(title, &with_body(metadata))
            .hcm("http2_protocol_options: { allow_metadata: true, max_metadata_size: 100 }")
    };
    let large = frame(
        METADATA,
        END_METADATA,
        1,
        &block(&[("key", &*"v".repeat(200))]),
    );
    // What a server of HTTP/2 answers to the first request of a connection.
    let answered = |title, options: &str, upstream: &str| {
        let response = [
            frame(HEADERS, END_HEADERS, 1, &[0x88]),
            small.clone(),
            frame(DATA, END, 1, b"y"),
        ];
        let acts = vec![
            Act::Send(frame(SETTINGS, 0, 0, &[])),
            Act::Read(24),
            pause(100),
            Act::Send(response.concat()),
            pause(500),
            Act::Close,
        ];
        sends(title, &get(1))
            .hcm(&format!("http2_protocol_options: {{ {options} }}"))
            .backend(Kind::Tcp(vec![acts]))
            .protocol_options(&format!(
                "explicit_http_config: {{ http2_protocol_options: {{ {upstream} }} }}"
            ))
    };
    const ALLOWED: &str = "allow_metadata: true";
    vec![
        sends("METADATA is skipped by default", &with_body(&large))
            .shows(["< HEADERS 1 200", "> body x"]),
        allowed("METADATA that HTTP/1 does not know is dropped", &small)
            .shows(["< HEADERS 1 200", "> body x"]),
        allowed(
            "METADATA above max_metadata_size ends the connection",
            &large,
        )
        .shows(["= connection 0: closed", "log flags=DPE"]),
        allowed(
            "METADATA that is no block ends the connection",
            &frame(METADATA, END_METADATA, 1, &[0xff, 0xff, 0xff]),
        )
        .shows(["= connection 0: closed", "log flags=DPE"]),
        allowed(
            "METADATA without entries are counted",
            &frame(METADATA, END_METADATA, 1, &[]),
        )
        .stats(["http2.metadata_empty_frames"])
        .shows(["< HEADERS 1 200"]),
        answered("METADATA of a response passes", ALLOWED, ALLOWED).shows([
            "< HEADERS 1 200",
            "< frame 77 1",
            "< LAST DATA 1 y",
        ]),
        answered("METADATA of a response is skipped by default", ALLOWED, "")
            .shows(["< HEADERS 1 200", "< LAST DATA 1 y"])
            .lacks(["< frame*"]),
    ]
}
