//! How a stream begins: its head through checks, route and filters, or why it never came to that.

use super::super::local_reply::protocol_error_reply;
use super::{Half, HeadTimeout, Stream, Upgrade};
use crate::codec::h2::RefusedHead;
use crate::codec::{ProtocolError, ServerStream, StreamReset};
use crate::http::{EndStream, ResponseHead};
use crate::http_filters::LocalReply;
use crate::stream_info::ResponseFlag;

impl<S: ServerStream> Stream<S> {
    /// Takes the head through checks, route and filters. Before the first `poll`.
    pub(in crate::http_connection_manager) fn start(&mut self, end: EndStream) {
        self.request = if end.is_end() {
            Half::Received
        } else {
            Half::Open
        };
        let record = self
            .record
            .as_mut()
            .expect("a stream has its record until it ends");
        if end.is_end() {
            let now = record.info.start;
            record.info.timing.last_downstream_rx_byte = Some(now);
            self.deadlines.request = None;
        }
        if let Some(routing) = self.hcm.routing_by_head(&record.request) {
            self.routing = routing;
        }
        let admitted = self
            .hcm
            .admit(&mut record.request, &mut record.info, &self.routing);
        // Over HTTP/1 nothing says before its end how long a tunnel is.
        if admitted == Ok(true) && record.request.version.is_http1() {
            self.request = Half::Open;
        }
        let taken = admitted.and_then(|asked| {
            self.hcm
                .resolve_route(&self.routing, &mut record.request, &mut record.info);
            self.hcm.take_upgrade(asked, &record.request, &record.info)
        });
        match taken {
            Ok(true) => self.upgrade = Upgrade::Asked,
            Ok(false) => {}
            Err(rejection) => {
                if rejection.close {
                    self.close_early();
                }
                return match rejection.past_filters {
                    true => self.local_reply(rejection.reply),
                    false => self.early_reply(rejection.reply),
                };
            }
        }
        if self.hcm.continues_at_once(&mut record.request) {
            self.codec.send_informational(&ResponseHead::new(100));
        }
        self.deadlines_of_route();
        let record = self
            .record
            .as_mut()
            .expect("a stream has its record until it ends");
        let chain = self
            .hcm
            .chain_for(&self.routing, self.upgrade != Upgrade::No, &record.request);
        self.filters = chain.new_stream(record.info.route.as_ref());
        if self.hcm.config.access_log_options.flush_on_new_request {
            self.log("DownstreamStart");
        }
        let end = EndStream::from(self.request == Half::Received);
        if self.filters.is_empty() {
            let event = self.with_env(|env, s| s.router.start(env, end));
            return self.on_any_router_event(event);
        }
        let flow = self.with_env(|env, s| s.decode.headers(s.filters, env, end));
        self.after_decode(flow);
    }

    /// Answers a request that its codec refused.
    pub(in crate::http_connection_manager) fn start_refused(&mut self, error: &ProtocolError) {
        self.request = Half::Received;
        self.close_connection = true;
        self.info()
            .response_flags
            .set(ResponseFlag::DownstreamProtocolError);
        self.early_reply(protocol_error_reply(error));
    }

    /// Answers a request that its filters never see; they see the answer.
    fn early_reply(&mut self, reply: LocalReply) {
        let record = self
            .record
            .as_ref()
            .expect("a stream has its record until it ends");
        self.filters = self.routing.chain.new_stream(record.info.route.as_ref());
        self.local_reply(reply);
    }

    /// Notes a stream whose head its codec refused without an answer, and has reset.
    pub(in crate::http_connection_manager) fn start_reset(&mut self, refused: RefusedHead) {
        self.request = Half::Received;
        self.hcm.config.stats.downstream_rq_rx_reset().inc();
        self.info().response_flags.set(if refused.is_malformed {
            ResponseFlag::DownstreamProtocolError
        } else {
            ResponseFlag::DownstreamRemoteReset
        });
        self.info().response_code_details = Some(refused.details.into());
        self.gone();
    }

    /// Notes a client that went away within its head.
    pub(in crate::http_connection_manager) fn start_gone(&mut self) {
        self.on_client_reset(&StreamReset::ConnectionTermination);
    }

    /// Answers a client whose head did not come to its end in time.
    pub(in crate::http_connection_manager) fn start_headers_timeout(
        &mut self,
        timeout: HeadTimeout,
    ) {
        self.request = Half::Received;
        self.close_early();
        let (details, body) = match timeout {
            HeadTimeout::Headers => ("request_header_timeout", "request header timeout"),
            HeadTimeout::Request => ("request_overall_timeout", "request timeout"),
            HeadTimeout::Idle => {
                let flags = &mut self.info().response_flags;
                flags.set(ResponseFlag::StreamIdleTimeout);
                ("stream_idle_timeout", "stream timeout")
            }
            HeadTimeout::MaxDuration => ("max_duration_timeout", "downstream duration timeout"),
        };
        self.early_reply(LocalReply::new(408, details).with_body(body));
    }
}
