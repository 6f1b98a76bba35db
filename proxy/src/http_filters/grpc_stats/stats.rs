//! The stats of calls, by cluster and method: on one worker, made when first needed.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::super::StreamContext;
use super::{Config, Methods};
use crate::http::RequestHead;
use crate::route::ClusterChoice;
use crate::stats::{Counter, Histogram, Scope, Unit};
use crate::stream_info::StreamInfo;
use crate::upstream::ClusterId;

/// How many methods of a cluster a worker counts by name.
const MOST_METHODS: usize = 1000;

/// How many statuses that are no number of gRPC's a method has stats for.
const MOST_STATUSES: usize = 32;

/// What the streams of one worker share.
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) clusters: RefCell<HashMap<ClusterId, Rc<ClusterStats>>>,
}

pub(super) struct ClusterStats {
    /// `cluster.<name>.grpc.`
    scope: Scope,
    /// Of calls that are not counted by name.
    unnamed: Rc<MethodStats>,
    /// By path, as clients ask for it.
    named: RefCell<HashMap<Box<[u8]>, Rc<MethodStats>>>,
}

/// Stats of one method; each is made when first counted, as in Envoy.
pub(super) struct MethodStats {
    scope: Scope,
    success: OnceCell<Counter>,
    failure: OnceCell<Counter>,
    total: OnceCell<Counter>,
    pub(super) request_message_count: OnceCell<Counter>,
    pub(super) response_message_count: OnceCell<Counter>,
    upstream_rq_time: OnceCell<Histogram>,
    statuses: RefCell<HashMap<Box<[u8]>, Counter>>,
}

impl Shared {
    pub(super) fn stats(
        &self,
        cx: &StreamContext<'_>,
        head: &RequestHead,
    ) -> Option<Rc<MethodStats>> {
        let (service, method) = names(head)?;
        let route = cx.info.route.as_ref()?;
        let ClusterChoice::Id(id) = route.cluster(head, &cx.worker.clusters) else {
            return None;
        };
        let known = self.clusters.borrow().get(&id).cloned();
        let cluster = match known {
            Some(cluster) => cluster,
            None => {
                let cluster = cx.worker.clusters.get(id)?;
                let stats = Rc::new(ClusterStats::new(cluster.info().scope.scope("grpc.")));
                self.clusters.borrow_mut().insert(id, stats.clone());
                stats
            }
        };
        let replace_dots = match &self.config.methods {
            Methods::None => return Some(cluster.unnamed.clone()),
            Methods::All { replace_dots } => *replace_dots,
            Methods::Listed(list) => {
                if !list.get(service).is_some_and(|list| list.contains(method)) {
                    return Some(cluster.unnamed.clone());
                }
                false
            }
        };
        Some(cluster.method(head.path().unwrap_or_default(), || {
            if replace_dots {
                format!("{}.{method}.", service.replace('.', "_"))
            } else {
                format!("{service}.{method}.")
            }
        }))
    }
}

/// Service and method: the two parts of the path.
fn names(head: &RequestHead) -> Option<(&str, &str)> {
    let path = std::str::from_utf8(head.path_without_query()).ok()?;
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let names = (parts.next()?, parts.next()?);
    parts.next().is_none().then_some(names)
}

impl ClusterStats {
    pub(super) fn new(scope: Scope) -> Self {
        Self {
            unnamed: Rc::new(MethodStats::new(scope.clone())),
            scope,
            named: RefCell::default(),
        }
    }

    fn method(&self, path: &[u8], name: impl FnOnce() -> String) -> Rc<MethodStats> {
        if let Some(stats) = self.named.borrow().get(path) {
            return stats.clone();
        }
        let mut named = self.named.borrow_mut();
        if named.len() >= MOST_METHODS {
            return self.unnamed.clone();
        }
        let stats = Rc::new(MethodStats::new(self.scope.scope(&name())));
        named.insert(path.into(), stats.clone());
        stats
    }
}

impl MethodStats {
    pub(super) fn new(scope: Scope) -> Self {
        Self {
            scope,
            success: OnceCell::new(),
            failure: OnceCell::new(),
            total: OnceCell::new(),
            request_message_count: OnceCell::new(),
            response_message_count: OnceCell::new(),
            upstream_rq_time: OnceCell::new(),
            statuses: RefCell::default(),
        }
    }

    pub(super) fn count(&self, cell: &OnceCell<Counter>, name: &str, n: u64) {
        cell.get_or_init(|| self.scope.counter(name)).add(n);
    }

    pub(super) fn charge_status(&self, status: &[u8]) {
        let mut statuses = self.statuses.borrow_mut();
        if let Some(counter) = statuses.get(status) {
            counter.inc();
        } else if statuses.len() < MOST_STATUSES {
            let name = String::from_utf8_lossy(status);
            let counter = self.scope.counter(&name);
            counter.inc();
            statuses.insert(status.into(), counter);
        }
        if status == b"0" {
            self.count(&self.success, "success", 1);
        } else {
            self.count(&self.failure, "failure", 1);
        }
        self.count(&self.total, "total", 1);
    }

    pub(super) fn charge_time(&self, info: &StreamInfo) {
        let timing = &info.timing;
        let (Some(sent), Some(received)) =
            (timing.last_upstream_tx_byte, timing.last_upstream_rx_byte)
        else {
            return;
        };
        let took = received.saturating_duration_since(sent).as_millis();
        self.upstream_rq_time
            .get_or_init(|| self.scope.histogram("upstream_rq_time", Unit::Milliseconds))
            .get()
            .record(u64::try_from(took).unwrap_or(u64::MAX));
    }
}
