//! How long a request may take: the route's timeouts, and the request headers that change them.

use std::time::Duration;

use super::config::RouterConfig;
use super::response::itoa_buffer;
use crate::http::{Known, RequestHead};
use crate::route::RouteAction;

/// The timeouts of one request. None: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Timeouts {
    /// From the end of the request to the end of the response, over all attempts.
    pub(super) global: Option<Duration>,
    /// Of one attempt, from the moment when it has a connection and the request has come whole.
    pub(super) per_try: Option<Duration>,
    /// Of one attempt without any progress.
    pub(super) per_try_idle: Option<Duration>,
    /// Of the stream of one attempt: `x-envoy-upstream-stream-duration-ms`, in place of the cluster's limit. Zero: no limit.
    pub(super) stream: Option<Duration>,
    /// A timeout is answered with 204 instead of 504.
    pub(super) alt_response: bool,
    /// An attempt that takes too long goes on beside the next one.
    pub(super) hedge: bool,
    /// `grpc-timeout` is replaced by what the upstream has.
    rewrites_grpc_timeout: bool,
}

impl Timeouts {
    /// Works them out, and takes the headers that ask for them off the request.
    pub(super) fn of(
        action: &RouteAction,
        head: &mut RequestHead,
        is_grpc: bool,
        config: &RouterConfig,
    ) -> Self {
        let hedge = match head.fields.get(Known::EnvoyHedgeOnPerTryTimeout) {
            Some(b"true") => true,
            Some(b"false") => false,
            _ => action.hedge_policy().hedge_on_per_try_timeout,
        };
        let of_route = action.timeouts();
        // A limit of the whole stream takes the place of this one.
        let is_new_style = of_route.max_stream_duration.is_some();
        let mut global = action.timeout.filter(|_| !is_new_style);
        let max_grpc = of_route
            .max_grpc_timeout
            .filter(|_| is_grpc && !is_new_style);
        if let Some(max) = max_grpc {
            global = grpc_timeout(head, max, of_route.grpc_timeout_offset);
        }
        let expected = config.respect_expected_rq_timeout
            && head.fields.contains(Known::EnvoyExpectedRqTimeoutMs);
        let asked = if expected {
            millis(head, Known::EnvoyExpectedRqTimeoutMs)
        } else {
            let asked = millis(head, Known::EnvoyUpstreamRqTimeoutMs);
            head.fields.remove(Known::EnvoyUpstreamRqTimeoutMs);
            asked
        };
        if asked.is_some() {
            global = asked;
        }
        let policy = action.retry_policy.as_deref();
        let per_try = millis(head, Known::EnvoyUpstreamRqPerTryTimeoutMs)
            .or_else(|| policy.and_then(|p| p.per_try_timeout));
        let stream = millis(head, Known::EnvoyUpstreamStreamDurationMs);
        head.fields.remove(Known::EnvoyUpstreamRqPerTryTimeoutMs);
        head.fields.remove(Known::EnvoyUpstreamStreamDurationMs);
        let alt_response = head.fields.remove(Known::EnvoyUpstreamRqTimeoutAltResponse) > 0;
        let global = global.filter(|d| !d.is_zero());
        Self {
            global,
            // An attempt that may take as long as the whole is not limited by itself.
            per_try: per_try
                .filter(|d| !d.is_zero())
                .filter(|d| global.is_none_or(|g| *d < g)),
            per_try_idle: policy
                .and_then(|p| p.per_try_idle_timeout)
                .filter(|d| !d.is_zero()),
            stream,
            alt_response,
            hedge,
            rewrites_grpc_timeout: max_grpc.is_some(),
        }
    }

    /// Tells the upstream how long it has, when `elapsed` of the whole has gone by.
    pub(super) fn write_headers(&self, head: &mut RequestHead, elapsed: Duration, suppress: bool) {
        // One who is not broken off after its time has the time of the whole.
        let of_try = self.per_try.filter(|_| !self.hedge);
        let Some(expected) = of_try.or(self.global) else {
            return;
        };
        let whole = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let mut expected = whole(expected);
        if expected == 0 {
            return;
        }
        if let Some(global) = self.global {
            // Zero would mean that there is no limit.
            let left = whole(global).saturating_sub(whole(elapsed)).max(1);
            expected = expected.min(left);
        }
        if !suppress {
            head.fields.set(
                Known::EnvoyExpectedRqTimeoutMs,
                itoa_buffer(expected).as_bytes(),
            );
        }
        if self.rewrites_grpc_timeout {
            head.set_grpc_timeout(Duration::from_millis(expected));
        }
    }
}

/// What `grpc-timeout` asks for, up to `max`; zero stands for any time.
fn grpc_timeout(head: &RequestHead, max: Duration, offset: Option<Duration>) -> Option<Duration> {
    let mut asked = head.grpc_timeout().unwrap_or_default();
    // Nothing left would mean any time.
    if let Some(offset) = offset.filter(|offset| *offset < asked) {
        asked -= offset;
    }
    if !max.is_zero() && (asked.is_zero() || asked > max) {
        asked = max;
    }
    Some(asked)
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
        stream: _,
        alt_response: _,
        hedge: _,
        rewrites_grpc_timeout: _,
    } = Timeouts::of(action, head, is_grpc, config);
    [global, per_try, per_try_idle]
}

fn millis(head: &RequestHead, name: Known) -> Option<Duration> {
    head.fields
        .get_str(name)?
        .trim()
        .parse()
        .ok()
        .map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Protocol;

    #[test]
    fn a_grpc_timeout_is_capped_and_its_offset_never_uses_it_up() {
        let of = |asked: &str, max: u64, offset: u64| {
            let mut head = RequestHead::new(Protocol::Http2, b"POST");
            head.fields.append(Known::GrpcTimeout, asked);
            let offset = Some(Duration::from_millis(offset));
            grpc_timeout(&head, Duration::from_millis(max), offset)
                .unwrap()
                .as_millis()
        };
        assert_eq!(of("200m", 500, 0), 200);
        assert_eq!(of("800m", 500, 0), 500);
        assert_eq!(of("200m", 500, 50), 150);
        assert_eq!(of("200m", 500, 200), 200);
        assert_eq!(of("nonsense", 500, 0), 500);
        assert_eq!(of("800m", 0, 0), 800);
    }

    #[test]
    fn a_retry_tells_the_upstream_what_is_left() {
        let mut head = RequestHead::new(Protocol::Http11, b"GET");
        let timeouts = Timeouts {
            global: Some(Duration::from_millis(500)),
            per_try: Some(Duration::from_millis(300)),
            ..Timeouts::default()
        };
        let mut told = |timeouts: &Timeouts, elapsed| {
            timeouts.write_headers(&mut head, Duration::from_millis(elapsed), false);
            let text = head.fields.get_str(Known::EnvoyExpectedRqTimeoutMs);
            text.unwrap().to_owned()
        };
        assert_eq!(told(&timeouts, 0), "300");
        assert_eq!(told(&timeouts, 350), "150");
        assert_eq!(told(&timeouts, 600), "1");
        let hedged = Timeouts {
            hedge: true,
            ..timeouts
        };
        assert_eq!(told(&hedged, 0), "500");
    }
}
