//! What clients asked of a control plane.

use std::collections::BTreeMap;

use outrigger_proto::pb::envoy::config::core::v3::Node;
use outrigger_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use outrigger_proto::pb::google::rpc::Status;

use super::Kind;

/// A request of a client, whatever the transport.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// Which stream it came on, from 1 over all connections; 0 for REST.
    pub stream: usize,
    /// Which connection it came on, from 1.
    pub connection: usize,
    /// Whether the stream is aggregated.
    pub aggregated: bool,
    /// Whether the stream is incremental.
    pub delta: bool,
    /// The kind.
    pub kind: Kind,
    /// The node, where the request says who asks.
    pub node: Option<Node>,
    /// `version_info`; empty in delta.
    pub version: String,
    /// `response_nonce`.
    pub nonce: String,
    /// `resource_names`, or `resource_names_subscribe`; sorted.
    pub names: Vec<String>,
    /// `resource_names_unsubscribe`; sorted.
    pub unsubscribed: Vec<String>,
    /// `initial_resource_versions`.
    pub known: BTreeMap<String, String>,
    /// Code and message of `error_detail`.
    pub error: Option<(i32, String)>,
    /// The version of the response with this nonce; `None` if the stream has sent none.
    pub answers: Option<String>,
}

impl Ask {
    /// Says that a response was taken.
    pub fn is_ack(&self) -> bool {
        !self.nonce.is_empty() && self.error.is_none()
    }

    /// Says that a response was refused.
    pub fn is_nack(&self) -> bool {
        self.error.is_some()
    }

    /// In a line that is the same for all clients that do the same.
    pub fn line(&self) -> String {
        let mut line = format!("{:?}", self.kind);
        if !self.names.is_empty() {
            line += &format!(" names {}", self.names.join(","));
        }
        if !self.unsubscribed.is_empty() {
            line += &format!(" without {}", self.unsubscribed.join(","));
        }
        if !self.known.is_empty() {
            line += &format!(" knowing {:?}", self.known);
        }
        if !self.version.is_empty() {
            line += &format!(" version {}", self.version);
        }
        match (&self.error, &self.answers) {
            (Some((code, _)), Some(version)) => {
                line += &format!(" refuses {version:?} with code {code}");
            }
            (None, Some(version)) => line += &format!(" takes {version:?}"),
            (_, None) if !self.nonce.is_empty() => line += " has an unknown nonce",
            _ => {}
        }
        if self.node.is_some() {
            line += " node";
        }
        line
    }

    pub(super) fn of_world(request: DiscoveryRequest, kind: Option<Kind>) -> Result<Self, String> {
        let DiscoveryRequest {
            version_info,
            node,
            resource_names,
            resource_locators: _,
            type_url,
            response_nonce,
            error_detail,
        } = request;
        let mut ask = Self::new(kind, &type_url, node, response_nonce, error_detail)?;
        ask.version = version_info;
        ask.names = resource_names;
        ask.names.sort();
        Ok(ask)
    }

    pub(super) fn of_delta(
        request: DeltaDiscoveryRequest,
        kind: Option<Kind>,
    ) -> Result<Self, String> {
        let DeltaDiscoveryRequest {
            node,
            type_url,
            resource_names_subscribe,
            resource_names_unsubscribe,
            resource_locators_subscribe: _,
            resource_locators_unsubscribe: _,
            initial_resource_versions,
            response_nonce,
            error_detail,
        } = request;
        let mut ask = Self::new(kind, &type_url, node, response_nonce, error_detail)?;
        ask.delta = true;
        ask.names = resource_names_subscribe;
        ask.names.sort();
        ask.unsubscribed = resource_names_unsubscribe;
        ask.unsubscribed.sort();
        ask.known = initial_resource_versions.into_iter().collect();
        Ok(ask)
    }

    fn new(
        kind: Option<Kind>,
        type_url: &str,
        node: Option<Node>,
        nonce: String,
        error: Option<Status>,
    ) -> Result<Self, String> {
        let named = Kind::of_type_url(type_url);
        let kind = match (kind, named) {
            (Some(kind), _) if type_url.is_empty() => kind,
            (Some(kind), Some(named)) if kind == named => kind,
            (None, Some(named)) => named,
            _ => return Err(format!("the type URL {type_url:?} on a stream of {kind:?}")),
        };
        Ok(Self {
            stream: 0,
            connection: 0,
            aggregated: false,
            delta: false,
            kind,
            node,
            version: String::new(),
            nonce,
            names: vec![],
            unsubscribed: vec![],
            known: BTreeMap::new(),
            error: error.map(|status| (status.code, status.message)),
            answers: None,
        })
    }
}
