//! A TCP proxy as it is configured.

use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3::BackoffStrategy;
use outrigger_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3 as pb;
use pb::tcp_proxy::{
    ClusterSpecifier, TcpAccessLogOptions, WeightedCluster, weighted_cluster::ClusterWeight,
};

use super::Stats;
use super::hash_policy::HashPolicy;
use super::tunnel::TunnelingConfig;
use crate::access_loggers::AccessLog;
use crate::config::{ConfigPath, Rejected};
use crate::server::FactoryContext;
use crate::upstream::ClusterId;

/// A converted `TcpProxy`.
pub(super) struct Config {
    pub(super) route: Route,
    /// Carries the bytes in a CONNECT or POST; none: as they are.
    pub(super) tunnel: Option<TunnelingConfig>,
    /// Default 1 h; none: never.
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_duration: Option<Duration>,
    /// By which share of itself `max_duration` may be longer.
    pub(super) max_duration_jitter: f64,
    pub(super) access_logs: Vec<AccessLog>,
    pub(super) log_interval: Option<Duration>,
    pub(super) log_on_connected: bool,
    pub(super) log_on_start: bool,
    /// 1.. Default 1.
    pub(super) max_connect_attempts: u32,
    /// Time between attempts; none: no time.
    pub(super) backoff: Option<Backoff>,
    pub(super) connect_on_data: bool,
    pub(super) check_drain_close: bool,
    /// What load balancers that hash go by; none: chance.
    pub(super) hash_policy: Option<HashPolicy>,
    pub(super) stats: Stats,
}

/// Where connections go.
pub(super) enum Route {
    Cluster(ClusterId),
    /// Clusters with the sum of the weights up to each.
    Weighted(Vec<(u64, ClusterId)>),
}

/// Time between attempts: it doubles, and is drawn at random below that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    base: Duration,
    max: Duration,
}

impl Config {
    #[allow(
        clippy::too_many_lines,
        deprecated,
        reason = "a line for each of 22 fields, some old"
    )]
    pub(super) fn from_proto(
        proto: pb::TcpProxy,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::TcpProxy {
            stat_prefix,
            on_demand,
            metadata_match,
            idle_timeout,
            downstream_idle_timeout,
            upstream_idle_timeout,
            access_log,
            max_connect_attempts,
            backoff_options,
            hash_policy,
            tunneling_config,
            max_downstream_connection_duration,
            max_downstream_connection_duration_jitter_percentage,
            access_log_flush_interval,
            flush_access_log_on_connected,
            access_log_options,
            proxy_protocol_tlvs,
            // Harmless without TLVs.
            proxy_protocol_tlv_merge_policy: _,
            upstream_connect_mode,
            // Harmless: how much is read before there is an upstream is what fits into one read.
            max_early_data_bytes: _,
            check_drain_close,
            cluster_specifier,
        } = proto;
        let refused = [
            path.unsupported_if_set("on_demand", on_demand),
            path.unsupported_if_set("metadata_match", metadata_match),
            path.unsupported_if_set("downstream_idle_timeout", downstream_idle_timeout),
            path.unsupported_if_set("upstream_idle_timeout", upstream_idle_timeout),
            path.unsupported_if_set("proxy_protocol_tlvs", proxy_protocol_tlvs),
        ];
        let prefix = path.non_empty("stat_prefix", stat_prefix);
        let idle = path.duration("idle_timeout", idle_timeout);
        let max_duration = path.duration(
            "max_downstream_connection_duration",
            max_downstream_connection_duration,
        );
        let jitter = path.percent(
            "max_downstream_connection_duration_jitter_percentage",
            max_downstream_connection_duration_jitter_percentage,
        );
        let logs = path.each("access_log", access_log, |log, path| {
            AccessLog::from_proto(log, cx, path)
        });
        let options = access_log_options.unwrap_or(TcpAccessLogOptions {
            access_log_flush_interval,
            flush_access_log_on_connected,
            flush_access_log_on_start: false,
        });
        let TcpAccessLogOptions {
            access_log_flush_interval: interval,
            flush_access_log_on_connected: log_on_connected,
            flush_access_log_on_start: log_on_start,
        } = options;
        let log_interval = path.positive_duration("access_log_flush_interval", interval);
        let attempts = path.in_range(
            "max_connect_attempts",
            max_connect_attempts.map_or(1, |attempts| attempts.value),
            1..=u32::MAX,
        );
        let backoff = path.optional("backoff_options", backoff_options, Backoff::from_proto);
        let mode = path
            .enumeration::<pb::UpstreamConnectMode>("upstream_connect_mode", upstream_connect_mode);
        let connect_on_data = mode.and_then(|mode| match mode {
            pb::UpstreamConnectMode::Immediate => Ok(false),
            pb::UpstreamConnectMode::OnDownstreamData => Ok(true),
            pb::UpstreamConnectMode::OnDownstreamTlsHandshake => Err(path
                .field("upstream_connect_mode")
                .reject("ON_DOWNSTREAM_TLS_HANDSHAKE is not supported: there is no TLS")),
        });
        let tunnel = path.optional("tunneling_config", tunneling_config, |tunnel, path| {
            TunnelingConfig::from_proto(tunnel, cx, path)
        });
        let route = path
            .required("cluster_specifier", cluster_specifier)
            .and_then(|route| Route::from_proto(route, cx, path));
        let hash_policy = HashPolicy::from_proto(hash_policy, path);
        refused.into_iter().collect::<Result<Vec<()>, _>>()?;
        Ok(Self {
            hash_policy: hash_policy?,
            route: route?,
            tunnel: tunnel?,
            idle_timeout: match idle? {
                None => Some(Duration::from_secs(3600)),
                Some(Duration::ZERO) => None,
                set => set,
            },
            max_duration: max_duration?.filter(|duration| !duration.is_zero()),
            max_duration_jitter: jitter?.unwrap_or(0.0),
            access_logs: logs?,
            log_interval: log_interval?,
            log_on_connected,
            log_on_start,
            max_connect_attempts: attempts?,
            backoff: backoff?,
            connect_on_data: connect_on_data?,
            check_drain_close: check_drain_close.is_some_and(|check| check.value),
            stats: Stats::new(&cx.server.stats.scope(&format!("tcp.{}.", prefix?))),
        })
    }
}

impl Route {
    fn from_proto(
        proto: ClusterSpecifier,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        match proto {
            ClusterSpecifier::Cluster(name) => {
                let name = path.non_empty("cluster", name)?;
                Ok(Self::Cluster(cx.server.cluster_names.id(&name)))
            }
            ClusterSpecifier::WeightedClusters(WeightedCluster { clusters }) => {
                let path = path.field("weighted_clusters");
                if clusters.is_empty() {
                    return Err(path
                        .field("clusters")
                        .reject("is empty; legal is one cluster at least"));
                }
                let mut sum = 0;
                let clusters = path.each("clusters", clusters, |cluster, path| {
                    let ClusterWeight {
                        name,
                        weight,
                        metadata_match,
                    } = cluster;
                    path.unsupported_if_set("metadata_match", metadata_match)?;
                    let name = path.non_empty("name", name)?;
                    sum += u64::from(path.in_range("weight", weight, 1..=u32::MAX)?);
                    Ok((sum, cx.server.cluster_names.id(&name)))
                });
                clusters.map(Self::Weighted)
            }
        }
    }

    /// The clusters with their weights.
    pub(super) fn weights(&self) -> Vec<(ClusterId, u64)> {
        match self {
            Self::Cluster(id) => vec![(*id, 1)],
            Self::Weighted(clusters) => {
                let mut before = 0;
                let weights = clusters
                    .iter()
                    .map(|(sum, id)| (*id, sum - std::mem::replace(&mut before, *sum)));
                weights.collect()
            }
        }
    }

    /// The cluster for a connection that drew `random`.
    pub(super) fn pick(&self, random: u64) -> ClusterId {
        match self {
            Self::Cluster(id) => *id,
            Self::Weighted(clusters) => {
                let total = clusters.last().map_or(1, |(sum, _)| *sum);
                let draw = random % total;
                let at = clusters.partition_point(|(sum, _)| *sum <= draw);
                clusters[at].1
            }
        }
    }
}

impl Backoff {
    fn from_proto(proto: BackoffStrategy, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let BackoffStrategy {
            base_interval,
            max_interval,
        } = proto;
        let base = path.positive_duration("base_interval", base_interval);
        let max = path.positive_duration("max_interval", max_interval);
        let base = path.required("base_interval", base?)?;
        let max = max?.unwrap_or(base * 10);
        if max < base {
            return Err(path
                .field("max_interval")
                .reject(format!("{max:?} is less than base_interval, {base:?}")));
        }
        Ok(Self { base, max })
    }

    /// The time before attempt `attempt`, counted from 1 for the first that is not the very first.
    pub(super) fn before(self, attempt: u32, random: u64) -> Duration {
        let factor = 2u32.saturating_pow(attempt);
        let limit = self.base.saturating_mul(factor).min(self.max);
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(random % nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_share_the_connections() {
        let route = Route::Weighted(vec![(1, ClusterId(1)), (4, ClusterId(2))]);
        let first = (0..100)
            .filter(|random| route.pick(*random) == ClusterId(1))
            .count();
        assert_eq!(first, 25);
    }

    #[test]
    fn backoff_grows_and_stays_below_its_limit() {
        let backoff = Backoff {
            base: Duration::from_millis(10),
            max: Duration::from_millis(50),
        };
        assert_eq!(
            backoff.before(1, 20_000_000 - 1),
            Duration::from_nanos(19_999_999)
        );
        assert_eq!(backoff.before(1, 20_000_000), Duration::ZERO);
        for random in [0, 7, u64::MAX] {
            assert!(backoff.before(30, random) < Duration::from_millis(50));
        }
    }
}
