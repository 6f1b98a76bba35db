//! One endpoint of a cluster.

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, OnceLock};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ClusterId;
use super::outlier_detection::Monitor;
use super::pool::HostPools;
use crate::net::Address;
use crate::stream_info::DynamicMetadata;

/// A host, shared by all workers.
#[derive(Debug)]
pub struct Host {
    /// Where to connect to.
    pub address: Address,
    /// `Endpoint.additional_addresses`: tried in turn after `address`.
    pub additional_addresses: Box<[Address]>,
    /// `Endpoint.hostname`; of DNS clusters the name that was resolved; empty if there is none.
    pub hostname: Arc<str>,
    /// Where it is.
    pub locality: Arc<Locality>,
    /// `LbEndpoint.metadata`.
    pub metadata: DynamicMetadata,
    /// `LocalityLbEndpoints.metadata`, shared by the hosts of the locality.
    pub locality_metadata: Option<Arc<DynamicMetadata>>,
    /// `LbEndpoint.load_balancing_weight`, 1.. Default 1.
    pub weight: u32,
    /// `LocalityLbEndpoints.priority`: 0 is tried first.
    pub priority: u32,
    /// Whether the metadata call it a canary (`envoy.lb`, `canary`).
    pub canary: bool,
    /// `Endpoint.health_check_config`, where it says anything.
    pub health_check: Option<Box<HostHealthCheck>>,
    /// Why it may not be well: bits of [`HealthFlag`].
    pub health: HealthFlags,
    /// What happened on it.
    pub stats: HostStats,
}

/// `Endpoint.HealthCheckConfig`: how the active health checks of one host differ from those of others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostHealthCheck {
    /// Where it is checked; none: where its requests go.
    pub address: Option<Address>,
    /// The host that checks name; empty: what the health check says, or the name of the cluster.
    pub hostname: Box<str>,
    /// Whether it is not checked at all.
    pub disabled: bool,
}

/// `envoy.config.core.v3.Locality`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// Such as `eu-central-1`.
    pub region: Box<str>,
    /// Such as `eu-central-1a`.
    pub zone: Box<str>,
    /// A part of a zone.
    pub sub_zone: Box<str>,
}

/// One reason why a host is not healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum HealthFlag {
    /// Active health checks fail.
    FailedActiveHc = 1,
    /// Outlier detection has ejected it.
    FailedOutlierCheck = 2,
    /// `health_status` of the endpoint is `UNHEALTHY`, `DRAINING` or `TIMEOUT`.
    FailedEdsHealth = 4,
    /// Active health checks say that it is degraded.
    DegradedActiveHc = 8,
    /// `health_status` of the endpoint is `DEGRADED`.
    DegradedEdsHealth = 16,
    /// `health_status` of the endpoint is `DRAINING`.
    EdsStatusDraining = 32,
    /// Its discovery has taken it away, and it stays for as long as its health checks succeed.
    PendingDynamicRemoval = 64,
    /// It has not been checked yet, and counts nowhere until it is (`ignore_new_hosts_until_first_hc`).
    PendingActiveHc = 128,
    /// It has said that it fails (`x-envoy-immediate-health-check-fail`), and counts nowhere until it succeeds.
    ExcludedViaImmediateHcFail = 256,
    /// The last health check was not answered in time.
    ActiveHcTimeout = 512,
    /// A response has called it degraded (`detect_degraded_hosts`).
    DegradedOutlierDetection = 1024,
    /// `health_status` of the endpoint is `HEALTHY`, not `UNKNOWN`.
    EdsStatusHealthy = 4096,
    /// `health_status` of the endpoint is `TIMEOUT`.
    EdsStatusTimeout = 2048,
}

/// A set of [`HealthFlag`]s that main changes and everybody reads.
#[derive(Debug)]
pub struct HealthFlags(Arc<HostState>);

/// How far a host can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Not at all, unless in panic.
    Unhealthy,
    /// If healthy hosts are not enough.
    Degraded,
    /// Without limits.
    Healthy,
}

/// What happened on a host, in one shard per thread, made when it is first used.
#[derive(Debug)]
pub struct HostStats(Arc<HostState>);

/// What stays of a host when its configuration changes; it is what makes it the same host.
#[derive(Debug)]
struct HostState {
    flags: AtomicU32,
    /// How it stands in the counts of its cluster: a [`Standing`]. Main alone writes and reads it.
    counted: AtomicU32,
    workers: u32,
    /// Since when it has been well: of clusters with health checks, and of those with slow start. Main alone writes it.
    well_since: Mutex<Option<Instant>>,
    /// Of clusters with outlier detection; main makes it before it publishes the host.
    monitor: OnceLock<Box<Monitor>>,
    shards: OnceLock<Box<[HostShard]>>,
}

/// One thread's part of [`HostStats`]: only that thread writes it.
#[derive(Debug, Default)]
#[repr(align(64))]
struct HostShard([AtomicU64; 9]);

/// One number of [`HostStats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of Envoy's host stats")]
pub enum HostStat {
    CxTotal,
    CxActive,
    CxConnectFail,
    RqTotal,
    RqActive,
    RqSuccess,
    RqError,
    RqTimeout,
    RqPendingActive,
}

/// A host as one worker sees it, with this worker's pools.
#[derive(Debug)]
pub struct WorkerHost {
    handle: Rc<HostHandle>,
    /// Since when its health checks have not failed, as far as a load balancer wanted to know.
    healthy_since: Cell<Option<Instant>>,
    /// Its place among all hosts of its priority, in the load balancer of the whole cluster.
    pub(super) place: Cell<u32>,
    /// As how the load balancer of the whole cluster counts it.
    pub(super) counted: Cell<Standing>,
    pub(super) pools: Rc<HostPools>,
}

/// A host without its pools: what connections and requests hold on to.
#[derive(Debug)]
pub(super) struct HostHandle {
    pub(super) host: Arc<Host>,
    /// The cluster that it belongs to; none: to none in particular.
    cluster: Option<ClusterId>,
    /// The shard of the host's stats that this worker writes.
    shard: usize,
    /// Rung when it fails.
    pub(super) failures: Rc<Notify>,
}

impl Host {
    /// A healthy host without any further properties.
    pub fn new(address: Address, workers: usize) -> Self {
        let stats = HostStats::new(workers);
        Self {
            address,
            additional_addresses: Box::default(),
            hostname: Arc::default(),
            locality: nowhere(),
            metadata: DynamicMetadata::default(),
            locality_metadata: None,
            weight: 1,
            priority: 0,
            canary: false,
            health_check: None,
            health: HealthFlags(stats.0.clone()),
            stats,
        }
    }

    /// Whether it does not count where the share of healthy hosts is asked for: it drains by itself, has said that it fails, or
    /// is waiting for its first health check.
    pub fn is_excluded(&self) -> bool {
        let excluded = HealthFlag::EdsStatusDraining as u32
            | HealthFlag::PendingActiveHc as u32
            | HealthFlag::ExcludedViaImmediateHcFail as u32;
        self.health.get() & excluded != 0
    }

    /// Where it is checked.
    pub fn health_check_address(&self) -> &Address {
        let own = self.health_check.as_ref();
        own.and_then(|own| own.address.as_ref())
            .unwrap_or(&self.address)
    }

    /// The host that its checks name, if it says so itself.
    pub fn health_check_hostname(&self) -> &str {
        self.health_check.as_ref().map_or("", |own| &own.hostname)
    }

    /// Whether active health checks leave it alone.
    pub fn has_no_health_checks(&self) -> bool {
        self.health_check.as_ref().is_some_and(|own| own.disabled)
    }

    /// Has outlier detection watch over it.
    pub(super) fn make_monitor(&self) {
        self.stats.0.monitor.get_or_init(Box::default);
    }

    /// What outlier detection counts of it.
    pub(super) fn monitor(&self) -> Option<&Monitor> {
        self.stats.0.monitor.get().map(|monitor| &**monitor)
    }

    /// A health check has passed that is on the way to making it well. Of main alone.
    pub(super) fn note_pass(&self, now: Instant) {
        *self.stats.0.well_since.lock() = Some(now);
    }

    /// Remembers when it was first seen well, where no health check says that. Of main alone.
    pub(super) fn note_first_seen(&self, now: Instant) {
        if self.coarse_health() == Health::Healthy {
            self.stats.0.well_since.lock().get_or_insert(now);
        }
    }

    /// How it counts among the hosts of its cluster.
    pub(super) fn standing(&self) -> Standing {
        Standing {
            health: self.coarse_health(),
            excluded: self.is_excluded(),
        }
    }

    /// As how it was last counted. Of main alone.
    pub(super) fn counted(&self) -> Standing {
        Standing::from_bits(self.stats.0.counted.load(Relaxed))
    }

    /// Remembers as how it is counted.
    pub(super) fn set_counted(&self, standing: Standing) {
        self.stats.0.counted.store(standing.bits(), Relaxed);
    }

    /// The same host as `old` with another configuration: it keeps the stats, the health and the connections of `old`.
    #[must_use]
    pub(super) fn in_place_of(self, old: &Self) -> Self {
        Self {
            health: HealthFlags(old.stats.0.clone()),
            stats: HostStats(old.stats.0.clone()),
            ..self
        }
    }

    /// Tells hosts apart: the same for as long as a host stays, whatever becomes of its configuration.
    pub(super) fn identity(&self) -> HostIdentity {
        HostIdentity(Arc::as_ptr(&self.stats.0).addr())
    }

    /// How far it can be used.
    pub fn coarse_health(&self) -> Health {
        let flags = self.health.get();
        let failed = HealthFlag::FailedActiveHc as u32
            | HealthFlag::FailedOutlierCheck as u32
            | HealthFlag::FailedEdsHealth as u32
            | HealthFlag::EdsStatusDraining as u32;
        let degraded = HealthFlag::DegradedActiveHc as u32
            | HealthFlag::DegradedEdsHealth as u32
            | HealthFlag::DegradedOutlierDetection as u32;
        if flags & failed != 0 {
            Health::Unhealthy
        } else if flags & degraded != 0 {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }
}

/// Which host, among those that are alive: the address of what stays of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct HostIdentity(usize);

/// How a host counts among those of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) health: Health,
    /// It does not count where shares are asked for.
    pub(super) excluded: bool,
}

impl Standing {
    fn bits(self) -> u32 {
        self.health as u32 | u32::from(self.excluded) << 2
    }

    fn from_bits(bits: u32) -> Self {
        let health = match bits & 3 {
            0 => Health::Unhealthy,
            1 => Health::Degraded,
            _ => Health::Healthy,
        };
        Self {
            health,
            excluded: bits & 4 != 0,
        }
    }
}

/// Hosts without a locality share one.
fn nowhere() -> Arc<Locality> {
    static NOWHERE: LazyLock<Arc<Locality>> = LazyLock::new(Arc::default);
    NOWHERE.clone()
}

impl HealthFlags {
    /// The bits.
    pub fn get(&self) -> u32 {
        self.0.flags.load(Relaxed)
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: HealthFlag) -> bool {
        self.get() & flag as u32 != 0
    }

    /// Replaces all flags.
    pub fn replace(&self, bits: u32) {
        self.0.flags.store(bits, Relaxed);
    }

    /// Sets a flag.
    pub fn set(&self, flag: HealthFlag) {
        self.0.flags.fetch_or(flag as u32, Relaxed);
    }

    /// Replaces those flags that are among `mask`, and leaves all others.
    pub fn replace_among(&self, mask: u32, bits: u32) {
        self.0.flags.fetch_and(!mask | bits, Relaxed);
        self.0.flags.fetch_or(bits & mask, Relaxed);
    }

    /// Clears a flag.
    pub fn clear(&self, flag: HealthFlag) {
        self.0.flags.fetch_and(!(flag as u32), Relaxed);
    }

    /// Replaces the flags that discovery sets by those of `bits`, and leaves all others. True if that changes anything.
    pub(super) fn replace_discovered(&self, bits: u32) -> bool {
        let of_discovery = HealthFlag::FailedEdsHealth as u32
            | HealthFlag::EdsStatusHealthy as u32
            | HealthFlag::EdsStatusTimeout as u32
            | HealthFlag::DegradedEdsHealth as u32
            | HealthFlag::EdsStatusDraining as u32;
        let bits = bits & of_discovery;
        let old = self.get() & of_discovery;
        self.0.flags.fetch_and(!of_discovery | bits, Relaxed);
        self.0.flags.fetch_or(bits, Relaxed);
        old != bits
    }
}

impl HostStats {
    /// Nothing happened yet; `workers` threads may write.
    pub fn new(workers: usize) -> Self {
        Self(Arc::new(HostState {
            flags: AtomicU32::new(0),
            counted: AtomicU32::new(0),
            workers: u32::try_from(workers).unwrap_or(u32::MAX),
            well_since: Mutex::new(None),
            monitor: OnceLock::new(),
            shards: OnceLock::new(),
        }))
    }

    /// The sum over all threads.
    pub fn get(&self, stat: HostStat) -> u64 {
        self.0.shards.get().map_or(0, |shards| {
            shards.iter().fold(0, |sum, shard| {
                sum.wrapping_add(shard.0[stat as usize].load(Relaxed))
            })
        })
    }

    fn add(&self, shard: usize, stat: HostStat, n: u64) {
        let HostState {
            shards, workers, ..
        } = &*self.0;
        let shards = shards.get_or_init(|| (0..=*workers).map(|_| HostShard::default()).collect());
        if let Some(shard) = shards.get(shard) {
            // Only this thread writes this shard.
            let value = &shard.0[stat as usize];
            value.store(value.load(Relaxed).wrapping_add(n), Relaxed);
        }
    }
}

impl WorkerHost {
    /// The host with empty pools, on no worker in particular.
    pub fn new(host: Arc<Host>) -> Self {
        Self::on_worker(host, 0)
    }

    /// The host with empty pools, on the worker whose stats shard is `shard`.
    pub fn on_worker(host: Arc<Host>, shard: usize) -> Self {
        let standing = host.standing();
        Self {
            handle: Rc::new(HostHandle {
                host,
                cluster: None,
                shard,
                failures: Rc::default(),
            }),
            healthy_since: Cell::new(None),
            place: Cell::new(0),
            counted: Cell::new(standing),
            pools: Rc::default(),
        }
    }

    /// The same as one of this cluster.
    pub(super) fn of_cluster(self, id: ClusterId) -> Self {
        let HostHandle {
            host,
            shard,
            failures,
            ..
        } = &*self.handle;
        Self {
            handle: Rc::new(HostHandle {
                host: host.clone(),
                cluster: Some(id),
                shard: *shard,
                failures: failures.clone(),
            }),
            ..self
        }
    }

    /// The cluster that it belongs to; none: to none in particular.
    pub(super) fn cluster(&self) -> Option<ClusterId> {
        self.handle.cluster
    }

    /// The same host with the configuration that it has now: its pools go on.
    pub(super) fn with_configuration(self: &Rc<Self>, host: &Arc<Host>) -> Rc<Self> {
        if Arc::ptr_eq(host, &self.handle.host) {
            return self.clone();
        }
        Rc::new(Self {
            handle: Rc::new(HostHandle {
                host: host.clone(),
                cluster: self.handle.cluster,
                shard: self.handle.shard,
                failures: self.handle.failures.clone(),
            }),
            healthy_since: self.healthy_since.clone(),
            place: self.place.clone(),
            counted: self.counted.clone(),
            pools: self.pools.clone(),
        })
    }

    /// The host that all workers share.
    pub fn shared(&self) -> &Arc<Host> {
        &self.handle.host
    }

    /// Since when it has been healthy; none: it is not, or nobody has asked to note it.
    pub(super) fn healthy_since(&self) -> Option<Instant> {
        self.healthy_since.get()
    }

    /// Notes since when it has been healthy. It starts anew where its health checks failed in between.
    pub(super) fn note_health(&self) {
        let since = match self.health.has(HealthFlag::FailedActiveHc) {
            true => None,
            false => *self.handle.host.stats.0.well_since.lock(),
        };
        self.healthy_since.set(since);
    }

    /// Requests in flight on this host, of all workers.
    pub fn active_requests(&self) -> u64 {
        self.handle.host.stats.get(HostStat::RqActive)
    }

    /// Counts a request that ended well (`rq_success`), badly (`rq_error`) or too late (`rq_timeout`).
    pub fn count(&self, stat: HostStat) {
        self.handle.count(stat);
    }

    pub(super) fn handle(&self) -> &Rc<HostHandle> {
        &self.handle
    }

    /// Its health checks fail, or it was ejected: what was made for it is not used again, and TCP connections end where the cluster
    /// says so.
    pub(super) fn fail(&self) {
        self.pools.drain();
        self.handle.failures.notify_waiters();
    }

    /// Ends every idle connection, and lets those in use end with their streams.
    pub fn drain(&self) {
        self.pools.drain();
    }
}

impl HostHandle {
    /// Counts one more of `stat`.
    pub(super) fn count(&self, stat: HostStat) {
        self.host.stats.add(self.shard, stat, 1);
    }

    /// Takes one of the gauge `stat` away.
    pub(super) fn uncount(&self, stat: HostStat) {
        self.host.stats.add(self.shard, stat, u64::MAX);
    }
}

impl Deref for WorkerHost {
    type Target = Host;
    fn deref(&self) -> &Host {
        &self.handle.host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_several_shards_sum_up() {
        let stats = HostStats::new(2);
        assert_eq!(stats.get(HostStat::RqActive), 0);
        stats.add(1, HostStat::RqActive, 1);
        stats.add(2, HostStat::RqActive, 1);
        stats.add(1, HostStat::RqActive, u64::MAX);
        assert_eq!(stats.get(HostStat::RqActive), 1);
    }
}
