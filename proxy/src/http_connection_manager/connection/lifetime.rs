//! How long a connection may live: `max_connection_duration` with its jitter, and `idle_timeout`, both shorter under overload.

use std::time::Duration;

use tokio::time::Instant;

use super::super::manager::Hcm;
use super::super::timer::nearer;
use crate::overload::ScaledTimer;
use crate::stream_info::ConnectionInfo;

/// How old a connection may become: `max_connection_duration`, with its jitter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Age {
    start: Instant,
    most: Duration,
}

impl Age {
    /// When the connection is old enough, as it is at the moment.
    pub(super) fn end(self, hcm: &Hcm) -> Instant {
        let overload = &hcm.worker.server.overload;
        overload.end(ScaledTimer::ConnectionMax, self.most, self.start)
    }
}

/// When a connection without streams was so for too long, as it is at the moment.
pub(super) fn idle_end(hcm: &Hcm, since: Instant) -> Option<Instant> {
    let idle = hcm.config.timeouts.idle?;
    let overload = &hcm.worker.server.overload;
    Some(overload.end(ScaledTimer::ConnectionIdle, idle, since))
}

/// When to look at those two.
pub(super) fn next_look(hcm: &Hcm, idle: Option<Instant>, max: Option<Instant>) -> Option<Instant> {
    let overload = &hcm.worker.server.overload;
    nearer(
        idle.map(|end| overload.look_at(ScaledTimer::ConnectionIdle, end)),
        max.map(|end| overload.look_at(ScaledTimer::ConnectionMax, end)),
    )
}

pub(super) fn expires(hcm: &Hcm, info: &ConnectionInfo) -> Option<Age> {
    let timeouts = &hcm.config.timeouts;
    let duration = timeouts.max_connection_duration?;
    let longest = duration.mul_f64(timeouts.max_connection_duration_jitter);
    let jitter = match u64::try_from(longest.as_nanos()) {
        Ok(0) | Err(_) => Duration::ZERO,
        Ok(nanos) => Duration::from_nanos(hcm.worker.random.next() % nanos),
    };
    Some(Age {
        start: info.start,
        most: duration + jitter,
    })
}
