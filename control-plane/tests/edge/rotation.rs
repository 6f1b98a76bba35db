//! A change of the root while requests come without a pause, on new connections and on ones that are kept.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use outrigger_xds_tests::binaries;

use crate::world::{Mesh, eventually, get};

#[test]
fn new_roots_break_no_request_of_constant_load_through_envoys() {
    tell(&binaries::envoy().unwrap(), "envoy");
}

#[test]
fn new_roots_break_no_request_of_constant_load_through_outriggers() {
    tell(&binaries::outrigger().unwrap(), "outrigger");
}

/// Pause of a client between two requests.
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Count {
    ends: AtomicBool,
    sent: AtomicU32,
    failed: AtomicU32,
    connections: AtomicU32,
}

fn tell(program: &Path, name: &str) {
    let folder = binaries::scratch(&format!("edge-rotation-{name}")).unwrap();
    let mesh = Mesh::start(program, &folder);
    eventually(|| (get(mesh.gateway, "/a").0 == 200).then_some(()));
    let count = Count::default();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| kept(mesh.gateway, &count));
        }
        scope.spawn(|| fresh(mesh.gateway, &count));
        for step in ["prepare", "switch", "finish"] {
            let before = count.sent.load(Ordering::Relaxed);
            eventually(|| {
                let (is_done, text) = mesh.plane.command(&["rotate"]);
                is_done.then(|| assert!(text.contains(step), "{text}"))
            });
            thread::sleep(Duration::from_secs(3));
            eventually(|| (count.sent.load(Ordering::Relaxed) - before > 100).then_some(()));
        }
        count.ends.store(true, Ordering::Relaxed);
    });
    let [sent, failed, connections] =
        [&count.sent, &count.failed, &count.connections].map(|it| it.load(Ordering::Relaxed));
    println!("{name}: {sent} requests, {failed} failed, {connections} kept connections");
    assert_eq!(failed, 0, "of {sent} requests");
}

fn fresh(gateway: SocketAddr, count: &Count) {
    while !count.ends.load(Ordering::Relaxed) {
        count.sent.fetch_add(1, Ordering::Relaxed);
        if get(gateway, "/a").0 != 200 {
            count.failed.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(PAUSE);
    }
}

/// Requests on one connection for as long as the gateway keeps it.
fn kept(gateway: SocketAddr, count: &Count) {
    while !count.ends.load(Ordering::Relaxed) {
        count.connections.fetch_add(1, Ordering::Relaxed);
        let stream = TcpStream::connect(gateway).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut reader = BufReader::new(stream);
        while !count.ends.load(Ordering::Relaxed) {
            count.sent.fetch_add(1, Ordering::Relaxed);
            match ask(&mut reader) {
                Ok((200, true)) => {}
                Ok((200, false)) => break,
                _ => {
                    count.failed.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Status, and whether the connection is kept.
fn ask(reader: &mut BufReader<TcpStream>) -> std::io::Result<(u16, bool)> {
    write!(reader.get_mut(), "GET /a HTTP/1.1\r\nhost: mesh\r\n\r\n")?;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|it| it.parse().ok());
    let (mut length, mut is_kept) = (0, true);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let lower = line.trim().to_ascii_lowercase();
        if lower.is_empty() {
            break;
        }
        if let Some(value) = lower.strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
        is_kept &= lower != "connection: close";
    }
    reader.read_exact(&mut vec![0; length])?;
    Ok((status.unwrap_or(0), is_kept))
}
