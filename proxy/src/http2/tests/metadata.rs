//! Frames of METADATA.

use super::*;

fn with_metadata() -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        allow_metadata: true,
        max_metadata_size: 1000,
        ..Http2ProtocolOptions::default()
    }
}

fn metadata(last: bool, payload: &[u8]) -> Vec<u8> {
    let flags = if last { frame::END_METADATA } else { 0 };
    raw(frame::METADATA, flags, 1, payload)
}

#[test]
fn metadata_in_pieces_comes_in_its_place_and_goes_out_whole() {
    let map = block(&[("a", "1"), ("b", "2"), ("a", "3")]);
    let bytes = [
        get(1, false),
        metadata(false, &map[..4]),
        metadata(true, &map[4..]),
        raw(frame::DATA, frame::END_STREAM, 1, b"x"),
    ];
    let (mut peer, _) = counted(with_metadata(), &bytes.concat());
    peer.connection.accept();
    let Some(Received::Metadata(map)) = peer.next(1) else {
        panic!("metadata comes first");
    };
    let entries: Vec<_> = map.iter().collect();
    assert_eq!(entries, [(&b"a"[..], &b"1"[..]), (&b"b"[..], &b"2"[..])]);
    assert!(matches!(peer.next(1), Some(Received::Data(..))));
    peer.frames();
    peer.connection.send_metadata(1, &map);
    let sent = peer.frames();
    let [(frame::METADATA, frame::END_METADATA, 1, payload)] = &sent[..] else {
        panic!("{sent:?}");
    };
    let mut read = Vec::new();
    let mut decoder = Decoder::default();
    let decoded = decoder.decode_fields(payload, |n, v| read.push([n.to_vec(), v.to_vec()]));
    assert_eq!(decoded, Ok(()));
    assert_eq!(read, [[b"a", b"1"], [b"b", b"2"]]);
}

#[test]
fn metadata_that_nobody_takes_ends_its_connection() {
    let map = block(&[("a", &"v".repeat(100))]);
    let many = metadata(true, &map).repeat(50);
    let (peer, _) = counted(with_metadata(), &[get(1, false), many].concat());
    assert!(peer.connection.has_failed());
    let few = metadata(true, &map).repeat(30);
    let (mut peer, _) = counted(with_metadata(), &[get(1, false), few.clone()].concat());
    for _ in 0..5 {
        while peer.next(1).is_some() {}
        peer.send(&few);
    }
    assert!(peer.connection.is_alive());
    peer.connection.release(1);
    peer.send(&few);
    assert!(peer.connection.is_alive());
}
