//! The transport sockets of a cluster: one, and others for hosts whose metadata ask for them.
//!
//! Stats: `cluster.<name>.<match>.total_match_count`.

use std::sync::Arc;

use outrigger_proto::pb::envoy::config::cluster::v3 as pb;
use outrigger_proto::pb::envoy::config::core::v3 as core;
use serde_json::{Map, Value};

use super::TransportSocketMatchStats;
use crate::config::{ConfigPath, Rejected, json_object};
use crate::server::FactoryContext;
use crate::stream_info::DynamicMetadata;
use crate::transport_sockets::{UpstreamSocket, upstream_from_proto};

/// How connections of a cluster are made ready. Plain unless configured otherwise.
#[derive(Debug, Default)]
pub struct UpstreamTransport {
    default: Option<Arc<dyn UpstreamSocket>>,
    matches: Vec<SocketMatch>,
}

/// `TransportSocketMatch`.
#[derive(Debug)]
struct SocketMatch {
    /// What a host must have in `envoy.transport_socket_match`; empty: every host does.
    criteria: Map<String, Value>,
    socket: Option<Arc<dyn UpstreamSocket>>,
    stats: TransportSocketMatchStats,
}

impl UpstreamTransport {
    pub(super) fn from_proto(
        socket: Option<core::TransportSocket>,
        matches: Vec<pb::cluster::TransportSocketMatch>,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let default = path.optional("transport_socket", socket, |socket, path| {
            upstream_from_proto(socket, cx, path)
        });
        let matches = path.each("transport_socket_matches", matches, |proto, path| {
            let pb::cluster::TransportSocketMatch {
                name,
                r#match,
                transport_socket,
            } = proto;
            let socket = path
                .required("transport_socket", transport_socket)
                .and_then(|socket| {
                    upstream_from_proto(socket, cx, &path.field("transport_socket"))
                });
            let name = path.non_empty("name", name)?;
            Ok(SocketMatch {
                criteria: r#match.map(json_object).unwrap_or_default(),
                socket: socket?,
                stats: TransportSocketMatchStats::new(&cx.scope.scope(&format!("{name}."))),
            })
        });
        Ok(Self {
            default: default?.flatten(),
            matches: matches?,
        })
    }

    /// The socket for a host with these metadata; none: connections are plain.
    pub(in crate::upstream) fn of_host(
        &self,
        metadata: &DynamicMetadata,
    ) -> Option<&Arc<dyn UpstreamSocket>> {
        match self.find(metadata) {
            Some(found) => found.socket.as_ref(),
            None => self.default.as_ref(),
        }
    }

    /// Counts a new host with these metadata. False: it has the socket of the cluster.
    pub(in crate::upstream) fn count(&self, metadata: &DynamicMetadata) -> bool {
        let found = self.find(metadata);
        if let Some(found) = found {
            found.stats.total_match_count().inc();
        }
        found.is_some()
    }

    /// Whether connections to all hosts are plain.
    pub(in crate::upstream) fn is_plain(&self) -> bool {
        self.default.is_none() && self.matches.is_empty()
    }

    /// Whether hosts may have a socket of their own.
    pub(in crate::upstream) fn has_matches(&self) -> bool {
        !self.matches.is_empty()
    }

    /// Whether connections to any host are encrypted.
    pub fn is_secure(&self) -> bool {
        self.sockets().any(|socket| socket.is_secure())
    }

    /// Whether every connection can agree on its protocol by ALPN.
    pub(super) fn supports_alpn(&self) -> bool {
        let all = self.matches.iter().map(|found| found.socket.as_ref());
        all.chain([self.default.as_ref()])
            .all(|socket| socket.is_some_and(|socket| socket.supports_alpn()))
    }

    /// Whether connections to some host name the client that they are made for.
    pub fn names_client(&self) -> bool {
        self.sockets().any(|socket| socket.names_client())
    }

    /// Whether everything that connections need, such as secrets, is there.
    pub fn is_ready(&self) -> bool {
        self.sockets().all(|socket| socket.is_ready())
    }

    fn sockets(&self) -> impl Iterator<Item = &Arc<dyn UpstreamSocket>> {
        let matched = self
            .matches
            .iter()
            .filter_map(|found| found.socket.as_ref());
        matched.chain(&self.default)
    }

    fn find(&self, metadata: &DynamicMetadata) -> Option<&SocketMatch> {
        if self.matches.is_empty() {
            return None;
        }
        let values = metadata.get("envoy.transport_socket_match");
        self.matches.iter().find(|found| {
            found
                .criteria
                .iter()
                .all(|(key, wanted)| values.and_then(|values| values.get(key)) == Some(wanted))
        })
    }
}
