//! `upstream_bind_config` and `upstream_connection_options` become socket settings.

use std::net::{IpAddr, SocketAddr};

use outrigger_proto::pb::envoy::config::cluster::v3::UpstreamConnectionOptions;
use outrigger_proto::pb::envoy::config::core::v3 as core;

use crate::config::{ConfigPath, Rejected};
use crate::net::{Keepalive, SocketOption};
use crate::upstream::pool::{SocketSettings, SourceAddress};

/// Converts both.
pub(super) fn socket_settings(
    bind: Option<core::BindConfig>,
    options: Option<UpstreamConnectionOptions>,
    path: &ConfigPath<'_>,
) -> Result<SocketSettings, Rejected> {
    let bind = path.optional("upstream_bind_config", bind, bind_config);
    let keepalive = path.optional("upstream_connection_options", options, connection_options);
    let mut settings = bind?.unwrap_or_default();
    settings.keepalive = keepalive?.flatten();
    Ok(settings)
}

/// Converts `BindConfig`; the bootstrap has one for all clusters.
#[allow(
    deprecated,
    reason = "the deprecated field is decided like every other"
)]
pub(super) fn bind_config(
    proto: core::BindConfig,
    path: &ConfigPath<'_>,
) -> Result<SocketSettings, Rejected> {
    let core::BindConfig {
        source_address,
        freebind,
        socket_options,
        extra_source_addresses,
        additional_source_addresses,
        local_address_selector,
        validate_network_namespaces,
    } = proto;
    let refused = [
        path.unsupported_if_set("local_address_selector", local_address_selector),
        path.unsupported_if_set("validate_network_namespaces", validate_network_namespaces),
    ];
    let options = options_at("socket_options", socket_options, path);
    let first = path.optional("source_address", source_address, SourceAddress::from_proto);
    let extra = path.each(
        "extra_source_addresses",
        extra_source_addresses,
        |proto, path| {
            let core::ExtraSourceAddress {
                address,
                socket_options,
            } = proto;
            let options = path.optional("socket_options", socket_options, |proto, path| {
                let core::SocketOptionsOverride { socket_options } = proto;
                options_at("socket_options", socket_options, path)
            });
            let address = path.required("address", address)?;
            let mut source = SourceAddress::from_proto(address, &path.field("address"))?;
            source.socket_options = options?;
            Ok(source)
        },
    );
    let additional = path.each(
        "additional_source_addresses",
        additional_source_addresses,
        SourceAddress::from_proto,
    );
    for result in refused {
        result?;
    }
    let (first, extra, additional) = (first?, extra?, additional?);
    if first.is_none() && !(extra.is_empty() && additional.is_empty()) {
        return Err(path
            .field("source_address")
            .reject("is required with extra source addresses"));
    }
    Ok(SocketSettings {
        source_addresses: first.into_iter().chain(extra).chain(additional).collect(),
        socket_options: options?,
        freebind: freebind.is_some_and(|v| v.value),
        keepalive: None,
    })
}

fn options_at(
    name: &str,
    options: Vec<core::SocketOption>,
    path: &ConfigPath<'_>,
) -> Result<Box<[SocketOption]>, Rejected> {
    let options = path.each(name, options, SocketOption::from_proto)?;
    Ok(options.into_iter().flatten().collect())
}

impl SourceAddress {
    fn from_proto(proto: core::SocketAddress, path: &ConfigPath<'_>) -> Result<Self, Rejected> {
        use core::socket_address::{PortSpecifier, Protocol};
        let core::SocketAddress {
            protocol,
            address,
            resolver_name,
            // Of listeners alone.
            ipv4_compat: _,
            network_namespace_filepath,
            port_specifier,
        } = proto;
        let protocol: Protocol = path.enumeration("protocol", protocol)?;
        if protocol == Protocol::Udp {
            return Err(path.field("protocol").reject("UDP is not supported"));
        }
        path.unsupported_if_set("resolver_name", resolver_name)?;
        path.unsupported_if_set("network_namespace_filepath", network_namespace_filepath)?;
        let ip: IpAddr = address.parse().map_err(|_| {
            path.field("address")
                .reject(format!("{address:?} is not an IP address"))
        })?;
        let port = match port_specifier {
            Some(PortSpecifier::PortValue(port)) => u16::try_from(port).map_err(|_| {
                path.field("port_value")
                    .reject(format!("{port} is not in 0..=65535"))
            })?,
            Some(PortSpecifier::NamedPort(_)) => {
                return Err(path
                    .field("named_port")
                    .reject("is not supported; port_value is"));
            }
            None => 0,
        };
        Ok(Self {
            address: SocketAddr::new(ip, port),
            socket_options: None,
        })
    }
}

fn connection_options(
    proto: UpstreamConnectionOptions,
    path: &ConfigPath<'_>,
) -> Result<Option<Keepalive>, Rejected> {
    let UpstreamConnectionOptions {
        tcp_keepalive,
        set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config,
    } = proto;
    let name = path.unsupported_if_set(
        "set_local_interface_name_on_upstream_connections",
        set_local_interface_name_on_upstream_connections,
    );
    let eyeballs = path.unsupported_if_set("happy_eyeballs_config", happy_eyeballs_config);
    let keepalive = path.optional("tcp_keepalive", tcp_keepalive, Keepalive::from_proto);
    name?;
    eyeballs?;
    keepalive
}
