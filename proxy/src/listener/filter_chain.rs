//! A filter chain: the network filters of the connections that it takes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::config::listener::v3 as pb;

use tokio::task::AbortHandle;

use super::drain::{Latch, ListenerDrain};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::matchers::metadata_from_proto;
use crate::network_filters::{
    FACTORIES, FilterConfig, NetworkFilterConfig, TerminalConfig, TerminalFilter,
};
use crate::server::{FactoryContext, Worker};
use crate::stream_info::DynamicMetadata;
use crate::transport_sockets::{DownstreamSocket, downstream_from_proto};

/// A configured chain, shared by all workers.
pub struct FilterChain {
    /// `FilterChain.name`.
    pub name: Arc<str>,
    socket: Option<Arc<dyn DownstreamSocket>>,
    handshake_limit: Option<Duration>,
    filters: Arc<[Arc<dyn FilterConfig>]>,
    /// None: the chain has no filters, and closes every connection.
    terminal: Option<Arc<dyn TerminalConfig>>,
}

/// A chain on one worker.
pub struct WorkerFilterChain {
    /// `FilterChain.name`.
    pub name: Arc<str>,
    /// What is laid over connections; none: nothing, they are plain.
    pub socket: Option<Arc<dyn DownstreamSocket>>,
    /// How long a handshake may take. None: any time.
    pub handshake_limit: Option<Duration>,
    /// Those before the terminal one.
    pub filters: Arc<[Arc<dyn FilterConfig>]>,
    /// None: every connection is closed.
    pub terminal: Option<Rc<dyn TerminalFilter>>,
    /// What it was made of.
    pub config: Arc<FilterChain>,
    /// Tells its connections to end.
    pub drain: Rc<ListenerDrain>,
    /// Those that it serves on this worker.
    pub(super) connections: Connections,
}

/// The tasks of the connections of a chain, by the numbers of the connections.
#[derive(Default)]
pub(super) struct Connections(RefCell<HashMap<u64, AbortHandle>>);

impl Connections {
    pub(super) fn insert(&self, id: u64, task: AbortHandle) {
        self.0.borrow_mut().insert(id, task);
    }

    pub(super) fn remove(&self, id: u64) {
        self.0.borrow_mut().remove(&id);
    }

    /// Ends them all, as they are.
    pub(super) fn close(&self) {
        let all = std::mem::take(&mut *self.0.borrow_mut());
        for task in all.into_values() {
            task.abort();
        }
    }
}

impl FilterChain {
    /// Its last filter; none: the chain has no filters, and closes every connection.
    pub fn terminal(&self) -> Option<Arc<dyn TerminalConfig>> {
        self.terminal.clone()
    }

    /// Converts a `FilterChain`, but for its match.
    #[allow(deprecated, reason = "every field is decided, also old ones")]
    pub fn from_proto(
        proto: pb::FilterChain,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::FilterChain {
            // Converted by the listener, for all of its chains together.
            filter_chain_match: _,
            filters,
            // Looked at by the listener: it makes a listener filter.
            use_proxy_proto: _,
            // Harmless: only shown.
            metadata: _,
            transport_socket,
            transport_socket_connect_timeout,
            name,
        } = proto;
        let handshake = path.duration(
            "transport_socket_connect_timeout",
            transport_socket_connect_timeout,
        );
        let socket = path.optional("transport_socket", transport_socket, |proto, path| {
            downstream_from_proto(proto, cx, path)
        });
        let count = filters.len();
        let mut configs = Vec::with_capacity(count);
        let mut terminal = None;
        let mut failed = None;
        for (index, filter) in filters.into_iter().enumerate() {
            let path = path.index("filters", index);
            let is_last = index + 1 == count;
            match network_filter(filter, cx, &path) {
                Err(rejected) => failed = Some(rejected),
                Ok(NetworkFilterConfig::Terminal(config)) if is_last => terminal = Some(config),
                Ok(NetworkFilterConfig::Terminal(_)) => {
                    failed =
                        Some(path.reject("is a terminal filter and must be the last of its chain"));
                }
                Ok(NetworkFilterConfig::Filter(_)) if is_last => {
                    failed = Some(path.reject(
                        "is not a terminal filter and cannot be the last of its chain; \
                         legal are for example tcp_proxy and http_connection_manager",
                    ));
                }
                Ok(NetworkFilterConfig::Filter(config)) => configs.push(config),
            }
        }
        let socket = socket?;
        let handshake = handshake?;
        failed.map_or(Ok(()), Err)?;
        Ok(Self {
            name: name.into(),
            socket: socket.flatten(),
            handshake_limit: handshake.filter(|limit| !limit.is_zero()),
            filters: configs.into(),
            terminal,
        })
    }

    /// Whether everything that it needs, such as secrets, is there.
    pub fn is_ready(&self) -> bool {
        self.socket.as_ref().is_none_or(|socket| socket.is_ready())
    }

    /// This worker's instance.
    /// `modify_only`: only changes of the listener drain its connections.
    pub fn on_worker(
        self: &Arc<Self>,
        worker: &Rc<Worker>,
        modify_only: bool,
    ) -> WorkerFilterChain {
        let began = Rc::new(Latch::default());
        WorkerFilterChain {
            config: self.clone(),
            drain: Rc::new(ListenerDrain::new(began, worker.clone(), modify_only)),
            connections: Connections::default(),
            name: self.name.clone(),
            socket: self.socket.clone(),
            handshake_limit: self.handshake_limit,
            filters: self.filters.clone(),
            terminal: self
                .terminal
                .as_ref()
                .map(|terminal| terminal.clone().on_worker(worker)),
        }
    }
}

/// Converts metadata as far as filters and formatters read it.
pub(super) fn metadata_from(proto: Option<core::Metadata>) -> DynamicMetadata {
    proto.map(metadata_from_proto).unwrap_or_default()
}

fn network_filter(
    proto: pb::Filter,
    cx: &FactoryContext<'_>,
    path: &ConfigPath<'_>,
) -> Result<NetworkFilterConfig, Rejected> {
    // The name is a label; the type of the configuration chooses the filter.
    let pb::Filter {
        name: _,
        config_type,
    } = proto;
    let any = match path.required("typed_config", config_type)? {
        pb::filter::ConfigType::TypedConfig(any) => any,
        pb::filter::ConfigType::ConfigDiscovery(_) => {
            return Err(path.field("config_discovery").reject("is not supported"));
        }
    };
    let path = path.field("typed_config");
    let config = TypedConfig::from_any(any, &path)?;
    let factory = config.factory(FACTORIES, |factory| factory.type_names(), &path)?;
    factory.from_proto(&config, cx, &path)
}
