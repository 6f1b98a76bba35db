//! What a matcher looks at.

use std::borrow::Cow;
use std::net::IpAddr;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::matching::common_inputs::network::v3 as network;
use outrigger_proto::pb::envoy::r#type::matcher::v3 as http;
use outrigger_proto::pb::xds::core::v3::TypedExtensionConfig;
use serde_json::Value;

use super::extension;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{HeaderName, RequestHead, ResponseHead};
use crate::matchers::{HeaderKey, HeaderSource, first_query_value};
use crate::stream_info::{ConnectionInfo, StreamInfo};
use crate::x509::SubjectAltName;

/// What is known when a matcher is asked.
#[derive(Debug, Clone, Copy)]
pub struct MatchingData<'a> {
    /// The connection.
    pub connection: &'a ConnectionInfo,
    /// The stream; none: there is only a connection yet.
    pub info: Option<&'a StreamInfo>,
    /// The request.
    pub request: Option<&'a RequestHead>,
    /// The response.
    pub response: Option<&'a ResponseHead>,
}

/// One thing that is looked at.
#[derive(Debug, PartialEq)]
pub(super) enum Input {
    /// All that an expression may ask.
    Attributes,
    RequestHeader(HeaderKey),
    ResponseHeader(HeaderKey),
    QueryParameter(Box<[u8]>),
    Status,
    StatusClass,
    SourceIp,
    SourcePort,
    DirectSourceIp,
    /// `local`, or nothing.
    SourceType,
    DestinationIp,
    DestinationPort,
    ServerName,
    TransportProtocol,
    ApplicationProtocol,
    FilterState(Box<str>),
    Metadata(Box<str>, Box<[Box<str>]>),
    /// The names of this kind in the certificate of the peer.
    PeerUris,
    PeerDnsNames,
    PeerSubject,
}

/// One of the things that matchers look at, for others that want to see it.
#[derive(Debug)]
pub struct DataInput(Input);

impl DataInput {
    /// Converts the extension that chooses it.
    pub fn from_proto(
        proto: core::TypedExtensionConfig,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let core::TypedExtensionConfig { name, typed_config } = proto;
        Input::from_proto(TypedExtensionConfig { name, typed_config }, path).map(Self)
    }

    /// What is there, as text; none: nothing.
    pub fn text<'a>(&'a self, data: &MatchingData<'a>) -> Option<Cow<'a, [u8]>> {
        self.0.text(data)
    }
}

const ATTRIBUTES: &str = "xds.type.matcher.v3.HttpAttributesCelMatchInput";
const NETWORK: &str = "envoy.extensions.matching.common_inputs.network.v3.";
const SSL: &str = "envoy.extensions.matching.common_inputs.ssl.v3.";
const HTTP: &str = "envoy.type.matcher.v3.";

impl Input {
    pub(super) fn from_proto(
        proto: TypedExtensionConfig,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let config = extension(proto, path)?;
        let path = path.field("typed_config");
        let name = &*config.type_name;
        if name == ATTRIBUTES {
            return Ok(Self::Attributes);
        }
        if let Some(name) = name.strip_prefix(NETWORK) {
            Self::network(name, &config, &path)
        } else if let Some(name) = name.strip_prefix(HTTP) {
            Self::http(name, &config, &path)
        } else if let Some(name) = name.strip_prefix(SSL) {
            // Messages without fields.
            match name {
                "UriSanInput" => Ok(Self::PeerUris),
                "DnsSanInput" => Ok(Self::PeerDnsNames),
                "SubjectInput" => Ok(Self::PeerSubject),
                _ => Err(config.unknown(&path, SUPPORTED)),
            }
        } else {
            Err(config.unknown(&path, SUPPORTED))
        }
    }

    /// Whether it is part of a request or a response.
    pub(super) fn needs_request(&self) -> bool {
        matches!(
            self,
            Self::Attributes
                | Self::RequestHeader(_)
                | Self::ResponseHeader(_)
                | Self::QueryParameter(_)
                | Self::Status
                | Self::StatusClass
        )
    }

    fn http(name: &str, config: &TypedConfig, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        match name {
            "HttpRequestHeaderMatchInput" => {
                let http::HttpRequestHeaderMatchInput { header_name } = config.decode(path)?;
                let name = path.non_empty("header_name", header_name)?;
                Ok(Self::RequestHeader(HeaderKey::new(&name)))
            }
            "HttpResponseHeaderMatchInput" => {
                let http::HttpResponseHeaderMatchInput { header_name } = config.decode(path)?;
                let name = path.non_empty("header_name", header_name)?;
                Ok(Self::ResponseHeader(HeaderKey::new(&name)))
            }
            "HttpRequestQueryParamMatchInput" => {
                let http::HttpRequestQueryParamMatchInput { query_param } = config.decode(path)?;
                let name = path.non_empty("query_param", query_param)?;
                Ok(Self::QueryParameter(name.into_bytes().into()))
            }
            "HttpResponseStatusCodeMatchInput" => {
                let http::HttpResponseStatusCodeMatchInput {} = config.decode(path)?;
                Ok(Self::Status)
            }
            "HttpResponseStatusCodeClassMatchInput" => {
                let http::HttpResponseStatusCodeClassMatchInput {} = config.decode(path)?;
                Ok(Self::StatusClass)
            }
            _ => Err(config.unknown(path, SUPPORTED)),
        }
    }

    fn network(name: &str, config: &TypedConfig, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        use network::dynamic_metadata_input::{PathSegment, path_segment::Segment};
        match name {
            "FilterStateInput" => {
                let network::FilterStateInput { key, field } = config.decode(path)?;
                path.unsupported_if_set("field", field)?;
                Ok(Self::FilterState(path.non_empty("key", key)?.into()))
            }
            "DynamicMetadataInput" => {
                let network::DynamicMetadataInput { filter, path: keys } = config.decode(path)?;
                let keys = path.each("path", keys, |PathSegment { segment }, path| {
                    let Some(Segment::Key(key)) = segment else {
                        return Err(path.field("key").reject("is required"));
                    };
                    path.non_empty("key", key).map(Into::into)
                });
                let filter = path.non_empty("filter", filter)?;
                Ok(Self::Metadata(filter.into(), keys?.into()))
            }
            // The others are messages without fields.
            "SourceIPInput" => Ok(Self::SourceIp),
            "SourcePortInput" => Ok(Self::SourcePort),
            "DirectSourceIPInput" => Ok(Self::DirectSourceIp),
            "SourceTypeInput" => Ok(Self::SourceType),
            "DestinationIPInput" => Ok(Self::DestinationIp),
            "DestinationPortInput" => Ok(Self::DestinationPort),
            "ServerNameInput" => Ok(Self::ServerName),
            "TransportProtocolInput" => Ok(Self::TransportProtocol),
            "ApplicationProtocolInput" => Ok(Self::ApplicationProtocol),
            _ => Err(config.unknown(path, SUPPORTED)),
        }
    }

    /// What is there, as text; none: nothing.
    pub(super) fn text<'a>(&'a self, data: &MatchingData<'a>) -> Option<Cow<'a, [u8]>> {
        let owned = |text: String| Cow::Owned(text.into_bytes());
        let connection = data.connection;
        match self {
            Self::Attributes => None,
            Self::RequestHeader(key) => header(data.request?, key),
            Self::ResponseHeader(key) => header(data.response?, key),
            Self::QueryParameter(name) => {
                first_query_value(data.request?.path()?, name).map(Cow::Borrowed)
            }
            Self::Status => Some(owned(data.response?.status.to_string())),
            Self::StatusClass => Some(owned(format!("{}xx", data.response?.status / 100))),
            Self::SourcePort | Self::DestinationPort => {
                let address = match self {
                    Self::SourcePort => connection.remote_address.port(),
                    _ => connection.local_address.port(),
                };
                address.map(|port| owned(port.to_string()))
            }
            Self::SourceIp | Self::DirectSourceIp | Self::DestinationIp => {
                self.ip(data).map(|ip| owned(ip.to_string()))
            }
            Self::SourceType => {
                let ip = connection.remote_address.ip()?;
                (ip.is_loopback() || Some(ip) == connection.local_address.ip())
                    .then_some(Cow::Borrowed(b"local"))
            }
            Self::ServerName => {
                let name = connection.requested_server_name.as_deref()?;
                Some(name.as_bytes().into())
            }
            Self::TransportProtocol => Some(connection.transport_protocol?.as_bytes().into()),
            Self::ApplicationProtocol => {
                let quoted = connection
                    .application_protocols
                    .iter()
                    .map(|protocol| format!("'{}'", String::from_utf8_lossy(protocol)));
                let all = quoted.collect::<Vec<_>>().join(",");
                (!all.is_empty()).then(|| owned(all))
            }
            Self::FilterState(key) => filter_state(data, key).map(owned),
            Self::PeerUris => peer_names(connection, SubjectAltName::as_uri).map(owned),
            Self::PeerDnsNames => peer_names(connection, SubjectAltName::as_dns).map(owned),
            Self::PeerSubject => {
                let subject = &connection.tls.get()?.peer()?.subject;
                (!subject.is_empty()).then(|| owned(subject.to_string()))
            }
            Self::Metadata(..) => match self.value(data)? {
                Value::String(text) => Some(text.as_bytes().into()),
                other => Some(owned(other.to_string())),
            },
        }
    }

    /// The address that it stands for, if it is one.
    pub(super) fn ip(&self, data: &MatchingData<'_>) -> Option<IpAddr> {
        let connection = data.connection;
        match self {
            Self::SourceIp => match data.info {
                Some(info) => info.remote_address().ip(),
                None => connection.remote_address.ip(),
            },
            Self::DirectSourceIp => connection.direct_remote_address.ip(),
            Self::DestinationIp => connection.local_address.ip(),
            _ => std::str::from_utf8(&self.text(data)?).ok()?.parse().ok(),
        }
    }

    /// The metadata that it stands for.
    pub(super) fn value<'a>(&self, data: &MatchingData<'a>) -> Option<&'a Value> {
        let Self::Metadata(namespace, keys) = self else {
            return None;
        };
        let metadata = &data.info?.dynamic_metadata;
        metadata.value(namespace, keys.iter().map(|key| &**key))
    }
}

/// The names of one kind in the certificate of the peer, joined by commas.
fn peer_names(
    connection: &ConnectionInfo,
    kind: fn(&SubjectAltName) -> Option<&str>,
) -> Option<String> {
    let names: Vec<_> = connection.tls.get()?.peer()?.names(kind).collect();
    (!names.is_empty()).then(|| names.join(","))
}

/// All values of a header, joined by commas.
fn header<'a>(head: &'a impl HeaderSource, key: &HeaderKey) -> Option<Cow<'a, [u8]>> {
    let HeaderKey::Field(name) = key else {
        return head.first(key);
    };
    let first = head.first(key)?;
    if head.fields().get_all(name).nth(1).is_none() {
        return Some(first);
    }
    Some(Cow::Owned(joined(head, name)))
}

fn joined(head: &impl HeaderSource, name: &HeaderName) -> Vec<u8> {
    let values: Vec<_> = head.fields().get_all(name).collect();
    values.join(&b","[..])
}

fn filter_state(data: &MatchingData<'_>, key: &str) -> Option<String> {
    let of_stream = data.info.and_then(|info| info.filter_state.get(key));
    if let Some(object) = of_stream {
        return object.serialize_as_string();
    }
    data.connection
        .filter_state
        .borrow()
        .get(key)?
        .serialize_as_string()
}

const SUPPORTED: &[&str] = &[
    ATTRIBUTES,
    "envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
    "envoy.type.matcher.v3.HttpRequestQueryParamMatchInput",
    "envoy.type.matcher.v3.HttpResponseHeaderMatchInput",
    "envoy.type.matcher.v3.HttpResponseStatusCodeMatchInput",
    "envoy.type.matcher.v3.HttpResponseStatusCodeClassMatchInput",
    "envoy.extensions.matching.common_inputs.network.v3.*Input",
    "envoy.extensions.matching.common_inputs.ssl.v3.*Input",
];
