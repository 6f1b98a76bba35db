//! How a cluster speaks HTTP: `envoy.extensions.upstreams.http.v3.HttpProtocolOptions`, or the older fields of the cluster itself.
//!
//! Type URL: `envoy.extensions.upstreams.http.v3.HttpProtocolOptions` in `Cluster.typed_extension_protocol_options`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/upstreams/http/v3/http_protocol_options.proto>
//! Deviations: HTTP/3 is refused; with `auto_config` the first connection of a worker to a host decides for all later ones.

use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::upstreams::http::v3 as pb;
use pb::http_protocol_options::explicit_http_config::ProtocolConfig;
use pb::http_protocol_options::{
    AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};

use super::request_policies::{PolicyFields, RequestPolicies};
use crate::codec::h1::Http1ProtocolOptions;
use crate::codec::h2::Http2ProtocolOptions;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::HeadersWithUnderscoresAction;
use crate::http_filters::chain_config::ChainConfig;
use crate::server::FactoryContext;

/// The type that stands in `typed_extension_protocol_options`.
pub(super) const TYPE_NAME: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// All HTTP options of a cluster.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UpstreamHttpOptions {
    /// Which protocol a connection speaks.
    pub protocol: ProtocolChoice,
    /// Options of every protocol.
    pub common: CommonHttpOptions,
    /// Options of HTTP/1.
    pub http1: Http1ProtocolOptions,
    /// Options of HTTP/2.
    pub http2: Http2ProtocolOptions,
    /// What requests say of the TLS of their connections.
    pub tls: AutoTlsOptions,
}

/// All that a converted `HttpProtocolOptions` is.
#[derive(Default)]
pub(super) struct TypedHttpOptions {
    pub(super) options: UpstreamHttpOptions,
    pub(super) filters: Option<Arc<ChainConfig>>,
    pub(super) policies: Option<Arc<RequestPolicies>>,
}

/// `UpstreamHttpProtocolOptions`: what a request says of the TLS of its connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AutoTlsOptions {
    /// The host of the request is the server name that is asked for.
    pub auto_sni: bool,
    /// The host of the request must be in the certificate.
    pub auto_san_validation: bool,
    /// The header that holds the host in place of `host`; empty: none does.
    pub override_auto_sni_header: Box<str>,
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
    /// What TLS agrees on by ALPN: HTTP/2 or HTTP/1.1.
    Auto,
}

/// `envoy.config.core.v3.HttpProtocolOptions`, as far as it concerns upstream connections.
#[derive(Debug, Clone, PartialEq)]
pub struct CommonHttpOptions {
    /// After how long without a stream a connection is closed. None: never. Default 1 h.
    pub idle_timeout: Option<Duration>,
    /// After how long a connection takes no more streams and is closed when the last one ends. Default: never.
    pub max_connection_duration: Option<Duration>,
    /// By which share of itself that duration may be longer, at random. Default: none.
    pub max_connection_duration_jitter: Option<f64>,
    /// How long a stream may last. Default: any time.
    pub max_stream_duration: Option<Duration>,
    /// How many fields a response may have. Default 100.
    pub max_headers_count: u32,
    /// How large a response head may be, in KiB, at most 8192. Default 60.
    pub max_response_headers_kb: u32,
    /// What to do with fields that have an underscore in their name.
    pub headers_with_underscores_action: HeadersWithUnderscoresAction,
    /// After how many requests a connection takes no more. None: never.
    pub max_requests_per_connection: Option<u32>,
}

impl Default for CommonHttpOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_connection_duration_jitter: None,
            max_stream_duration: None,
            max_headers_count: 100,
            max_response_headers_kb: 60,
            headers_with_underscores_action: HeadersWithUnderscoresAction::Allow,
            max_requests_per_connection: None,
        }
    }
}

impl CommonHttpOptions {
    /// Converts the message; none is the default.
    pub fn from_proto(
        proto: Option<core::HttpProtocolOptions>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let Some(proto) = proto else {
            return Ok(Self::default());
        };
        let core::HttpProtocolOptions {
            idle_timeout,
            max_connection_duration,
            max_connection_duration_jitter,
            max_headers_count,
            max_response_headers_kb,
            max_stream_duration,
            headers_with_underscores_action,
            max_requests_per_connection,
        } = proto;
        let idle_timeout = path.duration("idle_timeout", idle_timeout);
        let max_connection_duration =
            path.duration("max_connection_duration", max_connection_duration);
        let jitter = path.percent(
            "max_connection_duration_jitter",
            max_connection_duration_jitter,
        );
        let max_stream_duration = path.duration("max_stream_duration", max_stream_duration);
        let headers = path.in_range(
            "max_headers_count",
            max_headers_count.map_or(100, |v| v.value),
            1..=u32::MAX,
        );
        let kb = path.in_range(
            "max_response_headers_kb",
            max_response_headers_kb.map_or(60, |v| v.value),
            1..=8192,
        );
        let underscores =
            HeadersWithUnderscoresAction::from_proto(headers_with_underscores_action, path);
        Ok(Self {
            idle_timeout: idle_timeout?.map_or(Some(Duration::from_secs(3600)), not_zero),
            max_connection_duration: max_connection_duration?.and_then(not_zero),
            max_connection_duration_jitter: jitter?,
            max_stream_duration: max_stream_duration?.and_then(not_zero),
            max_headers_count: headers?,
            max_response_headers_kb: kb?,
            headers_with_underscores_action: underscores?,
            max_requests_per_connection: max_requests_per_connection
                .map(|v| v.value)
                .filter(|max| *max > 0),
        })
    }
}

impl UpstreamHttpOptions {
    /// Converts the typed extension protocol options; gives the cluster's upstream filters beside them, if it has a list, and what
    /// it says of its requests, if anything.
    pub(super) fn from_any(
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<TypedHttpOptions, Rejected> {
        if config.type_name != TYPE_NAME {
            return Err(config.unknown(path, &[TYPE_NAME]));
        }
        let pb::HttpProtocolOptions {
            common_http_protocol_options,
            upstream_http_protocol_options,
            http_filters,
            header_validation_config,
            outlier_detection,
            request_mirror_policies,
            hash_policy,
            retry_policy,
            upstream_protocol_options,
        } = config.decode(path)?;
        let largest_head = common_http_protocol_options
            .as_ref()
            .and_then(|common| common.max_response_headers_kb);
        let common = CommonHttpOptions::from_proto(
            common_http_protocol_options,
            &path.field("common_http_protocol_options"),
        );
        let upstream = tls_options(upstream_http_protocol_options, path);
        let filters = match http_filters.is_empty() {
            true => Ok(None),
            false => ChainConfig::upstream_from_proto("http_filters", http_filters, cx, path)
                .map(|chain| Some(Arc::new(chain))),
        };
        let validation =
            path.unsupported_if_set("header_validation_config", header_validation_config);
        let policies = PolicyFields {
            outlier_detection,
            request_mirror_policies,
            hash_policy,
            retry_policy,
        };
        let policies = policies.convert(cx, path);
        let protocol = path
            .required("upstream_protocol_options", upstream_protocol_options)
            .and_then(|options| protocol_options(options, path));
        validation?;
        let tls = upstream?;
        let (protocol, http1, http2) = protocol?;
        if let Some(kb) = largest_head {
            http2.check_field_size(kb.value, "max_response_headers_kb", path)?;
        }
        let options = Self {
            protocol,
            common: common?,
            http1,
            http2,
            tls,
        };
        Ok(TypedHttpOptions {
            options,
            filters: filters?,
            policies: policies?.map(Arc::new),
        })
    }
}

/// The older fields of `Cluster` that say the same.
#[derive(Debug)]
pub(super) struct LegacyHttpFields {
    pub(super) common: Option<core::HttpProtocolOptions>,
    pub(super) http1: Option<core::Http1ProtocolOptions>,
    pub(super) http2: Option<core::Http2ProtocolOptions>,
    pub(super) upstream: Option<core::UpstreamHttpProtocolOptions>,
    /// `protocol_selection` is `USE_DOWNSTREAM_PROTOCOL`.
    pub(super) use_downstream: bool,
    pub(super) max_requests_per_connection: Option<u32>,
}

impl LegacyHttpFields {
    pub(super) fn convert(self, path: &ConfigPath<'_>) -> Result<UpstreamHttpOptions, Rejected> {
        let protocol = match (self.use_downstream, &self.http2) {
            (true, _) => ProtocolChoice::UseDownstream,
            (false, Some(_)) => ProtocolChoice::Http2,
            (false, None) => ProtocolChoice::Http1,
        };
        let common =
            CommonHttpOptions::from_proto(self.common, &path.field("common_http_protocol_options"));
        let http1 =
            Http1ProtocolOptions::from_proto(self.http1, &path.field("http_protocol_options"));
        let http2 =
            Http2ProtocolOptions::from_proto(self.http2, &path.field("http2_protocol_options"));
        let upstream = tls_options(self.upstream, path);
        let tls = upstream?;
        let mut common = common?;
        if let Some(max) = self.max_requests_per_connection.filter(|max| *max > 0) {
            common.max_requests_per_connection.get_or_insert(max);
        }
        Ok(UpstreamHttpOptions {
            protocol,
            common,
            http1: http1?,
            http2: http2?,
            tls,
        })
    }
}

fn protocol_options(
    options: UpstreamProtocolOptions,
    path: &ConfigPath<'_>,
) -> Result<(ProtocolChoice, Http1ProtocolOptions, Http2ProtocolOptions), Rejected> {
    match options {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config }) => {
            let path = path.field("explicit_http_config");
            match path.required("protocol_config", protocol_config)? {
                ProtocolConfig::HttpProtocolOptions(http1) => Ok((
                    ProtocolChoice::Http1,
                    Http1ProtocolOptions::from_proto(
                        Some(http1),
                        &path.field("http_protocol_options"),
                    )?,
                    Http2ProtocolOptions::default(),
                )),
                ProtocolConfig::Http2ProtocolOptions(http2) => Ok((
                    ProtocolChoice::Http2,
                    Http1ProtocolOptions::default(),
                    Http2ProtocolOptions::from_proto(
                        Some(http2),
                        &path.field("http2_protocol_options"),
                    )?,
                )),
                ProtocolConfig::Http3ProtocolOptions(_) => Err(path
                    .field("http3_protocol_options")
                    .reject("HTTP/3 is not supported")),
            }
        }
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options,
            http2_protocol_options,
            http3_protocol_options,
        }) => {
            let path = path.field("use_downstream_protocol_config");
            // Without HTTP/2 options every request goes up as HTTP/1, whatever the client spoke.
            let protocol = match http2_protocol_options {
                Some(_) => ProtocolChoice::UseDownstream,
                None => ProtocolChoice::Http1,
            };
            let http1 = Http1ProtocolOptions::from_proto(
                http_protocol_options,
                &path.field("http_protocol_options"),
            );
            let http2 = Http2ProtocolOptions::from_proto(
                http2_protocol_options,
                &path.field("http2_protocol_options"),
            );
            path.unsupported_if_set("http3_protocol_options", http3_protocol_options)?;
            Ok((protocol, http1?, http2?))
        }
        UpstreamProtocolOptions::AutoConfig(AutoHttpConfig {
            http_protocol_options,
            http2_protocol_options,
            http3_protocol_options,
            alternate_protocols_cache_options,
        }) => {
            let path = path.field("auto_config");
            let http1 = Http1ProtocolOptions::from_proto(
                http_protocol_options,
                &path.field("http_protocol_options"),
            );
            let http2 = Http2ProtocolOptions::from_proto(
                http2_protocol_options,
                &path.field("http2_protocol_options"),
            );
            path.unsupported_if_set("http3_protocol_options", http3_protocol_options)?;
            path.unsupported_if_set(
                "alternate_protocols_cache_options",
                alternate_protocols_cache_options,
            )?;
            Ok((ProtocolChoice::Auto, http1?, http2?))
        }
    }
}

/// What only a TLS transport socket reads. Without TLS, Envoy accepts it and nothing follows from it.
fn tls_options(
    proto: Option<core::UpstreamHttpProtocolOptions>,
    path: &ConfigPath<'_>,
) -> Result<AutoTlsOptions, Rejected> {
    let core::UpstreamHttpProtocolOptions {
        auto_sni,
        auto_san_validation,
        override_auto_sni_header,
    } = proto.unwrap_or_default();
    if override_auto_sni_header
        .bytes()
        .all(|b| b.is_ascii_graphic())
    {
        return Ok(AutoTlsOptions {
            auto_sni,
            auto_san_validation,
            override_auto_sni_header: override_auto_sni_header.to_ascii_lowercase().into(),
        });
    }
    Err(path
        .field("upstream_http_protocol_options")
        .field("override_auto_sni_header")
        .reject(format!("{override_auto_sni_header:?} is not a header name")))
}

fn not_zero(duration: Duration) -> Option<Duration> {
    Some(duration).filter(|d| !d.is_zero())
}
