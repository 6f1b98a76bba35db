//! TLS of the process behind a service, as a `BackendTLSPolicy` asks for it.

use serde_json::{Value as Json, json};

use super::secret::socket as tls_socket;
use super::{ads, resource};
use crate::cache::{Resource, ResourceType};
use crate::world::{BackendTls, Protocol, ServicePort, SubjectAltName, Validation};

/// The roots by which the process's certificate is checked.
pub(super) fn roots(port: &ServicePort) -> Option<Resource> {
    let validation = validation(port)?;
    let json = json!({
        "name": validation.roots_name,
        "validation_context": {"trusted_ca": {"inline_string": &*validation.roots}},
    });
    Some(resource(
        ResourceType::Secret,
        &validation.roots_name,
        &json,
    ))
}

/// The transport socket towards the process.
pub(super) fn socket(port: &ServicePort) -> Option<Json> {
    let validation = validation(port)?;
    let names: Vec<_> = validation
        .names
        .iter()
        .map(|name| match name {
            SubjectAltName::Hostname(name) => {
                json!({"san_type": "DNS", "matcher": {"exact": name}})
            }
            SubjectAltName::Uri(uri) => json!({"san_type": "URI", "matcher": {"exact": uri}}),
        })
        .collect();
    let mut common = json!({
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": names},
            "validation_context_sds_secret_config": {
                "name": validation.roots_name,
                "sds_config": ads(),
            },
        },
    });
    match port.protocol {
        Protocol::Http1 => common["alpn_protocols"] = json!(["http/1.1"]),
        Protocol::Http2 => common["alpn_protocols"] = json!(["h2"]),
        Protocol::Tcp => {}
    }
    let context = json!({"sni": validation.hostname, "common_tls_context": common});
    Some(tls_socket("UpstreamTlsContext", context))
}

fn validation(port: &ServicePort) -> Option<&Validation> {
    match &port.tls {
        Some(BackendTls::Valid(validation)) => Some(validation),
        Some(BackendTls::Broken) | None => None,
    }
}
