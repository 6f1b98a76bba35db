//! Clients that open streams and reset them before they are answered ("rapid reset"): a connection on which half of the streams
//! end so is closed.
//!
//! Runtime: `overload.premature_reset_total_stream_count` (500) streams of a connection, of which half may end before their time;
//! `overload.premature_reset_min_stream_lifetime_seconds` (1) after which a stream without an answer is none of these.
//! Stats: `http.<stat_prefix>.downstream_rq_too_many_premature_resets`.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use crate::runtime::{Runtime, RuntimeInteger};

/// The limits of a worker.
#[derive(Debug)]
pub(super) struct PrematureResetLimits {
    total_stream_count: RuntimeInteger,
    min_stream_lifetime_seconds: RuntimeInteger,
}

/// The streams of one connection that have ended.
#[derive(Debug, Default)]
pub(super) struct EndedStreams {
    all: Cell<u64>,
    premature: Cell<u64>,
    too_many: Cell<bool>,
    /// A stream has asked for the connection to end with its streams.
    draining: Cell<bool>,
    connection: RefCell<Option<Waker>>,
}

impl PrematureResetLimits {
    pub(super) fn new(runtime: &Runtime) -> Self {
        Self {
            total_stream_count: runtime.integer("overload.premature_reset_total_stream_count", 500),
            min_stream_lifetime_seconds: runtime
                .integer("overload.premature_reset_min_stream_lifetime_seconds", 1),
        }
    }
}

impl EndedStreams {
    /// Notes a stream that began at `start` and has ended, with a status or not.
    pub(super) fn ended(&self, answered: bool, start: Instant, limits: &PrematureResetLimits) {
        self.all.set(self.all.get() + 1);
        if answered || start.elapsed().as_secs() > limits.min_stream_lifetime_seconds.get() {
            return;
        }
        self.premature.set(self.premature.get() + 1);
        // Once half of the limit was reset, no good streams could make up for it until the limit is reached.
        let enough = limits.total_stream_count.get().max(self.all.get());
        if self.premature.get().saturating_mul(2) >= enough {
            self.too_many.set(true);
            self.wake();
        }
    }

    /// The connection is to take no more streams, and to end with those that it has.
    pub(super) fn drain(&self) {
        self.draining.set(true);
        self.wake();
    }

    /// Whether `drain` was called since this was last asked.
    pub(super) fn take_drain(&self) -> bool {
        self.draining.take()
    }

    fn wake(&self) {
        if let Some(waker) = self.connection.take() {
            waker.wake();
        }
    }

    /// Ready when the connection has to end.
    pub(super) fn poll_too_many(&self, cx: &Context<'_>) -> Poll<()> {
        if self.too_many.get() {
            return Poll::Ready(());
        }
        match &mut *self.connection.borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::time::Duration;

    fn limits(total: &str) -> PrematureResetLimits {
        let runtime = Runtime::default();
        let key = "overload.premature_reset_total_stream_count".to_owned();
        runtime.set_layer("test", HashMap::from([(key, total.to_owned())]));
        PrematureResetLimits::new(&runtime)
    }

    fn is_over(streams: &EndedStreams) -> bool {
        let cx = Context::from_waker(Waker::noop());
        streams.poll_too_many(&cx).is_ready()
    }

    #[test]
    fn half_of_the_limit_is_enough_before_it_is_reached() {
        let (streams, limits) = (EndedStreams::default(), limits("10"));
        for _ in 0..4 {
            streams.ended(false, Instant::now(), &limits);
        }
        assert!(!is_over(&streams));
        streams.ended(false, Instant::now(), &limits);
        assert!(is_over(&streams));
    }

    #[test]
    fn behind_the_limit_half_of_all_streams_counts() {
        let (streams, limits) = (EndedStreams::default(), limits("4"));
        for _ in 0..10 {
            streams.ended(true, Instant::now(), &limits);
        }
        for _ in 0..9 {
            streams.ended(false, Instant::now(), &limits);
        }
        assert!(!is_over(&streams));
        streams.ended(false, Instant::now(), &limits);
        assert!(is_over(&streams));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_lived_long_was_not_reset_before_its_time() {
        let (streams, limits) = (EndedStreams::default(), limits("1"));
        let start = Instant::now();
        tokio::time::advance(Duration::from_millis(1_900)).await;
        streams.ended(false, start, &limits);
        assert!(is_over(&streams));
        let streams = EndedStreams::default();
        tokio::time::advance(Duration::from_millis(100)).await;
        streams.ended(false, start, &limits);
        assert!(!is_over(&streams));
    }
}
