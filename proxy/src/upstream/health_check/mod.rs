//! `health_checks`: hosts are asked again and again whether they are well, on main.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/health_checking>
//! Type URLs: `envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink` in `event_logger`,
//! `envoy.extensions.health_checkers.redis.v3.Redis` in `custom_health_check`.
//! Stats: `cluster.<name>.health_check.{attempt,success,failure,network_failure,passive_failure,verify_cluster,healthy,degraded}`.
//! Runtime: `health_check.{min_interval,max_interval,verify_cluster}`.
//!
//! A cluster is used when each of its hosts has been checked once. Results are flags of the host, which everybody reads, and go to
//! the workers by [`HealthPublisher`].
//!
//! Of several health checks each has a name, which its stats are below (`health_check.name.<name>.`), and each finds for itself
//! how a host is. The host fails when one of them says so, and is degraded when one of them says so.
//!
//! The checks of all hosts share one timer: what is due at nearly the same time goes on together.
//!
//! Deviations: the wait for the next check is up to a 256th, and 50 ms, longer or shorter.
//! Deviations: `codec_client_type: HTTP3` and every `custom_health_check` other than Redis are refused.

mod config;
mod connection;
mod event_log;
mod grpc;
mod http;
mod patched;
mod payload;
mod redis;
mod resp;
mod schedule;
mod session;
mod tcp;
#[cfg(test)]
mod tests;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use tokio::task::JoinHandle;

pub(super) use config::HealthCheckConfig;
pub(super) use event_log::rfc3339;
pub use patched::PatchedHealthChecks;

use self::redis::CommandStats;
use self::schedule::Schedule;
use self::session::Session;
use super::host::{HealthFlag, HostIdentity};
use super::host_health::{HealthPublisher, HostReport};
use super::outlier_detection::OutlierDetector;
use super::pool::Connector;
use super::shared_cluster::Cluster;
use crate::codec::Http2CodecStats;
use crate::config::Fraction;
use crate::runtime::{Runtime, RuntimeFraction, RuntimeInteger};
use crate::server::Random;

crate::stats_group! {
    /// What health checks find.
    struct HealthCheckStats {
        counter attempt;
        gauge degraded;
        counter failure;
        gauge healthy;
        counter network_failure;
        counter passive_failure;
        counter success;
        counter verify_cluster;
    }
}

crate::stats_group! {
    /// What several health checks find together.
    struct TogetherStats {
        gauge degraded;
        gauge healthy;
    }
}

/// Checks the hosts of one cluster. Dropped, it ends.
pub(super) struct HealthChecker {
    /// One for each health check of the cluster.
    checks: Vec<Rc<Inner>>,
    /// Follows hosts that come and go, and what workers report; and wakes the sessions of each health check.
    tasks: RefCell<Vec<JoinHandle<()>>>,
}

/// What several health checks of a cluster have in common.
struct Together {
    checks: RefCell<Vec<Weak<Inner>>>,
    stats: TogetherStats,
}

/// What the sessions of one health check share.
struct Inner {
    me: Weak<Inner>,
    /// Where the cluster has several.
    together: Option<Rc<Together>>,
    cluster: Arc<Cluster>,
    config: Arc<HealthCheckConfig>,
    stats: HealthCheckStats,
    publisher: Rc<HealthPublisher>,
    connector: Rc<dyn Connector>,
    random: Random,
    min_interval: RuntimeInteger,
    max_interval: RuntimeInteger,
    verify_cluster: RuntimeFraction,
    http2_stats: OnceCell<Rc<Http2CodecStats>>,
    command_stats: OnceCell<CommandStats>,
    sessions: RefCell<HashMap<HostIdentity, Rc<Session>>>,
    schedule: Rc<Schedule>,
    /// How many checks must end before the first round is over, and who waits for that.
    first_round: Cell<usize>,
    ready: RefCell<Option<Box<dyn FnOnce()>>>,
    /// Who hears of successes.
    outliers: RefCell<Option<Rc<OutlierDetector>>>,
}

impl HealthChecker {
    /// None where the cluster has no health checks. Nothing happens before `start`.
    pub(super) fn new(
        cluster: &Arc<Cluster>,
        publisher: Rc<HealthPublisher>,
        connector: &Rc<dyn Connector>,
        runtime: &Runtime,
        random: Random,
    ) -> Option<Rc<Self>> {
        let scope = cluster.info.scope.scope("health_check.");
        let configs = &cluster.info.health_checks;
        let together = (configs.len() > 1).then(|| {
            Rc::new(Together {
                checks: RefCell::default(),
                stats: TogetherStats::new(&scope),
            })
        });
        let inner = |config: &Arc<HealthCheckConfig>| {
            Rc::new_cyclic(|me| Inner {
                me: me.clone(),
                together: together.clone(),
                stats: match &*config.name {
                    "" => HealthCheckStats::new(&scope),
                    name => HealthCheckStats::new(&scope.scope(&format!("name.{name}."))),
                },
                cluster: cluster.clone(),
                config: config.clone(),
                publisher: publisher.clone(),
                connector: connector.clone(),
                random: Random::new(random.next()),
                min_interval: runtime.integer("health_check.min_interval", 0),
                max_interval: runtime.integer("health_check.max_interval", u64::MAX),
                verify_cluster: runtime.fraction("health_check.verify_cluster", Fraction::ALWAYS),
                http2_stats: OnceCell::new(),
                command_stats: OnceCell::new(),
                sessions: RefCell::default(),
                schedule: Rc::new(Schedule::new()),
                first_round: Cell::new(0),
                ready: RefCell::default(),
                outliers: RefCell::default(),
            })
        };
        let checks: Vec<_> = configs.iter().map(inner).collect();
        if let Some(together) = &together {
            let all = checks.iter().map(Rc::downgrade);
            *together.checks.borrow_mut() = all.collect();
        }
        (!checks.is_empty()).then(|| {
            Rc::new(Self {
                checks,
                tasks: RefCell::default(),
            })
        })
    }

    /// Begins to check. `ready` is called when as many checks have ended as there are hosts now.
    pub(super) fn start(&self, ready: Box<dyn FnOnce()>) {
        let following = tokio::task::spawn_local(follow(self.checks.clone()));
        let schedules = self.checks.iter().map(|check| check.schedule.clone());
        let timers = schedules.map(|schedule| tokio::task::spawn_local(schedule.run()));
        *self.tasks.borrow_mut() = timers.chain([following]).collect();
        self.checks.iter().for_each(|check| check.sync_hosts());
        let count = |check: &Rc<Inner>| check.sessions.borrow().len();
        let busy: Vec<_> = self
            .checks
            .iter()
            .filter(|check| count(check) > 0)
            .collect();
        if busy.is_empty() {
            return ready();
        }
        let left = Rc::new(Cell::new(busy.len()));
        let ready = Rc::new(Cell::new(Some(ready)));
        for check in busy {
            check.first_round.set(count(check));
            let (left, ready) = (left.clone(), ready.clone());
            let one_less = move || {
                left.set(left.get() - 1);
                if left.get() == 0
                    && let Some(ready) = ready.take()
                {
                    ready();
                }
            };
            *check.ready.borrow_mut() = Some(Box::new(one_less));
        }
    }

    /// Lets outlier detection hear of checks that succeed.
    pub(super) fn tell(&self, outliers: Option<Rc<OutlierDetector>>) {
        for check in &self.checks {
            check.outliers.replace(outliers.clone());
        }
    }

    /// Whether `start` was called.
    pub(super) fn has_started(&self) -> bool {
        !self.tasks.borrow().is_empty()
    }

    /// The cluster is in use from now on: workers hear of changes.
    pub(super) fn activate(&self) {
        if let Some(check) = self.checks.first() {
            check.publisher.activate();
        }
    }
}

impl Drop for HealthChecker {
    fn drop(&mut self) {
        for task in self.tasks.take() {
            task.abort();
        }
        for check in &self.checks {
            *check.ready.borrow_mut() = None;
            check.outliers.replace(None);
            let sessions = check.sessions.take();
            sessions.into_values().for_each(|session| {
                session.end();
            });
        }
    }
}

async fn follow(checks: Vec<Rc<Inner>>) {
    // Only a cluster with health checks has a health checker, and such a cluster takes reports.
    let cluster = checks.first().map(|check| check.cluster.clone());
    let Some(reports) = cluster
        .as_ref()
        .and_then(|cluster| cluster.reports.as_ref())
    else {
        return;
    };
    loop {
        reports.rung().await;
        let (replaced, reports) = reports.take();
        if replaced {
            checks.iter().for_each(|check| check.sync_hosts());
        }
        for report in reports {
            // All others are for outlier detection, which has reports of its own.
            if let HostReport::ImmediateFailure(host) = report {
                for check in &checks {
                    let session = check.sessions.borrow().get(&host).cloned();
                    if let Some(session) = session {
                        session.fail_passively();
                    }
                }
            }
        }
    }
}

impl Inner {
    /// A session for each host that is to be checked.
    fn sync_hosts(&self) {
        let hosts = self.cluster.hosts.load_full();
        let mut changed = false;
        let mut old = self.sessions.take();
        let mut sessions = HashMap::with_capacity(old.len());
        for host in hosts.hosts() {
            if host.has_no_health_checks() {
                continue;
            }
            let session = match old.remove(&host.identity()) {
                Some(session) => {
                    session.set_host(host);
                    session
                }
                None => {
                    changed = true;
                    match self.me.upgrade() {
                        Some(me) => Session::start(&me, host),
                        None => continue,
                    }
                }
            };
            sessions.insert(host.identity(), session);
        }
        changed |= !old.is_empty();
        *self.sessions.borrow_mut() = sessions;
        if changed {
            self.publisher.hosts_replaced();
        }
        for session in old.into_values() {
            let was_first = session.end();
            if was_first {
                self.check_ended();
            }
        }
    }

    /// What the health checks of the cluster say of a host, all together: flags.
    fn merged(&self, host: HostIdentity) -> Option<u32> {
        let checks = self.together.as_ref()?.checks.borrow();
        let checks = checks.iter().filter_map(Weak::upgrade);
        let flags = checks.filter_map(|check| {
            let sessions = check.sessions.borrow();
            sessions.get(&host).and_then(|session| session.own_flags())
        });
        Some(flags.fold(0, |all, flags| all | flags))
    }

    /// Counts the hosts that all health checks call well, and those that one of them calls degraded.
    fn count_together(&self) {
        let Some(together) = &self.together else {
            return;
        };
        let hosts = self.cluster.hosts.load_full();
        let count = |is_it: &dyn Fn(&super::host::Host) -> bool| {
            let hosts = hosts.hosts().filter(|host| !host.has_no_health_checks());
            u64::try_from(hosts.filter(|host| is_it(host)).count()).unwrap_or(u64::MAX)
        };
        let healthy = count(&|host| !host.health.has(HealthFlag::FailedActiveHc));
        let degraded = count(&|host| host.health.has(HealthFlag::DegradedActiveHc));
        together.stats.healthy().set(healthy);
        together.stats.degraded().set(degraded);
    }

    /// A check has ended, one way or another.
    fn check_ended(&self) {
        let left = self.first_round.get();
        if left == 0 {
            return;
        }
        self.first_round.set(left - 1);
        if left == 1
            && let Some(ready) = self.ready.take()
        {
            ready();
        }
    }

    /// What the codec of connections counts.
    fn http2_stats(&self) -> Rc<Http2CodecStats> {
        let stats = self.http2_stats.get_or_init(|| {
            let scope = self.cluster.info.scope.scope("http2.");
            Rc::new(Http2CodecStats::new(&scope))
        });
        stats.clone()
    }

    /// What commands of a Redis take.
    fn command_stats(&self) -> &CommandStats {
        let scope = &self.cluster.info.scope;
        self.command_stats
            .get_or_init(|| CommandStats::new(&scope.scope("upstream_commands.")))
    }

    /// A check has succeeded.
    fn host_succeeded(&self, host: &super::host::Host) {
        let outliers = self.outliers.borrow().clone();
        if let Some(outliers) = outliers {
            outliers.check_succeeded(host);
        }
    }

    /// The health of a host is not what it was.
    fn host_changed(&self, host: &super::host::Host) {
        self.publisher.changed(host);
        if host.health.has(HealthFlag::FailedActiveHc) {
            self.publisher.failed(host);
            if host.health.has(HealthFlag::PendingDynamicRemoval) {
                super::discovery::remove_host(&self.cluster, host.identity());
            }
        }
    }
}
