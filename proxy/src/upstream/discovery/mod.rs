//! Finding the hosts of a cluster.

pub(super) mod dns;
mod resolver;
#[cfg(test)]
mod tests;

pub use resolver::{DnsError, HickoryResolver, Resolved, Resolver};
