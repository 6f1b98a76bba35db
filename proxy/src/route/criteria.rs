//! What a route asks of a request beside its path.

use matcher_pb::filter_state_matcher::Matcher;
use outrigger_proto::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use outrigger_proto::pb::envoy::config::route::v3 as pb;
use outrigger_proto::pb::envoy::r#type::matcher::v3 as matcher_pb;

use super::explain::Unmet;
use super::path::PathCriterion;
use crate::config::{ConfigPath, Fraction, Rejected};
use crate::http::RequestHead;
use crate::matchers::{
    CidrRanges, CookieMatcher, HeaderMatcher, MetadataMatcher, QueryParameterMatcher, StringMatcher,
};
use crate::runtime::RuntimeFraction;
use crate::server::FactoryContext;
use crate::stream_info::{FilterStateObject, StreamInfo};

/// All conditions of a `RouteMatch` but the one on the path. All must be met.
#[derive(Debug, Default)]
pub(super) struct Criteria {
    runtime_fraction: Option<RuntimeFraction>,
    grpc: bool,
    headers: Box<[HeaderMatcher]>,
    query_parameters: Box<[QueryParameterMatcher]>,
    cookies: Box<[CookieMatcher]>,
    dynamic_metadata: Box<[MetadataMatcher]>,
    filter_state: Box<[FilterStateMatcher]>,
    tls_context: Option<TlsContext>,
}

/// `TlsContextMatchOptions`. A connection without TLS has no certificate that could be either.
#[derive(Debug)]
struct TlsContext {
    presented: Option<bool>,
    validated: Option<bool>,
}

#[derive(Debug)]
struct FilterStateMatcher {
    key: Box<str>,
    condition: FilterStateCondition,
}

#[derive(Debug)]
enum FilterStateCondition {
    Text(StringMatcher),
    Address { ranges: CidrRanges, invert: bool },
}

impl Criteria {
    /// Converts a `RouteMatch`: its path criterion, and the rest if there is any.
    pub(super) fn from_proto(
        proto: pb::RouteMatch,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<(PathCriterion, Option<Box<Self>>), Rejected> {
        let pb::RouteMatch {
            case_sensitive,
            runtime_fraction,
            headers,
            query_parameters,
            cookies,
            grpc,
            tls_context,
            dynamic_metadata,
            filter_state,
            path_specifier,
        } = proto;
        let case_sensitive = case_sensitive.is_none_or(|sensitive| sensitive.value);
        let criterion = PathCriterion::from_proto(path_specifier, case_sensitive, path);
        let runtime = path.optional("runtime_fraction", runtime_fraction, |fraction, path| {
            self::runtime_fraction(fraction, cx, path)
        });
        let headers = path.each("headers", headers, HeaderMatcher::from_proto);
        let query = path.each(
            "query_parameters",
            query_parameters,
            QueryParameterMatcher::from_proto,
        );
        let cookies = path.each("cookies", cookies, CookieMatcher::from_proto);
        let metadata = path.each(
            "dynamic_metadata",
            dynamic_metadata,
            MetadataMatcher::from_proto,
        );
        let state = path.each("filter_state", filter_state, FilterStateMatcher::from_proto);
        let criteria = Self {
            runtime_fraction: runtime?,
            grpc: grpc.is_some(),
            headers: headers?.into(),
            query_parameters: query?.into(),
            cookies: cookies?.into(),
            dynamic_metadata: metadata?.into(),
            filter_state: state?.into(),
            tls_context: tls_context.map(TlsContext::from),
        };
        let rest = (!criteria.is_empty()).then(|| Box::new(criteria));
        Ok((criterion?, rest))
    }

    /// Whether a request meets all of them. `random` decides on the runtime fraction.
    #[inline]
    pub(super) fn matches(&self, head: &RequestHead, info: &StreamInfo, random: u64) -> bool {
        self.unmet(head, info, random).is_none()
    }

    /// The first of them that a request does not meet.
    #[inline]
    pub(super) fn unmet(
        &self,
        head: &RequestHead,
        info: &StreamInfo,
        random: u64,
    ) -> Option<Unmet> {
        let path = head.path().unwrap_or_default();
        let alone = |field| Unmet::Criterion { field, index: None };
        let of_list = |field| {
            move |at| Unmet::Criterion {
                field,
                index: Some(at),
            }
        };
        if let Some(fraction) = &self.runtime_fraction
            && !fraction.contains(random)
        {
            return Some(alone("runtime_fraction"));
        }
        if let Some(tls_context) = &self.tls_context
            && !tls_context.matches(info)
        {
            return Some(alone("tls_context"));
        }
        if self.grpc && !head.is_grpc() {
            return Some(alone("grpc"));
        }
        first_unmet(&self.headers, |m| m.matches(head))
            .map(of_list("headers"))
            .or_else(|| {
                first_unmet(&self.query_parameters, |m| m.matches(path))
                    .map(of_list("query_parameters"))
            })
            .or_else(|| {
                first_unmet(&self.cookies, |m| m.matches(&head.fields)).map(of_list("cookies"))
            })
            .or_else(|| {
                first_unmet(&self.dynamic_metadata, |m| {
                    m.matches(&info.dynamic_metadata)
                })
                .map(of_list("dynamic_metadata"))
            })
            .or_else(|| {
                first_unmet(&self.filter_state, |m| m.matches(info)).map(of_list("filter_state"))
            })
    }

    fn is_empty(&self) -> bool {
        let Self {
            runtime_fraction,
            grpc,
            headers,
            query_parameters,
            cookies,
            dynamic_metadata,
            filter_state,
            tls_context,
        } = self;
        runtime_fraction.is_none()
            && !grpc
            && headers.is_empty()
            && query_parameters.is_empty()
            && cookies.is_empty()
            && dynamic_metadata.is_empty()
            && filter_state.is_empty()
            && tls_context.is_none()
    }
}

#[inline]
fn first_unmet<M>(list: &[M], matches: impl Fn(&M) -> bool) -> Option<usize> {
    list.iter().position(|matcher| !matches(matcher))
}

fn runtime_fraction(
    proto: RuntimeFractionalPercent,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<RuntimeFraction, Rejected> {
    let RuntimeFractionalPercent {
        default_value,
        runtime_key,
    } = proto;
    let default = path.required("default_value", default_value)?;
    let default = Fraction::from_proto(default, &path.field("default_value"))?;
    Ok(cx.server.runtime.fraction(&runtime_key, default))
}

impl From<pb::route_match::TlsContextMatchOptions> for TlsContext {
    fn from(proto: pb::route_match::TlsContextMatchOptions) -> Self {
        let pb::route_match::TlsContextMatchOptions {
            presented,
            validated,
        } = proto;
        Self {
            presented: presented.map(|v| v.value),
            validated: validated.map(|v| v.value),
        }
    }
}

impl TlsContext {
    fn matches(&self, info: &StreamInfo) -> bool {
        let tls = info.connection.tls.get();
        let presented = tls.is_some_and(|tls| !tls.peer_chain.is_empty());
        let validated = tls.is_some_and(|tls| tls.peer_validated);
        self.presented.is_none_or(|wanted| wanted == presented)
            && self.validated.is_none_or(|wanted| wanted == validated)
    }
}

impl FilterStateMatcher {
    fn from_proto(
        proto: matcher_pb::FilterStateMatcher,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let matcher_pb::FilterStateMatcher { key, matcher } = proto;
        let key = path.non_empty("key", key);
        let condition =
            match matcher {
                None => Err(path.reject("needs one of string_match, address_match")),
                Some(Matcher::StringMatch(text)) => {
                    StringMatcher::from_proto(text, &path.field("string_match"))
                        .map(FilterStateCondition::Text)
                }
                Some(Matcher::AddressMatch(matcher_pb::AddressMatcher {
                    ranges,
                    invert_match,
                })) => CidrRanges::from_xds("ranges", ranges, &path.field("address_match")).map(
                    |ranges| FilterStateCondition::Address {
                        ranges,
                        invert: invert_match,
                    },
                ),
            };
        Ok(Self {
            key: key?.into(),
            condition: condition?,
        })
    }

    /// An object of the stream hides one of its connection.
    fn matches(&self, info: &StreamInfo) -> bool {
        let connection = info.connection.filter_state.borrow();
        let object = info
            .filter_state
            .get(&self.key)
            .or_else(|| connection.get(&self.key));
        object.is_some_and(|object| self.condition.holds(&**object))
    }
}

impl FilterStateCondition {
    fn holds(&self, object: &dyn FilterStateObject) -> bool {
        match self {
            Self::Text(matcher) => object
                .serialize_as_string()
                .is_some_and(|text| matcher.matches(text.as_bytes())),
            Self::Address { ranges, invert } => object
                .address()
                .is_some_and(|ip| ranges.contains(ip) != *invert),
        }
    }
}
