//! The least of HTTP/1 that the ends of the world need: they read what the proxy writes, which is plain.

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
        self.head.split("\r\n").find_map(|line| {
            let (n, value) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| value.trim())
        })
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

/// Reads one message with a body of known length. `buffer` keeps what follows it.
pub(crate) async fn read_message(
    io: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> Result<Message, Ended> {
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let (first, head) = text.split_once("\r\n").unwrap_or((&text, ""));
            let mut message = Message {
                first_line: first.to_owned(),
                head: head.to_owned(),
                body: Vec::new(),
            };
            let length = usize::try_from(message.number("content-length").unwrap_or(0)).unwrap();
            if buffer.len() >= end + 4 + length {
                message.body = buffer[end + 4..end + 4 + length].to_vec();
                buffer.drain(..end + 4 + length);
                return Ok(message);
            }
        }
        if !matches!(io.read_buf(buffer).await, Ok(1..)) {
            return Err(match buffer.is_empty() {
                true => Ended::Between,
                false => Ended::Within,
            });
        }
    }
}
