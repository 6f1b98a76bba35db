//! The table of all clusters, by number: main writes it, workers read it.
//!
//! A change costs what changed: the table is written in place, and workers are told the numbers of what changed lately.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::ClusterId;
use super::lazy_cluster::LazyCluster;
use super::priority_set::PrioritySet;
use super::shared_cluster::Cluster;

/// The table of all clusters, by number. Main writes it, workers read it.
#[derive(Default)]
pub struct ClusterTable {
    slots: Slots,
    changes: Arc<Changes>,
    /// The cluster that the process is a host of; none: there is none.
    local: OnceLock<ClusterId>,
}

/// Which clusters have changed, they or their hosts, lately.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// How many changes there have been.
    version: AtomicU64,
    /// The numbers of the last of them. Main adds to it; a worker looks into it when `version` has grown.
    recent: Mutex<VecDeque<ClusterId>>,
    rung: watch::Sender<()>,
}

/// What has changed since somebody last looked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// These, some of them perhaps more than once.
    These(Vec<ClusterId>),
    /// More than is remembered.
    Anything,
}

/// As many changes are remembered; who has missed more looks at all of its clusters.
const REMEMBERED: usize = 1024;

/// Places for clusters that never move: each block is twice as long as the one before.
#[derive(Default)]
struct Slots([OnceLock<Box<[ArcSwapOption<LazyCluster>]>>; 27]);

const FIRST_BLOCK: usize = 64;

impl ClusterTable {
    /// The cluster with this number, if there is one. It is made now if nobody has asked for it before.
    pub fn get(&self, id: ClusterId) -> Option<Arc<Cluster>> {
        let cluster = self.find(id)?;
        Some(cluster.get().clone())
    }

    /// The same as it is held.
    pub(super) fn find(&self, id: ClusterId) -> Option<Arc<LazyCluster>> {
        self.slots.get(id)?.load_full()
    }

    /// The hosts of the cluster that the process is a host of.
    pub(super) fn local_hosts(&self) -> Option<Arc<PrioritySet>> {
        let local = self.get(*self.local.get()?)?;
        Some(local.hosts.load_full())
    }

    /// The cluster that the process is a host of.
    pub(super) fn local(&self) -> Option<ClusterId> {
        self.local.get().copied()
    }

    pub(super) fn set_local(&self, id: ClusterId) {
        // There is one for as long as the process lives.
        let _ = self.local.set(id);
    }

    /// All clusters.
    pub(super) fn all(&self) -> impl Iterator<Item = Arc<LazyCluster>> {
        let blocks = self.slots.0.iter().filter_map(OnceLock::get);
        blocks.flatten().filter_map(ArcSwapOption::load_full)
    }

    /// Sees every change of a cluster or its hosts from now on.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changes.rung.subscribe()
    }

    /// Where clusters of this table report changes of their hosts.
    pub(super) fn changes(&self) -> &Arc<Changes> {
        &self.changes
    }

    pub(super) fn replace(
        &self,
        changes: impl IntoIterator<Item = (ClusterId, Option<Arc<LazyCluster>>)>,
    ) {
        let changed = changes.into_iter().map(|(id, cluster)| {
            self.slots.get_or_make(id).store(cluster);
            id
        });
        let changed: Vec<ClusterId> = changed.collect();
        self.changes.add(&changed);
    }
}

impl Changes {
    /// How many changes there have been. It costs nothing to ask.
    #[inline]
    pub(super) fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    /// Tells of changes, after they were made.
    pub(super) fn add(&self, ids: &[ClusterId]) {
        if ids.is_empty() {
            return;
        }
        let mut recent = self.recent.lock();
        for id in ids {
            if recent.len() == REMEMBERED {
                recent.pop_front();
            }
            recent.push_back(*id);
        }
        let count = u64::try_from(ids.len()).unwrap_or(u64::MAX);
        self.version.fetch_add(count, Relaxed);
        drop(recent);
        self.rung.send_replace(());
    }

    /// The version now, and what has changed since it was `seen`.
    pub(super) fn since(&self, seen: u64) -> (u64, Changed) {
        let recent = self.recent.lock();
        let version = self.version();
        let missed = usize::try_from(version.wrapping_sub(seen)).unwrap_or(usize::MAX);
        let changed = match recent.len().checked_sub(missed) {
            Some(known) => Changed::These(recent.range(known..).copied().collect()),
            None => Changed::Anything,
        };
        (version, changed)
    }
}

impl Slots {
    fn get(&self, id: ClusterId) -> Option<&ArcSwapOption<LazyCluster>> {
        let (block, at) = place(id);
        self.0.get(block)?.get()?.get(at)
    }

    #[allow(
        clippy::indexing_slicing,
        reason = "a number has a place in one of the blocks, since it has 32 bits"
    )]
    fn get_or_make(&self, id: ClusterId) -> &ArcSwapOption<LazyCluster> {
        let (block, at) = place(id);
        let slots = self.0[block].get_or_init(|| {
            (0..FIRST_BLOCK << block)
                .map(|_| ArcSwapOption::empty())
                .collect()
        });
        &slots[at]
    }
}

/// The block that a number is in, and its place there.
fn place(id: ClusterId) -> (usize, usize) {
    // A number has 32 bits, an address 64.
    let index = usize::try_from(id.0).unwrap_or(usize::MAX);
    let block = (index / FIRST_BLOCK + 1).ilog2() as usize;
    (block, index - FIRST_BLOCK * ((1 << block) - 1))
}

impl fmt::Debug for ClusterTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterTable").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_place_of_its_own() {
        let mut expected = (0, 0);
        for id in 0..10_000 {
            assert_eq!(place(ClusterId(id)), expected);
            expected.1 += 1;
            if expected.1 == FIRST_BLOCK << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
        let (block, at) = place(ClusterId(u32::MAX));
        assert_eq!((block, at < FIRST_BLOCK << block), (26, true));
    }

    #[test]
    fn who_has_missed_few_changes_hears_which() {
        let changes = Changes::default();
        assert_eq!(changes.since(0), (0, Changed::These(Vec::new())));
        changes.add(&[ClusterId(7), ClusterId(3)]);
        changes.add(&[ClusterId(5)]);
        assert_eq!(
            changes.since(1),
            (3, Changed::These(vec![ClusterId(3), ClusterId(5)]))
        );
        assert_eq!(changes.since(3), (3, Changed::These(Vec::new())));
        changes.add(&vec![ClusterId(1); REMEMBERED]);
        let (version, changed) = changes.since(3);
        assert_eq!(changed, Changed::These(vec![ClusterId(1); REMEMBERED]));
        assert_eq!(changes.since(2), (version, Changed::Anything));
    }
}
