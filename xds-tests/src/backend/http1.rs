//! The HTTP/1.1 backend.

use std::fmt::Write;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::sleep;

use super::{Act, Response, Script, Seat, reset, script_for};
use crate::http1::{Framing, Reader, request_framing};
use crate::message::Message;

pub(super) async fn serve(stream: TcpStream, scripts: Vec<Script>, seat: Seat) {
    let (read, mut write) = stream.into_split();
    let mut reader = Reader::new(read);
    while let Ok(mut message) = reader.head().await {
        let framing = request_framing(&message);
        let number = seat.add(message.clone());
        let Some(script) = script_for(&scripts, number) else {
            return;
        };
        if !script.early {
            reader.body(framing, &mut message).await;
            seat.update(number, &message);
        }
        let goes_on = play(&script.acts, &mut reader, &mut write, &mut message).await;
        seat.update(number, &message);
        match goes_on {
            Next::Request => {}
            Next::Reset => {
                if let Ok(stream) = reader.into_inner().reunite(write) {
                    reset(&stream);
                }
                return;
            }
            Next::Close => return,
        }
        if script.early {
            reader.body(framing, &mut message).await;
            seat.update(number, &message);
        }
    }
}

enum Next {
    Request,
    Reset,
    Close,
}

async fn play(
    acts: &[Act],
    reader: &mut Reader<OwnedReadHalf>,
    write: &mut OwnedWriteHalf,
    message: &mut Message,
) -> Next {
    for act in acts {
        let sent = match act {
            Act::Send(bytes) => write.write_all(bytes).await,
            Act::Respond(response) => {
                let to_head = message.line.starts_with("HEAD ");
                write.write_all(&render(response, to_head)).await
            }
            Act::Read(length) => {
                reader.body(Framing::Length(*length), message).await;
                Ok(())
            }
            Act::Wait(time) => {
                sleep(*time).await;
                Ok(())
            }
            Act::Reset => return Next::Reset,
            Act::Close => return Next::Close,
        };
        if sent.is_err() {
            return Next::Close;
        }
    }
    Next::Request
}

fn render(response: &Response, to_head: bool) -> Vec<u8> {
    let reason = http::StatusCode::from_u16(response.status)
        .ok()
        .and_then(|code| code.canonical_reason());
    let chunked = response.chunked || !response.trailers.is_empty();
    let bodiless = response.status < 200 || matches!(response.status, 204 | 304);
    let mut head = format!(
        "HTTP/1.1 {} {}\r\n",
        response.status,
        reason.unwrap_or("Unknown")
    );
    for (name, value) in &response.fields {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if chunked {
        head.push_str("transfer-encoding: chunked\r\n");
    } else if !bodiless {
        let _ = write!(head, "content-length: {}\r\n", response.body.len());
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    if to_head || bodiless {
        return bytes;
    }
    if !chunked {
        bytes.extend_from_slice(&response.body);
        return bytes;
    }
    if !response.body.is_empty() {
        bytes.extend_from_slice(format!("{:x}\r\n", response.body.len()).as_bytes());
        bytes.extend_from_slice(&response.body);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n");
    for (name, value) in &response.trailers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}
