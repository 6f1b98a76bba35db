//! What `/config_dump` shows of resources: warming, in force, refused; and parts of it.

use outrigger_xds_tests::plane::{Kind, Resource};
use outrigger_xds_tests::proxy::admin_get;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::resources::{
    bad_cluster, bad_listener, cluster, cluster_with, eds_cluster, endpoints, listener,
};
use crate::stage::{AGGREGATED, SOON, Side, Stage, Transport, tell};

/// A part of the dump, without times.
async fn dump(stage: &Stage, parameters: &str) -> Value {
    let (status, body) = admin_get(stage.admin(), &format!("/config_dump?{parameters}"))
        .await
        .unwrap();
    assert_eq!(status, 200, "{body}");
    let mut value = serde_json::from_str(&body).unwrap();
    strip(&mut value);
    value
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("last_updated");
            fields.remove("last_update_attempt");
            fields.remove("port_value");
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// Waits until an entry with this name is in a repeated field, and gives the field.
async fn shown(stage: &Stage, resource: &str, name: &str) -> Value {
    let deadline = Instant::now() + SOON;
    loop {
        let entries = dump(stage, &format!("resource={resource}")).await;
        let is_there = entries["configs"].as_array().is_some_and(|all| {
            all.iter()
                .any(|entry| entry.to_string().contains(&format!("\"name\":\"{name}\"")))
        });
        if is_there {
            return entries;
        }
        assert!(
            Instant::now() < deadline,
            "no {name} in {resource}: {entries}\n{}",
            stage.plane.minutes()
        );
        sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[test]
fn secrets_are_shown_without_what_is_private() {
    tell("dump-secrets", &AGGREGATED, async |stage| {
        let source = stage.source();
        stage.clusters = "  secrets: [{ name: fixed, generic_secret: { secret: { inline_string: hush } } }, { name: keys, session_ticket_keys: { keys: [{ inline_bytes: YWJj }] } }]".into();
        let address = stage.backend("first").await;
        let context =
            "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
        let tls = format!(
            "transport_socket: {{ name: tls, typed_config: {{ '@type': {context}, common_tls_context: {{ validation_context_sds_secret_config: {{ name: trust, sds_config: {source} }} }} }} }}"
        );
        stage
            .plane
            .set(Kind::Cds, [cluster_with("a", address, &tls)]);
        stage.plane.set(Kind::Lds, []);
        stage.start().await;
        let warming = shown(stage, "dynamic_warming_secrets", "trust").await;
        stage.note(warming.to_string());
        let secret = "name: trust\nvalidation_context: { trust_chain_verification: ACCEPT_UNTRUSTED, max_verify_depth: 3 }";
        stage
            .plane
            .set(Kind::Sds, [Resource::yaml(Kind::Sds, secret)]);
        let active = shown(stage, "dynamic_active_secrets", "trust").await;
        stage.note(active.to_string());
        stage.note(
            dump(stage, "resource=dynamic_warming_secrets")
                .await
                .to_string(),
        );
        // Envoy has them in no order.
        let fixed = dump(stage, "resource=static_secrets").await;
        let mut fixed: Vec<String> = fixed["configs"]
            .as_array()
            .unwrap()
            .iter()
            .map(Value::to_string)
            .collect();
        fixed.sort();
        stage.note(fixed.join("\n"));
        let named = dump(stage, "name_regex=tru.*&mask=dynamic_active_secrets").await;
        stage.note(named.to_string());
    });
}

#[test]
fn what_is_refused_and_what_warms_is_shown_beside_what_is_in_force() {
    tell(
        "dump-states",
        &[Transport::Ads, Transport::DeltaAds],
        async |stage| {
            let source = stage.source();
            let address = stage.backend("first").await;
            stage.plane.set(
                Kind::Cds,
                [cluster("a", address), eds_cluster("e", &source)],
            );
            stage.plane.set(Kind::Eds, [endpoints("e", &[address])]);
            stage.plane.set(Kind::Lds, [listener("l", "a")]);
            stage.run().await;
            stage.answers("l", 200, "first").await;
            stage
                .plane
                .put_all(Kind::Cds, [eds_cluster("w", &source), bad_cluster("a")]);
            stage.plane.put(Kind::Lds, bad_listener("l"));
            let warming = shown(stage, "dynamic_warming_clusters", "w").await;
            stage.note(warming.to_string());
            for (resource, name) in [("dynamic_active_clusters", "a"), ("dynamic_listeners", "l")] {
                let mut all = shown(stage, resource, name).await;
                let deadline = Instant::now() + SOON;
                // Envoy tells it of listeners only.
                let tells = stage.side == Side::Outrigger || resource == "dynamic_listeners";
                while tells && !all.to_string().contains("error_state") {
                    assert!(Instant::now() < deadline, "{all}");
                    all = shown(stage, resource, name).await;
                }
                // What is wrong is said in words of each.
                for entry in all["configs"].as_array_mut().unwrap() {
                    if let Some(error) = entry.get_mut("error_state") {
                        let details = error["details"].take();
                        assert!(!details.as_str().unwrap().is_empty());
                        if resource == "dynamic_active_clusters" {
                            entry.as_object_mut().unwrap().remove("error_state");
                        }
                    }
                }
                let mut entries: Vec<String> = all["configs"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(Value::to_string)
                    .collect();
                entries.sort();
                stage.note(entries.join("\n"));
            }
            let masked = dump(
                stage,
                "resource=dynamic_active_clusters&name_regex=e&mask=cluster.name,version_info",
            )
            .await;
            stage.note(masked.to_string());
            let endpoints = dump(
                stage,
                "include_eds&resource=dynamic_endpoint_configs&name_regex=.*",
            )
            .await;
            let mut endpoints: Vec<String> = endpoints["configs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| entry["endpoint_config"]["cluster_name"].to_string())
                .collect();
            endpoints.sort();
            stage.note(endpoints.join("\n"));
        },
    );
}

/// What the pages say of a cluster without what differs from run to run: the port of its endpoint, times, traffic.
async fn pages(stage: &Stage, cluster: &str, endpoint: &str) -> Vec<String> {
    let start = format!("cluster.{cluster}.");
    let stats = stage.page("/stats").await;
    let wanted = [
        "membership",
        "update_attempt",
        "update_empty",
        "update_failure",
        "update_no_rebuild",
        "update_rejected",
        "update_success",
        "version",
        "max_host_weight",
        "warming_state",
        "upstream_rq_total",
        "upstream_cx_total",
    ];
    let named = |line: &&str| wanted.iter().any(|name| line.contains(name));
    let stats = stats.lines().filter(|line| line.starts_with(&start));
    let mut lines: Vec<String> = stats.filter(named).map(ToOwned::to_owned).collect();
    let clusters = stage.page("/clusters").await;
    let start = format!("{cluster}::");
    let of_cluster = clusters.lines().filter(|line| line.starts_with(&start));
    lines.extend(of_cluster.map(|line| line.replace(endpoint, "ENDPOINT")));
    lines.sort();
    lines
}

#[test]
fn a_cluster_that_nobody_uses_is_shown_as_one_in_use() {
    tell("unused", &AGGREGATED, async |stage| {
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        let source = stage.source();
        stage.plane.set(Kind::Cds, [eds_cluster("e", &source)]);
        stage.plane.set(Kind::Lds, [listener("l", "e")]);
        stage.plane.set(Kind::Eds, [endpoints("e", &[one])]);
        stage.run().await;
        let again = stage.plane.push_again(Kind::Eds);
        stage.plane.acked(Kind::Eds, &again).await;
        for line in pages(stage, "e", &one.to_string()).await {
            stage.note(format!("again: {line}"));
        }
        let moved = stage.plane.set(Kind::Eds, [endpoints("e", &[two])]);
        stage.plane.acked(Kind::Eds, &moved).await;
        for line in pages(stage, "e", &two.to_string()).await {
            stage.note(format!("moved: {line}"));
        }
        let dump = dump(stage, "include_eds&resource=dynamic_endpoint_configs").await;
        stage.note(dump.to_string());
        // The first request.
        stage.answers("l", 200, "two").await;
        let lines = pages(stage, "e", &two.to_string()).await;
        for line in lines.iter().filter(|line| line.starts_with("cluster.")) {
            stage.note(format!("used: {line}"));
        }
    });
}
