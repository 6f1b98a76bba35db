//! What the admin interface tells of certificates: `/certs`, and the stats of when they expire.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use outrigger_xds_tests::binaries;
use outrigger_xds_tests::proxy::{Proxy, admin_get};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::feature::pair;
use crate::peers::{HCM, ROUTER};
use crate::pki::Pki;

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// The contexts of listeners and clusters.
struct Contexts {
    listeners: Vec<(&'static str, String)>,
    clusters: Vec<(&'static str, String)>,
}

/// A certificate, key or authority in the configuration itself.
fn inline(file: &str) -> String {
    let text = fs::read_to_string(file).unwrap().replace('\n', "\\n");
    format!("{{ inline_string: \"{text}\" }}")
}

/// A validator that knows two trust domains, one of them with three authorities.
fn spiffe(pki: &Pki) -> String {
    format!(
        "custom_validator_config: {{ name: envoy.tls.cert_validator.spiffe, typed_config: {{ \"@type\": {TLS}.SPIFFECertValidatorConfig, trust_domains: [ {{ name: td, trust_bundle: {{ filename: {} }} }}, {{ name: other, trust_bundle: {{ filename: {} }} }} ] }} }}",
        pki.crt("ca"),
        pki.crt("several")
    )
}

fn contexts(pki: &Pki) -> Contexts {
    let own =
        |name: &str, more: &str| format!("tls_certificates: [ {} ]", pair(pki, name, name, more));
    let validation = |text: &str| format!("validation_context: {{ {text} }}");
    let authority =
        |name: &str| validation(&format!("trusted_ca: {{ filename: {} }}", pki.crt(name)));
    let staple = |name: &str, file: &str| {
        own(
            name,
            &format!(", ocsp_staple: {{ filename: {} }}", pki.file(file)),
        )
    };
    let from_file = |name: &str| {
        format!(
            "{{ name: {name}, sds_config: {{ resource_api_version: V3, path_config_source: {{ path: {} }} }} }}",
            pki.file(&format!("certs_{name}.yaml"))
        )
    };
    let bundles = format!(
        "custom_validator_config: {{ name: envoy.tls.cert_validator.spiffe, typed_config: {{ \"@type\": {TLS}.SPIFFECertValidatorConfig, trust_bundles: {{ filename: {} }} }} }}",
        pki.file("bundle.json")
    );
    let spiffe = spiffe(pki);
    Contexts {
        listeners: vec![
            (
                "of_files",
                format!("{}, {}", own("server", ""), authority("ca")),
            ),
            (
                "of_two",
                format!(
                    "tls_certificates: [ {}, {} ]",
                    pair(pki, "server", "server", ""),
                    pair(pki, "rsa", "rsa", "")
                ),
            ),
            (
                "inline",
                format!(
                    "tls_certificates: [ {{ certificate_chain: {}, private_key: {} }} ], {}",
                    inline(&pki.crt("names")),
                    inline(&pki.key("names")),
                    validation(&format!("trusted_ca: {}", inline(&pki.crt("ca"))))
                ),
            ),
            (
                "of_secrets",
                format!(
                    "tls_certificate_sds_secret_configs: [ {} ], combined_validation_context: {{ default_validation_context: {{}}, validation_context_sds_secret_config: {} }}",
                    from_file("dynamic"),
                    from_file("root")
                ),
            ),
            (
                "static",
                "tls_certificate_sds_secret_configs: [ { name: static } ]".to_owned(),
            ),
            ("with_chain", own("deep", "")),
            ("stapled", staple("stapled", "stapled.ocsp")),
            (
                "stapled_long_ago",
                staple("must_staple", "must_staple.ocsp"),
            ),
            (
                "spiffe",
                format!("{}, {}", own("client", ""), validation(&spiffe)),
            ),
        ],
        clusters: vec![
            ("authority", authority("ca")),
            ("several_authorities", authority("several")),
            ("old_authority", authority("old_ca")),
            ("own", own("client", "")),
            ("nothing", String::new()),
            ("of_the_system", validation("system_root_certs: {}")),
            ("no_authority", validation("")),
            ("of_bundles", validation(&bundles)),
            (
                "of_bundles_in_secret",
                format!(
                    "validation_context_sds_secret_config: {}",
                    from_file("bundles")
                ),
            ),
        ],
    }
}

fn bootstrap(pki: &Pki) -> String {
    let secret =
        |name: &str, what: &str| format!("- \"@type\": {TLS}.Secret\n  name: {name}\n  {what}\n");
    let several =
        ["other_ca", "old_ca", "ca"].map(|name| fs::read_to_string(pki.crt(name)).unwrap());
    fs::write(pki.crt("several"), several.concat()).unwrap();
    let root = format!(
        "validation_context: {{ trusted_ca: {{ filename: {} }} }}",
        pki.crt("ca")
    );
    let dynamic = format!("tls_certificate: {}", pair(pki, "p384", "p384", ""));
    for (name, what) in [
        ("dynamic", dynamic),
        ("root", root),
        (
            "bundles",
            format!("validation_context: {{ {} }}", spiffe(pki)),
        ),
    ] {
        let resource = secret(name, &what);
        pki.text(
            &format!("certs_{name}.yaml"),
            &format!("resources:\n{resource}"),
        );
    }
    let mut out = format!(
        "node: {{ id: certs, cluster: stories }}\nadmin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}\nstatic_resources:\n  secrets: [ {{ name: static, tls_certificate: {} }} ]\n  listeners:\n",
        pair(pki, "server", "server", "")
    );
    let Contexts {
        listeners,
        clusters,
    } = contexts(pki);
    for (name, common) in listeners {
        let _ = write!(
            out,
            r#"  - name: {name}
    stat_prefix: {name}
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - transport_socket: {{ name: tls, typed_config: {{ "@type": {TLS}.DownstreamTlsContext, common_tls_context: {{ {common} }} }} }}
      filters: [ {{ name: hcm, typed_config: {{ "@type": {HCM}, stat_prefix: {name}, route_config: {{ virtual_hosts: [] }}, http_filters: [ {ROUTER} ] }} }} ]
"#
        );
    }
    out.push_str("  clusters:\n");
    for (name, common) in clusters {
        let _ = write!(
            out,
            r#"  - name: {name}
    load_assignment: {{ cluster_name: {name}, endpoints: [] }}
    transport_socket: {{ name: tls, typed_config: {{ "@type": {TLS}.UpstreamTlsContext, common_tls_context: {{ {common} }} }} }}
"#
        );
    }
    out
}

/// What is told, with the contexts in one order; and the stats.
struct Told {
    contexts: Vec<String>,
    stats: BTreeMap<String, i64>,
}

const STATS: &str = "/stats?filter=server.days_until_first_cert|server.seconds_until_first_ocsp|expiration_unix_time";

async fn stats(proxy: &Proxy) -> BTreeMap<String, i64> {
    let (_, text) = admin_get(proxy.admin_address(), STATS).await.unwrap();
    let line = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

async fn ask(binary: &Path, pki: &Pki, folder: &Path) -> Told {
    fs::create_dir_all(folder).unwrap();
    let proxy = Proxy::start(binary, &bootstrap(pki), folder).await.unwrap();
    let (_, page) = admin_get(proxy.admin_address(), "/certs").await.unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    let mut contexts: Vec<_> = page["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(Value::to_string)
        .collect();
    contexts.sort_unstable();
    // The stats of the server follow at the next flush.
    let patience = Instant::now() + Duration::from_secs(15);
    let mut now = stats(&proxy).await;
    while now.get("server.seconds_until_first_ocsp_response_expiring") == Some(&0)
        && Instant::now() < patience
    {
        sleep(Duration::from_millis(200)).await;
        now = stats(&proxy).await;
    }
    Told {
        contexts,
        stats: now,
    }
}

#[tokio::test]
async fn certificates_in_use_are_told_as_by_envoy() {
    let scratch = binaries::scratch("tls_certificates").unwrap();
    let pki = Pki::make(&scratch.join("pki"));
    let envoy = ask(&binaries::envoy().unwrap(), &pki, &scratch.join("envoy")).await;
    let ours = ask(
        &binaries::outrigger().unwrap(),
        &pki,
        &scratch.join("outrigger"),
    )
    .await;
    assert_eq!(envoy.contexts.len(), 18, "{}", envoy.contexts.join("\n"));
    for part in [
        "ocsp_details",
        "\"<inline>\"",
        "ip_address",
        "\"days_until_expiration\":\"0\"",
    ] {
        assert!(
            envoy.contexts.iter().any(|told| told.contains(part)),
            "Envoy tells no {part}"
        );
    }
    let differences: Vec<_> = envoy
        .contexts
        .iter()
        .zip(&ours.contexts)
        .filter(|(envoy, ours)| envoy != ours)
        .collect();
    assert!(
        envoy.contexts == ours.contexts,
        "{differences:#?}\n{} and {}",
        envoy.contexts.len(),
        ours.contexts.len()
    );
    let names = |told: &Told| told.stats.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&envoy), names(&ours));
    assert!(envoy.stats.len() > 12, "Envoy has only {:?}", envoy.stats);
    for (name, value) in &envoy.stats {
        let apart = if name.contains("seconds_until") {
            60
        } else {
            0
        };
        let own = ours.stats[name];
        assert!(
            (value - own).abs() <= apart,
            "{name}: Envoy has {value}, not {own}"
        );
    }
}
