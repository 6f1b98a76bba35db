//! The clusters of the process: added, changed and removed on main, read by workers.
//!
//! Stats: `cluster_manager.*`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

use super::ClusterId;
use super::cluster::{ClusterConfig, ClusterSettings};
use super::cluster_entry::{Accepted, ClusterTally, Discovery, Entry, Managed, Waits};
use super::cluster_maker::{HostSource, has_names};
use super::cluster_table::ClusterTable;
use super::discovery::Resolver;
use super::discovery::eds::{EdsDiscovery, EdsManager};
use super::dynamic_clusters::Cds;
use super::health_check::HealthChecker;
use super::lazy_cluster::{EdsEvent, LazyCluster, Maker};
use super::on_demand::OnDemandManager;
use super::pool::{Connector, SocketConnector, SocketSettings};
use super::shared_cluster::Cluster;
use crate::access_loggers::LogFile;
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
    pub(super) resolver: Rc<dyn Resolver>,
    /// Makes the connections of health checks.
    pub(super) connector: Rc<dyn Connector>,
    /// Seeds the random numbers of health checks and outlier detection.
    pub(super) random: Random,
    pub(super) table: Arc<ClusterTable>,
    /// What makes clusters when they are needed.
    pub(super) maker: Arc<Maker>,
    pub(super) stats: ClusterManagerStats,
    pub(super) clusters: RefCell<HashMap<ClusterId, Entry>>,
    /// Settings that clusters share.
    pub(super) settings: RefCell<Vec<Arc<ClusterSettings>>>,
    /// `ClusterManager.upstream_bind_config`, for clusters that have none.
    pub(super) bind: RefCell<Option<SocketSettings>>,
    /// Where outlier detection writes events.
    pub(super) outlier_log: RefCell<Option<Arc<LogFile>>>,
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

/// Changes that are published together.
#[derive(Default)]
pub(super) struct Batch {
    published: Vec<(ClusterId, Option<Arc<LazyCluster>>)>,
    /// What they replace.
    replaced: Vec<Managed>,
}

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
            members,
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
            _ if members => Discovery::Members,
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

impl fmt::Debug for ClusterManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterManager")
            .field("tally", &*self.tally.borrow())
            .finish_non_exhaustive()
    }
}
