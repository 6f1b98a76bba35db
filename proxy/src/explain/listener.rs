//! Which listener takes the connection, and which of its filter chains.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use outrigger_proto::pb::envoy::config::core::v3::address::Address as Kind;
use outrigger_proto::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use outrigger_proto::pb::envoy::config::listener::v3 as pb;
use outrigger_proto::pb::google::protobuf::Any;
use pb::filter::ConfigType;
use serde::Serialize;
use serde_json::Value;

use super::http::json_of;
use super::{Configuration, Question};
use crate::listener::Listener;
use crate::net::Address;
use crate::stream_info::ConnectionInfo;

/// The listener that takes a connection.
#[derive(Debug, Serialize)]
pub struct ListenerTaken {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Why it is this one.
    pub because: String,
}

/// The filter chain that takes a connection.
#[derive(Debug, Serialize)]
pub struct ChainTaken {
    /// Its place in `filter_chains`; none: it is the default chain.
    pub index: Option<usize>,
    /// Its name; empty if it has none.
    pub name: String,
    /// What it matches; none: everything that is left.
    #[serde(rename = "match")]
    pub criteria: Option<Value>,
    /// The network filters in it, by name.
    pub filters: Vec<String>,
}

const TLS_INSPECTOR: &str = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";

/// The listener of a question.
pub(super) fn choose(
    configuration: &Configuration,
    question: &Question,
) -> Result<(pb::Listener, ListenerTaken), Vec<String>> {
    let all = &configuration.listeners;
    let names = || {
        let names = all
            .iter()
            .map(|l| format!("\"{}\" ({})", l.name, address(l)));
        names.collect::<Vec<_>>().join(", ")
    };
    if let Some(name) = &question.listener {
        let found = all.iter().find(|l| l.name == *name);
        let missing = || {
            vec![format!(
                "there is no listener \"{name}\"; there are {}",
                names()
            )]
        };
        return found
            .map(|l| taken(l, "it was asked for by name".to_owned()))
            .ok_or_else(missing);
    }
    let port = question.port();
    let mut with_port = all.iter().filter(|l| port_of(l) == Some(port));
    match (with_port.next(), with_port.next(), all.as_slice()) {
        (Some(l), None, _) => Ok(taken(l, format!("it listens on port {port}"))),
        (None, _, [only]) => Ok(taken(
            only,
            format!("it is the only one, though not on port {port}"),
        )),
        (Some(_), Some(_), _) => Err(vec![format!(
            "several listeners have port {port}; name one of {}",
            names()
        )]),
        (None, _, []) => Err(vec!["there are no listeners".to_owned()]),
        (None, _, _) => Err(vec![format!(
            "no listener has port {port}; name one of {}",
            names()
        )]),
    }
}

fn taken(listener: &pb::Listener, because: String) -> (pb::Listener, ListenerTaken) {
    let shown = ListenerTaken {
        name: listener.name.clone(),
        address: address(listener),
        because,
    };
    (listener.clone(), shown)
}

fn address(listener: &pb::Listener) -> String {
    match listener.address.as_ref().and_then(|a| a.address.as_ref()) {
        Some(Kind::SocketAddress(socket)) => {
            let port = port_of(listener).unwrap_or_default();
            format!("{}:{port}", socket.address)
        }
        Some(Kind::Pipe(pipe)) => pipe.path.clone(),
        Some(Kind::EnvoyInternalAddress(_)) | None => "no address".to_owned(),
    }
}

fn port_of(listener: &pb::Listener) -> Option<u16> {
    match listener.address.as_ref()?.address.as_ref()? {
        Kind::SocketAddress(socket) => match socket.port_specifier.as_ref()? {
            PortSpecifier::PortValue(port) => u16::try_from(*port).ok(),
            PortSpecifier::NamedPort(_) => None,
        },
        Kind::Pipe(_) | Kind::EnvoyInternalAddress(_) => None,
    }
}

/// The connection that brings the request, as far as it is known when a chain is chosen.
pub(super) fn connection(
    config: &Listener,
    proto: &pb::Listener,
    question: &Question,
) -> ConnectionInfo {
    let local = match config.addresses.first().map(|a| &a.address) {
        Some(Address::Ip(bound)) if bound.ip().is_unspecified() => {
            let asked = question.host().parse().ok();
            let ip = asked.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
            Address::Ip(SocketAddr::new(ip, bound.port()))
        }
        Some(address) => address.clone(),
        None => Address::Pipe("".into()),
    };
    let mut info = ConnectionInfo::between(Address::Ip(question.source()), local);
    info.listener = config.identity.clone();
    if question.https && looks_at_tls(proto) {
        info.transport_protocol = Some("tls");
        let name = question.host();
        if name.parse::<IpAddr>().is_err() {
            info.requested_server_name = Some(name.to_ascii_lowercase().into());
        }
    }
    info.transport_protocol.get_or_insert("raw_buffer");
    info
}

/// Whether a listener filter finds out about TLS: one that is configured, or the one that chains make necessary.
fn looks_at_tls(listener: &pb::Listener) -> bool {
    let configured = listener.listener_filters.iter().any(|filter| {
        use pb::listener_filter::ConfigType;
        matches!(&filter.config_type, Some(ConfigType::TypedConfig(any)) if any.type_url.ends_with(TLS_INSPECTOR))
    });
    let needed = listener.filter_chains.iter().any(|chain| {
        chain.filter_chain_match.as_ref().is_some_and(|m| {
            !m.server_names.is_empty()
                || !m.application_protocols.is_empty()
                || m.transport_protocol == "tls"
        })
    });
    configured || needed
}

pub(super) fn chain_taken(config: &Listener, proto: &pb::Listener, at: usize) -> ChainTaken {
    let chain = chain_proto(proto, at);
    let filters = chain.map(|c| c.filters.iter().map(|f| f.name.clone()).collect());
    ChainTaken {
        index: (Some(at) != config.default_chain).then_some(at),
        name: config.chains[at].name.to_string(),
        criteria: chain
            .and_then(|c| c.filter_chain_match.as_ref())
            .map(json_of),
        filters: filters.unwrap_or_default(),
    }
}

/// The configuration of the last network filter of a chain.
pub(super) fn terminal_of(proto: &pb::Listener, at: usize) -> Option<&Any> {
    match chain_proto(proto, at)?
        .filters
        .last()?
        .config_type
        .as_ref()?
    {
        ConfigType::TypedConfig(any) => Some(any),
        ConfigType::ConfigDiscovery(_) => None,
    }
}

/// Chains are numbered in the order of the configuration, the default chain after all others.
fn chain_proto(proto: &pb::Listener, at: usize) -> Option<&pb::FilterChain> {
    let default = proto.default_filter_chain.as_ref();
    proto.filter_chains.get(at).or(default)
}
