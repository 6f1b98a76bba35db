//! One permission or principal. Both are trees of conditions on the same things.

use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::config::rbac::v3 as pb;
use outrigger_proto::pb::envoy::extensions::rbac::matchers::upstream_ip_port::v3 as upstream_ip_port;
use outrigger_proto::pb::envoy::extensions::rbac::principals::mtls_authenticated::v3 as mtls_authenticated;
use outrigger_proto::pb::envoy::r#type::matcher::v3 as matcher_pb;
use pb::permission::Rule as PermissionRule;
use pb::principal::Identifier;

use crate::cel::Activation;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::RequestHead;
use crate::matchers::{CidrRanges, HeaderMatcher, MetadataMatcher, StringMatcher};
use crate::net::{Address, CidrRange};
use crate::route::UriTemplate;
use crate::stream_info::{
    ConnectionInfo, DynamicMetadata, FilterState, FilterStateObject, StreamInfo, TlsConnectionInfo,
};
use crate::transport_sockets::tls::SanMatcher;
use crate::x509::SubjectAltName;

/// What is to be judged.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The connection.
    pub connection: &'a ConnectionInfo,
    /// The request; without one, an empty head.
    pub head: &'a RequestHead,
    /// Who sent it, after trusted proxies.
    pub remote: &'a Address,
    /// Values that filters have set.
    pub metadata: &'a DynamicMetadata,
    /// Metadata of the route, empty if it has none; none: there is no route.
    pub route_metadata: Option<&'a DynamicMetadata>,
    /// Objects of the stream; those of its connection are asked after them.
    pub filter_state: Option<&'a FilterState>,
    /// The stream; none: there is only a connection.
    pub info: Option<&'a StreamInfo>,
}

/// A condition.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names of the API")]
pub enum Rule {
    Any,
    And(Box<[Rule]>),
    Or(Box<[Rule]>),
    Not(Box<Rule>),
    Header(Box<HeaderMatcher>),
    UrlPath(StringMatcher),
    UriTemplate(Box<UriTemplate>),
    DestinationIp(CidrRange),
    DestinationPort(u32),
    DestinationPortRange(Range<i32>),
    Metadata(Box<MetadataMatcher>),
    RouteMetadata(Box<MetadataMatcher>),
    RequestedServerName(StringMatcher),
    /// None: any certificate.
    Authenticated(Option<StringMatcher>),
    /// A certificate that was found good; none: with any name.
    MtlsAuthenticated(Option<Box<SanMatcher>>),
    SourceIp(CidrRange),
    DirectRemoteIp(CidrRange),
    RemoteIp(CidrRange),
    FilterState {
        key: Box<str>,
        value: StringMatcher,
    },
    FilterStateAddress {
        key: Box<str>,
        ranges: CidrRanges,
        invert: bool,
    },
    /// Of the upstream that was resolved for the request; what is not said is any.
    UpstreamIpPort {
        ip: Option<CidrRange>,
        ports: Option<RangeInclusive<i64>>,
    },
}

impl Rule {
    /// Whether the condition holds.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let connection = subject.connection;
        let within = |range: &CidrRange, address: &Address| {
            address.ip().is_some_and(|ip: IpAddr| range.contains(ip))
        };
        match self {
            Self::Any => true,
            Self::And(rules) => rules.iter().all(|rule| rule.matches(subject)),
            Self::Or(rules) => rules.iter().any(|rule| rule.matches(subject)),
            Self::Not(rule) => !rule.matches(subject),
            Self::Header(matcher) => matcher.matches(subject.head),
            Self::UrlPath(matcher) => {
                path_of(subject.head).is_some_and(|path| matcher.matches(path))
            }
            Self::UriTemplate(template) => {
                path_of(subject.head).is_some_and(|path| template.matches(path))
            }
            Self::DestinationIp(range) => within(range, &connection.local_address),
            Self::DestinationPort(port) => {
                connection.local_address.port().map(u32::from) == Some(*port)
            }
            Self::DestinationPortRange(range) => connection
                .local_address
                .port()
                .is_some_and(|port| range.contains(&i32::from(port))),
            Self::Metadata(matcher) => matcher.matches(subject.metadata),
            Self::RouteMetadata(matcher) => match subject.route_metadata {
                Some(metadata) => matcher.matches(metadata),
                None => false,
            },
            Self::RequestedServerName(matcher) => {
                let name = connection
                    .requested_server_name
                    .as_deref()
                    .unwrap_or_default();
                matcher.matches(name.as_bytes())
            }
            Self::Authenticated(matcher) => connection
                .tls
                .get()
                .is_some_and(|tls| is_authenticated(tls, matcher.as_ref())),
            Self::MtlsAuthenticated(matcher) => connection.tls.get().is_some_and(|tls| {
                tls.peer_validated
                    && matcher
                        .as_ref()
                        .is_none_or(|matcher| tls.peer().is_some_and(|peer| matcher.matches(peer)))
            }),
            Self::SourceIp(range) => within(range, &connection.remote_address),
            Self::DirectRemoteIp(range) => within(range, &connection.direct_remote_address),
            Self::RemoteIp(range) => within(range, subject.remote),
            Self::FilterState { key, value } => subject
                .of_object(key, FilterStateObject::serialize_as_string)
                .is_some_and(|text| value.matches(text.as_bytes())),
            Self::FilterStateAddress {
                key,
                ranges,
                invert,
            } => subject
                .of_object(key, FilterStateObject::address)
                .is_some_and(|ip| ranges.contains(ip) != *invert),
            Self::UpstreamIpPort { ip, ports } => subject
                .of_object(UPSTREAM_ADDRESS, FilterStateObject::socket_address)
                .is_some_and(|address| {
                    let port = i64::from(address.port());
                    ip.as_ref().is_none_or(|range| range.contains(address.ip()))
                        && ports.as_ref().is_none_or(|ports| ports.contains(&port))
                }),
        }
    }
}

impl<'a> Subject<'a> {
    /// What a condition sees of it.
    pub(super) fn activation(&self) -> Activation<'a> {
        match self.info {
            Some(info) => Activation::of_request(info, self.head),
            None => Activation::of_connection(self.connection),
        }
    }

    /// What `read` reads of an object of the stream, or of its connection.
    fn of_object<T>(
        &self,
        key: &str,
        read: impl Fn(&dyn FilterStateObject) -> Option<T>,
    ) -> Option<T> {
        let of_connection = self.connection.filter_state.borrow();
        let of_stream = self.filter_state.and_then(|state| state.get(key));
        let object = of_stream.or_else(|| of_connection.get(key))?;
        read(&**object)
    }
}

/// One of the URIs of the peer's certificate must match, or else one of its DNS names, or else its subject, which is empty
/// where there is no certificate. Whoever comes over TLS is somebody.
fn is_authenticated(tls: &TlsConnectionInfo, matcher: Option<&StringMatcher>) -> bool {
    let Some(matcher) = matcher else { return true };
    let matches = |name: &str| matcher.matches(name.as_bytes());
    let Some(peer) = tls.peer() else {
        return matches("");
    };
    peer.names(SubjectAltName::as_uri).any(matches)
        || peer.names(SubjectAltName::as_dns).any(matches)
        || matches(&peer.subject)
}

/// The path without query and fragment.
fn path_of(head: &RequestHead) -> Option<&[u8]> {
    let path = head.path()?;
    let end = path.iter().position(|byte| matches!(byte, b'?' | b'#'));
    path.get(..end.unwrap_or(path.len()))
}

#[allow(deprecated, reason = "every rule is decided, also old ones")]
pub(super) fn permission(proto: pb::Permission, path: &ConfigPath<'_>) -> Result<Rule, Rejected> {
    let Some(rule) = proto.rule else {
        return Err(path.reject("is empty: one rule is needed"));
    };
    let set = |name, pb::permission::Set { rules }| {
        path.field(name)
            .each("rules", rules, permission)
            .map(Vec::into_boxed_slice)
    };
    Ok(match rule {
        PermissionRule::AndRules(rules) => Rule::And(set("and_rules", rules)?),
        PermissionRule::OrRules(rules) => Rule::Or(set("or_rules", rules)?),
        PermissionRule::NotRule(rule) => {
            Rule::Not(Box::new(permission(*rule, &path.field("not_rule"))?))
        }
        PermissionRule::Any(any) => any_rule(any, path)?,
        PermissionRule::Header(header) => header_rule(header, path)?,
        PermissionRule::UrlPath(matcher) => url_path_rule(matcher, path)?,
        PermissionRule::DestinationIp(range) => {
            Rule::DestinationIp(CidrRange::from_proto(range, &path.field("destination_ip"))?)
        }
        PermissionRule::DestinationPort(port) => {
            Rule::DestinationPort(path.in_range("destination_port", port, 0..=65535)?)
        }
        PermissionRule::DestinationPortRange(range) => {
            let path = path.field("destination_port_range");
            let start = path.in_range("start", range.start, 0..=65536)?;
            let end = path.in_range("end", range.end, 0..=65536)?;
            if start >= end {
                return Err(
                    path.reject(format!("{start}..{end} is empty: start must be below end"))
                );
            }
            Rule::DestinationPortRange(start..end)
        }
        PermissionRule::Metadata(metadata) => metadata_rule(metadata, path)?,
        PermissionRule::SourcedMetadata(metadata) => sourced_rule(metadata, path)?,
        PermissionRule::RequestedServerName(matcher) => Rule::RequestedServerName(
            StringMatcher::from_proto(matcher, &path.field("requested_server_name"))?,
        ),
        PermissionRule::Matcher(extension) => matcher_rule(extension, &path.field("matcher"))?,
        PermissionRule::UriTemplate(template) => Rule::UriTemplate(Box::new(
            UriTemplate::from_extension(template, &path.field("uri_template"))?,
        )),
    })
}

#[allow(deprecated, reason = "every identifier is decided, also old ones")]
pub(super) fn principal(proto: pb::Principal, path: &ConfigPath<'_>) -> Result<Rule, Rejected> {
    let Some(identifier) = proto.identifier else {
        return Err(path.reject("is empty: one identifier is needed"));
    };
    let set = |name, pb::principal::Set { ids }| {
        path.field(name)
            .each("ids", ids, principal)
            .map(Vec::into_boxed_slice)
    };
    let range = |name, range: core::CidrRange| CidrRange::from_proto(range, &path.field(name));
    Ok(match identifier {
        Identifier::AndIds(ids) => Rule::And(set("and_ids", ids)?),
        Identifier::OrIds(ids) => Rule::Or(set("or_ids", ids)?),
        Identifier::NotId(id) => Rule::Not(Box::new(principal(*id, &path.field("not_id"))?)),
        Identifier::Any(any) => any_rule(any, path)?,
        Identifier::Authenticated(pb::principal::Authenticated { principal_name }) => {
            let path = path.field("authenticated");
            Rule::Authenticated(path.optional(
                "principal_name",
                principal_name,
                StringMatcher::from_proto,
            )?)
        }
        Identifier::SourceIp(block) => Rule::SourceIp(range("source_ip", block)?),
        Identifier::DirectRemoteIp(block) => {
            Rule::DirectRemoteIp(range("direct_remote_ip", block)?)
        }
        Identifier::RemoteIp(block) => Rule::RemoteIp(range("remote_ip", block)?),
        Identifier::Header(header) => header_rule(header, path)?,
        Identifier::UrlPath(matcher) => url_path_rule(matcher, path)?,
        Identifier::Metadata(metadata) => metadata_rule(metadata, path)?,
        Identifier::SourcedMetadata(metadata) => sourced_rule(metadata, path)?,
        Identifier::FilterState(matcher) => filter_state_rule(matcher, path)?,
        Identifier::Custom(extension) => custom_rule(extension, &path.field("custom"))?,
    })
}

/// An extension that judges who it is.
fn custom_rule(
    extension: core::TypedExtensionConfig,
    path: &ConfigPath<'_>,
) -> Result<Rule, Rejected> {
    let (config, path) = TypedConfig::of_extension(extension, path)?;
    if config.type_name != MTLS_AUTHENTICATED {
        return Err(config.unknown(&path, &[MTLS_AUTHENTICATED]));
    }
    let mtls_authenticated::Config {
        san_matcher,
        any_validated_client_certificate,
    } = config.decode(&path)?;
    let matcher = path.optional("san_matcher", san_matcher, SanMatcher::from_proto)?;
    if matcher.is_none() && !any_validated_client_certificate {
        return Err(path.reject("needs san_matcher or any_validated_client_certificate"));
    }
    Ok(Rule::MtlsAuthenticated(matcher.map(Box::new)))
}

const MTLS_AUTHENTICATED: &str = "envoy.extensions.rbac.principals.mtls_authenticated.v3.Config";

/// An extension that judges what is asked for.
fn matcher_rule(
    extension: core::TypedExtensionConfig,
    path: &ConfigPath<'_>,
) -> Result<Rule, Rejected> {
    let (config, path) = TypedConfig::of_extension(extension, path)?;
    if config.type_name != UPSTREAM_IP_PORT {
        return Err(config.unknown(&path, &[UPSTREAM_IP_PORT]));
    }
    let upstream_ip_port::UpstreamIpPortMatcher {
        upstream_ip,
        upstream_port_range,
    } = config.decode(&path)?;
    if upstream_ip.is_none() && upstream_port_range.is_none() {
        return Err(path.reject("needs upstream_ip or upstream_port_range"));
    }
    Ok(Rule::UpstreamIpPort {
        ip: path.optional("upstream_ip", upstream_ip, CidrRange::from_proto)?,
        ports: upstream_port_range.map(|range| range.start..=range.end),
    })
}

const UPSTREAM_IP_PORT: &str =
    "envoy.extensions.rbac.matchers.upstream_ip_port.v3.UpstreamIpPortMatcher";
/// Under which name a filter that resolves the upstream leaves its address.
const UPSTREAM_ADDRESS: &str = "envoy.stream.upstream_address";

fn any_rule(any: bool, path: &ConfigPath<'_>) -> Result<Rule, Rejected> {
    match any {
        true => Ok(Rule::Any),
        false => Err(path.field("any").reject("must be true when it is set")),
    }
}

fn header_rule(
    header: outrigger_proto::pb::envoy::config::route::v3::HeaderMatcher,
    path: &ConfigPath<'_>,
) -> Result<Rule, Rejected> {
    HeaderMatcher::from_proto(header, &path.field("header"))
        .map(|matcher| Rule::Header(Box::new(matcher)))
}

fn url_path_rule(proto: matcher_pb::PathMatcher, path: &ConfigPath<'_>) -> Result<Rule, Rejected> {
    let path = path.field("url_path");
    let matcher_pb::path_matcher::Rule::Path(matcher) = path.required("rule", proto.rule)?;
    StringMatcher::from_proto(matcher, &path.field("path")).map(Rule::UrlPath)
}

fn metadata_rule(
    proto: matcher_pb::MetadataMatcher,
    path: &ConfigPath<'_>,
) -> Result<Rule, Rejected> {
    MetadataMatcher::from_proto(proto, &path.field("metadata"))
        .map(|matcher| Rule::Metadata(Box::new(matcher)))
}

fn sourced_rule(proto: pb::SourcedMetadata, path: &ConfigPath<'_>) -> Result<Rule, Rejected> {
    let path = path.field("sourced_metadata");
    let pb::SourcedMetadata {
        metadata_matcher,
        metadata_source,
    } = proto;
    let source = path.enumeration::<pb::MetadataSource>("metadata_source", metadata_source)?;
    let matcher = path.required("metadata_matcher", metadata_matcher)?;
    let matcher = MetadataMatcher::from_proto(matcher, &path.field("metadata_matcher"))?;
    Ok(match source {
        pb::MetadataSource::Dynamic => Rule::Metadata(Box::new(matcher)),
        pb::MetadataSource::Route => Rule::RouteMetadata(Box::new(matcher)),
    })
}

fn filter_state_rule(
    proto: matcher_pb::FilterStateMatcher,
    path: &ConfigPath<'_>,
) -> Result<Rule, Rejected> {
    use matcher_pb::filter_state_matcher::Matcher;
    let path = path.field("filter_state");
    let matcher_pb::FilterStateMatcher { key, matcher } = proto;
    let key = path.non_empty("key", key)?;
    match path.required("matcher", matcher)? {
        Matcher::StringMatch(matcher) => Ok(Rule::FilterState {
            key: key.into(),
            value: StringMatcher::from_proto(matcher, &path.field("string_match"))?,
        }),
        Matcher::AddressMatch(matcher_pb::AddressMatcher {
            ranges,
            invert_match,
        }) => Ok(Rule::FilterStateAddress {
            key: key.into(),
            ranges: CidrRanges::from_xds("ranges", ranges, &path.field("address_match"))?,
            invert: invert_match,
        }),
    }
}
