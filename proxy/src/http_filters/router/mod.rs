//! `envoy.filters.http.router`: the end of every chain. Takes the route that was chosen and gets its answer.
//!
//! Type URL: `envoy.extensions.filters.http.router.v3.Router`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter>
//! Stats: `http.<stat_prefix>.no_route`, `no_cluster`, `rq_*`; `cluster.<name>.upstream_rq_*`.
//! Deviations: a request that only waited on a pooled connection which its peer had closed is sent again once on a new one,
//! if it is idempotent and had no body; Envoy answers 503.
//! Deviations: a CONNECT that ends here (`connect_config`) passes no upstream filters.
//! Deviations: upstream filters change a copy of the request head: a retry and the access log see it as it was before them;
//! Envoy's change the only one.

mod config;
pub(crate) mod outcome;
mod replay;
pub(crate) mod retry;
mod shadow;
mod timeouts;
mod upstream_filters;
mod upstream_request;

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::Instant;

pub use config::{RouterConfig, TYPE_NAME, WorkerRouter};
pub use timeouts::limits;

use crate::http::{EndStream, Fields, HeaderName, Known, Method, ResponseHead};
use crate::http_connection_manager::filter_chain::ChainEnv;
use crate::http_filters::LocalReply;
use crate::route::{
    Action, ConnectConfig, DirectResponse, Priority, RetryPolicy, SelectedRoute, https_location,
};
use crate::stream_info::{ResponseFlag, StreamInfo};
use crate::upstream::pool::{ResponseEvent, StreamKind};
use crate::upstream::{
    CodeOrigin, LoadBalancerContext, RoutingPriority, WorkerCluster, WorkerHost,
};

use outcome::Failure;
use replay::RequestBody;
use retry::{RetryDecision, RetryState};
use shadow::Shadows;
use timeouts::Timeouts;
use upstream_filters::{Filtered, UpstreamFilters, poll_filtered};
use upstream_request::UpstreamRequest;

/// The router of one stream.
pub struct Router {
    shared: Rc<WorkerRouter>,
    state: State,
    body: RequestBody,
    timeouts: Timeouts,
    retry: RetryState,
    cluster: Option<Rc<WorkerCluster>>,
    priority: RoutingPriority,
    response_started: bool,
    /// When the request had come whole: the origin of `x-envoy-upstream-service-time`.
    request_complete: Option<Instant>,
    route_deadline: Option<Instant>,
    is_grpc: bool,
    is_upgrade: bool,
    /// The request is a CONNECT that ends here.
    connect: Option<ConnectConfig>,
    /// Filters of an attempt that was given up, which still have to be told of the end.
    left: Option<Box<UpstreamFilters>>,
    shadows: Shadows,
}

/// What the router does.
enum State {
    /// Nothing has come yet, or nothing is left to do.
    Idle,
    /// An attempt runs.
    Attempt(Box<UpstreamRequest>),
    /// The next attempt waits.
    BackingOff(Instant),
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
    /// The router answers itself.
    LocalReply(LocalReply),
    /// The response broke off after its head.
    Reset,
    /// Nothing for the client, but something has changed.
    Progress,
}

impl Router {
    /// A router for a stream whose head has not come yet.
    pub fn new(shared: Rc<WorkerRouter>) -> Self {
        Self {
            shared,
            state: State::Idle,
            body: RequestBody::default(),
            timeouts: Timeouts::default(),
            retry: RetryState::default(),
            cluster: None,
            priority: RoutingPriority::Default,
            response_started: false,
            request_complete: None,
            route_deadline: None,
            is_grpc: false,
            is_upgrade: false,
            connect: None,
            left: None,
            shadows: Shadows::default(),
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
            Action::DirectResponse(response) => Some(self.direct_response(env, response)),
            Action::NonForwarding => {
                let reply = LocalReply::new(404, "route_not_found");
                env.info.response_flags.set(ResponseFlag::NoRouteFound);
                Some(RouterEvent::LocalReply(reply))
            }
            Action::Forward(action) => {
                let cluster = env.info.cluster.clone();
                let Some(cluster) = cluster else {
                    self.shared.stats.no_cluster().inc();
                    env.info.response_flags.set(ResponseFlag::NoClusterFound);
                    let reply = LocalReply::new(
                        action.cluster_not_found_response_code,
                        "cluster_not_found",
                    );
                    return Some(self.reply(env, reply));
                };
                self.priority = match action.priority {
                    Priority::Default => RoutingPriority::Default,
                    Priority::High => RoutingPriority::High,
                };
                let connect = env.request.method() == Method::Connect;
                self.is_upgrade = connect || env.request.fields.contains(Known::Upgrade);
                self.connect = action.connect_config().filter(|config| {
                    connect || config.allow_post && env.request.method() == Method::Post
                });
                self.prepare(env, &cluster, action, &selected);
                if end.is_end() {
                    self.request_ended(env.info.now);
                }
                self.body.start(end, self.retry.may_retry());
                self.cluster = Some(cluster);
                let event = self.attempt(env);
                if event.is_none() && !action.mirrors().is_empty() {
                    self.start_shadows(env, action);
                }
                event
            }
        }
    }

    /// Works out timeouts and retries, and completes the head for the upstream.
    fn prepare(
        &mut self,
        env: &mut ChainEnv<'_>,
        cluster: &Rc<WorkerCluster>,
        action: &crate::route::RouteAction,
        selected: &SelectedRoute,
    ) {
        let config = &self.shared.config;
        self.timeouts = Timeouts::of(action, env.request, self.is_grpc, config);
        self.timeouts
            .write_headers(env.request, self.is_grpc, config.suppress_envoy_headers);
        let host = selected.virtual_host();
        self.retry = RetryState::of(action.retry_policy.as_deref(), env.request);
        self.body
            .set_limit(selected.request_body_buffer_limit().unwrap_or(u64::from(
                cluster.info().settings.per_connection_buffer_limit_bytes,
            )));
        if host.include_request_attempt_count {
            env.request.fields.set(Known::EnvoyAttemptCount, "1");
        }
        selected.finalize_request_headers(env.request, env.info, !config.suppress_envoy_headers);
        env.info.attempt_count = 1;
    }

    /// A piece of the request body has passed the filters.
    pub fn data(
        &mut self,
        env: &mut ChainEnv<'_>,
        data: Bytes,
        end: EndStream,
    ) -> Option<RouterEvent> {
        if end.is_end() {
            self.request_ended(env.info.now);
        }
        if !self.shadows.is_empty() {
            self.shadows.data(&data, end, self.cluster.as_deref());
        }
        if let State::Attempt(attempt) = &mut self.state {
            attempt.body_moves(env.info);
            if let Some(stream) = attempt.stream() {
                self.body.push(data, end, Some(stream));
            } else if let Some(filters) = attempt.filters() {
                self.body.note(&data, end, true);
                if let Err(reply) = filters.request_data(env, data, end) {
                    return Some(RouterEvent::LocalReply(reply));
                }
            } else {
                self.body.push(data, end, None);
            }
        } else if matches!(self.state, State::BackingOff(_)) {
            self.body.push(data, end, None);
        }
        if self.body.overflowed() {
            self.retry.abandon();
            if let Some(cluster) = &self.cluster {
                cluster.info().stats.retry_or_shadow_abandoned().inc();
            }
        }
        None
    }

    /// The request trailers have passed the filters.
    pub fn trailers(&mut self, env: &mut ChainEnv<'_>, trailers: Fields) -> Option<RouterEvent> {
        self.request_ended(env.info.now);
        self.shadows.trailers(&trailers);
        if let State::Attempt(attempt) = &mut self.state
            && let Some(filters) = attempt.filters()
        {
            let passed = filters.request_trailers(env, trailers.clone());
            self.body.push_trailers(trailers, None);
            return passed.err().map(RouterEvent::LocalReply);
        }
        let stream = if let State::Attempt(attempt) = &mut self.state {
            attempt.stream()
        } else {
            None
        };
        self.body.push_trailers(trailers, stream);
        None
    }

    /// Ready when the upstream takes more of the request.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            State::Idle => Poll::Ready(()),
            State::BackingOff(_) => self.body.poll_room(),
            State::Attempt(attempt) => match attempt.stream() {
                Some(stream) => stream.poll_ready(cx),
                None => match attempt.filters() {
                    None => self.body.poll_room(),
                    Some(filters) if !filters.has_room() => Poll::Pending,
                    Some(_) => attempt
                        .filtered()
                        .map_or(Poll::Ready(()), |(stream, _)| stream.poll_ready(cx)),
                },
            },
        }
    }

    /// The nearest of the router's deadlines.
    pub fn deadline(&self) -> Option<Instant> {
        use crate::http_connection_manager::timer::nearer;
        let of_state = match &self.state {
            State::Idle => return None,
            State::BackingOff(until) => Some(*until),
            State::Attempt(attempt) => attempt.deadline(),
        };
        nearer(self.route_deadline, of_state)
    }

    /// A deadline has passed.
    pub fn on_deadline(&mut self, now: Instant, env: &mut ChainEnv<'_>) -> Option<RouterEvent> {
        env.info.now = now;
        if self.route_deadline.is_some_and(|d| d <= now) {
            self.route_deadline = None;
            return Some(self.route_timeout(env));
        }
        match &mut self.state {
            State::BackingOff(until) if *until <= now => {
                self.state = State::Idle;
                self.attempt(env).or(Some(RouterEvent::Progress))
            }
            State::Attempt(attempt) => {
                let failure = attempt.expired(now)?;
                let cluster = self.cluster.clone()?;
                if failure == Failure::PerTryTimeout {
                    cluster.info().stats.upstream_rq_per_try_timeout().inc();
                }
                Some(self.on_failure(env, failure))
            }
            State::BackingOff(_) | State::Idle => None,
        }
    }

    /// Drives the attempt and gives the next event of its response.
    pub fn poll(&mut self, env: &mut ChainEnv<'_>, cx: &mut Context<'_>) -> Poll<RouterEvent> {
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
        poll_filtered(attempt, env, cx, self.is_upgrade).map(|filtered| match filtered {
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
        match event {
            ResponseEvent::Informational(head) => RouterEvent::Informational(head),
            ResponseEvent::Head(head, end) => self.on_head(env, head, end, now),
            ResponseEvent::Data(data, end) => {
                env.info.timing.first_upstream_rx_body.get_or_insert(now);
                if end.is_end() {
                    self.response_ended(env, now);
                }
                RouterEvent::Data(data, end)
            }
            ResponseEvent::Trailers(trailers) => {
                self.response_ended(env, now);
                RouterEvent::Trailers(trailers)
            }
            ResponseEvent::Reset(reason) => self.on_failure(env, Failure::Reset(reason)),
        }
    }

    /// Gives the attempt up: nobody waits for the response.
    pub fn abandon(&mut self) {
        self.shadows.abandon();
        if let State::Attempt(mut attempt) = std::mem::replace(&mut self.state, State::Idle) {
            self.left = attempt.take_filters();
            attempt.reset();
        }
        self.route_deadline = None;
    }

    /// The stream has ended: what is left of the attempt goes back to its pool.
    pub fn finish(&mut self, info: &mut StreamInfo) {
        self.shadows.abandon();
        if let State::Attempt(attempt) = std::mem::replace(&mut self.state, State::Idle) {
            attempt.finish(info);
        }
        if let Some(mut filters) = self.left.take() {
            filters.complete(info);
        }
    }

    fn request_ended(&mut self, now: Instant) {
        self.request_complete = Some(now);
        self.route_deadline = self.timeouts.global.map(|d| now + d);
        if let State::Attempt(attempt) = &mut self.state {
            attempt.arm(now, &self.timeouts);
        }
    }

    /// Chooses a host and asks its pool for a stream.
    fn attempt(&mut self, env: &mut ChainEnv<'_>) -> Option<RouterEvent> {
        let cluster = self.cluster.clone()?;
        let choice = HostChoice {
            router: self,
            env_random: env.worker.random.next(),
            hash: hash_key(env),
        };
        let Some(host) = cluster.choose_host(&choice) else {
            cluster.info().stats.upstream_cx_none_healthy().inc();
            env.info.response_flags.set(ResponseFlag::NoHealthyUpstream);
            self.state = State::Idle;
            self.charge(503, env);
            let reply = LocalReply::new(503, "no_healthy_upstream")
                .with_body(Bytes::from_static(b"no healthy upstream"));
            return Some(self.reply(env, reply));
        };
        rewrite_host_for(&host, env, !self.shared.config.suppress_envoy_headers);
        self.retry.tried(&host);
        let mut attempt = Box::new(UpstreamRequest::new(
            &cluster,
            host,
            env,
            self.priority,
            self.stream_kind(),
        ));
        if self.request_complete.is_some() {
            attempt.arm(env.info.now, &self.timeouts);
        }
        let filters = match self.connect {
            Some(_) => None,
            None => self
                .shared
                .upstream_filters(&cluster, env, self.body.limit()),
        };
        if let Some(filters) = filters {
            attempt.put_filters(filters);
            self.state = State::Attempt(attempt);
            return self.start_filtered(env).err().map(RouterEvent::LocalReply);
        }
        let ready = attempt.stream().is_some();
        self.state = State::Attempt(attempt);
        if ready {
            self.send_request(env);
        }
        None
    }

    fn stream_kind(&self) -> StreamKind {
        match self.connect {
            Some(_) => StreamKind::RawTcp,
            None if self.is_upgrade => StreamKind::Upgrade,
            None => StreamKind::Message,
        }
    }

    /// Shows the filters of an attempt what there is of the request.
    #[cold]
    fn start_filtered(&mut self, env: &mut ChainEnv<'_>) -> Result<(), LocalReply> {
        let State::Attempt(attempt) = &mut self.state else {
            return Ok(());
        };
        if attempt.is_open() {
            attempt.ready(env.info);
        }
        let Some(filters) = attempt.filters() else {
            return Ok(());
        };
        let end = self.body.is_empty_and_ended() && !self.is_upgrade;
        filters.request_head(env, end.into())?;
        let (pieces, ends_with_data, trailers) = self.body.hand_on();
        let last = pieces.len();
        for (index, piece) in pieces.into_iter().enumerate() {
            filters.request_data(
                env,
                piece,
                EndStream::from(ends_with_data && index + 1 == last),
            )?;
        }
        trailers.map_or(Ok(()), |trailers| filters.request_trailers(env, trailers))
    }

    fn send_request(&mut self, env: &mut ChainEnv<'_>) {
        let State::Attempt(attempt) = &mut self.state else {
            return;
        };
        attempt.ready(env.info);
        let end = EndStream::from(self.body.is_empty_and_ended() && !self.is_upgrade);
        let is_upgrade = self.is_upgrade;
        let Some(stream) = attempt.stream() else {
            return;
        };
        stream.send_head(env.request, end);
        if is_upgrade {
            stream.upgrade();
        }
        if let Some(version) = self.connect.and_then(|connect| connect.proxy_protocol) {
            let connection = &env.info.connection;
            let (source, destination) = (&connection.remote_address, &connection.local_address);
            let header = version.header(source, destination);
            stream.send_data(header.into(), EndStream::No);
        }
        self.body.flush_into(stream);
    }

    fn on_head(
        &mut self,
        env: &mut ChainEnv<'_>,
        mut head: ResponseHead,
        end: EndStream,
        now: Instant,
    ) -> RouterEvent {
        let Some(cluster) = self.cluster.clone() else {
            return RouterEvent::Progress;
        };
        // A protocol switch that nobody asked for has no bytes for anybody behind it.
        let end = EndStream::from(end.is_end() || head.status == 101 && !self.is_upgrade);
        self.retry.observe_health(&head);
        let selected = env.info.route.clone();
        let policy = selected
            .as_ref()
            .and_then(|selected| retry_policy(selected));
        if let RetryDecision::After(wait) = self.retry.on_response(
            &head,
            policy,
            &cluster,
            self.priority,
            env.worker.random.next(),
        ) {
            self.charge(head.status, env);
            return self.back_off(env, wait);
        }
        self.flag_retries(env.info);
        self.response_started = true;
        env.info.response_code = Some(head.status);
        self.route_response(env, &mut head, now);
        self.charge(head.status, env);
        env.info.response_code_details = Some("via_upstream".into());
        let granted = head.status == 101
            || env.request.method() == Method::Connect && (200..300).contains(&head.status);
        if granted && self.is_upgrade {
            self.route_deadline = None;
        }
        if let State::Attempt(attempt) = &mut self.state {
            attempt.head_received();
        }
        if end.is_end() {
            self.response_ended(env, now);
        }
        RouterEvent::Head(head, end)
    }

    /// Says why an outcome that would have been tried again was not.
    fn flag_retries(&self, info: &mut StreamInfo) {
        if self.retry.is_exhausted() {
            info.response_flags
                .set(ResponseFlag::UpstreamRetryLimitExceeded);
        }
        if self.retry.has_overflowed() {
            info.response_flags.set(ResponseFlag::UpstreamOverflow);
        }
    }

    /// Completes a response head of the upstream, as route and configuration want it.
    fn route_response(&self, env: &mut ChainEnv<'_>, head: &mut ResponseHead, now: Instant) {
        if !self.shared.config.suppress_envoy_headers
            && let Some(origin) = self.request_complete
        {
            let took = u64::try_from((now - origin).as_millis()).unwrap_or(u64::MAX);
            let mut digits = itoa_buffer(took);
            head.fields
                .set(Known::EnvoyUpstreamServiceTime, digits.as_bytes());
        }
        let Some(route) = env.info.route.clone() else {
            return;
        };
        if route.virtual_host().include_attempt_count_in_response {
            head.fields
                .set(Known::EnvoyAttemptCount, env.info.attempt_count.to_string());
        }
        route.finalize_response_headers(head, env.request, env.info);
    }

    fn response_ended(&mut self, env: &mut ChainEnv<'_>, now: Instant) {
        let origin = code_origin(env);
        let info = &mut *env.info;
        info.timing.last_upstream_rx_byte = Some(now);
        self.route_deadline = None;
        let Some(cluster) = &self.cluster else { return };
        if self.shared.config.dynamic_stats
            && let Some(since) = self.request_complete
        {
            cluster.record_time(now - since, origin);
        }
        if let State::Attempt(attempt) = std::mem::replace(&mut self.state, State::Idle) {
            attempt.finish(info);
        }
    }

    /// An attempt failed: again, or an answer of our own.
    fn on_failure(&mut self, env: &mut ChainEnv<'_>, failure: Failure) -> RouterEvent {
        let Some(cluster) = self.cluster.clone() else {
            return RouterEvent::Reset;
        };
        let mut stale = false;
        if let State::Attempt(attempt) = std::mem::replace(&mut self.state, State::Idle) {
            stale = attempt.was_stale(&failure);
            attempt.fail(&failure, env.info);
        }
        if stale
            && !self.response_started
            && env.request.method().is_idempotent()
            && self.body.is_empty_and_ended()
        {
            return self.attempt(env).unwrap_or(RouterEvent::Progress);
        }
        if !self.response_started {
            let decision =
                self.retry
                    .on_failure(&failure, &cluster, self.priority, env.worker.random.next());
            if let RetryDecision::After(wait) = decision {
                return self.back_off(env, wait);
            }
        }
        failure.count(&cluster);
        self.flag_retries(env.info);
        env.info.response_flags.set(failure.flag());
        self.route_deadline = None;
        if self.response_started {
            self.shared
                .stats
                .rq_reset_after_downstream_response_started()
                .inc();
            env.info.response_code_details = Some(failure.details_after_response());
            return RouterEvent::Reset;
        }
        let mut reply = failure.reply(env.info.attempt_count > 1);
        if failure.is_overflow() && !self.shared.config.suppress_envoy_headers {
            reply = reply.with_header(HeaderName::new("x-envoy-overloaded"), "true");
        }
        self.charge(reply.status, env);
        self.reply(env, reply)
    }

    fn back_off(&mut self, env: &mut ChainEnv<'_>, wait: std::time::Duration) -> RouterEvent {
        if let State::Attempt(attempt) = std::mem::replace(&mut self.state, State::Idle) {
            attempt.finish(env.info);
        }
        env.info.attempt_count += 1;
        if env
            .info
            .route
            .as_ref()
            .is_some_and(|r| r.virtual_host().include_request_attempt_count)
        {
            env.request
                .fields
                .set(Known::EnvoyAttemptCount, env.info.attempt_count.to_string());
        }
        self.body.rewind();
        self.state = State::BackingOff(env.info.now + wait);
        RouterEvent::Progress
    }

    fn route_timeout(&mut self, env: &mut ChainEnv<'_>) -> RouterEvent {
        let Some(cluster) = self.cluster.clone() else {
            return RouterEvent::Reset;
        };
        cluster.info().stats.upstream_rq_timeout().inc();
        if let State::Attempt(attempt) = std::mem::replace(&mut self.state, State::Idle) {
            attempt.fail(&Failure::RouteTimeout, env.info);
        }
        env.info
            .response_flags
            .set(ResponseFlag::UpstreamRequestTimeout);
        if self.response_started {
            env.info.response_code_details = Some("response_timeout".into());
            return RouterEvent::Reset;
        }
        let status = if self.timeouts.alt_response { 204 } else { 504 };
        self.charge(status, env);
        let mut reply = LocalReply::new(status, "response_timeout");
        if status == 504 {
            reply = reply.with_body(Bytes::from_static(b"upstream request timeout"));
        }
        self.reply(env, reply)
    }

    /// Counts a response of the cluster by its status.
    fn charge(&self, status: u16, env: &ChainEnv<'_>) {
        let Some(cluster) = &self.cluster else { return };
        if self.shared.config.dynamic_stats {
            cluster.record_code(status, code_origin(env));
        }
    }

    fn redirect(&self, env: &mut ChainEnv<'_>, status: u16, location: Vec<u8>) -> RouterEvent {
        self.shared.stats.rq_redirect().inc();
        self.respond(env, status, Bytes::new(), Some(location.into()), None)
    }

    fn redirect_to_https(&self, env: &mut ChainEnv<'_>) -> RouterEvent {
        self.shared.stats.rq_redirect().inc();
        let location = https_location(env.request);
        self.respond(env, 301, Bytes::new(), Some(location.into()), None)
    }

    fn direct_response(&self, env: &mut ChainEnv<'_>, response: &DirectResponse) -> RouterEvent {
        self.shared.stats.rq_direct_response().inc();
        let body = response.body(env.request, env.info);
        self.respond(env, response.status, body, None, response.content_type())
    }

    /// A reply of the router, with the headers that the route adds to responses.
    fn reply(&self, env: &mut ChainEnv<'_>, mut reply: LocalReply) -> RouterEvent {
        let Some(route) = env.info.route.clone() else {
            return RouterEvent::LocalReply(reply);
        };
        let mut head = ResponseHead::new(reply.status);
        for (name, value) in &reply.headers {
            head.fields.set(name, value);
        }
        if route.virtual_host().include_attempt_count_in_response {
            head.fields
                .set(Known::EnvoyAttemptCount, env.info.attempt_count.to_string());
        }
        env.info.response_code = Some(reply.status);
        route.finalize_response_headers(&mut head, env.request, env.info);
        reply.headers = head
            .fields
            .iter()
            .map(|(name, value)| (HeaderName::new(name), Bytes::copy_from_slice(value)))
            .collect();
        RouterEvent::LocalReply(reply)
    }

    /// A reply of the route itself.
    fn respond(
        &self,
        env: &mut ChainEnv<'_>,
        status: u16,
        body: Bytes,
        location: Option<Bytes>,
        content_type: Option<&str>,
    ) -> RouterEvent {
        let mut reply = LocalReply::new(status, "direct_response").with_body(body);
        if let Some(location) = location {
            reply = reply.with_header(HeaderName::new("location"), location);
        }
        if let Some(content_type) = content_type {
            reply = reply.with_header(HeaderName::new("content-type"), content_type.to_owned());
        }
        self.reply(env, reply)
    }
}

/// Where the stats of a response belong.
fn code_origin(env: &ChainEnv<'_>) -> CodeOrigin {
    let host = env
        .info
        .upstream
        .as_ref()
        .and_then(|upstream| upstream.host.as_ref());
    CodeOrigin {
        internal: env.request.fields.contains(Known::EnvoyInternal),
        canary: host.is_some_and(|host| host.canary),
    }
}

/// What the load balancer may ask about the request.
struct HostChoice<'a> {
    router: &'a Router,
    env_random: u64,
    hash: Option<u64>,
}

impl LoadBalancerContext for HostChoice<'_> {
    fn hash_key(&self) -> Option<u64> {
        self.hash
    }
    fn random(&self) -> u64 {
        self.env_random
    }
    fn should_select_another(&self, host: &crate::upstream::Host) -> bool {
        self.router.retry.avoids(host)
    }
    fn host_selection_retry_count(&self) -> u32 {
        self.router.retry.host_selection_attempts()
    }
}

/// The retry policy of a route that forwards.
fn retry_policy(selected: &SelectedRoute) -> Option<&RetryPolicy> {
    selected.route().forward()?.retry_policy.as_deref()
}

/// The hash of the request by its route's `hash_policy`.
fn hash_key(env: &ChainEnv<'_>) -> Option<u64> {
    env.info
        .route
        .as_ref()?
        .route()
        .forward()?
        .hash_policy()?
        .hash(env.request, env.info, None)
}

/// `auto_host_rewrite`: the request asks for the host by the name that it was chosen under.
fn rewrite_host_for(host: &WorkerHost, env: &mut ChainEnv<'_>, keep_original: bool) {
    let Some(selected) = &env.info.route else {
        return;
    };
    let Some(action) = selected.route().forward() else {
        return;
    };
    if action.auto_host_rewrite() && !host.hostname.is_empty() {
        crate::route::update_authority(
            env.request,
            host.hostname.as_bytes(),
            action.append_x_forwarded_host,
            keep_original,
        );
    }
}

/// A number as text, without allocation.
fn itoa_buffer(value: u64) -> Digits {
    let mut digits = Digits {
        bytes: [0; 20],
        start: 20,
    };
    let mut rest = value;
    loop {
        digits.start -= 1;
        digits.bytes[digits.start] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            return digits;
        }
    }
}

struct Digits {
    bytes: [u8; 20],
    start: usize,
}

impl Digits {
    fn as_bytes(&mut self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests;
