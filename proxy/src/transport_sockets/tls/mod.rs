//! `envoy.transport_sockets.tls`: TLS 1.2 and 1.3 on both sides of the proxy.
//! Type URLs: `envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext`,
//! `envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/security/ssl>
//! Stats: `ssl.{handshake,connection_error,session_reused,no_certificate,fail_verify_*,ocsp_staple_*}`, `ssl.ciphers.*`,
//! `ssl.curves.*`, `ssl.sigalgs.*`, `ssl.versions.*`, `ssl.certificate.*.expiration_unix_time_seconds`,
//! `{server,client}_ssl_socket_factory.*`.
//! Deviations: versions below TLS 1.2 do not exist; as a minimum they mean TLS 1.2, as a maximum they are refused.
//! Deviations: cipher suites and curves that rustls lacks (RSA key exchange, CBC, PSK, P-521) are left out of lists.
//! Deviations: the TLS session id is never shown, `signature_algorithms`, `compliance_policies`, PKCS#12, private key
//! providers, certificate providers, signed certificate timestamps, and custom validators other than that for SPIFFE are
//! refused.
//! Deviations: the group (curve) of a handshake of TLS 1.2 is not told where the session is resumed or the handshake fails.
//! Deviations: `ssl.sigalgs.*` does not count resumed sessions, whose peers sign nothing.
//! Deviations: upstream sessions are resumed also with `auto_san_validation`; the names are checked again. Envoy then makes new ones.
//! Deviations: `key_log` with address ranges is refused.
//! Deviations: within a group in brackets of the cipher list, ours is the order of TLS 1.2, not the client's.
//! Deviations: alerts are those of rustls once a ClientHello came: a client without a certificate gets `certificate_required` with
//! TLS 1.2 as well.
//! Deviations: a client whose key is not for signatures is refused for that with TLS 1.2 as well, before its chain is looked at.
//! Deviations: where a handshake of TLS 1.3 fails for want of a common group, its cipher suite is not told.
//! Deviations: a certificate pinned by `verify_certificate_hash` or `_spki` that is another one is refused with the alert
//! `bad_certificate`, not `bad_certificate_hash_value`.

mod client;
mod context;
mod failure;
pub mod fuzzing;
mod key_log;
mod parameters;
mod select;
mod server;
mod staple;
mod stats;
mod stream;
#[cfg(test)]
mod tests;
mod tickets;
mod verify;

pub use self::verify::SanMatcher;

use std::sync::Arc;

use super::{DownstreamSocket, TransportSocketFactory, UpstreamSocket};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::server::FactoryContext;

/// Makes TLS contexts.
pub struct Factory;

impl TransportSocketFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.transport_sockets.tls"
    }

    fn downstream_type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"]
    }

    fn upstream_type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"]
    }

    fn downstream(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Arc<dyn DownstreamSocket>>, Rejected> {
        let tls = server::DownstreamTls::from_proto(config.decode(path)?, cx, path)?;
        Ok(Some(tls))
    }

    fn upstream(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Arc<dyn UpstreamSocket>>, Rejected> {
        let tls = client::UpstreamTls::from_proto(config.decode(path)?, cx, path)?;
        Ok(Some(tls))
    }
}
