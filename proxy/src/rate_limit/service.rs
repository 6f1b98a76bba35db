//! A gRPC service that counts for many proxies: `envoy.service.ratelimit.v3.RateLimitService`.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/ratelimit/v3/rls.proto>

use std::future::Future;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3::ApiVersion;
use outrigger_proto::pb::envoy::config::ratelimit::v3 as config;
use outrigger_proto::pb::envoy::extensions::common::ratelimit::v3 as common;
use outrigger_proto::pb::envoy::service::ratelimit::v3 as pb;
use outrigger_proto::pb::google::protobuf as wkt;
use outrigger_proto::rate_limit::RateLimitResponse;

use crate::config::{ConfigPath, Rejected};
use crate::formatter::FormatData;
use crate::route::Descriptor;
use crate::server::FactoryContext;
use crate::upstream::async_client::{AsyncClient, GrpcError, GrpcService};

/// Where the service is, and how long it may take.
#[derive(Debug)]
pub struct RateLimitService {
    grpc: GrpcService,
    /// None: as long as it likes.
    timeout: Option<Duration>,
}

/// How long an answer may take unless the configuration says so.
const TIMEOUT: Duration = Duration::from_millis(20);
const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// An answer may have this many bytes unless the configuration says so.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

impl RateLimitService {
    /// Converts `rate_limit_service` and `timeout` of a filter, whose path is `path`.
    pub fn from_proto(
        proto: Option<config::RateLimitServiceConfig>,
        timeout: Option<wkt::Duration>,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let timeout = path.duration("timeout", timeout);
        let config::RateLimitServiceConfig {
            grpc_service,
            transport_api_version,
        } = path.required("rate_limit_service", proto)?;
        let path = path.field("rate_limit_service");
        // Harmless: there is one version, whatever is asked for.
        let version =
            path.enumeration::<ApiVersion>("transport_api_version", transport_api_version);
        let grpc = path
            .required("grpc_service", grpc_service)
            .and_then(|grpc| GrpcService::of_calls(grpc, cx.server, &path.field("grpc_service")));
        version?;
        let grpc = grpc?;
        let timeout = Some(timeout?.unwrap_or(TIMEOUT)).filter(|timeout| !timeout.is_zero());
        Ok(Self { grpc, timeout })
    }

    /// Asks whether a request may pass; `data` is of its stream. Dropping the future breaks the call off.
    pub fn ask(
        &self,
        client: &AsyncClient,
        request: &pb::RateLimitRequest,
        data: &FormatData<'_>,
    ) -> impl Future<Output = Result<RateLimitResponse, GrpcError>> + use<> {
        self.grpc
            .call(client, METHOD, request, data, self.timeout, MAX_ANSWER)
    }
}

/// A descriptor as the service is told it.
pub fn to_proto(descriptor: &Descriptor<'_>) -> common::RateLimitDescriptor {
    let Descriptor {
        entries,
        limit,
        hits_addend,
        is_negative_hits,
        // Of the answer to the client.
        x_ratelimit: _,
    } = descriptor;
    let entries = entries.iter().map(|(key, value)| {
        let (key, value) = (key.to_string(), value.to_string());
        common::rate_limit_descriptor::Entry { key, value }
    });
    common::RateLimitDescriptor {
        entries: entries.collect(),
        limit: limit.map(|(requests_per_unit, unit)| {
            common::rate_limit_descriptor::RateLimitOverride {
                requests_per_unit,
                unit: unit.into(),
            }
        }),
        hits_addend: hits_addend.map(|value| wkt::UInt64Value { value }),
        is_negative_hits: *is_negative_hits,
    }
}
