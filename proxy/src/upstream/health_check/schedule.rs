//! When checks begin, and when they have taken too long: one timer for all hosts of a health check.
//!
//! A timer for each of many thousand hosts would be touched again and again while it waits, and each host would wake the thread
//! by itself. So the times at which checks begin lie on a grid, as fine as nobody notices, and what is due together goes on
//! together: the requests go out behind each other, and the responses come in with few wake-ups.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// A wait is moved by no more than half of one of so many parts.
const PARTS: u128 = 128;
/// The milliseconds that the times may be apart: round ones, as waits are.
const STEPS: [u128; 6] = [100, 50, 20, 10, 5, 2];

/// Who is to be woken when.
#[derive(Debug)]
pub(super) struct Schedule {
    origin: Instant,
    /// By milliseconds since the origin. An alarm that was set to a later time since moves there when this one comes, so that
    /// it has one entry, however often it is set.
    entries: RefCell<BTreeMap<u64, Vec<Rc<Alarm>>>>,
    /// Who waits for the first of them.
    timer: RefCell<Option<Waker>>,
}

/// Wakes the checks of one host.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    /// When it rings. None: it has rung, or is not to.
    at: Cell<Option<u64>>,
    /// Its entry of the schedule.
    entry: Cell<Option<u64>>,
    waker: RefCell<Option<Waker>>,
}

impl Schedule {
    pub(super) fn new() -> Self {
        Self {
            origin: Instant::now(),
            entries: RefCell::default(),
            timer: RefCell::default(),
        }
    }

    /// Rings in `wait`, or a little before or after that.
    pub(super) fn set_about(&self, alarm: &Rc<Alarm>, wait: Duration) {
        let finest = wait.as_millis() / PARTS;
        let step = STEPS.into_iter().find(|step| *step <= finest);
        let at = (Instant::now() + wait).saturating_duration_since(self.origin);
        let millis = at.as_millis();
        let millis = match step {
            None => at.as_nanos().div_ceil(1_000_000),
            Some(step) => (millis + step / 2) / step * step,
        };
        self.set(alarm, millis);
    }

    /// Rings in `wait`, and not before.
    pub(super) fn set_after(&self, alarm: &Rc<Alarm>, wait: Duration) {
        let at = (Instant::now() + wait).saturating_duration_since(self.origin);
        self.set(alarm, at.as_nanos().div_ceil(1_000_000));
    }

    fn set(&self, alarm: &Rc<Alarm>, millis: u128) {
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        alarm.at.set(Some(millis));
        if alarm.entry.get().is_some_and(|entry| entry <= millis) {
            return;
        }
        self.enter(alarm, millis);
    }

    fn enter(&self, alarm: &Rc<Alarm>, millis: u64) {
        alarm.entry.set(Some(millis));
        let mut entries = self.entries.borrow_mut();
        let is_first = entries.first_key_value().is_none_or(|(at, _)| millis < *at);
        entries.entry(millis).or_default().push(alarm.clone());
        if is_first && let Some(timer) = self.timer.take() {
            timer.wake();
        }
    }

    /// Wakes those whose time has come, as long as it is polled.
    pub(super) async fn run(self: Rc<Self>) {
        let mut sleep = pin!(sleep_until(self.origin));
        let mut armed = None;
        poll_fn(|cx| {
            while let Some(first) = self.first() {
                if armed != Some(first) {
                    sleep
                        .as_mut()
                        .reset(self.origin + Duration::from_millis(first));
                    armed = Some(first);
                }
                if sleep.as_mut().poll(cx).is_pending() {
                    break;
                }
                armed = None;
                self.ring(first);
            }
            self.timer.replace(Some(cx.waker().clone()));
            Poll::<()>::Pending
        })
        .await;
    }

    fn first(&self) -> Option<u64> {
        self.entries.borrow().first_key_value().map(|(at, _)| *at)
    }

    fn ring(&self, millis: u64) {
        let due = self.entries.borrow_mut().remove(&millis);
        for alarm in due.into_iter().flatten() {
            // Else it has an earlier entry, and with that another one if it needs one.
            if alarm.entry.get() != Some(millis) {
                continue;
            }
            alarm.entry.set(None);
            match alarm.at.get() {
                Some(at) if at > millis => self.enter(&alarm, at),
                Some(_) => alarm.ring(),
                None => {}
            }
        }
    }
}

impl Alarm {
    /// It is not to ring.
    pub(super) fn stop(&self) {
        self.at.set(None);
    }

    fn ring(&self) {
        self.at.set(None);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Waits until it rings.
    pub(super) async fn rung(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.at.get().is_none() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(known) => known.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    /// Runs `test` beside the timer of a schedule.
    async fn with_schedule<F: Future<Output = ()>>(test: impl FnOnce(Rc<Schedule>) -> F) {
        LocalSet::new()
            .run_until(async {
                let schedule = Rc::new(Schedule::new());
                let timer = tokio::task::spawn_local(schedule.clone().run());
                test(schedule).await;
                timer.abort();
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_rings_when_its_time_has_come() {
        with_schedule(|schedule| async move {
            let (long, short) = (Rc::new(Alarm::default()), Rc::new(Alarm::default()));
            let start = Instant::now();
            schedule.set_after(&long, Duration::from_millis(70));
            schedule.set_after(&short, Duration::from_micros(1500));
            short.rung().await;
            assert_eq!(start.elapsed(), Duration::from_millis(2));
            long.rung().await;
            assert_eq!(start.elapsed(), Duration::from_millis(70));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_that_is_set_anew_does_not_ring_at_its_old_time() {
        with_schedule(|schedule| async move {
            let alarm = Rc::new(Alarm::default());
            let start = Instant::now();
            schedule.set_after(&alarm, Duration::from_millis(10));
            schedule.set_after(&alarm, Duration::from_millis(30));
            alarm.rung().await;
            assert_eq!(start.elapsed(), Duration::from_millis(30));
            schedule.set_after(&alarm, Duration::from_millis(30));
            schedule.set_after(&alarm, Duration::from_millis(10));
            alarm.rung().await;
            assert_eq!(start.elapsed(), Duration::from_millis(40));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_that_never_rings_has_one_entry() {
        with_schedule(|schedule| async move {
            let (limit, alarm) = (Rc::new(Alarm::default()), Rc::new(Alarm::default()));
            for _ in 0..1000 {
                schedule.set_after(&limit, Duration::from_secs(60));
                limit.stop();
                schedule.set_after(&alarm, Duration::from_millis(100));
                alarm.rung().await;
            }
            let entries = schedule.entries.borrow();
            assert_eq!(entries.values().map(Vec::len).sum::<usize>(), 1);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_due_nearly_together_rings_together() {
        with_schedule(|schedule| async move {
            let wait = Duration::from_secs(10);
            let alarms: Vec<Rc<Alarm>> = (0..100).map(|_| Rc::default()).collect();
            for alarm in &alarms {
                schedule.set_about(alarm, wait);
                tokio::time::advance(Duration::from_millis(1)).await;
            }
            assert!(schedule.entries.borrow().len() <= 4);
            let start = Instant::now();
            for (number, alarm) in (0..).zip(&alarms) {
                alarm.rung().await;
                let wanted = wait - Duration::from_millis(100 - number);
                assert!(start.elapsed().abs_diff(wanted) <= Duration::from_millis(26));
            }
        })
        .await;
    }
}
