//! What a local rate limit configuration says.

use std::collections::HashSet;
use std::time::Duration;

use outrigger_proto::pb::envoy::extensions::common::ratelimit::v3 as common;
use outrigger_proto::pb::envoy::extensions::filters::http::local_ratelimit::v3 as pb;
use outrigger_proto::pb::envoy::r#type::v3 as type_pb;

use super::Stats;
use super::limiter::{BucketSettings, DescriptorSettings, Limiter, LimiterSettings};
use crate::config::{ConfigPath, Rejected};
use crate::route::{HeaderParser, RateLimit};
use crate::runtime::RuntimeFraction;
use crate::server::FactoryContext;

/// A `LocalRateLimit`, of the filter or of a route.
#[derive(Debug)]
pub(super) struct LimitConfig {
    pub(super) stats: Stats,
    /// The status of a refusal; 429 unless an error is configured.
    pub(super) status: u16,
    /// None: never.
    pub(super) filter_enabled: Option<RuntimeFraction>,
    /// None: never.
    pub(super) filter_enforced: Option<RuntimeFraction>,
    pub(super) request_headers: Option<HeaderParser>,
    pub(super) response_headers: Option<HeaderParser>,
    pub(super) stage: u32,
    pub(super) enable_x_ratelimit_headers: bool,
    pub(super) enable_retry_after_header: bool,
    pub(super) vh_rate_limits: common::VhRateLimitsOptions,
    pub(super) rate_limited_as_resource_exhausted: bool,
    pub(super) has_descriptors: bool,
    /// In the place of those of the route.
    pub(super) rate_limits: Box<[RateLimit]>,
    pub(super) limiter: Limiter,
    /// One limiter per connection, made like this.
    pub(super) per_connection: Option<LimiterSettings>,
}

/// Shorter intervals are refused, as in Envoy.
const SHORTEST_FILL: Duration = Duration::from_millis(50);

impl LimitConfig {
    pub(super) fn from_proto(
        proto: pb::LocalRateLimit,
        per_route: bool,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::LocalRateLimit {
            stat_prefix,
            status,
            token_bucket,
            filter_enabled,
            filter_enforced,
            request_headers_to_add_when_not_enforced,
            response_headers_to_add,
            descriptors,
            stage,
            local_rate_limit_per_downstream_connection,
            local_cluster_rate_limit,
            enable_x_ratelimit_headers,
            vh_rate_limits,
            always_consume_default_token_bucket,
            rate_limited_as_resource_exhausted,
            rate_limits,
            max_dynamic_descriptors,
            enable_retry_after_header,
        } = proto;
        let missing = per_route && token_bucket.is_none();
        let stat_prefix = path.non_empty("stat_prefix", stat_prefix);
        let cluster_share =
            path.unsupported_if_set("local_cluster_rate_limit", local_cluster_rate_limit);
        let default = path.optional("token_bucket", token_bucket, |bucket, path| {
            bucket_settings(bucket, false, path)
        });
        let fraction = |name: &str, proto| {
            path.optional(name, proto, |proto, path| {
                RuntimeFraction::from_proto(proto, &cx.server.runtime, path)
            })
        };
        let filter_enabled = fraction("filter_enabled", filter_enabled);
        let filter_enforced = fraction("filter_enforced", filter_enforced);
        let parser =
            |name: &str, list| HeaderParser::from_proto((name, list), ("", Vec::new()), cx, path);
        let request_headers = parser(
            "request_headers_to_add_when_not_enforced",
            request_headers_to_add_when_not_enforced,
        );
        let response_headers = parser("response_headers_to_add", response_headers_to_add);
        let descriptors = descriptor_settings(descriptors, path);
        let stage = path.in_range("stage", stage, 0..=10);
        let x_ratelimit = path.enumeration::<common::XRateLimitHeadersRfcVersion>(
            "enable_x_ratelimit_headers",
            enable_x_ratelimit_headers,
        );
        let vh_rate_limits = path.enumeration("vh_rate_limits", vh_rate_limits);
        let rate_limits = path.each("rate_limits", rate_limits, |limit, path| {
            RateLimit::from_proto(limit, cx, path)
        });
        let max_dynamic = max_dynamic_descriptors.map_or(20, |most| most.value);
        let max_dynamic = path.in_range("max_dynamic_descriptors", max_dynamic, 1..=u32::MAX);
        cluster_share?;
        if missing {
            return Err(path
                .field("token_bucket")
                .reject("local rate limit token bucket must be set for per filter configs"));
        }
        let settings = LimiterSettings {
            default: default?,
            descriptors: descriptors?,
            always_consume_default: always_consume_default_token_bucket
                .is_none_or(|always| always.value),
            max_dynamic_descriptors: usize::try_from(max_dynamic?).unwrap_or(usize::MAX),
        };
        let scope = format!("{}.http_local_rate_limit.", stat_prefix?);
        Ok(Self {
            stats: Stats::new(&cx.server.stats.scope(&scope)),
            status: http_status(status),
            filter_enabled: filter_enabled?,
            filter_enforced: filter_enforced?,
            request_headers: request_headers?,
            response_headers: response_headers?,
            stage: stage?,
            enable_x_ratelimit_headers: x_ratelimit?
                == common::XRateLimitHeadersRfcVersion::DraftVersion03,
            enable_retry_after_header,
            vh_rate_limits: vh_rate_limits?,
            rate_limited_as_resource_exhausted,
            has_descriptors: !settings.descriptors.is_empty(),
            rate_limits: rate_limits?.into(),
            limiter: Limiter::new(&settings),
            per_connection: local_rate_limit_per_downstream_connection.then_some(settings),
        })
    }
}

/// What is no error refuses with 429.
fn http_status(status: Option<type_pb::HttpStatus>) -> u16 {
    let code = status.map_or(0, |type_pb::HttpStatus { code }| code);
    u16::try_from(code)
        .ok()
        .filter(|code| (400..=599).contains(code))
        .unwrap_or(429)
}

fn bucket_settings(
    proto: type_pb::TokenBucket,
    of_descriptor: bool,
    path: &ConfigPath<'_>,
) -> Result<BucketSettings, Rejected> {
    let type_pb::TokenBucket {
        max_tokens,
        tokens_per_fill,
        fill_interval,
    } = proto;
    let interval = path.required("fill_interval", fill_interval)?;
    let interval = path
        .positive_duration("fill_interval", Some(interval))?
        .unwrap_or(SHORTEST_FILL);
    let tokens_per_fill = tokens_per_fill.map_or(1, |tokens| tokens.value);
    let tokens_per_fill = path.in_range("tokens_per_fill", tokens_per_fill, 1..=u32::MAX)?;
    if max_tokens > 0 && interval < SHORTEST_FILL {
        let what = if of_descriptor { "descriptor " } else { "" };
        return Err(path.field("fill_interval").reject(format!(
            "local rate limit {what}token bucket fill timer must be >= 50ms"
        )));
    }
    Ok(BucketSettings {
        max_tokens,
        tokens_per_fill,
        fill_interval: interval,
    })
}

fn descriptor_settings(
    descriptors: Vec<common::LocalRateLimitDescriptor>,
    path: &ConfigPath<'_>,
) -> Result<Vec<DescriptorSettings>, Rejected> {
    let mut seen = HashSet::new();
    path.each("descriptors", descriptors, |proto, path| {
        let common::LocalRateLimitDescriptor {
            entries,
            token_bucket,
            shadow_mode,
        } = proto;
        let entries = if entries.is_empty() {
            Err(path.field("entries").reject("must not be empty"))
        } else {
            path.each("entries", entries, |entry, path| {
                let common::rate_limit_descriptor::Entry { key, value } = entry;
                let key = path.non_empty("key", key)?;
                Ok((Box::from(key), Box::from(value)))
            })
        };
        let bucket = path.required("token_bucket", token_bucket)?;
        let bucket = bucket_settings(bucket, true, &path.field("token_bucket"));
        let entries: Box<[(Box<str>, Box<str>)]> = entries?.into();
        if !seen.insert(entries.clone()) {
            let text: Vec<_> = entries.iter().map(|(k, v)| format!("{k}={v}")).collect();
            return Err(path.reject(format!(
                "duplicate descriptor in the local rate descriptor: {}",
                text.join(", ")
            )));
        }
        Ok(DescriptorSettings {
            entries,
            bucket: bucket?,
            shadow_mode,
        })
    })
}
