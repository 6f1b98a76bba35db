//! `Http1ProtocolOptions`, and what else an HTTP/1 codec is set up with.

use std::sync::Arc;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::config::core::v3::http1_protocol_options::header_key_format::{
    HeaderFormat, ProperCaseWords,
};

use outrigger_proto::pb::envoy::extensions::http::header_formatters::preserve_case::v3::{
    PreserveCaseFormatterConfig, preserve_case_formatter_config,
};

use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{HeadersWithUnderscoresAction, OriginalNames};
use crate::matchers::StringMatcher;

/// `envoy.config.core.v3.Http1ProtocolOptions`, for either side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http1ProtocolOptions {
    /// Server: takes `GET http://host/path` apart into authority and path. Default true; else the URL stays the path.
    pub allow_absolute_url: bool,
    /// Server: answers HTTP/1.0 with HTTP/1.0 instead of 426. Default false.
    pub accept_http_10: bool,
    /// Server: the authority of an HTTP/1.0 request without `Host`. None: such a request is refused.
    pub default_host_for_http_10: Option<Box<str>>,
    /// How names are written. Default: lower case.
    pub header_key_format: HeaderKeyFormat,
    /// Passes trailers on. Default false: they are read and dropped, and not written.
    pub enable_trailers: bool,
    /// Accepts `content-length` beside `transfer-encoding: chunked`, and drops it. Default false.
    pub allow_chunked_length: bool,
    /// Server: keeps the connection after a message error instead of closing it. None: what the connection manager says.
    pub override_stream_error_on_invalid_http_message: Option<bool>,
    /// Client: writes `GET http://host/path` instead of `GET /path`. Default false.
    pub send_fully_qualified_url: bool,
    /// Server: accepts any token as method instead of Envoy's list. Default false.
    pub allow_custom_methods: bool,
    /// Server: upgrades that are taken out of a request, which then is an ordinary one. Default none.
    pub ignore_http_11_upgrade: IgnoredUpgrades,
}

/// `ignore_http_11_upgrade`: matchers of protocols in `upgrade`.
#[derive(Debug, Clone, Default)]
pub struct IgnoredUpgrades(Arc<[StringMatcher]>);

impl IgnoredUpgrades {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this protocol is one of them.
    pub fn contains(&self, protocol: &[u8]) -> bool {
        self.0.iter().any(|matcher| matcher.matches(protocol))
    }
}

impl PartialEq for IgnoredUpgrades {
    fn eq(&self, other: &Self) -> bool {
        self.is_empty() && other.is_empty() || Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for IgnoredUpgrades {}

/// How header names are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderKeyFormat {
    /// `content-type`.
    #[default]
    LowerCase,
    /// `Content-Type`.
    ProperCaseWords,
    /// As the sender of the message wrote them: those read on this side of the proxy are written so on the other.
    PreserveCase {
        /// Writes the upstream's reason phrase in place of our own.
        forward_reason_phrase: bool,
        /// Names that the sender did not send are written `Like-This`. Default false: in lower case.
        others_in_proper_case: bool,
    },
}

/// What a downstream HTTP/1 connection is set up with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http1Settings {
    /// `http_protocol_options`.
    pub options: Http1ProtocolOptions,
    /// The largest request head, in KiB. Default 60; above it 431.
    pub max_request_headers_kb: u32,
    /// The most fields in a head or in trailers. Default 100; above it 431.
    pub max_headers_count: u32,
    /// What happens to a name with an underscore.
    pub headers_with_underscores_action: HeadersWithUnderscoresAction,
    /// Keeps the connection after a message error. Default false: it is closed after the answer.
    pub stream_error_on_invalid_http_message: bool,
}

/// What an upstream HTTP/1 connection is set up with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHttp1Settings {
    /// `http_protocol_options`.
    pub options: Http1ProtocolOptions,
    /// The largest response head, in KiB. Default 60.
    pub max_response_headers_kb: u32,
    /// The most fields in a head or in trailers. Default 100.
    pub max_headers_count: u32,
}

impl Default for Http1ProtocolOptions {
    fn default() -> Self {
        Self {
            allow_absolute_url: true,
            accept_http_10: false,
            default_host_for_http_10: None,
            header_key_format: HeaderKeyFormat::LowerCase,
            enable_trailers: false,
            allow_chunked_length: false,
            override_stream_error_on_invalid_http_message: None,
            send_fully_qualified_url: false,
            allow_custom_methods: false,
            ignore_http_11_upgrade: IgnoredUpgrades::default(),
        }
    }
}

impl Default for Http1Settings {
    fn default() -> Self {
        Self {
            options: Http1ProtocolOptions::default(),
            max_request_headers_kb: 60,
            max_headers_count: 100,
            headers_with_underscores_action: HeadersWithUnderscoresAction::Allow,
            stream_error_on_invalid_http_message: false,
        }
    }
}

impl Default for ClientHttp1Settings {
    fn default() -> Self {
        Self {
            options: Http1ProtocolOptions::default(),
            max_response_headers_kb: 60,
            max_headers_count: 100,
        }
    }
}

impl Http1Settings {
    /// Whether a connection goes on after a message error that it could answer.
    pub fn keeps_connection_on_error(&self) -> bool {
        self.options
            .override_stream_error_on_invalid_http_message
            .unwrap_or(self.stream_error_on_invalid_http_message)
    }
}

impl Http1ProtocolOptions {
    /// Converts the message; none is the default.
    #[allow(
        deprecated,
        reason = "`use_balsa_parser` is decided like every other field: two parsers that decide alike, harmless"
    )]
    pub fn from_proto(
        proto: Option<core::Http1ProtocolOptions>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let core::Http1ProtocolOptions {
            allow_absolute_url,
            accept_http_10,
            default_host_for_http_10,
            header_key_format,
            enable_trailers,
            allow_chunked_length,
            override_stream_error_on_invalid_http_message,
            send_fully_qualified_url,
            use_balsa_parser: _,
            allow_custom_methods,
            ignore_http_11_upgrade,
        } = proto.unwrap_or_default();
        let format = path.optional(
            "header_key_format",
            header_key_format,
            HeaderKeyFormat::from_proto,
        );
        let upgrades = path.each(
            "ignore_http_11_upgrade",
            ignore_http_11_upgrade,
            StringMatcher::from_proto,
        );
        Ok(Self {
            allow_absolute_url: allow_absolute_url.is_none_or(|v| v.value),
            accept_http_10,
            default_host_for_http_10: (!default_host_for_http_10.is_empty())
                .then(|| default_host_for_http_10.into()),
            header_key_format: format?.unwrap_or_default(),
            enable_trailers,
            allow_chunked_length,
            override_stream_error_on_invalid_http_message:
                override_stream_error_on_invalid_http_message.map(|v| v.value),
            send_fully_qualified_url,
            allow_custom_methods,
            ignore_http_11_upgrade: IgnoredUpgrades(upgrades?.into()),
        })
    }
}

impl HeaderKeyFormat {
    fn from_proto(
        proto: core::http1_protocol_options::HeaderKeyFormat,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        match path.required("header_format", proto.header_format)? {
            HeaderFormat::ProperCaseWords(ProperCaseWords {}) => Ok(Self::ProperCaseWords),
            HeaderFormat::StatefulFormatter(formatter) => {
                let path = path.key("stateful_formatter", &formatter.name);
                let config = TypedConfig::required("typed_config", formatter.typed_config, &path)?;
                let path = path.field("typed_config");
                if config.type_name != PRESERVE_CASE {
                    return Err(config.unknown(&path, &[PRESERVE_CASE]));
                }
                Self::preserve_case(config.decode(&path)?, &path)
            }
        }
    }

    fn preserve_case(
        proto: PreserveCaseFormatterConfig,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        use preserve_case_formatter_config::FormatterTypeOnEnvoyHeaders as Others;
        let PreserveCaseFormatterConfig {
            forward_reason_phrase,
            formatter_type_on_envoy_headers,
        } = proto;
        let others: Others = path.enumeration(
            "formatter_type_on_envoy_headers",
            formatter_type_on_envoy_headers,
        )?;
        Ok(Self::PreserveCase {
            forward_reason_phrase,
            others_in_proper_case: others == Others::ProperCase,
        })
    }

    /// What a head that is read must remember of its names. None: nothing.
    pub(crate) fn original_names(self) -> Option<OriginalNames> {
        match self {
            Self::PreserveCase {
                others_in_proper_case,
                ..
            } => Some(OriginalNames::new(others_in_proper_case)),
            Self::LowerCase | Self::ProperCaseWords => None,
        }
    }
}

const PRESERVE_CASE: &str =
    "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigReport;
    use outrigger_proto::pb::google::protobuf::{Any, BoolValue};
    use prost::Message;

    fn convert(proto: core::Http1ProtocolOptions) -> Result<Http1ProtocolOptions, Vec<String>> {
        let report = ConfigReport::new();
        let converted =
            Http1ProtocolOptions::from_proto(Some(proto), &ConfigPath::root(&report, "options"));
        converted.map_err(|_| report.take().iter().map(ToString::to_string).collect())
    }

    fn formatter(type_url: &str, value: Vec<u8>) -> core::Http1ProtocolOptions {
        let config = core::TypedExtensionConfig {
            name: "f".to_owned(),
            typed_config: Some(Any {
                type_url: type_url.to_owned(),
                value,
            }),
        };
        core::Http1ProtocolOptions {
            header_key_format: Some(core::http1_protocol_options::HeaderKeyFormat {
                header_format: Some(HeaderFormat::StatefulFormatter(config)),
            }),
            ..core::Http1ProtocolOptions::default()
        }
    }

    #[test]
    fn nothing_set_means_envoys_defaults() {
        let converted = convert(core::Http1ProtocolOptions::default()).unwrap();
        assert_eq!(converted, Http1ProtocolOptions::default());
        assert!(converted.allow_absolute_url);
        let off = convert(core::Http1ProtocolOptions {
            allow_absolute_url: Some(BoolValue { value: false }),
            ..core::Http1ProtocolOptions::default()
        });
        assert!(!off.unwrap().allow_absolute_url);
    }

    #[test]
    fn preserve_case_is_known_by_its_type_and_other_formatters_are_refused() {
        let config = PreserveCaseFormatterConfig {
            forward_reason_phrase: true,
            formatter_type_on_envoy_headers: 1,
        };
        let converted = convert(formatter(
            &format!("type.googleapis.com/{PRESERVE_CASE}"),
            config.encode_to_vec(),
        ));
        assert_eq!(
            converted.unwrap().header_key_format,
            HeaderKeyFormat::PreserveCase {
                forward_reason_phrase: true,
                others_in_proper_case: true
            }
        );
        let errors = convert(formatter("type.googleapis.com/x.Y", vec![])).unwrap_err();
        assert_eq!(
            errors,
            [format!(
                "options / header_key_format / stateful_formatter[\"f\"] / typed_config: x.Y is not supported here; supported are {PRESERVE_CASE}"
            )]
        );
    }
}
