//! One action: a part of a descriptor, found in a request.

use std::borrow::Cow;

use outrigger_proto::pb::envoy::config::route::v3::rate_limit as pb;
use pb::action::meta_data::Source;

use super::super::cluster::ClusterTarget;
use super::render;
use crate::cel::{Activation, Expression};
use crate::formatter::Formatter;
use crate::http::RequestHead;
use crate::matchers::{
    CidrRanges, DataInput, HeaderKey, HeaderMatcher, HeaderSource, MatchingData, MetadataPath,
    QueryParameterMatcher, first_query_value,
};
use crate::net::CidrRange;
use crate::server::ServerContext;
use crate::stream_info::{DynamicMetadata, StreamInfo};

#[derive(Debug)]
pub(super) enum Action {
    SourceCluster,
    DestinationCluster,
    RemoteAddress,
    MaskedRemoteAddress {
        v4: u8,
        v6: u8,
    },
    Header {
        header: HeaderKey,
        key: Box<str>,
        skip_if_absent: bool,
    },
    Query {
        name: Box<str>,
        key: Box<str>,
        skip_if_absent: bool,
    },
    Generic {
        key: Box<str>,
        value: Box<str>,
    },
    HeaderMatch {
        key: Box<str>,
        value: Box<str>,
        expect: bool,
        headers: Box<[HeaderMatcher]>,
    },
    QueryMatch {
        key: Box<str>,
        value: Box<str>,
        expect: bool,
        parameters: Box<[QueryParameterMatcher]>,
    },
    Metadata {
        key: Box<str>,
        path: MetadataPath,
        source: Source,
        default: Box<str>,
        skip_if_absent: bool,
    },
    Input {
        key: Box<str>,
        input: DataInput,
    },
    Expression {
        key: Box<str>,
        expression: Box<Expression>,
        skip_if_error: bool,
    },
    AddressMatch {
        key: Box<str>,
        value: Formatter,
        default: Box<str>,
        ranges: CidrRanges,
        invert: bool,
    },
}

/// What an action makes of a request.
pub(super) enum Entry<'a> {
    Add(&'a str, Cow<'a, str>),
    /// The descriptor goes on without it.
    Skip,
    /// There is no descriptor.
    Fail,
}

impl<'a> Entry<'a> {
    fn missing(skip_if_absent: bool) -> Self {
        if skip_if_absent {
            Self::Skip
        } else {
            Self::Fail
        }
    }

    fn add_if(condition: bool, key: &'a str, value: &'a str) -> Self {
        if condition {
            Self::Add(key, Cow::Borrowed(value))
        } else {
            Self::Fail
        }
    }
}

impl Action {
    pub(super) fn entry<'a>(
        &'a self,
        head: &'a RequestHead,
        info: &'a StreamInfo,
        server: &'a ServerContext,
    ) -> Entry<'a> {
        match self {
            Self::SourceCluster => {
                Entry::Add("source_cluster", Cow::Borrowed(&server.local_info.cluster))
            }
            Self::DestinationCluster => destination(head, info, server)
                .map_or(Entry::Fail, |name| {
                    Entry::Add("destination_cluster", Cow::Owned(name))
                }),
            Self::RemoteAddress => match info.remote_address().ip() {
                Some(ip) => Entry::Add("remote_address", Cow::Owned(ip.to_string())),
                None => Entry::Fail,
            },
            Self::MaskedRemoteAddress { v4, v6 } => masked_address(info, *v4, *v6)
                .map_or(Entry::Fail, |network| {
                    Entry::Add("masked_remote_address", Cow::Owned(network))
                }),
            Self::Header {
                header,
                key,
                skip_if_absent,
            } => match head.first(header) {
                Some(value) => Entry::Add(key, into_text(value)),
                None => Entry::missing(*skip_if_absent),
            },
            Self::Query {
                name,
                key,
                skip_if_absent,
            } => match first_query_value(head.path().unwrap_or_default(), name.as_bytes()) {
                Some(value) => Entry::Add(key, String::from_utf8_lossy(value)),
                None => Entry::missing(*skip_if_absent),
            },
            Self::Generic { key, value } => Entry::add_if(true, key, value),
            Self::HeaderMatch {
                key,
                value,
                expect,
                headers,
            } => Entry::add_if(HeaderMatcher::all(headers, head) == *expect, key, value),
            Self::QueryMatch {
                key,
                value,
                expect,
                parameters,
            } => {
                let path = head.path().unwrap_or_default();
                let met = parameters.iter().all(|parameter| parameter.matches(path));
                Entry::add_if(met == *expect, key, value)
            }
            Self::Input { key, input } => input_entry(key, input, head, info),
            Self::Expression {
                key,
                expression,
                skip_if_error,
            } => match expression.evaluate(&Activation::of_request(info, head)) {
                None => Entry::missing(*skip_if_error),
                Some(value) => {
                    let text = value.print().into_owned();
                    Entry::Add(key, into_text(Cow::Owned(text)))
                }
            },
            Self::Metadata {
                key,
                path,
                source,
                default,
                skip_if_absent,
            } => match metadata_text(*source, path, default, info) {
                "" => Entry::missing(*skip_if_absent),
                value => Entry::Add(key, Cow::Borrowed(value)),
            },
            Self::AddressMatch {
                key,
                value,
                default,
                ranges,
                invert,
            } => {
                let inside = info
                    .remote_address()
                    .ip()
                    .is_some_and(|ip| ranges.contains(ip));
                let text = render(value, head, info);
                match (inside != *invert, text.is_empty(), default.is_empty()) {
                    (true, false, _) => Entry::Add(key, into_text(Cow::Owned(text))),
                    (true, true, false) => Entry::Add(key, Cow::Borrowed(default)),
                    _ => Entry::Fail,
                }
            }
        }
    }
}

fn input_entry<'a>(
    key: &'a str,
    input: &'a DataInput,
    head: &'a RequestHead,
    info: &'a StreamInfo,
) -> Entry<'a> {
    let data = MatchingData {
        connection: &info.connection,
        info: Some(info),
        request: Some(head),
        response: None,
    };
    // The data lives shorter than the entry, for which its text is copied.
    match input.text(&data) {
        None => Entry::Fail,
        Some(value) if value.is_empty() => Entry::Skip,
        Some(value) => Entry::Add(key, into_text(Cow::Owned(value.into_owned()))),
    }
}

/// The text at this place, or what stands in for it.
fn metadata_text<'a>(
    source: Source,
    path: &'a MetadataPath,
    default: &'a str,
    info: &'a StreamInfo,
) -> &'a str {
    metadata_of(source, info)
        .and_then(|metadata| path.find(metadata))
        .and_then(serde_json::Value::as_str)
        .filter(|text| !text.is_empty())
        .unwrap_or(default)
}

/// The metadata of this source, as far as it is known yet.
fn metadata_of(source: Source, info: &StreamInfo) -> Option<&DynamicMetadata> {
    match source {
        Source::Dynamic => Some(&info.dynamic_metadata),
        Source::RouteEntry => info.route.as_ref()?.route().metadata(),
        Source::ClusterEntry => Some(&info.cluster.as_ref()?.info().metadata),
        Source::ClusterLocalityEntry => {
            let host = info.upstream.as_ref()?.host.as_ref()?;
            host.locality_metadata.as_deref()
        }
    }
}

/// The network of the client, of this many bits for either family: `10.0.0.0/8`.
fn masked_address(info: &StreamInfo, v4: u8, v6: u8) -> Option<String> {
    let ip = info.remote_address().ip()?;
    let len = if ip.is_ipv4() { v4 } else { v6 };
    let range = CidrRange::new(ip, len)?;
    Some(format!("{}/{len}", range.address()))
}

fn into_text(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// The name of the cluster that the request's route leads to.
fn destination(head: &RequestHead, info: &StreamInfo, server: &ServerContext) -> Option<String> {
    match info.route.as_ref()?.cluster_target()? {
        ClusterTarget::Header(key) => head.first(key).map(|name| into_text(name).into_owned()),
        ClusterTarget::Id(id) => {
            let known = info.cluster.as_ref().filter(|known| known.info().id == *id);
            let known = known.map(|cluster| cluster.name().to_string());
            known.or_else(|| Some(server.cluster_names.name(*id)?.to_string()))
        }
    }
}
