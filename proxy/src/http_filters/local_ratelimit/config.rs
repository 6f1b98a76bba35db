//! What a local rate limit configuration says.

use std::collections::HashSet;

use outrigger_proto::pb::envoy::extensions::common::ratelimit::v3 as common;
use outrigger_proto::pb::envoy::extensions::filters::http::local_ratelimit::v3 as pb;
use outrigger_proto::pb::envoy::r#type::v3 as type_pb;

use super::Stats;
use super::limiter::{DescriptorSettings, Limiter, LimiterSettings};
use crate::config::{ConfigPath, Rejected};
use crate::rate_limit::BucketSettings;
use crate::route::{HeaderParser, RateLimit, RateLimitPlace};
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
    /// The buckets are for all members of the local cluster together.
    pub(super) of_local_cluster: bool,
    /// One limiter per connection, made like this.
    pub(super) per_connection: Option<LimiterSettings>,
}

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
        let shares = local_cluster_rate_limit.map(|common::LocalClusterRateLimit {}| {
            let path = path.field("local_cluster_rate_limit");
            if local_rate_limit_per_downstream_connection {
                return Err(path.reject(
                    "local_cluster_rate_limit is set and local_rate_limit_per_downstream_connection is set to true",
                ));
            }
            match cx.server.local_cluster.get() {
                Some(_) => Ok(()),
                None => Err(path.reject(
                    "local_cluster_rate_limit is set but no local cluster name is present",
                )),
            }
        });
        let default = path.optional("token_bucket", token_bucket, |bucket, path| {
            BucketSettings::from_proto(bucket, "", path)
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
            RateLimit::of_filter(limit, RateLimitPlace::LocalFilter, cx, path)
        });
        let max_dynamic = max_dynamic_descriptors.map_or(20, |most| most.value);
        let max_dynamic = path.in_range("max_dynamic_descriptors", max_dynamic, 1..=u32::MAX);
        let of_local_cluster = shares.transpose()?.is_some();
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
            of_local_cluster,
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
        let bucket = BucketSettings::from_proto(bucket, "descriptor ", &path.field("token_bucket"));
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
