//! A cluster: its settings, shared by all workers, and its hosts.

mod config;
mod dns_config;
mod eds_config;
mod endpoint;
mod http_options;
mod limits;
mod request_policies;
mod sockets;
mod stats;
#[cfg(test)]
mod tests;
mod transport;

use std::sync::Arc;
use std::time::Duration;

pub use config::ClusterConfig;
pub use dns_config::{DnsSettings, LookupFamily, ResolverSettings};
pub(super) use eds_config::EdsSettings;
pub(super) use endpoint::{
    DropOverload, EndpointAddress, EndpointConfig, LoadAssignment, LocalityEndpoints,
};
pub use http_options::{AutoTlsOptions, CommonHttpOptions, ProtocolChoice, UpstreamHttpOptions};
pub use request_policies::RequestPolicies;
pub(crate) use stats::CodeStats;
pub use stats::{
    ClusterEndpointStats, ClusterTrafficStats, ClusterUpdateStats, CodeOrigin,
    RequestResponseSizeStats, TimeoutBudgetStats, TransportSocketMatchStats,
};
pub use transport::UpstreamTransport;

use super::ClusterId;
use super::circuit_breaker::{CircuitBreakerSettings, CircuitBreakers};
use super::health_check::HealthCheckConfig;
use super::load_balancer::LoadBalancerSettings;
use super::outlier_detection::OutlierDetectionConfig;
use super::pool::SocketSettings;
use crate::http_filters::chain_config::ChainConfig;
use crate::stats::Scope;
use crate::stream_info::DynamicMetadata;

/// What is known of a cluster beside its hosts. Immutable; a changed cluster gets a new one.
#[derive(Debug)]
pub struct ClusterInfo {
    /// Its number.
    pub id: ClusterId,
    /// `Cluster.name`.
    pub name: Arc<str>,
    /// `alt_stat_name`, or the name.
    pub observability_name: Arc<str>,
    /// What many clusters have in common, kept once for all of them.
    pub settings: Arc<ClusterSettings>,
    /// `Cluster.metadata`.
    pub metadata: DynamicMetadata,
    /// Stats of its traffic.
    pub stats: ClusterTrafficStats,
    /// Stats of its membership.
    pub endpoint_stats: ClusterEndpointStats,
    /// Stats of what changes its membership, and of its load balancers.
    pub update_stats: ClusterUpdateStats,
    /// How often a host got the transport socket of the cluster.
    pub socket_match_stats: TransportSocketMatchStats,
    /// With `track_cluster_stats.timeout_budgets`.
    pub timeout_budget_stats: Option<TimeoutBudgetStats>,
    /// With `track_cluster_stats.request_response_sizes`.
    pub request_response_size_stats: Option<RequestResponseSizeStats>,
    /// The clusters whose hosts it has, in the order of their priorities; none: it has its own.
    pub members: Option<Box<[ClusterId]>>,
    /// The filters of requests to it, in place of the router's; none: the router's.
    pub http_filters: Option<Arc<ChainConfig>>,
    /// What it says of its requests; none: nothing.
    pub request_policies: Option<Arc<RequestPolicies>>,
    /// How its hosts are checked; none: they are not.
    pub(in crate::upstream) health_checks: Box<[Arc<HealthCheckConfig>]>,
    /// When its hosts are ejected; none: never.
    pub(in crate::upstream) outlier_detection: Option<Arc<OutlierDetectionConfig>>,
    /// What makes its connections ready.
    pub transport: UpstreamTransport,
    /// What is in use of its limits.
    pub circuit_breakers: CircuitBreakers,
    /// `cluster.<observability name>.`
    pub scope: Scope,
}

/// The settings of a cluster that are not its own: clusters that agree in all of them share one.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterSettings {
    /// How long a connection may take to be made, TLS included. Default 5 s.
    pub connect_timeout: Duration,
    /// Bytes that may wait on a connection in either direction. Default 1 MiB.
    pub per_connection_buffer_limit_bytes: u32,
    /// HTTP.
    pub http: UpstreamHttpOptions,
    /// Limits.
    pub circuit_breakers: CircuitBreakerSettings,
    /// How a host is chosen.
    pub load_balancer: LoadBalancerSettings,
    /// How sockets are set up.
    pub sockets: SocketSettings,
    /// Whether TCP connections end when the health checks of their host fail.
    pub close_connections_on_host_health_failure: bool,
    /// Whether hosts that discovery takes away go, however healthy they are.
    pub ignore_health_on_host_removal: bool,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            per_connection_buffer_limit_bytes: 1024 * 1024,
            http: UpstreamHttpOptions::default(),
            circuit_breakers: CircuitBreakerSettings::default(),
            load_balancer: LoadBalancerSettings::default(),
            sockets: SocketSettings::default(),
            close_connections_on_host_health_failure: false,
            ignore_health_on_host_removal: false,
        }
    }
}
