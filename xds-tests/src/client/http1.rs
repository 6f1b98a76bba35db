//! The client for HTTP/1.1 and for bytes.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{sleep, timeout};

use super::{Request, Step, Transcript};
use crate::PATIENCE;
use crate::http1::{Framing, Reader, response_framing};
use crate::message::{End, Message};

/// How long a connection that nothing announced to close is watched for its end.
const GLANCE: Duration = Duration::from_millis(120);

struct Connection {
    reader: Reader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    /// The peer said that it will close.
    ending: bool,
    /// How it ended, when a step waited for that.
    fate: Option<&'static str>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Option<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(address))
            .await
            .ok()?
            .ok()?;
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        Some(Self {
            reader: Reader::new(read),
            write,
            ending: false,
            fate: None,
        })
    }

    /// Reads one response and the interim ones before it.
    async fn response(&mut self, to_head: bool, messages: &mut Vec<Message>) {
        loop {
            let mut message = match self.reader.head().await {
                Ok(message) => message,
                Err(stop) => {
                    let line = "no response".to_owned();
                    self.ending = true;
                    messages.push(Message {
                        line,
                        end: stop.into(),
                        ..Message::default()
                    });
                    return;
                }
            };
            let framing = response_framing(&message, to_head);
            self.reader.body(framing, &mut message).await;
            let close = message
                .field("connection")
                .is_some_and(|value| value.contains("close"));
            self.ending |= close || framing == Framing::UntilClose || message.end != End::Complete;
            let interim = (100..200).contains(&message.status) && message.status != 101;
            messages.push(message);
            if !interim {
                return;
            }
        }
    }
}

pub(super) async fn play(address: SocketAddr, steps: &[Step]) -> Transcript {
    let mut transcript = Transcript::default();
    let mut connections: BTreeMap<usize, Connection> = BTreeMap::new();
    let mut current = 0;
    for step in steps {
        if let Step::On(number) = step {
            current = *number;
            continue;
        }
        if let Step::Wait(time) = step {
            sleep(*time).await;
            continue;
        }
        if let std::collections::btree_map::Entry::Vacant(entry) = connections.entry(current) {
            let Some(connection) = Connection::open(address).await else {
                transcript.fates.push((current, "refused".into()));
                continue;
            };
            entry.insert(connection);
        }
        if matches!(step, Step::Close) {
            connections.remove(&current);
            continue;
        }
        if let Some(connection) = connections.get_mut(&current) {
            take(step, connection, &mut transcript).await;
        }
    }
    for (number, mut connection) in connections {
        let patience = if connection.ending { PATIENCE } else { GLANCE };
        let fate = match connection.fate {
            Some(fate) => fate,
            None => connection.reader.fate(patience).await,
        };
        transcript.fates.push((number, fate.into()));
    }
    transcript
}

async fn take(step: &Step, connection: &mut Connection, transcript: &mut Transcript) {
    match step {
        Step::Request(request) => {
            let _ = connection.write.write_all(&render(request)).await;
            connection
                .response(request.method == "HEAD", &mut transcript.messages)
                .await;
        }
        Step::Send(bytes) => {
            let _ = connection.write.write_all(bytes).await;
        }
        Step::Read { to_head } => {
            connection
                .response(*to_head, &mut transcript.messages)
                .await
        }
        Step::ReadBytes(length) => {
            let mut message = Message::default();
            connection
                .reader
                .body(Framing::Length(*length), &mut message)
                .await;
            transcript.bytes.append(&mut message.body);
            if let End::Broken(how) = message.end {
                transcript
                    .bytes
                    .extend_from_slice(format!("({how})").as_bytes());
            }
        }
        Step::ReadToEnd => {
            let mut message = Message::default();
            connection
                .reader
                .body(Framing::UntilClose, &mut message)
                .await;
            transcript.bytes.append(&mut message.body);
            connection.fate = Some(match message.end {
                End::Complete => "closed",
                End::Open => "open",
                End::Broken(_) => "reset",
            });
        }
        Step::HalfClose => {
            let _ = connection.write.shutdown().await;
        }
        Step::AwaitClose(patience) => {
            connection.fate = Some(connection.reader.fate(*patience).await)
        }
        Step::On(_) | Step::Wait(_) | Step::Close | Step::ReadFrames(_) | Step::ShowAllFrames => {}
    }
}

/// A request in HTTP/1.1.
fn render(request: &Request) -> Vec<u8> {
    let Request {
        method,
        path,
        authority,
        fields,
        body,
        trailers,
        chunked,
    } = request;
    let chunked = *chunked || !trailers.is_empty();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {authority}\r\n");
    for (name, value) in fields {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if chunked {
        head.push_str("transfer-encoding: chunked\r\n");
    } else if let Some(body) = body {
        let _ = write!(head, "content-length: {}\r\n", body.len());
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    let body = body.as_deref().unwrap_or_default();
    if !chunked {
        bytes.extend_from_slice(body);
        return bytes;
    }
    if !body.is_empty() {
        bytes.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}
