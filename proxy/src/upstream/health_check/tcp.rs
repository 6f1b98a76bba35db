//! `tcp_health_check`: a connection, and what is said over it.

use outrigger_proto::pb::envoy::config::core::v3::health_check as pb;

use super::Inner;
use super::connection::{Link, TcpLink};
use super::event_log::FailureType;
use super::payload;
use super::session::Outcome;
use crate::config::{ConfigPath, Rejected};
use crate::net::{Address, ProxyProtocolVersion};
use crate::upstream::host::Host;

/// A converted `TcpHealthCheck`.
#[derive(Debug)]
pub(super) struct TcpCheck {
    send: Vec<u8>,
    /// What must come, in this order; empty: the connection is enough.
    receive: Vec<Vec<u8>>,
    /// The header that each check begins with.
    proxy_protocol: Option<ProxyProtocolVersion>,
}

impl TcpCheck {
    pub(super) fn from_proto(
        proto: pb::TcpHealthCheck,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::TcpHealthCheck {
            send,
            receive,
            proxy_protocol_config,
        } = proto;
        // Envoy sends text alone.
        let send = send.filter(|send| {
            matches!(&send.payload, Some(pb::payload::Payload::Text(text)) if !text.is_empty())
        });
        let send = path.optional("send", send, payload::bytes);
        let receive = path.each("receive", receive, payload::bytes);
        let proxy_protocol = path.optional(
            "proxy_protocol_config",
            proxy_protocol_config,
            ProxyProtocolVersion::from_proto,
        );
        Ok(Self {
            send: send?.unwrap_or_default(),
            receive: receive?,
            proxy_protocol: proxy_protocol?,
        })
    }

    /// Asks the host once.
    pub(super) async fn check(&self, inner: &Inner, host: &Host, link: &mut Link) -> Outcome {
        let failed = Outcome::failed(FailureType::Network);
        let mut connected = match std::mem::take(link) {
            Link::Tcp(connected) => connected,
            _ => match inner.connect(host).await {
                Ok(connected) => Box::new(TcpLink::new(connected)),
                Err(_) => return failed,
            },
        };
        if self.receive.is_empty() {
            // Nothing that would be said could be known to have arrived.
            return Outcome::Healthy { degraded: false };
        }
        if !connected.write(&self.question(&connected)).await {
            return failed;
        }
        while !payload::contains_in_order(&connected.received, &self.receive) {
            if !connected.read().await {
                return failed;
            }
        }
        connected.received.clear();
        if inner.config.reuse_connection {
            *link = Link::Tcp(connected);
        }
        Outcome::Healthy { degraded: false }
    }

    fn question(&self, connected: &TcpLink) -> Vec<u8> {
        let nobody = Address::Pipe("".into());
        let mut bytes = match self.proxy_protocol {
            None => Vec::new(),
            Some(version @ ProxyProtocolVersion::V1) => version.header(
                connected.local.as_ref().unwrap_or(&nobody),
                connected.remote.as_ref().unwrap_or(&nobody),
            ),
            // It says that the connection is the proxy's own.
            Some(version @ ProxyProtocolVersion::V2) => version.header(&nobody, &nobody),
        };
        bytes.extend_from_slice(&self.send);
        bytes
    }
}
