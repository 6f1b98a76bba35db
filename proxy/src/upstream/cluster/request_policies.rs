//! What `HttpProtocolOptions` of a cluster say of its requests: policies that go before those of the routes, and which responses
//! outlier detection takes for errors.
//!
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/upstreams/http/v3/http_protocol_options.proto>
//! Deviations: requests of the proxy's own (authorizers, mirrored requests, ...) know nothing of these policies but `error_matcher`.

use matcher_pb::match_predicate::{MatchSet, Rule};
use outrigger_proto::pb::envoy::config::common::matcher::v3 as matcher_pb;
use outrigger_proto::pb::envoy::config::route::v3 as route_pb;
use outrigger_proto::pb::envoy::extensions::upstreams::http::v3 as pb;
use pb::http_protocol_options::OutlierDetection;
use route_pb::route_action::{HashPolicy as PbHashPolicy, RequestMirrorPolicy};

use crate::config::{ConfigPath, Rejected};
use crate::http::ResponseHead;
use crate::matchers::HeaderMatcher;
use crate::route::{HashPolicy, MirrorPolicy, RetryPolicy};
use crate::server::FactoryContext;

/// What a cluster says of its requests.
#[derive(Debug)]
pub struct RequestPolicies {
    /// In place of the route's; none: the route's.
    pub retry: Option<RetryPolicy>,
    /// In place of the route's; none: the route's.
    pub hash: Option<HashPolicy>,
    /// In place of the route's; empty: the route's.
    pub mirrors: Box<[MirrorPolicy]>,
    /// Which responses are errors for outlier detection; none: those with a status of 500 and above.
    error_matcher: Option<ErrorMatcher>,
}

/// The fields of the message, as they came.
pub(super) struct PolicyFields {
    pub(super) outlier_detection: Option<OutlierDetection>,
    pub(super) request_mirror_policies: Vec<RequestMirrorPolicy>,
    pub(super) hash_policy: Vec<PbHashPolicy>,
    pub(super) retry_policy: Option<route_pb::RetryPolicy>,
}

/// A converted `MatchPredicate`, asked when the head of a response has come.
#[derive(Debug)]
enum ErrorMatcher {
    Any,
    /// What has not come yet, or is not looked at, does not match.
    Never,
    ResponseHeaders(Box<[HeaderMatcher]>),
    And(Box<[ErrorMatcher]>),
    Or(Box<[ErrorMatcher]>),
    Not(Box<ErrorMatcher>),
}

impl PolicyFields {
    /// None: nothing is said.
    pub(super) fn convert(
        self,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<RequestPolicies>, Rejected> {
        let Self {
            outlier_detection,
            request_mirror_policies,
            hash_policy,
            retry_policy,
        } = self;
        let error_matcher = path.optional(
            "outlier_detection",
            outlier_detection,
            |OutlierDetection { error_matcher }, path| {
                path.optional("error_matcher", error_matcher, ErrorMatcher::from_proto)
            },
        );
        let mirrors = path.each(
            "request_mirror_policies",
            request_mirror_policies,
            |proto, path| MirrorPolicy::from_proto(proto, cx, path),
        );
        let hash = HashPolicy::from_proto(hash_policy, path);
        let retry = path.optional("retry_policy", retry_policy, RetryPolicy::from_proto);
        let policies = RequestPolicies {
            error_matcher: error_matcher?.flatten(),
            mirrors: mirrors?.into(),
            hash: hash?,
            retry: retry?,
        };
        Ok((!policies.is_empty()).then_some(policies))
    }
}

impl RequestPolicies {
    fn is_empty(&self) -> bool {
        let Self {
            retry,
            hash,
            mirrors,
            error_matcher,
        } = self;
        retry.is_none() && hash.is_none() && mirrors.is_empty() && error_matcher.is_none()
    }

    /// The status by which outlier detection judges a response, which would be `status` otherwise.
    pub fn outlier_status(&self, head: &ResponseHead, status: u16) -> u16 {
        match &self.error_matcher {
            None => status,
            Some(matcher) if !matcher.matches(head) => 200,
            Some(_) if status >= 500 => status,
            Some(_) => 500,
        }
    }
}

impl ErrorMatcher {
    fn from_proto(
        proto: matcher_pb::MatchPredicate,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let matcher_pb::MatchPredicate { rule } = proto;
        let set = |name, MatchSet { rules }| {
            let rules = path.field(name).each("rules", rules, Self::from_proto)?;
            Ok(rules.into_boxed_slice())
        };
        Ok(match path.required("rule", rule)? {
            Rule::OrMatch(rules) => Self::Or(set("or_match", rules)?),
            Rule::AndMatch(rules) => Self::And(set("and_match", rules)?),
            Rule::NotMatch(rule) => {
                Self::Not(Box::new(Self::from_proto(*rule, &path.field("not_match"))?))
            }
            Rule::AnyMatch(_) => Self::Any,
            Rule::HttpResponseHeadersMatch(matcher_pb::HttpHeadersMatch { headers }) => {
                let path = path.field("http_response_headers_match");
                let headers = path.each("headers", headers, HeaderMatcher::from_proto)?;
                Self::ResponseHeaders(headers.into())
            }
            // As in Envoy: none of these is looked at.
            Rule::HttpRequestHeadersMatch(_)
            | Rule::HttpRequestTrailersMatch(_)
            | Rule::HttpResponseTrailersMatch(_)
            | Rule::HttpRequestGenericBodyMatch(_)
            | Rule::HttpResponseGenericBodyMatch(_) => Self::Never,
        })
    }

    fn matches(&self, head: &ResponseHead) -> bool {
        match self {
            Self::Any => true,
            Self::Never => false,
            Self::ResponseHeaders(headers) => headers.iter().all(|header| header.matches(head)),
            Self::And(rules) => rules.iter().all(|rule| rule.matches(head)),
            Self::Or(rules) => rules.iter().any(|rule| rule.matches(head)),
            Self::Not(rule) => !rule.matches(head),
        }
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::envoy::config::route::v3::HeaderMatcher as PbHeaderMatcher;
    use route_pb::header_matcher::HeaderMatchSpecifier;

    use super::*;
    use crate::config::ConfigReport;

    fn has(name: &str) -> matcher_pb::MatchPredicate {
        rule(Rule::HttpResponseHeadersMatch(
            matcher_pb::HttpHeadersMatch {
                headers: vec![PbHeaderMatcher {
                    name: name.to_owned(),
                    header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
                    ..Default::default()
                }],
            },
        ))
    }

    fn rule(rule: Rule) -> matcher_pb::MatchPredicate {
        matcher_pb::MatchPredicate { rule: Some(rule) }
    }

    fn status(predicate: matcher_pb::MatchPredicate, head: &ResponseHead) -> u16 {
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "matcher");
        let policies = RequestPolicies {
            retry: None,
            hash: None,
            mirrors: Box::default(),
            error_matcher: Some(ErrorMatcher::from_proto(predicate, &path).unwrap()),
        };
        policies.outlier_status(head, head.status)
    }

    #[test]
    fn the_matcher_alone_says_what_is_an_error() {
        let mut good = ResponseHead::new(200);
        good.fields.append("x-bad", "1");
        let bad = ResponseHead::new(503);
        assert_eq!(
            (status(has("x-bad"), &good), status(has("x-bad"), &bad)),
            (500, 200)
        );
        let neither = || rule(Rule::NotMatch(Box::new(has("x-bad"))));
        assert_eq!(
            (status(neither(), &good), status(neither(), &bad)),
            (200, 503)
        );
        let both = |rules| rule(Rule::AndMatch(MatchSet { rules }));
        assert_eq!(status(both(vec![has("x-bad"), neither()]), &good), 200);
        let either = |rules| rule(Rule::OrMatch(MatchSet { rules }));
        assert_eq!(status(either(vec![has("x-bad"), neither()]), &good), 500);
        let of_request = Rule::HttpRequestHeadersMatch(matcher_pb::HttpHeadersMatch::default());
        assert_eq!(status(rule(of_request), &bad), 200);
    }
}
