//! A group of stats with one lazily made shard per thread.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

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
    prefix: Arc<str>,
    defs: Defs,
    /// Index 0 may be used by any thread, with atomic additions; the others belong to one worker each.
    /// Empty when every stat is rejected: then nothing is ever counted.
    shards: Box<[OnceLock<Shard>]>,
    rejected: Rejected,
    /// What the last flush found, for each histogram that had values by then.
    flushed: Mutex<Vec<(usize, Flushed)>>,
}

/// What kinds of stats a group has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Defs {
    Static(&'static [StatDef]),
    /// A stat whose name was made at run time; the prefix is its whole name.
    One(Kind),
}

/// Which stats of a group a `stats_matcher` keeps from existing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rejected {
    None,
    All,
    /// By index.
    Some(Box<[bool]>),
}

/// A histogram as of the last flush.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flushed {
    /// All values until then.
    pub cumulative: HistogramData,
    /// The values between the last two flushes.
    pub interval: HistogramData,
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
    pub(super) fn new(prefix: Arc<str>, defs: Defs, workers: usize, rejected: Rejected) -> Self {
        let shards = if rejected == Rejected::All {
            0
        } else {
            workers + 1
        };
        Self {
            prefix,
            defs,
            shards: (0..shards).map(|_| OnceLock::new()).collect(),
            rejected,
            flushed: Mutex::default(),
        }
    }

    /// The prefix of every full name, with its trailing dot; of a single stat the whole name.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn has_defs(&self, defs: Defs) -> bool {
        self.defs == defs
    }

    /// Whether the stat at `index` is there at all: a `stats_matcher` may have rejected it.
    pub fn exists(&self, index: usize) -> bool {
        match &self.rejected {
            Rejected::None => true,
            Rejected::All => false,
            Rejected::Some(rejected) => !rejected[index],
        }
    }

    /// Takes stock of the histograms: what came since the last flush becomes their interval.
    pub fn flush(&self) {
        let is_histogram = |index: &usize| matches!(self.stat(*index).1, Kind::Histogram(_));
        for index in (0..self.len()).filter(is_histogram) {
            if !self.exists(index) || !self.used(index) {
                continue;
            }
            let cumulative = self.histogram(index).snapshot();
            let mut flushed = self.flushed.lock();
            match flushed.iter_mut().find(|(of, _)| *of == index) {
                Some((_, old)) => {
                    old.interval = cumulative.since(&old.cumulative);
                    old.cumulative = cumulative;
                }
                None => flushed.push((
                    index,
                    Flushed {
                        interval: cumulative.clone(),
                        cumulative,
                    },
                )),
            }
        }
    }

    /// The histogram at `index` as of the last flush; nothing if it had no values by then.
    pub fn flushed(&self, index: usize) -> Option<Flushed> {
        let flushed = self.flushed.lock();
        let found = flushed.iter().find(|(of, _)| *of == index);
        found.map(|(_, flushed)| flushed.clone())
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
        let shard_index = thread_shard();
        let Some(slot) = self.group.shards.get(shard_index) else {
            return;
        };
        if !self.group.exists(self.index) {
            return;
        }
        let shard = slot.get_or_init(|| Shard::new(self.group.len()));
        shard.histograms[self.index]
            .get_or_init(Box::default)
            .record(value, shard_index == 0);
        shard.values[self.index * 2 + 1].store(1, Relaxed);
    }

    /// The distribution of all values recorded so far by all threads.
    pub fn snapshot(self) -> HistogramData {
        let mut data = HistogramData::default();
        for shard in self.group.touched() {
            if let Some(histogram) = shard.histograms[self.index].get() {
                data.merge(&histogram.snapshot());
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
