//! Outrigger's own xDS control plane: short YAML files to the resources of Envoy's API, served to Outrigger and Envoy.
//!
//! The way of a change, in the order of the modules: [`watch`] sees it, [`model`] reads the files, [`world`] resolves
//! what they refer to, [`translate`] makes the resources of each proxy from it, which [`cache`] holds, and [`server`]
//! sends them. [`control`] is what all of them share, [`registry`] has the endpoints that registered themselves,
//! [`dns`] the addresses of those that are given by name, [`ca`]
//! the identities, and [`admin`] is the interface for people.
//! [`telemetry`] writes logs and traces. [`rpc`] has the calls of gRPC beside xDS, [`ratelimit`] the service that counts requests. [`agent`] is the other side of it, beside a proxy.

#![warn(missing_docs)]

pub mod admin;
pub mod agent;
pub mod ca;
pub mod cache;
pub mod control;
pub mod dns;
pub mod model;
pub mod ratelimit;
pub mod registry;
pub mod rpc;
pub mod server;
pub mod telemetry;
pub mod translate;
pub mod watch;
pub mod world;

/// Starts a task that ends by itself: with its connection or stream, or with the process.
#[allow(
    clippy::disallowed_methods,
    reason = "the control plane has one thread and no workers; gRPC asks for tasks that are Send"
)]
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(task));
}
