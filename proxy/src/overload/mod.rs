//! The overload manager: what the proxy does before it runs out of memory or descriptors.
//!
//! `envoy.config.overload.v3.OverloadManager`, with the monitors
//! `envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig` and
//! `envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig`, and the actions of [`Action`].
//! <https://www.envoyproxy.io/docs/envoy/latest/configuration/operations/overload_manager/overload_manager>
//!
//! Stats: `overload.<monitor>.{pressure,failed_updates,skipped_updates}`, `overload.<action>.{active,scale_percent}`,
//! `overload.envoy.overload_actions.shrink_heap.shrink_count`, `overload.refresh_interval_delay`.
//!
//! Deviations: load-shed points, other monitors and the actions `reduce_timeouts` and `reset_high_memory_stream` are refused.
//! Deviations: `global_downstream_max_connections` cannot be named as a trigger; in Envoy it can, and never triggers.

mod config;
mod heap;
mod manager;
mod state;

pub use heap::{Heap, HeapUsage, Jemalloc};
pub use manager::OverloadManager;
pub use state::{Action, ConnectionGuard, GlobalConnections, OverloadState};
