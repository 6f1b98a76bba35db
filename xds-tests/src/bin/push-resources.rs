//! Pushes configurations to programs through an aggregated stream, and tells what they say to each: `push-resources FOLDER NAME=PROGRAM…`.
//!
//! Each folder inside FOLDER is a configuration, and has any of `clusters.yaml`, `endpoints.yaml`, `listeners.yaml`, `routes.yaml`
//! and `secrets.yaml`: discovery responses in YAML. A line for each configuration, program and kind: `ACK`, or `NACK` and why. Last
//! come the configurations of which the programs do not say the same. Resources of other projects open ports and look up names:
//! run it in a network namespace.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints its findings, and stops when something is wrong"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outrigger_proto::pb::envoy::service::discovery::v3::DiscoveryResponse;
use outrigger_proto::yaml::{self, Format, Source, UnknownFields};
use outrigger_xds_tests::plane::{Kind, Plane, Resource};
use outrigger_xds_tests::proxy::Proxy;
use outrigger_xds_tests::{Error, binaries};
use prost::Message;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

/// Kinds in the order of their dependencies, with their files.
const FILES: [(Kind, &str); 5] = [
    (Kind::Sds, "secrets.yaml"),
    (Kind::Eds, "endpoints.yaml"),
    (Kind::Cds, "clusters.yaml"),
    (Kind::Rds, "routes.yaml"),
    (Kind::Lds, "listeners.yaml"),
];
/// When nothing was asked for so long, all has been said.
const QUIET: Duration = Duration::from_millis(700);
/// The longest time for a configuration.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a program says to each kind.
type Verdicts = BTreeMap<Kind, String>;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(
        arguments
            .next()
            .ok_or("push-resources FOLDER NAME=PROGRAM…")?,
    );
    let programs: Vec<(String, PathBuf)> = arguments
        .filter_map(|argument| {
            let (name, path) = argument.split_once('=')?;
            Some((name.to_owned(), path.into()))
        })
        .collect();
    let mut items: Vec<PathBuf> = std::fs::read_dir(&folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    items.sort();
    let mut differ = vec![];
    for item in &items {
        let mut all = vec![];
        for (name, program) in &programs {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let verdicts = LocalSet::new().block_on(&runtime, push(item, name, program));
            let verdicts = verdicts.unwrap_or_else(|error| {
                BTreeMap::from([(
                    Kind::Lds,
                    format!("DEAD {}", error.to_string().replace('\n', " ")),
                )])
            });
            for (kind, verdict) in &verdicts {
                let verdict: String = verdict.replace('\n', " ").chars().take(600).collect();
                println!("{}\t{name}\t{kind:?}\t{verdict}", item.display());
            }
            all.push(
                verdicts
                    .values()
                    .map(|verdict| verdict.starts_with("ACK"))
                    .collect::<Vec<_>>(),
            );
        }
        if all.iter().any(|other| *other != all[0]) {
            differ.push(item.display().to_string());
        }
    }
    println!("{} configurations, {} differ", items.len(), differ.len());
    for item in differ {
        println!("differs: {item}");
    }
    Ok(())
}

async fn push(item: &Path, name: &str, program: &Path) -> Result<Verdicts, Error> {
    let plane = Plane::start().await?;
    for (kind, file) in FILES {
        let resources = read(kind, &item.join(file))?;
        if !resources.is_empty() || matches!(kind, Kind::Cds | Kind::Lds) {
            plane.set(kind, resources);
        }
    }
    let folder = binaries::scratch(&format!("push-resources-{name}"))?;
    let mut proxy = Proxy::launch(program, &bootstrap(&plane), &folder, &[]).await?;
    let deadline = Instant::now() + PATIENCE;
    let mut asked = 0;
    loop {
        sleep(QUIET).await;
        let now = plane.all_asks().len();
        let answered = plane
            .asks(Kind::Lds)
            .iter()
            .any(|ask| !ask.nonce.is_empty());
        if (now == asked && answered) || Instant::now() > deadline {
            break;
        }
        asked = now;
    }
    if let Some(obituary) = proxy.obituary() {
        return Err(obituary.into());
    }
    let mut verdicts = Verdicts::new();
    for ask in plane.all_asks() {
        if ask.nonce.is_empty() {
            continue;
        }
        let verdict = match ask.error {
            Some((_, why)) => format!("NACK {why}"),
            None => "ACK".into(),
        };
        let told = verdicts.entry(ask.kind).or_insert_with(|| verdict.clone());
        if verdict.starts_with("NACK") {
            *told = verdict;
        }
    }
    for kind in [Kind::Cds, Kind::Lds] {
        verdicts.entry(kind).or_insert_with(|| "SILENCE".into());
    }
    Ok(verdicts)
}

fn read(kind: Kind, path: &Path) -> Result<Vec<Resource>, Error> {
    let Ok(bytes) = std::fs::read(path) else {
        return Ok(vec![]);
    };
    let name = path.display().to_string();
    let source = Source {
        name: &name,
        format: Format::Yaml,
        bytes: &bytes,
    };
    let response: DiscoveryResponse = yaml::load(&[source], UnknownFields::Ignore)
        .map_err(|errors| format!("{name}: {}", errors[0]))?;
    let mut resources = vec![];
    for any in response.resources {
        let named = Named::decode(any.value.as_ref())?;
        resources.push(Resource::raw(kind, &named.name, any.value.to_vec()));
    }
    Ok(resources)
}

/// What all these kinds have in common: their first field is their name.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

fn bootstrap(plane: &Plane) -> String {
    let port = plane.address().port();
    format!(
        "node: {{ id: story, cluster: stories }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
dynamic_resources:
  ads_config: {{ api_type: GRPC, set_node_on_first_message_only: true, transport_api_version: V3, grpc_services: [{{ envoy_grpc: {{ cluster_name: plane }} }}] }}
  cds_config: {{ ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 3s }}
  lds_config: {{ ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 3s }}
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
