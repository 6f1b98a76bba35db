//! What clusters are made with, and the pages and stats of those that are not made yet.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::super::cluster_table::Changes;
use super::cold::ColdState;
use super::counts::EdsReadouts;
use super::{Cold, LazyCluster, Made};
use crate::server::ServerContext;
use crate::stats::{Group, StatsSource, Store};

/// What clusters are made with, and those that are not made yet.
pub(in crate::upstream) struct Maker {
    pub(super) server: Arc<ServerContext>,
    pub(super) changes: Arc<Changes>,
    pub(super) workers: usize,
    cold: Mutex<Vec<Weak<LazyCluster>>>,
}

/// A cluster has about as many groups of stats.
const PREFIXES: usize = 8;

impl Maker {
    pub(in crate::upstream) fn new(
        server: &Arc<ServerContext>,
        changes: &Arc<Changes>,
        workers: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            server: server.clone(),
            changes: changes.clone(),
            workers,
            cold: Mutex::default(),
        })
    }

    pub(super) fn add(&self, cluster: &Arc<LazyCluster>) {
        let mut cold = self.cold.lock();
        if cold.len() == cold.capacity() {
            cold.retain(|known| {
                known
                    .upgrade()
                    .is_some_and(|known| known.made.get().is_none())
            });
        }
        cold.push(Arc::downgrade(cluster));
    }

    fn all(&self) -> Vec<Arc<LazyCluster>> {
        self.cold.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Does something with every cluster that is not made and whose stats nobody else has. Those that share their prefix with
    /// others are made.
    fn each(&self, store: &Store, mut act: impl FnMut(&LazyCluster, &Cold, &ColdState)) {
        let all = self.all();
        let mut owners = HashMap::with_capacity(all.len());
        for cluster in &all {
            let owner = cluster.with_cold(|cold, state| {
                let counts = Arc::as_ptr(&cold.counts);
                (cluster.prefix(state), counts)
            });
            let Some((prefix, counts)) = owner else {
                continue;
            };
            let is_shared = store.has_prefix(&prefix);
            match owners.entry(prefix) {
                Entry::Vacant(place) if !is_shared => {
                    place.insert((cluster, counts));
                }
                Entry::Occupied(place) if place.get().1 == counts => {}
                // What is made has its prefix, so those that come later are made as well.
                Entry::Occupied(place) => {
                    place.get().0.get();
                    cluster.get();
                }
                Entry::Vacant(_) => {
                    cluster.get();
                }
            }
        }
        for (cluster, _) in owners.values() {
            cluster.with_cold(|cold, state| act(cluster, cold, state));
        }
    }
}

impl StatsSource for Maker {
    fn groups(&self, store: &Store) -> Vec<Arc<Group>> {
        let mut groups = Vec::new();
        self.each(store, |cluster, cold, state| {
            let store = self.server.stats.detached();
            let shown = cluster.show(cold, state, &store);
            let made = Made {
                eds: Some(EdsReadouts::new(&shown.info.scope)),
                cluster: Arc::new(shown),
            };
            cold.counts.lock().replay(&made);
            // What came since the last flush is shown with the rest.
            store.flush();
            store.flush();
            groups.extend(store.groups());
        });
        groups
    }

    fn texts(&self, store: &Store) -> Vec<(Arc<str>, String)> {
        let mut texts = Vec::new();
        self.each(store, |cluster, cold, state| {
            let name = format!("{}version_text", cluster.prefix(state));
            let version = cold.counts.lock().version_text.clone();
            let version = version.map(|version| version.to_string());
            texts.push((name.into(), version.unwrap_or_default()));
        });
        texts
    }

    fn reset_counters(&self) {
        for cluster in self.all() {
            cluster.with_cold(|cold, _| cold.counts.lock().reset());
        }
    }

    fn registered(&self) -> usize {
        self.cold.lock().len() * PREFIXES
    }
}
