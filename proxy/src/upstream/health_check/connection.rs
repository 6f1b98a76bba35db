//! The connection that a host is checked over.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Inner;
use super::redis::RedisLink;
use crate::http::{EndStream, RequestHead};
use crate::net::{Address, Io};
use crate::stream_info::DynamicMetadata;
use crate::transport_sockets::{UpstreamConnected, UpstreamSocketOptions, UpstreamSocketRequest};
use crate::upstream::host::Host;
use crate::upstream::pool::{ConnectError, Connected, ResponseEvent, http1, http2};

/// What is left of the last check for the next one.
#[derive(Default)]
pub(super) enum Link {
    /// Nothing: the next check connects.
    #[default]
    None,
    Http1(Box<http1::ClientConnection>),
    Http2(http2::ClientConnection),
    Tcp(Box<TcpLink>),
    Redis(Box<RedisLink>),
}

/// A connection without a protocol.
pub(super) struct TcpLink {
    io: Io,
    pub(super) local: Option<Address>,
    pub(super) remote: Option<Address>,
    /// What has come and was not what was waited for.
    pub(super) received: BytesMut,
}

/// A request on a connection of either protocol.
pub(super) enum Exchange<'a> {
    Http1(&'a mut http1::ClientConnection),
    Http2(Box<http2::ClientStream>),
}

/// More than that is not kept of what a host sends.
const MOST_BYTES: usize = 1024 * 1024;

impl Inner {
    /// Connects to where `host` is checked. The caller limits the time.
    pub(super) fn connect(
        &self,
        host: &Host,
    ) -> impl Future<Output = Result<Connected, ConnectError>> + 'static + use<> {
        let target = Host::new(host.health_check_address().clone(), 0);
        let metadata = self.config.transport_socket_match.as_ref();
        let options = UpstreamSocketOptions {
            alpn: self.config.alpn.clone(),
            ..UpstreamSocketOptions::default()
        };
        self.connect_to(&target, metadata.unwrap_or(&host.metadata), options, host)
    }

    /// Connects to where the traffic of `host` goes, as that does. The caller limits the time.
    pub(super) fn connect_like_traffic(
        &self,
        host: &Host,
    ) -> impl Future<Output = Result<Connected, ConnectError>> + 'static + use<> {
        self.connect_to(host, &host.metadata, UpstreamSocketOptions::default(), host)
    }

    fn connect_to(
        &self,
        target: &Host,
        metadata: &DynamicMetadata,
        options: UpstreamSocketOptions,
        host: &Host,
    ) -> impl Future<Output = Result<Connected, ConnectError>> + 'static + use<> {
        let info = &self.cluster.info;
        let connecting = self.connector.connect(target, &info.settings.sockets);
        let socket = info.transport.of_host(metadata).cloned();
        let (hostname, address) = (host.hostname.clone(), target.address.clone());
        async move {
            let connected = connecting.await?;
            let Some(socket) = socket else {
                return Ok(connected);
            };
            let request = UpstreamSocketRequest {
                peer: connected.remote_address.as_ref().unwrap_or(&address),
                hostname: &hostname,
                options: Some(&options),
                alpn_fallback: &[],
            };
            let secured = socket.connect(connected.io, request).await;
            let UpstreamConnected { io, tls } = secured.map_err(ConnectError::Failed)?;
            Ok(Connected {
                io,
                tls,
                ..connected
            })
        }
    }

    /// Whether checks of this host are encrypted.
    pub(super) fn is_secure(&self, host: &Host) -> bool {
        let socket = self.cluster.info.transport.of_host(&host.metadata);
        socket.is_some_and(|socket| socket.is_secure())
    }
}

impl Link {
    /// Ends when the connection, on which nothing happens, cannot be used any longer. Where there is none it never ends.
    pub(super) async fn gone(&mut self) {
        match self {
            Self::None => std::future::pending().await,
            Self::Http1(connection) => poll_fn(|cx| connection.poll_idle(cx)).await,
            Self::Http2(connection) => poll_fn(|cx| connection.poll_gone(cx)).await,
            Self::Tcp(link) => {
                // What comes in between is kept; it may be what the next check waits for.
                while link.read().await {}
            }
            Self::Redis(link) => link.gone().await,
        }
    }

    /// Whether the connection can be used for another request.
    pub(super) fn is_usable(&mut self) -> bool {
        match self {
            Self::None => false,
            Self::Http1(connection) => connection.is_reusable(),
            Self::Http2(connection) => connection.availability() != http2::Availability::Gone,
            Self::Tcp(_) | Self::Redis(_) => true,
        }
    }
}

impl TcpLink {
    pub(super) fn new(connected: Connected) -> Self {
        Self {
            io: connected.io,
            local: connected.local_address,
            remote: connected.remote_address,
            received: BytesMut::new(),
        }
    }

    /// False: the connection has ended.
    pub(super) async fn read(&mut self) -> bool {
        if self.received.len() > MOST_BYTES {
            self.received.clear();
        }
        matches!(self.io.read_buf(&mut self.received).await, Ok(1..))
    }

    /// False: the connection has ended.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> bool {
        self.io.write_all(bytes).await.is_ok() && self.io.flush().await.is_ok()
    }
}

impl Exchange<'_> {
    pub(super) fn send(&mut self, head: &RequestHead, body: Bytes) {
        let end = match body.is_empty() {
            true => EndStream::Yes,
            false => EndStream::No,
        };
        match self {
            Self::Http1(connection) => connection.send_head(head, end),
            Self::Http2(stream) => stream.send_head(head, end),
        }
        if !body.is_empty() {
            match self {
                Self::Http1(connection) => connection.send_data(body, EndStream::Yes),
                Self::Http2(stream) => stream.send_data(body, EndStream::Yes),
            }
        }
    }

    /// The next event of the response.
    pub(super) async fn next(&mut self) -> ResponseEvent {
        poll_fn(|cx| match self {
            Self::Http1(connection) => {
                let _ = connection.poll_flush(cx);
                connection.poll_event(cx)
            }
            Self::Http2(stream) => {
                let _ = stream.poll_flush(cx);
                stream.poll_event(cx)
            }
        })
        .await
    }
}

/// Makes a connection of HTTP/1 or HTTP/2, unless there is one.
pub(super) async fn http(
    inner: &Inner,
    host: &Host,
    link: &mut Link,
    speaks_http2: impl FnOnce(&Connected) -> bool,
) -> Result<(), ConnectError> {
    if link.is_usable() {
        return Ok(());
    }
    *link = Link::None;
    let connected = inner.connect(host).await?;
    let info = &inner.cluster.info;
    *link = if speaks_http2(&connected) {
        let stats = inner.http2_stats();
        Link::Http2(http2::ClientConnection::start(
            connected.io,
            Rc::new(info.client_http2_settings()),
            Some(stats),
            1,
        ))
    } else {
        let limit = info.settings.per_connection_buffer_limit_bytes;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let settings = Rc::new(info.client_http1_settings());
        Link::Http1(Box::new(http1::ClientConnection::new(
            connected.io,
            settings,
            limit,
        )))
    };
    Ok(())
}

impl Link {
    /// A request on the connection; none if it has no room for one.
    pub(super) async fn exchange(&mut self) -> Option<Exchange<'_>> {
        match self {
            Self::Http1(connection) => Some(Exchange::Http1(connection)),
            Self::Http2(connection) => {
                let ready = poll_fn(|cx| match connection.poll_ready_for_stream(cx) {
                    Poll::Ready(ready) => Poll::Ready(ready.is_ok()),
                    Poll::Pending => Poll::Pending,
                });
                if !ready.await {
                    return None;
                }
                Some(Exchange::Http2(Box::new(connection.new_stream())))
            }
            Self::None | Self::Tcp(_) | Self::Redis(_) => None,
        }
    }
}
