//! An endpoint by a DNS name: its addresses change, its server goes, and requests follow.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use outrigger_xds_tests::binaries;
use parking_lot::Mutex;

use crate::scene::{Scene, get_host, process_at};
use crate::world::{eventually, ports};

/// A DNS server that answers every question for an address with these, and is silent while there is no answer.
fn dns_server(answer: Arc<Mutex<Option<Vec<Ipv4Addr>>>>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let Some(found) = answer.lock().clone() else {
                continue;
            };
            // The question ends four bytes after the zero that ends its name; what follows it is left out.
            let name = buffer[12..length]
                .iter()
                .position(|byte| *byte == 0)
                .unwrap();
            let end = 12 + name + 5;
            let is_a = buffer[end - 4..end - 2] == [0, 1];
            let found = if is_a { found } else { Vec::new() };
            let mut reply = buffer[..end].to_vec();
            reply[2..4].copy_from_slice(&[0x81, 0x80]);
            reply[6..12].copy_from_slice(&[0, u8::try_from(found.len()).unwrap(), 0, 0, 0, 0]);
            for address in found {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
                reply.extend(address.octets());
            }
            socket.send_to(&reply, from).unwrap();
        }
    });
    address
}

#[test]
fn requests_follow_a_name() {
    let folder = binaries::scratch("edge-names").unwrap();
    let [http, first] = ports();
    let second = SocketAddr::from(([127, 0, 0, 2], first.port()));
    process_at(first, "first");
    process_at(second, "second");
    let answer = Arc::new(Mutex::new(Some(vec![Ipv4Addr::new(127, 0, 0, 1)])));
    let server = dns_server(Arc::clone(&answer));
    let text = include_str!("names.yaml")
        .replace("GATEWAY", &http.port().to_string())
        .replace("PORT", &first.port().to_string());
    let mut scene = Scene::start(&folder, &text, &["--dns-server", &server.to_string()]);
    scene.join(&binaries::envoy().unwrap(), "gateway/default/edge", |_| {});
    for path in ["/workload", "/external"] {
        eventually(|| (get_host(http, "x", path).1 == "first").then_some(()));
    }
    let clusters = scene.plane.metric("resources_total", "clusters");
    *answer.lock() = Some(vec![Ipv4Addr::new(127, 0, 0, 2)]);
    for path in ["/workload", "/external"] {
        eventually(|| (get_host(http, "x", path).1 == "second").then_some(()));
    }
    let after = scene.plane.metric("resources_total", "clusters");
    assert_eq!(after, clusters, "an address is no change of a cluster");
    *answer.lock() = None;
    let problem = "NameNotResolved db.test: ";
    eventually(|| {
        scene
            .plane
            .command(&["status"])
            .1
            .contains(problem)
            .then_some(())
    });
    thread::sleep(Duration::from_millis(500));
    assert_eq!(
        get_host(http, "x", "/workload").1,
        "second",
        "the last address stays"
    );
    *answer.lock() = Some(Vec::new());
    eventually(|| (get_host(http, "x", "/workload").0 == 503).then_some(()));
    let problem = "NameNotResolved db.test has no address";
    eventually(|| {
        scene
            .plane
            .command(&["status"])
            .1
            .contains(problem)
            .then_some(())
    });
}
