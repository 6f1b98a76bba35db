//! The commands that take no argument, by their names.

use super::super::operator::{
    AddressPart, Attempt, Count, End, GrpcStatusForm, Operator, Point, Text, TlsPart, TlsSide,
};
use super::arguments::address;

/// The operators that take neither argument nor length.
pub(super) fn without_argument(name: &str) -> Option<Operator> {
    count(name)
        .map(Operator::Count)
        .or_else(|| text(name).map(Operator::Text))
        .or_else(|| span(name))
        .or_else(|| endpoint(name))
        .or_else(|| attempts(name))
        .or_else(|| tls(name))
        .or_else(|| unavailable(name).then_some(Operator::Unavailable))
        .or_else(|| match name {
            "GRPC_STATUS_NUMBER" => Some(Operator::GrpcStatus(GrpcStatusForm::Number)),
            "HOSTNAME" => Some(Operator::Fixed(hostname())),
            _ => None,
        })
}

fn count(name: &str) -> Option<Count> {
    Some(match name {
        "BYTES_RECEIVED" => Count::BytesReceived,
        "BYTES_SENT" => Count::BytesSent,
        // Only QUIC counts them; TCP's round trips are not asked for.
        "BYTES_RETRANSMITTED" | "PACKETS_RETRANSMITTED" | "DOWNSTREAM_CX_RTT" => Count::Zero,
        "RESPONSE_CODE" => Count::ResponseCode,
        "CONNECTION_ID" => Count::ConnectionId,
        "UPSTREAM_CONNECTION_ID" => Count::UpstreamConnectionId,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Count::Attempts,
        "DOWNSTREAM_WIRE_BYTES_RECEIVED" => Count::DownstreamWireReceived,
        "DOWNSTREAM_WIRE_BYTES_SENT" => Count::DownstreamWireSent,
        "DOWNSTREAM_HEADER_BYTES_RECEIVED" | "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => {
            Count::DownstreamHeaderReceived
        }
        "DOWNSTREAM_HEADER_BYTES_SENT" | "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => {
            Count::DownstreamHeaderSent
        }
        "UPSTREAM_WIRE_BYTES_RECEIVED" => Count::UpstreamWireReceived,
        "UPSTREAM_WIRE_BYTES_SENT" => Count::UpstreamWireSent,
        "UPSTREAM_HEADER_BYTES_RECEIVED" | "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => {
            Count::UpstreamHeaderReceived
        }
        "UPSTREAM_HEADER_BYTES_SENT" | "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => {
            Count::UpstreamHeaderSent
        }
        "REQUEST_HEADERS_BYTES" => Count::RequestHeadersBytes,
        "RESPONSE_HEADERS_BYTES" => Count::ResponseHeadersBytes,
        "RESPONSE_TRAILERS_BYTES" => Count::ResponseTrailersBytes,
        "ROUTE_RESOLUTION_COUNT" => Count::RouteResolutions,
        "ROUTE_RESOLUTION_TIME_US" => Count::RouteResolutionTime,
        "DURATION" => Count::Duration,
        "UPSTREAM_CONNECTION_POOL_READY_DURATION" => Count::PoolReady,
        _ => return None,
    })
}

pub(super) fn text(name: &str) -> Option<Text> {
    Some(match name {
        "PROTOCOL" => Text::Protocol,
        "UPSTREAM_PROTOCOL" => Text::UpstreamProtocol,
        "RESPONSE_FLAGS" => Text::ResponseFlags,
        "RESPONSE_FLAGS_LONG" => Text::ResponseFlagsLong,
        "ROUTE_NAME" => Text::RouteName,
        "VIRTUAL_CLUSTER_NAME" => Text::VirtualClusterName,
        "UPSTREAM_CLUSTER" => Text::UpstreamCluster,
        "UPSTREAM_CLUSTER_RAW" => Text::UpstreamClusterRaw,
        "UPSTREAM_HOST_NAME" => Text::UpstreamHostName,
        "UPSTREAM_HOST_NAME_WITHOUT_PORT" => Text::UpstreamHostNameWithoutPort,
        "FILTER_CHAIN_NAME" => Text::FilterChainName,
        "LISTENER_NAME" => Text::ListenerName,
        "CONNECTION_TERMINATION_DETAILS" => Text::ConnectionTerminationDetails,
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => Text::DownstreamTransportFailure,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Text::UpstreamTransportFailure,
        "DOWNSTREAM_LOCAL_CLOSE_REASON" => Text::DownstreamCloseReason,
        "DOWNSTREAM_DETECTED_CLOSE_TYPE" => Text::DownstreamCloseType,
        "UPSTREAM_LOCAL_CLOSE_REASON" => Text::UpstreamCloseReason,
        "UPSTREAM_DETECTED_CLOSE_TYPE" => Text::UpstreamCloseType,
        "TLS_JA3_FINGERPRINT" => Text::Ja3,
        "TLS_JA4_FINGERPRINT" => Text::Ja4,
        "UNIQUE_ID" => Text::UniqueId,
        "STREAM_ID" => Text::StreamId,
        "CUSTOM_FLAGS" => Text::CustomFlags,
        "LOCAL_REPLY_BODY" => Text::LocalReplyBody,
        "ACCESS_LOG_TYPE" => Text::AccessLogType,
        _ => return None,
    })
}

fn span(name: &str) -> Option<Operator> {
    let (from, to) = match name {
        "REQUEST_DURATION" => (Point::Start, Point::LastDownstreamRx),
        "REQUEST_TX_DURATION" => (Point::Start, Point::LastUpstreamTx),
        "RESPONSE_DURATION" => (Point::Start, Point::FirstUpstreamRx),
        "RESPONSE_TX_DURATION" => (Point::FirstUpstreamRx, Point::LastDownstreamTx),
        "DOWNSTREAM_HANDSHAKE_DURATION" => (Point::Start, Point::HandshakeComplete),
        // The last acknowledgement is known for QUIC only.
        "ROUNDTRIP_DURATION" => (Point::Start, Point::Never),
        _ => return None,
    };
    Some(Operator::Span {
        from,
        to,
        nanoseconds: 1_000_000,
    })
}

fn endpoint(name: &str) -> Option<Operator> {
    let (end, part) = match name {
        "DOWNSTREAM_REMOTE_PORT" => (End::Remote, AddressPart::Port),
        "DOWNSTREAM_DIRECT_REMOTE_PORT" => (End::DirectRemote, AddressPart::Port),
        "DOWNSTREAM_LOCAL_PORT" => (End::Local, AddressPart::Port),
        "DOWNSTREAM_DIRECT_LOCAL_PORT" => (End::DirectLocal, AddressPart::Port),
        "UPSTREAM_REMOTE_PORT" => (End::UpstreamRemote, AddressPart::Port),
        "UPSTREAM_LOCAL_PORT" => (End::UpstreamLocal, AddressPart::Port),
        "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID" => (End::Local, AddressPart::EndpointId),
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID" => {
            (End::DirectLocal, AddressPart::EndpointId)
        }
        "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID" => (End::UpstreamRemote, AddressPart::EndpointId),
        _ => match address(name)? {
            (end, false) => (end, AddressPart::All),
            (_, true) => return None,
        },
    };
    Some(Operator::Address { end, part })
}

fn attempts(name: &str) -> Option<Operator> {
    let (part, with_port) = match name {
        "UPSTREAM_HOSTS_ATTEMPTED" => (Attempt::Address, true),
        "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT" => (Attempt::Address, false),
        "UPSTREAM_HOST_NAMES_ATTEMPTED" => (Attempt::HostName, true),
        "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT" => (Attempt::HostName, false),
        "UPSTREAM_CONNECTION_IDS_ATTEMPTED" => (Attempt::ConnectionId, true),
        _ => return None,
    };
    Some(Operator::Attempts { part, with_port })
}

/// Operators of tracing: Envoy prints them without a tracer, and so do we.
fn unavailable(name: &str) -> bool {
    matches!(name, "TRACE_ID" | "SPAN_ID")
}

fn tls(name: &str) -> Option<Operator> {
    let (side, part) = match name.strip_prefix("DOWNSTREAM_") {
        Some(part) => (TlsSide::Downstream, part),
        None => (TlsSide::Upstream, name.strip_prefix("UPSTREAM_")?),
    };
    let part = TlsPart::parse(part, side)?;
    Some(Operator::Tls { side, part })
}

/// The name of the machine, as the kernel knows it.
fn hostname() -> Option<Box<[u8]>> {
    let name = std::fs::read("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim_ascii_end().into())
}
