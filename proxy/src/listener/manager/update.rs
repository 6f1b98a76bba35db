//! Listeners that come, change and go while the process runs.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_proto::pb::envoy::admin::v3::UpdateFailureState;
use outrigger_proto::pb::envoy::config::listener::v3 as pb;
use tracing::{debug, info, warn};

use super::managed::{BindError, ManagedListener, Origin};
use super::{Manager, State, Stopped, Warming};
use crate::config::{ConfigPath, ConfigReport, timestamp};
use crate::listener::{Listener, Predecessor};
use crate::net::Address;
use crate::xds::Resource;

impl Manager {
    /// Takes a listener of LDS. False: nothing had to be done. The error names all that is wrong with it.
    pub(super) fn add_or_update(self: &Rc<Self>, resource: &Resource) -> Result<bool, String> {
        let result = self.try_add_or_update(resource);
        if let Err(details) = &result {
            let error = UpdateFailureState {
                failed_configuration: resource.body.clone(),
                last_update_attempt: Some(timestamp(SystemTime::now())),
                details: details.clone(),
                ..Default::default()
            };
            let mut state = self.state.borrow_mut();
            state.errors.insert(resource.name.clone(), error);
        }
        self.update_gauges();
        result
    }

    fn try_add_or_update(self: &Rc<Self>, resource: &Resource) -> Result<bool, String> {
        let name = &*resource.name;
        let (active, warming) = self.state.borrow().find(name);
        let same = |known: &Option<Rc<ManagedListener>>| {
            let known = known.as_ref();
            known.is_some_and(|known| Some(&known.message) == resource.body.as_ref())
        };
        if warming.is_some() && same(&active) {
            // Back to what is in force: what would have come in its place is dropped.
            self.state.borrow_mut().drop_warming(name);
            self.stats.listener_modified().inc();
            return Ok(true);
        }
        let is_static = |known: &Rc<ManagedListener>| known.origin == Origin::Bootstrap;
        if active.as_ref().is_some_and(is_static) || same(&active) || same(&warming) {
            debug!(name, "A listener came again, or cannot be changed.");
            return Ok(false);
        }
        let Some(new) = self.convert(resource, active.as_deref())? else {
            return Ok(false);
        };
        let in_place = active.as_ref().is_some_and(|active| active.id == new.id);
        let new = match warming.as_ref().or(active.as_ref()) {
            _ if in_place => new,
            Some(old) => self.with_sockets(new, old)?,
            None => self.with_own_sockets(new)?,
        };
        self.admit(
            Rc::new(new),
            in_place,
            active.is_none() && warming.is_none(),
        );
        Ok(true)
    }

    /// Converts a listener. One that differs from the active one in its filter chains only has its number already, and its
    /// sockets. None: it may not begin any more.
    fn convert(
        &self,
        resource: &Resource,
        active: Option<&ManagedListener>,
    ) -> Result<Option<ManagedListener>, String> {
        let report = ConfigReport::of_resource(&self.server);
        let title = format!("listener \"{}\"", resource.name);
        let path = ConfigPath::root(&report, &title);
        let failed = |_| report.text();
        let proto: pb::Listener = resource.decode(&path).map_err(failed)?;
        let runs = self.state.borrow().links.is_some();
        let old = active.filter(|_| runs).and_then(|active| {
            let proto: pb::Listener = outrigger_proto::any::decode(&active.message).ok()?;
            Some((active, proto))
        });
        let old = old.filter(|(_, old)| differ_in_chains_only(old, &proto));
        let config = match &old {
            Some((active, old)) => {
                let predecessor = Predecessor {
                    proto: old,
                    config: &active.config,
                };
                Listener::successor_from_proto(proto, &predecessor, &self.server, &path)
            }
            None => Listener::from_proto(proto, &self.server, &path),
        };
        let config = config.map_err(failed)?;
        let stopped = self.state.borrow().stopped;
        if stopped.is_some_and(|stopped: Stopped| stopped.includes(&config)) {
            debug!(
                name = &*resource.name,
                "Listeners of this direction were stopped."
            );
            return Ok(None);
        }
        let id = self.state.borrow_mut().next_id();
        let message = resource.body.clone().unwrap_or_default();
        let origin = Origin::Lds(resource.version.clone());
        let new = ManagedListener::new(id, config, message, origin, self.workers);
        Ok(Some(match old {
            None => new,
            Some((active, _)) => {
                self.stats.listener_in_place_updated().inc();
                new.with_sockets_of(active, true)
            }
        }))
    }

    /// For a listener that another one precedes: its sockets where they fit, else others.
    fn with_sockets(
        &self,
        new: ManagedListener,
        old: &ManagedListener,
    ) -> Result<ManagedListener, String> {
        if new.config.sockets.reuse_port != old.config.sockets.reuse_port {
            return Err(format!(
                "Listener {}: reuse port cannot be changed during an update",
                new.name()
            ));
        }
        if old.sockets_fit(&new.config) {
            return Ok(new.with_sockets_of(old, false));
        }
        self.with_own_sockets(new)
    }

    /// For any other: those of a listener that drains and has the same address, else new ones.
    fn with_own_sockets(&self, new: ManagedListener) -> Result<ManagedListener, String> {
        let state = self.state.borrow();
        if state.address_taken(&new.config).is_some() {
            let addresses: Vec<_> = new.addresses().iter().map(ToString::to_string).collect();
            return Err(format!(
                "error adding listener: '{}' has duplicate address '{}' as existing listener, to check if the listener has \
                 duplicated addresses with other listeners or 'enable_reuse_port' is set to 'false' for the listener",
                new.name(),
                addresses.join(",")
            ));
        }
        let mut draining = state.draining.iter();
        let fits = |old: &&Rc<ManagedListener>| old.is_open() && old.sockets_fit(&new.config);
        if let Some(old) = draining.find(fits) {
            let old = old.clone();
            return Ok(new.with_sockets_of(&old, false));
        }
        new.bind(self.workers).map_err(|errors| {
            self.stats.listener_create_failure().inc();
            let errors: Vec<_> = errors.iter().map(BindError::reason).collect();
            errors.join("\n")
        })?;
        Ok(new)
    }

    /// Takes a new listener among those that wait, or, before the workers run, among the active ones.
    fn admit(self: &Rc<Self>, new: Rc<ManagedListener>, in_place: bool, is_first: bool) {
        match is_first {
            true => self.stats.listener_added().inc(),
            false => self.stats.listener_modified().inc(),
        }
        let mut state = self.state.borrow_mut();
        state.drop_warming(new.name());
        if state.links.is_some() {
            let manager = Rc::downgrade(self);
            let warming = new.clone();
            let waiting = tokio::task::spawn_local(async move {
                warming.config.init.ready().await;
                if let Some(manager) = manager.upgrade() {
                    manager.warmed(&warming, in_place);
                }
            });
            state.warming.push(Warming {
                listener: new,
                waiting: waiting.abort_handle(),
            });
            return;
        }
        let same_name = |old: &Rc<ManagedListener>| old.name() == new.name();
        match state.active.iter().position(same_name) {
            Some(at) => state.active[at] = new.clone(),
            None => state.active.push(new.clone()),
        }
        drop(state);
        self.wait_for(&new);
    }

    /// A listener has all that it needs: it takes the place of the one before it.
    fn warmed(self: &Rc<Self>, listener: &Rc<ManagedListener>, in_place: bool) {
        {
            let mut state = self.state.borrow_mut();
            let before = state.warming.len();
            // This runs in the task that is dropped here; it does not wait any more.
            state
                .warming
                .retain(|warming| !Rc::ptr_eq(&warming.listener, listener));
            if state.warming.len() == before {
                return;
            }
        }
        let name = listener.name();
        if in_place {
            info!(name, "A listener has new filter chains.");
            let old = self.state.borrow_mut().activate(listener);
            if let Some(old) = old {
                self.replace_chains(&old, listener);
            }
        } else if let Err(error) = self.add_to_workers(listener) {
            warn!(%error, "A listener cannot listen.");
            self.stats.listener_create_failure().inc();
            self.remove(name);
        } else {
            info!(name, "A listener is active.");
            let old = self.state.borrow_mut().activate(listener);
            if let Some(old) = old {
                self.drain_listener(old, Some(listener));
            }
        }
        self.update_gauges();
    }

    /// Removes a listener of LDS. False: there is none of that name.
    pub(super) fn remove(self: &Rc<Self>, name: &str) -> bool {
        let (active, runs) = {
            let mut state = self.state.borrow_mut();
            let (active, warming) = state.find(name);
            let active = active.filter(|active| active.origin != Origin::Bootstrap);
            if active.is_none() && warming.is_none() {
                return false;
            }
            state.drop_warming(name);
            if let Some(active) = &active {
                state.active.retain(|other| !Rc::ptr_eq(other, active));
            }
            (active, state.links.is_some())
        };
        info!(name, "A listener is removed.");
        if let Some(active) = active.filter(|_| runs) {
            self.drain_listener(active, None);
        }
        self.stats.listener_removed().inc();
        self.update_gauges();
        true
    }
}

impl State {
    /// The active and the warming listener of a name.
    fn find(&self, name: &str) -> (Option<Rc<ManagedListener>>, Option<Rc<ManagedListener>>) {
        let active = self.active.iter().find(|known| known.name() == name);
        let mut warming = self.warming.iter().map(|warming| &warming.listener);
        let warming = warming.find(|known| known.name() == name);
        (active.cloned(), warming.cloned())
    }

    fn drop_warming(&mut self, name: &str) {
        self.warming
            .retain(|warming| warming.listener.name() != name);
    }

    /// Makes a listener the active one of its name, and gives the one that it was before.
    fn activate(&mut self, listener: &Rc<ManagedListener>) -> Option<Rc<ManagedListener>> {
        let mut active = self.active.iter_mut();
        if let Some(place) = active.find(|known| known.name() == listener.name()) {
            return Some(std::mem::replace(place, listener.clone()));
        }
        self.active.push(listener.clone());
        None
    }

    /// An address of a listener that another one has, with the name of that one. Versions of one listener may have the same
    /// address if each makes sockets of its own.
    pub(super) fn address_taken(&self, config: &Listener) -> Option<(Address, String)> {
        if !config.bind_to_port {
            return None;
        }
        let warming = self.warming.iter().map(|warming| &warming.listener);
        let others: Vec<_> = self.active.iter().chain(warming).collect();
        let fixed = config.addresses.iter().map(|address| &address.address);
        fixed
            .filter(|address| address.port() != Some(0))
            .find_map(|address| {
                let same = |other: &&&Rc<ManagedListener>| {
                    let own_version = *other.config.identity.name == *config.identity.name;
                    let others = &other.config.addresses;
                    other.config.bind_to_port
                        && !(own_version && config.sockets.reuse_port)
                        && others.iter().any(|other| other.address == *address)
                };
                let other = others.iter().find(same)?;
                Some((address.clone(), other.name().to_owned()))
            })
    }
}

/// Whether connections of the filter chains that two versions of a listener have in common may go on.
fn differ_in_chains_only(old: &pb::Listener, new: &pb::Listener) -> bool {
    #[allow(deprecated, reason = "the first chain may still say it")]
    let uses_proxy_protocol = |listener: &pb::Listener| {
        let first = listener.filter_chains.first();
        let says = first.and_then(|chain| chain.use_proxy_proto);
        says.is_some_and(|value| value.value)
    };
    if new.filter_chains.is_empty() || uses_proxy_protocol(old) != uses_proxy_protocol(new) {
        return false;
    }
    let without_chains = |listener: &pb::Listener| pb::Listener {
        filter_chains: Vec::new(),
        default_filter_chain: None,
        filter_chain_matcher: None,
        ..listener.clone()
    };
    without_chains(old) == without_chains(new)
}

impl Manager {
    /// Whether a version is the one that a listener came with.
    pub(super) fn version(listener: &ManagedListener) -> Arc<str> {
        match &listener.origin {
            Origin::Bootstrap => Arc::default(),
            Origin::Lds(version) => version.clone(),
        }
    }
}
