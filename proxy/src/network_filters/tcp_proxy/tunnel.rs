//! `tunneling_config`: the bytes of a connection as the payload of a CONNECT or POST to the upstream.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::RequestIdExtension;
use outrigger_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy as pb;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::copy::Endpoint;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::formatter::{FormatData, Formatter};
use crate::http::{EndStream, Fields, HeaderName, Known, Protocol, RequestHead, ResponseHead};
use crate::http_connection_manager::uuid;
use crate::route::HeaderParser;
use crate::server::{FactoryContext, Random};
use crate::stream_info::{BytesMeter, FilterStateObject, StreamInfo};
use crate::transport_sockets::UpstreamSocketOptions;
use crate::upstream::pool::{
    Acquire, ClientStream, PoolError, ResetReason, ResponseEvent, StreamKind, StreamRequest,
};
use crate::upstream::{RoutingPriority, WorkerCluster, WorkerHost};

/// A converted `TunnelingConfig`.
pub(super) struct TunnelingConfig {
    hostname: Formatter,
    /// Of POST; none: CONNECT.
    post_path: Option<Box<[u8]>>,
    headers: Option<HeaderParser>,
    propagate_response_headers: bool,
    propagate_response_trailers: bool,
    request_id: Option<RequestId>,
}

/// Where a request id goes that is made for a tunnel.
struct RequestId {
    header: HeaderName,
    metadata_key: Box<str>,
}

/// Why there is no tunnel.
#[derive(Debug)]
pub(super) enum TunnelError {
    /// No stream to send the request on.
    Pool(PoolError),
    /// The upstream broke off.
    Reset,
    /// The upstream answered with this status.
    Refused(u16),
}

/// Headers or trailers of the upstream's answer, in the filter state of the connection.
struct TunnelResponseHeaders(Fields);

/// A tunnel that the upstream has granted.
pub(super) struct Tunnel {
    stream: ClientStream,
    /// What was received and not read yet.
    received: Bytes,
    read_ended: bool,
    write_ended: bool,
    info: Rc<crate::stream_info::ConnectionInfo>,
    propagate_trailers: bool,
}

const UUID: &str = "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig";
const NAMESPACE: &str = "envoy.filters.network.tcp_proxy";
const HEADERS_KEY: &str = "envoy.tcp_proxy.propagate_response_headers";
const TRAILERS_KEY: &str = "envoy.tcp_proxy.propagate_response_trailers";

impl TunnelingConfig {
    /// Converts the message.
    pub(super) fn from_proto(
        proto: pb::TunnelingConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::TunnelingConfig {
            hostname,
            use_post,
            headers_to_add,
            propagate_response_headers,
            post_path,
            propagate_response_trailers,
            request_id_extension,
            request_id_header,
            request_id_metadata_key,
            formatters,
        } = proto;
        let formatters = path.unsupported_if_set("formatters", formatters);
        let hostname = path
            .non_empty("hostname", hostname)
            .and_then(|text| Formatter::parse(&text, cx, &path.field("hostname")));
        let headers = HeaderParser::from_proto(
            ("headers_to_add", headers_to_add),
            ("headers_to_remove", Vec::new()),
            cx,
            path,
        );
        let post_path = match (use_post, post_path) {
            (false, none) if none.is_empty() => Ok(None),
            (false, _) => Err(path.field("post_path").reject("needs use_post")),
            (true, none) if none.is_empty() => Ok(Some(Box::from(&b"/"[..]))),
            (true, text) if text.starts_with('/') => Ok(Some(text.into_bytes().into())),
            (true, text) => Err(path
                .field("post_path")
                .reject(format!("{text:?} does not start with a slash"))),
        };
        let request_id = path.optional(
            "request_id_extension",
            request_id_extension,
            check_request_id_extension,
        );
        formatters?;
        Ok(Self {
            hostname: hostname?,
            post_path: post_path?,
            headers: headers?,
            propagate_response_headers,
            propagate_response_trailers,
            request_id: request_id?.map(|()| RequestId {
                header: HeaderName::new(if request_id_header.is_empty() {
                    Known::RequestId.as_str()
                } else {
                    &request_id_header
                }),
                metadata_key: if request_id_metadata_key.is_empty() {
                    "tunnel_request_id".into()
                } else {
                    request_id_metadata_key.into()
                },
            }),
        })
    }

    /// The request that asks for a tunnel.
    fn request(&self, info: &StreamInfo, random: &Random) -> RequestHead {
        let mut host = Vec::new();
        self.hostname.render(
            &FormatData {
                info,
                request: None,
                response: None,
                request_trailers: None,
                response_trailers: None,
                local_reply_body: b"",
                log_type: "NotSet",
            },
            &mut host,
        );
        // What came with the connection must not end a line of a head.
        host.retain(|byte| *byte > b' ' && *byte != 0x7f);
        let method: &[u8] = match self.post_path {
            Some(_) => b"POST",
            None => b"CONNECT",
        };
        let mut head = RequestHead::new(Protocol::Http11, method);
        head.set_authority(&host);
        if let Some(path) = &self.post_path {
            head.set_path(path);
            head.set_scheme(b"http");
        }
        if let Some(headers) = &self.headers {
            headers.evaluate_request(&mut head, info);
        }
        if let Some(request_id) = &self.request_id {
            let id = uuid(random);
            head.fields.set(&request_id.header, id);
            let text = String::from_utf8_lossy(&id).into_owned();
            let mut values = serde_json::Map::new();
            values.insert(request_id.metadata_key.to_string(), text.into());
            let mut metadata = info.connection.dynamic_metadata.borrow_mut();
            metadata.merge(NAMESPACE, values);
        }
        head
    }

    /// Asks a host for a tunnel. `spent`: bytes of attempts that came to nothing.
    pub(super) async fn open(
        &self,
        cluster: &Rc<WorkerCluster>,
        host: &Rc<WorkerHost>,
        (info, random): (&mut StreamInfo, &Random),
        spent: &mut BytesMeter,
    ) -> Result<Tunnel, TunnelError> {
        let request = StreamRequest {
            downstream_protocol: None,
            priority: RoutingPriority::Default,
            kind: StreamKind::Upgrade,
            options: cluster.info().transport.names_client().then(|| {
                let client = &info.connection.remote_address;
                Rc::new(UpstreamSocketOptions::naming_client(
                    &info.connection,
                    client,
                ))
            }),
        };
        let acquired = match cluster.new_http_stream(host, &request) {
            Acquire::Ready(stream) => Ok(stream),
            Acquire::Pending(pending) => pending.await,
            Acquire::Failed(error) => Err(error),
        };
        let mut stream = acquired.map_err(TunnelError::Pool)?;
        let head = self.request(info, random);
        stream.send_head(&head, EndStream::No);
        if self.post_path.is_none() {
            stream.upgrade();
        }
        let answer = poll_fn(|cx| {
            let _ = stream.poll_ready(cx);
            stream.poll_event(cx)
        });
        let head = loop_until_final(answer.await, &mut stream).await;
        match head {
            Some((head, end)) if (200..300).contains(&head.status) => {
                self.granted(&head, info);
                Ok(Tunnel {
                    stream,
                    received: Bytes::new(),
                    read_ended: end.is_end() && self.post_path.is_some(),
                    write_ended: false,
                    info: info.connection.clone(),
                    propagate_trailers: self.propagate_response_trailers,
                })
            }
            refused => {
                let bytes = stream.bytes();
                spent.wire_received += bytes.wire_received;
                spent.wire_sent += bytes.wire_sent;
                stream.reset(&ResetReason::LocalReset);
                Err(match refused {
                    Some((head, _)) => TunnelError::Refused(head.status),
                    None => TunnelError::Reset,
                })
            }
        }
    }

    fn granted(&self, head: &ResponseHead, info: &StreamInfo) {
        if self.propagate_response_headers {
            let headers = Rc::new(TunnelResponseHeaders(head.fields.clone()));
            let mut state = info.connection.filter_state.borrow_mut();
            state.set(HEADERS_KEY, headers);
        }
    }
}

/// The final head of a response whose first event is `event`; none: it broke off.
async fn loop_until_final(
    mut event: ResponseEvent,
    stream: &mut ClientStream,
) -> Option<(ResponseHead, EndStream)> {
    loop {
        match event {
            ResponseEvent::Head(head, end) => return Some((head, end)),
            ResponseEvent::Informational(_) => {}
            ResponseEvent::Data(..) | ResponseEvent::Trailers(_) | ResponseEvent::Reset(_) => {
                return None;
            }
        }
        event = poll_fn(|cx| {
            let _ = stream.poll_ready(cx);
            stream.poll_event(cx)
        })
        .await;
    }
}

impl Tunnel {
    /// Bytes of the tunnel so far, with those of its request and its answer.
    pub(super) fn bytes(&self) -> BytesMeter {
        self.stream.bytes()
    }

    /// The stream below.
    pub(super) fn stream(&self) -> &ClientStream {
        &self.stream
    }
}

impl Endpoint for Tunnel {}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.received.is_empty() && !this.read_ended {
            let _ = this.stream.poll_ready(cx);
            match ready!(this.stream.poll_event(cx)) {
                ResponseEvent::Data(data, end) => {
                    this.received = data;
                    this.read_ended = end.is_end();
                }
                ResponseEvent::Trailers(trailers) => {
                    this.read_ended = true;
                    if this.propagate_trailers {
                        let trailers = Rc::new(TunnelResponseHeaders(trailers));
                        let mut state = this.info.filter_state.borrow_mut();
                        state.set(TRAILERS_KEY, trailers);
                    }
                }
                ResponseEvent::Informational(_) | ResponseEvent::Head(..) => {}
                ResponseEvent::Reset(ResetReason::ConnectionTermination) => {
                    this.read_ended = true;
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                ResponseEvent::Reset(_) => {
                    this.read_ended = true;
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
            }
        }
        let count = this.received.len().min(buf.remaining());
        buf.put_slice(&this.received[..count]);
        this.received.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.stream.poll_ready(cx));
        self.stream
            .send_data(Bytes::copy_from_slice(buf), EndStream::No);
        // Sends at once what the socket takes.
        let _ = self.stream.poll_ready(cx);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_flush(cx).map(Ok)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.write_ended, true) {
            self.stream.send_data(Bytes::new(), EndStream::Yes);
        }
        self.stream.poll_flush(cx).map(Ok)
    }
}

impl FilterStateObject for TunnelResponseHeaders {
    fn serialize_as_string(&self) -> Option<String> {
        None
    }

    fn field(&self, name: &str) -> Option<String> {
        let value = self.0.get(HeaderName::new(name).as_str())?;
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

fn check_request_id_extension(
    proto: RequestIdExtension,
    path: &ConfigPath<'_>,
) -> Result<(), Rejected> {
    let RequestIdExtension { typed_config } = proto;
    let config = TypedConfig::required("typed_config", typed_config, path)?;
    if config.type_name == UUID {
        Ok(())
    } else {
        Err(config.unknown(&path.field("typed_config"), &[UUID]))
    }
}
