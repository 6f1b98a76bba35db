//! What the router answers by itself.

use bytes::Bytes;

use super::{Router, RouterEvent};
use crate::http::{HeaderName, IllegalField, Known, RequestHead, ResponseHead};
use crate::http_connection_manager::filter_chain::ChainEnv;
use crate::http_filters::LocalReply;
use crate::overload::LoadShedPoint;
use crate::route::{DirectResponse, https_location};
use crate::stream_info::{ResponseFlag, StreamInfo};

impl Router {
    pub(super) fn redirect(
        &self,
        env: &mut ChainEnv<'_>,
        status: u16,
        location: Vec<u8>,
    ) -> RouterEvent {
        self.shared.stats.rq_redirect().inc();
        self.respond(env, status, Bytes::new(), Some(location.into()), None)
    }

    pub(super) fn redirect_to_https(&self, env: &mut ChainEnv<'_>) -> RouterEvent {
        self.shared.stats.rq_redirect().inc();
        let location = https_location(env.request);
        self.respond(env, 301, Bytes::new(), Some(location.into()), None)
    }

    pub(super) fn direct_response(
        &self,
        env: &mut ChainEnv<'_>,
        response: &DirectResponse,
        location: Option<Vec<u8>>,
    ) -> RouterEvent {
        self.shared.stats.rq_direct_response().inc();
        let body = response.body(env.request, env.info);
        let location = location.map(Bytes::from);
        self.respond(
            env,
            response.status,
            body,
            location,
            response.content_type(),
        )
    }

    /// There is no such cluster, or the route leads to none.
    pub(super) fn no_cluster(&self, env: &mut ChainEnv<'_>, status: u16) -> RouterEvent {
        self.shared.stats.no_cluster().inc();
        env.info.response_flags.set(ResponseFlag::NoClusterFound);
        self.reply(env, LocalReply::new(status, "cluster_not_found"))
    }

    /// A reply of the router, with the headers that the route adds to responses.
    pub(super) fn reply(&self, env: &mut ChainEnv<'_>, mut reply: LocalReply) -> RouterEvent {
        let Some(route) = self.route.clone().or_else(|| env.info.route.clone()) else {
            return RouterEvent::LocalReply(reply);
        };
        let mut head = ResponseHead::new(reply.status);
        for (name, value) in &reply.headers {
            head.fields.set(name, value);
        }
        if env.info.attempt_count > 0 && route.virtual_host().include_attempt_count_in_response {
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

    /// A request that filters or routes have given a field that no message may carry.
    #[inline]
    pub(super) fn refuse_illegal(&mut self, env: &mut ChainEnv<'_>) -> Option<RouterEvent> {
        let reply = refusal_of_illegal(env.request, env.info)?;
        Some(self.reply(env, reply))
    }

    /// A request that no attempt is made for: a header that must be legal is not, or the cluster is under maintenance.
    #[inline]
    pub(super) fn refuse(&mut self, env: &mut ChainEnv<'_>) -> Option<RouterEvent> {
        for header in &self.shared.config.strict_check_headers {
            if let Some(value) = header.illegal(env.request) {
                let value = String::from_utf8_lossy(value);
                let body = format!("invalid header '{}' with value '{value}'", header.name());
                let details = format!("request_headers_failed_strict_check{{{}}}", header.name());
                env.info
                    .response_flags
                    .set(ResponseFlag::InvalidEnvoyRequestHeaders);
                return Some(self.reply(env, LocalReply::new(400, details).with_body(body)));
            }
        }
        if let Some(name) = env.request.fields.get(Known::EnvoyUpstreamAltStatName) {
            self.alt_stat_name = Some(String::from_utf8_lossy(name).into());
            env.request.fields.remove(Known::EnvoyUpstreamAltStatName);
        }
        let cluster = self.cluster.as_ref()?;
        if !cluster.is_in_maintenance(&env.worker.random) {
            let dropped = match cluster.drop_overload() {
                0 => None,
                per_million => self.drop_overload(env, per_million),
            };
            return dropped.or_else(|| self.shed(env));
        }
        env.info.response_flags.set(ResponseFlag::UpstreamOverflow);
        self.charge(503, env);
        cluster.info().stats.upstream_rq_maintenance_mode().inc();
        let mut reply = LocalReply::new(503, "maintenance_mode").with_body("maintenance mode");
        if !self.shared.config.suppress_envoy_headers {
            reply = reply.with_header(HeaderName::new("x-envoy-overloaded"), "true");
        }
        Some(self.reply(env, reply))
    }

    /// The overload manager turns some requests away here.
    fn shed(&mut self, env: &mut ChainEnv<'_>) -> Option<RouterEvent> {
        let worker = &env.worker;
        let shed = &worker.server.overload.load_shed;
        if env.info.connection.listener.bypass_overload_manager
            || !shed.sheds(LoadShedPoint::RouterDecode, || worker.random.next())
        {
            return None;
        }
        self.shared.stats.rq_overload_local_reply().inc();
        env.info.attempt_count = 1;
        let reply = LocalReply::new(503, "overload").with_body("envoy overloaded");
        Some(self.reply(env, reply))
    }

    /// The endpoints of the cluster ask that some requests, or all of them, are not even tried.
    #[cold]
    fn drop_overload(&self, env: &mut ChainEnv<'_>, per_million: u32) -> Option<RouterEvent> {
        if env.worker.random.next() % 1_000_000 >= per_million.into() {
            return None;
        }
        let (flag, header, details, body) = match per_million {
            1_000_000.. => (
                ResponseFlag::UnconditionalDropOverload,
                "x-envoy-unconditional-drop-overload",
                "unconditional_drop_overload",
                "unconditional drop overload",
            ),
            _ => (
                ResponseFlag::DropOverload,
                "x-envoy-drop-overload",
                "drop_overload",
                "drop overload",
            ),
        };
        env.info.response_flags.set(flag);
        self.charge(503, env);
        let mut reply = LocalReply::new(503, details).with_body(body);
        if !self.shared.config.suppress_envoy_headers {
            reply = reply.with_header(HeaderName::new(header), "true");
        }
        Some(self.reply(env, reply))
    }

    /// A reply of the route itself.
    pub(super) fn respond(
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

/// What answers a request with a field that no message may carry; none: there is no such field.
pub(super) fn refusal_of_illegal(head: &RequestHead, info: &mut StreamInfo) -> Option<LocalReply> {
    let (name, illegal) = head.first_illegal()?;
    let what = match illegal {
        IllegalField::Name => "invalid header name: ",
        IllegalField::Value => "invalid header value for: ",
    };
    let problem = format!("{what}{}", String::from_utf8_lossy(name));
    let details = problem.replace(|c: char| c.is_ascii_whitespace(), "_");
    let details = format!("filter_removed_required_request_headers{{{details}}}");
    info.response_flags
        .set(ResponseFlag::DownstreamProtocolError);
    Some(LocalReply::new(503, details).with_body(problem))
}
