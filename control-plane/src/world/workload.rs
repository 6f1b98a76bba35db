//! Workloads with a sidecar: what they serve and what they call.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::service::{by_service, identity_of, protocol, serves};
use super::{Inbound, Protocol, ResolvedCall, Service, Status, Workload, port_number};
use crate::model::{Call, Host, Key, Kind, Model, MtlsMode, WorkloadPort};

pub(super) fn resolve(
    model: &Model,
    trust_domain: &str,
    services: &BTreeMap<Key, Arc<Service>>,
    default_mtls: MtlsMode,
    statuses: &mut Vec<Status>,
) -> BTreeMap<Key, Arc<Workload>> {
    let mut of_workload: BTreeMap<&Key, Vec<Key>> = BTreeMap::new();
    for (service, workloads) in by_service(model) {
        for (workload, _) in workloads {
            of_workload
                .entry(workload)
                .or_default()
                .push(service.clone());
        }
    }
    let everything: Vec<_> = services
        .values()
        .flat_map(|service| all_ports(service))
        .collect();
    let mut found = BTreeMap::new();
    for (key, stored) in &model.workloads {
        let mut status = Status::new(Kind::Workload, key, &stored.origin);
        status.holds("", "Accepted");
        let spec = &stored.object.spec;
        let mine = of_workload.get(key).map(Vec::as_slice).unwrap_or_default();
        for service in mine
            .iter()
            .filter(|service| !services.contains_key(service))
        {
            let message = format!("there is no Service {service}");
            status.fails("spec.services", "ResolvedRefs", "ServiceNotFound", message);
        }
        unserved(model, &spec.ports, mine, &mut status);
        let address = match spec.address {
            Host::Ip(address) => address,
            // Which of its machine's addresses it is, nobody says.
            Host::Name(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        let inbound = spec
            .ports
            .iter()
            .map(|served| inbound_of(model, services, (address, served), mine, default_mtls))
            .collect();
        let calls = match &spec.calls {
            None => everything
                .iter()
                .filter(|call| call.listen.is_some() || spec.proxyless)
                .cloned()
                .collect(),
            Some(calls) => {
                let mut found = Vec::new();
                for (index, call) in calls.iter().enumerate() {
                    let namespace = call.namespace.as_ref().unwrap_or(&key.namespace);
                    let service = Key::new(namespace, &call.service);
                    match resolve_call(services, &service, call, spec.proxyless) {
                        Ok(call) => found.push(call),
                        Err((reason, message)) => {
                            let about = format!("spec.calls[{index}]");
                            status.fails(&about, "ResolvedRefs", reason, message);
                        }
                    }
                }
                found
            }
        };
        if !status.has_failed() {
            status.holds("", "ResolvedRefs");
        }
        statuses.push(status);
        if spec.sidecar.unwrap_or(true) {
            let workload = Workload {
                key: key.clone(),
                identity: identity_of(trust_domain, key, &stored.object),
                inbound,
                calls,
            };
            found.insert(key.clone(), Arc::new(workload));
        }
    }
    slices(model, services, statuses);
    found
}

/// Says which services have no port that the workload serves: it is no endpoint of theirs.
fn unserved(model: &Model, ports: &[WorkloadPort], mine: &[Key], status: &mut Status) {
    for service in mine {
        let Some(written) = model.services.get(service) else {
            continue;
        };
        let spec = written.object.spec.as_ref();
        let wanted = spec
            .and_then(|spec| spec.ports.as_deref())
            .unwrap_or_default();
        let is_served = |port| ports.iter().any(|served| serves(port, served));
        if !wanted.is_empty() && !wanted.iter().any(is_served) {
            let message = format!("no port of the workload is a target port of Service {service}");
            status.fails("spec.ports", "ResolvedRefs", "PortNotFound", message);
        }
    }
}

/// What a sidecar does with connections to a port of its workload, as the services say whose port it is.
fn inbound_of(
    model: &Model,
    services: &BTreeMap<Key, Arc<Service>>,
    (address, served): (IpAddr, &WorkloadPort),
    mine: &[Key],
    default_mtls: MtlsMode,
) -> Inbound {
    let mut inbound = Inbound {
        listen: SocketAddr::new(address, served.port),
        app: SocketAddr::new(
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            served.app_port.unwrap_or(served.port),
        ),
        protocol: Protocol::Tcp,
        mtls: default_mtls,
        authorization: Vec::new(),
        rate_limit: None,
    };
    let mut is_first = true;
    for service in mine {
        let (Some(resolved), Some(written)) = (services.get(service), model.services.get(service))
        else {
            continue;
        };
        let spec = written.object.spec.as_ref();
        let ports = spec
            .and_then(|spec| spec.ports.as_deref())
            .unwrap_or_default();
        let Some(port) = ports.iter().find(|port| serves(port, served)) else {
            continue;
        };
        if is_first {
            inbound.protocol = protocol(port);
            inbound.mtls = resolved.mtls;
            inbound.rate_limit.clone_from(&resolved.policy.rate_limit);
        } else if resolved.mtls == MtlsMode::Strict {
            inbound.mtls = MtlsMode::Strict;
        }
        inbound
            .authorization
            .extend(resolved.authorization.iter().cloned());
        is_first = false;
    }
    inbound
}

fn all_ports(service: &Service) -> impl Iterator<Item = ResolvedCall> + '_ {
    let address = service.address.filter(|address| !address.is_unspecified());
    service.ports.iter().map(move |port| ResolvedCall {
        service: service.key.clone(),
        port: port.number,
        listen: address.map(|address| SocketAddr::new(address, port.number)),
    })
}

fn resolve_call(
    services: &BTreeMap<Key, Arc<Service>>,
    key: &Key,
    call: &Call,
    is_proxyless: bool,
) -> Result<ResolvedCall, (&'static str, String)> {
    let port = call.port;
    let service = services
        .get(key)
        .ok_or_else(|| ("ServiceNotFound", format!("there is no Service {key}")))?;
    if service.port(port).is_none() {
        return Err(("PortNotFound", format!("Service {key} has no port {port}")));
    }
    let listen = call
        .listen
        .or_else(|| Some(SocketAddr::new(service.address?, port)));
    if listen.is_none() && !is_proxyless {
        let message = format!("Service {key} has no clusterIP, so `listen` is needed");
        return Err(("AddressNotFound", message));
    }
    Ok(ResolvedCall {
        service: key.clone(),
        port,
        listen,
    })
}

fn slices(model: &Model, services: &BTreeMap<Key, Arc<Service>>, statuses: &mut Vec<Status>) {
    for (key, stored) in &model.endpoint_slices {
        let mut status = Status::new(Kind::EndpointSlice, key, &stored.origin);
        let labels = stored.object.metadata.labels.as_ref();
        match labels.and_then(|labels| labels.get("kubernetes.io/service-name")) {
            Some(name) if services.contains_key(&Key::new(&key.namespace, name)) => {
                status.holds("", "Accepted");
            }
            Some(name) => {
                let message = format!("there is no Service {}/{name}", key.namespace);
                status.fails("", "Accepted", "ServiceNotFound", message);
            }
            None => {
                let message = "the label kubernetes.io/service-name is missing";
                status.fails("", "Accepted", "ServiceNotFound", message);
            }
        }
        let ports = stored.object.ports.as_deref().unwrap_or_default();
        if ports
            .iter()
            .any(|port| port.port.and_then(port_number).is_none())
        {
            status.fails("ports", "Accepted", "PortNotFound", "a port has no number");
        }
        statuses.push(status);
    }
}
