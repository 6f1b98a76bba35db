//! Load-shed points: places on the way of connections and requests where some of them are turned away.
//!
//! `envoy.config.overload.v3.LoadShedPoint`, by name. A name that nothing asks for is taken and changes nothing, as in Envoy.
//!
//! Stats: `overload.<point>.{scale_percent,shed_load_count}`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

crate::stats_group! {
    /// `overload.<point>.`
    pub(super) struct PointStats {
        gauge scale_percent;
        counter shed_load_count;
    }
}

/// Where load can be shed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadShedPoint {
    /// A new connection of a TCP listener is closed.
    TcpListenerAccept,
    /// A request is answered with 503 before its filters are made, as by the action `stop_accepting_requests`.
    DecodeHeaders,
    /// A connection is closed when its first bytes come.
    CreateCodec,
    /// A request is answered with 503 by the router.
    RouterDecode,
    /// A connection pool makes no new connection.
    NewConnection,
    /// What comes on an HTTP/1 connection is answered with 500, and the connection closed.
    Http1Abort,
    /// An HTTP/2 connection on which something comes is told to go away.
    Http2GoAway,
    /// An HTTP/2 connection on which something comes is told to go away, and ended with all of its streams.
    Http2GoAwayAndClose,
    /// A connection of `tcp_proxy` is closed before it gets an upstream.
    TcpProxyUpstreamConnect,
    /// A connection of `tcp_proxy` is closed when its client sends something.
    TcpProxyOnData,
}

/// How strongly each point sheds. Shared by main and workers.
#[derive(Debug, Default)]
pub struct LoadShedPoints([Point; LoadShedPoint::ALL.len()]);

#[derive(Debug, Default)]
struct Point {
    value: AtomicU32,
    stats: OnceLock<PointStats>,
}

impl LoadShedPoint {
    /// Every point.
    pub const ALL: [Self; 10] = [
        Self::TcpListenerAccept,
        Self::DecodeHeaders,
        Self::CreateCodec,
        Self::RouterDecode,
        Self::NewConnection,
        Self::Http1Abort,
        Self::Http2GoAway,
        Self::Http2GoAwayAndClose,
        Self::TcpProxyUpstreamConnect,
        Self::TcpProxyOnData,
    ];

    /// The name in configurations and stats.
    pub fn name(self) -> &'static str {
        match self {
            Self::TcpListenerAccept => "envoy.load_shed_points.tcp_listener_accept",
            Self::DecodeHeaders => "envoy.load_shed_points.http_connection_manager_decode_headers",
            Self::CreateCodec => "envoy.load_shed_points.hcm_ondata_creating_codec",
            Self::RouterDecode => "envoy.load_shed_points.http_downstream_filter_check",
            Self::NewConnection => "envoy.load_shed_points.connection_pool_new_connection",
            Self::Http1Abort => "envoy.load_shed_points.http1_server_abort_dispatch",
            Self::Http2GoAway => "envoy.load_shed_points.http2_server_go_away_on_dispatch",
            Self::Http2GoAwayAndClose => {
                "envoy.load_shed_points.http2_server_go_away_and_close_on_dispatch"
            }
            Self::TcpProxyUpstreamConnect => "envoy.load_shed_points.tcp_proxy_upstream_connect",
            Self::TcpProxyOnData => "envoy.load_shed_points.tcp_proxy_on_data",
        }
    }
}

impl LoadShedPoints {
    /// Whether what is at this point is to be turned away, which is counted; `random` decides while the point sheds in part.
    #[inline]
    pub fn sheds(&self, point: LoadShedPoint, random: impl FnOnce() -> u64) -> bool {
        let point = &self.0[point as usize];
        match point.value.load(Relaxed) {
            0 => false,
            value => point.draw(value, random()),
        }
    }

    /// Whether the point is configured.
    pub fn is_there(&self, point: LoadShedPoint) -> bool {
        self.0[point as usize].stats.get().is_some()
    }

    /// How strongly the point sheds, from 0 to 1.
    pub fn set(&self, point: LoadShedPoint, value: f64) {
        let value = super::state::in_parts(value);
        self.0[point as usize].value.store(value, Relaxed);
    }

    /// Lets the point turn everything away.
    #[cfg(test)]
    pub(crate) fn shed_all(&self, point: LoadShedPoint) {
        let scope = crate::stats::Store::new(0).scope("p.");
        self.count_at(point, PointStats::new(&scope));
        self.set(point, 1.0);
    }

    /// Says where the point counts what it turns away.
    pub(super) fn count_at(&self, point: LoadShedPoint, stats: PointStats) {
        let _ = self.0[point as usize].stats.set(stats);
    }
}

impl Point {
    #[cold]
    fn draw(&self, value: u32, random: u64) -> bool {
        let sheds = value == u32::MAX || random % u64::from(u32::MAX) < u64::from(value);
        if sheds && let Some(stats) = self.stats.get() {
            stats.shed_load_count().inc();
        }
        sheds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Store;

    #[test]
    fn a_point_sheds_its_share_and_counts_it() {
        let points = LoadShedPoints::default();
        let stats = PointStats::new(&Store::new(0).scope("p."));
        points.count_at(LoadShedPoint::DecodeHeaders, stats.clone());
        let counted = || stats.shed_load_count().value();
        let shed = |points: &LoadShedPoints| {
            let draws = (0..1_000u64).map(|i| i * u64::from(u32::MAX) / 1_000);
            draws
                .filter(|draw| points.sheds(LoadShedPoint::DecodeHeaders, || *draw))
                .count()
        };
        assert_eq!((shed(&points), counted()), (0, 0));
        points.set(LoadShedPoint::DecodeHeaders, 0.25);
        assert_eq!((shed(&points), counted()), (250, 250));
        points.set(LoadShedPoint::DecodeHeaders, 1.0);
        assert_eq!(shed(&points), 1_000);
        assert!(!points.sheds(LoadShedPoint::CreateCodec, || 0));
    }
}
