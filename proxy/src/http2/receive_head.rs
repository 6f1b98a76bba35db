//! Header blocks of the peer: what opens a stream, answers it, or ends it.

use super::connection::{Accepted, CODEC_ERROR, Connection, Failure, Goaway, PartialBlock};
use super::connection_config::Role;
use super::frame::{self, ErrorCode, FrameHead};
use super::head::{Decoded, Flaw, RequestBuilder, ResponseBuilder, Skipped, TrailersBuilder};
use super::hpack::HpackError;
use super::stream::{Broken, Receive, Received, Stream};
use crate::http::{EndStream, Method};

/// Bytes that a header block may have beyond twice the largest head.
const BLOCK_SLACK: usize = 64 * 1024;

impl Connection {
    pub(super) fn headers(&mut self, head: &FrameHead, payload: &[u8]) -> Result<(), Failure> {
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

    pub(super) fn continuation(&mut self, head: &FrameHead, payload: &[u8]) -> Result<(), Failure> {
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
    pub(super) fn opens_stream(&self, id: u32) -> bool {
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
            self.first_ignored.get_or_insert(id);
            return self.decoder.decode(block, &mut Skipped).map_err(no_table);
        }
        let max = self.config.options.max_concurrent_streams;
        if self.open >= usize::try_from(max).unwrap_or(usize::MAX) {
            self.decoder.decode(block, &mut Skipped).map_err(no_table)?;
            self.count(|stats| stats.stream_refused_errors().inc());
            self.write_reset(id, ErrorCode::REFUSED_STREAM);
            return Ok(());
        }
        self.borrow_room();
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
    pub(super) fn open_refused(&mut self, id: u32, details: &'static str) {
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
                let code = ErrorCode::INTERNAL_ERROR;
                if self.config.role == Role::Client {
                    // Envoy treats what it resets itself here as if the server had.
                    self.deliver(id, Received::Broken(Broken::Remote(code)));
                    self.reset(id, code);
                } else {
                    self.malformed(id, code, flaw.details());
                }
            }
            Flaw::Underscore => {
                self.count(|stats| stats.requests_rejected_with_underscores_in_headers().inc());
                self.malformed(id, ErrorCode::INTERNAL_ERROR, flaw.details());
            }
        }
        Ok(())
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
