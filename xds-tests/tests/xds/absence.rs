//! The control plane goes away, or falls silent.

use std::time::Duration;

use outrigger_xds_tests::plane::{Answer, Ask, Kind, Resource};
use tokio::time::sleep;

use crate::client::Connection;
use crate::resources::{cluster, eds_cluster, endpoints, listener, rds_listener, routes};
use crate::stage::{AGGREGATED, STREAMS, Stage, Transport, tell, tell_alone};

/// Waits until the proxy says that it is connected, or is not.
async fn connected(stage: &Stage, state: u64) {
    let stats: &[&str] = match stage.transport {
        Transport::Ads | Transport::DeltaAds => &["control_plane.connected_state"],
        _ => &[
            "cluster_manager.cds.control_plane.connected_state",
            "listener_manager.lds.control_plane.connected_state",
        ],
    };
    for stat in stats {
        stage.settles(stat, state).await;
    }
}

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
        connected(stage, 1).await;
        let mut connection = Connection::open(stage.listener("l").await).await;
        stage.plane.kill();
        connected(stage, 0).await;
        for _ in 0..5 {
            assert_eq!(stage.get("l").await.body, "first");
            assert_eq!(connection.get("/").await.body, "first");
            sleep(Duration::from_millis(100)).await;
        }
        let second = stage.backend("second").await;
        stage.plane.set(Kind::Eds, [endpoints("a", &[second])]);
        stage.plane.revive().await.unwrap();
        connected(stage, 1).await;
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
        sleep(Duration::from_millis(2500)).await;
        let opened = stage.plane.opened();
        // Full jitter over 0.5 s, 1 s, 2 s, …
        assert!(
            (2..=10).contains(&opened.len()),
            "{} streams in 2.5 s",
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

async fn endpoints_outlive(stage: &mut Stage) {
    let address = stage.backend("first").await;
    let source = stage.source();
    let brief = endpoints("a", &[address]).for_time(Duration::from_millis(700));
    stage.plane.set(Kind::Cds, [eds_cluster("a", &source)]);
    stage.plane.set(Kind::Eds, [brief]);
    stage.plane.set(Kind::Lds, [listener("l", "a")]);
    stage.run().await;
    stage.answers("l", 200, "first").await;
    sleep(Duration::from_millis(1200)).await;
    assert_eq!(stage.get("l").await.body, "first");
    let second = stage.backend("second").await;
    stage.plane.set(Kind::Eds, [endpoints("a", &[second])]);
    stage.answers("l", 200, "second").await;
}

#[test]
fn endpoints_beyond_their_time_stay_in_use() {
    tell("ttl-endpoints", &[Transport::DeltaAds], endpoints_outlive);
}

#[test]
fn endpoints_of_the_state_of_the_world_beyond_their_time_stay_in_use() {
    let why = "it crashes when the time of endpoints is over (its issue 24271)";
    tell_alone("ttl-endpoints", &[Transport::Ads], why, endpoints_outlive);
}

#[test]
fn heartbeats_keep_resources_alive() {
    let why = "it crashes when the first time to live is over, although a heartbeat prolonged it";
    tell_alone("heartbeat", &AGGREGATED, why, async |stage| {
        let address = stage.backend("first").await;
        let ttl = Duration::from_secs(4);
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        let version = stage
            .plane
            .set(Kind::Lds, [listener("l", "a").for_time(ttl)]);
        stage.run().await;
        for beat in 0..5 {
            let mut heartbeat = Resource::heartbeat("l", ttl);
            heartbeat.version.clone_from(&version);
            let nonce = stage
                .plane
                .send(&Answer::new(Kind::Lds, &version, [heartbeat]));
            let acks = |ask: &Ask| ask.kind == Kind::Lds && ask.nonce == nonce;
            let ask = stage.plane.expect("the ACK of a heartbeat", acks).await;
            assert!(ask.is_ack(), "heartbeat {beat}: {:?}", ask.error);
            assert_eq!(stage.get("l").await.body, "first", "heartbeat {beat}");
            sleep(Duration::from_secs(1)).await;
        }
        stage.no_listener("l").await;
    });
}

#[test]
fn a_listener_beyond_its_time_is_removed() {
    tell("ttl-listener", &AGGREGATED, async |stage| {
        let address = stage.backend("first").await;
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        let brief = listener("brief", "a").for_time(Duration::from_secs(3));
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
