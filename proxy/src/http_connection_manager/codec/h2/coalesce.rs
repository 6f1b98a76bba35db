//! Gathers what the crate `h2` writes, so that one system call carries the frames of one wake-up.
//!
//! The crate flushes after every data frame that it does not copy. Here a flush only promises; who drives the connection
//! calls [`Flusher::poll`] when the crate has nothing left to say.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http_connection_manager::codec::h1::Output;
use crate::net::Io;

/// Bytes above which a write waits for the socket.
const LIMIT: usize = 64 * 1024;

/// The connection as the crate sees it.
pub(crate) struct Coalesced(Rc<RefCell<Shared>>);

/// Sends what was gathered.
pub(crate) struct Flusher(Rc<RefCell<Shared>>);

struct Shared {
    io: Io,
    output: Output,
}

/// Splits a connection into what the crate writes to and what sends it.
pub(crate) fn coalesce(io: Io) -> (Coalesced, Flusher) {
    let shared = Rc::new(RefCell::new(Shared {
        io,
        output: Output::default(),
    }));
    (Coalesced(shared.clone()), Flusher(shared))
}

impl Flusher {
    /// Sends until nothing is left or the socket takes no more; then the task of `cx` is woken when it does. An error shows
    /// at the next write or read of the crate.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) {
        let _ = self.0.borrow_mut().poll_send(cx);
    }
}

impl Shared {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.len() > 0 {
            ready!(self.output.poll_write(&mut self.io, cx))?;
            self.output.give_back();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.has_failed() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.output.len() < LIMIT {
            return Poll::Ready(Ok(()));
        }
        self.poll_send(cx)
    }
}

impl AsyncRead for Coalesced {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Coalesced {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut shared = self.0.borrow_mut();
        ready!(shared.poll_room(cx))?;
        shared.output.small().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut shared = self.0.borrow_mut();
        ready!(shared.poll_room(cx))?;
        let out = shared.output.small();
        let before = out.len();
        for slice in slices {
            out.extend_from_slice(slice);
        }
        Poll::Ready(Ok(out.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.borrow_mut();
        ready!(shared.poll_send(cx))?;
        Pin::new(&mut shared.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn frames_leave_together_when_the_driver_says_so() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let (mut writer, flusher) = coalesce(Io::from(near));
        writer.write_all(b"one").await.unwrap();
        writer.flush().await.unwrap();
        writer.write_all(b"two").await.unwrap();
        let mut got = [0; 16];
        let early = poll_fn(|cx| {
            let mut buffer = ReadBuf::new(&mut got);
            Poll::Ready(Pin::new(&mut far).poll_read(cx, &mut buffer).is_ready())
        });
        assert!(!early.await);
        poll_fn(|cx| {
            flusher.poll(cx);
            Poll::Ready(())
        })
        .await;
        assert_eq!(far.read(&mut got).await.unwrap(), 6);
        assert_eq!(&got[..6], b"onetwo");
    }

    #[tokio::test]
    async fn a_writer_waits_for_a_slow_reader() {
        let (near, mut far) = tokio::io::duplex(1024);
        let (mut writer, flusher) = coalesce(Io::from(near));
        writer.write_all(&vec![7; LIMIT]).await.unwrap();
        let blocked =
            poll_fn(|cx| Poll::Ready(Pin::new(&mut writer).poll_write(cx, b"x").is_pending()));
        assert!(blocked.await);
        let mut got = vec![0; LIMIT];
        let read = far.read_exact(&mut got);
        let write = poll_fn(|cx| flusher.0.borrow_mut().poll_send(cx));
        let (read, written) = tokio::join!(read, write);
        assert_eq!(read.unwrap(), LIMIT);
        written.unwrap();
    }
}
