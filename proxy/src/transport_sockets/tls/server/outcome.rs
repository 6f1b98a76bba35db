//! What is known about a handshake that is over: the stats, and what logs and filters read.

use std::sync::Arc;

use rustls::{Connection, Error, HandshakeKind};

use super::super::parameters::{cipher_name, group_name, signature_name};
use super::super::stats::TlsStats;
use super::super::verify::{FailureStat, Report};
use crate::secrets::TlsCertificate;
use crate::stream_info::TlsConnectionInfo;

/// Counts why a handshake failed.
pub(in crate::transport_sockets::tls) fn count_failure(
    stats: &TlsStats,
    error: &Error,
    report: &Report,
) {
    let stats = &stats.ssl;
    match (&report.verdict.failure, error) {
        (Some(failed), _) => match failed.stat {
            FailureStat::Error => stats.fail_verify_error().inc(),
            FailureStat::San => stats.fail_verify_san().inc(),
            FailureStat::CertHash => stats.fail_verify_cert_hash().inc(),
            FailureStat::KeyUsage => stats.connection_error().inc(),
        },
        (None, Error::NoCertificatesPresented) => stats.fail_verify_no_cert().inc(),
        _ => stats.connection_error().inc(),
    }
}

/// Counts a handshake and says what it agreed on.
pub(in crate::transport_sockets::tls) fn tls_info(
    connection: &Connection,
    report: Report,
    stats: &TlsStats,
    certificate: Option<&Arc<TlsCertificate>>,
) -> TlsConnectionInfo {
    let mut tls = TlsConnectionInfo::new();
    tls.version = connection.protocol_version().and_then(version_name);
    tls.cipher = connection
        .negotiated_cipher_suite()
        .map(|suite| cipher_name(suite.suite()));
    tls.group = connection
        .negotiated_key_exchange_group()
        .map(|group| group_name(group.name()));
    tls.alpn = connection.alpn_protocol().map(Into::into);
    tls.local = certificate.map(|certificate| certificate.leaf.clone());
    let chain = connection.peer_certificates().unwrap_or_default();
    tls.peer_chain = chain.iter().map(|der| der.as_ref().into()).collect();
    tls.peer_validated = report.verdict.validated;
    tls.verified_chain = report.verdict.chain;
    stats.ssl.handshake().inc();
    if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
        stats.ssl.session_reused().inc();
    }
    if tls.peer_chain.is_empty() {
        stats.ssl.no_certificate().inc();
    }
    for (kind, name) in [
        ("versions", tls.version),
        ("ciphers", tls.cipher),
        ("curves", tls.group),
        ("sigalgs", report.scheme.map(signature_name)),
    ] {
        if let Some(name) = name {
            stats.count(kind, name);
        }
    }
    tls
}

pub(super) fn version_name(version: rustls::ProtocolVersion) -> Option<&'static str> {
    match version {
        rustls::ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
        rustls::ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
        _ => None,
    }
}
