//! What a PROXY protocol header said, for whoever passes it on.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use outrigger_proto::pb::envoy::config::core::v3 as pb;

use super::Address;
use crate::config::{ConfigPath, Rejected};
use crate::stream_info::FilterStateObject;

/// The name in the filter state of a connection under which [`ProxyProtocolData`] lies.
pub const PROXY_PROTOCOL_OPTIONS: &str = "envoy.network.proxy_protocol_options";

/// The addresses and the TLVs of a header.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProxyProtocolData {
    /// Who sends.
    pub source: Address,
    /// Where it was sent to.
    pub destination: Address,
    /// Type and value of those TLVs that are to be passed on.
    pub tlvs: Vec<(u8, Box<[u8]>)>,
}

/// Which form a header has that is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocolVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyProtocolVersion {
    /// Converts a `ProxyProtocolConfig` without TLVs, which are refused.
    pub fn from_proto(
        proto: pb::ProxyProtocolConfig,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::ProxyProtocolConfig {
            version,
            pass_through_tlvs,
            added_tlvs,
        } = proto;
        let version = path.enumeration::<pb::proxy_protocol_config::Version>("version", version);
        let tlvs = path.unsupported_if_set("pass_through_tlvs", pass_through_tlvs);
        path.unsupported_if_set("added_tlvs", added_tlvs)?;
        tlvs?;
        Ok(match version? {
            pb::proxy_protocol_config::Version::V1 => Self::V1,
            pb::proxy_protocol_config::Version::V2 => Self::V2,
        })
    }

    /// The header for a connection. Where the addresses are no IP addresses, it says that nothing is known of them.
    pub fn header(self, source: &Address, destination: &Address) -> Vec<u8> {
        let addresses = match (source, destination) {
            (Address::Ip(source), Address::Ip(destination)) => Some((*source, *destination)),
            _ => None,
        };
        match self {
            Self::V1 => header_v1(addresses).into_bytes(),
            Self::V2 => header_v2(addresses),
        }
    }
}

fn header_v1(addresses: Option<(SocketAddr, SocketAddr)>) -> String {
    let Some((source, destination)) = addresses else {
        return "PROXY UNKNOWN\r\n".to_owned();
    };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    format!(
        "PROXY {family} {} {} {} {}\r\n",
        source.ip(),
        destination.ip(),
        source.port(),
        destination.port()
    )
}

fn header_v2(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    let Some((source, destination)) = addresses else {
        header.extend_from_slice(&[0x20, 0, 0, 0]);
        return header;
    };
    if let (IpAddr::V4(from), IpAddr::V4(to)) = (source.ip(), destination.ip()) {
        header.extend_from_slice(&[0x21, 0x11, 0, 12]);
        header.extend_from_slice(&from.octets());
        header.extend_from_slice(&to.octets());
    } else {
        let v6 = |ip: IpAddr| -> Ipv6Addr {
            match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            }
        };
        header.extend_from_slice(&[0x21, 0x21, 0, 36]);
        header.extend_from_slice(&v6(source.ip()).octets());
        header.extend_from_slice(&v6(destination.ip()).octets());
    }
    header.extend_from_slice(&source.port().to_be_bytes());
    header.extend_from_slice(&destination.port().to_be_bytes());
    header
}

impl FilterStateObject for ProxyProtocolData {
    fn serialize_as_string(&self) -> Option<String> {
        let mut text = format!("{} {}", self.source, self.destination);
        for (kind, value) in &self.tlvs {
            // Writing to a string cannot fail.
            let _ = write!(text, " {kind}:{}", value.len());
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_both_ends_in_either_form() {
        let address = |text: &str| Address::Ip(text.parse().unwrap());
        let (from, to) = (address("127.0.0.1:41162"), address("127.0.0.2:40457"));
        let text = ProxyProtocolVersion::V1.header(&from, &to);
        assert_eq!(text, b"PROXY TCP4 127.0.0.1 127.0.0.2 41162 40457\r\n");
        let binary = ProxyProtocolVersion::V2.header(&from, &to);
        assert_eq!(
            binary,
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x02\xa0\xca\x9e\x09"
        );
        let v6 = ProxyProtocolVersion::V2.header(&address("[::1]:1"), &to);
        assert_eq!((v6[13], v6.len()), (0x21, 16 + 36));
        let pipe = Address::Pipe("/x".into());
        assert_eq!(
            ProxyProtocolVersion::V1.header(&pipe, &to),
            b"PROXY UNKNOWN\r\n"
        );
    }
}
