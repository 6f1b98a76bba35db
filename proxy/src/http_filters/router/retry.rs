//! Retries: which outcomes are tried again, how often, after how long, and where.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter#x-envoy-retry-on>

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::outcome::Failure;
use crate::config::Fraction;
use crate::http::{HeaderName, Known, RequestHead, ResponseHead};
use crate::route::{RateLimitedBackOff, RetryOn, RetryPolicy, RouteCounters, RouteStats};
use crate::runtime::{Runtime, RuntimeFraction, RuntimeInteger};
use crate::upstream::pool::{ResetReason, RetryGuard};
use crate::upstream::{Host, RoutingPriority, WorkerCluster, WorkerHost};

/// The retries of one request. Without a reason to retry it holds nothing.
#[derive(Default)]
pub(crate) struct RetryState(Option<Box<Retries>>);

/// What is left to do again, and how.
struct Retries {
    on: RetryOn,
    remaining: u32,
    /// Codes of `x-envoy-retriable-status-codes`, beside those of the policy.
    asked_codes: Vec<u32>,
    /// Names of `x-envoy-retriable-header-names`, beside the headers of the policy.
    asked_headers: Vec<HeaderName>,
    back_off: BackOff,
    tried: Vec<Rc<WorkerHost>>,
    /// The priorities of that many of them are avoided no more, since all had been tried.
    forgotten: Cell<usize>,
    /// Counts the retry that waits or runs against the cluster's limit.
    guard: Option<RetryGuard>,
}

/// Exponential, with full jitter.
#[derive(Debug)]
struct BackOff {
    /// The ceiling of the next wait, in milliseconds; at least 1.
    next: u64,
    max: u64,
}

/// The runtime keys of retries, resolved once.
#[derive(Debug, Clone)]
pub(crate) struct RetryRuntime {
    /// `upstream.base_retry_backoff_ms`.
    base_back_off: RuntimeInteger,
    /// `upstream.use_retry`.
    use_retry: RuntimeFraction,
}

/// What a decision needs to know beside the outcome.
pub(crate) struct RetryContext<'a> {
    /// The policy of the route.
    pub(crate) policy: Option<&'a RetryPolicy>,
    /// Whose limit of retries counts.
    pub(crate) cluster: &'a Rc<WorkerCluster>,
    /// Which of its limits.
    pub(crate) priority: RoutingPriority,
    /// Of the worker.
    pub(crate) runtime: &'a RetryRuntime,
    /// The stats of the route, if it has some.
    pub(crate) route_stats: [Option<&'a Arc<RouteStats>>; 2],
    /// A random number.
    pub(crate) random: u64,
}

/// What becomes of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryDecision {
    /// It stands: nothing asks for a retry.
    No,
    /// It stands, though it should be tried again: there were enough retries.
    LimitExceeded,
    /// It stands, though it should be tried again: the cluster has no room for another retry.
    Overflow,
    /// Another attempt after this long.
    After(Duration),
}

/// Whether an outcome is worth another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    No,
    AtOnce,
    AfterBackOff,
    /// In no less than this many milliseconds, as the response says.
    After(u64),
}

impl RetryRuntime {
    /// Resolves the keys.
    pub(crate) fn new(runtime: &Runtime) -> Self {
        Self {
            base_back_off: runtime.integer("upstream.base_retry_backoff_ms", 25),
            use_retry: runtime.fraction("upstream.use_retry", Fraction::ALWAYS),
        }
    }
}

impl RetryState {
    /// Works out the policy of a request, and takes the headers that ask for retries off it.
    pub(crate) fn of(
        policy: Option<&RetryPolicy>,
        head: &mut RequestHead,
        runtime: &RetryRuntime,
    ) -> Self {
        let retries = Retries::of(policy, head, runtime);
        for name in [
            Known::EnvoyRetryOn,
            Known::EnvoyRetryGrpcOn,
            Known::EnvoyMaxRetries,
            Known::EnvoyHedgeOnPerTryTimeout,
            Known::EnvoyRetriableHeaderNames,
            Known::EnvoyRetriableStatusCodes,
            Known::EnvoyUpstreamRqPerTryTimeoutMs,
        ] {
            head.fields.remove(name);
        }
        Self(retries.map(Box::new))
    }

    /// Whether an outcome of this request may be tried again.
    #[inline]
    pub(crate) fn is_active(&self) -> bool {
        self.0.is_some()
    }

    /// Gives retries up: the body was too large to be kept, or something of the response has gone to the client.
    pub(crate) fn stop(&mut self) {
        self.0 = None;
    }

    /// An attempt goes to this host.
    pub(crate) fn tried(&mut self, host: &Rc<WorkerHost>) {
        if let Some(retries) = &mut self.0 {
            retries.tried.push(host.clone());
        }
    }

    /// Whether a retry should leave a host out while others can be had.
    pub(crate) fn avoids(&self, host: &Host, policy: Option<&RetryPolicy>) -> bool {
        let (Some(retries), Some(policy)) = (&self.0, policy) else {
            return false;
        };
        let tried = |host: &Host| retries.tried.iter().any(|t| t.address == host.address);
        policy
            .host_predicates
            .iter()
            .any(|predicate| predicate.avoids(host, tried))
    }

    /// The hosts whose priorities a retry should leave out: those that were tried, as of the last time that they were looked at.
    pub(crate) fn avoided_priorities(&self, policy: Option<&RetryPolicy>) -> &[Rc<WorkerHost>] {
        let frequency = policy.and_then(|policy| policy.previous_priorities);
        let (Some(retries), Some(frequency)) = (&self.0, frequency) else {
            return &[];
        };
        let tried = retries
            .tried
            .get(retries.forgotten.get()..)
            .unwrap_or_default();
        let frequency = usize::try_from(frequency).unwrap_or(usize::MAX).max(1);
        &tried[..tried.len() - tried.len() % frequency]
    }

    /// All priorities have been tried: they begin anew.
    pub(crate) fn forget_avoided_priorities(&self) {
        if let Some(retries) = &self.0 {
            retries.forgotten.set(retries.tried.len());
        }
    }

    /// The hosts that were tried, in order.
    pub(crate) fn tried_hosts(&self) -> &[Rc<WorkerHost>] {
        self.0.as_ref().map_or(&[], |retries| &retries.tried)
    }

    /// Decides about a response. `wall_clock` is the time of day.
    pub(crate) fn on_response(
        &mut self,
        head: &ResponseHead,
        request: &RequestHead,
        wall_clock: SystemTime,
        cx: &RetryContext<'_>,
    ) -> RetryDecision {
        let Some(retries) = &mut self.0 else {
            return RetryDecision::No;
        };
        let mut wanted = retries.wants_response(head, request, cx.policy);
        if wanted == Wanted::AfterBackOff
            && let Some(limited) = cx.policy.and_then(|p| p.rate_limited_back_off.as_ref())
            && let Some(millis) = reset_interval(limited, head, wall_clock)
        {
            wanted = Wanted::After(millis);
        }
        retries.decide(wanted, cx)
    }

    /// Decides about a failure. `started`: the attempt had found a connection, and sent its head.
    pub(crate) fn on_failure(
        &mut self,
        failure: &Failure,
        started: bool,
        cx: &RetryContext<'_>,
    ) -> RetryDecision {
        let Some(retries) = &mut self.0 else {
            return RetryDecision::No;
        };
        let wanted = retries.wants_failure(failure, started);
        retries.decide(wanted, cx)
    }

    /// Decides whether an attempt that takes too long gets company.
    pub(crate) fn on_slow_attempt(&mut self, cx: &RetryContext<'_>) -> RetryDecision {
        self.0.as_mut().map_or(RetryDecision::No, |retries| {
            retries.decide(Wanted::AfterBackOff, cx)
        })
    }

    /// Whether a response would be tried again, had its attempt not been already.
    pub(crate) fn would_retry(
        &self,
        head: &ResponseHead,
        request: &RequestHead,
        policy: Option<&RetryPolicy>,
    ) -> bool {
        self.0
            .as_ref()
            .is_some_and(|r| r.wants_response(head, request, policy) != Wanted::No)
    }
}

impl Retries {
    fn of(
        policy: Option<&RetryPolicy>,
        head: &RequestHead,
        runtime: &RetryRuntime,
    ) -> Option<Self> {
        let fields = &head.fields;
        let mut on = policy.map_or(RetryOn::NONE, |p| p.retry_on);
        if let Some(asked) = fields.get(Known::EnvoyRetryOn) {
            on |= RetryOn::parse_http(asked).0;
        }
        if let Some(asked) = fields.get(Known::EnvoyRetryGrpcOn) {
            on |= RetryOn::parse_grpc(asked).0;
        }
        let excluded = policy.is_some_and(|p| {
            let wanted = &p.retriable_request_headers;
            !wanted.is_empty() && !wanted.iter().any(|matcher| matcher.matches(head))
        });
        if on.is_empty() || excluded {
            return None;
        }
        let list = |name| fields.get_str(name).unwrap_or_default().split(',');
        let asked_headers = list(Known::EnvoyRetriableHeaderNames).map(str::trim);
        let asked_max = fields
            .get_str(Known::EnvoyMaxRetries)
            .and_then(|v| v.trim().parse::<u64>().ok())
            .map(|max| u32::try_from(max).unwrap_or(u32::MAX));
        Some(Self {
            on,
            remaining: asked_max.unwrap_or_else(|| policy.map_or(1, |p| p.num_retries)),
            asked_codes: list(Known::EnvoyRetriableStatusCodes)
                .filter_map(|code| code.trim().parse().ok())
                .collect(),
            asked_headers: asked_headers
                .filter(|name| !name.is_empty())
                .map(HeaderName::new)
                .collect(),
            back_off: BackOff::new(policy, runtime),
            tried: Vec::new(),
            forgotten: Cell::new(0),
            guard: None,
        })
    }

    fn decide(&mut self, wanted: Wanted, cx: &RetryContext<'_>) -> RetryDecision {
        let stats = &cx.cluster.info().stats;
        let of_route = |count: fn(&RouteCounters)| {
            for stats in cx.route_stats.iter().flatten() {
                count(&stats.counters);
            }
        };
        let was_retry = self.guard.take().is_some();
        if wanted == Wanted::No {
            if was_retry {
                stats.upstream_rq_retry_success().inc();
                of_route(|stats| stats.upstream_rq_retry_success().inc());
            }
            return RetryDecision::No;
        }
        if self.remaining == 0 {
            stats.upstream_rq_retry_limit_exceeded().inc();
            of_route(|stats| stats.upstream_rq_retry_limit_exceeded().inc());
            return RetryDecision::LimitExceeded;
        }
        self.remaining -= 1;
        let Some(guard) = cx.cluster.try_acquire_retry(cx.priority) else {
            stats.upstream_rq_retry_overflow().inc();
            of_route(|stats| stats.upstream_rq_retry_overflow().inc());
            return RetryDecision::Overflow;
        };
        // The upper half, so that the wait does not depend on it.
        if !cx.runtime.use_retry.contains(cx.random >> 32) {
            return RetryDecision::No;
        }
        self.guard = Some(guard);
        stats.upstream_rq_retry().inc();
        of_route(|stats| stats.upstream_rq_retry().inc());
        let millis = match wanted {
            Wanted::No | Wanted::AtOnce => 0,
            Wanted::AfterBackOff => {
                stats.upstream_rq_retry_backoff_exponential().inc();
                self.back_off.wait(cx.random)
            }
            Wanted::After(least) => {
                stats.upstream_rq_retry_backoff_ratelimited().inc();
                least.saturating_add(cx.random % (least / 2).max(1))
            }
        };
        RetryDecision::After(Duration::from_millis(millis))
    }

    fn wants_response(
        &self,
        head: &ResponseHead,
        request: &RequestHead,
        policy: Option<&RetryPolicy>,
    ) -> Wanted {
        let (on, status) = (self.on, head.status);
        let wanted = |yes| {
            if yes {
                Wanted::AfterBackOff
            } else {
                Wanted::No
            }
        };
        // It comes from another proxy, which has its reasons.
        if head.fields.contains(Known::EnvoyRateLimited) {
            return wanted(on.contains(RetryOn::ENVOY_RATE_LIMITED));
        }
        if on.contains(RetryOn::SERVER_ERROR) && matches!(status, 500..=599)
            || on.contains(RetryOn::GATEWAY_ERROR) && matches!(status, 502..=504)
            || on.contains(RetryOn::RETRIABLE_4XX) && status == 409
        {
            return Wanted::AfterBackOff;
        }
        if on.contains(RetryOn::RETRIABLE_STATUS_CODES) && self.has_code(status, policy) {
            if status != 425 {
                return Wanted::AfterBackOff;
            }
            // What came as early data is for its client to send again.
            if !request.fields.contains("early-data") {
                return Wanted::AtOnce;
            }
        }
        let by_header = || {
            policy.is_some_and(|p| p.retriable_headers.iter().any(|m| m.matches(head)))
                || self
                    .asked_headers
                    .iter()
                    .any(|name| head.fields.contains(name))
        };
        wanted(
            on.contains(RetryOn::RETRIABLE_HEADERS) && by_header()
                || on.intersects(RetryOn::GRPC)
                    && head
                        .fields
                        .get_str(Known::GrpcStatus)
                        .and_then(|status| status.parse().ok())
                        .is_some_and(|status| wants_grpc(on, status)),
        )
    }

    fn has_code(&self, status: u16, policy: Option<&RetryPolicy>) -> bool {
        let of_policy = policy.map_or(&[][..], |p| &p.retriable_status_codes);
        [of_policy, &self.asked_codes]
            .into_iter()
            .flatten()
            .any(|code| *code == u32::from(status))
    }

    fn wants_failure(&self, failure: &Failure, started: bool) -> Wanted {
        let on = self.on;
        let any_reset = RetryOn::RESET | RetryOn::SERVER_ERROR | RetryOn::GATEWAY_ERROR;
        let reset = match failure {
            Failure::RouteTimeout | Failure::Reset(ResetReason::Overflow) => return Wanted::No,
            Failure::Reset(reason) => Some(reason),
            Failure::PerTryTimeout | Failure::PerTryIdleTimeout | Failure::MaxStreamDuration => {
                None
            }
        };
        let refused = matches!(reset, Some(ResetReason::RemoteRefusedStream));
        let unconnected = matches!(reset, Some(ResetReason::ConnectionFailure(_)));
        let wanted = on.intersects(any_reset)
            || on.contains(RetryOn::RESET_BEFORE_REQUEST) && !started
            || on.contains(RetryOn::CONNECT_FAILURE) && unconnected
            || on.contains(RetryOn::REFUSED_STREAM) && refused;
        if wanted {
            Wanted::AfterBackOff
        } else {
            Wanted::No
        }
    }
}

impl BackOff {
    fn new(policy: Option<&RetryPolicy>, runtime: &RetryRuntime) -> Self {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX).max(1);
        let base = policy
            .and_then(|p| p.base_interval)
            .map_or_else(|| runtime.base_back_off.get().max(1), millis);
        let max = policy
            .and_then(|p| p.max_interval)
            .map_or(base.saturating_mul(10), millis);
        Self { next: base, max }
    }

    /// The next wait in milliseconds.
    fn wait(&mut self, random: u64) -> u64 {
        let ceiling = self.next;
        self.next = if ceiling < self.max / 2 {
            ceiling * 2
        } else {
            self.max
        };
        random % ceiling
    }
}

/// How many milliseconds the response asks to wait; none if it does not say so, or asks for too much.
fn reset_interval(
    limited: &RateLimitedBackOff,
    head: &ResponseHead,
    wall_clock: SystemTime,
) -> Option<u64> {
    limited
        .reset_headers
        .iter()
        .filter_map(|header| {
            let value: u64 = head.fields.get_str(&header.name)?.trim().parse().ok()?;
            let seconds = if header.unix_timestamp {
                let now = wall_clock.duration_since(UNIX_EPOCH).ok()?.as_secs();
                value.checked_sub(now)?
            } else {
                value
            };
            Some(Duration::from_secs(seconds))
        })
        .find(|interval| *interval <= limited.max_interval)
        .and_then(|interval| u64::try_from(interval.as_millis()).ok())
        .filter(|millis| *millis > 1)
}

/// Whether a gRPC status is among the reasons.
fn wants_grpc(on: RetryOn, status: u32) -> bool {
    on.contains(match status {
        1 => RetryOn::GRPC_CANCELLED,
        4 => RetryOn::GRPC_DEADLINE_EXCEEDED,
        8 => RetryOn::GRPC_RESOURCE_EXHAUSTED,
        13 => RetryOn::GRPC_INTERNAL,
        14 => RetryOn::GRPC_UNAVAILABLE,
        _ => return false,
    })
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
