//! A request begins anew, as after an internal redirect: through route and filters, but past the checks of its head, which it
//! has passed already. To the client it is the same stream; to logs and stats it is another one.

use super::super::connection::begin_stream;
use super::super::filter_chain::{Chain, Filters};
use super::{Deadlines, Half, Record, Stream, Upgrade};
use crate::codec::ServerStream;
use crate::http::{EndStream, Protocol};
use crate::http_filters::router::{Redirected, Router};
use crate::stream_info::StreamInfo;

impl<S: ServerStream> Stream<S> {
    /// Ends what there is of the stream but its client, and starts anew.
    #[cold]
    pub(super) fn recreate(&mut self, redirected: Redirected) {
        let Redirected {
            head,
            body,
            trailers,
        } = redirected;
        let Some(mut old) = self.record.take() else {
            return;
        };
        self.recreations += 1;
        old.info.response_code_details = Some("internal_redirect".into());
        if let Some(head) = head {
            old.response = Some(head);
        }
        old.info.response_code = old.response.as_ref().map(|head| head.status);
        old.info.timing.request_complete = Some(old.info.now);
        self.router.finish(&mut old.info);
        self.filters.complete(&mut old.info);
        self.hcm.finish_without_response(&old);
        let mut info = self.info_anew(&old.info);
        info.filter_state.inherit(&old.info.filter_state);
        self.deadlines_anew(&info);
        let old = *old;
        self.record = Some(Box::new(Record {
            info,
            request: old.request,
            response: None,
            request_trailers: old.request_trailers,
            response_trailers: None,
        }));
        self.router = Router::new(self.hcm.router.clone(), self.buffer_limit);
        self.filters = Filters::default();
        self.decode = Chain::default();
        self.encode = Chain::default();
        self.bypass_encode = false;
        self.upgrade = Upgrade::No;
        self.response = Half::Start;
        self.replay(body, trailers);
    }

    /// As `recreate`, for a filter that has no use for the response. Of the body goes along what is still there, as in Envoy.
    #[cold]
    pub(super) fn recreate_for_filter(&mut self) {
        let mut body = self.router.take_kept();
        body.append(&mut self.decode.take_held());
        self.router.abandon();
        self.recreate(Redirected {
            head: None,
            body,
            trailers: None,
        });
    }

    fn info_anew(&self, old: &StreamInfo) -> StreamInfo {
        let protocol = old.protocol.unwrap_or(Protocol::Http11);
        let mut info = begin_stream(&self.hcm, &old.connection, protocol);
        info.remote_address = old.remote_address.clone();
        info.request_id = old.request_id.clone();
        info.health_check = old.health_check;
        info.bytes_received = old.bytes_received;
        let now = info.now;
        info.timing.last_downstream_rx_byte = Some(now);
        info
    }

    fn deadlines_anew(&mut self, info: &StreamInfo) {
        let start = info.start;
        let timeouts = &self.hcm.config.timeouts;
        self.deadlines = Deadlines {
            request: None,
            max_duration: timeouts.max_stream_duration.map(|d| start + d),
            idle: timeouts.stream_idle.map(|d| start + d),
            idle_after: timeouts.stream_idle,
            log_flush: self.deadlines.log_flush,
            flush: None,
        };
    }

    /// Sends the request through route and filters, whole as it is.
    fn replay(&mut self, body: Vec<bytes::Bytes>, trailers: Option<crate::http::Fields>) {
        let hcm = self.hcm.clone();
        let Some(record) = self.record.as_deref_mut() else {
            return;
        };
        // Another stream: it begins with the table of now.
        let by_head = hcm.routing_by_head(&record.request);
        self.routing = by_head.unwrap_or_else(|| hcm.routing());
        hcm.resolve_route(&self.routing, &mut record.request, &mut record.info);
        let chain = hcm.chain_for(&self.routing, false, &record.request);
        self.filters = chain.new_stream(record.info.route.as_ref());
        self.deadlines_of_route();
        let end = EndStream::from(body.is_empty() && trailers.is_none());
        let flow = self.with_env(|env, s| s.decode.headers(s.filters, env, end));
        self.after_decode(flow);
        let last = body.len();
        for (index, piece) in body.into_iter().enumerate() {
            if self.record.is_none() || self.response != Half::Start {
                return;
            }
            let end = EndStream::from(trailers.is_none() && index + 1 == last);
            // The bytes of the old stream count as well, as in Envoy.
            self.info().bytes_received += piece.len() as u64;
            self.decode_data(piece, end);
        }
        if let Some(trailers) = trailers
            && self.record.is_some()
            && self.response == Half::Start
        {
            let flow = self.with_env(|env, s| s.decode.trailers(s.filters, env, trailers));
            self.after_decode(flow);
        }
    }
}
