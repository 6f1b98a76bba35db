//! What servers are asked for by name, which names their certificates must have then, and which sessions are resumed.
//!
//! The server is Envoy for both proxies: it tells in the response which name it was asked for.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::proxy::{Proxy, admin_get};

use crate::feature::{ca, pair};
use crate::peers::{HCM, ROUTER, file_log, line};
use crate::pki::Pki;

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
const LOG: &str = "%REQ(:PATH)% %REQ(:AUTHORITY)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% why=%UPSTREAM_TRANSPORT_FAILURE_REASON% v=%UPSTREAM_TLS_VERSION% sni=%UPSTREAM_SERVER_NAME% got=%RESP(X-SNI)%";
const ADMIN: &str = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\nstatic_resources:\n";

/// A cluster and the requests that are routed to it.
struct Case {
    name: &'static str,
    /// Of `upstream_http_protocol_options`.
    http: &'static str,
    /// Of `UpstreamTlsContext`.
    context: String,
    /// Of its `common_tls_context`.
    common: String,
    /// Of the endpoint.
    hostname: &'static str,
    /// The host of each request, the header `x-name`, and part of what Envoy writes.
    requests: Vec<(&'static str, &'static str, &'static str)>,
}

impl Case {
    fn new(name: &'static str, pki: &Pki, http: &'static str) -> Self {
        Self {
            name,
            http,
            context: String::new(),
            common: format!("validation_context: {{ {} }}", ca(pki, "")),
            hostname: "",
            requests: Vec::new(),
        }
    }

    fn context(mut self, yaml: &str) -> Self {
        yaml.clone_into(&mut self.context);
        self
    }

    fn also(mut self, common: &str) -> Self {
        self.common = format!("{}, {common}", self.common);
        self
    }

    fn hostname(mut self, name: &'static str) -> Self {
        self.hostname = name;
        self
    }

    fn asks(self, host: &'static str, shows: &'static str) -> Self {
        self.asks_by(host, "", shows)
    }

    fn asks_by(mut self, host: &'static str, name: &'static str, shows: &'static str) -> Self {
        self.requests.push((host, name, shows));
        self
    }
}

const SAN: &str = "SAN_matcher";
const SAN_LIST: &str = "verify_SAN_list,_expected_SANs:_[";
const V13: &str = "tls_params: { tls_maximum_protocol_version: TLSv1_3 }";

fn cases(pki: &Pki) -> Vec<Case> {
    let case = |name, http| Case::new(name, pki, http);
    let both = "auto_sni: true, auto_san_validation: true";
    let again = |case: Case| (0..4).fold(case, |case, _| case.asks("a.example", "200 -"));
    vec![
        case("sni_alone", "")
            .context("sni: fixed.example")
            .asks("a.example", "sni=fixed.example got=fixed.example"),
        case("no_sni", "").asks("a.example", "got=-"),
        case("auto_sni", "auto_sni: true")
            .asks("a.example", "got=a.example")
            .asks("b.example", "got=b.example")
            .asks("a.example:8443", "got=a.example")
            .asks("MiXed.example", "sni=")
            .asks("127.0.0.1", "got=-")
            .asks("[::1]:80", "got=-")
            .asks("under_score.example", "200"),
        case("auto_sni_before_sni", "auto_sni: true")
            .context("sni: fixed.example")
            .asks("a.example", "got=a.example")
            .asks("127.0.0.1", "sni="),
        case(
            "auto_sni_by_header",
            "auto_sni: true, override_auto_sni_header: x-name",
        )
        .asks_by("a.example", "b.example", "got=b.example")
        .asks_by("a.example", "b.example:80", "sni=")
        .asks_by("a.example", "", "got=a.example"),
        case("auto_both", both)
            .asks("server.example", "200 - ")
            .asks("SERVER.example", "sni=")
            .asks("server.example:8443", "200 - ")
            .asks("other.example", SAN_LIST)
            .asks("127.0.0.1", SAN_LIST),
        case(
            "auto_both_by_header",
            "auto_sni: true, auto_san_validation: true, override_auto_sni_header: x-name",
        )
        .asks_by("other.example", "server.example", "200 - ")
        .asks_by("server.example", "other.example", SAN_LIST),
        case("auto_san_alone", "auto_san_validation: true")
            .context("sni: fixed.example")
            .asks("server.example", "got=fixed.example")
            .asks("other.example", SAN_LIST),
        case("auto_host_sni", "")
            .context("auto_host_sni: true")
            .hostname("host.example")
            .asks("a.example", "got=host.example"),
        case("auto_host_sni_without_hostname", "")
            .context("auto_host_sni: true, sni: fixed.example")
            .asks("a.example", "got=fixed.example"),
        case("auto_host_sni_before_sni", "")
            .context("auto_host_sni: true, sni: fixed.example")
            .hostname("host.example")
            .asks("a.example", "sni="),
        case("auto_sni_and_host_sni", "auto_sni: true")
            .context("auto_host_sni: true")
            .hostname("host.example")
            .asks("a.example", "sni="),
        case("host_sni_in_certificate", "")
            .context("auto_host_sni: true, auto_sni_san_validation: true")
            .hostname("server.example")
            .asks("a.example", "200 - "),
        case("host_sni_not_in_certificate", "")
            .context("auto_host_sni: true, auto_sni_san_validation: true")
            .hostname("host.example")
            .asks("a.example", SAN),
        case("auto_sni_in_certificate", "auto_sni: true")
            .context("auto_sni_san_validation: true")
            .asks("server.example", "200 - ")
            .asks("a.example", SAN),
        again(case("sessions_12", "")),
        again(case("sessions_13", "").also(V13)),
        again(case("no_sessions", "").context("max_session_keys: 0")),
        again(
            case("no_sessions_13", "")
                .context("max_session_keys: 0")
                .also(V13),
        ),
        again(
            case("three_sessions_13", "")
                .context("max_session_keys: 3")
                .also(V13),
        ),
    ]
}

fn server(pki: &Pki) -> String {
    format!(
        r#"{ADMIN}  listeners:
  - name: server
    stat_prefix: server
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    listener_filters: [ {{ name: tls, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector }} }} ]
    filter_chains:
    - transport_socket: {{ name: tls, typed_config: {{ "@type": {TLS}.DownstreamTlsContext, common_tls_context: {{ tls_certificates: [ {} ] }} }} }}
      filters: [ {{ name: hcm, typed_config: {{ "@type": {HCM}, stat_prefix: server, route_config: {{ response_headers_to_add: [ {{ header: {{ key: x-sni, value: "%REQUESTED_SERVER_NAME%" }} }} ], virtual_hosts: [ {{ name: v, domains: ["*"], routes: [ {{ match: {{ prefix: / }}, direct_response: {{ status: 200 }} }} ] }} ] }}, http_filters: [ {ROUTER} ] }} }} ]
"#,
        pair(pki, "server", "server", "")
    )
}

fn client(pki: &Pki, port: u16, folder: &Path) -> String {
    let log = file_log(&folder.join("access.log"), LOG);
    let mut routes = String::new();
    let mut clusters = String::new();
    for Case {
        name,
        http,
        context,
        common,
        hostname,
        ..
    } in cases(pki)
    {
        let _ = write!(
            routes,
            "{{ match: {{ path: /{name} }}, route: {{ cluster: {name} }} }}, "
        );
        let comma = if context.is_empty() { "" } else { ", " };
        let _ = write!(
            clusters,
            r#"  - name: {name}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{ "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, common_http_protocol_options: {{ max_requests_per_connection: 1 }}, explicit_http_config: {{ http_protocol_options: {{}} }}, upstream_http_protocol_options: {{ {http} }} }}
    load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ hostname: "{hostname}", address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }} ] }} ] }}
    transport_socket: {{ name: tls, typed_config: {{ "@type": {TLS}.UpstreamTlsContext, {context}{comma}common_tls_context: {{ {common} }} }} }}
"#
        );
    }
    format!(
        r#"{ADMIN}  listeners:
  - name: ingress
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters: [ {{ name: hcm, typed_config: {{ "@type": {HCM}, stat_prefix: ingress, access_log: {log}, route_config: {{ virtual_hosts: [ {{ name: v, domains: ["*"], routes: [ {routes} ] }} ] }}, http_filters: [ {ROUTER} ] }} }} ]
  clusters:
{clusters}"#
    )
}

/// The lines of the log, and the stats of TLS of all clusters.
async fn ask(binary: &Path, pki: &Pki, port: u16, folder: &Path) -> (Vec<String>, Vec<String>) {
    fs::create_dir_all(folder).unwrap();
    let proxy = Proxy::start(binary, &client(pki, port, folder), folder)
        .await
        .unwrap();
    let address = proxy.listener("ingress").expect("the listener is there");
    let mut lines = Vec::new();
    for Case { name, requests, .. } in cases(pki) {
        for (host, header, _) in requests {
            let mut curl = Command::new("curl");
            curl.args(["-s", "-m", "8", "-o", "/dev/null", "-H"]);
            curl.arg(format!("host: {host}"));
            if !header.is_empty() {
                curl.arg("-H").arg(format!("x-name: {header}"));
            }
            curl.arg(format!("http://{address}/{name}"));
            let asked = tokio::task::spawn_blocking(move || curl.status()).await;
            asked.unwrap().expect("curl runs");
            lines.push(line(&folder.join("access.log"), lines.len() + 1).await);
        }
    }
    let stats = ssl_stats(&proxy, "cluster").await;
    (lines, stats)
}

/// What was counted of TLS by all listeners or clusters.
async fn ssl_stats(proxy: &Proxy, of: &str) -> Vec<String> {
    let path = format!("/stats?filter=%5E{of}%5C..*%5C.ssl%5C.");
    let (_, stats) = admin_get(proxy.admin_address(), &path).await.unwrap();
    let told = stats
        .lines()
        .filter(|line| !line.ends_with(": 0") && !line.contains("expiration"));
    let mut stats: Vec<_> = told.map(str::to_owned).collect();
    stats.sort_unstable();
    stats
}

/// Stats of TLS that differ where sessions are resumed, as the documentation of the transport socket says: rustls does not tell
/// again how the peer has signed, nor the group of TLS 1.2; and sessions are resumed also where names are checked.
fn is_declared(stat: &str) -> bool {
    let resumed = [
        ".sessions_12.",
        ".sessions_13.",
        ".three_sessions_13.",
        ".auto_sni.",
        ".auto_sni_by_header.",
        ".auto_both.",
    ];
    let kinds = [
        ".ssl.sigalgs.",
        ".ssl.curves.X25519:",
        ".auto_both.ssl.session_reused",
    ];
    // One listener serves all, those that resume sessions of TLS 1.2 as well.
    stat.starts_with("listener.server.ssl.curves.X25519:")
        || resumed.iter().any(|name| stat.contains(name))
            && kinds.iter().any(|kind| stat.contains(kind))
}

fn differences(envoy: &[String], ours: &[String]) -> Vec<String> {
    let only = |these: &[String], those: &[String], sign: &str| {
        let other = these
            .iter()
            .filter(|stat| !those.contains(stat) && !is_declared(stat));
        other
            .map(|stat| format!("{sign} {stat}"))
            .collect::<Vec<_>>()
    };
    [only(envoy, ours, "-"), only(ours, envoy, "+")].concat()
}

#[tokio::test]
async fn servers_are_asked_for_by_the_names_that_envoy_uses() {
    let scratch = binaries::scratch("tls_server_names").unwrap();
    let pki = Pki::make(&scratch.join("pki"));
    let (envoy, outrigger) = (binaries::envoy().unwrap(), binaries::outrigger().unwrap());
    let start = async |binary: &Path, name: &str| {
        let config = server(&pki);
        Proxy::start(binary, &config, &scratch.join(name))
            .await
            .unwrap()
    };
    let port = |proxy: &Proxy| {
        proxy
            .listener("server")
            .expect("the listener is there")
            .port()
    };
    let good = start(&envoy, "server").await;
    let (lines, stats) = ask(&envoy, &pki, port(&good), &scratch.join("envoy")).await;
    let of_server = ssl_stats(&good, "listener").await;
    let (our_lines, our_stats) =
        ask(&outrigger, &pki, port(&good), &scratch.join("outrigger")).await;
    // The same with Envoy as the client of Outrigger.
    let ours = start(&outrigger, "our_server").await;
    let (as_server, _) = ask(&envoy, &pki, port(&ours), &scratch.join("envoy_as_client")).await;
    let of_our_server = ssl_stats(&ours, "listener").await;

    let mut failed = differences(&stats, &our_stats);
    failed.extend(differences(&of_server, &of_our_server));
    let wanted = cases(&pki).into_iter().flat_map(|case| case.requests);
    for (((_, _, wanted), line), (ours, served)) in
        wanted.zip(&lines).zip(our_lines.iter().zip(&as_server))
    {
        if !line.contains(wanted) {
            failed.push(format!("Envoy shows {line}, not {wanted}"));
        }
        if line != ours {
            failed.push(format!("- {line}\n+ {ours}"));
        }
        if line != served {
            failed.push(format!("as a server:\n- {line}\n+ {served}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
