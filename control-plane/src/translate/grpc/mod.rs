//! What gRPC's own clients and servers (proxyless) get, which read xDS by themselves.
//!
//! A client asks for the listener that its target names, `xds:///TARGET`. There is one for each port of HTTP/2 that its
//! workload calls, under the names `SERVICE.NAMESPACE:PORT` and `SERVICE.NAMESPACE.svc.cluster.local:PORT`, without
//! `:PORT` where the service has no other such port, and without `.NAMESPACE` in the workload's own namespace. A server
//! asks for `grpc/server?xds.resource.listening_address=ADDRESS:PORT`, the template in the bootstrap that the agent
//! writes; it may listen on the address of its workload or on all.
//!
//! Routes, clusters and endpoints are those of sidecars where gRPC reads them the same way. Where it does not:
//!
//! - A route that depends on what gRPC does not have goes: query parameters, methods other than `POST`. Redirects and
//!   fixed answers end a call with `UNAVAILABLE`, as does a cluster with TLS other than that of the mesh.
//! - A path prefix is a regular expression, `timeout` is `max_stream_duration`, and what is tried again on an error of
//!   HTTP or of the connection is tried again on `unavailable`.
//! - Certificates come from the provider `default` of the bootstrap, identities are in `match_subject_alt_names`: gRPC
//!   knows no SDS. It does not choose a transport socket by endpoint either, so a cluster is mTLS where all endpoints
//!   take it, and in clear text where one does not; a STRICT service has mTLS and only the endpoints that take it.
//! - A server has mTLS unless it is DISABLE: it does not look for TLS in what comes. It enforces authorisation, but no
//!   rate limit.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use outrigger_proto::json::{Style, encoded_to_json};
use serde_json::{Value as Json, json};

use super::http::{ALLOW, DENY, FAULT, FAULT_TYPE, RBAC_TYPE};
use super::rbac::{self, Layer};
use super::{
    Builder, OfPort, OfService, address, ads, cluster_name, endpoint, resource, secret, typed,
};
use crate::cache::{Resource, ResourceType, version_of};
use crate::model::{Access, AuthorizationSpec, Key, MtlsMode};
use crate::world::{Inbound, Protocol, ResolvedCall, Service, ServicePort, Workload, regex_escape};

/// The name of a server's listener, before its address. The agent writes it into the bootstrap.
pub(crate) const SERVER_LISTENER: &str = "grpc/server?xds.resource.listening_address=";

/// What all gRPC clients that call a port share.
#[derive(Debug)]
pub(super) struct OfGrpc {
    /// None where gRPC cannot speak what the endpoints do.
    cluster: Option<Arc<Resource>>,
    endpoints: Arc<Resource>,
    /// None for what is not HTTP/2.
    front: Option<Front>,
}

/// What a target leads to.
#[derive(Debug)]
struct Front {
    route: Arc<Resource>,
    /// For callers of all namespaces.
    listeners: Vec<Arc<Resource>>,
    /// For callers of the service's namespace.
    of_namespace: Vec<Arc<Resource>>,
}

impl Builder<'_> {
    /// Adds what a workload without a proxy needs.
    pub(super) fn grpc(&mut self, workload: &Workload) {
        for call in &workload.calls {
            self.grpc_call(workload, call);
        }
        for inbound in &workload.inbound {
            if inbound.protocol == Protocol::Http2 {
                self.grpc_server(inbound);
            }
        }
    }

    fn grpc_call(&mut self, workload: &Workload, call: &ResolvedCall) {
        let Some(made) = self.translator.service(&call.service) else {
            return;
        };
        let Some(of_port) = made.ports.get(&call.port) else {
            return;
        };
        let Some(front) = of_grpc(&made, call.port, of_port).and_then(|made| made.front.as_ref())
        else {
            return;
        };
        self.snapshot
            .insert(ResourceType::Route, Arc::clone(&front.route));
        let is_near = workload.key.namespace == call.service.namespace;
        let near = is_near.then_some(&front.of_namespace);
        for listener in front.listeners.iter().chain(near.into_iter().flatten()) {
            self.snapshot
                .insert(ResourceType::Listener, Arc::clone(listener));
        }
        for (key, port) in &of_port.targets {
            self.grpc_cluster(key, *port);
        }
    }

    fn grpc_cluster(&mut self, key: &Key, port: u16) {
        if !self.added.insert((key.clone(), port)) {
            return;
        }
        let Some(made) = self.translator.service(key) else {
            return;
        };
        let Some(of_port) = made.ports.get(&port) else {
            return;
        };
        let Some(found) = of_grpc(&made, port, of_port) else {
            return;
        };
        if let Some(cluster) = &found.cluster {
            self.snapshot
                .insert(ResourceType::Cluster, Arc::clone(cluster));
            self.snapshot
                .insert(ResourceType::Endpoints, Arc::clone(&found.endpoints));
        }
    }

    fn grpc_server(&mut self, inbound: &Inbound) {
        let trust_domain = &self.translator.world().trust_domain;
        let port = inbound.listen.port();
        let table = format!("grpc/inbound/{port}");
        let authorization = without_methods(&inbound.authorization);
        let mut configs = json!({});
        for (filter, action) in [(DENY, Access::Deny), (ALLOW, Access::Allow)] {
            if let Some(rules) = rbac::rules(&authorization, action, Layer::Http, trust_domain) {
                let per_route = json!({"rbac": {"rules": rules}});
                configs[filter] = typed(&format!("{RBAC_TYPE}.RBACPerRoute"), per_route);
            }
        }
        let route = json!({
            "match": {"prefix": "/"},
            "non_forwarding_action": {},
            "typed_per_filter_config": configs,
        });
        let routes = json!({
            "name": table,
            "virtual_hosts": [{"name": "*", "domains": ["*"], "routes": [route]}],
        });
        self.add(
            ResourceType::Route,
            resource(ResourceType::Route, &table, &routes),
        );
        let rbac = || typed(&format!("{RBAC_TYPE}.RBAC"), json!({}));
        let filters = [
            json!({"name": DENY, "typed_config": rbac()}),
            json!({"name": ALLOW, "typed_config": rbac()}),
        ];
        let mut chain = json!({
            "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": connection_manager(&table, &filters),
            }],
        });
        if inbound.mtls != MtlsMode::Disable {
            chain["transport_socket"] = secret::grpc_downstream();
        }
        let everywhere = [
            inbound.listen.ip(),
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ];
        for ip in everywhere {
            let listen = SocketAddr::new(ip, port);
            let name = format!("{SERVER_LISTENER}{listen}");
            let listener = json!({
                "name": name,
                "address": address(listen),
                "traffic_direction": "INBOUND",
                "filter_chains": [chain],
            });
            self.add(
                ResourceType::Listener,
                resource(ResourceType::Listener, &name, &listener),
            );
        }
    }
}

/// What is made of a port when the first of gRPC's clients calls it; none if the service has no such port.
fn of_grpc<'p>(made: &OfService, number: u16, of_port: &'p OfPort) -> Option<&'p OfGrpc> {
    let port = made.service.port(number)?;
    Some(of_port.grpc.get_or_init(|| {
        let (cluster, endpoints) = cluster(&made.service, port, of_port);
        let table = of_port.route.as_ref();
        Box::new(OfGrpc {
            cluster: cluster.map(Arc::new),
            endpoints,
            front: table
                .filter(|_| port.protocol == Protocol::Http2)
                .map(|table| front(&made.service, port, table)),
        })
    }))
}

/// Cluster and endpoints of a port for gRPC; none if it cannot be called. What changes the endpoints alone does not change
/// whether it can.
pub(super) fn cluster_of<'p>(
    made: &OfService,
    number: u16,
    of_port: &'p OfPort,
) -> Option<(&'p Arc<Resource>, &'p Arc<Resource>)> {
    let made = of_grpc(made, number, of_port)?;
    Some((made.cluster.as_ref()?, &made.endpoints))
}

fn front(service: &Service, port: &ServicePort, table: &Resource) -> Front {
    let name = cluster_name(&service.key, port.number);
    let fault = json!({"name": FAULT, "typed_config": typed(FAULT_TYPE, json!({}))});
    let manager = connection_manager(&name, &[fault]);
    let listeners = |names: &[String]| -> Vec<_> {
        let made = names.iter().map(|name| {
            let listener = json!({"name": name, "api_listener": {"api_listener": manager}});
            Arc::new(resource(ResourceType::Listener, name, &listener))
        });
        made.collect()
    };
    let (far, near) = names(service, port);
    Front {
        route: Arc::new(routes(table)),
        listeners: listeners(&far),
        of_namespace: listeners(&near),
    }
}

/// The targets of a port: for all, and for the service's own namespace.
fn names(service: &Service, port: &ServicePort) -> (Vec<String>, Vec<String>) {
    let is_only = service
        .ports
        .iter()
        .filter(|port| port.protocol == Protocol::Http2)
        .count()
        == 1;
    let both = |host: &str| {
        let mut names = vec![format!("{host}:{}", port.number)];
        if is_only {
            names.push(host.to_owned());
        }
        names
    };
    let Key { namespace, name } = &service.key;
    let far = [
        both(&format!("{name}.{namespace}")),
        both(&format!("{name}.{namespace}.svc.cluster.local")),
    ];
    (far.concat(), both(name))
}

fn connection_manager(table: &str, filters: &[Json]) -> Json {
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": typed("envoy.extensions.filters.http.router.v3.Router", json!({})),
    });
    let filters: Vec<_> = filters.iter().cloned().chain([router]).collect();
    typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "grpc",
            "rds": {"route_config_name": table, "config_source": ads()},
            "http_filters": filters,
        }),
    )
}

/// Cluster and endpoints, from those of sidecars.
fn cluster(
    service: &Service,
    port: &ServicePort,
    of_port: &OfPort,
) -> (Option<Resource>, Arc<Resource>) {
    let of_sidecars = json_of(ResourceType::Cluster, &of_port.cluster);
    let mut endpoints = Arc::clone(&of_port.endpoints);
    if of_sidecars["type"] != "EDS" || !of_sidecars["transport_socket"].is_null() {
        return (None, endpoints);
    }
    let mut made = json!({});
    take(
        &of_sidecars,
        &mut made,
        &[
            "name",
            "type",
            "eds_cluster_config",
            "connect_timeout",
            "circuit_breakers",
            "outlier_detection",
        ],
    );
    let mut identities: Vec<_> = port
        .endpoints
        .iter()
        .filter_map(|endpoint| endpoint.identity.as_deref())
        .collect();
    let is_mixed = identities.len() < port.endpoints.len();
    identities.sort_unstable();
    identities.dedup();
    let is_mtls = match service.mtls {
        MtlsMode::Disable => false,
        MtlsMode::Permissive => !is_mixed,
        MtlsMode::Strict => true,
    };
    if is_mtls && !identities.is_empty() {
        made["transport_socket"] = secret::grpc_upstream(&identities);
        if is_mixed {
            let with_identity = ServicePort {
                endpoints: port
                    .endpoints
                    .iter()
                    .filter(|endpoint| endpoint.identity.is_some())
                    .cloned()
                    .collect(),
                name: port.name.clone(),
                tls: port.tls.clone(),
                ..*port
            };
            endpoints = Arc::new(endpoint::of_service(service, &with_identity));
        }
    }
    let name = cluster_name(&service.key, port.number);
    let made = resource(ResourceType::Cluster, &name, &made);
    (Some(made), endpoints)
}

/// A table of a client, from that of sidecars.
fn routes(table: &Resource) -> Resource {
    let mut json = json_of(ResourceType::Route, table);
    for host in list_mut(&mut json["virtual_hosts"]) {
        let made: Vec<_> = list_mut(&mut host["routes"])
            .iter()
            .filter_map(route)
            .collect();
        host["routes"] = json!(made);
    }
    resource(ResourceType::Route, &table.name, &json)
}

fn route(of_sidecar: &Json) -> Option<Json> {
    let mut made = json!({"match": matcher(&of_sidecar["match"])?});
    take(of_sidecar, &mut made, &["typed_per_filter_config"]);
    match of_sidecar.get("route") {
        Some(action) => made["route"] = forward(action),
        None => made["non_forwarding_action"] = json!({}),
    }
    // gRPC of Node passes over a change that only adds to what is under a name, such as a filter's configuration.
    made["name"] = json!(version_of(&[made.to_string().as_bytes()]));
    Some(made)
}

/// None for what no call matches.
fn matcher(of_sidecar: &Json) -> Option<Json> {
    if !of_sidecar["query_parameters"].is_null() {
        return None;
    }
    let mut made = json!({});
    take(of_sidecar, &mut made, &["prefix", "path", "safe_regex"]);
    if let Some(prefix) = of_sidecar["path_separated_prefix"].as_str() {
        made["safe_regex"] = json!({"regex": format!("{}(/.*)?", regex_escape(prefix))});
    }
    let mut headers = Vec::new();
    for header in of_sidecar["headers"].as_array().into_iter().flatten() {
        if header["name"] != ":method" {
            headers.push(header.clone());
        } else if header["string_match"]["exact"] != "POST" {
            return None;
        }
    }
    if !headers.is_empty() {
        made["headers"] = json!(headers);
    }
    Some(made)
}

fn forward(of_sidecar: &Json) -> Json {
    let mut clusters = Vec::new();
    for share in of_sidecar["weighted_clusters"]["clusters"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|share| share["weight"] != 0)
    {
        let mut made = json!({});
        take(share, &mut made, &["name", "weight"]);
        clusters.push(made);
    }
    let mut made = json!({"weighted_clusters": {"clusters": clusters}});
    if let Some(timeout) = of_sidecar.get("timeout") {
        made["max_stream_duration"] = json!({"max_stream_duration": timeout});
    }
    let policy = &of_sidecar["retry_policy"];
    let mut on: Vec<_> = policy["retry_on"]
        .as_str()
        .unwrap_or_default()
        .split(',')
        .filter_map(condition)
        .collect();
    on.sort_unstable();
    on.dedup();
    if !on.is_empty() && policy["num_retries"] != 0 {
        let mut retries = json!({"retry_on": on.join(",")});
        take(policy, &mut retries, &["num_retries", "retry_back_off"]);
        made["retry_policy"] = retries;
    }
    made
}

/// The status of gRPC that is tried again.
fn condition(of_sidecar: &str) -> Option<&'static str> {
    match of_sidecar {
        "cancelled" => Some("cancelled"),
        "deadline-exceeded" => Some("deadline-exceeded"),
        "resource-exhausted" => Some("resource-exhausted"),
        "unavailable"
        | "5xx"
        | "gateway-error"
        | "reset"
        | "reset-before-request"
        | "connect-failure"
        | "refused-stream" => Some("unavailable"),
        _ => None,
    }
}

/// Each call of gRPC is a `POST`: a rule for it is a rule for all methods, and one for others matches nothing.
fn without_methods(policies: &[AuthorizationSpec]) -> Vec<AuthorizationSpec> {
    let mut policies = policies.to_vec();
    for policy in &mut policies {
        policy.rules.retain(|rule| {
            rule.methods.is_empty() || rule.methods.iter().any(|method| method == "POST")
        });
        for rule in &mut policy.rules {
            rule.methods.clear();
        }
    }
    policies
}

/// The JSON of a resource of ours.
fn json_of(kind: ResourceType, resource: &Resource) -> Json {
    encoded_to_json(kind.message(), &resource.body.value, Style::default())
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

/// Copies fields that are there.
fn take(from: &Json, to: &mut Json, fields: &[&str]) {
    for field in fields {
        if let Some(value) = from.get(field) {
            to[*field] = value.clone();
        }
    }
}

fn list_mut(json: &mut Json) -> &mut [Json] {
    json.as_array_mut()
        .map(Vec::as_mut_slice)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
