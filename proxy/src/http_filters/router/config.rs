//! The router's own configuration.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::http::router::v3 as pb;

use super::retry::RetryRuntime;
use super::strict::StrictHeader;
use super::upstream_filters::ClusterChains;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http_connection_manager::HcmStats;
use crate::http_filters::chain_config::{ChainConfig, WorkerChain};
use crate::route::RouteTable;
use crate::server::{FactoryContext, Worker};
use crate::upstream::async_client::AsyncClient;

/// The message that a terminal filter of a chain is configured with.
pub const TYPE_NAME: &str = "envoy.extensions.filters.http.router.v3.Router";

/// `Router`.
pub struct RouterConfig {
    /// Counts and times responses in the stats of the cluster. Default true.
    pub dynamic_stats: bool,
    /// Writes no `x-envoy-*` headers of its own. Default false.
    pub suppress_envoy_headers: bool,
    /// Takes `x-envoy-expected-rq-timeout-ms` for the route's timeout. Default false.
    pub respect_expected_rq_timeout: bool,
    /// Headers that are checked for legal values before a request goes on: a bad one is answered with 400.
    pub strict_check_headers: Vec<StrictHeader>,
    /// Counts gRPC responses of clusters without their status codes. Default false.
    pub suppress_grpc_request_failure_code_stats: bool,
    /// Filters of every upstream attempt.
    pub upstream_http_filters: ChainConfig,
}

/// The router on one worker.
pub struct WorkerRouter {
    /// The configuration.
    pub config: Arc<RouterConfig>,
    /// The stats of the connection manager that it belongs to.
    pub stats: HcmStats,
    /// The filters of upstream attempts on clusters that have none of their own.
    pub upstream_chain: WorkerChain,
    pub(super) cluster_chains: ClusterChains,
    /// The runtime keys of retries.
    pub(super) retry: RetryRuntime,
    /// Sends what is mirrored.
    pub(super) client: AsyncClient,
}

impl RouterConfig {
    /// Converts the message. Every field is decided here.
    #[allow(deprecated, reason = "every field is decided, old ones too")]
    pub fn from_proto(
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::Router {
            dynamic_stats,
            // Spans need a tracer, and `tracing` is refused.
            start_child_span: _,
            upstream_log,
            upstream_log_options,
            suppress_envoy_headers,
            strict_check_headers,
            respect_expected_rq_timeout,
            suppress_grpc_request_failure_code_stats,
            upstream_http_filters,
            reject_connect_request_early_data: _,
        } = config.decode(path)?;
        let log = path.unsupported_if_set("upstream_log", upstream_log);
        let log_options = path.unsupported_if_set("upstream_log_options", upstream_log_options);
        let strict = path.each(
            "strict_check_headers",
            strict_check_headers,
            |name, path| {
                StrictHeader::find(&name).ok_or_else(|| {
                    let names = StrictHeader::ALL.map(StrictHeader::name).join(", ");
                    path.reject(format!("{name:?} is not one of {names}"))
                })
            },
        );
        let upstream = if upstream_http_filters.is_empty() {
            Ok(ChainConfig::default())
        } else {
            ChainConfig::upstream_from_proto(
                "upstream_http_filters",
                upstream_http_filters,
                cx,
                path,
            )
        };
        log?;
        log_options?;
        let dynamic_stats = dynamic_stats.is_none_or(|on| on.value);
        Ok(Self {
            dynamic_stats,
            suppress_envoy_headers,
            respect_expected_rq_timeout,
            strict_check_headers: strict?,
            suppress_grpc_request_failure_code_stats,
            upstream_http_filters: upstream?,
        })
    }
}

impl WorkerRouter {
    /// This worker's instance, for streams routed by `table`.
    pub fn new(
        config: Arc<RouterConfig>,
        stats: HcmStats,
        worker: &Rc<Worker>,
        table: &RouteTable,
    ) -> Self {
        let upstream_chain = config.upstream_http_filters.on_worker(worker, Some(table));
        Self {
            upstream_chain,
            cluster_chains: ClusterChains::default(),
            retry: RetryRuntime::new(&worker.server.runtime),
            client: AsyncClient::new(worker.clone()),
            config,
            stats,
        }
    }
}
