//! Moments in the life of a stream: the clocks of `%START_TIME%`, the points of `%COMMON_DURATION(…)%`.

use std::time::SystemTime;

use tokio::time::Instant;

use super::{FormatData, upstream_of};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::formatter) enum Clock {
    Start,
    Emit,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::formatter) enum Point {
    Start,
    LastDownstreamRx,
    ConnectStart,
    ConnectEnd,
    FirstUpstreamTx,
    LastUpstreamTx,
    FirstUpstreamRx,
    FirstUpstreamRxBody,
    LastUpstreamRx,
    FirstDownstreamTx,
    LastDownstreamTx,
    HandshakeComplete,
    /// A name that only a filter could have given to a moment.
    Never,
}

impl Clock {
    pub(super) fn now(self, data: &FormatData<'_>) -> SystemTime {
        match self {
            Self::Start => data.info.start_time,
            Self::Emit => SystemTime::now(),
        }
    }
}

impl Point {
    pub(super) fn instant(self, data: &FormatData<'_>) -> Option<Instant> {
        let timing = &data.info.timing;
        match self {
            Self::Start => Some(data.info.start),
            Self::LastDownstreamRx => timing.last_downstream_rx_byte,
            Self::ConnectStart => upstream_of(data)?.connect_start,
            Self::ConnectEnd => upstream_of(data)?.connect_end,
            Self::FirstUpstreamTx => timing.first_upstream_tx_byte,
            Self::LastUpstreamTx => timing.last_upstream_tx_byte,
            Self::FirstUpstreamRx => timing.first_upstream_rx_byte,
            Self::FirstUpstreamRxBody => timing.first_upstream_rx_body,
            Self::LastUpstreamRx => timing.last_upstream_rx_byte,
            Self::FirstDownstreamTx => timing.first_downstream_tx_byte,
            Self::LastDownstreamTx => timing.last_downstream_tx_byte,
            Self::HandshakeComplete => timing
                .downstream_handshake_complete
                .or_else(|| data.info.connection.handshake_complete.get()),
            Self::Never => None,
        }
    }
}
