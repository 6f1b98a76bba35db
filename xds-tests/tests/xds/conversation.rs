//! What is said on the stream: requests, ACKs, NACKs, nonces, and how a conversation is taken up again.

use outrigger_xds_tests::plane::{Answer, Kind};

use crate::resources::{
    bad_cluster, bad_listener, bad_routes, cluster, eds_cluster, endpoints, lawless_cluster,
    listener, rds_listener, routes,
};
use crate::stage::{AGGREGATED, STREAMS, Side, Stage, Transport, tell, tell_alone};

/// One listener, route, cluster and endpoint, all from the control plane, in force.
async fn whole(stage: &mut Stage) {
    let address = stage.backend("first").await;
    let source = stage.source();
    stage.plane.set(Kind::Cds, [eds_cluster("a", &source)]);
    stage.plane.set(Kind::Eds, [endpoints("a", &[address])]);
    stage
        .plane
        .set(Kind::Lds, [rds_listener("l", "r", &source)]);
    stage.plane.set(Kind::Rds, [routes("r", "a")]);
    stage.run().await;
    stage.answers("l", 200, "first").await;
}

#[test]
fn each_response_is_acknowledged_with_its_nonce_and_version() {
    tell("ack", &STREAMS, async |stage| {
        whole(stage).await;
        for (kind, version) in [
            (Kind::Cds, "1"),
            (Kind::Eds, "2"),
            (Kind::Lds, "3"),
            (Kind::Rds, "4"),
        ] {
            stage.plane.acked(kind, version).await;
            stage.note_asks(kind);
        }
        stage.settles("http.ingress.rds.r.update_success", 1).await;
        stage
            .note_stats(&[
                "cluster_manager.cds.update_attempt",
                "cluster_manager.cds.update_success",
                "cluster_manager.cds.version",
                "cluster_manager.cluster_added",
                "cluster_manager.active_clusters",
                "cluster.a.update_attempt",
                "cluster.a.update_success",
                "cluster.a.version",
                "cluster.a.membership_total",
                "listener_manager.lds.update_attempt",
                "listener_manager.lds.update_success",
                "listener_manager.lds.version",
                "listener_manager.listener_added",
                "http.ingress.rds.r.update_attempt",
                "http.ingress.rds.r.config_reload",
                "http.ingress.rds.r.version",
                "control_plane.connected_state",
            ])
            .await;
        stage.note_dump().await;
    });
}

#[test]
fn a_nack_names_every_bad_resource_and_the_good_ones_are_in_force() {
    tell("nack", &AGGREGATED, async |stage| {
        let address = stage.backend("good").await;
        let clusters = [
            bad_cluster("bad-1"),
            cluster("good", address),
            bad_cluster("bad-2"),
        ];
        let version = stage.plane.set(Kind::Cds, clusters);
        let listeners = [
            bad_listener("worse-1"),
            listener("l", "good"),
            bad_listener("worse-2"),
        ];
        let listened = stage.plane.set(Kind::Lds, listeners);
        stage.run().await;
        stage.answers("l", 200, "good").await;
        let reason = stage.plane.nacked(Kind::Cds, &version).await;
        assert!(
            reason.contains("bad-1") && reason.contains("bad-2"),
            "{reason}"
        );
        assert!(!reason.contains("good"), "{reason}");
        let reason = stage.plane.nacked(Kind::Lds, &listened).await;
        assert!(
            reason.contains("worse-1") && reason.contains("worse-2"),
            "{reason}"
        );
        stage.note_asks(Kind::Cds);
        stage.note_asks(Kind::Lds);
        stage
            .note_stats(&[
                "cluster_manager.cds.update_rejected",
                "cluster_manager.cds.update_success",
                "listener_manager.lds.update_rejected",
                "listener_manager.listener_create_failure",
            ])
            .await;
        stage.note_dump().await;
    });
}

#[test]
fn a_cluster_that_breaks_a_rule_of_the_api_does_not_hold_back_the_others() {
    let why = "it checks the rules of all clusters first, and takes none when one breaks them";
    tell_alone("lawless", &AGGREGATED, why, async |stage| {
        let address = stage.backend("good").await;
        let clusters = [lawless_cluster("bad-1"), cluster("good", address)];
        let version = stage.plane.set(Kind::Cds, clusters);
        stage.plane.set(Kind::Lds, [listener("l", "good")]);
        stage.run().await;
        stage.answers("l", 200, "good").await;
        let reason = stage.plane.nacked(Kind::Cds, &version).await;
        assert!(
            reason.contains("bad-1") && reason.contains("connect_timeout"),
            "{reason}"
        );
    });
}

#[test]
fn after_a_nack_the_last_good_version_is_named_and_serves() {
    tell("nack-later", &AGGREGATED, async |stage| {
        whole(stage).await;
        stage.plane.acked(Kind::Rds, "4").await;
        let version = stage.plane.set(Kind::Rds, [bad_routes("r")]);
        stage.plane.nacked(Kind::Rds, &version).await;
        assert_eq!(stage.get("l").await.body, "first");
        stage.note_asks(Kind::Rds);
        stage
            .note_stats(&["http.ingress.rds.r.update_rejected"])
            .await;
        let version = stage.plane.set(Kind::Rds, [routes("r", "nowhere")]);
        stage.plane.acked(Kind::Rds, &version).await;
        stage.answers("l", 503, "").await;
    });
}

#[test]
fn a_bad_update_of_a_cluster_leaves_its_predecessor_serving() {
    tell("nack-cluster", &AGGREGATED, async |stage| {
        let address = stage.backend("first").await;
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        let version = stage.plane.set(Kind::Cds, [bad_cluster("a")]);
        stage.plane.nacked(Kind::Cds, &version).await;
        assert_eq!(stage.get("l").await.body, "first");
        stage.note_dump().await;
        if stage.side == Side::Outrigger {
            let dump = stage
                .page("/config_dump?resource=dynamic_active_clusters")
                .await;
            assert!(dump.contains("error_state"), "{dump}");
        }
    });
}

#[test]
fn the_node_comes_once_a_stream_or_every_time() {
    tell("node", &AGGREGATED, async |stage| {
        for once in [true, false] {
            stage.ads_more = format!("set_node_on_first_message_only: {once},");
            stage.plane.forget_asks();
            let address = stage.backend("first").await;
            stage.plane.set(Kind::Cds, [cluster("a", address)]);
            let version = stage.plane.set(Kind::Lds, [listener("l", "a")]);
            stage.run().await;
            stage.plane.acked(Kind::Lds, &version).await;
            let asks = stage.plane.all_asks();
            let with_node = asks.iter().filter(|ask| ask.node.is_some()).count();
            let expected = if once { 1 } else { asks.len() };
            assert_eq!(with_node, expected, "{}", stage.plane.minutes());
            let node = asks[0]
                .node
                .as_ref()
                .expect("the first request says who asks");
            assert_eq!(
                (node.id.as_str(), node.cluster.as_str()),
                ("story", "stories")
            );
            assert!(!node.user_agent_name.is_empty() && !node.extensions.is_empty());
        }
    });
}

#[test]
fn after_a_reconnect_everything_is_subscribed_to_again() {
    tell("reconnect", &STREAMS, async |stage| {
        whole(stage).await;
        for (kind, version) in [
            (Kind::Cds, "1"),
            (Kind::Eds, "2"),
            (Kind::Lds, "3"),
            (Kind::Rds, "4"),
        ] {
            stage.plane.acked(kind, version).await;
        }
        for kind in [Kind::Cds, Kind::Eds, Kind::Lds, Kind::Rds] {
            stage.plane.hold(kind);
        }
        stage.plane.forget_asks();
        stage.plane.end_streams(0);
        for kind in [Kind::Cds, Kind::Eds, Kind::Lds, Kind::Rds] {
            let ask = stage
                .plane
                .expect(&format!("{kind:?} again"), |ask| ask.kind == kind)
                .await;
            assert!(
                ask.nonce.is_empty(),
                "a nonce of the old stream: {}",
                ask.line()
            );
            stage.note(ask.line());
        }
        assert_eq!(stage.get("l").await.body, "first");
    });
}

#[test]
fn after_a_nack_and_a_reconnect_everything_is_subscribed_to_again() {
    tell("nack-reconnect", &AGGREGATED, async |stage| {
        whole(stage).await;
        stage.plane.acked(Kind::Rds, "4").await;
        let version = stage.plane.set(Kind::Rds, [bad_routes("r")]);
        stage.plane.nacked(Kind::Rds, &version).await;
        stage.plane.hold(Kind::Rds);
        stage.plane.forget_asks();
        stage.plane.reset_streams();
        let ask = stage
            .plane
            .expect("routes again", |ask| ask.kind == Kind::Rds)
            .await;
        assert_eq!(ask.names, ["r"]);
        stage.note(ask.line());
        stage.plane.release(Kind::Rds);
        let version = stage.plane.set(Kind::Rds, [routes("r", "nowhere")]);
        stage.plane.acked(Kind::Rds, &version).await;
        stage.answers("l", 503, "").await;
    });
}

#[test]
fn names_are_subscribed_to_as_they_are_needed() {
    tell("names", &AGGREGATED, async |stage| {
        whole(stage).await;
        stage.plane.subscribed(Kind::Rds, &["r"]).await;
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        let source = stage.source();
        stage.plane.put(Kind::Eds, endpoints("b", &[one]));
        stage.plane.put(Kind::Eds, endpoints("c", &[two]));
        stage.plane.set(
            Kind::Cds,
            ["a", "b", "c"].map(|name| eds_cluster(name, &source)),
        );
        stage.plane.subscribed(Kind::Eds, &["a", "b", "c"]).await;
        stage.plane.put(Kind::Rds, routes("s", "b"));
        stage.plane.put(Kind::Lds, rds_listener("m", "s", &source));
        stage.answers("m", 200, "one").await;
        stage.plane.subscribed(Kind::Rds, &["r", "s"]).await;
        stage
            .plane
            .set(Kind::Cds, ["b"].map(|name| eds_cluster(name, &source)));
        stage.plane.subscribed(Kind::Eds, &["b"]).await;
        stage.plane.remove(Kind::Lds, &["l"]);
        stage.plane.subscribed(Kind::Rds, &["s"]).await;
    });
}

#[test]
fn removed_resources_are_gone() {
    tell("removed", &STREAMS, async |stage| {
        let address = stage.backend("first").await;
        stage
            .plane
            .set(Kind::Cds, [cluster("a", address), cluster("b", address)]);
        stage
            .plane
            .set(Kind::Lds, [listener("l", "a"), listener("m", "b")]);
        stage.run().await;
        stage.answers("m", 200, "first").await;
        let version = stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.acked(Kind::Cds, &version).await;
        stage.answers("m", 503, "").await;
        let version = stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.plane.acked(Kind::Lds, &version).await;
        stage.no_listener("m").await;
        assert_eq!(stage.get("l").await.body, "first");
        stage
            .note_stats(&[
                "cluster_manager.cluster_removed",
                "listener_manager.listener_removed",
            ])
            .await;
        let version = stage.plane.set(Kind::Lds, []);
        stage.plane.acked(Kind::Lds, &version).await;
        stage.no_listener("l").await;
    });
}

#[test]
fn withdrawn_endpoints_and_routes_stay_in_use() {
    tell("withdrawn", &STREAMS, async |stage| {
        whole(stage).await;
        let version = stage.plane.set(Kind::Rds, []);
        stage.plane.acked(Kind::Rds, &version).await;
        let version = stage.plane.set(Kind::Eds, []);
        stage.plane.acked(Kind::Eds, &version).await;
        stage.note(format!("{:?}", stage.get("l").await));
    });
}

#[test]
fn a_change_back_and_forth_is_followed() {
    tell("follow", &STREAMS, async |stage| {
        whole(stage).await;
        let second = stage.backend("second").await;
        let first = stage.backend("first").await;
        for _ in 0..3 {
            stage.plane.set(Kind::Eds, [endpoints("a", &[second])]);
            stage.answers("l", 200, "second").await;
            stage.plane.set(Kind::Eds, [endpoints("a", &[first])]);
            stage.answers("l", 200, "first").await;
            stage.plane.set(Kind::Rds, [routes("r", "nowhere")]);
            stage.answers("l", 503, "").await;
            stage.plane.set(Kind::Rds, [routes("r", "a")]);
            stage.answers("l", 200, "first").await;
        }
    });
}

#[test]
fn responses_that_overtake_acks_are_each_acknowledged() {
    tell(
        "overtake",
        &[Transport::Ads, Transport::DeltaAds],
        async |stage| {
            whole(stage).await;
            let mut nonces = vec![];
            for cluster in ["a", "nowhere", "a", "nowhere"] {
                let answer = Answer::new(Kind::Rds, cluster, [routes("r", cluster)]);
                nonces.push(stage.plane.send(&answer));
            }
            for nonce in nonces {
                let what = format!("the ACK of {nonce}");
                let ask = stage
                    .plane
                    .expect(&what, |ask| ask.kind == Kind::Rds && ask.nonce == nonce)
                    .await;
                stage.note(ask.line());
            }
            stage.answers("l", 503, "").await;
        },
    );
}
