//! The load: an open loop at a fixed rate, over kept-alive connections of HTTP/1, or over some of HTTP/2.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until, timeout};

use super::answers::BODY;
use super::{Protocol, Size};

/// The longest that a client waits. The route gives up before.
const PATIENCE: Duration = Duration::from_secs(6);

/// How many connections of HTTP/2 share the requests.
const SHARED: usize = 8;

/// What became of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Its number, from 0.
    pub(super) number: u64,
    /// From the time when it was to be sent until it was answered, or given up.
    pub(super) took: Duration,
    /// By how much it was sent too late: the machine was busy.
    pub(super) late: Duration,
    pub(super) end: End,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// An answer that is whole, with this status.
    Status(u16),
    /// Something that is not the answer to this request.
    Foreign,
    /// No answer, or not the whole of it.
    Broken,
}

/// The connections to the proxy.
struct Connections {
    address: SocketAddr,
    protocol: Protocol,
    idle: RefCell<Vec<TcpStream>>,
    shared: RefCell<[Option<SendRequest<Bytes>>; SHARED]>,
}

/// Sends for the time of `size`, and waits for all that is under way.
pub(super) async fn run(address: SocketAddr, size: Size) -> Vec<Sample> {
    let connections = Rc::new(Connections {
        address,
        protocol: size.protocol,
        idle: RefCell::default(),
        shared: RefCell::default(),
    });
    let begin = Instant::now();
    let gap = Duration::from_secs(1) / u32::try_from(size.rate).unwrap();
    let mut requests = vec![];
    for number in 0..size.seconds * size.rate {
        let due = begin + gap * u32::try_from(number).unwrap();
        sleep_until(due).await;
        let connections = connections.clone();
        requests.push(spawn_local(async move {
            let late = due.elapsed();
            let exchange = timeout(PATIENCE, connections.exchange(number)).await;
            Sample {
                number,
                took: due.elapsed(),
                late,
                end: match exchange.ok().flatten() {
                    Some((status, body)) => judge(number, status, &body),
                    None => End::Broken,
                },
            }
        }));
    }
    let mut samples = Vec::with_capacity(requests.len());
    for request in requests {
        samples.push(request.await.expect("no request panics"));
    }
    samples
}

/// An upstream's answer names its request.
fn judge(number: u64, status: u16, body: &[u8]) -> End {
    let is_whole = || body.len() == BODY && body.trim_ascii_end() == number.to_string().as_bytes();
    match status {
        200 if !is_whole() => End::Foreign,
        status => End::Status(status),
    }
}

impl Connections {
    /// Status and body of the answer.
    async fn exchange(&self, number: u64) -> Option<(u16, Vec<u8>)> {
        match self.protocol {
            Protocol::Http1 => self.exchange_http1(number).await,
            Protocol::Http2 => self.exchange_http2(number).await,
        }
    }

    async fn exchange_http1(&self, number: u64) -> Option<(u16, Vec<u8>)> {
        let kept = self.idle.borrow_mut().pop();
        let mut stream = match kept {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        let request =
            format!("GET /things/{number} HTTP/1.1\r\nhost: services\r\nx-id: {number}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut buffer = Vec::with_capacity(2 * BODY);
        loop {
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return None;
            }
            if let Some((status, body, close)) = answer(&buffer) {
                if !close {
                    self.idle.borrow_mut().push(stream);
                }
                return Some((status, body));
            }
        }
    }

    async fn exchange_http2(&self, number: u64) -> Option<(u16, Vec<u8>)> {
        let place = usize::try_from(number).ok()? % SHARED;
        let kept = self.shared.borrow()[place].clone();
        let ready = match kept {
            Some(sender) => sender.ready().await.ok(),
            None => None,
        };
        let mut sender = match ready {
            Some(sender) => sender,
            None => {
                let (sender, connection) =
                    h2::client::handshake(self.connect().await?).await.ok()?;
                spawn_local(async {
                    let _ = connection.await;
                });
                self.shared.borrow_mut()[place] = Some(sender.clone());
                sender.ready().await.ok()?
            }
        };
        let head = http::Request::get(format!("http://services/things/{number}"))
            .header("x-id", number)
            .body(())
            .ok()?;
        let (response, _) = sender.send_request(head, true).ok()?;
        let (parts, mut body) = response.await.ok()?.into_parts();
        let mut bytes = Vec::with_capacity(BODY);
        while let Some(piece) = body.data().await {
            let piece = piece.ok()?;
            let _ = body.flow_control().release_capacity(piece.len());
            bytes.extend_from_slice(&piece);
        }
        // The end is that of the trailers, where there are any.
        body.trailers().await.ok()?;
        Some((parts.status.as_u16(), bytes))
    }

    async fn connect(&self) -> Option<TcpStream> {
        let stream = TcpStream::connect(self.address).await.ok()?;
        let _ = stream.set_nodelay(true);
        Some(stream)
    }
}

/// Status and body of an answer that is whole, and whether the connection ends with it.
fn answer(bytes: &[u8]) -> Option<(u16, Vec<u8>, bool)> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let status = head.get(9..12)?.parse().ok()?;
    let field = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(':'));
        fields.find_map(|(n, value)| (n == name).then(|| value.trim()))
    };
    let length: usize = field("content-length").unwrap_or("0").parse().ok()?;
    let body = bytes.get(end + 4..end + 4 + length)?;
    let close = field("connection") == Some("close");
    Some((status, body.to_vec(), close))
}
