//! `envoy.filters.http.router`: the end of every chain. Takes the route that was chosen and gets its answer.
//!
//! Type URL: `envoy.extensions.filters.http.router.v3.Router`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter>
//! Stats: `http.<stat_prefix>.no_route`, `no_cluster`, `rq_*`, `passthrough_internal_redirect_*`; `cluster.<name>.upstream_rq_*`,
//! `retry.upstream_rq_*`, `upstream_internal_redirect_*`; `vhost.<name>.route.<stat_prefix>.upstream_rq_*`.
//! Deviations: a request that only waited on a pooled connection which its peer had closed is sent again once on a new one,
//! if it is idempotent and had no body; Envoy answers 503.
//! Deviations: a request that filters have given a field that no message may carry is refused before a host is chosen; Envoy
//! chooses one.
//! Deviations: a CONNECT that ends here (`connect_config`) passes no upstream filters.
//! Deviations: stats by zone (`cluster.<name>.zone.*`) are not kept.
//! Deviations: upstream filters change a copy of the request head: a retry and the access log see it as it was before them;
//! Envoy's change the only one.

mod attempt;
mod budget;
mod config;
mod failure;
mod hedge;
pub(crate) mod outcome;
mod redirect;
mod replay;
mod reply;
mod request;
mod response;
pub(crate) mod retry;
pub(crate) mod route_codes;
mod shadow;
mod strict;
mod timeouts;
mod upstream_filters;
mod upstream_log;
mod upstream_request;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

pub use config::{RouterConfig, TYPE_NAME, WorkerRouter};
pub use redirect::{RedirectState, Redirected, Target};
pub use strict::StrictHeader;
pub use timeouts::limits;

use crate::http::{EndStream, Fields, Known, Method, ResponseHead};
use crate::http_connection_manager::filter_chain::ChainEnv;
use crate::http_filters::LocalReply;
use crate::http2::MetadataMap;
use crate::route::{Action, ConnectConfig, NewCookie, Priority, RouteAction, SelectedRoute};
use crate::stream_info::{BytesMeter, ResponseFlag, StreamInfo};
use crate::upstream::pool::ResponseEvent;
use crate::upstream::{RoutingPriority, WorkerCluster};

use hedge::Slow;
use outcome::Failure;
use replay::RequestBody;
use retry::RetryState;
use shadow::Shadows;
use timeouts::Timeouts;
use upstream_filters::{Filtered, UpstreamFilters, poll_filtered};
use upstream_log::AttemptLog;
use upstream_request::UpstreamRequest;

/// The router of one stream.
pub struct Router {
    shared: Rc<WorkerRouter>,
    state: State,
    body: RequestBody,
    timeouts: Timeouts,
    retry: RetryState,
    /// The route that was chosen when the request came here.
    route: Option<SelectedRoute>,
    cluster: Option<Rc<WorkerCluster>>,
    priority: RoutingPriority,
    /// Bytes that may be kept of a request whose route says nothing.
    buffer_limit: u64,
    /// Something has gone to the client: there are no retries any more.
    response_started: bool,
    /// It was the final head.
    head_passed: bool,
    /// The response says that it comes from a canary.
    is_canary: bool,
    /// How a gRPC response counts for its host is known at its end.
    grpc_deferred: bool,
    /// The route follows redirects by itself.
    redirects: bool,
    /// Attempts that took too long and go on.
    slow: Vec<Slow>,
    /// The hosts that the request names itself and that have not been tried, once they were asked for.
    wanted_hosts: RefCell<Option<VecDeque<Box<str>>>>,
    /// Cookies by which the client finds its host again.
    new_cookies: Vec<NewCookie>,
    /// `x-envoy-upstream-alt-stat-name`.
    alt_stat_name: Option<Box<str>>,
    /// When the request had come whole: the origin of `x-envoy-upstream-service-time`.
    request_complete: Option<Instant>,
    route_deadline: Option<Instant>,
    is_grpc: bool,
    is_upgrade: bool,
    /// The request is a CONNECT that ends here.
    connect: Option<ConnectConfig>,
    /// Filters of an attempt that was given up, which still have to be told of the end.
    left: Option<Box<UpstreamFilters>>,
    /// Its log, likewise.
    left_log: Option<Box<AttemptLog>>,
    /// Its bytes, likewise.
    left_bytes: BytesMeter,
    shadows: Shadows,
    /// What came beside the request before there was a stream for it.
    metadata: Vec<MetadataMap>,
}

/// What the router does.
enum State {
    /// Nothing has come yet, or nothing is left to do.
    Idle,
    /// An attempt runs.
    Attempt(Box<UpstreamRequest>),
    /// The next attempt waits.
    BackingOff(BackingOff),
    /// Nothing but slow attempts runs.
    OnlySlow,
}

/// An attempt that waits.
struct BackingOff {
    until: Instant,
    /// It is made because the last one took too long.
    after_timeout: bool,
}

/// What the router says to the pump.
#[derive(Debug)]
pub enum RouterEvent {
    /// A 1xx of the upstream.
    Informational(ResponseHead),
    /// The head of the response.
    Head(ResponseHead, EndStream),
    /// A piece of its body.
    Data(Bytes, EndStream),
    /// Its trailers.
    Trailers(Fields),
    /// Metadata beside it.
    Metadata(Box<MetadataMap>),
    /// The router answers itself.
    LocalReply(LocalReply),
    /// The response broke off after its head.
    Reset,
    /// The request begins anew, where a redirect of the upstream leads.
    Redirected(Box<Redirected>),
    /// Nothing for the client, but something has changed.
    Progress,
}

impl Router {
    /// A router for a stream whose head has not come yet. `buffer_limit` is that of its connection.
    pub fn new(shared: Rc<WorkerRouter>, buffer_limit: usize) -> Self {
        Self {
            shared,
            state: State::Idle,
            body: RequestBody::default(),
            timeouts: Timeouts::default(),
            retry: RetryState::default(),
            route: None,
            cluster: None,
            priority: RoutingPriority::Default,
            buffer_limit: u64::try_from(buffer_limit).unwrap_or(u64::MAX),
            response_started: false,
            head_passed: false,
            is_canary: false,
            grpc_deferred: false,
            redirects: false,
            slow: Vec::new(),
            wanted_hosts: RefCell::default(),
            new_cookies: Vec::new(),
            alt_stat_name: None,
            request_complete: None,
            route_deadline: None,
            is_grpc: false,
            is_upgrade: false,
            connect: None,
            left: None,
            left_log: None,
            left_bytes: BytesMeter::default(),
            shadows: Shadows::default(),
            metadata: Vec::new(),
        }
    }

    /// Whether an attempt runs or waits.
    pub fn is_active(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    /// The request head has passed the filters.
    pub fn start(&mut self, env: &mut ChainEnv<'_>, end: EndStream) -> Option<RouterEvent> {
        self.shared.stats.rq_total().inc();
        self.is_grpc = env.request.is_grpc();
        if env.info.requires_tls {
            return Some(self.redirect_to_https(env));
        }
        let Some(selected) = env.info.route.clone() else {
            self.shared.stats.no_route().inc();
            env.info.response_flags.set(ResponseFlag::NoRouteFound);
            return Some(RouterEvent::LocalReply(LocalReply::new(
                404,
                "route_not_found",
            )));
        };
        let route = selected.route();
        match &route.action {
            Action::Redirect(redirect) => {
                let location = selected
                    .redirect_location(env.request, env.info)
                    .unwrap_or_default();
                Some(self.redirect(env, redirect.status, location))
            }
            Action::DirectResponse(response) => {
                let location = selected.redirect_location(env.request, env.info);
                Some(self.direct_response(env, response, location))
            }
            Action::NonForwarding => Some(self.no_cluster(env, 503)),
            Action::Forward(action) => {
                let cluster = env.info.cluster.clone();
                let Some(cluster) = cluster else {
                    return Some(self.no_cluster(env, action.cluster_not_found_response_code));
                };
                self.cluster = Some(cluster);
                let mut route = selected.clone();
                if route.join_virtual_cluster(env.request) {
                    env.info.route = Some(route.clone());
                }
                self.route = Some(route);
                self.forward(env, action, &selected, end)
            }
        }
    }

    /// The route leads to a cluster.
    fn forward(
        &mut self,
        env: &mut ChainEnv<'_>,
        action: &RouteAction,
        selected: &SelectedRoute,
        end: EndStream,
    ) -> Option<RouterEvent> {
        if let Some(refusal) = self.refuse(env) {
            return Some(refusal);
        }
        self.priority = match action.priority {
            Priority::Default => RoutingPriority::Default,
            Priority::High => RoutingPriority::High,
        };
        let connect = env.request.method() == Method::Connect;
        self.is_upgrade = connect || env.request.fields.contains(Known::Upgrade);
        self.connect = action
            .connect_config()
            .filter(|config| connect || config.allow_post && env.request.method() == Method::Post);
        self.prepare(env, action, selected);
        if let Some(refusal) = self.refuse_illegal(env) {
            return Some(refusal);
        }
        if end.is_end() {
            self.request_ended(env.info.now);
        }
        self.body
            .start(end, self.retry.is_active() || self.redirects);
        let event = self.attempt(env);
        if event.is_none() {
            self.mirror(env, action);
        }
        event
    }

    /// Works out timeouts and retries, and completes the head for the upstream.
    fn prepare(&mut self, env: &mut ChainEnv<'_>, action: &RouteAction, selected: &SelectedRoute) {
        let config = &self.shared.config;
        self.timeouts = Timeouts::of(action, env.request, self.is_grpc, config);
        self.timeouts
            .write_headers(env.request, Duration::ZERO, config.suppress_envoy_headers);
        if let Some(limit) = selected.request_body_buffer_limit() {
            self.buffer_limit = limit;
        }
        self.body.set_limit(self.buffer_limit);
        if selected.virtual_host().include_request_attempt_count {
            env.request.fields.set(Known::EnvoyAttemptCount, "1");
        }
        selected.finalize_request_headers(env.request, env.info, !config.suppress_envoy_headers);
        let policy = attempt::retry_policy(self.cluster.as_deref(), action);
        self.retry = RetryState::of(policy, env.request, &self.shared.retry);
        self.redirects = action.internal_redirect().is_some();
        env.info.attempt_count = 1;
    }

    /// The nearest of the router's deadlines.
    pub fn deadline(&self) -> Option<Instant> {
        use crate::http_connection_manager::timer::nearer;
        let of_state = match &self.state {
            State::Idle => return None,
            State::BackingOff(pending) => Some(pending.until),
            State::Attempt(attempt) => nearer(attempt.deadline(), attempt.log_due()),
            State::OnlySlow => None,
        };
        let nearest = nearer(self.route_deadline, of_state);
        if self.has_slow_attempts() {
            return nearer(nearest, self.slow_deadline());
        }
        nearest
    }

    /// A deadline has passed.
    pub fn on_deadline(&mut self, now: Instant, env: &mut ChainEnv<'_>) -> Option<RouterEvent> {
        env.info.now = now;
        if self.route_deadline.is_some_and(|d| d <= now) {
            self.route_deadline = None;
            return Some(self.route_timeout(env));
        }
        if let Some(event) = self.on_slow_deadline(env, now) {
            return Some(event);
        }
        match &mut self.state {
            State::BackingOff(pending) if pending.until <= now => {
                let after_timeout = pending.after_timeout;
                self.state = State::Idle;
                self.retry_now(env, after_timeout)
                    .or(Some(RouterEvent::Progress))
            }
            State::Attempt(attempt) => {
                attempt.flush_log(env.info);
                let failure = attempt.expired(now)?;
                let is_slow = failure.is_timeout() && self.timeouts.hedge;
                if is_slow && !self.head_passed {
                    return Some(self.on_slow_attempt(env));
                }
                Some(self.on_failure(env, failure))
            }
            State::BackingOff(_) | State::OnlySlow | State::Idle => None,
        }
    }

    /// Drives the attempt and gives the next event of its response.
    pub fn poll(&mut self, env: &mut ChainEnv<'_>, cx: &mut Context<'_>) -> Poll<RouterEvent> {
        if self.has_slow_attempts()
            && let Poll::Ready(event) = self.poll_slow(env, cx)
        {
            return Poll::Ready(event);
        }
        loop {
            let State::Attempt(attempt) = &mut self.state else {
                return Poll::Pending;
            };
            if attempt.stream().is_none() {
                if attempt.filters().is_some() {
                    return self.poll_filtered(env, cx);
                }
                match attempt.poll_connect(cx, env.info) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => {
                        self.send_request(env);
                        continue;
                    }
                    Poll::Ready(Err(reason)) => {
                        return Poll::Ready(self.on_failure(env, Failure::Reset(reason)));
                    }
                }
            }
            let Some(stream) = attempt.stream() else {
                return Poll::Pending;
            };
            // Sends what has been queued; whether the queue is short again is asked before more is put into it.
            let _ = stream.poll_ready(cx);
            let Poll::Ready(event) = stream.poll_event(cx) else {
                return Poll::Pending;
            };
            let now = env.info.now;
            attempt.received(now, env.info);
            return Poll::Ready(self.on_event(env, event, now));
        }
    }

    /// The same for an attempt behind filters.
    #[cold]
    fn poll_filtered(&mut self, env: &mut ChainEnv<'_>, cx: &mut Context<'_>) -> Poll<RouterEvent> {
        let State::Attempt(attempt) = &mut self.state else {
            return Poll::Pending;
        };
        let filtered = poll_filtered(attempt, env, cx, self.is_upgrade);
        if !self.metadata.is_empty() {
            self.send_metadata();
        }
        filtered.map(|filtered| match filtered {
            Filtered::Event(event) => self.on_event(env, event, Instant::now()),
            Filtered::Reply(reply) => RouterEvent::LocalReply(reply),
        })
    }

    fn on_event(
        &mut self,
        env: &mut ChainEnv<'_>,
        event: ResponseEvent,
        now: Instant,
    ) -> RouterEvent {
        if let State::Attempt(attempt) = &mut self.state {
            attempt.saw(&event);
        }
        match event {
            ResponseEvent::Informational(head) => self.on_informational(env, head),
            ResponseEvent::Head(head, end) => self.on_head(env, head, end, now),
            ResponseEvent::Data(data, end) => {
                env.info.timing.first_upstream_rx_body.get_or_insert(now);
                if end.is_end() {
                    self.response_ended(env, now);
                }
                RouterEvent::Data(data, end)
            }
            ResponseEvent::Trailers(trailers) => self.on_trailers(env, trailers, now),
            ResponseEvent::Metadata(map) => RouterEvent::Metadata(map),
            ResponseEvent::Reset(reason) => self.on_failure(env, Failure::Reset(reason)),
        }
    }

    /// Gives the attempt up: nobody waits for the response.
    pub fn abandon(&mut self) {
        self.shadows.abandon();
        if let State::Attempt(mut attempt) = std::mem::replace(&mut self.state, State::Idle) {
            self.left = attempt.take_filters();
            self.left_log = attempt.take_log();
            attempt.reset(&mut self.left_bytes);
        }
        self.drop_slow_attempts();
        self.route_deadline = None;
    }

    /// Takes the body of the request, where it is kept to be sent again.
    pub fn take_kept(&mut self) -> Vec<Bytes> {
        let kept = self.body.take_all();
        kept.map(|(pieces, _)| pieces).unwrap_or_default()
    }

    /// The stream has ended: what is left of the attempt goes back to its pool.
    pub fn finish(&mut self, info: &mut StreamInfo) {
        self.shadows.abandon();
        if let State::Attempt(attempt) = std::mem::replace(&mut self.state, State::Idle) {
            attempt.finish(info);
        }
        for slow in std::mem::take(&mut self.slow) {
            slow.give_up(info);
        }
        info.upstream_bytes
            .add(std::mem::take(&mut self.left_bytes));
        if let Some(mut filters) = self.left.take() {
            filters.complete(info);
        }
        if let Some(log) = self.left_log.take() {
            log.end(info);
        }
    }
}

#[cfg(test)]
mod tests;
