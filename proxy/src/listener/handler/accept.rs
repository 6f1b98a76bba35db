//! Accepting: from the socket of a listener to a connection that is counted, or turned away.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::Socket;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tracing::debug;

use super::ActiveListener;
use super::places::Places;
use crate::net::{Address, Io};

/// A listening socket on a worker.
pub(super) enum AcceptSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AcceptSocket {
    pub(super) fn new(socket: Socket, address: &Address) -> io::Result<Self> {
        match address {
            Address::Ip(_) => {
                // Connections inherit it, which saves each a system call.
                socket.set_tcp_nodelay(true)?;
                TcpListener::from_std(socket.into()).map(Self::Tcp)
            }
            Address::Pipe(_) => UnixListener::from_std(socket.into()).map(Self::Unix),
        }
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<AcceptedSocket>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(cx).map(|accepted| {
                let (stream, remote) = accepted?;
                Ok(AcceptedSocket::Tcp(stream, remote))
            }),
            Self::Unix(listener) => listener.poll_accept(cx).map(|accepted| {
                let (stream, _) = accepted?;
                Ok(AcceptedSocket::Unix(stream))
            }),
        }
    }
}

/// A connection that was accepted, before anything is known about it.
#[derive(Debug)]
pub struct Accepted {
    pub(super) socket: AcceptedSocket,
    pub(super) local: Address,
    pub(super) places: Places,
}

#[cfg(test)]
impl Accepted {
    pub(in crate::listener) fn unix(
        stream: std::os::unix::net::UnixStream,
        local: Address,
    ) -> Self {
        Self {
            socket: AcceptedSocket::LooseUnix(stream),
            local,
            places: Places::default(),
        }
    }
}

/// A socket, with the address of its peer if that has one. It is registered with the worker that accepted it, until it goes to
/// another.
#[derive(Debug)]
pub(super) enum AcceptedSocket {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
    LooseTcp(std::net::TcpStream, SocketAddr),
    LooseUnix(std::os::unix::net::UnixStream),
}

impl AcceptedSocket {
    /// Takes the socket from this worker, for another one.
    pub(super) fn loosen(self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream, remote) => Ok(Self::LooseTcp(stream.into_std()?, remote)),
            Self::Unix(stream) => Ok(Self::LooseUnix(stream.into_std()?)),
            loose => Ok(loose),
        }
    }

    pub(super) fn into_io(self) -> io::Result<(Io, Option<SocketAddr>)> {
        let (stream, remote) = match self {
            Self::Tcp(stream, remote) => (stream, remote),
            Self::LooseTcp(stream, remote) => (TcpStream::from_std(stream)?, remote),
            Self::Unix(stream) => return Ok((stream.into(), None)),
            Self::LooseUnix(stream) => return Ok((UnixStream::from_std(stream)?.into(), None)),
        };
        Ok((stream.into(), Some(canonical(remote))))
    }
}

/// An IPv4 address that came through an IPv6 socket is the IPv4 address.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

pub(super) async fn accept(listener: Rc<ActiveListener>, socket: AcceptSocket, bound: Address) {
    let max = listener.config().max_accept_per_event;
    let stop = listener.stop.clone();
    loop {
        let first = tokio::select! {
            biased;
            () = stop.wait() => break,
            accepted = async {
                listener.until_accepting().await;
                poll_fn(|cx| socket.poll_accept(cx)).await
            } => accepted,
        };
        let first_failed = first.is_err();
        let mut count = u64::from(handle(&listener, first, &bound));
        if first_failed {
            // Out of descriptors, most likely: trying again at once would only burn time.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        }
        while usize::try_from(count).is_ok_and(|count| count < max) {
            let next = poll_fn(|cx| match socket.poll_accept(cx) {
                Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
                Poll::Pending => Poll::Ready(None),
            });
            let Some(accepted) = next.await else { break };
            if !handle(&listener, accepted, &bound) {
                break;
            }
            count += 1;
        }
        let stats = listener.config().stats.clone();
        stats.connections_accepted_per_socket_event().record(count);
        tokio::task::yield_now().await;
    }
    // Those who wait in the queue would be reset by closing the socket, unless somebody else has it, too.
    let theirs = listener.hand_over.get();
    tokio::task::unconstrained(poll_fn(|cx| {
        while !theirs && let Poll::Ready(Ok(accepted)) = socket.poll_accept(cx) {
            listener.on_accept(accepted, &bound);
        }
        Poll::Ready(())
    }))
    .await;
    drop(socket);
    listener.accepting.set(listener.accepting.get() - 1);
    listener.handler.check_finished();
}

fn handle(
    listener: &Rc<ActiveListener>,
    accepted: io::Result<AcceptedSocket>,
    bound: &Address,
) -> bool {
    match accepted {
        Ok(socket) => {
            listener.on_accept(socket, bound);
            true
        }
        Err(error) => {
            debug!(listener = %listener.config().identity.name, %error, "Accepting failed.");
            false
        }
    }
}

pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
