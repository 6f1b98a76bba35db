//! The clusters of the process: added, changed and removed on main, read by workers.
//!
//! Stats: `cluster_manager.*`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_proto::pb::envoy::admin::v3::UpdateFailureState;
use tokio::sync::watch;
use tracing::info;

use super::ClusterId;

use super::cluster::{
    ClusterConfig, ClusterInfo, ClusterSettings, DnsSettings, EdsSettings, EndpointAddress,
    LoadAssignment, RequestResponseSizeStats, TimeoutBudgetStats,
};
use super::cluster_table::ClusterTable;
use super::discovery::Resolver;
use super::discovery::dns::DnsDiscovery;
use super::discovery::eds::{EdsDiscovery, EdsManager};
use super::dynamic_clusters::Cds;
use super::health_check::HealthChecker;
use super::host::Locality;
use super::host_health::HealthPublisher;
use super::lazy_cluster::{ColdState, EdsEvent, LazyCluster, Maker};
use super::load_balancer::ZoneRouting;
use super::on_demand::OnDemandManager;
use super::outlier_detection::OutlierDetector;
use super::pool::{Connector, SocketConnector, SocketSettings};
use super::priority_set::{HostGroup, PrioritySet};
use crate::access_loggers::LogFile;
use crate::config::Fraction;

use super::shared_cluster::Cluster;
use crate::server::{InitManager, Random, ServerContext};
use crate::stats::StatsSource;

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

/// Makes clusters of their configuration, keeps their hosts up to date, and publishes both. Lives on main.
pub struct ClusterManager {
    pub(super) server: Arc<ServerContext>,
    pub(super) workers: usize,
    resolver: Rc<dyn Resolver>,
    /// Makes the connections of health checks.
    connector: Rc<dyn Connector>,
    /// Seeds the random numbers of health checks and outlier detection.
    random: Random,
    table: Arc<ClusterTable>,
    /// What makes clusters when they are needed.
    maker: Arc<Maker>,
    pub(super) stats: ClusterManagerStats,
    pub(super) clusters: RefCell<HashMap<ClusterId, Entry>>,
    /// Settings that clusters share.
    settings: RefCell<Vec<Arc<ClusterSettings>>>,
    /// `ClusterManager.upstream_bind_config`, for clusters that have none.
    bind: RefCell<Option<SocketSettings>>,
    /// Where outlier detection writes events.
    outlier_log: RefCell<Option<Arc<LogFile>>>,
    /// How many clusters there are.
    tally: watch::Sender<ClusterTally>,
    /// What the clusters wait for as a whole: the first answer about which there are.
    init: InitManager,
    /// Where clusters come from while the process runs, if they do.
    pub(super) cds: RefCell<Option<Cds>>,
    /// How endpoints come from management servers.
    pub(super) eds: EdsManager,
    /// Clusters that workers wait for.
    pub(super) on_demand: OnDemandManager,
}

/// How many clusters there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClusterTally {
    /// In use.
    pub active: usize,
    /// Not yet in use, since something is missing.
    pub warming: usize,
    /// Of these, those that management servers may be reached by: their hosts do not come from one.
    pub warming_primary: usize,
}

/// One name. A new version takes over when it is warm.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) active: Option<Managed>,
    pub(super) warming: Option<Managed>,
    /// The last update, if it was refused.
    pub(super) refused: Option<Box<UpdateFailureState>>,
}

pub(super) struct Managed {
    pub(super) cluster: Arc<LazyCluster>,
    /// Finds hosts for as long as the cluster lives.
    pub(super) discovery: Discovery,
    /// Checks the hosts, if they are checked.
    health_checker: Option<Rc<HealthChecker>>,
    /// Ejects hosts, if it is to.
    _outliers: Option<Rc<OutlierDetector>>,
    /// What it waits for before it is used.
    waits: Option<Waits>,
    /// What it was made of; none: the bootstrap.
    pub(super) accepted: Option<Accepted>,
}

struct Waits {
    hosts_found: Cell<bool>,
    init: InitManager,
    /// Whether each host has been checked once, or need not be.
    checked: Cell<bool>,
}

/// How a cluster finds its hosts.
pub(super) enum Discovery {
    /// They are configured.
    Static,
    Dns {
        _resolving: DnsDiscovery,
    },
    Eds(Rc<EdsDiscovery>),
}

/// A configuration that was accepted while the process runs.
pub(super) struct Accepted {
    /// The encoded cluster, as it came.
    pub(super) body: Arc<[u8]>,
    pub(super) version: Arc<str>,
    pub(super) at: SystemTime,
}

/// Changes that are published together.
#[derive(Default)]
pub(super) struct Batch {
    published: Vec<(ClusterId, Option<Arc<LazyCluster>>)>,
    /// What they replace.
    replaced: Vec<Managed>,
}

/// Distinct settings that are remembered; clusters that share none of them keep their own.
const SHARED_SETTINGS: usize = 64;

impl ClusterManager {
    /// A manager without clusters, for this many workers.
    pub fn new(server: Arc<ServerContext>, workers: usize, resolver: Rc<dyn Resolver>) -> Rc<Self> {
        Self::in_world(
            server,
            workers,
            resolver,
            Rc::new(SocketConnector),
            rand::random(),
        )
    }

    /// The same where health checks connect otherwise, and chance follows a seed.
    pub fn in_world(
        server: Arc<ServerContext>,
        workers: usize,
        resolver: Rc<dyn Resolver>,
        connector: Rc<dyn Connector>,
        seed: u64,
    ) -> Rc<Self> {
        let table: Arc<ClusterTable> = Arc::default();
        let maker = Maker::new(&server, table.changes(), workers);
        let weak: std::sync::Weak<dyn StatsSource> = Arc::downgrade(&maker) as _;
        server.stats.set_source(weak);
        Rc::new(Self {
            stats: ClusterManagerStats::new(&server.stats.scope("cluster_manager.")),
            server,
            workers,
            resolver,
            connector,
            random: Random::new(seed),
            table,
            maker,
            clusters: RefCell::default(),
            settings: RefCell::default(),
            bind: RefCell::default(),
            outlier_log: RefCell::default(),
            tally: watch::Sender::default(),
            init: InitManager::new("Cluster manager"),
            cds: RefCell::default(),
            eds: EdsManager::default(),
            on_demand: OnDemandManager::default(),
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

    /// Adds clusters, or replaces those of the same names. One whose names must be resolved first, whose endpoints come from a
    /// management server or that waits for anything else takes part when all is there; until then an older one stays. Must run
    /// on a local runtime if there are such.
    pub fn add(self: &Rc<Self>, configs: impl IntoIterator<Item = ClusterConfig>) {
        let mut batch = Batch::default();
        for config in configs {
            self.add_one(config, None, &mut batch);
        }
        self.publish(batch);
    }

    /// Removes a cluster. False if there is none of this name.
    pub fn remove(self: &Rc<Self>, name: &str) -> bool {
        let mut batch = Batch::default();
        let removed = self.remove_one(name, &mut batch);
        self.publish(batch);
        removed
    }

    /// Ends when no cluster is warming.
    pub async fn warmed(&self) {
        self.wait_for(|tally| tally.warming == 0).await;
    }

    /// Ends when all clusters that need no management server are warm: what talks to one may begin.
    pub async fn primary_ready(&self) {
        self.wait_for(|tally| tally.warming_primary == 0).await;
    }

    /// Ends when it is known which clusters there are (by the first answer about them, good or bad, or `initial_fetch_timeout`),
    /// and none of them is warming. What comes later warms on its own.
    pub async fn all_ready(&self) {
        while !(self.init.is_ready() && self.tally.borrow().warming == 0) {
            self.init.ready().await;
            self.warmed().await;
        }
        self.eds.set_initialized();
    }

    /// What the clusters wait for as a whole, for `/init_dump`; which of them are warming, `warming_clusters` says.
    pub fn init(&self) -> &InitManager {
        &self.init
    }

    /// How many clusters there are, now and whenever that changes.
    pub fn tally(&self) -> watch::Receiver<ClusterTally> {
        self.tally.subscribe()
    }

    /// The clusters in use, sorted by name, as pages show them.
    pub fn clusters(&self) -> Vec<Arc<Cluster>> {
        let clusters = self.clusters.borrow();
        let active = clusters.values().filter_map(|entry| entry.active.as_ref());
        let mut active: Vec<_> = active.map(|managed| managed.cluster.shown()).collect();
        active.sort_by(|a, b| a.info.name.cmp(&b.info.name));
        active
    }

    /// The names of clusters that are not ready, sorted.
    pub fn warming_clusters(&self) -> Vec<Arc<str>> {
        let clusters = self.clusters.borrow();
        let warming = clusters.values().filter_map(|entry| entry.warming.as_ref());
        let mut names: Vec<_> = warming
            .map(|managed| managed.cluster.name().clone())
            .collect();
        names.sort();
        names
    }

    /// Makes a cluster. Where it need not warm, it is part of the batch.
    pub(super) fn add_one(
        self: &Rc<Self>,
        config: ClusterConfig,
        accepted: Option<Accepted>,
        batch: &mut Batch,
    ) {
        let (cluster, config) = self.make(config, accepted.as_ref());
        let id = cluster.id();
        if accepted.is_some() {
            self.server.cluster_names.set_dynamic(id, true);
        }
        let HostSource {
            assignment,
            dns,
            eds,
            wait_for_warm,
            init,
        } = config;
        let named = dns.is_some() && wait_for_warm && has_names(&assignment);
        let must_find_hosts = eds.is_some() || named;
        let is_ready = init.is_ready();
        let (health_checker, outliers) = self.watch_health(&cluster);
        let must_check = health_checker.is_some();
        let waits = (must_find_hosts || !is_ready || must_check).then(|| Waits {
            hosts_found: Cell::new(!must_find_hosts),
            init: init.clone(),
            checked: Cell::new(!must_check),
        });
        let discovery = match (eds, dns) {
            (Some(settings), _) => Discovery::Eds(EdsDiscovery::new(self, &cluster, settings)),
            (None, Some(settings)) => Discovery::Dns {
                _resolving: self.resolve(&cluster, assignment, settings),
            },
            (None, None) => {
                let drop = assignment.drop_overload.as_ref();
                cluster.get().set_drop_overload(&self.server.runtime, drop);
                cluster.get().set_hosts(assignment.into_hosts(self.workers));
                Discovery::Static
            }
        };
        if let Discovery::Eds(eds) = &discovery {
            self.eds.enqueue(eds);
        }
        let is_dynamic = accepted.is_some();
        let managed = Managed {
            cluster: cluster.clone(),
            discovery,
            health_checker,
            _outliers: outliers,
            waits,
            accepted,
        };
        let is_known = self.change(id, |entry| {
            let is_known = entry.active.is_some() || entry.warming.is_some();
            entry.refused = None;
            batch.replaced.extend(entry.warming.take());
            if managed.waits.is_some() {
                entry.warming = Some(managed);
            } else {
                batch.replaced.extend(entry.active.replace(managed));
                batch.published.push((id, Some(cluster.clone())));
            }
            is_known
        });
        match is_known {
            true => self.stats.cluster_modified().inc(),
            false => self.stats.cluster_added().inc(),
        }
        if is_dynamic && self.is_warming(&cluster) {
            cluster.count(EdsEvent::Warming(true));
        }
        if must_check {
            self.activate_if_warm(&cluster);
        }
        if !is_ready {
            let (manager, cluster) = (Rc::downgrade(self), Arc::downgrade(&cluster));
            tokio::task::spawn_local(async move {
                init.ready().await;
                if let (Some(manager), Some(cluster)) = (manager.upgrade(), cluster.upgrade()) {
                    manager.activate_if_warm(&cluster);
                }
            });
        }
    }

    /// Takes a cluster away, as part of the batch. False if there is none of this name.
    pub(super) fn remove_one(&self, name: &str, batch: &mut Batch) -> bool {
        let Some(id) = self.server.cluster_names.find(name) else {
            return false;
        };
        let removed = self.change(id, |entry| {
            entry.refused = None;
            if entry.active.is_some() {
                batch.published.push((id, None));
            }
            let before = batch.replaced.len();
            batch.replaced.extend(entry.active.take());
            batch.replaced.extend(entry.warming.take());
            batch.replaced.len() > before
        });
        if removed {
            self.server.cluster_names.set_dynamic(id, false);
            self.stats.cluster_removed().inc();
        }
        removed
    }

    /// Makes changes known to workers, and lets go of what they replace.
    pub(super) fn publish(self: &Rc<Self>, batch: Batch) {
        let Batch {
            published,
            replaced,
        } = batch;
        let found: Vec<_> = published
            .iter()
            .filter_map(|(_, cluster)| cluster.clone())
            .collect();
        self.table.replace(published);
        for cluster in found {
            self.is_found(cluster.name());
        }
        drop(replaced);
        self.start_eds();
    }

    /// Changes what stands behind a number, and counts again.
    pub(super) fn change<T>(&self, id: ClusterId, change: impl FnOnce(&mut Entry) -> T) -> T {
        let mut clusters = self.clusters.borrow_mut();
        let entry = clusters.entry(id).or_default();
        let before = entry.tally();
        let result = change(entry);
        let after = entry.tally();
        if entry.is_empty() {
            clusters.remove(&id);
        }
        drop(clusters);
        if before != after {
            self.tally.send_modify(|tally| tally.count(before, after));
            let tally = *self.tally.borrow();
            let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
            self.stats.active_clusters().set(count(tally.active));
            self.stats.warming_clusters().set(count(tally.warming));
        }
        result
    }

    /// A cluster has found its first hosts, or gives up the wait for them.
    pub(super) fn hosts_found(self: &Rc<Self>, cluster: &Arc<LazyCluster>) {
        let is_warming = self.change(cluster.id(), |entry| {
            let waits = entry
                .warming_as(cluster)
                .and_then(|managed| managed.waits.as_ref());
            waits.inspect(|waits| waits.hosts_found.set(true)).is_some()
        });
        if is_warming {
            self.activate_if_warm(cluster);
        }
    }

    /// A cluster that has all that it waits for takes the place of an older one.
    fn activate_if_warm(self: &Rc<Self>, cluster: &Arc<LazyCluster>) {
        let id = cluster.id();
        if let Some(checker) = self.checker_to_start(cluster) {
            let (manager, waiting) = (Rc::downgrade(self), Arc::downgrade(cluster));
            checker.start(Box::new(move || {
                if let (Some(manager), Some(cluster)) = (manager.upgrade(), waiting.upgrade()) {
                    manager.hosts_checked(&cluster);
                }
            }));
            // Where there is nothing to wait for, that has been called already.
            return;
        }
        let mut batch = Batch::default();
        self.change(id, |entry| {
            let is_warm = |waits: &Waits| {
                waits.hosts_found.get() && waits.init.is_ready() && waits.checked.get()
            };
            let waits = entry
                .warming_as(cluster)
                .and_then(|managed| managed.waits.as_ref());
            if !waits.is_some_and(is_warm) {
                return;
            }
            if let Some(mut warm) = entry.warming.take() {
                warm.waits = None;
                batch.replaced.extend(entry.active.replace(warm));
                batch.published.push((id, Some(cluster.clone())));
            }
        });
        if !batch.published.is_empty() {
            info!(cluster = &**cluster.name(), "Cluster is warm.");
            cluster.count(EdsEvent::Warming(false));
        }
        self.publish(batch);
    }

    /// The health checks of a warming cluster, if all that they wait for is there and they do not run yet.
    fn checker_to_start(&self, cluster: &Arc<LazyCluster>) -> Option<Rc<HealthChecker>> {
        let clusters = self.clusters.borrow();
        let managed = clusters.get(&cluster.id())?.warming_as(cluster)?;
        let waits = managed.waits.as_ref()?;
        let checker = managed.health_checker.as_ref()?;
        let may_start = waits.hosts_found.get() && waits.init.is_ready() && !checker.has_started();
        may_start.then(|| checker.clone())
    }

    /// Each host of a cluster has been checked once.
    fn hosts_checked(self: &Rc<Self>, cluster: &Arc<LazyCluster>) {
        let checker = self.change(cluster.id(), |entry| {
            let managed = entry.warming_as(cluster)?;
            managed.waits.as_ref()?.checked.set(true);
            managed.health_checker.clone()
        });
        if let Some(checker) = checker {
            checker.activate();
            self.activate_if_warm(cluster);
        }
    }

    /// Random numbers for one cluster.
    fn chance(&self) -> Random {
        Random::new(self.random.next())
    }

    /// Who watches over the hosts of a cluster.
    fn watch_health(
        &self,
        cluster: &LazyCluster,
    ) -> (Option<Rc<HealthChecker>>, Option<Rc<OutlierDetector>>) {
        // A cluster that is watched is made at once.
        let Some(cluster) = cluster.get_if_made() else {
            return (None, None);
        };
        let info = &cluster.info;
        if info.health_check.is_none() && info.outlier_detection.is_none() {
            return (None, None);
        }
        let publisher = HealthPublisher::new(cluster, Some(self.stats.clone()));
        let runtime = &self.server.runtime;
        let checker = HealthChecker::new(
            cluster,
            publisher.clone(),
            &self.connector,
            runtime,
            self.chance(),
        );
        let log = self.outlier_log.borrow().clone();
        let outliers = OutlierDetector::start(cluster, publisher.clone(), log, self.chance());
        match &checker {
            Some(checker) => checker.tell(outliers.clone()),
            None => publisher.activate(),
        }
        (checker, outliers)
    }

    /// Says where ejections are written: `outlier_detection.event_log_path` of the bootstrap. For clusters that are added from now on.
    pub fn set_outlier_log(&self, file: Arc<LogFile>) {
        *self.outlier_log.borrow_mut() = Some(file);
    }

    /// Whether this very cluster is not yet in use.
    pub(super) fn is_warming(&self, cluster: &Arc<LazyCluster>) -> bool {
        let clusters = self.clusters.borrow();
        let entry = clusters.get(&cluster.id());
        entry.is_some_and(|entry| entry.warming_as(cluster).is_some())
    }

    /// What of a configuration is not a matter of finding hosts. One that came while the process runs and gets its hosts by EDS
    /// is made when it is needed, unless it replaces a version that was.
    fn make(
        &self,
        config: ClusterConfig,
        accepted: Option<&Accepted>,
    ) -> (Arc<LazyCluster>, HostSource) {
        let ClusterConfig {
            name,
            alt_stat_name,
            mut settings,
            metadata,
            assignment,
            dns,
            eds,
            has_bind_config,
            wait_for_warm,
            timeout_budgets,
            request_response_sizes,
            http_filters,
            transport,
            health_check,
            outlier_detection,
            init,
        } = config;
        if let (false, Some(bind)) = (has_bind_config, &*self.bind.borrow()) {
            settings.sockets = SocketSettings {
                keepalive: settings.sockets.keepalive,
                ..bind.clone()
            };
        }
        let settings = self.share(settings);
        let id = self.server.cluster_names.id(&name);
        let zone_routing = self.zone_routing(id, &settings);
        let before = self.newest(id);
        let is_touched = before
            .as_ref()
            .is_some_and(|before| before.get_if_made().is_some());
        let is_eds = eds.is_some();
        let source = HostSource {
            assignment,
            dns,
            eds,
            wait_for_warm,
            init,
        };
        let body = accepted.map(|accepted| accepted.body.clone());
        let may_wait = is_eds
            && http_filters.is_none()
            && health_check.is_none()
            && outlier_detection.is_none()
            && zone_routing.is_none()
            && settings.load_balancer.subset.is_none();
        if let (Some(body), true, false) = (body, may_wait, is_touched) {
            let state = ColdState {
                alt_stat_name: alt_stat_name.into(),
                has_metadata: metadata.iter().next().is_some(),
                timeout_budgets,
                request_response_sizes,
                transport: (!transport.is_plain()).then(|| Box::new(transport)),
                ..ColdState::new(body, settings)
            };
            let name = self.server.cluster_names.name(id);
            let name = name.unwrap_or_default();
            let cluster = LazyCluster::cold(id, name, state, &self.maker, before.as_deref());
            return (cluster, source);
        }
        let mut info = ClusterInfo::with_names(&self.server, &name, &alt_stat_name, settings);
        info.metadata = metadata;
        info.http_filters = http_filters;
        info.transport = transport;
        info.health_check = health_check;
        info.outlier_detection = outlier_detection;
        info.timeout_budget_stats = timeout_budgets.then(|| TimeoutBudgetStats::new(&info.scope));
        info.request_response_size_stats =
            request_response_sizes.then(|| RequestResponseSizeStats::new(&info.scope));
        let changes = self.table.changes().clone();
        let mut cluster = Cluster::empty(info, changes, &self.server.runtime);
        cluster.zone_routing = zone_routing;
        let cluster = Arc::new(cluster);
        let cluster = match is_eds {
            true => LazyCluster::made_with_eds(cluster),
            false => LazyCluster::made(cluster),
        };
        (cluster, source)
    }

    /// The version of a cluster that came last.
    fn newest(&self, id: ClusterId) -> Option<Arc<LazyCluster>> {
        let clusters = self.clusters.borrow();
        let entry = clusters.get(&id)?;
        let newest = entry.warming.as_ref().or(entry.active.as_ref())?;
        Some(newest.cluster.clone())
    }

    fn resolve(
        self: &Rc<Self>,
        lazy: &Arc<LazyCluster>,
        assignment: LoadAssignment,
        settings: DnsSettings,
    ) -> DnsDiscovery {
        let cluster = lazy.get();
        cluster.set_drop_overload(&self.server.runtime, assignment.drop_overload.as_ref());
        let manager = Rc::downgrade(self);
        let warm = Arc::downgrade(lazy);
        let ready = Box::new(move || {
            if let (Some(manager), Some(cluster)) = (manager.upgrade(), warm.upgrade()) {
                manager.hosts_found(&cluster);
            }
        });
        let seed = u64::from(cluster.info.id.0);
        let environment = (&self.resolver, self.workers, seed);
        DnsDiscovery::start(cluster, settings, assignment, environment, ready)
    }

    /// How zones matter for a cluster: where the process has a local cluster, which is another one.
    fn zone_routing(&self, id: ClusterId, settings: &ClusterSettings) -> Option<Arc<ZoneRouting>> {
        let local_cluster = *self.server.local_cluster.get()?;
        self.table.set_local(local_cluster);
        let settings = settings.load_balancer.zone_aware?;
        if id == local_cluster {
            return None;
        }
        let runtime = &self.server.runtime;
        let share = Fraction {
            numerator: settings.routing_enabled,
            denominator: 100,
        };
        let size = settings.min_cluster_size;
        let node = &self.server.local_info;
        Some(Arc::new(ZoneRouting {
            settings,
            enabled: runtime.fraction("upstream.zone_routing.enabled", share),
            min_cluster_size: runtime.integer("upstream.zone_routing.min_cluster_size", size),
            here: Locality {
                region: node.region.as_str().into(),
                zone: node.zone.as_str().into(),
                sub_zone: node.sub_zone.as_str().into(),
            },
        }))
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

    async fn wait_for(&self, condition: impl Fn(&ClusterTally) -> bool) {
        let mut tally = self.tally.subscribe();
        // The sender is in `self`, so the wait cannot fail.
        let _ = tally.wait_for(condition).await;
    }

    /// How many primary clusters are warming.
    pub(super) fn warming_primary(&self) -> usize {
        self.tally.borrow().warming_primary
    }
}

/// How a cluster will find its hosts.
struct HostSource {
    assignment: LoadAssignment,
    dns: Option<DnsSettings>,
    eds: Option<EdsSettings>,
    wait_for_warm: bool,
    init: InitManager,
}

impl Entry {
    fn tally(&self) -> ClusterTally {
        let primary = |managed: &&Managed| match &managed.discovery {
            Discovery::Static | Discovery::Dns { .. } => true,
            Discovery::Eds(eds) => eds.is_primary(),
        };
        ClusterTally {
            active: usize::from(self.active.is_some()),
            warming: usize::from(self.warming.is_some()),
            warming_primary: usize::from(self.warming.as_ref().filter(primary).is_some()),
        }
    }

    fn is_empty(&self) -> bool {
        self.active.is_none() && self.warming.is_none() && self.refused.is_none()
    }

    /// The version that is warming, if it is this one.
    fn warming_as(&self, cluster: &Arc<LazyCluster>) -> Option<&Managed> {
        let is_this = |warming: &&Managed| Arc::ptr_eq(&warming.cluster, cluster);
        self.warming.as_ref().filter(is_this)
    }
}

impl ClusterTally {
    fn count(&mut self, before: Self, after: Self) {
        self.active = self.active + after.active - before.active;
        self.warming = self.warming + after.warming - before.warming;
        self.warming_primary =
            self.warming_primary + after.warming_primary - before.warming_primary;
    }
}

impl fmt::Debug for ClusterManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterManager")
            .field("tally", &*self.tally.borrow())
            .finish_non_exhaustive()
    }
}

fn has_names(assignment: &LoadAssignment) -> bool {
    assignment
        .localities
        .iter()
        .flat_map(|locality| &locality.endpoints)
        .any(|endpoint| matches!(endpoint.address, EndpointAddress::Name { .. }))
}

impl LoadAssignment {
    /// The hosts at those endpoints that have addresses.
    fn into_hosts(self, workers: usize) -> PrioritySet {
        let Self {
            localities,
            overprovisioning_factor,
            weighted_priority_health,
            // Kept beside the hosts.
            drop_overload: _,
            // Of EDS alone.
            stale_after: _,
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
