//! What prints as a number: bytes, ids, durations.

use std::time::Duration;

use tokio::time::Instant;

use super::{FormatData, upstream_of};
use crate::http::{Fields, RequestHead, ResponseHead};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::formatter) enum Count {
    Zero,
    BytesReceived,
    BytesSent,
    ResponseCode,
    ConnectionId,
    UpstreamConnectionId,
    Attempts,
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
    RouteResolutions,
    RouteResolutionTime,
    Duration,
    PoolReady,
}

impl Count {
    pub(super) fn value(self, data: &FormatData<'_>) -> Option<u64> {
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
            Self::Attempts => info.attempt_count.into(),
            Self::DownstreamWireReceived => info.downstream_bytes.wire_received,
            Self::DownstreamWireSent => info.downstream_bytes.wire_sent,
            Self::DownstreamHeaderReceived => info.downstream_bytes.header_received,
            Self::DownstreamHeaderSent => info.downstream_bytes.header_sent,
            Self::UpstreamWireReceived => info.upstream_bytes.wire_received,
            Self::UpstreamWireSent => info.upstream_bytes.wire_sent,
            Self::UpstreamHeaderReceived => info.upstream_bytes.header_received,
            Self::UpstreamHeaderSent => info.upstream_bytes.header_sent,
            Self::RequestHeadersBytes => data.request.map_or(0, request_size),
            Self::ResponseHeadersBytes => data.response.map_or(0, response_size),
            Self::ResponseTrailersBytes => {
                data.response_trailers.map_or(0, Fields::byte_size) as u64
            }
            Self::RouteResolutions => info.route_resolution_count.into(),
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
pub(crate) fn request_size(head: &RequestHead) -> u64 {
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

/// The same of a response.
pub(crate) fn response_size(head: &ResponseHead) -> u64 {
    (":status".len() + 3 + head.fields.byte_size()) as u64
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
