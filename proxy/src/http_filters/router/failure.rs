//! An attempt failed or took too long: the next one, or an answer of our own.

use bytes::Bytes;

use super::outcome::Failure;
use super::retry::RetryDecision;
use super::{Router, RouterEvent, State};
use crate::http::{HeaderName, Known};
use crate::http_connection_manager::filter_chain::ChainEnv;
use crate::http_filters::LocalReply;
use crate::stream_info::ResponseFlag;

impl Router {
    /// An attempt failed: again, or an answer of our own.
    pub(super) fn on_failure(&mut self, env: &mut ChainEnv<'_>, failure: Failure) -> RouterEvent {
        let Some(cluster) = self.cluster.clone() else {
            return RouterEvent::Reset;
        };
        let mut stale = false;
        if let State::Attempt(attempt) = std::mem::replace(&mut self.state, State::Idle) {
            stale = attempt.was_stale(&failure);
            attempt.fail(&failure, env.info);
        }
        if stale
            && !self.response_started
            && env.request.method().is_idempotent()
            && self.body.is_empty_and_ended()
        {
            return self.attempt(env).unwrap_or(RouterEvent::Progress);
        }
        if !self.response_started {
            let decision =
                self.retry
                    .on_failure(&failure, &cluster, self.priority, env.worker.random.next());
            if let RetryDecision::After(wait) = decision {
                return self.back_off(env, wait);
            }
        }
        failure.count(&cluster);
        self.flag_retries(env.info);
        env.info.response_flags.set(failure.flag());
        self.route_deadline = None;
        if self.response_started {
            self.shared
                .stats
                .rq_reset_after_downstream_response_started()
                .inc();
            env.info.response_code_details = Some(failure.details_after_response());
            return RouterEvent::Reset;
        }
        let mut reply = failure.reply(env.info.attempt_count > 1);
        if failure.is_overflow() && !self.shared.config.suppress_envoy_headers {
            reply = reply.with_header(HeaderName::new("x-envoy-overloaded"), "true");
        }
        self.charge(reply.status, env);
        self.reply(env, reply)
    }

    pub(super) fn back_off(
        &mut self,
        env: &mut ChainEnv<'_>,
        wait: std::time::Duration,
    ) -> RouterEvent {
        if let State::Attempt(attempt) = std::mem::replace(&mut self.state, State::Idle) {
            attempt.finish(env.info);
        }
        env.info.attempt_count += 1;
        if env
            .info
            .route
            .as_ref()
            .is_some_and(|r| r.virtual_host().include_request_attempt_count)
        {
            env.request
                .fields
                .set(Known::EnvoyAttemptCount, env.info.attempt_count.to_string());
        }
        self.body.rewind();
        self.state = State::BackingOff(env.info.now + wait);
        RouterEvent::Progress
    }

    pub(super) fn route_timeout(&mut self, env: &mut ChainEnv<'_>) -> RouterEvent {
        let Some(cluster) = self.cluster.clone() else {
            return RouterEvent::Reset;
        };
        cluster.info().stats.upstream_rq_timeout().inc();
        if let State::Attempt(attempt) = std::mem::replace(&mut self.state, State::Idle) {
            attempt.fail(&Failure::RouteTimeout, env.info);
        }
        env.info
            .response_flags
            .set(ResponseFlag::UpstreamRequestTimeout);
        if self.response_started {
            env.info.response_code_details = Some("response_timeout".into());
            return RouterEvent::Reset;
        }
        let status = if self.timeouts.alt_response { 204 } else { 504 };
        self.charge(status, env);
        let mut reply = LocalReply::new(status, "response_timeout");
        if status == 504 {
            reply = reply.with_body(Bytes::from_static(b"upstream request timeout"));
        }
        self.reply(env, reply)
    }
}
