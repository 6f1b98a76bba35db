//! How a stream ends: with a client that takes the rest, that breaks off, or that is broken off.

use std::task::{Context, Poll};

use tokio::time::Instant;

use super::super::local_reply::protocol_error_reply;
use super::super::timer::Timer;
use super::{Half, Stream};
use crate::codec::{RequestEvent, ServerStream, StreamReset};
use crate::overload::ScaledTimer;
use crate::stream_info::ResponseFlag;

impl<S: ServerStream> Stream<S> {
    /// Waits for the client to take what is left of the response, but not for ever.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>, timer: &mut Timer) -> Poll<()> {
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
            let since = *self.deadlines.flush.get_or_insert_with(Instant::now);
            if self.poll_broken(cx) {
                return Poll::Ready(());
            }
            loop {
                let overload = self.overload();
                let end = patience.map(|d| overload.end(ScaledTimer::StreamFlush, d, since));
                let look = end.map(|end| overload.look_at(ScaledTimer::StreamFlush, end));
                if !timer.poll(look, cx) {
                    return Poll::Pending;
                }
                if end.is_some_and(|end| end <= Instant::now()) {
                    break;
                }
            }
            if self.is_http1() {
                self.hcm.config.stats.downstream_rq_idle_timeout().inc();
            }
            self.close_connection = true;
            self.codec.reset(StreamReset::FlushTimeout);
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

    pub(super) fn on_client_reset(&mut self, reset: &StreamReset) {
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
            StreamReset::ForcedGoaway => {
                self.client_gone = true;
                self.hcm.config.stats.downstream_rq_rx_reset().inc();
                self.info().response_code_details = Some("forced_goaway".into());
                self.gone();
            }
            StreamReset::ConnectionTermination
            | StreamReset::PingTimeout
            | StreamReset::LocalReset
            | StreamReset::FlushTimeout
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

    /// Breaks the stream off because it holds too much.
    #[cold]
    pub(super) fn reset_for_overload(&mut self) {
        if self.record.is_none() {
            return;
        }
        self.hcm.config.stats.downstream_rq_rx_reset().inc();
        let info = self.info();
        info.response_flags
            .set(ResponseFlag::OverloadManagerTerminated);
        info.response_code_details = Some("overload".into());
        self.codec.reset(StreamReset::LocalReset);
        self.gone();
    }

    /// Breaks the stream off towards the client.
    pub(super) fn break_off(&mut self, reset: StreamReset) {
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
    pub(super) fn gone(&mut self) {
        self.router.abandon();
        self.response = Half::Done;
        self.finish();
    }

    /// Ends the stream: filters, stats, logs. Only the first call has an effect.
    pub(super) fn finish(&mut self) {
        let Some(mut record) = self.record.take() else {
            return;
        };
        let info = &mut record.info;
        self.unanswered = info.response_code.is_none();
        info.downstream_bytes = self.codec.bytes();
        info.timing.request_complete = Some(info.now);
        self.router.finish(info);
        self.filters.complete(info);
        self.hcm.finish(&record);
    }

    /// Ends the connection after this stream, and lets the client close it first.
    pub(super) fn close_early(&mut self) {
        self.close_connection = true;
        self.ended_early = true;
    }
}
