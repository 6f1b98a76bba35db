//! Scripted backends: they record exactly what they saw, and do what their script says.

mod http1;
mod http2;
mod tcp;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, spawn_local};

use crate::Error;
use crate::message::{Field, Message};

/// What a backend speaks, with a script per request (HTTP) or per connection (TCP). The last script serves all
/// that follow.
#[derive(Clone, Debug)]
pub enum Kind {
    /// HTTP/1.1.
    Http1(Vec<Script>),
    /// HTTP/2 without TLS, by prior knowledge.
    Http2(Vec<Script>),
    /// Bytes.
    Tcp(Vec<Vec<Act>>),
    /// A port on which nobody listens.
    Refuse,
    /// A port whose backlog is full, so that a connect hangs.
    Deaf,
}

/// What to do about one request.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Acts before the request's body was read.
    pub early: bool,
    /// What is done, in order.
    pub acts: Vec<Act>,
}

/// One step of a backend.
#[derive(Clone, Debug)]
pub enum Act {
    /// Sends bytes as they are (not for HTTP/2).
    Send(Vec<u8>),
    /// Sends a response in the protocol of the backend.
    Respond(Response),
    /// Reads this many bytes after the request and adds them to its body (not for HTTP/2).
    Read(usize),
    /// Waits.
    Wait(Duration),
    /// Resets the TCP connection, or the HTTP/2 stream.
    Reset,
    /// Closes the connection.
    Close,
}

/// A response that either protocol can carry.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Fields in this order.
    pub fields: Vec<Field>,
    /// The body.
    pub body: Vec<u8>,
    /// Trailers; HTTP/1 is chunked when there are any.
    pub trailers: Vec<Field>,
    /// Sends HTTP/1 in chunks rather than by length.
    pub chunked: bool,
}

/// One request (or TCP connection) that a backend saw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which connection it came on, from 1.
    pub connection: usize,
    /// What came.
    pub message: Message,
}

/// Everything that a backend saw, in order of arrival.
pub type Record = Rc<RefCell<Vec<Seen>>>;

/// A backend on a port of its own. Stops on drop.
pub struct Backend {
    address: SocketAddr,
    seen: Record,
    accept: Option<JoinHandle<()>>,
    _port: Option<TcpSocket>,
    _backlog: Vec<std::net::TcpStream>,
}

impl Backend {
    /// Binds a free port and serves it on the current local task set.
    pub async fn start(kind: Kind) -> Result<Self, Error> {
        Self::start_at(kind, 0).await
    }

    /// The same on this port of 127.0.0.1; 0 is a free one.
    pub async fn start_at(kind: Kind, port: u16) -> Result<Self, Error> {
        let seen = Record::default();
        match kind {
            Kind::Refuse => {
                let socket = TcpSocket::new_v4()?;
                socket.bind("127.0.0.1:0".parse()?)?;
                let address = socket.local_addr()?;
                Ok(Self {
                    address,
                    seen,
                    accept: None,
                    _port: Some(socket),
                    _backlog: vec![],
                })
            }
            Kind::Deaf => deaf(seen),
            kind => {
                let listener = TcpListener::bind(("127.0.0.1", port)).await?;
                let address = listener.local_addr()?;
                let accept = spawn_local(serve(listener, kind, seen.clone()));
                Ok(Self {
                    address,
                    seen,
                    accept: Some(accept),
                    _port: None,
                    _backlog: vec![],
                })
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.borrow().clone()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(accept) = &self.accept {
            accept.abort();
        }
    }
}

/// A listener that never accepts, with its backlog filled: the next connect gets no answer.
fn deaf(seen: Record) -> Result<Backend, Error> {
    let socket = TcpSocket::new_v4()?;
    socket.bind("127.0.0.1:0".parse()?)?;
    let address = socket.local_addr()?;
    let listener = socket.listen(1)?;
    let mut backlog = Vec::new();
    while let Ok(stream) =
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200))
    {
        backlog.push(stream);
    }
    let accept = spawn_local(async move {
        let _listener = listener;
        std::future::pending::<()>().await;
    });
    Ok(Backend {
        address,
        seen,
        accept: Some(accept),
        _port: None,
        _backlog: backlog,
    })
}

async fn serve(listener: TcpListener, kind: Kind, seen: Record) {
    let mut connection = 0;
    while let Ok((stream, _)) = listener.accept().await {
        connection += 1;
        let _ = stream.set_nodelay(true);
        let seen = Seat {
            connection,
            seen: seen.clone(),
        };
        match kind.clone() {
            Kind::Http1(scripts) => spawn_local(http1::serve(stream, scripts, seen)),
            Kind::Http2(scripts) => spawn_local(http2::serve(stream, scripts, seen)),
            Kind::Tcp(scripts) => spawn_local(tcp::serve(stream, scripts, seen)),
            Kind::Refuse | Kind::Deaf => return,
        };
    }
}

/// One connection's place in the record.
#[derive(Clone)]
struct Seat {
    connection: usize,
    seen: Record,
}

impl Seat {
    /// Records a message; gives its number over all connections, from 0.
    fn add(&self, message: Message) -> usize {
        let mut seen = self.seen.borrow_mut();
        seen.push(Seen {
            connection: self.connection,
            message,
        });
        seen.len() - 1
    }

    fn update(&self, number: usize, message: &Message) {
        if let Some(seen) = self.seen.borrow_mut().get_mut(number) {
            seen.message = message.clone();
        }
    }
}

/// The script for the request with this number: its own, or the last.
fn script_for<T: Clone>(scripts: &[T], number: usize) -> Option<T> {
    scripts.get(number).or(scripts.last()).cloned()
}

fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}
