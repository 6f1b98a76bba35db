//! Bytes in both directions between two streams, with half-close.
//!
//! A direction begins with plain copies. Once it has moved a mebibyte, and if both sides are sockets, the kernel moves the
//! rest through a pipe (`splice`): per mebibyte that costs three fifths of a copy, but a connection that makes two pipes first
//! costs a fifth more. So short connections make none, and a direction that waits gives its pipe back.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::net::{Io, SplicePipe};
use crate::overload::LoadShedPoint;
use crate::server::Worker;

/// The two directions between a client and an upstream. Nothing is buffered while nothing is on its way.
#[derive(Debug, Default)]
pub(super) struct Relay {
    /// From the client to the upstream.
    pub(super) request: Direction,
    /// From the upstream to the client.
    pub(super) response: Direction,
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Direction {
    /// Bytes that were written to the far side.
    pub(super) bytes: u64,
    /// When bytes moved last; none: not yet.
    pub(super) last_progress: Option<Instant>,
    /// How often the far side was too slow to take what was read.
    pub(super) paused: u64,
    /// Whom the overload manager tells whether what is read ends the connection. None: it has nothing to say.
    pub(super) gate: Option<Rc<Worker>>,
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
    pipe: Option<SplicePipe>,
    /// There was no pipe to be had.
    only_copies: bool,
    /// Whether the far side is too slow just now.
    is_paused: bool,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Everything was read; the end is still to be passed on.
    Ending,
    Ended,
}

/// Which side broke, and how.
#[derive(Debug)]
pub(super) enum Broken {
    Client(io::Error),
    Upstream(io::Error),
    /// Neither: there is too much to do.
    Overloaded,
}

impl Relay {
    /// Moves what can be moved. Ready when both directions have ended, or one side broke.
    pub(super) fn poll(
        &mut self,
        client: &mut Io,
        upstream: &mut impl Endpoint,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let request = self
            .request
            .poll(client, upstream, cx)
            .map_err(|side| match side {
                Side::Source(error) => Broken::Client(error),
                Side::Target(error) => Broken::Upstream(error),
                Side::Gate => Broken::Overloaded,
            })?;
        let response = self
            .response
            .poll(upstream, client, cx)
            .map_err(|side| match side {
                Side::Source(error) => Broken::Upstream(error),
                Side::Target(error) => Broken::Client(error),
                Side::Gate => Broken::Overloaded,
            })?;
        if request.is_ready() && response.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// When bytes moved last in either direction.
    pub(super) fn last_progress(&self) -> Option<Instant> {
        self.request.last_progress.max(self.response.last_progress)
    }
}

/// What bytes are moved to and from.
pub(super) trait Endpoint: AsyncRead + AsyncWrite + Unpin {
    /// The socket, if the kernel may write to it by itself.
    fn as_tcp(&self) -> Option<&TcpStream> {
        None
    }

    /// The socket, if the kernel may read from it by itself: nothing that was read is still to be taken.
    fn as_spliceable(&self) -> Option<&TcpStream> {
        None
    }
}

impl Endpoint for Io {
    fn as_tcp(&self) -> Option<&TcpStream> {
        Self::as_tcp(self)
    }

    fn as_spliceable(&self) -> Option<&TcpStream> {
        Self::as_spliceable(self)
    }
}

enum Side {
    Source(io::Error),
    Target(io::Error),
    Gate,
}

impl Direction {
    /// Whether the source has ended, and its end was passed on.
    pub(super) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Bytes that were read and not written.
    pub(super) fn unwritten(&self) -> usize {
        let piped = self.pipe.as_ref().map_or(0, SplicePipe::held);
        self.end - self.start + piped
    }

    fn poll(
        &mut self,
        source: &mut impl Endpoint,
        target: &mut impl Endpoint,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Side>> {
        loop {
            if self.start < self.end {
                ready!(self.poll_write(target, cx)).map_err(Side::Target)?;
                continue;
            }
            if self.pipe.as_ref().is_some_and(|pipe| pipe.held() > 0) {
                ready!(self.poll_drain(target, cx)).map_err(Side::Target)?;
                continue;
            }
            match self.state {
                State::Open => {
                    match self.source_to_splice(source, target) {
                        Some(source) => ready!(self.poll_fill(source, cx)).map_err(Side::Source)?,
                        None => ready!(self.poll_read(source, cx)).map_err(Side::Source)?,
                    }
                    if self.gate.as_ref().is_some_and(|worker| is_shut(worker)) {
                        return Poll::Ready(Err(Side::Gate));
                    }
                }
                State::Ending => {
                    ready!(Pin::new(&mut *target).poll_shutdown(cx)).map_err(Side::Target)?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_write(
        &mut self,
        target: &mut impl Endpoint,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(buffer) = &self.buffer else {
            return Poll::Ready(Ok(()));
        };
        let written = match Pin::new(target).poll_write(cx, &buffer[self.start..self.end]) {
            Poll::Ready(written) => written?,
            Poll::Pending => return self.pause(),
        };
        self.start += written;
        self.note_written(written)?;
        if self.start == self.end {
            give_back(self.buffer.take());
        }
        Poll::Ready(Ok(()))
    }

    /// The target takes no more for now.
    fn pause(&mut self) -> Poll<io::Result<()>> {
        self.paused += u64::from(!self.is_paused);
        self.is_paused = true;
        Poll::Pending
    }

    fn note_written(&mut self, written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.is_paused = false;
        self.bytes += written as u64;
        self.last_progress = Some(Instant::now());
        Ok(())
    }

    /// The socket to splice from, where that pays and both sides are sockets. There is a pipe then.
    fn source_to_splice<'a>(
        &mut self,
        source: &'a impl Endpoint,
        target: &impl Endpoint,
    ) -> Option<&'a TcpStream> {
        if self.bytes < COPIED || self.only_copies {
            return None;
        }
        let source = source.as_spliceable()?;
        target.as_tcp()?;
        if self.pipe.is_none() {
            let spare = PIPES.with_borrow_mut(Vec::pop);
            self.pipe = spare.or_else(|| SplicePipe::new().ok());
            self.only_copies = self.pipe.is_none();
        }
        self.pipe.is_some().then_some(source)
    }

    fn poll_fill(&mut self, source: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(pipe) = &mut self.pipe else {
            return Poll::Ready(Ok(()));
        };
        let filled = pipe.poll_fill(source, cx);
        match filled {
            Poll::Ready(Ok(1..)) => {
                self.last_progress = Some(Instant::now());
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Ok(_)) => self.state = State::Ending,
            Poll::Ready(Err(_)) | Poll::Pending => {}
        }
        PIPES.with_borrow_mut(|spare| {
            if spare.len() < MAX_SPARE {
                spare.extend(self.pipe.take());
            }
        });
        filled.map_ok(drop)
    }

    fn poll_drain(&mut self, target: &impl Endpoint, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (Some(pipe), Some(target)) = (&mut self.pipe, target.as_tcp()) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        match pipe.poll_drain(target, cx) {
            Poll::Ready(written) => Poll::Ready(written.and_then(|n| self.note_written(n))),
            Poll::Pending => self.pause(),
        }
    }

    fn poll_read(
        &mut self,
        source: &mut impl Endpoint,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut buffer = self.buffer.take().unwrap_or_else(take_buffer);
        let mut room = ReadBuf::new(&mut buffer);
        let read = Pin::new(source).poll_read(cx, &mut room);
        let length = room.filled().len();
        match read {
            Poll::Ready(Ok(())) if length > 0 => {
                self.buffer = Some(buffer);
                (self.start, self.end) = (0, length);
                self.last_progress = Some(Instant::now());
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Ok(())) => self.state = State::Ending,
            Poll::Ready(Err(_)) | Poll::Pending => {}
        }
        give_back(Some(buffer));
        read
    }
}

fn is_shut(worker: &Worker) -> bool {
    let shed = &worker.server.overload.load_shed;
    shed.sheds(LoadShedPoint::TcpProxyOnData, || worker.random.next())
}

fn take_buffer() -> Box<[u8]> {
    SPARE
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| vec![0; BUFFER_SIZE].into_boxed_slice())
}

fn give_back(buffer: Option<Box<[u8]>>) {
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MAX_SPARE {
            spare.extend(buffer);
        }
    });
}

thread_local! {
    /// Buffers that nobody uses just now. Idle connections hold none.
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    /// Empty pipes that nobody uses just now.
    static PIPES: RefCell<Vec<SplicePipe>> = const { RefCell::new(Vec::new()) };
}

/// What a direction copies before it begins to splice, in bytes.
const COPIED: u64 = 1024 * 1024;

const BUFFER_SIZE: usize = 64 * 1024;
const MAX_SPARE: usize = 8;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn each_direction_ends_for_itself() {
        let (mut client, client_side) = duplex(64);
        let (mut upstream, upstream_side) = duplex(64);
        let (mut client_io, mut upstream_io) = (Io::from(client_side), Io::from(upstream_side));
        let mut relay = Relay::default();
        let talk = async {
            client.write_all(b"ping").await.unwrap();
            client.shutdown().await.unwrap();
            let mut request = Vec::new();
            upstream.read_to_end(&mut request).await.unwrap();
            assert_eq!(request, b"ping");
            upstream.write_all(b"pong pong").await.unwrap();
            drop(upstream);
            let mut response = Vec::new();
            client.read_to_end(&mut response).await.unwrap();
            assert_eq!(response, b"pong pong");
        };
        let relayed = poll_fn(|cx| relay.poll(&mut client_io, &mut upstream_io, cx));
        let (outcome, ()) = tokio::join!(relayed, talk);
        outcome.unwrap();
        assert_eq!((relay.request.bytes, relay.response.bytes), (4, 9));
        assert!(relay.request.has_ended() && relay.response.has_ended());
    }

    #[tokio::test]
    async fn a_slow_reader_stops_the_reading_on_the_other_side() {
        let (mut client, client_side) = duplex(1 << 20);
        let (mut upstream, upstream_side) = duplex(10);
        let (mut client_io, mut upstream_io) = (Io::from(client_side), Io::from(upstream_side));
        let sent = vec![7; 300_000];
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut relay = Relay::default();
        poll_fn(|cx| {
            assert!(
                relay
                    .poll(&mut client_io, &mut upstream_io, cx)
                    .is_pending()
            );
            Poll::Ready(())
        })
        .await;
        assert_eq!(relay.request.bytes, 10);
        assert_eq!(relay.request.paused, 1);
        assert!(relay.request.end <= BUFFER_SIZE);
        let read = async {
            let mut received = Vec::new();
            upstream.read_to_end(&mut received).await.unwrap();
            drop(upstream);
            received
        };
        let relayed = poll_fn(|cx| relay.poll(&mut client_io, &mut upstream_io, cx));
        let (_, received) = tokio::join!(relayed, read);
        assert_eq!(received, sent);
    }

    async fn connected() -> (TcpStream, Io) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(near, listener.accept());
        (near.unwrap(), far.unwrap().0.into())
    }

    #[tokio::test]
    async fn what_follows_the_first_mebibyte_is_spliced_to_the_last_byte() {
        let (mut client, mut client_io) = connected().await;
        let (mut upstream, mut upstream_io) = connected().await;
        let mut relay = Relay::default();
        let sent: Vec<u8> = (0..9_000_000u32)
            .map(|n| n.to_le_bytes()[n as usize % 3])
            .collect();
        let write = async {
            upstream.write_all(&sent).await.unwrap();
            upstream.shutdown().await.unwrap();
            let mut request = Vec::new();
            upstream.read_to_end(&mut request).await.unwrap();
            assert_eq!(request, b"enough");
        };
        let read = async {
            let mut received = vec![0; sent.len()];
            client.read_exact(&mut received).await.unwrap();
            assert!(received == sent);
            assert_eq!(client.read(&mut received).await.unwrap(), 0);
            client.write_all(b"enough").await.unwrap();
            client.shutdown().await.unwrap();
        };
        let relayed = poll_fn(|cx| relay.poll(&mut client_io, &mut upstream_io, cx));
        let (outcome, (), ()) = tokio::join!(relayed, write, read);
        outcome.unwrap();
        assert_eq!(
            (relay.request.bytes, relay.response.bytes),
            (6, sent.len() as u64)
        );
        // Its end gave the pipe back.
        assert_eq!(PIPES.with_borrow(Vec::len), 1);
    }

    #[tokio::test]
    async fn a_slow_reader_stops_a_splice_and_a_lost_one_ends_it() {
        let (client, mut client_io) = connected().await;
        let (mut upstream, mut upstream_io) = connected().await;
        let mut relay = Relay::default();
        let flood = async {
            let chunk = vec![1; 1 << 20];
            while upstream.write_all(&chunk).await.is_ok() {}
        };
        let slow = async {
            let mut received = vec![0; 3 << 20];
            let mut client = client;
            client.read_exact(&mut received).await.unwrap();
            tokio::task::yield_now().await;
            // With unread bytes in it, this resets the connection.
            drop(client);
        };
        let relayed = async {
            let outcome = poll_fn(|cx| relay.poll(&mut client_io, &mut upstream_io, cx)).await;
            drop(upstream_io);
            outcome
        };
        let (outcome, (), ()) = tokio::join!(relayed, flood, slow);
        assert!(matches!(outcome, Err(Broken::Client(_))));
        assert!(relay.response.bytes >= 3 << 20);
    }

    #[tokio::test]
    async fn an_idle_relay_holds_no_buffer() {
        let (_client, client_side) = duplex(64);
        let (_upstream, upstream_side) = duplex(64);
        let (mut client_io, mut upstream_io) = (Io::from(client_side), Io::from(upstream_side));
        let mut relay = Relay::default();
        poll_fn(|cx| {
            assert!(
                relay
                    .poll(&mut client_io, &mut upstream_io, cx)
                    .is_pending()
            );
            Poll::Ready(())
        })
        .await;
        assert!(relay.request.buffer.is_none() && relay.response.buffer.is_none());
    }
}
