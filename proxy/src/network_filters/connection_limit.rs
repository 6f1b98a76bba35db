//! `envoy.filters.network.connection_limit`: closes connections beyond a number.
//! Type URLs: `envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/network_filters/connection_limit_filter>
//! Stats: `connection_limit.<stat_prefix>.{active_connections,limited_connections}`.
//! Termination details: `over_connection_limit`.
//! Deviations: none.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use outrigger_proto::pb::envoy::extensions::filters::network::connection_limit::v3 as pb;

use super::{
    FilterConfig, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory, NetworkStatus,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::runtime::RuntimeFlag;
use crate::server::{FactoryContext, Worker};
use crate::stats_group;
use crate::stream_info::ConnectionInfo;

/// Makes the filter.
pub struct Factory;

impl NetworkFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.network.connection_limit"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<NetworkFilterConfig, Rejected> {
        let config = Config::from_proto(config.decode(path)?, cx, path)?;
        Ok(NetworkFilterConfig::Filter(Arc::new(Shared(Arc::new(
            config,
        )))))
    }
}

stats_group! {
    /// Connections and those that were too many.
    pub struct Stats {
        gauge active_connections;
        counter limited_connections;
    }
}

struct Config {
    max_connections: u64,
    /// How long a connection that is too many stays open. Default: not at all.
    delay: Option<Duration>,
    enabled: RuntimeFlag,
    /// Of all workers, those to be closed included.
    connections: AtomicU64,
    stats: Stats,
}

struct Shared(Arc<Config>);

impl Config {
    fn from_proto(
        proto: pb::ConnectionLimit,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::ConnectionLimit {
            stat_prefix,
            max_connections,
            delay,
            runtime_enabled,
        } = proto;
        let prefix = path.non_empty("stat_prefix", stat_prefix);
        let max = path
            .required("max_connections", max_connections)
            .and_then(|max| path.in_range("max_connections", max.value, 1..=u64::MAX));
        let delay = path.duration("delay", delay);
        let enabled = path.optional("runtime_enabled", runtime_enabled, |flag, path| {
            RuntimeFlag::from_proto(flag, &cx.server.runtime, path)
        });
        Ok(Self {
            max_connections: max?,
            delay: delay?.filter(|delay| !delay.is_zero()),
            enabled: enabled?.unwrap_or_else(|| cx.server.runtime.flag("", true)),
            connections: AtomicU64::new(0),
            stats: Stats::new(
                &cx.server
                    .stats
                    .scope(&format!("connection_limit.{}.", prefix?)),
            ),
        })
    }
}

impl FilterConfig for Shared {
    fn new_connection(&self, _: &Rc<Worker>) -> Box<dyn NetworkFilter> {
        Box::new(ConnectionLimit {
            config: self.0.clone(),
            counted: false,
        })
    }
}

struct ConnectionLimit {
    config: Arc<Config>,
    counted: bool,
}

impl NetworkFilter for ConnectionLimit {
    fn on_new_connection(&mut self, _: &ConnectionInfo) -> NetworkStatus {
        let config = &*self.config;
        if !config.enabled.get() {
            return NetworkStatus::Continue;
        }
        self.counted = true;
        config.stats.active_connections().inc();
        // Those beyond the limit are counted as well, until they are closed.
        if config.connections.fetch_add(1, Relaxed) < config.max_connections {
            return NetworkStatus::Continue;
        }
        config.stats.limited_connections().inc();
        match config.delay {
            Some(delay) => NetworkStatus::Wait(Box::pin(tokio::time::sleep(delay))),
            None => NetworkStatus::Close(OVER_LIMIT),
        }
    }

    fn resume(&mut self, _: &ConnectionInfo) -> NetworkStatus {
        NetworkStatus::Close(OVER_LIMIT)
    }
}

impl Drop for ConnectionLimit {
    fn drop(&mut self) {
        if self.counted {
            self.config.connections.fetch_sub(1, Relaxed);
            self.config.stats.active_connections().dec();
        }
    }
}

const OVER_LIMIT: &str = "over_connection_limit";

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::google::protobuf::UInt64Value;
    use tokio::time::Instant;

    use super::*;
    use crate::config::ConfigReport;
    use crate::net::Address;
    use crate::server::InitManager;
    use crate::server::{LocalInfo, ServerContext};
    use crate::upstream::WorkerClusters;

    fn filter(limit: u64, delay: Option<Duration>) -> (Shared, Rc<Worker>) {
        let server = Arc::new(ServerContext::new(0, LocalInfo::default()));
        let scope = server.stats.scope("");
        let report = ConfigReport::new();
        let cx = FactoryContext {
            server: &server,
            scope: &scope,
            init: &InitManager::new("test"),
        };
        let proto = pb::ConnectionLimit {
            stat_prefix: "x".into(),
            max_connections: Some(UInt64Value { value: limit }),
            ..Default::default()
        };
        let mut config =
            Config::from_proto(proto, &cx, &ConfigPath::root(&report, "filter")).unwrap();
        config.delay = delay;
        let worker = Worker::new(0, server.clone(), WorkerClusters::default(), 1);
        (Shared(Arc::new(config)), worker)
    }

    fn info() -> ConnectionInfo {
        let address = Address::Pipe("a".into());
        ConnectionInfo::between(address.clone(), address)
    }

    #[test]
    fn a_connection_beyond_the_limit_is_closed_and_makes_room_again() {
        let (config, worker) = filter(1, None);
        let mut first = config.new_connection(&worker);
        let mut second = config.new_connection(&worker);
        assert!(matches!(
            first.on_new_connection(&info()),
            NetworkStatus::Continue
        ));
        assert!(matches!(
            second.on_new_connection(&info()),
            NetworkStatus::Close("over_connection_limit")
        ));
        assert_eq!(config.0.stats.active_connections().value(), 2);
        drop((first, second));
        assert_eq!(config.0.stats.active_connections().value(), 0);
        assert_eq!(config.0.stats.limited_connections().value(), 1);
        let mut third = config.new_connection(&worker);
        assert!(matches!(
            third.on_new_connection(&info()),
            NetworkStatus::Continue
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_delay_the_connection_is_closed_later() {
        let (config, worker) = filter(1, Some(Duration::from_secs(2)));
        let mut first = config.new_connection(&worker);
        assert!(matches!(
            first.on_new_connection(&info()),
            NetworkStatus::Continue
        ));
        let mut filter = config.new_connection(&worker);
        let began = Instant::now();
        let NetworkStatus::Wait(waiting) = filter.on_new_connection(&info()) else {
            panic!("it does not wait");
        };
        waiting.await;
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        assert!(matches!(filter.resume(&info()), NetworkStatus::Close(_)));
    }
}
