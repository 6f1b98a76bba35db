//! `envoy.filters.http.ratelimit`: asks a service whether a request may pass.
//!
//! Type URLs: `envoy.extensions.filters.http.ratelimit.v3.RateLimit`, per route
//! `envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/rate_limit_filter>
//! Stats: `cluster.<name>.ratelimit.[<stat_prefix>.]{ok,error,over_limit,failure_mode_allowed}`.
//! Details: `request_rate_limited`, `rate_limiter_error`. Flags: `RL`, `RLSE`.
//! Dynamic metadata: what the service says, in `envoy.filters.http.ratelimit` or `metadata_namespace`.
//! Filter state: `envoy.ratelimit.hits_addend`, a number: the hits of the request.
//!
//! Deviations: fields of the service that cannot stand in a head (pseudo headers, line breaks) are left out.

mod answer;
mod config;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::service::ratelimit::v3 as pb;
use outrigger_proto::rate_limit::RateLimitResponse;
use pb::rate_limit_response::Code;
use smallvec::SmallVec;

use self::answer::ToAdd;
use self::config::{Config, FailureMode, OfRoute, RequestType, Stat, WorkerState};
use super::{
    HeadersStatus, HttpFilter, HttpFilterConfig, HttpFilterFactory, Interests, LocalReply,
    RouteFilterConfig, StreamContext, WorkerHttpFilter,
};
use crate::config::{ConfigPath, Rejected, TypedConfig, json_object};
use crate::formatter::FormatData;
use crate::http::{EndStream, Known, RequestHead, ResponseHead};
use crate::rate_limit::to_proto;
use crate::route::{RateLimit, SelectedRoute};
use crate::server::{FactoryContext, Worker};
use crate::stream_info::{ResponseFlag, StreamInfo};
use crate::upstream::async_client::GrpcError;
use crate::upstream::{CodeOrigin, WorkerCluster};

/// Makes filters that ask a rate limit service.
pub(super) struct Factory;

const NAME: &str = "envoy.filters.http.ratelimit";
const HITS_ADDEND: &str = "envoy.ratelimit.hits_addend";

impl HttpFilterFactory for Factory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.ratelimit.v3.RateLimit"]
    }

    fn per_route_type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let config = Config::from_proto(config.decode(path)?, cx, path)?;
        Ok(Arc::new(config))
    }

    fn per_route_from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<RouteFilterConfig, Rejected> {
        let config = OfRoute::from_proto(config.decode(path)?, cx, path)?;
        Ok(Arc::new(config))
    }
}

impl HttpFilterConfig for Config {
    fn on_worker(self: Arc<Self>, worker: &Rc<Worker>) -> Box<dyn WorkerHttpFilter> {
        let state = Rc::new(WorkerState::new(self, worker));
        Box::new(move || -> Box<dyn HttpFilter> {
            Box::new(Filter {
                state: state.clone(),
                asked: None,
                to_add: ToAdd::default(),
                refused: false,
                at_the_end: None,
            })
        })
    }
}

type Answer = Result<RateLimitResponse, GrpcError>;

struct Filter {
    state: Rc<WorkerState>,
    asked: Option<Asked>,
    to_add: ToAdd,
    /// The response is this filter's, for a request that is over its limit.
    refused: bool,
    at_the_end: Option<Box<AtTheEnd>>,
}

/// A question that the service has not answered yet, or whose answer was not looked at yet.
struct Asked {
    cluster: Rc<WorkerCluster>,
    /// Whether clients are told of each descriptor; none: as the filter says.
    shown: SmallVec<[Option<bool>; 2]>,
    answer: Rc<RefCell<Option<Answer>>>,
}

/// What rules for ended streams look at when the stream has ended.
struct AtTheEnd {
    route: SelectedRoute,
    slot: Option<usize>,
    head: RequestHead,
}

impl Filter {
    fn ask(&mut self, cx: &mut StreamContext<'_>, head: &RequestHead) -> HeadersStatus {
        let (Some(route), Some(cluster)) = (&cx.info.route, &cx.info.cluster) else {
            return HeadersStatus::Continue;
        };
        let of_route = of_route(route, cx.slot);
        let mut shown = SmallVec::new();
        let (request, has_late_rules) =
            self.request((route, of_route), head, cx.info, false, &mut shown);
        if has_late_rules {
            self.at_the_end = Some(Box::new(AtTheEnd {
                route: route.clone(),
                slot: cx.slot,
                head: head.clone(),
            }));
        }
        let Some(request) = request else {
            return HeadersStatus::Continue;
        };
        let answer: Rc<RefCell<Option<Answer>>> = Rc::default();
        self.asked = Some(Asked {
            cluster: cluster.clone(),
            shown,
            answer: answer.clone(),
        });
        let service = &self.state.config.service;
        let call = service.ask(
            self.state.client(),
            &request,
            &FormatData::of_request(cx.info, Some(head)),
        );
        HeadersStatus::Wait(Box::pin(async move {
            let came = call.await;
            answer.replace(Some(came));
        }))
    }

    /// What the service is asked, of rules for ended streams or of the others; and whether there are rules for ended streams.
    fn request(
        &self,
        (route, of_route): (&SelectedRoute, Option<&OfRoute>),
        head: &RequestHead,
        info: &StreamInfo,
        at_the_end: bool,
        shown: &mut SmallVec<[Option<bool>; 2]>,
    ) -> (Option<pb::RateLimitRequest>, bool) {
        let config = &self.state.config;
        let worker = &self.state.worker;
        let mut descriptors = Vec::new();
        let mut has_late_rules = false;
        config.each_rule(route, of_route, |rule: &RateLimit| {
            has_late_rules |= rule.apply_on_stream_done;
            let switch = rule.enabled.as_ref();
            if rule.apply_on_stream_done == at_the_end
                && switch.is_none_or(|share| share.contains(worker.random.next()))
                && let Some(descriptor) = rule.descriptor(head, info, &worker.server)
            {
                shown.push(descriptor.x_ratelimit);
                descriptors.push(to_proto(&descriptor));
            }
        });
        if descriptors.is_empty() {
            return (None, has_late_rules);
        }
        let domain = of_route.map(|route| &*route.domain);
        let domain = domain.filter(|domain| !domain.is_empty());
        let request = pb::RateLimitRequest {
            domain: domain.unwrap_or(&config.domain).to_owned(),
            descriptors,
            hits_addend: hits_addend(info),
        };
        (Some(request), has_late_rules)
    }

    fn over_limit(&self, body: Vec<u8>) -> HeadersStatus {
        let config = &self.state.config;
        let mut reply = LocalReply::new(config.rate_limited_status, "request_rate_limited");
        if !body.is_empty() {
            reply = reply.with_body(body);
        }
        if config.as_resource_exhausted {
            reply.grpc_status = Some(8);
        }
        HeadersStatus::LocalReply(reply)
    }

    fn failed(&self, cx: &mut StreamContext<'_>, cluster: &WorkerCluster) -> HeadersStatus {
        let config = &self.state.config;
        self.state.count(cluster, Stat::Error);
        let denied = match &config.failure {
            FailureMode::Allow => false,
            FailureMode::Deny => true,
            FailureMode::DenySome(share) => share.contains(cx.worker.random.next()),
        };
        if !denied {
            self.state.count(cluster, Stat::FailureModeAllowed);
            return HeadersStatus::Continue;
        }
        cx.info
            .response_flags
            .set(ResponseFlag::RateLimitServiceError);
        HeadersStatus::LocalReply(LocalReply::new(
            config.status_on_error,
            "rate_limiter_error",
        ))
    }

    fn answered(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        asked: &Asked,
        answer: RateLimitResponse,
    ) -> HeadersStatus {
        let RateLimitResponse {
            overall_code,
            statuses,
            response_headers_to_add,
            request_headers_to_add,
            raw_body,
            dynamic_metadata,
        } = answer;
        let state = self.state.clone();
        let config = &state.config;
        let metadata = dynamic_metadata.map(json_object).unwrap_or_default();
        if !metadata.is_empty() {
            let namespace = &config.metadata_namespace;
            cx.info.dynamic_metadata.merge(namespace, metadata);
        }
        self.to_add.extend(response_headers_to_add);
        let over_limit = overall_code == i32::from(Code::OverLimit);
        if over_limit {
            state.count(&asked.cluster, Stat::OverLimit);
            let origin = CodeOrigin {
                internal: true,
                canary: false,
            };
            asked
                .cluster
                .record_code(config.rate_limited_status, origin);
            if config.x_envoy_ratelimited {
                self.to_add.add("x-envoy-ratelimited", "true");
            }
        } else {
            state.count(&asked.cluster, Stat::Ok);
        }
        let shown = |at: usize| {
            let of_rule = asked.shown.get(at).copied().flatten();
            of_rule.unwrap_or(config.x_ratelimit_headers)
        };
        self.to_add.append(answer::x_ratelimit(&statuses, shown));
        if over_limit && config.enforced.contains(cx.worker.random.next()) {
            if config.retry_after
                && config.rate_limited_status == 429
                && !self.to_add.has("retry-after")
                && let Some(seconds) = answer::retry_after(&statuses)
            {
                self.to_add.add("retry-after", seconds.to_string());
            }
            cx.info.response_flags.set(ResponseFlag::RateLimited);
            self.refused = true;
            return self.over_limit(raw_body);
        }
        answer::add_to_request(request_headers_to_add, head);
        HeadersStatus::Continue
    }
}

fn of_route(route: &SelectedRoute, slot: Option<usize>) -> Option<&OfRoute> {
    route.filter_config(slot?)?.downcast_ref()
}

/// What filters before this one want the request to count for; 0: what the service thinks right.
fn hits_addend(info: &StreamInfo) -> u32 {
    let of_stream = info.filter_state.get(HITS_ADDEND);
    let text = match of_stream {
        Some(object) => object.serialize_as_string(),
        None => {
            let state = info.connection.filter_state.borrow();
            state
                .get(HITS_ADDEND)
                .and_then(|object| object.serialize_as_string())
        }
    };
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl HttpFilter for Filter {
    fn interests(&self) -> Interests {
        Interests::DECODE_HEADERS
            .and(Interests::ENCODE_HEADERS)
            .and(Interests::COMPLETE)
    }

    fn decode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        _: EndStream,
    ) -> HeadersStatus {
        let config = &self.state.config;
        let internal = head.fields.get(Known::EnvoyInternal) == Some(b"true");
        let counts = match config.request_type {
            RequestType::Both => true,
            RequestType::Internal => internal,
            RequestType::External => !internal,
        };
        if !config.enabled.contains(cx.worker.random.next()) || !counts {
            return HeadersStatus::Continue;
        }
        self.ask(cx, head)
    }

    fn resume_decode(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
    ) -> HeadersStatus {
        let Some(asked) = self.asked.take() else {
            return HeadersStatus::Continue;
        };
        match asked.answer.take() {
            Some(Ok(answer)) => self.answered(cx, head, &asked, answer),
            // It resumes when the call has ended, so that there is an answer.
            Some(Err(_)) | None => self.failed(cx, &asked.cluster),
        }
    }

    fn encode_headers(
        &mut self,
        cx: &mut StreamContext<'_>,
        head: &mut ResponseHead,
        _: EndStream,
    ) -> HeadersStatus {
        if let (Some(end), Some(request)) = (&mut self.at_the_end, &cx.request) {
            // As other filters have left it.
            end.head.clone_from(request);
        }
        let mut to_add = std::mem::take(&mut self.to_add);
        if self.refused && to_add.has("content-type") {
            match head.is_grpc() {
                true => to_add.remove("content-type"),
                false => head.fields.remove("content-type") > 0,
            };
        }
        to_add.apply(head);
        if let (true, Some(parser)) = (self.refused, &self.state.config.response_headers) {
            parser.evaluate_response(head, cx.request.as_deref(), cx.info);
        }
        HeadersStatus::Continue
    }

    fn on_stream_complete(&mut self, info: &mut StreamInfo) {
        // Broken off before there was an answer, it does not count for anything.
        if self.asked.is_some() {
            return;
        }
        let Some(end) = self.at_the_end.take() else {
            return;
        };
        let of_route = of_route(&end.route, end.slot);
        let (request, _) = self.request(
            (&end.route, of_route),
            &end.head,
            info,
            true,
            &mut SmallVec::new(),
        );
        if let Some(request) = request {
            let data = FormatData::of_request(info, Some(&end.head));
            let service = &self.state.config.service;
            let call = service.ask(self.state.client(), &request, &data);
            // Nobody waits for it; it ends with its timeout at the latest.
            tokio::task::spawn_local(async move {
                let _ = call.await;
            });
        }
    }
}
