//! Configuration that comes from a management server or from watched files, for as long as the process lives.
//!
//! Who needs a resource subscribes: [`Subscriptions::subscribe`] from any conversion, by way of
//! [`ServerContext::xds`](crate::server::ServerContext::xds), [`XdsClient::watch`] from what lives on main. The client asks the
//! source for the resources, and tells the [`Watcher`] of each subscription what has changed. The answer of the watcher, what it
//! takes and what it refuses, becomes the ACK or NACK.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol>

mod back_off;
mod channel;
mod client;
mod conversation;
mod delta;
mod failover;
mod file;
mod google_grpc;
mod grpc;
mod interests;
mod ledger;
mod log;
mod resource;
mod rest;
mod snapshot;
mod sotw;
mod source;
mod subscribers;
mod subscription;
mod subscription_stats;

pub use client::XdsClient;
pub use conversation::Conversation;
pub use google_grpc::clusters as google_grpc_clusters;
pub use ledger::ResourceStatus;
pub use log::{LogEntry, LogNames, XdsLog};
pub use resource::{Refused, Resource, ResourceKind, Update};
pub use source::{
    ApiSource, ApiTransport, GrpcTarget, PathSource, RateLimit, SourceKind, XdsSource,
};
pub use subscription::{FetchFailure, Interest, Subscription, Subscriptions, Watcher};
pub use subscription_stats::SubscriptionStats;
