//! A response, as a story may make it up.

use outrigger_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, DiscoveryResponse,
};
use prost::Message;

use super::{Kind, Resource};

/// A response on the streams of a kind.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The streams that it goes to.
    pub kind: Kind,
    /// The type that it claims to be about; that of the kind by default.
    pub type_url: Option<String>,
    /// `version_info`, or `system_version_info`.
    pub version: String,
    /// The nonce; the next one by default.
    pub nonce: Option<String>,
    /// The resources.
    pub resources: Vec<Resource>,
    /// Names that exist no more, for delta.
    pub removed: Vec<String>,
}

impl Answer {
    /// An answer with these resources.
    pub fn new(kind: Kind, version: &str, resources: impl IntoIterator<Item = Resource>) -> Self {
        Self {
            kind,
            type_url: None,
            version: version.into(),
            nonce: None,
            resources: resources.into_iter().collect(),
            removed: vec![],
        }
    }

    pub(super) fn encode(&self, delta: bool, nonce: &str) -> Vec<u8> {
        let type_url = self.type_url.clone();
        let type_url = type_url.unwrap_or_else(|| self.kind.type_url());
        if delta {
            let response = DeltaDiscoveryResponse {
                system_version_info: self.version.clone(),
                resources: self.resources.iter().map(Resource::wrapped).collect(),
                type_url,
                removed_resources: self.removed.clone(),
                nonce: nonce.into(),
                ..DeltaDiscoveryResponse::default()
            };
            return response.encode_to_vec();
        }
        self.world(type_url, nonce).encode_to_vec()
    }

    /// As a state-of-the-world response.
    pub(super) fn world(&self, type_url: String, nonce: &str) -> DiscoveryResponse {
        DiscoveryResponse {
            version_info: self.version.clone(),
            resources: self.resources.iter().map(Resource::plain).collect(),
            type_url,
            nonce: nonce.into(),
            ..DiscoveryResponse::default()
        }
    }

    /// As the content of a file that a proxy watches: the JSON of a state-of-the-world response.
    pub fn file(&self) -> String {
        let response = self.world(self.kind.type_url(), "");
        outrigger_proto::json::to_json(&response, outrigger_proto::json::Style::default())
            .expect("the resources are of known types")
    }
}
