//! VHDS: virtual hosts of a route configuration that come one by one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};

use outrigger_proto::pb::envoy::config::route::v3 as pb;
use tracing::debug;

use super::RouteProvider;
use crate::config::{ConfigPath, ConfigReport, Rejected};
use crate::server::ServerContext;
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
}

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

impl Watcher for Watch {
    fn on_update(&self, update: &Update<'_>) -> Result<(), Vec<Refused>> {
        let Some(provider) = self.provider.upgrade() else {
            return Ok(());
        };
        let apply = || self.apply(&provider, update);
        let result = self.subscription_stats.count(update.version, apply);
        self.on_answer(&provider);
        result
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
