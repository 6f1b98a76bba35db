//! The control plane goes away, or falls silent.

use std::time::Duration;

use outrigger_xds_tests::plane::{Kind, Resource};
use tokio::time::sleep;

use crate::client::Connection;
use crate::resources::{cluster, eds_cluster, endpoints, listener, rds_listener, routes};
use crate::stage::{AGGREGATED, STREAMS, Transport, tell};

#[test]
fn what_is_in_force_serves_on_without_the_control_plane() {
    tell("killed", &STREAMS, async |stage| {
        let address = stage.backend("first").await;
        let source = stage.source();
        stage.plane.set(Kind::Cds, [eds_cluster("a", &source)]);
        stage.plane.set(Kind::Eds, [endpoints("a", &[address])]);
        stage.plane.set(Kind::Rds, [routes("r", "a")]);
        stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "r", &source)]);
        stage.run().await;
        stage.answers("l", 200, "first").await;
        stage.settles("control_plane.connected_state", 1).await;
        let mut connection = Connection::open(stage.listener("l").await).await;
        stage.plane.kill();
        stage.settles("control_plane.connected_state", 0).await;
        for _ in 0..5 {
            assert_eq!(stage.get("l").await.body, "first");
            assert_eq!(connection.get("/").await.body, "first");
            sleep(Duration::from_millis(100)).await;
        }
        let second = stage.backend("second").await;
        stage.plane.set(Kind::Eds, [endpoints("a", &[second])]);
        stage.plane.revive().await.unwrap();
        stage.settles("control_plane.connected_state", 1).await;
        stage.answers("l", 200, "second").await;
        assert_eq!(connection.get("/").await.body, "second");
        stage
            .note_stats(&[
                "cluster_manager.cluster_modified",
                "listener_manager.listener_modified",
                "cluster_manager.warming_clusters",
            ])
            .await;
    });
}

#[test]
fn a_control_plane_that_comes_later_is_found() {
    tell("late", &STREAMS, async |stage| {
        let address = stage.backend("first").await;
        stage.plane.kill();
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.start().await;
        sleep(Duration::from_millis(700)).await;
        assert!(!stage.is_ready().await);
        stage.plane.revive().await.unwrap();
        stage.ready().await;
        stage.answers("l", 200, "first").await;
    });
}

#[test]
fn streams_that_are_refused_are_tried_again_less_and_less_often() {
    tell("back-off", &AGGREGATED, async |stage| {
        stage.plane.refuse(Some(14));
        stage.start().await;
        sleep(Duration::from_secs(5)).await;
        let opened = stage.plane.opened();
        // Full jitter over 0.5 s, 1 s, 2 s, 4 s, …
        assert!(
            (2..=14).contains(&opened.len()),
            "{} streams in 5 s",
            opened.len()
        );
        let address = stage.backend("first").await;
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.plane.refuse(None);
        stage.ready().await;
        stage.answers("l", 200, "first").await;
    });
}

#[test]
fn a_resource_lives_for_its_time_unless_a_heartbeat_comes() {
    tell("ttl", &AGGREGATED, async |stage| {
        let address = stage.backend("first").await;
        let source = stage.source();
        let ttl = Duration::from_millis(1200);
        stage.plane.set(Kind::Cds, [eds_cluster("a", &source)]);
        stage
            .plane
            .set(Kind::Eds, [endpoints("a", &[address]).for_time(ttl)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        stage.answers("l", 200, "first").await;
        for beat in 0..4 {
            let mut heartbeat = Resource::heartbeat("a", ttl);
            heartbeat.version = "2".into();
            let answer = outrigger_xds_tests::plane::Answer::new(Kind::Eds, "2", [heartbeat]);
            stage.plane.send(&answer);
            sleep(Duration::from_millis(500)).await;
            assert_eq!(stage.get("l").await.body, "first", "heartbeat {beat}");
        }
        stage
            .note_stats(&["cluster.a.update_success", "cluster.a.update_rejected"])
            .await;
        stage.answers("l", 503, "").await;
        stage.plane.set(Kind::Eds, [endpoints("a", &[address])]);
        stage.answers("l", 200, "first").await;
    });
}

#[test]
fn a_listener_beyond_its_time_is_removed() {
    tell("ttl-listener", &AGGREGATED, async |stage| {
        let address = stage.backend("first").await;
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        let brief = listener("brief", "a").for_time(Duration::from_millis(700));
        stage.plane.set(Kind::Lds, [listener("l", "a"), brief]);
        stage.run().await;
        stage.answers("brief", 200, "first").await;
        stage.no_listener("brief").await;
        stage.answers("l", 200, "first").await;
        stage
            .note_stats(&["listener_manager.listener_removed"])
            .await;
    });
}

#[test]
fn a_control_plane_that_polls_cannot_reach_is_asked_again() {
    tell("rest-away", &[Transport::Rest], async |stage| {
        let address = stage.backend("first").await;
        stage.plane.refuse(Some(14));
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.start().await;
        sleep(Duration::from_millis(500)).await;
        stage.plane.refuse(None);
        stage.ready().await;
        stage.answers("l", 200, "first").await;
        stage.plane.kill();
        sleep(Duration::from_millis(500)).await;
        assert_eq!(stage.get("l").await.body, "first");
        let second = stage.backend("second").await;
        stage.plane.set(Kind::Cds, [cluster("a", second)]);
        stage.plane.revive().await.unwrap();
        stage.answers("l", 200, "second").await;
    });
}
