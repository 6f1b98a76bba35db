//! What requests are given, and what is refused.

use outrigger_proto::pb::envoy::extensions::http::injected_credentials::generic::v3::Generic;
use outrigger_proto::pb::envoy::extensions::transport_sockets::tls::v3::SdsSecretConfig;

use super::super::test_support::{any, errors};
use super::*;

fn generic(name: &str) -> pb::CredentialInjector {
    pb::CredentialInjector {
        credential: Some(core::TypedExtensionConfig {
            name: "c".to_owned(),
            typed_config: Some(any(&Generic {
                credential: Some(SdsSecretConfig {
                    name: name.to_owned(),
                    sds_config: None,
                }),
                ..Generic::default()
            })),
        }),
        ..pb::CredentialInjector::default()
    }
}

fn secret(text: &str) -> tls::Secret {
    let source = core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(text.to_owned())),
        ..core::DataSource::default()
    };
    tls::Secret {
        r#type: Some(tls::secret::Type::GenericSecret(tls::GenericSecret {
            secret: Some(source),
            ..tls::GenericSecret::default()
        })),
        ..tls::Secret::default()
    }
}

#[test]
fn a_secret_that_nobody_has_is_named() {
    assert_eq!(
        errors(&generic("gone")),
        [
            "config / credential / typed_config / credential / name: \"gone\" is not the name of a static secret of this kind"
        ]
    );
}

#[test]
fn a_secret_is_its_text_and_another_kind_is_none() {
    assert_eq!(secret_text(&secret("abc")).unwrap(), b"abc");
    assert!(secret_text(&tls::Secret::default()).is_err());
}
