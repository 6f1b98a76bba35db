//! `RateLimit` of virtual hosts and routes: how requests become descriptors, for the filters that limit rates.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/rate_limit_filter#composing-actions>
//!
//! Actions by `extension` are the inputs of matchers (`matchers/tree`), counted under the name of the extension, and expressions:
//! `envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor`.

mod action;
mod convert;
mod limit;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use outrigger_proto::pb::envoy::config::route::v3 as route_pb;
use outrigger_proto::pb::envoy::r#type::v3::RateLimitUnit;
use smallvec::SmallVec;

use self::action::{Action, Entry};
use self::limit::{HitsAddend, LimitOverride};
use super::rewrite::render;
use crate::config::{ConfigPath, Fraction, Rejected};
use crate::http::RequestHead;
use crate::runtime::RuntimeFraction;
use crate::server::{FactoryContext, ServerContext};
use crate::stream_info::StreamInfo;

/// One rule: actions that together make a descriptor.
#[derive(Debug)]
pub struct RateLimit {
    /// 0..=10; a filter takes the rules of its own stage.
    pub stage: u32,
    /// Whether the descriptor is for when the stream has ended.
    pub apply_on_stream_done: bool,
    /// `disable_key`: for which share of requests the rule counts, default all. Only a filter that asks a service looks at the
    /// key; one that counts by itself passes over rules that have one.
    pub enabled: Option<RuntimeFraction>,
    /// Whether clients are told of the limit in `x-ratelimit-` headers; none: as the filter says.
    pub x_ratelimit: Option<bool>,
    actions: Box<[Action]>,
    limit: Option<LimitOverride>,
    hits_addend: Option<HitsAddend>,
}

/// What a request is counted under.
#[derive(Debug, PartialEq, Eq)]
pub struct Descriptor<'a> {
    /// Keys and values, in the order of the actions.
    pub entries: SmallVec<[(Cow<'a, str>, Cow<'a, str>); 2]>,
    /// A limit that the request brings along: requests per unit.
    pub limit: Option<(u32, RateLimitUnit)>,
    /// How many hits the request counts for; none for what the filter says.
    pub hits_addend: Option<u64>,
    /// Whether the hits are given back.
    pub is_negative_hits: bool,
    /// `RateLimit::x_ratelimit` of the rule.
    pub x_ratelimit: Option<bool>,
}

/// Where a rule stands, which decides what it may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimitPlace {
    /// In a filter that asks a service, or its configuration for a route.
    GlobalFilter,
    /// In a filter that counts by itself.
    LocalFilter,
}

impl RateLimit {
    /// Converts a `RateLimit` that stands in a filter rather than a route.
    pub fn of_filter(
        proto: route_pb::RateLimit,
        place: RateLimitPlace,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        if proto.stage.is_some() || !proto.disable_key.is_empty() {
            return Err(path.reject("'stage' field and 'disable_key' field are not supported"));
        }
        if place == RateLimitPlace::LocalFilter && proto.limit.is_some() {
            return Err(path.reject("'limit' field is not supported"));
        }
        Self::convert(proto, cx, path)
    }

    /// Converts a `RateLimit` of a route or virtual host. There `hits_addend` does not count, as in Envoy.
    pub fn from_proto(
        proto: route_pb::RateLimit,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let rule = Self::convert(proto, cx, path)?;
        Ok(Self {
            hits_addend: None,
            ..rule
        })
    }

    fn convert(
        proto: route_pb::RateLimit,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let route_pb::RateLimit {
            stage,
            disable_key,
            actions,
            limit,
            hits_addend,
            apply_on_stream_done,
            x_ratelimit_option,
        } = proto;
        let stage = path.in_range("stage", stage.map_or(0, |stage| stage.value), 0..=10);
        let option = path.enumeration("x_ratelimit_option", x_ratelimit_option);
        let actions = if actions.is_empty() {
            Err(path.field("actions").reject("must not be empty"))
        } else {
            path.each("actions", actions, |action, path| {
                Action::from_proto(action, cx, path)
            })
        };
        let limit = path.optional("limit", limit, LimitOverride::from_proto);
        let hits_addend = path.optional("hits_addend", hits_addend, |hits, path| {
            HitsAddend::from_proto(hits, cx, path)
        });
        let enabled = (!disable_key.is_empty()).then(|| {
            let key = format!("ratelimit.{disable_key}.http_filter_enabled");
            cx.server.runtime.fraction(&key, Fraction::ALWAYS)
        });
        Ok(Self {
            stage: stage?,
            apply_on_stream_done,
            enabled,
            x_ratelimit: match option? {
                route_pb::rate_limit::XRateLimitOption::Unspecified => None,
                route_pb::rate_limit::XRateLimitOption::Off => Some(false),
                route_pb::rate_limit::XRateLimitOption::DraftVersion03 => Some(true),
            },
            actions: actions?.into(),
            limit: limit?,
            hits_addend: hits_addend?,
        })
    }

    /// The descriptor of a request; none if an action finds nothing, so that the rule does not apply.
    pub fn descriptor<'a>(
        &'a self,
        head: &'a RequestHead,
        info: &'a StreamInfo,
        server: &'a ServerContext,
    ) -> Option<Descriptor<'a>> {
        let mut entries = SmallVec::new();
        for action in &self.actions {
            match action.entry(head, info, server) {
                Entry::Add(key, value) => entries.push((Cow::Borrowed(key), value)),
                Entry::Skip => {}
                Entry::Fail => return None,
            }
        }
        if entries.is_empty() {
            return None;
        }
        let hits_addend = match &self.hits_addend {
            None => None,
            Some(hits) => Some(hits.amount(head, info)?),
        };
        Some(Descriptor {
            entries,
            limit: self.limit.as_ref().and_then(|limit| limit.get(info)),
            hits_addend,
            is_negative_hits: self.hits_addend.as_ref().is_some_and(|hits| hits.negative),
            x_ratelimit: self.x_ratelimit,
        })
    }
}
