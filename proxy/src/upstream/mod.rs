//! Clusters, hosts, load balancing and connection pools.

mod aggregate;
#[cfg(test)]
mod aggregate_tests;
pub mod async_client;
mod circuit_breaker;
pub mod cluster;
mod cluster_entry;
mod cluster_handle;
mod cluster_maker;
mod cluster_manager;
mod cluster_names;
mod cluster_table;
mod discovery;
mod dump;
mod dynamic_clusters;
#[cfg(test)]
mod dynamic_tests;
mod health_check;
mod host;
mod host_health;
mod lazy_cluster;
#[cfg(test)]
mod lazy_tests;
pub mod load_balancer;
mod on_demand;
mod outlier_detection;
pub mod pool;
mod priority_set;
mod retry_window;
mod shared_cluster;
mod status;
#[cfg(test)]
pub(crate) mod test_support;
mod worker_cluster;
mod worker_clusters;

pub use circuit_breaker::{
    CircuitBreakerSettings, CircuitBreakers, Resource, RetryBudget, RoutingPriority, Thresholds,
};
pub(crate) use cluster::CodeStats;
pub use cluster::{ClusterConfig, ClusterInfo, ClusterSettings, CodeOrigin, RequestPolicies};
pub use cluster_manager::{ClusterManager, ClusterManagerStats};
pub use cluster_names::{ClusterId, ClusterNames, NamedClusters};
pub use cluster_table::ClusterTable;
pub use discovery::{DnsError, HickoryResolver, Resolved, Resolver};
pub use health_check::PatchedHealthChecks;
pub use host::{
    Health, HealthFlag, Host, HostHealthCheck, HostStat, HostStats, Locality, WorkerHost,
};
pub use load_balancer::{LB_NAMESPACE, LoadBalancerContext, MetadataMatch};
pub use on_demand::OnDemandClusters;
pub use outlier_detection::HostResult;
pub use pool::{RequestGuard, RetryGuard};
pub use priority_set::{HostSet, LocalityHosts, PrioritySet};
pub use shared_cluster::Cluster;
pub use worker_cluster::WorkerCluster;
pub use worker_clusters::WorkerClusters;
