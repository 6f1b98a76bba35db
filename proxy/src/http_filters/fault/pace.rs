//! How fast a slowed-down response may go.

use std::time::Duration;

use tokio::time::Instant;

/// Sixteen tokens a second, each worth a sixteenth of the rate.
const TICKS: u64 = 16;
const TICK: Duration = Duration::from_nanos(1_000_000_000 / TICKS);

/// A token bucket over bytes: begins with one token, and holds those of a second at most.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_tick: u64,
    tokens: u64,
    /// When the youngest of the tokens came.
    filled: Option<Instant>,
}

impl Pace {
    /// `kbps`: KiB per second, at least 1.
    pub(super) fn new(kbps: u64) -> Self {
        Self {
            bytes_per_tick: kbps.saturating_mul(1024) / TICKS,
            tokens: 1,
            filled: None,
        }
    }

    /// How many of `bytes` may go now; they are paid for.
    pub(super) fn take(&mut self, bytes: usize) -> usize {
        let now = Instant::now();
        // The clock starts with the first data, so that a short body takes its time too.
        let filled = *self.filled.get_or_insert(now);
        let ticks = now.saturating_duration_since(filled).as_nanos() / TICK.as_nanos();
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
        if ticks > 0 {
            self.tokens = (self.tokens + u64::from(ticks)).min(TICKS);
            self.filled = Some(filled + TICK * ticks);
        }
        let bytes = bytes as u64;
        let needed = bytes.div_ceil(self.bytes_per_tick.max(1));
        let paid = needed.min(self.tokens);
        self.tokens -= paid;
        let allowed = paid.saturating_mul(self.bytes_per_tick.max(1)).min(bytes);
        usize::try_from(allowed).unwrap_or(usize::MAX)
    }

    /// When the next token comes.
    pub(super) fn next(&self) -> Instant {
        self.filled.unwrap_or_else(Instant::now) + TICK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn data_goes_at_the_rate_from_the_first_byte_on() {
        let mut pace = Pace::new(1);
        assert_eq!(pace.take(1000), 64, "a sixteenth of a KiB at once");
        assert_eq!(pace.take(936), 0);
        let mut gone = 64;
        let start = Instant::now();
        while gone < 1024 {
            tokio::time::sleep_until(pace.next()).await;
            gone += pace.take(1024 - gone);
        }
        let took = start.elapsed();
        assert!((930..=945).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_allows_a_burst_of_one_second_at_most() {
        let mut pace = Pace::new(16);
        assert_eq!(pace.take(10), 10);
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(pace.take(1_000_000), 16 * 1024);
        assert_eq!(pace.take(1), 0);
    }
}
