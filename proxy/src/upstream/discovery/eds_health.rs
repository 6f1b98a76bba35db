//! Assignments that bring a new health of some endpoints and nothing else: the cost of one is that of a comparison of bytes.

use std::collections::HashMap;
use std::sync::Arc;

use outrigger_proto::difference::{in_step, without_number};
use outrigger_proto::pb::envoy::config::core::v3::HealthStatus;
use outrigger_proto::pb::envoy::config::endpoint::v3::LbEndpoint;
use prost::Message;

use crate::config::{ConfigPath, ConfigReport};
use crate::net::Address;
use crate::upstream::cluster::{EndpointAddress, EndpointConfig};
use crate::upstream::host::{HealthFlag, Host};
use crate::upstream::priority_set::PrioritySet;

/// `ClusterLoadAssignment.endpoints`, `LocalityLbEndpoints.lb_endpoints`, `LbEndpoint.health_status`.
const ENDPOINTS: u32 = 2;
const LB_ENDPOINTS: u32 = 2;
const HEALTH_STATUS: u32 = 2;

/// With more changes than this, all endpoints are looked at anew.
const MOST: usize = 1_000;

/// The hosts whose health a `new` encoded assignment changes, with the flags that it says, where the `old` one that is in force, with
/// so many `endpoints`, is the same otherwise. None: it is not.
pub(super) fn changes<'h>(
    old: &[u8],
    new: &[u8],
    known: &'h PrioritySet,
    endpoints: usize,
) -> Option<Vec<(&'h Arc<Host>, u32)>> {
    let mut flags = HashMap::new();
    for locality in in_step(old, new)? {
        if locality.number != ENDPOINTS {
            return None;
        }
        for endpoint in in_step(locality.old, locality.new)? {
            if endpoint.number != LB_ENDPOINTS || flags.len() == MOST {
                return None;
            }
            let (address, health) = change(endpoint.old, endpoint.new)?;
            flags.insert(address, health);
        }
    }
    let mut assigned = 0;
    let mut found = Vec::with_capacity(flags.len());
    for host in known.hosts() {
        if host.health.has(HealthFlag::PendingDynamicRemoval) {
            continue;
        }
        assigned += 1;
        if let Some(health) = flags.get(&host.address) {
            found.push((host, *health));
        }
    }
    // Where two endpoints have the same address, it must be found out which of them counts.
    (assigned == endpoints && found.len() == flags.len()).then_some(found)
}

/// The address of an endpoint, and its new health, if that is all that is new.
fn change(old: &[u8], new: &[u8]) -> Option<(Address, u32)> {
    let (old_rest, _) = without_number(old, HEALTH_STATUS)?;
    let (new_rest, status) = without_number(new, HEALTH_STATUS)?;
    let status = i32::try_from(status).ok()?;
    if old_rest != new_rest || HealthStatus::try_from(status).is_err() {
        return None;
    }
    // Taken before with another health, so nothing is wrong with it.
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "endpoint");
    let endpoint = EndpointConfig::from_proto(LbEndpoint::decode(new).ok()?, &path).ok()?;
    match endpoint.address {
        EndpointAddress::Resolved(address) => Some((address, endpoint.health)),
        EndpointAddress::Name { .. } => None,
    }
}
