//! Features of listeners: revocation, chains, stapling, tickets, keys, SPIFFE, and RBAC by certificates.

use crate::feature::{Feature, GCM, GOOD, SUITES, ca, compare, pair};
use crate::peers::NO_ISSUER;
use crate::pki::Pki;

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
            .talk("wraps", "KEY_USAGE_BIT_INCORRECT")
            .other_alert()
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
        again(
            Feature::new("keys_from_sds", pki).context(&format!(
                "session_ticket_keys_sds_secret_config: {{ name: tickets, sds_config: {{ resource_api_version: V3, path_config_source: {{ path: {} }} }} }}",
                pki.file("tickets.yaml")
            )),
            "-tls1_3",
            "Reused, TLSv1.3",
        ),
        again(
            tickets("tickets_and_no_state").context(&format!(
                "{keys}, disable_stateful_session_resumption: true"
            )),
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
    let mtls = |fields: &str| {
        format!(
            "custom: {{ name: p, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.rbac.principals.mtls_authenticated.v3.Config, {fields} }} }}"
        )
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
        optional("rbac_mtls", "", &http(&mtls("any_validated_client_certificate: true")))
            .talk("client", denied)
            .talk("no_san", denied)
            .talk("", GOOD),
        optional("rbac_mtls_san", "", &http(&mtls("san_matcher: { san_type: URI, matcher: { exact: \"spiffe://td/ns/c/sa/d\" } }")))
            .talk("client", denied)
            .talk("no_san", GOOD)
            .talk("", GOOD),
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
        Feature::new("tells_its_authorities", pki)
            .validates(&ca(pki, ""))
            .with("client", &[], "CN = Test CA")
            .told(),
        Feature::new("tells_no_authorities", pki)
            .validates(&ca(pki, ", suppress_client_ca_list: true"))
            .with("client", &[], "No client certificate CA names sent")
            .told(),
        Feature::new("session_timeout", pki)
            .context("session_timeout: 600s")
            .with("", &["-tls1_2", GCM, SUITES], "TLS session ticket lifetime hint: 600 (seconds)")
            .told(),
        Feature::new("session_timeout_by_default", pki)
            .with("", &["-tls1_2", GCM, SUITES], "TLS session ticket lifetime hint: 7200 (seconds)")
            .told(),
        Feature::new("curves", pki)
            .common("tls_params: { ecdh_curves: [ P-384 ] }")
            .talk("", "group=P-384"),
    ]
}

#[tokio::test]
async fn features_of_listeners_are_those_of_envoy() {
    compare("tls_features", features).await;
}
