//! Endpoints of a service's port.

use serde_json::{Value as Json, json};

use super::cluster::MTLS_LABEL;
use super::{address, cluster_name, resource};
use crate::cache::{Resource, ResourceType};
use crate::model::MtlsMode;
use crate::world::{BackendTls, Endpoint, EndpointHealth, Service, ServicePort};

pub(super) fn of_service(service: &Service, port: &ServicePort) -> Resource {
    let name = cluster_name(&service.key, port.number);
    let endpoints: Vec<_> = port
        .endpoints
        .iter()
        // What needs TLS that cannot be had is not called at all.
        .filter(|endpoint| {
            let is_mtls = endpoint.identity.is_some() && service.mtls != MtlsMode::Disable;
            is_mtls || port.tls != Some(BackendTls::Broken)
        })
        .map(|endpoint| lb_endpoint(endpoint, service.mtls))
        .collect();
    let mut assignment = json!({"cluster_name": name});
    if !endpoints.is_empty() {
        // gRPC passes over what has no locality or no weight.
        assignment["endpoints"] = json!([
            {"locality": {}, "load_balancing_weight": 1, "lb_endpoints": endpoints},
        ]);
    }
    resource(ResourceType::Endpoints, &name, &assignment)
}

fn lb_endpoint(endpoint: &Endpoint, mtls: MtlsMode) -> Json {
    let health = match endpoint.health {
        EndpointHealth::Healthy => "HEALTHY",
        EndpointHealth::Unhealthy => "UNHEALTHY",
        EndpointHealth::Draining => "DRAINING",
    };
    let mut json = json!({
        "endpoint": {"address": address(endpoint.address)},
        "health_status": health,
        "load_balancing_weight": endpoint.weight,
    });
    if endpoint.identity.is_some() && mtls != MtlsMode::Disable {
        json["metadata"] = json!({
            "filter_metadata": {"envoy.transport_socket_match": {MTLS_LABEL: "mtls"}},
        });
    }
    json
}
