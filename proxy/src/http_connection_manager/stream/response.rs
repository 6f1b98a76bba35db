//! The response half: from the router through the encode filters to the client.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::super::filter_chain::{Chain, ChainEnv, Flow, Piece};
use super::super::local_reply::PreparedReply;
use super::super::manager::Routes;
use super::{EVENTS_PER_WRITE, Half, Record, Stream, Upgrade};
use crate::codec::h1::is_upgrade;
use crate::codec::upgrade::response_to_http2;
use crate::codec::{ServerStream, StreamReset};
use crate::http::{EndStream, Fields, HeaderName, Known, Method, ResponseHead};
use crate::http_filters::LocalReply;
use crate::http_filters::router::RouterEvent;

impl<S: ServerStream> Stream<S> {
    pub(super) fn poll_response(&mut self, cx: &mut Context<'_>) -> bool {
        if self.record.is_none()
            || matches!(self.response, Half::Received | Half::Done) && !self.router.is_active()
        {
            return false;
        }
        if self.response != Half::Start
            && (self.codec.poll_ready(cx).is_pending()
                || self.encode.buffered() > self.buffer_limit)
        {
            return false;
        }
        // Several events go out with one write, such as a head and its body.
        let mut progress = false;
        for _ in 0..EVENTS_PER_WRITE {
            let Poll::Ready(event) = self.poll_router(cx) else {
                break;
            };
            self.touch();
            self.on_router_event(event);
            progress = true;
            if self.record.is_none() || self.response == Half::Done {
                break;
            }
        }
        progress
    }

    fn poll_router(&mut self, cx: &mut Context<'_>) -> Poll<RouterEvent> {
        let Some(record) = self.record.as_deref_mut() else {
            return Poll::Pending;
        };
        let mut env = ChainEnv {
            info: &mut record.info,
            worker: &self.hcm.worker,
            request: &mut record.request,
            response: &mut record.response,
            routes: &Routes {
                hcm: &self.hcm,
                routing: &self.routing,
            },
            effects: &mut self.effects,
        };
        self.router.poll(&mut env, cx)
    }

    pub(super) fn on_router_event(&mut self, event: RouterEvent) {
        match event {
            RouterEvent::Informational(head) => self.on_informational(head),
            RouterEvent::Head(head, end) => self.on_response_head(head, end),
            RouterEvent::Data(data, end) => self.on_response_data(data, end),
            RouterEvent::Trailers(trailers) => self.on_response_trailers(trailers),
            RouterEvent::Metadata(map) => self.codec.send_metadata(&map),
            RouterEvent::LocalReply(reply) => self.local_reply(reply),
            RouterEvent::Reset if self.upgrade == Upgrade::Accepted => {
                self.break_off(StreamReset::ConnectError);
            }
            RouterEvent::Reset => self.break_off(StreamReset::LocalReset),
            RouterEvent::Progress => {}
            RouterEvent::Redirected(redirected) => self.recreate(*redirected),
        }
    }

    fn on_informational(&mut self, mut head: ResponseHead) {
        // As in Envoy, the other 1xx have no meaning that could be passed on.
        let passes = self.hcm.config.proxy_100_continue && matches!(head.status, 100 | 102 | 103);
        if self.response != Half::Start || !passes {
            return;
        }
        let Some(record) = self.record.as_deref_mut() else {
            return;
        };
        let mut env = ChainEnv {
            info: &mut record.info,
            worker: &self.hcm.worker,
            request: &mut record.request,
            response: &mut record.response,
            routes: &Routes {
                hcm: &self.hcm,
                routing: &self.routing,
            },
            effects: &mut self.effects,
        };
        self.filters.encode_1xx(&mut env, &mut head);
        self.hcm
            .config
            .forwarding
            .mutate_response(&mut head, env.request, false);
        self.codec.send_informational(&head);
    }

    fn on_response_head(&mut self, head: ResponseHead, end: EndStream) {
        if self.response != Half::Start {
            return;
        }
        self.response = if end.is_end() {
            Half::Received
        } else {
            Half::Open
        };
        let mut end = end;
        if self.upgrade == Upgrade::Asked {
            if !self.on_upgrade_answer(&head) {
                return;
            }
            if self.upgrade == Upgrade::Asked && head.status == 101 {
                // It grants nothing that was asked for: whatever follows belongs to nobody.
                self.router.abandon();
                self.response = Half::Received;
                end = EndStream::Yes;
            }
        }
        let Some(record) = self.record.as_deref_mut() else {
            return;
        };
        record.response = Some(head);
        if self.filters.is_empty() {
            return self.send_head(end);
        }
        let flow = self.with_env(|env, s| s.encode.headers(s.filters, env, end));
        self.after_encode(flow);
    }

    /// Whether the answer of the upstream to an upgrade goes on: all but one to a WebSocket handshake that neither grants nor
    /// refuses it.
    fn on_upgrade_answer(&mut self, head: &ResponseHead) -> bool {
        let Some(record) = self.record.as_deref() else {
            return false;
        };
        let request = &record.request;
        let connect = request.method() == Method::Connect;
        let granted = if connect {
            (200..300).contains(&head.status)
        } else {
            head.status == 101 && is_upgrade(&head.fields)
        };
        if granted && record.info.response_code_details.as_deref() == Some("via_upstream") {
            self.upgrade = Upgrade::Accepted;
            self.codec.upgrade();
            for (data, end) in std::mem::take(&mut self.held_back) {
                let event = self.with_env(|env, s| s.router.data(env, data, end));
                if let Some(event) = event {
                    self.on_router_event(event);
                }
            }
            return true;
        }
        let websocket = !connect
            && request
                .fields
                .get(Known::Upgrade)
                .is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
        let is_local = record.info.response_code_details.as_deref() != Some("via_upstream");
        if !websocket || is_local || head.status == 101 || head.status >= 400 {
            return true;
        }
        let mut reply = LocalReply::new(head.status, "websocket_handshake_unsuccessful");
        for (known, name, value) in head.fields.iter_known() {
            if !matches!(
                known,
                Some(
                    Known::ContentLength
                        | Known::TransferEncoding
                        | Known::EnvoyUpstreamServiceTime
                )
            ) {
                reply = reply.with_header(HeaderName::new(name), value.to_vec());
            }
        }
        self.response = Half::Start;
        self.local_reply(reply);
        false
    }

    fn on_response_data(&mut self, data: Bytes, end: EndStream) {
        if self.response != Half::Open {
            return;
        }
        if end.is_end() {
            self.response = Half::Received;
        }
        if self.filters.is_empty() || self.bypass_encode {
            return self.send_data(data, end);
        }
        let limit = self.buffer_limit;
        let flow = self.with_env(|env, s| s.encode.data(s.filters, env, data, end, limit));
        self.after_encode(flow);
    }

    fn on_response_trailers(&mut self, trailers: Fields) {
        if self.response != Half::Open {
            return;
        }
        self.response = Half::Received;
        if self.filters.is_empty() || self.bypass_encode {
            return self.send_trailers(trailers);
        }
        let flow = self.with_env(|env, s| s.encode.trailers(s.filters, env, trailers));
        self.after_encode(flow);
    }

    pub(super) fn after_encode(&mut self, flow: Flow) {
        self.carry_out_effects();
        match flow {
            Flow::Done => {}
            Flow::LocalReply(reply) => return self.replace_response(reply),
            Flow::Recreate => return self.recreate_for_filter(),
            Flow::BufferFull => {
                self.hcm.config.stats.rs_too_large().inc();
                let reply = LocalReply::new(500, "response_payload_too_large")
                    .with_body(Bytes::from_static(b"Internal Server Error"));
                return self.replace_response(reply);
            }
        }
        let mut pieces = self.encode.take();
        for piece in pieces.drain(..) {
            match piece {
                Piece::Head(end) => self.send_head(end),
                Piece::Data(data, end) => self.send_data(data, end),
                Piece::Trailers(trailers) => self.send_trailers(trailers),
            }
        }
        self.encode.give_back(pieces);
    }

    /// A filter answers instead of the upstream: possible as long as the head was not sent.
    fn replace_response(&mut self, reply: LocalReply) {
        let head_was_sent = self
            .record
            .as_ref()
            .is_some_and(|r| r.info.timing.first_downstream_tx_byte.is_some());
        self.router.abandon();
        if head_was_sent {
            self.info().response_code_details = Some(reply.details);
            return self.break_off(StreamReset::LocalReset);
        }
        self.encode = Chain::default();
        self.bypass_encode = true;
        self.response = Half::Start;
        self.send_reply(reply);
    }

    /// Answers by ourselves, through the encode filters.
    pub(super) fn local_reply(&mut self, reply: LocalReply) {
        self.router.abandon();
        if self.response != Half::Start {
            self.info().response_code_details = Some(reply.details);
            return self.break_off(StreamReset::LocalReset);
        }
        self.decode.stop();
        self.send_reply(reply);
    }

    fn send_reply(&mut self, reply: LocalReply) {
        let hcm = self.hcm.clone();
        let Some(record) = self.record.as_deref_mut() else {
            return;
        };
        // A bad request may have left the connection in disorder.
        self.close_connection |= reply.status == 400
            && record.request.version.is_http1()
            && !hcm.http1.keeps_connection_on_error();
        record.info.response_code_details = Some(reply.details.clone());
        // As in Envoy, what is a bad request to anybody ends an HTTP/1 connection.
        let ends = reply.status == 400
            && record.request.version.is_http1()
            && !hcm.http1.keeps_connection_on_error();
        if ends {
            self.close_connection = true;
            self.ended_early = true;
        }
        let PreparedReply { head, body } = hcm.config.local_reply.prepare(
            reply,
            &record.request,
            &mut record.info,
            &hcm.worker.random,
        );
        let end = EndStream::from(body.is_empty());
        let recreations = self.recreations;
        if self.bypass_encode {
            self.response = if end.is_end() {
                Half::Received
            } else {
                Half::Open
            };
            record.response = Some(head);
            self.send_head(end);
        } else {
            self.on_response_head(head, end);
        }
        if !end.is_end() && self.recreations == recreations {
            self.on_response_data(body, EndStream::Yes);
        }
    }

    // ---- to the client

    fn send_head(&mut self, end: EndStream) {
        let hcm = &self.hcm;
        let Some(record) = self.record.as_deref_mut() else {
            return;
        };
        let Record {
            info,
            request,
            response: Some(head),
            ..
        } = record
        else {
            return;
        };
        let upgraded = self.upgrade == Upgrade::Accepted;
        hcm.config
            .forwarding
            .mutate_response(head, request, upgraded);
        hcm.set_server_and_date(head, info);
        // As in Envoy, nothing is said of a request that its codec refused.
        if let Some(status) = &hcm.config.proxy_status
            && !request.method_bytes().is_empty()
        {
            status.apply(head, info);
        }
        if !self.close_connection && hcm.disables_keepalive(&info.connection) {
            self.close_connection = true;
            if let Some(ended) = &self.connection {
                ended.drain();
            }
        }
        self.close_connection |=
            hcm.must_close(request) || self.drain.as_ref().is_some_and(|drain| drain.is_draining());
        // Nobody waits for the rest of a request that was answered already, where that would hold the connection up.
        self.close_connection |=
            self.request == Half::Open && !upgraded && request.version.is_http1();
        if self.close_connection && !upgraded && request.version.is_http1() {
            head.fields.set(Known::Connection, "close");
        }
        info.response_code = Some(head.status);
        info.timing.first_downstream_tx_byte = Some(info.now);
        let for_http2 = if request.version.is_http1() {
            None
        } else {
            response_to_http2(head)
        };
        match for_http2 {
            None => self.codec.send_head(head, end),
            Some(head) => self.codec.send_head(&head, end),
        }
        if upgraded && hcm.config.access_log_options.flush_on_tunnel {
            self.log("DownstreamTunnelSuccessfullyEstablished");
        }
        if end.is_end() {
            self.response_sent();
        }
    }

    fn send_data(&mut self, data: Bytes, end: EndStream) {
        self.info().bytes_sent += data.len() as u64;
        self.codec.send_data(data, end);
        if end.is_end() {
            self.response_sent();
        }
    }

    fn send_trailers(&mut self, trailers: Fields) {
        self.codec.send_trailers(&trailers);
        if let Some(record) = self.record.as_deref_mut() {
            record.response_trailers = Some(trailers);
        }
        self.response_sent();
    }

    fn response_sent(&mut self) {
        self.response = Half::Done;
        let info = self.info();
        info.timing.last_downstream_tx_byte = Some(info.now);
        if self.request == Half::Open && self.upgrade != Upgrade::Accepted {
            self.hcm
                .config
                .stats
                .downstream_rq_response_before_rq_complete()
                .inc();
            if !self.is_http1() {
                // The rest of the request is not wanted: the stream is reset.
                self.hcm.config.stats.downstream_rq_rx_reset().inc();
            }
            self.ended_early = true;
            self.close_connection = true;
        }
    }
}
