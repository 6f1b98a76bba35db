//! The header of the PROXY protocol, versions 1 and 2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the protocol's own numbers")]
pub enum Version {
    V1,
    V2,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// Cannot be said yet.
    NeedMore,
    /// No header begins here.
    NotFound,
    /// A header, complete.
    Header(Header<'a>),
    /// A header of this version that breaks its rules.
    Malformed(Version),
}

/// A complete header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Which version it was written in.
    pub version: Version,
    /// Source and destination; none where the connection's own addresses count (`UNKNOWN`, `LOCAL`).
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// The encoded TLVs; empty where the header has none or they do not count.
    pub tlvs: &'a [u8],
    /// How many bytes it takes, TLVs included.
    pub length: usize,
}

/// The version whose signature the bytes begin with, as far as they go. None: neither.
pub fn possible_version(bytes: &[u8]) -> Option<Version> {
    let begins = |signature: &[u8]| {
        let common = bytes.len().min(signature.len());
        bytes[..common] == signature[..common]
    };
    match bytes {
        _ if begins(V2_SIGNATURE) => Some(Version::V2),
        _ if begins(V1_SIGNATURE) => Some(Version::V1),
        _ => None,
    }
}

/// Parses the header at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    if bytes.is_empty() {
        return Parsed::NeedMore;
    }
    match possible_version(bytes) {
        None => Parsed::NotFound,
        Some(Version::V2) => parse_v2(bytes),
        Some(Version::V1) => parse_v1(bytes),
    }
}

/// Type and value of each TLV; none where one is cut off.
pub fn tlvs(mut bytes: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    while let Some((kind, rest)) = bytes.split_first() {
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        found.push((*kind, value));
        bytes = rest;
    }
    Some(found)
}

fn parse_v1(bytes: &[u8]) -> Parsed<'_> {
    let searched = &bytes[..bytes.len().min(V1_MAX_LENGTH)];
    let Some(end) = searched.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() >= V1_MAX_LENGTH {
            Parsed::Malformed(Version::V1)
        } else {
            Parsed::NeedMore
        };
    };
    match parse_v1_line(&bytes[..end]) {
        None => Parsed::Malformed(Version::V1),
        Some(addresses) => Parsed::Header(Header {
            version: Version::V1,
            addresses,
            tlvs: &[],
            length: end + 2,
        }),
    }
}

fn parse_v1_line(line: &[u8]) -> Option<Option<(SocketAddr, SocketAddr)>> {
    let line = str::from_utf8(line).ok()?;
    let mut parts = line.split(' ').filter(|part| !part.is_empty());
    if parts.next()? != "PROXY" {
        return None;
    }
    let family = parts.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (source, destination) = (parts.next()?, parts.next()?);
    let (source_port, destination_port) = (parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let ip = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let source = SocketAddr::new(ip(source)?, source_port.parse().ok()?);
    let destination = SocketAddr::new(ip(destination)?, destination_port.parse().ok()?);
    (is_unicast(source.ip()) && is_unicast(destination.ip())).then_some(Some((source, destination)))
}

fn parse_v2(bytes: &[u8]) -> Parsed<'_> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_HEADER_LENGTH>() else {
        return Parsed::NeedMore;
    };
    let malformed = Parsed::Malformed(Version::V2);
    let [.., version_and_command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let address_length = match (version_and_command, family) {
        (0x20, _) => 0,
        (0x21, 0x11 | 0x12) => 12,
        (0x21, 0x21 | 0x22) => 36,
        _ => return malformed,
    };
    if length < address_length {
        return malformed;
    }
    let Some(rest) = rest.get(..length) else {
        return Parsed::NeedMore;
    };
    let header = |addresses, tlvs| {
        Parsed::Header(Header {
            version: Version::V2,
            addresses,
            tlvs,
            length: V2_HEADER_LENGTH + length,
        })
    };
    let (addresses, tlvs) = rest.split_at(address_length);
    let parsed = match address_length {
        0 => return header(None, &[]),
        12 => v2_addresses::<4>(addresses, |ip| IpAddr::from(*ip)),
        _ => v2_addresses::<16>(addresses, |ip| IpAddr::from(*ip)),
    };
    match parsed {
        Some((source, destination))
            if is_unicast(source.ip())
                && is_unicast(destination.ip())
                && self::tlvs(tlvs).is_some() =>
        {
            header(Some((source, destination)), tlvs)
        }
        _ => malformed,
    }
}

fn v2_addresses<const N: usize>(
    bytes: &[u8],
    ip: impl Fn(&[u8; N]) -> IpAddr,
) -> Option<(SocketAddr, SocketAddr)> {
    let (source, rest) = bytes.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk::<2>()?;
    let (destination_port, _) = rest.split_first_chunk::<2>()?;
    Some((
        SocketAddr::new(ip(source), u16::from_be_bytes(*source_port)),
        SocketAddr::new(ip(destination), u16::from_be_bytes(*destination_port)),
    ))
}

/// Neither unspecified, nor broadcast, nor multicast.
fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !broadcast && !address.is_unspecified() && !address.is_multicast()
}

const V1_SIGNATURE: &[u8] = b"PROXY ";
const V1_MAX_LENGTH: usize = 108;
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEADER_LENGTH: usize = 16;

/// The longest header there can be.
pub const MAX_LENGTH: usize = V2_HEADER_LENGTH + 65_535;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(version_and_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[version_and_command, family], &length, rest].concat()
    }

    fn addresses(source: &str, destination: &str) -> Option<(SocketAddr, SocketAddr)> {
        Some((source.parse().unwrap(), destination.parse().unwrap()))
    }

    #[test]
    fn version_1_gives_addresses_and_leaves_what_follows() {
        let Parsed::Header(header) = parse(b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\r\nGET") else {
            panic!("no header");
        };
        assert_eq!(header.addresses, addresses("1.2.3.4:1000", "5.6.7.8:80"));
        assert_eq!(header.length, 36);
        let Parsed::Header(header) = parse(b"PROXY TCP6 1::2 3::4 1000 80\r\n") else {
            panic!("no header");
        };
        assert_eq!(header.addresses, addresses("[1::2]:1000", "[3::4]:80"));
        let Parsed::Header(header) = parse(b"PROXY UNKNOWN whatever it is\r\n") else {
            panic!("no header");
        };
        assert_eq!(header.addresses, None);
    }

    #[test]
    fn broken_headers_of_version_1_are_malformed() {
        let long = format!("PROXY {}", "x".repeat(200));
        for line in [
            "PROXY TCP4 1.2.3.4 5.6.7.8 1000\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1000 80 90\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1000 65536\r\n",
            "PROXY TCP4 1::2 3::4 1000 80\r\n",
            "PROXY TCP4 0.0.0.0 5.6.7.8 1000 80\r\n",
            "PROXY UDP4 1.2.3.4 5.6.7.8 1000 80\r\n",
            &long,
        ] {
            assert_eq!(
                parse(line.as_bytes()),
                Parsed::Malformed(Version::V1),
                "{line}"
            );
        }
    }

    #[test]
    fn version_2_gives_addresses_and_tlvs() {
        let body = [
            &[1, 2, 3, 4, 5, 6, 7, 8][..],
            &1000u16.to_be_bytes(),
            &80u16.to_be_bytes(),
            &[0xea, 0, 2, b'h', b'i', 4, 0, 0],
        ]
        .concat();
        let bytes = v2(0x21, 0x11, &body);
        let Parsed::Header(header) = parse(&bytes) else {
            panic!("no header");
        };
        assert_eq!(header.addresses, addresses("1.2.3.4:1000", "5.6.7.8:80"));
        assert_eq!(
            tlvs(header.tlvs),
            Some(vec![(0xea, &b"hi"[..]), (4, &b""[..])])
        );
        assert_eq!(header.length, bytes.len());
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]), Parsed::NeedMore, "{end}");
        }
    }

    #[test]
    fn a_local_command_keeps_the_addresses_of_the_connection() {
        let bytes = v2(0x20, 0, &[1, 2, 3]);
        let Parsed::Header(header) = parse(&bytes) else {
            panic!("no header");
        };
        assert_eq!(header.addresses, None);
        assert_eq!(header.length, bytes.len());
    }

    #[test]
    fn broken_headers_of_version_2_are_malformed() {
        for bytes in [
            v2(0x31, 0x11, &[0; 12]),
            v2(0x22, 0x11, &[0; 12]),
            v2(0x21, 0x31, &[0; 216]),
            v2(0x21, 0x11, &[1; 11]),
            v2(0x21, 0x11, &[1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 1, 9, 0, 9]),
        ] {
            assert_eq!(parse(&bytes), Parsed::Malformed(Version::V2), "{bytes:?}");
        }
    }

    #[test]
    fn other_bytes_are_no_header() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Parsed::NotFound);
        assert_eq!(parse(b"PR"), Parsed::NeedMore);
        assert_eq!(parse(b"PRX"), Parsed::NotFound);
    }

    proptest! {
        #[test]
        fn no_input_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), signed in any::<bool>()) {
            if signed {
                bytes = [V2_SIGNATURE, &bytes].concat();
            }
            let _ = parse(&bytes);
            let _ = tlvs(&bytes);
        }
    }
}
