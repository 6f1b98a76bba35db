//! The body of a message as it comes in.

use bytes::Bytes;

use super::chunk::{ChunkDecoder, ChunkStep, parse_trailers};
use super::message::Framing;
use super::reject::Reject;
use crate::http::{EndStream, Fields};
use crate::net::Input;
use crate::stream_info::BytesMeter;

/// A body of which not all was taken.
#[derive(Debug)]
pub(crate) enum Body {
    /// Bytes of a known number.
    Length(u64),
    /// Chunks.
    Chunked(ChunkDecoder),
    /// Everything that comes.
    UntilClose,
}

/// The next piece of a body.
#[derive(Debug)]
pub(crate) enum BodyEvent {
    /// More bytes have to be read first.
    More,
    /// Data.
    Data(Bytes, EndStream),
    /// Trailers, and the end.
    Trailers(Fields),
}

/// What trailers may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_trailer_bytes: usize,
    pub(crate) max_trailers: usize,
    pub(crate) keep_trailers: bool,
}

impl Body {
    /// A body that begins. `framing` is not `None`.
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::Length(0),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(ChunkDecoder::default()),
            Framing::UntilClose | Framing::Raw => Self::UntilClose,
        }
    }

    /// The next piece out of what was read.
    pub(crate) fn next(
        &mut self,
        input: &mut Input,
        limits: Limits,
        meter: &mut BytesMeter,
    ) -> Result<BodyEvent, Reject> {
        let held = input.bytes().len();
        match self {
            Self::Chunked(decoder) => next_chunk(decoder, input, limits, meter),
            _ if held == 0 => Ok(BodyEvent::More),
            Self::UntilClose => {
                meter.wire_received += held as u64;
                Ok(BodyEvent::Data(input.take(held), EndStream::No))
            }
            Self::Length(remaining) => {
                let count = usize::try_from(*remaining).map_or(held, |all| all.min(held));
                *remaining -= count as u64;
                meter.wire_received += count as u64;
                let end = *remaining == 0;
                Ok(BodyEvent::Data(input.take(count), end.into()))
            }
        }
    }
}

fn next_chunk(
    decoder: &mut ChunkDecoder,
    input: &mut Input,
    limits: Limits,
    meter: &mut BytesMeter,
) -> Result<BodyEvent, Reject> {
    let (framing, step) = decoder.next(input.bytes(), limits.max_trailer_bytes)?;
    input.consume(framing);
    meter.wire_received += framing as u64;
    Ok(match step {
        ChunkStep::More => BodyEvent::More,
        ChunkStep::End => BodyEvent::Data(Bytes::new(), EndStream::Yes),
        ChunkStep::Data { len, last, then } => {
            let data = input.take(len);
            input.consume(then);
            meter.wire_received += (len + then) as u64;
            BodyEvent::Data(data, last.into())
        }
        ChunkStep::Trailers(len) => {
            meter.wire_received += len as u64;
            // What is wrong with them counts even where nobody gets them.
            let lines = input.bytes().get(..len).unwrap_or_default();
            let (trailers, counted) = parse_trailers(lines, limits.max_trailers)?;
            input.consume(len);
            if limits.keep_trailers {
                meter.header_received += counted;
                BodyEvent::Trailers(trailers)
            } else {
                BodyEvent::Data(Bytes::new(), EndStream::Yes)
            }
        }
    })
}
