//! `SPIFFECertValidatorConfig`: peers are verified by the authorities of the trust domain that stands in their own URI.

use std::collections::BTreeMap;

use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use pb::spiffe_cert_validator_config::TrustDomain;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use rustls::{CertificateError, OtherError};
use serde_json::Value;

use super::crl::Crl;
use super::{Failure, FailureStat, Peer, Validation, Verdict, anchors, authorities};
use crate::config::{ConfigPath, Rejected, data_source};
use crate::secrets::source_name;
use crate::x509::{Certificate, SubjectAltName, decode_base64, key_usage};

/// The authorities of all trust domains.
#[derive(Debug)]
pub(super) struct Spiffe(BTreeMap<Box<str>, Bundle>);

/// The authorities of one trust domain.
#[derive(Debug)]
struct Bundle {
    trusted: Vec<Certificate>,
    anchors: Vec<TrustAnchor<'static>>,
    crls: Vec<Crl>,
}

impl Spiffe {
    /// Converts the message. Gives also the place of the last bundle, as `/certs` shows it, and all authorities.
    pub(super) fn from_proto(
        proto: pb::SpiffeCertValidatorConfig,
        path: &ConfigPath<'_>,
    ) -> Result<(Self, Box<str>, Vec<Certificate>), Rejected> {
        let pb::SpiffeCertValidatorConfig {
            trust_domains,
            trust_bundles,
        } = proto;
        if let Some(source) = trust_bundles {
            let path = path.field("trust_bundles");
            let text = data_source(source, &path)?;
            let bundles = from_json(&text).map_err(|error| path.reject(error))?;
            let all = bundles.values().flat_map(|bundle| &bundle.trusted);
            let all = all.cloned().collect();
            return Ok((Self(bundles), "".into(), all));
        }
        let mut bundles = BTreeMap::new();
        let mut last = String::new();
        let mut all = Vec::new();
        let domains = path.each("trust_domains", trust_domains, |domain, path| {
            let TrustDomain {
                name,
                trust_bundle,
                workload_trust_domain,
            } = domain;
            let other = path.unsupported_if_set("workload_trust_domain", workload_trust_domain);
            let name = path.non_empty("name", name)?;
            let source = path.required("trust_bundle", trust_bundle)?;
            let place = format!("{name}: {}", source_name(Some(&source)));
            let path = path.field("trust_bundle");
            let (trusted, crls) = authorities(&data_source(source, &path)?, &path)?;
            other?;
            Ok((name, place, trusted, crls))
        })?;
        for (name, place, trusted, crls) in domains {
            last = place;
            all.extend(trusted.iter().cloned());
            let bundle = Bundle::new(trusted, crls);
            if bundles.insert(name.as_str().into(), bundle).is_some() {
                return Err(path.field("trust_domains").reject(format!(
                    "Multiple trust bundles are given for one trust domain for {name}"
                )));
            }
        }
        Ok((Self(bundles), last.into(), all))
    }
}

impl Bundle {
    fn new(trusted: Vec<Certificate>, crls: Vec<Crl>) -> Self {
        Self {
            anchors: anchors(&trusted),
            trusted,
            crls,
        }
    }
}

impl Validation {
    /// Judges a peer by the authorities of its own trust domain.
    pub(super) fn verify_spiffe(
        &self,
        spiffe: &Spiffe,
        peer: Peer,
        chain: &[CertificateDer<'_>],
        certificates: &[Certificate],
    ) -> Verdict {
        let leaf = &certificates[0];
        let refused = |text: &str, stat| {
            Verdict::failed(Failure {
                text: format!("verify cert failed: {text}"),
                error: unknown(),
                stat,
            })
        };
        let may_sign = key_usage::KEY_CERT_SIGN | key_usage::CRL_SIGN;
        let extensions = &leaf.extensions;
        let is_ca = matches!(extensions.basic_constraints, Some((true, _)));
        // A certificate that says nothing of its use may be used for everything, as a CA.
        if is_ca
            || extensions
                .key_usage
                .is_none_or(|usage| usage & may_sign != 0)
        {
            return refused("cert precheck", FailureStat::Error);
        }
        let domain = leaf
            .names(SubjectAltName::as_uri)
            .next()
            .and_then(trust_domain);
        let Some(bundle) = domain.and_then(|domain| spiffe.0.get(domain)) else {
            return refused("no trust bundle store", FailureStat::Error);
        };
        let trust = (&*bundle.trusted, &*bundle.anchors, &*bundle.crls);
        let verified = match self.verify_chain(peer, chain, certificates, trust) {
            Ok(verified) => verified,
            Err(error) => {
                let mut failure = error.into_failure();
                failure.error = unknown();
                return Verdict::failed(failure);
            }
        };
        let mut names = self
            .names
            .iter()
            .filter(|matcher| matcher.is_uri())
            .peekable();
        if names.peek().is_some() && !names.any(|matcher| matcher.matches(leaf)) {
            return refused("SAN match", FailureStat::San);
        }
        Verdict {
            validated: true,
            chain: verified,
            ..Verdict::default()
        }
    }
}

/// The alert is always `certificate_unknown`.
fn unknown() -> CertificateError {
    let error = crate::x509::NotACertificate;
    CertificateError::Other(OtherError(std::sync::Arc::new(error)))
}

/// The part of a SPIFFE ID before the path, which there must be.
fn trust_domain(uri: &str) -> Option<&str> {
    let rest = uri.strip_prefix("spiffe://")?;
    let (domain, _) = rest.split_once('/')?;
    Some(domain).filter(|domain| !domain.is_empty())
}

/// Takes a map of SPIFFE bundles apart: `{"trust_domains": {"<name>": {"keys": [{"use": "x509-svid", "x5c": ["…"]}]}}}`.
fn from_json(text: &[u8]) -> Result<BTreeMap<Box<str>, Bundle>, String> {
    let json: Value = serde_json::from_slice(text)
        .map_err(|_| "Invalid JSON found in SPIFFE bundle".to_owned())?;
    let domains = json
        .get("trust_domains")
        .and_then(Value::as_object)
        .filter(|domains| !domains.is_empty())
        .ok_or("No trust domains found in SPIFFE bundle")?;
    let mut bundles = BTreeMap::new();
    for (name, domain) in domains {
        let keys = domain
            .get("keys")
            .and_then(Value::as_array)
            .ok_or_else(|| format!("No keys found in SPIFFE bundle for domain '{name}'"))?;
        let svids = keys
            .iter()
            .filter(|key| key.get("use").and_then(Value::as_str) == Some("x509-svid"));
        let mut trusted = Vec::new();
        for key in svids {
            let chain = key.get("x5c").and_then(Value::as_array);
            for text in chain.into_iter().flatten() {
                let certificate = text
                    .as_str()
                    .and_then(decode_base64)
                    .and_then(|der| Certificate::from_der(&der).ok());
                trusted.push(certificate.ok_or_else(|| {
                    format!("x5c of domain '{name}' holds what is no certificate")
                })?);
            }
        }
        if trusted.is_empty() {
            return Err(format!(
                "No keys found in SPIFFE bundle for domain '{name}'"
            ));
        }
        bundles.insert(name.as_str().into(), Bundle::new(trusted, Vec::new()));
    }
    Ok(bundles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trust_domain_is_what_stands_before_the_path() {
        assert_eq!(trust_domain("spiffe://td/ns/a"), Some("td"));
        assert_eq!(trust_domain("spiffe://td"), None);
        assert_eq!(trust_domain("spiffe:///ns"), None);
        assert_eq!(trust_domain("https://td/ns"), None);
    }

    #[test]
    fn maps_of_bundles_say_what_they_lack() {
        let error = |text: &str| from_json(text.as_bytes()).unwrap_err();
        assert_eq!(error("{"), "Invalid JSON found in SPIFFE bundle");
        assert_eq!(error("{}"), "No trust domains found in SPIFFE bundle");
        let without =
            r#"{"trust_domains": {"td": {"keys": [{"use": "jwt-svid", "x5c": ["AA=="]}]}}}"#;
        assert_eq!(
            error(without),
            "No keys found in SPIFFE bundle for domain 'td'"
        );
        let bad = without.replace("jwt-svid", "x509-svid");
        assert!(error(&bad).contains("no certificate"));
    }
}
