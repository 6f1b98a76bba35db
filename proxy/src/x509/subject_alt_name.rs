//! The names of a certificate beside its subject.

use std::net::IpAddr;

use x509_parser::der_parser::asn1_rs::{Any, FromDer};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::X509Certificate;

use super::SubjectAltName;

/// All names of kinds that anything can match, in their order.
pub(super) fn all(certificate: &X509Certificate<'_>) -> Vec<SubjectAltName> {
    let mut out = Vec::new();
    for extension in certificate.extensions() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
            out.extend(names.general_names.iter().filter_map(convert));
        }
    }
    out
}

fn convert(name: &GeneralName<'_>) -> Option<SubjectAltName> {
    Some(match name {
        GeneralName::DNSName(name) => SubjectAltName::Dns((*name).into()),
        GeneralName::URI(name) => SubjectAltName::Uri((*name).into()),
        GeneralName::RFC822Name(name) => SubjectAltName::Email((*name).into()),
        GeneralName::IPAddress(bytes) => SubjectAltName::Ip(address(bytes)?),
        GeneralName::OtherName(oid, value) => SubjectAltName::OtherName {
            oid: oid.to_id_string().into(),
            value: other_name(value)?.into(),
        },
        _ => return None,
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// The text within `[0] EXPLICIT`.
fn other_name(value: &[u8]) -> Option<String> {
    let (_, outer) = Any::from_der(value).ok()?;
    let text = match Any::from_der(outer.data) {
        Ok((_, inner)) => inner.data,
        Err(_) => outer.data,
    };
    std::str::from_utf8(text).ok().map(str::to_owned)
}
