//! `CDS`: clusters that come and go while the process runs.
//!
//! Stats: `cluster_manager.cds.{init_fetch_timeout,update_attempt,update_success,update_failure,update_rejected,update_time,
//! update_duration,version,version_text}`.
//! Deviations: `/config_dump` tells also which clusters were refused, and why (`error_state`).

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_proto::pb::envoy::admin::v3::UpdateFailureState;
use outrigger_proto::pb::envoy::config::cluster::v3 as pb;
use prost::Message;
use tokio::time::Instant;
use tracing::{info, warn};

use super::cluster::ClusterConfig;
use super::cluster_entry::{Accepted, Discovery, Entry};
use super::cluster_manager::{Batch, ClusterManager};
use super::dump::timestamp;
use super::health_check::PatchedHealthChecks;
use super::shared_cluster::Cluster;
use crate::config::{ConfigPath, ConfigReport};
use crate::server::InitTarget;
use crate::stats::TextReadout;
use crate::xds::{
    FetchFailure, Interest, Refused, Resource, ResourceKind, Subscription, Update, Watcher,
    XdsClient, XdsSource,
};
use crate::xx_hash::xx_hash64;

crate::stats_group! {
    /// What the subscription to clusters counts.
    struct CdsStats {
        counter config_reload;
        gauge config_reload_time_ms;
        counter init_fetch_timeout;
        counter update_attempt;
        histogram update_duration (Milliseconds);
        counter update_failure;
        counter update_rejected;
        counter update_success;
        gauge update_time;
        gauge version;
    }
}

/// The subscription to clusters.
pub(super) struct Cds {
    watcher: Rc<CdsWatcher>,
    _subscription: Subscription,
}

pub(super) struct CdsWatcher {
    manager: Weak<ClusterManager>,
    stats: CdsStats,
    version_text: TextReadout,
    /// Of the last response that changed anything.
    version: RefCell<Arc<str>>,
    /// The first answer; none of clusters that requests need.
    first: Option<InitTarget>,
}

/// What a resource asks for.
enum Asked {
    /// Nothing new, or what cannot be changed.
    Nothing,
    Change(Box<ClusterConfig>, Accepted),
}

impl ClusterManager {
    /// Takes clusters from a management server, or from a watched file, for as long as the manager lives. Clusters of the
    /// bootstrap stay as they are.
    pub fn watch_cds(self: &Rc<Self>, client: &Rc<XdsClient>, source: XdsSource) {
        let first = self.init().target("CDS");
        let watcher = CdsWatcher::new(self, "cds", Some(first));
        if !source.is_file() {
            watcher.stats.update_attempt().inc();
        }
        let subscription = client.watch(
            source,
            ResourceKind::Cluster,
            Interest::Wildcard,
            watcher.clone(),
        );
        *self.cds.borrow_mut() = Some(Cds {
            watcher,
            _subscription: subscription,
        });
        self.set_xds_client(client);
    }

    /// The version of the last update that changed clusters; empty if they come from nowhere.
    pub(super) fn cds_version(&self) -> String {
        let cds = self.cds.borrow();
        let version = cds
            .as_ref()
            .map(|cds| cds.watcher.version.borrow().to_string());
        version.unwrap_or_default()
    }

    /// Whether a cluster came while the process runs, and `service_name` of its EDS configuration.
    pub(super) fn origin(&self, cluster: &Arc<Cluster>) -> (bool, String) {
        let clusters = self.clusters.borrow();
        let entry = clusters.get(&cluster.info.id);
        let Some(managed) = entry.and_then(|entry| entry.active.as_ref()) else {
            return Default::default();
        };
        let service_name = match &managed.discovery {
            Discovery::Eds(eds) if **eds.service_name() != *cluster.info.name => {
                eds.service_name().to_string()
            }
            _ => String::new(),
        };
        (managed.accepted.is_some(), service_name)
    }

    /// What is found wrong with resources that come while the process runs. Flags say what becomes of fields that are not known.
    pub(super) fn report(&self) -> ConfigReport {
        ConfigReport::of_resource(&self.server)
    }

    pub(super) fn warn(&self, report: &ConfigReport) {
        for warning in report.take_warnings() {
            warn!("{warning}");
        }
    }

    /// All errors of a report, a line each.
    pub(super) fn reason(report: &ConfigReport) -> String {
        let errors: Vec<String> = report.take().iter().map(ToString::to_string).collect();
        errors.join("\n")
    }

    /// Takes one cluster of an update. `names` are those that the update had so far.
    fn take(
        self: &Rc<Self>,
        resource: &Resource,
        names: &mut HashSet<String>,
    ) -> Result<Asked, Refused> {
        let report = self.report();
        let subject = format!("cluster \"{}\"", resource.name);
        let path = ConfigPath::root(&report, &subject);
        if self.holds(resource) && names.insert(resource.name.to_string()) {
            return Ok(Asked::Nothing);
        }
        let decoded = resource.decode::<pb::Cluster>(&path);
        if decoded.is_err()
            && let Some(body) = &resource.body
            && let Ok(broken) = pb::Cluster::decode(&*body.value)
        {
            // So that all errors are found.
            let _ = ClusterConfig::from_proto(broken, &self.server, &path);
        }
        let asked = decoded.and_then(|proto| {
            if !names.insert(proto.name.clone()) {
                return Err(path
                    .field("name")
                    .reject("is the name of an earlier cluster already"));
            }
            let body = resource.body.as_ref();
            let names = body.map(|body| PatchedHealthChecks::of_cluster(&body.value));
            let names = names.unwrap_or_default();
            if self.cannot_change(&proto, &names) {
                return Ok(Asked::Nothing);
            }
            let config = ClusterConfig::with_names(proto, &names, &self.server, &path)?;
            let accepted = Accepted {
                body: resource
                    .body
                    .as_ref()
                    .map(|body| Arc::from(body.value.as_slice()))
                    .unwrap_or_default(),
                version: resource.version.clone(),
                at: SystemTime::now(),
            };
            Ok(Asked::Change(Box::new(config), accepted))
        });
        self.warn(&report);
        asked.map_err(|_| Refused {
            name: resource.name.clone(),
            reason: Self::reason(&report),
        })
    }

    /// Whether the cluster is the same, byte by byte, already: the newest version of it, be it in use or not.
    fn holds(&self, resource: &Resource) -> bool {
        let id = self.server.cluster_names.find(&resource.name);
        let clusters = self.clusters.borrow();
        let entry = id.and_then(|id| clusters.get(&id));
        let accepted = entry
            .filter(|entry| entry.refused.is_none())
            .and_then(Entry::accepted);
        let (Some(accepted), Some(body)) = (accepted, &resource.body) else {
            return false;
        };
        *accepted.body == *body.value
    }

    /// Whether the cluster is one of the bootstrap, or the same in another encoding. A refused update before it is forgotten then.
    fn cannot_change(&self, proto: &pb::Cluster, names: &PatchedHealthChecks) -> bool {
        let Some(id) = self.server.cluster_names.find(&proto.name) else {
            return false;
        };
        let is_same = {
            let clusters = self.clusters.borrow();
            let Some(entry) = clusters.get(&id) else {
                return false;
            };
            match entry.accepted() {
                Some(accepted) => {
                    pb::Cluster::decode(&*accepted.body).is_ok_and(|known| known == *proto)
                        && PatchedHealthChecks::of_cluster(&accepted.body) == *names
                }
                None => return entry.active.is_some() || entry.warming.is_some(),
            }
        };
        if is_same {
            self.change(id, |entry| entry.refused = None);
        }
        is_same
    }

    /// Remembers what was refused, for `/config_dump`.
    fn refuse(&self, resource: &Resource, refused: &Refused) {
        let id = self.server.cluster_names.id(&resource.name);
        let state = UpdateFailureState {
            failed_configuration: resource.body.clone(),
            last_update_attempt: Some(timestamp(SystemTime::now())),
            details: refused.reason.clone(),
            version_info: resource.version.to_string(),
        };
        self.change(id, |entry| entry.refused = Some(Box::new(state)));
    }

    /// Takes a cluster away that came while the process runs.
    fn remove_dynamic(&self, name: &str, batch: &mut Batch) -> bool {
        let Some(id) = self.server.cluster_names.find(name) else {
            return false;
        };
        let is_dynamic = {
            let clusters = self.clusters.borrow();
            clusters
                .get(&id)
                .is_some_and(|entry| entry.accepted().is_some())
        };
        match is_dynamic {
            true => self.remove_one(name, batch),
            false => {
                self.change(id, |entry| entry.refused = None);
                false
            }
        }
    }
}

impl Entry {
    /// What the newest version was made of.
    fn accepted(&self) -> Option<&Accepted> {
        let newest = self.warming.as_ref().or(self.active.as_ref());
        newest?.accepted.as_ref()
    }
}

impl Watcher for CdsWatcher {
    fn on_update(&self, update: &Update<'_>) -> Result<(), Vec<Refused>> {
        let Some(manager) = self.manager.upgrade() else {
            return Ok(());
        };
        let began = Instant::now();
        let refused = self.take(&manager, update);
        self.stats.update_attempt().inc();
        if refused.is_empty() {
            self.stats.update_success().inc();
            self.stats
                .version()
                .set(xx_hash64(update.version.as_bytes(), 0));
            self.version_text.set(&**update.version);
            let now = UNIX_EPOCH.elapsed().unwrap_or_default();
            self.stats.update_time().set(millis(now));
            self.stats.update_duration().record(millis(began.elapsed()));
        } else {
            self.stats.update_rejected().inc();
        }
        match &self.first {
            Some(first) => first.ready(),
            None => update
                .removed
                .iter()
                .for_each(|name| manager.is_missing(name)),
        }
        match refused.is_empty() {
            true => Ok(()),
            false => Err(refused),
        }
    }

    fn on_fetch_failed(&self, why: FetchFailure) {
        self.stats.update_attempt().inc();
        match why {
            // It is tried again; whoever waits goes on waiting until the time for it is over.
            FetchFailure::ConnectionFailure => self.stats.update_failure().inc(),
            FetchFailure::Timeout => {
                self.stats.init_fetch_timeout().inc();
                if let Some(first) = &self.first {
                    first.ready();
                }
            }
        }
    }
}

impl CdsWatcher {
    fn new(manager: &Rc<ClusterManager>, name: &str, first: Option<InitTarget>) -> Rc<Self> {
        let stats = &manager.server.stats;
        let scope = stats.scope(&format!("cluster_manager.{name}."));
        Rc::new(Self {
            manager: Rc::downgrade(manager),
            stats: CdsStats::new(&scope),
            version_text: scope.text_readout("version_text"),
            version: RefCell::new(Arc::from("")),
            first,
        })
    }

    /// What hears of clusters that requests need.
    pub(super) fn on_demand(manager: &Rc<ClusterManager>) -> Rc<Self> {
        let watcher = Self::new(manager, "odcds", None);
        watcher.stats.update_attempt().inc();
        watcher
    }

    /// Takes all that can be taken of an update; the rest is returned.
    fn take(&self, manager: &Rc<ClusterManager>, update: &Update<'_>) -> Vec<Refused> {
        let mut refused = Vec::new();
        let mut names = HashSet::with_capacity(update.sent.len());
        let mut batch = Batch::default();
        let (mut changed, mut removed) = (0, 0);
        for resource in update.sent {
            match manager.take(resource, &mut names) {
                Ok(Asked::Nothing) => {}
                Ok(Asked::Change(config, accepted)) => {
                    manager.add_one(*config, Some(accepted), &mut batch);
                    changed += 1;
                }
                Err(error) => {
                    warn!(
                        cluster = &*error.name,
                        reason = error.reason,
                        "Cluster is refused."
                    );
                    manager.refuse(resource, &error);
                    refused.push(error);
                }
            }
        }
        for name in update.removed {
            removed += usize::from(manager.remove_dynamic(name, &mut batch));
        }
        manager.publish(batch);
        if changed > 0 && refused.is_empty() {
            self.stats.config_reload().inc();
            let now = UNIX_EPOCH.elapsed().unwrap_or_default();
            self.stats.config_reload_time_ms().set(millis(now));
        }
        if changed + removed > 0 {
            *self.version.borrow_mut() = update.version.clone();
            info!(
                changed,
                removed,
                version = &**update.version,
                "Clusters have changed."
            );
        }
        refused
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
