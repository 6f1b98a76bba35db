//! What a bootstrap holds beside the process itself: clusters, listeners, overload manager, admin interface.

use std::collections::HashSet;
use std::sync::Arc;

use outrigger_proto::pb::envoy::config::bootstrap::v3 as pb;
use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
use outrigger_proto::pb::envoy::config::listener::v3::Listener;
use outrigger_proto::pb::envoy::config::overload::v3::OverloadManager as OverloadProto;

use super::ServerContext;
use super::admin_start::AdminSetup;
use super::dynamic::DynamicResources;
use super::load::LoadedBootstrap;
use crate::access_loggers::{Destination, LogFile};
use crate::config::{ConfigPath, ConfigReport};
use crate::listener::ListenerManager;
use crate::overload::OverloadManager;
use crate::upstream::PatchedHealthChecks;
use crate::upstream::cluster::ClusterConfig;
use crate::xds::google_grpc_clusters;

/// The converted resources.
pub(super) struct Resources {
    /// To be given to a cluster manager.
    pub(super) clusters: Vec<ClusterConfig>,
    pub(super) cluster_protos: Vec<Cluster>,
    pub(super) listeners: ListenerManager,
    /// What is taken from management servers.
    pub(super) dynamic: DynamicResources,
    pub(super) overload: Option<OverloadManager>,
    pub(super) admin: Option<AdminSetup>,
    /// Where ejections of hosts are written.
    pub(super) outlier_log: Option<Arc<LogFile>>,
}

impl Resources {
    /// Converts all of them. What is wrong is in the report; where it holds anything, they are not to be used.
    pub(super) fn convert(
        context: &Arc<ServerContext>,
        workers: usize,
        loaded: &LoadedBootstrap,
        report: &ConfigReport,
    ) -> Self {
        let bootstrap = &loaded.proto;
        let check_names = PatchedHealthChecks::of_bootstrap(&loaded.bytes);
        // What else stands in a bootstrap is converted by `Bootstrap::from_proto`.
        let statics = bootstrap.static_resources.clone().unwrap_or_default();
        let mut cluster_protos = statics.clusters;
        cluster_protos.extend(google_grpc_clusters(bootstrap));
        let names = cluster_protos.iter().map(|cluster| &*cluster.name);
        context.cluster_names.set_static(names);
        let outlier_log = convert_cluster_manager(
            bootstrap.cluster_manager.clone(),
            &cluster_protos,
            context,
            report,
        );
        for (index, secret) in statics.secrets.into_iter().enumerate() {
            let place = format!("static_resources.secrets[{index}]");
            let resource = format!("secret \"{}\"", secret.name);
            let path = ConfigPath::resource(report, &resource, &place);
            // A rejection is in the report already.
            let _ = context.secrets.add_static(secret, &path);
        }
        let dynamic = DynamicResources::convert(bootstrap, context, report);
        let clusters = convert_clusters(&cluster_protos, &check_names, context, report);
        let listeners = convert_listeners(context, workers, statics.listeners, report);
        let overload = convert_overload(context, bootstrap.overload_manager.clone(), report);
        let admin = bootstrap.admin.clone().and_then(|proto| {
            let root = ConfigPath::root(report, "bootstrap");
            AdminSetup::from_proto(proto, context, &root.field("admin")).ok()
        });
        Self {
            clusters,
            cluster_protos,
            listeners,
            dynamic,
            overload,
            admin,
            outlier_log,
        }
    }
}

/// Converts all clusters. What is wrong with them is in the report.
fn convert_clusters(
    protos: &[Cluster],
    check_names: &[PatchedHealthChecks],
    server: &Arc<ServerContext>,
    report: &ConfigReport,
) -> Vec<ClusterConfig> {
    let unnamed = PatchedHealthChecks::default();
    let mut names = HashSet::new();
    let convert = |(index, proto): (usize, &Cluster)| {
        let place = format!("static_resources.clusters[{index}]");
        let resource = format!("cluster \"{}\"", proto.name);
        let path = ConfigPath::resource(report, &resource, &place);
        if !names.insert(proto.name.clone()) {
            path.field("name")
                .reject("is the name of an earlier cluster already");
            return None;
        }
        // What stands behind those of the bootstrap has no health checks.
        let names = check_names.get(index).unwrap_or(&unnamed);
        ClusterConfig::with_names(proto.clone(), names, server, &path).ok()
    };
    protos.iter().enumerate().filter_map(convert).collect()
}

fn convert_overload(
    context: &Arc<ServerContext>,
    proto: Option<OverloadProto>,
    report: &ConfigReport,
) -> Option<OverloadManager> {
    let proto = proto?;
    let root = ConfigPath::root(report, "bootstrap");
    OverloadManager::from_proto(proto, context, &root.field("overload_manager")).ok()
}

/// What the bootstrap says of the cluster manager as a whole: which cluster is the local one, and, as the result, where ejections
/// of hosts are written.
fn convert_cluster_manager(
    proto: Option<pb::ClusterManager>,
    clusters: &[Cluster],
    context: &Arc<ServerContext>,
    report: &ConfigReport,
) -> Option<Arc<LogFile>> {
    let proto = proto?;
    let mut log = None;
    let pb::ClusterManager {
        local_cluster_name,
        outlier_detection,
        upstream_bind_config,
        load_stats_config,
        // Harmless: what a worker needs of a cluster is made when first used in any case.
        enable_deferred_cluster_creation: _,
    } = proto;
    let root = ConfigPath::root(report, "bootstrap");
    let path = root.field("cluster_manager");
    // Each reports what it refuses.
    if let Some(pb::cluster_manager::OutlierDetection {
        event_log_path,
        event_service,
    }) = outlier_detection
    {
        let path = path.field("outlier_detection");
        let _ = path.unsupported_if_set("event_service", event_service);
        if !event_log_path.is_empty() {
            let destination = Destination::File(event_log_path.as_str().into());
            match context.access_logs.open(&destination) {
                Ok(file) => log = Some(file),
                Err(error) => {
                    let text = format!("unable to open file '{event_log_path}': {error}");
                    path.field("event_log_path").reject(text);
                }
            }
        }
    }
    let _ = path.unsupported_if_set("upstream_bind_config", upstream_bind_config);
    let _ = path.unsupported_if_set("load_stats_config", load_stats_config);
    if local_cluster_name.is_empty() {
        return log;
    }
    if !clusters
        .iter()
        .any(|cluster| cluster.name == local_cluster_name)
    {
        path.field("local_cluster_name").reject(format!(
            "local cluster '{local_cluster_name}' must be defined"
        ));
        return log;
    }
    let id = context.cluster_names.id(&local_cluster_name);
    // It is set once only: a process has one bootstrap.
    let _ = context.local_cluster.set(id);
    log
}

/// Converts all listeners. What is wrong with them is in the report.
fn convert_listeners(
    context: &Arc<ServerContext>,
    workers: usize,
    protos: Vec<Listener>,
    report: &ConfigReport,
) -> ListenerManager {
    let manager = ListenerManager::new(context.clone(), workers);
    for (index, mut proto) in protos.into_iter().enumerate() {
        let place = format!("static_resources.listeners[{index}]");
        let resource = if proto.name.is_empty() {
            place.clone()
        } else {
            format!("listener \"{}\"", proto.name)
        };
        if proto.name.is_empty() {
            // Envoy makes up a name as well.
            proto.name = format!("{:032x}", rand::random::<u128>());
        }
        let path = ConfigPath::resource(report, &resource, &place);
        // A rejection is in the report already.
        let _ = manager.add(proto, &path);
    }
    manager
}
