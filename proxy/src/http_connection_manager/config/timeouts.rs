//! When connections and streams are given up, and what else `common_http_protocol_options` limits.

use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as core;

use crate::config::{ConfigPath, Rejected};
use crate::http::HeadersWithUnderscoresAction;

/// The deadlines of connections and streams. None: never.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// `common_http_protocol_options.idle_timeout`: a connection without streams. Default 1 h.
    pub idle: Option<Duration>,
    /// `common_http_protocol_options.max_connection_duration`.
    pub max_connection_duration: Option<Duration>,
    /// `common_http_protocol_options.max_connection_duration_jitter`: by which share of itself the duration may be longer.
    pub max_connection_duration_jitter: f64,
    /// `common_http_protocol_options.max_stream_duration`.
    pub max_stream_duration: Option<Duration>,
    /// `stream_idle_timeout`: a stream without traffic in either direction. Default 5 min.
    pub stream_idle: Option<Duration>,
    /// `stream_flush_timeout`: a response that the client does not take. Default: `stream_idle`.
    pub stream_flush: Option<Duration>,
    /// `request_timeout`: from the first byte of a request to its last.
    pub request: Option<Duration>,
    /// `request_headers_timeout`: from the first byte of a request to the end of its head.
    pub request_headers: Option<Duration>,
    /// `drain_timeout`: between the two GOAWAY frames of a drained HTTP/2 connection. Default 5 s.
    pub drain: Duration,
    /// `delayed_close_timeout`: for the client to close after the last response. Default 1 s; none: close at once.
    pub delayed_close: Option<Duration>,
}

/// `common_http_protocol_options`, downstream.
pub(super) struct CommonOptions {
    pub(super) idle: Option<Duration>,
    pub(super) max_connection_duration: Option<Duration>,
    pub(super) max_connection_duration_jitter: f64,
    pub(super) max_stream_duration: Option<Duration>,
    pub(super) max_headers_count: u32,
    pub(super) max_requests_per_connection: Option<u32>,
    pub(super) underscores: HeadersWithUnderscoresAction,
}

impl CommonOptions {
    pub(super) fn from_proto(
        proto: Option<core::HttpProtocolOptions>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let core::HttpProtocolOptions {
            idle_timeout,
            max_connection_duration,
            max_connection_duration_jitter,
            max_headers_count,
            // Of responses: only read on clusters.
            max_response_headers_kb: _,
            max_stream_duration,
            headers_with_underscores_action,
            max_requests_per_connection,
        } = proto.unwrap_or_default();
        let idle = path.duration("idle_timeout", idle_timeout);
        let max_connection_duration =
            path.duration("max_connection_duration", max_connection_duration);
        let max_stream_duration = path.duration("max_stream_duration", max_stream_duration);
        let jitter = path.percent(
            "max_connection_duration_jitter",
            max_connection_duration_jitter,
        );
        let headers = path.in_range(
            "max_headers_count",
            max_headers_count.map_or(100, |v| v.value),
            1..=u32::MAX,
        );
        let underscores = HeadersWithUnderscoresAction::from_proto(
            headers_with_underscores_action,
            &path.field("headers_with_underscores_action"),
        );
        Ok(Self {
            max_connection_duration_jitter: jitter?.unwrap_or(0.0),
            idle: or_default(idle?, Duration::from_secs(3600)),
            max_connection_duration: max_connection_duration?.filter(|d| !d.is_zero()),
            max_stream_duration: max_stream_duration?.filter(|d| !d.is_zero()),
            max_headers_count: headers?,
            max_requests_per_connection: max_requests_per_connection
                .map(|v| v.value)
                .filter(|n| *n > 0),
            underscores: underscores?,
        })
    }
}

/// Not set: the default. Zero: never.
pub(super) fn or_default(value: Option<Duration>, default: Duration) -> Option<Duration> {
    Some(value.unwrap_or(default)).filter(|d| !d.is_zero())
}
