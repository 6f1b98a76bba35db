//! `envoy.config.core.v3.GrpcService`: where gRPC calls of the proxy's own go to.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/core/v3/grpc_service.proto>
//! Deviations: `google_grpc` is refused, and so is `retry_policy` where streams are opened. A `retry_policy` whose longest wait
//! is shorter than its first is refused. A name or an operator in `initial_metadata` with which Envoy ends itself is refused.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as pb;
use pb::grpc_service::{EnvoyGrpc, TargetSpecifier};
use prost::Message;

use super::{AsyncClient, GrpcError, RequestOptions};
use crate::config::{ConfigPath, Rejected};
use crate::formatter::{FormatData, Formatter};
use crate::http::Fields;
use crate::http_filters::core_retry_policy::retry_policy_or;
use crate::route::RetryPolicy;
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
    /// The most bytes of a message that is received. Default: no limit of its own.
    pub max_receive_message_length: Option<u32>,
    /// Its calls carry no fields of Envoy's own.
    skip_envoy_headers: bool,
    /// `initial_metadata`: fields that each call has.
    initial_metadata: Vec<InitialField>,
    /// Of calls; streams are not tried again.
    retries: Option<Arc<Retries>>,
}

#[derive(Debug, Clone)]
struct InitialField {
    name: Box<str>,
    value: Box<[u8]>,
    /// None: there is no operator in the value.
    format: Option<Arc<Formatter>>,
}

impl PartialEq for InitialField {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.value) == (&other.name, &other.value)
    }
}

#[derive(Debug, Clone)]
struct Retries {
    /// What the policy was made of, by which it is known again.
    proto: pb::RetryPolicy,
    policy: Arc<RetryPolicy>,
}

impl PartialEq for Retries {
    fn eq(&self, other: &Self) -> bool {
        self.proto == other.proto
    }
}

impl GrpcService {
    /// Converts a `GrpcService` that streams are opened to. As in Envoy, the waits in `envoy_grpc.retry_policy` are not for
    /// these.
    pub fn from_proto(
        proto: pb::GrpcService,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let (service, _) = Self::with_retries(proto, server, path)?;
        Ok(service)
    }

    /// Converts a `GrpcService` of calls, which are tried again as `retry_policy` says. As in Envoy, that of `envoy_grpc` is
    /// not for these.
    pub fn of_calls(
        mut proto: pb::GrpcService,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let retries = path.optional("retry_policy", proto.retry_policy.take(), |proto, path| {
            Ok(Retries {
                policy: Arc::new(retry_policy_or(proto.clone(), "", path)?),
                proto,
            })
        });
        let (service, _) = Self::with_retries(proto, server, path)?;
        Ok(Self {
            retries: retries?.map(Arc::new),
            ..service
        })
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
        let metadata = path.each("initial_metadata", initial_metadata, |field, path| {
            InitialField::from_proto(field, server, path)
        });
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
            skip_envoy_headers,
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
            skip_envoy_headers,
            retries: None,
        };
        Ok((service, retry_policy))
    }

    /// `initial_metadata`, for a call on behalf of a stream. Without one operators stay as they are written, as in Envoy.
    pub fn metadata(&self, data: Option<&FormatData<'_>>) -> Fields {
        let mut fields = Fields::new();
        for field in &self.initial_metadata {
            match (&field.format, data) {
                (Some(format), Some(data)) => {
                    let mut value = Vec::new();
                    format.render(data, &mut value);
                    if !value.is_empty() {
                        fields.append_wire(field.name.as_bytes(), &value);
                    }
                }
                _ if field.value.is_empty() => {}
                _ => fields.append_wire(field.name.as_bytes(), &field.value),
            }
        }
        fields
    }

    /// Calls `method` for a stream whose data is `data`, and tries again as the policy says. `timeout` is of all attempts
    /// together. The answer may have `most` bytes where `max_receive_message_length` does not say. Dropping the future breaks
    /// the call off.
    #[allow(
        clippy::too_many_arguments,
        reason = "a call is where, what, for whom, and its limits"
    )]
    pub fn call<M: Message, R: Message + Default>(
        &self,
        client: &AsyncClient,
        method: &str,
        message: &M,
        data: &FormatData<'_>,
        timeout: Option<Duration>,
        most: usize,
    ) -> impl Future<Output = Result<R, GrpcError>> + use<M, R> {
        let policy = self.retries.as_ref().map(|retries| &retries.policy);
        let mut metadata = self.metadata(Some(data));
        // How long one attempt may take.
        let per_try = policy.and_then(|policy| policy.per_try_timeout);
        if let Some(expected) = per_try.into_iter().chain(timeout).min() {
            let millis = expected.as_millis().to_string();
            metadata.append("x-envoy-expected-rq-timeout-ms", millis);
        }
        let options = RequestOptions {
            timeout,
            retry_policy: policy.cloned(),
            send_xff: !self.skip_envoy_headers,
            send_internal: !self.skip_envoy_headers,
            ..RequestOptions::default()
        };
        let own = self.max_receive_message_length;
        let most = own
            .and_then(|own| usize::try_from(own).ok())
            .unwrap_or(most);
        let target = (&*self.authority, method);
        client.unary(self.cluster, target, &metadata, message, options, most)
    }
}

impl InitialField {
    fn from_proto(
        proto: pb::HeaderValue,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::HeaderValue {
            key,
            value,
            // Harmless: Envoy sends nothing of it.
            raw_value: _,
        } = proto;
        let key = path.non_empty("key", key)?;
        if key.starts_with(':') || key.eq_ignore_ascii_case("host") {
            return Err(path.field("key").reject(format!(
                "\"{key}\" may not be set here: say authority in envoy_grpc"
            )));
        }
        let format = match value.contains('%') {
            false => None,
            true => {
                let path = path.field("value");
                let format = Formatter::parse_of_node(&value, &server.local_info, &path)?;
                Some(Arc::new(format))
            }
        };
        Ok(Self {
            name: key.to_ascii_lowercase().into(),
            value: value.into_bytes().into(),
            format,
        })
    }
}
