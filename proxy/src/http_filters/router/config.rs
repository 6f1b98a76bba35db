//! The router's own configuration.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::http::router::v3 as pb;

use super::upstream_filters::ClusterChains;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::HeaderName;
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
    pub strict_check_headers: Vec<HeaderName>,
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
        const CHECKED: [&str; 5] = [
            "x-envoy-upstream-rq-timeout-ms",
            "x-envoy-upstream-rq-per-try-timeout-ms",
            "x-envoy-max-retries",
            "x-envoy-retry-grpc-on",
            "x-envoy-retry-on",
        ];
        let pb::Router {
            dynamic_stats,
            // Spans need a tracer, and `tracing` is refused.
            start_child_span: _,
            upstream_log,
            upstream_log_options,
            suppress_envoy_headers,
            strict_check_headers,
            respect_expected_rq_timeout,
            // Without a tracer and with dynamic stats there is nothing that it would change but a counter of gRPC failures.
            suppress_grpc_request_failure_code_stats: _,
            upstream_http_filters,
            reject_connect_request_early_data: _,
        } = config.decode(path)?;
        let log = path.unsupported_if_set("upstream_log", upstream_log);
        let log_options = path.unsupported_if_set("upstream_log_options", upstream_log_options);
        let strict = path.each(
            "strict_check_headers",
            strict_check_headers,
            |name, path| {
                if CHECKED.contains(&name.to_ascii_lowercase().as_str()) {
                    Ok(HeaderName::new(name))
                } else {
                    Err(path.reject(format!("{name:?} is not one of {}", CHECKED.join(", "))))
                }
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
            client: AsyncClient::new(worker.clone()),
            config,
            stats,
        }
    }
}
