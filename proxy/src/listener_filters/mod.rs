//! Listener filters: what is learned from the first bytes of a connection, before its filter chain is chosen.

pub mod http_inspector;
pub mod local_ratelimit;
pub mod original_dst;
pub mod proxy_protocol;
pub mod tls_inspector;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::server::FactoryContext;
use crate::stream_info::ConnectionInfo;

/// Every listener filter that can be configured.
pub static FACTORIES: &[&dyn ListenerFilterFactory] = &[
    &http_inspector::Factory,
    &local_ratelimit::Factory,
    &original_dst::Factory,
    &proxy_protocol::Factory,
    &tls_inspector::Factory,
];

/// One filter on one connection that is being accepted.
pub trait ListenerFilter {
    /// The most bytes that it must see at the start of the connection; 0 if it needs none.
    fn max_read_bytes(&self) -> usize;

    /// Whether `original_destination` is to be called before anything is read.
    fn wants_original_destination(&self) -> bool {
        false
    }

    /// Gives the destination that the client asked for before the kernel redirected the connection, where the socket has one.
    #[allow(unused_variables, reason = "a default ignores what it is given")]
    fn original_destination(
        &mut self,
        address: Option<SocketAddr>,
        connection: &mut ConnectionInfo,
    ) {
    }

    /// Looks at all bytes that have come so far. Called at once when `max_read_bytes` is 0, else whenever more have come.
    fn inspect(&mut self, bytes: &[u8], connection: &mut ConnectionInfo) -> ListenerFilterStatus;
}

/// How accepting goes on after a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerFilterStatus {
    /// To the next filter; the first `consumed` bytes belonged to this one and are dropped.
    Continue {
        /// How many bytes nobody else may see.
        consumed: usize,
    },
    /// More bytes are needed.
    NeedMore,
    /// The connection is closed without an answer.
    Close(&'static str),
}

/// A configured listener filter, shared by all workers.
pub trait ListenerFilterConfig: Send + Sync {
    /// The filter for a new connection.
    fn new_connection(&self) -> Box<dyn ListenerFilter>;
}

/// Makes listener filters out of configuration. One per extension, listed in [`FACTORIES`].
pub trait ListenerFilterFactory: Sync {
    /// The canonical name: `envoy.filters.listener.tls_inspector`.
    fn name(&self) -> &'static str;
    /// The messages that choose this factory.
    fn type_names(&self) -> &'static [&'static str];
    /// Converts the configuration.
    #[allow(
        clippy::wrong_self_convention,
        reason = "the name that every conversion has"
    )]
    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn ListenerFilterConfig>, Rejected>;
}
