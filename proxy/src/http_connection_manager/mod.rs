//! `envoy.filters.network.http_connection_manager`: from bytes to streams, and the filters around them.
//!
//! Type URL: `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/http_conn_man>
//! Stats: `http.<stat_prefix>.*`, `listener.<address>.http.<stat_prefix>.*`.
//! Deviations: `downstream_cx_{rx,tx}_bytes_total` count the bytes of messages when a stream ends, not each read and write.
//! Deviations: an HTTP/2 connection outlives an upgrade that is refused with 403; Envoy closes it.
//! Deviations: `tracing`, `drain_timeout_jitter` and header validators are refused.
//! Deviations: a certificate is put into a client's empty JSON array (`[]`) of certificates; Envoy puts a comma before it.
//! Deviations: an HTTP/1.0 client that expects `100 Continue` gets none (RFC 9110); Envoy sends one.
//! Deviations: an idle HTTP/1 connection, or one that is old enough, is closed at once; Envoy lets `drain_timeout` pass.
//! Deviations: a line end alone begins no HTTP/1 request: no timeout of a request runs before its first other byte.
//! Deviations: a tunnel that its upstream ends is closed at once, where Envoy waits `delayed_close_timeout` for the client.
//! Deviations: `http_filters` must end with the router. Envoy takes an empty list, and then never answers.

mod client_cert;
mod config;
mod conn_headers;
mod connection;
mod date;
mod explain;
pub mod filter_chain;
mod local_reply;
mod manager;
mod original_ip;
pub mod path_normalize;
mod premature_resets;
mod proxy_status;
mod routing;
mod stats;
mod stream;
pub mod timer;

use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;

pub use client_cert::{
    ClientCertDetails, ClientCertFields, ClientCertFormat, ClientCertForwarding, ClientCertPolicy,
    ForwardClientCertDetails,
};
pub use config::HcmConfig;
pub use stats::HcmStats;

pub(crate) use conn_headers::uuid;

use crate::LocalBoxFuture;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::explain::Verdict;
use crate::http::RequestHead;
use crate::network_filters::{
    Connection, NetworkFilterConfig, NetworkFilterFactory, TerminalConfig, TerminalFilter,
};
use crate::server::{FactoryContext, Worker};
use crate::stream_info::ConnectionInfo;
use manager::Hcm;

/// Makes connection managers.
pub struct Factory;

impl NetworkFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.network.http_connection_manager"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<NetworkFilterConfig, Rejected> {
        let proto = config.decode::<pb::HttpConnectionManager>(path)?;
        Ok(NetworkFilterConfig::Terminal(Arc::new(
            HcmConfig::from_proto(proto, cx, path)?,
        )))
    }
}

impl TerminalConfig for HcmConfig {
    fn on_worker(self: Arc<Self>, worker: &Rc<Worker>) -> Rc<dyn TerminalFilter> {
        Rc::new(WorkerHcm(Rc::new(Hcm::new(self, worker))))
    }

    fn judge(
        self: Arc<Self>,
        worker: &Rc<Worker>,
        connection: &Rc<ConnectionInfo>,
        head: RequestHead,
    ) -> Verdict {
        Verdict::Http(Box::new(explain::judge(self, worker, connection, head)))
    }
}

/// The connection manager on one worker, as a terminal filter.
struct WorkerHcm(Rc<Hcm>);

impl TerminalFilter for WorkerHcm {
    fn serve(self: Rc<Self>, connection: Connection) -> LocalBoxFuture<'static, ()> {
        connection::serve(self.0.clone(), connection)
    }
}
