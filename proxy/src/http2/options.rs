//! `Http2ProtocolOptions`, and what else an HTTP/2 codec is set up with.

use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::google::protobuf::UInt32Value;

use super::limits::FloodLimits;
use crate::config::{ConfigPath, Rejected};

use crate::http::HeadersWithUnderscoresAction;

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
    /// Takes and sends METADATA frames. Default false: they are skipped.
    pub allow_metadata: bool,
    /// The largest metadata of several frames, in bytes on the wire; more ends the connection. Default 1 MiB.
    pub max_metadata_size: usize,
    /// Keeps the connection after a message error. None: what the connection manager says.
    pub override_stream_error_on_invalid_http_message: Option<bool>,
    /// Pings that keep the connection alive. None: no pings.
    pub connection_keepalive: Option<KeepaliveSettings>,
    /// What the peer may send for nothing.
    pub limits: FloodLimits,
    /// Streams that the peer may reset at once, above which they may come at `stream_reset_rate`. Default 1,000.
    pub stream_reset_burst: u64,
    /// Streams that the peer may reset in a second, on and on. Default 33.
    pub stream_reset_rate: u64,
    /// The largest name or value of a field on the wire, 64..=256 KiB; a larger one ends the connection. None: 64 KiB, or any
    /// size with `use_oghttp2_codec`.
    pub max_header_field_size_kb: Option<u32>,
    /// Refuses octets above ASCII in values. Envoy does that with `use_oghttp2_codec` only. Default false.
    pub disallow_obs_text: bool,
    /// The field is there for its side effects on the two fields before. Default false.
    pub use_oghttp2_codec: bool,
    /// Settings that the RFC does not know, to be announced: identifier and value.
    pub custom_settings_parameters: Vec<(u16, u32)>,
    /// Whether strings are sent in the Huffman code where that is shorter. Default true.
    pub enable_huffman_encoding: bool,
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
    /// What the connection manager says where the options say nothing: a message that breaks the rules ends its stream only.
    pub stream_error_on_invalid_http_message: bool,
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
    #[allow(
        deprecated,
        reason = "`stream_error_on_invalid_http_messaging` is decided like every other field"
    )]
    #[allow(
        clippy::too_many_lines,
        reason = "one line or two for each of the fields"
    )]
    pub fn from_proto(
        proto: Option<core::Http2ProtocolOptions>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let default = Self::default();
        let core::Http2ProtocolOptions {
            hpack_table_size,
            max_concurrent_streams,
            initial_stream_window_size,
            initial_connection_window_size,
            allow_connect,
            allow_metadata,
            max_outbound_frames,
            max_outbound_control_frames,
            max_consecutive_inbound_frames_with_empty_payload,
            max_inbound_priority_frames_per_stream,
            max_inbound_window_update_frames_per_data_frame_sent,
            stream_reset_burst,
            stream_reset_rate,
            stream_error_on_invalid_http_messaging,
            override_stream_error_on_invalid_http_message,
            custom_settings_parameters,
            connection_keepalive,
            use_oghttp2_codec,
            max_metadata_size,
            enable_huffman_encoding,
            max_header_field_size_kb,
            disallow_obs_text,
        } = proto.unwrap_or_default();
        let window = |name: &str, value: Option<UInt32Value>, default: u32| match value {
            None => Ok(default),
            Some(value) => path.in_range(name, value.value, 65_535..=MAX_31_BITS),
        };
        let streams = match max_concurrent_streams {
            None => Ok(default.max_concurrent_streams),
            Some(value) => path.in_range("max_concurrent_streams", value.value, 1..=MAX_31_BITS),
        };
        let stream_window = window(
            "initial_stream_window_size",
            initial_stream_window_size,
            default.initial_stream_window_size,
        );
        let connection_window = window(
            "initial_connection_window_size",
            initial_connection_window_size,
            default.initial_connection_window_size,
        );
        let field_size = max_header_field_size_kb
            .map(|kb| path.in_range("max_header_field_size_kb", kb.value, 64..=256))
            .transpose();
        let use_oghttp2_codec = use_oghttp2_codec.is_some_and(|v| v.value);
        let custom = custom_settings(custom_settings_parameters, path);
        let at_least_one = |name: &str, value: Option<UInt32Value>, default: u32| match value {
            None => Ok(default),
            Some(value) => path.in_range(name, value.value, 1..=u32::MAX),
        };
        let outbound = at_least_one(
            "max_outbound_frames",
            max_outbound_frames,
            default.limits.max_outbound_frames,
        );
        let outbound_control = at_least_one(
            "max_outbound_control_frames",
            max_outbound_control_frames,
            default.limits.max_outbound_control_frames,
        );
        let window_updates = at_least_one(
            "max_inbound_window_update_frames_per_data_frame_sent",
            max_inbound_window_update_frames_per_data_frame_sent,
            default
                .limits
                .max_inbound_window_update_frames_per_data_frame_sent,
        );
        let number = |value: Option<UInt32Value>, default: u32| value.map_or(default, |v| v.value);
        let keepalive = path.optional(
            "connection_keepalive",
            connection_keepalive,
            KeepaliveSettings::from_proto,
        );
        let limits = FloodLimits {
            max_outbound_frames: outbound?,
            max_outbound_control_frames: outbound_control?,
            max_consecutive_inbound_frames_with_empty_payload: number(
                max_consecutive_inbound_frames_with_empty_payload,
                default
                    .limits
                    .max_consecutive_inbound_frames_with_empty_payload,
            ),
            max_inbound_priority_frames_per_stream: number(
                max_inbound_priority_frames_per_stream,
                default.limits.max_inbound_priority_frames_per_stream,
            ),
            max_inbound_window_update_frames_per_data_frame_sent: window_updates?,
        };
        Ok(Self {
            limits,
            stream_reset_burst: stream_reset_burst.map_or(1000, |v| v.value),
            stream_reset_rate: stream_reset_rate.map_or(33, |v| v.value),
            max_header_field_size_kb: field_size?,
            disallow_obs_text: use_oghttp2_codec && disallow_obs_text.is_some_and(|v| v.value),
            use_oghttp2_codec,
            custom_settings_parameters: custom?,
            enable_huffman_encoding: enable_huffman_encoding.is_none_or(|v| v.value),
            hpack_table_size: hpack_table_size.map_or(default.hpack_table_size, |v| v.value),
            max_concurrent_streams: streams?,
            initial_stream_window_size: stream_window?,
            initial_connection_window_size: connection_window?,
            allow_connect,
            allow_metadata,
            max_metadata_size: max_metadata_size.map_or(default.max_metadata_size, |v| {
                usize::try_from(v.value).unwrap_or(usize::MAX)
            }),
            override_stream_error_on_invalid_http_message:
                override_stream_error_on_invalid_http_message
                    .map(|value| value.value)
                    .or(stream_error_on_invalid_http_messaging.then_some(true)),
            connection_keepalive: keepalive?,
        })
    }
}

impl Http2ProtocolOptions {
    /// Octets that a name or a value may have on the wire.
    pub(super) fn max_string(&self) -> usize {
        if self.use_oghttp2_codec {
            return usize::MAX;
        }
        let kb = self.max_header_field_size_kb.unwrap_or(64);
        usize::try_from(kb).map_or(usize::MAX, |kb| kb.saturating_mul(1024))
    }

    /// Refuses a field that may be larger than the head that it is in. `name`: what limits that.
    pub fn check_field_size(
        &self,
        head_kb: u32,
        name: &str,
        path: &ConfigPath<'_>,
    ) -> Result<(), Rejected> {
        if self.max_header_field_size_kb.is_none_or(|kb| kb <= head_kb) {
            return Ok(());
        }
        let path = path.field("max_header_field_size_kb");
        Err(path.reject(format!("must not exceed {name}, which is {head_kb}")))
    }
}

impl KeepaliveSettings {
    fn from_proto(proto: core::KeepaliveSettings, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let core::KeepaliveSettings {
            interval,
            timeout,
            interval_jitter,
            connection_idle_interval,
        } = proto;
        let interval = path.duration("interval", interval);
        let timeout = path
            .required("timeout", timeout)
            .and_then(|timeout| path.duration("timeout", Some(timeout)));
        let jitter = path.percent("interval_jitter", interval_jitter);
        let idle = path.duration("connection_idle_interval", connection_idle_interval);
        Ok(Self {
            interval: interval?.filter(|interval| !interval.is_zero()),
            timeout: timeout?.unwrap_or_default(),
            interval_jitter: jitter?.unwrap_or(0.15),
            connection_idle_interval: idle?.filter(|interval| !interval.is_zero()),
        })
    }
}

/// Settings that have no field of their own. One that has is set by that.
fn custom_settings(
    parameters: Vec<core::http2_protocol_options::SettingsParameter>,
    path: &ConfigPath<'_>,
) -> Result<Vec<(u16, u32)>, Rejected> {
    let mut settings = Vec::new();
    let mut failed = None;
    for (index, parameter) in parameters.into_iter().enumerate() {
        let path = path.index("custom_settings_parameters", index);
        let core::http2_protocol_options::SettingsParameter { identifier, value } = parameter;
        let identifier = path
            .required("identifier", identifier)
            .and_then(|id| path.in_range("identifier", id.value, 7..=65_535))
            .and_then(|id| match u16::try_from(id) {
                Ok(id) if id != 8 => Ok(id),
                _ => Err(path.field("identifier").reject("8 is set by allow_connect")),
            });
        let value = path.required("value", value);
        match (identifier, value) {
            (Ok(identifier), Ok(value)) => settings.push((identifier, value.value)),
            (Err(rejected), _) | (_, Err(rejected)) => failed = Some(rejected),
        }
    }
    failed.map_or(Ok(settings), Err)
}

const MAX_31_BITS: u32 = i32::MAX as u32;

impl Default for Http2ProtocolOptions {
    fn default() -> Self {
        Self {
            hpack_table_size: 4096,
            max_concurrent_streams: 1024,
            initial_stream_window_size: 16 * 1024 * 1024,
            initial_connection_window_size: 24 * 1024 * 1024,
            allow_connect: false,
            allow_metadata: false,
            max_metadata_size: 1024 * 1024,
            override_stream_error_on_invalid_http_message: None,
            connection_keepalive: None,
            limits: FloodLimits::default(),
            stream_reset_burst: 1000,
            stream_reset_rate: 33,
            max_header_field_size_kb: None,
            disallow_obs_text: false,
            use_oghttp2_codec: false,
            custom_settings_parameters: Vec::new(),
            enable_huffman_encoding: true,
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
            stream_error_on_invalid_http_message: false,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigReport;
    use outrigger_proto::pb::google::protobuf as wkt;

    fn convert(proto: core::Http2ProtocolOptions) -> Result<Http2ProtocolOptions, Vec<String>> {
        let report = ConfigReport::new();
        let converted =
            Http2ProtocolOptions::from_proto(Some(proto), &ConfigPath::root(&report, "options"));
        converted.map_err(|_| report.take().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn nothing_set_means_envoys_defaults() {
        let converted = convert(core::Http2ProtocolOptions::default()).unwrap();
        assert_eq!(converted, Http2ProtocolOptions::default());
    }

    #[test]
    fn every_error_of_the_message_is_found() {
        let errors = convert(core::Http2ProtocolOptions {
            initial_stream_window_size: Some(UInt32Value { value: 1 }),
            max_concurrent_streams: Some(UInt32Value { value: 0 }),
            connection_keepalive: Some(core::KeepaliveSettings::default()),
            ..core::Http2ProtocolOptions::default()
        })
        .unwrap_err();
        let paths: Vec<_> = errors
            .iter()
            .map(|e| e.split(": ").next().unwrap())
            .collect();
        assert_eq!(
            paths,
            [
                "options / max_concurrent_streams",
                "options / initial_stream_window_size",
                "options / connection_keepalive / timeout",
            ]
        );
    }

    #[test]
    fn keepalive_has_a_jitter_by_default_and_zero_intervals_mean_never() {
        let seconds = |seconds| Some(wkt::Duration { seconds, nanos: 0 });
        let converted = convert(core::Http2ProtocolOptions {
            connection_keepalive: Some(core::KeepaliveSettings {
                interval: seconds(0),
                timeout: seconds(5),
                interval_jitter: None,
                connection_idle_interval: seconds(7),
            }),
            ..core::Http2ProtocolOptions::default()
        });
        assert_eq!(
            converted.unwrap().connection_keepalive,
            Some(KeepaliveSettings {
                interval: None,
                timeout: Duration::from_secs(5),
                interval_jitter: 0.15,
                connection_idle_interval: Some(Duration::from_secs(7)),
            })
        );
    }
}
