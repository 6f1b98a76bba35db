//! Make before break: what waits for its dependencies does not serve, and what it replaces does.

use std::time::Duration;

use outrigger_xds_tests::plane::Kind;
use tokio::time::sleep;

use crate::resources::{
    cluster, cluster_with, eds_cluster, endpoints, listener, rds_listener, routes,
};
use crate::stage::{AGGREGATED, STREAMS, tell};

/// Time in which something would happen that must not.
const A_WHILE: Duration = Duration::from_millis(400);

#[test]
fn a_listener_waits_for_its_routes_while_its_predecessor_serves() {
    tell("warm-listener", &STREAMS, async |stage| {
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        let source = stage.source();
        stage
            .plane
            .set(Kind::Cds, [cluster("a", one), cluster("b", two)]);
        stage.plane.set(Kind::Rds, [routes("r", "a")]);
        stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "r", &source)]);
        stage.run().await;
        stage.answers("l", 200, "one").await;
        let version = stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "s", &source)]);
        stage.plane.acked(Kind::Lds, &version).await;
        sleep(A_WHILE).await;
        assert_eq!(stage.get("l").await.body, "one");
        stage.note_dump().await;
        stage
            .note_stats(&["listener_manager.total_listeners_warming"])
            .await;
        stage.plane.put(Kind::Rds, routes("s", "b"));
        stage.answers("l", 200, "two").await;
        stage
            .note_stats(&["listener_manager.total_listeners_warming"])
            .await;
    });
}

#[test]
fn a_new_listener_accepts_nobody_before_its_routes_are_there() {
    tell("warm-new-listener", &AGGREGATED, async |stage| {
        let one = stage.backend("one").await;
        let source = stage.source();
        stage.plane.set(Kind::Cds, [cluster("a", one)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        let both = [listener("l", "a"), rds_listener("m", "s", &source)];
        let version = stage.plane.set(Kind::Lds, both);
        stage.plane.acked(Kind::Lds, &version).await;
        stage.plane.subscribed(Kind::Rds, &["s"]).await;
        sleep(A_WHILE).await;
        assert_eq!(stage.proxy().listener_by_now("m").await, None);
        stage.plane.put(Kind::Rds, routes("s", "a"));
        stage.answers("m", 200, "one").await;
    });
}

#[test]
fn a_listener_that_still_waits_can_be_replaced_and_removed() {
    tell("warm-replaced", &AGGREGATED, async |stage| {
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        let source = stage.source();
        stage
            .plane
            .set(Kind::Cds, [cluster("a", one), cluster("b", two)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "never", &source)]);
        stage.plane.subscribed(Kind::Rds, &["never"]).await;
        stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "s", &source)]);
        stage.plane.subscribed(Kind::Rds, &["s"]).await;
        assert_eq!(stage.get("l").await.body, "one");
        stage.plane.set(Kind::Rds, [routes("s", "b")]);
        stage.answers("l", 200, "two").await;
        stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "never", &source)]);
        stage.plane.subscribed(Kind::Rds, &["never", "s"]).await;
        stage.plane.set(Kind::Lds, []);
        stage.no_listener("l").await;
        stage.plane.subscribed(Kind::Rds, &[]).await;
    });
}

#[test]
fn a_cluster_waits_for_its_endpoints_while_its_predecessor_serves() {
    tell("warm-cluster", &AGGREGATED, async |stage| {
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        let source = stage.source();
        stage.plane.set(Kind::Cds, [cluster("a", one)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        stage.answers("l", 200, "one").await;
        // The ACK may wait until the cluster is in force.
        stage.plane.set(Kind::Cds, [eds_cluster("a", &source)]);
        stage.plane.subscribed(Kind::Eds, &["a"]).await;
        sleep(A_WHILE).await;
        assert_eq!(stage.get("l").await.body, "one");
        stage
            .note_stats(&["cluster_manager.warming_clusters"])
            .await;
        stage.note_dump().await;
        stage.plane.set(Kind::Eds, [endpoints("a", &[two])]);
        stage.answers("l", 200, "two").await;
        stage
            .note_stats(&["cluster_manager.warming_clusters"])
            .await;
    });
}

#[test]
fn a_new_cluster_is_unknown_to_requests_until_its_endpoints_are_there() {
    tell("warm-new-cluster", &STREAMS, async |stage| {
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        let source = stage.source();
        stage.plane.set(Kind::Cds, [cluster("a", one)]);
        stage.plane.set(Kind::Rds, [routes("r", "b")]);
        stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "r", &source)]);
        stage.run().await;
        stage.answers("l", 503, "").await;
        stage
            .plane
            .set(Kind::Cds, [cluster("a", one), eds_cluster("b", &source)]);
        stage.plane.subscribed(Kind::Eds, &["b"]).await;
        sleep(A_WHILE).await;
        stage.note(format!("{:?}", stage.get("l").await));
        stage.plane.set(Kind::Eds, [endpoints("b", &[two])]);
        stage.answers("l", 200, "two").await;
    });
}

#[test]
fn a_changed_eds_cluster_is_in_force_when_its_endpoints_came_again() {
    tell("warm-changed", &AGGREGATED, async |stage| {
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        let source = stage.source();
        stage.plane.set(Kind::Cds, [eds_cluster("a", &source)]);
        stage.plane.set(Kind::Eds, [endpoints("a", &[one])]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        stage.answers("l", 200, "one").await;
        let text = format!(
            "name: a\ntype: EDS\nconnect_timeout: 2s\neds_cluster_config: {{ eds_config: {source} }}"
        );
        let changed = outrigger_xds_tests::plane::Resource::yaml(Kind::Cds, &text);
        // The ACK may wait until the cluster is in force.
        let version = stage.plane.set(Kind::Cds, [changed]);
        sleep(A_WHILE).await;
        assert_eq!(stage.get("l").await.body, "one");
        stage.plane.set(Kind::Eds, [endpoints("a", &[two])]);
        stage.answers("l", 200, "two").await;
        stage.plane.acked(Kind::Cds, &version).await;
        stage.settles("cluster_manager.warming_clusters", 0).await;
        stage
            .note_stats(&["cluster_manager.cluster_modified"])
            .await;
    });
}

#[test]
fn listeners_are_asked_for_when_the_clusters_have_their_endpoints() {
    tell("start-order", &STREAMS, async |stage| {
        let one = stage.backend("one").await;
        let source = stage.source();
        stage.plane.set(Kind::Cds, [eds_cluster("a", &source)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.start().await;
        stage.plane.subscribed(Kind::Eds, &["a"]).await;
        sleep(A_WHILE).await;
        assert_eq!(stage.plane.asks(Kind::Lds), []);
        assert!(!stage.is_ready().await);
        stage.plane.set(Kind::Eds, [endpoints("a", &[one])]);
        stage.ready().await;
        stage.answers("l", 200, "one").await;
    });
}

#[test]
fn after_initial_fetch_timeout_a_listener_goes_on_without_routes() {
    tell("fetch-timeout", &STREAMS, async |stage| {
        let one = stage.backend("one").await;
        let source = stage.source_with("initial_fetch_timeout: 0.5s,");
        stage.plane.set(Kind::Cds, [cluster("a", one)]);
        stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "r", &source)]);
        stage.run().await;
        stage.answers("l", 404, "").await;
        stage
            .note_stats(&[
                "http.ingress.rds.r.init_fetch_timeout",
                "http.ingress.rds.r.update_failure",
            ])
            .await;
        stage.plane.set(Kind::Rds, [routes("r", "a")]);
        stage.answers("l", 200, "one").await;
    });
}

#[test]
fn after_initial_fetch_timeout_a_cluster_goes_on_without_endpoints() {
    tell("fetch-timeout-cluster", &STREAMS, async |stage| {
        let one = stage.backend("one").await;
        let source = stage.source_with("initial_fetch_timeout: 0.5s,");
        stage.plane.set(Kind::Cds, [eds_cluster("a", &source)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        stage.answers("l", 503, "no healthy upstream").await;
        stage
            .note_stats(&["cluster.a.init_fetch_timeout", "cluster.a.update_failure"])
            .await;
        stage.plane.set(Kind::Eds, [endpoints("a", &[one])]);
        stage.answers("l", 200, "one").await;
    });
}

#[test]
fn without_initial_fetch_timeout_the_first_answer_is_waited_for() {
    tell("fetch-forever", &AGGREGATED, async |stage| {
        let one = stage.backend("one").await;
        let source = stage.source_with("initial_fetch_timeout: 0s,");
        stage.plane.set(Kind::Cds, [cluster("a", one)]);
        stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "r", &source)]);
        stage.start().await;
        stage.plane.subscribed(Kind::Rds, &["r"]).await;
        sleep(Duration::from_secs(2)).await;
        assert!(!stage.is_ready().await);
        stage.plane.set(Kind::Rds, [routes("r", "a")]);
        stage.ready().await;
        stage.answers("l", 200, "one").await;
    });
}

#[test]
fn clusters_that_need_no_endpoints_from_elsewhere_are_in_force_at_once() {
    tell("no-warming", &AGGREGATED, async |stage| {
        let one = stage.backend("one").await;
        stage.plane.set(Kind::Cds, [cluster("a", one)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        let version = stage.plane.set(
            Kind::Cds,
            [cluster_with(
                "a",
                one,
                "per_connection_buffer_limit_bytes: 4096",
            )],
        );
        stage.plane.acked(Kind::Cds, &version).await;
        stage.settles("cluster_manager.cluster_modified", 1).await;
        stage.answers("l", 200, "one").await;
        stage.note_dump().await;
    });
}

#[test]
fn the_init_dump_names_what_is_waited_for() {
    tell("init-dump", &AGGREGATED, async |stage| {
        let one = stage.backend("one").await;
        let source = stage.source();
        stage.plane.set(Kind::Cds, [cluster("a", one)]);
        stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "r", &source)]);
        stage.start().await;
        stage.plane.subscribed(Kind::Rds, &["r"]).await;
        sleep(A_WHILE).await;
        let page: serde_json::Value =
            serde_json::from_str(&stage.page("/init_dump").await).unwrap();
        // Ours also tells that the server waits for the listener, and does not number the listener's updates.
        let managers = page["unready_targets_dumps"].as_array().unwrap();
        let of_listener = managers.iter().filter(|manager| {
            let name = manager["name"].as_str().unwrap();
            name.starts_with("init manager Listener-local-init-manager l")
        });
        let targets: Vec<_> = of_listener.map(|one| &one["target_names"]).collect();
        let expected = serde_json::json!(["shared target RdsRouteConfigSubscription RDS init r"]);
        assert_eq!(targets, [&expected], "{page}");
        stage.plane.set(Kind::Rds, [routes("r", "a")]);
        stage.ready().await;
        stage.note(
            stage
                .page("/init_dump")
                .await
                .split_whitespace()
                .collect::<String>(),
        );
    });
}
