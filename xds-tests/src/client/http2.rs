//! The HTTP/2 client, on the crate `h2`.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::{Request, Step, Transcript};
use crate::PATIENCE;
use crate::message::{End, Field, Message, text};

struct Connection {
    send: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
    fate: Option<String>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Option<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(address))
            .await
            .ok()?
            .ok()?;
        let _ = stream.set_nodelay(true);
        let (send, connection) = h2::client::handshake(stream).await.ok()?;
        Some(Self {
            send,
            driver: spawn_local(connection),
            fate: None,
        })
    }

    async fn fate(&mut self, patience: std::time::Duration) -> String {
        match timeout(patience, &mut self.driver).await {
            Err(_) => "open".into(),
            Ok(Ok(Ok(()))) => "closed".into(),
            Ok(Ok(Err(error))) => match error.reason() {
                Some(reason) => format!("closed, {reason:?}"),
                None => "closed without a word".into(),
            },
            Ok(Err(_)) => "the client failed".into(),
        }
    }
}

pub(super) async fn play(address: SocketAddr, steps: &[Step]) -> Transcript {
    let mut transcript = Transcript::default();
    let mut connections: BTreeMap<usize, Connection> = BTreeMap::new();
    let mut current = 0;
    for step in steps {
        match step {
            Step::On(number) => current = *number,
            Step::Wait(time) => sleep(*time).await,
            Step::Close => {
                connections.remove(&current);
            }
            Step::Request(request) => {
                if let std::collections::btree_map::Entry::Vacant(entry) =
                    connections.entry(current)
                {
                    let Some(connection) = Connection::open(address).await else {
                        transcript.fates.push((current, "refused".into()));
                        continue;
                    };
                    entry.insert(connection);
                }
                if let Some(connection) = connections.get_mut(&current) {
                    exchange(&mut connection.send, request, &mut transcript.messages).await;
                }
            }
            Step::AwaitClose(patience) => {
                if let Some(connection) = connections.get_mut(&current) {
                    connection.fate = Some(connection.fate(*patience).await);
                }
            }
            Step::Send(_)
            | Step::Read { .. }
            | Step::ReadBytes(_)
            | Step::ReadToEnd
            | Step::ReadFrames(_)
            | Step::ShowAllFrames
            | Step::HalfClose => {
                transcript
                    .fates
                    .push((current, format!("{step:?} is not for HTTP/2")));
            }
        }
    }
    for (number, mut connection) in connections {
        let fate = match connection.fate.take() {
            Some(fate) => fate,
            None => connection.fate(std::time::Duration::from_millis(120)).await,
        };
        transcript.fates.push((number, fate));
    }
    transcript
}

async fn exchange(send: &mut SendRequest<Bytes>, request: &Request, messages: &mut Vec<Message>) {
    let before = messages.len();
    let outcome = timeout(PATIENCE, try_exchange(send, request, messages)).await;
    let end = match outcome {
        Ok(Ok(())) => return,
        Ok(Err(error)) => end_of(&error),
        Err(_) => End::Open,
    };
    let final_response = messages[before..]
        .iter()
        .any(|message| message.status >= 200);
    if !final_response {
        messages.push(Message {
            line: "no response".into(),
            end,
            ..Message::default()
        });
    }
}

async fn try_exchange(
    send: &mut SendRequest<Bytes>,
    request: &Request,
    messages: &mut Vec<Message>,
) -> Result<(), h2::Error> {
    poll_fn(|context| send.poll_ready(context)).await?;
    let protocol = request.fields.iter().find(|(name, _)| name == ":protocol");
    let uri = match (&*request.method, protocol) {
        ("CONNECT", None) => request.authority.clone(),
        _ => format!("http://{}{}", request.authority, request.path),
    };
    let method = http::Method::from_bytes(request.method.as_bytes()).unwrap_or_default();
    let mut head = http::Request::new(());
    *head.method_mut() = method;
    *head.uri_mut() = uri.parse().unwrap_or_default();
    *head.headers_mut() = field_map(&request.fields);
    if let Some((_, protocol)) = protocol {
        let protocol = h2::ext::Protocol::from(protocol.as_str());
        head.extensions_mut().insert(protocol);
        // The server says in its settings that it takes such a request.
        for _ in 0..50 {
            if send.is_extended_connect_protocol_enabled() {
                break;
            }
            sleep(std::time::Duration::from_millis(10)).await;
        }
    }
    let trailers = !request.trailers.is_empty();
    let (mut response, mut body) = send.send_request(head, request.body.is_none() && !trailers)?;
    if let Some(bytes) = &request.body {
        body.send_data(Bytes::from(bytes.clone()), !trailers)?;
    }
    if trailers {
        body.send_trailers(field_map(&request.trailers))?;
    }
    while let Some(interim) = poll_fn(|context| response.poll_informational(context)).await {
        let interim = interim?;
        messages.push(Message {
            end: End::Complete,
            ..head_of(interim.status(), interim.headers())
        });
    }
    let response = response.await?;
    let mut message = head_of(response.status(), response.headers());
    read_body(response.into_body(), &mut message).await;
    messages.push(message);
    Ok(())
}

fn head_of(status: http::StatusCode, headers: &HeaderMap) -> Message {
    Message {
        line: "HTTP/2".into(),
        status: status.as_u16(),
        fields: fields_of(headers),
        ..Message::default()
    }
}

/// Reads data and trailers into `message`, and sets how it ended.
pub(crate) async fn read_body(mut body: RecvStream, message: &mut Message) {
    let reading = async {
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            message.body.extend_from_slice(&data);
        }
        if let Some(trailers) = body.trailers().await? {
            message.trailers = fields_of(&trailers);
        }
        Ok::<_, h2::Error>(())
    };
    message.end = match timeout(PATIENCE, reading).await {
        Ok(Ok(())) => End::Complete,
        Ok(Err(error)) => end_of(&error),
        Err(_) => End::Open,
    };
}

fn end_of(error: &h2::Error) -> End {
    let what = match (error.is_reset(), error.is_go_away(), error.reason()) {
        (true, _, Some(reason)) => format!("stream reset, {reason:?}"),
        (_, true, Some(reason)) => format!("connection closed, {reason:?}"),
        _ => "closed".to_owned(),
    };
    End::Broken(what)
}

/// The fields of a header map, as text.
pub(crate) fn fields_of(headers: &HeaderMap) -> Vec<Field> {
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value.as_bytes())))
        .collect()
}

/// A header map of fields; those that HTTP/2 cannot carry are left out.
pub(crate) fn field_map(fields: &[Field]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            map.append(name, value);
        }
    }
    map
}
