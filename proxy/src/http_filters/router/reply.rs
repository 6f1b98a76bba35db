//! What the router answers by itself.

use bytes::Bytes;

use super::{Router, RouterEvent};
use crate::http::{HeaderName, Known, ResponseHead};
use crate::http_connection_manager::filter_chain::ChainEnv;
use crate::http_filters::LocalReply;
use crate::route::{DirectResponse, https_location};

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
    ) -> RouterEvent {
        self.shared.stats.rq_direct_response().inc();
        let body = response.body(env.request, env.info);
        self.respond(env, response.status, body, None, response.content_type())
    }

    /// A reply of the router, with the headers that the route adds to responses.
    pub(super) fn reply(&self, env: &mut ChainEnv<'_>, mut reply: LocalReply) -> RouterEvent {
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
