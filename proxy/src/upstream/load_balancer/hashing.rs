//! Ring hash and Maglev: tables in which the hash of a request finds its host.
//!
//! Main builds them once for each change of the hosts, and all workers read the same.

use std::fmt;

use super::LoadBalancerContext;
use super::maglev::Maglev;
use super::priority_load::PriorityLoad;
use super::ring_hash::{HashFunction, Ring};
use crate::stats::Scope;
use crate::upstream::host::{Health, Host};
use crate::upstream::priority_set::{HostSet, PrioritySet};

/// What a hashing policy is set to.
#[derive(Debug, Clone, PartialEq)]
pub struct HashSettings {
    /// Which table it has.
    pub table: TableSettings,
    /// Whether hosts have their places by their hostname instead of their address. Default false.
    pub use_hostname_for_hashing: bool,
    /// How much busier than the average a host may be before others are taken, in percent, 100..; 0 (default): no limit.
    pub hash_balance_factor: u32,
}

/// A table and its size.
#[derive(Debug, Clone, PartialEq)]
pub enum TableSettings {
    /// `RING_HASH`.
    RingHash {
        /// Default 1024, at most 8388608.
        minimum_ring_size: u64,
        /// Default 8388608, which is also the most.
        maximum_ring_size: u64,
        /// Places hosts on the ring.
        hash_function: HashFunction,
    },
    /// `MAGLEV`.
    Maglev {
        /// A prime number, at most 5000011. Default 65537.
        table_size: u64,
    },
}

/// The tables of all priorities, and how the load is shared between these.
pub(in crate::upstream) struct HashTables {
    load: PriorityLoad,
    priorities: Box<[HashTable]>,
}

/// The table of one priority.
struct HashTable {
    /// The hosts in it, as indexes of the priority's hosts.
    hosts: Box<[u32]>,
    /// Their shares of all requests; empty where nothing bounds their load.
    weights: Box<[f64]>,
    places: Places,
}

enum Places {
    Ring(Ring),
    Maglev(Maglev),
}

/// A host that takes part in a table.
pub(super) struct Entry {
    /// What its places are computed from.
    pub(super) key: Box<str>,
    index: u32,
    /// Its share of all requests.
    pub(super) weight: f64,
}

/// Which host has which place, in as many bytes as the number of hosts needs.
pub(super) enum Owners {
    U8(Box<[u8]>),
    U16(Box<[u16]>),
    U32(Box<[u32]>),
}

/// What bounds the load of hosts.
pub(super) struct Load<'a> {
    /// Requests in flight to the whole cluster.
    pub(super) cluster: u64,
    /// Requests in flight to a host of the priority.
    pub(super) of_host: &'a dyn Fn(u32) -> u64,
    /// `hash_balance_factor`.
    pub(super) factor: u32,
}

impl HashTables {
    /// The tables for these hosts. `threshold` is that of panic, in percent; `scope` is that of the cluster.
    pub(in crate::upstream) fn new(
        settings: &HashSettings,
        locality_weighted: bool,
        set: &PrioritySet,
        threshold: u64,
        scope: &Scope,
    ) -> Self {
        let load = PriorityLoad::new(set, threshold);
        let priorities = set.priorities.iter().enumerate().map(|(at, hosts)| {
            let entries = entries(settings, locality_weighted, hosts, load.in_panic(at));
            HashTable::new(settings, entries, scope)
        });
        Self {
            priorities: priorities.collect(),
            load,
        }
    }

    /// The priority for a hash, and whether it is in panic.
    pub(super) fn priority(&self, hash: u64) -> (usize, bool) {
        let (priority, _) = self.load.choose(hash);
        (priority, self.load.in_panic(priority))
    }

    /// The host of a priority for a hash. Each further attempt asks for another one.
    pub(super) fn host(
        &self,
        priority: usize,
        hash: u64,
        attempt: u32,
        load: &Load<'_>,
    ) -> Option<u32> {
        let table = self.priorities.get(priority)?;
        let first = table.places.owner(hash, attempt)?;
        let at = match table.weights.is_empty() {
            true => first,
            false => super::bounded_load::choose(first, hash, &table.hosts, &table.weights, load),
        };
        table.hosts.get(at).copied()
    }
}

impl HashTable {
    fn new(settings: &HashSettings, mut entries: Vec<Entry>, scope: &Scope) -> Self {
        let places = match &settings.table {
            TableSettings::RingHash {
                minimum_ring_size,
                maximum_ring_size,
                hash_function,
            } => {
                let sizes = (*minimum_ring_size, *maximum_ring_size);
                Places::Ring(Ring::new(&entries, sizes, *hash_function, scope))
            }
            TableSettings::Maglev { table_size } => {
                // The order in which hosts take their places must not depend on that of the configuration.
                entries.sort_by(|a, b| a.key.cmp(&b.key));
                Places::Maglev(Maglev::new(&entries, *table_size, scope))
            }
        };
        let weights = entries.iter().filter(|_| settings.hash_balance_factor > 0);
        Self {
            weights: weights.map(|entry| entry.weight).collect(),
            hosts: entries.iter().map(|entry| entry.index).collect(),
            places,
        }
    }
}

impl Places {
    fn owner(&self, hash: u64, attempt: u32) -> Option<usize> {
        match self {
            Self::Ring(ring) => ring.owner(hash, attempt),
            Self::Maglev(maglev) => maglev.owner(hash, attempt),
        }
    }
}

/// The hash of a request, or any number if it has none.
pub(super) fn hash_of(cx: &dyn LoadBalancerContext) -> u64 {
    cx.hash_key().unwrap_or_else(|| cx.random())
}

/// The hosts that may be chosen, each with its share of all requests.
fn entries(
    settings: &HashSettings,
    locality_weighted: bool,
    set: &HostSet,
    in_panic: bool,
) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut add = |indexes: &mut dyn Iterator<Item = u32>, share: f64| {
        let usable: Vec<_> = indexes
            .filter_map(|index| Some((index, set.hosts.get(usize::try_from(index).ok()?)?)))
            .filter(|(_, host)| in_panic || host.coarse_health() == Health::Healthy)
            .collect();
        #[allow(
            clippy::cast_precision_loss,
            reason = "the weights of a locality add up to no more than 2^32"
        )]
        let sum = usable
            .iter()
            .map(|(_, host)| u64::from(host.weight))
            .sum::<u64>() as f64;
        entries.extend(usable.into_iter().map(|(index, host)| Entry {
            key: hash_key(host, settings.use_hostname_for_hashing),
            index,
            weight: f64::from(host.weight) * share / sum,
        }));
    };
    if !locality_weighted || set.localities.is_empty() {
        let all = u32::try_from(set.hosts.len()).unwrap_or(u32::MAX);
        add(&mut (0..all), 1.0);
        return entries;
    }
    let total: u64 = set.localities.iter().map(|l| u64::from(l.weight)).sum();
    let mut localities: Vec<_> = set.localities.iter().collect();
    localities.sort_by(|a, b| a.locality.cmp(&b.locality));
    for locality in localities.into_iter().filter(|l| l.weight > 0) {
        #[allow(
            clippy::cast_precision_loss,
            reason = "the weights of localities add up to no more than 2^32"
        )]
        let share = f64::from(locality.weight) / total as f64;
        add(&mut locality.hosts.iter().copied(), share);
    }
    entries
}

/// `hash_key` of the metadata in `envoy.lb`, or the name or the address of a host.
fn hash_key(host: &Host, use_hostname: bool) -> Box<str> {
    let key = host.metadata.value("envoy.lb", ["hash_key"]);
    match key.and_then(serde_json::Value::as_str) {
        Some(key) if !key.is_empty() => key.into(),
        _ if use_hostname => (&*host.hostname).into(),
        _ => host.address.to_string().into(),
    }
}

impl Owners {
    /// `owners` must hold numbers below `hosts` alone.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the numbers are below that of the hosts, which was compared"
    )]
    pub(super) fn new(owners: impl Iterator<Item = u32>, hosts: usize) -> Self {
        match hosts {
            0..=0x100 => Self::U8(owners.map(|owner| owner as u8).collect()),
            0x101..=0x1_0000 => Self::U16(owners.map(|owner| owner as u16).collect()),
            _ => Self::U32(owners.collect()),
        }
    }

    pub(super) fn get(&self, at: usize) -> Option<usize> {
        match self {
            Self::U8(owners) => owners.get(at).map(|owner| usize::from(*owner)),
            Self::U16(owners) => owners.get(at).map(|owner| usize::from(*owner)),
            Self::U32(owners) => usize::try_from(*owners.get(at)?).ok(),
        }
    }
}

impl fmt::Debug for HashTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashTables")
            .field("priorities", &self.priorities.len())
            .finish_non_exhaustive()
    }
}
