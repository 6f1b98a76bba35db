//! `x-forwarded-client-cert`: what becomes of a client's own, and what of its certificate is said in ours.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#x-forwarded-client-cert>

use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use outrigger_proto::pb::xds::r#type::matcher::v3::Matcher as PbMatcher;
use pb::http_connection_manager::{
    ForwardClientCertConfig, ForwardClientCertDetails as PbForward,
    ForwardClientCertFormat as PbFormat, SetCurrentClientCertDetails,
};
use serde::Serialize;

use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{Fields, Known, RequestHead};
use crate::matchers::{Matcher, MatchingData};
use crate::server::FactoryContext;
use crate::stream_info::{ConnectionInfo, StreamInfo, TlsConnectionInfo};
use crate::x509::{SubjectAltName, pem, url_encoded};

/// What becomes of the header, request by request.
#[derive(Debug)]
pub struct ClientCertPolicy {
    /// `forward_client_cert_matcher`.
    matcher: Option<Matcher<ClientCertForwarding>>,
    /// For requests for which the matcher has nothing.
    otherwise: ClientCertForwarding,
}

/// The fields of `HttpConnectionManager` that say what becomes of the header.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names of the API")]
pub struct ClientCertFields {
    pub forward_client_cert_details: i32,
    pub set_current_client_cert_details: Option<SetCurrentClientCertDetails>,
    pub forward_client_cert_matcher: Option<PbMatcher>,
}

/// `forward_client_cert_details` and `set_current_client_cert_details`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCertForwarding {
    /// What becomes of the header. Default: it is taken away.
    pub forward: ForwardClientCertDetails,
    /// What is said of the certificate, where `forward` says that anything is.
    pub details: ClientCertDetails,
    /// How it is said, where the client says nothing itself: else as the client does.
    pub format: ClientCertFormat,
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

/// `ForwardClientCertFormat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientCertFormat {
    /// `Key=value`, with semicolons between, and commas between certificates.
    #[default]
    Text,
    /// An array with an object for each certificate.
    Json,
}

/// What is said of a certificate in JSON.
#[derive(Debug, Default, Serialize)]
struct Element<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    by: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    chain: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uri: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dns: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<&'a str>,
}

impl ClientCertPolicy {
    /// Converts the fields.
    pub(super) fn from_proto(
        fields: ClientCertFields,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let ClientCertFields {
            forward_client_cert_details,
            set_current_client_cert_details,
            forward_client_cert_matcher,
        } = fields;
        let otherwise = ClientCertForwarding::from_proto(
            forward_client_cert_details,
            set_current_client_cert_details,
            path,
        );
        let matcher = path.optional(
            "forward_client_cert_matcher",
            forward_client_cert_matcher,
            |matcher, path| {
                Matcher::from_proto(matcher, cx, path, |config, path| {
                    ClientCertForwarding::of_action(&config, path)
                })
            },
        );
        Ok(Self {
            matcher: matcher?,
            otherwise: otherwise?,
        })
    }

    /// Does with the header what is configured for this request.
    pub(super) fn apply(&self, head: &mut RequestHead, info: &StreamInfo) {
        let found = self.matcher.as_ref().and_then(|matcher| {
            matcher.find(&MatchingData {
                connection: &info.connection,
                info: Some(info),
                request: Some(head),
                response: None,
            })
        });
        let forwarding = *found.unwrap_or(&self.otherwise);
        forwarding.apply(&mut head.fields, &info.connection);
    }
}

impl ClientCertForwarding {
    /// An action of the matcher.
    fn of_action(config: &TypedConfig, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        const NAME: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.ForwardClientCertConfig";
        if &*config.type_name != NAME {
            return Err(config.unknown(path, &[NAME]));
        }
        let ForwardClientCertConfig {
            forward_client_cert_details,
            set_current_client_cert_details,
        } = config.decode(path)?;
        Self::from_proto(
            forward_client_cert_details,
            set_current_client_cert_details,
            path,
        )
    }

    fn from_proto(
        forward: i32,
        details: Option<SetCurrentClientCertDetails>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let forward = path.enumeration::<PbForward>("forward_client_cert_details", forward);
        let SetCurrentClientCertDetails {
            subject,
            cert,
            chain,
            dns,
            uri,
            issuer,
            format,
        } = details.unwrap_or_default();
        let format = path
            .field("set_current_client_cert_details")
            .enumeration::<PbFormat>("format", format);
        Ok(Self {
            forward: match forward? {
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
            format: match format? {
                PbFormat::Text => ClientCertFormat::Text,
                PbFormat::Json => ClientCertFormat::Json,
            },
        })
    }

    /// Does with the header what is configured, for a request on this connection.
    fn apply(&self, fields: &mut Fields, connection: &ConnectionInfo) {
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
            (AppendForward, Some(tls)) => self.append(fields, tls),
            (SanitizeSet, Some(tls)) => {
                let value = match self.format {
                    ClientCertFormat::Text => self.text(tls),
                    ClientCertFormat::Json => format!("[{}]", self.json(tls)),
                };
                fields.set(Known::ForwardedClientCert, value.as_bytes());
            }
        }
    }

    /// Adds the certificate in the format of what is there.
    fn append(&self, fields: &mut Fields, tls: &TlsConnectionInfo) {
        let there = fields.get(Known::ForwardedClientCert).unwrap_or_default();
        let value = match (there, self.format) {
            ([], ClientCertFormat::Json) => format!("[{}]", self.json(tls)).into_bytes(),
            ([b'[', others @ .., b']'], _) => {
                let comma = if others.trim_ascii().is_empty() {
                    ""
                } else {
                    ","
                };
                let json = self.json(tls);
                [b"[", others, comma.as_bytes(), json.as_bytes(), b"]"].concat()
            }
            _ => {
                let text = self.text(tls);
                return fields.append_to(Known::ForwardedClientCert, b",", text.as_bytes());
            }
        };
        fields.set(Known::ForwardedClientCert, value);
    }

    /// What is said of the certificate of a connection.
    fn text(&self, tls: &TlsConnectionInfo) -> String {
        let own = tls.local.iter();
        let mut parts: Vec<_> = own
            .flat_map(|own| own.names(SubjectAltName::as_uri))
            .map(|uri| format!("By={uri}"))
            .collect();
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

    /// The same as an object of JSON.
    fn json(&self, tls: &TlsConnectionInfo) -> String {
        let own = tls.local.iter();
        let mut element = Element {
            by: own
                .flat_map(|own| own.names(SubjectAltName::as_uri))
                .collect(),
            ..Element::default()
        };
        if let Some(peer) = tls.peer() {
            let details = &self.details;
            element.hash = Some(peer.fingerprint_256());
            element.cert = details.cert.then(|| peer.pem());
            if details.chain {
                element.chain = tls.peer_chain.iter().map(|der| pem(der)).collect();
            }
            element.subject = details.subject.then_some(&*peer.subject);
            if details.uri {
                element.uri = peer.names(SubjectAltName::as_uri).collect();
            }
            if details.dns {
                element.dns = peer.names(SubjectAltName::as_dns).collect();
            }
            element.issuer = details.issuer.then_some(&*peer.issuer);
        }
        serde_json::to_string(&element).expect("it holds nothing but texts")
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
                format: ClientCertFormat::Text,
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
