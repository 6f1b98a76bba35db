//! `envoy.filters.listener.tls_inspector`: tells TLS from plain text, and reads server name and protocols off the ClientHello.
//! Type URLs: `envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/listener_filters/tls_inspector>
//! Stats: `tls_inspector.{client_hello_too_large,tls_found,tls_not_found,alpn_found,alpn_not_found,sni_found,sni_not_found}`,
//! `tls_inspector.bytes_processed`. Dynamic metadata: `failure_reason` in `envoy.filters.listener.tls_inspector`.
//! Deviations: versions, ciphers and extensions other than server name and ALPN are not judged, as a handshake would.

pub mod client_hello;
pub mod fingerprint;

use std::sync::Arc;

use outrigger_proto::pb::envoy::extensions::filters::listener::tls_inspector::v3 as pb;
use serde_json::Value;

use self::client_hello::{ClientHello, Parsed, unwrap_records};
use super::{ListenerFilter, ListenerFilterConfig, ListenerFilterFactory, ListenerFilterStatus};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::server::FactoryContext;
use crate::stats::Scope;
use crate::stats_group;
use crate::stream_info::ConnectionInfo;

/// Makes the filter.
pub struct Factory;

impl ListenerFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.listener.tls_inspector"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"]
    }

    fn from_proto(
        &self,
        config: &TypedConfig,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<dyn ListenerFilterConfig>, Rejected> {
        let config = Config::from_proto(config.decode(path)?, cx.scope, path)?;
        Ok(Arc::new(SharedConfig(Arc::new(config))))
    }
}

stats_group! {
    /// What connections turned out to be.
    pub struct Stats {
        counter client_hello_too_large;
        counter tls_found;
        counter tls_not_found;
        counter alpn_found;
        counter alpn_not_found;
        counter sni_found;
        counter sni_not_found;
        histogram bytes_processed (Bytes);
    }
}

struct Config {
    ja3: bool,
    ja4: bool,
    close_on_errors: bool,
    /// Default and most: 16 KiB.
    max_client_hello_size: usize,
    stats: Stats,
}

struct SharedConfig(Arc<Config>);

impl Config {
    fn from_proto(
        proto: pb::TlsInspector,
        scope: &Scope,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::TlsInspector {
            enable_ja3_fingerprinting,
            enable_ja4_fingerprinting,
            // Harmless: the buffer grows as bytes arrive.
            initial_read_buffer_size: _,
            close_connection_on_client_hello_parsing_errors,
            max_client_hello_size,
        } = proto;
        let max = path.in_range(
            "max_client_hello_size",
            max_client_hello_size.map_or(MAX_CLIENT_HELLO, |size| size.value),
            0..=MAX_CLIENT_HELLO,
        )?;
        Ok(Self {
            ja3: enable_ja3_fingerprinting.is_some_and(|enable| enable.value),
            ja4: enable_ja4_fingerprinting.is_some_and(|enable| enable.value),
            close_on_errors: close_connection_on_client_hello_parsing_errors,
            max_client_hello_size: usize::try_from(max).unwrap_or(usize::MAX),
            stats: Stats::new(&scope.scope("tls_inspector.")),
        })
    }
}

impl ListenerFilterConfig for SharedConfig {
    fn new_connection(&self) -> Box<dyn ListenerFilter> {
        Box::new(TlsInspector {
            config: self.0.clone(),
            needed: 1,
        })
    }
}

struct TlsInspector {
    config: Arc<Config>,
    /// Nothing can be said before this many bytes are there.
    needed: usize,
}

impl ListenerFilter for TlsInspector {
    fn max_read_bytes(&self) -> usize {
        self.config.max_client_hello_size
    }

    fn inspect(&mut self, bytes: &[u8], connection: &mut ConnectionInfo) -> ListenerFilterStatus {
        if bytes.len() < self.needed && bytes.len() < self.config.max_client_hello_size {
            return ListenerFilterStatus::NeedMore;
        }
        match unwrap_records(bytes, self.config.max_client_hello_size) {
            Parsed::NeedMore(_) if bytes.len() >= self.config.max_client_hello_size => {
                self.too_large(bytes.len(), connection)
            }
            Parsed::NeedMore(needed) => {
                self.needed = needed;
                ListenerFilterStatus::NeedMore
            }
            Parsed::NotTls => self.not_tls(bytes.len().min(RECORD_HEADER), bytes.len(), connection),
            Parsed::ClientHello { message, consumed } => match ClientHello::parse(&message) {
                Some(hello) if hello.server_name().is_ok() => {
                    self.found(&hello, consumed, connection)
                }
                _ => self.not_tls(consumed, bytes.len(), connection),
            },
        }
    }
}

impl TlsInspector {
    fn found(
        &self,
        hello: &ClientHello<'_>,
        consumed: usize,
        connection: &mut ConnectionInfo,
    ) -> ListenerFilterStatus {
        let config = &*self.config;
        config.stats.bytes_processed().record(consumed as u64);
        if config.ja3 {
            connection.tls_fingerprints.ja3 = Some(fingerprint::ja3(hello).into());
        }
        if config.ja4 {
            connection.tls_fingerprints.ja4 = Some(fingerprint::ja4(hello).into());
        }
        match hello.server_name() {
            Ok(Some(name)) => {
                config.stats.sni_found().inc();
                let name = String::from_utf8_lossy(name).to_ascii_lowercase();
                connection.requested_server_name = Some(name.into());
            }
            _ => config.stats.sni_not_found().inc(),
        }
        config.stats.tls_found().inc();
        if let Some(protocols) = hello.application_protocols() {
            config.stats.alpn_found().inc();
            connection.application_protocols = protocols;
        } else {
            config.stats.alpn_not_found().inc();
        }
        connection.transport_protocol = Some("tls");
        ListenerFilterStatus::Continue { consumed: 0 }
    }

    fn not_tls(
        &self,
        consumed: usize,
        read: usize,
        connection: &mut ConnectionInfo,
    ) -> ListenerFilterStatus {
        let config = &*self.config;
        config.stats.bytes_processed().record(consumed as u64);
        if config.close_on_errors {
            if read >= config.max_client_hello_size {
                config.stats.client_hello_too_large().inc();
                set_failure_reason(connection, "ClientHelloTooLarge");
            }
            return ListenerFilterStatus::Close("tls_inspector: no ClientHello");
        }
        config.stats.tls_not_found().inc();
        set_failure_reason(connection, "ClientHelloNotDetected");
        ListenerFilterStatus::Continue { consumed: 0 }
    }

    fn too_large(&self, read: usize, connection: &mut ConnectionInfo) -> ListenerFilterStatus {
        let stats = &self.config.stats;
        stats.bytes_processed().record(read as u64);
        stats.client_hello_too_large().inc();
        set_failure_reason(connection, "ClientHelloTooLarge");
        ListenerFilterStatus::Close("tls_inspector: the ClientHello is too large")
    }
}

fn set_failure_reason(connection: &mut ConnectionInfo, reason: &str) {
    let values = [(
        "failure_reason".to_owned(),
        Value::String(reason.to_owned()),
    )];
    connection.dynamic_metadata.get_mut().merge(
        "envoy.filters.listener.tls_inspector",
        values.into_iter().collect(),
    );
}

const MAX_CLIENT_HELLO: u32 = 16 * 1024;
const RECORD_HEADER: usize = 5;

#[cfg(test)]
mod tests {
    use outrigger_proto::pb::google::protobuf::{BoolValue, UInt32Value};

    use super::client_hello::tests::{alpn, hello, records, sni};
    use super::*;
    use crate::config::ConfigReport;
    use crate::net::Address;
    use crate::stats::Store;

    fn config(proto: pb::TlsInspector) -> SharedConfig {
        let report = ConfigReport::new();
        let path = ConfigPath::root(&report, "filter");
        let config = Config::from_proto(proto, &Store::new(0).scope(""), &path);
        SharedConfig(Arc::new(
            config.unwrap_or_else(|_| panic!("{:?}", report.take())),
        ))
    }

    fn connection() -> ConnectionInfo {
        let address = Address::Pipe("@a".into());
        ConnectionInfo::between(address.clone(), address)
    }

    #[test]
    fn a_client_hello_in_pieces_gives_name_and_protocols() {
        let config = config(pb::TlsInspector {
            enable_ja3_fingerprinting: Some(BoolValue { value: true }),
            enable_ja4_fingerprinting: Some(BoolValue { value: true }),
            ..Default::default()
        });
        let bytes = records(&hello(&[sni(b"Foo.Example"), alpn(&[b"h2"])]), 30);
        let mut connection = connection();
        let mut filter = config.new_connection();
        for end in 1..bytes.len() {
            assert_eq!(
                filter.inspect(&bytes[..end], &mut connection),
                ListenerFilterStatus::NeedMore
            );
        }
        assert_eq!(
            filter.inspect(&bytes, &mut connection),
            ListenerFilterStatus::Continue { consumed: 0 }
        );
        assert_eq!(
            connection.requested_server_name.as_deref(),
            Some("foo.example")
        );
        assert_eq!(connection.application_protocols, [Box::from(&b"h2"[..])]);
        assert_eq!(connection.transport_protocol, Some("tls"));
        assert!(connection.tls_fingerprints.ja3.is_some());
        assert!(connection.tls_fingerprints.ja4.is_some());
        assert_eq!(config.0.stats.tls_found().value(), 1);
        assert_eq!(config.0.stats.alpn_found().value(), 1);
        assert_eq!(config.0.stats.sni_found().value(), 1);
    }

    #[test]
    fn plain_text_goes_on_unless_errors_close() {
        let lenient = config(pb::TlsInspector::default());
        let mut connection = connection();
        assert_eq!(
            lenient
                .new_connection()
                .inspect(b"GET / HTTP/1.1", &mut connection),
            ListenerFilterStatus::Continue { consumed: 0 }
        );
        assert_eq!(connection.transport_protocol, None);
        assert_eq!(lenient.0.stats.tls_not_found().value(), 1);
        assert_eq!(
            connection
                .dynamic_metadata
                .borrow()
                .value("envoy.filters.listener.tls_inspector", ["failure_reason"]),
            Some(&Value::String("ClientHelloNotDetected".into()))
        );
        let strict = config(pb::TlsInspector {
            close_connection_on_client_hello_parsing_errors: true,
            ..Default::default()
        });
        assert!(matches!(
            strict
                .new_connection()
                .inspect(b"GET / HTTP/1.1", &mut connection),
            ListenerFilterStatus::Close(_)
        ));
    }

    #[test]
    fn a_client_hello_beyond_the_limit_closes() {
        let config = config(pb::TlsInspector {
            max_client_hello_size: Some(UInt32Value { value: 100 }),
            ..Default::default()
        });
        let bytes = records(&hello(&[sni(&[b'a'; 200])]), 1000);
        assert!(matches!(
            config
                .new_connection()
                .inspect(&bytes[..100], &mut connection()),
            ListenerFilterStatus::Close(_)
        ));
        assert_eq!(config.0.stats.client_hello_too_large().value(), 1);
    }

    #[test]
    fn a_limit_beyond_16_kib_is_refused() {
        let report = ConfigReport::new();
        let proto = pb::TlsInspector {
            max_client_hello_size: Some(UInt32Value { value: 20_000 }),
            ..Default::default()
        };
        let path = ConfigPath::root(&report, "filter");
        assert!(Config::from_proto(proto, &Store::new(0).scope(""), &path).is_err());
        assert_eq!(
            report.take()[0].to_string(),
            "filter / max_client_hello_size: 20000 is not in 0..=16384"
        );
    }
}
