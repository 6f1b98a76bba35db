//! `common_lb_config.override_host_status`: which health a host may have that a request is bound to, past the load balancer.

use outrigger_proto::pb::envoy::config::cluster::v3::cluster::CommonLbConfig;
use outrigger_proto::pb::envoy::config::core::v3::HealthStatus;

use crate::config::{ConfigPath, Rejected};
use crate::upstream::host::{HealthFlag, Host};

/// A set of `HealthStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostStatuses(u8);

impl Default for HostStatuses {
    /// All that a load balancer would choose as well.
    fn default() -> Self {
        Self::of(HealthStatus::Unknown)
            .and(Self::of(HealthStatus::Healthy))
            .and(Self::of(HealthStatus::Degraded))
    }
}

impl HostStatuses {
    pub(super) fn from_proto(
        common: Option<&CommonLbConfig>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let Some(set) = common.and_then(|common| common.override_host_status.as_ref()) else {
            return Ok(Self::default());
        };
        let path = path.field("override_host_status");
        let statuses = path.each("statuses", set.statuses.iter().copied(), |status, path| {
            path.enumeration::<HealthStatus>("", status).map(Self::of)
        })?;
        Ok(statuses.into_iter().fold(Self(0), Self::and))
    }

    /// Whether a host may have the health that it has.
    pub(super) fn contain(self, host: &Host) -> bool {
        self.0 & Self::of(status(host)).0 != 0
    }

    fn of(status: HealthStatus) -> Self {
        Self(match status {
            HealthStatus::Unknown => 1,
            HealthStatus::Healthy => 2,
            HealthStatus::Unhealthy => 4,
            HealthStatus::Draining => 8,
            HealthStatus::Timeout => 16,
            HealthStatus::Degraded => 32,
        })
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What is found out about a host counts more than what its discovery says, unless that is worse.
fn status(host: &Host) -> HealthStatus {
    let has = |flag| host.health.has(flag);
    if has(HealthFlag::FailedActiveHc) || has(HealthFlag::FailedOutlierCheck) {
        HealthStatus::Unhealthy
    } else if has(HealthFlag::EdsStatusDraining) {
        HealthStatus::Draining
    } else if has(HealthFlag::EdsStatusTimeout) {
        HealthStatus::Timeout
    } else if has(HealthFlag::FailedEdsHealth) {
        HealthStatus::Unhealthy
    } else if has(HealthFlag::DegradedActiveHc) || has(HealthFlag::DegradedEdsHealth) {
        HealthStatus::Degraded
    } else if has(HealthFlag::EdsStatusHealthy) {
        HealthStatus::Healthy
    } else {
        HealthStatus::Unknown
    }
}
