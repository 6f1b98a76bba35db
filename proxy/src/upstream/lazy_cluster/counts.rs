//! What a subscription to endpoints counts: in stats once the cluster is made, in a few numbers before.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::super::cluster::ClusterInfo;
use super::super::discovery::eds::EdsStats;
use super::super::shared_cluster::Membership;
use super::Made;
use crate::stats::{Scope, TextReadout};
use crate::xx_hash::xx_hash64;

/// What happened to a subscription to endpoints.
#[derive(Debug, Clone, Copy)]
pub(in crate::upstream) enum EdsEvent<'a> {
    /// Something was asked for, or came.
    Attempt,
    /// The server cannot be reached.
    Failure,
    /// No first answer came in time.
    Timeout,
    /// A response without the resource.
    Empty,
    /// Nothing about hosts was new.
    Unchanged,
    Refused,
    Taken {
        version: &'a Arc<str>,
        took: Duration,
    },
    /// An older version's assignment was used.
    FromCache,
    /// An assignment came that holds for a limited time.
    WillBeStale,
    Stale,
    /// The cluster waits for something before it is used, or no longer.
    Warming(bool),
}

/// What a subscription to endpoints counts beside that which every cluster has.
#[derive(Clone)]
pub(in crate::upstream) struct EdsReadouts {
    stats: EdsStats,
    version_text: TextReadout,
}

/// The stats of a cluster that is not made. In those that are, a counter that was never touched is none.
#[derive(Default)]
pub(super) struct ColdCounts {
    attempts: u32,
    failures: u32,
    timeouts: u32,
    empty: u32,
    unchanged: u32,
    refused: u32,
    taken: u32,
    from_cache: u32,
    will_be_stale: u32,
    stale: u32,
    warming: Option<bool>,
    members: Option<Membership>,
    membership_changes: u32,
    matched: u32,
    heaviest: u32,
    has_been_degraded: bool,
    has_been_excluded: bool,
    version: u64,
    pub(super) version_text: Option<Arc<str>>,
    /// Unix time in ms.
    updated_at: u64,
    /// Updates that took less than a millisecond.
    quick: u32,
    /// The times of others, in ms. When there are many of them, the cluster is made.
    slow: Vec<u32>,
}

/// So many slow updates are remembered one by one.
const SLOW: usize = 32;

impl Made {
    pub(super) fn count(&self, event: EdsEvent<'_>) {
        let counted = &self.cluster.info.update_stats;
        let Some(EdsReadouts {
            stats,
            version_text,
        }) = &self.eds
        else {
            return;
        };
        match event {
            EdsEvent::Attempt => counted.update_attempt().inc(),
            EdsEvent::Failure => counted.update_failure().inc(),
            EdsEvent::Timeout => stats.init_fetch_timeout().inc(),
            EdsEvent::Empty => counted.update_empty().inc(),
            EdsEvent::Unchanged => counted.update_no_rebuild().inc(),
            EdsEvent::Refused => stats.update_rejected().inc(),
            EdsEvent::Taken { version, took } => {
                counted.update_success().inc();
                counted.version().set(xx_hash64(version.as_bytes(), 0));
                version_text.set(&**version);
                stats.update_time().set(now());
                stats.update_duration().record(millis(took));
            }
            EdsEvent::FromCache => counted.assignment_use_cached().inc(),
            EdsEvent::WillBeStale => counted.assignment_timeout_received().inc(),
            EdsEvent::Stale => counted.assignment_stale().inc(),
            EdsEvent::Warming(true) => counted.warming_state().set(1),
            EdsEvent::Warming(false) if !counted.warming_state().is_used() => {}
            EdsEvent::Warming(false) => counted.warming_state().set(0),
        }
    }
}

impl EdsReadouts {
    pub(super) fn new(scope: &Scope) -> Self {
        Self {
            stats: EdsStats::new(scope),
            version_text: scope.text_readout("version_text"),
        }
    }
}

impl ColdCounts {
    /// False: that is more than can be remembered.
    pub(super) fn count(&mut self, event: EdsEvent<'_>) -> bool {
        let counter = match event {
            EdsEvent::Attempt => &mut self.attempts,
            EdsEvent::Failure => &mut self.failures,
            EdsEvent::Timeout => &mut self.timeouts,
            EdsEvent::Empty => &mut self.empty,
            EdsEvent::Unchanged => &mut self.unchanged,
            EdsEvent::Refused => &mut self.refused,
            EdsEvent::FromCache => &mut self.from_cache,
            EdsEvent::WillBeStale => &mut self.will_be_stale,
            EdsEvent::Stale => &mut self.stale,
            EdsEvent::Taken { version, took } => {
                self.version = xx_hash64(version.as_bytes(), 0);
                self.version_text = Some(version.clone());
                self.updated_at = now();
                match u32::try_from(millis(took)).unwrap_or(u32::MAX) {
                    0 => self.quick += 1,
                    took => self.slow.push(took),
                }
                &mut self.taken
            }
            EdsEvent::Warming(is_warming) => {
                if is_warming || self.warming.is_some() {
                    self.warming = Some(is_warming);
                }
                return true;
            }
        };
        *counter += 1;
        *counter < u32::MAX / 2 && self.slow.len() < SLOW
    }

    pub(super) fn take(&mut self, members: Membership, heaviest: u32) {
        let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        self.membership_changes += count(members.changes);
        self.matched += count(members.matched);
        self.heaviest = heaviest;
        self.has_been_degraded |= members.degraded > 0;
        self.has_been_excluded |= members.excluded > 0;
        self.members = Some(members);
    }

    /// Sets back to zero what only grows.
    pub(super) fn reset(&mut self) {
        let Self {
            attempts,
            failures,
            timeouts,
            empty,
            unchanged,
            refused,
            taken,
            from_cache,
            will_be_stale,
            stale,
            membership_changes,
            matched,
            ..
        } = self;
        for counter in [
            attempts,
            failures,
            timeouts,
            empty,
            unchanged,
            refused,
            taken,
            from_cache,
            will_be_stale,
            stale,
            membership_changes,
            matched,
        ] {
            *counter = 0;
        }
    }

    /// Counts all that in stats that are there now.
    pub(super) fn replay(&self, made: &Made) {
        let Some(eds) = &made.eds else {
            return;
        };
        let counted = &made.cluster.info.update_stats;
        for (counter, count) in [
            (counted.update_attempt(), self.attempts),
            (counted.update_failure(), self.failures),
            (counted.update_empty(), self.empty),
            (counted.update_no_rebuild(), self.unchanged),
            (counted.update_success(), self.taken),
            (counted.assignment_use_cached(), self.from_cache),
            (counted.assignment_timeout_received(), self.will_be_stale),
            (counted.assignment_stale(), self.stale),
            (eds.stats.init_fetch_timeout(), self.timeouts),
            (eds.stats.update_rejected(), self.refused),
        ] {
            if count > 0 {
                counter.add(count.into());
            }
        }
        if let Some(is_warming) = self.warming {
            counted.warming_state().set(is_warming.into());
        }
        if let Some(version) = &self.version_text {
            counted.version().set(self.version);
            eds.version_text.set(&**version);
            eds.stats.update_time().set(self.updated_at);
        }
        let duration = eds.stats.update_duration();
        (0..self.quick).for_each(|_| duration.record(0));
        self.slow
            .iter()
            .for_each(|took| duration.record(u64::from(*took)));
        self.replay_members(&made.cluster.info);
    }

    fn replay_members(&self, info: &ClusterInfo) {
        let Some(members) = &self.members else {
            return;
        };
        let stats = &info.endpoint_stats;
        stats.max_host_weight().set(self.heaviest.into());
        if self.membership_changes > 0 {
            stats
                .membership_change()
                .add(self.membership_changes.into());
        }
        info.socket_match_stats
            .total_match_count()
            .add(self.matched.into());
        stats.membership_healthy().set(members.healthy);
        stats.membership_total().set(members.total);
        if self.has_been_excluded {
            stats.membership_excluded().set(members.excluded);
        }
        if self.has_been_degraded {
            stats.membership_degraded().set(members.degraded);
        }
    }
}

fn now() -> u64 {
    millis(UNIX_EPOCH.elapsed().unwrap_or_default())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
