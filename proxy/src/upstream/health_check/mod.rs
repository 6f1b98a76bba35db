//! `health_checks`: hosts are asked again and again whether they are well, on main.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/health_checking>
//! Type URLs: `envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink` in `event_logger`.
//! Stats: `cluster.<name>.health_check.{attempt,success,failure,network_failure,passive_failure,verify_cluster,healthy,degraded}`.
//! Runtime: `health_check.{min_interval,max_interval,verify_cluster}`.
//!
//! A cluster is used when each of its hosts has been checked once. Results are flags of the host, which everybody reads, and go to
//! the workers by [`HealthPublisher`].
//!
//! Deviations: a cluster has one health check at most, and no `custom_health_check`; `codec_client_type: HTTP3` is refused.

mod config;
mod connection;
mod event_log;
mod grpc;
mod http;
mod payload;
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

use self::session::Session;
use super::host::{HealthFlag, HostIdentity};
use super::host_health::{HealthPublisher, HostReport};
use super::outlier_detection::OutlierDetector;
use super::pool::Connector;
use super::shared_cluster::Cluster;
use crate::config::Fraction;
use crate::http_connection_manager::codec::Http2CodecStats;
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

/// Checks the hosts of one cluster. Dropped, it ends.
pub(super) struct HealthChecker {
    inner: Rc<Inner>,
    /// Follows hosts that come and go, and what workers report.
    following: RefCell<Option<JoinHandle<()>>>,
}

/// What the sessions of a cluster share.
struct Inner {
    me: Weak<Inner>,
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
    sessions: RefCell<HashMap<HostIdentity, Rc<Session>>>,
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
        let config = cluster.info.health_check.clone()?;
        let inner = Rc::new_cyclic(|me| Inner {
            me: me.clone(),
            stats: HealthCheckStats::new(&cluster.info.scope.scope("health_check.")),
            cluster: cluster.clone(),
            config,
            publisher,
            connector: connector.clone(),
            random,
            min_interval: runtime.integer("health_check.min_interval", 0),
            max_interval: runtime.integer("health_check.max_interval", u64::MAX),
            verify_cluster: runtime.fraction("health_check.verify_cluster", Fraction::ALWAYS),
            http2_stats: OnceCell::new(),
            sessions: RefCell::default(),
            first_round: Cell::new(0),
            ready: RefCell::default(),
            outliers: RefCell::default(),
        });
        Some(Rc::new(Self {
            inner,
            following: RefCell::default(),
        }))
    }

    /// Begins to check. `ready` is called when as many checks have ended as there are hosts now.
    pub(super) fn start(&self, ready: Box<dyn FnOnce()>) {
        let inner = self.inner.clone();
        *self.following.borrow_mut() = Some(tokio::task::spawn_local(follow(inner)));
        self.inner.sync_hosts();
        let count = self.inner.sessions.borrow().len();
        if count == 0 {
            return ready();
        }
        self.inner.first_round.set(count);
        *self.inner.ready.borrow_mut() = Some(ready);
    }

    /// Lets outlier detection hear of checks that succeed.
    pub(super) fn tell(&self, outliers: Option<Rc<OutlierDetector>>) {
        self.inner.outliers.replace(outliers);
    }

    /// Whether `start` was called.
    pub(super) fn has_started(&self) -> bool {
        self.following.borrow().is_some()
    }

    /// The cluster is in use from now on: workers hear of changes.
    pub(super) fn activate(&self) {
        self.inner.publisher.activate();
    }
}

impl Drop for HealthChecker {
    fn drop(&mut self) {
        if let Some(following) = self.following.take() {
            following.abort();
        }
        *self.inner.ready.borrow_mut() = None;
        self.inner.outliers.replace(None);
        let sessions = self.inner.sessions.take();
        sessions.into_values().for_each(|session| {
            session.end();
        });
    }
}

async fn follow(inner: Rc<Inner>) {
    // Only a cluster with health checks has a health checker, and such a cluster takes reports.
    let Some(reports) = &inner.cluster.reports else {
        return;
    };
    loop {
        reports.rung().await;
        let (replaced, reports) = reports.take();
        if replaced {
            inner.sync_hosts();
        }
        for report in reports {
            // All others are for outlier detection, which has reports of its own.
            if let HostReport::ImmediateFailure(host) = report {
                let session = inner.sessions.borrow().get(&host).cloned();
                if let Some(session) = session {
                    session.fail_passively();
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
