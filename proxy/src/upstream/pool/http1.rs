//! An upstream HTTP/1 connection.
//!
//! Deviations: a close-delimited body that ends with a reset of the connection is a broken response; Envoy takes it as whole.
//! Deviations: a write that fails does not end the response: what the upstream has sent before it closed is still read.

use std::borrow::Cow;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::{ResetReason, ResponseEvent};
use crate::codec::h1::{
    Body, BodyEncoding, BodyEvent, BodyLimits, ClientHttp1Settings, Framing, HeadSearch, Reject,
    RequestContext, Response, ResponseTo, chunk, is_upgrade, parse_response_head, request_head,
    trailers,
};
use crate::http::{EndStream, Fields, Known, Method, RequestHead};
use crate::net::{Input, Io, Output};
use crate::stream_info::BytesMeter;

/// An upstream HTTP/1 connection, driven inline by the stream that holds it.
///
/// The order of calls: `send_head`, the other `send_*` and `poll_event` until the response has ended; then, if
/// [`Self::is_reusable`], [`Self::poll_idle`] while it waits in its pool, and again.
pub struct ClientConnection {
    io: Io,
    settings: Rc<ClientHttp1Settings>,
    buffer_limit: usize,
    input: Input,
    output: Output,
    search: HeadSearch,
    request: RequestState,
    response: ResponseState,
    to: ResponseTo,
    /// A request went wrong, or one of the sides asked for the end: no other may follow.
    close: bool,
    meter: BytesMeter,
}

/// Where the request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestState {
    None,
    Body(BodyEncoding),
    Complete,
}

/// Where the response stands.
#[derive(Debug)]
enum ResponseState {
    None,
    Head,
    Body(Body, Framing),
    Complete,
    Broken,
}

impl ClientConnection {
    /// A connection that has carried no request yet. `buffer_limit`: `per_connection_buffer_limit_bytes`, the bytes that
    /// may wait to be sent before `poll_ready` waits.
    pub fn new(io: Io, settings: Rc<ClientHttp1Settings>, buffer_limit: usize) -> Self {
        Self {
            io,
            settings,
            buffer_limit,
            input: Input::default(),
            output: Output::default(),
            search: HeadSearch::default(),
            request: RequestState::None,
            response: ResponseState::None,
            to: ResponseTo::default(),
            close: false,
            meter: BytesMeter::default(),
        }
    }

    /// Begins a request. Fields that frame the message are the codec's own affair. A `connection: close` in the head counts.
    pub fn send_head(&mut self, head: &RequestHead, end: EndStream) {
        let connect = head.method() == Method::Connect;
        let upgrade = head.fields.contains(Known::Upgrade) && is_upgrade(&head.fields);
        self.to = ResponseTo {
            head: head.method() == Method::Head,
            connect,
            upgrade,
        };
        self.search = HeadSearch::default();
        self.meter = BytesMeter::default();
        self.response = ResponseState::Head;
        if let Some(connection) = head.fields.get(Known::Connection) {
            self.close |= connection
                .split(|b| *b == b',')
                .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"));
        }
        let options = &self.settings.options;
        let before = self.output.len();
        let (body, counted) = request_head(
            self.output.small(),
            head,
            end,
            RequestContext {
                tunnel: connect || upgrade,
                fully_qualified: options.send_fully_qualified_url,
                format: options.header_key_format,
            },
        );
        self.meter.header_sent = counted;
        self.meter.wire_sent = (self.output.len() - before) as u64;
        self.request = if end.is_end() {
            RequestState::Complete
        } else {
            RequestState::Body(body)
        };
    }

    /// Sends a piece of the body.
    pub fn send_data(&mut self, data: Bytes, end: EndStream) {
        let RequestState::Body(encoding) = self.request else {
            return;
        };
        let before = self.output.len();
        match encoding {
            BodyEncoding::None => {}
            BodyEncoding::Raw => self.output.push(data),
            BodyEncoding::Length(remaining) => {
                let room = usize::try_from(remaining).unwrap_or(usize::MAX);
                let fits = data.len() <= room;
                let data = if fits { data } else { data.slice(..room) };
                let remaining = remaining - data.len() as u64;
                self.close |= !fits || (end.is_end() && remaining > 0);
                self.request = RequestState::Body(BodyEncoding::Length(remaining));
                self.output.push(data);
            }
            BodyEncoding::Chunked => chunk(&mut self.output, data, end),
        }
        self.meter.wire_sent += (self.output.len() - before) as u64;
        if end.is_end() {
            self.request = RequestState::Complete;
        }
    }

    /// Sends the trailers, where they are enabled and the body is chunked, and ends the request.
    pub fn send_trailers(&mut self, fields: &Fields) {
        if self.request == RequestState::Body(BodyEncoding::Chunked)
            && self.settings.options.enable_trailers
        {
            let before = self.output.len();
            self.meter.header_sent += trailers(self.output.small(), fields);
            self.meter.wire_sent += (self.output.len() - before) as u64;
            self.request = RequestState::Complete;
        } else {
            self.send_data(Bytes::new(), EndStream::Yes);
        }
    }

    /// Writes what is queued, and is ready when less than the buffer limit remains.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = self.output.poll_write(&mut self.io, cx);
        if self.output.len() <= self.buffer_limit {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Bytes that could not be sent yet.
    pub fn held(&self) -> usize {
        self.output.len()
    }

    /// Writes what is queued, and is ready when nothing remains.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = ready!(self.output.poll_write(&mut self.io, cx));
        Poll::Ready(())
    }

    /// The next event of the response. While the caller does not ask, nothing is read. After the end it stays pending.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<ResponseEvent> {
        loop {
            let step = match &self.response {
                ResponseState::None | ResponseState::Complete | ResponseState::Broken => {
                    return Poll::Pending;
                }
                ResponseState::Head => self.next_head(),
                ResponseState::Body(..) => self.next_body(),
            };
            match step {
                Ok(Some(event)) => return Poll::Ready(event),
                Ok(None) => {}
                Err(reject) => {
                    return Poll::Ready(
                        self.broken(ResetReason::ProtocolError(Cow::Borrowed(reject.details()))),
                    );
                }
            }
            match ready!(self.input.poll_fill(&mut self.io, cx)) {
                Ok(1..) => {}
                Ok(_) => return Poll::Ready(self.ended(false)),
                Err(_) => return Poll::Ready(self.ended(true)),
            }
        }
    }

    /// Says that this request asks for an upgrade or a tunnel that was accepted (101, or 2xx to CONNECT): from now on both
    /// directions carry raw bytes. The codec finds this by itself from the response; calling it is allowed, not needed.
    pub fn upgrade(&mut self) {
        if let RequestState::Body(encoding) = &mut self.request {
            *encoding = BodyEncoding::Raw;
        }
    }

    /// Whether both directions ended as they should, so that another request may follow.
    pub fn is_reusable(&self) -> bool {
        matches!(self.response, ResponseState::None | ResponseState::Complete)
            && matches!(self.request, RequestState::None | RequestState::Complete)
            && !self.close
            && !self.output.has_failed()
            && self.output.len() == 0
            && self.input.is_empty()
            && !self.input.is_eof()
    }

    /// Ready when an idle connection can no longer be used: the peer closed it, or sent what nobody asked for.
    pub fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_reusable() {
            return Poll::Ready(());
        }
        let _ = ready!(self.input.poll_fill(&mut self.io, cx));
        self.close = true;
        Poll::Ready(())
    }

    /// Sends a FIN after what is queued: the end of a tunnel's upstream direction, or of the connection.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = ready!(self.output.poll_write(&mut self.io, cx));
        self.close = true;
        let _ = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
        Poll::Ready(())
    }

    /// Gives the buffers of an idle connection back to the worker.
    pub fn give_back_buffers(&mut self) {
        self.input.give_back();
        self.output.give_back();
    }

    /// The connection below.
    pub fn io(&self) -> &Io {
        &self.io
    }

    /// Bytes of the current stream so far.
    pub fn bytes(&self) -> BytesMeter {
        self.meter
    }

    fn next_head(&mut self) -> Result<Option<ResponseEvent>, Reject> {
        let parsed = parse_response_head(
            self.input.bytes(),
            &mut self.search,
            self.to,
            &self.settings,
        )?;
        let Some((response, length)) = parsed else {
            return Ok(None);
        };
        let Response {
            head,
            framing,
            persistent,
            header_bytes,
        } = response;
        self.input.consume(length);
        self.search = HeadSearch::default();
        self.meter.header_received += header_bytes;
        self.meter.wire_received += length as u64;
        if head.is_informational() {
            return Ok(Some(ResponseEvent::Informational(head)));
        }
        self.close |= !persistent || matches!(framing, Framing::UntilClose | Framing::Raw);
        if framing == Framing::Raw {
            self.upgrade();
        }
        let end = framing == Framing::None;
        if end {
            self.complete();
        } else {
            self.response = ResponseState::Body(Body::new(framing), framing);
        }
        Ok(Some(ResponseEvent::Head(head, end.into())))
    }

    fn next_body(&mut self) -> Result<Option<ResponseEvent>, Reject> {
        let ResponseState::Body(body, _) = &mut self.response else {
            return Ok(None);
        };
        let limits = BodyLimits {
            max_trailer_bytes: self.settings.max_response_headers_kb as usize * 1024,
            max_trailers: self.settings.max_headers_count as usize,
            keep_trailers: self.settings.options.enable_trailers,
        };
        Ok(match body.next(&mut self.input, limits, &mut self.meter)? {
            BodyEvent::More => None,
            BodyEvent::Data(data, end) => {
                if end.is_end() {
                    self.complete();
                }
                Some(ResponseEvent::Data(data, end))
            }
            BodyEvent::Trailers(trailers) => {
                self.complete();
                Some(ResponseEvent::Trailers(trailers))
            }
        })
    }

    fn complete(&mut self) {
        self.response = ResponseState::Complete;
        self.input.end_message();
        // Bytes behind a response belong to nothing.
        self.close |= !self.input.is_empty();
    }

    /// The peer sends no more.
    fn ended(&mut self, lost: bool) -> ResponseEvent {
        match &self.response {
            // A tunnel ends as a whole, as in Envoy.
            ResponseState::Body(_, Framing::UntilClose) if !lost => {
                self.complete();
                ResponseEvent::Data(Bytes::new(), EndStream::Yes)
            }
            ResponseState::Body(_, Framing::UntilClose | Framing::Raw) => {
                self.broken(ResetReason::ConnectionTermination)
            }
            ResponseState::Head if self.input.is_empty() => {
                self.broken(ResetReason::ConnectionTermination)
            }
            _ => self.broken(ResetReason::ProtocolError(Cow::Borrowed(
                Reject::CodecError.details(),
            ))),
        }
    }

    fn broken(&mut self, reason: ResetReason) -> ResponseEvent {
        self.response = ResponseState::Broken;
        self.close = true;
        ResponseEvent::Reset(reason)
    }
}

#[cfg(test)]
#[path = "http1_tests.rs"]
mod tests;
