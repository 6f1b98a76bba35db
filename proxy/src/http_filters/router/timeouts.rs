//! How long a request may take: the route's timeouts, and the request headers that change them.

use std::time::Duration;

use super::config::RouterConfig;
use crate::http::{Known, RequestHead};
use crate::route::RouteAction;

/// The timeouts of one request. None: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Timeouts {
    /// From the end of the request to the end of the response, over all attempts.
    pub(super) global: Option<Duration>,
    /// Of one attempt.
    pub(super) per_try: Option<Duration>,
    /// Of one attempt without any progress.
    pub(super) per_try_idle: Option<Duration>,
    /// A timeout is answered with 204 instead of 504.
    pub(super) alt_response: bool,
}

impl Timeouts {
    /// Works them out, and takes the headers that ask for them off the request.
    pub(super) fn of(
        action: &RouteAction,
        head: &mut RequestHead,
        is_grpc: bool,
        config: &RouterConfig,
    ) -> Self {
        let of_route = action.timeouts();
        // A limit of the whole stream takes the place of this one.
        let mut global = action
            .timeout
            .filter(|_| of_route.max_stream_duration.is_none());
        if is_grpc && let Some(max) = of_route.max_grpc_timeout {
            global = Some(head.grpc_timeout().map_or(max, |asked| {
                let asked = of_route
                    .grpc_timeout_offset
                    .map_or(asked, |offset| asked.saturating_sub(offset));
                if max.is_zero() { asked } else { asked.min(max) }
            }));
        }
        let policy = action.retry_policy.as_deref();
        let mut per_try = policy.and_then(|p| p.per_try_timeout);
        let expected = millis(head, Known::EnvoyExpectedRqTimeoutMs)
            .filter(|_| config.respect_expected_rq_timeout);
        if let Some(asked) = expected.or_else(|| millis(head, Known::EnvoyUpstreamRqTimeoutMs)) {
            global = Some(asked);
        }
        if let Some(asked) = millis(head, Known::EnvoyUpstreamRqPerTryTimeoutMs) {
            per_try = Some(asked);
        }
        head.fields.remove(Known::EnvoyUpstreamRqTimeoutMs);
        head.fields.remove(Known::EnvoyUpstreamRqPerTryTimeoutMs);
        let alt_response = head.fields.remove(Known::EnvoyUpstreamRqTimeoutAltResponse) > 0;
        let global = global.filter(|d| !d.is_zero());
        // An attempt that may take as long as the whole is not limited by itself.
        let per_try = per_try
            .filter(|d| !d.is_zero())
            .filter(|d| global.is_none_or(|g| *d < g));
        Self {
            global,
            per_try,
            per_try_idle: policy
                .and_then(|p| p.per_try_idle_timeout)
                .filter(|d| !d.is_zero()),
            alt_response,
        }
    }

    /// Tells the upstream how long it has.
    pub(super) fn write_headers(&self, head: &mut RequestHead, is_grpc: bool, suppress: bool) {
        let Some(expected) = self.per_try.or(self.global).filter(|d| d.as_millis() > 0) else {
            return;
        };
        if !suppress {
            let millis = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
            head.fields.set(
                Known::EnvoyExpectedRqTimeoutMs,
                super::itoa_buffer(millis).as_bytes(),
            );
        }
        if is_grpc && head.fields.contains(Known::GrpcTimeout) {
            head.fields
                .set(Known::GrpcTimeout, format!("{}m", expected.as_millis()));
        }
    }
}

/// The limits of a request over all attempts, of one attempt, and of the silence of one; takes the headers that change them off it.
pub fn limits(
    action: &RouteAction,
    head: &mut RequestHead,
    config: &RouterConfig,
) -> [Option<Duration>; 3] {
    let is_grpc = head.is_grpc();
    let Timeouts {
        global,
        per_try,
        per_try_idle,
        alt_response: _,
    } = Timeouts::of(action, head, is_grpc, config);
    [global, per_try, per_try_idle]
}

fn millis(head: &RequestHead, name: Known) -> Option<Duration> {
    head.fields
        .get_str(name)?
        .parse()
        .ok()
        .map(Duration::from_millis)
}
