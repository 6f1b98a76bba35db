//! LDS: the listeners of a management server.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::{Rc, Weak};

use outrigger_proto::pb::envoy::admin::v3::UpdateFailureState;

use super::{ListenerManager, Manager};
use crate::server::{InitManager, InitTarget};
use crate::stats::Scope;
use crate::xds::{
    FetchFailure, Interest, Refused, Resource, ResourceKind, SubscriptionStats, Update, Watcher,
    XdsClient, XdsSource,
};

/// Takes what LDS says.
struct LdsWatcher {
    manager: Weak<Manager>,
    scope: Scope,
    stats: SubscriptionStats,
    /// The start of the process waits for the first answer.
    init: RefCell<Option<InitTarget>>,
}

impl ListenerManager {
    /// Takes listeners from a source, for as long as the manager lives. `init` waits for the first answer.
    pub fn watch_lds(&self, client: &XdsClient, source: XdsSource, init: &InitManager) {
        let scope = self.0.server.stats.scope("listener_manager.lds.");
        let watcher = Rc::new(LdsWatcher {
            manager: Rc::downgrade(&self.0),
            stats: SubscriptionStats::new(&scope, &source),
            scope,
            init: RefCell::new(Some(init.target("LDS"))),
        });
        let kind = ResourceKind::Listener;
        let subscription = client.watch(source, kind, Interest::Wildcard, watcher);
        self.0.state.borrow_mut().lds = Some(subscription);
    }
}

impl LdsWatcher {
    fn apply(&self, manager: &Rc<Manager>, update: &Update<'_>) -> Result<(), Vec<Refused>> {
        // Errors are shown until the next answer.
        manager.state.borrow_mut().errors.clear();
        let mut any_applied = false;
        // First those that go: another one may take their address.
        for name in update.removed {
            any_applied |= manager.remove(name);
        }
        let mut refused = Vec::new();
        let mut seen = HashSet::new();
        for resource in update.sent {
            let result = match seen.insert(&resource.name) {
                true => manager.add_or_update(resource),
                false => Err(format!("duplicate listener {} found", resource.name)),
            };
            match result {
                Ok(applied) => any_applied |= applied,
                Err(reason) => refused.push((resource, reason)),
            }
        }
        let mut state = manager.state.borrow_mut();
        if any_applied {
            state.lds_version = update.version.clone();
        }
        let error = |(resource, reason): &(&Resource, String)| UpdateFailureState {
            failed_configuration: resource.body.clone(),
            details: reason.clone(),
            ..Default::default()
        };
        state.last_errors = refused.iter().map(error).collect();
        drop(state);
        if refused.is_empty() {
            return Ok(());
        }
        let refused = refused.into_iter().map(|(resource, reason)| Refused {
            name: resource.name.clone(),
            reason,
        });
        Err(refused.collect())
    }
}

impl Watcher for LdsWatcher {
    fn on_update(&self, update: &Update<'_>) -> Result<(), Vec<Refused>> {
        let Some(manager) = self.manager.upgrade() else {
            return Ok(());
        };
        let apply = || self.apply(&manager, update);
        let result = self.stats.count(update.version, apply);
        drop(self.init.take());
        result
    }

    fn stats_scope(&self) -> Option<Scope> {
        Some(self.scope.clone())
    }

    fn on_fetch_failed(&self, why: FetchFailure) {
        self.stats.failed(why);
        if why == FetchFailure::Timeout {
            drop(self.init.take());
        }
    }
}
