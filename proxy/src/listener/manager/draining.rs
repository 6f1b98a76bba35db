//! What becomes of the connections of listeners and filter chains that are gone.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::debug;

use super::Manager;
use super::managed::ManagedListener;
use crate::listener::{FilterChain, ListenerCommand};
use crate::server::WorkerMessage;

impl Manager {
    /// Lets the connections of a listener drain, and closes what is left after the drain time. `successor`: who takes its place.
    pub(super) fn drain_listener(
        self: &Rc<Self>,
        old: Rc<ManagedListener>,
        successor: Option<&ManagedListener>,
    ) {
        let hand_over = successor.is_some_and(|new| old.sockets_fit(&new.config));
        let drain = self.drain.get();
        let id = old.id;
        self.broadcast(|| ListenerCommand::Drain {
            listener: id,
            hand_over,
            gradually: drain.gradual.then_some(drain.over),
        });
        // The workers have theirs. What waits for nobody is refused at once.
        old.close_sockets();
        self.state.borrow_mut().draining.push(old.clone());
        let manager = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(drain.over).await;
            let Some(manager) = manager.upgrade() else {
                return;
            };
            debug!(name = old.name(), "The drain time of a listener is over.");
            let (done, mut all_done) = mpsc::channel(1);
            manager.broadcast(|| ListenerCommand::Remove {
                listener: id,
                done: done.clone(),
            });
            drop(done);
            // Nothing is ever sent: it ends when the last worker has dropped its end.
            let _ = all_done.recv().await;
            let mut state = manager.state.borrow_mut();
            state.draining.retain(|other| !Rc::ptr_eq(other, &old));
            drop(state);
            manager.update_gauges();
        });
    }

    /// Gives the workers the filter chains of `new` in place of those of `old`, and lets connections of those that are gone drain.
    pub(super) fn replace_chains(self: &Rc<Self>, old: &ManagedListener, new: &ManagedListener) {
        let drain = self.drain.get();
        let id = new.id;
        self.broadcast(|| ListenerCommand::ReplaceChains {
            listener: id,
            config: new.config.clone(),
            gradually: drain.gradual.then_some(drain.over),
        });
        let stays = |chain: &&Arc<FilterChain>| {
            let mut all = new.config.chains.iter();
            all.any(|new| Arc::ptr_eq(new, chain))
        };
        let chains = old.config.chains.iter().filter(|chain| !stays(chain));
        let chains: Arc<[Arc<FilterChain>]> = chains.cloned().collect();
        let count = u64::try_from(chains.len()).unwrap_or(u64::MAX);
        self.stats
            .listener_create_success()
            .add(u64::try_from(self.workers).unwrap_or(u64::MAX));
        self.stats.total_filter_chains_draining().add(count);
        let manager = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(drain.over).await;
            let Some(manager) = manager.upgrade() else {
                return;
            };
            let (done, mut all_done) = mpsc::channel(1);
            manager.broadcast(|| ListenerCommand::CloseChains {
                listener: id,
                chains: chains.clone(),
                done: done.clone(),
            });
            drop(done);
            let _ = all_done.recv().await;
            manager.stats.total_filter_chains_draining().sub(count);
        });
    }

    fn broadcast(&self, command: impl Fn() -> ListenerCommand) {
        if let Some(links) = &self.state.borrow().links {
            links.broadcast(|| WorkerMessage::Listener(command()));
        }
    }
}
