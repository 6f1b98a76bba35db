//! What waits to be written on a connection.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::frame::{self, FrameHead};
use crate::net::Io;
use crate::net::Output;

/// Frames in the order of the wire; large data as it was read, all else copied together.
#[derive(Default)]
pub(super) struct Outgoing {
    output: Output,
    /// Bytes that were ever queued.
    total: u64,
}

impl Outgoing {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.output.len()
    }

    /// Bytes that were ever queued.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that were ever written.
    pub(super) fn written(&self) -> u64 {
        self.total - self.output.len() as u64
    }

    /// Queues raw bytes.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        self.output.small().extend_from_slice(bytes);
    }

    /// Queues a small frame.
    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let head = FrameHead {
            length: payload.len(),
            kind,
            flags,
            stream,
        };
        self.raw(&head.bytes());
        self.raw(payload);
    }

    /// Queues a piece of the payload of a frame whose head was queued before.
    pub(super) fn data(&mut self, data: Bytes) {
        self.total += data.len() as u64;
        self.output.push(data);
    }

    /// Queues HEADERS with the block that `write` writes, and CONTINUATION if it is longer than a frame. Gives the number of
    /// bytes and of frames.
    pub(super) fn headers(
        &mut self,
        stream: u32,
        end_stream: bool,
        max_frame_size: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> (usize, usize) {
        let out = self.output.small();
        let start = out.len();
        out.extend_from_slice(&[0; frame::HEAD]);
        write(out);
        let block = out.len() - start - frame::HEAD;
        let end_flag = if end_stream { frame::END_STREAM } else { 0 };
        let mut head = FrameHead {
            length: block.min(max_frame_size),
            kind: frame::HEADERS,
            flags: end_flag
                | if block <= max_frame_size {
                    frame::END_HEADERS
                } else {
                    0
                },
            stream,
        };
        if let Some(place) = out.get_mut(start..start + frame::HEAD) {
            place.copy_from_slice(&head.bytes());
        }
        let mut frames = 1;
        if block > max_frame_size {
            let rest = out.split_off(start + frame::HEAD + max_frame_size);
            let mut pieces = rest.chunks(max_frame_size).peekable();
            while let Some(piece) = pieces.next() {
                head.length = piece.len();
                head.kind = frame::CONTINUATION;
                head.flags = if pieces.peek().is_none() {
                    frame::END_HEADERS
                } else {
                    0
                };
                out.extend_from_slice(&head.bytes());
                out.extend_from_slice(piece);
                frames += 1;
            }
        }
        let bytes = out.len() - start;
        self.total += bytes as u64;
        (bytes, frames)
    }

    /// Writes until nothing waits or the socket takes no more.
    pub(super) fn poll_write(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.poll_write(io, cx)
    }

    /// Gives the buffer of a connection that says nothing back to the worker.
    pub(super) fn give_back(&mut self) {
        self.output.give_back();
    }

    /// Takes all bytes that wait.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.output.take_bytes()
    }
}
