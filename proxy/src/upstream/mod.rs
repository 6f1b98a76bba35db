//! Clusters, hosts, load balancing and connection pools.

mod cluster_names;
mod host;
pub mod pool;
mod worker_clusters;

pub use cluster_names::{ClusterId, ClusterNames};
pub use host::{Host, WorkerHost};
pub use worker_clusters::{WorkerCluster, WorkerClusters};
