//! All stats of the process.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::group::{CounterRef, GaugeRef, Group, HistogramRef, Kind, StatDef, Unit};

/// Every group that is alive, by prefix. Its lock is taken when stats are made or read, never when they are counted.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    workers: usize,
    groups: Mutex<Groups>,
}

#[derive(Default)]
struct Groups {
    /// Groups die with their owner; singles live as long as the store.
    declared: Vec<Weak<Group>>,
    singles: HashMap<Box<str>, Arc<Group>>,
    /// Dead entries are swept when the list has doubled since the last sweep.
    sweep_at: usize,
}

/// A prefix under which stats are registered: `cluster.backend.`
#[derive(Clone)]
pub struct Scope {
    store: Store,
    prefix: Arc<str>,
}

/// A counter with a name of its own.
#[derive(Debug, Clone)]
pub struct Counter(Arc<Group>);

/// A gauge with a name of its own.
#[derive(Debug, Clone)]
pub struct Gauge(Arc<Group>);

/// A histogram with a name of its own.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Group>);

impl Store {
    /// A store for this many worker threads.
    pub fn new(workers: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                workers,
                groups: Mutex::default(),
            }),
        }
    }

    /// The scope of a prefix, which ends in a dot or is empty.
    pub fn scope(&self, prefix: &str) -> Scope {
        Scope {
            store: self.clone(),
            prefix: prefix.into(),
        }
    }

    /// Every group that is alive. Order is not defined.
    pub fn groups(&self) -> Vec<Arc<Group>> {
        let groups = self.inner.groups.lock();
        groups
            .declared
            .iter()
            .filter_map(Weak::upgrade)
            .chain(groups.singles.values().cloned())
            .collect()
    }

    fn single(&self, name: &str, kind: Kind) -> Arc<Group> {
        let mut groups = self.inner.groups.lock();
        if let Some(group) = groups.singles.get(name) {
            return group.clone();
        }
        let group = Arc::new(Group::single(name, kind, self.inner.workers));
        groups.singles.insert(name.into(), group.clone());
        group
    }
}

impl Groups {
    fn register(&mut self, group: &Arc<Group>) {
        if self.declared.len() >= self.sweep_at {
            self.declared.retain(|weak| weak.strong_count() > 0);
            self.sweep_at = (self.declared.len() * 2).max(64);
        }
        self.declared.push(Arc::downgrade(group));
    }
}

impl Scope {
    /// The prefix, with its trailing dot.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The store it belongs to.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The scope `prefix` below this one. `prefix` ends in a dot.
    pub fn scope(&self, prefix: &str) -> Scope {
        Scope {
            store: self.store.clone(),
            prefix: format!("{}{prefix}", self.prefix).into(),
        }
    }

    /// Registers a declared group here.
    pub fn group(&self, defs: &'static [StatDef]) -> Arc<Group> {
        let group = Arc::new(Group::new(&self.prefix, defs, self.store.inner.workers));
        self.store.inner.groups.lock().register(&group);
        group
    }

    /// The counter `name` of this scope; the same one however often it is asked for.
    pub fn counter(&self, name: &str) -> Counter {
        Counter(
            self.store
                .single(&format!("{}{name}", self.prefix), Kind::Counter),
        )
    }

    /// The gauge `name` of this scope.
    pub fn gauge(&self, name: &str) -> Gauge {
        Gauge(
            self.store
                .single(&format!("{}{name}", self.prefix), Kind::Gauge),
        )
    }

    /// The histogram `name` of this scope.
    pub fn histogram(&self, name: &str, unit: Unit) -> Histogram {
        Histogram(
            self.store
                .single(&format!("{}{name}", self.prefix), Kind::Histogram(unit)),
        )
    }
}

macro_rules! deref_to { ($($owner:ident $handle:ident $get:ident;)*) => { $(
    impl $owner {
        /// The handle to add to or to read.
        #[inline]
        pub fn get(&self) -> $handle<'_> {
            self.0.$get(0)
        }
    }
)* } }
deref_to! { Counter CounterRef counter; Gauge GaugeRef gauge; Histogram HistogramRef histogram; }

impl Counter {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.get().inc();
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.get().add(n);
    }

    /// The sum over all threads.
    pub fn value(&self) -> u64 {
        self.get().value()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("workers", &self.inner.workers)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scope").field(&self.prefix).finish()
    }
}
