//! Clusters as they are held until a stream needs them: their accepted bytes, those of their endpoints, and what they count.
//!
//! A cluster that came while the process runs and whose endpoints come from EDS is converted when it comes, to find errors, and
//! so is each assignment. What was made of either is dropped again but for the settings, which clusters share. The first stream
//! that asks for the cluster, on whatever thread, makes it for all. Discovery, warming and stats do not wait for that: what
//! `/stats`, `/clusters` and `/config_dump` show is made for the page, of every such cluster in turn, and dropped with it.
//!
//! Clusters with health checks, outlier detection, routing by zones, filters of their own or subsets, and new versions of those that streams have touched, are made when they
//! come.

mod cold;
mod counts;
mod maker;

use std::fmt;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::ClusterId;
use super::cluster::{
    ClusterInfo, LoadAssignment, RequestResponseSizeStats, TimeoutBudgetStats, UpstreamTransport,
};
use super::cluster_table::Changes;
use super::discovery::eds::{Difference, heaviest, next_hosts};
use super::shared_cluster::{Cluster, Membership};
use crate::runtime::Runtime;
use crate::stats::{Scope, Store};

use counts::ColdCounts;

pub(super) use cold::ColdState;
pub(super) use counts::{EdsEvent, EdsReadouts};
pub(super) use maker::Maker;

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

struct Cold {
    maker: Arc<Maker>,
    /// None: the cluster was made of it.
    state: Mutex<Option<Box<ColdState>>>,
    /// Shared with the versions before and after it that are not made either.
    counts: Arc<Mutex<ColdCounts>>,
}

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

impl fmt::Debug for LazyCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyCluster")
            .field("name", &self.name)
            .field("is_made", &self.made.get().is_some())
            .finish_non_exhaustive()
    }
}
