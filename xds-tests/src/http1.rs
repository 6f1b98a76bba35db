//! Raw HTTP/1.1: reads heads and bodies into [`Message`]s without judging them.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use crate::PATIENCE;
use crate::message::{End, Field, Message, text};

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// `content-length`.
    Length(usize),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// Everything until the connection closes.
    UntilClose,
}

/// Why a read gave nothing.
#[derive(Debug)]
pub enum Stop {
    /// The peer closed its side.
    Closed,
    /// The connection was reset.
    Reset,
    /// Nothing came within [`PATIENCE`].
    Silence,
    /// What came is not HTTP/1.
    Garbage(String),
}

impl From<Stop> for End {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Closed => Self::Broken("closed".into()),
            Stop::Reset => Self::Broken("reset".into()),
            Stop::Silence => Self::Open,
            Stop::Garbage(what) => Self::Broken(format!("garbage: {what}")),
        }
    }
}

/// A buffered reader of HTTP/1 messages.
pub struct Reader<R> {
    io: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// A reader with an empty buffer.
    pub fn new(io: R) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
        }
    }

    /// Reads the next head: first line and fields, in order and case of the wire.
    pub async fn head(&mut self) -> Result<Message, Stop> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.split_to(end);
                self.buffer.advance(4);
                return Ok(parse_head(&head));
            }
            self.fill().await?;
        }
    }

    /// Reads a body (and its trailers) into `message`, and sets how it ended.
    pub async fn body(&mut self, framing: Framing, message: &mut Message) {
        let result = match framing {
            Framing::Empty => Ok(()),
            Framing::Length(length) => self.exactly(length, &mut message.body).await,
            Framing::Chunked => self.chunked(message).await,
            Framing::UntilClose => self.until_close(&mut message.body).await,
        };
        message.end = match result {
            Ok(()) => End::Complete,
            Err(stop) => stop.into(),
        };
    }

    /// Waits for the end of the connection, up to `patience`; says how it is.
    pub async fn fate(&mut self, patience: std::time::Duration) -> &'static str {
        match timeout(patience, self.fill()).await {
            Err(_) => "open",
            Ok(Ok(())) => "open, with bytes left over",
            Ok(Err(Stop::Closed)) => "closed",
            Ok(Err(_)) => "reset",
        }
    }

    /// The connection, to write to.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.io
    }

    /// The connection; what has been read and not been used is lost.
    pub fn into_inner(self) -> R {
        self.io
    }

    async fn fill(&mut self) -> Result<(), Stop> {
        match timeout(PATIENCE, self.io.read_buf(&mut self.buffer)).await {
            Err(_) => Err(Stop::Silence),
            Ok(Ok(0)) => Err(Stop::Closed),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => Err(Stop::Reset),
            Ok(Err(error)) => Err(Stop::Garbage(error.to_string())),
        }
    }

    async fn exactly(&mut self, mut length: usize, body: &mut Vec<u8>) -> Result<(), Stop> {
        loop {
            let taken = length.min(self.buffer.len());
            body.extend_from_slice(&self.buffer.split_to(taken));
            length -= taken;
            if length == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    async fn until_close(&mut self, body: &mut Vec<u8>) -> Result<(), Stop> {
        loop {
            body.extend_from_slice(&self.buffer.split());
            match self.fill().await {
                Ok(()) => {}
                Err(Stop::Closed) => return Ok(()),
                Err(stop) => return Err(stop),
            }
        }
    }

    async fn chunked(&mut self, message: &mut Message) -> Result<(), Stop> {
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16)
                .map_err(|_| Stop::Garbage(format!("chunk size {line:?}")))?;
            if size == 0 {
                break;
            }
            self.exactly(size, &mut message.body).await?;
            self.line().await?;
        }
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(());
            }
            message.trailers.push(parse_field(line.as_bytes()));
        }
    }

    async fn line(&mut self) -> Result<String, Stop> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.split_to(end);
                self.buffer.advance(2);
                return Ok(text(&line));
            }
            self.fill().await?;
        }
    }
}

/// How the body of a request with these fields ends.
pub fn request_framing(message: &Message) -> Framing {
    declared_framing(message).unwrap_or(Framing::Empty)
}

/// How the body of a response with this head ends; `to_head` when HEAD was asked.
pub fn response_framing(message: &Message, to_head: bool) -> Framing {
    if to_head || message.status < 200 || matches!(message.status, 204 | 304) {
        return Framing::Empty;
    }
    declared_framing(message).unwrap_or(Framing::UntilClose)
}

fn declared_framing(message: &Message) -> Option<Framing> {
    if let Some(coding) = message.field("transfer-encoding")
        && coding.to_ascii_lowercase().ends_with("chunked")
    {
        return Some(Framing::Chunked);
    }
    message
        .field("content-length")?
        .parse()
        .ok()
        .map(Framing::Length)
}

fn parse_head(head: &[u8]) -> Message {
    let mut lines = split_lines(head);
    let line = lines.next().map(text).unwrap_or_default();
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    Message {
        line,
        status,
        fields: lines.map(parse_field).collect(),
        ..Message::default()
    }
}

fn parse_field(line: &[u8]) -> Field {
    let colon = line
        .iter()
        .position(|byte| *byte == b':')
        .unwrap_or(line.len());
    let (name, value) = line.split_at(colon);
    (
        text(name),
        text(value.strip_prefix(b":").unwrap_or(value).trim_ascii()),
    )
}

fn split_lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Message {
        let mut reader = Reader::new(bytes);
        let mut message = reader.head().await.expect("a head");
        let framing = response_framing(&message, false);
        reader.body(framing, &mut message).await;
        message
    }

    #[tokio::test]
    async fn fields_keep_order_and_case() {
        let message =
            read(b"HTTP/1.1 200 OK\r\nB: 1\r\na: 2\r\nB: 3\r\ncontent-length: 0\r\n\r\n").await;
        let names: Vec<_> = message
            .fields
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["B", "a", "B", "content-length"]);
        assert_eq!(message.status, 200);
    }

    #[tokio::test]
    async fn chunked_body_is_joined_and_trailers_are_kept() {
        let wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: v\r\n\r\n";
        let message = read(wire).await;
        assert_eq!(message.body, b"abcde");
        assert_eq!(message.trailers, [("T".into(), "v".into())]);
        assert_eq!(message.end, End::Complete);
    }

    #[tokio::test]
    async fn short_body_is_broken_and_not_complete() {
        let message = read(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc").await;
        assert_eq!(message.end, End::Broken("closed".into()));
        assert_eq!(message.body, b"abc");
    }
}
