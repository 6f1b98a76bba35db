//! How long to wait before a source is asked again.

use std::time::Duration;

use tokio::time::Instant;

use super::source::RateLimit;
use crate::server::Random;

/// Waits that grow, each of a random length.
#[derive(Debug)]
pub(super) struct BackOff {
    base: Duration,
    max: Duration,
    next: Duration,
}

impl BackOff {
    pub(super) fn new((base, max): (Duration, Duration)) -> Self {
        Self {
            base,
            max,
            next: base,
        }
    }

    /// The next wait: at most twice as long as the one before, and less by chance.
    pub(super) fn next(&mut self, random: &Random) -> Duration {
        let limit = self.next;
        self.next = (limit * 2).min(self.max);
        let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(random.next() % millis)
    }

    /// All is well again.
    pub(super) fn reset(&mut self) {
        self.next = self.base;
    }
}

/// A bucket of tokens, one for each request.
#[derive(Debug)]
pub(super) struct Bucket {
    limit: RateLimit,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(limit: RateLimit) -> Self {
        Self {
            limit,
            tokens: limit.max_tokens,
            at: Instant::now(),
        }
    }

    /// Takes a token; or says how long to wait for the next one.
    pub(super) fn take(&mut self) -> Result<(), Duration> {
        let now = Instant::now();
        let earned = (now - self.at).as_secs_f64() * self.limit.fill_rate;
        self.at = now;
        self.tokens = (self.tokens + earned).min(self.limit.max_tokens);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let seconds = (1.0 - self.tokens) / self.limit.fill_rate;
        // A rate of nearly nothing is waited for no longer than a day.
        Err(Duration::try_from_secs_f64(seconds.min(86_400.0)).unwrap_or(Duration::from_secs(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_limit_and_begin_anew() {
        let random = Random::new(1);
        let mut back_off = BackOff::new((Duration::from_millis(100), Duration::from_millis(300)));
        for limit in [100, 200, 300, 300] {
            assert!(back_off.next(&random) < Duration::from_millis(limit));
        }
        assert_eq!(back_off.next, Duration::from_millis(300));
        back_off.reset();
        assert_eq!(back_off.next, Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_gives_what_it_holds_and_then_its_rate() {
        let mut bucket = Bucket::new(RateLimit {
            max_tokens: 2.0,
            fill_rate: 10.0,
        });
        assert_eq!((bucket.take(), bucket.take()), (Ok(()), Ok(())));
        let wait = bucket.take().unwrap_err();
        assert_eq!(wait.as_millis(), 100);
        tokio::time::sleep(wait).await;
        assert_eq!(bucket.take(), Ok(()));
    }
}
