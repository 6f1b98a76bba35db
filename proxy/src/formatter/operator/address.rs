//! Addresses of both sides, and the hosts that were tried.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{FormatData, json, upstream_of};
use crate::net::{Address, IpText};
use crate::upstream::WorkerHost;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::formatter) enum End {
    Remote,
    DirectRemote,
    Local,
    DirectLocal,
    UpstreamHost,
    UpstreamRemote,
    UpstreamLocal,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::formatter) enum AddressPart {
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
pub(in crate::formatter) enum Attempt {
    Address,
    HostName,
    ConnectionId,
}

impl End {
    pub(super) fn address<'a>(self, data: &FormatData<'a>) -> Option<&'a Address> {
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
    pub(super) fn write(self, address: Option<&Address>, out: &mut Vec<u8>) -> bool {
        let Some(address) = address else { return false };
        match (self, address.ip()) {
            (Self::All, _) | (Self::Ip | Self::Network(_), None) => address.write_to(out),
            (Self::Nothing | Self::EndpointId, _) => {}
            (Self::Port, _) => {
                if let Some(port) = address.port() {
                    json::write_digits(port.into(), out);
                }
            }
            (Self::Ip, Some(ip)) => out.extend_from_slice(IpText::new(ip).as_bytes()),
            (Self::Network(bits), Some(ip)) => write_network(ip, bits, out),
        }
        true
    }
}

fn write_network(ip: IpAddr, bits: u8, out: &mut Vec<u8>) {
    let (network, bits) = match ip {
        IpAddr::V4(ip) => {
            let bits = bits.min(32);
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            (Ipv4Addr::from_bits(ip.to_bits() & mask).into(), bits)
        }
        IpAddr::V6(ip) => {
            let bits = bits.min(128);
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            (Ipv6Addr::from_bits(ip.to_bits() & mask).into(), bits)
        }
    };
    out.extend_from_slice(IpText::new(network).as_bytes());
    out.push(b'/');
    json::write_digits(bits.into(), out);
}

impl Attempt {
    pub(super) fn write_all(
        self,
        with_port: bool,
        data: &FormatData<'_>,
        out: &mut Vec<u8>,
    ) -> bool {
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
pub(super) fn host_name(host: &WorkerHost, with_port: bool, out: &mut Vec<u8>) {
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
