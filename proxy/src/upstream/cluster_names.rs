//! Numbers for cluster names.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

/// The number of a cluster name: an index into the tables of clusters, whether or not such a cluster exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub u32);

/// Gives each cluster name a number, for the life of the process. Used when configuration is converted.
#[derive(Debug, Default)]
pub struct ClusterNames {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    ids: HashMap<Arc<str>, ClusterId>,
    names: Vec<Arc<str>>,
    /// The clusters of the bootstrap; none before they are known.
    fixed: Option<HashSet<ClusterId>>,
    /// The clusters that came since, be they ready or not.
    dynamic: HashSet<ClusterId>,
}

impl ClusterNames {
    /// The number of `name`, a new one if it has none yet.
    #[allow(clippy::expect_used, reason = "stated by the expectation")]
    pub fn id(&self, name: &str) -> ClusterId {
        let mut inner = self.inner.lock();
        if let Some(id) = inner.ids.get(name) {
            return *id;
        }
        let id = ClusterId(
            u32::try_from(inner.names.len())
                .expect("names end before memory for four billion of them"),
        );
        let name: Arc<str> = name.into();
        inner.names.push(name.clone());
        inner.ids.insert(name, id);
        id
    }

    /// Says which clusters the bootstrap has, before anything that may name them is converted.
    pub fn set_static<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let ids = names.into_iter().map(|name| self.id(name)).collect();
        self.inner.lock().fixed = Some(ids);
    }

    /// Says whether there is a cluster with this number beside those of the bootstrap.
    pub fn set_dynamic(&self, id: ClusterId, exists: bool) {
        let mut inner = self.inner.lock();
        if exists {
            inner.dynamic.insert(id);
        } else {
            inner.dynamic.remove(&id);
        }
    }

    /// Whether it is certain that the bootstrap has no cluster with this number.
    pub fn is_not_static(&self, id: ClusterId) -> bool {
        let fixed = &self.inner.lock().fixed;
        fixed.as_ref().is_some_and(|fixed| !fixed.contains(&id))
    }

    /// Whether it is certain that there is no cluster with this number now.
    pub fn is_missing(&self, id: ClusterId) -> bool {
        self.is_not_static(id) && !self.inner.lock().dynamic.contains(&id)
    }

    /// The number of `name`, if anything has mentioned it: for names that come with a request.
    pub fn find(&self, name: &str) -> Option<ClusterId> {
        self.inner.lock().ids.get(name).copied()
    }

    /// The name behind a number.
    pub fn name(&self, id: ClusterId) -> Option<Arc<str>> {
        self.inner.lock().names.get(id.0 as usize).cloned()
    }
}
