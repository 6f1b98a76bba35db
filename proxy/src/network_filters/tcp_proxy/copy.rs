//! Bytes in both directions between two streams, with half-close.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::net::Io;

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
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
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
}

impl Relay {
    /// Moves what can be moved. Ready when both directions have ended, or one side broke.
    pub(super) fn poll(
        &mut self,
        client: &mut Io,
        upstream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let request = self
            .request
            .poll(client, upstream, cx)
            .map_err(|side| match side {
                Side::Source(error) => Broken::Client(error),
                Side::Target(error) => Broken::Upstream(error),
            })?;
        let response = self
            .response
            .poll(upstream, client, cx)
            .map_err(|side| match side {
                Side::Source(error) => Broken::Upstream(error),
                Side::Target(error) => Broken::Client(error),
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

enum Side {
    Source(io::Error),
    Target(io::Error),
}

impl Direction {
    /// Whether the source has ended, and its end was passed on.
    pub(super) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    fn poll(
        &mut self,
        source: &mut (impl AsyncRead + Unpin),
        target: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Side>> {
        loop {
            if self.start < self.end {
                ready!(self.poll_write(target, cx)).map_err(Side::Target)?;
                continue;
            }
            match self.state {
                State::Open => ready!(self.poll_read(source, cx)).map_err(Side::Source)?,
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
        target: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(buffer) = &self.buffer else {
            return Poll::Ready(Ok(()));
        };
        let written = match Pin::new(target).poll_write(cx, &buffer[self.start..self.end]) {
            Poll::Ready(written) => written?,
            Poll::Pending => {
                self.paused += u64::from(!self.is_paused);
                self.is_paused = true;
                return Poll::Pending;
            }
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.is_paused = false;
        self.start += written;
        self.bytes += written as u64;
        self.last_progress = Some(Instant::now());
        if self.start == self.end {
            give_back(self.buffer.take());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(
        &mut self,
        source: &mut (impl AsyncRead + Unpin),
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
}

const BUFFER_SIZE: usize = 64 * 1024;
const MAX_SPARE: usize = 8;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

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
