//! `envoy.config.core.v3.GrpcService`: where gRPC calls of the proxy's own go to.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/core/v3/grpc_service.proto>
//! Deviations: `google_grpc`, `retry_policy` but for the back-off of xDS streams, and operators in `initial_metadata` are refused.

use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as pb;
use pb::grpc_service::{EnvoyGrpc, TargetSpecifier};

use crate::config::{ConfigPath, Rejected};
use crate::http::Fields;
use crate::server::ServerContext;
use crate::upstream::ClusterId;

/// A gRPC service behind a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcService {
    /// The cluster; it need not exist yet.
    pub cluster: ClusterId,
    /// `:authority` of its requests: that of the configuration, or the name of the cluster.
    pub authority: Box<str>,
    /// How long one call may take. Default: no limit.
    pub timeout: Option<Duration>,
    /// `initial_metadata`: fields that each call has.
    pub initial_metadata: Vec<(Box<str>, Box<[u8]>)>,
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
        let (service, retries) = Self::with_retries(proto, server, path)?;
        let path = path.field("envoy_grpc");
        path.unsupported_if_set("retry_policy", retries)?;
        Ok(service)
    }

    /// Converts a `GrpcService` of streams that are begun again when they end. `envoy_grpc.retry_policy` is for the caller, who
    /// has the waits of it.
    pub fn with_retries(
        proto: pb::GrpcService,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<(Self, Option<pb::RetryPolicy>), Rejected> {
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
                return Err(path.field("google_grpc").reject(
                    "is not supported: name a cluster in envoy_grpc, which says the same",
                ));
            }
        };
        let path = path.field("envoy_grpc");
        let EnvoyGrpc {
            cluster_name,
            authority,
            retry_policy,
            max_receive_message_length,
            // Harmless: nothing of Envoy's own is added to these calls but the usual headers.
            skip_envoy_headers: _,
        } = target;
        let cluster = path.non_empty("cluster_name", cluster_name);
        retries?;
        let cluster = cluster?;
        let service = Self {
            cluster: server.cluster_names.id(&cluster),
            authority: match authority.is_empty() {
                true => cluster.into(),
                false => authority.into(),
            },
            timeout: timeout?.filter(|timeout| !timeout.is_zero()),
            initial_metadata: metadata?,
            max_receive_message_length: max_receive_message_length.map(|value| value.value),
        };
        Ok((service, retry_policy))
    }

    /// `initial_metadata`, for a call.
    pub fn metadata(&self) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in &self.initial_metadata {
            fields.append_wire(name.as_bytes(), value);
        }
        fields
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
