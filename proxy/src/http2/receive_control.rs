//! Frames of the peer about the connection and its streams, and not of their messages.

use super::connection::{Connection, Failure};
use super::connection_config::Role;
use super::flow::LARGEST;
use super::frame::{self, ErrorCode, FrameHead};
use super::receive::UNKNOWN_ERROR;
use super::stream::{Broken, Receive, Received, Send};

impl Connection {
    pub(super) fn priority(&mut self, head: &FrameHead, payload: &[u8]) -> Result<(), Failure> {
        self.track(head, false)?;
        if payload.len() != 5 {
            return Err(Failure::told(ErrorCode::FRAME_SIZE_ERROR));
        }
        if head.stream == 0 || frame::number(payload) & 0x7fff_ffff == head.stream {
            return Err(Failure::silent());
        }
        Ok(())
    }

    pub(super) fn rst_stream(&mut self, head: &FrameHead, payload: &[u8]) -> Result<(), Failure> {
        if payload.len() != 4 {
            return Err(Failure::told(ErrorCode::FRAME_SIZE_ERROR));
        }
        if head.stream == 0 || self.is_idle(head.stream) {
            return Err(Failure::silent());
        }
        let options = &self.config.options;
        let (burst, rate) = (options.stream_reset_burst, options.stream_reset_rate);
        if self.config.role == Role::Server && !self.resets.take(self.now, burst, rate) {
            return Err(Failure::told(ErrorCode::INTERNAL_ERROR));
        }
        let code = ErrorCode(frame::number(payload));
        let id = head.stream;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        if stream.is_closed() {
            return Ok(());
        }
        stream.meter.wire_received += 4 + frame::HEAD as u64;
        let broken = if code == ErrorCode::REFUSED_STREAM {
            Broken::Refused
        } else {
            Broken::Remote(code)
        };
        stream.receive = Receive::Closed;
        self.outgoing_bytes -= stream.drop_outgoing();
        stream.deliver(Received::Broken(broken));
        self.count(|stats| stats.rx_reset().inc());
        self.settle(id);
        Ok(())
    }

    pub(super) fn settings(&mut self, head: &FrameHead, payload: &[u8]) -> Result<(), Failure> {
        let is_ack = head.has(frame::ACK);
        if !payload.len().is_multiple_of(6) || is_ack && !payload.is_empty() {
            return Err(Failure::told(ErrorCode::FRAME_SIZE_ERROR));
        }
        if head.stream != 0 {
            return Err(Failure::silent());
        }
        self.settings_seen = true;
        if is_ack {
            if !std::mem::replace(&mut self.settings_acked, true) {
                let limit = self.config.options.hpack_table_size;
                self.decoder
                    .set_limit(usize::try_from(limit).unwrap_or(usize::MAX));
            }
            return Ok(());
        }
        for setting in payload.chunks_exact(6) {
            let &[a, b, ref value @ ..] = setting else {
                continue;
            };
            self.setting(u16::from_be_bytes([a, b]), frame::number(value))?;
        }
        self.write_control(frame::SETTINGS, frame::ACK, 0, &[]);
        Ok(())
    }

    fn setting(&mut self, identifier: u16, value: u32) -> Result<(), Failure> {
        match identifier {
            frame::SETTINGS_HEADER_TABLE_SIZE => {
                let limit = usize::try_from(value).unwrap_or(usize::MAX);
                self.encoder.set_limit(limit);
            }
            frame::SETTINGS_ENABLE_PUSH if value > 1 => return Err(Failure::silent()),
            frame::SETTINGS_ENABLE_PUSH if value == 1 && self.config.role == Role::Client => {
                return Err(Failure::silent());
            }
            frame::SETTINGS_MAX_CONCURRENT_STREAMS => {
                self.peer.max_concurrent_streams = Some(value);
            }
            frame::SETTINGS_INITIAL_WINDOW_SIZE => {
                let window = i64::from(value);
                if window > LARGEST {
                    return Err(Failure {
                        code: ErrorCode::FLOW_CONTROL_ERROR,
                        ..Failure::silent()
                    });
                }
                let change = window - std::mem::replace(&mut self.peer.initial_window, window);
                self.move_windows(change)?;
            }
            frame::SETTINGS_MAX_FRAME_SIZE => {
                if !(16_384..1 << 24).contains(&value) {
                    return Err(Failure::silent());
                }
                self.peer.max_frame_size = usize::try_from(value).unwrap_or(frame::MAX_PAYLOAD);
            }
            frame::SETTINGS_ENABLE_CONNECT_PROTOCOL if value > 1 => {
                return Err(Failure::silent());
            }
            _ => {}
        }
        Ok(())
    }

    /// Changes what may be sent on every stream.
    fn move_windows(&mut self, change: i64) -> Result<(), Failure> {
        for (id, stream) in &mut self.streams {
            if matches!(stream.send, Send::Closed) {
                continue;
            }
            stream.send_window += change;
            if stream.send_window > LARGEST {
                return Err(Failure::told(ErrorCode::FLOW_CONTROL_ERROR));
            }
            if stream.can_send() && !stream.is_queued {
                stream.is_queued = true;
                self.sendable.push_back(*id);
            }
        }
        Ok(())
    }

    pub(super) fn ping(&mut self, head: &FrameHead, payload: &[u8]) -> Result<(), Failure> {
        if payload.len() != 8 {
            return Err(Failure::told(ErrorCode::FRAME_SIZE_ERROR));
        }
        if head.stream != 0 {
            return Err(Failure::silent());
        }
        if head.has(frame::ACK) {
            self.pong = true;
            return Ok(());
        }
        self.write_control(frame::PING, frame::ACK, 0, payload);
        Ok(())
    }

    pub(super) fn goaway_received(
        &mut self,
        head: &FrameHead,
        payload: &[u8],
    ) -> Result<(), Failure> {
        if payload.len() < 8 {
            return Err(Failure::told(ErrorCode::FRAME_SIZE_ERROR));
        }
        if head.stream != 0 {
            return Err(Failure::silent());
        }
        let last = frame::number(payload) & 0x7fff_ffff;
        if self.config.role == Role::Server {
            self.peer_goaway = Some(last);
            return Ok(());
        }
        // A later one may only say less.
        if self.peer_goaway.is_some_and(|before| last > before) {
            return Err(Failure::silent());
        }
        self.peer_goaway = Some(last);
        let unseen = self.streams.keys().copied().filter(|id| *id > last);
        for id in unseen.collect::<Vec<_>>() {
            if let Some(stream) = self.streams.get_mut(&id)
                && !stream.is_closed()
            {
                stream.receive = Receive::Closed;
                self.outgoing_bytes -= stream.drop_outgoing();
                stream.deliver(Received::Broken(Broken::Refused));
            }
            self.settle(id);
        }
        Ok(())
    }

    pub(super) fn window_update(
        &mut self,
        head: &FrameHead,
        payload: &[u8],
    ) -> Result<(), Failure> {
        self.track(head, false)?;
        if payload.len() != 4 {
            return Err(Failure::told(ErrorCode::FRAME_SIZE_ERROR));
        }
        let increment = i64::from(frame::number(payload) & 0x7fff_ffff);
        let id = head.stream;
        if id == 0 {
            if increment == 0 {
                return Err(Failure::silent());
            }
            // Envoy differs: it closes without a word.
            if self.send_window + increment > LARGEST {
                return Err(Failure::told(ErrorCode::FLOW_CONTROL_ERROR));
            }
            self.send_window += increment;
            return Ok(());
        }
        if self.is_idle(id) {
            return Err(Failure::silent());
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        stream.meter.wire_received += 4 + frame::HEAD as u64;
        if increment == 0 {
            self.deliver_unknown(id);
            return Err(Failure::silent());
        }
        // Envoy differs: it closes the connection.
        if stream.send_window + increment > LARGEST {
            self.malformed(id, ErrorCode::FLOW_CONTROL_ERROR, UNKNOWN_ERROR);
            return Ok(());
        }
        stream.send_window += increment;
        if stream.can_send() && !stream.is_queued {
            stream.is_queued = true;
            self.sendable.push_back(id);
        }
        Ok(())
    }
}
