//! A listener with a feature, and what clients of OpenSSL see of it with Envoy and with Outrigger.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::proxy::{Proxy, admin_get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::peers::{HCM, ROUTER, file_log, line};
use crate::pki::Pki;

/// A listener and what clients see of it.
pub struct Feature {
    pub name: &'static str,
    /// The certificate of the listener with its key, and its other files.
    certificates: String,
    /// More of the common context.
    common: String,
    /// More of the downstream context.
    context: String,
    /// Network filters before the connection manager, and HTTP filters.
    filters: (String, String),
    /// More of the connection manager.
    manager: String,
    /// More of the filter chain.
    chain: String,
    talks: Vec<Talk>,
    /// Beginnings of words in which a difference is declared.
    aside: Vec<&'static str>,
}

/// One connection.
pub struct Talk {
    /// The certificate of the client; empty: none.
    certificate: &'static str,
    arguments: Vec<String>,
    /// What is sent instead of a handshake.
    bytes: Option<&'static [u8]>,
    /// What must stand in what Envoy's client or log shows.
    shows: &'static str,
    /// What it shows is the beginning of a line of the client that is looked at only here.
    is_told: bool,
    /// The alert, or what came before it, differs, as the documentation of the transport socket says.
    other_alert: bool,
}

impl Feature {
    /// A listener that asks for a certificate of the CA.
    pub fn new(name: &'static str, pki: &Pki) -> Self {
        Self {
            name,
            certificates: pair(pki, "server", "server", ""),
            common: String::new(),
            context: String::new(),
            filters: (String::new(), String::new()),
            manager: String::new(),
            chain: String::new(),
            talks: Vec::new(),
            aside: Vec::new(),
        }
    }

    pub fn certificates(mut self, certificates: &[String]) -> Self {
        self.certificates = certificates.join(", ");
        self
    }

    pub fn common(mut self, yaml: &str) -> Self {
        self.common = yaml.to_owned();
        self
    }

    /// Asks clients for a certificate, and validates it so.
    pub fn validates(mut self, yaml: &str) -> Self {
        self.common = format!("validation_context: {{ {yaml} }}");
        self.context = "require_client_certificate: true".to_owned();
        self
    }

    pub fn context(mut self, yaml: &str) -> Self {
        self.context = yaml.to_owned();
        self
    }

    pub fn filters(mut self, network: &str, http: &str) -> Self {
        self.filters = (network.to_owned(), http.to_owned());
        self
    }

    pub fn talk(self, certificate: &'static str, shows: &'static str) -> Self {
        self.with(certificate, &[], shows)
    }

    pub fn with(
        mut self,
        certificate: &'static str,
        arguments: &[&str],
        shows: &'static str,
    ) -> Self {
        self.talks.push(Talk {
            certificate,
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            bytes: None,
            shows,
            is_told: false,
            other_alert: false,
        });
        self
    }

    /// A client that speaks no TLS, or begins badly.
    pub fn bytes(self, bytes: &'static [u8], shows: &'static str) -> Self {
        let mut feature = self.with("", &[], shows);
        feature.talks.last_mut().expect("it was added").bytes = Some(bytes);
        feature
    }

    /// What the last client shows is how one of its lines begins.
    pub fn told(mut self) -> Self {
        self.talks.last_mut().expect("after a talk").is_told = true;
        self
    }

    /// More of the connection manager.
    pub fn manager(mut self, yaml: &str) -> Self {
        yaml.clone_into(&mut self.manager);
        self
    }

    /// More of the filter chain.
    pub fn chain(mut self, yaml: &str) -> Self {
        yaml.clone_into(&mut self.chain);
        self
    }

    /// The group of handshakes is not told, as the documentation of the transport socket says.
    pub fn other_group(self) -> Self {
        self.aside("group=")
    }

    /// Words that begin so may differ, as the documentation of the transport socket says.
    pub fn aside(mut self, start: &'static str) -> Self {
        self.aside.push(start);
        self
    }

    pub fn other_alert(mut self) -> Self {
        self.talks.last_mut().expect("after a talk").other_alert = true;
        self
    }
}

/// A certificate with a key, in a list of certificates.
pub fn pair(pki: &Pki, certificate: &str, key: &str, more: &str) -> String {
    format!(
        "{{ certificate_chain: {{ filename: {} }}, private_key: {{ filename: {} }}{more} }}",
        pki.crt(certificate),
        pki.key(key)
    )
}

/// With TLS 1.2 ours is the order within groups of suites, as the documentation says; so clients offer one of each kind.
pub const GCM: &str = "-cipher";
pub const SUITES: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256";
pub const GOOD: &str = "HTTP/1.1 200 OK";

pub fn ca(pki: &Pki, more: &str) -> String {
    format!("trusted_ca: {{ filename: {} }}{more}", pki.crt("ca"))
}

const LOG: &str = "why=%DOWNSTREAM_TRANSPORT_FAILURE_REASON% v=%DOWNSTREAM_TLS_VERSION% c=%DOWNSTREAM_TLS_CIPHER% group=%DOWNSTREAM_TLS_GROUP% subject=%DOWNSTREAM_PEER_SUBJECT% local=%DOWNSTREAM_LOCAL_SUBJECT% sni=%REQUESTED_SERVER_NAME% ja3=%TLS_JA3_FINGERPRINT% ja4=%TLS_JA4_FINGERPRINT% flags=%RESPONSE_FLAGS% closed=%CONNECTION_TERMINATION_DETAILS%";

/// Everything that is told of TLS where a request is logged.
const HTTP_LOG: &str = "local=%DOWNSTREAM_LOCAL_SUBJECT% %DOWNSTREAM_LOCAL_DNS_SAN% %DOWNSTREAM_LOCAL_URI_SAN% %DOWNSTREAM_LOCAL_IP_SAN% %DOWNSTREAM_LOCAL_EMAIL_SAN% %DOWNSTREAM_LOCAL_OTHERNAME_SAN% subject=%DOWNSTREAM_PEER_SUBJECT% issuer=%DOWNSTREAM_PEER_ISSUER% serial=%DOWNSTREAM_PEER_SERIAL% dns=%DOWNSTREAM_PEER_DNS_SAN% uri=%DOWNSTREAM_PEER_URI_SAN% ip=%DOWNSTREAM_PEER_IP_SAN% email=%DOWNSTREAM_PEER_EMAIL_SAN% other=%DOWNSTREAM_PEER_OTHERNAME_SAN% fp=%DOWNSTREAM_PEER_FINGERPRINT_256% fp1=%DOWNSTREAM_PEER_FINGERPRINT_1% pem=%DOWNSTREAM_PEER_CERT% from=%DOWNSTREAM_PEER_CERT_V_START% %DOWNSTREAM_PEER_CERT_V_START(%Y-%m-%d)% to=%DOWNSTREAM_PEER_CERT_V_END% chain=%DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256% chain1=%DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1% serials=%DOWNSTREAM_PEER_CHAIN_SERIALS% issued_by=%DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256% %DOWNSTREAM_PEER_ISSUER_SERIAL% cipher=%DOWNSTREAM_TLS_CIPHER% v=%DOWNSTREAM_TLS_VERSION% sni=%REQUESTED_SERVER_NAME% ja3=%TLS_JA3_FINGERPRINT% ja4=%TLS_JA4_FINGERPRINT% scheme=%REQ(:SCHEME)% proto=%REQ(X-FORWARDED-PROTO)% xfcc=%REQ(X-FORWARDED-CLIENT-CERT)%";

fn bootstrap(pki: &Pki, features: &[Feature], folder: &Path) -> String {
    let root = format!(
        "resources:\n- \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: root\n  validation_context: {{ trusted_ca: {{ filename: {} }} }}\n",
        pki.crt("ca")
    );
    fs::write(pki.file("root.yaml"), root).unwrap();
    let mut out = String::from(
        "node: { id: tls, cluster: stories }\nadmin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\nstatic_resources:\n  listeners:\n",
    );
    for Feature {
        name,
        certificates,
        common,
        context,
        filters: (network, http),
        manager,
        chain,
        ..
    } in features
    {
        let http_log = file_log(&folder.join(format!("{name}.http.log")), HTTP_LOG);
        let log = file_log(&folder.join(format!("{name}.log")), LOG);
        let _ = write!(
            out,
            r#"  - name: {name}
    stat_prefix: {name}
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    access_log: {log}
    listener_filters: [ {{ name: tls, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector, enable_ja3_fingerprinting: true, enable_ja4_fingerprinting: true }} }} ]
    filter_chains:
    - {chain}
      transport_socket: {{ name: tls, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {{ tls_certificates: [ {certificates} ], {common} }}, {context} }} }}
      filters: [ {network}{{ name: hcm, typed_config: {{ "@type": {HCM}, stat_prefix: {name}, access_log: {http_log}, {manager} route_config: {{ virtual_hosts: [ {{ name: v, domains: ["*"], routes: [ {{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: {{ inline_string: ok }} }} }} ] }} ] }}, http_filters: [ {http}{ROUTER} ] }} }} ]
"#
        );
    }
    out
}

/// What a client of OpenSSL tells of a connection, as far as it says something about the server.
async fn talk(address: SocketAddr, pki: &Pki, case: &Talk) -> Vec<String> {
    let mut command = Command::new("timeout");
    command.args(["5", "openssl", "s_client", "-ign_eof"]);
    if !case
        .arguments
        .iter()
        .any(|text| text.ends_with("servername"))
    {
        command.args(["-servername", "server.example"]);
    }
    command.arg("-connect").arg(address.to_string());
    command.args(&case.arguments);
    if !case.certificate.is_empty() {
        // With all that stands in the file: the certificate and those above it.
        command.arg("-cert").arg(pki.crt(case.certificate));
        command.arg("-cert_chain").arg(pki.crt(case.certificate));
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
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let told = |line: &&str| {
        let starts = ["New, ", "Reused, ", "OCSP response: no", "subject="];
        starts.iter().any(|start| line.starts_with(start))
            || line.trim_start().starts_with("OCSP Response Status")
            || case.is_told && line.trim_start().starts_with(case.shows)
    };
    let mut seen: Vec<String> = text
        .lines()
        .filter(told)
        .map(|line| line.trim().to_owned())
        .collect();
    // Whether a session came is told at the end of a connection, once or more.
    seen.dedup();
    let answer = text
        .find("HTTP/1.1 ")
        .and_then(|at| text[at..].lines().next());
    seen.extend(answer.map(str::to_owned));
    let answered = answer.is_some();
    let alert = errors.split("alert number ").nth(1);
    if let (false, Some(rest)) = (answered, alert) {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        seen.push(format!("alert {digits}"));
    }
    seen
}

/// What a client that speaks no TLS gets.
async fn bytes(address: SocketAddr, bytes: &[u8]) -> Vec<String> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end as well.
    let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    vec![format!("alert {answer:02x?}")]
}

/// What is seen of a connection: the client's lines, and those of the logs of connections and of requests.
struct Seen {
    client: Vec<String>,
    connection: String,
    request: String,
}

/// What is seen of a feature: its connections, and the stats in the end.
type AllSeen = (Vec<Seen>, String);

async fn play(binary: &Path, pki: &Pki, features: &[Feature], folder: &Path) -> Vec<AllSeen> {
    fs::create_dir_all(folder).unwrap();
    let proxy = Proxy::start(binary, &bootstrap(pki, features, folder), folder)
        .await
        .unwrap();
    let mut all = Vec::new();
    for feature in features {
        let address = proxy.listener(feature.name).expect("the listener is there");
        let mut seen = Vec::new();
        let mut requests = 0;
        for (index, case) in feature.talks.iter().enumerate() {
            let client = match case.bytes {
                Some(what) => bytes(address, what).await,
                None => talk(address, pki, case).await,
            };
            let log = |end| folder.join(format!("{}{end}", feature.name));
            let mut request = String::new();
            if client.iter().any(|line| line.starts_with("HTTP/")) {
                requests += 1;
                request = line(&log(".http.log"), requests).await;
            }
            seen.push(Seen {
                client,
                connection: line(&log(".log"), index + 1).await,
                request,
            });
        }
        let filter = format!("/stats?filter=%5Elistener%5C.{}%5C.ssl%5C.", feature.name);
        let (_, stats) = admin_get(proxy.admin_address(), &filter).await.unwrap();
        let mut stats: Vec<_> = stats
            .lines()
            .filter(|line| !line.ends_with(": 0") && !line.contains("expiration"))
            .collect();
        stats.sort_unstable();
        all.push((seen, stats.join("\n")));
    }
    all
}

impl Feature {
    /// The text without what is another one by declaration.
    fn comparable(&self, text: &str) -> String {
        let is_aside = |word: &&str| self.aside.iter().any(|start| word.starts_with(start));
        let curves = self.aside.contains(&"group=");
        let lines = text
            .lines()
            .filter(|line| !(curves && line.contains(".curves.")));
        let words = lines.flat_map(|line| line.split(' '));
        let words: Vec<_> = words.filter(|word| !is_aside(word)).collect();
        words.join(" ")
    }

    fn differences(&self, (envoy, stats): &AllSeen, (ours, our_stats): &AllSeen) -> Vec<String> {
        let mut out = Vec::new();
        for ((case, envoy), ours) in self.talks.iter().zip(envoy).zip(ours) {
            let what = format!("{} [{}] {:?}", self.name, case.certificate, case.arguments);
            let lines = [&envoy.connection, &envoy.request];
            let shown: Vec<_> = envoy.client.iter().chain(lines).cloned().collect();
            if !shown.iter().any(|line| line.contains(case.shows)) {
                let shown = shown.join("\n  ");
                out.push(format!("{what}: Envoy shows no {}:\n  {shown}", case.shows));
            }
            let client = |seen: &Seen| {
                let dropped = |line: &&String| {
                    case.other_alert && (line.starts_with("alert") || line.starts_with("New,"))
                };
                let lines: Vec<_> = seen
                    .client
                    .iter()
                    .filter(|l| !dropped(l))
                    .cloned()
                    .collect();
                lines.join(" | ")
            };
            let pairs = [
                (client(envoy), client(ours)),
                (envoy.connection.clone(), ours.connection.clone()),
                (envoy.request.clone(), ours.request.clone()),
            ];
            for (envoy, ours) in pairs {
                if self.comparable(&envoy) != self.comparable(&ours) {
                    out.push(format!("{what}:\n- {envoy}\n+ {ours}"));
                }
            }
        }
        if self.comparable(stats) != self.comparable(our_stats) {
            let (envoy, ours) = (stats.replace('\n', "\n- "), our_stats.replace('\n', "\n+ "));
            out.push(format!("{}:\n- {envoy}\n+ {ours}", self.name));
        }
        out
    }
}

/// Plays all with both proxies; what is seen must be the same.
///
/// A client of TLS 1.3 that is refused has sent its request by then. Who closes on it resets the connection, and the alert may be
/// lost on the way, whoever sent it. So what differs is played once more: what differs twice is a difference.
pub async fn compare(name: &str, features: fn(&Pki) -> Vec<Feature>) {
    let scratch = binaries::scratch(name).unwrap();
    let pki = Pki::make(&scratch.join("pki"));
    let features = features(&pki);
    let mut failed = Vec::new();
    for time in ["first", "again"] {
        let folder = scratch.join(time);
        let binary = binaries::envoy().unwrap();
        let envoy = play(&binary, &pki, &features, &folder.join("envoy")).await;
        let binary = binaries::outrigger().unwrap();
        let ours = play(&binary, &pki, &features, &folder.join("outrigger")).await;
        failed.clear();
        for ((feature, envoy), ours) in features.iter().zip(&envoy).zip(&ours) {
            failed.extend(feature.differences(envoy, ours));
        }
        if failed.is_empty() {
            break;
        }
        println!("{name}, {time}:\n{}", failed.join("\n"));
    }
    let talks: usize = features.iter().map(|feature| feature.talks.len()).sum();
    assert!(failed.is_empty(), "of {talks}:\n{}", failed.join("\n"));
}
