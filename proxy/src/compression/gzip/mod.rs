//! gzip (RFC 1952): zlib-rs packs bodies that come in pieces and unpacks, libdeflate packs those that are there as a whole.

mod decoder;
mod encoder;

pub(super) use decoder::{DecoderSettings, DecoderStats};
pub(super) use encoder::EncoderSettings;
