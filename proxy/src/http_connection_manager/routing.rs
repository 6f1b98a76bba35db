//! What the streams of a connection manager are routed by, on one worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::config::HcmConfig;
use crate::http::RequestHead;
use crate::http_filters::chain_config::WorkerChain;
use crate::route::RouteTable;
use crate::route::provider::{RouteProvider, Routes, ScopedRouteConfigs};
use crate::route::scoped::ScopedRoutes;
use crate::server::Worker;

/// A route table with the filters mapped onto its numbers. A stream keeps the one that it began with.
pub(super) struct Routing {
    pub(super) table: Rc<Arc<RouteTable>>,
    pub(super) chain: WorkerChain,
    /// Of those upgrades that have filters of their own.
    pub(super) upgrade_chains: Vec<Option<WorkerChain>>,
}

/// What new streams are routed by: with scopes, as their heads say.
pub(super) struct WorkerRoutes {
    /// The only table, or with scopes that of requests which belong to none.
    main: WorkerTable,
    scopes: Option<Scopes>,
}

struct Scopes {
    config: Arc<ScopedRouteConfigs>,
    tables: ScopedRoutes<WorkerTable>,
}

/// The table for new streams; a new one of a management server is taken when a stream finds that there is one.
struct WorkerTable {
    current: RefCell<Rc<Routing>>,
    dynamic: Option<Followed>,
}

/// Routes that change.
struct Followed {
    provider: Arc<RouteProvider>,
    seen: Cell<u64>,
}

impl WorkerRoutes {
    /// The routes of a connection manager on a worker.
    pub(super) fn new(config: &HcmConfig, worker: &Rc<Worker>) -> Self {
        let (dynamic, table) = table_of(&config.routes);
        let of_upgrades = config.upgrades.iter().map(|upgrade| {
            let chain = upgrade.filters.as_ref()?;
            Some(chain.on_worker(worker, Some(&table)))
        });
        let routing = Routing {
            chain: config.filters.on_worker(worker, Some(&table)),
            upgrade_chains: of_upgrades.collect(),
            table: Rc::new(table),
        };
        let scopes = match &config.routes {
            Routes::Scoped(config) => Some(Scopes {
                tables: ScopedRoutes::new(config.scopes.iter().map(|(key, routes)| {
                    let (dynamic, table) = table_of(routes);
                    let routing = RefCell::new(Rc::new(routing.for_table(table)));
                    let current = routing;
                    (key.clone(), WorkerTable { current, dynamic })
                })),
                config: config.clone(),
            }),
            Routes::Fixed(_) | Routes::Dynamic(_) => None,
        };
        Self {
            main: WorkerTable {
                current: RefCell::new(Rc::new(routing)),
                dynamic,
            },
            scopes,
        }
    }

    /// For a new stream.
    #[inline]
    pub(super) fn current(&self, head: &RequestHead) -> Rc<Routing> {
        self.scoped(head).unwrap_or_else(|| self.main.current())
    }

    /// What a request is routed by as its head is now; none: there are no scopes, and it keeps what it has.
    #[inline]
    pub(super) fn scoped(&self, head: &RequestHead) -> Option<Rc<Routing>> {
        let scopes = self.scopes.as_ref()?;
        let table = scopes.tables.find(&scopes.config.builder, head);
        Some(table.unwrap_or(&self.main).current())
    }
}

/// The table of now, and what to follow if it changes.
fn table_of(routes: &Routes) -> (Option<Followed>, Arc<RouteTable>) {
    match routes {
        Routes::Fixed(_) | Routes::Scoped(_) => (None, routes.table()),
        Routes::Dynamic(provider) => {
            let (version, table) = provider.take();
            let followed = Followed {
                provider: provider.clone(),
                seen: Cell::new(version),
            };
            (Some(followed), table)
        }
    }
}

impl WorkerTable {
    #[inline]
    fn current(&self) -> Rc<Routing> {
        if let Some(followed) = &self.dynamic
            && followed.provider.version() != followed.seen.get()
        {
            self.refresh(followed);
        }
        self.current.borrow().clone()
    }

    #[cold]
    fn refresh(&self, followed: &Followed) {
        let (version, table) = followed.provider.take();
        followed.seen.set(version);
        let mut current = self.current.borrow_mut();
        let routing = current.for_table(table);
        *current = Rc::new(routing);
    }
}

impl Routing {
    /// The same filters for another table.
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
