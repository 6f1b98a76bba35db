//! The request half: from the client through the decode filters to the router.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::super::filter_chain::{Flow, Piece};
use super::{Half, Stream, Upgrade};
use crate::codec::{RequestEvent, ServerStream};
use crate::http::{EndStream, Fields};
use crate::http_filters::LocalReply;
use crate::http_filters::router::RouterEvent;

impl<S: ServerStream> Stream<S> {
    /// `quiet`: the codec had nothing when it was asked in this wake-up, and will have nothing before the next.
    pub(super) fn poll_request(&mut self, cx: &mut Context<'_>, quiet: &mut bool) -> bool {
        if *quiet || self.record.is_none() {
            return false;
        }
        if self.request == Half::Open && !self.request_may_flow(cx) {
            return false;
        }
        let Poll::Ready(event) = self.codec.poll_event(cx) else {
            *quiet = true;
            return false;
        };
        self.touch();
        match event {
            RequestEvent::Data(data, end) => self.on_request_data(data, end),
            RequestEvent::Trailers(trailers) => self.on_request_trailers(trailers),
            RequestEvent::Metadata(map) => self.router.metadata(*map),
            RequestEvent::Reset(reset) => self.on_client_reset(&reset),
        }
        true
    }

    /// Whether the side that the request goes to takes more.
    fn request_may_flow(&mut self, cx: &mut Context<'_>) -> bool {
        if self.response == Half::Done {
            return true;
        }
        if self.upgrade == Upgrade::Asked {
            let held: usize = self.held_back.iter().map(|(data, _)| data.len()).sum();
            return held + self.decode.buffered() <= self.buffer_limit;
        }
        self.decode.buffered() <= self.buffer_limit && self.router.poll_ready(cx).is_ready()
    }

    fn on_request_data(&mut self, data: Bytes, end: EndStream) {
        if self.request != Half::Open {
            return;
        }
        let info = self.info();
        info.bytes_received += data.len() as u64;
        // Like Envoy's, filters that wait for the whole body see the end of an HTTP/1 body apart from its last bytes: so the
        // limit of what they buffer holds for these as well.
        let apart = end.is_end() && !data.is_empty() && self.decode.is_holding() && self.is_http1();
        let (before_end, last) = if apart {
            (data, Bytes::new())
        } else {
            (Bytes::new(), data)
        };
        if apart {
            self.decode_data(before_end, EndStream::No);
            if self.record.is_none() {
                return;
            }
        }
        if end.is_end() {
            self.request_received();
        }
        if !apart || self.response == Half::Start {
            self.decode_data(last, end);
        }
    }

    fn on_request_trailers(&mut self, trailers: Fields) {
        if self.request != Half::Open {
            return;
        }
        self.request_received();
        if self.response == Half::Done {
            return;
        }
        let flow = self.with_env(|env, s| s.decode.trailers(s.filters, env, trailers));
        self.after_decode(flow);
    }

    fn request_received(&mut self) {
        self.request = Half::Received;
        self.deadlines.request = None;
        let info = self.info();
        let now = info.now;
        info.timing.last_downstream_rx_byte = Some(now);
    }

    pub(super) fn decode_data(&mut self, data: Bytes, end: EndStream) {
        if self.response == Half::Done {
            return;
        }
        if self.filters.is_empty() {
            let event = self.data_to_router(data, end);
            return self.on_any_router_event(event);
        }
        let limit = self.buffer_limit;
        let flow = self.with_env(|env, s| s.decode.data(s.filters, env, data, end, limit));
        self.after_decode(flow);
    }

    /// Carries out what the decode filters left, and hands on what passed them.
    pub(super) fn after_decode(&mut self, flow: Flow) {
        self.carry_out_effects();
        match flow {
            Flow::Done => {}
            Flow::LocalReply(reply) => return self.local_reply(reply),
            Flow::Recreate => return self.recreate_for_filter(),
            Flow::BufferFull => {
                self.hcm.config.stats.downstream_rq_too_large().inc();
                let reply = LocalReply::new(413, "request_payload_too_large")
                    .with_body(Bytes::from_static(b"Payload Too Large"));
                return self.local_reply(reply);
            }
        }
        if self.response == Half::Done {
            return;
        }
        let recreations = self.recreations;
        let mut pieces = self.decode.take();
        for piece in pieces.drain(..) {
            if self.recreations != recreations {
                // What is left belongs to the stream that there was.
                return;
            }
            let event = match piece {
                Piece::Head(end) => self.with_env(|env, s| s.router.start(env, end)),
                Piece::Data(data, end) => self.data_to_router(data, end),
                Piece::Trailers(trailers) => {
                    self.with_env(|env, s| s.router.trailers(env, trailers))
                }
            };
            self.on_any_router_event(event);
        }
        self.decode.give_back(pieces);
    }

    /// Hands a piece of the body that has passed the filters to the router. What comes before an upgrade is granted waits: an
    /// upstream that does not grant it would take these bytes for another request.
    fn data_to_router(&mut self, data: Bytes, end: EndStream) -> Option<RouterEvent> {
        if self.upgrade != Upgrade::Asked {
            return self.with_env(|env, s| s.router.data(env, data, end));
        }
        if end.is_end() {
            let now = self.info().now;
            self.router.request_ended(now);
        }
        self.held_back.push((data, end));
        None
    }
}
