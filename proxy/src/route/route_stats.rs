//! Stats of one route, below `vhost.<virtual host>.route.<stat_prefix>.`, and of one virtual cluster.

use std::fmt;

use crate::stats::{Scope, Store};

crate::stats_group! {
    /// What became of the requests of a route. Responses by code, and how long they took, are counted beside it.
    pub struct RouteCounters {
        counter upstream_rq_retry;
        counter upstream_rq_retry_limit_exceeded;
        counter upstream_rq_retry_overflow;
        counter upstream_rq_retry_success;
        counter upstream_rq_timeout;
        counter upstream_rq_total;
    }
}

/// The stats of a route.
pub struct RouteStats {
    /// Where they are.
    pub scope: Scope,
    /// Those that are there from the start.
    pub counters: RouteCounters,
}

impl RouteStats {
    pub(super) fn new(store: &Store, virtual_host: &str, stat_prefix: &str) -> Self {
        Self::below(store, &format!("vhost.{virtual_host}.route.{stat_prefix}."))
    }

    pub(super) fn below(store: &Store, prefix: &str) -> Self {
        let scope = store.scope(prefix);
        Self {
            counters: RouteCounters::new(&scope),
            scope,
        }
    }
}

impl fmt::Debug for RouteStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteStats").finish_non_exhaustive()
    }
}
