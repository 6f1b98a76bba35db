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

/// A route table whose virtual hosts are asked for one by one, and the one that is known from the start.
fn know_one_host(stage: &Stage) {
    let table = format!("name: r\nvhds: {{ config_source: {} }}", stage.source());
    stage
        .plane
        .set(Kind::Rds, [Resource::yaml(Kind::Rds, &table)]);
    stage.plane.set(
        Kind::Vhds,
        [host("r/first", "example.com", "a", "r/example.com")],
    );
}

/// Waits until the proxy asks for the host that it does not know.
async fn other_is_asked_for(stage: &Stage) {
    let asks = |ask: &outrigger_xds_tests::plane::Ask| {
        ask.kind == Kind::Vhds && ask.names == ["r/other.com"]
    };
    stage.plane.expect("a request for the host", asks).await;
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
        know_one_host(stage);
        stage.run().await;
        let known = request(stage, "host: example.com").await;
        assert_eq!(known.body, "one");
        let asked = request(stage, "host: other.com");
        let answered = async {
            other_is_asked_for(stage).await;
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
fn what_a_virtual_host_forbids_is_forbidden_also_to_the_request_that_asked_for_it() {
    tell("vhds-forbids", &DELTA, async |stage| {
        let one = stage.backend("one").await;
        let source = stage.source();
        let routes = format!("rds: {{ route_config_name: r, config_source: {source} }}");
        stage.plane.set(Kind::Cds, [cluster("a", one)]);
        // By itself this filter forbids nothing.
        let rbac = "{ name: rbac, typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC } }, ";
        let filters =
            manager(&routes, "").replacen("{ name: router", &format!("{rbac}{{ name: router"), 1);
        assert!(filters.contains(rbac));
        stage.plane.set(Kind::Lds, [listener_with("l", &filters)]);
        know_one_host(stage);
        stage.run().await;
        assert_eq!(request(stage, "host: example.com").await.body, "one");
        let asked = request(stage, "host: other.com");
        let answered = async {
            other_is_asked_for(stage).await;
            let mut forbidden = Resource::yaml(
                Kind::Vhds,
                "name: r/second\ndomains: [other.com]\nroutes: [{ match: { prefix: / }, route: { cluster: a } }]\n\
                 typed_per_filter_config: { rbac: { '@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute, \
                 rbac: { rules: { action: DENY, policies: { all: { permissions: [{ any: true }], principals: [{ any: true }] } } } } } }",
            );
            forbidden.aliases = vec!["r/other.com".into()];
            stage.plane.put(Kind::Vhds, forbidden);
        };
        let (reply, ()) = tokio::join!(asked, answered);
        stage.note(format!("{} {}", reply.status, reply.body));
        assert_eq!(reply.status, 403);
        sleep(Duration::from_millis(100)).await;
        assert_eq!(request(stage, "host: other.com").await.status, 403);
        assert_eq!(request(stage, "host: example.com").await.body, "one");
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
        know_one_host(stage);
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

/// A scope whose key is the header `x-scope`.
fn scope(name: &str, routes: &str, more: &str) -> Resource {
    Resource::yaml(
        Kind::Srds,
        &format!(
            "name: {name}\nroute_configuration_name: {routes}\nkey: {{ fragments: [{{ string_key: {name} }}] }}\n{more}"
        ),
    )
}

/// Routes by scope.
fn scoped_routes(source: &str) -> String {
    format!(
        "scoped_routes: {{ name: scopes, scope_key_builder: {{ fragments: [{{ header_value_extractor: {{ name: x-scope, index: 0 }} }}] }}, rds_config_source: {source}, scoped_rds: {{ scoped_rds_config_source: {source} }} }}"
    )
}

#[test]
fn nobody_is_asked_for_a_virtual_host_of_a_scope() {
    tell("vhds-in-scope", &DELTA, async |stage| {
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        let source = stage.source();
        stage
            .plane
            .set(Kind::Cds, [cluster("a", one), cluster("b", two)]);
        let filter = manager(&scoped_routes(&source), "");
        stage.plane.set(Kind::Lds, [listener_with("l", &filter)]);
        stage.plane.set(
            Kind::Srds,
            [scope("first", "r", ""), scope("second", "s", "")],
        );
        let table = |name: &str| {
            let table = format!("name: {name}\nvhds: {{ config_source: {source} }}");
            Resource::yaml(Kind::Rds, &table)
        };
        stage.plane.set(Kind::Rds, [table("r"), table("s")]);
        stage.plane.set(
            Kind::Vhds,
            [
                host("r/known", "example.com", "a", "r/example.com"),
                host("s/known", "example.com", "b", "s/example.com"),
            ],
        );
        stage.run().await;
        for (name, says) in [("first", "one"), ("second", "two")] {
            let head = format!("host: example.com\r\nx-scope: {name}");
            assert_eq!(request(stage, &head).await.body, says);
        }
        for scope in ["second", "third"] {
            let reply = request(stage, &format!("host: other.com\r\nx-scope: {scope}")).await;
            stage.note(format!("{reply:?}"));
            assert_eq!(reply.status, 404);
        }
        // What the control plane gives unasked is there.
        stage
            .plane
            .put(Kind::Vhds, host("s/other", "other.com", "a", "s/other.com"));
        let given = async {
            let head = "host: other.com\r\nx-scope: second";
            while request(stage, head).await.body != "one" {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let given = tokio::time::timeout(Duration::from_secs(10), given).await;
        given.expect("the host that was given is found");
        let names = |ask: &outrigger_xds_tests::plane::Ask| ask.names.clone();
        let mut asked: Vec<_> = stage
            .plane
            .asks(Kind::Vhds)
            .iter()
            .flat_map(names)
            .collect();
        asked.sort();
        stage.note(format!("{asked:?}"));
    });
}

#[test]
fn a_cluster_is_asked_for_by_a_request_of_a_scope() {
    tell("odcds-in-scope", &DELTA, async |stage| {
        let two = stage.backend("two").await;
        let source = stage.source();
        let filter = manager(
            &scoped_routes(&source),
            &format!("odcds: {{ source: {source}, timeout: 1s }}"),
        );
        stage.plane.set(Kind::Cds, []);
        stage.plane.set(Kind::Lds, [listener_with("l", &filter)]);
        stage.plane.set(Kind::Srds, [scope("first", "r", "")]);
        let table = "name: r\nvirtual_hosts: [{ name: all, domains: ['*'], routes: [{ match: { prefix: / }, route: { cluster_header: x-cluster } }] }]";
        stage
            .plane
            .set(Kind::Rds, [Resource::yaml(Kind::Rds, table)]);
        stage.run().await;
        let asked = request(stage, "host: example.com\r\nx-scope: first\r\nx-cluster: b");
        let answered = async {
            let asks =
                |ask: &outrigger_xds_tests::plane::Ask| ask.kind == Kind::Cds && ask.names == ["b"];
            stage.plane.expect("a request for the cluster", asks).await;
            stage.plane.put(Kind::Cds, cluster("b", two));
        };
        let (reply, ()) = tokio::join!(asked, answered);
        assert_eq!((reply.status, reply.body.as_str()), (200, "two"));
    });
}

#[test]
fn a_scope_that_is_loaded_on_demand_serves_its_first_request() {
    tell("srds-on-demand", &DELTA, async |stage| {
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        let source = stage.source();
        stage
            .plane
            .set(Kind::Cds, [cluster("a", one), cluster("b", two)]);
        let filter = manager(&scoped_routes(&source), "");
        stage.plane.set(Kind::Lds, [listener_with("l", &filter)]);
        stage.plane.set(
            Kind::Srds,
            [
                scope("first", "r", ""),
                scope("late", "s", "on_demand: true"),
            ],
        );
        stage.plane.set(
            Kind::Rds,
            [
                crate::resources::routes("r", "a"),
                crate::resources::routes("s", "b"),
            ],
        );
        stage.run().await;
        let first = request(stage, "host: example.com\r\nx-scope: first").await;
        assert_eq!(first.body, "one");
        let late = request(stage, "host: example.com\r\nx-scope: late").await;
        assert_eq!((late.status, late.body.as_str()), (200, "two"));
        stage
            .note_stats(&[
                "http.ingress.scoped_rds.scopes.all_scopes",
                "http.ingress.scoped_rds.scopes.on_demand_scopes",
                "http.ingress.scoped_rds.scopes.active_scopes",
            ])
            .await;
    });
}
