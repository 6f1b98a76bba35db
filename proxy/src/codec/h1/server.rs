//! A downstream HTTP/1 connection: one request at a time, in the order of their arrival.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::body::{Body, BodyEvent};
use super::encode::{
    BodyEncoding, ResponseContext, chunk, informational_head, response_head, says_close, trailers,
};
use super::lines::HeadSearch;
use super::message::{Framing, is_upgrade};
use super::reject::Reject;
use super::request;
use super::settings::Http1Settings;
use crate::codec::{Http1CodecStats, ProtocolError, RequestEvent, ServerStream, StreamReset};
use crate::http::{EndStream, Fields, Known, Method, Protocol, RequestHead, ResponseHead};
use crate::net::Input;
use crate::net::Io;
use crate::net::Output;
use crate::stream_info::BytesMeter;

/// Bytes of following requests that are read while one is answered.
const PIPELINED: usize = 16 * 1024;
/// Bytes that are read and dropped after the last response, so that the client sees it before a reset.
const DRAINED: usize = 8 * 1024 * 1024;
/// The longest end of a response that goes out together with the FIN: one record of TLS.
const HELD: usize = 16 * 1024;

/// A downstream HTTP/1 connection. It is the [`ServerStream`] of its current request.
///
/// The order of calls: [`Self::poll_head`], then the methods of the stream, then [`Self::finish_stream`] once the response
/// was handed over and flushed, and again. Nothing is read but by `poll_head` and `poll_event`.
pub struct ServerConnection {
    io: Io,
    settings: Rc<Http1Settings>,
    buffer_limit: usize,
    input: Input,
    output: Output,
    search: HeadSearch,
    request: RequestState,
    response: ResponseState,
    /// What of the request counts for its response.
    facts: Facts,
    /// The connection ends after this response.
    close: bool,
    shut_down: bool,
    drained: usize,
    meter: BytesMeter,
    stats: Option<Rc<Http1CodecStats>>,
}

/// Where the request stands.
#[derive(Debug)]
enum RequestState {
    /// No head yet.
    Head,
    /// The body comes.
    Body(Body),
    /// All was handed over; what the client does now is only watched.
    Complete,
    /// It broke off and that was said.
    Broken,
}

/// Where the response stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResponseState {
    Head,
    Body(BodyEncoding),
    Complete,
}

#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    http10: bool,
    head: bool,
    connect: bool,
    tunnel: bool,
    granted: bool,
    persistent: bool,
}

/// Why there is no next request.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "made once per refused connection and taken apart at once"
)]
pub enum HeadError {
    /// What came is no acceptable request: the answer to give, and the head as far as it could be read (Envoy never shows
    /// it, so it is none so far). The connection is now in a stream whose request has ended badly: the answer is sent on it,
    /// and `finish_stream` says that the connection closes.
    Protocol(ProtocolError, Option<RequestHead>),
    /// The client closed or lost the connection within a head.
    Closed,
}

/// What may become of the connection after a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another request may come.
    KeepAlive,
    /// The connection has to be closed.
    Close,
}

impl ServerConnection {
    /// A connection that has not sent anything yet. `buffer_limit`: bytes that may wait to be sent before `poll_ready` waits.
    pub fn new(io: Io, settings: Rc<Http1Settings>, buffer_limit: usize) -> Self {
        Self {
            io,
            settings,
            buffer_limit,
            input: Input::default(),
            output: Output::default(),
            search: HeadSearch::default(),
            request: RequestState::Head,
            response: ResponseState::Head,
            facts: Facts::default(),
            close: false,
            shut_down: false,
            drained: 0,
            meter: BytesMeter::default(),
            stats: None,
        }
    }

    /// Counts what is special to the codec in `stats`.
    pub fn with_stats(mut self, stats: Rc<Http1CodecStats>) -> Self {
        self.stats = Some(stats);
        self
    }

    /// The next request. None: the client closed the connection where it may.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<(RequestHead, EndStream)>, HeadError>> {
        loop {
            if self.search.is_fresh() {
                let newlines = self.input.bytes().iter();
                let newlines = newlines.take_while(|b| matches!(b, b'\r' | b'\n')).count();
                self.input.consume(newlines);
            }
            if !self.input.is_empty() {
                match request::parse(self.input.bytes(), &mut self.search, &self.settings) {
                    Ok(None) => {}
                    Ok(Some((request, length))) => {
                        return Poll::Ready(Ok(Some(self.begin(request, length))));
                    }
                    Err(reject) => {
                        if let (Reject::UnexpectedUnderscore, Some(stats)) = (&reject, &self.stats)
                        {
                            stats.requests_rejected_with_underscores_in_headers().inc();
                        }
                        self.begin_refused();
                        let error = HeadError::Protocol(reject.into(), None);
                        return Poll::Ready(Err(error));
                    }
                }
            }
            let read = ready!(self.input.poll_fill(&mut self.io, cx));
            if !matches!(read, Ok(1..)) {
                return Poll::Ready(if self.has_partial_head() {
                    Err(HeadError::Closed)
                } else {
                    Ok(None)
                });
            }
        }
    }

    /// Whether bytes of a next request have come, for `request_headers_timeout` and the idle timeout.
    pub fn has_partial_head(&self) -> bool {
        let is_newline = |b: &u8| matches!(b, b'\r' | b'\n');
        matches!(self.request, RequestState::Head) && !self.input.bytes().iter().all(is_newline)
    }

    /// Ends the current stream, after its response was handed over and flushed.
    pub fn finish_stream(&mut self) -> Next {
        let complete = matches!(self.request, RequestState::Complete)
            && self.response == ResponseState::Complete
            && !self.output.has_failed();
        if !complete || self.close || self.facts.tunnel {
            return Next::Close;
        }
        self.request = RequestState::Head;
        self.response = ResponseState::Head;
        self.search = HeadSearch::default();
        self.facts = Facts::default();
        self.meter = BytesMeter::default();
        self.input.end_message();
        Next::KeepAlive
    }

    /// Closes the connection after the current response, which says so with `connection: close`. Before `send_head`.
    pub fn close_after_response(&mut self) {
        self.close = true;
    }

    /// Sends what is queued, then waits for the client to close, as after an answer that came before the request had ended:
    /// the FIN comes only with `delayed_close_timeout`, by which the caller bounds the time.
    pub fn poll_wait_for_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = ready!(self.output.poll_write(&mut self.io, cx));
        self.poll_drain(cx)
    }

    /// Sends a FIN after what is queued, then reads (a bounded number of bytes) until the client closes as well.
    /// The caller bounds the time: `delayed_close_timeout`.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.shut_down {
            let _ = ready!(self.output.poll_write(&mut self.io, cx));
            let _ = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
            self.shut_down = true;
        }
        self.poll_drain(cx)
    }

    /// Reads, a bounded number of bytes, until the client closes.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.drained += self.input.bytes().len();
            let held = self.input.bytes().len();
            self.input.consume(held);
            if self.drained > DRAINED || self.output.has_failed() {
                return Poll::Ready(());
            }
            if !matches!(ready!(self.input.poll_fill(&mut self.io, cx)), Ok(1..)) {
                return Poll::Ready(());
            }
        }
    }

    /// Gives the buffers of a connection without work back to the worker. `poll_head` does so as well where it waits.
    pub fn give_back_buffers(&mut self) {
        self.input.give_back();
        self.output.give_back();
    }

    /// The connection below.
    pub fn io(&self) -> &Io {
        &self.io
    }

    fn begin(&mut self, request: request::Request, length: usize) -> (RequestHead, EndStream) {
        let request::Request {
            head,
            framing,
            persistent,
            header_bytes,
            dropped_underscores,
        } = request;
        if let (1.., Some(stats)) = (dropped_underscores, &self.stats) {
            let dropped = stats.dropped_headers_with_underscores();
            dropped.add(dropped_underscores.into());
        }
        self.input.consume(length);
        self.meter.header_received = header_bytes;
        self.meter.wire_received = length as u64;
        self.facts = Facts {
            http10: head.version == Protocol::Http10,
            head: head.method() == Method::Head,
            connect: head.method() == Method::Connect,
            tunnel: framing == Framing::Raw,
            granted: false,
            persistent,
        };
        self.close |= !persistent;
        self.request = match framing {
            Framing::None => RequestState::Complete,
            framing => RequestState::Body(Body::new(framing)),
        };
        let end = framing == Framing::None;
        (head, end.into())
    }

    fn begin_refused(&mut self) {
        self.meter.wire_received = self.input.bytes().len() as u64;
        self.request = RequestState::Broken;
        self.close = true;
    }

    /// Watches a client whose request is complete.
    fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<RequestEvent> {
        while self.input.bytes().len() < PIPELINED {
            if !matches!(ready!(self.input.poll_fill(&mut self.io, cx)), Ok(1..)) {
                return Poll::Ready(self.broken(StreamReset::ConnectionTermination));
            }
        }
        Poll::Pending
    }

    fn broken(&mut self, reason: StreamReset) -> RequestEvent {
        self.request = RequestState::Broken;
        self.close = true;
        RequestEvent::Reset(reason)
    }

    fn end_response(&mut self) {
        self.response = ResponseState::Complete;
    }
}

impl ServerStream for ServerConnection {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<RequestEvent> {
        if self.output.has_failed() && !matches!(self.request, RequestState::Broken) {
            return Poll::Ready(self.broken(StreamReset::ConnectionTermination));
        }
        loop {
            let body = match &mut self.request {
                RequestState::Head | RequestState::Broken => return Poll::Pending,
                RequestState::Complete => return self.poll_watch(cx),
                RequestState::Body(body) => body,
            };
            let options = &self.settings.options;
            let limits = super::body::Limits {
                max_trailer_bytes: self.settings.max_request_headers_kb as usize * 1024,
                max_trailers: self.settings.max_headers_count as usize,
                keep_trailers: options.enable_trailers,
            };
            match body.next(&mut self.input, limits, &mut self.meter) {
                Ok(BodyEvent::More) => {
                    if !matches!(ready!(self.input.poll_fill(&mut self.io, cx)), Ok(1..)) {
                        return Poll::Ready(self.broken(StreamReset::ConnectionTermination));
                    }
                }
                Ok(BodyEvent::Data(data, end)) => {
                    if end.is_end() {
                        self.request = RequestState::Complete;
                    }
                    return Poll::Ready(RequestEvent::Data(data, end));
                }
                Ok(BodyEvent::Trailers(trailers)) => {
                    self.request = RequestState::Complete;
                    return Poll::Ready(RequestEvent::Trailers(trailers));
                }
                Err(reject) => {
                    let error = StreamReset::ProtocolError(reject.into());
                    return Poll::Ready(self.broken(error));
                }
            }
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = self.output.poll_write(&mut self.io, cx);
        if self.output.len() <= self.buffer_limit {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn flush_with_close(&mut self) {
        let complete = matches!(self.request, RequestState::Complete)
            && self.response == ResponseState::Complete;
        if complete && self.close && !self.facts.tunnel && self.output.len() <= HELD {
            self.io.hold();
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = ready!(self.output.poll_write(&mut self.io, cx));
        Poll::Ready(())
    }

    fn send_informational(&mut self, head: &ResponseHead) {
        if self.response != ResponseState::Head || self.facts.http10 {
            return;
        }
        let before = self.output.len();
        let format = self.settings.options.header_key_format;
        self.meter.header_sent += informational_head(self.output.small(), head, format);
        self.meter.wire_sent += (self.output.len() - before) as u64;
    }

    fn send_head(&mut self, head: &ResponseHead, end: EndStream) {
        let facts = self.facts;
        let granted = facts.tunnel && facts.granted;
        // A response that does not wait for the end of its request ends the connection, as nobody reads the rest.
        let unread = !matches!(self.request, RequestState::Complete);
        let until_close = facts.http10
            && (!end.is_end() || facts.head)
            && !head.fields.contains(Known::ContentLength);
        self.close |= (unread && !granted) || until_close || says_close(head);
        let context = ResponseContext {
            http10: facts.http10,
            to_head: facts.head,
            tunnel: granted,
            close: self.close && !is_upgrade(&head.fields) && !(granted && facts.connect),
            keep_alive: facts.http10 && facts.persistent && !self.close,
            format: self.settings.options.header_key_format,
        };
        let before = self.output.len();
        let (body, counted) = response_head(self.output.small(), head, end, context);
        self.meter.header_sent += counted;
        self.meter.wire_sent += (self.output.len() - before) as u64;
        self.response = ResponseState::Body(body);
        if end.is_end() {
            self.end_response();
        }
    }

    fn send_data(&mut self, data: Bytes, end: EndStream) {
        let ResponseState::Body(encoding) = self.response else {
            return;
        };
        let before = self.output.len();
        match encoding {
            BodyEncoding::None => {}
            BodyEncoding::Raw => self.output.push(data),
            BodyEncoding::Length(remaining) => {
                let room = usize::try_from(remaining).unwrap_or(usize::MAX);
                let data = if data.len() > room {
                    self.close = true;
                    data.slice(..room)
                } else {
                    data
                };
                let remaining = remaining - data.len() as u64;
                self.response = ResponseState::Body(BodyEncoding::Length(remaining));
                self.close |= end.is_end() && remaining > 0;
                self.output.push(data);
            }
            BodyEncoding::Chunked => chunk(&mut self.output, data, end),
        }
        self.meter.wire_sent += (self.output.len() - before) as u64;
        if end.is_end() {
            self.end_response();
        }
    }

    fn send_trailers(&mut self, fields: &Fields) {
        let ResponseState::Body(encoding) = self.response else {
            return;
        };
        if encoding == BodyEncoding::Chunked && self.settings.options.enable_trailers {
            let before = self.output.len();
            self.meter.header_sent += trailers(self.output.small(), fields);
            self.meter.wire_sent += (self.output.len() - before) as u64;
            self.end_response();
        } else {
            self.send_data(Bytes::new(), EndStream::Yes);
        }
    }

    fn reset(&mut self, _reason: StreamReset) {
        self.request = RequestState::Broken;
        self.close = true;
    }

    fn upgrade(&mut self) {
        self.facts.granted = true;
    }

    fn bytes(&self) -> BytesMeter {
        self.meter
    }
}
