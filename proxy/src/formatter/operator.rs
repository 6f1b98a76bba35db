//! One command operator: what it stands for, and how it prints as text and as a value of JSON.

use std::borrow::Cow;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::time::Instant;

use super::json;
use super::subject::{NamedCluster, NamedRoute};
use super::time::TimeFormat;
use super::{FormatData, query};
use crate::http::{Fields, HeaderName, Known, RequestHead, ResponseHead};
use crate::net::Address;
use crate::stream_info::{DynamicMetadata, FilterState, UpstreamInfo};
use crate::upstream::WorkerHost;

/// A parsed operator, or text between operators.
#[derive(Debug)]
pub(super) enum Operator {
    Literal(Box<[u8]>),
    /// Known, but nothing in this proxy has it yet.
    Unavailable,
    /// Found out when the format was parsed.
    Fixed(Option<Box<[u8]>>),
    Header(Header),
    Count(Count),
    Text(Text),
    Time {
        clock: Clock,
        format: TimeFormat,
    },
    Span {
        from: Point,
        to: Point,
        nanoseconds: u128,
    },
    Address {
        end: End,
        part: AddressPart,
    },
    Attempts {
        part: Attempt,
        with_port: bool,
    },
    Metadata {
        source: MetadataSource,
        namespace: Box<str>,
        path: Box<[Box<str>]>,
        max: Option<usize>,
    },
    FilterState {
        upstream: bool,
        key: Box<str>,
        form: FilterStateForm,
        max: Option<usize>,
    },
    GrpcStatus(GrpcStatusForm),
    QueryParameter {
        name: Box<[u8]>,
        max: Option<usize>,
    },
    Query {
        decoded: bool,
        max: Option<usize>,
    },
    ServerName {
        first: ServerNameFirst,
        host: HostSource,
    },
    Details {
        allow_whitespace: bool,
    },
    Coalesce {
        operators: Box<[Operator]>,
        max: Option<usize>,
    },
}

/// A header, or another in its place.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) message: Message,
    pub(super) main: HeaderRef,
    pub(super) alternative: Option<HeaderRef>,
    pub(super) without_query: bool,
    /// An empty value counts as missing.
    pub(super) non_empty: bool,
    pub(super) max: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Message {
    Request,
    Response,
    ResponseTrailers,
}

#[derive(Debug)]
pub(super) enum HeaderRef {
    Field(HeaderName),
    Method,
    Path,
    Authority,
    Scheme,
    Protocol,
    Status,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Count {
    Zero,
    BytesReceived,
    BytesSent,
    ResponseCode,
    ConnectionId,
    UpstreamConnectionId,
    AttemptCount,
    DownstreamWireReceived,
    DownstreamWireSent,
    DownstreamHeaderReceived,
    DownstreamHeaderSent,
    UpstreamWireReceived,
    UpstreamWireSent,
    UpstreamHeaderReceived,
    UpstreamHeaderSent,
    RequestHeadersBytes,
    ResponseHeadersBytes,
    ResponseTrailersBytes,
    RouteResolutionCount,
    RouteResolutionTime,
    Duration,
    PoolReady,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Text {
    Protocol,
    UpstreamProtocol,
    ResponseFlags,
    ResponseFlagsLong,
    RouteName,
    VirtualClusterName,
    UpstreamCluster,
    UpstreamClusterRaw,
    UpstreamHostName,
    UpstreamHostNameWithoutPort,
    FilterChainName,
    ListenerName,
    ConnectionTerminationDetails,
    DownstreamTransportFailure,
    UpstreamTransportFailure,
    DownstreamCloseReason,
    DownstreamCloseType,
    UpstreamCloseReason,
    UpstreamCloseType,
    Ja3,
    Ja4,
    UniqueId,
    StreamId,
    CustomFlags,
    LocalReplyBody,
    AccessLogType,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Clock {
    Start,
    Emit,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Point {
    Start,
    LastDownstreamRx,
    ConnectStart,
    ConnectEnd,
    FirstUpstreamTx,
    LastUpstreamTx,
    FirstUpstreamRx,
    FirstUpstreamRxBody,
    LastUpstreamRx,
    FirstDownstreamTx,
    LastDownstreamTx,
    HandshakeComplete,
    /// A name that only a filter could have given to a moment.
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    Remote,
    DirectRemote,
    Local,
    DirectLocal,
    UpstreamHost,
    UpstreamRemote,
    UpstreamLocal,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum AddressPart {
    All,
    Ip,
    /// The network of this many bits, in CIDR notation.
    Network(u8),
    /// An empty text: what Envoy prints for a mask that is no length.
    Nothing,
    Port,
    EndpointId,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Attempt {
    Address,
    HostName,
    ConnectionId,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum MetadataSource {
    Dynamic,
    Cluster,
    Route,
    VirtualHost,
    UpstreamHost,
    Listener,
    /// Filter chains keep no metadata yet.
    FilterChain,
}

#[derive(Debug, PartialEq)]
pub(super) enum FilterStateForm {
    Plain,
    Typed,
    Field(Box<str>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum GrpcStatusForm {
    Camel,
    Snake,
    Number,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum ServerNameFirst {
    SniOnly,
    Sni,
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum HostSource {
    Original,
    Authority,
    OriginalOrAuthority,
}

impl Operator {
    /// Appends the value as text; says whether there was one. Without one nothing is appended.
    pub(super) fn write(&self, data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Literal(text) => append(out, Some(text)),
            Self::Unavailable => false,
            Self::Fixed(text) => append(out, text.as_deref()),
            Self::Header(header) => {
                let value = header.find(data).map(|value| header.cut(value));
                append(out, value)
            }
            Self::Count(count) => append_count(out, count.value(data)),
            Self::Text(text) => text.write(data, out),
            Self::Time { clock, format } => {
                format.write(clock.now(data), out);
                true
            }
            Self::Span { .. } => append_count(out, self.span(data)),
            Self::Address { end, part } => part.write(end.address(data), out),
            Self::Attempts { part, with_port } => part.write_all(*with_port, data, out),
            Self::Metadata { max, .. } => {
                self.with_metadata(data, |value| write_metadata(&value, *max, out))
            }
            Self::FilterState { max, .. } => {
                self.with_filter_state(data, |value| write_state(&value, *max, out))
            }
            Self::GrpcStatus(form) => form.write(data, out),
            Self::QueryParameter { name, max } => query::parameter(path(data), name)
                .is_some_and(|value| append(out, Some(cut(&value, *max)))),
            Self::Query { decoded, max } => {
                let text = query::text(path(data), *decoded);
                append(out, text.as_deref().map(|text| cut(text, *max)))
            }
            Self::ServerName { first, host } => server_name(*first, *host, data, out),
            Self::Details { allow_whitespace } => details(*allow_whitespace, data, out),
            Self::Coalesce { operators, max } => coalesce(operators, *max, data, out),
        }
    }

    /// Appends the value as JSON: a string, or what else it is. Without one nothing is appended.
    pub(super) fn write_json(&self, data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Count(count) => append_json_count(out, count.value(data)),
            Self::Span { .. } => append_json_count(out, self.span(data)),
            Self::GrpcStatus(GrpcStatusForm::Number) => {
                append_json_count(out, grpc_status_of(data).map(u64::from))
            }
            Self::Address {
                end,
                part: AddressPart::Port,
            } => {
                let port = end.address(data).and_then(Address::port);
                append_json_count(out, port.map(u64::from))
            }
            Self::Metadata { max, .. } => self.with_metadata(data, |value| match value {
                MetadataValue::Value(Value::String(text)) => {
                    json::write_string(cut(text.as_bytes(), *max), out);
                    true
                }
                MetadataValue::Value(Value::Null) => false,
                MetadataValue::Value(value) => {
                    json::write_value(value, out);
                    true
                }
                MetadataValue::All(map) => {
                    json::write_map(map, out);
                    true
                }
            }),
            Self::FilterState { max, .. } => self.with_filter_state(data, |value| {
                match value {
                    StateValue::Text(text) => {
                        json::write_string(cut(text.as_bytes(), *max), out);
                    }
                    StateValue::Json(value) => json::write_value(&value, out),
                }
                true
            }),
            Self::Coalesce { operators, max } => {
                let start = out.len();
                operators.iter().any(|operator| {
                    let found = operator.write_json(data, out);
                    if found && &out[start..] != b"\"\"" {
                        return true;
                    }
                    out.truncate(start);
                    false
                }) && cut_json(start, *max, data, operators, out)
            }
            _ => {
                let start = out.len();
                out.push(b'"');
                if !self.write(data, out) {
                    out.truncate(start);
                    return false;
                }
                json::escape_from(start + 1, out);
                out.push(b'"');
                true
            }
        }
    }

    fn span(&self, data: &FormatData<'_>) -> Option<u64> {
        let Self::Span {
            from,
            to,
            nanoseconds,
        } = self
        else {
            return None;
        };
        let span = to
            .instant(data)?
            .checked_duration_since(from.instant(data)?)?;
        u64::try_from(span.as_nanos() / nanoseconds).ok()
    }

    fn with_metadata(
        &self,
        data: &FormatData<'_>,
        write: impl FnOnce(MetadataValue<'_>) -> bool,
    ) -> bool {
        let Self::Metadata {
            source,
            namespace,
            path,
            ..
        } = self
        else {
            return false;
        };
        source.with(data, |metadata| {
            if path.is_empty() {
                return metadata
                    .get(namespace)
                    .is_some_and(|map| write(MetadataValue::All(map)));
            }
            metadata
                .value(namespace, path.iter().map(|key| &**key))
                .is_some_and(|value| write(MetadataValue::Value(value)))
        })
    }

    fn with_filter_state(
        &self,
        data: &FormatData<'_>,
        write: impl FnOnce(StateValue<'_>) -> bool,
    ) -> bool {
        let Self::FilterState {
            upstream,
            key,
            form,
            ..
        } = self
        else {
            return false;
        };
        let read = |state: &FilterState| {
            let object = state.get(key)?;
            match form {
                FilterStateForm::Plain => object
                    .serialize_as_string()
                    .map(|text| StateValue::Text(text.into())),
                FilterStateForm::Typed => object.serialize_as_json().map(StateValue::Json),
                FilterStateForm::Field(name) => {
                    object.field(name).map(|text| StateValue::Text(text.into()))
                }
            }
        };
        let value = if *upstream {
            upstream_of(data).and_then(|upstream| read(&upstream.filter_state))
        } else {
            read(&data.info.filter_state)
                .or_else(|| read(&data.info.connection.filter_state.borrow()))
        };
        value.is_some_and(write)
    }
}

/// A value of metadata: a whole namespace, or what a path leads to.
enum MetadataValue<'a> {
    All(&'a serde_json::Map<String, Value>),
    Value(&'a Value),
}

enum StateValue<'a> {
    Text(Cow<'a, str>),
    Json(Value),
}

fn write_metadata(value: &MetadataValue<'_>, max: Option<usize>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    match value {
        MetadataValue::Value(Value::Null) => return false,
        MetadataValue::Value(Value::String(text)) => out.extend_from_slice(text.as_bytes()),
        MetadataValue::Value(value) => json::write_value(value, out),
        MetadataValue::All(map) => json::write_map(map, out),
    }
    limit(start, max, out);
    true
}

fn write_state(value: &StateValue<'_>, max: Option<usize>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    match value {
        StateValue::Text(text) => out.extend_from_slice(text.as_bytes()),
        StateValue::Json(value) => json::write_value(value, out),
    }
    limit(start, max, out);
    true
}

impl Header {
    pub(super) fn find<'a>(&self, data: &FormatData<'a>) -> Option<&'a [u8]> {
        let get = |name: &HeaderRef| match self.message {
            Message::Request => data.request.and_then(|head| name.of_request(head)),
            Message::Response => data.response.and_then(|head| name.of_response(head)),
            Message::ResponseTrailers => data.response_trailers.and_then(|f| name.of_fields(f)),
        };
        let present = |value: &&[u8]| !self.non_empty || !value.is_empty();
        get(&self.main)
            .filter(present)
            .or_else(|| self.alternative.as_ref().and_then(get).filter(present))
    }

    fn cut<'a>(&self, value: &'a [u8]) -> &'a [u8] {
        let value = if self.without_query {
            value.split(|b| *b == b'?').next().unwrap_or_default()
        } else {
            value
        };
        cut(value, self.max)
    }
}

impl HeaderRef {
    fn of_request<'a>(&self, head: &'a RequestHead) -> Option<&'a [u8]> {
        match self {
            Self::Field(name) => head.fields.get(name),
            Self::Method => Some(head.method_bytes()).filter(|method| !method.is_empty()),
            Self::Path => head.path(),
            Self::Authority => head.authority(),
            Self::Scheme => head.scheme(),
            Self::Protocol => head.protocol(),
            Self::Status => None,
        }
    }

    fn of_response<'a>(&self, head: &'a ResponseHead) -> Option<&'a [u8]> {
        match self {
            Self::Field(name) => head.fields.get(name),
            Self::Status => Some(status_text(head.status)),
            _ => None,
        }
    }

    fn of_fields<'a>(&self, fields: &'a Fields) -> Option<&'a [u8]> {
        match self {
            Self::Field(name) => fields.get(name),
            _ => None,
        }
    }
}

/// The three digits of a status.
fn status_text(status: u16) -> &'static [u8] {
    const fn digits() -> [[u8; 3]; 1000] {
        let mut all = [[b'0'; 3]; 1000];
        let mut n = 0;
        while n < 1000 {
            #[allow(clippy::cast_possible_truncation, reason = "single digits")]
            {
                all[n] = [
                    b'0' + (n / 100) as u8,
                    b'0' + (n / 10 % 10) as u8,
                    b'0' + (n % 10) as u8,
                ];
            }
            n += 1;
        }
        all
    }
    static TEXTS: [[u8; 3]; 1000] = digits();
    TEXTS
        .get(usize::from(status))
        .map(<[u8; 3]>::as_slice)
        .unwrap_or_default()
}

impl Count {
    fn value(self, data: &FormatData<'_>) -> Option<u64> {
        let info = data.info;
        Some(match self {
            Self::Zero => 0,
            Self::BytesReceived => info.bytes_received,
            Self::BytesSent => info.bytes_sent,
            Self::ResponseCode => info.response_code.unwrap_or(0).into(),
            Self::ConnectionId => info.connection.id,
            Self::UpstreamConnectionId => {
                upstream_of(data).and_then(|u| u.connection_id).unwrap_or(0)
            }
            Self::AttemptCount => info.attempt_count.into(),
            Self::DownstreamWireReceived => info.downstream_bytes.wire_received,
            Self::DownstreamWireSent => info.downstream_bytes.wire_sent,
            Self::DownstreamHeaderReceived => info.downstream_bytes.header_received,
            Self::DownstreamHeaderSent => info.downstream_bytes.header_sent,
            Self::UpstreamWireReceived => info.upstream_bytes.wire_received,
            Self::UpstreamWireSent => info.upstream_bytes.wire_sent,
            Self::UpstreamHeaderReceived => info.upstream_bytes.header_received,
            Self::UpstreamHeaderSent => info.upstream_bytes.header_sent,
            Self::RequestHeadersBytes => data.request.map_or(0, request_size),
            Self::ResponseHeadersBytes => data.response.map_or(0, |head| {
                (":status".len() + 3 + head.fields.byte_size()) as u64
            }),
            Self::ResponseTrailersBytes => {
                data.response_trailers.map_or(0, Fields::byte_size) as u64
            }
            Self::RouteResolutionCount => info.route_resolution_count.into(),
            Self::RouteResolutionTime => micros(info.route_resolution_time),
            Self::Duration => millis(completed(data).checked_duration_since(info.start)?),
            Self::PoolReady => {
                let upstream = upstream_of(data)?;
                let asked = upstream.pool_asked.unwrap_or(info.start);
                millis(upstream.pool_ready?.checked_duration_since(asked)?)
            }
        })
    }
}

/// The size of a head as Envoy counts it: names and values, pseudo headers included.
fn request_size(head: &RequestHead) -> u64 {
    let pseudo = [
        (":method", Some(head.method_bytes())),
        (":path", head.path()),
        (":authority", head.authority()),
        (":scheme", head.scheme()),
        (":protocol", head.protocol()),
    ];
    let pseudo: usize = pseudo
        .iter()
        .filter_map(|(name, value)| value.map(|value| name.len() + value.len()))
        .sum();
    (pseudo + head.fields.byte_size()) as u64
}

/// When the stream ended, or now.
pub(crate) fn completed(data: &FormatData<'_>) -> Instant {
    data.info
        .timing
        .request_complete
        .unwrap_or_else(Instant::now)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Text {
    fn write(self, data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
        let info = data.info;
        let connection = &info.connection;
        match self {
            Self::ResponseFlags | Self::ResponseFlagsLong => {
                return write_flags(self == Self::ResponseFlagsLong, data, out);
            }
            Self::UpstreamHostName | Self::UpstreamHostNameWithoutPort => {
                return upstream_of(data)
                    .and_then(|upstream| upstream.host.as_ref())
                    .is_some_and(|host| {
                        host_name(host, self == Self::UpstreamHostName, out);
                        true
                    });
            }
            Self::ConnectionTerminationDetails => {
                let own = info.connection_termination_details.as_deref();
                let of_connection = connection.termination_details.borrow();
                return append_str(out, own.or(of_connection.as_deref()));
            }
            Self::DownstreamTransportFailure => {
                let reason = connection.transport_failure_reason.borrow();
                return append_joined(out, reason.as_deref());
            }
            Self::UpstreamTransportFailure => {
                let upstream = upstream_of(data);
                let reason = upstream.and_then(|u| u.transport_failure_reason.as_deref());
                return append_joined(out, reason);
            }
            Self::UniqueId => {
                unique_id(out);
                return true;
            }
            Self::StreamId => return stream_id(data, out),
            _ => {}
        }
        append_str(out, self.borrowed(data))
    }

    /// Those that stand somewhere as they are printed.
    fn borrowed<'a>(self, data: &FormatData<'a>) -> Option<&'a str> {
        let info = data.info;
        let connection = &info.connection;
        let named = |name: &'a str| Some(name).filter(|name| !name.is_empty());
        match self {
            Self::Protocol => info.protocol.map(|p| p.as_str()),
            Self::UpstreamProtocol => upstream_of(data)?.protocol.map(|p| p.as_str()),
            Self::RouteName => named(info.route.as_ref()?.route_name()),
            Self::VirtualClusterName => info.virtual_cluster.as_deref(),
            Self::UpstreamCluster => named(info.cluster.as_ref()?.observability_name()),
            Self::UpstreamClusterRaw => named(info.cluster.as_ref()?.cluster_name()),
            Self::FilterChainName => named(&connection.filter_chain_name),
            Self::ListenerName => named(&connection.listener.name),
            Self::DownstreamCloseReason => info.downstream_close_reason.as_deref(),
            Self::DownstreamCloseType => Some(info.downstream_close_type.as_str()),
            Self::UpstreamCloseReason => upstream_of(data)?.close_reason.as_deref(),
            Self::UpstreamCloseType => Some(upstream_of(data)?.close_type.as_str()),
            Self::Ja3 => connection.tls_fingerprints.ja3.as_deref(),
            Self::Ja4 => connection.tls_fingerprints.ja4.as_deref(),
            Self::CustomFlags => Some(info.custom_flags.as_deref().unwrap_or_default()),
            Self::LocalReplyBody => {
                Some(std::str::from_utf8(data.local_reply_body).unwrap_or_default())
            }
            Self::AccessLogType => Some(data.log_type),
            Self::ResponseFlags
            | Self::ResponseFlagsLong
            | Self::UpstreamHostName
            | Self::UpstreamHostNameWithoutPort
            | Self::ConnectionTerminationDetails
            | Self::DownstreamTransportFailure
            | Self::UpstreamTransportFailure
            | Self::UniqueId
            | Self::StreamId => None,
        }
    }
}

fn write_flags(long: bool, data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    for flag in data.info.response_flags.iter() {
        if out.len() > start {
            out.push(b',');
        }
        let name = if long { flag.long() } else { flag.short() };
        out.extend_from_slice(name.as_bytes());
    }
    if out.len() == start {
        // No flag is a value of its own, not a missing one.
        out.push(b'-');
    }
    true
}

/// The id of the request, or else the number of the stream.
fn stream_id(data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
    let of_stream = data.info.request_id.as_deref().map(str::as_bytes);
    let of_head = || data.request?.fields.get(Known::RequestId);
    match of_stream.or_else(of_head).filter(|id| !id.is_empty()) {
        Some(id) => append(out, Some(id)),
        None => append_count(out, Some(data.info.stream_id)),
    }
}

/// A random UUID (version 4).
fn unique_id(out: &mut Vec<u8>) {
    let random: u128 = rand::random();
    let id = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{id:032x}");
    for (index, range) in [0..8, 8..12, 12..16, 16..20, 20..32]
        .into_iter()
        .enumerate()
    {
        if index > 0 {
            out.push(b'-');
        }
        out.extend_from_slice(&hex.as_bytes()[range]);
    }
}

impl Clock {
    fn now(self, data: &FormatData<'_>) -> SystemTime {
        match self {
            Self::Start => data.info.start_time,
            Self::Emit => SystemTime::now(),
        }
    }
}

impl Point {
    fn instant(self, data: &FormatData<'_>) -> Option<Instant> {
        let timing = &data.info.timing;
        match self {
            Self::Start => Some(data.info.start),
            Self::LastDownstreamRx => timing.last_downstream_rx_byte,
            Self::ConnectStart => upstream_of(data)?.connect_start,
            Self::ConnectEnd => upstream_of(data)?.connect_end,
            Self::FirstUpstreamTx => timing.first_upstream_tx_byte,
            Self::LastUpstreamTx => timing.last_upstream_tx_byte,
            Self::FirstUpstreamRx => timing.first_upstream_rx_byte,
            Self::FirstUpstreamRxBody => timing.first_upstream_rx_body,
            Self::LastUpstreamRx => timing.last_upstream_rx_byte,
            Self::FirstDownstreamTx => timing.first_downstream_tx_byte,
            Self::LastDownstreamTx => timing.last_downstream_tx_byte,
            Self::HandshakeComplete => timing.downstream_handshake_complete,
            Self::Never => None,
        }
    }
}

impl End {
    fn address<'a>(self, data: &FormatData<'a>) -> Option<&'a Address> {
        let connection = &data.info.connection;
        match self {
            Self::Remote => Some(data.info.remote_address()),
            Self::DirectRemote => Some(&connection.direct_remote_address),
            Self::Local => Some(&connection.local_address),
            Self::DirectLocal => Some(&connection.direct_local_address),
            Self::UpstreamHost => Some(&upstream_of(data)?.host.as_ref()?.address),
            Self::UpstreamRemote => {
                let upstream = upstream_of(data)?;
                upstream
                    .remote_address
                    .as_ref()
                    .or_else(|| Some(&upstream.host.as_ref()?.address))
            }
            Self::UpstreamLocal => upstream_of(data)?.local_address.as_ref(),
        }
    }
}

impl AddressPart {
    fn write(self, address: Option<&Address>, out: &mut Vec<u8>) -> bool {
        let Some(address) = address else { return false };
        let written = match (self, address.ip()) {
            (Self::All, _) => write!(out, "{address}"),
            (Self::Nothing | Self::EndpointId, _) => Ok(()),
            (Self::Port, _) => address.port().map_or(Ok(()), |port| write!(out, "{port}")),
            (Self::Ip | Self::Network(_), None) => write!(out, "{address}"),
            (Self::Ip, Some(ip)) => write!(out, "{ip}"),
            (Self::Network(bits), Some(ip)) => match ip {
                std::net::IpAddr::V4(ip) => {
                    let bits = bits.min(32);
                    let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                    let network = std::net::Ipv4Addr::from_bits(ip.to_bits() & mask);
                    write!(out, "{network}/{bits}")
                }
                std::net::IpAddr::V6(ip) => {
                    let bits = bits.min(128);
                    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                    let network = std::net::Ipv6Addr::from_bits(ip.to_bits() & mask);
                    write!(out, "{network}/{bits}")
                }
            },
        };
        written.is_ok()
    }
}

impl Attempt {
    fn write_all(self, with_port: bool, data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
        let Some(upstream) = upstream_of(data) else {
            return false;
        };
        let last = upstream
            .host
            .as_ref()
            .map(|host| (host, upstream.connection_id));
        let attempts = upstream
            .earlier_attempts
            .iter()
            .map(|(host, connection)| (host, *connection))
            .chain(last);
        let start = out.len();
        for (host, connection) in attempts {
            let before = out.len();
            if before > start {
                out.push(b',');
            }
            let part = if with_port {
                AddressPart::All
            } else {
                AddressPart::Ip
            };
            match (self, connection) {
                (Self::Address, _) => {
                    part.write(Some(&host.address), out);
                }
                (Self::HostName, _) => host_name(host, with_port, out),
                (Self::ConnectionId, Some(id)) => json::write_digits(id, out),
                (Self::ConnectionId, None) => out.truncate(before),
            }
        }
        out.len() > start
    }
}

/// The name of a host, or its address if it has none.
fn host_name(host: &WorkerHost, with_port: bool, out: &mut Vec<u8>) {
    let start = out.len();
    if host.hostname.is_empty() {
        let part = if with_port {
            AddressPart::All
        } else {
            AddressPart::Ip
        };
        part.write(Some(&host.address), out);
        return;
    }
    out.extend_from_slice(host.hostname.as_bytes());
    if !with_port {
        let name = &out[start..];
        if let Some(colon) = name.iter().rposition(|b| *b == b':')
            && !name[colon + 1..].is_empty()
            && name[colon + 1..].iter().all(u8::is_ascii_digit)
            && (name[0] == b'[') == (name[colon - 1] == b']')
        {
            out.truncate(start + colon);
        }
    }
}

impl MetadataSource {
    fn with(self, data: &FormatData<'_>, read: impl FnOnce(&DynamicMetadata) -> bool) -> bool {
        let info = data.info;
        let metadata = match self {
            Self::Dynamic => Some(&info.dynamic_metadata),
            Self::Cluster => info.cluster.as_ref().and_then(|c| c.cluster_metadata()),
            Self::Route => info.route.as_ref().and_then(|r| r.route_metadata()),
            Self::VirtualHost => info.route.as_ref().and_then(|r| r.virtual_host_metadata()),
            Self::UpstreamHost => upstream_of(data)
                .and_then(|upstream| upstream.host.as_ref())
                .map(|host| &host.metadata),
            Self::Listener => Some(&info.connection.listener.metadata),
            Self::FilterChain => None,
        };
        metadata.is_some_and(read)
    }
}

impl GrpcStatusForm {
    fn write(self, data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
        let Some(status) = grpc_status_of(data) else {
            return false;
        };
        let name = GRPC_STATUS
            .get(status as usize)
            .and_then(|(camel, snake)| match self {
                Self::Camel => Some(camel),
                Self::Snake => Some(snake),
                Self::Number => None,
            });
        match name {
            Some(name) => append_str(out, Some(name)),
            None => append_count(out, Some(status.into())),
        }
    }
}

const GRPC_STATUS: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

fn grpc_status_of(data: &FormatData<'_>) -> Option<u32> {
    data.request.filter(|head| head.is_grpc())?;
    grpc_status(data)
}

/// The gRPC status of a response: from its trailers, its head, or derived from its HTTP status.
pub(crate) fn grpc_status(data: &FormatData<'_>) -> Option<u32> {
    let read = |fields: &Fields| {
        let text = fields.get_str(Known::GrpcStatus)?;
        // What is no number is no status that anything could be compared with.
        Some(text.parse().unwrap_or(u32::MAX))
    };
    data.response_trailers
        .and_then(read)
        .or_else(|| data.response.and_then(|head| read(&head.fields)))
        .or_else(|| {
            Some(match data.info.response_code? {
                400 => 13,
                401 => 16,
                403 => 7,
                404 => 12,
                429 | 502..=504 => 14,
                _ => 2,
            })
        })
}

fn server_name(
    first: ServerNameFirst,
    host: HostSource,
    data: &FormatData<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let sni = data.info.connection.requested_server_name.as_deref();
    let sni = sni.filter(|name| !name.is_empty());
    let from_head = || {
        let head = data.request?;
        let original = || {
            head.fields
                .get(Known::EnvoyOriginalHost)
                .filter(|value| !value.is_empty())
        };
        match host {
            HostSource::Original => original(),
            HostSource::Authority => head.authority(),
            HostSource::OriginalOrAuthority => original().or_else(|| head.authority()),
        }
        .filter(|value| !value.is_empty())
    };
    match first {
        ServerNameFirst::SniOnly => {}
        ServerNameFirst::Sni if sni.is_some() => {}
        ServerNameFirst::Sni | ServerNameFirst::Host => return append(out, from_head()),
    }
    // A client may put anything into its SNI; what could break a log line is replaced.
    sni.is_some_and(|name| {
        out.extend(name.bytes().map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => byte,
            _ => b'_',
        }));
        true
    })
}

fn details(allow_whitespace: bool, data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let found = append_str(out, data.info.response_code_details.as_deref());
    if !allow_whitespace {
        replace_whitespace(&mut out[start..]);
    }
    found
}

fn coalesce(
    operators: &[Operator],
    max: Option<usize>,
    data: &FormatData<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let start = out.len();
    for operator in operators {
        if operator.write(data, out) && out.len() > start {
            limit(start, max, out);
            return true;
        }
        out.truncate(start);
    }
    false
}

/// Cuts the text of a string that was written as JSON; other values keep their length.
fn cut_json(
    start: usize,
    max: Option<usize>,
    data: &FormatData<'_>,
    operators: &[Operator],
    out: &mut Vec<u8>,
) -> bool {
    if max.is_some() && out[start] == b'"' {
        out.truncate(start);
        out.push(b'"');
        coalesce(operators, max, data, out);
        json::escape_from(start + 1, out);
        out.push(b'"');
    }
    true
}

fn path<'a>(data: &FormatData<'a>) -> Option<&'a [u8]> {
    data.request.map(|head| head.path().unwrap_or_default())
}

fn upstream_of<'a>(data: &FormatData<'a>) -> Option<&'a UpstreamInfo> {
    data.info.upstream.as_deref()
}

fn replace_whitespace(text: &mut [u8]) {
    text.iter_mut()
        .filter(|byte| byte.is_ascii_whitespace() || **byte == 0x0b)
        .for_each(|byte| *byte = b'_');
}

fn append(out: &mut Vec<u8>, value: Option<&[u8]>) -> bool {
    value.is_some_and(|value| {
        out.extend_from_slice(value);
        true
    })
}

fn append_str(out: &mut Vec<u8>, value: Option<&str>) -> bool {
    append(out, value.map(str::as_bytes))
}

/// A reason of several words, as one word.
fn append_joined(out: &mut Vec<u8>, value: Option<&str>) -> bool {
    let start = out.len();
    let found = append_str(out, value.filter(|value| !value.is_empty()));
    replace_whitespace(&mut out[start..]);
    found
}

fn append_count(out: &mut Vec<u8>, value: Option<u64>) -> bool {
    value.is_some_and(|value| {
        json::write_digits(value, out);
        true
    })
}

fn append_json_count(out: &mut Vec<u8>, value: Option<u64>) -> bool {
    value.is_some_and(|value| {
        json::write_count(value, out);
        true
    })
}

fn cut(value: &[u8], max: Option<usize>) -> &[u8] {
    &value[..max.unwrap_or(usize::MAX).min(value.len())]
}

fn limit(start: usize, max: Option<usize>, out: &mut Vec<u8>) {
    if let Some(max) = max {
        out.truncate(start.saturating_add(max));
    }
}
