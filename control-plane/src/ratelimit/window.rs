//! A sliding window, from the counts of two fixed ones.

use serde::{Deserialize, Serialize};

/// What was counted in the window of the present and the one before. Times are milliseconds since 1970.
///
/// The part of the previous window that a window ending now would still cover counts, as if its hits had come evenly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// The number of the present window since 1970.
    #[serde(rename = "w")]
    window: u64,
    #[serde(rename = "c")]
    current: u64,
    #[serde(rename = "p")]
    previous: u64,
}

impl Counter {
    /// A counter that is kept elsewhere.
    pub(super) fn of(window: u64, current: u64, previous: u64) -> Self {
        Self {
            window,
            current,
            previous,
        }
    }

    /// Goes on to the window of `now`.
    fn advance(&mut self, now: u64, length: u64) {
        let window = now / length.max(1);
        match window.checked_sub(self.window) {
            // The clock was set back: the present window goes on.
            None | Some(0) => {}
            Some(1) => {
                (self.previous, self.current) = (self.current, 0);
                self.window = window;
            }
            Some(_) => {
                *self = Self {
                    window,
                    ..Self::default()
                }
            }
        }
    }

    /// Hits within the last `length` milliseconds.
    #[must_use]
    pub fn used(mut self, now: u64, length: u64) -> u64 {
        self.advance(now, length);
        let covered = length - Self::elapsed(now, length);
        let faded = u128::from(self.previous) * u128::from(covered) / u128::from(length.max(1));
        u64::try_from(faded)
            .unwrap_or(u64::MAX)
            .saturating_add(self.current)
    }

    /// Counts hits.
    pub fn add(&mut self, now: u64, length: u64, hits: u64) {
        self.advance(now, length);
        self.current = self.current.saturating_add(hits);
    }

    /// Gives hits back, as far as the present window has some.
    pub fn give_back(&mut self, now: u64, length: u64, hits: u64) {
        self.advance(now, length);
        self.current = self.current.saturating_sub(hits);
    }

    /// Milliseconds until `hits` more do not go beyond `limit`; none if they never will.
    #[must_use]
    pub fn wait(mut self, now: u64, length: u64, limit: u64, hits: u64) -> Option<u64> {
        if hits > limit {
            return None;
        }
        if self.used(now, length).saturating_add(hits) <= limit {
            return Some(0);
        }
        self.advance(now, length);
        let rest = length - Self::elapsed(now, length);
        if self.current.saturating_add(hits) <= limit {
            // Within this window, while the previous one fades.
            let room = limit - self.current - hits;
            return Some(rest.saturating_sub(covered_by(self.previous, room, length)));
        }
        // Within the next one, while this one fades.
        let room = limit - hits;
        let fading = length - covered_by(self.current, room, length);
        Some(rest.saturating_add(fading))
    }

    /// Whether nothing of it counts any more.
    #[must_use]
    pub fn is_over(&self, now: u64, length: u64) -> bool {
        now / length.max(1) > self.window.saturating_add(1)
    }

    fn elapsed(now: u64, length: u64) -> u64 {
        now % length.max(1)
    }
}

/// How many milliseconds of a window with `count` hits may still be covered so that no more than `room` of them count.
fn covered_by(count: u64, room: u64, length: u64) -> u64 {
    if count <= room {
        return length;
    }
    // The largest time whose share, rounded down, is no more than the room.
    let time = (u128::from(room) + 1) * u128::from(length);
    let time = time.div_ceil(u128::from(count)).saturating_sub(1);
    u64::try_from(time).unwrap_or(length).min(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    #[test]
    fn what_was_counted_fades_out_over_the_next_window() {
        let mut counter = Counter::default();
        let start = 1000 * MINUTE;
        counter.add(start + 30_000, MINUTE, 60);
        assert_eq!(counter.used(start + 59_999, MINUTE), 60);
        assert_eq!(counter.used(start + MINUTE, MINUTE), 60);
        assert_eq!(counter.used(start + MINUTE + 15_000, MINUTE), 45);
        assert_eq!(counter.used(start + 2 * MINUTE - 1, MINUTE), 0);
        assert_eq!(counter.used(start + 2 * MINUTE, MINUTE), 0);
        assert!(!counter.is_over(start + 2 * MINUTE - 1, MINUTE));
        assert!(counter.is_over(start + 2 * MINUTE, MINUTE));
    }

    #[test]
    fn after_the_wait_there_is_room_and_just_before_there_is_not() {
        for (first, second, limit, hits, at) in [
            (100, 0, 100, 1, 5_000),
            (100, 40, 100, 1, 20_000),
            (100, 100, 100, 1, 59_000),
            (7, 3, 5, 2, 100),
            (0, 10, 10, 10, 0),
        ] {
            let start = 77 * MINUTE;
            let mut counter = Counter::default();
            counter.add(start - MINUTE, MINUTE, first);
            counter.add(start, MINUTE, second);
            let now = start + at;
            let wait = counter.wait(now, MINUTE, limit, hits).unwrap();
            let fits = |time: u64| counter.used(time, MINUTE) + hits <= limit;
            assert!(fits(now + wait), "{first} {second} {limit}: {wait}");
            assert!(
                wait == 0 || !fits(now + wait - 1),
                "{first} {second}: {wait}"
            );
        }
        assert_eq!(Counter::default().wait(0, MINUTE, 5, 6), None);
    }

    #[test]
    fn a_clock_that_is_set_back_gives_nothing_away() {
        let mut counter = Counter::default();
        counter.add(10 * MINUTE, MINUTE, 5);
        counter.add(9 * MINUTE, MINUTE, 5);
        assert_eq!(counter.used(10 * MINUTE, MINUTE), 10);
        counter.give_back(10 * MINUTE, MINUTE, 20);
        assert_eq!(counter.used(10 * MINUTE, MINUTE), 0);
    }
}
