//! Clusters as they are held until a stream needs them: their accepted bytes, those of their endpoints, and what they count.
//!
//! A cluster that came while the process runs and whose endpoints come from EDS is converted when it comes, to find errors, and
//! so is each assignment. What was made of either is dropped again but for the settings, which clusters share. The first stream
//! that asks for the cluster, on whatever thread, makes it for all. Discovery, warming and stats do not wait for that: what
//! `/stats`, `/clusters` and `/config_dump` show is made for the page, of every such cluster in turn, and dropped with it.
//!
//! Clusters with health checks, outlier detection, routing by zones, filters of their own or subsets, and new versions of those that streams have touched, are made when they
//! come.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, UNIX_EPOCH};

use outrigger_proto::pb::envoy::config::cluster::v3 as pb;
use outrigger_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use parking_lot::Mutex;
use prost::Message;
use tracing::error;

use super::ClusterId;
use super::cluster::{
    ClusterInfo, ClusterSettings, LoadAssignment, RequestResponseSizeStats, TimeoutBudgetStats,
    UpstreamTransport,
};
use super::cluster_table::Changes;
use super::discovery::eds::{Difference, EdsStats, heaviest, next_hosts};
use super::priority_set::PrioritySet;
use super::shared_cluster::{Cluster, Membership};
use crate::config::{ConfigPath, ConfigReport};
use crate::matchers::metadata_from_proto;
use crate::route::xx_hash64;
use crate::runtime::Runtime;
use crate::server::ServerContext;
use crate::stats::{Group, Scope, StatsSource, Store, TextReadout};
use crate::stream_info::DynamicMetadata;

/// A cluster that is made when first needed, or was from the start.
pub(super) struct LazyCluster {
    id: ClusterId,
    name: Arc<str>,
    made: OnceLock<Made>,
    cold: Option<Cold>,
}

/// What is there of a cluster that a stream has touched.
struct Made {
    cluster: Arc<Cluster>,
    /// Where its endpoints come from EDS.
    eds: Option<EdsReadouts>,
}

/// What a subscription to endpoints counts beside that which every cluster has.
#[derive(Clone)]
pub(super) struct EdsReadouts {
    stats: EdsStats,
    version_text: TextReadout,
}

struct Cold {
    maker: Arc<Maker>,
    /// None: the cluster was made of it.
    state: Mutex<Option<Box<ColdState>>>,
    /// Shared with the versions before and after it that are not made either.
    counts: Arc<Mutex<ColdCounts>>,
}

/// What a cluster is made of, as far as it is its own.
pub(super) struct ColdState {
    /// The encoded cluster.
    pub(super) body: Arc<[u8]>,
    pub(super) settings: Arc<ClusterSettings>,
    /// `alt_stat_name`; empty: the name.
    pub(super) alt_stat_name: Box<str>,
    pub(super) has_metadata: bool,
    pub(super) timeout_budgets: bool,
    pub(super) request_response_sizes: bool,
    /// None: connections are plain. It holds subscriptions to secrets, which are there before any stream is.
    pub(super) transport: Option<Box<UpstreamTransport>>,
    /// The encoded assignment in force.
    pub(super) assignment: Option<Arc<[u8]>>,
    /// As many priorities there have been: each stays, without hosts if need be.
    pub(super) priorities: usize,
}

/// What clusters are made with, and those that are not made yet.
pub(super) struct Maker {
    server: Arc<ServerContext>,
    changes: Arc<Changes>,
    workers: usize,
    cold: Mutex<Vec<Weak<LazyCluster>>>,
}

/// What happened to a subscription to endpoints.
#[derive(Debug, Clone, Copy)]
pub(super) enum EdsEvent<'a> {
    /// Something was asked for, or came.
    Attempt,
    /// The server cannot be reached.
    Failure,
    /// No first answer came in time.
    Timeout,
    /// A response without the resource.
    Empty,
    /// Nothing about hosts was new.
    Unchanged,
    Refused,
    Taken {
        version: &'a Arc<str>,
        took: Duration,
    },
    /// An older version's assignment was used.
    FromCache,
    /// An assignment came that holds for a limited time.
    WillBeStale,
    Stale,
    /// The cluster waits for something before it is used, or no longer.
    Warming(bool),
}

/// The stats of a cluster that is not made. In those that are, a counter that was never touched is none.
#[derive(Default)]
struct ColdCounts {
    attempts: u32,
    failures: u32,
    timeouts: u32,
    empty: u32,
    unchanged: u32,
    refused: u32,
    taken: u32,
    from_cache: u32,
    will_be_stale: u32,
    stale: u32,
    warming: Option<bool>,
    members: Option<Membership>,
    membership_changes: u32,
    matched: u32,
    heaviest: u32,
    has_been_degraded: bool,
    has_been_excluded: bool,
    version: u64,
    version_text: Option<Arc<str>>,
    /// Unix time in ms.
    updated_at: u64,
    /// Updates that took less than a millisecond.
    quick: u32,
    /// The times of others, in ms. When there are many of them, the cluster is made.
    slow: Vec<u32>,
}

/// So many slow updates are remembered one by one.
const SLOW: usize = 32;

/// A cluster has about as many groups of stats.
const PREFIXES: usize = 8;

impl LazyCluster {
    /// A cluster that is there already.
    pub(super) fn made(cluster: Arc<Cluster>) -> Arc<Self> {
        Self::with(cluster, None)
    }

    /// A cluster that is there already, with endpoints of EDS.
    pub(super) fn made_with_eds(cluster: Arc<Cluster>) -> Arc<Self> {
        let eds = EdsReadouts::new(&cluster.info.scope);
        Self::with(cluster, Some(eds))
    }

    fn with(cluster: Arc<Cluster>, eds: Option<EdsReadouts>) -> Arc<Self> {
        Arc::new(Self {
            id: cluster.info.id,
            name: cluster.info.name.clone(),
            made: OnceLock::from(Made { cluster, eds }),
            cold: None,
        })
    }

    /// A cluster that is made when first needed, with endpoints of EDS. `before` is the version that it replaces.
    pub(super) fn cold(
        id: ClusterId,
        name: Arc<str>,
        state: ColdState,
        maker: &Arc<Maker>,
        before: Option<&Self>,
    ) -> Arc<Self> {
        let counts = before.and_then(|before| before.cold.as_ref());
        let cluster = Arc::new(Self {
            id,
            name,
            made: OnceLock::new(),
            cold: Some(Cold {
                maker: maker.clone(),
                state: Mutex::new(Some(Box::new(state))),
                counts: counts.map(|cold| cold.counts.clone()).unwrap_or_default(),
            }),
        });
        maker.add(&cluster);
        cluster
    }

    /// Its number.
    pub(super) fn id(&self) -> ClusterId {
        self.id
    }

    /// `Cluster.name`.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The cluster, made now if nobody has asked for it before.
    pub(super) fn get(&self) -> &Arc<Cluster> {
        &self.get_made().cluster
    }

    /// The cluster, if it is made.
    pub(super) fn get_if_made(&self) -> Option<&Arc<Cluster>> {
        self.made.get().map(|made| &made.cluster)
    }

    /// The cluster as pages show it. One that is not made is made for the page alone, with stats of its own.
    pub(super) fn shown(&self) -> Arc<Cluster> {
        let shown = self.with_cold(|cold, state| {
            let store = cold.maker.server.stats.detached();
            Arc::new(self.show(cold, state, &store))
        });
        shown.unwrap_or_else(|| self.get().clone())
    }

    /// Counts what happened to the subscription to its endpoints.
    pub(super) fn count(&self, event: EdsEvent<'_>) {
        let counted = self.with_cold(|cold, _| cold.counts.lock().count(event));
        match counted {
            Some(true) => {}
            // More than is remembered.
            Some(false) => drop(self.get()),
            None => {
                if let Some(made) = self.made.get() {
                    made.count(event);
                }
            }
        }
    }

    /// Makes an assignment, and what it was made of, the one in force, if the cluster is not made. None: it is.
    pub(super) fn assign(
        &self,
        assignment: LoadAssignment,
        body: Option<Arc<[u8]>>,
    ) -> Result<Difference, LoadAssignment> {
        let mut assignment = Some(assignment);
        let difference = self.with_cold(|cold, state| {
            let workers = cold.maker.workers;
            let assignment = assignment.take().unwrap_or_default();
            let drops = |assignment: &LoadAssignment| assignment.drop_overload.clone();
            let is_dropped = drops(&assignment);
            let old = state.hosts(workers);
            let (new, difference) = next_hosts(assignment, &old, None, workers);
            // What says the same in another order changes nothing.
            if difference != Difference::default()
                || is_dropped != state.assignment().as_ref().and_then(drops)
            {
                state.assignment = body;
                state.priorities = new.priorities.len();
            }
            if difference != Difference::default() {
                let plain = UpstreamTransport::default();
                let transport = state.transport.as_deref().unwrap_or(&plain);
                let members = Membership::new(&old, &new, transport);
                cold.counts.lock().take(members, heaviest(&new));
            }
            difference
        });
        difference.ok_or_else(|| assignment.unwrap_or_default())
    }

    /// Where its stats are.
    pub(super) fn scope(&self) -> Option<Scope> {
        let cold = self.with_cold(|cold, state| {
            let stats = &cold.maker.server.stats;
            stats.scope(&self.prefix(state))
        });
        cold.or_else(|| Some(self.get_if_made()?.info.scope.clone()))
    }

    /// Does something with what the cluster will be made of; none: it is made.
    fn with_cold<T>(&self, act: impl FnOnce(&Cold, &mut ColdState) -> T) -> Option<T> {
        let cold = self.cold.as_ref()?;
        if self.made.get().is_some() {
            return None;
        }
        let mut state = cold.state.lock();
        state.as_deref_mut().map(|state| act(cold, state))
    }

    #[allow(clippy::expect_used, reason = "stated by the expectation")]
    fn get_made(&self) -> &Made {
        if let Some(made) = self.made.get() {
            return made;
        }
        let cold = self
            .cold
            .as_ref()
            .expect("what is not made has something to be made of");
        let mut place = cold.state.lock();
        // Another thread may have been first.
        if let Some(mut state) = place.take() {
            let server = &cold.maker.server;
            let scope = server.stats.scope(&self.prefix(&state));
            let transport = state.transport.take().map(|it| *it).unwrap_or_default();
            let changes = cold.maker.changes.clone();
            let workers = cold.maker.workers;
            let mut cluster = self.build(&state, &server.runtime, scope, transport, changes);
            cluster.overload = Some(server.overload.clone());
            if let Some(assignment) = state.assignment() {
                let drop = assignment.drop_overload.as_ref();
                cluster.set_drop_overload(&server.runtime, drop);
            }
            cluster.store_hosts(state.hosts(workers));
            let made = Made {
                eds: Some(EdsReadouts::new(&cluster.info.scope)),
                cluster: Arc::new(cluster),
            };
            std::mem::take(&mut *cold.counts.lock()).replay(&made);
            let _ = self.made.set(made);
        }
        self.made
            .get()
            .expect("it was made before its state was let go")
    }

    /// The cluster without hosts.
    fn build(
        &self,
        state: &ColdState,
        runtime: &Runtime,
        scope: Scope,
        transport: UpstreamTransport,
        changes: Arc<Changes>,
    ) -> Cluster {
        let name = self.name.clone();
        let alt_stat_name = &state.alt_stat_name;
        let settings = state.settings.clone();
        let mut info = ClusterInfo::with_scope(self.id, name, alt_stat_name, scope, settings);
        info.metadata = state.metadata();
        info.transport = transport;
        info.timeout_budget_stats = state
            .timeout_budgets
            .then(|| TimeoutBudgetStats::new(&info.scope));
        info.request_response_size_stats = state
            .request_response_sizes
            .then(|| RequestResponseSizeStats::new(&info.scope));
        Cluster::empty(info, changes, runtime)
    }

    /// The cluster with stats in a store of its own.
    fn show(&self, cold: &Cold, state: &ColdState, store: &Store) -> Cluster {
        let scope = store.scope(&self.prefix(state));
        let transport = UpstreamTransport::default();
        let runtime = Runtime::default();
        let cluster = self.build(state, &runtime, scope, transport, Arc::default());
        let Maker {
            server, workers, ..
        } = &*cold.maker;
        if let Some(assignment) = state.assignment() {
            let drop = assignment.drop_overload.as_ref();
            cluster.set_drop_overload(&server.runtime, drop);
        }
        cluster.store_hosts(state.hosts(*workers));
        cluster
    }

    fn prefix(&self, state: &ColdState) -> String {
        super::shared_cluster::stats_prefix(match &*state.alt_stat_name {
            "" => &self.name,
            other => other,
        })
    }
}

impl Made {
    fn count(&self, event: EdsEvent<'_>) {
        let counted = &self.cluster.info.update_stats;
        let Some(EdsReadouts {
            stats,
            version_text,
        }) = &self.eds
        else {
            return;
        };
        match event {
            EdsEvent::Attempt => counted.update_attempt().inc(),
            EdsEvent::Failure => counted.update_failure().inc(),
            EdsEvent::Timeout => stats.init_fetch_timeout().inc(),
            EdsEvent::Empty => counted.update_empty().inc(),
            EdsEvent::Unchanged => counted.update_no_rebuild().inc(),
            EdsEvent::Refused => stats.update_rejected().inc(),
            EdsEvent::Taken { version, took } => {
                counted.update_success().inc();
                counted.version().set(xx_hash64(version.as_bytes(), 0));
                version_text.set(&**version);
                stats.update_time().set(now());
                stats.update_duration().record(millis(took));
            }
            EdsEvent::FromCache => counted.assignment_use_cached().inc(),
            EdsEvent::WillBeStale => counted.assignment_timeout_received().inc(),
            EdsEvent::Stale => counted.assignment_stale().inc(),
            EdsEvent::Warming(true) => counted.warming_state().set(1),
            EdsEvent::Warming(false) if !counted.warming_state().is_used() => {}
            EdsEvent::Warming(false) => counted.warming_state().set(0),
        }
    }
}

impl EdsReadouts {
    fn new(scope: &Scope) -> Self {
        Self {
            stats: EdsStats::new(scope),
            version_text: scope.text_readout("version_text"),
        }
    }
}

impl ColdState {
    /// What is kept of a converted cluster.
    pub(super) fn new(body: Arc<[u8]>, settings: Arc<ClusterSettings>) -> Self {
        Self {
            body,
            settings,
            alt_stat_name: Box::default(),
            has_metadata: false,
            timeout_budgets: false,
            request_response_sizes: false,
            transport: None,
            assignment: None,
            priorities: 0,
        }
    }

    fn metadata(&self) -> DynamicMetadata {
        if !self.has_metadata {
            return DynamicMetadata::default();
        }
        let decoded = pb::Cluster::decode(&*self.body);
        let metadata = decoded.ok().and_then(|proto| proto.metadata);
        metadata.map(metadata_from_proto).unwrap_or_default()
    }

    fn assignment(&self) -> Option<LoadAssignment> {
        let body = self.assignment.as_deref()?;
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "endpoints");
        let assignment = ClusterLoadAssignment::decode(body).ok().and_then(|proto| {
            let name = proto.cluster_name.clone();
            LoadAssignment::from_eds(proto, &name, &path).ok()
        });
        if assignment.is_none() {
            // It was converted when it came.
            error!(errors = ?report.take(), "An accepted assignment cannot be read again.");
        }
        assignment
    }

    /// The hosts as they were assigned last.
    fn hosts(&self, workers: usize) -> PrioritySet {
        let mut set = match self.assignment() {
            Some(assignment) => next_hosts(assignment, &PrioritySet::default(), None, workers).0,
            None => PrioritySet::default(),
        };
        set.keep_priorities(self.priorities);
        set
    }
}

impl ColdCounts {
    /// False: that is more than can be remembered.
    fn count(&mut self, event: EdsEvent<'_>) -> bool {
        let counter = match event {
            EdsEvent::Attempt => &mut self.attempts,
            EdsEvent::Failure => &mut self.failures,
            EdsEvent::Timeout => &mut self.timeouts,
            EdsEvent::Empty => &mut self.empty,
            EdsEvent::Unchanged => &mut self.unchanged,
            EdsEvent::Refused => &mut self.refused,
            EdsEvent::FromCache => &mut self.from_cache,
            EdsEvent::WillBeStale => &mut self.will_be_stale,
            EdsEvent::Stale => &mut self.stale,
            EdsEvent::Taken { version, took } => {
                self.version = xx_hash64(version.as_bytes(), 0);
                self.version_text = Some(version.clone());
                self.updated_at = now();
                match u32::try_from(millis(took)).unwrap_or(u32::MAX) {
                    0 => self.quick += 1,
                    took => self.slow.push(took),
                }
                &mut self.taken
            }
            EdsEvent::Warming(is_warming) => {
                if is_warming || self.warming.is_some() {
                    self.warming = Some(is_warming);
                }
                return true;
            }
        };
        *counter += 1;
        *counter < u32::MAX / 2 && self.slow.len() < SLOW
    }

    fn take(&mut self, members: Membership, heaviest: u32) {
        let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        self.membership_changes += count(members.changes);
        self.matched += count(members.matched);
        self.heaviest = heaviest;
        self.has_been_degraded |= members.degraded > 0;
        self.has_been_excluded |= members.excluded > 0;
        self.members = Some(members);
    }

    /// Sets back to zero what only grows.
    fn reset(&mut self) {
        let Self {
            attempts,
            failures,
            timeouts,
            empty,
            unchanged,
            refused,
            taken,
            from_cache,
            will_be_stale,
            stale,
            membership_changes,
            matched,
            ..
        } = self;
        for counter in [
            attempts,
            failures,
            timeouts,
            empty,
            unchanged,
            refused,
            taken,
            from_cache,
            will_be_stale,
            stale,
            membership_changes,
            matched,
        ] {
            *counter = 0;
        }
    }

    /// Counts all that in stats that are there now.
    fn replay(&self, made: &Made) {
        let Some(eds) = &made.eds else {
            return;
        };
        let counted = &made.cluster.info.update_stats;
        for (counter, count) in [
            (counted.update_attempt(), self.attempts),
            (counted.update_failure(), self.failures),
            (counted.update_empty(), self.empty),
            (counted.update_no_rebuild(), self.unchanged),
            (counted.update_success(), self.taken),
            (counted.assignment_use_cached(), self.from_cache),
            (counted.assignment_timeout_received(), self.will_be_stale),
            (counted.assignment_stale(), self.stale),
            (eds.stats.init_fetch_timeout(), self.timeouts),
            (eds.stats.update_rejected(), self.refused),
        ] {
            if count > 0 {
                counter.add(count.into());
            }
        }
        if let Some(is_warming) = self.warming {
            counted.warming_state().set(is_warming.into());
        }
        if let Some(version) = &self.version_text {
            counted.version().set(self.version);
            eds.version_text.set(&**version);
            eds.stats.update_time().set(self.updated_at);
        }
        let duration = eds.stats.update_duration();
        (0..self.quick).for_each(|_| duration.record(0));
        self.slow
            .iter()
            .for_each(|took| duration.record(u64::from(*took)));
        self.replay_members(&made.cluster.info);
    }

    fn replay_members(&self, info: &ClusterInfo) {
        let Some(members) = &self.members else {
            return;
        };
        let stats = &info.endpoint_stats;
        stats.max_host_weight().set(self.heaviest.into());
        if self.membership_changes > 0 {
            stats
                .membership_change()
                .add(self.membership_changes.into());
        }
        info.socket_match_stats
            .total_match_count()
            .add(self.matched.into());
        stats.membership_healthy().set(members.healthy);
        stats.membership_total().set(members.total);
        if self.has_been_excluded {
            stats.membership_excluded().set(members.excluded);
        }
        if self.has_been_degraded {
            stats.membership_degraded().set(members.degraded);
        }
    }
}

impl Maker {
    pub(super) fn new(
        server: &Arc<ServerContext>,
        changes: &Arc<Changes>,
        workers: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            server: server.clone(),
            changes: changes.clone(),
            workers,
            cold: Mutex::default(),
        })
    }

    fn add(&self, cluster: &Arc<LazyCluster>) {
        let mut cold = self.cold.lock();
        if cold.len() == cold.capacity() {
            cold.retain(|known| {
                known
                    .upgrade()
                    .is_some_and(|known| known.made.get().is_none())
            });
        }
        cold.push(Arc::downgrade(cluster));
    }

    fn all(&self) -> Vec<Arc<LazyCluster>> {
        self.cold.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Does something with every cluster that is not made and whose stats nobody else has. Those that share their prefix with
    /// others are made.
    fn each(&self, store: &Store, mut act: impl FnMut(&LazyCluster, &Cold, &ColdState)) {
        let all = self.all();
        let mut owners = HashMap::with_capacity(all.len());
        for cluster in &all {
            let owner = cluster.with_cold(|cold, state| {
                let counts = Arc::as_ptr(&cold.counts);
                (cluster.prefix(state), counts)
            });
            let Some((prefix, counts)) = owner else {
                continue;
            };
            let is_shared = store.has_prefix(&prefix);
            match owners.entry(prefix) {
                Entry::Vacant(place) if !is_shared => {
                    place.insert((cluster, counts));
                }
                Entry::Occupied(place) if place.get().1 == counts => {}
                // What is made has its prefix, so those that come later are made as well.
                Entry::Occupied(place) => {
                    place.get().0.get();
                    cluster.get();
                }
                Entry::Vacant(_) => {
                    cluster.get();
                }
            }
        }
        for (cluster, _) in owners.values() {
            cluster.with_cold(|cold, state| act(cluster, cold, state));
        }
    }
}

impl StatsSource for Maker {
    fn groups(&self, store: &Store) -> Vec<Arc<Group>> {
        let mut groups = Vec::new();
        self.each(store, |cluster, cold, state| {
            let store = self.server.stats.detached();
            let shown = cluster.show(cold, state, &store);
            let made = Made {
                eds: Some(EdsReadouts::new(&shown.info.scope)),
                cluster: Arc::new(shown),
            };
            cold.counts.lock().replay(&made);
            // What came since the last flush is shown with the rest.
            store.flush();
            store.flush();
            groups.extend(store.groups());
        });
        groups
    }

    fn texts(&self, store: &Store) -> Vec<(Arc<str>, String)> {
        let mut texts = Vec::new();
        self.each(store, |cluster, cold, state| {
            let name = format!("{}version_text", cluster.prefix(state));
            let version = cold.counts.lock().version_text.clone();
            let version = version.map(|version| version.to_string());
            texts.push((name.into(), version.unwrap_or_default()));
        });
        texts
    }

    fn reset_counters(&self) {
        for cluster in self.all() {
            cluster.with_cold(|cold, _| cold.counts.lock().reset());
        }
    }

    fn registered(&self) -> usize {
        self.cold.lock().len() * PREFIXES
    }
}

fn now() -> u64 {
    millis(UNIX_EPOCH.elapsed().unwrap_or_default())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Debug for LazyCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyCluster")
            .field("name", &self.name)
            .field("is_made", &self.made.get().is_some())
            .finish_non_exhaustive()
    }
}
