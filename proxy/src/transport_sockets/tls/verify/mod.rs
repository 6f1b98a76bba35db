//! Whether a peer is who it must be: `CertificateValidationContext`.
//!
//! Chains are verified by webpki. What webpki refuses though Envoy takes it (X.509 v1, CAs as peers, expired certificates where
//! those are allowed) is decided by [`chain`], which also knows what to say where both refuse: BoringSSL's words.

mod chain;
mod crl;
mod handshake;
mod san;
mod spiffe;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use outrigger_proto::any;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use pb::certificate_validation_context::{SystemRootCerts, TrustChainVerification};
use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, TrustAnchor};

pub(super) use handshake::{ClientVerifier, Report, ServerVerifier, exchange};

use self::chain::{ChainError, ChainRules};
use self::crl::Crl;
pub use self::san::SanMatcher;
use self::spiffe::Spiffe;
use crate::config::{ConfigPath, Rejected, data_source};
use crate::secrets::pem_blocks;
use crate::x509::{Certificate, decode_base64};

/// Who verifies whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Client,
    Server,
}

/// Where the authorities come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Origin {
    /// From `trusted_ca`, if there are any.
    #[default]
    Configuration,
    /// From the system: they are shown nowhere.
    System,
    /// From the bundles of trust domains: each is shown by itself.
    TrustDomains,
}

/// A converted `CertificateValidationContext`.
#[derive(Debug, Default)]
pub(super) struct Validation {
    /// `trusted_ca`: any of them may end a chain.
    pub(super) trusted: Arc<[Certificate]>,
    /// Where `trusted_ca` was found; for `/certs`.
    pub(super) ca_path: Box<str>,
    pub(super) origin: Origin,
    anchors: Vec<TrustAnchor<'static>>,
    crls: Vec<Crl>,
    rules: ChainRules,
    names: Vec<SanMatcher>,
    hashes: Vec<[u8; 32]>,
    keys: Vec<[u8; 32]>,
    accept_untrusted: bool,
    /// Clients are not told whom we trust.
    suppress_client_ca_list: bool,
    /// `UpstreamTlsContext.auto_sni_san_validation`: the server name is what the certificate must have.
    pub(super) match_server_name: bool,
    /// Takes the place of everything but the URIs among the names.
    spiffe: Option<Spiffe>,
}

/// What came of a verification.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Why the handshake must fail.
    pub(super) failure: Option<Failure>,
    /// Whether the certificate was found good.
    pub(super) validated: bool,
    /// From the peer's certificate to the trusted one.
    pub(super) chain: Vec<Box<[u8]>>,
    /// What was counted even if the peer is accepted.
    pub(super) counts_error: bool,
}

/// Why a peer is refused.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// In Envoy's words.
    pub(super) text: String,
    /// Chooses the alert.
    pub(super) error: CertificateError,
    pub(super) stat: FailureStat,
}

/// What counts a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureStat {
    Error,
    San,
    CertHash,
    /// The key is not for signatures. In the words of the library, not of Envoy.
    KeyUsage,
}

/// The validator of `custom_validator_config`, and where its authorities come from.
fn spiffe_from(
    config: core::TypedExtensionConfig,
    path: &ConfigPath<'_>,
) -> Result<(Spiffe, Box<str>, Vec<Certificate>), Rejected> {
    let core::TypedExtensionConfig {
        name: _,
        typed_config,
    } = config;
    let any = path.required("typed_config", typed_config)?;
    let path = path.field("typed_config");
    // Without the check of the API, which Envoy leaves out here: bundles need no domains beside them.
    let proto = any::decode::<pb::SpiffeCertValidatorConfig>(&any)
        .map_err(|error| path.reject(format!("{error}; {SPIFFE} is supported")))?;
    Spiffe::from_proto(proto, &path)
}

impl Validation {
    #[allow(deprecated, reason = "every field is decided, also old ones")]
    pub(super) fn from_proto(
        proto: pb::CertificateValidationContext,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::CertificateValidationContext {
            trusted_ca,
            ca_certificate_provider_instance,
            system_root_certs,
            // Files of secrets are looked at again as a whole.
            watched_directory: _,
            verify_certificate_spki,
            verify_certificate_hash,
            match_typed_subject_alt_names,
            match_subject_alt_names,
            require_signed_certificate_timestamp,
            crl,
            allow_expired_certificate,
            trust_chain_verification,
            custom_validator_config,
            only_verify_leaf_cert_crl,
            max_verify_depth,
            suppress_client_ca_list,
        } = proto;
        let refused = [
            path.unsupported_if_set(
                "ca_certificate_provider_instance",
                ca_certificate_provider_instance,
            ),
            path.unsupported_if_set(
                "require_signed_certificate_timestamp",
                require_signed_certificate_timestamp,
            ),
        ];
        let mut ca_path = crate::secrets::source_name(trusted_ca.as_ref());
        let spiffe = path.optional(
            "custom_validator_config",
            custom_validator_config,
            spiffe_from,
        );
        let mut origin = match (&trusted_ca, &system_root_certs) {
            (None, Some(SystemRootCerts {})) => Origin::System,
            _ => Origin::Configuration,
        };
        let ca = configured_authorities(trusted_ca, origin, path);
        let crl = path.optional("crl", crl, |source, path| {
            Crl::all(&data_source(source, path)?, path)
        });
        let hash = "verify_certificate_hash";
        let hashes = path.each(hash, verify_certificate_hash, hash_from);
        let spki = "verify_certificate_spki";
        let keys = path.each(spki, verify_certificate_spki, spki_from);
        let typed = path.each(
            "match_typed_subject_alt_names",
            match_typed_subject_alt_names,
            SanMatcher::from_proto,
        );
        let untyped = path.each(
            "match_subject_alt_names",
            match_subject_alt_names,
            SanMatcher::any_kind,
        );
        let trust = path.enumeration::<TrustChainVerification>(
            "trust_chain_verification",
            trust_chain_verification,
        );
        refused.into_iter().collect::<Result<Vec<()>, _>>()?;
        let (mut trusted, mut crls) = ca?;
        let spiffe = spiffe?.map(|(spiffe, place, all)| {
            ca_path = place;
            origin = Origin::TrustDomains;
            // Shown to clients, and to whoever asks for our authorities.
            trusted = all;
            spiffe
        });
        crls.extend(crl?.unwrap_or_default());
        let (hashes, keys, mut names) = (hashes?, keys?, typed?);
        names.extend(untyped?.into_iter().flatten());
        if !names.is_empty() && trusted.is_empty() {
            return Err(path.reject(
                "SAN-based verification of peer certificates without trusted CA is insecure and not allowed",
            ));
        }
        Ok(Self {
            anchors: anchors(&trusted),
            trusted: trusted.into(),
            ca_path,
            origin,
            rules: ChainRules {
                allow_expired: allow_expired_certificate,
                only_leaf_crl: only_verify_leaf_cert_crl,
                max_depth: max_verify_depth.map(|depth| depth.value),
            },
            crls,
            names,
            hashes,
            keys,
            accept_untrusted: trust? == TrustChainVerification::AcceptUntrusted,
            suppress_client_ca_list,
            match_server_name: false,
            spiffe,
        })
    }

    /// Whether a client is asked for a certificate.
    fn wants_certificate(&self) -> bool {
        !self.trusted.is_empty() || self.accept_untrusted || self.checks_identity()
    }

    /// Whether a client without a certificate is refused. `required`: `require_client_certificate`.
    fn requires_certificate(&self, required: bool) -> bool {
        self.spiffe.is_some()
            || required && !self.trusted.is_empty()
            || self.checks_identity() && !self.accept_untrusted
    }

    fn checks_identity(&self) -> bool {
        !self.names.is_empty() || !self.hashes.is_empty() || !self.keys.is_empty()
    }

    /// Judges a server whose session is resumed, by the certificates of the first handshake.
    pub(super) fn verify_server(
        &self,
        chain: &[CertificateDer<'_>],
        server_name: Option<&str>,
        names: &[Box<str>],
    ) -> Verdict {
        self.verify(Peer::Server, chain, server_name, names)
    }

    /// Judges a chain, the peer's certificate first. `names`: one of these must be in it, in place of what is configured.
    fn verify(
        &self,
        peer: Peer,
        chain: &[CertificateDer<'_>],
        server_name: Option<&str>,
        names: &[Box<str>],
    ) -> Verdict {
        let parsed: Result<Vec<_>, _> =
            chain.iter().map(|der| Certificate::from_der(der)).collect();
        let certificates = match parsed {
            Ok(certificates) if !certificates.is_empty() => certificates,
            _ => {
                return Verdict::failed(Failure {
                    text: "verify cert failed: empty cert chain".to_owned(),
                    error: CertificateError::BadEncoding,
                    stat: FailureStat::Error,
                });
            }
        };
        if let Some(spiffe) = &self.spiffe {
            return self.verify_spiffe(spiffe, peer, chain, &certificates);
        }
        let mut verdict = Verdict::default();
        if !self.trusted.is_empty() {
            let trust = (&*self.trusted, &*self.anchors, &*self.crls);
            match self.verify_chain(peer, chain, &certificates, trust) {
                Ok(verified) => {
                    verdict.validated = true;
                    verdict.chain = verified;
                }
                Err(_) if self.accept_untrusted => {
                    verdict.counts_error = true;
                    return verdict;
                }
                Err(error) => return Verdict::failed(error.into_failure()),
            }
        }
        match self.verify_identity(&certificates[0], server_name, names) {
            Ok(true) => verdict.validated = true,
            Ok(false) => {}
            Err(_) if self.accept_untrusted => verdict.validated = false,
            Err(failure) => verdict.failure = Some(failure),
        }
        verdict
    }

    fn verify_chain(
        &self,
        peer: Peer,
        chain: &[CertificateDer<'_>],
        certificates: &[Certificate],
        (trusted, anchors, crls): (&[Certificate], &[TrustAnchor<'static>], &[Crl]),
    ) -> Result<Vec<Box<[u8]>>, ChainError> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let verifier = chain::ChainVerifier {
            peer,
            trusted,
            anchors,
            crls,
            rules: &self.rules,
            now,
        };
        let verified = verifier.verify(chain, certificates)?;
        Ok(verified.into_iter().map(|cert| cert.der().into()).collect())
    }

    /// Whether the names, the digest or the key of the certificate are as they must be. False: none of these is asked for.
    fn verify_identity(
        &self,
        leaf: &Certificate,
        server_name: Option<&str>,
        names: &[Box<str>],
    ) -> Result<bool, Failure> {
        let shown = || {
            let names: Vec<_> = leaf
                .subject_alt_names
                .iter()
                .map(|name| name.to_text())
                .collect();
            names.join(", ")
        };
        let mut checked = false;
        if !names.is_empty() {
            if !san::any_name_matches(leaf, names) {
                let text = format!(
                    "verify cert failed: verify SAN list, expected SANs: [{}], certificate SANs: [{}]",
                    names.join(", "),
                    shown()
                );
                return Err(Failure::san(text));
            }
            checked = true;
        }
        let by_server_name = self.match_server_name && names.is_empty();
        let matches = match server_name.filter(|_| by_server_name) {
            Some(name) => Some(san::server_name_matches(leaf, name)),
            None => (!self.names.is_empty())
                .then(|| self.names.iter().any(|matcher| matcher.matches(leaf))),
        };
        if let Some(matches) = matches {
            if !matches {
                let text = format!(
                    "verify cert failed: SAN matcher, certificate SANs are [{}]",
                    shown()
                );
                return Err(Failure::san(text));
            }
            checked = true;
        }
        if !self.hashes.is_empty() || !self.keys.is_empty() {
            let is_in = |list: &[[u8; 32]], bytes: &[u8]| {
                let found = digest(&SHA256, bytes);
                list.iter().any(|hash| hash == found.as_ref())
            };
            if !is_in(&self.hashes, leaf.der()) && !is_in(&self.keys, leaf.public_key()) {
                return Err(Failure {
                    text: "verify cert failed: cert hash and spki".to_owned(),
                    error: CertificateError::NotValidForName,
                    stat: FailureStat::CertHash,
                });
            }
            checked = true;
        }
        Ok(checked)
    }
}

impl Verdict {
    fn failed(failure: Failure) -> Self {
        Self {
            failure: Some(failure),
            ..Self::default()
        }
    }
}

impl Failure {
    fn san(text: String) -> Self {
        Self {
            // The alert is `certificate_unknown`.
            error: CertificateError::Other(rustls::OtherError(Arc::new(
                crate::x509::NotACertificate,
            ))),
            text,
            stat: FailureStat::San,
        }
    }
}

/// Whether a certificate has a name that the matcher takes. For fuzzing.
pub(super) fn has_name(
    certificate: &Certificate,
    matcher: pb::SubjectAltNameMatcher,
) -> Option<bool> {
    let report = crate::config::ConfigReport::new();
    let path = ConfigPath::root(&report, "matcher");
    let matcher = SanMatcher::from_proto(matcher, &path).ok()?;
    Some(matcher.matches(certificate))
}

/// Judges a chain as that of a client, or of a server with this name. For fuzzing.
pub(super) fn judge(
    context: pb::CertificateValidationContext,
    chain: &[&[u8]],
    server_name: Option<&str>,
    path: &ConfigPath<'_>,
) -> Result<Option<String>, Rejected> {
    let mut validation = Validation::from_proto(context, path)?;
    validation.match_server_name = server_name.is_some();
    let peer = match server_name {
        Some(_) => Peer::Server,
        None => Peer::Client,
    };
    let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(*der)).collect();
    let verdict = validation.verify(peer, &chain, server_name, &[]);
    Ok(verdict.failure.map(|failure| failure.text))
}

fn anchors(trusted: &[Certificate]) -> Vec<TrustAnchor<'static>> {
    // What webpki cannot read as an anchor is left to our own rules.
    let anchor = |certificate: &Certificate| {
        let der = CertificateDer::from(certificate.der());
        webpki::anchor_from_trusted_cert(&der)
            .ok()
            .map(|anchor| anchor.to_owned())
    };
    trusted.iter().filter_map(anchor).collect()
}

/// The certificates and revocation lists of a PEM text.
fn authorities(
    text: &[u8],
    path: &ConfigPath<'_>,
) -> Result<(Vec<Certificate>, Vec<Crl>), Rejected> {
    let blocks = pem_blocks(text).ok_or_else(|| path.reject("is not PEM"))?;
    let mut certificates = Vec::new();
    let mut crls = Vec::new();
    for block in &blocks {
        match &*block.label {
            "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => {
                let certificate = Certificate::from_der(&block.der);
                certificates.push(certificate.map_err(|error| path.reject(error.to_string()))?);
            }
            "X509 CRL" => crls.push(Crl::from_der(&block.der, path)?),
            _ => {}
        }
    }
    if certificates.is_empty() {
        return Err(path.reject("has no certificate in PEM"));
    }
    Ok((certificates, crls))
}

/// The validator that asks for trust domains.
const SPIFFE: &str = "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// The authorities and revocation lists of `trusted_ca`, or of the system.
fn configured_authorities(
    trusted_ca: Option<core::DataSource>,
    origin: Origin,
    path: &ConfigPath<'_>,
) -> Result<(Vec<Certificate>, Vec<Crl>), Rejected> {
    let field = path.field("trusted_ca");
    let text = match (trusted_ca, origin) {
        (Some(source), _) => data_source(source, &field)?,
        (None, Origin::System) => system_roots(path)?,
        (None, _) => return Ok((Vec::new(), Vec::new())),
    };
    authorities(&text, &field)
}

/// What the system trusts.
fn system_roots(path: &ConfigPath<'_>) -> Result<bytes::Bytes, Rejected> {
    const PLACES: [&str; 5] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/pki/tls/cacert.pem",
        "/etc/ssl/cert.pem",
    ];
    PLACES
        .iter()
        .find_map(|place| std::fs::read(place).ok())
        .map(bytes::Bytes::from)
        .ok_or_else(|| {
            path.field("system_root_certs")
                .reject(format!("are in none of {}", PLACES.join(", ")))
        })
}

fn hash_from(text: String, path: &ConfigPath<'_>) -> Result<[u8; 32], Rejected> {
    let digits = text.replace(':', "");
    crate::secrets::unhex(&digits)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| path.reject(format!("Invalid hex-encoded SHA-256 {text}")))
}

fn spki_from(text: String, path: &ConfigPath<'_>) -> Result<[u8; 32], Rejected> {
    decode_base64(&text)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| path.reject(format!("Invalid base64-encoded SHA-256 {text}")))
}
