//! Earliest deadline first: entries come up as often as their weights say, as evenly spread as possible.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::LoadBalancerContext;

/// A schedule of weighted entries.
#[derive(Debug, Default)]
pub(super) struct Edf {
    heap: BinaryHeap<Reverse<Entry>>,
    now: f64,
    next_order: u64,
    started: bool,
}

#[derive(Debug)]
struct Entry {
    deadline: f64,
    /// Of equal deadlines the one that was entered first counts.
    order: u64,
    index: usize,
    weight: f64,
}

impl Edf {
    /// Adds an entry with its nominal weight and that of now; one whose weight is not positive never comes up.
    pub(super) fn insert(&mut self, index: usize, weight: f64, weight_now: f64) {
        if weight > 0.0 && weight_now > 0.0 {
            self.push(index, weight, weight_now);
        }
    }

    /// The entry whose turn it is. `weight_now` gives what its weight of now is, by index and nominal weight.
    /// The first time the schedule is begun at a random place, so that not every worker begins with the same host.
    pub(super) fn pick(
        &mut self,
        cx: &dyn LoadBalancerContext,
        weight_now: impl Fn(usize, f64) -> f64,
    ) -> Option<usize> {
        if !self.started {
            self.started = true;
            let len = u64::try_from(self.heap.len()).unwrap_or(u64::MAX).max(1);
            for _ in 0..cx.random() % len {
                self.advance(&weight_now);
            }
        }
        self.advance(&weight_now)
    }

    fn advance(&mut self, weight_now: &impl Fn(usize, f64) -> f64) -> Option<usize> {
        let Reverse(Entry {
            deadline,
            index,
            weight,
            ..
        }) = self.heap.pop()?;
        self.now = deadline;
        self.push(index, weight, weight_now(index, weight));
        Some(index)
    }

    fn push(&mut self, index: usize, weight: f64, weight_now: f64) {
        let order = self.next_order;
        self.next_order += 1;
        self.heap.push(Reverse(Entry {
            deadline: self.now + 1.0 / weight_now,
            order,
            index,
            weight,
        }));
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.deadline
            .total_cmp(&other.deadline)
            .then(self.order.cmp(&other.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}
