//! Stats of a connection manager: `http.<stat_prefix>.*` and, per listener, `listener.<address>.http.<stat_prefix>.*`.

use crate::stats::Scope;
use crate::stats_group;

stats_group! {
    /// `http.<stat_prefix>.`: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/stats>
    pub struct HcmStats {
        counter downstream_cx_total;
        counter downstream_cx_ssl_total;
        counter downstream_cx_http1_total;
        counter downstream_cx_upgrades_total;
        counter downstream_cx_http2_total;
        counter downstream_cx_http3_total;
        counter downstream_cx_destroy;
        counter downstream_cx_destroy_remote;
        counter downstream_cx_destroy_local;
        counter downstream_cx_destroy_active_rq;
        counter downstream_cx_destroy_local_active_rq;
        counter downstream_cx_destroy_remote_active_rq;
        gauge downstream_cx_active;
        gauge downstream_cx_ssl_active;
        gauge downstream_cx_http1_active;
        gauge downstream_cx_http1_soft_drain;
        gauge downstream_cx_upgrades_active;
        gauge downstream_cx_http2_active;
        gauge downstream_cx_http3_active;
        counter downstream_cx_protocol_error;
        histogram downstream_cx_length_ms (Milliseconds);
        counter downstream_cx_rx_bytes_total;
        gauge downstream_cx_rx_bytes_buffered;
        counter downstream_cx_tx_bytes_total;
        gauge downstream_cx_tx_bytes_buffered;
        counter downstream_cx_drain_close;
        counter downstream_cx_idle_timeout;
        counter downstream_cx_max_duration_reached;
        counter downstream_cx_max_requests_reached;
        counter downstream_cx_overload_disable_keepalive;
        counter downstream_cx_delayed_close_timeout;
        counter downstream_flow_control_paused_reading_total;
        counter downstream_flow_control_resumed_reading_total;
        counter downstream_rq_total;
        counter downstream_rq_http1_total;
        counter downstream_rq_http2_total;
        counter downstream_rq_http3_total;
        gauge downstream_rq_active;
        counter downstream_rq_rejected_via_ip_detection;
        counter downstream_rq_response_before_rq_complete;
        counter downstream_rq_rx_reset;
        counter downstream_rq_tx_reset;
        counter downstream_rq_too_many_premature_resets;
        counter downstream_rq_non_relative_path;
        counter downstream_rq_failed_path_normalization;
        counter downstream_rq_redirected_with_normalized_path;
        counter downstream_rq_too_large;
        counter downstream_rq_completed;
        counter downstream_rq_1xx;
        counter downstream_rq_2xx;
        counter downstream_rq_3xx;
        counter downstream_rq_4xx;
        counter downstream_rq_5xx;
        counter downstream_rq_ws_on_non_ws_route;
        histogram downstream_rq_time (Milliseconds);
        counter downstream_rq_idle_timeout;
        counter downstream_rq_max_duration_reached;
        counter downstream_rq_timeout;
        counter downstream_rq_header_timeout;
        counter downstream_rq_overload_close;
        counter no_route;
        counter no_cluster;
        counter rq_redirect;
        counter rq_direct_response;
        counter rq_total;
        counter rq_reset_after_downstream_response_started;
        counter rq_overload_local_reply;
        counter rs_too_large;
        counter passthrough_internal_redirect_no_route;
        counter passthrough_internal_redirect_bad_location;
        counter passthrough_internal_redirect_predicate;
        counter passthrough_internal_redirect_too_many_redirects;
        counter passthrough_internal_redirect_unsafe_scheme;
    }
}

stats_group! {
    /// `listener.<address>.http.<stat_prefix>.`
    pub struct ListenerHttpStats {
        counter downstream_rq_completed;
        counter downstream_rq_1xx;
        counter downstream_rq_2xx;
        counter downstream_rq_3xx;
        counter downstream_rq_4xx;
        counter downstream_rq_5xx;
    }
}

stats_group! {
    /// `http.<stat_prefix>.tracing.`: what was decided about tracing a request. Zero while there is no tracer.
    pub struct TracingStats {
        counter random_sampling;
        counter service_forced;
        counter client_enabled;
        counter not_traceable;
        counter health_check;
    }
}

impl HcmStats {
    /// The stats of the manager with this `stat_prefix`.
    pub fn of(scope: &Scope, stat_prefix: &str) -> Self {
        Self::new(&scope.store().scope(&format!("http.{stat_prefix}.")))
    }

    /// Counts a finished response by its class.
    pub(super) fn record_response(&self, status: u16) {
        self.downstream_rq_completed().inc();
        match status / 100 {
            1 => self.downstream_rq_1xx().inc(),
            2 => self.downstream_rq_2xx().inc(),
            3 => self.downstream_rq_3xx().inc(),
            4 => self.downstream_rq_4xx().inc(),
            5 => self.downstream_rq_5xx().inc(),
            _ => {}
        }
    }
}

impl ListenerHttpStats {
    /// Counts a finished response by its class.
    pub(super) fn record_response(&self, status: u16) {
        self.downstream_rq_completed().inc();
        match status / 100 {
            1 => self.downstream_rq_1xx().inc(),
            2 => self.downstream_rq_2xx().inc(),
            3 => self.downstream_rq_3xx().inc(),
            4 => self.downstream_rq_4xx().inc(),
            5 => self.downstream_rq_5xx().inc(),
            _ => {}
        }
    }
}
