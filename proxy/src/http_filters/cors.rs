//! `envoy.filters.http.cors`: answers preflight requests and marks responses for origins that are allowed.
//!
//! Type URLs: `envoy.extensions.filters.http.cors.v3.Cors` (empty), per route
//! `envoy.extensions.filters.http.cors.v3.CorsPolicy`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/cors_filter>
//! Stats: `<prefix>cors.origin_valid`, `<prefix>cors.origin_invalid`. Details: `cors_response`.
//!
//! Deviations: the answer to a preflight passes `local_reply_config`, which Envoy's does not.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_proto::pb::envoy::extensions::filters::http::cors::v3 as pb;

use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, LocalReply,
    RouteFilterConfig, StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, HeaderName, Known, Method, RequestHead, ResponseHead};
use crate::matchers::StringMatcher;
use crate::runtime::RuntimeFraction;
use crate::server::{FactoryContext, Worker};

/// Makes CORS filters.
pub(super) struct Factory;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.cors"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.cors.v3.Cors"]
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.cors.v3.CorsPolicy"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let pb::Cors {} = config.decode(path)?;
        let stats = Stats::new(&cx.scope.scope("cors."));
        Ok(Arc::new(Config { stats }))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        Ok(Arc::new(CorsPolicy::from_proto(
            config.decode(path)?,
            cx,
            path,
        )?))
    }

    /// Each field comes from the most specific policy that has it; whether the filter runs, from the most specific of all.
    #[allow(clippy::expect_used, reason = "the trait promises at least one")]
    fn merge(&self, configs: &[RouteFilterConfig]) -> RouteFilterConfig {
        let policies = || configs.iter().rev().filter_map(|c| c.downcast_ref());
        match (policies().next(), configs) {
            (Some(first), [_, _, ..]) => Arc::new(CorsPolicy::merge(first, policies())),
            _ => configs
                .last()
                .cloned()
                .expect("the caller has at least one"),
        }
    }
}

/// What routes allow. A field that is empty or missing is left to less specific policies.
#[derive(Debug)]
struct CorsPolicy {
    allow_origin_string_match: Arc<[StringMatcher]>,
    allow_methods: Bytes,
    allow_headers: Bytes,
    expose_headers: Bytes,
    max_age: Bytes,
    allow_credentials: Option<bool>,
    allow_private_network_access: Option<bool>,
    /// Sends preflights of other origins upstream, in place of an answer without permission. Default true.
    forward_not_matching_preflights: Option<bool>,
    /// None: always.
    filter_enabled: Option<RuntimeFraction>,
    /// None: never.
    shadow_enabled: Option<RuntimeFraction>,
}

impl CorsPolicy {
    fn from_proto(
        proto: pb::CorsPolicy,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::CorsPolicy {
            allow_origin_string_match,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
            allow_credentials,
            filter_enabled,
            shadow_enabled,
            allow_private_network_access,
            forward_not_matching_preflights,
        } = proto;
        let fraction = |name: &str, proto| {
            path.optional(name, proto, |proto, path| {
                RuntimeFraction::from_proto(proto, &cx.server.runtime, path)
            })
        };
        let origins = path.each(
            "allow_origin_string_match",
            allow_origin_string_match,
            StringMatcher::from_proto,
        );
        let filter_enabled = fraction("filter_enabled", filter_enabled);
        let shadow_enabled = fraction("shadow_enabled", shadow_enabled);
        Ok(Self {
            allow_origin_string_match: origins?.into(),
            allow_methods: allow_methods.into(),
            allow_headers: allow_headers.into(),
            expose_headers: expose_headers.into(),
            max_age: max_age.into(),
            allow_credentials: allow_credentials.map(|b| b.value),
            allow_private_network_access: allow_private_network_access.map(|b| b.value),
            forward_not_matching_preflights: forward_not_matching_preflights.map(|b| b.value),
            filter_enabled: filter_enabled?,
            shadow_enabled: shadow_enabled?,
        })
    }

    /// `policies` begin with `first`, the most specific one.
    fn merge<'a>(first: &Self, policies: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let text = |get: fn(&Self) -> &Bytes| {
            let mut all = policies.clone().map(get);
            all.find(|text| !text.is_empty())
                .cloned()
                .unwrap_or_default()
        };
        let switch = |get: fn(&Self) -> Option<bool>| policies.clone().find_map(get);
        let origins = policies.clone().map(|p| &p.allow_origin_string_match);
        Self {
            allow_origin_string_match: origins
                .clone()
                .find(|origins| !origins.is_empty())
                .cloned()
                .unwrap_or_default(),
            allow_methods: text(|p| &p.allow_methods),
            allow_headers: text(|p| &p.allow_headers),
            expose_headers: text(|p| &p.expose_headers),
            max_age: text(|p| &p.max_age),
            allow_credentials: switch(|p| p.allow_credentials),
            allow_private_network_access: switch(|p| p.allow_private_network_access),
            forward_not_matching_preflights: switch(|p| p.forward_not_matching_preflights),
            filter_enabled: first.filter_enabled.clone(),
            shadow_enabled: first.shadow_enabled.clone(),
        }
    }

    /// A matcher that matches `*` itself allows every origin.
    fn allows(&self, origin: &[u8]) -> bool {
        self.allow_origin_string_match
            .iter()
            .any(|matcher| matcher.matches(b"*") || matcher.matches(origin))
    }

    fn preflight_reply(&self, head: &RequestHead, origin: Option<&[u8]>) -> LocalReply {
        let mut reply = LocalReply::new(200, "cors_response");
        let mut add = |name: &str, value: Bytes| {
            reply.headers.push((HeaderName::new(name), value));
        };
        if let Some(origin) = origin {
            add(ALLOW_ORIGIN, Bytes::copy_from_slice(origin));
        }
        if self.allow_credentials == Some(true) {
            add(ALLOW_CREDENTIALS, Bytes::from_static(b"true"));
        }
        let requested = |allowed: &Bytes, asked: Known| match &allowed[..] {
            b"" => None,
            b"*" => Some(Bytes::copy_from_slice(
                head.fields.get(asked).unwrap_or_default(),
            )),
            _ => Some(allowed.clone()),
        };
        let methods = requested(&self.allow_methods, Known::AccessControlRequestMethod);
        if let Some(methods) = methods {
            add("access-control-allow-methods", methods);
        }
        let headers = requested(&self.allow_headers, Known::AccessControlRequestHeaders);
        if let Some(headers) = headers {
            add("access-control-allow-headers", headers);
        }
        if !self.max_age.is_empty() {
            add("access-control-max-age", self.max_age.clone());
        }
        let private = head.fields.get("access-control-request-private-network");
        if self.allow_private_network_access == Some(true) && private == Some(b"true") {
            add(
                "access-control-allow-private-network",
                Bytes::from_static(b"true"),
            );
        }
        reply
    }
}

const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const ALLOW_CREDENTIALS: &str = "access-control-allow-credentials";

crate::stats_group! {
    /// What the filter counts.
    struct Stats {
        counter origin_valid;
        counter origin_invalid;
    }
}

struct Config {
    stats: Stats,
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let stats = Rc::new(self.stats.clone());
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(Cors {
                stats: stats.clone(),
                origin: None,
            })
        })
    }

    fn is_idle(&self) -> bool {
        true
    }
}

struct Cors {
    stats: Rc<Stats>,
    /// The origin of the request, once it was found to be allowed.
    origin: Option<Box<[u8]>>,
}

impl HttpFilter for Cors {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS.and(Interests::ENCODE_HEADERS)
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _: EndStream,
    ) -> HeadersStatus {
        // A route that answers by itself has no policy.
        if cx.route().is_none_or(|route| route.forward().is_none()) {
            return HeadersStatus::Continue;
        }
        let random = &cx.worker.random;
        let Some(policy) = cx.route_config::<CorsPolicy>() else {
            return HeadersStatus::Continue;
        };
        let is = |fraction: &Option<RuntimeFraction>, default| {
            fraction
                .as_ref()
                .map_or(default, |fraction| fraction.contains(random.next()))
        };
        let enabled = is(&policy.filter_enabled, true);
        if !enabled && !is(&policy.shadow_enabled, false) {
            return HeadersStatus::Continue;
        }
        let origin = head.fields.get(Known::Origin).unwrap_or_default();
        if origin.is_empty() {
            return HeadersStatus::Continue;
        }
        let allowed = policy.allows(origin);
        if allowed {
            self.stats.origin_valid().inc();
        } else {
            self.stats.origin_invalid().inc();
        }
        if !enabled {
            return HeadersStatus::Continue;
        }
        if allowed {
            self.origin = Some(origin.into());
        }
        let asked = head.fields.get(Known::AccessControlRequestMethod);
        let preflight = head.method() == Method::Options && asked.is_some_and(|m| !m.is_empty());
        let forwarded = !allowed && policy.forward_not_matching_preflights.unwrap_or(true);
        if !preflight || forwarded {
            return HeadersStatus::Continue;
        }
        HeadersStatus::LocalReply(policy.preflight_reply(head, self.origin.as_deref()))
    }

    fn encode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        _: EndStream,
    ) -> HeadersStatus {
        let Some(origin) = self.origin.as_deref() else {
            return HeadersStatus::Continue;
        };
        head.fields.set(Known::AccessControlAllowOrigin, origin);
        if let Some(policy) = cx.route_config::<CorsPolicy>() {
            if policy.allow_credentials == Some(true) {
                head.fields
                    .set(Known::AccessControlAllowCredentials, "true");
            }
            if !policy.expose_headers.is_empty() {
                head.fields
                    .set("access-control-expose-headers", &policy.expose_headers);
            }
        }
        HeadersStatus::Continue
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::envoy::config::core::v3::RuntimeFractionalPercent;
    use outrigger_proto::pb::envoy::config::route::v3 as route_pb;
    use outrigger_proto::pb::envoy::r#type::matcher::v3 as matcher_pb;
    use outrigger_proto::pb::envoy::r#type::v3::FractionalPercent;
    use outrigger_proto::pb::google::protobuf::BoolValue;

    use super::super::test_support::{Harness, errors, forward, per_filter, virtual_host};
    use super::*;

    fn exact(origin: &str) -> matcher_pb::StringMatcher {
        matcher_pb::StringMatcher {
            match_pattern: Some(matcher_pb::string_matcher::MatchPattern::Exact(
                origin.to_owned(),
            )),
            ..Default::default()
        }
    }

    fn policy() -> pb::CorsPolicy {
        pb::CorsPolicy {
            allow_origin_string_match: vec![exact("http://good")],
            allow_methods: "GET, POST".to_owned(),
            allow_headers: "*".to_owned(),
            expose_headers: "x-seen".to_owned(),
            max_age: "600".to_owned(),
            allow_credentials: Some(BoolValue { value: true }),
            ..Default::default()
        }
    }

    fn preflight(origin: &str) -> Vec<(&'static str, String)> {
        vec![
            (":method", "OPTIONS".to_owned()),
            ("origin", origin.to_owned()),
            ("access-control-request-method", "PUT".to_owned()),
            ("access-control-request-headers", "x-one, x-two".to_owned()),
        ]
    }

    fn decode(harness: &Harness, fields: &[(&str, String)]) -> HeadersStatus {
        let fields: Vec<_> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
        harness.stream_with(&fields).decode_headers(true)
    }

    #[test]
    fn a_preflight_from_an_allowed_origin_is_answered_here() {
        let harness = Harness::with_route(&pb::Cors {}, &policy());
        let reply = decode(&harness, &preflight("http://good")).reply();
        assert_eq!((reply.status, &*reply.details), (200, "cors_response"));
        assert_eq!(
            reply.header("access-control-allow-origin"),
            Some("http://good")
        );
        assert_eq!(
            reply.header("access-control-allow-credentials"),
            Some("true")
        );
        assert_eq!(
            reply.header("access-control-allow-methods"),
            Some("GET, POST")
        );
        assert_eq!(
            reply.header("access-control-allow-headers"),
            Some("x-one, x-two")
        );
        assert_eq!(reply.header("access-control-max-age"), Some("600"));
        assert_eq!(reply.header("access-control-allow-private-network"), None);
        assert_eq!(harness.stat("http.test.cors.origin_valid"), 1);
    }

    #[test]
    fn a_preflight_from_another_origin_goes_upstream_unless_configured_otherwise() {
        let harness = Harness::with_route(&pb::Cors {}, &policy());
        assert!(decode(&harness, &preflight("http://bad")).is_continue());
        assert_eq!(harness.stat("http.test.cors.origin_invalid"), 1);
        let harness = Harness::with_route(
            &pb::Cors {},
            &pb::CorsPolicy {
                forward_not_matching_preflights: Some(BoolValue { value: false }),
                ..policy()
            },
        );
        let reply = decode(&harness, &preflight("http://bad")).reply();
        assert_eq!(reply.header("access-control-allow-origin"), None);
        assert_eq!(
            reply.header("access-control-allow-methods"),
            Some("GET, POST")
        );
    }

    #[test]
    fn responses_to_allowed_origins_are_marked_and_others_are_not() {
        let harness = Harness::with_route(&pb::Cors {}, &policy());
        for (origin, marked) in [("http://good", true), ("http://bad", false)] {
            let mut stream = harness.stream_with(&[("origin", origin)]);
            assert!(stream.decode_headers(true).is_continue());
            stream.encode_headers(true);
            let fields = &stream.response.fields;
            assert_eq!(fields.contains("access-control-allow-origin"), marked);
            assert_eq!(fields.contains("access-control-allow-credentials"), marked);
            assert_eq!(fields.contains("access-control-expose-headers"), marked);
        }
        let mut stream = harness.stream();
        stream.decode_headers(true);
        stream.encode_headers(true);
        assert!(stream.response.fields.is_empty(), "no origin");
    }

    #[test]
    fn a_policy_in_the_shadow_only_counts() {
        let percent = |numerator| {
            Some(RuntimeFractionalPercent {
                default_value: Some(FractionalPercent {
                    numerator,
                    denominator: 0,
                }),
                runtime_key: String::new(),
            })
        };
        let shadow = pb::CorsPolicy {
            filter_enabled: percent(0),
            shadow_enabled: percent(100),
            ..policy()
        };
        let harness = Harness::with_route(&pb::Cors {}, &shadow);
        assert!(decode(&harness, &preflight("http://good")).is_continue());
        assert_eq!(harness.stat("http.test.cors.origin_valid"), 1);
        let off = pb::CorsPolicy {
            shadow_enabled: percent(0),
            ..shadow
        };
        let harness = Harness::with_route(&pb::Cors {}, &off);
        assert!(decode(&harness, &preflight("http://good")).is_continue());
        assert_eq!(harness.stat("http.test.cors.origin_valid"), 0);
    }

    #[test]
    fn a_route_leaves_what_it_does_not_say_to_its_virtual_host() {
        let route = route_pb::Route {
            typed_per_filter_config: per_filter(&pb::CorsPolicy {
                allow_methods: "*".to_owned(),
                allow_private_network_access: Some(BoolValue { value: true }),
                ..Default::default()
            }),
            ..forward()
        };
        let host = route_pb::VirtualHost {
            typed_per_filter_config: per_filter(&policy()),
            ..virtual_host(route)
        };
        let harness = Harness::with_host(&pb::Cors {}, host);
        let mut fields = preflight("http://good");
        fields.push(("access-control-request-private-network", "true".to_owned()));
        let reply = decode(&harness, &fields).reply();
        assert_eq!(reply.header("access-control-allow-methods"), Some("PUT"));
        assert_eq!(reply.header("access-control-max-age"), Some("600"));
        assert_eq!(
            reply.header("access-control-allow-private-network"),
            Some("true")
        );
    }

    #[test]
    fn a_star_allows_every_origin() {
        let star = pb::CorsPolicy {
            allow_origin_string_match: vec![exact("*")],
            ..policy()
        };
        let harness = Harness::with_route(&pb::Cors {}, &star);
        let reply = decode(&harness, &preflight("http://any")).reply();
        assert_eq!(
            reply.header("access-control-allow-origin"),
            Some("http://any")
        );
    }

    #[test]
    fn without_a_policy_the_filter_does_nothing() {
        let harness = Harness::new(&pb::Cors {});
        assert!(decode(&harness, &preflight("http://good")).is_continue());
        assert_eq!(harness.stat("http.test.cors.origin_valid"), 0);
    }

    #[test]
    fn every_matcher_that_is_wrong_names_its_path() {
        let bad = pb::CorsPolicy {
            allow_origin_string_match: vec![exact("x"), matcher_pb::StringMatcher::default()],
            ..Default::default()
        };
        let errors = errors(&bad);
        assert_eq!(errors.len(), 1);
        assert!(
            errors[0].starts_with("config / allow_origin_string_match[1]"),
            "{errors:?}"
        );
    }
}
