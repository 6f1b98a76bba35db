//! How a change of the health of hosts comes to the stats of their cluster and to the workers.
//!
//! The flags of a host are atomics that everybody reads. What is derived of them (counts, lists of healthy hosts) is brought up
//! to date by telling which hosts have changed: that costs what has changed, however many hosts there are. Load balancers that
//! are built from all hosts (hashing policies, subsets) are built anew.
//!
//! Stats: `cluster_manager.{cluster_updated,cluster_updated_via_merge,update_merge_cancelled,update_out_of_merge_window}`.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::cluster_manager::ClusterManagerStats;
use super::host::{Host, HostIdentity};
use super::shared_cluster::Cluster;

/// What has become of single hosts since a worker last looked. Main adds to it.
#[derive(Debug, Default)]
pub(super) struct HealthChanges {
    version: AtomicU64,
    recent: Mutex<VecDeque<HealthChange>>,
}

/// What has become of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HealthChange {
    /// It counts otherwise than before.
    Counted(HostIdentity),
    /// It failed: nothing new is sent over the connections that there are.
    Failed(HostIdentity),
}

/// What a worker has to catch up on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missed {
    These(Vec<HealthChange>),
    /// More than is remembered.
    Anything,
}

/// As many changes of a cluster are remembered.
const REMEMBERED: usize = 256;

impl HealthChanges {
    fn add(&self, changes: impl IntoIterator<Item = HealthChange>) {
        let mut recent = self.recent.lock();
        for change in changes {
            if recent.len() == REMEMBERED {
                recent.pop_front();
            }
            recent.push_back(change);
            self.version.fetch_add(1, Relaxed);
        }
    }

    /// The version now, and what has happened since it was `seen`.
    pub(super) fn since(&self, seen: u64) -> (u64, Missed) {
        if self.version.load(Relaxed) == seen {
            return (seen, Missed::These(Vec::new()));
        }
        let recent = self.recent.lock();
        let version = self.version.load(Relaxed);
        let missed = usize::try_from(version.wrapping_sub(seen)).unwrap_or(usize::MAX);
        let missed = match recent.len().checked_sub(missed) {
            Some(known) => Missed::These(recent.range(known..).copied().collect()),
            None => Missed::Anything,
        };
        (version, missed)
    }

    /// What a worker starts from that sees everything as it is now.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }
}

/// What workers have seen of hosts that main must decide on, and that hosts have been replaced. Of clusters that watch over the
/// health of their hosts.
#[derive(Debug, Default)]
pub(super) struct HostReports {
    /// Each once, so that there are no more than a few for each host.
    reports: Mutex<Reports>,
    rung: Notify,
}

#[derive(Debug, Default)]
struct Reports {
    /// Hosts have come or gone, or are configured otherwise.
    hosts_replaced: bool,
    known: HashSet<HostReport>,
    in_order: Vec<HostReport>,
}

/// What a worker has seen of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum HostReport {
    /// A response asked to be taken for a failed health check.
    ImmediateFailure(HostIdentity),
    /// So many responses in a row were 5xx as it may be ejected for.
    Consecutive5xx(HostIdentity),
    /// The same of 502, 503 and 504.
    ConsecutiveGatewayFailure(HostIdentity),
    /// The same of connections that failed.
    ConsecutiveLocalOriginFailure(HostIdentity),
    /// A response called its host degraded.
    Degraded(HostIdentity),
}

impl HostReports {
    pub(super) fn add(&self, report: HostReport) {
        let mut reports = self.reports.lock();
        if reports.known.insert(report) {
            reports.in_order.push(report);
            drop(reports);
            self.rung.notify_one();
        }
    }

    /// Hosts have come or gone.
    pub(super) fn hosts_replaced(&self) {
        self.reports.lock().hosts_replaced = true;
        self.rung.notify_one();
    }

    /// Waits for something to look at.
    pub(super) async fn rung(&self) {
        self.rung.notified().await;
    }

    /// Whether hosts have been replaced, and what workers have seen.
    pub(super) fn take(&self) -> (bool, Vec<HostReport>) {
        let reports = std::mem::take(&mut *self.reports.lock());
        (reports.hosts_replaced, reports.in_order)
    }
}

impl Cluster {
    /// Takes what has become of a host into the stats. True if it counts otherwise than before.
    pub(super) fn recount(&self, host: &Host) -> bool {
        use super::host::Health::{Degraded, Healthy};
        let (old, new) = (host.counted(), host.standing());
        if old == new {
            return false;
        }
        host.set_counted(new);
        if self.info.settings.load_balancer.slow_start.is_some() {
            host.note_first_seen(Instant::now());
        }
        let stats = &self.info.endpoint_stats;
        let moved = |was: bool, is: bool, gauge: &dyn Fn(bool)| {
            if was != is {
                gauge(is);
            }
        };
        moved(
            old.health == Healthy,
            new.health == Healthy,
            &|is| match is {
                true => stats.membership_healthy().inc(),
                false => stats.membership_healthy().dec(),
            },
        );
        moved(
            old.health == Degraded,
            new.health == Degraded,
            &|is| match is {
                true => stats.membership_degraded().inc(),
                false => stats.membership_degraded().dec(),
            },
        );
        moved(old.excluded, new.excluded, &|is| match is {
            true => stats.membership_excluded().inc(),
            false => stats.membership_excluded().dec(),
        });
        true
    }

    /// Tells workers that these hosts count otherwise than before.
    pub(super) fn publish_health(&self, hosts: impl IntoIterator<Item = HostIdentity>) {
        if self.is_built_from_all_hosts() {
            self.rebuild();
        } else {
            self.health_changes
                .add(hosts.into_iter().map(HealthChange::Counted));
        }
        self.announce();
    }

    /// Tells workers that connections to this host should not be used any longer.
    pub(super) fn publish_failure(&self, host: HostIdentity) {
        self.health_changes.add([HealthChange::Failed(host)]);
        self.announce();
    }
}

/// Brings changes of the health of one cluster's hosts to its stats and workers. Lives on main.
pub(super) struct HealthPublisher {
    me: Weak<Self>,
    cluster: Arc<Cluster>,
    /// What the cluster manager counts; none: nobody does.
    stats: Option<ClusterManagerStats>,
    /// `update_merge_window`; zero: every change is published at once.
    window: Duration,
    last: Cell<Option<Instant>>,
    waiting: RefCell<Vec<HostIdentity>>,
    timer: RefCell<Option<JoinHandle<()>>>,
    /// Whether the cluster is in use: before that nobody needs to hear of anything.
    is_active: Cell<bool>,
}

impl HealthPublisher {
    pub(super) fn new(cluster: &Arc<Cluster>, stats: Option<ClusterManagerStats>) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            me: me.clone(),
            stats,
            window: cluster.info.settings.load_balancer.update_merge_window,
            cluster: cluster.clone(),
            last: Cell::new(None),
            waiting: RefCell::default(),
            timer: RefCell::default(),
            is_active: Cell::new(false),
        })
    }

    /// The cluster is in use from now on: what has happened before is taken over.
    pub(super) fn activate(&self) {
        if self.is_active.replace(true) {
            return;
        }
        let hosts = self.cluster.hosts.load();
        let changed = hosts.hosts().filter(|host| self.cluster.recount(host));
        let changed: Vec<HostIdentity> = changed.map(|host| host.identity()).collect();
        self.cluster.publish_health(changed);
    }

    /// The health of a host has changed.
    pub(super) fn changed(&self, host: &Host) {
        if !self.is_active.get() {
            return;
        }
        self.cluster.recount(host);
        self.waiting.borrow_mut().push(host.identity());
        let now = Instant::now();
        let is_within = self
            .last
            .get()
            .is_some_and(|last| now.saturating_duration_since(last) <= self.window);
        if self.window.is_zero() || !is_within {
            if let (Some(stats), false) = (&self.stats, self.window.is_zero()) {
                stats.update_out_of_merge_window().add(self.priorities());
            }
            self.cancel();
            self.publish();
            if let Some(stats) = &self.stats {
                stats.cluster_updated().add(self.priorities());
            }
        } else if self.timer.borrow().is_none() {
            let (me, window) = (self.me.clone(), self.window);
            *self.timer.borrow_mut() = Some(tokio::task::spawn_local(async move {
                sleep(window).await;
                if let Some(me) = me.upgrade() {
                    me.timer.replace(None);
                    me.publish();
                    if let Some(stats) = &me.stats {
                        stats.cluster_updated_via_merge().add(me.priorities());
                    }
                }
            }));
        }
    }

    /// Connections to a host should not be used any longer.
    pub(super) fn failed(&self, host: &Host) {
        if self.is_active.get() {
            self.cluster.publish_failure(host.identity());
        }
    }

    /// All hosts have been published, with all that is known of their health.
    pub(super) fn hosts_replaced(&self) {
        self.last.set(Some(Instant::now()));
        self.waiting.take();
        self.cancel();
    }

    fn publish(&self) {
        self.last.set(Some(Instant::now()));
        let hosts = self.waiting.take();
        self.cluster.publish_health(hosts);
    }

    fn cancel(&self) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
            if let Some(stats) = &self.stats {
                stats.update_merge_cancelled().add(self.priorities());
            }
        }
    }

    /// Envoy publishes, and counts, each priority on its own.
    fn priorities(&self) -> u64 {
        let priorities = self.cluster.hosts.load().priorities.len();
        u64::try_from(priorities).unwrap_or(u64::MAX).max(1)
    }
}

impl Drop for HealthPublisher {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Address;

    fn identity() -> (Host, HostIdentity) {
        let host = Host::new(Address::Pipe("x".into()), 0);
        let identity = host.identity();
        (host, identity)
    }

    #[test]
    fn who_missed_more_than_is_remembered_looks_at_everything() {
        let (_host, id) = identity();
        let changes = HealthChanges::default();
        changes.add([HealthChange::Counted(id)]);
        assert_eq!(
            changes.since(0),
            (1, Missed::These(vec![HealthChange::Counted(id)]))
        );
        changes.add([HealthChange::Failed(id)]);
        assert_eq!(
            changes.since(1),
            (2, Missed::These(vec![HealthChange::Failed(id)]))
        );
        changes.add(std::iter::repeat_n(HealthChange::Counted(id), REMEMBERED));
        assert_eq!(changes.since(1).1, Missed::Anything);
        assert_eq!(
            changes.since(changes.version()),
            (258, Missed::These(vec![]))
        );
    }

    #[tokio::test]
    async fn a_report_that_waits_already_is_not_added_again() {
        let (_host, id) = identity();
        let reports = HostReports::default();
        reports.add(HostReport::ImmediateFailure(id));
        reports.add(HostReport::ImmediateFailure(id));
        reports.rung().await;
        reports.hosts_replaced();
        let seen = vec![HostReport::ImmediateFailure(id)];
        assert_eq!(reports.take(), (true, seen));
        assert_eq!(reports.take(), (false, Vec::new()));
    }
}
