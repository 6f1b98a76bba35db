//! How connections end.

use super::*;

#[test]
fn a_goaway_comes_in_two_steps() {
    let mut peer = Peer::client_of(&settings());
    peer.send(&get(1, false));
    peer.connection.announce_goaway();
    let (_, _, _, payload) = peer.frames().remove(0);
    assert_eq!(frame::number(&payload), 0x7fff_ffff);
    peer.send(&get(3, true));
    peer.connection.send_goaway();
    let (_, _, _, payload) = peer.frames().remove(0);
    assert_eq!(frame::number(&payload), 3);
    peer.send(&get(5, true));
    assert_eq!(peer.connection.accept().unwrap().id, 1);
    assert_eq!(peer.connection.accept().unwrap().id, 3);
    assert!(peer.connection.accept().is_none());
    assert!(peer.connection.is_alive());
}

#[test]
fn a_request_behind_the_goaway_is_ignored_with_its_body_and_trailers() {
    let mut peer = Peer::client_of(&settings());
    peer.send(&get(1, false));
    peer.connection.send_goaway();
    peer.frames();
    let trailers = raw(frame::HEADERS, 5, 3, &block(&[("x-t", "1")]));
    let data = raw(frame::DATA, 0, 3, &[0; 9]);
    peer.send(&[get(3, false), data, trailers].concat());
    assert!(peer.connection.is_alive());
    assert!(peer.frames().is_empty());
    peer.send(&raw(frame::DATA, frame::END_STREAM, 1, b"x"));
    assert_eq!(peer.body(1), (b"x".to_vec(), true));
    // What ends the connection then does not take the GOAWAY back.
    peer.send(&raw(frame::DATA, 0, 5, b"x"));
    let (_, _, _, payload) = peer.frames().remove(0);
    assert_eq!(frame::number(&payload), 1);
}

#[test]
fn streams_behind_the_goaway_of_a_server_were_never_looked_at() {
    let mut peer = client();
    let (first, second) = (ask(&mut peer, "GET"), ask(&mut peer, "GET"));
    peer.send(&raw(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
    assert!(!peer.connection.takes_streams());
    assert!(peer.next(first).is_none());
    let unseen = peer.next(second);
    assert!(matches!(unseen, Some(Received::Broken(Broken::Refused))));
    peer.send(&raw(1, 5, 1, &block(&[(":status", "200")])));
    let head = peer.next(first);
    assert!(matches!(head, Some(Received::Head(head, EndStream::Yes)) if head.status == 200));
}

#[test]
fn a_connection_that_is_ended_by_force_looks_at_nothing_more_and_breaks_its_streams() {
    let mut peer = Peer::client_of(&settings());
    peer.send(&get(1, false));
    assert_eq!(peer.connection.accept().unwrap().id, 1);
    peer.connection.go_away_and_end();
    peer.send(&get(3, true));
    let said: Vec<_> = peer.frames().into_iter().map(|f| (f.0, f.3)).collect();
    let goaway = |last: u32| {
        (
            frame::GOAWAY,
            (u64::from(last) << 32).to_be_bytes().to_vec(),
        )
    };
    assert_eq!(said, [goaway(0x7fff_ffff), goaway(1)]);
    let Some(Received::Broken(Broken::Forced)) = peer.next(1) else {
        panic!("the stream goes on");
    };
    assert!(peer.connection.accept().is_none());
    assert!(peer.connection.has_failed() && !peer.connection.has_failed_by_error());
}

#[test]
fn a_connection_that_is_ended_by_force_at_its_beginning_says_its_settings_first() {
    let config = ConnectionConfig::for_server(&settings(), 1 << 20);
    let mut connection = Connection::new(config, None, Instant::now());
    connection.go_away_and_end();
    let said = frames(&connection.take_output());
    let kinds: Vec<_> = said.iter().map(|frame| frame.0).collect();
    assert_eq!(
        kinds,
        [
            frame::SETTINGS,
            frame::WINDOW_UPDATE,
            frame::GOAWAY,
            frame::GOAWAY
        ]
    );
}
