//! The fields of `Http2ProtocolOptions` and the runtime keys of HTTP/2, each by what a client sees of it.

use std::time::Duration;

use crate::case::{Case, Kind, Step, late, ok, reply, with_fields};
use crate::frames::{
    BAD_FIELD, CONTINUATION, DATA, END, END_HEADERS, GET, HEADERS, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, block, frame, get, get_with, post, sends, then,
};

pub fn cases() -> Vec<Case> {
    [
        announced(),
        tables(),
        sizes(),
        keepalive(),
        floods(),
        runtime(),
        going_away(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn options(text: &str) -> String {
    format!("http2_protocol_options: {{ {text} }}")
}

/// A request of a client that looks at everything.
fn watches(title: &'static str, bytes: &[u8]) -> Case {
    let mut case = sends(title, bytes);
    case.steps.insert(0, Step::ShowAllFrames);
    case
}

fn announced() -> Vec<Case> {
    let says = |title, text: &str, settings: &str| {
        watches(title, &get(1))
            .hcm(&options(text))
            .shows([settings, "< HEADERS 1 200"])
    };
    vec![
        says(
            "SETTINGS tell the defaults",
            "",
            "< SETTINGS 1=4096 3=1024 4=16777216 8=0",
        )
        .shows(["< WINDOW_UPDATE 0 +25100289"]),
        says(
            "max_concurrent_streams is announced",
            "max_concurrent_streams: 7",
            "< SETTINGS 1=4096 3=7 4=16777216 8=0",
        ),
        says(
            "initial_stream_window_size is announced",
            "initial_stream_window_size: 65536",
            "< SETTINGS 1=4096 3=1024 4=65536 8=0",
        ),
        says(
            "initial_connection_window_size is announced by WINDOW_UPDATE",
            "initial_connection_window_size: 65536",
            "< WINDOW_UPDATE 0 +1",
        ),
        says(
            "allow_connect is announced",
            "allow_connect: true",
            "< SETTINGS 1=4096 3=1024 4=16777216 8=1",
        ),
        says(
            "custom_settings_parameters are announced",
            "custom_settings_parameters: [{ identifier: 153, value: 5 }]",
            "< SETTINGS 1=4096 3=1024 4=16777216 8=0 153=5",
        ),
        watches("values are sent in Huffman's code", &get(1))
            .reply(reply(with_fields(ok("x"), "x-a: legible")))
            .shows(["< HEADERS 1 200"])
            .lacks(["< HEADERS 1 can be read"]),
        watches(
            "enable_huffman_encoding: false sends values as they are",
            &get(1),
        )
        .hcm(&options("enable_huffman_encoding: false"))
        .reply(reply(with_fields(ok("x"), "x-a: legible")))
        .shows(["< HEADERS 1 can be read"]),
    ]
}

fn tables() -> Vec<Case> {
    // SETTINGS are binding when they are acknowledged; then a change of size and a GET.
    let resized = |title, size: &[u8]| {
        let ack = frame(SETTINGS, END, 0, &[]);
        let head = [size, &block(&GET)].concat();
        then(
            watches(title, &[]),
            &[ack, frame(HEADERS, END | END_HEADERS, 1, &head)].concat(),
        )
    };
    vec![
        resized("hpack_table_size lets a table grow", &[0x3f, 0xe1, 0x3f])
            .hcm(&options("hpack_table_size: 8192"))
            .shows(["< SETTINGS 1=8192 3=1024 4=16777216 8=0", "< HEADERS 1 200"]),
        resized(
            "a table beyond hpack_table_size closes",
            &[0x3f, 0xe2, 0x3f],
        )
        .hcm(&options("hpack_table_size: 8192"))
        .shows(["< GOAWAY 1 COMPRESSION_ERROR", "= connection 0: closed"]),
        resized("a smaller table has to be agreed to", &[])
            .hcm(&options("hpack_table_size: 100"))
            .shows(["< GOAWAY 1 COMPRESSION_ERROR", "= connection 0: closed"]),
        resized("a table of nothing serves too", &[0x20])
            .hcm(&options("hpack_table_size: 0"))
            .shows(["log code=200", "< LAST DATA 1 hello"]),
    ]
}

/// A GET with a field of that many octets, in frames of the largest size.
fn large(size: usize) -> Vec<u8> {
    let block = block(&[&GET[..], &[("x", &*"v".repeat(size))]].concat());
    let pieces: Vec<_> = block.chunks(16_384).collect();
    let mut bytes = Vec::new();
    for (number, piece) in pieces.iter().enumerate() {
        let (kind, begin) = match number {
            0 => (HEADERS, END),
            _ => (CONTINUATION, 0),
        };
        let end = if number + 1 == pieces.len() {
            END_HEADERS
        } else {
            0
        };
        bytes.extend(frame(kind, begin | end, 1, piece));
    }
    bytes
}

fn sizes() -> Vec<Case> {
    let field = |title, size, text: &str| {
        sends(title, &large(size))
            .hcm("max_request_headers_kb: 200")
            .hcm(&options(text))
            .routes("- match: { prefix: / }\n  direct_response: { status: 200 }")
    };
    const OLD: &str = "use_oghttp2_codec: true";
    vec![
        field("a field of 64 KiB passes", 65_536, "").shows(["< HEADERS 1 END_STREAM 200"]),
        field("a field above 64 KiB closes", 65_537, "").shows([
            "< GOAWAY 1 COMPRESSION_ERROR",
            "= connection 0: closed",
            "log flags=DPE",
            "log details=codec_error:The_user_callback_function_failed",
        ]),
        field(
            "max_header_field_size_kb lets larger fields in",
            131_072,
            "max_header_field_size_kb: 128",
        )
        .shows(["< HEADERS 1 END_STREAM 200"]),
        field(
            "a field above max_header_field_size_kb closes",
            131_073,
            "max_header_field_size_kb: 128",
        )
        .shows(["< GOAWAY 1 COMPRESSION_ERROR", "log flags=DPE"]),
        field("fields have any size with oghttp2", 70_000, OLD)
            .shows(["< HEADERS 1 END_STREAM 200"]),
        sends(
            "disallow_obs_text refuses octets above ASCII with oghttp2",
            &get_with(&[("x", "\u{e9}")]),
        )
        .hcm(&options(&format!("{OLD}, disallow_obs_text: true")))
        .shows(BAD_FIELD),
        sends(
            "octets above ASCII pass with oghttp2",
            &get_with(&[("x", "\u{e9}")]),
        )
        .hcm(&options(OLD))
        .shows(["< HEADERS 1 200"]),
    ]
}

fn keepalive() -> Vec<Case> {
    let pings = |interval: &str, timeout: &str| {
        options(&format!(
            "connection_keepalive: {{ interval: {interval}, timeout: {timeout}, interval_jitter: {{ value: 0 }} }}"
        ))
    };
    vec![
        sends("connection_keepalive sends a PING", &get(1))
            .hcm(&pings("0.3s", "60s"))
            .step(Step::ReadFrames(Duration::from_millis(700)))
            .shows(["< HEADERS 1 200", "< PING", "= connection 0: open"]),
        sends("a PING without answer ends the connection", &get(1))
            .hcm(&pings("0.2s", "0.2s"))
            .reply(late(3000, "late"))
            .step(Step::ReadFrames(Duration::from_millis(700)))
            .stats(["http2.keepalive_timeout"])
            .shows(["< PING", "= connection 0: closed", "log code=0"]),
    ]
}

fn floods() -> Vec<Case> {
    let update = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
    let updates = |title, text: &str| {
        then(sends(title, &get(1)), &update.repeat(12))
            .hcm(&options(text))
            .stats(["http.@stat.downstream_cx_active"])
    };
    vec![
        sends(
            "max_outbound_frames bounds what waits",
            &frame(PING, 0, 0, &[0; 8]).repeat(20),
        )
        .hcm(&options("max_outbound_frames: 5"))
        .logs(0)
        .stats(["http2.outbound_flood"])
        .shows(["= connection 0: closed"]),
        updates(
            "max_inbound_window_update_frames_per_data_frame_sent bounds what comes",
            "max_inbound_window_update_frames_per_data_frame_sent: 1",
        )
        .shows(["= connection 0: closed"]),
        updates(
            "more WINDOW_UPDATE are allowed for each DATA",
            "max_inbound_window_update_frames_per_data_frame_sent: 100",
        )
        .shows(["= connection 0: open"]),
    ]
}

/// The keys are those of all cases here, and none of the others comes near them.
fn runtime() -> Vec<Case> {
    let resets = |title, count: u32| {
        let streams = (0..count).map(|number| 2 * number + 1);
        let bytes: Vec<u8> = streams
            .flat_map(|id| [get(id), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat())
            .collect();
        let mut case = sends(title, &bytes);
        // How many of them were begun before that is nobody's business.
        case.stats.clear();
        case.backend(Kind::Deaf)
            .access_log("")
            .logs(0)
            .runtime("overload.premature_reset_total_stream_count", 20)
            .runtime("overload.premature_reset_min_stream_lifetime_seconds", 5)
            .stats(["http.@stat.downstream_rq_too_many_premature_resets"])
    };
    let many: Vec<u8> = (0..12).flat_map(|number| get(2 * number + 1)).collect();
    vec![
        resets(
            "premature_reset_total_stream_count ends a connection before that",
            12,
        )
        .shows(["= connection 0: closed"]),
        resets(
            "fewer resets than premature_reset_total_stream_count pass",
            8,
        )
        .shows(["= connection 0: open"]),
        sends(
            "requests beyond max_requests_per_io_cycle have their turn later",
            &many,
        )
        .runtime("http.max_requests_per_io_cycle", 2)
        .logs(12)
        .any_order()
        .connections_aside()
        .shows([
            "> GET / HTTP/1.1",
            "< HEADERS 1 200",
            "< HEADERS 23 200",
            "= connection 0: open",
        ]),
    ]
}

fn going_away() -> Vec<Case> {
    let mut behind = post(&[]);
    // The same head, for stream 3.
    behind[8] = 3;
    let body = frame(DATA, END, 3, b"late");
    vec![
        sends(
            "a request behind the last GOAWAY is ignored with its body",
            &get(1),
        )
        .hcm("common_http_protocol_options: { max_connection_duration: 0.2s }\ndrain_timeout: 0.1s")
        .reply(late(1600, "in time"))
        .step(Step::ReadFrames(Duration::from_millis(500)))
        .step(Step::Send([behind, body].concat()))
        .step(Step::ReadFrames(Duration::from_millis(1200)))
        .shows([
            "< GOAWAY 2147483647 NO_ERROR",
            "< GOAWAY 1 NO_ERROR",
            "< LAST DATA 1 in time",
            "= connection 0: closed",
        ])
        .lacks(["< HEADERS 3*"]),
    ]
}
