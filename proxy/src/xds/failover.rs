//! Which of two servers of the aggregated stream is asked, as Envoy does it with `envoy.restart_features.xds_failover_support`.

/// The turns of a server and its stand-in.
#[derive(Debug, Default)]
pub(super) struct Failover {
    /// Streams to the first server without a response.
    failures: u32,
    current: usize,
    /// The first server is asked for ever once it has answered.
    settled: bool,
}

/// So often the first one is tried before its stand-in is.
const FAILURES: u32 = 2;

impl Failover {
    /// The one to ask, of `count`.
    pub(super) fn current(&self, count: usize) -> usize {
        self.current.min(count.saturating_sub(1))
    }

    /// It has answered.
    pub(super) fn answered(&mut self) {
        self.settled = self.current == 0;
    }

    /// Its stream has ended. Whether another one, of `count`, is asked next.
    pub(super) fn ended(&mut self, count: usize) -> bool {
        if self.settled || count < 2 {
            return false;
        }
        if self.current == 0 {
            self.failures = self.failures.saturating_add(1);
            if self.failures < FAILURES {
                return false;
            }
        }
        self.current = 1 - self.current.min(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is asked, one stream after the other, where nobody answers.
    fn turns(failover: &mut Failover, count: usize, streams: usize) -> Vec<usize> {
        let mut asked = Vec::new();
        for _ in 0..streams {
            asked.push(failover.current(count));
            failover.ended(count);
        }
        asked
    }

    #[test]
    fn the_stand_in_is_asked_after_two_failures_and_then_by_turns() {
        assert_eq!(turns(&mut Failover::default(), 2, 6), [0, 0, 1, 0, 1, 0]);
    }

    #[test]
    fn the_first_server_is_asked_for_ever_once_it_has_answered() {
        let mut first = Failover::default();
        first.answered();
        assert_eq!(turns(&mut first, 2, 4), [0, 0, 0, 0]);
    }

    #[test]
    fn after_the_stand_in_the_first_server_gets_another_turn() {
        let mut failover = Failover::default();
        turns(&mut failover, 2, 2);
        failover.answered();
        assert_eq!(turns(&mut failover, 2, 3), [1, 0, 1]);
    }

    #[test]
    fn without_a_stand_in_there_are_no_turns() {
        assert_eq!(turns(&mut Failover::default(), 1, 4), [0, 0, 0, 0]);
    }
}
