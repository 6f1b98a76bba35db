//! How a cluster speaks HTTP: `HttpProtocolOptions` of the upstream extension, or the older fields of the cluster itself.

use std::time::Duration;

/// All HTTP options of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct UpstreamHttpOptions {
    /// Which protocol a connection speaks.
    pub protocol: ProtocolChoice,
    /// Options of every protocol.
    pub common: CommonHttpOptions,
    /// Options of HTTP/1.
    pub http1: Http1Options,
    /// Options of HTTP/2.
    pub http2: Http2Options,
}

/// How the protocol of an upstream connection is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ProtocolChoice {
    /// HTTP/1.1, always.
    #[default]
    Http1,
    /// HTTP/2, always.
    Http2,
    /// What the client spoke.
    UseDownstream,
}

/// `envoy.config.core.v3.HttpProtocolOptions`, as far as it concerns upstream connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CommonHttpOptions {
    /// After how long without a stream a connection is closed. None: never. Default 1 h.
    pub idle_timeout: Option<Duration>,
    /// After how long a connection takes no more streams and is closed when the last one ends. Default: never.
    pub max_connection_duration: Option<Duration>,
    /// How long a stream may last. Default: any time.
    pub max_stream_duration: Option<Duration>,
    /// How many fields a response may have. Default 100.
    pub max_headers_count: u32,
    /// How large a response head may be, in KiB. None: the codec's default (80 for HTTP/1, 60 for HTTP/2 in Envoy's manner).
    pub max_response_headers_kb: Option<u32>,
    /// What to do with response fields that have an underscore in their name.
    pub headers_with_underscores_action: HeadersWithUnderscores,
    /// After how many requests a connection takes no more. None: never.
    pub max_requests_per_connection: Option<u32>,
}

/// `HeadersWithUnderscoresAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HeadersWithUnderscores {
    /// They pass.
    #[default]
    Allow,
    /// The message is refused.
    RejectRequest,
    /// They are taken away.
    DropHeader,
}

/// `Http1ProtocolOptions`, as far as it concerns upstream connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Http1Options {
    /// How field names are written.
    pub header_key_format: HeaderKeyFormat,
    /// Whether trailers are sent and passed on.
    pub enable_trailers: bool,
    /// Whether `Content-Length` beside `Transfer-Encoding: chunked` is taken away instead of refused.
    pub allow_chunked_length: bool,
    /// Whether a malformed response ends only its stream, where that is possible.
    pub override_stream_error_on_invalid_http_message: bool,
    /// Whether the request line has the whole URL, as for a forward proxy.
    pub send_fully_qualified_url: bool,
    /// Whether methods that no RFC knows are sent.
    pub allow_custom_methods: bool,
}

/// How HTTP/1 field names are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HeaderKeyFormat {
    /// In lower case.
    #[default]
    Lower,
    /// `Proper-Case`.
    ProperCase,
}

/// `Http2ProtocolOptions`, as far as it concerns upstream connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Http2Options {
    /// The size of the peer's dynamic table that we allow, in bytes. Default 4096.
    pub hpack_table_size: u32,
    /// How many streams of ours may run on a connection; the peer may allow fewer. Default 1024.
    pub max_concurrent_streams: u32,
    /// The receive window of a stream, in bytes. Default 16 MiB.
    pub initial_stream_window_size: u32,
    /// The receive window of a connection, in bytes. Default 24 MiB.
    pub initial_connection_window_size: u32,
    /// Whether extended CONNECT is offered.
    pub allow_connect: bool,
    /// PING frames that find dead connections; none: no such frames.
    pub keepalive: Option<Http2Keepalive>,
    /// Whether a malformed message ends only its stream.
    pub override_stream_error_on_invalid_http_message: bool,
}

/// `KeepaliveSettings`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Http2Keepalive {
    /// How often a PING is sent; none: only after `connection_idle_interval`.
    pub interval: Option<Duration>,
    /// How long its answer may take before the connection is closed.
    pub timeout: Duration,
    /// By how much the interval varies, in percent of it. Default 15.
    pub interval_jitter_percent: u32,
    /// After how long without a frame a PING goes before the next stream.
    pub connection_idle_interval: Option<Duration>,
}

impl Default for CommonHttpOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_stream_duration: None,
            max_headers_count: 100,
            max_response_headers_kb: None,
            headers_with_underscores_action: HeadersWithUnderscores::Allow,
            max_requests_per_connection: None,
        }
    }
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            hpack_table_size: 4096,
            max_concurrent_streams: 1024,
            initial_stream_window_size: 16 * 1024 * 1024,
            initial_connection_window_size: 24 * 1024 * 1024,
            allow_connect: false,
            keepalive: None,
            override_stream_error_on_invalid_http_message: false,
        }
    }
}
