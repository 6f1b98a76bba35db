//! The clusters as one worker sees them.

use std::rc::Rc;

use super::ClusterId;

/// This worker's clusters by number, each made when first asked for.
#[derive(Debug, Default)]
pub struct WorkerClusters {}

/// A cluster as one worker sees it: its load balancer and its hosts' pools.
#[derive(Debug)]
pub struct WorkerCluster {}

impl WorkerClusters {
    /// The cluster with this number, if there is one.
    pub fn get(&self, _id: ClusterId) -> Option<Rc<WorkerCluster>> {
        None
    }
}
