//! OCSP stapling: whether a client is shown the response that came with our certificate.

use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use pb::downstream_tls_context::OcspStaplePolicy;
use rustls::sign::CertifiedKey;

use super::stats::SslStats;
use crate::secrets::TlsCertificate;

/// What becomes of the response in one handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Staple {
    Shown,
    LeftOut,
    /// The handshake must fail.
    Missing,
    NotAsked,
}

impl Staple {
    /// Decides by the policy, by the certificate, and by whether the client asks for it.
    pub(super) fn of(
        certificate: &TlsCertificate,
        policy: OcspStaplePolicy,
        asked: bool,
        now: i64,
    ) -> Self {
        if !asked {
            return Self::NotAsked;
        }
        let response = certificate.ocsp.as_ref();
        if response.is_some_and(|response| !response.is_expired(now)) {
            return Self::Shown;
        }
        let policy = match certificate.leaf.extensions.must_staple {
            true => OcspStaplePolicy::MustStaple,
            false => policy,
        };
        match policy {
            OcspStaplePolicy::LenientStapling => Self::LeftOut,
            OcspStaplePolicy::StrictStapling if response.is_none() => Self::LeftOut,
            OcspStaplePolicy::StrictStapling | OcspStaplePolicy::MustStaple => Self::Missing,
        }
    }

    pub(super) fn count(self, stats: &SslStats) {
        match self {
            Self::NotAsked => return,
            Self::Shown => stats.ocsp_staple_responses().inc(),
            Self::LeftOut => stats.ocsp_staple_omitted().inc(),
            Self::Missing => stats.ocsp_staple_failed().inc(),
        }
        stats.ocsp_staple_requests().inc();
    }

    /// What rustls shows; none: nothing, the handshake fails.
    pub(super) fn certified(self, certificate: &TlsCertificate) -> Option<Arc<CertifiedKey>> {
        match self {
            Self::Shown => Some(certificate.certified.clone()),
            Self::LeftOut | Self::NotAsked => Some(certificate.unstapled.clone()),
            Self::Missing => None,
        }
    }
}

/// What is wrong with a certificate of a listener with this policy.
pub(super) fn check(certificate: &TlsCertificate, policy: OcspStaplePolicy) -> Result<(), String> {
    if certificate.ocsp.is_some() {
        return Ok(());
    }
    if certificate.leaf.extensions.must_staple {
        return Err("OCSP response is required for must-staple certificate".to_owned());
    }
    match policy {
        OcspStaplePolicy::MustStaple => {
            Err("Required OCSP response is missing from TLS context".to_owned())
        }
        OcspStaplePolicy::LenientStapling | OcspStaplePolicy::StrictStapling => Ok(()),
    }
}

/// Whether the ClientHello at the start of `records` asks for an OCSP response (`status_request`). False where it goes over
/// several records, as no known client's does.
pub(super) fn is_asked(records: &[u8]) -> bool {
    // Record and handshake header, version and random.
    let after_random = || records.get(5 + 4 + 2 + 32..);
    let ask = || {
        let rest = after_random()?;
        let rest = skip(rest, 1)?;
        let rest = skip(rest, 2)?;
        let rest = skip(rest, 1)?;
        let (mut extensions, _) = take(rest, 2)?;
        while let Some((kind, rest)) = extensions.split_at_checked(2) {
            let (body, rest) = take(rest, 2)?;
            if kind == STATUS_REQUEST {
                return Some(body.first() == Some(&OCSP));
            }
            extensions = rest;
        }
        Some(false)
    };
    ask().unwrap_or(false)
}

/// What has its length before it in `width` bytes, and what follows.
fn take(bytes: &[u8], width: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(width)?;
    let length = length
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    rest.split_at_checked(length)
}

fn skip(bytes: &[u8], width: usize) -> Option<&[u8]> {
    take(bytes, width).map(|(_, rest)| rest)
}

const STATUS_REQUEST: &[u8] = &[0, 5];
const OCSP: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello with this extension.
    fn hello(extension: &[u8]) -> Vec<u8> {
        let sized = |body: &[u8]| {
            let length = u16::try_from(body.len()).unwrap();
            [&length.to_be_bytes()[..], body].concat()
        };
        let server_name = [0, 0, 0, 3, 1, 2, 3];
        let extensions = sized(&[&server_name[..], extension].concat());
        let body = [
            &[3, 3][..],
            &[7; 32],
            &[1, 9],
            &sized(&[0x13, 1]),
            &[1, 0],
            &extensions,
        ]
        .concat();
        let handshake = [&[1, 0][..], &sized(&body)].concat();
        [&[22, 3, 1][..], &sized(&handshake)].concat()
    }

    #[test]
    fn only_a_client_that_asks_for_ocsp_is_asked() {
        let asks = hello(&[0, 5, 0, 5, 1, 0, 0, 0, 0]);
        assert!(is_asked(&asks));
        assert!(!is_asked(&hello(&[0, 5, 0, 1, 2])));
        assert!(!is_asked(&hello(&[0, 10, 0, 0])));
        for length in 0..asks.len() {
            assert!(!is_asked(&asks[..length]));
        }
    }
}
