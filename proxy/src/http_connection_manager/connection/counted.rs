//! What counts a connection while it lives: `downstream_cx_*` as a whole, and by protocol.

use std::cell::Cell;
use std::rc::Rc;

use tokio::time::Instant;

use super::super::manager::Hcm;
use crate::http::Protocol;
use crate::stream_info::ConnectionInfo;

/// Counts a connection while it lives.
pub(super) struct ActiveConnection {
    hcm: Rc<Hcm>,
    start: Instant,
    is_tls: bool,
    /// The client closed it, not we.
    remote: Cell<bool>,
    /// It ended before a request on it had.
    busy: Cell<bool>,
}

impl ActiveConnection {
    pub(super) fn new(hcm: &Rc<Hcm>, info: &ConnectionInfo) -> Self {
        hcm.config.stats.downstream_cx_total().inc();
        hcm.config.stats.downstream_cx_active().inc();
        if info.is_tls {
            hcm.config.stats.downstream_cx_ssl_total().inc();
            hcm.config.stats.downstream_cx_ssl_active().inc();
        }
        Self {
            hcm: hcm.clone(),
            start: info.start,
            is_tls: info.is_tls,
            remote: Cell::new(false),
            busy: Cell::new(false),
        }
    }

    pub(super) fn closed_by_peer(&self) {
        self.remote.set(true);
    }

    pub(super) fn ends_under_request(&self) {
        self.busy.set(true);
    }
}

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        let stats = &self.hcm.config.stats;
        stats.downstream_cx_active().dec();
        if self.is_tls {
            stats.downstream_cx_ssl_active().dec();
        }
        stats.downstream_cx_destroy().inc();
        let (all, busy) = if self.remote.get() {
            (
                stats.downstream_cx_destroy_remote(),
                stats.downstream_cx_destroy_remote_active_rq(),
            )
        } else {
            (
                stats.downstream_cx_destroy_local(),
                stats.downstream_cx_destroy_local_active_rq(),
            )
        };
        all.inc();
        if self.busy.get() {
            stats.downstream_cx_destroy_active_rq().inc();
            busy.inc();
        }
        let length = Instant::now() - self.start;
        stats
            .downstream_cx_length_ms()
            .record(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
    }
}

/// Counts a connection of one protocol while it lives.
pub(super) struct ProtocolGuard {
    hcm: Rc<Hcm>,
    protocol: Protocol,
}

impl ProtocolGuard {
    pub(super) fn new(hcm: &Rc<Hcm>, protocol: Protocol) -> Self {
        let stats = &hcm.config.stats;
        if protocol.is_http1() {
            stats.downstream_cx_http1_total().inc();
            stats.downstream_cx_http1_active().inc();
        } else {
            stats.downstream_cx_http2_total().inc();
            stats.downstream_cx_http2_active().inc();
        }
        Self {
            hcm: hcm.clone(),
            protocol,
        }
    }
}

impl Drop for ProtocolGuard {
    fn drop(&mut self) {
        let stats = &self.hcm.config.stats;
        if self.protocol.is_http1() {
            stats.downstream_cx_http1_active().dec()
        } else {
            stats.downstream_cx_http2_active().dec()
        }
    }
}
