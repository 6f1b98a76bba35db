//! Connections that are sorted by what their ClientHello says, and passed on without being opened; and secrets of connections in
//! a file, for those who must look into recorded ones.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::proxy::Proxy;
use tokio::time::{Instant, sleep};

use crate::feature::pair;
use crate::peers::{HCM, ROUTER, Server, file_log, line};
use crate::pki::Pki;

const ADMIN: &str = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\nstatic_resources:\n";
const ADDRESS: &str = "address: { socket_address: { address: 127.0.0.1, port_value: 0 } }";
const LOG: &str = "sni=%REQUESTED_SERVER_NAME% chain=%FILTER_CHAIN_NAME% flags=%RESPONSE_FLAGS% closed=%CONNECTION_TERMINATION_DETAILS% v=%DOWNSTREAM_TLS_VERSION%";

/// The listener, what the client is told besides its address, and part of the line that Envoy writes.
const CLIENTS: &[(&str, &[&str], &str)] = &[
    ("sorted", &["-servername", "a.example"], "chain=exact"),
    ("sorted", &["-servername", "A.Example"], "chain="),
    ("sorted", &["-servername", "x.b.example"], "chain=star"),
    ("sorted", &["-servername", "y.x.b.example"], "chain=star"),
    ("sorted", &["-servername", "exact.b.example"], "chain=exact"),
    ("sorted", &["-servername", "b.example"], "chain=other"),
    ("sorted", &["-noservername"], "chain=other"),
    (
        "sorted",
        &["-servername", "a.example", "-alpn", "h2"],
        "chain=exact_h2",
    ),
    (
        "sorted",
        &["-servername", "a.example", "-alpn", "other,h2"],
        "chain=",
    ),
    (
        "sorted",
        &["-servername", "a.example", "-alpn", "unheard-of"],
        "chain=exact",
    ),
    (
        "sorted",
        &["-servername", "c.example", "-alpn", "h2"],
        "chain=h2",
    ),
    (
        "sorted",
        &["-servername", "x.b.example", "-alpn", "h2"],
        "chain=star",
    ),
    ("strict", &["-servername", "a.example"], "chain=only"),
    ("strict", &["-servername", "b.example"], "flags=NR"),
    ("strict", &["-noservername"], "flags=NR"),
];

fn sorter(ports: [u16; 3], folder: &Path) -> String {
    let log = |name: &str| file_log(&folder.join(format!("{name}.log")), LOG);
    let chain = |name: &str, matches: &str, cluster: &str| {
        format!(
            "    - name: {name}\n      filter_chain_match: {{ {matches} }}\n      filters: [ {{ name: tcp, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, cluster: {cluster} }} }} ]\n"
        )
    };
    let listener = |name: &str, chains: &[String]| {
        format!(
            "  - name: {name}\n    {ADDRESS}\n    access_log: {}\n    listener_filters: [ {{ name: tls, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector }} }} ]\n    filter_chains:\n{}",
            log(name),
            chains.concat()
        )
    };
    let cluster = |(name, port): (&str, u16)| {
        format!(
            "  - name: {name}\n    load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }} ] }} ] }}\n"
        )
    };
    let sorted = [
        chain(
            "exact",
            "server_names: [ a.example, exact.b.example ]",
            "first",
        ),
        chain(
            "exact_h2",
            "server_names: [ a.example ], application_protocols: [ h2 ]",
            "third",
        ),
        chain("star", "server_names: [ \"*.b.example\" ]", "second"),
        chain("h2", "application_protocols: [ h2 ]", "third"),
        chain("other", "", "second"),
    ];
    let strict = [chain(
        "only",
        "transport_protocol: tls, server_names: [ a.example ]",
        "first",
    )];
    let clusters: String = ["first", "second", "third"]
        .into_iter()
        .zip(ports)
        .map(cluster)
        .collect();
    format!(
        "{ADMIN}  listeners:\n{}{}  clusters:\n{clusters}",
        listener("sorted", &sorted),
        listener("strict", &strict)
    )
}

/// Whose certificate a client sees.
async fn subject(address: SocketAddr, arguments: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command
        .args(["5", "openssl", "s_client", "-connect"])
        .arg(address.to_string());
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.expect("openssl runs").stdout).into_owned();
    let subject = text.lines().find(|line| line.starts_with("subject="));
    subject.unwrap_or("no certificate").to_owned()
}

async fn sort(binary: &Path, ports: [u16; 3], folder: &Path) -> Vec<String> {
    fs::create_dir_all(folder).unwrap();
    let proxy = Proxy::start(binary, &sorter(ports, folder), folder)
        .await
        .unwrap();
    let mut seen = Vec::new();
    let mut counts = std::collections::HashMap::new();
    for (listener, arguments, _) in CLIENTS {
        let address = proxy.listener(listener).expect("the listener is there");
        let subject = subject(address, arguments).await;
        let count = counts.entry(listener).or_insert(0);
        *count += 1;
        let log = line(&folder.join(format!("{listener}.log")), *count).await;
        seen.push(format!("{subject} {log}"));
    }
    seen
}

#[tokio::test]
async fn unopened_connections_go_where_envoy_sends_them() {
    let scratch = binaries::scratch("tls_passthrough").unwrap();
    let pki = Pki::make(&scratch.join("pki"));
    let servers = ["server", "rsa", "names"].map(|name| Server::start(&pki, name, &[]));
    let ports = servers.each_ref().map(|server| server.port);
    let envoy = sort(&binaries::envoy().unwrap(), ports, &scratch.join("envoy")).await;
    let ours = sort(
        &binaries::outrigger().unwrap(),
        ports,
        &scratch.join("outrigger"),
    )
    .await;
    let mut failed = Vec::new();
    for ((case, envoy), ours) in CLIENTS.iter().zip(&envoy).zip(&ours) {
        if !envoy.contains(case.2) {
            failed.push(format!("{case:?}: Envoy shows {envoy}"));
        }
        if envoy != ours {
            failed.push(format!("{case:?}\n- {envoy}\n+ {ours}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The lines of a file of secrets, as a set, without remarks.
fn secrets(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_ascii_lowercase).collect()
}

/// A listener that writes secrets, and one that does not.
fn keeper(pki: &Pki, folder: &Path) -> String {
    let listener = |name: &str, more: &str| {
        format!(
            "  - name: {name}\n    {ADDRESS}\n    filter_chains:\n    - transport_socket: {{ name: tls, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {{ tls_certificates: [ {} ]{more} }} }} }}\n      filters: [ {{ name: hcm, typed_config: {{ \"@type\": {HCM}, stat_prefix: x, route_config: {{ virtual_hosts: [] }}, http_filters: [ {ROUTER} ] }} }} ]\n",
            pair(pki, "server", "server", "")
        )
    };
    let log = format!(
        ", key_log: {{ path: {} }}",
        folder.join("secrets.log").display()
    );
    format!(
        "{ADMIN}  listeners:\n{}{}",
        listener("kept", &log),
        listener("silent", "")
    )
}

/// The kinds of secrets that were written of a connection of this version. They are those of the client.
async fn kept(binary: &Path, pki: &Pki, version: &str, folder: &Path) -> BTreeSet<String> {
    fs::create_dir_all(folder).unwrap();
    let file = folder.join("secrets.log");
    let _ = fs::remove_file(&file);
    let proxy = Proxy::start(binary, &keeper(pki, folder), folder)
        .await
        .unwrap();
    for listener in ["silent", "kept"] {
        assert!(secrets(&file).is_empty(), "secrets without being asked");
        let of_client = folder.join(format!("{listener}.log"));
        let _ = fs::remove_file(&of_client);
        let address = proxy.listener(listener).expect("the listener is there");
        let name = of_client.display().to_string();
        let subject = subject(address, &[version, "-keylogfile", &name]).await;
        assert_eq!(subject, "subject=CN = server");
    }
    let of_client = secrets(&folder.join("kept.log"));
    let patience = Instant::now() + Duration::from_secs(10);
    while secrets(&file) != of_client && Instant::now() < patience {
        sleep(Duration::from_millis(50)).await;
    }
    let written = secrets(&file);
    assert!(!written.is_empty());
    assert_eq!(written, of_client, "{version}");
    let label = |line: &String| line.split(' ').next().unwrap_or_default().to_owned();
    written.iter().map(label).collect()
}

#[tokio::test]
async fn secrets_of_connections_are_written_where_envoy_writes_them() {
    let scratch = binaries::scratch("tls_key_log").unwrap();
    let pki = Pki::make(&scratch.join("pki"));
    for version in ["-tls1_2", "-tls1_3"] {
        let folder = |name: &str| scratch.join(format!("{name}{version}"));
        let envoy = kept(&binaries::envoy().unwrap(), &pki, version, &folder("envoy")).await;
        let ours = kept(
            &binaries::outrigger().unwrap(),
            &pki,
            version,
            &folder("outrigger"),
        )
        .await;
        assert_eq!(envoy, ours);
    }
}
