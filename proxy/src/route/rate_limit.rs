//! `RateLimit` of virtual hosts and routes: how requests become descriptors, for the filters that limit rates.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/rate_limit_filter#composing-actions>
//!
//! Actions by `extension` are the inputs of matchers (`matchers/tree`), counted under the name of the extension.
//!
//! Deviations: `envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor` (CEL) is refused.

#![allow(
    deprecated,
    reason = "dynamic_metadata is deprecated for metadata, and still sent"
)]

use std::borrow::Cow;

use outrigger_proto::pb::envoy::config::route::v3 as route_pb;
use outrigger_proto::pb::envoy::r#type::v3::RateLimitUnit;
use pb::action::{ActionSpecifier, meta_data::Source};
use route_pb::rate_limit as pb;
use smallvec::SmallVec;

use super::cluster::ClusterTarget;
use super::rewrite::render;
use crate::config::{ConfigPath, Fraction, Rejected};
use crate::formatter::Formatter;
use crate::http::RequestHead;
use crate::matchers::{
    CidrRanges, DataInput, HeaderKey, HeaderMatcher, HeaderSource, MatchingData, MetadataPath,
    QueryParameterMatcher, first_query_value,
};
use crate::net::CidrRange;
use crate::runtime::RuntimeFraction;
use crate::server::{FactoryContext, ServerContext};
use crate::stream_info::{DynamicMetadata, StreamInfo};

/// One rule: actions that together make a descriptor.
#[derive(Debug)]
pub struct RateLimit {
    /// 0..=10; a filter takes the rules of its own stage.
    pub stage: u32,
    /// Whether the descriptor is for when the stream has ended.
    pub apply_on_stream_done: bool,
    /// `disable_key`: for which share of requests the rule counts, default all. Only a filter that asks a service looks at the
    /// key; one that counts by itself passes over rules that have one.
    pub enabled: Option<RuntimeFraction>,
    /// Whether clients are told of the limit in `x-ratelimit-` headers; none: as the filter says.
    pub x_ratelimit: Option<bool>,
    actions: Box<[Action]>,
    limit: Option<LimitOverride>,
    hits_addend: Option<HitsAddend>,
}

/// What a request is counted under.
#[derive(Debug, PartialEq, Eq)]
pub struct Descriptor<'a> {
    /// Keys and values, in the order of the actions.
    pub entries: SmallVec<[(Cow<'a, str>, Cow<'a, str>); 2]>,
    /// A limit that the request brings along: requests per unit.
    pub limit: Option<(u32, RateLimitUnit)>,
    /// How many hits the request counts for; none for what the filter says.
    pub hits_addend: Option<u64>,
    /// Whether the hits are given back.
    pub is_negative_hits: bool,
    /// `RateLimit::x_ratelimit` of the rule.
    pub x_ratelimit: Option<bool>,
}

#[derive(Debug)]
enum Action {
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
    AddressMatch {
        key: Box<str>,
        value: Formatter,
        default: Box<str>,
        ranges: CidrRanges,
        invert: bool,
    },
}

#[derive(Debug)]
enum LimitOverride {
    Metadata(MetadataPath),
    Fixed(u32, RateLimitUnit),
}

#[derive(Debug)]
struct HitsAddend {
    amount: Amount,
    negative: bool,
}

#[derive(Debug)]
enum Amount {
    Number(u64),
    Format(Formatter),
}

const MOST_HITS: u64 = 1_000_000_000;

/// Where a rule stands, which decides what it may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimitPlace {
    /// In a filter that asks a service, or its configuration for a route.
    GlobalFilter,
    /// In a filter that counts by itself.
    LocalFilter,
}

impl RateLimit {
    /// Converts a `RateLimit` that stands in a filter rather than a route.
    pub fn of_filter(
        proto: route_pb::RateLimit,
        place: RateLimitPlace,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        if proto.stage.is_some() || !proto.disable_key.is_empty() {
            return Err(path.reject("'stage' field and 'disable_key' field are not supported"));
        }
        if place == RateLimitPlace::LocalFilter && proto.limit.is_some() {
            return Err(path.reject("'limit' field is not supported"));
        }
        Self::convert(proto, cx, path)
    }

    /// Converts a `RateLimit` of a route or virtual host. There `hits_addend` does not count, as in Envoy.
    pub fn from_proto(
        proto: route_pb::RateLimit,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let rule = Self::convert(proto, cx, path)?;
        Ok(Self {
            hits_addend: None,
            ..rule
        })
    }

    fn convert(
        proto: route_pb::RateLimit,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let route_pb::RateLimit {
            stage,
            disable_key,
            actions,
            limit,
            hits_addend,
            apply_on_stream_done,
            x_ratelimit_option,
        } = proto;
        let stage = path.in_range("stage", stage.map_or(0, |stage| stage.value), 0..=10);
        let option = path.enumeration("x_ratelimit_option", x_ratelimit_option);
        let actions = if actions.is_empty() {
            Err(path.field("actions").reject("must not be empty"))
        } else {
            path.each("actions", actions, |action, path| {
                Action::from_proto(action, cx, path)
            })
        };
        let limit = path.optional("limit", limit, LimitOverride::from_proto);
        let hits_addend = path.optional("hits_addend", hits_addend, |hits, path| {
            HitsAddend::from_proto(hits, cx, path)
        });
        let enabled = (!disable_key.is_empty()).then(|| {
            let key = format!("ratelimit.{disable_key}.http_filter_enabled");
            cx.server.runtime.fraction(&key, Fraction::ALWAYS)
        });
        Ok(Self {
            stage: stage?,
            apply_on_stream_done,
            enabled,
            x_ratelimit: match option? {
                route_pb::rate_limit::XRateLimitOption::Unspecified => None,
                route_pb::rate_limit::XRateLimitOption::Off => Some(false),
                route_pb::rate_limit::XRateLimitOption::DraftVersion03 => Some(true),
            },
            actions: actions?.into(),
            limit: limit?,
            hits_addend: hits_addend?,
        })
    }

    /// The descriptor of a request; none if an action finds nothing, so that the rule does not apply.
    pub fn descriptor<'a>(
        &'a self,
        head: &'a RequestHead,
        info: &'a StreamInfo,
        server: &'a ServerContext,
    ) -> Option<Descriptor<'a>> {
        let mut entries = SmallVec::new();
        for action in &self.actions {
            match action.entry(head, info, server) {
                Entry::Add(key, value) => entries.push((Cow::Borrowed(key), value)),
                Entry::Skip => {}
                Entry::Fail => return None,
            }
        }
        if entries.is_empty() {
            return None;
        }
        let hits_addend = match &self.hits_addend {
            None => None,
            Some(hits) => Some(hits.amount(head, info)?),
        };
        Some(Descriptor {
            entries,
            limit: self.limit.as_ref().and_then(|limit| limit.get(info)),
            hits_addend,
            is_negative_hits: self.hits_addend.as_ref().is_some_and(|hits| hits.negative),
            x_ratelimit: self.x_ratelimit,
        })
    }
}

/// What an action makes of a request.
enum Entry<'a> {
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
    fn from_proto(
        proto: pb::Action,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::Action { action_specifier } = proto;
        match action_specifier {
            None => Err(path.reject("has no action")),
            Some(ActionSpecifier::SourceCluster(_)) => Ok(Self::SourceCluster),
            Some(ActionSpecifier::DestinationCluster(_)) => Ok(Self::DestinationCluster),
            Some(ActionSpecifier::RemoteAddress(_)) => Ok(Self::RemoteAddress),
            Some(ActionSpecifier::MaskedRemoteAddress(proto)) => {
                masked(proto, &path.field("masked_remote_address"))
            }
            Some(ActionSpecifier::RequestHeaders(proto)) => {
                request_headers(proto, &path.field("request_headers"))
            }
            Some(ActionSpecifier::QueryParameters(proto)) => {
                query_parameters(proto, &path.field("query_parameters"))
            }
            Some(ActionSpecifier::GenericKey(proto)) => {
                generic_key(proto, &path.field("generic_key"))
            }
            Some(ActionSpecifier::HeaderValueMatch(proto)) => {
                header_value_match(proto, &path.field("header_value_match"))
            }
            Some(ActionSpecifier::QueryParameterValueMatch(proto)) => {
                query_value_match(proto, &path.field("query_parameter_value_match"))
            }
            Some(ActionSpecifier::DynamicMetadata(proto)) => {
                let pb::action::DynamicMetaData {
                    descriptor_key,
                    metadata_key,
                    default_value,
                } = proto;
                let proto = pb::action::MetaData {
                    descriptor_key,
                    metadata_key,
                    default_value,
                    source: Source::Dynamic as i32,
                    skip_if_absent: false,
                };
                metadata(proto, &path.field("dynamic_metadata"))
            }
            Some(ActionSpecifier::Metadata(proto)) => metadata(proto, &path.field("metadata")),
            Some(ActionSpecifier::RemoteAddressMatch(proto)) => {
                address_match(proto, cx, &path.field("remote_address_match"))
            }
            Some(ActionSpecifier::Extension(extension)) => {
                let key = extension.name.clone();
                let input = DataInput::from_proto(extension, &path.field("extension"))?;
                Ok(Self::Input {
                    key: key.into(),
                    input,
                })
            }
        }
    }

    fn entry<'a>(
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
            Self::Input { key, input } => {
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
            Self::Metadata {
                key,
                path,
                source,
                default,
                skip_if_absent,
            } => {
                let value = metadata_of(*source, info)
                    .and_then(|metadata| path.find(metadata))
                    .and_then(serde_json::Value::as_str)
                    .filter(|text| !text.is_empty())
                    .unwrap_or(default);
                if value.is_empty() {
                    Entry::missing(*skip_if_absent)
                } else {
                    Entry::Add(key, Cow::Borrowed(value))
                }
            }
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

fn or_default(key: String, default: &str) -> Box<str> {
    if key.is_empty() {
        default.into()
    } else {
        key.into()
    }
}

fn masked(
    proto: pb::action::MaskedRemoteAddress,
    path: &ConfigPath<'_>,
) -> Result<Action, Rejected> {
    let pb::action::MaskedRemoteAddress {
        v4_prefix_mask_len,
        v6_prefix_mask_len,
    } = proto;
    let v4 = v4_prefix_mask_len.map_or(32, |len| len.value);
    let v6 = v6_prefix_mask_len.map_or(128, |len| len.value);
    let v4 = path.in_range("v4_prefix_mask_len", v4, 0..=32);
    let v6 = path.in_range("v6_prefix_mask_len", v6, 0..=128);
    Ok(Action::MaskedRemoteAddress {
        v4: u8::try_from(v4?).unwrap_or(32),
        v6: u8::try_from(v6?).unwrap_or(128),
    })
}

fn request_headers(
    proto: pb::action::RequestHeaders,
    path: &ConfigPath<'_>,
) -> Result<Action, Rejected> {
    let pb::action::RequestHeaders {
        header_name,
        descriptor_key,
        skip_if_absent,
    } = proto;
    let name = path.non_empty("header_name", header_name);
    let key = path.non_empty("descriptor_key", descriptor_key);
    Ok(Action::Header {
        header: HeaderKey::new(&name?),
        key: key?.into(),
        skip_if_absent,
    })
}

fn query_parameters(
    proto: pb::action::QueryParameters,
    path: &ConfigPath<'_>,
) -> Result<Action, Rejected> {
    let pb::action::QueryParameters {
        query_parameter_name,
        descriptor_key,
        skip_if_absent,
    } = proto;
    let name = path.non_empty("query_parameter_name", query_parameter_name);
    let key = path.non_empty("descriptor_key", descriptor_key);
    Ok(Action::Query {
        name: name?.into(),
        key: key?.into(),
        skip_if_absent,
    })
}

fn generic_key(proto: pb::action::GenericKey, path: &ConfigPath<'_>) -> Result<Action, Rejected> {
    let pb::action::GenericKey {
        descriptor_value,
        // Harmless: as in Envoy without its runtime switch, the value is plain text and never comes out empty.
        default_value: _,
        descriptor_key,
    } = proto;
    Ok(Action::Generic {
        value: path.non_empty("descriptor_value", descriptor_value)?.into(),
        key: or_default(descriptor_key, "generic_key"),
    })
}

fn header_value_match(
    proto: pb::action::HeaderValueMatch,
    path: &ConfigPath<'_>,
) -> Result<Action, Rejected> {
    let pb::action::HeaderValueMatch {
        descriptor_value,
        // Harmless, as for generic_key.
        default_value: _,
        descriptor_key,
        expect_match,
        headers,
    } = proto;
    let value = path.non_empty("descriptor_value", descriptor_value);
    if headers.is_empty() {
        return Err(path.field("headers").reject("must not be empty"));
    }
    let headers = path.each("headers", headers, HeaderMatcher::from_proto);
    Ok(Action::HeaderMatch {
        key: or_default(descriptor_key, "header_match"),
        value: value?.into(),
        expect: expect_match.is_none_or(|expect| expect.value),
        headers: headers?.into(),
    })
}

fn query_value_match(
    proto: pb::action::QueryParameterValueMatch,
    path: &ConfigPath<'_>,
) -> Result<Action, Rejected> {
    let pb::action::QueryParameterValueMatch {
        descriptor_value,
        // Harmless, as for generic_key.
        default_value: _,
        descriptor_key,
        expect_match,
        query_parameters,
    } = proto;
    let value = path.non_empty("descriptor_value", descriptor_value);
    if query_parameters.is_empty() {
        return Err(path.field("query_parameters").reject("must not be empty"));
    }
    let parameters = path.each(
        "query_parameters",
        query_parameters,
        QueryParameterMatcher::from_proto,
    );
    Ok(Action::QueryMatch {
        key: or_default(descriptor_key, "query_match"),
        value: value?.into(),
        expect: expect_match.is_none_or(|expect| expect.value),
        parameters: parameters?.into(),
    })
}

fn metadata(proto: pb::action::MetaData, path: &ConfigPath<'_>) -> Result<Action, Rejected> {
    let pb::action::MetaData {
        descriptor_key,
        metadata_key,
        default_value,
        source,
        skip_if_absent,
    } = proto;
    let key = path.non_empty("descriptor_key", descriptor_key);
    let at = path
        .required("metadata_key", metadata_key)
        .and_then(|key| MetadataPath::from_proto(key, &path.field("metadata_key")));
    let source = path.enumeration("source", source);
    Ok(Action::Metadata {
        key: key?.into(),
        path: at?,
        source: source?,
        default: default_value.into(),
        skip_if_absent,
    })
}

fn address_match(
    proto: pb::action::RemoteAddressMatch,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Action, Rejected> {
    let pb::action::RemoteAddressMatch {
        descriptor_value,
        descriptor_key,
        default_value,
        address_matcher,
    } = proto;
    let value = path
        .non_empty("descriptor_value", descriptor_value)
        .and_then(|value| {
            Formatter::parse_omitting_empty(&value, cx, &path.field("descriptor_value"))
        });
    let matcher = path.required("address_matcher", address_matcher)?;
    let ranges = CidrRanges::from_xds("ranges", matcher.ranges, &path.field("address_matcher"));
    Ok(Action::AddressMatch {
        key: or_default(descriptor_key, "remote_address_match"),
        value: value?,
        default: default_value.into(),
        ranges: ranges?,
        invert: matcher.invert_match,
    })
}

impl LimitOverride {
    fn from_proto(proto: pb::Override, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        use pb::r#override::OverrideSpecifier;
        let pb::Override { override_specifier } = proto;
        match override_specifier {
            None => Err(path.reject("needs one of dynamic_metadata, rate_limit")),
            Some(OverrideSpecifier::DynamicMetadata(proto)) => {
                let path = path.field("dynamic_metadata");
                let key = path.required("metadata_key", proto.metadata_key)?;
                MetadataPath::from_proto(key, &path.field("metadata_key")).map(Self::Metadata)
            }
            Some(OverrideSpecifier::RateLimit(proto)) => {
                let unit = path.field("rate_limit").enumeration("unit", proto.unit)?;
                Ok(Self::Fixed(proto.requests_per_unit, unit))
            }
        }
    }

    fn get(&self, info: &StreamInfo) -> Option<(u32, RateLimitUnit)> {
        let path = match self {
            Self::Fixed(requests, unit) => return Some((*requests, *unit)),
            Self::Metadata(path) => path,
        };
        let value = path.find(&info.dynamic_metadata)?;
        let requests = u32::try_from(value.get("requests_per_unit")?.as_u64()?).ok()?;
        let unit = RateLimitUnit::from_str_name(value.get("unit")?.as_str()?)?;
        Some((requests, unit))
    }
}

impl HitsAddend {
    fn from_proto(
        proto: pb::HitsAddend,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::HitsAddend {
            number,
            format,
            is_negative_hits,
        } = proto;
        let amount = match (number, format.is_empty()) {
            (Some(number), true) => path
                .in_range("number", number.value, 0..=MOST_HITS)
                .map(Amount::Number),
            (None, false) => Formatter::parse_omitting_empty(&format, cx, &path.field("format"))
                .map(Amount::Format),
            _ => Err(path.reject("needs either number or format")),
        };
        Ok(Self {
            amount: amount?,
            negative: is_negative_hits,
        })
    }

    fn amount(&self, head: &RequestHead, info: &StreamInfo) -> Option<u64> {
        match &self.amount {
            Amount::Number(number) => Some(*number),
            Amount::Format(format) => {
                let text = render(format, head, info);
                let number: f64 = std::str::from_utf8(&text).ok()?.trim().parse().ok()?;
                let most = 0.0..=1e9;
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "it was looked at, and a fraction of a hit is none"
                )]
                most.contains(&number).then_some(number as u64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{head, info, server};
    use super::*;

    fn rule(actions: Vec<Action>) -> RateLimit {
        RateLimit {
            stage: 0,
            apply_on_stream_done: false,
            enabled: None,
            x_ratelimit: None,
            actions: actions.into(),
            limit: None,
            hits_addend: None,
        }
    }

    fn header(skip_if_absent: bool) -> Action {
        Action::Header {
            header: HeaderKey::new("x-user"),
            key: "user".into(),
            skip_if_absent,
        }
    }

    fn generic() -> Action {
        Action::Generic {
            key: "generic_key".into(),
            value: "v".into(),
        }
    }

    fn entries(rule: &RateLimit, head: &RequestHead) -> Option<Vec<(String, String)>> {
        let (info, server) = (info(), server());
        let descriptor = rule.descriptor(head, &info, &server)?;
        let text = |text: &Cow<'_, str>| text.to_string();
        let entries = descriptor.entries.iter();
        Some(entries.map(|(k, v)| (text(k), text(v))).collect())
    }

    #[test]
    fn the_entries_of_a_descriptor_stand_in_the_order_of_its_actions() {
        let mut head = head("GET", "a", "/?q=1");
        head.fields.append("x-user", "eve");
        let rule = rule(vec![
            generic(),
            header(false),
            Action::RemoteAddress,
            Action::MaskedRemoteAddress { v4: 8, v6: 64 },
            Action::Query {
                name: "q".into(),
                key: "query".into(),
                skip_if_absent: false,
            },
        ]);
        let expected = [
            ("generic_key", "v"),
            ("user", "eve"),
            ("remote_address", "10.1.2.3"),
            ("masked_remote_address", "10.0.0.0/8"),
            ("query", "1"),
        ];
        assert_eq!(
            entries(&rule, &head).unwrap(),
            expected.map(|(k, v)| (k.to_owned(), v.to_owned()))
        );
    }

    #[test]
    fn a_missing_header_ends_the_descriptor_unless_it_may_be_skipped() {
        let head = head("GET", "a", "/");
        assert_eq!(entries(&rule(vec![generic(), header(false)]), &head), None);
        let skipping = rule(vec![generic(), header(true)]);
        assert_eq!(entries(&skipping, &head).unwrap().len(), 1);
        assert_eq!(entries(&rule(vec![header(true)]), &head), None);
    }
}
