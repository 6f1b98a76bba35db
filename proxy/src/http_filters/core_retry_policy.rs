//! `envoy.config.core.v3.RetryPolicy`: when requests of a filter's own are tried again.

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::config::route::v3 as route_pb;
use outrigger_proto::pb::google::protobuf::Duration;
use route_pb::retry_policy as route;

use crate::config::{ConfigPath, Rejected};
use crate::route::RetryPolicy;

/// Converts a policy of an HTTP service, for which errors are tried again where it does not say what is.
pub(super) fn retry_policy(
    proto: core::RetryPolicy,
    path: &ConfigPath<'_>,
) -> Result<RetryPolicy, Rejected> {
    retry_policy_or(proto, "5xx,gateway-error,connect-failure,reset", path)
}

/// Converts a policy of the core API into one of a route; `retry_on` is for one that does not say what is tried again. As in
/// Envoy, an attempt may take as long as the longest wait between two.
pub fn retry_policy_or(
    proto: core::RetryPolicy,
    default_retry_on: &str,
    path: &ConfigPath<'_>,
) -> Result<RetryPolicy, Rejected> {
    let core::RetryPolicy {
        retry_back_off,
        num_retries,
        retry_on,
        retry_priority,
        retry_host_predicate,
        host_selection_retry_max_attempts,
    } = proto;
    let core::BackoffStrategy {
        base_interval,
        max_interval,
    } = retry_back_off.unwrap_or_default();
    let base_interval = base_interval.unwrap_or(SECOND);
    let max_interval = max_interval.unwrap_or_else(|| tenfold(base_interval));
    let retry_on = match retry_on.is_empty() {
        true => default_retry_on.to_owned(),
        false => retry_on,
    };
    let policy = route_pb::RetryPolicy {
        retry_on,
        num_retries,
        retry_back_off: Some(route_pb::retry_policy::RetryBackOff {
            base_interval: Some(base_interval),
            max_interval: Some(max_interval),
        }),
        per_try_timeout: Some(max_interval),
        retry_priority: retry_priority.map(priority),
        retry_host_predicate: retry_host_predicate.into_iter().map(predicate).collect(),
        host_selection_retry_max_attempts,
        ..Default::default()
    };
    RetryPolicy::from_proto(policy, path)
}

/// The same message under its name of routes.
fn priority(proto: core::retry_policy::RetryPriority) -> route::RetryPriority {
    use core::retry_policy::retry_priority::ConfigType;
    let core::retry_policy::RetryPriority { name, config_type } = proto;
    route::RetryPriority {
        name,
        config_type: config_type.map(|ConfigType::TypedConfig(config)| {
            route::retry_priority::ConfigType::TypedConfig(config)
        }),
    }
}

/// The same message under its name of routes.
fn predicate(proto: core::retry_policy::RetryHostPredicate) -> route::RetryHostPredicate {
    use core::retry_policy::retry_host_predicate::ConfigType;
    let core::retry_policy::RetryHostPredicate { name, config_type } = proto;
    route::RetryHostPredicate {
        name,
        config_type: config_type.map(|ConfigType::TypedConfig(config)| {
            route::retry_host_predicate::ConfigType::TypedConfig(config)
        }),
    }
}

fn tenfold(duration: Duration) -> Duration {
    let nanos = i64::from(duration.nanos).saturating_mul(10);
    Duration {
        seconds: duration
            .seconds
            .saturating_mul(10)
            .saturating_add(nanos / NANOS),
        nanos: i32::try_from(nanos % NANOS).unwrap_or_default(),
    }
}

const NANOS: i64 = 1_000_000_000;
/// The shortest wait, where the policy does not say.
const SECOND: Duration = Duration {
    seconds: 1,
    nanos: 0,
};
