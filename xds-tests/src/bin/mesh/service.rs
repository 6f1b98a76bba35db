//! The services of the example: `mesh service NAME ADDRESS [NEXT]` says who calls it, and what the next one says.
//!
//! `/flaky` fails every second time at the last service, on purpose. A connection carries one request.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// Longest request or answer that is read.
const MAX_BYTES: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// What a service is.
struct Service {
    name: String,
    next: Option<SocketAddr>,
    turn: AtomicU32,
}

/// Serves for ever.
pub(crate) fn serve(name: &str, address: SocketAddr, next: Option<SocketAddr>) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let service = Arc::new(Service {
        name: name.to_owned(),
        next,
        turn: AtomicU32::new(0),
    });
    for stream in listener.incoming().flatten() {
        let service = Arc::clone(&service);
        // Who does not take its answer loses it.
        thread::spawn(move || drop(service.answer(&stream)));
    }
    Ok(())
}

impl Service {
    fn answer(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut lines = BufReader::new(stream.take(MAX_BYTES)).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        let path = first.split(' ').nth(1).unwrap_or("/");
        let mut caller = "nobody known".to_owned();
        for line in lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            // The sidecar says whose certificate it saw.
            if line.starts_with("x-forwarded-client-cert:")
                && let Some((_, uri)) = line.split_once(";URI=")
            {
                caller = uri.to_owned();
            }
        }
        let mut status = 200;
        let mut body = format!("{} was called by {caller}\n", self.name);
        match self.next {
            Some(next) => match call(next, path) {
                Ok((there, rest)) => {
                    status = there;
                    body.push_str(&rest);
                }
                Err(error) => {
                    status = 502;
                    body.push_str(&format!("{} cannot call: {error}\n", self.name));
                }
            },
            None if path.starts_with("/flaky")
                && self.turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) =>
            {
                status = 503;
                body.push_str(&format!("{} fails on purpose\n", self.name));
            }
            None => {}
        }
        let mut stream = stream;
        write!(
            stream,
            "HTTP/1.1 {status} -\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    }
}

/// Status and body of what another service answers.
fn call(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.take(MAX_BYTES).read_to_string(&mut text)?;
    let bad = || io::Error::other("the answer is no HTTP");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(bad)?, body.to_owned()))
}
