//! Retries: which outcomes are tried again, how often, and after how long.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter#x-envoy-retry-on>

use std::rc::Rc;
use std::time::Duration;

use super::outcome::Failure;
use crate::http::{Known, RequestHead, ResponseHead};
use crate::route::{HostPredicate, RetryOn, RetryPolicy};
use crate::upstream::pool::ResetReason;
use crate::upstream::pool::RetryGuard;
use crate::upstream::{Host, RoutingPriority, WorkerCluster, WorkerHost};

/// The retries of one request.
#[derive(Default)]
pub(crate) struct RetryState {
    policy: Option<Rc<Effective>>,
    remaining: u32,
    attempts: u32,
    exhausted: bool,
    overflowed: bool,
    tried: Vec<Rc<WorkerHost>>,
    /// Counts the retry in flight against the cluster's limit.
    guard: Option<RetryGuard>,
}

/// The policy in force: the route's, as request headers have changed it.
struct Effective {
    on: RetryOn,
    status_codes: Vec<u32>,
    base: Duration,
    max: Duration,
    avoid_previous_hosts: bool,
    omit_canary_hosts: bool,
    host_selection_attempts: u32,
}

/// What becomes of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryDecision {
    /// It stands.
    No,
    /// Another attempt after this long.
    After(Duration),
}

impl RetryState {
    /// Works out the policy of a request, and takes the headers that ask for retries off it.
    pub(crate) fn of(policy: Option<&RetryPolicy>, head: &mut RequestHead) -> Self {
        let asked_on = head
            .fields
            .get(Known::EnvoyRetryOn)
            .map(|v| RetryOn::parse_http(v).0);
        let asked_grpc = head
            .fields
            .get(Known::EnvoyRetryGrpcOn)
            .map(|v| RetryOn::parse_grpc(v).0);
        let asked_codes = head
            .fields
            .get_str(Known::EnvoyRetriableStatusCodes)
            .map(parse_codes);
        let asked_max = head
            .fields
            .get_str(Known::EnvoyMaxRetries)
            .and_then(|v| v.parse().ok());
        for name in [
            Known::EnvoyRetryOn,
            Known::EnvoyRetryGrpcOn,
            Known::EnvoyRetriableStatusCodes,
            Known::EnvoyRetriableHeaderNames,
            Known::EnvoyMaxRetries,
            Known::EnvoyHedgeOnPerTryTimeout,
        ] {
            head.fields.remove(name);
        }
        let mut on = policy.map_or(RetryOn::NONE, |p| p.retry_on);
        for asked in [asked_on, asked_grpc].into_iter().flatten() {
            on |= asked;
        }
        if on == RetryOn::NONE {
            return Self::default();
        }
        let excluded = policy.is_some_and(|p| {
            !p.retriable_request_headers.is_empty()
                && !p
                    .retriable_request_headers
                    .iter()
                    .any(|m| m.matches(&head.fields))
        });
        if excluded {
            return Self::default();
        }
        let mut status_codes = policy.map_or_else(Vec::new, |p| p.retriable_status_codes.to_vec());
        status_codes.extend(asked_codes.unwrap_or_default());
        let base = policy
            .and_then(|p| p.base_interval)
            .unwrap_or(Duration::from_millis(25));
        let effective = Effective {
            on,
            status_codes,
            base,
            max: policy.and_then(|p| p.max_interval).unwrap_or(base * 10),
            avoid_previous_hosts: policy
                .is_some_and(|p| p.host_predicates.contains(&HostPredicate::PreviousHosts)),
            omit_canary_hosts: policy
                .is_some_and(|p| p.host_predicates.contains(&HostPredicate::OmitCanaryHosts)),
            host_selection_attempts: policy.map_or(1, |p| p.host_selection_max_attempts),
        };
        let remaining = asked_max.unwrap_or_else(|| policy.map_or(1, |p| p.num_retries));
        Self {
            policy: Some(Rc::new(effective)),
            remaining,
            ..Self::default()
        }
    }

    /// Whether an outcome of this request could be tried again.
    pub(crate) fn may_retry(&self) -> bool {
        self.policy.is_some() && self.remaining > 0
    }

    /// Gives retries up: the body was too large to be kept.
    pub(crate) fn abandon(&mut self) {
        self.policy = None;
    }

    /// Whether the last outcome would have been tried again, had retries been left.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Whether the cluster's limit of retries kept the last outcome from being tried again.
    pub(crate) fn has_overflowed(&self) -> bool {
        self.overflowed
    }

    /// An attempt goes to this host.
    pub(crate) fn tried(&mut self, host: &Rc<WorkerHost>) {
        if self.policy.as_ref().is_some_and(|p| p.avoid_previous_hosts) {
            self.tried.push(host.clone());
        }
    }

    /// Whether a host should be left out while others can be had.
    pub(crate) fn avoids(&self, host: &Host) -> bool {
        self.tried.iter().any(|tried| tried.address == host.address)
            || self
                .policy
                .as_ref()
                .is_some_and(|p| p.omit_canary_hosts && host.canary)
    }

    /// How often the load balancer may be asked for a host that is not avoided.
    pub(crate) fn host_selection_attempts(&self) -> u32 {
        self.policy
            .as_ref()
            .map_or(1, |p| p.host_selection_attempts)
    }

    /// `x-envoy-immediate-health-check-fail` is for active health checks; a response that carries it is not tried again.
    pub(crate) fn observe_health(&mut self, head: &ResponseHead) {
        if head.fields.contains(Known::EnvoyImmediateHealthCheckFail) {
            self.policy = None;
        }
    }

    /// Decides about a response.
    pub(crate) fn on_response(
        &mut self,
        head: &ResponseHead,
        route: Option<&RetryPolicy>,
        cluster: &Rc<WorkerCluster>,
        priority: RoutingPriority,
        random: u64,
    ) -> RetryDecision {
        let Some(policy) = self.policy.clone() else {
            return RetryDecision::No;
        };
        let wanted = policy.wants_response(head, route);
        self.decide(wanted, &policy, cluster, priority, random)
    }

    /// Decides about a failure.
    pub(crate) fn on_failure(
        &mut self,
        failure: &Failure,
        cluster: &Rc<WorkerCluster>,
        priority: RoutingPriority,
        random: u64,
    ) -> RetryDecision {
        let Some(policy) = self.policy.clone() else {
            return RetryDecision::No;
        };
        let wanted = policy.wants_failure(failure);
        self.decide(wanted, &policy, cluster, priority, random)
    }

    fn decide(
        &mut self,
        wanted: bool,
        policy: &Effective,
        cluster: &Rc<WorkerCluster>,
        priority: RoutingPriority,
        random: u64,
    ) -> RetryDecision {
        let stats = &cluster.info().stats;
        if !wanted {
            if self.attempts > 0 {
                stats.upstream_rq_retry_success().inc();
            }
            self.guard = None;
            return RetryDecision::No;
        }
        self.guard = None;
        if self.remaining == 0 {
            stats.upstream_rq_retry_limit_exceeded().inc();
            self.exhausted = true;
            return RetryDecision::No;
        }
        let Some(guard) = cluster.try_acquire_retry(priority) else {
            stats.upstream_rq_retry_overflow().inc();
            self.overflowed = true;
            return RetryDecision::No;
        };
        self.guard = Some(guard);
        self.remaining -= 1;
        self.attempts += 1;
        stats.upstream_rq_retry().inc();
        stats.upstream_rq_retry_backoff_exponential().inc();
        RetryDecision::After(policy.wait(self.attempts, random))
    }
}

impl Effective {
    fn wants_response(&self, head: &ResponseHead, route: Option<&RetryPolicy>) -> bool {
        let on = self.on;
        let status = head.status;
        on.contains(RetryOn::SERVER_ERROR) && status >= 500
            || on.contains(RetryOn::GATEWAY_ERROR) && matches!(status, 502..=504)
            || on.contains(RetryOn::RETRIABLE_4XX) && status == 409
            || on.contains(RetryOn::RETRIABLE_STATUS_CODES)
                && self.status_codes.contains(&u32::from(status))
            || on.contains(RetryOn::RETRIABLE_HEADERS)
                && route
                    .is_some_and(|p| p.retriable_headers.iter().any(|m| m.matches(&head.fields)))
            || on.contains(RetryOn::ENVOY_RATE_LIMITED)
                && head.fields.contains(Known::EnvoyRateLimited)
            || on.intersects(RetryOn::GRPC)
                && head
                    .fields
                    .get_str(Known::GrpcStatus)
                    .and_then(|s| s.parse().ok())
                    .is_some_and(|s| wants_grpc(on, s))
    }

    fn wants_failure(&self, failure: &Failure) -> bool {
        let on = self.on;
        match failure {
            Failure::Reset(ResetReason::Overflow) | Failure::RouteTimeout => false,
            Failure::Reset(reason) => {
                let connect = matches!(reason, ResetReason::ConnectionFailure(_));
                let refused = matches!(reason, ResetReason::RemoteRefusedStream);
                on.contains(RetryOn::SERVER_ERROR)
                    || on.contains(RetryOn::GATEWAY_ERROR)
                    || on.contains(RetryOn::RESET)
                    || on.contains(RetryOn::RESET_BEFORE_REQUEST) && connect
                    || on.contains(RetryOn::CONNECT_FAILURE) && connect
                    || on.contains(RetryOn::REFUSED_STREAM) && refused
            }
            Failure::PerTryTimeout | Failure::PerTryIdleTimeout | Failure::MaxStreamDuration => {
                on.contains(RetryOn::SERVER_ERROR)
                    || on.contains(RetryOn::GATEWAY_ERROR)
                    || on.contains(RetryOn::RESET)
            }
        }
    }

    /// Exponential back-off with full jitter.
    fn wait(&self, attempt: u32, random: u64) -> Duration {
        let ceiling = self
            .base
            .saturating_mul(2u32.saturating_pow(attempt).saturating_sub(1))
            .min(self.max);
        let millis = u64::try_from(ceiling.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        Duration::from_millis(random % millis)
    }
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

fn parse_codes(text: &str) -> Vec<u32> {
    text.split(',')
        .filter_map(|code| code.trim().parse().ok())
        .collect()
}
