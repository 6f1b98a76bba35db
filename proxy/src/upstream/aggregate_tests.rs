//! Aggregates whose members come and go while the process runs.

use std::rc::Rc;
use std::sync::Arc;

use super::dynamic_tests::{Harness, assignment, eds_cluster, static_cluster};
use super::*;
use crate::server::Random;
use crate::xds::ResourceKind;

struct Drawn(Random);

impl LoadBalancerContext for Drawn {
    fn random(&self) -> u64 {
        self.0.next()
    }
}

fn aggregate(name: &str, members: &str) -> String {
    format!(
        "{{name: {name}, lb_policy: CLUSTER_PROVIDED, cluster_type: {{name: x, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig, clusters: [{members}]}}}}}}"
    )
}

struct OnWorker {
    clusters: WorkerClusters,
    drawn: Drawn,
}

impl OnWorker {
    fn new(harness: &Harness) -> Self {
        Self {
            clusters: WorkerClusters::new(harness.manager.table().clone(), 0),
            drawn: Drawn(Random::new(1)),
        }
    }

    fn host(&self, harness: &Harness, name: &str) -> Option<Rc<WorkerHost>> {
        let cluster = self.clusters.get(harness.id(name))?;
        cluster.choose_host(&self.drawn)
    }

    /// The ports that requests go to, sorted.
    fn ports(&self, harness: &Harness, name: &str) -> Vec<u16> {
        let hosts = (0..40).filter_map(|_| self.host(harness, name));
        let mut ports: Vec<u16> = hosts.filter_map(|host| host.address.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn members_of_an_aggregate_come_change_and_go() {
    let harness = Harness::new();
    harness
        .clusters(&[aggregate("all", "a, b"), static_cluster("b", 2)])
        .unwrap();
    harness.manager.all_ready().await;
    let worker = OnWorker::new(&harness);
    assert_eq!(worker.ports(&harness, "all"), [2]);
    // A stream holds on to the aggregate that it began with.
    let held = worker.clusters.get(harness.id("all")).unwrap();
    harness
        .clusters(&[
            aggregate("all", "a, b"),
            static_cluster("b", 2),
            static_cluster("a", 1),
        ])
        .unwrap();
    assert_eq!(worker.ports(&harness, "all"), [1]);
    let host = held.choose_host(&worker.drawn).unwrap();
    assert_eq!(host.address.port(), Some(1));
    harness
        .clusters(&[
            aggregate("all", "a, b"),
            static_cluster("b", 2),
            static_cluster("a", 3),
        ])
        .unwrap();
    assert_eq!(worker.ports(&harness, "all"), [3]);
    harness.deliver(ResourceKind::Cluster, &[], &["a"]).unwrap();
    assert_eq!(worker.ports(&harness, "all"), [2]);
    harness.deliver(ResourceKind::Cluster, &[], &["b"]).unwrap();
    assert!(worker.host(&harness, "all").is_none());
    harness
        .deliver(ResourceKind::Cluster, &[], &["all"])
        .unwrap();
    assert!(worker.clusters.get(harness.id("all")).is_none());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_aggregate_follows_the_endpoints_of_its_members() {
    let harness = Harness::new();
    harness
        .clusters(&[
            aggregate("all", "a, b"),
            eds_cluster("a"),
            static_cluster("b", 9),
        ])
        .unwrap();
    harness.endpoints(assignment("a", &[])).unwrap();
    harness.manager.all_ready().await;
    let worker = OnWorker::new(&harness);
    assert_eq!(worker.ports(&harness, "all"), [9]);
    harness
        .endpoints(assignment("a", &[(1, ""), (2, "")]))
        .unwrap();
    assert_eq!(worker.ports(&harness, "all"), [1, 2]);
    let sick = assignment("a", &[(1, ", health_status: UNHEALTHY")]);
    harness.endpoints(sick).unwrap();
    assert_eq!(worker.ports(&harness, "all"), [9]);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_new_version_of_an_aggregate_has_its_own_members() {
    let harness = Harness::new();
    let members = [static_cluster("a", 1), static_cluster("b", 2)];
    let with = |all: String| [vec![all], members.to_vec()].concat();
    harness.clusters(&with(aggregate("all", "a"))).unwrap();
    harness.manager.all_ready().await;
    let worker = OnWorker::new(&harness);
    assert_eq!(worker.ports(&harness, "all"), [1]);
    harness.clusters(&with(aggregate("all", "b"))).unwrap();
    assert_eq!(worker.ports(&harness, "all"), [2]);
    harness.clusters(&with(static_cluster("all", 7))).unwrap();
    assert_eq!(worker.ports(&harness, "all"), [7]);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn aggregates_that_are_members_of_each_other_have_the_hosts_of_others_alone() {
    let harness = Harness::new();
    harness
        .clusters(&[
            aggregate("left", "right, left, a"),
            aggregate("right", "left"),
            static_cluster("a", 1),
        ])
        .unwrap();
    harness.manager.all_ready().await;
    let worker = OnWorker::new(&harness);
    assert_eq!(worker.ports(&harness, "left"), [1]);
    assert!(worker.host(&harness, "right").is_none());
    // Nothing holds itself: when the table forgets it, it is gone.
    let gone = Arc::downgrade(&harness.get("left").unwrap());
    harness
        .deliver(ResourceKind::Cluster, &[], &["left", "right"])
        .unwrap();
    assert!(worker.clusters.get(harness.id("left")).is_none());
    assert!(worker.clusters.get(harness.id("right")).is_none());
    tokio::task::yield_now().await;
    assert!(gone.upgrade().is_none());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_policy_that_the_cluster_provides_needs_a_cluster_that_does() {
    let harness = Harness::new();
    let refused = harness
        .clusters(&[
            aggregate("first", "a").replace("lb_policy: CLUSTER_PROVIDED, ", ""),
            aggregate("second", ""),
            "{name: third, lb_policy: CLUSTER_PROVIDED}".to_owned(),
            aggregate("fourth", "a").replace(
                "lb_policy",
                "lb_subset_config: {subset_selectors: [{keys: [k]}]}, lb_policy",
            ),
        ])
        .unwrap_err();
    let said = |name: &str, what: &str| {
        let of_it = refused.iter().find(|refused| &*refused.name == name);
        let reason = &of_it.unwrap().reason;
        assert!(reason.contains(what), "{name}: {reason}");
    };
    said(
        "first",
        "cluster provided LB not specified but cluster 'first' provided one",
    );
    said("second", "clusters");
    said(
        "third",
        "cluster provided LB specified but cluster 'third' did not provide one",
    );
    said("fourth", "cannot be combined with lb_subset_config");
}
