//! What the peer sends: frames, one after another.

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::Instant;

use super::connection::{Connection, Failure};
use super::connection_config::Role;
use super::frame::{self, ErrorCode, FrameHead};
use super::stream::{Broken, Receive, Received};
use crate::http::EndStream;

/// Data up to this size is copied, so that the buffer that it was read into can be used again.
const COPIED: usize = 2 * 1024;
/// What is said of a stream whose frame broke the connection, other than HEADERS.
pub(super) const UNKNOWN_ERROR: &str = "http2.unknown.nghttp2.error";

impl Connection {
    /// Takes what was read, and leaves what is no whole frame yet. Once the connection has failed, everything is dropped.
    pub fn receive(&mut self, input: &mut BytesMut, now: Instant) {
        self.receive_until(input, now, usize::MAX);
    }

    /// The same, up to so many streams that nobody has accepted: those have to begin before more are looked at, so that a client
    /// which opens and resets streams in one breath has no more of them than one that waits. True: there may be more to take.
    pub(super) fn receive_until(
        &mut self,
        input: &mut BytesMut,
        now: Instant,
        unaccepted: usize,
    ) -> bool {
        self.now = now;
        while self.is_alive() {
            if self.accepted.len() >= unaccepted && self.stream_opens_next(input) {
                self.check_unsent();
                return true;
            }
            match self.step(input) {
                Ok(true) => {}
                Ok(false) => {
                    self.check_unsent();
                    return false;
                }
                Err(failure) => self.fail(failure),
            }
        }
        input.clear();
        false
    }

    /// Whether the next frame opens a stream.
    fn stream_opens_next(&self, input: &[u8]) -> bool {
        FrameHead::read(input)
            .is_some_and(|head| head.kind == frame::HEADERS && self.opens_stream(head.stream))
    }

    /// Takes one frame, or a piece of one. False: more has to come first.
    fn step(&mut self, input: &mut BytesMut) -> Result<bool, Failure> {
        if self.preface_left > 0 {
            return self.preface(input);
        }
        let Some(head) = FrameHead::read(input) else {
            return Ok(false);
        };
        if let Err(failure) = self.check_head(&head) {
            // A stream is there from the first of its frames on.
            if let Some(partial) = self.block.take()
                && self.opens_stream(partial.id)
            {
                self.open_refused(partial.id, failure.details);
            }
            return Err(failure);
        }
        if head.kind == frame::DATA {
            return self.take_data(&head, input);
        }
        let Some(payload) = input.get(frame::HEAD..frame::HEAD + head.length) else {
            return Ok(false);
        };
        self.frame(&head, payload)?;
        input.advance(frame::HEAD + head.length);
        Ok(true)
    }

    fn preface(&mut self, input: &mut BytesMut) -> Result<bool, Failure> {
        let wanted = &frame::PREFACE[frame::PREFACE.len() - self.preface_left..];
        let count = wanted.len().min(input.len());
        if input.get(..count) != wanted.get(..count) {
            return Err(Failure {
                details: "codec_error:Received_bad_client_magic_byte_string",
                ..Failure::silent()
            });
        }
        input.advance(count);
        self.preface_left -= count;
        if self.preface_left > 0 {
            return Ok(false);
        }
        self.send_preface();
        self.catch_up();
        Ok(true)
    }

    /// What must hold of a frame before it is read. It may be called again for the same frame, so it counts nothing.
    fn check_head(&self, head: &FrameHead) -> Result<(), Failure> {
        if head.length > frame::MAX_PAYLOAD {
            return Err(Failure::told(ErrorCode::FRAME_SIZE_ERROR));
        }
        if !self.settings_seen && (head.kind != frame::SETTINGS || head.has(frame::ACK)) {
            return Err(Failure::told(ErrorCode::PROTOCOL_ERROR));
        }
        let continues = self.block.as_ref().map(|block| block.id);
        let fits = match continues {
            Some(id) => head.kind == frame::CONTINUATION && head.stream == id,
            None => head.kind != frame::CONTINUATION,
        };
        if fits {
            Ok(())
        } else {
            Err(Failure::told(ErrorCode::PROTOCOL_ERROR))
        }
    }

    fn frame(&mut self, head: &FrameHead, payload: &[u8]) -> Result<(), Failure> {
        if head.kind != frame::PING || !head.has(frame::ACK) {
            self.heard = true;
        }
        match head.kind {
            frame::HEADERS => self.headers(head, payload),
            frame::CONTINUATION => self.continuation(head, payload),
            frame::PRIORITY => self.priority(head, payload),
            frame::RST_STREAM => self.rst_stream(head, payload),
            frame::SETTINGS => self.settings(head, payload),
            frame::PUSH_PROMISE => {
                self.deliver_unknown(head.stream);
                Err(Failure::silent())
            }
            frame::PING => self.ping(head, payload),
            frame::GOAWAY => self.goaway_received(head, payload),
            frame::WINDOW_UPDATE => self.window_update(head, payload),
            frame::METADATA => self.metadata(head, payload),
            // What nobody knows is skipped.
            _ => Ok(()),
        }
    }

    /// Counts a frame against the floods.
    pub(super) fn track(&mut self, head: &FrameHead, is_empty: bool) -> Result<(), Failure> {
        let ends = head.has(frame::END_STREAM) && head.kind != frame::CONTINUATION;
        let limits = &self.config.options.limits;
        let tracked = self.counters.received(head.kind, is_empty, ends, limits);
        tracked.map_err(|flood| {
            self.count(|stats| flood.count(stats));
            Failure::flood(flood)
        })
    }

    /// Whether a stream was never opened.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        let is_ours = (id % 2 == 1) == (self.config.role == Role::Client);
        if is_ours {
            id >= self.next_local
        } else {
            id > self.highest_remote
        }
    }

    /// Takes a whole DATA frame.
    fn take_data(&mut self, head: &FrameHead, input: &mut BytesMut) -> Result<bool, Failure> {
        if input.len() < frame::HEAD + head.length {
            return Ok(false);
        }
        if head.stream == 0 || self.is_idle(head.stream) {
            return Err(Failure::told(ErrorCode::PROTOCOL_ERROR));
        }
        let padded = usize::from(head.has(frame::PADDED));
        let padding = match input.get(frame::HEAD) {
            Some(padding) if padded == 1 && head.length > 0 => usize::from(*padding),
            _ => 0,
        };
        let Some(left) = head.length.checked_sub(padded + padding) else {
            return Err(Failure::told(ErrorCode::PROTOCOL_ERROR));
        };
        self.heard = true;
        let length = u32::try_from(head.length).unwrap_or(u32::MAX);
        if !self.receive_window.received(length) {
            return Err(Failure::told(ErrorCode::FLOW_CONTROL_ERROR));
        }
        self.track(head, left == 0)?;
        let id = head.stream;
        if !self.begin_data(head, left)? {
            input.advance(frame::HEAD + head.length);
            self.consume_connection(length);
            return Ok(true);
        }
        input.advance(frame::HEAD + padded);
        let piece = if left <= COPIED {
            let piece = Bytes::copy_from_slice(input.get(..left).unwrap_or_default());
            input.advance(left);
            piece
        } else {
            input.split_to(left).freeze()
        };
        input.advance(padding);
        self.consume(id, u32::try_from(padded + padding).unwrap_or(u32::MAX));
        let end = head.has(frame::END_STREAM);
        if let Some(stream) = self.streams.get_mut(&id)
            && (left > 0 || end)
        {
            if stream.released {
                // Nobody will take it, and the streams beside it need the window.
                self.consume_connection(u32::try_from(left).unwrap_or(u32::MAX));
                if end {
                    self.end_receiving(id);
                }
                return Ok(true);
            }
            stream.deliver(Received::Data(piece, EndStream::from(end)));
        }
        if end {
            self.end_receiving(id);
        }
        Ok(true)
    }

    /// Whether the payload of a DATA frame belongs to somebody.
    fn begin_data(&mut self, head: &FrameHead, left: usize) -> Result<bool, Failure> {
        let id = head.stream;
        let closed = Failure::told(ErrorCode::STREAM_CLOSED);
        let reset_by_us = self.was_reset_by_us(id);
        let Some(stream) = self.streams.get_mut(&id) else {
            return if reset_by_us { Ok(false) } else { Err(closed) };
        };
        let length = u32::try_from(head.length).unwrap_or(u32::MAX);
        stream.meter.wire_received += u64::from(length) + frame::HEAD as u64;
        match stream.receive {
            Receive::Closed if reset_by_us => return Ok(false),
            Receive::Closed => return Err(closed),
            Receive::Head => {
                // Only servers can do that, and Envoy closes on them without a word.
                self.deliver_unknown(id);
                return Err(Failure::silent());
            }
            Receive::Body => {}
        }
        if !stream.receive_window.received(length) {
            self.malformed(id, ErrorCode::FLOW_CONTROL_ERROR, UNKNOWN_ERROR);
            return Ok(false);
        }
        stream.body_received += left as u64;
        let wanted = stream.content_length;
        let body = stream.body_received;
        let is_wrong = wanted
            .is_some_and(|wanted| body > wanted || head.has(frame::END_STREAM) && body < wanted);
        if is_wrong {
            self.malformed(id, ErrorCode::PROTOCOL_ERROR, "http2.remote_reset");
            return Ok(false);
        }
        Ok(true)
    }

    /// Notes that the peer has sent all of a stream.
    pub(super) fn end_receiving(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.receive = Receive::Closed;
        }
        self.let_go(id);
    }

    pub(super) fn deliver(&mut self, id: u32, received: Received) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.deliver(received);
        }
    }

    /// Notes that a frame on this stream, other than HEADERS, breaks the connection.
    pub(super) fn deliver_unknown(&mut self, id: u32) {
        let broken = Broken::ConnectionError(UNKNOWN_ERROR);
        self.deliver(id, Received::Broken(broken));
        self.close_quietly(id);
    }

    /// Closes a stream for both sides without a frame.
    pub(super) fn close_quietly(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.receive = Receive::Closed;
            self.outgoing_bytes -= stream.drop_outgoing();
        }
        self.settle(id);
    }

    /// Resets a stream for what the peer has sent on it.
    pub(super) fn malformed(&mut self, id: u32, code: ErrorCode, details: &'static str) {
        self.deliver(id, Received::Broken(Broken::Malformed(details)));
        self.reset(id, code);
    }

    /// Ends the connection if the peer makes us answer more than it reads.
    fn check_unsent(&mut self) {
        let limits = &self.config.options.limits;
        if let Err(flood) = self.counters.check_unsent(limits) {
            self.flooded(flood);
        }
    }
}
