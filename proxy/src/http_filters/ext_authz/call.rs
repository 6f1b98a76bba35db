//! One call to a service, from the question to what is done about the answer.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use super::apply::{Invalid, apply, clears_route, validate};
use super::config::{BodySettings, Config, PerRoute, Service};
use super::logging::{LoggingInfo, ShadowDecision};
use super::request::{ShownBody, check_request};
use super::verdict::{Answer, Changes, Refusal, ResponseChanges, Verdict};
use super::{NAME, WorkerState};
use crate::formatter::FormatData;
use crate::http::syntax::{is_name, is_value};
use crate::http::{HeaderName, RequestHead};
use crate::http_filters::{LocalBoxFuture, LocalReply, StreamContext};
use crate::route::ClusterChoice;
use crate::stats::{Counter, Scope};
use crate::stream_info::{ResponseFlag, StreamInfo};
use crate::upstream::{ClusterId, CodeOrigin};

/// A call under way.
pub(super) struct Call {
    /// Filled when the service has answered.
    answer: Rc<RefCell<Option<Answer>>>,
    start: Instant,
    /// The cluster that the request went to when it was asked about.
    cluster: Option<(ClusterId, Rc<ClusterCounters>)>,
    logging: Option<Rc<LoggingInfo>>,
}

/// What is counted with the cluster of a request; each counter is made when it is first needed.
pub(super) struct ClusterCounters {
    scope: Scope,
    cells: [OnceCell<Counter>; EVENTS.len()],
}

#[derive(Clone, Copy)]
enum Event {
    Ok,
    Denied,
    Error,
    FailureModeAllowed,
    Invalid,
}

const EVENTS: [&str; 5] = ["ok", "denied", "error", "failure_mode_allowed", "invalid"];

impl ClusterCounters {
    fn count(&self, event: Event) {
        let index = event as usize;
        self.cells[index]
            .get_or_init(|| self.scope.counter(EVENTS[index]))
            .inc();
    }
}

impl Call {
    /// Asks. The future ends when the answer is there.
    pub(super) fn begin(
        state: &Rc<WorkerState>,
        cx: &mut StreamContext<'_>,
        head: &RequestHead,
        body: Option<(&[Bytes], BodySettings)>,
    ) -> (Self, LocalBoxFuture<'static, ()>) {
        let config = &*state.config;
        let body = body.map(|(pieces, settings)| ShownBody::new(pieces, settings));
        let logging = config.logs.then(|| log(config, cx.info)).flatten();
        let settings = cx.route_config::<PerRoute>().and_then(PerRoute::settings);
        let service = settings.and_then(|settings| settings.service.as_ref());
        let asking: LocalBoxFuture<'static, Answer> =
            match &**service.unwrap_or(&state.config.service) {
                Service::Grpc(service) => {
                    let extensions = settings.map(|settings| settings.context_extensions.clone());
                    let extensions = extensions.unwrap_or_default();
                    let request = check_request(config, cx.info, head, body, extensions);
                    let data = FormatData::of_request(cx.info, Some(head));
                    let checking = service.check(state.client(), &request, &data);
                    Box::pin(async move {
                        let response = checking.await;
                        response.map_or_else(|_| Answer::error(), Answer::from_check_response)
                    })
                }
                Service::Http(service) => {
                    Box::pin(service.check(state.client(), config, (cx.info, head), body))
                }
            };
        let answer = Rc::new(RefCell::new(None));
        let call = Self {
            answer: answer.clone(),
            start: Instant::now(),
            cluster: cluster(state, cx, head),
            logging,
        };
        let future = async move {
            let found = asking.await;
            *answer.borrow_mut() = Some(found);
        };
        (call, Box::pin(future))
    }

    /// Does what the answer says. `response` gets what is to become of the response. None: the request goes on.
    pub(super) fn conclude(
        self,
        state: &WorkerState,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        response: &mut Option<Box<ResponseChanges>>,
    ) -> Option<LocalReply> {
        let config = &*state.config;
        let took = self.start.elapsed();
        if let (Some(logging), true) = (&self.logging, config.emit_filter_state_stats) {
            logging.latency.set(Some(took));
        }
        let answer = self.answer.borrow_mut().take();
        let Answer {
            verdict,
            mut metadata,
            is_unclear,
        } = answer.unwrap_or_else(Answer::error);
        if is_unclear && config.validate_mutations {
            return Some(self.reject(config, cx));
        }
        if !metadata.is_empty() {
            if config.enable_dynamic_metadata_ingestion {
                if matches!(verdict, Verdict::Ok(_)) {
                    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                    metadata.insert("ext_authz_duration".to_owned(), Value::from(millis));
                }
                cx.info.dynamic_metadata.merge(NAME, metadata);
            } else {
                config.stats.ignored_dynamic_metadata().inc();
            }
        }
        match verdict {
            Verdict::Ok(changes) => self.pass(config, cx, head, *changes, response),
            Verdict::Denied(refusal) => self.deny(config, cx, refusal),
            Verdict::Error(refusal) => self.fail(config, cx, head, refusal),
        }
    }

    fn pass(
        self,
        config: &Config,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        changes: Changes,
        response: &mut Option<Box<ResponseChanges>>,
    ) -> Option<LocalReply> {
        if clears_route(&changes, config) {
            cx.clear_route_cache();
        }
        if let Err(invalid) = apply(&changes, config, cx.info.request_limits, head) {
            if invalid == Invalid::TooLarge {
                config.stats.request_header_limits_reached().inc();
            }
            return Some(self.reject(config, cx));
        }
        if !changes.response.is_empty() {
            *response = Some(Box::new(changes.response));
        }
        self.count(Event::Ok);
        config.stats.ok().inc();
        if config.shadow_mode {
            remember(config, cx.info, "OK", 200, Vec::new());
        }
        None
    }

    fn deny(
        self,
        config: &Config,
        cx: &mut StreamContext<'_>,
        mut refusal: Refusal,
    ) -> Option<LocalReply> {
        let status = refusal.status.unwrap_or(403);
        config.stats.denied().inc();
        self.count(Event::Denied);
        if let (true, Some((id, _))) = (config.charge_cluster_response_stats, &self.cluster)
            && let Some(cluster) = cx.worker.clusters.get(*id)
        {
            cluster.record_code(status, CHARGED);
        }
        if config.validate_mutations && validate(&refusal.fields).is_err() {
            return Some(self.reject(config, cx));
        }
        if config.shadow_mode {
            config.stats.shadow_denied().inc();
            remember(config, cx.info, "DENIED", status, refusal.fields);
            return None;
        }
        if let Some(most) = config.max_denied_response_body_bytes {
            refusal.body.truncate(most);
        }
        flag(cx.info);
        Some(reply(status, "ext_authz_denied", refusal))
    }

    fn fail(
        self,
        config: &Config,
        cx: &mut StreamContext<'_>,
        head: &mut RequestHead,
        refusal: Option<Refusal>,
    ) -> Option<LocalReply> {
        self.count(Event::Error);
        config.stats.error().inc();
        let own = refusal.as_ref().and_then(|refusal| refusal.status);
        let status = own.unwrap_or(config.status_on_error);
        if config.shadow_mode {
            config.stats.shadow_error().inc();
            remember(config, cx.info, "ERROR", status, Vec::new());
            return None;
        }
        if config.failure_mode_allow {
            config.stats.failure_mode_allowed().inc();
            self.count(Event::FailureModeAllowed);
            if config.failure_mode_allow_header_add {
                head.fields
                    .append("x-envoy-auth-failure-mode-allowed", "true");
            }
            return None;
        }
        flag(cx.info);
        Some(match refusal {
            Some(refusal) => reply(status, "ext_authz_error", refusal),
            None => LocalReply::new(status, "ext_authz_error"),
        })
    }

    /// The answer may not be carried out.
    fn reject(&self, config: &Config, cx: &mut StreamContext<'_>) -> LocalReply {
        self.count(Event::Invalid);
        config.stats.invalid().inc();
        refuse(cx.info)
    }

    fn count(&self, event: Event) {
        if let Some((_, counters)) = &self.cluster {
            counters.count(event);
        }
    }
}

/// What a client gets when the answer may not be carried out.
pub(super) fn refuse(info: &mut StreamInfo) -> LocalReply {
    flag(info);
    LocalReply::new(500, "ext_authz_invalid")
}

fn flag(info: &mut StreamInfo) {
    info.response_flags
        .set(ResponseFlag::UnauthorizedExternalService);
}

fn reply(status: u16, details: &'static str, refusal: Refusal) -> LocalReply {
    let Refusal {
        status: _,
        fields,
        body,
    } = refusal;
    let mut reply = LocalReply::new(status, details).with_body(body);
    for (name, value) in fields {
        if is_name(name.as_bytes()) && is_value(&value) {
            reply = reply.with_header(HeaderName::new(name), value);
        }
    }
    reply
}

/// The counters of the cluster that the request goes to.
fn cluster(
    state: &WorkerState,
    cx: &StreamContext<'_>,
    head: &RequestHead,
) -> Option<(ClusterId, Rc<ClusterCounters>)> {
    let route = cx.info.route.as_ref()?;
    let ClusterChoice::Id(id) = route.cluster(head, &cx.worker.clusters) else {
        return None;
    };
    let known = state.clusters.borrow().get(&id).cloned();
    if let Some(counters) = known {
        return Some((id, counters));
    }
    let cluster = cx.worker.clusters.get(id)?;
    let counters = Rc::new(ClusterCounters {
        scope: state.config.cluster_scope(&cluster.info().scope),
        cells: Default::default(),
    });
    state.clusters.borrow_mut().insert(id, counters.clone());
    Some((id, counters))
}

/// The object of the filter in the filter state. None: something else is there.
fn log(config: &Config, info: &mut StreamInfo) -> Option<Rc<LoggingInfo>> {
    if info.filter_state.get(&config.name).is_some() {
        config.stats.filter_state_name_collision().inc();
        return None;
    }
    let logging = Rc::new(LoggingInfo::default());
    info.filter_state.set(&*config.name, logging.clone());
    Some(logging)
}

/// Leaves what would have been done in the filter state.
pub(super) fn remember(
    config: &Config,
    info: &mut StreamInfo,
    check_result: &'static str,
    status_code: u16,
    response_headers: super::verdict::Pairs,
) {
    let decision = ShadowDecision {
        check_result,
        status_code,
        response_headers,
    };
    let name = format!("{}.shadow", config.name);
    info.filter_state.set(name, Rc::new(decision));
}

/// As a response of the upstream to a request of the proxy's own.
const CHARGED: CodeOrigin = CodeOrigin {
    internal: true,
    canary: false,
};
