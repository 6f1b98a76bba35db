//! `Route`: one entry of a virtual host.

#![allow(deprecated, reason = "deprecated fields are decided like all others")]

use std::sync::Arc;

use outrigger_proto::pb::envoy::config::route::v3 as pb;

use super::action::{ActionContext, RouteAction};
use super::criteria::Criteria;
use super::direct_response::DirectResponse;
use super::explain::Unmet;
use super::header_parser::{HeaderLists, HeaderMutations};
use super::hedge_policy::HedgePolicy;
use super::mirror::MirrorPolicy;
use super::path::PathCriterion;
use super::per_filter::{FilterLevel, FilterSlots, PerFilter};
use super::redirect::RedirectAction;
use super::retry_policy::RetryPolicy;
use super::route_stats::RouteStats;
use crate::config::{ConfigPath, Fraction, Rejected};
use crate::http::RequestHead;
use crate::matchers::metadata_from_proto;
use crate::stream_info::{DynamicMetadata, StreamInfo};

/// One entry of a virtual host.
#[derive(Debug)]
pub struct Route {
    /// Its name; none if it has none.
    pub name: Option<Box<str>>,
    /// What happens to requests that match it.
    pub action: Action,
    pub(super) path: PathCriterion,
    criteria: Option<Box<Criteria>>,
    pub(super) headers: Option<Box<HeaderMutations>>,
    pub(super) filters: FilterSlots,
    rare: Option<Box<Rare>>,
}

/// What happens to a request.
#[derive(Debug)]
pub enum Action {
    /// It goes to a cluster.
    Forward(RouteAction),
    /// The client is sent elsewhere.
    Redirect(Box<RedirectAction>),
    /// The proxy answers by itself.
    DirectResponse(Box<DirectResponse>),
    /// Nothing: filters answer, or the request is not for forwarding.
    NonForwarding,
}

/// What few routes have.
#[derive(Debug, Default)]
struct Rare {
    stats: Option<Arc<RouteStats>>,
    decorator: Option<Decorator>,
    tracing: Option<RouteTracing>,
    metadata: Option<DynamicMetadata>,
    buffer_limit: Option<u64>,
}

/// `Route.decorator`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decorator {
    /// The name of the span.
    pub operation: Box<str>,
    /// Whether `x-envoy-decorator-operation` passes it on. Default true.
    pub propagate: bool,
}

/// `Route.tracing`: the sampling of this route, in place of the connection manager's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTracing {
    /// Of the requests with `x-client-trace-id`. Default 100 %.
    pub client_sampling: Fraction,
    /// Of all requests. Default 100 %.
    pub random_sampling: Fraction,
    /// Of those that the other two have chosen. Default 100 %.
    pub overall_sampling: Fraction,
}

/// What the conversion of a route needs of its virtual host and table.
pub(super) struct RouteContext<'a> {
    pub(super) per_filter: &'a PerFilter<'a>,
    /// The name of the virtual host.
    pub(super) virtual_host: &'a str,
    /// The per-filter configurations of table and virtual host, and their slots.
    pub(super) filter_levels: [&'a FilterLevel; 2],
    pub(super) filters: &'a FilterSlots,
    pub(super) retry_policy: Option<&'a Arc<RetryPolicy>>,
    pub(super) hedge_policy: Option<HedgePolicy>,
    pub(super) mirrors: &'a Arc<[MirrorPolicy]>,
    pub(super) max_direct_response_body: u32,
}

impl Route {
    #[allow(
        clippy::too_many_lines,
        reason = "one line or two for each of the fields"
    )]
    pub(super) fn from_proto(
        proto: pb::Route,
        context: &RouteContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::Route {
            name,
            r#match,
            metadata,
            decorator,
            typed_per_filter_config,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            tracing,
            per_request_buffer_limit_bytes,
            stat_prefix,
            request_body_buffer_limit,
            route_specifiers,
            action,
        } = proto;
        let cx = context.per_filter.cx;
        let specifiers = path.unsupported_if_set("route_specifiers", route_specifiers);
        let criteria = path
            .required("match", r#match)
            .and_then(|proto| Criteria::from_proto(proto, cx, &path.field("match")));
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
        let decorator = path.optional("decorator", decorator, |proto, path| {
            let pb::Decorator {
                operation,
                propagate,
            } = proto;
            Ok(Decorator {
                operation: path.non_empty("operation", operation)?.into(),
                propagate: propagate.is_none_or(|propagate| propagate.value),
            })
        });
        let tracing = path.optional("tracing", tracing, RouteTracing::from_proto);
        // Without the configuration of its filters the actions of its clusters can be checked all the same.
        let own_filters = context.per_filter.level(typed_per_filter_config, path);
        let no_filters = FilterLevel::default();
        let [table, host] = context.filter_levels;
        let levels = [table, host, own_filters.as_ref().unwrap_or(&no_filters)];
        let filters = if levels[2].is_empty() {
            context.filters.clone()
        } else {
            context.per_filter.resolve(&levels)
        };
        let action = Action::from_proto(
            action,
            &ActionContext {
                per_filter: context.per_filter,
                filter_levels: &levels,
                criterion: criteria.as_ref().ok().map(|(criterion, _)| criterion),
                retry_policy: context.retry_policy,
                hedge_policy: context.hedge_policy,
                mirrors: context.mirrors,
            },
            context.max_direct_response_body,
            path,
        );
        specifiers?;
        let rare = Rare {
            stats: (!stat_prefix.is_empty()).then(|| {
                let store = &cx.server.stats;
                Arc::new(RouteStats::new(store, context.virtual_host, &stat_prefix))
            }),
            decorator: decorator?,
            tracing: tracing?,
            metadata: metadata.map(metadata_from_proto),
            buffer_limit: request_body_buffer_limit
                .map(|limit| limit.value)
                .or(per_request_buffer_limit_bytes.map(|limit| u64::from(limit.value))),
        };
        own_filters?;
        let (path, criteria) = criteria?;
        Ok(Self {
            name: (!name.is_empty()).then(|| name.into()),
            action: action?,
            path,
            criteria,
            headers: headers?,
            filters,
            rare: (!rare.is_empty()).then(|| Box::new(rare)),
        })
    }

    /// Whether a request meets every criterion but the one on the path.
    #[inline]
    pub(super) fn meets_criteria(
        &self,
        head: &RequestHead,
        info: &StreamInfo,
        random: u64,
    ) -> bool {
        self.criteria
            .as_ref()
            .is_none_or(|criteria| criteria.matches(head, info, random))
    }

    /// The first criterion that a request does not meet, the one on the path aside.
    pub(super) fn unmet_criterion(
        &self,
        head: &RequestHead,
        info: &StreamInfo,
        random: u64,
    ) -> Option<Unmet> {
        self.criteria.as_ref()?.unmet(head, info, random)
    }

    /// The stats of the route, if it has a `stat_prefix`.
    #[inline]
    pub fn stats(&self) -> Option<&Arc<RouteStats>> {
        self.rare.as_ref()?.stats.as_ref()
    }

    /// `Route.decorator`.
    pub fn decorator(&self) -> Option<&Decorator> {
        self.rare.as_ref()?.decorator.as_ref()
    }

    /// `Route.tracing`.
    pub fn tracing(&self) -> Option<&RouteTracing> {
        self.rare.as_ref()?.tracing.as_ref()
    }

    /// `Route.metadata`.
    pub fn metadata(&self) -> Option<&DynamicMetadata> {
        self.rare.as_ref()?.metadata.as_ref()
    }

    pub(super) fn buffer_limit(&self) -> Option<u64> {
        self.rare.as_ref()?.buffer_limit
    }

    /// The action, if it forwards.
    pub fn forward(&self) -> Option<&RouteAction> {
        match &self.action {
            Action::Forward(action) => Some(action),
            Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding => None,
        }
    }
}

impl Action {
    fn from_proto(
        proto: Option<pb::route::Action>,
        context: &ActionContext<'_>,
        max_body: u32,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let cx = context.per_filter.cx;
        match proto {
            None => {
                Err(path
                    .reject("needs one of route, redirect, direct_response, non_forwarding_action"))
            }
            Some(pb::route::Action::Route(proto)) => {
                RouteAction::from_proto(proto, context, &path.field("route")).map(Self::Forward)
            }
            Some(pb::route::Action::Redirect(proto)) => {
                RedirectAction::from_proto(proto, cx, &path.field("redirect"))
                    .map(|redirect| Self::Redirect(Box::new(redirect)))
            }
            Some(pb::route::Action::DirectResponse(proto)) => {
                DirectResponse::from_proto(proto, max_body, cx, &path.field("direct_response"))
                    .map(|response| Self::DirectResponse(Box::new(response)))
            }
            Some(pb::route::Action::NonForwardingAction(pb::NonForwardingAction {})) => {
                Ok(Self::NonForwarding)
            }
            Some(pb::route::Action::FilterAction(_)) => {
                Err(path.field("filter_action").reject("is not supported"))
            }
        }
    }
}

impl Rare {
    fn is_empty(&self) -> bool {
        let Self {
            stats,
            decorator,
            tracing,
            metadata,
            buffer_limit,
        } = self;
        stats.is_none()
            && decorator.is_none()
            && tracing.is_none()
            && metadata.is_none()
            && buffer_limit.is_none()
    }
}

impl RouteTracing {
    fn from_proto(proto: pb::Tracing, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::Tracing {
            client_sampling,
            random_sampling,
            overall_sampling,
            custom_tags,
            operation,
            upstream_operation,
        } = proto;
        let unsupported = [
            path.unsupported_if_set("custom_tags", custom_tags),
            path.unsupported_if_set("operation", operation),
            path.unsupported_if_set("upstream_operation", upstream_operation),
        ];
        let share = |name, value| {
            path.optional(name, value, Fraction::from_proto)
                .map(|fraction| fraction.unwrap_or(Fraction::ALWAYS))
        };
        let client = share("client_sampling", client_sampling);
        let random = share("random_sampling", random_sampling);
        let overall = share("overall_sampling", overall_sampling);
        for result in unsupported {
            result?;
        }
        Ok(Self {
            client_sampling: client?,
            random_sampling: random?,
            overall_sampling: overall?,
        })
    }
}
