//! A TCP connection in the place of an HTTP stream: what a CONNECT that ends at the proxy goes to.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::super::cluster_handle::ClusterHandle;
use super::super::host::HostHandle;
use super::connection::UpstreamConnectionInfo;
use super::stream::ClientStream;
use super::tcp::{TcpUpstream, connect_tcp};
use super::{PoolError, ResetReason, ResponseEvent};
use crate::http::{EndStream, Fields, RequestHead, ResponseHead};
use crate::net::{Input, Output};
use crate::stream_info::BytesMeter;
use crate::transport_sockets::UpstreamSocketOptions;

/// A TCP connection that takes the body of a request as it is, and gives what comes back as the body of a 200.
pub struct RawStream {
    upstream: TcpUpstream,
    buffer_limit: usize,
    input: Input,
    output: Output,
    request: RequestState,
    response: ResponseState,
    meter: BytesMeter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestState {
    Open,
    /// The end is to be passed on behind what waits to be written.
    Ending,
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResponseState {
    /// No request yet.
    None,
    Head,
    Body,
    Ended,
}

/// Connects to the host.
pub(super) fn connect_raw(
    cluster: &Rc<ClusterHandle>,
    host: &Rc<HostHandle>,
    options: Option<Rc<UpstreamSocketOptions>>,
) -> impl Future<Output = Result<ClientStream, PoolError>> + 'static {
    let limit = cluster.info.settings.per_connection_buffer_limit_bytes;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let connecting = connect_tcp(cluster, host, options);
    async move {
        let upstream = connecting.await?;
        Ok(ClientStream::Raw(Box::new(RawStream::new(upstream, limit))))
    }
}

impl RawStream {
    fn new(upstream: TcpUpstream, buffer_limit: usize) -> Self {
        Self {
            upstream,
            buffer_limit,
            input: Input::default(),
            output: Output::default(),
            request: RequestState::Open,
            response: ResponseState::None,
            meter: BytesMeter::default(),
        }
    }

    /// Begins the request. Nothing is sent: the connection itself is the answer.
    pub(super) fn send_head(&mut self, _head: &RequestHead, end: EndStream) {
        self.response = ResponseState::Head;
        if end.is_end() {
            self.request = RequestState::Ending;
        }
    }

    /// Sends bytes.
    pub(super) fn send_data(&mut self, data: Bytes, end: EndStream) {
        if self.request != RequestState::Open {
            return;
        }
        self.meter.wire_sent += data.len() as u64;
        self.output.push(data);
        if end.is_end() {
            self.request = RequestState::Ending;
        }
    }

    /// Ends the request: TCP knows no trailers.
    pub(super) fn send_trailers(&mut self, _trailers: &Fields) {
        self.send_data(Bytes::new(), EndStream::Yes);
    }

    /// Writes what is queued, and is ready when less than the buffer limit remains.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = self.poll_flush(cx);
        if self.output.len() <= self.buffer_limit {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Bytes that could not be sent yet.
    pub(super) fn held(&self) -> usize {
        self.output.len()
    }

    /// Writes what is queued and passes the end on, and is ready when nothing remains.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = ready!(self.output.poll_write(&mut self.upstream.io, cx));
        if self.request == RequestState::Ending {
            let _ = ready!(Pin::new(&mut self.upstream.io).poll_shutdown(cx));
            self.request = RequestState::Ended;
        }
        Poll::Ready(())
    }

    /// The next event of the response: a head at once, then what the peer sends, up to its end.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<ResponseEvent> {
        match self.response {
            ResponseState::None | ResponseState::Ended => return Poll::Pending,
            ResponseState::Head => {
                self.response = ResponseState::Body;
                let head = ResponseHead::new(200);
                return Poll::Ready(ResponseEvent::Head(head, EndStream::No));
            }
            ResponseState::Body => {}
        }
        if self.output.has_failed() {
            return Poll::Ready(self.broken());
        }
        Poll::Ready(
            match ready!(self.input.poll_fill(&mut self.upstream.io, cx)) {
                Ok(0) => {
                    self.response = ResponseState::Ended;
                    self.upstream.guard.closed_by_peer();
                    ResponseEvent::Data(Bytes::new(), EndStream::Yes)
                }
                Ok(count) => {
                    self.meter.wire_received += count as u64;
                    let held = self.input.bytes().len();
                    ResponseEvent::Data(self.input.take(held), EndStream::No)
                }
                Err(_) => self.broken(),
            },
        )
    }

    /// Breaks the connection off.
    pub(super) fn reset(&mut self) {
        self.response = ResponseState::Ended;
        self.request = RequestState::Ended;
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> BytesMeter {
        self.meter
    }

    /// The connection.
    pub(super) fn info(&self) -> &Rc<UpstreamConnectionInfo> {
        &self.upstream.info
    }

    fn broken(&mut self) -> ResponseEvent {
        self.response = ResponseState::Ended;
        self.upstream.guard.closed_by_peer();
        ResponseEvent::Reset(ResetReason::ConnectionTermination)
    }
}

impl Drop for RawStream {
    fn drop(&mut self) {
        let meter = self.meter;
        let guard = &self.upstream.guard;
        guard.count_bytes(meter.wire_received, meter.wire_sent);
    }
}

impl std::fmt::Debug for RawStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawStream").finish_non_exhaustive()
    }
}
