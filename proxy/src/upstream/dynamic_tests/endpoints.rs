//! Assignments of endpoints: what they change, and what they leave.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::super::*;
use super::{Harness, assignment, assignment_text, eds_cluster, endpoints};
use crate::server::Random;
use crate::xds::{Resource as XdsResource, ResourceKind};

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_cluster_with_eds_is_used_when_its_endpoints_are_known() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    assert_eq!(
        harness.client.asked_for(ResourceKind::Endpoints),
        [Arc::from("a")]
    );
    assert!(harness.get("a").is_none());
    assert_eq!(harness.stat("cluster_manager.warming_clusters"), 1);
    assert_eq!(harness.stat("cluster.a.warming_state"), 1);
    let dump = harness.manager.config_dump(Vec::new());
    assert_eq!(dump.dynamic_warming_clusters.len(), 1);
    harness
        .endpoints(assignment(
            "a",
            &[(1, ""), (2, ", load_balancing_weight: 5"), (1, "")],
        ))
        .unwrap();
    assert_eq!(
        harness.ports("a"),
        [1, 2],
        "the first of those with one address"
    );
    harness.manager.all_ready().await;
    for (stat, expected) in [
        ("cluster.a.warming_state", 0),
        ("cluster.a.update_success", 1),
        ("cluster.a.update_attempt", 2),
        ("cluster.a.membership_total", 2),
        ("cluster.a.membership_change", 1),
        ("cluster.a.max_host_weight", 5),
    ] {
        assert_eq!(harness.stat(stat), expected, "{stat}");
    }
    let status = harness.manager.status();
    assert!(status[0].added_via_api);
    let endpoints = harness.manager.endpoints_dump();
    assert_eq!(endpoints.dynamic_endpoint_configs.len(), 1);
    // It goes, and nobody asks for its endpoints any more.
    harness.deliver(ResourceKind::Cluster, &[], &["a"]).unwrap();
    assert!(harness.client.asked_for(ResourceKind::Endpoints).is_empty());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn hosts_that_stay_are_the_same_hosts_whatever_changes_about_them() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    harness
        .endpoints(assignment("a", &[(1, ""), (2, "")]))
        .unwrap();
    let workers = WorkerClusters::new(harness.manager.table().clone(), 0);
    let on_worker = workers.get(harness.id("a")).unwrap();
    let hosts =
        |cluster: &Cluster| -> Vec<Arc<Host>> { cluster.hosts.load().hosts().cloned().collect() };
    let cluster = harness.get("a").unwrap();
    let before = hosts(&cluster);
    harness
        .endpoints(assignment(
            "a",
            &[
                (2, ""),
                (1, ", load_balancing_weight: 7, health_status: DRAINING"),
                (3, ""),
            ],
        ))
        .unwrap();
    let after = hosts(&cluster);
    assert!(
        Arc::ptr_eq(&before[1], &after[0]),
        "nothing about it changed"
    );
    assert_eq!(before[0].identity(), after[1].identity());
    assert_eq!(
        (after[1].weight, after[1].coarse_health()),
        (7, Health::Unhealthy)
    );
    assert_eq!(cluster.info.endpoint_stats.membership_healthy().value(), 2);
    assert!(Rc::ptr_eq(
        &on_worker,
        &workers.get(harness.id("a")).unwrap()
    ));
    // What is in another locality is another host.
    let moved =
        assignment_text("a", &[(2, ""), (1, "")]).replace("[{lb_", "[{locality: {zone: z}, lb_");
    harness.endpoints(endpoints(&moved)).unwrap();
    assert_ne!(hosts(&cluster)[0].identity(), after[0].identity());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_assignment_that_changes_nothing_rebuilds_nothing() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    harness
        .endpoints(assignment("a", &[(1, ""), (2, "")]))
        .unwrap();
    let cluster = harness.get("a").unwrap();
    let before = cluster.hosts.load_full();
    harness
        .endpoints(assignment("a", &[(1, ""), (2, "")]))
        .unwrap();
    harness
        .endpoints(assignment("a", &[(2, ""), (1, "")]))
        .unwrap();
    assert!(Arc::ptr_eq(&before, &cluster.hosts.load_full()));
    assert_eq!(harness.stat("cluster.a.update_no_rebuild"), 2);
    let weighted = assignment_text("a", &[(2, ""), (1, "")])
        .replace("[{lb_", "[{load_balancing_weight: 3, lb_");
    sleep(Duration::from_secs(2)).await;
    harness.endpoints(endpoints(&weighted)).unwrap();
    assert!(!Arc::ptr_eq(&before, &cluster.hosts.load_full()));
    assert_eq!(harness.stat("cluster.a.membership_change"), 1);
}

struct AnyHost(Random);

impl LoadBalancerContext for AnyHost {
    fn random(&self) -> u64 {
        self.0.next()
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_assignment_with_another_health_alone_keeps_the_hosts_and_tells_workers() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    let deliver = |ports: &[(u16, &str)]| harness.endpoints(assignment("a", ports)).unwrap();
    deliver(&[(1, ""), (2, "")]);
    let workers = WorkerClusters::new(harness.manager.table().clone(), 0);
    let on_worker = workers.get(harness.id("a")).unwrap();
    let chosen = || -> Vec<String> {
        workers.refresh();
        let mut chosen: Vec<String> = (0..4)
            .map(|_| {
                on_worker
                    .choose_host(&AnyHost(Random::new(7)))
                    .unwrap()
                    .address
                    .to_string()
            })
            .collect();
        chosen.sort();
        chosen.dedup();
        chosen
    };
    assert_eq!(chosen().len(), 2);
    let cluster = harness.get("a").unwrap();
    let before = cluster.hosts.load_full();
    deliver(&[(1, ""), (2, ", health_status: DRAINING")]);
    assert!(Arc::ptr_eq(&before, &cluster.hosts.load_full()));
    assert_eq!(cluster.info.endpoint_stats.membership_healthy().value(), 1);
    assert_eq!(harness.stat("cluster_manager.cluster_updated"), 1);
    assert_eq!(chosen(), ["127.0.0.1:1"]);
    // What says the same in another way rebuilds nothing.
    deliver(&[
        (1, ""),
        (2, ", health_status: DRAINING, load_balancing_weight: 1"),
    ]);
    assert_eq!(harness.stat("cluster.a.update_no_rebuild"), 1);
    deliver(&[
        (1, ", health_status: UNHEALTHY"),
        (2, ", health_status: HEALTHY, load_balancing_weight: 1"),
    ]);
    assert!(Arc::ptr_eq(&before, &cluster.hosts.load_full()));
    assert_eq!(chosen(), ["127.0.0.1:2"]);
    // Of two endpoints with one address the first counts.
    deliver(&[(1, ""), (2, ""), (2, ", health_status: UNHEALTHY")]);
    deliver(&[(1, ""), (2, ""), (2, ", health_status: DRAINING")]);
    assert_eq!(cluster.info.endpoint_stats.membership_healthy().value(), 2);
    assert_eq!(chosen().len(), 2);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn every_change_of_an_assignment_is_published_at_once() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    for weight in 1..5 {
        let rest = format!(", load_balancing_weight: {weight}");
        harness.endpoints(assignment("a", &[(1, &rest)])).unwrap();
        let cluster = harness.get("a").unwrap();
        let hosts = cluster.hosts.load();
        assert_eq!(hosts.hosts().next().unwrap().weight, weight);
    }
    assert_eq!(harness.stat("cluster_manager.cluster_updated"), 3);
    assert_eq!(harness.stat("cluster.a.membership_change"), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_priority_that_lost_its_hosts_stays_empty_and_counts_by_itself() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    let two = "{cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}, health_status: DRAINING}]}, {priority: 1, lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 2}}}}]}]}";
    harness.endpoints(endpoints(two)).unwrap();
    assert_eq!(harness.stat("cluster.a.membership_change"), 2);
    assert_eq!(harness.stat("cluster.a.membership_excluded"), 1);
    harness.endpoints(assignment("a", &[(1, "")])).unwrap();
    let hosts = harness.get("a").unwrap().hosts.load_full();
    let sizes: Vec<_> = hosts.priorities.iter().map(|set| set.hosts.len()).collect();
    assert_eq!(sizes, [1, 0]);
    assert_eq!(harness.stat("cluster.a.membership_change"), 3);
    assert_eq!(harness.stat("cluster.a.membership_excluded"), 0);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn bad_assignments_are_refused_and_leave_the_hosts_as_they_are() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    harness.endpoints(assignment("a", &[(1, "")])).unwrap();
    for (yaml, expected) in [
        (
            "{cluster_name: b}",
            "endpoints \"a\" / cluster_name: \"b\" is not \"a\"",
        ),
        (
            "{cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: name, port_value: 1}}}}]}]}",
            "endpoints \"a\" / endpoints[0] / lb_endpoints[0] / endpoint / address: \"name\" is not an IP address",
        ),
        (
            "{cluster_name: a, endpoints: [{leds_cluster_locality_config: {leds_collection_name: x}}]}",
            "endpoints \"a\" / endpoints[0] / lb_config: is not supported",
        ),
        (
            "{cluster_name: a, endpoints: [{priority: 129}]}",
            "endpoints \"a\" / endpoints[0] / priority: ",
        ),
        (
            "{cluster_name: a, policy: {drop_overloads: [{category: x, drop_percentage: {numerator: 1}}, {category: z}]}}",
            "endpoints \"a\" / policy / drop_overloads: has 2 categories",
        ),
        (
            "{cluster_name: a, policy: {drop_overloads: [{category: x, drop_percentage: {numerator: 101}}]}}",
            "endpoints \"a\" / policy / drop_overloads[0] / drop_percentage: 101 of 100",
        ),
    ] {
        let sent = XdsResource {
            name: "a".into(),
            ..endpoints(yaml)
        };
        let refused = harness.endpoints(sent).unwrap_err();
        assert!(refused[0].reason.starts_with(expected), "{refused:?}");
        assert_eq!(harness.ports("a"), [1]);
    }
    assert_eq!(harness.stat("cluster.a.update_rejected"), 6);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_share_to_drop_comes_and_goes_with_the_assignment() {
    let harness = Harness::new();
    harness.clusters(&[eds_cluster("a")]).unwrap();
    let plain = assignment_text("a", &[(1, "")]);
    let dropping = format!(
        "{}, policy: {{drop_overloads: [{{category: x, drop_percentage: {{numerator: 25}}}}]}}}}",
        plain.strip_suffix('}').unwrap()
    );
    harness.endpoints(endpoints(&dropping)).unwrap();
    let workers = WorkerClusters::new(harness.manager.table().clone(), 0);
    let cluster = workers.get(harness.id("a")).unwrap();
    assert_eq!(cluster.drop_overload(), 250_000);
    harness.endpoints(endpoints(&plain)).unwrap();
    assert_eq!(cluster.drop_overload(), 0);
}
