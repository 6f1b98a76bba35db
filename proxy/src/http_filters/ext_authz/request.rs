//! What the service is told about a request.

use std::collections::HashMap;
use std::time::SystemTime;

use bytes::Bytes;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::service::auth::v3 as auth;
use outrigger_proto::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};

use super::config::{BodySettings, Config};
use crate::config::timestamp;
use crate::ext_authz::{destination, metadata_context, sanitized, source, tls_session};
use crate::http::{Known, RequestHead};
use crate::matchers::StringMatcher;
use crate::stream_info::{DynamicMetadata, StreamInfo};

/// Which fields of a request a service may see.
pub(super) struct VisibleFields {
    /// None: all, or only a few for a service that is asked by HTTP.
    pub(super) allowed: Option<Vec<StringMatcher>>,
    /// These in no case.
    pub(super) disallowed: Vec<StringMatcher>,
    /// Beside those that are allowed only the credentials and what makes a request: by HTTP.
    pub(super) few: bool,
}

/// The beginning of a body.
pub(super) struct ShownBody {
    pub(super) bytes: Vec<u8>,
    /// There is more of it already.
    pub(super) is_partial: bool,
}

/// Says to the service whether it sees all of the body that is there.
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

impl VisibleFields {
    fn shows(&self, name: &[u8]) -> bool {
        let listed = |list: &[StringMatcher]| list.iter().any(|matcher| matcher.matches(name));
        if listed(&self.disallowed) {
            return false;
        }
        match &self.allowed {
            Some(allowed) if listed(allowed) => true,
            _ if self.few => matches!(
                name,
                b"authorization" | b":method" | b":path" | b":authority"
            ),
            Some(_) => false,
            None => true,
        }
    }

    /// Hands over each field that may be seen, the pseudo fields first.
    pub(super) fn each<'a>(&self, head: &'a RequestHead, mut show: impl FnMut(&'a [u8], &'a [u8])) {
        let pseudo: [(&[u8], Option<&[u8]>); 4] = [
            (b":authority", head.authority()),
            (b":path", head.path()),
            (b":method", Some(head.method_bytes())),
            (b":scheme", head.scheme()),
        ];
        let pseudo = pseudo.into_iter();
        let pseudo = pseudo.filter_map(|(name, value)| Some((name, value?)));
        for (name, value) in pseudo.chain(head.fields.iter()) {
            if name != PARTIAL_BODY.as_bytes() && self.shows(name) {
                show(name, value);
            }
        }
    }

    /// The fields as they go on: each name once and as text, or as they came.
    pub(super) fn collect(
        &self,
        head: &RequestHead,
        body: Option<&ShownBody>,
        raw: bool,
    ) -> Vec<(String, Vec<u8>)> {
        let mut fields: Vec<(String, Vec<u8>)> = Vec::new();
        self.each(head, |name, value| {
            let name = String::from_utf8_lossy(name).into_owned();
            if raw {
                fields.push((name, value.to_vec()));
                return;
            }
            let value = sanitized(value).into_bytes();
            match fields.iter_mut().find(|(known, _)| *known == name) {
                Some((_, joined)) => {
                    joined.push(b',');
                    joined.extend_from_slice(&value);
                }
                None => fields.push((name, value)),
            }
        });
        if let Some(body) = body {
            let partial = body.is_partial.to_string().into_bytes();
            fields.push((PARTIAL_BODY.to_owned(), partial));
        }
        fields
    }
}

impl ShownBody {
    pub(super) fn new(pieces: &[Bytes], settings: BodySettings) -> Self {
        let most = usize::try_from(settings.max_request_bytes).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        let mut is_partial = false;
        for piece in pieces {
            let taken = piece.len().min(most - bytes.len());
            bytes.extend_from_slice(&piece[..taken]);
            is_partial |= taken < piece.len();
        }
        Self { bytes, is_partial }
    }
}

/// The question for a service that is asked by gRPC.
pub(super) fn check_request(
    config: &Config,
    info: &StreamInfo,
    head: &RequestHead,
    body: Option<ShownBody>,
    context_extensions: HashMap<String, String>,
) -> auth::CheckRequest {
    let connection = &info.connection;
    let service = head.fields.get(Known::EnvoyDownstreamServiceCluster);
    let service = sanitized(service.unwrap_or_default());
    let certificate = config.include_peer_certificate;
    let of_connection = connection.dynamic_metadata.borrow();
    let route = info.route.as_ref();
    let of_route: Option<&DynamicMetadata> = route.and_then(|route| route.route().metadata());
    auth::CheckRequest {
        attributes: Some(auth::AttributeContext {
            source: Some(source(connection, certificate, &service)),
            destination: Some(destination(connection, &config.destination_labels)),
            request: Some(request(config, info, head, body)),
            context_extensions,
            metadata_context: Some(metadata_context(
                &config.metadata_context_namespaces,
                &[&info.dynamic_metadata, &of_connection],
            )),
            route_metadata_context: Some(metadata_context(
                &config.route_metadata_context_namespaces,
                of_route.as_slice(),
            )),
            tls_session: config.include_tls_session.then(|| tls_session(connection)),
        }),
    }
}

fn request(
    config: &Config,
    info: &StreamInfo,
    head: &RequestHead,
    body: Option<ShownBody>,
) -> Request {
    let text = |bytes: Option<&[u8]>| sanitized(bytes.unwrap_or_default());
    let raw = config.encode_raw_headers;
    let fields = config.visible.collect(head, body.as_ref(), raw);
    let mut http = HttpRequest {
        id: info.stream_id.to_string(),
        method: text(Some(head.method_bytes())),
        path: text(head.path()),
        host: text(head.authority()),
        scheme: text(head.scheme()),
        size: i64::try_from(info.bytes_received).unwrap_or(i64::MAX),
        protocol: info
            .protocol
            .map(|p| p.as_str().to_owned())
            .unwrap_or_default(),
        ..HttpRequest::default()
    };
    if raw {
        let headers = fields
            .into_iter()
            .map(|(key, raw_value)| core::HeaderValue {
                key,
                value: String::new(),
                raw_value,
            });
        http.header_map = Some(core::HeaderMap {
            headers: headers.collect(),
        });
    } else {
        let headers = fields.into_iter();
        http.headers = headers
            .map(|(name, value)| (name, sanitized(&value)))
            .collect();
    }
    match body {
        Some(body) if config.pack_as_bytes => http.raw_body = body.bytes,
        Some(body) => http.body = sanitized(&body.bytes),
        None => {}
    }
    Request {
        time: Some(timestamp(SystemTime::max(
            info.start_time,
            SystemTime::UNIX_EPOCH,
        ))),
        http: Some(http),
    }
}
