//! Network filters: what happens to the bytes of a connection.
//!
//! The last filter of a chain is *terminal*: it takes the connection over and serves it to its end. Those before it are called
//! when the connection starts and, if they ask for it, for every piece of data; a chain in which none asks costs nothing per read.

pub mod connection_limit;
pub mod direct_response;
pub mod echo;
pub mod ext_authz;
pub mod filtered_io;
pub mod local_ratelimit;
pub mod ratelimit;
pub mod rbac;
pub mod tcp_proxy;

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;

use crate::LocalBoxFuture;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::explain::Verdict;
use crate::http::RequestHead;
use crate::net::Io;
use crate::server::{FactoryContext, Worker};
use crate::stream_info::ConnectionInfo;

/// Every network filter that can be configured.
pub static FACTORIES: &[&dyn NetworkFilterFactory] = &[
    &connection_limit::Factory,
    &direct_response::Factory,
    &echo::Factory,
    &ext_authz::Factory,
    &ratelimit::Factory,
    &local_ratelimit::Factory,
    &rbac::Factory,
    &tcp_proxy::Factory,
    &crate::http_connection_manager::Factory,
];

/// A connection on its way through its filters.
#[derive(Debug)]
pub struct Connection {
    /// Its bytes.
    pub io: Io,
    /// What is known about it.
    pub info: Rc<ConnectionInfo>,
    /// The worker that it lives on.
    pub worker: Rc<Worker>,
    /// When to end it: the listener or the filter chain goes away.
    pub drain: Rc<dyn DrainSignal>,
    /// `Listener.per_connection_buffer_limit_bytes`.
    pub buffer_limit: usize,
}

/// Tells a connection that it should end soon.
pub trait DrainSignal: fmt::Debug {
    /// Whether the connection should end as soon as its streams allow. Cheap: asked once per response.
    fn is_draining(&self) -> bool;

    /// Ends when draining begins, for connections that can be told to end at any time.
    fn draining(&self) -> LocalBoxFuture<'static, ()>;

    /// Ends when connections that rest are to be closed, even if a request may be under way to them already.
    fn closing(&self) -> LocalBoxFuture<'static, ()> {
        self.draining()
    }
}

/// A filter before the terminal one.
#[allow(unused_variables, reason = "a default ignores what it is given")]
pub trait NetworkFilter {
    /// The connection was accepted, its filters are about to run.
    fn on_new_connection(&mut self, cx: &ConnectionInfo) -> NetworkStatus {
        NetworkStatus::Continue
    }

    /// Whether `on_data` and `on_write` are to be called at all. One such filter in a chain is enough to have all of them called.
    fn wants_data(&self) -> bool {
        false
    }

    /// Bytes came from the client. What stays in `data` at `Continue` goes on.
    fn on_data(&mut self, cx: &ConnectionInfo, data: &mut BytesMut, end: bool) -> NetworkStatus {
        NetworkStatus::Continue
    }

    /// Bytes go to the client.
    fn on_write(&mut self, cx: &ConnectionInfo, data: &mut BytesMut, end: bool) -> NetworkStatus {
        NetworkStatus::Continue
    }

    /// The future of a `Wait` has ended.
    fn resume(&mut self, cx: &ConnectionInfo) -> NetworkStatus {
        NetworkStatus::Continue
    }
}

/// How a connection goes on after a filter.
pub enum NetworkStatus {
    /// To the next filter.
    Continue,
    /// Nothing goes on until more data comes.
    StopIteration,
    /// Nothing goes on until the future ends; then `resume` is called.
    Wait(LocalBoxFuture<'static, ()>),
    /// The connection is closed; the text becomes `%CONNECTION_TERMINATION_DETAILS%`, unless it is empty.
    Close(&'static str),
}

/// A terminal filter on one worker.
pub trait TerminalFilter {
    /// Serves the connection to its end.
    fn serve(self: Rc<Self>, connection: Connection) -> LocalBoxFuture<'static, ()>;
}

/// A configured network filter.
pub enum NetworkFilterConfig {
    /// One before the end of the chain.
    Filter(Arc<dyn FilterConfig>),
    /// The end of a chain.
    Terminal(Arc<dyn TerminalConfig>),
}

/// A configured filter, shared by all workers.
pub trait FilterConfig: Send + Sync {
    /// The filter for a new connection on this worker.
    fn new_connection(&self, worker: &Rc<Worker>) -> Box<dyn NetworkFilter>;

    /// The same for a filter that keeps what is known of the connection.
    fn new_filter(&self, worker: &Rc<Worker>, info: &Rc<ConnectionInfo>) -> Box<dyn NetworkFilter> {
        let _ = info;
        self.new_connection(worker)
    }
}

/// A configured terminal filter, shared by all workers.
pub trait TerminalConfig: Send + Sync {
    /// Makes this worker's instance: called once per worker.
    fn on_worker(self: Arc<Self>, worker: &Rc<Worker>) -> Rc<dyn TerminalFilter>;

    /// What it would do with a connection whose first request has this head; for explanations.
    fn judge(
        self: Arc<Self>,
        worker: &Rc<Worker>,
        connection: &Rc<ConnectionInfo>,
        head: RequestHead,
    ) -> Verdict {
        let _ = (worker, connection, head);
        Verdict::Other
    }
}

/// Makes network filters out of configuration. One per extension, listed in [`FACTORIES`].
pub trait NetworkFilterFactory: Sync {
    /// The canonical name: `envoy.filters.network.tcp_proxy`.
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
    ) -> Result<NetworkFilterConfig, Rejected>;
}
