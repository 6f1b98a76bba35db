//! What several fuzz targets use.

use std::net::SocketAddr;
use std::sync::Arc;

use outrigger::config::{ConfigPath, ConfigReport, TypedConfig};
use outrigger::listener_filters::{FACTORIES, ListenerFilterConfig, ListenerFilterStatus};
use outrigger::net::Address;
use outrigger::server::{FactoryContext, InitManager, LocalInfo, ServerContext};
use outrigger::stream_info::ConnectionInfo;

/// A plain connection.
pub fn connection() -> ConnectionInfo {
    let address = |port| Address::Ip(SocketAddr::from(([127, 0, 0, 1], port)));
    ConnectionInfo::between(address(1000), address(80))
}

/// The listener filter with this name, configured by these bytes.
pub fn listener_filter(name: &str, value: &[u8]) -> Arc<dyn ListenerFilterConfig> {
    let factory = FACTORIES.iter().find(|factory| factory.name() == name);
    let factory = factory.expect("the filter exists");
    let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
    let scope = server.stats.scope("listener.");
    let cx = FactoryContext {
        server: &server,
        scope: &scope,
        init: &InitManager::new("fuzz"),
    };
    let config = TypedConfig {
        type_name: factory.type_names()[0].to_owned(),
        value: value.to_vec().into(),
    };
    let report = ConfigReport::new();
    let config = factory.from_proto(&config, &cx, &ConfigPath::root(&report, "filter"));
    config.unwrap_or_else(|_| panic!("{:?}", report.take()))
}

/// Gives a filter all bytes at once and byte by byte. It must say the same, whatever the pieces were.
pub fn inspect_in_pieces(config: &dyn ListenerFilterConfig, bytes: &[u8]) {
    let at_once = {
        let mut filter = config.new_connection();
        let bytes = &bytes[..bytes.len().min(filter.max_read_bytes().max(1))];
        filter.inspect(bytes, &mut connection())
    };
    let mut filter = config.new_connection();
    let bytes = &bytes[..bytes.len().min(filter.max_read_bytes().max(1))];
    let mut connection = connection();
    // What decides early decides the same with more bytes, but for how it names a header that is broken.
    for end in 1..=bytes.len() {
        match filter.inspect(&bytes[..end], &mut connection) {
            ListenerFilterStatus::NeedMore => {}
            in_pieces => {
                assert_eq!(in_pieces, at_once, "after {end} bytes");
                return;
            }
        }
    }
    if !bytes.is_empty() {
        assert_eq!(at_once, ListenerFilterStatus::NeedMore);
    }
}
