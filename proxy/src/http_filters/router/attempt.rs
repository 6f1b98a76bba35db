//! One attempt begins: a host is chosen, its pool is asked for a stream, and the request goes out.

use bytes::Bytes;

use super::upstream_request::UpstreamRequest;
use super::{Router, RouterEvent, State};
use crate::http::EndStream;
use crate::http_connection_manager::filter_chain::ChainEnv;
use crate::http_filters::LocalReply;
use crate::stream_info::ResponseFlag;
use crate::upstream::{LoadBalancerContext, WorkerHost};

impl Router {
    /// Chooses a host and asks its pool for a stream.
    pub(super) fn attempt(&mut self, env: &mut ChainEnv<'_>) -> Option<RouterEvent> {
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
            self.is_upgrade,
        ));
        if self.request_complete.is_some() {
            attempt.arm(env.info.now, &self.timeouts);
        }
        let filters = self
            .shared
            .upstream_filters(&cluster, env, self.body.limit());
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

    /// Shows the filters of an attempt what there is of the request.
    #[cold]
    pub(super) fn start_filtered(&mut self, env: &mut ChainEnv<'_>) -> Result<(), LocalReply> {
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

    pub(super) fn send_request(&mut self, env: &mut ChainEnv<'_>) {
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
        self.body.flush_into(stream);
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
