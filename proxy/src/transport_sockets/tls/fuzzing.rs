//! What fuzz targets reach of TLS: the judgement of certificates, and our own look into a ClientHello.

use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;

use super::staple;
use super::verify;
use crate::config::{ConfigPath, ConfigReport};
use crate::x509::Certificate;

/// Whether a certificate has a name that the matcher takes. None: the matcher is refused.
pub fn has_name(certificate: &Certificate, matcher: pb::SubjectAltNameMatcher) -> Option<bool> {
    verify::has_name(certificate, matcher)
}

/// Judges a chain as that of a client, or of a server with this name: what is wrong with it, if anything is. The error lists what
/// is wrong with the context.
pub fn judge(
    context: pb::CertificateValidationContext,
    chain: &[&[u8]],
    server_name: Option<&str>,
) -> Result<Option<String>, Vec<String>> {
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "validation_context");
    verify::judge(context, chain, server_name, &path)
        .map_err(|_| report.take().iter().map(ToString::to_string).collect())
}

/// Whether the client that sent this ClientHello asks for an OCSP response.
pub fn asks_for_staple(hello: &[u8]) -> bool {
    staple::is_asked(hello)
}
