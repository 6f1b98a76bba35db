//! Aggregate clusters whose members a control plane adds, changes and takes away.

use outrigger_xds_tests::plane::{Kind, Resource};

use crate::resources::{cluster, eds_cluster, endpoints, listener};
use crate::stage::{AGGREGATED, tell};

/// A cluster whose hosts are those of others.
fn aggregate(name: &str, members: &str) -> Resource {
    Resource::yaml(
        Kind::Cds,
        &format!(
            "name: {name}\nconnect_timeout: 1s\nlb_policy: CLUSTER_PROVIDED\ncluster_type: {{ name: envoy.clusters.aggregate, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig, clusters: [{members}] }} }}"
        ),
    )
}

#[test]
fn members_of_an_aggregate_come_and_go_by_cds() {
    tell("aggregate-members", &AGGREGATED, async |stage| {
        let first = stage.backend("first").await;
        let second = stage.backend("second").await;
        let plane = &stage.plane;
        plane.set(Kind::Cds, [aggregate("all", "a, b"), cluster("b", second)]);
        plane.set(Kind::Lds, [listener("l", "all")]);
        stage.run().await;
        // One that is not there is passed over until it is.
        stage.answers("l", 200, "second").await;
        stage.plane.put(Kind::Cds, cluster("a", first));
        stage.answers("l", 200, "first").await;
        stage.plane.put(Kind::Cds, cluster("a", second));
        stage.answers("l", 200, "second").await;
        stage.plane.put(Kind::Cds, cluster("a", first));
        stage.answers("l", 200, "first").await;
        stage.plane.remove(Kind::Cds, &["a"]);
        stage.answers("l", 200, "second").await;
        stage.plane.remove(Kind::Cds, &["b"]);
        stage.answers("l", 503, "no healthy upstream").await;
        stage.plane.put(Kind::Cds, cluster("c", first));
        stage.plane.put(Kind::Cds, aggregate("all", "c"));
        stage.answers("l", 200, "first").await;
        stage
            .note_stats(&[
                "cluster_manager.active_clusters",
                "cluster.all.membership_total",
            ])
            .await;
    });
}

#[test]
fn an_aggregate_follows_the_endpoints_of_its_members() {
    tell("aggregate-endpoints", &AGGREGATED, async |stage| {
        let first = stage.backend("first").await;
        let second = stage.backend("second").await;
        let source = stage.source();
        let clusters = [
            aggregate("all", "a, b"),
            eds_cluster("a", &source),
            eds_cluster("b", &source),
        ];
        stage.plane.set(Kind::Cds, clusters);
        let both = [endpoints("a", &[first]), endpoints("b", &[second])];
        stage.plane.set(Kind::Eds, both);
        stage.plane.set(Kind::Lds, [listener("l", "all")]);
        stage.run().await;
        stage.answers("l", 200, "first").await;
        stage.plane.put(Kind::Eds, endpoints("a", &[]));
        stage.answers("l", 200, "second").await;
        stage.plane.put(Kind::Eds, endpoints("a", &[first]));
        stage.answers("l", 200, "first").await;
        stage.note_stats(&["cluster.a.membership_total"]).await;
    });
}
