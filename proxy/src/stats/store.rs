//! All stats of the process.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::StatsConfig;
use super::group::{CounterRef, Defs, GaugeRef, Group, HistogramRef, Kind, StatDef, Unit};

/// Every group that is alive, by prefix. Its lock is taken when stats are made or read, never when they are counted.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    workers: usize,
    config: Arc<OnceLock<StatsConfig>>,
    registry: Mutex<Registry>,
    source: OnceLock<Weak<dyn StatsSource>>,
}

/// Has stats of what is not made yet: they are made when somebody looks.
pub trait StatsSource: Send + Sync {
    /// Their groups, as they would be, and as of the last flush. It may make some of `store` itself.
    fn groups(&self, store: &Store) -> Vec<Arc<Group>>;

    /// Their texts, by name.
    fn texts(&self, store: &Store) -> Vec<(Arc<str>, String)>;

    /// Sets their counters back to zero.
    fn reset_counters(&self);

    /// About how many prefixes these would be.
    fn registered(&self) -> usize;
}

/// What is registered dies with its owners. Entries of the dead are swept when the table has doubled since the last sweep.
#[derive(Default)]
struct Registry {
    groups: HashMap<Arc<str>, SmallVec<[Weak<Group>; 1]>>,
    texts: HashMap<Arc<str>, Weak<Mutex<String>>>,
    sweep_at: usize,
}

/// A prefix under which stats are registered: `cluster.backend.`
///
/// Stats with a name of their own live as long as a scope that was asked for them, or a handle to them.
#[derive(Clone)]
pub struct Scope {
    inner: Arc<ScopeInner>,
}

struct ScopeInner {
    store: Store,
    prefix: Arc<str>,
    /// By full name.
    singles: Mutex<HashMap<Arc<str>, Arc<Group>>>,
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

/// A text among the stats: `cluster_manager.cds.version_text`. It lives as long as a handle to it.
#[derive(Debug, Clone)]
pub struct TextReadout(Arc<Mutex<String>>);

impl Store {
    /// A store for this many worker threads.
    pub fn new(workers: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                workers,
                config: Arc::default(),
                registry: Mutex::default(),
                source: OnceLock::new(),
            }),
        }
    }

    /// An empty store of the same configuration, for stats that are shown once.
    pub fn detached(&self) -> Self {
        Self {
            inner: Arc::new(Inner {
                workers: 0,
                config: self.inner.config.clone(),
                registry: Mutex::default(),
                source: OnceLock::new(),
            }),
        }
    }

    /// Shows the stats of `source`, too, for as long as it lives. There is one: a second call changes nothing.
    pub fn set_source(&self, source: Weak<dyn StatsSource>) {
        let _ = self.inner.source.set(source);
    }

    fn source(&self) -> Option<Arc<dyn StatsSource>> {
        self.inner.source.get()?.upgrade()
    }

    /// Whether anything alive has registered stats under this very prefix.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        let registry = self.inner.registry.lock();
        let alike = registry.groups.get(prefix);
        alike.is_some_and(|alike| alike.iter().any(|group| group.strong_count() > 0))
    }

    /// Sets the bootstrap's `stats_config`. It holds for what is registered from now on: call it before all else, and once;
    /// a second call changes nothing.
    pub fn configure(&self, config: StatsConfig) {
        let _ = self.inner.config.set(config);
    }

    /// The `stats_config` in force.
    pub fn config(&self) -> &StatsConfig {
        self.inner.config.get_or_init(StatsConfig::default)
    }

    /// The scope of a prefix, which ends in a dot or is empty.
    pub fn scope(&self, prefix: &str) -> Scope {
        Scope {
            inner: Arc::new(ScopeInner {
                store: self.clone(),
                prefix: prefix.into(),
                singles: Mutex::default(),
            }),
        }
    }

    /// How many workers write beside main.
    pub fn workers(&self) -> usize {
        self.inner.workers
    }

    /// Every group that is alive. Order is not defined.
    pub fn groups(&self) -> Vec<Arc<Group>> {
        let source = self.source();
        let mut groups = source.map_or_else(Vec::new, |source| source.groups(self));
        groups.append(&mut self.registered_groups());
        groups
    }

    fn registered_groups(&self) -> Vec<Arc<Group>> {
        let registry = self.inner.registry.lock();
        let groups = registry.groups.values().flatten();
        groups.filter_map(Weak::upgrade).collect()
    }

    /// Every text that is alive, by name. Order is not defined.
    pub fn texts(&self) -> Vec<(Arc<str>, String)> {
        let source = self.source();
        let mut texts = source.map_or_else(Vec::new, |source| source.texts(self));
        texts.retain(|(name, _)| !self.config().matcher.rejects(name));
        let registry = self.inner.registry.lock();
        let alive = registry.texts.iter();
        texts.extend(
            alive.filter_map(|(name, text)| Some((name.clone(), text.upgrade()?.lock().clone()))),
        );
        texts
    }

    /// Takes stock of all histograms. Called once for each `stats_flush_interval`; what is shown of a histogram is what the
    /// last call found.
    pub fn flush(&self) {
        self.registered_groups()
            .iter()
            .for_each(|group| group.flush());
    }

    /// Sets all counters back to zero.
    pub fn reset_counters(&self) {
        self.registered_groups()
            .iter()
            .for_each(|group| group.reset_counters());
        if let Some(source) = self.source() {
            source.reset_counters();
        }
    }

    /// The group with this name and these stats: the same one while anybody holds it.
    fn group(&self, prefix: &Arc<str>, defs: Defs) -> Arc<Group> {
        let mut registry = self.inner.registry.lock();
        let same = |group: &Arc<Group>| group.has_defs(defs);
        if let Some(group) = registry
            .groups
            .get(prefix)
            .and_then(|alike| alike.iter().filter_map(Weak::upgrade).find(same))
        {
            return group;
        }
        registry.sweep();
        let rejected = self.config().matcher.rejected(prefix, defs);
        let group = Arc::new(Group::new(
            prefix.clone(),
            defs,
            self.inner.workers,
            rejected,
        ));
        let alike = registry.groups.entry(prefix.clone()).or_default();
        alike.retain(|weak| weak.strong_count() > 0);
        alike.push(Arc::downgrade(&group));
        group
    }

    fn text(&self, name: Arc<str>) -> Arc<Mutex<String>> {
        let mut registry = self.inner.registry.lock();
        if let Some(text) = registry.texts.get(&name).and_then(Weak::upgrade) {
            return text;
        }
        let text = Arc::default();
        if !self.config().matcher.rejects(&name) {
            registry.texts.insert(name, Arc::downgrade(&text));
        }
        text
    }

    /// How many prefixes and names are registered, which bounds the work of showing all stats.
    pub fn registered(&self) -> usize {
        let unmade = self.source().map_or(0, |source| source.registered());
        self.inner.registry.lock().groups.len() + unmade
    }
}

impl Registry {
    fn sweep(&mut self) {
        if self.groups.len() + self.texts.len() < self.sweep_at {
            return;
        }
        self.groups.retain(|_, alike| {
            alike.retain(|weak| weak.strong_count() > 0);
            !alike.is_empty()
        });
        self.texts.retain(|_, text| text.strong_count() > 0);
        self.sweep_at = ((self.groups.len() + self.texts.len()) * 2).max(64);
    }
}

impl Scope {
    /// The prefix, with its trailing dot.
    pub fn prefix(&self) -> &str {
        &self.inner.prefix
    }

    /// The store it belongs to.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The scope `prefix` below this one. `prefix` ends in a dot.
    pub fn scope(&self, prefix: &str) -> Scope {
        self.store().scope(&format!("{}{prefix}", self.prefix()))
    }

    /// Registers a declared group here. Owners that declare the same stats here share them.
    pub fn group(&self, defs: &'static [StatDef]) -> Arc<Group> {
        self.store().group(&self.inner.prefix, Defs::Static(defs))
    }

    /// The counter `name` of this scope; the same one however often it is asked for.
    pub fn counter(&self, name: &str) -> Counter {
        Counter(self.single(name, Kind::Counter))
    }

    /// The gauge `name` of this scope.
    pub fn gauge(&self, name: &str) -> Gauge {
        Gauge(self.single(name, Kind::Gauge))
    }

    /// The histogram `name` of this scope.
    pub fn histogram(&self, name: &str, unit: Unit) -> Histogram {
        Histogram(self.single(name, Kind::Histogram(unit)))
    }

    /// The text `name` of this scope, empty at first.
    pub fn text_readout(&self, name: &str) -> TextReadout {
        TextReadout(self.store().text(self.full_name(name)))
    }

    fn single(&self, name: &str, kind: Kind) -> Arc<Group> {
        let name = self.full_name(name);
        let mut singles = self.inner.singles.lock();
        let group = singles
            .entry(name.clone())
            .or_insert_with(|| self.store().group(&name, Defs::One(kind)));
        if group.has_defs(Defs::One(kind)) {
            return group.clone();
        }
        drop(singles);
        // The same name as another kind of stat: its handle keeps it alive.
        self.store().group(&name, Defs::One(kind))
    }

    fn full_name(&self, name: &str) -> Arc<str> {
        format!("{}{name}", self.prefix()).into()
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

impl TextReadout {
    /// Replaces the text.
    pub fn set(&self, text: impl Into<String>) {
        *self.0.lock() = text.into();
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
        f.debug_tuple("Scope").field(&self.inner.prefix).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::stats_group! { struct Example { counter hits; } }

    #[test]
    fn owners_of_the_same_prefix_share_their_stats() {
        let store = Store::new(0);
        let (a, b) = (
            Example::new(&store.scope("x.")),
            Example::new(&store.scope("x.")),
        );
        a.hits().inc();
        b.hits().inc();
        assert_eq!(a.hits().value(), 2);
        drop(a);
        assert_eq!(b.hits().value(), 2);
        assert_eq!(store.groups().len(), 1);
    }

    #[test]
    fn a_single_stat_lives_as_long_as_a_scope_that_made_it() {
        let store = Store::new(0);
        let (first, second) = (store.scope("a."), store.scope("a."));
        first.counter("b").inc();
        second.counter("b").inc();
        drop(first);
        assert_eq!(second.counter("b").value(), 2);
        drop(second);
        assert!(store.groups().is_empty());
        assert_eq!(store.scope("a.").counter("b").value(), 0);
    }

    #[test]
    fn stats_of_owners_that_went_away_are_forgotten() {
        let store = Store::new(0);
        for cluster in 0..10_000 {
            let scope = store.scope(&format!("cluster.{cluster}."));
            scope.counter("upstream_rq_503").inc();
            Example::new(&scope).hits().inc();
        }
        assert!(store.registered() <= 64, "{}", store.registered());
    }

    #[test]
    fn a_text_is_seen_while_somebody_holds_it() {
        let store = Store::new(0);
        let text = store.scope("cds.").text_readout("version_text");
        text.set("v1");
        assert_eq!(
            store.texts(),
            [("cds.version_text".into(), "v1".to_owned())]
        );
        drop(text);
        assert!(store.texts().is_empty());
    }
}
