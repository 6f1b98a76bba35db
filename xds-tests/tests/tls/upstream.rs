//! Servers of OpenSSL behind clusters: who is trusted, and what is told of them.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::proxy::Proxy;
use tokio::time::sleep;

use crate::peers::{EXPIRED, HCM, NO_ISSUER, ROUTER, Server, file_log, line};
use crate::pki::Pki;

const UPSTREAM_LOG: &str = "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% why=%UPSTREAM_TRANSPORT_FAILURE_REASON% v=%UPSTREAM_TLS_VERSION% c=%UPSTREAM_TLS_CIPHER% subject=%UPSTREAM_PEER_SUBJECT% issuer=%UPSTREAM_PEER_ISSUER% uri=%UPSTREAM_PEER_URI_SAN% local=%UPSTREAM_LOCAL_URI_SAN% sni=%UPSTREAM_SERVER_NAME% group=%UPSTREAM_TLS_GROUP% dns=%UPSTREAM_PEER_DNS_SAN% ip=%UPSTREAM_PEER_IP_SAN% pem=%UPSTREAM_PEER_CERT% from=%UPSTREAM_PEER_CERT_V_START% %UPSTREAM_PEER_CERT_V_START(%Y-%m-%d)% to=%UPSTREAM_PEER_CERT_V_END% %UPSTREAM_PEER_CERT_V_END(%s)% ours=%UPSTREAM_LOCAL_DNS_SAN% %UPSTREAM_LOCAL_IP_SAN%";

/// The clusters: name, port, fields of the common context, fields around it, and part of what Envoy writes.
#[expect(clippy::too_many_lines, reason = "a table of cases may be long")]
fn clusters(
    pki: &Pki,
    ports: [u16; 8],
) -> Vec<(&'static str, u16, String, &'static str, &'static str)> {
    let [good, mutual, expired, only13, wraps, revoked, names, plain] = ports;
    let ca = |name: &str, more: &str| {
        format!(
            "validation_context: {{ trusted_ca: {{ filename: {} }}{more} }}",
            pki.crt(name)
        )
    };
    let own = |name: &str| {
        format!(
            "{}, tls_certificates: [ {{ certificate_chain: {{ filename: {} }}, private_key: {{ filename: {} }} }} ]",
            ca("ca", ""),
            pki.crt(name),
            pki.key(name)
        )
    };
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
            own("client"),
            "sni: server.example",
            "local=spiffe://td/ns/c/sa/d",
        ),
        (
            "names_of_every_kind",
            names,
            ca("ca", ""),
            "sni: server.example",
            "dns=*.star.example,a*.part.example,Host.Example ip=127.0.0.9,2001:db8::1 pem=-----BEGIN%20CERTIFICATE",
        ),
        (
            "names_of_every_kind_13",
            names,
            format!(
                "{}, tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }}",
                ca("ca", "")
            ),
            "sni: server.example",
            "from=2020-01-01T00:00:00.000Z 2020-01-01 to=2035-01-01T00:00:00.000Z 2051222400",
        ),
        (
            "own_names",
            mutual,
            own("names"),
            "sni: server.example",
            "ours=*.star.example,a*.part.example,Host.Example 127.0.0.9,2001:db8::1",
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
            "key_for_another_use",
            wraps,
            ca("ca", ""),
            "sni: server.example",
            KEY_USAGE,
        ),
        (
            "key_for_another_use_13",
            wraps,
            format!(
                "{}, tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }}",
                ca("ca", "")
            ),
            "sni: server.example",
            KEY_USAGE,
        ),
        (
            "key_for_another_use_though_allowed",
            wraps,
            ca("ca", ""),
            "sni: server.example, enforce_rsa_key_usage: false",
            KEY_USAGE,
        ),
        (
            "revoked",
            revoked,
            ca(
                "ca",
                &format!(", crl: {{ filename: {} }}", pki.file("ca_crl.pem")),
            ),
            "sni: server.example",
            "certificate_revoked",
        ),
        (
            "no_suite",
            good,
            format!(
                "{}, tls_params: {{ cipher_suites: [ ECDHE-RSA-AES128-GCM-SHA256 ] }}",
                ca("ca", "")
            ),
            "sni: server.example",
            "HANDSHAKE_FAILURE_ON_CLIENT_HELLO",
        ),
        (
            "not_tls",
            plain,
            ca("ca", ""),
            "sni: server.example",
            "WRONG_VERSION_NUMBER",
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

fn upstream(pki: &Pki, ports: [u16; 8], folder: &Path) -> String {
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

const KEY_USAGE: &str = "KEY_USAGE_BIT_INCORRECT";

/// A server that speaks no TLS: it answers whatever comes, and closes.
fn plain_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // It ends with the test.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
            // The alert is read, so that the end is no reset.
            let _ = stream.read(&mut [0; 4096]);
        }
    });
    port
}

async fn ask(binary: &Path, pki: &Pki, ports: [u16; 8], folder: &Path) -> Vec<String> {
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
        Server::start(&pki, "wraps", &[]),
        Server::start(&pki, "revoked", &[]),
        Server::start(&pki, "names", &[]),
    ];
    let plain = plain_server();
    let [good, mutual, expired, only13, wraps, revoked, names] =
        servers.each_ref().map(|server| server.port);
    let ports = [good, mutual, expired, only13, wraps, revoked, names, plain];
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
