//! gzip, unpacked by zlib-rs.

use flate2::{Decompress, FlushDecompress, Status};
use outrigger_proto::pb::envoy::extensions::compression::gzip::decompressor::v3 as pb;

use crate::compression::{Decoder, grow};
use crate::config::{ConfigPath, Rejected};

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

impl DecoderSettings {
    pub(in crate::compression) fn from_proto(
        proto: pb::Gzip,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::Gzip {
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

    pub(in crate::compression) fn decoder(&self, stats: DecoderStats) -> GzipDecoder {
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
pub(in crate::compression) struct GzipDecoder {
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
