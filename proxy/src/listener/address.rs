//! Where a listener listens, and how its sockets are made.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use outrigger_proto::pb::envoy::config::core::v3 as pb;

use crate::config::{ConfigPath, Rejected};
use crate::net::{Address, Keepalive, SocketOption};

/// One address of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    /// Port 0: any free port.
    pub address: Address,
    /// An IPv6 address also takes IPv4 connections.
    pub ipv4_compat: bool,
    /// The permissions of the file of a UNIX socket; 0: as the umask has it.
    pub pipe_mode: u32,
    /// Options of this address alone, in place of those of the listener.
    pub socket_options: Option<Vec<SocketOption>>,
    /// Keepalive of this address alone, in place of that of the listener.
    pub keepalive: Option<Keepalive>,
}

impl ListenAddress {
    /// Converts the address of a listener.
    pub fn from_proto(proto: pb::Address, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::Address { address } = proto;
        match path.required("address", address)? {
            pb::address::Address::SocketAddress(address) => {
                Self::from_socket_address(address, &path.field("socket_address"))
            }
            pb::address::Address::Pipe(pipe) => Self::from_pipe(pipe, &path.field("pipe")),
            pb::address::Address::EnvoyInternalAddress(_) => Err(path
                .field("envoy_internal_address")
                .reject("is not supported; supported are socket_address and pipe")),
        }
    }

    fn from_socket_address(
        proto: pb::SocketAddress,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::SocketAddress {
            protocol,
            address,
            resolver_name,
            ipv4_compat,
            network_namespace_filepath,
            port_specifier,
        } = proto;
        let protocol = path.enumeration::<pb::socket_address::Protocol>("protocol", protocol);
        let resolver = path.unsupported_if_set("resolver_name", resolver_name);
        let namespace =
            path.unsupported_if_set("network_namespace_filepath", network_namespace_filepath);
        let ip = address.parse::<IpAddr>().map_err(|_| {
            path.field("address").reject(format!(
                "\"{address}\" is not an IP address; a listener does not resolve names"
            ))
        });
        let port = match path.required("port_specifier", port_specifier)? {
            pb::socket_address::PortSpecifier::PortValue(port) => {
                u16::try_from(port).map_err(|_| {
                    path.field("port_value")
                        .reject(format!("{port} is not in 0..=65535"))
                })
            }
            pb::socket_address::PortSpecifier::NamedPort(_) => Err(path
                .field("named_port")
                .reject("is not supported; use port_value")),
        };
        if protocol? == pb::socket_address::Protocol::Udp {
            return Err(path
                .field("protocol")
                .reject("UDP is not supported; legal is TCP"));
        }
        resolver.and(namespace)?;
        Ok(Self {
            address: Address::Ip(SocketAddr::new(ip?, port?)),
            ipv4_compat,
            pipe_mode: 0,
            socket_options: None,
            keepalive: None,
        })
    }

    fn from_pipe(proto: pb::Pipe, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        let pb::Pipe { path: file, mode } = proto;
        let file = path.non_empty("path", file);
        let mode = path.in_range("mode", mode, 0..=0o777);
        let (file, mode) = (file?, mode?);
        if file.len() > 107 {
            return Err(path.field("path").reject(format!(
                "has {} bytes; the path of a UNIX socket has 107 at most",
                file.len()
            )));
        }
        if file.starts_with('@') && mode != 0 {
            return Err(path
                .field("mode")
                .reject("cannot be set for a socket in the abstract namespace"));
        }
        Ok(Self {
            address: Address::Pipe(Arc::from(file)),
            ipv4_compat: false,
            pipe_mode: mode,
            socket_options: None,
            keepalive: None,
        })
    }
}
