//! The overload manager: what the proxy does before it runs out of memory or descriptors.
//!
//! `envoy.config.overload.v3.OverloadManager`, with the monitors
//! `envoy.extensions.resource_monitors.{downstream_connections.v3.DownstreamConnectionsConfig, fixed_heap.v3.FixedHeapConfig,
//! injected_resource.v3.InjectedResourceConfig, cgroup_memory.v3.CgroupMemoryConfig, cpu_utilization.v3.CpuUtilizationConfig}`,
//! the actions of [`Action`], and load-shed points.
//! <https://www.envoyproxy.io/docs/envoy/latest/configuration/operations/overload_manager/overload_manager>
//!
//! Stats: `overload.<monitor>.{pressure,failed_updates,skipped_updates}`, `overload.<action>.{active,scale_percent}`,
//! `overload.<point>.{scale_percent,shed_load_count}`, `overload.envoy.overload_actions.shrink_heap.shrink_count`,
//! `overload.refresh_interval_delay`.
//!
//! Deviations: the action `reset_high_memory_stream` is refused, and so are actions of other names and utilization of processors by control group.
//! Deviations: `reduce_timeouts` does not shorten the flushing of streams, and refuses to be asked for it; of the load-shed points `http2_server_go_away_and_close_on_dispatch` and those of `tcp_proxy` are refused.
//! Deviations: load-shed points of codecs act when the head of a request has come, and not for each piece of it; what `http_connection_manager_decode_headers` turns away is logged, and the log of what `connection_pool_new_connection` refuses names the host.
//! Deviations: a timeout that already runs follows `reduce_timeouts` within a second.
//! Deviations: an injected resource is also read again when its file was changed in place.
//! Deviations: `global_downstream_max_connections` cannot be named as a trigger; in Envoy it can, and never triggers.

mod config;
mod heap;
mod manager;
mod monitors;
mod scaled_timers;
mod shed_points;
mod state;

pub use heap::{Heap, HeapUsage, Jemalloc};
pub use manager::OverloadManager;
pub use scaled_timers::{ScaledTimer, ScaledTimers, ShortestTimeout};
pub use shed_points::{LoadShedPoint, LoadShedPoints};
pub use state::{Action, ConnectionGuard, GlobalConnections, OverloadState};
