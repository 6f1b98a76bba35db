//! What subscriptions count: to secrets, runtime layers and filters.

use std::time::Duration;

use outrigger_xds_tests::plane::{Kind, Resource};
use tokio::time::{Instant, sleep};

use crate::resources::{cluster, listener_of};
use crate::stage::{SOON, STREAMS, Stage, tell};

const TLS: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const SECRET: &str = "name: keys\nsession_ticket_keys: { keys: [{ inline_string: '0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef' }] }";
const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";

fn layer(value: &str) -> Resource {
    Resource::yaml(
        Kind::Rtds,
        &format!("name: layer\nlayer: {{ story.key: {value} }}"),
    )
}

fn fault(status: u32) -> Resource {
    Resource::yaml(
        Kind::Ecds,
        &format!(
            "name: dynamic\ntyped_config: {{ '@type': {FAULT}, abort: {{ http_status: {status}, percentage: {{ numerator: 100 }} }} }}"
        ),
    )
}

/// A listener with a discovered filter, and with session tickets by a discovered key.
fn listener(source: &str) -> Resource {
    let filter = crate::resources::inline_manager("a", "").replacen(
        "http_filters: [",
        &format!(
            "http_filters: [{{ name: dynamic, config_discovery: {{ config_source: {source}, type_urls: ['{FAULT}'] }} }}, "
        ),
        1,
    );
    let plain = format!(
        "{{ filter_chain_match: {{ application_protocols: [none] }}, filters: [{filter}] }}"
    );
    let (chain, key) = crate::secrets::self_signed("story");
    let inline = |pem: &str| format!("{{ inline_string: \"{}\" }}", pem.replace('\n', "\\n"));
    let tls = format!(
        "{{ filters: [{filter}], transport_socket: {{ name: tls, typed_config: {{ '@type': {TLS}, session_ticket_keys_sds_secret_config: {{ name: keys, sds_config: {source} }}, common_tls_context: {{ tls_certificates: [{{ certificate_chain: {}, private_key: {} }}] }} }} }} }}",
        inline(&chain),
        inline(&key)
    );
    listener_of("l", &format!("[{plain}, {tls}]"))
}

/// All that is counted of the connections to the control plane, and of the three subscriptions.
async fn note_counts(stage: &mut Stage, what: &str) {
    let page = stage.page("/stats").await;
    let mut lines: Vec<String> = page
        .lines()
        .filter(|line| {
            line.contains("control_plane.")
                || ["sds.", "extension_config_discovery."]
                    .iter()
                    .any(|part| line.contains(part))
                || ["runtime.update_", "runtime.version", "runtime.init_"]
                    .iter()
                    .any(|part| line.starts_with(part))
        })
        // The time of day, and how long things took.
        .filter(|line| !line.contains("update_time") && !line.contains("update_duration"))
        // Envoy counts two attempts where an incremental stream brought what could be decoded and was refused.
        .filter(|line| !line.contains("update_attempt") || what == "first")
        .map(|line| format!("{what}: {line}"))
        .collect();
    lines.sort();
    lines.into_iter().for_each(|line| stage.note(line));
}

#[test]
fn subscriptions_to_secrets_layers_and_filters_count_below_their_names() {
    tell("subscription-stats", &STREAMS, async |stage| {
        let source = stage.source();
        stage.more = format!(
            "layered_runtime: {{ layers: [{{ name: dynamic, rtds_layer: {{ name: layer, rtds_config: {source} }} }}] }}"
        );
        let address = stage.backend("first").await;
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Lds, [listener(&source)]);
        let runtime = stage.plane.set(Kind::Rtds, [layer("first")]);
        let filters = stage.plane.set(Kind::Ecds, [fault(418)]);
        let secrets = stage
            .plane
            .set(Kind::Sds, [Resource::yaml(Kind::Sds, SECRET)]);
        stage.run().await;
        for (kind, version) in [
            (Kind::Rtds, &runtime),
            (Kind::Ecds, &filters),
            (Kind::Sds, &secrets),
        ] {
            stage.plane.acked(kind, version).await;
        }
        note_counts(stage, "first").await;
        let runtime = stage.plane.set(Kind::Rtds, [layer("second")]);
        stage.plane.acked(Kind::Rtds, &runtime).await;
        let mut odd = fault(418);
        odd.body = Resource::yaml(Kind::Ecds, "name: dynamic").body;
        let filters = stage.plane.set(Kind::Ecds, [odd]);
        stage.plane.nacked(Kind::Ecds, &filters).await;
        let wrong = "name: keys\nsession_ticket_keys: { keys: [{ inline_string: short }] }";
        let secrets = stage
            .plane
            .set(Kind::Sds, [Resource::yaml(Kind::Sds, wrong)]);
        stage.plane.nacked(Kind::Sds, &secrets).await;
        note_counts(stage, "second").await;
        stage.plane.kill();
        let deadline = Instant::now() + SOON;
        let page = loop {
            let page = stage.page("/stats").await;
            if !page.contains("connected_state: 1") {
                break page;
            }
            assert!(Instant::now() < deadline, "{page}");
            sleep(Duration::from_millis(20)).await;
        };
        let mut lines: Vec<&str> = page
            .lines()
            .filter(|line| line.contains("connected_state"))
            .collect();
        lines.sort_unstable();
        lines.iter().for_each(|line| stage.note(*line));
    });
}
