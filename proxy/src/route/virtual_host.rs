//! `VirtualHost`: the routes of some domains.

#![allow(deprecated, reason = "deprecated fields are decided like all others")]

use std::sync::Arc;

use outrigger_proto::pb::envoy::config::route::v3 as pb;
use pb::virtual_host::TlsRequirementType;

use super::entry::{Route, RouteContext};
use super::explain::Unmet;
use super::header_parser::{HeaderLists, HeaderMutations};
use super::hedge_policy::HedgePolicy;
use super::matcher::RouteMatcher;
use super::mirror::MirrorPolicy;
use super::path_index::{Candidates, PathIndex};
use super::per_filter::{FilterLevel, FilterSlots, PerFilter};
use super::rate_limit::RateLimit;
use super::retry_policy::RetryPolicy;
use super::virtual_cluster::VirtualClusters;
use crate::config::{ConfigPath, Rejected};
use crate::http::{Known, Method, RequestHead};
use crate::matchers::metadata_from_proto;
use crate::stream_info::{DynamicMetadata, StreamInfo};

/// The routes of some domains.
#[derive(Debug)]
pub struct VirtualHost {
    /// Its name.
    pub name: Box<str>,
    /// Whether the upstream request says which attempt it is, in `x-envoy-attempt-count`.
    pub include_request_attempt_count: bool,
    /// Whether the response says how many attempts there were.
    pub include_attempt_count_in_response: bool,
    /// Whether a retry after a timeout says so, in `x-envoy-is-timeout-retry`.
    pub include_is_timeout_retry_header: bool,
    require_tls: TlsRequirementType,
    pub(super) routes: Box<[Route]>,
    /// None where there are so few routes that trying each is as quick.
    index: Option<Box<PathIndex>>,
    pub(super) headers: Option<Box<HeaderMutations>>,
    rare: Option<Box<Rare>>,
}

/// What few virtual hosts have.
#[derive(Debug, Default)]
struct Rare {
    /// Chooses among `routes`.
    matcher: Option<RouteMatcher>,
    virtual_clusters: Option<VirtualClusters>,
    rate_limits: Box<[RateLimit]>,
    metadata: Option<DynamicMetadata>,
    buffer_limit: Option<u64>,
}

/// Up to that many routes are tried one after the other.
const FEW: usize = 4;

/// What the conversion of a virtual host needs of its table.
pub(super) struct HostContext<'a> {
    pub(super) per_filter: &'a PerFilter<'a>,
    /// The per-filter configurations of the table, and their slots.
    pub(super) filter_level: &'a FilterLevel,
    pub(super) filters: &'a FilterSlots,
    /// The mirror policies of the table.
    pub(super) mirrors: &'a Arc<[MirrorPolicy]>,
    pub(super) max_direct_response_body: u32,
}

impl VirtualHost {
    #[allow(
        clippy::too_many_lines,
        reason = "one line or two for each of the fields"
    )]
    pub(super) fn from_proto(
        proto: pb::VirtualHost,
        context: &HostContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::VirtualHost {
            name,
            // The table has put them into its index.
            domains: _,
            routes,
            matcher,
            require_tls,
            virtual_clusters,
            rate_limits,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            cors,
            typed_per_filter_config,
            include_request_attempt_count,
            include_attempt_count_in_response,
            retry_policy,
            retry_policy_typed_config,
            hedge_policy,
            include_is_timeout_retry_header,
            per_request_buffer_limit_bytes,
            request_body_buffer_limit,
            request_mirror_policies,
            metadata,
            route_specifiers,
        } = proto;
        let cx = context.per_filter.cx;
        let unsupported = [
            path.unsupported_if_set("cors", cors),
            path.unsupported_if_set("retry_policy_typed_config", retry_policy_typed_config),
            path.unsupported_if_set("route_specifiers", route_specifiers),
        ];
        let name = path.non_empty("name", name);
        let virtual_clusters = VirtualClusters::from_proto(
            virtual_clusters,
            name.as_deref().unwrap_or_default(),
            cx,
            path,
        );
        let require_tls = path.enumeration::<TlsRequirementType>("require_tls", require_tls);
        let rate_limits = path.each("rate_limits", rate_limits, |limit, path| {
            RateLimit::from_proto(limit, cx, path)
        });
        let headers = HeaderMutations::from_proto(
            HeaderLists {
                request_add: request_headers_to_add,
                request_remove: request_headers_to_remove,
                response_add: response_headers_to_add,
                response_remove: response_headers_to_remove,
            },
            cx,
            path,
        );
        let retry_policy = path
            .optional("retry_policy", retry_policy, RetryPolicy::from_proto)
            .map(|policy| policy.map(Arc::new));
        let hedge_policy = path.optional("hedge_policy", hedge_policy, HedgePolicy::from_proto);
        let own_filters = context.per_filter.level(typed_per_filter_config, path);
        let no_filters = FilterLevel::default();
        let filter_levels = [
            context.filter_level,
            own_filters.as_ref().unwrap_or(&no_filters),
        ];
        let filters = if filter_levels[1].is_empty() {
            context.filters.clone()
        } else {
            context.per_filter.resolve(&filter_levels)
        };
        let mirrors = path.each(
            "request_mirror_policies",
            request_mirror_policies,
            |policy, path| MirrorPolicy::from_proto(policy, cx, path),
        );
        let own_mirrors = mirrors.map(Arc::<[_]>::from);
        let route_context = RouteContext {
            per_filter: context.per_filter,
            virtual_host: name.as_deref().unwrap_or_default(),
            filter_levels,
            filters: &filters,
            retry_policy: retry_policy.as_ref().ok().and_then(Option::as_ref),
            hedge_policy: hedge_policy.as_ref().ok().copied().flatten(),
            mirrors: match &own_mirrors {
                Ok(own) if !own.is_empty() => own,
                _ => context.mirrors,
            },
            max_direct_response_body: context.max_direct_response_body,
        };
        if matcher.is_some() && !routes.is_empty() {
            return Err(path.field("matcher").reject("cannot stand beside routes"));
        }
        let routes = path.each("routes", routes, |route, path| {
            Route::from_proto(route, &route_context, path)
        });
        let matcher = path.optional("matcher", matcher, |matcher, path| {
            RouteMatcher::from_proto(matcher, &route_context, path)
        });
        for result in unsupported {
            result?;
        }
        let mut rare = Rare {
            rate_limits: rate_limits?.into(),
            metadata: metadata.map(metadata_from_proto),
            matcher: None,
            virtual_clusters: virtual_clusters?,
            buffer_limit: request_body_buffer_limit
                .map(|limit| limit.value)
                .or(per_request_buffer_limit_bytes.map(|limit| u64::from(limit.value))),
        };
        own_mirrors.map(drop)?;
        retry_policy.map(drop)?;
        hedge_policy?;
        own_filters.map(drop)?;
        let (matcher, matched) = matcher?.unzip();
        rare.matcher = matcher;
        let routes: Box<[Route]> = matched.map_or(routes, Ok)?.into();
        Ok(Self {
            name: name?.into(),
            include_request_attempt_count,
            include_attempt_count_in_response,
            include_is_timeout_retry_header,
            require_tls: require_tls?,
            index: (routes.len() > FEW && rare.matcher.is_none())
                .then(|| Box::new(PathIndex::new(routes.iter().map(|route| &route.path)))),
            routes,
            headers: headers?,
            rare: (!rare.is_empty()).then(|| Box::new(rare)),
        })
    }

    /// Whether the request must come again over TLS.
    pub(super) fn demands_tls(&self, head: &RequestHead) -> bool {
        let over_tls = || head.fields.get(Known::ForwardedProto) == Some(b"https");
        match self.require_tls {
            TlsRequirementType::None => false,
            TlsRequirementType::All => !over_tls(),
            TlsRequirementType::ExternalOnly => {
                !over_tls() && head.fields.get(Known::EnvoyInternal) != Some(b"true")
            }
        }
    }

    /// The number of the first route that a request meets.
    pub(super) fn find(
        &self,
        head: &RequestHead,
        path: Option<&[u8]>,
        info: &StreamInfo,
        random: u64,
    ) -> Option<u32> {
        let connect = is_connect(head);
        let meets = |number: &u32| {
            let route = &self.routes[*number as usize];
            meets_path(route, path, connect) && route.meets_criteria(head, info, random)
        };
        match &self.index {
            Some(index) => {
                let mut candidates: Candidates<'_> = index.candidates(path, connect);
                candidates.find(meets)
            }
            None => self.candidates(head, info).find(meets),
        }
    }

    /// The numbers of the routes that a request may take, whatever they ask of it.
    #[inline]
    pub(super) fn candidates(&self, head: &RequestHead, info: &StreamInfo) -> std::ops::Range<u32> {
        match self.rare.as_ref().and_then(|rare| rare.matcher.as_ref()) {
            Some(matcher) => matcher.find(head, info),
            None => 0..u32::try_from(self.routes.len()).unwrap_or(u32::MAX),
        }
    }

    /// What the route with this number lacks for a request; none: nothing.
    pub(super) fn unmet(
        &self,
        number: u32,
        head: &RequestHead,
        path: Option<&[u8]>,
        info: &StreamInfo,
        random: u64,
    ) -> Option<Unmet> {
        let route = &self.routes[number as usize];
        if meets_path(route, path, is_connect(head)) {
            route.unmet_criterion(head, info, random)
        } else {
            Some(Unmet::Path)
        }
    }

    #[cfg(test)]
    pub(super) fn index(&self) -> Option<&PathIndex> {
        self.index.as_deref()
    }

    /// As `find`, without the index.
    #[cfg(test)]
    pub(super) fn scan(
        &self,
        head: &RequestHead,
        path: Option<&[u8]>,
        info: &StreamInfo,
        random: u64,
    ) -> Option<u32> {
        let connect = is_connect(head);
        let position = self.routes.iter().position(|route| {
            meets_path(route, path, connect) && route.meets_criteria(head, info, random)
        });
        position.map(|position| u32::try_from(position).unwrap())
    }

    /// The virtual clusters; none: there are none.
    #[inline]
    pub(super) fn virtual_clusters(&self) -> Option<&VirtualClusters> {
        self.rare.as_ref()?.virtual_clusters.as_ref()
    }

    /// The rate-limit rules of the virtual host.
    pub fn rate_limits(&self) -> &[RateLimit] {
        self.rare.as_ref().map_or(&[], |rare| &rare.rate_limits)
    }

    /// `VirtualHost.metadata`.
    pub fn metadata(&self) -> Option<&DynamicMetadata> {
        self.rare.as_ref()?.metadata.as_ref()
    }

    pub(super) fn buffer_limit(&self) -> Option<u64> {
        self.rare.as_ref()?.buffer_limit
    }
}

impl Rare {
    fn is_empty(&self) -> bool {
        let Self {
            matcher,
            virtual_clusters,
            rate_limits,
            metadata,
            buffer_limit,
        } = self;
        matcher.is_none()
            && virtual_clusters.is_none()
            && rate_limits.is_empty()
            && metadata.is_none()
            && buffer_limit.is_none()
    }
}

#[inline]
fn meets_path(route: &Route, path: Option<&[u8]>, connect: bool) -> bool {
    path.is_some_and(|path| route.path.matches(path)) || (connect && route.path.is_connect())
}

/// A CONNECT for a tunnel, or for `connect-udp`. An extended CONNECT of another protocol is an upgrade like any other.
fn is_connect(head: &RequestHead) -> bool {
    let tunnel = head.method() == Method::Connect
        && head
            .protocol()
            .is_none_or(|protocol| matches!(protocol, b"bytestream" | b"connect-udp"));
    tunnel
        || head
            .fields
            .get(Known::Upgrade)
            .is_some_and(|upgrade| upgrade.eq_ignore_ascii_case(b"connect-udp"))
}
