//! Services, their endpoints and their policies.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use k8s_openapi::api::core::v1::ServicePort as PortSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{
    Endpoint, EndpointHealth, Found, Protocol, Registered, Service, ServicePort, Status, identity,
    port_number,
};
use crate::dns::{Names, external_name};
use crate::model::{
    AuthorizationSpec, Host, Key, Kind, Model, MtlsMode, Origin, ServiceRef, TrafficPolicySpec,
    Workload, WorkloadPort,
};

pub(super) fn resolve(
    model: &Model,
    trust_domain: &str,
    default_mtls: MtlsMode,
    found: Found<'_>,
    statuses: &mut Vec<Status>,
) -> BTreeMap<Key, Service> {
    let mut services = BTreeMap::new();
    let workloads = by_service(model);
    let slices = slices_by_service(model);
    let names = found.names;
    let registered = registered_by_service(found.registered);
    for (key, stored) in &model.services {
        let mut status = Status::new(Kind::Service, key, &stored.origin);
        status.holds("", "Accepted");
        let spec = stored.object.spec.as_ref();
        let mut ports: Vec<ServicePort> = Vec::new();
        for port in spec
            .and_then(|spec| spec.ports.as_deref())
            .unwrap_or_default()
        {
            let Some(number) = port_number(port.port) else {
                continue;
            };
            if ports.iter().any(|known| known.number == number) {
                status.fails(
                    "",
                    "Accepted",
                    "PortConflict",
                    format!("port {number} is there twice"),
                );
                continue;
            }
            let mut endpoints = Vec::new();
            for (_, workload) in workloads.get(key).into_iter().flatten() {
                workload_endpoints(workload, (trust_domain, names), port, &mut endpoints);
            }
            for slice in slices.get(key).into_iter().flatten() {
                slice_endpoints(slice, names, port, &mut endpoints);
            }
            if let Some(name) = external_name(&stored.object) {
                external_endpoints(&name, names, port, &mut endpoints);
            }
            for found in registered.get(key).into_iter().flatten() {
                if found.port == number {
                    endpoints.push(found.endpoint.clone());
                }
            }
            endpoints.sort();
            endpoints.dedup_by_key(|endpoint| endpoint.address);
            ports.push(ServicePort {
                name: port.name.clone(),
                number,
                protocol: protocol(port),
                endpoints,
                tls: None,
            });
        }
        statuses.push(status);
        let address = spec.and_then(|spec| spec.cluster_ip.as_deref());
        services.insert(
            key.clone(),
            Service {
                key: key.clone(),
                address: address.and_then(|address| address.parse().ok()),
                ports,
                mtls: default_mtls,
                policy: TrafficPolicySpec::default(),
                authorization: Vec::new(),
                routes: Vec::new(),
            },
        );
    }
    apply_policies(model, &mut services, statuses);
    services
}

/// Which workloads each service has: those that name it and those that it selects.
pub(super) fn by_service(model: &Model) -> BTreeMap<Key, Vec<(&Key, &Workload)>> {
    let mut selecting: BTreeMap<&str, Vec<(&Key, &BTreeMap<String, String>)>> = BTreeMap::new();
    for (key, stored) in &model.services {
        let selector = stored
            .object
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.as_ref());
        if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
            selecting
                .entry(&key.namespace)
                .or_default()
                .push((key, selector));
        }
    }
    let mut found: BTreeMap<Key, Vec<(&Key, &Workload)>> = BTreeMap::new();
    for (key, stored) in &model.workloads {
        let workload = &stored.object;
        for service in &workload.spec.services {
            let service = Key::new(&key.namespace, service);
            found.entry(service).or_default().push((key, workload));
        }
        let labels = workload.metadata.labels.as_ref();
        for (service, selector) in selecting.get(key.namespace.as_str()).into_iter().flatten() {
            let matches = selector
                .iter()
                .all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value));
            if matches && !workload.spec.services.contains(&service.name) {
                found
                    .entry((*service).clone())
                    .or_default()
                    .push((key, workload));
            }
        }
    }
    found
}

/// Whether a service's port is served by this port of a workload.
pub(super) fn serves(port: &PortSpec, served: &WorkloadPort) -> bool {
    match &port.target_port {
        Some(IntOrString::String(name)) => served.name.as_deref() == Some(name),
        Some(IntOrString::Int(number)) => is_number(served, *number),
        None => is_number(served, port.port),
    }
}

fn is_number(served: &WorkloadPort, number: i32) -> bool {
    i32::from(served.app_port.unwrap_or(served.port)) == number || i32::from(served.port) == number
}

pub(super) fn protocol(port: &PortSpec) -> Protocol {
    let known = |word: &str| match word {
        "http" | "http1" => Some(Protocol::Http1),
        "grpc" | "http2" | "h2c" | "kubernetes.io/h2c" => Some(Protocol::Http2),
        "tcp" | "tls" | "https" => Some(Protocol::Tcp),
        _ => None,
    };
    if let Some(protocol) = &port.app_protocol {
        return known(&protocol.to_ascii_lowercase()).unwrap_or(Protocol::Tcp);
    }
    let name = port.name.as_deref().unwrap_or_default();
    known(name.split('-').next().unwrap_or_default()).unwrap_or(Protocol::Http1)
}

pub(super) fn identity_of(trust_domain: &str, key: &Key, workload: &Workload) -> String {
    let account = workload
        .spec
        .service_account
        .as_deref()
        .unwrap_or("default");
    identity(trust_domain, &key.namespace, account)
}

fn workload_endpoints(
    workload: &Workload,
    (trust_domain, names): (&str, &Names),
    port: &PortSpec,
    endpoints: &mut Vec<Endpoint>,
) {
    let namespace = workload.metadata.namespace.as_deref().unwrap_or("default");
    let key = Key::new(namespace, "");
    for served in workload
        .spec
        .ports
        .iter()
        .filter(|served| serves(port, served))
    {
        let has_sidecar = workload.spec.sidecar.unwrap_or(true);
        for address in names.addresses(&workload.spec.address) {
            endpoints.push(Endpoint {
                address: SocketAddr::new(*address, served.port),
                health: workload.spec.health.into(),
                weight: workload.spec.weight.unwrap_or(1),
                identity: has_sidecar.then(|| identity_of(trust_domain, &key, workload)),
            });
        }
    }
}

fn slices_by_service(
    model: &Model,
) -> BTreeMap<Key, Vec<&k8s_openapi::api::discovery::v1::EndpointSlice>> {
    let mut found: BTreeMap<Key, Vec<_>> = BTreeMap::new();
    for (key, stored) in &model.endpoint_slices {
        let labels = stored.object.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|labels| labels.get("kubernetes.io/service-name")) {
            let service = Key::new(&key.namespace, service);
            found.entry(service).or_default().push(&stored.object);
        }
    }
    found
}

fn registered_by_service(registered: &[Registered]) -> BTreeMap<&Key, Vec<&Registered>> {
    let mut found: BTreeMap<&Key, Vec<&Registered>> = BTreeMap::new();
    for endpoint in registered {
        found.entry(&endpoint.service).or_default().push(endpoint);
    }
    found
}

/// Endpoints of a service that stands for a name.
fn external_endpoints(name: &Host, names: &Names, port: &PortSpec, endpoints: &mut Vec<Endpoint>) {
    let target = match &port.target_port {
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(_)) | None => port.port,
    };
    let Some(target) = port_number(target) else {
        return;
    };
    for address in names.addresses(name) {
        endpoints.push(Endpoint {
            address: SocketAddr::new(*address, target),
            health: EndpointHealth::Healthy,
            weight: 1,
            identity: None,
        });
    }
}

fn slice_endpoints(
    slice: &k8s_openapi::api::discovery::v1::EndpointSlice,
    names: &Names,
    port: &PortSpec,
    endpoints: &mut Vec<Endpoint>,
) {
    // A slice's ports go by the name of the service's port; one without a name is the only one.
    let wanted = port.name.as_deref().unwrap_or_default();
    let ports = slice.ports.as_deref().unwrap_or_default();
    let target = ports
        .iter()
        .find(|port| port.name.as_deref().unwrap_or_default() == wanted)
        .and_then(|port| port.port)
        .and_then(port_number);
    let Some(target) = target else { return };
    for endpoint in &slice.endpoints {
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions
            .and_then(|conditions| conditions.ready)
            .unwrap_or(true);
        let terminating = conditions.and_then(|conditions| conditions.terminating) == Some(true);
        let health = match (ready, terminating) {
            (_, true) => EndpointHealth::Draining,
            (true, false) => EndpointHealth::Healthy,
            (false, false) => EndpointHealth::Unhealthy,
        };
        for host in endpoint.addresses.iter().filter_map(|it| it.parse().ok()) {
            for address in names.addresses(&host) {
                endpoints.push(Endpoint {
                    address: SocketAddr::new(*address, target),
                    health,
                    weight: 1,
                    identity: None,
                });
            }
        }
    }
}

fn apply_policies(
    model: &Model,
    services: &mut BTreeMap<Key, Service>,
    statuses: &mut Vec<Status>,
) {
    // Those of a whole namespace first, so that those of one service replace what they said.
    for of_namespace in [true, false] {
        for (key, stored) in &model.peer_authentications {
            let spec = &stored.object.spec;
            if spec.service.is_none() == of_namespace {
                let place = (Kind::PeerAuthentication, key, &stored.origin);
                targets(
                    place,
                    spec.service.as_ref(),
                    services,
                    statuses,
                    |service| {
                        service.mtls = spec.mtls;
                    },
                );
            }
        }
    }
    for (key, stored) in &model.authorization_policies {
        let spec = &stored.object.spec;
        let place = (Kind::AuthorizationPolicy, key, &stored.origin);
        targets(
            place,
            spec.service.as_ref(),
            services,
            statuses,
            |service| {
                service.authorization.push(AuthorizationSpec {
                    name: key.to_string(),
                    ..spec.clone()
                });
            },
        );
    }
    let mut taken: BTreeMap<Key, Key> = BTreeMap::new();
    for (key, stored) in &model.traffic_policies {
        let spec = &stored.object.spec;
        let service = spec
            .service
            .as_ref()
            .map(|service| Key::new(&key.namespace, &service.name));
        if let Some(other) = service.as_ref().and_then(|service| taken.get(service)) {
            let mut status = Status::new(Kind::TrafficPolicy, key, &stored.origin);
            let message = format!("TrafficPolicy {other} is for the same service");
            status.fails("", "Accepted", "Conflicted", message);
            statuses.push(status);
            continue;
        }
        let place = (Kind::TrafficPolicy, key, &stored.origin);
        targets(
            place,
            spec.service.as_ref(),
            services,
            statuses,
            |service| {
                service.policy = spec.clone();
            },
        );
        taken.extend(service.map(|service| (service, key.clone())));
    }
    split_targets(model, services, statuses);
}

/// Calls `apply` with each service that a policy is for.
fn targets(
    (kind, key, origin): (Kind, &Key, &Origin),
    service: Option<&ServiceRef>,
    services: &mut BTreeMap<Key, Service>,
    statuses: &mut Vec<Status>,
    apply: impl Fn(&mut Service),
) {
    let mut status = Status::new(kind, key, origin);
    match service {
        None => {
            services
                .values_mut()
                .filter(|service| service.key.namespace == key.namespace)
                .for_each(apply);
            status.holds("", "Accepted");
        }
        Some(reference) => match services.get_mut(&Key::new(&key.namespace, &reference.name)) {
            Some(service) => {
                apply(service);
                status.holds("", "Accepted");
            }
            None => {
                let message = format!("there is no Service {}/{}", key.namespace, reference.name);
                status.fails("", "Accepted", "TargetNotFound", message);
            }
        },
    }
    statuses.push(status);
}

/// Says which services and ports of splits and mirrors there are not. Their share of requests is answered with 500.
fn split_targets(model: &Model, services: &BTreeMap<Key, Service>, statuses: &mut [Status]) {
    for status in statuses
        .iter_mut()
        .filter(|status| status.kind == Kind::TrafficPolicy)
    {
        let Some(stored) = model.traffic_policies.get(&status.key) else {
            continue;
        };
        let spec = &stored.object.spec;
        let split = spec
            .split
            .iter()
            .map(|backend| (&backend.service, backend.port));
        let mirror = spec
            .mirror
            .iter()
            .map(|mirror| (&mirror.service, mirror.port));
        let missing: Vec<_> = split
            .chain(mirror)
            .filter(|(name, port)| {
                let found = services.get(&Key::new(&status.key.namespace, name.as_str()));
                !found.is_some_and(|service| port.is_none_or(|port| service.port(port).is_some()))
            })
            .map(|(name, port)| match port {
                Some(port) => format!("{name}:{port}"),
                None => name.clone(),
            })
            .collect();
        if missing.is_empty() {
            status.holds("", "ResolvedRefs");
        } else {
            let message = format!("there is no {}", missing.join(", "));
            status.fails("", "ResolvedRefs", "BackendNotFound", message);
        }
    }
}
