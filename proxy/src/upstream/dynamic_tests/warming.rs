//! When clusters and endpoints are used, and when they are forgotten.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::super::*;
use super::{Harness, assignment, assignment_text, eds_cluster, endpoints};
use crate::xds::{FetchFailure, ResourceKind};

#[tokio::test(flavor = "local", start_paused = true)]
async fn endpoints_that_went_stale_are_forgotten() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    let stale = assignment_text("a", &[(1, "")]);
    let stale = format!(
        "{}, policy: {{endpoint_stale_after: 10s}}}}",
        stale.strip_suffix('}').unwrap()
    );
    harness.endpoints(endpoints(&stale)).unwrap();
    sleep(Duration::from_secs(8)).await;
    // The same again counts from the start.
    harness.endpoints(endpoints(&stale)).unwrap();
    sleep(Duration::from_secs(8)).await;
    assert_eq!(harness.ports("a"), [1]);
    sleep(Duration::from_secs(3)).await;
    assert!(harness.ports("a").is_empty());
    assert_eq!(harness.stat("cluster.a.assignment_stale"), 1);
    assert_eq!(harness.stat("cluster.a.assignment_timeout_received"), 2);
    harness.endpoints(endpoints(&stale)).unwrap();
    assert_eq!(harness.ports("a"), [1]);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_changed_cluster_serves_on_until_its_endpoints_come_again() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    harness.endpoints(assignment("a", &[(1, "")])).unwrap();
    let old = harness.get("a").unwrap();
    harness
        .clusters(&[eds_cluster("a").replace("1s", "2s")])
        .unwrap();
    assert!(Arc::ptr_eq(&old, &harness.get("a").unwrap()));
    assert_eq!(harness.stat("cluster_manager.warming_clusters"), 1);
    assert_eq!(harness.stat("cluster_manager.active_clusters"), 1);
    // Both versions hear of it.
    harness.endpoints(assignment("a", &[(2, "")])).unwrap();
    assert!(!Arc::ptr_eq(&old, &harness.get("a").unwrap()));
    assert_eq!(harness.ports("a"), [2]);
    // Back to the first one, while a third one warms.
    harness
        .clusters(&[eds_cluster("a").replace("1s", "3s")])
        .unwrap();
    harness
        .clusters(&[eds_cluster("a").replace("1s", "2s")])
        .unwrap();
    harness.endpoints(assignment("a", &[(3, "")])).unwrap();
    let timeout = harness.get("a").unwrap().info.settings.connect_timeout;
    assert_eq!(
        (timeout, harness.ports("a")),
        (Duration::from_secs(2), vec![3])
    );
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_changed_cluster_takes_the_cached_endpoints_when_the_server_keeps_silent() {
    let harness = Harness::new();
    harness
        .clusters(&[eds_cluster("a"), eds_cluster("new")])
        .unwrap();
    harness.endpoints(assignment("a", &[(1, "")])).unwrap();
    harness
        .clusters(&[eds_cluster("a").replace("1s", "2s")])
        .unwrap();
    let old = harness.get("a").unwrap();
    harness.client.fail(
        &harness.source,
        ResourceKind::Endpoints,
        FetchFailure::ConnectionFailure,
    );
    assert!(
        Arc::ptr_eq(&old, &harness.get("a").unwrap()),
        "it is still waited for"
    );
    harness.client.fail(
        &harness.source,
        ResourceKind::Endpoints,
        FetchFailure::Timeout,
    );
    assert!(!Arc::ptr_eq(&old, &harness.get("a").unwrap()));
    assert_eq!(harness.ports("a"), [1]);
    assert_eq!(harness.stat("cluster.a.assignment_use_cached"), 1);
    assert!(
        harness.ports("new").is_empty(),
        "and one without any starts empty"
    );
    assert_eq!(harness.stat("cluster.new.init_fetch_timeout"), 1);
    drop(old);
    // When nobody asks for the name any more, nothing is kept.
    harness.deliver(ResourceKind::Cluster, &[], &["a"]).unwrap();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    harness.client.fail(
        &harness.source,
        ResourceKind::Endpoints,
        FetchFailure::Timeout,
    );
    assert!(harness.ports("a").is_empty());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn until_all_are_warm_endpoints_are_asked_for_when_primary_clusters_are_ready() {
    let harness = Harness::new();
    let slow = "{name: dns, type: STRICT_DNS, dns_lookup_family: V4_ONLY, load_assignment: {cluster_name: dns, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: localhost, port_value: 1}}}}]}]}}";
    harness
        .clusters(&[eds_cluster("a"), slow.to_owned()])
        .unwrap();
    assert!(harness.client.asked_for(ResourceKind::Endpoints).is_empty());
    harness.manager.primary_ready().await;
    assert_eq!(harness.client.asked_for(ResourceKind::Endpoints).len(), 1);
    harness.endpoints(assignment("a", &[(1, "")])).unwrap();
    harness.manager.all_ready().await;
}

/// A cluster with EDS whose hosts are checked at a port where nobody listens, and are not believed to be well otherwise.
fn checked_eds_cluster(name: &str, more: &str) -> String {
    format!(
        "{{name: {name}, type: EDS, eds_cluster_config: {{eds_config: {{ads: {{}}}}}}, connect_timeout: 1s, health_checks: [{{timeout: 1s, interval: 600s, no_traffic_interval: 600s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {{}}}}]{more}}}"
    )
}

#[tokio::test(flavor = "local")]
async fn a_cluster_with_health_checks_is_used_when_each_host_was_checked_once() {
    let harness = Harness::new();
    harness.clusters(&[checked_eds_cluster("a", "")]).unwrap();
    harness
        .endpoints(assignment("a", &[(9, ""), (10, "")]))
        .unwrap();
    assert!(harness.get("a").is_none(), "no host was checked");
    harness.manager.all_ready().await;
    let cluster = harness.get("a").unwrap();
    assert!(
        cluster
            .hosts
            .load()
            .hosts()
            .all(|host| { host.health.has(HealthFlag::FailedActiveHc) })
    );
    assert_eq!(harness.stat("cluster.a.membership_healthy"), 0);
    assert_eq!(harness.stat("cluster.a.health_check.network_failure"), 2);
}

#[tokio::test(flavor = "local")]
async fn a_host_that_is_taken_away_stays_while_its_health_checks_succeed() {
    for (more, stays) in [("", true), (", ignore_health_on_host_removal: true", false)] {
        let harness = Harness::new();
        harness.clusters(&[checked_eds_cluster("a", more)]).unwrap();
        harness
            .endpoints(assignment("a", &[(9, ""), (10, "")]))
            .unwrap();
        harness.manager.all_ready().await;
        let cluster = harness.get("a").unwrap();
        // As if both had been found well.
        let well = |port: u16| {
            let hosts = cluster.hosts.load();
            let host = hosts.hosts().find(|host| host.address.port() == Some(port));
            host.unwrap().clone()
        };
        for port in [9, 10] {
            well(port).health.clear(HealthFlag::FailedActiveHc);
        }
        let removed = well(10);
        harness.endpoints(assignment("a", &[(9, "")])).unwrap();
        assert_eq!(harness.ports("a").contains(&10), stays);
        assert_eq!(removed.health.has(HealthFlag::PendingDynamicRemoval), stays);
        if !stays {
            continue;
        }
        // It is assigned again: there is nothing left to wait for.
        harness
            .endpoints(assignment("a", &[(9, ""), (10, "")]))
            .unwrap();
        assert!(!removed.health.has(HealthFlag::PendingDynamicRemoval));
        assert!(Arc::ptr_eq(&removed, &well(10)));
        harness.endpoints(assignment("a", &[(9, "")])).unwrap();
        // With its health it loses its place.
        removed.health.set(HealthFlag::FailedActiveHc);
        discovery::remove_host(&cluster, removed.identity());
        assert_eq!(harness.ports("a"), [9]);
    }
}

#[tokio::test(flavor = "local")]
async fn a_host_whose_checks_go_elsewhere_is_a_new_one() {
    let harness = Harness::new();
    harness.clusters(&[checked_eds_cluster("a", "")]).unwrap();
    harness.endpoints(assignment("a", &[(9, "")])).unwrap();
    harness.manager.all_ready().await;
    let cluster = harness.get("a").unwrap();
    let only = || cluster.hosts.load().hosts().next().unwrap().clone();
    let first = only();
    first.health.clear(HealthFlag::FailedActiveHc);
    let elsewhere = endpoints(
        "{cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9}}, health_check_config: {port_value: 11}}}]}]}",
    );
    harness.endpoints(elsewhere).unwrap();
    let second = only();
    assert!(first.identity() != second.identity());
    assert!(second.health.has(HealthFlag::FailedActiveHc));
    assert_eq!(second.health_check_address().to_string(), "127.0.0.1:11");
}
