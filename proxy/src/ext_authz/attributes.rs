//! The parts of an `AttributeContext` that say who calls whom.

use std::collections::HashMap;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::service::auth::v3::attribute_context::{Peer, TlsSession};
use serde_json::Value;

use crate::config::json_to_struct;
use crate::net::Address;
use crate::server::LocalInfo;
use crate::stream_info::{ConnectionInfo, DynamicMetadata};
use crate::x509::{Certificate, SubjectAltName, url_encoded};

/// The client, with its certificate if that is asked for; `service` is what it calls itself.
pub fn source(connection: &ConnectionInfo, with_certificate: bool, service: &str) -> Peer {
    let certificate = connection.tls.get().and_then(|tls| tls.peer());
    let mut peer = peer(&connection.remote_address, certificate.map(|c| &**c));
    service.clone_into(&mut peer.service);
    if let (true, Some(certificate)) = (with_certificate, certificate) {
        peer.certificate = url_encoded(&certificate.pem());
    }
    peer
}

/// This proxy.
pub fn destination(connection: &ConnectionInfo, labels: &HashMap<String, String>) -> Peer {
    let tls = connection.tls.get();
    let certificate = tls.and_then(|tls| tls.local.as_deref());
    Peer {
        labels: labels.clone(),
        ..peer(&connection.local_address, certificate)
    }
}

fn peer(address: &Address, certificate: Option<&Certificate>) -> Peer {
    Peer {
        address: Some(address.to_proto()),
        principal: certificate.map(principal).unwrap_or_default(),
        ..Peer::default()
    }
}

/// The first URI of a certificate; failing that its first DNS name, and then its subject.
fn principal(certificate: &Certificate) -> String {
    let uri = certificate.names(SubjectAltName::as_uri).next();
    let name = uri.or_else(|| certificate.names(SubjectAltName::as_dns).next());
    name.unwrap_or(&certificate.subject).to_owned()
}

/// What the client asked for in its ClientHello.
pub fn tls_session(connection: &ConnectionInfo) -> TlsSession {
    let name = connection.requested_server_name.as_deref();
    TlsSession {
        sni: name.unwrap_or_default().to_owned(),
    }
}

/// The texts in the object `key` of the node's metadata; what is no text is empty.
pub fn labels(local_info: &LocalInfo, key: &str) -> HashMap<String, String> {
    let labels = local_info.metadata.get(key).and_then(Value::as_object);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    labels
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), text(value)))
        .collect()
}

/// The namespaces as the first of `sources` has them.
pub fn metadata_context(namespaces: &[Box<str>], sources: &[&DynamicMetadata]) -> core::Metadata {
    let found = namespaces.iter().filter_map(|namespace| {
        let values = sources.iter().find_map(|source| source.get(namespace))?;
        Some((namespace.to_string(), json_to_struct(values)))
    });
    core::Metadata {
        filter_metadata: found.collect(),
        ..core::Metadata::default()
    }
}

/// Bytes as a text: an exclamation mark stands for each byte that is not UTF-8.
pub fn sanitized(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bytes_that_are_no_text_become_exclamation_marks() {
        assert_eq!(sanitized(b"a\xff\xfeb"), "a!!b");
        assert_eq!(sanitized("ä".as_bytes()), "ä");
        assert_eq!(sanitized("ä".as_bytes().split_at(1).0), "!");
    }

    #[test]
    fn a_namespace_is_that_of_the_first_who_has_it() {
        let metadata = |namespace: &str, value: u32| {
            let mut metadata = DynamicMetadata::default();
            let values = json!({"n": value});
            metadata.merge(namespace, values.as_object().unwrap().clone());
            metadata
        };
        let (first, second) = (metadata("a", 1), metadata("a", 2));
        let other = metadata("b", 3);
        let names = ["a".into(), "b".into(), "c".into()];
        let context = metadata_context(&names, &[&first, &second, &other]);
        let number = |name: &str| {
            let value = &context.filter_metadata[name].fields["n"];
            crate::config::json_value(value.kind.clone())
        };
        assert_eq!((number("a"), number("b")), (json!(1), json!(3)));
        assert_eq!(context.filter_metadata.len(), 2);
    }

    #[test]
    fn labels_are_the_texts_of_an_object() {
        let info = LocalInfo {
            metadata: json!({"labels": {"a": "b", "c": 1}, "other": 2})
                .as_object()
                .unwrap()
                .clone(),
            ..LocalInfo::default()
        };
        let found = labels(&info, "labels");
        assert_eq!(found.len(), 2);
        assert_eq!((found["a"].as_str(), found["c"].as_str()), ("b", ""));
        assert!(labels(&info, "other").is_empty());
        assert!(labels(&info, "").is_empty());
    }
}
