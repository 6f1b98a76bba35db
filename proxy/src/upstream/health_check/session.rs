//! The checks of one host: when, and what becomes of the host.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::debug;

use super::Inner;
use super::config::{CheckKind, LastCheck};
use super::connection::Link;
use super::event_log::{Event, FailureType};
use super::schedule::Alarm;
use crate::upstream::WorkerHost;
use crate::upstream::host::{HealthFlag, Host};

/// The checks of one host.
pub(super) struct Session {
    inner: Rc<Inner>,
    host: RefCell<Rc<WorkerHost>>,
    /// Nothing is known of the host yet.
    first_check: Cell<bool>,
    /// Successes in a row of a host that is unhealthy, and failures of one that is healthy.
    healthy: Cell<u32>,
    unhealthy: Cell<u32>,
    task: RefCell<Option<JoinHandle<()>>>,
    /// What this health check alone says of the host, where the cluster has several.
    own: Option<Cell<u32>>,
    /// Whether what they say together has changed since `ended` last looked.
    merged_changed: Cell<bool>,
}

/// The flags that health checks set.
const CHECKED: u32 = HealthFlag::FailedActiveHc as u32
    | HealthFlag::DegradedActiveHc as u32
    | HealthFlag::PendingActiveHc as u32
    | HealthFlag::ActiveHcTimeout as u32;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Healthy {
        /// It works, and would rather not.
        degraded: bool,
    },
    Failed {
        failure: FailureType,
        /// It counts towards the threshold like a failure of the network.
        retriable: bool,
        /// What was answered; 0: nothing.
        http_status: u16,
    },
}

/// How a check changes what is known of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transition {
    Unchanged,
    /// A threshold is not reached yet.
    Pending,
    Changed,
}

impl Outcome {
    pub(super) fn failed(failure: FailureType) -> Self {
        Self::Failed {
            failure,
            retriable: false,
            http_status: 0,
        }
    }

    /// The host has answered, and not well.
    pub(super) fn of_host(http_status: u16, retriable: bool) -> Self {
        Self::Failed {
            failure: FailureType::Active,
            retriable,
            http_status,
        }
    }
}

impl Session {
    pub(super) fn start(inner: &Rc<Inner>, host: &Arc<Host>) -> Rc<Self> {
        if !host.health.has(HealthFlag::FailedActiveHc) {
            inner.stats.healthy().inc();
        }
        if host.health.has(HealthFlag::DegradedActiveHc) {
            inner.stats.degraded().inc();
        }
        let own = host.health.get() & CHECKED;
        let session = Rc::new(Self {
            own: inner.together.is_some().then(|| Cell::new(own)),
            merged_changed: Cell::new(false),
            inner: inner.clone(),
            host: RefCell::new(Rc::new(WorkerHost::new(host.clone()))),
            first_check: Cell::new(true),
            healthy: Cell::new(0),
            unhealthy: Cell::new(0),
            task: RefCell::default(),
        });
        let task = tokio::task::spawn_local(run(session.clone()));
        session.task.replace(Some(task));
        session
    }

    /// The same host with the configuration that it has now.
    pub(super) fn set_host(&self, host: &Arc<Host>) {
        if !Arc::ptr_eq(self.host.borrow().shared(), host) {
            self.host.replace(Rc::new(WorkerHost::new(host.clone())));
        }
    }

    /// No more checks. True if the first one has not ended.
    pub(super) fn end(&self) -> bool {
        if let Some(task) = self.task.take() {
            task.abort();
            let host = self.host.borrow();
            if !self.has(&host, HealthFlag::FailedActiveHc) {
                self.inner.stats.healthy().dec();
            }
            if self.has(&host, HealthFlag::DegradedActiveHc) {
                self.inner.stats.degraded().dec();
            }
        }
        self.first_check.get()
    }

    /// What this health check alone says of the host; none: there is no other.
    pub(super) fn own_flags(&self) -> Option<u32> {
        self.own.as_ref().map(Cell::get)
    }

    fn has(&self, host: &Host, flag: HealthFlag) -> bool {
        match &self.own {
            None => host.health.has(flag),
            Some(own) => own.get() & flag as u32 != 0,
        }
    }

    fn set(&self, host: &Host, flag: HealthFlag) {
        match &self.own {
            None => host.health.set(flag),
            Some(own) => self.merge(host, own.get() | flag as u32),
        }
    }

    fn clear(&self, host: &Host, flag: HealthFlag) {
        match &self.own {
            None => host.health.clear(flag),
            Some(own) => self.merge(host, own.get() & !(flag as u32)),
        }
    }

    /// The host is as all health checks together say.
    fn merge(&self, host: &Host, own: u32) {
        if let Some(flags) = &self.own {
            flags.set(own);
        }
        if let Some(merged) = self.inner.merged(host.identity())
            && merged != host.health.get() & CHECKED
        {
            host.health.replace_among(CHECKED, merged);
            self.merged_changed.set(true);
            self.inner.count_together();
        }
    }

    /// Ordinary traffic has shown that the host fails.
    pub(super) fn fail_passively(&self) {
        self.set_unhealthy(FailureType::Passive, false, 0);
    }

    /// Takes over what a check found; how long to wait until the next one.
    fn finish(&self, outcome: Outcome) -> Duration {
        let (succeeded, transition) = match outcome {
            Outcome::Healthy { degraded } => (true, self.set_healthy(degraded)),
            Outcome::Failed {
                failure,
                retriable,
                http_status,
            } => (false, self.set_unhealthy(failure, retriable, http_status)),
        };
        let last = LastCheck {
            succeeded,
            change_pending: transition == Transition::Pending,
        };
        let intervals = &self.inner.config.intervals;
        let base = intervals.after(last, self.inner.has_traffic());
        self.inner.with_jitter(base, intervals.jitter)
    }

    fn set_healthy(&self, degraded: bool) -> Transition {
        let (inner, host) = (&*self.inner, self.host.borrow().clone());
        let config = &inner.config;
        self.unhealthy.set(0);
        let mut transition = Transition::Unchanged;
        if self.has(&host, HealthFlag::FailedActiveHc) {
            // The first success ever is enough, so that a start is quick.
            let successes = self.healthy.get() + 1;
            if self.first_check.get() || successes == config.healthy_threshold {
                self.clear(&host, HealthFlag::ActiveHcTimeout);
                host.health.clear(HealthFlag::ExcludedViaImmediateHcFail);
                self.clear(&host, HealthFlag::FailedActiveHc);
                inner.stats.healthy().inc();
                transition = Transition::Changed;
                let first_check = self.first_check.get();
                self.log(Event::AddHealthy { first_check });
            } else {
                self.healthy.set(successes);
                transition = Transition::Pending;
            }
            host.note_pass(Instant::now());
        }
        if transition != Transition::Changed && config.always_log_success {
            self.log(Event::Success);
        }
        transition = self.clear_pending(&host, transition);
        if degraded != self.has(&host, HealthFlag::DegradedActiveHc) {
            if degraded {
                self.set(&host, HealthFlag::DegradedActiveHc);
                // As in Envoy, which never takes it back.
                inner.stats.degraded().inc();
                self.log(Event::Degraded);
            } else {
                self.log(Event::NoLongerDegraded);
                self.clear(&host, HealthFlag::DegradedActiveHc);
            }
            if transition == Transition::Unchanged {
                transition = Transition::Changed;
            }
        }
        inner.stats.success().inc();
        self.ended(&host, transition);
        inner.host_succeeded(&host);
        transition
    }

    fn set_unhealthy(&self, failure: FailureType, retriable: bool, http_status: u16) -> Transition {
        let (inner, host) = (&*self.inner, self.host.borrow().clone());
        let config = &inner.config;
        self.healthy.set(0);
        let mut transition = Transition::Unchanged;
        if !self.has(&host, HealthFlag::FailedActiveHc) {
            let failures = self.unhealthy.get() + 1;
            let at_once = !failure.is_of_network() && !retriable;
            if !at_once {
                self.unhealthy.set(failures);
            }
            if at_once || failures == config.unhealthy_threshold {
                self.set(&host, HealthFlag::FailedActiveHc);
                inner.stats.healthy().dec();
                transition = Transition::Changed;
                self.log(Event::EjectUnhealthy {
                    failure,
                    http_status,
                });
            } else {
                transition = Transition::Pending;
            }
        }
        let failed = self.has(&host, HealthFlag::FailedActiveHc);
        if failure == FailureType::NetworkTimeout && failed {
            self.set(&host, HealthFlag::ActiveHcTimeout);
        } else {
            self.clear(&host, HealthFlag::ActiveHcTimeout);
        }
        transition = self.clear_pending(&host, transition);
        if self.first_check.get() || config.always_log_failures {
            self.log(Event::Failure {
                failure,
                first_check: self.first_check.get(),
                http_status,
            });
        }
        inner.stats.failure().inc();
        if failure.is_of_network() {
            inner.stats.network_failure().inc();
        } else if failure == FailureType::Passive {
            inner.stats.passive_failure().inc();
        }
        self.ended(&host, transition);
        transition
    }

    fn ended(&self, host: &Host, transition: Transition) {
        self.first_check.set(false);
        let changed = match self.own {
            None => transition == Transition::Changed,
            Some(_) => self.merged_changed.take(),
        };
        if changed {
            debug!(
                cluster = &*self.inner.cluster.info.name,
                host = %host.address,
                failed = host.health.has(HealthFlag::FailedActiveHc),
                "The health of a host has changed."
            );
            self.inner.host_changed(host);
        }
        self.inner.check_ended();
    }

    /// A host that has been checked is not waiting for that any longer.
    fn clear_pending(&self, host: &Host, transition: Transition) -> Transition {
        if !self.has(host, HealthFlag::PendingActiveHc) {
            return transition;
        }
        self.clear(host, HealthFlag::PendingActiveHc);
        Transition::Changed
    }

    fn log(&self, event: Event) {
        if let Some(log) = &self.inner.config.event_log {
            log.log(&self.inner.cluster.info.name, &self.host.borrow(), event);
        }
    }
}

async fn run(session: Rc<Session>) {
    let inner = session.inner.clone();
    let (config, schedule) = (&*inner.config, &*inner.schedule);
    let (alarm, limit) = (Rc::new(Alarm::default()), Rc::new(Alarm::default()));
    let jitter = config.intervals.initial_jitter;
    if !jitter.is_zero() {
        schedule.set_about(&alarm, inner.with_jitter(Duration::ZERO, jitter));
        alarm.rung().await;
    }
    let mut link = Link::None;
    loop {
        schedule.set_after(&limit, config.timeout);
        let checked = tokio::select! {
            biased;
            outcome = check(&session, &mut link) => Some(outcome),
            () = limit.rung() => None,
        };
        limit.stop();
        let outcome = checked.unwrap_or_else(|| {
            // The stream of a call is reset; everything else ends with its connection.
            if !matches!((&config.kind, &link), (CheckKind::Grpc(_), Link::Http2(_)))
                || !config.reuse_connection
            {
                link = Link::None;
            }
            Outcome::failed(FailureType::NetworkTimeout)
        });
        schedule.set_about(&alarm, session.finish(outcome));
        loop {
            tokio::select! {
                biased;
                () = alarm.rung() => break,
                () = link.gone() => {
                    let was_tcp = matches!(link, Link::Tcp(_));
                    link = Link::None;
                    if was_tcp {
                        let lost = Outcome::failed(FailureType::Network);
                        schedule.set_about(&alarm, session.finish(lost));
                    }
                }
            }
        }
    }
}

async fn check(session: &Session, link: &mut Link) -> Outcome {
    let inner = &*session.inner;
    inner.stats.attempt().inc();
    let host = session.host.borrow().clone();
    match &inner.config.kind {
        CheckKind::Http(http) => http.check(inner, &host, link).await,
        CheckKind::Tcp(tcp) => tcp.check(inner, &host, link).await,
        CheckKind::Grpc(grpc) => grpc.check(inner, &host, link).await,
        CheckKind::Redis(redis) => redis.check(inner, &host, link).await,
    }
}

impl Inner {
    /// Whether anything was ever sent to the cluster.
    fn has_traffic(&self) -> bool {
        let stats = &self.cluster.info.stats;
        stats.upstream_cx_total().is_used()
            || stats.upstream_cx_tx_bytes_total().is_used()
            || stats.upstream_cx_rx_bytes_total().is_used()
    }

    /// Whole milliseconds, one at least.
    fn with_jitter(&self, base: Duration, jitter: Duration) -> Duration {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let random_below = |limit: u64| match limit {
            0 => 0,
            limit => self.random.next() % limit,
        };
        let base = millis(base);
        let percent = u64::from(self.config.intervals.jitter_percent);
        let jittered = base
            .saturating_add(random_below(percent.saturating_mul(base) / 100))
            .saturating_add(random_below(millis(jitter)));
        let bounded = jittered.min(self.max_interval.get());
        Duration::from_millis(bounded.max(self.min_interval.get()).max(1))
    }
}
