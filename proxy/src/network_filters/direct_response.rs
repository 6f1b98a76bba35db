//! `envoy.filters.network.direct_response`: sends fixed bytes and closes.
//! Type URLs: `envoy.extensions.filters.network.direct_response.v3.Config`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/network_filters/direct_response_filter>
//! Stats: none.
//! Deviations: a file is read when the configuration is, and not watched.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_proto::pb::envoy::extensions::filters::network::direct_response::v3 as pb;
use tokio::io::AsyncWriteExt;

use super::{
    Connection, NetworkFilterConfig, NetworkFilterFactory, TerminalConfig, TerminalFilter,
};
use crate::LocalBoxFuture;
use crate::config::{ConfigPath, Rejected, TypedConfig, data_source};
use crate::server::{FactoryContext, Worker};

/// Makes the filter.
pub struct Factory;

impl NetworkFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.network.direct_response"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.network.direct_response.v3.Config"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<NetworkFilterConfig, Rejected> {
        let pb::Config { response } = config.decode(path)?;
        let response = path.optional("response", response, data_source)?;
        Ok(NetworkFilterConfig::Terminal(Arc::new(DirectResponse {
            response: response.unwrap_or_default(),
        })))
    }
}

#[derive(Clone)]
struct DirectResponse {
    response: Bytes,
}

impl TerminalConfig for DirectResponse {
    fn on_worker(self: Arc<Self>, _: &Rc<Worker>) -> Rc<dyn TerminalFilter> {
        Rc::new((*self).clone())
    }
}

impl TerminalFilter for DirectResponse {
    fn serve(self: Rc<Self>, connection: Connection) -> LocalBoxFuture<'static, ()> {
        Box::pin(async move {
            let mut io = connection.io;
            // A client that has gone misses the response; nobody else is concerned.
            let _ = io.write_all(&self.response).await;
            let _ = io.shutdown().await;
        })
    }
}
