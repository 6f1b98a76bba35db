//! The clusters as one worker sees them.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::circuit_breaker::{Resource, RoutingPriority};
use super::cluster::{ClusterInfo, CodeOrigin, CodeStats};
use super::cluster_table::{Changed, ClusterTable};
use super::host::{HealthFlag, Host, WorkerHost};
use super::host_health::{HealthChange, HostReport, Missed};
use super::lazy_cluster::LazyCluster;
use super::load_balancer::{LoadBalancerContext, WorkerLoadBalancer};
use super::outlier_detection::{HostResult, OutlierDetectionConfig};
use super::pool::{
    self, Acquire, Connector, PoolError, RequestGuard, RetryGuard, SocketConnector, StreamRequest,
    TcpUpstream,
};
use super::priority_set::PrioritySet;
use super::shared_cluster::Cluster;
use super::{ClusterId, NamedClusters};
use crate::http_connection_manager::codec::h1::ClientHttp1Settings;
use crate::http_connection_manager::codec::{Http1CodecStats, Http2CodecStats};
use crate::http_filters::LocalBoxFuture;
use crate::http2::ClientHttp2Settings;
use crate::server::Random;
use crate::transport_sockets::UpstreamSocketOptions;

/// This worker's clusters by number, each made when first asked for.
pub struct WorkerClusters {
    table: Arc<ClusterTable>,
    /// How many changes of the table `clusters` agree with.
    seen: Cell<u64>,
    clusters: RefCell<Vec<Option<Rc<WorkerCluster>>>>,
    /// The clusters by name, from when a request first names one. What is gone stays in it: its number leads nowhere.
    names: RefCell<Option<HashMap<Arc<str>, ClusterId>>>,
    /// The shard of stats that this worker writes.
    shard: usize,
    connector: Rc<dyn Connector>,
}

/// A cluster as one worker sees it: its load balancer and its hosts' pools.
pub struct WorkerCluster {
    handle: Rc<ClusterHandle>,
    balancer: RefCell<WorkerLoadBalancer>,
    /// The version of the hosts that the balancer agrees with.
    seen: Cell<u64>,
    /// The hosts of that version.
    hosts: RefCell<Arc<PrioritySet>>,
    /// How many changes of the health of single hosts it agrees with.
    seen_health: Cell<u64>,
}

/// A cluster without its hosts: what connections and requests hold on to.
pub(in crate::upstream) struct ClusterHandle {
    pub(super) cluster: Arc<Cluster>,
    /// The same as `cluster.info`.
    pub(super) info: Arc<ClusterInfo>,
    name: Rc<str>,
    observability_name: Rc<str>,
    codes: RefCell<CodeStats>,
    pub(super) connector: Rc<dyn Connector>,
    shard: usize,
    http1: OnceCell<(Rc<ClientHttp1Settings>, Http1CodecStats)>,
    http2: OnceCell<(Rc<ClientHttp2Settings>, Rc<Http2CodecStats>)>,
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
            Changed::These(ids) => ids.into_iter().for_each(|id| {
                self.refresh_one(id);
                self.learn_name(id);
            }),
            Changed::Anything => {
                *self.names.borrow_mut() = None;
                let known = u32::try_from(self.clusters.borrow().len()).unwrap_or(u32::MAX);
                (0..known).for_each(|id| self.refresh_one(ClusterId(id)));
                self.refresh_zones();
            }
        }
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
        if now.is_some_and(|now| Arc::ptr_eq(now, &known.handle.cluster)) {
            known.refresh();
            return;
        }
        if let Some(slot) = self.clusters.borrow_mut().get_mut(at) {
            *slot = None;
        }
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

impl WorkerCluster {
    /// The cluster on the worker that writes to `shard` of the stats.
    pub fn new(cluster: Arc<Cluster>, shard: usize, connector: Rc<dyn Connector>) -> Self {
        let name: Rc<str> = Rc::from(&*cluster.info.name);
        let observability_name = match cluster.info.observability_name == cluster.info.name {
            true => name.clone(),
            false => Rc::from(&*cluster.info.observability_name),
        };
        let made = Self {
            balancer: RefCell::new(WorkerLoadBalancer::new(
                cluster.info.clone(),
                cluster.panic_threshold.clone(),
            )),
            seen: Cell::new(u64::MAX),
            hosts: RefCell::default(),
            seen_health: Cell::new(cluster.health_changes.version()),
            handle: Rc::new(ClusterHandle {
                info: cluster.info.clone(),
                cluster,
                name,
                observability_name,
                codes: RefCell::default(),
                connector,
                shard,
                http1: OnceCell::new(),
                http2: OnceCell::new(),
            }),
        };
        made.refresh();
        made
    }

    fn set_local_hosts(&self, hosts: &Arc<PrioritySet>) {
        if let Some(routing) = &self.handle.cluster.zone_routing {
            let mut balancer = self.balancer.borrow_mut();
            balancer.set_local_hosts(routing, hosts.clone());
        }
    }

    /// What is known of it beside its hosts.
    pub fn info(&self) -> &ClusterInfo {
        &self.handle.info
    }

    /// `Cluster.name`.
    pub fn name(&self) -> &Rc<str> {
        &self.handle.name
    }

    /// `alt_stat_name`, or the name.
    pub fn observability_name(&self) -> &Rc<str> {
        &self.handle.observability_name
    }

    /// A host for a request or connection; none if there is none that may be used.
    pub fn choose_host(&self, cx: &dyn LoadBalancerContext) -> Option<Rc<WorkerHost>> {
        if self.handle.cluster.hosts_version.load(Relaxed) != self.seen.get() {
            self.refresh();
        }
        self.balancer.borrow_mut().choose_host(cx)
    }

    /// Counts a response by its status code: `upstream_rq_2xx`, `upstream_rq_200` and the same below `external.` or
    /// `internal.`, and below `canary.`; with `upstream_rq_completed` below all of them.
    pub fn record_code(&self, status: u16, origin: CodeOrigin) {
        self.handle.info.stats.upstream_rq_completed().inc();
        self.handle
            .codes
            .borrow_mut()
            .record(&self.handle.info.scope, status, origin);
    }

    /// As `record_code`, but for the counters by code that no prefix stands before.
    pub fn record_prefixed_code(&self, status: u16, origin: CodeOrigin) {
        let ClusterHandle { info, codes, .. } = &*self.handle;
        info.stats.upstream_rq_completed().inc();
        codes
            .borrow_mut()
            .record_prefixed(&info.scope, status, origin);
    }

    /// Counts a response that is tried again below `retry.`; with `without_code` its status is left out.
    #[cold]
    pub fn record_retry_code(&self, status: u16, without_code: bool) {
        let ClusterHandle { info, codes, .. } = &*self.handle;
        let code = (!without_code).then_some(status);
        codes.borrow_mut().record_retry(&info.scope, code);
    }

    /// Counts a response below a name that its request chose, as `record_code` does.
    #[cold]
    pub fn record_alternative_code(&self, name: &str, status: u16, origin: CodeOrigin) {
        let ClusterHandle { info, codes, .. } = &*self.handle;
        if let Some((codes, scope)) = codes.borrow_mut().alternative(name, &info.scope) {
            codes.record_all(&scope, status, origin);
        }
    }

    /// Records how long a response took below a name that its request chose, as `record_time` does.
    #[cold]
    pub fn record_alternative_time(&self, name: &str, took: Duration, origin: CodeOrigin) {
        let ClusterHandle { info, codes, .. } = &*self.handle;
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if let Some((codes, scope)) = codes.borrow_mut().alternative(name, &info.scope) {
            codes.record_all_time(&scope, millis, origin);
        }
    }

    /// Whether a request falls upon the share that `upstream.maintenance_mode.<name>` turns away.
    #[inline]
    pub fn is_in_maintenance(&self, random: &Random) -> bool {
        match self.handle.cluster.maintenance_mode.get() {
            0 => false,
            percent => random.next() % 100 < percent,
        }
    }

    /// The share of requests that its endpoints ask to be dropped (`drop_overloads`), in parts of 1,000,000.
    #[inline]
    pub fn drop_overload(&self) -> u32 {
        self.handle.cluster.drop_overload.load(Relaxed)
    }

    /// Records how long a response took, from the end of the request: `upstream_rq_time`, and the same below `external.` or
    /// `internal.`, and below `canary.`
    pub fn record_time(&self, took: Duration, origin: CodeOrigin) {
        let ClusterHandle { info, codes, .. } = &*self.handle;
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        info.stats.upstream_rq_time().record(millis);
        codes.borrow_mut().record_time(&info.scope, millis, origin);
    }

    /// A stream on a connection to `host`. It counts against `max_requests` by itself.
    pub fn new_http_stream(
        self: &Rc<Self>,
        host: &Rc<WorkerHost>,
        request: &StreamRequest,
    ) -> Acquire {
        pool::new_http_stream(&self.handle, host, request)
    }

    /// A TCP connection to `host`, made with these options. It counts against `max_connections` by itself.
    pub fn connect_tcp(
        self: &Rc<Self>,
        host: &Rc<WorkerHost>,
        options: Option<Rc<UpstreamSocketOptions>>,
    ) -> LocalBoxFuture<'static, Result<TcpUpstream, PoolError>> {
        Box::pin(pool::connect_tcp(&self.handle, host.handle(), options))
    }

    /// Counts a request that no pool knows of against `max_requests`; none if the limit is reached.
    pub fn try_acquire_request(&self, priority: RoutingPriority) -> Option<RequestGuard> {
        RequestGuard::try_new(&self.handle, None, priority)
    }

    /// Counts a retry against `max_retries` or the retry budget; none if the limit is reached. The caller counts
    /// `upstream_rq_retry_overflow`.
    pub fn try_acquire_retry(&self, priority: RoutingPriority) -> Option<RetryGuard> {
        RetryGuard::try_new(&self.handle, priority)
    }

    /// Ends idle connections to all hosts; those in use end with their streams.
    fn drain(&self) {
        for host in self.balancer.borrow().hosts() {
            host.drain();
        }
    }

    fn refresh(&self) {
        let version = self.handle.cluster.hosts_version.load(Relaxed);
        if version == self.seen.get() {
            return;
        }
        self.seen.set(version);
        let ClusterHandle { cluster, shard, .. } = &*self.handle;
        let hosts = cluster.hosts.load_full();
        let (version, missed) = cluster.health_changes.since(self.seen_health.get());
        self.seen_health.set(version);
        let is_same = Arc::ptr_eq(&hosts, &self.hosts.borrow());
        let mut balancer = self.balancer.borrow_mut();
        let gone = match &missed {
            Missed::These(changes) if is_same => {
                let counted = changes.iter().filter_map(|change| match change {
                    HealthChange::Counted(host) => Some(*host),
                    HealthChange::Failed(_) => None,
                });
                balancer.health_changed(&hosts, counted);
                Vec::new()
            }
            _ => balancer.update(&hosts, *shard),
        };
        for host in gone {
            host.drain();
        }
        match missed {
            Missed::These(changes) => {
                for change in changes {
                    if let HealthChange::Failed(host) = change
                        && let Some(host) = balancer.find(&hosts, host)
                    {
                        host.fail();
                    }
                }
            }
            Missed::Anything => {
                let failed = balancer.hosts().filter(|host| {
                    host.health.has(HealthFlag::FailedActiveHc)
                        || host.health.has(HealthFlag::FailedOutlierCheck)
                });
                failed.for_each(|host| host.fail());
            }
        }
        self.hosts.replace(hosts);
    }

    /// Tells outlier detection, if there is one, how an attempt to use `host` ended.
    #[inline]
    pub fn report(&self, host: &Host, result: HostResult) {
        if let Some(config) = &self.handle.info.outlier_detection {
            self.report_to(config, host, result);
        }
    }

    fn report_to(&self, config: &OutlierDetectionConfig, host: &Host, result: HostResult) {
        let reports = self.handle.cluster.outliers.as_ref();
        if let (Some(monitor), Some(reports)) = (host.monitor(), reports) {
            let add = |report| reports.add(report);
            monitor.put(config, host.identity(), result, &add);
        }
    }

    /// A response of `host` called it degraded.
    #[cold]
    pub fn report_degraded(&self, host: &Host) {
        let ClusterHandle { info, cluster, .. } = &*self.handle;
        let config = info.outlier_detection.as_ref();
        if config.is_some_and(|config| config.detects_degraded_hosts())
            && !host.health.has(HealthFlag::DegradedOutlierDetection)
            && let Some(reports) = &cluster.outliers
        {
            reports.add(HostReport::Degraded(host.identity()));
        }
    }

    /// A response of `host` asked to be taken for a failed health check.
    #[cold]
    pub fn report_immediate_failure(&self, host: &Host) {
        let cluster = &self.handle.cluster;
        if cluster.info.health_check.is_none() {
            return;
        }
        host.health.set(HealthFlag::ExcludedViaImmediateHcFail);
        if let Some(reports) = &cluster.reports {
            reports.add(HostReport::ImmediateFailure(host.identity()));
        }
    }
}

impl ClusterHandle {
    pub(super) fn has_room(&self, priority: RoutingPriority, resource: Resource) -> bool {
        let ClusterInfo {
            circuit_breakers,
            settings,
            ..
        } = &*self.info;
        circuit_breakers.has_room(&settings.circuit_breakers, priority, resource)
    }

    pub(super) fn acquire(&self, priority: RoutingPriority, resource: Resource) {
        let ClusterInfo {
            circuit_breakers,
            settings,
            ..
        } = &*self.info;
        circuit_breakers.acquire(&settings.circuit_breakers, priority, resource);
    }

    pub(super) fn release(&self, priority: RoutingPriority, resource: Resource) {
        let ClusterInfo {
            circuit_breakers,
            settings,
            ..
        } = &*self.info;
        circuit_breakers.release(&settings.circuit_breakers, priority, resource);
    }

    pub(super) fn http1_settings(&self) -> Rc<ClientHttp1Settings> {
        let (settings, _) = self.http1.get_or_init(|| {
            let settings = self.info.client_http1_settings();
            let stats = Http1CodecStats::new(&self.info.scope.scope("http1."));
            (Rc::new(settings), stats)
        });
        settings.clone()
    }

    pub(super) fn http2_settings(&self) -> Rc<ClientHttp2Settings> {
        self.http2().0.clone()
    }

    /// `cluster.<name>.http2.`
    pub(super) fn http2_stats(&self) -> &Rc<Http2CodecStats> {
        &self.http2().1
    }

    fn http2(&self) -> &(Rc<ClientHttp2Settings>, Rc<Http2CodecStats>) {
        self.http2.get_or_init(|| {
            let stats = Rc::new(Http2CodecStats::new(&self.info.scope.scope("http2.")));
            (Rc::new(self.info.client_http2_settings()), stats)
        })
    }
}

impl ClusterInfo {
    /// How the codec of an HTTP/1 connection is set up.
    pub(super) fn client_http1_settings(&self) -> ClientHttp1Settings {
        let http = &self.settings.http;
        ClientHttp1Settings {
            options: http.http1.clone(),
            max_response_headers_kb: http.common.max_response_headers_kb,
            max_headers_count: http.common.max_headers_count,
        }
    }

    /// The same of an HTTP/2 connection.
    pub(super) fn client_http2_settings(&self) -> ClientHttp2Settings {
        let settings = &self.settings;
        ClientHttp2Settings {
            options: settings.http.http2.clone(),
            max_response_headers_kb: settings.http.common.max_response_headers_kb,
            max_headers_count: settings.http.common.max_headers_count,
            buffer_limit: usize::try_from(settings.per_connection_buffer_limit_bytes)
                .unwrap_or(usize::MAX),
        }
    }
}

impl fmt::Debug for WorkerClusters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerClusters")
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for WorkerCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WorkerCluster")
            .field(&self.handle.name)
            .finish()
    }
}

impl fmt::Debug for ClusterHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClusterHandle").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{LocalInfo, ServerContext};
    use crate::upstream::PrioritySet;

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
