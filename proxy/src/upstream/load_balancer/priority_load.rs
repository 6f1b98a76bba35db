//! Which share of the requests each priority gets, by how many of its hosts are well.

use super::super::host::{Health, Standing, WorkerHost};
use super::super::priority_set::{HostSet, PrioritySet};
use super::LoadBalancerContext;

/// The load of each priority, in percent; all together 100.
#[derive(Debug, Default)]
pub(super) struct PriorityLoad {
    healthy: Vec<u32>,
    degraded: Vec<u32>,
    panic: Vec<bool>,
    /// What each could take of healthy and degraded hosts, in percent.
    available: Vec<(u32, u32)>,
}

/// How many hosts of a priority are how well.
#[derive(Debug, Clone, Default)]
pub(in crate::upstream) struct PriorityCounts {
    /// All, excluded ones too.
    hosts: usize,
    /// Each host is one.
    plain: Counts,
    /// Each host is its weight.
    weighted: Counts,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    all: u64,
    healthy: u64,
    degraded: u64,
}

impl PriorityLoad {
    /// The load that follows from the hosts. `panic_threshold` is in percent.
    pub(super) fn new(set: &PrioritySet, panic_threshold: u64) -> Self {
        let counts: Vec<_> = set.priorities.iter().map(PriorityCounts::new).collect();
        let factor = set.overprovisioning_factor;
        let how = |_| (factor, set.weighted_priority_health);
        Self::of_counts(&counts, &how, panic_threshold)
    }

    /// The same where it is known how many hosts there are. `how` knows of each priority how much of its hosts may be missing, in
    /// percent, and whether their weights count for that.
    pub(super) fn of_counts(
        priorities: &[PriorityCounts],
        how: &dyn Fn(usize) -> (u32, bool),
        panic_threshold: u64,
    ) -> Self {
        let mut load = Self {
            healthy: vec![0; priorities.len()],
            degraded: vec![0; priorities.len()],
            panic: vec![false; priorities.len()],
            available: Vec::new(),
        };
        if priorities.is_empty() {
            return load;
        }
        let (healthy, degraded): (Vec<_>, Vec<_>) = priorities
            .iter()
            .enumerate()
            .map(|(at, hosts)| {
                let (factor, weighted) = how(at);
                let factor = u64::from(factor);
                let counts = match weighted {
                    true => &hosts.weighted,
                    false => &hosts.plain,
                };
                let percent = |part: u64| match counts.all {
                    0 => 0,
                    all => u32::try_from((factor * part / all).min(100)).unwrap_or(100),
                };
                (percent(counts.healthy), percent(counts.degraded))
            })
            .unzip();
        load.available = healthy
            .iter()
            .copied()
            .zip(degraded.iter().copied())
            .collect();
        let total = (healthy.iter().sum::<u32>() + degraded.iter().sum::<u32>()).min(100);
        if total > 0 {
            load.distribute(&healthy, &degraded, total);
        } else if panic_threshold == 0 {
            load.healthy[0] = 100;
            return load;
        }
        let mut total_panic = true;
        for (index, hosts) in priorities.iter().enumerate() {
            load.panic[index] = total < 100 && is_in_panic(hosts, panic_threshold);
            total_panic &= load.panic[index];
        }
        if total_panic {
            load.distribute_by_size(priorities);
        }
        load
    }

    /// Whether one priority gets everything, and its healthy hosts all of it.
    pub(super) fn is_all_healthy(&self) -> bool {
        self.healthy.first() == Some(&100)
    }

    /// Whether hosts of this priority are chosen from regardless of their health.
    pub(super) fn in_panic(&self, priority: usize) -> bool {
        self.panic.get(priority).copied().unwrap_or_default()
    }

    /// The priority for a request that drew `random`, and which of its hosts.
    pub(super) fn choose(&self, random: u64) -> (usize, Health) {
        let drawn = random % 100 + 1;
        let mut sum = 0;
        for (loads, health) in [
            (&self.healthy, Health::Healthy),
            (&self.degraded, Health::Degraded),
        ] {
            for (priority, load) in loads.iter().enumerate() {
                sum += u64::from(*load);
                if drawn <= sum {
                    return (priority, health);
                }
            }
        }
        (0, Health::Healthy)
    }

    /// The same among the priorities that `cx` does not avoid. `index_of` knows which priority a host belongs to.
    #[cold]
    pub(super) fn choose_avoiding(
        &self,
        cx: &dyn LoadBalancerContext,
        index_of: &dyn Fn(&WorkerHost) -> Option<usize>,
    ) -> (usize, Health) {
        let avoided = |priority: usize| {
            let mut hosts = cx.avoided_priorities().iter();
            hosts.any(|host| index_of(host) == Some(priority))
        };
        let left = |keep: &dyn Fn(usize) -> bool| -> Vec<(u32, u32)> {
            let all = self.available.iter().enumerate();
            all.map(|(priority, of)| if keep(priority) { *of } else { (0, 0) })
                .collect()
        };
        let total = |of: &[(u32, u32)]| of.iter().map(|(h, d)| h + d).sum::<u32>().min(100);
        let mut available = left(&|priority| !avoided(priority));
        if total(&available) == 0 {
            cx.forget_avoided_priorities();
            available = left(&|_| true);
        }
        let total = total(&available);
        if total == 0 {
            return self.choose(cx.random());
        }
        let mut drawn = cx.random() % 100;
        let healthy = available.iter().map(|(h, _)| (*h, Health::Healthy));
        let degraded = available.iter().map(|(_, d)| (*d, Health::Degraded));
        for (at, (share, health)) in healthy.chain(degraded).enumerate() {
            let load = u64::from(share * 100 / total);
            if drawn < load {
                return (at % available.len(), health);
            }
            drawn -= load;
        }
        // What remains comes from rounding.
        let first = available.iter().position(|(h, d)| h + d > 0).unwrap_or(0);
        let health = if available[first].0 > 0 {
            Health::Healthy
        } else {
            Health::Degraded
        };
        (first, health)
    }

    fn distribute(&mut self, healthy: &[u32], degraded: &[u32], total: u32) {
        let mut left = 100;
        let first_healthy = assign(&mut self.healthy, healthy, total, &mut left);
        let first_degraded = assign(&mut self.degraded, degraded, total, &mut left);
        // What remains comes from rounding.
        if let Some(first) = first_healthy {
            self.healthy[first] += left;
        } else if let Some(first) = first_degraded {
            self.degraded[first] += left;
        }
    }

    /// Everything is in panic: each priority gets what its number of hosts says.
    fn distribute_by_size(&mut self, priorities: &[PriorityCounts]) {
        self.degraded.fill(0);
        let total: usize = priorities.iter().map(|set| set.hosts).sum();
        if total == 0 {
            self.healthy.fill(0);
            self.healthy[0] = 100;
            return;
        }
        let mut left = 100;
        for (load, set) in self.healthy.iter_mut().zip(priorities) {
            *load = u32::try_from(100 * set.hosts / total).unwrap_or(100);
            left -= *load;
        }
        if let Some(first) = priorities.iter().position(|set| set.hosts > 0) {
            self.healthy[first] += left;
        }
    }
}

impl PriorityCounts {
    pub(super) fn new(set: &HostSet) -> Self {
        let mut counts = Self::default();
        for host in &set.hosts {
            counts.add(host.standing(), host.weight);
        }
        counts
    }

    /// Whether there are no hosts at all.
    pub(super) fn is_empty(&self) -> bool {
        self.hosts == 0
    }

    /// A host counts otherwise than before.
    pub(super) fn recount(&mut self, old: Standing, new: Standing, weight: u32) {
        for (counts, n) in [
            (&mut self.plain, 1),
            (&mut self.weighted, u64::from(weight)),
        ] {
            counts.change(old, |count| count.saturating_sub(n));
            counts.change(new, |count| count + n);
        }
    }

    /// One host more.
    pub(super) fn add(&mut self, standing: Standing, weight: u32) {
        self.hosts += 1;
        self.plain.change(standing, |count| count + 1);
        self.weighted
            .change(standing, |count| count + u64::from(weight));
    }
}

impl Counts {
    /// Hosts that drain by themselves are not missing.
    fn change(&mut self, standing: Standing, change: impl Fn(u64) -> u64) {
        if standing.excluded {
            return;
        }
        self.all = change(self.all);
        match standing.health {
            Health::Healthy => self.healthy = change(self.healthy),
            Health::Degraded => self.degraded = change(self.degraded),
            Health::Unhealthy => {}
        }
    }
}

/// Gives each priority what it can take, the first ones first. Returns the first that can take anything.
fn assign(loads: &mut [u32], available: &[u32], total: u32, left: &mut u32) -> Option<usize> {
    for (load, available) in loads.iter_mut().zip(available) {
        *load = (*left).min(available * 100 / total);
        *left -= *load;
    }
    available.iter().position(|available| *available > 0)
}

fn is_in_panic(set: &PriorityCounts, threshold: u64) -> bool {
    let counts = &set.plain;
    match counts.all {
        0 => threshold > 0,
        all => 100 * counts.healthy / all + 100 * counts.degraded / all < threshold,
    }
}
