//! Responses by code of routes with a `stat_prefix`, on one worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::route::RouteStats;
use crate::upstream::CodeStats;

/// The counters of each route, made when its first response comes.
#[derive(Default)]
pub(crate) struct RouteCodes(RefCell<HashMap<usize, Entry>>);

/// A route keeps its number as long as it is held.
struct Entry {
    _route: Arc<RouteStats>,
    codes: CodeStats,
}

/// That many routes are remembered. To forget one costs no count: the counters are where their names are.
const REMEMBERED: usize = 4096;

impl RouteCodes {
    /// Counts something of a route.
    #[cold]
    pub(super) fn of(&self, route: &Arc<RouteStats>, count: impl FnOnce(&mut CodeStats)) {
        let mut routes = self.0.borrow_mut();
        let number = Arc::as_ptr(route).addr();
        if routes.len() >= REMEMBERED && !routes.contains_key(&number) {
            routes.clear();
        }
        let entry = routes.entry(number).or_insert_with(|| Entry {
            _route: route.clone(),
            codes: CodeStats::default(),
        });
        count(&mut entry.codes);
    }
}
