//! `VirtualHost.virtual_clusters`: requests that are counted together, whatever their route, below
//! `vhost.<virtual host>.vcluster.<name>.`

use std::sync::Arc;

use outrigger_proto::pb::envoy::config::route::v3 as pb;

use super::route_stats::RouteStats;
use crate::config::{ConfigPath, Rejected};
use crate::http::RequestHead;
use crate::matchers::HeaderMatcher;
use crate::server::FactoryContext;

/// The virtual clusters of a virtual host.
#[derive(Debug)]
pub(super) struct VirtualClusters {
    /// The last is `other`, for requests that none takes.
    clusters: Box<[VirtualCluster]>,
}

/// One of them.
#[derive(Debug)]
pub struct VirtualCluster {
    /// Its name: `%VIRTUAL_CLUSTER_NAME%`.
    pub name: Box<str>,
    headers: Box<[HeaderMatcher]>,
    pub(super) stats: Arc<RouteStats>,
}

impl VirtualClusters {
    /// Converts them; none: there are none.
    pub(super) fn from_proto(
        protos: Vec<pb::VirtualCluster>,
        virtual_host: &str,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Self>, Rejected> {
        if protos.is_empty() {
            return Ok(None);
        }
        let store = &cx.server.stats;
        let stats = |name: &str| {
            Arc::new(RouteStats::below(
                store,
                &format!("vhost.{virtual_host}.vcluster.{name}."),
            ))
        };
        let clusters = path.each("virtual_clusters", protos, |proto, path| {
            let pb::VirtualCluster { headers, name } = proto;
            let name = path.non_empty("name", name);
            if headers.is_empty() {
                return Err(path.field("headers").reject("must not be empty"));
            }
            let headers = path.each("headers", headers, HeaderMatcher::from_proto);
            let name = name?;
            Ok(VirtualCluster {
                stats: stats(&name),
                name: name.into(),
                headers: headers?.into(),
            })
        });
        let mut clusters = clusters?;
        clusters.push(VirtualCluster {
            name: "other".into(),
            headers: [].into(),
            stats: stats("other"),
        });
        Ok(Some(Self {
            clusters: clusters.into(),
        }))
    }

    /// The number of the one that a request belongs to.
    pub(super) fn find(&self, head: &RequestHead) -> Option<u32> {
        let belongs = |cluster: &VirtualCluster| HeaderMatcher::all(&cluster.headers, head);
        let position = self.clusters.iter().position(belongs)?;
        u32::try_from(position).ok()
    }

    pub(super) fn get(&self, number: u32) -> Option<&VirtualCluster> {
        self.clusters.get(number as usize)
    }
}
