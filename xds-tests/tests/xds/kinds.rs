//! The other kinds of resources: runtime layers, scopes, virtual hosts, extensions, secrets.

use std::time::Duration;

use outrigger_xds_tests::plane::{Kind, Resource};
use serde_json::Value;
use tokio::time::sleep;

use crate::client::Connection;
use crate::resources::{
    bad_routes, cluster, listener, listener_with, manager, rds_listener, routes,
};
use crate::stage::{AGGREGATED, STREAMS, Stage, Transport, tell};

fn layer(name: &str, layer: &str) -> Resource {
    Resource::yaml(Kind::Rtds, &format!("name: {name}\nlayer: {layer}"))
}

async fn runtime_value(stage: &Stage, key: &str) -> String {
    let page: Value = serde_json::from_str(&stage.page("/runtime").await).unwrap();
    page["entries"][key]["final_value"]
        .as_str()
        .unwrap_or("none")
        .to_owned()
}

#[test]
fn runtime_layers_are_followed_and_laid_over_each_other() {
    tell("rtds", &STREAMS, async |stage| {
        let source = stage.source();
        stage.more = format!(
            "layered_runtime: {{ layers: [{{ name: static, static_layer: {{ story.key: below, story.other: 7 }} }}, {{ name: dynamic, rtds_layer: {{ name: layer, rtds_config: {source} }} }}, {{ name: admin, admin_layer: {{}} }}] }}"
        );
        let address = stage.backend("first").await;
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        let fraction = "{ default_value: { numerator: 0 }, runtime_key: story.fraction }";
        let text = format!(
            "name: r\nvirtual_hosts: [{{ name: all, domains: ['*'], routes: [{{ match: {{ prefix: /, runtime_fraction: {fraction} }}, direct_response: {{ status: 222 }} }}, {{ match: {{ prefix: / }}, route: {{ cluster: a }} }}] }}]"
        );
        stage
            .plane
            .set(Kind::Rds, [Resource::yaml(Kind::Rds, &text)]);
        stage
            .plane
            .set(Kind::Lds, [rds_listener("l", "r", &source)]);
        let version = stage
            .plane
            .set(Kind::Rtds, [layer("layer", "{ story.key: above }")]);
        stage.run().await;
        stage.plane.acked(Kind::Rtds, &version).await;
        stage.note(runtime_value(stage, "story.key").await);
        stage.note(runtime_value(stage, "story.other").await);
        stage.answers("l", 200, "first").await;
        let version = stage.plane.set(
            Kind::Rtds,
            [layer(
                "layer",
                "{ story.key: { inner: deep }, story.fraction: 100 }",
            )],
        );
        stage.plane.acked(Kind::Rtds, &version).await;
        stage.answers("l", 222, "").await;
        for key in ["story.key", "story.key.inner", "story.fraction"] {
            let value = runtime_value(stage, key).await;
            stage.note(format!("{key} is {value}"));
        }
        let version = stage.plane.set(Kind::Rtds, [layer("layer", "{}")]);
        stage.plane.acked(Kind::Rtds, &version).await;
        stage.answers("l", 200, "first").await;
        stage.note(runtime_value(stage, "story.key").await);
        stage
            .note_stats(&[
                "runtime.update_success",
                "runtime.num_layers",
                "runtime.num_keys",
            ])
            .await;
        stage.note_asks(Kind::Rtds);
    });
}

#[test]
fn runtime_layers_come_before_clusters_and_listeners() {
    tell("rtds-first", &AGGREGATED, async |stage| {
        let source = stage.source();
        stage.more = format!(
            "layered_runtime: {{ layers: [{{ name: dynamic, rtds_layer: {{ name: layer, rtds_config: {source} }} }}] }}"
        );
        let address = stage.backend("first").await;
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.start().await;
        stage.plane.subscribed(Kind::Rtds, &["layer"]).await;
        sleep(Duration::from_millis(400)).await;
        assert_eq!(
            (stage.plane.asks(Kind::Cds), stage.plane.asks(Kind::Lds)),
            (vec![], vec![])
        );
        stage
            .plane
            .set(Kind::Rtds, [layer("layer", "{ story.key: there }")]);
        stage.ready().await;
        stage.answers("l", 200, "first").await;
    });
}

const SCOPES: &str = "stat_prefix: ingress";

fn scoped_listener(source: &str) -> Resource {
    let specifier = format!(
        "scoped_routes: {{ name: scopes, scope_key_builder: {{ fragments: [{{ header_value_extractor: {{ name: x-scope, index: 0 }} }}] }}, rds_config_source: {source}, scoped_rds: {{ scoped_rds_config_source: {source} }} }}"
    );
    assert!(manager("", "").contains(SCOPES));
    listener_with("l", &manager(&specifier, ""))
}

fn scope(name: &str, key: &str, routes: &str) -> Resource {
    Resource::yaml(
        Kind::Srds,
        &format!(
            "name: {name}\nroute_configuration_name: {routes}\nkey: {{ fragments: [{{ string_key: {key} }}] }}"
        ),
    )
}

async fn get_in_scope(stage: &Stage, scope: &str) -> (u16, String) {
    let mut connection = Connection::open(stage.listener("l").await).await;
    let request = format!("GET / HTTP/1.1\r\nhost: example.com\r\nx-scope: {scope}\r\n\r\n");
    let reply = connection.request(&request).await.unwrap();
    (reply.status, reply.body)
}

async fn scope_answers(stage: &Stage, scope: &str, status: u16, body: &str) {
    for _ in 0..300 {
        if get_in_scope(stage, scope).await == (status, body.to_owned()) {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!(
        "scope {scope}: {:?}, not {status} {body}",
        get_in_scope(stage, scope).await
    );
}

#[test]
fn scopes_choose_the_routes() {
    tell("srds", &STREAMS, async |stage| {
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        let source = stage.source();
        stage
            .plane
            .set(Kind::Cds, [cluster("a", one), cluster("b", two)]);
        stage.plane.set(Kind::Lds, [scoped_listener(&source)]);
        stage.plane.set(
            Kind::Srds,
            [scope("s1", "one", "r"), scope("s2", "two", "s")],
        );
        stage
            .plane
            .set(Kind::Rds, [routes("r", "a"), routes("s", "b")]);
        stage.run().await;
        scope_answers(stage, "one", 200, "one").await;
        scope_answers(stage, "two", 200, "two").await;
        scope_answers(stage, "three", 404, "").await;
        stage.plane.subscribed(Kind::Rds, &["r", "s"]).await;
        stage.plane.put(Kind::Rds, routes("t", "a"));
        let version = stage.plane.set(
            Kind::Srds,
            [scope("s1", "one", "s"), scope("s3", "three", "t")],
        );
        stage.plane.acked(Kind::Srds, &version).await;
        scope_answers(stage, "one", 200, "two").await;
        scope_answers(stage, "two", 404, "").await;
        scope_answers(stage, "three", 200, "one").await;
        let clash = [scope("s1", "one", "s"), scope("s4", "one", "r")];
        let version = stage.plane.set(Kind::Srds, clash);
        stage.plane.nacked(Kind::Srds, &version).await;
        scope_answers(stage, "one", 200, "two").await;
    });
}

#[test]
fn virtual_hosts_come_by_themselves() {
    tell(
        "vhds",
        &[Transport::DeltaAds, Transport::DeltaGrpc],
        async |stage| {
            let (one, two) = (stage.backend("one").await, stage.backend("two").await);
            let source = stage.source();
            stage
                .plane
                .set(Kind::Cds, [cluster("a", one), cluster("b", two)]);
            stage
                .plane
                .set(Kind::Lds, [rds_listener("l", "r", &source)]);
            let table = format!("name: r\nvhds: {{ config_source: {source} }}");
            stage
                .plane
                .set(Kind::Rds, [Resource::yaml(Kind::Rds, &table)]);
            let host = |name: &str, domain: &str, cluster: &str| {
                let text = format!(
                    "name: {name}\ndomains: ['{domain}']\nroutes: [{{ match: {{ prefix: / }}, route: {{ cluster: {cluster} }} }}]"
                );
                Resource::yaml(Kind::Vhds, &text)
            };
            stage
                .plane
                .set(Kind::Vhds, [host("r/example.com", "example.com", "a")]);
            stage.run().await;
            stage.answers("l", 200, "one").await;
            stage
                .plane
                .set(Kind::Vhds, [host("r/example.com", "example.com", "b")]);
            stage.answers("l", 200, "two").await;
            stage
                .plane
                .set(Kind::Vhds, [host("r/other.com", "other.com", "b")]);
            stage.answers("l", 404, "").await;
        },
    );
}

const ECDS_MANAGER: &str = "{ name: http, typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: ingress, route_config: { virtual_hosts: [{ name: all, domains: ['*'], routes: [{ match: { prefix: / }, route: { cluster: a } }] }] }, http_filters: [{ name: dynamic, config_discovery: { config_source: SOURCE, MORE type_urls: ['type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault'] } }, { name: router, typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }] } }";

fn fault(status: u32) -> Resource {
    Resource::yaml(
        Kind::Ecds,
        &format!(
            "name: dynamic\ntyped_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, abort: {{ http_status: {status}, percentage: {{ numerator: 100 }} }} }}"
        ),
    )
}

#[test]
fn filters_are_discovered_and_changed_without_touching_connections() {
    tell("ecds", &AGGREGATED, async |stage| {
        let address = stage.backend("first").await;
        let filter = ECDS_MANAGER
            .replace("SOURCE", &stage.source())
            .replace("MORE", "");
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Lds, [listener_with("l", &filter)]);
        stage.start().await;
        stage.plane.subscribed(Kind::Ecds, &["dynamic"]).await;
        sleep(Duration::from_millis(300)).await;
        assert!(!stage.is_ready().await, "the listener waits for its filter");
        stage.plane.set(Kind::Ecds, [fault(418)]);
        stage.ready().await;
        stage.answers("l", 418, "").await;
        let mut connection = Connection::open(stage.listener("l").await).await;
        assert_eq!(connection.get("/").await.status, 418);
        stage.plane.set(Kind::Ecds, [fault(503)]);
        stage.answers("l", 503, "").await;
        assert_eq!(connection.get("/").await.status, 503);
        let mut odd = routes("dynamic", "a");
        odd.body = fault(1).body;
        let version = stage.plane.set(Kind::Ecds, [odd]);
        stage.plane.nacked(Kind::Ecds, &version).await;
        assert_eq!(connection.get("/").await.status, 503);
    });
}

#[test]
fn a_default_filter_serves_until_the_discovered_one_is_there() {
    tell("ecds-default", &AGGREGATED, async |stage| {
        let address = stage.backend("first").await;
        let default = "apply_default_config_without_warming: true, default_config: { '@type': type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault },";
        let filter = ECDS_MANAGER
            .replace("SOURCE", &stage.source())
            .replace("MORE", default);
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Lds, [listener_with("l", &filter)]);
        stage.run().await;
        stage.answers("l", 200, "first").await;
        stage.plane.set(Kind::Ecds, [fault(418)]);
        stage.answers("l", 418, "").await;
    });
}

#[test]
fn one_table_of_routes_serves_many_listeners() {
    tell("shared-routes", &AGGREGATED, async |stage| {
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        let source = stage.source();
        stage
            .plane
            .set(Kind::Cds, [cluster("a", one), cluster("b", two)]);
        stage.plane.set(
            Kind::Lds,
            ["l", "m"].map(|name| rds_listener(name, "r", &source)),
        );
        stage.plane.set(Kind::Rds, [routes("r", "a")]);
        stage.run().await;
        for (target, says) in [("b", "two"), ("a", "one")] {
            let version = stage.plane.set(Kind::Rds, [routes("r", target)]);
            stage.plane.acked(Kind::Rds, &version).await;
            stage.answers("l", 200, says).await;
            stage.answers("m", 200, says).await;
        }
        let version = stage.plane.set(Kind::Rds, [bad_routes("r")]);
        stage.plane.nacked(Kind::Rds, &version).await;
        stage.note_asks(Kind::Rds);
    });
}
