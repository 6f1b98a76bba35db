//! The admin interface: an HTTP server on the main thread, one file for each path.
//!
//! `envoy.config.bootstrap.v3.Admin`. <https://www.envoyproxy.io/docs/envoy/latest/operations/admin>

mod source;

pub use source::{AdminSource, ConfigDumps, DrainListeners, LogLevels};
