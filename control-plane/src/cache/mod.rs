//! What one proxy is to have: a [`Snapshot`] of resources whose versions come from their content.
//!
//! The same content has the same version before and after a restart, so that nothing is sent again that did not
//! change.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_proto::pb::google::protobuf::Any;
use sha2::{Digest, Sha256};

/// The types of resources, in the order in which they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`
    Secret,
    /// `envoy.config.cluster.v3.Cluster`
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    Endpoints,
    /// `envoy.config.listener.v3.Listener`
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`
    Route,
    /// `envoy.config.core.v3.TypedExtensionConfig`: configurations of filters
    Extension,
}

impl ResourceType {
    /// How many there are.
    pub const COUNT: usize = 6;
    /// All of them, in the order in which they are sent.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Secret,
        Self::Cluster,
        Self::Endpoints,
        Self::Listener,
        Self::Route,
        Self::Extension,
    ];

    /// The full name of the message.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::Secret => "envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Cluster => "envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "envoy.config.listener.v3.Listener",
            Self::Route => "envoy.config.route.v3.RouteConfiguration",
            Self::Extension => "envoy.config.core.v3.TypedExtensionConfig",
        }
    }

    /// The type URL.
    #[must_use]
    pub fn url(self) -> String {
        format!("type.googleapis.com/{}", self.message())
    }

    /// The type of this URL.
    #[must_use]
    pub fn from_url(url: &str) -> Option<Self> {
        let message = url.strip_prefix("type.googleapis.com/")?;
        Self::ALL.into_iter().find(|kind| kind.message() == message)
    }

    /// The word for people, such as `listeners`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Secret => "secrets",
            Self::Cluster => "clusters",
            Self::Endpoints => "endpoints",
            Self::Listener => "listeners",
            Self::Route => "routes",
            Self::Extension => "extensions",
        }
    }

    /// Whether a client that names no resources wants all of them.
    #[must_use]
    pub fn has_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    /// Its place in [`Self::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Secret => 0,
            Self::Cluster => 1,
            Self::Endpoints => 2,
            Self::Listener => 3,
            Self::Route => 4,
            Self::Extension => 5,
        }
    }
}

/// One resource.
#[derive(Debug, PartialEq)]
pub struct Resource {
    /// Its name.
    pub name: Arc<str>,
    /// From its content.
    pub version: Arc<str>,
    /// Its encoding.
    pub body: Any,
}

impl Resource {
    /// A resource of encoded bytes.
    #[must_use]
    pub fn new(kind: ResourceType, name: &str, bytes: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            version: version_of(&[&bytes]).into(),
            body: Any {
                type_url: kind.url(),
                value: bytes,
            },
        }
    }
}

/// Sixteen hexadecimal digits of a hash of the parts.
#[must_use]
pub fn version_of(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What one proxy is to have.
#[derive(Debug, Default, PartialEq)]
pub struct Snapshot {
    types: [BTreeMap<Arc<str>, Arc<Resource>>; ResourceType::COUNT],
}

impl Snapshot {
    /// Adds a resource, in the place of one of the same name.
    pub fn insert(&mut self, kind: ResourceType, resource: Arc<Resource>) {
        self.types[kind.index()].insert(Arc::clone(&resource.name), resource);
    }

    /// The resources of a type by name.
    #[must_use]
    pub fn of(&self, kind: ResourceType) -> &BTreeMap<Arc<str>, Arc<Resource>> {
        &self.types[kind.index()]
    }
}
