//! Authorizers as the filter `ext_authz` has them.

use serde_json::{Value as Json, json};

use super::{EXTENSIONS, JWT};
use crate::translate::{cluster_name, duration, typed};
use crate::world::ExtAuthz;

pub(super) fn per_route(authorizer: &ExtAuthz) -> Json {
    let message = format!("{EXTENSIONS}.ext_authz.v3.ExtAuthzPerRoute");
    let settings = json!({"context_extensions": authorizer.spec.context});
    typed(&message, json!({"check_settings": settings}))
}

pub(super) fn filter(authorizer: &ExtAuthz) -> Json {
    let spec = &authorizer.spec;
    let (key, port) = &authorizer.target;
    let cluster = cluster_name(key, *port);
    let timeout = spec.timeout.map_or(json!("0.2s"), duration);
    let mut config = json!({
        "transport_api_version": "V3",
        "failure_mode_allow": spec.fail_open,
    });
    let patterns = |headers: &[String]| {
        let patterns: Vec<_> = headers
            .iter()
            .map(|header| json!({"exact": header, "ignore_case": true}))
            .collect();
        json!({"patterns": patterns})
    };
    if let Some(http) = &spec.http {
        let mut service = json!({
            "server_uri": {"uri": format!("http://{}", key.name), "cluster": cluster, "timeout": timeout},
        });
        if let Some(path) = &http.path {
            service["path_prefix"] = json!(path);
        }
        let mut response = json!({});
        if !http.accept_headers.is_empty() {
            response["allowed_upstream_headers"] = patterns(&http.accept_headers);
        }
        if !http.client_headers.is_empty() {
            response["allowed_client_headers"] = patterns(&http.client_headers);
        }
        service["authorization_response"] = response;
        config["http_service"] = service;
    } else {
        // The cluster's name would be no host to servers that look at it.
        let authority = format!("{}.{}", key.name, key.namespace);
        config["grpc_service"] = json!({
            "envoy_grpc": {"cluster_name": cluster, "authority": authority},
            "timeout": timeout,
        });
        config["metadata_context_namespaces"] = json!([JWT]);
    }
    if !spec.send_headers.is_empty() {
        config["allowed_headers"] = patterns(&spec.send_headers);
    }
    if let Some(bytes) = spec.body_bytes {
        config["with_request_body"] =
            json!({"max_request_bytes": bytes, "allow_partial_message": true});
    }
    config
}
