//! The libraries of `compressor` and `decompressor`: gzip, brotli and zstd, behind one trait each way.
//!
//! Type URLs: `envoy.extensions.compression.{gzip,brotli,zstd}.{compressor,decompressor}.v3.{Gzip,Brotli,Zstd}`.
//! What a stream needs to compress is costly to make; [`Pool`] keeps it for the next stream of the worker.

mod brotli;
mod gzip;
mod pool;
mod zstd;

pub use pool::{Pool, Pooled};

use outrigger_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use outrigger_proto::pb::envoy::extensions::compression as pb;

use crate::config::{ConfigPath, Rejected, TypedConfig};
use crate::stats::Scope;

/// Packs one body.
pub trait Encoder {
    /// Packs a piece and appends what comes of it. All of the piece can be unpacked by who has received that.
    fn encode(&mut self, input: &[u8], end: bool, out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// Makes it ready for another body; false where it serves one only.
    fn reset(&mut self) -> bool;
}

/// A library could not pack: it had no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeError;

/// Unpacks one body.
pub trait Decoder {
    /// Unpacks a piece and appends what comes of it. What comes of a body behind an error is nothing.
    fn decode(&mut self, input: &[u8], out: &mut Vec<u8>);
}

/// A compressor library with its settings.
#[derive(Debug, Clone, PartialEq)]
pub enum CompressorLibrary {
    /// `gzip`.
    Gzip(gzip::EncoderSettings),
    /// `br`.
    Brotli(brotli::EncoderSettings),
    /// `zstd`.
    Zstd(zstd::EncoderSettings),
}

/// A decompressor library with its settings.
#[derive(Debug, Clone, PartialEq)]
pub enum DecompressorLibrary {
    /// `gzip`.
    Gzip(gzip::DecoderSettings),
    /// `br`.
    Brotli,
    /// `zstd`.
    Zstd(zstd::DecoderSettings),
}

/// The stats of a decompressor library.
#[derive(Debug, Clone)]
pub enum DecoderStats {
    /// `zlib_…`.
    Gzip(gzip::DecoderStats),
    /// `brotli_…`.
    Brotli(brotli::DecoderStats),
    /// `zstd_…`.
    Zstd(zstd::DecoderStats),
}

const GZIP: &str = "gzip";
const BROTLI: &str = "br";
const ZSTD: &str = "zstd";

impl CompressorLibrary {
    /// Converts `compressor_library`; gives its name in the configuration beside it, which is part of the names of stats.
    pub fn from_proto(
        proto: TypedExtensionConfig,
        path: &ConfigPath<'_>,
    ) -> Result<(String, Self), Rejected> {
        const TYPES: [&str; 3] = [
            "envoy.extensions.compression.gzip.compressor.v3.Gzip",
            "envoy.extensions.compression.brotli.compressor.v3.Brotli",
            "envoy.extensions.compression.zstd.compressor.v3.Zstd",
        ];
        let TypedExtensionConfig { name, typed_config } = proto;
        let config = TypedConfig::required("typed_config", typed_config, path)?;
        let path = &path.field("typed_config");
        let library = match TYPES.iter().position(|name| **name == config.type_name) {
            Some(0) => Self::Gzip(gzip::EncoderSettings::from_proto(
                config.decode(path)?,
                path,
            )?),
            Some(1) => Self::Brotli(brotli::EncoderSettings::from_proto(
                config.decode(path)?,
                path,
            )?),
            Some(2) => Self::Zstd(zstd::EncoderSettings::from_proto(
                config.decode(path)?,
                path,
            )?),
            _ => return Err(config.unknown(path, &TYPES)),
        };
        Ok((name, library))
    }

    /// The word in `content-encoding`.
    pub fn content_encoding(&self) -> &'static str {
        match self {
            Self::Gzip(_) => GZIP,
            Self::Brotli(_) => BROTLI,
            Self::Zstd(_) => ZSTD,
        }
    }

    /// The word in the names of stats.
    pub fn stats_name(&self) -> &'static str {
        match self {
            Self::Gzip(_) => "gzip",
            Self::Brotli(_) => "brotli",
            Self::Zstd(_) => "zstd",
        }
    }

    /// What packs one body; none where there is no memory for it.
    pub fn encoder(&self) -> Option<Box<dyn Encoder>> {
        Some(match self {
            Self::Gzip(settings) => Box::new(settings.encoder()),
            Self::Brotli(settings) => Box::new(settings.encoder()?),
            Self::Zstd(settings) => Box::new(settings.encoder()?),
        })
    }
}

impl DecompressorLibrary {
    /// Converts `decompressor_library`; gives its name in the configuration beside it, which is part of the names of stats.
    pub fn from_proto(
        proto: TypedExtensionConfig,
        path: &ConfigPath<'_>,
    ) -> Result<(String, Self), Rejected> {
        const TYPES: [&str; 3] = [
            "envoy.extensions.compression.gzip.decompressor.v3.Gzip",
            "envoy.extensions.compression.brotli.decompressor.v3.Brotli",
            "envoy.extensions.compression.zstd.decompressor.v3.Zstd",
        ];
        let TypedExtensionConfig { name, typed_config } = proto;
        let config = TypedConfig::required("typed_config", typed_config, path)?;
        let path = &path.field("typed_config");
        let library = match TYPES.iter().position(|name| **name == config.type_name) {
            Some(0) => Self::Gzip(gzip::DecoderSettings::from_proto(
                config.decode(path)?,
                path,
            )?),
            Some(1) => {
                // Both say how memory is taken, not what comes of a body.
                let pb::brotli::decompressor::v3::Brotli {
                    disable_ring_buffer_reallocation: _,
                    chunk_size: _,
                } = config.decode(path)?;
                Self::Brotli
            }
            Some(2) => Self::Zstd(zstd::DecoderSettings::from_proto(
                config.decode(path)?,
                path,
            )?),
            _ => return Err(config.unknown(path, &TYPES)),
        };
        Ok((name, library))
    }

    /// The word in `content-encoding`.
    pub fn content_encoding(&self) -> &'static str {
        match self {
            Self::Gzip(_) => GZIP,
            Self::Brotli => BROTLI,
            Self::Zstd(_) => ZSTD,
        }
    }

    /// The word in the names of stats.
    pub fn stats_name(&self) -> &'static str {
        match self {
            Self::Gzip(_) => "gzip",
            Self::Brotli => "brotli",
            Self::Zstd(_) => "zstd",
        }
    }

    /// The stats of what it cannot unpack.
    pub fn stats(&self, scope: &Scope) -> DecoderStats {
        match self {
            Self::Gzip(_) => DecoderStats::Gzip(gzip::DecoderStats::new(scope)),
            Self::Brotli => DecoderStats::Brotli(brotli::DecoderStats::new(scope)),
            Self::Zstd(_) => DecoderStats::Zstd(zstd::DecoderStats::new(scope)),
        }
    }

    /// What unpacks one body; none where there is no memory for it. The stats must be those of this library.
    pub fn decoder(&self, stats: &DecoderStats) -> Option<Box<dyn Decoder>> {
        Some(match (self, stats) {
            (Self::Gzip(settings), DecoderStats::Gzip(stats)) => {
                Box::new(settings.decoder(stats.clone()))
            }
            (Self::Brotli, DecoderStats::Brotli(stats)) => {
                Box::new(brotli::BrotliDecoder::new(stats.clone()))
            }
            (Self::Zstd(settings), DecoderStats::Zstd(stats)) => {
                Box::new(settings.decoder(stats.clone())?)
            }
            _ => return None,
        })
    }
}

/// Room to add to the output before a library is asked for more, in bytes.
fn grow(out: &mut Vec<u8>, likely: usize) {
    if out.capacity() - out.len() < 64 {
        out.reserve(likely.clamp(256, 64 * 1024));
    }
}

#[cfg(test)]
mod tests;
