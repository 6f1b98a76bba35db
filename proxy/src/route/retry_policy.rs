//! `RetryPolicy`: when, how often and where a request is tried again.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter#x-envoy-retry-on>
//! Type URLs within: `envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate`,
//! `envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate`,
//! `envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig`,
//! `envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig`.
//!
//! Deviations: `retry_options_predicates` are refused; Envoy has none to offer but in its mobile build.

use std::ops::{BitOr, BitOrAssign};
use std::time::Duration;

use outrigger_proto::pb::envoy::config::route::v3 as pb;
use outrigger_proto::pb::envoy::extensions::retry::host::omit_host_metadata::v3::OmitHostMetadataConfig;
use outrigger_proto::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use pb::retry_policy::{
    RateLimitedRetryBackOff, ResetHeader as ResetHeaderProto, ResetHeaderFormat, RetryBackOff,
    RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority,
};

use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::HeaderName;
use crate::matchers::{HeaderMatcher, metadata_from_proto};
use crate::upstream::Host;

const PREVIOUS_HOSTS: &str = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
const OMIT_CANARY_HOSTS: &str =
    "envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate";
const OMIT_HOST_METADATA: &str =
    "envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig";
const PREVIOUS_PRIORITIES: &str =
    "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig";

/// A retry policy. Request headers may add to it.
#[derive(Debug)]
pub struct RetryPolicy {
    /// What is worth another try.
    pub retry_on: RetryOn,
    /// How many retries there are at most. Default 1.
    pub num_retries: u32,
    /// How long one try may take; none means the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// How long the response of one try may be silent; none for no limit.
    pub per_try_idle_timeout: Option<Duration>,
    /// The back-off's base. None means the runtime value `upstream.base_retry_backoff_ms`, which is 25 ms by default.
    pub base_interval: Option<Duration>,
    /// The back-off's ceiling. None means ten times the base.
    pub max_interval: Option<Duration>,
    /// How long to wait where the response says it.
    pub rate_limited_back_off: Option<RateLimitedBackOff>,
    /// The codes of `retriable-status-codes`.
    pub retriable_status_codes: Box<[u32]>,
    /// The response headers of `retriable-headers`.
    pub retriable_headers: Box<[HeaderMatcher]>,
    /// If there are any, only requests that match one are retried.
    pub retriable_request_headers: Box<[HeaderMatcher]>,
    /// Which hosts a retry avoids.
    pub host_predicates: Box<[HostPredicate]>,
    /// After how many tries to do so the host is taken anyway. Default 1.
    pub host_selection_max_attempts: u32,
    /// Avoids priorities that have been tried, and forgets after that many tries which they were.
    pub previous_priorities: Option<u32>,
}

/// `rate_limited_retry_back_off`.
#[derive(Debug)]
pub struct RateLimitedBackOff {
    /// The headers to look for, in order.
    pub reset_headers: Box<[ResetHeader]>,
    /// The longest wait that is worth a retry. Default 300 s.
    pub max_interval: Duration,
}

/// A response header that says when to try again.
#[derive(Debug)]
pub struct ResetHeader {
    /// Its name.
    pub name: HeaderName,
    /// Whether it holds a Unix timestamp in seconds; otherwise it holds seconds from now.
    pub unix_timestamp: bool,
}

/// Which hosts a retry avoids.
#[derive(Debug, Clone, PartialEq)]
pub enum HostPredicate {
    /// Those that have been tried for this request.
    PreviousHosts,
    /// Those whose metadata says that they are canaries.
    OmitCanaryHosts,
    /// Those whose `envoy.lb` metadata has all of these values; a list has those that are in it.
    OmitHostMetadata(serde_json::Map<String, serde_json::Value>),
}

/// Reasons for a retry, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn(u32);

macro_rules! retry_on {
    ($($constant:ident = $bit:literal $list:ident $token:literal;)*) => {
        impl RetryOn {
            $(#[doc = concat!("`", $token, "`")] pub const $constant: Self = Self(1 << $bit);)*

            const TOKENS: &'static [(bool, &'static str, Self)] = &[
                $((retry_on!(@is_grpc $list), $token, Self::$constant)),*
            ];
        }
    };
    (@is_grpc http) => { false };
    (@is_grpc grpc) => { true };
}

retry_on! {
    SERVER_ERROR = 0 http "5xx";
    GATEWAY_ERROR = 1 http "gateway-error";
    CONNECT_FAILURE = 2 http "connect-failure";
    RETRIABLE_4XX = 3 http "retriable-4xx";
    REFUSED_STREAM = 4 http "refused-stream";
    RETRIABLE_STATUS_CODES = 5 http "retriable-status-codes";
    RETRIABLE_HEADERS = 6 http "retriable-headers";
    RESET = 7 http "reset";
    RESET_BEFORE_REQUEST = 8 http "reset-before-request";
    ENVOY_RATE_LIMITED = 9 http "envoy-ratelimited";
    HTTP3_POST_CONNECT_FAILURE = 10 http "http3-post-connect-failure";
    GRPC_CANCELLED = 11 grpc "cancelled";
    GRPC_DEADLINE_EXCEEDED = 12 grpc "deadline-exceeded";
    GRPC_RESOURCE_EXHAUSTED = 13 grpc "resource-exhausted";
    GRPC_UNAVAILABLE = 14 grpc "unavailable";
    GRPC_INTERNAL = 15 grpc "internal";
}

impl RetryOn {
    /// No reason.
    pub const NONE: Self = Self(0);

    /// Every reason that is a gRPC status.
    pub const GRPC: Self = Self(0b1_1111 << 11);

    /// Reads the tokens of `x-envoy-retry-on`. The second value is false if one was unknown; unknown ones are passed over.
    pub fn parse_http(text: &[u8]) -> (Self, bool) {
        Self::parse(text, false)
    }

    /// Reads the tokens of `x-envoy-retry-grpc-on`, as `parse_http` does.
    pub fn parse_grpc(text: &[u8]) -> (Self, bool) {
        Self::parse(text, true)
    }

    /// Whether all of `other` is in this set.
    #[inline]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether something of `other` is in this set.
    #[inline]
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is no reason.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn parse(text: &[u8], grpc: bool) -> (Self, bool) {
        let mut set = Self::NONE;
        let mut all_known = true;
        for token in text.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            if token.is_empty() {
                continue;
            }
            match Self::TOKENS
                .iter()
                .find(|(is_grpc, name, _)| *is_grpc == grpc && name.as_bytes() == token)
            {
                Some((_, _, reason)) => set |= *reason,
                None => all_known = false,
            }
        }
        (set, all_known)
    }
}

impl BitOr for RetryOn {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for RetryOn {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl RetryPolicy {
    /// Converts a `RetryPolicy`. Tokens of `retry_on` that are unknown are passed over, as Envoy does.
    pub fn from_proto(proto: pb::RetryPolicy, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::RetryPolicy {
            retry_on,
            num_retries,
            per_try_timeout,
            per_try_idle_timeout,
            retry_priority,
            retry_host_predicate,
            retry_options_predicates,
            host_selection_retry_max_attempts,
            retriable_status_codes,
            retry_back_off,
            rate_limited_retry_back_off,
            retriable_headers,
            retriable_request_headers,
            // Harmless: it changes nothing unless a plugin chooses the cluster, and those are refused.
            refresh_cluster_on_retry: _,
        } = proto;
        let options = path.unsupported_if_set("retry_options_predicates", retry_options_predicates);
        let per_try_timeout = path.duration("per_try_timeout", per_try_timeout);
        let per_try_idle_timeout = path.duration("per_try_idle_timeout", per_try_idle_timeout);
        let back_off = path.optional("retry_back_off", retry_back_off, back_off);
        let rate_limited = path.optional(
            "rate_limited_retry_back_off",
            rate_limited_retry_back_off,
            RateLimitedBackOff::from_proto,
        );
        let hosts = path.each(
            "retry_host_predicate",
            retry_host_predicate,
            HostPredicate::from_proto,
        );
        let priority = retry_priority.map_or(Ok(None), |priority| {
            previous_priorities(priority, &path.field("retry_priority"))
        });
        let headers = path.each(
            "retriable_headers",
            retriable_headers,
            HeaderMatcher::from_proto,
        );
        let request_headers = path.each(
            "retriable_request_headers",
            retriable_request_headers,
            HeaderMatcher::from_proto,
        );
        options?;
        let (base_interval, max_interval) = back_off?.unzip();
        Ok(Self {
            retry_on: RetryOn::parse_http(retry_on.as_bytes()).0
                | RetryOn::parse_grpc(retry_on.as_bytes()).0,
            num_retries: num_retries.map_or(1, |n| n.value),
            per_try_timeout: per_try_timeout?.filter(|timeout| !timeout.is_zero()),
            per_try_idle_timeout: per_try_idle_timeout?.filter(|timeout| !timeout.is_zero()),
            base_interval,
            max_interval: max_interval.flatten(),
            rate_limited_back_off: rate_limited?,
            retriable_status_codes: retriable_status_codes.into(),
            retriable_headers: headers?.into(),
            retriable_request_headers: request_headers?.into(),
            host_predicates: hosts?.into(),
            host_selection_max_attempts: match host_selection_retry_max_attempts {
                0 => 1,
                n => u32::try_from(n).unwrap_or(if n < 0 { 1 } else { u32::MAX }),
            },
            previous_priorities: priority?,
        })
    }
}

/// Less than a millisecond counts as one.
fn back_off(
    proto: RetryBackOff,
    path: &ConfigPath<'_>,
) -> Result<(Duration, Option<Duration>), Rejected> {
    let RetryBackOff {
        base_interval,
        max_interval,
    } = proto;
    let shortest = Duration::from_millis(1);
    let base = path.positive_duration("base_interval", base_interval);
    let most = path.positive_duration("max_interval", max_interval);
    let base = path.required("base_interval", base?)?.max(shortest);
    let most = most?.map(|most| most.max(shortest));
    if most.is_some_and(|most| most < base) {
        return Err(path
            .field("max_interval")
            .reject("must not be shorter than base_interval"));
    }
    Ok((base, most))
}

impl RateLimitedBackOff {
    fn from_proto(proto: RateLimitedRetryBackOff, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let RateLimitedRetryBackOff {
            reset_headers,
            max_interval,
        } = proto;
        let most = path.positive_duration("max_interval", max_interval);
        if reset_headers.is_empty() {
            return Err(path.field("reset_headers").reject("must not be empty"));
        }
        let headers = path.each("reset_headers", reset_headers, |proto, path| {
            let ResetHeaderProto { name, format } = proto;
            let name = path.non_empty("name", name);
            let format = path.enumeration::<ResetHeaderFormat>("format", format);
            Ok(ResetHeader {
                name: HeaderName::new(name?),
                unix_timestamp: format? == ResetHeaderFormat::UnixTimestamp,
            })
        });
        Ok(Self {
            reset_headers: headers?.into(),
            max_interval: most?
                .unwrap_or(Duration::from_secs(300))
                .max(Duration::from_millis(1)),
        })
    }
}

impl HostPredicate {
    fn from_proto(proto: RetryHostPredicate, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let RetryHostPredicate {
            // Harmless: a label.
            name: _,
            config_type,
        } = proto;
        let any = config_type.map(|retry_host_predicate::ConfigType::TypedConfig(any)| any);
        let config = TypedConfig::required("typed_config", any, path)?;
        match config.type_name.as_str() {
            PREVIOUS_HOSTS => Ok(Self::PreviousHosts),
            OMIT_CANARY_HOSTS => Ok(Self::OmitCanaryHosts),
            OMIT_HOST_METADATA => {
                let OmitHostMetadataConfig { metadata_match } =
                    config.decode(&path.field("typed_config"))?;
                let labels = metadata_match.map(metadata_from_proto).unwrap_or_default();
                let labels = labels.get("envoy.lb").cloned().unwrap_or_default();
                Ok(Self::OmitHostMetadata(labels))
            }
            _ => Err(config.unknown(
                &path.field("typed_config"),
                &[PREVIOUS_HOSTS, OMIT_CANARY_HOSTS, OMIT_HOST_METADATA],
            )),
        }
    }

    /// Whether a host is passed over. `tried` says whether it has been tried for this request.
    pub fn avoids(&self, host: &Host, tried: impl Fn(&Host) -> bool) -> bool {
        match self {
            Self::PreviousHosts => tried(host),
            Self::OmitCanaryHosts => host.canary,
            Self::OmitHostMetadata(labels) => {
                let of_host = host.metadata.get("envoy.lb");
                labels.iter().all(|(name, wanted)| {
                    match of_host.and_then(|values| values.get(name)) {
                        Some(serde_json::Value::Array(values)) => values.contains(wanted),
                        value => value == Some(wanted),
                    }
                })
            }
        }
    }
}

fn previous_priorities(
    proto: RetryPriority,
    path: &ConfigPath<'_>,
) -> Result<Option<u32>, Rejected> {
    let RetryPriority { name, config_type } = proto;
    if name.is_empty() && config_type.is_none() {
        return Ok(None);
    }
    let any = config_type.map(|retry_priority::ConfigType::TypedConfig(any)| any);
    let config = TypedConfig::required("typed_config", any, path)?;
    let path = path.field("typed_config");
    if config.type_name != PREVIOUS_PRIORITIES {
        return Err(config.unknown(&path, &[PREVIOUS_PRIORITIES]));
    }
    let PreviousPrioritiesConfig { update_frequency } = config.decode(&path)?;
    let frequency = path.in_range("update_frequency", update_frequency, 1..=i32::MAX)?;
    Ok(Some(frequency.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigReport;

    fn convert(proto: pb::RetryPolicy) -> Result<RetryPolicy, String> {
        let report = ConfigReport::new();
        RetryPolicy::from_proto(proto, &ConfigPath::root(&report, "retry"))
            .map_err(|_| report.take()[0].to_string())
    }

    fn millis(ms: i32) -> outrigger_proto::pb::google::protobuf::Duration {
        outrigger_proto::pb::google::protobuf::Duration {
            seconds: 0,
            nanos: ms * 1_000_000,
        }
    }

    #[test]
    fn http_and_grpc_tokens_are_read_from_one_list_and_unknown_ones_passed_over() {
        let policy = convert(pb::RetryPolicy {
            retry_on: "connect-failure, refused-stream,unavailable,cancelled,503".into(),
            ..Default::default()
        })
        .unwrap();
        assert_eq!(
            policy.retry_on,
            RetryOn::CONNECT_FAILURE
                | RetryOn::REFUSED_STREAM
                | RetryOn::GRPC_UNAVAILABLE
                | RetryOn::GRPC_CANCELLED
        );
        assert_eq!(
            RetryOn::parse_http(b"5xx,what"),
            (RetryOn::SERVER_ERROR, false)
        );
        assert_eq!(RetryOn::parse_grpc(b"5xx"), (RetryOn::NONE, false));
        assert!(RetryOn::GRPC.contains(RetryOn::GRPC_INTERNAL | RetryOn::GRPC_CANCELLED));
        assert!(!RetryOn::GRPC.intersects(RetryOn::HTTP3_POST_CONNECT_FAILURE));
    }

    #[test]
    fn a_host_with_all_the_labels_is_omitted() {
        let labels = serde_json::json!({"stage": "old", "zone": 1});
        let predicate = HostPredicate::OmitHostMetadata(labels.as_object().unwrap().clone());
        let avoids = |values: serde_json::Value| {
            let address = crate::net::Address::Ip(([127, 0, 0, 1], 1).into());
            let mut host = Host::new(address, 0);
            let values = values.as_object().unwrap().clone();
            host.metadata.merge("envoy.lb", values);
            predicate.avoids(&host, |_| false)
        };
        assert!(avoids(
            serde_json::json!({"stage": "old", "zone": 1, "x": 2})
        ));
        assert!(avoids(
            serde_json::json!({"stage": ["new", "old"], "zone": 1})
        ));
        assert!(!avoids(serde_json::json!({"stage": "old"})));
        assert!(!avoids(serde_json::json!({"stage": "new", "zone": 1})));
    }

    #[test]
    fn an_empty_policy_has_the_defaults_of_envoy() {
        let policy = convert(pb::RetryPolicy::default()).unwrap();
        assert_eq!(policy.num_retries, 1);
        assert_eq!(policy.base_interval, None);
        assert_eq!(policy.host_selection_max_attempts, 1);
        assert!(policy.retry_on.is_empty());
    }

    #[test]
    fn the_ceiling_of_the_back_off_must_not_be_below_its_base() {
        let policy = |base, max| {
            convert(pb::RetryPolicy {
                retry_back_off: Some(RetryBackOff {
                    base_interval: Some(millis(base)),
                    max_interval: Some(millis(max)),
                }),
                ..Default::default()
            })
        };
        let error = policy(100, 50).unwrap_err();
        assert!(
            error.starts_with("retry / retry_back_off / max_interval"),
            "{error}"
        );
        let legal = policy(100, 200).unwrap();
        assert_eq!(legal.base_interval, Some(Duration::from_millis(100)));
        assert_eq!(legal.max_interval, Some(Duration::from_millis(200)));
    }
}
