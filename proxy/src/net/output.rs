//! The bytes that wait to be written: small ones copied together, large ones as they came.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use crate::net::Io;

/// Data up to this size is copied behind the head, so that one plain write carries both.
const COPIED: usize = 4 * 1024;
/// Slices of one vectored write.
const SLICES: usize = 16;
/// Written bytes at the start of the buffer above which the rest is moved down.
const COMPACTED: usize = 8 * 1024;
/// What a new buffer has room for.
const ROOM: usize = 5 * 1024;
/// Buffers that a worker keeps, and their largest size.
const KEPT: usize = 16;
const LARGEST_KEPT: usize = 32 * 1024;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The write side of a connection.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Heads, framing and small data, in the order of the wire.
    small: Vec<u8>,
    /// How much of `small` is written.
    written: usize,
    /// Large data, each with the place in `small` that it follows.
    large: VecDeque<(usize, Bytes)>,
    /// Bytes in `large`.
    large_bytes: usize,
    failed: bool,
}

impl Output {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.small.len() - self.written + self.large_bytes
    }

    /// Whether a write has failed: what was queued is gone, and what follows goes nowhere.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Where heads and framing are written to.
    pub(crate) fn small(&mut self) -> &mut Vec<u8> {
        if self.small.capacity() == 0 {
            self.small = FREE
                .with_borrow_mut(Vec::pop)
                .unwrap_or_else(|| Vec::with_capacity(ROOM));
        }
        &mut self.small
    }

    /// Queues data.
    pub(crate) fn push(&mut self, data: Bytes) {
        if data.len() <= COPIED {
            self.small().extend_from_slice(&data);
        } else {
            self.large_bytes += data.len();
            self.large.push_back((self.small.len(), data));
        }
    }

    /// Writes until nothing waits or the socket takes no more. An error drops what waits.
    pub(crate) fn poll_write(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.failed {
            self.drop_queued();
            return Poll::Ready(Ok(()));
        }
        while self.len() > 0 {
            let written = ready!(self.poll_write_once(io, cx));
            match written {
                Ok(count @ 1..) => self.advance(count),
                Ok(_) => return Poll::Ready(Err(self.fail(io::ErrorKind::WriteZero.into()))),
                Err(error) => return Poll::Ready(Err(self.fail(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Gives the buffer of an idle connection back to the worker.
    pub(crate) fn give_back(&mut self) {
        if self.len() > 0 {
            return;
        }
        self.large = VecDeque::new();
        self.give_back_small();
    }

    /// Gives the buffer back once it is written: it serves the next connection while it is still in the processor's cache.
    fn give_back_small(&mut self) {
        if self.small.capacity() == 0 {
            return;
        }
        let mut buffer = std::mem::take(&mut self.small);
        self.written = 0;
        if buffer.capacity() > LARGEST_KEPT {
            return;
        }
        buffer.clear();
        let _ = FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut()
                && free.len() < KEPT
            {
                free.push(buffer);
            }
        });
    }

    /// Takes all bytes that wait, for those who have no socket.
    pub(crate) fn take_bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        let mut from = self.written;
        for (place, data) in self.large.drain(..) {
            bytes.extend_from_slice(self.small.get(from..place).unwrap_or_default());
            bytes.extend_from_slice(&data);
            from = place;
        }
        bytes.extend_from_slice(self.small.get(from..).unwrap_or_default());
        self.drop_queued();
        bytes
    }

    fn poll_write_once(&self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let io = Pin::new(io);
        if self.large.is_empty() {
            return io.poll_write(cx, self.small.get(self.written..).unwrap_or_default());
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut used = 0;
        let mut from = self.written;
        for (place, data) in &self.large {
            if used + 2 > SLICES {
                break;
            }
            if *place > from {
                slices[used] = IoSlice::new(self.small.get(from..*place).unwrap_or_default());
                used += 1;
                from = *place;
            }
            slices[used] = IoSlice::new(data);
            used += 1;
        }
        let all = self.large.len() * 2 < SLICES;
        if all && from < self.small.len() && used < SLICES {
            slices[used] = IoSlice::new(self.small.get(from..).unwrap_or_default());
            used += 1;
        }
        io.poll_write_vectored(cx, slices.get(..used).unwrap_or_default())
    }

    fn advance(&mut self, mut count: usize) {
        while let Some((place, data)) = self.large.front_mut() {
            let before = *place - self.written;
            if count < before {
                break;
            }
            count -= before;
            self.written = *place;
            let taken = count.min(data.len());
            self.large_bytes -= taken;
            count -= taken;
            if taken < data.len() {
                bytes::Buf::advance(data, taken);
                break;
            }
            self.large.pop_front();
        }
        self.written += count;
        if self.len() == 0 {
            self.give_back_small();
        } else if self.written > COMPACTED {
            self.small.drain(..self.written);
            for (place, _) in &mut self.large {
                *place -= self.written;
            }
            self.written = 0;
        }
    }

    fn fail(&mut self, error: io::Error) -> io::Error {
        self.failed = true;
        self.drop_queued();
        error
    }

    fn drop_queued(&mut self) {
        self.small.clear();
        self.written = 0;
        self.large.clear();
        self.large_bytes = 0;
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.drop_queued();
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt;

    proptest! {
        #[test]
        fn bytes_leave_in_the_order_they_came_in_whatever_the_socket_takes(
            sizes in proptest::collection::vec(0usize..9000, 1..30),
            pipe in 1usize..20_000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (near, mut far) = tokio::io::duplex(pipe);
                let (mut io, mut output) = (Io::from(near), Output::default());
                let mut wanted = Vec::new();
                for (index, size) in sizes.iter().enumerate() {
                    let data = vec![u8::try_from(index).unwrap(); *size];
                    wanted.extend_from_slice(&data);
                    if index % 3 == 0 {
                        output.small().extend_from_slice(b"head");
                        wanted.extend_from_slice(b"head");
                    }
                    wanted.truncate(wanted.len());
                    if index % 3 == 0 {
                        let at = wanted.len() - 4 - size;
                        wanted[at..].rotate_right(4);
                    }
                    output.push(data.into());
                }
                assert_eq!(output.len(), wanted.len());
                let write = async {
                    poll_fn(|cx| output.poll_write(&mut io, cx)).await.unwrap();
                    drop(io);
                };
                let mut got = Vec::new();
                let (_, read) = tokio::join!(write, far.read_to_end(&mut got));
                read.unwrap();
                assert!(got == wanted);
                assert_eq!(output.len(), 0);
            });
        }
    }

    #[tokio::test]
    async fn a_failed_write_drops_what_waits() {
        let (near, far) = tokio::io::duplex(8);
        drop(far);
        let (mut io, mut output) = (Io::from(near), Output::default());
        output.push(Bytes::from_static(b"hello"));
        let result = poll_fn(|cx| output.poll_write(&mut io, cx)).await;
        assert!(result.is_err());
        assert!(output.has_failed());
        output.push(Bytes::from_static(b"more"));
        poll_fn(|cx| output.poll_write(&mut io, cx)).await.unwrap();
        assert_eq!(output.len(), 0);
    }
}
