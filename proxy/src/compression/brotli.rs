//! brotli (RFC 7932), by Google's own library.

use brotlic::decode::DecoderInfo;
use brotlic::encode::BrotliOperation;
use brotlic::{BlockSize, BrotliEncoderOptions, CompressionMode, Quality, WindowSize};
use outrigger_proto::pb::envoy::extensions::compression::brotli as pb;
use pb::compressor::v3::brotli::EncoderMode;

use super::{Decoder, EncodeError, Encoder};
use crate::config::{ConfigPath, Rejected};

/// How many times longer than its input the output of a piece may be.
const MAX_INFLATE_RATIO: usize = 100;

/// How brotli packs.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSettings {
    /// 0..=11, default 3.
    quality: u8,
    mode: CompressionMode,
    /// 10..=24, default 18.
    window_bits: u8,
    /// 16..=24, default 24.
    input_block_bits: u8,
    disable_literal_context_modeling: bool,
}

crate::stats_group! {
    /// What brotli could not unpack.
    pub struct DecoderStats {
        counter brotli_error;
        counter brotli_output_overflow;
        counter brotli_redundant_input;
    }
}

impl EncoderSettings {
    pub(super) fn from_proto(
        proto: pb::compressor::v3::Brotli,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::compressor::v3::Brotli {
            quality,
            encoder_mode,
            window_bits,
            input_block_bits,
            // The size of a buffer, which nobody sees.
            chunk_size: _,
            disable_literal_context_modeling,
        } = proto;
        let quality = path.in_range("quality", quality.map_or(3, |q| q.value), 0..=11);
        let mode = path.enumeration::<EncoderMode>("encoder_mode", encoder_mode);
        let window = path.in_range("window_bits", window_bits.map_or(18, |b| b.value), 10..=24);
        let block = input_block_bits.map_or(24, |b| b.value);
        let block = path.in_range("input_block_bits", block, 16..=24);
        Ok(Self {
            quality: u8::try_from(quality?).unwrap_or(3),
            mode: match mode? {
                EncoderMode::Default | EncoderMode::Generic => CompressionMode::Generic,
                EncoderMode::Text => CompressionMode::Text,
                EncoderMode::Font => CompressionMode::Font,
            },
            window_bits: u8::try_from(window?).unwrap_or(18),
            input_block_bits: u8::try_from(block?).unwrap_or(24),
            disable_literal_context_modeling,
        })
    }

    /// None: a setting is not the library's, or it has no memory.
    pub(super) fn encoder(&self) -> Option<BrotliEncoder> {
        BrotliEncoderOptions::new()
            .quality(Quality::new(self.quality).ok()?)
            .mode(self.mode)
            .window_size(WindowSize::new(self.window_bits).ok()?)
            .block_size(BlockSize::new(self.input_block_bits).ok()?)
            .disable_context_modeling(self.disable_literal_context_modeling)
            .build()
            .ok()
            .map(BrotliEncoder)
    }
}

/// Packs one body.
pub(super) struct BrotliEncoder(brotlic::BrotliEncoder);

impl Encoder for BrotliEncoder {
    fn encode(
        &mut self,
        mut input: &[u8],
        end: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let operation = if end {
            BrotliOperation::Finish
        } else {
            BrotliOperation::Flush
        };
        loop {
            let start = out.len();
            out.resize(start + (input.len() / 2).clamp(256, 64 * 1024), 0);
            let result = self.0.compress(input, &mut out[start..], operation);
            let result = result.map_err(|_| EncodeError)?;
            out.truncate(start + result.bytes_written);
            input = &input[result.bytes_read..];
            if input.is_empty() && !self.0.has_output() {
                return Ok(());
            }
        }
    }

    fn reset(&mut self) -> bool {
        false
    }
}

/// Unpacks one body.
pub(super) struct BrotliDecoder {
    inner: brotlic::BrotliDecoder,
    stats: DecoderStats,
}

impl BrotliDecoder {
    pub(super) fn new(stats: DecoderStats) -> Self {
        Self {
            inner: brotlic::BrotliDecoder::new(),
            stats,
        }
    }
}

impl Decoder for BrotliDecoder {
    fn decode(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        let begin = out.len();
        let most = input.len().saturating_mul(MAX_INFLATE_RATIO);
        loop {
            let start = out.len();
            out.resize(start + (input.len() * 4).clamp(256, 64 * 1024), 0);
            let result = self.inner.decompress(input, &mut out[start..]);
            let Ok(result) = result else {
                out.truncate(start);
                self.stats.brotli_error().inc();
                return;
            };
            out.truncate(start + result.bytes_written);
            input = &input[result.bytes_read..];
            if out.len() - begin > most {
                self.stats.brotli_output_overflow().inc();
                return;
            }
            match result.info {
                DecoderInfo::NeedsMoreOutput => {}
                DecoderInfo::NeedsMoreInput => return,
                DecoderInfo::Finished => {
                    if !input.is_empty() {
                        self.stats.brotli_redundant_input().inc();
                    }
                    return;
                }
            }
        }
    }
}
