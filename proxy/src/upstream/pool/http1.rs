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
use crate::http::{EndStream, Fields, Known, Method, RequestHead};
use crate::http_connection_manager::codec::h1::{
    Body, BodyEncoding, BodyEvent, BodyLimits, ClientHttp1Settings, Framing, HeadSearch, Input,
    LAST_CHUNK, Output, Reject, RequestContext, Response, ResponseTo, chunk_start, is_upgrade,
    parse_response_head, request_head, trailers,
};
use crate::net::Io;
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
            BodyEncoding::Chunked => {
                if !data.is_empty() {
                    chunk_start(self.output.small(), data.len());
                    self.output.push(data);
                    self.output.small().extend_from_slice(b"\r\n");
                }
                if end.is_end() {
                    self.output.small().extend_from_slice(LAST_CHUNK);
                }
            }
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
            // A tunnel of CONNECT may be half closed; one of an upgrade ends as a whole, as in Envoy.
            ResponseState::Body(_, framing @ (Framing::UntilClose | Framing::Raw))
                if !lost && (*framing == Framing::UntilClose || self.to.connect) =>
            {
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
mod tests {
    use super::*;
    use crate::http::{Protocol, ResponseHead};
    use crate::http_connection_manager::codec::h1::{Next, ServerConnection};
    use crate::http_connection_manager::codec::{RequestEvent, ServerStream};
    use proptest::prelude::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    fn client(settings: ClientHttp1Settings) -> (ClientConnection, DuplexStream) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let client = ClientConnection::new(Io::from(near), Rc::new(settings), 1 << 20);
        (client, far)
    }

    fn request(method: &str, fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::new(Protocol::Http11, method.as_bytes());
        head.set_path(b"/x");
        head.set_authority(b"a");
        for (name, value) in fields {
            head.fields.append(*name, *value);
        }
        head
    }

    async fn sent(client: &mut ClientConnection, far: &mut DuplexStream) -> String {
        poll_fn(|cx| client.poll_flush(cx)).await;
        let mut got = vec![0; 4096];
        let n = far.read(&mut got).await.unwrap();
        String::from_utf8_lossy(&got[..n]).replace("\r\n", "|")
    }

    /// The whole response to a request, as text: `200 [a: b] abc END`.
    async fn response(client: &mut ClientConnection) -> String {
        let mut text = String::new();
        let ended = |text: &mut String, end: EndStream| {
            if end.is_end() {
                text.push_str(" END");
            }
            end.is_end()
        };
        loop {
            let done = match poll_fn(|cx| client.poll_event(cx)).await {
                ResponseEvent::Informational(head) => {
                    text.push_str(&format!("{} ", head.status));
                    false
                }
                ResponseEvent::Head(head, end) => {
                    text.push_str(&head.status.to_string());
                    for (name, value) in head.fields.iter() {
                        let text_of = |b| String::from_utf8_lossy(b).into_owned();
                        text.push_str(&format!(" [{}: {}]", text_of(name), text_of(value)));
                    }
                    ended(&mut text, end)
                }
                ResponseEvent::Data(data, end) => {
                    text.push_str(&format!(" {}", String::from_utf8_lossy(&data)));
                    ended(&mut text, end)
                }
                ResponseEvent::Trailers(trailers) => {
                    text.push_str(&format!(" {trailers:?} END"));
                    true
                }
                ResponseEvent::Reset(reason) => {
                    text.push_str(&format!(" {reason:?}"));
                    true
                }
            };
            if done {
                return text;
            }
        }
    }

    #[tokio::test]
    async fn requests_are_framed_as_envoy_frames_them() {
        for (method, fields, body, wanted) in [
            ("GET", &[][..], None, "GET /x HTTP/1.1|host: a||"),
            (
                "POST",
                &[],
                None,
                "POST /x HTTP/1.1|host: a|content-length: 0||",
            ),
            (
                "POST",
                &[("content-length", "3")],
                Some("abc"),
                "POST /x HTTP/1.1|host: a|content-length: 3||abc",
            ),
            (
                "POST",
                &[],
                Some("abc"),
                "POST /x HTTP/1.1|host: a|transfer-encoding: chunked||3|abc|0||",
            ),
            (
                "GET",
                &[("connection", "upgrade"), ("upgrade", "w")],
                Some("raw"),
                "GET /x HTTP/1.1|host: a|connection: upgrade|upgrade: w||raw",
            ),
            (
                "CONNECT",
                &[],
                Some("raw"),
                "CONNECT a HTTP/1.1|host: a||raw",
            ),
        ] {
            let (mut client, mut far) = client(ClientHttp1Settings::default());
            client.send_head(&request(method, fields), body.is_none().into());
            if let Some(body) = body {
                client.send_data(Bytes::from_static(body.as_bytes()), EndStream::Yes);
            }
            assert_eq!(sent(&mut client, &mut far).await, wanted);
        }
        let mut settings = ClientHttp1Settings::default();
        settings.options.send_fully_qualified_url = true;
        let (mut client, mut far) = client(settings);
        client.send_head(&request("GET", &[]), EndStream::Yes);
        let got = sent(&mut client, &mut far).await;
        assert_eq!(got, "GET http://a/x HTTP/1.1|host: a||");
    }

    #[tokio::test]
    #[allow(
        clippy::too_many_lines,
        reason = "one table of what Envoy was seen to do"
    )]
    async fn responses_come_out_as_envoy_reads_them() {
        const OK: &str = "HTTP/1.1 200 OK\r\n";
        let chunked = |body: &str| format!("{OK}transfer-encoding: chunked\r\n\r\n{body}");
        let broken = "ProtocolError(\"http1.codec_error\")";
        let refused = |details: &str| format!(" ProtocolError(\"{details}\")");
        // method, what the upstream sends, whether it closes then, what comes out, whether the connection may be used again
        let cases = vec![
            (
                "GET",
                format!("{OK}content-length: 3\r\n\r\nabc"),
                false,
                "200 [content-length: 3] abc END".to_owned(),
                true,
            ),
            (
                "GET",
                format!("{OK}content-length: 2\r\n\r\nabc"),
                false,
                "200 [content-length: 2] ab END".to_owned(),
                false,
            ),
            (
                "GET",
                format!("{OK}\r\nabc"),
                true,
                "200 abc  END".to_owned(),
                false,
            ),
            (
                "GET",
                format!("{OK}content-length: 5\r\n\r\nabc"),
                true,
                format!("200 [content-length: 5] abc {broken}"),
                false,
            ),
            (
                "GET",
                chunked("3\r\nabc\r\n0\r\n\r\n"),
                false,
                "200 [transfer-encoding: chunked] abc END".to_owned(),
                true,
            ),
            (
                "GET",
                chunked("3\r\nab"),
                true,
                format!("200 [transfer-encoding: chunked] ab {broken}"),
                false,
            ),
            (
                "GET",
                chunked("zz\r\nab"),
                false,
                format!("200 [transfer-encoding: chunked] {broken}"),
                false,
            ),
            (
                "GET",
                format!("{OK}transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n"),
                false,
                refused("http1.content_length_and_chunked_not_allowed"),
                false,
            ),
            (
                "GET",
                format!("{OK}transfer-encoding: gzip\r\n\r\n"),
                false,
                refused("http1.invalid_transfer_encoding"),
                false,
            ),
            ("GET", "X".to_owned(), false, format!(" {broken}"), false),
            (
                "GET",
                String::new(),
                true,
                " ConnectionTermination".to_owned(),
                false,
            ),
            (
                "GET",
                format!("{OK}foo: ba"),
                true,
                format!(" {broken}"),
                false,
            ),
            (
                "GET",
                "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(),
                false,
                "200 [content-length: 0] END".to_owned(),
                false,
            ),
            (
                "GET",
                "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n".to_owned(),
                false,
                "200 [connection: keep-alive] [content-length: 0] END".to_owned(),
                true,
            ),
            (
                "GET",
                format!("{OK}connection: close\r\ncontent-length: 0\r\n\r\n"),
                false,
                "200 [connection: close] [content-length: 0] END".to_owned(),
                false,
            ),
            (
                "GET",
                "HTTP/2 200 OK\r\n\r\n".to_owned(),
                false,
                format!(" {broken}"),
                false,
            ),
            (
                "GET",
                "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n".to_owned(),
                false,
                "200 [content-length: 0] END".to_owned(),
                true,
            ),
            (
                "GET",
                "HTTP/1.1  200  OK\r\ncontent-length: 0\r\n\r\n".to_owned(),
                false,
                "200 [content-length: 0] END".to_owned(),
                true,
            ),
            (
                "GET",
                "HTTP/1.1 20 OK\r\n\r\n".to_owned(),
                false,
                format!(" {broken}"),
                false,
            ),
            (
                "GET",
                format!("\r\n{OK}\r\n"),
                false,
                format!(" {broken}"),
                false,
            ),
            (
                "GET",
                "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n".to_owned(),
                false,
                "204 END".to_owned(),
                true,
            ),
            (
                "GET",
                "HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\n".to_owned(),
                false,
                refused("http1.content_length_not_allowed"),
                false,
            ),
            (
                "GET",
                "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
                false,
                refused("http1.transfer_encoding_not_allowed"),
                false,
            ),
            (
                "GET",
                "HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n".to_owned(),
                false,
                "304 [content-length: 3] END".to_owned(),
                true,
            ),
            (
                "HEAD",
                format!("{OK}content-length: 3\r\n\r\n"),
                false,
                "200 [content-length: 3] END".to_owned(),
                true,
            ),
            (
                "GET",
                format!(
                    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n{OK}content-length: 0\r\n\r\n"
                ),
                false,
                "100 103 200 [content-length: 0] END".to_owned(),
                true,
            ),
            (
                "GET",
                format!("{OK}content-length: 3\r\ncontent-length: 3\r\n\r\nabc"),
                false,
                format!(" {broken}"),
                false,
            ),
            (
                "GET",
                format!("{OK}f o: x\r\n\r\n"),
                false,
                format!(" {broken}"),
                false,
            ),
            (
                "GET",
                format!("{OK}foo: \x01\r\n\r\n"),
                false,
                refused("http1.invalid_characters"),
                false,
            ),
            (
                "GET",
                format!(
                    "{OK}via: x\r\nset-cookie: 1\r\nvia: y\r\nset-cookie: 2\r\ncontent-length: 0\r\n\r\n"
                ),
                false,
                "200 [via: x,y] [set-cookie: 1] [set-cookie: 2] [content-length: 0] END".to_owned(),
                true,
            ),
        ];
        for (method, wire, close, wanted, reusable) in cases {
            let (mut client, mut far) = client(ClientHttp1Settings::default());
            client.send_head(&request(method, &[]), EndStream::Yes);
            sent(&mut client, &mut far).await;
            far.write_all(wire.as_bytes()).await.unwrap();
            if close {
                far.shutdown().await.unwrap();
            }
            assert_eq!(response(&mut client).await, wanted, "{wire:?}");
            assert_eq!(client.is_reusable(), reusable, "{wire:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_serves_one_request_after_another() {
        let (mut client, mut far) = client(ClientHttp1Settings::default());
        for _ in 0..3 {
            client.send_head(&request("GET", &[]), EndStream::Yes);
            assert!(!client.is_reusable());
            sent(&mut client, &mut far).await;
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .await
                .unwrap();
            response(&mut client).await;
            assert!(client.is_reusable());
            poll_fn(|cx| {
                assert!(client.poll_idle(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            client.give_back_buffers();
        }
        drop(far);
        poll_fn(|cx| client.poll_idle(cx)).await;
        assert!(!client.is_reusable());
    }

    #[tokio::test]
    async fn a_response_before_the_end_of_the_request_is_passed_on() {
        let (mut client, mut far) = client(ClientHttp1Settings::default());
        client.send_head(&request("POST", &[("content-length", "6")]), EndStream::No);
        client.send_data(Bytes::from_static(b"abc"), EndStream::No);
        sent(&mut client, &mut far).await;
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        response(&mut client).await;
        assert!(!client.is_reusable());
        client.send_data(Bytes::from_static(b"def"), EndStream::Yes);
        sent(&mut client, &mut far).await;
        assert!(client.is_reusable());
    }

    #[tokio::test]
    async fn a_tunnel_of_connect_may_be_half_closed_and_one_of_an_upgrade_not() {
        for (method, fields, status, wanted) in [
            ("CONNECT", &[][..], "200 OK", "200 raw  END"),
            (
                "GET",
                &[("connection", "upgrade"), ("upgrade", "w")],
                "101 Switching Protocols",
                "101 raw ConnectionTermination",
            ),
        ] {
            let (mut client, mut far) = client(ClientHttp1Settings::default());
            client.send_head(&request(method, fields), EndStream::No);
            sent(&mut client, &mut far).await;
            let wire = format!("HTTP/1.1 {status}\r\n\r\nraw");
            far.write_all(wire.as_bytes()).await.unwrap();
            far.shutdown().await.unwrap();
            assert_eq!(response(&mut client).await, wanted);
            assert!(!client.is_reusable());
        }
    }

    /// Sends one request over a pipe of our own server and client; gives both bodies as the other end got them.
    async fn exchange(
        server: &mut ServerConnection,
        client: &mut ClientConnection,
        request_body: &[Vec<u8>],
        response_body: &[Vec<u8>],
        with_length: bool,
    ) -> (Vec<u8>, Vec<u8>) {
        let length = |pieces: &[Vec<u8>]| pieces.iter().map(Vec::len).sum::<usize>().to_string();
        let asking = async {
            let mut head = request("POST", &[]);
            if with_length {
                head.fields
                    .append(Known::ContentLength, length(request_body));
            }
            client.send_head(&head, EndStream::No);
            for piece in request_body {
                client.send_data(Bytes::from(piece.clone()), EndStream::No);
                poll_fn(|cx| client.poll_ready(cx)).await;
            }
            client.send_data(Bytes::new(), EndStream::Yes);
            poll_fn(|cx| client.poll_flush(cx)).await;
            let mut got = Vec::new();
            loop {
                match poll_fn(|cx| client.poll_event(cx)).await {
                    ResponseEvent::Head(head, end) => {
                        assert_eq!(head.status, 200);
                        if end.is_end() {
                            break got;
                        }
                    }
                    ResponseEvent::Data(data, end) => {
                        got.extend_from_slice(&data);
                        if end.is_end() {
                            break got;
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
        };
        let answering = async {
            let (_, end) = poll_fn(|cx| server.poll_head(cx)).await.unwrap().unwrap();
            let mut got = Vec::new();
            let mut end = end.is_end();
            while !end {
                match poll_fn(|cx| server.poll_event(cx)).await {
                    RequestEvent::Data(data, last) => {
                        got.extend_from_slice(&data);
                        end = last.is_end();
                    }
                    other => panic!("{other:?}"),
                }
            }
            let mut head = ResponseHead::new(200);
            if with_length {
                head.fields
                    .append(Known::ContentLength, length(response_body));
            }
            server.send_head(&head, EndStream::No);
            for piece in response_body {
                server.send_data(Bytes::from(piece.clone()), EndStream::No);
                poll_fn(|cx| server.poll_ready(cx)).await;
            }
            server.send_data(Bytes::new(), EndStream::Yes);
            poll_fn(|cx| server.poll_flush(cx)).await;
            assert_eq!(server.finish_stream(), Next::KeepAlive);
            got
        };
        let (response, request) = tokio::join!(asking, answering);
        (request, response)
    }

    fn body() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let piece = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..20),
            (0usize..40_000, any::<u8>()).prop_map(|(size, byte)| vec![byte; size]),
        ];
        proptest::collection::vec(piece, 0..5)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn bodies_pass_between_our_two_ends_whatever_the_pipe_takes(
            messages in proptest::collection::vec((body(), body(), any::<bool>()), 1..4),
            pipe in 1usize..70_000,
            limit in 1usize..100_000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (near, far) = tokio::io::duplex(pipe);
                let mut server = ServerConnection::new(Io::from(far), Rc::default(), limit);
                let mut client = ClientConnection::new(Io::from(near), Rc::default(), limit);
                for (request, response, with_length) in &messages {
                    let got =
                        exchange(&mut server, &mut client, request, response, *with_length).await;
                    assert!(got == (request.concat(), response.concat()));
                    assert!(client.is_reusable());
                }
            });
        }
    }

    #[tokio::test]
    async fn trailers_pass_where_they_are_enabled() {
        let mut settings = ClientHttp1Settings::default();
        settings.options.enable_trailers = true;
        let (mut client, mut far) = client(settings);
        client.send_head(&request("POST", &[]), EndStream::No);
        let mut trailers = Fields::new();
        trailers.append("foo", "bar");
        client.send_trailers(&trailers);
        assert_eq!(
            sent(&mut client, &mut far).await,
            "POST /x HTTP/1.1|host: a|transfer-encoding: chunked||0|foo: bar||"
        );
        far.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(
            response(&mut client).await,
            "200 [transfer-encoding: chunked] {\"a\": \"b\"} END"
        );
        assert!(client.is_reusable());
    }
}
