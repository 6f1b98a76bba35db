//! `envoy.config.cluster.v3.Cluster` becomes a cluster.

/// A converted cluster.
#[derive(Debug)]
pub struct ClusterConfig {}
