//! The load: an open loop at a fixed rate, over kept-alive connections of HTTP/1.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until, timeout};

use super::Size;
use super::upstreams::BODY;

/// The longest that a client waits. The route gives up before.
const PATIENCE: Duration = Duration::from_secs(6);

/// What became of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Its number, from 0.
    pub(super) number: u64,
    /// From the time when it was to be sent until it was answered, or given up.
    pub(super) took: Duration,
    /// Its status; none: there was no answer, or not the whole of it, or that to another request.
    pub(super) status: Option<u16>,
}

/// Sends for the time of `size`, and waits for all that is under way.
pub(super) async fn run(address: SocketAddr, size: Size) -> Vec<Sample> {
    let idle: Rc<RefCell<Vec<TcpStream>>> = Rc::default();
    let begin = Instant::now();
    let gap = Duration::from_secs(1) / u32::try_from(size.rate).unwrap();
    let mut requests = vec![];
    for number in 0..size.seconds * size.rate {
        let due = begin + gap * u32::try_from(number).unwrap();
        sleep_until(due).await;
        let idle = idle.clone();
        requests.push(spawn_local(async move {
            let exchange = timeout(PATIENCE, exchange(address, &idle, number)).await;
            Sample {
                number,
                took: due.elapsed(),
                status: exchange.ok().flatten(),
            }
        }));
    }
    let mut samples = Vec::with_capacity(requests.len());
    for request in requests {
        samples.push(request.await.expect("no request panics"));
    }
    samples
}

async fn exchange(address: SocketAddr, idle: &RefCell<Vec<TcpStream>>, number: u64) -> Option<u16> {
    let kept = idle.borrow_mut().pop();
    let mut stream = match kept {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(address).await.ok()?;
            let _ = stream.set_nodelay(true);
            stream
        }
    };
    let request =
        format!("GET /things/{number} HTTP/1.1\r\nhost: services\r\nx-id: {number}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut buffer = Vec::with_capacity(2 * BODY);
    let (status, body, close) = loop {
        if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
            return None;
        }
        if let Some(answer) = answer(&buffer) {
            break answer;
        }
    };
    let right = status != 200 || (body.len() == BODY && body.trim_end() == number.to_string());
    if !close {
        idle.borrow_mut().push(stream);
    }
    right.then_some(status)
}

/// Status and body of an answer that is whole, and whether the connection ends with it.
fn answer(bytes: &[u8]) -> Option<(u16, String, bool)> {
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
    Some((status, String::from_utf8_lossy(body).into_owned(), close))
}
