//! One timer for many deadlines.
//!
//! Almost no deadline of a request ever passes. So they are kept as plain instants, and one timer per connection is armed for
//! the nearest; a later deadline leaves it where it is, and when it fires early it is moved.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that outlives the deadlines it serves. Unused it costs a pointer.
#[derive(Debug, Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

/// Timers of streams that have ended, for those that begin. Arming a new one costs the runtime a system call; one that is
/// armed for an earlier moment serves as it is, and moves when it fires.
#[derive(Debug, Default)]
pub struct Timers(RefCell<Vec<Pin<Box<Sleep>>>>);

/// Timers that are kept.
const KEPT: usize = 128;

impl Timers {
    /// A timer, armed by a stream before if there is one.
    pub fn take(&self) -> Timer {
        Timer {
            sleep: self.0.borrow_mut().pop(),
            armed: false,
        }
    }

    /// Gives a timer back.
    pub fn put(&self, timer: Timer) {
        let mut kept = self.0.borrow_mut();
        if let Some(sleep) = timer.sleep
            && kept.len() < KEPT
        {
            kept.push(sleep);
        }
    }
}

impl Timer {
    /// Whether `deadline` has passed. If not, the task of `cx` is woken at or before it; a timer that another task has
    /// armed must not be asked, since a timer belongs to one task.
    pub fn poll(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = deadline else {
            return false;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
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
        poll_fn(|cx| {
            if timer.poll(Some(late), cx) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        assert_eq!(Instant::now() - start, Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_served_another_task_wakes_the_one_that_has_it_now() {
        let timers = Timers::default();
        let start = Instant::now();
        let mut timer = timers.take();
        poll_fn(|cx| Poll::Ready(timer.poll(Some(start + Duration::from_secs(1)), cx))).await;
        timers.put(timer);
        let deadline = start + Duration::from_secs(3);
        let mut timer = timers.take();
        assert!(timer.sleep.is_some());
        let waiting = async move {
            poll_fn(|cx| {
                if timer.poll(Some(deadline), cx) {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await
        };
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async { tokio::task::spawn_local(waiting).await.unwrap() })
            .await;
        assert_eq!(Instant::now(), deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn a_nearer_deadline_moves_the_timer_forward() {
        let mut timer = Timer::default();
        let start = Instant::now();
        poll_fn(|cx| Poll::Ready(timer.poll(Some(start + Duration::from_secs(9)), cx))).await;
        let near = start + Duration::from_secs(2);
        poll_fn(|cx| {
            if timer.poll(Some(near), cx) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        assert_eq!(Instant::now() - start, Duration::from_secs(2));
        assert!(!poll_fn(|cx| Poll::Ready(timer.poll(None, cx))).await);
    }
}
