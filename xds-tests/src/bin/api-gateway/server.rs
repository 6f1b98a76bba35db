//! A server of HTTP/1.1 for the example: a thread per connection, a request per connection.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Longest head that is read.
const MAX_BYTES: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// A request, as far as the example cares.
pub(crate) struct Request {
    /// The path, with parameters.
    pub(crate) target: String,
    /// By lower-case names.
    pub(crate) headers: BTreeMap<String, String>,
}

/// Serves until the process ends.
pub(crate) fn serve(
    address: SocketAddr,
    answer: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static,
) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            // Who does not take its answer loses it.
            thread::spawn(move || drop(exchange(&stream, &*answer)));
        }
    });
    Ok(())
}

fn exchange(stream: &TcpStream, answer: &dyn Fn(&Request) -> (u16, String)) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.take(MAX_BYTES)).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut request = Request {
        target: first.split(' ').nth(1).unwrap_or("/").to_owned(),
        headers: BTreeMap::new(),
    };
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            let name = name.to_ascii_lowercase();
            request.headers.insert(name, value.trim().to_owned());
        }
    }
    let (status, body) = answer(&request);
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} -\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// An answer: status, headers by lower-case names, body.
pub(crate) type Answer = (u16, BTreeMap<String, String>, String);

/// Calls, with these headers beside the host.
pub(crate) fn call(
    address: SocketAddr,
    (method, target): (&str, &str),
    headers: &[(&str, &str)],
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head =
        format!("{method} {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    let mut text = String::new();
    stream.take(MAX_BYTES).read_to_string(&mut text)?;
    let bad = || io::Error::other("the answer is no HTTP");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    let fields = head.lines().skip(1).filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    Ok((status.ok_or_else(bad)?, fields.collect(), body.to_owned()))
}
