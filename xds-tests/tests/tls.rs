//! TLS on both sides, with Envoy and Outrigger on the same configuration and OpenSSL as the peer.
//!
//! Certificates are made at run time. A case is a listener (or cluster), a peer and what it shows; both proxies must give the
//! same answer to the peer and the same line in the log: version, subject of the peer, and why it was refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at what it did not expect"
)]

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::proxy::Proxy;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use tokio::time::{Instant, sleep};

/// The certificates of all cases, in files.
struct Pki {
    folder: PathBuf,
}

type Authority = Issuer<'static, KeyPair>;

impl Pki {
    fn make(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let pki = Self {
            folder: folder.to_owned(),
        };
        let ca = pki.authority("ca", "Test CA", 2035);
        let other = pki.authority("other_ca", "Other CA", 2035);
        let old = pki.authority("old_ca", "Old CA", 2021);
        pki.leaf("server", &ca, 2035, |params| {
            params.subject_alt_names = vec![
                dns("server.example"),
                SanType::URI("spiffe://td/ns/a/sa/b".try_into().unwrap()),
            ];
        });
        pki.leaf("client", &ca, 2035, |params| {
            let name = &mut params.distinguished_name;
            name.push(DnType::OrganizationName, "Org, Inc.");
            params.subject_alt_names = vec![
                SanType::URI("spiffe://td/ns/c/sa/d".try_into().unwrap()),
                dns("client.example"),
                dns("second.example"),
            ];
        });
        pki.leaf("expired", &ca, 2021, |params| {
            params.subject_alt_names = vec![dns("client.example")];
        });
        pki.leaf("wrong_ca", &other, 2035, |_| {});
        pki.leaf("of_old_ca", &old, 2035, |_| {});
        pki.leaf("wrong_san", &ca, 2035, |params| {
            params.subject_alt_names = vec![dns("other.example")];
        });
        pki.leaf("no_san", &ca, 2035, |_| {});
        pki.leaf("is_ca", &ca, 2035, |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        });
        pki.leaf("server_only", &ca, 2035, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        let key = KeyPair::generate().unwrap();
        let own = params("self_signed", 2035).self_signed(&key).unwrap();
        pki.write("self_signed", &own.pem(), &key);
        pki.first_version();
        pki
    }

    fn authority(&self, file: &str, name: &str, until: i32) -> Authority {
        let mut params = params(name, until);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        self.write(file, &params.self_signed(&key).unwrap().pem(), &key);
        Issuer::new(params, key)
    }

    fn leaf(
        &self,
        file: &str,
        issuer: &Authority,
        until: i32,
        change: impl FnOnce(&mut CertificateParams),
    ) {
        let mut params = params(file, until);
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        self.write(file, &params.signed_by(&key, issuer).unwrap().pem(), &key);
    }

    /// An X.509 v1 certificate, which only OpenSSL makes.
    fn first_version(&self) {
        let path = |name: &str| self.folder.join(name);
        let key = KeyPair::generate().unwrap();
        fs::write(path("v1.key"), key.serialize_pem()).unwrap();
        openssl(
            &["req", "-new", "-subj", "/CN=v1", "-key"],
            &[path("v1.key")],
            &["-out"],
            &[path("v1.csr")],
        );
        let mut command = Command::new("openssl");
        command.args(["x509", "-req", "-days", "900", "-CAcreateserial", "-in"]);
        command.arg(path("v1.csr")).arg("-CA").arg(path("ca.crt"));
        command
            .arg("-CAkey")
            .arg(path("ca.key"))
            .arg("-out")
            .arg(path("v1.crt"));
        assert!(command.output().expect("openssl runs").status.success());
    }

    fn write(&self, file: &str, certificate: &str, key: &KeyPair) {
        fs::write(self.folder.join(format!("{file}.crt")), certificate).unwrap();
        fs::write(self.folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    fn crt(&self, name: &str) -> String {
        self.folder
            .join(format!("{name}.crt"))
            .display()
            .to_string()
    }

    fn key(&self, name: &str) -> String {
        self.folder
            .join(format!("{name}.key"))
            .display()
            .to_string()
    }
}

fn openssl(first: &[&str], file: &[PathBuf], then: &[&str], out: &[PathBuf]) {
    let mut command = Command::new("openssl");
    command.args(first).args(file).args(then).args(out);
    assert!(command.output().expect("openssl runs").status.success());
}

fn params(name: &str, until: i32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    params
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

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

const EXPIRED: &str = "at_depth_0:_certificate_has_expired";
const NO_ISSUER: &str = "at_depth_0:_unable_to_get_local_issuer_certificate";
const MISSING: &str = "268435648:SSL_routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE";

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

fn file_log(path: &Path, format: &str) -> String {
    format!(
        "[ {{ name: file, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: {}, log_format: {{ text_format_source: {{ inline_string: \"{format}\\n\" }} }} }} }} ]",
        path.display()
    )
}

const HCM: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
/// The status says which certificate a client has shown.
const BY_CERTIFICATE: &str = "{ match: { prefix: /, tls_context: { presented: true, validated: true } }, direct_response: { status: 200 } }, \
    { match: { prefix: /, tls_context: { presented: true } }, direct_response: { status: 201 } }, \
    { match: { prefix: /, tls_context: { presented: false } }, direct_response: { status: 202 } }";
const ROUTER: &str = "{ name: router, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }";

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

/// Waits for line `count` of a log, from 1.
async fn line(log: &Path, count: usize) -> String {
    let patience = Instant::now() + Duration::from_secs(15);
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        if let Some(line) = text.lines().nth(count - 1) {
            return line.to_owned();
        }
        if Instant::now() > patience {
            return format!("no line {count} in {}", log.display());
        }
        sleep(Duration::from_millis(50)).await;
    }
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

/// A server that OpenSSL plays. Ends on drop.
struct Server {
    port: u16,
    child: Child,
}

impl Server {
    fn start(pki: &Pki, certificate: &str, arguments: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = Command::new("openssl")
            .args(["s_server", "-www", "-accept"])
            .arg(format!("127.0.0.1:{port}"))
            .arg("-cert")
            .arg(pki.crt(certificate))
            .arg("-key")
            .arg(pki.key(certificate))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl runs");
        Self { port, child }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const UPSTREAM_LOG: &str = "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% why=%UPSTREAM_TRANSPORT_FAILURE_REASON% v=%UPSTREAM_TLS_VERSION% c=%UPSTREAM_TLS_CIPHER% subject=%UPSTREAM_PEER_SUBJECT% issuer=%UPSTREAM_PEER_ISSUER% uri=%UPSTREAM_PEER_URI_SAN% local=%UPSTREAM_LOCAL_URI_SAN% sni=%UPSTREAM_SERVER_NAME%";

/// The clusters: name, port, fields of the common context, fields around it, and part of what Envoy writes.
fn clusters(
    pki: &Pki,
    ports: [u16; 4],
) -> Vec<(&'static str, u16, String, &'static str, &'static str)> {
    let [good, mutual, expired, only13] = ports;
    let ca = |name: &str, more: &str| {
        format!(
            "validation_context: {{ trusted_ca: {{ filename: {} }}{more} }}",
            pki.crt(name)
        )
    };
    let own = format!(
        "{}, tls_certificates: [ {{ certificate_chain: {{ filename: {} }}, private_key: {{ filename: {} }} }} ]",
        ca("ca", ""),
        pki.crt("client"),
        pki.key("client")
    );
    let wrong = ca(
        "ca",
        ", match_typed_subject_alt_names: [ { san_type: URI, matcher: { exact: x } } ]",
    );
    vec![
        (
            "good",
            good,
            ca("ca", ""),
            "sni: server.example",
            "200 - via_upstream why=- v=TLSv1.2",
        ),
        (
            "unverified",
            good,
            String::new(),
            "sni: server.example",
            "200 -",
        ),
        (
            "wrong_ca",
            good,
            ca("other_ca", ""),
            "sni: server.example",
            NO_ISSUER,
        ),
        (
            "wrong_san",
            good,
            wrong,
            "sni: server.example",
            "SAN_matcher,_certificate_SANs_are_[server.example,_spiffe://td/ns/a/sa/b]",
        ),
        (
            "expired",
            expired,
            ca("ca", ""),
            "sni: server.example",
            EXPIRED,
        ),
        (
            "mutual",
            mutual,
            own,
            "sni: server.example",
            "local=spiffe://td/ns/c/sa/d",
        ),
        (
            "no_certificate",
            mutual,
            ca("ca", ""),
            "sni: server.example",
            "268436496:SSL_routines:OPENSSL_internal:SSLV3_ALERT_HANDSHAKE_FAILURE",
        ),
        (
            "too_new",
            only13,
            ca("ca", ""),
            "sni: server.example",
            "TLSV1_ALERT_PROTOCOL_VERSION",
        ),
        (
            "new",
            only13,
            format!(
                "{}, tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }}",
                ca("ca", "")
            ),
            "sni: server.example",
            "v=TLSv1.3",
        ),
        (
            "name_in_certificate",
            good,
            ca("ca", ""),
            "sni: server.example, auto_sni_san_validation: true",
            "200 -",
        ),
        (
            "name_not_in_certificate",
            good,
            ca("ca", ""),
            "sni: wrong.example, auto_sni_san_validation: true",
            "SAN_matcher",
        ),
    ]
}

fn upstream(pki: &Pki, ports: [u16; 4], folder: &Path) -> String {
    let log = file_log(&folder.join("access.log"), UPSTREAM_LOG);
    let mut routes = String::new();
    let mut all = String::new();
    for (name, port, common, around, _) in clusters(pki, ports) {
        let _ = write!(
            routes,
            "{{ match: {{ path: /{name} }}, route: {{ cluster: {name} }} }}, "
        );
        let _ = write!(
            all,
            r#"  - name: {name}
    load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }} ] }} ] }}
    transport_socket:
      name: tls
      typed_config: {{ "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, {around}, common_tls_context: {{ {common} }} }}
"#
        );
    }
    format!(
        r#"admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
static_resources:
  listeners:
  - name: ingress
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": {HCM}
          stat_prefix: ingress
          access_log: {log}
          route_config: {{ virtual_hosts: [ {{ name: v, domains: ["*"], routes: [ {routes} ] }} ] }}
          http_filters: [ {ROUTER} ]
  clusters:
{all}"#
    )
}

async fn ask(binary: &Path, pki: &Pki, ports: [u16; 4], folder: &Path) -> Vec<String> {
    fs::create_dir_all(folder).unwrap();
    let proxy = Proxy::start(binary, &upstream(pki, ports, folder), folder)
        .await
        .unwrap();
    let address = proxy.listener("ingress").expect("the listener is there");
    let mut lines = Vec::new();
    for (index, (name, ..)) in clusters(pki, ports).into_iter().enumerate() {
        let url = format!("http://{address}/{name}");
        let asked = tokio::task::spawn_blocking(move || {
            Command::new("curl")
                .args(["-s", "-m", "8", "-o", "/dev/null", &url])
                .status()
        });
        asked.await.unwrap().expect("curl runs");
        lines.push(line(&folder.join("access.log"), index + 1).await);
    }
    lines
}

#[tokio::test]
async fn servers_are_judged_as_envoy_judges_them() {
    let scratch = binaries::scratch("tls_upstream").unwrap();
    let pki = Pki::make(&scratch.join("pki"));
    let ca = pki.crt("ca");
    let servers = [
        Server::start(&pki, "server", &[]),
        Server::start(
            &pki,
            "server",
            &["-Verify", "3", "-verify_return_error", "-CAfile", &ca],
        ),
        Server::start(&pki, "expired", &[]),
        Server::start(&pki, "server", &["-tls1_3"]),
    ];
    let ports = [0, 1, 2, 3].map(|at: usize| servers[at].port);
    sleep(Duration::from_millis(500)).await;
    let envoy = ask(
        &binaries::envoy().unwrap(),
        &pki,
        ports,
        &scratch.join("envoy"),
    )
    .await;
    let ours = ask(
        &binaries::outrigger().unwrap(),
        &pki,
        ports,
        &scratch.join("outrigger"),
    )
    .await;
    let mut failed = Vec::new();
    for (((name, .., wanted), envoy), ours) in clusters(&pki, ports).iter().zip(&envoy).zip(&ours) {
        if !envoy.contains(wanted) {
            failed.push(format!("{name}: Envoy shows {envoy}, not {wanted}"));
        }
        if envoy != ours {
            failed.push(format!("{name}:\n- {envoy}\n+ {ours}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
