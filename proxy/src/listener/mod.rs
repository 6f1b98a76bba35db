//! Listeners: from a configured address to connections that filter chains serve.
//!
//! `envoy.config.listener.v3.Listener`. <https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/listeners>
//! The main thread owns every socket ([`ListenerManager`]); each worker accepts for itself ([`ConnectionHandler`]).
//! Stats: `listener.<address>.*`, `listener.<address>.worker_<index>.*`, `listener_manager.*`.
//! Deviations: a connection that its client ends while listener filters wait for more is closed at once, not at their timeout.
//! Deviations: the access log of a listener shows bytes, but no upstream of a filter such as `tcp_proxy`; its own log does.
//! Deviations: `listener_filters_timeout` counts from the start of the first filter on, also where a connection is handed off.

mod address;
mod config;
mod connection;
mod drain;
mod filter_chain;
mod filter_chain_match;
mod handler;
mod manager;
#[cfg(test)]
mod memory_tests;
mod predicate;
mod socket;
mod stats;
#[cfg(test)]
mod tests;
mod update;

pub use address::ListenAddress;
pub use config::{Listener, ListenerFilterEntry, Predecessor};
pub use drain::{Latch, ListenerDrain};
pub use filter_chain::{FilterChain, WorkerFilterChain};
pub use filter_chain_match::{FilterChainMatch, FilterChainMatcher, SourceType};
pub use handler::{Accepted, ConnectionHandler, NewListener};
pub use manager::{BindError, ListenerManager, ManagedListener};
pub use predicate::Predicate;
pub use socket::{SocketSettings, listen_alone};
pub use stats::{ListenerManagerStats, ListenerStats, WorkerListenerStats};
pub use update::ListenerCommand;
