//! `envoy.filters.http.jwt_authn`: lets requests pass that carry the JSON web tokens they must.
//!
//! Type URLs: `envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication`, per route
//! `envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/jwt_authn_filter>
//! Stats: `<prefix>jwt_authn.[<stat_prefix>.]`: `allowed`, `denied`, `cors_preflight_bypassed`, `jwks_fetch_success`,
//! `jwks_fetch_failed`, `jwt_cache_hit`, `jwt_cache_miss`. Details: `jwt_authn_access_denied{…}`.
//! Dynamic metadata: namespace `envoy.filters.http.jwt_authn`.
//!
//! Deviations: keys that a request makes the proxy fetch are shared by all workers, where each of Envoy's fetches its own.
//! Deviations: RSA keys below 2048 bits verify nothing, and a PS signature must have a salt as long as its hash.
//! Deviations: a pseudo header in `claim_to_headers` or `forward_payload_header` is refused; Envoy then answers each request 503.
//! Deviations: where a token is taken out of the query, the other parameters keep their escapes, which Envoy sends on decoded.
//! Deviations: where several providers are asked, their keys are fetched one after the other.

mod cache;
mod claims;
mod extract;
mod json;
mod keys;
mod provider;
mod remote;
mod requirement;
mod status;
#[cfg(test)]
mod tests;
mod token;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use outrigger_proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;
use pb::per_route_config::RequirementSpecifier;
use pb::requirement_rule::RequirementType;
use serde_json::Map;

use self::cache::TokenCache;
use self::extract::Extractor;
use self::provider::{KeySource, Provider};
use self::requirement::{Examination, KeysNeeded, Requirement};
use self::status::Fault;
use self::token::{LastHeader, Token};
use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, LocalReply,
    RouteFilterConfig, StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, HeaderName, Known, Method, RequestHead};
use crate::route::RequestMatch;
use crate::server::{FactoryContext, Worker};
use crate::upstream::async_client::AsyncClient;

crate::stats_group! {
    /// What the filter decides, and how it comes by keys.
    struct Stats {
        counter allowed;
        counter cors_preflight_bypassed;
        counter denied;
        counter jwks_fetch_failed;
        counter jwks_fetch_success;
        counter jwt_cache_hit;
        counter jwt_cache_miss;
    }
}

/// Makes filters that look at tokens.
pub(super) struct Factory;

const NAME: &str = "envoy.filters.http.jwt_authn";

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"]
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        Ok(Arc::new(Config::from_proto(
            config.decode(path)?,
            cx,
            path,
        )?))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let pb::PerRouteConfig {
            requirement_specifier,
        } = config.decode(path)?;
        let specifier = path.required("requirement_specifier", requirement_specifier)?;
        Ok(Arc::new(match specifier {
            // The API allows no other value.
            RequirementSpecifier::Disabled(_) => OfRoute::Disabled,
            RequirementSpecifier::RequirementName(name) => OfRoute::Named(name.into()),
        }))
    }
}

/// What a route says.
enum OfRoute {
    Disabled,
    Named(Box<str>),
}

/// The providers of one filter.
#[derive(Debug, Default)]
struct Providers {
    /// In the order of their names.
    list: Vec<Provider>,
    names: Vec<String>,
}

struct Config {
    providers: Providers,
    /// All headers that only this filter may write.
    written: Extractor,
    rules: Vec<(RequestMatch, Option<Arc<Requirement>>)>,
    by_name: BTreeMap<String, Arc<Requirement>>,
    by_filter_state: Option<(Box<str>, HashMap<String, Requirement>)>,
    bypass_cors_preflight: bool,
    strip_failure_response: bool,
    stats: Stats,
}

impl Providers {
    fn index(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    /// The provider of an issuer; failing that, one for all issuers.
    fn of_issuer(&self, issuer: &str) -> Option<usize> {
        let find = |issuer: &str| self.list.iter().position(|p| *p.issuer == *issuer);
        find(issuer).or_else(|| find(""))
    }
}

impl Config {
    fn from_proto(
        proto: pb::JwtAuthentication,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::JwtAuthentication {
            providers,
            rules,
            filter_state_rules,
            bypass_cors_preflight,
            requirement_map,
            strip_failure_response,
            stat_prefix,
        } = proto;
        let scope = cx.scope.scope("jwt_authn.");
        let stats = match &*stat_prefix {
            "" => Stats::new(&scope),
            prefix => Stats::new(&scope.scope(&format!("{}.", prefix.trim_end_matches('.')))),
        };
        let providers = providers.into_iter().collect::<BTreeMap<_, _>>();
        let names = providers.keys().cloned().collect();
        let list = providers.into_iter().map(|(name, provider)| {
            Provider::from_proto(provider, cx, &stats, &path.key("providers", &name))
        });
        // All of them are converted, so that every error is found.
        let list: Vec<Result<_, _>> = list.collect();
        let list = list.into_iter().collect::<Result<_, _>>()?;
        let providers = Providers { list, names };
        let named = requirement_map.into_iter().map(|(name, requirement)| {
            let path = path.key("requirement_map", &name);
            let requirement = Requirement::from_proto(requirement, &providers, &path);
            requirement.map(|requirement| (name, Arc::new(requirement)))
        });
        let by_name = named.collect::<Result<BTreeMap<_, _>, _>>()?;
        let rules = path.each("rules", rules, |rule, path| {
            let pb::RequirementRule {
                r#match,
                requirement_type,
            } = rule;
            let matcher = path.required("match", r#match)?;
            let matcher = RequestMatch::from_proto(matcher, cx, &path.field("match"));
            let requirement = requirement_type.map(|requirement| match requirement {
                RequirementType::Requires(requirement) => {
                    let path = path.field("requires");
                    Requirement::from_proto(requirement, &providers, &path).map(Arc::new)
                }
                RequirementType::RequirementName(name) => {
                    by_name.get(&name).cloned().ok_or_else(|| {
                        path.field("requirement_name")
                            .reject(format!("\"{name}\" is not in requirement_map"))
                    })
                }
            });
            Ok((matcher?, requirement.transpose()?))
        });
        let by_filter_state =
            path.optional("filter_state_rules", filter_state_rules, |rule, path| {
                let pb::FilterStateRule { name, requires } = rule;
                let name = path.non_empty("name", name)?;
                let requirements = requires.into_iter().map(|(value, requirement)| {
                    let path = path.key("requires", &value);
                    Ok((
                        value.clone(),
                        Requirement::from_proto(requirement, &providers, &path)?,
                    ))
                });
                Ok((name.into(), requirements.collect::<Result<_, Rejected>>()?))
            });
        Ok(Self {
            written: Extractor::new(&providers.list),
            rules: rules?,
            by_filter_state: by_filter_state?,
            by_name,
            providers,
            bypass_cors_preflight,
            strip_failure_response,
            stats,
        })
    }

    /// The requirement for a request without one of its route.
    fn requirement(&self, cx: &StreamContext<'_>, head: &RequestHead) -> Option<&Requirement> {
        // Runtime fractions of several rules are decided by one number, as for routes.
        let random = cx.worker.random.next();
        let met = |(matcher, _): &&(RequestMatch, _)| matcher.matches(head, cx.info, random);
        if let Some((_, requirement)) = self.rules.iter().find(met) {
            return requirement.as_deref();
        }
        let (name, requirements) = self.by_filter_state.as_ref()?;
        let value = cx.info.filter_state.get(name)?.serialize_as_string()?;
        requirements.get(&value)
    }
}

/// What the filter has on one worker.
struct WorkerState {
    config: Arc<Config>,
    client: OnceCell<AsyncClient>,
    worker: Rc<Worker>,
    caches: Vec<Option<RefCell<TokenCache>>>,
    last_header: LastHeader,
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let caches = self.providers.list.iter().map(|provider| {
            let limits = provider.cache?;
            Some(RefCell::new(TokenCache::new(limits)))
        });
        let state = Rc::new(WorkerState {
            caches: caches.collect(),
            last_header: LastHeader::default(),
            client: OnceCell::new(),
            worker: worker.clone(),
            config: self,
        });
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(JwtAuthn {
                state: state.clone(),
                fetched: Rc::default(),
            })
        })
    }
}

impl WorkerState {
    /// A token of this provider that is known to be good.
    fn cached(&self, provider: usize, text: &[u8], now: u64) -> Option<Rc<Token>> {
        let stats = &self.config.stats;
        let skew = self.config.providers.list[provider].clock_skew;
        let cache = self.caches[provider].as_ref();
        let found = cache.and_then(|cache| cache.borrow_mut().get(text, now, skew));
        match found {
            Some(_) => stats.jwt_cache_hit().inc(),
            None => stats.jwt_cache_miss().inc(),
        }
        found
    }

    fn remember(&self, provider: usize, token: Rc<Token>) {
        if let Some(cache) = &self.caches[provider] {
            cache.borrow_mut().insert(token);
        }
    }

    fn client(&self) -> &AsyncClient {
        self.client
            .get_or_init(|| AsyncClient::new(self.worker.clone()))
    }
}

struct JwtAuthn {
    state: Rc<WorkerState>,
    /// Providers whose keys were fetched for this request, and whether they came.
    fetched: Rc<RefCell<Vec<(usize, bool)>>>,
}

impl JwtAuthn {
    fn examine(&self, cx: &mut StreamContext<'_>, head: &mut RequestHead) -> HeadersStatus {
        let config = &*self.state.config;
        let named;
        let requirement = match cx.route_config::<OfRoute>() {
            Some(OfRoute::Disabled) => None,
            Some(OfRoute::Named(name)) => match config.by_name.get(&**name) {
                Some(requirement) => {
                    named = requirement.clone();
                    Some(&*named)
                }
                None => return self.wrong_name(name),
            },
            None => config.requirement(cx, head),
        };
        let Some(requirement) = requirement else {
            config.stats.allowed().inc();
            return HeadersStatus::Continue;
        };
        let fetched = self.fetched.borrow().clone();
        // Keys that must be fetched first are rare; then the request is looked at again from the start.
        let mut original = self.may_need_keys().then(|| head.clone());
        let may_lose_parameters = config.written.looks_at_query(head);
        let mut examination = Examination {
            state: &self.state,
            head,
            now: UNIX_EPOCH.elapsed().unwrap_or_default().as_secs(),
            metadata: Map::new(),
            clear_route: false,
            fetched: &fetched,
        };
        // A good token is taken out of the query, and a challenge shows the query as it came.
        let uri = may_lose_parameters.then(|| examination.head.original_uri(MAX_URI_PATH));
        let outcome = requirement.examine(&mut examination);
        let Examination {
            metadata,
            clear_route,
            head,
            ..
        } = examination;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(KeysNeeded(provider)) => {
                if let Some(original) = original.take() {
                    *head = original;
                }
                return self.fetch(provider);
            }
        };
        if !metadata.is_empty() {
            cx.info.dynamic_metadata.merge(NAME, metadata);
        }
        if clear_route {
            cx.clear_route_cache();
        }
        match outcome {
            Ok(()) => {
                config.stats.allowed().inc();
                HeadersStatus::Continue
            }
            Err(fault) => {
                let uri = uri.unwrap_or_else(|| head.original_uri(MAX_URI_PATH));
                self.refuse(fault, &uri)
            }
        }
    }

    fn may_need_keys(&self) -> bool {
        self.state.config.providers.list.iter().any(|provider| {
            matches!(&provider.keys, KeySource::Remote(keys) if keys.with_keys(false, |_| ()).is_none())
        })
    }

    fn fetch(&self, provider: usize) -> HeadersStatus {
        let state = self.state.clone();
        let fetched = self.fetched.clone();
        HeadersStatus::Wait(Box::pin(async move {
            let KeySource::Remote(keys) = &state.config.providers.list[provider].keys else {
                return;
            };
            let came = keys.fetch(state.client()).await;
            fetched.borrow_mut().push((provider, came));
        }))
    }

    fn refuse(&self, fault: Fault, uri: &[u8]) -> HeadersStatus {
        let config = &self.state.config;
        config.stats.denied().inc();
        let status = match fault {
            Fault::AudienceNotAllowed => 403,
            _ => 401,
        };
        let reply = LocalReply::new(status, details(fault.text()));
        if config.strip_failure_response {
            return HeadersStatus::LocalReply(reply);
        }
        let mut challenge = b"Bearer realm=\"".to_vec();
        challenge.extend_from_slice(uri);
        challenge.push(b'"');
        if fault != Fault::Missing {
            challenge.extend_from_slice(b", error=\"invalid_token\"");
        }
        let name = HeaderName::new("www-authenticate");
        HeadersStatus::LocalReply(reply.with_body(fault.text()).with_header(name, challenge))
    }

    fn wrong_name(&self, name: &str) -> HeadersStatus {
        let config = &self.state.config;
        config.stats.denied().inc();
        let known: Vec<&str> = config.by_name.keys().map(String::as_str).collect();
        let text = format!(
            "Wrong requirement_name: {name}. It should be one of [{}]",
            known.join(",")
        );
        let reply = LocalReply::new(403, details(&text));
        HeadersStatus::LocalReply(if config.strip_failure_response {
            reply
        } else {
            reply.with_body(format!("Failed JWT authentication: {text}"))
        })
    }
}

/// The longest path that a challenge shows.
const MAX_URI_PATH: usize = 256;

/// Without white space, which would break lines of logs apart.
fn details(text: &str) -> String {
    let text = text.replace(|c: char| c.is_ascii_whitespace(), "_");
    format!("jwt_authn_access_denied{{{text}}}")
}

impl HttpFilter for JwtAuthn {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _: EndStream,
    ) -> HeadersStatus {
        let config = &self.state.config;
        config.written.sanitize(head);
        let present = |name| head.fields.get(name).is_some_and(|value| !value.is_empty());
        let preflight = config.bypass_cors_preflight
            && head.method() == Method::Options
            && present(Known::Origin)
            && present(Known::AccessControlRequestMethod);
        if preflight {
            config.stats.cors_preflight_bypassed().inc();
            config.stats.allowed().inc();
            return HeadersStatus::Continue;
        }
        self.examine(cx, head)
    }

    fn resume_decode(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
    ) -> HeadersStatus {
        self.examine(cx, head)
    }
}
