//! A cluster as all workers see it: what is configured, its hosts, and what is made of both.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::ClusterId;
use super::circuit_breaker::CircuitBreakers;
use super::cluster::{
    ClusterEndpointStats, ClusterInfo, ClusterSettings, ClusterTrafficStats, ClusterUpdateStats,
    DropOverload, TransportSocketMatchStats, UpstreamTransport,
};
use super::cluster_table::Changes;
use super::host::{Health, HealthFlag, Host, HostIdentity};
use super::host_health::{HealthChanges, HostReports};
use super::load_balancer::{HashTables, Policy, SubsetTable, ZoneRouting};
use super::outlier_detection::SuccessRates;
use super::priority_set::{HostSet, PrioritySet};
use crate::overload::{LoadShedPoint, OverloadState};
use crate::runtime::{Runtime, RuntimeInteger};
use crate::server::ServerContext;
use crate::stats::Scope;

/// A cluster, shared by all workers.
#[derive(Debug)]
pub struct Cluster {
    /// What is known of it beside its hosts.
    pub info: Arc<ClusterInfo>,
    /// Its hosts, replaced as a whole.
    pub hosts: ArcSwap<PrioritySet>,
    /// Grows when `hosts` has been replaced.
    pub(super) hosts_version: AtomicU64,
    /// The requests that its endpoints ask to be dropped (`drop_overloads`), in parts of 1,000,000.
    pub(super) drop_overload: AtomicU32,
    /// What they are dropped for.
    pub(super) drop_category: ArcSwapOption<String>,
    /// What has become of single hosts since `hosts` was replaced.
    pub(super) health_changes: HealthChanges,
    /// What main should look at; none: nobody watches over the health of the hosts.
    pub(super) reports: Option<Box<HostReports>>,
    /// What outlier detection should look at; none: there is none.
    pub(super) outliers: Option<Box<HostReports>>,
    /// What it has found.
    pub(super) success_rates: SuccessRates,
    /// Of the table that it is in.
    changes: Arc<Changes>,
    /// How zones matter; none: they do not.
    pub(super) zone_routing: Option<Arc<ZoneRouting>>,
    /// Whether new connections are turned away; none: nobody manages overload.
    pub(super) overload: Option<Arc<OverloadState>>,
    /// `upstream.healthy_panic_threshold`, over that of the cluster.
    pub(super) panic_threshold: RuntimeInteger,
    /// `upstream.maintenance_mode.<name>`, in percent.
    pub(super) maintenance_mode: RuntimeInteger,
}

/// What a change of hosts means for the stats of a cluster.
#[derive(Debug, Clone, Copy)]
pub(super) struct Membership {
    /// How many priorities have other members.
    pub(super) changes: u64,
    pub(super) total: u64,
    pub(super) healthy: u64,
    pub(super) degraded: u64,
    pub(super) excluded: u64,
    /// How many hosts are new and get the transport socket of the cluster.
    pub(super) matched: u64,
}

const DROP_OVERLOAD_LIMIT: &str = "load_balancing_policy.drop_overload_limit";

impl Cluster {
    /// A cluster on its own, without a manager: for tests, and for what is not configured by name.
    pub fn new(info: ClusterInfo, hosts: PrioritySet) -> Self {
        let cluster = Self::empty(info, Arc::default(), &Runtime::default());
        cluster.set_hosts(hosts);
        cluster
    }

    /// A cluster without hosts, as yet.
    pub(super) fn empty(info: ClusterInfo, changes: Arc<Changes>, runtime: &Runtime) -> Self {
        let threshold = info.settings.load_balancer.healthy_panic_threshold;
        let panic_threshold = runtime.integer("upstream.healthy_panic_threshold", threshold.into());
        let maintenance = format!("upstream.maintenance_mode.{}", info.name);
        let maintenance_mode = runtime.integer(&maintenance, 0);
        Self {
            reports: (!info.health_checks.is_empty()).then(Box::default),
            outliers: info.outlier_detection.is_some().then(Box::default),
            success_rates: SuccessRates::default(),
            health_changes: HealthChanges::default(),
            info: Arc::new(info),
            hosts: ArcSwap::default(),
            hosts_version: AtomicU64::new(0),
            drop_overload: AtomicU32::new(0),
            drop_category: ArcSwapOption::empty(),
            changes,
            zone_routing: None,
            overload: None,
            panic_threshold,
            maintenance_mode,
        }
    }

    /// Publishes a new set of hosts, and counts what changed.
    pub fn set_hosts(&self, set: PrioritySet) {
        {
            let old = self.hosts.load();
            if !self.info.health_checks.is_empty() {
                self.await_health_checks(&set, &old);
            }
            self.count_members(&Membership::new(&old, &set, &self.info.transport));
        }
        self.store_hosts(set);
        self.announce();
        for reports in [&self.reports, &self.outliers].into_iter().flatten() {
            reports.hosts_replaced();
        }
    }

    fn count_members(&self, members: &Membership) {
        let stats = &self.info.endpoint_stats;
        if members.changes > 0 {
            stats.membership_change().add(members.changes);
        }
        self.info
            .socket_match_stats
            .total_match_count()
            .add(members.matched);
        stats.membership_healthy().set(members.healthy);
        stats.membership_total().set(members.total);
        if members.excluded > 0 || stats.membership_excluded().is_used() {
            stats.membership_excluded().set(members.excluded);
        }
        if members.degraded > 0 || stats.membership_degraded().is_used() {
            stats.membership_degraded().set(members.degraded);
        }
    }

    /// Takes a set of hosts without a word to anybody.
    pub(super) fn store_hosts(&self, mut set: PrioritySet) {
        let old = self.hosts.load();
        if self.outliers.is_some() {
            set.hosts().for_each(|host| host.make_monitor());
        }
        if self.reports.is_some() || self.outliers.is_some() {
            set.places = set.find_places();
        }
        set.hash_tables = self.hash_tables(&set);
        set.subsets = self.subsets(&set, &old);
        for host in set.hosts() {
            host.set_counted(host.standing());
        }
        self.hosts.store(Arc::new(set));
    }

    /// Whether the overload manager turns a new connection away.
    pub(super) fn sheds_connections(&self) -> bool {
        let overload = self.overload.as_ref();
        overload.is_some_and(|overload| {
            let shed = &overload.load_shed;
            shed.sheds(LoadShedPoint::NewConnection, rand::random)
        })
    }

    /// Tells workers that there is something new.
    pub(super) fn announce(&self) {
        self.hosts_version.fetch_add(1, Relaxed);
        self.changes.add(&[self.info.id]);
    }

    /// Says which requests are dropped from now on: no more than `load_balancing_policy.drop_overload_limit` percent.
    pub(super) fn set_drop_overload(&self, runtime: &Runtime, drop: Option<&DropOverload>) {
        let per_million = drop.map_or(0, |drop| {
            let limit = runtime.integer(DROP_OVERLOAD_LIMIT, 100);
            let limit = u32::try_from(limit.get()).unwrap_or(100).min(100);
            drop.per_million.min(limit * 10_000)
        });
        self.drop_overload.store(per_million, Relaxed);
        let category = drop.map(|drop| Arc::new(drop.category.clone()));
        self.drop_category.store(category);
    }

    /// Whether load balancers are made of all hosts at once, and not of those of each priority.
    pub(super) fn is_built_from_all_hosts(&self) -> bool {
        let settings = &self.info.settings.load_balancer;
        settings.subset.is_some() || matches!(settings.policy, Policy::Hash(_))
    }

    /// Publishes the same hosts again, with all that is made of them.
    pub(super) fn rebuild(&self) {
        let old = self.hosts.load();
        let mut set = PrioritySet::clone(&old);
        set.hash_tables = self.hash_tables(&set);
        set.subsets = self.subsets(&set, &old);
        self.hosts.store(Arc::new(set));
    }

    /// A new host gets no requests before a health check has succeeded. One that only moves to another locality is known.
    fn await_health_checks(&self, set: &PrioritySet, old: &PrioritySet) {
        let known: HashSet<_> = old.hosts().map(|host| host.identity()).collect();
        let mut by_address = None;
        for host in set.hosts() {
            if known.contains(&host.identity()) || host.has_no_health_checks() {
                continue;
            }
            let by_address = by_address.get_or_insert_with(|| -> HashMap<_, _> {
                old.hosts().map(|host| (&host.address, host)).collect()
            });
            let same = by_address.get(&host.address).filter(|old| {
                old.health_check_address() == host.health_check_address()
                    && !old.has_no_health_checks()
            });
            let checked = HealthFlag::FailedActiveHc as u32
                | HealthFlag::DegradedActiveHc as u32
                | HealthFlag::PendingActiveHc as u32
                | HealthFlag::ActiveHcTimeout as u32;
            let settings = &self.info.settings.load_balancer;
            let flags = match same {
                Some(same) => same.health.get(),
                None if settings.ignore_new_hosts_until_first_hc => {
                    HealthFlag::FailedActiveHc as u32 | HealthFlag::PendingActiveHc as u32
                }
                None => HealthFlag::FailedActiveHc as u32,
            };
            host.health.replace_among(checked, flags);
        }
    }

    /// What load balancers that hash read, for the hosts as they are now.
    fn hash_tables(&self, set: &PrioritySet) -> Option<Arc<HashTables>> {
        let settings = &self.info.settings.load_balancer;
        let Policy::Hash(hashing) = &settings.policy else {
            return None;
        };
        if settings.subset.is_some() {
            return None;
        }
        let threshold = self.panic_threshold.get().min(100);
        let weighted = settings.locality_weighted;
        let scope = &self.info.scope;
        Some(Arc::new(HashTables::new(
            hashing, weighted, set, threshold, scope,
        )))
    }

    /// What load balancers with subsets read, likewise.
    fn subsets(&self, set: &PrioritySet, old: &PrioritySet) -> Option<Arc<SubsetTable>> {
        let threshold = self.panic_threshold.get().min(100);
        let table = SubsetTable::new(&self.info, set, threshold)?;
        table.count(old.subsets.as_deref(), &self.info);
        Some(Arc::new(table))
    }
}

impl ClusterInfo {
    /// A cluster of this name with default settings, whose stats are in `server`.
    pub fn new(server: &ServerContext, name: &str, settings: Arc<ClusterSettings>) -> Self {
        Self::with_names(server, name, "", settings)
    }

    pub(super) fn with_names(
        server: &ServerContext,
        name: &str,
        alt_stat_name: &str,
        settings: Arc<ClusterSettings>,
    ) -> Self {
        let id = server.cluster_names.id(name);
        let name = server.cluster_names.name(id).unwrap_or_else(|| name.into());
        let scope = match alt_stat_name {
            "" => stats_scope(server, &name),
            other => stats_scope(server, other),
        };
        Self::with_scope(id, name, alt_stat_name, scope, settings)
    }

    /// A cluster with its stats in `scope`.
    pub(super) fn with_scope(
        id: ClusterId,
        name: Arc<str>,
        alt_stat_name: &str,
        scope: Scope,
        settings: Arc<ClusterSettings>,
    ) -> Self {
        let observability_name = match alt_stat_name {
            "" => name.clone(),
            other => other.into(),
        };
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
            health_checks: Box::default(),
            outlier_detection: None,
            members: None,
            http_filters: None,
            request_policies: None,
            circuit_breakers: CircuitBreakers::new(&settings.circuit_breakers, &scope),
            settings,
            metadata: Default::default(),
            scope,
        }
    }
}

impl Membership {
    /// What changes when `new` hosts take the place of `old` ones, of which some may be the same.
    pub(super) fn new(old: &PrioritySet, new: &PrioritySet, transport: &UpstreamTransport) -> Self {
        let identity = |host: &Arc<Host>| host.identity();
        let known: HashSet<_> = old.hosts().map(identity).collect();
        let members = |set: &PrioritySet, at| -> HashSet<HostIdentity> {
            let hosts = set.priorities.get(at).into_iter();
            let hosts = hosts.flat_map(|set: &HostSet| &set.hosts);
            hosts.map(identity).collect()
        };
        let priorities = 0..old.priorities.len().max(new.priorities.len());
        let changed = priorities.filter(|at| members(old, *at) != members(new, *at));
        // Those that get the socket of the cluster.
        let is_new = |host: &&Arc<Host>| !known.contains(&host.identity());
        let has_own = |host: &Host| transport.has_matches() && transport.count(&host.metadata);
        let matched = new.hosts().filter(is_new).filter(|host| !has_own(host));
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        Self {
            changes: count(changed.count()),
            total: count(new.hosts().count()),
            healthy: count(new.count(Health::Healthy)),
            degraded: count(new.count(Health::Degraded)),
            excluded: count(new.hosts().filter(|host| host.is_excluded()).count()),
            matched: count(matched.count()),
        }
    }
}

/// Where the stats of a cluster are. Colons would end a name in text formats.
pub(super) fn stats_prefix(observability_name: &str) -> String {
    format!("cluster.{}.", observability_name.replace(':', "_"))
}

pub(super) fn stats_scope(server: &ServerContext, observability_name: &str) -> Scope {
    server.stats.scope(&stats_prefix(observability_name))
}
