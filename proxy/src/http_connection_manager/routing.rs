//! What the streams of a connection manager are routed by, on one worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::config::HcmConfig;
use crate::http_filters::chain_config::WorkerChain;
use crate::route::RouteTable;
use crate::route::provider::{RouteProvider, Routes};
use crate::server::Worker;

/// A route table with the filters mapped onto its numbers. A stream keeps the one that it began with.
pub(super) struct Routing {
    pub(super) table: Rc<Arc<RouteTable>>,
    pub(super) chain: WorkerChain,
    /// Of those upgrades that have filters of their own.
    pub(super) upgrade_chains: Vec<Option<WorkerChain>>,
}

/// The table for new streams; a new one of a management server is taken when a stream finds that there is one.
pub(super) struct WorkerRoutes {
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
        let (dynamic, table) = match &config.routes {
            Routes::Fixed(fixed) => (None, fixed.table.clone()),
            Routes::Dynamic(provider) => {
                let (version, table) = provider.take();
                let followed = Followed {
                    provider: provider.clone(),
                    seen: Cell::new(version),
                };
                (Some(followed), table)
            }
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
        Self {
            current: RefCell::new(Rc::new(routing)),
            dynamic,
        }
    }

    /// For a new stream.
    #[inline]
    pub(super) fn current(&self) -> Rc<Routing> {
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
        let of_upgrades = current.upgrade_chains.iter();
        let of_upgrades = of_upgrades.map(|chain| Some(chain.as_ref()?.for_table(Some(&table))));
        let routing = Routing {
            upgrade_chains: of_upgrades.collect(),
            chain: current.chain.for_table(Some(&table)),
            table: Rc::new(table),
        };
        *current = Rc::new(routing);
    }
}
