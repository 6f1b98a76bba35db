//! A TLS connection over another stream: the handshake, then records.
//!
//! The handshake is driven by whoever reads or writes first, as in Envoy: network filters exist before it, and an HTTP
//! connection manager learns the protocol with the first bytes. Ciphertext is read into a buffer of the thread, so that an
//! idle connection holds none; one read of the socket and one write serve a request and its response.

use std::cell::RefCell;
use std::io::{self, BufRead, IoSlice, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use rustls::{Connection, Error, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client::ClientRole;
use super::failure;
use super::server::{Accepting, Refusal, ServerRole};
use super::stats::TlsStats;
use super::verify::{FailureStat, Report, exchange};
use crate::net::{Io, IoLayer};
use crate::stream_info::ConnectionInfo;

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

/// A handshake under way.
pub(super) struct Handshake {
    pub(super) connection: Box<Connection>,
    pub(super) role: Role,
    pub(super) report: Option<Report>,
    /// The first bytes that came, to tell what else than TLS a peer speaks.
    pub(super) first: Vec<u8>,
    /// The last record that came is an alert in plain text.
    pub(super) plain_alert: bool,
}

/// Which side we are, and who wants to know how the handshake ends.
pub(super) enum Role {
    Server(ServerRole),
    Client(ClientRole),
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

impl Handshake {
    /// Gives rustls bytes of the peer.
    fn feed(&mut self, bytes: &[u8], unread: &mut BytesMut) -> Result<(), Error> {
        if self.first.is_empty() {
            self.first
                .extend_from_slice(bytes.get(..FIRST).unwrap_or(bytes));
        }
        self.plain_alert = matches!(bytes, [.., 0x15, 3, 3, 0, 2, _, _]);
        let Self {
            connection,
            role,
            report,
            ..
        } = self;
        let (server_name, names) = role.wanted();
        exchange(server_name, names, report, || {
            feed(connection, bytes, unread)
        })
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.role {
            Role::Server(role) => role.poll_expired(cx),
            Role::Client(_) => false,
        }
    }

    fn complete(&mut self) -> io::Result<()> {
        let report = self.report.take().unwrap_or_default();
        match &mut self.role {
            Role::Server(role) => role.complete(&self.connection, report),
            Role::Client(role) => role.complete(&self.connection, report),
        }
    }

    fn failed(&mut self, error: &Error) -> io::Error {
        let mut report = self.report.take().unwrap_or_default();
        let text = match &report.verdict.failure {
            Some(failed) if failed.stat == FailureStat::KeyUsage => {
                // The library has not taken the certificate at all.
                report.peer_chain.clear();
                failure::text(failure::KEY_USAGE_BIT_INCORRECT, None)
            }
            Some(failed) => failure::text(
                failure::CERTIFICATE_VERIFY_FAILED,
                Some(&*failed.text).filter(|text| !text.is_empty()),
            ),
            None if self.plain_alert
                && matches!(error, Error::AlertReceived(_))
                && self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3) =>
            {
                failure::plain_alert()
            }
            None if matches!(self.role, Role::Client(_))
                && self.connection.protocol_version().is_none() =>
            {
                failure::of_server(error, &self.first)
            }
            None => failure::text(failure::reason_of(error, &self.first), None),
        };
        match &mut self.role {
            Role::Server(role) => role.failed(Some(&self.connection), error, report, &text),
            Role::Client(role) => role.failed(error, &report),
        }
        io::Error::new(io::ErrorKind::InvalidData, text)
    }

    /// The peer went away.
    fn closed(&mut self) -> io::Error {
        io::ErrorKind::UnexpectedEof.into()
    }
}

impl Role {
    fn into_watch(self) -> Watch {
        match self {
            Self::Server(role) => role.into_watch(),
            Self::Client(role) => role.into_watch(),
        }
    }

    fn wanted(&self) -> (Option<&str>, &[Box<str>]) {
        match self {
            Self::Server(_) => (None, &[]),
            Self::Client(role) => (role.server_name.as_deref(), &role.verify_names),
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

/// Gives rustls bytes of the peer, as many as it takes before somebody reads the plaintext; the rest stays in `unread`.
fn feed(connection: &mut Connection, bytes: &[u8], unread: &mut BytesMut) -> Result<(), Error> {
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
fn poll_fill<T>(
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
fn poll_drain(
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
struct Blocking<'a, 'b> {
    io: &'a mut Io,
    cx: &'a mut Context<'b>,
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

impl Drop for TlsStream {
    fn drop(&mut self) {
        // A peer that is not told takes the end of the stream for an attack; what the socket does not take now is lost.
        let _ = self.poll_close(&mut Context::from_waker(Waker::noop()));
    }
}

thread_local! {
    /// Where ciphertext is read to.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Two records of the largest size.
const SCRATCH_SIZE: usize = 33 * 1024;
/// How much plaintext may wait before no more is decrypted.
const MOST_PLAINTEXT: usize = 16 * 1024;
/// How many bytes tell what a peer speaks.
const FIRST: usize = 8;

#[cfg(test)]
mod tests {
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Both sides of a connection whose handshake is over.
    fn established() -> (ServerConnection, ClientConnection) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.send_tls13_tickets = 0;
        let mut server = ServerConnection::new(Arc::new(config)).unwrap();
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("a.test").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        while server.is_handshaking() || client.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            let mut read = &wire[..];
            while !read.is_empty() {
                server.read_tls(&mut read).unwrap();
                server.process_new_packets().unwrap();
            }
            let mut wire = Vec::new();
            server.write_tls(&mut wire).unwrap();
            let mut read = &wire[..];
            while !read.is_empty() {
                client.read_tls(&mut read).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        (server, client)
    }

    #[tokio::test]
    async fn what_is_held_goes_out_with_the_close() {
        let (server, mut client) = established();
        let (near, mut far) = duplex(4096);
        let mut stream = TlsStream::new(Io::from(near), State::Open(Box::new(server.into())));
        stream.hold();
        stream.write_all(b"the last").await.unwrap();
        stream.flush().await.unwrap();
        let mut wire = [0; 4096];
        let mut none = ReadBuf::new(&mut wire);
        let early =
            Pin::new(&mut far).poll_read(&mut Context::from_waker(Waker::noop()), &mut none);
        assert!(early.is_pending(), "nothing is sent yet");
        stream.shutdown().await.unwrap();
        let count = far.read(&mut wire).await.unwrap();
        client.read_tls(&mut &wire[..count]).unwrap();
        let state = client.process_new_packets().unwrap();
        assert_eq!(state.plaintext_bytes_to_read(), 8);
        assert!(state.peer_has_closed(), "one packet carries both");
    }
}
