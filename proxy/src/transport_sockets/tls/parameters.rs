//! `TlsParameters`: versions, cipher suites and key exchanges.

use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use pb::tls_parameters::TlsProtocol;
use rustls::crypto::aws_lc_rs::{cipher_suite as suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::version::{TLS12, TLS13};
use rustls::{NamedGroup, SupportedCipherSuite, SupportedProtocolVersion};

use crate::config::{ConfigPath, Rejected};

/// What a handshake may agree on.
#[derive(Debug, Clone)]
pub(super) struct Parameters {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) versions: &'static [&'static SupportedProtocolVersion],
}

/// Which side of a connection the parameters are for; the defaults differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// Cipher suites of TLS 1.2 by the names that BoringSSL has for them. None: known, but rustls has no such suite.
const CIPHERS: &[(&str, &str, Option<SupportedCipherSuite>)] = &[
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        Some(suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        Some(suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        Some(suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        Some(suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        Some(suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        Some(suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ),
    (
        "ECDHE-ECDSA-AES128-SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
        None,
    ),
    (
        "ECDHE-RSA-AES128-SHA",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
        None,
    ),
    (
        "ECDHE-RSA-AES128-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
        None,
    ),
    (
        "ECDHE-ECDSA-AES256-SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
        None,
    ),
    (
        "ECDHE-RSA-AES256-SHA",
        "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
        None,
    ),
    ("AES128-GCM-SHA256", "TLS_RSA_WITH_AES_128_GCM_SHA256", None),
    ("AES128-SHA", "TLS_RSA_WITH_AES_128_CBC_SHA", None),
    ("AES256-GCM-SHA384", "TLS_RSA_WITH_AES_256_GCM_SHA384", None),
    ("AES256-SHA", "TLS_RSA_WITH_AES_256_CBC_SHA", None),
    ("DES-CBC3-SHA", "TLS_RSA_WITH_3DES_EDE_CBC_SHA", None),
    (
        "ECDHE-PSK-AES128-CBC-SHA",
        "TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA",
        None,
    ),
    (
        "ECDHE-PSK-AES256-CBC-SHA",
        "TLS_ECDHE_PSK_WITH_AES_256_CBC_SHA",
        None,
    ),
    (
        "ECDHE-PSK-CHACHA20-POLY1305",
        "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256",
        None,
    ),
    ("PSK-AES128-CBC-SHA", "TLS_PSK_WITH_AES_128_CBC_SHA", None),
    ("PSK-AES256-CBC-SHA", "TLS_PSK_WITH_AES_256_CBC_SHA", None),
];

const TLS13_SUITES: [SupportedCipherSuite; 3] = [
    suite::TLS13_AES_128_GCM_SHA256,
    suite::TLS13_AES_256_GCM_SHA384,
    suite::TLS13_CHACHA20_POLY1305_SHA256,
];

impl Parameters {
    pub(super) fn from_proto(
        proto: Option<pb::TlsParameters>,
        side: Side,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::TlsParameters {
            tls_minimum_protocol_version,
            tls_maximum_protocol_version,
            cipher_suites,
            ecdh_curves,
            signature_algorithms,
            compliance_policies,
        } = proto.unwrap_or_default();
        let signatures = path.unsupported_if_set("signature_algorithms", signature_algorithms);
        let policies = path.unsupported_if_set("compliance_policies", compliance_policies);
        let versions = versions(
            tls_minimum_protocol_version,
            tls_maximum_protocol_version,
            side,
            path,
        );
        let suites = cipher_suites_from(&cipher_suites, path);
        let groups = groups_from(&ecdh_curves, path);
        signatures?;
        policies?;
        Ok(Self {
            versions: versions?,
            provider: Arc::new(CryptoProvider {
                cipher_suites: suites?,
                kx_groups: groups?,
                ..default_provider()
            }),
        })
    }
}

static ONLY_12: [&SupportedProtocolVersion; 1] = [&TLS12];
static ONLY_13: [&SupportedProtocolVersion; 1] = [&TLS13];
static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

fn versions(
    min: i32,
    max: i32,
    side: Side,
    path: &ConfigPath<'_>,
) -> Result<&'static [&'static SupportedProtocolVersion], Rejected> {
    let min = path.enumeration::<TlsProtocol>("tls_minimum_protocol_version", min);
    let max = path.enumeration::<TlsProtocol>("tls_maximum_protocol_version", max);
    // What is older than TLS 1.2 does not exist here; as the lower end it changes nothing that a peer of today notices.
    let from_13 = min? == TlsProtocol::TlSv13;
    let max = match max? {
        TlsProtocol::TlsAuto if side == Side::Server => TlsProtocol::TlSv13,
        TlsProtocol::TlsAuto => TlsProtocol::TlSv12,
        max => max,
    };
    let to_13 = match max {
        TlsProtocol::TlSv13 => true,
        TlsProtocol::TlSv12 => false,
        _ => {
            return Err(path
                .field("tls_maximum_protocol_version")
                .reject("is older than TLSv1_2, which is the oldest version that is supported"));
        }
    };
    match (from_13, to_13) {
        (false, false) => Ok(&ONLY_12),
        (false, true) => Ok(&BOTH),
        (true, true) => Ok(&ONLY_13),
        (true, false) => Err(path
            .field("tls_minimum_protocol_version")
            .reject("is newer than the maximum")),
    }
}

fn cipher_suites_from(
    names: &[String],
    path: &ConfigPath<'_>,
) -> Result<Vec<SupportedCipherSuite>, Rejected> {
    let path = path.field("cipher_suites");
    let mut suites = Vec::new();
    let names: Vec<&str> = names
        .iter()
        .flat_map(|name| name.split(['[', ']', '|', ':']))
        .filter(|name| !name.is_empty())
        .collect();
    for name in &names {
        match CIPHERS
            .iter()
            .find(|(open, iana, _)| open == name || iana == name)
        {
            Some((_, _, Some(suite))) if !suites.contains(suite) => suites.push(*suite),
            Some(_) => {}
            None => {
                return Err(path.reject(format!("\"{name}\" is not a cipher suite that is known")));
            }
        }
    }
    if names.is_empty() {
        suites.extend(CIPHERS.iter().filter_map(|(_, _, suite)| *suite));
    } else if suites.is_empty() {
        return Err(path.reject(format!(
            "none of {} is supported; ECDHE with AES-GCM or CHACHA20-POLY1305 is",
            names.join(", ")
        )));
    }
    Ok(TLS13_SUITES.into_iter().chain(suites).collect())
}

fn groups_from(
    names: &[String],
    path: &ConfigPath<'_>,
) -> Result<Vec<&'static dyn SupportedKxGroup>, Rejected> {
    let path = path.field("ecdh_curves");
    let mut groups = Vec::new();
    let names: Vec<&str> = names
        .iter()
        .flat_map(|name| name.split(':'))
        .filter(|name| !name.is_empty())
        .collect();
    for name in &names {
        let group: Option<&'static dyn SupportedKxGroup> = match *name {
            "X25519" => Some(kx_group::X25519),
            "P-256" | "prime256v1" | "secp256r1" => Some(kx_group::SECP256R1),
            "P-384" | "secp384r1" => Some(kx_group::SECP384R1),
            "X25519MLKEM768" => Some(kx_group::X25519MLKEM768),
            "P-224" | "secp224r1" | "P-521" | "secp521r1" | "X25519Kyber768Draft00" => None,
            other => {
                return Err(path.reject(format!("\"{other}\" is not a curve that is known")));
            }
        };
        groups.extend(group);
    }
    if names.is_empty() {
        groups = vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
        ];
    } else if groups.is_empty() {
        return Err(path.reject(format!(
            "none of {} is supported; X25519, P-256, P-384 and X25519MLKEM768 are",
            names.join(", ")
        )));
    }
    Ok(groups)
}

/// What BoringSSL calls a cipher suite.
pub(super) fn cipher_name(suite: rustls::CipherSuite) -> &'static str {
    match suite {
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        rustls::CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => CIPHERS
            .iter()
            .find(|(_, _, known)| known.is_some_and(|known| known.suite() == other))
            .map_or("unknown", |(name, _, _)| name),
    }
}

/// What BoringSSL calls a key exchange.
pub(super) fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "P-256",
        NamedGroup::secp384r1 => "P-384",
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        _ => "unknown",
    }
}

/// What BoringSSL calls a signature scheme.
pub(super) fn signature_name(scheme: rustls::SignatureScheme) -> &'static str {
    use rustls::SignatureScheme as S;
    match scheme {
        S::RSA_PKCS1_SHA1 => "rsa_pkcs1_sha1",
        S::RSA_PKCS1_SHA256 => "rsa_pkcs1_sha256",
        S::RSA_PKCS1_SHA384 => "rsa_pkcs1_sha384",
        S::RSA_PKCS1_SHA512 => "rsa_pkcs1_sha512",
        S::ECDSA_NISTP256_SHA256 => "ecdsa_secp256r1_sha256",
        S::ECDSA_NISTP384_SHA384 => "ecdsa_secp384r1_sha384",
        S::ECDSA_NISTP521_SHA512 => "ecdsa_secp521r1_sha512",
        S::RSA_PSS_SHA256 => "rsa_pss_rsae_sha256",
        S::RSA_PSS_SHA384 => "rsa_pss_rsae_sha384",
        S::RSA_PSS_SHA512 => "rsa_pss_rsae_sha512",
        S::ED25519 => "ed25519",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigReport;

    fn convert(proto: pb::TlsParameters, side: Side) -> Result<Parameters, String> {
        let report = ConfigReport::new();
        Parameters::from_proto(Some(proto), side, &ConfigPath::root(&report, "p"))
            .map_err(|_| report.take()[0].to_string())
    }

    fn ciphers(names: &[&str]) -> Result<usize, String> {
        let proto = pb::TlsParameters {
            cipher_suites: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        convert(proto, Side::Server).map(|parameters| parameters.provider.cipher_suites.len() - 3)
    }

    #[test]
    fn suites_that_rustls_lacks_are_left_out_as_long_as_one_remains() {
        assert_eq!(
            ciphers(&["ECDHE-ECDSA-AES256-GCM-SHA384", "AES256-GCM-SHA384"]),
            Ok(1)
        );
        assert_eq!(
            ciphers(&["[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]"]),
            Ok(2)
        );
        assert_eq!(ciphers(&[]), Ok(6));
        assert!(
            ciphers(&["AES256-SHA"])
                .unwrap_err()
                .contains("none of AES256-SHA")
        );
        assert!(ciphers(&["ROT13"]).unwrap_err().contains("\"ROT13\""));
    }

    #[test]
    fn versions_default_to_what_envoy_speaks_on_each_side() {
        let default = |side| convert(pb::TlsParameters::default(), side).unwrap();
        assert_eq!(default(Side::Server).versions.len(), 2);
        assert_eq!(default(Side::Client).versions.len(), 1);
        let old = pb::TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv10 as i32,
            ..Default::default()
        };
        assert_eq!(convert(old, Side::Server).unwrap().versions.len(), 2);
        let too_old = pb::TlsParameters {
            tls_maximum_protocol_version: TlsProtocol::TlSv11 as i32,
            ..Default::default()
        };
        assert!(convert(too_old, Side::Server).is_err());
        let crossed = pb::TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv13 as i32,
            ..Default::default()
        };
        assert!(convert(crossed, Side::Client).is_err());
    }

    #[test]
    fn curves_have_envoys_names() {
        let curves = |name: &str| {
            convert(
                pb::TlsParameters {
                    ecdh_curves: vec![name.to_owned()],
                    ..Default::default()
                },
                Side::Server,
            )
        };
        assert!(curves("P-384").is_ok());
        assert!(curves("P-521").unwrap_err().contains("none of P-521"));
        assert!(curves("P-1").unwrap_err().contains("\"P-1\""));
    }
}
