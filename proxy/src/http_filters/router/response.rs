//! The response half: what the upstream answers, and where it counts.

use std::rc::Rc;

use tokio::time::Instant;

use super::attempt::retry_policy;
use super::retry::{RetryContext, RetryDecision};
use super::{Router, RouterEvent, State};
use crate::http::{EndStream, Fields, Known, Method, ResponseHead};
use crate::http_connection_manager::filter_chain::ChainEnv;
use crate::route::SelectedRoute;
use crate::stream_info::{ResponseFlag, StreamInfo};
use crate::upstream::{CodeOrigin, HostResult, HostStat, WorkerCluster, WorkerHost};

impl Router {
    pub(super) fn on_head(
        &mut self,
        env: &mut ChainEnv<'_>,
        head: ResponseHead,
        end: EndStream,
        now: Instant,
    ) -> RouterEvent {
        // A protocol switch that nobody asked for has no bytes for anybody behind it.
        let end = EndStream::from(end.is_end() || head.status == 101 && !self.is_upgrade);
        self.report_response(&head);
        let mut must_not_retry = false;
        if head.fields.contains(Known::EnvoyImmediateHealthCheckFail) {
            self.host_asks_to_fail();
        }
        if self.retry.is_active() {
            match self.retry_head(env, &head) {
                RetryDecision::No => {}
                RetryDecision::LimitExceeded | RetryDecision::Overflow => must_not_retry = true,
                RetryDecision::After(wait) => {
                    self.replace_attempt(env, &head, end);
                    return self.back_off(env, wait, false);
                }
            }
        }
        if self.redirects
            && let Some(event) = self.follow_redirect(env, &head, end)
        {
            return event;
        }
        if must_not_retry && self.drop_bad_attempt(env) {
            return RouterEvent::Progress;
        }
        self.accept_head(env, head, end, now)
    }

    /// Tells outlier detection of a response.
    pub(super) fn report_response(&self, head: &ResponseHead) {
        if let (State::Attempt(attempt), Some(cluster)) = (&self.state, &self.cluster)
            && cluster.detects_outliers(attempt.host())
        {
            let grpc = head.fields.get_str(Known::GrpcStatus);
            let grpc = grpc.filter(|_| self.is_grpc);
            let status = grpc.and_then(|status| status.parse().ok());
            let status = status.map_or(head.status, http_status_of);
            let status = cluster.outlier_status(head, status);
            cluster.report(attempt.host(), HostResult::ConnectSuccess);
            cluster.report(attempt.host(), HostResult::Response(status));
            if head.fields.contains("x-envoy-degraded") {
                cluster.report_degraded(attempt.host());
            }
        }
    }

    /// A response says that its host should be taken for unhealthy (`x-envoy-immediate-health-check-fail`).
    #[cold]
    fn host_asks_to_fail(&self) {
        if let (State::Attempt(attempt), Some(cluster)) = (&self.state, &self.cluster) {
            cluster.report_immediate_failure(attempt.host());
        }
    }

    /// Whether a response is tried again; flags the stream where it should be and is not.
    #[cold]
    fn retry_head(&mut self, env: &mut ChainEnv<'_>, head: &ResponseHead) -> RetryDecision {
        let Some(cluster) = self.cluster.clone() else {
            return RetryDecision::No;
        };
        let State::Attempt(attempt) = &self.state else {
            return RetryDecision::No;
        };
        let selected = self.route.clone();
        let policy = selected
            .as_ref()
            .and_then(|selected| selected.route().forward())
            .and_then(|action| retry_policy(Some(&cluster), action));
        if attempt.was_retried() {
            // Another attempt runs already; this one is as bad as none.
            return match self.retry.would_retry(head, env.request, policy) {
                true => RetryDecision::LimitExceeded,
                false => RetryDecision::No,
            };
        }
        let wall_clock = env.info.start_time + (env.info.now - env.info.start);
        let context = RetryContext {
            policy,
            cluster: &cluster,
            priority: self.priority,
            runtime: &self.shared.retry,
            route_stats: selected
                .as_ref()
                .map_or([None, None], SelectedRoute::counted),
            random: env.worker.random.next(),
        };
        let decision = self
            .retry
            .on_response(head, env.request, wall_clock, &context);
        flag(decision, env.info);
        decision
    }

    /// The attempt gives way to another one, which comes later.
    fn replace_attempt(&mut self, env: &mut ChainEnv<'_>, head: &ResponseHead, end: EndStream) {
        if let Some(cluster) = &self.cluster
            && self.shared.config.dynamic_stats
        {
            cluster.record_retry_code(head.status, self.leaves_codes_out());
        }
        if let State::Attempt(mut attempt) = std::mem::replace(&mut self.state, State::Idle) {
            attempt.host().count(HostStat::RqError);
            self.budget_of_try(&attempt, env.info.now);
            if end.is_end() && self.request_complete.is_some() {
                attempt.finish(env.info);
            } else {
                attempt.give_up(env.info);
            }
        }
    }

    /// A head that goes to the client.
    pub(super) fn accept_head(
        &mut self,
        env: &mut ChainEnv<'_>,
        mut head: ResponseHead,
        end: EndStream,
        now: Instant,
    ) -> RouterEvent {
        self.retry.stop();
        self.response_started = true;
        self.head_passed = true;
        env.info.response_code = Some(head.status);
        let says_canary = head.fields.get(Known::EnvoyUpstreamCanary) == Some(b"true");
        self.is_canary = says_canary;
        self.charge(head.status, env);
        self.count_host(&head, end);
        env.info.response_code_details = Some("via_upstream".into());
        self.route_response(env, &mut head, now);
        let granted = head.status == 101
            || env.request.method() == Method::Connect && (200..300).contains(&head.status);
        if granted && self.is_upgrade {
            self.route_deadline = None;
        }
        if let State::Attempt(attempt) = &mut self.state {
            attempt.head_received();
        }
        self.reset_slow_attempts(env);
        if end.is_end() {
            self.response_ended(env, now);
        }
        RouterEvent::Head(head, end)
    }

    /// A 1xx: from now on this attempt is the one.
    #[cold]
    pub(super) fn on_informational(
        &mut self,
        env: &mut ChainEnv<'_>,
        head: ResponseHead,
    ) -> RouterEvent {
        self.retry.stop();
        self.response_started = true;
        self.reset_slow_attempts(env);
        self.charge(head.status, env);
        RouterEvent::Informational(head)
    }

    /// The trailers of a response: those of gRPC say whether it was a success.
    pub(super) fn on_trailers(
        &mut self,
        env: &mut ChainEnv<'_>,
        trailers: Fields,
        now: Instant,
    ) -> RouterEvent {
        if std::mem::take(&mut self.grpc_deferred)
            && let State::Attempt(attempt) = &self.state
        {
            attempt.host().count(grpc_outcome(&trailers));
        }
        self.response_ended(env, now);
        RouterEvent::Trailers(trailers)
    }

    /// Completes a response head of the upstream, as route and configuration want it.
    fn route_response(&self, env: &mut ChainEnv<'_>, head: &mut ResponseHead, now: Instant) {
        if !self.shared.config.suppress_envoy_headers
            && let Some(origin) = self.request_complete
        {
            let took = u64::try_from((now - origin).as_millis()).unwrap_or(u64::MAX);
            let mut digits = itoa_buffer(took);
            head.fields
                .set(Known::EnvoyUpstreamServiceTime, digits.as_bytes());
        }
        let Some(route) = &self.route else {
            return;
        };
        if route.virtual_host().include_attempt_count_in_response {
            head.fields
                .set(Known::EnvoyAttemptCount, env.info.attempt_count.to_string());
        }
        route.finalize_response_headers(head, env.request, env.info);
        for cookie in &self.new_cookies {
            head.fields.append(Known::SetCookie, &cookie.set_cookie);
        }
    }

    pub(super) fn response_ended(&mut self, env: &mut ChainEnv<'_>, now: Instant) {
        let info = &mut *env.info;
        info.timing.last_upstream_rx_byte = Some(now);
        self.route_deadline = None;
        let Some(cluster) = &self.cluster else { return };
        let State::Attempt(attempt) = std::mem::replace(&mut self.state, State::Idle) else {
            return;
        };
        if std::mem::take(&mut self.grpc_deferred) {
            // gRPC without trailers.
            attempt.host().count(HostStat::RqError);
        }
        if self.shared.config.dynamic_stats
            && let Some(since) = self.request_complete
        {
            let origin = CodeOrigin {
                internal: env.request.fields.contains(Known::EnvoyInternal),
                canary: self.is_canary || attempt.host().canary,
            };
            cluster.record_time(now - since, origin);
            if let Some(alternative) = &self.alt_stat_name {
                cluster.record_alternative_time(alternative, now - since, origin);
            }
            for stats in self.route.iter().flat_map(SelectedRoute::counted).flatten() {
                let millis = u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX);
                self.shared.route_codes.of(stats, |codes| {
                    codes.record_plain_time(&stats.scope, millis);
                });
            }
        }
        self.budget_of_whole(cluster, now);
        self.budget_of_try(&attempt, now);
        attempt.finish(info);
    }

    /// Counts a response by its status.
    pub(super) fn charge(&self, status: u16, env: &ChainEnv<'_>) {
        let Some(cluster) = &self.cluster else { return };
        let host = match &self.state {
            State::Attempt(attempt) => Some(attempt.host()),
            _ => env.info.upstream.as_ref().and_then(|u| u.host.as_ref()),
        };
        charge_code(self, cluster, status, host, env);
    }

    /// Counts how its host did. A gRPC response says so only at its end.
    fn count_host(&mut self, head: &ResponseHead, end: EndStream) {
        let State::Attempt(attempt) = &self.state else {
            return;
        };
        let host = attempt.host();
        if head.status >= 500 {
            host.count(HostStat::RqError);
        } else if !self.is_grpc {
            host.count(HostStat::RqSuccess);
        } else if end.is_end() {
            host.count(grpc_outcome(&head.fields));
        } else {
            self.grpc_deferred = true;
        }
    }

    /// Whether counters by status are left out: gRPC requests, as configured.
    pub(super) fn leaves_codes_out(&self) -> bool {
        self.is_grpc && self.shared.config.suppress_grpc_request_failure_code_stats
    }
}

/// Counts a response of `cluster` by its status.
pub(super) fn charge_code(
    router: &Router,
    cluster: &Rc<WorkerCluster>,
    status: u16,
    host: Option<&Rc<WorkerHost>>,
    env: &ChainEnv<'_>,
) {
    if !router.shared.config.dynamic_stats {
        return;
    }
    let origin = CodeOrigin {
        internal: env.request.fields.contains(Known::EnvoyInternal),
        canary: router.is_canary || host.is_some_and(|host| host.canary),
    };
    if router.leaves_codes_out() {
        cluster.record_prefixed_code(status, origin);
    } else {
        cluster.record_code(status, origin);
    }
    if let Some(alternative) = &router.alt_stat_name {
        cluster.record_alternative_code(alternative, status, origin);
    }
    for stats in router
        .route
        .iter()
        .flat_map(SelectedRoute::counted)
        .flatten()
    {
        router
            .shared
            .route_codes
            .of(stats, |codes| codes.record_plain(&stats.scope, status));
    }
}

/// Says why an outcome that should be tried again is not.
pub(super) fn flag(decision: RetryDecision, info: &mut StreamInfo) {
    match decision {
        RetryDecision::LimitExceeded => info
            .response_flags
            .set(ResponseFlag::UpstreamRetryLimitExceeded),
        RetryDecision::Overflow => info.response_flags.set(ResponseFlag::UpstreamOverflow),
        RetryDecision::No | RetryDecision::After(_) => {}
    }
}

/// The HTTP status that stands for one of gRPC.
fn http_status_of(grpc: u32) -> u16 {
    match grpc {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// How a gRPC response counts for its host: by the status that an HTTP response would have.
fn grpc_outcome(fields: &Fields) -> HostStat {
    let status: Option<u32> = fields
        .get_str(Known::GrpcStatus)
        .and_then(|s| s.parse().ok());
    match status {
        // DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNKNOWN and what nobody knows.
        None | Some(2 | 4 | 12..=15 | 17..) => HostStat::RqError,
        Some(_) => HostStat::RqSuccess,
    }
}

/// A number as text, without allocation.
pub(super) fn itoa_buffer(value: u64) -> Digits {
    let mut digits = Digits {
        bytes: [0; 20],
        start: 20,
    };
    let mut rest = value;
    loop {
        digits.start -= 1;
        digits.bytes[digits.start] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            return digits;
        }
    }
}

pub(super) struct Digits {
    bytes: [u8; 20],
    start: usize,
}

impl Digits {
    pub(super) fn as_bytes(&mut self) -> &[u8] {
        &self.bytes[self.start..]
    }
}
