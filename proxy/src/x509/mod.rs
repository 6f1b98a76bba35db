//! X.509 certificates, taken apart once: what is shown of them, and what decides whether they are trusted.
//!
//! The parser takes what BoringSSL takes, also versions and serial numbers that a stricter one refuses: who has to trust a
//! certificate looks at its fields.

mod name;
mod subject_alt_name;

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use aws_lc_rs::digest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

/// A parsed certificate that owns its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Box<[u8]>,
    /// 1, 2 or 3.
    pub version: u32,
    /// The subject as RFC 2253 writes it: `CN=client,O=Example`.
    pub subject: Box<str>,
    /// The issuer, likewise.
    pub issuer: Box<str>,
    /// In hexadecimal digits, lower case.
    pub serial: Box<str>,
    /// Not valid before: seconds since 1970.
    pub not_before: i64,
    /// Not valid after: seconds since 1970.
    pub not_after: i64,
    /// All names of the extension, in its order.
    pub subject_alt_names: Vec<SubjectAltName>,
    /// What it may be used for.
    pub extensions: Extensions,
    /// The algorithm of the signature, in dots.
    pub signature_algorithm: Box<str>,
    parts: Parts,
}

/// Where the parts of a certificate lie in its bytes.
#[derive(Clone, PartialEq, Eq, Default)]
struct Parts {
    signed: Range<usize>,
    signature: Range<usize>,
    subject: Range<usize>,
    issuer: Range<usize>,
    public_key: Range<usize>,
    serial: Range<usize>,
}

/// The extensions that decide about trust.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extensions {
    /// `basicConstraints`: whether it is a CA, and how many CAs may follow below it. None: the extension is missing.
    pub basic_constraints: Option<(bool, Option<u32>)>,
    /// `keyUsage`: its bits, the first one lowest. None: any use.
    pub key_usage: Option<u16>,
    /// `extendedKeyUsage`. None: any use.
    pub extended_key_usage: Option<ExtendedKeyUsage>,
    /// `subjectKeyIdentifier`.
    pub subject_key_id: Option<Box<[u8]>>,
    /// `authorityKeyIdentifier`.
    pub authority_key_id: Option<Box<[u8]>>,
    /// Names that certificates below it may have are limited.
    pub has_name_constraints: bool,
    /// An extension is critical and not known here, or cannot be read.
    pub has_unknown_critical: bool,
    /// Who shows it must show an OCSP response too (the TLS feature `status_request`).
    pub must_staple: bool,
}

/// What a certificate may authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names of the purposes")]
pub struct ExtendedKeyUsage {
    pub client_auth: bool,
    pub server_auth: bool,
}

/// One `subjectAltName`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of the kinds")]
pub enum SubjectAltName {
    Dns(Box<str>),
    Uri(Box<str>),
    Email(Box<str>),
    Ip(IpAddr),
    OtherName { oid: Box<str>, value: Box<str> },
}

/// Why bytes are no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not an X.509 certificate")]
pub struct NotACertificate;

/// Bits of [`Extensions::key_usage`].
pub mod key_usage {
    /// `digitalSignature`.
    pub const DIGITAL_SIGNATURE: u16 = 1;
    /// `keyEncipherment`.
    pub const KEY_ENCIPHERMENT: u16 = 1 << 2;
    /// `keyAgreement`.
    pub const KEY_AGREEMENT: u16 = 1 << 4;
    /// `keyCertSign`.
    pub const KEY_CERT_SIGN: u16 = 1 << 5;
    /// `cRLSign`.
    pub const CRL_SIGN: u16 = 1 << 6;
}

impl Certificate {
    /// Takes a DER certificate apart.
    pub fn from_der(der: &[u8]) -> Result<Self, NotACertificate> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| NotACertificate)?;
        if !rest.is_empty() {
            return Err(NotACertificate);
        }
        let tbs = &parsed.tbs_certificate;
        let place = |part: &[u8]| range_in(der, part);
        let serial = hex(tbs.raw_serial());
        let trimmed = serial.trim_start_matches("00");
        Ok(Self {
            version: match tbs.version {
                X509Version::V1 => 1,
                X509Version::V2 => 2,
                _ => 3,
            },
            subject: name::rfc2253(&tbs.subject).into(),
            issuer: name::rfc2253(&tbs.issuer).into(),
            serial: if trimmed.is_empty() { "0" } else { trimmed }.into(),
            not_before: tbs.validity.not_before.timestamp(),
            not_after: tbs.validity.not_after.timestamp(),
            subject_alt_names: subject_alt_name::all(&parsed),
            extensions: extensions(&parsed),
            signature_algorithm: parsed.signature_algorithm.algorithm.to_id_string().into(),
            parts: Parts {
                signed: place(tbs.as_ref()),
                signature: place(&parsed.signature_value.data),
                subject: place(tbs.subject.as_raw()),
                issuer: place(tbs.issuer.as_raw()),
                public_key: place(tbs.subject_pki.raw),
                serial: place(tbs.raw_serial()),
            },
            der: der.into(),
        })
    }

    /// All of its bytes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// What its issuer has signed.
    pub fn signed_part(&self) -> &[u8] {
        self.part(&self.parts.signed)
    }

    /// The signature of its issuer.
    pub fn signature(&self) -> &[u8] {
        self.part(&self.parts.signature)
    }

    /// The subject as it is encoded.
    pub fn raw_subject(&self) -> &[u8] {
        self.part(&self.parts.subject)
    }

    /// The issuer as it is encoded.
    pub fn raw_issuer(&self) -> &[u8] {
        self.part(&self.parts.issuer)
    }

    /// The `SubjectPublicKeyInfo`.
    pub fn public_key(&self) -> &[u8] {
        self.part(&self.parts.public_key)
    }

    /// The serial number as it is encoded.
    pub fn raw_serial(&self) -> &[u8] {
        self.part(&self.parts.serial)
    }

    /// Whether it says that it issued itself.
    pub fn is_self_issued(&self) -> bool {
        self.raw_subject() == self.raw_issuer()
    }

    /// The SHA-256 digest of the certificate, in hexadecimal digits.
    pub fn fingerprint_256(&self) -> String {
        hex(digest::digest(&digest::SHA256, &self.der).as_ref())
    }

    /// The SHA-1 digest of the certificate, in hexadecimal digits.
    pub fn fingerprint_1(&self) -> String {
        hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &self.der).as_ref())
    }

    /// The certificate as PEM, in lines of 64 characters.
    pub fn pem(&self) -> String {
        pem(&self.der)
    }

    /// The `commonName` of the subject, if it has one.
    pub fn common_name(&self) -> Option<String> {
        let (_, parsed) = X509Certificate::from_der(&self.der).ok()?;
        let name = parsed.tbs_certificate.subject.iter_common_name().next()?;
        name.as_str().ok().map(str::to_owned)
    }

    /// The names of the kind that `pick` takes.
    pub fn names<'a>(
        &'a self,
        pick: impl Fn(&'a SubjectAltName) -> Option<&'a str> + 'a,
    ) -> impl Iterator<Item = &'a str> {
        self.subject_alt_names.iter().filter_map(pick)
    }

    fn part(&self, range: &Range<usize>) -> &[u8] {
        self.der.get(range.clone()).unwrap_or_default()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("subject", &self.subject)
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

impl SubjectAltName {
    /// The name as Envoy shows it in messages.
    pub fn to_text(&self) -> String {
        match self {
            Self::Dns(name) | Self::Uri(name) | Self::Email(name) => name.to_string(),
            Self::Ip(address) => address.to_string(),
            Self::OtherName { value, .. } => value.to_string(),
        }
    }

    /// A DNS name.
    pub fn as_dns(&self) -> Option<&str> {
        match self {
            Self::Dns(name) => Some(name),
            _ => None,
        }
    }

    /// A URI.
    pub fn as_uri(&self) -> Option<&str> {
        match self {
            Self::Uri(name) => Some(name),
            _ => None,
        }
    }

    /// An email address.
    pub fn as_email(&self) -> Option<&str> {
        match self {
            Self::Email(name) => Some(name),
            _ => None,
        }
    }

    /// The value of an `otherName`.
    pub fn as_other(&self) -> Option<&str> {
        match self {
            Self::OtherName { value, .. } => Some(value),
            _ => None,
        }
    }
}

/// The extension that lists what the holder must do in TLS, and the encoding of the number 5 in it.
const TLS_FEATURE: &str = "1.3.6.1.5.5.7.1.24";
const STATUS_REQUEST: [u8; 3] = [2, 1, 5];

fn extensions(parsed: &X509Certificate<'_>) -> Extensions {
    let mut out = Extensions::default();
    for extension in parsed.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(value) => {
                out.basic_constraints = Some((value.ca, value.path_len_constraint));
            }
            ParsedExtension::KeyUsage(value) => out.key_usage = Some(value.flags),
            ParsedExtension::ExtendedKeyUsage(value) => {
                out.extended_key_usage = Some(ExtendedKeyUsage {
                    client_auth: value.client_auth,
                    server_auth: value.server_auth,
                });
            }
            ParsedExtension::SubjectKeyIdentifier(id) => out.subject_key_id = Some(id.0.into()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                out.authority_key_id = id.key_identifier.as_ref().map(|id| id.0.into());
            }
            ParsedExtension::NameConstraints(_) => out.has_name_constraints = true,
            ParsedExtension::SubjectAlternativeName(_)
            | ParsedExtension::CertificatePolicies(_)
            | ParsedExtension::PolicyMappings(_)
            | ParsedExtension::PolicyConstraints(_)
            | ParsedExtension::InhibitAnyPolicy(_) => {}
            _ => {
                out.must_staple |= extension.oid.to_id_string() == TLS_FEATURE
                    && extension
                        .value
                        .windows(3)
                        .any(|part| part == STATUS_REQUEST);
                out.has_unknown_critical |= extension.critical;
            }
        }
    }
    out
}

/// Where `part` lies in `whole`; it is a slice of it, or empty.
fn range_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    match start.checked_add(part.len()) {
        Some(end) if end <= whole.len() => start..end,
        _ => 0..0,
    }
}

/// Bytes as hexadecimal digits, lower case.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value & 15)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(*byte)])
        .collect()
}

/// A certificate as PEM, in lines of 64 characters.
pub fn pem(der: &[u8]) -> String {
    let text = base64(der);
    let mut out = String::with_capacity(text.len() + text.len() / 64 + 64);
    out.push_str("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

/// PEM as Envoy writes it into headers and logs: what has a meaning in URLs is escaped.
pub fn url_encoded(pem: &str) -> String {
    let mut out = String::with_capacity(pem.len() + pem.len() / 8);
    for c in pem.chars() {
        match c {
            '\n' => out.push_str("%0A"),
            ' ' => out.push_str("%20"),
            '+' => out.push_str("%2B"),
            '/' => out.push_str("%2F"),
            '=' => out.push_str("%3D"),
            c => out.push(c),
        }
    }
    out
}

/// Base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            if at > chunk.len() {
                out.push('=');
            } else {
                let index = (bits >> (18 - 6 * at)) & 63;
                out.push(char::from(DIGITS[index as usize]));
            }
        }
    }
    out
}

/// The bytes that base64 stands for; None where it is not base64. Padding may be missing.
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    for chunk in text.chunks(4) {
        let mut bits = 0u32;
        for at in 0..4 {
            let value = match chunk.get(at) {
                None => 0,
                Some(c @ b'A'..=b'Z') => c - b'A',
                Some(c @ b'a'..=b'z') => c - b'a' + 26,
                Some(c @ b'0'..=b'9') => c - b'0' + 52,
                Some(b'+') => 62,
                Some(b'/') => 63,
                Some(_) => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let count = match chunk.len() {
            4 => 3,
            3 => 2,
            2 => 1,
            _ => return None,
        };
        out.extend_from_slice(bits.to_be_bytes().get(1..=count)?);
    }
    Some(out)
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    pub(crate) fn make(change: impl FnOnce(&mut CertificateParams)) -> Certificate {
        let mut params = CertificateParams::default();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Certificate::from_der(params.self_signed(&key).unwrap().der()).unwrap()
    }

    #[test]
    fn subjects_are_written_last_part_first_with_special_characters_escaped() {
        let certificate = make(|params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            let name = &mut params.distinguished_name;
            name.push(DnType::CommonName, "client");
            name.push(DnType::OrganizationName, "Org, Inc.");
            name.push(DnType::CountryName, "US");
        });
        assert_eq!(&*certificate.subject, r"C=US,O=Org\, Inc.,CN=client");
        assert_eq!(certificate.subject, certificate.issuer);
        assert!(certificate.is_self_issued());
        assert_eq!(certificate.common_name().as_deref(), Some("client"));
    }

    #[test]
    fn alternative_names_of_each_kind_are_found() {
        let certificate = make(|params| {
            params.subject_alt_names = vec![
                SanType::DnsName("a.example".try_into().unwrap()),
                SanType::URI("spiffe://td/x".try_into().unwrap()),
                SanType::Rfc822Name("a@b.c".try_into().unwrap()),
                SanType::IpAddress("10.0.0.1".parse().unwrap()),
                SanType::IpAddress("::1".parse().unwrap()),
            ];
        });
        let texts: Vec<_> = certificate
            .subject_alt_names
            .iter()
            .map(SubjectAltName::to_text)
            .collect();
        assert_eq!(
            texts,
            ["a.example", "spiffe://td/x", "a@b.c", "10.0.0.1", "::1"]
        );
    }

    #[test]
    fn parts_lie_where_they_are_encoded() {
        let certificate = make(|_| {});
        assert!(certificate.signed_part().len() > 100);
        assert!(certificate.signature().len() > 60);
        assert_eq!(certificate.public_key()[0], 0x30);
        assert_eq!(certificate.version, 3);
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        assert_eq!(Certificate::from_der(b"x"), Err(NotACertificate));
        let mut longer = make(|_| {}).der().to_vec();
        longer.push(0);
        assert_eq!(Certificate::from_der(&longer), Err(NotACertificate));
    }

    #[test]
    fn base64_comes_back() {
        for text in ["", "a", "ab", "abc", "abcd"] {
            assert_eq!(
                decode_base64(&base64(text.as_bytes())).unwrap(),
                text.as_bytes()
            );
        }
        assert_eq!(decode_base64("a*"), None);
        assert_eq!(decode_base64("a"), None);
    }
}
