//! What all threads count of one host.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::config::OutlierDetectionConfig;
use crate::upstream::host::HostIdentity;
use crate::upstream::host_health::HostReport;

/// How an attempt to use a host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostResult {
    /// It answered with this HTTP status, or one that stands for what it answered.
    Response(u16),
    /// A connection was there for a request; what comes of the request is reported by itself.
    ConnectSuccess,
    /// A connection was made, and that is all there is to know.
    ConnectSuccessFinal,
    /// There is no connection, or it broke off.
    ConnectFailed,
    /// There was no answer in time; the client gets this status, if any.
    Timeout(Option<u16>),
}

/// What workers count of a host, and what main has found of it.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Monitor {
    pub(super) consecutive_5xx: AtomicU64,
    pub(super) consecutive_gateway_failure: AtomicU64,
    pub(super) consecutive_local_origin_failure: AtomicU64,
    pub(super) external: SuccessRate,
    pub(super) local: SuccessRate,
}

/// How many requests went well, in the interval that runs and in the one before.
#[derive(Debug)]
pub(super) struct SuccessRate {
    current: AtomicUsize,
    buckets: [Bucket; 2],
    /// The rate of the interval before, in percent; negative: none. The bits of a float.
    shown: AtomicU64,
}

#[derive(Debug, Default)]
struct Bucket {
    all: AtomicU64,
    good: AtomicU64,
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self {
            current: AtomicUsize::new(0),
            buckets: Default::default(),
            shown: AtomicU64::new((-1.0_f64).to_bits()),
        }
    }
}

impl SuccessRate {
    fn count(&self, is_good: bool) {
        if let Some(bucket) = self.buckets.get(self.current.load(Relaxed)) {
            bucket.all.fetch_add(1, Relaxed);
            if is_good {
                bucket.good.fetch_add(1, Relaxed);
            }
        }
    }

    /// A new interval begins.
    pub(super) fn next_interval(&self) {
        let next = 1 - self.current.load(Relaxed).min(1);
        if let Some(bucket) = self.buckets.get(next) {
            bucket.all.store(0, Relaxed);
            bucket.good.store(0, Relaxed);
        }
        self.current.store(next, Relaxed);
        self.show(-1.0);
    }

    /// The rate of the interval before, in percent, and the requests that it was made of; none: there were none.
    #[allow(
        clippy::cast_precision_loss,
        reason = "requests of an interval are far below 2^52"
    )]
    pub(super) fn last(&self) -> Option<(f64, u64)> {
        let bucket = self.buckets.get(1 - self.current.load(Relaxed).min(1))?;
        let all = bucket.all.load(Relaxed);
        let good = bucket.good.load(Relaxed);
        (all > 0).then(|| (good as f64 * 100.0 / all as f64, all))
    }

    pub(super) fn show(&self, rate: f64) {
        self.shown.store(rate.to_bits(), Relaxed);
    }

    /// In percent; negative: there is none.
    pub(super) fn shown(&self) -> f64 {
        f64::from_bits(self.shown.load(Relaxed))
    }
}

impl Monitor {
    /// The rates that `/clusters` shows: of responses, and with split origins of connections. Negative: none.
    pub(in crate::upstream) fn success_rates(&self) -> (f64, f64) {
        (self.external.shown(), self.local.shown())
    }

    /// Takes over how an attempt ended; what main should look at now.
    pub(in crate::upstream) fn put(
        &self,
        config: &OutlierDetectionConfig,
        host: HostIdentity,
        result: HostResult,
        report: &dyn Fn(HostReport),
    ) {
        let status = match (config.split_external_local_origin_errors, result) {
            (_, HostResult::Response(status)) => Some(status),
            (false, HostResult::ConnectSuccess) => None,
            (false, HostResult::ConnectSuccessFinal) => Some(200),
            (false, HostResult::ConnectFailed) => Some(503),
            (false, HostResult::Timeout(status)) => Some(status.unwrap_or(504)),
            (true, HostResult::ConnectSuccess | HostResult::ConnectSuccessFinal) => {
                self.local.count(true);
                self.consecutive_local_origin_failure.store(0, Relaxed);
                None
            }
            (true, HostResult::ConnectFailed | HostResult::Timeout(_)) => {
                self.local.count(false);
                let failures = &self.consecutive_local_origin_failure;
                let limit = config.consecutive_local_origin_failure.get();
                if failures.fetch_add(1, Relaxed) + 1 == limit {
                    report(HostReport::ConsecutiveLocalOriginFailure(host));
                }
                None
            }
        };
        if let Some(status) = status {
            self.put_status(config, host, status, report);
        }
    }

    fn put_status(
        &self,
        config: &OutlierDetectionConfig,
        host: HostIdentity,
        status: u16,
        report: &dyn Fn(HostReport),
    ) {
        let is_5xx = (500..600).contains(&status);
        self.external.count(!is_5xx);
        if !is_5xx {
            // Most of the time they are zero, and nobody else's copy is to be taken away for that.
            for count in [&self.consecutive_5xx, &self.consecutive_gateway_failure] {
                if count.load(Relaxed) != 0 {
                    count.store(0, Relaxed);
                }
            }
            return;
        }
        let gateway = &self.consecutive_gateway_failure;
        if !(502..=504).contains(&status) {
            gateway.store(0, Relaxed);
        } else if gateway.fetch_add(1, Relaxed) + 1 == config.consecutive_gateway_failure.get() {
            report(HostReport::ConsecutiveGatewayFailure(host));
        }
        if self.consecutive_5xx.fetch_add(1, Relaxed) + 1 == config.consecutive_5xx.get() {
            report(HostReport::Consecutive5xx(host));
        }
    }
}
