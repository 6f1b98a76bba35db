//! What one proxy is to have: a [`Snapshot`] of resources whose versions come from their content.
//!
//! The same content has the same version before and after a restart, so that nothing is sent again that did not
//! change.

use std::cmp::Ordering;
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
    /// A hash of name and version; the sum of those of several resources is the same in any order.
    mark: u64,
}

impl Resource {
    /// [`mark_of`] it.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// A resource of encoded bytes.
    #[must_use]
    pub fn new(kind: ResourceType, name: &str, bytes: Vec<u8>) -> Self {
        let version = version_of(&[&bytes]);
        Self {
            name: name.into(),
            mark: mark_of(name, &version),
            version: version.into(),
            body: Any {
                type_url: kind.url(),
                value: bytes,
            },
        }
    }
}

/// What name and version are the same by: a hash.
#[must_use]
pub fn mark_of(name: &str, version: &str) -> u64 {
    hash_of(&[name.as_bytes(), version.as_bytes()])
}

/// The version of several resources, whatever their order.
#[must_use]
pub fn version_of_all<'r>(resources: impl IntoIterator<Item = &'r Arc<Resource>>) -> String {
    let sum = resources
        .into_iter()
        .fold(0_u64, |sum, resource| sum.wrapping_add(resource.mark));
    format!("{sum:016x}")
}

/// Sixteen hexadecimal digits of a hash of the parts.
#[must_use]
pub fn version_of(parts: &[&[u8]]) -> String {
    format!("{:016x}", hash_of(parts))
}

fn hash_of(parts: &[&[u8]]) -> u64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize()[..8]
        .iter()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Resources of a type by name.
pub type Resources = BTreeMap<Arc<str>, Arc<Resource>>;

/// What one proxy is to have. Copies share what they have in common.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    types: [Arc<Resources>; ResourceType::COUNT],
    sums: [u64; ResourceType::COUNT],
}

impl Snapshot {
    /// Adds a resource, in the place of one of the same name.
    pub fn insert(&mut self, kind: ResourceType, resource: Arc<Resource>) {
        let sum = &mut self.sums[kind.index()];
        *sum = sum.wrapping_add(resource.mark);
        let resources = Arc::make_mut(&mut self.types[kind.index()]);
        if let Some(before) = resources.insert(Arc::clone(&resource.name), resource) {
            *sum = sum.wrapping_sub(before.mark);
        }
    }

    /// Gives back the room that maps have left while they grew, which is half of them.
    pub fn pack(&mut self) {
        for resources in &mut self.types {
            let all = std::mem::take(Arc::make_mut(resources));
            *resources = Arc::new(all.into_iter().collect());
        }
    }

    /// The version of all resources of a type: that of [`version_of_all`].
    #[must_use]
    pub fn version(&self, kind: ResourceType) -> String {
        format!("{:016x}", self.sums[kind.index()])
    }

    /// Calls `report` with each name of a type that is there in one of the two only, or with another version.
    pub fn compare(&self, other: &Self, kind: ResourceType, mut report: impl FnMut(&Arc<str>)) {
        let (ours, theirs) = (&self.types[kind.index()], &other.types[kind.index()]);
        if Arc::ptr_eq(ours, theirs) {
            return;
        }
        let (mut ours, mut theirs) = (ours.iter().peekable(), theirs.iter().peekable());
        loop {
            let order = match (ours.peek(), theirs.peek()) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((_, one)), Some((_, other))) if Arc::ptr_eq(one, other) => {
                    ours.next();
                    theirs.next();
                    continue;
                }
                (Some((one, _)), Some((other, _))) => one.cmp(other),
            };
            let one = order.is_le().then(|| ours.next()).flatten();
            let other = order.is_ge().then(|| theirs.next()).flatten();
            match (one, other) {
                (Some((_, one)), Some((_, other))) if one.version == other.version => {}
                (Some((name, _)), _) | (None, Some((name, _))) => report(name),
                (None, None) => return,
            }
        }
    }

    /// Whether two have the same map of a type, and not only the same in it.
    #[cfg(test)]
    pub(crate) fn shares(&self, other: &Self, kind: ResourceType) -> bool {
        Arc::ptr_eq(&self.types[kind.index()], &other.types[kind.index()])
    }

    /// How many resources there are, of all types.
    #[must_use]
    pub fn len(&self) -> usize {
        self.types.iter().map(|resources| resources.len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The resources of a type by name.
    #[must_use]
    pub fn of(&self, kind: ResourceType) -> &Resources {
        &self.types[kind.index()]
    }
}
