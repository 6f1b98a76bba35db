//! Clusters that are asked for when a request needs them: on-demand CDS.
//!
//! A worker asks main and waits; main adds the name to a subscription of the source, and tells when the cluster is in use, when
//! the source says that there is none, or when it took too long.
//! Stats: `cluster_manager.odcds.*`, with the names of `cluster_manager.cds.*`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::debug;

use super::cluster_manager::ClusterManager;
use super::dynamic_clusters::CdsWatcher;
use crate::xds::{Interest, ResourceKind, Subscription, XdsSource};

/// The way of workers to main.
pub struct OnDemandClusters {
    requests: mpsc::Sender<Request>,
    received: Mutex<Option<mpsc::Receiver<Request>>>,
}

struct Request {
    source: Arc<XdsSource>,
    name: Arc<str>,
    timeout: Duration,
    /// Dropped when the wait is over.
    done: oneshot::Sender<()>,
}

/// What is asked for, on main.
#[derive(Default)]
pub(super) struct OnDemandManager {
    is_serving: Cell<bool>,
    waiting: RefCell<HashMap<Arc<str>, Waiting>>,
    sources: RefCell<Vec<Source>>,
}

/// Who waits for a name.
struct Waiting {
    done: Vec<oneshot::Sender<()>>,
    timeout: JoinHandle<()>,
}

/// A source that was asked.
struct Source {
    source: Arc<XdsSource>,
    subscription: Subscription,
    names: BTreeSet<Arc<str>>,
}

/// So many names may be asked for at a time; requests choose them. For others nobody waits.
const NAMES: usize = 1024;

impl OnDemandClusters {
    /// Asks for a cluster. The future ends when it is in use, and also when there is no hope for it (any more).
    pub fn find(
        &self,
        source: &Arc<XdsSource>,
        name: &str,
        timeout: Duration,
    ) -> impl Future<Output = ()> + use<> {
        let (done, found) = oneshot::channel();
        let request = Request {
            source: source.clone(),
            name: name.into(),
            timeout,
            done,
        };
        // Where too many ask, this one does without.
        let is_asked = self.requests.try_send(request).is_ok();
        async move {
            if is_asked {
                // It ends by being dropped.
                let _ = found.await;
            }
        }
    }
}

impl Default for OnDemandClusters {
    fn default() -> Self {
        let (requests, received) = mpsc::channel(NAMES);
        Self {
            requests,
            received: Mutex::new(Some(received)),
        }
    }
}

impl ClusterManager {
    /// Answers workers that ask for clusters, from now on.
    pub(super) fn serve_on_demand(self: &Rc<Self>) {
        if self.on_demand.is_serving.replace(true) {
            return;
        }
        let Some(mut received) = self.server.on_demand_clusters.received.lock().take() else {
            return;
        };
        let manager = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            while let Some(request) = received.recv().await {
                let Some(manager) = manager.upgrade() else {
                    return;
                };
                manager.find_on_demand(request);
            }
        });
    }

    fn find_on_demand(self: &Rc<Self>, request: Request) {
        let Request {
            source,
            name,
            timeout,
            done,
        } = request;
        let id = self.server.cluster_names.find(&name);
        if id.is_some_and(|id| self.table().find(id).is_some()) {
            return;
        }
        let mut waiting = self.on_demand.waiting.borrow_mut();
        if let Some(known) = waiting.get_mut(&name) {
            known.done.push(done);
        } else if waiting.len() < NAMES {
            let manager = Rc::downgrade(self);
            let late = name.clone();
            let timeout = tokio::task::spawn_local(async move {
                tokio::time::sleep(timeout).await;
                if let Some(manager) = manager.upgrade() {
                    debug!(cluster = &*late, "Cluster was asked for and did not come.");
                    manager.is_missing(&late);
                }
            });
            let done = vec![done];
            waiting.insert(name.clone(), Waiting { done, timeout });
        } else {
            return;
        }
        drop(waiting);
        self.subscribe_on_demand(source, name);
    }

    fn subscribe_on_demand(self: &Rc<Self>, source: Arc<XdsSource>, name: Arc<str>) {
        let mut sources = self.on_demand.sources.borrow_mut();
        if let Some(known) = sources.iter_mut().find(|known| known.source == source) {
            if known.names.insert(name) {
                known.ask();
            }
            return;
        }
        let Some(client) = self.eds.client() else {
            return;
        };
        let watcher = CdsWatcher::on_demand(self);
        let interest = Interest::Names(vec![name.clone()]);
        let kind = ResourceKind::Cluster;
        let subscription = client.watch(XdsSource::clone(&source), kind, interest, watcher);
        sources.push(Source {
            source,
            subscription,
            names: [name].into(),
        });
    }

    /// A cluster is in use: nobody waits for it any more.
    pub(super) fn is_found(&self, name: &str) {
        let waiting = &self.on_demand.waiting;
        if waiting.borrow().is_empty() {
            return;
        }
        let found = waiting.borrow_mut().remove(name);
        drop(found);
    }

    /// There is no such cluster, or it did not come in time: nobody waits for it, and it is no longer asked for.
    pub(super) fn is_missing(&self, name: &str) {
        self.is_found(name);
        for source in &mut *self.on_demand.sources.borrow_mut() {
            if source.names.remove(name) {
                source.ask();
            }
        }
    }
}

impl Source {
    fn ask(&self) {
        let names = self.names.iter().cloned().collect();
        self.subscription.set_interest(Interest::Names(names));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.timeout.abort();
    }
}

impl fmt::Debug for OnDemandClusters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDemandClusters").finish_non_exhaustive()
    }
}
