//! The event log: a line of JSON for each ejection, as `envoy.data.cluster.v3.OutlierDetectionEvent` has it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

use crate::access_loggers::LogFile;
use crate::upstream::health_check::rfc3339;

/// What found a host out: `OutlierEjectionType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
    SuccessRate,
    SuccessRateLocalOrigin,
    FailurePercentage,
    FailurePercentageLocalOrigin,
    Degraded,
}

/// What has happened.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    Eject {
        kind: Kind,
        enforced: bool,
        rates: Rates,
    },
    Uneject,
}

/// Success rates in percent, as far as there are any.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    pub(super) host: f64,
    pub(super) average: f64,
    pub(super) threshold: f64,
}

/// Whose event it is.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) cluster: &'a str,
    pub(super) address: String,
    pub(super) ejections: u32,
    /// Since what was done to the host before.
    pub(super) seconds_since: Option<u64>,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "CONSECUTIVE_5XX",
            Self::ConsecutiveGatewayFailure => "CONSECUTIVE_GATEWAY_FAILURE",
            Self::ConsecutiveLocalOriginFailure => "CONSECUTIVE_LOCAL_ORIGIN_FAILURE",
            Self::SuccessRate => "SUCCESS_RATE",
            Self::SuccessRateLocalOrigin => "SUCCESS_RATE_LOCAL_ORIGIN",
            Self::FailurePercentage => "FAILURE_PERCENTAGE",
            Self::FailurePercentageLocalOrigin => "FAILURE_PERCENTAGE_LOCAL_ORIGIN",
            Self::Degraded => "DEGRADED",
        }
    }
}

pub(super) fn log(file: &Arc<LogFile>, subject: &Subject<'_>, action: Action) {
    let line = line(subject, action, SystemTime::now());
    file.append(0, |out| out.extend_from_slice(line.as_bytes()));
}

// Writing to a string cannot fail.
fn line(subject: &Subject<'_>, action: Action, now: SystemTime) -> String {
    let kind = match action {
        Action::Eject { kind, .. } => kind,
        // The first of the enum stands where there is none.
        Action::Uneject => Kind::Consecutive5xx,
    };
    let since = subject.seconds_since.map_or_else(String::new, |seconds| {
        format!(",\"secs_since_last_action\":\"{seconds}\"")
    });
    let mut out = format!(
        "{{\"type\":\"{}\",\"timestamp\":\"{}\"{since},\"cluster_name\":{},\"upstream_url\":{},\"action\":\"{}\",\"num_ejections\":{},\"enforced\":{}",
        kind.as_str(),
        rfc3339(now),
        Value::from(subject.cluster),
        Value::from(subject.address.as_str()),
        match action {
            Action::Eject { .. } => "EJECT",
            Action::Uneject => "UNEJECT",
        },
        subject.ejections,
        matches!(action, Action::Eject { enforced: true, .. })
    );
    if let Action::Eject { kind, rates, .. } = action {
        let _ = match kind {
            Kind::SuccessRate | Kind::SuccessRateLocalOrigin => write!(
                out,
                ",\"eject_success_rate_event\":{{\"host_success_rate\":{},\"cluster_average_success_rate\":{},\"cluster_success_rate_ejection_threshold\":{}}}",
                whole(rates.host),
                whole(rates.average),
                whole(rates.threshold)
            ),
            Kind::FailurePercentage | Kind::FailurePercentageLocalOrigin => write!(
                out,
                ",\"eject_failure_percentage_event\":{{\"host_success_rate\":{}}}",
                whole(rates.host)
            ),
            _ => write!(out, ",\"eject_consecutive_event\":{{}}"),
        };
    }
    out.push_str("}\n");
    out
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a percentage, whose fraction Envoy cuts off"
)]
fn whole(rate: f64) -> u32 {
    rate.max(0.0) as u32
}
