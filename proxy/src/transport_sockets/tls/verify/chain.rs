//! The chain from a peer's certificate to one that is trusted.
//!
//! The rules are those of `X509_verify_cert` with partial chains: every trusted certificate may end a chain, and all that are
//! in the chain must be valid now. webpki judges first; its yes needs only the few checks that it lacks.

use std::time::Duration;

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage, RawPublicKeyEntity, VerifiedPath};

use super::crl::Crl;
use super::{Failure, FailureStat, Peer};
use crate::x509::{Certificate, key_usage};

/// What may be otherwise.
#[derive(Debug, Default)]
pub(super) struct ChainRules {
    pub(super) allow_expired: bool,
    pub(super) only_leaf_crl: bool,
    /// How long a chain may be.
    pub(super) max_depth: Option<u32>,
}

/// Everything that a verification needs.
pub(super) struct ChainVerifier<'a> {
    pub(super) peer: Peer,
    pub(super) trusted: &'a [Certificate],
    pub(super) anchors: &'a [TrustAnchor<'static>],
    pub(super) crls: &'a [Crl],
    pub(super) rules: &'a ChainRules,
    /// Since 1970.
    pub(super) now: Duration,
}

/// What is wrong, and with which certificate: 0 is the peer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChainError {
    depth: usize,
    problem: Problem,
}

/// BoringSSL's verification errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Problem {
    Unspecified,
    SelfSigned,
    SelfSignedInChain,
    NoLocalIssuer,
    ChainTooLong,
    InvalidCa,
    PathLength,
    Purpose,
    UnknownCritical,
    Signature,
    NotYetValid,
    Expired,
    NoCrl,
    CrlSignature,
    CrlNotYetValid,
    CrlExpired,
    Revoked,
}

impl Problem {
    fn text(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified certificate verification error",
            Self::SelfSigned => "self signed certificate",
            Self::SelfSignedInChain => "self signed certificate in certificate chain",
            Self::NoLocalIssuer => "unable to get local issuer certificate",
            Self::ChainTooLong => "certificate chain too long",
            Self::InvalidCa => "invalid CA certificate",
            Self::PathLength => "path length constraint exceeded",
            Self::Purpose => "unsupported certificate purpose",
            Self::UnknownCritical => "unhandled critical extension",
            Self::Signature => "certificate signature failure",
            Self::NotYetValid => "certificate is not yet valid",
            Self::Expired => "certificate has expired",
            Self::NoCrl => "unable to get certificate CRL",
            Self::CrlSignature => "CRL signature failure",
            Self::CrlNotYetValid => "CRL is not yet valid",
            Self::CrlExpired => "CRL has expired",
            Self::Revoked => "certificate revoked",
        }
    }

    fn is_of_crl(self) -> bool {
        matches!(
            self,
            Self::NoCrl
                | Self::CrlSignature
                | Self::CrlNotYetValid
                | Self::CrlExpired
                | Self::Revoked
        )
    }

    /// The error of rustls with the alert that BoringSSL sends.
    fn error(self) -> CertificateError {
        match self {
            Self::Unspecified | Self::UnknownCritical => {
                CertificateError::UnhandledCriticalExtension
            }
            Self::Purpose => CertificateError::InvalidPurpose,
            Self::Signature | Self::CrlSignature => CertificateError::BadSignature,
            Self::NotYetValid | Self::Expired | Self::CrlExpired | Self::CrlNotYetValid => {
                CertificateError::Expired
            }
            Self::Revoked => CertificateError::Revoked,
            Self::SelfSigned
            | Self::SelfSignedInChain
            | Self::NoLocalIssuer
            | Self::ChainTooLong
            | Self::InvalidCa
            | Self::PathLength
            | Self::NoCrl => CertificateError::UnknownIssuer,
        }
    }

    pub(super) fn at(self, depth: usize) -> ChainError {
        ChainError {
            depth,
            problem: self,
        }
    }
}

impl ChainError {
    pub(super) fn into_failure(self) -> Failure {
        Failure {
            text: format!(
                "verify cert failed: X509_verify_cert: certificate verification error at depth {}: {}{}",
                self.depth,
                match self.problem.is_of_crl() {
                    true => "certificate revocation check against provided CRLs failed: ",
                    false => "",
                },
                self.problem.text()
            ),
            error: self.problem.error(),
            stat: FailureStat::Error,
        }
    }
}

impl<'a> ChainVerifier<'a> {
    /// The verified chain, from the peer's certificate to the trusted one.
    pub(super) fn verify(
        &self,
        ders: &[CertificateDer<'_>],
        certificates: &'a [Certificate],
    ) -> Result<Vec<&'a Certificate>, ChainError> {
        let (leaf, rest) = certificates
            .split_first()
            .ok_or(Problem::Unspecified.at(0))?;
        match self.ask_webpki(ders, certificates) {
            Ok(chain) => {
                self.check(&chain)?;
                Ok(chain)
            }
            Err(refusal) => {
                let chain = self.build(leaf, rest)?;
                self.check(&chain)?;
                check_signatures(&chain)?;
                // What webpki refuses is accepted only where the reason is known to mean nothing to Envoy.
                if self.is_overruled(&refusal, &chain) {
                    Ok(chain)
                } else {
                    Err(Problem::Unspecified.at(0))
                }
            }
        }
    }

    fn ask_webpki(
        &self,
        ders: &[CertificateDer<'_>],
        certificates: &'a [Certificate],
    ) -> Result<Vec<&'a Certificate>, Error> {
        let (leaf, rest) = ders.split_first().ok_or(Error::BadDer)?;
        let end_entity = EndEntityCert::try_from(leaf)?;
        let usage = match self.peer {
            Peer::Client => KeyUsage::client_auth(),
            Peer::Server => KeyUsage::server_auth(),
        };
        let path = end_entity.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            self.anchors,
            rest,
            UnixTime::since_unix_epoch(self.now),
            usage,
            None,
            None,
        )?;
        self.chain_of(&path, certificates)
            .ok_or(Error::UnknownIssuer)
    }

    /// The path that webpki has found, in our certificates.
    fn chain_of(
        &self,
        path: &VerifiedPath<'_>,
        certificates: &'a [Certificate],
    ) -> Option<Vec<&'a Certificate>> {
        let mut chain = vec![certificates.first()?];
        for intermediate in path.intermediate_certificates() {
            let der = intermediate.der();
            chain.push(
                certificates
                    .iter()
                    .find(|cert| cert.der() == der.as_ref())?,
            );
        }
        // A certificate of the chain may be trusted itself; webpki ends at an equal name and key.
        let anchor = path.anchor();
        let trusted = self.trusted.iter().find(|cert| {
            strip_sequence(cert.raw_subject()) == anchor.subject.as_ref()
                && strip_sequence(cert.public_key()) == anchor.subject_public_key_info.as_ref()
        })?;
        // A certificate that is trusted itself ends its own chain.
        if chain.last().is_none_or(|last| last.der() != trusted.der()) {
            chain.push(trusted);
        }
        Some(chain)
    }

    /// Builds a chain as BoringSSL does: trusted issuers first, then those that the peer sent.
    fn build(
        &self,
        leaf: &'a Certificate,
        rest: &'a [Certificate],
    ) -> Result<Vec<&'a Certificate>, ChainError> {
        let mut chain = vec![leaf];
        loop {
            let last = chain[chain.len() - 1];
            let depth = chain.len() - 1;
            let is_trusted = self.trusted.iter().any(|cert| cert.der() == last.der());
            if last.is_self_issued() {
                return match (is_trusted, depth) {
                    (true, _) => Ok(chain),
                    (false, 0) => Err(Problem::SelfSigned.at(0)),
                    (false, _) => Err(Problem::SelfSignedInChain.at(depth)),
                };
            }
            if chain.len() > LONGEST {
                return Err(Problem::ChainTooLong.at(depth));
            }
            let issuer = |pool: &'a [Certificate]| {
                let fits = |cert: &&Certificate| {
                    has_issued(cert, last) && !chain.iter().any(|known| known.der() == cert.der())
                };
                pool.iter().find(fits)
            };
            match issuer(self.trusted).or_else(|| issuer(if is_trusted { &[] } else { rest })) {
                Some(next) => chain.push(next),
                None if is_trusted => return Ok(chain),
                None => return Err(Problem::NoLocalIssuer.at(depth)),
            }
        }
    }

    /// Everything but signatures.
    fn check(&self, chain: &[&Certificate]) -> Result<(), ChainError> {
        self.check_extensions(chain)?;
        if let Some(max) = self.rules.max_depth {
            let between = chain.len().saturating_sub(2);
            let max = usize::try_from(max).unwrap_or(usize::MAX).saturating_sub(1);
            if between > max {
                return Err(Problem::NoLocalIssuer.at(max + 1));
            }
        }
        self.check_revocation(chain)?;
        self.check_times(chain)
    }

    fn check_extensions(&self, chain: &[&Certificate]) -> Result<(), ChainError> {
        let mut below = 0u32;
        for (depth, cert) in chain.iter().enumerate() {
            let extensions = &cert.extensions;
            if extensions.has_unknown_critical {
                return Err(Problem::UnknownCritical.at(depth));
            }
            if depth > 0 && !is_ca(cert) {
                return Err(Problem::InvalidCa.at(depth));
            }
            if !self.has_purpose(cert, depth == 0) {
                return Err(Problem::Purpose.at(depth));
            }
            if depth > 0 {
                let longest = extensions
                    .basic_constraints
                    .and_then(|(_, longest)| longest);
                if longest.is_some_and(|longest| below > longest) {
                    return Err(Problem::PathLength.at(depth));
                }
                if !cert.is_self_issued() {
                    below += 1;
                }
            }
        }
        Ok(())
    }

    fn has_purpose(&self, cert: &Certificate, is_leaf: bool) -> bool {
        let extended = cert.extensions.extended_key_usage;
        let allowed = extended.is_none_or(|usage| match self.peer {
            Peer::Client => usage.client_auth,
            Peer::Server => usage.server_auth,
        });
        let needed = match self.peer {
            Peer::Client => key_usage::DIGITAL_SIGNATURE | key_usage::KEY_AGREEMENT,
            Peer::Server => {
                key_usage::DIGITAL_SIGNATURE
                    | key_usage::KEY_AGREEMENT
                    | key_usage::KEY_ENCIPHERMENT
            }
        };
        let usable = cert
            .extensions
            .key_usage
            .is_none_or(|usage| usage & needed != 0);
        allowed && (!is_leaf || usable)
    }

    fn check_times(&self, chain: &[&Certificate]) -> Result<(), ChainError> {
        if self.rules.allow_expired {
            return Ok(());
        }
        let now = i64::try_from(self.now.as_secs()).unwrap_or(i64::MAX);
        for (depth, cert) in chain.iter().enumerate().rev() {
            if cert.not_before > now {
                return Err(Problem::NotYetValid.at(depth));
            }
            if cert.not_after < now {
                return Err(Problem::Expired.at(depth));
            }
        }
        Ok(())
    }

    fn check_revocation(&self, chain: &[&Certificate]) -> Result<(), ChainError> {
        if self.crls.is_empty() {
            return Ok(());
        }
        let count = match self.rules.only_leaf_crl {
            true => 1,
            false => chain.len(),
        };
        let now = i64::try_from(self.now.as_secs()).unwrap_or(i64::MAX);
        for (depth, cert) in chain.iter().enumerate().take(count) {
            let issuer = match chain.get(depth + 1) {
                Some(issuer) => issuer,
                None if cert.is_self_issued() => cert,
                None => return Err(Problem::NoCrl.at(depth)),
            };
            let crl = self.crls.iter().filter(|crl| crl.is_of(cert.raw_issuer()));
            // The newest one counts.
            let crl = crl.max_by_key(|crl| crl.this_update);
            let crl = crl.ok_or(Problem::NoCrl.at(depth))?;
            crl.check(cert, issuer, self.time_for_crls(now))
                .map_err(|problem| problem.at(depth))?;
        }
        Ok(())
    }

    fn time_for_crls(&self, now: i64) -> Option<i64> {
        (!self.rules.allow_expired).then_some(now)
    }

    fn is_overruled(&self, refusal: &Error, chain: &[&Certificate]) -> bool {
        if chain
            .iter()
            .any(|cert| cert.extensions.has_name_constraints)
        {
            return false;
        }
        match refusal {
            Error::UnsupportedCertVersion
            | Error::CaUsedAsEndEntity
            | Error::InvalidSerialNumber => true,
            Error::CertExpired { .. } | Error::CertNotValidYet { .. } => self.rules.allow_expired,
            // The peer's own certificate is trusted, or an anchor that webpki cannot read.
            Error::UnknownIssuer => chain.len() == 1 || self.anchors.len() < self.trusted.len(),
            _ => false,
        }
    }
}

/// Whether `issuer` may have issued `cert`, as far as names and key identifiers tell.
fn has_issued(issuer: &Certificate, cert: &Certificate) -> bool {
    let ids_agree = match (
        &cert.extensions.authority_key_id,
        &issuer.extensions.subject_key_id,
    ) {
        (Some(wanted), Some(found)) => wanted == found,
        _ => true,
    };
    issuer.raw_subject() == cert.raw_issuer() && ids_agree && may_sign(issuer)
}

fn may_sign(cert: &Certificate) -> bool {
    let usage = cert.extensions.key_usage;
    usage.is_none_or(|usage| usage & key_usage::KEY_CERT_SIGN != 0)
}

fn is_ca(cert: &Certificate) -> bool {
    match cert.extensions.basic_constraints {
        Some((is_ca, _)) => is_ca && may_sign(cert),
        // Roots of the first version could not say it.
        None => cert.version == 1 && cert.is_self_issued(),
    }
}

fn check_signatures(chain: &[&Certificate]) -> Result<(), ChainError> {
    for (depth, pair) in chain.windows(2).enumerate().rev() {
        let [cert, issuer] = pair else { continue };
        let signed = Signed {
            algorithm: &cert.signature_algorithm,
            content: cert.signed_part(),
            signature: cert.signature(),
        };
        if !signed.is_by(issuer) {
            return Err(Problem::Signature.at(depth));
        }
    }
    Ok(())
}

/// Bytes that somebody has signed.
pub(super) struct Signed<'a> {
    /// In dots.
    pub(super) algorithm: &'a str,
    pub(super) content: &'a [u8],
    pub(super) signature: &'a [u8],
}

impl Signed<'_> {
    /// Whether the signature was made with the key of `issuer`.
    pub(super) fn is_by(&self, issuer: &Certificate) -> bool {
        let der = rustls::pki_types::SubjectPublicKeyInfoDer::from(issuer.public_key());
        let Ok(key) = RawPublicKeyEntity::try_from(&der) else {
            return false;
        };
        let algorithms = algorithms(self.algorithm);
        algorithms.iter().any(|algorithm| {
            key.verify_signature(*algorithm, self.content, self.signature)
                .is_ok()
        })
    }
}

/// What may verify signatures of an algorithm. Which one fits, the key says.
fn algorithms(oid: &str) -> Vec<&'static dyn rustls::pki_types::SignatureVerificationAlgorithm> {
    use webpki::aws_lc_rs as algs;
    match oid {
        "1.2.840.10045.4.3.2" => vec![
            algs::ECDSA_P256_SHA256,
            algs::ECDSA_P384_SHA256,
            algs::ECDSA_P521_SHA256,
        ],
        "1.2.840.10045.4.3.3" => vec![
            algs::ECDSA_P256_SHA384,
            algs::ECDSA_P384_SHA384,
            algs::ECDSA_P521_SHA384,
        ],
        "1.2.840.10045.4.3.4" => vec![
            algs::ECDSA_P256_SHA512,
            algs::ECDSA_P384_SHA512,
            algs::ECDSA_P521_SHA512,
        ],
        "1.2.840.113549.1.1.11" => vec![algs::RSA_PKCS1_2048_8192_SHA256],
        "1.2.840.113549.1.1.12" => vec![algs::RSA_PKCS1_2048_8192_SHA384],
        "1.2.840.113549.1.1.13" => vec![algs::RSA_PKCS1_2048_8192_SHA512],
        "1.2.840.113549.1.1.10" => vec![
            algs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
            algs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
            algs::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
        ],
        "1.3.101.112" => vec![algs::ED25519],
        _ => vec![],
    }
}

/// The content of a DER sequence: webpki keeps subjects and keys without their outer tag.
fn strip_sequence(der: &[u8]) -> &[u8] {
    let header = match der.get(1) {
        Some(length @ 0x81..=0x84) => 2 + usize::from(length & 0x7f),
        _ => 2,
    };
    der.get(header..).unwrap_or_default()
}

/// How many certificates a chain may have before its end must be found.
const LONGEST: usize = 16;
