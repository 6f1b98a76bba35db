//! Zone-aware routing: requests stay in the zone of the proxy as far as the hosts there, and those of its own cluster
//! elsewhere, allow.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/zone_aware>
//! Stats: `cluster.<name>.lb_zone_*`, `lb_local_cluster_not_ok`, `lb_recalculate_zone_structures`.
//! Runtime: `upstream.zone_routing.{enabled,min_cluster_size}`.
//! Deviations: degraded hosts are chosen whatever their zone; what is counted when zones are divided (`lb_zone_cluster_too_small`, `lb_recalculate_zone_structures`) counts for workers that use the cluster, not for each thread.

use std::rc::Rc;
use std::sync::Arc;

use super::LoadBalancerContext;
use super::pick::Pick;
use super::slow_start::SlowStart;
use crate::runtime::{RuntimeFraction, RuntimeInteger};
use crate::upstream::cluster::ClusterInfo;
use crate::upstream::host::{Health, Host, Locality, WorkerHost};
use crate::upstream::priority_set::PrioritySet;

/// `zone_aware_lb_config`. In force where the process has a local cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneAware {
    /// The share of requests that zones matter for, in percent. Default 100.
    pub routing_enabled: u32,
    /// With fewer healthy hosts zones do not matter. Default 6.
    pub min_cluster_size: u64,
    /// With so many hosts in the zone of the proxy all requests stay there.
    pub force_local_zone: Option<u32>,
    /// Whether zones are compared by the weights of their hosts.
    pub by_weight: bool,
}

impl Default for ZoneAware {
    fn default() -> Self {
        Self {
            routing_enabled: 100,
            min_cluster_size: 6,
            force_local_zone: None,
            by_weight: false,
        }
    }
}

/// What zone-aware routing of a cluster needs beside its hosts.
#[derive(Debug)]
pub(in crate::upstream) struct ZoneRouting {
    pub(in crate::upstream) settings: ZoneAware,
    pub(in crate::upstream) enabled: RuntimeFraction,
    pub(in crate::upstream) min_cluster_size: RuntimeInteger,
    /// Where the proxy is.
    pub(in crate::upstream) here: Locality,
}

/// How the requests of the first priority are divided among localities.
pub(super) struct Zones {
    routing: Arc<ZoneRouting>,
    /// The proxies themselves are in panic: nothing can be known by them.
    local_panic: bool,
    share: Share,
    /// The healthy hosts of each locality, that of the proxy first.
    picks: Vec<Pick>,
}

enum Share {
    /// All of them stay here.
    Direct,
    /// As many of 10,000, and of the others each locality what it has room for, summed up.
    Residual { here: u64, capacity: Vec<u64> },
}

impl Zones {
    /// None where zones do not matter.
    pub(super) fn new(
        routing: &Arc<ZoneRouting>,
        info: &ClusterInfo,
        hosts: &[Rc<WorkerHost>],
        local: &PrioritySet,
        panic_threshold: u64,
    ) -> Option<Self> {
        let stats = &info.update_stats;
        stats.lb_recalculate_zone_structures().inc();
        let upstream = localities(hosts.iter().map(|host| &host.locality), &routing.here);
        let local = local.priorities.first()?;
        let of_local = localities(local.hosts.iter().map(|host| &host.locality), &routing.here);
        let forced = routing.settings.force_local_zone;
        if upstream.len() < 2 || (of_local.len() < 2 && forced.is_none()) {
            return None;
        }
        let is_healthy = |host: &Host| host.coarse_health() == Health::Healthy;
        let well: Vec<&Rc<WorkerHost>> = hosts.iter().filter(|host| is_healthy(host)).collect();
        let count = |hosts: usize| u64::try_from(hosts).unwrap_or(u64::MAX);
        if count(well.len()) < routing.min_cluster_size.get() {
            stats.lb_zone_cluster_too_small().inc();
            return None;
        }
        let weigh = |host: &Host| match routing.settings.by_weight {
            true => u64::from(host.weight),
            false => 1,
        };
        let per_locality = |hosts: &mut dyn Iterator<Item = &Host>| -> Vec<u64> {
            let mut sums = vec![0; upstream.len()];
            let mut all = 0;
            for host in hosts {
                all += weigh(host);
                let at = upstream.iter().position(|known| **known == *host.locality);
                if let Some(sum) = at.and_then(|at| sums.get_mut(at)) {
                    *sum += weigh(host);
                }
            }
            sums.iter().map(|sum| sum * 10_000 / all.max(1)).collect()
        };
        let of_upstream = per_locality(&mut well.iter().map(|host| &***host as &Host));
        let local_well = local.hosts.iter().filter(|host| is_healthy(host));
        let of_local = per_locality(&mut local_well.clone().map(|host| &**host));
        let has_here = upstream
            .first()
            .is_some_and(|first| **first == routing.here);
        let picks: Vec<Vec<Rc<WorkerHost>>> = upstream
            .iter()
            .map(|locality| {
                let here = well.iter().filter(|host| *host.locality == **locality);
                here.map(|host| Rc::clone(host)).collect()
            })
            .collect();
        let enough = forced.is_some_and(|least| {
            picks
                .first()
                .is_some_and(|here| count(here.len()) >= u64::from(least.max(1)))
        });
        let share = match (of_upstream.first(), of_local.first()) {
            (Some(upstream), Some(local))
                if has_here && (enough || *upstream > 0 && upstream >= local) =>
            {
                Share::Direct
            }
            _ => Share::residual(&of_upstream, &of_local, has_here),
        };
        let slow_start: Option<SlowStart> = info.settings.load_balancer.slow_start;
        let all = count(local.hosts.len());
        let local_panic = 100 * count(local_well.count()) < panic_threshold * all || all == 0;
        Some(Self {
            routing: routing.clone(),
            local_panic,
            share,
            picks: picks
                .into_iter()
                .map(|hosts| Pick::new(hosts, slow_start))
                .collect(),
        })
    }

    /// The hosts that a request should go to; none: to any.
    pub(super) fn choose(
        &mut self,
        info: &ClusterInfo,
        cx: &dyn LoadBalancerContext,
    ) -> Option<&mut Pick> {
        if !self.routing.enabled.contains(cx.random()) {
            return None;
        }
        let stats = &info.update_stats;
        if self.local_panic {
            stats.lb_local_cluster_not_ok().inc();
            return None;
        }
        let at = match &self.share {
            Share::Direct => {
                stats.lb_zone_routing_all_directly().inc();
                0
            }
            Share::Residual { here, .. } if cx.random() % 10_000 < *here => {
                stats.lb_zone_routing_sampled().inc();
                0
            }
            Share::Residual { capacity, .. } => {
                stats.lb_zone_routing_cross_zone().inc();
                match capacity.last() {
                    Some(0) | None => {
                        stats.lb_zone_no_capacity_left().inc();
                        let localities = u64::try_from(self.picks.len()).unwrap_or(u64::MAX);
                        usize::try_from(cx.random() % localities.max(1)).unwrap_or(0)
                    }
                    Some(all) => {
                        let drawn = cx.random() % all;
                        capacity
                            .iter()
                            .position(|sum| drawn < *sum)
                            .unwrap_or_default()
                    }
                }
            }
        };
        self.picks
            .get_mut(at)
            .filter(|pick| !pick.hosts().is_empty())
    }
}

impl Share {
    fn residual(upstream: &[u64], local: &[u64], has_here: bool) -> Self {
        let here = match (has_here, upstream.first(), local.first()) {
            (true, Some(upstream), Some(local)) if *local > 0 => upstream * 10_000 / local,
            _ => 0,
        };
        let mut sum = 0;
        let pairs = upstream.iter().zip(local).enumerate();
        let capacity = pairs.map(|(at, (upstream, local))| {
            // What fits in here has its share already.
            if !(at == 0 && has_here) {
                sum += upstream.saturating_sub(*local);
            }
            sum
        });
        Self::Residual {
            here,
            capacity: capacity.collect(),
        }
    }
}

/// Each locality once, that of the proxy first.
fn localities<'a>(
    all: impl Iterator<Item = &'a Arc<Locality>>,
    here: &Locality,
) -> Vec<&'a Locality> {
    let mut known: Vec<&Locality> = all.map(|locality| &**locality).collect();
    known.sort_by_key(|locality| (*locality != here, *locality));
    known.dedup();
    known
}
