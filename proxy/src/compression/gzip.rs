//! gzip (RFC 1952), by zlib-rs.
//!
//! `memory_level` and `compression_strategy` have no counterpart in the library: they change the length of what is written, not
//! what it says.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use outrigger_proto::pb::envoy::extensions::compression::gzip as pb;
use pb::compressor::v3::gzip::CompressionLevel;

use super::{Decoder, EncodeError, Encoder, grow};
use crate::config::{ConfigPath, Rejected};

/// How gzip packs.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSettings {
    /// 1..=9, default 6.
    level: u32,
    /// 9..=15, default 12.
    window_bits: u8,
}

/// How gzip unpacks.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderSettings {
    /// 9..=15, default 15.
    window_bits: u8,
    /// How many times longer than its input the output of a piece may be. Default 100.
    max_inflate_ratio: usize,
    /// A piece that is too long is cut off at a multiple of this. Default 4096 bytes.
    chunk_size: usize,
}

crate::stats_group! {
    /// What gzip could not unpack, by zlib's names. All but `zlib_data_error` stay at zero.
    pub struct DecoderStats {
        counter zlib_buf_error;
        counter zlib_data_error;
        counter zlib_errno;
        counter zlib_mem_error;
        counter zlib_stream_error;
        counter zlib_version_error;
    }
}

impl EncoderSettings {
    pub(super) fn from_proto(
        proto: pb::compressor::v3::Gzip,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::compressor::v3::Gzip {
            memory_level: _,
            compression_level,
            compression_strategy: _,
            window_bits,
            // The size of a buffer, which nobody sees.
            chunk_size: _,
        } = proto;
        let level = path.enumeration::<CompressionLevel>("compression_level", compression_level);
        let bits = path.in_range("window_bits", window_bits.map_or(12, |b| b.value), 9..=15);
        Ok(Self {
            level: match level? {
                CompressionLevel::DefaultCompression => 6,
                level => u32::try_from(level as i32).unwrap_or(6),
            },
            window_bits: u8::try_from(bits?).unwrap_or(15),
        })
    }

    pub(super) fn encoder(&self) -> GzipEncoder {
        GzipEncoder(Compress::new_gzip(
            Compression::new(self.level),
            self.window_bits,
        ))
    }
}

/// Packs one body.
pub(super) struct GzipEncoder(Compress);

impl Encoder for GzipEncoder {
    fn encode(
        &mut self,
        mut input: &[u8],
        end: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let flush = if end {
            FlushCompress::Finish
        } else {
            FlushCompress::Sync
        };
        loop {
            grow(out, input.len() / 2);
            let before = self.0.total_in();
            let status = self.0.compress_vec(input, out, flush);
            let status = status.map_err(|_| EncodeError)?;
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(usize::MAX);
            input = input.get(taken..).unwrap_or_default();
            // All is out when there is room left over.
            let done = match status {
                Status::StreamEnd => true,
                Status::Ok | Status::BufError => {
                    !end && input.is_empty() && out.len() < out.capacity()
                }
            };
            if done {
                return Ok(());
            }
        }
    }

    fn reset(&mut self) -> bool {
        self.0.reset();
        true
    }
}

impl DecoderSettings {
    pub(super) fn from_proto(
        proto: pb::decompressor::v3::Gzip,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::decompressor::v3::Gzip {
            window_bits,
            chunk_size,
            max_inflate_ratio,
        } = proto;
        let chunk = path.in_range(
            "chunk_size",
            chunk_size.map_or(4096, |c| c.value),
            4096..=65536,
        );
        let bits = path.in_range("window_bits", window_bits.map_or(15, |b| b.value), 9..=15);
        let ratio = max_inflate_ratio.map_or(100, |ratio| ratio.value);
        Ok(Self {
            window_bits: u8::try_from(bits?).unwrap_or(15),
            max_inflate_ratio: usize::try_from(ratio).unwrap_or(usize::MAX),
            chunk_size: usize::try_from(chunk?).unwrap_or(4096),
        })
    }

    pub(super) fn decoder(&self, stats: DecoderStats) -> GzipDecoder {
        GzipDecoder {
            inflate: Decompress::new_gzip(self.window_bits),
            max_inflate_ratio: self.max_inflate_ratio,
            chunk_size: self.chunk_size,
            ended: false,
            stats,
        }
    }
}

/// Unpacks one body.
pub(super) struct GzipDecoder {
    inflate: Decompress,
    max_inflate_ratio: usize,
    chunk_size: usize,
    /// The stream has ended; what follows is passed over.
    ended: bool,
    stats: DecoderStats,
}

impl Decoder for GzipDecoder {
    fn decode(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        let most = input.len().saturating_mul(self.max_inflate_ratio) / self.chunk_size + 1;
        let most = most.saturating_mul(self.chunk_size);
        while !self.ended {
            grow(out, input.len().saturating_mul(4));
            let before = self.inflate.total_in();
            let status = self
                .inflate
                .decompress_vec(input, out, FlushDecompress::None);
            let taken = usize::try_from(self.inflate.total_in() - before).unwrap_or(usize::MAX);
            input = input.get(taken..).unwrap_or_default();
            match status {
                Ok(Status::StreamEnd) => self.ended = true,
                Ok(Status::Ok | Status::BufError) if out.len() - start < most => {
                    if input.is_empty() && out.len() < out.capacity() {
                        return;
                    }
                }
                Ok(_) | Err(_) => {
                    self.stats.zlib_data_error().inc();
                    break;
                }
            }
        }
        out.truncate(start.saturating_add(most));
    }
}
