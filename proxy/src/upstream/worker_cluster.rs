//! One cluster as one worker sees it: a host is chosen, its pools are asked, and what became of it is told.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::aggregate::Aggregate;
use super::circuit_breaker::RoutingPriority;
use super::cluster::{ClusterInfo, CodeOrigin};
use super::cluster_handle::ClusterHandle;
use super::host::{HealthFlag, Host, WorkerHost};
use super::host_health::{HealthChange, HostReport, Missed};
use super::load_balancer::{FlatPriorities, LoadBalancerContext, MemberChoice, WorkerLoadBalancer};
use super::outlier_detection::{HostResult, OutlierDetectionConfig};
use super::pool::{
    self, Acquire, Connector, PoolError, RequestGuard, RetryGuard, StreamRequest, TcpUpstream,
};
use super::priority_set::PrioritySet;
use super::shared_cluster::Cluster;
use crate::http::ResponseHead;
use crate::http_filters::LocalBoxFuture;
use crate::server::Random;
use crate::transport_sockets::UpstreamSocketOptions;

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
    /// Of a cluster that is made of others, in place of hosts.
    aggregate: Option<Box<Aggregate>>,
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
            aggregate: cluster.info.members.is_some().then(|| {
                let threshold = cluster.panic_threshold.clone();
                Box::new(Aggregate::new(threshold))
            }),
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

    /// Says whose hosts are those of a cluster that is made of others, in their order.
    pub(super) fn set_members(&self, members: Vec<Rc<Self>>) {
        if let Some(aggregate) = &self.aggregate {
            aggregate.set_members(members);
        }
    }

    pub(super) fn set_local_hosts(&self, hosts: &Arc<PrioritySet>) {
        if let Some(routing) = &self.handle.cluster.zone_routing {
            let mut balancer = self.balancer.borrow_mut();
            balancer.set_local_hosts(routing, hosts.clone());
        }
    }

    /// Whether it is this very cluster.
    pub(super) fn is_of(&self, cluster: &Arc<Cluster>) -> bool {
        Arc::ptr_eq(cluster, &self.handle.cluster)
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
        if let Some(aggregate) = &self.aggregate {
            return aggregate.choose_host(cx);
        }
        self.catch_up();
        self.balancer.borrow_mut().choose_host(cx)
    }

    /// The same of a member of an aggregate, which has chosen among its priorities.
    pub(super) fn choose_as_member(&self, choice: &MemberChoice<'_>) -> Option<Rc<WorkerHost>> {
        self.balancer.borrow_mut().choose_host(choice)
    }

    /// Takes over what has become of its hosts.
    #[inline]
    pub(super) fn catch_up(&self) {
        if self.hosts_version() != self.seen.get() {
            self.refresh();
        }
    }

    /// Grows with every change of its hosts.
    pub(super) fn hosts_version(&self) -> u64 {
        self.handle.cluster.hosts_version.load(Relaxed)
    }

    /// Adds its priorities to those of an aggregate, of which it is the member at this place.
    pub(super) fn add_priorities(&self, at: usize, flat: &mut FlatPriorities) {
        let hosts = self.hosts.borrow();
        let how = (
            hosts.overprovisioning_factor,
            hosts.weighted_priority_health,
        );
        flat.add(at, self.balancer.borrow().priority_counts(), how);
    }

    /// Whose pools and counts are those of `host`: a member's, if this cluster is made of others.
    fn handle_of(&self, host: &WorkerHost) -> Rc<ClusterHandle> {
        let member = self.aggregate.as_ref().and_then(|it| it.owner(host));
        match member {
            Some(member) => member.handle.clone(),
            None => self.handle.clone(),
        }
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
        match &self.aggregate {
            None => pool::new_http_stream(&self.handle, host, request),
            Some(_) => pool::new_http_stream(&self.handle_of(host), host, request),
        }
    }

    /// A TCP connection to `host`, made with these options. It counts against `max_connections` by itself.
    pub fn connect_tcp(
        self: &Rc<Self>,
        host: &Rc<WorkerHost>,
        options: Option<Rc<UpstreamSocketOptions>>,
    ) -> LocalBoxFuture<'static, Result<TcpUpstream, PoolError>> {
        let handle = self.handle_of(host);
        Box::pin(pool::connect_tcp(&handle, host.handle(), options))
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
    pub(super) fn drain(&self) {
        for host in self.balancer.borrow().hosts() {
            host.drain();
        }
    }

    pub(super) fn refresh(&self) {
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

    /// Whether connections to `host` are encrypted.
    pub fn is_secure(&self, host: &WorkerHost) -> bool {
        self.handle_of(host).info.transport.is_secure()
    }

    /// Tells outlier detection, if there is one, how an attempt to use `host` ended.
    #[inline]
    pub fn report(&self, host: &WorkerHost, result: HostResult) {
        if let Some(config) = &self.handle.info.outlier_detection {
            self.report_to(config, host, result);
        }
        if let Some(member) = self.aggregate.as_ref().and_then(|it| it.owner(host)) {
            member.report(host, result);
        }
    }

    /// The status by which outlier detection judges a response, which would be `status` otherwise.
    #[inline]
    pub fn outlier_status(&self, head: &ResponseHead, status: u16) -> u16 {
        match &self.info().request_policies {
            None => status,
            Some(policies) => policies.outlier_status(head, status),
        }
    }

    /// Whether a host that fails may be ejected, so that it must be told how it does.
    #[inline]
    pub fn detects_outliers(&self, host: &WorkerHost) -> bool {
        match &self.aggregate {
            None => self.handle.info.outlier_detection.is_some(),
            Some(_) => self.handle_of(host).info.outlier_detection.is_some(),
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
    pub fn report_degraded(&self, host: &WorkerHost) {
        let handle = self.handle_of(host);
        let ClusterHandle { info, cluster, .. } = &*handle;
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
    pub fn report_immediate_failure(&self, host: &WorkerHost) {
        let handle = self.handle_of(host);
        let cluster = &handle.cluster;
        if cluster.info.health_checks.is_empty() {
            return;
        }
        host.health.set(HealthFlag::ExcludedViaImmediateHcFail);
        if let Some(reports) = &cluster.reports {
            reports.add(HostReport::ImmediateFailure(host.identity()));
        }
    }
}

impl fmt::Debug for WorkerCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WorkerCluster")
            .field(&self.handle.name)
            .finish()
    }
}
