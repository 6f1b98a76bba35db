//! One stream: the pump between a client and the router, with the filters between them.
//!
//! A stream is one future made of two halves that are polled together as plain state machines. The request half carries what
//! the codec has read through the decode filters to the router; the response half carries what the router got through the
//! encode filters to the codec. Neither waits for the other: a response may come before the request has ended, a filter that
//! waits stops only its own direction, and a side that cannot take more stops only the reading of what would go there.

#![allow(
    clippy::expect_used,
    reason = "a stream that runs has its record; each expectation says so"
)]

mod recreate;
mod response;

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::Instant;

use super::codec::h2::RefusedHead;
use super::codec::{RequestEvent, ServerStream, StreamReset};
use super::filter_chain::{Chain, ChainEnv, Decode, Encode, Filters, Flow, Piece};
use super::local_reply::protocol_error_reply;
use super::manager::{Hcm, Routes, max_stream_duration};
use super::premature_resets::EndedStreams;
use super::routing::Routing;
use super::timer::{Timer, nearer};
use crate::formatter::FormatData;
use crate::http::{EndStream, Fields, RequestHead, ResponseHead};
use crate::http_filters::router::{Router, RouterEvent};
use crate::http_filters::{Effects, LocalReply};
use crate::network_filters::DrainSignal;
use crate::overload::{OverloadState, ScaledTimer};
use crate::stream_info::{ResponseFlag, StreamInfo};

/// A stream from its head to its log line.
pub(super) struct Stream<S: ServerStream> {
    hcm: Rc<Hcm>,
    /// What the stream is routed by, from its start to its end.
    routing: Rc<Routing>,
    codec: S,
    record: Option<Box<Record>>,
    filters: Filters,
    decode: Chain<Decode>,
    encode: Chain<Encode>,
    router: Router,
    effects: Effects,
    /// How often it has begun anew.
    recreations: u32,
    request: Half,
    response: Half,
    /// The response goes out as it is, past the filters.
    bypass_encode: bool,
    upgrade: Upgrade,
    deadlines: Deadlines,
    buffer_limit: usize,
    /// The connection must end after this stream.
    close_connection: bool,
    was_polled: bool,
    /// Tells an HTTP/1 connection to end; an HTTP/2 connection sees to that itself.
    drain: Option<Rc<dyn DrainSignal>>,
    /// Of HTTP/2: who hears that the connection is to end with its streams.
    connection: Option<Rc<EndedStreams>>,
    /// The response ended before the request had.
    ended_early: bool,
    /// The client reset the stream or went away.
    client_gone: bool,
    /// What the client has sent before its upgrade was granted.
    held_back: Vec<(Bytes, EndStream)>,
    /// It ended before it had a status.
    unanswered: bool,
}

/// What is known about a stream; outlives it by the moment in which it is logged.
pub(super) struct Record {
    pub(super) info: StreamInfo,
    pub(super) request: RequestHead,
    pub(super) response: Option<ResponseHead>,
    pub(super) request_trailers: Option<Fields>,
    pub(super) response_trailers: Option<Fields>,
}

/// How far one direction has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    /// The head has not come yet.
    Start,
    /// The head has come, the end not.
    Open,
    /// Everything has come from the side that sends.
    Received,
    /// Everything was handed to the side that receives.
    Done,
}

/// What ran out before the head of a request had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadTimeout {
    /// `request_headers_timeout`.
    Headers,
    /// `request_timeout`.
    Request,
    /// `stream_idle_timeout`.
    Idle,
    /// `max_stream_duration`.
    MaxDuration,
}

/// Whether the request asks for another protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upgrade {
    No,
    /// `Connection: upgrade` or CONNECT was asked for and is allowed.
    Asked,
    /// 101, or 2xx to a CONNECT, came back: both sides carry raw bytes.
    Accepted,
}

/// When to give up, as plain instants.
#[derive(Debug, Default)]
struct Deadlines {
    request: Option<Instant>,
    max_duration: Option<Instant>,
    idle: Option<Instant>,
    idle_after: Option<std::time::Duration>,
    log_flush: Option<Instant>,
    /// For the client to take the rest of its response; none: that has not begun to be waited for.
    flush: Option<Option<Instant>>,
}

impl<S: ServerStream> Stream<S> {
    /// A stream whose head has come. `codec` is where the rest comes from and the answer goes to.
    pub(super) fn new(
        hcm: Rc<Hcm>,
        codec: S,
        info: StreamInfo,
        request: RequestHead,
        buffer_limit: usize,
    ) -> Self {
        let timeouts = &hcm.config.timeouts;
        let start = info.start;
        let deadlines = Deadlines {
            request: timeouts.request.map(|d| start + d),
            max_duration: timeouts.max_stream_duration.map(|d| start + d),
            idle: timeouts.stream_idle.map(|d| start + d),
            idle_after: timeouts.stream_idle,
            log_flush: hcm
                .config
                .access_log_options
                .flush_interval
                .map(|d| start + d),
            flush: None,
        };
        let router = Router::new(hcm.router.clone(), buffer_limit);
        Self {
            routing: hcm.routing(),
            codec,
            record: Some(Box::new(Record {
                info,
                request,
                response: None,
                request_trailers: None,
                response_trailers: None,
            })),
            filters: Filters::default(),
            decode: Chain::default(),
            encode: Chain::default(),
            router,
            effects: Effects::default(),
            recreations: 0,
            request: Half::Start,
            response: Half::Start,
            bypass_encode: false,
            upgrade: Upgrade::No,
            deadlines,
            buffer_limit,
            close_connection: false,
            was_polled: false,
            drain: None,
            connection: None,
            ended_early: false,
            client_gone: false,
            held_back: Vec::new(),
            unanswered: false,
            hcm,
        }
    }

    /// Takes the head through checks, route and filters. Before the first `poll`.
    pub(super) fn start(&mut self, end: EndStream) {
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
            record.info.timing.request_complete = Some(now);
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
                return self.local_reply(rejection.reply);
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
    pub(super) fn start_refused(&mut self, error: &super::codec::ProtocolError) {
        self.request = Half::Received;
        self.close_connection = true;
        self.info()
            .response_flags
            .set(ResponseFlag::DownstreamProtocolError);
        self.local_reply(protocol_error_reply(error));
    }

    /// Notes a stream whose head its codec refused without an answer, and has reset.
    pub(super) fn start_reset(&mut self, refused: RefusedHead) {
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
    pub(super) fn start_gone(&mut self) {
        self.on_client_reset(&StreamReset::ConnectionTermination);
    }

    /// Answers a client whose head did not come to its end in time.
    pub(super) fn start_headers_timeout(&mut self, timeout: HeadTimeout) {
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
        self.local_reply(LocalReply::new(408, details).with_body(body));
    }

    /// Says who ends the connection of an HTTP/2 stream.
    pub(super) fn set_connection(&mut self, ended: &Rc<EndedStreams>) {
        self.connection = Some(ended.clone());
    }

    /// Ends the connection after this stream, whatever the stream does, or when `drain` says so until its head is sent.
    pub(super) fn set_close_connection(&mut self, close: bool, drain: &Rc<dyn DrainSignal>) {
        self.close_connection |= close;
        self.drain = Some(drain.clone());
    }

    /// Whether the connection must end after this stream.
    pub(super) fn closes_connection(&self) -> bool {
        self.close_connection
    }

    /// Whether the response ended before the request had.
    pub(super) fn has_ended_early(&self) -> bool {
        self.ended_early
    }

    /// Whether the client reset the stream or went away.
    pub(super) fn client_is_gone(&self) -> bool {
        self.client_gone
    }

    /// Whether the stream has ended before it had a status.
    pub(super) fn ended_unanswered(&self) -> bool {
        self.unanswered
    }

    /// Runs the stream until it has ended. `timer` belongs to the task that polls.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, timer: &mut Timer) -> Poll<()> {
        if std::mem::replace(&mut self.was_polled, true)
            && let Some(record) = &mut self.record
        {
            record.info.now = Instant::now();
        }
        let mut client_is_quiet = false;
        for _ in 0..MAX_ROUNDS {
            let mut progress = false;
            if !self.is_over() {
                progress |= self.poll_filters(cx);
                if self.request == Half::Open {
                    progress |= self.poll_request(cx, &mut client_is_quiet);
                    progress |= self.poll_response(cx);
                } else {
                    // A client that has sent all is only watched, and no longer once its response is there.
                    progress |= self.poll_response(cx);
                    if !self.is_over() {
                        progress |= self.poll_request(cx, &mut client_is_quiet);
                    }
                }
            }
            if self.record.is_none() {
                return Poll::Ready(());
            }
            if self.is_over() {
                return self.poll_end(cx, timer);
            }
            if progress {
                continue;
            }
            // Sends what has been queued since the response half was last asked, such as a 1xx.
            let _ = self.codec.poll_ready(cx);
            return self.poll_deadlines(cx, timer);
        }
        // Others on this worker have waited long enough.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Waits for the client to take what is left of the response, but not for ever.
    fn poll_end(&mut self, cx: &mut Context<'_>, timer: &mut Timer) -> Poll<()> {
        // A client may break off while it is waited for, which only the request side tells.
        if self.deadlines.flush.is_some() && self.poll_broken(cx) {
            return Poll::Ready(());
        }
        let timeouts = &self.hcm.config.timeouts;
        if !self.ended_early && timeouts.delayed_close.is_some() {
            self.codec.flush_with_close();
        }
        if self.codec.poll_flush(cx).is_pending() {
            let patience = timeouts.stream_flush.or(timeouts.stream_idle);
            let deadline = *self
                .deadlines
                .flush
                .get_or_insert_with(|| patience.map(|d| Instant::now() + d));
            if self.poll_broken(cx) {
                return Poll::Ready(());
            }
            if !timer.poll(deadline, cx) {
                return Poll::Pending;
            }
            self.hcm.config.stats.downstream_rq_idle_timeout().inc();
            self.close_connection = true;
            self.codec.reset(StreamReset::LocalReset);
        }
        self.finish();
        Poll::Ready(())
    }

    /// Whether the client of an HTTP/2 stream has broken off, which ends it.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> bool {
        if self.is_http1() {
            return false;
        }
        while let Poll::Ready(event) = self.codec.poll_event(cx) {
            if let RequestEvent::Reset(reset) = event {
                self.on_client_reset(&reset);
                return true;
            }
        }
        false
    }

    fn poll_deadlines(&mut self, cx: &mut Context<'_>, timer: &mut Timer) -> Poll<()> {
        loop {
            let own = nearer(
                nearer(self.deadlines.request, self.deadlines.max_duration),
                nearer(
                    self.idle_end()
                        .map(|end| self.overload().look_at(ScaledTimer::StreamIdle, end)),
                    self.deadlines.log_flush,
                ),
            );
            let nearest = nearer(own, self.router.deadline());
            if !timer.poll(nearest, cx) {
                return Poll::Pending;
            }
            self.on_deadline(Instant::now());
            if self.record.is_none() {
                return Poll::Ready(());
            }
            // What the deadline caused is carried out by another round.
            cx.waker().wake_by_ref();
        }
    }

    fn on_deadline(&mut self, now: Instant) {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|d| d <= now);
        if passed(self.router.deadline()) {
            let event = self.with_env(|env, s| s.router.on_deadline(now, env));
            if let Some(event) = event {
                self.on_router_event(event);
            }
        } else if passed(self.deadlines.log_flush) {
            self.deadlines.log_flush = self
                .hcm
                .config
                .access_log_options
                .flush_interval
                .map(|d| now + d);
            self.log("DownstreamPeriodic");
        } else if passed(self.deadlines.max_duration) {
            self.deadlines.max_duration = None;
            self.hcm
                .config
                .stats
                .downstream_rq_max_duration_reached()
                .inc();
            self.time_out(
                "downstream duration timeout",
                "max_duration_timeout",
                Some(4),
            );
        } else if passed(self.deadlines.request) {
            self.deadlines.request = None;
            self.hcm.config.stats.downstream_rq_timeout().inc();
            self.time_out("request timeout", "request_overall_timeout", None);
        } else if passed(self.idle_end()) {
            self.deadlines.idle = None;
            self.hcm.config.stats.downstream_rq_idle_timeout().inc();
            self.info()
                .response_flags
                .set(ResponseFlag::StreamIdleTimeout);
            self.time_out("stream timeout", "stream_idle_timeout", None);
        }
    }

    /// An answer if one is still possible, else the stream breaks off. The client is at fault (408) unless it has sent all (504).
    fn time_out(&mut self, body: &'static str, details: &'static str, grpc_status: Option<u32>) {
        if self.response == Half::Start {
            let status = if self.request == Half::Open { 408 } else { 504 };
            let mut reply =
                LocalReply::new(status, details).with_body(Bytes::from_static(body.as_bytes()));
            reply.grpc_status = grpc_status;
            self.local_reply(reply);
        } else {
            self.info().response_code_details = Some(details.into());
            self.break_off(StreamReset::LocalReset);
        }
    }

    /// When the stream will have been idle for too long, as it is at the moment.
    fn idle_end(&self) -> Option<Instant> {
        let (idle, after) = (self.deadlines.idle?, self.deadlines.idle_after?);
        let end = |since| self.overload().end(ScaledTimer::StreamIdle, after, since);
        idle.checked_sub(after).map(end)
    }

    fn overload(&self) -> &OverloadState {
        &self.hcm.worker.server.overload
    }

    /// Something moved: the stream is not idle.
    fn touch(&mut self) {
        if let Some(after) = self.deadlines.idle_after {
            self.deadlines.idle = self.record.as_ref().map(|record| record.info.now + after);
        }
    }

    fn deadlines_of_route(&mut self) {
        let record = self
            .record
            .as_deref_mut()
            .expect("a stream has its record until it ends");
        let Some(route) = &record.info.route else {
            return;
        };
        let start = record.info.start;
        let Some(action) = route.route().forward() else {
            return;
        };
        if let Some(idle) = action.idle_timeout {
            self.deadlines.idle_after = Some(idle).filter(|d| !d.is_zero());
            self.deadlines.idle = self.deadlines.idle_after.map(|d| start + d);
        }
        let of_manager = self.hcm.config.timeouts.max_stream_duration;
        let max = max_stream_duration(action, &mut record.request, of_manager);
        self.deadlines.max_duration = max.map(|d| start + d);
    }

    // ---- filters that wait

    fn poll_filters(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        if self.decode.is_waiting() {
            let flow = self.with_env(|env, s| s.decode.poll_waits(s.filters, env, cx));
            if let Poll::Ready(flow) = flow {
                self.after_decode(flow);
                progress = true;
            }
        }
        if self.encode.is_waiting() {
            let flow = self.with_env(|env, s| s.encode.poll_waits(s.filters, env, cx));
            if let Poll::Ready(flow) = flow {
                self.after_encode(flow);
                progress = true;
            }
        }
        progress
    }

    // ---- the request half

    /// `quiet`: the codec had nothing when it was asked in this wake-up, and will have nothing before the next.
    fn poll_request(&mut self, cx: &mut Context<'_>, quiet: &mut bool) -> bool {
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

    fn decode_data(&mut self, data: Bytes, end: EndStream) {
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

    /// Ends the connection after this stream, and lets the client close it first.
    fn close_early(&mut self) {
        self.close_connection = true;
        self.ended_early = true;
    }

    fn is_http1(&self) -> bool {
        self.record
            .as_ref()
            .is_some_and(|record| record.request.version.is_http1())
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
        let timing = &mut info.timing;
        timing.last_downstream_rx_byte = Some(now);
        timing.request_complete = Some(now);
    }

    fn on_client_reset(&mut self, reset: &StreamReset) {
        match reset {
            StreamReset::ProtocolError(error) => {
                self.close_early();
                self.hcm.config.stats.downstream_cx_protocol_error().inc();
                self.info()
                    .response_flags
                    .set(ResponseFlag::DownstreamProtocolError);
                self.request = Half::Received;
                if self.response == Half::Start {
                    return self.local_reply(protocol_error_reply(error));
                }
                self.info().response_code_details = Some(error.details.clone());
                self.break_off(StreamReset::LocalReset);
            }
            StreamReset::CodecError(details) => {
                self.client_gone = true;
                self.hcm.config.stats.downstream_rq_rx_reset().inc();
                self.info()
                    .response_flags
                    .set(ResponseFlag::DownstreamProtocolError);
                self.info().response_code_details = Some((*details).into());
                self.gone();
            }
            StreamReset::RemoteReset | StreamReset::RemoteRefused => {
                self.client_gone = true;
                self.hcm.config.stats.downstream_rq_rx_reset().inc();
                self.info()
                    .response_flags
                    .set(ResponseFlag::DownstreamRemoteReset);
                let details = if *reset == StreamReset::RemoteRefused {
                    "http2.remote_refuse"
                } else {
                    "http2.remote_reset"
                };
                self.info().response_code_details = Some(details.into());
                self.gone();
            }
            StreamReset::ConnectionTermination
            | StreamReset::PingTimeout
            | StreamReset::LocalReset
            | StreamReset::ConnectError => {
                self.client_gone = true;
                self.hcm.config.stats.downstream_rq_rx_reset().inc();
                self.info()
                    .response_flags
                    .set(ResponseFlag::DownstreamConnectionTermination);
                let details = if *reset == StreamReset::PingTimeout {
                    "downstream_local_disconnect(http2_ping_timeout)"
                } else {
                    "downstream_remote_disconnect"
                };
                self.info().response_code_details = Some(details.into());
                self.gone();
            }
        }
    }

    /// Carries out what the decode filters left, and hands on what passed them.
    fn after_decode(&mut self, flow: Flow) {
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

    fn on_any_router_event(&mut self, event: Option<RouterEvent>) {
        if let Some(event) = event {
            self.on_router_event(event);
        }
    }

    // ---- the end

    /// The response was handed to the codec, and nothing that is still to come matters to it.
    fn is_over(&self) -> bool {
        self.record.is_some() && self.response == Half::Done
    }

    /// Breaks the stream off towards the client.
    fn break_off(&mut self, reset: StreamReset) {
        if self.record.is_none() {
            return;
        }
        let stats = &self.hcm.config.stats;
        stats.downstream_rq_tx_reset().inc();
        if !self.is_http1() {
            // Envoy counts its own resets there too.
            stats.downstream_rq_rx_reset().inc();
        }
        self.close_connection = true;
        self.codec.reset(reset);
        self.gone();
    }

    /// Nobody waits for a response any more.
    fn gone(&mut self) {
        self.router.abandon();
        self.response = Half::Done;
        self.finish();
    }

    /// Ends the stream: filters, stats, logs. Only the first call has an effect.
    fn finish(&mut self) {
        let Some(mut record) = self.record.take() else {
            return;
        };
        let info = &mut record.info;
        self.unanswered = info.response_code.is_none();
        info.downstream_bytes = self.codec.bytes();
        self.router.finish(info);
        self.filters.complete(info);
        self.hcm.finish(&record);
    }

    fn log(&self, log_type: &'static str) {
        if let Some(record) = self.record.as_deref() {
            self.hcm.access_logs.log(&record.format_data(log_type));
        }
    }

    // ---- plumbing

    fn info(&mut self) -> &mut StreamInfo {
        &mut self
            .record
            .as_mut()
            .expect("a stream has its record until it ends")
            .info
    }

    fn carry_out_effects(&mut self) {
        for head in std::mem::take(&mut self.effects.informational) {
            self.codec.send_informational(&head);
        }
        if let Some(limit) = self.effects.buffer_limit.take() {
            self.buffer_limit = usize::try_from(limit).unwrap_or(usize::MAX);
        }
        self.close_connection |= std::mem::take(&mut self.effects.close_connection);
    }

    /// Runs `call` on the parts of the stream with its environment lent out.
    fn with_env<T>(&mut self, call: impl FnOnce(&mut ChainEnv<'_>, Parts<'_>) -> T) -> T {
        let record = self
            .record
            .as_deref_mut()
            .expect("a stream has its record until it ends");
        let mut env = ChainEnv {
            info: &mut record.info,
            worker: &self.hcm.worker,
            request: &mut record.request,
            response: &mut record.response,
            routes: &Routes {
                hcm: &self.hcm,
                routing: &self.routing,
                upgrade: self.upgrade != Upgrade::No,
            },
            effects: &mut self.effects,
        };
        let parts = Parts {
            filters: &mut self.filters,
            decode: &mut self.decode,
            encode: &mut self.encode,
            router: &mut self.router,
        };
        call(&mut env, parts)
    }
}

/// The parts of a stream that work on its environment.
struct Parts<'a> {
    filters: &'a mut Filters,
    decode: &'a mut Chain<Decode>,
    encode: &'a mut Chain<Encode>,
    router: &'a mut Router,
}

impl<S: ServerStream> Drop for Stream<S> {
    /// The client's connection went away under the stream.
    fn drop(&mut self) {
        if self.record.is_some() {
            self.on_client_reset(&StreamReset::ConnectionTermination);
        }
    }
}

impl Record {
    /// The view of formatters.
    pub(super) fn format_data(&self, log_type: &'static str) -> FormatData<'_> {
        FormatData {
            info: &self.info,
            request: Some(&self.request),
            response: self.response.as_ref(),
            request_trailers: self.request_trailers.as_ref(),
            response_trailers: self.response_trailers.as_ref(),
            local_reply_body: b"",
            log_type,
        }
    }
}

/// Events of a response that are taken before what they caused is written.
const EVENTS_PER_WRITE: u32 = 8;
/// Rounds of progress after which a stream lets others run.
const MAX_ROUNDS: u32 = 64;
