//! What TLS has agreed on, and what stands in certificates, on both sides.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{FormatData, append_str, upstream_of};
use crate::formatter::time::TimeFormat;
use crate::stream_info::TlsConnectionInfo;
use crate::x509::{Certificate, SubjectAltName, url_encoded};

/// Which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::formatter) enum TlsSide {
    Downstream,
    Upstream,
}

/// Whose certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::formatter) enum Holder {
    Local,
    Peer,
}

/// What of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::formatter) enum TlsPart {
    Version,
    Cipher,
    Group,
    /// rustls does not give it.
    SessionId,
    ServerName,
    Dns(Holder),
    Uri(Holder),
    Email(Holder),
    Ip(Holder),
    OtherName(Holder),
    Subject(Holder),
    Issuer,
    Serial,
    Fingerprint256,
    Fingerprint1,
    Pem,
    ChainFingerprints256,
    ChainFingerprints1,
    ChainSerials,
    IssuerFingerprint256,
    IssuerSerial,
}

impl TlsPart {
    /// The part that an operator means, without `DOWNSTREAM_` or `UPSTREAM_`.
    pub(in crate::formatter) fn parse(name: &str, side: TlsSide) -> Option<Self> {
        Some(match name {
            "TLS_VERSION" => Self::Version,
            "TLS_CIPHER" => Self::Cipher,
            "TLS_GROUP" => Self::Group,
            "TLS_SESSION_ID" => Self::SessionId,
            "LOCAL_DNS_SAN" => Self::Dns(Holder::Local),
            "LOCAL_IP_SAN" => Self::Ip(Holder::Local),
            "LOCAL_URI_SAN" => Self::Uri(Holder::Local),
            "PEER_CERT" => Self::Pem,
            "PEER_DNS_SAN" => Self::Dns(Holder::Peer),
            "PEER_IP_SAN" => Self::Ip(Holder::Peer),
            "PEER_ISSUER" => Self::Issuer,
            "PEER_SUBJECT" => Self::Subject(Holder::Peer),
            "PEER_URI_SAN" => Self::Uri(Holder::Peer),
            _ => return Self::parse_one(name, side),
        })
    }

    /// Those that only one of the sides has.
    fn parse_one(name: &str, side: TlsSide) -> Option<Self> {
        if side == TlsSide::Upstream {
            return (name == "SERVER_NAME").then_some(Self::ServerName);
        }
        Some(match name {
            "LOCAL_EMAIL_SAN" => Self::Email(Holder::Local),
            "LOCAL_OTHERNAME_SAN" => Self::OtherName(Holder::Local),
            "LOCAL_SUBJECT" => Self::Subject(Holder::Local),
            "PEER_CHAIN_FINGERPRINTS_1" => Self::ChainFingerprints1,
            "PEER_CHAIN_FINGERPRINTS_256" => Self::ChainFingerprints256,
            "PEER_CHAIN_SERIALS" => Self::ChainSerials,
            "PEER_EMAIL_SAN" => Self::Email(Holder::Peer),
            "PEER_FINGERPRINT_1" => Self::Fingerprint1,
            "PEER_FINGERPRINT_256" => Self::Fingerprint256,
            "PEER_ISSUER_FINGERPRINT_256" => Self::IssuerFingerprint256,
            "PEER_ISSUER_SERIAL" => Self::IssuerSerial,
            "PEER_OTHERNAME_SAN" => Self::OtherName(Holder::Peer),
            "PEER_SERIAL" => Self::Serial,
            _ => return None,
        })
    }

    /// Appends the value; an empty one is none.
    pub(super) fn write(self, side: TlsSide, data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
        let value = connection(side, data).and_then(|tls| self.value(tls));
        append_str(out, value.as_deref().filter(|value| !value.is_empty()))
    }

    fn value(self, tls: &TlsConnectionInfo) -> Option<String> {
        let peer = || tls.peer().map(|peer| &**peer);
        let of = |holder| match holder {
            Holder::Peer => peer(),
            Holder::Local => tls.local.as_deref(),
        };
        let names = |holder, pick: fn(&SubjectAltName) -> Option<&str>| {
            let names: Vec<_> = of(holder)?.names(pick).collect();
            Some(names.join(","))
        };
        let chain = |part: fn(&Certificate) -> String| {
            let parts: Vec<_> = tls.peer_chain().map(|cert| part(&cert)).collect();
            Some(parts.join(","))
        };
        match self {
            Self::Version => tls.version.map(str::to_owned),
            Self::Cipher => tls.cipher.map(str::to_owned),
            Self::Group => tls.group.map(str::to_owned),
            Self::SessionId => None,
            Self::ServerName => tls.server_name.as_deref().map(str::to_owned),
            Self::Dns(holder) => names(holder, SubjectAltName::as_dns),
            Self::Uri(holder) => names(holder, SubjectAltName::as_uri),
            Self::Email(holder) => names(holder, SubjectAltName::as_email),
            Self::OtherName(holder) => names(holder, SubjectAltName::as_other),
            Self::Ip(holder) => {
                let ip = |name: &SubjectAltName| match name {
                    SubjectAltName::Ip(address) => Some(address.to_string()),
                    _ => None,
                };
                let all: Vec<_> = of(holder)?
                    .subject_alt_names
                    .iter()
                    .filter_map(ip)
                    .collect();
                Some(all.join(","))
            }
            Self::Subject(holder) => of(holder).map(|cert| cert.subject.to_string()),
            Self::Issuer => peer().map(|cert| cert.issuer.to_string()),
            Self::Serial => peer().map(|cert| cert.serial.to_string()),
            Self::Fingerprint256 => peer().map(Certificate::fingerprint_256),
            Self::Fingerprint1 => peer().map(Certificate::fingerprint_1),
            Self::Pem => peer().map(|cert| url_encoded(&cert.pem())),
            Self::ChainFingerprints256 => chain(Certificate::fingerprint_256),
            Self::ChainFingerprints1 => chain(Certificate::fingerprint_1),
            Self::ChainSerials => chain(|cert| cert.serial.to_string()),
            Self::IssuerFingerprint256 => tls.peer_issuer().map(|cert| cert.fingerprint_256()),
            Self::IssuerSerial => tls.peer_issuer().map(|cert| cert.serial.to_string()),
        }
    }
}

/// Appends when the certificate of a peer begins (`end`: ceases) to be valid.
pub(super) fn write_validity(
    side: TlsSide,
    end: bool,
    format: &TimeFormat,
    data: &FormatData<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let Some(peer) = connection(side, data).and_then(TlsConnectionInfo::peer) else {
        return false;
    };
    let seconds = if end { peer.not_after } else { peer.not_before };
    let time = u64::try_from(seconds)
        .ok()
        .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    format.write(time.unwrap_or(SystemTime::UNIX_EPOCH), out);
    true
}

fn connection<'a>(side: TlsSide, data: &FormatData<'a>) -> Option<&'a TlsConnectionInfo> {
    match side {
        TlsSide::Downstream => data.info.connection.tls.get().map(|tls| &**tls),
        TlsSide::Upstream => upstream_of(data)?.tls.as_deref(),
    }
}
