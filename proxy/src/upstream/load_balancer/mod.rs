//! How a host is chosen.

use super::host::Host;

/// What a load balancer may ask about the request or connection that needs a host.
pub trait LoadBalancerContext {
    /// A random number, of the worker's generator.
    fn random(&self) -> u64;

    /// The hash of the request by its route's `hash_policy`.
    fn hash_key(&self) -> Option<u64> {
        None
    }

    /// Whether this host should be passed over, as by the retry predicates of a route.
    fn should_select_another(&self, _host: &Host) -> bool {
        false
    }

    /// How often another host is tried in place of one that was passed over; then the last one is taken as it is.
    fn host_selection_retry_count(&self) -> u32 {
        1
    }
}

/// How hosts of a cluster are chosen.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LoadBalancerSettings {}

use super::cluster::ClusterInfo;
use super::host::WorkerHost;
use super::priority_set::PrioritySet;
use std::rc::Rc;
pub(super) struct WorkerLoadBalancer {
    hosts: Vec<Rc<WorkerHost>>,
}
impl WorkerLoadBalancer {
    pub(super) fn new(_info: &ClusterInfo) -> Self {
        Self { hosts: Vec::new() }
    }
    pub(super) fn choose_host(&mut self, _cx: &dyn LoadBalancerContext) -> Option<Rc<WorkerHost>> {
        self.hosts.first().cloned()
    }
    pub(super) fn update(&mut self, hosts: &PrioritySet, shard: usize) -> Vec<Rc<WorkerHost>> {
        let new = hosts
            .hosts()
            .map(|h| Rc::new(WorkerHost::on_worker(h.clone(), shard)))
            .collect();
        std::mem::replace(&mut self.hosts, new)
    }
    pub(super) fn drain(&mut self) {
        self.hosts.iter().for_each(|h| h.drain());
    }
}
