//! Pings that find out whether a connection still lives.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, Sleep};

use super::connection::Connection;
use super::options::KeepaliveSettings;

/// The pings of one connection.
pub(super) struct Keepalive {
    settings: KeepaliveSettings,
    timer: Pin<Box<Sleep>>,
    /// A ping is under way, and the timer is its timeout.
    waiting: bool,
}

/// Far enough away to mean never, for connections that are pinged on demand only.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

impl Keepalive {
    pub(super) fn new(settings: KeepaliveSettings) -> Self {
        Self {
            timer: Box::pin(tokio::time::sleep(interval(&settings))),
            settings,
            waiting: false,
        }
    }

    /// Sends a ping now, unless one is under way.
    pub(super) fn ping(&mut self, connection: &mut Connection) {
        if self.waiting {
            return;
        }
        let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        connection.send_ping(u64::try_from(since_epoch.as_millis()).unwrap_or(0));
        self.waiting = true;
        self.restart(self.settings.timeout);
    }

    /// Ready when a ping had no answer in time. Any other frame lets the peer have more time.
    pub(super) fn poll_dead(
        &mut self,
        connection: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let heard = connection.take_heard();
        if connection.take_pong() {
            self.waiting = false;
            self.restart(interval(&self.settings));
        } else if heard && self.waiting {
            self.restart(self.settings.timeout);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.waiting {
                return Poll::Ready(());
            }
            self.ping(connection);
        }
        Poll::Pending
    }

    fn restart(&mut self, after: Duration) {
        self.timer.as_mut().reset(Instant::now() + after);
    }
}

fn interval(settings: &KeepaliveSettings) -> Duration {
    settings.interval.map_or(NEVER, |interval| {
        interval.mul_f64(1.0 + settings.interval_jitter * rand::random::<f64>())
    })
}
