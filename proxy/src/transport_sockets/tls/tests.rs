//! Handshakes between our own two sides, through pipes in memory.

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use rcgen::{CertificateParams, KeyPair};

use crate::config::{ConfigPath, ConfigReport};
use crate::secrets::TlsCertificate;

fn inline(text: String) -> Option<core::DataSource> {
    Some(core::DataSource {
        watched_directory: None,
        specifier: Some(core::data_source::Specifier::InlineString(text)),
    })
}

/// A certificate of our own for these names, signed by itself.
pub(super) fn certificate(names: &[&str]) -> TlsCertificate {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names)
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let proto = pb::TlsCertificate {
        certificate_chain: inline(certificate.pem()),
        private_key: inline(key.serialize_pem()),
        ..Default::default()
    };
    let report = ConfigReport::new();
    TlsCertificate::from_proto(proto, &ConfigPath::root(&report, "c")).unwrap()
}
