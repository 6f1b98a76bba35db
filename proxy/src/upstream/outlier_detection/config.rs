//! `envoy.config.cluster.v3.OutlierDetection` becomes settings.

use std::time::Duration;

use outrigger_proto::pb::envoy::config::cluster::v3 as pb;
use outrigger_proto::pb::google::protobuf::UInt32Value;

use crate::config::{ConfigPath, Fraction, Rejected};
use crate::runtime::{Runtime, RuntimeFraction, RuntimeInteger};

/// When a host is ejected, and for how long. All numbers follow `outlier_detection.*` of the runtime.
#[derive(Debug)]
pub(in crate::upstream) struct OutlierDetectionConfig {
    /// Responses of 500 and above in a row. Default 5.
    pub(super) consecutive_5xx: RuntimeInteger,
    /// Responses of 502, 503 or 504 in a row. Default 5.
    pub(super) consecutive_gateway_failure: RuntimeInteger,
    /// With split origins: failures to connect or to answer in time, in a row. Default 5.
    pub(super) consecutive_local_origin_failure: RuntimeInteger,
    /// Between looks at all hosts, in milliseconds. Default 10 s.
    pub(super) interval_ms: RuntimeInteger,
    /// For how long a host is ejected the first time, in milliseconds. Default 30 s.
    pub(super) base_ejection_time_ms: RuntimeInteger,
    /// For how long at most, in milliseconds. Default 300 s, or the base if that is longer.
    pub(super) max_ejection_time_ms: RuntimeInteger,
    /// Is added to that, at most, in milliseconds. Default 0.
    pub(super) max_ejection_time_jitter_ms: RuntimeInteger,
    /// The share of hosts that may be ejected at once, in percent. Default 10.
    pub(super) max_ejection_percent: RuntimeInteger,
    /// Whether one host may be ejected whatever the share is.
    pub(super) always_eject_one_host: bool,
    /// Hosts with enough requests that success rates are compared of. Default 5.
    pub(super) success_rate_minimum_hosts: RuntimeInteger,
    /// Requests of an interval that make a success rate. Default 100.
    pub(super) success_rate_request_volume: RuntimeInteger,
    /// How many standard deviations below the mean a rate may be, in thousandths. Default 1900.
    pub(super) success_rate_stdev_factor: RuntimeInteger,
    /// The percentage of failures that is too much. Default 85.
    pub(super) failure_percentage_threshold: RuntimeInteger,
    /// As for success rates. Default 5.
    pub(super) failure_percentage_minimum_hosts: RuntimeInteger,
    /// As for success rates. Default 50.
    pub(super) failure_percentage_request_volume: RuntimeInteger,
    /// How likely what was found is acted upon.
    pub(super) enforcing: Enforcing,
    /// Whether errors of the connection are counted apart from those of responses.
    pub(super) split_external_local_origin_errors: bool,
    /// Whether a health check that succeeds takes an ejection back. Default true.
    pub(super) successful_active_health_check_uneject_host: bool,
    /// Whether `x-envoy-degraded` of a response makes its host degraded.
    pub(super) detect_degraded_hosts: bool,
}

/// How likely what was found is acted upon, by what found it.
#[derive(Debug)]
pub(super) struct Enforcing {
    pub(super) consecutive_5xx: RuntimeFraction,
    pub(super) consecutive_gateway_failure: RuntimeFraction,
    pub(super) consecutive_local_origin_failure: RuntimeFraction,
    pub(super) success_rate: RuntimeFraction,
    pub(super) local_origin_success_rate: RuntimeFraction,
    pub(super) failure_percentage: RuntimeFraction,
    pub(super) failure_percentage_local_origin: RuntimeFraction,
}

impl OutlierDetectionConfig {
    /// Whether `x-envoy-degraded` of a response counts.
    pub(in crate::upstream) fn detects_degraded_hosts(&self) -> bool {
        self.detect_degraded_hosts
    }

    #[allow(
        clippy::too_many_lines,
        reason = "there are many fields, each on its own"
    )]
    pub(in crate::upstream) fn from_proto(
        proto: pb::OutlierDetection,
        runtime: &Runtime,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::OutlierDetection {
            consecutive_5xx,
            interval,
            base_ejection_time,
            max_ejection_percent,
            enforcing_consecutive_5xx,
            enforcing_success_rate,
            success_rate_minimum_hosts,
            success_rate_request_volume,
            success_rate_stdev_factor,
            consecutive_gateway_failure,
            enforcing_consecutive_gateway_failure,
            split_external_local_origin_errors,
            consecutive_local_origin_failure,
            enforcing_consecutive_local_origin_failure,
            enforcing_local_origin_success_rate,
            failure_percentage_threshold,
            enforcing_failure_percentage,
            enforcing_failure_percentage_local_origin,
            failure_percentage_minimum_hosts,
            failure_percentage_request_volume,
            max_ejection_time,
            max_ejection_time_jitter,
            successful_active_health_check_uneject_host,
            monitors,
            always_eject_one_host,
            detect_degraded_hosts,
        } = proto;
        // Envoy is built without any.
        let monitors = path.unsupported_if_set("monitors", monitors);
        let interval = path.positive_duration("interval", interval);
        let base = path.positive_duration("base_ejection_time", base_ejection_time);
        let longest = path.positive_duration("max_ejection_time", max_ejection_time);
        let jitter = path.duration("max_ejection_time_jitter", max_ejection_time_jitter);
        let percent = |name: &str, value: Option<UInt32Value>, default: u32| {
            path.in_range(name, value.map_or(default, |value| value.value), 0..=100)
        };
        let max_percent = percent("max_ejection_percent", max_ejection_percent, 10);
        let threshold = percent(
            "failure_percentage_threshold",
            failure_percentage_threshold,
            85,
        );
        let integer = |name: &str, default: u64| {
            runtime.integer(&format!("outlier_detection.{name}"), default)
        };
        let number = |name: &str, value: Option<UInt32Value>, default: u32| {
            integer(name, value.map_or(default, |value| value.value).into())
        };
        let enforce = |name: &str, value: Option<UInt32Value>, default: u32| {
            let numerator = percent(name, value, default)?;
            let share = Fraction {
                numerator,
                denominator: 100,
            };
            Ok(runtime.fraction(&format!("outlier_detection.{name}"), share))
        };
        let enforcing = Enforcing::convert([
            enforce("enforcing_consecutive_5xx", enforcing_consecutive_5xx, 100),
            enforce(
                "enforcing_consecutive_gateway_failure",
                enforcing_consecutive_gateway_failure,
                0,
            ),
            enforce(
                "enforcing_consecutive_local_origin_failure",
                enforcing_consecutive_local_origin_failure,
                100,
            ),
            enforce("enforcing_success_rate", enforcing_success_rate, 100),
            enforce(
                "enforcing_local_origin_success_rate",
                enforcing_local_origin_success_rate,
                100,
            ),
            enforce(
                "enforcing_failure_percentage",
                enforcing_failure_percentage,
                0,
            ),
            enforce(
                "enforcing_failure_percentage_local_origin",
                enforcing_failure_percentage_local_origin,
                0,
            ),
        ]);
        monitors?;
        let base = base?.unwrap_or(Duration::from_secs(30));
        let longest = longest?.unwrap_or(base.max(Duration::from_secs(300)));
        if longest < base {
            return Err(path.reject(
                "outlier detector's max_ejection_time cannot be smaller than base_ejection_time",
            ));
        }
        let interval = interval?.unwrap_or(Duration::from_secs(10));
        Ok(Self {
            consecutive_5xx: number("consecutive_5xx", consecutive_5xx, 5),
            consecutive_gateway_failure: number(
                "consecutive_gateway_failure",
                consecutive_gateway_failure,
                5,
            ),
            consecutive_local_origin_failure: number(
                "consecutive_local_origin_failure",
                consecutive_local_origin_failure,
                5,
            ),
            interval_ms: integer("interval_ms", millis(interval)),
            base_ejection_time_ms: integer("base_ejection_time_ms", millis(base)),
            max_ejection_time_ms: integer("max_ejection_time_ms", millis(longest)),
            max_ejection_time_jitter_ms: integer(
                "max_ejection_time_jitter_ms",
                millis(jitter?.unwrap_or_default()),
            ),
            max_ejection_percent: integer("max_ejection_percent", max_percent?.into()),
            always_eject_one_host: always_eject_one_host.is_some_and(|value| value.value),
            success_rate_minimum_hosts: number(
                "success_rate_minimum_hosts",
                success_rate_minimum_hosts,
                5,
            ),
            success_rate_request_volume: number(
                "success_rate_request_volume",
                success_rate_request_volume,
                100,
            ),
            success_rate_stdev_factor: number(
                "success_rate_stdev_factor",
                success_rate_stdev_factor,
                1900,
            ),
            failure_percentage_threshold: integer(
                "failure_percentage_threshold",
                threshold?.into(),
            ),
            failure_percentage_minimum_hosts: number(
                "failure_percentage_minimum_hosts",
                failure_percentage_minimum_hosts,
                5,
            ),
            failure_percentage_request_volume: number(
                "failure_percentage_request_volume",
                failure_percentage_request_volume,
                50,
            ),
            enforcing: enforcing?,
            split_external_local_origin_errors,
            successful_active_health_check_uneject_host:
                successful_active_health_check_uneject_host.is_none_or(|value| value.value),
            detect_degraded_hosts: detect_degraded_hosts.is_some_and(|value| value.value),
        })
    }
}

impl Enforcing {
    /// All of them, so that every error is found.
    fn convert(shares: [Result<RuntimeFraction, Rejected>; 7]) -> Result<Self, Rejected> {
        let [a, b, c, d, e, f, g] = shares;
        Ok(Self {
            consecutive_5xx: a?,
            consecutive_gateway_failure: b?,
            consecutive_local_origin_failure: c?,
            success_rate: d?,
            local_origin_success_rate: e?,
            failure_percentage: f?,
            failure_percentage_local_origin: g?,
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
