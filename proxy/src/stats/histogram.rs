//! Log-linear histograms with two significant digits, the resolution of the one Envoy uses.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One thread's part of a histogram: 90 buckets for each power of ten, made when first needed.
#[derive(Debug, Default)]
pub(super) struct HistogramShard {
    zero: AtomicU64,
    decades: [OnceLock<Box<[AtomicU64; 90]>>; 20],
}

/// The summed contents of a histogram: how many values fell into each bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistogramData {
    /// By the lower bound of each bucket: how wide it is, and how many values it got.
    buckets: BTreeMap<u64, (u64, u64)>,
}

impl HistogramShard {
    pub(super) fn record(&self, value: u64) {
        let Some((decade, bucket)) = place(value) else {
            return bump(&self.zero, 1);
        };
        let counts =
            self.decades[decade].get_or_init(|| Box::new([const { AtomicU64::new(0) }; 90]));
        bump(&counts[bucket], 1);
    }

    pub(super) fn add_to(&self, data: &mut HistogramData) {
        data.add(0, 1, self.zero.load(Relaxed));
        for (decade, counts) in self.decades.iter().enumerate() {
            let Some(counts) = counts.get() else { continue };
            let unit = unit_of(decade);
            for (bucket, count) in counts.iter().enumerate() {
                // Below ten a bucket is one whole value; above, two digits of it.
                let (lower, width) = if decade == 0 {
                    (bucket as u64, 1)
                } else {
                    ((bucket as u64 + 10).saturating_mul(unit), unit)
                };
                data.add(lower, width, count.load(Relaxed));
            }
        }
    }
}

impl HistogramData {
    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.values().map(|(_, count)| count).sum()
    }

    /// The sum of all values, each taken as the middle of its bucket.
    #[allow(
        clippy::cast_precision_loss,
        reason = "the buckets have two digits, a float has fifteen"
    )]
    pub fn sum(&self) -> f64 {
        self.buckets
            .iter()
            .map(|(lower, (width, count))| middle(*lower, *width) * *count as f64)
            .sum()
    }

    /// The buckets that got values: lower bound, width, count; in order.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.buckets
            .iter()
            .map(|(lower, (width, count))| (*lower, *width, *count))
    }

    /// What has come since `earlier` was taken of the same histogram.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut data = Self::default();
        for (lower, width, count) in self.buckets() {
            let before = earlier.buckets.get(&lower).map_or(0, |(_, count)| *count);
            data.add(lower, width, count.saturating_sub(before));
        }
        data
    }

    fn add(&mut self, lower: u64, width: u64, count: u64) {
        if count > 0 {
            self.buckets.entry(lower).or_insert((width, 0)).1 += count;
        }
    }
}

/// The decade and the bucket in it; nothing for zero. Decade 0 holds 1 to 9.
fn place(value: u64) -> Option<(usize, usize)> {
    let digits = value.checked_ilog10()? as usize;
    if digits == 0 {
        return usize::try_from(value).ok().map(|v| (0, v));
    }
    let leading = value / unit_of(digits);
    usize::try_from(leading).ok().map(|v| (digits, v - 10))
}

/// The width of a bucket of this decade.
fn unit_of(decade: usize) -> u64 {
    10u64.saturating_pow(u32::try_from(decade.saturating_sub(1)).unwrap_or(0))
}

#[allow(
    clippy::cast_precision_loss,
    reason = "the buckets have two digits, a float has fifteen"
)]
fn middle(lower: u64, width: u64) -> f64 {
    lower as f64 + width as f64 / 2.0
}

fn bump(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_falls_into_the_bucket_of_its_first_two_digits() {
        let shard = HistogramShard::default();
        for value in [0, 1, 9, 10, 19, 100, 109, 110, 12_345, u64::MAX] {
            shard.record(value);
        }
        let mut data = HistogramData::default();
        shard.add_to(&mut data);
        assert_eq!(data.count(), 10);
        for (bucket, value) in [
            ((100, 10, 2), "100 and 109"),
            ((110, 10, 1), "110"),
            ((12_000, 1_000, 1), "12345"),
            ((19, 1, 1), "19"),
        ] {
            assert!(data.buckets().any(|b| b == bucket), "{value}");
        }
    }

    #[test]
    fn an_interval_holds_what_came_since() {
        let shard = HistogramShard::default();
        shard.record(5);
        let (mut before, mut after) = (HistogramData::default(), HistogramData::default());
        shard.add_to(&mut before);
        shard.record(5);
        shard.record(7);
        shard.add_to(&mut after);
        assert_eq!(
            after.since(&before).buckets().collect::<Vec<_>>(),
            [(5, 1, 1), (7, 1, 1)]
        );
    }
}
