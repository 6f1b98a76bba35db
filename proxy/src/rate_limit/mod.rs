//! What filters that limit rates have in common: a bucket of tokens that workers share.

mod token_bucket;

pub use token_bucket::{BucketSettings, TokenBucket};

use crate::server::Worker;

/// The part of a limit that is this process's: one of as many as the local cluster has hosts. All of it where that cluster does
/// not exist or is empty.
pub fn local_share(worker: &Worker) -> f64 {
    let cluster = worker.server.local_cluster.get();
    let cluster = cluster.and_then(|id| worker.clusters.get(*id));
    let hosts = cluster.map_or(0, |cluster| {
        cluster.info().endpoint_stats.membership_total().value()
    });
    #[allow(
        clippy::cast_precision_loss,
        reason = "no cluster has more than 2^53 hosts"
    )]
    let hosts = hosts.max(1) as f64;
    1.0 / hosts
}
