//! `envoy.filters.http.api_key_auth`: lets requests pass that carry a known key, and says whose it is.
//!
//! Type URLs: `envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth`, per route
//! `envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/api_key_auth_filter>
//! Stats: `<prefix>api_key_auth.{allowed,forbidden,unauthorized}`. Details: `missing_key_sources`, `missing_credentials`,
//! `missing_api_key`, `unknown_api_key`, `client_not_allowed`.
//!
//! Deviations: where `hide_credentials` takes a key out of the query, the other parameters keep their escapes, which Envoy
//! sends on decoded.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::http::api_key_auth::v3 as pb;

use super::query::{Query, remove_parameter};
use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, LocalReply,
    RouteFilterConfig, StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, Fields, HeaderName, Known, RequestHead};
use crate::matchers::cookie_value;
use crate::server::{FactoryContext, Worker};

/// Makes filters that ask for keys.
pub(super) struct Factory;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.api_key_auth"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth"]
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuthPerRoute"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let pb::ApiKeyAuth {
            credentials,
            key_sources,
            forwarding,
        } = config.decode(path)?;
        Ok(Arc::new(Config {
            settings: Settings::from_proto(credentials, key_sources, forwarding, path)?,
            stats: Stats::new(&cx.scope.scope("api_key_auth.")),
        }))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let pb::ApiKeyAuthPerRoute {
            credentials,
            key_sources,
            allowed_clients,
            forwarding,
        } = config.decode(path)?;
        Ok(Arc::new(PerRoute {
            settings: Settings::from_proto(credentials, key_sources, forwarding, path)?,
            allowed_clients: allowed_clients.into_iter().map(Into::into).collect(),
        }))
    }
}

crate::stats_group! {
    /// What the filter decides.
    struct Stats {
        counter allowed;
        counter forbidden;
        counter unauthorized;
    }
}

struct Config {
    settings: Settings,
    stats: Stats,
}

/// What a route says; what its settings lack is that of the filter.
struct PerRoute {
    settings: Settings,
    /// Empty: every client whose key is known.
    allowed_clients: HashSet<Box<str>>,
}

#[derive(Default)]
struct Settings {
    /// Clients by their keys. Empty: not said.
    credentials: HashMap<Box<[u8]>, Box<str>>,
    /// Empty: not said.
    key_sources: Vec<KeySource>,
    forwarding: Option<Forwarding>,
}

/// Where a key may stand.
enum KeySource {
    Header(HeaderName),
    Query(Box<[u8]>),
    Cookie(Box<[u8]>),
}

/// What goes on to the upstream.
struct Forwarding {
    /// What names the client; none: nothing does.
    header: Option<HeaderName>,
    hide_credentials: bool,
}

impl Settings {
    fn from_proto(
        credentials: Vec<pb::Credential>,
        key_sources: Vec<pb::KeySource>,
        forwarding: Option<pb::Forwarding>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let mut by_key = HashMap::new();
        let credentials = path.each("credentials", credentials, |credential, path| {
            let pb::Credential { key, client } = credential;
            let key = path.non_empty("key", key)?;
            let client = path.non_empty("client", client)?;
            match by_key.insert(Box::from(key.as_bytes()), client.into()) {
                // The key itself is a secret.
                Some(_) => Err(path.field("key").reject("is that of an earlier credential")),
                None => Ok(()),
            }
        });
        let sources = path.each("key_sources", key_sources, KeySource::from_proto);
        let forwarding = forwarding.map(|forwarding| {
            let pb::Forwarding {
                header,
                hide_credentials,
            } = forwarding;
            Forwarding {
                header: (!header.is_empty()).then(|| HeaderName::new(header)),
                hide_credentials,
            }
        });
        credentials?;
        Ok(Self {
            credentials: by_key,
            key_sources: sources?,
            forwarding,
        })
    }
}

impl KeySource {
    fn from_proto(proto: pb::KeySource, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::KeySource {
            header,
            query,
            cookie,
        } = proto;
        if !header.is_empty() {
            Ok(Self::Header(HeaderName::new(header)))
        } else if !query.is_empty() {
            Ok(Self::Query(query.into_bytes().into()))
        } else if !cookie.is_empty() {
            Ok(Self::Cookie(cookie.into_bytes().into()))
        } else {
            Err(path.reject("needs one of header, query, cookie"))
        }
    }

    /// The key that stands there; empty: none does.
    fn key<'a>(&self, head: &'a RequestHead) -> Cow<'a, [u8]> {
        match self {
            Self::Header(name) => {
                let value = head.fields.get(name).unwrap_or_default();
                value.strip_prefix(b"Bearer ").unwrap_or(value).into()
            }
            Self::Query(name) => {
                let path = head.path().unwrap_or_default();
                if !path.contains(&b'?') {
                    return Cow::default();
                }
                Query::of_path(path).first(name).unwrap_or_default().into()
            }
            Self::Cookie(name) => cookie_value(&head.fields, name).unwrap_or_default().into(),
        }
    }

    /// Takes the key away.
    fn hide(&self, head: &mut RequestHead) {
        match self {
            Self::Header(name) => {
                head.fields.remove(name);
            }
            Self::Query(name) => {
                if head.path().is_some_and(|path| path.contains(&b'?')) {
                    remove_parameter(head, name);
                }
            }
            Self::Cookie(name) => remove_cookie(&mut head.fields, name),
        }
    }
}

/// Takes all cookies of one name away, and writes the others into one field.
fn remove_cookie(fields: &mut Fields, name: &[u8]) {
    let mut rest = Vec::new();
    for header in fields.get_all(&Known::Cookie) {
        for cookie in header.split(|b| *b == b';') {
            let cookie = cookie.trim_ascii();
            // What is no pair of name and value is no cookie.
            let Some(equals) = cookie.iter().position(|b| *b == b'=') else {
                continue;
            };
            if &cookie[..equals] == name {
                continue;
            }
            if !rest.is_empty() {
                rest.extend_from_slice(b"; ");
            }
            rest.extend_from_slice(cookie);
        }
    }
    if rest.is_empty() {
        fields.remove(Known::Cookie);
    } else {
        fields.set(Known::Cookie, rest);
    }
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self);
        Box::new(move || -> Box<dyn HttpFilter> { Box::new(ApiKeyAuth(config.clone())) })
    }
}

struct ApiKeyAuth(Rc<Arc<Config>>);

impl HttpFilter for ApiKeyAuth {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _end: EndStream,
    ) -> HeadersStatus {
        let config = &*self.0;
        let route = cx.route_config::<PerRoute>();
        match admit(&config.settings, route, head) {
            Ok(()) => {
                config.stats.allowed().inc();
                HeadersStatus::Continue
            }
            Err(reply) => {
                match reply.status {
                    401 => config.stats.unauthorized().inc(),
                    _ => config.stats.forbidden().inc(),
                }
                HeadersStatus::LocalReply(reply)
            }
        }
    }
}

fn admit(
    filter: &Settings,
    route: Option<&PerRoute>,
    head: &mut RequestHead,
) -> Result<(), LocalReply> {
    let unauthorized = |details: &'static str| {
        LocalReply::new(401, details).with_body("Client authentication failed.")
    };
    let own = route.map(|route| &route.settings);
    let sources = match own.map_or(&[][..], |own| &own.key_sources) {
        [] => &*filter.key_sources,
        own => own,
    };
    if sources.is_empty() {
        return Err(unauthorized("missing_key_sources"));
    }
    let credentials = match own {
        Some(own) if !own.credentials.is_empty() => &own.credentials,
        _ => &filter.credentials,
    };
    if credentials.is_empty() {
        return Err(unauthorized("missing_credentials"));
    }
    let key = sources.iter().map(|source| source.key(head));
    let Some(key) = key.into_iter().find(|key| !key.is_empty()) else {
        return Err(unauthorized("missing_api_key"));
    };
    let Some(client) = credentials.get(&*key) else {
        return Err(unauthorized("unknown_api_key"));
    };
    if let Some(route) = route
        && !route.allowed_clients.is_empty()
        && !route.allowed_clients.contains(client)
    {
        return Err(LocalReply::new(403, "client_not_allowed").with_body("Client is forbidden."));
    }
    let own = own.and_then(|own| own.forwarding.as_ref());
    if let Some(forwarding) = own.or(filter.forwarding.as_ref()) {
        if let Some(header) = &forwarding.header {
            head.set_field(header, client.as_bytes());
        }
        if forwarding.hide_credentials {
            sources.iter().for_each(|source| source.hide(head));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Harness, errors};
    use super::*;

    fn credential(key: &str, client: &str) -> pb::Credential {
        pb::Credential {
            key: key.to_owned(),
            client: client.to_owned(),
        }
    }

    fn source(header: &str, query: &str, cookie: &str) -> pb::KeySource {
        pb::KeySource {
            header: header.to_owned(),
            query: query.to_owned(),
            cookie: cookie.to_owned(),
        }
    }

    fn config(hide_credentials: bool) -> pb::ApiKeyAuth {
        pb::ApiKeyAuth {
            credentials: vec![credential("k1", "one"), credential("k2", "two")],
            key_sources: vec![
                source("X-Key", "", ""),
                source("", "key", ""),
                source("", "", "ck"),
            ],
            forwarding: Some(pb::Forwarding {
                header: "X-Client".to_owned(),
                hide_credentials,
            }),
        }
    }

    #[test]
    fn a_key_is_found_in_each_of_its_places_and_names_the_client() {
        let harness = Harness::new(&config(false));
        for field in [
            ("x-key", "k1"),
            ("x-key", "Bearer k1"),
            (":path", "/?key=%6b1"),
            ("cookie", "a=b; ck=k1"),
        ] {
            let mut stream = harness.stream_with(&[field]);
            assert!(stream.decode_headers(true).is_continue());
            assert_eq!(stream.request.fields.get_str("x-client"), Some("one"));
        }
        assert_eq!(harness.stat("http.test.api_key_auth.allowed"), 4);
    }

    #[test]
    fn the_first_place_with_a_key_decides() {
        let harness = Harness::new(&config(false));
        let mut stream = harness.stream_with(&[("x-key", "no"), ("cookie", "ck=k1")]);
        let reply = stream.decode_headers(true).reply();
        assert_eq!((reply.status, &*reply.details), (401, "unknown_api_key"));
        let reply = harness.stream().decode_headers(true).reply();
        assert_eq!((reply.status, &*reply.details), (401, "missing_api_key"));
        assert_eq!(harness.stat("http.test.api_key_auth.unauthorized"), 2);
    }

    #[test]
    fn keys_are_hidden_wherever_they_stand() {
        let harness = Harness::new(&config(true));
        let mut stream = harness.stream_with(&[
            (":path", "/p?key=k1&b=%20c"),
            ("x-key", "k1"),
            ("cookie", "a=b;ck=k1; c=d"),
        ]);
        assert!(stream.decode_headers(true).is_continue());
        assert_eq!(stream.request.path(), Some(&b"/p?b=%20c"[..]));
        assert!(!stream.request.fields.contains("x-key"));
        assert_eq!(stream.request.fields.get_str("cookie"), Some("a=b; c=d"));
        let mut stream = harness.stream_with(&[("cookie", "ck=k1")]);
        assert!(stream.decode_headers(true).is_continue());
        assert!(!stream.request.fields.contains("cookie"));
    }

    #[test]
    fn a_route_replaces_what_it_names_and_chooses_clients() {
        let route = pb::ApiKeyAuthPerRoute {
            key_sources: vec![source("x-other", "", "")],
            allowed_clients: vec!["two".to_owned()],
            ..Default::default()
        };
        let harness = Harness::with_route(&config(false), &route);
        let mut one = harness.stream_with(&[("x-other", "k1")]);
        let reply = one.decode_headers(true).reply();
        assert_eq!((reply.status, &*reply.details), (403, "client_not_allowed"));
        assert_eq!(harness.stat("http.test.api_key_auth.forbidden"), 1);
        let mut two = harness.stream_with(&[("x-other", "k2")]);
        assert!(two.decode_headers(true).is_continue());
        let mut elsewhere = harness.stream_with(&[("x-key", "k2")]);
        assert_eq!(elsewhere.decode_headers(true).reply().status, 401);
    }

    #[test]
    fn without_places_or_keys_nobody_passes() {
        let mut empty = pb::ApiKeyAuth::default();
        let reply = Harness::new(&empty).stream().decode_headers(true).reply();
        assert_eq!(reply.details, "missing_key_sources");
        empty.key_sources = config(false).key_sources;
        let reply = Harness::new(&empty).stream().decode_headers(true).reply();
        assert_eq!(reply.details, "missing_credentials");
    }

    #[test]
    fn keys_are_not_given_twice_and_places_are_named() {
        let bad = pb::ApiKeyAuth {
            credentials: vec![credential("secret", "one"), credential("secret", "two")],
            key_sources: vec![source("", "", "")],
            ..Default::default()
        };
        assert_eq!(
            errors(&bad),
            [
                "config / credentials[1] / key: is that of an earlier credential",
                "config / key_sources[0]: needs one of header, query, cookie",
            ]
        );
    }
}
