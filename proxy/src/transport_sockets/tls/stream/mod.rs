//! A TLS connection over another stream: the handshake, then records.
//!
//! The handshake is driven by whoever reads or writes first, as in Envoy: network filters exist before it, and an HTTP
//! connection manager learns the protocol with the first bytes. Ciphertext is read into a buffer of the thread, so that an
//! idle connection holds none; one read of the socket and one write serve a request and its response.

mod handshake;
mod transfer;

use std::io::{self, BufRead, IoSlice, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use rustls::Connection;
use tokio::io::ReadBuf;

use super::failure;
use super::server::{Accepting, Refusal};
use super::stats::TlsStats;
use crate::net::Io;
use crate::stream_info::ConnectionInfo;

use transfer::{Blocking, feed, poll_drain, poll_fill};

pub(super) use handshake::{Handshake, Role};

/// A TLS connection.
#[derive(Debug)]
pub(super) struct TlsStream {
    io: Io,
    state: State,
    /// Ciphertext that came with more plaintext than anybody wanted yet.
    unread: BytesMut,
    /// How much of what a write was given is encrypted already; the same bytes are given again until the socket has taken them.
    encrypted: usize,
    /// What is encrypted goes out together with our close.
    held: bool,
    /// The peer has closed the stream below.
    eof: bool,
    /// Who is told when a record is not as it must be.
    watch: Option<Watch>,
}

/// Who is told of failures after the handshake.
pub(super) struct Watch {
    pub(super) stats: Arc<TlsStats>,
    /// Of a server.
    pub(super) info: Option<Rc<ConnectionInfo>>,
}

enum State {
    /// A server waits for the ClientHello.
    Accepting(Box<Accepting>),
    Handshaking(Box<Handshake>),
    Open(Box<Connection>),
    /// We have said that nothing more comes from us.
    Closed(Box<Connection>),
    Failed,
}

impl TlsStream {
    pub(super) fn server(io: Io, accepting: Accepting) -> Self {
        Self::new(io, State::Accepting(Box::new(accepting)))
    }

    pub(super) fn client(io: Io, handshake: Handshake) -> Self {
        Self::new(io, State::Handshaking(Box::new(handshake)))
    }

    /// A connection that is closed at once.
    pub(super) fn refused(io: Io) -> Self {
        Self::new(io, State::Failed)
    }

    fn new(io: Io, state: State) -> Self {
        Self {
            io,
            state,
            unread: BytesMut::new(),
            encrypted: 0,
            held: false,
            eof: false,
            watch: None,
        }
    }

    /// Drives the handshake to its end.
    pub(super) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.state {
                State::Open(_) | State::Closed(_) => return Poll::Ready(Ok(())),
                State::Failed => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                State::Accepting(accepting) => {
                    if accepting.role.poll_expired(cx) {
                        return self.fail(io::ErrorKind::TimedOut.into());
                    }
                    let read = ready!(poll_fill(&mut self.io, cx, |bytes| accepting.feed(bytes)));
                    let accepted = match read {
                        Ok(Some(accepted)) => accepted,
                        Ok(None) => return self.fail(io::ErrorKind::UnexpectedEof.into()),
                        Err(error) => return self.fail(error),
                    };
                    match accepted {
                        Ok(None) => {}
                        Ok(Some(handshake)) => {
                            self.state = State::Handshaking(Box::new(handshake));
                        }
                        Err(refusal) => {
                            let io = &mut self.io;
                            // It goes out if the socket takes it now.
                            let _ = match refusal {
                                Refusal::Alert(mut alert) => {
                                    alert.write(&mut Blocking { io, cx }).map(|_| ())
                                }
                                Refusal::Plain(record) => Blocking { io, cx }.write_all(&record),
                                Refusal::Silent => Ok(()),
                            };
                            return self.fail(io::ErrorKind::InvalidData.into());
                        }
                    }
                }
                State::Handshaking(_) => ready!(self.poll_step(cx))?,
            }
        }
    }

    /// Writes what there is to write, then reads once, unless the handshake is complete.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let State::Handshaking(handshake) = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        if handshake.poll_expired(cx) {
            return self.fail(io::ErrorKind::TimedOut.into());
        }
        if let Err(error) = ready!(poll_drain(&mut self.io, &mut handshake.connection, cx)) {
            return self.fail(error);
        }
        if !handshake.connection.is_handshaking() {
            let result = handshake.complete();
            let State::Handshaking(handshake) = std::mem::replace(&mut self.state, State::Failed)
            else {
                return Poll::Ready(Ok(()));
            };
            let Handshake {
                connection, role, ..
            } = *handshake;
            self.watch = Some(role.into_watch());
            return match result {
                Ok(()) => {
                    self.state = State::Open(connection);
                    Poll::Ready(Ok(()))
                }
                Err(error) => Poll::Ready(Err(error)),
            };
        }
        let unread = &mut self.unread;
        let read = ready!(poll_fill(&mut self.io, cx, |bytes| handshake.feed(bytes, unread)));
        let error = match read {
            Ok(Some(Ok(()))) => return Poll::Ready(Ok(())),
            Ok(Some(Err(error))) => {
                // The alert goes out if the socket takes it now.
                let _ = poll_drain(&mut self.io, &mut handshake.connection, cx);
                handshake.failed(&error)
            }
            Ok(None) => handshake.closed(),
            Err(error) => error,
        };
        self.fail(error)
    }

    fn fail<T>(&mut self, error: io::Error) -> Poll<io::Result<T>> {
        self.state = State::Failed;
        Poll::Ready(Err(error))
    }

    /// Copies plaintext out; Some: this many bytes, 0 at the end.
    fn take_plaintext(connection: &mut Connection, buf: &mut ReadBuf<'_>) -> Option<usize> {
        let mut taken = 0;
        let mut reader = connection.reader();
        while buf.remaining() > 0 {
            match reader.fill_buf() {
                Ok([]) => return Some(taken),
                Ok(chunk) => {
                    let count = chunk.len().min(buf.remaining());
                    buf.put_slice(&chunk[..count]);
                    reader.consume(count);
                    taken += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A peer that closes without saying so has closed.
                Err(_) => return Some(taken),
            }
        }
        (taken > 0).then_some(taken)
    }

    fn poll_records(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let (State::Open(connection) | State::Closed(connection)) = &mut self.state else {
                return Poll::Ready(Ok(()));
            };
            if Self::take_plaintext(connection, buf).is_some() || self.eof {
                return Poll::Ready(Ok(()));
            }
            let unread = &mut self.unread;
            let fed = if unread.is_empty() {
                // Answers of rustls, to key updates for example, go out when they can.
                let drained = poll_drain(&mut self.io, connection, cx);
                let read = poll_fill(&mut self.io, cx, |bytes| feed(connection, bytes, unread));
                drop(drained);
                match ready!(read)? {
                    Some(fed) => fed,
                    None => {
                        self.eof = true;
                        let _ = connection.read_tls(&mut io::empty());
                        let _ = connection.process_new_packets();
                        Ok(())
                    }
                }
            } else {
                let bytes = unread.split();
                feed(connection, &bytes, unread)
            };
            if let Err(error) = fed {
                let _ = poll_drain(&mut self.io, connection, cx);
                let text = failure::text(failure::reason_of(&error, b""), None);
                if let Some(Watch { stats, info }) = &self.watch {
                    stats.ssl.connection_error().inc();
                    if let Some(info) = info {
                        let reason = Some(text.as_str().into());
                        info.transport_failure_reason.replace(reason);
                    }
                }
                return self.fail(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
    }

    fn poll_encrypt(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_handshake(cx))?;
        let State::Open(connection) = &mut self.state else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        loop {
            if self.encrypted == 0 {
                self.encrypted = connection.writer().write_vectored(bufs)?;
            }
            let is_all = || self.encrypted == bufs.iter().map(|buf| buf.len()).sum::<usize>();
            if !(self.held && is_all()) {
                ready!(poll_drain(&mut self.io, connection, cx))?;
            }
            if self.encrypted > 0 || bufs.iter().all(|buf| buf.is_empty()) {
                return Poll::Ready(Ok(std::mem::take(&mut self.encrypted)));
            }
        }
    }

    /// Says that nothing more comes from us.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let State::Open(_) = self.state
            && let State::Open(mut connection) = std::mem::replace(&mut self.state, State::Failed)
        {
            connection.send_close_notify();
            self.state = State::Closed(connection);
        }
        match &mut self.state {
            State::Closed(connection) => poll_drain(&mut self.io, connection, cx),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Accepting(_) => "Accepting",
            Self::Handshaking(_) => "Handshaking",
            Self::Open(_) => "Open",
            Self::Closed(_) => "Closed",
            Self::Failed => "Failed",
        })
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        // A peer that is not told takes the end of the stream for an attack; what the socket does not take now is lost.
        let _ = self.poll_close(&mut Context::from_waker(Waker::noop()));
    }
}

/// How much plaintext may wait before no more is decrypted.
const MOST_PLAINTEXT: usize = 16 * 1024;

/// How many bytes tell what a peer speaks.
const FIRST: usize = 8;

#[cfg(test)]
mod tests;
