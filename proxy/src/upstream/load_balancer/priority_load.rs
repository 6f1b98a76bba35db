//! Which share of the requests each priority gets, by how many of its hosts are well.

use super::super::host::Health;
use super::super::priority_set::{HostSet, PrioritySet};

/// The load of each priority, in percent; all together 100.
#[derive(Debug, Default)]
pub(super) struct PriorityLoad {
    healthy: Vec<u32>,
    degraded: Vec<u32>,
    panic: Vec<bool>,
}

struct Counts {
    all: u64,
    healthy: u64,
    degraded: u64,
}

impl PriorityLoad {
    /// The load that follows from the hosts. `panic_threshold` is in percent.
    pub(super) fn new(set: &PrioritySet, panic_threshold: u64) -> Self {
        let priorities = &set.priorities;
        let mut load = Self {
            healthy: vec![0; priorities.len()],
            degraded: vec![0; priorities.len()],
            panic: vec![false; priorities.len()],
        };
        if priorities.is_empty() {
            return load;
        }
        let factor = u64::from(set.overprovisioning_factor);
        let (healthy, degraded): (Vec<_>, Vec<_>) = priorities
            .iter()
            .map(|hosts| {
                let counts = Counts::new(hosts, set.weighted_priority_health);
                let percent = |part: u64| match counts.all {
                    0 => 0,
                    all => u32::try_from((factor * part / all).min(100)).unwrap_or(100),
                };
                (percent(counts.healthy), percent(counts.degraded))
            })
            .unzip();
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
    fn distribute_by_size(&mut self, priorities: &[HostSet]) {
        self.degraded.fill(0);
        let total: usize = priorities.iter().map(|set| set.hosts.len()).sum();
        if total == 0 {
            self.healthy.fill(0);
            self.healthy[0] = 100;
            return;
        }
        let mut left = 100;
        for (load, set) in self.healthy.iter_mut().zip(priorities) {
            *load = u32::try_from(100 * set.hosts.len() / total).unwrap_or(100);
            left -= *load;
        }
        if let Some(first) = priorities.iter().position(|set| !set.hosts.is_empty()) {
            self.healthy[first] += left;
        }
    }
}

impl Counts {
    fn new(set: &HostSet, weighted: bool) -> Self {
        let mut counts = Self {
            all: 0,
            healthy: 0,
            degraded: 0,
        };
        for host in &set.hosts {
            let n = if weighted { u64::from(host.weight) } else { 1 };
            counts.all += n;
            match host.coarse_health() {
                Health::Healthy => counts.healthy += n,
                Health::Degraded => counts.degraded += n,
                Health::Unhealthy => {}
            }
        }
        counts
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

fn is_in_panic(set: &HostSet, threshold: u64) -> bool {
    let counts = Counts::new(set, false);
    match counts.all {
        0 => threshold > 0,
        all => 100 * counts.healthy / all + 100 * counts.degraded / all < threshold,
    }
}
