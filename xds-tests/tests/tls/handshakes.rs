//! Handshakes that fail before any certificate is judged: versions, suites, groups, signatures, and what is no TLS at all.

use crate::feature::{Feature, GCM, GOOD, SUITES, ca, compare};
use crate::pki::Pki;

const OLD: &str = "DEFAULT@SECLEVEL=0";
const NO_SHARED_CIPHER: &str = "268435640:SSL_routines:OPENSSL_internal:NO_SHARED_CIPHER";
const WRONG_CURVE: &str = "268435699:SSL_routines:OPENSSL_internal:WRONG_CURVE";
const UNSUPPORTED: &str = "268435696:SSL_routines:OPENSSL_internal:UNSUPPORTED_PROTOCOL";

fn versions(pki: &Pki) -> Vec<Feature> {
    let from =
        |title, yaml: &str| Feature::new(title, pki).common(&format!("tls_params: {{ {yaml} }}"));
    vec![
        from("only_12", "tls_maximum_protocol_version: TLSv1_2").with(
            "",
            &["-tls1_3"],
            UNSUPPORTED,
        ),
        from("only_13", "tls_minimum_protocol_version: TLSv1_3").with(
            "",
            &["-tls1_2"],
            UNSUPPORTED,
        ),
        Feature::new("too_old", pki)
            .with("", &["-tls1_1", "-cipher", OLD], UNSUPPORTED)
            .with("", &["-tls1", "-cipher", OLD], UNSUPPORTED),
        from("as_old_as_can_be", "tls_minimum_protocol_version: TLSv1_2")
            .with("", &["-tls1_2", GCM, SUITES], GOOD)
            .other_group(),
    ]
}

fn parameters(pki: &Pki) -> Vec<Feature> {
    let with =
        |title, yaml: &str| Feature::new(title, pki).common(&format!("tls_params: {{ {yaml} }}"));
    vec![
        Feature::new("no_suite", pki)
            .with("", &["-tls1_2", "-cipher", "AES128-SHA"], WRONG_CURVE),
        with("no_configured_suite", "tls_maximum_protocol_version: TLSv1_2, cipher_suites: [ ECDHE-ECDSA-AES128-GCM-SHA256 ]")
            .with("", &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"], NO_SHARED_CIPHER),
        Feature::new("suite_of_another_key", pki)
            .with("", &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], NO_SHARED_CIPHER),
        with("no_group_13", "ecdh_curves: [ P-256 ]")
            .with("", &["-tls1_3", "-groups", "P-384"], "268435722:SSL_routines:OPENSSL_internal:NO_SHARED_GROUP").aside("c="),
        with("no_group_12", "ecdh_curves: [ P-256 ]")
            .with("", &["-tls1_2", "-groups", "P-384"], "TLS_error"),
        Feature::new("no_signature_13", pki)
            .with("", &["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"], "TLS_error").other_alert(),
        Feature::new("no_signature_12", pki)
            .with("", &["-tls1_2", "-sigalgs", "RSA+SHA256"], "TLS_error"),
        Feature::new("no_protocol", pki)
            .common("alpn_protocols: [ h2 ]")
            .with("", &["-alpn", "unheard-of"], "TLSv1.3"),
    ]
}

/// Clients that refuse the listener, or one of which does something else.
fn strangers(pki: &Pki) -> Vec<Feature> {
    let ca_of_another = pki.crt("other_ca");
    let refuses = [
        "-verify_return_error",
        "-verify",
        "3",
        "-CAfile",
        &ca_of_another,
    ];
    let refuses_12 = [
        "-tls1_2",
        GCM,
        SUITES,
        "-verify_return_error",
        "-verify",
        "3",
        "-CAfile",
        &ca_of_another,
    ];
    vec![
        Feature::new("plain_http", pki).bytes(
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "268435612:SSL_routines:OPENSSL_internal:HTTP_REQUEST",
        ),
        Feature::new("proxy_request", pki).bytes(b"CONNECT a:1 HTTP/1.1\r\n\r\n", "TLS_error"),
        Feature::new("no_tls", pki).bytes(
            b"SSH-2.0-OpenSSH_9.0\r\nmore than enough bytes\r\n",
            "268435703:SSL_routines:OPENSSL_internal:WRONG_VERSION_NUMBER",
        ),
        Feature::new("no_hello", pki).bytes(
            b"\x16\x03\x01\0\x08\x02\0\0\x04\0\0\0\0\0\0\0\0\0\0",
            "TLS_error",
        ),
        Feature::new("broken_hello", pki)
            .bytes(b"\x16\x03\x01\0\x08\x01\0\0\x04\0\0\0\0", "TLS_error"),
        Feature::new("an_alert", pki).bytes(b"\x15\x03\x01\0\x02\x02\x28\0\0\0\0\0", "TLS_error"),
        Feature::new("refused_by_client", pki)
            .with(
                "",
                &refuses,
                "268435568:SSL_routines:OPENSSL_internal:BAD_PACKET_LENGTH|268435595",
            )
            .with(
                "",
                &refuses_12,
                "268436504:SSL_routines:OPENSSL_internal:TLSV1_ALERT_UNKNOWN_CA",
            )
            .other_group(),
        Feature::new("silent", pki)
            .validates(&ca(pki, ""))
            .chain("transport_socket_connect_timeout: 0.3s")
            .bytes(b"", "why=- v=-"),
        Feature::new("half_a_hello", pki)
            .chain("transport_socket_connect_timeout: 0.3s")
            .bytes(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", "why=- v=-"),
    ]
}

#[tokio::test]
async fn handshakes_fail_in_the_words_of_envoy() {
    compare("tls_handshakes", |pki| {
        [versions(pki), parameters(pki), strangers(pki)]
            .into_iter()
            .flatten()
            .collect()
    })
    .await;
}
