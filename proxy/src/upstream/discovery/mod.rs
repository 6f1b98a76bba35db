//! Finding the hosts of a cluster.

pub(super) mod dns;
pub(super) mod eds;
mod eds_health;
mod resolver;
#[cfg(test)]
mod tests;

pub use resolver::{DnsError, HickoryResolver, Resolved, Resolver};

use super::cluster::ClusterInfo;
use super::host::{HealthFlag, Host, HostIdentity};
use super::shared_cluster::Cluster;

/// Whether a host that is no longer found stays: its health checks succeed, which are believed more than its discovery.
fn outlives_discovery(info: &ClusterInfo, host: &Host) -> bool {
    !info.health_checks.is_empty()
        && !info.settings.ignore_health_on_host_removal
        && !host.health.has(HealthFlag::FailedActiveHc)
        && !host.health.has(HealthFlag::FailedEdsHealth)
}

/// Takes a host away that was there for its health checks alone, which now fail.
pub(super) fn remove_host(cluster: &Cluster, host: HostIdentity) {
    let set = cluster.hosts.load();
    cluster.set_hosts(set.without(host));
}
