//! The world to the resources of each proxy, one file per type of resource.
//!
//! Resources are written as JSON, as Envoy's documentation shows them, and encoded by the tables of `outrigger-proto`:
//! an encoding of the same JSON is the same bytes, which versions from content need. What belongs to a service (its
//! cluster, endpoints and outbound routes) is the same for all proxies, is made when the first of them needs it, and
//! is kept until the service changes.

mod backend_tls;
mod cluster;
mod endpoint;
pub(crate) mod grpc;
mod http;
mod listener;
mod load_balancing;
pub mod own_streams;
mod policy;
mod rbac;
mod refresh;
mod route;
pub(crate) mod secret;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use outrigger_proto::yaml::{self, Format, Source, UnknownFields};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

use crate::cache::{Resource, ResourceType, Snapshot};
use crate::model::Key;
use crate::world::{Defaults, Service, World};

pub use secret::Secrets;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The sidecar of a workload.
    Sidecar(Key),
    /// A proxy of a gateway.
    Gateway(Key),
    /// A workload without a proxy, whose gRPC reads xDS by itself.
    Grpc(Key),
}

impl Role {
    /// The role that a node's ID names: `sidecar/NAMESPACE/NAME` or `gateway/NAMESPACE/NAME`, and for several
    /// proxies of one gateway anything after another `/`. `grpc/NAMESPACE/NAME` is a workload without a proxy.
    #[must_use]
    pub fn from_node_id(id: &str) -> Option<Self> {
        let mut parts = id.splitn(4, '/');
        let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
        let key = Key::new(namespace, name);
        match (kind, parts.next()) {
            ("sidecar", None) => Some(Self::Sidecar(key)),
            ("gateway", _) => Some(Self::Gateway(key)),
            ("grpc", None) => Some(Self::Grpc(key)),
            _ => None,
        }
    }

    /// The role of a node: its ID, and the `user_agent_name` by which gRPC is told from the sidecar of the same
    /// workload.
    #[must_use]
    pub fn of_node(id: &str, user_agent_name: &str) -> Option<Self> {
        match Self::from_node_id(id)? {
            Self::Sidecar(key) if user_agent_name.starts_with("gRPC") => Some(Self::Grpc(key)),
            role => Some(role),
        }
    }

    /// The SPIFFE identity that it has to have.
    #[must_use]
    pub fn identity<'w>(&self, world: &'w World) -> Option<&'w str> {
        match self {
            Self::Sidecar(key) | Self::Grpc(key) => world
                .workloads
                .get(key)
                .map(|workload| workload.identity.as_str()),
            Self::Gateway(key) => world
                .gateways
                .get(key)
                .map(|gateway| gateway.identity.as_str()),
        }
    }
}

/// A world and the resources made from it.
#[derive(Debug)]
pub struct Translator {
    world: Arc<World>,
    services: Mutex<HashMap<Key, Arc<OfService>>>,
    differences: Mutex<Vec<refresh::Known>>,
}

/// What all proxies that call a service share.
#[derive(Debug)]
struct OfService {
    service: Arc<Service>,
    ports: BTreeMap<u16, OfPort>,
}

#[derive(Debug)]
struct OfPort {
    cluster: Arc<Resource>,
    endpoints: Arc<Resource>,
    /// The roots of the process's own TLS.
    roots: Option<Arc<Resource>>,
    /// None for bytes.
    route: Option<Arc<Resource>>,
    /// The services to which its routes send.
    targets: BTreeSet<(Key, u16)>,
    /// The outbound listeners, by where they listen.
    listeners: Mutex<BTreeMap<SocketAddr, Arc<Resource>>>,
    /// The same for gRPC's own clients, once one of them calls it.
    grpc: OnceLock<Box<grpc::OfGrpc>>,
}

impl Translator {
    /// Translates a world. What `previous` has made of services that are the same is kept.
    #[must_use]
    pub fn new(world: Arc<World>, previous: Option<&Self>) -> Self {
        let mut services = HashMap::new();
        if let Some(previous) =
            previous.filter(|previous| previous.world.defaults == world.defaults)
        {
            let known = previous.services.lock();
            let kept = known.iter().filter(|(key, made)| {
                let now = world.services.get(key);
                now.is_some_and(|service| Arc::ptr_eq(service, &made.service))
            });
            services = kept
                .map(|(key, made)| (key.clone(), Arc::clone(made)))
                .collect();
        }
        Self {
            world,
            services: Mutex::new(services),
            differences: Mutex::default(),
        }
    }

    /// What it translates.
    #[must_use]
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// What a proxy is to have; nothing if there is no such workload or gateway.
    #[must_use]
    pub fn snapshot(&self, role: &Role, secrets: &dyn Secrets) -> Snapshot {
        let span = tracing::debug_span!("snapshot", ?role, resources = tracing::field::Empty);
        let _entered = span.enter();
        let mut builder = Builder {
            translator: self,
            snapshot: Snapshot::default(),
            added: BTreeSet::new(),
        };
        match role {
            Role::Sidecar(key) => {
                if let Some(workload) = self.world.workloads.get(key) {
                    builder.sidecar(workload);
                    secret::own(&mut builder.snapshot, &workload.identity, secrets);
                }
            }
            // No secrets: gRPC has its certificate from files.
            Role::Grpc(key) => {
                if let Some(workload) = self.world.workloads.get(key) {
                    builder.grpc(workload);
                }
            }
            Role::Gateway(key) => {
                if let Some(gateway) = self.world.gateways.get(key) {
                    builder.gateway(gateway);
                    secret::own(&mut builder.snapshot, &gateway.identity, secrets);
                }
            }
        }
        builder.snapshot.pack();
        span.record("resources", builder.snapshot.len());
        builder.snapshot
    }

    fn service(&self, key: &Key) -> Option<Arc<OfService>> {
        if let Some(made) = self.services.lock().get(key) {
            return Some(Arc::clone(made));
        }
        let service = self.world.services.get(key)?;
        let made = Arc::new(OfService::new(&self.world.defaults, service));
        self.services.lock().insert(key.clone(), Arc::clone(&made));
        Some(made)
    }
}

impl OfService {
    fn new(defaults: &Defaults, service: &Arc<Service>) -> Self {
        let mut ports = BTreeMap::new();
        for port in &service.ports {
            let (route, targets) = route::outbound(defaults, service, port);
            let made = OfPort {
                cluster: Arc::new(cluster::of_service(defaults, service, port)),
                endpoints: Arc::new(endpoint::of_service(service, port)),
                roots: backend_tls::roots(port).map(Arc::new),
                route: route.map(Arc::new),
                targets,
                listeners: Mutex::default(),
                grpc: OnceLock::new(),
            };
            ports.insert(port.number, made);
        }
        Self {
            service: Arc::clone(service),
            ports,
        }
    }
}

/// A snapshot that grows.
struct Builder<'a> {
    translator: &'a Translator,
    snapshot: Snapshot,
    added: BTreeSet<(Key, u16)>,
}

impl Builder<'_> {
    fn add(&mut self, kind: ResourceType, resource: Resource) {
        self.snapshot.insert(kind, Arc::new(resource));
    }

    /// Adds cluster and endpoints of a service's port.
    fn add_cluster(&mut self, key: &Key, port: u16) {
        if !self.added.insert((key.clone(), port)) {
            return;
        }
        if let Some(made) = self.translator.service(key)
            && let Some(of_port) = made.ports.get(&port)
        {
            self.snapshot
                .insert(ResourceType::Cluster, Arc::clone(&of_port.cluster));
            self.snapshot
                .insert(ResourceType::Endpoints, Arc::clone(&of_port.endpoints));
            if let Some(roots) = &of_port.roots {
                self.snapshot
                    .insert(ResourceType::Secret, Arc::clone(roots));
            }
        }
    }
}

/// The name of the cluster and of the outbound routes of a service's port.
fn cluster_name(key: &Key, port: u16) -> String {
    format!("{}/{}/{port}", key.namespace, key.name)
}

/// A resource from its JSON. What is no such message is our own mistake: it is logged, and the resource is empty, so
/// that a proxy refuses it.
fn resource(kind: ResourceType, name: &str, json: &Json) -> Resource {
    let text = json.to_string();
    let source = Source {
        name,
        format: Format::Json,
        bytes: text.as_bytes(),
    };
    let bytes = match yaml::encode(kind.message(), &[source], UnknownFields::Refuse) {
        Ok(bytes) => bytes,
        Err(errors) => {
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            tracing::error!(
                resource = name,
                kind = kind.word(),
                ?errors,
                "A resource cannot be encoded."
            );
            Vec::new()
        }
    };
    Resource::new(kind, name, bytes)
}

/// A `google.protobuf.Any`.
fn typed(message: &str, mut json: Json) -> Json {
    json["@type"] = Json::String(format!("type.googleapis.com/{message}"));
    json
}

fn address(address: SocketAddr) -> Json {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn duration(duration: Duration) -> Json {
    Json::String(format!(
        "{}.{:09}s",
        duration.as_secs(),
        duration.subsec_nanos()
    ))
}

fn ads() -> Json {
    json!({"ads": {}, "resource_api_version": "V3"})
}

#[cfg(test)]
mod edge_tests;
#[cfg(test)]
mod guard_tests;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod tests;
