//! `envoy.filters.http.ext_authz`: asks a service whether a request may pass, and lets it change what passes.
//!
//! Type URLs: `envoy.extensions.filters.http.ext_authz.v3.ExtAuthz`, per route
//! `envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/ext_authz_filter>
//! Stats: `<prefix>ext_authz.[<stat_prefix>.]`: `ok`, `denied`, `error`, `disabled`, `failure_mode_allowed`, `invalid`,
//! `ignored_dynamic_metadata`, `filter_state_name_collision`, `shadow_denied`, `shadow_error`, `request_header_limits_reached`,
//! `response_header_limits_reached`; and for the cluster of the
//! request `cluster.<name>.ext_authz.[<stat_prefix>.]{ok,denied,error,failure_mode_allowed,invalid}`.
//! Details: `ext_authz_denied`, `ext_authz_error`, `ext_authz_invalid`, with the flag `UAEX`.
//! Dynamic metadata: what the service says, in the namespace `envoy.filters.http.ext_authz`.
//! Filter state: `<filter name>` with `emit_filter_state_stats`, `<filter name>.shadow` with `shadow_mode`.
//!
//! Deviations: what may not stand in a path is escaped. Of a response or a denial, fields that no message may carry are left
//! out even without `validate_mutations`; in Envoy they break the response in two.
//! Deviations: a denial with a status that is not in 200..=599 is sent as 403.
//! Deviations: of the filter state, `latency_us` is there, and the counts of bytes are not.
//! Deviations: a body that is too long is answered with 413 also if its last piece ends it, which Envoy shows in part.
//! Deviations: typed metadata is not kept by this proxy, and so none is sent.

mod apply;
mod call;
mod config;
mod http_service;
mod logging;
mod request;
#[cfg(test)]
mod tests;
mod verdict;

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use self::call::{Call, ClusterCounters, refuse, remember};
use self::config::{BodySettings, Config, PerRoute};
use self::verdict::ResponseChanges;
use super::{
    DataStatus, HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests,
    LocalBoxFuture, LocalReply, RouteFilterConfig, StreamContext, TrailersStatus, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::http::{EndStream, Fields, Known, Method, RequestHead, ResponseHead};
use crate::server::{FactoryContext, Worker};
use crate::stream_info::{HeaderLimits, ResponseFlag, StreamInfo};
use crate::upstream::ClusterId;
use crate::upstream::async_client::AsyncClient;

/// Makes filters that ask a service.
pub(super) struct Factory;

const NAME: &str = "envoy.filters.http.ext_authz";

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"]
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        self.named_from_proto(NAME, config, cx, path)
    }

    fn named_from_proto(
        &self,
        name: &str,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        Ok(Arc::new(Config::from_proto(name, config, cx, path)?))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let per_route = PerRoute::from_proto(config.decode(path)?, cx, path)?;
        Ok(Arc::new(per_route))
    }

    fn merge(&self, configs: &[RouteFilterConfig]) -> RouteFilterConfig {
        let levels = configs.iter().filter_map(|level| level.downcast_ref());
        Arc::new(PerRoute::merged(levels))
    }
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let state = Rc::new(WorkerState {
            config: self,
            worker: worker.clone(),
            client: OnceCell::new(),
            clusters: RefCell::default(),
        });
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(ExtAuthz {
                state: state.clone(),
                phase: Phase::Idle,
                response: None,
            })
        })
    }
}

/// What the filter has on one worker.
struct WorkerState {
    config: Arc<Config>,
    worker: Rc<Worker>,
    client: OnceCell<AsyncClient>,
    /// The counters of the clusters that requests went to.
    clusters: RefCell<HashMap<ClusterId, Rc<ClusterCounters>>>,
}

impl WorkerState {
    fn client(&self) -> &AsyncClient {
        self.client
            .get_or_init(|| AsyncClient::new(self.worker.clone()))
    }
}

struct ExtAuthz {
    state: Rc<WorkerState>,
    phase: Phase,
    /// What the service wants the response to be.
    response: Option<Box<ResponseChanges>>,
}

enum Phase {
    /// Nothing is asked (any more).
    Idle,
    /// The body is waited for.
    Buffering {
        settings: BodySettings,
        pieces: Vec<Bytes>,
        received: usize,
    },
    Calling(Box<Call>),
}

impl HttpFilter for ExtAuthz {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
            .and(Interests::DECODE_DATA)
            .and(Interests::DECODE_TRAILERS)
            .and(Interests::ENCODE_HEADERS)
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        end: EndStream,
    ) -> HeadersStatus {
        let config = self.state.config.clone();
        let per_route = cx.route_config::<PerRoute>();
        if cx.info.route.is_none() || per_route.is_some_and(PerRoute::is_disabled) {
            return HeadersStatus::Continue;
        }
        if !config.is_enabled(cx) {
            config.stats.disabled().inc();
            if !config.denies_at_disable() {
                return HeadersStatus::Continue;
            }
            cx.info
                .response_flags
                .set(ResponseFlag::UnauthorizedExternalService);
            if config.shadow_mode {
                config.stats.shadow_denied().inc();
                remember(
                    &config,
                    cx.info,
                    "DENIED",
                    config.status_on_error,
                    Vec::new(),
                );
                return HeadersStatus::Continue;
            }
            let reply = LocalReply::new(config.status_on_error, "ext_authz_error");
            return HeadersStatus::LocalReply(reply);
        }
        let settings = match per_route {
            Some(per_route) => per_route.body_settings(config.with_request_body),
            None => config.with_request_body,
        };
        if let Some(settings) = settings
            && !end.is_end()
            && !is_upgrade(head)
        {
            if !settings.allow_partial_message {
                cx.set_buffer_limit(u64::from(settings.max_request_bytes));
            }
            self.phase = Phase::Buffering {
                settings,
                pieces: Vec::new(),
                received: 0,
            };
            return HeadersStatus::StopIteration;
        }
        HeadersStatus::Wait(self.call(cx, head, None))
    }

    fn decode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        data: &mut Bytes,
        end: EndStream,
    ) -> DataStatus {
        let Phase::Buffering {
            settings,
            pieces,
            received,
        } = &mut self.phase
        else {
            return DataStatus::Continue;
        };
        pieces.push(data.clone());
        *received += data.len();
        let most = usize::try_from(settings.max_request_bytes).unwrap_or(usize::MAX);
        let enough = match settings.allow_partial_message {
            true => end.is_end() || *received >= most,
            // What is too long is answered by the stream.
            false => end.is_end() && *received <= most,
        };
        if !enough {
            return DataStatus::StopIterationAndBuffer;
        }
        match self.call_with_body(cx) {
            Some(call) => DataStatus::Wait(call),
            None => DataStatus::Continue,
        }
    }

    fn decode_trailers(&mut self, cx: &mut StreamContext<'_>, _: &mut Fields) -> TrailersStatus {
        match self.call_with_body(cx) {
            Some(call) => TrailersStatus::Wait(call),
            None => TrailersStatus::Continue,
        }
    }

    fn resume_decode(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
    ) -> HeadersStatus {
        match self.conclude(cx, head) {
            None => HeadersStatus::Continue,
            Some(reply) => HeadersStatus::LocalReply(reply),
        }
    }

    fn resume_decode_data(
        &mut self,
        cx: &mut StreamContext<'_>,
        _buffered: &mut BytesMut,
        _end: EndStream,
    ) -> DataStatus {
        match self.conclude_behind_head(cx) {
            None => DataStatus::Continue,
            Some(reply) => DataStatus::LocalReply(reply),
        }
    }

    fn resume_decode_trailers(&mut self, cx: &mut StreamContext<'_>) -> TrailersStatus {
        match self.conclude_behind_head(cx) {
            None => TrailersStatus::Continue,
            Some(reply) => TrailersStatus::LocalReply(reply),
        }
    }

    fn encode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        _end: EndStream,
    ) -> HeadersStatus {
        let Some(changes) = self.response.take() else {
            return HeadersStatus::Continue;
        };
        let config = &self.state.config;
        let limits = match config.enforce_response_header_limits {
            true => limits_of_upstream(cx.info),
            false => None,
        };
        if changes.apply(&mut head.fields, limits).is_ok() {
            return HeadersStatus::Continue;
        }
        config.stats.response_header_limits_reached().inc();
        HeadersStatus::LocalReply(refuse(cx.info))
    }
}

impl ExtAuthz {
    /// Begins to ask.
    fn call(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &RequestHead,
        body: Option<(&[Bytes], BodySettings)>,
    ) -> LocalBoxFuture<'static, ()> {
        let (call, future) = Call::begin(&self.state, cx, head, body);
        self.phase = Phase::Calling(Box::new(call));
        future
    }

    /// Begins to ask, with as much of the body as has come. None: nothing is to be asked.
    fn call_with_body(
        &mut self,
        cx: &mut StreamContext<'_>,
    ) -> Option<LocalBoxFuture<'static, ()>> {
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        let Phase::Buffering {
            settings, pieces, ..
        } = phase
        else {
            self.phase = phase;
            return None;
        };
        let head = cx.request.take()?;
        let future = self.call(cx, head, Some((&pieces, settings)));
        cx.request = Some(head);
        Some(future)
    }

    fn conclude_behind_head(&mut self, cx: &mut StreamContext<'_>) -> Option<LocalReply> {
        let head = cx.request.take()?;
        let reply = self.conclude(cx, head);
        cx.request = Some(head);
        reply
    }

    /// Carries out what the service has said. None: the request goes on.
    fn conclude(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
    ) -> Option<LocalReply> {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Calling(call) => call.conclude(&self.state, cx, head, &mut self.response),
            Phase::Idle | Phase::Buffering { .. } => None,
        }
    }
}

/// How large the head of this response may be; none: it is the proxy's own.
fn limits_of_upstream(info: &StreamInfo) -> Option<HeaderLimits> {
    if info.response_code_details.as_deref() != Some("via_upstream") {
        return None;
    }
    let common = &info.cluster.as_ref()?.info().settings.http.common;
    Some(HeaderLimits {
        max_count: common.max_headers_count,
        max_kb: common.max_response_headers_kb,
    })
}

/// Whether what follows the head is no body, but another protocol.
fn is_upgrade(head: &RequestHead) -> bool {
    let websocket = head
        .fields
        .get(Known::Upgrade)
        .is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"));
    websocket || (head.method() == Method::Connect && head.protocol().is_some())
}
