//! `outlier_detection`: hosts that fail in ordinary traffic get none for some time.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier>
//! Stats: `cluster.<name>.outlier_detection.*`. Runtime: `outlier_detection.*`.
//!
//! Workers count into atomics of the host. Main is told when a count reaches its limit, and looks at all hosts once in an
//! interval; it alone ejects. What is found goes to workers by [`HealthPublisher`].
//!
//! Deviations: `monitors` are refused, and there are none in Envoy's binary either.

mod config;
mod event_log;
mod monitor;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tracing::debug;

pub(super) use config::OutlierDetectionConfig;
pub use monitor::HostResult;
pub(super) use monitor::Monitor;

use self::event_log::{Action, Kind, Rates, Subject};
use self::monitor::SuccessRate;
use super::host::{HealthFlag, Host, HostIdentity};
use super::host_health::{HealthPublisher, HostReport};
use super::shared_cluster::Cluster;
use crate::access_loggers::LogFile;
use crate::planted::{Fault, is_planted};
use crate::server::Random;

crate::stats_group! {
    /// What outlier detection finds, and does.
    struct OutlierDetectionStats {
        gauge ejections_active;
        counter ejections_consecutive_5xx;
        counter ejections_detected_consecutive_5xx;
        counter ejections_detected_consecutive_gateway_failure;
        counter ejections_detected_consecutive_local_origin_failure;
        counter ejections_detected_degradation;
        counter ejections_detected_failure_percentage;
        counter ejections_detected_local_origin_failure_percentage;
        counter ejections_detected_local_origin_success_rate;
        counter ejections_detected_success_rate;
        counter ejections_enforced_consecutive_5xx;
        counter ejections_enforced_consecutive_gateway_failure;
        counter ejections_enforced_consecutive_local_origin_failure;
        counter ejections_enforced_failure_percentage;
        counter ejections_enforced_local_origin_failure_percentage;
        counter ejections_enforced_local_origin_success_rate;
        counter ejections_enforced_success_rate;
        counter ejections_enforced_total;
        counter ejections_overflow;
        counter ejections_success_rate;
        counter ejections_total;
    }
}

/// The success rates of a cluster in the interval before, in percent; negative: there are none. What `/clusters` shows.
#[derive(Debug)]
pub(super) struct SuccessRates {
    external: Compared,
    local: Compared,
}

/// The bits of floats.
#[derive(Debug)]
struct Compared {
    average: AtomicU64,
    threshold: AtomicU64,
}

/// Ejects hosts of one cluster, and takes them back. Dropped, it ends.
pub(super) struct OutlierDetector {
    inner: Rc<Inner>,
    tasks: Vec<JoinHandle<()>>,
}

struct Inner {
    cluster: Arc<Cluster>,
    config: Arc<OutlierDetectionConfig>,
    stats: OutlierDetectionStats,
    publisher: Rc<HealthPublisher>,
    log: Option<Arc<LogFile>>,
    random: Random,
    hosts: RefCell<HashMap<HostIdentity, Rc<Watched>>>,
    ejected: Cell<u64>,
}

/// What main knows of a host.
struct Watched {
    host: RefCell<Arc<Host>>,
    ejections: Cell<u32>,
    last_ejection: Cell<Option<Instant>>,
    last_unejection: Cell<Option<Instant>>,
    /// How often the base time it is ejected for.
    backoff: Cell<u32>,
    jitter: Cell<Duration>,
    /// The same of the time that it counts as degraded.
    degraded_since: Cell<Option<Instant>>,
    degraded_backoff: Cell<u32>,
}

impl Compared {
    fn get(&self) -> (f64, f64) {
        let of = |bits: &AtomicU64| f64::from_bits(bits.load(Relaxed));
        (of(&self.average), of(&self.threshold))
    }

    fn set(&self, (average, threshold): (f64, f64)) {
        self.average.store(average.to_bits(), Relaxed);
        self.threshold.store(threshold.to_bits(), Relaxed);
    }
}

impl Default for SuccessRates {
    fn default() -> Self {
        let none = || Compared {
            average: AtomicU64::new((-1.0_f64).to_bits()),
            threshold: AtomicU64::new((-1.0_f64).to_bits()),
        };
        Self {
            external: none(),
            local: none(),
        }
    }
}

impl SuccessRates {
    /// Average and threshold of responses.
    pub(super) fn external(&self) -> (f64, f64) {
        self.external.get()
    }

    /// Average and threshold of connections, with split origins.
    pub(super) fn local(&self) -> (f64, f64) {
        self.local.get()
    }
}

impl OutlierDetector {
    /// None where the cluster does not want it. Must run on a local runtime.
    pub(super) fn start(
        cluster: &Arc<Cluster>,
        publisher: Rc<HealthPublisher>,
        log: Option<Arc<LogFile>>,
        random: Random,
    ) -> Option<Rc<Self>> {
        let config = cluster.info.outlier_detection.clone()?;
        let inner = Rc::new(Inner {
            cluster: cluster.clone(),
            config,
            stats: OutlierDetectionStats::new(&cluster.info.scope.scope("outlier_detection.")),
            publisher,
            log,
            random,
            hosts: RefCell::default(),
            ejected: Cell::new(0),
        });
        inner.sync_hosts();
        let tasks = vec![
            tokio::task::spawn_local(follow(inner.clone())),
            tokio::task::spawn_local(look_again(inner.clone())),
        ];
        Some(Rc::new(Self { inner, tasks }))
    }

    /// A health check of a host has succeeded.
    pub(super) fn check_succeeded(&self, host: &Host) {
        if self
            .inner
            .config
            .successful_active_health_check_uneject_host
            && !host.health.has(HealthFlag::FailedActiveHc)
            && host.health.has(HealthFlag::FailedOutlierCheck)
        {
            let watched = self.inner.hosts.borrow().get(&host.identity()).cloned();
            if let Some(watched) = watched {
                self.inner.uneject(&watched);
            }
        }
    }
}

impl Drop for OutlierDetector {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        let ejected = self.inner.ejected.take();
        self.inner.stats.ejections_active().sub(ejected);
    }
}

async fn follow(inner: Rc<Inner>) {
    let Some(reports) = &inner.cluster.outliers else {
        return;
    };
    loop {
        reports.rung().await;
        let (replaced, reports) = reports.take();
        if replaced {
            inner.sync_hosts();
        }
        for report in reports {
            inner.take(report);
        }
    }
}

async fn look_again(inner: Rc<Inner>) {
    loop {
        let interval = Duration::from_millis(inner.config.interval_ms.get().max(1));
        sleep(interval).await;
        inner.look(Instant::now());
    }
}

impl Inner {
    fn sync_hosts(&self) {
        let hosts = self.cluster.hosts.load_full();
        let mut old = self.hosts.take();
        let mut known = HashMap::with_capacity(old.len());
        for host in hosts.hosts() {
            let watched = match old.remove(&host.identity()) {
                Some(watched) => {
                    watched.host.replace(host.clone());
                    watched
                }
                None => Rc::new(Watched {
                    host: RefCell::new(host.clone()),
                    ejections: Cell::new(0),
                    last_ejection: Cell::new(None),
                    last_unejection: Cell::new(None),
                    backoff: Cell::new(0),
                    jitter: Cell::new(Duration::ZERO),
                    degraded_since: Cell::new(None),
                    degraded_backoff: Cell::new(0),
                }),
            };
            known.insert(host.identity(), watched);
        }
        for gone in old.into_values() {
            if gone
                .host
                .borrow()
                .health
                .has(HealthFlag::FailedOutlierCheck)
            {
                self.count_ejected(false);
            }
        }
        *self.hosts.borrow_mut() = known;
    }

    /// A worker has seen something.
    fn take(&self, report: HostReport) {
        let (identity, kind) = match report {
            HostReport::Consecutive5xx(host) => (host, Kind::Consecutive5xx),
            HostReport::ConsecutiveGatewayFailure(host) => (host, Kind::ConsecutiveGatewayFailure),
            HostReport::ConsecutiveLocalOriginFailure(host) => {
                (host, Kind::ConsecutiveLocalOriginFailure)
            }
            HostReport::Degraded(host) => (host, Kind::Degraded),
            HostReport::ImmediateFailure(_) => return,
        };
        let watched = self.hosts.borrow().get(&identity).cloned();
        let Some(watched) = watched else { return };
        let host = watched.host.borrow().clone();
        if kind == Kind::Degraded {
            return self.degrade(&watched, &host);
        }
        if host.health.has(HealthFlag::FailedOutlierCheck) {
            return;
        }
        self.count_detected(kind);
        self.eject(&watched, kind);
        let Some(monitor) = host.monitor() else {
            return;
        };
        match kind {
            Kind::Consecutive5xx => {
                self.stats.ejections_consecutive_5xx().inc();
                monitor.consecutive_5xx.store(0, Relaxed);
            }
            Kind::ConsecutiveGatewayFailure => {
                monitor.consecutive_gateway_failure.store(0, Relaxed)
            }
            _ => monitor.consecutive_local_origin_failure.store(0, Relaxed),
        }
    }

    fn look(&self, now: Instant) {
        let hosts: Vec<Rc<Watched>> = self.hosts.borrow().values().cloned().collect();
        for watched in &hosts {
            self.uneject_if_due(watched, now);
            self.recover_if_due(watched, now);
            let host = watched.host.borrow().clone();
            if let Some(monitor) = host.monitor() {
                monitor.external.next_interval();
                monitor.local.next_interval();
            }
        }
        self.compare(&hosts, false);
        self.compare(&hosts, true);
        let interval = Duration::from_millis(self.config.interval_ms.get());
        for watched in &hosts {
            let is_ejected = watched
                .host
                .borrow()
                .health
                .has(HealthFlag::FailedOutlierCheck);
            let since = watched.last_unejection.get();
            if !is_ejected && since.is_some_and(|since| now - since >= interval) {
                watched.backoff.set(watched.backoff.get().saturating_sub(1));
            }
        }
    }

    /// Looks for hosts whose success rates are worse than others, or bad in themselves.
    fn compare(&self, hosts: &[Rc<Watched>], is_local: bool) {
        let config = &self.config;
        let compared = match is_local {
            true => &self.cluster.success_rates.local,
            false => &self.cluster.success_rates.external,
        };
        compared.set((-1.0, -1.0));
        let count = |hosts: usize| u64::try_from(hosts).unwrap_or(u64::MAX);
        let enough_for_rate = config.success_rate_minimum_hosts.get();
        let enough_for_percentage = config.failure_percentage_minimum_hosts.get();
        if count(hosts.len()) < enough_for_rate && count(hosts.len()) < enough_for_percentage {
            return;
        }
        let rate_volume = config.success_rate_request_volume.get();
        let percentage_volume = config.failure_percentage_request_volume.get();
        let mut by_rate = Vec::new();
        let mut by_percentage = Vec::new();
        for watched in hosts {
            let host = watched.host.borrow().clone();
            if host.health.has(HealthFlag::FailedOutlierCheck) {
                continue;
            }
            let of = |monitor: &Monitor, seen: &dyn Fn(&SuccessRate)| match is_local {
                true => seen(&monitor.local),
                false => seen(&monitor.external),
            };
            let Some(monitor) = host.monitor() else {
                continue;
            };
            let last = Cell::new(None);
            of(monitor, &|rate| last.set(rate.last()));
            let Some((rate, volume)) = last.get() else {
                continue;
            };
            if volume >= rate_volume.min(percentage_volume) {
                of(monitor, &|shown| shown.show(rate));
            }
            if volume >= rate_volume {
                by_rate.push((watched, rate));
            }
            if volume >= percentage_volume {
                by_percentage.push((watched, rate));
            }
        }
        if !by_rate.is_empty() && count(by_rate.len()) >= enough_for_rate {
            let rates: Vec<f64> = by_rate.iter().map(|(_, rate)| *rate).collect();
            let factor = thousandths(config.success_rate_stdev_factor.get());
            compared.set(threshold(&rates, factor));
            let (_, threshold) = compared.get();
            let kind = match is_local {
                true => Kind::SuccessRateLocalOrigin,
                false => Kind::SuccessRate,
            };
            for (watched, _) in by_rate.iter().filter(|(_, rate)| *rate < threshold) {
                self.stats.ejections_success_rate().inc();
                self.count_detected(kind);
                self.eject(watched, kind);
            }
        }
        if !by_percentage.is_empty() && count(by_percentage.len()) >= enough_for_percentage {
            let most = whole_percent(config.failure_percentage_threshold.get());
            let kind = match is_local {
                true => Kind::FailurePercentageLocalOrigin,
                false => Kind::FailurePercentage,
            };
            for (watched, _) in by_percentage
                .iter()
                .filter(|(_, rate)| 100.0 - rate >= most)
            {
                self.count_detected(kind);
                self.eject(watched, kind);
            }
        }
    }

    /// Ejects a host, if as many may be ejected and that is to be enforced.
    fn eject(&self, watched: &Watched, kind: Kind) {
        let config = &self.config;
        let host = watched.host.borrow().clone();
        if host.health.has(HealthFlag::FailedOutlierCheck) {
            // Two detectors may have found the same host.
            return;
        }
        let ejected = self.ejected.get();
        let hosts = u64::try_from(self.hosts.borrow().len()).unwrap_or(u64::MAX);
        let share = config.max_ejection_percent.get().min(100);
        let then = ejected + u64::from(!is_planted(Fault::CapBreach));
        let is_within = 100 * then <= share.saturating_mul(hosts);
        if !(is_within || config.always_eject_one_host && ejected == 0) {
            self.stats.ejections_overflow().inc();
            return;
        }
        if matches!(kind, Kind::Consecutive5xx | Kind::SuccessRate) {
            self.stats.ejections_total().inc();
        }
        if !self.enforces(kind) {
            return self.log_ejection(watched, &host, kind, false);
        }
        self.count_ejected(true);
        self.count_enforced(kind);
        host.health.set(HealthFlag::FailedOutlierCheck);
        watched.ejections.set(watched.ejections.get() + 1);
        watched.last_ejection.set(Some(Instant::now()));
        let jitter = config.max_ejection_time_jitter_ms.get().saturating_add(1);
        watched
            .jitter
            .set(Duration::from_millis(self.random.next() % jitter));
        let base = config.base_ejection_time_ms.get();
        let longest = config.max_ejection_time_ms.get();
        let backoff = watched.backoff.get();
        if u64::from(backoff).saturating_mul(base) < longest.saturating_add(base) {
            watched.backoff.set(backoff + 1);
        }
        debug!(
            cluster = &*self.cluster.info.name,
            host = %host.address,
            ?kind,
            "Host is ejected."
        );
        self.publisher.changed(&host);
        self.publisher.failed(&host);
        self.log_ejection(watched, &host, kind, true);
    }

    fn uneject_if_due(&self, watched: &Watched, now: Instant) {
        if !watched
            .host
            .borrow()
            .health
            .has(HealthFlag::FailedOutlierCheck)
        {
            return;
        }
        let Some(since) = watched.last_ejection.get() else {
            return;
        };
        let time = self.ejection_time(watched.backoff.get()) + watched.jitter.get();
        if time <= now.saturating_duration_since(since) {
            self.uneject(watched);
        }
    }

    fn uneject(&self, watched: &Watched) {
        let host = watched.host.borrow().clone();
        self.count_ejected(false);
        host.health.clear(HealthFlag::FailedOutlierCheck);
        if let Some(monitor) = host.monitor() {
            monitor.consecutive_5xx.store(0, Relaxed);
            monitor.consecutive_gateway_failure.store(0, Relaxed);
            monitor.consecutive_local_origin_failure.store(0, Relaxed);
        }
        watched.last_unejection.set(Some(Instant::now()));
        self.publisher.changed(&host);
        self.log(watched, &host, watched.last_ejection.get(), Action::Uneject);
    }

    /// A response has called its host degraded: it is, for as long as it would be ejected.
    fn degrade(&self, watched: &Watched, host: &Host) {
        if host.health.has(HealthFlag::DegradedOutlierDetection) {
            return;
        }
        self.count_detected(Kind::Degraded);
        host.health.set(HealthFlag::DegradedOutlierDetection);
        watched.degraded_since.set(Some(Instant::now()));
        watched
            .degraded_backoff
            .set(watched.degraded_backoff.get().saturating_add(1));
        self.publisher.changed(host);
        self.log_ejection(watched, host, Kind::Degraded, true);
    }

    fn recover_if_due(&self, watched: &Watched, now: Instant) {
        let host = watched.host.borrow().clone();
        let Some(since) = watched.degraded_since.get() else {
            return;
        };
        let time = self.ejection_time(watched.degraded_backoff.get());
        if time <= now.saturating_duration_since(since) {
            watched.degraded_since.set(None);
            host.health.clear(HealthFlag::DegradedOutlierDetection);
            self.publisher.changed(&host);
        }
    }

    fn ejection_time(&self, backoff: u32) -> Duration {
        let base = self.config.base_ejection_time_ms.get();
        let longest = self.config.max_ejection_time_ms.get();
        Duration::from_millis(base.saturating_mul(backoff.into()).min(longest))
    }

    fn enforces(&self, kind: Kind) -> bool {
        let enforcing = &self.config.enforcing;
        let share = match kind {
            Kind::Consecutive5xx => &enforcing.consecutive_5xx,
            Kind::ConsecutiveGatewayFailure => &enforcing.consecutive_gateway_failure,
            Kind::ConsecutiveLocalOriginFailure => &enforcing.consecutive_local_origin_failure,
            Kind::SuccessRate => &enforcing.success_rate,
            Kind::SuccessRateLocalOrigin => &enforcing.local_origin_success_rate,
            Kind::FailurePercentage => &enforcing.failure_percentage,
            Kind::FailurePercentageLocalOrigin => &enforcing.failure_percentage_local_origin,
            Kind::Degraded => return true,
        };
        share.contains(self.random.next())
    }

    fn count_ejected(&self, more: bool) {
        let ejected = self.ejected.get();
        if more {
            self.ejected.set(ejected + 1);
            self.stats.ejections_active().inc();
        } else {
            self.ejected.set(ejected.saturating_sub(1));
            self.stats.ejections_active().dec();
        }
    }

    fn count_detected(&self, kind: Kind) {
        let stats = &self.stats;
        match kind {
            Kind::Consecutive5xx => stats.ejections_detected_consecutive_5xx(),
            Kind::ConsecutiveGatewayFailure => {
                stats.ejections_detected_consecutive_gateway_failure()
            }
            Kind::ConsecutiveLocalOriginFailure => {
                stats.ejections_detected_consecutive_local_origin_failure()
            }
            Kind::SuccessRate => stats.ejections_detected_success_rate(),
            Kind::SuccessRateLocalOrigin => stats.ejections_detected_local_origin_success_rate(),
            Kind::FailurePercentage => stats.ejections_detected_failure_percentage(),
            Kind::FailurePercentageLocalOrigin => {
                stats.ejections_detected_local_origin_failure_percentage()
            }
            Kind::Degraded => stats.ejections_detected_degradation(),
        }
        .inc();
    }

    fn count_enforced(&self, kind: Kind) {
        let stats = &self.stats;
        stats.ejections_enforced_total().inc();
        match kind {
            Kind::Consecutive5xx => stats.ejections_enforced_consecutive_5xx(),
            Kind::ConsecutiveGatewayFailure => {
                stats.ejections_enforced_consecutive_gateway_failure()
            }
            Kind::ConsecutiveLocalOriginFailure => {
                stats.ejections_enforced_consecutive_local_origin_failure()
            }
            Kind::SuccessRate => stats.ejections_enforced_success_rate(),
            Kind::SuccessRateLocalOrigin => stats.ejections_enforced_local_origin_success_rate(),
            Kind::FailurePercentage => stats.ejections_enforced_failure_percentage(),
            Kind::FailurePercentageLocalOrigin => {
                stats.ejections_enforced_local_origin_failure_percentage()
            }
            Kind::Degraded => return,
        }
        .inc();
    }

    fn log_ejection(&self, watched: &Watched, host: &Host, kind: Kind, enforced: bool) {
        let is_local = matches!(
            kind,
            Kind::SuccessRateLocalOrigin | Kind::FailurePercentageLocalOrigin
        );
        let rates = &self.cluster.success_rates;
        let (external, local) = host.monitor().map_or((-1.0, -1.0), Monitor::success_rates);
        let ((average, threshold), host_rate) = match is_local {
            true => (rates.local.get(), local),
            false => (rates.external.get(), external),
        };
        let action = Action::Eject {
            kind,
            enforced,
            rates: Rates {
                host: host_rate,
                average,
                threshold,
            },
        };
        self.log(watched, host, watched.last_unejection.get(), action);
    }

    fn log(&self, watched: &Watched, host: &Host, since: Option<Instant>, action: Action) {
        let Some(file) = &self.log else { return };
        let subject = Subject {
            cluster: &self.cluster.info.name,
            address: host.address.to_string(),
            ejections: watched.ejections.get(),
            seconds_since: since.map(|since| since.elapsed().as_secs()),
        };
        event_log::log(file, &subject, action);
    }
}

/// The mean of success rates, and as many standard deviations below it as `factor` says.
#[allow(
    clippy::cast_precision_loss,
    reason = "numbers of hosts are far below 2^52"
)]
fn threshold(rates: &[f64], factor: f64) -> (f64, f64) {
    let count = rates.len().max(1) as f64;
    let mean = rates.iter().sum::<f64>() / count;
    let squares: f64 = rates.iter().map(|rate| (rate - mean).powi(2)).sum();
    (mean, mean - factor * (squares / count).sqrt())
}

#[allow(clippy::cast_precision_loss, reason = "a small number")]
fn thousandths(value: u64) -> f64 {
    value as f64 / 1000.0
}

#[allow(clippy::cast_precision_loss, reason = "a small number")]
fn whole_percent(value: u64) -> f64 {
    value as f64
}
