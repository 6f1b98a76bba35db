//! `HttpConnectionManager`: its fields as the connection manager uses them.

mod rewriting;
mod routes;
mod timeouts;

use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use pb::http_connection_manager::{
    CodecType, HcmAccessLogOptions, PathWithEscapedSlashesAction, RouteSpecifier,
    ServerHeaderTransformation as PbServerHeader, StripPortMode,
};

use super::client_cert::ClientCertFields;
use super::conn_headers::ForwardingConfig;
use super::local_reply::LocalReplyConfig;
use super::path_normalize::{EscapedSlashes, PathNormalization};
use super::proxy_status::ProxyStatusConfig;
use super::stats::{HcmStats, ListenerHttpStats, TracingStats};
use crate::access_loggers::AccessLog;
use crate::codec::h1::{Http1ProtocolOptions, Http1Settings};
use crate::codec::h2::{Http2ProtocolOptions, Http2Settings};
use crate::config::{ConfigPath, Rejected};
use crate::http_filters::chain_config::ChainConfig;
use crate::http_filters::router::{self, RouterConfig};
use crate::route::provider::Scopes;
use crate::server::FactoryContext;

use routes::{dynamic_routes, fixed_routes};
use timeouts::{CommonOptions, or_default};

pub(super) use rewriting::{
    HostNormalization, SchemeTransformation, ServerHeader, ServerHeaderTransformation,
};
pub(super) use routes::HcmRoutes;
pub(super) use timeouts::Timeouts;

/// A configured connection manager, shared by all workers.
pub struct HcmConfig {
    /// Which codec a connection gets.
    pub codec_type: CodecType,
    /// `http.<stat_prefix>.`
    pub stats: HcmStats,
    /// `listener.<address>.http.<stat_prefix>.`
    pub listener_stats: ListenerHttpStats,
    /// `http.<stat_prefix>.tracing.`
    pub tracing_stats: TracingStats,
    /// The filters before the router.
    pub filters: ChainConfig,
    /// The router at their end.
    pub router: Arc<RouterConfig>,
    /// Which upgrades are taken, and through which filters.
    pub upgrades: Vec<UpgradeConfig>,
    /// For HTTP/1 connections.
    pub http1: Http1Settings,
    /// For HTTP/2 connections.
    pub http2: Http2Settings,
    /// The `server` header.
    pub server: ServerHeader,
    /// What becomes of the scheme.
    pub scheme: SchemeTransformation,
    /// When to give up.
    pub timeouts: Timeouts,
    /// Requests after which a connection is closed.
    pub max_requests_per_connection: Option<u32>,
    /// Where requests are logged.
    pub access_logs: Vec<AccessLog>,
    /// When else they are logged than at their end.
    pub access_log_options: AccessLogOptions,
    /// What is said about the client to the upstream.
    pub forwarding: ForwardingConfig,
    /// What is done to paths.
    pub path: PathNormalization,
    /// What is done to hosts.
    pub host: HostNormalization,
    /// How local replies are rewritten.
    pub local_reply: LocalReplyConfig,
    /// What is said in `proxy-status`; none: nothing.
    pub(super) proxy_status: Option<ProxyStatusConfig>,
    /// Passes `100 Continue` of the upstream on instead of sending one at once.
    pub proxy_100_continue: bool,
    /// Marks answers that overload caused: `x-envoy-local-overloaded`.
    pub append_local_overload: bool,
    /// Keeps an HTTP/1.1 connection after a message error.
    pub stream_error_on_invalid_http_message: bool,
    /// The routes.
    pub routes: HcmRoutes,
}

/// `upgrade_configs`: one upgrade.
pub struct UpgradeConfig {
    /// `websocket`, `CONNECT`, …; compared without case.
    pub upgrade_type: Box<str>,
    /// Filters of its own; none: those of the connection manager.
    pub filters: Option<ChainConfig>,
    /// Whether routes that say nothing take it. Default true.
    pub enabled: bool,
}

/// `access_log_options`.
#[derive(Debug, Clone, Copy, Default)]
pub struct AccessLogOptions {
    /// Logs an unfinished stream this often. At least 1 ms.
    pub flush_interval: Option<Duration>,
    /// Logs when the request has arrived.
    pub flush_on_new_request: bool,
    /// Logs when an upgrade has succeeded.
    pub flush_on_tunnel: bool,
}

impl HcmConfig {
    /// Converts the message. Every field is decided here.
    #[allow(
        deprecated,
        clippy::too_many_lines,
        reason = "one message with sixty fields, each decided in a line or two"
    )]
    pub fn from_proto(
        proto: pb::HttpConnectionManager,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::HttpConnectionManager {
            codec_type,
            stat_prefix,
            http_filters,
            add_user_agent,
            tracing,
            common_http_protocol_options,
            // Both codecs count the age of a connection from its acceptance: the safe way is the only one here.
            http1_safe_max_connection_duration: _,
            http_protocol_options,
            http2_protocol_options,
            // Only read by HTTP/3 listeners, which are refused.
            http3_protocol_options: _,
            server_name,
            server_header_transformation,
            scheme_header_transformation,
            max_request_headers_kb,
            stream_idle_timeout,
            stream_flush_timeout,
            request_timeout,
            request_headers_timeout,
            drain_timeout,
            drain_timeout_jitter,
            delayed_close_timeout,
            access_log,
            access_log_flush_interval,
            flush_access_log_on_new_request,
            access_log_options,
            use_remote_address,
            xff_num_trusted_hops,
            original_ip_detection_extensions,
            early_header_mutation_extensions,
            internal_address_config,
            skip_xff_append,
            via,
            generate_request_id,
            preserve_external_request_id,
            always_set_request_id_in_response,
            forward_client_cert_details,
            set_current_client_cert_details,
            forward_client_cert_matcher,
            proxy_100_continue,
            represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            upgrade_configs,
            normalize_path,
            merge_slashes,
            path_with_escaped_slashes_action,
            request_id_extension,
            local_reply_config,
            strip_matching_host_port,
            stream_error_on_invalid_http_message,
            // Envoy reads none of it either.
            path_normalization_options: _,
            strip_trailing_host_dot,
            proxy_status_config,
            typed_header_validation_config,
            append_x_forwarded_port,
            append_local_overload,
            // Adds the state of a TLS handshake that a PROXY header describes; TLS is refused.
            add_proxy_protocol_connection_state: _,
            forward_proto_config,
            route_specifier,
            strip_port_mode,
        } = proto;
        let stat_prefix = path.non_empty("stat_prefix", stat_prefix);
        let codec_type = path.enumeration::<CodecType>("codec_type", codec_type);
        if codec_type == Ok(CodecType::Http3) {
            let _ = path
                .field("codec_type")
                .reject("HTTP3 is not supported; supported are AUTO, HTTP1 and HTTP2");
        }
        let refused = [
            path.unsupported_if_set("tracing", tracing),
            path.unsupported_if_set("drain_timeout_jitter", drain_timeout_jitter),
            path.unsupported_if_set(
                "typed_header_validation_config",
                typed_header_validation_config,
            ),
        ];
        let common = CommonOptions::from_proto(
            common_http_protocol_options,
            &path.field("common_http_protocol_options"),
        );
        let max_request_headers_kb = path.in_range(
            "max_request_headers_kb",
            max_request_headers_kb.map_or(60, |v| v.value),
            1..=8192,
        );
        let http1 = Http1ProtocolOptions::from_proto(
            http_protocol_options,
            &path.field("http_protocol_options"),
        );
        let http2 = Http2ProtocolOptions::from_proto(
            http2_protocol_options,
            &path.field("http2_protocol_options"),
        );
        let field_size = match (&http2, &max_request_headers_kb) {
            (Ok(http2), Ok(kb)) => http2.check_field_size(
                *kb,
                "max_request_headers_kb",
                &path.field("http2_protocol_options"),
            ),
            _ => Ok(()),
        };
        let stream_error = stream_error_on_invalid_http_message.is_some_and(|v| v.value);
        let server_header_transformation = path.enumeration::<PbServerHeader>(
            "server_header_transformation",
            server_header_transformation,
        );
        let scheme = path.optional(
            "scheme_header_transformation",
            scheme_header_transformation,
            SchemeTransformation::from_proto,
        );
        let stream_idle = path.duration("stream_idle_timeout", stream_idle_timeout);
        let stream_flush = path.duration("stream_flush_timeout", stream_flush_timeout);
        let request = path.duration("request_timeout", request_timeout);
        let request_headers = path.duration("request_headers_timeout", request_headers_timeout);
        let drain = path.duration("drain_timeout", drain_timeout);
        let delayed_close = path.duration("delayed_close_timeout", delayed_close_timeout);
        let access_logs = path.each("access_log", access_log, |log, path| {
            AccessLog::from_proto(log, cx, path)
        });
        let log_options = AccessLogOptions::from_proto(
            access_log_options,
            access_log_flush_interval,
            flush_access_log_on_new_request,
            path,
        );
        let prefix = stat_prefix.clone().unwrap_or_default();
        let http_scope = cx.server.stats.scope(&format!("http.{prefix}."));
        let filter_cx = FactoryContext {
            server: cx.server,
            scope: &http_scope,
            init: cx.init,
        };
        let chain = ChainConfig::from_proto(http_filters, router::TYPE_NAME, &filter_cx, path);
        let upgrades = path.each("upgrade_configs", upgrade_configs, |upgrade, path| {
            UpgradeConfig::from_proto(upgrade, &filter_cx, path)
        });
        let escaped_slashes = path.enumeration::<PathWithEscapedSlashesAction>(
            "path_with_escaped_slashes_action",
            path_with_escaped_slashes_action,
        );
        let local_reply =
            LocalReplyConfig::from_proto(local_reply_config, cx, &path.field("local_reply_config"));
        let forwarding = ForwardingConfig::from_proto(
            super::conn_headers::ForwardingFields {
                use_remote_address: use_remote_address.is_some_and(|v| v.value),
                xff_num_trusted_hops,
                skip_xff_append,
                internal_address_config,
                via,
                generate_request_id: generate_request_id.is_none_or(|v| v.value),
                preserve_external_request_id,
                always_set_request_id_in_response,
                request_id_extension,
                client_cert: ClientCertFields {
                    forward_client_cert_details,
                    set_current_client_cert_details,
                    forward_client_cert_matcher,
                },
                original_ip_detection_extensions,
                early_header_mutation_extensions,
                forward_proto_config,
                append_x_forwarded_port,
                add_user_agent: add_user_agent.is_some_and(|v| v.value),
                represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            },
            cx,
            path,
        );
        let routes = match route_specifier {
            Some(RouteSpecifier::RouteConfig(routes)) => {
                let path = path.field("route_config");
                fixed_routes(routes, &filter_cx, &path).map(HcmRoutes::One)
            }
            Some(RouteSpecifier::Rds(rds)) => {
                dynamic_routes(rds, &filter_cx, &path.field("rds")).map(HcmRoutes::One)
            }
            Some(RouteSpecifier::ScopedRoutes(scopes)) => {
                Scopes::from_proto(scopes, &filter_cx, &path.field("scoped_routes"))
                    .map(HcmRoutes::Scoped)
            }
            None => Err(path
                .field("route_config")
                .reject("is required: one of route_config, rds, scoped_routes")),
        };
        let router = chain.as_ref().map_err(|e| *e).and_then(|(_, config)| {
            RouterConfig::from_proto(
                config,
                &filter_cx,
                &path
                    .key("http_filters", "envoy.filters.http.router")
                    .field("typed_config"),
            )
        });
        refused.into_iter().collect::<Result<Vec<()>, Rejected>>()?;
        let common = common?;
        let server_name: Box<str> = if server_name.is_empty() {
            "envoy".into()
        } else {
            server_name.into()
        };
        let max_request_headers_kb = max_request_headers_kb?;
        field_size?;
        Ok(Self {
            codec_type: codec_type?,
            stats: HcmStats::of(cx.scope, &stat_prefix?),
            listener_stats: ListenerHttpStats::new(&cx.scope.scope(&format!("http.{prefix}."))),
            tracing_stats: TracingStats::new(
                &cx.scope.store().scope(&format!("http.{prefix}.tracing.")),
            ),
            filters: chain?.0,
            router: Arc::new(router?),
            upgrades: upgrades?,
            http1: Http1Settings {
                options: http1?,
                max_request_headers_kb,
                max_headers_count: common.max_headers_count,
                headers_with_underscores_action: common.underscores,
                stream_error_on_invalid_http_message: stream_error,
            },
            http2: Http2Settings {
                options: http2?,
                max_request_headers_kb,
                max_headers_count: common.max_headers_count,
                headers_with_underscores_action: common.underscores,
                stream_error_on_invalid_http_message: stream_error,
            },
            server: ServerHeader {
                name: server_name.clone(),
                transformation: match server_header_transformation? {
                    PbServerHeader::Overwrite => ServerHeaderTransformation::Overwrite,
                    PbServerHeader::AppendIfAbsent => ServerHeaderTransformation::AppendIfAbsent,
                    PbServerHeader::PassThrough => ServerHeaderTransformation::PassThrough,
                },
            },
            scheme: scheme?.unwrap_or_default(),
            timeouts: Timeouts {
                idle: common.idle,
                max_connection_duration: common.max_connection_duration,
                max_connection_duration_jitter: common.max_connection_duration_jitter,
                max_stream_duration: common.max_stream_duration,
                stream_idle: or_default(stream_idle?, Duration::from_secs(300)),
                stream_flush: stream_flush?.filter(|d| !d.is_zero()),
                request: request?.filter(|d| !d.is_zero()),
                request_headers: request_headers?.filter(|d| !d.is_zero()),
                drain: drain?.unwrap_or(Duration::from_secs(5)),
                delayed_close: or_default(delayed_close?, Duration::from_secs(1)),
            },
            max_requests_per_connection: common.max_requests_per_connection,
            access_logs: access_logs?,
            access_log_options: log_options?,
            forwarding: forwarding?,
            path: PathNormalization {
                normalize: normalize_path.is_some_and(|v| v.value),
                merge_slashes,
                escaped_slashes: match escaped_slashes? {
                    PathWithEscapedSlashesAction::ImplementationSpecificDefault
                    | PathWithEscapedSlashesAction::KeepUnchanged => EscapedSlashes::Keep,
                    PathWithEscapedSlashesAction::RejectRequest => EscapedSlashes::Reject,
                    PathWithEscapedSlashesAction::UnescapeAndRedirect => {
                        EscapedSlashes::UnescapeAndRedirect
                    }
                    PathWithEscapedSlashesAction::UnescapeAndForward => {
                        EscapedSlashes::UnescapeAndForward
                    }
                },
            },
            host: HostNormalization {
                strip_matching_port: strip_matching_host_port,
                strip_any_port: matches!(
                    strip_port_mode,
                    Some(StripPortMode::StripAnyHostPort(true))
                ),
                strip_trailing_dot: strip_trailing_host_dot,
            },
            local_reply: local_reply?,
            proxy_status: proxy_status_config
                .map(|config| ProxyStatusConfig::from_proto(config, &server_name, cx)),
            proxy_100_continue,
            append_local_overload,
            stream_error_on_invalid_http_message: stream_error,
            routes: routes?,
        })
    }
}

impl AccessLogOptions {
    fn from_proto(
        options: Option<HcmAccessLogOptions>,
        deprecated_interval: Option<outrigger_proto::pb::google::protobuf::Duration>,
        deprecated_on_new_request: bool,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let HcmAccessLogOptions {
            access_log_flush_interval,
            flush_access_log_on_new_request,
            flush_log_on_tunnel_successfully_established,
        } = options.unwrap_or_default();
        let interval = path.positive_duration(
            "access_log_flush_interval",
            access_log_flush_interval.or(deprecated_interval),
        )?;
        Ok(Self {
            flush_interval: interval,
            flush_on_new_request: flush_access_log_on_new_request || deprecated_on_new_request,
            flush_on_tunnel: flush_log_on_tunnel_successfully_established,
        })
    }
}

impl UpgradeConfig {
    fn from_proto(
        proto: pb::http_connection_manager::UpgradeConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::http_connection_manager::UpgradeConfig {
            upgrade_type,
            filters,
            enabled,
        } = proto;
        let filters = if filters.is_empty() {
            None
        } else {
            Some(ChainConfig::from_proto(filters, router::TYPE_NAME, cx, path)?.0)
        };
        if upgrade_type.eq_ignore_ascii_case("connect-udp") {
            return Err(path
                .field("upgrade_type")
                .reject(format!("{upgrade_type} is not supported")));
        }
        Ok(Self {
            upgrade_type: upgrade_type.into(),
            filters,
            enabled: enabled.is_none_or(|v| v.value),
        })
    }
}
