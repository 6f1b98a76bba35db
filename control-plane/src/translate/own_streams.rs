//! Resources for who has a stream per type instead of one for all.
//!
//! Listeners and clusters say from where routes, endpoints, secrets and filters come: on the aggregated stream. A
//! client that asked for them on a stream of their own may have no aggregated one: it is sent the same with streams
//! to the same cluster, in the same variant of the protocol.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::resource;
use crate::cache::{Resource, ResourceType, Snapshot};

/// The cluster of the bootstrap that leads to the control plane, where the node's metadata do not say it.
pub const CLUSTER: &str = "control_plane";
/// The field of the node's metadata that names it.
pub const CLUSTER_METADATA: &str = "xds_cluster";

/// The resources of one type for one client.
#[derive(Debug)]
pub struct OwnStream {
    kind: ResourceType,
    source: Json,
    /// What was made of the last snapshot, by the version there.
    made: BTreeMap<Arc<str>, Arc<Resource>>,
}

impl OwnStream {
    /// For a client that reaches the control plane by `cluster`.
    #[must_use]
    pub fn new(kind: ResourceType, cluster: &str, is_delta: bool) -> Self {
        let api_type = if is_delta { "DELTA_GRPC" } else { "GRPC" };
        Self {
            kind,
            source: json!({
                "resource_api_version": "V3",
                "api_config_source": {
                    "api_type": api_type,
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": true,
                    "grpc_services": [{"envoy_grpc": {"cluster_name": cluster}}],
                },
            }),
            made: BTreeMap::new(),
        }
    }

    /// The part of a snapshot that is of this stream.
    pub fn snapshot(&mut self, whole: &Snapshot) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let mut made = BTreeMap::new();
        for known in whole.of(self.kind).values() {
            let mine = match self.kind {
                ResourceType::Listener | ResourceType::Cluster => {
                    let before = self
                        .made
                        .get(&known.version)
                        .filter(|it| it.name == known.name);
                    let mine = before.map_or_else(|| Arc::new(self.rewrite(known)), Arc::clone);
                    made.insert(Arc::clone(&known.version), Arc::clone(&mine));
                    mine
                }
                // They name no source.
                _ => Arc::clone(known),
            };
            snapshot.insert(self.kind, mine);
        }
        self.made = made;
        snapshot
    }

    fn rewrite(&self, known: &Resource) -> Resource {
        use outrigger_proto::json::{Style, encoded_to_json};
        let message = self.kind.message();
        let text = encoded_to_json(message, &known.body.value, Style::default());
        let json = text.ok().and_then(|text| serde_json::from_str(&text).ok());
        let mut json: Json = json.unwrap_or_default();
        replace(&mut json, &self.source);
        resource(self.kind, &known.name, &json)
    }
}

/// Replaces each source that is the aggregated stream.
fn replace(json: &mut Json, source: &Json) {
    match json {
        Json::Object(fields) if fields.contains_key("ads") => json.clone_from(source),
        Json::Object(fields) => fields.values_mut().for_each(|field| replace(field, source)),
        Json::Array(items) => items.iter_mut().for_each(|item| replace(item, source)),
        _ => {}
    }
}
