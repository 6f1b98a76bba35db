//! How a host is chosen: first a priority, then (if weighted) a locality, then a host.
//!
//! Type URLs: `envoy.extensions.load_balancing_policies.{round_robin.v3.RoundRobin, least_request.v3.LeastRequest, random.v3.Random,
//! cluster_provided.v3.ClusterProvided}` in `Cluster.load_balancing_policy`, or `Cluster.lb_policy`; likewise `ring_hash.v3.RingHash` and `maglev.v3.Maglev`.
//! `override_host.v3.OverrideHost`, whose requests may name their hosts; `subset.v3.Subset`, or `Cluster.lb_subset_config`: each combination of values of the metadata of hosts has a load balancer.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/load_balancing>
//! Stats: `cluster.<name>.lb_healthy_panic`, `cluster.<name>.lb_subsets_*`, `cluster.<name>.lb_zone_*`.
//! Deviations: the runtime keys of `active_request_bias` and `aggression` are not read, their defaults hold.
//! Deviations: hashing policies have no `hash_policy` of their own, that of the route counts.
//! Deviations: `client_side_weighted_round_robin`, which takes reports of load, is refused, and so is `wrr_locality`, which takes no other.

mod bounded_load;
mod config;
mod edf;
mod flat_priorities;
mod hash_config;
mod hashing;
mod host_balancer;
mod host_statuses;
mod maglev;
mod metadata_match;
mod murmur;
mod override_host;
mod pick;
mod priority_load;
mod ring_hash;
mod slow_start;
mod subset;
mod subset_config;
mod worker_subsets;
mod zone_aware;

use std::rc::Rc;
use std::sync::Arc;

pub(super) use config::LegacyPolicy;
pub use config::{LoadBalancerSettings, Policy};
pub(super) use flat_priorities::{FlatPriorities, MemberChoice};
pub(super) use hashing::HashTables;
pub use hashing::{HashSettings, TableSettings};
pub use host_statuses::HostStatuses;
pub use metadata_match::{LB_NAMESPACE, MetadataMatch};
pub use override_host::OverrideHostSettings;
pub(super) use priority_load::PriorityCounts;
pub use ring_hash::HashFunction;
pub use slow_start::SlowStart;
pub(super) use subset::SubsetTable;
pub use subset_config::SubsetSettings;
pub use zone_aware::ZoneAware;
pub(super) use zone_aware::ZoneRouting;

use self::host_balancer::HostBalancer;
use self::override_host::HostsByAddress;
use self::worker_subsets::WorkerSubsets;
use super::cluster::ClusterInfo;
use super::host::{Health, Host, HostIdentity, WorkerHost};
use super::priority_set::PrioritySet;
use crate::runtime::RuntimeInteger;
use crate::stream_info::OverrideHost;

/// What a load balancer may ask about the request or connection that needs a host.
pub trait LoadBalancerContext {
    /// A random number, of the worker's generator: another one each time, since who compares hosts draws more than once.
    fn random(&self) -> u64;

    /// The hash of the request by its route's `hash_policy`.
    fn hash_key(&self) -> Option<u64> {
        None
    }

    /// What the metadata of the host must have, where a cluster has subsets.
    fn metadata_match(&self) -> Option<&MetadataMatch> {
        None
    }

    /// The address of the next host that the request names itself, each once.
    fn next_wanted_host(&self, _settings: &OverrideHostSettings) -> Option<Box<str>> {
        None
    }

    /// The host that a filter has chosen for the request.
    fn override_host(&self) -> Option<&OverrideHost> {
        None
    }

    /// Whether this host should be passed over, as by the retry predicates of a route.
    fn should_select_another(&self, _host: &Host) -> bool {
        false
    }

    /// Hosts whose priorities should be passed over while others can take the request, as by the retry policy of a route.
    fn avoided_priorities(&self) -> &[Rc<WorkerHost>] {
        &[]
    }

    /// There are no others: from now on those priorities count again.
    fn forget_avoided_priorities(&self) {}

    /// The priority that has been chosen for the request already, and which of its hosts: by an aggregate, for a member.
    fn given_priority(&self) -> Option<(usize, Health)> {
        None
    }

    /// How often another host is tried in place of one that was passed over; then the last one is taken as it is.
    fn host_selection_retry_count(&self) -> u32 {
        1
    }
}

/// The load balancer of one cluster on one worker.
pub(super) struct WorkerLoadBalancer {
    info: Arc<ClusterInfo>,
    /// `upstream.healthy_panic_threshold`, over that of the cluster, in percent.
    panic_threshold: RuntimeInteger,
    all: HostBalancer,
    /// With `lb_subset_config`.
    subsets: Option<WorkerSubsets>,
    /// Of zone-aware routing, with the hosts of the local cluster.
    zones: Option<(Arc<ZoneRouting>, Arc<PrioritySet>)>,
    /// With `override_host`.
    by_address: HostsByAddress,
    /// Of all, made when the first request is bound to a host.
    named: Option<HostsByAddress>,
}

impl WorkerLoadBalancer {
    pub(super) fn new(info: Arc<ClusterInfo>, panic_threshold: RuntimeInteger) -> Self {
        Self {
            info,
            panic_threshold,
            all: HostBalancer::default(),
            subsets: None,
            zones: None,
            by_address: HostsByAddress::new(),
            named: None,
        }
    }

    /// Takes over a new set of hosts, and gives back those that are no longer in it.
    pub(super) fn update(&mut self, set: &PrioritySet, shard: usize) -> Vec<Rc<WorkerHost>> {
        let mut old: Vec<Rc<WorkerHost>> = self.hosts().cloned().collect();
        old.sort_by_key(|host| host.identity());
        let mut kept = vec![false; old.len()];
        let id = self.info.id;
        let mut on_worker = |host: &Arc<Host>| match old
            .binary_search_by_key(&host.identity(), |old| old.identity())
        {
            Ok(at) => {
                kept[at] = true;
                old[at].with_configuration(host)
            }
            Err(_) => Rc::new(WorkerHost::on_worker(host.clone(), shard).of_cluster(id)),
        };
        let priorities = set.priorities.iter();
        let hosts = priorities
            .map(|set| set.hosts.iter().map(&mut on_worker).collect())
            .collect();
        let hosts: Vec<Vec<Rc<WorkerHost>>> = hosts;
        if self.info.settings.load_balancer.slow_start.is_some() {
            hosts.iter().flatten().for_each(|host| host.note_health());
        }
        let threshold = self.panic_threshold.get().min(100);
        self.all = HostBalancer::new(&self.info, set, hosts, threshold);
        self.all.remember();
        self.divide_zones();
        if self.info.settings.load_balancer.override_host.is_some() {
            let hosts = self.all.hosts();
            let named = hosts.map(|host| (host.address.to_string().into(), host.clone()));
            self.by_address = named.collect();
        }
        self.named = None;
        self.subsets = set.subsets.clone().map(WorkerSubsets::new);
        let gone = old.into_iter().zip(kept).filter(|(_, kept)| !kept);
        gone.map(|(host, _)| host).collect()
    }

    /// Follows changes of the health of single hosts of `set`, which is the one that was last taken over.
    pub(super) fn health_changed(
        &mut self,
        set: &PrioritySet,
        hosts: impl Iterator<Item = HostIdentity>,
    ) {
        let places = set.places_of(hosts);
        self.all.health_changed(&self.info, set, places.into_iter());
        self.divide_zones();
    }

    /// Takes over the hosts of the local cluster, by which zones are compared.
    pub(super) fn set_local_hosts(&mut self, routing: &Arc<ZoneRouting>, hosts: Arc<PrioritySet>) {
        self.zones = Some((routing.clone(), hosts));
        self.divide_zones();
    }

    fn divide_zones(&mut self) {
        if let Some((routing, local)) = &self.zones {
            self.all.divide_zones(&self.info, routing, local);
        }
    }

    /// The host of this identity, if `set` is the one that was last taken over.
    pub(super) fn find(&self, set: &PrioritySet, host: HostIdentity) -> Option<&Rc<WorkerHost>> {
        let (priority, at) = set.places.as_ref()?.get(&host).copied()?;
        self.all.host(usize::try_from(priority).ok()?, at)
    }

    /// A host, or none if none may be used.
    pub(super) fn choose_host(&mut self, cx: &dyn LoadBalancerContext) -> Option<Rc<WorkerHost>> {
        if let Some(wanted) = cx.override_host() {
            let host = self.host_named(&wanted.address);
            if host.is_some() || wanted.strict {
                return host;
            }
        }
        if let Some(settings) = &self.info.settings.load_balancer.override_host {
            while let Some(wanted) = cx.next_wanted_host(settings) {
                if let Some(host) = self.by_address.get(&wanted) {
                    return Some(host.clone());
                }
            }
        }
        match &mut self.subsets {
            None => self.all.choose_host(&self.info, cx),
            Some(subsets) => subsets.choose_host(&self.info, &self.all, cx),
        }
    }

    /// The host at this address, if its health is among those that are allowed.
    fn host_named(&mut self, address: &str) -> Option<Rc<WorkerHost>> {
        let all = &self.all;
        let named = self.named.get_or_insert_with(|| {
            let named = all
                .hosts()
                .map(|host| (host.address.to_string().into(), host.clone()));
            named.collect()
        });
        let statuses = self.info.settings.load_balancer.override_host_status;
        named
            .get(address)
            .filter(|host| statuses.contain(host))
            .cloned()
    }

    /// All hosts.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Rc<WorkerHost>> {
        self.all.hosts()
    }

    /// How well the hosts of each priority are.
    pub(super) fn priority_counts(&self) -> &[PriorityCounts] {
        self.all.priority_counts()
    }
}

#[cfg(test)]
mod tests;
