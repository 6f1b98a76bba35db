//! HTTP/2 with the peers of other makers on both sides: a client of each sends a large body, then thousands of streams, to a
//! server of each through the proxy, with trailers both ways.
//!
//! nghttp2 and curl come from Debian, Go and Node are there or not, `peers.sh` brings the libraries of PyPI. What is not there
//! is named on stderr, and proves nothing.
#![allow(
    clippy::unwrap_used,
    reason = "a story stops at what it did not expect"
)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::ports;
use outrigger_xds_tests::proxy::Proxy;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

/// Long enough for any of them, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// The crate `h2`.
const H2_PEER: &str = env!("CARGO_BIN_EXE_h2-peer");

/// A body that programs send from a file.
const BODY: usize = 600_000;

/// A server that gives back what it gets.
struct Server {
    name: &'static str,
    port: u16,
    /// Whether it has trailers of its own and tells of those that it got.
    trailers: bool,
    process: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The programs that are there.
struct Peers {
    folder: PathBuf,
    sources: PathBuf,
    python: Option<PathBuf>,
    go: Option<PathBuf>,
    node: bool,
}

#[tokio::test]
async fn peers_of_many_makers_are_understood_on_both_sides() {
    let peers = spawn_blocking(Peers::find).await.unwrap();
    let mut servers = peers.servers();
    let mut failures = String::new();
    for server in &mut servers {
        assert!(listens(server).await, "{} does not listen", server.name);
    }
    let binary = binaries::outrigger().unwrap();
    let yaml = bootstrap(&servers);
    let mut proxy = Proxy::start(&binary, &yaml, &peers.folder).await.unwrap();
    let port = proxy.listener("ingress").unwrap().port();
    let mut pairs = 0;
    for server in &servers {
        for (client, command) in peers.clients(port, server) {
            let result = run(command).await;
            pairs += 1;
            if let Err(error) = result {
                let _ = writeln!(failures, "{client} -> {}: {error}", server.name);
            }
        }
    }
    assert_eq!(proxy.obituary(), None);
    assert!(failures.is_empty(), "of {pairs} pairs failed:\n{failures}");
    say(&format!("{pairs} pairs of peers understood each other"));
}

/// Runs a client to its end. All of them say so when something was wrong.
async fn run(mut command: Command) -> Result<(), String> {
    let output = spawn_blocking(move || command.stdin(Stdio::null()).output());
    let Ok(output) = timeout(PATIENCE, output).await else {
        return Err("did not end".to_owned());
    };
    let output: Output = output.unwrap().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let good = [
        "OK",
        "metadata 1 1",
        " 3000 succeeded, 0 failed, 0 errored",
        " 2400000",
    ];
    if output.status.success() && good.iter().any(|good| text.contains(good)) {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{}: {}\n{}",
        output.status,
        end_of(&text, 1),
        end_of(&error, 8)
    ))
}

/// The last lines of what a program said.
fn end_of(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.trim().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Waits until a server takes connections.
async fn listens(server: &mut Server) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if TcpStream::connect(("127.0.0.1", server.port)).await.is_ok() {
            return true;
        }
        if !matches!(server.process.try_wait(), Ok(None)) {
            return false;
        }
        sleep(Duration::from_millis(50)).await;
    }
    false
}

impl Peers {
    fn find() -> Self {
        let folder = binaries::scratch("peers").unwrap();
        std::fs::write(folder.join("body"), vec![b'x'; BODY]).unwrap();
        let sources = binaries::workspace().join("xds-tests/peers");
        let python = Command::new("bash")
            .arg(binaries::workspace().join("xds-tests/peers.sh"))
            .stderr(Stdio::inherit())
            .output()
            .ok()
            .filter(|output| output.status.success())
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().into());
        let go = is_there("go", "version").then(|| {
            let program = folder.join("go_peer");
            let built = Command::new("go")
                .args(["build", "-o"])
                .args([program.as_os_str(), "peer.go".as_ref()])
                .current_dir(&sources)
                .status();
            assert!(built.unwrap().success(), "go build failed");
            program
        });
        let peers = Self {
            folder,
            sources,
            python,
            go,
            node: is_there("node", "--version"),
        };
        for (name, found) in [
            ("PyPI's h2 and grpcio", peers.python.is_some()),
            ("Go's net/http", peers.go.is_some()),
            ("Node", peers.node),
            ("nghttpd (nghttp2-server)", is_there("nghttpd", "--version")),
            ("nghttp (nghttp2-client)", is_there("nghttp", "--version")),
            ("h2load (nghttp2-client)", is_there("h2load", "--version")),
            ("curl with HTTP/2", has_curl()),
        ] {
            if !found {
                say(&format!(
                    "SKIPPED: {name} is not there; NOTHING WAS PROVED about it."
                ));
            }
        }
        peers
    }

    fn servers(&self) -> Vec<Server> {
        let mut servers = Vec::new();
        let mut add = |name, trailers, command: &dyn Fn(&str) -> Command| {
            let port = ports::free().port();
            let process = command(&port.to_string())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn();
            servers.push(Server {
                name,
                port,
                trailers,
                process: process.unwrap(),
            });
        };
        add("h2", true, &|port| with(H2_PEER, &["serve", port]));
        if let Some(go) = &self.go {
            add("go", true, &|port| with(go, &["serve", port]));
        }
        if self.node {
            add("node", true, &|port| {
                self.script("node", "peer.mjs", &["serve", port])
            });
        }
        if let Some(python) = &self.python {
            add("python", true, &|port| {
                self.script(python, "peer.py", &["serve", port])
            });
            add("grpcio", true, &|port| {
                self.script(python, "grpc_peer.py", &["serve", port])
            });
        }
        if is_there("nghttpd", "--version") {
            add("nghttpd", false, &|port| {
                let arguments = ["--no-tls", "--echo-upload", "--address=127.0.0.1"];
                with(
                    "nghttpd",
                    &[&arguments[..], &["--trailer=x-length: 1", port]].concat(),
                )
            });
        }
        servers
    }

    /// The clients of this server, and how they are called.
    fn clients(&self, port: u16, server: &Server) -> Vec<(&'static str, Command)> {
        let port = port.to_string();
        if server.name == "grpcio" {
            let python = self.python.as_deref().unwrap_or(Path::new("python3"));
            return vec![(
                "grpcio",
                self.script(python, "grpc_peer.py", &["call", &port]),
            )];
        }
        let path = format!("/{}", server.name);
        let trailers = if server.trailers { "trailers" } else { "-" };
        let call = ["call", &*port, &*path, trailers];
        let url = format!("http://127.0.0.1:{port}{path}");
        let body = self.folder.join("body").display().to_string();
        let mut clients = vec![("h2", with(H2_PEER, &call))];
        if let Some(go) = &self.go {
            clients.push(("go", with(go, &call)));
        }
        if self.node {
            clients.push(("node", self.script("node", "peer.mjs", &call)));
        }
        if let Some(python) = &self.python {
            clients.push(("python", self.script(python, "peer.py", &call)));
            if server.name == "python" {
                let call = ["metadata", &*port, &*path];
                clients.push((
                    "python with METADATA",
                    self.script(python, "peer.py", &call),
                ));
            }
        }
        let count = |program: &str| {
            with(
                "bash",
                &["-c", &format!("echo \" $( ({program}) | wc -c)\"")],
            )
        };
        if is_there("nghttp", "--version") {
            // Four times the body.
            let program = format!("nghttp -m4 -d {body} --trailer 'x-sent: yes' {url}");
            clients.push(("nghttp", count(&program)));
        }
        if is_there("h2load", "--version") {
            let counts = ["-n3000", "-c5", "-m60"];
            clients.push((
                "h2load",
                with(
                    "h2load",
                    &[&counts[..], &["-d", "/etc/hostname", &url]].concat(),
                ),
            ));
        }
        if has_curl() {
            // One request for each connection: this curl cannot use one again after prior knowledge, whoever serves.
            let program = format!(
                "for i in 1 2 3 4; do curl -sS --http2-prior-knowledge --data-binary @{body} {url}; done"
            );
            clients.push(("curl", count(&program)));
        }
        clients
    }

    fn script(&self, interpreter: impl AsRef<Path>, file: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(interpreter.as_ref());
        command.arg(self.sources.join(file)).args(arguments);
        command
    }
}

fn with(program: impl AsRef<Path>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(arguments);
    command
}

fn is_there(program: &str, argument: &str) -> bool {
    Command::new(program)
        .arg(argument)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn has_curl() -> bool {
    let version = Command::new("curl").arg("--version").output();
    version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("HTTP2"))
}

/// Past the capture of the test runner, which shows nothing of a test that passes.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "peers: {text}");
}

fn bootstrap(servers: &[Server]) -> String {
    let mut routes = String::new();
    let mut clusters = String::new();
    for Server { name, port, .. } in servers {
        let path = if *name == "grpcio" {
            "/peer.Echo/"
        } else {
            name
        };
        let prefix = format!("/{}", path.trim_start_matches('/'));
        let _ = write!(
            routes,
            "\n              - {{ match: {{ prefix: {prefix} }}, route: {{ cluster: {name}, timeout: 60s }} }}"
        );
        let _ = write!(
            clusters,
            r#"
  - name: {name}
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{ allow_metadata: true }} }}
    load_assignment:
      cluster_name: {name}
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }}"#
        );
    }
    format!(
        r#"
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
static_resources:
  listeners:
  - name: ingress
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          codec_type: HTTP2
          http2_protocol_options: {{ allow_metadata: true }}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:{routes}
          http_filters:
          - name: router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:{clusters}
"#
    )
}
