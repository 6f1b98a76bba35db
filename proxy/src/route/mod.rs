//! Route configurations: which cluster, redirect or answer a request gets.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/route/v3/route.proto>
//!
//! A [`RouteTable`] is built once per configuration. A look-up is by index: the virtual host by hash maps, the route by the
//! anchors of its path criterion, so that a thousand routes cost about what one costs. The first route in the order of the
//! configuration that matches is taken, as in Envoy.
//!
//! Deviations: the port that was stripped from the authority of a CONNECT is not put back.
//! Deviations: `vhost_header`, `filter_action` and route specifiers are refused, and `vhds` of a table that stands in its
//! connection manager.
//! Deviations: cluster specifier plugins are refused.
//! Deviations: `cors` outside `typed_per_filter_config` is refused.

mod action;
mod cluster;
mod criteria;
mod direct_response;
mod domains;
mod entry;
mod explain;
mod hash_policy;
mod header_parser;
mod hedge_policy;
mod internal_redirect;
mod matcher;
mod mirror;
mod path;
mod path_index;
mod per_filter;
pub mod provider;
mod rate_limit;
mod redirect;
mod request_match;
mod retry_policy;
mod rewrite;
mod route_stats;
pub mod scoped;
mod table;
#[cfg(test)]
mod tests;
mod uri_template;
mod virtual_cluster;
mod virtual_host;

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;

pub use action::{
    ConnectConfig, MaxStreamDuration, Priority, RouteAction, Timeouts, UpgradeConfig,
};
pub use cluster::{
    ClusterChoice, ClusterSpecifier, ClusterTarget, WeightedCluster, WeightedClusters,
};
pub use direct_response::DirectResponse;
pub use entry::{Action, Decorator, Route, RouteTracing};
pub use explain::{RouteLookup, Unmet};
pub use hash_policy::{HashPolicy, NewCookie};
pub(crate) use header_parser::append_action_of;
pub use header_parser::{HeaderMutations, HeaderParser};
pub use hedge_policy::HedgePolicy;
pub use internal_redirect::{InternalRedirectPolicy, RedirectPredicate};
pub use matcher::routes_in;
pub use mirror::MirrorPolicy;
pub use rate_limit::{Descriptor, RateLimit, RateLimitPlace};
pub use redirect::{RedirectAction, https_location};
pub use request_match::RequestMatch;
pub use retry_policy::{HostPredicate, RateLimitedBackOff, ResetHeader, RetryOn, RetryPolicy};
pub use rewrite::update_authority;
pub use route_stats::{RouteCounters, RouteStats};
pub use table::RouteTable;
pub use uri_template::UriTemplate;
pub use virtual_cluster::VirtualCluster;
pub use virtual_host::VirtualHost;

use crate::formatter::NamedRoute;
use crate::http::{Known, RequestHead, ResponseHead};
use crate::matchers::HeaderSource;
use crate::stream_info::{DynamicMetadata, StreamInfo};
use crate::upstream::{ClusterNames, MetadataMatch, NamedClusters};

/// Where in a table a route stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteIndex {
    /// The virtual host.
    pub virtual_host: u32,
    /// The route in it.
    pub route: u32,
    /// The entry of `weighted_clusters` that was drawn.
    pub weighted_cluster: Option<u32>,
    /// The virtual cluster that the request belongs to, once the router has looked.
    pub virtual_cluster: Option<u32>,
}

/// What a table has found for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// A route.
    Route(RouteIndex),
    /// The virtual host wants TLS: the answer is 301, to [`https_location`].
    RequireTls,
    /// Nothing: 404, flag `NR`.
    None,
}

/// A route that a stream has chosen, with the table that it belongs to (of this worker: no shared count is touched).
#[derive(Debug, Clone)]
pub struct SelectedRoute {
    /// The table.
    pub table: Rc<Arc<RouteTable>>,
    /// The place in it.
    pub index: RouteIndex,
}

impl SelectedRoute {
    /// The route itself.
    pub fn route(&self) -> &Route {
        self.table.route(self.index)
    }

    /// The virtual host of the route.
    pub fn virtual_host(&self) -> &VirtualHost {
        &self.table.virtual_hosts[self.index.virtual_host as usize]
    }

    /// Finds the virtual cluster of a request. Says whether there are any.
    #[inline]
    pub fn join_virtual_cluster(&mut self, head: &RequestHead) -> bool {
        let found = self
            .virtual_host()
            .virtual_clusters()
            .map(|all| all.find(head));
        let any = found.is_some();
        self.index.virtual_cluster = found.flatten();
        any
    }

    /// The virtual cluster of the request.
    pub fn virtual_cluster(&self) -> Option<&VirtualCluster> {
        let number = self.index.virtual_cluster?;
        self.virtual_host().virtual_clusters()?.get(number)
    }

    /// The stats that requests of the route are counted in, beside those of their cluster.
    #[inline]
    pub fn counted(&self) -> [Option<&Arc<RouteStats>>; 2] {
        [
            self.route().stats(),
            self.virtual_cluster().map(|cluster| &cluster.stats),
        ]
    }

    /// The merged configuration of the filter whose name has the number `slot` in this table.
    pub fn filter_config(&self, slot: usize) -> Option<&(dyn Any + Send + Sync)> {
        self.filters().config(slot).map(|config| &**config)
    }

    /// Whether the filter is switched off (or on) for this route; none if nothing says so.
    pub fn filter_disabled(&self, slot: usize) -> Option<bool> {
        self.filters().disabled(slot)
    }

    /// What names the cluster; none for a route that does not forward.
    pub fn cluster_target(&self) -> Option<&ClusterTarget> {
        match &self.route().forward()?.cluster {
            ClusterSpecifier::One(target) => Some(target),
            ClusterSpecifier::Weighted(_) => self.weighted_cluster().map(|c| &c.target),
        }
    }

    /// The cluster for a request. For a route that does not forward there is none.
    pub fn cluster(&self, head: &RequestHead, clusters: &impl NamedClusters) -> ClusterChoice {
        self.cluster_target()
            .map_or(ClusterChoice::NotFound, |target| {
                target.choose(head, clusters)
            })
    }

    /// The name of that cluster, be it known or not.
    pub fn cluster_name(&self, head: &RequestHead, names: &ClusterNames) -> Option<Arc<str>> {
        match self.cluster_target()? {
            ClusterTarget::Id(id) => names.name(*id),
            ClusterTarget::Header(key) => {
                let name = HeaderSource::first(head, key)?;
                std::str::from_utf8(&name).ok().map(Arc::from)
            }
        }
    }

    /// What the metadata of the host must have: as the drawn cluster says, or else the route.
    pub fn metadata_match(&self) -> Option<&MetadataMatch> {
        let of_cluster = self.weighted_cluster();
        let of_cluster = of_cluster.and_then(|cluster| cluster.metadata_match.as_deref());
        of_cluster.or_else(|| self.route().forward()?.metadata_match())
    }

    /// The largest body that may be buffered for retries, in bytes: of the route, or else of the virtual host.
    pub fn request_body_buffer_limit(&self) -> Option<u64> {
        let host = self.virtual_host();
        self.route().buffer_limit().or_else(|| host.buffer_limit())
    }

    /// The value of `location`, for a route that redirects, or answers by itself with a status that has one.
    pub fn redirect_location(&self, head: &RequestHead, info: &StreamInfo) -> Option<Vec<u8>> {
        let route = self.route();
        match &route.action {
            Action::Redirect(redirect) => Some(redirect.location(head, &route.path, info)),
            Action::DirectResponse(response) if matches!(response.status, 201 | 300..=399) => {
                Some(RedirectAction::HERE.location(head, &route.path, info))
            }
            _ => None,
        }
    }

    /// Makes the request what the upstream shall get: headers first, then host, then path.
    ///
    /// `keep_original` keeps what is rewritten in `x-envoy-original-path` and `x-envoy-original-host`.
    pub fn finalize_request_headers(
        &self,
        head: &mut RequestHead,
        info: &StreamInfo,
        keep_original: bool,
    ) {
        if let Some(cluster) = self.weighted_cluster() {
            if let Some(parser) = cluster.headers.as_ref().and_then(|h| h.request.as_ref()) {
                parser.evaluate_request(head, info);
            }
            if let Some(host) = &cluster.host_rewrite {
                head.set_authority(host);
            }
        }
        for parser in self.mutations().into_iter().flatten() {
            if let Some(parser) = &parser.request {
                parser.evaluate_request(head, info);
            }
        }
        let route = self.route();
        let Action::Forward(action) = &route.action else {
            return;
        };
        if let Some(host) = action.host_rewrite().and_then(|r| r.rewrite(head, info)) {
            update_authority(head, &host, action.append_x_forwarded_host, keep_original);
        }
        let path = action
            .path_rewrite()
            .and_then(|rewrite| rewrite.rewrite(head, &route.path, info));
        if let Some(path) = path {
            if keep_original {
                let original = rewrite::Rewritten::from_slice(head.path().unwrap_or_default());
                head.fields.set(Known::EnvoyOriginalPath, original);
            }
            head.set_path(&path);
        }
    }

    /// Makes the response what the client shall get. `request` is for the values that are made of it.
    pub fn finalize_response_headers(
        &self,
        head: &mut ResponseHead,
        request: &RequestHead,
        info: &StreamInfo,
    ) {
        let cluster = self.weighted_cluster();
        let cluster = cluster.and_then(|cluster| cluster.headers.as_deref());
        for mutations in [cluster].into_iter().chain(self.mutations()).flatten() {
            if let Some(parser) = &mutations.response {
                parser.evaluate_response(head, Some(request), info);
            }
        }
    }

    /// The entry of `weighted_clusters` that was drawn.
    pub fn weighted_cluster(&self) -> Option<&WeightedCluster> {
        let index = self.index.weighted_cluster?;
        match &self.route().forward()?.cluster {
            ClusterSpecifier::Weighted(weighted) => weighted.clusters.get(index as usize),
            ClusterSpecifier::One(_) => None,
        }
    }

    fn filters(&self) -> &per_filter::FilterSlots {
        self.weighted_cluster()
            .and_then(|cluster| cluster.filters.as_ref())
            .unwrap_or_else(|| &self.route().filters)
    }

    /// The mutations of all levels, in the order in which they happen: later ones win.
    fn mutations(&self) -> [Option<&HeaderMutations>; 3] {
        let mut levels = [
            self.route().headers.as_deref(),
            self.virtual_host().headers.as_deref(),
            self.table.headers.as_deref(),
        ];
        if self.table.most_specific_header_mutations_wins {
            levels.reverse();
        }
        levels
    }
}

impl NamedRoute for SelectedRoute {
    fn route_name(&self) -> &str {
        self.route().name.as_deref().unwrap_or_default()
    }

    fn virtual_cluster_name(&self) -> Option<&str> {
        self.virtual_cluster().map(|cluster| &*cluster.name)
    }

    fn route_metadata(&self) -> Option<&DynamicMetadata> {
        self.route().metadata()
    }

    fn virtual_host_metadata(&self) -> Option<&DynamicMetadata> {
        self.virtual_host().metadata()
    }
}
