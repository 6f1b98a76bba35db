//! gzip, packed by two libraries: zlib-rs, of which each piece can be sent as it is, and libdeflate, which needs a third less time
//! but the whole body.
//!
//! libdeflate looks back 32 KiB whatever `window_bits` says, and does not know `memory_level`, which bounds the memory of a stream:
//! it has one working memory for all bodies. Other strategies than the default one are zlib-rs's alone.

use libdeflater::{CompressionLvl, Compressor};
use outrigger_proto::pb::envoy::extensions::compression::gzip::compressor::v3 as pb;
use pb::gzip::{CompressionLevel, CompressionStrategy};
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Status, Strategy};

use crate::compression::{EncodeError, Encoder};
use crate::config::{ConfigPath, Rejected};

/// How gzip packs.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSettings {
    /// 1..=9, default 6.
    level: u8,
    /// How far back a body in pieces is compared, as a power of two. 9..=15, default 12.
    window_bits: u8,
    /// How much of a body in pieces is looked at together, as a power of two less 6. 1..=9, default 5.
    memory_level: u8,
    strategy: Strategy,
}

/// The levels of libdeflate that take no longer than zlib's of the same index, or write no more.
const LEVELS_OF_WHOLE_BODIES: [i32; 10] = [0, 1, 2, 3, 4, 5, 5, 7, 7, 7];

/// What is kept for the next body, in bytes.
const MOST_SCRATCH: usize = 128 * 1024;

/// What is added to the output at once, in bytes.
const ROOM: std::ops::RangeInclusive<usize> = 256..=64 * 1024;

impl EncoderSettings {
    pub(in crate::compression) fn from_proto(
        proto: pb::Gzip,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::Gzip {
            memory_level,
            compression_level,
            compression_strategy,
            window_bits,
            // The size of a buffer, which nobody sees.
            chunk_size: _,
        } = proto;
        let level = path.enumeration::<CompressionLevel>("compression_level", compression_level);
        let strategy =
            path.enumeration::<CompressionStrategy>("compression_strategy", compression_strategy);
        let bits = path.in_range("window_bits", window_bits.map_or(12, |b| b.value), 9..=15);
        let memory = path.in_range("memory_level", memory_level.map_or(5, |m| m.value), 1..=9);
        Ok(Self {
            level: match level? {
                CompressionLevel::DefaultCompression => 6,
                level => u8::try_from(level as i32).unwrap_or(6),
            },
            window_bits: u8::try_from(bits?).unwrap_or(15),
            memory_level: u8::try_from(memory?).unwrap_or(5),
            strategy: match strategy? {
                CompressionStrategy::DefaultStrategy => Strategy::Default,
                CompressionStrategy::Filtered => Strategy::Filtered,
                CompressionStrategy::HuffmanOnly => Strategy::HuffmanOnly,
                CompressionStrategy::Rle => Strategy::Rle,
                CompressionStrategy::Fixed => Strategy::Fixed,
            },
        })
    }

    pub(in crate::compression) fn encoder(&self) -> GzipEncoder {
        GzipEncoder {
            settings: self.clone(),
            whole: None,
            pieces: None,
            is_begun: false,
        }
    }
}

/// Packs one body after another.
pub(in crate::compression) struct GzipEncoder {
    settings: EncoderSettings,
    /// Made for the first body that is there as a whole.
    whole: Option<Whole>,
    /// Made for the first body that comes in pieces.
    pieces: Option<Deflate>,
    /// Whether a piece of the body has been packed.
    is_begun: bool,
}

impl Encoder for GzipEncoder {
    fn encode(&mut self, input: &[u8], end: bool, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let is_whole = end && !self.is_begun;
        if is_whole && self.settings.strategy == Strategy::Default {
            let level = self.settings.level;
            return self
                .whole
                .get_or_insert_with(|| Whole::new(level))
                .encode(input, out);
        }
        self.is_begun = true;
        let settings = &self.settings;
        let stream = self.pieces.get_or_insert_with(|| stream(settings));
        encode_piece(stream, input, end, out)
    }

    fn reset(&mut self) -> bool {
        if let Some(stream) = &mut self.pieces
            && self.is_begun
        {
            stream.reset();
        }
        self.is_begun = false;
        true
    }
}

/// libdeflate, with room for what it writes.
struct Whole {
    compressor: Compressor,
    scratch: Vec<u8>,
}

impl Whole {
    fn new(level: u8) -> Self {
        let level = LEVELS_OF_WHOLE_BODIES[usize::from(level.min(9))];
        Self {
            compressor: Compressor::new(CompressionLvl::new(level).unwrap_or_default()),
            scratch: Vec::new(),
        }
    }

    fn encode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let bound = self.compressor.gzip_compress_bound(input.len());
        if self.scratch.len() < bound {
            self.scratch.resize(bound, 0);
        }
        let packed = self.compressor.gzip_compress(input, &mut self.scratch);
        let packed = packed.ok().and_then(|length| self.scratch.get(..length));
        out.extend_from_slice(packed.ok_or(EncodeError)?);
        if self.scratch.len() > MOST_SCRATCH {
            self.scratch = Vec::new();
        }
        Ok(())
    }
}

fn stream(settings: &EncoderSettings) -> Deflate {
    /// What asks zlib for gzip's head and tail.
    const GZIP: i32 = 16;
    Deflate::new_with_config(DeflateConfig {
        level: settings.level.into(),
        window_bits: GZIP + i32::from(settings.window_bits),
        mem_level: settings.memory_level.into(),
        strategy: settings.strategy,
        ..DeflateConfig::default()
    })
}

fn encode_piece(
    stream: &mut Deflate,
    mut input: &[u8],
    end: bool,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let flush = match end {
        true => DeflateFlush::Finish,
        false => DeflateFlush::SyncFlush,
    };
    loop {
        let (start, taken, written) = (out.len(), stream.total_in(), stream.total_out());
        let room = (input.len() / 2).clamp(*ROOM.start(), *ROOM.end());
        out.resize(start + room, 0);
        let status = stream.compress(input, &mut out[start..], flush);
        let grown = |before: u64, now: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        let written = grown(written, stream.total_out());
        out.truncate(start.saturating_add(written));
        input = input
            .get(grown(taken, stream.total_in())..)
            .unwrap_or_default();
        match status.map_err(|_| EncodeError)? {
            Status::StreamEnd => return Ok(()),
            // All is out when there is room left over.
            Status::Ok | Status::BufError if !end && input.is_empty() && written < room => {
                return Ok(());
            }
            Status::Ok | Status::BufError => {}
        }
    }
}
