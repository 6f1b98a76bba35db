//! The response half: what the upstream answers, and where it counts.

use tokio::time::Instant;

use super::retry::RetryDecision;
use super::{Router, RouterEvent, State};
use crate::http::{EndStream, Known, ResponseHead};
use crate::http_connection_manager::filter_chain::ChainEnv;
use crate::route::{RetryPolicy, SelectedRoute};
use crate::stream_info::{ResponseFlag, StreamInfo};
use crate::upstream::CodeOrigin;

impl Router {
    pub(super) fn on_head(
        &mut self,
        env: &mut ChainEnv<'_>,
        mut head: ResponseHead,
        end: EndStream,
        now: Instant,
    ) -> RouterEvent {
        let Some(cluster) = self.cluster.clone() else {
            return RouterEvent::Progress;
        };
        // A protocol switch that nobody asked for has no bytes for anybody behind it.
        let end = EndStream::from(end.is_end() || head.status == 101 && !self.is_upgrade);
        self.retry.observe_health(&head);
        let selected = env.info.route.clone();
        let policy = selected
            .as_ref()
            .and_then(|selected| retry_policy(selected));
        if let RetryDecision::After(wait) = self.retry.on_response(
            &head,
            policy,
            &cluster,
            self.priority,
            env.worker.random.next(),
        ) {
            self.charge(head.status, env);
            return self.back_off(env, wait);
        }
        self.flag_retries(env.info);
        self.response_started = true;
        env.info.response_code = Some(head.status);
        self.route_response(env, &mut head, now);
        self.charge(head.status, env);
        env.info.response_code_details = Some("via_upstream".into());
        if head.status == 101 && self.is_upgrade {
            self.route_deadline = None;
        }
        if let State::Attempt(attempt) = &mut self.state {
            attempt.head_received();
        }
        if end.is_end() {
            self.response_ended(env, now);
        }
        RouterEvent::Head(head, end)
    }

    /// Says why an outcome that would have been tried again was not.
    pub(super) fn flag_retries(&self, info: &mut StreamInfo) {
        if self.retry.is_exhausted() {
            info.response_flags
                .set(ResponseFlag::UpstreamRetryLimitExceeded);
        }
        if self.retry.has_overflowed() {
            info.response_flags.set(ResponseFlag::UpstreamOverflow);
        }
    }

    /// Completes a response head of the upstream, as route and configuration want it.
    pub(super) fn route_response(
        &self,
        env: &mut ChainEnv<'_>,
        head: &mut ResponseHead,
        now: Instant,
    ) {
        if !self.shared.config.suppress_envoy_headers
            && let Some(origin) = self.request_complete
        {
            let took = u64::try_from((now - origin).as_millis()).unwrap_or(u64::MAX);
            let mut digits = itoa_buffer(took);
            head.fields
                .set(Known::EnvoyUpstreamServiceTime, digits.as_bytes());
        }
        let Some(route) = env.info.route.clone() else {
            return;
        };
        if route.virtual_host().include_attempt_count_in_response {
            head.fields
                .set(Known::EnvoyAttemptCount, env.info.attempt_count.to_string());
        }
        route.finalize_response_headers(head, env.request, env.info);
    }

    pub(super) fn response_ended(&mut self, env: &mut ChainEnv<'_>, now: Instant) {
        let origin = code_origin(env);
        let info = &mut *env.info;
        info.timing.last_upstream_rx_byte = Some(now);
        self.route_deadline = None;
        let Some(cluster) = &self.cluster else { return };
        if self.shared.config.dynamic_stats
            && let Some(since) = self.request_complete
        {
            cluster.record_time(now - since, origin);
        }
        if let State::Attempt(attempt) = std::mem::replace(&mut self.state, State::Idle) {
            attempt.finish(info);
        }
    }

    /// Counts a response of the cluster by its status.
    pub(super) fn charge(&self, status: u16, env: &ChainEnv<'_>) {
        let Some(cluster) = &self.cluster else { return };
        if self.shared.config.dynamic_stats {
            cluster.record_code(status, code_origin(env));
        }
    }
}

/// Where the stats of a response belong.
fn code_origin(env: &ChainEnv<'_>) -> CodeOrigin {
    let host = env
        .info
        .upstream
        .as_ref()
        .and_then(|upstream| upstream.host.as_ref());
    CodeOrigin {
        internal: env.request.fields.contains(Known::EnvoyInternal),
        canary: host.is_some_and(|host| host.canary),
    }
}

/// The retry policy of a route that forwards.
fn retry_policy(selected: &SelectedRoute) -> Option<&RetryPolicy> {
    selected.route().forward()?.retry_policy.as_deref()
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
