//! The hosts of a cluster by priority.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use smallvec::SmallVec;

use super::host::{Health, Host, HostIdentity, Locality};
use super::load_balancer::{HashTables, SubsetTable};

/// The hosts of a cluster at one moment. Immutable; a change makes a new one, in which unchanged hosts are the same.
#[derive(Debug, Clone, Default)]
pub struct PrioritySet {
    /// By priority, 0 first. There may be empty ones in between.
    pub priorities: Box<[HostSet]>,
    /// How much of a priority's hosts may be missing before the next takes over, in percent. Default 140.
    pub overprovisioning_factor: u32,
    /// Whether the health of a priority counts weights instead of hosts.
    pub weighted_priority_health: bool,
    /// Of load balancers that hash; set when the hosts are published.
    pub(super) hash_tables: Option<Arc<HashTables>>,
    /// With `lb_subset_config`; set likewise.
    pub(super) subsets: Option<Arc<SubsetTable>>,
    /// Where each host is: its priority, and its index there. Of clusters that watch over the health of their hosts; set likewise.
    pub(super) places: Option<Arc<HashMap<HostIdentity, (u32, u32)>>>,
}

/// The hosts of one priority.
#[derive(Debug, Clone, Default)]
pub struct HostSet {
    /// All of them.
    pub hosts: Box<[Arc<Host>]>,
    /// The same by locality, as indexes of `hosts`. Localities of the same name are one. Empty where localities have no weights.
    pub localities: Box<[LocalityHosts]>,
}

/// The hosts of one locality.
#[derive(Debug, Clone)]
pub struct LocalityHosts {
    /// Where they are.
    pub locality: Arc<Locality>,
    /// `LocalityLbEndpoints.load_balancing_weight`; 0 gets no traffic where localities are weighted.
    pub weight: u32,
    /// Indexes of the hosts.
    pub hosts: Box<[u32]>,
}

/// Hosts that belong together, as they are configured or found.
#[derive(Debug)]
pub(super) struct HostGroup {
    pub(super) locality: Arc<Locality>,
    pub(super) weight: u32,
    pub(super) priority: u32,
    pub(super) hosts: Vec<Arc<Host>>,
}

impl PrioritySet {
    /// Sorts groups by priority and locality.
    pub(super) fn new(
        groups: impl Iterator<Item = HostGroup>,
        overprovisioning_factor: u32,
        weighted_priority_health: bool,
    ) -> Self {
        let mut priorities: Vec<Growing> = Vec::new();
        for group in groups {
            let at = usize::try_from(group.priority).unwrap_or(usize::MAX);
            if priorities.len() <= at {
                priorities.resize_with(at + 1, Growing::default);
            }
            priorities[at].add(group);
        }
        Self {
            priorities: priorities.into_iter().map(HostSet::from).collect(),
            overprovisioning_factor,
            weighted_priority_health,
            hash_tables: None,
            subsets: None,
            places: None,
        }
    }

    /// Adds priorities without hosts until there are `count`.
    pub(super) fn keep_priorities(&mut self, count: usize) {
        if count > self.priorities.len() {
            let mut priorities = std::mem::take(&mut self.priorities).into_vec();
            priorities.resize_with(count, HostSet::default);
            self.priorities = priorities.into();
        }
    }

    pub(super) fn find_places(&self) -> Option<Arc<HashMap<HostIdentity, (u32, u32)>>> {
        let priorities = (0..).zip(&self.priorities);
        let places = priorities.flat_map(|(priority, set)| {
            let hosts = (0..).zip(&set.hosts);
            hosts.map(move |(at, host)| (host.identity(), (priority, at)))
        });
        Some(Arc::new(places.collect()))
    }

    /// Where these hosts are. Those that are not here are left out.
    pub(super) fn places_of(
        &self,
        wanted: impl Iterator<Item = HostIdentity>,
    ) -> SmallVec<[(u32, u32); 4]> {
        if let Some(places) = &self.places {
            return wanted
                .filter_map(|host| places.get(&host).copied())
                .collect();
        }
        let wanted: SmallVec<[HostIdentity; 4]> = wanted.collect();
        let is_wanted: Box<dyn Fn(&HostIdentity) -> bool> = match wanted.len() {
            0 => return SmallVec::new(),
            1..=4 => Box::new(|host| wanted.contains(host)),
            _ => {
                let wanted: HashSet<HostIdentity> = wanted.iter().copied().collect();
                Box::new(move |host| wanted.contains(host))
            }
        };
        let priorities = (0..).zip(&self.priorities);
        let places = priorities.flat_map(|(priority, set)| {
            let hosts = (0..).zip(&set.hosts);
            hosts.map(move |(at, host)| (host, (priority, at)))
        });
        let places = places.filter(|(host, _)| is_wanted(&host.identity()));
        places.map(|(_, place)| place).collect()
    }

    /// The same without a host.
    pub(super) fn without(&self, gone: HostIdentity) -> Self {
        let groups = self.groups().into_iter().map(|mut group| {
            group.hosts.retain(|host| host.identity() != gone);
            group
        });
        let mut set = Self::new(
            groups,
            self.overprovisioning_factor,
            self.weighted_priority_health,
        );
        let mut priorities = std::mem::take(&mut set.priorities).into_vec();
        priorities.resize_with(self.priorities.len(), HostSet::default);
        set.priorities = priorities.into();
        set
    }

    /// The hosts by priority and locality, as they could have been given.
    fn groups(&self) -> Vec<HostGroup> {
        let mut groups: Vec<HostGroup> = Vec::new();
        for (priority, set) in (0..).zip(&self.priorities) {
            for host in &set.hosts {
                let known = groups
                    .iter_mut()
                    .find(|group| group.priority == priority && group.locality == host.locality);
                match known {
                    Some(group) => group.hosts.push(host.clone()),
                    None => groups.push(HostGroup {
                        locality: host.locality.clone(),
                        weight: set.weight_of(&host.locality),
                        priority,
                        hosts: vec![host.clone()],
                    }),
                }
            }
        }
        groups
    }

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

impl HostSet {
    /// The weight of a locality; 0 where localities have none.
    pub(super) fn weight_of(&self, locality: &Locality) -> u32 {
        let mut localities = self.localities.iter();
        localities
            .find(|known| *known.locality == *locality)
            .map_or(0, |known| known.weight)
    }
}

/// A priority while its groups come in.
#[derive(Default)]
struct Growing {
    hosts: Vec<Arc<Host>>,
    localities: Vec<GrowingLocality>,
}

struct GrowingLocality {
    locality: Arc<Locality>,
    weight: u32,
    hosts: Vec<u32>,
}

impl Growing {
    /// Groups of the same locality are one; the weight of the last counts.
    fn add(&mut self, group: HostGroup) {
        let known = self
            .localities
            .iter()
            .position(|known| known.locality == group.locality);
        let at = known.unwrap_or(self.localities.len());
        if known.is_none() {
            self.localities.push(GrowingLocality {
                locality: group.locality,
                weight: 0,
                hosts: Vec::new(),
            });
        }
        let locality = &mut self.localities[at];
        locality.weight = group.weight;
        for host in group.hosts {
            // Memory ends long before four billion hosts.
            locality
                .hosts
                .push(u32::try_from(self.hosts.len()).unwrap_or(u32::MAX));
            self.hosts.push(host);
        }
    }
}

impl From<Growing> for HostSet {
    fn from(growing: Growing) -> Self {
        let weighted = growing
            .localities
            .iter()
            .any(|locality| locality.weight > 0);
        let localities = growing.localities.into_iter().filter(|_| weighted);
        Self {
            hosts: growing.hosts.into(),
            localities: localities
                .map(|growing| LocalityHosts {
                    locality: growing.locality,
                    weight: growing.weight,
                    hosts: growing.hosts.into(),
                })
                .collect(),
        }
    }
}
