//! The router's own configuration.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::extensions::filters::http::router::v3 as pb;

use super::retry::RetryRuntime;
use super::route_codes::RouteCodes;
use super::strict::StrictHeader;
use super::upstream_filters::{ClusterChains, UpstreamChain};
use crate::access_loggers::{AccessLog, AccessLogs};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http_connection_manager::HcmStats;
use crate::http_filters::chain_config::ChainConfig;
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
    /// The access logs of attempts.
    pub upstream_logs: Vec<AccessLog>,
    /// An attempt is logged when it has found a connection, too. Default false.
    pub log_on_pool_ready: bool,
    /// How often an attempt is logged while it runs; none: not at all.
    pub upstream_log_flush_interval: Option<Duration>,
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
    pub(super) upstream_chain: UpstreamChain,
    pub(super) cluster_chains: ClusterChains,
    /// The access logs of attempts.
    pub(super) upstream_logs: AccessLogs,
    /// Responses by code of routes that have stats of their own.
    pub(super) route_codes: RouteCodes,
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
        let logs = path.each("upstream_log", upstream_log, |log, path| {
            AccessLog::from_proto(log, cx, path)
        });
        let log_options = path.optional("upstream_log_options", upstream_log_options, log_options);
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
        let (log_on_pool_ready, upstream_log_flush_interval) = log_options?.unwrap_or_default();
        let dynamic_stats = dynamic_stats.is_none_or(|on| on.value);
        Ok(Self {
            dynamic_stats,
            suppress_envoy_headers,
            respect_expected_rq_timeout,
            strict_check_headers: strict?,
            suppress_grpc_request_failure_code_stats,
            upstream_logs: logs?,
            log_on_pool_ready,
            upstream_log_flush_interval,
            upstream_http_filters: upstream?,
        })
    }
}

/// Whether an attempt is logged when it has found a connection, too, and how often while it runs.
fn log_options(
    proto: pb::router::UpstreamAccessLogOptions,
    path: &ConfigPath<'_>,
) -> Result<(bool, Option<Duration>), Rejected> {
    let pb::router::UpstreamAccessLogOptions {
        flush_upstream_log_on_upstream_stream,
        upstream_log_flush_interval,
    } = proto;
    let interval =
        path.positive_duration("upstream_log_flush_interval", upstream_log_flush_interval)?;
    Ok((flush_upstream_log_on_upstream_stream, interval))
}

impl WorkerRouter {
    /// This worker's instance, for streams routed by `table`.
    pub fn new(config: Arc<RouterConfig>, stats: HcmStats, worker: &Rc<Worker>) -> Self {
        let upstream_chain = config.upstream_http_filters.on_worker(worker, None);
        Self {
            upstream_chain: UpstreamChain::new(upstream_chain),
            cluster_chains: ClusterChains::default(),
            upstream_logs: AccessLogs::on_worker(&config.upstream_logs, worker),
            route_codes: RouteCodes::default(),
            retry: RetryRuntime::new(&worker.server.runtime),
            client: AsyncClient::new(worker.clone()),
            config,
            stats,
        }
    }
}
