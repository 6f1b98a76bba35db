//! What an expression can ask of a request, by the names that Envoy gives it.

mod tls;

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::eval::header;
use super::time;
use super::value::{Map, Message, Value};
use crate::formatter::{FormatData, NamedCluster, NamedRoute};
use crate::formatter::{grpc_status, request_size, response_size};
use crate::http::{Fields, Known, RequestHead, ResponseHead};
use crate::matchers::{HeaderKey, MatchingData};
use crate::net::Address;
use crate::server::LocalInfo;
use crate::stream_info::{ConnectionInfo, DynamicMetadata, StreamInfo, TrafficDirection};
use crate::upstream::{Locality, WorkerHost};
use tls::Tls;

/// What is known when an expression is evaluated.
#[derive(Debug, Clone, Copy)]
pub struct Activation<'a> {
    /// The connection.
    pub connection: &'a ConnectionInfo,
    /// The stream; none: there is only a connection.
    pub info: Option<&'a StreamInfo>,
    /// The request.
    pub request: Option<&'a RequestHead>,
    /// The response.
    pub response: Option<&'a ResponseHead>,
    /// The trailers of the response.
    pub response_trailers: Option<&'a Fields>,
    /// What the proxy is, from the expression.
    pub(super) node: Option<&'a NodeInfo>,
}

impl<'a> Activation<'a> {
    /// A request on its way to the upstream.
    pub fn of_request(info: &'a StreamInfo, request: &'a RequestHead) -> Self {
        Self {
            info: Some(info),
            request: Some(request),
            ..Self::of_connection(&info.connection)
        }
    }

    /// Nothing but a connection.
    pub fn of_connection(connection: &'a ConnectionInfo) -> Self {
        Self {
            connection,
            info: None,
            request: None,
            response: None,
            response_trailers: None,
            node: None,
        }
    }

    /// What a matcher sees.
    pub fn of_matcher(data: &MatchingData<'a>) -> Self {
        Self {
            info: data.info,
            request: data.request,
            response: data.response,
            ..Self::of_connection(data.connection)
        }
    }

    /// What a formatter sees.
    pub fn of_formatter(data: &FormatData<'a>) -> Self {
        Self {
            info: Some(data.info),
            request: data.request,
            response: data.response,
            response_trailers: data.response_trailers,
            ..Self::of_connection(&data.info.connection)
        }
    }
}

/// What `xds.node` shows.
#[derive(Debug)]
pub struct NodeInfo {
    pub(super) id: Box<str>,
    pub(super) cluster: Box<str>,
    pub(super) metadata: serde_json::Map<String, serde_json::Value>,
    pub(super) locality: Locality,
}

impl NodeInfo {
    pub(super) fn new(info: &LocalInfo) -> Self {
        Self {
            id: info.node_id.as_str().into(),
            cluster: info.cluster.as_str().into(),
            metadata: info.metadata.clone(),
            locality: Locality {
                region: info.region.as_str().into(),
                zone: info.zone.as_str().into(),
                sub_zone: info.sub_zone.as_str().into(),
            },
        }
    }
}

/// The names with which all attributes begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names themselves")]
pub enum Root {
    Request,
    Response,
    Connection,
    Upstream,
    Source,
    Destination,
    Metadata,
    FilterState,
    UpstreamFilterState,
    Xds,
}

impl Root {
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "request" => Self::Request,
            "response" => Self::Response,
            "connection" => Self::Connection,
            "upstream" => Self::Upstream,
            "source" => Self::Source,
            "destination" => Self::Destination,
            "metadata" => Self::Metadata,
            "filter_state" => Self::FilterState,
            "upstream_filter_state" => Self::UpstreamFilterState,
            "xds" => Self::Xds,
            _ => return None,
        })
    }

    pub(super) fn value<'a>(self, cx: &Activation<'a>) -> Option<Value<'a>> {
        Some(match self {
            Self::Metadata => Value::Message(Message::Metadata(&cx.info?.dynamic_metadata)),
            Self::FilterState | Self::UpstreamFilterState => Value::Map(Map::FilterState {
                info: cx.info?,
                upstream: self == Self::UpstreamFilterState,
            }),
            root => Value::Map(Map::Attributes(root)),
        })
    }
}

macro_rules! attributes {
    ($type:ident: $($variant:ident = $name:literal),* $(,)?) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(in crate::cel) enum $type { $($variant),* }

        impl $type {
            pub(in crate::cel) fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}
use attributes;

attributes! { Request:
    Headers = "headers", HeadersBytes = "headers_bytes", Time = "time", Size = "size", TotalSize = "total_size",
    Duration = "duration", Protocol = "protocol", Path = "path", UrlPath = "url_path", Host = "host", Scheme = "scheme",
    Method = "method", Referer = "referer", Id = "id", UserAgent = "useragent", Query = "query",
}

attributes! { Response:
    Code = "code", Size = "size", Headers = "headers", HeadersBytes = "headers_bytes", Trailers = "trailers", Flags = "flags",
    GrpcStatus = "grpc_status", TotalSize = "total_size", CodeDetails = "code_details", BackendLatency = "backend_latency",
}

attributes! { Connection:
    Mtls = "mtls", RequestedServerName = "requested_server_name", Id = "id", TerminationDetails = "termination_details",
    TransportFailureReason = "transport_failure_reason",
}

attributes! { Upstream:
    Address = "address", Port = "port", LocalAddress = "local_address", Locality = "locality",
    TransportFailureReason = "transport_failure_reason", PoolReadyDuration = "cx_pool_ready_duration",
    AttemptCount = "request_attempt_count", NumEndpoints = "num_endpoints",
}

attributes! { Peer: Address = "address", Port = "port" }

attributes! { Xds:
    Node = "node", ClusterName = "cluster_name", ClusterMetadata = "cluster_metadata", RouteName = "route_name",
    RouteMetadata = "route_metadata", VirtualHostName = "virtual_host_name", VirtualHostMetadata = "virtual_host_metadata",
    UpstreamHostMetadata = "upstream_host_metadata", UpstreamLocalityMetadata = "upstream_host_locality_metadata",
    FilterChainName = "filter_chain_name", ListenerMetadata = "listener_metadata", ListenerDirection = "listener_direction",
}

/// One thing that can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attribute {
    Request(Request),
    Response(Response),
    Connection(Connection),
    ConnectionTls(Tls),
    Upstream(Upstream),
    UpstreamTls(Tls),
    Source(Peer),
    Destination(Peer),
    Xds(Xds),
}

impl Attribute {
    /// The attribute `root.name`.
    pub(super) fn parse(root: Root, name: &str) -> Option<Self> {
        match root {
            Root::Request => Request::parse(name).map(Self::Request),
            Root::Response => Response::parse(name).map(Self::Response),
            Root::Connection => Connection::parse(name)
                .map(Self::Connection)
                .or_else(|| Tls::parse(name).map(Self::ConnectionTls)),
            Root::Upstream => Upstream::parse(name)
                .map(Self::Upstream)
                .or_else(|| Tls::parse(name).map(Self::UpstreamTls)),
            Root::Source => Peer::parse(name).map(Self::Source),
            Root::Destination => Peer::parse(name).map(Self::Destination),
            Root::Xds => Xds::parse(name).map(Self::Xds),
            Root::Metadata | Root::FilterState | Root::UpstreamFilterState => None,
        }
    }

    pub(super) fn value<'a>(self, cx: &Activation<'a>) -> Option<Value<'a>> {
        match self {
            Self::Request(attribute) => attribute.value(cx),
            Self::Response(attribute) => attribute.value(cx),
            Self::Connection(attribute) => attribute.value(cx),
            Self::ConnectionTls(attribute) => attribute.value(cx.connection.tls.get()?),
            Self::Upstream(attribute) => attribute.value(cx.info?),
            Self::UpstreamTls(attribute) => {
                attribute.value(cx.info?.upstream.as_ref()?.tls.as_deref()?)
            }
            Self::Source(attribute) => attribute.value(match cx.info {
                Some(info) => info.remote_address(),
                None => &cx.connection.remote_address,
            }),
            Self::Destination(attribute) => attribute.value(&cx.connection.local_address),
            Self::Xds(attribute) => attribute.value(cx),
        }
    }
}

fn count(number: u64) -> Value<'static> {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

fn nanos(duration: Duration) -> Value<'static> {
    Value::Duration(i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX))
}

fn wall(time: SystemTime) -> Option<Value<'static>> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    time::timestamp(i128::try_from(since.as_nanos()).ok()?).map(Value::Timestamp)
}

fn bytes(bytes: &[u8]) -> Value<'_> {
    Value::String(Cow::Borrowed(bytes))
}

impl Request {
    fn value<'a>(self, cx: &Activation<'a>) -> Option<Value<'a>> {
        let head = cx.request;
        let size = || head.map_or(0, request_size);
        let received = || cx.info.map_or(0, |info| info.bytes_received);
        let field = |name| head.and_then(|head| head.fields.get(name)).map(bytes);
        match self {
            Self::Headers => Some(Value::Map(head.map_or(Map::Empty, Map::RequestHeaders))),
            Self::HeadersBytes => Some(count(size())),
            Self::Time => wall(cx.info?.start_time),
            Self::Size => match head.and_then(|head| head.fields.get_str(Known::ContentLength)) {
                Some(length) => length.parse().ok().map(Value::Int),
                None => Some(count(received())),
            },
            Self::TotalSize => Some(count(received() + size())),
            Self::Duration => {
                let info = cx.info?;
                let end = info.timing.request_complete?;
                end.checked_duration_since(info.start).map(nanos)
            }
            Self::Protocol => cx.info?.protocol.map(|p| Value::text(p.as_str())),
            Self::Path => head?.path().map(bytes),
            Self::UrlPath => {
                let path = head?.path().unwrap_or_default();
                path.split(|b| *b == b'?').next().map(bytes)
            }
            Self::Query => {
                let path = head?.path().unwrap_or_default();
                let query = path.splitn(2, |b| *b == b'?').nth(1).unwrap_or_default();
                query.split(|b| *b == b'#').next().map(bytes)
            }
            Self::Host => head?.authority().map(bytes),
            Self::Scheme => head?.scheme().map(bytes),
            Self::Method => Some(head?.method_bytes())
                .filter(|method| !method.is_empty())
                .map(bytes),
            Self::Referer => header(head?, &HeaderKey::new("referer")).map(Value::String),
            Self::UserAgent => field(Known::UserAgent),
            Self::Id => field(Known::RequestId),
        }
    }
}

impl Response {
    fn value<'a>(self, cx: &Activation<'a>) -> Option<Value<'a>> {
        let info = cx.info?;
        let size = || cx.response.map_or(0, response_size);
        let trailers = || cx.response_trailers.map_or(0, Fields::byte_size) as u64;
        match self {
            Self::Code => info.response_code.map(|code| Value::Int(code.into())),
            Self::Size => Some(count(info.bytes_sent)),
            Self::Headers => Some(Value::Map(
                cx.response.map_or(Map::Empty, Map::ResponseHeaders),
            )),
            Self::HeadersBytes => Some(count(size())),
            Self::Trailers => Some(Value::Map(
                cx.response_trailers.map_or(Map::Empty, Map::Trailers),
            )),
            Self::Flags => {
                let bits = info.response_flags.iter().map(|flag| 1_i64 << flag as u8);
                Some(Value::Int(bits.sum()))
            }
            Self::GrpcStatus => grpc_status(&FormatData {
                info,
                request: cx.request,
                response: cx.response,
                request_trailers: None,
                response_trailers: cx.response_trailers,
                local_reply_body: b"",
                log_type: "",
            })
            .map(|status| Value::Int(status.into())),
            Self::TotalSize => Some(count(info.bytes_sent + size() + trailers())),
            Self::CodeDetails => info.response_code_details.as_deref().map(Value::text),
            Self::BackendLatency => {
                let end = info.timing.last_upstream_rx_byte?;
                let latency = end.checked_duration_since(info.timing.first_upstream_tx_byte?);
                latency.map(nanos)
            }
        }
    }
}

impl Connection {
    fn value<'a>(self, cx: &Activation<'a>) -> Option<Value<'a>> {
        let connection = cx.connection;
        match self {
            Self::Mtls => {
                let tls = connection.tls.get();
                Some(Value::Bool(
                    tls.is_some_and(|tls| !tls.peer_chain.is_empty()),
                ))
            }
            Self::RequestedServerName => {
                let name = connection.requested_server_name.as_deref();
                Some(Value::text(name.unwrap_or_default()))
            }
            Self::Id => Some(Value::Uint(connection.id)),
            Self::TerminationDetails => {
                let own = cx
                    .info
                    .and_then(|info| info.connection_termination_details.as_deref());
                own.map(Value::text).or_else(|| {
                    let details = connection.termination_details.borrow();
                    details.as_deref().map(|text| Value::owned(text.to_owned()))
                })
            }
            Self::TransportFailureReason => {
                let reason = connection.transport_failure_reason.borrow();
                let reason = reason.as_deref().filter(|reason| !reason.is_empty());
                reason.map(|text| Value::owned(text.to_owned()))
            }
        }
    }
}

impl Upstream {
    fn value<'a>(self, info: &'a StreamInfo) -> Option<Value<'a>> {
        let upstream = info.upstream.as_deref();
        let host = || upstream?.host.as_deref();
        match self {
            Self::Address => host().map(|host| Value::owned(host.address.to_string())),
            Self::Port => host()?.address.port().map(|port| Value::Int(port.into())),
            Self::LocalAddress => {
                let address = upstream?.local_address.as_ref()?;
                Some(Value::owned(address.to_string()))
            }
            Self::Locality => Some(Value::Message(Message::Locality(&host()?.locality))),
            Self::TransportFailureReason => {
                let reason = upstream?.transport_failure_reason.as_deref();
                Some(Value::text(reason.unwrap_or_default()))
            }
            Self::PoolReadyDuration => {
                let upstream = upstream?;
                let asked = upstream.pool_asked.unwrap_or(info.start);
                let took = upstream.pool_ready?.checked_duration_since(asked);
                took.map(nanos)
            }
            Self::AttemptCount => Some(Value::Uint(info.attempt_count.into())),
            Self::NumEndpoints => {
                let cluster = info.cluster.as_ref()?.info();
                Some(Value::Uint(
                    cluster.endpoint_stats.membership_total().value(),
                ))
            }
        }
    }
}

impl Peer {
    fn value(self, address: &Address) -> Option<Value<'static>> {
        match self {
            Self::Address => Some(Value::owned(address.to_string())),
            Self::Port => address.port().map(|port| Value::Int(port.into())),
        }
    }
}

impl Xds {
    fn value<'a>(self, cx: &Activation<'a>) -> Option<Value<'a>> {
        let route = || cx.info?.route.as_ref();
        let cluster = || cx.info?.cluster.as_deref();
        let host = || -> Option<&'a WorkerHost> { cx.info?.upstream.as_ref()?.host.as_deref() };
        let message = |metadata: &'a DynamicMetadata| Value::Message(Message::Metadata(metadata));
        match self {
            Self::Node => cx.node.map(|node| Value::Message(Message::Node(node))),
            Self::ClusterName => Some(Value::text(cluster()?.cluster_name())),
            Self::ClusterMetadata => cluster()?.cluster_metadata().map(message),
            Self::RouteName => Some(Value::text(route()?.route_name())),
            Self::RouteMetadata => Some(message(route()?.route_metadata().unwrap_or(&EMPTY))),
            Self::VirtualHostName => Some(Value::text(&route()?.virtual_host().name)),
            Self::VirtualHostMetadata => {
                let metadata = route()?.virtual_host_metadata();
                Some(message(metadata.unwrap_or(&EMPTY)))
            }
            Self::UpstreamHostMetadata => Some(message(&host()?.metadata)),
            Self::UpstreamLocalityMetadata => Some(match &host()?.locality_metadata {
                Some(metadata) => message(metadata),
                None => Value::Null,
            }),
            Self::FilterChainName => Some(Value::text(&cx.connection.filter_chain_name)),
            Self::ListenerMetadata => Some(message(&cx.connection.listener.metadata)),
            Self::ListenerDirection => {
                Some(Value::Int(match cx.connection.listener.traffic_direction {
                    TrafficDirection::Unspecified => 0,
                    TrafficDirection::Inbound => 1,
                    TrafficDirection::Outbound => 2,
                }))
            }
        }
    }
}

/// The metadata of a route that has none.
static EMPTY: DynamicMetadata = DynamicMetadata::EMPTY;
