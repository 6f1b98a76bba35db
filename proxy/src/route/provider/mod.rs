//! Where connection managers get their route tables: fixed ones, and those of management servers (RDS).
//!
//! All connection managers that name the same route configuration of the same source share one [`RouteProvider`]. Main converts
//! what comes and publishes it as a whole; a worker looks at one number for each new stream and takes a new table once.
//! What was withdrawn stays in use, as in Envoy.
//!
//! Scopes work alike: [`Scopes`].
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/rds>
//! Stats: `http.<stat_prefix>.rds.<route_config_name>.*`, `http.<stat_prefix>.vhds.<route_config_name>.*`,
//! `http.<stat_prefix>.scoped_rds.<name>.*`, of the connection manager that asked first.
//! Deviations: scopes with `on_demand` are loaded at once, as all others.
//! Deviations: virtual hosts that a server says do not exist are no longer subscribed to; the next request asks again.

mod dynamic;
mod registry;
mod scoped;
#[cfg(test)]
mod tests;
mod vhds;

use std::sync::Arc;

pub use dynamic::RouteProvider;
pub use registry::{DynamicRoutes, FixedRoutes, RouteProviders};
pub use scoped::{FixedScopes, ScopeProvider, ScopeSource, Scopes};

use super::RouteTable;
use crate::config::{ConfigPath, Rejected};
use crate::server::ServerContext;

/// A route configuration: what the streams of a connection manager, or of one scope, are routed by.
#[derive(Debug, Clone)]
pub enum Routes {
    /// `route_config`.
    Fixed(Arc<FixedRoutes>),
    /// `rds`.
    Dynamic(Arc<RouteProvider>),
}

impl Routes {
    /// The table of now, with a number that is another one when there is another table.
    pub fn take(&self) -> (u64, Arc<RouteTable>) {
        match self {
            Self::Fixed(fixed) => (0, fixed.table.clone()),
            Self::Dynamic(provider) => provider.take(),
        }
    }

    /// Whether both are one.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fixed(one), Self::Fixed(other)) => Arc::ptr_eq(one, other),
            (Self::Dynamic(one), Self::Dynamic(other)) => Arc::ptr_eq(one, other),
            _ => false,
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
