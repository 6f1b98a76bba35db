//! Certificates from the control plane.

use std::fmt::Write;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use outrigger_xds_tests::plane::{Kind, Resource};
use rcgen::{CertificateParams, DnType, KeyPair};
use tokio::time::{Instant, sleep};

use crate::client::Connection;
use crate::resources::{cluster, inline_manager, listener, listener_of};
use crate::stage::{AGGREGATED, SOON, STREAMS, Stage, tell};

/// A secret with a certificate for this name.
fn certificate(name: &str, subject: &str) -> Resource {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![format!("{subject}.example")]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    let certificate = params.self_signed(&key).unwrap();
    let inline = |pem: &str| {
        let mut text = String::from("{ inline_string: \"");
        for line in pem.lines() {
            write!(text, "{line}\\n").unwrap();
        }
        text + "\" }"
    };
    let (chain, key) = (inline(&certificate.pem()), inline(&key.serialize_pem()));
    let text = format!(
        "name: {name}\ntls_certificate: {{ certificate_chain: {chain}, private_key: {key} }}"
    );
    Resource::yaml(Kind::Sds, &text)
}

fn tls_listener(name: &str, secret: &str, source: &str) -> Resource {
    let tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    let filter = inline_manager("a", "");
    listener_of(
        name,
        &format!(
            "[{{ filters: [{filter}], transport_socket: {{ name: tls, typed_config: {{ '@type': {tls}, common_tls_context: {{ tls_certificate_sds_secret_configs: [{{ name: {secret}, sds_config: {source} }}] }} }} }} }}]"
        ),
    )
}

/// The subject of the certificate that a listener shows.
async fn subject(address: SocketAddr) -> String {
    let mut command = tokio::process::Command::new("openssl");
    command
        .args(["s_client", "-connect", &address.to_string(), "-brief"])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = command.output().await.expect("openssl runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Peer certificate: "));
    line.unwrap_or("none").replace(' ', "")
}

async fn shows(stage: &Stage, listener: &str, wanted: &str) {
    let address = stage.listener(listener).await;
    let deadline = Instant::now() + SOON;
    loop {
        let shown = subject(address).await;
        if shown == wanted {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{shown} is shown, not {wanted}\n{}",
            stage.plane.minutes()
        );
        sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn certificates_come_and_change_without_touching_connections() {
    tell("sds", &STREAMS, async |stage| {
        let address = stage.backend("first").await;
        let source = stage.source();
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(
            Kind::Lds,
            [tls_listener("l", "secret", &source), listener("m", "a")],
        );
        stage.start().await;
        stage.plane.subscribed(Kind::Sds, &["secret"]).await;
        sleep(Duration::from_millis(300)).await;
        assert!(!stage.is_ready().await, "the listener waits for its secret");
        let version = stage.plane.set(Kind::Sds, [certificate("secret", "first")]);
        stage.ready().await;
        stage.plane.acked(Kind::Sds, &version).await;
        shows(stage, "l", "CN=first").await;
        let mut connection = Connection::open(stage.listener("m").await).await;
        connection.get("/").await;
        stage
            .plane
            .set(Kind::Sds, [certificate("secret", "second")]);
        shows(stage, "l", "CN=second").await;
        let version = stage
            .plane
            .set(Kind::Sds, [Resource::yaml(Kind::Sds, "name: secret\ntls_certificate: { certificate_chain: { inline_string: nonsense }, private_key: { inline_string: nonsense } }")]);
        stage.plane.nacked(Kind::Sds, &version).await;
        shows(stage, "l", "CN=second").await;
        connection.get("/").await;
        stage
            .note_stats(&["listener_manager.listener_modified"])
            .await;
    });
}

#[test]
fn one_secret_serves_many_listeners_by_one_subscription() {
    tell("sds-shared", &AGGREGATED, async |stage| {
        let address = stage.backend("first").await;
        let source = stage.source();
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        let three = ["l", "m", "k"]
            .map(|name| tls_listener(name, if name == "k" { "other" } else { "secret" }, &source));
        stage.plane.set(Kind::Lds, three);
        stage.plane.set(
            Kind::Sds,
            [
                certificate("secret", "first"),
                certificate("other", "other"),
            ],
        );
        stage.run().await;
        stage
            .plane
            .subscribed(Kind::Sds, &["other", "secret"])
            .await;
        shows(stage, "l", "CN=first").await;
        shows(stage, "m", "CN=first").await;
        shows(stage, "k", "CN=other").await;
        stage.plane.put(Kind::Sds, certificate("secret", "second"));
        shows(stage, "l", "CN=second").await;
        shows(stage, "m", "CN=second").await;
        shows(stage, "k", "CN=other").await;
        stage.plane.remove(Kind::Lds, &["l", "m"]);
        stage.plane.subscribed(Kind::Sds, &["other"]).await;
    });
}

#[test]
fn a_cluster_waits_for_its_validation_context() {
    tell("sds-cluster", &AGGREGATED, async |stage| {
        let (one, two) = (stage.backend("one").await, stage.backend("two").await);
        let source = stage.source();
        stage.plane.set(Kind::Cds, [cluster("a", one)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        let tls =
            "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
        let more = format!(
            "transport_socket: {{ name: tls, typed_config: {{ '@type': {tls}, common_tls_context: {{ validation_context_sds_secret_config: {{ name: roots, sds_config: {source} }} }} }} }}"
        );
        stage
            .plane
            .set(Kind::Cds, [crate::resources::cluster_with("a", two, &more)]);
        stage.plane.subscribed(Kind::Sds, &["roots"]).await;
        sleep(Duration::from_millis(300)).await;
        assert_eq!(stage.get("l").await.body, "one");
        let roots = certificate("roots", "roots");
        let text = std::str::from_utf8(&roots.body.as_ref().unwrap().value).unwrap_or_default();
        assert!(text.is_empty() || text.contains("BEGIN CERTIFICATE"));
        stage.plane.set(Kind::Sds, [validation_context("roots")]);
        // The backend speaks no TLS: the new cluster is in force when requests fail.
        stage.answers("l", 503, "").await;
    });
}

fn validation_context(name: &str) -> Resource {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["roots.example".into()]).unwrap();
    let pem = params.self_signed(&key).unwrap().pem().replace('\n', "\\n");
    let text = format!(
        "name: {name}\nvalidation_context: {{ trusted_ca: {{ inline_string: \"{pem}\" }} }}"
    );
    Resource::yaml(Kind::Sds, &text)
}
