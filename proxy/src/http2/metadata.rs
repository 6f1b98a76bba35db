//! METADATA frames, Envoy's extension: maps that go along with a stream, beside its messages. They are taken with
//! `allow_metadata`, and skipped without as every frame that nobody knows.
//! Docs: <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/http2_metadata> (draft).

use std::collections::BTreeMap;

use super::connection::{Connection, Failure};
use super::frame::{self, ErrorCode, FrameHead};
use super::hpack::{Decoder, Encoder};
use super::stream::{Receive, Received, Send};

/// Bytes that the streams of a connection may hold, in maps of the largest size.
const MAPS_HELD: usize = 4;

/// What one or several METADATA frames carry: names and values, each name once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataMap {
    entries: BTreeMap<Box<[u8]>, Box<[u8]>>,
    /// Bytes on the wire, for as long as it is counted as held.
    size: usize,
}

/// What a stream holds of metadata.
#[derive(Debug, Default)]
pub(super) struct HeldMetadata {
    /// Of a map of which more is to come.
    block: Vec<u8>,
    /// Bytes of maps that nobody has taken, and of the block.
    pub(super) size: usize,
}

impl MetadataMap {
    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Bytes that it had on the wire.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Reads a block. None: it is broken.
    fn read(block: &[u8]) -> Option<Self> {
        let mut map = Self {
            size: block.len(),
            ..Self::default()
        };
        let read = Decoder::default().decode_fields(block, |name, value| {
            // As in Envoy, the first of several values stays; so what is decoded is not much larger than the block.
            if !map.entries.contains_key(name) {
                map.entries.insert(name.into(), value.into());
            }
        });
        read.ok().map(|()| map)
    }

    /// Writes a block that needs no table.
    fn write(&self, huffman: bool) -> Vec<u8> {
        let mut encoder = Encoder::new(0, huffman);
        let mut block = Vec::new();
        encoder.begin(&mut block);
        for (name, value) in self.iter() {
            encoder.field(None, name, value, &mut block);
        }
        block
    }
}

impl Connection {
    pub(super) fn metadata(&mut self, head: &FrameHead, payload: &[u8]) -> Result<(), Failure> {
        let options = &self.config.options;
        if !options.allow_metadata {
            return Ok(());
        }
        let largest = options.max_metadata_size;
        let Some(stream) = self.streams.get_mut(&head.stream) else {
            return Ok(());
        };
        if stream.receive == Receive::Closed || stream.released {
            return Ok(());
        }
        let held = stream.metadata.get_or_insert_default();
        if held.block.len() + payload.len() > largest {
            return Err(Failure::silent());
        }
        held.block.extend_from_slice(payload);
        held.size += payload.len();
        self.metadata_held += payload.len();
        // Envoy differs: it holds what it is sent.
        if self.metadata_held > largest.saturating_mul(MAPS_HELD) {
            return Err(Failure::told(ErrorCode::ENHANCE_YOUR_CALM));
        }
        if !head.has(frame::END_METADATA) {
            return Ok(());
        }
        let map = MetadataMap::read(&std::mem::take(&mut held.block)).ok_or(Failure::silent())?;
        if map.entries.is_empty() {
            held.size -= map.size;
            self.metadata_held -= map.size;
            self.count(|stats| stats.metadata_empty_frames().inc());
            return Ok(());
        }
        stream.deliver(Received::Metadata(Box::new(map)));
        Ok(())
    }

    /// Notes that the owner of a stream has taken a map.
    pub(super) fn metadata_taken(&mut self, id: u32, map: &MetadataMap) {
        self.metadata_held -= map.size;
        if let Some(stream) = self.streams.get_mut(&id)
            && let Some(held) = &mut stream.metadata
        {
            held.size -= map.size;
        }
    }

    /// Sends metadata of a stream at once, past the data that waits on it. Nothing, where the options do not allow it.
    pub fn send_metadata(&mut self, id: u32, map: &MetadataMap) {
        let options = &self.config.options;
        let is_open = self
            .streams
            .get(&id)
            .is_some_and(|stream| !matches!(stream.send, Send::Closed));
        if !options.allow_metadata || !is_open || !self.is_alive() {
            return;
        }
        let block = map.write(options.enable_huffman_encoding);
        let mut pieces = block.chunks(self.peer.max_frame_size).peekable();
        while let Some(piece) = pieces.next() {
            let flags = match pieces.peek() {
                Some(_) => 0,
                None => frame::END_METADATA,
            };
            self.out.frame(frame::METADATA, flags, id, piece);
            self.note_frame(false);
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.meter.wire_sent += (piece.len() + frame::HEAD) as u64;
            }
        }
    }
}
