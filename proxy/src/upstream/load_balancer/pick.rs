//! Choosing among hosts that are as good as each other but for weight and load.

use std::rc::Rc;

use tokio::time::Instant;

use super::edf::Edf;
use super::slow_start::SlowStart;
use super::{LoadBalancerContext, Policy};
use crate::upstream::host::WorkerHost;

/// Hosts and whose turn it is.
pub(super) struct Pick {
    hosts: Vec<Rc<WorkerHost>>,
    /// Of round robin; none before the first.
    cursor: Option<usize>,
    /// Only where weights differ, or did when it was made.
    schedule: Option<Edf>,
    slow_start: Option<SlowStart>,
}

impl Pick {
    pub(super) fn new(hosts: Vec<Rc<WorkerHost>>, slow_start: Option<SlowStart>) -> Self {
        let weighted = hosts
            .windows(2)
            .any(|pair| pair[0].weight != pair[1].weight);
        let slow = slow_start.map(|slow_start| (slow_start, Instant::now()));
        let starting = slow.is_some_and(|(slow_start, now)| {
            hosts.iter().any(|host| slow_start.holds_back(host, now))
        });
        let schedule = (weighted || starting).then(|| {
            let mut schedule = Edf::default();
            for (index, host) in hosts.iter().enumerate() {
                let weight = f64::from(host.weight);
                let now = slow.map_or(weight, |(slow_start, now)| {
                    slow_start.apply(weight, host, now)
                });
                schedule.insert(index, weight, now);
            }
            schedule
        });
        Self {
            hosts,
            cursor: None,
            schedule,
            slow_start,
        }
    }

    pub(super) fn hosts(&self) -> &[Rc<WorkerHost>] {
        &self.hosts
    }

    /// Takes a host away. Hosts are in the order of their places.
    pub(super) fn remove(&mut self, host: &Rc<WorkerHost>) {
        let at = self.position(host);
        if self
            .hosts
            .get(at)
            .is_none_or(|known| !Rc::ptr_eq(known, host))
        {
            return;
        }
        self.hosts.remove(at);
        // Whose turn it was stays.
        self.cursor = match self.cursor {
            Some(0) if at == 0 => None,
            Some(last) if at <= last => Some(last - 1),
            other => other,
        };
        if self.schedule.is_some() {
            self.reschedule();
        }
    }

    /// Adds a host in its place.
    pub(super) fn insert(&mut self, host: &Rc<WorkerHost>) {
        let at = self.position(host);
        if self
            .hosts
            .get(at)
            .is_some_and(|known| Rc::ptr_eq(known, host))
        {
            return;
        }
        self.hosts.insert(at, host.clone());
        if let Some(last) = &mut self.cursor
            && at <= *last
        {
            *last += 1;
        }
        let is_lighter = self.hosts[0].weight != host.weight
            || self
                .hosts
                .get(1)
                .is_some_and(|other| other.weight != host.weight);
        if self.schedule.is_some() || is_lighter || self.slow_start.is_some() {
            self.reschedule();
        }
    }

    fn position(&self, host: &WorkerHost) -> usize {
        let place = host.place.get();
        self.hosts
            .partition_point(|known| known.place.get() < place)
    }

    fn reschedule(&mut self) {
        let hosts = std::mem::take(&mut self.hosts);
        let cursor = self.cursor;
        *self = Self::new(hosts, self.slow_start);
        self.cursor = cursor;
    }

    pub(super) fn choose(
        &mut self,
        policy: &Policy,
        cx: &dyn LoadBalancerContext,
    ) -> Option<Rc<WorkerHost>> {
        if self.hosts.len() <= 1 {
            return self.hosts.first().cloned();
        }
        let slow_start = self.slow_start.filter(|_| self.schedule.is_some());
        let slow = slow_start.map(|slow_start| (slow_start, Instant::now()));
        let hosts = &self.hosts;
        let grown = |weight: f64, index: usize| match slow {
            None => weight,
            Some((slow_start, now)) => slow_start.apply(weight, &hosts[index], now),
        };
        let at = match (policy, &mut self.schedule) {
            // Those that hash choose from their tables instead, and an aggregate among its members.
            (Policy::Random | Policy::Hash(_) | Policy::ClusterProvided, _) => self.random(cx),
            (Policy::RoundRobin, None) => self.next(cx),
            (Policy::RoundRobin, Some(schedule)) => {
                schedule.pick(cx, |index, weight| grown(weight, index))?
            }
            (
                Policy::LeastRequest {
                    full_scan: true, ..
                },
                _,
            ) => self.least_of_all(cx),
            (Policy::LeastRequest { choice_count, .. }, None) => self.least_of(*choice_count, cx),
            (
                Policy::LeastRequest {
                    active_request_bias,
                    ..
                },
                Some(schedule),
            ) => schedule.pick(cx, |index, weight| {
                grown(biased(weight, &hosts[index], *active_request_bias), index)
            })?,
        };
        self.hosts.get(at).cloned()
    }

    fn next(&mut self, cx: &dyn LoadBalancerContext) -> usize {
        let at = match self.cursor {
            Some(last) if last + 1 < self.hosts.len() => last + 1,
            Some(_) => 0,
            None => self.random(cx),
        };
        self.cursor = Some(at);
        at
    }

    fn random(&self, cx: &dyn LoadBalancerContext) -> usize {
        let len = u64::try_from(self.hosts.len()).unwrap_or(u64::MAX);
        usize::try_from(cx.random() % len).unwrap_or(0)
    }

    fn least_of(&self, choices: u32, cx: &dyn LoadBalancerContext) -> usize {
        let mut best = self.random(cx);
        let mut fewest = self.hosts[best].active_requests();
        for _ in 1..choices {
            let other = self.random(cx);
            let active = self.hosts[other].active_requests();
            if active < fewest {
                (best, fewest) = (other, active);
            }
        }
        best
    }

    /// Of equals any, each as likely.
    fn least_of_all(&self, cx: &dyn LoadBalancerContext) -> usize {
        let mut best = 0;
        let mut fewest = u64::MAX;
        let mut equals = 0;
        for (index, host) in self.hosts.iter().enumerate() {
            let active = host.active_requests();
            if active < fewest {
                (best, fewest, equals) = (index, active, 1);
            } else if active == fewest {
                equals += 1;
                if cx.random().is_multiple_of(equals) {
                    best = index;
                }
            }
        }
        best
    }
}

/// The weight of a host that is busy counts less.
fn biased(weight: f64, host: &WorkerHost, bias: f64) -> f64 {
    #[allow(
        clippy::cast_precision_loss,
        reason = "requests in flight are far below 2^52"
    )]
    let active = host.active_requests() as f64 + 1.0;
    if bias == 1.0 {
        weight / active
    } else {
        weight / active.powf(bias)
    }
}
