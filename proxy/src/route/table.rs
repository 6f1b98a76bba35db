//! `RouteConfiguration` as a table: domains to virtual hosts, paths to routes.

use std::collections::BTreeSet;
use std::sync::Arc;

use outrigger_proto::pb::envoy::config::route::v3 as pb;

use super::cluster::ClusterSpecifier;
use super::domains::Domains;
use super::entry::{Action, Route};
use super::header_parser::{HeaderLists, HeaderMutations};
use super::mirror::MirrorPolicy;
use super::per_filter::{self, PerFilter};
use super::virtual_host::{HostContext, VirtualHost};
use super::{RouteIndex, Selection};
use crate::config::{ConfigPath, Rejected};
use crate::http::{HeaderName, RequestHead};
use crate::http_filters::{FACTORIES, HttpFilterFactory};
use crate::matchers::metadata_from_proto;
use crate::server::FactoryContext;
use crate::stream_info::{DynamicMetadata, StreamInfo};
use crate::upstream::ClusterId;

/// A route configuration, ready for look-ups. Immutable; a new one replaces it as a whole.
pub struct RouteTable {
    name: Box<str>,
    domains: Domains,
    pub(super) virtual_hosts: Box<[VirtualHost]>,
    filter_names: Box<[Box<str>]>,
    pub(super) headers: Option<Box<HeaderMutations>>,
    /// Lets the route's own header mutations come last, so that they win.
    pub(super) most_specific_header_mutations_wins: bool,
    ignore_path_parameters: bool,
    internal_only_headers: Box<[HeaderName]>,
    validate_clusters: Option<bool>,
    metadata: DynamicMetadata,
}

const DEFAULT_MAX_DIRECT_RESPONSE_BODY: u32 = 4096;

impl RouteTable {
    /// Converts a `RouteConfiguration`.
    pub fn from_proto(
        proto: pb::RouteConfiguration,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        Self::with_factories(proto, FACTORIES, cx, path)
    }

    /// Every filter name that a configuration mentions.
    pub fn filter_names(proto: &pb::RouteConfiguration) -> BTreeSet<Box<str>> {
        per_filter::filter_names(proto)
    }

    /// Converts a `RouteConfiguration`, and numbers these filter names, among which all of its own are: so tables that one stream
    /// may change between have the same numbers.
    pub fn numbered(
        proto: pb::RouteConfiguration,
        names: BTreeSet<Box<str>>,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        Self::convert(proto, PerFilter::with_names(names, FACTORIES, cx), path)
    }

    /// A table without routes: what streams get before the first configuration has come.
    pub fn empty(name: &str) -> Self {
        Self {
            name: name.into(),
            domains: Domains::new(false),
            virtual_hosts: Box::default(),
            filter_names: Box::default(),
            headers: None,
            most_specific_header_mutations_wins: false,
            ignore_path_parameters: false,
            internal_only_headers: Box::default(),
            validate_clusters: None,
            metadata: DynamicMetadata::default(),
        }
    }

    pub(super) fn with_factories(
        proto: pb::RouteConfiguration,
        factories: &[&dyn HttpFilterFactory],
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let per_filter = PerFilter::new(&proto, factories, cx);
        Self::convert(proto, per_filter, path)
    }

    fn convert(
        proto: pb::RouteConfiguration,
        per_filter: PerFilter<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let cx = per_filter.cx;
        let pb::RouteConfiguration {
            name,
            virtual_hosts,
            vhds,
            internal_only_headers,
            response_headers_to_add,
            response_headers_to_remove,
            request_headers_to_add,
            request_headers_to_remove,
            most_specific_header_mutations_wins,
            validate_clusters,
            max_direct_response_body_size_bytes,
            cluster_specifier_plugins,
            request_mirror_policies,
            ignore_port_in_host_matching,
            vhost_header,
            ignore_path_parameters_in_path_matching,
            typed_per_filter_config,
            metadata,
            route_specifiers,
        } = proto;
        let unsupported = [
            path.unsupported_if_set("vhds", vhds),
            path.unsupported_if_set("cluster_specifier_plugins", cluster_specifier_plugins),
            path.unsupported_if_set("vhost_header", vhost_header),
            path.unsupported_if_set("route_specifiers", route_specifiers),
        ];
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
        let filter_level = per_filter.level(typed_per_filter_config, path);
        let no_filters = Default::default();
        let level = filter_level.as_ref().unwrap_or(&no_filters);
        let mirrors = path.each(
            "request_mirror_policies",
            request_mirror_policies,
            |policy, path| MirrorPolicy::from_proto(policy, cx, path),
        );
        let (mirrors, bad_mirrors) = match mirrors {
            Ok(mirrors) => (Arc::from(mirrors), None),
            Err(rejected) => (Arc::from([]), Some(rejected)),
        };
        let context = HostContext {
            per_filter: &per_filter,
            filter_level: level,
            filters: &per_filter.resolve(&[level]),
            mirrors: &mirrors,
            max_direct_response_body: max_direct_response_body_size_bytes
                .map_or(DEFAULT_MAX_DIRECT_RESPONSE_BODY, |most| most.value),
        };
        let mut domains = Domains::new(ignore_port_in_host_matching);
        let mut number = 0;
        let hosts = path.each("virtual_hosts", virtual_hosts, |host, path| {
            let inserted = insert_domains(&host.domains, number, &mut domains, path);
            number += 1;
            let host = VirtualHost::from_proto(host, &context, path)?;
            inserted.map(|()| host)
        });
        domains.shrink();
        bad_mirrors.map_or(Ok(()), Err)?;
        for result in unsupported {
            result?;
        }
        filter_level.map(drop)?;
        Ok(Self {
            name: name.into(),
            domains,
            virtual_hosts: hosts?.into(),
            filter_names: per_filter.into_names(),
            headers: headers?,
            most_specific_header_mutations_wins,
            ignore_path_parameters: ignore_path_parameters_in_path_matching,
            internal_only_headers: internal_only_headers
                .into_iter()
                .map(HeaderName::new)
                .collect(),
            validate_clusters: validate_clusters.map(|validate| validate.value),
            metadata: metadata.map(metadata_from_proto).unwrap_or_default(),
        })
    }

    /// The route of a request. `random` decides on runtime fractions and between weighted clusters.
    pub fn select(&self, head: &RequestHead, info: &StreamInfo, random: u64) -> Selection {
        let Some(virtual_host) = self.domains.find(head.authority()) else {
            return Selection::None;
        };
        let host = &self.virtual_hosts[virtual_host as usize];
        if host.demands_tls(head) {
            return Selection::RequireTls;
        }
        let path = head.path().map(|_| self.path_to_match(head));
        let Some(route) = host.find(head, path, info, random) else {
            return Selection::None;
        };
        let weighted_cluster = match &host.routes[route as usize].action {
            Action::Forward(action) => match &action.cluster {
                ClusterSpecifier::Weighted(weighted) => {
                    let hash = weighted
                        .use_hash_policy
                        .then(|| action.hash_policy()?.hash(head, info, None))
                        .flatten();
                    match weighted.pick(head, hash.unwrap_or(random)) {
                        Some(cluster) => Some(cluster),
                        None => return Selection::None,
                    }
                }
                ClusterSpecifier::One(_) => None,
            },
            _ => None,
        };
        Selection::Route(RouteIndex {
            virtual_host,
            route,
            weighted_cluster,
            virtual_cluster: None,
        })
    }

    /// The route at a place that `select` has given.
    pub fn route(&self, index: RouteIndex) -> &Route {
        &self.virtual_hosts[index.virtual_host as usize].routes[index.route as usize]
    }

    /// The number of a filter name; none if no `typed_per_filter_config` mentions it.
    pub fn filter_slot(&self, filter_name: &str) -> Option<usize> {
        self.filter_names
            .binary_search_by(|name| (**name).cmp(filter_name))
            .ok()
    }

    /// The filter names that `typed_per_filter_config`s mention, in the order of their numbers.
    pub fn numbered_filters(&self) -> &[Box<str>] {
        &self.filter_names
    }

    /// `RouteConfiguration.name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Headers that are taken off requests from outside.
    pub fn internal_only_headers(&self) -> &[HeaderName] {
        &self.internal_only_headers
    }

    /// Whether clusters that do not exist make the configuration wrong; none means yes for a static table, no otherwise.
    pub fn validate_clusters(&self) -> Option<bool> {
        self.validate_clusters
    }

    /// The clusters that routes name, with the virtual host and route that do.
    pub fn clusters(&self) -> impl Iterator<Item = (&VirtualHost, &Route, ClusterId)> {
        self.virtual_hosts.iter().flat_map(|host| {
            host.routes.iter().flat_map(move |route| {
                let ids = route.forward().into_iter().flat_map(|a| a.cluster.ids());
                ids.map(move |id| (host, route, id))
            })
        })
    }

    /// `RouteConfiguration.metadata`.
    pub fn metadata(&self) -> &DynamicMetadata {
        &self.metadata
    }

    /// The virtual hosts, in the order of the configuration.
    pub fn virtual_hosts(&self) -> &[VirtualHost] {
        &self.virtual_hosts
    }

    /// The number of the virtual host that an authority belongs to.
    pub(super) fn virtual_host_of(&self, authority: Option<&[u8]>) -> Option<u32> {
        self.domains.find(authority)
    }

    pub(super) fn path_to_match<'a>(&self, head: &'a RequestHead) -> &'a [u8] {
        let path = head.path_without_query();
        if self.ignore_path_parameters {
            path.split(|b| *b == b';').next().unwrap_or_default()
        } else {
            path
        }
    }
}

fn insert_domains(
    names: &[String],
    virtual_host: u32,
    domains: &mut Domains,
    path: &ConfigPath<'_>,
) -> Result<(), Rejected> {
    if names.is_empty() {
        return Err(path.field("domains").reject("must not be empty"));
    }
    path.each("domains", names, |domain, path| {
        domains.insert(domain, virtual_host).map_err(|_| {
            path.reject(format!(
                "\"{domain}\" stands more than once in the route configuration"
            ))
        })
    })
    .map(drop)
}

impl std::fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouteTable")
            .field("name", &self.name)
            .field("virtual_hosts", &self.virtual_hosts.len())
            .finish_non_exhaustive()
    }
}
