//! How often a request is tried again and after which pause, and policies of clusters.

use super::{policy, second, unavailable};
use crate::case::{Case, With, case, get, late, reply, status, with_fields};

pub(super) fn limits() -> Vec<Case> {
    let breakers = |title, thresholds: &str| {
        policy(title, "retry_on: 5xx")
            .cluster(&format!(
                "circuit_breakers: {{ thresholds: [{{ {thresholds} }}] }}"
            ))
            .replies([unavailable(), second()])
            .get("/")
    };
    vec![
        policy("a number of retries of zero is URX with the first response", "retry_on: 5xx, num_retries: 0")
            .replies([unavailable(), second()])
            .get("/")
            .stats(["cluster.@backend.upstream_rq_retry_limit_exceeded", "cluster.@backend.upstream_rq_retry"])
            .shows(["< 503", "log flags=URX", "log attempts=1", "stat cluster.@backend.upstream_rq_retry_limit_exceeded: 1"]),
        breakers("max_retries of the cluster keeps a retry back with UO", "max_retries: 0")
            .stats(["cluster.@backend.upstream_rq_retry_overflow", "cluster.@backend.upstream_rq_retry"])
            .shows(["< 503", "< body no", "log flags=UO", "log attempts=1", "stat cluster.@backend.upstream_rq_retry_overflow: 1", "stat cluster.@backend.upstream_rq_retry: 0"]),
        breakers("a retry budget of nothing keeps a retry back", "retry_budget: { budget_percent: { value: 0 }, min_retry_concurrency: 0 }")
            .stats(["cluster.@backend.upstream_rq_retry_overflow"])
            .shows(["< 503", "log flags=UO", "log attempts=1", "stat cluster.@backend.upstream_rq_retry_overflow: 1"]),
        (0..11)
            .fold(
                breakers(
                    "a retry budget with an interval counts requests that have ended",
                    "retry_budget: { budget_percent: { value: 10 }, budget_interval: 60s, min_retry_concurrency: 0 }",
                ),
                |case, _| case.get("/"),
            )
            .replies([unavailable()])
            .stats(["cluster.@backend.upstream_rq_retry", "cluster.@backend.upstream_rq_retry_overflow"])
            .shows([
                "log attempts=1",
                "log attempts=2",
                "stat cluster.@backend.upstream_rq_retry: 3",
                "stat cluster.@backend.upstream_rq_retry_overflow: 9",
            ]),
        (0..3)
            .fold(
                breakers(
                    "a retry budget forgets requests when its interval is over",
                    "retry_budget: { budget_percent: { value: 25 }, budget_interval: 2s, min_retry_concurrency: 0 }",
                ),
                |case, _| case.get("/"),
            )
            .wait(3000)
            .get("/late")
            .replies([unavailable()])
            .stats(["cluster.@backend.upstream_rq_retry", "cluster.@backend.upstream_rq_retry_overflow"])
            .shows([
                "stat cluster.@backend.upstream_rq_retry: 1",
                "stat cluster.@backend.upstream_rq_retry_overflow: 4",
            ]),
        breakers("a retry budget takes the place of max_retries", "max_retries: 0, retry_budget: { min_retry_concurrency: 1 }")
            .shows(["< body second", "log attempts=2"]),
        policy("a request that the cluster has no room for is not tried again", "retry_on: \"5xx,reset,connect-failure\"")
            .cluster("circuit_breakers: { thresholds: [{ max_requests: 0, max_pending_requests: 0, max_connections: 0 }] }")
            .get("/")
            .stats(["cluster.@backend.upstream_rq_retry"])
            .shows(["< 503", "< x-envoy-overloaded: true", "log flags=UO", "log attempts=1", "log details=upstream_reset_before_response_started{overflow}", "stat cluster.@backend.upstream_rq_retry: 0"]),
        policy("a retried response counts below retry", "retry_on: 5xx")
            .replies([unavailable(), second()])
            .get("/")
            .page("/stats", "cluster.@backend.retry.")
            .page("/stats", "cluster.@backend.upstream_rq_5xx")
            .page("/stats", "cluster.@backend.upstream_rq_completed")
            .shows(["page cluster.@backend.retry.upstream_rq_503: 1", "page cluster.@backend.retry.upstream_rq_completed: 1", "page cluster.@backend.upstream_rq_completed: 1"])
            .lacks(["page cluster.@backend.upstream_rq_5xx*"]),
        policy("a retry that fails as well is no success", "retry_on: 5xx")
            .reply(unavailable())
            .get("/")
            .page("/stats", "cluster.@backend.upstream_rq_retry")
            .shows(["page cluster.@backend.upstream_rq_retry_success: 0", "page cluster.@backend.upstream_rq_retry_limit_exceeded: 1"]),
        policy("an attempt that was tried again is an error of its host", "retry_on: 5xx")
            .replies([unavailable(), second()])
            .get("/")
            .page("/clusters", "@backend::127.0.0.1")
            .shows(["page @backend::127.0.0.1:@port:backend::rq_error::1", "page @backend::127.0.0.1:@port:backend::rq_success::1"]),
        policy("per-try timeouts count for host and cluster", "retry_on: 5xx, per_try_timeout: 0.3s")
            .replies([late(2000, "late"), second()])
            .get("/")
            .stats(["cluster.@backend.upstream_rq_per_try_timeout", "cluster.@backend.upstream_rq_timeout"])
            .page("/clusters", "@backend::127.0.0.1")
            .shows(["stat cluster.@backend.upstream_rq_per_try_timeout: 1", "stat cluster.@backend.upstream_rq_timeout: 0", "page @backend::127.0.0.1:@port:backend::rq_timeout::1"]),
        policy("per-try idle timeouts have a counter of their own, and are tried again", "retry_on: 5xx, per_try_idle_timeout: 0.3s")
            .replies([late(2000, "late"), second()])
            .get("/")
            .stats(["cluster.@backend.upstream_rq_per_try_timeout", "cluster.@backend.upstream_rq_per_try_idle_timeout"])
            .shows(["< body second", "stat cluster.@backend.upstream_rq_per_try_timeout: 0", "stat cluster.@backend.upstream_rq_per_try_idle_timeout: 1"]),
    ]
}

pub(super) fn back_off() -> Vec<Case> {
    let limited = |title, response: &str, max: &str| {
        policy(
            title,
            &format!("retry_on: 5xx, rate_limited_retry_back_off: {{ {max} reset_headers: [{{ name: Retry-After, format: SECONDS }}, {{ name: X-RateLimit-Reset, format: UNIX_TIMESTAMP }}] }}"),
        )
        .replies([reply(with_fields(status(503, "no"), response)), second()])
        .get("/")
        .stats(["cluster.@backend.upstream_rq_retry_backoff_ratelimited", "cluster.@backend.upstream_rq_retry_backoff_exponential"])
    };
    let by_response = "stat cluster.@backend.upstream_rq_retry_backoff_ratelimited: 1";
    let exponential = "stat cluster.@backend.upstream_rq_retry_backoff_exponential: 1";
    vec![
        limited("a retry waits as long as Retry-After says", "retry-after: 1", "").shows(["< body second", by_response]),
        limited("a Retry-After above max_interval does not count", "retry-after: 100", "max_interval: 2s,")
            .shows(["< body second", exponential]),
        limited("a Retry-After of zero does not count", "retry-after: 0", "").shows(["< body second", exponential]),
        limited("a reset that lies in the past does not count", "x-ratelimit-reset: 1000000000", "")
            .shows(["< body second", exponential]),
        limited("a reset that cannot be read does not count", "retry-after: soon", "").shows(["< body second", exponential]),
        policy("the timeout of the route ends a back-off", "retry_on: 5xx, rate_limited_retry_back_off: { reset_headers: [{ name: retry-after }] }")
            .route("timeout: 0.4s\nretry_policy: { retry_on: 5xx, rate_limited_retry_back_off: { reset_headers: [{ name: retry-after }] } }", "")
            .reply(reply(with_fields(status(503, "no"), "retry-after: 5")))
            .get("/")
            .page("/stats", "cluster.@backend.upstream_rq_timeout")
            .page("/stats", "cluster.@backend.upstream_rq_5")
            .both()
            .shows(["< 504", "log flags=UT", "log attempts=1", "log details=response_timeout", "page cluster.@backend.upstream_rq_timeout: 0"]),
    ]
}

/// Policies of the cluster, which go before those of the route.
pub(super) fn of_clusters() -> Vec<Case> {
    let cluster = |title, fields: &str, action: &str| {
        case(title)
            .protocol_options(&format!(
                "explicit_http_config: {{ http_protocol_options: {{}} }}\nretry_policy: {{ {fields} }}"
            ))
            .route(action, "")
    };
    vec![
        cluster("a cluster may have a retry policy", "retry_on: 5xx", "")
            .replies([unavailable(), second()])
            .get("/")
            .both()
            .shows(["< body second", "log attempts=2"]),
        cluster(
            "the retry policy of a cluster goes before that of the route",
            "retry_on: retriable-4xx",
            "retry_policy: { retry_on: 5xx }",
        )
        .replies([unavailable(), second()])
        .get("/")
        .shows(["< 503", "log attempts=1"]),
        cluster(
            "the number of retries is that of the cluster's policy",
            "retry_on: 5xx, num_retries: 2",
            "retry_policy: { retry_on: 5xx, num_retries: 5 }",
        )
        .reply(unavailable())
        .get("/")
        .shows(["< 503", "log attempts=3"]),
        cluster(
            "headers ask for retries beside the policy of the cluster",
            "retry_on: retriable-4xx",
            "",
        )
        .internal()
        .replies([unavailable(), second()])
        .send(get("/").field("x-envoy-retry-on", "5xx"))
        .shows(["< body second"]),
        cluster(
            "the codes of a cluster's policy are retried",
            "retry_on: retriable-status-codes, retriable_status_codes: [418]",
            "",
        )
        .replies([reply(status(418, "teapot")), second()])
        .get("/")
        .shows(["< body second"]),
        cluster(
            "the per-try timeout of a cluster's policy does not count",
            "retry_on: 5xx, per_try_timeout: 0.3s",
            "",
        )
        .replies([late(1500, "late"), second()])
        .get("/")
        .shows(["< body late", "log attempts=1"]),
        cluster(
            "the per-try idle timeout of a cluster's policy does not count",
            "retry_on: 5xx, per_try_idle_timeout: 0.3s",
            "",
        )
        .replies([late(1500, "late"), second()])
        .get("/")
        .shows(["< body late", "log attempts=1"]),
        cluster(
            "the per-try timeout of the route counts beside a cluster's policy",
            "retry_on: 5xx",
            "retry_policy: { retry_on: 5xx, per_try_timeout: 0.3s }",
        )
        .replies([late(1500, "late"), second()])
        .get("/")
        .shows(["< body second"]),
    ]
}
