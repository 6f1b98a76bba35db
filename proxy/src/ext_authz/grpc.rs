//! An authorizer that is asked by gRPC.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};

use crate::config::{ConfigPath, Rejected};
use crate::formatter::FormatData;
use crate::server::ServerContext;
use crate::upstream::async_client::{AsyncClient, GrpcError, GrpcService};

/// The service `envoy.service.auth.v3.Authorization` behind a cluster.
#[derive(Debug)]
pub struct GrpcAuthorizer {
    service: GrpcService,
    /// None: it may take for ever.
    timeout: Option<Duration>,
}

impl GrpcAuthorizer {
    /// Converts a `GrpcService`. Without `timeout`, an answer may take 200 ms.
    pub fn from_proto(
        proto: core::GrpcService,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let default = proto.timeout.is_none().then_some(DEFAULT_TIMEOUT);
        let service = GrpcService::of_calls(proto, server, path)?;
        Ok(Self {
            timeout: default.or(service.timeout),
            service,
        })
    }

    /// Asks once, or as often as the retry policy says; `data` is of the stream that is asked about.
    pub fn check(
        &self,
        client: &AsyncClient,
        request: &CheckRequest,
        data: &FormatData<'_>,
    ) -> impl Future<Output = Result<CheckResponse, GrpcError>> + use<> {
        let timeout = self.timeout;
        self.service
            .call(client, CHECK, request, data, timeout, MAX_MESSAGE_BYTES)
    }
}

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(200);
/// The most that an answer may have where the configuration does not say.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
