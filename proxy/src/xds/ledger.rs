//! What became of each resource that was asked for, as `envoy.service.status.v3` tells it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_proto::pb::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use outrigger_proto::pb::google::protobuf::Any;

use super::interests::Interests;
use super::resource::Received;
use super::{Refused, ResourceKind};
use crate::config::timestamp;

/// The state of one resource.
#[derive(Debug, Clone)]
pub struct ResourceStatus {
    /// What it is.
    pub kind: ResourceKind,
    /// Its name.
    pub name: Arc<str>,
    /// The version in force; empty if there is none.
    pub version: Arc<str>,
    /// When that version was taken.
    pub updated: Option<SystemTime>,
    /// What was said of it last.
    pub status: ClientResourceStatus,
    /// Why it was refused, or what the server said is wrong with it.
    pub error: Option<UpdateFailureState>,
    /// Its content, of kinds that nothing else shows: runtime layers and virtual hosts.
    pub body: Option<Any>,
}

/// One kind of resources at one place. Holds what is wanted only, and one entry for each name.
#[derive(Debug)]
pub(super) struct Ledger {
    kind: ResourceKind,
    entries: HashMap<Arc<str>, Entry>,
}

#[derive(Debug)]
struct Entry {
    version: Arc<str>,
    updated: Option<SystemTime>,
    status: ClientResourceStatus,
    error: Option<Box<UpdateFailureState>>,
    body: Option<Box<Any>>,
}

impl Entry {
    fn new(status: ClientResourceStatus) -> Self {
        Self {
            version: "".into(),
            updated: None,
            status,
            error: None,
            body: None,
        }
    }
}

impl Ledger {
    pub(super) fn new(kind: ResourceKind) -> Self {
        Self {
            kind,
            entries: HashMap::new(),
        }
    }

    /// Takes note of a response and of what was refused of it.
    pub(super) fn note(&mut self, received: &Received, refused: &[Refused], wanted: &Interests) {
        let now = SystemTime::now();
        let by_name: HashMap<&str, &Refused> =
            refused.iter().map(|known| (&*known.name, known)).collect();
        for resource in &received.sent {
            if !wanted.includes(&resource.name) {
                continue;
            }
            if let Some(refused) = by_name.get(&*resource.name) {
                let body = resource.body.clone().filter(|_| self.keeps_refused());
                let entry = self.fail(
                    refused,
                    &resource.version,
                    ClientResourceStatus::Nacked,
                    now,
                );
                if let Some(error) = &mut entry.error {
                    error.failed_configuration = body;
                }
                continue;
            }
            let keeps_body = matches!(self.kind, ResourceKind::Runtime | ResourceKind::VirtualHost);
            let body = resource.body.clone().filter(|_| keeps_body);
            let entry = Entry {
                version: resource.version.clone(),
                updated: Some(now),
                status: match resource.body {
                    Some(_) => ClientResourceStatus::Acked,
                    None => ClientResourceStatus::DoesNotExist,
                },
                error: None,
                body: body.map(Box::new),
            };
            self.entries.insert(resource.name.clone(), entry);
        }
        for name in &received.removed {
            match wanted.includes_by_name(name) {
                true => {
                    let entry = Entry::new(ClientResourceStatus::DoesNotExist);
                    self.entries.insert(name.clone(), entry);
                }
                false => drop(self.entries.remove(name)),
            }
        }
        for error in received.errors.iter().filter(|e| wanted.includes(&e.name)) {
            let status = ClientResourceStatus::ReceivedError;
            self.fail(error, &received.version, status, now);
        }
    }

    /// Takes note of a response that was refused before it was taken apart.
    pub(super) fn refuse(&mut self, refused: &[Refused], wanted: &Interests) {
        let named = refused.iter().filter(|known| wanted.includes(&known.name));
        for refused in named.filter(|known| !known.name.is_empty()) {
            let status = ClientResourceStatus::Nacked;
            self.fail(refused, &"".into(), status, SystemTime::now());
        }
    }

    /// Whether what was refused is kept here: what nothing else keeps, and where nothing private stands in.
    fn keeps_refused(&self) -> bool {
        matches!(
            self.kind,
            ResourceKind::RouteConfiguration
                | ResourceKind::Endpoints
                | ResourceKind::ScopedRoute
                | ResourceKind::VirtualHost
                | ResourceKind::Runtime
        )
    }

    /// What was in force of a resource stays so.
    fn fail(
        &mut self,
        refused: &Refused,
        version: &Arc<str>,
        status: ClientResourceStatus,
        now: SystemTime,
    ) -> &mut Entry {
        let entry = self.entries.entry(refused.name.clone());
        let entry = entry.or_insert_with(|| Entry::new(status));
        entry.status = status;
        entry.error = Some(Box::new(UpdateFailureState {
            failed_configuration: None,
            last_update_attempt: Some(timestamp(now)),
            details: refused.reason.clone(),
            version_info: version.to_string(),
        }));
        entry
    }

    /// Nobody waits for the first answer about these names any more.
    pub(super) fn time_out(&mut self, names: &[Arc<str>]) {
        for name in names {
            let entry = self.entries.entry(name.clone());
            entry.or_insert_with(|| Entry::new(ClientResourceStatus::Timeout));
        }
    }

    /// Forgets those of these names that are not wanted any more.
    pub(super) fn forget(&mut self, names: &[Arc<str>], wanted: &Interests) {
        for name in names.iter().filter(|name| !wanted.includes(name)) {
            self.entries.remove(name);
        }
    }

    /// All that is wanted, sorted by name.
    pub(super) fn statuses(&self, wanted: &Interests) -> Vec<ResourceStatus> {
        let requested = Entry::new(ClientResourceStatus::Requested);
        let names = wanted.names();
        let asked = names
            .iter()
            .filter(|name| !self.entries.contains_key(*name));
        let known = self
            .entries
            .iter()
            .filter(|(name, _)| wanted.includes(name));
        let mut all: Vec<ResourceStatus> = known
            .chain(asked.map(|name| (name, &requested)))
            .map(|(name, entry)| ResourceStatus {
                kind: self.kind,
                name: name.clone(),
                version: entry.version.clone(),
                updated: entry.updated,
                status: entry.status,
                error: entry.error.as_deref().cloned(),
                body: entry.body.as_deref().cloned(),
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::{Interest, Resource};

    fn received(names: &[&str], removed: &[&str]) -> Received {
        let resource = |name: &&str| Resource {
            name: (*name).into(),
            aliases: Vec::new(),
            version: "1".into(),
            body: Some(Any::default()),
        };
        Received {
            sent: names.iter().map(resource).collect(),
            removed: removed.iter().map(|name| Arc::from(*name)).collect(),
            ..Received::default()
        }
    }

    fn told(ledger: &Ledger, wanted: &Interests) -> Vec<(String, ClientResourceStatus, String)> {
        let all = ledger.statuses(wanted).into_iter();
        all.map(|s| (s.name.to_string(), s.status, s.version.to_string()))
            .collect()
    }

    #[test]
    fn a_resource_is_requested_then_taken_then_gone() {
        let mut wanted = Interests::default();
        wanted.add(1, &Interest::name("a"));
        let mut ledger = Ledger::new(ResourceKind::Endpoints);
        let one = |status, version: &str| vec![("a".to_owned(), status, version.to_owned())];
        assert_eq!(
            told(&ledger, &wanted),
            one(ClientResourceStatus::Requested, "")
        );
        ledger.time_out(&["a".into()]);
        assert_eq!(
            told(&ledger, &wanted),
            one(ClientResourceStatus::Timeout, "")
        );
        ledger.note(&received(&["a", "never asked for"], &[]), &[], &wanted);
        assert_eq!(
            told(&ledger, &wanted),
            one(ClientResourceStatus::Acked, "1")
        );
        ledger.note(&received(&[], &["a"]), &[], &wanted);
        assert_eq!(
            told(&ledger, &wanted),
            one(ClientResourceStatus::DoesNotExist, "")
        );
        wanted.remove(1, &Interest::name("a"));
        ledger.forget(&["a".into()], &wanted);
        assert!(ledger.entries.is_empty());
    }

    #[test]
    fn what_is_refused_keeps_the_version_in_force_and_says_why() {
        let mut wanted = Interests::default();
        wanted.add(1, &Interest::Wildcard);
        let mut ledger = Ledger::new(ResourceKind::Cluster);
        ledger.note(&received(&["a"], &[]), &[], &wanted);
        let refused = Refused {
            name: "a".into(),
            reason: "bad".into(),
        };
        ledger.note(&received(&["a"], &[]), &[refused], &wanted);
        let status = ledger.statuses(&wanted).remove(0);
        assert_eq!(status.status, ClientResourceStatus::Nacked);
        assert_eq!(&*status.version, "1");
        assert_eq!(status.error.unwrap().details, "bad");
        ledger.note(&received(&[], &["a"]), &[], &wanted);
        assert!(ledger.statuses(&wanted).is_empty());
    }

    #[test]
    fn an_error_of_the_server_is_told() {
        let mut wanted = Interests::default();
        wanted.add(1, &Interest::name("a"));
        let mut ledger = Ledger::new(ResourceKind::Secret);
        let mut response = received(&[], &[]);
        response.errors.push(Refused {
            name: "a".into(),
            reason: "not yours".into(),
        });
        ledger.note(&response, &[], &wanted);
        assert_eq!(
            told(&ledger, &wanted),
            vec![(
                "a".to_owned(),
                ClientResourceStatus::ReceivedError,
                String::new()
            )]
        );
    }
}
