//! `envoy.filters.http.csrf`: refuses requests that change something and come from a page of another origin.
//!
//! Type URL: `envoy.extensions.filters.http.csrf.v3.CsrfPolicy`, for the filter and for routes.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/csrf_filter>
//! Stats: `<prefix>csrf.{missing_source_origin,request_invalid,request_valid}`. Details: `csrf_origin_mismatch`.
//!
//! Deviations: none.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::http::csrf::v3 as pb;

use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, LocalReply,
    RouteFilterConfig, StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, Known, Method, RequestHead};
use crate::matchers::StringMatcher;
use crate::runtime::RuntimeFraction;
use crate::server::{FactoryContext, Worker};

/// Makes filters that look at origins.
pub(super) struct Factory;

const TYPE_NAMES: &[&str] = &["envoy.extensions.filters.http.csrf.v3.CsrfPolicy"];

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.csrf"
    }

    fn type_names(&self) -> &'static [&'static str] {
        TYPE_NAMES
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        TYPE_NAMES
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        Ok(Arc::new(Config {
            policy: Policy::from_proto(config.decode(path)?, cx, path)?,
            stats: Stats::new(&cx.scope.scope("csrf.")),
        }))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let policy = Policy::from_proto(config.decode(path)?, cx, path)?;
        Ok(Arc::new(policy))
    }
}

crate::stats_group! {
    /// What the filter decides, of routes as well.
    struct Stats {
        counter missing_source_origin;
        counter request_invalid;
        counter request_valid;
    }
}

struct Config {
    policy: Policy,
    stats: Stats,
}

/// What is looked at and enforced; of the filter or of a route.
struct Policy {
    filter_enabled: RuntimeFraction,
    /// None: never.
    shadow_enabled: Option<RuntimeFraction>,
    additional_origins: Vec<StringMatcher>,
}

impl Policy {
    fn from_proto(
        proto: pb::CsrfPolicy,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::CsrfPolicy {
            filter_enabled,
            shadow_enabled,
            additional_origins,
        } = proto;
        let fraction = |proto, path: &ConfigPath<'_>| {
            RuntimeFraction::from_proto(proto, &cx.server.runtime, path)
        };
        let enabled = path
            .required("filter_enabled", filter_enabled)
            .and_then(|proto| fraction(proto, &path.field("filter_enabled")));
        let shadow = path.optional("shadow_enabled", shadow_enabled, fraction);
        let origins = path.each(
            "additional_origins",
            additional_origins,
            StringMatcher::from_proto,
        );
        Ok(Self {
            filter_enabled: enabled?,
            shadow_enabled: shadow?,
            additional_origins: origins?,
        })
    }
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self);
        Box::new(move || -> Box<dyn HttpFilter> { Box::new(Csrf(config.clone())) })
    }

    fn is_idle(&self) -> bool {
        let policy = &self.policy;
        let shadow = policy.shadow_enabled.as_ref();
        policy.filter_enabled.is_never() && shadow.is_none_or(RuntimeFraction::is_never)
    }
}

struct Csrf(Rc<Arc<Config>>);

impl HttpFilter for Csrf {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _end: EndStream,
    ) -> HeadersStatus {
        let changes = matches!(
            head.method(),
            Method::Post | Method::Put | Method::Delete | Method::Patch
        );
        if !changes {
            return HeadersStatus::Continue;
        }
        let policy = cx.route_config::<Policy>().unwrap_or(&self.0.policy);
        let random = &cx.worker.random;
        let enabled = policy.filter_enabled.contains(random.next());
        let shadow = || {
            let fraction = policy.shadow_enabled.as_ref();
            fraction.is_some_and(|fraction| fraction.contains(random.next()))
        };
        if !enabled && !shadow() {
            return HeadersStatus::Continue;
        }
        let stats = &self.0.stats;
        let source = source_origin(head);
        if source.is_empty() {
            stats.missing_source_origin().inc();
        } else if source == host_and_port(head.authority().unwrap_or_default())
            || policy.additional_origins.iter().any(|m| m.matches(source))
        {
            stats.request_valid().inc();
            return HeadersStatus::Continue;
        } else {
            stats.request_invalid().inc();
        }
        if !enabled {
            return HeadersStatus::Continue;
        }
        let reply = LocalReply::new(403, "csrf_origin_mismatch").with_body("Invalid origin");
        HeadersStatus::LocalReply(reply)
    }
}

/// Where the request comes from, as host and port; empty where nobody knows.
fn source_origin(head: &RequestHead) -> &[u8] {
    let origin = head.fields.get(Known::Origin).unwrap_or_default();
    // What a browser says that must not tell.
    if origin == b"null" {
        return b"";
    }
    match host_and_port(origin) {
        b"" => host_and_port(head.fields.get(Known::Referer).unwrap_or_default()),
        origin => origin,
    }
}

/// The host of a URL with its port as it is written; all of what is no URL.
fn host_and_port(value: &[u8]) -> &[u8] {
    let Some(at) = value.windows(3).position(|w| w == b"://") else {
        return value;
    };
    let (scheme, rest) = (&value[..at], &value[at + 3..]);
    if scheme.is_empty() || !scheme.iter().all(u8::is_ascii_alphabetic) {
        return value;
    }
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?'));
    let authority = &rest[..end.unwrap_or(rest.len())];
    let start = authority.iter().rposition(|b| *b == b'@');
    let host = &authority[start.map_or(0, |at| at + 1)..];
    let legal = |b: &u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(b);
    if host.is_empty() || !host.iter().all(legal) {
        return value;
    }
    host
}

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::envoy::config::core::v3::RuntimeFractionalPercent;
    use outrigger_proto::pb::envoy::r#type::matcher::v3::StringMatcher as MatcherPb;
    use outrigger_proto::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
    use outrigger_proto::pb::envoy::r#type::v3::FractionalPercent;

    use super::super::test_support::{Harness, errors};
    use super::*;

    fn percent(numerator: u32) -> Option<RuntimeFractionalPercent> {
        Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator,
                denominator: 0,
            }),
            runtime_key: String::new(),
        })
    }

    fn policy(enabled: u32, shadow: u32) -> pb::CsrfPolicy {
        pb::CsrfPolicy {
            filter_enabled: percent(enabled),
            shadow_enabled: percent(shadow),
            additional_origins: Vec::new(),
        }
    }

    /// The details of the reply to a POST with these fields, if there is one.
    fn refused(harness: &Harness, fields: &[(&str, &str)]) -> bool {
        let fields = [&[(":method", "POST")], fields].concat();
        let status = harness.stream_with(&fields).decode_headers(true);
        if status.is_continue() {
            return false;
        }
        assert_eq!(status.reply().details, "csrf_origin_mismatch");
        true
    }

    #[test]
    fn only_the_own_origin_may_change_something() {
        let harness = Harness::new(&policy(100, 0));
        assert!(!refused(&harness, &[("origin", "https://example.com")]));
        assert!(!refused(&harness, &[("referer", "http://example.com/x")]));
        assert!(refused(&harness, &[("origin", "https://evil.com")]));
        assert!(refused(&harness, &[("origin", "https://example.com:80")]));
        let null = [("origin", "null"), ("referer", "http://example.com/")];
        assert!(refused(&harness, &null));
        assert!(refused(&harness, &[]));
        assert!(harness.stream().decode_headers(true).is_continue());
        let count = |name: &str| harness.stat(&format!("http.test.csrf.{name}"));
        assert_eq!(count("request_valid"), 2);
        assert_eq!(count("request_invalid"), 2);
        assert_eq!(count("missing_source_origin"), 2);
    }

    #[test]
    fn other_origins_may_be_named_and_a_route_may_say_so() {
        let route = pb::CsrfPolicy {
            additional_origins: vec![MatcherPb {
                match_pattern: Some(MatchPattern::Suffix("friend.com".to_owned())),
                ignore_case: false,
            }],
            ..policy(100, 0)
        };
        let harness = Harness::with_route(&policy(100, 0), &route);
        assert!(!refused(&harness, &[("origin", "https://a.friend.com")]));
        assert!(refused(&harness, &[("origin", "https://evil.com")]));
    }

    #[test]
    fn a_shadow_counts_and_lets_pass() {
        let harness = Harness::new(&policy(0, 100));
        assert!(!refused(&harness, &[("origin", "https://evil.com")]));
        assert_eq!(harness.stat("http.test.csrf.request_invalid"), 1);
        let harness = Harness::new(&policy(0, 0));
        assert!(!refused(&harness, &[("origin", "https://evil.com")]));
        assert_eq!(harness.stat("http.test.csrf.request_invalid"), 0);
    }

    #[test]
    fn the_host_of_a_url_is_what_stands_behind_its_user() {
        for (value, host) in [
            ("http://a:1/x", "a:1"),
            ("http://u:p@a?x", "a"),
            ("http://[::1]:80", "[::1]:80"),
            ("a.com", "a.com"),
            ("http://", "http://"),
            ("h2://a", "h2://a"),
            ("http://a b", "http://a b"),
            ("http://a#b", "http://a#b"),
        ] {
            assert_eq!(host_and_port(value.as_bytes()), host.as_bytes());
        }
    }

    #[test]
    fn a_policy_says_how_often_it_holds() {
        assert_eq!(
            errors(&pb::CsrfPolicy::default()),
            ["config / filter_enabled: has to be set"]
        );
    }
}
