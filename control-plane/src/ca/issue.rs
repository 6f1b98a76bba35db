//! Making certificates.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{CaError, files};
use crate::cache::version_of;
use crate::world::TlsSecret;

/// How long roots and intermediates live.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far clocks may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// A root and the intermediate that issues under it.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) root_pem: String,
    /// None where it was read.
    root_key: Option<String>,
    intermediate_pem: String,
    intermediate_key: String,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

/// An issued certificate.
#[derive(Clone, Debug)]
pub struct Svid {
    /// The certificate, the intermediate, and the key.
    pub secret: Arc<TlsSecret>,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

impl Svid {
    /// Whether half of its life is over.
    #[must_use]
    pub fn is_due(&self, now: SystemTime) -> bool {
        let life = self
            .not_after
            .duration_since(self.not_before)
            .unwrap_or_default();
        now >= self.not_before + life / 2
    }

    pub(super) fn write(&self, directory: &Path, identity: &str) -> Result<(), CaError> {
        let name = format!("{}.pem", version_of(&[identity.as_bytes()]));
        let text = format!("{}{}", self.secret.certificate, self.secret.key);
        files::write(&directory.join(name), &text)
    }
}

impl Issuer {
    pub(super) fn generate(trust_domain: &str) -> Result<Self, CaError> {
        let now = SystemTime::now();
        let root_key = key()?;
        let root = ca_params("Outrigger root", trust_domain, 1, now);
        let root_certificate = root.self_signed(&root_key).map_err(bad)?;
        let root_issuer = rcgen::Issuer::from_params(&root, &root_key);
        let intermediate_key = key()?;
        let intermediate = ca_params("Outrigger intermediate", trust_domain, 0, now)
            .signed_by(&intermediate_key, &root_issuer)
            .map_err(bad)?;
        Self::new(
            root_certificate.pem(),
            Some(root_key.serialize_pem()),
            intermediate.pem(),
            intermediate_key.serialize_pem(),
        )
    }

    fn new(
        root_pem: String,
        root_key: Option<String>,
        intermediate_pem: String,
        intermediate_key: String,
    ) -> Result<Self, CaError> {
        let key = KeyPair::from_pem(&intermediate_key).map_err(bad)?;
        let issuer = rcgen::Issuer::from_ca_cert_pem(&intermediate_pem, key).map_err(bad)?;
        Ok(Self {
            root_pem,
            root_key,
            intermediate_pem,
            intermediate_key,
            issuer,
        })
    }

    pub(super) fn read(directory: &Path) -> Result<Self, CaError> {
        Self::new(
            files::read(&directory.join("root.pem"))?,
            None,
            files::read(&directory.join("intermediate.pem"))?,
            files::read(&directory.join("intermediate.key"))?,
        )
    }

    pub(super) fn write(&self, directory: &Path) -> Result<(), CaError> {
        files::make_directory(directory)?;
        files::write(&directory.join("root.pem"), &self.root_pem)?;
        if let Some(key) = &self.root_key {
            files::write(&directory.join("root.key"), key)?;
        }
        files::write(&directory.join("intermediate.key"), &self.intermediate_key)?;
        files::write(&directory.join("intermediate.pem"), &self.intermediate_pem)
    }

    pub(super) fn issue(
        &self,
        identity: &str,
        names: &[String],
        ttl: Duration,
    ) -> Result<Svid, CaError> {
        let key = key()?;
        let now = SystemTime::now();
        let params = leaf_params(identity, names, now, ttl)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(bad)?;
        Ok(Svid {
            secret: Arc::new(TlsSecret {
                certificate: format!("{}{}", certificate.pem(), self.intermediate_pem),
                key: key.serialize_pem(),
            }),
            not_before: now,
            not_after: now + ttl,
        })
    }

    pub(super) fn sign(
        &self,
        request: &str,
        identity: &str,
        ttl: Duration,
    ) -> Result<String, CaError> {
        let mut request = CertificateSigningRequestParams::from_pem(request)
            .map_err(|error| CaError::Request(error.to_string()))?;
        request.params = leaf_params(identity, &[], SystemTime::now(), ttl)?;
        let certificate = request.signed_by(&self.issuer).map_err(bad)?;
        Ok(format!("{}{}", certificate.pem(), self.intermediate_pem))
    }
}

/// What was issued under this issuer and is still valid.
pub(super) fn read_all(directory: &Path, issuer: &Issuer) -> BTreeMap<String, Svid> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(text) = fs::read_to_string(entry.path()) else {
            continue;
        };
        let Some(at) = text.find("-----BEGIN PRIVATE KEY-----") else {
            continue;
        };
        let (certificate, key) = text.split_at(at);
        if !certificate.ends_with(&issuer.intermediate_pem) {
            continue;
        }
        let Some((identity, not_before, not_after)) = described(certificate) else {
            continue;
        };
        if not_after <= SystemTime::now() {
            continue;
        }
        let secret = Arc::new(TlsSecret {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        });
        found.insert(
            identity,
            Svid {
                secret,
                not_before: not_before + CLOCK_SKEW,
                not_after,
            },
        );
    }
    found
}

fn described(pem: &str) -> Option<(String, SystemTime, SystemTime)> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (from, until) = validity_of(pem)?;
    Some((svid_of_certificate(&der)?, from, until))
}

/// From when until when the first certificate of a PEM text is valid.
#[must_use]
pub fn validity_of(pem: &str) -> Option<(SystemTime, SystemTime)> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let time = |seconds: i64| Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?));
    let validity = certificate.validity();
    Some((
        time(validity.not_before.timestamp())?,
        time(validity.not_after.timestamp())?,
    ))
}

/// The URIs that a request in PEM names.
///
/// # Errors
/// It is no request.
pub fn requested_identities(request: &str) -> Result<Vec<String>, CaError> {
    let request = CertificateSigningRequestParams::from_pem(request)
        .map_err(|error| CaError::Request(error.to_string()))?;
    let names = request.params.subject_alt_names.iter();
    let uris = names.filter_map(|name| match name {
        SanType::URI(uri) => Some(uri.to_string()),
        _ => None,
    });
    Ok(uris.collect())
}

/// The SPIFFE identity in a certificate: its only URI.
#[must_use]
pub fn svid_of_certificate(der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        });
    let uri = uris.next()?;
    (uris.next().is_none() && uri.starts_with("spiffe://")).then_some(uri)
}

fn key() -> Result<KeyPair, CaError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(bad)
}

fn ca_params(name: &str, trust_domain: &str, depth: u8, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let serial = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    params
        .distinguished_name
        .push(DnType::OrganizationName, trust_domain);
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{name} {serial:x}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, now, CA_LIFE);
    params
}

fn leaf_params(
    identity: &str,
    names: &[String],
    now: SystemTime,
    ttl: Duration,
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::new(names.to_vec()).map_err(bad)?;
    params.distinguished_name = DistinguishedName::new();
    let uri = identity.try_into().map_err(bad)?;
    params.subject_alt_names.push(SanType::URI(uri));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, now, ttl);
    Ok(params)
}

fn valid(params: &mut CertificateParams, from: SystemTime, life: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = epoch + since(from - CLOCK_SKEW);
    params.not_after = epoch + since(from + life);
}

fn bad(error: rcgen::Error) -> CaError {
    CaError::Certificate(error.to_string())
}
