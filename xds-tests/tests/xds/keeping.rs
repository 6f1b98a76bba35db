//! What is kept of what was taken: the log of updates, and the snapshot on disk. Both are ours.

use std::time::Duration;

use outrigger_xds_tests::plane::Kind;
use tokio::time::{Instant, sleep};

use crate::resources::{
    bad_cluster, cluster, cluster_with, eds_cluster, endpoints, listener, rds_listener, routes,
};
use crate::stage::{AGGREGATED, SOON, STREAMS, Stage, Transport, tell_alone};

const WHY: &str = "Envoy has nothing of the kind";

/// Waits until a page has this text.
async fn shows(stage: &Stage, path: &str, text: &str) {
    let deadline = Instant::now() + SOON;
    loop {
        let page = stage.page(path).await;
        if page.contains(text) {
            return;
        }
        assert!(Instant::now() < deadline, "{path} has no {text:?}:\n{page}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn the_log_tells_what_changed_by_field_and_what_was_refused() {
    tell_alone("xds-log", &AGGREGATED, WHY, async |stage| {
        let address = stage.backend("first").await;
        stage
            .plane
            .set(Kind::Cds, [cluster("a", address), cluster("b", address)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        shows(stage, "/xds_log", "added a\n").await;
        stage.plane.remove(Kind::Cds, &["b"]);
        shows(stage, "/xds_log", "removed b\n").await;
        let other = cluster_with("a", address, "respect_dns_ttl: true");
        stage.plane.put(Kind::Cds, other);
        shows(stage, "/xds_log", "respect_dns_ttl: + true").await;
        let version = stage.plane.put(Kind::Cds, bad_cluster("bad"));
        stage.plane.nacked(Kind::Cds, &version).await;
        shows(stage, "/xds_log", "refused bad\n").await;
        let json: serde_json::Value =
            serde_json::from_str(&stage.page("/xds_log?format=json").await).unwrap();
        assert_eq!(json["updates"][0]["refused"][0]["name"], "bad");
    });
}

#[test]
fn the_snapshot_serves_while_the_control_plane_is_away_and_gives_way_to_it() {
    let transports = [&STREAMS[..], &[Transport::Rest]].concat();
    tell_alone("snapshot", &transports, WHY, async |stage| {
        let file = stage.folder.join("snapshot");
        stage.flags.push("--xds-snapshot-path".into());
        stage.flags.push(file.display().to_string());
        let first = stage.backend("first").await;
        let source = stage.source();
        let clusters = [eds_cluster("a", &source), eds_cluster("gone", &source)];
        stage.plane.set(Kind::Cds, clusters);
        stage.plane.set(
            Kind::Eds,
            [endpoints("a", &[first]), endpoints("gone", &[first])],
        );
        stage.plane.set(Kind::Rds, [routes("r", "a")]);
        stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "r", &source)]);
        stage.run().await;
        stage.answers("l", 200, "first").await;
        assert_eq!(stage.stat("xds_snapshot.serving").await, Some(0));
        // A second after the last change it is written.
        sleep(Duration::from_millis(1500)).await;
        let deadline = Instant::now() + SOON;
        while !file.exists() {
            assert!(Instant::now() < deadline, "there is no snapshot");
            sleep(Duration::from_millis(20)).await;
        }
        stage.plane.kill();
        stage.run().await;
        stage.answers("l", 200, "first").await;
        assert!(stage.stat("xds_snapshot.serving").await > Some(0));
        // What changes while nobody looks is there as soon as the control plane is.
        let second = stage.backend("second").await;
        stage.plane.set(Kind::Cds, [eds_cluster("a", &source)]);
        stage.plane.set(Kind::Eds, [endpoints("a", &[second])]);
        stage.plane.revive().await.unwrap();
        stage.answers("l", 200, "second").await;
        let deadline = Instant::now() + SOON;
        while stage.page("/clusters").await.contains("gone::") {
            assert!(Instant::now() < deadline, "a cluster stays that is gone");
            sleep(Duration::from_millis(20)).await;
        }
    });
}
