//! Peers that are not OpenSSL's own programs: curl, Python's ssl, Go's crypto/tls, and Envoy as the sidecar on the other side.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::ports;
use outrigger_xds_tests::proxy::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::peers::{HCM, ROUTER, file_log, line};
use crate::pki::Pki;
use crate::rotation::{Secrets, inner, outer};

/// The programs that play peers.
struct Programs {
    /// None: there is no Go here.
    go: Option<PathBuf>,
    python: PathBuf,
}

impl Programs {
    fn new(scratch: &Path) -> Self {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
        let go = scratch.join("peer");
        let built = Command::new("go")
            .args(["build", "-o"])
            .arg(&go)
            .arg(sources.join("peer.go"))
            .status();
        let is_there = match built {
            Ok(status) => {
                assert!(status.success(), "go cannot build the peer");
                true
            }
            Err(_) => {
                println!("without Go: there is none here");
                false
            }
        };
        Self {
            go: is_there.then_some(go),
            python: sources.join("peer.py"),
        }
    }

    /// The command of each peer with its name.
    fn all(&self) -> Vec<(&'static str, Command)> {
        let mut python = Command::new("python3");
        python.arg(&self.python);
        let go = self.go.iter().map(|go| ("go", Command::new(go)));
        go.chain([("python", python)]).collect()
    }
}

const CLIENTS: [&str; 5] = ["client", "", "expired", "wrong_ca", "rsa_client"];
const LOG: &str = "why=%DOWNSTREAM_TRANSPORT_FAILURE_REASON% v=%DOWNSTREAM_TLS_VERSION% subject=%DOWNSTREAM_PEER_SUBJECT% sni=%REQUESTED_SERVER_NAME%";

fn listener(pki: &Pki, folder: &Path) -> String {
    let log = file_log(&folder.join("connections.log"), LOG);
    format!(
        r#"admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
static_resources:
  listeners:
  - name: ingress
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    access_log: {log}
    filter_chains:
    - transport_socket: {{ name: tls, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: true, common_tls_context: {{ alpn_protocols: [ h2, http/1.1 ], tls_certificates: [ {{ certificate_chain: {{ filename: {} }}, private_key: {{ filename: {} }} }} ], validation_context: {{ trusted_ca: {{ filename: {} }} }} }} }} }}
      filters: [ {{ name: hcm, typed_config: {{ "@type": {HCM}, stat_prefix: ingress, route_config: {{ virtual_hosts: [ {{ name: v, domains: ["*"], routes: [ {{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: {{ inline_string: ok }} }} }} ] }} ] }}, http_filters: [ {ROUTER} ] }} }} ]
"#,
        pki.crt("server"),
        pki.key("server"),
        pki.crt("ca")
    )
}

fn curl(pki: &Pki, address: SocketAddr, max: &str, certificate: &str) -> Command {
    let mut curl = Command::new("curl");
    curl.args([
        "-s",
        "-m",
        "8",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{http_version}",
        "--tls-max",
        max,
    ]);
    curl.arg("--cacert").arg(pki.crt("ca"));
    let port = address.port();
    curl.arg("--resolve")
        .arg(format!("server.example:{port}:127.0.0.1"));
    if !certificate.is_empty() {
        curl.arg("--cert")
            .arg(pki.crt(certificate))
            .arg("--key")
            .arg(pki.key(certificate));
    }
    curl.arg(format!("https://server.example:{port}/"));
    curl
}

async fn output(mut command: Command) -> String {
    command.stderr(Stdio::null());
    let ran = tokio::task::spawn_blocking(move || command.output()).await;
    String::from_utf8(ran.unwrap().expect("the peer runs").stdout)
        .unwrap()
        .trim()
        .to_owned()
}

async fn clients(binary: &Path, pki: &Pki, programs: &Programs, folder: &Path) -> Vec<String> {
    fs::create_dir_all(folder).unwrap();
    let proxy = Proxy::start(binary, &listener(pki, folder), folder)
        .await
        .unwrap();
    let address = proxy.listener("ingress").expect("the listener is there");
    let mut seen = Vec::new();
    for max in ["1.2", "1.3"] {
        for certificate in CLIENTS {
            let mut commands = vec![("curl", curl(pki, address, max, certificate))];
            for (name, mut command) in programs.all() {
                command
                    .arg("client")
                    .arg(address.to_string())
                    .args([max, &pki.crt("ca")]);
                if !certificate.is_empty() {
                    command.arg(pki.crt(certificate)).arg(pki.key(certificate));
                }
                commands.push((name, command));
            }
            for (name, command) in commands {
                let told = output(command).await;
                let logged = line(&folder.join("connections.log"), seen.len() + 1).await;
                seen.push(format!("{name} [{certificate}] {max}: {told} | {logged}"));
            }
        }
    }
    seen
}

/// A server that a program plays. Ends on drop.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const UPSTREAM_LOG: &str = "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% why=%UPSTREAM_TRANSPORT_FAILURE_REASON% v=%UPSTREAM_TLS_VERSION% subject=%UPSTREAM_PEER_SUBJECT%";

/// The clusters: for each server one with each certificate.
fn clusters(pki: &Pki, servers: &[(String, u16)], folder: &Path) -> (String, Vec<String>) {
    let log = file_log(&folder.join("access.log"), UPSTREAM_LOG);
    let (mut routes, mut all, mut paths) = (String::new(), String::new(), Vec::new());
    for (server, port) in servers {
        for certificate in CLIENTS {
            let name = format!("{server}_{certificate}");
            let own = match certificate {
                "" => String::new(),
                _ => format!(
                    "tls_certificates: [ {{ certificate_chain: {{ filename: {} }}, private_key: {{ filename: {} }} }} ], ",
                    pki.crt(certificate),
                    pki.key(certificate)
                ),
            };
            routes += &format!("{{ match: {{ path: /{name} }}, route: {{ cluster: {name} }} }}, ");
            all += &format!(
                "  - name: {name}\n    load_assignment: {{ cluster_name: x, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }} ] }} ] }}\n    transport_socket: {{ name: tls, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: server.example, common_tls_context: {{ tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }}, {own}validation_context: {{ trusted_ca: {{ filename: {} }} }} }} }} }}\n",
                pki.crt("ca")
            );
            paths.push(name);
        }
    }
    let text = format!(
        r#"admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
static_resources:
  listeners:
  - name: ingress
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters: [ {{ name: hcm, typed_config: {{ "@type": {HCM}, stat_prefix: ingress, access_log: {log}, route_config: {{ virtual_hosts: [ {{ name: v, domains: ["*"], routes: [ {routes} ] }} ] }}, http_filters: [ {ROUTER} ] }} }} ]
  clusters:
{all}"#
    );
    (text, paths)
}

async fn servers(
    binary: &Path,
    pki: &Pki,
    servers: &[(String, u16)],
    folder: &Path,
) -> Vec<String> {
    fs::create_dir_all(folder).unwrap();
    let (config, paths) = clusters(pki, servers, folder);
    let proxy = Proxy::start(binary, &config, folder).await.unwrap();
    let address = proxy.listener("ingress").expect("the listener is there");
    let mut seen = Vec::new();
    for path in paths {
        let mut curl = Command::new("curl");
        curl.args([
            "-s",
            "-m",
            "8",
            "-o",
            "/dev/null",
            &format!("http://{address}/{path}"),
        ]);
        output(curl).await;
        seen.push(line(&folder.join("access.log"), seen.len() + 1).await);
    }
    seen
}

#[tokio::test]
async fn other_peers_see_what_they_see_of_envoy() {
    let scratch = binaries::scratch("tls_others").unwrap();
    let pki = Pki::make(&scratch.join("pki"));
    let programs = Programs::new(&scratch);
    let (envoy, ours) = (binaries::envoy().unwrap(), binaries::outrigger().unwrap());
    let mut played = Vec::new();
    let mut listening = Vec::new();
    for max in ["1.2", "1.3"] {
        for (name, mut command) in programs.all() {
            let free = ports::free();
            command.arg("server").arg(free.to_string()).args([
                max,
                &pki.crt("ca"),
                &pki.crt("server"),
                &pki.key("server"),
            ]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            played.push(Peer(command.spawn().expect("the peer runs")));
            listening.push((format!("{name}{}", max.replace('.', "")), free.port()));
        }
    }
    let end = Instant::now() + Duration::from_secs(60);
    for (name, port) in &listening {
        while !ports::is_listening(SocketAddr::from(([127, 0, 0, 1], *port))) {
            assert!(Instant::now() < end, "{name} does not listen");
            sleep(Duration::from_millis(50)).await;
        }
    }
    let mut of_envoy = clients(&envoy, &pki, &programs, &scratch.join("envoy")).await;
    let mut of_ours = clients(&ours, &pki, &programs, &scratch.join("outrigger")).await;
    of_envoy.extend(servers(&envoy, &pki, &listening, &scratch.join("envoy_up")).await);
    of_ours.extend(servers(&ours, &pki, &listening, &scratch.join("outrigger_up")).await);
    let differences: Vec<_> = of_envoy
        .iter()
        .zip(&of_ours)
        .filter(|(envoy, ours)| envoy != ours)
        .map(|(envoy, ours)| format!("- {envoy}\n+ {ours}"))
        .collect();
    println!("{} meetings", of_envoy.len());
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    let good = |lines: &[String]| lines.iter().filter(|line| line.contains(" 200 ")).count();
    assert!(
        good(&of_envoy) * 3 > of_envoy.len(),
        "too few meetings are good:\n{}",
        of_envoy.join("\n")
    );
}

/// A request and bytes that come back, from one sidecar to the other.
async fn pair(outside: &Path, inside: &Path, folder: &Path) {
    let secrets = Secrets::new(folder.join("secrets"));
    let inner = Proxy::start(inside, &inner(&secrets.folder, 9), &folder.join("inner"))
        .await
        .unwrap();
    let to = |name: &str| inner.listener(name).expect("the listener is there");
    let config = outer(&secrets.folder, to("http"), to("tcp"));
    let outer = Proxy::start(outside, &config, &folder.join("outer"))
        .await
        .unwrap();
    let talk = async |name: &str, bytes: &[u8]| {
        let address = outer.listener(name).expect("the listener is there");
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = vec![0; 1024];
        let read = timeout(Duration::from_secs(10), stream.read(&mut answer)).await;
        let read = read.expect("an answer").unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    assert!(
        talk("http", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert_eq!(talk("tcp", b"ping").await, "ping");
}

#[tokio::test]
async fn sidecars_of_either_kind_understand_each_other() {
    let scratch = binaries::scratch("tls_sidecars").unwrap();
    let (envoy, ours) = (binaries::envoy().unwrap(), binaries::outrigger().unwrap());
    pair(&envoy, &ours, &scratch.join("envoy_to_outrigger")).await;
    pair(&ours, &envoy, &scratch.join("outrigger_to_envoy")).await;
}
