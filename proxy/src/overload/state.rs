//! What the data path reads of the overload manager.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::scaled_timers::{ScaledTimer, ScaledTimers};
use super::shed_points::LoadShedPoints;
use super::stream_accounts::StreamResets;

/// How often timeouts that may become shorter are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How strongly each overload action holds, and the global limit of connections. Shared by main and workers.
#[derive(Debug, Default)]
pub struct OverloadState {
    actions: [AtomicU32; Action::ALL.len()],
    /// The connections of all listeners together.
    pub connections: GlobalConnections,
    /// Where connections and requests are turned away.
    pub load_shed: LoadShedPoints,
    /// Which streams end because they hold too much.
    pub resets: StreamResets,
    /// Which timeouts are shortened.
    pub(super) timers: ScaledTimers,
}

/// What may be done against overload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `envoy.overload_actions.shrink_heap`: memory that is free goes back to the system.
    ShrinkHeap,
    /// `envoy.overload_actions.stop_accepting_requests`: requests are answered with 503, details `overload`.
    StopAcceptingRequests,
    /// `envoy.overload_actions.disable_http_keepalive`: HTTP connections end with their next response.
    DisableHttpKeepalive,
    /// `envoy.overload_actions.stop_accepting_connections`: listeners leave connections in their backlog.
    StopAcceptingConnections,
    /// `envoy.overload_actions.reject_incoming_connections`: new connections are closed at once.
    RejectIncomingConnections,
    /// `envoy.overload_actions.reduce_timeouts`: timeouts become shorter.
    ReduceTimeouts,
    /// `envoy.overload_actions.close_idle_http_connections`: idle connections over QUIC are closed. There are none.
    CloseIdleHttpConnections,
    /// `envoy.overload_actions.reset_high_memory_stream`: the streams that hold the most are reset, details `overload`.
    ResetHighMemoryStream,
}

/// The count of downstream connections that count against the global limit.
#[derive(Debug, Clone, Default)]
pub struct GlobalConnections {
    inner: Arc<Connections>,
}

#[derive(Debug)]
struct Connections {
    active: AtomicU64,
    /// `u64::MAX`: no limit.
    limit: AtomicU64,
}

/// One connection of the count. Dropping it takes it off.
#[derive(Debug)]
pub struct ConnectionGuard {
    connections: Arc<Connections>,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 8] = [
        Self::ShrinkHeap,
        Self::StopAcceptingRequests,
        Self::DisableHttpKeepalive,
        Self::StopAcceptingConnections,
        Self::RejectIncomingConnections,
        Self::ReduceTimeouts,
        Self::CloseIdleHttpConnections,
        Self::ResetHighMemoryStream,
    ];

    /// The name in configurations and stats.
    pub fn name(self) -> &'static str {
        match self {
            Self::ShrinkHeap => "envoy.overload_actions.shrink_heap",
            Self::StopAcceptingRequests => "envoy.overload_actions.stop_accepting_requests",
            Self::DisableHttpKeepalive => "envoy.overload_actions.disable_http_keepalive",
            Self::StopAcceptingConnections => "envoy.overload_actions.stop_accepting_connections",
            Self::RejectIncomingConnections => "envoy.overload_actions.reject_incoming_connections",
            Self::ReduceTimeouts => "envoy.overload_actions.reduce_timeouts",
            Self::CloseIdleHttpConnections => "envoy.overload_actions.close_idle_http_connections",
            Self::ResetHighMemoryStream => "envoy.overload_actions.reset_high_memory_stream",
        }
    }
}

impl OverloadState {
    /// Whether this request is to be refused; `random` decides while the action holds in part.
    #[inline]
    pub fn stop_accepting_requests(&self, random: u64) -> bool {
        self.sheds(Action::StopAcceptingRequests, random)
    }

    /// Whether this connection is to end with its response; `random` decides while the action holds in part.
    #[inline]
    pub fn disable_http_keepalive(&self, random: u64) -> bool {
        self.sheds(Action::DisableHttpKeepalive, random)
    }

    /// Whether this new connection is to be closed; `random` decides while the action holds in part.
    #[inline]
    pub fn reject_incoming_connections(&self, random: u64) -> bool {
        self.sheds(Action::RejectIncomingConnections, random)
    }

    /// Whether listeners are to leave connections in their backlog.
    #[inline]
    pub fn stop_accepting_connections(&self) -> bool {
        self.is_saturated(Action::StopAcceptingConnections)
    }

    /// Whether the action holds, in part or in full.
    #[inline]
    pub fn holds(&self, action: Action) -> bool {
        self.actions[action as usize].load(Relaxed) != 0
    }

    /// How long a timeout is at the moment.
    #[inline]
    pub fn timeout(&self, timer: ScaledTimer, configured: Duration) -> Duration {
        match self.timers.shortest(timer) {
            None => configured,
            Some(shortest) => {
                let strength = self.actions[Action::ReduceTimeouts as usize].load(Relaxed);
                shortest.at(configured, f64::from(strength) / f64::from(u32::MAX))
            }
        }
    }

    /// The end of a timeout that began at `since`, as it is at the moment.
    #[inline]
    pub fn end(&self, timer: ScaledTimer, configured: Duration, since: Instant) -> Instant {
        since + self.timeout(timer, configured)
    }

    /// When to look at a timeout that would be over at `end`: then, or before if it may become shorter while it runs.
    #[inline]
    pub fn look_at(&self, timer: ScaledTimer, end: Instant) -> Instant {
        match self.timers.shortest(timer) {
            None => end,
            Some(_) => end.min(Instant::now() + LOOK_AGAIN),
        }
    }

    /// Whether the action holds in full.
    pub fn is_saturated(&self, action: Action) -> bool {
        self.actions[action as usize].load(Relaxed) == u32::MAX
    }

    /// How strongly the action holds, from 0 to 1.
    pub fn set(&self, action: Action, value: f64) {
        self.actions[action as usize].store(in_parts(value), Relaxed);
    }

    #[inline]
    fn sheds(&self, action: Action, random: u64) -> bool {
        let value = self.actions[action as usize].load(Relaxed);
        value == u32::MAX || (value != 0 && random % u64::from(u32::MAX) < u64::from(value))
    }
}

/// A share in parts of `u32::MAX`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float becomes an integer by saturation"
)]
pub(super) fn in_parts(share: f64) -> u32 {
    (share * f64::from(u32::MAX)) as u32
}

impl GlobalConnections {
    /// Counts a connection, unless the limit is reached.
    pub fn try_acquire(&self) -> Option<ConnectionGuard> {
        let connections = self.inner.clone();
        let before = connections.active.fetch_add(1, Relaxed);
        let guard = ConnectionGuard { connections };
        (before < guard.connections.limit.load(Relaxed)).then_some(guard)
    }

    /// How many connections there are.
    pub fn active(&self) -> u64 {
        self.inner.active.load(Relaxed)
    }

    /// How many there may be; `u64::MAX` for any number.
    pub fn limit(&self) -> u64 {
        self.inner.limit.load(Relaxed)
    }

    /// Changes how many there may be. Those that are there stay.
    pub fn set_limit(&self, limit: u64) {
        self.inner.limit.store(limit, Relaxed);
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            active: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connections.active.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_beyond_the_limit_are_refused_until_one_ends() {
        let connections = GlobalConnections::default();
        connections.set_limit(2);
        let first = connections.try_acquire().unwrap();
        let _second = connections.try_acquire().unwrap();
        assert!(connections.try_acquire().is_none());
        assert_eq!(connections.active(), 2);
        drop(first);
        assert!(connections.try_acquire().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_that_runs_becomes_shorter_with_its_action() {
        use super::super::scaled_timers::ShortestTimeout;
        let state = OverloadState::default();
        let (timer, configured, since) = (
            ScaledTimer::ConnectionIdle,
            Duration::from_secs(100),
            Instant::now(),
        );
        let end = |state: &OverloadState| state.end(timer, configured, since) - since;
        assert_eq!(state.look_at(timer, since + configured), since + configured);
        state.set(Action::ReduceTimeouts, 1.0);
        assert_eq!(end(&state), configured);
        let mut shortest = [None; ScaledTimer::ALL.len()];
        shortest[timer as usize] = Some(ShortestTimeout::Time(Duration::from_secs(10)));
        state.timers.set(shortest);
        assert_eq!(end(&state), Duration::from_secs(10));
        state.set(Action::ReduceTimeouts, 0.0);
        assert_eq!(end(&state), configured);
        assert_eq!(state.look_at(timer, since + configured), since + LOOK_AGAIN);
        assert_eq!(
            state.timeout(ScaledTimer::ConnectionMax, configured),
            configured
        );
    }

    #[test]
    fn an_action_that_holds_in_part_sheds_a_part() {
        let state = OverloadState::default();
        let shed = |state: &OverloadState| {
            let draws = (0..1_000u64).map(|i| i * u64::from(u32::MAX) / 1_000);
            draws
                .filter(|draw| state.stop_accepting_requests(*draw))
                .count()
        };
        assert_eq!(shed(&state), 0);
        state.set(Action::StopAcceptingRequests, 0.25);
        assert_eq!(shed(&state), 250);
        assert!(!state.is_saturated(Action::StopAcceptingRequests));
        state.set(Action::StopAcceptingRequests, 1.0);
        assert_eq!(shed(&state), 1_000);
        assert!(state.stop_accepting_requests(u64::MAX));
        assert!(!state.stop_accepting_connections());
    }
}
