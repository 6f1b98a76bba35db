//! What every conversion and every worker may use.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use outrigger_proto::pb::envoy::config::core::v3::Node;

use super::{InitManager, MainJobs};
use crate::access_loggers::AccessLogManager;
use crate::config::DynamicFields;
use crate::files::DirectoryWatcher;
use crate::http_filters::ExtensionConfigs;
use crate::overload::OverloadState;
use crate::route::provider::RouteProviders;
use crate::runtime::Runtime;
use crate::secrets::{CertificateInventory, SecretStore};
use crate::stats::{Scope, Store};
use crate::upstream::{ClusterId, ClusterNames, OnDemandClusters};
use crate::xds::Subscriptions;

/// The services of the process. Made once, shared by main and workers.
#[derive(Debug)]
pub struct ServerContext {
    /// All stats.
    pub stats: Store,
    /// Runtime values.
    pub runtime: Runtime,
    /// Numbers for cluster names, so that a route needs no look-up by name.
    pub cluster_names: ClusterNames,
    /// Where workers ask for clusters that are not known.
    pub on_demand_clusters: OnDemandClusters,
    /// What the overload manager asks of the data path.
    pub overload: Arc<OverloadState>,
    /// The files that access logs are written to.
    pub access_logs: AccessLogManager,
    /// Certificates, keys and what peers are validated by.
    pub secrets: SecretStore,
    /// What is asked of management servers.
    pub xds: Subscriptions,
    /// What becomes of fields that no message has, in what servers send.
    pub unknown_fields: Arc<DynamicFields>,
    /// Directories whose files are read again when they change.
    pub(crate) directories: DirectoryWatcher,
    /// The route configurations in use.
    pub routes: RouteProviders,
    /// The filter configurations that management servers deliver.
    pub extension_configs: ExtensionConfigs,
    /// What main is to do.
    pub main: MainJobs,
    /// The certificates in use.
    pub certificates: CertificateInventory,
    /// Who this proxy is.
    pub local_info: LocalInfo,
    /// `cluster_manager.local_cluster_name`: the cluster whose hosts are this proxy and its like. Set once, before anything else
    /// is converted.
    pub local_cluster: OnceLock<ClusterId>,
    /// Set by `POST /healthcheck/fail`: the proxy asks to be taken out of service.
    pub health_check_failed: AtomicBool,
    /// Set while the whole server drains: connections end as soon as their streams allow.
    pub draining: AtomicBool,
}

/// The node of the bootstrap, with what the command line put in its place.
#[derive(Debug, Clone, Default)]
pub struct LocalInfo {
    /// `node.id`.
    pub node_id: String,
    /// `node.cluster`.
    pub cluster: String,
    /// `node.locality.zone`.
    pub zone: String,
    /// `node.locality.region`.
    pub region: String,
    /// `node.locality.sub_zone`.
    pub sub_zone: String,
    /// `node.metadata`.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// The whole node, as servers are told it.
    pub node: Node,
}

/// What a factory gets beside the configuration.
#[derive(Debug, Clone, Copy)]
pub struct FactoryContext<'a> {
    /// The services of the process.
    pub server: &'a Arc<ServerContext>,
    /// Where the stats of the parent live: `http.ingress.` for an HTTP filter, `listener.…` for a listener filter.
    pub scope: &'a Scope,
    /// Waits for what the configuration needs before its owner (listener, cluster, process) may be used.
    pub init: &'a InitManager,
}

impl ServerContext {
    /// The context of a process with this many workers.
    pub fn new(workers: usize, local_info: LocalInfo) -> Self {
        let stats = Store::new(workers);
        Self {
            access_logs: AccessLogManager::new(workers, &stats),
            stats,
            runtime: Runtime::default(),
            cluster_names: ClusterNames::default(),
            on_demand_clusters: OnDemandClusters::default(),
            overload: Arc::default(),
            secrets: SecretStore::default(),
            xds: Subscriptions::default(),
            unknown_fields: Arc::default(),
            directories: DirectoryWatcher::default(),
            routes: RouteProviders::default(),
            extension_configs: ExtensionConfigs::default(),
            main: MainJobs::default(),
            certificates: CertificateInventory::default(),
            local_info,
            local_cluster: OnceLock::new(),
            health_check_failed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        }
    }
}
