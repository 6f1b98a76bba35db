//! ECDS: configurations of HTTP filters that a management server delivers one by one.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/overview/extension>
//! All filters that name the same configuration of the same source share one subscription; each converts what comes for its own
//! place. A worker looks at one number for each new stream, and streams keep the filter that they began with.
//! Stats: `extension_config_discovery.http_filter.<name>.*`.
//! Details of responses: none; a stream whose filter has no configuration gets 500 with flag `NFCF`.
//! Deviations: a terminal filter cannot come from ECDS.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use outrigger_proto::any::{pack, type_name};
use outrigger_proto::pb::envoy::admin::v3::EcdsConfigDump;
use outrigger_proto::pb::envoy::admin::v3::ecds_config_dump::EcdsFilterConfig;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use parking_lot::Mutex;
use tracing::info;

use super::{
    FACTORIES, HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests,
    LocalReply, StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, ConfigReport, Rejected, TypedConfig, timestamp};
use crate::http::{EndStream, RequestHead};
use crate::server::{FactoryContext, InitManager, InitTarget, ServerContext, Worker};
use crate::stats::Scope;
use crate::stats_group;
use crate::stream_info::ResponseFlag;
use crate::xds::{
    FetchFailure, Interest, Refused, Resource, ResourceKind, Subscription, SubscriptionStats,
    Update, Watcher, XdsSource,
};

stats_group! {
    /// `extension_config_discovery.http_filter.<name>.`
    struct DiscoveryStats {
        counter config_reload;
        counter config_fail;
        counter config_conflict;
    }
}

/// The configurations of the process that come by ECDS, each as long as a filter uses it.
#[derive(Debug, Default)]
pub struct ExtensionConfigs {
    known: Mutex<Vec<(XdsSource, Weak<ExtensionConfig>)>>,
}

/// One configuration of one source.
struct ExtensionConfig {
    name: Arc<str>,
    server: Arc<ServerContext>,
    state: Mutex<State>,
    stats: DiscoveryStats,
    subscription_stats: SubscriptionStats,
    subscription: OnceLock<Subscription>,
}

#[derive(Default)]
struct State {
    accepted: Option<Accepted>,
    filters: Vec<Weak<DynamicFilter>>,
    /// Something came, or nothing will.
    answered: bool,
    /// Who waits for that.
    waiting: Vec<InitTarget>,
}

/// What is in force.
#[derive(Clone)]
struct Accepted {
    message: core::TypedExtensionConfig,
    version: Arc<str>,
    last_updated: SystemTime,
}

/// A place in a list of filters whose configuration comes by ECDS.
pub(super) struct DynamicFilter {
    place: Place,
    type_names: Box<[String]>,
    default: Option<Arc<dyn HttpFilterConfig>>,
    current: ArcSwapOption<Arc<dyn HttpFilterConfig>>,
    /// Another one with each configuration.
    version: AtomicU64,
    /// Keeps the subscription.
    _source: Arc<ExtensionConfig>,
}

/// What the configuration of a filter is converted for.
struct Place {
    /// What the filter is called.
    name: Box<str>,
    server: Arc<ServerContext>,
    scope: Scope,
    upstream: bool,
}

/// A [`DynamicFilter`] on one worker.
pub(super) struct WorkerDynamicFilter {
    filter: Arc<DynamicFilter>,
    worker: Rc<Worker>,
    seen: Cell<u64>,
    current: RefCell<Option<Rc<dyn WorkerHttpFilter>>>,
}

impl DynamicFilter {
    /// Converts `config_discovery` of the filter `name`. `upstream`: it stands in a list of upstream filters.
    pub(super) fn from_proto(
        name: &str,
        proto: core::ExtensionConfigSource,
        upstream: bool,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<Self>, Rejected> {
        let core::ExtensionConfigSource {
            config_source,
            default_config,
            apply_default_config_without_warming,
            type_urls,
        } = proto;
        let place = Place {
            name: name.into(),
            server: cx.server.clone(),
            scope: cx.scope.clone(),
            upstream,
        };
        let source = path
            .required("config_source", config_source)
            .and_then(|source| {
                XdsSource::from_proto(source, cx.server, &path.field("config_source"))
            });
        let type_names = path.each("type_urls", type_urls, |url, path| {
            let name = type_name(&url).to_owned();
            match place.factory(&name) {
                Some(_) => Ok(name),
                None => Err(path.reject(format!(
                    "no filter is configured by {name}; supported are {}",
                    place.supported().join(", ")
                ))),
            }
        });
        let type_names = match type_names {
            Ok(names) if names.is_empty() => {
                Err(path.field("type_urls").reject("must not be empty"))
            }
            other => other,
        };
        let default = path.optional("default_config", default_config, |any, path| {
            let config = TypedConfig::from_any(any, path)?;
            if let Ok(names) = &type_names {
                check_type(&config.type_name, names, path)?;
            }
            place.convert(&config, cx.init, path)
        });
        if apply_default_config_without_warming && matches!(default, Ok(None)) {
            return Err(path.field("apply_default_config_without_warming").reject(
                "needs default_config: there is nothing to apply before the first answer",
            ));
        }
        let (source, type_names, default) = (source?, type_names?, default?);
        let config = cx.server.extension_configs.config(name, source, cx.server);
        let filter = Arc::new(Self {
            place,
            type_names: type_names.into(),
            current: ArcSwapOption::new(default.clone().map(Arc::new)),
            default,
            version: AtomicU64::new(0),
            _source: config.clone(),
        });
        config.join(&filter);
        if !apply_default_config_without_warming {
            config.wait(cx.init);
        }
        Ok(filter)
    }

    /// What comes of a configuration at this place.
    fn convert(
        &self,
        config: &TypedConfig,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        check_type(&config.type_name, &self.type_names, path)?;
        let init = InitManager::new("FilterConfigSubscription");
        self.place.convert(config, &init, path)
    }

    fn publish(&self, config: Option<Arc<dyn HttpFilterConfig>>) {
        self.current.store(config.map(Arc::new));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// This worker's instance.
    pub(super) fn on_worker(self: &Arc<Self>, worker: &Rc<Worker>) -> WorkerDynamicFilter {
        let dynamic = WorkerDynamicFilter {
            filter: self.clone(),
            worker: worker.clone(),
            seen: Cell::new(0),
            current: RefCell::new(None),
        };
        dynamic.refresh();
        dynamic
    }
}

impl Place {
    fn factories(&self) -> impl Iterator<Item = &'static &'static dyn HttpFilterFactory> {
        let upstream = self.upstream;
        let mut all = FACTORIES.iter();
        std::iter::from_fn(move || all.find(|factory| !upstream || factory.supports_upstream()))
    }

    fn factory(&self, type_name: &str) -> Option<&'static dyn HttpFilterFactory> {
        let mut all = self.factories();
        all.find(|factory| factory.type_names().contains(&type_name))
            .copied()
    }

    fn supported(&self) -> Vec<&'static str> {
        let names = self.factories().flat_map(|factory| factory.type_names());
        names.copied().collect()
    }

    fn convert(
        &self,
        config: &TypedConfig,
        init: &InitManager,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let Some(factory) = self.factory(&config.type_name) else {
            return Err(config.unknown(path, &self.supported()));
        };
        let cx = FactoryContext {
            server: &self.server,
            scope: &self.scope,
            init,
        };
        factory.named_from_proto(&self.name, config, &cx, path)
    }
}

fn check_type(found: &str, expected: &[String], path: &ConfigPath<'_>) -> Result<(), Rejected> {
    if expected.iter().any(|name| name == found) {
        return Ok(());
    }
    Err(path.reject(format!(
        "Error: filter config has type URL {found} but expect {}.",
        expected.join(", ")
    )))
}

impl WorkerDynamicFilter {
    /// The filter for a new stream.
    pub(super) fn new_stream(&self) -> Box<dyn HttpFilter> {
        if self.filter.version.load(Ordering::Relaxed) != self.seen.get() {
            self.refresh();
        }
        match &*self.current.borrow() {
            Some(filter) => filter.new_stream(),
            None => Box::new(MissingConfig),
        }
    }

    #[cold]
    fn refresh(&self) {
        self.seen.set(self.filter.version.load(Ordering::Acquire));
        let config = self.filter.current.load_full();
        let on_worker = config.map(|config| Rc::from((*config).clone().on_worker(&self.worker)));
        self.current.replace(on_worker);
    }
}

/// Stands for a filter that has no configuration.
struct MissingConfig;

impl HttpFilter for MissingConfig {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        _head: &mut RequestHead,
        _end: EndStream,
    ) -> HeadersStatus {
        cx.info
            .response_flags
            .set(ResponseFlag::NoFilterConfigFound);
        HeadersStatus::LocalReply(LocalReply::new(500, ""))
    }
}

impl ExtensionConfigs {
    fn config(
        &self,
        name: &str,
        source: XdsSource,
        server: &Arc<ServerContext>,
    ) -> Arc<ExtensionConfig> {
        let mut known = self.known.lock();
        known.retain(|(_, config)| config.strong_count() > 0);
        let found = known.iter().find_map(|(of, config)| {
            let config = config.upgrade()?;
            (*of == source && *config.name == *name).then_some(config)
        });
        found.unwrap_or_else(|| {
            let config = ExtensionConfig::new(name, source.clone(), server);
            known.push((source, Arc::downgrade(&config)));
            config
        })
    }

    /// All that are in force, for `/config_dump`. None: no filter waits for any.
    pub fn dump(&self) -> Option<EcdsConfigDump> {
        let all: Vec<_> = {
            let known = self.known.lock();
            known.iter().filter_map(|(_, c)| c.upgrade()).collect()
        };
        if all.is_empty() {
            return None;
        }
        let accepted = all.iter().filter_map(|c| c.state.lock().accepted.clone());
        let filter = |accepted: Accepted| EcdsFilterConfig {
            version_info: accepted.version.to_string(),
            ecds_filter: Some(pack(&accepted.message)),
            last_updated: Some(timestamp(accepted.last_updated)),
            ..Default::default()
        };
        Some(EcdsConfigDump {
            ecds_filters: accepted.map(filter).collect(),
        })
    }
}

impl ExtensionConfig {
    fn new(name: &str, source: XdsSource, server: &Arc<ServerContext>) -> Arc<Self> {
        let prefix = format!("extension_config_discovery.http_filter.{name}.");
        let scope = server.stats.scope(&prefix);
        let config = Arc::new(Self {
            name: name.into(),
            server: server.clone(),
            state: Mutex::default(),
            stats: DiscoveryStats::new(&scope),
            subscription_stats: SubscriptionStats::new(&scope, &source),
            subscription: OnceLock::new(),
        });
        let watcher = Arc::downgrade(&config);
        let watcher: Weak<dyn Watcher + Send + Sync> = watcher;
        let kind = ResourceKind::ExtensionConfig;
        let interest = Interest::name(name);
        let subscription = server.xds.subscribe(source, kind, interest, watcher);
        // Nobody else has the configuration yet.
        let _ = config.subscription.set(subscription);
        config
    }

    /// Gives a filter what is in force, if it can take it, and from now on what comes.
    fn join(&self, filter: &Arc<DynamicFilter>) {
        let accepted = {
            let mut state = self.state.lock();
            state.filters.retain(|known| known.strong_count() > 0);
            state.filters.push(Arc::downgrade(filter));
            state.accepted.clone()
        };
        let Some(accepted) = accepted else { return };
        let report = ConfigReport::of_resource(&self.server);
        let path = ConfigPath::root(&report, "extension configuration");
        let config = accepted.message.typed_config.unwrap_or_default();
        let config = TypedConfig::from_any(config, &path);
        match config.and_then(|config| filter.convert(&config, &path)) {
            Ok(config) => filter.publish(Some(config)),
            // The next one may fit again.
            Err(_) => self.stats.config_conflict().inc(),
        }
    }

    fn wait(&self, init: &InitManager) {
        let mut state = self.state.lock();
        if !state.answered {
            let target = init.target(format!("FilterConfigSubscription init {}", self.name));
            state.waiting.push(target);
        }
    }

    fn answered(&self) {
        let waiting = {
            let mut state = self.state.lock();
            state.answered = true;
            std::mem::take(&mut state.waiting)
        };
        drop(waiting);
    }

    fn filters(&self) -> Vec<Arc<DynamicFilter>> {
        let state = self.state.lock();
        state.filters.iter().filter_map(Weak::upgrade).collect()
    }

    fn apply(&self, resource: &Resource) -> Result<(), Refused> {
        let report = ConfigReport::of_resource(&self.server);
        let title = format!("extension configuration \"{}\"", self.name);
        let path = ConfigPath::root(&report, &title);
        self.replace(resource, &path).map_err(|_| Refused {
            name: resource.name.clone(),
            reason: report.text(),
        })
    }

    fn replace(&self, resource: &Resource, path: &ConfigPath<'_>) -> Result<(), Rejected> {
        let message: core::TypedExtensionConfig = resource.decode(path)?;
        if *message.name != *self.name {
            return Err(path.field("name").reject(format!(
                "Unexpected resource name in ExtensionConfigDS response: {}",
                message.name
            )));
        }
        let known = self.state.lock().accepted.clone();
        if known.is_some_and(|known| known.message == message) {
            return Ok(());
        }
        let config = path.required("typed_config", message.typed_config.clone())?;
        let config = TypedConfig::from_any(config, &path.field("typed_config"))?;
        // All filters can take it, or none gets it.
        let filters = self.filters();
        let converted = filters.iter().map(|filter| filter.convert(&config, path));
        let converted: Result<Vec<_>, _> = converted.collect();
        for (filter, config) in filters.iter().zip(converted?) {
            filter.publish(Some(config));
        }
        info!(name = &*self.name, "A filter configuration is in use.");
        self.state.lock().accepted = Some(Accepted {
            message,
            version: resource.version.clone(),
            last_updated: SystemTime::now(),
        });
        self.stats.config_reload().inc();
        Ok(())
    }

    /// It exists no more: filters go back to their defaults.
    fn withdraw(&self) {
        self.state.lock().accepted = None;
        for filter in self.filters() {
            filter.publish(filter.default.clone());
        }
        self.stats.config_reload().inc();
    }
}

impl Watcher for ExtensionConfig {
    fn on_update(&self, update: &Update<'_>) -> Result<(), Vec<Refused>> {
        let take = || self.take(update);
        self.subscription_stats.count(update.version, take)
    }

    fn scope(&self) -> Option<Scope> {
        let prefix = format!("extension_config_discovery.http_filter.{}.", self.name);
        Some(self.server.stats.scope(&prefix))
    }

    fn on_fetch_failed(&self, why: FetchFailure) {
        self.subscription_stats.failed(why);
        self.stats.config_fail().inc();
        if why == FetchFailure::Timeout {
            self.answered();
        }
    }
}

impl ExtensionConfig {
    fn take(&self, update: &Update<'_>) -> Result<(), Vec<Refused>> {
        let result = match update.sent {
            [resource] => self.apply(resource),
            [] if !update.removed.is_empty() => {
                self.withdraw();
                return Ok(());
            }
            many => Err(Refused {
                name: self.name.clone(),
                reason: format!(
                    "Unexpected number of resources in ExtensionConfigDS response: {}",
                    many.len()
                ),
            }),
        };
        self.answered();
        result.map_err(|refused| {
            self.stats.config_fail().inc();
            vec![refused]
        })
    }
}

impl fmt::Debug for ExtensionConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExtensionConfig").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests;
