//! Route configurations: which cluster, redirect or answer a request gets.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;

/// A route configuration, ready for look-ups. Immutable; a new one replaces it as a whole.
#[derive(Debug)]
pub struct RouteTable {}

/// One entry of a virtual host.
#[derive(Debug)]
pub struct Route {}

/// Where in a table a route stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteIndex {
    /// The virtual host.
    pub virtual_host: u32,
    /// The route in it.
    pub route: u32,
    /// The entry of `weighted_clusters` that was drawn.
    pub weighted_cluster: Option<u32>,
}

/// A route that a stream has chosen, with the table that it belongs to (of this worker: no shared count is touched).
#[derive(Debug, Clone)]
pub struct SelectedRoute {
    /// The table.
    pub table: Rc<Arc<RouteTable>>,
    /// The place in it.
    pub index: RouteIndex,
}

impl SelectedRoute {
    /// The route itself.
    pub fn route(&self) -> &Route {
        unreachable!("no table has routes yet: {:?}", self.index)
    }

    /// The merged configuration of the filter whose name has the number `slot` in this table.
    pub fn filter_config(&self, _slot: usize) -> Option<&(dyn Any + Send + Sync)> {
        None
    }
}
