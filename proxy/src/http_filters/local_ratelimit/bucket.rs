//! A token bucket that workers share without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// Tokens that come at a rate, up to a maximum.
///
/// What is kept is the moment at which the bucket was empty, as seconds in a double: tokens follow from the time since then,
/// so nothing has to fill it.
#[derive(Debug)]
pub(super) struct TokenBucket {
    max_tokens: f64,
    /// Tokens per second.
    fill_rate: f64,
    origin: Instant,
    /// Bits of a double: seconds since `origin`.
    empty_at: AtomicU64,
    /// Lets requests pass that it would refuse, and only counts them.
    pub(super) shadow_mode: bool,
}

impl TokenBucket {
    /// A full bucket. `fill_interval` is longer than zero.
    pub(super) fn new(
        max_tokens: u32,
        tokens_per_fill: u32,
        fill_interval: Duration,
        shadow_mode: bool,
    ) -> Self {
        let max_tokens = f64::from(max_tokens);
        let fill_rate = f64::from(tokens_per_fill.max(1)) / fill_interval.as_secs_f64();
        Self {
            max_tokens,
            fill_rate,
            origin: Instant::now(),
            empty_at: AtomicU64::new((-max_tokens / fill_rate).to_bits()),
            shadow_mode,
        }
    }

    /// Tokens per second.
    pub(super) fn fill_rate(&self) -> f64 {
        self.fill_rate
    }

    /// The most tokens that it holds.
    pub(super) fn max_tokens(&self) -> u64 {
        whole(self.max_tokens)
    }

    /// The tokens that it holds now.
    pub(super) fn remaining_tokens(&self) -> u64 {
        whole(self.total(self.now(), self.empty_at()))
    }

    /// Seconds until there is a token, rounded up; 0 if there is one.
    pub(super) fn reset_seconds(&self) -> u64 {
        let total = self.total(self.now(), self.empty_at());
        if total >= 1.0 {
            0
        } else {
            whole(((1.0 - total) / self.fill_rate).ceil())
        }
    }

    /// Takes `tokens` if they are all there. Nothing cannot be taken: as in Envoy a request of no hits is limited.
    pub(super) fn consume(&self, tokens: u64) -> bool {
        let wanted = tokens > 0;
        let tokens = double(tokens);
        wanted && self.change(|total| (total >= tokens).then_some(total - tokens))
    }

    /// Gives tokens back, up to the maximum.
    pub(super) fn refill(&self, tokens: u64) {
        let tokens = double(tokens);
        self.change(|total| Some((total + tokens).min(self.max_tokens)));
    }

    fn change(&self, change: impl Fn(f64) -> Option<f64>) -> bool {
        let mut seen = self.empty_at.load(Relaxed);
        loop {
            let now = self.now();
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

    fn now(&self) -> f64 {
        self.origin.elapsed().as_secs_f64()
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

    #[tokio::test(start_paused = true)]
    async fn tokens_come_back_at_the_rate_up_to_the_maximum() {
        let bucket = TokenBucket::new(2, 1, Duration::from_secs(10), false);
        assert!(bucket.consume(1) && bucket.consume(1));
        assert!(!bucket.consume(1));
        assert_eq!((bucket.remaining_tokens(), bucket.reset_seconds()), (0, 10));
        tokio::time::advance(Duration::from_millis(300)).await;
        assert_eq!(bucket.reset_seconds(), 10);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!((bucket.remaining_tokens(), bucket.reset_seconds()), (1, 0));
        assert!(bucket.consume(1) && !bucket.consume(1));
        tokio::time::advance(Duration::from_secs(1000)).await;
        assert_eq!(bucket.remaining_tokens(), 2);
        bucket.consume(2);
        bucket.refill(5);
        assert_eq!(bucket.remaining_tokens(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_of_nothing_gives_nothing() {
        let bucket = TokenBucket::new(0, 1, Duration::from_secs(60), false);
        tokio::time::advance(Duration::from_secs(600)).await;
        assert!(!bucket.consume(1));
        assert_eq!((bucket.max_tokens(), bucket.reset_seconds()), (0, 60));
    }

    #[test]
    fn threads_together_take_no_more_than_there_is() {
        let bucket = TokenBucket::new(1000, 1, Duration::from_secs(3600), false);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..500).filter(|_| bucket.consume(1)).count()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}
