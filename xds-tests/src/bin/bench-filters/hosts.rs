//! One cluster with very many endpoints, one of which changes its health every second.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::config::endpoint::v3 as endpoint;
use outrigger_xds_tests::plane::{Kind, Plane, Resource};
use outrigger_xds_tests::proxy::Proxy;
use outrigger_xds_tests::{Error, binaries};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{interval, sleep};

use crate::{load, pin, processor, scenario};

/// What `--only` knows it by.
pub(crate) const NAME: &str = "10,000 hosts";
const HOSTS: u32 = 10_000;
/// Of each of the two loads.
const SECONDS: u32 = 10;
/// The greatest part of the first program's processor time.
const GOAL: f64 = 0.2;

/// Prints the figures. How many goals are missed.
pub(crate) async fn measure(
    programs: &[(String, String)],
    last: &str,
    others: &str,
) -> Result<usize, Error> {
    let port = serve().await?;
    let mut first = None;
    let mut missed = 0;
    println!("{NAME} by EDS, processor ms of a second");
    for (name, program) in programs {
        pin(last)?;
        let [quiet, busy] = of_program(name, Path::new(program), port, others).await?;
        let of_first = busy / *first.get_or_insert(busy);
        missed += usize::from(of_first > GOAL && first != Some(busy));
        println!(
            "  {name}: {quiet:.3} with five requests; {busy:.3} and one change of health ({of_first:.3} of the first)"
        );
    }
    Ok(missed)
}

async fn of_program(
    name: &str,
    program: &Path,
    port: u16,
    others: &str,
) -> Result<[f64; 2], Error> {
    let plane = Plane::start().await?;
    let mut endpoints = assignment(port);
    plane.set(Kind::Cds, [Resource::yaml(Kind::Cds, CLUSTER)]);
    plane.set(Kind::Eds, [resource(&endpoints)]);
    let folder = binaries::scratch(&format!("bench-filters-hosts-{name}"))?;
    let proxy = Proxy::start(program, &scenario::bootstrap_of_hosts(&plane), &folder).await?;
    pin(others)?;
    let address = proxy.listener("hosts").ok_or("it has a listener")?;
    let id = proxy.id().ok_or("the process lives")?;
    let user = tokio::task::spawn_local(use_now_and_then(address));
    sleep(Duration::from_secs(2)).await;
    let mut figures = [0.0; 2];
    for (changes, figure) in figures.iter_mut().enumerate() {
        let before = processor(id)?;
        let mut second = interval(Duration::from_secs(1));
        for number in 0..SECONDS {
            second.tick().await;
            if changes > 0 {
                toggle(&mut endpoints, number * 97);
                plane.put(Kind::Eds, resource(&endpoints));
            }
        }
        second.tick().await;
        *figure = (processor(id)? - before) * 1e3 / f64::from(SECONDS);
    }
    if user.is_finished() {
        user.await??;
    } else {
        user.abort();
    }
    let refused = plane.all_asks().into_iter().find_map(|ask| ask.error);
    refused.map_or(Ok(figures), |(_, why)| {
        Err(format!("{name} refused: {why}").into())
    })
}

const CLUSTER: &str = "name: hosts
type: EDS
connect_timeout: 1s
eds_cluster_config: { eds_config: { ads: {}, resource_api_version: V3 } }
";

/// Addresses of the loopback network.
fn address(number: u32) -> Ipv4Addr {
    let [_, _, high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
}

fn assignment(port: u16) -> endpoint::ClusterLoadAssignment {
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

fn toggle(assignment: &mut endpoint::ClusterLoadAssignment, number: u32) {
    let hosts = &mut assignment.endpoints[0].lb_endpoints;
    let status = &mut hosts[number as usize].health_status;
    *status = if *status == core::HealthStatus::Unknown as i32 {
        core::HealthStatus::Unhealthy as i32
    } else {
        core::HealthStatus::Unknown as i32
    };
}

fn resource(assignment: &endpoint::ClusterLoadAssignment) -> Resource {
    Resource::raw(Kind::Eds, "hosts", assignment.encode_to_vec())
}

/// A listener for each host, all at one port.
async fn serve() -> Result<u16, Error> {
    let answer: Rc<[u8]> = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"[..].into();
    let mut port = 0;
    for number in 1..=HOSTS {
        let listener = TcpListener::bind((address(number), port)).await?;
        port = listener.local_addr()?.port();
        let answer = Rc::clone(&answer);
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = Rc::clone(&answer);
                tokio::task::spawn_local(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(1..) = stream.read(&mut buffer).await {
                        if stream.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
    }
    Ok(port)
}

/// The cluster is in use, as little as may be.
async fn use_now_and_then(address: SocketAddr) -> Result<(), Error> {
    let mut pause = interval(Duration::from_millis(200));
    let mut stream = TcpStream::connect(address).await?;
    let mut buffer = vec![0; 4096];
    loop {
        pause.tick().await;
        let request = b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n";
        load::exchange(&mut stream, request, &mut buffer).await?;
        if !buffer.starts_with(b"HTTP/1.1 200") {
            let text = String::from_utf8_lossy(&buffer);
            return Err(format!("a request was answered with {text}").into());
        }
    }
}
