//! Counters, gauges and histograms with Envoy's names.
//!
//! Stats come in *groups*: the stats of one cluster, listener or filter, declared with [`stats_group!`](crate::stats_group).
//! A group costs its prefix until it is touched; then each thread that touches it gets a shard of its own, to which it adds
//! without any contention. A reader sums the shards. A stat whose name is known only at run time (`upstream_rq_503`) is a
//! group of one, made by [`Scope::counter`]. Owners that register the same stats share them; stats end with their last owner.
//!
//! Names become labels by Envoy's default tags and those of the bootstrap's `stats_config`. [`render`] shows them as Envoy does.

mod config;
mod default_tags;
mod group;
mod histogram;
mod matcher;
mod number;
pub mod render;
mod store;
mod tags;

pub use config::StatsConfig;
pub use group::{CounterRef, Flushed, GaugeRef, Group, HistogramRef, Kind, StatDef, Unit};
pub use histogram::{Bucket, HistogramData};
pub use store::{Counter, Gauge, Histogram, Scope, StatsSource, Store, TextReadout};

use std::cell::Cell;

thread_local! {
    static SHARD: Cell<usize> = const { Cell::new(0) };
}

/// Gives this thread the shard `index`. Shard 0 may be shared by any threads; workers have 1.. each for itself alone.
pub fn set_thread_shard(index: usize) {
    SHARD.set(index);
}

#[inline]
fn thread_shard() -> usize {
    SHARD.get()
}

/// Declares a group of stats. Each stat becomes a method that gives its handle.
///
/// ```
/// outrigger::stats_group! {
///     /// What the filter counts.
///     pub struct FilterStats {
///         counter ok;
///         gauge active;
///         histogram duration_ms (Milliseconds);
///     }
/// }
/// # let store = outrigger::stats::Store::new(0);
/// let stats = FilterStats::new(&store.scope("http.ingress.filter."));
/// stats.ok().inc();
/// ```
#[macro_export]
macro_rules! stats_group {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($kind:ident $stat:ident $(($unit:ident))?;)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        $vis struct $name { group: std::sync::Arc<$crate::stats::Group> }

        #[allow(dead_code, reason = "a group declares every stat of Envoy's; each is used where it happens")]
        impl $name {
            /// Every stat of the group, in the order of their declaration.
            $vis const STATS: &'static [$crate::stats::StatDef] = &[
                $($crate::stats::StatDef { name: stringify!($stat), kind: $crate::stats_group!(@kind $kind $($unit)?) }),*
            ];

            /// Registers the group under the prefix of `scope`.
            $vis fn new(scope: &$crate::stats::Scope) -> Self {
                Self { group: scope.group(Self::STATS) }
            }

            $crate::stats_group!(@methods 0usize; [$vis]; $($kind $stat;)*);
        }
    };
    (@kind counter) => { $crate::stats::Kind::Counter };
    (@kind gauge) => { $crate::stats::Kind::Gauge };
    (@kind histogram $unit:ident) => { $crate::stats::Kind::Histogram($crate::stats::Unit::$unit) };
    (@methods $index:expr; [$vis:vis];) => {};
    (@methods $index:expr; [$vis:vis]; counter $stat:ident; $($rest:tt)*) => {
        #[doc = concat!("The counter `", stringify!($stat), "`.")]
        #[inline]
        $vis fn $stat(&self) -> $crate::stats::CounterRef<'_> { self.group.counter($index) }
        $crate::stats_group!(@methods $index + 1usize; [$vis]; $($rest)*);
    };
    (@methods $index:expr; [$vis:vis]; gauge $stat:ident; $($rest:tt)*) => {
        #[doc = concat!("The gauge `", stringify!($stat), "`.")]
        #[inline]
        $vis fn $stat(&self) -> $crate::stats::GaugeRef<'_> { self.group.gauge($index) }
        $crate::stats_group!(@methods $index + 1usize; [$vis]; $($rest)*);
    };
    (@methods $index:expr; [$vis:vis]; histogram $stat:ident; $($rest:tt)*) => {
        #[doc = concat!("The histogram `", stringify!($stat), "`.")]
        #[inline]
        $vis fn $stat(&self) -> $crate::stats::HistogramRef<'_> { self.group.histogram($index) }
        $crate::stats_group!(@methods $index + 1usize; [$vis]; $($rest)*);
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    stats_group! {
        /// A group for these tests.
        struct Example { counter hits; gauge open; histogram took_ms (Milliseconds); }
    }

    #[test]
    fn shards_of_several_threads_sum_up() {
        let store = Store::new(2);
        let stats = Example::new(&store.scope("x."));
        let threads: Vec<_> = (1..=2)
            .map(|shard| {
                let stats = stats.clone();
                std::thread::spawn(move || {
                    set_thread_shard(shard);
                    for _ in 0..10 {
                        stats.hits().inc();
                        stats.open().inc();
                        stats.took_ms().record(5);
                    }
                    stats.open().dec();
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        stats.hits().add(1);
        assert_eq!(stats.hits().value(), 21);
        assert_eq!(stats.open().value(), 18);
        assert_eq!(stats.took_ms().snapshot().count(), 20);
    }

    #[test]
    fn an_untouched_group_has_no_shards() {
        let store = Store::new(8);
        let stats = Example::new(&store.scope("x."));
        assert_eq!(stats.hits().value(), 0);
        assert!(!stats.hits().is_used());
    }

    #[test]
    fn a_counter_asked_for_twice_is_the_same() {
        let store = Store::new(0);
        let scope = store.scope("a.");
        scope.counter("b").inc();
        assert_eq!(scope.counter("b").value(), 1);
    }
}
