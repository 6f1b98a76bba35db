//! Scopes: several route configurations, of which a key made of a request's headers chooses one.
//!
//! SRDS delivers the scopes; each names a route configuration, which comes by RDS, or holds it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use outrigger_proto::any::pack;
use outrigger_proto::pb::envoy::admin::v3::scoped_routes_config_dump::{
    DynamicScopedRouteConfigs, InlineScopedRouteConfigs,
};
use outrigger_proto::pb::envoy::config::route::v3 as pb;
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use outrigger_proto::pb::google::protobuf::Any;
use parking_lot::Mutex;
use tracing::info;

use super::{Routes, check_clusters};
use crate::config::{ConfigPath, ConfigReport, Rejected, timestamp};
use crate::route::RouteTable;
use crate::route::scoped::{ScopeKey, ScopeKeyBuilder, ScopedRoutes};
use crate::server::{FactoryContext, InitManager, InitTarget, ServerContext};
use crate::stats::Scope;
use crate::stats_group;
use crate::xds::{
    FetchFailure, Interest, Refused, Resource, ResourceKind, Subscription, SubscriptionStats,
    Update, Watcher, XdsSource,
};

stats_group! {
    /// `http.<stat_prefix>.scoped_rds.<name>.`
    pub(super) struct ScopedRdsStats {
        counter config_reload;
        counter update_empty;
        gauge active_scopes;
        gauge all_scopes;
        gauge config_reload_time_ms;
        gauge on_demand_scopes;
    }
}

/// `scoped_routes` of a connection manager.
#[derive(Debug)]
pub struct Scopes {
    /// Makes the key of a request.
    pub builder: ScopeKeyBuilder,
    /// What the key chooses from.
    pub routes: ScopeSource,
}

/// Where scopes come from.
#[derive(Debug)]
pub enum ScopeSource {
    /// They stand in the connection manager.
    Fixed(Arc<FixedScopes>),
    /// SRDS.
    Dynamic(Arc<ScopeProvider>),
}

/// Scopes that stand in a connection manager.
#[derive(Debug)]
pub struct FixedScopes {
    /// By key.
    pub scopes: Arc<ScopedRoutes<Routes>>,
    name: String,
    messages: Vec<Any>,
    last_updated: SystemTime,
}

/// The scopes of a source, shared by all connection managers that ask for the same.
pub struct ScopeProvider {
    name: Box<str>,
    server: Arc<ServerContext>,
    /// `http.<stat_prefix>.` of the connection manager that asked first.
    scope: Scope,
    rds_source: XdsSource,
    published: ArcSwap<ScopedRoutes<Routes>>,
    /// Another one with each change.
    version: AtomicU64,
    state: Mutex<State>,
    stats: ScopedRdsStats,
    subscription_stats: SubscriptionStats,
    subscription: OnceLock<Subscription>,
}

#[derive(Default)]
struct State {
    scopes: BTreeMap<Arc<str>, Accepted>,
    version: Arc<str>,
    last_updated: Option<SystemTime>,
    /// Something came, or nothing will.
    answered: bool,
    /// Who waits for that, and then for the routes of the scopes.
    waiting: Vec<(InitManager, InitTarget)>,
}

/// One scope in force.
#[derive(Clone)]
struct Accepted {
    message: Any,
    key: ScopeKey,
    routes: Routes,
    on_demand: bool,
}

impl Scopes {
    /// Converts `scoped_routes`.
    pub fn from_proto(
        proto: hcm::ScopedRoutes,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        use hcm::scoped_routes::ConfigSpecifier;
        let hcm::ScopedRoutes {
            name,
            scope_key_builder,
            rds_config_source,
            config_specifier,
        } = proto;
        let name = path.non_empty("name", name);
        let builder = path
            .required("scope_key_builder", scope_key_builder)
            .and_then(|builder| {
                ScopeKeyBuilder::from_proto(builder, &path.field("scope_key_builder"))
            });
        let routes = match path.required("config_specifier", config_specifier)? {
            // Their routes stand in them: `rds_config_source` is not asked.
            ConfigSpecifier::ScopedRouteConfigurationsList(list) => {
                let path = path.field("scoped_route_configurations_list");
                let name = name.clone().unwrap_or_default();
                FixedScopes::from_proto(name, list, cx, &path)
                    .map(|fixed| ScopeSource::Fixed(cx.server.routes.fixed_scopes(fixed)))
            }
            ConfigSpecifier::ScopedRds(rds) => {
                let hcm::ScopedRds {
                    scoped_rds_config_source,
                    srds_resources_locator,
                } = rds;
                let field = path.field("scoped_rds");
                let locator =
                    field.unsupported_if_set("srds_resources_locator", srds_resources_locator);
                let source = |name, source, path: &ConfigPath<'_>| {
                    let source = path.required(name, source)?;
                    XdsSource::from_proto(source, cx.server, &path.field(name))
                };
                let scopes = source("scoped_rds_config_source", scoped_rds_config_source, &field);
                let routes = source("rds_config_source", rds_config_source, path);
                locator?;
                let (scopes, routes, name) = (scopes?, routes?, name.clone()?);
                let provider = cx.server.routes.dynamic_scopes(&name, scopes, routes, cx);
                Ok(ScopeSource::Dynamic(provider))
            }
        };
        name?;
        Ok(Self {
            builder: builder?,
            routes: routes?,
        })
    }
}

impl FixedScopes {
    fn from_proto(
        name: String,
        proto: hcm::ScopedRouteConfigurationsList,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let hcm::ScopedRouteConfigurationsList {
            scoped_route_configurations: list,
        } = proto;
        let messages = list.iter().map(pack).collect();
        let scopes = path.each("scoped_route_configurations", list, |proto, path| {
            if proto.route_configuration.is_none() {
                return Err(path.field("route_configuration").reject(
                    "is required: scopes that stand in a connection manager hold their routes",
                ));
            }
            if !proto.route_configuration_name.is_empty() {
                return Err(path.field("route_configuration_name").reject(
                    "cannot be set: scopes that stand in a connection manager hold their routes",
                ));
            }
            let name = proto.name.clone();
            let path = path.key("scope", &name);
            let (key, table, config) = fixed_scope(proto, true, cx, &path)?;
            Ok((
                key,
                Routes::Fixed(Arc::new(super::FixedRoutes::new(table, config))),
            ))
        })?;
        Ok(Self {
            scopes: Arc::new(ScopedRoutes::new(scopes)),
            name,
            messages,
            last_updated: SystemTime::now(),
        })
    }

    pub(super) fn dump(&self) -> InlineScopedRouteConfigs {
        InlineScopedRouteConfigs {
            name: self.name.clone(),
            scoped_route_configs: self.messages.clone(),
            last_updated: Some(timestamp(self.last_updated)),
        }
    }
}

/// A scope that holds its routes. `validate`: their clusters must exist, unless they say otherwise.
fn fixed_scope(
    proto: pb::ScopedRouteConfiguration,
    validate: bool,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<(ScopeKey, RouteTable, Any), Rejected> {
    let pb::ScopedRouteConfiguration {
        // All scopes are there from the start.
        on_demand: _,
        name: _,
        route_configuration_name: _,
        route_configuration,
        key,
    } = proto;
    let key = path
        .required("key", key)
        .and_then(|key| ScopeKey::from_proto(key, &path.field("key")));
    let routes = path.required("route_configuration", route_configuration)?;
    let config = pack(&routes);
    let path = path.field("route_configuration");
    let table = RouteTable::from_proto(routes, cx, &path)?;
    check_clusters(&table, validate, cx.server, &path)?;
    Ok((key?, table, config))
}

impl ScopeProvider {
    /// A provider that has asked `source` for scopes. Until they come, no request has a route.
    pub(super) fn new(
        name: &str,
        source: XdsSource,
        rds_source: XdsSource,
        cx: &FactoryContext<'_>,
    ) -> Arc<Self> {
        let scope = cx.scope.scope(&format!("scoped_rds.{name}."));
        let provider = Arc::new(Self {
            name: name.into(),
            server: cx.server.clone(),
            scope: cx.scope.clone(),
            rds_source,
            published: ArcSwap::from_pointee(ScopedRoutes::new([])),
            version: AtomicU64::new(0),
            state: Mutex::default(),
            stats: ScopedRdsStats::new(&scope),
            subscription_stats: SubscriptionStats::new(&scope, &source),
            subscription: OnceLock::new(),
        });
        let watcher = Arc::downgrade(&provider);
        let watcher: Weak<dyn Watcher + Send + Sync> = watcher;
        let kind = ResourceKind::ScopedRoute;
        let xds = &cx.server.xds;
        let subscription = xds.subscribe(source, kind, Interest::Wildcard, watcher);
        // Nobody else has the provider yet.
        let _ = provider.subscription.set(subscription);
        provider
    }

    /// Whether it is what a connection manager asks for, besides the source of the scopes.
    pub(super) fn is(&self, name: &str, rds_source: &XdsSource) -> bool {
        *self.name == *name && self.rds_source == *rds_source
    }

    /// Lets `init` wait for the scopes, and for their routes.
    pub(super) fn wait(&self, init: &InitManager) {
        let mut state = self.state.lock();
        if !state.answered {
            let target = init.target(format!("SRDS {}", self.name));
            state.waiting.push((init.clone(), target));
            return;
        }
        for scope in state.scopes.values() {
            if let Routes::Dynamic(routes) = &scope.routes {
                routes.wait(init);
            }
        }
    }

    /// A number that is another one when there are other scopes.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// The number and the scopes that belong to it, or newer ones.
    pub fn take(&self) -> (u64, Arc<ScopedRoutes<Routes>>) {
        // The scopes are published before their number.
        let version = self.version.load(Ordering::Acquire);
        (version, self.published.load_full())
    }

    pub(super) fn dump(&self) -> Option<DynamicScopedRouteConfigs> {
        let state = self.state.lock();
        let last_updated = state.last_updated?;
        let messages = state.scopes.values().map(|scope| scope.message.clone());
        Some(DynamicScopedRouteConfigs {
            name: self.name.to_string(),
            version_info: state.version.to_string(),
            scoped_route_configs: messages.collect(),
            last_updated: Some(timestamp(last_updated)),
            ..Default::default()
        })
    }

    fn answered(&self) {
        let waiting = {
            let mut state = self.state.lock();
            state.answered = true;
            std::mem::take(&mut state.waiting)
        };
        for (init, target) in waiting {
            // Before it is ready itself: there is no moment in which nothing is waited for.
            self.wait(&init);
            drop(target);
        }
    }

    /// Takes an update as a whole: scopes whose keys clash say nothing about which of them is meant.
    fn apply(&self, update: &Update<'_>) -> Result<(), Refused> {
        let mut scopes = self.state.lock().scopes.clone();
        let mut changed = false;
        for name in update.removed {
            changed |= scopes.remove(name).is_some();
        }
        let mut seen = HashMap::new();
        for resource in update.sent {
            if seen.insert(&resource.name, ()).is_some() {
                let name = &resource.name;
                let reason = format!("duplicate scoped route configuration '{name}' found");
                return Err(refused(name, reason));
            }
            let known = scopes.get(&resource.name);
            if known.is_some_and(|known| resource.body.as_ref() == Some(&known.message)) {
                continue;
            }
            let scope = self.convert(resource)?;
            scopes.insert(resource.name.clone(), scope);
            changed = true;
        }
        let mut keys = HashMap::new();
        for (name, scope) in &scopes {
            if let Some(other) = keys.insert(&scope.key, name) {
                let reason = format!(
                    "scope key conflict found, first scope is '{other}', second scope is '{name}'"
                );
                return Err(refused(name, reason));
            }
        }
        if changed {
            self.publish(scopes, update.version);
        }
        Ok(())
    }

    fn convert(&self, resource: &Resource) -> Result<Accepted, Refused> {
        let report = ConfigReport::of_resource(&self.server);
        let title = format!("scope \"{}\"", resource.name);
        let path = ConfigPath::root(&report, &title);
        let converted = self.scope_of(resource, &path);
        converted.map_err(|_| refused(&resource.name, report.text()))
    }

    fn scope_of(&self, resource: &Resource, path: &ConfigPath<'_>) -> Result<Accepted, Rejected> {
        let proto: pb::ScopedRouteConfiguration = resource.decode(path)?;
        let init = InitManager::new(&format!("SRDS {}", self.name));
        let cx = FactoryContext {
            server: &self.server,
            scope: &self.scope,
            init: &init,
        };
        let on_demand = proto.on_demand;
        let (key, routes) = match &proto.route_configuration {
            Some(_) => {
                let (key, table, config) = fixed_scope(proto, false, &cx, path)?;
                let routes = super::FixedRoutes::new(table, config);
                (key, Routes::Fixed(Arc::new(routes)))
            }
            None => {
                let key = path
                    .required("key", proto.key)
                    .and_then(|key| ScopeKey::from_proto(key, &path.field("key")));
                let name =
                    path.non_empty("route_configuration_name", proto.route_configuration_name);
                let (key, name) = (key?, name?);
                let routes = &self.server.routes;
                let provider = routes.dynamic(&name, self.rds_source.clone(), &cx);
                (key, Routes::Dynamic(provider))
            }
        };
        Ok(Accepted {
            message: resource.body.clone().unwrap_or_default(),
            key,
            routes,
            on_demand,
        })
    }

    fn publish(&self, scopes: BTreeMap<Arc<str>, Accepted>, version: &Arc<str>) {
        let by_key = scopes.values();
        let by_key = by_key.map(|scope| (scope.key.clone(), scope.routes.clone()));
        self.published.store(Arc::new(ScopedRoutes::new(by_key)));
        self.version.fetch_add(1, Ordering::Release);
        let now = SystemTime::now();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let stats = &self.stats;
        stats.config_reload().inc();
        stats.all_scopes().set(count(scopes.len()));
        stats.active_scopes().set(count(scopes.len()));
        let on_demand = scopes.values().filter(|scope| scope.on_demand).count();
        stats.on_demand_scopes().set(count(on_demand));
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let milliseconds = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        stats.config_reload_time_ms().set(milliseconds);
        info!(
            name = &*self.name,
            scopes = scopes.len(),
            "Scopes are in use."
        );
        let old = {
            let mut state = self.state.lock();
            state.version = version.clone();
            state.last_updated = Some(now);
            std::mem::replace(&mut state.scopes, scopes)
        };
        // What nobody else uses ends its subscriptions.
        drop(old);
    }
}

fn refused(name: &Arc<str>, reason: String) -> Refused {
    Refused {
        name: name.clone(),
        reason,
    }
}

impl Watcher for ScopeProvider {
    fn on_update(&self, update: &Update<'_>) -> Result<(), Vec<Refused>> {
        let apply = || self.apply(update).map_err(|refused| vec![refused]);
        let result = self.subscription_stats.count(update.version, apply);
        self.answered();
        result
    }

    fn stats_scope(&self) -> Option<Scope> {
        Some(self.scope.scope(&format!("scoped_rds.{}.", self.name)))
    }

    fn on_fetch_failed(&self, why: FetchFailure) {
        self.subscription_stats.failed(why);
        if why == FetchFailure::Timeout {
            self.answered();
        }
    }
}

impl fmt::Debug for ScopeProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ScopeProvider").field(&self.name).finish()
    }
}
