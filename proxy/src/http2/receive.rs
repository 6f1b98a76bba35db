//! What the peer sends: frames, one after another.

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::Instant;

use super::connection::{Accepted, CODEC_ERROR, Connection, Failure, Goaway, PartialBlock, Role};
use super::flow::LARGEST;
use super::frame::{self, ErrorCode, FrameHead};
use super::head::{Decoded, Flaw, RequestBuilder, ResponseBuilder, Skipped, TrailersBuilder};
use super::hpack::HpackError;
use super::stream::{Broken, Receive, Received, Send, Stream};
use crate::http::{EndStream, Method};

/// Bytes that a header block may have beyond twice the largest head.
const BLOCK_SLACK: usize = 64 * 1024;
/// Data up to this size is copied, so that the buffer that it was read into can be used again.
const COPIED: usize = 2 * 1024;
/// What is said of a stream whose frame broke the connection, other than HEADERS.
const UNKNOWN_ERROR: &str = "http2.unknown.nghttp2.error";

impl Connection {
    /// Takes what was read, and leaves what is no whole frame yet. Once the connection has failed, everything is dropped.
    pub fn receive(&mut self, input: &mut BytesMut, now: Instant) {
        self.now = now;
        while self.is_alive() {
            match self.step(input) {
                Ok(true) => {}
                Ok(false) => return self.check_unsent(),
                Err(failure) => self.fail(failure),
            }
        }
        input.clear();
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
            // What nobody knows is skipped.
            _ => Ok(()),
        }
    }

    /// Counts a frame against the floods.
    fn track(&mut self, head: &FrameHead, is_empty: bool) -> Result<(), Failure> {
        let ends = head.has(frame::END_STREAM) && head.kind != frame::CONTINUATION;
        let limits = &self.config.options.limits;
        let tracked = self.counters.received(head.kind, is_empty, ends, limits);
        tracked.map_err(|flood| {
            self.count(|stats| flood.count(stats));
            Failure::flood(flood)
        })
    }

    /// Whether a stream was never opened.
    fn is_idle(&self, id: u32) -> bool {
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
                self.malformed(id, ErrorCode::PROTOCOL_ERROR, Flaw::Message.details());
                return Ok(false);
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
    fn end_receiving(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.receive = Receive::Closed;
        }
        self.let_go(id);
    }

    fn headers(&mut self, head: &FrameHead, payload: &[u8]) -> Result<(), Failure> {
        if head.stream == 0 {
            return Err(Failure::silent());
        }
        let (mut block, padding) = unpadded(head, payload)?;
        let mut depends_on_itself = false;
        if head.has(frame::WITH_PRIORITY) {
            let Some((priority, rest)) = block.split_at_checked(5) else {
                return Err(Failure::told(ErrorCode::FRAME_SIZE_ERROR));
            };
            depends_on_itself = frame::number(priority) & 0x7fff_ffff == head.stream;
            block = rest;
        }
        let end_stream = head.has(frame::END_STREAM);
        if self.config.role == Role::Server && self.opens_stream(head.stream) {
            self.counters.opened_streams += 1;
        }
        if let Err(flood) = self.track(head, head.length == padding) {
            // The stream exists already when its head turns out to be one too many.
            if self.opens_stream(head.stream) {
                self.open_refused(head.stream, flood.details);
            }
            return Err(flood);
        }
        if head.has(frame::END_HEADERS) {
            return self.block(head.stream, end_stream, depends_on_itself, block);
        }
        self.block = Some(Box::new(PartialBlock {
            id: head.stream,
            end_stream,
            block: block.to_vec(),
            depends_on_itself,
        }));
        Ok(())
    }

    fn continuation(&mut self, head: &FrameHead, payload: &[u8]) -> Result<(), Failure> {
        let flooded = self.track(head, payload.is_empty());
        let Some(mut partial) = self.block.take() else {
            return Err(Failure::told(ErrorCode::PROTOCOL_ERROR));
        };
        let checked = flooded.and(self.check_block(partial.block.len() + payload.len()));
        if let Err(failure) = checked {
            if self.opens_stream(partial.id) {
                self.open_refused(partial.id, failure.details);
            }
            return Err(failure);
        }
        partial.block.extend_from_slice(payload);
        if !head.has(frame::END_HEADERS) {
            self.block = Some(partial);
            return Ok(());
        }
        let PartialBlock {
            id,
            end_stream,
            block,
            depends_on_itself,
            ..
        } = *partial;
        self.block(id, end_stream, depends_on_itself, &block)
    }

    /// A block that is not yet complete is kept, so that it may not grow for ever; what it holds may be less than it has bytes.
    fn check_block(&self, length: usize) -> Result<(), Failure> {
        let largest = self.config.rules.max_bytes.saturating_mul(2);
        if length > largest.saturating_add(BLOCK_SLACK) {
            return Err(Failure::silent());
        }
        Ok(())
    }

    /// Whether HEADERS with this number open a stream of the client.
    fn opens_stream(&self, id: u32) -> bool {
        self.config.role == Role::Server && id % 2 == 1 && id > self.highest_remote
    }

    /// Takes a whole header block.
    fn block(
        &mut self,
        id: u32,
        end_stream: bool,
        depends_on_itself: bool,
        block: &[u8],
    ) -> Result<(), Failure> {
        if depends_on_itself {
            return Err(Failure::silent());
        }
        match self.config.role {
            Role::Server if self.opens_stream(id) => self.request(id, end_stream, block),
            // Streams of clients have odd numbers, and each a higher one than those before.
            Role::Server if id.is_multiple_of(2) => Err(Failure::silent()),
            _ if self.is_idle(id) => Err(Failure::told(ErrorCode::PROTOCOL_ERROR)),
            _ => self.later_block(id, end_stream, block),
        }
    }

    fn request(&mut self, id: u32, end_stream: bool, block: &[u8]) -> Result<(), Failure> {
        let no_table = |_: HpackError| Failure::told(ErrorCode::COMPRESSION_ERROR);
        self.highest_remote = id;
        let ignored = match self.goaway {
            Goaway::Sent(last) => id > last,
            _ => self.peer_goaway.is_some(),
        };
        if ignored {
            return self.decoder.decode(block, &mut Skipped).map_err(no_table);
        }
        let max = self.config.options.max_concurrent_streams;
        if self.open >= usize::try_from(max).unwrap_or(usize::MAX) {
            self.decoder.decode(block, &mut Skipped).map_err(no_table)?;
            self.count(|stats| stats.stream_refused_errors().inc());
            self.write_reset(id, ErrorCode::REFUSED_STREAM);
            return Ok(());
        }
        let config = self.config.clone();
        let mut builder = RequestBuilder::new(&config.rules);
        if let Err(error) = self.decoder.decode(block, &mut builder) {
            self.open_refused(id, CODEC_ERROR);
            return Err(no_table(error));
        }
        let Decoded {
            head,
            mut flaw,
            content_length,
            dropped_underscores,
        } = builder.finish();
        if end_stream && content_length.is_some_and(|length| length > 0) {
            flaw = flaw.or(Some(Flaw::Message));
        }
        let stream = self.open_stream(id, end_stream);
        stream.content_length = content_length;
        stream.is_head_request = head.method() == Method::Head;
        let wire = (block.len() + frame::HEAD) as u64;
        stream.meter.header_received += wire;
        stream.meter.wire_received += wire;
        match flaw {
            None => self.accepted.push_back(Accepted {
                id,
                head: Ok((head, EndStream::from(end_stream))),
                dropped_underscores,
            }),
            Some(flaw) => {
                self.refuse_head(id, flaw, dropped_underscores);
                self.flawed(id, flaw)?;
            }
        }
        Ok(())
    }

    fn open_stream(&mut self, id: u32, end_stream: bool) -> &mut Stream {
        self.open += 1;
        let receive = if end_stream {
            Receive::Closed
        } else {
            Receive::Body
        };
        let window = self.config.options.initial_stream_window_size;
        let stream = Stream::new(receive, self.peer.initial_window, window);
        self.streams.entry(id).insert_entry(stream).into_mut()
    }

    /// Notes a stream of which no more is known than that its head broke the connection.
    fn open_refused(&mut self, id: u32, details: &'static str) {
        self.highest_remote = id;
        self.open_stream(id, true);
        self.accepted.push_back(Accepted {
            id,
            head: Err(super::connection::Refused {
                details,
                is_malformed: true,
            }),
            dropped_underscores: 0,
        });
    }

    /// A head that cannot be taken ends its stream, or the connection.
    fn flawed(&mut self, id: u32, flaw: Flaw) -> Result<(), Failure> {
        match flaw {
            Flaw::Field | Flaw::Message => {
                self.count(|stats| stats.rx_messaging_error().inc());
                if !self.config.keeps_on_bad_message {
                    self.deliver(
                        id,
                        Received::Broken(Broken::ConnectionError(flaw.details())),
                    );
                    self.close_quietly(id);
                    return Err(Failure::silent());
                }
                self.malformed(id, ErrorCode::PROTOCOL_ERROR, flaw.details());
            }
            Flaw::TooLarge | Flaw::TooMany => {
                self.count(|stats| {
                    if flaw == Flaw::TooMany {
                        stats.header_overflow().inc();
                    } else {
                        stats.header_list_size_too_large().inc();
                    }
                });
                self.malformed(id, ErrorCode::INTERNAL_ERROR, flaw.details());
            }
            Flaw::Underscore => {
                self.count(|stats| stats.requests_rejected_with_underscores_in_headers().inc());
                self.malformed(id, ErrorCode::INTERNAL_ERROR, flaw.details());
            }
        }
        Ok(())
    }

    fn deliver(&mut self, id: u32, received: Received) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.deliver(received);
        }
    }

    /// Notes that a frame on this stream, other than HEADERS, breaks the connection.
    fn deliver_unknown(&mut self, id: u32) {
        let broken = Broken::ConnectionError(UNKNOWN_ERROR);
        self.deliver(id, Received::Broken(broken));
        self.close_quietly(id);
    }

    /// Closes a stream for both sides without a frame.
    fn close_quietly(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.receive = Receive::Closed;
            stream.drop_outgoing();
        }
        self.settle(id);
    }

    /// Resets a stream for what the peer has sent on it.
    fn malformed(&mut self, id: u32, code: ErrorCode, details: &'static str) {
        self.deliver(id, Received::Broken(Broken::Malformed(details)));
        self.reset(id, code);
    }

    /// A header block on a stream that is there already: trailers, or the head of a response.
    fn later_block(&mut self, id: u32, end_stream: bool, block: &[u8]) -> Result<(), Failure> {
        let no_table = |_: HpackError| Failure::told(ErrorCode::COMPRESSION_ERROR);
        let receive = self.streams.get(&id).map(|stream| stream.receive);
        let wire = (block.len() + frame::HEAD) as u64;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.meter.header_received += wire;
            stream.meter.wire_received += wire;
        }
        match receive {
            Some(Receive::Head) => self.response(id, end_stream, block),
            Some(Receive::Body) => self.trailers(id, end_stream, block),
            Some(Receive::Closed) | None => {
                self.decoder.decode(block, &mut Skipped).map_err(no_table)?;
                if self.was_reset_by_us(id) {
                    Ok(())
                } else {
                    Err(Failure::told(ErrorCode::STREAM_CLOSED))
                }
            }
        }
    }

    fn response(&mut self, id: u32, end_stream: bool, block: &[u8]) -> Result<(), Failure> {
        let config = self.config.clone();
        let mut builder = ResponseBuilder::new(&config.rules);
        self.decoder
            .decode(block, &mut builder)
            .map_err(|_| Failure::told(ErrorCode::COMPRESSION_ERROR))?;
        let Decoded {
            head,
            mut flaw,
            content_length,
            ..
        } = builder.finish();
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let informational = head.is_informational();
        let has_body = !stream.is_head_request && head.status != 304;
        if informational && end_stream
            || end_stream && has_body && content_length.is_some_and(|length| length > 0)
        {
            flaw = flaw.or(Some(Flaw::Message));
        }
        if let Some(flaw) = flaw {
            return self.flawed(id, flaw);
        }
        if informational {
            stream.deliver(Received::Informational(head));
            return Ok(());
        }
        stream.receive = Receive::Body;
        stream.content_length = content_length.filter(|_| has_body);
        stream.deliver(Received::Head(head, EndStream::from(end_stream)));
        if end_stream {
            self.end_receiving(id);
        }
        Ok(())
    }

    fn trailers(&mut self, id: u32, end_stream: bool, block: &[u8]) -> Result<(), Failure> {
        let config = self.config.clone();
        let mut builder = TrailersBuilder::new(&config.rules);
        self.decoder
            .decode(block, &mut builder)
            .map_err(|_| Failure::told(ErrorCode::COMPRESSION_ERROR))?;
        if self.config.role == Role::Server {
            self.count(|stats| stats.trailers().inc());
        }
        let Decoded {
            head,
            mut flaw,
            dropped_underscores,
            ..
        } = builder.finish();
        if dropped_underscores > 0 {
            self.count(|stats| {
                let dropped = stats.dropped_headers_with_underscores();
                dropped.add(dropped_underscores);
            });
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let is_short = stream
            .content_length
            .is_some_and(|length| length != stream.body_received);
        if !end_stream || is_short {
            flaw = flaw.or(Some(Flaw::Message));
        }
        if let Some(flaw) = flaw {
            return self.flawed(id, flaw);
        }
        stream.deliver(Received::Trailers(head));
        self.end_receiving(id);
        Ok(())
    }

    fn priority(&mut self, head: &FrameHead, payload: &[u8]) -> Result<(), Failure> {
        self.track(head, false)?;
        if payload.len() != 5 {
            return Err(Failure::told(ErrorCode::FRAME_SIZE_ERROR));
        }
        if head.stream == 0 || frame::number(payload) & 0x7fff_ffff == head.stream {
            return Err(Failure::silent());
        }
        Ok(())
    }

    fn rst_stream(&mut self, head: &FrameHead, payload: &[u8]) -> Result<(), Failure> {
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
        stream.drop_outgoing();
        stream.deliver(Received::Broken(broken));
        self.count(|stats| stats.rx_reset().inc());
        self.settle(id);
        Ok(())
    }

    fn settings(&mut self, head: &FrameHead, payload: &[u8]) -> Result<(), Failure> {
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

    fn ping(&mut self, head: &FrameHead, payload: &[u8]) -> Result<(), Failure> {
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

    fn goaway_received(&mut self, head: &FrameHead, payload: &[u8]) -> Result<(), Failure> {
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
                stream.drop_outgoing();
                stream.deliver(Received::Broken(Broken::Refused));
            }
            self.settle(id);
        }
        Ok(())
    }

    fn window_update(&mut self, head: &FrameHead, payload: &[u8]) -> Result<(), Failure> {
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

    /// Ends the connection if the peer makes us answer more than it reads.
    fn check_unsent(&mut self) {
        let limits = &self.config.options.limits;
        if let Err(flood) = self.counters.check_unsent(limits) {
            self.flooded(flood);
        }
    }
}

/// The payload of HEADERS without padding, and how much that was.
fn unpadded<'a>(head: &FrameHead, payload: &'a [u8]) -> Result<(&'a [u8], usize), Failure> {
    if !head.has(frame::PADDED) {
        return Ok((payload, 0));
    }
    let broken = Failure::told(ErrorCode::PROTOCOL_ERROR);
    let (padding, rest) = payload.split_first().ok_or(broken)?;
    let padding = usize::from(*padding);
    let left = rest.len().checked_sub(padding).ok_or(broken)?;
    Ok((rest.get(..left).unwrap_or_default(), padding + 1))
}
