//! One route configuration of a management server.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use outrigger_proto::any::pack;
use outrigger_proto::pb::envoy::config::route::v3 as pb;
use outrigger_proto::pb::google::protobuf::Any;
use parking_lot::Mutex;
use tracing::{debug, info};

use super::check_clusters;
use super::registry::DynamicRoutes;
use super::vhds::VirtualHosts;
use crate::config::{ConfigPath, ConfigReport, Rejected};
use crate::route::RouteTable;
use crate::server::{FactoryContext, InitManager, InitTarget, ServerContext};
use crate::stats::Scope;
use crate::stats_group;
use crate::xds::{
    FetchFailure, Interest, Refused, Resource, ResourceKind, Subscription, SubscriptionStats,
    Update, Watcher, XdsSource,
};

stats_group! {
    /// `http.<stat_prefix>.rds.<route_config_name>.`
    pub(super) struct RdsStats {
        counter config_reload;
        counter update_empty;
        gauge config_reload_time_ms;
    }
}

/// A route configuration that a source delivers, shared by all connection managers that name it.
pub struct RouteProvider {
    name: Arc<str>,
    server: Arc<ServerContext>,
    /// `http.<stat_prefix>.` of the connection manager that asked first.
    scope: Scope,
    table: ArcSwap<RouteTable>,
    /// Another one with each table.
    version: AtomicU64,
    state: Mutex<State>,
    stats: RdsStats,
    subscription_stats: SubscriptionStats,
    subscription: OnceLock<Subscription>,
    this: Weak<Self>,
}

#[derive(Default)]
struct State {
    accepted: Option<DynamicRoutes>,
    /// What RDS has sent, as it came.
    message: Option<Any>,
    /// What it lacks.
    vhds: Option<VirtualHosts>,
    /// Something came, or nothing will.
    answered: bool,
    /// Who waits for that.
    waiting: Vec<InitTarget>,
}

impl RouteProvider {
    /// A provider that has asked `source` for the configuration `name`. Until it comes, no request has a route.
    pub(super) fn new(name: &str, source: XdsSource, cx: &FactoryContext<'_>) -> Arc<Self> {
        let scope = cx.scope.scope(&format!("rds.{name}."));
        let provider = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            name: name.into(),
            server: cx.server.clone(),
            scope: cx.scope.clone(),
            table: ArcSwap::from_pointee(RouteTable::empty(name)),
            version: AtomicU64::new(0),
            state: Mutex::default(),
            stats: RdsStats::new(&scope),
            subscription_stats: SubscriptionStats::new(&scope, &source),
            subscription: OnceLock::new(),
        });
        let watcher = Arc::downgrade(&provider);
        let watcher: Weak<dyn Watcher + Send + Sync> = watcher;
        let subscription = cx.server.xds.subscribe(
            source,
            ResourceKind::RouteConfiguration,
            Interest::name(name),
            watcher,
        );
        // Nobody else has the provider yet.
        let _ = provider.subscription.set(subscription);
        provider
    }

    /// Lets `init` wait for the first answer.
    pub(super) fn wait(&self, init: &InitManager) {
        let mut state = self.state.lock();
        if !state.answered {
            let target = init.target(format!(
                "shared target RdsRouteConfigSubscription RDS init {}",
                self.name
            ));
            state.waiting.push(target);
        }
    }

    /// The name of the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The table of now. Empty before the first one has come.
    pub fn table(&self) -> Arc<RouteTable> {
        self.table.load_full()
    }

    /// A number that is another one when there is another table.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// The number and the table that belongs to it, or a newer one.
    pub fn take(&self) -> (u64, Arc<RouteTable>) {
        // The table is published before its number.
        let version = self.version.load(Ordering::Acquire);
        (version, self.table())
    }

    /// What is in force, for `/config_dump`; none before the first one has come.
    pub fn accepted(&self) -> Option<DynamicRoutes> {
        self.state.lock().accepted.clone()
    }

    pub(super) fn answered(&self) {
        let waiting = {
            let mut state = self.state.lock();
            state.answered = true;
            std::mem::take(&mut state.waiting)
        };
        drop(waiting);
    }

    fn apply(self: &Arc<Self>, resource: &Resource) -> Result<(), Refused> {
        if self.state.lock().message.as_ref() == resource.body.as_ref() {
            debug!(name = &*self.name, "A route configuration came again.");
            return Ok(());
        }
        let report = ConfigReport::of_resource(&self.server);
        let title = format!("route configuration \"{}\"", self.name);
        let path = ConfigPath::root(&report, &title);
        self.replace(resource, &path).map_err(|_| Refused {
            name: resource.name.clone(),
            reason: report.text(),
        })
    }

    fn replace(
        self: &Arc<Self>,
        resource: &Resource,
        path: &ConfigPath<'_>,
    ) -> Result<(), Rejected> {
        let mut proto: pb::RouteConfiguration = resource.decode(path)?;
        if *proto.name != *self.name {
            return Err(path.field("name").reject(format!(
                "Unexpected RDS configuration (expecting {}): {}",
                self.name, proto.name
            )));
        }
        let vhds = path.optional("vhds", proto.vhds.take(), |vhds, path| {
            VirtualHosts::source(vhds, &self.server, path)
        });
        // Those that are there already stay, if they come from the same source.
        let known = vhds
            .as_ref()
            .ok()
            .and_then(Option::as_ref)
            .and_then(|source| {
                let state = self.state.lock();
                state
                    .vhds
                    .as_ref()
                    .filter(|known| known.is_of(source))
                    .cloned()
            });
        let config = match &known {
            Some(known) => known.add_to(&proto),
            None => proto.clone(),
        };
        let table = self.convert(config.clone(), path);
        let (vhds, table) = (vhds?, table?);
        let vhds = match (vhds, known) {
            (None, _) => None,
            (Some(_), Some(known)) => Some(known.with_base(proto)),
            (Some(source), None) => Some(VirtualHosts::new(self, source, proto)),
        };
        let config = match vhds {
            None => resource.body.clone().unwrap_or_default(),
            Some(_) => pack(&config),
        };
        let waits = vhds.as_ref().is_some_and(|vhds| !vhds.answered());
        let old = {
            let mut state = self.state.lock();
            state.message.clone_from(&resource.body);
            std::mem::replace(&mut state.vhds, vhds)
        };
        drop(old);
        self.publish(table, config, &resource.version);
        self.stats.config_reload().inc();
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let milliseconds = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.stats.config_reload_time_ms().set(milliseconds);
        if !waits {
            self.answered();
        }
        Ok(())
    }

    /// Takes virtual hosts of VHDS as a whole. False: nothing has changed.
    pub(super) fn set_virtual_hosts(
        &self,
        hosts: VirtualHosts,
        path: &ConfigPath<'_>,
    ) -> Result<(), Rejected> {
        let config = hosts.merged();
        let table = self.convert(config.clone(), path)?;
        let version = {
            let mut state = self.state.lock();
            state.vhds = Some(hosts);
            let accepted = state.accepted.as_ref();
            accepted.map(|accepted| accepted.version.clone())
        };
        self.publish(table, pack(&config), &version.unwrap_or_default());
        Ok(())
    }

    /// The virtual hosts of VHDS, where there is any.
    pub(super) fn virtual_hosts(&self) -> Option<VirtualHosts> {
        self.state.lock().vhds.clone()
    }

    /// Asks for the virtual host that serves this `host:port`. The future ends when the table has it, and also when there is no
    /// hope for it. None: virtual hosts do not come one by one, or too many are asked for already.
    pub fn find_host(&self, host: &str) -> Option<impl Future<Output = ()> + use<>> {
        let state = self.state.lock();
        state.vhds.as_ref()?.find(host)
    }

    pub(super) fn server(&self) -> &Arc<ServerContext> {
        &self.server
    }

    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    fn convert(
        &self,
        proto: pb::RouteConfiguration,
        path: &ConfigPath<'_>,
    ) -> Result<RouteTable, Rejected> {
        let init = InitManager::new(&format!("RDS local-init-manager {}", self.name));
        let cx = FactoryContext {
            server: &self.server,
            scope: &self.scope,
            init: &init,
        };
        let table = RouteTable::from_proto(proto, &cx, path)?;
        check_clusters(&table, false, &self.server, path)?;
        Ok(table)
    }

    fn publish(&self, table: RouteTable, config: Any, version: &Arc<str>) {
        self.table.store(Arc::new(table));
        self.version.fetch_add(1, Ordering::Release);
        self.state.lock().accepted = Some(DynamicRoutes {
            config: Arc::new(config),
            version: version.clone(),
            last_updated: SystemTime::now(),
        });
        info!(
            name = &*self.name,
            version = &**version,
            "A route configuration is in use."
        );
    }
}

impl Watcher for RouteProvider {
    fn on_update(&self, update: &Update<'_>) -> Result<(), Vec<Refused>> {
        let take = || self.take_update(update);
        self.subscription_stats.count(update.version, take)
    }

    fn stats_scope(&self) -> Option<Scope> {
        Some(self.scope.scope(&format!("rds.{}.", self.name())))
    }

    fn on_fetch_failed(&self, why: FetchFailure) {
        self.subscription_stats.failed(why);
        if why == FetchFailure::Timeout {
            self.answered();
        }
    }
}

impl RouteProvider {
    fn take_update(&self, update: &Update<'_>) -> Result<(), Vec<Refused>> {
        let result = match update.sent {
            [] if update.removed.is_empty() => {
                self.stats.update_empty().inc();
                self.answered();
                return Ok(());
            }
            // What exists no more stays in use.
            [] => return Ok(()),
            [resource] => match self.this.upgrade() {
                Some(this) => this.apply(resource),
                None => Ok(()),
            },
            [first, ..] => Err(Refused {
                name: first.name.clone(),
                reason: format!("Unexpected RDS resource length: {}", update.sent.len()),
            }),
        };
        result.map_err(|refused| {
            // The start of the process does not wait for better ones.
            self.answered();
            vec![refused]
        })
    }
}

impl fmt::Debug for RouteProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteProvider")
            .field("name", &self.name)
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}
