//! `envoy.filters.listener.original_dst`: takes the destination that iptables redirected away from as the local address.
//! Type URLs: `envoy.extensions.filters.listener.original_dst.v3.OriginalDst`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/listener_filters/original_dst_filter>
//! Stats: none.
//! Deviations: addresses in the filter state of an internal connection are not looked at, as there are no internal listeners.

use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::listener::original_dst::v3 as pb;

use super::{ListenerFilter, ListenerFilterConfig, ListenerFilterFactory, ListenerFilterStatus};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::net::Address;
use crate::server::FactoryContext;
use crate::stream_info::ConnectionInfo;

/// Makes the filter.
pub struct Factory;

impl ListenerFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.listener.original_dst"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.listener.original_dst.v3.OriginalDst"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        _cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn ListenerFilterConfig>, Rejected> {
        let pb::OriginalDst {} = config.decode(path)?;
        Ok(Arc::new(Config))
    }
}

struct Config;

impl ListenerFilterConfig for Config {
    fn new_connection(&self) -> Box<dyn ListenerFilter> {
        Box::new(OriginalDst)
    }
}

struct OriginalDst;

impl ListenerFilter for OriginalDst {
    fn max_read_bytes(&self) -> usize {
        0
    }

    fn wants_original_destination(&self) -> bool {
        true
    }

    fn original_destination(
        &mut self,
        address: Option<SocketAddr>,
        connection: &mut ConnectionInfo,
    ) {
        if let Some(address) = address {
            connection.local_address = Address::Ip(address);
        }
    }

    fn inspect(&mut self, _: &[u8], _: &mut ConnectionInfo) -> ListenerFilterStatus {
        ListenerFilterStatus::Continue { consumed: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_destination_becomes_the_local_address() {
        let here: Address = "127.0.0.1:15001".parse::<SocketAddr>().unwrap().into();
        let there: SocketAddr = "10.0.0.7:80".parse().unwrap();
        let mut connection = ConnectionInfo::between(here.clone(), here.clone());
        let mut filter = Config.new_connection();
        assert!(filter.wants_original_destination());
        filter.original_destination(None, &mut connection);
        assert_eq!(connection.local_address, here);
        filter.original_destination(Some(there), &mut connection);
        assert_eq!(connection.local_address, there.into());
        assert_eq!(connection.direct_local_address, here);
    }
}
