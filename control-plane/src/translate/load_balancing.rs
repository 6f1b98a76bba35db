//! Which endpoint gets a request: what clusters and routes say about it.

use serde_json::{Value as Json, json};

use super::duration;
use crate::model::{Algorithm, HashedBy, LoadBalancing};

pub(super) fn of_cluster(balancing: &LoadBalancing, cluster: &mut Json) {
    let algorithm = balancing.algorithm.unwrap_or(Algorithm::RoundRobin);
    let (policy, config) = match algorithm {
        _ if !balancing.hash_by.is_empty() => ("MAGLEV", "maglev_lb_config"),
        Algorithm::RoundRobin => ("ROUND_ROBIN", "round_robin_lb_config"),
        Algorithm::LeastRequest => ("LEAST_REQUEST", "least_request_lb_config"),
        Algorithm::Random => ("RANDOM", ""),
    };
    cluster["lb_policy"] = json!(policy);
    if let Some(time) = balancing.slow_start {
        cluster[config] = json!({"slow_start_config": {"slow_start_window": duration(time)}});
    }
}

/// What a route hashes, each alone.
pub(super) fn of_route(balancing: &LoadBalancing) -> Json {
    let each = balancing.hash_by.iter().map(|by| {
        let mut policy = match by {
            HashedBy::Header(header) => json!({"header": {"header_name": header}}),
            // For as long as the browser runs.
            HashedBy::Cookie(name) => json!({"cookie": {"name": name, "path": "/", "ttl": "0s"}}),
            HashedBy::Address => json!({"connection_properties": {"source_ip": true}}),
        };
        policy["terminal"] = json!(true);
        policy
    });
    each.collect()
}
