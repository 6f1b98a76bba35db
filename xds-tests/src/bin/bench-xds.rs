//! Measures what a large configuration costs: `bench-xds [--clusters N] NAME=PROGRAM…`, with Envoy first, since the ratios are to the first.
//!
//! One control plane gives each program N clusters with EDS and N routes by incremental ADS. Measured are the time until the last route
//! answers, processor time and resident memory; then the processor time of a second in which nothing changes, in which one
//! endpoint changes, and in which one in a hundred clusters is replaced by another.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a program that prints figures, and stops when something is wrong"
)]

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use outrigger_xds_tests::backend::{Act, Backend, Kind as BackendKind, Response, Script};
use outrigger_xds_tests::plane::{Kind, Plane, Resource};
use outrigger_xds_tests::proxy::Proxy;
use outrigger_xds_tests::{Error, binaries, client};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

/// Seconds of each of the three loads.
const SECONDS: u32 = 15;
/// The longest time to converge.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<(), Error> {
    let mut clusters = 10_000;
    let mut programs = vec![];
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.split_once('=') {
            Some((name, path)) => programs.push((name.to_owned(), path.to_owned())),
            None if argument == "--clusters" => {
                clusters = arguments.next().ok_or("--clusters N")?.parse()?;
            }
            None => return Err(format!("{argument} is not NAME=PROGRAM").into()),
        }
    }
    let mut first = None;
    for (name, path) in programs {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let figures =
            LocalSet::new().block_on(&runtime, measure(&name, Path::new(&path), clusters))?;
        println!("{name}, {clusters} clusters");
        for (line, (what, value)) in figures.iter().enumerate() {
            let ratio = first
                .as_ref()
                .map(|first: &Vec<(&str, f64)>| value / first[line].1);
            let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:8.3} of the first"));
            println!("  {what:48} {value:9.3} {ratio}");
        }
        first.get_or_insert(figures);
    }
    Ok(())
}

async fn measure(
    name: &str,
    program: &Path,
    clusters: usize,
) -> Result<Vec<(&'static str, f64)>, Error> {
    let backend = Backend::start(BackendKind::Http1(vec![hello()])).await?;
    let other = Backend::start(BackendKind::Http1(vec![hello()])).await?;
    let addresses = [backend.address(), other.address()];
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let plane = Plane::start().await?;
    plane.set(Kind::Cds, (0..clusters).map(|number| cluster(number, 0)));
    plane.set(
        Kind::Eds,
        (0..clusters).map(|number| endpoints(number, 0, addresses[0])),
    );
    plane.set(Kind::Rds, [routes(clusters)]);
    plane.set(Kind::Lds, [listener(free)]);
    let folder = binaries::scratch(&format!("bench-xds-{name}"))?;
    let start = Instant::now();
    let mut proxy = Proxy::launch(program, &bootstrap(&plane), &folder, &[]).await?;
    let last = format!("/service-{}/", clusters - 1);
    let answered = timeout(PATIENCE, async {
        while !answers(free, &last).await {
            sleep(Duration::from_millis(10)).await;
        }
    });
    if answered.await.is_err() {
        return Err(format!("{name} does not converge: {}", proxy.last_words()).into());
    }
    let converged = start.elapsed().as_secs_f64();
    let mut figures = vec![("seconds until the last route answers", converged)];
    let id = proxy.id().ok_or("the process lives")?;
    figures.push(("processor seconds until then", processor(id)?));
    sleep(Duration::from_secs(2)).await;
    figures.push(("resident MB then", proxy.resident()? as f64 / 1e6));
    figures.push((
        "processor ms of a quiet second",
        per_second(id, |_| ()).await?,
    ));
    let one = |second: u32| {
        let at = addresses[usize::from(second.is_multiple_of(2))];
        plane.put(Kind::Eds, endpoints(3, 0, at));
    };
    figures.push((
        "processor ms of a second with one endpoint",
        per_second(id, one).await?,
    ));
    let churn = |second: u32| {
        let step = usize::try_from(second).unwrap() + 1;
        let hundredth = (0..clusters / 100).map(|place| place * 100 + 1);
        let renamed = |step: usize, number: usize| format!("cluster-{number}-{step}");
        let old: Vec<String> = hundredth
            .clone()
            .map(|number| renamed(step - 1, number))
            .collect();
        let old: Vec<&str> = old.iter().map(String::as_str).collect();
        let fresh = hundredth.clone();
        plane.put_all(
            Kind::Eds,
            fresh.map(|number| endpoints(number, step, addresses[0])),
        );
        plane.put_all(Kind::Cds, hundredth.map(|number| cluster(number, step)));
        plane.remove(Kind::Cds, &old);
        plane.remove(Kind::Eds, &old);
    };
    figures.push((
        "processor ms of a second with 1 % of clusters",
        per_second(id, churn).await?,
    ));
    figures.push(("resident MB in the end", proxy.resident()? as f64 / 1e6));
    if !answers(free, &last).await {
        return Err(format!("{name} does not answer in the end").into());
    }
    if let Some(obituary) = proxy.obituary() {
        return Err(obituary.into());
    }
    let refused = plane.all_asks().into_iter().find_map(|ask| ask.error);
    refused.map_or(Ok(figures), |(_, why)| {
        Err(format!("{name} refused: {why}").into())
    })
}

/// Milliseconds of processor time in a second, with something done at the start of each.
async fn per_second(id: u32, act: impl Fn(u32)) -> Result<f64, Error> {
    let before = processor(id)?;
    for second in 0..SECONDS {
        act(second);
        sleep(Duration::from_secs(1)).await;
    }
    Ok((processor(id)? - before) * 1e3 / f64::from(SECONDS))
}

/// Seconds of processor time that the threads of a process have used, to the nanosecond.
fn processor(id: u32) -> Result<f64, Error> {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir(format!("/proc/{id}/task"))? {
        // A thread may end meanwhile.
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let ran = text.split_whitespace().next().ok_or("no time")?;
        nanoseconds += ran.parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

async fn answers(address: SocketAddr, path: &str) -> bool {
    if tokio::net::TcpStream::connect(address).await.is_err() {
        return false;
    }
    let request = client::Request {
        method: "GET".into(),
        path: path.into(),
        authority: "example.com".into(),
        fields: vec![],
        body: None,
        trailers: vec![],
        chunked: false,
    };
    let steps = [client::Step::Request(request)];
    let transcript = client::play(address, client::Protocol::Http1, &steps).await;
    transcript
        .messages
        .first()
        .is_some_and(|message| message.status == 200)
}

fn hello() -> Script {
    let response = Response {
        status: 200,
        fields: vec![],
        body: b"hello".to_vec(),
        trailers: vec![],
        chunked: false,
    };
    Script {
        early: false,
        acts: vec![Act::Respond(response)],
    }
}

fn cluster(number: usize, step: usize) -> Resource {
    Resource::yaml(
        Kind::Cds,
        &format!(
            "name: cluster-{number}-{step}\ntype: EDS\nconnect_timeout: 1s\neds_cluster_config: {{ eds_config: {{ ads: {{}}, resource_api_version: V3 }} }}\n"
        ),
    )
}

fn endpoints(number: usize, step: usize, at: SocketAddr) -> Resource {
    Resource::yaml(
        Kind::Eds,
        &format!(
            "cluster_name: cluster-{number}-{step}\nendpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}] }}]\n",
            at.ip(),
            at.port()
        ),
    )
}

/// A hundred routes a virtual host; the last host takes any domain.
fn routes(count: usize) -> Resource {
    let mut text = String::from("name: routes\nvirtual_hosts:\n");
    for first in (0..count).step_by(100) {
        let last = first + 100 >= count;
        let domain = if last {
            "*".into()
        } else {
            format!("host-{first}.example.com")
        };
        write!(
            text,
            "- name: host-{first}\n  domains: ['{domain}']\n  routes:\n"
        )
        .unwrap();
        for number in first..count.min(first + 100) {
            // Those of churned clusters are not asked for.
            writeln!(
                text,
                "  - {{ match: {{ prefix: /service-{number}/ }}, route: {{ cluster: cluster-{number}-0 }} }}"
            )
            .unwrap();
        }
    }
    Resource::yaml(Kind::Rds, &text)
}

fn listener(at: SocketAddr) -> Resource {
    let (ip, port) = (at.ip(), at.port());
    Resource::yaml(
        Kind::Lds,
        &format!(
            "name: ingress
address: {{ socket_address: {{ address: {ip}, port_value: {port} }} }}
filter_chains:
- filters:
  - name: http
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: ingress
      rds: {{ route_config_name: routes, config_source: {{ ads: {{}}, resource_api_version: V3 }} }}
      http_filters: [{{ name: router, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}]
"
        ),
    )
}

fn bootstrap(plane: &Plane) -> String {
    let port = plane.address().port();
    format!(
        "node: {{ id: bench, cluster: bench }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
dynamic_resources:
  ads_config: {{ api_type: DELTA_GRPC, set_node_on_first_message_only: true, transport_api_version: V3, grpc_services: [{{ envoy_grpc: {{ cluster_name: plane }} }}] }}
  cds_config: {{ ads: {{}}, resource_api_version: V3 }}
  lds_config: {{ ads: {{}}, resource_api_version: V3 }}
static_resources:
  clusters:
  - name: plane
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment: {{ cluster_name: plane, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}] }}
"
    )
}
