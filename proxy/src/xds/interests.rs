//! What all subscriptions to one kind at one source want together.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Interest, Resource};

/// The interests of subscriptions, by number.
#[derive(Debug, Default)]
pub(super) struct Interests {
    wildcard: BTreeSet<u64>,
    named: HashMap<Arc<str>, Vec<u64>>,
    /// Grows with every change of what is wanted.
    generation: u64,
}

/// What concerns one subscription of a response.
#[derive(Debug, Default)]
pub(super) struct Share {
    pub(super) sent: Vec<Resource>,
    pub(super) removed: Vec<Arc<str>>,
}

impl Interests {
    pub(super) fn add(&mut self, number: u64, interest: &Interest) {
        self.generation += 1;
        if let Interest::Wildcard | Interest::WildcardAnd(_) = interest {
            self.wildcard.insert(number);
        }
        if let Interest::Names(names) | Interest::WildcardAnd(names) = interest {
            for name in names {
                self.named.entry(name.clone()).or_default().push(number);
            }
        }
    }

    pub(super) fn remove(&mut self, number: u64, interest: &Interest) {
        self.generation += 1;
        if let Interest::Wildcard | Interest::WildcardAnd(_) = interest {
            self.wildcard.remove(&number);
        }
        if let Interest::Names(names) | Interest::WildcardAnd(names) = interest {
            for name in names {
                if let Some(numbers) = self.named.get_mut(name) {
                    numbers.retain(|known| *known != number);
                    if numbers.is_empty() {
                        self.named.remove(name);
                    }
                }
            }
        }
    }

    /// A number that is the same for as long as the same is wanted.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether nobody wants anything.
    pub(super) fn is_empty(&self) -> bool {
        self.wildcard.is_empty() && self.named.is_empty()
    }

    /// Whether somebody wants all that there is.
    pub(super) fn is_wildcard(&self) -> bool {
        !self.wildcard.is_empty()
    }

    /// The names that are wanted, sorted.
    pub(super) fn names(&self) -> BTreeSet<Arc<str>> {
        self.named.keys().cloned().collect()
    }

    /// Whether somebody wants a resource of this name.
    pub(super) fn includes(&self, name: &str) -> bool {
        self.is_wildcard() || self.includes_by_name(name)
    }

    /// Whether somebody asks for this very name.
    pub(super) fn includes_by_name(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    /// All subscriptions, in order.
    pub(super) fn numbers(&self) -> Vec<u64> {
        let named = self.named.values().flatten();
        let all: BTreeSet<u64> = self.wildcard.iter().chain(named).copied().collect();
        all.into_iter().collect()
    }

    /// Who wants a resource of this name.
    fn of<'a>(&'a self, name: &str) -> impl Iterator<Item = u64> + 'a {
        let named = self.named.get(name).map(Vec::as_slice).unwrap_or_default();
        let named = named
            .iter()
            .filter(|number| !self.wildcard.contains(number));
        self.wildcard.iter().chain(named).copied()
    }

    /// The parts of a response, for those whom it concerns, in the order in which they subscribed. A wildcard is concerned by
    /// every response.
    pub(super) fn shares(&self, sent: &[Resource], removed: &[Arc<str>]) -> Vec<(u64, Share)> {
        let mut shares: HashMap<u64, Share> = HashMap::new();
        for number in &self.wildcard {
            shares.insert(*number, Share::default());
        }
        for resource in sent {
            for number in self.of(&resource.name) {
                shares
                    .entry(number)
                    .or_default()
                    .sent
                    .push(resource.clone());
            }
            // One that goes by other names is handed on under the name that was asked for.
            for alias in resource.aliases.iter().filter(|a| **a != *resource.name) {
                let named = self.named.get(&**alias);
                let named = named.into_iter().flatten();
                // Who wants everything has it under its own name.
                for number in named.filter(|number| !self.wildcard.contains(number)) {
                    let share = shares.entry(*number).or_default();
                    share.sent.push(Resource {
                        name: alias.as_str().into(),
                        ..resource.clone()
                    });
                }
            }
        }
        for name in removed {
            for number in self.of(name) {
                shares.entry(number).or_default().removed.push(name.clone());
            }
        }
        let mut shares: Vec<_> = shares.into_iter().collect();
        shares.sort_by_key(|(number, _)| *number);
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(name: &str, aliases: &[&str]) -> Resource {
        Resource {
            name: name.into(),
            aliases: aliases.iter().map(ToString::to_string).collect(),
            version: "1".into(),
            body: None,
        }
    }

    #[test]
    fn each_subscription_gets_its_share_and_a_wildcard_hears_of_every_response() {
        let mut interests = Interests::default();
        interests.add(7, &Interest::Wildcard);
        interests.add(3, &Interest::name("a"));
        interests.add(4, &Interest::name("b"));
        let shares = interests.shares(&[resource("a", &[])], &["b".into()]);
        let told: Vec<_> = shares
            .iter()
            .map(|(number, share)| (*number, share.sent.len(), share.removed.len()))
            .collect();
        assert_eq!(told, [(3, 1, 0), (4, 0, 1), (7, 1, 1)]);
        assert_eq!(interests.shares(&[], &[]).len(), 1);
    }

    #[test]
    fn an_alias_is_handed_on_under_the_name_that_was_asked_for() {
        let mut interests = Interests::default();
        interests.add(1, &Interest::name("short"));
        let shares = interests.shares(&[resource("long", &["short", "long"])], &[]);
        assert_eq!(&*shares[0].1.sent[0].name, "short");
    }

    #[test]
    fn who_wants_all_and_some_by_name_gets_each_resource_once_under_its_own_name() {
        let mut interests = Interests::default();
        let interest = Interest::WildcardAnd(vec!["short".into(), "long".into()]);
        interests.add(1, &interest);
        assert!(interests.is_wildcard());
        assert_eq!(interests.names().len(), 2);
        let shares = interests.shares(&[resource("long", &["short", "long"])], &["short".into()]);
        let names: Vec<_> = shares[0].1.sent.iter().map(|sent| &*sent.name).collect();
        assert_eq!(names, ["long"]);
        assert_eq!(shares[0].1.removed.len(), 1);
        interests.remove(1, &interest);
        assert!(interests.is_empty());
    }

    #[test]
    fn a_name_is_wanted_until_the_last_subscription_to_it_ends() {
        let mut interests = Interests::default();
        let a = Interest::name("a");
        interests.add(1, &a);
        interests.add(2, &a);
        interests.remove(1, &a);
        assert_eq!(interests.names().len(), 1);
        interests.remove(2, &a);
        assert!(interests.is_empty());
    }
}
