//! Clusters: one per port of a service, one per port of the process behind a sidecar.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{ads, backend_tls, cluster_name, duration, load_balancing, resource, secret, typed};
use crate::cache::{Resource, ResourceType};
use crate::model::{HealthCheck, MtlsMode, OutlierDetection};
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
    if let Some(balancing) = &policy.load_balancing {
        load_balancing::of_cluster(balancing, &mut cluster);
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
        outliers(outlier, &mut detection);
        cluster["outlier_detection"] = detection;
    }
    if let Some(health) = &policy.health_check {
        cluster["health_checks"] = json!([health_check(health, service, port)]);
    }
    resource(ResourceType::Cluster, &name, &cluster)
}

/// What is beside errors in a row.
fn outliers(outlier: &OutlierDetection, detection: &mut Json) {
    if let Some(time) = outlier.max_ejection_time {
        detection["max_ejection_time"] = duration(time);
    }
    if let Some(errors) = outlier.consecutive_gateway_errors {
        detection["consecutive_gateway_failure"] = json!(errors);
        detection["enforcing_consecutive_gateway_failure"] = json!(100);
    }
    if let Some(errors) = outlier.consecutive_local_errors {
        detection["split_external_local_origin_errors"] = json!(true);
        detection["consecutive_local_origin_failure"] = json!(errors);
    }
    if let Some(share) = &outlier.failure_percentage {
        detection["failure_percentage_threshold"] = json!(share.threshold);
        detection["failure_percentage_request_volume"] =
            json!(share.minimum_requests.unwrap_or(50));
        detection["failure_percentage_minimum_hosts"] = json!(share.minimum_endpoints.unwrap_or(5));
        detection["enforcing_failure_percentage"] = json!(100);
        if outlier.consecutive_local_errors.is_some() {
            detection["enforcing_failure_percentage_local_origin"] = json!(100);
        }
    }
}

/// How the endpoints of a port are asked, each port in what it speaks.
fn health_check(health: &HealthCheck, service: &Service, port: &ServicePort) -> Json {
    let second = Duration::from_secs(1);
    let interval = health.interval.unwrap_or(10 * second);
    let mut check = json!({
        "interval": duration(interval),
        "no_traffic_interval": duration(interval),
        "timeout": duration(health.timeout.unwrap_or(second)),
        "healthy_threshold": health.healthy_threshold.unwrap_or(2),
        "unhealthy_threshold": health.unhealthy_threshold.unwrap_or(3),
    });
    let host = format!("{}.{}", service.key.name, service.key.namespace);
    match (port.protocol, &health.path, &health.grpc_service) {
        (Protocol::Http1 | Protocol::Http2, Some(path), _) => {
            let codec = match port.protocol {
                Protocol::Http2 => "HTTP2",
                _ => "HTTP1",
            };
            let statuses: Vec<_> = health
                .statuses
                .iter()
                .map(|status| json!({"start": status, "end": status + 1}))
                .collect();
            check["http_health_check"] = json!({
                "path": path,
                "host": health.host.as_ref().unwrap_or(&host),
                "codec_client_type": codec,
                "expected_statuses": statuses,
            });
        }
        (Protocol::Http2, None, Some(name)) => {
            check["grpc_health_check"] = json!({"service_name": name, "authority": host});
        }
        _ => check["tcp_health_check"] = json!({}),
    }
    check
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

#[cfg(test)]
mod tests {
    use super::super::tests::{NoSecrets, json, role, translator};
    use super::*;

    /// Each port is asked in what it speaks.
    #[test]
    fn endpoints_are_asked_by_the_protocol_of_their_port() {
        let text = |health: &str| {
            format!(
                "
apiVersion: v1
kind: Service
metadata: {{name: a}}
spec: {{clusterIP: 127.9.9.9, ports: [{{name: http, port: 1}}, {{name: grpc, port: 2}}, {{name: tcp, port: 3}}]}}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {{name: w}}
spec: {{address: 127.0.0.1, calls: [{{service: a, port: 1}}, {{service: a, port: 2}}, {{service: a, port: 3}}]}}
---
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: a}}
spec: {{service: {{name: a}}, healthCheck: {{{health}}}, outlierDetection: {{consecutiveLocalErrors: 2, failurePercentage: {{threshold: 40}}}}}}
"
            )
        };
        let checks = |health: &str| {
            let snapshot =
                translator(&text(health)).snapshot(&role("sidecar/default/w"), &NoSecrets);
            ["1", "2", "3"].map(|port| {
                let resource = &snapshot.of(ResourceType::Cluster)[&*format!("default/a/{port}")];
                let violations = outrigger_proto::validate::check(
                    ResourceType::Cluster.message(),
                    &resource.body.value,
                );
                assert!(violations.is_empty(), "{violations:?}");
                json(resource, ResourceType::Cluster)
            })
        };
        let [http, grpc, tcp] = checks("path: /healthz, statuses: [204]");
        let first = |cluster: &Json| cluster["health_checks"][0].clone();
        assert_eq!(first(&http)["http_health_check"]["path"], "/healthz");
        assert_eq!(first(&http)["http_health_check"]["host"], "a.default");
        let codec = &first(&grpc)["http_health_check"]["codec_client_type"];
        assert_eq!(codec, "HTTP2");
        assert!(first(&tcp)["tcp_health_check"].is_object());
        let [http, grpc, _] = checks("grpcService: shop, interval: 3s");
        assert!(first(&http)["tcp_health_check"].is_object());
        assert_eq!(first(&grpc)["grpc_health_check"]["service_name"], "shop");
        assert_eq!(first(&grpc)["no_traffic_interval"], "3s");
        let outliers = &grpc["outlier_detection"];
        assert_eq!(outliers["split_external_local_origin_errors"], true);
        assert_eq!(outliers["failure_percentage_threshold"], 40);
        assert_eq!(outliers["enforcing_failure_percentage"], 100);
    }
}
