//! The hosts of a cluster by priority.

use std::sync::Arc;

use super::host::{Health, Host, Locality};

/// The hosts of a cluster at one moment. Immutable; a change makes a new one, in which unchanged hosts are the same.
#[derive(Debug, Default)]
pub struct PrioritySet {
    /// By priority, 0 first. There may be empty ones in between.
    pub priorities: Box<[HostSet]>,
    /// How much of a priority's hosts may be missing before the next takes over, in percent. Default 140.
    pub overprovisioning_factor: u32,
    /// Whether the health of a priority counts weights instead of hosts.
    pub weighted_priority_health: bool,
}

/// The hosts of one priority.
#[derive(Debug, Default)]
pub struct HostSet {
    /// All of them.
    pub hosts: Box<[Arc<Host>]>,
    /// The same by locality, as indexes of `hosts`. Localities of the same name are one.
    pub localities: Box<[LocalityHosts]>,
}

/// The hosts of one locality.
#[derive(Debug)]
pub struct LocalityHosts {
    /// Where they are.
    pub locality: Arc<Locality>,
    /// `LocalityLbEndpoints.load_balancing_weight`; 0 gets no traffic where localities are weighted.
    pub weight: u32,
    /// Indexes of the hosts.
    pub hosts: Box<[u32]>,
}

impl PrioritySet {
    /// All hosts of all priorities.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.priorities.iter().flat_map(|set| set.hosts.iter())
    }

    /// How many hosts are in this state.
    pub fn count(&self, health: Health) -> usize {
        self.hosts()
            .filter(|host| host.coarse_health() == health)
            .count()
    }
}
