//! Secrets, and the TLS contexts that name them.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{ads, resource, typed};
use crate::cache::{ResourceType, Snapshot};
use crate::model::Key;
use crate::world::TlsSecret;

/// The name of a proxy's own certificate.
pub(super) const OWN: &str = "default";
/// The name of the roots that the mesh trusts.
pub(super) const ROOTS: &str = "ROOTCA";

/// Where certificates come from.
pub trait Secrets {
    /// The present certificate, with its chain, and key of an identity, in PEM.
    fn svid(&self, identity: &str) -> Option<Arc<TlsSecret>>;
    /// The roots that the mesh trusts, in PEM.
    fn roots(&self) -> Arc<str>;
}

/// Adds what a proxy of this identity may have: its own certificate and the roots, and nothing else.
pub(super) fn own(snapshot: &mut Snapshot, identity: &str, secrets: &dyn Secrets) {
    if let Some(svid) = secrets.svid(identity) {
        snapshot.insert(ResourceType::Secret, Arc::new(certificate(OWN, &svid)));
    }
    let roots = json!({
        "name": ROOTS,
        "validation_context": {"trusted_ca": {"inline_string": &*secrets.roots()}},
    });
    snapshot.insert(
        ResourceType::Secret,
        Arc::new(resource(ResourceType::Secret, ROOTS, &roots)),
    );
}

/// A certificate and its key.
pub(super) fn certificate(name: &str, secret: &TlsSecret) -> crate::cache::Resource {
    let json = json!({
        "name": name,
        "tls_certificate": {
            "certificate_chain": {"inline_string": secret.certificate},
            "private_key": {"inline_string": secret.key},
        },
    });
    resource(ResourceType::Secret, name, &json)
}

/// The name of a `Secret` of the input.
pub(super) fn name_of(key: &Key) -> String {
    format!("kubernetes://{key}")
}

/// mTLS to endpoints with any of these identities.
pub(super) fn upstream_tls(service: &Key, identities: &[&str]) -> Json {
    let names: Vec<_> = identities
        .iter()
        .map(|identity| json!({"san_type": "URI", "matcher": {"exact": identity}}))
        .collect();
    let context = json!({
        "sni": format!("{}.{}", service.name, service.namespace),
        "common_tls_context": mesh_context(&names),
    });
    socket("UpstreamTlsContext", context)
}

/// mTLS from anyone of the mesh.
pub(super) fn downstream_mtls(trust_domain: &str, alpn: &[&str]) -> Json {
    let prefix = format!("spiffe://{trust_domain}/");
    let names = [json!({"san_type": "URI", "matcher": {"prefix": prefix}})];
    let mut context = json!({
        "require_client_certificate": true,
        "common_tls_context": mesh_context(&names),
    });
    context["common_tls_context"]["alpn_protocols"] = json!(alpn);
    socket("DownstreamTlsContext", context)
}

/// TLS with certificates of the input.
pub(super) fn downstream_tls(secrets: &[Key], alpn: &[&str]) -> Json {
    let configs: Vec<_> = secrets
        .iter()
        .map(|key| json!({"name": name_of(key), "sds_config": ads()}))
        .collect();
    let context = json!({
        "common_tls_context": {
            "alpn_protocols": alpn,
            "tls_certificate_sds_secret_configs": configs,
        },
    });
    socket("DownstreamTlsContext", context)
}

/// The provider of certificates in the bootstrap of gRPC.
pub(crate) const PROVIDER: &str = "default";

/// The same as [`upstream_tls`] for gRPC.
pub(super) fn grpc_upstream(identities: &[&str]) -> Json {
    let names: Vec<_> = identities
        .iter()
        .flat_map(|identity| {
            // Node shows the name with its kind.
            [
                json!({"exact": identity}),
                json!({"exact": format!("URI:{identity}")}),
            ]
        })
        .collect();
    let mut context = grpc_context();
    context["common_tls_context"]["validation_context"]["match_subject_alt_names"] = json!(names);
    socket("UpstreamTlsContext", context)
}

/// The same as [`downstream_mtls`] for gRPC, which trusts nobody but the roots of the mesh.
pub(super) fn grpc_downstream() -> Json {
    let mut context = grpc_context();
    context["require_client_certificate"] = json!(true);
    socket("DownstreamTlsContext", context)
}

fn grpc_context() -> Json {
    let instance = json!({"instance_name": PROVIDER});
    json!({
        "common_tls_context": {
            "tls_certificate_provider_instance": instance,
            "validation_context": {"ca_certificate_provider_instance": instance},
        },
    })
}

fn mesh_context(names: &[Json]) -> Json {
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [{"name": OWN, "sds_config": ads()}],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": names},
            "validation_context_sds_secret_config": {"name": ROOTS, "sds_config": ads()},
        },
    })
}

pub(super) fn socket(message: &str, context: Json) -> Json {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed(&format!("envoy.extensions.transport_sockets.tls.v3.{message}"), context),
    })
}
