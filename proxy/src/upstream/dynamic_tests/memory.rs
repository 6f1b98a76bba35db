//! What many clusters cost.

use std::sync::Arc;

use super::super::*;
use super::{Harness, assignment, cluster, eds_cluster};
use crate::xds::ResourceKind;

/// The memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// What 10,000 clusters with EDS cost, and what one change among them does. Run it alone:
/// `cargo test -p outrigger --lib -- --ignored --nocapture ten_thousand_clusters`.
#[tokio::test(flavor = "local")]
#[ignore = "it measures"]
async fn ten_thousand_clusters() {
    const COUNT: usize = 10_000;
    let harness = Harness::new();
    let name = |at: usize| format!("outbound|8080||service-{at}.namespace.svc.cluster.local");
    let address = |at: usize| -> u16 { u16::try_from(at % 60_000 + 1).unwrap() };
    let workers = WorkerClusters::new(harness.manager.table().clone(), 0);
    let clusters: Vec<_> = (0..COUNT)
        .map(|at| cluster(&eds_cluster(&name(at))))
        .collect();
    let assigned: Vec<_> = (0..COUNT)
        .map(|at| assignment(&name(at), &[(address(at), ""), (address(at + 1), "")]))
        .collect();
    let before = resident();
    let began = std::time::SystemTime::now();
    harness
        .deliver(ResourceKind::Cluster, &clusters, &[])
        .unwrap();
    let took_clusters = began.elapsed().unwrap();
    let after_clusters = resident();
    // Each alone, since the client of these tests looks through all who ask.
    let began = std::time::SystemTime::now();
    let watchers = harness.manager.watchers();
    for (watcher, sent) in watchers.iter().zip(&assigned) {
        let update = crate::xds::Update {
            version: &Arc::from("v1"),
            sent: std::slice::from_ref(sent),
            removed: &[],
        };
        watcher.on_update(&update).unwrap();
    }
    drop(watchers);
    let took_endpoints = began.elapsed().unwrap();
    harness.manager.all_ready().await;
    let after = resident();
    for at in 0..COUNT {
        assert!(workers.get(harness.id(&name(at))).is_some());
    }
    let touched = resident();
    let began = std::time::SystemTime::now();
    let first = harness.manager.watchers().swap_remove(0);
    for at in 0..1000 {
        let changed = assignment(&name(0), &[(address(at + 7), "")]);
        let update = crate::xds::Update {
            version: &Arc::from("v2"),
            sent: std::slice::from_ref(&changed),
            removed: &[],
        };
        first.on_update(&update).unwrap();
        workers.refresh();
    }
    let per_change = began.elapsed().unwrap() / 1000;
    let per = |bytes: u64| bytes / u64::try_from(COUNT).unwrap();
    println!(
        "clusters: {took_clusters:?}, endpoints: {took_endpoints:?}, a change: {per_change:?}"
    );
    println!(
        "bytes each: cluster {}, with endpoints {}, touched by a worker {}",
        per(after_clusters - before),
        per(after - before),
        per(touched - before)
    );
}
