//! The hosts of an assignment: those that stay, those that come, and how localities share them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::super::outlives_discovery;
use crate::net::Address;
use crate::upstream::cluster::{
    ClusterInfo, EndpointAddress, EndpointConfig, LoadAssignment, LocalityEndpoints,
};
use crate::upstream::host::{HealthFlag, Host, HostIdentity, Locality};
use crate::upstream::priority_set::{HostGroup, HostSet, PrioritySet};

/// How hosts differ from those before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::upstream) struct Difference {
    /// Hosts came, or went.
    members: bool,
    /// Anything about those that stayed.
    properties: bool,
}

/// The weight that `max_host_weight` tells.
pub(in crate::upstream) fn heaviest(set: &PrioritySet) -> u32 {
    // Envoy counts each priority in turn, from 1, and what is left is the last one's.
    let last = set.priorities.last();
    let weights = last.iter().flat_map(|set| &set.hosts);
    weights.map(|host| host.weight).max().unwrap_or(1)
}

/// The hosts of an assignment. Those that are `known` by their address stay what they are, as long as they stay in their locality;
/// of endpoints with the same address the first one counts. Without `info` nobody checks them.
pub(in crate::upstream) fn next_hosts(
    mut assignment: LoadAssignment,
    known: &PrioritySet,
    info: Option<&ClusterInfo>,
    workers: usize,
) -> (PrioritySet, Difference) {
    let is_checked = info.is_some_and(|info| !info.health_checks.is_empty());
    let by_address: HashMap<&Address, &Arc<Host>> =
        known.hosts().map(|host| (&host.address, host)).collect();
    share_localities(&mut assignment, known);
    let mut seen = HashSet::new();
    let mut kept: HashSet<HostIdentity> = HashSet::new();
    let mut difference = Difference::default();
    let mut groups = Vec::with_capacity(assignment.localities.len());
    for locality in &assignment.localities {
        let mut hosts = Vec::with_capacity(locality.endpoints.len());
        for endpoint in &locality.endpoints {
            let EndpointAddress::Resolved(address) = &endpoint.address else {
                continue;
            };
            if !seen.insert(address) {
                continue;
            }
            let old = by_address.get(address).copied();
            let old = old.filter(|old| {
                old.locality == locality.locality
                    && !(is_checked && is_checked_otherwise(endpoint, old))
            });
            let Some(old) = old else {
                let host = endpoint.host(locality, address.clone(), workers);
                hosts.push(Arc::new(host));
                difference.members = true;
                continue;
            };
            kept.insert(old.identity());
            let (host, changed) = next_host(endpoint, locality, old, workers);
            difference.properties |= changed;
            hosts.push(host);
        }
        groups.push(HostGroup {
            locality: locality.locality.clone(),
            weight: locality.weight,
            priority: locality.priority,
            hosts,
        });
    }
    for (priority, set) in (0..).zip(&known.priorities) {
        for host in &set.hosts {
            let is_gone = !kept.contains(&host.identity()) && !seen.contains(&host.address);
            if !(is_gone && info.is_some_and(|info| outlives_discovery(info, host))) {
                continue;
            }
            host.health.set(HealthFlag::PendingDynamicRemoval);
            kept.insert(host.identity());
            let group = groups
                .iter_mut()
                .find(|group| group.priority == priority && group.locality == host.locality);
            match group {
                Some(group) => group.hosts.push(host.clone()),
                None => groups.push(HostGroup {
                    locality: host.locality.clone(),
                    weight: set.weight_of(&host.locality),
                    priority,
                    hosts: vec![host.clone()],
                }),
            }
        }
    }
    let mut set = PrioritySet::new(
        groups.into_iter(),
        assignment.overprovisioning_factor,
        assignment.weighted_priority_health,
    );
    // A priority that was there once stays, without hosts.
    set.keep_priorities(known.priorities.len());
    difference.members |= kept.len() != by_address.len();
    difference.properties |= shape(&set) != shape(known);
    (set, difference)
}

/// Localities that are known stay the same, so that comparing them costs nothing.
fn share_localities(assignment: &mut LoadAssignment, known: &PrioritySet) {
    let mut shared: HashSet<&Arc<Locality>> = HashSet::new();
    let mut last: Option<&Arc<Locality>> = None;
    for host in known.hosts() {
        if !last.is_some_and(|last| Arc::ptr_eq(last, &host.locality)) {
            shared.insert(&host.locality);
            last = Some(&host.locality);
        }
    }
    for locality in &mut assignment.localities {
        if let Some(known) = shared.get(&locality.locality) {
            locality.locality = Arc::clone(known);
        }
    }
}

/// A host that stays, and whether anything about it is new.
fn next_host(
    endpoint: &EndpointConfig,
    locality: &LocalityEndpoints,
    old: &Arc<Host>,
    workers: usize,
) -> (Arc<Host>, bool) {
    let health_changed = old.health.replace_discovered(endpoint.health);
    old.health.clear(HealthFlag::PendingDynamicRemoval);
    let is_same = old.weight == endpoint.weight
        && old.health_check == endpoint.host_health_check(&old.address)
        && old.priority == locality.priority
        && old.metadata == endpoint.metadata;
    if is_same {
        return (old.clone(), health_changed);
    }
    let new = endpoint.host(locality, old.address.clone(), workers);
    let health = old.health.get();
    let new = new.in_place_of(old);
    new.health.replace(health);
    (Arc::new(new), true)
}

/// Whether what is known of a host was found elsewhere than where it is looked for now.
fn is_checked_otherwise(endpoint: &EndpointConfig, old: &Host) -> bool {
    let new = endpoint.host_health_check(&old.address);
    let address = new.as_ref().and_then(|new| new.address.as_ref());
    *address.unwrap_or(&old.address) != *old.health_check_address()
        || new.is_some_and(|new| new.disabled) != old.has_no_health_checks()
}

/// What of a set is not a matter of single hosts.
fn shape(set: &PrioritySet) -> (u32, bool, Vec<BTreeMap<&Locality, u32>>) {
    let priorities = set.priorities.iter().map(locality_weights).collect();
    let factor = match set.overprovisioning_factor {
        // Of a cluster that has had no hosts yet.
        0 => 140,
        factor => factor,
    };
    (factor, set.weighted_priority_health, priorities)
}

fn locality_weights(priority: &HostSet) -> BTreeMap<&Locality, u32> {
    let localities = priority.localities.iter();
    localities
        .map(|locality| (&*locality.locality, locality.weight))
        .collect()
}
