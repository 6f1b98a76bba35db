//! One timer for many deadlines.
//!
//! Almost no deadline of a request ever passes. So they are kept as plain instants, and one timer per connection is armed for
//! the nearest; a later deadline leaves it where it is, and when it fires early it is moved.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that outlives the deadlines it serves. Unused it costs a pointer.
#[derive(Debug, Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Timer {
    /// Whether `deadline` has passed. If not, the task of `cx` is woken at or before it; a timer that another task has
    /// armed must not be asked, since a timer belongs to one task.
    pub fn poll(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = deadline else { return false };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
            self.armed = false;
        }
        while !self.armed || sleep.is_elapsed() {
            if sleep.as_mut().poll(cx) == Poll::Pending {
                self.armed = true;
                return false;
            }
            if Instant::now() >= deadline {
                return true;
            }
            sleep.as_mut().reset(deadline);
            self.armed = false;
        }
        false
    }
}

/// The nearer of two deadlines.
pub fn nearer(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moved_away_fires_only_at_its_new_time() {
        let mut timer = Timer::default();
        let start = Instant::now();
        poll_fn(|cx| Poll::Ready(timer.poll(Some(start + Duration::from_secs(1)), cx))).await;
        let late = start + Duration::from_secs(5);
        poll_fn(|cx| if timer.poll(Some(late), cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        assert_eq!(Instant::now() - start, Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_nearer_deadline_moves_the_timer_forward() {
        let mut timer = Timer::default();
        let start = Instant::now();
        poll_fn(|cx| Poll::Ready(timer.poll(Some(start + Duration::from_secs(9)), cx))).await;
        let near = start + Duration::from_secs(2);
        poll_fn(|cx| if timer.poll(Some(near), cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        assert_eq!(Instant::now() - start, Duration::from_secs(2));
        assert!(!poll_fn(|cx| Poll::Ready(timer.poll(None, cx))).await);
    }
}
