//! Outrigger, an Envoy-compatible data plane.
//!
//! # Life of a request
//!
//! The modules in the order in which a request meets them:
//! [`server`] starts the threads, [`listener`] accepts, [`listener_filters`] look at the first bytes, [`network_filters`] take
//! the connection, a [`codec`] reads it, the [`http_connection_manager`] makes streams of it, [`route`] chooses,
//! [`http_filters`] decide and change, [`upstream`] answers; what happened is in [`stream_info`], and goes to
//! [`access_loggers`] and [`stats`].

#![warn(missing_docs)]

pub mod access_loggers;
pub mod admin;
pub mod cel;
pub mod codec;
pub mod compression;
pub mod config;
pub mod explain;
pub mod ext_authz;
mod files;
pub mod formatter;
pub mod http;
pub mod http2;
pub mod http_connection_manager;
pub mod http_filters;
pub mod listener;
pub mod listener_filters;
mod local_future;
pub mod matchers;
pub mod net;
pub mod network_filters;
pub mod overload;
pub mod planted;
pub mod rate_limit;
pub mod rbac;
pub mod route;
pub mod runtime;
pub mod secrets;
pub mod server;
pub mod stats;
pub mod stream_info;
pub mod transport_sockets;
pub mod upstream;
pub mod x509;
pub mod xds;
mod xx_hash;

pub use local_future::LocalBoxFuture;

/// The allocator of the program, so that tests can ask it what something takes.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
