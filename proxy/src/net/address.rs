//! Where a connection comes from or goes to.

use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use outrigger_proto::pb::envoy::config::core::v3 as core;

/// A resolved address: IP and port, or a UNIX socket. Prints as Envoy's logs print it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP over IPv4 or IPv6.
    Ip(SocketAddr),
    /// A UNIX stream socket: its path, or `@name` in the abstract namespace.
    Pipe(Arc<str>),
}

impl Address {
    /// The IP address, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip()),
            Self::Pipe(_) => None,
        }
    }

    /// The port, if it has one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(address) => Some(address.port()),
            Self::Pipe(_) => None,
        }
    }

    /// As the API writes it.
    pub fn to_proto(&self) -> core::Address {
        use core::address::Address as Kind;
        use core::socket_address::PortSpecifier;
        let kind = match self {
            Self::Ip(ip) => Kind::SocketAddress(core::SocketAddress {
                address: ip.ip().to_string(),
                port_specifier: Some(PortSpecifier::PortValue(ip.port().into())),
                ..Default::default()
            }),
            Self::Pipe(path) => Kind::Pipe(core::Pipe {
                path: path.to_string(),
                mode: 0,
            }),
        };
        core::Address {
            address: Some(kind),
        }
    }

    /// Appends what it prints as.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ip(SocketAddr::V4(address)) => {
                let mut text = IpText::new(IpAddr::V4(*address.ip()));
                text.push(b':');
                text.push_number(address.port());
                out.extend_from_slice(text.as_bytes());
            }
            Self::Ip(address @ SocketAddr::V6(_)) => {
                let written = write!(out, "{address}");
                debug_assert!(written.is_ok(), "memory takes what is written to it");
            }
            Self::Pipe(path) => out.extend_from_slice(path.as_bytes()),
        }
    }
}

/// The text of an IP address, on the stack: log lines and headers are full of them.
pub struct IpText {
    bytes: [u8; Self::LONGEST],
    len: usize,
}

impl IpText {
    /// An IPv6 address takes 45 bytes at most; with a port an IPv4 address takes 21.
    const LONGEST: usize = 48;

    /// Prints an address.
    pub fn new(ip: IpAddr) -> Self {
        let mut text = Self {
            bytes: [0; Self::LONGEST],
            len: 0,
        };
        match ip {
            IpAddr::V4(ip) => {
                for (index, octet) in ip.octets().into_iter().enumerate() {
                    if index > 0 {
                        text.push(b'.');
                    }
                    text.push_number(octet.into());
                }
            }
            IpAddr::V6(ip) => {
                let mut rest = &mut text.bytes[..];
                let written = write!(rest, "{ip}");
                debug_assert!(written.is_ok(), "it is long enough");
                text.len = Self::LONGEST - rest.len();
            }
        }
        text
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn push_number(&mut self, number: u16) {
        let mut unit = match number {
            0..10 => 1,
            10..100 => 10,
            100..1000 => 100,
            1000..10_000 => 1000,
            _ => 10_000,
        };
        while unit > 0 {
            // A single digit.
            self.push(b'0' + u8::try_from(number / unit % 10).unwrap_or(0));
            unit /= 10;
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => fmt::Display::fmt(address, f),
            Self::Pipe(path) => f.write_str(path),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

/// An address of this machine that others could reach: the first IPv4 address that is not on the loopback interface.
pub fn local_address() -> Option<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().ok()?;
    interfaces
        .iter()
        .map(if_addrs::Interface::ip)
        .find(|ip| ip.is_ipv4() && !ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_printed() {
        for text in [
            "0.0.0.0:0",
            "1.20.255.100:9",
            "127.0.0.1:10",
            "10.9.99.8:65535",
            "[::1]:80",
            "[fe80::1%3]:443",
            "[2001:db8:1111:2222:3333:4444:5555:6666]:10000",
            "[::ffff:255.255.255.255]:1",
        ] {
            let address = Address::Ip(text.parse().unwrap());
            let mut out = b"> ".to_vec();
            address.write_to(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("> {address}"));
            let ip = address.ip().unwrap();
            assert_eq!(IpText::new(ip).as_bytes(), ip.to_string().as_bytes());
        }
        let mut out = Vec::new();
        Address::Pipe("@a".into()).write_to(&mut out);
        assert_eq!(out, b"@a");
    }
}
