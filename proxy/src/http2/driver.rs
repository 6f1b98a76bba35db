//! Runs a connection on its socket: reads what has come, lets the streams know once, writes once what they had to say.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::AsyncWrite;
use tokio::time::Instant;

use super::connection::Connection;
use super::keepalive::Keepalive;
use super::options::KeepaliveSettings;
use crate::net::Input;
use crate::net::Io;

/// Reads of one turn, after which others on the worker have waited long enough.
const READS: usize = 8;

/// Streams of a client that have to begin before more of them are looked at.
pub const STREAMS_PER_TURN: usize = 64;

/// A connection as its streams see it.
#[derive(Clone)]
pub struct Link(Rc<RefCell<Shared>>);

struct Shared {
    connection: Connection,
    driver: Option<Waker>,
}

/// The socket of a connection, and the pings on it. Polled by one task.
pub struct Driver {
    io: Io,
    input: Input,
    link: Link,
    keepalive: Option<Keepalive>,
    keepalive_failed: bool,
    /// There are frames among what was read that wait for streams to begin.
    has_more: bool,
    on_read: Option<OnRead>,
}

/// Says what becomes of a connection on which something has come.
pub type OnRead = Box<dyn FnMut() -> Reading>;

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// What has come is looked at.
    GoesOn,
    /// The same, and the peer is told that the connection is about to end.
    Warns,
    /// The peer is told that the connection ends here, and what has come is not looked at.
    Ends,
}

impl Link {
    /// Does something with the connection. What that has to say is written when all streams that were woken had their turn.
    ///
    /// # Panics
    ///
    /// If the closure uses the link again.
    pub fn with<R>(&self, act: impl FnOnce(&mut Connection) -> R) -> R {
        let mut shared = self.0.borrow_mut();
        let result = act(&mut shared.connection);
        if shared.connection.has_output()
            && let Some(driver) = shared.driver.take()
        {
            driver.wake();
        }
        result
    }

    /// Lets the driver look again.
    pub fn wake_driver(&self) {
        if let Some(driver) = self.0.borrow_mut().driver.take() {
            driver.wake();
        }
    }
}

impl Driver {
    /// Runs `connection` on `io`.
    pub fn new(io: Io, connection: Connection, keepalive: Option<KeepaliveSettings>) -> Self {
        let shared = Shared {
            connection,
            driver: None,
        };
        Self {
            io,
            input: Input::default(),
            link: Link(Rc::new(RefCell::new(shared))),
            keepalive: keepalive.map(Keepalive::new),
            keepalive_failed: false,
            has_more: false,
            on_read: None,
        }
    }

    /// Asks this before what has come is looked at.
    pub fn ask_on_read(&mut self, on_read: OnRead) {
        self.on_read = Some(on_read);
    }

    /// The connection.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Whether the peer did not answer a ping in time.
    pub fn keepalive_failed(&self) -> bool {
        self.keepalive_failed
    }

    /// Sends a ping, where pings are configured and none is under way.
    pub fn ping(&mut self) {
        if let Some(keepalive) = &mut self.keepalive {
            self.link.with(|connection| keepalive.ping(connection));
        }
    }

    /// Reads and writes what can be. Ready when the connection has ended, and everything that could be said was.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let link = self.link.clone();
        let mut shared = link.0.borrow_mut();
        let Shared { connection, driver } = &mut *shared;
        self.read(connection, cx);
        if let Some(keepalive) = &mut self.keepalive
            && connection.is_alive()
            && keepalive.poll_dead(connection, cx).is_ready()
        {
            self.keepalive_failed = true;
            connection.unanswered();
        }
        let written = connection.poll_write(&mut self.io, cx);
        if let Poll::Ready(Err(_)) = written {
            connection.ended();
        }
        let failed_and_said = connection.has_failed() && written.is_ready();
        if !connection.is_alive() && (failed_and_said || !connection.has_failed()) {
            return Poll::Ready(());
        }
        match driver {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn read(&mut self, connection: &mut Connection, cx: &mut Context<'_>) {
        for _ in 0..READS {
            if !connection.is_alive() {
                return;
            }
            if self.has_more {
                self.take(connection);
            }
            if self.has_more {
                // The owner accepts what there is, and asks again.
                return;
            }
            match self.input.poll_fill(&mut self.io, cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(1..)) => {
                    match self.on_read.as_mut().map(|ask| ask()) {
                        None | Some(Reading::GoesOn) => {}
                        Some(Reading::Warns) => connection.announce_goaway(),
                        Some(Reading::Ends) => connection.go_away_and_end(),
                    }
                    self.take(connection);
                }
                Poll::Ready(Ok(_) | Err(_)) => connection.ended(),
            }
        }
        cx.waker().wake_by_ref();
    }

    /// Takes the frames that were read.
    fn take(&mut self, connection: &mut Connection) {
        let (input, now) = (self.input.buffer(), Instant::now());
        self.has_more = connection.receive_until(input, now, STREAMS_PER_TURN);
        if self.input.is_empty() {
            self.input.end_message();
        }
    }

    /// Shuts our side down and waits until the peer has closed its side; what it still sends is dropped.
    pub async fn close(&mut self) -> io::Result<()> {
        poll_fn(|cx| {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            loop {
                let count = ready!(self.input.poll_fill(&mut self.io, cx))?;
                if count == 0 {
                    return Poll::Ready(Ok(()));
                }
                self.input.consume(count);
            }
        })
        .await
    }

    /// Shuts our side down.
    pub async fn shut_down(&mut self) {
        let _ = poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx)).await;
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}
