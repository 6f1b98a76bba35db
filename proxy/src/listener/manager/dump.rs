//! The listeners on the admin pages.

use std::collections::HashMap;
use std::rc::Rc;

use outrigger_proto::pb::envoy::admin::v3 as pb;
use pb::listeners_config_dump::{DynamicListener, DynamicListenerState, StaticListener};
use pb::unready_targets_dumps::UnreadyTargetsDump;

use super::managed::{ManagedListener, Origin};
use super::{ListenerManager, Manager, State};
use crate::config::timestamp;

impl ListenerManager {
    /// The active listeners, in the order in which they came.
    pub fn active(&self) -> Vec<Rc<ManagedListener>> {
        self.0.state.borrow().active.clone()
    }

    /// For `/config_dump`.
    pub fn dump(&self) -> pb::ListenersConfigDump {
        let state = self.0.state.borrow();
        let mut dump = pb::ListenersConfigDump {
            version_info: state.lds_version.to_string(),
            ..Default::default()
        };
        let mut dynamic = Dynamic::default();
        for listener in &state.active {
            if listener.origin == Origin::Bootstrap {
                dump.static_listeners.push(StaticListener {
                    listener: Some(listener.message.clone()),
                    last_updated: Some(timestamp(listener.last_updated)),
                });
                continue;
            }
            let entry = dynamic.of(listener.name());
            // Before the workers run, none of them is in use.
            match state.links.is_some() {
                true => entry.active_state = Some(state_of(listener)),
                false => entry.warming_state = Some(state_of(listener)),
            }
        }
        for warming in &state.warming {
            let listener = &warming.listener;
            dynamic.of(listener.name()).warming_state = Some(state_of(listener));
        }
        // Of several the oldest is shown, as in Envoy.
        for listener in state.draining.iter().rev() {
            dynamic.of(listener.name()).draining_state = Some(state_of(listener));
        }
        for (name, error) in &state.errors {
            dynamic.of(name).error_state = Some(error.clone());
        }
        let unnamed = state.last_errors.iter().map(|error| DynamicListener {
            error_state: Some(error.clone()),
            ..Default::default()
        });
        dynamic.all.extend(unnamed);
        dump.dynamic_listeners = dynamic.all;
        dump
    }

    /// What listeners wait for, for `/init_dump`.
    pub fn unready(&self) -> Vec<UnreadyTargetsDump> {
        let state = self.0.state.borrow();
        let listeners = state.all_that_wait();
        let dump = |listener: Rc<ManagedListener>| {
            let init = &listener.config.init;
            let target_names = init.unready();
            (!target_names.is_empty()).then(|| UnreadyTargetsDump {
                name: format!("init manager {}", init.name()),
                target_names,
            })
        };
        listeners.into_iter().filter_map(dump).collect()
    }
}

/// The dynamic listeners by name, in the order of their first mention.
#[derive(Default)]
struct Dynamic {
    all: Vec<DynamicListener>,
    by_name: HashMap<String, usize>,
}

impl Dynamic {
    fn of(&mut self, name: &str) -> &mut DynamicListener {
        let all = &mut self.all;
        let at = *self.by_name.entry(name.to_owned()).or_insert_with(|| {
            all.push(DynamicListener {
                name: name.to_owned(),
                ..Default::default()
            });
            all.len() - 1
        });
        &mut all[at]
    }
}

impl State {
    fn all_that_wait(&self) -> Vec<Rc<ManagedListener>> {
        let warming = self.warming.iter().map(|warming| &warming.listener);
        self.active.iter().chain(warming).cloned().collect()
    }
}

fn state_of(listener: &ManagedListener) -> DynamicListenerState {
    DynamicListenerState {
        version_info: Manager::version(listener).to_string(),
        listener: Some(listener.message.clone()),
        last_updated: Some(timestamp(listener.last_updated)),
    }
}
