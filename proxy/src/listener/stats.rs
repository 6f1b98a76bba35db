//! What listeners count.

use crate::stats_group;

stats_group! {
    /// `listener.<address>.`
    pub struct ListenerStats {
        counter downstream_cx_total;
        gauge downstream_cx_active;
        counter downstream_cx_destroy;
        counter downstream_cx_overflow;
        counter downstream_cx_overload_reject;
        counter downstream_cx_transport_socket_connect_timeout;
        counter downstream_global_cx_overflow;
        counter downstream_listener_filter_error;
        counter downstream_listener_filter_remote_close;
        gauge downstream_pre_cx_active;
        counter downstream_pre_cx_timeout;
        counter extension_config_missing;
        counter network_extension_config_missing;
        counter no_filter_chain_match;
        histogram connections_accepted_per_socket_event (Unspecified);
        histogram downstream_cx_length_ms (Milliseconds);
    }
}

stats_group! {
    /// `listener.<address>.worker_<index>.`
    pub struct WorkerListenerStats {
        counter downstream_cx_total;
        gauge downstream_cx_active;
    }
}

stats_group! {
    /// `listener_manager.`
    pub struct ListenerManagerStats {
        counter listener_added;
        counter listener_create_failure;
        counter listener_create_success;
        counter listener_in_place_updated;
        counter listener_modified;
        counter listener_removed;
        counter listener_stopped;
        gauge total_filter_chains_draining;
        gauge total_listeners_active;
        gauge total_listeners_draining;
        gauge total_listeners_warming;
        gauge workers_pinned;
        gauge workers_started;
    }
}
