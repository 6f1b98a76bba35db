//! The client for raw HTTP/2 frames: bytes out, lines about the frames that come back on the first connection. Others are only
//! there.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{Step, Transcript};
use crate::PATIENCE;
use crate::message::body_text;

/// How long a connection is watched for its end.
const GLANCE: Duration = Duration::from_millis(500);

const HEAD: usize = 9;

pub(super) async fn play(address: SocketAddr, steps: &[Step]) -> Transcript {
    let mut transcript = Transcript::default();
    let connected = timeout(PATIENCE, TcpStream::connect(address)).await;
    let Ok(Ok(mut stream)) = connected else {
        transcript.fates.push((0, "refused".into()));
        return transcript;
    };
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    let mut fate = None;
    let mut all = false;
    let mut others = Vec::new();
    for step in steps {
        match step {
            Step::Send(bytes) => {
                let _ = stream.write_all(bytes).await;
            }
            Step::ShowAllFrames => all = true,
            Step::On(_) => others.push(TcpStream::connect(address).await),
            Step::Wait(time) => sleep(*time).await,
            Step::HalfClose => {
                let _ = stream.shutdown().await;
            }
            Step::ReadFrames(quiet) => {
                fate = fate.or(read(&mut stream, &mut buffer, *quiet).await);
                describe_all(&mut buffer, all, &mut transcript.frames);
            }
            _ => transcript
                .fates
                .push((0, "this client knows only bytes".into())),
        }
    }
    let fate = match fate {
        Some(fate) => fate,
        None => read(&mut stream, &mut buffer, GLANCE)
            .await
            .unwrap_or("open"),
    };
    describe_all(&mut buffer, all, &mut transcript.frames);
    transcript.fates.push((0, fate.into()));
    transcript
}

/// Reads until nothing has come for so long; gives the end of the connection, if that came.
async fn read(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    quiet: Duration,
) -> Option<&'static str> {
    loop {
        match timeout(quiet, stream.read_buf(buffer)).await {
            Err(_) => return None,
            Ok(Ok(0)) => return Some("closed"),
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Some("reset"),
        }
    }
}

/// Takes whole frames out of the buffer. SETTINGS are left out unless `all` are wanted, and the increments of windows, which
/// depend on how the bytes were split.
fn describe_all(buffer: &mut Vec<u8>, all: bool, lines: &mut Vec<String>) {
    let mut at = 0;
    while let Some([a, b, c, kind, flags, stream @ ..]) = buffer
        .get(at..)
        .and_then(|rest| rest.first_chunk::<HEAD>())
        .copied()
    {
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let Some(payload) = buffer.get(at + HEAD..at + HEAD + length) else {
            break;
        };
        let stream = u32::from_be_bytes(stream);
        match (kind, lines.last_mut()) {
            // How a body is cut into frames is nobody's business.
            (0, Some(last)) if last.starts_with(&format!("DATA {stream} ")) => {
                last.push_str(&body_text(payload));
                if flags & 1 == 1 {
                    *last = last.replacen("DATA", "LAST DATA", 1);
                }
            }
            _ => {
                lines.extend(describe(kind, flags, stream, payload));
                if all {
                    lines.extend(describe_more(kind, flags, stream, payload));
                }
            }
        }
        at += HEAD + length;
    }
    buffer.drain(..at);
}

fn describe(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Option<String> {
    let number = |at: usize| {
        let bytes = payload
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_be_bytes)
    };
    let end = if flags & 1 == 1 { " END_STREAM" } else { "" };
    Some(match kind {
        0 if flags & 1 == 1 => format!("LAST DATA {stream} {}", body_text(payload)),
        0 => format!("DATA {stream} {}", body_text(payload)),
        1 => format!("HEADERS {stream}{end} {}", status(payload)),
        3 => format!("RST_STREAM {stream} {}", code(number(0))),
        4 => return None,
        6 if flags & 1 == 1 => format!("PING ACK {}", body_text(payload)),
        6 => "PING".into(),
        7 => format!("GOAWAY {} {}", number(0), code(number(4))),
        8 => return None,
        9 => format!("CONTINUATION {stream}"),
        _ => format!("frame {kind} {stream}"),
    })
}

/// What most cases would not agree about.
fn describe_more(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Option<String> {
    let has = |word: &[u8]| payload.windows(word.len()).any(|part| part == word);
    match kind {
        1 if has(b"legible") => Some(format!("HEADERS {stream} can be read")),
        4 if flags & 1 == 1 => None,
        4 => {
            let mut settings: Vec<_> = payload
                .chunks_exact(6)
                .filter_map(|setting| {
                    let (identifier, value) = setting.split_at(2);
                    let value = u32::from_be_bytes(value.try_into().ok()?);
                    Some((u16::from_be_bytes(identifier.try_into().ok()?), value))
                })
                .collect();
            settings.sort_unstable();
            let settings: Vec<_> = settings
                .iter()
                .map(|(identifier, value)| format!("{identifier}={value}"))
                .collect();
            Some(format!("SETTINGS {}", settings.join(" ")))
        }
        8 => Some(format!(
            "WINDOW_UPDATE {stream} +{}",
            u32::from_be_bytes(payload.try_into().ok()?)
        )),
        _ => None,
    }
}

/// The status that a header block begins with, as it can be told without tables.
fn status(block: &[u8]) -> String {
    let digits = match block {
        [0x88, ..] => return "200".into(),
        [0x89, ..] => return "204".into(),
        [0x8c, ..] => return "400".into(),
        [0x8d, ..] => return "404".into(),
        [0x8e, ..] => return "500".into(),
        [0x48 | 0x08, 3, digits @ ..] => digits.get(..3).map(<[u8]>::to_vec),
        [0x48 | 0x08, length @ 0x82..=0x83, coded @ ..] => {
            huffman_digits(coded.get(..usize::from(length & 0x7f)).unwrap_or_default())
        }
        _ => None,
    };
    match digits {
        Some(digits) => String::from_utf8_lossy(&digits).into_owned(),
        None => "trailers or an unknown status".into(),
    }
}

/// Three digits in HPACK's Huffman code, where they have five or six bits.
fn huffman_digits(coded: &[u8]) -> Option<Vec<u8>> {
    let bits: Vec<u8> = coded
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let value = |bits: &[u8]| bits.iter().fold(0u8, |value, bit| value << 1 | bit);
    let (mut digits, mut at) = (Vec::new(), 0);
    while digits.len() < 3 {
        let short = value(bits.get(at..at + 5)?);
        if short <= 2 {
            digits.push(b'0' + short);
            at += 5;
        } else {
            let long = value(bits.get(at..at + 6)?);
            digits.push(b'0' + long.checked_sub(22).filter(|digit| *digit <= 9)?);
            at += 6;
        }
    }
    Some(digits)
}

fn code(code: u32) -> &'static str {
    const CODES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    usize::try_from(code)
        .ok()
        .and_then(|code| CODES.get(code))
        .unwrap_or(&"an unknown code")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_in_every_form() {
        assert_eq!(status(&[0x88]), "200");
        assert_eq!(status(b"\x48\x03503"), "503");
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), "302");
        assert_eq!(status(&[0x48, 0x83, 0x64, 0x0e, 0xff]), "307");
    }
}
