//! Clients of OpenSSL at listeners: who is let in, and what is told of them.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::proxy::Proxy;

use crate::peers::{EXPIRED, HCM, MISSING, NO_ISSUER, ROUTER, file_log, line};
use crate::pki::Pki;

/// One handshake with a listener.
struct Handshake {
    listener: &'static str,
    /// The certificate of the client; empty: none.
    certificate: &'static str,
    arguments: &'static [&'static str],
    /// Part of what Envoy writes, so that a case cannot pass by accident.
    log: &'static str,
    /// The alert differs, as the documentation of the transport socket says.
    other_alert: bool,
}

const fn handshake(
    listener: &'static str,
    certificate: &'static str,
    log: &'static str,
) -> Handshake {
    Handshake {
        listener,
        certificate,
        arguments: &[],
        log,
        other_alert: false,
    }
}

impl Handshake {
    const fn with(mut self, arguments: &'static [&'static str]) -> Self {
        self.arguments = arguments;
        self
    }

    const fn other_alert(mut self) -> Self {
        self.other_alert = true;
        self
    }
}

const HANDSHAKES: &[Handshake] = &[
    handshake(
        "mutual",
        "client",
        "why=- v=TLSv1.3 subject=O=Org\\, Inc.,CN=client",
    ),
    handshake("mutual", "client", "why=- v=TLSv1.2").with(&["-tls1_2"]),
    handshake("mutual", "", MISSING),
    handshake("mutual", "", MISSING)
        .with(&["-tls1_2"])
        .other_alert(),
    handshake("mutual", "expired", EXPIRED),
    handshake("mutual", "expired", EXPIRED).with(&["-tls1_2"]),
    handshake("mutual", "wrong_ca", NO_ISSUER),
    handshake(
        "mutual",
        "self_signed",
        "at_depth_0:_self_signed_certificate",
    ),
    handshake("mutual", "server_only", "unsupported_certificate_purpose"),
    handshake("mutual", "is_ca", "why=- v=TLSv1.3 subject=CN=is_ca"),
    handshake("mutual", "is_ca", "why=- v=TLSv1.2 subject=CN=is_ca").with(&["-tls1_2"]),
    handshake("mutual", "v1", "why=- v=TLSv1.3 subject=CN=v1"),
    handshake("mutual", "v1", "why=- v=TLSv1.2 subject=CN=v1").with(&["-tls1_2"]),
    handshake("san", "client", "why=- v=TLSv1.3"),
    handshake(
        "san",
        "wrong_san",
        "SAN_matcher,_certificate_SANs_are_[other.example]",
    ),
    handshake("san", "no_san", "SAN_matcher,_certificate_SANs_are_[]"),
    handshake("pinned", "client", "cert_hash_and_spki").other_alert(),
    handshake("optional", "", "why=- v=TLSv1.3 subject=-"),
    handshake("optional", "client", "subject=O=Org"),
    handshake("optional", "wrong_ca", NO_ISSUER),
    handshake(
        "untrusted",
        "wrong_ca",
        "why=- v=TLSv1.3 subject=CN=wrong_ca",
    ),
    handshake("untrusted", "", MISSING),
    handshake("lenient", "expired", "why=- v=TLSv1.3 subject=CN=expired"),
    handshake(
        "old_root",
        "of_old_ca",
        "at_depth_1:_certificate_has_expired",
    ),
    handshake(
        "own_leaf",
        "self_signed",
        "why=- v=TLSv1.3 subject=CN=self_signed",
    ),
    handshake("only13", "", "why=- v=TLSv1.3"),
    handshake("only12", "", "why=- v=TLSv1.2"),
    handshake("alpn", "", "why=- v=TLSv1.3").with(&["-alpn", "http/1.1"]),
    handshake("alpn", "", "why=- v=TLSv1.3").with(&["-alpn", "unheard-of"]),
    handshake("plain_key", "", "why=- v=TLSv1.3"),
];

/// The TLS contexts of the listeners: name, whether a certificate is required, validation, and more of the common context.
fn listeners(pki: &Pki) -> Vec<(&'static str, bool, String, &'static str)> {
    let ca = |name: &str, more: &str| {
        format!(
            "validation_context: {{ trusted_ca: {{ filename: {} }}{more} }}",
            pki.crt(name)
        )
    };
    vec![
        ("mutual", true, ca("ca", ""), ""),
        (
            "san",
            true,
            ca(
                "ca",
                ", match_typed_subject_alt_names: [ { san_type: DNS, matcher: { exact: client.example } } ]",
            ),
            "",
        ),
        (
            "pinned",
            true,
            ca(
                "ca",
                ", verify_certificate_spki: [ NvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A= ]",
            ),
            "",
        ),
        ("optional", false, ca("ca", ""), ""),
        (
            "untrusted",
            true,
            ca("ca", ", trust_chain_verification: ACCEPT_UNTRUSTED"),
            "",
        ),
        (
            "lenient",
            true,
            ca("ca", ", allow_expired_certificate: true"),
            "",
        ),
        ("old_root", true, ca("old_ca", ""), ""),
        ("own_leaf", true, ca("self_signed", ""), ""),
        (
            "only13",
            false,
            String::new(),
            "tls_params: { tls_minimum_protocol_version: TLSv1_3 }",
        ),
        (
            "only12",
            false,
            String::new(),
            "tls_params: { tls_maximum_protocol_version: TLSv1_2 }",
        ),
        (
            "alpn",
            false,
            String::new(),
            "alpn_protocols: [ h2, http/1.1 ]",
        ),
        ("plain_key", false, String::new(), ""),
    ]
}

const XFCC: &str = "forward_client_cert_details: APPEND_FORWARD\n          set_current_client_cert_details: { subject: true, uri: true, dns: true, cert: true, chain: true }";
const LOG: &str = "why=%DOWNSTREAM_TRANSPORT_FAILURE_REASON% v=%DOWNSTREAM_TLS_VERSION% subject=%DOWNSTREAM_PEER_SUBJECT% sni=%REQUESTED_SERVER_NAME% flags=%RESPONSE_FLAGS%";
const HTTP_LOG: &str = "subject=%DOWNSTREAM_PEER_SUBJECT% issuer=%DOWNSTREAM_PEER_ISSUER% serial=%DOWNSTREAM_PEER_SERIAL% uri=%DOWNSTREAM_PEER_URI_SAN% dns=%DOWNSTREAM_PEER_DNS_SAN% fp=%DOWNSTREAM_PEER_FINGERPRINT_256% fp1=%DOWNSTREAM_PEER_FINGERPRINT_1% local=%DOWNSTREAM_LOCAL_SUBJECT% luri=%DOWNSTREAM_LOCAL_URI_SAN% from=%DOWNSTREAM_PEER_CERT_V_START% to=%DOWNSTREAM_PEER_CERT_V_END% pem=%DOWNSTREAM_PEER_CERT% chain=%DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256% issued_by=%DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256% group=%DOWNSTREAM_TLS_GROUP% xfcc=%REQ(X-FORWARDED-CLIENT-CERT)% scheme=%REQ(:SCHEME)% proto=%REQ(X-FORWARDED-PROTO)%";

fn downstream(pki: &Pki, folder: &Path) -> String {
    let mut out = String::from(
        "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\nstatic_resources:\n  listeners:\n",
    );
    for (name, required, validation, more) in listeners(pki) {
        let (certificate, key) = (pki.crt("server"), pki.key("server"));
        let log = file_log(&folder.join(format!("{name}.log")), LOG);
        let http_log = file_log(&folder.join("http.log"), HTTP_LOG);
        let _ = write!(
            out,
            r#"  - name: {name}
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    access_log: {log}
    listener_filters: [ {{ name: tls, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector }} }} ]
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: {required}
          common_tls_context:
            {more}
            tls_certificates: [ {{ certificate_chain: {{ filename: {certificate} }}, private_key: {{ filename: {key} }} }} ]
            {validation}
      filters:
      - name: hcm
        typed_config:
          "@type": {HCM}
          stat_prefix: {name}
          {XFCC}
          access_log: {http_log}
          route_config: {{ virtual_hosts: [ {{ name: v, domains: ["*"], routes: [ {BY_CERTIFICATE} ] }} ] }}
          http_filters: [ {ROUTER} ]
"#
        );
    }
    out
}

/// What a client saw: the first line of the response, or the alert.
async fn talk(address: SocketAddr, pki: &Pki, case: &Handshake) -> String {
    let mut command = Command::new("timeout");
    command.args([
        "5",
        "openssl",
        "s_client",
        "-quiet",
        "-ign_eof",
        "-servername",
        "server.example",
    ]);
    command.arg("-connect").arg(address.to_string());
    command.args(case.arguments);
    if !case.certificate.is_empty() {
        command.arg("-cert").arg(pki.crt(case.certificate));
        command.arg("-key").arg(pki.key(case.certificate));
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl runs");
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: By=before\r\nconnection: close\r\n\r\n";
    // A server that refuses may be gone before the request is written.
    let _ = child.stdin.take().expect("it is piped").write_all(request);
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await;
    let output = output.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if let Some(line) = text.lines().next().filter(|line| line.starts_with("HTTP/")) {
        return line.trim().to_owned();
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let number = errors.split("alert number ").nth(1).map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits
    });
    format!("alert {}", number.unwrap_or_else(|| "none".to_owned()))
}

async fn play(binary: &Path, pki: &Pki, folder: &Path) -> (Vec<(String, String)>, Vec<String>) {
    fs::create_dir_all(folder).unwrap();
    let proxy = Proxy::start(binary, &downstream(pki, folder), folder)
        .await
        .unwrap();
    let mut seen = Vec::new();
    let mut counts = std::collections::HashMap::new();
    let mut answered = 0;
    for case in HANDSHAKES {
        let address = proxy
            .listener(case.listener)
            .expect("the listener is there");
        let answer = talk(address, pki, case).await;
        answered += usize::from(answer.starts_with("HTTP/"));
        let count = counts.entry(case.listener).or_insert(0);
        *count += 1;
        let log = folder.join(format!("{}.log", case.listener));
        seen.push((answer, line(&log, *count).await));
    }
    let log = folder.join("http.log");
    line(&log, answered).await;
    let text = fs::read_to_string(&log).unwrap();
    (seen, text.lines().map(str::to_owned).collect())
}

#[tokio::test]
async fn clients_are_judged_as_envoy_judges_them() {
    let scratch = binaries::scratch("tls").unwrap();
    let pki = Pki::make(&scratch.join("pki"));
    let (envoy, envoy_http) = play(&binaries::envoy().unwrap(), &pki, &scratch.join("envoy")).await;
    let (ours, ours_http) = play(
        &binaries::outrigger().unwrap(),
        &pki,
        &scratch.join("outrigger"),
    )
    .await;
    let mut failed = Vec::new();
    for ((case, envoy), ours) in HANDSHAKES.iter().zip(&envoy).zip(&ours) {
        let name = format!(
            "{} [{}] {:?}",
            case.listener, case.certificate, case.arguments
        );
        if !envoy.1.contains(case.log) {
            failed.push(format!("{name}: Envoy shows {}, not {}", envoy.1, case.log));
        }
        if envoy.1 != ours.1 {
            failed.push(format!("{name}:\n- {}\n+ {}", envoy.1, ours.1));
        }
        if envoy.0 != ours.0 && !case.other_alert {
            failed.push(format!("{name}:\n- {}\n+ {}", envoy.0, ours.0));
        }
    }
    for (envoy, ours) in envoy_http.iter().zip(&ours_http) {
        if envoy != ours {
            failed.push(format!("- {envoy}\n+ {ours}"));
        }
    }
    if envoy_http.len() != ours_http.len() {
        failed.push(format!(
            "{} requests, not {}",
            ours_http.len(),
            envoy_http.len()
        ));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The status says which certificate a client has shown.
const BY_CERTIFICATE: &str = "{ match: { prefix: /, tls_context: { presented: true, validated: true } }, direct_response: { status: 200 } }, \
    { match: { prefix: /, tls_context: { presented: true } }, direct_response: { status: 201 } }, \
    { match: { prefix: /, tls_context: { presented: false } }, direct_response: { status: 202 } }";
