//! What we send: heads at once, data as the windows and the socket take it.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::connection::{Connection, Goaway};
use super::connection_config::Role;
use super::frame::{self, ErrorCode, FrameHead};
use super::head::{encode_request, encode_response, encode_trailers};
use super::stream::{Receive, Send, Stream};
use crate::http::{EndStream, Fields, Method, RequestHead, ResponseHead};
use crate::net::Io;

/// Bytes above which data waits on its stream until the socket has taken some.
const OUTPUT_LIMIT: usize = 128 * 1024;

impl Connection {
    /// Writes what begins a connection.
    pub(super) fn send_preface(&mut self) {
        let is_client = self.config.role == Role::Client;
        if is_client {
            self.out.raw(frame::PREFACE);
        }
        let config = self.config.clone();
        let options = &config.options;
        let mut settings = Vec::new();
        let mut put = |identifier: u16, value: u32| {
            settings.extend_from_slice(&identifier.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        };
        if is_client {
            put(frame::SETTINGS_ENABLE_PUSH, 0);
        }
        for (identifier, value) in &options.custom_settings_parameters {
            put(*identifier, *value);
        }
        put(frame::SETTINGS_HEADER_TABLE_SIZE, options.hpack_table_size);
        put(
            frame::SETTINGS_ENABLE_CONNECT_PROTOCOL,
            u32::from(options.allow_connect),
        );
        put(
            frame::SETTINGS_MAX_CONCURRENT_STREAMS,
            options.max_concurrent_streams,
        );
        put(
            frame::SETTINGS_INITIAL_WINDOW_SIZE,
            options.initial_stream_window_size,
        );
        self.out.frame(frame::SETTINGS, 0, 0, &settings);
        let more = options
            .initial_connection_window_size
            .saturating_sub(65_535);
        if more > 0 {
            self.out
                .frame(frame::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
        self.note_frame(false);
    }

    /// Opens a stream with a request. None: no more streams can be.
    pub fn send_request(&mut self, head: &RequestHead, end: EndStream) -> Option<u32> {
        if !self.takes_streams() {
            return None;
        }
        let id = self.next_local;
        self.next_local += 2;
        self.borrow_room();
        self.open += 1;
        self.counters.opened_streams += 1;
        let window = self.config.options.initial_stream_window_size;
        let mut stream = Stream::new(Receive::Head, self.peer.initial_window, window);
        stream.is_head_request = head.method() == Method::Head;
        self.streams.insert(id, stream);
        self.write_headers(id, end.is_end(), |encoder, out| {
            encode_request(head, encoder, out);
        });
        self.after_head(id, end);
        Some(id)
    }

    /// Sends a response head that is not final.
    pub fn send_informational(&mut self, id: u32, head: &ResponseHead) {
        if self.has_sent_head(id) {
            return;
        }
        self.write_headers(id, false, |encoder, out| {
            encode_response(head, encoder, out);
        });
    }

    /// Sends the final response head.
    pub fn send_response(&mut self, id: u32, head: &ResponseHead, end: EndStream) {
        if self.has_sent_head(id) {
            return;
        }
        self.write_headers(id, end.is_end(), |encoder, out| {
            encode_response(head, encoder, out);
        });
        self.after_head(id, end);
    }

    fn after_head(&mut self, id: u32, end: EndStream) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send = if end.is_end() {
                Send::Closed
            } else {
                Send::Body
            };
        }
        self.settle(id);
    }

    /// Sends a piece of a body, or queues it.
    pub fn send_data(&mut self, id: u32, data: Bytes, end: EndStream) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !matches!(stream.send, Send::Body) {
            return;
        }
        if !data.is_empty() {
            stream.outgoing_bytes += data.len();
            self.outgoing_bytes += data.len();
            stream.outgoing.push_back(data);
        }
        if end.is_end() {
            stream.send = Send::LastData;
        }
        self.make_sendable(id);
    }

    /// Sends trailers behind what is queued, and ends the stream.
    pub fn send_trailers(&mut self, id: u32, trailers: &Fields) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !matches!(stream.send, Send::Body) {
            return;
        }
        if stream.outgoing_bytes > 0 {
            stream.send = if trailers.is_empty() {
                Send::LastData
            } else {
                Send::LastTrailers(Box::new(trailers.clone()))
            };
            return;
        }
        if trailers.is_empty() {
            stream.send = Send::LastData;
            return self.make_sendable(id);
        }
        self.write_trailers(id, trailers);
    }

    fn write_trailers(&mut self, id: u32, trailers: &Fields) {
        self.write_headers(id, true, |encoder, out| {
            encode_trailers(trailers, encoder, out);
        });
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send = Send::Closed;
        }
        self.let_go(id);
    }

    fn make_sendable(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.can_send()
            && !stream.is_queued
        {
            stream.is_queued = true;
            self.sendable.push_back(id);
            self.send_more();
        }
    }

    /// Breaks a stream off.
    pub fn reset(&mut self, id: u32, code: ErrorCode) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.is_closed() {
            return;
        }
        stream.receive = Receive::Closed;
        self.outgoing_bytes -= stream.drop_outgoing();
        self.write_reset(id, code);
        self.settle(id);
    }

    pub(super) fn write_reset(&mut self, id: u32, code: ErrorCode) {
        if !self.is_alive() {
            return;
        }
        self.remember_reset(id);
        self.count(|stats| stats.tx_reset().inc());
        self.write_control(frame::RST_STREAM, 0, id, &code.0.to_be_bytes());
    }

    /// Sends a ping.
    pub fn send_ping(&mut self, payload: u64) {
        // Nothing comes before the preface, not even to a client that keeps us waiting for its own.
        if self.is_alive() && self.has_begun() {
            self.out.frame(frame::PING, 0, 0, &payload.to_be_bytes());
            self.note_frame(false);
        }
    }

    /// Tells the peer that the end is near; its streams are still taken.
    pub fn announce_goaway(&mut self) {
        if self.is_alive() && self.goaway == Goaway::None {
            self.goaway = Goaway::Announced;
            self.count(|stats| stats.goaway_graceful_sent().inc());
            self.write_goaway(i32::MAX.unsigned_abs(), ErrorCode::NO_ERROR);
        }
    }

    /// Takes no streams beyond those that are there.
    pub fn send_goaway(&mut self) {
        if self.is_alive() && !self.is_going_away() {
            let last = if self.config.role == Role::Server {
                self.highest_remote
            } else {
                0
            };
            self.goaway = Goaway::Sent(last);
            self.count(|stats| stats.goaway_sent().inc());
            self.write_goaway(last, ErrorCode::NO_ERROR);
        }
    }

    /// Tells the peer that the connection ends, and ends it: what comes from here on is not looked at.
    pub(super) fn go_away_and_end(&mut self) {
        if !self.is_alive() {
            return;
        }
        if !self.has_begun() {
            self.preface_left = 0;
            self.send_preface();
        }
        let last = match self.goaway {
            Goaway::Sent(last) => last,
            Goaway::None => {
                self.write_goaway(i32::MAX.unsigned_abs(), ErrorCode::NO_ERROR);
                self.highest_remote
            }
            Goaway::Announced => self.highest_remote,
        };
        self.goaway = Goaway::Sent(last);
        self.count(|stats| stats.goaway_sent().inc());
        self.write_goaway(last, ErrorCode::NO_ERROR);
        self.forced();
    }

    /// Whether the preface was sent. A server sends it when it has got the client's.
    fn has_begun(&self) -> bool {
        self.preface_left == 0
    }

    /// Says what should have been said before the preface was sent.
    pub(super) fn catch_up(&mut self) {
        match self.goaway {
            Goaway::None => {}
            Goaway::Announced => self.write_goaway(i32::MAX.unsigned_abs(), ErrorCode::NO_ERROR),
            Goaway::Sent(last) => self.write_goaway(last, ErrorCode::NO_ERROR),
        }
    }

    pub(super) fn write_goaway(&mut self, last: u32, code: ErrorCode) {
        if !self.has_begun() {
            return;
        }
        let payload = (u64::from(last) << 32 | u64::from(code.0)).to_be_bytes();
        self.out.frame(frame::GOAWAY, 0, 0, &payload);
        self.note_frame(false);
    }

    /// Writes an answer to the peer, which it may ask for as often as it likes, but not without reading it.
    pub(super) fn write_control(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.out.frame(kind, flags, stream, payload);
        self.note_frame(true);
    }

    pub(super) fn note_frame(&mut self, is_control: bool) {
        self.counters.queued(self.out.total(), is_control);
    }

    fn write_headers(
        &mut self,
        id: u32,
        end_stream: bool,
        write: impl FnOnce(&mut super::hpack::Encoder, &mut Vec<u8>),
    ) {
        if !self.is_alive() {
            return;
        }
        let encoder = &mut self.encoder;
        let (bytes, frames) = self
            .out
            .headers(id, end_stream, self.peer.max_frame_size, |out| {
                write(encoder, out);
            });
        for _ in 0..frames {
            self.note_frame(false);
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.meter.header_sent += bytes as u64;
            stream.meter.wire_sent += bytes as u64;
        }
    }

    /// Gives back to the peer what a stream has taken.
    pub(super) fn consume(&mut self, id: u32, count: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.receive == Receive::Body
            && let Some(increment) = stream.receive_window.consume(count)
        {
            self.write_window_update(id, increment);
        }
        self.consume_connection(count);
    }

    pub(super) fn consume_connection(&mut self, count: u32) {
        if let Some(increment) = self.receive_window.consume(count) {
            self.write_window_update(0, increment);
        }
    }

    fn write_window_update(&mut self, id: u32, increment: u32) {
        if self.is_alive() {
            self.out
                .frame(frame::WINDOW_UPDATE, 0, id, &increment.to_be_bytes());
            self.note_frame(false);
        }
    }

    /// Frames as much queued data as windows and output take, stream by stream in turn.
    pub fn send_more(&mut self) {
        let mut blocked = 0;
        while blocked < self.sendable.len()
            && self.out.len() < OUTPUT_LIMIT
            && let Some(id) = self.sendable.pop_front()
        {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            if stream.outgoing_bytes > 0 && self.send_window <= 0 {
                // Others may have nothing but an end to send, for which the window does not count.
                self.sendable.push_back(id);
                blocked += 1;
                continue;
            }
            blocked = 0;
            if self.send_frame(id) {
                self.sendable.push_back(id);
            } else {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.is_queued = false;
                }
                self.let_go(id);
            }
        }
    }

    /// Sends one frame of a stream. Says whether there is more that can be sent.
    fn send_frame(&mut self, id: u32) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else {
            return false;
        };
        if !stream.can_send() {
            return false;
        }
        if stream.outgoing_bytes == 0
            && matches!(stream.send, Send::LastTrailers(_))
            && let Send::LastTrailers(trailers) = std::mem::replace(&mut stream.send, Send::Closed)
        {
            stream.wake();
            self.write_trailers(id, &trailers);
            return false;
        }
        let window = stream.send_window.min(self.send_window).max(0);
        let window = usize::try_from(window).unwrap_or(usize::MAX);
        let length = stream
            .outgoing_bytes
            .min(window)
            .min(self.peer.max_frame_size);
        let last = length == stream.outgoing_bytes && matches!(stream.send, Send::LastData);
        let head = FrameHead {
            length,
            kind: frame::DATA,
            flags: if last { frame::END_STREAM } else { 0 },
            stream: id,
        };
        self.out.raw(&head.bytes());
        let mut left = length;
        while left > 0
            && let Some(front) = stream.outgoing.front_mut()
        {
            if front.len() <= left {
                left -= front.len();
                if let Some(piece) = stream.outgoing.pop_front() {
                    self.out.data(piece);
                }
            } else {
                self.out.data(front.split_to(left));
                left = 0;
            }
        }
        stream.outgoing_bytes -= length;
        self.outgoing_bytes -= length;
        let sent = i64::try_from(length).unwrap_or(i64::MAX);
        stream.send_window -= sent;
        self.send_window -= sent;
        stream.meter.wire_sent += (length + frame::HEAD) as u64;
        if last {
            stream.send = Send::Closed;
        }
        if stream.awaits_room && (last || stream.outgoing_bytes <= self.config.buffer_limit) {
            stream.awaits_room = false;
            stream.wake();
        }
        let more = stream.can_send();
        self.counters.data_frames_sent += 1;
        self.note_frame(false);
        more
    }

    /// Whether something waits to be written.
    pub fn has_output(&self) -> bool {
        self.out.len() > 0
    }

    /// Writes until nothing waits or the socket takes no more.
    pub fn poll_write(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.send_more();
            if self.out.len() == 0 {
                self.out.give_back();
                self.say_gauges();
                return Poll::Ready(Ok(()));
            }
            let written = self.out.poll_write(io, cx);
            self.counters.written(self.out.written());
            if !matches!(written, Poll::Ready(Ok(()))) {
                self.say_gauges();
                return written;
            }
        }
    }

    /// Takes all bytes that wait to be written, for those who have no socket.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.send_more();
        let bytes = self.out.take();
        self.counters.written(self.out.written());
        self.say_gauges();
        bytes
    }
}
