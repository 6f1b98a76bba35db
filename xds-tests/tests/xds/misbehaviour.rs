//! Control planes that do not keep to the protocol.

use std::time::Duration;

use outrigger_xds_tests::plane::{Answer, Kind, Resource};
use tokio::time::sleep;

use crate::client::Connection;
use crate::resources::{cluster, cluster_with, listener, rds_listener, routes};
use crate::stage::{AGGREGATED, STREAMS, Stage, Transport, tell};

/// A listener with a cluster behind it, both in force; gives the version of the listeners.
async fn small(stage: &mut Stage) -> String {
    let address = stage.backend("first").await;
    stage.plane.set(Kind::Cds, [cluster("a", address)]);
    let version = stage.plane.set(Kind::Lds, [listener("l", "a")]);
    stage.run().await;
    stage.answers("l", 200, "first").await;
    stage.plane.acked(Kind::Lds, &version).await;
    version
}

/// The conversation works: clusters that are pushed now are taken.
async fn goes_on(stage: &mut Stage) {
    let second = stage.backend("second").await;
    stage.plane.set(Kind::Cds, [cluster("a", second)]);
    stage.answers("l", 200, "second").await;
}

#[test]
fn a_name_twice_in_a_response_is_refused() {
    tell("duplicates", &AGGREGATED, async |stage| {
        small(stage).await;
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        let version = stage
            .plane
            .set(Kind::Cds, [cluster("twin", one), cluster("twin", two)]);
        let reason = stage.plane.nacked(Kind::Cds, &version).await;
        assert!(reason.contains("twin"), "{reason}");
        let twins = [listener("other", "a"), listener("other", "twin")];
        let version = stage.plane.set(Kind::Lds, twins);
        let reason = stage.plane.nacked(Kind::Lds, &version).await;
        assert!(reason.contains("other"), "{reason}");
        stage.note_dump().await;
    });
}

#[test]
fn a_resource_of_another_type_is_refused() {
    tell("other-type", &AGGREGATED, async |stage| {
        small(stage).await;
        let mut odd = listener("odd", "a");
        odd.name = "odd".into();
        let second = stage.backend("second").await;
        let version = stage.plane.set(Kind::Cds, [cluster("a", second), odd]);
        stage.plane.nacked(Kind::Cds, &version).await;
        goes_on(stage).await;
    });
}

#[test]
fn a_resource_of_garbage_is_refused() {
    tell("garbage-resource", &AGGREGATED, async |stage| {
        small(stage).await;
        let second = stage.backend("second").await;
        let garbage = Resource::raw(Kind::Cds, "garbage", vec![0xff; 9]);
        let version = stage.plane.set(Kind::Cds, [cluster("a", second), garbage]);
        stage.plane.nacked(Kind::Cds, &version).await;
        goes_on(stage).await;
    });
}

#[test]
fn a_response_of_an_unknown_type_changes_nothing() {
    tell("unknown-type", &AGGREGATED, async |stage| {
        small(stage).await;
        stage.plane.forget_asks();
        let mut answer = Answer::new(Kind::Lds, "77", []);
        answer.type_url = Some("type.googleapis.com/no.such.Thing".into());
        stage.plane.send(&answer);
        sleep(Duration::from_millis(300)).await;
        assert_eq!(stage.get("l").await.body, "first");
        goes_on(stage).await;
    });
}

#[test]
fn a_response_of_another_type_on_a_stream_of_one_type_changes_nothing() {
    tell(
        "wrong-stream",
        &[Transport::Grpc, Transport::DeltaGrpc],
        async |stage| {
            small(stage).await;
            let mut answer = Answer::new(Kind::Lds, "77", []);
            answer.type_url = Some(Kind::Cds.type_url());
            stage.plane.send(&answer);
            sleep(Duration::from_millis(300)).await;
            assert_eq!(stage.get("l").await.body, "first");
            goes_on(stage).await;
        },
    );
}

#[test]
fn bytes_that_are_no_message_end_the_stream_and_it_is_opened_again() {
    tell("garbage", &STREAMS, async |stage| {
        small(stage).await;
        let streams = stage.plane.opened().len();
        stage.plane.forget_asks();
        stage.plane.send_bytes(Kind::Lds, &[0xff; 100], true);
        let again =
            |ask: &outrigger_xds_tests::plane::Ask| ask.kind == Kind::Lds && ask.nonce.is_empty();
        stage.plane.expect("listeners on a new stream", again).await;
        assert!(stage.plane.opened().len() > streams);
        assert_eq!(stage.get("l").await.body, "first");
        goes_on(stage).await;
    });
}

#[test]
fn a_frame_that_is_cut_off_by_a_reset_changes_nothing() {
    tell("cut-off", &AGGREGATED, async |stage| {
        small(stage).await;
        stage.plane.forget_asks();
        stage
            .plane
            .send_bytes(Kind::Lds, &[0, 0, 0, 1, 0, 10, 3], false);
        sleep(Duration::from_millis(50)).await;
        stage.plane.reset_streams();
        let again =
            |ask: &outrigger_xds_tests::plane::Ask| ask.kind == Kind::Lds && ask.nonce.is_empty();
        stage.plane.expect("listeners on a new stream", again).await;
        assert_eq!(stage.get("l").await.body, "first");
        goes_on(stage).await;
    });
}

#[test]
fn a_response_without_nonce_is_acknowledged_without_one() {
    tell("no-nonce", &[Transport::Ads], async |stage| {
        small(stage).await;
        stage.plane.forget_asks();
        let second = stage.backend("second").await;
        let mut answer = Answer::new(Kind::Cds, "77", [cluster("a", second)]);
        answer.nonce = Some(String::new());
        stage.plane.send(&answer);
        stage.answers("l", 200, "second").await;
        let takes = |ask: &outrigger_xds_tests::plane::Ask| ask.version == "77";
        stage.plane.expect("version 77 in force", takes).await;
        stage.note_asks(Kind::Cds);
    });
}

#[test]
fn empty_versions_and_unchanged_listeners_leave_connections_alone() {
    tell("empty-versions", &AGGREGATED, async |stage| {
        for kind in [Kind::Cds, Kind::Lds, Kind::Rds] {
            stage.plane.fix_version(kind, "");
        }
        let address = stage.backend("first").await;
        let source = stage.source();
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Rds, [routes("r", "a")]);
        let listeners = || [rds_listener("l", "r", &source), listener("m", "a")];
        stage.plane.set(Kind::Lds, listeners());
        stage.run().await;
        stage.answers("l", 200, "first").await;
        let mut connections = vec![];
        for name in ["l", "m"] {
            let mut connection = Connection::open(stage.listener(name).await).await;
            connection.get("/").await;
            connections.push(connection);
        }
        for kind in [Kind::Cds, Kind::Lds, Kind::Rds] {
            for answer in 1..=3 {
                let resources = match kind {
                    Kind::Cds => vec![cluster("a", address)],
                    Kind::Lds => listeners().into(),
                    _ => vec![routes("r", "a")],
                };
                let nonce = stage.plane.send(&Answer::new(kind, "", resources));
                let acks =
                    |ask: &outrigger_xds_tests::plane::Ask| ask.kind == kind && ask.nonce == nonce;
                let what = format!("answer {answer} about {kind:?}");
                let ask = stage.plane.expect(&what, acks).await;
                assert!(ask.is_ack(), "{:?}", ask.error);
            }
        }
        sleep(Duration::from_millis(1500)).await;
        for connection in &mut connections {
            assert_eq!(connection.get("/").await.body, "first");
        }
        // The same version with another content is another content.
        let second = stage.backend("second").await;
        stage
            .plane
            .send(&Answer::new(Kind::Cds, "", [cluster("a", second)]));
        stage.answers("l", 200, "second").await;
        stage
            .note_stats(&[
                "listener_manager.listener_modified",
                "listener_manager.listener_in_place_updated",
                "listener_manager.lds.version",
                "cluster_manager.cluster_modified",
                "http.ingress.rds.r.config_reload",
            ])
            .await;
    });
}

#[test]
fn resources_that_nobody_asked_for_are_ignored() {
    tell("unasked", &AGGREGATED, async |stage| {
        let address = stage.backend("first").await;
        let source = stage.source();
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "r", &source)]);
        stage.plane.set(Kind::Rds, [routes("r", "a")]);
        stage.run().await;
        stage.answers("l", 200, "first").await;
        let answer = Answer::new(
            Kind::Rds,
            "77",
            [routes("stranger", "a"), routes("r", "nowhere")],
        );
        stage.plane.send(&answer);
        stage.plane.acked(Kind::Rds, "77").await;
        stage.answers("l", 503, "").await;
        stage.note_dump().await;
    });
}

#[test]
fn a_resource_of_megabytes_is_taken() {
    tell("huge", &AGGREGATED, async |stage| {
        let address = stage.backend("first").await;
        let source = stage.source();
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "r", &source)]);
        let mut text = String::from(
            "name: r\nvirtual_hosts:\n- { name: all, domains: ['*'], routes: [{ match: { prefix: / }, route: { cluster: a } }] }\n",
        );
        for host in 0..20_000 {
            let padding = "x".repeat(200);
            text +=
                &format!("- {{ name: {padding}-{host}, domains: [host-{host}.example.com] }}\n");
        }
        let huge = Resource::yaml(Kind::Rds, &text);
        let version = stage.plane.set(Kind::Rds, [huge]);
        stage.run().await;
        stage.plane.acked(Kind::Rds, &version).await;
        stage.answers("l", 200, "first").await;
    });
}

/// A cluster with a field that no version of the API has.
fn future_cluster(address: std::net::SocketAddr) -> Resource {
    let mut resource = cluster_with("a", address, "");
    let body = resource.body.as_mut().unwrap();
    let mut bytes = body.value.to_vec();
    // Field 9999, a varint of 1.
    bytes.extend_from_slice(&[0xf8, 0xf0, 0x04, 0x01]);
    body.value = bytes;
    resource
}

#[test]
fn unknown_fields_of_resources_are_counted_by_default() {
    tell("unknown-counted", &AGGREGATED, async |stage| {
        let address = stage.backend("first").await;
        let version = stage.plane.set(Kind::Cds, [future_cluster(address)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        stage.plane.acked(Kind::Cds, &version).await;
        stage.answers("l", 200, "first").await;
        stage.note_stats(&["server.dynamic_unknown_fields"]).await;
    });
}

#[test]
fn unknown_fields_of_resources_are_ignored_on_demand() {
    tell("unknown-ignored", &AGGREGATED, async |stage| {
        stage.flags.push("--ignore-unknown-dynamic-fields".into());
        let address = stage.backend("first").await;
        let version = stage.plane.set(Kind::Cds, [future_cluster(address)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        stage.plane.acked(Kind::Cds, &version).await;
        stage.answers("l", 200, "first").await;
        stage.note_stats(&["server.dynamic_unknown_fields"]).await;
    });
}

#[test]
fn unknown_fields_of_resources_are_refused_on_demand() {
    tell("unknown-refused", &AGGREGATED, async |stage| {
        stage.flags.push("--reject-unknown-dynamic-fields".into());
        let address = stage.backend("first").await;
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        let second = stage.backend("second").await;
        let version = stage.plane.set(Kind::Cds, [future_cluster(second)]);
        stage.plane.nacked(Kind::Cds, &version).await;
        assert_eq!(stage.get("l").await.body, "first");
    });
}
