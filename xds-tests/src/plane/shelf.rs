//! The resources of a kind.

use std::collections::HashMap;

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
    /// Where each name is, or the last of its duplicates.
    index: HashMap<String, usize>,
    /// Nothing is said about it.
    pub(super) held: bool,
}

impl Shelf {
    pub(super) fn fill(&mut self, resources: Vec<Resource>, version: &str) {
        let old = std::mem::take(&mut self.resources);
        for mut resource in resources {
            let same = self.index.get(&resource.name).map(|place| &old[*place]);
            let same = same.filter(|old| is_same(old, &resource));
            resource.version = same.map_or_else(|| version.into(), |old| old.version.clone());
            self.resources.push(resource);
        }
        self.changed(version);
    }

    /// The resource with this name.
    pub(super) fn named(&self, name: &str) -> Option<&Resource> {
        self.index.get(name).map(|place| &self.resources[*place])
    }

    fn changed(&mut self, version: &str) {
        let names = self.resources.iter().enumerate();
        self.index = names
            .map(|(place, resource)| (resource.name.clone(), place))
            .collect();
        self.version = Some(version.into());
    }

    pub(super) fn put(&mut self, mut resource: Resource, version: &str) {
        resource.version = version.into();
        if let Some(place) = self.index.get(&resource.name) {
            self.resources[*place] = resource;
        } else {
            let place = self.resources.len();
            self.index.insert(resource.name.clone(), place);
            self.resources.push(resource);
        }
        self.version = Some(version.into());
    }

    pub(super) fn remove(&mut self, names: &[&str], version: &str) {
        self.resources
            .retain(|resource| !names.contains(&resource.name.as_str()));
        self.changed(version);
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
