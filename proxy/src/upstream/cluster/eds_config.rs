//! `eds_cluster_config`: where the endpoints of a cluster come from.

use std::sync::Arc;

use outrigger_proto::pb::envoy::config::cluster::v3 as pb;
use pb::cluster::EdsClusterConfig;

use crate::config::{ConfigPath, Rejected};
use crate::server::ServerContext;
use crate::xds::{SourceKind, XdsSource};

/// How a cluster is told its endpoints.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::upstream) struct EdsSettings {
    /// `service_name`, or the name of the cluster: what is asked for.
    pub(in crate::upstream) service_name: Arc<str>,
    pub(in crate::upstream) source: XdsSource,
    /// Whether the source needs no other cluster.
    pub(in crate::upstream) is_primary: bool,
    /// Whether the source is the aggregated stream.
    pub(in crate::upstream) is_aggregated: bool,
}

impl EdsSettings {
    /// Converts an `EdsClusterConfig` of the cluster of that name. `path` is that of the cluster.
    pub(super) fn from_proto(
        proto: Option<EdsClusterConfig>,
        cluster: &str,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let EdsClusterConfig {
            eds_config,
            service_name,
        } = path.required("eds_cluster_config", proto)?;
        let path = path.field("eds_cluster_config");
        let source = path.required("eds_config", eds_config)?;
        let source = XdsSource::from_proto(source, server, &path.field("eds_config"))?;
        let name = match service_name.is_empty() {
            true => cluster.to_owned(),
            false => service_name,
        };
        Ok(Self {
            service_name: name.into(),
            is_primary: source.is_file(),
            is_aggregated: matches!(source.kind, SourceKind::Ads),
            source,
        })
    }
}
