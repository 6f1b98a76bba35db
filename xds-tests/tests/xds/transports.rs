//! Sources other than streams: polling and files, and several sources at once.

use std::path::Path;
use std::time::Duration;

use outrigger_xds_tests::plane::{Answer, Kind, Resource};
use tokio::time::{Instant, sleep};

use crate::resources::{
    bad_routes, cluster, eds_cluster, endpoints, listener, rds_listener, routes,
};
use crate::stage::{SOON, Stage, Transport, tell};

#[test]
fn everything_is_polled() {
    tell("rest", &[Transport::Rest], async |stage| {
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
        let second = stage.backend("second").await;
        stage.plane.set(Kind::Eds, [endpoints("a", &[second])]);
        stage.answers("l", 200, "second").await;
        stage.plane.set(Kind::Rds, [routes("r", "nowhere")]);
        stage.answers("l", 503, "").await;
        let version = stage.plane.set(Kind::Lds, []);
        stage.no_listener("l").await;
        let names = |kind: Kind, names: &[&str]| {
            let asks = stage.plane.asks(kind);
            assert!(asks.iter().all(|ask| ask.names == names), "{asks:?}");
        };
        names(Kind::Eds, &["a"]);
        names(Kind::Rds, &["r"]);
        names(Kind::Cds, &[]);
        let told =
            |ask: &outrigger_xds_tests::plane::Ask| ask.kind == Kind::Lds && ask.version == version;
        let ask = stage
            .plane
            .expect("a poll with the last version", told)
            .await;
        assert!(ask.node.is_some());
        stage
            .note_stats(&[
                "listener_manager.lds.update_success",
                "listener_manager.lds.update_rejected",
            ])
            .await;
    });
}

#[test]
fn a_bad_answer_to_a_poll_changes_nothing() {
    tell("rest-bad", &[Transport::Rest], async |stage| {
        let address = stage.backend("first").await;
        let source = stage.source();
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Rds, [routes("r", "a")]);
        stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "r", &source)]);
        stage.run().await;
        stage.answers("l", 200, "first").await;
        stage.plane.set(Kind::Rds, [bad_routes("r")]);
        let rejected = async || stage.stat("http.ingress.rds.r.update_rejected").await;
        let deadline = Instant::now() + SOON;
        while rejected().await == Some(0) {
            assert!(Instant::now() < deadline, "nothing was rejected");
            sleep(Duration::from_millis(20)).await;
        }
        assert!(rejected().await > Some(0));
        assert_eq!(stage.get("l").await.body, "first");
        stage.plane.set(Kind::Rds, [routes("r", "nowhere")]);
        stage.answers("l", 503, "").await;
    });
}

/// A source that is a file of the story.
fn file_source(stage: &Stage, file: &str) -> String {
    let path = stage.folder.join(file);
    format!(
        "{{ path_config_source: {{ path: '{}' }}, resource_api_version: V3 }}",
        path.display()
    )
}

/// A bootstrap with clusters and listeners from files.
fn on_files(stage: &Stage) -> String {
    let (clusters, listeners) = (
        file_source(stage, "cds.json"),
        file_source(stage, "lds.json"),
    );
    format!(
        "node: {{ id: story, cluster: stories }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
dynamic_resources:
  cds_config: {clusters}
  lds_config: {listeners}
"
    )
}

fn write(stage: &Stage, file: &str, kind: Kind, resources: impl IntoIterator<Item = Resource>) {
    let content = Answer::new(kind, "v", resources).file();
    stage.move_into_place(&stage.folder.join(file), &content);
}

#[test]
fn files_that_are_moved_into_place_are_read() {
    tell("files", &[Transport::Ads], async |stage| {
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        let endpoints_source = file_source(stage, "eds.json");
        let routes_source = file_source(stage, "rds.yaml");
        write(
            stage,
            "cds.json",
            Kind::Cds,
            [eds_cluster("a", &endpoints_source), cluster("b", two)],
        );
        write(stage, "eds.json", Kind::Eds, [endpoints("a", &[one])]);
        let yaml = |cluster: &str| {
            format!(
            "version_info: '1'
resources:
- '@type': type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: r
  virtual_hosts: [{{ name: all, domains: ['*'], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: {cluster} }} }}] }}]
"
        )
        };
        let rds = stage.folder.join("rds.yaml");
        stage.move_into_place(&rds, &yaml("a"));
        write(
            stage,
            "lds.json",
            Kind::Lds,
            [rds_listener("l", "r", &routes_source)],
        );
        let bootstrap = on_files(stage);
        stage.start_on(&bootstrap).await;
        stage.ready().await;
        stage.answers("l", 200, "one").await;
        write(stage, "eds.json", Kind::Eds, [endpoints("a", &[two])]);
        stage.answers("l", 200, "two").await;
        write(stage, "eds.json", Kind::Eds, [endpoints("a", &[one])]);
        stage.answers("l", 200, "one").await;
        stage.move_into_place(&rds, &yaml("b"));
        stage.answers("l", 200, "two").await;
        stage.move_into_place(&rds, "resources: [{");
        stage.settles("http.ingress.rds.r.update_failure", 1).await;
        assert_eq!(stage.get("l").await.body, "two");
        stage.move_into_place(&rds, &yaml("a"));
        stage.answers("l", 200, "one").await;
        write(stage, "lds.json", Kind::Lds, []);
        stage.no_listener("l").await;
        stage
            .note_stats(&[
                "cluster_manager.cds.update_success",
                "listener_manager.lds.update_success",
                "http.ingress.rds.r.update_success",
                "cluster.a.update_success",
            ])
            .await;
    });
}

#[test]
fn a_bad_resource_in_a_file_leaves_the_last_good_ones() {
    tell("files-bad", &[Transport::Ads], async |stage| {
        let one = stage.backend("one").await;
        write(stage, "cds.json", Kind::Cds, [cluster("a", one)]);
        write(stage, "lds.json", Kind::Lds, [listener("l", "a")]);
        let bootstrap = on_files(stage);
        stage.start_on(&bootstrap).await;
        stage.ready().await;
        stage.answers("l", 200, "one").await;
        let worse = [listener("l", "a"), crate::resources::bad_listener("worse")];
        write(stage, "lds.json", Kind::Lds, worse);
        stage
            .settles("listener_manager.lds.update_rejected", 1)
            .await;
        assert_eq!(stage.get("l").await.body, "one");
    });
}

#[test]
fn a_file_that_is_written_where_it_is_is_read_at_the_next_move() {
    tell("files-in-place", &[Transport::Ads], async |stage| {
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        write(stage, "cds.json", Kind::Cds, [cluster("a", one)]);
        write(stage, "lds.json", Kind::Lds, [listener("l", "a")]);
        let bootstrap = on_files(stage);
        stage.start_on(&bootstrap).await;
        stage.ready().await;
        stage.answers("l", 200, "one").await;
        let content = Answer::new(Kind::Cds, "v", [cluster("a", two)]).file();
        std::fs::write(stage.folder.join("cds.json"), &content).unwrap();
        sleep(Duration::from_millis(700)).await;
        stage.note(stage.get("l").await.body);
        stage.move_into_place(&stage.folder.join("cds.json"), &content);
        stage.answers("l", 200, "two").await;
    });
}

#[test]
fn a_watched_directory_is_read_when_its_link_is_moved() {
    tell("watched", &[Transport::Ads], async |stage| {
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        // As Kubernetes lays out a mounted map.
        for (generation, address) in [("..1", one), ("..2", two)] {
            let folder = stage.folder.join("map").join(generation);
            std::fs::create_dir_all(&folder).unwrap();
            let clusters = Answer::new(Kind::Cds, generation, [cluster("a", address)]);
            std::fs::write(folder.join("cds.json"), clusters.file()).unwrap();
        }
        let map = stage.folder.join("map");
        std::os::unix::fs::symlink("..1", map.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/cds.json", map.join("cds.json")).unwrap();
        write(stage, "lds.json", Kind::Lds, [listener("l", "a")]);
        let watched = watched_source(&map);
        let bootstrap = on_files(stage).replace(&file_source(stage, "cds.json"), &watched);
        stage.start_on(&bootstrap).await;
        stage.ready().await;
        stage.answers("l", 200, "one").await;
        std::os::unix::fs::symlink("..2", map.join("..new")).unwrap();
        std::fs::rename(map.join("..new"), map.join("..data")).unwrap();
        stage.answers("l", 200, "two").await;
    });
}

fn watched_source(map: &Path) -> String {
    let map = map.display();
    format!(
        "{{ path_config_source: {{ path: '{map}/cds.json', watched_directory: {{ path: '{map}' }} }}, resource_api_version: V3 }}"
    )
}

#[test]
fn each_subscription_may_have_a_source_of_its_own() {
    tell(
        "mixed",
        &[Transport::Ads, Transport::DeltaGrpc],
        async |stage| {
            let (one, two) = (stage.backend("one").await, stage.backend("two").await);
            let endpoints_source = file_source(stage, "eds.json");
            let polled = "{ api_config_source: { api_type: REST, transport_api_version: V3, cluster_names: [plane-rest], refresh_delay: 0.2s }, resource_api_version: V3 }";
            write(stage, "eds.json", Kind::Eds, [endpoints("a", &[one])]);
            stage
                .plane
                .set(Kind::Cds, [eds_cluster("a", &endpoints_source)]);
            stage.plane.set(Kind::Rds, [routes("r", "a")]);
            stage.plane.set(Kind::Lds, [rds_listener("l", "r", polled)]);
            stage.run().await;
            stage.answers("l", 200, "one").await;
            write(stage, "eds.json", Kind::Eds, [endpoints("a", &[two])]);
            stage.answers("l", 200, "two").await;
            stage.plane.set(Kind::Rds, [routes("r", "nowhere")]);
            stage.answers("l", 503, "").await;
            assert!(
                stage
                    .plane
                    .asks(Kind::Rds)
                    .iter()
                    .all(|ask| ask.stream == 0)
            );
        },
    );
}
