//! A byte stream: TCP, UNIX, in memory, or what is laid over one of them. TLS joins here.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connection's bytes. What listener filters have read comes out first.
#[derive(Debug)]
pub struct Io {
    kind: Kind,
    prefix: Bytes,
    /// What is written waits for the end of the stream.
    held: bool,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpStream),
    Unix(UnixStream),
    Memory(DuplexStream),
    Layered(Box<dyn IoLayer>),
}

/// What is laid over another stream: it sees and may change all bytes.
pub trait IoLayer: AsyncRead + AsyncWrite + Unpin + fmt::Debug {
    /// As [`Io::poll_read_ready`]. Ready may also mean that only a read can tell.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// The stream below.
    fn below(&self) -> &Io;

    /// As [`Io::hold`]. A layer that does not know how writes as ever.
    fn hold(&mut self) {}
}

macro_rules! each {
    ($self:expr, $stream:ident => $body:expr) => {
        match &mut $self.kind {
            Kind::Tcp($stream) => $body,
            Kind::Unix($stream) => $body,
            Kind::Memory($stream) => $body,
            Kind::Layered($stream) => $body,
        }
    };
}

impl Io {
    /// A stream that goes through a layer.
    pub fn layered(layer: Box<dyn IoLayer>) -> Self {
        Self {
            kind: Kind::Layered(layer),
            prefix: Bytes::new(),
            held: false,
        }
    }

    /// Puts bytes that were already read in front of what is still to be read.
    pub fn with_prefix(mut self, prefix: Bytes) -> Self {
        self.prefix = prefix;
        self
    }

    /// What is written from now on is the last, little, and [`AsyncWrite::poll_shutdown`] follows at once: both may go to the
    /// peer together, which saves it and us two packets of three.
    pub fn hold(&mut self) {
        match &mut self.kind {
            Kind::Tcp(_) => self.held = true,
            Kind::Layered(layer) => layer.hold(),
            Kind::Unix(_) | Kind::Memory(_) => {}
        }
    }

    /// Whether the peer has sent something, or has closed, that was not read yet. Needs no system call.
    /// The task of `cx` is woken when that changes.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.prefix.is_empty() {
            return Poll::Ready(());
        }
        match &self.kind {
            Kind::Tcp(stream) => stream.poll_read_ready(cx).map(|_| ()),
            Kind::Unix(stream) => stream.poll_read_ready(cx).map(|_| ()),
            Kind::Memory(_) => Poll::Pending,
            Kind::Layered(layer) => layer.poll_read_ready(cx),
        }
    }

    /// As [`Self::poll_read_ready`], but a connection that is no socket is always worth a try.
    #[inline]
    pub fn poll_may_read(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.kind {
            Kind::Tcp(_) | Kind::Unix(_) => self.poll_read_ready(cx),
            _ => Poll::Ready(()),
        }
    }

    /// The socket, if all that comes from now on comes from it, as for `splice`.
    pub fn as_spliceable(&self) -> Option<&TcpStream> {
        self.as_tcp().filter(|_| self.prefix.is_empty())
    }

    /// The socket, if nothing lies between, for its options.
    pub fn as_tcp(&self) -> Option<&TcpStream> {
        match &self.kind {
            Kind::Tcp(stream) => Some(stream),
            _ => None,
        }
    }

    /// Where the client wanted to go before the kernel redirected the connection (`SO_ORIGINAL_DST`).
    pub fn original_destination(&self) -> Option<std::net::SocketAddr> {
        let stream = match &self.kind {
            Kind::Tcp(stream) => stream,
            Kind::Layered(layer) => return layer.below().original_destination(),
            Kind::Unix(_) | Kind::Memory(_) => return None,
        };
        let socket = socket2::SockRef::from(stream);
        let address = match stream.local_addr().ok()? {
            std::net::SocketAddr::V4(_) => socket.original_dst_v4(),
            std::net::SocketAddr::V6(_) => socket.original_dst_v6(),
        };
        address.ok()?.as_socket()
    }

    /// Makes `close` send a reset instead of a FIN, for peers that must notice.
    pub fn reset_on_close(&self) {
        match &self.kind {
            Kind::Tcp(stream) => {
                let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
            }
            Kind::Layered(layer) => layer.below().reset_on_close(),
            Kind::Unix(_) | Kind::Memory(_) => {}
        }
    }
}

/// Writes what the kernel may keep until the FIN.
fn poll_send_more(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    bufs: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        let sent = stream.try_io(Interest::WRITABLE, || {
            socket2::SockRef::from(stream)
                .send_vectored_with_flags(bufs, libc::MSG_MORE | libc::MSG_NOSIGNAL)
        });
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
    }
}

impl From<TcpStream> for Io {
    fn from(stream: TcpStream) -> Self {
        Self {
            kind: Kind::Tcp(stream),
            prefix: Bytes::new(),
            held: false,
        }
    }
}
impl From<UnixStream> for Io {
    fn from(stream: UnixStream) -> Self {
        Self {
            kind: Kind::Unix(stream),
            prefix: Bytes::new(),
            held: false,
        }
    }
}
impl From<DuplexStream> for Io {
    fn from(stream: DuplexStream) -> Self {
        Self {
            kind: Kind::Memory(stream),
            prefix: Bytes::new(),
            held: false,
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let n = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix[..n]);
            self.prefix.advance(n);
            if self.prefix.is_empty() {
                // Even a part of nothing would keep the buffer that it was read into.
                self.prefix = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let (true, Kind::Tcp(stream)) = (self.held, &self.kind) {
            return poll_send_more(stream, cx, &[io::IoSlice::new(buf)]);
        }
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let (true, Kind::Tcp(stream)) = (self.held, &self.kind) {
            return poll_send_more(stream, cx, bufs);
        }
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            Kind::Tcp(_) | Kind::Unix(_) => true,
            Kind::Memory(_) => false,
            Kind::Layered(layer) => layer.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_is_held_arrives_before_the_end_of_the_stream() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut far = TcpStream::connect(address).await.unwrap();
        let mut near = Io::from(listener.accept().await.unwrap().0);
        near.write_all(b"first ").await.unwrap();
        near.hold();
        near.write_all(b"then ").await.unwrap();
        let slices = [io::IoSlice::new(b"the "), io::IoSlice::new(b"last")];
        assert_eq!(near.write_vectored(&slices).await.unwrap(), 8);
        near.shutdown().await.unwrap();
        let mut all = String::new();
        far.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "first then the last");
    }
}
