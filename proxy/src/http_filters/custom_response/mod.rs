//! `envoy.filters.http.custom_response`: replaces responses by others, chosen by their status, say.
//!
//! Type URL: `envoy.extensions.filters.http.custom_response.v3.CustomResponse`, also per route; policies
//! `envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy` and
//! `envoy.extensions.http.custom_response.redirect_policy.v3.RedirectPolicy`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/custom_response_filter>
//! Stats: `<prefix>custom_response_redirect_no_route`, `custom_response_invalid_uri`.
//!
//! Deviations: of a body that became too large to be kept for a retry nothing goes along with a redirect, where Envoy sends its
//! beginning. No `modify_request_headers_action` is known: Envoy's own release has the field, and no extension for it.

mod local;
mod redirect;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::http::custom_response::v3 as pb;

use self::local::LocalResponse;
use self::redirect::{Followed, RedirectPolicy};
use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, RouteFilterConfig,
    StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, RequestHead, ResponseHead};
use crate::matchers::{Matcher, MatchingData};
use crate::server::{FactoryContext, Worker};

crate::stats_group! {
    /// Redirects that lead nowhere.
    struct Stats {
        counter custom_response_invalid_uri;
        counter custom_response_redirect_no_route;
    }
}

/// Makes filters that replace responses.
pub(super) struct Factory;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.custom_response"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.custom_response.v3.CustomResponse"]
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        self.type_names()
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
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let config = Config::from_proto(config.decode(path)?, cx, path)?;
        Ok(Arc::new(OfRoute(vec![Arc::new(config)])))
    }

    fn merge(&self, configs: &[RouteFilterConfig]) -> RouteFilterConfig {
        let levels = configs.iter().rev();
        let levels = levels.filter_map(|config| config.downcast_ref::<OfRoute>());
        let all = levels.flat_map(|level| level.0.iter().cloned());
        Arc::new(OfRoute(all.collect()))
    }
}

/// What route, virtual host and so on say, the most specific first: the first that has a response for a response counts.
struct OfRoute(Vec<Arc<Config>>);

struct Config {
    /// None: nothing is replaced.
    matcher: Option<Matcher<Policy>>,
    stats: Stats,
}

/// What becomes of a response.
enum Policy {
    Local(LocalResponse),
    Redirect(Arc<RedirectPolicy>),
}

impl Config {
    fn from_proto(
        proto: pb::CustomResponse,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::CustomResponse {
            custom_response_matcher,
        } = proto;
        let matcher = path.optional(
            "custom_response_matcher",
            custom_response_matcher,
            |matcher, path| {
                Matcher::from_proto(matcher, cx, path, |config, path| {
                    Policy::from_extension(&config, cx, path)
                })
            },
        );
        Ok(Self {
            matcher: matcher?,
            stats: Stats::new(cx.scope),
        })
    }
}

impl Policy {
    fn from_extension(
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        const LOCAL: &str =
            "envoy.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy";
        const REDIRECT: &str =
            "envoy.extensions.http.custom_response.redirect_policy.v3.RedirectPolicy";
        match config.type_name.as_str() {
            LOCAL => LocalResponse::from_extension(config, cx, path).map(Self::Local),
            REDIRECT => {
                let policy = RedirectPolicy::from_extension(config, cx, path)?;
                Ok(Self::Redirect(Arc::new(policy)))
            }
            _ => Err(config.unknown(path, &[LOCAL, REDIRECT])),
        }
    }
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self);
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(CustomResponse {
                config: config.clone(),
                seen: false,
            })
        })
    }
}

struct CustomResponse {
    config: Rc<Arc<Config>>,
    /// Whether it has seen the request, which an answer of a filter before it hides from it.
    seen: bool,
}

impl HttpFilter for CustomResponse {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS.and(Interests::ENCODE_HEADERS)
    }

    fn decode_headers(
        &mut self,
        _: &mut StreamContext<'_>,
        _: &mut RequestHead,
        _: EndStream,
    ) -> HeadersStatus {
        self.seen = true;
        HeadersStatus::Continue
    }

    fn encode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        _end: EndStream,
    ) -> HeadersStatus {
        if let Some(followed) = cx.info.filter_state.get_as::<Followed>(redirect::STATE) {
            followed.mutate_response(head, cx.request.as_deref(), cx.info);
            return HeadersStatus::Continue;
        }
        let data = MatchingData {
            connection: &cx.info.connection,
            info: Some(cx.info),
            request: cx.request.as_deref(),
            response: Some(head),
        };
        let of_route = cx.route_config::<OfRoute>().into_iter();
        let mut configs = of_route
            .flat_map(|levels| levels.0.iter())
            .chain([&*self.config]);
        match configs.find_map(|config| config.matcher.as_ref()?.find(&data)) {
            Some(Policy::Local(response)) => HeadersStatus::LocalReply(response.reply(cx, head)),
            Some(Policy::Redirect(policy)) => self.redirect(policy, head.status, cx),
            None => HeadersStatus::Continue,
        }
    }

    fn on_recreate_refused(&mut self) {
        self.config.stats.custom_response_redirect_no_route().inc();
    }
}

impl CustomResponse {
    fn redirect(
        &self,
        policy: &Arc<RedirectPolicy>,
        status: u16,
        cx: &StreamContext<'_>,
    ) -> HeadersStatus {
        let Some(request) = cx.request.as_deref().filter(|_| self.seen) else {
            return HeadersStatus::Continue;
        };
        match policy.follow(request, status, cx.info) {
            Some(recreate) => HeadersStatus::Recreate(Box::new(recreate)),
            None => {
                self.config.stats.custom_response_invalid_uri().inc();
                HeadersStatus::Continue
            }
        }
    }
}
