//! How much a peer may ask for, and what a connection needs.

use super::*;

#[test]
fn streams_above_the_limit_are_refused() {
    let few = Http2Settings {
        options: Http2ProtocolOptions {
            max_concurrent_streams: 1,
            ..Http2ProtocolOptions::default()
        },
        ..settings()
    };
    let mut peer = Peer::client_of(&few);
    peer.send(&[get(1, true), get(3, true)].concat());
    assert_eq!(peer.connection.accept().unwrap().id, 1);
    assert!(peer.connection.accept().is_none());
    assert_eq!(fate(&mut peer), (None, Some(7), false));
    peer.connection
        .send_response(1, &ResponseHead::new(200), EndStream::Yes);
    peer.send(&get(5, true));
    assert_eq!(peer.connection.accept().unwrap().id, 5);
}

#[test]
fn pings_that_are_not_read_are_a_flood() {
    let mut peer = Peer::client_of(&settings());
    let ping = raw(6, 0, 0, &[7; 8]);
    peer.send(&ping.repeat(1000));
    assert!(peer.connection.is_alive());
    assert_eq!(peer.frames().len(), 1000);
    peer.send(&ping.repeat(1001));
    assert!(peer.connection.has_failed());
}

#[test]
fn streams_that_are_reset_again_and_again_end_the_connection() {
    let mut peer = Peer::client_of(&settings());
    for number in 0..1100u32 {
        let id = number * 2 + 1;
        peer.send(&[get(id, true), raw(3, 0, id, &[0, 0, 0, 8])].concat());
        if peer.connection.accept().is_some() {
            peer.connection.release(id);
        }
        peer.frames();
        if peer.connection.has_failed() {
            assert_eq!(number, 1000);
            return;
        }
        if number == 500 {
            // In peace it may go on.
            peer.now += Duration::from_secs(60);
            let mut slow = Peer::client_of(&settings());
            for number in 0..2000u32 {
                let id = number * 2 + 1;
                slow.now += Duration::from_millis(40);
                slow.send(&[get(id, true), raw(3, 0, id, &[0, 0, 0, 8])].concat());
                slow.connection.accept();
                slow.connection.release(id);
            }
            assert!(slow.connection.is_alive());
            peer = Peer::client_of(&settings());
            for number in 0..=1000u32 {
                let id = number * 2 + 1;
                peer.send(&[get(id, true), raw(3, 0, id, &[0, 0, 0, 8])].concat());
            }
            assert!(peer.connection.has_failed());
            return;
        }
    }
    panic!("it never ended");
}

#[test]
fn gauges_say_what_waits_and_take_it_back() {
    let no_window = [&[0, 4][..], &5u32.to_be_bytes()].concat();
    let bytes = [raw(frame::SETTINGS, 0, 0, &no_window), get(1, true)].concat();
    let (mut peer, stats) = counted(Http2ProtocolOptions::default(), &bytes);
    peer.connection.accept();
    let head = ResponseHead::new(200);
    peer.connection.send_response(1, &head, EndStream::No);
    let body = Bytes::from_static(b"0123456789");
    peer.connection.send_data(1, body, EndStream::Yes);
    peer.connection.say_gauges();
    assert!(stats.outbound_frames_active().value() >= 4);
    // The answers to two SETTINGS.
    assert_eq!(stats.outbound_control_frames_active().value(), 2);
    peer.frames();
    assert_eq!(stats.outbound_frames_active().value(), 0);
    assert_eq!(stats.outbound_control_frames_active().value(), 0);
    assert_eq!(stats.pending_send_bytes().value(), 5);
    drop(peer);
    assert_eq!(stats.pending_send_bytes().value(), 0);
}

#[test]
fn a_connection_at_rest_is_small() {
    let mut peer = Peer::client_of(&settings());
    peer.send(&get(1, true));
    peer.connection.accept();
    peer.connection
        .send_response(1, &ResponseHead::new(200), EndStream::Yes);
    peer.frames();
    peer.connection.release(1);
    assert!(peer.connection.streams.is_empty());
    assert!(
        size_of::<Connection>() <= 1500,
        "{}",
        size_of::<Connection>()
    );
}

#[test]
fn what_streams_needed_serves_the_next_ones_of_any_connection() {
    let answered = |id| {
        let mut peer = Peer::client_of(&settings());
        peer.send(&get(id, true));
        assert!(peer.connection.streams.capacity() > 0);
        let left = room::rooms();
        peer.connection.accept();
        peer.connection
            .send_response(id, &ResponseHead::new(200), EndStream::Yes);
        peer.connection.release(id);
        assert_eq!(peer.connection.streams.capacity(), 0);
        left
    };
    assert_eq!((answered(1), answered(1)), (0, 0));
    assert_eq!(room::rooms(), 1);
}
