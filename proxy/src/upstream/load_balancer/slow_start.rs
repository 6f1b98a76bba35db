//! `slow_start_config`: a host that has become healthy gets its share of requests little by little.
//!
//! Deviations: how much a host is held back is worked out when the next request comes; Envoy does so when the host becomes healthy,
//! and again when it has been chosen.

use std::time::Duration;

use outrigger_proto::pb::envoy::config::cluster::v3::cluster as legacy;
use outrigger_proto::pb::envoy::config::core::v3::RuntimeDouble;
use outrigger_proto::pb::envoy::extensions::load_balancing_policies::common::v3 as common;
use outrigger_proto::pb::envoy::r#type::v3::Percent;
use outrigger_proto::pb::google::protobuf;
use tokio::time::Instant;

use crate::config::{ConfigPath, Rejected};
use crate::upstream::host::{Health, WorkerHost};

/// How the weight of a new host grows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    /// How long it takes; longer than zero.
    pub window: Duration,
    /// How fast it goes: with 1.0 (the default) evenly, with more faster at first.
    pub aggression: f64,
    /// The share of its weight that a host has at least, 0.0..=1.0. Default 0.1.
    pub min_weight: f64,
}

impl SlowStart {
    pub(super) fn from_legacy(
        proto: legacy::SlowStartConfig,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Self>, Rejected> {
        let legacy::SlowStartConfig {
            slow_start_window,
            aggression,
            min_weight_percent,
        } = proto;
        Self::new(slow_start_window, aggression, min_weight_percent, path)
    }

    pub(super) fn from_proto(
        proto: common::SlowStartConfig,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Self>, Rejected> {
        let common::SlowStartConfig {
            slow_start_window,
            aggression,
            min_weight_percent,
        } = proto;
        Self::new(slow_start_window, aggression, min_weight_percent, path)
    }

    /// None where it takes no time.
    fn new(
        window: Option<protobuf::Duration>,
        aggression: Option<RuntimeDouble>,
        min_weight: Option<Percent>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Self>, Rejected> {
        let window = path.duration("slow_start_window", window);
        let min_weight = path.percent("min_weight_percent", min_weight);
        let aggression = match aggression {
            None => Ok(1.0),
            Some(RuntimeDouble {
                default_value,
                runtime_key: _,
            }) if default_value > 0.0 && default_value.is_finite() => Ok(default_value),
            Some(RuntimeDouble { default_value, .. }) => Err(path
                .field("aggression")
                .reject(format!("{default_value} is not more than 0.0"))),
        };
        let (window, aggression, min_weight) = (window?, aggression?, min_weight?);
        Ok(window
            .filter(|window| !window.is_zero())
            .map(|window| Self {
                window,
                aggression,
                min_weight: min_weight.unwrap_or(0.1),
            }))
    }

    /// Whether a host has not its whole weight yet.
    pub(super) fn holds_back(&self, host: &WorkerHost, now: Instant) -> bool {
        self.age(host, now).is_some_and(|age| age < self.window)
    }

    /// `weight`, or what a host has of it yet.
    pub(super) fn apply(&self, weight: f64, host: &WorkerHost, now: Instant) -> f64 {
        let age = self.age(host, now).filter(|age| *age < self.window);
        let Some(age) = age else {
            return weight;
        };
        // Time counts in whole milliseconds, of which one has always passed.
        let passed = age.max(Duration::from_millis(1)).as_millis();
        #[allow(
            clippy::cast_precision_loss,
            reason = "windows are far below 2^52 milliseconds"
        )]
        let share = passed as f64 / self.window.as_millis().max(1) as f64;
        let share = match self.aggression {
            1.0 => share,
            aggression => share.powf(1.0 / aggression),
        };
        weight * share.max(self.min_weight)
    }

    /// For how long a host has been healthy; none: it is not.
    fn age(&self, host: &WorkerHost, now: Instant) -> Option<Duration> {
        let since = host.healthy_since()?;
        (host.coarse_health() == Health::Healthy).then(|| now.saturating_duration_since(since))
    }
}
