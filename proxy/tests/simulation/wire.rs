//! The least of HTTP/1 that the ends of the world need: they read what the proxy writes, which is plain. HTTP/2 is read by the
//! crate `h2`, and looks the same then.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

/// A head, and the body that came with it.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) first_line: String,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// The value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (n, value) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Whether this is a request as clients send them.
    pub(crate) fn is_clients(&self) -> bool {
        match self.first_line.split(' ').next() {
            Some("GET") => self.body.is_empty(),
            Some("POST") => self.body == b"hello",
            _ => false,
        }
    }

    /// The value of a field that is a number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }
}

/// Why there is no message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The connection ended between two messages.
    Between,
    /// It ended within one.
    Within,
}

/// Reads the response to a request of HTTP/2.
pub(crate) async fn read_response(response: h2::client::ResponseFuture) -> Result<Message, Ended> {
    let response = response.await.map_err(|_| Ended::Between)?;
    let (parts, mut data) = response.into_parts();
    let fields = parts.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        format!("{name}: {value}")
    });
    let mut message = Message {
        first_line: format!("HTTP/2 {}", parts.status.as_u16()),
        head: fields.collect::<Vec<_>>().join("\r\n"),
        body: Vec::new(),
    };
    while let Some(piece) = data.data().await {
        let piece: Bytes = piece.map_err(|_| Ended::Within)?;
        let _ = data.flow_control().release_capacity(piece.len());
        message.body.extend_from_slice(&piece);
    }
    // The end is that of the trailers, where there are any.
    data.trailers().await.map_err(|_| Ended::Within)?;
    Ok(message)
}

/// Reads one message with a body of known length. `buffer` keeps what follows it.
pub(crate) async fn read_message(
    io: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> Result<Message, Ended> {
    loop {
        if let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let (first, head) = text.split_once("\r\n").unwrap_or((&text, ""));
            let mut message = Message {
                first_line: first.to_owned(),
                head: head.to_owned(),
                body: Vec::new(),
            };
            if message.field("transfer-encoding") == Some("chunked") {
                if let Some((body, length)) = chunked(&buffer[end + 4..]) {
                    message.body = body;
                    buffer.drain(..end + 4 + length);
                    return Ok(message);
                }
                more(io, buffer).await?;
                continue;
            }
            let length = usize::try_from(message.number("content-length").unwrap_or(0)).unwrap();
            if buffer.len() >= end + 4 + length {
                message.body = buffer[end + 4..end + 4 + length].to_vec();
                buffer.drain(..end + 4 + length);
                return Ok(message);
            }
        }
        more(io, buffer).await?;
    }
}

async fn more(io: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Result<(), Ended> {
    if matches!(io.read_buf(buffer).await, Ok(1..)) {
        return Ok(());
    }
    Err(match buffer.is_empty() {
        true => Ended::Between,
        false => Ended::Within,
    })
}

/// A body in chunks without trailers, and how long it was with its frames; none: not all of it is there.
fn chunked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = bytes[at..].windows(2).position(|w| w == b"\r\n")?;
        let digits = std::str::from_utf8(&bytes[at..at + line]).expect("digits are text");
        let size = usize::from_str_radix(digits, 16).expect("a length");
        let begin = at + line + 2;
        body.extend_from_slice(bytes.get(begin..begin + size)?);
        at = begin + size + 2;
        if bytes.len() < at {
            return None;
        }
        if size == 0 {
            return Some((body, at));
        }
    }
}
