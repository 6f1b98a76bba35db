//! One cluster with very many endpoints, one of which changes its health every second: as the control plane says, or as health
//! checks find.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::config::endpoint::v3 as endpoint;
use outrigger_xds_tests::plane::{Kind, Plane, Resource};
use outrigger_xds_tests::proxy::Proxy;
use outrigger_xds_tests::{Error, binaries};
use tokio::net::TcpStream;
use tokio::time::{interval, sleep};

use crate::fleet::{Fleet, assignment, resource};
use crate::{load, pin, processor, scenario};

/// Who says that the health of a host has changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The control plane.
    Eds,
    /// The host, when it is asked.
    Checks,
}

/// Of each of the two loads; with health checks each host is asked once in that time.
const SECONDS: u32 = 10;
/// The greatest part of the first program's processor time.
const GOAL: f64 = 0.2;

impl Source {
    /// What `--only` knows it by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Eds => "10,000 hosts by EDS",
            Self::Checks => "10,000 hosts by health checks",
        }
    }

    fn cluster(self) -> String {
        let checks = match self {
            Self::Eds => String::new(),
            // The first time they are spread over the interval, and so they are from then on.
            Self::Checks => format!(
                "health_checks: [{{ timeout: 5s, interval: {SECONDS}s, no_traffic_interval: {SECONDS}s, initial_jitter: {SECONDS}s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {{ path: /hc }} }}]\n"
            ),
        };
        format!("{CLUSTER}{checks}")
    }
}

const CLUSTER: &str = "name: hosts
type: EDS
connect_timeout: 1s
eds_cluster_config: { eds_config: { ads: {}, resource_api_version: V3 } }
";

/// Prints the figures. How many goals are missed.
pub(crate) async fn measure(
    source: Source,
    programs: &[(String, String)],
    last: &str,
    others: &str,
) -> Result<usize, Error> {
    let mut first = None;
    let mut missed = 0;
    println!("{}, processor ms of a second", source.name());
    for (name, program) in programs {
        pin(last)?;
        let [quiet, busy] = of_program(source, name, Path::new(program), others).await?;
        let of_first = busy / *first.get_or_insert(busy);
        missed += usize::from(of_first > GOAL && first != Some(busy));
        println!(
            "  {name}: {quiet:.3} with five requests; {busy:.3} and one change of health ({of_first:.3} of the first)"
        );
    }
    Ok(missed)
}

async fn of_program(
    source: Source,
    name: &str,
    program: &Path,
    others: &str,
) -> Result<[f64; 2], Error> {
    let fleet = Fleet::start()?;
    let plane = Plane::start().await?;
    let mut endpoints = assignment(fleet.port);
    plane.set(Kind::Cds, [Resource::yaml(Kind::Cds, &source.cluster())]);
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
        let (asked, turned) = fleet.counts();
        let before = processor(id)?;
        let mut second = interval(Duration::from_secs(1));
        for number in 0..SECONDS {
            second.tick().await;
            match (changes, source) {
                (0, _) => {}
                (_, Source::Checks) => fleet.turn_one(),
                (_, Source::Eds) => {
                    toggle(&mut endpoints, number * 97);
                    plane.put(Kind::Eds, resource(&endpoints));
                }
            }
        }
        second.tick().await;
        *figure = (processor(id)? - before) * 1e3 / f64::from(SECONDS);
        if source == Source::Checks {
            let (asked, turned) = (fleet.counts().0 - asked, fleet.counts().1 - turned);
            println!("    {name}: {asked} checks, of which {turned} found a change");
        }
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

fn toggle(assignment: &mut endpoint::ClusterLoadAssignment, number: u32) {
    let hosts = &mut assignment.endpoints[0].lb_endpoints;
    let status = &mut hosts[number as usize].health_status;
    *status = if *status == core::HealthStatus::Unknown as i32 {
        core::HealthStatus::Unhealthy as i32
    } else {
        core::HealthStatus::Unknown as i32
    };
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
