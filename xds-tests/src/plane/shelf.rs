//! The resources of a kind.

use super::Resource;

/// What a control plane has of a kind.
#[derive(Default)]
pub(super) struct Shelf {
    /// The version of all; `None` until something was put there.
    pub(super) version: Option<String>,
    /// Given to everything instead of a counted version.
    pub(super) fixed: Option<String>,
    /// The resources, duplicates included.
    pub(super) resources: Vec<Resource>,
    /// Nothing is said about it.
    pub(super) held: bool,
}

impl Shelf {
    pub(super) fn fill(&mut self, resources: Vec<Resource>, version: &str) {
        let old = std::mem::take(&mut self.resources);
        for mut resource in resources {
            let same = old.iter().find(|old| is_same(old, &resource));
            resource.version = same.map_or_else(|| version.into(), |old| old.version.clone());
            self.resources.push(resource);
        }
        self.version = Some(version.into());
    }

    pub(super) fn put(&mut self, mut resource: Resource, version: &str) {
        resource.version = version.into();
        let place = self
            .resources
            .iter_mut()
            .find(|old| old.name == resource.name);
        match place {
            Some(place) => *place = resource,
            None => self.resources.push(resource),
        }
        self.version = Some(version.into());
    }

    pub(super) fn remove(&mut self, names: &[&str], version: &str) {
        self.resources
            .retain(|resource| !names.contains(&resource.name.as_str()));
        self.version = Some(version.into());
    }

    /// Makes everything look new.
    pub(super) fn renew(&mut self, version: &str) {
        for resource in &mut self.resources {
            resource.version = version.into();
        }
        self.version = Some(version.into());
    }
}

fn is_same(old: &Resource, new: &Resource) -> bool {
    old.name == new.name && old.body == new.body && old.ttl == new.ttl && old.aliases == new.aliases
}
