//! What prints as a text of its own: names, reasons, flags, ids.

use super::address::host_name;
use super::{
    FormatData, NamedCluster, NamedRoute, append, append_count, append_str, replace_whitespace,
    upstream_of,
};
use crate::http::Known;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::formatter) enum Text {
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

impl Text {
    pub(super) fn write(self, data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
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
            Self::VirtualClusterName => info
                .route
                .as_ref()
                .and_then(NamedRoute::virtual_cluster_name),
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
pub(crate) fn stream_id(data: &FormatData<'_>, out: &mut Vec<u8>) -> bool {
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

/// A reason of several words, as one word.
fn append_joined(out: &mut Vec<u8>, value: Option<&str>) -> bool {
    let start = out.len();
    let found = append_str(out, value.filter(|value| !value.is_empty()));
    replace_whitespace(&mut out[start..]);
    found
}
