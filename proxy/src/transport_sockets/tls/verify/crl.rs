//! Certificate revocation lists.

use std::collections::HashSet;

use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::chain::{Problem, Signed};
use crate::config::{ConfigPath, Rejected};
use crate::secrets::pem_blocks;
use crate::x509::Certificate;

/// A list of certificates that their issuer has revoked.
#[derive(Debug)]
pub(super) struct Crl {
    issuer: Box<[u8]>,
    /// Seconds since 1970.
    pub(super) this_update: i64,
    next_update: Option<i64>,
    revoked: HashSet<Box<[u8]>>,
    algorithm: Box<str>,
    signed: Box<[u8]>,
    signature: Box<[u8]>,
}

impl Crl {
    /// All lists of a PEM text.
    pub(super) fn all(text: &[u8], path: &ConfigPath<'_>) -> Result<Vec<Self>, Rejected> {
        let blocks = pem_blocks(text).ok_or_else(|| path.reject("is not PEM"))?;
        let lists = blocks.iter().filter(|block| block.label == "X509 CRL");
        let lists: Vec<_> = lists
            .map(|block| Self::from_der(&block.der, path))
            .collect::<Result<_, _>>()?;
        if lists.is_empty() {
            return Err(path.reject("has no X509 CRL in PEM"));
        }
        Ok(lists)
    }

    pub(super) fn from_der(der: &[u8], path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let (_, list) = CertificateRevocationList::from_der(der)
            .map_err(|_| path.reject("is not an X.509 revocation list"))?;
        let serials = list.iter_revoked_certificates();
        Ok(Self {
            issuer: list.issuer().as_raw().into(),
            this_update: list.last_update().timestamp(),
            next_update: list.next_update().map(|time| time.timestamp()),
            revoked: serials
                .map(|entry| trim(entry.raw_serial()).into())
                .collect(),
            algorithm: list.signature_algorithm.algorithm.to_id_string().into(),
            signed: list.tbs_cert_list.as_ref().into(),
            signature: list.signature_value.data.as_ref().into(),
        })
    }

    pub(super) fn is_of(&self, issuer: &[u8]) -> bool {
        &*self.issuer == issuer
    }

    /// Whether the list says nothing against a certificate. `now`: none does not ask for times.
    pub(super) fn check(
        &self,
        cert: &Certificate,
        issuer: &Certificate,
        now: Option<i64>,
    ) -> Result<(), Problem> {
        if let Some(now) = now {
            if self.this_update > now {
                return Err(Problem::CrlNotYetValid);
            }
            if self.next_update.is_some_and(|next| next < now) {
                return Err(Problem::CrlExpired);
            }
        }
        let signed = Signed {
            algorithm: &self.algorithm,
            content: &self.signed,
            signature: &self.signature,
        };
        if !signed.is_by(issuer) {
            return Err(Problem::CrlSignature);
        }
        match self.revoked.contains(trim(cert.raw_serial())) {
            true => Err(Problem::Revoked),
            false => Ok(()),
        }
    }
}

/// A serial number without leading zeros.
fn trim(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial.get(zeros..).unwrap_or_default()
}
