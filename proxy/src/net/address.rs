//! Where a connection comes from or goes to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

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
