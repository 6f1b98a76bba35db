//! Tokens: providers as the filter `jwt_authn` has them, and the hosts that have their keys.

use serde_json::{Value as Json, json};

use super::CLAIMS;
use crate::cache::{Resource, ResourceType};
use crate::translate::secret::socket as tls_socket;
use crate::translate::{ads, cluster_name, duration, resource};
use crate::world::{Keys, Provider};

/// The well-known roots, as they are called where a service has TLS of its own.
const SYSTEM_ROOTS: &str = "system-roots";

/// Requirements of which `any` or `all` have to be met.
pub(super) fn joined(word: &str, mut requirements: Vec<Json>) -> Json {
    match requirements.len() {
        1 => requirements.remove(0),
        _ => json!({format!("requires_{word}"): {"requirements": requirements}}),
    }
}

pub(super) fn provider(provider: &Provider) -> Json {
    let spec = &provider.spec;
    let mut json = json!({
        "forward": spec.forward,
        "payload_in_metadata": CLAIMS,
        "require_expiration": spec.require_expiration,
        "audiences": spec.audiences,
    });
    if let Some(issuer) = &spec.issuer {
        json["issuer"] = json!(issuer);
    }
    let remote = |cluster: String| {
        let uri = spec.jwks.uri.as_deref().unwrap_or_default();
        let timeout = spec.jwks.timeout.map_or(json!("5s"), duration);
        let mut remote = json!({
            "http_uri": {"uri": uri, "cluster": cluster, "timeout": timeout},
            "async_fetch": {"fast_listener": true},
        });
        if let Some(refresh) = spec.jwks.refresh {
            remote["cache_duration"] = duration(refresh);
        }
        remote
    };
    match &provider.keys {
        Keys::Inline(text) => json["local_jwks"] = json!({"inline_string": text}),
        Keys::Service(key, port) => json["remote_jwks"] = remote(cluster_name(key, *port)),
        Keys::Host { host, port, roots } => {
            json["remote_jwks"] = remote(jwks_cluster_name(host, *port, roots.is_some()));
        }
    }
    if let Some(places) = &spec.from {
        let header = |header: &crate::model::TokenHeader| json!({"name": header.name, "value_prefix": header.prefix.as_deref().unwrap_or_default()});
        let headers: Vec<_> = places.headers.iter().map(header).collect();
        json["from_headers"] = json!(headers);
        json["from_params"] = json!(places.params);
        json["from_cookies"] = json!(places.cookies);
    }
    if let Some(header) = &spec.payload_header {
        json["forward_payload_header"] = json!(header);
    }
    if let Some(skew) = spec.clock_skew {
        json["clock_skew_seconds"] = json!(skew.as_secs());
    }
    let claims: Vec<_> = spec
        .claims_to_headers
        .iter()
        .map(|(claim, header)| json!({"claim_name": claim, "header_name": header}))
        .collect();
    json["claim_to_headers"] = json!(claims);
    json
}

fn jwks_cluster_name(host: &str, port: u16, is_tls: bool) -> String {
    let scheme = if is_tls { "https" } else { "http" };
    format!("jwks/{scheme}/{host}/{port}")
}

/// A host that has key sets.
pub(super) fn jwks_cluster(host: &str, port: u16, is_tls: bool) -> Resource {
    let name = jwks_cluster_name(host, port, is_tls);
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    let mut cluster = json!({
        "name": name,
        "type": if is_address { "STATIC" } else { "STRICT_DNS" },
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
                "socket_address": {"address": host, "port_value": port},
            }}}]}],
        },
    });
    if is_tls {
        let kind = if is_address { "IP_ADDRESS" } else { "DNS" };
        let mut context = json!({"common_tls_context": {"combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [
                {"san_type": kind, "matcher": {"exact": host}},
            ]},
            "validation_context_sds_secret_config": {"name": SYSTEM_ROOTS, "sds_config": ads()},
        }}});
        if !is_address {
            context["sni"] = json!(host);
        }
        cluster["transport_socket"] = tls_socket("UpstreamTlsContext", context);
    }
    resource(ResourceType::Cluster, &name, &cluster)
}

pub(super) fn system_roots(roots: &str) -> Resource {
    let json = json!({
        "name": SYSTEM_ROOTS,
        "validation_context": {"trusted_ca": {"inline_string": roots}},
    });
    resource(ResourceType::Secret, SYSTEM_ROOTS, &json)
}
