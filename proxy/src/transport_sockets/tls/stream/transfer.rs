//! Reading and writing of plaintext, and of ciphertext below it.

use std::cell::RefCell;
use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rustls::{Connection, Error};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{MOST_PLAINTEXT, State, TlsStream};
use crate::net::{Io, IoLayer};

/// Gives rustls bytes of the peer, as many as it takes before somebody reads the plaintext; the rest stays in `unread`.
pub(super) fn feed(
    connection: &mut Connection,
    bytes: &[u8],
    unread: &mut BytesMut,
) -> Result<(), Error> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match connection.read_tls(&mut rest) {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => break,
        }
        let state = connection.process_new_packets()?;
        if state.peer_has_closed() {
            return Ok(());
        }
        if state.plaintext_bytes_to_read() >= MOST_PLAINTEXT {
            break;
        }
    }
    unread.extend_from_slice(rest);
    Ok(())
}

/// Reads once and gives what came to `take`. None: the stream has ended.
pub(super) fn poll_fill<T>(
    io: &mut Io,
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<Option<T>>> {
    // Taken out, in case the stream below is one of this kind.
    let mut scratch = SCRATCH.take();
    scratch.resize(SCRATCH_SIZE, 0);
    let mut buf = ReadBuf::new(&mut scratch);
    let polled = Pin::new(io).poll_read(cx, &mut buf);
    let read = buf.filled();
    let result = polled.map_ok(|()| (!read.is_empty()).then(|| take(read)));
    SCRATCH.set(scratch);
    result
}

/// Writes all that rustls has to send.
pub(super) fn poll_drain(
    io: &mut Io,
    connection: &mut Connection,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while connection.wants_write() {
        match connection.write_tls(&mut Blocking { io, cx }) {
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
    Poll::Ready(Ok(()))
}

/// A stream as rustls writes to it.
pub(super) struct Blocking<'a, 'b> {
    pub(super) io: &'a mut Io,
    pub(super) cx: &'a mut Context<'b>,
}

impl Write for Blocking<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut *self.io).poll_write(self.cx, buf) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.io).poll_write_vectored(self.cx, bufs) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl IoLayer for TlsStream {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.state {
            State::Failed => Poll::Ready(()),
            _ if self.eof || self.unread.has_remaining() => Poll::Ready(()),
            // Plaintext that rustls holds can only be seen by reading.
            State::Open(connection) | State::Closed(connection) if !connection.wants_read() => {
                Poll::Ready(())
            }
            _ => self.io.poll_read_ready(cx),
        }
    }

    fn below(&self) -> &Io {
        &self.io
    }

    fn hold(&mut self) {
        self.held = true;
        self.io.hold();
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_handshake(cx))?;
        self.poll_records(cx, buf)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_encrypt(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_encrypt(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match &mut this.state {
            State::Open(_) if this.held => {}
            State::Open(connection) | State::Closed(connection) => {
                ready!(poll_drain(&mut this.io, connection, cx))?;
            }
            _ => {}
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_close(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

thread_local! {
    /// Where ciphertext is read to.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Two records of the largest size.
const SCRATCH_SIZE: usize = 33 * 1024;
