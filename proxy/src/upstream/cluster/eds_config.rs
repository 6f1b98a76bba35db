//! `eds_cluster_config`: where the endpoints of a cluster come from.

use std::sync::Arc;
use std::time::Duration;

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
    /// `CommonLbConfig.update_merge_window`: changes of health, weight and metadata within that time are published together.
    /// Zero: never. Default 1 s.
    pub(in crate::upstream) update_merge_window: Duration,
}

/// What else a cluster says about its endpoints.
pub(super) struct EdsNames {
    pub(super) cluster: String,
    pub(super) update_merge_window: Option<Duration>,
}

const UPDATE_MERGE_WINDOW: Duration = Duration::from_secs(1);

impl EdsSettings {
    /// Converts an `EdsClusterConfig`. `path` is that of the cluster.
    pub(super) fn from_proto(
        proto: Option<EdsClusterConfig>,
        names: EdsNames,
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
        let EdsNames {
            cluster,
            update_merge_window,
        } = names;
        let name = match service_name.is_empty() {
            true => cluster,
            false => service_name,
        };
        Ok(Self {
            service_name: name.into(),
            is_primary: false,
            is_aggregated: matches!(source.kind, SourceKind::Ads),
            source,
            update_merge_window: update_merge_window.unwrap_or(UPDATE_MERGE_WINDOW),
        })
    }
}
