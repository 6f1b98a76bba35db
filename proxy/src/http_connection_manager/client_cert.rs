//! `x-forwarded-client-cert`: what becomes of a client's own, and what of its certificate is said in ours.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#x-forwarded-client-cert>

use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use pb::http_connection_manager::{
    ForwardClientCertDetails as PbForward, SetCurrentClientCertDetails,
};

use crate::config::{ConfigPath, Rejected};
use crate::http::{Fields, Known};
use crate::stream_info::{ConnectionInfo, TlsConnectionInfo};
use crate::x509::{SubjectAltName, pem, url_encoded};

/// `forward_client_cert_details` and `set_current_client_cert_details`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCertForwarding {
    /// What becomes of the header. Default: it is taken away.
    pub forward: ForwardClientCertDetails,
    /// What is said of the certificate, where `forward` says that anything is.
    pub details: ClientCertDetails,
}

/// `ForwardClientCertDetails`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardClientCertDetails {
    /// It is taken away.
    Sanitize,
    /// It passes on a connection with a certificate.
    ForwardOnly,
    /// The certificate of the connection is added to it.
    AppendForward,
    /// The certificate of the connection takes its place.
    SanitizeSet,
    /// It always passes.
    AlwaysForwardOnly,
}

/// `SetCurrentClientCertDetails`: which parts of a certificate are said beside `By` and `Hash`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of the API")]
pub struct ClientCertDetails {
    pub subject: bool,
    pub cert: bool,
    pub chain: bool,
    pub dns: bool,
    pub uri: bool,
    pub issuer: bool,
}

impl ClientCertForwarding {
    /// Converts both fields.
    pub(super) fn from_proto(
        forward: i32,
        details: Option<SetCurrentClientCertDetails>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let forward = path.enumeration::<PbForward>("forward_client_cert_details", forward)?;
        let SetCurrentClientCertDetails {
            subject,
            cert,
            chain,
            dns,
            uri,
            issuer,
            format,
        } = details.unwrap_or_default();
        path.field("set_current_client_cert_details")
            .unsupported_if_set("format", format)?;
        Ok(Self {
            forward: match forward {
                PbForward::Sanitize => ForwardClientCertDetails::Sanitize,
                PbForward::ForwardOnly => ForwardClientCertDetails::ForwardOnly,
                PbForward::AppendForward => ForwardClientCertDetails::AppendForward,
                PbForward::SanitizeSet => ForwardClientCertDetails::SanitizeSet,
                PbForward::AlwaysForwardOnly => ForwardClientCertDetails::AlwaysForwardOnly,
            },
            details: ClientCertDetails {
                subject: subject.is_some_and(|v| v.value),
                cert,
                chain,
                dns,
                uri,
                issuer,
            },
        })
    }

    /// Does with the header what is configured, for a request on this connection.
    pub(super) fn apply(&self, fields: &mut Fields, connection: &ConnectionInfo) {
        use ForwardClientCertDetails::{
            AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet,
        };
        let tls = connection
            .tls
            .get()
            .filter(|tls| !tls.peer_chain.is_empty());
        match (self.forward, tls) {
            (AlwaysForwardOnly, _) | (ForwardOnly, Some(_)) => {}
            (Sanitize, _) | (_, None) => {
                fields.remove(Known::ForwardedClientCert);
            }
            (AppendForward, Some(tls)) => {
                let element = self.element(tls);
                fields.append_to(Known::ForwardedClientCert, b",", element.as_bytes());
            }
            (SanitizeSet, Some(tls)) => {
                fields.set(Known::ForwardedClientCert, self.element(tls).as_bytes());
            }
        }
    }

    /// What is said of the certificate of a connection.
    fn element(&self, tls: &TlsConnectionInfo) -> String {
        let mut parts = Vec::new();
        let own = tls.local.as_ref();
        if let Some(by) = own.and_then(|own| own.names(SubjectAltName::as_uri).next()) {
            parts.push(format!("By={by}"));
        }
        let Some(peer) = tls.peer() else {
            return parts.join(";");
        };
        parts.push(format!("Hash={}", peer.fingerprint_256()));
        let details = &self.details;
        if details.cert {
            parts.push(format!("Cert=\"{}\"", url_encoded(&peer.pem())));
        }
        if details.chain {
            let chain: String = tls.peer_chain.iter().map(|der| pem(der)).collect();
            parts.push(format!("Chain=\"{}\"", url_encoded(&chain)));
        }
        if details.subject {
            parts.push(format!("Subject=\"{}\"", peer.subject));
        }
        if details.uri {
            let before = parts.len();
            parts.extend(
                peer.names(SubjectAltName::as_uri)
                    .map(|uri| format!("URI={uri}")),
            );
            if parts.len() == before {
                parts.push("URI=".to_owned());
            }
        }
        if details.dns {
            parts.extend(
                peer.names(SubjectAltName::as_dns)
                    .map(|dns| format!("DNS={dns}")),
            );
        }
        if details.issuer {
            parts.push(format!("Issuer=\"{}\"", peer.issuer));
        }
        parts.join(";")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_certificate_only_always_forward_only_passes() {
        use ForwardClientCertDetails::*;
        for (forward, kept) in [
            (Sanitize, false),
            (ForwardOnly, false),
            (AppendForward, false),
            (SanitizeSet, false),
            (AlwaysForwardOnly, true),
        ] {
            let mut fields = Fields::new();
            fields.append(Known::ForwardedClientCert, "By=a");
            let forwarding = ClientCertForwarding {
                forward,
                details: ClientCertDetails::default(),
            };
            let address = crate::net::Address::Pipe("@a".into());
            let plain = ConnectionInfo::between(address.clone(), address);
            forwarding.apply(&mut fields, &plain);
            assert_eq!(
                fields.contains(Known::ForwardedClientCert),
                kept,
                "{forward:?}"
            );
        }
    }
}
