//! What browsers and their like see: packed responses by curl, gRPC-Web by npm's `grpc-web` over `xhr2`, against grpcio's server,
//! and tokens of PyJWT and of npm's `jose`.
//!
//! What is not there is named on stderr, and proves nothing.
#![allow(
    clippy::unwrap_used,
    reason = "a story stops at what it did not expect"
)]

mod tokens;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::ports;
use outrigger_xds_tests::proxy::Proxy;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

/// A process that ends with the story.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const LIBRARIES: [(&str, &str); 3] = [
    ("gzip", "gzip.compressor.v3.Gzip"),
    ("br", "brotli.compressor.v3.Brotli"),
    ("zstd", "zstd.compressor.v3.Zstd"),
];

#[tokio::test]
async fn curl_unpacks_what_each_library_packs() {
    let version = output("curl", &["--version"]).await;
    let folder = binaries::scratch("web-peers-curl").unwrap();
    let text = "all that is said here is said again; ".repeat(90);
    let filters: String = LIBRARIES
        .iter()
        .map(|(name, message)| {
            format!(
                "          - name: {name}\n            typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor, compressor_library: {{ name: {name}, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.compression.{message} }} }} }}\n"
            )
        })
        .collect();
    let route = format!(
        "{{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: {{ inline_string: \"{text}\" }} }} }}"
    );
    let yaml = bootstrap(&filters, &route, "");
    let binary = binaries::outrigger().unwrap();
    let mut proxy = Proxy::start(&binary, &yaml, &folder).await.unwrap();
    let url = format!("http://{}/", proxy.listener("web").unwrap());
    for (name, _) in LIBRARIES {
        let feature = if name == "br" { "brotli" } else { name };
        if name != "gzip" && !version.contains(feature) {
            say(&format!(
                "SKIPPED: curl without {feature}; NOTHING WAS PROVED about it."
            ));
            continue;
        }
        let accept = format!("accept-encoding: {name}");
        let size = "%{size_download}";
        let counted = ["-sS", "-o", "/dev/null", "-w", size, "-H", &accept, &url];
        let packed = output("curl", &counted).await;
        let packed: usize = packed.trim().parse().unwrap();
        let unpacked = output("curl", &["-sS", "--compressed", "-H", &accept, &url]).await;
        assert!(unpacked == text, "{name}: {} bytes", unpacked.len());
        assert!(packed < text.len() / 10, "{name}: {packed} bytes");
    }
    assert_eq!(proxy.obituary(), None);
}

#[tokio::test]
async fn grpc_web_of_npm_calls_a_service_of_grpcio() {
    let (Some(python), Some(web)) = (
        prepared(script("peers.sh")).await,
        prepared(script("peers-web.sh")).await,
    ) else {
        say("SKIPPED: PyPI or npm are not there; NOTHING WAS PROVED about gRPC-Web.");
        return;
    };
    let port = ports::free().port();
    let server = Command::new(python)
        .arg(script("peers/grpc_peer.py"))
        .args(["serve", &port.to_string()])
        .stdin(Stdio::null())
        .spawn();
    let mut server = Server(server.unwrap());
    let end = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        let ended = server.0.try_wait().unwrap();
        assert!(ended.is_none(), "grpcio's server ended: {ended:?}");
        assert!(Instant::now() < end, "grpcio's server does not listen");
        sleep(Duration::from_millis(50)).await;
    }
    let filters = "          - { name: web, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb } }\n";
    let route = "{ match: { prefix: /peer.Echo/ }, route: { cluster: grpc } }, { match: { prefix: / }, route: { cluster: nobody } }";
    let http2 = "typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { http2_protocol_options: {} } } }";
    let clusters = format!(
        "  clusters:\n  - {{ name: grpc, {http2}, load_assignment: {{ cluster_name: grpc, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }} ] }} ] }} }}\n  - {{ name: nobody }}\n"
    );
    let folder = binaries::scratch("web-peers-grpc").unwrap();
    let binary = binaries::outrigger().unwrap();
    let yaml = bootstrap(filters, route, &clusters);
    let mut proxy = Proxy::start(&binary, &yaml, &folder).await.unwrap();
    let listener = proxy.listener("web").unwrap().port().to_string();
    let peer = script("peers/grpc_web_peer.mjs").display().to_string();
    for format in ["text", "binary"] {
        let said = output("node", &[&peer, web.to_str().unwrap(), &listener, format]).await;
        assert_eq!(said.trim(), "OK", "{format}");
    }
    assert_eq!(proxy.obituary(), None);
}

/// What a program says on both outputs.
async fn output(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = spawn_blocking(move || command.output()).await.unwrap();
    let Ok(output) = output else {
        return String::new();
    };
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// A script of this package.
fn script(name: &str) -> PathBuf {
    binaries::workspace().join("xds-tests").join(name)
}

/// What a script has set up; none: it could not.
async fn prepared(script: PathBuf) -> Option<PathBuf> {
    let mut command = Command::new("bash");
    command.arg(script).stderr(Stdio::inherit());
    let output = spawn_blocking(move || command.output())
        .await
        .unwrap()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then(|| text.into())
}

/// Past the capture of the test runner, which shows nothing of a test that passes.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "web peers: {text}");
}

fn bootstrap(filters: &str, routes: &str, clusters: &str) -> String {
    format!(
        "admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
static_resources:
  listeners:
  - name: web
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          route_config: {{ virtual_hosts: [ {{ name: all, domains: [ \"*\" ], routes: [ {routes} ] }} ] }}
          http_filters:
{filters}          - {{ name: router, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}
{clusters}"
    )
}
