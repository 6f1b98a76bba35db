//! Subsets: hosts that have the same metadata, of which a route chooses by `metadata_match`.
//!
//! Main sorts the hosts into subsets once for each change, and all workers read the same; a worker makes the load balancer of
//! a subset when the first request wants it, and remembers which subset serves a route.
//!
//! Stats: `cluster.<name>.lb_subsets_*`. As in Envoy each thread counts as one: those that say how many there are grow by the
//! number of workers and one more.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::Policy;
use super::hashing::HashTables;
use super::metadata_match::{Criteria, LB_NAMESPACE, MetadataMatch, canonical, over};
use super::subset_config::{Fallback, SelectorFallback, SubsetSettings};
use crate::stats::Gauge;
use crate::upstream::cluster::ClusterInfo;
use crate::upstream::host::Host;
use crate::upstream::priority_set::{HostSet, LocalityHosts, PrioritySet};

/// The subsets of a cluster's hosts at one moment.
#[derive(Debug)]
pub(in crate::upstream) struct SubsetTable {
    pub(super) subsets: Vec<Subset>,
    /// Subsets of selectors by their names and values, the names sorted.
    by_values: HashMap<Criteria, usize>,
    /// All hosts, where anything falls back on them.
    pub(super) any: Option<usize>,
    pub(super) default: Option<usize>,
    /// Hosts that found the place in their subset taken. The gauge is there as long as the table.
    duplicates: Option<Gauge>,
}

/// One of them.
#[derive(Debug)]
pub(super) enum Subset {
    Hosts {
        set: PrioritySet,
        /// The same hosts by priority, as indexes of those of the cluster.
        indexes: Vec<Vec<u32>>,
    },
    /// The first host of each priority.
    Single(Vec<Option<u32>>),
}

/// Where a request looks for a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// The subset that its metadata name.
    Subset(usize),
    /// What the selector falls back on; none: nothing.
    OfSelector(Option<usize>),
    /// What the cluster falls back on.
    Fallback,
}

/// Names and values that a request asks for, sorted.
type Asked<'a> = Vec<(&'a str, &'a Value)>;

/// How often a fallback may lead to another one. Each has fewer keys than the one before.
const MOST_FALLBACKS: usize = 64;

impl SubsetTable {
    /// Sorts the hosts of `set`. `threshold` is that of panic, in percent.
    pub(in crate::upstream) fn new(
        info: &ClusterInfo,
        set: &PrioritySet,
        threshold: u64,
    ) -> Option<Self> {
        let settings = info.settings.load_balancer.subset.as_deref()?;
        let mut table = Self {
            subsets: Vec::new(),
            by_values: HashMap::new(),
            any: None,
            default: None,
            duplicates: None,
        };
        let wants = |fallback, of_selector: &SelectorFallback| {
            settings.fallback == fallback
                || settings
                    .selectors
                    .iter()
                    .any(|s| s.fallback == *of_selector)
        };
        if settings.panic_mode_any || wants(Fallback::AnyEndpoint, &SelectorFallback::AnyEndpoint) {
            table.any = Some(table.add(set, |_| true));
        }
        if wants(Fallback::DefaultSubset, &SelectorFallback::DefaultSubset) {
            table.default = Some(table.add(set, |host| settings.is_default(host)));
        }
        let duplicates = table.sort(settings, set);
        for subset in &mut table.subsets {
            subset.complete(info, settings, set, threshold);
        }
        let gauge = info
            .scope
            .gauge("lb_subsets_single_host_per_subset_duplicate");
        gauge.get().set(duplicates);
        table.duplicates = Some(gauge);
        Some(table)
    }

    /// Counts what is there now and was not in `old`, and the other way round.
    pub(in crate::upstream) fn count(&self, old: Option<&Self>, info: &ClusterInfo) {
        // Main has a load balancer as well.
        let threads = u64::try_from(info.scope.store().workers() + 1).unwrap_or(u64::MAX);
        let stats = &info.update_stats;
        let lacking = |from: &Self, of: Option<&Self>| -> u64 {
            let missing = from.by_values.keys();
            let missing =
                missing.filter(|key| of.is_none_or(|of| !of.by_values.contains_key(*key)));
            u64::try_from(missing.count()).unwrap_or(u64::MAX)
        };
        let created = lacking(self, old);
        let removed = old.map_or(0, |old| lacking(old, Some(self)));
        let active = u64::try_from(self.by_values.len()).unwrap_or(u64::MAX);
        stats.lb_subsets_created().add(created * threads);
        stats.lb_subsets_removed().add(removed * threads);
        stats.lb_subsets_active().set(active * threads);
    }

    fn add(&mut self, set: &PrioritySet, belongs: impl Fn(&Host) -> bool) -> usize {
        let of_priority = |hosts: &HostSet| {
            let indexed = (0..).zip(&hosts.hosts);
            let own = indexed.filter(|(_, host)| belongs(host));
            own.map(|(index, _)| index).collect()
        };
        self.push(Subset::Hosts {
            set: PrioritySet::default(),
            indexes: set.priorities.iter().map(of_priority).collect(),
        })
    }

    fn push(&mut self, subset: Subset) -> usize {
        self.subsets.push(subset);
        self.subsets.len() - 1
    }

    /// Puts each host into the subsets of all selectors. Returns how many hosts of the last priority found their place taken.
    fn sort(&mut self, settings: &SubsetSettings, set: &PrioritySet) -> u64 {
        let mut duplicates = 0;
        let priorities = set.priorities.len();
        for (priority, hosts) in set.priorities.iter().enumerate() {
            duplicates = 0;
            for (index, host) in (0..).zip(&hosts.hosts) {
                for selector in &settings.selectors {
                    for values in settings.values_of(&selector.keys, host) {
                        let next = self.subsets.len();
                        let at = *self.by_values.entry(values.into()).or_insert(next);
                        if at == next {
                            self.push(match selector.single_host {
                                true => Subset::Single(vec![None; priorities]),
                                false => Subset::Hosts {
                                    set: PrioritySet::default(),
                                    indexes: vec![Vec::new(); priorities],
                                },
                            });
                        }
                        duplicates += u64::from(!self.subsets[at].take(priority, index));
                    }
                }
            }
        }
        duplicates
    }

    /// Where a request with these criteria looks, in turn.
    pub(super) fn resolve(
        &self,
        settings: &SubsetSettings,
        criteria: Option<&MetadataMatch>,
    ) -> Vec<Choice> {
        let Some(criteria) = criteria else {
            return vec![Choice::Fallback];
        };
        let asked: Asked<'_> = criteria.criteria.iter().map(|(k, v)| (&**k, v)).collect();
        let list = asked.iter().find(|(name, _)| *name == "fallback_list");
        let Some((_, list)) = list.filter(|_| settings.fallback_list) else {
            return vec![self.resolve_one(settings, asked)];
        };
        let without = asked
            .iter()
            .copied()
            .filter(|(name, _)| *name != "fallback_list");
        let without: Asked<'_> = without.collect();
        match list.as_array().map_or(&[][..], |list| list) {
            [] => vec![self.resolve_one(settings, without)],
            list => list
                .iter()
                .map(|overrides| {
                    let none = serde_json::Map::new();
                    let overrides = overrides.as_object().unwrap_or(&none);
                    let merged = over(without.iter().copied(), overrides);
                    let merged = merged.iter().map(|(name, value)| (&**name, value));
                    self.resolve_one(settings, merged.collect())
                })
                .collect(),
        }
    }

    fn resolve_one(&self, settings: &SubsetSettings, asked: Asked<'_>) -> Choice {
        let mut asked = asked;
        for _ in 0..MOST_FALLBACKS {
            if settings.allow_redundant_keys
                && let Some(selector) = settings.selectors.iter().find(|selector| {
                    let known = asked
                        .iter()
                        .filter(|(name, _)| selector.keys.contains(*name));
                    known.count() == selector.keys.len()
                })
            {
                asked.retain(|(name, _)| selector.keys.contains(*name));
            }
            if let Some(at) = self.find(&asked) {
                return Choice::Subset(at);
            }
            match settings.selector_fallback(&asked) {
                SelectorFallback::NotDefined => return Choice::Fallback,
                SelectorFallback::Nobody => return Choice::OfSelector(None),
                SelectorFallback::AnyEndpoint => return Choice::OfSelector(self.any),
                SelectorFallback::DefaultSubset => return Choice::OfSelector(self.default),
                SelectorFallback::Keys(keys) => asked.retain(|(name, _)| keys.contains(*name)),
            }
        }
        Choice::Fallback
    }

    fn find(&self, asked: &Asked<'_>) -> Option<usize> {
        let values: Criteria = asked
            .iter()
            .map(|(name, value)| ((*name).into(), Value::clone(value)))
            .collect();
        self.by_values.get(&values).copied()
    }
}

impl SubsetSettings {
    fn is_default(&self, host: &Host) -> bool {
        let values = host.metadata.get(LB_NAMESPACE);
        self.default_subset.iter().all(|(name, wanted)| {
            match values.and_then(|values| values.get(&**name)) {
                Some(Value::Array(list)) if self.list_as_any => {
                    list.iter().any(|value| canonical(value) == *wanted)
                }
                Some(value) => canonical(value) == *wanted,
                None => false,
            }
        })
    }

    /// The values of a host for these keys: none if it lacks one; several where values are lists of which each counts.
    fn values_of<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a Box<str>>,
        host: &Host,
    ) -> Vec<Vec<(Box<str>, Value)>> {
        let mut all: Vec<Vec<(Box<str>, Value)>> = Vec::new();
        let Some(values) = host.metadata.get(LB_NAMESPACE) else {
            return all;
        };
        for key in keys {
            let choices = match values.get(&**key) {
                None => return Vec::new(),
                Some(Value::Array(list)) if self.list_as_any => {
                    list.iter().map(canonical).collect()
                }
                Some(value) => vec![canonical(value)],
            };
            // An empty list before anything else is as if its key were not there.
            let before = if all.is_empty() {
                vec![Vec::new()]
            } else {
                all
            };
            all = before
                .iter()
                .flat_map(|values| {
                    choices.iter().map(move |choice| {
                        let own = std::iter::once((key.clone(), choice.clone()));
                        values.iter().cloned().chain(own).collect()
                    })
                })
                .collect();
        }
        all
    }

    /// What the selector with exactly these keys falls back on.
    fn selector_fallback(&self, asked: &Asked<'_>) -> &SelectorFallback {
        let begins = |keys: &BTreeSet<Box<str>>| {
            let mut pairs = keys.iter().zip(asked);
            keys.len() >= asked.len() && pairs.all(|(key, (name, _))| **key == **name)
        };
        // The first selector that has these keys, or begins with them, speaks for them.
        let first = self.selectors.iter().find(|s| begins(&s.keys));
        match first {
            Some(selector) if !asked.is_empty() && selector.keys.len() == asked.len() => {
                &selector.fallback
            }
            _ => &SelectorFallback::NotDefined,
        }
    }
}

impl Subset {
    /// Takes a host in. False if its place is taken.
    fn take(&mut self, priority: usize, index: u32) -> bool {
        match self {
            Self::Hosts { indexes, .. } => {
                indexes[priority].push(index);
                true
            }
            Self::Single(hosts) => {
                let free = hosts[priority].is_none();
                hosts[priority].get_or_insert(index);
                free
            }
        }
    }

    /// Makes the set of its hosts.
    fn complete(
        &mut self,
        info: &ClusterInfo,
        settings: &SubsetSettings,
        whole: &PrioritySet,
        threshold: u64,
    ) {
        let Self::Hosts { set, indexes } = self else {
            return;
        };
        let priorities = indexes.iter().zip(&whole.priorities);
        *set = PrioritySet {
            priorities: priorities
                .map(|(indexes, whole)| settings.part_of(whole, indexes))
                .collect(),
            overprovisioning_factor: whole.overprovisioning_factor,
            weighted_priority_health: whole.weighted_priority_health,
            hash_tables: None,
            subsets: None,
            places: None,
        };
        let balancer = &info.settings.load_balancer;
        if let Policy::Hash(hashing) = &balancer.policy {
            let weighted = balancer.locality_weighted;
            let tables = HashTables::new(hashing, weighted, set, threshold, &info.scope);
            set.hash_tables = Some(Arc::new(tables));
        }
    }
}

impl SubsetSettings {
    /// The hosts of `whole` at `indexes`, which are sorted.
    fn part_of(&self, whole: &HostSet, indexes: &[u32]) -> HostSet {
        let host = |index: &u32| whole.hosts.get(usize::try_from(*index).ok()?).cloned();
        let localities = whole
            .localities
            .iter()
            .filter(|_| self.locality_weight_aware);
        let localities = localities.map(|locality| {
            let own = locality.hosts.iter().filter_map(|index| {
                let at = indexes.binary_search(index).ok()?;
                u32::try_from(at).ok()
            });
            let hosts: Box<[u32]> = own.collect();
            let weight = match (self.scale_locality_weight, locality.hosts.len()) {
                (true, 0) => 0,
                (true, all) => scaled(locality.weight, hosts.len(), all),
                (false, _) => locality.weight,
            };
            LocalityHosts {
                locality: locality.locality.clone(),
                weight,
                hosts,
            }
        });
        HostSet {
            localities: localities.collect(),
            hosts: indexes.iter().filter_map(host).collect(),
        }
    }
}

/// `weight` by the share of the hosts that are left, rounded.
fn scaled(weight: u32, left: usize, all: usize) -> u32 {
    let (left, all) = (
        u128::try_from(left).unwrap_or(0),
        u128::try_from(all).unwrap_or(1),
    );
    let doubled = u128::from(weight) * left * 2 + all;
    u32::try_from(doubled / (2 * all)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
