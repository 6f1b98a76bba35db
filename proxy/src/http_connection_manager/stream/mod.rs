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

mod deadlines;
mod end;
mod recreate;
mod request;
mod response;
mod start;

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::Instant;

use super::filter_chain::{Chain, ChainEnv, Decode, Encode, Filters};
use super::manager::{Hcm, Routes};
use super::premature_resets::EndedStreams;
use super::routing::Routing;
use super::timer::Timer;
use crate::codec::{ServerStream, StreamReset};
use crate::formatter::FormatData;
use crate::http::{EndStream, Fields, RequestHead, ResponseHead};
use crate::http_filters::Effects;
use crate::http_filters::router::{Router, RouterEvent};
use crate::network_filters::DrainSignal;
use crate::overload::StreamAccount;
use crate::stream_info::StreamInfo;
use deadlines::Deadlines;

pub(super) use deadlines::HeadTimeout;

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
    /// Of HTTP/2, where streams that hold too much may be reset.
    account: Option<StreamAccount>,
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

/// Whether the request asks for another protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upgrade {
    No,
    /// `Connection: upgrade` or CONNECT was asked for and is allowed.
    Asked,
    /// 101, or 2xx to a CONNECT, came back: both sides carry raw bytes.
    Accepted,
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
            account: None,
            held_back: Vec::new(),
            unanswered: false,
            hcm,
        }
    }

    /// Says who ends the connection of an HTTP/2 stream.
    pub(super) fn set_connection(&mut self, ended: &Rc<EndedStreams>) {
        self.connection = Some(ended.clone());
    }

    /// Says where the stream tells what it holds, and learns that this is too much.
    pub(super) fn set_account(&mut self, account: StreamAccount) {
        self.account = Some(account);
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
        if let Some(account) = &self.account
            && account.is_doomed(cx, || self.held())
        {
            self.reset_for_overload();
            return Poll::Ready(());
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

    fn on_any_router_event(&mut self, event: Option<RouterEvent>) {
        if let Some(event) = event {
            self.on_router_event(event);
        }
    }

    /// The response was handed to the codec, and nothing that is still to come matters to it.
    fn is_over(&self) -> bool {
        self.record.is_some() && self.response == Half::Done
    }

    fn log(&self, log_type: &'static str) {
        if let Some(record) = self.record.as_deref() {
            self.hcm.access_logs.log(&record.format_data(log_type));
        }
    }

    fn is_http1(&self) -> bool {
        self.record
            .as_ref()
            .is_some_and(|record| record.request.version.is_http1())
    }

    /// Bytes of bodies that lie here, with the codec and towards the upstream.
    fn held(&self) -> usize {
        let held_back = self.held_back.iter().map(|(data, _)| data.len());
        self.codec.held()
            + self.decode.buffered()
            + self.encode.buffered()
            + held_back.sum::<usize>()
            + self.router.held()
    }

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
