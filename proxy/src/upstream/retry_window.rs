//! How many requests began lately: what a retry budget with an interval is a share of.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// The requests of one priority that began within the interval of its budget. Shared by all workers, without a lock.
#[derive(Debug)]
pub(super) struct RetryWindow {
    start: Instant,
    /// The tenth part of the interval.
    slot: Duration,
    /// What each slot counts, in the lower half, and which slot since the start that is, in the upper one.
    counts: [AtomicU64; SLOTS],
}

/// Ten for the interval, and one that has just begun: a request counts for the whole interval, and at most a tenth longer.
const SLOTS: usize = 11;

impl RetryWindow {
    /// Nothing began yet. `interval` is not zero.
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            start: Instant::now(),
            slot: (interval / 10).max(Duration::from_nanos(1)),
            counts: Default::default(),
        }
    }

    /// A request begins.
    pub(super) fn count(&self) {
        let now = self.slot_now();
        let Some(slot) = self.counts.get(place(now)) else {
            return;
        };
        let counted = |slot: u64| match slot >> 32 == now {
            true if slot & COUNT == COUNT => slot,
            true => slot + 1,
            false => now << 32 | 1,
        };
        // The closure always gives a value.
        let _ = slot.fetch_update(Relaxed, Relaxed, |slot| Some(counted(slot)));
    }

    /// How many requests began within the interval.
    pub(super) fn requests(&self) -> u64 {
        let now = self.slot_now();
        let slots = self.counts.iter().map(|slot| slot.load(Relaxed));
        let recent = slots.filter(|slot| (now.wrapping_sub(slot >> 32) & COUNT) < LENGTH);
        recent.map(|slot| slot & COUNT).sum()
    }

    /// The slot of this moment, in 32 bits.
    fn slot_now(&self) -> u64 {
        let slots = self.start.elapsed().as_nanos() / self.slot.as_nanos().max(1);
        u64::try_from(slots).unwrap_or(u64::MAX) & COUNT
    }
}

const COUNT: u64 = u32::MAX as u64;
const LENGTH: u64 = SLOTS as u64;

fn place(slot: u64) -> usize {
    usize::try_from(slot % LENGTH).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_counts_for_the_interval_and_then_no_more() {
        let window = RetryWindow::new(Duration::from_secs(10));
        assert_eq!(window.requests(), 0);
        window.count();
        window.count();
        tokio::time::advance(Duration::from_millis(5_500)).await;
        window.count();
        assert_eq!(window.requests(), 3);
        tokio::time::advance(Duration::from_millis(4_400)).await;
        assert_eq!(window.requests(), 3);
        tokio::time::advance(Duration::from_millis(1_200)).await;
        assert_eq!(window.requests(), 1);
        tokio::time::advance(Duration::from_secs(1_000)).await;
        assert_eq!(window.requests(), 0);
        window.count();
        assert_eq!(window.requests(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_stream_is_counted_to_within_a_tenth() {
        let window = RetryWindow::new(Duration::from_secs(1));
        for _ in 0..5_000 {
            window.count();
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(window.requests() <= 1_100);
        }
        assert!(window.requests() >= 1_000);
    }
}
