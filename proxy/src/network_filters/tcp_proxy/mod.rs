//! `envoy.filters.network.tcp_proxy`: connects each connection to one of an upstream cluster.
//! Type URLs: `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/network_filters/tcp_proxy_filter>
//! Stats: `tcp.<stat_prefix>.*`. Filter state: `envoy.tcp_proxy.cluster` names the cluster in place of the configured one;
//! `envoy.tcp_proxy.propagate_response_headers` and `…_trailers` hold what the answer to a tunnel said.
//! Deviations: `metadata_match`, `on_demand`, `proxy_protocol_tlvs` and idle timeouts of single sides are refused.
//! While the upstream connection is being made, the end of the client is not noticed, as in Envoy.
//!
//! The first mebibyte of a direction is copied, and what follows is spliced: 43 µs of CPU per MiB where Envoy takes 95, and
//! nothing more for a short connection (docs/benchmarks.md, "Splice or copy").

mod config;
mod copy;
mod hash_policy;
mod session;
mod tunnel;

use std::rc::Rc;
use std::sync::Arc;

use self::config::Config;
use super::{
    Connection, NetworkFilterConfig, NetworkFilterFactory, TerminalConfig, TerminalFilter,
};
use crate::LocalBoxFuture;
use crate::access_loggers::AccessLogs;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::explain::Verdict;
use crate::http::RequestHead;
use crate::server::{FactoryContext, Worker};
use crate::stats_group;
use crate::stream_info::ConnectionInfo;

/// Makes the filter.
pub struct Factory;

impl NetworkFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.network.tcp_proxy"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<NetworkFilterConfig, Rejected> {
        let config = Config::from_proto(config.decode(path)?, cx, path)?;
        Ok(NetworkFilterConfig::Terminal(Arc::new(Shared(Arc::new(
            config,
        )))))
    }
}

stats_group! {
    /// `tcp.<stat_prefix>.`
    pub struct Stats {
        counter downstream_cx_drain_close;
        counter downstream_cx_no_route;
        counter downstream_cx_overload_close;
        gauge downstream_cx_rx_bytes_buffered;
        counter downstream_cx_rx_bytes_total;
        counter downstream_cx_total;
        gauge downstream_cx_tx_bytes_buffered;
        counter downstream_cx_tx_bytes_total;
        counter downstream_flow_control_paused_reading_total;
        counter downstream_flow_control_resumed_reading_total;
        counter early_data_received_count_total;
        counter idle_timeout;
        counter max_downstream_connection_duration;
        counter route_delayed_total;
        gauge upstream_flush_active;
        counter upstream_flush_total;
    }
}

struct Shared(Arc<Config>);

impl TerminalConfig for Shared {
    fn on_worker(self: Arc<Self>, worker: &Rc<Worker>) -> Rc<dyn TerminalFilter> {
        Rc::new(TcpProxy {
            config: self.0.clone(),
            logs: AccessLogs::on_worker(&self.0.access_logs, worker),
        })
    }

    fn judge(
        self: Arc<Self>,
        worker: &Rc<Worker>,
        _connection: &Rc<ConnectionInfo>,
        _head: RequestHead,
    ) -> Verdict {
        let names = &worker.server.cluster_names;
        let weights = self.0.route.weights().into_iter();
        let named =
            weights.map(|(id, weight)| (names.name(id).unwrap_or_default().to_string(), weight));
        Verdict::Tcp(named.collect())
    }
}

/// The filter on one worker.
struct TcpProxy {
    config: Arc<Config>,
    logs: AccessLogs,
}

impl TerminalFilter for TcpProxy {
    fn serve(self: Rc<Self>, connection: Connection) -> LocalBoxFuture<'static, ()> {
        Box::pin(session::serve(self, connection))
    }
}
