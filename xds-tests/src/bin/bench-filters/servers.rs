//! An upstream and authorizers that cost next to nothing: each answer is bytes that are ready.

use std::cell::Cell;
use std::fmt::Write;
use std::net::SocketAddr;
use std::rc::Rc;

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::envoy::service::auth::v3 as auth;
use outrigger_xds_tests::Error;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long the JSON document is.
pub(crate) const JSON_BYTES: usize = 16 * 1024;

/// The servers of this process.
pub(crate) struct Servers {
    /// Answers with 1 KiB.
    pub(crate) plain: SocketAddr,
    /// Answers with JSON of 16 KiB.
    pub(crate) json: SocketAddr,
    /// Allows everything, asked by HTTP.
    pub(crate) http_authorizer: SocketAddr,
    /// Allows everything, asked by gRPC.
    pub(crate) grpc_authorizer: SocketAddr,
    /// How many requests the authorizers have answered.
    pub(crate) authorized: Rc<Cell<u64>>,
}

impl Servers {
    pub(crate) async fn start() -> Result<Self, Error> {
        let authorized = Rc::new(Cell::new(0));
        let allowed = response("x-user: ann\r\n", &[]);
        let json = response("content-type: application/json\r\n", &document());
        Ok(Self {
            plain: serve_http1(
                response("content-type: text/plain\r\n", &[b'x'; 1024]),
                Rc::default(),
            )
            .await?,
            json: serve_http1(json, Rc::default()).await?,
            http_authorizer: serve_http1(allowed, Rc::clone(&authorized)).await?,
            grpc_authorizer: serve_grpc(Rc::clone(&authorized)).await?,
            authorized,
        })
    }
}

fn response(fields: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\n{fields}content-length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// Records as an API lists them.
fn document() -> Vec<u8> {
    let mut text = String::from("[");
    let mut random = 0x9e37_79b9_u32;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random
    };
    let names = ["Ada", "Berta", "Carl", "Dora", "Emil", "Frieda"];
    while text.len() < JSON_BYTES {
        let (id, name) = (next(), names[(next() % 6) as usize]);
        let (amount, day, paid) = (next() % 100_000, next() % 28 + 1, next().is_multiple_of(2));
        write!(
            text,
            "{{\"id\":\"{id:08x}\",\"customer\":\"{name}\",\"amount\":{amount},\"date\":\"2026-07-{day:02}\",\"paid\":{paid}}},"
        )
        .unwrap();
    }
    text.truncate(JSON_BYTES);
    text.into_bytes()
}

async fn serve_http1(answer: Vec<u8>, count: Rc<Cell<u64>>) -> Result<SocketAddr, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let answer: Rc<[u8]> = answer.into();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, count) = (Rc::clone(&answer), Rc::clone(&count));
            // A connection that breaks shows at the load.
            tokio::task::spawn_local(async move {
                drop(answer_http1(stream, &answer, &count).await);
            });
        }
    });
    Ok(address)
}

/// Requests have no bodies, and come one at a time.
async fn answer_http1(
    mut stream: TcpStream,
    answer: &[u8],
    count: &Cell<u64>,
) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 * 1024];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            count.set(count.get() + 1);
            stream.write_all(answer).await?;
        }
    }
}

async fn serve_grpc(count: Rc<Cell<u64>>) -> Result<SocketAddr, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = Rc::clone(&count);
            tokio::task::spawn_local(async move {
                drop(answer_grpc(stream, &count).await);
            });
        }
    });
    Ok(address)
}

/// Just enough HTTP/2 for unary calls: what is asked is not looked at.
async fn answer_grpc(mut stream: TcpStream, count: &Cell<u64>) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    // Streams of the client may be long, and all of them together.
    let mut out = frame(
        SETTINGS,
        0,
        0,
        &[&[0, 4][..], &0x00ff_ffff_u32.to_be_bytes()].concat(),
    );
    out.extend(frame(WINDOW_UPDATE, 0, 0, &0x3fff_ffff_u32.to_be_bytes()));
    stream.write_all(&out).await?;
    let answer = Allowed::new();
    let mut input = Vec::with_capacity(64 * 1024);
    let mut consumed = 0_u32;
    while stream.read_buf(&mut input).await? > 0 {
        out.clear();
        let mut rest = &input[..];
        while let [a, b, c, kind, flags, s0, s1, s2, s3, after @ ..] = rest {
            let length = u32::from_be_bytes([0, *a, *b, *c]);
            let Some((payload, next)) = after.split_at_checked(length as usize) else {
                break;
            };
            rest = next;
            match *kind {
                SETTINGS if flags & ACK == 0 => out.extend(frame(SETTINGS, ACK, 0, &[])),
                PING if flags & ACK == 0 => out.extend(frame(PING, ACK, 0, payload)),
                HEADERS | DATA => {
                    consumed += length;
                    if flags & END_STREAM != 0 {
                        count.set(count.get() + 1);
                        answer.append(u32::from_be_bytes([*s0, *s1, *s2, *s3]), &mut out);
                    }
                }
                _ => {}
            }
        }
        let left = rest.len();
        let all = input.len();
        input.drain(..all - left);
        if consumed > 0x00ff_ffff {
            out.extend(frame(WINDOW_UPDATE, 0, 0, &consumed.to_be_bytes()));
            consumed = 0;
        }
        stream.write_all(&out).await?;
    }
    Ok(())
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
/// Of settings and pings.
const ACK: u8 = 1;
/// Of headers and data.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head, &stream.to_be_bytes()[..], payload].concat()
}

/// The three frames of an answer, but for the number of the stream.
struct Allowed(Vec<Vec<u8>>);

impl Allowed {
    fn new() -> Self {
        let user = core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key: "x-user".into(),
                value: "ann".into(),
                ..core::HeaderValue::default()
            }),
            ..core::HeaderValueOption::default()
        };
        let response = auth::CheckResponse {
            status: Some(outrigger_proto::pb::google::rpc::Status::default()),
            http_response: Some(auth::check_response::HttpResponse::OkResponse(
                auth::OkHttpResponse {
                    headers: vec![user],
                    ..auth::OkHttpResponse::default()
                },
            )),
            ..auth::CheckResponse::default()
        };
        let mut message = vec![0];
        let bytes = response.encode_to_vec();
        message.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
        message.extend(bytes);
        // `:status: 200`, `content-type: application/grpc` and `grpc-status: 0` without tables that change.
        let head = [&b"\x88\x0f\x10\x10"[..], b"application/grpc"].concat();
        let trailers = [&b"\x00\x0b"[..], b"grpc-status", b"\x010"].concat();
        Self(vec![
            frame(HEADERS, END_HEADERS, 0, &head),
            frame(DATA, 0, 0, &message),
            frame(HEADERS, END_HEADERS | END_STREAM, 0, &trailers),
        ])
    }

    fn append(&self, stream: u32, out: &mut Vec<u8>) {
        for frame in &self.0 {
            out.extend_from_slice(&frame[..5]);
            out.extend_from_slice(&stream.to_be_bytes());
            out.extend_from_slice(&frame[9..]);
        }
    }
}
