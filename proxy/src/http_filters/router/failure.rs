//! An attempt failed or took too long: the next one, or an answer of our own.

use std::time::Duration;

use bytes::Bytes;

use super::attempt::retry_policy;
use super::outcome::Failure;
use super::response::{charge_code, flag};
use super::retry::{RetryContext, RetryDecision};
use super::upstream_request::UpstreamRequest;
use super::{BackingOff, Router, RouterEvent, State};
use crate::http::HeaderName;
use crate::http_connection_manager::filter_chain::ChainEnv;
use crate::planted::{Fault, is_planted};
use crate::route::SelectedRoute;
use crate::stream_info::ResponseFlag;
use crate::upstream::pool::ResetReason;
use crate::upstream::{HostResult, HostStat};

impl Router {
    /// An attempt failed: again, or an answer of our own.
    pub(super) fn on_failure(&mut self, env: &mut ChainEnv<'_>, failure: Failure) -> RouterEvent {
        let State::Attempt(attempt) = std::mem::replace(&mut self.state, State::Idle) else {
            return RouterEvent::Reset;
        };
        if is_planted(Fault::DoubleSend) && attempt.is_open() && self.seems_unseen(&failure) {
            attempt.fail(&failure, env.info);
            return self.attempt(env).unwrap_or(RouterEvent::Progress);
        }
        self.report_failure(&attempt, &failure);
        let decision = self.decide_failure(env, &failure, &attempt);
        self.budget_of_try(&attempt, env.info.now);
        if let RetryDecision::After(wait) = decision {
            count(&attempt, &failure, HostStat::RqError);
            attempt.fail(&failure, env.info);
            return self.back_off(env, wait, failure.is_timeout());
        }
        self.count_abort(env, &attempt, &failure);
        attempt.fail(&failure, env.info);
        if self.has_slow_attempts() {
            self.state = State::OnlySlow;
            return RouterEvent::Progress;
        }
        self.abort(env, &failure)
    }

    /// Of [`Fault::DoubleSend`]: the upstream has said nothing. It may have seen the request all the same.
    fn seems_unseen(&self, failure: &Failure) -> bool {
        let ended = matches!(failure, Failure::Reset(ResetReason::ConnectionTermination));
        ended && !self.response_started && self.body.is_empty_and_ended()
    }

    /// Tells outlier detection of an attempt that failed.
    pub(super) fn report_failure(&self, attempt: &UpstreamRequest, failure: &Failure) {
        let Some(cluster) = &self.cluster else { return };
        if !cluster.detects_outliers(attempt.host()) {
            return;
        }
        let result = match failure {
            // That is no fault of the host.
            Failure::Reset(ResetReason::Overflow) | Failure::MaxStreamDuration => return,
            Failure::Reset(_) => HostResult::ConnectFailed,
            _ => HostResult::Timeout(Some(self.status_of(failure))),
        };
        if attempt.is_open() && attempt.awaits_head() {
            cluster.report(attempt.host(), HostResult::ConnectSuccess);
        }
        cluster.report(attempt.host(), result);
    }

    fn decide_failure(
        &mut self,
        env: &mut ChainEnv<'_>,
        failure: &Failure,
        attempt: &UpstreamRequest,
    ) -> RetryDecision {
        let Some(cluster) = self.cluster.clone() else {
            return RetryDecision::No;
        };
        let stats = &cluster.info().stats;
        match failure {
            Failure::PerTryTimeout => stats.upstream_rq_per_try_timeout().inc(),
            Failure::PerTryIdleTimeout => stats.upstream_rq_per_try_idle_timeout().inc(),
            _ => {}
        }
        if failure.is_timeout() {
            attempt.host().count(HostStat::RqTimeout);
        }
        if self.response_started || !self.retry.is_active() || attempt.was_retried() {
            return RetryDecision::No;
        }
        let selected = self.route.clone();
        let action = selected.as_ref().and_then(|s| s.route().forward());
        let context = RetryContext {
            policy: action.and_then(|action| retry_policy(Some(&cluster), action)),
            cluster: &cluster,
            priority: self.priority,
            runtime: &self.shared.retry,
            route_stats: selected
                .as_ref()
                .map_or([None, None], SelectedRoute::counted),
            random: env.worker.random.next(),
        };
        let decision = self.retry.on_failure(failure, attempt.is_open(), &context);
        flag(decision, env.info);
        decision
    }

    /// Counts an attempt that nothing comes of.
    pub(super) fn count_abort(
        &mut self,
        env: &ChainEnv<'_>,
        attempt: &UpstreamRequest,
        failure: &Failure,
    ) {
        let Some(cluster) = &self.cluster else { return };
        if self.response_started {
            if std::mem::take(&mut self.grpc_deferred) {
                attempt.host().count(HostStat::RqError);
                self.shared
                    .stats
                    .rq_reset_after_downstream_response_started()
                    .inc();
            }
            return;
        }
        // The end of a stream that lasted too long is no response of the cluster.
        if *failure == Failure::MaxStreamDuration {
            return;
        }
        let met = !failure.is_overflow();
        let host = Some(attempt.host()).filter(|_| met);
        charge_code(self, cluster, self.status_of(failure), host, env);
        count(attempt, failure, HostStat::RqError);
    }

    fn status_of(&self, failure: &Failure) -> u16 {
        match failure {
            Failure::Reset(ResetReason::ProtocolError(_)) => 502,
            Failure::Reset(_) => 503,
            _ if self.timeouts.alt_response => 204,
            _ => 504,
        }
    }

    /// Nothing can come of the request any more: an answer of our own, or a reset if a head has gone to the client.
    pub(super) fn abort(&mut self, env: &mut ChainEnv<'_>, failure: &Failure) -> RouterEvent {
        if *failure == Failure::MaxStreamDuration
            && let Some(cluster) = &self.cluster
        {
            cluster
                .info()
                .stats
                .upstream_rq_max_duration_reached()
                .inc();
        }
        if failure.is_timeout()
            && let Some(cluster) = &self.cluster
        {
            self.budget_of_whole(cluster, env.info.now);
        }
        env.info.response_flags.set(failure.flag());
        self.retry.stop();
        self.route_deadline = None;
        if self.head_passed {
            env.info.response_code_details = Some(failure.details_after_response());
            return RouterEvent::Reset;
        }
        let mut reply = failure.reply(env.info.attempt_count > 1, self.response_started);
        match failure {
            Failure::MaxStreamDuration => {
                let received = env.info.timing.last_downstream_rx_byte.is_some();
                reply.status = if received { 504 } else { 408 };
            }
            _ if failure.is_timeout() && self.timeouts.alt_response => {
                reply.status = 204;
                reply.body = Bytes::new();
            }
            _ => {}
        }
        if failure.is_overflow() && !self.shared.config.suppress_envoy_headers {
            reply = reply.with_header(HeaderName::new("x-envoy-overloaded"), "true");
        }
        self.reply(env, reply)
    }

    /// The next attempt waits.
    pub(super) fn back_off(
        &mut self,
        env: &ChainEnv<'_>,
        wait: Duration,
        after_timeout: bool,
    ) -> RouterEvent {
        self.state = State::BackingOff(BackingOff {
            until: env.info.now + wait,
            after_timeout,
        });
        RouterEvent::Progress
    }

    /// The time of the whole is up.
    pub(super) fn route_timeout(&mut self, env: &mut ChainEnv<'_>) -> RouterEvent {
        let failure = Failure::RouteTimeout;
        for slow in std::mem::take(&mut self.slow) {
            self.count_timeout(env, slow.attempt());
            slow.fail(&failure, env.info);
        }
        if let State::Attempt(attempt) = std::mem::replace(&mut self.state, State::Idle) {
            self.count_timeout(env, &attempt);
            attempt.fail(&failure, env.info);
        }
        if self.cluster.is_none() {
            return RouterEvent::Reset;
        }
        env.info
            .response_flags
            .set(ResponseFlag::UpstreamRequestTimeout);
        self.abort(env, &failure)
    }

    /// Counts an attempt that the time of the whole has run out for.
    fn count_timeout(&mut self, env: &ChainEnv<'_>, attempt: &UpstreamRequest) {
        if let Some(cluster) = &self.cluster {
            cluster.info().stats.upstream_rq_timeout().inc();
        }
        for stats in self.route.iter().flat_map(SelectedRoute::counted).flatten() {
            stats.counters.upstream_rq_timeout().inc();
        }
        attempt.host().count(HostStat::RqTimeout);
        if attempt.awaits_head() {
            self.report_failure(attempt, &Failure::RouteTimeout);
            self.count_abort(env, attempt, &Failure::RouteTimeout);
        }
    }
}

/// Counts a failure for its host; a request that its pool had no room for has met none.
fn count(attempt: &UpstreamRequest, failure: &Failure, stat: HostStat) {
    if !failure.is_overflow() {
        attempt.host().count(stat);
    }
}
