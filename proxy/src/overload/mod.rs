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
//! `overload.refresh_interval_delay`, `envoy.overload_actions.reset_high_memory_stream.count`.
//!
//! Deviations: `http1_server_abort_dispatch` acts when the head of a request has come, and not for each piece of it; what `http_connection_manager_decode_headers` turns away is logged, and the log of what `connection_pool_new_connection` refuses names the host.
//! Deviations: a timeout that already runs follows `reduce_timeouts` within a second.
//! Deviations: an injected resource is also read again when its file was changed in place.
//! Deviations: `reset_high_memory_stream` counts the bytes that a stream of HTTP/2 holds, here and towards its upstream, and not the blocks of memory that they lie in; of those that hold as much as others, the largest end first. Streams of HTTP/1 have no account: what an HTTP/2 upstream has sent for one counts in Envoy, which stops it in the middle and leaves its connection to the idle timeout.
//! Deviations: the two load-shed points of HTTP/3 turn nothing away, since there is no HTTP/3.

mod config;
mod container_cpu;
mod heap;
mod manager;
mod monitors;
mod scaled_timers;
mod shed_points;
mod state;
mod stream_accounts;

pub use heap::{Heap, HeapUsage, Jemalloc};
pub use manager::OverloadManager;
pub use scaled_timers::{ScaledTimer, ScaledTimers, ShortestTimeout};
pub use shed_points::{LoadShedPoint, LoadShedPoints};
pub use state::{Action, ConnectionGuard, GlobalConnections, OverloadState};
pub use stream_accounts::{StreamAccount, StreamAccounts, StreamResetStats, StreamResets};
