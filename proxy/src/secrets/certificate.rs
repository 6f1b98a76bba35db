//! `TlsCertificate`: a certificate chain that we show, with its private key.

use std::sync::Arc;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SigningKey};

use super::ocsp::OcspResponse;
use super::pem::pem_blocks;
use super::private_key::private_key;
use crate::config::{ConfigPath, Rejected, data_source};
use crate::x509::Certificate;

/// A certificate of our own. Debug shows no key.
#[derive(Debug, Clone)]
pub struct TlsCertificate {
    /// The first certificate of the chain.
    pub leaf: Arc<Certificate>,
    /// What a handshake takes: chain, key and OCSP response.
    pub certified: Arc<CertifiedKey>,
    /// The same without the OCSP response, for clients that are not shown it.
    pub unstapled: Arc<CertifiedKey>,
    /// The OCSP response, if one came with the certificate.
    pub ocsp: Option<OcspResponse>,
    /// Where the chain was found: a file, or `<inline>`.
    pub path: Box<str>,
    /// The key is ECDSA.
    pub is_ecdsa: bool,
}

impl TlsCertificate {
    /// Converts the message: reads files, takes chain and key apart, and checks that they belong together.
    pub fn from_proto(proto: pb::TlsCertificate, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::TlsCertificate {
            certificate_chain,
            private_key: key,
            pkcs12,
            // Files of secrets are looked at again as a whole.
            watched_directory: _,
            private_key_provider,
            password,
            ocsp_staple,
            signed_certificate_timestamp,
            tls_params,
        } = proto;
        let refused = [
            path.unsupported_if_set("pkcs12", pkcs12),
            path.unsupported_if_set("private_key_provider", private_key_provider),
            path.unsupported_if_set("tls_params", tls_params),
            path.unsupported_if_set("signed_certificate_timestamp", signed_certificate_timestamp),
        ];
        let place = source_name(certificate_chain.as_ref());
        let chain = path
            .required("certificate_chain", certificate_chain)
            .and_then(|source| chain_from(source, &path.field("certificate_chain")));
        let password = path.optional("password", password, data_source);
        let key = path
            .required("private_key", key)
            .and_then(|source| data_source(source, &path.field("private_key")));
        let ocsp = path.optional("ocsp_staple", ocsp_staple, data_source);
        refused.into_iter().collect::<Result<Vec<()>, _>>()?;
        let (chain, key, password) = (chain?, key?, password?);
        let key = private_key(&key, password.as_deref())
            .map_err(|error| path.field("private_key").reject(error.to_string()))?;
        let certificates = chain
            .iter()
            .map(|cert| CertificateDer::from(cert.der().to_vec()));
        let unstapled = CertifiedKey::new(certificates.collect(), key.clone());
        let mut certified = unstapled.clone();
        certified.ocsp = ocsp?.map(|response| response.to_vec());
        let Some(leaf) = chain.into_iter().next() else {
            return Err(path
                .field("certificate_chain")
                .reject("has no certificate in PEM"));
        };
        if !belongs_to(key.as_ref(), &leaf) {
            return Err(path
                .field("private_key")
                .reject("is not the key of the certificate (KEY_VALUES_MISMATCH)"));
        }
        let ocsp = match &certified.ocsp {
            None => None,
            Some(der) => {
                let path = path.field("ocsp_staple");
                let response = OcspResponse::from_der(der).map_err(|error| path.reject(error))?;
                if !response.is_about(leaf.raw_serial()) {
                    return Err(path.reject("OCSP response does not match its TLS certificate"));
                }
                Some(response)
            }
        };
        Ok(Self {
            leaf: Arc::new(leaf),
            is_ecdsa: key.algorithm() == rustls::SignatureAlgorithm::ECDSA,
            certified: Arc::new(certified),
            unstapled: Arc::new(unstapled),
            ocsp,
            path: place,
        })
    }
}

/// The certificates of a PEM text, in its order; others are passed over.
fn chain_from(
    source: core::DataSource,
    path: &ConfigPath<'_>,
) -> Result<Vec<Certificate>, Rejected> {
    let text = data_source(source, path)?;
    let blocks = pem_blocks(&text).ok_or_else(|| path.reject("is not PEM"))?;
    let certificates: Vec<_> = blocks
        .iter()
        .filter(|block| {
            matches!(
                &*block.label,
                "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE"
            )
        })
        .map(|block| Certificate::from_der(&block.der))
        .collect::<Result<_, _>>()
        .map_err(|error| path.reject(error.to_string()))?;
    if certificates.is_empty() {
        return Err(path.reject("has no certificate in PEM"));
    }
    Ok(certificates)
}

/// Where a data source has its bytes from, as `/certs` shows it.
pub(crate) fn source_name(source: Option<&core::DataSource>) -> Box<str> {
    match source.and_then(|source| source.specifier.as_ref()) {
        Some(core::data_source::Specifier::Filename(name)) => name.as_str().into(),
        _ => "<inline>".into(),
    }
}

/// Whether the public half of the key stands in the certificate. Keys that do not tell are taken.
fn belongs_to(key: &dyn SigningKey, certificate: &Certificate) -> bool {
    key.public_key()
        .is_none_or(|public| public.as_ref() == certificate.public_key())
}

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::envoy::config::core::v3::data_source::Specifier;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::config::ConfigReport;

    fn inline(text: String) -> Option<core::DataSource> {
        Some(core::DataSource {
            watched_directory: None,
            specifier: Some(Specifier::InlineString(text)),
        })
    }

    fn convert(chain: String, key: String) -> Result<TlsCertificate, String> {
        let report = ConfigReport::new();
        let proto = pb::TlsCertificate {
            certificate_chain: inline(chain),
            private_key: inline(key),
            ..Default::default()
        };
        TlsCertificate::from_proto(proto, &ConfigPath::root(&report, "secret"))
            .map_err(|_| report.take()[0].to_string())
    }

    #[test]
    fn a_certificate_is_taken_with_its_own_key_only() {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["a.example".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let converted = convert(cert.pem(), key.serialize_pem()).unwrap();
        assert!(converted.is_ecdsa);
        assert_eq!(&*converted.path, "<inline>");
        let other = KeyPair::generate().unwrap().serialize_pem();
        let error = convert(cert.pem(), other.clone()).unwrap_err();
        assert!(
            error.starts_with("secret / private_key: is not the key"),
            "{error}"
        );
        assert!(!format!("{converted:?}").contains("PRIVATE"));
        let secret_part: String = other.lines().nth(1).unwrap().to_owned();
        assert!(!error.contains(&secret_part));
    }

    #[test]
    fn every_missing_part_is_reported() {
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "secret");
        assert!(TlsCertificate::from_proto(pb::TlsCertificate::default(), &path).is_err());
        let errors: Vec<_> = report.take().iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "secret / certificate_chain: is required",
                "secret / private_key: is required"
            ]
        );
    }
}
