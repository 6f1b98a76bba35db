//! The manager: reads the monitors in intervals, and sets the actions by what they say.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::heap::Heap;
use super::monitors::Monitor;
use super::shed_points::{LoadShedPoint, PointStats};
use super::state::{Action, OverloadState};
use crate::server::ServerContext;
use crate::stats::{Counter, Histogram, Store, Unit};

crate::stats_group! {
    /// `overload.<monitor>.`
    struct MonitorStats {
        gauge pressure;
        counter failed_updates;
    }
}

crate::stats_group! {
    /// `overload.<monitor>.`, of monitors that are asked at intervals.
    struct SkippedStats {
        counter skipped_updates;
    }
}

crate::stats_group! {
    /// `overload.<action>.`
    struct ActionStats {
        gauge active;
        gauge scale_percent;
    }
}

/// Measures load and acts against overload. It lives on the main thread.
#[derive(Debug)]
pub struct OverloadManager {
    refresh_interval: Duration,
    state: Arc<OverloadState>,
    store: Store,
    monitors: Vec<Monitored>,
    actions: Vec<Acting>,
    points: Vec<Shedding>,
    shrinker: Option<Shrinker>,
    refresh_interval_delay: Histogram,
}

#[derive(Debug)]
struct Monitored {
    name: String,
    monitor: Monitor,
    /// The share of the resource that is used, as last measured.
    pressure: Option<f64>,
    stats: MonitorStats,
}

/// What makes an action hold.
#[derive(Debug)]
pub(super) struct Trigger {
    pub(super) monitor: String,
    pub(super) heat: Heat,
}

/// How strongly an action holds at some pressure.
#[derive(Debug, Clone, Copy)]
pub(super) enum Heat {
    /// In full from here on.
    Threshold(f64),
    /// Not at all up to `from`, in full from `to` on, in proportion between.
    Scaled { from: f64, to: f64 },
}

/// A load-shed point; none: of a name that nothing asks for.
#[derive(Debug)]
struct Shedding {
    point: Option<LoadShedPoint>,
    triggers: Vec<Trigger>,
    stats: PointStats,
}

#[derive(Debug)]
struct Acting {
    action: Action,
    triggers: Vec<Trigger>,
    active: bool,
    value: f64,
    stats: ActionStats,
}

/// How the heap shrinks while its action holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shrink {
    /// Time between two attempts.
    pub(super) interval: Duration,
    /// Free memory that may stay, in bytes.
    pub(super) max_unfreed: u64,
}

#[derive(Debug)]
struct Shrinker {
    config: Shrink,
    due: Instant,
    shrink_count: Counter,
}

impl OverloadManager {
    pub(super) fn new(refresh_interval: Duration, server: &ServerContext) -> Self {
        let scope = server.stats.scope("overload.");
        Self {
            refresh_interval,
            state: server.overload.clone(),
            store: server.stats.clone(),
            monitors: Vec::new(),
            actions: Vec::new(),
            points: Vec::new(),
            shrinker: None,
            refresh_interval_delay: scope.histogram("refresh_interval_delay", Unit::Milliseconds),
        }
    }

    pub(super) fn add_monitor(&mut self, name: &str, monitor: Monitor, server: &ServerContext) {
        let scope = server.stats.scope(&format!("overload.{name}."));
        let stats = MonitorStats::new(&scope);
        stats.pressure().set(0);
        if !monitor.is_counted() {
            // Nothing here takes so long that it would be skipped.
            SkippedStats::new(&scope);
        }
        self.monitors.push(Monitored {
            name: name.to_owned(),
            monitor,
            pressure: None,
            stats,
        });
    }

    pub(super) fn add_action(
        &mut self,
        action: Action,
        triggers: Vec<Trigger>,
        shrink: Option<Shrink>,
        server: &ServerContext,
    ) {
        let scope = self.store.scope(&format!("overload.{}.", action.name()));
        let stats = ActionStats::new(&scope);
        stats.active().set(0);
        stats.scale_percent().set(0);
        self.shrinker = self.shrinker.take().or_else(|| {
            shrink.map(|config| Shrinker {
                config,
                due: Instant::now() + config.interval,
                shrink_count: scope.counter("shrink_count"),
            })
        });
        server.overload.set(action, 0.0);
        self.actions.push(Acting {
            action,
            triggers,
            active: false,
            value: 0.0,
            stats,
        });
    }

    /// Adds a load-shed point. One of a name that nothing asks for has stats alone.
    pub(super) fn add_point(&mut self, name: &str, triggers: Vec<Trigger>, server: &ServerContext) {
        let scope = self.store.scope(&format!("overload.{name}."));
        let mut points = LoadShedPoint::ALL.into_iter();
        let point = points.find(|point| point.name() == name);
        let stats = PointStats::new(&scope);
        stats.scale_percent().set(0);
        if let Some(point) = point {
            server.overload.load_shed.count_at(point, stats.clone());
        }
        self.points.push(Shedding {
            point,
            triggers,
            stats,
        });
    }

    /// Measures and acts until it is dropped. Returns at once when there is nothing to measure.
    pub async fn run(mut self, heap: impl Heap) {
        // As in Envoy, nobody looks at what is only counted.
        if self.monitors.iter().all(|m| m.monitor.is_counted()) {
            return;
        }
        let mut ticks = interval(self.refresh_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = ticks.tick().await;
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let delay = u64::try_from((now - last).as_millis()).unwrap_or(u64::MAX);
            last = now;
            self.refresh_interval_delay.get().record(delay);
            self.refresh(&heap, now);
        }
    }

    /// Measures once and sets the actions.
    pub(super) fn refresh(&mut self, heap: &impl Heap, now: Instant) {
        for monitored in &mut self.monitors {
            monitored.measure(heap);
        }
        let monitors = &self.monitors;
        let strongest = |triggers: &[Trigger]| {
            let values = triggers.iter().map(|trigger| {
                let monitored = monitors.iter().find(|m| m.name == trigger.monitor);
                let pressure = monitored.and_then(|m| m.pressure);
                pressure.map_or(0.0, |pressure| trigger.heat.at(pressure))
            });
            values.fold(0.0, f64::max)
        };
        for acting in &mut self.actions {
            acting.set(strongest(&acting.triggers), &self.state);
        }
        for shedding in &self.points {
            let value = strongest(&shedding.triggers);
            shedding.stats.scale_percent().set(percent(value));
            if let Some(point) = shedding.point {
                self.state.load_shed.set(point, value);
            }
        }
        let shrinks = self.state.is_saturated(Action::ShrinkHeap);
        if let Some(shrinker) = self.shrinker.as_mut().filter(|s| s.due <= now) {
            shrinker.due = now + shrinker.config.interval;
            if shrinks {
                shrinker.shrink(heap);
            }
        }
    }
}

impl Monitored {
    fn measure(&mut self, heap: &impl Heap) {
        match self.monitor.pressure(heap) {
            Some(pressure) => {
                self.pressure = Some(pressure);
                self.stats.pressure().set(percent(pressure));
            }
            None => self.stats.failed_updates().inc(),
        }
    }
}

impl Heat {
    fn at(self, pressure: f64) -> f64 {
        match self {
            Self::Threshold(threshold) => f64::from(u8::from(pressure >= threshold)),
            Self::Scaled { from, .. } if pressure <= from => 0.0,
            Self::Scaled { to, .. } if pressure >= to => 1.0,
            Self::Scaled { from, to } => (pressure - from) / (to - from),
        }
    }
}

impl Acting {
    fn set(&mut self, value: f64, state: &OverloadState) {
        state.set(self.action, value);
        let before = std::mem::replace(&mut self.value, value);
        if self.action == Action::ResetHighMemoryStream && before.to_bits() != value.to_bits() {
            state.resets.changed(value);
        }
        let active = value >= 1.0;
        self.stats.active().set(u64::from(active));
        self.stats.scale_percent().set(percent(value));
        if active != self.active {
            self.active = active;
            let action = self.action.name();
            if active {
                warn!(action, "Overload action became active.");
            } else {
                info!(action, "Overload action became inactive.");
            }
        }
    }
}

impl Shrinker {
    fn shrink(&self, heap: &impl Heap) {
        let unfreed = heap
            .usage()
            .map_or(0, |usage| usage.resident.saturating_sub(usage.allocated));
        if unfreed > self.config.max_unfreed {
            heap.shrink();
            self.shrink_count.inc();
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float becomes an integer by saturation"
)]
fn percent(share: f64) -> u64 {
    (share * 100.0) as u64
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::super::heap::HeapUsage;
    use super::*;
    use crate::server::LocalInfo;

    #[derive(Clone, Default)]
    struct FakeHeap {
        usage: Rc<Cell<Option<HeapUsage>>>,
        shrunk: Rc<Cell<u32>>,
    }

    impl FakeHeap {
        fn holds(&self, allocated: u64, resident: u64) {
            self.usage.set(Some(HeapUsage {
                allocated,
                resident,
                ..HeapUsage::default()
            }));
        }
    }

    impl Heap for FakeHeap {
        fn usage(&self) -> Option<HeapUsage> {
            self.usage.get()
        }
        fn shrink(&self) {
            self.shrunk.set(self.shrunk.get() + 1);
        }
    }

    const HEAP: &str = "envoy.resource_monitors.fixed_heap";

    fn manager(server: &ServerContext, actions: &[(Action, Heat)]) -> OverloadManager {
        let mut manager = OverloadManager::new(Duration::from_secs(1), server);
        let limit = server.runtime.integer("", 100);
        manager.add_monitor(HEAP, Monitor::FixedHeap(limit), server);
        for (action, heat) in actions {
            let trigger = Trigger {
                monitor: HEAP.into(),
                heat: *heat,
            };
            let shrink = (*action == Action::ShrinkHeap).then_some(Shrink {
                interval: Duration::from_secs(10),
                max_unfreed: 50,
            });
            manager.add_action(*action, vec![trigger], shrink, server);
        }
        manager
    }

    fn gauge(server: &ServerContext, name: &str) -> u64 {
        let groups = server.stats.groups();
        let found = groups.iter().find_map(|group| {
            let index = (0..group.len())
                .find(|i| format!("{}{}", group.prefix(), group.stat(*i).0) == name)?;
            Some(group.gauge(index).value())
        });
        found.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn actions_follow_the_pressure_up_and_down() {
        let server = ServerContext::new(0, LocalInfo::default());
        let mut manager = manager(
            &server,
            &[
                (Action::StopAcceptingRequests, Heat::Threshold(0.9)),
                (
                    Action::DisableHttpKeepalive,
                    Heat::Scaled { from: 0.5, to: 1.0 },
                ),
            ],
        );
        let heap = FakeHeap::default();
        let now = Instant::now();
        for (used, stops, scale) in [
            (50, false, 0),
            (75, false, 50),
            (95, true, 90),
            (60, false, 20),
        ] {
            heap.holds(used, used);
            manager.refresh(&heap, now);
            assert_eq!(server.overload.stop_accepting_requests(1), stops, "{used}");
            let percent = gauge(
                &server,
                "overload.envoy.overload_actions.disable_http_keepalive.scale_percent",
            );
            assert!(percent.abs_diff(scale) <= 1, "{used} {percent}");
            assert_eq!(
                gauge(
                    &server,
                    "overload.envoy.resource_monitors.fixed_heap.pressure"
                ),
                used
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_heap_that_does_not_answer_counts_as_failed_and_changes_nothing() {
        let server = ServerContext::new(0, LocalInfo::default());
        let stop = (Action::StopAcceptingRequests, Heat::Threshold(0.9));
        let mut manager = manager(&server, &[stop]);
        let heap = FakeHeap::default();
        heap.holds(95, 95);
        manager.refresh(&heap, Instant::now());
        heap.usage.set(None);
        manager.refresh(&heap, Instant::now());
        assert!(server.overload.stop_accepting_requests(1));
        assert_eq!(
            gauge(
                &server,
                "overload.envoy.resource_monitors.fixed_heap.failed_updates"
            ),
            1
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_heap_shrinks_at_its_interval_while_there_is_enough_to_free() {
        let server = ServerContext::new(0, LocalInfo::default());
        let shrink = (Action::ShrinkHeap, Heat::Threshold(0.9));
        let manager = manager(&server, &[shrink]);
        let heap = FakeHeap::default();
        heap.holds(95, 200);
        let run = manager.run(heap.clone());
        let _ = tokio::time::timeout(Duration::from_millis(30_500), async {
            tokio::join!(run, async {
                tokio::time::sleep(Duration::from_millis(20_500)).await;
                heap.holds(95, 100);
            })
        })
        .await;
        assert_eq!(heap.shrunk.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_count_of_connections_triggers_actions() {
        let server = ServerContext::new(0, LocalInfo::default());
        let mut manager = OverloadManager::new(Duration::from_secs(1), &server);
        let connections = server.overload.connections.clone();
        connections.set_limit(4);
        let monitor = Monitor::Connections(connections.clone());
        manager.add_monitor("c", monitor, &server);
        let trigger = Trigger {
            monitor: "c".into(),
            heat: Heat::Threshold(0.5),
        };
        let action = Action::StopAcceptingRequests;
        manager.add_action(action, vec![trigger], None, &server);
        let heap = FakeHeap::default();
        let _one = connections.try_acquire().unwrap();
        manager.refresh(&heap, Instant::now());
        assert!(!server.overload.stop_accepting_requests(1));
        let _two = connections.try_acquire().unwrap();
        manager.refresh(&heap, Instant::now());
        assert!(server.overload.stop_accepting_requests(1));
        assert_eq!(gauge(&server, "overload.c.pressure"), 50);
    }
}
