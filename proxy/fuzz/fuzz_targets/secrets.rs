//! A secret: certificate chain, key, password and OCSP response, with zero bytes between them; the same as authorities with a
//! revocation list, and as keys of tickets; or, behind a zero byte, an encoded message. What is refused has a reason, and no
//! reason shows the key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outrigger::config::{ConfigPath, ConfigReport};
use outrigger::secrets::{OcspResponse, TlsCertificate};
use outrigger::transport_sockets::tls::fuzzing::{asks_for_staple, judge};
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use core::data_source::Specifier;
use prost::Message;

fuzz_target!(|bytes: &[u8]| {
    let _ = asks_for_staple(bytes);
    let _ = OcspResponse::from_der(bytes);
    if let [0, rest @ ..] = bytes {
        let Ok(secret) = pb::Secret::decode(rest) else {
            return;
        };
        match secret.r#type {
            Some(pb::secret::Type::TlsCertificate(proto)) if inline(&proto) => certificate(proto),
            Some(pb::secret::Type::ValidationContext(proto)) if proto.encoded_len() < 4096 => {
                let files = [&proto.trusted_ca, &proto.crl];
                let named = files.iter().any(|source| source.as_ref().is_some_and(|source| !is_inline(source)));
                if !named && proto.system_root_certs.is_none() && proto.custom_validator_config.is_none() {
                    refused(judge(proto, &[], None).err());
                }
            }
            _ => {}
        }
        return;
    }
    let mut parts = bytes.split(|byte| *byte == 0).map(|part| Some(source(part.to_vec())));
    let [chain, key, password, staple] = std::array::from_fn(|_| parts.next().flatten());
    let context = pb::CertificateValidationContext {
        trusted_ca: chain.clone(),
        crl: key.clone(),
        ..Default::default()
    };
    refused(judge(context, &[bytes], None).err());
    certificate(pb::TlsCertificate {
        certificate_chain: chain,
        private_key: key,
        password: password.filter(|source| *source != self::source(Vec::new())),
        ocsp_staple: staple,
        ..Default::default()
    });
});

fn source(bytes: Vec<u8>) -> core::DataSource {
    core::DataSource {
        watched_directory: None,
        specifier: Some(Specifier::InlineBytes(bytes.into())),
    }
}

fn is_inline(source: &core::DataSource) -> bool {
    matches!(source.specifier, Some(Specifier::InlineBytes(_) | Specifier::InlineString(_)))
}

fn inline(proto: &pb::TlsCertificate) -> bool {
    let sources = [&proto.certificate_chain, &proto.private_key, &proto.password, &proto.ocsp_staple, &proto.pkcs12];
    sources.iter().all(|source| source.as_ref().is_none_or(is_inline))
}

fn refused(reasons: Option<Vec<String>>) {
    assert!(reasons.is_none_or(|reasons| !reasons.is_empty()), "a refusal without a reason");
}

fn certificate(proto: pb::TlsCertificate) {
    let key = match proto.private_key.as_ref().and_then(|key| key.specifier.clone()) {
        Some(Specifier::InlineBytes(bytes)) => bytes.to_vec(),
        Some(Specifier::InlineString(text)) => text.into_bytes(),
        _ => Vec::new(),
    };
    let report = ConfigReport::new();
    let path = ConfigPath::root(&report, "secret");
    if TlsCertificate::from_proto(proto, &path).is_ok() {
        return;
    }
    let reasons: Vec<_> = report.take().iter().map(ToString::to_string).collect();
    // A line of a key in PEM, which is longer than any word of ours.
    let lines = key.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    for line in lines.filter(|line| line.len() > 48 && !line.starts_with('-')) {
        assert!(!reasons.iter().any(|reason| reason.contains(line)), "the key is shown");
    }
    refused(Some(reasons));
}
