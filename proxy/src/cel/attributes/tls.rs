//! What is known of TLS, on either side.

use super::super::value::Value;
use super::attributes;
use crate::stream_info::TlsConnectionInfo;
use crate::x509::{Certificate, SubjectAltName, url_encoded};

attributes! { Tls:
    Version = "tls_version", SubjectLocal = "subject_local_certificate", SubjectPeer = "subject_peer_certificate",
    UriLocal = "uri_san_local_certificate", UriPeer = "uri_san_peer_certificate", DnsLocal = "dns_san_local_certificate",
    DnsPeer = "dns_san_peer_certificate", DigestPeer = "sha256_peer_certificate_digest", Peer = "peer_certificate",
}

impl Tls {
    /// The first name of a kind counts.
    pub(super) fn value<'a>(self, tls: &'a TlsConnectionInfo) -> Option<Value<'a>> {
        let peer = tls.peer().map(|peer| &**peer);
        let local = tls.local.as_deref();
        let subject = |certificate: Option<&'a Certificate>| {
            Some(Value::text(certificate.map_or("", |cert| &cert.subject)))
        };
        let name = |certificate: Option<&'a Certificate>,
                    pick: fn(&SubjectAltName) -> Option<&str>| {
            certificate?.names(pick).next().map(Value::text)
        };
        match self {
            Self::Version => Some(Value::text(tls.version.unwrap_or_default())),
            Self::SubjectLocal => subject(local),
            Self::SubjectPeer => subject(peer),
            Self::UriLocal => name(local, SubjectAltName::as_uri),
            Self::UriPeer => name(peer, SubjectAltName::as_uri),
            Self::DnsLocal => name(local, SubjectAltName::as_dns),
            Self::DnsPeer => name(peer, SubjectAltName::as_dns),
            Self::DigestPeer => peer.map(|peer| Value::owned(peer.fingerprint_256())),
            Self::Peer => peer.map(|peer| Value::owned(url_encoded(&peer.pem()))),
        }
    }
}
