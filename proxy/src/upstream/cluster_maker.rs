//! A cluster is made of its configuration: at once, or as what it will be made of when a stream needs it.

use std::rc::Rc;
use std::sync::Arc;

use super::ClusterId;
use super::cluster::{
    ClusterConfig, ClusterInfo, ClusterSettings, DnsSettings, EdsSettings, EndpointAddress,
    LoadAssignment, RequestResponseSizeStats, TimeoutBudgetStats,
};
use super::cluster_entry::Accepted;
use super::cluster_manager::ClusterManager;
use super::discovery::dns::DnsDiscovery;
use super::health_check::HealthChecker;
use super::host::Locality;
use super::host_health::HealthPublisher;
use super::lazy_cluster::{ColdState, LazyCluster};
use super::load_balancer::ZoneRouting;
use super::outlier_detection::OutlierDetector;
use super::pool::SocketSettings;
use super::priority_set::{HostGroup, PrioritySet};
use super::shared_cluster::Cluster;
use crate::config::Fraction;
use crate::server::{InitManager, Random};

/// Distinct settings that are remembered; clusters that share none of them keep their own.
const SHARED_SETTINGS: usize = 64;

/// How a cluster will find its hosts.
pub(super) struct HostSource {
    pub(super) assignment: LoadAssignment,
    pub(super) dns: Option<DnsSettings>,
    pub(super) eds: Option<EdsSettings>,
    pub(super) wait_for_warm: bool,
    /// Whether its hosts are those of other clusters.
    pub(super) members: bool,
    pub(super) init: InitManager,
}

impl ClusterManager {
    /// What of a configuration is not a matter of finding hosts. One that came while the process runs and gets its hosts by EDS
    /// is made when it is needed, unless it replaces a version that was.
    pub(super) fn make(
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
            members,
            has_bind_config,
            wait_for_warm,
            timeout_budgets,
            request_response_sizes,
            http_filters,
            request_policies,
            transport,
            health_checks,
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
            members: members.is_some(),
            init,
        };
        let body = accepted.map(|accepted| accepted.body.clone());
        let may_wait = is_eds
            && http_filters.is_none()
            && request_policies.is_none()
            && health_checks.is_empty()
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
        info.members = members.map(|names| {
            let names = names.iter();
            names
                .map(|name| self.server.cluster_names.id(name))
                .collect()
        });
        info.http_filters = http_filters;
        info.request_policies = request_policies;
        info.transport = transport;
        info.health_checks = health_checks;
        info.outlier_detection = outlier_detection;
        info.timeout_budget_stats = timeout_budgets.then(|| TimeoutBudgetStats::new(&info.scope));
        info.request_response_size_stats =
            request_response_sizes.then(|| RequestResponseSizeStats::new(&info.scope));
        let changes = self.table.changes().clone();
        let mut cluster = Cluster::empty(info, changes, &self.server.runtime);
        cluster.zone_routing = zone_routing;
        cluster.overload = Some(self.server.overload.clone());
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

    pub(super) fn resolve(
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

    /// Random numbers for one cluster.
    fn chance(&self) -> Random {
        Random::new(self.random.next())
    }

    /// Who watches over the hosts of a cluster.
    pub(super) fn watch_health(
        &self,
        cluster: &LazyCluster,
    ) -> (Option<Rc<HealthChecker>>, Option<Rc<OutlierDetector>>) {
        // A cluster that is watched is made at once.
        let Some(cluster) = cluster.get_if_made() else {
            return (None, None);
        };
        let info = &cluster.info;
        if info.health_checks.is_empty() && info.outlier_detection.is_none() {
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
}

pub(super) fn has_names(assignment: &LoadAssignment) -> bool {
    assignment
        .localities
        .iter()
        .flat_map(|locality| &locality.endpoints)
        .any(|endpoint| matches!(endpoint.address, EndpointAddress::Name { .. }))
}

impl LoadAssignment {
    /// The hosts at those endpoints that have addresses.
    pub(super) fn into_hosts(self, workers: usize) -> PrioritySet {
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
