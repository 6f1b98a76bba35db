//! `EDS`: endpoints that a management server, or a watched file, assigns to a cluster, on main.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/service_discovery#arch-overview-service-discovery-types-eds>
//! Stats: `cluster.<name>.{update_attempt,update_success,update_rejected,update_failure,update_empty,update_no_rebuild}`,
//! `init_fetch_timeout`, `update_time`, `update_duration`, `version`, `version_text`, `assignment_stale`,
//! `assignment_timeout_received`, `assignment_use_cached`; `cluster_manager.cluster_updated`.
//! Deviations: `default.total_match_count` counts hosts that come; Envoy counts each endpoint with each assignment.
//! Deviations: endpoints by reference (`leds_cluster_locality_config`, `endpoint_name`, `named_endpoints`) are refused.
//!
//! `update_merge_window` is of changes that health checks make: what an assignment changes is published at once, as in Envoy.

mod hosts;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use prost::Message;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::eds_health;
use crate::config::ConfigPath;
use crate::stats::Scope;
use crate::upstream::cluster::{EdsSettings, LoadAssignment};
use crate::upstream::cluster_manager::ClusterManager;
use crate::upstream::host::Host;
use crate::upstream::lazy_cluster::{EdsEvent, LazyCluster};
use crate::xds::{
    FetchFailure, Interest, Refused, Resource, ResourceKind, Subscription, Update, Watcher,
    XdsClient,
};

pub(in crate::upstream) use hosts::{Difference, heaviest, next_hosts};

crate::stats_group! {
    /// What a subscription counts beside that which every cluster has.
    pub(in crate::upstream) struct EdsStats {
        counter init_fetch_timeout;
        histogram update_duration (Milliseconds);
        counter update_rejected;
        gauge update_time;
    }
}

/// What the clusters with EDS have in common.
#[derive(Default)]
pub(in crate::upstream) struct EdsManager {
    client: RefCell<Option<Rc<XdsClient>>>,
    /// Those that have not asked yet.
    waiting: RefCell<Vec<Weak<EdsDiscovery>>>,
    /// Whether the first clusters are all warm: from then on nobody waits before it asks.
    is_initialized: Cell<bool>,
    cache: RefCell<HashMap<Arc<str>, Cached>>,
}

/// The last assignment of the aggregated stream for a name. A cluster that replaces another one by a new version asks for the
/// same name again, which servers may leave unanswered: then it gets what the old one had.
#[derive(Default)]
struct Cached {
    users: usize,
    body: Option<Arc<[u8]>>,
}

/// The endpoints of one cluster. Dropped, they are no longer asked for.
pub(in crate::upstream) struct EdsDiscovery {
    eds: Rc<Eds>,
    subscription: OnceCell<Subscription>,
}

/// What hears of new assignments.
struct Eds {
    me: Weak<Eds>,
    manager: Weak<ClusterManager>,
    cluster: Arc<LazyCluster>,
    settings: EdsSettings,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// The encoded assignment in force.
    accepted: Option<Arc<[u8]>>,
    /// How many endpoints it lists.
    endpoints: usize,
    /// How long it holds without an update.
    stale_after: Option<Duration>,
    stale: Timer,
}

/// A task that ends with its owner.
#[derive(Default)]
struct Timer(Option<JoinHandle<()>>);

impl EdsManager {
    /// Remembers a cluster that asks as soon as it may.
    pub(in crate::upstream) fn enqueue(&self, discovery: &Rc<EdsDiscovery>) {
        self.waiting.borrow_mut().push(Rc::downgrade(discovery));
    }

    /// The first clusters are all warm.
    pub(in crate::upstream) fn set_initialized(&self) {
        self.is_initialized.set(true);
    }

    /// Who is asked.
    pub(in crate::upstream) fn client(&self) -> Option<Rc<XdsClient>> {
        self.client.borrow().clone()
    }

    fn cached(&self, name: &str) -> Option<Arc<[u8]>> {
        self.cache.borrow().get(name)?.body.clone()
    }

    fn cache(&self, name: &str, body: Option<Arc<[u8]>>) {
        if let Some(cached) = self.cache.borrow_mut().get_mut(name) {
            cached.body = body;
        }
    }

    fn add_user(&self, name: &Arc<str>) {
        let mut cache = self.cache.borrow_mut();
        cache.entry(name.clone()).or_default().users += 1;
    }

    fn remove_user(&self, name: &str) {
        let mut cache = self.cache.borrow_mut();
        if let Some(cached) = cache.get_mut(name) {
            cached.users -= 1;
            if cached.users == 0 {
                cache.remove(name);
            }
        }
    }
}

impl ClusterManager {
    /// Says who is asked for endpoints, and for clusters that requests need. Clusters that need them ask when all primary clusters are ready.
    pub fn set_xds_client(self: &Rc<Self>, client: &Rc<XdsClient>) {
        *self.eds.client.borrow_mut() = Some(client.clone());
        self.serve_on_demand();
        self.start_eds();
    }

    /// Lets those ask that may: until all clusters are warm for the first time only what needs nobody else.
    pub(in crate::upstream) fn start_eds(&self) {
        let Some(client) = self.eds.client.borrow().clone() else {
            return;
        };
        let all = self.eds.is_initialized.get() || self.warming_primary() == 0;
        let waiting = std::mem::take(&mut *self.eds.waiting.borrow_mut());
        for discovery in waiting {
            match discovery.upgrade() {
                Some(ready) if all || ready.is_primary() => ready.start(&client),
                Some(_) => self.eds.waiting.borrow_mut().push(discovery),
                None => {}
            }
        }
    }
}

#[cfg(test)]
impl ClusterManager {
    /// All that hears of endpoints, sorted by cluster number.
    pub(in crate::upstream) fn watchers(&self) -> Vec<Rc<dyn Watcher>> {
        use crate::upstream::cluster_entry::{Discovery, Entry};
        let clusters = self.clusters.borrow();
        let mut numbers: Vec<_> = clusters.keys().copied().collect();
        numbers.sort();
        let watcher = |entry: &Entry| -> Option<Rc<dyn Watcher>> {
            let newest = entry.warming.as_ref().or(entry.active.as_ref())?;
            match &newest.discovery {
                Discovery::Eds(discovery) => Some(discovery.eds.clone()),
                _ => None,
            }
        };
        let entries = numbers.iter().filter_map(|id| clusters.get(id));
        entries.filter_map(watcher).collect()
    }
}

impl EdsDiscovery {
    pub(in crate::upstream) fn new(
        manager: &Rc<ClusterManager>,
        cluster: &Arc<LazyCluster>,
        settings: EdsSettings,
    ) -> Rc<Self> {
        manager.eds.add_user(&settings.service_name);
        let eds = Rc::new_cyclic(|me| Eds {
            me: me.clone(),
            manager: Rc::downgrade(manager),
            cluster: cluster.clone(),
            settings,
            state: RefCell::default(),
        });
        Rc::new(Self {
            eds,
            subscription: OnceCell::new(),
        })
    }

    /// Whether its source needs no other cluster.
    pub(in crate::upstream) fn is_primary(&self) -> bool {
        self.eds.settings.is_primary
    }

    /// `EdsClusterConfig.service_name`.
    pub(in crate::upstream) fn service_name(&self) -> &Arc<str> {
        &self.eds.settings.service_name
    }

    fn start(&self, client: &XdsClient) {
        self.subscription.get_or_init(|| {
            let EdsSettings {
                source,
                service_name,
                ..
            } = &self.eds.settings;
            if !source.is_file() {
                self.eds.cluster.count(EdsEvent::Attempt);
            }
            let interest = Interest::name(service_name.clone());
            let watcher = self.eds.clone();
            client.watch(source.clone(), ResourceKind::Endpoints, interest, watcher)
        });
    }
}

impl Drop for EdsDiscovery {
    fn drop(&mut self) {
        *self.eds.state.borrow_mut() = State::default();
        if let Some(manager) = self.eds.manager.upgrade() {
            manager.eds.remove_user(self.service_name());
        }
    }
}

impl Watcher for Eds {
    fn scope(&self) -> Option<Scope> {
        self.cluster.scope()
    }

    fn on_update(&self, update: &Update<'_>) -> Result<(), Vec<Refused>> {
        let began = Instant::now();
        let result = self.take(update);
        self.cluster.count(EdsEvent::Attempt);
        self.cluster.count(match result {
            Ok(()) => EdsEvent::Taken {
                version: update.version,
                took: began.elapsed(),
            },
            Err(_) => EdsEvent::Refused,
        });
        self.hosts_found();
        result.map_err(|refused| vec![refused])
    }

    fn on_fetch_failed(&self, why: FetchFailure) {
        self.cluster.count(EdsEvent::Attempt);
        match why {
            // It is tried again; whoever waits goes on waiting until the time for it is over.
            FetchFailure::ConnectionFailure => self.cluster.count(EdsEvent::Failure),
            FetchFailure::Timeout => {
                self.cluster.count(EdsEvent::Timeout);
                if self.state.borrow().accepted.is_none() {
                    self.use_cached();
                }
                self.hosts_found();
            }
        }
    }
}

impl Eds {
    fn take(&self, update: &Update<'_>) -> Result<(), Refused> {
        let sent = update
            .sent
            .last()
            .and_then(|sent| Some((sent, sent.body.as_ref()?)));
        let Some((resource, body)) = sent else {
            // What was assigned stays, as in Envoy.
            self.cluster.count(EdsEvent::Empty);
            if !update.removed.is_empty() {
                self.cache(None);
            }
            return Ok(());
        };
        let is_known = self.state.borrow().accepted.as_deref() == Some(&*body.value);
        if is_known {
            self.cluster.count(EdsEvent::Unchanged);
        } else if self.take_health(&body.value) {
            self.state.borrow_mut().accepted = Some(Arc::from(&*body.value));
        } else {
            let assignment = self.convert(resource)?;
            let stale_after = assignment.stale_after;
            let body: Arc<[u8]> = Arc::from(&*body.value);
            self.apply(assignment, Some(&body));
            let mut state = self.state.borrow_mut();
            state.stale_after = stale_after;
            state.accepted = Some(body);
        }
        self.cache(self.state.borrow().accepted.clone());
        self.restart_stale_timer();
        Ok(())
    }

    /// Takes an assignment that differs from the one in force in the health of some endpoints and in nothing else. False: it
    /// differs otherwise, and nothing was done.
    fn take_health(&self, new: &[u8]) -> bool {
        let (Some(manager), Some(cluster)) = (self.manager.upgrade(), self.cluster.get_if_made())
        else {
            return false;
        };
        let known = cluster.hosts.load();
        let changed = {
            let state = self.state.borrow();
            let Some(old) = &state.accepted else {
                return false;
            };
            eds_health::changes(old, new, &known, state.endpoints)
        };
        let Some(changed) = changed else {
            return false;
        };
        let replaced = |(host, health): &(&Arc<Host>, u32)| host.health.replace_discovered(*health);
        let changed: Vec<_> = changed.into_iter().filter(replaced).collect();
        if changed.is_empty() {
            self.cluster.count(EdsEvent::Unchanged);
            return true;
        }
        for (host, _) in &changed {
            cluster.recount(host);
        }
        cluster.publish_health(changed.iter().map(|(host, _)| host.identity()));
        if !manager.is_warming(&self.cluster) {
            manager.stats.cluster_updated().inc();
        }
        true
    }

    /// The assignment of a resource, or all that is wrong with it.
    fn convert(&self, resource: &Resource) -> Result<LoadAssignment, Refused> {
        let refused = |reason| Refused {
            name: resource.name.clone(),
            reason,
        };
        let Some(manager) = self.manager.upgrade() else {
            return Err(refused("the process ends".to_owned()));
        };
        let report = manager.report();
        let subject = format!("endpoints \"{}\"", resource.name);
        let path = ConfigPath::root(&report, &subject);
        let name = &self.settings.service_name;
        let decoded = resource.decode::<ClusterLoadAssignment>(&path);
        if decoded.is_err()
            && let Some(body) = &resource.body
            && let Ok(broken) = ClusterLoadAssignment::decode(&*body.value)
        {
            // So that all errors are found.
            let _ = LoadAssignment::from_eds(broken, name, &path);
        }
        let assignment = decoded.and_then(|proto| LoadAssignment::from_eds(proto, name, &path));
        manager.warn(&report);
        assignment.map_err(|_| refused(ClusterManager::reason(&report)))
    }

    fn use_cached(&self) {
        let Some(manager) = self.manager.upgrade() else {
            return;
        };
        let name = &self.settings.service_name;
        let cached = match self.settings.is_aggregated {
            true => manager.eds.cached(name),
            false => None,
        };
        let Some(body) = cached else {
            return;
        };
        let resource = Resource {
            name: name.clone(),
            aliases: Vec::new(),
            version: Arc::default(),
            body: Some(outrigger_proto::pb::google::protobuf::Any {
                type_url: ResourceKind::Endpoints.type_url(),
                value: body.to_vec(),
            }),
        };
        if let Ok(assignment) = self.convert(&resource) {
            self.cluster.count(EdsEvent::FromCache);
            self.apply(assignment, Some(&body));
            self.state.borrow_mut().accepted = Some(body);
        }
    }

    fn cache(&self, body: Option<Arc<[u8]>>) {
        if let (true, Some(manager)) = (self.settings.is_aggregated, self.manager.upgrade()) {
            manager.eds.cache(&self.settings.service_name, body);
        }
    }

    fn hosts_found(&self) {
        if let Some(manager) = self.manager.upgrade() {
            manager.hosts_found(&self.cluster);
        }
    }

    /// The assignment holds for some time from now on, if it says so.
    fn restart_stale_timer(&self) {
        let mut state = self.state.borrow_mut();
        let Some(after) = state.stale_after else {
            state.stale = Timer::default();
            return;
        };
        self.cluster.count(EdsEvent::WillBeStale);
        let me = self.me.clone();
        state.stale = Timer::after(after, move || {
            if let Some(eds) = me.upgrade() {
                eds.is_stale();
            }
        });
    }

    /// Nothing is known any more.
    fn is_stale(&self) {
        {
            let mut state = self.state.borrow_mut();
            state.accepted = None;
            state.stale_after = None;
        }
        self.cache(None);
        self.apply(LoadAssignment::default(), None);
        self.cluster.count(EdsEvent::Stale);
    }

    /// Makes an assignment, and what it was made of, the one in force.
    fn apply(&self, assignment: LoadAssignment, body: Option<&Arc<[u8]>>) {
        let Some(manager) = self.manager.upgrade() else {
            return;
        };
        self.state.borrow_mut().endpoints = assignment.each_endpoint().count();
        let difference = match self.cluster.assign(assignment, body.cloned()) {
            Ok(difference) => difference,
            Err(assignment) => self.assign_made(assignment, &manager),
        };
        if difference == Difference::default() {
            self.cluster.count(EdsEvent::Unchanged);
        } else if !manager.is_warming(&self.cluster) {
            manager.stats.cluster_updated().inc();
        }
    }

    /// The same for a cluster that is made.
    fn assign_made(&self, assignment: LoadAssignment, manager: &ClusterManager) -> Difference {
        let cluster = self.cluster.get();
        let drop = assignment.drop_overload.as_ref();
        cluster.set_drop_overload(&manager.server.runtime, drop);
        let known = cluster.hosts.load();
        let (set, difference) =
            next_hosts(assignment, &known, Some(&cluster.info), manager.workers);
        if difference != Difference::default() {
            let stats = &cluster.info.endpoint_stats;
            stats.max_host_weight().set(heaviest(&set).into());
            cluster.set_hosts(set);
        }
        difference
    }
}

impl Timer {
    fn after(delay: Duration, then: impl FnOnce() + 'static) -> Self {
        Self(Some(tokio::task::spawn_local(async move {
            tokio::time::sleep(delay).await;
            then();
        })))
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}
