//! The stats `server.`.

use crate::overload::HeapUsage;
use crate::stats::{Gauge, Store};

crate::stats_group! {
    /// What is known of the process as a whole.
    pub struct ServerStatsGroup {
        counter debug_assertion_failures;
        counter dropped_stat_flushes;
        counter dynamic_unknown_fields;
        counter envoy_bug_failures;
        counter envoy_notifications;
        counter static_unknown_fields;
        counter wip_protos;
        gauge concurrency;
        gauge days_until_first_cert_expiring;
        gauge hot_restart_epoch;
        gauge live;
        gauge memory_allocated;
        gauge memory_heap_size;
        gauge memory_physical_size;
        gauge parent_connections;
        gauge seconds_until_first_ocsp_response_expiring;
        gauge state;
        gauge stats_recent_lookups;
        gauge total_connections;
        gauge uptime;
        gauge version;
        histogram initialization_time_ms (Milliseconds);
    }
}

/// The stats `server.`, kept up to date by main.
#[derive(Debug, Clone)]
pub struct ServerStats {
    /// The single stats.
    pub group: ServerStatsGroup,
    /// `server.compilation_settings.fips_mode`: 1 in a build with validated cryptography.
    pub fips_mode: Gauge,
}

/// What changes from one stats flush to the next.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerFigures {
    /// Seconds since the process began.
    pub uptime: u64,
    /// Downstream connections of all listeners.
    pub connections: u64,
    /// `envoy.admin.v3.ServerInfo.State`: 0 live, 1 draining, 2 pre-initializing, 3 initializing.
    pub state: u64,
    /// Whether the server is live: health checks were not told to fail.
    pub live: bool,
    /// The heap, if the allocator says.
    pub heap: Option<HeapUsage>,
    /// None: there are no certificates.
    pub days_until_first_cert_expiring: Option<u32>,
    /// None: there are no OCSP responses.
    pub seconds_until_first_ocsp_response_expiring: Option<u64>,
}

impl ServerStats {
    /// Registers the stats. There are `concurrency` workers.
    pub fn new(store: &Store, concurrency: usize) -> Self {
        let scope = store.scope("server.");
        let group = ServerStatsGroup::new(&scope);
        group
            .concurrency()
            .set(u64::try_from(concurrency).unwrap_or(u64::MAX));
        group.hot_restart_epoch().set(0);
        // Without certificates none expires: the largest number of 32 bits, as in Envoy.
        group
            .days_until_first_cert_expiring()
            .set(u64::from(u32::MAX));
        group.version().set(version());
        for counter in [
            group.dynamic_unknown_fields(),
            group.static_unknown_fields(),
            group.wip_protos(),
        ] {
            counter.add(0);
        }
        let fips_mode = scope.gauge("compilation_settings.fips_mode");
        fips_mode.get().set(0);
        Self { group, fips_mode }
    }

    /// Sets what changes from one flush to the next.
    pub fn update(&self, figures: ServerFigures) {
        let ServerFigures {
            uptime,
            connections,
            state,
            live,
            heap,
            days_until_first_cert_expiring,
            seconds_until_first_ocsp_response_expiring,
        } = figures;
        self.group.uptime().set(uptime);
        self.group.total_connections().set(connections);
        self.group.state().set(state);
        self.group.live().set(u64::from(live));
        let days = days_until_first_cert_expiring.unwrap_or(u32::MAX);
        self.group
            .days_until_first_cert_expiring()
            .set(u64::from(days));
        if let Some(seconds) = seconds_until_first_ocsp_response_expiring {
            self.group
                .seconds_until_first_ocsp_response_expiring()
                .set(seconds);
        }
        if let Some(heap) = heap {
            self.group.memory_allocated().set(heap.allocated);
            self.group.memory_heap_size().set(heap.heap_size);
            self.group.memory_physical_size().set(heap.resident);
        }
    }
}

/// The version as a number: major, minor and patch in a byte each.
fn version() -> u64 {
    let parts = env!("CARGO_PKG_VERSION").split('.');
    parts.fold(0, |number, part| {
        number << 8 | part.parse::<u64>().unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::render::{Request, render};

    #[test]
    fn the_figures_show_among_the_stats() {
        let store = Store::new(0);
        let stats = ServerStats::new(&store, 4);
        stats.update(ServerFigures {
            uptime: 7,
            connections: 3,
            state: 1,
            live: false,
            heap: Some(HeapUsage {
                allocated: 10,
                heap_size: 20,
                ..HeapUsage::default()
            }),
            days_until_first_cert_expiring: None,
            seconds_until_first_ocsp_response_expiring: Some(60),
        });
        let request = Request {
            used_only: true,
            ..Request::default()
        };
        let page = render(&store, &request).unwrap();
        for line in [
            "server.concurrency: 4",
            "server.days_until_first_cert_expiring: 4294967295",
            "server.seconds_until_first_ocsp_response_expiring: 60",
            "server.live: 0",
            "server.memory_allocated: 10",
            "server.state: 1",
            "server.total_connections: 3",
            "server.uptime: 7",
            "server.compilation_settings.fips_mode: 0",
            "server.static_unknown_fields: 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
    }
}
