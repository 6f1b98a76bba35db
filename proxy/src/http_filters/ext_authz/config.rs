//! The configuration of the filter and of routes.

use std::collections::HashMap;
use std::sync::Arc;

use outrigger_proto::ours::outrigger::patch::envoy::extensions::filters::http::ext_authz::v3 as patch;
use outrigger_proto::pb::envoy::extensions::filters::http::ext_authz::v3 as pb;
use outrigger_proto::pb::envoy::r#type::matcher::v3::ListStringMatcher;
use outrigger_proto::pb::envoy::r#type::v3::HttpStatus;
use pb::check_settings::ServiceOverride;
use pb::ext_authz::Services;

use super::http_service::HttpAuthorizer;
use super::request::VisibleFields;
use crate::config::{ConfigPath, Fraction, Rejected, TypedConfig};
use crate::ext_authz::{GrpcAuthorizer, labels};
use crate::http_filters::StreamContext;
use crate::http_filters::mutation_rules::MutationRules;
use crate::matchers::{MetadataMatcher, StringMatcher};
use crate::runtime::{RuntimeFlag, RuntimeFraction};
use crate::server::FactoryContext;
use crate::stats::Scope;

crate::stats_group! {
    /// What the filter decides.
    pub(super) struct Stats {
        counter denied;
        counter disabled;
        counter error;
        counter failure_mode_allowed;
        counter filter_state_name_collision;
        counter ignored_dynamic_metadata;
        counter invalid;
        counter ok;
        counter omitted_response_headers;
        counter request_header_limits_reached;
        counter response_header_limits_reached;
        counter shadow_denied;
        counter shadow_error;
    }
}

/// Who is asked.
pub(super) enum Service {
    Grpc(GrpcAuthorizer),
    Http(HttpAuthorizer),
}

/// How much of a body the service is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BodySettings {
    /// In bytes, not 0.
    pub(super) max_request_bytes: u32,
    /// A longer body is shown in part; else it is answered with 413.
    pub(super) allow_partial_message: bool,
}

/// A converted `ExtAuthz`.
pub(super) struct Config {
    /// What the filter is called.
    pub(super) name: Box<str>,
    pub(super) service: Arc<Service>,
    pub(super) stats: Stats,
    /// `ext_authz.` with the prefix of the stats.
    pub(super) cluster_prefix: Box<str>,
    pub(super) failure_mode_allow: bool,
    pub(super) failure_mode_allow_header_add: bool,
    pub(super) with_request_body: Option<BodySettings>,
    pub(super) pack_as_bytes: bool,
    pub(super) status_on_error: u16,
    pub(super) clear_route_cache: bool,
    /// Only changes of these clear it; empty: all do.
    pub(super) clear_route_cache_headers: Vec<Box<str>>,
    pub(super) validate_mutations: bool,
    pub(super) mutation_rules: Option<MutationRules>,
    pub(super) metadata_context_namespaces: Vec<Box<str>>,
    pub(super) route_metadata_context_namespaces: Vec<Box<str>>,
    pub(super) include_peer_certificate: bool,
    pub(super) include_tls_session: bool,
    pub(super) destination_labels: HashMap<String, String>,
    pub(super) visible: VisibleFields,
    pub(super) encode_raw_headers: bool,
    pub(super) charge_cluster_response_stats: bool,
    pub(super) enable_dynamic_metadata_ingestion: bool,
    /// The filter state gets an object of the filter.
    pub(super) logs: bool,
    pub(super) emit_filter_state_stats: bool,
    /// In bytes; none: all of it.
    pub(super) max_denied_response_body_bytes: Option<usize>,
    /// What the service adds to a response must not make its head larger than the upstream's may be.
    pub(super) enforce_response_header_limits: bool,
    pub(super) shadow_mode: bool,
    filter_enabled: RuntimeFraction,
    filter_enabled_metadata: Option<MetadataMatcher>,
    deny_at_disable: Option<RuntimeFlag>,
}

impl Config {
    #[allow(
        clippy::too_many_lines,
        reason = "one message of many fields, each of which is decided"
    )]
    pub(super) fn from_proto(
        name: &str,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let patch::ExtAuthz {
            clear_route_cache_headers,
        } = config.decode(path)?;
        let pb::ExtAuthz {
            // There is one version.
            transport_api_version: _,
            failure_mode_allow,
            failure_mode_allow_header_add,
            with_request_body,
            clear_route_cache,
            status_on_error,
            validate_mutations,
            metadata_context_namespaces,
            // Harmless: no filter of this proxy keeps typed metadata.
            typed_metadata_context_namespaces: _,
            route_metadata_context_namespaces,
            // Harmless: see the deviations.
            route_typed_metadata_context_namespaces: _,
            filter_enabled,
            filter_enabled_metadata,
            deny_at_disable,
            include_peer_certificate,
            stat_prefix,
            bootstrap_metadata_labels_key,
            allowed_headers,
            disallowed_headers,
            include_tls_session,
            charge_cluster_response_stats,
            encode_raw_headers,
            decoder_header_mutation_rules,
            enable_dynamic_metadata_ingestion,
            filter_metadata,
            emit_filter_state_stats,
            max_denied_response_body_bytes,
            enforce_response_header_limits,
            shadow_mode,
            // Harmless: no spans are made for these calls.
            emit_client_span: _,
            services,
        } = config.decode(path)?;
        let body = path.optional("with_request_body", with_request_body, body_settings);
        let enabled = path.optional("filter_enabled", filter_enabled, |proto, path| {
            RuntimeFraction::from_proto(proto, &cx.server.runtime, path)
        });
        let enabled_metadata = path.optional(
            "filter_enabled_metadata",
            filter_enabled_metadata,
            MetadataMatcher::from_proto,
        );
        let deny = path.optional("deny_at_disable", deny_at_disable, |flag, path| {
            RuntimeFlag::from_proto(flag, &cx.server.runtime, path)
        });
        let rules = path.optional(
            "decoder_header_mutation_rules",
            decoder_header_mutation_rules,
            MutationRules::from_proto,
        );
        let by_http = matches!(services, Some(Services::HttpService(_)));
        let (service, in_request) = convert_service(services, cx, path)?;
        if allowed_headers.is_some() && in_request.is_some() {
            let said_twice = "is set in http_service / authorization_request already";
            return Err(path.field("allowed_headers").reject(said_twice));
        }
        let list = |name: &str, list: Option<ListStringMatcher>| {
            path.optional(name, list, StringMatcher::list_from_proto)
        };
        let allowed = list("allowed_headers", allowed_headers);
        let disallowed = list("disallowed_headers", disallowed_headers);
        let prefix = match stat_prefix.trim_end_matches('.') {
            "" => "ext_authz.".to_owned(),
            prefix => format!("ext_authz.{prefix}."),
        };
        let status = status_on_error.map_or(0, |HttpStatus { code }| code);
        Ok(Self {
            name: name.into(),
            service: Arc::new(service),
            stats: Stats::new(&cx.scope.scope(&prefix)),
            cluster_prefix: prefix.into(),
            failure_mode_allow,
            failure_mode_allow_header_add,
            pack_as_bytes: body?.is_some_and(|(_, pack_as_bytes)| pack_as_bytes),
            with_request_body: body?.map(|(settings, _)| settings),
            status_on_error: u16::try_from(status).ok().filter(|s| *s > 0).unwrap_or(403),
            clear_route_cache,
            clear_route_cache_headers: clear_route_cache_headers
                .into_iter()
                .map(|name| name.to_ascii_lowercase().into())
                .collect(),
            validate_mutations,
            mutation_rules: rules?,
            metadata_context_namespaces: boxed(metadata_context_namespaces),
            route_metadata_context_namespaces: boxed(route_metadata_context_namespaces),
            include_peer_certificate,
            include_tls_session,
            destination_labels: labels(&cx.server.local_info, &bootstrap_metadata_labels_key),
            visible: VisibleFields {
                allowed: allowed?.or(in_request),
                disallowed: disallowed?.unwrap_or_default(),
                few: by_http,
            },
            encode_raw_headers,
            charge_cluster_response_stats: charge_cluster_response_stats.is_none_or(|v| v.value),
            enable_dynamic_metadata_ingestion: enable_dynamic_metadata_ingestion
                .is_none_or(|v| v.value),
            logs: emit_filter_state_stats || filter_metadata.is_some(),
            emit_filter_state_stats,
            max_denied_response_body_bytes: usize::try_from(max_denied_response_body_bytes)
                .ok()
                .filter(|most| *most > 0),
            enforce_response_header_limits,
            shadow_mode,
            filter_enabled: enabled?.unwrap_or_else(|| RuntimeFraction::fixed(Fraction::ALWAYS)),
            filter_enabled_metadata: enabled_metadata?,
            deny_at_disable: deny?,
        })
    }

    /// Whether this request is one of those that the service is asked about.
    pub(super) fn is_enabled(&self, cx: &StreamContext<'_>) -> bool {
        let metadata = &cx.info.dynamic_metadata;
        let matcher = self.filter_enabled_metadata.as_ref();
        self.filter_enabled.contains(cx.worker.random.next())
            && matcher.is_none_or(|matcher| matcher.matches(metadata))
    }

    pub(super) fn denies_at_disable(&self) -> bool {
        self.deny_at_disable.as_ref().is_some_and(RuntimeFlag::get)
    }

    /// Where the counters of a cluster live.
    pub(super) fn cluster_scope(&self, cluster: &Scope) -> Scope {
        cluster.scope(&self.cluster_prefix)
    }
}

/// The service, and the fields that its own configuration lets it see.
fn convert_service(
    services: Option<Services>,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<(Service, Option<Vec<StringMatcher>>), Rejected> {
    match services {
        Some(Services::GrpcService(proto)) => {
            let path = path.field("grpc_service");
            let service = GrpcAuthorizer::from_proto(proto, cx.server, &path)?;
            Ok((Service::Grpc(service), None))
        }
        Some(Services::HttpService(proto)) => {
            let path = path.field("http_service");
            let (service, visible) = HttpAuthorizer::from_proto(proto, cx, &path)?;
            Ok((Service::Http(service), visible))
        }
        None => Err(path.reject("needs one of grpc_service, http_service")),
    }
}

fn body_settings(
    proto: pb::BufferSettings,
    path: &ConfigPath<'_>,
) -> Result<(BodySettings, bool), Rejected> {
    let pb::BufferSettings {
        max_request_bytes,
        allow_partial_message,
        pack_as_bytes,
    } = proto;
    let max_request_bytes = path.in_range("max_request_bytes", max_request_bytes, 1..=u32::MAX)?;
    let settings = BodySettings {
        max_request_bytes,
        allow_partial_message,
    };
    Ok((settings, pack_as_bytes))
}

fn boxed(names: Vec<String>) -> Vec<Box<str>> {
    names.into_iter().map(Into::into).collect()
}

/// What a virtual host, a route or a weighted cluster says.
#[derive(Clone)]
pub(super) enum PerRoute {
    /// Nobody is asked.
    Disabled,
    Settings(Settings),
}

/// `CheckSettings`.
#[derive(Clone, Default)]
pub(super) struct Settings {
    /// With those of the levels above.
    pub(super) context_extensions: HashMap<String, String>,
    disable_request_body_buffering: bool,
    with_request_body: Option<BodySettings>,
    /// In the place of the filter's.
    pub(super) service: Option<Arc<Service>>,
}

impl PerRoute {
    pub(super) fn from_proto(
        proto: pb::ExtAuthzPerRoute,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::ExtAuthzPerRoute { r#override } = proto;
        let settings = match path.required("override", r#override)? {
            // The API allows no other value.
            pb::ext_authz_per_route::Override::Disabled(_) => return Ok(Self::Disabled),
            pb::ext_authz_per_route::Override::CheckSettings(settings) => settings,
        };
        let path = path.field("check_settings");
        let pb::CheckSettings {
            context_extensions,
            disable_request_body_buffering,
            with_request_body,
            // Harmless: no spans are made for these calls.
            emit_client_span: _,
            service_override,
        } = settings;
        if disable_request_body_buffering && with_request_body.is_some() {
            return Err(path.reject(
                "only one of disable_request_body_buffering and with_request_body may be set",
            ));
        }
        // How the body is packed is said by the filter alone.
        let body = path.optional("with_request_body", with_request_body, body_settings);
        let services = service_override.map(|service| match service {
            ServiceOverride::GrpcService(proto) => Services::GrpcService(proto),
            ServiceOverride::HttpService(proto) => Services::HttpService(proto),
        });
        let service = services.map(|services| convert_service(Some(services), cx, &path));
        Ok(Self::Settings(Settings {
            context_extensions,
            disable_request_body_buffering,
            with_request_body: body?.map(|(settings, _)| settings),
            // What may be seen is said by the filter alone.
            service: service.transpose()?.map(|(service, _)| Arc::new(service)),
        }))
    }

    /// The most specific level, with the extensions of all.
    pub(super) fn merged<'a>(levels: impl Iterator<Item = &'a Self>) -> Self {
        let mut extensions = HashMap::new();
        let mut merged = Self::Settings(Settings::default());
        for level in levels {
            if let Self::Settings(settings) = level {
                extensions.extend(settings.context_extensions.clone());
            }
            merged = level.clone();
        }
        if let Self::Settings(settings) = &mut merged {
            settings.context_extensions = extensions;
        }
        merged
    }

    pub(super) fn is_disabled(&self) -> bool {
        matches!(self, Self::Disabled)
    }

    pub(super) fn settings(&self) -> Option<&Settings> {
        match self {
            Self::Disabled => None,
            Self::Settings(settings) => Some(settings),
        }
    }

    /// How much of the body is shown, where the filter says `default`.
    pub(super) fn body_settings(&self, default: Option<BodySettings>) -> Option<BodySettings> {
        let settings = self.settings()?;
        match settings.disable_request_body_buffering {
            true => None,
            false => settings.with_request_body.or(default),
        }
    }
}
