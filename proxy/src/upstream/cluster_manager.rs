//! The clusters of the process: added, changed and removed on main, read by workers.
//!
//! Stats: `cluster_manager.*`.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tracing::info;

use super::ClusterId;
use super::circuit_breaker::CircuitBreakers;
use super::cluster::{
    ClusterConfig, ClusterEndpointStats, ClusterInfo, ClusterSettings, ClusterTrafficStats,
    ClusterUpdateStats, DnsSettings, EndpointAddress, LoadAssignment, RequestResponseSizeStats,
    TimeoutBudgetStats, TransportSocketMatchStats, UpstreamTransport,
};
use super::discovery::Resolver;
use super::discovery::dns::DnsDiscovery;
use super::host::Health;
use super::load_balancer::{HashTables, Policy};
use super::pool::SocketSettings;
use super::priority_set::{HostGroup, PrioritySet};
use crate::runtime::RuntimeInteger;
use crate::server::ServerContext;
use crate::stats::Scope;

crate::stats_group! {
    /// What the cluster manager does.
    pub struct ClusterManagerStats {
        gauge active_clusters;
        counter cluster_added;
        counter cluster_modified;
        counter cluster_removed;
        counter cluster_updated;
        counter cluster_updated_via_merge;
        counter update_merge_cancelled;
        counter update_out_of_merge_window;
        gauge warming_clusters;
    }
}

/// A cluster, shared by all workers.
#[derive(Debug)]
pub struct Cluster {
    /// What is known of it beside its hosts.
    pub info: Arc<ClusterInfo>,
    /// Its hosts, replaced as a whole.
    pub hosts: ArcSwap<PrioritySet>,
    /// Grows when `hosts` has been replaced.
    pub(super) hosts_version: AtomicU64,
    /// Of the table that it is in.
    changes: watch::Sender<()>,
    /// `upstream.healthy_panic_threshold`, over that of the cluster.
    pub(super) panic_threshold: RuntimeInteger,
    /// `upstream.maintenance_mode.<name>`, in percent.
    pub(super) maintenance_mode: RuntimeInteger,
}

/// The table of all clusters, by number. Main writes it, workers read it.
#[derive(Debug, Default)]
pub struct ClusterTable {
    /// Grows when `clusters` has been replaced.
    pub(super) version: AtomicU64,
    pub(super) clusters: ArcSwap<Vec<Option<Arc<Cluster>>>>,
    changes: watch::Sender<()>,
}

/// Makes clusters of their configuration, keeps their hosts up to date, and publishes both. Lives on main.
#[derive(Debug)]
pub struct ClusterManager {
    server: Arc<ServerContext>,
    workers: usize,
    resolver: Rc<dyn Resolver>,
    table: Arc<ClusterTable>,
    stats: ClusterManagerStats,
    clusters: RefCell<HashMap<ClusterId, Entry>>,
    /// Settings that clusters share.
    settings: RefCell<Vec<Arc<ClusterSettings>>>,
    /// `ClusterManager.upstream_bind_config`, for clusters that have none.
    bind: RefCell<Option<SocketSettings>>,
    /// Rung when no cluster is warming any more.
    warmed: Notify,
}

/// One name. A new version takes over when it is warm.
#[derive(Debug, Default)]
struct Entry {
    active: Option<Managed>,
    warming: Option<Managed>,
}

#[derive(Debug)]
struct Managed {
    cluster: Arc<Cluster>,
    /// Resolves names for as long as the cluster lives.
    _dns: Option<DnsDiscovery>,
}

/// Distinct settings that are remembered; clusters that share none of them keep their own.
const SHARED_SETTINGS: usize = 64;

impl Cluster {
    /// A cluster on its own, without a manager: for tests, and for what is not configured by name.
    pub fn new(info: ClusterInfo, hosts: PrioritySet) -> Self {
        let threshold = info.settings.load_balancer.healthy_panic_threshold;
        let runtime = crate::runtime::Runtime::default();
        let panic_threshold = runtime.integer("", threshold.into());
        let values = (panic_threshold, runtime.integer("", 0));
        let cluster = Self::empty(info, watch::Sender::default(), values);
        cluster.set_hosts(hosts);
        cluster
    }

    fn empty(
        info: ClusterInfo,
        changes: watch::Sender<()>,
        (panic_threshold, maintenance_mode): (RuntimeInteger, RuntimeInteger),
    ) -> Self {
        Self {
            info: Arc::new(info),
            hosts: ArcSwap::default(),
            hosts_version: AtomicU64::new(0),
            changes,
            panic_threshold,
            maintenance_mode,
        }
    }

    /// Publishes a new set of hosts, and counts what changed.
    pub fn set_hosts(&self, mut set: PrioritySet) {
        set.hash_tables = self.hash_tables(&set);
        let old = self.hosts.load();
        let known: HashSet<_> = old.hosts().map(Arc::as_ptr).collect();
        let kept = set
            .hosts()
            .filter(|host| known.contains(&Arc::as_ptr(host)))
            .count();
        let changed = kept != set.hosts().count() || kept != known.len();
        let stats = &self.info.endpoint_stats;
        if changed {
            stats.membership_change().inc();
        }
        let new = u64::try_from(set.hosts().count() - kept).unwrap_or(u64::MAX);
        let transport = &self.info.transport;
        let elsewhere = match transport.has_matches() {
            false => 0,
            true => set
                .hosts()
                .filter(|host| {
                    !known.contains(&Arc::as_ptr(host)) && transport.count(&host.metadata)
                })
                .count(),
        };
        let elsewhere = u64::try_from(elsewhere).unwrap_or(u64::MAX);
        let counted = new.saturating_sub(elsewhere);
        self.info
            .socket_match_stats
            .total_match_count()
            .add(counted);
        let count = |health| u64::try_from(set.count(health)).unwrap_or(u64::MAX);
        let (healthy, degraded) = (count(Health::Healthy), count(Health::Degraded));
        let total = u64::try_from(set.hosts().count()).unwrap_or(u64::MAX);
        stats.membership_healthy().set(healthy);
        stats.membership_total().set(total);
        if degraded > 0 || stats.membership_degraded().is_used() {
            stats.membership_degraded().set(degraded);
        }
        self.hosts.store(Arc::new(set));
        self.hosts_version.fetch_add(1, Relaxed);
        self.changes.send_replace(());
    }

    /// What load balancers that hash read, for the hosts as they are now.
    fn hash_tables(&self, set: &PrioritySet) -> Option<Arc<HashTables>> {
        let settings = &self.info.settings.load_balancer;
        let Policy::Hash(hashing) = &settings.policy else {
            return None;
        };
        let threshold = self.panic_threshold.get().min(100);
        let weighted = settings.locality_weighted;
        let scope = &self.info.scope;
        Some(Arc::new(HashTables::new(
            hashing, weighted, set, threshold, scope,
        )))
    }
}

impl ClusterInfo {
    /// A cluster of this name with default settings, whose stats are in `server`.
    pub fn new(server: &ServerContext, name: &str, settings: Arc<ClusterSettings>) -> Self {
        Self::with_names(server, name, "", settings)
    }

    fn with_names(
        server: &ServerContext,
        name: &str,
        alt_stat_name: &str,
        settings: Arc<ClusterSettings>,
    ) -> Self {
        let id = server.cluster_names.id(name);
        let name = server.cluster_names.name(id).unwrap_or_else(|| name.into());
        let observability_name = match alt_stat_name {
            "" => name.clone(),
            other => other.into(),
        };
        let scope = stats_scope(server, &observability_name);
        Self {
            id,
            name,
            observability_name,
            stats: ClusterTrafficStats::new(&scope),
            endpoint_stats: ClusterEndpointStats::new(&scope),
            update_stats: ClusterUpdateStats::new(&scope),
            socket_match_stats: TransportSocketMatchStats::new(&scope.scope("default.")),
            timeout_budget_stats: None,
            request_response_size_stats: None,
            transport: UpstreamTransport::default(),
            http_filters: None,
            circuit_breakers: CircuitBreakers::new(&settings.circuit_breakers, &scope),
            settings,
            metadata: Default::default(),
            scope,
        }
    }
}

/// Where the stats of a cluster are. Colons would end a name in text formats.
pub(super) fn stats_scope(server: &ServerContext, observability_name: &str) -> Scope {
    let name = observability_name.replace(':', "_");
    server.stats.scope(&format!("cluster.{name}."))
}

impl ClusterTable {
    /// The cluster with this number, if there is one.
    pub fn get(&self, id: ClusterId) -> Option<Arc<Cluster>> {
        self.clusters.load().get(index(id)).cloned().flatten()
    }

    /// Sees every change of a cluster or its hosts from now on.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn replace(&self, changes: impl IntoIterator<Item = (ClusterId, Option<Arc<Cluster>>)>) {
        let mut clusters = Vec::clone(&self.clusters.load());
        for (id, cluster) in changes {
            if clusters.len() <= index(id) {
                clusters.resize(index(id) + 1, None);
            }
            clusters[index(id)] = cluster;
        }
        self.clusters.store(Arc::new(clusters));
        self.version.fetch_add(1, Relaxed);
        self.changes.send_replace(());
    }
}

impl ClusterManager {
    /// A manager without clusters, for this many workers.
    pub fn new(server: Arc<ServerContext>, workers: usize, resolver: Rc<dyn Resolver>) -> Rc<Self> {
        Rc::new(Self {
            stats: ClusterManagerStats::new(&server.stats.scope("cluster_manager.")),
            server,
            workers,
            resolver,
            table: Arc::default(),
            clusters: RefCell::default(),
            settings: RefCell::default(),
            bind: RefCell::default(),
            warmed: Notify::new(),
        })
    }

    /// What workers read.
    pub fn table(&self) -> &Arc<ClusterTable> {
        &self.table
    }

    /// Says how sockets are bound by clusters that do not say it themselves: `upstream_bind_config` of the bootstrap.
    /// For clusters that are added from now on.
    pub fn set_bind_config(&self, bind: SocketSettings) {
        *self.bind.borrow_mut() = Some(bind);
    }

    /// Adds clusters, or replaces those of the same names. One whose names must be resolved first takes part when they are;
    /// until then an older one stays. Must run on a local runtime if there are such.
    pub fn add(self: &Rc<Self>, configs: impl IntoIterator<Item = ClusterConfig>) {
        let mut published = Vec::new();
        for config in configs {
            if let Some(change) = self.add_one(config) {
                published.push(change);
            }
        }
        self.table.replace(published);
        self.count();
    }

    /// Removes a cluster. False if there is none of this name.
    pub fn remove(&self, name: &str) -> bool {
        let removed = self
            .server
            .cluster_names
            .find(name)
            .and_then(|id| Some((id, self.clusters.borrow_mut().remove(&id)?)));
        let Some((id, entry)) = removed else {
            return false;
        };
        self.table.replace([(id, None)]);
        self.stats.cluster_removed().inc();
        drop(entry);
        self.count();
        true
    }

    /// Ends when no cluster is warming.
    pub async fn warmed(&self) {
        loop {
            let rung = self.warmed.notified();
            if self.warming() == 0 {
                return;
            }
            rung.await;
        }
    }

    /// The clusters in use, sorted by name.
    pub fn clusters(&self) -> Vec<Arc<Cluster>> {
        let clusters = self.clusters.borrow();
        let active = clusters.values().filter_map(|entry| entry.active.as_ref());
        let mut active: Vec<_> = active.map(|managed| managed.cluster.clone()).collect();
        active.sort_by(|a, b| a.info.name.cmp(&b.info.name));
        active
    }

    /// The names of clusters that are not ready, sorted.
    pub fn warming_clusters(&self) -> Vec<Arc<str>> {
        let clusters = self.clusters.borrow();
        let warming = clusters.values().filter_map(|entry| entry.warming.as_ref());
        let mut names: Vec<_> = warming
            .map(|managed| managed.cluster.info.name.clone())
            .collect();
        names.sort();
        names
    }

    fn add_one(
        self: &Rc<Self>,
        config: ClusterConfig,
    ) -> Option<(ClusterId, Option<Arc<Cluster>>)> {
        let ClusterConfig {
            name,
            alt_stat_name,
            mut settings,
            metadata,
            assignment,
            dns,
            has_bind_config,
            wait_for_warm,
            timeout_budgets,
            request_response_sizes,
            http_filters,
            transport,
            init: _,
        } = config;
        if let (false, Some(bind)) = (has_bind_config, &*self.bind.borrow()) {
            settings.sockets = SocketSettings {
                keepalive: settings.sockets.keepalive,
                ..bind.clone()
            };
        }
        let settings = self.share(settings);
        let threshold = self.server.runtime.integer(
            "upstream.healthy_panic_threshold",
            settings.load_balancer.healthy_panic_threshold.into(),
        );
        let mut info = ClusterInfo::with_names(&self.server, &name, &alt_stat_name, settings);
        info.metadata = metadata;
        info.http_filters = http_filters;
        info.transport = transport;
        info.timeout_budget_stats = timeout_budgets.then(|| TimeoutBudgetStats::new(&info.scope));
        info.request_response_size_stats =
            request_response_sizes.then(|| RequestResponseSizeStats::new(&info.scope));
        let id = info.id;
        let maintenance = format!("upstream.maintenance_mode.{name}");
        let values = (threshold, self.server.runtime.integer(&maintenance, 0));
        let cluster = Arc::new(Cluster::empty(info, self.table.changes.clone(), values));
        match self.clusters.borrow().contains_key(&id) {
            true => self.stats.cluster_modified().inc(),
            false => self.stats.cluster_added().inc(),
        }
        let must_warm = dns.is_some() && wait_for_warm && has_names(&assignment);
        // The entry stands before names are resolved, so that an answer that comes at once finds it.
        let dns = self.find_hosts(&cluster, assignment, dns);
        let managed = Managed {
            cluster: cluster.clone(),
            _dns: dns,
        };
        let mut clusters = self.clusters.borrow_mut();
        let entry = clusters.entry(id).or_default();
        if must_warm {
            entry.warming = Some(managed);
            return None;
        }
        entry.warming = None;
        entry.active = Some(managed);
        Some((id, Some(cluster)))
    }

    fn find_hosts(
        self: &Rc<Self>,
        cluster: &Arc<Cluster>,
        assignment: LoadAssignment,
        dns: Option<DnsSettings>,
    ) -> Option<DnsDiscovery> {
        let Some(settings) = dns else {
            cluster.set_hosts(assignment.into_hosts(self.workers));
            return None;
        };
        let manager = Rc::downgrade(self);
        let warm = Arc::downgrade(cluster);
        let ready = Box::new(move || {
            if let (Some(manager), Some(cluster)) = (manager.upgrade(), warm.upgrade()) {
                manager.activate(&cluster);
            }
        });
        let seed = u64::from(cluster.info.id.0);
        let environment = (&self.resolver, self.workers, seed);
        Some(DnsDiscovery::start(
            cluster,
            settings,
            assignment,
            environment,
            ready,
        ))
    }

    /// A cluster is warm: it takes the place of an older one.
    fn activate(&self, cluster: &Arc<Cluster>) {
        let id = cluster.info.id;
        let old = {
            let mut clusters = self.clusters.borrow_mut();
            let Some(entry) = clusters.get_mut(&id) else {
                return;
            };
            match entry
                .warming
                .take_if(|warming| Arc::ptr_eq(&warming.cluster, cluster))
            {
                Some(warm) => entry.active.replace(warm),
                None => return,
            }
        };
        info!(cluster = &*cluster.info.name, "Cluster is warm.");
        self.table.replace([(id, Some(cluster.clone()))]);
        drop(old);
        self.count();
    }

    /// One copy of settings that many clusters have.
    fn share(&self, settings: ClusterSettings) -> Arc<ClusterSettings> {
        let mut shared = self.settings.borrow_mut();
        if let Some(known) = shared.iter().find(|known| ***known == settings) {
            return known.clone();
        }
        let settings = Arc::new(settings);
        if shared.len() == SHARED_SETTINGS {
            shared.remove(0);
        }
        shared.push(settings.clone());
        settings
    }

    fn warming(&self) -> usize {
        let clusters = self.clusters.borrow();
        clusters
            .values()
            .filter(|entry| entry.warming.is_some())
            .count()
    }

    fn count(&self) {
        let clusters = self.clusters.borrow();
        let active = clusters
            .values()
            .filter(|entry| entry.active.is_some())
            .count();
        drop(clusters);
        let warming = self.warming();
        self.stats
            .active_clusters()
            .set(u64::try_from(active).unwrap_or(u64::MAX));
        self.stats
            .warming_clusters()
            .set(u64::try_from(warming).unwrap_or(u64::MAX));
        if warming == 0 {
            self.warmed.notify_waiters();
        }
    }
}

fn has_names(assignment: &LoadAssignment) -> bool {
    assignment
        .localities
        .iter()
        .flat_map(|locality| &locality.endpoints)
        .any(|endpoint| matches!(endpoint.address, EndpointAddress::Name { .. }))
}

fn index(id: ClusterId) -> usize {
    usize::try_from(id.0).unwrap_or(usize::MAX)
}

impl LoadAssignment {
    /// The hosts at those endpoints that have addresses.
    fn into_hosts(self, workers: usize) -> PrioritySet {
        let Self {
            localities,
            overprovisioning_factor,
            weighted_priority_health,
        } = self;
        let groups = localities.into_iter().map(|locality| HostGroup {
            locality: locality.locality.clone(),
            weight: locality.weight,
            priority: locality.priority,
            hosts: locality
                .endpoints
                .iter()
                .filter_map(|endpoint| match &endpoint.address {
                    EndpointAddress::Resolved(address) => {
                        Some(Arc::new(endpoint.host(&locality, address.clone(), workers)))
                    }
                    EndpointAddress::Name { .. } => None,
                })
                .collect(),
        });
        PrioritySet::new(groups, overprovisioning_factor, weighted_priority_health)
    }
}
