//! When connections should end.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::Notify;

use crate::http_filters::LocalBoxFuture;
use crate::network_filters::DrainSignal;
use crate::server::ServerContext;

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

    /// Whether it has happened.
    pub fn is_set(&self) -> bool {
        self.set.get()
    }

    /// Ends when it has happened.
    pub async fn wait(&self) {
        // All is on one thread: nothing happens between the look and the wait.
        while !self.set.get() {
            self.waiting.notified().await;
        }
    }
}

/// The drain of one listener on one worker.
pub struct ListenerDrain {
    began: Rc<Latch>,
    server: Arc<ServerContext>,
    /// Failed health checks do not drain the connections.
    modify_only: bool,
}

impl ListenerDrain {
    /// A drain that begins with `began`, or as long as health checks fail.
    pub fn new(began: Rc<Latch>, server: Arc<ServerContext>, modify_only: bool) -> Self {
        Self {
            began,
            server,
            modify_only,
        }
    }
}

impl DrainSignal for ListenerDrain {
    fn is_draining(&self) -> bool {
        self.began.is_set()
            || self.server.draining.load(Relaxed)
            || (!self.modify_only && self.server.health_check_failed.load(Relaxed))
    }

    fn draining(&self) -> LocalBoxFuture<'static, ()> {
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
    use super::*;
    use crate::server::LocalInfo;

    #[tokio::test]
    async fn failed_health_checks_drain_unless_only_changes_do() {
        let server = Arc::new(ServerContext::new(1, LocalInfo::default()));
        let latch = Rc::new(Latch::default());
        let usual = ListenerDrain::new(latch.clone(), server.clone(), false);
        let modify_only = ListenerDrain::new(latch.clone(), server.clone(), true);
        assert!(!usual.is_draining());
        server.health_check_failed.store(true, Relaxed);
        assert!(usual.is_draining());
        assert!(!modify_only.is_draining());
        let waiting = modify_only.draining();
        latch.set();
        waiting.await;
        assert!(modify_only.is_draining());
    }
}
