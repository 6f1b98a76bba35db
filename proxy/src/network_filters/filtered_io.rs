//! The bytes of a connection on their way through network filters that want to see them.
//!
//! A chain in which no filter asks for data never makes one: its terminal filter has the socket itself.
//! Deviations: a filter that stops at the end of the stream or with a full buffer ends the connection, which Envoy leaves open.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{NetworkFilter, NetworkStatus};
use crate::LocalBoxFuture;
use crate::net::{Io, IoLayer};
use crate::stream_info::ConnectionInfo;

/// A connection whose reads pass `on_data` of its filters in their order, and whose writes pass `on_write` in the reverse order.
pub struct FilteredIo {
    io: Io,
    filters: Vec<Box<dyn NetworkFilter>>,
    info: Rc<ConnectionInfo>,
    buffer_limit: usize,
    read: Direction,
    write: Direction,
    /// Of a write that is not done: how many of the caller's bytes are on their way.
    accepted: Option<usize>,
    shutting_down: bool,
}

/// One direction.
#[derive(Default)]
struct Direction {
    /// What the filters look at; what they stopped stays.
    held: BytesMut,
    /// What has passed them.
    passed: BytesMut,
    state: State,
}

#[derive(Default)]
enum State {
    /// More bytes may come.
    #[default]
    Open,
    /// The filter with this number (in the order of the direction) waits.
    Waiting(usize, LocalBoxFuture<'static, ()>, bool),
    /// The end has passed all filters.
    Ended,
    /// A filter closed the connection.
    Closed,
}

/// Which of its methods a filter is called by.
#[derive(Clone, Copy)]
enum Way {
    Read,
    Write,
}

impl FilteredIo {
    /// The connection as `filters` let it through. `buffer_limit`: bytes that a filter may hold back.
    pub fn new(
        io: Io,
        filters: Vec<Box<dyn NetworkFilter>>,
        info: Rc<ConnectionInfo>,
        buffer_limit: usize,
    ) -> Self {
        Self {
            io,
            filters,
            info,
            buffer_limit,
            read: Direction::default(),
            write: Direction::default(),
            accepted: None,
            shutting_down: false,
        }
    }

    /// Shows what is held to the filters from number `at` on, until one stops. `end`: no more bytes follow.
    fn run(&mut self, way: Way, mut at: usize, end: bool) {
        let count = self.filters.len();
        while at < count {
            let (direction, filter) = match way {
                Way::Read => (&mut self.read, &mut self.filters[at]),
                Way::Write => (&mut self.write, &mut self.filters[count - 1 - at]),
            };
            let status = match way {
                Way::Read => filter.on_data(&self.info, &mut direction.held, end),
                Way::Write => filter.on_write(&self.info, &mut direction.held, end),
            };
            match status {
                NetworkStatus::Continue => at += 1,
                // Nothing can follow that would let it go on.
                NetworkStatus::StopIteration if end => return self.close(None),
                NetworkStatus::StopIteration if direction.held.len() >= self.buffer_limit => {
                    return self.close(Some("network_filter_buffer_full"));
                }
                NetworkStatus::StopIteration => return,
                NetworkStatus::Wait(waiting) => {
                    direction.state = State::Waiting(at, waiting, end);
                    return;
                }
                NetworkStatus::Close(details) => return self.close(Some(details)),
            }
        }
        let direction = self.direction(way);
        let held = direction.held.split();
        if direction.passed.is_empty() {
            direction.passed = held;
        } else {
            direction.passed.extend_from_slice(&held);
        }
        if end {
            direction.state = State::Ended;
        }
    }

    /// Ready when no filter of this direction waits.
    fn poll_waiting(&mut self, way: Way, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let State::Waiting(at, waiting, end) = &mut self.direction(way).state else {
                return Poll::Ready(());
            };
            let (at, end) = (*at, *end);
            ready!(waiting.as_mut().poll(cx));
            self.direction(way).state = State::Open;
            let place = match way {
                Way::Read => at,
                Way::Write => self.filters.len() - 1 - at,
            };
            match self.filters[place].resume(&self.info) {
                NetworkStatus::Continue => self.run(way, at + 1, end),
                NetworkStatus::Wait(waiting) => {
                    self.direction(way).state = State::Waiting(at, waiting, end);
                }
                NetworkStatus::StopIteration if end => self.close(None),
                NetworkStatus::StopIteration => {}
                NetworkStatus::Close(details) => self.close(Some(details)),
            }
        }
    }

    fn close(&mut self, details: Option<&'static str>) {
        if let Some(details) = details.filter(|details| !details.is_empty()) {
            self.info.termination_details.replace(Some(details.into()));
        }
        // Whoever is behind the filters never sees these; they were received all the same.
        let received = &self.info.bytes_received;
        received.set(received.get() + u64::try_from(self.read.held.len()).unwrap_or_default());
        self.read.held.clear();
        self.read.state = State::Closed;
        self.write.state = State::Closed;
    }

    fn direction(&mut self, way: Way) -> &mut Direction {
        match way {
            Way::Read => &mut self.read,
            Way::Write => &mut self.write,
        }
    }

    /// Writes what has passed. Ready when nothing is left of it and no filter waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let waiting = self.poll_waiting(Way::Write, cx);
            while self.write.passed.has_remaining() {
                let written =
                    ready!(Pin::new(&mut self.io).poll_write(cx, self.write.passed.chunk()))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.write.passed.advance(written);
            }
            ready!(waiting);
            if matches!(self.write.state, State::Closed) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            if self.write.passed.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl IoLayer for FilteredIo {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.read.state {
            State::Open if self.read.passed.is_empty() => self.io.poll_read_ready(cx),
            _ => Poll::Ready(()),
        }
    }

    fn below(&self) -> &Io {
        &self.io
    }
}

impl AsyncRead for FilteredIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.read.passed.has_remaining() {
                let length = this.read.passed.len().min(buf.remaining());
                buf.put_slice(&this.read.passed[..length]);
                this.read.passed.advance(length);
                return Poll::Ready(Ok(()));
            }
            ready!(this.poll_waiting(Way::Read, cx));
            match this.read.state {
                State::Ended if this.read.passed.is_empty() => return Poll::Ready(Ok(())),
                State::Closed => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                State::Open if this.read.passed.is_empty() => {}
                _ => continue,
            }
            let mut piece = [0; PIECE];
            let mut room = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut room))?;
            let end = room.filled().is_empty();
            this.read.held.extend_from_slice(room.filled());
            this.run(Way::Read, 0, end);
        }
    }
}

impl AsyncWrite for FilteredIo {
    /// Takes bytes only when those before them are written. A caller that was told to wait comes again with the same bytes.
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.accepted.is_none() {
            ready!(this.poll_drain(cx))?;
            let taken = &buf[..buf.len().min(PIECE)];
            this.write.held.extend_from_slice(taken);
            this.accepted = Some(taken.len());
            this.run(Way::Write, 0, false);
        }
        ready!(this.poll_drain(cx))?;
        let accepted = this.accepted.take().unwrap_or_default();
        Poll::Ready(Ok(accepted.min(buf.len())))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_drain(cx))?;
        if !std::mem::replace(&mut this.shutting_down, true) {
            this.run(Way::Write, 0, true);
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

impl fmt::Debug for FilteredIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilteredIo")
            .field("io", &self.io)
            .field("filters", &self.filters.len())
            .finish_non_exhaustive()
    }
}

/// Bytes that are read or written at a time.
const PIECE: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::net::Address;

    /// Marks what it sees, in the order of the filters.
    struct Mark(u8);

    impl NetworkFilter for Mark {
        fn wants_data(&self) -> bool {
            true
        }
        fn on_data(&mut self, _: &ConnectionInfo, data: &mut BytesMut, end: bool) -> NetworkStatus {
            if !data.is_empty() || end {
                data.extend_from_slice(&[self.0]);
            }
            NetworkStatus::Continue
        }
        fn on_write(
            &mut self,
            cx: &ConnectionInfo,
            data: &mut BytesMut,
            end: bool,
        ) -> NetworkStatus {
            self.on_data(cx, data, end)
        }
    }

    /// Holds bytes back until there are so many; then does what it is told to.
    struct Until(usize, fn() -> NetworkStatus);

    impl NetworkFilter for Until {
        fn on_data(&mut self, _: &ConnectionInfo, data: &mut BytesMut, _: bool) -> NetworkStatus {
            if data.len() < self.0 {
                NetworkStatus::StopIteration
            } else {
                (self.1)()
            }
        }
    }

    fn filtered(
        filters: Vec<Box<dyn NetworkFilter>>,
        limit: usize,
    ) -> (Io, DuplexStream, Rc<ConnectionInfo>) {
        let (near, far) = duplex(8);
        let address = Address::Pipe("@x".into());
        let info = Rc::new(ConnectionInfo::between(address.clone(), address));
        let filtered = FilteredIo::new(Io::from(near), filters, info.clone(), limit);
        (Io::layered(Box::new(filtered)), far, info)
    }

    #[tokio::test]
    async fn reads_pass_the_filters_in_order_and_writes_in_reverse() {
        let (mut io, mut far, _) = filtered(vec![Box::new(Mark(b'1')), Box::new(Mark(b'2'))], 100);
        far.write_all(b"in").await.unwrap();
        far.shutdown().await.unwrap();
        let mut got = Vec::new();
        io.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"in1212");
        let writing = async {
            io.write_all(b"a long way out").await.unwrap();
            io.shutdown().await.unwrap();
        };
        let mut sent = Vec::new();
        let (_, read) = tokio::join!(writing, far.read_to_end(&mut sent));
        read.unwrap();
        assert_eq!(sent, b"a long way out2121");
    }

    #[tokio::test]
    async fn what_a_filter_stopped_goes_on_with_more_data_or_when_its_wait_is_over() {
        let wait = || NetworkStatus::Wait(Box::pin(tokio::task::yield_now()));
        for status in [|| NetworkStatus::Continue, wait] {
            let filters: Vec<Box<dyn NetworkFilter>> =
                vec![Box::new(Until(4, status)), Box::new(Mark(b'.'))];
            let (mut io, mut far, _) = filtered(filters, 100);
            let mut got = [0; 5];
            let writing = async {
                for piece in [b"ab", b"cd"] {
                    far.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let (_, read) = tokio::join!(writing, io.read_exact(&mut got));
            read.unwrap();
            assert_eq!(&got, b"abcd.");
        }
    }

    #[tokio::test]
    async fn a_filter_can_close_the_connection_and_says_why() {
        let close = || NetworkStatus::Close("denied");
        let (mut io, mut far, info) = filtered(vec![Box::new(Until(1, close))], 100);
        far.write_all(b"x").await.unwrap();
        let error = io.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert!(io.write_all(b"y").await.is_err());
        assert_eq!(info.termination_details.borrow().as_deref(), Some("denied"));
    }

    #[tokio::test]
    async fn a_filter_that_holds_too_much_ends_the_connection() {
        let (mut io, mut far, info) =
            filtered(vec![Box::new(Until(9, || NetworkStatus::Continue))], 4);
        far.write_all(b"12345").await.unwrap();
        assert!(io.read_u8().await.is_err());
        let details = info.termination_details.borrow();
        assert_eq!(details.as_deref(), Some("network_filter_buffer_full"));
    }
}
