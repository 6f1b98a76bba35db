//! What an HTTP/2 codec counts, downstream below `http2.`, upstream below `cluster.<name>.http2.`

use std::rc::Rc;

/// What the gauges say of one connection. It is taken back with the connection.
pub(super) struct Gauges {
    stats: Option<Rc<Http2CodecStats>>,
    said: Waiting,
}

/// What waits on a connection to be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) frames: u64,
    pub(super) control_frames: u64,
    /// Of bodies, and in no frame yet.
    pub(super) bytes: u64,
}

impl Gauges {
    pub(super) fn new(stats: Option<Rc<Http2CodecStats>>) -> Self {
        Self {
            stats,
            said: Waiting::default(),
        }
    }

    /// Says what waits now. Most often nothing waits, as before.
    #[inline]
    pub(super) fn say(&mut self, waiting: Waiting) {
        if self.said != waiting {
            self.change(waiting);
        }
    }

    fn change(&mut self, waiting: Waiting) {
        let before = std::mem::replace(&mut self.said, waiting);
        if let Some(stats) = &self.stats {
            // The difference is added modulo 2^64: it may be negative.
            let change = |now: u64, before: u64| now.wrapping_sub(before);
            stats
                .outbound_frames_active()
                .add(change(waiting.frames, before.frames));
            stats
                .outbound_control_frames_active()
                .add(change(waiting.control_frames, before.control_frames));
            stats
                .pending_send_bytes()
                .add(change(waiting.bytes, before.bytes));
        }
    }
}

impl Drop for Gauges {
    fn drop(&mut self) {
        self.say(Waiting::default());
    }
}

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
