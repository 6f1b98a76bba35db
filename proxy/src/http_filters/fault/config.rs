//! What a fault configuration says.

use std::collections::HashSet;

use bytes::Bytes;
use outrigger_proto::pb::envoy::extensions::filters::common::fault::v3 as common;
use outrigger_proto::pb::envoy::extensions::filters::http::fault::v3 as pb;
use outrigger_proto::pb::envoy::r#type::v3::FractionalPercent;

use super::UNSET;
use crate::config::{ConfigPath, Fraction, Rejected, json_object};
use crate::http::RequestHead;
use crate::matchers::HeaderMatcher;
use crate::runtime::{RuntimeFraction, RuntimeInteger};
use crate::server::FactoryContext;
use crate::stream_info::StreamInfo;
use crate::upstream::ClusterId;

const DELAY: &str = "x-envoy-fault-delay-request";
const DELAY_PERCENTAGE: &str = "x-envoy-fault-delay-request-percentage";
const ABORT: &str = "x-envoy-fault-abort-request";
const ABORT_GRPC: &str = "x-envoy-fault-abort-grpc-request";
const ABORT_PERCENTAGE: &str = "x-envoy-fault-abort-request-percentage";
const THROUGHPUT: &str = "x-envoy-fault-throughput-response";
const THROUGHPUT_PERCENTAGE: &str = "x-envoy-fault-throughput-response-percentage";

/// An `HTTPFault`.
#[derive(Debug)]
pub(super) struct FaultSettings {
    pub(super) delay: Option<Delay>,
    pub(super) abort: Option<Abort>,
    pub(super) response_rate_limit: Option<RateLimit>,
    /// `fault filter abort` unless configured otherwise.
    pub(super) abort_body: Bytes,
    pub(super) upstream_cluster: Option<ClusterId>,
    pub(super) headers: Box<[HeaderMatcher]>,
    pub(super) downstream_nodes: HashSet<Box<[u8]>>,
    pub(super) max_active_faults: RuntimeInteger,
    pub(super) delay_percent: RuntimeFraction,
    pub(super) abort_percent: RuntimeFraction,
    pub(super) response_rate_limit_percent: RuntimeFraction,
    /// In milliseconds.
    pub(super) delay_duration: RuntimeInteger,
    pub(super) abort_http_status: RuntimeInteger,
    pub(super) abort_grpc_status: RuntimeInteger,
    pub(super) disable_downstream_cluster_stats: bool,
    filter_metadata: serde_json::Map<String, serde_json::Value>,
}

/// A share of the requests, which requests may make smaller where they bring the fault along.
#[derive(Debug)]
pub(super) struct Share {
    configured: Fraction,
    header: Option<&'static str>,
}

#[derive(Debug)]
pub(super) struct Delay {
    pub(super) share: Share,
    /// None: what the request says.
    fixed_millis: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Abort {
    pub(super) share: Share,
    /// None: what the request says.
    fixed: Option<AbortStatus>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AbortStatus {
    Http(u16),
    Grpc(u32),
}

#[derive(Debug)]
pub(super) struct RateLimit {
    pub(super) share: Share,
    /// None: what the request says.
    fixed_kbps: Option<u64>,
}

impl FaultSettings {
    /// Whether no request is slowed down or aborted, also none that asks for it.
    pub(super) fn is_empty(&self) -> bool {
        self.delay.is_none() && self.abort.is_none() && self.response_rate_limit.is_none()
    }

    pub(super) fn from_proto(
        proto: pb::HttpFault,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::HttpFault {
            delay,
            abort,
            upstream_cluster,
            headers,
            downstream_nodes,
            max_active_faults,
            response_rate_limit,
            delay_percent_runtime,
            abort_percent_runtime,
            delay_duration_runtime,
            abort_http_status_runtime,
            max_active_faults_runtime,
            response_rate_limit_percent_runtime,
            abort_grpc_status_runtime,
            disable_downstream_cluster_stats,
            filter_metadata,
        } = proto;
        let runtime = &cx.server.runtime;
        let key = |key: String, default: &str| {
            if key.is_empty() {
                default.to_owned()
            } else {
                key
            }
        };
        let fraction =
            |name: String, default: &str| runtime.fraction(&key(name, default), Fraction::NEVER);
        let integer =
            |name: String, default: &str, value: u64| runtime.integer(&key(name, default), value);
        let delay = path.optional("delay", delay, Delay::from_proto);
        let body = abort.as_ref().map(|abort| abort.response_body.clone());
        let abort = path.optional("abort", abort, Abort::from_proto);
        let limit = path.optional(
            "response_rate_limit",
            response_rate_limit,
            RateLimit::from_proto,
        );
        let headers = path.each("headers", headers, HeaderMatcher::from_proto);
        Ok(Self {
            delay: delay?,
            abort: abort?,
            response_rate_limit: limit?,
            abort_body: match body {
                Some(body) if !body.is_empty() => body.into(),
                _ => Bytes::from_static(b"fault filter abort"),
            },
            upstream_cluster: (!upstream_cluster.is_empty())
                .then(|| cx.server.cluster_names.id(&upstream_cluster)),
            headers: headers?.into(),
            downstream_nodes: downstream_nodes
                .into_iter()
                .map(|node| node.into_bytes().into())
                .collect(),
            max_active_faults: integer(
                max_active_faults_runtime,
                "fault.http.max_active_faults",
                max_active_faults.map_or(u64::MAX, |most| most.value.into()),
            ),
            delay_percent: fraction(
                delay_percent_runtime,
                "fault.http.delay.fixed_delay_percent",
            ),
            abort_percent: fraction(abort_percent_runtime, "fault.http.abort.abort_percent"),
            response_rate_limit_percent: fraction(
                response_rate_limit_percent_runtime,
                "fault.http.rate_limit.response_percent",
            ),
            delay_duration: integer(
                delay_duration_runtime,
                "fault.http.delay.fixed_duration_ms",
                UNSET,
            ),
            abort_http_status: integer(
                abort_http_status_runtime,
                "fault.http.abort.http_status",
                UNSET,
            ),
            abort_grpc_status: integer(
                abort_grpc_status_runtime,
                "fault.http.abort.grpc_status",
                UNSET,
            ),
            disable_downstream_cluster_stats,
            filter_metadata: filter_metadata.map(json_object).unwrap_or_default(),
        })
    }

    /// Leaves the configured metadata on the stream.
    pub(super) fn mark(&self, info: &mut StreamInfo) {
        if !self.filter_metadata.is_empty() {
            info.dynamic_metadata
                .merge("envoy.filters.http.fault", self.filter_metadata.clone());
        }
    }
}

impl Share {
    fn new(
        proto: Option<FractionalPercent>,
        header: Option<&'static str>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let configured = path.optional("percentage", proto, Fraction::from_proto)?;
        Ok(Self {
            configured: configured.unwrap_or(Fraction::NEVER),
            header,
        })
    }

    /// The share that this request is drawn against.
    pub(super) fn of(&self, head: &RequestHead) -> Fraction {
        let numerator = self.header.and_then(|name| number(head, name));
        Fraction {
            numerator: numerator.map_or(self.configured.numerator, |asked| {
                u32::try_from(asked)
                    .unwrap_or(u32::MAX)
                    .min(self.configured.numerator)
            }),
            ..self.configured
        }
    }
}

impl Delay {
    fn from_proto(proto: common::FaultDelay, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        use common::fault_delay::{FaultDelaySecifier, HeaderDelay};
        let common::FaultDelay {
            percentage,
            fault_delay_secifier,
        } = proto;
        let (fixed_millis, header) =
            match path.required("fault_delay_secifier", fault_delay_secifier)? {
                FaultDelaySecifier::FixedDelay(delay) => {
                    let delay = path
                        .positive_duration("fixed_delay", Some(delay))?
                        .unwrap_or_default();
                    let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                    (Some(millis), None)
                }
                FaultDelaySecifier::HeaderDelay(HeaderDelay {}) => (None, Some(DELAY_PERCENTAGE)),
            };
        Ok(Self {
            share: Share::new(percentage, header, path)?,
            fixed_millis,
        })
    }

    /// How long; none if the request was to say it and did not.
    pub(super) fn millis(&self, head: &RequestHead) -> Option<u64> {
        // A client cannot hold a stream for longer than a day.
        const MOST: u64 = 24 * 3600 * 1000;
        self.fixed_millis
            .or_else(|| number(head, DELAY).map(|millis| millis.min(MOST)))
    }
}

impl Abort {
    fn from_proto(proto: pb::FaultAbort, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        use pb::fault_abort::{ErrorType, HeaderAbort};
        let pb::FaultAbort {
            percentage,
            response_body: _,
            error_type,
        } = proto;
        let (fixed, header) = match path.required("error_type", error_type)? {
            ErrorType::HttpStatus(status) => {
                let status = path.in_range("http_status", status, 200..=599)?;
                let status = u16::try_from(status).unwrap_or(503);
                (Some(AbortStatus::Http(status)), None)
            }
            ErrorType::GrpcStatus(status) => (Some(AbortStatus::Grpc(status)), None),
            ErrorType::HeaderAbort(HeaderAbort {}) => (None, Some(ABORT_PERCENTAGE)),
        };
        Ok(Self {
            share: Share::new(percentage, header, path)?,
            fixed,
        })
    }

    /// With which status; none if the request was to say it and did not.
    pub(super) fn status(&self, head: &RequestHead) -> Option<AbortStatus> {
        self.fixed.or_else(|| {
            let http = number(head, ABORT)
                .and_then(|status| u16::try_from(status).ok())
                .filter(|status| (200..600).contains(status));
            let grpc = || number(head, ABORT_GRPC).and_then(|status| u32::try_from(status).ok());
            http.map(AbortStatus::Http)
                .or_else(|| grpc().map(AbortStatus::Grpc))
        })
    }
}

impl RateLimit {
    fn from_proto(proto: common::FaultRateLimit, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        use common::fault_rate_limit::{FixedLimit, HeaderLimit, LimitType};
        let common::FaultRateLimit {
            percentage,
            limit_type,
        } = proto;
        let (fixed_kbps, header) = match path.required("limit_type", limit_type)? {
            LimitType::FixedLimit(FixedLimit { limit_kbps }) => {
                let path = path.field("fixed_limit");
                let kbps = path.in_range("limit_kbps", limit_kbps, 1..=u64::MAX)?;
                (Some(kbps), None)
            }
            LimitType::HeaderLimit(HeaderLimit {}) => (None, Some(THROUGHPUT_PERCENTAGE)),
        };
        Ok(Self {
            share: Share::new(percentage, header, path)?,
            fixed_kbps,
        })
    }

    /// In KiB per second; none if the request was to say it and did not.
    pub(super) fn kbps(&self, head: &RequestHead) -> Option<u64> {
        self.fixed_kbps
            .or_else(|| number(head, THROUGHPUT).filter(|kbps| *kbps > 0))
    }
}

/// The number that the first field called `name` holds.
fn number(head: &RequestHead, name: &str) -> Option<u64> {
    head.fields.get_str(name)?.trim().parse().ok()
}
