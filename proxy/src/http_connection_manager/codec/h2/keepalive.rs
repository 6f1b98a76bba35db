//! Pings that find out whether a connection still lives.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep};

use super::settings::KeepaliveSettings;

/// The pings of one connection.
pub(crate) struct Keepalive {
    pings: PingPong,
    settings: KeepaliveSettings,
    timer: Pin<Box<Sleep>>,
    /// A ping is under way, and the timer is its timeout.
    waiting: bool,
}

/// Far enough away to mean never, for connections that are pinged on demand only.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

impl Keepalive {
    pub(crate) fn new(pings: PingPong, settings: KeepaliveSettings) -> Self {
        Self {
            pings,
            timer: Box::pin(tokio::time::sleep(interval(&settings))),
            settings,
            waiting: false,
        }
    }

    /// Sends a ping now, unless one is under way.
    pub(crate) fn ping(&mut self) {
        if !self.waiting && self.pings.send_ping(Ping::opaque()).is_ok() {
            self.waiting = true;
            self.timer
                .as_mut()
                .reset(Instant::now() + self.settings.timeout);
        }
    }

    /// Ready when a ping had no answer in time.
    pub(crate) fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.waiting && self.pings.poll_pong(cx).is_ready() {
                self.waiting = false;
                let next = Instant::now() + interval(&self.settings);
                self.timer.as_mut().reset(next);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.waiting {
                return Poll::Ready(());
            }
            self.ping();
            if !self.waiting {
                // The connection is at its end, which it reports itself.
                return Poll::Pending;
            }
        }
    }
}

fn interval(settings: &KeepaliveSettings) -> Duration {
    settings.interval.map_or(NEVER, |interval| {
        interval.mul_f64(1.0 + settings.interval_jitter * rand::random::<f64>())
    })
}
