//! Log-linear histograms with two significant digits, the resolution of the one Envoy uses.

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
    /// Sorted by key.
    buckets: Vec<(Key, u64)>,
}

/// One bucket of a histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// The lower bound, which belongs to the bucket.
    pub lower: f64,
    /// The upper bound is this much higher, and belongs to the next bucket. Zero for the bucket of the value zero.
    pub width: f64,
    /// How many values it got.
    pub count: u64,
}

/// The number of a bucket: 0 for the value zero, then 90 for each power of ten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key(u16);

impl HistogramShard {
    /// Counts a value. A shard that is not `shared` has one thread that writes.
    pub(super) fn record(&self, value: u64, shared: bool) {
        let Some((decade, bucket)) = place(value) else {
            return bump(&self.zero, shared);
        };
        let counts =
            self.decades[decade].get_or_init(|| Box::new([const { AtomicU64::new(0) }; 90]));
        bump(&counts[bucket], shared);
    }

    /// What was recorded so far.
    pub(super) fn snapshot(&self) -> HistogramData {
        let zero = std::iter::once((Key(0), self.zero.load(Relaxed)));
        let others = (0..)
            .zip(&self.decades)
            .filter_map(|(decade, counts)| Some((decade, counts.get()?)))
            .flat_map(|(decade, counts)| {
                (0..)
                    .zip(counts.iter())
                    .map(move |(bucket, count)| (Key::new(decade, bucket), count.load(Relaxed)))
            });
        HistogramData {
            buckets: zero.chain(others).filter(|(_, count)| *count > 0).collect(),
        }
    }
}

impl HistogramData {
    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// Whether no value was recorded.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// The sum of all values, each taken as the harmonic mean of its bucket's bounds, as Envoy takes it.
    #[allow(
        clippy::cast_precision_loss,
        reason = "the buckets have two digits, a float has fifteen"
    )]
    pub fn sum(&self) -> f64 {
        self.buckets()
            .filter(|bucket| bucket.lower > 0.0)
            .map(
                |Bucket {
                     lower,
                     width,
                     count,
                 }| {
                    let upper = lower + width;
                    2.0 * lower * upper / (lower + upper) * count as f64
                },
            )
            .sum()
    }

    /// The buckets that got values, in order.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> {
        self.buckets.iter().map(|(key, count)| key.bucket(*count))
    }

    /// How many values fell into the buckets up to the one that holds `bound`.
    #[allow(
        clippy::cast_precision_loss,
        reason = "the buckets have two digits, a float has fifteen"
    )]
    pub fn count_up_to(&self, bound: f64) -> u64 {
        self.buckets
            .iter()
            .take_while(|(key, _)| key.lowest() as f64 <= bound)
            .map(|(_, count)| count)
            .sum()
    }

    /// The values below which these shares of all values lie. `shares` rise, from 0 to 1. NaN without values.
    ///
    /// The n values of a bucket are taken to lie evenly in it, with the same room before the first and after the last.
    #[allow(
        clippy::cast_precision_loss,
        reason = "the buckets have two digits, a float has fifteen"
    )]
    pub fn quantiles<'a>(&'a self, shares: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        let total = self.count() as f64;
        let mut buckets = self.buckets();
        let mut current = buckets.next();
        let mut before = 0.0;
        shares.iter().map(move |share| {
            let rank = (total * share).ceil().max(1.0);
            while let Some(bucket) = current {
                let count = bucket.count as f64;
                if rank <= before + count {
                    return bucket.lower + (rank - before) / (count + 1.0) * bucket.width;
                }
                before += count;
                current = buckets.next();
            }
            f64::NAN
        })
    }

    /// What has come since `earlier` was taken of the same histogram.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut old = earlier.buckets.iter().peekable();
        let mut rest = self.clone();
        rest.buckets.retain_mut(|(key, count)| {
            while old.next_if(|(earlier, _)| earlier < key).is_some() {}
            if let Some((_, before)) = old.next_if(|(earlier, _)| earlier == key) {
                *count = count.saturating_sub(*before);
            }
            *count > 0
        });
        rest
    }

    /// Adds the values of another histogram.
    pub fn merge(&mut self, other: &Self) {
        if self.buckets.is_empty() {
            self.buckets.clone_from(&other.buckets);
            return;
        }
        for (key, count) in &other.buckets {
            match self.buckets.binary_search_by_key(key, |(key, _)| *key) {
                Ok(at) => self.buckets[at].1 += count,
                Err(at) => self.buckets.insert(at, (*key, *count)),
            }
        }
    }

    /// The distribution of these values, for tests of what reads it.
    #[cfg(test)]
    pub(super) fn of(values: impl IntoIterator<Item = u64>) -> Self {
        let shard = HistogramShard::default();
        values
            .into_iter()
            .for_each(|value| shard.record(value, true));
        shard.snapshot()
    }
}

impl Key {
    fn new(decade: u16, bucket: u16) -> Self {
        Self(1 + decade * 90 + bucket)
    }

    fn decade(self) -> u16 {
        (self.0 - 1) / 90
    }

    /// The first two digits: 10 to 99. Decade 0 counts tenths in Envoy, and only whole values come.
    fn digits(self) -> u16 {
        match (self.0 - 1) % 90 {
            one_digit if self.decade() == 0 => one_digit * 10,
            bucket => bucket + 10,
        }
    }

    /// The lowest value of the bucket.
    fn lowest(self) -> u64 {
        match self.0 {
            0 => 0,
            _ => u64::from(self.digits()) * 10u64.pow(u32::from(self.decade())) / 10,
        }
    }

    /// The bucket with the bounds that Envoy's library computes for it, to the last bit.
    fn bucket(self, count: u64) -> Bucket {
        if self.0 == 0 {
            return Bucket {
                lower: 0.0,
                width: 0.0,
                count,
            };
        }
        let power = 10f64.powi(i32::from(self.decade()));
        Bucket {
            lower: f64::from(self.digits()) / 10.0 * power,
            width: power / 10.0,
            count,
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

fn bump(counter: &AtomicU64, shared: bool) {
    if shared {
        counter.fetch_add(1, Relaxed);
    } else {
        counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(data: &HistogramData) -> Vec<(f64, f64, u64)> {
        data.buckets()
            .map(|b| (b.lower, b.width, b.count))
            .collect()
    }

    #[test]
    fn each_value_falls_into_the_bucket_of_its_first_two_digits() {
        let data = HistogramData::of([0, 1, 9, 10, 19, 100, 109, 12_345]);
        assert_eq!(
            buckets(&data),
            [
                (0.0, 0.0, 1),
                (1.0, 0.1, 1),
                (9.0, 0.1, 1),
                (10.0, 1.0, 1),
                (19.0, 1.0, 1),
                (100.0, 10.0, 2),
                (12_000.0, 1_000.0, 1),
            ]
        );
        assert_eq!(HistogramData::of([u64::MAX]).count(), 1);
    }

    #[test]
    fn an_interval_holds_what_came_since() {
        let before = HistogramData::of([5, 6]);
        let after = HistogramData::of([5, 5, 6, 7]);
        assert_eq!(
            buckets(&after.since(&before)),
            [(5.0, 0.1, 1), (7.0, 0.1, 1)]
        );
    }

    #[test]
    fn merged_histograms_hold_the_values_of_both() {
        let mut data = HistogramData::of([1, 5]);
        data.merge(&HistogramData::of([0, 5, 9]));
        assert_eq!(data, HistogramData::of([0, 1, 5, 5, 9]));
    }

    // The figures are Envoy's, for the same values.
    #[test]
    fn quantiles_lie_where_envoy_puts_them() {
        let shares = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0];
        let of = |data: HistogramData| data.quantiles(&shares).collect::<Vec<_>>();
        assert_eq!(of(HistogramData::of([8])), [8.05; 8]);
        assert_eq!(
            of(HistogramData::of([1; 21]))[..3],
            [1.0045454545454546, 1.0272727272727273, 1.05]
        );
        let mixed = HistogramData::of([243, 248].into_iter().chain([255; 17]));
        assert_eq!(
            of(mixed),
            [
                243.33333333333334,
                251.66666666666666,
                254.44444444444446,
                257.22222222222223,
                258.8888888888889,
                259.44444444444446,
                259.44444444444446,
                259.44444444444446
            ]
        );
        assert!(of(HistogramData::default()).iter().all(|q| q.is_nan()));
    }

    #[test]
    fn a_sum_takes_the_harmonic_mean_of_each_bucket() {
        assert_eq!(HistogramData::of([1; 21]).sum(), 22.0);
        assert_eq!(HistogramData::of([8]).sum(), 8.049_689_440_993_788);
    }

    #[test]
    fn a_bound_counts_the_whole_bucket_that_it_lies_in() {
        let data = HistogramData::of([0, 1, 255, 255, 300]);
        for (bound, count) in [(0.5, 1), (1.0, 2), (249.0, 2), (250.0, 4), (300.0, 5)] {
            assert_eq!(data.count_up_to(bound), count, "{bound}");
        }
    }
}
