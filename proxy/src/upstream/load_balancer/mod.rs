//! How a host is chosen: first a priority, then (if weighted) a locality, then a host.
//!
//! Type URLs: `envoy.extensions.load_balancing_policies.{round_robin.v3.RoundRobin, least_request.v3.LeastRequest, random.v3.Random}`
//! in `Cluster.load_balancing_policy`, or `Cluster.lb_policy`; likewise `ring_hash.v3.RingHash` and `maglev.v3.Maglev`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/load_balancing>
//! Stats: `cluster.<name>.lb_healthy_panic`.
//! Deviations: `active_request_bias.runtime_key` is not read, its default holds.
//! Deviations: hashing policies have no `hash_policy` of their own, that of the route counts.
//! Deviations: there is no zone-aware routing: a local cluster changes nothing, and `slow_start_config` is refused.

mod bounded_load;
mod config;
mod edf;
mod hash_config;
mod hashing;
mod maglev;
mod murmur;
mod pick;
mod priority_load;
mod ring_hash;

use std::rc::Rc;
use std::sync::Arc;

pub(super) use config::LegacyPolicy;
pub use config::{LoadBalancerSettings, Policy};
pub(super) use hashing::HashTables;
pub use hashing::{HashSettings, TableSettings};
pub use ring_hash::HashFunction;

use self::edf::Edf;
use self::hashing::{Load, hash_of};
use self::pick::Pick;
use self::priority_load::PriorityLoad;
use super::cluster::ClusterInfo;
use super::host::{Health, Host, WorkerHost};
use super::priority_set::{HostSet, PrioritySet};
use crate::runtime::RuntimeInteger;

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

    /// Hosts whose priorities should be passed over while others can take the request, as by the retry policy of a route.
    fn avoided_priorities(&self) -> &[Rc<WorkerHost>] {
        &[]
    }

    /// There are no others: from now on those priorities count again.
    fn forget_avoided_priorities(&self) {}

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
    load: PriorityLoad,
    priorities: Vec<Priority>,
    /// Of hashing policies, shared with all workers.
    tables: Option<Arc<HashTables>>,
}

/// The hosts of one priority, by what may be chosen from.
struct Priority {
    /// In panic.
    all: Pick,
    healthy: Pick,
    degraded: Pick,
    /// With `locality_weighted_lb_config`.
    healthy_localities: Localities,
    degraded_localities: Localities,
}

/// Localities with their share of the requests; empty where localities do not count.
#[derive(Default)]
struct Localities {
    schedule: Edf,
    picks: Vec<Pick>,
}

impl WorkerLoadBalancer {
    pub(super) fn new(info: Arc<ClusterInfo>, panic_threshold: RuntimeInteger) -> Self {
        Self {
            info,
            panic_threshold,
            load: PriorityLoad::default(),
            priorities: Vec::new(),
            tables: None,
        }
    }

    /// Takes over a new set of hosts, and gives back those that are no longer in it.
    pub(super) fn update(&mut self, set: &PrioritySet, shard: usize) -> Vec<Rc<WorkerHost>> {
        let mut old: Vec<Rc<WorkerHost>> = self.hosts().cloned().collect();
        old.sort_by_key(|host| host.identity());
        let mut kept = vec![false; old.len()];
        let settings = &self.info.settings.load_balancer;
        self.priorities = set
            .priorities
            .iter()
            .map(|hosts| {
                let all = hosts.hosts.iter().map(|host| {
                    match old.binary_search_by_key(&host.identity(), |old| old.identity()) {
                        Ok(at) => {
                            kept[at] = true;
                            old[at].with_configuration(host)
                        }
                        Err(_) => Rc::new(WorkerHost::on_worker(host.clone(), shard)),
                    }
                });
                Priority::new(all.collect(), hosts, set.overprovisioning_factor, settings)
            })
            .collect();
        let threshold = self.panic_threshold.get().min(100);
        self.load = PriorityLoad::new(set, threshold);
        self.tables = set.hash_tables.clone();
        let gone = old.into_iter().zip(kept).filter(|(_, kept)| !kept);
        gone.map(|(host, _)| host).collect()
    }

    /// A host, or none if none may be used.
    pub(super) fn choose_host(&mut self, cx: &dyn LoadBalancerContext) -> Option<Rc<WorkerHost>> {
        if let Policy::Hash(settings) = &self.info.settings.load_balancer.policy {
            return self.choose_by_hash(settings, cx);
        }
        let mut host = self.choose_once(cx)?;
        for _ in 0..cx.host_selection_retry_count() {
            if !cx.should_select_another(&host) {
                break;
            }
            host = self.choose_once(cx)?;
        }
        Some(host)
    }

    /// All hosts.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Rc<WorkerHost>> {
        self.priorities
            .iter()
            .flat_map(|priority| priority.all.hosts())
    }

    /// A hash has one host; where that is passed over the table says who comes next.
    fn choose_by_hash(
        &self,
        settings: &HashSettings,
        cx: &dyn LoadBalancerContext,
    ) -> Option<Rc<WorkerHost>> {
        let tables = self.tables.as_ref()?;
        let hash = hash_of(cx);
        let (priority, in_panic) = tables.priority(hash);
        if in_panic {
            self.info.update_stats.lb_healthy_panic().inc();
        }
        let hosts = self.priorities.get(priority)?.all.hosts();
        let host_at = |index: u32| hosts.get(usize::try_from(index).ok()?);
        let load = Load {
            cluster: match settings.hash_balance_factor {
                0 => 0,
                _ => self.info.stats.upstream_rq_active().value(),
            },
            of_host: &|index| host_at(index).map_or(0, |host| host.active_requests()),
            factor: settings.hash_balance_factor,
        };
        let mut chosen = None;
        for attempt in 0..=cx.host_selection_retry_count() {
            let host = host_at(tables.host(priority, hash, attempt, &load)?)?;
            chosen = Some(host);
            if !cx.should_select_another(host) {
                break;
            }
        }
        chosen.cloned()
    }

    fn choose_once(&mut self, cx: &dyn LoadBalancerContext) -> Option<Rc<WorkerHost>> {
        let settings = &self.info.settings.load_balancer;
        let (index, health) = match self.priorities.len() {
            // With one priority there is nothing to draw, unless degraded hosts share the load.
            1 if self.load.is_all_healthy() => (0, Health::Healthy),
            _ if !cx.avoided_priorities().is_empty() => self.load.choose_avoiding(cx),
            _ => self.load.choose(cx.random()),
        };
        let in_panic = self.load.in_panic(index);
        let priority = self.priorities.get_mut(index)?;
        if in_panic {
            self.info.update_stats.lb_healthy_panic().inc();
            if settings.fail_traffic_on_panic {
                return None;
            }
            return priority.all.choose(&settings.policy, cx);
        }
        let (pick, localities) = match health {
            Health::Degraded => (&mut priority.degraded, &mut priority.degraded_localities),
            _ => (&mut priority.healthy, &mut priority.healthy_localities),
        };
        localities
            .choose(cx)
            .unwrap_or(pick)
            .choose(&settings.policy, cx)
    }
}

impl Priority {
    fn new(
        all: Vec<Rc<WorkerHost>>,
        set: &HostSet,
        overprovisioning_factor: u32,
        settings: &LoadBalancerSettings,
    ) -> Self {
        // Hashing policies choose from their tables.
        let hashes = matches!(settings.policy, Policy::Hash(_));
        let with = |health: Health| -> Pick {
            let fits = |host: &&Rc<WorkerHost>| !hashes && host.coarse_health() == health;
            let hosts = all.iter().filter(fits);
            Pick::new(hosts.cloned().collect())
        };
        let by_locality = |health: Health| match settings.locality_weighted && !hashes {
            true => Localities::new(&all, set, overprovisioning_factor, health),
            false => Localities::default(),
        };
        Self {
            healthy: with(Health::Healthy),
            degraded: with(Health::Degraded),
            healthy_localities: by_locality(Health::Healthy),
            degraded_localities: by_locality(Health::Degraded),
            all: Pick::new(all),
        }
    }
}

impl Localities {
    /// Localities whose hosts are partly missing get less than their weight, as soon as overprovisioning does not make up for it.
    fn new(
        all: &[Rc<WorkerHost>],
        set: &HostSet,
        overprovisioning_factor: u32,
        health: Health,
    ) -> Self {
        let mut localities = Self::default();
        for locality in &set.localities {
            let hosts: Vec<_> = locality
                .hosts
                .iter()
                .filter_map(|at| all.get(usize::try_from(*at).ok()?))
                .filter(|host| host.coarse_health() == health)
                .cloned()
                .collect();
            if hosts.is_empty() || locality.weight == 0 {
                continue;
            }
            #[allow(
                clippy::cast_precision_loss,
                reason = "numbers of hosts are far below 2^52"
            )]
            let available = hosts.len() as f64 / locality.hosts.len() as f64;
            let share = (available * f64::from(overprovisioning_factor) / 100.0).min(1.0);
            let weight = f64::from(locality.weight) * share;
            localities.schedule.insert(localities.picks.len(), weight);
            localities.picks.push(Pick::new(hosts));
        }
        localities
    }

    fn choose(&mut self, cx: &dyn LoadBalancerContext) -> Option<&mut Pick> {
        let at = self.schedule.pick(cx, |_, weight| weight)?;
        self.picks.get_mut(at)
    }
}

#[cfg(test)]
mod tests;
