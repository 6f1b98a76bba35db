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
/// Reads of a connection whose messages do not fit: a body of 64 KiB comes with its head in one.
const LARGE: usize = 80 * 1024;
/// Below this much room in a buffer that holds a part of a message it is made larger.
const LEAST_ROOM: usize = 1024;
/// Buffers that a worker keeps, small and large ones.
const KEPT: [usize; 2] = [16, 4];

thread_local! {
    /// Some of them may still be lent to somebody who holds a part of what was read; that shows when they are taken.
    static FREE: RefCell<[Vec<BytesMut>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// The read side of a connection.
#[derive(Debug, Default)]
pub(crate) struct Input {
    buffer: BytesMut,
    /// What the buffer was when it was taken; none: there is no buffer.
    size: Option<Size>,
    /// A read of this message would have filled a small buffer.
    filled: bool,
    /// The next read gets a large buffer: this message or the one before it needs or needed one.
    large: bool,
    eof: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Small,
    Large,
}

impl Size {
    fn bytes(self) -> usize {
        match self {
            Self::Small => SMALL,
            Self::Large => LARGE,
        }
    }

    /// A buffer that nobody else holds a part of.
    fn take(self) -> BytesMut {
        let kept = FREE.with_borrow_mut(|free| {
            while let Some(mut buffer) = free[self as usize].pop() {
                // What somebody still holds a part of is theirs, and what grew beyond a read is not kept.
                if buffer.try_reclaim(self.bytes()) && buffer.capacity() <= 2 * self.bytes() {
                    return Some(buffer);
                }
            }
            None
        });
        kept.unwrap_or_else(|| BytesMut::with_capacity(self.bytes()))
    }

    fn put(self, buffer: BytesMut) {
        // During the destruction of the thread the list is gone, and the buffer goes with it.
        let _ = FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut()
                && free[self as usize].len() < KEPT[self as usize]
            {
                free[self as usize].push(buffer);
            }
        });
    }
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
        self.make_room();
        let room = self.buffer.capacity() - self.buffer.len();
        let polled = pin!(io.read_buf(&mut self.buffer)).poll(cx);
        if polled.is_pending() && self.buffer.is_empty() {
            self.give_back();
        }
        match ready!(polled) {
            Ok(count) => {
                self.eof = count == 0;
                self.filled |= count >= SMALL;
                self.large |= count == room;
                Poll::Ready(Ok(count))
            }
            Err(error) => {
                self.eof = true;
                Poll::Ready(Err(error))
            }
        }
    }

    /// Ends a message: the next one is taken to be as large.
    pub(crate) fn end_message(&mut self) {
        self.large = std::mem::take(&mut self.filled);
    }

    /// Gives an empty buffer back to the worker.
    pub(crate) fn give_back(&mut self) {
        if self.buffer.is_empty()
            && let Some(size) = self.size.take()
        {
            size.put(std::mem::take(&mut self.buffer));
        }
    }

    fn make_room(&mut self) {
        let room = self.buffer.capacity() - self.buffer.len();
        let want = if self.large { Size::Large } else { Size::Small };
        if self.buffer.is_empty() && room < want.bytes() {
            self.give_back();
            self.buffer = want.take();
            self.size = Some(want);
        } else if room < LEAST_ROOM {
            self.buffer.reserve(want.bytes());
        }
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

    #[tokio::test]
    async fn a_message_after_a_large_one_is_read_with_one_read() {
        let (near, mut far) = tokio::io::duplex(256 * 1024);
        let (mut io, mut input) = (Io::from(near), Input::default());
        let mut reads = Vec::new();
        for _ in 0..2 {
            far.write_all(&[b'x'; 66_000]).await.unwrap();
            let (mut came, mut count) = (0, 0);
            while came < 66_000 {
                came += poll_fn(|cx| input.poll_fill(&mut io, cx)).await.unwrap();
                input.consume(usize::MAX);
                count += 1;
            }
            input.end_message();
            reads.push(count);
        }
        far.write_all(b"small").await.unwrap();
        poll_fn(|cx| input.poll_fill(&mut io, cx)).await.unwrap();
        input.consume(5);
        input.end_message();
        assert_eq!((reads, input.large), (vec![2, 1], false));
    }

    #[tokio::test]
    async fn a_buffer_of_which_a_part_is_held_is_not_written_to() {
        let (near, mut far) = tokio::io::duplex(1024);
        let (mut io, mut input) = (Io::from(near), Input::default());
        let mut held = Vec::new();
        for text in [b"first", b"other", b"third"] {
            far.write_all(text).await.unwrap();
            poll_fn(|cx| input.poll_fill(&mut io, cx)).await.unwrap();
            held.push(input.take(5));
            input.give_back();
        }
        assert_eq!(held, ["first", "other", "third"]);
    }
}
