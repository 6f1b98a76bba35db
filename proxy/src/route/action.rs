//! `RouteAction`: sends a request to a cluster.

#![allow(deprecated, reason = "deprecated fields are decided like all others")]

use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3::RoutingPriority;
use outrigger_proto::pb::envoy::config::route::v3 as pb;
use pb::route_action::ClusterNotFoundResponseCode;

use super::cluster::ClusterSpecifier;
use super::hash_policy::HashPolicy;
use super::hedge_policy::HedgePolicy;
use super::internal_redirect::{InternalRedirectPolicy, RedirectFields};
use super::mirror::MirrorPolicy;
use super::path::PathCriterion;
use super::per_filter::{FilterLevel, PerFilter};
use super::rate_limit::RateLimit;
use super::retry_policy::RetryPolicy;
use super::rewrite::{HostRewrite, PathRewrite, PathRewriteFields};
use crate::config::{ConfigPath, Rejected};
use crate::net::ProxyProtocolVersion;
use crate::upstream::MetadataMatch;

/// Sends a request to a cluster.
#[derive(Debug)]
pub struct RouteAction {
    /// Where to.
    pub cluster: ClusterSpecifier,
    /// The status where that cluster does not exist: 503 (the default), 404 or 500.
    pub cluster_not_found_response_code: u16,
    /// How long the whole response may take once the request has ended. Default 15 s; none if it is disabled.
    pub timeout: Option<Duration>,
    /// How long a stream may be silent. None: what the connection manager says. Zero: for ever.
    pub idle_timeout: Option<Duration>,
    /// When a request is tried again: the route's policy, or that of its virtual host.
    pub retry_policy: Option<Arc<RetryPolicy>>,
    /// Which circuit breakers count it.
    pub priority: Priority,
    /// Adds an authority that is replaced to `x-forwarded-host`.
    pub append_x_forwarded_host: bool,
    /// What few routes have.
    rare: Option<Box<Rare>>,
}

/// `envoy.config.core.v3.RoutingPriority`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the API's own names")]
pub enum Priority {
    #[default]
    Default,
    High,
}

#[derive(Debug, Default)]
struct Rare {
    path_rewrite: Option<PathRewrite>,
    host_rewrite: Option<HostRewrite>,
    timeouts: Timeouts,
    hash_policy: Option<HashPolicy>,
    rate_limits: Box<[RateLimit]>,
    include_vh_rate_limits: bool,
    upgrades: Box<[UpgradeConfig]>,
    mirrors: Arc<[MirrorPolicy]>,
    hedge: HedgePolicy,
    internal_redirect: Option<InternalRedirectPolicy>,
    metadata_match: Option<MetadataMatch>,
}

/// Timeouts that few routes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// `max_stream_duration`: how long the stream may last, in place of the cluster's limit. Present but empty fields are none.
    pub max_stream_duration: Option<MaxStreamDuration>,
    /// The deprecated `max_grpc_timeout`: takes the timeout of `grpc-timeout` up to this much; zero for any.
    pub max_grpc_timeout: Option<Duration>,
    /// The deprecated `grpc_timeout_offset`, taken off `grpc-timeout`.
    pub grpc_timeout_offset: Option<Duration>,
    /// How long the downstream may take to read what has been written when the stream ends; none: the connection manager's.
    pub flush_timeout: Option<Duration>,
}

/// `RouteAction.max_stream_duration`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MaxStreamDuration {
    /// How long the stream may last; zero for no limit, none for what the connection manager says.
    pub max_stream_duration: Option<Duration>,
    /// Takes the timeout of `grpc-timeout` up to this much; zero for any, none for not at all.
    pub grpc_timeout_header_max: Option<Duration>,
    /// Taken off `grpc-timeout`.
    pub grpc_timeout_header_offset: Option<Duration>,
}

/// What a route says about one kind of upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeConfig {
    /// The token of `upgrade`, or `connect`, in lower case.
    pub upgrade_type: Box<str>,
    /// Whether the upgrade may happen. Default true.
    pub enabled: bool,
    /// For CONNECT that ends here: the payload goes on as raw TCP.
    pub connect: Option<ConnectConfig>,
}

/// `UpgradeConfig.connect_config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectConfig {
    /// Takes a POST for a CONNECT as well.
    pub allow_post: bool,
    /// Sends a PROXY header before the payload.
    pub proxy_protocol: Option<ProxyProtocolVersion>,
}

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// What the conversion of an action needs of its route.
pub(super) struct ActionContext<'a> {
    pub(super) per_filter: &'a PerFilter<'a>,
    /// The per-filter configurations of table, virtual host and route.
    pub(super) filter_levels: &'a [&'a FilterLevel],
    pub(super) criterion: Option<&'a PathCriterion>,
    /// The mirror policies of virtual host or table.
    pub(super) mirrors: &'a Arc<[MirrorPolicy]>,
    /// The retry policy of the virtual host.
    pub(super) retry_policy: Option<&'a Arc<RetryPolicy>>,
    /// The hedge policy of the virtual host.
    pub(super) hedge_policy: Option<HedgePolicy>,
}

impl RouteAction {
    #[allow(
        clippy::too_many_lines,
        reason = "one line or two for each of the fields"
    )]
    pub(super) fn from_proto(
        proto: pb::RouteAction,
        context: &ActionContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::RouteAction {
            cluster_not_found_response_code,
            metadata_match,
            prefix_rewrite,
            regex_rewrite,
            path_rewrite_policy,
            path_rewrite,
            append_x_forwarded_host,
            timeout,
            idle_timeout,
            flush_timeout,
            early_data_policy,
            retry_policy,
            retry_policy_typed_config,
            request_mirror_policies,
            priority,
            rate_limits,
            include_vh_rate_limits,
            hash_policy,
            cors,
            max_grpc_timeout,
            grpc_timeout_offset,
            upgrade_configs,
            internal_redirect_policy,
            internal_redirect_action,
            max_internal_redirects,
            hedge_policy,
            max_stream_duration,
            cluster_specifier,
            host_rewrite_specifier,
        } = proto;
        let cx = context.per_filter.cx;
        let unsupported = [
            path.unsupported_if_set("early_data_policy", early_data_policy),
            path.unsupported_if_set("retry_policy_typed_config", retry_policy_typed_config),
            path.unsupported_if_set("cors", cors),
        ];
        let metadata_match = MetadataMatch::from_proto(metadata_match, None);
        let cluster = ClusterSpecifier::from_proto(
            cluster_specifier,
            context.per_filter,
            context.filter_levels,
            metadata_match.as_ref(),
            path,
        );
        let not_found = path.enumeration::<ClusterNotFoundResponseCode>(
            "cluster_not_found_response_code",
            cluster_not_found_response_code,
        );
        let timeout = path.duration("timeout", timeout);
        let idle_timeout = path.duration("idle_timeout", idle_timeout);
        let retry_policy = path.optional("retry_policy", retry_policy, RetryPolicy::from_proto);
        let priority = path.enumeration::<RoutingPriority>("priority", priority);
        let max_stream_duration = path.optional(
            "max_stream_duration",
            max_stream_duration,
            MaxStreamDuration::from_proto,
        );
        let max_grpc_timeout = path.duration("max_grpc_timeout", max_grpc_timeout);
        let grpc_timeout_offset = path.duration("grpc_timeout_offset", grpc_timeout_offset);
        let flush_timeout = path.duration("flush_timeout", flush_timeout);
        let path_rewrite = PathRewrite::from_proto(
            PathRewriteFields {
                prefix_rewrite,
                regex_rewrite,
                path_rewrite_policy,
                path_rewrite,
            },
            context.criterion,
            cx,
            path,
        );
        let host_rewrite = HostRewrite::from_proto(host_rewrite_specifier, cx, path);
        let hash_policy = HashPolicy::from_proto(hash_policy, path);
        let rate_limits = path.each("rate_limits", rate_limits, |limit, path| {
            RateLimit::from_proto(limit, cx, path)
        });
        let upgrades = upgrades(upgrade_configs, path);
        let mirrors = path.each(
            "request_mirror_policies",
            request_mirror_policies,
            |policy, path| MirrorPolicy::from_proto(policy, cx, path),
        );
        let hedge = path.optional("hedge_policy", hedge_policy, HedgePolicy::from_proto);
        let internal_redirect = InternalRedirectPolicy::from_fields(
            RedirectFields {
                policy: internal_redirect_policy,
                action: internal_redirect_action,
                max: max_internal_redirects,
            },
            path,
        );
        for result in unsupported {
            result?;
        }
        let rare = Rare {
            path_rewrite: path_rewrite?,
            host_rewrite: host_rewrite?,
            timeouts: Timeouts {
                max_stream_duration: max_stream_duration?,
                max_grpc_timeout: max_grpc_timeout?,
                grpc_timeout_offset: grpc_timeout_offset?,
                flush_timeout: flush_timeout?,
            },
            hash_policy: hash_policy?,
            rate_limits: rate_limits?.into(),
            include_vh_rate_limits: include_vh_rate_limits.is_some_and(|include| include.value),
            upgrades: upgrades?.into(),
            mirrors: match mirrors? {
                none if none.is_empty() => context.mirrors.clone(),
                own => own.into(),
            },
            hedge: hedge?.or(context.hedge_policy).unwrap_or_default(),
            internal_redirect: internal_redirect?,
            metadata_match,
        };
        Ok(Self {
            cluster: cluster?,
            cluster_not_found_response_code: match not_found? {
                ClusterNotFoundResponseCode::ServiceUnavailable => 503,
                ClusterNotFoundResponseCode::NotFound => 404,
                ClusterNotFoundResponseCode::InternalServerError => 500,
            },
            timeout: Some(timeout?.unwrap_or(DEFAULT_TIMEOUT)).filter(|t| !t.is_zero()),
            idle_timeout: idle_timeout?,
            retry_policy: retry_policy?
                .map(Arc::new)
                .or_else(|| context.retry_policy.cloned()),
            priority: match priority? {
                RoutingPriority::Default => Priority::Default,
                RoutingPriority::High => Priority::High,
            },
            append_x_forwarded_host,
            rare: (!rare.is_empty()).then(|| Box::new(rare)),
        })
    }

    /// Whether the host name of the chosen endpoint becomes the authority. The router then calls [`super::update_authority`].
    pub fn auto_host_rewrite(&self) -> bool {
        matches!(self.host_rewrite(), Some(HostRewrite::Auto))
    }

    /// The timeouts that few routes have.
    pub fn timeouts(&self) -> Timeouts {
        self.rare
            .as_ref()
            .map_or_else(Timeouts::default, |rare| rare.timeouts)
    }

    /// How requests are spread over hosts.
    pub fn hash_policy(&self) -> Option<&HashPolicy> {
        self.rare.as_ref()?.hash_policy.as_ref()
    }

    /// The rate-limit rules of the route itself.
    pub fn rate_limits(&self) -> &[RateLimit] {
        self.rare.as_ref().map_or(&[], |rare| &rare.rate_limits)
    }

    /// Whether the rules of the virtual host count beside those of the route, and not only where the route has none.
    pub fn include_vh_rate_limits(&self) -> bool {
        self.rare
            .as_ref()
            .is_some_and(|rare| rare.include_vh_rate_limits)
    }

    /// What the route says about each kind of upgrade; for the others the connection manager decides.
    pub fn upgrades(&self) -> &[UpgradeConfig] {
        self.rare.as_ref().map_or(&[], |rare| &rare.upgrades)
    }

    /// What the route says of CONNECT that ends at the proxy; none: it does not end here.
    pub fn connect_config(&self) -> Option<ConnectConfig> {
        self.upgrades().iter().find_map(|upgrade| upgrade.connect)
    }

    /// Where requests are mirrored to: as the route says, else its virtual host, else its table.
    pub fn mirrors(&self) -> &[MirrorPolicy] {
        self.rare.as_ref().map_or(&[], |rare| &rare.mirrors)
    }

    /// Whether slow attempts go on beside their retries: as the route says, else its virtual host.
    pub fn hedge_policy(&self) -> HedgePolicy {
        self.rare
            .as_ref()
            .map_or_else(HedgePolicy::default, |rare| rare.hedge)
    }

    /// Which redirects are followed here; none: they go to the client.
    pub fn internal_redirect(&self) -> Option<&InternalRedirectPolicy> {
        self.rare.as_ref()?.internal_redirect.as_ref()
    }

    /// What the metadata of hosts must have.
    pub(super) fn metadata_match(&self) -> Option<&MetadataMatch> {
        self.rare.as_ref()?.metadata_match.as_ref()
    }

    pub(super) fn path_rewrite(&self) -> Option<&PathRewrite> {
        self.rare.as_ref()?.path_rewrite.as_ref()
    }

    pub(super) fn host_rewrite(&self) -> Option<&HostRewrite> {
        self.rare.as_ref()?.host_rewrite.as_ref()
    }
}

impl Rare {
    fn is_empty(&self) -> bool {
        let Self {
            path_rewrite,
            host_rewrite,
            timeouts,
            hash_policy,
            rate_limits,
            include_vh_rate_limits,
            upgrades,
            mirrors,
            hedge,
            internal_redirect,
            metadata_match,
        } = self;
        path_rewrite.is_none()
            && host_rewrite.is_none()
            && *timeouts == Timeouts::default()
            && hash_policy.is_none()
            && rate_limits.is_empty()
            && !include_vh_rate_limits
            && upgrades.is_empty()
            && mirrors.is_empty()
            && *hedge == HedgePolicy::default()
            && internal_redirect.is_none()
            && metadata_match.is_none()
    }
}

impl MaxStreamDuration {
    fn from_proto(
        proto: pb::route_action::MaxStreamDuration,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::route_action::MaxStreamDuration {
            max_stream_duration,
            grpc_timeout_header_max,
            grpc_timeout_header_offset,
        } = proto;
        let duration = path.duration("max_stream_duration", max_stream_duration);
        let most = path.duration("grpc_timeout_header_max", grpc_timeout_header_max);
        let offset = path.duration("grpc_timeout_header_offset", grpc_timeout_header_offset);
        Ok(Self {
            max_stream_duration: duration?,
            grpc_timeout_header_max: most?,
            grpc_timeout_header_offset: offset?,
        })
    }
}

fn upgrades(
    protos: Vec<pb::route_action::UpgradeConfig>,
    path: &ConfigPath<'_>,
) -> Result<Vec<UpgradeConfig>, Rejected> {
    let mut seen: Vec<Box<str>> = Vec::new();
    path.each("upgrade_configs", protos, |proto, path| {
        let upgrade = UpgradeConfig::from_proto(proto, path)?;
        if seen.contains(&upgrade.upgrade_type) {
            return Err(path
                .field("upgrade_type")
                .reject(format!("\"{}\" stands twice", upgrade.upgrade_type)));
        }
        seen.push(upgrade.upgrade_type.clone());
        Ok(upgrade)
    })
}

impl UpgradeConfig {
    fn from_proto(
        proto: pb::route_action::UpgradeConfig,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::route_action::UpgradeConfig {
            upgrade_type,
            enabled,
            connect_config,
        } = proto;
        let upgrade_type = path
            .non_empty("upgrade_type", upgrade_type)?
            .to_ascii_lowercase();
        let connect = path.optional("connect_config", connect_config, |config, path| {
            let pb::route_action::upgrade_config::ConnectConfig {
                proxy_protocol_config,
                allow_post,
            } = config;
            let proxy_protocol = path.optional(
                "proxy_protocol_config",
                proxy_protocol_config,
                ProxyProtocolVersion::from_proto,
            )?;
            if !matches!(upgrade_type.as_str(), "connect" | "connect-udp") {
                return Err(path.reject(format!(
                    "belongs to CONNECT and CONNECT-UDP, not to {upgrade_type}"
                )));
            }
            Ok(ConnectConfig {
                allow_post,
                proxy_protocol,
            })
        })?;
        Ok(Self {
            upgrade_type: upgrade_type.into(),
            enabled: enabled.is_none_or(|enabled| enabled.value),
            connect,
        })
    }
}
