//! One attempt begins: a host is chosen, its pool is asked for a stream, and the request goes out.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::upstream_request::UpstreamRequest;
use super::{Router, RouterEvent, State};
use crate::http::{EndStream, Known, RequestHead};
use crate::http_connection_manager::filter_chain::ChainEnv;
use crate::http_filters::LocalReply;
use crate::route::{NewCookie, RetryPolicy, RouteAction, SelectedRoute};
use crate::server::Random;
use crate::stream_info::{OverrideHost, ResponseFlag, StreamInfo, UpstreamInfo};
use crate::upstream::load_balancer::OverrideHostSettings;
use crate::upstream::pool::StreamKind;
use crate::upstream::{
    Host, LB_NAMESPACE, LoadBalancerContext, MetadataMatch, WorkerCluster, WorkerHost,
};

impl Router {
    /// Chooses a host and asks its pool for a stream.
    pub(super) fn attempt(&mut self, env: &mut ChainEnv<'_>) -> Option<RouterEvent> {
        let cluster = self.cluster.clone()?;
        let choice = HostChoice {
            router: self,
            policy: if self.is_retry() {
                self.retry_policy()
            } else {
                None
            },
            random: &env.worker.random,
            request: env.request,
            info: env.info,
            new_cookies: RefCell::default(),
            of_request: self.metadata_match_of_request(env.info),
        };
        let host = cluster.choose_host(&choice);
        let new_cookies = choice.new_cookies.into_inner();
        self.new_cookies.extend(new_cookies);
        let Some(host) = host else {
            cluster.info().stats.upstream_cx_none_healthy().inc();
            env.info.response_flags.set(ResponseFlag::NoHealthyUpstream);
            self.state = State::Idle;
            self.reset_slow_attempts(env);
            let refused = env.info.override_host.as_ref().filter(|host| host.strict);
            let status = match refused {
                Some(host) if !self.is_retry() => host.strict_status,
                _ => 503,
            };
            self.charge(status, env);
            let reply = LocalReply::new(status, "no_healthy_upstream")
                .with_body(Bytes::from_static(b"no healthy upstream"));
            return Some(self.reply(env, reply));
        };
        if let Some(settings) = &cluster.info().settings.load_balancer.override_host {
            settings.note(&host, &mut env.info.dynamic_metadata);
        }
        self.rewrite_host_for(&host, env);
        if env.info.scheme_matches_upstream {
            let secure = cluster.is_secure(&host);
            env.request
                .set_scheme(if secure { b"https" } else { b"http" });
        }
        self.retry.tried(&host);
        let mut attempt = Box::new(UpstreamRequest::new(
            &cluster,
            host,
            env,
            self.priority,
            self.stream_kind(),
            self.timeouts.stream,
        ));
        attempt.set_log(self.shared.attempt_log(env, &cluster));
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

    /// The back-off is over: the request is prepared anew and tried again.
    #[cold]
    pub(super) fn retry_now(
        &mut self,
        env: &mut ChainEnv<'_>,
        after_timeout: bool,
    ) -> Option<RouterEvent> {
        env.info.attempt_count += 1;
        if let Some(selected) = &self.route {
            let host = selected.virtual_host();
            if host.include_request_attempt_count {
                env.request
                    .fields
                    .set(Known::EnvoyAttemptCount, env.info.attempt_count.to_string());
            }
            if host.include_is_timeout_retry_header {
                let value = if after_timeout { "true" } else { "false" };
                env.request.fields.set(Known::EnvoyIsTimeoutRetry, value);
            }
        }
        let elapsed = self
            .request_complete
            .map_or(Duration::ZERO, |since| env.info.now - since);
        let suppress = self.shared.config.suppress_envoy_headers;
        self.timeouts.write_headers(env.request, elapsed, suppress);
        self.forget_attempt(env);
        // The cluster may have gone while the retry waited.
        let Some(id) = self.cluster.as_ref().map(|cluster| cluster.info().id) else {
            return Some(RouterEvent::Progress);
        };
        if let Some(cluster) = env.worker.clusters.get(id) {
            self.cluster = Some(cluster);
        }
        self.attempt(env)
    }

    /// What is known of the attempt before gives way to the next one.
    fn forget_attempt(&self, env: &mut ChainEnv<'_>) {
        let timing = &mut env.info.timing;
        timing.first_upstream_tx_byte = None;
        timing.last_upstream_tx_byte = None;
        timing.first_upstream_rx_byte = None;
        timing.first_upstream_rx_body = None;
        timing.last_upstream_rx_byte = None;
        if let Some(upstream) = env.info.upstream.as_deref_mut() {
            *upstream = UpstreamInfo::default();
        }
    }

    /// Shows the filters of an attempt what there is of the request.
    #[cold]
    pub(super) fn start_filtered(&mut self, env: &mut ChainEnv<'_>) -> Result<(), LocalReply> {
        let State::Attempt(attempt) = &mut self.state else {
            return Ok(());
        };
        if attempt.is_open() {
            attempt.ready(env.info);
        }
        let end = self.body.is_empty_and_ended();
        let (pieces, ends_with_data, trailers) = self.body.hand_on();
        attempt.sends(pieces.iter().map(|piece| piece.len() as u64).sum());
        let Some(filters) = attempt.filters() else {
            return Ok(());
        };
        filters.request_head(env, end.into())?;
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

    pub(super) fn send_request(&mut self, env: &mut ChainEnv<'_>) {
        let State::Attempt(attempt) = &mut self.state else {
            return;
        };
        attempt.ready(env.info);
        let end = EndStream::from(self.body.is_empty_and_ended());
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
        for map in self.metadata.drain(..) {
            stream.send_metadata(&map);
        }
        let flushed = self.body.flush_into(stream);
        attempt.sends(flushed);
    }

    /// What filters have put into the metadata of the request or its connection counts more than what the route says.
    fn metadata_match_of_request(&self, info: &StreamInfo) -> Option<MetadataMatch> {
        let of_route = self.route.as_ref().and_then(SelectedRoute::metadata_match);
        let of_connection = info.connection.dynamic_metadata.borrow();
        let of_connection = of_connection
            .get(LB_NAMESPACE)
            .map(|values| MetadataMatch::for_request(values, of_route));
        match info.dynamic_metadata.get(LB_NAMESPACE) {
            None => of_connection,
            Some(values) => {
                let below = of_connection.as_ref().or(of_route);
                Some(MetadataMatch::for_request(values, below))
            }
        }
    }

    /// Whether an attempt has failed before.
    fn is_retry(&self) -> bool {
        !self.retry.tried_hosts().is_empty()
    }

    /// The retry policy of the request.
    pub(super) fn retry_policy(&self) -> Option<&RetryPolicy> {
        let action = self.route.as_ref()?.route().forward()?;
        retry_policy(self.cluster.as_deref(), action)
    }

    /// `auto_host_rewrite`: the request asks for the host by the name that it was chosen under.
    fn rewrite_host_for(&self, host: &WorkerHost, env: &mut ChainEnv<'_>) {
        let Some(action) = self.route.as_ref().and_then(|s| s.route().forward()) else {
            return;
        };
        if action.auto_host_rewrite() && !host.hostname.is_empty() {
            crate::route::update_authority(
                env.request,
                host.hostname.as_bytes(),
                action.append_x_forwarded_host,
                !self.shared.config.suppress_envoy_headers,
            );
        }
    }
}

/// The retry policy of the cluster; where it has none, that of the route.
pub(super) fn retry_policy<'a>(
    cluster: Option<&'a WorkerCluster>,
    action: &'a RouteAction,
) -> Option<&'a RetryPolicy> {
    let of_cluster = cluster.and_then(|cluster| cluster.info().request_policies.as_ref());
    of_cluster
        .and_then(|policies| policies.retry.as_ref())
        .or(action.retry_policy.as_deref())
}

/// What the load balancer may ask about the request.
struct HostChoice<'a> {
    router: &'a Router,
    /// Of retries alone: first attempts take any host.
    policy: Option<&'a RetryPolicy>,
    random: &'a Random,
    request: &'a RequestHead,
    info: &'a StreamInfo,
    /// Cookies that the hash asked for.
    new_cookies: RefCell<Vec<NewCookie>>,
    /// What its metadata ask of hosts; none: what its route asks.
    of_request: Option<MetadataMatch>,
}

impl LoadBalancerContext for HostChoice<'_> {
    fn metadata_match(&self) -> Option<&MetadataMatch> {
        let of_route = || self.router.route.as_ref()?.metadata_match();
        self.of_request.as_ref().or_else(of_route)
    }
    fn next_wanted_host(&self, settings: &OverrideHostSettings) -> Option<Box<str>> {
        let mut wanted = self.router.wanted_hosts.borrow_mut();
        wanted
            .get_or_insert_with(|| settings.wanted(self.request, &self.info.dynamic_metadata))
            .pop_front()
    }
    fn override_host(&self) -> Option<&OverrideHost> {
        if self.router.is_retry() {
            return None;
        }
        self.info.override_host.as_deref()
    }
    fn hash_key(&self) -> Option<u64> {
        let action = self.router.route.as_ref()?.route().forward()?;
        let cluster = self.router.cluster.as_deref();
        let of_cluster = cluster.and_then(|cluster| cluster.info().request_policies.as_ref());
        let policy = match of_cluster.and_then(|policies| policies.hash.as_ref()) {
            Some(policy) => policy,
            None => action.hash_policy()?,
        };
        let mut new_cookies = self.new_cookies.borrow_mut();
        policy.hash(self.request, self.info, Some(&mut new_cookies))
    }
    fn random(&self) -> u64 {
        self.random.next()
    }
    fn should_select_another(&self, host: &Host) -> bool {
        self.router.retry.avoids(host, self.policy)
    }
    fn avoided_priorities(&self) -> &[Rc<WorkerHost>] {
        self.router.retry.avoided_priorities(self.policy)
    }
    fn forget_avoided_priorities(&self) {
        self.router.retry.forget_avoided_priorities();
    }
    fn host_selection_retry_count(&self) -> u32 {
        self.policy
            .map_or(1, |policy| policy.host_selection_max_attempts)
    }
}
