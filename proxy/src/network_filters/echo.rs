//! `envoy.filters.network.echo`: sends back what it receives.
//! Type URLs: `envoy.extensions.filters.network.echo.v3.Echo`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/network_filters/echo_filter>
//! Stats: none.
//! Deviations: what came before the client's end of stream is written out first; Envoy may drop it.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::network::echo::v3 as pb;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    Connection, NetworkFilterConfig, NetworkFilterFactory, TerminalConfig, TerminalFilter,
};
use crate::LocalBoxFuture;
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::server::{FactoryContext, Worker};

/// Makes the filter.
pub struct Factory;

impl NetworkFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.network.echo"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.network.echo.v3.Echo"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<NetworkFilterConfig, Rejected> {
        let pb::Echo {} = config.decode(path)?;
        Ok(NetworkFilterConfig::Terminal(Arc::new(Echo)))
    }
}

struct Echo;

impl TerminalConfig for Echo {
    fn on_worker(self: Arc<Self>, _: &Rc<Worker>) -> Rc<dyn TerminalFilter> {
        Rc::new(Self)
    }
}

impl TerminalFilter for Echo {
    fn serve(self: Rc<Self>, connection: Connection) -> LocalBoxFuture<'static, ()> {
        Box::pin(async move {
            let mut io = connection.io;
            let mut buffer = Vec::new();
            loop {
                // A buffer only while there is something to put into it.
                std::future::poll_fn(|cx| io.poll_read_ready(cx)).await;
                buffer.reserve(CHUNK);
                match io.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
                if io.write_all(&buffer).await.is_err() {
                    break;
                }
                buffer = Vec::new();
            }
            // The client may be gone already.
            let _ = io.shutdown().await;
        })
    }
}

const CHUNK: usize = 16 * 1024;
