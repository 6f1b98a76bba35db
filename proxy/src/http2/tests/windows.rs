//! What may be sent, and what is held until it may.

use super::*;

#[test]
fn data_waits_for_both_windows() {
    let mut peer = Peer::client_of(&settings());
    let window = [&4u16.to_be_bytes()[..], &10u32.to_be_bytes()].concat();
    peer.send(&[raw(4, 0, 0, &window), get(1, true), get(3, true)].concat());
    peer.frames();
    let sizes = |frames: Vec<Frame>| -> Vec<(u32, usize, u8)> {
        frames
            .into_iter()
            .filter(|f| f.0 == 0)
            .map(|f| (f.2, f.3.len(), f.1))
            .collect()
    };
    for id in [1, 3] {
        let connection = &mut peer.connection;
        connection.send_response(id, &ResponseHead::new(200), EndStream::No);
        connection.send_data(id, Bytes::from(vec![0; 15]), EndStream::Yes);
    }
    assert_eq!(sizes(peer.frames()), [(1, 10, 0), (3, 10, 0)]);
    peer.send(&raw(8, 0, 3, &[0, 0, 0, 3]));
    assert_eq!(sizes(peer.frames()), [(3, 3, 0)]);
    // Settings change windows of streams that are open, below zero too.
    let smaller = [&4u16.to_be_bytes()[..], &5u32.to_be_bytes()].concat();
    peer.send(&[raw(4, 0, 0, &smaller), raw(8, 0, 1, &[0, 0, 0, 5])].concat());
    assert_eq!(sizes(peer.frames()), []);
    peer.send(&raw(8, 0, 1, &[0, 0, 1, 0]));
    assert_eq!(sizes(peer.frames()), [(1, 5, 1)]);
}

#[test]
fn the_window_of_the_connection_is_shared_in_turn() {
    let mut peer = Peer::client_of(&settings());
    let window = [&4u16.to_be_bytes()[..], &1_000_000u32.to_be_bytes()].concat();
    peer.send(&[raw(4, 0, 0, &window), get(1, true), get(3, true)].concat());
    for id in [1, 3] {
        let connection = &mut peer.connection;
        connection.send_response(id, &ResponseHead::new(200), EndStream::No);
        connection.send_data(id, Bytes::from(vec![0; 60_000]), EndStream::Yes);
    }
    let sent = |frames: Vec<Frame>| -> usize {
        frames.iter().filter(|f| f.0 == 0).map(|f| f.3.len()).sum()
    };
    assert_eq!(sent(peer.frames()), 65_535);
    peer.send(&raw(8, 0, 0, &60_000u32.to_be_bytes()));
    assert_eq!(sent(peer.frames()), 120_000 - 65_535);
    assert_eq!(peer.connection.open_streams(), 0);
}

#[test]
fn what_is_read_is_given_back_at_half_a_window_and_not_before() {
    let small = Http2Settings {
        options: Http2ProtocolOptions {
            initial_stream_window_size: 65_535,
            initial_connection_window_size: 65_535,
            ..Http2ProtocolOptions::default()
        },
        ..settings()
    };
    let mut peer = Peer::client_of(&small);
    let data = raw(0, 0, 1, &vec![0; 16_000]);
    peer.send(&[get(1, false), data.repeat(3)].concat());
    assert_eq!(peer.frames(), []);
    assert_eq!(peer.body(1).0.len(), 48_000);
    let updates: Vec<_> = peer
        .frames()
        .iter()
        .map(|f| (f.0, f.2, frame::number(&f.3)))
        .collect();
    assert_eq!(updates, [(8, 1, 48_000), (8, 0, 48_000)]);
    // What comes beyond the window breaks it.
    peer.send(&data.repeat(5));
    assert_eq!(fate(&mut peer), (Some(3), None, true));
}

#[test]
fn data_of_a_stream_that_was_reset_counts_for_the_connection_only() {
    let mut peer = Peer::client_of(&settings());
    peer.send(&get(1, false));
    peer.connection.accept().unwrap().head.unwrap();
    peer.connection.reset(1, ErrorCode::CANCEL);
    peer.connection.release(1);
    assert_eq!(fate(&mut peer), (None, Some(8), false));
    peer.send(&[raw(0, 0, 1, b"late"), raw(1, 5, 1, &block(&[("x", "y")]))].concat());
    assert_eq!(fate(&mut peer), (None, None, false));
    assert_eq!(peer.connection.open_streams(), 0);
}

#[test]
fn data_for_a_stream_that_was_let_go_does_not_keep_the_window() {
    let settings = Http2Settings {
        options: Http2ProtocolOptions {
            initial_connection_window_size: 65_535,
            ..Http2ProtocolOptions::default()
        },
        ..settings()
    };
    let mut peer = Peer::client_of(&settings);
    // The client takes no more than ten octets, so that the answer stays while its owner goes.
    peer.send(&raw(frame::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 10]));
    peer.send(&get(1, false));
    let connection = &mut peer.connection;
    connection.send_response(1, &ResponseHead::new(200), EndStream::No);
    connection.send_data(1, Bytes::from_static(&[0; 20]), EndStream::Yes);
    connection.release(1);
    peer.frames();
    peer.send(&raw(frame::DATA, 0, 1, &[0; 16_384]));
    peer.send(&raw(frame::DATA, 0, 1, &[0; 16_384]));
    let updates: Vec<_> = peer.frames().into_iter().map(|f| (f.0, f.2)).collect();
    assert_eq!(updates, [(frame::WINDOW_UPDATE, 0)]);
}

#[test]
fn bodies_for_windows_of_nothing_wait_on_their_streams_until_these_go() {
    let no_window = [&[0, 4][..], &0u32.to_be_bytes()].concat();
    let streams: Vec<u8> = (0..100).flat_map(|n| get(2 * n + 1, true)).collect();
    let bytes = [raw(frame::SETTINGS, 0, 0, &no_window), streams].concat();
    let (mut peer, stats) = counted(Http2ProtocolOptions::default(), &bytes);
    let cx = Context::from_waker(Waker::noop());
    while let Some(accepted) = peer.connection.accept() {
        let head = ResponseHead::new(200);
        let id = accepted.id;
        peer.connection.send_response(id, &head, EndStream::No);
        let body = Bytes::from(vec![0; 1000]);
        peer.connection.send_data(id, body, EndStream::No);
        // Who asks before it sends more, has to wait.
        assert!(peer.connection.poll_sent(id, 999, &cx).is_pending());
    }
    peer.frames();
    assert_eq!(stats.pending_send_bytes().value(), 100_000);
    for n in 0..100 {
        peer.connection.reset(2 * n + 1, ErrorCode::INTERNAL_ERROR);
        peer.connection.release(2 * n + 1);
    }
    peer.frames();
    assert_eq!(stats.pending_send_bytes().value(), 0);
    assert_eq!(peer.connection.open_streams(), 0);
}

#[test]
fn a_stream_holds_what_its_owner_has_not_taken_and_what_could_not_be_sent() {
    let mut peer = Peer::client_of(&settings());
    peer.send(&[get(1, false), raw(frame::DATA, 0, 1, b"hello")].concat());
    assert_eq!(peer.connection.accept().unwrap().id, 1);
    assert_eq!(peer.connection.held(1), 5);
    peer.body(1);
    assert_eq!(peer.connection.held(1), 0);
    let head = ResponseHead::new(200);
    peer.connection.send_response(1, &head, EndStream::No);
    let body = Bytes::from(vec![0; 100_000]);
    peer.connection.send_data(1, body, EndStream::Yes);
    assert_eq!(peer.connection.held(1), 100_000 - 65_535);
    assert_eq!(peer.connection.held(3), 0);
}
