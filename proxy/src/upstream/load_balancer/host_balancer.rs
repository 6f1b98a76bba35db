//! The load balancer of a set of hosts: a whole cluster, or a subset of it.

use std::rc::Rc;
use std::sync::Arc;

use super::edf::Edf;
use super::hashing::{HashSettings, HashTables, Load, hash_of};
use super::pick::Pick;
use super::priority_load::{PriorityCounts, PriorityLoad};
use super::zone_aware::{ZoneRouting, Zones};
use super::{LoadBalancerContext, LoadBalancerSettings, Policy};
use crate::upstream::cluster::ClusterInfo;
use crate::upstream::host::{Health, WorkerHost};
use crate::upstream::priority_set::{HostSet, PrioritySet};

/// Chooses among a set of hosts, as its settings say.
#[derive(Default)]
pub(super) struct HostBalancer {
    load: PriorityLoad,
    /// What the load follows from.
    counts: Vec<PriorityCounts>,
    priorities: Vec<Priority>,
    /// Of zone-aware routing: of the first priority.
    zones: Option<Zones>,
    /// Of hashing policies, shared with all workers.
    tables: Option<Arc<HashTables>>,
    panic_threshold: u64,
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

impl HostBalancer {
    /// The load balancer of `set`, whose hosts are `hosts` on this worker. `panic_threshold` is in percent.
    pub(super) fn new(
        info: &ClusterInfo,
        set: &PrioritySet,
        hosts: Vec<Vec<Rc<WorkerHost>>>,
        panic_threshold: u64,
    ) -> Self {
        let settings = &info.settings.load_balancer;
        let factor = set.overprovisioning_factor;
        let priorities = hosts.into_iter().zip(&set.priorities);
        let counts: Vec<_> = set.priorities.iter().map(PriorityCounts::new).collect();
        let how = |_| (factor, set.weighted_priority_health);
        Self {
            load: PriorityLoad::of_counts(&counts, &how, panic_threshold),
            counts,
            priorities: priorities
                .map(|(all, hosts)| Priority::new(all, hosts, factor, settings))
                .collect(),
            zones: None,
            tables: set.hash_tables.clone(),
            panic_threshold,
        }
    }

    /// Numbers the hosts, and takes note of how each is counted, so that changes of single ones can be followed.
    pub(super) fn remember(&mut self) {
        for (priority, counts) in self.priorities.iter().zip(&mut self.counts) {
            *counts = PriorityCounts::default();
            for (place, host) in (0..).zip(priority.all.hosts()) {
                let standing = host.standing();
                host.place.set(place);
                host.counted.set(standing);
                counts.add(standing, host.weight);
            }
        }
    }

    /// Divides the requests of the first priority among zones, where they matter.
    pub(super) fn divide_zones(
        &mut self,
        info: &ClusterInfo,
        routing: &Arc<ZoneRouting>,
        local: &PrioritySet,
    ) {
        let hosts = self.priorities.first().map(|first| first.all.hosts());
        self.zones =
            hosts.and_then(|hosts| Zones::new(routing, info, hosts, local, self.panic_threshold));
    }

    /// Follows changes of the health of the hosts at these places, after `remember`. It costs what has changed, but for hosts that
    /// have weights.
    pub(super) fn health_changed(
        &mut self,
        info: &ClusterInfo,
        set: &PrioritySet,
        places: impl Iterator<Item = (u32, u32)>,
    ) {
        let settings = &info.settings.load_balancer;
        let mut stale = Vec::new();
        for (priority, at) in places {
            let index = usize::try_from(priority).unwrap_or(usize::MAX);
            let Some(host) = self.host(index, at).cloned() else {
                continue;
            };
            // Lists may have been made while main was changing it: equal does not mean that there is nothing to do.
            let new = host.standing();
            let old = host.counted.replace(new);
            if settings.slow_start.is_some() {
                host.note_health();
            }
            if let Some(counts) = self.counts.get_mut(index) {
                counts.recount(old, new, host.weight);
            }
            if let Some(hosts) = self.priorities.get_mut(index) {
                hosts.moved(&host, new.health);
                if settings.locality_weighted && !stale.contains(&index) {
                    stale.push(index);
                }
            }
        }
        let factor = set.overprovisioning_factor;
        for index in stale {
            if let (Some(hosts), Some(set)) =
                (self.priorities.get_mut(index), set.priorities.get(index))
            {
                hosts.weigh_localities(set, factor, settings);
            }
        }
        let how = |_| (factor, set.weighted_priority_health);
        self.load = PriorityLoad::of_counts(&self.counts, &how, self.panic_threshold);
    }

    /// How well the hosts of each priority are.
    pub(super) fn priority_counts(&self) -> &[PriorityCounts] {
        &self.counts
    }

    /// All hosts.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Rc<WorkerHost>> {
        self.priorities
            .iter()
            .flat_map(|priority| priority.all.hosts())
    }

    /// The host at a place of a priority.
    pub(super) fn host(&self, priority: usize, index: u32) -> Option<&Rc<WorkerHost>> {
        let hosts = self.priorities.get(priority)?.all.hosts();
        hosts.get(usize::try_from(index).ok()?)
    }

    /// Below which percentage of usable hosts a priority is in panic.
    pub(super) fn panic_threshold(&self) -> u64 {
        self.panic_threshold
    }

    /// A host, or none if none may be used.
    pub(super) fn choose_host(
        &mut self,
        info: &ClusterInfo,
        cx: &dyn LoadBalancerContext,
    ) -> Option<Rc<WorkerHost>> {
        if let Policy::Hash(settings) = &info.settings.load_balancer.policy {
            return self.choose_by_hash(info, settings, cx);
        }
        let mut host = self.choose_once(info, cx)?;
        for _ in 0..cx.host_selection_retry_count() {
            if !cx.should_select_another(&host) {
                break;
            }
            host = self.choose_once(info, cx)?;
        }
        Some(host)
    }

    /// A hash has one host; where that is passed over the table says who comes next.
    fn choose_by_hash(
        &self,
        info: &ClusterInfo,
        settings: &HashSettings,
        cx: &dyn LoadBalancerContext,
    ) -> Option<Rc<WorkerHost>> {
        let tables = self.tables.as_ref()?;
        let hash = hash_of(cx);
        let (priority, in_panic) = tables.priority(hash);
        if in_panic {
            info.update_stats.lb_healthy_panic().inc();
        }
        let hosts = self.priorities.get(priority)?.all.hosts();
        let host_at = |index: u32| hosts.get(usize::try_from(index).ok()?);
        let load = Load {
            cluster: match settings.hash_balance_factor {
                0 => 0,
                _ => info.stats.upstream_rq_active().value(),
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

    fn choose_once(
        &mut self,
        info: &ClusterInfo,
        cx: &dyn LoadBalancerContext,
    ) -> Option<Rc<WorkerHost>> {
        let settings = &info.settings.load_balancer;
        let (index, health) = match self.priorities.len() {
            // With one priority there is nothing to draw, unless degraded hosts share the load.
            1 if self.load.is_all_healthy() => (0, Health::Healthy),
            _ => match (cx.given_priority(), cx.avoided_priorities()) {
                (Some(given), _) => given,
                (None, []) => self.load.choose(cx.random()),
                (None, _) => {
                    let priority = |host: &WorkerHost| usize::try_from(host.priority).ok();
                    self.load.choose_avoiding(cx, &priority)
                }
            },
        };
        let in_panic = self.load.in_panic(index);
        let priority = self.priorities.get_mut(index)?;
        if in_panic {
            info.update_stats.lb_healthy_panic().inc();
            if settings.fail_traffic_on_panic {
                return None;
            }
            return priority.all.choose(&settings.policy, cx);
        }
        if let (Some(zones), 0, Health::Healthy) = (&mut self.zones, index, health)
            && let Some(pick) = zones.choose(info, cx)
        {
            return pick.choose(&settings.policy, cx);
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
            Pick::new(hosts.cloned().collect(), settings.slow_start)
        };
        let by_locality = |health: Health| match settings.locality_weighted && !hashes {
            true => Localities::new(&all, set, (overprovisioning_factor, settings), health),
            false => Localities::default(),
        };
        Self {
            healthy: with(Health::Healthy),
            degraded: with(Health::Degraded),
            healthy_localities: by_locality(Health::Healthy),
            degraded_localities: by_locality(Health::Degraded),
            all: Pick::new(all, settings.slow_start),
        }
    }
}

impl Priority {
    /// A host is in this state of health.
    fn moved(&mut self, host: &Rc<WorkerHost>, health: Health) {
        for (pick, of) in [
            (&mut self.healthy, Health::Healthy),
            (&mut self.degraded, Health::Degraded),
        ] {
            match of == health {
                true => pick.insert(host),
                false => pick.remove(host),
            }
        }
    }

    fn weigh_localities(&mut self, set: &HostSet, factor: u32, settings: &LoadBalancerSettings) {
        let all = self.all.hosts();
        let healthy = Localities::new(all, set, (factor, settings), Health::Healthy);
        let degraded = Localities::new(all, set, (factor, settings), Health::Degraded);
        self.healthy_localities = healthy;
        self.degraded_localities = degraded;
    }
}

impl Localities {
    /// Localities whose hosts are partly missing get less than their weight, as soon as overprovisioning does not make up for it.
    fn new(
        all: &[Rc<WorkerHost>],
        set: &HostSet,
        (overprovisioning_factor, settings): (u32, &LoadBalancerSettings),
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
            localities
                .schedule
                .insert(localities.picks.len(), weight, weight);
            localities.picks.push(Pick::new(hosts, settings.slow_start));
        }
        localities
    }

    fn choose(&mut self, cx: &dyn LoadBalancerContext) -> Option<&mut Pick> {
        let at = self.schedule.pick(cx, |_, weight| weight)?;
        self.picks.get_mut(at)
    }
}
