//! Circuit breakers: limits of a cluster that all workers share, as atomics.
//!
//! Stats: `cluster.<name>.circuit_breakers.<priority>.{cx,cx_pool,rq,rq_pending,rq_retry}_open`, and with `track_remaining`
//! `remaining_{cx,cx_pools,pending,retries,rq}`.
//! Deviations: the runtime keys `circuit_breakers.<cluster>.<priority>.*` are not read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::retry_window::RetryWindow;
use crate::stats::{Group, Kind, Scope, StatDef};

/// `envoy.config.core.v3.RoutingPriority`: which set of limits and pools a request uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RoutingPriority {
    /// Of ordinary requests.
    #[default]
    Default,
    /// Of requests whose route says `priority: HIGH`.
    High,
}

/// The limits of one priority: `CircuitBreakers.Thresholds`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Thresholds {
    /// Connections of all workers. Default 1024.
    pub max_connections: u32,
    /// Requests that wait for a connection. Default 1024.
    pub max_pending_requests: u32,
    /// Requests in flight. Default 1024.
    pub max_requests: u32,
    /// Retries in flight; does not count with a budget. Default 3.
    pub max_retries: u32,
    /// Limits retries by a share of the requests instead.
    pub retry_budget: Option<RetryBudget>,
    /// Whether the `remaining_*` gauges are kept.
    pub track_remaining: bool,
    /// Connection pools. Default: any number.
    pub max_connection_pools: u32,
}

/// `Thresholds.RetryBudget`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RetryBudget {
    /// The share of requests that may be retries, in parts of 1,000,000. Default 20 %.
    pub budget_ppm: u32,
    /// How long a request counts from its start, retries too; zero, the default: for as long as it is in flight.
    pub interval: Duration,
    /// The number of retries that is always allowed. Default 3.
    pub min_retry_concurrency: u32,
}

/// The limits of both priorities.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct CircuitBreakerSettings {
    /// Of `DEFAULT`.
    pub default: Thresholds,
    /// Of `HIGH`.
    pub high: Thresholds,
    /// The connections that one host may have, by priority.
    pub per_host_max_connections: [Option<u32>; 2],
}

/// The counts of a cluster against its limits.
#[derive(Debug)]
pub struct CircuitBreakers {
    counts: [[AtomicU64; RESOURCES]; 2],
    gauges: Arc<Group>,
    /// By priority, of budgets that have an interval.
    windows: [Option<Box<RetryWindow>>; 2],
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// `max_connections`.
    Connections,
    /// `max_connection_pools`.
    ConnectionPools,
    /// `max_pending_requests`.
    PendingRequests,
    /// `max_requests`.
    Requests,
    /// `max_retries`.
    Retries,
}

const RESOURCES: usize = 5;

macro_rules! gauges { ($($name:literal),*) => { &[$(StatDef { name: $name, kind: Kind::Gauge }),*] } }
/// For each priority, first the open gauges, then the remaining ones, in the order of [`Resource`].
static GAUGES: &[StatDef] = gauges!(
    "circuit_breakers.default.cx_open",
    "circuit_breakers.default.cx_pool_open",
    "circuit_breakers.default.rq_pending_open",
    "circuit_breakers.default.rq_open",
    "circuit_breakers.default.rq_retry_open",
    "circuit_breakers.high.cx_open",
    "circuit_breakers.high.cx_pool_open",
    "circuit_breakers.high.rq_pending_open",
    "circuit_breakers.high.rq_open",
    "circuit_breakers.high.rq_retry_open",
    "circuit_breakers.default.remaining_cx",
    "circuit_breakers.default.remaining_cx_pools",
    "circuit_breakers.default.remaining_pending",
    "circuit_breakers.default.remaining_rq",
    "circuit_breakers.default.remaining_retries",
    "circuit_breakers.high.remaining_cx",
    "circuit_breakers.high.remaining_cx_pools",
    "circuit_breakers.high.remaining_pending",
    "circuit_breakers.high.remaining_rq",
    "circuit_breakers.high.remaining_retries"
);
/// The same without the remaining gauges, for clusters that do not track them.
static OPEN_GAUGES: &[StatDef] = GAUGES.split_at(RESOURCES * 2).0;

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
            track_remaining: false,
            max_connection_pools: u32::MAX,
        }
    }
}

impl Thresholds {
    fn limit(&self, resource: Resource) -> u64 {
        if resource == Resource::ConnectionPools && self.max_connection_pools == u32::MAX {
            // Any number.
            return u64::MAX;
        }
        u64::from(match resource {
            Resource::Connections => self.max_connections,
            Resource::ConnectionPools => self.max_connection_pools,
            Resource::PendingRequests => self.max_pending_requests,
            Resource::Requests => self.max_requests,
            Resource::Retries => self.max_retries,
        })
    }
}

impl CircuitBreakerSettings {
    /// The limits of a priority.
    pub fn of(&self, priority: RoutingPriority) -> &Thresholds {
        match priority {
            RoutingPriority::Default => &self.default,
            RoutingPriority::High => &self.high,
        }
    }

    fn tracks_remaining(&self) -> bool {
        self.default.track_remaining || self.high.track_remaining
    }
}

impl CircuitBreakers {
    /// Nothing in use. `scope` is that of the cluster.
    pub fn new(settings: &CircuitBreakerSettings, scope: &Scope) -> Self {
        let tracked = settings.tracks_remaining();
        let window = |priority| {
            let budget = settings.of(priority).retry_budget?;
            let interval = (!budget.interval.is_zero()).then_some(budget.interval)?;
            Some(Box::new(RetryWindow::new(interval)))
        };
        let breakers = Self {
            windows: [RoutingPriority::Default, RoutingPriority::High].map(window),
            counts: Default::default(),
            gauges: scope.group(if tracked { GAUGES } else { OPEN_GAUGES }),
        };
        for priority in [RoutingPriority::Default, RoutingPriority::High] {
            let limits = settings.of(priority);
            if limits.track_remaining {
                for resource in Resource::ALL {
                    let gauge = RESOURCES * 2 + slot(priority, resource);
                    breakers.gauges.gauge(gauge).set(limits.limit(resource));
                }
            }
        }
        breakers
    }

    /// How much of a resource is in use.
    pub fn in_use(&self, priority: RoutingPriority, resource: Resource) -> u64 {
        self.count(priority, resource).load(Relaxed)
    }

    /// Whether one more would be within the limit.
    #[inline]
    pub fn has_room(
        &self,
        settings: &CircuitBreakerSettings,
        priority: RoutingPriority,
        resource: Resource,
    ) -> bool {
        self.in_use(priority, resource) < self.limit(settings, priority, resource)
    }

    /// Takes one, whether there is room or not. It is given back by `release`.
    #[inline]
    pub fn acquire(
        &self,
        settings: &CircuitBreakerSettings,
        priority: RoutingPriority,
        resource: Resource,
    ) {
        if resource == Resource::Requests
            && let Some(window) = self.window(priority)
        {
            window.count();
        }
        let before = self.count(priority, resource).fetch_add(1, Relaxed);
        let limits = settings.of(priority);
        let limit = limits.limit(resource);
        if before + 1 == limit {
            self.gauges.gauge(slot(priority, resource)).inc();
        }
        if limits.track_remaining && before < limit {
            self.gauges
                .gauge(RESOURCES * 2 + slot(priority, resource))
                .dec();
        }
    }

    /// Gives one back.
    #[inline]
    pub fn release(
        &self,
        settings: &CircuitBreakerSettings,
        priority: RoutingPriority,
        resource: Resource,
    ) {
        let before = self.count(priority, resource).fetch_sub(1, Relaxed);
        let limits = settings.of(priority);
        let limit = limits.limit(resource);
        if before == limit {
            self.gauges.gauge(slot(priority, resource)).dec();
        }
        if limits.track_remaining && before <= limit {
            self.gauges
                .gauge(RESOURCES * 2 + slot(priority, resource))
                .inc();
        }
    }

    fn window(&self, priority: RoutingPriority) -> Option<&RetryWindow> {
        self.windows[priority as usize].as_deref()
    }

    /// The limit in force: for retries with a budget it follows the requests in flight, or those that began lately.
    fn limit(
        &self,
        settings: &CircuitBreakerSettings,
        priority: RoutingPriority,
        resource: Resource,
    ) -> u64 {
        let limits = settings.of(priority);
        match limits.retry_budget {
            Some(budget) if resource == Resource::Retries => {
                let counted = match self.window(priority) {
                    Some(window) => window.requests(),
                    None => {
                        self.in_use(priority, Resource::Requests)
                            + self.in_use(priority, Resource::PendingRequests)
                    }
                };
                (counted * u64::from(budget.budget_ppm) / 1_000_000)
                    .max(u64::from(budget.min_retry_concurrency))
            }
            _ => limits.limit(resource),
        }
    }

    fn count(&self, priority: RoutingPriority, resource: Resource) -> &AtomicU64 {
        &self.counts[priority as usize][resource as usize]
    }
}

impl Resource {
    const ALL: [Self; RESOURCES] = [
        Self::Connections,
        Self::ConnectionPools,
        Self::PendingRequests,
        Self::Requests,
        Self::Retries,
    ];
}

fn slot(priority: RoutingPriority, resource: Resource) -> usize {
    priority as usize * RESOURCES + resource as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Store;

    const D: RoutingPriority = RoutingPriority::Default;

    fn settings(max_requests: u32) -> CircuitBreakerSettings {
        CircuitBreakerSettings {
            default: Thresholds {
                max_requests,
                track_remaining: true,
                ..Thresholds::default()
            },
            ..CircuitBreakerSettings::default()
        }
    }

    fn gauge(breakers: &CircuitBreakers, name: &str) -> u64 {
        let index = (0..breakers.gauges.len())
            .find(|i| breakers.gauges.stat(*i).0 == name)
            .unwrap();
        breakers.gauges.gauge(index).value()
    }

    #[test]
    fn open_and_remaining_gauges_follow_the_limit() {
        let settings = settings(2);
        let breakers = CircuitBreakers::new(&settings, &Store::new(0).scope("cluster.a."));
        assert_eq!(gauge(&breakers, "circuit_breakers.default.remaining_rq"), 2);
        breakers.acquire(&settings, D, Resource::Requests);
        assert!(breakers.has_room(&settings, D, Resource::Requests));
        breakers.acquire(&settings, D, Resource::Requests);
        assert!(!breakers.has_room(&settings, D, Resource::Requests));
        assert_eq!(gauge(&breakers, "circuit_breakers.default.rq_open"), 1);
        breakers.acquire(&settings, D, Resource::Requests);
        assert_eq!(gauge(&breakers, "circuit_breakers.default.remaining_rq"), 0);
        breakers.release(&settings, D, Resource::Requests);
        breakers.release(&settings, D, Resource::Requests);
        assert_eq!(gauge(&breakers, "circuit_breakers.default.rq_open"), 0);
        assert_eq!(gauge(&breakers, "circuit_breakers.default.remaining_rq"), 1);
        assert!(breakers.has_room(&settings, RoutingPriority::High, Resource::Requests));
    }

    #[test]
    fn a_retry_budget_grows_with_the_requests_in_flight() {
        let mut settings = settings(1000);
        settings.default.retry_budget = Some(RetryBudget {
            budget_ppm: 200_000,
            interval: Duration::ZERO,
            min_retry_concurrency: 1,
        });
        let breakers = CircuitBreakers::new(&settings, &Store::new(0).scope("cluster.a."));
        breakers.acquire(&settings, D, Resource::Retries);
        assert!(!breakers.has_room(&settings, D, Resource::Retries));
        for _ in 0..10 {
            breakers.acquire(&settings, D, Resource::Requests);
        }
        assert!(breakers.has_room(&settings, D, Resource::Retries));
        breakers.acquire(&settings, D, Resource::Retries);
        assert!(!breakers.has_room(&settings, D, Resource::Retries));
    }

    #[tokio::test(start_paused = true)]
    async fn with_an_interval_a_retry_budget_counts_requests_that_have_ended() {
        let mut settings = settings(1000);
        settings.default.retry_budget = Some(RetryBudget {
            budget_ppm: 100_000,
            interval: Duration::from_secs(10),
            min_retry_concurrency: 0,
        });
        let breakers = CircuitBreakers::new(&settings, &Store::new(0).scope("cluster.a."));
        for request in 1..=10 {
            breakers.acquire(&settings, D, Resource::Requests);
            let has_room = breakers.has_room(&settings, D, Resource::Retries);
            assert_eq!(has_room, request == 10, "{request}");
            breakers.release(&settings, D, Resource::Requests);
        }
        assert!(breakers.has_room(&settings, D, Resource::Retries));
        tokio::time::advance(Duration::from_millis(11_100)).await;
        assert!(!breakers.has_room(&settings, D, Resource::Retries));
    }
}
