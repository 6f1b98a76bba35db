//! Which filter chain takes a connection.
//!
//! The criteria are looked at in Envoy's order, each in an index of its own: destination port, destination address, server
//! name, transport protocol, application protocols, directly connected source address, source type, source address, source
//! port. At each step the most specific entry is taken and the way to less specific ones is closed.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use outrigger_proto::pb::envoy::config::listener::v3 as pb;

use crate::config::{ConfigPath, Rejected};
use crate::net::{Address, CidrRange, CidrTable};
use crate::stream_info::ConnectionInfo;

/// The chains of a listener by what they match. Values are indices of chains.
#[derive(Debug, Default)]
pub struct FilterChainMatcher {
    ports: HashMap<u16, CidrTable<ServerNames>>,
}

type SourcePorts = HashMap<u16, usize>;
type SourceTypes = [Option<CidrTable<SourcePorts>>; 3];
type ApplicationProtocols = HashMap<Box<[u8]>, CidrTable<SourceTypes>>;
type TransportProtocols = HashMap<Box<str>, ApplicationProtocols>;

/// The empty name stands for any, one with a leading dot for all names below it.
type ServerNames = HashMap<Box<str>, TransportProtocols>;

/// The criteria of one chain. An empty list stands for any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterChainMatch {
    /// 0: any.
    pub destination_port: u16,
    /// Destination addresses.
    pub prefix_ranges: Vec<CidrRange>,
    /// In lower case; those that began with `*.` begin with the dot.
    pub server_names: Vec<String>,
    /// Empty: any.
    pub transport_protocol: String,
    /// The protocols of which the client must offer one.
    pub application_protocols: Vec<String>,
    /// Addresses of the peer of the socket.
    pub direct_source_prefix_ranges: Vec<CidrRange>,
    /// Where the client runs.
    pub source_type: SourceType,
    /// Addresses of the client.
    pub source_prefix_ranges: Vec<CidrRange>,
    /// Ports of the client.
    pub source_ports: Vec<u16>,
}

/// Where a client runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the API's own names")]
pub enum SourceType {
    #[default]
    Any,
    SameIpOrLoopback,
    External,
}

impl FilterChainMatch {
    /// Converts a `FilterChainMatch`.
    pub fn from_proto(
        proto: pb::FilterChainMatch,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::FilterChainMatch {
            destination_port,
            prefix_ranges,
            address_suffix,
            suffix_len,
            direct_source_prefix_ranges,
            source_type,
            source_prefix_ranges,
            source_ports,
            server_names,
            transport_protocol,
            application_protocols,
        } = proto;
        let destination_port = destination_port.map_or(Ok(0), |port| {
            u16::try_from(port.value)
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| {
                    path.field("destination_port")
                        .reject(format!("{} is not in 1..=65535", port.value))
                })
        });
        let prefix_ranges = path.each("prefix_ranges", prefix_ranges, CidrRange::from_proto);
        let suffix = path.unsupported_if_set("address_suffix", address_suffix);
        let suffix_len = path.unsupported_if_set("suffix_len", suffix_len);
        let direct = path.each(
            "direct_source_prefix_ranges",
            direct_source_prefix_ranges,
            CidrRange::from_proto,
        );
        let source_type = path.enumeration("source_type", source_type);
        let sources = path.each(
            "source_prefix_ranges",
            source_prefix_ranges,
            CidrRange::from_proto,
        );
        let source_ports = path.each("source_ports", source_ports, |port, path| {
            u16::try_from(port)
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| path.reject(format!("{port} is not in 1..=65535")))
        });
        let server_names = path.each("server_names", server_names, server_name);
        suffix.and(suffix_len)?;
        Ok(Self {
            destination_port: destination_port?,
            prefix_ranges: prefix_ranges?,
            server_names: server_names?,
            transport_protocol,
            application_protocols,
            direct_source_prefix_ranges: direct?,
            source_type: match source_type? {
                pb::filter_chain_match::ConnectionSourceType::Any => SourceType::Any,
                pb::filter_chain_match::ConnectionSourceType::SameIpOrLoopback => {
                    SourceType::SameIpOrLoopback
                }
                pb::filter_chain_match::ConnectionSourceType::External => SourceType::External,
            },
            source_prefix_ranges: sources?,
            source_ports: source_ports?,
        })
    }
}

impl FilterChainMatcher {
    /// Adds a chain. An error names the chain that already takes some of the same connections.
    pub fn insert(&mut self, criteria: &FilterChainMatch, chain: usize) -> Result<(), usize> {
        let ranges = self.ports.entry(criteria.destination_port).or_default();
        for range in or_any(&criteria.prefix_ranges) {
            let names = ranges.entry(range, ServerNames::default);
            for name in or_empty(&criteria.server_names) {
                let transports = names.entry(name.into()).or_default();
                let protocols = transports
                    .entry(criteria.transport_protocol.as_str().into())
                    .or_default();
                for protocol in or_empty(&criteria.application_protocols) {
                    let direct = protocols.entry(protocol.as_bytes().into()).or_default();
                    for source in or_any(&criteria.direct_source_prefix_ranges) {
                        let types = direct.entry(source, SourceTypes::default);
                        insert_sources(types, criteria, chain)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The chain that takes `connection`.
    pub fn find(&self, connection: &ConnectionInfo) -> Option<usize> {
        let destination = &connection.local_address;
        let ranges = destination
            .port()
            .and_then(|port| self.ports.get(&port))
            .or_else(|| self.ports.get(&0))?;
        let names = ranges.find(destination.ip())?;
        let name = connection.requested_server_name.as_deref().unwrap_or("");
        let transports = find_server_name(names, name)?;
        let transport = connection.transport_protocol.unwrap_or("raw_buffer");
        let protocols = specific_or_any(transports, transport, "")?;
        let direct = connection
            .application_protocols
            .iter()
            .find_map(|protocol| protocols.get(protocol))
            .or_else(|| protocols.get(&b""[..]))?;
        let types = direct.find(connection.direct_remote_address.ip())?;
        let [any, local, external] = types;
        let by_type = if is_same_ip_or_loopback(connection) {
            local.as_ref()
        } else {
            external.as_ref()
        };
        let sources = by_type.or(any.as_ref())?;
        let ports = sources.find(connection.remote_address.ip())?;
        let port = connection.remote_address.port().unwrap_or(0);
        specific_or_any(ports, &port, &0).copied()
    }
}

fn insert_sources(
    types: &mut SourceTypes,
    criteria: &FilterChainMatch,
    chain: usize,
) -> Result<(), usize> {
    let sources = types[criteria.source_type as usize].get_or_insert_default();
    let any_port = [0];
    let ports = if criteria.source_ports.is_empty() {
        &any_port[..]
    } else {
        &criteria.source_ports
    };
    for range in or_any(&criteria.source_prefix_ranges) {
        let by_port = sources.entry(range, SourcePorts::default);
        for port in ports {
            if let Some(other) = by_port.insert(*port, chain) {
                return Err(other);
            }
        }
    }
    Ok(())
}

/// First the whole name, then ever shorter ends of it, then the chains for any name.
fn find_server_name<'a>(names: &'a ServerNames, name: &str) -> Option<&'a TransportProtocols> {
    if let Some(found) = names.get(name) {
        return Some(found);
    }
    let dots = name.char_indices().skip(1).filter(|(_, c)| *c == '.');
    let mut ends = dots.map(|(at, _)| &name[at..]).filter(|end| end.len() > 1);
    ends.find_map(|end| names.get(end))
        .or_else(|| names.get(""))
}

fn specific_or_any<'a, K: Hash + Eq + ?Sized, B: std::borrow::Borrow<K> + Hash + Eq, T>(
    map: &'a HashMap<B, T>,
    key: &K,
    any: &K,
) -> Option<&'a T> {
    map.get(key).or_else(|| map.get(any))
}

fn is_same_ip_or_loopback(connection: &ConnectionInfo) -> bool {
    match (&connection.remote_address, &connection.local_address) {
        (Address::Pipe(_), _) => true,
        (Address::Ip(remote), local) => {
            let loopback = match remote.ip() {
                IpAddr::V4(address) => address.is_loopback(),
                IpAddr::V6(address) => address.is_loopback(),
            };
            loopback || Some(remote.ip()) == local.ip()
        }
    }
}

fn server_name(name: String, path: &ConfigPath<'_>) -> Result<String, Rejected> {
    let name = name.to_ascii_lowercase();
    let fixed = name.strip_prefix("*.").unwrap_or(&name);
    if fixed.contains('*') {
        return Err(path.reject(format!(
            "\"{name}\" has a partial wildcard; legal are whole names and names that begin with \"*.\""
        )));
    }
    Ok(name.strip_prefix('*').unwrap_or(&name).to_owned())
}

fn or_any(ranges: &[CidrRange]) -> Vec<Option<CidrRange>> {
    if ranges.is_empty() {
        vec![None]
    } else {
        ranges.iter().copied().map(Some).collect()
    }
}

fn or_empty(names: &[String]) -> Vec<&str> {
    if names.is_empty() {
        vec![""]
    } else {
        names.iter().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::ConfigReport;

    fn connection(remote: &str, local: &str) -> ConnectionInfo {
        let address = |text: &str| Address::Ip(text.parse::<SocketAddr>().unwrap());
        ConnectionInfo::between(address(remote), address(local))
    }

    fn range(text: &str) -> CidrRange {
        let (address, length) = text.split_once('/').unwrap();
        CidrRange::new(address.parse().unwrap(), length.parse().unwrap()).unwrap()
    }

    fn matcher(criteria: &[FilterChainMatch]) -> FilterChainMatcher {
        let mut matcher = FilterChainMatcher::default();
        for (chain, criteria) in criteria.iter().enumerate() {
            matcher.insert(criteria, chain).unwrap();
        }
        matcher
    }

    fn named(names: &[&str]) -> FilterChainMatch {
        FilterChainMatch {
            server_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_longest_server_name_wins() {
        let matcher = matcher(&[
            named(&[]),
            named(&[".com"]),
            named(&[".example.com"]),
            named(&["www.example.com"]),
        ]);
        let find = |name: Option<&str>| {
            let mut connection = connection("1.1.1.1:1", "2.2.2.2:2");
            connection.requested_server_name = name.map(Into::into);
            matcher.find(&connection)
        };
        assert_eq!(find(Some("www.example.com")), Some(3));
        assert_eq!(find(Some("a.b.example.com")), Some(2));
        assert_eq!(find(Some("example.com")), Some(1));
        assert_eq!(find(Some("example.org")), Some(0));
        assert_eq!(find(None), Some(0));
    }

    #[test]
    fn a_more_specific_port_closes_the_way_to_chains_for_any_port() {
        let matcher = matcher(&[
            FilterChainMatch {
                destination_port: 80,
                transport_protocol: "tls".into(),
                ..Default::default()
            },
            FilterChainMatch::default(),
        ]);
        assert_eq!(matcher.find(&connection("1.1.1.1:1", "2.2.2.2:80")), None);
        assert_eq!(
            matcher.find(&connection("1.1.1.1:1", "2.2.2.2:81")),
            Some(1)
        );
    }

    #[test]
    fn the_first_protocol_of_the_client_that_a_chain_names_decides() {
        let protocol = |name: &str| FilterChainMatch {
            application_protocols: vec![name.to_owned()],
            ..Default::default()
        };
        let matcher = matcher(&[
            protocol("h2"),
            protocol("http/1.1"),
            FilterChainMatch::default(),
        ]);
        let find = |names: &[&[u8]]| {
            let mut connection = connection("1.1.1.1:1", "2.2.2.2:2");
            connection.application_protocols = names.iter().map(|name| (*name).into()).collect();
            matcher.find(&connection)
        };
        assert_eq!(find(&[b"http/1.1", b"h2"]), Some(1));
        assert_eq!(find(&[b"foo", b"h2"]), Some(0));
        assert_eq!(find(&[b"foo"]), Some(2));
    }

    #[test]
    fn sources_are_matched_by_type_address_and_port() {
        let chains = [
            FilterChainMatch {
                source_type: SourceType::SameIpOrLoopback,
                ..Default::default()
            },
            FilterChainMatch {
                source_prefix_ranges: vec![range("10.0.0.0/8")],
                source_ports: vec![1000],
                ..Default::default()
            },
            FilterChainMatch {
                source_prefix_ranges: vec![range("10.0.0.0/8")],
                ..Default::default()
            },
        ];
        let matcher = matcher(&chains);
        let find = |remote| matcher.find(&connection(remote, "2.2.2.2:2"));
        assert_eq!(find("127.0.0.1:1"), Some(0));
        assert_eq!(find("2.2.2.2:9"), Some(0));
        assert_eq!(find("10.1.1.1:1000"), Some(1));
        assert_eq!(find("10.1.1.1:1001"), Some(2));
        assert_eq!(find("11.1.1.1:1000"), None);
    }

    #[test]
    fn addresses_are_matched_by_the_longest_range_also_the_direct_source() {
        let chains = [
            FilterChainMatch {
                prefix_ranges: vec![range("10.0.0.0/8")],
                ..Default::default()
            },
            FilterChainMatch {
                prefix_ranges: vec![range("10.1.0.0/16")],
                direct_source_prefix_ranges: vec![range("1.0.0.0/8")],
                ..Default::default()
            },
            FilterChainMatch::default(),
        ];
        let matcher = matcher(&chains);
        let mut behind = connection("1.1.1.1:1", "10.1.0.1:80");
        assert_eq!(matcher.find(&behind), Some(1));
        behind.direct_remote_address = "9.9.9.9:9".parse::<SocketAddr>().unwrap().into();
        assert_eq!(matcher.find(&behind), None);
        assert_eq!(
            matcher.find(&connection("1.1.1.1:1", "10.2.0.1:80")),
            Some(0)
        );
        assert_eq!(
            matcher.find(&connection("1.1.1.1:1", "11.2.0.1:80")),
            Some(2)
        );
        let pipe = Address::Pipe("/tmp/a".into());
        assert_eq!(
            matcher.find(&ConnectionInfo::between(pipe.clone(), pipe)),
            Some(2)
        );
    }

    #[test]
    fn chains_that_take_the_same_connections_are_refused() {
        let mut matcher = FilterChainMatcher::default();
        matcher.insert(&named(&["a", "b"]), 0).unwrap();
        assert_eq!(matcher.insert(&named(&["c", "b"]), 1), Err(0));
    }

    #[test]
    fn partial_wildcards_and_ports_out_of_range_are_refused() {
        let report = ConfigReport::new();
        let proto = pb::FilterChainMatch {
            server_names: vec!["*.Good.com".into(), "*bad.com".into(), "a.*.com".into()],
            source_ports: vec![70_000],
            ..Default::default()
        };
        let path = ConfigPath::root(&report, "match");
        assert!(FilterChainMatch::from_proto(proto, &path).is_err());
        let errors: Vec<String> = report.take().iter().map(|e| e.path.clone()).collect();
        assert_eq!(
            errors,
            [
                "match / source_ports[0]",
                "match / server_names[1]",
                "match / server_names[2]"
            ]
        );
    }
}
