//! zstd (RFC 8878), by its own library.
//!
//! A frame that wants a window of more than 8 MiB is not unpacked: RFC 9659 forbids it for HTTP, and it would let a peer choose
//! how much memory a stream takes.

use bytes::Bytes;
use outrigger_proto::pb::envoy::extensions::compression::zstd as pb;
use pb::compressor::v3::zstd::Strategy as ProtoStrategy;
use zstd::zstd_safe::zstd_sys::{ZSTD_EndDirective, ZSTD_ErrorCode};
use zstd::zstd_safe::{
    CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, Strategy,
    get_dict_id_from_dict, get_dict_id_from_frame,
};

use super::{Decoder, EncodeError, Encoder, grow};
use crate::config::{ConfigPath, Rejected, data_source};

/// The base two logarithm of the largest window that is unpacked.
const WINDOW_LOG_MAX: u32 = 23;

/// A piece may become this many times longer, or as long as [`FREE_OUTPUT`] where that is more.
const MAX_INFLATE_RATIO: usize = 100;

/// In bytes.
const FREE_OUTPUT: usize = 1024 * 1024;

/// How zstd packs.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSettings {
    /// 0..=22, default 3.
    level: i32,
    checksum: bool,
    strategy: Option<i32>,
    dictionary: Option<Bytes>,
}

/// How zstd unpacks.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderSettings {
    /// By their ids.
    dictionaries: Vec<(u32, Bytes)>,
}

crate::stats_group! {
    /// What zstd could not unpack.
    pub struct DecoderStats {
        counter zstd_checksum_wrong_error;
        counter zstd_dictionary_error;
        counter zstd_generic_error;
        counter zstd_memory_error;
    }
}

impl EncoderSettings {
    pub(super) fn from_proto(
        proto: pb::compressor::v3::Zstd,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::compressor::v3::Zstd {
            compression_level,
            enable_checksum,
            strategy,
            dictionary,
            // The size of a buffer, which nobody sees.
            chunk_size: _,
        } = proto;
        let level = compression_level.map_or(3, |level| level.value);
        let level = path.in_range("compression_level", level, 0..=22);
        let strategy_of = path.enumeration::<ProtoStrategy>("strategy", strategy);
        let dictionary = path.optional("dictionary", dictionary, |proto, path| {
            let bytes = data_source(proto, path)?;
            dictionary_id(&bytes, path).map(|_| bytes)
        });
        Ok(Self {
            level: i32::try_from(level?).unwrap_or(3),
            checksum: enable_checksum,
            strategy: Some(strategy_of? as i32).filter(|strategy| *strategy != 0),
            dictionary: dictionary?,
        })
    }

    /// None: there is no memory.
    pub(super) fn encoder(&self) -> Option<ZstdEncoder> {
        let mut context = CCtx::try_create()?;
        let strategy = self.strategy.and_then(|strategy| {
            Some(match strategy {
                1 => Strategy::ZSTD_fast,
                2 => Strategy::ZSTD_dfast,
                3 => Strategy::ZSTD_greedy,
                4 => Strategy::ZSTD_lazy,
                5 => Strategy::ZSTD_lazy2,
                6 => Strategy::ZSTD_btlazy2,
                7 => Strategy::ZSTD_btopt,
                8 => Strategy::ZSTD_btultra,
                9 => Strategy::ZSTD_btultra2,
                _ => return None,
            })
        });
        let parameters = [
            Some(CParameter::CompressionLevel(self.level)),
            Some(CParameter::ChecksumFlag(self.checksum)),
            strategy.map(CParameter::Strategy),
        ];
        for parameter in parameters.into_iter().flatten() {
            context.set_parameter(parameter).ok()?;
        }
        if let Some(dictionary) = &self.dictionary {
            context.load_dictionary(dictionary).ok()?;
        }
        Some(ZstdEncoder(context))
    }
}

/// The id of a trained dictionary; others would not be found by who unpacks.
fn dictionary_id(bytes: &Bytes, path: &ConfigPath<'_>) -> Result<u32, Rejected> {
    get_dict_id_from_dict(bytes)
        .map(Into::into)
        .ok_or_else(|| path.reject("is not a dictionary of zstd"))
}

/// Packs one body.
pub(super) struct ZstdEncoder(CCtx<'static>);

impl Encoder for ZstdEncoder {
    fn encode(&mut self, input: &[u8], end: bool, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let directive = if end {
            ZSTD_EndDirective::ZSTD_e_end
        } else {
            ZSTD_EndDirective::ZSTD_e_flush
        };
        let mut source = InBuffer::around(input);
        loop {
            grow(out, input.len() / 2);
            let start = out.len();
            let mut target = OutBuffer::around_pos(out, start);
            let left = self.0.compress_stream2(&mut target, &mut source, directive);
            match left {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(_) => return Err(EncodeError),
            }
        }
    }

    fn reset(&mut self) -> bool {
        self.0.reset(ResetDirective::SessionOnly).is_ok()
    }
}

impl DecoderSettings {
    pub(super) fn from_proto(
        proto: pb::decompressor::v3::Zstd,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        let pb::decompressor::v3::Zstd {
            dictionaries,
            // The size of a buffer, which nobody sees.
            chunk_size: _,
        } = proto;
        let dictionaries = path.each("dictionaries", dictionaries, |proto, path| {
            let bytes = data_source(proto, path)?;
            Ok((dictionary_id(&bytes, path)?, bytes))
        });
        Ok(Self {
            dictionaries: dictionaries?,
        })
    }

    /// None: there is no memory.
    pub(super) fn decoder(&self, stats: DecoderStats) -> Option<ZstdDecoder> {
        let mut context = DCtx::try_create()?;
        context
            .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
            .ok()?;
        Some(ZstdDecoder {
            context,
            dictionaries: self.dictionaries.clone(),
            begun: false,
            failed: false,
            stats,
        })
    }
}

/// Unpacks one body.
pub(super) struct ZstdDecoder {
    context: DCtx<'static>,
    dictionaries: Vec<(u32, Bytes)>,
    /// Whether the dictionary was chosen, or none is needed.
    begun: bool,
    failed: bool,
    stats: DecoderStats,
}

impl ZstdDecoder {
    /// Loads the dictionary that the frame names, if it names one.
    fn choose_dictionary(&mut self, input: &[u8]) -> Result<(), ()> {
        self.begun = true;
        let Some(wanted) = get_dict_id_from_frame(input) else {
            return Ok(());
        };
        let found = self.dictionaries.iter().find(|(id, _)| *id == wanted.get());
        let loaded = found.is_some_and(|(_, bytes)| self.context.load_dictionary(bytes).is_ok());
        if !loaded {
            self.stats.zstd_dictionary_error().inc();
            return Err(());
        }
        Ok(())
    }

    fn count(&self, code: usize) {
        let is = |error: ZSTD_ErrorCode| code == (error as usize).wrapping_neg();
        if is(ZSTD_ErrorCode::ZSTD_error_memory_allocation) {
            self.stats.zstd_memory_error().inc();
        } else if is(ZSTD_ErrorCode::ZSTD_error_dictionary_corrupted)
            || is(ZSTD_ErrorCode::ZSTD_error_dictionary_wrong)
        {
            self.stats.zstd_dictionary_error().inc();
        } else if is(ZSTD_ErrorCode::ZSTD_error_checksum_wrong) {
            self.stats.zstd_checksum_wrong_error().inc();
        } else {
            self.stats.zstd_generic_error().inc();
        }
    }
}

impl Decoder for ZstdDecoder {
    fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) {
        if input.is_empty() || self.failed {
            return;
        }
        if !self.begun && !self.dictionaries.is_empty() && self.choose_dictionary(input).is_err() {
            self.failed = true;
            return;
        }
        let most = input.len().saturating_mul(MAX_INFLATE_RATIO);
        let most = out.len().saturating_add(most.max(FREE_OUTPUT));
        let mut source = InBuffer::around(input);
        loop {
            if out.len() >= most {
                self.stats.zstd_generic_error().inc();
                self.failed = true;
                return;
            }
            grow(out, input.len().saturating_mul(4));
            let start = out.len();
            let mut target = OutBuffer::around_pos(out, start);
            if let Err(code) = self.context.decompress_stream(&mut target, &mut source) {
                self.count(code);
                self.failed = true;
                return;
            }
            if source.pos() == input.len() && out.len() < out.capacity() {
                return;
            }
        }
    }
}
