//! `envoy.filters.http.stateful_session`: binds the requests of a session to the host that served the first of them.
//!
//! Type URLs: `envoy.extensions.filters.http.stateful_session.v3.StatefulSession`, per route
//! `envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute`; states
//! `envoy.extensions.http.stateful_session.{cookie.v3.CookieBasedSessionState,header.v3.HeaderBasedSessionState,`
//! `envelope.v3.EnvelopeSessionState}`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/stateful_session_filter>
//! Stats, where `stat_prefix` is set: `<prefix>stateful_session.<stat_prefix>.{routed,failed_open,failed_closed,no_session}`, of a
//! route without `<prefix>`.
//!
//! The filter names a host; the load balancer of the cluster takes it if it is there and its health is among
//! `common_lb_config.override_host_status`.
//!
//! Deviations: none.

mod state;

#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::http::stateful_session::v3 as pb;
use pb::stateful_session_per_route::Override;

use self::state::SessionState;
use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, RouteFilterConfig,
    StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, RequestHead, ResponseHead};
use crate::server::{FactoryContext, Worker};
use crate::stats::Scope;
use crate::stream_info::{OverrideHost, ResponseFlag, StreamInfo};

/// Makes session filters.
pub(super) struct Factory;

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.http.stateful_session"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.stateful_session.v3.StatefulSession"]
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let config = Config::from_proto(config.decode(path)?, cx.scope, path)?;
        Ok(Arc::new(Shared(Arc::new(config))))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let pb::StatefulSessionPerRoute { r#override } = config.decode(path)?;
        Ok(Arc::new(match path.required("override", r#override)? {
            Override::Disabled(true) => PerRoute(None),
            Override::Disabled(false) => {
                return Err(path.field("disabled").reject("must be true"));
            }
            Override::StatefulSession(proto) => {
                // The table of a route belongs to no connection manager.
                let scope = cx.server.stats.scope("");
                let path = path.field("stateful_session");
                PerRoute(Some(Arc::new(Config::from_proto(proto, &scope, &path)?)))
            }
        }))
    }
}

/// What a route says; none: its sessions are bound to nothing.
struct PerRoute(Option<Arc<Config>>);

crate::stats_group! {
    /// What became of sessions.
    struct Stats {
        counter failed_closed;
        counter failed_open;
        counter no_session;
        counter routed;
    }
}

struct Config {
    /// None: nothing is bound.
    state: Option<SessionState>,
    /// A session whose host is not there is refused. Default false: it gets another.
    strict: bool,
    /// With which status. Default 503.
    strict_status: u16,
    stats: Option<Stats>,
}

impl Config {
    fn from_proto(
        proto: pb::StatefulSession,
        scope: &Scope,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::StatefulSession {
            session_state,
            strict,
            stat_prefix,
            status_on_strict_destination_not_found: status,
        } = proto;
        let state = path.optional("session_state", session_state, SessionState::from_proto);
        let status = match status {
            0 => Ok(503),
            status => path.in_range("status_on_strict_destination_not_found", status, 200..=599),
        };
        let stats = || Stats::new(&scope.scope(&format!("stateful_session.{stat_prefix}.")));
        Ok(Self {
            state: state?,
            strict,
            strict_status: u16::try_from(status?).unwrap_or(503),
            stats: (!stat_prefix.is_empty()).then(stats),
        })
    }

    fn count(&self, count: impl FnOnce(&Stats)) {
        if let Some(stats) = &self.stats {
            count(stats);
        }
    }
}

struct Shared(Arc<Config>);

impl HttpFilterConfig for Shared {
    fn on_worker(self: Arc<Self>, _worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let config = Rc::new(self.0.clone());
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(StatefulSession {
                config: config.clone(),
                session: None,
            })
        })
    }

    fn is_idle(&self) -> bool {
        self.0.state.is_none() && self.0.stats.is_none()
    }
}

struct StatefulSession {
    config: Rc<Arc<Config>>,
    session: Option<Session>,
}

/// What a request is bound to.
struct Session {
    /// None: that of the filter.
    of_route: Option<Arc<Config>>,
    /// The address that the request names.
    address: Option<Box<str>>,
}

impl HttpFilter for StatefulSession {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS.and(Interests::ENCODE_HEADERS)
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _end: EndStream,
    ) -> HeadersStatus {
        let of_route = match cx.route_config::<PerRoute>() {
            Some(PerRoute(None)) => return HeadersStatus::Continue,
            Some(PerRoute(config)) => config.clone(),
            None => None,
        };
        let config = of_route.as_ref().unwrap_or(&self.config);
        let address = match &config.state {
            Some(state) if state.is_for(head) => state.address(head, cx.info),
            _ => {
                config.count(|stats| stats.no_session().inc());
                return HeadersStatus::Continue;
            }
        };
        if let Some(address) = &address {
            cx.info.override_host = Some(Box::new(OverrideHost {
                address: address.clone(),
                strict: config.strict,
                strict_status: config.strict_status,
            }));
        }
        self.session = Some(Session { of_route, address });
        HeadersStatus::Continue
    }

    fn encode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        _end: EndStream,
    ) -> HeadersStatus {
        let Some(session) = &self.session else {
            return HeadersStatus::Continue;
        };
        let config = session.of_route.as_ref().unwrap_or(&self.config);
        let Some(state) = &config.state else {
            return HeadersStatus::Continue;
        };
        let Some(host) = host_address(cx.info) else {
            let refused = cx
                .info
                .response_flags
                .contains(ResponseFlag::NoHealthyUpstream);
            if config.strict && refused && session.address.is_some() {
                config.count(|stats| stats.failed_closed().inc());
            }
            return HeadersStatus::Continue;
        };
        let stays = session.address.as_deref() == Some(&*host);
        state.bind(&host, stays, head, cx.info);
        if stays {
            config.count(|stats| stats.routed().inc());
        } else if !config.strict {
            config.count(|stats| stats.failed_open().inc());
        }
        HeadersStatus::Continue
    }
}

/// The host that was chosen for the request, whether or not it answered.
fn host_address(info: &StreamInfo) -> Option<String> {
    let host = info.upstream.as_ref()?.host.as_ref()?;
    Some(host.address.to_string())
}
