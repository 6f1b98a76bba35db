//! `STRICT_DNS`, `LOGICAL_DNS` and `envoy.cluster.dns`: names that are resolved again and again, on main.
//!
//! Stats: `cluster.<name>.update_{attempt,success,failure,empty,no_rebuild}`.
//! Deviations: a `LOGICAL_DNS` host stays as it is while its address is among those of the answer, whatever their order.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::debug;

use super::{DnsError, Resolved, Resolver, outlives_discovery};
use crate::net::Address;
use crate::server::Random;
use crate::upstream::cluster::{
    DnsSettings, EndpointAddress, EndpointConfig, LoadAssignment, LocalityEndpoints,
};
use crate::upstream::host::{HealthFlag, Host};
use crate::upstream::priority_set::{HostGroup, PrioritySet};
use crate::upstream::shared_cluster::Cluster;

/// The names of a cluster, each with a task. Dropped, they are no longer resolved.
#[derive(Debug)]
pub(in crate::upstream) struct DnsDiscovery {
    tasks: Vec<JoinHandle<()>>,
}

/// What the tasks of one cluster share.
struct Names {
    cluster: Arc<Cluster>,
    settings: DnsSettings,
    resolver: Rc<dyn Resolver>,
    workers: usize,
    random: Random,
    localities: Vec<LocalityEndpoints>,
    overprovisioning_factor: u32,
    weighted_priority_health: bool,
    /// For each locality and each of its endpoints the hosts that are known.
    hosts: RefCell<Vec<Vec<Vec<Arc<Host>>>>>,
    /// Called once, when the first name has been resolved or could not be.
    ready: RefCell<Option<Box<dyn FnOnce()>>>,
}

/// Which name.
#[derive(Clone, Copy)]
struct At {
    locality: usize,
    endpoint: usize,
}

impl DnsDiscovery {
    /// Starts to resolve. `ready` is called when the cluster can be used: at the first answer, good or bad.
    pub(in crate::upstream) fn start(
        cluster: &Arc<Cluster>,
        settings: DnsSettings,
        assignment: LoadAssignment,
        environment: (&Rc<dyn Resolver>, usize, u64),
        ready: Box<dyn FnOnce()>,
    ) -> Self {
        let (resolver, workers, seed) = environment;
        let LoadAssignment {
            localities,
            overprovisioning_factor,
            weighted_priority_health,
            // Kept beside the hosts.
            drop_overload: _,
            // Of EDS alone.
            stale_after: _,
        } = assignment;
        let hosts = localities
            .iter()
            .map(|locality| {
                let known = |endpoint: &EndpointConfig| match &endpoint.address {
                    EndpointAddress::Resolved(address) => {
                        vec![Arc::new(endpoint.host(locality, address.clone(), workers))]
                    }
                    EndpointAddress::Name { .. } => Vec::new(),
                };
                locality.endpoints.iter().map(known).collect()
            })
            .collect();
        let names = Rc::new(Names {
            cluster: cluster.clone(),
            settings,
            resolver: resolver.clone(),
            workers,
            random: Random::new(seed),
            localities,
            overprovisioning_factor,
            weighted_priority_health,
            hosts: RefCell::new(hosts),
            ready: RefCell::new(Some(ready)),
        });
        names.publish();
        let mut tasks = Vec::new();
        for (locality, endpoints) in names.localities.iter().enumerate() {
            for (endpoint, config) in endpoints.endpoints.iter().enumerate() {
                if let EndpointAddress::Name { host, port } = &config.address {
                    let at = At { locality, endpoint };
                    let resolving = resolve_for_ever(names.clone(), at, host.clone(), *port);
                    tasks.push(tokio::task::spawn_local(resolving));
                }
            }
        }
        if tasks.is_empty() {
            names.is_ready();
        }
        Self { tasks }
    }
}

impl Drop for DnsDiscovery {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// It was there for its health checks alone, and they fail.
fn is_removed(host: &Host) -> bool {
    host.health.has(HealthFlag::PendingDynamicRemoval)
        && host.health.has(HealthFlag::FailedActiveHc)
}

async fn resolve_for_ever(names: Rc<Names>, at: At, name: String, port: u16) {
    let mut failures = 0;
    loop {
        names.cluster.info.update_stats.update_attempt().inc();
        let settings = &names.settings;
        let answer = names
            .resolver
            .resolve(&name, settings.family, &settings.resolver)
            .await;
        let delay = match &answer {
            Ok(found) if !(settings.logical && found.addresses.is_empty()) => {
                failures = 0;
                names.found(at, &name, port, found);
                names.next_refresh(found)
            }
            _ => {
                names.not_found(&name, &answer);
                failures += 1;
                names.next_retry(failures)
            }
        };
        names.is_ready();
        tokio::time::sleep(delay).await;
    }
}

impl Names {
    fn found(&self, at: At, name: &str, port: u16, found: &Resolved) {
        let stats = &self.cluster.info.update_stats;
        stats.update_success().inc();
        if found.addresses.is_empty() {
            stats.update_empty().inc();
        }
        let addresses = found
            .addresses
            .iter()
            .map(|ip| Address::Ip(SocketAddr::new(*ip, port)));
        let new = if self.settings.logical {
            self.logical_host(at, name, addresses.collect())
        } else {
            self.hosts_at(at, name, addresses)
        };
        let mut new = new;
        let mut hosts = self.hosts.borrow_mut();
        let old = &mut hosts[at.locality][at.endpoint];
        for host in &new {
            host.health.clear(HealthFlag::PendingDynamicRemoval);
        }
        for host in old.iter() {
            let is_gone = !new.iter().any(|new| new.address == host.address);
            if is_gone && outlives_discovery(&self.cluster.info, host) {
                host.health.set(HealthFlag::PendingDynamicRemoval);
                new.push(host.clone());
            }
        }
        let same = old.len() == new.len()
            && new
                .iter()
                .all(|new| old.iter().any(|old| Arc::ptr_eq(old, new)));
        if same {
            stats.update_no_rebuild().inc();
            return;
        }
        *old = new;
        drop(hosts);
        self.publish();
    }

    fn not_found(&self, name: &str, answer: &Result<Resolved, DnsError>) {
        let cluster = &self.cluster.info;
        match answer {
            Ok(_) => cluster.update_stats.update_empty().inc(),
            Err(error) => {
                debug!(cluster = &*cluster.name, name, %error, "Name could not be resolved.")
            }
        }
        cluster.update_stats.update_failure().inc();
    }

    /// Hosts at these addresses, those that were known already among them.
    fn hosts_at(
        &self,
        at: At,
        name: &str,
        addresses: impl Iterator<Item = Address>,
    ) -> Vec<Arc<Host>> {
        let known = self.hosts.borrow();
        let known = &known[at.locality][at.endpoint];
        addresses
            .map(
                |address| match known.iter().find(|host| host.address == address) {
                    Some(host) => host.clone(),
                    None => Arc::new(self.host(at, name, address, Box::default())),
                },
            )
            .collect()
    }

    /// The one host of the name, with all of its addresses.
    fn logical_host(&self, at: At, name: &str, mut addresses: Vec<Address>) -> Vec<Arc<Host>> {
        let known = self.hosts.borrow();
        let known = known[at.locality][at.endpoint].first();
        if let Some(host) = known.filter(|host| addresses.contains(&host.address)) {
            return vec![host.clone()];
        }
        let others = addresses.split_off(addresses.len().min(1));
        let first = addresses.into_iter();
        first
            .map(|address| Arc::new(self.host(at, name, address, others.clone().into())))
            .collect()
    }

    fn host(&self, at: At, name: &str, address: Address, others: Box<[Address]>) -> Host {
        let locality = &self.localities[at.locality];
        let mut host = locality.endpoints[at.endpoint].host(locality, address, self.workers);
        host.additional_addresses = others;
        if host.hostname.is_empty() {
            host.hostname = name.into();
        }
        host
    }

    fn publish(&self) {
        let hosts = self.hosts.borrow();
        let groups = self
            .localities
            .iter()
            .zip(&*hosts)
            .map(|(locality, hosts)| HostGroup {
                locality: locality.locality.clone(),
                weight: locality.weight,
                priority: locality.priority,
                hosts: hosts
                    .iter()
                    .flatten()
                    .filter(|host| !is_removed(host))
                    .cloned()
                    .collect(),
            });
        let set = PrioritySet::new(
            groups,
            self.overprovisioning_factor,
            self.weighted_priority_health,
        );
        let max_weight = set.hosts().map(|host| host.weight).max().unwrap_or(0);
        let stats = &self.cluster.info.endpoint_stats;
        stats.max_host_weight().set(max_weight.into());
        self.cluster.set_hosts(set);
    }

    fn is_ready(&self) {
        if let Some(ready) = self.ready.take() {
            ready();
        }
    }

    fn next_refresh(&self, found: &Resolved) -> Duration {
        let settings = &self.settings;
        let rate = match settings.respect_ttl && !found.ttl.is_zero() && !found.addresses.is_empty()
        {
            true => found.ttl.max(settings.min_refresh_rate),
            false => settings.refresh_rate,
        };
        rate + self.up_to(settings.jitter)
    }

    fn next_retry(&self, failures: u32) -> Duration {
        match self.settings.failure_backoff {
            None => self.settings.refresh_rate,
            Some((base, max)) => {
                let longest = base.saturating_mul(1 << (failures - 1).min(20)).min(max);
                // At least a little, so that a server in trouble is not asked without a pause.
                self.up_to(longest).max(Duration::from_millis(1))
            }
        }
    }

    /// A random time up to `max`.
    fn up_to(&self, max: Duration) -> Duration {
        let nanos = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
        match nanos {
            0 => Duration::ZERO,
            nanos => Duration::from_nanos(self.random.next() % nanos),
        }
    }
}
