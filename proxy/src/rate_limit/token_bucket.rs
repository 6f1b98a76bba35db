//! A token bucket that workers share without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use outrigger_proto::pb::envoy::r#type::v3 as pb;
use tokio::time::Instant;

use crate::config::{ConfigPath, Rejected};

/// What an API `TokenBucket` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BucketSettings {
    /// The most tokens that it holds, and how many it begins with. 0: nothing ever passes.
    pub max_tokens: u32,
    /// How many tokens come at once, at least 1. Default 1.
    pub tokens_per_fill: u32,
    /// How often they come. At least 50 ms, unless nothing ever passes.
    pub fill_interval: Duration,
}

/// Shorter intervals are refused, as in Envoy.
const SHORTEST_FILL: Duration = Duration::from_millis(50);

impl BucketSettings {
    /// Converts a `TokenBucket`. `what` stands before "token bucket" where its interval is refused.
    pub fn from_proto(
        proto: pb::TokenBucket,
        what: &str,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::TokenBucket {
            max_tokens,
            tokens_per_fill,
            fill_interval,
        } = proto;
        let interval = path.required("fill_interval", fill_interval)?;
        let interval = path
            .positive_duration("fill_interval", Some(interval))?
            .unwrap_or(SHORTEST_FILL);
        let tokens_per_fill = tokens_per_fill.map_or(1, |tokens| tokens.value);
        let tokens_per_fill = path.in_range("tokens_per_fill", tokens_per_fill, 1..=u32::MAX)?;
        if max_tokens > 0 && interval < SHORTEST_FILL {
            return Err(path.field("fill_interval").reject(format!(
                "local rate limit {what}token bucket fill timer must be >= 50ms"
            )));
        }
        Ok(Self {
            max_tokens,
            tokens_per_fill,
            fill_interval: interval,
        })
    }
}

/// Tokens that come at a rate, up to a maximum.
///
/// What is kept is the moment at which the bucket was empty, as seconds in a double: tokens follow from the time since then,
/// so nothing has to fill it.
#[derive(Debug)]
pub struct TokenBucket {
    max_tokens: f64,
    /// Tokens per second.
    fill_rate: f64,
    origin: Instant,
    /// Bits of a double: seconds since `origin`.
    empty_at: AtomicU64,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(settings: &BucketSettings) -> Self {
        let max_tokens = f64::from(settings.max_tokens);
        let per_fill = f64::from(settings.tokens_per_fill.max(1));
        let fill_rate = per_fill / settings.fill_interval.as_secs_f64();
        Self {
            max_tokens,
            fill_rate,
            origin: Instant::now(),
            empty_at: AtomicU64::new((-max_tokens / fill_rate).to_bits()),
        }
    }

    /// Tokens per second.
    pub fn fill_rate(&self) -> f64 {
        self.fill_rate
    }

    /// The most tokens that it holds.
    pub fn max_tokens(&self) -> u64 {
        whole(self.max_tokens)
    }

    /// The tokens that it holds now.
    pub fn remaining_tokens(&self) -> u64 {
        whole(self.total(self.seconds(Instant::now()), self.empty_at()))
    }

    /// Seconds until there is a token, rounded up; 0 if there is one.
    pub fn reset_seconds(&self) -> u64 {
        let total = self.total(self.seconds(Instant::now()), self.empty_at());
        if total >= 1.0 {
            0
        } else {
            whole(((1.0 - total) / self.fill_rate).ceil())
        }
    }

    /// Takes `tokens` if they are all there. Nothing cannot be taken: as in Envoy a request of no hits is limited.
    /// `share` is the part of the bucket that belongs to this process, above 0 and up to 1.
    #[inline]
    pub fn consume(&self, now: Instant, tokens: u64, share: f64) -> bool {
        let wanted = tokens > 0;
        let tokens = double(tokens) / share;
        wanted && self.change(now, |total| (total >= tokens).then_some(total - tokens))
    }

    /// Gives tokens back, up to the maximum.
    pub fn refill(&self, now: Instant, tokens: u64) {
        let tokens = double(tokens);
        self.change(now, |total| Some((total + tokens).min(self.max_tokens)));
    }

    #[inline]
    fn change(&self, now: Instant, change: impl Fn(f64) -> Option<f64>) -> bool {
        let now = self.seconds(now);
        let mut seen = self.empty_at.load(Relaxed);
        loop {
            let Some(left) = change(self.total(now, f64::from_bits(seen))) else {
                return false;
            };
            let empty_at = now - left / self.fill_rate;
            match self
                .empty_at
                .compare_exchange_weak(seen, empty_at.to_bits(), Relaxed, Relaxed)
            {
                Ok(_) => return true,
                Err(other) => seen = other,
            }
        }
    }

    fn total(&self, now: f64, empty_at: f64) -> f64 {
        ((now - empty_at) * self.fill_rate).clamp(0.0, self.max_tokens)
    }

    fn seconds(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.origin).as_secs_f64()
    }

    fn empty_at(&self) -> f64 {
        f64::from_bits(self.empty_at.load(Relaxed))
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "never negative, and a fraction of a token is no token"
)]
fn whole(number: f64) -> u64 {
    number as u64
}

#[allow(
    clippy::cast_precision_loss,
    reason = "more than 2^53 hits of one request are as good as all tokens"
)]
fn double(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(max_tokens: u32, seconds: u64) -> TokenBucket {
        TokenBucket::new(&BucketSettings {
            max_tokens,
            tokens_per_fill: 1,
            fill_interval: Duration::from_secs(seconds),
        })
    }

    fn consume(bucket: &TokenBucket, tokens: u64) -> bool {
        bucket.consume(Instant::now(), tokens, 1.0)
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_come_back_at_the_rate_up_to_the_maximum() {
        let bucket = bucket(2, 10);
        assert!(consume(&bucket, 1) && consume(&bucket, 1));
        assert!(!consume(&bucket, 1));
        assert_eq!((bucket.remaining_tokens(), bucket.reset_seconds()), (0, 10));
        tokio::time::advance(Duration::from_millis(300)).await;
        assert_eq!(bucket.reset_seconds(), 10);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!((bucket.remaining_tokens(), bucket.reset_seconds()), (1, 0));
        assert!(consume(&bucket, 1) && !consume(&bucket, 1));
        tokio::time::advance(Duration::from_secs(1000)).await;
        assert_eq!(bucket.remaining_tokens(), 2);
        consume(&bucket, 2);
        bucket.refill(Instant::now(), 5);
        assert_eq!(bucket.remaining_tokens(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_of_nothing_gives_nothing() {
        let bucket = bucket(0, 60);
        tokio::time::advance(Duration::from_secs(600)).await;
        assert!(!consume(&bucket, 1));
        assert_eq!((bucket.max_tokens(), bucket.reset_seconds()), (0, 60));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_a_quarter_of_a_bucket_pays_four_times() {
        let bucket = bucket(8, 10);
        let taken = (0..8).filter(|_| bucket.consume(Instant::now(), 1, 0.25));
        assert_eq!(taken.count(), 2);
    }

    #[test]
    fn threads_together_take_no_more_than_there_is() {
        let bucket = bucket(1000, 3600);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..500).filter(|_| consume(&bucket, 1)).count()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}
