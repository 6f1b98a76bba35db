//! `envoy.config.core.v3.GrpcService`: where gRPC calls of the proxy's own go to.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/core/v3/grpc_service.proto>
//! Deviations: `google_grpc`, `retry_policy`, `skip_envoy_headers` and operators in `initial_metadata` are refused.

use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as pb;
use pb::grpc_service::{EnvoyGrpc, TargetSpecifier};

use crate::config::{ConfigPath, Rejected};
use crate::http::Fields;
use crate::server::ServerContext;
use crate::upstream::ClusterId;

/// A gRPC service behind a cluster.
#[derive(Debug, Clone)]
pub struct GrpcService {
    /// The cluster; it need not exist yet.
    pub cluster: ClusterId,
    /// `:authority` of its requests: that of the configuration, or the name of the cluster.
    pub authority: Box<str>,
    /// How long one call may take. Default: no limit.
    pub timeout: Option<Duration>,
    /// `initial_metadata`: fields that each call has.
    pub initial_metadata: Fields,
    /// The most bytes of a message that is received. Default: no limit of its own.
    pub max_receive_message_length: Option<u32>,
}

impl GrpcService {
    /// Converts a `GrpcService`.
    pub fn from_proto(
        proto: pb::GrpcService,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::GrpcService {
            timeout,
            initial_metadata,
            retry_policy,
            target_specifier,
        } = proto;
        let retries = path.unsupported_if_set("retry_policy", retry_policy);
        let timeout = path.duration("timeout", timeout);
        let metadata = path.each("initial_metadata", initial_metadata, initial_field);
        let target = match path.required("target_specifier", target_specifier)? {
            TargetSpecifier::EnvoyGrpc(target) => target,
            TargetSpecifier::GoogleGrpc(_) => {
                return Err(path
                    .field("google_grpc")
                    .reject("is not supported; envoy_grpc is"));
            }
        };
        let path = path.field("envoy_grpc");
        let EnvoyGrpc {
            cluster_name,
            authority,
            retry_policy,
            max_receive_message_length,
            skip_envoy_headers,
        } = target;
        let call_retries = path.unsupported_if_set("retry_policy", retry_policy);
        let headers = path.unsupported_if_set("skip_envoy_headers", skip_envoy_headers);
        let cluster = path.non_empty("cluster_name", cluster_name);
        retries?;
        call_retries?;
        headers?;
        let cluster = cluster?;
        let metadata: Vec<(Box<str>, Box<[u8]>)> = metadata?;
        let mut fields = Fields::new();
        for (name, value) in &metadata {
            fields.append_wire(name.as_bytes(), value);
        }
        Ok(Self {
            cluster: server.cluster_names.id(&cluster),
            authority: match authority.is_empty() {
                true => cluster.into(),
                false => authority.into(),
            },
            timeout: timeout?.filter(|timeout| !timeout.is_zero()),
            initial_metadata: fields,
            max_receive_message_length: max_receive_message_length.map(|value| value.value),
        })
    }
}

fn initial_field(
    proto: pb::HeaderValue,
    path: &ConfigPath<'_>,
) -> Result<(Box<str>, Box<[u8]>), Rejected> {
    let pb::HeaderValue {
        key,
        value,
        raw_value,
    } = proto;
    let key = path.non_empty("key", key)?;
    if value.contains('%') {
        return Err(path
            .field("value")
            .reject("operators are not supported here"));
    }
    let value = match value.is_empty() {
        true => raw_value.into(),
        false => value.into_bytes().into(),
    };
    Ok((key.to_ascii_lowercase().into(), value))
}
