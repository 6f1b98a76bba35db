//! The clusters as one worker sees them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::cluster_table::{Changed, ClusterTable};
use super::lazy_cluster::LazyCluster;
use super::pool::{Connector, SocketConnector};
use super::worker_cluster::WorkerCluster;
use super::{ClusterId, NamedClusters};

/// This worker's clusters by number, each made when first asked for.
pub struct WorkerClusters {
    table: Arc<ClusterTable>,
    /// How many changes of the table `clusters` agree with.
    seen: Cell<u64>,
    clusters: RefCell<Vec<Option<Rc<WorkerCluster>>>>,
    /// Those of them that are made of others.
    aggregates: RefCell<Vec<Rc<WorkerCluster>>>,
    /// The clusters by name, from when a request first names one. What is gone stays in it: its number leads nowhere.
    names: RefCell<Option<HashMap<Arc<str>, ClusterId>>>,
    /// The shard of stats that this worker writes.
    shard: usize,
    connector: Rc<dyn Connector>,
}

impl WorkerClusters {
    /// The clusters of `table` on the worker `index`.
    pub fn new(table: Arc<ClusterTable>, index: usize) -> Self {
        Self::with_connector(table, index, Rc::new(SocketConnector))
    }

    /// The clusters of `table` on main, whose shard of the stats is the first.
    pub fn on_main(table: Arc<ClusterTable>) -> Self {
        Self {
            shard: 0,
            ..Self::new(table, 0)
        }
    }

    /// The same with connections of another kind.
    pub fn with_connector(
        table: Arc<ClusterTable>,
        index: usize,
        connector: Rc<dyn Connector>,
    ) -> Self {
        Self {
            table,
            seen: Cell::new(0),
            clusters: RefCell::default(),
            aggregates: RefCell::default(),
            names: RefCell::default(),
            shard: index + 1,
            connector,
        }
    }

    /// The cluster with this number, if there is one.
    #[inline]
    pub fn get(&self, id: ClusterId) -> Option<Rc<WorkerCluster>> {
        if self.table.changes().version() != self.seen.get() {
            self.refresh();
        }
        self.known_or_made(id)
    }

    #[inline]
    fn known_or_made(&self, id: ClusterId) -> Option<Rc<WorkerCluster>> {
        let at = usize::try_from(id.0).unwrap_or(usize::MAX);
        if let Some(Some(cluster)) = self.clusters.borrow().get(at) {
            return Some(cluster.clone());
        }
        self.make(id, at)
    }

    /// Ends what belongs to clusters and hosts that were removed or replaced. `get` does it too; a worker without traffic does
    /// it when the table says so. It costs as much as has changed.
    #[cold]
    pub fn refresh(&self) {
        let (version, changed) = self.table.changes().since(self.seen.get());
        self.seen.set(version);
        match changed {
            Changed::These(ids) => {
                ids.iter().for_each(|id| {
                    self.refresh_one(*id);
                    self.learn_name(*id);
                });
                self.link_aggregates(|members| members.iter().any(|id| ids.contains(id)));
            }
            Changed::Anything => {
                *self.names.borrow_mut() = None;
                let known = u32::try_from(self.clusters.borrow().len()).unwrap_or(u32::MAX);
                (0..known).for_each(|id| self.refresh_one(ClusterId(id)));
                self.refresh_zones();
                self.link_aggregates(|_| true);
            }
        }
    }

    /// Members have come or gone, or are others: those of the aggregates whose members are `concerned` are looked up again.
    fn link_aggregates(&self, concerned: impl Fn(&[ClusterId]) -> bool) {
        if self.aggregates.borrow().is_empty() {
            return;
        }
        let aggregates = self.aggregates.borrow().clone();
        let linked = aggregates
            .iter()
            .filter(|cluster| cluster.info().members.as_deref().is_some_and(&concerned));
        linked.for_each(|cluster| self.link(cluster));
    }

    /// Tells an aggregate its members, as far as they are there.
    fn link(&self, aggregate: &WorkerCluster) {
        let ids = aggregate.info().members.iter().flat_map(|ids| ids.iter());
        // One that is itself made of others has no hosts of its own to give.
        let has_hosts = |id: &ClusterId| {
            let known = self.table.get(*id);
            known.is_some_and(|member| member.info.members.is_none())
        };
        let members = ids
            .filter(|id| has_hosts(id))
            .filter_map(|id| self.known_or_made(*id));
        aggregate.set_members(members.collect());
    }

    fn learn_name(&self, id: ClusterId) {
        if let Some(names) = &mut *self.names.borrow_mut()
            && let Some(cluster) = self.table.find(id)
            && !names.contains_key(cluster.name())
        {
            names.insert(cluster.name().clone(), id);
        }
    }

    /// The hosts that zones are compared by have changed.
    fn refresh_zones(&self) {
        let Some(hosts) = self.table.local_hosts() else {
            return;
        };
        let known: Vec<_> = self.clusters.borrow().iter().flatten().cloned().collect();
        known
            .iter()
            .for_each(|cluster| cluster.set_local_hosts(&hosts));
    }

    fn refresh_one(&self, id: ClusterId) {
        if self.table.local() == Some(id) {
            self.refresh_zones();
        }
        let at = usize::try_from(id.0).unwrap_or(usize::MAX);
        let known = self.clusters.borrow().get(at).cloned().flatten();
        let Some(known) = known else {
            return;
        };
        let now = self.table.find(id);
        let now = now.as_deref().and_then(LazyCluster::get_if_made);
        if now.is_some_and(|now| known.is_of(now)) {
            known.refresh();
            return;
        }
        if let Some(slot) = self.clusters.borrow_mut().get_mut(at) {
            *slot = None;
        }
        let mut aggregates = self.aggregates.borrow_mut();
        aggregates.retain(|aggregate| !Rc::ptr_eq(aggregate, &known));
        known.drain();
    }

    /// Follows the changes of clusters and hosts for as long as the worker lives, so that connections to what is gone do not wait
    /// for the next request. The worker runs it beside its other work.
    pub async fn follow(&self) {
        let mut changes = self.table.subscribe();
        while changes.changed().await.is_ok() {
            self.refresh();
        }
    }

    #[cold]
    fn make(&self, id: ClusterId, at: usize) -> Option<Rc<WorkerCluster>> {
        let cluster = self.table.get(id)?;
        let made = Rc::new(WorkerCluster::new(
            cluster,
            self.shard,
            self.connector.clone(),
        ));
        if let Some(hosts) = self.table.local_hosts() {
            made.set_local_hosts(&hosts);
        }
        let mut clusters = self.clusters.borrow_mut();
        if clusters.len() <= at {
            clusters.resize(at + 1, None);
        }
        clusters[at] = Some(made.clone());
        drop(clusters);
        if made.info().members.is_some() {
            self.link(&made);
            self.aggregates.borrow_mut().push(made.clone());
        }
        Some(made)
    }
}

impl NamedClusters for WorkerClusters {
    /// Takes no lock and asks no other thread, unless clusters have changed.
    fn find(&self, name: &str) -> Option<ClusterId> {
        if self.table.changes().version() != self.seen.get() {
            self.refresh();
        }
        let mut names = self.names.borrow_mut();
        let names = names.get_or_insert_with(|| {
            let all = self.table.all();
            all.map(|cluster| (cluster.name().clone(), cluster.id()))
                .collect()
        });
        names.get(name).copied()
    }
}

impl Default for WorkerClusters {
    fn default() -> Self {
        Self::new(Arc::default(), 0)
    }
}

impl fmt::Debug for WorkerClusters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerClusters")
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{LocalInfo, ServerContext};
    use crate::upstream::{Cluster, ClusterInfo, PrioritySet};

    #[test]
    fn clusters_are_found_by_their_names_as_they_come() {
        let server = ServerContext::new(1, LocalInfo::default());
        let table = Arc::new(ClusterTable::default());
        let add = |name: &str| {
            let info = ClusterInfo::new(&server, name, Arc::default());
            let id = info.id;
            let cluster = Cluster::new(info, PrioritySet::default());
            table.replace([(id, Some(LazyCluster::made(Arc::new(cluster))))]);
            id
        };
        let first = add("first");
        let clusters = WorkerClusters::new(table.clone(), 0);
        assert_eq!(clusters.find("first"), Some(first));
        server.cluster_names.id("mentioned");
        assert_eq!(clusters.find("mentioned"), None);
        assert_eq!(clusters.find("second"), None);
        let second = add("second");
        assert_eq!(clusters.find("second"), Some(second));
        table.replace([(first, None)]);
        assert!(
            clusters
                .find("first")
                .is_none_or(|id| clusters.get(id).is_none())
        );
        // More than is remembered.
        let last = (0..2000).fold(None, |_, i| Some(add(&format!("c{i}"))));
        assert_eq!(clusters.find("c1999"), last);
        assert_eq!(clusters.find("second"), Some(second));
    }
}
