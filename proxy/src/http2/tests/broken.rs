//! What no peer may send, and what becomes of it.

use super::*;

#[test]
#[allow(
    clippy::too_many_lines,
    reason = "a table of cases is as long as there are cases"
)]
fn each_broken_frame_has_its_end() {
    let stream = |more: Vec<u8>| [get(1, false), more].concat();
    let setting = |id: u16, value: u32| {
        let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
        raw(frame::SETTINGS, 0, 0, &payload)
    };
    let own_parent = [0, 0, 0, 1, 7];
    let told = |code| (Some(code), None, true);
    let silent = (None, None, true);
    let cases: Vec<(&str, Vec<u8>, Fate)> = vec![
        ("DATA on an idle stream", raw(0, 0, 1, b"a"), told(1)),
        ("DATA on stream 0", raw(0, 0, 0, b"a"), told(1)),
        (
            "DATA behind the end",
            [get(1, true), raw(0, 0, 1, b"a")].concat(),
            told(5),
        ),
        (
            "HEADERS behind the end",
            [get(1, true), get(1, true)].concat(),
            told(5),
        ),
        (
            "too much padding of DATA",
            stream(raw(0, 8, 1, b"\x09abc")),
            told(1),
        ),
        (
            "too much padding of HEADERS",
            raw(1, 0xd, 1, b"\xffabc"),
            told(1),
        ),
        (
            "a frame above the limit",
            raw(6, 0, 0, &[0; 16_385]),
            told(6),
        ),
        ("CONTINUATION alone", raw(9, 4, 1, b""), told(1)),
        (
            "a frame among CONTINUATION",
            [raw(1, 1, 1, &block(&GET)), raw(6, 0, 0, &[0; 8])].concat(),
            told(1),
        ),
        (
            "CONTINUATION of another",
            [raw(1, 1, 1, &block(&GET)), raw(9, 4, 3, b"")].concat(),
            told(1),
        ),
        (
            "a broken header block",
            raw(1, 5, 1, b"\xff\xff\xff\xff\xff\xff"),
            told(9),
        ),
        ("HEADERS on stream 0", raw(1, 5, 0, &block(&GET)), silent),
        ("an even stream", get(2, true), silent),
        (
            "a lower stream",
            [get(5, true), get(3, true)].concat(),
            told(5),
        ),
        (
            "HEADERS that depend on themselves",
            raw(1, 0x25, 1, &[&own_parent[..], &block(&GET)].concat()),
            silent,
        ),
        (
            "trailers without end",
            stream(raw(1, 4, 1, &block(&[("x", "y")]))),
            silent,
        ),
        (
            "pseudo headers in trailers",
            stream(raw(1, 5, 1, &block(&[(":path", "/")]))),
            silent,
        ),
        (
            "RST_STREAM on an idle stream",
            raw(3, 0, 1, &[0; 4]),
            silent,
        ),
        (
            "RST_STREAM of three octets",
            stream(raw(3, 0, 1, &[0; 3])),
            told(6),
        ),
        (
            "WINDOW_UPDATE on an idle stream",
            raw(8, 0, 1, &[0, 0, 0, 1]),
            silent,
        ),
        ("WINDOW_UPDATE of nothing", raw(8, 0, 0, &[0; 4]), silent),
        (
            "WINDOW_UPDATE of nothing on a stream",
            stream(raw(8, 0, 1, &[0; 4])),
            silent,
        ),
        (
            "WINDOW_UPDATE beyond the largest of a stream",
            stream(raw(8, 0, 1, &[0x7f, 255, 255, 255])),
            (None, Some(3), false),
        ),
        (
            "WINDOW_UPDATE beyond the largest",
            raw(8, 0, 0, &[0x7f, 255, 255, 255]),
            told(3),
        ),
        (
            "WINDOW_UPDATE of three octets",
            raw(8, 0, 0, &[0; 3]),
            told(6),
        ),
        ("PRIORITY of itself", raw(2, 0, 1, &own_parent), silent),
        ("PRIORITY of three octets", raw(2, 0, 1, &[0; 3]), told(6)),
        ("PING of one octet", raw(6, 0, 0, &[0]), told(6)),
        ("PING on a stream", raw(6, 0, 1, &[0; 8]), silent),
        ("SETTINGS on a stream", raw(4, 0, 1, &[]), silent),
        ("SETTINGS of three octets", raw(4, 0, 0, &[0; 3]), told(6)),
        (
            "SETTINGS with ACK and payload",
            raw(4, 1, 0, &[0; 6]),
            told(6),
        ),
        ("ENABLE_PUSH of 2", setting(2, 2), silent),
        ("a window above the largest", setting(4, 1 << 31), silent),
        ("a frame size below the smallest", setting(5, 1), silent),
        ("PUSH_PROMISE", stream(raw(5, 4, 1, &[0, 0, 0, 2])), silent),
        ("GOAWAY on a stream", raw(7, 0, 1, &[0; 8]), silent),
        (
            "two empty DATA",
            stream([raw(0, 0, 1, b""), raw(0, 0, 1, b"")].concat()),
            silent,
        ),
        (
            "a header block without end",
            [
                raw(1, 1, 1, &block(&GET)),
                raw(9, 0, 1, &[7; 16_384]).repeat(12),
            ]
            .concat(),
            silent,
        ),
        (
            "200 PRIORITY",
            raw(2, 0, 3, &[0, 0, 0, 1, 7]).repeat(200),
            silent,
        ),
        (
            "a body that is too long",
            [
                raw(
                    1,
                    4,
                    1,
                    &block(&[&GET[..], &[("content-length", "1")]].concat()),
                ),
                raw(0, 0, 1, b"ab"),
            ]
            .concat(),
            (None, Some(1), false),
        ),
        (
            "a body that is too short",
            [
                raw(
                    1,
                    4,
                    1,
                    &block(&[&GET[..], &[("content-length", "3")]].concat()),
                ),
                raw(0, 1, 1, b"ab"),
            ]
            .concat(),
            (None, Some(1), false),
        ),
        (
            "an unknown frame",
            [raw(0x1f, 0xff, 9, b"abc"), get(1, true)].concat(),
            (None, None, false),
        ),
        (
            "PRIORITY",
            raw(2, 0, 1, &[0, 0, 0, 3, 7]),
            (None, None, false),
        ),
        (
            "WINDOW_UPDATE on a closed stream",
            [get(1, true), raw(8, 0, 1, &[0, 0, 0, 1])].concat(),
            (None, None, false),
        ),
    ];
    for (title, bytes, wanted) in cases {
        let mut peer = Peer::client_of(&settings());
        peer.send(&bytes);
        assert_eq!(fate(&mut peer), wanted, "{title}");
    }
}

#[test]
fn what_is_no_preface_or_no_settings_is_no_connection() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nXX"] {
        let config = ConnectionConfig::for_server(&settings(), 1);
        let mut connection = Connection::new(config, None, Instant::now());
        connection.receive(&mut BytesMut::from(bytes), Instant::now());
        assert!(connection.has_failed());
    }
    let config = ConnectionConfig::for_server(&settings(), 1);
    let mut connection = Connection::new(config, None, Instant::now());
    // Anything but SETTINGS is no beginning.
    let bytes = [frame::PREFACE, &raw(6, 0, 0, &[0; 8])].concat();
    connection.receive(&mut BytesMut::from(&bytes[..]), Instant::now());
    assert!(connection.has_failed());
}

#[test]
fn a_malformed_head_ends_the_connection_or_its_stream_as_configured() {
    let bad = raw(1, 5, 1, &block(&[&GET[..], &[("X-A", "1")]].concat()));
    let mut peer = Peer::client_of(&settings());
    peer.send(&bad);
    let refused = peer.connection.accept().unwrap().head.unwrap_err();
    assert_eq!(refused.details, "http2.invalid.header.field");
    assert!(refused.is_malformed && peer.connection.has_failed());

    let keeping = Http2Settings {
        stream_error_on_invalid_http_message: true,
        ..settings()
    };
    let mut peer = Peer::client_of(&keeping);
    peer.send(&bad);
    assert!(peer.connection.accept().unwrap().head.is_err());
    assert_eq!(fate(&mut peer), (None, Some(1), false));
    peer.connection.release(1);
    peer.send(&get(3, true));
    assert!(peer.connection.accept().unwrap().head.is_ok());
}

#[test]
fn a_head_above_the_limit_ends_its_stream_and_the_table_stays_right() {
    let small = Http2Settings {
        max_request_headers_kb: 1,
        ..settings()
    };
    let mut peer = Peer::client_of(&small);
    let large = "x".repeat(100);
    let many: Vec<_> = (0..11).map(|_| ("x-l", large.as_str())).collect();
    let mut first = block(&[&GET[..], &many].concat());
    // The last one goes into the table.
    first.extend_from_slice(b"\x40\x03x-k\x01v");
    peer.send(&raw(1, 5, 1, &first));
    let refused = peer.connection.accept().unwrap().head.unwrap_err();
    assert_eq!(refused.details, "http2.header_list_size_too_large");
    assert_eq!(fate(&mut peer), (None, Some(2), false));
    let mut second = block(&GET);
    second.push(0xbe);
    peer.send(&raw(1, 5, 3, &second));
    let (head, _) = peer.connection.accept().unwrap().head.unwrap();
    assert_eq!(head.fields.get("x-k"), Some(&b"v"[..]));
}

#[test]
fn nothing_is_said_before_the_preface_of_the_client() {
    let config = ConnectionConfig::for_server(&settings(), 1 << 20);
    let now = Instant::now();
    let mut peer = Peer {
        connection: Connection::new(config, None, now),
        now,
    };
    peer.connection.send_ping(1);
    peer.connection.announce_goaway();
    assert!(peer.frames().is_empty());
    peer.send(&[frame::PREFACE, &raw(frame::SETTINGS, 0, 0, &[])].concat());
    let kinds: Vec<u8> = peer.frames().iter().map(|frame| frame.0).collect();
    assert_eq!(kinds[0], frame::SETTINGS);
    assert!(kinds.contains(&frame::GOAWAY));
}
