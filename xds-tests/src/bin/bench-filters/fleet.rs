//! Ten thousand hosts: every address of the loopback network at one port, served by one socket.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::config::endpoint::v3 as endpoint;
use outrigger_xds_tests::Error;
use outrigger_xds_tests::plane::{Kind, Resource};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// How many there are.
pub(crate) const HOSTS: u32 = 10_000;

/// A listening socket for all hosts, and how each of them is. Ends on drop.
pub(crate) struct Fleet {
    pub(crate) port: u16,
    health: Rc<Health>,
    accepting: JoinHandle<()>,
}

/// What hosts say when they are asked at `/hc`.
#[derive(Default)]
struct Health {
    ill: RefCell<HashSet<IpAddr>>,
    /// Whether the next host that is asked says the opposite of before, from then on.
    turns: Cell<bool>,
    asked: Cell<u64>,
    turned: Cell<u64>,
}

impl Fleet {
    pub(crate) fn start() -> Result<Self, Error> {
        let socket = TcpSocket::new_v4()?;
        // Of all addresses only those of the loopback network.
        socket.bind_device(Some(b"lo"))?;
        socket.bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
        let listener = socket.listen(1024)?;
        let port = listener.local_addr()?.port();
        let health = Rc::new(Health::default());
        let shared = Rc::clone(&health);
        let accepting = tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::task::spawn_local(serve(stream, Rc::clone(&shared)));
            }
        });
        Ok(Self {
            port,
            health,
            accepting,
        })
    }

    /// The next host that is asked has changed.
    pub(crate) fn turn_one(&self) {
        self.health.turns.set(true);
    }

    /// How often hosts have been asked, and how many of them have changed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.health.asked.get(), self.health.turned.get())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Health {
    fn is_well(&self, host: IpAddr) -> bool {
        self.asked.set(self.asked.get() + 1);
        let mut ill = self.ill.borrow_mut();
        if self.turns.take() {
            self.turned.set(self.turned.get() + 1);
            if !ill.remove(&host) {
                ill.insert(host);
            }
        }
        !ill.contains(&host)
    }
}

async fn serve(mut stream: TcpStream, health: Rc<Health>) {
    let Ok(host) = stream.local_addr() else {
        return;
    };
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let is_check = buffer[..length].starts_with(b"GET /hc ");
        let answer: &[u8] = match is_check && !health.is_well(host.ip()) {
            true => b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 3\r\n\r\nill",
            false => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        };
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// Addresses of the loopback network.
fn address(number: u32) -> Ipv4Addr {
    let [_, _, high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
}

/// All of them as endpoints of the cluster `hosts`.
pub(crate) fn assignment(port: u16) -> endpoint::ClusterLoadAssignment {
    use core::address::Address::SocketAddress;
    let endpoint = |number| {
        let at = core::SocketAddress {
            address: address(number).to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
            ..core::SocketAddress::default()
        };
        let identifier = endpoint::Endpoint {
            address: Some(core::Address {
                address: Some(SocketAddress(at)),
            }),
            ..endpoint::Endpoint::default()
        };
        endpoint::LbEndpoint {
            host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(identifier)),
            ..endpoint::LbEndpoint::default()
        }
    };
    endpoint::ClusterLoadAssignment {
        cluster_name: "hosts".into(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: (1..=HOSTS).map(endpoint).collect(),
            ..endpoint::LocalityLbEndpoints::default()
        }],
        ..endpoint::ClusterLoadAssignment::default()
    }
}

/// The same as a resource.
pub(crate) fn resource(assignment: &endpoint::ClusterLoadAssignment) -> Resource {
    Resource::raw(Kind::Eds, "hosts", assignment.encode_to_vec())
}
