//! Certificates from the control plane.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::plane::{Kind, Resource};
use outrigger_xds_tests::proxy::{Proxy, admin_get};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use crate::client::Connection;
use crate::resources::{cluster, inline_manager, listener, listener_of};
use crate::stage::{AGGREGATED, SOON, STREAMS, Stage, Transport, tell, tell_alone};

/// A secret with a certificate for this name.
fn certificate(name: &str, subject: &str) -> Resource {
    certificate_and_key(name, subject).0
}

/// The same with the text of its private key.
fn certificate_and_key(name: &str, subject: &str) -> (Resource, String) {
    let (chain, key) = self_signed(subject);
    (secret_of(name, &chain, &key), key)
}

/// A certificate for this name, and its key.
pub fn self_signed(subject: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![format!("{subject}.example")]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn secret_of(name: &str, chain: &str, key: &str) -> Resource {
    let inline = |pem: &str| {
        let mut text = String::from("{ inline_string: \"");
        for line in pem.lines() {
            write!(text, "{line}\\n").unwrap();
        }
        text + "\" }"
    };
    let (chain, key) = (inline(chain), inline(key));
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

/// The lines of the private key in a secret that [`certificate`] has made.
fn key_lines(pem: &str) -> Vec<String> {
    let body = pem.lines().filter(|line| !line.starts_with("-----"));
    body.map(str::to_owned).collect()
}

#[test]
fn private_keys_are_shown_nowhere() {
    let why = "what it logs at its finest level is not ours to judge";
    tell_alone("keys", &STREAMS, why, async |stage| {
        let flags = [
            "--component-log-level",
            "config:trace,main:trace,upstream:trace,admin:trace",
        ];
        stage.flags.extend(flags.map(String::from));
        let address = stage.backend("first").await;
        let source = stage.source();
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage
            .plane
            .set(Kind::Lds, [tls_listener("l", "secret", &source)]);
        let (secret, first) = certificate_and_key("secret", "first");
        stage.plane.set(Kind::Sds, [secret]);
        stage.run().await;
        shows(stage, "l", "CN=first").await;
        // One whose key is of another certificate, which is refused with the reason.
        let (_, second) = certificate_and_key("secret", "second");
        let (chain, _) = self_signed("third");
        let version = stage
            .plane
            .set(Kind::Sds, [secret_of("secret", &chain, &second)]);
        stage.plane.nacked(Kind::Sds, &version).await;
        // One that is a key only in parts.
        let broken = second.replace("-----END", "----END");
        let version = stage
            .plane
            .set(Kind::Sds, [secret_of("secret", &chain, &broken)]);
        stage.plane.nacked(Kind::Sds, &version).await;
        let mut seen = stage.plane.minutes() + &stage.proxy().last_words();
        for page in [
            "/config_dump",
            "/certs",
            "/xds_log",
            "/init_dump",
            "/listeners",
            "/stats",
            "/server_info",
        ] {
            let shown = stage.page(page).await;
            assert!(!shown.is_empty() || page == "/init_dump", "{page}");
            seen += &shown;
        }
        assert!(
            seen.contains("CN=first") || seen.contains("secret"),
            "it shows the rest"
        );
        for line in [key_lines(&first), key_lines(&second)].concat() {
            assert!(!seen.contains(&line), "a line of a key is shown");
        }
    });
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

/// A source of its own: the control plane behind this cluster.
fn behind(cluster: &str) -> String {
    format!(
        "{{ resource_api_version: V3, api_config_source: {{ api_type: GRPC, transport_api_version: V3, grpc_services: [{{ envoy_grpc: {{ cluster_name: {cluster} }} }}] }} }}"
    )
}

/// A cluster of HTTP/2 with this address, in lines of the bootstrap.
fn way_to_plane(name: &str, address: &str, more: &str) -> String {
    let options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    format!(
        "  - name: {name}\n    connect_timeout: 1s\n    typed_extension_protocol_options: {{ envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{ '@type': {options}, explicit_http_config: {{ http2_protocol_options: {{}} }} }} }}\n    load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ {address} }} }} }}] }}] }}\n    {more}\n"
    )
}

/// A listener whose certificate comes that way, at first and when it changes.
async fn comes_from(stage: &mut Stage, way: &str) {
    let address = stage.backend("first").await;
    stage.plane.set(Kind::Cds, [cluster("a", address)]);
    let listener = tls_listener("l", "secret", &behind(way));
    stage.plane.set(Kind::Lds, [listener]);
    stage.plane.set(Kind::Sds, [certificate("secret", "first")]);
    stage.run().await;
    shows(stage, "l", "CN=first").await;
    stage
        .plane
        .set(Kind::Sds, [certificate("secret", "second")]);
    shows(stage, "l", "CN=second").await;
}

#[test]
fn secrets_come_over_a_unix_socket() {
    tell("sds-unix", &[Transport::Ads], async |stage| {
        let path = stage.folder.join("agent.sock");
        let socket = UnixListener::bind(&path).unwrap();
        let plane = stage.plane.address();
        let relay = spawn_local(async move {
            while let Ok((mut near, _)) = socket.accept().await {
                let mut far = TcpStream::connect(plane).await.unwrap();
                spawn_local(async move { copy_bidirectional(&mut near, &mut far).await });
            }
        });
        let pipe = format!("pipe: {{ path: {} }}", path.display());
        stage.clusters = way_to_plane("agent", &pipe, "");
        comes_from(stage, "agent").await;
        relay.abort();
    });
}

/// Writes `name.crt` and `name.key`, of an authority if nobody has issued it.
fn issued(
    folder: &Path,
    name: &str,
    host: &str,
    issuer: Option<&Issuer<'static, KeyPair>>,
) -> Issuer<'static, KeyPair> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let pem = match issuer {
        Some(issuer) => params.signed_by(&key, issuer).unwrap().pem(),
        None => {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.self_signed(&key).unwrap().pem()
        }
    };
    std::fs::write(folder.join(format!("{name}.crt")), pem).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    Issuer::new(params, key)
}

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// TLS with the certificate of this name, towards peers of the same authority.
fn common_tls(folder: &Path, name: &str) -> String {
    let file = |name: String| format!("{{ filename: {} }}", folder.join(name).display());
    format!(
        "common_tls_context: {{ alpn_protocols: [h2], tls_certificates: [{{ certificate_chain: {}, private_key: {} }}], validation_context: {{ trusted_ca: {} }} }}",
        file(format!("{name}.crt")),
        file(format!("{name}.key")),
        file("ca.crt".into())
    )
}

/// Starts Envoy before the control plane, as one that calls itself `plane` and lets nobody in without a certificate: `node` has
/// one.
async fn gate(stage: &Stage, plane: &str) -> Proxy {
    let folder = &stage.folder;
    let ca = issued(folder, "ca", "ca.example", None);
    issued(folder, "plane", plane, Some(&ca));
    issued(folder, "node", "node.example", Some(&ca));
    let address = format!(
        "socket_address: {{ address: 127.0.0.1, port_value: {} }}",
        stage.plane.address().port()
    );
    let any = "address: { socket_address: { address: 127.0.0.1, port_value: 0 } }";
    let config = format!(
        "admin: {{ {any} }}\nstatic_resources:\n  listeners:\n  - name: gate\n    stat_prefix: gate\n    {any}\n    filter_chains:\n    - transport_socket: {{ name: tls, typed_config: {{ '@type': {TLS}.DownstreamTlsContext, require_client_certificate: true, {} }} }}\n      filters: [{{ name: tcp, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, cluster: plane }} }}]\n  clusters:\n{}",
        common_tls(folder, "plane"),
        way_to_plane("plane", &address, "")
    );
    let envoy = binaries::envoy().unwrap();
    Proxy::start(&envoy, &config, &folder.join("gate"))
        .await
        .unwrap()
}

#[test]
fn the_control_plane_is_reached_by_google_grpc_with_certificates() {
    tell("google-grpc-tls", &AGGREGATED, async |stage| {
        let gate = gate(stage, "127.0.0.1").await;
        let port = gate.listener("gate").expect("the gate is open").port();
        let folder = stage.folder.clone();
        let file = |name: &str| format!("{{ filename: {} }}", folder.join(name).display());
        stage.ads_services = format!(
            "[{{ google_grpc: {{ target_uri: 'ipv4:127.0.0.1:{port}', stat_prefix: plane, channel_credentials: {{ ssl_credentials: {{ root_certs: {}, private_key: {}, cert_chain: {} }} }} }} }}]",
            file("ca.crt"),
            file("node.key"),
            file("node.crt"),
        );
        let address = stage.backend("first").await;
        stage.plane.set(Kind::Cds, [cluster("a", address)]);
        stage.plane.set(Kind::Lds, [listener("l", "a")]);
        stage.run().await;
        stage.answers("l", 200, "first").await;
        let (_, stats) = admin_get(gate.admin_address(), "/stats?filter=gate.ssl.handshake$")
            .await
            .unwrap();
        assert!(
            !stats.trim().is_empty() && !stats.contains(": 0"),
            "{stats}"
        );
    });
}

#[test]
fn secrets_come_from_a_control_plane_that_wants_a_certificate() {
    tell("sds-mtls", &[Transport::Ads], async |stage| {
        let gate = gate(stage, "plane.example").await;
        let port = gate.listener("gate").expect("the gate is open").port();
        let address = format!("socket_address: {{ address: 127.0.0.1, port_value: {port} }}");
        let tls = format!(
            "transport_socket: {{ name: tls, typed_config: {{ '@type': {TLS}.UpstreamTlsContext, sni: plane.example, {} }} }}",
            common_tls(&stage.folder, "node")
        );
        stage.clusters = way_to_plane("secure", &address, &tls);
        comes_from(stage, "secure").await;
        let (_, stats) = admin_get(
            gate.admin_address(),
            "/stats?filter=gate.ssl.(handshake|no_certificate)$",
        )
        .await
        .unwrap();
        assert!(stats.contains("ssl.handshake: 1"), "{stats}");
        assert!(stats.contains("ssl.no_certificate: 0"), "{stats}");
    });
}
