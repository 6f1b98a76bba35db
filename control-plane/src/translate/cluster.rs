//! Clusters: one per port of a service, one per port of the process behind a sidecar.

use serde_json::{Value as Json, json};

use super::{ads, backend_tls, cluster_name, duration, resource, secret, typed};
use crate::cache::{Resource, ResourceType};
use crate::model::MtlsMode;
use crate::world::{Defaults, Inbound, Protocol, Service, ServicePort};

/// The metadata of endpoints that take mTLS, by which the transport socket is chosen.
pub(super) const MTLS_LABEL: &str = "mesh";

pub(super) fn of_service(defaults: &Defaults, service: &Service, port: &ServicePort) -> Resource {
    let name = cluster_name(&service.key, port.number);
    let mut cluster = json!({
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": ads()},
        "connect_timeout": duration(defaults.connect_timeout),
    });
    speak(&mut cluster, port.protocol);
    let of_process = backend_tls::socket(port);
    if let Some(socket) = &of_process {
        cluster["transport_socket"] = socket.clone();
    }
    if service.mtls != MtlsMode::Disable {
        let mut identities: Vec<_> = port
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.identity.as_deref())
            .collect();
        identities.sort_unstable();
        identities.dedup();
        if !identities.is_empty() {
            cluster["transport_socket_matches"] = json!([
                {
                    "name": "mtls",
                    "match": {MTLS_LABEL: "mtls"},
                    "transport_socket": secret::upstream_tls(&service.key, &identities),
                },
                {
                    "name": "plain",
                    "match": {},
                    "transport_socket": of_process.unwrap_or_else(|| json!({
                        "name": "envoy.transport_sockets.raw_buffer",
                        "typed_config": typed("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", json!({})),
                    })),
                },
            ]);
        }
    }
    let policy = &service.policy;
    if let Some(bounds) = &policy.circuit_breaker {
        let mut thresholds = json!({});
        let fields = [
            ("max_connections", bounds.max_connections),
            ("max_pending_requests", bounds.max_pending_requests),
            ("max_requests", bounds.max_requests),
            ("max_retries", bounds.max_retries),
        ];
        for (field, value) in fields {
            if let Some(value) = value {
                thresholds[field] = json!(value);
            }
        }
        cluster["circuit_breakers"] = json!({"thresholds": [thresholds]});
    }
    if let Some(outlier) = &policy.outlier_detection {
        let mut detection = json!({
            "consecutive_5xx": outlier.consecutive_errors.unwrap_or(5),
            "max_ejection_percent": outlier.max_ejection_percent.unwrap_or(10),
        });
        if let Some(interval) = outlier.interval {
            detection["interval"] = duration(interval);
        }
        if let Some(time) = outlier.base_ejection_time {
            detection["base_ejection_time"] = duration(time);
        }
        cluster["outlier_detection"] = detection;
    }
    resource(ResourceType::Cluster, &name, &cluster)
}

pub(super) fn of_app(defaults: &Defaults, inbound: &Inbound) -> Resource {
    let name = app_name(inbound);
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": duration(defaults.connect_timeout),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": super::address(inbound.app)}}]}],
        },
    });
    speak(&mut cluster, inbound.protocol);
    resource(ResourceType::Cluster, &name, &cluster)
}

pub(super) fn app_name(inbound: &Inbound) -> String {
    format!("app/{}", inbound.listen.port())
}

fn speak(cluster: &mut Json, protocol: Protocol) {
    let explicit = match protocol {
        Protocol::Tcp => return,
        Protocol::Http1 => json!({"http_protocol_options": {}}),
        Protocol::Http2 => json!({"http2_protocol_options": {}}),
    };
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster["typed_extension_protocol_options"] =
        json!({OPTIONS: typed(OPTIONS, json!({"explicit_http_config": explicit}))});
}
