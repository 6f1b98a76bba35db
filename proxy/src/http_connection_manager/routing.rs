//! What the streams of a connection manager are routed by, on one worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::config::{HcmConfig, HcmRoutes};
use crate::http::RequestHead;
use crate::http_filters::chain_config::WorkerChain;
use crate::route::RouteTable;
use crate::route::provider::{RouteProvider, Routes, ScopeProvider, ScopeSource};
use crate::route::scoped::ScopedRoutes;
use crate::server::Worker;

/// A route table with the filters mapped onto its numbers. A stream keeps the one that it began with.
pub(super) struct Routing {
    pub(super) table: Rc<Arc<RouteTable>>,
    pub(super) chain: WorkerChain,
    /// Of those upgrades that have filters of their own.
    pub(super) upgrade_chains: Vec<Option<WorkerChain>>,
}

/// The tables for new streams; a new one of a management server is taken when a stream finds that there is one.
pub(super) struct WorkerRoutes {
    /// The only one. With scopes: the one for requests that belong to none, without routes.
    one: WorkerTable,
    scopes: Option<WorkerScopes>,
}

/// A table that may change.
struct WorkerTable {
    current: RefCell<Rc<Routing>>,
    /// None: it does not change.
    provider: Option<Arc<RouteProvider>>,
    seen: Cell<u64>,
}

/// Tables by scope.
struct WorkerScopes {
    config: Arc<HcmConfig>,
    tables: RefCell<ScopedRoutes<ScopeTable>>,
    /// None: the scopes do not change.
    provider: Option<Arc<ScopeProvider>>,
    seen: Cell<u64>,
}

#[derive(Clone)]
struct ScopeTable {
    routes: Routes,
    table: Rc<WorkerTable>,
}

impl WorkerRoutes {
    /// The routes of a connection manager on a worker.
    pub(super) fn new(config: &Arc<HcmConfig>, worker: &Rc<Worker>) -> Self {
        let empty = || (0, Arc::new(RouteTable::empty("")));
        let (version, table) = match &config.routes {
            HcmRoutes::One(routes) => routes.take(),
            HcmRoutes::Scoped(_) => empty(),
        };
        let of_upgrades = config.upgrades.iter().map(|upgrade| {
            let chain = upgrade.filters.as_ref()?;
            Some(chain.on_worker(worker, Some(&table)))
        });
        let routing = Routing {
            chain: config.filters.on_worker(worker, Some(&table)),
            upgrade_chains: of_upgrades.collect(),
            table: Rc::new(table),
        };
        let one = WorkerTable {
            current: RefCell::new(Rc::new(routing)),
            seen: Cell::new(version),
            provider: match &config.routes {
                HcmRoutes::One(Routes::Dynamic(provider)) => Some(provider.clone()),
                _ => None,
            },
        };
        let scopes = match &config.routes {
            HcmRoutes::One(_) => None,
            HcmRoutes::Scoped(scopes) => {
                let (provider, (version, tables)) = match &scopes.routes {
                    ScopeSource::Fixed(fixed) => (None, (0, fixed.scopes.clone())),
                    ScopeSource::Dynamic(provider) => (Some(provider.clone()), provider.take()),
                };
                Some(WorkerScopes {
                    config: config.clone(),
                    tables: RefCell::new(one.for_scopes(&tables, &ScopedRoutes::new([]))),
                    provider,
                    seen: Cell::new(version),
                })
            }
        };
        Self { one, scopes }
    }

    /// For a new stream.
    #[inline]
    pub(super) fn current(&self) -> Rc<Routing> {
        self.one.current()
    }

    /// For a new stream, where its head decides; none: it does not.
    #[inline]
    pub(super) fn by_head(&self, head: &RequestHead) -> Option<Rc<Routing>> {
        let scopes = self.scopes.as_ref()?;
        Some(self.of_scope(scopes, head))
    }

    /// Where the table comes from; none: it does not change, or scopes choose it, under which nobody is asked for virtual hosts.
    pub(super) fn provider(&self) -> Option<Arc<RouteProvider>> {
        match &self.scopes {
            Some(_) => None,
            None => self.one.provider.clone(),
        }
    }

    fn of_scope(&self, scopes: &WorkerScopes, head: &RequestHead) -> Rc<Routing> {
        if let Some(provider) = &scopes.provider
            && provider.version() != scopes.seen.get()
        {
            let (version, new) = provider.take();
            scopes.seen.set(version);
            let new = self.one.for_scopes(&new, &scopes.tables.borrow());
            scopes.tables.replace(new);
        }
        let HcmRoutes::Scoped(config) = &scopes.config.routes else {
            return self.one.current();
        };
        let tables = scopes.tables.borrow();
        let found = tables.find(&config.builder, head);
        found.map_or_else(|| self.one.current(), |scope| scope.table.current())
    }
}

impl WorkerTable {
    #[inline]
    fn current(&self) -> Rc<Routing> {
        if let Some(provider) = &self.provider
            && provider.version() != self.seen.get()
        {
            self.refresh(provider);
        }
        self.current.borrow().clone()
    }

    #[cold]
    fn refresh(&self, provider: &RouteProvider) {
        let (version, table) = provider.take();
        self.seen.set(version);
        let new = self.current.borrow().for_table(table);
        self.current.replace(Rc::new(new));
    }

    /// Tables for scopes, with the filters of this one. Those that `known` has stay what they are.
    fn for_scopes(
        &self,
        scopes: &ScopedRoutes<Routes>,
        known: &ScopedRoutes<ScopeTable>,
    ) -> ScopedRoutes<ScopeTable> {
        scopes.map(|key, routes| {
            let same = known.get(key).filter(|known| known.routes.is_same(routes));
            same.cloned().unwrap_or_else(|| {
                let (version, table) = routes.take();
                let routing = self.current.borrow().for_table(table);
                let table = WorkerTable {
                    current: RefCell::new(Rc::new(routing)),
                    seen: Cell::new(version),
                    provider: match routes {
                        Routes::Fixed(_) => None,
                        Routes::Dynamic(provider) => Some(provider.clone()),
                    },
                };
                ScopeTable {
                    routes: routes.clone(),
                    table: Rc::new(table),
                }
            })
        })
    }
}

impl Routing {
    /// The same filters, for another table.
    fn for_table(&self, table: Arc<RouteTable>) -> Self {
        let of_upgrades = self.upgrade_chains.iter();
        let of_upgrades = of_upgrades.map(|chain| Some(chain.as_ref()?.for_table(Some(&table))));
        Self {
            upgrade_chains: of_upgrades.collect(),
            chain: self.chain.for_table(Some(&table)),
            table: Rc::new(table),
        }
    }
}
