//! HPACK (RFC 7541): header blocks to fields and back.

mod decode;
mod encode;
mod huffman;
mod table;

pub(super) use decode::{FieldSink, Name, NameClass, Pseudo};

pub use decode::{Decoder, HpackError};
pub use encode::Encoder;
