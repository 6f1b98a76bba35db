//! The action `envoy.overload_actions.reduce_timeouts`: timeouts become shorter, the stronger the action holds.

use std::sync::OnceLock;
use std::time::Duration;

/// A timeout that the action can shorten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaledTimer {
    /// `HTTP_DOWNSTREAM_CONNECTION_IDLE`: of connections without streams.
    ConnectionIdle,
    /// `HTTP_DOWNSTREAM_CONNECTION_MAX`: how old a connection may become.
    ConnectionMax,
    /// `HTTP_DOWNSTREAM_STREAM_IDLE`: of streams without traffic.
    StreamIdle,
    /// `HTTP_DOWNSTREAM_STREAM_FLUSH`: of streams whose client does not take the rest of its response.
    StreamFlush,
    /// `TRANSPORT_SOCKET_CONNECT`: of handshakes with clients.
    TransportSocketConnect,
}

/// How short a timeout becomes where the action holds in full.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ShortestTimeout {
    /// This short, or as long as configured if that is shorter.
    Time(Duration),
    /// This share of what is configured.
    Share(f64),
}

/// Which timeouts the action shortens. Set once, when the process starts.
#[derive(Debug, Default)]
pub struct ScaledTimers(OnceLock<[Option<ShortestTimeout>; ScaledTimer::ALL.len()]>);

impl ScaledTimer {
    /// Every timer.
    pub const ALL: [Self; 5] = [
        Self::ConnectionIdle,
        Self::ConnectionMax,
        Self::StreamIdle,
        Self::StreamFlush,
        Self::TransportSocketConnect,
    ];
}

impl ScaledTimers {
    pub(super) fn set(&self, shortest: [Option<ShortestTimeout>; ScaledTimer::ALL.len()]) {
        let _ = self.0.set(shortest);
    }

    /// Whether this timeout can change while it runs.
    #[inline]
    pub(super) fn shortest(&self, timer: ScaledTimer) -> Option<ShortestTimeout> {
        self.0.get().and_then(|shortest| shortest[timer as usize])
    }
}

impl ShortestTimeout {
    /// The timeout where the action holds this strongly, from 0 to 1.
    pub(super) fn at(self, configured: Duration, strength: f64) -> Duration {
        let shortest = match self {
            Self::Time(time) => time.min(configured),
            Self::Share(share) => configured.mul_f64(share),
        };
        let spare = configured.saturating_sub(shortest);
        shortest + spare.mul_f64((1.0 - strength).clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_shrinks_from_what_is_configured_to_its_shortest() {
        let secs = Duration::from_secs;
        let to = |shortest: ShortestTimeout, strength| shortest.at(secs(600), strength);
        assert_eq!(to(ShortestTimeout::Time(secs(2)), 0.0), secs(600));
        assert_eq!(to(ShortestTimeout::Time(secs(2)), 0.5), secs(301));
        assert_eq!(to(ShortestTimeout::Time(secs(2)), 1.0), secs(2));
        assert_eq!(to(ShortestTimeout::Share(0.1), 1.0), secs(60));
        assert_eq!(to(ShortestTimeout::Time(secs(900)), 1.0), secs(600));
    }
}
