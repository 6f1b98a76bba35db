//! Where connection managers get their route tables: fixed ones, and those of management servers (RDS).
//!
//! All connection managers that name the same route configuration of the same source share one [`RouteProvider`]. Main converts
//! what comes and publishes it as a whole; a worker looks at one number for each new stream and takes a new table once.
//! What was withdrawn stays in use, as in Envoy.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/rds>
//! Stats: `http.<stat_prefix>.rds.<route_config_name>.*`, `http.<stat_prefix>.vhds.<route_config_name>.*`, of the connection
//! manager that asked first.
//! Deviations: virtual hosts of VHDS are not asked for on demand: all of a route configuration are there before they are used.

mod dynamic;
mod registry;
#[cfg(test)]
mod tests;
mod vhds;

use std::sync::Arc;

pub use dynamic::RouteProvider;
pub use registry::{DynamicRoutes, FixedRoutes, RouteProviders};

use super::RouteTable;
use super::scoped::{ScopeKey, ScopeKeyBuilder};
use crate::config::{ConfigPath, Rejected};
use crate::server::ServerContext;

/// What the streams of a connection manager are routed by.
#[derive(Debug, Clone)]
pub enum Routes {
    /// `route_config`.
    Fixed(Arc<FixedRoutes>),
    /// `rds`.
    Dynamic(Arc<RouteProvider>),
    /// `scoped_routes`.
    Scoped(Arc<ScopedRouteConfigs>),
}

/// Several route configurations, of which headers of a request choose one.
#[derive(Debug)]
pub struct ScopedRouteConfigs {
    /// What a request says of its scope.
    pub builder: ScopeKeyBuilder,
    /// What the streams of each scope are routed by. Their tables have the same numbers for filters.
    pub scopes: Vec<(ScopeKey, Routes)>,
    /// Without routes: for requests that belong to no scope.
    pub none: Arc<RouteTable>,
}

impl Routes {
    /// The table of now; with scopes that of none of them.
    pub fn table(&self) -> Arc<RouteTable> {
        match self {
            Self::Fixed(fixed) => fixed.table.clone(),
            Self::Dynamic(provider) => provider.table(),
            Self::Scoped(scoped) => scoped.none.clone(),
        }
    }
}

/// Refuses a table that names clusters which do not exist, where `validate_clusters`, or else `by_default`, says so.
pub fn check_clusters(
    table: &RouteTable,
    by_default: bool,
    server: &ServerContext,
    path: &ConfigPath<'_>,
) -> Result<(), Rejected> {
    if !table.validate_clusters().unwrap_or(by_default) {
        return Ok(());
    }
    let mut missing = Ok(());
    for (host, _, id) in table.clusters() {
        if server.cluster_names.is_missing(id) {
            let name = server.cluster_names.name(id).unwrap_or_default();
            missing = Err(path.key("virtual_hosts", &host.name).reject(format!(
                "a route names the cluster \"{name}\", which does not exist; validate_clusters: false allows it"
            )));
        }
    }
    missing
}
