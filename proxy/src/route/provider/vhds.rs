//! VHDS: virtual hosts of a route configuration that come one by one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};

use outrigger_proto::pb::envoy::config::route::v3 as pb;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::debug;

use super::RouteProvider;
use crate::config::{ConfigPath, ConfigReport, Rejected};
use crate::server::ServerContext;
use crate::stats::Scope;
use crate::stats_group;
use crate::xds::{
    FetchFailure, Interest, Refused, Resource, ResourceKind, Subscription, SubscriptionStats,
    Update, Watcher, XdsSource,
};

stats_group! {
    /// `http.<stat_prefix>.vhds.<route_config_name>.`
    pub(super) struct VhdsStats {
        counter config_reload;
        counter update_empty;
    }
}

/// A route configuration with the virtual hosts that VHDS has sent for it.
#[derive(Clone)]
pub(super) struct VirtualHosts {
    watch: Arc<Watch>,
    /// What RDS has sent, without `vhds`.
    base: Arc<pb::RouteConfiguration>,
    /// By the names of their resources.
    hosts: BTreeMap<Arc<str>, Arc<pb::VirtualHost>>,
}

/// The subscription of one route configuration.
struct Watch {
    provider: Weak<RouteProvider>,
    source: XdsSource,
    /// What the names of its virtual hosts begin with. The source may send those of others, too.
    prefix: String,
    stats: VhdsStats,
    subscription_stats: SubscriptionStats,
    answered: AtomicBool,
    subscription: OnceLock<Subscription>,
    demand: Mutex<Demand>,
}

/// Virtual hosts that requests have asked for, by the names of their resources.
#[derive(Default)]
struct Demand {
    /// What is subscribed to beside the wildcard: asked for, or there.
    names: BTreeSet<Arc<str>>,
    /// Who waits for an answer. Dropped when it has come.
    waiting: HashMap<Arc<str>, Vec<oneshot::Sender<()>>>,
}

/// So many names may be asked for at a time; requests choose them. For others nobody waits.
const NAMES: usize = 1024;

impl VirtualHosts {
    /// Converts `vhds`.
    pub(super) fn source(
        proto: pb::Vhds,
        server: &Arc<ServerContext>,
        path: &ConfigPath<'_>,
    ) -> Result<XdsSource, Rejected> {
        let pb::Vhds { config_source } = proto;
        let source = path.required("config_source", config_source)?;
        XdsSource::from_proto(source, server, &path.field("config_source"))
    }

    /// Asks for the virtual hosts of a route configuration.
    pub(super) fn new(
        provider: &Arc<RouteProvider>,
        source: XdsSource,
        base: pb::RouteConfiguration,
    ) -> Self {
        let name = provider.name();
        let scope = provider.scope().scope(&format!("vhds.{name}."));
        let watch = Arc::new(Watch {
            provider: Arc::downgrade(provider),
            source: source.clone(),
            prefix: format!("{name}/"),
            stats: VhdsStats::new(&scope),
            subscription_stats: SubscriptionStats::new(&scope, &source),
            answered: AtomicBool::new(false),
            subscription: OnceLock::new(),
            demand: Mutex::default(),
        });
        let watcher = Arc::downgrade(&watch);
        let watcher: Weak<dyn Watcher + Send + Sync> = watcher;
        let kind = ResourceKind::VirtualHost;
        let xds = &provider.server().xds;
        let subscription = xds.subscribe(source, kind, Interest::Wildcard, watcher);
        // Nobody else has the watch yet.
        let _ = watch.subscription.set(subscription);
        Self {
            watch,
            base: Arc::new(base),
            hosts: BTreeMap::new(),
        }
    }

    /// Asks for the one that serves a host. None: too many are asked for already.
    pub(super) fn find(&self, host: &str) -> Option<impl Future<Output = ()> + use<>> {
        let found = self.watch.ask(host)?;
        Some(async move {
            // It ends by being dropped.
            let _ = found.await;
        })
    }

    /// Whether they come from this source.
    pub(super) fn is_of(&self, source: &XdsSource) -> bool {
        self.watch.source == *source
    }

    /// Whether the source has said anything.
    pub(super) fn answered(&self) -> bool {
        self.watch.answered.load(Relaxed)
    }

    /// The same for another route configuration.
    #[must_use]
    pub(super) fn with_base(self, base: pb::RouteConfiguration) -> Self {
        Self {
            base: Arc::new(base),
            ..self
        }
    }

    /// A route configuration with the virtual hosts behind its own.
    pub(super) fn add_to(&self, base: &pb::RouteConfiguration) -> pb::RouteConfiguration {
        let mut all = base.clone();
        let hosts = self.hosts.values().map(|host| (**host).clone());
        all.virtual_hosts.extend(hosts);
        all
    }

    /// The route configuration as a whole.
    pub(super) fn merged(&self) -> pb::RouteConfiguration {
        self.add_to(&self.base)
    }

    /// Takes one virtual host. False: it has it already.
    fn insert(&mut self, name: &Arc<str>, host: Arc<pb::VirtualHost>) -> bool {
        let known = self.hosts.get(name);
        let changed = known.is_none_or(|known| *known != host);
        if changed {
            self.hosts.insert(name.clone(), host);
        }
        changed
    }
}

impl Watch {
    /// A channel that is closed when a host is there, or when there is no hope for it.
    fn ask(&self, host: &str) -> Option<oneshot::Receiver<()>> {
        let name: Arc<str> = format!("{}{host}", self.prefix).into();
        let (done, found) = oneshot::channel();
        let mut demand = self.demand.lock();
        if let Some(waiting) = demand.waiting.get_mut(&name) {
            waiting.retain(|known| !known.is_closed());
            // As many as there are requests.
            waiting.push(done);
            return Some(found);
        }
        if demand.names.contains(&name) {
            // It has come since the request looked for it.
            return Some(found);
        }
        if demand.waiting.len() >= NAMES {
            demand.forget();
            if demand.waiting.len() >= NAMES {
                return None;
            }
        }
        demand.names.insert(name.clone());
        demand.waiting.insert(name, vec![done]);
        self.subscribe(&demand);
        Some(found)
    }

    fn subscribe(&self, demand: &Demand) {
        if let Some(subscription) = self.subscription.get() {
            let names = demand.names.iter().cloned().collect();
            subscription.set_interest(Interest::WildcardAnd(names));
        }
    }

    /// Tells who waits that an answer has come. What does not exist is asked for again by the next request.
    fn answer(&self, update: &Update<'_>) {
        let mut demand = self.demand.lock();
        let before = demand.names.len();
        for resource in update.sent {
            let aliases = resource.aliases.iter().map(|alias| &**alias);
            for name in aliases.chain([&*resource.name]) {
                demand.waiting.remove(name);
                if resource.body.is_none() {
                    demand.names.remove(name);
                }
            }
        }
        for name in update.removed {
            demand.waiting.remove(name);
            demand.names.remove(name);
        }
        if demand.names.len() != before {
            self.subscribe(&demand);
        }
    }

    fn apply(&self, provider: &RouteProvider, update: &Update<'_>) -> Result<(), Vec<Refused>> {
        let Some(known) = provider.virtual_hosts() else {
            return Ok(());
        };
        let mut refused = Vec::new();
        let mut sent = Vec::new();
        for resource in update.sent {
            match self.host(provider, resource) {
                Ok(Some(host)) => sent.push((resource.name.clone(), host)),
                Ok(None) => {}
                Err(error) => refused.push(error),
            }
        }
        let mut hosts = known.clone();
        let removed = update.removed.iter();
        let removed = removed.filter(|name| hosts.hosts.remove(*name).is_some());
        let mut changed = removed.count() > 0;
        let without = hosts.clone();
        for (name, host) in &sent {
            changed |= hosts.insert(name, host.clone());
        }
        if changed && let Err(reason) = self.set(provider, hosts) {
            // One that does not go with the others is not to hold them back.
            debug!(%reason, "Virtual hosts are taken one by one.");
            if without.hosts.len() != known.hosts.len() {
                // What was fine stays fine with less.
                let _ = self.set(provider, without);
            }
            for (name, host) in sent {
                let Some(mut hosts) = provider.virtual_hosts() else {
                    break;
                };
                if hosts.insert(&name, host)
                    && let Err(reason) = self.set(provider, hosts)
                {
                    refused.push(Refused { name, reason });
                }
            }
        }
        match refused.is_empty() {
            true => Ok(()),
            false => Err(refused),
        }
    }

    /// The virtual host of a resource; none: it is not one of this route configuration, or does not exist.
    fn host(
        &self,
        provider: &RouteProvider,
        resource: &Resource,
    ) -> Result<Option<Arc<pb::VirtualHost>>, Refused> {
        if !resource.name.starts_with(&*self.prefix) || resource.body.is_none() {
            return Ok(None);
        }
        let report = ConfigReport::of_resource(provider.server());
        let title = format!("virtual host \"{}\"", resource.name);
        let path = ConfigPath::root(&report, &title);
        let host = resource.decode(&path).map_err(|_| Refused {
            name: resource.name.clone(),
            reason: report.text(),
        })?;
        Ok(Some(Arc::new(host)))
    }

    fn set(&self, provider: &RouteProvider, hosts: VirtualHosts) -> Result<(), String> {
        let report = ConfigReport::of_resource(provider.server());
        let title = format!("route configuration \"{}\"", provider.name());
        let path = ConfigPath::root(&report, &title);
        let set = provider.set_virtual_hosts(hosts, &path);
        set.map_err(|_| report.text())?;
        self.stats.config_reload().inc();
        Ok(())
    }

    fn on_answer(&self, provider: &RouteProvider) {
        self.answered.store(true, Relaxed);
        provider.answered();
    }
}

impl Demand {
    /// Gives up what nobody waits for any more.
    fn forget(&mut self) {
        let Self { names, waiting } = self;
        waiting.retain(|name, waiting| {
            waiting.retain(|known| !known.is_closed());
            if waiting.is_empty() {
                names.remove(name);
            }
            !waiting.is_empty()
        });
    }
}

impl Watcher for Watch {
    fn on_update(&self, update: &Update<'_>) -> Result<(), Vec<Refused>> {
        let Some(provider) = self.provider.upgrade() else {
            return Ok(());
        };
        let apply = || self.apply(&provider, update);
        let result = self.subscription_stats.count(update.version, apply);
        self.answer(update);
        self.on_answer(&provider);
        result
    }

    fn stats_scope(&self) -> Option<Scope> {
        let provider = self.provider.upgrade()?;
        let name = provider.name();
        Some(provider.scope().scope(&format!("vhds.{name}.")))
    }

    fn on_fetch_failed(&self, why: FetchFailure) {
        self.subscription_stats.failed(why);
        if why == FetchFailure::Timeout
            && let Some(provider) = self.provider.upgrade()
        {
            self.on_answer(&provider);
        }
    }
}
