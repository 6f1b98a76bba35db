//! The clusters of the process: added, changed and removed on main, read by workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::ClusterId;
use super::cluster::ClusterInfo;
use super::priority_set::PrioritySet;

/// A cluster, shared by all workers.
#[derive(Debug)]
pub struct Cluster {
    /// What is known of it beside its hosts.
    pub info: Arc<ClusterInfo>,
    /// Its hosts, replaced as a whole.
    pub hosts: ArcSwap<PrioritySet>,
    /// Grows when `hosts` has been replaced.
    pub hosts_version: AtomicU64,
}

/// The table of all clusters, by number. Main writes it, workers read it.
#[derive(Debug, Default)]
pub struct ClusterTable {
    /// Grows when `clusters` has been replaced.
    pub(super) version: AtomicU64,
    pub(super) clusters: ArcSwap<Vec<Option<Arc<Cluster>>>>,
    notify: Notify,
}

impl ClusterTable {
    /// The cluster with this number, if there is one.
    pub fn get(&self, id: ClusterId) -> Option<Arc<Cluster>> {
        let at = usize::try_from(id.0).unwrap_or(usize::MAX);
        self.clusters.load().get(at).cloned().flatten()
    }

    /// Ends when a cluster or its hosts have changed.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }
}
