//! `CircuitBreakers` become limits.

use outrigger_proto::pb::envoy::config::cluster::v3::CircuitBreakers;
use outrigger_proto::pb::envoy::config::cluster::v3::circuit_breakers as pb;
use outrigger_proto::pb::envoy::config::core::v3::RoutingPriority as PbPriority;

use crate::config::{ConfigPath, Rejected};
use crate::upstream::circuit_breaker::{
    CircuitBreakerSettings, RetryBudget, RoutingPriority, Thresholds,
};

/// Converts the message. Of several thresholds for one priority the first counts.
pub(super) fn circuit_breakers(
    proto: CircuitBreakers,
    path: &ConfigPath<'_>,
) -> Result<CircuitBreakerSettings, Rejected> {
    let CircuitBreakers {
        thresholds,
        per_host_thresholds,
    } = proto;
    let thresholds = path.each("thresholds", thresholds, threshold);
    let per_host = path.each(
        "per_host_thresholds",
        per_host_thresholds,
        per_host_threshold,
    );
    let mut settings = CircuitBreakerSettings::default();
    // Backwards, so that the first of a priority is the last to be set.
    for (priority, limits) in thresholds?.into_iter().rev() {
        match priority {
            RoutingPriority::Default => settings.default = limits,
            RoutingPriority::High => settings.high = limits,
        }
    }
    for (priority, max) in per_host?.into_iter().rev() {
        settings.per_host_max_connections[priority as usize] = max;
    }
    Ok(settings)
}

fn threshold(
    proto: pb::Thresholds,
    path: &ConfigPath<'_>,
) -> Result<(RoutingPriority, Thresholds), Rejected> {
    let pb::Thresholds {
        priority,
        max_connections,
        max_pending_requests,
        max_requests,
        max_retries,
        retry_budget,
        track_remaining,
        max_connection_pools,
    } = proto;
    let priority = routing_priority(priority, path);
    let retry_budget = path.optional("retry_budget", retry_budget, budget);
    let or = |value: Option<outrigger_proto::pb::google::protobuf::UInt32Value>, default: u32| {
        value.map_or(default, |v| v.value)
    };
    let limits = Thresholds {
        max_connections: or(max_connections, 1024),
        max_pending_requests: or(max_pending_requests, 1024),
        max_requests: or(max_requests, 1024),
        max_retries: or(max_retries, 3),
        retry_budget: retry_budget?,
        track_remaining,
        max_connection_pools: or(max_connection_pools, u32::MAX),
    };
    Ok((priority?, limits))
}

fn budget(
    proto: pb::thresholds::RetryBudget,
    path: &ConfigPath<'_>,
) -> Result<RetryBudget, Rejected> {
    let pb::thresholds::RetryBudget {
        budget_percent,
        budget_interval,
        min_retry_concurrency,
    } = proto;
    let share = path.percent("budget_percent", budget_percent);
    let interval = path.duration("budget_interval", budget_interval);
    let share = share?.unwrap_or(0.2);
    let interval = interval?.unwrap_or_default();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of 0.0 to 1.0, in parts of a million"
    )]
    let budget_ppm = (share * 1_000_000.0).round() as u32;
    Ok(RetryBudget {
        budget_ppm,
        interval,
        min_retry_concurrency: min_retry_concurrency.map_or(3, |v| v.value),
    })
}

/// Of a single host only connections can be limited.
fn per_host_threshold(
    proto: pb::Thresholds,
    path: &ConfigPath<'_>,
) -> Result<(RoutingPriority, Option<u32>), Rejected> {
    let pb::Thresholds {
        priority,
        max_connections,
        max_pending_requests,
        max_requests,
        max_retries,
        retry_budget,
        track_remaining,
        max_connection_pools,
    } = proto;
    let refused = [
        path.unsupported_if_set("max_pending_requests", max_pending_requests),
        path.unsupported_if_set("max_requests", max_requests),
        path.unsupported_if_set("max_retries", max_retries),
        path.unsupported_if_set("retry_budget", retry_budget),
        path.unsupported_if_set("track_remaining", track_remaining),
        path.unsupported_if_set("max_connection_pools", max_connection_pools),
    ];
    let priority = routing_priority(priority, path);
    for result in refused {
        result?;
    }
    Ok((priority?, max_connections.map(|v| v.value)))
}

fn routing_priority(value: i32, path: &ConfigPath<'_>) -> Result<RoutingPriority, Rejected> {
    Ok(match path.enumeration("priority", value)? {
        PbPriority::Default => RoutingPriority::Default,
        PbPriority::High => RoutingPriority::High,
    })
}
