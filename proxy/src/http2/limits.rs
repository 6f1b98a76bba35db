//! What a peer may send for nothing: Envoy's limits against floods.

use std::collections::VecDeque;

use super::frame;
use super::stats::Http2CodecStats;

/// The limits of `Http2ProtocolOptions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloodLimits {
    /// Frames that may wait to be written. Default 10,000, at least 1.
    pub max_outbound_frames: u32,
    /// PING and SETTINGS acknowledgements and RST_STREAM that may wait to be written. Default 1,000, at least 1.
    pub max_outbound_control_frames: u32,
    /// HEADERS, CONTINUATION and DATA in a row without payload that do not end a stream. Default 1.
    pub max_consecutive_inbound_frames_with_empty_payload: u32,
    /// PRIORITY frames for each stream that was opened, and one more. Default 100.
    pub max_inbound_priority_frames_per_stream: u32,
    /// WINDOW_UPDATE frames for each DATA frame that was sent. Default 10, at least 1.
    pub max_inbound_window_update_frames_per_data_frame_sent: u32,
}

/// A limit that was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flood {
    EmptyFrames,
    Priority,
    WindowUpdate,
    Outbound,
    OutboundControl,
}

/// What a connection has seen and sent so far.
#[derive(Debug, Default)]
pub(super) struct FloodCounters {
    empty_in_a_row: u32,
    priority: u64,
    window_updates: u64,
    pub(super) opened_streams: u64,
    pub(super) data_frames_sent: u64,
    /// Frames that wait to be written: behind which byte each ends, and whether it answers the peer.
    unsent: VecDeque<(u64, bool)>,
    unsent_control: u32,
}

impl Default for FloodLimits {
    fn default() -> Self {
        Self {
            max_outbound_frames: 10_000,
            max_outbound_control_frames: 1_000,
            max_consecutive_inbound_frames_with_empty_payload: 1,
            max_inbound_priority_frames_per_stream: 100,
            max_inbound_window_update_frames_per_data_frame_sent: 10,
        }
    }
}

impl Flood {
    /// What the streams of the connection have in their access log.
    pub(super) fn details(self) -> &'static str {
        match self {
            Self::EmptyFrames => "http2.inbound_empty_frames_flood",
            Self::Priority => "codec_error:Too_many_PRIORITY_frames",
            Self::WindowUpdate => "codec_error:Too_many_WINDOW_UPDATE_frames",
            Self::Outbound => "codec_error:Too_many_frames_in_the_outbound_queue.",
            Self::OutboundControl => "codec_error:Too_many_control_frames_in_the_outbound_queue.",
        }
    }

    pub(super) fn count(self, stats: &Http2CodecStats) {
        match self {
            Self::EmptyFrames => stats.inbound_empty_frames_flood(),
            Self::Priority => stats.inbound_priority_frames_flood(),
            Self::WindowUpdate => stats.inbound_window_update_frames_flood(),
            Self::Outbound => stats.outbound_flood(),
            Self::OutboundControl => stats.outbound_control_flood(),
        }
        .inc();
    }
}

impl FloodCounters {
    /// Notes a frame that came in, with its payload without padding.
    pub(super) fn received(
        &mut self,
        kind: u8,
        is_empty: bool,
        ends_stream: bool,
        limits: &FloodLimits,
    ) -> Result<(), Flood> {
        match kind {
            frame::HEADERS | frame::CONTINUATION | frame::DATA => {
                if !is_empty || ends_stream {
                    self.empty_in_a_row = 0;
                    return Ok(());
                }
                self.empty_in_a_row += 1;
                let max = limits.max_consecutive_inbound_frames_with_empty_payload;
                if self.empty_in_a_row > max {
                    return Err(Flood::EmptyFrames);
                }
            }
            frame::PRIORITY => {
                self.priority += 1;
                let max = u64::from(limits.max_inbound_priority_frames_per_stream);
                if self.priority > max * (1 + self.opened_streams) {
                    return Err(Flood::Priority);
                }
            }
            frame::WINDOW_UPDATE => {
                self.window_updates += 1;
                let max = u64::from(limits.max_inbound_window_update_frames_per_data_frame_sent);
                if self.window_updates > 5 + 2 * (self.opened_streams + max * self.data_frames_sent)
                {
                    return Err(Flood::WindowUpdate);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Notes a frame that waits to be written; `end` counts all bytes of the connection up to its last one.
    pub(super) fn queued(&mut self, end: u64, is_control: bool) {
        self.unsent.push_back((end, is_control));
        self.unsent_control += u32::from(is_control);
    }

    /// Forgets the frames up to this byte.
    pub(super) fn written(&mut self, until: u64) {
        while let Some((end, is_control)) = self.unsent.front().copied()
            && end <= until
        {
            self.unsent.pop_front();
            self.unsent_control -= u32::from(is_control);
        }
        if self.unsent.is_empty() && self.unsent.capacity() > 64 {
            self.unsent = VecDeque::new();
        }
    }

    /// Whether too much waits to be written.
    pub(super) fn check_unsent(&self, limits: &FloodLimits) -> Result<(), Flood> {
        if self.unsent.len() > usize::try_from(limits.max_outbound_frames).unwrap_or(usize::MAX) {
            return Err(Flood::Outbound);
        }
        if self.unsent_control > limits.max_outbound_control_frames {
            return Err(Flood::OutboundControl);
        }
        Ok(())
    }

    /// Frames that wait to be written, and those among them that answer the peer.
    pub(super) fn unsent(&self) -> (usize, u32) {
        (self.unsent.len(), self.unsent_control)
    }

    /// Gives back what an idle connection does not need.
    pub(super) fn give_back(&mut self) -> VecDeque<(u64, bool)> {
        if self.unsent.is_empty() {
            std::mem::take(&mut self.unsent)
        } else {
            VecDeque::new()
        }
    }

    /// Takes what another connection has given back.
    pub(super) fn lend(&mut self, unsent: VecDeque<(u64, bool)>) {
        if self.unsent.capacity() == 0 {
            self.unsent = unsent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_frames_in_a_row_are_a_flood_and_others_start_the_count_anew() {
        let limits = FloodLimits::default();
        let mut counters = FloodCounters::default();
        assert_eq!(counters.received(frame::DATA, true, false, &limits), Ok(()));
        assert_eq!(counters.received(frame::DATA, true, true, &limits), Ok(()));
        assert_eq!(counters.received(frame::DATA, true, false, &limits), Ok(()));
        let flood = counters.received(frame::CONTINUATION, true, false, &limits);
        assert_eq!(flood, Err(Flood::EmptyFrames));
    }

    #[test]
    fn priority_and_window_updates_are_measured_by_streams_and_data() {
        let limits = FloodLimits::default();
        let mut counters = FloodCounters {
            opened_streams: 1,
            data_frames_sent: 1,
            ..FloodCounters::default()
        };
        for kind in [frame::PRIORITY, frame::WINDOW_UPDATE] {
            let taken = (1..).find(|_| counters.received(kind, false, false, &limits).is_err());
            assert_eq!(taken, Some(if kind == frame::PRIORITY { 201 } else { 28 }));
        }
    }

    #[test]
    fn unsent_frames_count_until_they_are_written() {
        let limits = FloodLimits {
            max_outbound_frames: 3,
            max_outbound_control_frames: 1,
            ..FloodLimits::default()
        };
        let mut counters = FloodCounters::default();
        counters.queued(9, true);
        counters.queued(18, false);
        assert_eq!(counters.check_unsent(&limits), Ok(()));
        counters.queued(27, true);
        assert_eq!(counters.check_unsent(&limits), Err(Flood::OutboundControl));
        counters.written(17);
        assert_eq!(counters.check_unsent(&limits), Ok(()));
        counters.queued(30, false);
        counters.queued(31, false);
        assert_eq!(counters.check_unsent(&limits), Err(Flood::Outbound));
        counters.written(31);
        assert_eq!(counters.check_unsent(&limits), Ok(()));
    }
}
