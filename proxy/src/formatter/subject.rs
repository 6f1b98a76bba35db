//! What formatters and log filters ask of a route and of a cluster. Routes and clusters answer where they are defined.

use crate::stream_info::DynamicMetadata;
use crate::upstream::WorkerCluster;

/// A chosen route, as it is printed.
pub trait NamedRoute {
    /// `Route.name`; empty without one.
    fn route_name(&self) -> &str {
        ""
    }
    /// The name of the virtual cluster that the request belongs to.
    fn virtual_cluster_name(&self) -> Option<&str> {
        None
    }
    /// `Route.metadata`.
    fn route_metadata(&self) -> Option<&DynamicMetadata> {
        None
    }
    /// `VirtualHost.metadata`.
    fn virtual_host_metadata(&self) -> Option<&DynamicMetadata> {
        None
    }
}

/// A chosen cluster, as it is printed.
pub trait NamedCluster {
    /// `Cluster.name`.
    fn cluster_name(&self) -> &str {
        ""
    }
    /// `Cluster.alt_stat_name`, or the name without one.
    fn observability_name(&self) -> &str {
        self.cluster_name()
    }
    /// `Cluster.metadata`.
    fn cluster_metadata(&self) -> Option<&DynamicMetadata> {
        None
    }
}

impl NamedCluster for WorkerCluster {
    fn cluster_name(&self) -> &str {
        self.name()
    }

    fn observability_name(&self) -> &str {
        Self::observability_name(self)
    }

    fn cluster_metadata(&self) -> Option<&DynamicMetadata> {
        Some(&self.info().metadata)
    }
}
