//! When connections should end.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::LocalBoxFuture;
use crate::network_filters::DrainSignal;
use crate::server::Worker;

/// Something that happens once on a worker, and can be waited for.
#[derive(Debug, Default)]
pub struct Latch {
    set: Cell<bool>,
    waiting: Notify,
}

impl Latch {
    /// Lets it happen.
    pub fn set(&self) {
        self.set.set(true);
        self.waiting.notify_waiters();
    }

    /// Lets those who wait look again.
    fn stir(&self) {
        self.waiting.notify_waiters();
    }

    /// Whether it has happened.
    pub fn is_set(&self) -> bool {
        self.set.get()
    }

    /// Ends when it has happened.
    pub async fn wait(&self) {
        self.wait_or(|| false).await;
    }

    /// Ends when it has happened, or something else has that is stirred for.
    async fn wait_or(&self, other: impl Fn() -> bool) {
        // All is on one thread: nothing happens between the look and the wait.
        while !self.set.get() && !other() {
            self.waiting.notified().await;
        }
    }
}

/// The drain of one listener on one worker.
pub struct ListenerDrain {
    began: Rc<Latch>,
    gradual: Rc<Cell<Option<(Instant, Duration)>>>,
    worker: Rc<Worker>,
    /// Failed health checks do not drain the connections.
    modify_only: bool,
}

impl ListenerDrain {
    /// A drain that begins with `began`, or as long as health checks fail.
    pub fn new(began: Rc<Latch>, worker: Rc<Worker>, modify_only: bool) -> Self {
        Self {
            began,
            gradual: Rc::default(),
            worker,
            modify_only,
        }
    }

    /// From now on each response is the last of its connection, and connections that rest end.
    pub fn begin(&self) {
        self.began.set();
    }

    /// From now on each response is the last of its connection with a chance that grows to certainty within `over`.
    /// Those that can be told to end without a response are told so at a time within `over`.
    pub fn begin_gradually(&self, over: Duration) {
        self.gradual.set(Some((Instant::now(), over)));
        self.began.stir();
    }

    fn is_chosen(&self) -> bool {
        let Some((start, over)) = self.gradual.get() else {
            return false;
        };
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let over = milliseconds(over).max(1);
        self.worker.random.next() % over < milliseconds(start.elapsed())
    }
}

impl DrainSignal for ListenerDrain {
    fn is_draining(&self) -> bool {
        let server = &self.worker.server;
        self.began.is_set()
            || server.draining.load(Relaxed)
            || (!self.modify_only && server.health_check_failed.load(Relaxed))
            || self.is_chosen()
    }

    fn draining(&self) -> LocalBoxFuture<'static, ()> {
        let began = self.began.clone();
        // Drawn once: how far into the drain time the connection gets.
        let share = self.worker.random.next() % 1000;
        let gradual = self.gradual.clone();
        Box::pin(async move {
            began.wait_or(|| gradual.get().is_some()).await;
            if let Some((start, over)) = gradual.get() {
                let after = over.mul_f64(f64::from(u32::try_from(share).unwrap_or(0)) / 1000.0);
                let told = tokio::time::timeout_at(start + after, began.wait());
                // Boxed, as no connection needs it before its end.
                let _ = Box::pin(told).await;
            }
        })
    }

    fn closing(&self) -> LocalBoxFuture<'static, ()> {
        let began = self.began.clone();
        Box::pin(async move { began.wait().await })
    }
}

impl fmt::Debug for ListenerDrain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerDrain")
            .field("draining", &self.is_draining())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::server::{LocalInfo, ServerContext};
    use crate::upstream::WorkerClusters;

    fn worker() -> Rc<Worker> {
        let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
        Worker::new(0, server, WorkerClusters::default(), 7)
    }

    #[tokio::test(start_paused = true)]
    async fn a_gradual_drain_takes_ever_more_connections_and_at_last_all() {
        let drain = ListenerDrain::new(Rc::default(), worker(), false);
        let chosen = |drain: &ListenerDrain| (0..1000).filter(|_| drain.is_draining()).count();
        drain.begin_gradually(Duration::from_secs(100));
        assert_eq!(chosen(&drain), 0);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!((200..400).contains(&chosen(&drain)));
        tokio::time::advance(Duration::from_secs(70)).await;
        assert_eq!(chosen(&drain), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gradual_drain_tells_connections_one_after_the_other_and_closes_none_that_rests() {
        let drain = ListenerDrain::new(Rc::default(), worker(), false);
        let mut told: Vec<_> = (0..100).map(|_| drain.draining()).collect();
        let mut closing = drain.closing();
        drain.begin_gradually(Duration::from_secs(100));
        let left = async |told: &mut Vec<LocalBoxFuture<'static, ()>>| {
            let mut still = Vec::new();
            for mut future in told.drain(..) {
                if tokio::time::timeout(Duration::ZERO, &mut future)
                    .await
                    .is_err()
                {
                    still.push(future);
                }
            }
            *told = still;
            told.len()
        };
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!((50..90).contains(&left(&mut told).await));
        tokio::time::advance(Duration::from_secs(71)).await;
        assert_eq!(left(&mut told).await, 0);
        let closed = tokio::time::timeout(Duration::ZERO, &mut closing).await;
        assert!(closed.is_err());
    }

    #[tokio::test]
    async fn failed_health_checks_drain_unless_only_changes_do() {
        let worker = worker();
        let latch = Rc::new(Latch::default());
        let usual = ListenerDrain::new(latch.clone(), worker.clone(), false);
        let modify_only = ListenerDrain::new(latch.clone(), worker.clone(), true);
        assert!(!usual.is_draining());
        worker.server.health_check_failed.store(true, Relaxed);
        assert!(usual.is_draining());
        assert!(!modify_only.is_draining());
        let waiting = modify_only.draining();
        latch.set();
        waiting.await;
        assert!(modify_only.is_draining());
    }
}
