//! Clusters and virtual hosts that are asked for when a request needs them.

use std::time::Duration;

use outrigger_xds_tests::plane::{Kind, Resource};
use tokio::time::sleep;

use crate::client::{Connection, Reply};
use crate::resources::{cluster, listener_with};
use crate::stage::{Stage, Transport, tell};

const DELTA: [Transport; 2] = [Transport::DeltaAds, Transport::DeltaGrpc];

/// A connection manager with the filter that asks, which has this configuration.
fn manager(routes: &str, on_demand: &str) -> String {
    crate::resources::manager(routes, "").replacen(
        "http_filters: [",
        &format!(
            "http_filters: [{{ name: demand, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand, {on_demand} }} }}, "
        ),
        1,
    )
}

async fn request(stage: &Stage, head: &str) -> Reply {
    let mut connection = Connection::open(stage.listener("l").await).await;
    connection
        .request(&format!("GET / HTTP/1.1\r\n{head}\r\n\r\n"))
        .await
        .unwrap()
}

#[test]
fn a_cluster_is_asked_for_when_a_request_needs_it() {
    tell("odcds", &DELTA, async |stage| {
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        let source = stage.source();
        let routes = "route_config: { virtual_hosts: [{ name: all, domains: ['*'], routes: [{ match: { prefix: / }, route: { cluster_header: x-cluster } }] }] }";
        let filter = manager(
            routes,
            &format!("odcds: {{ source: {source}, timeout: 1s }}"),
        );
        stage.plane.set(Kind::Cds, [cluster("a", one)]);
        stage.plane.set(Kind::Lds, [listener_with("l", &filter)]);
        stage.run().await;
        let known = request(stage, "host: example.com\r\nx-cluster: a").await;
        assert_eq!(known.body, "one");
        let asked = request(stage, "host: example.com\r\nx-cluster: b");
        let answered = async {
            let asks =
                |ask: &outrigger_xds_tests::plane::Ask| ask.kind == Kind::Cds && ask.names == ["b"];
            stage.plane.expect("a request for the cluster", asks).await;
            stage.plane.put(Kind::Cds, cluster("b", two));
        };
        let (reply, ()) = tokio::join!(asked, answered);
        assert_eq!((reply.status, reply.body.as_str()), (200, "two"));
        let again = request(stage, "host: example.com\r\nx-cluster: b").await;
        assert_eq!(again.body, "two");
        let unknown = request(stage, "host: example.com\r\nx-cluster: nowhere").await;
        stage.note(format!("{unknown:?}"));
        assert_eq!(unknown.status, 503);
    });
}

fn host(name: &str, domain: &str, cluster: &str, alias: &str) -> Resource {
    let mut resource = Resource::yaml(
        Kind::Vhds,
        &format!(
            "name: {name}\ndomains: ['{domain}']\nroutes: [{{ match: {{ prefix: / }}, route: {{ cluster: {cluster} }} }}]"
        ),
    );
    resource.aliases = vec![alias.into()];
    resource
}

#[test]
fn a_virtual_host_is_asked_for_when_a_request_needs_it() {
    tell("vhds-on-demand", &DELTA, async |stage| {
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        let source = stage.source();
        let routes = format!("rds: {{ route_config_name: r, config_source: {source} }}");
        stage
            .plane
            .set(Kind::Cds, [cluster("a", one), cluster("b", two)]);
        stage
            .plane
            .set(Kind::Lds, [listener_with("l", &manager(&routes, ""))]);
        let table = format!("name: r\nvhds: {{ config_source: {source} }}");
        stage
            .plane
            .set(Kind::Rds, [Resource::yaml(Kind::Rds, &table)]);
        stage.plane.set(
            Kind::Vhds,
            [host("r/first", "example.com", "a", "r/example.com")],
        );
        stage.run().await;
        let known = request(stage, "host: example.com").await;
        assert_eq!(known.body, "one");
        let asked = request(stage, "host: other.com");
        let answered = async {
            let asks = |ask: &outrigger_xds_tests::plane::Ask| {
                ask.kind == Kind::Vhds && ask.names == ["r/other.com"]
            };
            stage.plane.expect("a request for the host", asks).await;
            stage.plane.put(
                Kind::Vhds,
                host("r/second", "other.com", "b", "r/other.com"),
            );
        };
        let (reply, ()) = tokio::join!(asked, answered);
        assert_eq!((reply.status, reply.body.as_str()), (200, "two"));
        sleep(Duration::from_millis(100)).await;
        assert_eq!(request(stage, "host: example.com").await.body, "one");
        assert_eq!(request(stage, "host: other.com").await.body, "two");
    });
}

#[test]
fn a_virtual_host_that_does_not_exist_is_not_found() {
    tell("vhds-unknown", &DELTA, async |stage| {
        let one = stage.backend("one").await;
        let source = stage.source();
        let routes = format!("rds: {{ route_config_name: r, config_source: {source} }}");
        stage.plane.set(Kind::Cds, [cluster("a", one)]);
        stage
            .plane
            .set(Kind::Lds, [listener_with("l", &manager(&routes, ""))]);
        let table = format!("name: r\nvhds: {{ config_source: {source} }}");
        stage
            .plane
            .set(Kind::Rds, [Resource::yaml(Kind::Rds, &table)]);
        stage.plane.set(
            Kind::Vhds,
            [host("r/first", "example.com", "a", "r/example.com")],
        );
        stage.run().await;
        let asked = request(stage, "host: nowhere.com");
        let answered = async {
            let asks = |ask: &outrigger_xds_tests::plane::Ask| {
                ask.kind == Kind::Vhds && ask.names == ["r/nowhere.com"]
            };
            stage.plane.expect("a request for the host", asks).await;
            let mut nothing = host("r/nowhere.com", "nowhere.com", "a", "r/nowhere.com");
            nothing.body = None;
            stage.plane.put(Kind::Vhds, nothing);
        };
        let (reply, ()) = tokio::join!(asked, answered);
        stage.note(format!("{reply:?}"));
        assert_eq!(reply.status, 404);
        assert_eq!(request(stage, "host: example.com").await.body, "one");
    });
}
