//! `envoy.filters.http.local_ratelimit`: refuses requests beyond a rate, counted in this process.
//!
//! Type URL: `envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`, for the filter and for routes.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/local_rate_limit_filter>
//! Stats: `<stat_prefix>.http_local_rate_limit.{enabled,enforced,ok,rate_limited,shadow_mode}`.
//! Details: `local_rate_limited`. Flag: `RL`.
//!
//! Deviations: none.

mod config;
mod limiter;

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_proto::pb::envoy::extensions::common::ratelimit::v3::VhRateLimitsOptions;
use smallvec::SmallVec;

use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, LocalReply,
    RouteFilterConfig, StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, HeaderName, RequestHead, ResponseHead};
use crate::rate_limit::local_share;
use crate::route::{Descriptor, RateLimit};
use crate::runtime::RuntimeFraction;
use crate::server::{FactoryContext, ServerContext, Worker};
use crate::stream_info::{FilterStateObject, ResponseFlag, StreamInfo};
use config::LimitConfig;
use limiter::{Bucket, Decision, Limiter, LimiterSettings};

/// Makes local rate limit filters.
pub(super) struct Factory;

const TYPE_NAMES: &[&str] = &["envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"];
const PER_CONNECTION: &str = "per_connection_local_rate_limiter";

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.local_ratelimit"
    }

    fn type_names(&self) -> &'static [&'static str] {
        TYPE_NAMES
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        TYPE_NAMES
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let config = LimitConfig::from_proto(config.decode(path)?, false, cx, path)?;
        Ok(Arc::new(config))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let config = LimitConfig::from_proto(config.decode(path)?, true, cx, path)?;
        Ok(Arc::new(config))
    }
}

crate::stats_group! {
    /// What the filter counts.
    struct Stats {
        counter enabled;
        counter enforced;
        counter ok;
        counter rate_limited;
        counter shadow_mode;
    }
}

impl HttpFilterConfig for LimitConfig {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self);
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(LocalRateLimit {
                config: config.clone(),
                shown: None,
            })
        })
    }

    fn is_idle(&self) -> bool {
        let enabled = self.filter_enabled.as_ref();
        enabled.is_none_or(RuntimeFraction::is_never)
    }
}

struct LocalRateLimit {
    config: Rc<Arc<LimitConfig>>,
    /// The bucket that the response tells the client about.
    shown: Option<Arc<Bucket>>,
}

/// The limiter of one connection.
struct PerConnection(Limiter);

/// The limiter of a connection, as long as a request asks it.
enum OfConnection {
    New(Rc<PerConnection>),
    /// Always a `PerConnection`.
    Known(Rc<dyn FilterStateObject>),
}

impl PerConnection {
    fn of(info: &StreamInfo, settings: &LimiterSettings) -> OfConnection {
        let mut state = info.connection.filter_state.borrow_mut();
        if state.get_as::<Self>(PER_CONNECTION).is_some()
            && let Some(known) = state.get(PER_CONNECTION)
        {
            return OfConnection::Known(known.clone());
        }
        let made = Rc::new(Self(Limiter::new(settings)));
        state.set(PER_CONNECTION, made.clone());
        OfConnection::New(made)
    }
}

impl OfConnection {
    #[allow(clippy::expect_used, reason = "stated by the expectation")]
    fn limiter(&self) -> &Limiter {
        match self {
            Self::New(made) => &made.0,
            Self::Known(known) => {
                let object: &dyn Any = &**known;
                let known = object.downcast_ref::<PerConnection>();
                &known.expect("its type was looked at before").0
            }
        }
    }
}

impl FilterStateObject for PerConnection {
    fn serialize_as_string(&self) -> Option<String> {
        None
    }
}

impl HttpFilter for LocalRateLimit {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS.and(Interests::ENCODE_HEADERS)
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _: EndStream,
    ) -> HeadersStatus {
        // The stream changes meanwhile, so the route is held, not borrowed.
        let route = cx.info.route.clone();
        let slot = cx.slot;
        let config: &LimitConfig = route
            .as_ref()
            .and_then(|route| route.filter_config(slot?)?.downcast_ref())
            .unwrap_or(&self.config);
        let random = &cx.worker.random;
        let drawn = |fraction: &Option<RuntimeFraction>| {
            fraction
                .as_ref()
                .is_some_and(|fraction| fraction.contains(random.next()))
        };
        if !drawn(&config.filter_enabled) {
            return HeadersStatus::Continue;
        }
        config.stats.enabled().inc();
        let of_connection;
        let limiter = match &config.per_connection {
            None => &config.limiter,
            Some(settings) => {
                of_connection = PerConnection::of(cx.info, settings);
                of_connection.limiter()
            }
        };
        let share = match config.of_local_cluster {
            false => 1.0,
            true => local_share(cx.worker),
        };
        let decision = {
            let descriptors = descriptors(config, head, cx.info, &cx.worker.server);
            limiter.check(&descriptors, cx.info.now, share)
        };
        if decision
            .x_ratelimit
            .unwrap_or(config.enable_x_ratelimit_headers)
        {
            self.shown = decision.bucket.as_deref().cloned();
        }
        if decision.allowed {
            config.stats.ok().inc();
            return HeadersStatus::Continue;
        }
        config.stats.rate_limited().inc();
        if decision.bucket.as_ref().is_some_and(|b| b.shadow_mode) {
            config.stats.shadow_mode().inc();
            return HeadersStatus::Continue;
        }
        if !drawn(&config.filter_enforced) {
            if let Some(parser) = &config.request_headers {
                parser.evaluate_request(head, cx.info);
            }
            return HeadersStatus::Continue;
        }
        config.stats.enforced().inc();
        cx.info.response_flags.set(ResponseFlag::RateLimited);
        HeadersStatus::LocalReply(refusal(config, &decision, head, cx.info))
    }

    fn encode_headers(
        &mut self,
        _cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        _: EndStream,
    ) -> HeadersStatus {
        if let Some(bucket) = &self.shown {
            let fields = &mut head.fields;
            fields.append("x-ratelimit-limit", bucket.max_tokens().to_string());
            fields.append(
                "x-ratelimit-remaining",
                bucket.remaining_tokens().to_string(),
            );
            fields.append("x-ratelimit-reset", bucket.reset_seconds().to_string());
        }
        HeadersStatus::Continue
    }
}

/// What the request is counted under, beside the default bucket.
fn descriptors<'a>(
    config: &'a LimitConfig,
    head: &'a RequestHead,
    info: &'a StreamInfo,
    server: &'a ServerContext,
) -> SmallVec<[Descriptor<'a>; 2]> {
    let mut out = SmallVec::new();
    if !config.has_descriptors {
        return out;
    }
    let mut add = |limits: &'a [RateLimit], stage: Option<u32>| {
        let applies = |limit: &&RateLimit| {
            // As in Envoy a route's rule for ended streams counts like any other.
            limit.enabled.is_none()
                && stage.map_or(!limit.apply_on_stream_done, |stage| limit.stage == stage)
        };
        out.extend(
            limits
                .iter()
                .filter(applies)
                .filter_map(|limit| limit.descriptor(head, info, server)),
        );
    };
    if !config.rate_limits.is_empty() {
        add(&config.rate_limits, None);
        return out;
    }
    let Some(route) = &info.route else { return out };
    let Some(action) = route.route().forward() else {
        return out;
    };
    let stage = Some(config.stage);
    add(action.rate_limits(), stage);
    let with_host = action.include_vh_rate_limits()
        || match config.vh_rate_limits {
            VhRateLimitsOptions::Include => true,
            VhRateLimitsOptions::Ignore => false,
            VhRateLimitsOptions::Override => action.rate_limits().is_empty(),
        };
    if with_host {
        add(route.virtual_host().rate_limits(), stage);
    }
    out
}

fn refusal(
    config: &LimitConfig,
    decision: &Decision<'_>,
    request: &RequestHead,
    info: &StreamInfo,
) -> LocalReply {
    let mut reply = LocalReply::new(config.status, "local_rate_limited")
        .with_body(Bytes::from_static(b"local_rate_limited"));
    if config.rate_limited_as_resource_exhausted {
        reply.grpc_status = Some(8);
    }
    if let Some(parser) = &config.response_headers {
        let mut head = ResponseHead::new(config.status);
        parser.evaluate_response(&mut head, Some(request), info);
        let fields = head.fields.iter();
        reply.headers.extend(
            fields.map(|(name, value)| (HeaderName::new(name), Bytes::copy_from_slice(value))),
        );
    }
    let set = reply
        .headers
        .iter()
        .any(|(name, _)| name.as_str() == "retry-after");
    if let Some(bucket) = &decision.bucket
        && config.enable_retry_after_header
        && config.status == 429
        && !set
    {
        let seconds = bucket.reset_seconds().max(1).to_string();
        reply = reply.with_header(HeaderName::new("retry-after"), seconds);
    }
    reply
}

#[cfg(test)]
mod tests;
