//! `envoy.transport_sockets.raw_buffer`: plain bytes.
//! Type URLs: `envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/transport_sockets/raw_buffer/v3/raw_buffer.proto>
//! Deviations: none.

use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::transport_sockets::raw_buffer::v3 as pb;

use super::{DownstreamSocket, TransportSocketFactory, UpstreamSocket};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::server::FactoryContext;

/// Makes nothing: a plain connection has nothing laid over it.
pub struct Factory;

const TYPE_NAMES: &[&str] = &["envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"];

impl TransportSocketFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.transport_sockets.raw_buffer"
    }

    fn downstream_type_names(&self) -> &'static [&'static str] {
        TYPE_NAMES
    }

    fn upstream_type_names(&self) -> &'static [&'static str] {
        TYPE_NAMES
    }

    fn downstream(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Arc<dyn DownstreamSocket>>, Rejected> {
        let pb::RawBuffer {} = config.decode(path)?;
        Ok(None)
    }

    fn upstream(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Option<Arc<dyn UpstreamSocket>>, Rejected> {
        let pb::RawBuffer {} = config.decode(path)?;
        Ok(None)
    }
}
