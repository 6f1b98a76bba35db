//! `envoy.transport_sockets.upstream_proxy_protocol`: begins upstream connections with a PROXY protocol header, before whatever
//! socket it holds.
//! Type URLs: `envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/transport_sockets/proxy_protocol/v3/upstream_proxy_protocol.proto>
//! Stats: `cluster.<name>.upstream.proxyprotocol.v2_tlvs_exceed_max_length`.
//!
//! A connection whose header names a client is used for that client only. Connections that nobody asked for (health checks) name
//! their own ends in version 1, and say `LOCAL` in version 2.
//!
//! Deviations: TLVs in the metadata of endpoints are not sent; `tlv_as_pool_key` makes no difference, as TLVs are always part
//! of what a connection is chosen by.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use core::proxy_protocol_config::Version;
use core::proxy_protocol_pass_through_tl_vs::PassTlVsMatchType;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::extensions::transport_sockets::proxy_protocol::v3 as pb;
use tokio::io::AsyncWriteExt;

use super::{
    DownstreamSocket, TransportSocketFactory, UpstreamConnected, UpstreamSocket,
    UpstreamSocketRequest, upstream_from_proto,
};
use crate::LocalBoxFuture;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::net::{Address, Io, ProxyProtocolData, ProxyProtocolVersion};
use crate::server::FactoryContext;
use crate::stats_group;

/// Makes sockets that send the header.
pub struct Factory;

impl TransportSocketFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.transport_sockets.upstream_proxy_protocol"
    }

    fn downstream_type_names(&self) -> &'static [&'static str] {
        &[]
    }

    fn upstream_type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport"]
    }

    fn downstream(
        &self,
        _config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Arc<dyn DownstreamSocket>>, Rejected> {
        Err(path.reject("is for clusters only"))
    }

    fn upstream(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Arc<dyn UpstreamSocket>>, Rejected> {
        let socket = ProxyProtocolSocket::from_proto(config.decode(path)?, cx, path)?;
        Ok(Some(Arc::new(socket)))
    }
}

stats_group! {
    /// `upstream.proxyprotocol.`
    struct Stats {
        counter v2_tlvs_exceed_max_length;
    }
}

/// The converted message.
struct ProxyProtocolSocket {
    version: ProxyProtocolVersion,
    pass_through: PassThrough,
    added_tlvs: Vec<(u8, Box<[u8]>)>,
    stats: Stats,
    /// What the header is followed by. None: plain bytes.
    inner: Option<Arc<dyn UpstreamSocket>>,
}

/// Which TLVs of the client's own header are sent on.
enum PassThrough {
    None,
    All,
    Types(HashSet<u8>),
}

impl ProxyProtocolSocket {
    fn from_proto(
        proto: pb::ProxyProtocolUpstreamTransport,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::ProxyProtocolUpstreamTransport {
            config,
            transport_socket,
            // Harmless: what has no IP address is sent as unknown.
            allow_unspecified_address: _,
            tlv_as_pool_key: _,
        } = proto;
        let inner = path
            .required("transport_socket", transport_socket)
            .and_then(|inner| upstream_from_proto(inner, cx, &path.field("transport_socket")));
        let core::ProxyProtocolConfig {
            version,
            pass_through_tlvs,
            added_tlvs,
        } = config.unwrap_or_default();
        let path = path.field("config");
        let version = path.enumeration::<Version>("version", version);
        let pass_through = path.optional(
            "pass_through_tlvs",
            pass_through_tlvs,
            PassThrough::from_proto,
        );
        let added = path.each("added_tlvs", added_tlvs, |entry, path| {
            let core::TlvEntry {
                r#type,
                value,
                format_string,
            } = entry;
            path.unsupported_if_set("format_string", format_string)?;
            let kind = path.in_range("type", r#type, 0..=255)?;
            if value.is_empty() {
                return Err(path.field("value").reject("must not be empty"));
            }
            Ok((u8::try_from(kind).unwrap_or(u8::MAX), value.into()))
        });
        Ok(Self {
            version: match version? {
                Version::V1 => ProxyProtocolVersion::V1,
                Version::V2 => ProxyProtocolVersion::V2,
            },
            pass_through: pass_through?.unwrap_or(PassThrough::None),
            added_tlvs: added?,
            stats: Stats::new(&cx.scope.scope("upstream.proxyprotocol.")),
            inner: inner?,
        })
    }

    /// The header of a connection between these ends.
    fn header(
        &self,
        proxied: Option<&ProxyProtocolData>,
        own: Option<(Address, Address)>,
    ) -> Vec<u8> {
        let unknown = Address::Pipe("".into());
        match (proxied, self.version) {
            (Some(data), ProxyProtocolVersion::V1) => {
                self.version.header(&data.source, &data.destination)
            }
            (None, ProxyProtocolVersion::V1) => match own {
                Some((local, remote)) => self.version.header(&local, &remote),
                None => self.version.header(&unknown, &unknown),
            },
            (None, ProxyProtocolVersion::V2) => self.version.header(&unknown, &unknown),
            (Some(data), ProxyProtocolVersion::V2) => {
                let mut header = self.version.header(&data.source, &data.destination);
                let tlvs = self.tlvs(data);
                if !append_tlvs(&mut header, &tlvs) {
                    self.stats.v2_tlvs_exceed_max_length().inc();
                }
                header
            }
        }
    }

    /// Those of the configuration, and then those of the client that are no others of the same types.
    fn tlvs<'a>(&'a self, data: &'a ProxyProtocolData) -> Vec<(u8, &'a [u8])> {
        let added = self.added_tlvs.iter();
        let passed = data.tlvs.iter().filter(|(kind, _)| {
            let wanted = match &self.pass_through {
                PassThrough::None => false,
                PassThrough::All => true,
                PassThrough::Types(types) => types.contains(kind),
            };
            wanted && !self.added_tlvs.iter().any(|(own, _)| own == kind)
        });
        added
            .chain(passed)
            .map(|(kind, value)| (*kind, &**value))
            .collect()
    }
}

impl PassThrough {
    fn from_proto(
        proto: core::ProxyProtocolPassThroughTlVs,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let core::ProxyProtocolPassThroughTlVs {
            match_type,
            tlv_type,
        } = proto;
        let types = path.each("tlv_type", tlv_type, |kind, path| {
            u8::try_from(kind).map_err(|_| path.reject(format!("{kind} is not in 0..=255")))
        });
        Ok(
            match path.enumeration::<PassTlVsMatchType>("match_type", match_type)? {
                PassTlVsMatchType::IncludeAll => Self::All,
                PassTlVsMatchType::Include => Self::Types(types?.into_iter().collect()),
            },
        )
    }
}

/// Adds TLVs to a header of version 2 and to the length that it says. False: they are too long, and left out.
fn append_tlvs(header: &mut Vec<u8>, tlvs: &[(u8, &[u8])]) -> bool {
    let mut block = Vec::new();
    for (kind, value) in tlvs {
        let Ok(length) = u16::try_from(value.len()) else {
            return false;
        };
        block.push(*kind);
        block.extend_from_slice(&length.to_be_bytes());
        block.extend_from_slice(value);
    }
    let Some(length) = header.get(LENGTH..LENGTH + 2) else {
        return false;
    };
    let before = u16::from_be_bytes([length[0], length[1]]);
    let Some(after) = u16::try_from(block.len())
        .ok()
        .and_then(|more| before.checked_add(more))
    else {
        return false;
    };
    header[LENGTH..LENGTH + 2].copy_from_slice(&after.to_be_bytes());
    header.extend_from_slice(&block);
    true
}

/// Where the length stands in a header of version 2.
const LENGTH: usize = 14;

impl UpstreamSocket for ProxyProtocolSocket {
    fn connect(
        &self,
        mut io: Io,
        request: UpstreamSocketRequest<'_>,
    ) -> LocalBoxFuture<'static, Result<UpstreamConnected, Box<str>>> {
        let proxied = request.options.and_then(|options| options.proxied.as_ref());
        let local = io.as_tcp().and_then(|tcp| tcp.local_addr().ok());
        let own = local.map(|local| (Address::Ip(local), request.peer.clone()));
        let header = self.header(proxied, own);
        // The other socket keeps what it needs of the request for when the header is sent.
        let inner = self.inner.clone();
        let peer = request.peer.clone();
        let hostname: Box<str> = request.hostname.into();
        let options = request.options.cloned();
        let alpn_fallback = request.alpn_fallback.to_vec();
        Box::pin(async move {
            io.write_all(&header)
                .await
                .map_err(|error| Box::from(error.to_string()))?;
            let Some(inner) = inner else {
                return Ok(UpstreamConnected { io, tls: None });
            };
            let request = UpstreamSocketRequest {
                peer: &peer,
                hostname: &hostname,
                options: options.as_ref(),
                alpn_fallback: &alpn_fallback,
            };
            inner.connect(io, request).await
        })
    }

    fn is_secure(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.is_secure())
    }

    fn supports_alpn(&self) -> bool {
        self.inner
            .as_ref()
            .is_some_and(|inner| inner.supports_alpn())
    }

    fn is_ready(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| inner.is_ready())
    }

    fn names_client(&self) -> bool {
        true
    }
}

impl fmt::Debug for ProxyProtocolSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyProtocolSocket")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tlvs_are_part_of_the_length_unless_they_are_too_long() {
        let ends = Address::Ip("127.0.0.1:80".parse().unwrap());
        let mut header = ProxyProtocolVersion::V2.header(&ends, &ends);
        assert!(append_tlvs(&mut header, &[(0xe0, b"ab"), (1, b"c")]));
        assert_eq!(header[LENGTH..LENGTH + 2], [0, 12 + 5 + 4]);
        assert_eq!(header[28..], [0xe0, 0, 2, b'a', b'b', 1, 0, 1, b'c']);
        let before = header.clone();
        assert!(!append_tlvs(&mut header, &[(1, &[0; 65_530])]));
        assert_eq!(header, before);
    }
}
