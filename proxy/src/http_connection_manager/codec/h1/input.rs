//! The bytes that were read and not used yet, in a buffer that the worker lends while there are any.

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use std::future::Future;
use tokio::io::AsyncReadExt;

use crate::net::Io;

/// The first read of a message: most messages fit.
const SMALL: usize = 16 * 1024;
/// Reads of a connection that filled a small buffer.
const LARGE: usize = 64 * 1024;
/// Below this much room in a buffer that holds a part of a message it is made larger.
const LEAST_ROOM: usize = 1024;
/// Buffers that a worker keeps.
const KEPT: usize = 16;

thread_local! {
    static FREE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// The read side of a connection.
#[derive(Debug, Default)]
pub(crate) struct Input {
    buffer: BytesMut,
    large: bool,
    eof: bool,
}

impl Input {
    /// What was read and not used.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Whether nothing is left over.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Whether the peer will send no more. Bytes may still be left over.
    pub(crate) fn is_eof(&self) -> bool {
        self.eof
    }

    /// Drops the first `count` bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        self.buffer.advance(count.min(self.buffer.len()));
    }

    /// The buffer itself, for a codec that takes out of it what it needs.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Takes the first `count` bytes out without copying them.
    pub(crate) fn take(&mut self, count: usize) -> Bytes {
        self.buffer.split_to(count.min(self.buffer.len())).freeze()
    }

    /// Reads once: gives how many bytes came, 0 at the end. Fewer bytes than there was room for tell the runtime that the
    /// socket is empty, so that no second call has to find that out.
    pub(crate) fn poll_fill(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        // Most often nothing has come: that costs no buffer.
        if io.poll_may_read(cx).is_pending() {
            self.give_back();
            return Poll::Pending;
        }
        let want = if self.large { LARGE } else { SMALL };
        if self.buffer.capacity() == 0
            && let Some(buffer) = FREE.with_borrow_mut(Vec::pop)
        {
            self.buffer = buffer;
        }
        let room = self.buffer.capacity() - self.buffer.len();
        if self.buffer.is_empty() || room < LEAST_ROOM {
            self.buffer.reserve(want);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let polled = pin!(io.read_buf(&mut self.buffer)).poll(cx);
        if polled.is_pending() && self.buffer.is_empty() {
            self.give_back();
        }
        match ready!(polled) {
            Ok(count) => {
                self.eof = count == 0;
                self.large |= count == room;
                Poll::Ready(Ok(count))
            }
            Err(error) => {
                self.eof = true;
                Poll::Ready(Err(error))
            }
        }
    }

    /// Ends a message: the next one starts with a small buffer again.
    pub(crate) fn end_message(&mut self) {
        self.large = false;
    }

    /// Gives an empty buffer back to the worker.
    pub(crate) fn give_back(&mut self) {
        if !self.buffer.is_empty() || self.buffer.capacity() == 0 {
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        // What somebody still holds a part of is theirs, and what grew beyond a read is not kept.
        if !buffer.try_reclaim(SMALL) || buffer.capacity() > LARGE {
            return;
        }
        let _ = FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut()
                && free.len() < KEPT
            {
                free.push(buffer);
            }
        });
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.buffer.clear();
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn a_waiting_connection_holds_no_buffer() {
        let (near, mut far) = tokio::io::duplex(64);
        let (mut io, mut input) = (Io::from(near), Input::default());
        poll_fn(|cx| {
            assert!(input.poll_fill(&mut io, cx).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!(input.buffer.capacity(), 0);
        far.write_all(b"hello").await.unwrap();
        let n = poll_fn(|cx| input.poll_fill(&mut io, cx)).await.unwrap();
        assert_eq!((n, input.bytes()), (5, &b"hello"[..]));
        assert_eq!(input.take(5), "hello");
        drop(far);
        assert_eq!(poll_fn(|cx| input.poll_fill(&mut io, cx)).await.unwrap(), 0);
        assert!(input.is_eof());
    }
}
