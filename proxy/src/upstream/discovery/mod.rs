//! Finding the hosts of a cluster.

pub(super) mod dns;
mod resolver;

pub use resolver::{DnsError, HickoryResolver, Resolved, Resolver};
