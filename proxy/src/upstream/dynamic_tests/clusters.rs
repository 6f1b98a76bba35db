//! Clusters that come, change and go.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::{Harness, assignment, eds_cluster, static_cluster};
use crate::xds::ResourceKind;

#[tokio::test(flavor = "local", start_paused = true)]
async fn clusters_come_change_and_go_and_what_is_unchanged_stays() {
    let harness = Harness::new();
    assert!(!harness.manager.init().is_ready());
    let (a, b) = (static_cluster("a", 1), static_cluster("b", 2));
    harness.clusters(&[a.clone(), b.clone()]).unwrap();
    harness.manager.all_ready().await;
    let (old_a, old_b) = (harness.get("a").unwrap(), harness.get("b").unwrap());
    harness
        .clusters(&[a.clone(), static_cluster("b", 3)])
        .unwrap();
    assert!(Arc::ptr_eq(&old_a, &harness.get("a").unwrap()));
    assert!(!Arc::ptr_eq(&old_b, &harness.get("b").unwrap()));
    assert_eq!(harness.ports("b"), [3]);
    harness
        .deliver(ResourceKind::Cluster, &[], &["a", "unheard-of"])
        .unwrap();
    assert!(harness.get("a").is_none());
    for (stat, expected) in [
        ("cluster_manager.cluster_added", 2),
        ("cluster_manager.cluster_modified", 1),
        ("cluster_manager.cluster_removed", 1),
        ("cluster_manager.active_clusters", 1),
        ("cluster_manager.warming_clusters", 0),
        ("cluster_manager.cds.update_success", 3),
        ("cluster_manager.cds.update_attempt", 4),
    ] {
        assert_eq!(harness.stat(stat), expected, "{stat}");
    }
    // Nobody holds what belonged to it, and its stats end with it.
    drop(old_a);
    let groups = harness.server.stats.groups();
    assert!(groups.iter().all(|group| group.prefix() != "cluster.a."));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn one_bad_cluster_does_not_hold_back_the_others_and_each_error_has_its_path() {
    let harness = Harness::new();
    let bad = "{name: bad, connect_timeout: 0s, lrs_server: {self: {}}, type: EDS}";
    let refused = harness
        .clusters(&[bad.to_owned(), static_cluster("good", 1)])
        .unwrap_err();
    assert_eq!(refused.len(), 1);
    assert_eq!(&*refused[0].name, "bad");
    let lines: Vec<&str> = refused[0].reason.lines().collect();
    assert!(
        lines
            .iter()
            .all(|line| line.starts_with("cluster \"bad\" / ")),
        "{lines:?}"
    );
    assert!(lines.len() >= 2, "{lines:?}");
    assert_eq!(harness.ports("good"), [1]);
    assert_eq!(harness.stat("cluster_manager.cds.update_rejected"), 1);
    assert!(harness.manager.init().is_ready(), "an answer came");
    let dump = harness.manager.config_dump(Vec::new());
    let shown = &dump.dynamic_warming_clusters[0];
    let state = shown.error_state.as_ref().unwrap();
    assert!(shown.cluster.is_none() && state.failed_configuration.is_some());
    assert_eq!(state.details, refused[0].reason);
    // An accepted version ends it.
    harness.clusters(&[static_cluster("bad", 2)]).unwrap();
    let dump = harness.manager.config_dump(Vec::new());
    assert!(dump.dynamic_warming_clusters.is_empty());
    assert_eq!(dump.dynamic_active_clusters.len(), 2);
    assert!(
        dump.dynamic_active_clusters
            .iter()
            .all(|shown| shown.error_state.is_none())
    );
    assert_eq!(dump.version_info, "v1");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_refused_change_leaves_the_old_version_and_shows_beside_it() {
    let harness = Harness::new();
    harness.clusters(&[static_cluster("a", 1)]).unwrap();
    harness
        .clusters(&["{name: a, connect_timeout: 0s}".to_owned()])
        .unwrap_err();
    assert_eq!(harness.ports("a"), [1]);
    let dump = harness.manager.config_dump(Vec::new());
    assert!(dump.dynamic_active_clusters[0].error_state.is_some());
    assert!(dump.dynamic_active_clusters[0].cluster.is_some());
    // The old version again: nothing changes but that the error is over.
    let before = harness.get("a").unwrap();
    harness.clusters(&[static_cluster("a", 1)]).unwrap();
    assert!(Arc::ptr_eq(&before, &harness.get("a").unwrap()));
    let dump = harness.manager.config_dump(Vec::new());
    assert!(dump.dynamic_active_clusters[0].error_state.is_none());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn of_two_clusters_of_one_name_the_first_counts() {
    let harness = Harness::new();
    let refused = harness
        .clusters(&[static_cluster("a", 1), static_cluster("a", 2)])
        .unwrap_err();
    assert!(refused[0].reason.contains("earlier cluster"), "{refused:?}");
    assert_eq!(harness.ports("a"), [1]);
    // The same twice is refused as well.
    let twice = [static_cluster("a", 1), static_cluster("a", 1)];
    assert_eq!(harness.clusters(&twice).unwrap_err().len(), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn clusters_of_the_bootstrap_are_neither_changed_nor_removed() {
    let harness = Harness::with_static(&[&static_cluster("a", 1)]);
    harness.clusters(&[static_cluster("a", 2)]).unwrap();
    harness.deliver(ResourceKind::Cluster, &[], &["a"]).unwrap();
    assert_eq!(harness.ports("a"), [1]);
    assert_eq!(harness.stat("cluster_manager.cluster_modified"), 0);
    assert!(!harness.manager.status()[0].added_via_api);
    let endpoints = harness.manager.endpoints_dump();
    assert_eq!(endpoints.static_endpoint_configs.len(), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_cluster_that_a_request_needs_is_asked_for_and_waited_for() {
    let harness = Harness::new();
    let source = Arc::new(harness.source.clone());
    let find = |name: &str| {
        let clusters = &harness.server.on_demand_clusters;
        clusters.find(&source, name, Duration::from_secs(5))
    };
    let (first, second) = (find("a"), find("a"));
    let first = tokio::task::spawn_local(first);
    let second = tokio::task::spawn_local(second);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(
        harness.client.asked_for(ResourceKind::Cluster),
        [Arc::from("a")]
    );
    // It has to be warm.
    harness.clusters(&[eds_cluster("a")]).unwrap();
    sleep(Duration::from_millis(1)).await;
    assert!(!first.is_finished());
    harness.endpoints(assignment("a", &[(1, "")])).unwrap();
    first.await.unwrap();
    second.await.unwrap();
    // It is there already.
    find("a").await;
    // It does not come, or does not exist.
    let began = tokio::time::Instant::now();
    find("late").await;
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    let missing = tokio::task::spawn_local(find("missing"));
    sleep(Duration::from_millis(1)).await;
    assert_eq!(harness.client.asked_for(ResourceKind::Cluster).len(), 2);
    harness
        .deliver(ResourceKind::Cluster, &[], &["missing"])
        .unwrap();
    sleep(Duration::from_millis(1)).await;
    assert!(missing.is_finished());
    assert_eq!(
        harness.client.asked_for(ResourceKind::Cluster),
        [Arc::from("a")]
    );
    assert!(harness.stat("cluster_manager.odcds.update_success") > 0);
}
