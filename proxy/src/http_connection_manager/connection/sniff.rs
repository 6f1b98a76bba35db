//! Which protocol a client speaks, for `codec_type: AUTO`: by what TLS agreed on, or by its first bytes.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::http::Protocol;
use crate::net::Io;
use crate::stream_info::ConnectionInfo;

/// Tells HTTP/2 by its preface from HTTP/1, for `codec_type: AUTO`.
pub(super) async fn sniff(
    mut io: Io,
    info: &ConnectionInfo,
    idle: Option<Duration>,
) -> Option<(Io, Protocol)> {
    /// As much of the preface as tells, as in Envoy; the codec judges the rest.
    const PREFACE: &[u8] = b"PRI * HTTP/2";
    // With TLS, what a listener filter saw is only what the client offers.
    if let Some(protocol) = info.application_protocols.first().filter(|_| !info.is_tls) {
        match &protocol[..] {
            b"h2" | b"h2c" => return Some((io, Protocol::Http2)),
            b"http/1.1" | b"http/1.0" => return Some((io, Protocol::Http11)),
            _ => {}
        }
    }
    let mut seen = BytesMut::with_capacity(1024);
    let read = async {
        loop {
            let read = io.read_buf(&mut seen).await;
            if let Some(protocol) = by_alpn(info).filter(|_| matches!(read, Ok(1..))) {
                return Some(protocol);
            }
            match read {
                // The beginning of a preface that never came is the beginning of an HTTP/1 head.
                Ok(0) | Err(_) => return (!seen.is_empty()).then_some(Protocol::Http11),
                Ok(_) if seen.len() >= PREFACE.len() || !PREFACE.starts_with(&seen) => {
                    return Some(if seen.starts_with(PREFACE) {
                        Protocol::Http2
                    } else {
                        Protocol::Http11
                    });
                }
                Ok(_) => {}
            }
        }
    };
    let protocol = match idle {
        Some(limit) => timeout(limit, read).await.ok()??,
        None => read.await?,
    };
    Some((io.with_prefix(seen.freeze()), protocol))
}

/// What TLS has agreed on, once it has.
fn by_alpn(info: &ConnectionInfo) -> Option<Protocol> {
    match info.tls.get()?.alpn.as_deref()? {
        b"h2" => Some(Protocol::Http2),
        b"http/1.1" | b"http/1.0" => Some(Protocol::Http11),
        _ => None,
    }
}
