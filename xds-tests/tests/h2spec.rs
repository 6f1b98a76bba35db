//! h2spec, the conformance suite for HTTP/2 servers, against a listener in clear text and one with TLS. All of its cases pass.
//!
//! It is built with `go install`; without Go the story says so and proves nothing. `H2SPEC_BIN` names one that is there.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a story stops at what it did not expect, and is configured by the environment as CI does"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use outrigger_xds_tests::backend::{Act, Backend, Kind, Response, Script};
use outrigger_xds_tests::binaries;
use outrigger_xds_tests::proxy::Proxy;
use rcgen::{CertificateParams, KeyPair};
use tokio::task::LocalSet;

const VERSION: &str = "v0.0.0-20200804131034-70ac22940108";

#[test]
fn every_case_of_h2spec_passes_in_clear_text() {
    run("h2spec", None);
}

#[test]
fn every_case_of_h2spec_passes_over_tls() {
    let folder = binaries::scratch("h2spec_certificates").unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let tls = format!(
        r#"transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2]
            tls_certificates:
            - certificate_chain: {{ filename: "{}" }}
              private_key: {{ filename: "{}" }}"#,
        write("cert.pem", &certificate.pem()),
        write("key.pem", &key.serialize_pem()),
    );
    run("h2spec_tls", Some(&tls));
}

/// `tls`: the transport socket of the listener; none: clear text.
fn run(name: &str, tls: Option<&str>) {
    let Some(h2spec) = h2spec() else {
        println!(
            "SKIPPED: h2spec is not there and cannot be built, because there is no Go. NOTHING WAS PROVED."
        );
        eprintln!("SKIPPED: h2spec needs Go; HTTP/2 conformance was NOT checked.");
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, check(&h2spec, name, tls));
}

async fn check(h2spec: &Path, name: &str, tls: Option<&str>) {
    let folder = binaries::scratch(name).unwrap();
    let response = Response {
        status: 200,
        fields: vec![],
        body: vec![b'x'; 200],
        trailers: vec![],
        chunked: false,
    };
    let script = Script {
        early: false,
        acts: vec![Act::Respond(response)],
    };
    let backend = Backend::start(Kind::Http1(vec![script])).await.unwrap();
    let yaml = bootstrap(backend.address().port(), tls.unwrap_or_default());
    let binary = binaries::outrigger().unwrap();
    let mut proxy = Proxy::start(&binary, &yaml, &folder).await.unwrap();
    let port = proxy.listener("ingress").unwrap().port().to_string();
    let mut command = tokio::process::Command::new(h2spec);
    command.args(["-h", "127.0.0.1", "-p", &port, "--timeout", "5"]);
    if tls.is_some() {
        // Without a check of the certificate, which is nobody's.
        command.args(["-t", "-k"]);
    }
    let output = command.output().await.unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    let failures = report.find("Failures:").map_or("", |at| &report[at..]);
    let passed = "146 tests, 146 passed, 0 skipped, 0 failed";
    assert!(report.contains(passed), "{failures}");
    assert_eq!(proxy.obituary(), None);
}

/// The program, built if it is not there.
fn h2spec() -> Option<PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(find_or_build).clone()
}

fn find_or_build() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("H2SPEC_BIN") {
        return Some(path.into());
    }
    let folder = binaries::workspace().join("target/h2spec");
    let program = folder.join("h2spec");
    if program.exists() {
        return Some(program);
    }
    let mut command = Command::new("go");
    let package = format!("github.com/summerwind/h2spec/cmd/h2spec@{VERSION}");
    command.args(["install", &package]).env("GOBIN", &folder);
    match binaries::fetching(&mut command) {
        Ok(output) => {
            assert!(output.status.success(), "go install of h2spec: {output:?}");
            Some(program)
        }
        Err(_) => None,
    }
}

fn bootstrap(backend: u16, transport_socket: &str) -> String {
    format!(
        r#"
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
static_resources:
  listeners:
  - name: ingress
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - {transport_socket}
      filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          codec_type: HTTP2
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{ match: {{ prefix: / }}, route: {{ cluster: backend }} }}]
          http_filters:
          - name: router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: backend
    connect_timeout: 5s
    load_assignment:
      cluster_name: backend
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {backend} }} }} }}
"#
    )
}
