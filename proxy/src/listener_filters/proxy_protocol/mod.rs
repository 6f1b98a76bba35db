//! `envoy.filters.listener.proxy_protocol`: takes the client's address from a PROXY protocol header, version 1 or 2.
//! Type URLs: `envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol`.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/listener_filters/proxy_protocol>
//! Stats: `proxy_proto.[<stat_prefix>.]{not_found_allowed,not_found_disallowed}`, `….versions.{v1,v2}.{found,disallowed,error}`.
//! Filter state: `envoy.network.proxy_protocol_options` (addresses and TLVs to pass on), `envoy.network.proxy_protocol.tlv`.
//! Deviations: TLVs are not offered as typed metadata.

pub mod header;

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use outrigger_proto::pb::envoy::config::core::v3::{
    ProxyProtocolPassThroughTlVs, proxy_protocol_config, proxy_protocol_pass_through_tl_vs,
};
use outrigger_proto::pb::envoy::extensions::filters::listener::proxy_protocol::v3 as pb;
use serde_json::Value;

use self::header::{Header, Parsed, Version, possible_version};
use super::{ListenerFilter, ListenerFilterConfig, ListenerFilterFactory, ListenerFilterStatus};
use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::net::{Address, PROXY_PROTOCOL_OPTIONS, ProxyProtocolData};
use crate::server::FactoryContext;
use crate::stats::Scope;
use crate::stats_group;
use crate::stream_info::{ConnectionInfo, FilterStateObject};

/// Makes the filter.
pub struct Factory;

impl ListenerFilterFactory for Factory {
    fn name(&self) -> &'static str {
        "envoy.filters.listener.proxy_protocol"
    }

    fn type_names(&self) -> &'static [&'static str] {
        &["envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"]
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
    /// Connections without a header.
    pub struct Stats {
        counter not_found_allowed;
        counter not_found_disallowed;
    }
}

stats_group! {
    /// Headers of one version.
    pub struct VersionStats {
        counter found;
        counter disallowed;
        counter error;
    }
}

/// What is done with headers.
struct Config {
    rules: BTreeMap<u8, Rule>,
    location: pb::proxy_protocol::TlvLocation,
    allow_requests_without_proxy_protocol: bool,
    pass_through: PassThrough,
    v1_allowed: bool,
    v2_allowed: bool,
    stats: Stats,
    v1: VersionStats,
    v2: VersionStats,
}

/// Where the value of a TLV goes.
struct Rule {
    namespace: String,
    key: String,
    encoding: pb::proxy_protocol::key_value_pair::ValueStringEncoding,
}

/// Which TLVs are kept for whoever writes a header of its own.
enum PassThrough {
    None,
    All,
    Types(HashSet<u8>),
}

struct SharedConfig(Arc<Config>);

impl Config {
    fn from_proto(
        proto: pb::ProxyProtocol,
        scope: &Scope,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::ProxyProtocol {
            rules,
            allow_requests_without_proxy_protocol,
            pass_through_tlvs,
            disallowed_versions,
            stat_prefix,
            tlv_location,
        } = proto;
        let rules = path.each("rules", rules, Rule::from_proto);
        let location = path.enumeration("tlv_location", tlv_location);
        let pass_through = path.optional("pass_through_tlvs", pass_through_tlvs, |tlvs, path| {
            PassThrough::from_proto(tlvs, path)
        });
        let disallowed = path.each(
            "disallowed_versions",
            disallowed_versions,
            |version, path| {
                proxy_protocol_config::Version::try_from(version)
                    .map_err(|_| path.reject(format!("{version} is not V1 (0) or V2 (1)")))
            },
        );
        let disallowed = disallowed?;
        let scope = if stat_prefix.is_empty() {
            scope.scope("proxy_proto.")
        } else {
            scope.scope(&format!("proxy_proto.{stat_prefix}."))
        };
        Ok(Self {
            rules: rules?.into_iter().collect(),
            location: location?,
            allow_requests_without_proxy_protocol,
            pass_through: pass_through?.unwrap_or(PassThrough::None),
            v1_allowed: !disallowed.contains(&proxy_protocol_config::Version::V1),
            v2_allowed: !disallowed.contains(&proxy_protocol_config::Version::V2),
            stats: Stats::new(&scope),
            v1: VersionStats::new(&scope.scope("versions.v1.")),
            v2: VersionStats::new(&scope.scope("versions.v2.")),
        })
    }

    fn stats_of(&self, version: Version) -> &VersionStats {
        match version {
            Version::V1 => &self.v1,
            Version::V2 => &self.v2,
        }
    }

    fn allows(&self, version: Version) -> bool {
        match version {
            Version::V1 => self.v1_allowed,
            Version::V2 => self.v2_allowed,
        }
    }

    fn apply(&self, header: &Header<'_>, connection: &mut ConnectionInfo) {
        let tlvs = header::tlvs(header.tlvs).unwrap_or_default();
        if let Some((source, destination)) = header.addresses {
            connection.remote_address = Address::Ip(source);
            connection.local_address = Address::Ip(destination);
        }
        let passed = tlvs
            .iter()
            .filter(|(kind, _)| self.pass_through.contains(*kind))
            .map(|(kind, value)| (*kind, Box::from(*value)))
            .collect();
        let data = ProxyProtocolData {
            source: connection.remote_address.clone(),
            destination: connection.local_address.clone(),
            tlvs: passed,
        };
        connection
            .filter_state
            .get_mut()
            .set(PROXY_PROTOCOL_OPTIONS, Rc::new(data));
        self.apply_rules(&tlvs, connection);
    }

    fn apply_rules(&self, tlvs: &[(u8, &[u8])], connection: &mut ConnectionInfo) {
        let mut in_filter_state = TlvValues::default();
        for (kind, value) in tlvs {
            let Some(rule) = self.rules.get(kind) else {
                continue;
            };
            let text = rule.encode(value);
            match self.location {
                pb::proxy_protocol::TlvLocation::FilterState => {
                    in_filter_state.0.insert(rule.key.clone(), text);
                }
                pb::proxy_protocol::TlvLocation::DynamicMetadata => {
                    let values = [(rule.key.clone(), Value::String(text))];
                    connection
                        .dynamic_metadata
                        .get_mut()
                        .merge(&rule.namespace, values.into_iter().collect());
                }
            }
        }
        if !in_filter_state.0.is_empty() {
            connection
                .filter_state
                .get_mut()
                .set(TLV_FILTER_STATE, Rc::new(in_filter_state));
        }
    }
}

impl Rule {
    fn from_proto(
        proto: pb::proxy_protocol::Rule,
        path: &ConfigPath<'_>,
    ) -> Result<(u8, Self), Rejected> {
        let pb::proxy_protocol::Rule {
            tlv_type,
            on_tlv_present,
        } = proto;
        let kind = u8::try_from(tlv_type).map_err(|_| {
            path.field("tlv_type")
                .reject(format!("{tlv_type} is not in 0..=255"))
        });
        let pair = path.required("on_tlv_present", on_tlv_present);
        let pair_path = path.field("on_tlv_present");
        let pb::proxy_protocol::KeyValuePair {
            metadata_namespace,
            key,
            value_string_encoding,
        } = pair?;
        let key = pair_path.non_empty("key", key);
        let encoding = pair_path.enumeration("value_string_encoding", value_string_encoding);
        let namespace = if metadata_namespace.is_empty() {
            "envoy.filters.listener.proxy_protocol".to_owned()
        } else {
            metadata_namespace
        };
        Ok((
            kind?,
            Self {
                namespace,
                key: key?,
                encoding: encoding?,
            },
        ))
    }

    fn encode(&self, value: &[u8]) -> String {
        use pb::proxy_protocol::key_value_pair::ValueStringEncoding::{
            Base64, SanitizedUtf8, Unspecified,
        };
        match self.encoding {
            Base64 => base64(value),
            Unspecified | SanitizedUtf8 => sanitize_utf8(value),
        }
    }
}

impl PassThrough {
    fn from_proto(
        proto: ProxyProtocolPassThroughTlVs,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let ProxyProtocolPassThroughTlVs {
            match_type,
            tlv_type,
        } = proto;
        let types = path.each("tlv_type", tlv_type, |kind, path| {
            u8::try_from(kind).map_err(|_| path.reject(format!("{kind} is not in 0..=255")))
        });
        let match_type = path.enumeration("match_type", match_type)?;
        Ok(match match_type {
            proxy_protocol_pass_through_tl_vs::PassTlVsMatchType::IncludeAll => Self::All,
            proxy_protocol_pass_through_tl_vs::PassTlVsMatchType::Include => {
                Self::Types(types?.into_iter().collect())
            }
        })
    }

    fn contains(&self, kind: u8) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Types(types) => types.contains(&kind),
        }
    }
}

impl ListenerFilterConfig for SharedConfig {
    fn new_connection(&self) -> Box<dyn ListenerFilter> {
        Box::new(ProxyProtocol {
            config: self.0.clone(),
        })
    }
}

struct ProxyProtocol {
    config: Arc<Config>,
}

impl ListenerFilter for ProxyProtocol {
    fn max_read_bytes(&self) -> usize {
        header::MAX_LENGTH
    }

    fn inspect(&mut self, bytes: &[u8], connection: &mut ConnectionInfo) -> ListenerFilterStatus {
        let config = &*self.config;
        if config.allow_requests_without_proxy_protocol
            && !possible_version(bytes).is_some_and(|version| config.allows(version))
        {
            config.stats.not_found_allowed().inc();
            return ListenerFilterStatus::Continue { consumed: 0 };
        }
        match header::parse(bytes) {
            Parsed::NeedMore => ListenerFilterStatus::NeedMore,
            Parsed::NotFound => {
                config.stats.not_found_disallowed().inc();
                ListenerFilterStatus::Close("proxy_protocol: no header")
            }
            Parsed::Malformed(version) => {
                config.stats_of(version).error().inc();
                ListenerFilterStatus::Close("proxy_protocol: malformed header")
            }
            Parsed::Header(header) if !config.allows(header.version) => {
                config.stats_of(header.version).disallowed().inc();
                ListenerFilterStatus::Close("proxy_protocol: version not allowed")
            }
            Parsed::Header(header) => {
                config.stats_of(header.version).found().inc();
                config.apply(&header, connection);
                ListenerFilterStatus::Continue {
                    consumed: header.length,
                }
            }
        }
    }
}

/// The values of TLVs by the keys of their rules.
#[derive(Debug, Default)]
struct TlvValues(BTreeMap<String, String>);

impl FilterStateObject for TlvValues {
    fn serialize_as_string(&self) -> Option<String> {
        self.serialize_as_json().map(|json| json.to_string())
    }

    fn serialize_as_json(&self) -> Option<Value> {
        Some(
            self.0
                .iter()
                .map(|(key, value)| (key.clone(), Value::String(value.clone())))
                .collect(),
        )
    }

    fn field(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }
}

/// Every byte that belongs to no character becomes an exclamation mark.
fn sanitize_utf8(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    text
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .fold(0usize, |group, byte| group << 8 | usize::from(*byte))
            << (8 * (3 - chunk.len()));
        for position in 0..4 {
            text.push(if position <= chunk.len() {
                char::from(ALPHABET[group >> (18 - 6 * position) & 63])
            } else {
                '='
            });
        }
    }
    text
}

const TLV_FILTER_STATE: &str = "envoy.network.proxy_protocol.tlv";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigReport;
    use crate::stats::Store;

    fn config(proto: pb::ProxyProtocol) -> SharedConfig {
        let report = ConfigReport::new();
        let store = Store::new(0);
        let config = Config::from_proto(
            proto,
            &store.scope(""),
            &ConfigPath::root(&report, "filter"),
        );
        SharedConfig(Arc::new(
            config.unwrap_or_else(|_| panic!("{:?}", report.take())),
        ))
    }

    fn connection() -> ConnectionInfo {
        let address: Address = "9.9.9.9:9".parse::<std::net::SocketAddr>().unwrap().into();
        ConnectionInfo::between(address.clone(), address)
    }

    fn v2_with_tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let body = [
            &[1, 2, 3, 4, 5, 6, 7, 8, 0, 10, 0, 20, kind, 0][..],
            &[u8::try_from(value.len()).unwrap()],
            value,
        ]
        .concat();
        [
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0".as_slice(),
            &[u8::try_from(body.len()).unwrap()],
            &body,
        ]
        .concat()
    }

    #[test]
    fn a_header_replaces_the_addresses_but_not_the_direct_ones() {
        let mut connection = connection();
        let config = config(pb::ProxyProtocol::default());
        let status = config
            .new_connection()
            .inspect(b"PROXY TCP4 1.2.3.4 5.6.7.8 10 20\r\nhi", &mut connection);
        assert_eq!(status, ListenerFilterStatus::Continue { consumed: 34 });
        assert_eq!(connection.remote_address.to_string(), "1.2.3.4:10");
        assert_eq!(connection.local_address.to_string(), "5.6.7.8:20");
        assert_eq!(connection.direct_remote_address.to_string(), "9.9.9.9:9");
        assert_eq!(config.0.v1.found().value(), 1);
    }

    #[test]
    fn a_connection_without_header_passes_only_where_that_is_allowed() {
        let strict = config(pb::ProxyProtocol::default());
        assert!(matches!(
            strict.new_connection().inspect(b"GET /", &mut connection()),
            ListenerFilterStatus::Close(_)
        ));
        assert_eq!(strict.0.stats.not_found_disallowed().value(), 1);
        let open = config(pb::ProxyProtocol {
            allow_requests_without_proxy_protocol: true,
            ..Default::default()
        });
        assert_eq!(
            open.new_connection().inspect(b"GET /", &mut connection()),
            ListenerFilterStatus::Continue { consumed: 0 }
        );
        assert_eq!(open.0.stats.not_found_allowed().value(), 1);
    }

    #[test]
    fn a_disallowed_version_is_refused() {
        let config = config(pb::ProxyProtocol {
            disallowed_versions: vec![0],
            ..Default::default()
        });
        assert!(matches!(
            config
                .new_connection()
                .inspect(b"PROXY UNKNOWN\r\n", &mut connection()),
            ListenerFilterStatus::Close(_)
        ));
        assert_eq!(config.0.v1.disallowed().value(), 1);
    }

    #[test]
    fn a_rule_puts_its_tlv_into_metadata_and_pass_through_keeps_it() {
        let config = config(pb::ProxyProtocol {
            rules: vec![pb::proxy_protocol::Rule {
                tlv_type: 0xea,
                on_tlv_present: Some(pb::proxy_protocol::KeyValuePair {
                    key: "vpc".into(),
                    ..Default::default()
                }),
            }],
            pass_through_tlvs: Some(ProxyProtocolPassThroughTlVs {
                match_type: 1,
                tlv_type: vec![0xea],
            }),
            ..Default::default()
        });
        let mut connection = connection();
        config
            .new_connection()
            .inspect(&v2_with_tlv(0xea, b"a\xffb"), &mut connection);
        let metadata = connection.dynamic_metadata.borrow();
        assert_eq!(
            metadata.value("envoy.filters.listener.proxy_protocol", ["vpc"]),
            Some(&Value::String("a!b".into()))
        );
        let state = connection.filter_state.borrow();
        let data: &ProxyProtocolData = state.get_as(PROXY_PROTOCOL_OPTIONS).unwrap();
        assert_eq!(data.tlvs, [(0xea, Box::from(&b"a\xffb"[..]))]);
    }

    #[test]
    fn values_are_encoded_as_base64_on_request() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"\xff\xfe\xfd\xfc", "//79/A=="),
        ] {
            assert_eq!(base64(bytes), text);
        }
    }
}
