//! A group of stats with one lazily made shard per thread.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::histogram::{HistogramData, HistogramShard};
use super::thread_shard;

/// The name of a stat within its group, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatDef {
    /// The last part of the full name.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
}

/// What a stat measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution of values.
    Histogram(Unit),
}

/// The unit of a histogram's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the unit it is called after")]
pub enum Unit {
    Unspecified,
    Bytes,
    Microseconds,
    Milliseconds,
    /// A share, recorded in parts of 1,000,000.
    Percent,
}

/// Stats that are declared together and share a prefix.
pub struct Group {
    prefix: Box<str>,
    defs: Defs,
    /// Index 0 may be used by any thread, with atomic additions; the others belong to one worker each.
    shards: Box<[OnceLock<Shard>]>,
}

enum Defs {
    Static(&'static [StatDef]),
    /// A stat whose name was made at run time; the prefix is its whole name.
    One(Kind),
}

struct Shard {
    values: Box<[AtomicU64]>,
    histograms: Box<[OnceLock<Box<HistogramShard>>]>,
}

/// A handle to a counter of a group.
#[derive(Clone, Copy)]
pub struct CounterRef<'a> {
    group: &'a Group,
    index: usize,
}

/// A handle to a gauge of a group.
#[derive(Clone, Copy)]
pub struct GaugeRef<'a> {
    group: &'a Group,
    index: usize,
}

/// A handle to a histogram of a group.
#[derive(Clone, Copy)]
pub struct HistogramRef<'a> {
    group: &'a Group,
    index: usize,
}

impl Group {
    pub(super) fn new(prefix: &str, defs: &'static [StatDef], workers: usize) -> Self {
        Self::with(prefix, Defs::Static(defs), workers)
    }

    pub(super) fn single(name: &str, kind: Kind, workers: usize) -> Self {
        Self::with(name, Defs::One(kind), workers)
    }

    fn with(prefix: &str, defs: Defs, workers: usize) -> Self {
        Self {
            prefix: prefix.into(),
            defs,
            shards: (0..=workers).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The prefix of every full name, with its trailing dot; of a single stat the whole name.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// How many stats it has.
    pub fn len(&self) -> usize {
        match self.defs {
            Defs::Static(defs) => defs.len(),
            Defs::One(_) => 1,
        }
    }

    /// Whether it has no stats.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last part of the name of stat `index` (empty for a single stat), and its kind.
    pub fn stat(&self, index: usize) -> (&'static str, Kind) {
        match self.defs {
            Defs::Static(defs) => (defs[index].name, defs[index].kind),
            Defs::One(kind) => ("", kind),
        }
    }

    /// The counter at `index` of the declaration.
    #[inline]
    pub fn counter(&self, index: usize) -> CounterRef<'_> {
        CounterRef { group: self, index }
    }

    /// The gauge at `index` of the declaration.
    #[inline]
    pub fn gauge(&self, index: usize) -> GaugeRef<'_> {
        GaugeRef { group: self, index }
    }

    /// The histogram at `index` of the declaration.
    #[inline]
    pub fn histogram(&self, index: usize) -> HistogramRef<'_> {
        HistogramRef { group: self, index }
    }

    /// Sets all counters back to zero. A worker that adds at the same moment may win.
    pub fn reset_counters(&self) {
        for index in (0..self.len()).filter(|i| self.stat(*i).1 == Kind::Counter) {
            self.touched()
                .for_each(|shard| shard.values[index * 2].store(0, Relaxed));
        }
    }

    #[inline]
    fn add(&self, index: usize, n: u64) {
        let shard_index = thread_shard();
        let Some(slot) = self.shards.get(shard_index) else {
            return;
        };
        let shard = slot.get_or_init(|| Shard::new(self.len()));
        // Values and their "used" marks lie side by side: one cache line.
        let value = &shard.values[index * 2];
        if shard_index == 0 {
            value.fetch_add(n, Relaxed);
        } else {
            value.store(value.load(Relaxed).wrapping_add(n), Relaxed);
        }
        shard.values[index * 2 + 1].store(1, Relaxed);
    }

    fn sum(&self, index: usize) -> u64 {
        self.touched().fold(0, |sum, shard| {
            sum.wrapping_add(shard.values[index * 2].load(Relaxed))
        })
    }

    fn used(&self, index: usize) -> bool {
        self.touched()
            .any(|shard| shard.values[index * 2 + 1].load(Relaxed) != 0)
    }

    fn touched(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().filter_map(OnceLock::get)
    }
}

impl Shard {
    fn new(len: usize) -> Self {
        Self {
            values: (0..len * 2).map(|_| AtomicU64::new(0)).collect(),
            histograms: (0..len).map(|_| OnceLock::new()).collect(),
        }
    }
}

impl CounterRef<'_> {
    /// Adds one.
    #[inline]
    pub fn inc(self) {
        self.group.add(self.index, 1);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(self, n: u64) {
        self.group.add(self.index, n);
    }

    /// The sum over all threads.
    pub fn value(self) -> u64 {
        self.group.sum(self.index)
    }

    /// Whether it was ever added to.
    pub fn is_used(self) -> bool {
        self.group.used(self.index)
    }
}

impl GaugeRef<'_> {
    /// Adds one.
    #[inline]
    pub fn inc(self) {
        self.group.add(self.index, 1);
    }

    /// Takes one away.
    #[inline]
    pub fn dec(self) {
        self.group.add(self.index, u64::MAX);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(self, n: u64) {
        self.group.add(self.index, n);
    }

    /// Takes `n` away.
    #[inline]
    pub fn sub(self, n: u64) {
        self.group.add(self.index, n.wrapping_neg());
    }

    /// Makes the sum `value`. For gauges that only one thread writes.
    pub fn set(self, value: u64) {
        let others = self.value();
        self.group.add(self.index, value.wrapping_sub(others));
    }

    /// The sum over all threads.
    pub fn value(self) -> u64 {
        self.group.sum(self.index)
    }

    /// Whether it was ever written.
    pub fn is_used(self) -> bool {
        self.group.used(self.index)
    }
}

impl HistogramRef<'_> {
    /// Adds a value, in the unit of the histogram.
    #[inline]
    pub fn record(self, value: u64) {
        let Some(slot) = self.group.shards.get(thread_shard()) else {
            return;
        };
        let shard = slot.get_or_init(|| Shard::new(self.group.len()));
        shard.histograms[self.index]
            .get_or_init(Box::default)
            .record(value);
        shard.values[self.index * 2 + 1].store(1, Relaxed);
    }

    /// The distribution of all values recorded so far by all threads.
    pub fn snapshot(self) -> HistogramData {
        let mut data = HistogramData::default();
        for shard in self.group.touched() {
            if let Some(histogram) = shard.histograms[self.index].get() {
                histogram.add_to(&mut data);
            }
        }
        data
    }

    /// Whether a value was ever recorded.
    pub fn is_used(self) -> bool {
        self.group.used(self.index)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("prefix", &self.prefix)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
