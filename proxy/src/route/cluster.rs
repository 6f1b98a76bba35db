//! Which cluster a route sends its requests to: one by name, one that a header names, or one of several by weight.

#![allow(deprecated, reason = "total_weight is named only to be passed over")]

use outrigger_proto::pb::envoy::config::route::v3 as pb;
use pb::route_action::ClusterSpecifier as Specifier;
use pb::weighted_cluster::cluster_weight::HostRewriteSpecifier;
use pb::weighted_cluster::{ClusterWeight, RandomValueSpecifier};

use super::header_parser::{HeaderLists, HeaderMutations};
use super::per_filter::{FilterLevel, FilterSlots, PerFilter};
use crate::config::{ConfigPath, Rejected};
use crate::http::{HeaderName, RequestHead};
use crate::matchers::{HeaderKey, HeaderSource};
use crate::runtime::RuntimeInteger;
use crate::server::FactoryContext;
use crate::upstream::{ClusterId, ClusterNames, MetadataMatch};

/// `RouteAction.cluster_specifier`.
#[derive(Debug)]
pub enum ClusterSpecifier {
    /// One cluster, or a cluster that a header names.
    One(ClusterTarget),
    /// One of several.
    Weighted(Box<WeightedClusters>),
}

/// A cluster by number, or by what a header of the request says.
#[derive(Debug)]
pub enum ClusterTarget {
    /// The cluster with this number.
    Id(ClusterId),
    /// The cluster whose name is the first value of this header.
    Header(HeaderKey),
}

/// What a route says about the cluster of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterChoice {
    /// This one, whether or not it exists.
    Id(ClusterId),
    /// A header was to name it and did not, or named one that no configuration has mentioned.
    NotFound,
}

/// `weighted_clusters`.
#[derive(Debug)]
pub struct WeightedClusters {
    pub(super) clusters: Box<[WeightedCluster]>,
    /// A number in this header decides in place of chance.
    random_header: Option<HeaderName>,
    /// The hash of the route's hash policy decides in place of chance.
    pub(super) use_hash_policy: bool,
}

/// One entry of `weighted_clusters`.
#[derive(Debug)]
pub struct WeightedCluster {
    /// The cluster.
    pub target: ClusterTarget,
    weight: RuntimeInteger,
    pub(super) headers: Option<Box<HeaderMutations>>,
    pub(super) host_rewrite: Option<Box<[u8]>>,
    pub(super) filters: Option<FilterSlots>,
    /// `metadata_match` over that of the route; none: that of the route.
    pub(super) metadata_match: Option<Box<MetadataMatch>>,
}

impl ClusterSpecifier {
    /// `parents` are the per-filter configurations of table, virtual host and route; `metadata_match` is that of the route.
    pub(super) fn from_proto(
        proto: Option<Specifier>,
        per_filter: &PerFilter<'_>,
        parents: &[&FilterLevel],
        metadata_match: Option<&MetadataMatch>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let cx = per_filter.cx;
        match proto {
            None => Err(path.reject("needs one of cluster, cluster_header, weighted_clusters")),
            Some(Specifier::Cluster(name)) => {
                let name = path.non_empty("cluster", name)?;
                Ok(Self::One(ClusterTarget::Id(
                    cx.server.cluster_names.id(&name),
                )))
            }
            Some(Specifier::ClusterHeader(name)) => {
                let name = path.non_empty("cluster_header", name)?;
                Ok(Self::One(ClusterTarget::Header(HeaderKey::new(&name))))
            }
            Some(Specifier::WeightedClusters(proto)) => WeightedClusters::from_proto(
                proto,
                per_filter,
                parents,
                metadata_match,
                &path.field("weighted_clusters"),
            )
            .map(|weighted| Self::Weighted(Box::new(weighted))),
            Some(Specifier::ClusterSpecifierPlugin(_)) => Err(path
                .field("cluster_specifier_plugin")
                .reject("is not supported")),
            Some(Specifier::InlineClusterSpecifierPlugin(_)) => Err(path
                .field("inline_cluster_specifier_plugin")
                .reject("is not supported")),
        }
    }

    /// The clusters that it names by itself.
    pub fn ids(&self) -> impl Iterator<Item = ClusterId> {
        let (one, weighted) = match self {
            Self::One(target) => (Some(target), None),
            Self::Weighted(weighted) => (None, Some(weighted)),
        };
        let weighted = weighted.into_iter().flat_map(|w| w.clusters.iter());
        one.into_iter()
            .chain(weighted.map(|cluster| &cluster.target))
            .filter_map(|target| match target {
                ClusterTarget::Id(id) => Some(*id),
                ClusterTarget::Header(_) => None,
            })
    }
}

impl ClusterTarget {
    /// The cluster for a request.
    pub fn choose(&self, head: &RequestHead, names: &ClusterNames) -> ClusterChoice {
        match self {
            Self::Id(id) => ClusterChoice::Id(*id),
            Self::Header(key) => head
                .first(key)
                .and_then(|name| names.find(std::str::from_utf8(&name).ok()?))
                .map_or(ClusterChoice::NotFound, ClusterChoice::Id),
        }
    }
}

impl WeightedClusters {
    fn from_proto(
        proto: pb::WeightedCluster,
        per_filter: &PerFilter<'_>,
        parents: &[&FilterLevel],
        metadata_match: Option<&MetadataMatch>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::WeightedCluster {
            clusters,
            // Harmless: Envoy takes the sum of the weights.
            total_weight: _,
            runtime_key_prefix,
            random_value_specifier,
        } = proto;
        if clusters.is_empty() {
            return Err(path.field("clusters").reject("must not be empty"));
        }
        let mut total = 0u64;
        let clusters = path.each("clusters", clusters, |cluster, path| {
            total += cluster.weight.map_or(0, |weight| u64::from(weight.value));
            let levels = (parents, metadata_match);
            WeightedCluster::from_proto(cluster, &runtime_key_prefix, per_filter, levels, path)
        });
        if total == 0 || total > u64::from(u32::MAX) {
            return Err(path.field("clusters").reject(format!(
                "the sum of their weights, {total}, is not in 1..={}",
                u32::MAX
            )));
        }
        let (random_header, use_hash_policy) = match random_value_specifier {
            None => (None, false),
            Some(RandomValueSpecifier::HeaderName(name)) => {
                (Some(name).filter(|name| !name.is_empty()), false)
            }
            Some(RandomValueSpecifier::UseHashPolicy(use_it)) => (None, use_it.value),
        };
        Ok(Self {
            clusters: clusters?.into(),
            random_header: random_header.map(HeaderName::new),
            use_hash_policy,
        })
    }

    /// The weights that are in force.
    pub(super) fn weights(&self) -> Vec<u64> {
        self.clusters.iter().map(|c| c.weight.get()).collect()
    }

    /// The position of the cluster that `random` falls upon; none if all weights are zero at the moment.
    pub(super) fn pick(&self, head: &RequestHead, random: u64) -> Option<u32> {
        let total: u64 = self.clusters.iter().map(|c| c.weight.get()).sum();
        let chosen = self.number_in_header(head).unwrap_or(random);
        let mut left = chosen.checked_rem(total)?;
        let position = self.clusters.iter().position(|cluster| {
            let weight = cluster.weight.get();
            let found = left < weight;
            left = left.saturating_sub(weight);
            found
        })?;
        u32::try_from(position).ok()
    }

    /// A header that comes twice, or is no number, leaves it to chance.
    fn number_in_header(&self, head: &RequestHead) -> Option<u64> {
        let name = self.random_header.as_ref()?;
        let mut values = head.fields.get_all(name);
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        std::str::from_utf8(value).ok()?.trim().parse().ok()
    }
}

impl WeightedCluster {
    fn from_proto(
        proto: ClusterWeight,
        runtime_key_prefix: &str,
        per_filter: &PerFilter<'_>,
        (parents, metadata_match_of_route): (&[&FilterLevel], Option<&MetadataMatch>),
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let ClusterWeight {
            name,
            cluster_header,
            weight,
            metadata_match,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            typed_per_filter_config,
            host_rewrite_specifier,
        } = proto;
        let cx = per_filter.cx;
        let metadata_match = MetadataMatch::from_proto(metadata_match, metadata_match_of_route);
        let weight = path.required("weight", weight);
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
        let filters = per_filter.level(typed_per_filter_config, path);
        let target = Self::target(&name, &cluster_header, cx, path);
        let weight = runtime_weight(&name, runtime_key_prefix, weight?.value, cx);
        let filters = filters?;
        Ok(Self {
            target: target?,
            weight,
            headers: headers?,
            host_rewrite: match host_rewrite_specifier {
                Some(HostRewriteSpecifier::HostRewriteLiteral(host)) if !host.is_empty() => {
                    Some(host.into_bytes().into())
                }
                _ => None,
            },
            filters: (!filters.is_empty()).then(|| {
                let levels: Vec<_> = parents.iter().copied().chain([&filters]).collect();
                per_filter.resolve(&levels)
            }),
            metadata_match: metadata_match.map(Box::new),
        })
    }

    fn target(
        name: &str,
        header: &str,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<ClusterTarget, Rejected> {
        match (name.is_empty(), header.is_empty()) {
            (false, true) => Ok(ClusterTarget::Id(cx.server.cluster_names.id(name))),
            (true, false) => Ok(ClusterTarget::Header(HeaderKey::new(header))),
            _ => Err(path.reject("needs either name or cluster_header")),
        }
    }
}

fn runtime_weight(
    name: &str,
    prefix: &str,
    weight: u32,
    cx: &FactoryContext<'_>,
) -> RuntimeInteger {
    let key = if prefix.is_empty() {
        String::new()
    } else {
        format!("{prefix}.{name}")
    };
    cx.server.runtime.integer(&key, u64::from(weight))
}
