//! What a seed decides: who behaves how, from when on.

use std::cell::Cell;
use std::time::Duration;

use super::UPSTREAMS;

/// How an upstream behaves for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// It answers within some milliseconds.
    Good,
    /// It takes its time: from a tenth of a second to one and a half.
    Slow,
    /// It answers four of five requests by a 5xx.
    Failing,
    /// Its process is gone: connections break, and new ones are refused.
    Refusing,
    /// It resets the connection instead of answering, one time in ten in the middle of the answer.
    Resetting,
    /// It takes connections and requests, and says nothing.
    Silent,
    /// Nothing gets through: new connections are not even refused.
    Blackhole,
}

const TROUBLES: [Behaviour; 6] = [
    Behaviour::Slow,
    Behaviour::Failing,
    Behaviour::Refusing,
    Behaviour::Resetting,
    Behaviour::Silent,
    Behaviour::Blackhole,
];

/// What happens to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It behaves like this from now on; its answers to health checks say so, or not.
    Behave(Behaviour, ShownByChecks),
    /// The control plane takes it off the endpoints.
    Leave,
    /// The control plane adds it to the endpoints.
    Enter,
}

/// Whether health checks are treated as requests are, or answered well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownByChecks(pub bool);

/// Something that happens.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// Since the load began.
    pub at: Duration,
    /// The number of the upstream.
    pub upstream: usize,
    /// What happens.
    pub change: Change,
}

/// Everything that happens in a run, in order.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// What it was made of.
    pub seed: u64,
    /// In order.
    pub events: Vec<Event>,
}

/// A sequence of numbers that a seed decides (SplitMix64).
#[derive(Debug)]
pub struct Chance(Cell<u64>);

impl Chance {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d)))
    }

    /// A number from `from` to `to`.
    pub fn pick(&self, from: u64, to: u64) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut mixed = self.0.get();
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        from + (mixed ^ (mixed >> 31)) % (to - from + 1)
    }

    /// A time from `from` to `to` milliseconds.
    pub fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.pick(from * 1000, to * 1000))
    }
}

impl Schedule {
    /// The schedule of a seed for this many seconds.
    pub fn of(seed: u64, seconds: u64) -> Self {
        let end = Duration::from_secs(seconds);
        let mut events = vec![];
        for upstream in 0..UPSTREAMS {
            let chance = Chance::new(seed << 8 | upstream as u64);
            let mut now = Duration::from_secs(2) + chance.millis(0, 12_000);
            let mut add = |at, change| {
                events.push(Event {
                    at,
                    upstream,
                    change,
                });
            };
            while now < end {
                let bad = chance.millis(2_000, 8_000);
                let good = Change::Behave(Behaviour::Good, ShownByChecks(true));
                match chance.pick(0, 3) {
                    // A deployment: the endpoint goes, then its process; another comes, and is announced when it is ready.
                    0 => {
                        add(now, Change::Leave);
                        let refusing = Change::Behave(Behaviour::Refusing, ShownByChecks(true));
                        add(now + Duration::from_secs(1), refusing);
                        add(now + bad, good);
                        add(now + bad + Duration::from_millis(500), Change::Enter);
                    }
                    _ => {
                        let trouble = TROUBLES[usize::try_from(chance.pick(0, 5)).unwrap()];
                        let shown = ShownByChecks(chance.pick(0, 1) == 0);
                        add(now, Change::Behave(trouble, shown));
                        add(now + bad, good);
                    }
                }
                now += bad + chance.millis(5_000, 18_000);
            }
        }
        events.sort_by_key(|event| event.at);
        Self { seed, events }
    }

    /// By upstream, from when to when it is a member that behaves well.
    pub fn well(&self, end: Duration) -> Vec<Vec<(Duration, Duration)>> {
        (0..UPSTREAMS)
            .map(|upstream| {
                let (mut good, mut member) = (true, true);
                let mut since = Some(Duration::ZERO);
                let mut spans = vec![];
                for event in self.events.iter().filter(|e| e.upstream == upstream) {
                    match event.change {
                        Change::Behave(behaviour, _) => good = behaviour == Behaviour::Good,
                        Change::Leave => member = false,
                        Change::Enter => member = true,
                    }
                    match (good && member, since) {
                        (false, Some(from)) => {
                            spans.push((from, event.at));
                            since = None;
                        }
                        (true, None) => since = Some(event.at),
                        _ => {}
                    }
                }
                spans.extend(since.map(|from| (from, end)));
                spans
            })
            .collect()
    }
}
