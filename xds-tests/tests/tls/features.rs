//! Features of listeners: revocation, chains, stapling, tickets, keys, SPIFFE, and RBAC by certificates.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::proxy::{Proxy, admin_get};

use crate::peers::{HCM, NO_ISSUER, ROUTER, file_log, line};
use crate::pki::Pki;

/// A listener and what clients see of it.
struct Feature {
    name: &'static str,
    /// The certificate of the listener with its key, and its other files.
    certificates: String,
    /// More of the common context.
    common: String,
    /// More of the downstream context.
    context: String,
    /// Network filters before the connection manager, and HTTP filters.
    filters: (String, String),
    talks: Vec<Talk>,
    group_aside: bool,
}

/// One connection.
struct Talk {
    /// The certificate of the client; empty: none.
    certificate: &'static str,
    arguments: Vec<String>,
    /// What must stand in what Envoy's client or log shows.
    shows: &'static str,
    /// The alert differs, as the documentation of the transport socket says.
    other_alert: bool,
}

impl Feature {
    /// A listener that asks for a certificate of the CA.
    fn new(name: &'static str, pki: &Pki) -> Self {
        Self {
            name,
            certificates: pair(pki, "server", "server", ""),
            common: String::new(),
            context: String::new(),
            filters: (String::new(), String::new()),
            talks: Vec::new(),
            group_aside: false,
        }
    }

    fn certificates(mut self, certificates: &[String]) -> Self {
        self.certificates = certificates.join(", ");
        self
    }

    fn common(mut self, yaml: &str) -> Self {
        self.common = yaml.to_owned();
        self
    }

    /// Asks clients for a certificate, and validates it so.
    fn validates(mut self, yaml: &str) -> Self {
        self.common = format!("validation_context: {{ {yaml} }}");
        self.context = "require_client_certificate: true".to_owned();
        self
    }

    fn context(mut self, yaml: &str) -> Self {
        self.context = yaml.to_owned();
        self
    }

    fn filters(mut self, network: &str, http: &str) -> Self {
        self.filters = (network.to_owned(), http.to_owned());
        self
    }

    fn talk(self, certificate: &'static str, shows: &'static str) -> Self {
        self.with(certificate, &[], shows)
    }

    fn with(mut self, certificate: &'static str, arguments: &[&str], shows: &'static str) -> Self {
        self.talks.push(Talk {
            certificate,
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            shows,
            other_alert: false,
        });
        self
    }

    /// The group of handshakes is not told, as the documentation of the transport socket says.
    fn other_group(mut self) -> Self {
        self.group_aside = true;
        self
    }

    fn other_alert(mut self) -> Self {
        self.talks.last_mut().expect("after a talk").other_alert = true;
        self
    }
}

/// A certificate with a key, in a list of certificates.
fn pair(pki: &Pki, certificate: &str, key: &str, more: &str) -> String {
    format!(
        "{{ certificate_chain: {{ filename: {} }}, private_key: {{ filename: {} }}{more} }}",
        pki.crt(certificate),
        pki.key(key)
    )
}

/// With TLS 1.2 ours is the order within groups of suites, as the documentation says; so clients offer one of each kind.
const GCM: &str = "-cipher";
const SUITES: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256";
const GOOD: &str = "HTTP/1.1 200 OK";
const REVOKED: &str = "failed:_certificate_revoked";

fn features(pki: &Pki) -> Vec<Feature> {
    [
        chains(pki),
        own_keys(pki),
        stapling(pki),
        sessions(pki),
        spiffe(pki),
        rbac(pki),
        others(pki),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn ca(pki: &Pki, more: &str) -> String {
    format!("trusted_ca: {{ filename: {} }}{more}", pki.crt("ca"))
}

fn chains(pki: &Pki) -> Vec<Feature> {
    let crl = |file: &str, more: &str| {
        ca(
            pki,
            &format!(", crl: {{ filename: {} }}{more}", pki.file(file)),
        )
    };
    vec![
        Feature::new("crl", pki)
            .validates(&crl("ca_crl.pem", ""))
            .other_group()
            .talk("revoked", REVOKED)
            .with("revoked", &["-tls1_2", GCM, SUITES], REVOKED)
            .talk("client", GOOD)
            .talk("deep", "failed:_unable_to_get_certificate_CRL"),
        Feature::new("crl_of_all", pki)
            .validates(&crl("both_crl.pem", ""))
            .talk("deep", GOOD)
            .talk("deep_revoked", REVOKED)
            .talk("revoked", REVOKED),
        Feature::new("crl_without_ca", pki)
            .validates(&crl("intermediate_crl.pem", ""))
            .talk("deep", "at_depth_1:_certificate_revocation_check_against_provided_CRLs_failed:_unable_to_get_certificate_CRL")
            .talk("deep_revoked", REVOKED),
        Feature::new("crl_of_leaf", pki)
            .validates(&crl("intermediate_crl.pem", ", only_verify_leaf_cert_crl: true"))
            .talk("deep", GOOD)
            .talk("deep_revoked", REVOKED),
        Feature::new("crl_expired", pki)
            .validates(&crl("old_crl.pem", ""))
            .talk("client", "CRL_has_expired"),
        Feature::new("depth_none", pki)
            .validates(&ca(pki, ", max_verify_depth: 0"))
            .talk("client", GOOD)
            .talk("deep", "at_depth_1:_unable_to_get_local_issuer_certificate"),
        Feature::new("depth_one", pki)
            .validates(&ca(pki, ", max_verify_depth: 1"))
            .talk("deep", "at_depth_1:_unable_to_get_local_issuer_certificate"),
        Feature::new("depth_two", pki)
            .validates(&ca(pki, ", max_verify_depth: 2"))
            .talk("deep", GOOD),
        Feature::new("partial_chain", pki)
            .validates(&format!("trusted_ca: {{ filename: {} }}", pki.crt("intermediate")))
            .talk("deep", GOOD)
            .talk("client", NO_ISSUER),
        Feature::new("combined", pki)
            .common(&format!(
                "combined_validation_context: {{ default_validation_context: {{ match_typed_subject_alt_names: [ {{ san_type: DNS, matcher: {{ exact: client.example }} }} ] }}, validation_context_sds_secret_config: {{ name: root, sds_config: {{ resource_api_version: V3, path_config_source: {{ path: {} }} }} }} }}",
                pki.file("root.yaml")
            ))
            .context("require_client_certificate: true")
            .talk("client", GOOD)
            .talk("wrong_san", "SAN_matcher")
            .talk("wrong_ca", NO_ISSUER),
        Feature::new("rsa_clients", pki)
            .validates(&ca(pki, ""))
            .talk("rsa_client", GOOD)
            .with("rsa_client", &["-tls1_2", GCM, SUITES], GOOD)
            .talk("p384", GOOD)
            .with("p384", &["-tls1_2", GCM, SUITES], GOOD),
    ]
}

fn own_keys(pki: &Pki) -> Vec<Feature> {
    let password = format!(", password: {{ filename: {} }}", pki.file("password"));
    let kinds = [
        ("pkcs8_encrypted", "server", "pkcs8", &*password),
        ("pem_encrypted", "rsa", "legacy", &password),
        ("sec1", "server", "sec1", ""),
        ("pkcs1", "rsa", "pkcs1", ""),
        ("p384_key", "p384", "p384", ""),
        ("expired_own", "expired", "expired", ""),
    ];
    kinds
        .into_iter()
        .map(|(name, certificate, key, more)| {
            Feature::new(name, pki)
                .certificates(&[pair(pki, certificate, key, more)])
                .talk("", GOOD)
                .with("", &["-tls1_2", GCM, SUITES], GOOD)
        })
        .collect()
}

fn stapling(pki: &Pki) -> Vec<Feature> {
    let with = |name, file: &str| {
        let staple = format!(", ocsp_staple: {{ filename: {} }}", pki.file(file));
        pair(pki, name, name, &staple)
    };
    let policy = |name, certificate: String, policy: &str| {
        Feature::new(name, pki)
            .certificates(&[certificate])
            .context(&format!("ocsp_staple_policy: {policy}"))
    };
    let plain = pair(pki, "stapled", "stapled", "");
    vec![
        policy("lenient", plain.clone(), "LENIENT_STAPLING")
            .with("", &["-status"], "OCSP response: no response sent")
            .talk("", GOOD),
        policy(
            "lenient_stapled",
            with("stapled", "stapled.ocsp"),
            "LENIENT_STAPLING",
        )
        .with("", &["-status"], "OCSP Response Status: successful")
        .with(
            "",
            &["-status", "-tls1_2", GCM, SUITES],
            "OCSP Response Status: successful",
        )
        .talk("", GOOD),
        policy(
            "lenient_expired",
            with("stapled", "endless.ocsp"),
            "LENIENT_STAPLING",
        )
        .with("", &["-status"], "OCSP response: no response sent"),
        policy("strict_without", plain, "STRICT_STAPLING").with(
            "",
            &["-status"],
            "OCSP response: no response sent",
        ),
        policy(
            "strict_stapled",
            with("stapled", "stapled.ocsp"),
            "STRICT_STAPLING",
        )
        .with("", &["-status"], "OCSP Response Status: successful"),
        policy(
            "strict_expired",
            with("stapled", "endless.ocsp"),
            "STRICT_STAPLING",
        )
        .with("", &["-status"], "TLS_error")
        .other_alert()
        .talk("", GOOD),
        policy(
            "must_stapled",
            with("stapled", "stapled.ocsp"),
            "MUST_STAPLE",
        )
        .with("", &["-status"], "OCSP Response Status: successful")
        .talk("", GOOD),
        policy(
            "must_expired",
            with("stapled", "endless.ocsp"),
            "MUST_STAPLE",
        )
        .with("", &["-status"], "TLS_error")
        .other_alert(),
        policy(
            "must_by_certificate",
            with("must_staple", "must_staple.ocsp"),
            "LENIENT_STAPLING",
        )
        .with("", &["-status"], "OCSP Response Status: successful")
        .talk("", GOOD),
    ]
}

fn sessions(pki: &Pki) -> Vec<Feature> {
    let again = |feature: Feature, version: &str, shows: &'static str| {
        let file = pki.file(&format!("{}.session", feature.name));
        feature
            .with(
                "",
                &[version, GCM, SUITES, "-sess_out", &file],
                "New, TLSv1",
            )
            .with("", &[version, GCM, SUITES, "-sess_in", &file], shows)
    };
    let keys = format!(
        "session_ticket_keys: {{ keys: [ {{ filename: {} }} ] }}",
        pki.file("tickets.key")
    );
    let tickets = |name| Feature::new(name, pki).context(&keys);
    let off = "disable_stateless_session_resumption: true";
    let all_off =
        "disable_stateless_session_resumption: true, disable_stateful_session_resumption: true";
    vec![
        again(tickets("tickets_12"), "-tls1_2", "Reused, TLSv1.2").other_group(),
        again(tickets("tickets_13"), "-tls1_3", "Reused, TLSv1.3"),
        again(
            Feature::new("own_tickets", pki),
            "-tls1_3",
            "Reused, TLSv1.3",
        ),
        again(
            Feature::new("stateful", pki).context(off),
            "-tls1_2",
            "Reused, TLSv1.2",
        )
        .other_group(),
        Feature::new("no_resumption", pki).context(all_off).with(
            "",
            &["-tls1_2", GCM, SUITES, "-reconnect"],
            "New, TLSv1.2",
        ),
        Feature::new("no_tickets_13", pki)
            .context(all_off)
            .with("", &["-tls1_3"], "New, TLSv1.3"),
    ]
}

fn spiffe(pki: &Pki) -> Vec<Feature> {
    let validator = |config: &str, more: &str| {
        format!(
            "custom_validator_config: {{ name: envoy.tls.cert_validator.spiffe, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig, {config} }} }}{more}"
        )
    };
    let domains = |list: &[(&str, &str)]| {
        let list: Vec<_> = list
            .iter()
            .map(|(name, file)| {
                format!(
                    "{{ name: {name}, trust_bundle: {{ filename: {} }} }}",
                    pki.crt(file)
                )
            })
            .collect();
        format!("trust_domains: [ {} ]", list.join(", "))
    };
    vec![
        Feature::new("spiffe", pki)
            .validates(&validator(&domains(&[("other", "other_ca"), ("td", "ca")]), ""))
            .talk("client", GOOD)
            .with("client", &["-tls1_2", GCM, SUITES], GOOD)
            .talk("no_san", "no_trust_bundle_store")
            .talk("is_ca", "cert_precheck")
            .talk("", "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
        Feature::new("spiffe_of_another", pki)
            .validates(&validator(&domains(&[("td", "other_ca")]), ""))
            .talk("client", "unable_to_get_local_issuer_certificate"),
        Feature::new("spiffe_unknown", pki)
            .validates(&validator(&domains(&[("td2", "ca")]), ""))
            .talk("client", "no_trust_bundle_store"),
        Feature::new("spiffe_names", pki)
            .validates(&validator(
                &domains(&[("td", "ca")]),
                ", match_typed_subject_alt_names: [ { san_type: URI, matcher: { prefix: \"spiffe://td/ns/x/\" } } ]",
            ))
            .talk("client", "SAN_match"),
        Feature::new("spiffe_names_good", pki)
            .validates(&validator(
                &domains(&[("td", "ca")]),
                ", match_typed_subject_alt_names: [ { san_type: URI, matcher: { prefix: \"spiffe://td/ns/c/\" } } ]",
            ))
            .talk("client", GOOD),
        Feature::new("spiffe_bundle", pki)
            .validates(&validator(&format!("trust_bundles: {{ filename: {} }}", pki.file("bundle.json")), ""))
            .talk("client", GOOD)
            .talk("wrong_ca", "no_trust_bundle_store"),
    ]
}

fn rbac(pki: &Pki) -> Vec<Feature> {
    let rules = |action: &str, principal: &str| {
        format!(
            "rules: {{ action: {action}, policies: {{ p: {{ permissions: [ {{ any: true }} ], principals: [ {{ {principal} }} ] }} }} }}"
        )
    };
    let http = |principal: &str| {
        format!(
            "{{ name: rbac, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, {} }} }}, ",
            rules("DENY", principal)
        )
    };
    let network = |rules: &str| {
        format!(
            "{{ name: rbac, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: net, {rules} }} }}, "
        )
    };
    let optional = |name, network: &str, http: &str| {
        Feature::new(name, pki)
            .common(&format!("validation_context: {{ {} }}", ca(pki, "")))
            .filters(network, http)
    };
    let denied = "HTTP/1.1 403 Forbidden";
    let uri = "authenticated: { principal_name: { exact: \"spiffe://td/ns/c/sa/d\" } }";
    let dns = "authenticated: { principal_name: { exact: second.example } }";
    let subject = "authenticated: { principal_name: { exact: \"CN=no_san\" } }";
    let input = "matcher: { matcher_tree: { input: { name: uri, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput } }, exact_match_map: { map: { \"spiffe://td/ns/c/sa/d\": { action: { name: a, typed_config: { \"@type\": type.googleapis.com/envoy.config.rbac.v3.Action, name: ours, action: ALLOW } } } } } } }";
    vec![
        optional("rbac_uri", "", &http(uri))
            .talk("client", denied)
            .talk("wrong_san", GOOD)
            .talk("", GOOD),
        optional("rbac_dns", "", &http(dns)).talk("client", denied).talk("no_san", GOOD),
        optional("rbac_subject", "", &http(subject)).talk("no_san", denied).talk("client", GOOD),
        optional("rbac_any", "", &http("authenticated: {}"))
            .talk("client", denied)
            .talk("no_san", denied)
            .talk("", denied),
        optional("rbac_all_names", "", &http("authenticated: { principal_name: { safe_regex: { regex: \".*\" } } }"))
            .talk("no_san", denied)
            .talk("", denied),
        optional("rbac_connection", &network(&rules("ALLOW", uri)), "")
            .talk("client", GOOD)
            .talk("no_san", "closed=rbac_access_denied_matched_policy[none]"),
        optional("rbac_matcher", &network(input), "")
            .talk("client", GOOD)
            .talk("no_san", "closed=rbac_access_denied_matched_policy[none]"),
        optional(
            "rbac_server_name",
            &network("rules: { action: DENY, policies: { p: { permissions: [ { requested_server_name: { exact: server.example } } ], principals: [ { any: true } ] } } }"),
            "",
        )
        .talk("", "closed=rbac_access_denied_matched_policy[p]")
        .with("", &["-servername", "other.example"], GOOD),
    ]
}

fn others(pki: &Pki) -> Vec<Feature> {
    let two = [
        pair(pki, "server", "server", ""),
        pair(pki, "rsa", "rsa", ""),
    ];
    let rsa_only = [
        "-servername",
        "nobody.example",
        "-tls1_2",
        "-cipher",
        "ECDHE-RSA-AES128-GCM-SHA256",
    ];
    vec![
        Feature::new("by_name", pki)
            .certificates(&two)
            .with("", &["-servername", "rsa.example"], "subject=CN = rsa")
            .with("", &["-servername", "server.example"], "subject=CN = server")
            .with("", &["-servername", "nobody.example"], "subject=CN = server")
            .with("", &["-noservername"], "subject=CN = server"),
        Feature::new("first_on_mismatch", pki)
            .certificates(&two)
            .with("", &rsa_only, "TLS_error")
            .other_alert(),
        Feature::new("scan_on_mismatch", pki)
            .certificates(&two)
            .context("full_scan_certs_on_sni_mismatch: true")
            .with("", &rsa_only, "subject=CN = rsa"),
        Feature::new("prefers_its_own", pki)
            .common("tls_params: { tls_maximum_protocol_version: TLSv1_2, cipher_suites: [ ECDHE-ECDSA-AES256-GCM-SHA384, ECDHE-ECDSA-AES128-GCM-SHA256 ] }")
            .with("", &["-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"], "Cipher is ECDHE-ECDSA-AES256-GCM-SHA384"),
        Feature::new("prefers_clients", pki)
            .common("tls_params: { tls_maximum_protocol_version: TLSv1_2, cipher_suites: [ ECDHE-ECDSA-AES256-GCM-SHA384, ECDHE-ECDSA-AES128-GCM-SHA256 ] }")
            .context("prefer_client_ciphers: true")
            .with("", &["-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"], "Cipher is ECDHE-ECDSA-AES128-GCM-SHA256"),
        Feature::new("curves", pki)
            .common("tls_params: { ecdh_curves: [ P-384 ] }")
            .talk("", "group=P-384"),
    ]
}

const LOG: &str = "why=%DOWNSTREAM_TRANSPORT_FAILURE_REASON% v=%DOWNSTREAM_TLS_VERSION% c=%DOWNSTREAM_TLS_CIPHER% group=%DOWNSTREAM_TLS_GROUP% subject=%DOWNSTREAM_PEER_SUBJECT% local=%DOWNSTREAM_LOCAL_SUBJECT% sni=%REQUESTED_SERVER_NAME% ja3=%TLS_JA3_FINGERPRINT% ja4=%TLS_JA4_FINGERPRINT% flags=%RESPONSE_FLAGS% closed=%CONNECTION_TERMINATION_DETAILS%";

fn bootstrap(pki: &Pki, folder: &Path) -> String {
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
        ..
    } in features(pki)
    {
        let log = file_log(&folder.join(format!("{name}.log")), LOG);
        let _ = write!(
            out,
            r#"  - name: {name}
    stat_prefix: {name}
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    access_log: {log}
    listener_filters: [ {{ name: tls, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector, enable_ja3_fingerprinting: true, enable_ja4_fingerprinting: true }} }} ]
    filter_chains:
    - transport_socket: {{ name: tls, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {{ tls_certificates: [ {certificates} ], {common} }}, {context} }} }}
      filters: [ {network}{{ name: hcm, typed_config: {{ "@type": {HCM}, stat_prefix: {name}, route_config: {{ virtual_hosts: [ {{ name: v, domains: ["*"], routes: [ {{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: {{ inline_string: ok }} }} }} ] }} ] }}, http_filters: [ {http}{ROUTER} ] }} }} ]
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
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
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

/// What is seen of a feature: for each connection the client's lines and that of the log, and the stats in the end.
type Seen = (Vec<(Vec<String>, String)>, String);

async fn play(binary: &Path, pki: &Pki, folder: &Path) -> Vec<Seen> {
    fs::create_dir_all(folder).unwrap();
    let proxy = Proxy::start(binary, &bootstrap(pki, folder), folder)
        .await
        .unwrap();
    let mut all = Vec::new();
    for feature in features(pki) {
        let address = proxy.listener(feature.name).expect("the listener is there");
        let mut seen = Vec::new();
        for (index, case) in feature.talks.iter().enumerate() {
            let answer = talk(address, pki, case).await;
            let log = folder.join(format!("{}.log", feature.name));
            seen.push((answer, line(&log, index + 1).await));
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

#[tokio::test]
async fn features_of_listeners_are_those_of_envoy() {
    let scratch = binaries::scratch("tls_features").unwrap();
    let pki = Pki::make(&scratch.join("pki"));
    let envoy = play(&binaries::envoy().unwrap(), &pki, &scratch.join("envoy")).await;
    let ours = play(
        &binaries::outrigger().unwrap(),
        &pki,
        &scratch.join("outrigger"),
    )
    .await;
    let mut failed = Vec::new();
    for ((feature, envoy), ours) in features(&pki).iter().zip(&envoy).zip(&ours) {
        let comparable = |text: &str| -> String {
            if !feature.group_aside {
                return text.to_owned();
            }
            let lines = text.lines().filter(|line| !line.contains(".curves."));
            let words = lines.flat_map(|line| line.split(' '));
            let words: Vec<_> = words.filter(|word| !word.starts_with("group=")).collect();
            words.join(" ")
        };
        for ((case, envoy), ours) in feature.talks.iter().zip(&envoy.0).zip(&ours.0) {
            let name = format!(
                "{} [{}] {:?}",
                feature.name, case.certificate, case.arguments
            );
            let shown = envoy.0.iter().chain([&envoy.1]);
            if !shown.clone().any(|line| line.contains(case.shows)) {
                let shown: Vec<_> = shown.cloned().collect();
                failed.push(format!(
                    "{name}: Envoy shows no {}:\n  {}",
                    case.shows,
                    shown.join("\n  ")
                ));
            }
            let alerts = |lines: &[String]| -> Vec<String> {
                let dropped = |line: &&String| case.other_alert && line.starts_with("alert");
                lines
                    .iter()
                    .filter(|line| !dropped(line))
                    .cloned()
                    .collect()
            };
            if alerts(&envoy.0) != alerts(&ours.0) {
                failed.push(format!(
                    "{name}:\n- {}\n+ {}",
                    envoy.0.join(" | "),
                    ours.0.join(" | ")
                ));
            }
            if comparable(&envoy.1) != comparable(&ours.1) {
                failed.push(format!("{name}:\n- {}\n+ {}", envoy.1, ours.1));
            }
        }
        if comparable(&envoy.1) != comparable(&ours.1) {
            failed.push(format!(
                "{}:\n- {}\n+ {}",
                feature.name,
                envoy.1.replace('\n', "\n- "),
                ours.1.replace('\n', "\n+ ")
            ));
        }
    }
    let talks: usize = features(&pki)
        .iter()
        .map(|feature| feature.talks.len())
        .sum();
    assert!(failed.is_empty(), "of {talks}:\n{}", failed.join("\n"));
}
