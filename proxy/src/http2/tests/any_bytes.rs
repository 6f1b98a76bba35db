//! What holds for any bytes, in whatever pieces.

use super::*;

/// What a server makes of these bytes, as text.
fn outcome(pieces: &[&[u8]]) -> String {
    let mut peer = Peer::client_of(&settings());
    let mut input = BytesMut::new();
    let mut bodies = std::collections::BTreeMap::<u32, (Vec<u8>, String)>::new();
    let mut heads = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        let now = peer.now;
        peer.connection.receive(&mut input, now);
        while let Some(accepted) = peer.connection.accept() {
            heads.push(format!("{accepted:?}"));
            bodies.entry(accepted.id).or_default();
        }
        for (id, (body, rest)) in &mut bodies {
            while let Some(received) = peer.next(*id) {
                match received {
                    Received::Data(data, end) => {
                        body.extend_from_slice(&data);
                        if end.is_end() {
                            rest.push_str("end");
                        }
                    }
                    other => rest.push_str(&format!("{other:?}")),
                }
            }
        }
    }
    format!("{heads:?} {bodies:?} {:?}", peer.frames())
}

#[test]
fn the_way_the_bytes_are_split_makes_no_difference() {
    let large = block(&[&GET[..], &[("x-l", "0123456789")]].concat());
    let (start, end) = large.split_at(20);
    let bytes = [
        get(1, false),
        raw(0, frame::PADDED, 1, b"\x03hello\0\0\0"),
        raw(6, 0, 0, b"12345678"),
        raw(1, 0, 3, start),
        raw(9, 4, 3, end),
        raw(0, frame::PADDED | frame::END_STREAM, 3, b"\x01bye\0"),
        raw(0, 1, 1, b"world"),
        raw(8, 0, 0, &[0, 0, 0, 9]),
        get(5, true),
        raw(3, 0, 5, &[0, 0, 0, 8]),
        raw(0, 0, 7, b"idle"),
    ]
    .concat();
    let whole = outcome(&[&bytes]);
    assert!(whole.contains("ConnectionError"), "{whole}");
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(outcome(&single), whole);
    for at in 0..bytes.len() {
        let (left, right) = bytes.split_at(at);
        assert_eq!(outcome(&[left, right]), whole, "split at {at}");
    }
}

proptest! {
    #[test]
    fn noise_behind_the_preface_breaks_nothing_but_the_connection(
        pieces in proptest::collection::vec(
            (0u8..12, any::<u8>(), 0u32..8, proptest::collection::vec(any::<u8>(), 0..40)), 0..40),
        cut in 1usize..50,
    ) {
        let bytes: Vec<u8> = pieces
            .iter()
            .flat_map(|(kind, flags, stream, payload)| raw(*kind, *flags, *stream, payload))
            .collect();
        let chunks: Vec<&[u8]> = bytes.chunks(cut).collect();
        prop_assert_eq!(outcome(&chunks), outcome(&[&bytes]));
    }

    #[test]
    fn two_ends_of_ours_understand_each_other(
        bodies in proptest::collection::vec(0usize..200_000, 1..6),
        cut in 1usize..30_000,
        value in "[ -~]{0,200}",
    ) {
        let now = Instant::now();
        let mut near = client();
        let config = ConnectionConfig::for_server(&settings(), 1 << 20);
        let mut far = Peer { connection: Connection::new(config, None, now), now };
        far.send(&[frame::PREFACE, &raw(frame::SETTINGS, 0, 0, &[])].concat());
        let mut ids = Vec::new();
        for size in &bodies {
            let mut head = RequestHead::new(Protocol::Http2, b"POST");
            head.set_path(b"/x");
            head.set_authority(b"a");
            head.fields.append("x-v", value.trim());
            let id = near.connection.send_request(&head, EndStream::No).unwrap();
            near.connection.send_data(id, Bytes::from(vec![1; *size]), EndStream::Yes);
            ids.push(id);
        }
        let mut got = vec![(0usize, false); bodies.len()];
        for _ in 0..200 {
            let out = near.connection.take_output();
            let back = far.connection.take_output();
            if out.is_empty() && back.is_empty() {
                break;
            }
            let mut input = BytesMut::new();
            for chunk in out.chunks(cut) {
                input.extend_from_slice(chunk);
                far.connection.receive(&mut input, now);
            }
            while let Some(accepted) = far.connection.accept() {
                let (head, _) = accepted.head.unwrap();
                prop_assert_eq!(head.fields.get("x-v"), Some(value.trim().as_bytes()));
            }
            for (id, slot) in ids.iter().zip(&mut got) {
                let (body, ended) = far.body(*id);
                slot.0 += body.len();
                slot.1 |= ended;
            }
            near.send(&back);
        }
        let wanted: Vec<_> = bodies.iter().map(|size| (*size, true)).collect();
        prop_assert_eq!(got, wanted);
    }
}
