//! All route configurations that are in use.

use std::sync::{Arc, Weak};
use std::time::SystemTime;

use outrigger_proto::any::pack;
use outrigger_proto::pb::envoy::admin::v3::routes_config_dump::{
    DynamicRouteConfig, StaticRouteConfig,
};
use outrigger_proto::pb::envoy::admin::v3::{RoutesConfigDump, ScopedRoutesConfigDump};
use outrigger_proto::pb::envoy::config::route::v3 as pb;
use outrigger_proto::pb::google::protobuf::Any;
use parking_lot::Mutex;

use super::{FixedScopes, RouteProvider, ScopeProvider};
use crate::config::timestamp;
use crate::route::RouteTable;
use crate::server::FactoryContext;
use crate::xds::XdsSource;

/// The route configurations of the process: finds those that are shared, and shows all.
#[derive(Debug, Default)]
pub struct RouteProviders {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    fixed: Vec<Weak<FixedRoutes>>,
    dynamic: Vec<(XdsSource, Weak<RouteProvider>)>,
    fixed_scopes: Vec<Weak<FixedScopes>>,
    dynamic_scopes: Vec<(XdsSource, Weak<ScopeProvider>)>,
}

/// A route configuration that stands in a connection manager.
#[derive(Debug)]
pub struct FixedRoutes {
    /// Ready for look-ups.
    pub table: Arc<RouteTable>,
    /// As it came, for `/config_dump`.
    pub config: Any,
    /// When it was taken.
    pub last_updated: SystemTime,
}

/// A route configuration as a source has sent it.
#[derive(Debug, Clone)]
pub struct DynamicRoutes {
    /// As it came.
    pub config: Arc<Any>,
    /// Its version.
    pub version: Arc<str>,
    /// When it was taken.
    pub last_updated: SystemTime,
}

impl FixedRoutes {
    /// A table that does not change, and what it was made of.
    pub(super) fn new(table: RouteTable, config: Any) -> Self {
        Self {
            table: Arc::new(table),
            config,
            last_updated: SystemTime::now(),
        }
    }
}

impl RouteProviders {
    /// Takes note of a configuration for as long as it is used.
    pub fn fixed(&self, table: RouteTable, proto: &pb::RouteConfiguration) -> Arc<FixedRoutes> {
        let routes = Arc::new(FixedRoutes::new(table, pack(proto)));
        let mut inner = self.inner.lock();
        inner.fixed.retain(|known| known.strong_count() > 0);
        inner.fixed.push(Arc::downgrade(&routes));
        routes
    }

    /// The configuration `name` of `source`. The owner of `cx` waits for its first answer.
    pub fn dynamic(
        &self,
        name: &str,
        source: XdsSource,
        cx: &FactoryContext<'_>,
    ) -> Arc<RouteProvider> {
        let mut inner = self.inner.lock();
        inner.dynamic.retain(|(_, known)| known.strong_count() > 0);
        let known = inner.dynamic.iter().find_map(|(of, provider)| {
            let provider = provider.upgrade()?;
            (*of == source && provider.name() == name).then_some(provider)
        });
        let provider = known.unwrap_or_else(|| {
            let provider = RouteProvider::new(name, source.clone(), cx);
            inner.dynamic.push((source, Arc::downgrade(&provider)));
            provider
        });
        drop(inner);
        provider.wait(cx.init);
        provider
    }

    /// Takes note of scopes that stand in a connection manager, for as long as they are used.
    pub(super) fn fixed_scopes(&self, scopes: FixedScopes) -> Arc<FixedScopes> {
        let scopes = Arc::new(scopes);
        let mut inner = self.inner.lock();
        inner.fixed_scopes.retain(|known| known.strong_count() > 0);
        inner.fixed_scopes.push(Arc::downgrade(&scopes));
        scopes
    }

    /// The scopes of `source`, whose routes come from `rds_source`. The owner of `cx` waits for all of them.
    pub(super) fn dynamic_scopes(
        &self,
        name: &str,
        source: XdsSource,
        rds_source: XdsSource,
        cx: &FactoryContext<'_>,
    ) -> Arc<ScopeProvider> {
        let mut inner = self.inner.lock();
        let all = &mut inner.dynamic_scopes;
        all.retain(|(_, known)| known.strong_count() > 0);
        let known = all.iter().find_map(|(of, provider)| {
            let provider = provider.upgrade()?;
            (*of == source && provider.is(name, &rds_source)).then_some(provider)
        });
        let provider = known.unwrap_or_else(|| {
            let provider = ScopeProvider::new(name, source.clone(), rds_source, cx);
            all.push((source, Arc::downgrade(&provider)));
            provider
        });
        drop(inner);
        provider.wait(cx.init);
        provider
    }

    /// All scopes in force, for `/config_dump`.
    pub fn dump_scopes(&self) -> ScopedRoutesConfigDump {
        let (fixed, dynamic) = {
            let inner = self.inner.lock();
            let fixed = inner.fixed_scopes.iter().filter_map(Weak::upgrade);
            let dynamic = inner.dynamic_scopes.iter();
            let dynamic = dynamic.filter_map(|(_, provider)| provider.upgrade());
            (fixed.collect::<Vec<_>>(), dynamic.collect::<Vec<_>>())
        };
        ScopedRoutesConfigDump {
            inline_scoped_route_configs: fixed.iter().map(|scopes| scopes.dump()).collect(),
            dynamic_scoped_route_configs: dynamic.iter().filter_map(|p| p.dump()).collect(),
        }
    }

    /// All that are in force, for `/config_dump`. Those of a source that have not come yet are left out.
    pub fn dump(&self) -> RoutesConfigDump {
        let (fixed, dynamic) = {
            let inner = self.inner.lock();
            let fixed = inner.fixed.iter().filter_map(Weak::upgrade);
            let dynamic = inner.dynamic.iter().filter_map(|(_, p)| p.upgrade());
            (fixed.collect::<Vec<_>>(), dynamic.collect::<Vec<_>>())
        };
        let of_fixed = |routes: &Arc<FixedRoutes>| StaticRouteConfig {
            route_config: Some(routes.config.clone()),
            last_updated: Some(timestamp(routes.last_updated)),
        };
        let of_dynamic = |provider: &Arc<RouteProvider>| {
            let accepted = provider.accepted()?;
            Some(DynamicRouteConfig {
                version_info: accepted.version.to_string(),
                route_config: Some((*accepted.config).clone()),
                last_updated: Some(timestamp(accepted.last_updated)),
                ..Default::default()
            })
        };
        RoutesConfigDump {
            static_route_configs: fixed.iter().map(of_fixed).collect(),
            dynamic_route_configs: dynamic.iter().filter_map(of_dynamic).collect(),
        }
    }
}
