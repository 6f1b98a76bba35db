//! What an HTTP/2 codec counts, downstream below `http2.`, upstream below `cluster.<name>.http2.`

crate::stats_group! {
    /// `http2.`
    pub struct Http2CodecStats {
        counter dropped_headers_with_underscores;
        counter goaway_sent;
        counter goaway_graceful_sent;
        counter header_list_size_too_large;
        counter header_overflow;
        counter headers_cb_no_stream;
        counter inbound_empty_frames_flood;
        counter inbound_priority_frames_flood;
        counter inbound_window_update_frames_flood;
        counter keepalive_timeout;
        counter metadata_empty_frames;
        counter outbound_control_flood;
        counter outbound_flood;
        counter requests_rejected_with_underscores_in_headers;
        counter rx_messaging_error;
        counter rx_reset;
        counter stream_refused_errors;
        counter trailers;
        counter tx_flush_timeout;
        counter tx_reset;
        gauge streams_active;
        gauge pending_send_bytes;
        gauge deferred_stream_close;
        gauge outbound_frames_active;
        gauge outbound_control_frames_active;
    }
}
