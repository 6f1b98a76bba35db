//! Transport sockets: what lies between a connection and its bytes.
//!
//! The downstream side lays itself over an accepted connection before any network filter sees it; the upstream side over a
//! connection that was just made. A plain connection (`raw_buffer`) has nothing laid over it, and costs nothing.

pub mod raw_buffer;
pub mod tls;
pub mod upstream_proxy_protocol;

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as core;

use crate::LocalBoxFuture;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::net::{Address, Io, PROXY_PROTOCOL_OPTIONS, ProxyProtocolData};
use crate::server::FactoryContext;
use crate::stream_info::{ConnectionInfo, TlsConnectionInfo};

/// Every transport socket that can be configured.
pub static FACTORIES: &[&dyn TransportSocketFactory] = &[
    &raw_buffer::Factory,
    &tls::Factory,
    &upstream_proxy_protocol::Factory,
];

/// The transport socket of a filter chain, shared by all workers.
pub trait DownstreamSocket: Send + Sync + fmt::Debug {
    /// Lays itself over an accepted connection. `limit`: how long a handshake may take.
    fn accept(&self, io: Io, info: &Rc<ConnectionInfo>, limit: Option<HandshakeLimit>) -> Io;

    /// Whether connections are encrypted.
    fn is_secure(&self) -> bool;

    /// Whether everything that it needs, such as secrets, is there.
    fn is_ready(&self) -> bool {
        true
    }
}

/// How long the handshake of an accepted connection may take, and what is told when it takes longer.
pub struct HandshakeLimit {
    /// `FilterChain.transport_socket_connect_timeout`.
    pub after: Duration,
    /// Counts a handshake that took too long.
    pub on_timeout: Box<dyn Fn()>,
}

/// The transport socket of a cluster, shared by all workers.
pub trait UpstreamSocket: Send + Sync + fmt::Debug {
    /// Makes a connection that was just made ready for use. The caller limits the time.
    fn connect(
        &self,
        io: Io,
        request: UpstreamSocketRequest<'_>,
    ) -> LocalBoxFuture<'static, Result<UpstreamConnected, Box<str>>>;

    /// Whether connections are encrypted.
    fn is_secure(&self) -> bool;

    /// Whether the protocol of HTTP connections can be agreed on by ALPN.
    fn supports_alpn(&self) -> bool {
        false
    }

    /// Whether connections name the client that they are made for ([`UpstreamSocketOptions::proxied`]).
    fn names_client(&self) -> bool {
        false
    }

    /// Whether everything that it needs, such as secrets, is there.
    fn is_ready(&self) -> bool {
        true
    }
}

/// What an upstream connection is made for.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamSocketRequest<'a> {
    /// The peer.
    pub peer: &'a Address,
    /// The hostname of the endpoint; empty if there is none.
    pub hostname: &'a str,
    /// What the requests that will use the connection ask of it.
    pub options: Option<&'a UpstreamSocketOptions>,
    /// The protocols to offer by ALPN where the configuration names none.
    pub alpn_fallback: &'a [&'static [u8]],
}

/// What requests ask of their connection. Connections made with other options are not for them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct UpstreamSocketOptions {
    /// The server name in place of the configured one.
    pub server_name: Option<Box<str>>,
    /// One of these must be among the names of the peer's certificate. Empty: whatever is configured.
    pub verify_names: Vec<Box<str>>,
    /// Whom the header of the PROXY protocol names that the connection begins with, if the cluster sends one.
    pub proxied: Option<ProxyProtocolData>,
    /// The protocols to offer by ALPN in place of the configured ones. Empty: those.
    pub alpn: Vec<Box<str>>,
}

/// A connection that is ready for use.
#[derive(Debug)]
pub struct UpstreamConnected {
    /// Its bytes.
    pub io: Io,
    /// What TLS agreed on.
    pub tls: Option<Rc<TlsConnectionInfo>>,
}

impl UpstreamSocketOptions {
    /// Options of a connection that names its client: what the client's own header said, or else who connected.
    pub fn naming_client(connection: &ConnectionInfo) -> Self {
        let state = connection.filter_state.borrow();
        let said = state.get_as::<ProxyProtocolData>(PROXY_PROTOCOL_OPTIONS);
        let data = said.cloned().unwrap_or_else(|| ProxyProtocolData {
            source: connection.remote_address.clone(),
            destination: connection.local_address.clone(),
            tlvs: Vec::new(),
        });
        Self {
            proxied: Some(data),
            ..Self::default()
        }
    }
}

/// Makes transport sockets out of configuration. One per extension, listed in [`FACTORIES`].
pub trait TransportSocketFactory: Sync {
    /// The canonical name: `envoy.transport_sockets.tls`.
    fn name(&self) -> &'static str;
    /// The messages that choose this factory for filter chains.
    fn downstream_type_names(&self) -> &'static [&'static str];
    /// The messages that choose this factory for clusters.
    fn upstream_type_names(&self) -> &'static [&'static str];
    /// Converts the configuration of a filter chain. None: there is nothing to lay over a connection.
    fn downstream(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Arc<dyn DownstreamSocket>>, Rejected>;
    /// Converts the configuration of a cluster. None: there is nothing to lay over a connection.
    fn upstream(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Arc<dyn UpstreamSocket>>, Rejected>;
}

/// Converts the `transport_socket` of a filter chain. `cx.scope` is that of the listener.
pub fn downstream_from_proto(
    proto: core::TransportSocket,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Option<Arc<dyn DownstreamSocket>>, Rejected> {
    let config = typed(proto, path)?;
    let path = path.field("typed_config");
    let factory = config.factory(FACTORIES, |factory| factory.downstream_type_names(), &path)?;
    factory.downstream(&config, cx, &path)
}

/// Converts the `transport_socket` of a cluster. `cx.scope` is that of the cluster.
pub fn upstream_from_proto(
    proto: core::TransportSocket,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<Option<Arc<dyn UpstreamSocket>>, Rejected> {
    let config = typed(proto, path)?;
    let path = path.field("typed_config");
    let factory = config.factory(FACTORIES, |factory| factory.upstream_type_names(), &path)?;
    factory.upstream(&config, cx, &path)
}

fn typed(proto: core::TransportSocket, path: &ConfigPath<'_>) -> Result<TypedConfig, Rejected> {
    // The name is a label; the type of the configuration chooses the socket.
    let core::TransportSocket {
        name: _,
        config_type,
    } = proto;
    let core::transport_socket::ConfigType::TypedConfig(any) =
        path.required("typed_config", config_type)?;
    TypedConfig::from_any(any, &path.field("typed_config"))
}
