//! Finding the hosts of a cluster.

pub(super) mod dns;
pub(super) mod eds;
mod resolver;
#[cfg(test)]
mod tests;

pub use resolver::{DnsError, HickoryResolver, Resolved, Resolver};
