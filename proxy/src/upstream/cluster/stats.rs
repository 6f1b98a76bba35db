//! The stats of a cluster, below `cluster.<name>.`
//!
//! Deviations: at most 1000 names of `x-envoy-upstream-alt-stat-name` are counted for a cluster on each worker.
//!
//! They come in groups by who writes them, so that a cluster that carries no traffic costs nothing but names.

use std::collections::HashMap;

use crate::stats::{Counter, Histogram, Scope, Unit};

crate::stats_group! {
    /// What traffic does: connections, requests, and how they end.
    pub struct ClusterTrafficStats {
        counter bind_errors;
        counter original_dst_host_invalid;
        counter retry_or_shadow_abandoned;
        gauge upstream_cx_active;
        counter upstream_cx_close_notify;
        counter upstream_cx_connect_attempts_exceeded;
        counter upstream_cx_connect_fail;
        histogram upstream_cx_connect_ms (Milliseconds);
        counter upstream_cx_connect_timeout;
        counter upstream_cx_connect_with_0_rtt;
        counter upstream_cx_destroy;
        counter upstream_cx_destroy_local;
        counter upstream_cx_destroy_local_with_active_rq;
        counter upstream_cx_destroy_remote;
        counter upstream_cx_destroy_remote_with_active_rq;
        counter upstream_cx_destroy_with_active_rq;
        counter upstream_cx_http1_total;
        counter upstream_cx_http2_total;
        counter upstream_cx_http3_total;
        counter upstream_cx_idle_timeout;
        histogram upstream_cx_length_ms (Milliseconds);
        counter upstream_cx_max_duration_reached;
        counter upstream_cx_max_requests;
        counter upstream_cx_none_healthy;
        counter upstream_cx_overflow;
        counter upstream_cx_pool_overflow;
        counter upstream_cx_preconnect_skipped;
        counter upstream_cx_protocol_error;
        gauge upstream_cx_rx_bytes_buffered;
        counter upstream_cx_rx_bytes_total;
        counter upstream_cx_total;
        gauge upstream_cx_tx_bytes_buffered;
        counter upstream_cx_tx_bytes_total;
        counter upstream_flow_control_backed_up_total;
        counter upstream_flow_control_drained_total;
        counter upstream_flow_control_paused_reading_total;
        counter upstream_flow_control_resumed_reading_total;
        counter upstream_http3_broken;
        counter upstream_internal_redirect_failed_total;
        counter upstream_internal_redirect_succeeded_total;
        gauge upstream_queue_overloaded;
        counter upstream_rq_0rtt;
        gauge upstream_rq_active;
        counter upstream_rq_active_overflow;
        counter upstream_rq_cancelled;
        counter upstream_rq_completed;
        counter upstream_rq_maintenance_mode;
        counter upstream_rq_max_duration_reached;
        gauge upstream_rq_pending_active;
        counter upstream_rq_pending_failure_eject;
        counter upstream_rq_pending_overflow;
        counter upstream_rq_pending_total;
        histogram upstream_rq_per_cx (Unspecified);
        counter upstream_rq_per_try_idle_timeout;
        counter upstream_rq_per_try_timeout;
        counter upstream_rq_retry;
        counter upstream_rq_retry_backoff_exponential;
        counter upstream_rq_retry_backoff_ratelimited;
        counter upstream_rq_retry_limit_exceeded;
        counter upstream_rq_retry_overflow;
        counter upstream_rq_retry_success;
        counter upstream_rq_rx_reset;
        counter upstream_rq_rx_reset_no_error;
        histogram upstream_rq_time (Milliseconds);
        counter upstream_rq_timeout;
        counter upstream_rq_total;
        counter upstream_rq_tx_reset;
    }
}

crate::stats_group! {
    /// How many hosts there are.
    pub struct ClusterEndpointStats {
        gauge max_host_weight;
        counter membership_change;
        gauge membership_degraded;
        gauge membership_excluded;
        gauge membership_healthy;
        gauge membership_total;
    }
}

crate::stats_group! {
    /// What changes the membership, and what load balancers find.
    pub struct ClusterUpdateStats {
        counter assignment_stale;
        counter assignment_timeout_received;
        counter assignment_use_cached;
        counter lb_healthy_panic;
        counter lb_local_cluster_not_ok;
        counter lb_recalculate_zone_structures;
        gauge lb_subsets_active;
        counter lb_subsets_created;
        counter lb_subsets_fallback;
        counter lb_subsets_fallback_panic;
        counter lb_subsets_removed;
        counter lb_subsets_selected;
        counter lb_zone_cluster_too_small;
        counter lb_zone_no_capacity_left;
        counter lb_zone_routing_all_directly;
        counter lb_zone_routing_cross_zone;
        counter lb_zone_routing_sampled;
        counter update_attempt;
        counter update_empty;
        counter update_failure;
        counter update_no_rebuild;
        counter update_success;
        gauge version;
        gauge warming_state;
    }
}

crate::stats_group! {
    /// Below `default.`: the transport socket that hosts get which no `transport_socket_matches` claims.
    pub struct TransportSocketMatchStats {
        counter total_match_count;
    }
}

crate::stats_group! {
    /// With `track_cluster_stats.timeout_budgets`: how much of its timeout a request used.
    pub struct TimeoutBudgetStats {
        histogram upstream_rq_timeout_budget_per_try_percent_used (Unspecified);
        histogram upstream_rq_timeout_budget_percent_used (Unspecified);
    }
}

crate::stats_group! {
    /// With `track_cluster_stats.request_response_sizes`: how large messages are.
    pub struct RequestResponseSizeStats {
        histogram upstream_rq_body_size (Bytes);
        histogram upstream_rq_headers_count (Unspecified);
        histogram upstream_rq_headers_size (Bytes);
        histogram upstream_rs_body_size (Bytes);
        histogram upstream_rs_headers_count (Unspecified);
        histogram upstream_rs_headers_size (Bytes);
    }
}

/// Where a response belongs in the counters by status code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CodeOrigin {
    /// The request came from the mesh (`x-envoy-internal`): counted below `internal.` instead of `external.`
    pub internal: bool,
    /// The host is a canary: counted below `canary.` as well.
    pub canary: bool,
}

impl CodeOrigin {
    /// Where a response counts beside the cluster itself, with the place of its stats.
    fn prefixes(self) -> impl Iterator<Item = (usize, &'static str)> {
        let side = if self.internal {
            (2, "internal.")
        } else {
            (1, "external.")
        };
        [Some(side), self.canary.then_some((3, "canary."))]
            .into_iter()
            .flatten()
    }
}

/// The counters by status code of one cluster on one worker, each made when its code first comes.
#[derive(Debug, Default)]
pub(crate) struct CodeStats {
    /// By prefix: none, external, internal, canary, retry.
    by_prefix: [PrefixStats; 5],
    /// The same below each name of `x-envoy-upstream-alt-stat-name`.
    alternatives: HashMap<Box<str>, Box<CodeStats>>,
}

#[derive(Debug, Default)]
struct PrefixStats {
    /// By `status - 100`.
    codes: Vec<Option<Box<CodeCounters>>>,
    /// `upstream_rq_completed`; below no prefix it is part of [`ClusterTrafficStats`].
    completed: Option<Counter>,
    /// `upstream_rq_time`, likewise.
    time: Option<Histogram>,
}

#[derive(Debug)]
struct CodeCounters {
    class: Counter,
    code: Counter,
}

/// Statuses from 100 to 599 are counted by class and code, all others by `upstream_rq_unknown`.
const CODES: usize = 500;

/// That many alternative names are counted apart, of each cluster on each worker. Requests choose them.
const ALTERNATIVES: usize = 1000;

impl CodeStats {
    /// Counts one response below each prefix that it belongs to.
    pub(crate) fn record(&mut self, scope: &Scope, status: u16, origin: CodeOrigin) {
        self.record_below(0, "", scope, status);
        self.record_prefixed(scope, status, origin);
    }

    /// Records how long a response took, in milliseconds, below each prefix that it belongs to.
    pub(crate) fn record_time(&mut self, scope: &Scope, millis: u64, origin: CodeOrigin) {
        for (index, prefix) in origin.prefixes() {
            self.time_below(index, prefix, scope, millis);
        }
    }

    /// As `record`, but for the counters that no prefix stands before.
    pub(crate) fn record_prefixed(&mut self, scope: &Scope, status: u16, origin: CodeOrigin) {
        for (index, prefix) in origin.prefixes() {
            self.record_below(index, prefix, scope, status);
            self.completed_below(index, prefix, scope);
        }
    }

    /// Counts one response below no prefix, as one that is completed.
    pub(crate) fn record_plain(&mut self, scope: &Scope, status: u16) {
        self.completed_below(0, "", scope);
        self.record_below(0, "", scope, status);
    }

    /// Records how long a response took below no prefix, in milliseconds.
    pub(crate) fn record_plain_time(&mut self, scope: &Scope, millis: u64) {
        self.time_below(0, "", scope, millis);
    }

    /// Counts a response that was tried again. Without `code` it counts as one and no more.
    pub(crate) fn record_retry(&mut self, scope: &Scope, code: Option<u16>) {
        if let Some(status) = code {
            self.record_below(4, "retry.", scope, status);
        }
        self.completed_below(4, "retry.", scope);
    }

    /// The counters below `name`, where no more than [`ALTERNATIVES`] others are known.
    pub(crate) fn alternative(&mut self, name: &str, scope: &Scope) -> Option<(&mut Self, Scope)> {
        if !self.alternatives.contains_key(name) {
            if self.alternatives.len() >= ALTERNATIVES {
                return None;
            }
            self.alternatives.insert(name.into(), Box::default());
        }
        let stats = self.alternatives.get_mut(name)?;
        Some((stats, scope.scope(&format!("{name}."))))
    }

    /// As `record` and with the counter that no prefix stands before, for counters of an alternative name.
    pub(crate) fn record_all(&mut self, scope: &Scope, status: u16, origin: CodeOrigin) {
        self.completed_below(0, "", scope);
        self.record(scope, status, origin);
    }

    /// As `record_time`, likewise.
    pub(crate) fn record_all_time(&mut self, scope: &Scope, millis: u64, origin: CodeOrigin) {
        self.time_below(0, "", scope, millis);
        self.record_time(scope, millis, origin);
    }

    fn completed_below(&mut self, index: usize, prefix: &str, scope: &Scope) {
        let completed = &mut self.by_prefix[index].completed;
        completed
            .get_or_insert_with(|| scope.counter(&format!("{prefix}upstream_rq_completed")))
            .inc();
    }

    fn time_below(&mut self, index: usize, prefix: &str, scope: &Scope, millis: u64) {
        let time = &mut self.by_prefix[index].time;
        let name = || format!("{prefix}upstream_rq_time");
        time.get_or_insert_with(|| scope.histogram(&name(), Unit::Milliseconds))
            .get()
            .record(millis);
    }

    fn record_below(&mut self, index: usize, prefix: &str, scope: &Scope, status: u16) {
        let table = &mut self.by_prefix[index].codes;
        let at = usize::from(status).wrapping_sub(100).min(CODES);
        if table.len() <= at {
            table.resize_with(at + 1, || None);
        }
        let counters =
            table[at].get_or_insert_with(|| Box::new(CodeCounters::new(prefix, scope, status)));
        counters.class.inc();
        counters.code.inc();
    }
}

impl CodeCounters {
    fn new(prefix: &str, scope: &Scope, status: u16) -> Self {
        let class = match status {
            100..600 => format!("{prefix}upstream_rq_{}xx", status / 100),
            _ => format!("{prefix}upstream_rq_unknown"),
        };
        Self {
            class: scope.counter(&class),
            code: scope.counter(&format!("{prefix}upstream_rq_{status}")),
        }
    }
}
